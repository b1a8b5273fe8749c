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

/// Buffers of one client's pieces at most. Bytes.
pub(super) const MAX_HELD: u64 = 4 << 20;

const _: () = assert!(MAX_HELD >= (WINDOW * MAX_DATA_BYTES) as u64);

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
            self.stalled.push(key);
        }
    }

    /// A connection that waited for memory.
    pub(super) fn retry(&mut self, io: &mut Io, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.stalled = false;
        let hungry = connection.transmission().map(|t| std::mem::take(&mut t.hungry)).unwrap_or_default();
        for command in hungry {
            self.advance(io, command);
        }
        self.pump(io, key);
        self.mark(key);
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
                    let bytes = range.end - range.start;
                    let room = self.has_room(connection, bytes);
                    let length = usize::try_from(bytes).expect("a piece fits a buffer");
                    match io.pool().alloc_plentiful(length).filter(|_| room) {
                        Some(buf) => Some(buf),
                        None => {
                            self.announce(key);
                            return self.wait_for_memory(connection, key);
                        }
                    }
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
        if let Some(t) = self.connections.get_mut(connection).and_then(|c| c.transmission()) {
            t.hungry.push_back(key);
            self.stall(connection);
        }
    }

    /// True when a client may have so much more memory.
    fn has_room(&mut self, connection: Key, bytes: u64) -> bool {
        let held = self.connections.get_mut(connection).and_then(|c| c.transmission()).map_or(0, |t| t.held);
        held + bytes <= MAX_HELD && self.held + bytes <= self.held_limit
    }

    /// Some of a command's memory is free, or on its way to the client.
    pub(super) fn release(&mut self, key: Key, bytes: u64) {
        let Some(command) = self.commands.get_mut(key) else { return };
        command.held -= bytes;
        self.held -= bytes;
        let connection = command.connection;
        if let Some(t) = self.connections.get_mut(connection).and_then(|c| c.transmission()) {
            t.held -= bytes;
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

    /// Asks the backend; false when there is no room to remember it.
    pub(super) fn ask(&mut self, io: &Io, connection: Key, key: Key, next: &Next, buf: Option<Buf>) -> bool {
        let (Some(place), Some(command)) = (self.place_of(connection), self.commands.get_mut(key)) else {
            return false;
        };
        let (range, flush) = match next {
            Next::Range(range) => (range.clone(), false),
            Next::Flush | Next::Nothing => (0..0, true),
        };
        let slot = PieceSlot { command: key, range, flush, give_up: Server::give_up(io) };
        let Ok(piece) = self.pieces.insert(slot) else { return false };
        command.asked(next);
        let bytes = buf.as_ref().map_or(0, |buf| buf.len() as u64);
        command.held += bytes;
        self.held += bytes;
        if let Some(t) = self.connections.get_mut(connection).and_then(|c| c.transmission()) {
            t.held += bytes;
        }
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
        let write = connection.transmission().and_then(|t| t.write.take());
        if let Some(write) = write {
            // The rest of its data does not come.
            self.fail(io, write.command, Errno::Shutdown);
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
        let Some(connection) = self.connections.get_mut(key) else { return };
        if matches!(connection.phase, Phase::Closing) {
            return;
        }
        connection.phase = Phase::Closing;
        connection.input.clear();
        connection.said = Vec::new();
        io.close(tag, connection.sock);
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
