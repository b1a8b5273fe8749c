//! What hosts feel of cleaning, in virtual time, over a drive that moves data one operation behind the other.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::*;
use dolmen_sim::{DriveFaults, World};
use dolmen_store::*;
use load::{Load, Pattern};

/// What the drive moves in a second. Bytes.
const RATE: u64 = 500 << 20;

/// What one operation takes beside that at most. Nanoseconds.
const LATENCY_NS: u64 = 90_000;

/// What cleaning has under way at most: the pages that hold the blocks of one commit of moves, or that commit. Bytes.
const JOB_BYTES: u64 = 512 * 1024;

/// How long so many bytes take to move. Nanoseconds.
fn moves_for(bytes: u64) -> u64 {
    bytes * 1_000_000_000 / RATE
}

/// Half of all, all but a thousandth, and the longest. Nanoseconds.
fn tail(ns: &mut Vec<u64>) -> (u64, u64, u64) {
    ns.sort_unstable();
    let at = |part: usize| ns[(ns.len() - 1) * part / 1000];
    let all = (at(500), at(999), at(1000));
    ns.clear();
    all
}

/// Reads wait for no more than one job of moves, what else is written at that moment, and each other. Writes wait for the moves that
/// pay for them and for those before them.
#[test]
fn cleaning_is_felt_within_bounds() {
    for (percent, depth) in [(70, 8), (80, 32), (90, 128)] {
        let mut load = Load::new(512, 256 * 1024, percent, 8 << 20);
        load.depth = depth;
        load.write(load.blocks, Pattern::Sequential);
        let latency_ns = (60_000, LATENCY_NS);
        let faults = DriveFaults { latency_ns, bytes_per_s: RATE, ..DriveFaults::default() };
        load.world.set_faults(NODE, path("d0"), faults);
        load.readers = 2;
        load.write(load.blocks, Pattern::Uniform);
        load.write_ns.clear();
        load.read_ns.clear();
        let before = load.node.space();
        load.write(load.blocks / 2, Pattern::Uniform);
        let after = load.node.space();
        let hosts = (after.host_written_bytes - before.host_written_bytes) as f64;
        let cleaned = (after.cleaned_bytes - before.cleaned_bytes) as f64 / hosts;
        let (writes, reads) = (tail(&mut load.write_ns), tail(&mut load.read_ns));
        println!(
            "{percent} % full, depth {depth}: {cleaned:.2} moved per byte; writes {writes:?}, reads {reads:?}"
        );
        assert!(cleaned > 0.2, "there is little to be felt");
        // A commit of the hosts' with its header for every two blocks at worst, a stage of the map, the other reader.
        let beside = depth as u64 * 6 * 1024 + 256 * 1024 + 8 * 1024;
        let read_bound = 2 * LATENCY_NS + moves_for(JOB_BYTES + beside);
        assert!(reads.2 <= read_bound, "{reads:?} at {percent} %, bound {read_bound}");
        // At the lowest step an eighth of what is moved: a job of 64 blocks pays for eight.
        let job_ns = 2 * (LATENCY_NS + moves_for(JOB_BYTES / 2));
        let write_bound = 4 * (8 + depth as u64 / 8) * job_ns;
        assert!(writes.2 <= write_bound, "{writes:?} at {percent} %, bound {write_bound}");
    }
}

/// The cleaner has something to move and gets nowhere, as when a drive takes its time. Hosts write on, a second later, as long as there are
/// units for them; then they are refused.
#[test]
fn a_cleaner_that_is_stuck_does_not_hold_hosts_up_for_good() {
    let (world, setup) = (World::new(1), Setup::tiny(40));
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    node.no_units = vec![Purpose::Clean];
    let bound_ns = (setup.tuning.full_wait_ms + 1500) * 1_000_000;
    let (mut seq, mut waited) = (1, 0);
    loop {
        seq += 1;
        // A segment each: there is much to be gained by cleaning.
        let record = node.write(1, seq * 7, &[seq; 7]);
        let began = node.io.now();
        let ended = node.commit(0, seq, vec![record]);
        let took_ns = node.io.now().since(began);
        assert!(took_ns <= bound_ns, "{took_ns} ns for {ended:?}: {:?}", node.space());
        match ended {
            Ok(()) => waited += u32::from(took_ns > 900_000_000),
            Err(StoreError::Full) => break,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(waited, 1, "the first one that finds nothing moved");
    // Once it goes on, so do they.
    node.no_units.clear();
    node.turns_for(5000);
    let record = node.write(1, 0, &[1]);
    node.commit(0, seq + 1, vec![record]).unwrap();
}
