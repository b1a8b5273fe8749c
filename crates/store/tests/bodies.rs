//! Checkpoints whose bodies are more chunks than an anchor has room for: written, found again, checked, scrubbed, and cut short by a
//! crash at every moment.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::*;
use dolmen_sim::{CrashLimits, World};
use dolmen_store::*;
use dolmen_types::PgId;

/// Bytes of an object here.
const OBJECT: usize = 18 << 10;

/// Objects whose checkpoint takes more chunks than the anchor names: one of at most 28 KiB in a unit.
const OBJECTS: u64 = 160;

/// Few bytes make many chunks where units are small.
fn setup(drives: Vec<(&'static str, u64)>, parity: u8) -> Setup {
    let mut setup = Setup { drives, parity, unit_bytes: 32 * 1024, ..Setup::tiny(0) };
    setup.tuning.commit_bytes = 28 * 1024;
    setup
}

fn put(id: u64, value: u8) -> Record {
    Record::Put { key: key(id.into()), value: vec![value; OBJECT].into() }
}

/// A line, and objects of one value each, in a checkpoint.
fn fill_with_objects(node: &mut Node) -> u64 {
    node.commit(0, 1, vec![create(1)]).unwrap();
    for id in 0..OBJECTS {
        node.commit(0, 2 + id, vec![put(id, 1)]).unwrap();
    }
    // The first one that ends may have begun before the last of them.
    node.checkpoint();
    node.checkpoint();
    1 + OBJECTS
}

/// The value of each object.
fn values_of(node: &Node) -> Vec<u8> {
    let mut values = vec![0; OBJECTS as usize];
    node.stores[0].for_each_object(PgId(0), |key, value| values[key.id as usize] = value[OBJECT - 1]);
    values
}

/// Checkpoints, and more starts than an anchor has eras: the last of them begins with a checkpoint.
#[test]
fn a_body_of_many_chunks() {
    let world = World::new(1);
    let setup = setup(vec![("d0", 32 << 20)], 0);
    let mut node = Node::open(&world, &setup).unwrap();
    let mut seq = fill_with_objects(&mut node);
    for round in 0..6 {
        let record = node.write(1, round * 9, &[seq; 6]);
        node.commit(0, seq + 1, vec![record]).unwrap();
        seq += 1;
        node.checkpoint();
    }
    // What earlier bodies took is free again.
    let space = node.space();
    let most = 3 * OBJECTS * OBJECT as u64;
    assert!(space.held_bytes < most, "{space:?}");
    for round in 0..20 {
        drop(node);
        world.crash();
        node = Node::open(&world, &setup).unwrap_or_else(|error| panic!("start {round}: {error}"));
        assert!(values_of(&node).iter().all(|v| *v == 1), "start {round}");
        seq += 1;
        let record = node.write(1, round * 9, &[seq; 2]);
        node.commit(0, seq, vec![record]).unwrap();
        assert_eq!(node.read(0, 1, round * 9, 2).unwrap(), [seq; 2]);
    }
    // Small again: without a list.
    for id in 10..OBJECTS {
        seq += 1;
        node.commit(0, seq, vec![Record::Delete { key: key(id.into()) }]).unwrap();
    }
    node.checkpoint();
    node.shutdown();
    let node = Node::open(&world, &setup).unwrap();
    assert_eq!(values_of(&node).iter().filter(|v| **v == 1).count(), 10);
}

/// A mirror whose body and list rot on one drive: scrubbing finds it, and the next checkpoint writes both anew.
#[test]
fn a_list_that_rots_is_mended() {
    let world = World::new(2);
    let setup = setup(vec![("d0", 32 << 20), ("d1", 32 << 20)], 1);
    let mut node = Node::open(&world, &setup).unwrap();
    fill_with_objects(&mut node);
    for page in (0..(28 << 20) / 4096).filter(|page| page % 8 != 0) {
        world.overwrite(NODE, path("d0"), (4 << 20) + page * 4096 + 100, b"rot");
    }
    node.stores[0].set_scrub(ScrubPlan { round: 1, paused: false, bytes_per_s: 0 });
    for _ in 0..200_000 {
        if node.stores[0].scrub().unwrap().finished == 1 {
            break;
        }
        node.turn();
    }
    let report = node.stores[0].scrub().unwrap();
    assert!(report.finished == 1 && report.mended > 0 && report.lost == 0, "{report:?}");
    node.until_protected();
    node.checkpoint();
    drop(node);
    world.crash();
    // Now the other one may go.
    world.remove_drive(NODE, path("d1"));
    let node = Node::open(&world, &setup).unwrap();
    assert!(values_of(&node).iter().all(|v| *v == 1));
}

/// Both copies of a list that rot are named, and the start is refused: what the body says is not guessed.
#[test]
fn a_list_that_is_lost_is_named() {
    let world = World::new(3);
    let setup = setup(vec![("d0", 32 << 20)], 0);
    let mut node = Node::open(&world, &setup).unwrap();
    fill_with_objects(&mut node);
    drop(node);
    world.crash();
    let check = || {
        let (mut io, mut exec, drives) = offline(&world, &setup);
        let checking = check_pool(exec.handle(), drives, Keyring::default());
        run(&mut io, &mut exec, checking).unwrap()
    };
    let report = check();
    assert_eq!((report.problems, report.mendable), (0, 0), "{report:?}");
    assert_eq!(report.objects.len() as u64, OBJECTS);
    for page in (0..(28 << 20) / 4096).filter(|page| page % 8 != 0) {
        world.overwrite(NODE, path("d0"), (4 << 20) + page * 4096 + 100, b"rot");
    }
    let report = check();
    assert!(report.problems > 0, "{report:?}");
    assert!(
        report.named.iter().any(|d| d.what.contains("the checkpoint of shard 0 does not check")),
        "{report:?}"
    );
    let error = Node::open(&world, &setup).err().unwrap();
    assert!(matches!(&error, StoreError::Corrupt(why) if why.contains("does not check")), "{error}");
}

/// Every moment around checkpoints with a list: the objects are those of some batch, no earlier than the last acknowledged one.
#[test]
fn cut_anywhere_around_a_list() {
    let world = World::new(77);
    let setup = setup(vec![("d0", 24 << 20)], 0);
    let mut node = Node::open(&world, &setup).unwrap();
    let durable = fill_with_objects(&mut node);
    world.start_recording();
    let mut seq = durable;
    for round in 2..4u8 {
        for id in 0..3 {
            seq += 1;
            node.commit(0, seq, vec![put(id, round)]).unwrap();
            world.mark(seq);
        }
        node.checkpoint();
        node.checkpoint();
    }
    let recording = world.stop_recording().unwrap();
    drop(node);
    let expected = |seq: u64| -> Vec<u8> {
        let newest = |id: u64| (0..2).rev().find(|round| durable + round * 3 + id < seq && id < 3);
        (0..OBJECTS).map(|id| newest(id).map_or(1, |round| 2 + round as u8)).collect()
    };
    let mut count = 0;
    for state in recording.crash_states(CrashLimits { per_point: 24, total: 240, seed: 5 }) {
        count += 1;
        let acknowledged = state.mark.unwrap_or(durable).max(durable);
        let world = World::restore(count, &state);
        let mut before = acknowledged;
        for cut in 0..2 {
            let node = Node::open(&world, &setup).unwrap_or_else(|e| panic!("{}: {e}", state.label));
            let found = node.stores[0].marks(PgId(0)).highest_seq.0;
            assert!(found >= before, "{}, cut {cut}: {before} was acknowledged, {found} found", state.label);
            assert_eq!(values_of(&node), expected(found), "{}, cut {cut}", state.label);
            before = found;
            drop(node);
            world.crash();
        }
    }
    assert!(count > 50, "{count} states only");
}
