//! Anchors that can't be read, and such as the power cut short: a start takes the newest one that was ever complete or none, and nothing
//! that an older one needs goes before that.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::*;
use dolmen_sim::{CrashLimits, DriveSpec, Fault, World};
use dolmen_store::*;
use dolmen_types::ShardId;

/// Where the anchors of shard 0 are, and how long a slot and a copy are (`docs/format/anchor.md`).
const ANCHORS: u64 = 32 << 10;
const SLOT: u64 = 16 << 10;
const COPY: u64 = 8 << 10;

/// Two drives with copies, so many shards, no checkpoint but those that are asked for.
fn mirror(shards: u16) -> Setup {
    let mut setup = Setup { drives: drives(2, 8), parity: 1, unit_bytes: 128 * 1024, ..Setup::tiny(0) };
    (setup.tuning.delta_entries, setup.tuning.commit_bytes) = (4096, 120 * 1024);
    (setup.shards, setup.cores) = (shards, usize::from(shards));
    setup
}

/// A pool with some data, and as many checkpoints.
fn filled(world: &World, setup: &Setup, checkpoints: u64) -> Node {
    let mut node = Node::open(world, setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    for seq in 2..2 + checkpoints {
        let record = node.write(1, seq, &[seq]);
        node.commit(0, seq, vec![record]).unwrap();
        node.checkpoint();
    }
    let record = node.write(1, 0, &[11, 12]);
    node.commit(0, 2 + checkpoints, vec![record]).unwrap();
    node
}

/// The anchors of shard 0 on a drive.
fn anchors(world: &World, drive: &str) -> Vec<u8> {
    let mut bytes = vec![0; 2 * SLOT as usize];
    world.image(NODE, path(drive)).read(ANCHORS, &mut bytes);
    bytes
}

/// Where the newest one is.
fn newest_slot(world: &World, drive: &str) -> u64 {
    let bytes = anchors(world, drive);
    let generation = |at: u64| u64::from_le_bytes(bytes[at as usize + 24..][..8].try_into().unwrap());
    let newest = generation(0).max(generation(SLOT));
    assert_eq!(generation(newest % 2 * SLOT), newest);
    ANCHORS + newest % 2 * SLOT
}

/// Opens the pool; the drives can be read until the shards look for their anchors, and not in these places from then on.
fn open_spoilt(world: &World, setup: &Setup, spoilt: &[(&str, u64, u64)]) -> Result<Node, StoreError> {
    let node = Node::start(world, setup)?;
    spoilt.iter().for_each(|&(drive, at, len)| world.spoil(NODE, path(drive), at, len));
    node.until_ready()
}

fn is_refused(world: &World, setup: &Setup, spoilt: &[(&str, u64, u64)]) -> bool {
    match open_spoilt(world, setup, spoilt) {
        Err(StoreError::Medium { .. }) => true,
        Err(error) => panic!("{error}"),
        Ok(_) => false,
    }
}

#[test]
fn a_drive_that_joined_does_not_speak_for_those_that_cannot_be_read() {
    let (world, mut setup) = (World::new(1), mirror(1));
    let mut node = filled(&world, &setup, 1);
    world.add_drive(NODE, path("d2"), DriveSpec::file(11 << 20));
    node.add_drive("d2").unwrap();
    drop(node);
    world.crash();
    assert!(anchors(&world, "d2").iter().all(|b| *b == 0), "there was a checkpoint since it joined");
    setup.drives = drives(3, 8);
    let spoilt = ["d0", "d1"].map(|d| (d, ANCHORS, 2 * SLOT));
    assert!(is_refused(&world, &setup, &spoilt), "the shard is taken for one that never served");
    // One that can be read is enough, and the new drive has the anchor from then on.
    ["d0", "d1"].iter().for_each(|d| world.unspoil(NODE, path(d)));
    let mut node = open_spoilt(&world, &setup, &spoilt[..1]).unwrap();
    assert_eq!(node.read(0, 1, 0, 3).unwrap(), [11, 12, 2]);
    assert!(anchors(&world, "d2").iter().any(|b| *b != 0));
}

#[test]
fn an_older_anchor_is_not_believed_while_a_newer_one_may_only_be_unreadable() {
    for starts in 0..2 {
        let (world, setup) = (World::new(2), mirror(1));
        drop(filled(&world, &setup, 2 + starts));
        world.crash();
        let slot = newest_slot(&world, "d0");
        assert_eq!(slot, newest_slot(&world, "d1"));
        let spoilt = ["d0", "d1"].map(|d| (d, slot, SLOT));
        let before = ["d0", "d1"].map(|d| anchors(&world, d));
        assert!(is_refused(&world, &setup, &spoilt), "an older anchor is believed");
        assert_eq!(["d0", "d1"].map(|d| anchors(&world, d)), before, "something was written");
        ["d0", "d1"].iter().for_each(|d| world.unspoil(NODE, path(d)));
        let mut node = Node::open(&world, &setup).unwrap();
        assert_eq!(node.read(0, 1, 0, 3).unwrap(), [11, 12, 2]);
    }
}

/// One copy of a slot is as good as two, and one drive as all: what can't be read beside that is written anew by the start.
#[test]
fn copies_that_cannot_be_read_beside_others_that_can_cost_nothing() {
    let whole = |drive| vec![(drive, ANCHORS, 2 * SLOT)];
    let copies = |drive| vec![(drive, ANCHORS, COPY), (drive, ANCHORS + SLOT + COPY, COPY)];
    let both = |mut some: Vec<_>, more: Vec<_>| {
        some.extend(more);
        some
    };
    for spoilt in
        [whole("d0"), whole("d1"), both(copies("d0"), copies("d1")), both(copies("d0"), whole("d1"))]
    {
        let (world, setup) = (World::new(3), mirror(1));
        drop(filled(&world, &setup, 2));
        world.crash();
        let mut node = open_spoilt(&world, &setup, &spoilt).unwrap();
        assert_eq!(node.read(0, 1, 0, 3).unwrap(), [11, 12, 2]);
    }
}

#[test]
fn a_read_that_fails_once_hides_no_anchor() {
    let (world, setup) = (World::new(5), Setup { drives: drives(1, 8), parity: 0, ..mirror(1) });
    drop(filled(&world, &setup, 2));
    for times in 1..=3 {
        world.crash();
        let node = Node::start(&world, &setup).unwrap();
        for _ in 0..times {
            world.fail_next(NODE, path("d0"), Fault::Read);
        }
        let is_there = node.until_ready().map(|mut node| node.read(0, 1, 0, 3).unwrap() == [11, 12, 2]);
        // Two reads that fail one after the other are of one copy.
        assert_eq!(is_there, Ok(true), "{times} times");
    }
}

/// Blocks of each line that the last start but one finds.
const BLOCKS: u64 = 40;

/// Writes all blocks of a shard's line anew.
fn overwrite(node: &mut Node, pg: u32, seq: u64) {
    let values: Vec<u64> = (0..BLOCKS).map(|i| seq * 100 + i).collect();
    for (i, part) in (0..).zip(values.chunks(20)) {
        let record = node.write(1 + u64::from(pg), i * 20, part);
        node.commit(pg, 2 * seq + i, vec![record]).unwrap();
    }
}

/// Two shards, and a checkpoint of the first one whose anchor came to one copy on d0: units that its log was in are free by that anchor,
/// and needed by the one before, which is all that the other drive has.
fn cut_short(setup: &Setup) -> World {
    let world = World::new(4);
    let mut node = Node::open(&world, setup).unwrap();
    for pg in 0..2 {
        node.commit(pg, 1, vec![create(1 + u64::from(pg))]).unwrap();
        overwrite(&mut node, pg, 1);
    }
    node.checkpoint();
    (2..8).for_each(|seq| overwrite(&mut node, 0, seq));
    let before = ["d0", "d1"].map(|d| anchors(&world, d));
    let count = node.stores[0].checkpoints();
    node.stores[0].checkpoint();
    while node.stores[0].checkpoints() == count {
        node.turn();
    }
    drop(node);
    world.crash();
    let copy = newest_slot(&world, "d0") - ANCHORS;
    let complete = anchors(&world, "d0");
    for (drive, before) in ["d0", "d1"].iter().zip(&before) {
        world.overwrite(NODE, path(drive), ANCHORS, before);
    }
    world.overwrite(NODE, path("d0"), ANCHORS + copy, &complete[copy as usize..][..COPY as usize]);
    world
}

/// Whatever the other shard writes where the older anchor's log was, and whenever the power goes again, with either drive or both.
#[test]
fn an_anchor_that_one_drive_alone_has_is_on_all_before_anything_goes_by_it() {
    let setup = mirror(2);
    let world = cut_short(&setup);
    world.start_recording();
    let mut node = Node::start(&world, &setup).unwrap();
    // The first shard does not come to its own next anchor.
    node.starved = Some(ShardId(0));
    while node.stores[1].ready() != Some(Ok(())) {
        node.turn();
    }
    let mut written = 0;
    for seq in 100..400 {
        let values: Vec<u64> = (0..20).map(|i| seq * 100 + i).collect();
        let record = node.write(2, 1000 + seq * 20, &values);
        if node.commit(1, seq, vec![record]).is_err() {
            break;
        }
        written += 1;
    }
    assert!(written > 20, "{written}");
    assert_eq!(node.stores[0].ready(), None);
    let recording = world.stop_recording().unwrap();
    drop(node);
    let mut states = 0;
    for state in recording.crash_states(CrashLimits { per_point: 12, total: 240, seed: 5 }) {
        states += 1;
        for lost in [Some("d0"), Some("d1"), None] {
            let world = World::restore(states, &state);
            lost.iter().for_each(|d| world.remove_drive(NODE, path(d)));
            let found = Node::open(&world, &setup);
            let mut node = found.unwrap_or_else(|e| panic!("{}, without {lost:?}: {e}", state.label));
            for (pg, seq) in [(0, 7), (1, 1)] {
                let is = node.read(pg, 1 + u64::from(pg), 0, BLOCKS as usize).unwrap();
                let expected: Vec<u64> = (0..BLOCKS).map(|i| seq * 100 + i).collect();
                assert_eq!(is, expected, "{}, without {lost:?}", state.label);
            }
        }
    }
    assert!(states > 100, "{states}");
}
