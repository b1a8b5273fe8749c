//! What is lost is told by the states that show it, offline and by the pool that serves, and no longer than some state does.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::*;
use dolmen_sim::World;
use dolmen_store::*;
use dolmen_types::LineId;

/// Where the block that holds this value lies, as it was written, or as [`rot`] has left it.
fn find(world: &World, value: u64, rotten: bool) -> Vec<u64> {
    let image = world.image(NODE, path("d0"));
    let (mut want, mut block) = (vec![0; BLOCK], vec![0; BLOCK]);
    fill(&mut want, value);
    if rotten {
        want[100..103].copy_from_slice(b"rot");
    }
    let pages = (0..(8 << 20) / BLOCK as u64).map(|page| page * BLOCK as u64);
    let holds = |at: &u64| {
        image.read(*at, &mut block);
        block == want
    };
    pages.filter(holds).collect()
}

fn find_block(world: &World, value: u64) -> Vec<u64> {
    find(world, value, false)
}

fn rot(world: &World, values: &[u64]) {
    for &value in values {
        let places = find_block(world, value);
        assert!(!places.is_empty(), "{value}");
        places.iter().for_each(|at| world.overwrite(NODE, path("d0"), at + 100, b"rot"));
    }
}

const HEAD: (u64, Option<u64>) = (1, None);
const POINT: (u64, Option<u64>) = (1, Some(3));
const CLONE: (u64, Option<u64>) = (2, None);

/// First block, how many, and who shows them.
type Range = (u64, u64, Vec<(u64, Option<u64>)>);

fn ranges(lost: &[LostRange]) -> Vec<Range> {
    let view = |v: &View| (v.line.0, v.at.map(|s| s.0));
    let one = |r: &LostRange| {
        assert_eq!((r.line, r.cause), (LineId(1), LostCause::Damaged));
        (r.lba.0, r.blocks.0, r.views.iter().map(view).collect())
    };
    lost.iter().map(one).collect()
}

/// Line 1 with a snapshot in the midst, line 2 over that; some of what they hold rots.
fn rotten(world: &World, setup: &Setup) -> Node {
    let mut node = Node::open(world, setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    let record = node.write(1, 0, &[100, 101, 102, 103, 104, 105, 106, 107, 108, 109]);
    node.commit(0, 2, vec![record]).unwrap();
    node.commit(0, 3, vec![snapshot(1)]).unwrap();
    node.commit(0, 4, vec![clone_line(2, 1, 3)]).unwrap();
    let record = node.write(1, 0, &[200, 201, 202]);
    node.commit(0, 5, vec![record]).unwrap();
    let record = node.write(2, 4, &[304]);
    node.commit(0, 6, vec![record]).unwrap();
    node.checkpoint();
    rot(world, &[100, 201, 104, 105, 106]);
    node
}

fn all() -> Vec<Range> {
    vec![
        (0, 1, vec![POINT, CLONE]),
        (1, 1, vec![HEAD]),
        (4, 1, vec![HEAD, POINT]),
        (5, 2, vec![HEAD, POINT, CLONE]),
    ]
}

fn lost(node: &Node) -> Vec<Range> {
    ranges(&node.stores[0].lost())
}

/// Waits until this is what is told as lost.
fn until(node: &mut Node, want: &[Range]) {
    for _ in 0..50_000 {
        if lost(node) == want {
            return;
        }
        node.turn();
    }
    panic!("{:?} is told, not {want:?}", lost(node));
}

#[test]
fn the_check_names_who_shows_what_is_lost() {
    let world = World::new(1);
    let setup = Setup::tiny(64);
    drop(rotten(&world, &setup));
    let (mut io, mut exec, drives) = offline(&world, &setup);
    let checking = check_pool(exec.handle(), drives, Keyring::default());
    let report = run(&mut io, &mut exec, checking).unwrap();
    assert_eq!(ranges(&report.lost), all());
    assert_eq!((report.problems, report.others.len(), report.by_drive.len()), (5, 0, 0), "{report:?}");
}

#[test]
fn what_scrubbing_finds_is_told_until_nobody_shows_it() {
    let world = World::new(2);
    let setup = Setup::tiny(64);
    let mut node = rotten(&world, &setup);
    assert_eq!(lost(&node), []);
    node.stores[0].set_scrub(ScrubPlan { round: 1, paused: false, bytes_per_s: 0 });
    until(&mut node, &all());
    // Written, unmapped: what the snapshot and the clone show stays.
    let record = node.write(1, 5, &[205]);
    node.commit(0, 7, vec![record, unmap(1, 1, 1)]).unwrap();
    let mut left = all();
    left.splice(
        1..,
        [(4, 1, vec![HEAD, POINT]), (5, 1, vec![POINT, CLONE]), (6, 1, vec![HEAD, POINT, CLONE])],
    );
    until(&mut node, &left);
    // By what the map's leaves say, too.
    node.checkpoint();
    until(&mut node, &left);
    node.commit(0, 8, vec![drop_line(2)]).unwrap();
    node.commit(0, 9, vec![drop_snapshot(1, 3)]).unwrap();
    until(&mut node, &[(4, 1, vec![HEAD]), (6, 1, vec![HEAD])]);
    let record = node.write(1, 4, &[204, 205, 206]);
    node.commit(0, 10, vec![record]).unwrap();
    until(&mut node, &[]);
}

/// The header of a commit is gone, so that the map alone tells what lies there.
#[test]
fn what_no_commit_tells_of_is_told_by_the_map() {
    let world = World::new(4);
    let setup = Setup::tiny(64);
    let mut node = rotten(&world, &setup);
    let header = find_block(&world, 103)[0] - 4 * BLOCK as u64;
    world.overwrite(NODE, path("d0"), header + 100, b"rot");
    node.stores[0].set_scrub(ScrubPlan { round: 1, paused: false, bytes_per_s: 0 });
    until(&mut node, &all());
}

#[test]
fn what_a_host_cannot_read_is_told_whole() {
    let world = World::new(3);
    let setup = Setup::tiny(64);
    let mut node = rotten(&world, &setup);
    assert!(matches!(node.read(0, 1, 3, 5), Err(StoreError::Integrity { .. })));
    until(&mut node, &all()[2..]);
    assert!(node.read_at(0, 2, None, 0, 1).is_err());
    let mut told = all();
    told.remove(1);
    until(&mut node, &told);
}

/// What is lost is in the checkpoint of a clean stop, though nothing else has changed.
#[test]
fn what_is_lost_is_known_after_a_stop() {
    let world = World::new(5);
    let setup = Setup::tiny(64);
    let mut node = rotten(&world, &setup);
    assert!(node.read(0, 1, 3, 5).is_err());
    until(&mut node, &all()[2..]);
    node.shutdown();
    let mut node = Node::open(&world, &setup).unwrap();
    until(&mut node, &all()[2..]);
    // It can be read again; whoever knows of it finds that out.
    drop(node);
    for value in [104, 105, 106] {
        let (mut block, places) = (vec![0; BLOCK], find(&world, value, true));
        assert!(!places.is_empty(), "{value}");
        fill(&mut block, value);
        places.iter().for_each(|at| world.overwrite(NODE, path("d0"), *at, &block));
    }
    let mut node = Node::open(&world, &setup).unwrap();
    until(&mut node, &all()[2..]);
    until(&mut node, &[]);
    assert_eq!(node.read(0, 1, 4, 3).unwrap(), [104, 105, 106]);
}

/// A checkpoint comes for what was found lost: a crash forgets nothing that is older than a minute. What was overwritten and trimmed between
/// the checkpoint and the crash is lost no more.
#[test]
fn what_is_lost_is_known_after_a_crash() {
    for changed in [false, true] {
        let world = World::new(6);
        let setup = Setup::tiny(64);
        let mut node = rotten(&world, &setup);
        // By hosts: no cleaning comes upon it again after a start.
        assert!(node.read(0, 1, 0, 8).is_err() && node.read(0, 2, 0, 1).is_err());
        until(&mut node, &all());
        node.turns_for(61_000);
        let mut left = all();
        if changed {
            let record = node.write(1, 5, &[205]);
            node.commit(0, 7, vec![record, unmap(1, 1, 1)]).unwrap();
            left.splice(
                1..,
                [(4, 1, vec![HEAD, POINT]), (5, 1, vec![POINT, CLONE]), (6, 1, vec![HEAD, POINT, CLONE])],
            );
        }
        drop(node);
        world.crash();
        let mut node = Node::open(&world, &setup).unwrap();
        until(&mut node, &left);
        // Nor does it come back.
        node.turns_for(20_000);
        assert_eq!(lost(&node), left);
    }
}

/// Whoever comes upon one lost block after the other makes a checkpoint a minute, and no more.
#[test]
fn many_losses_make_few_checkpoints() {
    let world = World::new(7);
    let setup = Setup::tiny(64);
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    let values: Vec<u64> = (100..148).collect();
    for (i, some) in (0..).zip(values.chunks(12)) {
        let record = node.write(1, i * 12, some);
        node.commit(0, 2 + i, vec![record]).unwrap();
    }
    node.checkpoint();
    rot(&world, &values);
    let before = node.stores[0].checkpoints();
    for lba in 0..48 {
        assert!(node.read(0, 1, lba, 1).is_err());
        node.turns_for(5_000);
    }
    let came = node.stores[0].checkpoints() - before;
    assert!((3..=5).contains(&came), "{came} in four minutes");
    drop(node);
    world.crash();
    let mut node = Node::open(&world, &setup).unwrap();
    (0..20_000).for_each(|_| node.turn());
    let told: u64 = lost(&node).iter().map(|range| range.1).sum();
    assert!((35..=48).contains(&told), "{told}");
}

/// Sectors that can't be read, can be after all, and then can't be again.
#[test]
fn what_is_lost_once_more_is_told_once_more() {
    let world = World::new(5);
    let setup = Setup::tiny(64);
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    let record = node.write(1, 0, &[100, 101]);
    node.commit(0, 2, vec![record]).unwrap();
    node.checkpoint();
    for round in 1..=2 {
        find_block(&world, 101).iter().for_each(|&at| world.spoil(NODE, path("d0"), at, BLOCK as u64));
        // Another look at the same loss is no other one.
        for more in 0..2 {
            node.stores[0].set_scrub(ScrubPlan { round: 2 * round + more, paused: false, bytes_per_s: 0 });
            while node.stores[0].scrub().unwrap().finished < 2 * round + more {
                node.turn();
            }
        }
        node.turns_for(3000);
        let [LostRange { lba, blocks, .. }] = node.stores[0].lost()[..] else { panic!("round {round}") };
        assert_eq!((lba.0, blocks.0, node.stores[0].scrub().unwrap().lost), (1, 1, round));
        world.unspoil(NODE, path("d0"));
        node.turns_for(660_000);
        assert!(node.stores[0].lost().is_empty());
    }
}
