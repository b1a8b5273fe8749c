//! The offline check of pools with parity: it tells what is lost from what other columns still have.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::filled::{Filled, mute, setup};
use common::*;
use dolmen_sim::World;
use dolmen_store::*;
use std::collections::BTreeMap;

fn check(world: &World, setup: &Setup) -> CheckReport {
    let (mut io, mut exec, drives) = offline(world, setup);
    let checking = check_pool(exec.handle(), drives, Keyring::default());
    run(&mut io, &mut exec, checking).unwrap()
}

#[test]
fn columns_are_compared_and_rot_is_told_from_loss() {
    for (count, parity) in [(2, 1), (4, 1), (5, 2)] {
        let world = World::new(count as u64);
        let mut setup = Setup { drives: drives(count, 10), parity, unit_bytes: 128 * 1024, ..Setup::tiny(0) };
        setup.tuning.commit_bytes = 120 * 1024;
        let mut node = Node::open(&world, &setup).unwrap();
        node.commit(0, 1, vec![create(1)]).unwrap();
        for seq in 2..120 {
            let values: Vec<u64> = (0..1 + seq % 9).map(|i| seq * 100 + i).collect();
            let record = node.write(1, seq * 7 % 90, &values);
            node.commit(0, seq, vec![record]).unwrap();
        }
        node.checkpoint();
        drop(node);
        world.crash();
        let report = check(&world, &setup);
        assert_eq!((report.problems, report.mendable), (0, 0), "{report:?}");
        assert!(report.commits > 20 && report.blocks > 50, "{report:?}");
        // Rot behind the segments' headers of one drive.
        let rot = |drive: &str| {
            for unit in 0..72u64 {
                for page in 1..32 {
                    world.overwrite(
                        NODE,
                        path(drive),
                        (4 << 20) + unit * (128 << 10) + page * 4096 + 9,
                        b"rot",
                    );
                }
            }
        };
        rot("d0");
        let report = check(&world, &setup);
        assert_eq!(report.problems, 0, "{report:?}");
        assert!(report.mendable > 0, "{report:?}");
        // No other drive is blamed, for the parity least of all.
        assert!(report.named.iter().all(|d| d.place.contains("d0")), "{report:?}");
        let [of] = report.by_drive.as_slice() else { panic!("{:?}", report.by_drive) };
        assert!(of.path.ends_with("d0") && of.blocks > 0 && of.columns > 0 && of.absent == 0, "{of:?}");
        let counted = of.blocks + of.columns + of.pages + of.labels;
        assert_eq!((counted, report.lost.len()), (report.mendable, 0), "{of:?}");
        // On more than the pool can lose: lost, and named.
        (1..=parity).for_each(|i| rot(&format!("d{i}")));
        let report = check(&world, &setup);
        assert!(report.problems > 0 && !report.named.is_empty(), "{count} drives: {report:?}");
    }
}

/// A commit whose heads are gone from all drives: its blocks are named by the map, and nobody can move them.
#[test]
fn commits_that_are_not_found_are_told() {
    for which in [<[u64]>::first, <[u64]>::last] {
        let world = World::new(9);
        let setup = Setup { drives: drives(2, 10), parity: 1, ..Setup::tiny(0) };
        let mut node = Node::open(&world, &setup).unwrap();
        node.commit(0, 1, vec![create(1)]).unwrap();
        for seq in 2..40 {
            let record = node.write(1, seq, &[seq]);
            node.commit(0, seq, vec![record]).unwrap();
        }
        node.checkpoint();
        drop(node);
        world.crash();
        // The first and the last one of a segment that is full.
        for drive in ["d0", "d1"] {
            let (image, mut page, unit) = (world.image(NODE, path(drive)), vec![0; BLOCK], 64 << 10);
            let mut heads: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
            for at in (4 << 20..13 << 20).step_by(BLOCK) {
                image.read(at, &mut page);
                if page.starts_with(b"dolmCOMT") {
                    heads.entry(at / unit).or_default().push(at);
                }
            }
            let full = heads.values().find(|h| h.len() == 7).unwrap_or_else(|| panic!("{heads:?}"));
            world.overwrite(NODE, path(drive), which(full).unwrap() + 8, b"rot");
        }
        let report = check(&world, &setup);
        assert_eq!((report.problems, report.blocks, report.lost.len()), (1, 38, 0), "{report:?}");
        assert!(report.others[0].what.contains("heads of a commit"), "{report:?}");
    }
}

/// A drive that stops to answer behind its superblocks, or among its units: the check says so, and goes on without it.
#[test]
fn a_drive_that_does_not_answer_is_told_and_gone_around() {
    for (parity, from) in [(1, 32 << 10), (1, 1 << 20), (1, 4 << 20), (2, 32 << 10), (2, 6 << 20)] {
        let world = World::new(60);
        let setup = Setup { parity, ..setup(5) };
        let Filled { node, .. } = Filled::new(&world, &setup);
        node.shutdown();
        let before = check(&world, &setup);
        mute(&world, "d1", from);
        let (began, report) = (world.now(), check(&world, &setup));
        let took = world.now().since(began);
        assert!(took < 120_000_000_000, "{parity}, {from}: {took} ns");
        assert_eq!((report.problems, report.lines), (0, 1), "{parity}, {from}: {report:?}");
        assert_eq!(report.blocks, before.blocks, "{parity}, {from}");
        let silent = |d: &&Damage| d.place.contains("d1") && d.what.contains("does not answer");
        if report.findings.is_empty() {
            assert!(report.named.iter().filter(silent).count() > 0, "{parity}, {from}: {:?}", report.named);
            assert_eq!(report.commits, before.commits, "{parity}, {from}");
        } else {
            // The very look at it was in vain.
            let told = format!("{:?}", report.findings);
            assert!(from < 1 << 20 && told.contains("does not answer"), "{parity}, {from}: {told}");
        }
        // No other drive is blamed.
        assert!(report.by_drive.iter().all(|d| d.path.ends_with("d1")), "{parity}, {from}: {report:?}");
    }
}
