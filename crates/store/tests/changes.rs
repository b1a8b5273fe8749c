//! Listings of changes of volumes whose maps take long to read: they come in pages, each in time.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::*;
use dolmen_sim::{DriveFaults, World};
use dolmen_store::*;
use dolmen_types::{Lba, LineId, PgId, Seq};

/// Runs of blocks, so far apart that each has a leaf.
const RUNS: u64 = 600;

/// Most of a page's time in the drives' slowest moment here: what a page is worked on, and a window on top. Nanoseconds.
const PAGE_NS: u64 = 1_500_000_000;

/// First block of a run.
fn first(run: u64) -> u64 {
    run << 33
}

/// A pool that keeps so many leaves in memory.
fn setup(cached: usize) -> Setup {
    let mut setup = Setup::tiny(640);
    (setup.tuning.delta_entries, setup.tuning.cache_bytes) = (512, cached * BLOCK);
    setup
}

/// A read from these drives takes so long that all leaves together take half a minute.
fn slow_down(world: &World) {
    let latency_ns = (40_000_000, 40_000_000);
    world.set_faults(NODE, path("d0"), DriveFaults { latency_ns, ..DriveFaults::default() });
}

fn whole(from: Option<View>, to: View) -> DiffRequest {
    DiffRequest { from, to, first: Lba(0), end: Lba(first(RUNS + 1)), limit: 1000 }
}

/// All pages of a listing: ranges and how many pages there were, none of which took long.
fn pages(node: &mut Node, mut request: DiffRequest) -> (Vec<ChangedRange>, usize) {
    let (mut ranges, mut count) = (Vec::new(), 0);
    loop {
        let began = node.io.now();
        let page = node.diff(0, request).unwrap();
        let took = node.io.now().since(began);
        assert!(took < PAGE_NS, "page {count} took {} ms", took / 1_000_000);
        count += 1;
        ranges.extend(page.ranges);
        let Some(next) = page.next else { return (ranges, count) };
        assert!(next > request.first && next < request.end, "{next:?} behind {:?}", request.first);
        request.first = next;
    }
}

/// A line with something in every run, snapshots before and after a late run is written again.
fn filled(world: &World, cached: usize) -> (Node, View, View) {
    let mut node = Node::open(world, &setup(cached)).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    for run in 0..RUNS {
        let record = node.write(1, first(run), &[run + 1; 4]);
        node.commit(0, 2 + run, vec![record]).unwrap();
    }
    let seq = RUNS + 2;
    node.commit(0, seq, vec![snapshot(1)]).unwrap();
    let record = node.write(1, first(RUNS - 10) + 1, &[7; 2]);
    node.commit(0, seq + 1, vec![record]).unwrap();
    node.commit(0, seq + 2, vec![snapshot(1)]).unwrap();
    node.checkpoint();
    let view = |at: u64| View { line: LineId(1), at: Some(Seq(at)) };
    (node, view(seq), view(seq + 2))
}

#[test]
fn a_large_map_is_listed_in_pages() {
    let world = World::new(1);
    let (mut node, old, new) = filled(&world, 4);
    slow_down(&world);
    let (ranges, count) = pages(&mut node, whole(Some(old), new));
    assert_eq!(ranges.iter().map(|r| (r.lba.0, r.blocks.0)).collect::<Vec<_>>(), [(first(RUNS - 10) + 1, 2)]);
    assert!(count > 1, "some of these {count} pages were to be empty");
    let (ranges, _) = pages(&mut node, whole(None, new));
    let want: Vec<(u64, u64)> = (0..RUNS).map(|run| (first(run), 4)).collect();
    assert_eq!(ranges.iter().map(|r| (r.lba.0, r.blocks.0)).collect::<Vec<_>>(), want);
}

/// Where memory is not that short, leaves are read ahead.
#[test]
fn leaves_are_read_together() {
    let world = World::new(4);
    let (mut node, old, new) = filled(&world, 64);
    slow_down(&world);
    let began = node.io.now();
    let (ranges, _) = pages(&mut node, whole(Some(old), new));
    assert_eq!(ranges.len(), 1);
    // One after the other they would take 24 s.
    let took_ms = node.io.now().since(began) / 1_000_000;
    assert!(took_ms < 6_000, "{took_ms} ms");
}

/// Whoever gave up leaves nothing behind that keeps others out for long.
#[test]
fn listings_that_nobody_waits_for_end() {
    let world = World::new(2);
    let (mut node, old, new) = filled(&world, 64);
    slow_down(&world);
    let request = whole(Some(old), new);
    (0..MAX_DIFFS as u64).for_each(|n| node.stores[0].diff(PgId(0), request, Ticket(n)));
    let mut ended = Vec::new();
    let began = node.io.now();
    // One more is told that there are too many.
    node.stores[0].diff(PgId(0), request, Ticket(100));
    while ended.len() <= MAX_DIFFS && node.io.now().since(began) < 10 * PAGE_NS {
        node.turn();
        node.stores[0].drain_diffs(&mut ended);
    }
    let refused = |d: &&DiffDone| matches!(d.result, Err(StoreError::Refused(_)));
    assert_eq!(ended.iter().filter(refused).map(|d| d.ticket).collect::<Vec<_>>(), [Ticket(100)]);
    assert_eq!(ended.len(), MAX_DIFFS + 1, "they don't end");
    assert!(node.diff(0, request).is_ok());
}

/// Where nothing but holes hides what a clone's parent has, leaf after leaf is read without anything found.
#[test]
fn holes_without_end_are_passed_in_pages() {
    let world = World::new(3);
    let mut node = Node::open(&world, &setup(4)).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    let record = node.write(1, first(RUNS), &[1]);
    node.commit(0, 2, vec![record, snapshot(1)]).unwrap();
    node.commit(0, 3, vec![clone_line(2, 1, 2)]).unwrap();
    for run in 0..RUNS {
        node.commit(0, 4 + run, vec![unmap(2, first(run), 4)]).unwrap();
    }
    node.checkpoint();
    slow_down(&world);
    let (ranges, count) = pages(&mut node, whole(None, View { line: LineId(2), at: None }));
    assert_eq!(ranges.iter().map(|r| (r.lba.0, r.blocks.0)).collect::<Vec<_>>(), [(first(RUNS), 1)]);
    assert!(count > 1);
}

/// Nor are those of a clone looked through once for each run of its parent.
#[test]
fn holes_before_what_is_stored_are_passed_once() {
    let world = World::new(5);
    let (mut node, old, _) = filled(&world, 4);
    let (seq, at) = (node.stores[0].marks(PgId(0)).highest_seq.0, old.at.unwrap().0);
    node.commit(0, seq + 1, vec![clone_line(2, 1, at)]).unwrap();
    for run in 0..RUNS {
        node.commit(0, seq + 2 + run, vec![unmap(2, first(run), 2)]).unwrap();
    }
    node.checkpoint();
    slow_down(&world);
    let (ranges, count) = pages(&mut node, whole(None, View { line: LineId(2), at: None }));
    let want: Vec<(u64, u64)> = (0..RUNS).map(|run| (first(run) + 2, 2)).collect();
    assert_eq!(ranges.iter().map(|r| (r.lba.0, r.blocks.0)).collect::<Vec<_>>(), want);
    assert!(count < 1000, "{count} pages");
}
