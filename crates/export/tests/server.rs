//! The NBD server with clients of every kind, in a simulated world.
#![allow(clippy::unwrap_used)] // a test that can't go on fails

mod support;

use dolmen_export::{Export, Exports, backend::Failure, nbd::ServerConfig};
use dolmen_io::Stage;
use dolmen_sim::Rng;
use dolmen_types::{CoreId, Nqn, volume::IpAccess};
use std::{collections::BTreeSet, sync::Arc};
use support::{
    CACHE, DISCONNECT, FLUSH, FUA, NO_HOLE, READ, Rig, TRIM, WRITE, ZERO, export, go, option_bytes, pattern,
    request_bytes,
};

fn rig() -> Rig {
    Rig::new(1, vec![export("web", 1, 4096), export("db", 2, 64)], |_| {})
}

#[test]
fn a_client_chooses_an_export_and_uses_it() {
    let mut r = rig();
    let (c, flags) = r.open("web", false);
    // Flags, flush, FUA, trim, write zeroes, several connections, cache, fast zero.
    assert_eq!(flags, 0b1101_0110_1101, "{flags:b}");
    let data = pattern(300_000 / 4096 * 4096, 1);
    assert_eq!(r.execute(c, WRITE, FUA, 8192, &data), 0);
    assert_eq!(r.read(c, 8192, u32::try_from(data.len()).unwrap()).unwrap(), data);
    // Reads need no alignment.
    assert_eq!(r.read(c, 8192 + 100, 5000).unwrap(), data[100..5100]);
    assert_eq!(r.execute(c, ZERO, NO_HOLE | FUA, 8192, &data[..8192]), 0);
    assert_eq!(r.ram.flushes, 1);
    assert_eq!(r.read(c, 8192, 12_288).unwrap(), [vec![0; 8192], data[8192..12_288].to_vec()].concat());
    assert_eq!(r.execute(c, TRIM, 0, 8192, &data[..100_000]), 0);
    assert_eq!(r.execute(c, CACHE, 0, 0, &data[..4096]), 0);
    assert_eq!(r.execute(c, FLUSH, 0, 0, &[]), 0);
    assert_eq!(r.read(c, 0, 0).unwrap(), []);
    r.request(c, (DISCONNECT, 0, 0, 0, 0), &[]);
    r.until_ended(c);
    r.until("nobody is left", |r| r.server.stats().connections == 0);
    assert_eq!(r.server.stats().errors, 0);
}

#[test]
fn reads_are_answered_in_chunks_where_that_was_agreed() {
    let mut r = rig();
    let (c, flags) = r.open("web", true);
    assert_ne!(flags & 1 << 7, 0, "DF is offered");
    let data = pattern(262_144, 3);
    assert_eq!(r.execute(c, WRITE, 0, 0, &data), 0);
    // One piece, and two of zeroes.
    r.request(c, (READ, 0, 9, 4096, 262_144), &[]);
    let head = |r: &mut Rig| {
        let head = r.take(c, 20);
        assert_eq!((&head[..4], &head[8..16]), (&0x668e_33efu32.to_be_bytes()[..], &9u64.to_be_bytes()[..]));
        let length = u32::from_be_bytes(head[16..].try_into().unwrap());
        let number = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        (number(4), number(6), r.take(c, usize::try_from(length).unwrap()))
    };
    let (_, kind, chunk) = head(&mut r);
    assert_eq!((kind, &chunk[..8]), (1, &4096u64.to_be_bytes()[..]));
    assert!(chunk.len() == 262_144 + 8 && chunk[8..8 + 258_048] == data[4096..]);
    r.request(c, (READ, 0, 9, 1 << 20, 300_000), &[]);
    let (flags, kind, chunk) = head(&mut r);
    assert_eq!((flags, kind, &chunk[8..]), (0, 2, &262_144u32.to_be_bytes()[..]));
    let (flags, kind, chunk) = head(&mut r);
    assert_eq!((flags, kind), (1, 2));
    assert_eq!(chunk, [&(1_310_720u64).to_be_bytes()[..], &37_856u32.to_be_bytes()].concat());
    // Errors, and nothing at all.
    r.ram.failures = vec![Failure::Failed];
    r.request(c, (READ, 0, 9, 0, 4096), &[]);
    assert_eq!(head(&mut r), (1, 0x8001, vec![0, 0, 0, 5, 0, 0]));
    r.request(c, (READ, 0, 9, u64::MAX, 4096), &[]);
    assert_eq!(head(&mut r), (1, 0x8001, vec![0, 0, 0, 22, 0, 0]));
    for at in [0, 100, 1 << 20] {
        r.request(c, (READ, 0, 9, at, 0), &[]);
        assert_eq!(head(&mut r), (1, 0, vec![]));
    }
}

#[test]
fn reads_that_may_not_be_cut_come_in_one_chunk_or_not_at_all() {
    const DF: u16 = 1 << 2;
    let small = Export { piece_bytes: 65_536, ..export("small", 2, 4096) };
    let mut r = Rig::new(1, vec![export("web", 1, 4096), small], |_| {});
    let (c, flags) = r.open("web", true);
    assert_ne!(flags & 1 << 7, 0, "DF is offered");
    assert_eq!(r.execute(c, WRITE, 0, 0, &pattern(262_144, 3)), 0);
    let read = |r: &mut Rig, c: usize, at: u64, length: u32| {
        r.request(c, (READ, DF, 9, at, length), &[]);
        let head = r.take(c, 20);
        assert_eq!((&head[4..6], &head[8..16]), (&[0, 1][..], &9u64.to_be_bytes()[..]), "the last chunk");
        let length = u32::from_be_bytes(head[16..].try_into().unwrap());
        (u16::from_be_bytes([head[6], head[7]]), r.take(c, usize::try_from(length).unwrap()))
    };
    let overflow = (0x8001, vec![0, 0, 0, 75, 0, 0]);
    assert_eq!(read(&mut r, c, 0, 512 << 10), overflow);
    assert_eq!(read(&mut r, c, 1, 262_144), overflow);
    let (kind, chunk) = read(&mut r, c, 0, 262_144);
    assert_eq!((kind, chunk.len()), (1, 8 + 262_144));
    // So much is never too much.
    let (kind, chunk) = read(&mut r, c, 100, 65_536);
    assert_eq!((kind, chunk.len()), (1, 8 + 65_536));
    // Where that can't be held to, it isn't offered.
    let (c, flags) = r.open("small", true);
    assert_eq!(flags & 1 << 7, 0);
    assert_eq!(read(&mut r, c, 0, 4096), (0x8001, vec![0, 0, 0, 22, 0, 0]));
}

#[test]
fn options_are_answered_as_the_protocol_has_them() {
    let mut r = Rig::new(
        1,
        vec![
            export("web", 1, 16),
            Export { read_only: true, ..export("ro", 2, 16) },
            Export { access: IpAccess::None, ..export("hidden", 3, 16) },
        ],
        |_| {},
    );
    let c = r.connect();
    r.greet(c, 3);
    r.option(c, 3, &[]);
    let entry =
        |name: &[u8], number| [name, dolmen_types::Uuid([number; 16]).to_string().as_bytes()].concat();
    assert_eq!(r.option_reply(c, 3), (2, entry(b"\0\0\0\x02ro", 2)));
    assert_eq!(r.option_reply(c, 3), (2, entry(b"\0\0\0\x03web", 1)));
    assert_eq!(r.option_reply(c, 3), (1, vec![]));
    let kind = |r: &mut Rig, option: u32, data: &[u8]| {
        r.option(c, option, data);
        r.option_reply(c, option).0
    };
    let error = |number: u32| 1 << 31 | number;
    assert_eq!(kind(&mut r, 3, b"x"), error(3), "LIST has no data");
    assert_eq!(kind(&mut r, 5, b""), error(2), "no TLS");
    assert_eq!(kind(&mut r, 10, &go("web", &[])), error(3), "contexts need structured replies");
    assert_eq!(kind(&mut r, 8, b""), 1);
    assert_eq!(kind(&mut r, 10, &[&[0, 0, 0, 3], &b"web"[..], &[0; 4]].concat()), 1, "there are no contexts");
    assert_eq!(kind(&mut r, 11, b""), error(1), "extended headers");
    assert_eq!(kind(&mut r, 4242, b"anything"), error(1));
    assert_eq!(kind(&mut r, 6, &go("hidden", &[])), error(6));
    assert_eq!(kind(&mut r, 6, b"\xff\xff\xff\xff"), error(3));
    assert_eq!(kind(&mut r, 6, &go("web", &[1])[..8]), error(3));
    r.option(c, 6, &go("ro", &[1, 2, 3, 99]));
    let (_, info) = r.option_reply(c, 6);
    assert_eq!(info[2..10], 65_536u64.to_be_bytes());
    assert_ne!(info[11] & 2, 0, "read-only");
    assert_eq!(r.option_reply(c, 6), (3, b"\0\x01ro".to_vec()));
    assert_eq!(
        r.option_reply(c, 6),
        (3, [b"\0\x02", dolmen_types::Uuid([2; 16]).to_string().as_bytes()].concat())
    );
    let sizes = [4096u32, 4096, 32 << 20].map(u32::to_be_bytes).concat();
    assert_eq!(r.option_reply(c, 6), (3, [&[0, 3], &sizes[..]].concat()));
    assert_eq!(r.option_reply(c, 6), (1, vec![]));
    assert_eq!(kind(&mut r, 2, b""), 1, "ABORT");
    r.until_ended(c);
    // The old way, with its zeroes; by identity.
    let c = r.connect();
    r.greet(c, 0);
    r.option(c, 1, dolmen_types::Uuid([1; 16]).to_string().as_bytes());
    let answer = r.take(c, 134);
    assert_eq!((&answer[..8], &answer[10..]), (&65_536u64.to_be_bytes()[..], &[0; 124][..]));
    assert_eq!(r.read(c, 0, 4096).unwrap(), vec![0; 4096]);
    // One that is not there ends it.
    let c = r.connect();
    r.greet(c, 3);
    r.option(c, 1, b"nothing");
    r.until_ended(c);
}

#[test]
fn errors_are_told_and_the_connection_goes_on() {
    let mut r =
        Rig::new(1, vec![export("a", 1, 64), Export { read_only: true, ..export("b", 2, 64) }], |_| {});
    let (c, _) = r.open("a", false);
    let block = pattern(4096, 1);
    assert_eq!(r.execute(c, WRITE, 0, 100, &block), 22, "not aligned");
    assert_eq!(r.execute(c, WRITE, 0, 64 * 4096, &block), 28, "beyond the end");
    assert_eq!(r.read(c, 64 * 4096 - 1, 2), Err(22));
    assert_eq!(r.execute(c, 99, 0, 0, &[]), 22, "no such command");
    assert_eq!(r.execute(c, FLUSH, 1 << 7, 0, &[]), 22, "no such flag");
    for (failure, errno) in [
        (Failure::NoSpace, 28),
        (Failure::Forbidden, 1),
        (Failure::Failed, 5),
        (Failure::Gone, 108),
        (Failure::Unsupported, 95),
    ] {
        r.ram.failures = vec![failure];
        assert_eq!(r.execute(c, WRITE, 0, 0, &block), errno);
    }
    // What was busy is asked again, with its data.
    r.ram.failures = vec![Failure::Busy; 3];
    assert_eq!(r.execute(c, WRITE, 0, 0, &block), 0);
    r.ram.failures = vec![Failure::Busy; 2];
    assert_eq!(r.read(c, 0, 4096).unwrap(), block);
    let (c, _) = r.open("b", false);
    assert_eq!(r.execute(c, WRITE, 0, 0, &block), 1);
    assert_eq!(r.execute(c, TRIM, 0, 0, &block), 1);
    assert_eq!(r.read(c, 0, 4096).unwrap(), vec![0; 4096]);
}

/// A whole conversation, cut into sends of every length.
#[test]
fn streams_may_be_cut_anywhere() {
    let data = pattern(8192, 5);
    let mut told = Vec::new();
    for cut in (1..40).chain([61, 100, 1000, 4000]) {
        let mut r = rig();
        (r.cut, r.ram.in_order) = (cut, true);
        let c = r.connect();
        let all = [
            3u32.to_be_bytes().to_vec(),
            option_bytes(3, b""),
            option_bytes(7, &go("db", &[3])),
            request_bytes((WRITE, 0, 1, 4096, 8192), &data),
            request_bytes((WRITE, 0, 2, 1, 4096), &data[..4096]),
            request_bytes((READ, 0, 3, 4096, 8192), &[]),
            request_bytes((DISCONNECT, 0, 0, 0, 0), &[]),
        ]
        .concat();
        r.say(c, &all);
        r.until_ended(c);
        let mut got = std::mem::take(&mut r.clients[c].got);
        // Replies may pass each other.
        let tail = got.split_off(got.len() - 2 * 16 - 16 - 8192);
        assert_eq!(tail.windows(8192).filter(|w| *w == data).count(), 1, "cut {cut}");
        if told.is_empty() {
            told = got.clone();
        }
        assert_eq!(got, told, "cut {cut}");
    }
}

#[test]
fn many_clients_with_much_under_way_get_what_they_wrote() {
    let mut r = Rig::new(7, vec![export("web", 1, 8192)], |_| {});
    let clients: Vec<usize> = (0..4).map(|_| r.open("web", false).0).collect();
    let mut rng = Rng::new(3);
    let mut wanted = vec![0u8; 8192 * 4096];
    for round in 0..2u8 {
        // Each client has its quarter, and far more under way than there are buffers for.
        for (&c, quarter) in clients.iter().zip(0u64..) {
            for n in 0..20u64 {
                let blocks = 1 + rng.index(80);
                let at = (quarter * 2048 + n * 100) * 4096;
                let data = pattern(blocks * 4096, round ^ u8::try_from(n * 7 + quarter).unwrap());
                let start = usize::try_from(at).unwrap();
                wanted[start..start + data.len()].copy_from_slice(&data);
                r.request(c, (WRITE, 0, n, at, u32::try_from(data.len()).unwrap()), &data);
            }
        }
        for &c in &clients {
            let mut cookies: Vec<u64> = (0..20)
                .map(|_| r.reply(c))
                .map(|(e, n)| {
                    assert_eq!(e, 0);
                    n
                })
                .collect();
            cookies.sort_unstable();
            assert!(cookies.iter().copied().eq(0..20));
        }
    }
    for (&c, quarter) in clients.iter().zip(0u64..) {
        // 8 MiB, in one request.
        let got = r.read(c, quarter * 2048 * 4096, 2048 * 4096).unwrap();
        let start = usize::try_from(quarter * 2048 * 4096).unwrap();
        assert!(got == wanted[start..start + got.len()]);
    }
    assert!(r.ram.most_waiting < 128, "{}", r.ram.most_waiting);
}

#[test]
fn whoever_says_something_else_is_disconnected() {
    let mut r = rig();
    // Flags that nobody has, an option that is none, one without end, a request that is none.
    for bytes in [b"\xff\xff\xff\xff".to_vec(), [&[0, 0, 0, 3], &b"GET / HTTP/1.1\r\n"[..]].concat()] {
        let c = r.connect();
        r.say(c, &bytes);
        r.until_ended(c);
    }
    let c = r.connect();
    r.say(c, &[&[0, 0, 0, 3], &b"IHAVEOPT"[..], &[0, 0, 0, 7, 0xff, 0, 0, 0]].concat());
    r.until_ended(c);
    let (c, _) = r.open("web", false);
    r.say(c, &[0; 28]);
    r.until_ended(c);
    // A client that is fixed on nothing may only choose; one that asks for ever is shown the door.
    let c = r.connect();
    r.greet(c, 0);
    r.option(c, 3, b"");
    r.until_ended(c);
    let c = r.connect();
    r.greet(c, 3);
    for _ in 0..100 {
        r.option(c, 6, &go("web", &[]));
    }
    r.until_ended(c);
    // One that never chooses.
    let c = r.connect();
    r.greet(c, 3);
    r.until_ended(c);
    r.until("nobody is left", |r| r.server.stats().connections == 0);
}

#[test]
fn nobody_takes_more_than_a_share() {
    let mut r = Rig::new(1, vec![export("web", 1, 4096)], |config| {
        (config.connections, config.commands) = (2, 8);
    });
    let (quiet, _) = r.open("web", false);
    let (greedy, _) = r.open("web", false);
    let third = r.connect();
    r.until_ended(third);
    // Far more reads than it may have under way, of which it reads nothing.
    r.ram.asleep = true;
    for cookie in 0..200 {
        r.request(greedy, (READ, 0, cookie, 0, 4096), &[]);
    }
    r.turns(2000);
    assert_eq!(r.ram.waiting.len(), 8);
    r.ram.asleep = false;
    assert_eq!(r.read(quiet, 0, 4096).unwrap().len(), 4096);
    for _ in 0..200 {
        assert_eq!(r.reply(greedy).0, 0);
        r.take(greedy, 4096);
    }
}

#[test]
fn clients_that_do_not_read_or_vanish_hold_nothing() {
    let mut r = Rig::new(1, vec![export("web", 1, 4096)], |_| {});
    let (deaf, _) = r.open("web", false);
    let (other, _) = r.open("web", false);
    // A write whose data never comes whole.
    let data = pattern(262_144, 1);
    r.request(other, (WRITE, 0, 1, 0, 262_144), &data[..100_000]);
    r.ram.asleep = true;
    r.request(deaf, (READ, 0, 1, 0, 262_144), &[]);
    r.turns(500);
    assert_eq!(r.ram.waiting.len(), 1);
    r.world.reset(support::SERVER, support::CLIENT);
    r.until("nobody is left", |r| r.server.stats().connections == 0);
    // The answer that comes now finds nobody, and nothing is lost by it.
    r.ram.asleep = false;
    r.turns(10);
    let (c, _) = r.open("web", false);
    assert_eq!(r.execute(c, WRITE, 0, 0, &data), 0);
    assert_eq!(r.read(c, 0, 262_144).unwrap(), data);
}

#[test]
fn what_vanished_clients_asked_for_costs_nobody_the_connection() {
    let mut r = Rig::new(1, vec![export("web", 1, 4096)], |config| {
        (config.connections, config.commands) = (2, 2);
    });
    r.ram.asleep = true;
    for _ in 0..2 {
        let (c, _) = r.open("web", false);
        for cookie in 0..2 {
            r.request(c, (READ, 0, cookie, 0, 4096), &[]);
        }
    }
    r.until("all is under way", |r| r.ram.waiting.len() == 4);
    r.world.reset(support::SERVER, support::CLIENT);
    r.until("nobody is left", |r| r.server.stats().connections == 0);
    let asked: BTreeSet<u64> = r.ram.waiting.iter().map(|request| request.token).collect();
    assert_eq!(asked, r.ram.called_off.drain(..).collect(), "the backend is told");
    let (c, _) = r.open("web", false);
    r.request(c, (READ, 0, 9, 0, 4096), &[]);
    r.turns(500);
    assert!(!r.clients[c].ended);
    r.ram.asleep = false;
    assert_eq!(r.reply(c), (0, 9));
}

#[test]
fn a_client_is_served_when_the_changes_of_those_before_it_are_over() {
    let data = pattern(4096, 7);
    for vanishes in [true, false] {
        let mut r = rig();
        let (c, _) = r.open("web", false);
        r.ram.asleep = true;
        r.request(c, (WRITE, 0, 1, 0, 4096), &data);
        if vanishes {
            r.until("it is under way", |r| r.ram.waiting.len() == 1);
            r.world.reset(support::SERVER, support::CLIENT);
            r.until("nobody is left", |r| r.server.stats().connections == 0);
        } else {
            r.request(c, (DISCONNECT, 0, 0, 0, 0), &[]);
            r.turns(100);
        }
        let (next, _) = r.open("web", false);
        r.request(next, (READ, 0, 2, 0, 4096), &[]);
        let (other, _) = r.open("db", false);
        r.request(other, (READ, 0, 3, 0, 4096), &[]);
        r.until("another export is served", |r| r.ram.waiting.len() == 2);
        r.turns(500);
        assert_eq!(r.ram.waiting.len(), 2, "the successor waits");
        r.ram.asleep = false;
        assert_eq!(r.reply(next), (0, 2));
        assert_eq!(r.take(next, 4096), data);
    }
}

#[test]
fn whoever_has_ended_its_side_keeps_nobody_out_for_ever() {
    let mut r = rig();
    let (c, _) = r.open("web", false);
    r.ram.asleep = true;
    r.request(c, (READ, 0, 1, 0, 4096), &[]);
    r.request(c, (DISCONNECT, 0, 0, 0, 0), &[]);
    r.until_ended(c);
    assert_eq!(r.ram.called_off, [r.ram.waiting[0].token]);
    let (next, _) = r.open("web", false);
    r.request(next, (READ, 0, 2, 0, 4096), &[]);
    r.until("the successor is served", |r| r.ram.waiting.len() == 2);
}

#[test]
fn the_doors_of_other_cores_are_asked_too() {
    let door = |seed: u64, core| {
        let change = |config: &mut ServerConfig| (config.core, config.cores) = (CoreId(core), 2);
        Rig::new(seed, vec![export("web", 1, 4096)], change)
    };
    let (mut old, mut new) = (door(1, 0), door(2, 1));
    let talk = |old: &mut Rig, new: &mut Rig| {
        for _ in 0..300 {
            old.turn();
            new.turn();
            for told in std::mem::take(&mut old.doors) {
                assert_eq!(told.to, CoreId(1));
                new.server.on_message(&mut new.io, told.message);
            }
            for told in std::mem::take(&mut new.doors) {
                assert_eq!(told.to, CoreId(0));
                old.server.on_message(&mut old.io, told.message);
            }
        }
    };
    let (c, _) = old.open("web", false);
    old.ram.asleep = true;
    old.request(c, (WRITE, 0, 1, 0, 4096), &pattern(4096, 1));
    talk(&mut old, &mut new);
    assert_eq!(old.ram.waiting.len(), 1, "its own past is none");
    old.world.reset(support::SERVER, support::CLIENT);
    old.until("nobody is left", |r| r.server.stats().connections == 0);
    let (next, _) = new.open("web", false);
    new.request(next, (READ, 0, 2, 0, 0), &[]);
    talk(&mut old, &mut new);
    assert!(new.clients[next].got.is_empty(), "the successor waits");
    old.ram.asleep = false;
    talk(&mut old, &mut new);
    assert_eq!(new.reply(next), (0, 2));
    // A core that has no door has no past.
    let (c, _) = new.open("web", false);
    new.request(c, (READ, 0, 3, 0, 0), &[]);
    new.turns(300);
    let asked = new.doors.pop().unwrap().message;
    let answer = asked.answer_of_nobody().unwrap();
    assert_eq!(answer.to, CoreId(1));
    new.server.on_message(&mut new.io, answer.message);
    assert_eq!(new.reply(c), (0, 3));
}

#[test]
fn exports_that_go_take_their_clients_along() {
    let mut r = rig();
    let (web, _) = r.open("web", false);
    let (db, _) = r.open("db", false);
    let left = Exports::new(vec![Arc::new(export("renamed", 2, 128))]);
    r.server.set_exports(&mut r.io, Arc::new(left));
    r.until_ended(web);
    assert_eq!(r.read(db, 0, 4096).unwrap(), vec![0; 4096], "another name and more room are no reason");
    r.server.set_exports(&mut r.io, Arc::default());
    r.until_ended(db);
}

#[test]
fn a_server_that_stops_answers_what_is_under_way() {
    let mut r = rig();
    let (c, _) = r.open("web", false);
    r.ram.asleep = true;
    r.request(c, (READ, 0, 1, 0, 4096), &[]);
    r.turns(200);
    r.server.drain(&mut r.io);
    r.turns(200);
    assert!(!r.server.is_drained());
    r.ram.asleep = false;
    assert_eq!(r.reply(c), (0, 1));
    r.take(c, 4096);
    r.until_ended(c);
    r.until("drained", |r| r.server.is_drained());
}

#[test]
fn clients_and_where_their_time_goes_are_told() {
    let host: Nqn = "nqn.2014-08.org.example:door".parse().unwrap();
    let mut rig = Rig::new(42, vec![export("web", 3, 64)], |config| config.host = Some(host.clone()));
    let (client, _) = rig.open("web", false);
    rig.execute(client, WRITE, 0, 8192, &[5; 8192]);
    assert!(rig.read(client, 8192, 4096).is_ok());
    assert_eq!(rig.execute(client, FLUSH, 0, 0, &[]), 0);
    let clients = rig.server.clients();
    assert_eq!((clients.len(), clients[0].export.as_str(), clients[0].outstanding), (1, "web", 0));
    assert_eq!((clients[0].commands, clients[0].read_bytes, clients[0].written_bytes), (3, 4096, 8192));
    // The last reply's send has ended when another answer comes.
    rig.turns(5);
    let told = rig.server.traces(4, rig.io.now());
    let seen: Vec<_> =
        told.recent.iter().map(|t| (t.opcode, t.lba, t.blocks, t.failed, t.host.clone())).collect();
    let host = Some(host);
    assert_eq!(
        seen,
        [(1, 2, 2, false, host.clone()), (2, 2, 1, false, host.clone()), (0, 0, 0, false, host)]
    );
    assert!(told.recent.iter().all(|t| t.sent.is_some() && t.stamps.at(Stage::Replied).is_some()));
    assert!(told.recent[0].stamps.at(Stage::DataIn).is_some(), "of a write");
    assert!(rig.server.traces(5, rig.io.now()).recent.is_empty(), "another namespace");
}
