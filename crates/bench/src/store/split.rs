//! Sockets of the kernel and drives in memory, behind one seam: what a node of the benchmark runs on.

use super::ram::{Drives, error};
use dolmen_io::{
    DriveCounters, DriveHandle, DriveInfo, Driver, Error, Event, FileId, Landing, ListenerId, Op, OpenDrive,
    Pool, Slices, SocketId, Tag, Wait, Wake,
};
use dolmen_types::{Nanos, UnixMillis};
use dolmen_uring::Uring;
use std::{net::SocketAddr, sync::Arc};

/// The driver.
pub(crate) struct Split {
    sockets: Uring,
    drives: Drives,
    /// Operations on drives that were submitted, with what comes of them.
    ready: Vec<(Tag, Event)>,
    rest: Vec<(Tag, Op)>,
    spare: Slices,
}

impl Split {
    pub(crate) fn new(sockets: Uring, drives: Drives) -> Split {
        Split { sockets, drives, ready: Vec::new(), rest: Vec::new(), spare: Slices::new() }
    }

    /// Does what comes with what hosts sent, if something does.
    fn bear(&mut self, events: &[(Tag, Event)]) {
        let bytes = |(_, event): &(Tag, Event)| match event {
            Event::Received(buf) => buf.len(),
            Event::Landed { bytes, .. } => *bytes,
            _ => 0,
        };
        let received = events.iter().map(bytes).sum();
        if received > 0
            && let Some(burden) = &mut self.drives.lock().burden
        {
            burden.bear(self.sockets.pool(), &mut self.spare, received);
        }
    }
}

fn is_of_drive(op: &Op) -> bool {
    matches!(op, Op::Read { .. } | Op::Write { .. } | Op::Flush { .. } | Op::Discard { .. })
}

impl Driver for Split {
    fn submit(&mut self, ops: &mut Vec<(Tag, Op)>) {
        if ops.iter().any(|(_, op)| is_of_drive(op)) {
            let (mut drives, mut joined) = (self.drives.lock(), false);
            for (tag, op) in ops.drain(..) {
                if is_of_drive(&op) {
                    self.ready.push((tag, drives.perform(op, joined)));
                    joined = true;
                } else {
                    self.rest.push((tag, op));
                }
            }
            self.sockets.submit(&mut self.rest);
        } else {
            self.sockets.submit(ops);
        }
    }

    fn reap(&mut self, wait: Wait, events: &mut Vec<(Tag, Event)>) -> Nanos {
        let wait = if self.ready.is_empty() { wait } else { Wait::No };
        let before = events.len();
        let now = self.sockets.reap(wait, events);
        self.bear(&events[before..]);
        events.append(&mut self.ready);
        now
    }

    fn now(&self) -> Nanos {
        self.sockets.now()
    }

    fn wall(&self) -> UnixMillis {
        self.sockets.wall()
    }

    fn random(&mut self, out: &mut [u8]) {
        self.sockets.random(out);
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.sockets.waker()
    }

    fn pool(&self) -> &Pool {
        self.sockets.pool()
    }

    fn listen(&mut self, addr: SocketAddr) -> Result<(ListenerId, SocketAddr), Error> {
        self.sockets.listen(addr)
    }

    fn close_listener(&mut self, listener: ListenerId) {
        self.sockets.close_listener(listener);
    }

    fn lands(&self, sock: SocketId) -> bool {
        self.sockets.lands(sock)
    }

    fn land(&mut self, sock: SocketId, landing: Box<Landing>) -> Result<(), Box<Landing>> {
        self.sockets.land(sock, landing)
    }

    fn recall(&mut self, sock: SocketId) -> Option<Box<Landing>> {
        self.sockets.recall(sock)
    }

    fn socket(&mut self, addr: SocketAddr) -> Result<SocketId, Error> {
        self.sockets.socket(addr)
    }

    fn open_drive(&mut self, options: &OpenDrive) -> Result<DriveInfo, Error> {
        self.drives.open(options)
    }

    fn share_drive(&mut self, _: &DriveHandle) -> Result<FileId, Error> {
        Err(error("sharing"))
    }

    /// Nothing that could be shared: the node has one core.
    fn export_drive(&self, _: FileId) -> Result<DriveHandle, Error> {
        Ok(DriveHandle(Arc::new(())))
    }

    fn drive_counters(&self, _: FileId) -> DriveCounters {
        DriveCounters::default()
    }

    fn close_drive(&mut self, _: FileId) {}
}
