//! Streams of the simulated world: order and content under cuts, partitions, resets, lost machines and small pools.
#![allow(clippy::unwrap_used)] // helpers of tests

use dolmen_io::{ErrorKind, Event, Io, Owner, PoolConfig, SocketId, Tag, Wait};
use dolmen_sim::{CoreConfig, NodeId, World};
use std::net::SocketAddr;

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);

fn tag(key: u64) -> Tag {
    Tag { owner: Owner(1), key }
}

fn core(world: &World, node: NodeId) -> Io {
    let pool = PoolConfig::new(vec![(4096, 16), (32 * 1024, 4)]);
    Io::new(Box::new(world.driver(CoreConfig { node, pool })))
}

/// Turns of both cores until `n` events came to either; (core, key, event).
fn run(mut cores: [&mut Io; 2], n: usize) -> Vec<(usize, u64, Event)> {
    let mut all = Vec::new();
    for _ in 0..2000 {
        if all.len() >= n {
            return all;
        }
        for (i, io) in cores.iter_mut().enumerate() {
            let mut events = Vec::new();
            io.poll(Wait::Forever, &mut events);
            all.extend(events.into_iter().map(|(t, e)| (i, t.key, e)));
        }
    }
    panic!("only {} of {n} events came: {all:?}", all.len());
}

/// A connection from `a` to `b`: both sockets.
fn pair(a: &mut Io, b: &mut Io) -> (SocketId, SocketId) {
    let (listener, addr) = b.listen(SocketAddr::new(B.addr(), 0)).unwrap();
    b.accept(tag(1), listener);
    let client = a.connect(tag(2), addr).unwrap();
    let mut server = None;
    for (_, _, event) in run([a, b], 2) {
        match event {
            Event::Accepted { sock, peer, local } => {
                assert_eq!((peer.ip(), local), (A.addr(), addr));
                server = Some(sock);
            }
            Event::Connected { local } => assert_eq!(local.ip(), A.addr()),
            other => panic!("{other:?}"),
        }
    }
    (client, server.unwrap())
}

fn send(io: &mut Io, sock: SocketId, bytes: &[u8]) {
    let mut data = Vec::new();
    for part in bytes.chunks(4096) {
        let mut buf = io.alloc(part.len()).unwrap();
        buf.copy_from_slice(part);
        data.push(buf.freeze());
    }
    io.send(tag(3), sock, data);
}

#[test]
fn bytes_arrive_in_order_whatever_the_cuts() {
    for seed in 0..20 {
        let world = World::new(seed);
        let (mut a, mut b) = (core(&world, A), core(&world, B));
        let (client, server) = pair(&mut a, &mut b);
        b.receive(tag(4), server);
        let bytes: Vec<u8> = (0..60_000u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let (mut got, mut pieces, mut sent) = (Vec::new(), 0, 0);
        while got.len() < 5 * bytes.len() {
            if sent < 5 && got.len() >= sent * bytes.len() {
                send(&mut a, client, &bytes);
                sent += 1;
            }
            for (_, key, event) in run([&mut a, &mut b], 1) {
                match (key, event) {
                    (4, Event::Received(buf)) => {
                        got.extend_from_slice(&buf);
                        pieces += 1;
                    }
                    (3, Event::Sent(data)) => assert!(data.is_empty()),
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(got, bytes.repeat(5));
        assert!(pieces > 10);
        a.close(tag(5), client);
        let ends: Vec<Event> = run([&mut a, &mut b], 2).into_iter().map(|(_, _, e)| e).collect();
        assert!(ends.iter().any(|e| matches!(e, Event::Closed)));
        assert!(ends.iter().any(|e| matches!(e, Event::EndOfStream)), "{ends:?}");
    }
}

#[test]
fn a_full_window_and_an_empty_pool_hold_the_sender() {
    let world = World::new(7);
    let (mut a, mut b) = (core(&world, A), core(&world, B));
    let (client, server) = pair(&mut a, &mut b);
    b.receive(tag(4), server);
    let buf = a.alloc(32 * 1024).unwrap();
    let slice = buf.freeze();
    a.send(tag(3), client, vec![slice; 20]);
    // Chunks are held: the four of the pool come, then nothing, and the send does not end.
    let mut held = run([&mut a, &mut b], 4);
    for _ in 0..50 {
        for io in [&mut a, &mut b] {
            let mut events = Vec::new();
            io.poll(Wait::No, &mut events);
            held.extend(events.into_iter().map(|(t, e)| (0, t.key, e)));
        }
    }
    assert!(held.iter().all(|(_, _, e)| matches!(e, Event::Received(_))));
    let mut got: usize =
        held.iter().map(|(_, _, e)| if let Event::Received(b) = e { b.len() } else { 0 }).sum();
    drop(held);
    let mut done = false;
    while got < 20 * 32 * 1024 || !done {
        for (_, _, event) in run([&mut a, &mut b], 1) {
            match event {
                Event::Received(buf) => got += buf.len(),
                Event::Sent(_) => done = true,
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn partitions_hold_bytes_and_resets_tell_both() {
    let world = World::new(8);
    let (mut a, mut b) = (core(&world, A), core(&world, B));
    let (client, server) = pair(&mut a, &mut b);
    b.receive(tag(4), server);
    a.receive(tag(5), client);
    world.partition(A, B);
    send(&mut a, client, &[1; 100]);
    assert!(matches!(run([&mut a, &mut b], 1)[0], (0, 3, Event::Sent(_))));
    a.timer_at(tag(9), a.now().plus_ms(1000));
    assert!(matches!(run([&mut a, &mut b], 1)[0], (0, 9, Event::Timer)));
    world.heal(A, B);
    assert!(matches!(run([&mut a, &mut b], 1)[0], (1, 4, Event::Received(_))));
    world.reset(A, B);
    for (_, key, event) in run([&mut a, &mut b], 2) {
        assert!(key == 4 || key == 5);
        assert!(matches!(event, Event::Failed { error, .. } if error.kind == ErrorKind::Connection));
    }
}

/// What was lost comes once it is sent again, though its socket is closed. After an abort it is not, and the peer hears of that if the way
/// is open.
#[test]
fn what_was_lost_comes_after_a_close_and_never_after_an_abort() {
    for seed in 0..20 {
        for (abort, healed_before) in [(false, true), (false, false), (true, true), (true, false)] {
            let world = World::new(seed);
            let (mut a, mut b) = (core(&world, A), core(&world, B));
            let (client, server) = pair(&mut a, &mut b);
            b.receive(tag(4), server);
            world.partition(A, B);
            send(&mut a, client, &[1; 100]);
            assert!(matches!(run([&mut a, &mut b], 1)[0], (0, 3, Event::Sent(_))));
            a.timer_at(tag(9), a.now().plus_ms(1000));
            assert!(matches!(run([&mut a, &mut b], 1)[0], (0, 9, Event::Timer)));
            let heal = || world.heal_and_resend_after(A, B, 3000);
            if healed_before {
                heal();
            }
            if abort {
                a.abort(tag(5), client)
            } else {
                a.close(tag(5), client)
            }
            assert!(matches!(run([&mut a, &mut b], 1)[0], (0, 5, Event::Closed)));
            let mut heard = Vec::new();
            for pause_ms in [1000, 5000] {
                a.timer_at(tag(pause_ms), a.now().plus_ms(pause_ms));
                while !heard.iter().any(|(_, key, _)| *key == pause_ms) {
                    heard.extend(run([&mut a, &mut b], 1));
                }
                heal();
            }
            let bytes =
                |(_, _, e): &(usize, u64, Event)| if let Event::Received(b) = e { b.len() } else { 0 };
            let arrived: usize = heard.iter().map(bytes).sum();
            let reset = heard.iter().any(|(_, key, e)| *key == 4 && matches!(e, Event::Failed { .. }));
            assert_eq!(
                (arrived, reset),
                (if abort { 0 } else { 100 }, abort && healed_before),
                "seed {seed}"
            );
        }
    }
}

#[test]
fn refused_unanswered_and_vanished() {
    let world = World::new(9);
    let (mut a, mut b) = (core(&world, A), core(&world, B));
    let nobody = SocketAddr::new(B.addr(), 1);
    let (_listener, _) = b.listen(SocketAddr::new(B.addr(), 4420)).unwrap();
    a.connect(tag(1), nobody).unwrap();
    let event = run([&mut a, &mut b], 1).pop().unwrap().2;
    assert!(matches!(event, Event::Failed { error, .. } if error.errno == Some(111)));
    world.partition(A, B);
    a.connect(tag(1), SocketAddr::new(B.addr(), 4420)).unwrap();
    let event = run([&mut a, &mut b], 1).pop().unwrap().2;
    assert!(matches!(event, Event::Failed { error, .. } if error.errno == Some(110)));
    world.heal(A, B);
    let (client, _server) = pair(&mut a, &mut b);
    a.receive(tag(5), client);
    world.crash_node(B);
    drop(b);
    send(&mut a, client, &[1; 100]);
    let mut idle = core(&world, NodeId(3));
    assert!(matches!(run([&mut a, &mut idle], 1)[0].2, Event::Sent(_)));
    a.timer_at(tag(9), a.now().plus_ms(5000));
    assert!(matches!(run([&mut a, &mut idle], 1)[0].2, Event::Timer), "a dead machine says nothing");
    let mut b = core(&world, B);
    let event = run([&mut a, &mut b], 1).pop().unwrap();
    assert!(matches!(event, (0, 5, Event::Failed { .. })), "the rebooted machine resets: {event:?}");
}

#[test]
fn a_killed_process_resets_and_close_ends_what_is_under_way() {
    let world = World::new(10);
    let (mut a, mut b) = (core(&world, A), core(&world, B));
    let (client, server) = pair(&mut a, &mut b);
    a.receive(tag(5), client);
    drop(b);
    let mut b = core(&world, B);
    let event = run([&mut a, &mut b], 1).pop().unwrap();
    assert!(matches!(event, (0, 5, Event::Failed { .. })));
    let _ = server;
    let (client, _server) = pair(&mut a, &mut b);
    a.receive(tag(5), client);
    a.stop_receive(tag(6), client);
    assert!(matches!(run([&mut a, &mut b], 1)[0], (0, 5, Event::ReceiveStopped)));
    a.receive(tag(5), client);
    a.close(tag(7), client);
    let events = run([&mut a, &mut b], 2);
    assert!(matches!(&events[0], (0, 5, Event::Failed { error, .. }) if error.kind == ErrorKind::Closed));
    assert!(matches!(events[1], (0, 7, Event::Closed)));
}

/// A core that polls without waiting is not overlooked by one that waits again and again: time stays for both.
#[test]
fn a_waiting_core_does_not_run_ahead_of_a_busy_one() {
    let world = World::new(5);
    let core = || Io::new(Box::new(world.driver(CoreConfig::default())));
    let (mut busy, mut waiting) = (core(), core());
    let (start, mut events) = (world.now(), Vec::new());
    for _ in 0..100 {
        busy.poll(Wait::No, &mut events);
        let until = waiting.now().plus_ms(1000);
        waiting.poll(Wait::Until(until), &mut events);
    }
    assert!(world.now().since(start) < 1_000_000, "{} ns", world.now().since(start));
}
