//! How commands become requests of a backend, within the memory that a client may have, and how a connection ends.

use super::{
    command::{Command, Kind, Next, WINDOW},
    connection::Phase,
    server::{PieceSlot, Server},
    wire::Errno,
};
use crate::{
    backend::{MAX_DATA_BYTES, Operation, Place, Request},
    slab::Key,
};
use dolmen_io::{Buf, Io, Stage, Stamps};

/// Buffers of one client's pieces at most, until their data is sent. Bytes.
pub(super) const MAX_HELD: usize = 8 << 20;

const _: () = assert!(MAX_HELD >= WINDOW * MAX_DATA_BYTES);

/// Where the requests of a connection go.
#[derive(Clone, Copy)]
pub(super) struct Where {
    place: Place,
    block_bytes: u32,
}

impl Where {
    /// The request for a piece; `None` when it needs a buffer and there is none.
    pub(super) fn request(
        self,
        piece: (Key, Stamps),
        kind: Kind,
        next: &Next,
        buf: Option<Buf>,
    ) -> Option<Request> {
        let Next::Range(range) = next else { return Some(self.wrap(piece, Operation::Flush)) };
        let (offset, length) = (range.start, range.end - range.start);
        let operation = match kind {
            Kind::Read => Operation::Read { offset, buf: buf? },
            Kind::Write { durable } => Operation::Write { offset, buf: buf?, durable },
            Kind::WriteZeroes { deallocate } => Operation::WriteZeroes { offset, length, deallocate },
            Kind::Trim => Operation::Trim { offset, length },
            Kind::Map { .. } => Operation::Map { offset, length },
            Kind::Flush => Operation::Flush,
        };
        Some(self.wrap(piece, operation))
    }

    fn wrap(self, (piece, stamps): (Key, Stamps), operation: Operation) -> Request {
        let Where { place, block_bytes } = self;
        Request { token: Server::token(piece), place, block_bytes, stamps, operation }
    }
}

impl Server {
    /// Where the requests of a connection go, if it has come so far.
    pub(super) fn place_of(&self, key: Key) -> Option<Where> {
        match &self.connections.get(key)?.phase {
            Phase::Open(t) => {
                Some(Where { place: t.opened.export.place, block_bytes: t.opened.export.block_bytes })
            }
            Phase::Handshake(_) | Phase::Closing => None,
        }
    }

    /// The connection has something to send.
    pub(super) fn mark(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(key)
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push(key);
        }
    }

    pub(super) fn stall(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(key)
            && !connection.stalled
        {
            connection.stalled = true;
            self.stalled.push_back(key);
        }
    }

    /// Tries those again that wait for memory, in turns, one buffer each, until nobody gets any. Who was served last is the last one
    /// then.
    pub(super) fn retry_stalled(&mut self, io: &mut Io) {
        let mut in_vain = 0;
        while in_vain < self.stalled.len() {
            let Some(key) = self.stalled.pop_front() else { break };
            self.turn = Some(key);
            self.retry(io, key);
            let served = self.turn.take().is_none();
            let waits = self.connections.get(key).is_some_and(|c| c.stalled);
            in_vain = if served { 0 } else { in_vain + usize::from(waits) };
        }
    }

    fn retry(&mut self, io: &mut Io, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.stalled = false;
        let hungry = connection.transmission().map(|t| std::mem::take(&mut t.hungry)).unwrap_or_default();
        for key in hungry {
            if let Some(command) = self.commands.get_mut(key) {
                command.hungry = false;
            }
            self.advance(io, key);
        }
        self.pump(io, key);
    }

    /// A command that ends early.
    pub(super) fn fail(&mut self, io: &mut Io, key: Key, errno: Errno) {
        if let Some(command) = self.commands.get_mut(key) {
            command.cut_short(errno);
        }
        self.advance(io, key);
    }

    /// Asks the backend for as much of a command as may be under way, and queues what it has to say.
    pub(super) fn advance(&mut self, io: &mut Io, key: Key) {
        while let Some(command) = self.commands.get(key) {
            let (connection, kind, next) = (command.connection, command.kind, command.next());
            let buf = match (&next, kind) {
                (Next::Nothing, _) => break,
                // Its data comes from the client.
                (Next::Range(_), Kind::Write { .. }) => break,
                (Next::Range(range), Kind::Read) => {
                    let length = usize::try_from(range.end - range.start).expect("a piece fits a buffer");
                    let Some(buf) = self.take_buf(io, key, length) else {
                        self.announce(key);
                        return self.wait_for_memory(connection, key);
                    };
                    Some(buf)
                }
                _ => None,
            };
            if !self.ask(io, connection, key, &next, buf) {
                return self.wait_for_memory(connection, key);
            }
        }
        self.announce(key);
    }

    fn wait_for_memory(&mut self, connection: Key, key: Key) {
        let transmission = self.connections.get_mut(connection).and_then(|c| c.transmission());
        if let (Some(t), Some(command)) = (transmission, self.commands.get_mut(key)) {
            if !command.hungry {
                command.hungry = true;
                t.hungry.push_back(key);
            }
            self.stall(connection);
        }
    }

    /// A buffer for data of a command, if its client may have one now: it leaves the others as much as it has already, of what the door
    /// may have and of what hosts may. One that comes while others wait goes behind them.
    pub(super) fn take_buf(&mut self, io: &Io, key: Key, length: usize) -> Option<Buf> {
        let client = self.commands.get(key)?.connection;
        if !self.stalled.is_empty() && self.turn != Some(client) {
            return None;
        }
        let has = self.connections.get(client)?.held;
        let buf = io.pool().alloc_share(length, has)?;
        let bytes = buf.capacity();
        // Somebody must be able to go on, however small the pool is.
        let fits = self.held + has + bytes <= self.held_limit || self.held == 0;
        if !fits || has + bytes > MAX_HELD {
            return None;
        }
        self.turn = None;
        self.hold(key, bytes);
        Some(buf)
    }

    /// A command has so much more memory.
    pub(super) fn hold(&mut self, key: Key, bytes: usize) {
        let Some(command) = self.commands.get_mut(key) else { return };
        command.held += bytes;
        self.held += bytes;
        if let Some(connection) = self.connections.get_mut(command.connection) {
            connection.held += bytes;
        }
    }

    /// Some of a command's memory is free.
    pub(super) fn release(&mut self, key: Key, bytes: usize) {
        let Some(command) = self.commands.get_mut(key) else { return };
        command.held -= bytes;
        let client = command.connection;
        self.uncount(client, bytes);
    }

    /// So much of what a client had is free.
    pub(super) fn uncount(&mut self, client: Key, bytes: usize) {
        self.held -= bytes;
        if let Some(connection) = self.connections.get_mut(client) {
            connection.held -= bytes;
        }
    }

    /// A command that is over, one way or the other.
    pub(super) fn forget(&mut self, key: Key) -> Option<Command> {
        let held = self.commands.get(key)?.held;
        self.release(key, held);
        let command = self.commands.remove(key)?;
        if command.orphan && command.kind.changes() {
            self.settlements.orphan_over(command.export);
        }
        Some(command)
    }

    /// Asks the backend; false when there is no room to remember it. The buffer counts as the command's already.
    pub(super) fn ask(&mut self, io: &Io, connection: Key, key: Key, next: &Next, buf: Option<Buf>) -> bool {
        let (range, flush) = match next {
            Next::Range(range) => (range.clone(), false),
            Next::Flush | Next::Nothing => (0..0, true),
        };
        let memory = buf.as_ref().map_or(0, Buf::capacity);
        let slot = PieceSlot { command: key, range, flush, memory, give_up: Server::give_up(io) };
        let place = self.place_of(connection).filter(|_| self.commands.get(key).is_some());
        let piece = place.and_then(|_| self.pieces.insert(slot).ok());
        let (Some(place), Some(piece), Some(command)) = (place, piece, self.commands.get_mut(key)) else {
            self.release(key, memory);
            return false;
        };
        command.asked(next);
        let mut stamps = command.stamps;
        if matches!(command.kind, Kind::Write { .. }) && !flush {
            stamps.mark(Stage::DataIn, io.now());
        }
        let request = place.request((piece, stamps), command.kind, next, buf);
        self.outputs.requests.push(request.expect("who asks brings the buffer"));
        true
    }

    /// Queues a command that has something to say.
    fn announce(&mut self, key: Key) {
        let Some(command) = self.commands.get_mut(key) else { return };
        if command.queued || command.orphan || !command.has_news() {
            return;
        }
        let connection = command.connection;
        command.queued = true;
        if let Some(t) = self.connections.get_mut(connection).and_then(|c| c.transmission()) {
            t.ready.push_back(key);
            self.mark(connection);
        }
    }

    /// The client takes its leave, or is asked to: what is under way is answered, then the connection ends.
    pub(super) fn leave(&mut self, io: &mut Io, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.leaving = true;
        if matches!(connection.phase, Phase::Open(_)) {
            connection.deadline = io.now().plus_ms(self.config.send_ms);
        }
        connection.input.clear();
        connection.consumed = 0;
        self.unhear(key);
        if let Some(write) = self.drop_write(key) {
            // The rest of its data does not come.
            self.fail(io, write, Errno::Shutdown);
        }
        self.end_if_done(io, key);
    }

    pub(super) fn end_if_done(&mut self, io: &mut Io, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let idle = connection.sending.is_none() && connection.said.is_empty();
        let none = connection.transmission().is_none_or(|t| t.commands == 0);
        if connection.leaving && idle && none && !matches!(connection.phase, Phase::Closing) {
            self.close(io, key);
        }
    }

    /// Ends a connection at once, and calls off its commands.
    pub(super) fn close(&mut self, io: &mut Io, key: Key) {
        let tag = self.close_tag(key);
        self.drop_write(key);
        let Some(connection) = self.connections.get_mut(key) else { return };
        if matches!(connection.phase, Phase::Closing) {
            return;
        }
        connection.phase = Phase::Closing;
        connection.input.clear();
        connection.said = Vec::new();
        io.close(tag, connection.sock);
        self.unhear(key);
        for at in self.commands.keys(|command| command.connection == key) {
            let Some(command) = self.commands.get_mut(at) else { continue };
            if command.under_way == 0 {
                self.forget(at);
                continue;
            }
            command.orphan = true;
            if command.kind.changes() {
                self.settlements.orphaned(command.export);
            }
        }
        let mine = |piece: &PieceSlot| self.commands.get(piece.command).is_some_and(|c| c.connection == key);
        let tokens = self.pieces.keys(mine).into_iter().map(Server::token);
        self.outputs.called_off.extend(tokens);
    }
}
