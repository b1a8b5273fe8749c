//! A driver for this crate's own tests: one small drive in memory, a clock that moves when it waits, no sockets.

use crate::*;
use dolmen_types::{Nanos, UnixMillis};
use std::{net::SocketAddr, sync::Arc};

pub(crate) struct Fake {
    pool: Pool,
    now: Nanos,
    disk: Vec<u8>,
    done: Vec<(Tag, Event)>,
}

struct Silent;
impl Wake for Silent {
    fn wake(&self) {}
}

fn refused(what: &str) -> Error {
    Error { kind: ErrorKind::Refused, context: what.into(), errno: None }
}

impl Fake {
    pub(crate) fn new() -> Fake {
        let pool = Pool::new(&PoolConfig::new(vec![(4096, 4)]));
        Fake { pool, now: Nanos(1), disk: vec![0; 1 << 20], done: Vec::new() }
    }

    fn span(&self, offset: u64, len: usize) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(len)?;
        (end <= self.disk.len()).then_some(start..end)
    }

    fn perform(&mut self, op: Op) -> Event {
        let medium = || Error { kind: ErrorKind::Medium, context: "beyond the end".into(), errno: None };
        match op {
            Op::Read { offset, mut buf, .. } => match self.span(offset, buf.len()) {
                Some(span) => {
                    buf.copy_from_slice(&self.disk[span]);
                    Event::Read(buf)
                }
                None => Event::Failed { error: medium(), buf: Some(buf) },
            },
            Op::Write { mut offset, mut data, .. } => {
                for part in data.drain(..) {
                    let span = self.span(offset, part.len()).expect("tests write inside");
                    self.disk[span].copy_from_slice(&part);
                    offset += part.len() as u64;
                }
                Event::Written(data)
            }
            Op::Flush { .. } => Event::Flushed,
            Op::Discard { .. } => Event::Discarded,
            _ => Event::Failed { error: refused("no sockets here"), buf: None },
        }
    }
}

impl Driver for Fake {
    fn submit(&mut self, ops: &mut Vec<(Tag, Op)>) {
        for (tag, op) in ops.drain(..) {
            let event = self.perform(op);
            self.done.push((tag, event));
        }
    }

    fn reap(&mut self, wait: Wait, events: &mut Vec<(Tag, Event)>) -> Nanos {
        if self.done.is_empty()
            && let Wait::Until(at) = wait
        {
            self.now = self.now.max(at);
        }
        events.append(&mut self.done);
        self.now
    }

    fn now(&self) -> Nanos {
        self.now
    }

    fn wall(&self) -> UnixMillis {
        UnixMillis(0)
    }

    fn random(&mut self, out: &mut [u8]) {
        out.fill(4);
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(Silent)
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn listen(&mut self, _: SocketAddr) -> Result<(ListenerId, SocketAddr), Error> {
        Err(refused("listen"))
    }

    fn close_listener(&mut self, _: ListenerId) {}

    fn socket(&mut self, _: SocketAddr) -> Result<SocketId, Error> {
        Err(refused("socket"))
    }

    fn open_drive(&mut self, _: &OpenDrive) -> Result<DriveInfo, Error> {
        Err(refused("open"))
    }

    fn share_drive(&mut self, _: &DriveHandle) -> Result<FileId, Error> {
        Err(refused("share"))
    }

    fn export_drive(&self, _: FileId) -> Result<DriveHandle, Error> {
        Err(refused("export"))
    }

    fn drive_counters(&self, _: FileId) -> DriveCounters {
        DriveCounters::default()
    }

    fn close_drive(&mut self, _: FileId) {}
}
