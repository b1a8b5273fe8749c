//! Controllers of one subsystem that take different lengths at once (MDTS), and a path with a smaller limit that joins under load.
#![allow(clippy::unwrap_used)] // tests

mod common;
#[path = "common/multi.rs"]
mod multi;

use common::{BLOCK, Behaviour};
use dolmen_initiator::{Command, Failure, NO_DEADLINE, Policy, SubmitError};
use dolmen_nvme::spec::Status;
use multi::Multi;

/// Takes so many times 4 KiB at once, as an exponent of two.
fn takes(max_transfer: u8) -> Behaviour {
    Behaviour { max_transfer, ..Behaviour::default() }
}

fn fill(m: &mut Multi, blocks: usize, salt: u8) -> dolmen_io::Buf {
    let mut buf = m.buf(blocks * BLOCK, 0);
    for (block, bytes) in buf.chunks_mut(BLOCK).enumerate() {
        bytes.fill(salt.wrapping_add(u8::try_from(block).unwrap()));
    }
    buf
}

fn is_filled(bytes: &[u8], salt: u8) -> bool {
    let mut blocks = bytes.chunks(BLOCK).zip(0u8..);
    blocks.all(|(bytes, block)| bytes.iter().all(|&byte| byte == salt.wrapping_add(block)))
}

fn write(m: &mut Multi, ticket: u64, lba: u64, blocks: usize) {
    let buf = fill(m, blocks, u8::try_from(ticket).unwrap());
    let blocks = u32::try_from(blocks).unwrap();
    m.submit(ticket, NO_DEADLINE, Command::Write { nsid: 1, lba, blocks, buf, fua: false });
}

/// Ends well, and what is read back then is what was written.
fn is_written(m: &mut Multi, ticket: u64, lba: u64, blocks: usize) {
    let done = m.wait(ticket);
    assert_eq!((done.result, done.buf.map(|buf| buf.len())), (Ok(0), Some(blocks * BLOCK)));
    let buf = m.buf(blocks * BLOCK, 0xee);
    let count = u32::try_from(blocks).unwrap();
    m.submit(500, NO_DEADLINE, Command::Read { nsid: 1, lba, blocks: count, buf });
    let done = m.wait(500);
    assert_eq!(done.result, Ok(0));
    assert!(is_filled(&done.buf.unwrap(), u8::try_from(ticket).unwrap()), "{ticket} at {lba}");
}

fn refused(m: &mut Multi) -> usize {
    m.peers.iter().map(|(_, peer)| peer.counts.too_long).sum()
}

#[test]
fn the_least_of_the_live_paths_counts() {
    let mut m = Multi::new(31, vec![takes(5), takes(2), takes(4)], |o| o.policy = Policy::RoundRobin);
    m.live();
    let told = |m: &Multi| m.initiator.identity(m.id).unwrap().max_transfer_bytes;
    assert_eq!(told(&m), 16 << 10);
    for ticket in 0..12 {
        write(&mut m, ticket, ticket * 8, 4);
    }
    (0..12).for_each(|ticket| is_written(&mut m, ticket, ticket * 8, 4));
    m.cut(1);
    m.until("two", |m| m.paths().iter().filter(|p| p.live).count() == 2);
    assert_eq!(told(&m), 64 << 10);
    m.heal(1);
    m.until("three", |m| m.paths().iter().all(|p| p.live));
    assert_eq!((told(&m), refused(&mut m)), (16 << 10, 0));
    // Longer than any of them ever was.
    let (buf, huge) = (m.buf(BLOCK, 0), m.buf(256 << 10, 0));
    let request =
        |buf, blocks| dolmen_initiator::Request::new(9, Command::Read { nsid: 1, lba: 0, blocks, buf });
    let id = m.id;
    let error = m.initiator.submit(&mut m.io, id, request(huge, 64)).map_err(|(_, e)| e);
    assert_eq!(error, Err(SubmitError::TooLarge));
    m.initiator.submit(&mut m.io, id, request(buf, 1)).map_err(|(_, e)| e).unwrap();
    assert_eq!(m.wait(9).result, Ok(0));
}

/// Such a command is sent as it is, and the controller says what is wrong with it.
#[test]
fn what_can_not_be_cut_is_answered() {
    let mut m = Multi::new(32, vec![takes(4)], |_| {});
    m.live();
    m.join(takes(1));
    m.until("both", |m| m.paths().iter().all(|p| p.live));
    for (ticket, lba, blocks) in [(1, 0, 1), (2, u64::MAX - 2, 8)] {
        let buf = m.buf(8 * BLOCK, 0);
        m.submit(ticket, NO_DEADLINE, Command::Write { nsid: 1, lba, blocks, buf, fua: false });
        assert!(m.wait(ticket).result.is_err(), "{blocks} blocks at {lba}");
    }
    m.submit_write(3, 5, 0x33);
    assert_eq!((m.wait(3).result, m.byte(5)), (Ok(0), 0x33));
}

#[test]
fn a_path_with_a_smaller_limit_joins_and_no_request_fails() {
    for seed in 40..44 {
        let mut m = Multi::new(seed, vec![takes(6)], |o| {
            (o.policy, o.keep_alive_ms, o.io_timeout_ms) = (Policy::RoundRobin, 2000, 3000);
        });
        m.live();
        m.join(takes(1));
        // The caller has made up its mind: 256 KiB. Some wait and some are under way when the limit changes.
        for ticket in 0..6 {
            write(&mut m, ticket, ticket * 64, 64);
            (0..20 * seed % 70).for_each(|_| m.turn());
        }
        m.until("both", |m| m.paths().iter().all(|p| p.live));
        for ticket in 6..14 {
            write(&mut m, ticket, ticket * 64, 64);
        }
        (0..30).for_each(|_| m.turn());
        // With the first one gone only the short one is left, and all of it goes there.
        m.cut(0);
        (0..14).for_each(|ticket| is_written(&mut m, ticket, ticket * 64, 64));
        assert_eq!(refused(&mut m), 0);
        // A comparison in pieces tells what it found, and a deadline ends it once.
        for (ticket, salt, result) in
            [(20, 3, Ok(0)), (21, 4, Err(Failure::Status(Status::COMPARE_FAILURE.with_dnr())))]
        {
            let buf = fill(&mut m, 64, salt);
            m.submit(ticket, NO_DEADLINE, Command::Compare { nsid: 1, lba: 3 * 64, blocks: 64, buf });
            assert_eq!(m.wait(ticket).result, result);
        }
        m.peer(1).behaviour.swallow = 1;
        let (at, buf) = (m.io.now().plus_ms(200), m.buf(64 * BLOCK, 0xee));
        m.submit(22, at, Command::Read { nsid: 1, lba: 0, blocks: 64, buf });
        let done = m.wait(22);
        assert_eq!((done.result, done.buf.map(|buf| buf.len())), (Err(Failure::Expired), Some(64 * BLOCK)));
        m.pass_ms(4000);
        assert!(m.completions.is_empty());
    }
}
