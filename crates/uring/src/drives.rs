//! Drive operations: reads, writes, flushes and discards, each whole or failed.
//!
//! A short transfer is continued; one that makes no progress is a failure of the medium. Drives are not put into the ring's
//! table of registered files: the kernel empties that some time after a process has died, and until then it would hold the
//! drive's lock against the next one.

use crate::{
    errors,
    open::Opened,
    ring::{Cqe, Ring},
    sockets::Events,
    token::{GENERATIONS, Kind, Token},
};
use dolmen_io::{Buf, DriveCounters, Error, ErrorKind, Event, FileId, Op, Slices, Tag};
use dolmen_types::Nanos;
use io_uring::{
    opcode, squeue,
    types::{self, Fd},
};
use std::{os::fd::AsRawFd, sync::Arc};

/// Vectors of one write at most (UIO_MAXIOV).
const MOST_VECTORS: usize = 1024;

/// Times that one operation is tried again after EINTR or EAGAIN.
const MOST_RETRIES: u32 = 1000;

struct File {
    opened: Arc<Opened>,
    /// A discard was answered with EOPNOTSUPP: later ones are not tried.
    no_discard: bool,
    counters: DriveCounters,
}

enum Work {
    Read { buf: Buf },
    Write { data: Slices, durable: bool },
    Flush,
    Discard { len: u64 },
}

struct Request {
    tag: Tag,
    file: usize,
    /// Stays open until the request has ended, whatever becomes of the file's entry.
    opened: Arc<Opened>,
    offset: u64,
    done: usize,
    retries: u32,
    started: Nanos,
    work: Work,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    request: Option<Request>,
    /// Storage for the kernel; reused.
    vectors: Vec<libc::iovec>,
}

/// The open drives of a core, and what is under way on them.
#[derive(Default)]
pub(crate) struct Drives {
    files: Vec<Option<File>>,
    slots: Vec<Slot>,
    free: Vec<usize>,
}

impl Drives {
    pub(crate) fn insert(&mut self, opened: Arc<Opened>) -> FileId {
        // An id is never given out again: what still names a drive that was closed must not meet another one.
        let index = self.files.len();
        self.files.push(Some(File { opened, no_discard: false, counters: DriveCounters::default() }));
        FileId(u32::try_from(index).expect("drives are few"))
    }

    pub(crate) fn opened(&self, file: FileId) -> Option<&Arc<Opened>> {
        self.files.get(file.0 as usize)?.as_ref().map(|f| &f.opened)
    }

    pub(crate) fn counters(&self, file: FileId) -> DriveCounters {
        self.files.get(file.0 as usize).and_then(Option::as_ref).map(|f| f.counters).unwrap_or_default()
    }

    pub(crate) fn close(&mut self, file: FileId) {
        if let Some(entry) = self.files.get_mut(file.0 as usize) {
            *entry = None;
        }
    }

    /// Starts a drive operation; the caller passes no other.
    pub(crate) fn start(&mut self, tag: Tag, op: Op, now: Nanos, ring: &mut Ring, out: &mut Events) {
        let (file, offset, work) = match op {
            Op::Read { file, offset, buf } => (file, offset, Work::Read { buf }),
            Op::Write { file, offset, data, durable } => (file, offset, Work::Write { data, durable }),
            Op::Flush { file } => (file, 0, Work::Flush),
            Op::Discard { file, offset, len } => (file, offset, Work::Discard { len }),
            _ => unreachable!("the driver sorts operations"),
        };
        let index = file.0 as usize;
        let Some(opened) = self.opened(file).cloned() else {
            return out.push((tag, ended(work, Err(errors::closed("the drive is not open")))));
        };
        if let Err(error) = check_alignment(&work, offset, &opened) {
            return out.push((tag, ended(work, Err(error))));
        }
        let nothing_to_do = match &work {
            Work::Read { buf } => buf.is_empty(),
            Work::Write { data, .. } => data.iter().all(|s| s.is_empty()),
            Work::Discard { len } => {
                *len == 0 || !opened.discards || self.files[index].as_ref().is_some_and(|f| f.no_discard)
            }
            Work::Flush => false,
        };
        if nothing_to_do {
            return out.push((tag, ended(work, Ok(()))));
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        self.slots[slot].request =
            Some(Request { tag, file: index, opened, offset, done: 0, retries: 0, started: now, work });
        if let Some(file) = &mut self.files[index] {
            file.counters.inflight += 1;
        }
        self.push(slot, ring);
    }

    /// Hands the rest of a slot's operation to the kernel.
    fn push(&mut self, index: usize, ring: &mut Ring) {
        let slot = &mut self.slots[index];
        let token = Token::new(Kind::Drive, index, slot.generation);
        let request = slot.request.as_mut().expect("the caller filled it");
        let fd = Fd(request.opened.fd.as_raw_fd());
        let offset = request.offset + request.done as u64;
        let length = |n: usize| u32::try_from(n).expect("a pool buffer is small");
        let entry = match &mut request.work {
            Work::Read { buf } => {
                let rest = &mut buf[request.done..];
                let (at, len) = (rest.as_mut_ptr(), length(rest.len()));
                if ring.is_registered(at) {
                    opcode::ReadFixed::new(fd, at, len, 0).offset(offset).build()
                } else {
                    opcode::Read::new(fd, at, len).offset(offset).build()
                }
            }
            Work::Write { data, durable } => {
                let sync = if *durable { libc::RWF_DSYNC } else { 0 };
                gather(data, request.done, &mut slot.vectors);
                if let [one] = slot.vectors[..] {
                    let (at, len) = (one.iov_base.cast_const().cast(), length(one.iov_len));
                    if ring.is_registered(at) {
                        opcode::WriteFixed::new(fd, at, len, 0).offset(offset).rw_flags(sync).build()
                    } else {
                        opcode::Write::new(fd, at, len).offset(offset).rw_flags(sync).build()
                    }
                } else {
                    let (at, n) = (slot.vectors.as_ptr(), length(slot.vectors.len()));
                    opcode::Writev::new(fd, at, n).offset(offset).rw_flags(sync).build()
                }
            }
            Work::Flush => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
            Work::Discard { len } => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                opcode::Fallocate::new(fd, *len).offset(offset).mode(mode).build()
            }
        };
        // A worker of the kernel begins it, and the core goes on.
        let asks = if request.opened.asks { squeue::Flags::ASYNC } else { squeue::Flags::empty() };
        // SAFETY: buffer, slices and vectors belong to the slot, and stay untouched until the completion.
        unsafe { ring.push(entry.flags(asks), token) };
    }

    pub(crate) fn complete(&mut self, cqe: &Cqe, now: Nanos, ring: &mut Ring, out: &mut Events) {
        let index = cqe.token.index as usize;
        let slot = &mut self.slots[index];
        assert!(slot.generation == cqe.token.generation, "a slot waits for its request");
        let request = slot.request.as_mut().expect("a slot waits for its request");
        match request.progress(cqe.result) {
            Progress::Continue => self.push(index, ring),
            Progress::Over(result) => {
                if let (Work::Discard { .. }, libc::EOPNOTSUPP, Some(file)) =
                    (&request.work, -cqe.result, &mut self.files[request.file])
                {
                    file.no_discard = true;
                }
                let request = slot.request.take().expect("seen above");
                if let Some(file) = &mut self.files[request.file] {
                    request.count(&mut file.counters, result.is_ok(), now);
                }
                slot.generation = (slot.generation + 1) % GENERATIONS;
                self.free.push(index);
                out.push((request.tag, ended(request.work, result)));
            }
        }
    }
}

enum Progress {
    Continue,
    Over(Result<(), Error>),
}

impl Request {
    /// Enters the end of this request into its drive's counters.
    fn count(&self, counters: &mut DriveCounters, succeeded: bool, now: Nanos) {
        counters.inflight -= 1;
        let kind = match &self.work {
            Work::Read { .. } => &mut counters.reads,
            Work::Write { .. } => &mut counters.writes,
            Work::Flush => &mut counters.flushes,
            Work::Discard { .. } => return,
        };
        kind.operations += 1;
        kind.time_ns += now.since(self.started);
        if succeeded {
            kind.bytes += self.done as u64;
        } else {
            kind.errors += 1;
        }
    }

    fn progress(&mut self, result: i32) -> Progress {
        let Ok(n) = usize::try_from(result) else {
            let errno = -result;
            if [libc::EINTR, libc::EAGAIN].contains(&errno) && self.retries < MOST_RETRIES {
                self.retries += 1;
                return Progress::Continue;
            }
            // A discard is advice; a drive that can't do it loses nothing.
            if matches!(self.work, Work::Discard { .. }) && errno == libc::EOPNOTSUPP {
                return Progress::Over(Ok(()));
            }
            return Progress::Over(Err(errors::drive(self.describe(), errno)));
        };
        let whole = match &self.work {
            Work::Read { buf } => buf.len(),
            Work::Write { data, .. } => data.iter().map(|s| s.len()).sum(),
            Work::Flush | Work::Discard { .. } => return Progress::Over(Ok(())),
        };
        self.done += n;
        if self.done == whole {
            Progress::Over(Ok(()))
        } else if n > 0 {
            Progress::Continue
        } else {
            let context = format!("{}: it ended after {} bytes", self.describe(), self.done);
            Progress::Over(Err(Error { kind: ErrorKind::Medium, context, errno: None }))
        }
    }

    fn describe(&self) -> String {
        let path = self.opened.path.display();
        match &self.work {
            Work::Read { buf } => format!("read {} bytes at {} of {path}", buf.len(), self.offset),
            Work::Write { data, .. } => {
                let len: usize = data.iter().map(|s| s.len()).sum();
                format!("write {len} bytes at {} of {path}", self.offset)
            }
            Work::Flush => format!("flush {path}"),
            Work::Discard { len } => format!("discard {len} bytes at {} of {path}", self.offset),
        }
    }
}

/// Direct I/O wants everything aligned; we want it refused alike wherever the drive is a file in the page cache.
fn check_alignment(work: &Work, offset: u64, opened: &Opened) -> Result<(), Error> {
    let align = opened.align_bytes as usize;
    let aligned = match work {
        Work::Read { buf } => buf.len().is_multiple_of(align),
        Work::Write { data, .. } => data.iter().all(|s| s.len().is_multiple_of(align)),
        Work::Flush => true,
        Work::Discard { len } => len.is_multiple_of(align as u64),
    };
    if aligned && offset.is_multiple_of(align as u64) {
        return Ok(());
    }
    let path = opened.path.display();
    Err(errors::refused(format!("an operation at {offset} of {path} is not aligned to {align} bytes")))
}

/// The event of an operation that is over.
fn ended(work: Work, result: Result<(), Error>) -> Event {
    match (work, result) {
        (Work::Read { buf }, Ok(())) => Event::Read(buf),
        (Work::Read { buf }, Err(error)) => Event::Failed { error, buf: Some(buf) },
        (Work::Write { mut data, .. }, Ok(())) => {
            data.clear();
            Event::Written(data)
        }
        (Work::Flush, Ok(())) => Event::Flushed,
        (Work::Discard { .. }, Ok(())) => Event::Discarded,
        (_, Err(error)) => Event::Failed { error, buf: None },
    }
}

/// The vectors of what is left of `data` after `done` bytes.
fn gather(data: &Slices, mut done: usize, vectors: &mut Vec<libc::iovec>) {
    vectors.clear();
    for slice in data {
        let skip = done.min(slice.len());
        done -= skip;
        let rest = &slice[skip..];
        if !rest.is_empty() && vectors.len() < MOST_VECTORS {
            vectors.push(libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() });
        }
    }
}
