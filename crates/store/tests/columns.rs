//! Pools that can lose a drive: what fails costs no request and no byte, and is made good while hosts go on.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::filled::*;
use common::*;
use dolmen_sim::{DriveFaults, Fault, World};
use dolmen_store::*;
use dolmen_types::PgId;

/// Each way in which a drive can go, over pools of each kind of segment: no request fails, everything is readable at once, and in
/// the end the drive has left the table and another can be lost.
#[test]
fn a_drive_that_goes_costs_nothing() {
    for count in 2..=5 {
        for way in 0..4 {
            let world = World::new(count as u64 * 10 + way);
            let mut setup = setup(count);
            setup.tuning.stuck_write_ms = 300;
            let mut filled = Filled::new(&world, &setup);
            match way {
                0 => world.fail_next(NODE, path("d1"), Fault::Write),
                1 => world.fail_next(NODE, path("d1"), Fault::Flush),
                2 => world.remove_drive(NODE, path("d1")),
                _ => {
                    let latency_ns = (20_000_000_000, 20_000_000_000);
                    world.set_faults(NODE, path("d1"), DriveFaults { latency_ns, ..DriveFaults::default() });
                }
            }
            filled.write_some(1, 10);
            filled.node.checkpoint();
            filled.verify();
            assert_ne!(filled.state(1), DriveState::In, "{count} drives, way {way}");
            if count > 2 {
                filled.node.until_protected();
                assert_eq!(filled.state(1), DriveState::Gone, "{count} drives, way {way}");
                assert_eq!(filled.node.space().at_risk_bytes, 0);
            } else {
                assert_eq!(filled.node.owner.deficit(), 1);
            }
            filled.verify();
            assert_eq!(filled.node.space().integrity_errors, 0);
            // It comes back stale, and joins as a new one.
            world.return_drive(NODE, path("d1"));
            world.set_faults(NODE, path("d1"), DriveFaults::default());
            let mut filled = filled.reopen(&world, &setup);
            filled.write_some(5, 10);
            filled.node.until_protected();
            // Now another one may go.
            world.remove_drive(NODE, path("d0"));
            filled.write_some(6, 10);
            filled.verify();
            filled.reopen(&world, &setup);
        }
    }
}

/// What has failed is nobody's peer: beside a drive that fails at once, while a checkpoint writes to both, the other one of a mirror is
/// waited for, however long that takes.
#[test]
fn a_slow_drive_beside_one_that_fails_stays() {
    for seed in 0..4 {
        let world = World::new(seed);
        let mut setup = setup(2);
        setup.tuning.stuck_write_ms = 200;
        let mut filled = Filled::new(&world, &setup);
        (0..200).for_each(|_| filled.node.turn());
        world.set_faults(NODE, path("d0"), DriveFaults { write_ppm: 1_000_000, ..DriveFaults::default() });
        lag(&world, "d1", 300);
        filled.node.stores[0].checkpoint();
        (0..500).for_each(|_| filled.node.turn());
        assert_eq!(filled.node.stores[0].stopped(), None);
        lag(&world, "d1", 0);
        filled.node.checkpoint();
        assert_ne!(filled.state(0), DriveState::In);
        assert_eq!(filled.state(1), DriveState::In);
        filled.write_some(2, 5);
        filled.verify();
    }
}

#[test]
fn more_than_the_pool_can_lose_stops_it_and_loses_nothing() {
    let world = World::new(1);
    let setup = setup(4);
    let mut filled = Filled::new(&world, &setup);
    world.remove_drive(NODE, path("d1"));
    world.remove_drive(NODE, path("d2"));
    // The first ones may lie on the two that are left.
    let stopped = (0..20).any(|_| {
        filled.seq += 1;
        let record = filled.node.write(1, 0, &[7]);
        matches!(filled.node.commit(0, filled.seq, vec![record]), Err(StoreError::Stopped { .. }))
    });
    assert!(stopped);
    drop(filled.node);
    let Err(StoreError::Refused(text)) = Node::open(&world, &setup) else { panic!("it opened") };
    assert!(text.contains("d1") && text.contains("d2"), "{text}");
    world.return_drive(NODE, path("d1"));
    world.return_drive(NODE, path("d2"));
    let mut node = Node::open(&world, &setup).unwrap();
    let first = node.read(0, 1, 0, 1).unwrap()[0];
    assert!(first == 7 || first == filled.model[0]);
    assert_eq!(node.read(0, 1, 1, 19).unwrap(), filled.model[1..20]);
}

/// Rot anywhere on one drive: everything reads right, and what was hit is moved.
#[test]
fn rot_is_mended() {
    for count in 2..=4 {
        let world = World::new(count as u64);
        let setup = setup(count);
        let mut filled = Filled::new(&world, &setup);
        for unit in 0..56u64 {
            for page in 1..32 {
                // Behind the segments' headers, every page of the drive.
                world.overwrite(NODE, path("d0"), (4 << 20) + unit * (128 << 10) + page * 4096 + 77, b"rot");
            }
        }
        filled.verify();
        let space = filled.node.space();
        assert!(space.mended_reads > 0, "{count} drives");
        assert_eq!(space.integrity_errors, 0, "{count} drives");
        filled.node.until_protected();
        let mut filled = filled.reopen(&world, &setup);
        filled.verify();
    }
}

#[test]
fn failed_and_late_reads_are_answered() {
    let world = World::new(3);
    let setup = setup(3);
    let mut filled = Filled::new(&world, &setup);
    world.set_faults(NODE, path("d0"), DriveFaults { read_ppm: 300_000, ..DriveFaults::default() });
    filled.verify();
    world.set_faults(
        NODE,
        path("d0"),
        DriveFaults { latency_ns: (900_000_000, 900_000_000), ..DriveFaults::default() },
    );
    let before = world.now();
    filled.verify();
    // Six reads, each of which waits for the bound and not for the drive.
    assert!(world.now().since(before) < 6 * 400_000_000, "{:?}", world.now().since(before));
    assert_eq!(filled.node.space().integrity_errors, 0);
}

/// Where other columns are out, what comes late from its own is as good as ever: to hosts, to cleaning, to a start.
#[test]
fn late_reads_of_a_degraded_pool_are_waited_for() {
    for (out, late) in [(2, 0), (2, 1), (1, 0)] {
        let world = World::new(11);
        let setup = setup(3);
        let mut filled = degraded(&world, &setup, out);
        lag(&world, DRIVES[late], 200);
        filled.verify();
        let mut filled = filled.reopen(&world, &setup);
        filled.node.until_protected();
        filled.verify();
        assert_eq!(filled.node.space().integrity_errors, 0);
    }
}

#[test]
fn a_checkpoint_of_a_degraded_pool_waits_for_late_reads() {
    for (out, late) in [(2, 0), (2, 1), (1, 0), (1, 2), (0, 1), (0, 2)] {
        let world = World::new(12);
        let setup = setup(3);
        let Filled { node, seq, model } = degraded(&world, &setup, out);
        world.crash();
        drop(node);
        // Nothing of the map is in memory.
        let mut filled = Filled { node: Node::open(&world, &setup).unwrap(), seq, model };
        lag(&world, DRIVES[late], 200);
        filled.write_some(2, 12);
        filled.node.stores[0].checkpoint();
        (0..2000).for_each(|_| filled.node.turn());
        assert_eq!(filled.node.stores[0].stopped(), None, "without {out}, {late} late");
        lag(&world, DRIVES[late], 0);
        filled.verify();
    }
}

/// Where on a drive the block that was filled with `value` lies.
fn places_of(world: &World, drive: &str, value: u64) -> Vec<u64> {
    let image = world.image(NODE, path(drive));
    let (mut want, mut block) = (vec![0; BLOCK], vec![0; BLOCK]);
    fill(&mut want, value);
    let pages = (0..(11 << 20) / BLOCK as u64).map(|i| i * BLOCK as u64);
    pages
        .filter(|&at| {
            image.read(at, &mut block);
            block == want
        })
        .collect()
}

/// A block that a pool without one of its drives can't give costs nothing else: the rest of its segment is made safe, the segment
/// counts as long as the block is missed, and no longer.
#[test]
fn a_block_lost_while_a_drive_is_out_leaves_the_rest_protected() {
    let world = World::new(13);
    let setup = setup(3);
    let mut filled = Filled::new(&world, &setup);
    filled.node.stores[0].set_reprotection(true, 0);
    // What else there is of it, a copy or parity, is on the drive that goes.
    let alone = |v: u64| {
        let count = |d| places_of(&world, d, v).len();
        v > 0 && count("d0") == 1 && count("d1") == 0
    };
    let lost = (0..BLOCKS).find(|&lba| alone(filled.model[lba as usize])).unwrap();
    world.overwrite(NODE, path("d0"), places_of(&world, "d0", filled.model[lost as usize])[0] + 100, b"rot");
    world.remove_drive(NODE, path("d2"));
    // Until a write reaches it.
    let mut writes = 0..1000;
    while filled.node.owner.drives()[2].state == DriveState::In {
        writes.next().expect("a write reaches the drive that is gone");
        filled.seq += 1;
        let record = filled.node.write(1, BLOCKS + 5, &[7]);
        filled.node.commit(0, filled.seq, vec![record]).unwrap();
    }
    filled.node.stores[0].set_reprotection(false, 0);
    for _ in 0..10_000 {
        filled.node.turn();
    }
    let space = filled.node.space();
    assert!(!filled.node.is_protected(), "{space:?}");
    assert_eq!((space.at_risk_segments, space.at_risk_bytes), (1, 4096), "{space:?}");
    let report = filled.node.stores[0].scrub().unwrap();
    assert_eq!(report.lost, 1, "told once: {report:?}");
    assert!(report.named[0].contains(&format!("block {lost} ")), "{report:?}");
    let others = |filled: &mut Filled| {
        for lba in (0..BLOCKS).filter(|&lba| lba != lost) {
            assert_eq!(filled.node.read(0, 1, lba, 1).unwrap(), [filled.model[lba as usize]], "block {lba}");
        }
    };
    others(&mut filled);
    let read = filled.node.read(0, 1, lost, 1);
    assert!(matches!(read, Err(StoreError::Medium { .. } | StoreError::Integrity { .. })), "{read:?}");
    // Once nobody needs it, all is well again.
    filled.seq += 1;
    let record = filled.node.write(1, lost, &[77]);
    filled.node.commit(0, filled.seq, vec![record]).unwrap();
    filled.model[lost as usize] = 77;
    filled.node.until_protected();
    filled.verify();
    world.remove_drive(NODE, path("d1"));
    others(&mut filled);
}

#[test]
fn a_drive_that_lags_far_behind_is_put_out() {
    let world = World::new(4);
    let setup = setup(3);
    let mut filled = Filled::new(&world, &setup);
    world.set_faults(
        NODE,
        path("d2"),
        DriveFaults { latency_ns: (60_000_000, 70_000_000), ..DriveFaults::default() },
    );
    for round in 0..200 {
        filled.write_some(round, 2);
        if filled.state(2) != DriveState::In {
            break;
        }
    }
    assert_ne!(filled.state(2), DriveState::In);
    filled.verify();
}

/// A drive is emptied and taken away; the pool opens without it, in whatever order the rest is named.
#[test]
fn a_drive_leaves_on_demand() {
    let world = World::new(5);
    let mut setup = setup(4);
    let mut filled = Filled::new(&world, &setup);
    filled.node.owner.remove_drive(3).unwrap();
    // From now on, not only when that is on the drives: who waits for it to have left looks at this.
    assert_eq!(filled.node.owner.drives()[3].state, DriveState::Leaving);
    for _ in 0..20_000 {
        filled.node.turn();
        if filled.state(3) == DriveState::Gone {
            break;
        }
    }
    assert_eq!(filled.state(3), DriveState::Gone, "{:?}", filled.node.owner.drives());
    assert!(filled.node.owner.remove_drive(3).is_err());
    world.remove_drive(NODE, path("d3"));
    setup.drives.truncate(3);
    setup.drives.reverse();
    let mut filled = filled.reopen(&world, &setup);
    assert!(filled.node.is_protected());
    filled.write_some(2, 10);
    filled.verify();
}

#[test]
fn re_protection_can_be_paused() {
    let world = World::new(6);
    let mut filled = Filled::new(&world, &setup(4));
    filled.node.stores[0].set_reprotection(true, 0);
    world.remove_drive(NODE, path("d0"));
    filled.write_some(1, 4);
    for _ in 0..2000 {
        filled.node.turn();
    }
    assert!(filled.node.space().at_risk_bytes > 0);
    assert_eq!(filled.state(0), DriveState::Out);
    filled.node.stores[0].set_reprotection(false, 4 << 20);
    filled.node.until_protected();
    filled.verify();
}

#[test]
fn two_drives_that_went_on_apart_are_refused_together() {
    let world = World::new(7);
    let setup = setup(2);
    let filled = Filled::new(&world, &setup);
    world.crash();
    drop(filled);
    world.remove_drive(NODE, path("d0"));
    drop(Node::open(&world, &setup).unwrap());
    world.return_drive(NODE, path("d0"));
    world.remove_drive(NODE, path("d1"));
    drop(Node::open(&world, &setup).unwrap());
    world.return_drive(NODE, path("d1"));
    let Err(StoreError::Refused(text)) = Node::open(&world, &setup) else { panic!("it opened") };
    assert!(text.contains("apart"), "{text}");
}

/// Of a mirror, the drive that was put out comes back alone: who remembers how far the pool had come refuses it.
#[test]
fn a_drive_that_was_left_behind_is_refused() {
    let world = World::new(10);
    let setup = setup(2);
    let mut filled = Filled::new(&world, &setup);
    world.remove_drive(NODE, path("d1"));
    filled.write_some(1, 4);
    let at_least = filled.node.owner.sequence();
    world.crash();
    drop(filled);
    world.return_drive(NODE, path("d1"));
    world.remove_drive(NODE, path("d0"));
    let (mut io, mut exec, candidates) = offline(&world, &setup);
    let options = |at_least, degraded| PoolOptions {
        shards: 1,
        parity: None,
        unit_bytes: None,
        seed: [1; 32],
        expect: None,
        at_least,
        absent: Vec::new(),
        degraded,
        let_go: Vec::new(),
        added: Vec::new(),
    };
    let opening = open_pool(exec.handle(), candidates.clone(), options(Ok(at_least), false));
    let Err(StoreError::Refused(text)) = run(&mut io, &mut exec, opening) else { panic!("it opened") };
    assert!(text.contains("missed"), "{text}");
    // Where nobody knows how far the pool had come, it is the drives that went on that open it.
    let unknown = || options(Err("the file is empty".into()), true);
    let opening = open_pool(exec.handle(), candidates, unknown());
    let Err(StoreError::Refused(text)) = run(&mut io, &mut exec, opening) else { panic!("it opened") };
    assert!(text.contains("the file is empty") && text.contains("d0"), "{text}");
    drop((io, exec));
    world.return_drive(NODE, path("d0"));
    world.remove_drive(NODE, path("d1"));
    let (mut io, mut exec, candidates) = offline(&world, &setup);
    let opening = open_pool(exec.handle(), candidates, unknown());
    let opened = run(&mut io, &mut exec, opening);
    assert!(opened.is_ok(), "d1 was out for those that went on: {opened:?}");
}

#[test]
fn parity_is_for_life_and_needs_its_drives() {
    let world = World::new(8);
    let too_few = Setup { drives: drives(1, 8), ..setup(2) };
    assert!(matches!(Node::open(&world, &too_few), Err(StoreError::Refused(_))));
    drop(Node::open(&world, &setup(3)).unwrap());
    let other = Setup { parity: 0, ..setup(3) };
    let Err(StoreError::Refused(text)) = Node::open(&world, &other) else { panic!("it opened") };
    assert!(text.contains("parity"), "{text}");
}

#[test]
fn a_drive_that_joins_widens_new_segments() {
    let world = World::new(9);
    let mut filled = Filled::new(&world, &setup(4));
    let before = filled.node.owner.capacity_bytes();
    filled.write_some(1, 4);
    let setup = setup(5);
    let mut filled = filled.reopen(&world, &setup);
    assert!(
        filled.node.owner.capacity_bytes() > before * 5 / 4,
        "more drives, and a smaller share of parity"
    );
    for round in 0..30 {
        filled.write_some(round, 8);
    }
    assert!(filled.node.owner.drives()[4].held_units > 0);
    let mut filled = filled.reopen(&world, &setup);
    world.remove_drive(NODE, path("d4"));
    filled.write_some(4, 4);
    filled.verify();
}

/// A drive fails in the middle of a checkpoint's body that takes several writes.
#[test]
fn a_drive_goes_while_a_body_is_written() {
    let world = World::new(11);
    let mut setup = Setup { drives: drives(2, 60), parity: 1, unit_bytes: 1 << 20, ..Setup::tiny(0) };
    setup.tuning.commit_bytes = 120 * 1024;
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    let put = |id: u8| Record::Put { key: key(id.into()), value: vec![id; 30 << 10].into() };
    (0..20).for_each(|id| node.commit(0, 2 + u64::from(id), vec![put(id)]).unwrap());
    node.checkpoint();
    world.fail_next(NODE, path("d1"), Fault::Write);
    node.checkpoint();
    assert_eq!(node.stores[0].stopped(), None);
    assert_ne!(node.owner.drives()[1].state, DriveState::In);
    drop(node);
    world.crash();
    let node = Node::open(&world, &setup).unwrap();
    let mut found = 0;
    node.stores[0].for_each_object(PgId(0), |key, value| {
        assert!(value.iter().all(|&byte| u128::from(byte) == key.id));
        found += 1;
    });
    assert_eq!(found, 20);
}
