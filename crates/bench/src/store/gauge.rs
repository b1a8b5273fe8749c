//! How busy a polled loop is: a thread that spins uses its CPU whole, whether there is work or not.
//!
//! A turn counts as busy when the driver had brought something or was given something to do; a turn without either, and the
//! time of a look that was allowed to sleep, count as idle.

use dolmen_io::{
    DriveCounters, DriveHandle, DriveInfo, Driver, Error, Event, FileId, Landing, ListenerId, Op, OpenDrive,
    Pool, SocketId, Tag, Wait, Wake,
};
use dolmen_types::{Nanos, UnixMillis};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// What a loop has done so far; one thread writes, any reads.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    busy_ns: AtomicU64,
    idle_ns: AtomicU64,
}

/// Time of a loop. Nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spent {
    pub(crate) busy_ns: u64,
    pub(crate) idle_ns: u64,
}

impl Gauge {
    pub(crate) fn read(&self) -> Spent {
        Spent { busy_ns: self.busy_ns.load(Relaxed), idle_ns: self.idle_ns.load(Relaxed) }
    }
}

impl Spent {
    /// What was spent since `before`.
    pub(crate) fn since(self, before: Spent) -> Spent {
        Spent { busy_ns: self.busy_ns - before.busy_ns, idle_ns: self.idle_ns - before.idle_ns }
    }

    /// The busy share, 0 to 1.
    pub(crate) fn share(self) -> f64 {
        self.busy_ns as f64 / (self.busy_ns + self.idle_ns).max(1) as f64
    }
}

/// A driver under a gauge.
pub(crate) struct Gauged<D> {
    inner: D,
    gauge: Arc<Gauge>,
    /// When the last look ended.
    since: Nanos,
    /// The turn under way has something to do.
    works: bool,
}

impl<D: Driver> Gauged<D> {
    pub(crate) fn new(inner: D, gauge: Arc<Gauge>) -> Gauged<D> {
        let since = inner.now();
        Gauged { inner, gauge, since, works: false }
    }

    fn count(&mut self, to: Nanos, busy: bool) {
        let part = if busy { &self.gauge.busy_ns } else { &self.gauge.idle_ns };
        part.store(part.load(Relaxed) + to.since(self.since), Relaxed);
        self.since = to;
    }
}

impl<D: Driver> Driver for Gauged<D> {
    fn submit(&mut self, ops: &mut Vec<(Tag, Op)>) {
        self.works |= !ops.is_empty();
        self.inner.submit(ops);
    }

    fn reap(&mut self, wait: Wait, events: &mut Vec<(Tag, Event)>) -> Nanos {
        let before = events.len();
        if wait != Wait::No {
            self.count(self.inner.now(), self.works);
            self.works = false;
        }
        let now = self.inner.reap(wait, events);
        self.count(now, self.works);
        self.works = events.len() > before;
        now
    }

    fn now(&self) -> Nanos {
        self.inner.now()
    }

    fn wall(&self) -> UnixMillis {
        self.inner.wall()
    }

    fn random(&mut self, out: &mut [u8]) {
        self.inner.random(out);
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.inner.waker()
    }

    fn pool(&self) -> &Pool {
        self.inner.pool()
    }

    fn listen(&mut self, addr: SocketAddr) -> Result<(ListenerId, SocketAddr), Error> {
        self.inner.listen(addr)
    }

    fn close_listener(&mut self, listener: ListenerId) {
        self.inner.close_listener(listener);
    }

    fn lands(&self, sock: SocketId) -> bool {
        self.inner.lands(sock)
    }

    fn land(&mut self, sock: SocketId, landing: Box<Landing>) -> Result<(), Box<Landing>> {
        self.inner.land(sock, landing)
    }

    fn recall(&mut self, sock: SocketId) -> Option<Box<Landing>> {
        self.inner.recall(sock)
    }

    fn socket(&mut self, addr: SocketAddr) -> Result<SocketId, Error> {
        self.inner.socket(addr)
    }

    fn open_drive(&mut self, options: &OpenDrive) -> Result<DriveInfo, Error> {
        self.inner.open_drive(options)
    }

    fn share_drive(&mut self, drive: &DriveHandle) -> Result<FileId, Error> {
        self.inner.share_drive(drive)
    }

    fn export_drive(&self, file: FileId) -> Result<DriveHandle, Error> {
        self.inner.export_drive(file)
    }

    fn drive_counters(&self, file: FileId) -> DriveCounters {
        self.inner.drive_counters(file)
    }

    fn close_drive(&mut self, file: FileId) {
        self.inner.close_drive(file);
    }
}
