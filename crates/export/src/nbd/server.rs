//! The NBD server of one core: what it owns, and the calls of the core's loop.

use super::{
    command::{Command, Next},
    connection::{Connection, Phase, Receiving},
    flow::MAX_HELD,
    hearing::Hearing,
    settle::{Envelope, Settlements},
};
use crate::{
    Exports,
    backend::{Failure, MAX_DATA_BYTES, Reply, Request},
    slab::{Key, Slab},
};
use dolmen_io::{Buf, Error, Event, Io, ListenerId, Owner, Reserve, SocketId, Tag, TimerId, trace::Traces};
use dolmen_types::{CoreId, Nanos, Nqn};
use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    ops::Range,
    path::PathBuf,
    sync::Arc,
};

/// Time between two looks at all deadlines. Milliseconds.
const TICK_MS: u64 = 500;
/// When a backend that was busy is asked again, and for how long. Milliseconds.
const AGAIN_MS: u64 = 10;
const AGAIN_FOR_MS: u64 = 30_000;

/// What a tag's key means; the upper 8 bits of the key.
const LISTENER: u64 = 1 << 56;
const RECEIVE: u64 = 2 << 56;
const SEND: u64 = 3 << 56;
const CLOSE: u64 = 4 << 56;
const TICK: u64 = 5 << 56;
const AGAIN: u64 = 6 << 56;
const KIND: u64 = 0xff << 56;
/// The upper 8 bits of the tokens of our requests, which tell them from other doors'.
const TOKEN: u64 = 0xbd << 56;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// At an address; port 0 picks a free one.
    Tcp(SocketAddr),
    /// At a socket in the file system, which only its owner may use.
    Unix(PathBuf),
}

/// What a server is told.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where to listen.
    pub listen: Vec<Listen>,
    /// Clients at once.
    pub connections: u32,
    /// Commands of one client that are not answered.
    pub commands: u32,
    /// How long a handshake may take. Milliseconds.
    pub handshake_ms: u64,
    /// How long a client may take to read one send, to go on with the data of a write, and to have its answers when it has ended
    /// its side. Milliseconds.
    pub send_ms: u64,
    /// The same for a send and for the data of a write, when others wait for the memory that is in them. Milliseconds.
    pub hung_ms: u64,
    /// Who clients are in traces.
    pub host: Option<Nqn>,
    /// The core that it runs on, of so many that may have a door to the same exports.
    pub core: CoreId,
    /// See `core`. Count.
    pub cores: u16,
}

impl ServerConfig {
    /// The usual bounds: 128 clients with 128 commands each.
    #[must_use]
    pub fn new(listen: Vec<Listen>) -> ServerConfig {
        ServerConfig {
            listen,
            connections: 128,
            commands: 128,
            handshake_ms: 10_000,
            send_ms: 60_000,
            hung_ms: 2000,
            host: None,
            core: CoreId(0),
            cores: 1,
        }
    }
}

/// What a server wants done; the loop empties it every turn, in this order.
#[derive(Debug, Default)]
pub struct Outputs {
    /// For backends.
    pub requests: Vec<Request>,
    /// Tokens of requests whose answers nobody waits for any more. A backend that can shall not begin them; it answers all the same.
    pub called_off: Vec<u64>,
    /// For the doors of other cores.
    pub messages: Vec<Envelope>,
}

/// Totals of one server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerStats {
    /// Connections that were accepted.
    pub accepted: u64,
    /// Connections that were turned away: too many.
    pub refused: u64,
    /// Connections now.
    pub connections: u32,
    /// Commands that were answered.
    pub commands: u64,
    /// Those with an error.
    pub errors: u64,
}

/// One request at the backend.
#[derive(Debug)]
pub(super) struct PieceSlot {
    pub(super) command: Key,
    pub(super) range: Range<u64>,
    /// A flush, which has no range.
    pub(super) flush: bool,
    /// The buffer that went with it. Bytes.
    pub(super) memory: usize,
    /// When it is given up, if the backend stays busy.
    pub(super) give_up: Nanos,
}

/// The NBD server of one core.
#[derive(Debug)]
pub struct Server {
    pub(super) config: ServerConfig,
    owner: Owner,
    pub(super) exports: Arc<Exports>,
    listeners: Vec<ListenerId>,
    /// Keys of listeners whose accept failed.
    deaf: Vec<u64>,
    tick: Option<TimerId>,
    pub(super) connections: Slab<Box<Connection>>,
    pub(super) commands: Slab<Command>,
    pub(super) pieces: Slab<PieceSlot>,
    pub(super) outputs: Outputs,
    pub(super) settlements: Settlements,
    /// Connections with something to send.
    pub(super) dirty: Vec<Key>,
    /// Those that found no buffer to send from.
    pub(super) unsaid: Vec<Key>,
    /// What is set aside for them.
    pub(super) reserve: Reserve,
    /// Connections that wait for memory, and whose turn it is to be tried again, until it has got a buffer.
    pub(super) stalled: VecDeque<Key>,
    pub(super) turn: Option<Key>,
    /// Pieces that found the backend busy, with their buffers.
    again: Vec<(Key, Option<Buf>)>,
    /// Buffers of pieces of all clients until their data is sent, and how much that may be. Bytes.
    pub(super) held: usize,
    pub(super) held_limit: usize,
    pub(super) hearing: Hearing,
    pub(super) draining: bool,
    pub(super) stats: ServerStats,
    pub(super) traces: Traces,
}

impl Server {
    /// A server that does nothing until [`Server::start`]. `owner` marks its operations' tags.
    #[must_use]
    pub fn new(config: ServerConfig, owner: Owner) -> Server {
        let commands = config.connections.saturating_mul(config.commands);
        Server {
            owner,
            exports: Arc::default(),
            listeners: Vec::new(),
            deaf: Vec::new(),
            tick: None,
            connections: Slab::new(config.connections),
            commands: Slab::new(commands),
            pieces: Slab::new(commands.saturating_mul(4)),
            outputs: Outputs::default(),
            settlements: Settlements::default(),
            dirty: Vec::new(),
            unsaid: Vec::new(),
            reserve: Reserve::default(),
            stalled: VecDeque::new(),
            turn: None,
            again: Vec::new(),
            held: 0,
            held_limit: 0,
            hearing: Hearing::default(),
            draining: false,
            stats: ServerStats::default(),
            traces: Traces::default(),
            config,
        }
    }

    // The calls of the core's loop.

    /// Listens everywhere and accepts; where it listens in fact.
    ///
    /// # Errors
    /// An address that can't be listened on; what was opened before it stays open.
    pub fn start(&mut self, io: &mut Io) -> Result<Vec<Listen>, Error> {
        // Other doors of the core have the same pool: half of a class of long buffers is theirs, whatever comes in by this one.
        self.held_limit = io.pool().region().1 / 8;
        self.hearing = Hearing::new(io.pool());
        self.reserve.top_up(io);
        let mut bound = Vec::new();
        for listen in self.config.listen.clone() {
            let (listener, at) = match listen {
                Listen::Tcp(addr) => {
                    let (listener, addr) = io.listen(addr)?;
                    (listener, Listen::Tcp(addr))
                }
                Listen::Unix(path) => (io.listen_unix(&path)?, Listen::Unix(path)),
            };
            let index = u64::try_from(self.listeners.len()).unwrap_or(u64::MAX);
            io.accept(self.tag(LISTENER | index), listener);
            self.listeners.push(listener);
            bound.push(at);
        }
        Ok(bound)
    }

    /// Takes a new list of exports. Clients of one that is gone, is elsewhere now, or doesn't admit them any more, are
    /// disconnected.
    pub fn set_exports(&mut self, io: &mut Io, exports: Arc<Exports>) {
        let stays = |connection: &Connection| match &connection.phase {
            Phase::Open(transmission) => {
                let old = &transmission.opened.export;
                exports.of(old.uuid).is_some_and(|new| {
                    let same = new.place == old.place && new.read_only == old.read_only;
                    same && new.size_bytes >= old.size_bytes && new.access.admits(connection.ip())
                })
            }
            Phase::Handshake(_) | Phase::Closing => true,
        };
        for key in self.connections.keys(|connection| !stays(connection)) {
            self.close(io, key);
        }
        self.exports = exports;
    }

    /// True for the token of a reply that is this server's.
    #[must_use]
    pub fn owns(token: u64) -> bool {
        token & KIND == TOKEN
    }

    /// Takes an event whose tag has this server's owner; `key` is the tag's.
    pub fn on_event(&mut self, io: &mut Io, key: u64, event: Event) {
        let at = Key::from_bits(key & !KIND);
        match (key & KIND, event) {
            (LISTENER, Event::Accepted { sock, peer, .. }) => self.accept(io, sock, peer),
            (RECEIVE, Event::Received(chunk)) => self.received(io, at, chunk),
            (RECEIVE, Event::ReceiveStopped) => self.receive_stopped(io, at),
            (RECEIVE, Event::EndOfStream) => self.end_of_stream(io, at),
            (RECEIVE | SEND, Event::Failed { .. }) => self.close(io, at),
            (SEND, Event::Sent(slices)) => {
                io.recycle(slices);
                self.sent(io, at);
            }
            (CLOSE, Event::Closed | Event::Failed { .. }) => self.closed(at),
            (LISTENER, Event::Failed { .. }) if !self.draining => {
                // Out of descriptors, most likely: try again at the next tick.
                self.deaf.push(key);
                self.arm_tick(io);
            }
            (TICK, Event::Timer) => self.on_tick(io),
            (AGAIN, Event::Timer) => self.ask_again(io),
            _ => {}
        }
    }

    /// Takes a backend's answer to a request of this server.
    pub fn on_reply(&mut self, io: &mut Io, reply: Reply) {
        let key = Key::from_bits(reply.token & !KIND);
        let Some(piece) = self.pieces.get(key) else { return };
        let Some(command) = self.commands.get_mut(piece.command) else { return };
        if reply.result == Err(Failure::Busy) && !command.orphan && piece.give_up > io.now() {
            if self.again.is_empty() {
                let at = io.now().plus_ms(AGAIN_MS);
                io.timer_at(self.tag(AGAIN), at);
            }
            self.again.push((key, reply.buf));
            return;
        }
        let Some(piece) = self.pieces.remove(key) else { return };
        self.trace(io, &piece, &reply);
        let Some(command) = self.commands.get_mut(piece.command) else { return };
        // It may be another buffer than the one that was given.
        let kept = command.piece_done(&piece.range, reply);
        let (connection, orphan, over) = (command.connection, command.orphan, command.under_way == 0);
        self.release(piece.command, piece.memory);
        self.hold(piece.command, kept);
        if orphan {
            if over {
                self.forget(piece.command);
            }
            return;
        }
        self.advance(io, piece.command);
        self.pump(io, connection);
    }

    /// Once a turn, after all events and replies: lets in who waited for those before, queues one send a connection, and tries again
    /// what waits for memory.
    pub fn step(&mut self, io: &mut Io) {
        self.tell_settled(io);
        self.reserve.top_up(io);
        // Before anybody else takes it: what is sent gives memory back.
        for key in std::mem::take(&mut self.unsaid) {
            self.flush(io, key);
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        for key in dirty.drain(..) {
            self.flush(io, key);
        }
        // What the flushes have freed may have brought more.
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
        self.retry_stalled(io);
        self.hear_next(io);
    }

    /// True when another turn could do more at once.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.dirty.is_empty() || self.hearing.has_room()
    }

    /// What is to be done.
    pub fn outputs(&mut self) -> &mut Outputs {
        &mut self.outputs
    }

    // Stopping.

    /// Stops accepting and taking commands; what is under way is answered, then connections close.
    pub fn drain(&mut self, io: &mut Io) {
        self.draining = true;
        for listener in self.listeners.drain(..) {
            io.close_listener(listener);
        }
        for key in self.connections.keys(|_| true) {
            self.leave(io, key);
        }
    }

    /// True when [`Server::drain`] has come to its end.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.draining && self.connections.is_empty()
    }

    /// Totals of this core.
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        ServerStats { connections: u32::try_from(self.connections.len()).unwrap_or(u32::MAX), ..self.stats }
    }

    // For the other files.

    fn tag(&self, key: u64) -> Tag {
        Tag { owner: self.owner, key }
    }

    pub(super) fn receive_tag(&self, key: Key) -> Tag {
        self.tag(RECEIVE | key.bits())
    }

    pub(super) fn send_tag(&self, key: Key) -> Tag {
        self.tag(SEND | key.bits())
    }

    pub(super) fn close_tag(&self, key: Key) -> Tag {
        self.tag(CLOSE | key.bits())
    }

    /// The token of a piece.
    pub(super) fn token(key: Key) -> u64 {
        TOKEN | key.bits()
    }

    /// When a piece that is sent now is given up, if the backend stays busy.
    pub(super) fn give_up(io: &Io) -> Nanos {
        io.now().plus_ms(AGAIN_FOR_MS)
    }

    fn accept(&mut self, io: &mut Io, sock: SocketId, mut peer: SocketAddr) {
        self.stats.accepted += 1;
        // A socket in the file system has no address: it is here.
        if peer.ip().is_unspecified() {
            peer.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        let connection = Box::new(Connection::new(sock, peer, io.now().plus_ms(self.config.handshake_ms)));
        match self.connections.insert(connection) {
            Ok(key) if !self.draining => {
                io.receive(self.receive_tag(key), sock);
                self.mark(key);
                self.arm_tick(io);
            }
            refused => {
                self.stats.refused += 1;
                io.close(self.close_tag(Key { index: u32::MAX, generation: 0 }), sock);
                if let Ok(key) = refused {
                    self.connections.remove(key);
                }
            }
        }
    }

    /// The socket is gone: so is the connection.
    fn closed(&mut self, key: Key) {
        if self.connections.get(key).is_some_and(|c| matches!(c.phase, Phase::Closing)) {
            self.end_send(key);
            self.connections.remove(key);
        }
    }

    fn received(&mut self, io: &mut Io, key: Key, chunk: Buf) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.leaving || matches!(connection.phase, Phase::Closing) || chunk.is_empty() {
            return;
        }
        connection.input.push_back(chunk);
        self.pump(io, key);
    }

    fn receive_stopped(&mut self, io: &mut Io, key: Key) {
        if let Some(connection) = self.connections.get_mut(key) {
            connection.receiving = Receiving::Off;
            self.pump(io, key);
        }
    }

    fn end_of_stream(&mut self, io: &mut Io, key: Key) {
        if let Some(connection) = self.connections.get_mut(key) {
            connection.receiving = Receiving::Ended;
            if matches!(connection.phase, Phase::Open(_)) {
                connection.deadline = io.now().plus_ms(self.config.send_ms);
            }
            // What came before the end is still looked at, as far as it makes whole requests.
            self.pump(io, key);
        }
    }

    fn arm_tick(&mut self, io: &mut Io) {
        if self.tick.is_none() && (!self.connections.is_empty() || !self.deaf.is_empty()) {
            let at = io.now().plus_ms(TICK_MS);
            self.tick = Some(io.timer_at(self.tag(TICK), at));
        }
    }

    fn on_tick(&mut self, io: &mut Io) {
        self.tick = None;
        for key in std::mem::take(&mut self.deaf) {
            let index = usize::try_from(key & !KIND).unwrap_or(usize::MAX);
            if let Some(&listener) = self.listeners.get(index) {
                io.accept(self.tag(key), listener);
            }
        }
        for connection in self.connections.values_mut() {
            connection.watch(io);
        }
        let (now, send_ms) = (io.now(), self.config.send_ms);
        let after = |since: Nanos| since.plus_ms(send_ms) <= now;
        let late = |c: &Connection| {
            // A handshake has to end, and the data of a write to come. Who has ended its side may keep nobody out for ever.
            let silent = match &c.phase {
                Phase::Handshake(_) => c.deadline <= now,
                Phase::Open(_) => {
                    c.has_ended() && c.deadline <= now || c.write().is_some_and(|w| after(w.since))
                }
                Phase::Closing => return false,
            };
            silent || c.sending.as_ref().is_some_and(|sending| after(sending.since))
        };
        let mut over = self.connections.keys(|c| late(c));
        over.extend(self.hung(io));
        for key in over {
            self.close(io, key);
        }
        self.arm_tick(io);
    }

    /// While memory is short and others wait for it: connections that give nothing back because their clients neither read nor send.
    fn hung(&self, io: &Io) -> Vec<Key> {
        if io.pool().lacking() == 0 && self.held <= self.held_limit / 2 {
            return Vec::new();
        }
        let (now, ms) = (io.now(), self.config.hung_ms);
        let is_hung = |c: &Connection| c.unmoved_since().is_some_and(|since| since.plus_ms(ms) < now);
        // Who has all that one client may have waits for itself.
        let wants = |c: &Connection| c.held + MAX_DATA_BYTES <= MAX_HELD;
        let unsaid = self.unsaid.iter().filter_map(|key| self.connections.get(*key));
        let stalled = self.stalled.iter().filter_map(|key| self.connections.get(*key)).filter(|c| wants(c));
        if unsaid.chain(stalled).all(|c| is_hung(c)) {
            return Vec::new();
        }
        self.connections.keys(|c| is_hung(c))
    }

    /// Asks busy backends again.
    fn ask_again(&mut self, io: &mut Io) {
        for (key, buf) in std::mem::take(&mut self.again) {
            let Some(piece) = self.pieces.get(key) else { continue };
            let Some(command) = self.commands.get(piece.command) else { continue };
            let next = if piece.flush { Next::Flush } else { Next::Range(piece.range.clone()) };
            let place = if command.orphan { None } else { self.place_of(command.connection) };
            let asked =
                place.and_then(|place| place.request((key, command.stamps), command.kind, &next, buf));
            match asked {
                Some(request) => self.outputs.requests.push(request),
                // Without its buffer it can't be asked; without its client it need not.
                None => {
                    self.on_reply(io, Reply::refused(key.bits(), Failure::Failed, None));
                }
            }
        }
    }
}
