//! A core for tests, and the sets of features that each test runs with.
#![allow(dead_code, clippy::unwrap_used)] // each test binary uses a part

use dolmen_io::{Event, Io, Owner, PoolConfig, SocketId, Tag, Wait};
use dolmen_uring::{Uring, UringConfig};
use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

/// Feature masks that the tests run under.
pub(crate) const MASKS: [&str; 6] = ["none", "all", "multishot", "defer", "fixed,files,waitall", "direct"];

pub(crate) fn tag(key: u64) -> Tag {
    Tag { owner: Owner(1), key }
}

pub(crate) fn config(mask: &str) -> UringConfig {
    let pool = PoolConfig::new(vec![(4096, 1024), (32 * 1024, 64), (266_240, 4)]);
    UringConfig { pool, register_pool: true, mask: mask.parse().unwrap(), ..UringConfig::default() }
}

pub(crate) struct Core {
    pub(crate) io: Io,
    /// Events that came and were not asked for yet.
    pub(crate) events: Vec<(u64, Event)>,
}

impl Core {
    pub(crate) fn new(config: &UringConfig) -> Core {
        Core { io: Io::new(Box::new(Uring::new(config).unwrap())), events: Vec::new() }
    }

    /// One turn; waits 100 ms at most.
    pub(crate) fn turn(&mut self) {
        let mut events = Vec::new();
        let until = self.io.now().plus_ms(100);
        self.io.poll(Wait::Until(until), &mut events);
        self.events.extend(events.into_iter().map(|(t, e)| (t.key, e)));
    }

    /// The next event with this key; fails after 10 s.
    pub(crate) fn next(&mut self, key: u64) -> Event {
        let start = std::time::Instant::now();
        loop {
            if let Some(at) = self.events.iter().position(|(k, _)| *k == key) {
                return self.events.remove(at).1;
            }
            assert!(start.elapsed().as_secs() < 10, "no event for {key}; others: {:?}", self.events);
            self.turn();
        }
    }

    /// The same, without sleeping.
    #[allow(dead_code)] // not every file of tests spins
    pub(crate) fn next_spinning(&mut self, key: u64) -> Event {
        let start = std::time::Instant::now();
        loop {
            if let Some(at) = self.events.iter().position(|(k, _)| *k == key) {
                return self.events.remove(at).1;
            }
            assert!(start.elapsed().as_secs() < 10, "no event for {key}; others: {:?}", self.events);
            let mut events = Vec::new();
            self.io.poll(Wait::No, &mut events);
            self.events.extend(events.into_iter().map(|(t, e)| (t.key, e)));
        }
    }

    /// True when no event with this key comes within some turns.
    pub(crate) fn quiet(&mut self, key: u64) -> bool {
        for _ in 0..3 {
            let until = self.io.now().plus_ms(20);
            let mut events = Vec::new();
            self.io.poll(Wait::Until(until), &mut events);
            self.events.extend(events.into_iter().map(|(t, e)| (t.key, e)));
        }
        !self.events.iter().any(|(k, _)| *k == key)
    }

    /// A connection of this core with itself: client and server end. Uses keys 1000 and 1001.
    pub(crate) fn pair(&mut self) -> (SocketId, SocketId) {
        let (listener, addr) = self.io.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        self.io.accept(tag(1000), listener);
        let client = self.io.connect(tag(1001), addr).unwrap();
        let Event::Connected { local } = self.next(1001) else { panic!("not connected") };
        let (server, peer) = match self.next(1000) {
            Event::Accepted { sock, peer, local } => {
                assert_eq!(local, addr);
                (sock, peer)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(peer, local);
        self.io.close_listener(listener);
        assert!(matches!(self.next(1000), Event::Failed { .. }));
        (client, server)
    }

    pub(crate) fn send(&mut self, key: u64, sock: SocketId, bytes: &[u8]) {
        let mut data = self.io.slices();
        for part in bytes.chunks(4096) {
            let mut buf = self.io.alloc(part.len()).unwrap();
            buf.copy_from_slice(part);
            data.push(buf.freeze());
        }
        self.io.send(tag(key), sock, data);
    }

    /// Bytes that arrive for a receive with this key, until there are `n`.
    pub(crate) fn collect(&mut self, key: u64, n: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < n {
            match self.next(key) {
                Event::Received(buf) => all.extend_from_slice(&buf),
                other => panic!("after {} of {n} bytes: {other:?}", all.len()),
            }
        }
        all
    }
}

/// Bytes that differ by position.
pub(crate) fn pattern(n: usize, seed: usize) -> Vec<u8> {
    (0..n).map(|i| u8::try_from((i * 7 + i / 251 + seed) % 256).unwrap()).collect()
}

pub(crate) fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A folder that is removed at the end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("dolmen-uring-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
