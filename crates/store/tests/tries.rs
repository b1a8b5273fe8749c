//! A segment in which something was wrong is cleaned three times, a minute apart, before what is left there is taken for lost.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::*;
use dolmen_sim::World;
use dolmen_store::*;

/// Blocks of a write that fills a segment, and how many of those there are.
const FILL: u64 = 28;
const SEGMENTS: u64 = 4;

/// The block that can't be read.
const LBA: u64 = 5;

fn setup() -> Setup {
    let mut setup = Setup { drives: drives(2, 8), parity: 1, unit_bytes: 128 * 1024, ..Setup::tiny(0) };
    setup.tuning.commit_bytes = 120 * 1024;
    setup
}

/// A mirror whose re-protection rests.
fn filled(world: &World) -> Node {
    let mut node = Node::open(world, &setup()).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    for i in 0..SEGMENTS {
        let values: Vec<u64> = (0..FILL).map(|k| 1000 + i * FILL + k).collect();
        let record = node.write(1, i * FILL, &values);
        node.commit(0, 2 + i, vec![record]).unwrap();
    }
    node.checkpoint();
    node.stores[0].set_reprotection(true, 0);
    node
}

/// Where the block lies on a drive.
fn place(world: &World, drive: &str) -> u64 {
    let image = world.image(NODE, path(drive));
    let (mut want, mut block) = (vec![0; BLOCK], vec![0; BLOCK]);
    fill(&mut want, 1000 + LBA);
    let holds = |at: &u64| {
        image.read(*at, &mut block);
        block == want
    };
    (4 << 20..11 << 20).step_by(BLOCK).find(holds).unwrap()
}

fn spoil(world: &World, drive: &str) {
    world.spoil(NODE, path(drive), place(world, drive), 512);
}

fn at_risk(node: &Node) -> u64 {
    node.space().at_risk_segments
}

fn scrub(node: &mut Node) {
    node.stores[0].set_scrub(ScrubPlan { round: 1, paused: false, bytes_per_s: 0 });
    while node.stores[0].scrub().unwrap().finished < 1 {
        node.turn();
    }
}

/// A copy that fails while a segment is cleaned twice, and can be read the third time, is not lost. After that nobody looks any more.
#[test]
fn what_cannot_be_read_is_tried_three_times() {
    for (fails_ms, saved) in [(90_000, true), (150_000, false)] {
        let world = World::new(1);
        let mut node = filled(&world);
        ["d0", "d1"].iter().for_each(|d| spoil(&world, d));
        scrub(&mut node);
        node.stores[0].set_reprotection(false, 0);
        assert_eq!(at_risk(&node), 1);
        node.turns_for(fails_ms);
        assert_eq!(at_risk(&node), u64::from(saved));
        world.unspoil(NODE, path("d1"));
        node.turns_for(120_000);
        assert_eq!(at_risk(&node), 0);
        world.remove_drive(NODE, path("d1"));
        let read = node.read(0, 1, LBA, 1);
        assert_eq!(read == Ok(vec![1000 + LBA]), saved, "{read:?}");
        for lba in (0..SEGMENTS * FILL).filter(|lba| *lba != LBA) {
            assert_eq!(node.read(0, 1, lba, 1).unwrap(), [1000 + lba]);
        }
    }
}

/// The drives of the mirror: the one that is read first, and the other one.
fn in_order() -> [&'static str; 2] {
    let world = World::new(2);
    let mut node = filled(&world);
    spoil(&world, "d0");
    node.read(0, 1, LBA, 1).unwrap();
    if node.space().mended_reads > 0 { ["d0", "d1"] } else { ["d1", "d0"] }
}

/// When another column is found wrong meanwhile, it is tried three times from then on.
#[test]
fn another_column_that_is_wrong_makes_the_count_begin_anew() {
    let [first, other] = in_order();
    for found in [false, true] {
        let world = World::new(2);
        let mut node = filled(&world);
        // The head of the other column is what a round of scrubbing finds.
        let unit = 128 << 10;
        let head = (place(&world, other) - (4 << 20)) / unit * unit + (4 << 20);
        world.overwrite(NODE, path(other), head + 20, b"rot");
        scrub(&mut node);
        assert_eq!(at_risk(&node), 1);
        [first, other].iter().for_each(|d| spoil(&world, d));
        node.stores[0].set_reprotection(false, 0);
        node.turns_for(90_000);
        assert_eq!(at_risk(&node), 1, "it was cleaned twice");
        if found {
            // A host's read is answered by the other column.
            world.unspoil(NODE, path(other));
            assert_eq!(node.read(0, 1, LBA, 1).unwrap(), [1000 + LBA]);
            spoil(&world, other);
        }
        node.turns_for(60_000);
        assert_eq!(at_risk(&node), u64::from(found), "after the third time");
        node.turns_for(60_000);
        assert_eq!(at_risk(&node), u64::from(found), "after the fourth");
        node.turns_for(60_000);
        assert_eq!(at_risk(&node), 0);
    }
}
