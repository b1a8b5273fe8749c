//! The writing end of a shard's log: open segments, leases ahead, commits under way.

use super::{Shard, read};
use crate::format::anchor::Start;
use crate::format::commit::CommitHeader;
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, Stream};
use crate::location::Slot;
use crate::{Ticket, UnitId};
use dolmen_types::Nanos;
use std::collections::VecDeque;

/// A unit that was leased ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) unit: UnitId,
    /// Not from the reserve: host data may go there.
    pub(crate) host: bool,
}

/// The segment that a stream appends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenSegment {
    pub(crate) slot: Slot,
    pub(crate) unit: UnitId,
    pub(crate) stream_seq: u64,
    /// Offset of the next append. Bytes.
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

/// How far a commit's write is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FlightState {
    Writing,
    Durable,
    Failed(String),
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
    pub(crate) state: FlightState,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Log {
    /// By [`Stream`].
    pub(crate) streams: [StreamState; 3],
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
    /// Memory of finished headers, for reuse.
    pub(crate) spare: Vec<Vec<u8>>,
    pub(crate) spare_tickets: Vec<Vec<Ticket>>,
}

impl Log {
    /// From where a stream's commits beyond the last applied one are replayed. `None` when the stream holds neither an open
    /// segment nor a lease, which recovery rules out before service.
    pub(crate) fn start_of(&self, stream: Stream) -> Option<Start> {
        let s = &self.streams[stream as usize];
        let first = self.flights.iter().find(|f| f.header.place.stream == stream).map(|f| f.start);
        let open = || s.open.map(|o| Start { unit: o.unit, offset: o.tail, stream_seq: o.stream_seq });
        let lease = || s.leases.front().map(|l| Start { unit: l.unit, offset: 0, stream_seq: s.next_seq });
        first.or_else(open).or_else(lease)
    }
}

impl Shard {
    /// Begins the next segment of a stream; its header's bytes. `None` when leases are missing.
    pub(crate) fn open_segment(&mut self, stream: Stream) -> Option<Vec<u8>> {
        let needed = if stream == Stream::Meta { 1 } else { 2 };
        let state = &mut self.log.streams[stream as usize];
        if state.leases.len() < needed {
            return None;
        }
        let lease = state.leases.pop_front()?;
        let successor = state.leases.front().map(|l| l.unit).filter(|_| stream != Stream::Meta);
        let stream_seq = state.next_seq;
        state.next_seq += 1;
        let slot = self.segments.add(lease.unit, stream, stream_seq);
        let open =
            OpenSegment { slot, unit: lease.unit, stream_seq, tail: SEGMENT_HEADER_BYTES, host: lease.host };
        let before = self.log.streams[stream as usize].open.replace(open);
        if let Some(segment) = before.and_then(|o| self.segments.at_mut(o.slot)) {
            segment.closed = true;
        }
        let header = SegmentHeader {
            pool: self.id.pool,
            shard: self.id.shard,
            stream,
            slot,
            stream_seq,
            incarnation: self.id.incarnation,
            salt: self.id.salt,
            unit_bytes: self.geometry.unit_bytes,
            columns: (1, 0),
            column: 0,
            successor,
            members: vec![lease.unit],
        };
        Some(header.encode())
    }

    /// A commit's write ended.
    pub(crate) fn commit_written(&mut self, number: u64, now: Nanos, result: Result<(), String>) {
        let Some(first) = self.log.flights.front().map(|f| f.header.place.number) else { return };
        let index = number.checked_sub(first).and_then(|i| usize::try_from(i).ok());
        let Some(flight) = index.and_then(|i| self.log.flights.get_mut(i)) else { return };
        flight.durable = now;
        flight.state = match result {
            Ok(()) => FlightState::Durable,
            Err(reason) => FlightState::Failed(reason),
        };
        self.apply_durable();
    }

    /// True when a failed write is among the commits under way: nothing new may be formed.
    pub(crate) fn log_failed(&self) -> bool {
        self.log.flights.iter().any(|f| matches!(f.state, FlightState::Failed(_)))
    }

    /// Key of the events of a commit's write.
    pub(crate) fn commit_key(&self, number: u64) -> u64 {
        self.tag.key | read::KIND_COMMIT | number & read::ID_MASK
    }
}
