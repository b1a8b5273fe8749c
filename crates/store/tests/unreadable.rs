//! Sectors that can't be read: what they hold is lost, and nothing else. A start tells them from what was torn; cleaning takes along
//! whatever lies round them.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::*;
use dolmen_sim::{DriveFaults, Fault, World};
use dolmen_store::*;

const LABEL: u64 = 4 << 20;

/// One drive, and a log of small commits that no checkpoint has cut short.
fn long_log(units: u64) -> Setup {
    let mut setup = Setup::tiny(units);
    (setup.tuning.delta_entries, setup.tuning.commit_bytes) = (4096, 12 * 1024);
    setup
}

/// Two blocks for each of so many writes, all acknowledged, the last ones under way together; then the power goes.
fn filled(world: &World, setup: &Setup, writes: u64) {
    let mut node = Node::open(world, setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    let mut under_way = Vec::new();
    for i in 0..writes {
        // Every block is overwritten once: what was there before must not come back.
        for (lba, seq) in [(2 * (i + 1), 2 * i + 2), (2 * i, 2 * i + 3)] {
            let record = node.write(1, lba, &[seq * 10, seq * 10 + 1]);
            under_way.push(node.append(0, seq, vec![record]).unwrap());
        }
        if i + 2 < writes {
            under_way.drain(..).for_each(|ticket| assert_eq!(node.wait(ticket).result, Ok(())));
        }
    }
    under_way.into_iter().for_each(|ticket| assert_eq!(node.wait(ticket).result, Ok(())));
    drop(node);
    world.crash();
}

fn value(lba: u64, writes: u64) -> u64 {
    let seq = if lba / 2 == writes { 2 * writes } else { 2 * (lba / 2) + 3 };
    seq * 10 + lba % 2
}

/// Reads everything; which blocks can't be read. Anything but that and what was written last fails.
fn unreadable(node: &mut Node, writes: u64) -> Vec<u64> {
    let is_lost = |lba: &u64| match node.read(0, 1, *lba, 1) {
        Ok(is) => {
            assert_eq!(is, [value(*lba, writes)], "block {lba}");
            false
        }
        Err(StoreError::Medium { .. }) => true,
        Err(other) => panic!("block {lba}: {other}"),
    };
    (0..2 * writes + 2).filter(is_lost).collect()
}

/// Pages in use of a drive's units: offset, and the page.
fn pages(world: &World, setup: &Setup, drive: &str) -> Vec<(u64, Vec<u8>)> {
    let (image, mut page) = (world.image(NODE, path(drive)), vec![0; BLOCK]);
    let size = setup.drives.iter().find(|d| d.0 == drive).unwrap().1;
    let read = |at| {
        image.read(at, &mut page);
        (at, page.clone())
    };
    (LABEL..size).step_by(BLOCK).map(read).collect()
}

fn number_of(header: &[u8]) -> u64 {
    u64::from_le_bytes(header[64..72].try_into().unwrap())
}

fn is_commit(page: &[u8]) -> bool {
    page.starts_with(b"dolmCOMT")
}

/// Every page of the units by itself: a start goes on, and lacks what was there alone. It stops only where nobody can know whether the
/// log goes on: at headers, and at the place behind the last commit.
#[test]
fn any_page_that_cannot_be_read_costs_what_it_held() {
    let (setup, writes) = (long_log(20), 8);
    let (mut counts, mut told) = ([0; 3], 0);
    let world = World::new(1);
    filled(&world, &setup, writes);
    let all = pages(&world, &setup, "d0");
    let (last, header) = all.iter().filter(|p| is_commit(&p.1)).max_by_key(|p| number_of(&p.1)).unwrap();
    let end = last + u64::from(u32::from_le_bytes(header[52..56].try_into().unwrap()));
    for (at, page) in &all {
        let world = World::new(1);
        filled(&world, &setup, writes);
        world.spoil(NODE, path("d0"), at + 1024, 512);
        let is_header = is_commit(page) || (page.starts_with(b"dolmSEGM") && *at < end);
        match Node::open(&world, &setup) {
            Err(StoreError::Medium { .. }) if is_header || *at == end => counts[0] += 1,
            Err(error) => panic!("page at {at}, the log ends at {end}: {error}"),
            Ok(mut node) => {
                assert!(!is_header, "a header at {at} can be done without");
                let lost = unreadable(&mut node, writes);
                assert!(lost.len() <= 1, "{lost:?}");
                counts[1 + lost.len()] += 1;
                let named = node.stores[0].scrub().unwrap().lost;
                assert!(named <= lost.len() as u64, "page at {at}: {named} told, {lost:?} lost");
                told += named;
                for lba in lost {
                    // Another start sees the same, and what is written anew is there.
                    drop(node);
                    world.crash();
                    node = Node::open(&world, &setup).unwrap();
                    assert_eq!(unreadable(&mut node, writes), [lba]);
                    let record = node.write(1, lba, &[value(lba, writes)]);
                    node.commit(0, 100, vec![record]).unwrap();
                    assert!(unreadable(&mut node, writes).is_empty());
                }
            }
        }
    }
    let [refused, harmless, lost] = counts;
    assert!(refused > 16 && harmless > 150 && lost == 2 * writes as usize + 2, "{counts:?}");
    // Of what was not proven by a later commit all is looked at.
    assert!(told > 2, "{told}");
}

/// Every page of the label is there twice, and who can't read one goes by the other: superblocks, anchors and keys. With one drive, where
/// nobody else knows the pool.
#[test]
fn a_page_of_the_label_that_cannot_be_read_costs_nothing() {
    let (setup, writes) = (long_log(20), 4);
    let (world, mut used) = (World::new(1), 0);
    filled(&world, &setup, writes);
    let (image, mut page) = (world.image(NODE, path("d0")), vec![0; BLOCK]);
    for at in (0..LABEL).step_by(BLOCK) {
        image.read(at, &mut page);
        if page.iter().all(|&b| b == 0) && at > 64 << 10 {
            continue;
        }
        used += 1;
        let world = World::new(1);
        filled(&world, &setup, writes);
        world.spoil(NODE, path("d0"), at + 1024, 512);
        let mut node = Node::open(&world, &setup).unwrap_or_else(|e| panic!("page at {at}: {e}"));
        assert!(unreadable(&mut node, writes).is_empty(), "page at {at}");
        // What is written next to the label takes the place.
        node.commit(0, 90, vec![create(2)]).unwrap();
        drop(node);
        world.crash();
        let mut node = Node::open(&world, &setup).unwrap_or_else(|e| panic!("page at {at}, again: {e}"));
        assert!(unreadable(&mut node, writes).is_empty(), "page at {at}, again");
    }
    assert!(used > 8, "{used}");
}

/// A read that fails once costs nothing, whenever in a start it is.
#[test]
fn a_read_that_fails_once_loses_nothing() {
    let (setup, writes) = (long_log(20), 8);
    for turn in 0..120 {
        let world = World::new(2);
        filled(&world, &setup, writes);
        let mut node = Node::start(&world, &setup).unwrap();
        (0..turn).for_each(|_| node.turn());
        world.fail_next(NODE, path("d0"), Fault::Read);
        let mut node = node.until_ready().unwrap_or_else(|error| panic!("turn {turn}: {error}"));
        // It may be one of these that fails.
        let lost = unreadable(&mut node, writes);
        assert!(lost.len() <= 1, "turn {turn}: {lost:?}");
        assert!(unreadable(&mut node, writes).is_empty(), "turn {turn}");
    }
}

/// With copies on other drives nothing is lost; with the last copy alone what can't be read is, and only that.
#[test]
fn a_copy_elsewhere_is_as_good() {
    let writes = 8;
    let setup = Setup { drives: drives(2, 4), parity: 1, ..long_log(0) };
    let world = World::new(3);
    filled(&world, &setup, writes);
    let all = pages(&world, &setup, "d0");
    let blocks = all.iter().filter(|(_, page)| page.iter().any(|b| *b != 0));
    let (mut headers, mut lost_alone) = (0, 0);
    for (at, page) in blocks {
        for alone in [false, true] {
            let world = World::new(3);
            filled(&world, &setup, writes);
            world.spoil(NODE, path("d0"), *at, 512);
            if alone {
                world.remove_drive(NODE, path("d1"));
            }
            match Node::open(&world, &setup) {
                Ok(mut node) => {
                    let lost = unreadable(&mut node, writes);
                    assert!(lost.len() <= usize::from(alone), "page at {at}, alone {alone}: {lost:?}");
                    lost_alone += lost.len();
                }
                Err(StoreError::Medium { .. }) if alone && page.starts_with(b"dolm") => headers += 1,
                Err(error) => panic!("page at {at}, alone {alone}: {error}"),
            }
        }
    }
    assert!(headers > 16 && lost_alone == 2 * writes as usize + 2, "{headers} {lost_alone}");
}

/// Where a drive is emptied that has bad sectors, in headers and in payloads, everything round them comes along.
#[test]
fn a_drive_with_bad_sectors_is_emptied_as_far_as_can_be() {
    let (setup, writes) = (Setup { drives: drives(2, 6), ..long_log(0) }, 40);
    let world = World::new(4);
    filled(&world, &setup, writes);
    let mut node = Node::open(&world, &setup).unwrap();
    node.checkpoint();
    // Every other commit is overwritten by now.
    let needed = |page: &(u64, Vec<u8>)| is_commit(&page.1) && number_of(&page.1) % 2 == 1;
    let commits: Vec<u64> =
        pages(&world, &setup, "d0").into_iter().filter(needed).map(|p| p.0).skip(1).collect();
    let spoilt = [commits[1], commits[3] + BLOCK as u64];
    spoilt.iter().for_each(|&at| world.spoil(NODE, path("d0"), at, 512));
    node.owner.remove_drive(0).unwrap();
    let mut before = Vec::new();
    for round in 0.. {
        // It is at an end when two minutes changed nothing.
        let until = world.now().plus_ms(150_000);
        while world.now() < until {
            node.turn();
        }
        let held: Vec<u32> = node.owner.drives().iter().map(|d| d.held_units).collect();
        if std::mem::replace(&mut before, held.clone()) == held {
            break;
        }
        assert!(round < 20, "{held:?}");
    }
    world.remove_drive(NODE, path("d0"));
    let lost = unreadable(&mut node, writes);
    assert_eq!(lost.len(), 3, "{lost:?}");
}

/// What the segment before left in a unit, where the log of the one that has it now ends, hides nothing.
#[test]
fn what_another_stream_left_behind_is_nothing() {
    let (setup, writes) = (long_log(24), 20);
    let world = World::new(5);
    filled(&world, &setup, writes);
    let all = pages(&world, &setup, "d0");
    let unit = u64::from(setup.unit_bytes);
    // The first commit of a segment that others follow, and the place behind the last one of that segment.
    let (first, header) = all.iter().find(|(_, page)| is_commit(page)).unwrap();
    let segment = (first - LABEL) / unit * unit + LABEL;
    let salt =
        all.iter().find(|p| p.0 == segment).map(|p| u64::from_le_bytes(p.1[56..64].try_into().unwrap()));
    let mut here = all.iter().filter(|(at, page)| (segment..segment + unit).contains(at) && is_commit(page));
    let (last, newest) = here.next_back().unwrap();
    let end = last + u64::from(u32::from_le_bytes(newest[52..56].try_into().unwrap()));
    assert!(end + (BLOCK as u64) <= segment + unit, "there is no room behind the last commit");
    let mut left = header.clone();
    left[42] = 1;
    left[48..52].copy_from_slice(&((end - segment) as u32).to_le_bytes());
    left[52..56].copy_from_slice(&4096u32.to_le_bytes());
    left[20..24].fill(0);
    let check = dolmen_kernels::check64(salt.unwrap(), &left[16..]);
    left[8..16].copy_from_slice(&check.to_le_bytes());
    world.overwrite(NODE, path("d0"), end, &left);
    let mut node = Node::open(&world, &setup).unwrap_or_else(|e| panic!("{e}"));
    assert!(unreadable(&mut node, writes).is_empty());
}

/// Begins to read a block while a drive takes four seconds for it.
fn read_slowly(node: &mut Node, drive: &str, lba: u64) -> u64 {
    let latency_ns = (4_000_000_000, 4_000_000_000);
    let slow = DriveFaults { latency_ns, ..DriveFaults::default() };
    node.world.set_faults(NODE, path(drive), slow);
    let ticket = node.start_read(0, 1, lba, 1);
    // It is asked for through other columns as well, where there are any.
    node.turns_for(200);
    node.world.set_faults(NODE, path(drive), DriveFaults::default());
    ticket
}

/// A checkpoint replaces a leaf while its old page is being read, which fails.
#[test]
fn a_leaf_that_was_replaced_is_read_anew() {
    let (world, setup) = (World::new(8), Setup::tiny(40));
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    let record = node.write(1, 0, &[10, 11, 12]);
    node.commit(0, 2, vec![record]).unwrap();
    node.checkpoint();
    drop(node);
    let is_leaf = |page: &(u64, Vec<u8>)| page.1.starts_with(b"dolmPAGE") && page.1[18] == 0;
    let leaves: Vec<u64> = pages(&world, &setup, "d0").into_iter().filter(is_leaf).map(|p| p.0).collect();
    assert!(!leaves.is_empty());
    let mut node = Node::open(&world, &setup).unwrap();
    let ticket = read_slowly(&mut node, "d0", 1);
    let record = node.write(1, 2, &[13]);
    node.commit(0, 3, vec![record]).unwrap();
    node.checkpoint();
    assert!(!node.done.contains_key(&ticket), "it is still under way");
    leaves.iter().for_each(|&at| world.spoil(NODE, path("d0"), at, BLOCK as u64));
    let done = node.wait(ticket);
    assert_eq!(done.result, Ok(()));
    assert_eq!(values(&done.buf.unwrap()), [11]);
}
