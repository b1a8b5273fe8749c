//! Drives that answer late, or not at all: everybody who waits for one goes around it, and it goes out where the pool can spare it.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::filled::*;
use common::*;
use dolmen_sim::World;
use dolmen_store::*;

/// Whoever waits for a drive need not once it is out: what was being moved from it is made safe from the others, and cleaning goes on.
#[test]
fn a_drive_that_hangs_does_not_hold_cleaning_up() {
    for (count, turns, writes) in [(3, 0, true), (3, 5, false), (4, 0, true), (4, 15, true), (4, 30, false)] {
        let world = World::new(20);
        let mut filled = Filled::new(&world, &setup(count));
        filled.node.stores[0].set_reprotection(false, 1 << 20);
        filled.node.owner.remove_drive(0).unwrap();
        (0..turns).for_each(|_| filled.node.turn());
        lag(&world, "d0", HOUR_MS);
        // Cleaning waits for it by now.
        filled.node.turns_for(1_000);
        assert_eq!(filled.state(0), DriveState::Leaving);
        if writes {
            (0..40).for_each(|round| filled.write_some(round, 2));
        }
        filled.node.turns_for(5_000);
        assert_ne!(filled.state(0), DriveState::Leaving, "{count} drives, {turns} turns");
        filled.node.until_protected();
        (0..50).for_each(|round| filled.write_some(round, 12));
        filled.verify();
    }
}

/// Nobody writes and nobody reads but the scrubber: the drive goes out, and the round ends without it.
#[test]
fn a_drive_that_hangs_does_not_hold_scrubbing_up() {
    for count in [2, 3, 4] {
        let world = World::new(21);
        let mut filled = hung(&world, &setup(count), "d1");
        filled.node.stores[0].set_scrub(ScrubPlan { round: 1, bytes_per_s: 0, paused: false });
        let began = world.now();
        while filled.node.stores[0].scrub().unwrap().finished < 1 {
            filled.node.turn();
            assert!(world.now().since(began) < 30_000_000_000, "{count} drives: the round does not end");
        }
        assert_ne!(filled.state(1), DriveState::In);
        assert_eq!(filled.node.stores[0].scrub().unwrap().lost, 0);
        filled.verify();
    }
}

/// It answers until its superblock is read: the start goes on without it, whatever it is asked for then.
#[test]
fn a_drive_that_hangs_does_not_hold_a_start_up() {
    for (count, drive, turns) in [(2, 0, 0), (3, 0, 0), (3, 1, 3), (3, 0, 10), (4, 0, 20), (4, 1, 30)] {
        let world = World::new(22);
        let setup = setup(count);
        let Filled { node, seq, model } = Filled::new(&world, &setup);
        world.crash();
        drop(node);
        let mut node = Node::start(&world, &setup).unwrap();
        (0..turns).for_each(|_| node.turn());
        lag(&world, ["d0", "d1"][drive], HOUR_MS);
        let began = world.now();
        let mut filled = Filled { node: node.until_ready().unwrap(), seq, model };
        assert!(world.now().since(began) < 30_000_000_000, "{count} drives");
        filled.verify();
        (0..5).for_each(|round| filled.write_some(round, 12));
        filled.verify();
    }
}

/// Two drives may be lost, one is out and one hangs: what the others can give is read, by hosts and by a checkpoint.
#[test]
fn a_drive_that_hangs_beside_one_that_is_out_is_gone_around() {
    for (count, drive) in [(3, 1), (3, 2), (5, 1), (5, 2), (5, 4)] {
        let world = World::new(23);
        let setup = Setup { parity: 2, ..setup(count) };
        let mut filled = degraded(&world, &setup, 0);
        let Filled { node, seq, model } = filled.reopen(&world, &setup);
        drop(node);
        // Nothing of the map is in memory.
        filled = Filled { node: Node::open(&world, &setup).unwrap(), seq, model };
        filled.node.stores[0].set_reprotection(true, 0);
        lag(&world, ["d0", "d1", "d2", "d3", "d4"][drive], HOUR_MS);
        let began = world.now();
        filled.verify();
        let took = world.now().since(began);
        assert!(took < 2_000_000_000, "{count} drives, {drive} hangs: {took} ns");
        filled.node.checkpoint();
        let took = world.now().since(began);
        assert!(took < 10_000_000_000, "{count} drives, {drive} hangs: {took} ns");
        filled.verify();
    }
}

/// Nobody writes: reads go around the drive at once, hold no buffers, and it goes out.
#[test]
fn a_drive_that_answers_no_reads_goes_out_though_nobody_writes() {
    for count in [2, 3, 4] {
        let world = World::new(24);
        let setup = setup(count);
        let mut filled = hung(&world, &setup, "d0");
        let began = world.now();
        for i in 0..100 {
            let first = (i * 13) % (BLOCKS - 64);
            let got = filled.node.read(0, 1, first, 64).unwrap();
            assert_eq!(got, filled.model[first as usize..first as usize + 64], "from {first}");
        }
        let took = world.now().since(began);
        assert!(took < 1_000_000_000, "{count} drives: {took} ns");
        let late = (0..100).find(|_| {
            filled.node.turns_for(100);
            filled.state(0) != DriveState::In
        });
        assert!(late.is_some(), "{count} drives");
        filled.verify();
    }
}

/// A drive that answers late stays, and so does one that is no later than its peers, or that can't be spared.
#[test]
fn a_drive_that_is_only_busy_stays() {
    for lags in [[1_500, 0, 0], [30_000, 10_000, 10_000]] {
        let world = World::new(25);
        let mut filled = Filled::new(&world, &setup(3));
        for (drive, ms) in DRIVES.into_iter().zip(lags) {
            lag(&world, drive, ms);
        }
        for _ in 0..4 {
            filled.verify();
            filled.node.turns_for(10_000);
        }
        assert!((0..3).all(|drive| filled.state(drive) == DriveState::In), "{lags:?}");
    }
    // All of them are late for once; what a superblock takes to be written is not what keeps them in.
    let world = World::new(27);
    let mut filled = Filled::new(&world, &setup(3));
    DRIVES.into_iter().for_each(|drive| lag(&world, drive, 3_000));
    filled.node.stores[0].set_scrub(ScrubPlan { round: 1, bytes_per_s: 0, paused: false });
    filled.node.turns_for(2_900);
    DRIVES.into_iter().for_each(|drive| lag(&world, drive, 0));
    filled.node.turns_for(20_000);
    assert!((0..3).all(|drive| filled.state(drive) == DriveState::In), "{:?}", filled.node.owner.drives());
    let world = World::new(26);
    let mut filled = degraded(&world, &setup(3), 2);
    lag(&world, "d0", 20_000);
    filled.verify();
    assert_eq!(filled.state(0), DriveState::In);
}

/// Two drives may be lost, one is out and one takes writes and answers no reads, so that no write puts it out: cleaning goes through
/// segments without it, and all is protected again.
#[test]
fn a_drive_that_hangs_on_reads_beside_one_that_is_out_does_not_hold_cleaning_up() {
    for (count, drive) in [(4, 1), (5, 1), (5, 2), (5, 3), (5, 4)] {
        let world = World::new(28);
        let setup = Setup { parity: 2, ..setup(count) };
        let mut filled = degraded(&world, &setup, 0);
        mute(&world, ["d0", "d1", "d2", "d3", "d4"][drive], 0);
        filled.node.stores[0].set_reprotection(false, 0);
        let began = world.now();
        // It leaves when nothing lacks its columns any more.
        while filled.state(0) != DriveState::Gone {
            filled.node.turn();
            let took = world.now().since(began);
            assert!(took < 60_000_000_000, "{count} drives, {drive} hangs: {:?}", filled.node.space());
        }
        filled.verify();
        assert_eq!(filled.node.space().integrity_errors, 0);
    }
}

/// So does a start, though nothing is written before it has read the log to its end, and no read can put the drive out.
#[test]
fn a_drive_that_hangs_on_reads_beside_one_that_is_out_does_not_hold_a_start_up() {
    for (count, drive, turns) in
        [(4, 1, 0), (4, 2, 10), (4, 3, 0), (5, 1, 0), (5, 2, 20), (5, 3, 0), (5, 4, 30)]
    {
        let world = World::new(29);
        let setup = Setup { parity: 2, ..setup(count) };
        let Filled { node, seq, model } = degraded(&world, &setup, 0);
        world.crash();
        drop(node);
        let mut node = Node::start(&world, &setup).unwrap();
        (0..turns).for_each(|_| node.turn());
        mute(&world, ["d0", "d1", "d2", "d3", "d4"][drive], 0);
        let began = world.now();
        let mut filled = Filled { node: node.until_ready().unwrap(), seq, model };
        let took = world.now().since(began);
        assert!(took < 30_000_000_000, "{count} drives, {drive} hangs: {took} ns");
        filled.verify();
        (0..5).for_each(|round| filled.write_some(round, 12));
        filled.verify();
        assert_eq!(filled.node.space().integrity_errors, 0);
    }
}

/// Where the units of a drive begin.
const UNITS_FROM: u64 = 4 << 20;

/// Reads everything again and again, for so long at most; true when the drive goes out meanwhile.
fn goes_out(filled: &mut Filled, drive: usize, pause_ms: u64, times: usize) -> bool {
    (0..times).any(|_| {
        filled.verify();
        filled.node.turns_for(pause_ms);
        filled.state(drive) != DriveState::In
    })
}

/// The labels of a drive are read, and maybe some of its units, and the rest is not: it goes out although it answers now and then and nobody
/// writes.
#[test]
fn a_drive_that_answers_in_places_goes_out() {
    for count in [2, 3, 4] {
        for units in [0, 4, 8] {
            let world = World::new(30);
            let mut filled = Filled::new(&world, &setup(count));
            mute(&world, "d0", UNITS_FROM + units * (128 << 10));
            assert!(goes_out(&mut filled, 0, 1_000, 60), "{count} drives, {units} units are read");
            filled.verify();
            assert_eq!(filled.node.space().integrity_errors, 0);
        }
    }
}

/// Nobody needs it but the scrubber, which waits for a single read.
#[test]
fn a_drive_that_answers_in_places_does_not_hold_scrubbing_up() {
    let world = World::new(31);
    let mut filled = Filled::new(&world, &setup(3));
    mute(&world, "d1", UNITS_FROM);
    filled.node.stores[0].set_scrub(ScrubPlan { round: 1, bytes_per_s: 0, paused: false });
    filled.node.turns_for(30_000);
    assert_eq!(filled.node.stores[0].scrub().unwrap().finished, 1);
    assert_ne!(filled.state(1), DriveState::In);
}

/// It answers everything, its reads are late again and again, and those of its peers are not.
#[test]
fn a_drive_whose_reads_are_late_again_and_again_goes_out() {
    let world = World::new(32);
    let mut filled = Filled::new(&world, &setup(3));
    slow_reads(&world, "d0", 200, 0);
    assert!(goes_out(&mut filled, 0, 500, 120), "{:?}", filled.node.owner.drives());
    filled.verify();
}

/// It stays when that happens now and then, or to all of them.
#[test]
fn a_drive_that_is_late_now_and_then_stays() {
    let world = World::new(33);
    let mut filled = Filled::new(&world, &setup(3));
    for _ in 0..20 {
        slow_reads(&world, "d0", 200, 0);
        filled.verify();
        slow_reads(&world, "d0", 0, 0);
        assert!(!goes_out(&mut filled, 0, 5_000, 1));
    }
    for (seed, ms) in (40..).zip([70, 200, 900]) {
        let world = World::new(seed);
        let mut filled = Filled::new(&world, &setup(3));
        DRIVES.into_iter().for_each(|drive| slow_reads(&world, drive, ms, 0));
        for _ in 0..120 {
            filled.verify();
            filled.node.turns_for(500);
        }
        let states = filled.node.owner.drives();
        assert!((0..3).all(|drive| filled.state(drive) == DriveState::In), "{ms} ms: {states:?}");
    }
}

/// One read is never answered, and all others are: it may have met a bad place.
#[test]
fn a_drive_that_leaves_one_read_unanswered_stays() {
    for seed in 0..4 {
        let world = World::new(34 + seed);
        let mut filled = Filled::new(&world, &setup(3));
        mute(&world, "d0", UNITS_FROM);
        filled.node.stores[0].set_scrub(ScrubPlan { round: 1, bytes_per_s: 0, paused: false });
        filled.node.turns_for(20);
        slow_reads(&world, "d0", 0, 0);
        filled.node.turns_for(30_000);
        assert_eq!(filled.node.stores[0].scrub().unwrap().finished, 0, "it is waited for");
        assert!(!goes_out(&mut filled, 0, 1_000, 60), "{:?}", filled.node.owner.drives());
    }
}

/// A column that is computed from others is, with a single buffer: whoever holds the rest of them may wait for it.
#[test]
fn what_is_computed_from_other_columns_needs_one_buffer() {
    let mut mended = 0;
    for drive in ["d0", "d1", "d2", "d3"] {
        let world = World::new(50);
        let mut setup = Setup { drives: drives(4, 16), unit_bytes: 256 * 1024, ..setup(4) };
        setup.tuning.commit_bytes = 200 * 1024;
        let mut filled = Filled::new(&world, &setup);
        filled.node.stores[0].set_reprotection(true, 0);
        // Enough at once for a wide segment.
        let values: Vec<u64> = (0..BLOCKS).map(|lba| 7_000_000 + lba).collect();
        for (first, some) in (0..).step_by(40).zip(values.chunks(40)) {
            filled.seq += 1;
            let record = filled.node.write(1, first, some);
            filled.node.commit(0, filled.seq, vec![record]).unwrap();
        }
        filled.model = values;
        world.remove_drive(NODE, path(drive));
        filled.write_some(1, 4);
        filled.verify();
        let before = filled.node.space().mended_reads;
        let mut held = Vec::new();
        for len in [BLOCK, 32 * 1024, 260 * 1024] {
            held.extend(std::iter::from_fn(|| filled.node.io.alloc(len)));
        }
        // One for the host, and one for the store.
        held.drain(..2);
        for lba in 0..BLOCKS {
            assert_eq!(filled.node.read(0, 1, lba, 1).unwrap(), [filled.model[lba as usize]], "block {lba}");
        }
        mended += filled.node.space().mended_reads - before;
    }
    assert!(mended > 20, "{mended}");
}

/// Two drives that do not answer cost a start no more time than one.
#[test]
fn drives_that_hang_are_looked_at_together() {
    let world = World::new(51);
    let setup = Setup { parity: 2, ..setup(5) };
    let Filled { node, seq, model } = Filled::new(&world, &setup);
    drop(node);
    ["d1", "d3"].into_iter().for_each(|drive| lag(&world, drive, HOUR_MS));
    let began = world.now();
    let mut filled = Filled { node: Node::open(&world, &setup).unwrap(), seq, model };
    let took = world.now().since(began);
    assert!(took < 20_000_000_000, "{took} ns");
    filled.verify();
    assert_eq!([filled.state(1), filled.state(3)], [DriveState::Out; 2]);
}
