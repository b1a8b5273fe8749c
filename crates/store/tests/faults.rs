//! Drives that fail, rot and lie: nothing wrong is ever served, nothing acknowledged is lost silently.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::*;
use dolmen_sim::{Fault, Rng, World};
use dolmen_store::*;
use dolmen_types::{Lba, LineId, Seq};
use std::collections::BTreeMap;

fn filled(world: &World, setup: &Setup) -> Node {
    let mut node = Node::open(world, setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    for i in 0..10 {
        let record = node.write(1, i * 4, &[i + 1, i + 2, i + 3, i + 4]);
        node.commit(0, i + 2, vec![record]).unwrap();
    }
    node
}

fn expect(i: u64) -> Vec<u64> {
    vec![i + 1, i + 2, i + 3, i + 4]
}

#[test]
fn a_failed_write_stops_the_shard_and_loses_nothing() {
    let world = World::new(1);
    let setup = Setup::tiny(32);
    let mut node = filled(&world, &setup);
    world.fail_next(NODE, path("d0"), Fault::Write);
    let record = node.write(1, 0, &[99]);
    assert!(matches!(node.commit(0, 20, vec![record]), Err(StoreError::Stopped { .. })));
    let record = node.write(1, 0, &[99]);
    assert!(matches!(node.commit(0, 21, vec![record]), Err(StoreError::Stopped { .. })));
    assert!(node.stores[0].stopped().is_some());
    for i in 0..10 {
        assert_eq!(node.read(0, 1, i * 4, 4).unwrap(), expect(i));
    }
    drop(node);
    let mut node = Node::open(&world, &setup).unwrap();
    for i in 1..10 {
        assert_eq!(node.read(0, 1, i * 4, 4).unwrap(), expect(i));
    }
    assert!([1, 99].contains(&node.read(0, 1, 0, 1).unwrap()[0]));
}

#[test]
fn a_failed_flush_stops_the_shard() {
    let world = World::new(2);
    let setup = Setup::tiny(32);
    let mut node = filled(&world, &setup);
    world.fail_next(NODE, path("d0"), Fault::Flush);
    node.stores[0].checkpoint();
    for _ in 0..2000 {
        node.turn();
    }
    assert!(node.stores[0].stopped().is_some_and(|(_, reason)| reason.contains("flush")));
    for i in 0..10 {
        assert_eq!(node.read(0, 1, i * 4, 4).unwrap(), expect(i));
    }
    world.crash();
    drop(node);
    let mut node = Node::open(&world, &setup).unwrap();
    for i in 0..10 {
        assert_eq!(node.read(0, 1, i * 4, 4).unwrap(), expect(i));
    }
}

#[test]
fn a_failed_read_fails_that_read_alone() {
    let world = World::new(3);
    let mut node = filled(&world, &Setup::tiny(32));
    world.fail_next(NODE, path("d0"), Fault::Read);
    let ticket = node.start_read(0, 1, 0, 4);
    let done = node.wait(ticket);
    assert!(matches!(done.result, Err(StoreError::Medium { .. })));
    assert!(done.buf.is_some());
    assert_eq!(node.read(0, 1, 0, 4).unwrap(), expect(0));
}

/// Offset on the drive of the block that was filled with `value`.
fn find_block(world: &World, value: u64) -> Vec<u64> {
    let image = world.image(NODE, path("d0"));
    let mut want = vec![0; BLOCK];
    fill(&mut want, value);
    let mut block = vec![0; BLOCK];
    (0..(6 << 20) / BLOCK as u64)
        .map(|i| i * BLOCK as u64)
        .filter(|&at| {
            image.read(at, &mut block);
            block == want
        })
        .collect()
}

#[test]
fn a_rotten_block_is_an_integrity_error_with_its_address() {
    let world = World::new(4);
    let mut node = filled(&world, &Setup::tiny(32));
    let places = find_block(&world, 13);
    assert_eq!(places.len(), 1);
    world.overwrite(NODE, path("d0"), places[0] + 100, b"rot");
    assert_eq!(node.read(0, 1, 36, 4), Err(StoreError::Integrity { line: LineId(1), lba: Lba(39) }));
    assert_eq!(node.read(0, 1, 36, 3).unwrap(), [10, 11, 12]);
    assert_eq!(node.space().integrity_errors, 1);
}

#[test]
fn a_right_block_in_a_wrong_place_is_caught() {
    let world = World::new(5);
    let mut node = filled(&world, &Setup::tiny(32));
    // Blocks 1 and 4 hold the same bytes; exchanging them is invisible, moving a third one there is not.
    let (from, to) = (find_block(&world, 12), find_block(&world, 13));
    let image = world.image(NODE, path("d0"));
    let mut block = vec![0; BLOCK];
    image.read(from[0], &mut block);
    world.overwrite(NODE, path("d0"), to[0], &block);
    assert!(matches!(node.read(0, 1, 39, 1), Err(StoreError::Integrity { .. })));
}

#[test]
fn a_hole_before_acknowledged_commits_is_refused() {
    let world = World::new(6);
    let setup = Setup::tiny(32);
    let node = filled(&world, &setup);
    drop(node);
    // The header of the fourth commit or so: the page before the block filled with 5 in its first place.
    let image = world.image(NODE, path("d0"));
    let mut page = vec![0; BLOCK];
    let headers: Vec<u64> = (0..1536)
        .map(|i| i * BLOCK as u64)
        .filter(|&at| {
            image.read(at, &mut page);
            page.starts_with(b"dolmCOMT")
        })
        .collect();
    assert_eq!(headers.len(), 11);
    world.overwrite(NODE, path("d0"), headers[4] + 20, b"rot");
    let error = Node::open(&world, &setup).err().expect("a hole is no end");
    assert!(matches!(&error, StoreError::Corrupt(text) if text.contains("acknowledged")), "{error}");
}

/// Overwrites of few blocks, some under way at a time, cut off at some moment; cleaning goes on beside them. What each block may hold.
fn cut_off(world: &World, setup: &Setup, seed: u64) -> BTreeMap<u64, Vec<u64>> {
    let mut node = Node::open(world, setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    let (mut rng, mut values, mut under_way) = (Rng::new(seed), BTreeMap::<u64, Vec<u64>>::new(), Vec::new());
    for seq in 2..400 + seed {
        let lba = rng.next_u64() % 96;
        let record = node.write(1, lba, &[seq]);
        under_way.push((node.append(0, seq, vec![record]).unwrap(), lba, seq));
        let most = rng.next_u64() as usize % 12;
        while under_way.len() > most {
            node.turn();
            for (_, lba, seq) in under_way.extract_if(.., |(ticket, ..)| node.done.remove(ticket).is_some()) {
                values.insert(lba, vec![seq]);
            }
        }
    }
    for (_, lba, seq) in under_way {
        values.entry(lba).or_insert_with(|| vec![0]).push(seq);
    }
    world.crash();
    values
}

/// A commit that lies on a drive.
struct Lying {
    at: u64,
    number: u64,
    durable_through: u64,
    /// It stores blocks.
    stores: bool,
}

fn commits(world: &World, setup: &Setup) -> Vec<Lying> {
    let (image, mut page) = (world.image(NODE, path("d0")), vec![0; BLOCK]);
    let commit = |at| {
        image.read(at, &mut page);
        let word = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap());
        let stores = word(16) >> 32 != 0;
        let is = page.starts_with(b"dolmCOMT");
        is.then(|| Lying { at, number: word(64), durable_through: word(88), stores })
    };
    (0..setup.drives[0].1).step_by(BLOCK).filter_map(commit).collect()
}

/// A commit that rots is missed when any other, in whichever stream, says that it was durable.
#[test]
fn a_rotten_commit_is_missed_when_another_knows_of_it() {
    let setup =
        Setup { tuning: ShardTuning { delta_entries: 4096, ..Setup::tiny(24).tuning }, ..Setup::tiny(24) };
    let (mut refused, mut ends) = (0, 0);
    for seed in 0..4 {
        let world = World::new(seed);
        cut_off(&world, &setup, seed);
        let all = commits(&world, &setup);
        let newest = all.iter().map(|c| c.number).max().unwrap();
        for rotten in all.iter().filter(|c| c.number + 16 > newest) {
            let world = World::new(seed);
            let values = cut_off(&world, &setup, seed);
            world.overwrite(NODE, path("d0"), rotten.at + 20, b"rot");
            let known = all.iter().any(|c| c.number > rotten.number && c.durable_through >= rotten.number);
            match Node::open(&world, &setup) {
                Err(StoreError::Corrupt(text)) if text.contains("acknowledged") && known => refused += 1,
                Err(error) => panic!("seed {seed}, commit {}: {error}", rotten.number),
                Ok(mut node) => {
                    ends += 1;
                    // Before a checkpoint it is needed no more.
                    for (&lba, may) in &values {
                        let is = node.read(0, 1, lba, 1).unwrap()[0];
                        assert!(
                            !known || may.contains(&is),
                            "seed {seed}, {}: {is}, not {may:?}",
                            rotten.number
                        );
                    }
                }
            }
        }
    }
    assert!(refused > 0 && ends > 0, "{refused} refused, {ends} taken for ends");
}

/// A commit whose blocks rot is believed when any other says that it was durable, one behind a hole too.
#[test]
fn a_rotten_payload_hides_no_commit_that_another_knows() {
    let setup =
        Setup { tuning: ShardTuning { delta_entries: 4096, ..Setup::tiny(24).tuning }, ..Setup::tiny(24) };
    let (mut rotten, mut holes) = (0, 0);
    for seed in 0..12 {
        let world = World::new(seed);
        cut_off(&world, &setup, seed);
        let all = commits(&world, &setup);
        let known = all.iter().map(|c| c.durable_through).max().unwrap();
        let says = |c: &Lying| c.number > known + 1 && c.durable_through == known;
        let hole = all.iter().find(|c| c.number == known + 1 && all.iter().any(says)).map(|c| c.at);
        holes += usize::from(hole.is_some());
        let blocks = |damaged: Option<u64>| {
            let world = World::new(seed);
            cut_off(&world, &setup, seed);
            for at in hole.into_iter().chain(damaged) {
                world.overwrite(NODE, path("d0"), at + 20, b"rot");
            }
            let mut node = Node::open(&world, &setup).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            (0..96).map(|lba| node.read(0, 1, lba, 1)).collect::<Vec<_>>()
        };
        let sound = blocks(None);
        for commit in all.iter().filter(|c| c.stores && c.number <= known && c.number + 8 > known) {
            for (lba, (is, was)) in blocks(Some(commit.at + BLOCK as u64)).iter().zip(&sound).enumerate() {
                let damaged = matches!(is, Err(StoreError::Integrity { .. }));
                assert!(damaged || is == was, "seed {seed}, commit {}, block {lba}: {is:?}", commit.number);
                rotten += usize::from(damaged);
            }
        }
    }
    assert!(rotten > 0 && holes > 0, "{rotten} blocks rotten, {holes} holes");
}

/// Any damage anywhere: an error or right data, never wrong data, never a panic.
#[test]
fn mutated_drives_never_serve_wrong_data() {
    let setup = Setup::tiny(24);
    let mut refused = 0;
    for seed in 0..60 {
        let world = World::new(seed);
        let mut rng = Rng::new(seed);
        let mut node = filled(&world, &setup);
        if seed % 2 == 0 {
            node.checkpoint();
        }
        let record = node.write(1, 100, &[7]);
        node.commit(0, 50, vec![record]).unwrap();
        drop(node);
        let image = world.image(NODE, path("d0"));
        let mut page = vec![0; BLOCK];
        let pages: Vec<u64> = (0..(setup.drives[0].1 / BLOCK as u64))
            .map(|i| i * BLOCK as u64)
            .filter(|&at| {
                image.read(at, &mut page);
                page.iter().any(|&b| b != 0)
            })
            .collect();
        for _ in 0..1 + seed % 3 {
            let at = pages[(rng.next_u64() % pages.len() as u64) as usize] + rng.next_u64() % BLOCK as u64;
            world.overwrite(NODE, path("d0"), at, &rng.next_u64().to_le_bytes()[..1 + seed as usize % 8]);
        }
        match Node::open(&world, &setup) {
            Err(_) => refused += 1,
            Ok(mut node) => {
                for i in 0..10 {
                    match node.read(0, 1, i * 4, 4) {
                        Ok(got) => {
                            // The very last commits may have been cut off as if torn; older ones may not.
                            assert!(
                                got == expect(i) || (i == 9 && got == [0; 4]),
                                "seed {seed}, write {i}: {got:?}"
                            );
                        }
                        Err(
                            StoreError::Integrity { .. } | StoreError::Map { .. } | StoreError::NoLine(_),
                        ) => {}
                        Err(other) => panic!("seed {seed}: {other}"),
                    }
                }
            }
        }
    }
    assert!(refused > 0 && refused < 60, "{refused} of 60 refused");
}

/// Damages every page of a line's map of this level (0 for leaves, 1 for nodes) that is on the drive; how many.
fn rot_pages(world: &World, (drive, bytes): (&str, u64), line: u64, level: u8) -> usize {
    let image = world.image(NODE, path(drive));
    let mut page = vec![0; BLOCK];
    let pages: Vec<u64> = (0..bytes / BLOCK as u64)
        .map(|i| i * BLOCK as u64)
        .filter(|&at| {
            image.read(at, &mut page);
            page.starts_with(b"dolmPAGE") && page[18] == level && page[40..48] == line.to_le_bytes()
        })
        .collect();
    pages.iter().for_each(|&at| world.overwrite(NODE, path(drive), at + 1000, b"rot"));
    pages.len()
}

fn is_lost(result: &Result<Vec<u64>, StoreError>) -> bool {
    matches!(result, Err(StoreError::Integrity { .. } | StoreError::Map { .. }))
}

/// A leaf of the map that nothing gives costs the blocks that it named, and those alone: whatever needs it goes on.
#[test]
fn a_lost_leaf_costs_its_blocks_alone() {
    for scrubbed in [false, true] {
        let world = World::new(9);
        let setup = Setup::tiny(64);
        let mut node = filled(&world, &setup);
        node.commit(0, 20, vec![snapshot(1)]).unwrap();
        node.commit(0, 21, vec![clone_line(3, 1, 20)]).unwrap();
        node.commit(0, 22, vec![create(2)]).unwrap();
        let other = node.write(2, 0, &[70, 71]);
        node.commit(0, 23, vec![other]).unwrap();
        node.checkpoint();
        drop(node);
        assert!(rot_pages(&world, setup.drives[0], 1, 0) > 0);
        let mut node = Node::open(&world, &setup).unwrap();
        if scrubbed {
            node.stores[0].set_scrub(ScrubPlan { round: 1, paused: false, bytes_per_s: 0 });
            (0..2000).for_each(|_| node.turn());
            let report = node.stores[0].scrub().unwrap();
            assert_eq!((report.finished, report.lost, report.mended), (1, 1, 0), "{report:?}");
        }
        let record = node.write(1, 5, &[500]);
        node.commit(0, 30, vec![record, unmap(1, 6, 1)]).unwrap();
        node.checkpoint();
        for restarted in [false, true] {
            assert_eq!(node.stores[0].stopped(), None);
            let told = format!("scrubbed {scrubbed}, restarted {restarted}");
            assert_eq!(node.read(0, 1, 5, 2).unwrap(), [500, 0], "{told}");
            for lba in (0..40).filter(|lba| !(5..7).contains(lba)) {
                assert!(is_lost(&node.read(0, 1, lba, 1)), "{told}, block {lba}");
            }
            assert!(is_lost(&node.read_at(0, 1, Some(20), 5, 1)), "{told}: the snapshot had it otherwise");
            assert!(is_lost(&node.read(0, 3, 0, 1)), "{told}: the clone shows what was lost");
            assert_eq!(node.read(0, 2, 0, 2).unwrap(), [70, 71], "{told}");
            let view = |at: Option<u64>| View { line: LineId(1), at: at.map(Seq) };
            let changes = DiffRequest {
                from: Some(view(Some(20))),
                to: view(None),
                first: Lba(0),
                end: Lba(40),
                limit: 10,
            };
            assert!(node.diff(0, changes).is_err(), "{told}: nobody knows what changed");
            if !restarted {
                drop(node);
                node = Node::open(&world, &setup).unwrap();
            }
        }
        // The line, its snapshot and the clone show it as lost, but for what was written and unmapped since.
        let told = |node: &Node, view: (u64, Option<u64>)| {
            let lost = node.stores[0].lost().into_iter();
            let shown =
                lost.filter(|r| r.views.contains(&View { line: LineId(view.0), at: view.1.map(Seq) }));
            // It reaches to the end of the volume, which nobody knows here.
            shown.map(|r| r.lba.0.saturating_add(r.blocks.0).min(40).saturating_sub(r.lba.0)).sum::<u64>()
        };
        // So it is after a start of which nobody has read anything.
        node.checkpoint();
        drop(node);
        node = Node::open(&world, &setup).unwrap();
        (0..20_000).for_each(|_| node.turn());
        assert_eq!(told(&node, (1, None)), 38, "{:?}", node.stores[0].lost());
        assert!(is_lost(&node.read_at(0, 1, Some(20), 6, 1)), "{:?}", node.read_at(0, 1, Some(20), 6, 1));
        (0..20_000).for_each(|_| node.turn());
        assert_eq!(told(&node, (1, None)), 38, "{:?}", node.stores[0].lost());
        assert!(
            told(&node, (1, Some(20))) >= 40 && told(&node, (3, None)) > 0,
            "{:?}",
            node.stores[0].lost()
        );
        // What is written anew is as good as any.
        for i in 0..10 {
            let record = node.write(1, i * 4, &expect(i));
            node.commit(0, 40 + i, vec![record]).unwrap();
        }
        node.checkpoint();
        (0..20_000).for_each(|_| node.turn());
        assert_eq!(told(&node, (1, None)), 0, "{:?}", node.stores[0].lost());
        assert!(told(&node, (1, Some(20))) >= 40, "{:?}", node.stores[0].lost());
        for i in 0..10 {
            assert_eq!(node.read(0, 1, i * 4, 4).unwrap(), expect(i));
        }
        drop(node);
        let report = check_offline(&world, &setup);
        assert!(report.problems > 0, "the snapshot lacks it: {report:?}");
        let mut node = Node::open(&world, &setup).unwrap();
        // And what is not needed goes.
        node.commit(0, 60, vec![drop_line(3)]).unwrap();
        node.commit(0, 61, vec![drop_snapshot(1, 20)]).unwrap();
        (0..3).for_each(|_| node.checkpoint());
        for i in 0..10 {
            assert_eq!(node.read(0, 1, i * 4, 4).unwrap(), expect(i));
        }
        node.commit(0, 62, vec![drop_line(1)]).unwrap();
        (0..3).for_each(|_| node.checkpoint());
        let record = node.write(2, 0, &[72]);
        node.commit(0, 63, vec![record]).unwrap();
        assert_eq!(node.read(0, 2, 0, 2).unwrap(), [72, 71]);
    }
}

/// So it is with a node, of which a start would have all leaves.
#[test]
fn a_lost_node_costs_its_line_alone() {
    let world = World::new(11);
    let setup = Setup::tiny(64);
    let mut node = filled(&world, &setup);
    node.commit(0, 20, vec![create(2)]).unwrap();
    let other = node.write(2, 0, &[70, 71]);
    node.commit(0, 21, vec![other]).unwrap();
    node.checkpoint();
    drop(node);
    assert!(rot_pages(&world, setup.drives[0], 1, 1) > 0);
    let mut node = Node::open(&world, &setup).unwrap();
    assert!(is_lost(&node.read(0, 1, 8, 1)));
    assert_eq!(node.read(0, 2, 0, 2).unwrap(), [70, 71]);
    let record = node.write(1, 8, &[80]);
    node.commit(0, 22, vec![record]).unwrap();
    node.checkpoint();
    drop(node);
    let mut node = Node::open(&world, &setup).unwrap();
    assert_eq!(node.read(0, 1, 8, 1).unwrap(), [80]);
    assert!(is_lost(&node.read(0, 1, 9, 1)));
    assert_eq!(node.read(0, 2, 0, 2).unwrap(), [70, 71]);
}

/// Of the pages under it nobody knows any more which they are: they keep no segment, and so no drive.
#[test]
fn what_lies_under_a_lost_node_keeps_no_drive() {
    let world = World::new(12);
    let setup = Setup { drives: drives(2, 24), ..Setup::tiny(0) };
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create(1), create(2)]).unwrap();
    for i in 0..200u64 {
        let values: Vec<u64> = (0..14).map(|k| i * 14 + k + 1).collect();
        let record = node.write(1 + i % 10 / 9, i * 14, &values);
        node.commit(0, 2 + i, vec![record]).unwrap();
    }
    node.checkpoint();
    drop(node);
    let rotten: usize = setup.drives.iter().map(|&drive| rot_pages(&world, drive, 1, 1)).sum();
    assert!(rotten > 0);
    let mut node = Node::open(&world, &setup).unwrap();
    node.owner.remove_drive(1).unwrap();
    let is_gone = |node: &mut Node| {
        node.turn();
        node.owner.drives()[1].state == DriveState::Gone
    };
    assert!((0..20_000).any(|_| is_gone(&mut node)), "{:?} {:?}", node.owner.drives(), node.space());
    let checkpoints = node.stores[0].checkpoints();
    (0..1000).for_each(|_| node.turn());
    assert!(node.stores[0].checkpoints() < checkpoints + 3, "nothing is left to be done");
    let check = |node: &mut Node| {
        let mut lost = 0;
        for i in 0..200u64 {
            match node.read(0, 1 + i % 10 / 9, i * 14, 14) {
                Ok(values) => assert_eq!(values, (0..14).map(|k| i * 14 + k + 1).collect::<Vec<_>>()),
                read => lost += usize::from(i % 10 < 9 && is_lost(&read)),
            }
        }
        // What was written since the last checkpoint but one is known.
        assert!((150..180).contains(&lost), "{lost}");
    };
    check(&mut node);
    drop(node);
    let mut node = Node::open(&world, &setup).unwrap();
    check(&mut node);
    // And when the line is deleted nothing of its map is left.
    node.commit(0, 300, vec![drop_line(1)]).unwrap();
    node.turns_for(5_000);
    (0..3).for_each(|_| node.checkpoint());
    assert!(node.space().map_bytes < 20 * BLOCK as u64, "{:?}", node.space());
}

/// A line whose map is damaged can be deleted as it is.
#[test]
fn a_line_with_a_lost_leaf_is_deleted() {
    let world = World::new(10);
    let setup = Setup::tiny(64);
    let mut node = filled(&world, &setup);
    node.commit(0, 20, vec![create(2)]).unwrap();
    node.checkpoint();
    drop(node);
    assert!(rot_pages(&world, setup.drives[0], 1, 0) > 0);
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 21, vec![drop_line(1)]).unwrap();
    (0..3).for_each(|_| node.checkpoint());
    let record = node.write(2, 0, &[7]);
    node.commit(0, 22, vec![record]).unwrap();
    assert_eq!(node.read(0, 2, 0, 1).unwrap(), [7]);
    drop(node);
    let report = check_offline(&world, &setup);
    assert_eq!((report.problems, report.lines), (0, 1), "{report:?}");
}

/// However much of it is: nobody misses what it held.
#[test]
fn a_line_with_nothing_but_lost_leaves_is_deleted() {
    let world = World::new(13);
    let setup = Setup::tiny(1000);
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create(1), create(2)]).unwrap();
    for i in 0..650u64 {
        let values: Vec<u64> = (0..14).map(|k| i * 14 + k + 1).collect();
        let record = node.write(1, i * 14, &values);
        node.commit(0, 2 + i, vec![record]).unwrap();
    }
    node.checkpoint();
    drop(node);
    let rotten = rot_pages(&world, setup.drives[0], 1, 0);
    assert!(rotten > 70, "{rotten}");
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 700, vec![drop_line(1)]).unwrap();
    (0..3).for_each(|_| node.checkpoint());
    for seq in [701, 702] {
        assert_eq!(node.stores[0].stopped(), None);
        let record = node.write(2, 0, &[seq]);
        node.commit(0, seq, vec![record]).unwrap();
        assert_eq!(node.read(0, 2, 0, 1).unwrap(), [seq]);
        drop(node);
        node = Node::open(&world, &setup).unwrap();
    }
}

/// The offline check over the drives of a node that is down.
fn check_offline(world: &World, setup: &Setup) -> CheckReport {
    let (mut io, mut exec, drives) = offline(world, setup);
    let checking = check_pool(exec.handle(), drives, Keyring::default());
    run(&mut io, &mut exec, checking).unwrap()
}

#[test]
fn the_offline_check_reads_everything_and_names_what_is_damaged() {
    let world = World::new(8);
    let setup = Setup::tiny(32);
    let mut node = filled(&world, &setup);
    node.checkpoint();
    let record = node.write(1, 2, &[500, 501]);
    node.commit(0, 60, vec![record]).unwrap();
    node.commit(0, 61, vec![unmap(1, 1000, 1)]).unwrap();
    drop(node);
    let report = check_offline(&world, &setup);
    assert_eq!((report.problems, report.lines, report.blocks), (0, 1, 40), "{report:?}");
    let before = world.image(NODE, path("d0"));
    for value in [13, 501] {
        let place = find_block(&world, value)[0];
        world.overwrite(NODE, path("d0"), place + 8, b"rot");
    }
    let report = check_offline(&world, &setup);
    assert_eq!(report.problems, 2, "{report:?}");
    assert_eq!(report.named[0].lba, Some(Lba(39)), "{report:?}");
    assert_eq!(report.named[1].lba, Some(Lba(3)), "{report:?}");
    // It changed nothing.
    let after = world.image(NODE, path("d0"));
    assert_eq!(before.pages(), after.pages());
    // The head of a commit that a checkpoint holds: all blocks can be read, and cleaning can't go through the segment.
    let unit = u64::from(setup.unit_bytes);
    let segment = ((find_block(&world, 5)[0] - (4 << 20)) / unit * unit) + (4 << 20);
    let mut page = vec![0; BLOCK];
    let is_commit = |at: &u64| {
        after.read(*at, &mut page);
        page.starts_with(b"dolmCOMT")
    };
    let heads: Vec<u64> = (segment..segment + unit).step_by(BLOCK).filter(is_commit).collect();
    for (i, at) in [heads[0], *heads.last().unwrap()].into_iter().enumerate() {
        world.overwrite(NODE, path("d0"), at + 8, b"rot");
        let report = check_offline(&world, &setup);
        assert_eq!(
            (report.problems, report.others.len(), report.blocks),
            (3 + i as u64, 1 + i, 40),
            "{report:?}"
        );
        assert!(report.others[i].what.contains("heads of a commit"), "{report:?}");
    }
    // The head of the whole segment.
    world.overwrite(NODE, path("d0"), segment + 8, b"rot");
    let report = check_offline(&world, &setup);
    assert_eq!((report.problems, report.others.len()), (3, 1), "{report:?}");
    assert!(report.others[0].what.contains("heads of a segment"), "{report:?}");
    Node::open(&world, &setup).unwrap();
}
