//! Clients that want all of the door's memory: replies find theirs, and everybody gets a share.
#![allow(clippy::unwrap_used)] // a test that can't go on fails

mod support;

use dolmen_export::backend::{MAX_DATA_BYTES, Operation};
use dolmen_io::{Buf, PoolConfig};
use support::{FLUSH, READ, Rig, WRITE, export, pattern};

const LONG: u32 = 262_144;

fn rig() -> Rig {
    Rig::new(1, vec![export("web", 1, 4096), export("db", 2, 4096)], |_| {})
}

fn open(r: &mut Rig, clients: usize) -> Vec<usize> {
    (0..clients).map(|_| r.open("web", false).0).collect()
}

/// Everything that hosts may have.
fn drain(r: &Rig) -> Vec<Buf> {
    std::iter::from_fn(|| r.io.pool().alloc_share(1, 0)).collect()
}

/// What the backend has of the pool. Bytes.
fn at_backend(r: &Rig) -> usize {
    let held = r.ram.waiting.iter().map(|request| match &request.operation {
        Operation::Read { buf, .. } | Operation::Write { buf, .. } => buf.capacity(),
        _ => 0,
    });
    held.sum()
}

fn door_may_have(r: &Rig) -> usize {
    r.io.pool().region().1 / 8
}

#[test]
fn reads_leave_their_replies_memory() {
    let mut r = rig();
    let (c, _) = r.open("web", false);
    r.ram.asleep = true;
    for cookie in 0..128 {
        r.request(c, (READ, 0, cookie, cookie * 8192, 8192), &[]);
    }
    r.turns(500);
    r.ram.asleep = false;
    for _ in 0..128 {
        assert_eq!(r.reply(c).0, 0);
        r.take(c, 8192);
    }
}

#[test]
fn replies_go_out_while_hosts_have_all_they_may() {
    let mut r = rig();
    let data = pattern(LONG as usize, 1);
    let (c, _) = r.open("web", false);
    assert_eq!(r.execute(c, WRITE, 0, 0, &data), 0);
    r.ram.asleep = true;
    r.request(c, (READ, 0, 1, 0, LONG), &[]);
    r.until("it is under way", |r| r.ram.waiting.len() == 1);
    let held = drain(&r);
    r.ram.asleep = false;
    assert_eq!(r.reply(c), (0, 1));
    assert_eq!(r.take(c, LONG as usize), data);
    // More clients than there are buffers set aside, one after the other: each gives back what it was lent.
    for c in open(&mut r, 20) {
        assert_eq!(r.execute(c, FLUSH, 0, 0, &[]), 0);
    }
    drop(held);
}

#[test]
fn writes_leave_others_memory() {
    let mut r = rig();
    let data = pattern(LONG as usize, 1);
    r.ram.asleep = true;
    let clients = open(&mut r, 14);
    for &c in &clients {
        for cookie in 0..16 {
            r.request(c, (WRITE, 0, cookie, cookie * u64::from(LONG), LONG), &data);
        }
    }
    r.turns(3000);
    assert!((1 << 19..=door_may_have(&r)).contains(&at_backend(&r)), "{}", at_backend(&r));
    assert!(r.io.pool().alloc_share(MAX_DATA_BYTES, 0).is_some());
    r.ram.asleep = false;
    for &c in &clients {
        let mut answers: Vec<_> = (0..16).map(|_| r.reply(c)).collect();
        answers.sort_unstable();
        assert!(answers.into_iter().eq((0..16).map(|cookie| (0, cookie))));
    }
}

/// What lies about until there is memory for it lies in what sockets receive into.
#[test]
fn many_writes_that_wait_leave_chunks_to_receive_into() {
    let mut r = rig();
    let data = pattern(LONG as usize, 1);
    r.ram.asleep = true;
    let clients = open(&mut r, 100);
    for &c in &clients {
        for cookie in 0..4 {
            r.request(c, (WRITE, 0, cookie, cookie * u64::from(LONG), LONG), &data);
        }
    }
    let free = |r: &Rig, bytes| r.io.pool().available(bytes);
    let chunks = |r: &Rig| free(r, PoolConfig::CHUNK_BYTES) - free(r, MAX_DATA_BYTES);
    let mut fewest = usize::MAX;
    for _ in 0..3000 {
        r.turn();
        fewest = fewest.min(chunks(&r));
    }
    assert!(fewest > 24, "{fewest} of 96");
    r.ram.asleep = false;
    for &c in &clients {
        let mut answers: Vec<_> = (0..4).map(|_| r.reply(c)).collect();
        answers.sort_unstable();
        assert!(answers.into_iter().eq((0..4).map(|cookie| (0, cookie))));
    }
    assert_eq!(r.server.stats().connections, 100);
}

#[test]
fn one_client_leaves_others_as_much_as_it_has() {
    let mut r = rig();
    r.ram.asleep = true;
    let (greedy, _) = r.open("web", false);
    for cookie in 0..64 {
        r.request(greedy, (READ, 0, cookie, 0, LONG), &[]);
    }
    r.turns(500);
    let held = at_backend(&r);
    assert!(held > 0 && 2 * held <= door_may_have(&r), "{held}");
    let (other, _) = r.open("db", false);
    r.request(other, (READ, 0, 1, 0, LONG), &[]);
    r.until("it has a buffer", |r| at_backend(r) == held + LONG as usize);
}

#[test]
fn memory_that_comes_back_is_shared_evenly() {
    let mut r = rig();
    r.ram.asleep = true;
    let clients = open(&mut r, 3);
    let held = drain(&r);
    for (&c, quarter) in clients.iter().zip(0..) {
        for cookie in 0..4 {
            r.request(c, (READ, 0, cookie, quarter << 22, LONG), &[]);
        }
    }
    r.turns(200);
    assert_eq!(r.ram.waiting.len(), 0);
    drop(held);
    r.turns(200);
    let client = |operation: &Operation| match operation {
        Operation::Read { offset, .. } => offset >> 22,
        other => panic!("{other:?}"),
    };
    let mut asked: Vec<_> = r.ram.waiting.iter().map(|request| client(&request.operation)).collect();
    asked.sort_unstable();
    assert_eq!(asked, [0, 1, 2]);
}

/// Reads of all of them wait for the memory of a few.
#[test]
fn clients_that_wait_for_memory_are_served_in_turns() {
    let mut r = rig();
    r.ram.in_order = true;
    let clients = open(&mut r, 12);
    for &c in &clients {
        for cookie in 0..30 {
            r.request(c, (READ, 0, cookie, 0, LONG), &[]);
        }
    }
    let answer = 16 + LONG as usize;
    r.until("one is done", |r| clients.iter().any(|&c| r.clients[c].got.len() == 30 * answer));
    for &c in &clients {
        let answers = r.clients[c].got.len() / answer;
        assert!(answers >= 20, "{answers} of 30");
    }
}

#[test]
fn clients_that_do_not_read_leave_others_memory_and_end_when_these_wait_for_it() {
    let mut r = rig();
    let deaf = open(&mut r, 14);
    let (good, _) = r.open("db", false);
    for &c in &deaf {
        r.set_reading(c, false);
        for cookie in 0..16 {
            r.request(c, (READ, 0, cookie, 0, LONG), &[]);
        }
    }
    r.pass_ms(1000);
    assert!(r.io.pool().alloc_share(MAX_DATA_BYTES, 0).is_some());
    let since = r.io.now();
    assert_eq!(r.read(good, 0, 8 << 20).unwrap().len(), 8 << 20);
    assert!(r.io.now() < since.plus_ms(10_000), "{:?}", r.io.now());
}

/// A client whose link is slow, a window every other second: its send is under way for long, but it goes on.
#[test]
fn slow_readers_lose_nothing_while_others_wait() {
    let mut r = rig();
    let clients = open(&mut r, 4);
    let slow = clients[0];
    r.set_reading(slow, false);
    (r.ram.asleep, r.ram.at_once) = (true, true);
    (0..2).for_each(|cookie| r.request(slow, (READ, 0, cookie, 0, LONG), &[]));
    r.until("both are under way", |r| r.ram.waiting.len() == 2);
    r.ram.asleep = false;
    r.until("both are being sent", |r| r.ram.waiting.is_empty());
    r.turn();
    // The rest of the door's memory is at the backend, and one client waits for some.
    r.ram.asleep = true;
    clients[1..].iter().for_each(|&c| r.request(c, (READ, 0, 2, 0, LONG), &[]));
    r.pass_ms(100);
    assert_eq!(r.ram.waiting.len(), 2);
    for _ in 0..3 {
        r.pass_ms(1400);
        r.set_reading(slow, true);
        r.turn();
        r.set_reading(slow, false);
    }
    assert_eq!((r.ram.waiting.len(), r.clients[slow].got.len()), (3, 2 * (16 + LONG as usize)));
    r.ram.asleep = false;
    for c in &clients[1..] {
        assert_eq!(r.reply(*c), (0, 2));
    }
    assert!(r.clients.iter().all(|c| !c.ended));
}

/// Others wait, but for what they have themselves.
#[test]
fn who_is_in_nobodys_way_has_its_minute_to_read() {
    let mut r = Rig::with(1, vec![export("web", 1, 4096)], |_| {}, 1024);
    let clients = open(&mut r, 3);
    r.set_reading(clients[0], false);
    for (n, &c) in clients.iter().enumerate() {
        r.ram.asleep = n > 0;
        (0..40).for_each(|cookie| r.request(c, (READ, 0, cookie, 0, LONG), &[]));
        r.pass_ms(100);
    }
    assert_eq!(at_backend(&r), 16 << 20, "two of them have all that one may have");
    r.pass_ms(10_000);
    assert_eq!(r.server.stats().connections, 3);
    r.pass_ms(60_000);
    assert_eq!(r.server.stats().connections, 2);
}

/// A byte now and then is not a write.
#[test]
fn a_write_whose_data_trickles_in_ends() {
    let mut r = rig();
    let (c, _) = r.open("web", false);
    r.request(c, (WRITE, 0, 1, 0, LONG), &[]);
    for _ in 0..6 {
        assert!(!r.clients[c].ended);
        r.say(c, &[7]);
        r.pass_ms(9_000);
    }
    for _ in 0..3 {
        r.say(c, &[7]);
        r.pass_ms(9_000);
    }
    assert!(r.clients[c].ended);
    // One that is slow, but goes on.
    let (c, _) = r.open("web", false);
    let data = pattern(LONG as usize, 1);
    r.request(c, (WRITE, 0, 1, 0, LONG), &[]);
    for part in data.chunks(LONG as usize / 8) {
        r.say(c, part);
        r.pass_ms(25_000);
    }
    assert_eq!(r.reply(c), (0, 1));
    assert_eq!(r.read(c, 0, LONG).unwrap(), data);
}

#[test]
fn writes_whose_data_does_not_come_end_soon_when_others_wait_for_memory() {
    let mut r = rig();
    let free = r.io.pool().available(PoolConfig::CHUNK_BYTES);
    let lazy = open(&mut r, 40);
    for &c in &lazy {
        r.request(c, (WRITE, 0, 1, 0, LONG), &[7]);
    }
    r.turns(500);
    let (good, _) = r.open("db", false);
    let data = pattern(LONG as usize, 1);
    let since = r.io.now();
    assert_eq!(r.execute(good, WRITE, 0, 0, &data), 0);
    // They have the door's memory a few at a time, two seconds each.
    assert!(r.io.now() < since.plus_ms(30_000), "{:?}", r.io.now());
    // The last ones are in nobody's way, but not for ever.
    r.until("they are gone", |r| r.server.stats().connections == 1);
    assert_eq!(r.io.pool().available(PoolConfig::CHUNK_BYTES), free, "nothing is lost");
}
