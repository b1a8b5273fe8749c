//! A log in memory that tests drive completion by completion: appends end in order, reads at any time.

use super::{Log, Refusal};
use dolmen_io::{Buf, Pool, PoolConfig};
use dolmen_store::{
    Batch, Done, Key, LineUsage, MAX_BATCH_RECORDS, MAX_OBJECT_BYTES, Marks, Record, StoreError, Ticket,
};
use dolmen_types::{LineId, Nanos, PgId, limits::BLOCK_BYTES};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What is durable.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) blocks: BTreeMap<(u64, u64), Box<[u8]>>,
    pub(crate) lines: BTreeSet<u64>,
    pub(crate) objects: BTreeMap<(PgId, Key), Box<[u8]>>,
    pub(crate) marks: BTreeMap<PgId, Marks>,
}

impl Disk {
    fn apply(&mut self, batch: Batch) {
        let marks = self.marks.entry(batch.pg).or_default();
        assert!(batch.epoch >= marks.epoch && batch.seq > marks.highest_seq, "epochs and numbers ascend");
        *marks = Marks { epoch: batch.epoch, highest_seq: batch.seq };
        for record in batch.records {
            match record {
                Record::Write { line, lba, data } => {
                    assert!(!data.is_empty() && data.len().is_multiple_of(BLOCK_BYTES), "whole blocks");
                    for (block, part) in (lba.0..).zip(data.chunks(BLOCK_BYTES)) {
                        self.blocks.insert((line.0, block), part.into());
                    }
                }
                Record::Unmap { line, lba, blocks } => {
                    self.blocks.retain(|k, _| k.0 != line.0 || k.1 < lba.0 || k.1 >= lba.0 + blocks.0);
                }
                Record::Put { key, value } => drop(self.objects.insert((batch.pg, key), value)),
                Record::Delete { key } => drop(self.objects.remove(&(batch.pg, key))),
                Record::CreateLine { line } => assert!(self.lines.insert(line.0), "a new line"),
                Record::DropLine { line } => {
                    assert!(self.lines.remove(&line.0), "the line is there");
                    self.blocks.retain(|k, _| k.0 != line.0);
                }
                Record::Snapshot { .. } | Record::DropSnapshot { .. } | Record::CloneLine { .. } => {
                    panic!("this log keeps no versions");
                }
            }
        }
    }
}

/// The log, with what is under way.
pub(crate) struct FakeLog {
    pub(crate) now: Nanos,
    pub(crate) pool: Pool,
    pub(crate) disk: Disk,
    pub(crate) appends: VecDeque<(Batch, u64)>,
    pub(crate) reads: Vec<(u64, u64, Buf, u64)>,
    /// The next appends are refused so.
    pub(crate) refuse: Option<Refusal>,
    pub(crate) wake: Option<Nanos>,
}

impl FakeLog {
    pub(crate) fn new(disk: Disk) -> FakeLog {
        let classes = vec![(4096, 40), (65 * 4096, 8)];
        FakeLog {
            now: Nanos(1),
            pool: Pool::new(&PoolConfig { classes }),
            disk,
            appends: VecDeque::new(),
            reads: Vec::new(),
            refuse: None,
            wake: None,
        }
    }

    /// Operations under way.
    pub(crate) fn pending(&self) -> usize {
        self.appends.len() + self.reads.len()
    }

    /// Makes the oldest append durable and applied.
    pub(crate) fn end_append(&mut self) -> Option<Done> {
        let (batch, ticket) = self.appends.pop_front()?;
        self.disk.apply(batch);
        Some(done(ticket, Ok(()), None))
    }

    /// True when the oldest append writes data, which may turn out not to fit.
    pub(crate) fn next_is_host_data(&self) -> bool {
        let is_write = |r: &Record| matches!(r, Record::Write { .. });
        self.appends.front().is_some_and(|(batch, _)| batch.records.iter().any(is_write))
    }

    /// Fails the oldest append.
    pub(crate) fn fail_append(&mut self, error: StoreError) -> Option<Done> {
        let (_, ticket) = self.appends.pop_front()?;
        Some(done(ticket, Err(error), None))
    }

    /// Ends one read, successfully.
    pub(crate) fn end_read(&mut self, n: usize) -> Done {
        let (line, first, mut buf, ticket) = self.reads.swap_remove(n);
        for (block, part) in (first..).zip(buf.chunks_mut(BLOCK_BYTES)) {
            match self.disk.blocks.get(&(line, block)) {
                Some(data) => part.copy_from_slice(data),
                None => part.fill(0),
            }
        }
        done(ticket, Ok(()), Some(buf))
    }

    /// Fails one read.
    pub(crate) fn fail_read(&mut self, n: usize, error: StoreError) -> Done {
        let (_, _, buf, ticket) = self.reads.swap_remove(n);
        done(ticket, Err(error), Some(buf))
    }
}

fn done(ticket: u64, result: Result<(), StoreError>, buf: Option<Buf>) -> Done {
    Done { ticket: Ticket(ticket), result, buf, submitted: Nanos(0), drive: Nanos(0) }
}

impl Log for FakeLog {
    fn now(&self) -> Nanos {
        self.now
    }

    fn alloc(&self, len: usize) -> Option<Buf> {
        self.pool.alloc(len)
    }

    fn wake_at(&mut self, at: Nanos) {
        self.wake = Some(at);
    }

    fn read(&mut self, _pg: PgId, line: LineId, first: u64, buf: Buf, ticket: u64) {
        assert!(!buf.is_empty() && buf.len().is_multiple_of(BLOCK_BYTES), "whole blocks");
        self.reads.push((line.0, first, buf, ticket));
    }

    fn append(&mut self, batch: Batch, ticket: u64) -> Result<(), (Batch, Refusal)> {
        let is_write = |r: &Record| matches!(r, Record::Write { .. });
        match self.refuse {
            Some(Refusal::Full) if !batch.records.iter().any(is_write) => {}
            Some(refusal) => return Err((batch, refusal)),
            None => {}
        }
        let put_fits = |r: &Record| !matches!(r, Record::Put { value, .. } if value.len() > MAX_OBJECT_BYTES);
        assert!(!batch.records.is_empty() && batch.records.len() <= MAX_BATCH_RECORDS);
        assert!(batch.records.iter().all(put_fits));
        self.appends.push_back((batch, ticket));
        Ok(())
    }

    fn usage(&self, _pg: PgId, line: LineId) -> LineUsage {
        let mapped = self.disk.blocks.keys().filter(|k| k.0 == line.0).count() as u64;
        let bytes = mapped * BLOCK_BYTES as u64;
        LineUsage { mapped_blocks: mapped, stored_bytes: bytes, head_bytes: bytes, ..LineUsage::default() }
    }
}
