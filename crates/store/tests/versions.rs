//! Snapshots and clones one by one: what they keep, what is refused, how far they go, and every crash state of short lives.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::*;
use dolmen_sim::{CrashLimits, DriveFaults, World};
use dolmen_store::*;
use dolmen_types::{Lba, LineId, PgId, Seq};
use std::collections::BTreeMap;

fn info(node: &Node, line: u64) -> Option<LineInfo> {
    node.stores[0].line(PgId(0), LineId(line))
}

fn usage(node: &Node, line: u64) -> LineUsage {
    node.stores[0].usage(PgId(0), LineId(line))
}

/// The batch is not taken in.
fn no(node: &mut Node, seq: u64, records: Vec<Record>) {
    let refused = node.append(0, seq, records);
    assert!(matches!(refused, Err(AppendError::Invalid(_))), "{refused:?}");
}

#[test]
fn what_is_refused() {
    let mut node = Node::open(&World::new(1), &Setup::tiny(48)).unwrap();
    no(&mut node, 1, vec![snapshot(1)]);
    node.commit(0, 1, vec![create(1)]).unwrap();
    no(&mut node, 2, vec![clone_line(2, 1, 1)]);
    node.commit(0, 2, vec![snapshot(1)]).unwrap();
    no(&mut node, 3, vec![clone_line(1, 1, 2)]);
    no(&mut node, 3, vec![clone_line(2, 1, 3)]);
    no(&mut node, 3, vec![drop_snapshot(1, 2), clone_line(2, 1, 2)]);
    assert_eq!(
        node.read_at(0, 1, Some(9), 0, 1),
        Err(StoreError::NoSnapshot { line: LineId(1), at: Seq(9) })
    );
    // One over the other, as deep as it goes, without waiting for any of it.
    let mut seq = 2;
    let mut tickets = Vec::new();
    for line in 2..=MAX_CLONE_DEPTH as u64 {
        let (parent, at) = (line - 1, if line == 2 { 2 } else { seq });
        seq += 1;
        tickets.push(node.append(0, seq, vec![clone_line(line, parent, at), snapshot(line)]).unwrap());
    }
    no(&mut node, seq + 1, vec![clone_line(99, MAX_CLONE_DEPTH as u64, seq)]);
    tickets.into_iter().for_each(|t| assert_eq!(node.wait(t).result, Ok(())));
    no(&mut node, seq + 1, vec![clone_line(99, MAX_CLONE_DEPTH as u64, seq)]);
    // What lies at the bottom is read through all of them.
    let record = node.write(1, 3, &[77]);
    node.commit(0, seq + 1, vec![record]).unwrap();
    assert_eq!(node.read(0, MAX_CLONE_DEPTH as u64, 0, 8).unwrap(), [0; 8]);
    // A dropped line is not written any more, and dropping what is not there is nothing.
    node.commit(0, seq + 2, vec![drop_line(1), drop_snapshot(1, 1), drop_snapshot(77, 1)]).unwrap();
    no(&mut node, seq + 3, vec![unmap(1, 0, 1)]);
    no(&mut node, seq + 3, vec![snapshot(1)]);
    assert_eq!(info(&node, 1), Some(LineInfo { head: false, snapshots: vec![Seq(2)], parent: None }));
}

#[test]
fn a_batch_of_all_kinds_is_one_instant() {
    let world = World::new(2);
    let mut node = Node::open(&world, &Setup::tiny(48)).unwrap();
    let records = vec![create(1), create(2), node.write(1, 0, &[11, 12]), node.write(2, 0, &[21])];
    node.commit(0, 1, records).unwrap();
    // Two lines at one instant; what the batch writes is in, wherever the record stands; a clone of it at once.
    let records = vec![
        node.write(1, 0, &[13]),
        snapshot(1),
        snapshot(2),
        node.write(2, 1, &[22]),
        clone_line(3, 1, 2),
        unmap(1, 1, 1),
    ];
    node.commit(0, 2, records).unwrap();
    let records = vec![node.write(1, 0, &[14, 15]), node.write(2, 0, &[23, 24]), node.write(3, 5, &[31])];
    node.commit(0, 3, records).unwrap();
    // A rollback of the first line, in one batch.
    node.commit(0, 4, vec![clone_line(4, 1, 2), drop_line(1)]).unwrap();
    for life in 0..3 {
        assert_eq!(node.read_at(0, 1, Some(2), 0, 2).unwrap(), [13, 0]);
        assert_eq!(node.read_at(0, 2, Some(2), 0, 2).unwrap(), [21, 22]);
        assert_eq!(node.read(0, 2, 0, 2).unwrap(), [23, 24]);
        assert_eq!(node.read(0, 3, 0, 6).unwrap(), [13, 0, 0, 0, 0, 31]);
        assert_eq!(node.read(0, 4, 0, 6).unwrap(), [13, 0, 0, 0, 0, 0]);
        assert_eq!(node.read(0, 1, 0, 1), Err(StoreError::NoLine(LineId(1))));
        if life == 0 {
            node.checkpoint();
        }
        world.crash();
        node = Node::open(&world, &Setup::tiny(48)).unwrap();
    }
    // The snapshot goes, the clones keep what they show.
    node.commit(0, 5, vec![drop_snapshot(1, 2), drop_snapshot(2, 2)]).unwrap();
    assert_eq!(node.read(0, 4, 0, 2).unwrap(), [13, 0]);
    node.commit(0, 6, vec![drop_line(3), drop_line(2)]).unwrap();
    (0..3).for_each(|_| node.checkpoint());
    assert_eq!(node.read(0, 4, 0, 2).unwrap(), [13, 0]);
    assert_eq!(node.space().live_bytes - node.space().map_bytes, 4096);
    node.commit(0, 7, vec![drop_line(4)]).unwrap();
    (0..3).for_each(|_| node.checkpoint());
    assert_eq!(node.space().live_bytes, node.space().map_bytes);
    assert_eq!((info(&node, 1), info(&node, 4)), (None, None));
}

/// A volume that was rolled back, rolled back again and written anew takes what it holds, whether its snapshots go before or after, and
/// by itself: nobody asks for a checkpoint.
#[test]
fn what_was_overwritten_since_a_rollback_comes_back() {
    const BLOCKS: u64 = 300;
    let fresh = |n: u64| -> Vec<u64> { (0..BLOCKS).map(|lba| n * 1000 + lba).collect() };
    let write_all = |node: &mut Node, seq: &mut u64, line: u64| {
        *seq += 1;
        for part in 0..BLOCKS / 5 {
            let values = &fresh(*seq)[(part * 5) as usize..((part + 1) * 5) as usize];
            let record = node.write(line, part * 5, values);
            node.commit(0, *seq + part, vec![record]).unwrap();
        }
        *seq += BLOCKS / 5;
        fresh(*seq - BLOCKS / 5)
    };
    for (case, early) in [true, false].into_iter().enumerate() {
        let world = World::new(60 + case as u64);
        let mut node = Node::open(&world, &Setup::tiny(160)).unwrap();
        node.commit(0, 1, vec![create(1)]).unwrap();
        let mut seq = 1;
        write_all(&mut node, &mut seq, 1);
        for line in [1, 2] {
            // A snapshot, half of it overwritten, and back.
            let (at, overwritten) = (seq + 1, vec![7; 5]);
            node.commit(0, at, vec![snapshot(line)]).unwrap();
            let record = node.write(line, 0, &overwritten);
            node.commit(0, at + 1, vec![record]).unwrap();
            node.commit(0, at + 2, vec![clone_line(line + 1, line, at), drop_line(line)]).unwrap();
            seq = at + 2;
            if early {
                seq += 1;
                node.commit(0, seq, vec![drop_snapshot(line, at)]).unwrap();
            }
            if line == 1 {
                // The middle one of three lines holds some blocks itself.
                let record = node.write(2, 50, &[8; 5]);
                seq += 1;
                node.commit(0, seq, vec![record]).unwrap();
            }
        }
        let want = write_all(&mut node, &mut seq, 3);
        assert!(stored(&node) >= BLOCKS);
        if !early {
            let snapshots: Vec<(u64, u64)> = [1, 2]
                .iter()
                .flat_map(|&l| info(&node, l).unwrap().snapshots.into_iter().map(move |s| (l, s.0)))
                .collect();
            assert_eq!(snapshots.len(), 2);
            seq += 1;
            node.commit(0, seq, snapshots.into_iter().map(|(l, at)| drop_snapshot(l, at)).collect()).unwrap();
        }
        // A minute: the last changes are looked at ten seconds later at most.
        for _ in 0..1200 {
            node.turn();
        }
        assert_eq!(stored(&node), BLOCKS, "{:?}", node.space());
        for life in 0..2 {
            let parts = (0..BLOCKS).step_by(10).map(|lba| node.read(0, 3, lba, 10).unwrap());
            assert_eq!(parts.collect::<Vec<_>>().concat(), want, "life {life}");
            world.crash();
            node = Node::open(&world, &Setup::tiny(160)).unwrap();
        }
    }
}

/// After a restart: line 2 shows the blocks 11, 12, 13 of line 1, of which nothing else is left.
fn rolled_back(world: &World, setup: &Setup) -> Node {
    let mut node = Node::open(world, setup).unwrap();
    let record = node.write(1, 0, &[11, 12, 13]);
    node.commit(0, 1, vec![create(1), record]).unwrap();
    node.commit(0, 2, vec![snapshot(1)]).unwrap();
    node.commit(0, 3, vec![clone_line(2, 1, 2), drop_line(1), drop_snapshot(1, 2)]).unwrap();
    (0..3).for_each(|_| node.checkpoint());
    drop(node);
    world.crash();
    Node::open(world, setup).unwrap()
}

/// Stored blocks that count.
fn stored(node: &Node) -> u64 {
    (node.space().live_bytes - node.space().map_bytes) / BLOCK as u64
}

/// A leaf of the old line that drives fail to read for a while is left alone: nobody needs it for what the new one was written.
#[test]
fn what_is_only_swept_is_not_given_up() {
    let (world, setup) = (World::new(78), Setup::tiny(160));
    let mut node = rolled_back(&world, &setup);
    let (image, mut page, mut spoilt) = (world.image(NODE, path("d0")), vec![0; BLOCK], 0);
    for at in (4 << 20..setup.drives[0].1).step_by(BLOCK) {
        image.read(at, &mut page);
        if page.starts_with(b"dolmPAGE") {
            world.spoil(NODE, path("d0"), at, 512);
            spoilt += 1;
        }
    }
    assert!(spoilt > 0);
    let record = node.write(2, 0, &[21]);
    node.commit(0, 4, vec![record]).unwrap();
    (0..3).for_each(|_| node.checkpoint());
    world.unspoil(NODE, path("d0"));
    assert_eq!(node.read(0, 2, 0, 3).unwrap(), [21, 12, 13]);
    assert_eq!(node.space().integrity_errors, 0);
    let record = node.write(2, 1, &[22]);
    node.commit(0, 5, vec![record]).unwrap();
    (0..3).for_each(|_| node.checkpoint());
    assert_eq!(stored(&node), 3);
    assert_eq!(node.read(0, 2, 0, 3).unwrap(), [21, 22, 13]);
}

/// A read that waits for a leaf of the old line while its block is written in the new one, and given up in the old one, finds what
/// is there now or what was there before.
#[test]
fn a_read_under_way_does_not_fall_between_two_lines() {
    let (world, setup) = (World::new(77), Setup::tiny(160));
    let mut node = rolled_back(&world, &setup);
    // Its leaf is on the drive alone, and takes a while.
    let slow = DriveFaults { latency_ns: (900_000_000, 900_000_000), ..DriveFaults::default() };
    world.set_faults(NODE, path("d0"), slow);
    let reads = [node.start_read(0, 2, 0, 1), node.start_read(0, 2, 0, 3)];
    node.turn();
    world.set_faults(NODE, path("d0"), DriveFaults::default());
    let record = node.write(2, 0, &[21]);
    node.commit(0, 4, vec![record]).unwrap();
    node.checkpoint();
    assert_eq!((stored(&node), node.done.len()), (3, 0), "the old block is given up while the reads wait");
    for (ticket, want) in reads.into_iter().zip([&[21][..], &[21, 12, 13]]) {
        let done = node.wait(ticket);
        done.result.unwrap();
        assert_eq!(values(&done.buf.unwrap()), want);
    }
}

/// A line that was dropped stays until checkpoints have freed what it had; nothing new takes its place meanwhile.
#[test]
fn a_line_is_new_once() {
    let world = World::new(2);
    let mut node = Node::open(&world, &Setup::tiny(48)).unwrap();
    node.commit(0, 1, vec![create(1), create(7), node.write(7, 0, &[11])]).unwrap();
    node.commit(0, 2, vec![drop_line(7)]).unwrap();
    no(&mut node, 3, vec![create(7)]);
    world.crash();
    let mut node = Node::open(&world, &Setup::tiny(48)).unwrap();
    assert_eq!((info(&node, 7), node.stores[0].highest_line()), (None, LineId(7)));
    no(&mut node, 3, vec![create(7)]);
    no(&mut node, 3, vec![create(1)]);
    no(&mut node, 3, vec![create(8), create(8)]);
    node.commit(0, 3, vec![create(8), node.write(8, 0, &[12])]).unwrap();
}

#[test]
fn figures_tell_what_the_head_and_the_snapshots_need() {
    let mut node = Node::open(&World::new(3), &Setup::tiny(64)).unwrap();
    let records = vec![create(1), node.write(1, 0, &[1, 2, 3, 4, 5, 6, 7, 8])];
    node.commit(0, 1, records).unwrap();
    let blocks = |u: LineUsage| {
        assert_eq!(u.stored_bytes, u.head_bytes + u.shared_bytes + u.snapshot_bytes);
        assert_eq!(u.own_blocks * 4096, u.head_bytes + u.shared_bytes);
        (u.mapped_blocks, u.head_bytes / 4096, u.shared_bytes / 4096, u.snapshot_bytes / 4096)
    };
    node.checkpoint();
    assert_eq!(blocks(usage(&node, 1)), (8, 8, 0, 0));
    node.commit(0, 2, vec![snapshot(1)]).unwrap();
    assert_eq!(blocks(usage(&node, 1)), (8, 0, 8, 0));
    let records = vec![node.write(1, 0, &[10, 11]), unmap(1, 7, 1)];
    node.commit(0, 3, records).unwrap();
    blocks(usage(&node, 1));
    node.checkpoint();
    assert_eq!(blocks(usage(&node, 1)), (7, 2, 5, 3));
    node.commit(0, 4, vec![snapshot(1)]).unwrap();
    let record = node.write(1, 1, &[12]);
    node.commit(0, 5, vec![record]).unwrap();
    node.checkpoint();
    assert_eq!(blocks(usage(&node, 1)), (7, 1, 6, 4));
    // Without the newer snapshot what it shared is the head's again; the sweep takes a checkpoint.
    node.commit(0, 6, vec![drop_snapshot(1, 4)]).unwrap();
    (0..2).for_each(|_| node.checkpoint());
    assert_eq!(blocks(usage(&node, 1)), (7, 2, 5, 3));
    // A clone has what it inherits, and takes nothing.
    node.commit(0, 7, vec![clone_line(2, 1, 2)]).unwrap();
    assert_eq!(blocks(usage(&node, 2)), (8, 0, 0, 0));
}

/// What lines take together that are one for somebody: those that a rollback has left behind, too, but nothing that others hold.
#[test]
fn figures_of_several_lines_count_what_only_they_hold() {
    let mut node = Node::open(&World::new(3), &Setup::tiny(64)).unwrap();
    let records = vec![create(1), node.write(1, 0, &[1, 2, 3, 4]), snapshot(1)];
    node.commit(0, 1, records).unwrap();
    let records = vec![node.write(1, 0, &[5, 6]), snapshot(1)];
    node.commit(0, 2, records).unwrap();
    // Back to the first; and a clone of that for somebody else.
    node.commit(0, 3, vec![clone_line(2, 1, 1), drop_line(1), clone_line(3, 1, 1)]).unwrap();
    let record = node.write(2, 3, &[7]);
    node.commit(0, 4, vec![record]).unwrap();
    let figures = |node: &Node, line: u64, others: &[u64]| {
        let others: Vec<LineId> = others.iter().map(|l| LineId(*l)).collect();
        let u = node.stores[0].usage_with(PgId(0), LineId(line), &others);
        assert_eq!(u.stored_bytes, u.head_bytes + u.shared_bytes + u.snapshot_bytes);
        [u.own_blocks * 4096, u.head_bytes, u.shared_bytes, u.snapshot_bytes].map(|b| b / 4096)
    };
    node.checkpoint();
    assert_eq!(figures(&node, 2, &[1]), [1, 1, 0, 6], "named by two snapshots");
    assert_eq!(figures(&node, 2, &[]), [1, 1, 0, 0]);
    assert_eq!(figures(&node, 3, &[]), [0; 4]);
    node.commit(0, 5, vec![drop_snapshot(1, 2)]).unwrap();
    (0..2).for_each(|_| node.checkpoint());
    assert_eq!(figures(&node, 2, &[1]), [5, 1, 4, 0]);
    node.commit(0, 6, vec![drop_snapshot(1, 1)]).unwrap();
    assert_eq!(figures(&node, 2, &[]), [1, 1, 0, 0], "two clones hold it");
    assert_eq!(figures(&node, 2, &[3]), [5, 1, 4, 0], "both of them are one");
    node.commit(0, 7, vec![drop_line(2)]).unwrap();
    assert_eq!(figures(&node, 3, &[]), [4, 4, 0, 0]);
    // What a snapshot of it needs, too, dropping it would not give back.
    node.commit(0, 8, vec![snapshot(3)]).unwrap();
    assert_eq!(figures(&node, 3, &[]), [4, 0, 4, 0]);
}

#[test]
fn a_discarded_clone_hides_its_parent_with_one_slot() {
    let world = World::new(4);
    let mut setup = Setup::tiny(64);
    setup.tuning.delta_entries = 4096;
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    for i in 0..40u64 {
        let record = node.write(1, i << 34, &[i + 1; 4]);
        node.commit(0, 2 + i, vec![record]).unwrap();
    }
    node.commit(0, 50, vec![snapshot(1)]).unwrap();
    node.commit(0, 51, vec![clone_line(2, 1, 50)]).unwrap();
    node.commit(0, 52, vec![unmap(2, 0, u64::MAX)]).unwrap();
    let record = node.write(2, 5 << 34, &[99]);
    node.commit(0, 53, vec![record]).unwrap();
    let before = node.space().map_bytes;
    for _ in 0..2 {
        node.checkpoint();
        for i in 0..40u64 {
            assert_eq!(node.read(0, 1, i << 34, 4).unwrap(), [i + 1; 4]);
            let first = if i == 5 { 99 } else { 0 };
            assert_eq!(node.read(0, 2, i << 34, 4).unwrap(), [first, 0, 0, 0]);
        }
    }
    // The parent's leaves, one for each far place, and one more for the clone, with their nodes.
    assert!(node.space().map_bytes - before < 50 * 4096, "{:?}", node.space());
}

/// The same block by block, upwards and in no order, over several checkpoints.
#[test]
fn blocks_that_are_trimmed_one_by_one_are_one_hole() {
    const TRIMMED: u64 = 3000;
    let world = World::new(4);
    let mut setup = Setup::tiny(96);
    setup.tuning.delta_entries = 512;
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create(1), node.write(1, 100, &[11, 12, 13])]).unwrap();
    node.commit(0, 2, vec![snapshot(1), clone_line(2, 1, 2), clone_line(3, 1, 2)]).unwrap();
    let mut seq = 2;
    for i in 0..TRIMMED {
        seq += 1;
        // Each number below TRIMMED once.
        let records = vec![unmap(2, i, 1), unmap(3, i * 1009 % TRIMMED, 1)];
        node.commit(0, seq, records).unwrap();
        if i == TRIMMED / 2 {
            // What was trimmed before and after is told apart by this.
            seq += 1;
            node.commit(0, seq, vec![snapshot(3)]).unwrap();
        }
    }
    let point = 2 + TRIMMED / 2 + 2;
    let before = node.read_at(0, 3, Some(point), 100, 3).unwrap();
    for _ in 0..2 {
        node.checkpoint();
        node.checkpoint();
        assert_eq!(node.read(0, 1, 100, 3).unwrap(), [11, 12, 13]);
        assert_eq!(node.read(0, 2, 100, 3).unwrap(), [0; 3]);
        assert_eq!(node.read(0, 3, 100, 3).unwrap(), [0; 3]);
        assert_eq!(node.read_at(0, 3, Some(point), 100, 3).unwrap(), before);
        // Nothing has changed but for the three blocks.
        let [from, to] = [(1, Some(Seq(2))), (2, None)].map(|(line, at)| View { line: LineId(line), at });
        let asked = DiffRequest { from: Some(from), to, first: Lba(0), end: Lba(TRIMMED), limit: 10 };
        let page = node.diff(0, asked).unwrap();
        let ranges: Vec<(u64, u64, bool)> =
            page.ranges.iter().map(|r| (r.lba.0, r.blocks.0, r.mapped)).collect();
        assert_eq!(ranges, [(100, 3, false)]);
        world.crash();
        node = Node::open(&world, &setup).unwrap();
    }
    // Without the snapshot nothing tells any of them apart.
    node.commit(0, seq + 1, vec![drop_snapshot(3, point)]).unwrap();
    (0..4).for_each(|_| node.checkpoint());
    assert_eq!(node.read(0, 3, 100, 3).unwrap(), [0; 3]);
    assert!(node.space().map_bytes < 12 * 4096, "{:?}", node.space());
}

#[test]
fn many_snapshots_of_a_few_blocks_come_back_whole() {
    let world = World::new(5);
    let setup = Setup::tiny(128);
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    let (mut seq, mut states) = (1, Vec::new());
    let mut blocks = vec![0; 6];
    for i in 0..330u64 {
        let lba = i % 3;
        seq += 1;
        blocks[lba as usize] = seq;
        let mut records = vec![node.write(1, lba, &[seq])];
        if i % 7 == 0 {
            blocks[4] = 0;
            records.push(unmap(1, 4, 1));
        } else if i % 7 == 3 {
            blocks[4] = seq;
            records.push(node.write(1, 4, &[seq]));
        }
        records.push(snapshot(1));
        node.commit(0, seq, records).unwrap();
        states.push((seq, blocks.clone()));
    }
    node.checkpoint();
    world.crash();
    let mut node = Node::open(&world, &setup).unwrap();
    for (at, blocks) in &states {
        assert_eq!(&node.read_at(0, 1, Some(*at), 0, 6).unwrap(), blocks, "snapshot {at}");
    }
    // Every second one goes; the others are as they were.
    for (at, _) in states.iter().step_by(2) {
        seq += 1;
        node.commit(0, seq, vec![drop_snapshot(1, *at)]).unwrap();
    }
    (0..4).for_each(|_| node.checkpoint());
    for (at, blocks) in states.iter().skip(1).step_by(2) {
        assert_eq!(&node.read_at(0, 1, Some(*at), 0, 6).unwrap(), blocks, "snapshot {at}");
    }
    assert_eq!(node.read(0, 1, 0, 6).unwrap(), blocks);
    node.shutdown();
    let (mut io, mut exec, drives) = offline(&world, &setup);
    let check = check_pool(exec.handle(), drives, Keyring::default());
    let report = run(&mut io, &mut exec, check).unwrap();
    assert_eq!(report.problems, 0, "{:?}", report.named);
    assert!(report.blocks > 150);
}

/// A block whose leaves lie in two nodes, between blocks so far apart that each has a leaf of its own.
#[test]
fn versions_of_one_block_span_nodes() {
    const FAR: u64 = 55;
    let world = World::new(6);
    let mut setup = Setup::tiny(192);
    (setup.tuning.cache_bytes, setup.tuning.delta_entries) = (256 * BLOCK, 512);
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    let (middle, mut seq) = (FAR << 33, 1);
    for i in (0..=2 * FAR).filter(|i| *i != FAR) {
        seq += 1;
        let record = node.write(1, i << 33, &[seq]);
        node.commit(0, seq, vec![record]).unwrap();
    }
    let mut states = Vec::new();
    for _ in 0..700 {
        seq += 1;
        let records = vec![node.write(1, middle, &[seq]), snapshot(1)];
        node.commit(0, seq, records).unwrap();
        states.push(seq);
    }
    let far = |i: u64| if i < FAR { 2 + i } else { 1 + i };
    let verify = |node: &mut Node, states: &[u64], head: u64| {
        for at in states.iter().step_by(13).chain(states.last()) {
            assert_eq!(node.read_at(0, 1, Some(*at), middle, 1).unwrap(), [*at]);
        }
        for i in (0..=2 * FAR).filter(|i| *i != FAR) {
            assert_eq!(node.read(0, 1, i << 33, 1).unwrap(), [far(i)]);
        }
        assert_eq!(node.read(0, 1, middle - 1, 3).unwrap(), [0, head, 0]);
    };
    for life in 0..2 {
        node.checkpoint();
        verify(&mut node, &states, *states.last().unwrap());
        if life == 0 {
            world.crash();
            node = Node::open(&world, &setup).unwrap();
        }
    }
    // The head goes on, others come between, points go: only what is seen stays.
    let records =
        vec![node.write(1, middle, &[9999]), unmap(1, 3 << 33, 1), node.write(1, 3 << 33, &[far(3)])];
    node.commit(0, seq + 1, records).unwrap();
    seq += 1;
    for (i, at) in states.iter().enumerate().filter(|(i, _)| i % 4 != 0) {
        seq += 1;
        node.commit(0, seq, vec![drop_snapshot(1, *at)]).unwrap_or_else(|e| panic!("{i}: {e}"));
    }
    states = states.into_iter().step_by(4).collect();
    for _ in 0..6 {
        node.checkpoint();
        verify(&mut node, &states, 9999);
    }
    // The far block that was rewritten is in the snapshots as it was before.
    let blocks = (node.space().live_bytes - node.space().map_bytes) / BLOCK as u64;
    assert_eq!(blocks, 2 * FAR + 1 + states.len() as u64 + 1);
}

/// One step of a short life.
#[derive(Clone, Copy)]
enum Step {
    Write(u64, u64, u64),
    Unmap(u64, u64, u64),
    Snapshot(u64),
    DropSnapshot(u64, u64),
    Clone(u64, u64, u64),
    Drop(u64),
    Checkpoint,
}

const BLOCKS: u64 = 12;

/// What can be read: by line and snapshot.
type States = BTreeMap<(u64, Option<u64>), Vec<u64>>;

fn apply(step: Step, seq: u64, states: &States) -> States {
    let mut next = states.clone();
    let mut set = |line: u64, first: u64, values: Vec<u64>| {
        let head = next.get_mut(&(line, None)).unwrap();
        head[first as usize..first as usize + values.len()].copy_from_slice(&values);
    };
    match step {
        Step::Write(line, first, n) => set(line, first, (0..n).map(|i| seq * 100 + i).collect()),
        Step::Unmap(line, first, n) => set(line, first, vec![0; n as usize]),
        Step::Snapshot(line) => drop(next.insert((line, Some(seq)), states[&(line, None)].clone())),
        Step::DropSnapshot(line, at) => drop(next.remove(&(line, Some(at)))),
        Step::Clone(line, parent, at) => {
            drop(next.insert((line, None), states[&(parent, Some(at))].clone()));
        }
        Step::Drop(line) => drop(next.remove(&(line, None))),
        Step::Checkpoint => {}
    }
    next
}

fn found(node: &mut Node) -> States {
    let mut states = States::new();
    for line in 1..6 {
        let Some(info) = info(node, line) else { continue };
        let views = info.snapshots.iter().map(|s| Some(s.0)).chain(info.head.then_some(None));
        for at in views.collect::<Vec<_>>() {
            states.insert((line, at), node.read_at(0, line, at, 0, BLOCKS as usize).unwrap());
        }
    }
    states
}

/// Every crash state of a life: some prefix of it must be there, with a second cut behind.
fn enumerate(steps: &[Step]) -> usize {
    let (world, setup) = (World::new(78), Setup::tiny(32));
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    world.start_recording();
    let empty = States::from([((1, None), vec![0; BLOCKS as usize])]);
    let (mut seq, mut states) = (1, vec![States::new(), empty]);
    for &step in steps {
        let record = match step {
            Step::Checkpoint => {
                node.checkpoint();
                continue;
            }
            Step::Write(line, first, n) => {
                node.write(line, first, &(0..n).map(|i| (seq + 1) * 100 + i).collect::<Vec<_>>())
            }
            Step::Unmap(line, first, n) => unmap(line, first, n),
            Step::Snapshot(line) => snapshot(line),
            Step::DropSnapshot(line, at) => drop_snapshot(line, at),
            Step::Clone(line, parent, at) => clone_line(line, parent, at),
            Step::Drop(line) => drop_line(line),
        };
        seq += 1;
        states.push(apply(step, seq, states.last().unwrap()));
        node.commit(0, seq, vec![record]).unwrap();
        world.mark(seq);
    }
    let recording = world.stop_recording().unwrap();
    let mut count = 0;
    for state in recording.crash_states(CrashLimits { per_point: 16, total: 400, seed: 9 }) {
        count += 1;
        let world = World::restore(count, &state);
        for cut in 0..2 {
            let mut node = Node::open(&world, &setup).unwrap_or_else(|e| panic!("{}: {e}", state.label));
            let highest = node.stores[0].marks(PgId(0)).highest_seq.0;
            assert!(highest >= state.mark.unwrap_or(1), "{}: found {highest}", state.label);
            assert_eq!(found(&mut node), states[highest as usize], "{} cut {cut}", state.label);
            if cut == 0 {
                // What is not needed goes, what is stays, whatever was replayed.
                (0..2).for_each(|_| node.checkpoint());
                assert_eq!(found(&mut node), states[highest as usize], "{} merged", state.label);
            }
            world.crash();
        }
    }
    count as usize
}

#[test]
fn every_crash_state_of_snapshots_that_come_and_go() {
    let count = enumerate(&[
        Step::Write(1, 0, 6),
        Step::Snapshot(1),
        Step::Write(1, 2, 3),
        Step::Checkpoint,
        Step::Unmap(1, 0, 4),
        Step::Snapshot(1),
        Step::Write(1, 1, 2),
        Step::DropSnapshot(1, 3),
        Step::Checkpoint,
        Step::Write(1, 0, 1),
        Step::Checkpoint,
        Step::DropSnapshot(1, 6),
        Step::Unmap(1, 0, 9),
    ]);
    assert!(count > 60, "{count} states only");
}

#[test]
fn every_crash_state_of_clones_and_a_rollback() {
    let count = enumerate(&[
        Step::Write(1, 0, 6),
        Step::Snapshot(1),
        Step::Clone(2, 1, 3),
        Step::Write(2, 4, 4),
        Step::Checkpoint,
        Step::Unmap(2, 0, 3),
        Step::Drop(1),
        Step::Snapshot(2),
        Step::Clone(3, 2, 8),
        Step::Checkpoint,
        Step::DropSnapshot(1, 3),
        Step::Drop(2),
        Step::DropSnapshot(2, 8),
        Step::Checkpoint,
        Step::Write(3, 1, 1),
        Step::Drop(3),
    ]);
    assert!(count > 60, "{count} states only");
}
