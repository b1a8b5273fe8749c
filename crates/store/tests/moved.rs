//! Reads that are under way while their blocks move: what fails in the old place is looked for in the new one.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::*;
use dolmen_sim::{DriveFaults, World};
use dolmen_store::*;

/// Blocks of a write that fills a wide segment's columns well, and how many of those there are.
const RUN: u64 = 48;
const RUNS: u64 = 3;

/// What an operation of a drive takes that lags.
const LAG_MS: u64 = 600_000;

const LABEL: u64 = 4 << 20;

const DRIVES: [&str; 5] = ["d0", "d1", "d2", "d3", "d4"];

fn setup(count: usize, parity: u8) -> Setup {
    let mut setup = Setup { drives: drives(count, 20), parity, unit_bytes: 256 * 1024, ..Setup::tiny(0) };
    // Nothing goes to leaves by itself, and no drive goes out for what it lags.
    (setup.tuning.commit_bytes, setup.tuning.delta_entries) = (220 * 1024, 4096);
    setup.tuning.stuck_write_ms = 2 * LAG_MS;
    setup
}

fn value(lba: u64) -> u64 {
    1000 + lba
}

/// A line of blocks, of which nothing is moved yet.
fn filled(world: &World, setup: &Setup) -> Node {
    let mut node = Node::open(world, setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    // From then on there are wide segments.
    node.checkpoint();
    (0..200).for_each(|_| node.turn());
    for i in 0..RUNS {
        let values: Vec<u64> = (0..RUN).map(|k| value(i * RUN + k)).collect();
        let record = node.write(1, i * RUN, &values);
        node.commit(0, 2 + i, vec![record]).unwrap();
    }
    node.stores[0].set_reprotection(true, 0);
    node
}

/// The drives that hold a block as it was written, and where.
fn places(world: &World, setup: &Setup, lba: u64) -> Vec<(usize, u64)> {
    let (mut want, mut block, mut places) = (vec![0; BLOCK], vec![0; BLOCK], Vec::new());
    fill(&mut want, value(lba));
    for (drive, (name, bytes)) in setup.drives.iter().enumerate() {
        let image = world.image(NODE, path(name));
        for at in (LABEL..*bytes).step_by(BLOCK) {
            image.read(at, &mut block);
            if block == want {
                places.push((drive, at));
            }
        }
    }
    places
}

fn rot(world: &World, setup: &Setup, lba: u64) {
    for (drive, at) in places(world, setup, lba) {
        world.overwrite(NODE, path(DRIVES[drive]), at + 100, b"rot");
    }
}

/// Every operation of a drive takes so long from now on.
fn lag(world: &World, drive: &str, ms: u64) {
    let latency_ns = (ms * 1_000_000, ms * 1_000_000);
    let faults =
        if ms == 0 { DriveFaults::default() } else { DriveFaults { latency_ns, ..DriveFaults::default() } };
    world.set_faults(NODE, path(drive), faults);
}

/// The old place fails while it is read, and the block was written anew meanwhile: on a drive alone, where no other column gives it, and
/// on both of a mirror.
#[test]
fn a_read_that_fails_where_its_block_was_looks_where_it_is() {
    for (count, parity) in [(1, 0), (2, 1)] {
        let (world, setup) = (World::new(2), setup(count, parity));
        let mut node = filled(&world, &setup);
        setup.drives.iter().for_each(|(drive, _)| lag(&world, drive, 4_000));
        let ticket = node.start_read(0, 1, 8, 1);
        node.turn();
        setup.drives.iter().for_each(|(drive, _)| lag(&world, drive, 0));
        for (drive, at) in places(&world, &setup, 8) {
            world.spoil(NODE, path(DRIVES[drive]), at, 512);
        }
        let record = node.write(1, 8, &[77]);
        node.commit(0, 10, vec![record]).unwrap();
        assert!(!node.done.contains_key(&ticket), "{count} drives: it is under way");
        let done = node.wait(ticket);
        assert_eq!(done.result, Ok(()), "{count} drives");
        assert_eq!(values(&done.buf.unwrap()), [77], "{count} drives");
        // What insists is believed.
        for (drive, at) in places(&world, &setup, 9) {
            world.spoil(NODE, path(DRIVES[drive]), at, 512);
        }
        let read = node.read(0, 1, 9, 1);
        assert!(matches!(read, Err(StoreError::Medium { .. })), "{count} drives: {read:?}");
    }
}

/// A read has lent its buffer to a drive that does not answer; elsewhere there is nothing, since its blocks were overwritten or unmapped.
#[test]
fn a_read_whose_buffer_is_away_ends_with_another_one() {
    for (case, parts) in [("whole", vec![8]), ("in parts", vec![3, 5]), ("unmapped", vec![])] {
        for blocks in [1, 8] {
            let (world, setup) = (World::new(1), setup(2, 1));
            let mut node = filled(&world, &setup);
            ["d0", "d1"].iter().for_each(|drive| lag(&world, drive, LAG_MS));
            let ticket = node.start_read(0, 1, 8, blocks);
            node.turn();
            ["d0", "d1"].iter().for_each(|drive| lag(&world, drive, 0));
            (8..16).for_each(|lba| rot(&world, &setup, lba));
            let (mut lba, mut seq) = (8, 10);
            for &part in &parts {
                let values: Vec<u64> = (lba..lba + part).map(|lba| value(lba) + 1000).collect();
                let record = node.write(1, lba, &values);
                node.commit(0, seq, vec![record]).unwrap();
                (lba, seq) = (lba + part, seq + 1);
            }
            if parts.is_empty() {
                node.commit(0, seq, vec![unmap(1, 8, 8)]).unwrap();
            }
            assert!(!node.done.contains_key(&ticket), "{case}: it is under way");
            let began = world.now();
            let done = node.wait(ticket);
            assert!(world.now().since(began) < 1_000_000_000, "{case}: it waited for its own buffer");
            assert_eq!(done.result, Ok(()), "{case}");
            let is_new = |lba: u64| if parts.is_empty() { 0 } else { value(lba) + 1000 };
            let want: Vec<u64> = (8..8 + blocks as u64).map(is_new).collect();
            assert_eq!(values(&done.buf.unwrap()), want, "{case}, {blocks} blocks");
        }
    }
}

/// Of two blocks that are read together nothing gives the first one any more, and the second one does not come the direct way.
#[test]
fn a_block_that_is_lost_is_not_forgotten_over_one_that_is_mended() {
    let (world, setup) = (World::new(3), setup(5, 2));
    let mut node = filled(&world, &setup);
    // The last one of a commit and the first one of the next.
    let (lost, next) = (2 * RUN - 1, 2 * RUN);
    let [(out, at)] = places(&world, &setup, lost)[..] else { panic!("it lies in one column") };
    assert_ne!(places(&world, &setup, next)[0].0, out, "the next one lies elsewhere");
    // Whatever lies beside it in other columns.
    let unit = u64::from(setup.unit_bytes);
    for drive in (0..5).filter(|&drive| drive != out) {
        let (_, bytes) = setup.drives[drive];
        let pages = (LABEL + (at - LABEL) % unit..bytes).step_by(unit as usize);
        pages.for_each(|page| world.overwrite(NODE, path(DRIVES[drive]), page + 100, b"rot"));
    }
    rot(&world, &setup, next);
    node.owner.force_out(out as u16, "by hand".into()).unwrap();
    (0..200).for_each(|_| node.turn());
    let read = node.read(0, 1, lost, 2);
    assert!(matches!(&read, Err(StoreError::Integrity { lba, .. }) if lba.0 == lost), "{read:?}");
    assert_eq!(node.read(0, 1, next, 1), Ok(vec![value(next)]));
}
