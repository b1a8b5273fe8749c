//! Drives in this process's memory, behind the seam: an operation is a copy, done when it is submitted. What was done can be
//! recorded and done again without a store.

use super::replay::Burden;
use dolmen_io::{
    DriveCounters, DriveHandle, DriveInfo, Driver, Error, ErrorKind, Event, FileId, ListenerId, Op,
    OpenDrive, Pool, PoolConfig, SocketId, Tag, Wait, Wake,
};
use dolmen_types::{Nanos, UnixMillis};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// One operation on a drive, as recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// The drive.
    pub(crate) file: u32,
    /// True for a write.
    pub(crate) write: bool,
    /// Where. Bytes.
    pub(crate) offset: u64,
    /// How much. Bytes.
    pub(crate) len: u32,
    /// In pieces of at most so much, but for the first. Bytes.
    pub(crate) piece: u32,
    /// It was submitted together with the one before it.
    pub(crate) joined: bool,
}

/// A tape with room for what is recorded, whose memory is there: it is not to come page by page in the midst of what is measured.
pub(crate) fn tape() -> Vec<Step> {
    let mut tape = std::hint::black_box(vec![Step { len: 1, ..Step::default() }; 1 << 20]);
    tape.clear();
    tape
}

/// What drives have done since it was last taken.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) bytes_written: u64,
}

/// The drives, and what the bench sees of them.
#[derive(Default)]
pub(crate) struct Shared {
    /// Their contents.
    contents: Vec<Vec<u8>>,
    pub(crate) tally: Tally,
    /// What is recorded, while it is.
    pub(crate) tape: Option<Vec<Step>>,
    /// What comes with every command, while something does.
    pub(crate) burden: Option<Burden>,
}

/// Drives in memory, for a driver and for whoever looks on. The lock is taken once for all that is submitted together.
#[derive(Clone)]
pub(crate) struct Drives(Arc<Mutex<Shared>>);

/// A driver of nothing but such drives.
pub(crate) struct Ram {
    pool: Pool,
    drives: Drives,
    ready: Vec<(Tag, Event)>,
    begin: Instant,
    random: u64,
}

struct Nobody;

impl Wake for Nobody {
    fn wake(&self) {}
}

impl Drives {
    /// So many drives of `bytes` each, all touched.
    pub(crate) fn new(count: usize, bytes: usize) -> Drives {
        // Filled, so that the kernel has given every page before anything is measured, then zero as blank drives are.
        let blank = |_| {
            let mut drive = std::hint::black_box(vec![1u8; bytes]);
            drive.fill(0);
            drive
        };
        let contents = (0..count).map(blank).collect();
        Drives(Arc::new(Mutex::new(Shared { contents, ..Shared::default() })))
    }

    /// For a look at them.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a driver says of the drive with this number for a name.
    pub(crate) fn open(&self, options: &OpenDrive) -> Result<DriveInfo, Error> {
        let name = options.path.to_string_lossy();
        let index = name.parse::<u32>().map_err(|_| error("a name that is no number"))?;
        let size = self.lock().contents.get(index as usize).map(Vec::len);
        Ok(DriveInfo {
            file: FileId(index),
            size_bytes: size.ok_or_else(|| error("a number too high"))? as u64,
            align_bytes: 4096,
            block_device: true,
            direct: true,
            created: false,
            serial: None,
            model: None,
        })
    }
}

impl Ram {
    /// A driver of these drives.
    pub(crate) fn new(drives: Drives, pool: &PoolConfig) -> Ram {
        let (pool, begin) = (Pool::new(pool), Instant::now());
        Ram { pool, drives, ready: Vec::new(), begin, random: 0x9e37_79b9_7f4a_7c15 }
    }
}

impl Shared {
    /// Does what is asked of a drive; `joined` says that it was asked together with what came before it.
    pub(crate) fn perform(&mut self, op: Op, joined: bool) -> Event {
        match op {
            Op::Read { file, offset, mut buf } => {
                self.tally.reads += 1;
                let len = buf.len();
                self.record(file, false, offset, (len, len), joined);
                match self.range(file, offset, len) {
                    Some(bytes) => {
                        buf.copy_from_slice(bytes);
                        Event::Read(buf)
                    }
                    None => Event::Failed { error: error("read beyond the end"), buf: Some(buf) },
                }
            }
            Op::Write { file, offset, mut data, .. } => {
                let len: usize = data.iter().map(|part| part.len()).sum();
                self.tally.writes += 1;
                self.tally.bytes_written += len as u64;
                let piece = data.iter().skip(1).map(|part| part.len()).max().unwrap_or(len);
                self.record(file, true, offset, (len, piece), joined);
                let Some(mut room) = self.range(file, offset, len) else {
                    return Event::Failed { error: error("write beyond the end"), buf: None };
                };
                for part in data.drain(..) {
                    let (here, rest) = room.split_at_mut(part.len());
                    here.copy_from_slice(&part);
                    room = rest;
                }
                Event::Written(data)
            }
            Op::Flush { .. } => Event::Flushed,
            Op::Discard { .. } => Event::Discarded,
            _ => Event::Failed { error: error("a socket"), buf: None },
        }
    }

    fn range(&mut self, file: FileId, offset: u64, len: usize) -> Option<&mut [u8]> {
        let offset = usize::try_from(offset).ok()?;
        self.contents.get_mut(file.0 as usize)?.get_mut(offset..offset.checked_add(len)?)
    }

    fn record(&mut self, file: FileId, write: bool, offset: u64, bytes: (usize, usize), joined: bool) {
        if let Some(tape) = &mut self.tape {
            let [len, piece] = [bytes.0, bytes.1].map(|n| u32::try_from(n).expect("far below 4 GiB"));
            tape.push(Step { file: file.0, write, offset, len, piece, joined });
        }
    }
}

pub(super) fn error(what: &str) -> Error {
    Error { kind: ErrorKind::Refused, context: format!("{what} on a drive in memory"), errno: None }
}

impl Driver for Ram {
    fn submit(&mut self, ops: &mut Vec<(Tag, Op)>) {
        let mut shared = self.drives.lock();
        for (number, (tag, op)) in ops.drain(..).enumerate() {
            let event = shared.perform(op, number > 0);
            self.ready.push((tag, event));
        }
    }

    fn reap(&mut self, _: Wait, events: &mut Vec<(Tag, Event)>) -> Nanos {
        events.append(&mut self.ready);
        self.now()
    }

    fn now(&self) -> Nanos {
        Nanos(1 + u64::try_from(self.begin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn wall(&self) -> UnixMillis {
        UnixMillis(0)
    }

    /// The same every time: nothing here is secret, and runs compare better.
    fn random(&mut self, out: &mut [u8]) {
        for byte in out {
            self.random = self.random.wrapping_mul(0xd129_42d9_57d5_9f2d).wrapping_add(0x1405_7b7e_f767_814f);
            *byte = self.random.to_be_bytes()[0];
        }
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(Nobody)
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn listen(&mut self, _: SocketAddr) -> Result<(ListenerId, SocketAddr), Error> {
        Err(error("listening"))
    }

    fn close_listener(&mut self, _: ListenerId) {}

    fn socket(&mut self, _: SocketAddr) -> Result<SocketId, Error> {
        Err(error("a socket"))
    }

    fn open_drive(&mut self, options: &OpenDrive) -> Result<DriveInfo, Error> {
        self.drives.open(options)
    }

    fn share_drive(&mut self, _: &DriveHandle) -> Result<FileId, Error> {
        Err(error("sharing"))
    }

    fn export_drive(&self, _: FileId) -> Result<DriveHandle, Error> {
        Err(error("sharing"))
    }

    fn drive_counters(&self, _: FileId) -> DriveCounters {
        DriveCounters::default()
    }

    fn close_drive(&mut self, _: FileId) {}
}
