//! One accepted connection: the transport's state machine, what it is used for, and what waits on it.

use crate::{
    arrivals::Lending, config::Bounds, events::MAX_REQUESTS, outbox::Outbox, settle::Settling, slab::Key,
    stats::Counters, view::ViewId,
};
use dolmen_io::{Buf, Io, SocketId, Stamps, trace::Unsent};
use dolmen_nvme::{
    spec::{Cqe, Sqe, Status},
    tcp,
};
use dolmen_types::{Nanos, Nqn};
use std::{collections::VecDeque, net::SocketAddr};

/// Replies that may wait on a connection whose host does not read, before no more data is fetched for it. Bytes.
const MAX_STAGED_BYTES: usize = 1 << 20;

/// A send that takes longer is asked how far it is. Milliseconds.
const LONG_SEND_MS: u64 = 400;

/// What a host has to take for its send to count as going on. Bytes.
const LEAST_TAKEN_BYTES: u64 = 64 * 1024;

/// R2Ts open on one connection; further writes wait for their turn.
pub(crate) const MAX_OPEN_R2TS: u16 = 64;

/// Received chunks that may wait unparsed before receiving is stopped.
pub(crate) const MAX_BACKLOG: usize = 2;

/// What a connection is used for.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Waits for ICReq.
    Fresh,
    /// Waits for Connect.
    Open,
    /// An I/O queue that waits for its controller's answer.
    Joining(Box<Joining>),
    /// An admin queue that waits until all cores are done with its host.
    Settling(Box<Settling>),
    /// The admin queue of a controller of this core.
    Admin {
        /// Its id.
        controller: u16,
    },
    /// An I/O queue of a controller of any core.
    Io {
        /// Its id.
        controller: u16,
        /// The queue's id.
        qid: u16,
    },
    /// Says its last words; ends when they are sent.
    Ending,
    /// We have ended our side of its stream, and wait for the host to end its own.
    Parting,
    /// Its socket is being closed.
    Closing,
}

/// A Connect that waits for the controller's answer.
#[derive(Debug)]
pub(crate) struct Joining {
    pub(crate) cid: u16,
    pub(crate) controller: u16,
    pub(crate) qid: u16,
}

/// Where the driver's receive stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receiving {
    /// Under way.
    On,
    /// Asked to stop.
    Stopping,
    /// Stopped.
    Off,
}

/// Where the in-capsule data that comes next belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Capsule {
    /// Nowhere: the command was refused, or takes no such data.
    Discard,
    /// Into the request's buffer, which starts at `offset` of the capsule's data.
    Request {
        /// The request.
        request: Key,
        /// First byte of the capsule's data that counts.
        offset: u32,
    },
}

/// The first half of a fused pair that waits for its second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstHalf {
    /// It is a request whose data may still be coming.
    Request(Key),
    /// It was refused; the second half is aborted.
    Refused,
}

/// A command that could not be started: its in-capsule data has nowhere to go, or the queue is full.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeldCommand {
    pub(crate) sqe: Sqe,
    pub(crate) capsule_data: u32,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) sock: SocketId,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) protocol: tcp::Controller,
    pub(crate) phase: Phase,
    pub(crate) since: Nanos,
    /// When the last PDU was complete; while none is under way, when that was last looked at.
    pub(crate) progress: Nanos,
    pub(crate) view: Option<ViewId>,
    pub(crate) host_nqn: Option<Nqn>,
    pub(crate) host_id: [u8; 16],
    /// SQ flow control: completions carry the queue's head. Without it successful reads need no completion (TCP 3.3.3).
    pub(crate) flow_control: bool,
    /// Entries of the submission queue.
    pub(crate) sq_entries: u16,
    sq_head: u16,
    /// Request slots that are set aside for it.
    pub(crate) granted: u32,
    /// Commands that have a request slot.
    pub(crate) outstanding: u32,
    /// Payload buffers of those, until their replies have them. Bytes.
    pub(crate) held_bytes: usize,
    /// The part of them that R2Ts have asked for.
    pub(crate) solicited_bytes: usize,
    pub(crate) capsule: Capsule,
    pub(crate) first_half: Option<FirstHalf>,
    /// Requests that wait for an R2T.
    pub(crate) unsolicited: VecDeque<Key>,
    /// Reads that wait for memory.
    pub(crate) parked: VecDeque<Key>,
    pub(crate) held: Option<HeldCommand>,
    /// Responses that found no memory to be staged in. While there are any no command is started: so there are never more of them than
    /// there were commands under way, and one.
    pub(crate) late: u32,
    /// Chunks that wait to be parsed, and how far the first one is.
    pub(crate) backlog: VecDeque<Buf>,
    pub(crate) parsed: usize,
    pub(crate) receiving: Receiving,
    pub(crate) lending: Lending,
    pub(crate) outbox: Outbox,
    /// Since when its send under way has not gone on, as far as that was looked at.
    pub(crate) sending: Option<Nanos>,
    /// Bytes that the host had taken then, at the last look.
    taken: u64,
    pub(crate) unsent: Unsent,
    /// It is in the target's list of connections with something to send.
    pub(crate) dirty: bool,
    /// It is in the target's list of connections that wait for memory.
    pub(crate) stalled: bool,
    /// It waits until it holds less itself.
    pub(crate) sated: bool,
    pub(crate) counters: Counters,
}

impl Connection {
    /// A connection just accepted.
    pub(crate) fn new(sock: SocketId, peer: SocketAddr, local: SocketAddr, now: Nanos) -> Connection {
        let options =
            tcp::ControllerOptions { digests: tcp::Digests::BOTH, alignment: 0, max_h2c_data: 128 * 1024 };
        Connection {
            sock,
            peer,
            local,
            protocol: tcp::Controller::new(options),
            phase: Phase::Fresh,
            since: now,
            progress: now,
            view: None,
            host_nqn: None,
            host_id: [0; 16],
            flow_control: true,
            sq_entries: 1,
            sq_head: 0,
            granted: 0,
            outstanding: 0,
            held_bytes: 0,
            solicited_bytes: 0,
            capsule: Capsule::Discard,
            first_half: None,
            unsolicited: VecDeque::new(),
            parked: VecDeque::new(),
            held: None,
            late: 0,
            backlog: VecDeque::new(),
            parsed: 0,
            receiving: Receiving::Off,
            lending: Lending::No,
            outbox: Outbox::default(),
            sending: None,
            taken: 0,
            unsent: Unsent::default(),
            dirty: false,
            stalled: false,
            sated: false,
            counters: Counters::default(),
        }
    }

    /// Memory that it holds. Bytes.
    pub(crate) fn holds(&self) -> usize {
        self.held_bytes + self.outbox.memory()
    }

    /// True when no further data may be fetched now, for the host or from it: what is there already is not read, or takes all
    /// the memory that is this connection's share.
    pub(crate) fn is_congested(&self, bounds: &Bounds) -> bool {
        self.is_unread() || self.holds() >= bounds.connection_bytes
    }

    /// True when the host does not read what it is sent: then it need not be heard either.
    pub(crate) fn is_unread(&self) -> bool {
        self.outbox.held() >= MAX_STAGED_BYTES
    }

    /// True when the host has as many commands under way as its queue has entries; one more is against the rules.
    pub(crate) fn is_full(&self) -> bool {
        self.outstanding >= u32::from(self.sq_entries)
    }

    /// Responses that may wait for memory at most: as many as commands may be under way, and one; on admin queues those of events too.
    pub(crate) fn most_late(&self) -> u32 {
        u32::from(self.sq_entries) + u32::try_from(MAX_REQUESTS).unwrap_or(u32::MAX) + 1
    }

    /// Once a tick: sees whether a send that has been under way for a while goes on, however long it is. A host that reads next to nothing
    /// counts as one that does not read.
    pub(crate) fn watch_send(&mut self, io: &Io) {
        let now = io.now();
        if self.sending.is_none_or(|since| now <= since.plus_ms(LONG_SEND_MS)) {
            return;
        }
        if let Some(taken) = io.bytes_taken(self.sock)
            && taken.saturating_sub(self.taken) >= LEAST_TAKEN_BYTES
        {
            (self.sending, self.taken) = (Some(now), taken);
        }
    }

    /// Keeps received bytes for later. While parsing is held up, small pieces share a buffer: memory that waits is
    /// proportional to what was sent, not to how it was cut.
    pub(crate) fn keep(&mut self, chunk: Buf) {
        if let Some(last) = self.backlog.back_mut() {
            let (old, new) = (last.len(), last.len() + chunk.len());
            if new <= last.capacity() {
                last.set_len(new);
                last[old..].copy_from_slice(&chunk);
                return;
            }
        }
        self.backlog.push_back(chunk);
    }

    /// True while not all that came is parsed: then nobody waits for the host.
    pub(crate) fn is_held_up(&self) -> bool {
        self.held.is_some() || !self.backlog.is_empty()
    }

    /// True when parsing must not go on.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Ending | Phase::Parting | Phase::Closing)
    }

    /// Counts a command off the submission queue.
    pub(crate) fn advance_head(&mut self) {
        self.sq_head = (self.sq_head + 1) % self.sq_entries.max(1);
    }

    /// A completion with the queue's head.
    pub(crate) fn completion(&self, cid: u16, status: Status) -> Cqe {
        Cqe::new(cid, status).with_sq_head(if self.flow_control { self.sq_head } else { 0 })
    }

    /// Sets what Connect asked for. Connect itself took the queue's first entry.
    pub(crate) fn start_queue(&mut self, entries: u16, flow_control: bool) {
        self.sq_entries = entries;
        self.sq_head = 1 % entries.max(1);
        self.flow_control = flow_control;
    }

    /// The completion of a Connect that made a queue; SQHD FFFFh agrees to do without flow control (Base 6.3).
    pub(crate) fn connected(&self, cid: u16, dw0: u32) -> Cqe {
        let head = if self.flow_control { self.sq_head } else { u16::MAX };
        Cqe::new(cid, Status::SUCCESS).with_dw0(dw0).with_sq_head(head)
    }

    /// The controller and queue that it serves.
    pub(crate) fn queue(&self) -> Option<(u16, u16)> {
        match self.phase {
            Phase::Admin { controller } => Some((controller, 0)),
            Phase::Io { controller, qid } => Some((controller, qid)),
            _ => None,
        }
    }
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its in-capsule data is coming.
    Capsule,
    /// A read that waits for memory.
    Parked,
    /// It waits for an R2T.
    Unsolicited,
    /// The data that its R2T asked for is coming.
    Solicited,
    /// The first half of a fused pair; its data is here.
    Half,
    /// A volume has it.
    Volume,
}

/// A command under way.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) connection: Key,
    pub(crate) sqe: Sqe,
    pub(crate) stage: Stage,
    /// Data from the host on its way in, or room for a report. `None` while a landing has it (`arrivals.rs`).
    pub(crate) buf: Option<Buf>,
    /// Length of its data. Bytes.
    pub(crate) length: u32,
    /// Bytes of buffers that count as its connection's share.
    pub(crate) held: usize,
    /// When its R2T was sent; of a half of a fused pair, when its data was here.
    pub(crate) since: Nanos,
    pub(crate) stamps: Stamps,
    /// It failed while its data was still coming: the answer when all of that is here.
    pub(crate) verdict: Option<Status>,
    /// The other half of a fused pair.
    pub(crate) partner: Option<Key>,
    /// True on an admin queue, or before there is one.
    pub(crate) admin: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Thousands of connections and queues hundreds deep: what one of each costs is a promise.
    #[test]
    fn connections_and_requests_are_small() {
        assert!(size_of::<Connection>() <= 1280, "{}", size_of::<Connection>());
        assert!(size_of::<Request>() <= 256, "{}", size_of::<Request>());
    }
}
