//! One contract, two worlds: what components rely on holds for the kernel and for the simulator alike.
#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::{Core, Folder, config, pattern, tag};
use dolmen_io::{ErrorKind, Event, Io, OpenDrive};
use dolmen_sim::{CoreConfig, NodeId, World};
use std::{net::SocketAddr, path::PathBuf};

/// Runs `script` on a core of each world; it gets the core, and a path for a drive.
fn in_both_worlds(script: impl Fn(&mut Core, PathBuf)) {
    let folder = Folder::new();
    script(&mut Core::new(&config("none")), folder.0.join("d0"));
    let world = World::new(11);
    let driver = world.driver(CoreConfig { node: NodeId(0), pool: config("none").pool });
    let mut core = Core { io: Io::new(Box::new(driver)), events: Vec::new() };
    script(&mut core, "d0".into());
}

fn failure(event: Event) -> (ErrorKind, bool) {
    match event {
        Event::Failed { error, buf } => (error.kind, buf.is_some()),
        other => panic!("did not fail: {other:?}"),
    }
}

#[test]
fn streams() {
    in_both_worlds(|core, _| {
        let (client, server) = core.pair();
        core.io.receive(tag(1), client);
        core.io.receive(tag(2), server);
        core.io.receive(tag(3), server);
        assert_eq!(failure(core.next(3)).0, ErrorKind::Refused, "one receive at a time");
        let before = core.io.bytes_taken(client).unwrap();
        let bytes = pattern(100_000, 4);
        core.send(4, client, &bytes);
        assert_eq!(core.collect(2, bytes.len()), bytes);
        // The acknowledgement may be late.
        let taken = |core: &Core| core.io.bytes_taken(client).unwrap() - before;
        assert!((0..50).any(|_| taken(core) == 100_000 || !core.quiet(9)), "{}", taken(core));
        assert!(matches!(core.next(4), Event::Sent(d) if d.is_empty()));
        core.io.send(tag(4), client, Vec::new());
        assert!(matches!(core.next(4), Event::Sent(_)), "an empty send is sent");
        core.io.stop_receive(tag(9), server);
        assert!(matches!(core.next(2), Event::ReceiveStopped));
        core.send(4, client, b"later");
        core.next(4);
        assert!(core.quiet(2));
        core.io.receive(tag(2), server);
        assert_eq!(core.collect(2, 5), b"later");
        core.io.close(tag(5), server);
        assert_eq!(failure(core.next(2)).0, ErrorKind::Closed);
        assert!(matches!(core.next(5), Event::Closed));
        assert!(matches!(core.next(1), Event::EndOfStream));
        core.io.receive(tag(1), client);
        assert!(matches!(core.next(1), Event::EndOfStream), "the end stays the end");
        core.io.close(tag(6), client);
        assert!(matches!(core.next(6), Event::Closed));
        for key in [7, 8] {
            if key == 7 {
                core.io.receive(tag(key), client);
            } else {
                core.send(key, client, b"x");
            }
            assert_eq!(failure(core.next(key)).0, ErrorKind::Closed);
        }
        assert!(core.events.is_empty());
    });
}

#[test]
fn connections_that_fail() {
    in_both_worlds(|core, _| {
        let (listener, addr) = core.io.listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        core.io.accept(tag(1), listener);
        core.turn();
        core.io.close_listener(listener);
        assert_eq!(failure(core.next(1)).0, ErrorKind::Closed);
        let sock = core.io.connect(tag(2), addr).unwrap();
        assert_eq!(failure(core.next(2)).0, ErrorKind::Connection);
        core.io.close(tag(3), sock);
        assert!(matches!(core.next(3), Event::Closed));
        let (client, server) = core.pair();
        core.io.receive(tag(1), client);
        core.send(4, client, b"unread");
        core.next(4);
        core.turn();
        core.io.close(tag(5), server);
        core.next(5);
        assert_eq!(failure(core.next(1)).0, ErrorKind::Connection, "closing with unread bytes resets");
    });
}

#[test]
fn drives() {
    in_both_worlds(|core, path| {
        let drive = OpenDrive { path, create_bytes: Some(1 << 20), sparse: true, exclusive: true };
        let missing = OpenDrive { create_bytes: None, path: "not/there".into(), ..drive.clone() };
        assert_eq!(core.io.open_drive(&missing).unwrap_err().kind, ErrorKind::Refused);
        let info = core.io.open_drive(&drive).unwrap();
        assert!(info.created && info.align_bytes <= 4096 && info.size_bytes == 1 << 20);
        assert_eq!(core.io.open_drive(&drive).unwrap_err().kind, ErrorKind::Refused);
        let bytes = pattern(8192, 1);
        let mut data = core.io.slices();
        for part in bytes.chunks(4096) {
            let mut buf = core.io.alloc(4096).unwrap();
            buf.copy_from_slice(part);
            data.push(buf.freeze());
        }
        core.io.write_durable(tag(1), info.file, 4096, data);
        assert!(matches!(core.next(1), Event::Written(d) if d.is_empty()));
        core.io.flush_drive(tag(2), info.file);
        assert!(matches!(core.next(2), Event::Flushed));
        let buf = core.io.alloc(8192).unwrap();
        core.io.read(tag(3), info.file, 4096, buf);
        assert!(matches!(core.next(3), Event::Read(b) if b[..] == bytes[..]));
        let buf = core.io.alloc(4096).unwrap();
        core.io.read(tag(3), info.file, 1, buf);
        assert_eq!(failure(core.next(3)), (ErrorKind::Refused, true));
        core.io.discard(tag(4), info.file, 4096, 8192);
        assert!(matches!(core.next(4), Event::Discarded));
        let handle = core.io.export_drive(info.file).unwrap();
        let shared = core.io.share_drive(&handle).unwrap();
        core.io.close_drive(info.file);
        let buf = core.io.alloc(4096).unwrap();
        core.io.read(tag(5), info.file, 0, buf);
        assert_eq!(failure(core.next(5)), (ErrorKind::Closed, true));
        core.io.flush_drive(tag(6), shared);
        assert!(matches!(core.next(6), Event::Flushed), "the other handle goes on");
    });
}

#[test]
fn timers_and_wakes() {
    in_both_worlds(|core, _| {
        let start = core.io.now();
        let late = core.io.timer_at(tag(1), start.plus_ms(40));
        core.io.timer_at(tag(2), start.plus_ms(20));
        assert!(core.io.rearm_timer(late, start.plus_ms(60)));
        core.next(2);
        assert!(core.io.now() >= start.plus_ms(20) && core.io.now() < start.plus_ms(60));
        assert!(core.io.cancel_timer(late));
        assert!(!core.io.cancel_timer(late));
        assert!(core.quiet(1));
        core.io.waker().wake();
        let before = core.io.now();
        let mut events = Vec::new();
        core.io.poll(dolmen_io::Wait::Until(before.plus_ms(10_000)), &mut events);
        assert!(core.io.now() < before.plus_ms(5_000), "a wake before the wait ends it");
    });
}
