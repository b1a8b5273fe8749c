//! Anchors that can't be read: a start takes the newest one that was ever complete, or none.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::*;
use dolmen_sim::{DriveSpec, Fault, World};
use dolmen_store::*;

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
