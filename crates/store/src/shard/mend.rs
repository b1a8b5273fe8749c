//! Host reads that did not work out on the direct way: queued here, answered through the other columns by tasks of their own,
//! and handed back to `read.rs` in the next step.

use super::fetch::{FetchError, stored};
use super::{Shared, Span};
use crate::format::page::{Level, PageRef, verify};
use crate::map::Found;
use crate::stored::BlockVersion;
use dolmen_io::Buf;
use dolmen_io::exec::{Handle, Notify};
use dolmen_types::limits::BLOCK_BYTES;
use std::collections::VecDeque;

/// Tasks of each shard that answer such reads.
pub(super) const TASKS: usize = 8;

/// What is to be read.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// The pages that hold consecutive blocks.
    Blocks { lba: u64, found: Vec<Found>, span: Span, piece: usize },
    /// A leaf of a line's map.
    Leaf { line: u64, page: PageRef },
}

/// One such read.
#[derive(Debug)]
pub(super) struct Job {
    /// The host's request, and which of its attempts.
    pub(super) index: usize,
    pub(super) serial: u64,
    pub(super) wanted: Wanted,
}

/// What came of one.
pub(super) struct Mended {
    pub(super) job: Job,
    pub(super) result: Result<Buf, FetchError>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Mends {
    pub(super) queue: VecDeque<Job>,
    pub(super) done: Vec<Mended>,
    /// Tasks that wait for one, each by its own bell.
    idle: Vec<Notify>,
}

impl Mends {
    /// Queues a read.
    pub(super) fn push(&mut self, job: Job) {
        self.queue.push_back(job);
        if let Some(bell) = self.idle.pop() {
            bell.notify();
        }
    }
}

/// One of the tasks.
pub(super) async fn serve(shard: Shared, exec: Handle) {
    loop {
        let job = shard.borrow_mut().mends.queue.pop_front();
        let Some(job) = job else {
            let bell = Notify::default();
            shard.borrow_mut().mends.idle.push(bell.clone());
            bell.notified().await;
            continue;
        };
        let result = match &job.wanted {
            Wanted::Leaf { line, page } => leaf(&shard, &exec, *line, page).await,
            Wanted::Blocks { lba, found, span, .. } => blocks(&shard, &exec, *lba, found, span).await,
        };
        shard.borrow_mut().mends.done.push(Mended { job, result });
        exec.yield_now().await;
    }
}

async fn buffer(exec: &Handle, len: usize) -> Buf {
    let mut buf = exec.alloc(len).await;
    buf.set_len(len);
    buf
}

async fn leaf(shard: &Shared, exec: &Handle, line: u64, page: &PageRef) -> Result<Buf, FetchError> {
    let buf = buffer(exec, BLOCK_BYTES).await;
    stored(shard, exec, page.location, buf, |bytes| verify(bytes, Level::Leaf, line, page)).await
}

/// A run of blocks, all at once if they can be had so, else one by one.
async fn blocks(
    shard: &Shared,
    exec: &Handle,
    lba: u64,
    found: &[Found],
    span: &Span,
) -> Result<Buf, FetchError> {
    let named = |lba: u64, f: &Found| BlockVersion { line: f.line, lba, seq: f.entry.seq };
    let buf = buffer(exec, span.len()).await;
    let all = |bytes: &[u8]| {
        let blocks = (lba..).zip(found).map(|(lba, f)| (named(lba, f), &f.entry));
        span.holds(&mut shard.borrow_mut().forms, blocks, bytes)
    };
    let whole = stored(shard, exec, span.location(), buf, all).await;
    if whole.is_ok() || found.len() == 1 {
        return whole;
    }
    let mut run = buffer(exec, span.len()).await;
    run.fill(0);
    for (lba, f) in (lba..).zip(found) {
        let entry = &f.entry;
        let own = Span::of(entry);
        let buf = buffer(exec, own.len()).await;
        let one = |bytes: &[u8]| own.holds(&mut shard.borrow_mut().forms, [(named(lba, f), entry)], bytes);
        let pages = stored(shard, exec, own.location(), buf, one).await?;
        let (at, part) = (span.distance(entry), own.part(entry, &pages).ok_or(FetchError::Nowhere)?);
        run[at..at + part.len()].copy_from_slice(part);
    }
    Ok(run)
}
