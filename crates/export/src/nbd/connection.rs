//! One client: where it stands, what it has sent that is not looked at yet, and what is under way for it.

use super::{
    handshake::{Handshake, Opened},
    outbox::Sending,
    request::Requests,
};
use crate::slab::Key;
use dolmen_io::{Buf, Io, SocketId, trace::Unsent};
use dolmen_types::Nanos;
use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
};

/// A send that takes longer is asked how far it is. Milliseconds.
const LONG_SEND_MS: u64 = 400;

/// What has to move of a send, or of a piece of a write, for it to count as going on. Bytes.
const LEAST_MOVED_BYTES: usize = 64 * 1024;

/// How far a client has come.
#[derive(Debug)]
pub(super) enum Phase {
    /// It chooses an export.
    Handshake(Box<Handshake>),
    /// It sends requests.
    Open(Box<Transmission>),
    /// Its socket is being closed.
    Closing,
}

/// The second part of a connection.
#[derive(Debug)]
pub(super) struct Transmission {
    pub(super) opened: Opened,
    pub(super) requests: Requests,
    /// The write whose data is being received; `None` while none is, or the data is of no use.
    pub(super) write: Option<Incoming>,
    /// Doors that are not done with those who were here before; until then no request is looked at.
    pub(super) settling: u16,
    /// Commands that are not answered yet.
    pub(super) commands: u32,
    /// Those that have something to say, in the order in which they came to it.
    pub(super) ready: VecDeque<Key>,
    /// Reads and ranges that could ask for more but found no memory.
    pub(super) hungry: VecDeque<Key>,
}

/// A write whose data is being received.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) command: Key,
    /// The piece being filled, and how far.
    pub(super) buf: Option<Buf>,
    pub(super) filled: usize,
    /// Since when it does not go on, though nothing here holds it up. A client that sends next to nothing counts as one that sends
    /// nothing.
    pub(super) since: Nanos,
}

impl Incoming {
    /// A write that waits for the first piece's data.
    pub(super) fn new(command: Key, now: Nanos) -> Incoming {
        Incoming { command, buf: None, filled: 0, since: now }
    }

    /// So many more bytes of the piece are here.
    pub(super) fn fill(&mut self, bytes: usize, now: Nanos) {
        let before = self.filled;
        self.filled += bytes;
        if self.filled / LEAST_MOVED_BYTES > before / LEAST_MOVED_BYTES {
            self.since = now;
        }
    }

    /// The piece, which is whole.
    pub(super) fn take(&mut self, now: Nanos) -> Option<Buf> {
        (self.filled, self.since) = (0, now);
        self.buf.take()
    }
}

/// Whether bytes are being received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    On,
    /// Told to stop.
    Stopping,
    Off,
    /// The client has ended its side.
    Ended,
}

/// One client.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sock: SocketId,
    /// Where it is; this machine, of one at a socket in the file system.
    pub(super) peer: SocketAddr,
    pub(super) phase: Phase,
    pub(super) receiving: Receiving,
    /// Chunks that are not looked at to their end, and how far the first one is.
    pub(super) input: VecDeque<Buf>,
    pub(super) consumed: usize,
    /// How many of them count as the door's.
    pub(super) unread: usize,
    /// It is not heard, or will not be, since others have sent what can't be looked at yet; it waits for its turn.
    pub(super) hushed: bool,
    /// What the handshake says that is not being sent yet.
    pub(super) said: Vec<u8>,
    /// The send under way.
    pub(super) sending: Option<Sending>,
    /// Bytes that the client had taken at the last look at a long send.
    taken: u64,
    /// Buffers of its commands, and of them those in the send under way. Bytes.
    pub(super) held: usize,
    /// When the handshake must be over, or a client that has ended its side have its answers.
    pub(super) deadline: Nanos,
    /// It takes no more requests, and ends when those under way are answered.
    pub(super) leaving: bool,
    /// It waits in the server's list of those that have something to send.
    pub(super) dirty: bool,
    /// It waits in the server's list of those that could go on with memory.
    pub(super) stalled: bool,
    /// Traces of answers that are not sent yet.
    pub(super) unsent: Unsent,
    pub(super) traffic: Traffic,
}

/// Totals of one client.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    pub(super) commands: u64,
    pub(super) read_bytes: u64,
    pub(super) written_bytes: u64,
}

impl Connection {
    pub(super) fn new(sock: SocketId, peer: SocketAddr, deadline: Nanos) -> Connection {
        let mut said = Vec::new();
        let phase = Phase::Handshake(Box::new(Handshake::new(&mut said)));
        Connection {
            sock,
            peer,
            phase,
            receiving: Receiving::On,
            input: VecDeque::new(),
            consumed: 0,
            unread: 0,
            hushed: false,
            said,
            sending: None,
            taken: 0,
            held: 0,
            deadline,
            leaving: false,
            dirty: false,
            stalled: false,
            unsent: Unsent::default(),
            traffic: Traffic::default(),
        }
    }

    /// The address that access lists are about.
    pub(super) fn ip(&self) -> IpAddr {
        self.peer.ip()
    }

    /// True while a buffer waits for what it sends.
    pub(super) fn fills(&self) -> bool {
        self.write().is_some_and(|write| write.buf.is_some())
    }

    /// The first chunk's bytes that are not looked at.
    pub(super) fn unread(&self) -> &[u8] {
        self.input.front().map_or(&[], |chunk| &chunk[self.consumed..])
    }

    /// So many of them have been looked at.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.consumed += bytes;
        if self.input.front().is_some_and(|chunk| self.consumed >= chunk.len()) {
            self.input.pop_front();
            self.consumed = 0;
        }
    }

    /// Nothing more comes from it.
    pub(super) fn has_ended(&self) -> bool {
        self.leaving || self.receiving == Receiving::Ended
    }

    /// True when there is something to say.
    pub(super) fn has_news(&self) -> bool {
        let ready = matches!(&self.phase, Phase::Open(t) if !t.ready.is_empty());
        !self.said.is_empty() || ready
    }

    /// Once a tick: sees whether what is under way goes on.
    pub(super) fn watch(&mut self, io: &Io) {
        let now = io.now();
        // What we hold up ourselves begins when we go on.
        let held_up = !self.input.is_empty() || self.hushed;
        if let Some(write) = self.transmission().and_then(|t| t.write.as_mut()).filter(|_| held_up) {
            write.since = now;
        }
        if let Some(sending) = self.sending.as_mut().filter(|s| s.since.plus_ms(LONG_SEND_MS) < now)
            && let Some(taken) = io.bytes_taken(self.sock)
            && taken.saturating_sub(self.taken) >= LEAST_MOVED_BYTES as u64
        {
            (sending.since, self.taken) = (now, taken);
        }
    }

    /// The write whose data is being received.
    pub(super) fn write(&self) -> Option<&Incoming> {
        match &self.phase {
            Phase::Open(transmission) => transmission.write.as_ref(),
            Phase::Handshake(_) | Phase::Closing => None,
        }
    }

    /// Since when its client has not read what it is sent, or not gone on with the data that a buffer waits for; `None` if memory
    /// waits for nothing of it.
    pub(super) fn unmoved_since(&self) -> Option<Nanos> {
        let write = self.write().filter(|write| write.buf.is_some()).map(|write| write.since);
        self.sending.as_ref().map(|sending| sending.since).into_iter().chain(write).min()
    }

    /// The requests' part, once it is reached.
    pub(super) fn transmission(&mut self) -> Option<&mut Transmission> {
        match &mut self.phase {
            Phase::Open(transmission) => Some(transmission),
            _ => None,
        }
    }
}
