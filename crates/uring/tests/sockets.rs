//! Sockets for real, over loopback, with and without the kernel's later features.
#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::{Core, MASKS, any_port, config, pattern, tag};
use dolmen_io::{ErrorKind, Event, Landing, PoolConfig, SocketId, Wait};
use dolmen_uring::{Uring, UringConfig};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

fn kind(event: &Event) -> Option<ErrorKind> {
    if let Event::Failed { error, .. } = event { Some(error.kind) } else { None }
}

#[test]
fn bytes_go_both_ways() {
    for mask in MASKS {
        let mut core = Core::new(&config(mask));
        let (client, server) = core.pair();
        core.io.receive(tag(1), client);
        core.io.receive(tag(2), server);
        for round in 0..20 {
            let (ask, answer) = (pattern(72, round), pattern(4120 * (round + 1), round));
            core.send(3, client, &ask);
            assert_eq!(core.collect(2, 72), ask);
            assert!(matches!(core.next(3), Event::Sent(data) if data.is_empty()));
            core.send(4, server, &answer);
            assert_eq!(core.collect(1, answer.len()), answer, "mask {mask}");
            assert!(matches!(core.next(4), Event::Sent(_)));
        }
        core.io.close(tag(5), client);
        assert_eq!(kind(&core.next(1)), Some(ErrorKind::Closed));
        assert!(matches!(core.next(5), Event::Closed));
        assert!(matches!(core.next(2), Event::EndOfStream));
        core.io.close(tag(6), server);
        assert!(matches!(core.next(6), Event::Closed));
        core.io.close(tag(6), server);
        assert_eq!(kind(&core.next(6)), Some(ErrorKind::Closed));
        assert!(core.events.is_empty(), "{:?}", core.events);
    }
}

/// Sets SO_SNDBUF or SO_RCVBUF.
fn set_buffer(fd: &impl AsRawFd, name: i32, bytes: i32) {
    let value = std::ptr::from_ref(&bytes).cast();
    let len = libc::socklen_t::try_from(size_of::<i32>()).unwrap();
    // SAFETY: an int that lives across the call.
    assert_eq!(unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, value, len) }, 0);
}

/// A connection whose peer takes little at a time.
fn connect_to_small_window(core: &mut Core) -> (SocketId, TcpStream) {
    let listener = TcpListener::bind(any_port()).unwrap();
    set_buffer(&listener, libc::SO_RCVBUF, 4096);
    let sock = core.io.connect(tag(1), listener.local_addr().unwrap()).unwrap();
    core.turn();
    let (peer, _) = listener.accept().unwrap();
    assert!(matches!(core.next(1), Event::Connected { .. }));
    (sock, peer)
}

#[test]
fn large_sends_through_small_windows() {
    for mask in MASKS {
        let mut core = Core::new(&config(mask));
        let (sock, mut peer) = connect_to_small_window(&mut core);
        // More than the kernel takes at once, in bytes and in vectors.
        let (page, times) = (pattern(4096, 1), 4000);
        let mut buf = core.io.alloc(4096).unwrap();
        buf.copy_from_slice(&page);
        let slice = buf.freeze();
        core.io.send(tag(2), sock, vec![slice; times]);
        assert!(core.quiet(2), "16 MiB don't fit the window");
        let reader = std::thread::spawn(move || {
            let mut all = vec![0; 4096 * times];
            peer.read_exact(&mut all).unwrap();
            all
        });
        assert!(matches!(core.next(2), Event::Sent(_)));
        assert!(reader.join().unwrap() == page.repeat(times), "mask {mask}");
    }
}

#[test]
fn an_exhausted_pool_holds_the_peer_and_recovers() {
    for mask in MASKS {
        let pool = PoolConfig::new(vec![(4096, 64), (32 * 1024, 8)]);
        let mut core = Core::new(&UringConfig { pool, ..config(mask) });
        let (client, server) = core.pair();
        core.io.receive(tag(1), server);
        let chunk = pattern(64 * 4096, 3);
        let mut held = Vec::new();
        // Everything that arrives is held: at most the pool's chunks come.
        for _ in 0..30 {
            core.send(2, client, &chunk[..32 * 1024]);
            while core.events.is_empty() {
                core.turn();
                if held.len() >= 8 && core.quiet(1) {
                    break;
                }
            }
            for (key, event) in core.events.drain(..) {
                match event {
                    Event::Received(buf) => held.push(buf),
                    Event::Sent(_) => assert_eq!(key, 2),
                    other => panic!("{other:?}"),
                }
            }
            if held.len() >= 8 {
                break;
            }
        }
        assert_eq!(held.len(), 8);
        core.send(3, client, &chunk[..4096]);
        assert!(core.quiet(1), "there is no chunk to receive into");
        held.clear();
        assert!(matches!(core.next(1), Event::Received(_)), "mask {mask}");
    }
}

#[test]
fn a_chunk_dropped_by_another_thread_wakes_the_core() {
    let pool = PoolConfig::new(vec![(4096, 64), (32 * 1024, 1)]);
    let mut core = Core::new(&UringConfig { pool, ..config("none") });
    let (client, server) = core.pair();
    core.io.receive(tag(1), server);
    core.send(2, client, &[1; 10]);
    let Event::Received(held) = core.next(1) else { panic!("nothing received") };
    core.send(2, client, &[2; 10]);
    assert!(core.quiet(1));
    let thread = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(50));
        drop(held);
    });
    let mut events = Vec::new();
    while events.is_empty() {
        core.io.poll(Wait::Forever, &mut events);
    }
    thread.join().unwrap();
    assert!(matches!(&events[0].1, Event::Received(b) if b[..] == [2; 10]), "{events:?}");
}

#[test]
fn receiving_stops_and_starts_without_losing_a_byte() {
    for mask in MASKS {
        let mut core = Core::new(&config(mask));
        let (client, server) = core.pair();
        let bytes = pattern(40_000, 9);
        let mut got = Vec::new();
        for part in bytes.chunks(1000) {
            core.io.receive(tag(1), server);
            core.send(2, client, part);
            core.turn();
            core.io.stop_receive(tag(9), server);
            loop {
                match core.next(1) {
                    Event::Received(buf) => got.extend_from_slice(&buf),
                    Event::ReceiveStopped => break,
                    other => panic!("{other:?}"),
                }
            }
            core.next(2);
        }
        core.io.receive(tag(1), server);
        got.extend(core.collect(1, bytes.len() - got.len()));
        assert_eq!(got, bytes, "mask {mask}");
        core.io.receive(tag(3), server);
        assert_eq!(kind(&core.next(3)), Some(ErrorKind::Refused));
        core.io.close(tag(4), client);
        assert!(matches!(core.next(1), Event::EndOfStream));
    }
}

#[test]
fn close_ends_what_is_under_way() {
    for mask in MASKS {
        let mut core = Core::new(&config(mask));
        let (client, server) = core.pair();
        core.io.receive(tag(1), client);
        // More than the largest buffers of both ends, however far the kernel has let them grow.
        let page = core.io.alloc(4096).unwrap().freeze();
        core.io.send(tag(2), client, vec![page; 64 << 20 >> 12]);
        assert!(core.quiet(2), "mask {mask}");
        // A connect that nobody answers, from a network that is reserved for documentation.
        let far = core.io.connect(tag(3), "192.0.2.1:4420".parse().unwrap());
        core.turn();
        core.io.close(tag(4), client);
        assert_eq!(kind(&core.next(1)), Some(ErrorKind::Closed), "mask {mask}");
        assert_eq!(kind(&core.next(2)), Some(ErrorKind::Closed));
        assert!(matches!(core.next(4), Event::Closed));
        if let Ok(far) = far {
            core.io.close(tag(5), far);
            assert!(kind(&core.next(3)).is_some());
            assert!(matches!(core.next(5), Event::Closed));
        }
        core.io.close(tag(6), server);
        assert!(matches!(core.next(6), Event::Closed));
        core.send(7, SocketId(77), b"x");
        assert_eq!(kind(&core.next(7)), Some(ErrorKind::Closed));
        assert_eq!(core.io.pool().available(4096), 1024 + 64 + 4 - 16, "only the kernel's chunks are out");
    }
}

/// After an abort the kernel does not go on sending what it had taken, as it does after a close.
#[test]
fn an_abort_throws_away_what_has_not_arrived() {
    for mask in MASKS {
        let mut core = Core::new(&config(mask));
        let (sock, mut peer) = connect_to_small_window(&mut core);
        core.io.receive(tag(2), sock);
        let piece = pattern(64 << 10, 1);
        let mut taken = 0;
        loop {
            core.send(3, sock, &piece);
            if core.quiet(3) {
                break;
            }
            assert!(matches!(core.next(3), Event::Sent(_)));
            taken += piece.len();
        }
        core.io.abort(tag(4), sock);
        assert_eq!(kind(&core.next(2)), Some(ErrorKind::Closed), "mask {mask}");
        assert_eq!(kind(&core.next(3)), Some(ErrorKind::Closed));
        assert!(matches!(core.next(4), Event::Closed));
        let mut arrived = Vec::new();
        let end = peer.read_to_end(&mut arrived).map_err(|e| e.kind());
        assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));
        assert!(arrived.len() < taken, "{} of {taken} bytes arrived", arrived.len());
        core.io.abort(tag(5), sock);
        assert_eq!(kind(&core.next(5)), Some(ErrorKind::Closed));
    }
}

#[test]
fn resets_and_refusals_are_told() {
    let mut core = Core::new(&config("none"));
    let (listener, addr) = core.io.listen(any_port()).unwrap();
    core.io.accept(tag(1), listener);
    let mut peer = TcpStream::connect(addr).unwrap();
    let Event::Accepted { sock, .. } = core.next(1) else { panic!("not accepted") };
    core.io.receive(tag(2), sock);
    peer.write_all(b"hello").unwrap();
    assert_eq!(core.collect(2, 5), b"hello");
    // Closing with unread data makes the peer's kernel send a reset.
    core.send(3, sock, b"unread");
    core.next(3);
    std::thread::sleep(std::time::Duration::from_millis(20));
    drop(peer);
    assert_eq!(kind(&core.next(2)), Some(ErrorKind::Connection));
    core.send(4, sock, b"late");
    assert_eq!(kind(&core.next(4)), Some(ErrorKind::Connection));
    core.io.close_listener(listener);
    assert_eq!(kind(&core.next(1)), Some(ErrorKind::Closed));
    core.io.connect(tag(5), addr).unwrap();
    match core.next(5) {
        Event::Failed { error, .. } => {
            assert_eq!((error.kind, error.errno), (ErrorKind::Connection, Some(libc::ECONNREFUSED)));
        }
        other => panic!("{other:?}"),
    }
    core.io.accept(tag(6), listener);
    assert_eq!(kind(&core.next(6)), Some(ErrorKind::Closed));
}

#[test]
fn ipv6_and_a_port_in_use() {
    let mut core = Core::new(&config("none"));
    let (listener, addr) = core.io.listen("[::1]:0".parse().unwrap()).unwrap();
    let refused = core.io.listen(addr).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Refused);
    core.io.accept(tag(1), listener);
    let _client = core.io.connect(tag(2), addr).unwrap();
    assert!(matches!(core.next(1), Event::Accepted { local, .. } if local == addr));
    let mut shared = UringConfig { reuse_port: true, ..config("none") };
    let mut one = Core::new(&shared);
    shared.reuse_port = true;
    let mut two = Core::new(&shared);
    let (_, addr) = one.io.listen(any_port()).unwrap();
    assert!(two.io.listen(addr).is_ok());
}

#[test]
fn five_hundred_connections() {
    for mask in ["none", "multishot"] {
        let mut core = Core::new(&config(mask));
        let (listener, addr) = core.io.listen(any_port()).unwrap();
        core.io.accept(tag(1), listener);
        let mut peers = Vec::new();
        let mut socks = Vec::new();
        for i in 0..500u64 {
            peers.push(TcpStream::connect(addr).unwrap());
            let Event::Accepted { sock, .. } = core.next(1) else { panic!("not accepted") };
            core.io.receive(tag(10_000 + i), sock);
            socks.push(sock);
        }
        for round in 0..3u8 {
            // All at once: more connections have data than there are chunks.
            for (i, peer) in peers.iter_mut().enumerate() {
                peer.write_all(&[u8::try_from(i % 200).unwrap() + round; 100]).unwrap();
            }
            let (mut got, mut sent) = (vec![0; socks.len()], 0);
            while sent < socks.len() {
                core.turn();
                for (key, event) in std::mem::take(&mut core.events) {
                    let Event::Received(buf) = event else {
                        assert!(matches!(event, Event::Sent(_)), "{event:?}");
                        sent += 1;
                        continue;
                    };
                    let i = usize::try_from(key - 10_000).unwrap();
                    assert!(buf.iter().all(|&b| usize::from(b) == i % 200 + usize::from(round)));
                    got[i] += buf.len();
                    if got[i] == 100 {
                        core.send(20_000, socks[i], &[u8::try_from(i % 200).unwrap(); 100]);
                    }
                }
            }
            for (i, peer) in peers.iter_mut().enumerate() {
                let mut back = [0; 100];
                peer.read_exact(&mut back).unwrap();
                assert!(back.iter().all(|&b| usize::from(b) == i % 200));
            }
        }
        drop(peers);
        for i in 0..500u64 {
            assert!(matches!(core.next(10_000 + i), Event::EndOfStream), "mask {mask}");
        }
    }
}

#[test]
fn a_sleeping_core_is_woken_and_an_idle_one_stays_asleep() {
    const WAKES: u32 = 300;
    for mask in MASKS {
        let mut core = Core::new(&config(mask));
        let wake = core.io.waker();
        let turns = std::sync::Arc::new(AtomicU32::new(0));
        let seen = turns.clone();
        // Each wake waits for a turn that it caused; a lost one would leave both sides waiting.
        let thread = std::thread::spawn(move || {
            for _ in 0..WAKES {
                let before = seen.load(Ordering::SeqCst);
                wake.wake();
                while seen.load(Ordering::SeqCst) == before {
                    std::thread::yield_now();
                }
            }
        });
        let mut events = Vec::new();
        while !thread.is_finished() {
            let start = std::time::Instant::now();
            core.io.poll(Wait::Until(core.io.now().plus_ms(30_000)), &mut events);
            assert!(start.elapsed().as_secs() < 15, "a wake was lost, mask {mask}");
            turns.fetch_add(1, Ordering::SeqCst);
            if turns.load(Ordering::SeqCst) >= WAKES {
                std::thread::sleep(std::time::Duration::from_millis(1));
                core.io.waker().wake();
            }
        }
        thread.join().unwrap();
        // A timer ends a wait, and nothing else does: an idle core takes very few turns.
        core.io.poll(Wait::No, &mut events);
        let (start, mut idle_turns) = (core.io.now(), 0);
        core.io.timer_at(tag(1), start.plus_ms(200));
        while events.is_empty() {
            core.io.poll(Wait::Forever, &mut events);
            idle_turns += 1;
        }
        assert!(core.io.now() >= start.plus_ms(200) && idle_turns <= 5, "{idle_turns} turns");
    }
}

/// Nothing is opened with a congestion control that there is not.
#[test]
fn a_core_is_not_made_with_an_unknown_congestion_control() {
    let with = |name: &str| Uring::new(&UringConfig { congestion: Some(name.into()), ..config("none") });
    assert!(with("reno").is_ok());
    let Err(error) = with("pigeons") else { panic!("pigeons") };
    assert!(error.to_string().contains("tcp_available_congestion_control"), "{error}");
}

#[test]
fn features_say_what_is_masked() {
    let driver = dolmen_uring::Uring::new(&config("all")).unwrap();
    assert_eq!(driver.features().to_string(), "");
    let driver = dolmen_uring::Uring::new(&config("none")).unwrap();
    let features = driver.features();
    assert!(features.multishot && features.taskrun_flag);
}

#[test]
fn a_socket_in_the_file_system_is_for_its_owner_and_replaces_a_left_over_one() {
    use std::os::unix::{fs::PermissionsExt, net::UnixStream};
    let path = std::env::temp_dir().join(format!("dolmen-uring-{}.sock", std::process::id()));
    let mut core = Core::new(&config("none"));
    for round in 0..2 {
        // The second time what the first one left is in the way.
        let listener = core.io.listen_unix(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        core.io.accept(tag(1), listener);
        let mut client = UnixStream::connect(&path).unwrap();
        let Event::Accepted { sock, peer, .. } = core.next(1) else { panic!("not accepted") };
        assert!(peer.ip().is_unspecified());
        core.io.receive(tag(2), sock);
        client.write_all(b"over here").unwrap();
        assert_eq!(core.collect(2, 9), b"over here");
        core.send(3, sock, b"and back");
        assert!(matches!(core.next(3), Event::Sent(_)));
        let mut back = [0; 8];
        client.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"and back");
        let taken = core.io.listen_unix(&path).unwrap_err();
        assert!(taken.to_string().contains(path.to_str().unwrap()), "round {round}: {taken}");
        core.io.close(tag(4), sock);
        assert!(matches!(core.next(4), Event::Closed));
        core.io.close_listener(listener);
        // The attempt to listen there too may have looked whether somebody answers.
        let end = std::iter::repeat_with(|| core.next(1)).find(|e| !matches!(e, Event::Accepted { .. }));
        assert_eq!(end.as_ref().and_then(kind), Some(ErrorKind::Closed));
        core.events.clear();
    }
    std::fs::remove_file(&path).unwrap();
    let file = path.with_extension("file");
    std::fs::write(&file, b"precious").unwrap();
    assert!(core.io.listen_unix(&file).is_err(), "nothing but a socket is replaced");
    std::fs::remove_file(&file).unwrap();
    assert!(core.io.listen_unix(&path.with_file_name("x".repeat(200))).is_err());
}

/// Polls without waiting until `n` bytes have come for a receive with this key; at least `looks` times.
fn spin(core: &mut Core, key: u64, n: usize, looks: usize) -> Vec<u8> {
    let (mut all, mut events, mut looked) = (Vec::new(), Vec::new(), 0);
    let start = std::time::Instant::now();
    while all.len() < n || looked < looks {
        assert!(start.elapsed().as_secs() < 20, "{} of {n} bytes", all.len());
        looked += 1;
        core.io.poll(Wait::No, &mut events);
        for (tag, event) in events.drain(..) {
            match event {
                Event::Received(buf) if tag.key == key => all.extend_from_slice(&buf),
                event => core.events.push((tag.key, event)),
            }
        }
    }
    all
}

/// A connected socket that receives for key 2, and its peer.
fn receiver(core: &mut Core) -> (SocketId, TcpStream) {
    let listener = TcpListener::bind(any_port()).unwrap();
    let sock = core.io.connect(tag(1), listener.local_addr().unwrap()).unwrap();
    assert!(matches!(core.next(1), Event::Connected { .. }));
    core.io.receive(tag(2), sock);
    (sock, listener.accept().unwrap().0)
}

/// A core that spins asks its busy sockets itself; nothing may be lost when it begins to, sleeps, and begins again.
#[test]
fn spinning_and_sleeping_take_turns() {
    for mask in MASKS {
        let mut core = Core::new(&config(mask));
        let (sock, mut peer) = receiver(&mut core);
        for round in 0..6 {
            // Several times as many looks as it takes until sockets are asked directly.
            for step in 0..60 {
                let ask = pattern(72, step);
                peer.write_all(&ask).unwrap();
                assert_eq!(spin(&mut core, 2, 72, 100), ask, "mask {mask}");
                let answer = pattern(4120, step);
                core.send(3, sock, &answer);
                assert!(spin(&mut core, 2, 0, 1).is_empty());
                let mut got = vec![0; answer.len()];
                peer.read_exact(&mut got).unwrap();
                assert!(got == answer);
                assert!(matches!(core.next_spinning(3), Event::Sent(_)));
            }
            // More than the socket takes at once, both ways.
            let large = pattern(8 << 20, round);
            core.send(3, sock, &large[..4 << 20]);
            let mut other = peer.try_clone().unwrap();
            let (sent, expected) = (large.clone(), large[..4 << 20].to_vec());
            let writer = std::thread::spawn(move || other.write_all(&sent).unwrap());
            let mut other = peer.try_clone().unwrap();
            let reader = std::thread::spawn(move || {
                let mut all = vec![0; expected.len()];
                other.read_exact(&mut all).unwrap();
                assert!(all == expected);
            });
            assert!(spin(&mut core, 2, large.len(), 0) == large, "mask {mask}");
            writer.join().unwrap();
            assert!(matches!(core.next_spinning(3), Event::Sent(_)));
            reader.join().unwrap();
            // Asleep: what comes now has to wake the core.
            let mut other = peer.try_clone().unwrap();
            let writer = std::thread::spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(30));
                other.write_all(b"wake").unwrap();
            });
            assert_eq!(core.collect(2, 4), b"wake");
            writer.join().unwrap();
        }
    }
}

/// Chunks that the kernel was given are of no use to a core that asks by itself: where the pool has no others, the kernel goes on receiving.
#[test]
fn who_finds_no_chunk_leaves_receiving_to_the_kernel() {
    let pool = PoolConfig::new(vec![(4096, 64), (32 * 1024, 16)]);
    let mut core = Core::new(&UringConfig { pool, ..config("none") });
    let (_sock, mut peer) = receiver(&mut core);
    let mut events = Vec::new();
    // Several times as many as it takes until sockets are asked directly.
    for message in 0..5000u32 {
        peer.write_all(&message.to_le_bytes()).unwrap();
        let mut looks = 0;
        while events.is_empty() {
            looks += 1;
            assert!(looks < 500, "message {message} was not seen for {looks} looks");
            core.io.poll(Wait::No, &mut events);
        }
        for (_, event) in events.drain(..) {
            assert!(matches!(event, Event::Received(buf) if buf[..] == message.to_le_bytes()));
        }
    }
}

/// More sockets than one look takes something from, all of which always have something: none waits long.
#[test]
fn many_directly_asked_sockets_have_their_turns() {
    const ALL: usize = 14;
    let mut core = Core::new(&config("none"));
    let mut peers: Vec<TcpStream> = Vec::new();
    let listener = TcpListener::bind(any_port()).unwrap();
    for key in 0..ALL as u64 {
        let sock = core.io.connect(tag(100 + key), listener.local_addr().unwrap()).unwrap();
        assert!(matches!(core.next(100 + key), Event::Connected { .. }));
        core.io.receive(tag(key), sock);
        peers.push(listener.accept().unwrap().0);
    }
    let (mut events, mut last) = (Vec::new(), [0; ALL]);
    for look in 0..5000u32 {
        peers.iter_mut().for_each(|peer| peer.write_all(b"more").unwrap());
        core.io.poll(Wait::No, &mut events);
        for (tag, event) in events.drain(..) {
            assert!(matches!(event, Event::Received(_)), "{event:?}");
            last[usize::try_from(tag.key).unwrap()] = look;
        }
        assert!(last.iter().all(|last| look - last < 40), "heard in looks {last:?}, now {look}");
    }
}

#[test]
fn directly_asked_sockets_stop_end_and_close_like_others() {
    for mask in MASKS {
        for end in 0..3 {
            let mut core = Core::new(&config(mask));
            let (client, server) = core.pair();
            core.io.receive(tag(1), client);
            core.io.receive(tag(2), server);
            for step in 0..60 {
                let ask = pattern(72, step);
                core.send(3, client, &ask);
                assert_eq!(spin(&mut core, 2, 72, 100), ask, "mask {mask}");
                core.send(4, server, &ask);
                assert_eq!(spin(&mut core, 1, 72, 100), ask, "mask {mask}");
            }
            core.events.clear();
            match end {
                0 => {
                    core.io.stop_receive(tag(2), server);
                    assert!(matches!(core.next_spinning(2), Event::ReceiveStopped));
                    core.send(3, client, b"later");
                    assert!(spin(&mut core, 2, 0, 3000).is_empty());
                    core.io.receive(tag(2), server);
                    assert_eq!(spin(&mut core, 2, 5, 0), b"later");
                }
                1 => {
                    core.io.close(tag(5), client);
                    assert_eq!(kind(&core.next_spinning(1)), Some(ErrorKind::Closed));
                    assert!(matches!(core.next_spinning(5), Event::Closed));
                    assert!(matches!(core.next_spinning(2), Event::EndOfStream));
                }
                _ => {
                    core.io.end_stream(tag(6), client);
                    assert!(matches!(core.next_spinning(2), Event::EndOfStream));
                    core.io.close(tag(5), server);
                    assert!(matches!(core.next_spinning(5), Event::Closed));
                }
            }
        }
    }
}

/// A stream through landings, chunks and sleeps, as they come: every byte once and in order.
#[test]
fn landings_and_chunks_take_turns() {
    for (mask, heads) in MASKS.into_iter().flat_map(|mask| [(mask, false), (mask, true)]) {
        let mut config = config(mask);
        if heads {
            config.pool = config.pool.with_heads();
        }
        let mut core = Core::new(&config);
        let (sock, mut peer) = receiver(&mut core);
        let period = pattern(70_001, 1);
        let (pieces, done) = (period.clone(), Arc::new(AtomicU32::new(0)));
        let told = done.clone();
        let writer =
            std::thread::spawn(
                move || {
                    while told.load(Ordering::Relaxed) == 0 && peer.write_all(&pieces).is_ok() {}
                },
            );
        let (mut total, mut events, mut lent) = (0, Vec::new(), None);
        let (mut landed, mut slept, mut step) = (0, 0, 0usize);
        // Checks bytes that follow those before; how many there are then.
        let take = |total: usize, bytes: &[u8]| {
            let expected = period.iter().cycle().skip(total % period.len());
            assert!(bytes.iter().zip(expected).all(|(byte, other)| byte == other), "mask {mask}");
            total + bytes.len()
        };
        let start = std::time::Instant::now();
        // Only without a mask are sockets asked directly for certain, once there was time to find out that they are busy.
        while total < 4 << 20 || (mask == "none" && landed < 80) {
            assert!(start.elapsed().as_secs() < 20, "{total} bytes, {landed} landings, mask {mask}");
            step += 1;
            if core.io.lands(sock) {
                let parts = (0..1 + step % 5).map_while(|_| core.io.alloc(4096)).collect();
                let mut landing = Box::new(Landing::new(24, parts));
                landing.begin(0, step * 577 % landing.frame_bytes());
                lent = Some(landing.skip());
                if let Some(buf) = core.io.alloc(9000).filter(|_| step.is_multiple_of(2)) {
                    landing.set_lead(buf, step % 100..8000);
                }
                assert!(core.io.land(sock, landing).is_ok());
                assert!(!core.io.lands(sock));
            }
            // Asleep now and then: what comes then goes into chunks, and passes the landing by.
            let sleeps = landed / 10 > slept;
            slept += usize::from(sleeps);
            let wait = if sleeps { Wait::Until(core.io.clock().plus_ms(1)) } else { Wait::No };
            core.io.poll(wait, &mut events);
            for (_, event) in events.drain(..) {
                match event {
                    Event::Received(chunk) => {
                        total = take(total, &chunk);
                        let skip = core.io.recall(sock).map(|landing| landing.skip());
                        assert_eq!(skip, lent.take());
                    }
                    Event::Landed { mut landing, bytes } => {
                        assert_eq!(Some(landing.skip()), lent.take());
                        let all: Vec<u8> = landing.rooms().flat_map(|room| room.to_vec()).collect();
                        total = take(total, &all[..bytes]);
                        landed += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        done.store(1, Ordering::Relaxed);
        core.io.close(tag(3), sock);
        assert!(matches!(core.next_spinning(3), Event::Closed));
        writer.join().unwrap();
    }
}

/// The kernel may forget an end that comes right behind data, when both are there before a receive's deferred work has run.
#[test]
fn ends_right_behind_data_are_told() {
    for mask in ["none", "direct", "defer"] {
        let mut core = Core::new(&config(mask));
        let (listener, addr) = core.io.listen(any_port()).unwrap();
        core.io.accept(tag(1), listener);
        let (go, told) = std::sync::mpsc::channel::<()>();
        let peers = std::thread::spawn(move || {
            for round in 0..600usize {
                let mut peer = TcpStream::connect(addr).unwrap();
                told.recv().unwrap();
                peer.write_all(&pattern(72, round)).unwrap();
                if round % 3 > 0 {
                    peer.write_all(&pattern(4096, round)).unwrap();
                }
                if round % 2 > 0 {
                    peer.shutdown(std::net::Shutdown::Write).unwrap();
                    // Until the other side ends, too.
                    let _ = peer.read(&mut [0; 1]);
                }
            }
        });
        for round in 0..600 {
            let sock = match core.next(1) {
                Event::Accepted { sock, .. } => sock,
                other => panic!("{other:?}"),
            };
            core.io.receive(tag(2), sock);
            let mut events = Vec::new();
            core.io.poll(Wait::No, &mut events);
            go.send(()).unwrap();
            loop {
                match core.next(2) {
                    Event::Received(_) => {}
                    Event::EndOfStream | Event::Failed { .. } => break,
                    other => panic!("mask {mask}, round {round}: {other:?}"),
                }
            }
            core.io.close(tag(3), sock);
            assert!(matches!(core.next(3), Event::Closed));
        }
        peers.join().unwrap();
    }
}
