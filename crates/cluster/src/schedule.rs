//! Snapshot policies: which volume, how often, kept how long; and the arithmetic of when. All times are UTC, and come in
//! from outside.

use crate::{Error, snapshot, volume};
use dolmen_types::{UnixMillis, Uuid};
use serde::{Deserialize, Serialize};

/// Snapshot policies at most. Count.
pub const MAX_SNAPSHOT_POLICIES: usize = 4096;

/// Longest cycle, in hours or days. Count.
pub const MAX_CYCLE: u32 = 10_000;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// A day of the week, Sunday first, as the management API counts from 1.
pub const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// How often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Schedule {
    /// Every so many hours from a start.
    Hourly {
        /// First time. Milliseconds since the Unix epoch.
        start_ms: u64,
        /// Hours between two.
        hours: u32,
    },
    /// Every so many days from a start.
    Daily {
        /// First time. Milliseconds since the Unix epoch.
        start_ms: u64,
        /// Days between two.
        days: u32,
    },
    /// On days of the week.
    Weekly {
        /// For each: the time from which on it holds, whose time of day is that of the runs (milliseconds since the Unix
        /// epoch), and the index of the day in [`DAYS`].
        days: Vec<(u64, u8)>,
    },
}

impl Schedule {
    /// Checks numbers; texts name the fields of the management API.
    pub fn check(&self) -> Result<(), Error> {
        let cycle = |field: &str, n: u32| {
            let why = format!("must be 1 to {MAX_CYCLE}");
            if (1..=MAX_CYCLE).contains(&n) { Ok(()) } else { Err(Error::invalid(field, why)) }
        };
        match self {
            Schedule::Hourly { hours, .. } => cycle("hoursInCycle", *hours),
            Schedule::Daily { days, .. } => cycle("daysInCycle", *days),
            Schedule::Weekly { days } if days.is_empty() || days.len() > 64 => {
                Err(Error::invalid("daysOfWeek", "must be 1 to 64 entries"))
            }
            Schedule::Weekly { days } if days.iter().any(|(_, day)| usize::from(*day) >= DAYS.len()) => {
                Err(Error::invalid("day", "is no day of the week"))
            }
            Schedule::Weekly { .. } => Ok(()),
        }
    }

    /// The last time at or before `now` at which it wants a snapshot; `None` before the first.
    #[must_use]
    pub fn last_due(&self, now: UnixMillis) -> Option<UnixMillis> {
        let last = |start: u64, period: u64| {
            (start <= now.0).then(|| UnixMillis(now.0 - (now.0 - start) % period.max(1)))
        };
        match self {
            Schedule::Hourly { start_ms, hours } => last(*start_ms, u64::from(*hours) * HOUR_MS),
            Schedule::Daily { start_ms, days } => last(*start_ms, u64::from(*days) * DAY_MS),
            Schedule::Weekly { days } => {
                days.iter().filter_map(|(start, day)| last(first_on(*start, *day), 7 * DAY_MS)).max()
            }
        }
    }
}

/// The first time at or after `start`, at its time of day, that falls on this day of the week.
fn first_on(start_ms: u64, day: u8) -> u64 {
    // The epoch was a Thursday, index 4.
    let weekday = (start_ms / DAY_MS + 4) % 7;
    let wait = (u64::from(day) + 7 - weekday) % 7;
    start_ms.saturating_add(wait * DAY_MS)
}

/// One snapshot policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotPolicy {
    /// Identity.
    pub uuid: Uuid,
    /// Unique in its project among snapshot policies.
    pub name: String,
    /// The tenant, that of the volume.
    pub project: String,
    /// The volume.
    pub volume: Uuid,
    /// For people.
    pub description: String,
    /// How often.
    pub schedule: Schedule,
    /// How long its snapshots are kept; for ever if not given. Milliseconds.
    pub retention_ms: Option<u64>,
    /// When it last took a snapshot, or what [`before`] made of when it was asked for.
    pub last: UnixMillis,
}

/// What a schedule that is asked for at a time has behind it: all times before. One that begins at that very instant, as it does when
/// no start is named, is due at once.
#[must_use]
pub(crate) fn before(asked: UnixMillis) -> UnixMillis {
    UnixMillis(asked.0.saturating_sub(1))
}

impl SnapshotPolicy {
    /// Whether a snapshot is wanted: a time has come since the last one. However many have come, it is one. After the clock
    /// was set back, not before [`SnapshotPolicy::follow_clock`].
    #[must_use]
    pub fn is_due(&self, now: UnixMillis) -> bool {
        self.schedule.last_due(now).is_some_and(|due| due > self.last)
    }

    /// Counts from now on if the last snapshot is of a time to come: the clock was set back, and times must not have to wait
    /// until it has caught up. True if that was so; the policy is to be kept as it is now.
    pub fn follow_clock(&mut self, now: UnixMillis) -> bool {
        let ahead = self.last > now;
        self.last = self.last.min(now);
        ahead
    }

    /// The name of its snapshot of this time.
    #[must_use]
    pub fn snapshot_name(&self, now: UnixMillis) -> String {
        let kept: String = self.name.chars().take(200).collect();
        format!("{kept}-{}", compact_time(now))
    }

    /// Checks names, lengths and numbers.
    pub fn check(&self) -> Result<(), Error> {
        volume::check_name("name", &self.name)?;
        snapshot::check_description(&self.description)?;
        if self.retention_ms.is_some_and(|ms| ms == 0 || ms > snapshot::MAX_RETENTION_MS) {
            return Err(Error::invalid("retentionTime", "must be more than nothing and at most 1000 years"));
        }
        self.schedule.check()
    }
}

/// A time as it may stand in a name: 20260131T235900Z.
fn compact_time(at: UnixMillis) -> String {
    let seconds = at.0 / 1000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (h, m, s) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}{month:02}{day:02}T{h:02}{m:02}{s:02}Z")
}

/// Year, month and day of the proleptic Gregorian calendar, of days since 1970-01-01. Counted in eras of 400 years that begin
/// on a first of March, so that leap days come last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

/// A policy as it stands in the state file.
#[derive(Serialize, Deserialize)]
struct Stored {
    uuid: String,
    name: String,
    project: String,
    volume: String,
    description: String,
    schedule: Schedule,
    retention_ms: Option<u64>,
    last_ms: u64,
}

/// The bytes of a policy in the state file.
#[must_use]
pub(crate) fn encode(policy: &SnapshotPolicy) -> Vec<u8> {
    let stored = Stored {
        uuid: policy.uuid.to_string(),
        name: policy.name.clone(),
        project: policy.project.clone(),
        volume: policy.volume.to_string(),
        description: policy.description.clone(),
        schedule: policy.schedule.clone(),
        retention_ms: policy.retention_ms,
        last_ms: policy.last.0,
    };
    serde_json::to_vec(&stored).expect("texts and numbers can be written")
}

/// The policy of such bytes.
pub(crate) fn decode(bytes: &[u8]) -> Option<SnapshotPolicy> {
    let stored: Stored = serde_json::from_slice(bytes).ok()?;
    let policy = SnapshotPolicy {
        uuid: stored.uuid.parse().ok()?,
        name: stored.name,
        project: stored.project,
        volume: stored.volume.parse().ok()?,
        description: stored.description,
        schedule: stored.schedule,
        retention_ms: stored.retention_ms,
        last: UnixMillis(stored.last_ms),
    };
    policy.check().ok().map(|()| policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-31T12:00:00Z, a Saturday.
    const NOON: u64 = 1_769_860_800_000;

    fn policy(schedule: Schedule) -> SnapshotPolicy {
        SnapshotPolicy {
            uuid: Uuid([1; 16]),
            name: "p".into(),
            project: "default".into(),
            volume: Uuid([2; 16]),
            description: String::new(),
            schedule,
            retention_ms: Some(1),
            last: UnixMillis(NOON),
        }
    }

    #[test]
    fn dates() {
        assert_eq!(compact_time(UnixMillis(0)), "19700101T000000Z");
        assert_eq!(compact_time(UnixMillis(NOON)), "20260131T120000Z");
        assert_eq!(compact_time(UnixMillis(951_782_399_000)), "20000228T235959Z");
        assert_eq!(compact_time(UnixMillis(951_868_800_000)), "20000301T000000Z");
        assert_eq!(civil(951_782_400 / 86_400), (2000, 2, 29));
        assert_eq!(civil(4_107_542_400 / 86_400), (2100, 3, 1));
    }

    #[test]
    fn each_time_is_due_once_and_missed_ones_are_made_up_once() {
        let mut p = policy(Schedule::Hourly { start_ms: NOON - 10 * HOUR_MS, hours: 2 });
        let mut runs = Vec::new();
        for minute in 0..600 {
            // Down from the second hour to the ninth.
            if (120..540).contains(&minute) {
                continue;
            }
            let now = UnixMillis(NOON + minute * 60_000);
            if p.is_due(now) {
                p.last = now;
                runs.push(minute);
            }
        }
        assert_eq!(runs, [540], "2, 4, 6 and 8 o'clock once; the tenth is not over");
        assert!(p.is_due(UnixMillis(NOON + 10 * HOUR_MS)));
        // A clock set back by a day: nothing at once, and the next time as usual.
        let back = UnixMillis(NOON - DAY_MS + 1);
        let mut p = policy(Schedule::Daily { start_ms: 0, days: 1 });
        assert!(p.follow_clock(back) && !p.is_due(back));
        assert!(!p.follow_clock(UnixMillis(NOON - DAY_MS / 2)));
        assert!(p.is_due(UnixMillis(NOON - DAY_MS / 2)));
    }

    #[test]
    fn weeks_go_by_days_and_times_of_day() {
        // From Saturday noon on: Mondays at noon, Saturdays at one.
        let p = policy(Schedule::Weekly { days: vec![(NOON, 1), (NOON + HOUR_MS, 6)] });
        let at = |days: u64, hours: u64| UnixMillis(NOON + days * DAY_MS + hours * HOUR_MS);
        assert_eq!(p.schedule.last_due(at(0, 0)), None);
        assert_eq!(p.schedule.last_due(at(0, 1)), Some(at(0, 1)));
        assert_eq!(p.schedule.last_due(at(1, 23)), Some(at(0, 1)));
        assert_eq!(p.schedule.last_due(at(2, 0)), Some(at(2, 0)));
        assert_eq!(p.schedule.last_due(at(7, 0)), Some(at(2, 0)));
        assert_eq!(p.schedule.last_due(at(700, 5)), Some(at(700, 1)));
    }

    #[test]
    fn policies_come_back_from_their_bytes_and_bad_ones_do_not() {
        for schedule in [
            Schedule::Hourly { start_ms: 1, hours: 2 },
            Schedule::Daily { start_ms: 1, days: 2 },
            Schedule::Weekly { days: vec![(3, 6)] },
        ] {
            let p = policy(schedule);
            assert_eq!(decode(&encode(&p)), Some(p));
        }
        for (field, bad) in [
            ("hoursInCycle", Schedule::Hourly { start_ms: 1, hours: 0 }),
            ("daysInCycle", Schedule::Daily { start_ms: 1, days: MAX_CYCLE + 1 }),
            ("daysOfWeek", Schedule::Weekly { days: vec![] }),
            ("day", Schedule::Weekly { days: vec![(3, 7)] }),
        ] {
            let p = policy(bad);
            assert!(p.check().unwrap_err().text.starts_with(&format!("{field}: ")));
            assert_eq!(decode(&encode(&p)), None);
        }
    }
}
