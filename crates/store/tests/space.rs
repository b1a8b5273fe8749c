//! Space: overwriting for ever, a full pool, and how space comes back.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::*;
use dolmen_sim::{Rng, World};
use dolmen_store::*;

/// A pool whose host data fills `percent` of what it takes, overwritten at random `times` over; the figures at the end.
fn overwrite(units: u64, unit_bytes: u32, percent: u64, times: u64) -> SpaceReport {
    let world = World::new(percent);
    let mut setup = Setup::tiny(units);
    setup.unit_bytes = unit_bytes;
    setup.drives = vec![("d0", (4 << 20) + units * u64::from(unit_bytes))];
    setup.tuning.delta_entries = 4096;
    setup.tuning.log_bytes = 64 << 20;
    setup.tuning.commit_bytes = 120 * 1024;
    setup.tuning.cache_bytes = 4 << 20;
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    let blocks = node.owner.capacity_bytes() * percent / 100 / BLOCK as u64;
    let (mut seq, mut rng) = (1, Rng::new(7));
    let mut model = vec![0u64; blocks as usize];
    let mut waiting = std::collections::VecDeque::new();
    for i in 0..blocks * (times + 1) {
        let lba = if i < blocks { i } else { rng.next_u64() % blocks };
        seq += 1;
        model[lba as usize] = seq;
        let record = node.write(1, lba, &[seq]);
        waiting.push_back(
            node.append(0, seq, vec![record]).unwrap_or_else(|e| panic!("{e:?}: {:?}", node.space())),
        );
        if waiting.len() >= 32 {
            // A full queue depth goes into few commits.
            for ticket in waiting.drain(..) {
                let done = node.wait(ticket);
                assert_eq!(done.result, Ok(()), "write {i} of {}: {:?}", blocks * (times + 1), node.space());
            }
        }
    }
    for ticket in waiting {
        assert_eq!(node.wait(ticket).result, Ok(()));
    }
    let report = node.space();
    world.crash();
    drop(node);
    let mut node = Node::open(&world, &setup).unwrap();
    for lba in (0..blocks).step_by(10) {
        let n = 20.min(blocks - lba);
        assert_eq!(node.read(0, 1, lba, n as usize).unwrap(), model[lba as usize..(lba + n) as usize]);
    }
    report
}

/// Shows where the drive bytes went.
fn figures(report: SpaceReport) -> SpaceReport {
    let per_host_byte = |bytes: u64| bytes as f64 / report.host_written_bytes as f64;
    println!(
        "drive bytes per host byte {:.2}, of which cleaning {:.2}, map {:.2}",
        per_host_byte(report.drive_written_bytes),
        per_host_byte(report.cleaned_bytes),
        per_host_byte(report.map_written_bytes)
    );
    report
}

/// Space comes back by itself: what a full pool refuses now it takes before long. `seq` is that of the last batch.
fn until_written(node: &mut Node, seq: &mut u64, lba: u64, values: &[u64]) {
    for _ in 0..100 {
        *seq += 1;
        let record = node.write(1, lba, values);
        match node.commit(0, *seq, vec![record]) {
            Ok(()) => return,
            Err(StoreError::Full) => (0..50).for_each(|_| node.turn()),
            Err(other) => panic!("{other}"),
        }
    }
    panic!("space does not come back: {:?}", node.space());
}

/// The figure of a pool of real proportions; takes a while.
#[test]
#[ignore = "a minute or more; run by hand for the figures"]
fn amplification_of_a_pool_of_512_units() {
    for percent in [75, 80] {
        let report = figures(overwrite(512, 512 * 1024, percent, 3));
        assert!(report.drive_written_bytes * 2 < report.host_written_bytes * 9);
    }
}

#[test]
fn a_pool_at_80_per_cent_is_overwritten_for_ever() {
    let report = figures(overwrite(96, 128 * 1024, 80, 6));
    let host = report.host_written_bytes as f64;
    assert!(report.cleaned_bytes > 0);
    assert!((report.drive_written_bytes as f64) < 12.0 * host);
}

/// Two shards over drives with one parity column, in units of so many bytes, where writes that find no room wait for so long.
fn with_parity(drives: Vec<(&'static str, u64)>, unit_bytes: u32, full_wait_ms: u64) -> Setup {
    let tuning = ShardTuning { full_wait_ms, cache_bytes: 4 << 20, ..ShardTuning::default() };
    Setup { drives, parity: 1, shards: 2, unit_bytes, tuning, ..Setup::tiny(0) }
}

/// Writes so many blocks at a time behind each other until there is no room: the blocks from `lba` on hold seq, seq + 1 and so on.
fn fill_up(node: &mut Node, (pg, line): (u32, u64), (seq, lba): (&mut u64, &mut u64), blocks: u64) {
    while *lba < 100_000 {
        *seq += 1;
        let record = node.write(line, *lba, &(*seq..*seq + blocks).collect::<Vec<_>>());
        match node.commit(pg, *seq, vec![record]) {
            Ok(()) => *lba += blocks,
            Err(StoreError::Full) => return,
            Err(other) => panic!("{other}"),
        }
    }
    panic!("the pool never fills");
}

#[test]
fn a_full_pool_refuses_writes_takes_the_rest_and_comes_back() {
    let world = World::new(3);
    let setup = Setup::tiny(40);
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    let (mut seq, mut lba) = (1, 0);
    fill_up(&mut node, (0, 1), (&mut seq, &mut lba), 2);
    assert!(lba < 1000, "the pool never fills");
    let capacity = node.owner.capacity_bytes();
    assert!(lba * BLOCK as u64 * 10 > capacity * 9, "{lba} blocks of {capacity} bytes");
    // Overwrites count as well; everything else goes on.
    for _ in 0..10 {
        seq += 1;
        let record = node.write(1, 0, &[9]);
        assert_eq!(node.commit(0, seq, vec![record]), Err(StoreError::Full));
    }
    assert_eq!(node.read(0, 1, 0, 1).unwrap(), [2]);
    for i in 0..100 {
        seq += 1;
        node.commit(0, seq, vec![Record::Put { key: key(i % 5), value: vec![1; 500].into() }]).unwrap();
    }
    // Trimmed space comes back by itself.
    seq += 1;
    node.commit(0, seq, vec![unmap(1, 0, lba / 2)]).unwrap();
    until_written(&mut node, &mut seq, 0, &[77]);
    // The rest of what was trimmed can be written too.
    for first in (2..lba / 2 - 12).step_by(2) {
        seq += 1;
        let record = node.write(1, first, &[seq, seq]);
        assert_eq!(node.commit(0, seq, vec![record]), Ok(()), "{first} of {lba}: {:?}", node.space());
    }
    assert_eq!(node.read(0, 1, 0, 1).unwrap(), [77]);
}

#[test]
fn a_dropped_line_gives_everything_back() {
    let world = World::new(4);
    let mut node = Node::open(&world, &Setup::tiny(48)).unwrap();
    let mut seq = 0;
    for line in 1..30 {
        seq += 1;
        node.commit(0, seq, vec![create(line)]).unwrap();
        for lba in 0..15 {
            seq += 1;
            let record = node.write(line, lba * 10, &[seq; 10]);
            node.commit(0, seq, vec![record])
                .unwrap_or_else(|e| panic!("line {line}: {e}: {:?}", node.space()));
        }
        seq += 1;
        node.commit(0, seq, vec![drop_line(line)]).unwrap();
        assert_eq!(node.read(0, line, 0, 1), Err(StoreError::NoLine(dolmen_types::LineId(line))));
    }
    node.checkpoint();
    node.checkpoint();
    let space = node.space();
    assert_eq!(space.live_bytes, space.map_bytes, "only map pages are left");
    assert!(space.map_bytes < 16 * 1024);
}

#[test]
fn one_busy_shard_may_fill_the_pool() {
    let world = World::new(5);
    let mut setup = Setup::tiny(96);
    (setup.shards, setup.cores) = (2, 2);
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    node.commit(1, 1, vec![create(2)]).unwrap();
    let (mut seq, mut lba) = (1, 0);
    fill_up(&mut node, (0, 1), (&mut seq, &mut lba), 8);
    let capacity = node.owner.capacity_bytes();
    assert!(lba * BLOCK as u64 * 10 > capacity * 8, "{lba} blocks of {capacity} bytes: {:?}", node.space());
    // The other shard is refused as well, and both come back together.
    let record = node.write(2, 0, &[1; 12]);
    assert_eq!(node.commit(1, 2, vec![record]), Err(StoreError::Full));
    node.commit(0, seq + 1, vec![drop_line(1)]).unwrap();
    let mut tries = 0;
    for seq in 3.. {
        let record = node.write(2, 0, &[seq; 12]);
        if node.commit(1, seq, vec![record]).is_ok() {
            break;
        }
        (0..50).for_each(|_| node.turn());
        tries += 1;
        assert!(tries < 200, "space does not come back to the other shard");
    }
}

#[test]
fn a_full_pool_survives_restarts() {
    for (seed, shards) in [(6, 1), (7, 2), (8, 3)] {
        let world = World::new(seed);
        let mut setup = Setup::tiny(40 + 24 * u64::from(shards));
        setup.shards = shards;
        setup.tuning.full_wait_ms = 300;
        let mut node = Node::open(&world, &setup).unwrap();
        let pgs = u32::from(shards);
        let (mut seq, mut lba, mut rng) = (0, 0, Rng::new(seed));
        for pg in 0..pgs {
            seq += 1;
            node.commit(pg, seq, vec![create(u64::from(pg) + 1)]).unwrap();
        }
        for life in 0..12 {
            let mut refused = 0;
            while refused < 4 {
                seq += 1;
                let pg = (rng.next_u64() % u64::from(pgs)) as u32;
                let at = if rng.next_u64().is_multiple_of(2) { lba } else { rng.next_u64() % (lba + 1) };
                let record = node.write(u64::from(pg) + 1, at, &[seq; 3]);
                match node.commit(pg, seq, vec![record]) {
                    Ok(()) => lba = lba.max(at + 3),
                    Err(StoreError::Full) => refused += 1,
                    Err(other) => panic!("{other}"),
                }
            }
            for i in 0..30 {
                seq += 1;
                let value = vec![1; 900].into();
                node.commit((i % u128::from(pgs)) as u32, seq, vec![Record::Put { key: key(i % 4), value }])
                    .unwrap();
            }
            if life % 2 == 0 {
                world.crash()
            } else {
                world.kill_node(NODE)
            }
            drop(node);
            node = Node::open(&world, &setup).unwrap();
        }
        for pg in 0..pgs {
            seq += 1;
            node.commit(pg, seq, vec![unmap(u64::from(pg) + 1, 0, lba / 2)]).unwrap();
        }
        let mut tries = 0;
        loop {
            seq += 1;
            let record = node.write(1, 0, &[seq; 8]);
            if node.commit(0, seq, vec![record]).is_ok() {
                break;
            }
            tries += 1;
            assert!(tries < 100, "space does not come back: {:?}", node.space());
        }
    }
}

/// Neither moves nor the last checkpoint find room then; what is there is found again.
#[test]
fn a_full_pool_that_lost_a_drive_can_be_stopped() {
    for turns in (0..600).step_by(100) {
        let world = World::new(turns);
        let tuning = ShardTuning { full_wait_ms: 100, commit_bytes: 120 * 1024, ..Setup::tiny(0).tuning };
        let setup =
            Setup { drives: drives(3, 8), parity: 1, unit_bytes: 128 * 1024, tuning, ..Setup::tiny(0) };
        let mut node = Node::open(&world, &setup).unwrap();
        node.commit(0, 1, vec![create(1)]).unwrap();
        let (mut seq, mut lba) = (1, 0);
        fill_up(&mut node, (0, 1), (&mut seq, &mut lba), 2);
        world.remove_drive(NODE, path("d2"));
        for _ in 0..turns {
            node.turn();
        }
        node.shutdown();
        let mut node = Node::open(&world, &setup).unwrap();
        for n in 0..lba / 2 {
            assert_eq!(node.read(0, 1, 2 * n, 2).unwrap(), [n + 2, n + 3]);
        }
    }
}

/// Batches that find no room wait for the same room: none of a queue of them waits in turn. And when there is nothing to gain
/// any more, cleaning ends. The segments' layout leaves more unused here than the count of live bytes knows, so that there is
/// space and yet no unit.
#[test]
fn a_queue_of_batches_waits_for_room_as_long_as_one_and_cleaning_ends() {
    const WAIT_MS: u64 = 2000;
    let world = World::new(12);
    let setup = with_parity(drives(3, 80), 128 << 10, WAIT_MS);
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    node.commit(1, 1, vec![create(2)]).unwrap();
    let (mut seq, mut rng, mut waiting) = (1, Rng::new(3), Vec::new());
    let blocks = 8 << 8;
    for i in 0..3 * blocks {
        seq += 1;
        let lba = if i < blocks { i } else { rng.next_u64() % blocks };
        let record = node.write(1, lba, &[seq]);
        waiting.push(node.append(0, seq, vec![record]).unwrap());
        if waiting.len() == 32 {
            waiting.drain(..).for_each(|ticket| node.wait(ticket).result.unwrap());
        }
    }
    let mut fill = |node: &mut Node| -> (usize, u64) {
        let begin = node.io.now();
        for _ in 0..16 {
            seq += 1;
            let record = node.write(2, seq * 16, &[seq; 16]);
            match node.append(1, seq, vec![record]) {
                Ok(ticket) => waiting.push(ticket),
                Err(why) => assert_eq!(why, AppendError::Full),
            }
        }
        let done = waiting.drain(..).filter(|&ticket| node.wait(ticket).result.is_ok()).count();
        (done, node.io.now().since(begin) / 1_000_000)
    };
    while fill(&mut node).0 == 16 {}
    for _ in 0..50 {
        let (_, took_ms) = fill(&mut node);
        assert!(took_ms < 2 * WAIT_MS, "{took_ms} ms");
    }
    let mut later = |seconds: u64| {
        node.turns_for(seconds * 1000);
        node.space().drive_written_bytes
    };
    let (soon, late) = (later(60), later(60));
    assert!(late - soon < 1 << 20, "{} bytes written for nothing", late - soon);
}

/// What is taken while it runs leaves enough to go on with after a restart, and after the next: also when a drive is lost, and
/// everything it held is moved into what is free.
#[test]
fn a_full_pool_that_lost_a_drive_goes_on_after_every_restart() {
    let world = World::new(12);
    let setup = Setup { degraded: true, ..with_parity(drives(3, 24), 64 << 10, 500) };
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    node.commit(1, 1, vec![create(2)]).unwrap();
    let (mut seq, mut lba) = (1, 0);
    for pg in [0, 1, 0, 1, 0, 1] {
        fill_up(&mut node, (pg, u64::from(pg) + 1), (&mut seq, &mut lba), 8);
    }
    node.shutdown();
    world.remove_drive(NODE, path("d2"));
    let mut rng = Rng::new(5);
    for round in 0..40 {
        let mut node = Node::open(&world, &setup).unwrap();
        for pg in 0..2 {
            seq += 1;
            let record = Record::Put { key: key(pg.into()), value: vec![round; 100].into() };
            node.commit(pg, seq, vec![record]).unwrap();
        }
        for _ in 0..rng.next_u64() % 800 {
            node.turn();
        }
        if round % 2 == 0 {
            node.shutdown();
        } else {
            world.crash();
        }
    }
}

/// A drive is lost while hosts write, with room enough on those that are left: nobody is refused, and everything is protected again. What
/// is free is not spread evenly then, since most of what lacks a column lies on the same two drives. Four drives of unequal size, or six
/// and double parity; `bytes_per_s` is re-protection's share while hosts write.
fn lose_a_drive_under_load(seed: u64, (six, live_mib): (bool, u64), bytes_per_s: u64) {
    let world = World::new(seed);
    let mut drives = drives(if six { 6 } else { 4 }, 64);
    if !six {
        drives[3].1 -= 24 << 20;
    }
    let parity = if six { 2 } else { 1 };
    let setup = Setup { parity, ..with_parity(drives, 128 << 10, 10_000) };
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    let (mut seq, mut rng, blocks) = (1, Rng::new(seed), live_mib << 8);
    let mut waiting = std::collections::VecDeque::new();
    let mut load = |node: &mut Node, writes: u64, each: u64, random: bool| {
        for i in 0..writes {
            seq += each;
            let place = if random { rng.next_u64() % (blocks / each) } else { i };
            let record = node.write(1, place * each, &(seq..seq + each).collect::<Vec<_>>());
            waiting.push_back(node.append(0, seq, vec![record]).unwrap());
            if waiting.len() as u64 * each > 160 {
                let done = node.wait(waiting.pop_front().unwrap()).result;
                let free = node.owner.free_units_by_drive();
                assert!(done.is_ok(), "seed {seed}, write {i}: {done:?}, {free:?} free, {:?}", node.space());
            }
        }
    };
    let each = if six { 4 } else { 16 };
    load(&mut node, blocks / each, each, false);
    world.remove_drive(NODE, path("d2"));
    node.stores[0].set_reprotection(false, bytes_per_s);
    load(&mut node, blocks / 2, 4, true);
    node.stores[0].set_reprotection(false, 0);
    node.until_protected();
}

#[test]
fn a_drive_lost_under_load_leaves_a_pool_that_has_room_going() {
    (0..2).for_each(|seed| lose_a_drive_under_load(seed, (false, 66), 0));
    lose_a_drive_under_load(0, (true, 110), 0);
}

#[test]
fn re_protection_that_may_take_little_does_not_hold_up_cleaning() {
    (0..2).for_each(|seed| lose_a_drive_under_load(seed, (false, 66), 4096));
}

/// A drive that is added to a full pool makes room as if it had been there from the start, though what the others hold was made for
/// fewer columns; and cleaning comes to an end.
#[test]
fn a_drive_that_is_added_to_a_full_pool_makes_room() {
    let world = World::new(5);
    let setup = with_parity(drives(3, 64), 128 << 10, 10_000);
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    let (mut seq, mut lba) = (1, 0);
    fill_up(&mut node, (0, 1), (&mut seq, &mut lba), 16);
    let three = lba;
    world.add_drive(NODE, path("d3"), dolmen_sim::DriveSpec::file(67 << 20));
    node.add_drive("d3").unwrap();
    seq += 16;
    for _ in 0..3 {
        // What does not fit now may do so once cleaning went on.
        fill_up(&mut node, (0, 1), (&mut seq, &mut lba), 16);
        seq += 16;
    }
    let free = node.owner.free_units_by_drive();
    assert!(
        lba * 3 >= three * 4,
        "{three} blocks on three drives, {lba} on four, {free:?} free, {:?}",
        node.space()
    );
    let until = node.io.now().plus_ms(120_000);
    let mut moved = (node.io.now(), 0);
    while node.io.now() < until {
        node.turn();
        let now = node.space().cleaned_bytes;
        if now != moved.1 {
            moved = (node.io.now(), now);
        }
    }
    assert!(moved.0.plus_ms(30_000) < until, "cleaning ends");
}

/// Units run out before the allowance does where segments are small: nothing is worth cleaning by what the map knows, and only a
/// checkpoint tells it what was unmapped since. Then hosts have room again, without anybody asking for it.
#[test]
fn what_is_unmapped_where_units_have_run_out_comes_back() {
    let world = World::new(1);
    let setup = Setup { shards: 1, ..with_parity(drives(3, 64), 128 << 10, 2000) };
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    let (mut seq, mut lba) = (1, 0);
    fill_up(&mut node, (0, 1), (&mut seq, &mut lba), 4);
    let report = node.space();
    assert!(report.live_bytes + (1 << 20) < report.allowance_bytes, "it is units that lack: {report:?}");
    for freed in [lba / 20, lba / 40, lba / 10] {
        seq += 1;
        lba -= freed;
        node.commit(0, seq, vec![unmap(1, lba, freed)]).unwrap();
        until_written(&mut node, &mut seq, lba, &[7; 16]);
        fill_up(&mut node, (0, 1), (&mut seq, &mut lba), 4);
    }
}

/// Figures of space count what was overwritten and unmapped once hosts rest; and when they don't, what was unmapped, if it is much.
#[test]
fn figures_of_space_are_right_before_long() {
    let world = World::new(2);
    let mut setup = Setup::tiny(2000);
    (setup.tuning.delta_entries, setup.tuning.log_bytes) = (4096, 64 << 20);
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    let mut seq = 1;
    for (from, to) in [(0, 2000), (0, 500)] {
        node.turns_for(12_000);
        for lba in (from..to).step_by(10) {
            seq += 10;
            let record = node.write(1, lba, &(seq..seq + 10).collect::<Vec<_>>());
            node.commit(0, seq, vec![record]).unwrap();
        }
    }
    let blocks = |node: &Node| node.space().live_bytes / BLOCK as u64;
    assert!(blocks(&node) >= 2400, "{}", blocks(&node));
    node.turns_for(12_000);
    assert!((2000..2050).contains(&blocks(&node)), "{} after a rest", blocks(&node));
    node.commit(0, seq + 11, vec![unmap(1, 1000, 1000)]).unwrap();
    for i in 0..100 {
        let record = node.write(1, i % 7, &[seq + 12 + i]);
        node.commit(0, seq + 12 + i, vec![record]).unwrap();
        node.turns_for(200);
    }
    assert!((1000..1080).contains(&blocks(&node)), "{} without a rest", blocks(&node));
}

/// Re-protection moves no more than it may, however long it has to rest for that after each segment, and what it may from then on when
/// that is changed.
#[test]
fn re_protection_keeps_its_bound() {
    const RATE: u64 = 128;
    let world = World::new(21);
    let tuning = ShardTuning { commit_bytes: 120 << 10, ..Setup::tiny(0).tuning };
    let setup = Setup { drives: drives(4, 32), parity: 1, unit_bytes: 128 << 10, tuning, ..Setup::tiny(0) };
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    for seq in 2..200 {
        let record = node.write(1, seq * 16, &[seq; 16]);
        node.commit(0, seq, vec![record]).unwrap();
    }
    node.stores[0].set_reprotection(false, RATE);
    world.remove_drive(NODE, path("d2"));
    let record = node.write(1, 0, &[1; 16]);
    node.commit(0, 200, vec![record]).unwrap();
    let mut moved_in = |seconds: u64| {
        let before = node.space().cleaned_bytes;
        node.turns_for(seconds * 1000);
        assert!(!node.is_protected());
        node.space().cleaned_bytes - before
    };
    // One segment is what it may be ahead by.
    let (minutes, segment) = (15, 2 * (128 << 10));
    let moved = moved_in(minutes * 60);
    assert!(moved > 0 && moved <= RATE * minutes * 60 + segment, "{moved} bytes");
    node.stores[0].set_reprotection(false, 4 << 20);
    let before = node.space().cleaned_bytes;
    node.turns_for(1000);
    let moved = node.space().cleaned_bytes - before;
    assert!(moved > 1 << 20, "{moved} bytes");
}

/// Every second block of a clone is trimmed, each by itself: for each of them the map has a slot for good. That ends before the map has
/// taken what checkpoints need, and whoever wants something is answered.
fn trim_a_clone_until_refused(
    seed: u64,
    setup: Setup,
    full: bool,
    every_second: impl Fn(&mut Rng, u64) -> u64,
) {
    let world = World::new(seed);
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    let (mut seq, mut lba, mut rng) = (1, 0, Rng::new(seed));
    if full {
        fill_up(&mut node, (0, 1), (&mut seq, &mut lba), 2);
    } else {
        (seq, lba) = (2, 8);
        let record = node.write(1, 0, &[7; 8]);
        node.commit(0, seq, vec![record]).unwrap();
    }
    let point = seq + 1;
    node.commit(0, point, vec![snapshot(1)]).unwrap();
    node.commit(0, point + 1, vec![clone_line(2, 1, point)]).unwrap();
    seq = point + 1;
    let (mut refused, mut trimmed) = (0, Vec::new());
    for i in 0..200_000u64 {
        seq += 1;
        let at = 2 * every_second(&mut rng, i);
        match node.commit(0, seq, vec![unmap(2, at, 1)]) {
            Ok(()) => trimmed.push(at),
            Err(StoreError::Full) => refused += 1,
            Err(other) => panic!("{other}"),
        }
        if refused > 20 {
            break;
        }
    }
    assert!(refused > 20 && trimmed.len() > 200, "{} trims: {:?}", trimmed.len(), node.space());
    for _ in 0..4 {
        seq += 1;
        let (began, record) = (node.io.now(), node.write(2, 1, &[9; 4]));
        let result = node.commit(0, seq, vec![record]);
        assert!(matches!(result, Ok(()) | Err(StoreError::Full)), "{result:?}");
        assert!(!full || result.is_err(), "a full pool takes a write");
        assert!(node.io.now().since(began) / 1_000_000 < 2 * setup.tuning.full_wait_ms);
    }
    for &at in trimmed.iter().filter(|at| **at < lba) {
        assert_eq!(node.read(0, 2, at, 1).unwrap(), [0]);
    }
    // What was trimmed goes with the clone.
    let held = node.space().map_bytes;
    node.commit(0, seq + 1, vec![drop_line(2), drop_snapshot(1, point)]).unwrap();
    node.commit(0, seq + 2, vec![unmap(1, 0, lba / 2)]).unwrap();
    seq += 2;
    (0..4).for_each(|_| node.checkpoint());
    assert!(node.space().map_bytes < held, "{held}: {:?}", node.space());
    until_written(&mut node, &mut seq, lba, &[1, 2]);
}

#[test]
fn trims_of_a_clone_do_not_eat_what_checkpoints_need() {
    let tuning = ShardTuning { full_wait_ms: 500, ..Setup::tiny(0).tuning };
    let small = Setup { tuning: tuning.clone(), ..Setup::tiny(40) };
    let wide = Setup {
        drives: drives(3, 8),
        parity: 1,
        shards: 2,
        unit_bytes: 128 * 1024,
        tuning,
        ..Setup::tiny(0)
    };
    let in_order = |_: &mut Rng, i: u64| i;
    let anywhere = |rng: &mut Rng, _: u64| rng.next_u64() % 100_000;
    for (seed, setup) in [(1, small), (2, wide)] {
        trim_a_clone_until_refused(seed, setup.clone(), true, in_order);
        trim_a_clone_until_refused(seed, setup.clone(), true, anywhere);
        // Nothing but holes fills the pool, and each checkpoint rewrites as many leaves as there are trims.
        trim_a_clone_until_refused(seed, setup.clone(), false, in_order);
        trim_a_clone_until_refused(seed, setup, false, anywhere);
    }
}
