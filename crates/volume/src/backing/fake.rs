//! A log in memory that tests drive completion by completion: appends end in order, reads at any time.

use super::{Log, Refusal};
use dolmen_io::{Buf, Pool, PoolConfig};
use dolmen_store::{
    Batch, ChangedRange, DiffDone, DiffPage, DiffRequest, Done, Key, LineInfo, LineUsage, MAX_BATCH_RECORDS,
    MAX_OBJECT_BYTES, Marks, Record, StoreError, Ticket, Timing, View,
};
use dolmen_types::{Blocks, Lba, LineId, Nanos, PgId, Seq, limits::BLOCK_BYTES};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Blocks of one line by address.
type Held = BTreeMap<u64, Box<[u8]>>;

/// What is durable.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) blocks: BTreeMap<(u64, u64), Box<[u8]>>,
    pub(crate) lines: BTreeSet<u64>,
    /// Lines whose keys are here.
    pub(crate) keys: BTreeSet<u64>,
    /// What snapshots hold, by line and number.
    pub(crate) points: BTreeMap<(u64, u64), Held>,
    /// What lines were cloned from.
    pub(crate) parents: BTreeMap<u64, (u64, u64)>,
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
                Record::CreateLine { line, .. } => assert!(self.lines.insert(line.0), "a new line"),
                Record::DropLine { line } => {
                    assert!(self.lines.remove(&line.0), "the line is there");
                    self.blocks.retain(|k, _| k.0 != line.0);
                }
                Record::Snapshot { line } => {
                    assert!(self.lines.contains(&line.0), "the line has a head");
                    let held = self.blocks.range((line.0, 0)..=(line.0, u64::MAX));
                    let held = held.map(|((_, block), data)| (*block, data.clone())).collect();
                    self.points.insert((line.0, batch.seq.0), held);
                }
                Record::DropSnapshot { line, at } => drop(self.points.remove(&(line.0, at.0))),
                Record::CloneLine { line, parent, at } => {
                    assert!(self.lines.insert(line.0), "a new line");
                    let held = self.points.get(&(parent.0, at.0)).expect("the snapshot is there").clone();
                    self.blocks.extend(held.into_iter().map(|(block, data)| ((line.0, block), data)));
                    self.parents.insert(line.0, (parent.0, at.0));
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
    diffs: Vec<DiffDone>,
}

impl FakeLog {
    pub(crate) fn new(disk: Disk) -> FakeLog {
        let classes = vec![(4096, 40), (65 * 4096, 8)];
        FakeLog {
            now: Nanos(1),
            pool: Pool::new(&PoolConfig::new(classes)),
            disk,
            appends: VecDeque::new(),
            reads: Vec::new(),
            refuse: None,
            wake: None,
            diffs: Vec::new(),
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
    Done { ticket: Ticket(ticket), result, buf, timing: Timing::default() }
}

impl Log for FakeLog {
    fn now(&self) -> Nanos {
        self.now
    }

    fn alloc(&self, len: usize) -> Option<Buf> {
        self.pool.alloc_plentiful(len)
    }

    fn alloc_alone(&self, len: usize) -> Option<Buf> {
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
        let is_unmap = |r: &Record| matches!(r, Record::Unmap { .. });
        match self.refuse {
            Some(Refusal::Full)
                if !batch.records.iter().any(is_write) && !batch.records.iter().all(is_unmap) => {}
            Some(refusal) => return Err((batch, refusal)),
            None => {}
        }
        let put_fits = |r: &Record| !matches!(r, Record::Put { value, .. } if value.len() > MAX_OBJECT_BYTES);
        assert!(!batch.records.is_empty() && batch.records.len() <= MAX_BATCH_RECORDS);
        assert!(batch.records.iter().all(put_fits));
        self.appends.push_back((batch, ticket));
        Ok(())
    }

    fn usage(&self, _pg: PgId, line: LineId, _others: &[LineId]) -> LineUsage {
        let mapped = self.disk.blocks.keys().filter(|k| k.0 == line.0).count() as u64;
        let bytes = mapped * BLOCK_BYTES as u64;
        LineUsage {
            mapped_blocks: mapped,
            own_blocks: mapped,
            stored_bytes: bytes,
            head_bytes: bytes,
            ..LineUsage::default()
        }
    }

    fn has_key(&self, _pg: PgId, line: LineId) -> bool {
        self.disk.keys.contains(&line.0)
    }

    fn line(&self, _pg: PgId, line: LineId) -> Option<LineInfo> {
        let points = self.disk.points.range((line.0, 0)..=(line.0, u64::MAX));
        let snapshots = points.map(|((_, at), _)| Seq(*at)).collect();
        let parent = self.disk.parents.get(&line.0).map(|(line, at)| (LineId(*line), Seq(*at)));
        Some(LineInfo { head: self.disk.lines.contains(&line.0), snapshots, parent })
    }

    fn diff(&mut self, _pg: PgId, request: DiffRequest, ticket: Ticket) {
        let held = |view: View| self.disk.points.get(&(view.line.0, view.at.expect("of a snapshot").0));
        let (old, new) = (request.from.and_then(held), held(request.to).expect("it is there"));
        let mut page = DiffPage::default();
        for block in request.first.0..request.end.0 {
            if page.ranges.len() == request.limit {
                page.next = Some(Lba(block));
                break;
            }
            let (old, new) = (old.and_then(|b| b.get(&block)), new.get(&block));
            if old != new {
                let (lba, blocks) = (Lba(block), Blocks(1));
                page.ranges.push(ChangedRange { lba, blocks, mapped: new.is_some() });
            }
        }
        self.diffs.push(DiffDone { ticket, result: Ok(page) });
    }

    fn drain_diffs(&mut self, out: &mut Vec<DiffDone>) {
        out.append(&mut self.diffs);
    }
}
