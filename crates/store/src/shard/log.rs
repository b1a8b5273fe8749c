//! The writing end of a shard's log: open segments, leases ahead, commits under way.

use super::staging::Piece;
use super::{Drives, Shard, read};
use crate::columns::Columns;
use crate::format::anchor::{Anchor, Start};
use crate::format::commit::CommitHeader;
use crate::format::segment::{SEGMENT_HEADER_BYTES, STREAMS, SegmentHeader, Stream};
use crate::location::Slot;
use crate::{Ticket, Timing};
use dolmen_types::Nanos;
use std::collections::VecDeque;

/// Bits of an event's key that name the column of a commit.
const COLUMN_BITS: u32 = 4;

/// The units of one segment, leased ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) columns: Columns,
    /// Not from the reserve: host data may go there.
    pub(crate) host: bool,
}

/// The segment that a stream appends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenSegment {
    pub(crate) slot: Slot,
    pub(crate) columns: Columns,
    pub(crate) stream_seq: u64,
    /// Offset in the units of the next append. Bytes.
    pub(crate) tail: u32,
    /// Host data may go there.
    pub(crate) host: bool,
}

/// One stream.
#[derive(Default)]
pub(crate) struct StreamState {
    pub(crate) open: Option<OpenSegment>,
    /// Units for the next segments, in order. The first one is named as successor by the open segment's header.
    pub(crate) leases: VecDeque<Lease>,
    /// What the pool's owner was asked for and has not answered.
    pub(crate) wanted: Option<crate::Purpose>,
    /// Since when.
    pub(crate) wanted_since: Nanos,
    /// Number of the next segment.
    pub(crate) next_seq: u64,
}

/// A commit that is not applied yet.
pub(crate) struct Flight {
    pub(crate) header: CommitHeader,
    /// The header's bytes: applied from them, live as at replay.
    pub(crate) bytes: Vec<u8>,
    /// The appends in it, in order.
    pub(crate) tickets: Vec<Ticket>,
    /// Where replay would begin to find it.
    pub(crate) start: Start,
    /// Host payload in it. Bytes.
    pub(crate) payload: u64,
    pub(crate) submitted: Nanos,
    pub(crate) durable: Nanos,
    /// What making its stored forms took. Nanoseconds.
    pub(crate) work_ns: u64,
    /// The drive of the column that was durable last.
    pub(crate) slowest: Option<u16>,
    /// The units of its segment.
    pub(crate) columns: Columns,
    /// Columns that are not durable, as bits.
    pub(crate) lacking: u16,
}

impl Flight {
    /// True when every column on a drive that belongs to the pool is durable.
    pub(crate) fn is_durable(&self, drives: &Drives) -> bool {
        self.lacking == 0
            || self
                .columns
                .units()
                .iter()
                .enumerate()
                .all(|(c, u)| self.lacking >> c & 1 == 0 || !drives.counts(u.drive))
    }

    /// What the appends in it waited for.
    pub(crate) fn timing(&self) -> Timing {
        Timing {
            submitted: self.submitted,
            drive: self.durable,
            work_ns: self.work_ns,
            slowest: self.slowest,
        }
    }

    /// True when so many of its columns are gone that the rest does not suffice.
    pub(crate) fn is_lost(&self, drives: &Drives) -> bool {
        self.columns.lost(drives.members().out) > self.columns.parity()
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Log {
    /// By [`Stream`].
    pub(crate) streams: [StreamState; STREAMS],
    /// Number of the next commit.
    pub(crate) next_number: u64,
    /// Check of the newest commit's header.
    pub(crate) chain: u64,
    /// In order of numbers, without a gap.
    pub(crate) flights: VecDeque<Flight>,
    /// The last commit that was applied, and the check of its header.
    pub(crate) applied: u64,
    pub(crate) applied_chain: u64,
    /// Host payload under way. Bytes.
    pub(crate) payload: u64,
    /// The newest anchor says where the bulk stream goes on: before that nothing may be appended to it.
    pub(crate) bulk_named: bool,
    /// Memory of finished headers, for reuse.
    pub(crate) spare: Vec<Vec<u8>>,
    pub(crate) spare_tickets: Vec<Vec<Ticket>>,
    pub(crate) spare_pieces: Vec<Piece>,
    /// What making the stored form of a block took when it was measured last. Nanoseconds.
    pub(crate) made_block_ns: u64,
}

impl Log {
    /// From where a stream's commits beyond the last applied one are replayed. `None` when the stream holds neither an open
    /// segment nor a lease, which recovery rules out before service.
    pub(crate) fn start_of(&self, stream: Stream) -> Option<Start> {
        let s = &self.streams[stream as usize];
        let first = self.flights.iter().find(|f| f.header.place.stream == stream).map(|f| f.start);
        let open = || s.open.map(|o| Start { columns: o.columns, offset: o.tail, stream_seq: o.stream_seq });
        let lease =
            || s.leases.front().map(|l| Start { columns: l.columns, offset: 0, stream_seq: s.next_seq });
        first.or_else(open).or_else(lease)
    }

    /// The same of every log stream; `None` when the hot or the cold one has nowhere to go on.
    pub(crate) fn starts(&self) -> Option<[Option<Start>; 3]> {
        let starts = Stream::LOGS.map(|stream| self.start_of(stream));
        (starts[0].is_some() && starts[1].is_some()).then_some(starts)
    }
}

impl Shard {
    /// An anchor is durable.
    pub(crate) fn named(&mut self, anchor: &Anchor) {
        self.log.bulk_named = anchor.eras.last().is_some_and(|era| era.starts[2].is_some());
        let starts = anchor.eras.iter().flat_map(|era| era.starts).flatten();
        self.checkpoint.starts = starts.map(|start| start.columns).collect();
        self.checkpoint.next_starts.clear();
    }

    /// Begins the next segment of a stream; its header. `None` when leases are missing.
    pub(crate) fn open_segment(&mut self, stream: Stream) -> Option<SegmentHeader> {
        let needed = if stream == Stream::Meta { 1 } else { 2 };
        let state = &mut self.log.streams[stream as usize];
        if state.leases.len() < needed {
            return None;
        }
        let lease = state.leases.pop_front()?;
        let successor = state.leases.front().map(|l| l.columns).filter(|_| stream != Stream::Meta);
        let stream_seq = state.next_seq;
        state.next_seq += 1;
        let slot = self.segments.add(lease.columns, stream, stream_seq);
        let open = OpenSegment {
            slot,
            columns: lease.columns,
            stream_seq,
            tail: SEGMENT_HEADER_BYTES,
            host: lease.host,
        };
        let before = self.log.streams[stream as usize].open.replace(open);
        if let Some(segment) = before.and_then(|o| self.segments.at_mut(o.slot)) {
            segment.closed = true;
        }
        Some(SegmentHeader {
            pool: self.id.pool,
            shard: self.id.shard,
            stream,
            slot,
            stream_seq,
            incarnation: self.id.incarnation,
            salt: self.id.salt,
            unit_bytes: self.drives.unit_bytes,
            columns: lease.columns,
            column: 0,
            successor,
        })
    }

    /// The write of one column of a commit ended.
    pub(crate) fn commit_written(&mut self, id: u64, now: Nanos, result: Result<(), String>) {
        let (number, column) =
            (id >> COLUMN_BITS, usize::try_from(id & ((1 << COLUMN_BITS) - 1)).unwrap_or(0));
        let Some(first) = self.log.flights.front().map(|f| f.header.place.number) else { return };
        let index = number.checked_sub(first).and_then(|i| usize::try_from(i).ok());
        let Some(flight) = index.and_then(|i| self.log.flights.get_mut(i)) else { return };
        match (result, flight.columns.unit(column)) {
            (Ok(()), unit) => {
                flight.lacking &= !(1 << column);
                if let Some(unit) = unit {
                    self.drives.timed(unit.drive, now.since(flight.submitted));
                    flight.slowest = Some(unit.drive);
                }
                flight.durable = now;
                self.apply_durable();
            }
            (Err(reason), Some(unit)) => self.drives.fail(unit.drive, reason),
            (Err(_), None) => {}
        }
    }

    /// Complains about drives on which a commit's column is late while its other columns are there.
    pub(crate) fn look_for_stuck_writes(&mut self) {
        let bound_ns = self.tuning.stuck_write_ms * 1_000_000;
        for flight in &self.log.flights {
            let all = (1u16 << flight.columns.len()) - 1;
            if self.now.since(flight.submitted) <= bound_ns || flight.lacking == all {
                continue;
            }
            for (column, unit) in flight.columns.units().iter().enumerate() {
                if flight.lacking >> column & 1 != 0 {
                    let ms = self.tuning.stuck_write_ms;
                    self.drives.fail(unit.drive, format!("a write did not end within {ms} ms"));
                }
            }
        }
    }

    /// Key of the events of the write of a column of a commit.
    pub(crate) fn commit_key(&self, number: u64, column: usize) -> u64 {
        self.tag.key | read::KIND_COMMIT | (number << COLUMN_BITS | column as u64) & read::ID_MASK
    }
}
