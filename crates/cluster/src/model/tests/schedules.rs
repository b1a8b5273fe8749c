//! Snapshot policies in virtual time, and snapshots whose time is over.

use super::*;
use crate::schedule::{Schedule, SnapshotPolicy};

const HOUR: u64 = 3_600_000;

#[test]
fn schedules_take_snapshots_in_virtual_time_and_go_with_their_volume() {
    let start = 1000 * HOUR;
    let mut model = Model::recover(Marks::default(), Marks::default(), Vec::new());
    let d = made(&mut model, "v", 1);
    let plan = hourly("hourly", start);
    let policy = model.new_schedule(plan.clone(), Uuid([9; 16])).unwrap();
    model.put_schedule(policy.clone());
    let taken = model.new_schedule(plan, Uuid([8; 16])).unwrap_err();
    assert_eq!(taken.kind, Kind::AlreadyExists);
    let (mut held, mut saved, mut told) = (BTreeMap::new(), policy, 0);
    let mut next = 0u128;
    // Quarters of an hour: seven hours, five hours down in the middle, then the plane refuses for a while.
    for quarter in 1..64u64 {
        let now = UnixMillis(start + quarter * HOUR / 4);
        if (20..40).contains(&quarter) {
            continue;
        }
        if quarter == 40 {
            model = Model::recover(Marks::default(), Marks::default(), vec![d.clone()]);
            model.restore_snapshots(held.values().cloned().collect());
            // The state file is older than the log.
            model.restore_schedules(vec![SnapshotPolicy { last: UnixMillis(start), ..saved.clone() }], now);
        }
        next += 1;
        let fresh = vec![Uuid::from_random(next.to_be_bytes())];
        let mut commands = model.step(Input::Tick { now, dated: now, sure: true, fresh });
        while let Some(command) = commands.pop() {
            let more = match command {
                Command::CreateSnapshots(wanted) => {
                    let refuses = (48..51).contains(&quarter);
                    let uuids: Vec<Uuid> = wanted.iter().map(|d| d.uuid).collect();
                    let result = if refuses {
                        Err(PlaneError::Unavailable("not now".into()))
                    } else {
                        held.extend(wanted.iter().map(|d| (d.uuid, d.clone())));
                        Ok(wanted)
                    };
                    model.step(Input::SnapshotsAnswered { uuids, result: Some(result) })
                }
                Command::DeleteSnapshot { uuid, .. } => {
                    let gone = held.remove(&uuid).unwrap();
                    assert!(gone.expires.unwrap() <= now);
                    let gone = SnapshotDescriptor { state: SnapshotState::Deleting, revision: 2, ..gone };
                    model.step(Input::SnapshotsAnswered { uuids: vec![uuid], result: Some(Ok(vec![gone])) })
                }
                Command::SaveSchedule(policy) => {
                    saved = *policy;
                    Vec::new()
                }
                Command::Record(what) => {
                    told += usize::from(what.name == "SnapshotPolicyFailed");
                    Vec::new()
                }
                other => panic!("{other:?}"),
            };
            commands.extend(more);
        }
        if quarter == 19 {
            let hours: Vec<u64> = held.values().map(|d| (d.created.0 - start) / HOUR).collect();
            assert_eq!(hours, [2, 3, 4], "each hour, kept for three");
        }
        if quarter == 40 {
            assert_eq!(held.values().filter(|d| d.created == now).count(), 1, "missed ones are made up once");
        }
    }
    assert_eq!(told, 1, "a failure is told once");
    let quarters: Vec<u64> = held.values().map(|d| (d.created.0 - start) * 4 / HOUR).collect();
    assert_eq!(quarters, [52, 56, 60], "the one refused at 48 was taken at 51, and its time is over");
    assert!(held.values().all(|d| d.policy == Some(Uuid([9; 16])) && d.name.starts_with("hourly-1970")));
    // Deleted volumes take their policies along.
    let commands = model.step(Input::Delete {
        request: RequestId(77),
        project: None,
        key: VolumeKey::Uuid(d.uuid),
        expected: None,
    });
    assert!(matches!(commands.as_slice(), [Command::Delete { .. }]));
    model.step(Input::Answered { uuid: d.uuid, result: Some(Ok(())) });
    let (now, fresh) = (UnixMillis(start + 100 * HOUR), vec![Uuid([3; 16])]);
    let commands = model.step(Input::Tick { now, dated: now, sure: true, fresh });
    assert!(commands.contains(&Command::RemoveSchedule(Uuid([9; 16]))));
    assert!(model.schedules().is_empty());
}

/// An hourly policy of volume `v`, from `start` on.
pub(super) fn hourly(name: &str, start: u64) -> SchedulePlan {
    SchedulePlan {
        name: name.into(),
        project: "default".into(),
        volume: VolumeKey::Name("v".into()),
        description: String::new(),
        schedule: Schedule::Hourly { start_ms: start, hours: 1 },
        retention_ms: Some(3 * HOUR),
        asked: UnixMillis(start),
    }
}

/// One tick, and what the plane made of it: the snapshots taken, and the policies saved.
fn tick(model: &mut Model, now: u64) -> (Vec<SnapshotDescriptor>, Vec<SnapshotPolicy>) {
    tick_dated(model, now, now)
}

/// The same by a clock that may be behind.
fn tick_dated(model: &mut Model, now: u64, dated: u64) -> (Vec<SnapshotDescriptor>, Vec<SnapshotPolicy>) {
    let fresh = vec![Uuid::from_random(u128::from(now).to_be_bytes())];
    let (now, dated) = (UnixMillis(now), UnixMillis(dated));
    let mut commands = model.step(Input::Tick { now, dated, sure: now == dated, fresh });
    let (mut taken, mut saved) = (Vec::new(), Vec::new());
    while let Some(command) = commands.pop() {
        match command {
            Command::CreateSnapshots(wanted) => {
                taken.extend(wanted.iter().cloned());
                let uuids = wanted.iter().map(|d| d.uuid).collect();
                commands.extend(model.step(Input::SnapshotsAnswered { uuids, result: Some(Ok(wanted)) }));
            }
            Command::SaveSchedule(policy) => saved.push(*policy),
            Command::Record(_) => {}
            other => panic!("{other:?}"),
        }
    }
    (taken, saved)
}

#[test]
fn a_clock_that_is_set_back_costs_no_snapshots() {
    let start = 1000 * HOUR;
    let mut model = Model::recover(Marks::default(), Marks::default(), Vec::new());
    let d = made(&mut model, "v", 1);
    let policy = SchedulePlan { retention_ms: None, ..hourly("hourly", start) };
    model.put_schedule(model.new_schedule(policy, Uuid([9; 16])).unwrap());
    let (mut held, mut saved) = tick(&mut model, start + 240 * HOUR);
    assert_eq!(held.len(), 1, "the clock is ten days ahead");
    // It is put right; from the third hour on the process starts anew all the time.
    for quarter in 4..24 {
        let now = start + quarter * HOUR / 4;
        if (12..24).contains(&quarter) {
            model = Model::recover(Marks::default(), Marks::default(), vec![d.clone()]);
            model.restore_snapshots(held.clone());
            model.restore_schedules(saved.clone(), UnixMillis(now));
        }
        let (taken, more) = tick(&mut model, now);
        held.extend(taken);
        saved = if more.is_empty() { saved } else { more };
    }
    let hours: Vec<u64> = held.iter().skip(1).map(|d| (d.created.0 - start) * 4 / HOUR).collect();
    assert_eq!(hours, [8, 12, 16, 20], "the hour in which it was put right was over already");
}

#[test]
fn a_clock_that_nobody_believes_deletes_nothing() {
    let start = 1000 * HOUR;
    let mut model = Model::recover(Marks::default(), Marks::default(), Vec::new());
    made(&mut model, "v", 1);
    model.put_schedule(model.new_schedule(hourly("hourly", start), Uuid([9; 16])).unwrap());
    let (taken, _) = tick(&mut model, start + HOUR);
    assert_eq!(taken.len(), 1);
    let mut late = |sure| {
        let now = UnixMillis(start + 9000 * HOUR);
        let commands = model.step(Input::Tick { now, dated: now, sure, fresh: Vec::new() });
        commands.iter().filter(|c| matches!(c, Command::DeleteSnapshot { .. })).count()
    };
    assert_eq!((late(false), late(true)), (0, 1));
}

/// "First time [default: now]": somebody who sets up a daily one before a risky change has a snapshot of the time before it.
#[test]
fn a_schedule_that_begins_now_takes_its_first_snapshot_at_once() {
    let (asked, day) = (1000 * HOUR, 24 * HOUR);
    let daily = |start_ms| Schedule::Daily { start_ms, days: 1 };
    let now_on = [
        daily(asked),
        Schedule::Hourly { start_ms: asked, hours: 1 },
        Schedule::Weekly { days: (0..7).map(|weekday| (asked, weekday)).collect() },
    ];
    // A time of day that was named is kept to, whether that first time is over or to come.
    let later = [daily(asked - day / 4), daily(asked + day / 4), daily(asked - 9 * day - 1)];
    for (schedule, at_once) in now_on.map(|s| (s, 1)).into_iter().chain(later.map(|s| (s, 0))) {
        let mut model = Model::recover(Marks::default(), Marks::default(), Vec::new());
        made(&mut model, "v", 1);
        let plan = SchedulePlan { schedule: schedule.clone(), ..hourly("p", asked) };
        model.put_schedule(model.new_schedule(plan, Uuid([9; 16])).unwrap());
        let taken: Vec<usize> = [1, 2].map(|ms| tick(&mut model, asked + ms).0.len()).into();
        assert_eq!(taken, [at_once, 0], "{schedule:?}");
    }
}

#[test]
fn a_clock_that_is_behind_takes_each_snapshot_once_and_shortens_the_time_of_none() {
    let start = 1000 * HOUR;
    let mut model = Model::recover(Marks::default(), Marks::default(), Vec::new());
    made(&mut model, "v", 1);
    model.put_schedule(model.new_schedule(hourly("hourly", start), Uuid([9; 16])).unwrap());
    let believed = start + 9 * HOUR;
    let mut quarters = |range: std::ops::Range<u64>, dated: fn(u64, u64) -> u64| {
        let at = |quarter| start + quarter * HOUR / 4 + 1;
        let taken = |quarter| tick_dated(&mut model, at(quarter), dated(at(quarter), believed)).0;
        range.flat_map(taken).collect::<Vec<_>>()
    };
    // Two hours and a half, in which what was believed last stays what it was.
    let taken = quarters(0..10, |_, believed| believed);
    let names: BTreeSet<&str> = taken.iter().map(|d| d.name.as_str()).collect();
    assert_eq!((taken.len(), names.len()), (3, 3));
    let kept = (UnixMillis(believed), Some(UnixMillis(believed + 3 * HOUR)));
    assert!(taken.iter().all(|d| (d.created, d.expires) == kept), "{taken:?}");
    // It is put right.
    let taken = quarters(36..46, |now, _| now);
    assert_eq!(taken.len(), 3);
}
