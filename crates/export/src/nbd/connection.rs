//! One client: where it stands, what it has sent that is not looked at yet, and what is under way for it.

use super::{
    handshake::{Handshake, Opened},
    request::Requests,
};
use crate::slab::Key;
use dolmen_io::{Buf, SocketId, trace::Unsent};
use dolmen_types::Nanos;
use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
};

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
    /// Buffers of their pieces. Bytes.
    pub(super) held: u64,
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
    /// What the handshake says that is not being sent yet.
    pub(super) said: Vec<u8>,
    /// Since when a send is under way.
    pub(super) sending: Option<Nanos>,
    /// When the handshake must be over, the data of a write go on, or a client that has ended its side have its answers.
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
            said,
            sending: None,
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

    /// The requests' part, once it is reached.
    pub(super) fn transmission(&mut self) -> Option<&mut Transmission> {
        match &mut self.phase {
            Phase::Open(transmission) => Some(transmission),
            _ => None,
        }
    }
}
