//! Applying commits: the same code for a commit that just became durable and for one found at recovery.

use super::{Phase, Shard};
use crate::format::commit::{CommitHeader, LogRecord, NO_PG, records};
use crate::map::{AT_ONCE, Entry, LineDelta};
use crate::segments::SegmentName;
use crate::{Done, StoreError, Timing};
use dolmen_types::{Epoch, PgId, Seq};

/// A version of a block that a commit names.
#[derive(Clone, Copy)]
pub(crate) struct Named {
    line: u64,
    lba: u64,
    entry: Entry,
    /// A host wrote it; otherwise it was moved.
    written: bool,
}

/// Where blocks of a line will be named; all that takes to do is brought near for all of them.
fn prefetch(delta: &LineDelta, named: &[Named]) -> [usize; AT_ONCE] {
    let mut places = [0; AT_ONCE];
    let mut before = usize::MAX;
    for (named, place) in named.iter().zip(&mut places) {
        *place = delta.place(named.lba);
        // Those of a sequence are side by side.
        if *place != before {
            delta.prefetch(*place);
        }
        before = *place;
    }
    before = usize::MAX;
    for (named, &place) in named.iter().zip(&places) {
        if place != before {
            delta.prefetch_entry(place, named.lba);
        }
        before = place;
    }
    places
}

impl Shard {
    /// Applies every commit at the head that is durable, in chain order, and ends the appends in it.
    pub(crate) fn apply_durable(&mut self) {
        let mut applied = false;
        while let Some(flight) = self.log.flights.front() {
            if flight.is_lost(&self.drives) {
                return self.stop("more drives failed than the segment under way can lose".into());
            }
            if !flight.is_durable(&self.drives) {
                break;
            }
            let Some(mut flight) = self.log.flights.pop_front() else { break };
            self.apply(&flight.bytes, &flight.header);
            applied = true;
            self.log.payload -= flight.payload;
            let timing = flight.timing();
            let ended =
                flight.tickets.drain(..).map(|ticket| Done { ticket, result: Ok(()), buf: None, timing });
            self.done.extend(ended);
            if self.log.spare.len() < 32 {
                self.log.spare.push(flight.bytes);
                self.log.spare_tickets.push(flight.tickets);
            }
        }
        if applied {
            self.clean_bell.notify();
        }
    }

    /// Applies one commit to map, objects and marks.
    pub(crate) fn apply(&mut self, bytes: &[u8], header: &CommitHeader) {
        let (mut pg, mut seq) = (NO_PG, Seq(0));
        // Blocks that nothing but blocks lies between are looked for in the map together.
        let mut named = std::mem::take(&mut self.named);
        for record in records(bytes, header).flatten() {
            if record.needs_blocks() {
                self.set_entries(&mut named);
            }
            match record {
                LogRecord::Batch { pg: p, epoch, seq: s } => {
                    (pg, seq) = (p, s);
                    self.mark(pg, epoch, seq);
                }
                LogRecord::Write { line, lba, blocks } => {
                    let entries = blocks.iter().map(|block| header.entry(seq.0, &block));
                    let name = |(lba, entry)| Named { line, lba, entry, written: true };
                    named.extend((lba..).zip(entries).map(name));
                }
                LogRecord::Move { line, lba, seq, block, .. } => {
                    named.push(Named { line, lba, entry: header.entry(seq, &block), written: false });
                }
                LogRecord::Unmap { line, lba, blocks } => {
                    self.unmap(line, lba, lba.saturating_add(blocks), seq.0)
                }
                LogRecord::Put { key, value } => {
                    self.objects_bytes += value.len();
                    if let Some(old) = self.objects.insert((pg, key), value.into()) {
                        self.objects_bytes -= old.len();
                    }
                }
                LogRecord::Delete { key } => {
                    if let Some(old) = self.objects.remove(&(pg, key)) {
                        self.objects_bytes -= old.len();
                    }
                }
                LogRecord::CreateLine { line, attributes } => self.create_line(line, attributes),
                LogRecord::CloneLine { line, parent, at } => self.clone_line(line, parent, at),
                LogRecord::Snapshot { line } => self.take_snapshot(line, seq.0),
                LogRecord::DropSnapshot { line, at } => self.drop_snapshot(line, at),
                LogRecord::DropLine { line } => self.drop_line(line),
                LogRecord::Retire { slot, stream, stream_seq } => {
                    self.retire(SegmentName { slot, stream, stream_seq });
                }
            }
            if record.changes_lines() {
                self.announced.applied();
            }
        }
        self.set_entries(&mut named);
        self.named = named;
        self.log.applied = header.place.number;
        self.log.applied_chain = header.check;
        self.checkpoint.changed = self.now;
    }

    fn mark(&mut self, pg: PgId, epoch: Epoch, seq: Seq) {
        if pg != NO_PG {
            let marks = self.marks.entry(pg).or_default();
            marks.epoch = marks.epoch.max(epoch);
            marks.highest_seq = marks.highest_seq.max(seq);
        }
    }

    /// These versions are at these places now. Of a line that is gone nothing is kept.
    fn set_entries(&mut self, named: &mut Vec<Named>) {
        for of_line in named.chunk_by(|a, b| a.line == b.line) {
            let line = of_line[0].line;
            let Some(tree) = self.map.lines.get(&line).filter(|l| !l.now.is_doomed()) else { continue };
            if of_line[0].written && tree.now.parent.is_some() {
                self.checkpoint.heir_written(line, self.now);
            }
            let segments = &mut self.segments;
            self.map.live.change(line, |delta| {
                for some in of_line.chunks(AT_ONCE) {
                    let places = prefetch(delta, some);
                    for (&Named { lba, entry, written, .. }, place) in some.iter().zip(places) {
                        if written {
                            delta.written(entry.seq);
                        }
                        segments.add_delta(&entry);
                        delta.insert(place, lba, entry, &tree.now, |old| segments.sub_delta(&old));
                    }
                }
            });
        }
        named.clear();
    }

    fn unmap(&mut self, line: u64, lba: u64, end: u64, seq: u64) {
        let Some(tree) = self.map.lines.get(&line).filter(|l| !l.now.is_doomed()) else { return };
        if tree.now.parent.is_some() {
            self.checkpoint.heir_written(line, self.now);
        }
        self.checkpoint.unmapped_blocks = self.checkpoint.unmapped_blocks.saturating_add(end - lba);
        let segments = &mut self.segments;
        self.map.live.change(line, |delta| {
            delta.written(seq);
            delta.unmap(lba, end, seq, &tree.now, |old| segments.sub_delta(&old));
        });
    }

    /// A write or flush failed: no more appends, those under way end with the reason; reads go on.
    pub(crate) fn stop(&mut self, reason: String) {
        if !matches!(self.phase, Phase::Serving) {
            return;
        }
        self.phase = Phase::Stopped(reason.clone());
        let flights = std::mem::take(&mut self.log.flights);
        let queued = std::mem::take(&mut self.queue);
        let tickets: Vec<_> =
            flights.into_iter().flat_map(|f| f.tickets).chain(queued.into_iter().map(|p| p.ticket)).collect();
        let error = StoreError::Stopped { reason };
        for ticket in tickets {
            let result = Err(error.clone());
            self.done.push(Done { ticket, result, buf: None, timing: Timing::default() });
        }
        self.move_jobs.clear();
        self.moving.clear();
        self.announced.clear();
        self.down = self.closing;
        self.checkpoint_bell.notify();
        self.lease_bell.notify();
        self.clean_bell.notify();
        self.members_bell.notify();
    }
}
