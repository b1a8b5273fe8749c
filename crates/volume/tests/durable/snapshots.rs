//! Snapshots, clones and rollback over the real store, through crashes and orderly stops, against a model.

use crate::{HOST, machine::Machine, machine::descriptor};
use dolmen_sim::{Rng, World};
use dolmen_types::{
    Lba, LineId, PgId, Seq, UnixMillis, Uuid,
    snapshot::{CloneSource, SnapshotDescriptor, SnapshotState},
    volume::{SectorSize, VolumeDescriptor},
};
use dolmen_volume::{
    Command, ControlCommand, ControlDone, ControlError, DiffQuery, Done, Restart, SnapshotInfo,
};
use std::collections::BTreeMap;

const BLOCKS: u64 = 12;

fn uuid(n: u8) -> Uuid {
    Uuid([n; 16])
}

/// All of one group, so that clones are possible everywhere.
fn volume(n: u8) -> VolumeDescriptor {
    VolumeDescriptor { pg: PgId(0), ..descriptor(n, SectorSize::B4096, BLOCKS) }
}

fn clone_of(n: u8, of: u8) -> VolumeDescriptor {
    VolumeDescriptor { source: Some(CloneSource { snapshot: uuid(of), name: "s".into() }), ..volume(n) }
}

pub(crate) fn snapshot(n: u8, of: u8) -> SnapshotDescriptor {
    SnapshotDescriptor {
        uuid: uuid(n),
        name: format!("s{n}"),
        project: "default".into(),
        description: String::new(),
        volume: uuid(of),
        volume_name: String::new(),
        pg: PgId(0),
        line: LineId(0),
        at: Seq(0),
        size_bytes: 0,
        sector: SectorSize::B4096,
        compression: false,
        encryption: false,
        mapped_blocks: 0,
        labels: vec![],
        created: UnixMillis(3),
        expires: None,
        policy: None,
        revision: 0,
        state: SnapshotState::Available,
    }
}

/// A block's contents: its first byte, repeated.
fn write(machine: &mut Machine, n: u8, lba: u64, byte: u8) {
    let volume = machine.volumes.find(uuid(n)).unwrap();
    let command = match byte {
        0 => Command::WriteZeroes { lba, blocks: 1, deallocate: true },
        _ => Command::Write { lba, blocks: 1, buf: machine.buf(&[byte; 4096]) },
    };
    assert_eq!(machine.run(HOST, volume, command).result, Ok(Done::Ok));
}

fn read(machine: &mut Machine, n: u8) -> Vec<u8> {
    let volume = machine.volumes.find(uuid(n)).unwrap();
    let blocks = u32::try_from(BLOCKS).unwrap();
    let buf = machine.alloc(blocks as usize * 4096);
    let reply = machine.run(HOST, volume, Command::Read { lba: 0, blocks, buf });
    assert_eq!(reply.result, Ok(Done::Ok));
    let buf = reply.buf.unwrap();
    let same = |block: &[u8]| block.iter().all(|byte| *byte == block[0]);
    assert!(buf.chunks(4096).all(same), "a block is whole");
    buf.chunks(4096).map(|block| block[0]).collect()
}

fn snapshots(machine: &mut Machine) -> Vec<SnapshotInfo> {
    match machine.control(ControlCommand::ListSnapshots) {
        Ok(ControlDone::Snapshots(all)) => all,
        other => panic!("{other:?}"),
    }
}

fn drop_snapshot(machine: &mut Machine, n: u8) {
    let command = ControlCommand::DeleteSnapshot { uuid: uuid(n), expected_revision: None };
    machine.control(command).unwrap();
}

/// Waits until the records of all but so many snapshots are gone.
fn until_left(machine: &mut Machine, count: usize) {
    for _ in 0..1000 {
        if snapshots(machine).len() == count {
            return;
        }
        machine.turn();
    }
    panic!("snapshots are left: {:?}", snapshots(machine));
}

fn delete(machine: &mut Machine, n: u8) {
    machine.control(ControlCommand::Delete { uuid: uuid(n), expected_revision: None }).unwrap();
    machine.until(|m| m.volumes.find(uuid(n)).is_none());
}

/// All changed blocks, asked for in small pages.
fn diff(machine: &mut Machine, snapshot: u8, base: Option<u8>) -> Vec<u64> {
    let (mut first, mut all) = (Lba(0), Vec::new());
    loop {
        let query = DiffQuery { snapshot: uuid(snapshot), base: base.map(uuid), first, limit: 2 };
        match machine.control(ControlCommand::Diff(query)) {
            Ok(ControlDone::Diff(page)) => {
                all.extend(page.ranges.iter().flat_map(|r| r.lba.0..r.lba.0 + r.blocks.0));
                match page.next {
                    Some(next) => first = next,
                    None => return all,
                }
            }
            Err(ControlError::Busy) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// What a random run believes.
#[derive(Default)]
struct Model {
    volumes: BTreeMap<u8, Vec<u8>>,
    snapshots: BTreeMap<u8, (u8, Vec<u8>)>,
}

impl Model {
    fn check(&self, machine: &mut Machine, what: &str) {
        for (v, bytes) in &self.volumes {
            assert_eq!(read(machine, *v), *bytes, "{what}, volume {v}");
        }
        let live = snapshots(machine).into_iter().filter(|s| s.descriptor.state == SnapshotState::Available);
        let live: Vec<u8> = live.map(|s| s.descriptor.uuid.0[0]).collect();
        assert_eq!(live, self.snapshots.keys().copied().collect::<Vec<_>>(), "{what}");
        // What differs is at least what a comparison of the contents finds.
        for (s, (_, bytes)) in &self.snapshots {
            let listed = diff(machine, *s, None);
            let written = (0..BLOCKS).filter(|at| bytes[usize::try_from(*at).unwrap()] != 0);
            assert!(written.into_iter().all(|at| listed.contains(&at)), "{what}, snapshot {s}: {listed:?}");
        }
        for ((a, (va, old)), (b, (vb, new))) in self.snapshots.iter().zip(self.snapshots.iter().skip(1)) {
            if va == vb {
                let listed = diff(machine, *b, Some(*a));
                let differs = |at: &u64| {
                    let at = usize::try_from(*at).unwrap();
                    old[at] != new[at]
                };
                let missing: Vec<u64> =
                    (0..BLOCKS).filter(differs).filter(|at| !listed.contains(at)).collect();
                assert!(missing.is_empty(), "{what}, {a} to {b}: {missing:?} not in {listed:?}");
            }
        }
    }

    fn pick<T>(rng: &mut Rng, map: &BTreeMap<u8, T>) -> Option<u8> {
        let keys: Vec<u8> = map.keys().copied().collect();
        (!keys.is_empty()).then(|| keys[usize::try_from(rng.below(keys.len() as u64)).unwrap()])
    }
}

fn live(seed: u64) {
    let world = World::new(seed);
    let mut rng = Rng::new(seed ^ 0x5ead);
    let mut machine = Machine::start(&world, Restart::Process);
    let mut model = Model::default();
    let (mut next, mut line) = (1u8, 1000u64);
    for step in 0..150 {
        let what = format!("seed {seed}, step {step}");
        let (v, s) = (Model::pick(&mut rng, &model.volumes), Model::pick(&mut rng, &model.snapshots));
        match (rng.below(14), v, s) {
            (0, _, _) if next < 250 => {
                machine.control(ControlCommand::Create(Box::new(volume(next)))).unwrap();
                model.volumes.insert(next, vec![0; usize::try_from(BLOCKS).unwrap()]);
                next += 1;
            }
            (1..=5, Some(v), _) => {
                let (lba, byte) = (rng.below(BLOCKS), u8::try_from(rng.below(200)).unwrap());
                write(&mut machine, v, lba, byte);
                model.volumes.get_mut(&v).unwrap()[usize::try_from(lba).unwrap()] = byte;
            }
            (6 | 7, Some(v), _) if next < 250 => {
                machine.control(ControlCommand::CreateSnapshots(vec![snapshot(next, v)])).unwrap();
                model.snapshots.insert(next, (v, model.volumes[&v].clone()));
                next += 1;
            }
            (8 | 9, _, Some(s)) if next < 250 => {
                match machine.control(ControlCommand::Create(Box::new(clone_of(next, s)))) {
                    Ok(_) => {
                        model.volumes.insert(next, model.snapshots[&s].1.clone());
                        next += 1;
                    }
                    Err(ControlError::Invalid { field: "source", .. }) => {}
                    Err(other) => panic!("{what}: {other}"),
                }
            }
            (10, _, Some(s)) => {
                let v = model.snapshots[&s].0;
                line += 1;
                if model.volumes.contains_key(&v) {
                    let (at, to, line) = (uuid(v), uuid(s), LineId(line));
                    let command =
                        ControlCommand::Rollback { uuid: at, snapshot: to, line, expected_revision: None };
                    match machine.control(command) {
                        Ok(_) => drop(model.volumes.insert(v, model.snapshots[&s].1.clone())),
                        Err(ControlError::Invalid { field: "source", .. }) => {}
                        Err(other) => panic!("{what}: {other}"),
                    }
                }
            }
            (11, _, Some(s)) => {
                drop_snapshot(&mut machine, s);
                model.snapshots.remove(&s);
            }
            (12, Some(v), _) if model.volumes.len() > 2 => {
                delete(&mut machine, v);
                model.volumes.remove(&v);
            }
            (13, _, _) => {
                if rng.one_in(2) {
                    machine.stop();
                } else {
                    world.crash();
                    drop(machine);
                }
                machine = Machine::start(&world, Restart::Process);
                model.check(&mut machine, &what);
            }
            _ => {}
        }
    }
    model.check(&mut machine, &format!("seed {seed}, the end"));
    // Everything goes, in any order, and nothing is left.
    while let Some(v) = Model::pick(&mut rng, &model.volumes) {
        delete(&mut machine, v);
        model.volumes.remove(&v);
        if let Some(s) = Model::pick(&mut rng, &model.snapshots) {
            drop_snapshot(&mut machine, s);
            model.snapshots.remove(&s);
        }
    }
    for s in model.snapshots.keys() {
        drop_snapshot(&mut machine, *s);
    }
    machine.until(|m| m.volumes.outstanding() == 0);
    until_left(&mut machine, 0);
}

#[test]
fn random_lives_end_as_a_simple_model_says() {
    (0..12).for_each(live);
}

/// What a volume takes is told whichever of its lines it lies on: (all, what it alone needs, what only snapshots need), in blocks.
#[test]
fn figures_are_of_the_volume_after_a_rollback_too() {
    let world = World::new(9);
    let mut machine = Machine::start(&world, Restart::Process);
    machine.control(ControlCommand::Create(Box::new(volume(1)))).unwrap();
    (0..8).for_each(|lba| write(&mut machine, 1, lba, 1));
    machine.control(ControlCommand::CreateSnapshots(vec![snapshot(50, 1)])).unwrap();
    // All blocks compress alike.
    let block = machine.list()[0].usage.stored_bytes / 8;
    assert!(block > 0);
    let figures = |machine: &mut Machine| -> Vec<(u64, u64, u64)> {
        let blocks = |bytes: u64| bytes / block;
        let all = machine.list().into_iter().map(|info| info.usage);
        all.map(|u| (blocks(u.stored_bytes), blocks(u.head_bytes), blocks(u.snapshot_bytes))).collect()
    };
    assert_eq!(figures(&mut machine), [(8, 0, 0)]);
    let roll_back = |machine: &mut Machine, snapshot: u8, line: u64| {
        let (uuid, snapshot, line) = (uuid(1), uuid(snapshot), LineId(line));
        machine.control(ControlCommand::Rollback { uuid, snapshot, line, expected_revision: None }).unwrap();
    };
    roll_back(&mut machine, 50, 1001);
    assert_eq!(figures(&mut machine), [(8, 0, 0)], "its snapshot shares all of it");
    write(&mut machine, 1, 0, 2);
    assert_eq!(figures(&mut machine), [(9, 1, 0)]);
    // A clone takes nothing, and what it shares is told once.
    machine.control(ControlCommand::Create(Box::new(clone_of(2, 50)))).unwrap();
    assert_eq!(figures(&mut machine), [(9, 1, 0), (0, 0, 0)]);
    delete(&mut machine, 2);
    // Two more lines; the middle one is named by a snapshot, the first one only through it.
    machine.control(ControlCommand::CreateSnapshots(vec![snapshot(51, 1)])).unwrap();
    roll_back(&mut machine, 51, 1002);
    drop_snapshot(&mut machine, 50);
    until_left(&mut machine, 1);
    write(&mut machine, 1, 1, 3);
    assert_eq!(figures(&mut machine), [(10, 1, 0)]);
    machine.stop();
    let mut machine = Machine::start(&world, Restart::Process);
    assert_eq!(
        figures(&mut machine),
        [(9, 1, 0)],
        "the first line's block 0 is overwritten in the second, and nobody sees it"
    );
    // Without snapshots all of it is the volume's own, and what it has overwritten comes back.
    drop_snapshot(&mut machine, 51);
    until_left(&mut machine, 0);
    for _ in 0..10_000 {
        if figures(&mut machine)[0].0 == 8 {
            break;
        }
        machine.turn();
    }
    assert_eq!(figures(&mut machine), [(8, 8, 0)]);
    assert_eq!(machine.list()[0].usage.own_blocks, 8);
}

#[test]
fn a_snapshot_is_there_whole_or_not_at_all_after_a_crash_at_any_moment() {
    for turns in 0..30 {
        let world = World::new(turns);
        let mut machine = Machine::start(&world, Restart::Process);
        machine.control(ControlCommand::Create(Box::new(volume(1)))).unwrap();
        write(&mut machine, 1, 0, 1);
        let token = machine.ask(ControlCommand::CreateSnapshots(vec![snapshot(50, 1)]));
        for _ in 0..turns {
            machine.turn();
        }
        let answered = machine.controls.contains_key(&token);
        world.crash();
        drop(machine);
        let mut machine = Machine::start(&world, Restart::Process);
        let found = snapshots(&mut machine);
        assert!(!answered || found.len() == 1, "after {turns} turns");
        write(&mut machine, 1, 0, 2);
        if found.is_empty() {
            continue;
        }
        machine.control(ControlCommand::Create(Box::new(clone_of(2, 50)))).unwrap();
        assert_eq!(read(&mut machine, 2)[0], 1);
        // A rollback, too, is whole or not at all.
        let (u, s) = (uuid(1), uuid(50));
        let command =
            ControlCommand::Rollback { uuid: u, snapshot: s, line: LineId(77), expected_revision: None };
        let token = machine.ask(command);
        for _ in 0..turns {
            machine.turn();
        }
        let answered = machine.controls.contains_key(&token);
        world.crash();
        drop(machine);
        let mut machine = Machine::start(&world, Restart::Process);
        let (byte, line) = (read(&mut machine, 1)[0], machine.list()[0].descriptor.line);
        assert!(byte == 1 && line == LineId(77) || byte == 2 && line == LineId(1) && !answered);
    }
}

/// Snapshots of one instant are in one commit: more than fit are refused by that reason, though there is room, and nothing of them is done.
#[test]
fn as_many_are_taken_at_one_instant_as_fit() {
    let world = World::new(9);
    let mut machine = Machine::start(&world, Restart::Process);
    let labels: Vec<(String, String)> = (0..16).map(|n| (format!("{n:063}"), "x".repeat(63))).collect();
    for n in 1..=60 {
        let labelled = VolumeDescriptor { labels: labels.clone(), ..volume(n) };
        machine.control(ControlCommand::Create(Box::new(labelled))).unwrap();
    }
    let take = |machine: &mut Machine, volumes: std::ops::RangeInclusive<u8>| {
        let wanted = volumes.map(|n| snapshot(100 + n, n)).collect();
        machine.control(ControlCommand::CreateSnapshots(wanted))
    };
    let Err(ControlError::TooManyTogether { fit }) = take(&mut machine, 1..=60) else {
        panic!("60 of them don't fit")
    };
    let fit = u8::try_from(fit).unwrap();
    assert!((20..60).contains(&fit), "{fit}");
    assert_eq!(take(&mut machine, 1..=fit + 1), Err(ControlError::TooManyTogether { fit: fit.into() }));
    assert!(snapshots(&mut machine).is_empty());
    write(&mut machine, 1, 0, 7);
    assert!(take(&mut machine, 1..=fit).is_ok());
    assert!(take(&mut machine, fit + 1..=2 * fit).is_ok());
    assert!(take(&mut machine, 2 * fit + 1..=60).is_ok());
    assert_eq!(snapshots(&mut machine).len(), 60);
    assert_eq!(machine.list().len(), 60);
}
