//! Drives that were put out while they may hold a superblock that was tried and never in force: come back alone, they are told from the
//! pool by its number. So are older images of drives.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::*;
use dolmen_sim::{CrashLimits, DriveFaults, World};
use dolmen_store::*;

fn mirror() -> Setup {
    Setup { drives: drives(2, 8), parity: 1, unit_bytes: 128 * 1024, ..Setup::tiny(0) }
}

/// A mirror in which something was written.
fn filled(world: &World) -> Node {
    let mut node = Node::open(world, &mirror()).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    write(&mut node, 2, 11);
    node
}

fn write(node: &mut Node, seq: u64, value: u64) {
    let record = node.write(1, 0, &[value]);
    node.commit(0, seq, vec![record]).unwrap();
}

/// Of a pool that has put a drive out: the node goes down, and comes up with that drive alone. It is told that others went on.
fn comes_back_alone(mut node: Node, stale: &str, case: &str) {
    let world = node.world.clone();
    write(&mut node, 3, 12);
    let at_least = node.owner.sequence();
    drop(node);
    world.crash();
    let other = if stale == "d0" { "d1" } else { "d0" };
    world.set_faults(NODE, path(stale), DriveFaults::default());
    world.return_drive(NODE, path(stale));
    world.remove_drive(NODE, path(other));
    match Node::open(&world, &Setup { at_least, ..mirror() }) {
        Err(StoreError::Refused(why)) => assert!(why.contains("missed"), "{case}: {why}"),
        Err(why) => panic!("{case}: {why}"),
        Ok(mut node) => panic!("{case}: it opened, with {:?}", node.read(0, 1, 0, 1)),
    }
    // Those that went on are the pool.
    world.return_drive(NODE, path(other));
    world.remove_drive(NODE, path(stale));
    let mut node = Node::open(&world, &Setup { at_least, ..mirror() }).unwrap();
    assert_eq!(node.read(0, 1, 0, 1).unwrap(), [12], "{case}");
}

/// The superblock of a start lands on a drive that then does not flush: the start goes on without the drive.
#[test]
fn one_that_took_the_superblock_of_a_start_that_went_on_without_it() {
    for stale in ["d0", "d1"] {
        let world = World::new(1);
        drop(filled(&world));
        world.crash();
        world.set_faults(NODE, path(stale), DriveFaults { flush_ppm: 1_000_000, ..DriveFaults::default() });
        comes_back_alone(Node::open(&world, &mirror()).unwrap(), stale, stale);
    }
}

/// A start is cut short, and the next one goes on without a drive that may have been written to.
#[test]
fn one_that_took_the_superblock_of_a_start_that_was_cut_short() {
    let world = World::new(2);
    drop(filled(&world));
    world.crash();
    world.start_recording();
    drop(Node::open(&world, &mirror()).unwrap());
    let recording = world.stop_recording().unwrap();
    for state in recording.crash_states(CrashLimits { per_point: 16, total: 160, seed: 1 }) {
        for stale in ["d0", "d1"] {
            let world = World::restore(3, &state);
            world.remove_drive(NODE, path(stale));
            let node = Node::open(&world, &mirror()).unwrap_or_else(|why| panic!("{}: {why}", state.label));
            comes_back_alone(node, stale, &format!("{stale}, {}", state.label));
        }
    }
}

/// While the pool serves a superblock takes too long on a drive, which is put out for it, and lands there all the same.
#[test]
fn one_that_took_a_superblock_late() {
    for stale in ["d0", "d1"] {
        let world = World::new(4);
        let mut node = filled(&world);
        let (slot, sequence) = (node.owner.sequence() % 2, node.owner.sequence());
        let other = if stale == "d0" { "d1" } else { "d0" };
        // All get the next one, since one has lost its own.
        world.overwrite(NODE, path(other), slot * (16 << 10) + 200, b"rot");
        world.set_faults(
            NODE,
            path(stale),
            DriveFaults { write_extra_ns: 8_000_000_000, ..DriveFaults::default() },
        );
        // Nothing is moved, so that no further superblock follows.
        node.stores[0].set_reprotection(true, 0);
        node.owner.scrub();
        node.turns_for(20_000);
        assert!(node.owner.sequence() > sequence);
        let states: Vec<DriveState> = node.owner.drives().iter().map(|d| d.state).collect();
        assert_eq!(states.iter().filter(|s| **s == DriveState::In).count(), 1, "{states:?}");
        comes_back_alone(node, stale, stale);
    }
}

/// What a drive holds, every byte.
fn bytes(world: &World, name: &str) -> Vec<u8> {
    let mut bytes = vec![0; 11 << 20];
    world.image(NODE, path(name)).read(0, &mut bytes);
    bytes
}

fn check(world: &World, setup: &Setup, at_least: u64) -> CheckReport {
    let (mut io, mut exec, drives) = offline(world, setup);
    let checking =
        check_pool_with(exec.handle(), drives, Keyring::default(), at_least, CheckProgress::default());
    run(&mut io, &mut exec, checking).unwrap()
}

/// An image of a drive that is some openings old is put back: the others are the pool, and the drive joins anew. Nothing is served from
/// images that are too many.
#[test]
fn one_that_was_put_back_as_it_was_before() {
    for (openings, known) in [(1, true), (3, true), (3, false)] {
        let world = World::new(5);
        let setup = Setup { drives: drives(4, 8), ..mirror() };
        let mut node = Node::open(&world, &setup).unwrap();
        node.commit(0, 1, vec![create(1)]).unwrap();
        write(&mut node, 2, 11);
        drop(node);
        let old: Vec<_> = ["d3", "d2", "d1", "d0"].map(|d| (d, bytes(&world, d))).into();
        let mut at_least = 0;
        for opening in 1..=openings {
            let mut node = Node::open(&world, &setup).unwrap();
            for seq in 0..20 {
                write(&mut node, 100 * opening + seq, 12);
            }
            node.checkpoint();
            at_least = if known { node.owner.sequence() } else { 0 };
        }
        world.overwrite(NODE, path("d3"), 0, &old[0].1);
        let report = check(&world, &setup, at_least);
        let told = report.findings.iter().any(
            |f| matches!(f, Finding::Lost { path, reason, .. } if path == "d3" && reason.contains("older")),
        );
        assert!(told && report.problems == 0, "{openings}, {known}: {report:?}");
        let named = Setup { at_least, ..setup };
        let mut node = Node::open(&world, &named).unwrap();
        assert_eq!(node.read(0, 1, 0, 1).unwrap(), [12]);
        let stale = Finding::Stale { path: "d3".into() };
        assert!(node.plan.findings.contains(&stale), "{:?}", node.plan.findings);
        node.until_protected();
        let at_least = if known { node.owner.sequence() } else { 0 };
        drop(node);
        // Two of a pool that can do without one.
        for (drive, old) in &old[..2] {
            world.overwrite(NODE, path(drive), 0, old);
        }
        let before = bytes(&world, "d3");
        let refused = |at_least| match Node::open(&world, &Setup { at_least, ..named.clone() }) {
            Err(StoreError::Refused(why)) => why,
            Err(why) => panic!("{openings}, {known}: {why}"),
            Ok(_) => panic!("{openings}, {known}: it opened"),
        };
        let why = refused(at_least);
        assert!(why.contains("d2") && why.contains("older"), "{why}");
        // All of them.
        for (drive, old) in &old {
            world.overwrite(NODE, path(drive), 0, old);
        }
        if known {
            let why = refused(at_least);
            assert!(why.contains("all drives named are older"), "{why}");
        }
        assert!(before == bytes(&world, "d3"), "nothing was written");
    }
}
