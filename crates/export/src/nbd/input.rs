//! What a client has sent, cut into options, requests and data.

use super::{
    command::{Command, Kind, Next},
    connection::{Connection, Incoming, Phase, Receiving, Transmission},
    handshake::Progress,
    request::{NbdRequest, Piece, Requests},
    server::Server,
    wire::{Errno, command},
};
use crate::slab::Key;
use dolmen_io::{Buf, Io, Stamps};
use dolmen_types::Nanos;
use std::{collections::VecDeque, sync::Arc};

impl Server {
    /// Looks at what a client has sent, as far as there is room for what it asks.
    pub(super) fn pump(&mut self, io: &mut Io, key: Key) {
        loop {
            let Some(connection) = self.connections.get_mut(key) else { return };
            let more = match &connection.phase {
                Phase::Handshake(_) => self.shake(io, key),
                Phase::Open(_) if connection.leaving => {
                    connection.input.clear();
                    false
                }
                Phase::Open(_) => self.take_piece(io, key),
                Phase::Closing => return,
            };
            if !more {
                break;
            }
        }
        self.regulate(io, key);
        let Some(connection) = self.connections.get(key) else { return };
        let silent = connection.receiving == Receiving::Ended && connection.input.is_empty();
        if silent && !connection.leaving {
            self.leave(io, key);
        } else {
            self.end_if_done(io, key);
        }
    }

    /// Some of the handshake; true when there is more to look at.
    fn shake(&mut self, io: &mut Io, key: Key) -> bool {
        let exports = Arc::clone(&self.exports);
        let Some(connection) = self.connections.get_mut(key) else { return false };
        let Connection { phase: Phase::Handshake(handshake), said, input, consumed, peer, leaving, .. } =
            &mut **connection
        else {
            return false;
        };
        // What is said is bounded by saying it before hearing more.
        let unread = input.front().map_or(&[][..], |chunk| &chunk[*consumed..]);
        if !said.is_empty() || (unread.is_empty() && !handshake.has_more()) || *leaving {
            return false;
        }
        let (taken, progress) = handshake.receive(unread, &exports, peer.ip(), said);
        connection.consume(taken);
        match progress {
            Progress::Going => {}
            Progress::Open(opened) => {
                let settling = self.ask_all(key, opened.export.uuid);
                let Some(connection) = self.connections.get_mut(key) else { return false };
                connection.phase = Phase::Open(Box::new(Transmission {
                    opened,
                    requests: Requests::default(),
                    write: None,
                    settling,
                    commands: 0,
                    ready: VecDeque::new(),
                    hungry: VecDeque::new(),
                }));
            }
            Progress::Close => self.leave(io, key),
        }
        self.mark(key);
        true
    }

    /// The next request or some data of a write; true when there is more to look at.
    fn take_piece(&mut self, io: &mut Io, key: Key) -> bool {
        let most = self.config.commands;
        let Some(connection) = self.connections.get_mut(key) else { return false };
        if connection.unread().is_empty() {
            return false;
        }
        let Some(transmission) = connection.transmission() else { return false };
        if transmission.requests.data_left() > 0 {
            return self.take_data(io, key);
        }
        if transmission.commands >= most || transmission.settling > 0 || self.draining {
            return false;
        }
        // Those of clients that are gone count until they are answered.
        if self.commands.is_full() {
            self.stall(key);
            return false;
        }
        let Some(connection) = self.connections.get_mut(key) else { return false };
        let Connection { phase: Phase::Open(transmission), input, consumed, .. } = &mut **connection else {
            return false;
        };
        let unread = input.front().map_or(&[][..], |chunk| &chunk[*consumed..]);
        let (taken, piece) = transmission.requests.next(unread, 0);
        match piece {
            Piece::Request(request) => {
                connection.consume(taken);
                self.begin(io, key, &request);
                true
            }
            Piece::Broken => {
                self.close(io, key);
                false
            }
            Piece::Nothing | Piece::Data(_) => {
                connection.consume(taken);
                true
            }
        }
    }

    /// A new request.
    fn begin(&mut self, io: &mut Io, key: Key, request: &NbdRequest) {
        if request.command == command::DISCONNECT {
            return self.leave(io, key);
        }
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Some(transmission) = connection.transmission() else { return };
        let opened = &transmission.opened;
        let allocation = opened.allocation;
        let made = match request.command {
            // Who has not agreed on it can't ask.
            command::BLOCK_STATUS if !allocation => Err(Errno::Invalid),
            command::CACHE => Command::advice(key, request, &opened.export),
            _ => Command::new(key, request, &opened.export, opened.structured),
        };
        let mut made = made.unwrap_or_else(|errno| Command::refused(key, request, opened.structured, errno));
        made.stamps = Stamps::received(io.now(), io.lag_ns());
        let receives = matches!(made.kind, Kind::Write { .. }) && made.error.is_none() && request.length > 0;
        transmission.commands += 1;
        let Ok(command) = self.commands.insert(made) else {
            // There was room before the request was looked at: can't be.
            return self.close(io, key);
        };
        if receives {
            transmission.write = Some(Incoming::new(command, io.now()));
        }
        self.advance(io, command);
    }

    /// Some data of a write; true when there is more to look at.
    fn take_data(&mut self, io: &mut Io, key: Key) -> bool {
        let Some((write, wants_buffer)) = self
            .connections
            .get(key)
            .and_then(|c| c.write())
            .map(|write| (write.command, write.buf.is_none()))
        else {
            return self.pass_data(key);
        };
        let Some(command) = self.commands.get(write) else { return false };
        let range = match command.next() {
            Next::Range(range) => range,
            _ if command.error.is_some() => {
                self.drop_write(key);
                return true;
            }
            _ => return false,
        };
        let length = usize::try_from(range.end - range.start).expect("a piece fits a buffer");
        let new = if wants_buffer { self.take_buf(io, write, length) } else { None };
        if wants_buffer && new.is_none() {
            self.stall(key);
            return false;
        }
        if let Some(buf) = self.fill(io.now(), key, length, new)
            && !self.ask(io, key, write, &Next::Range(range), Some(buf))
        {
            self.fail(io, write, Errno::NoMemory);
        }
        true
    }

    /// Takes what there is of the data of a piece of a write, which has its buffer or gets a `new` one; the piece when it is whole.
    fn fill(&mut self, now: Nanos, key: Key, length: usize, new: Option<Buf>) -> Option<Buf> {
        let connection = self.connections.get_mut(key)?;
        let Connection { phase: Phase::Open(transmission), input, consumed, .. } = &mut **connection else {
            return None;
        };
        let write = transmission.write.as_mut()?;
        if new.is_some() {
            (write.buf, write.since) = (new, now);
        }
        let (buf, filled) = (write.buf.as_mut()?, write.filled);
        let unread = input.front().map_or(&[][..], |chunk| &chunk[*consumed..]);
        let (taken, piece) = transmission.requests.next(unread, length - filled);
        if let Piece::Data(data) = piece {
            buf[filled..filled + data.len()].copy_from_slice(data);
            write.fill(data.len(), now);
        }
        let whole = if write.filled == length { write.take(now) } else { None };
        if transmission.requests.data_left() == 0 {
            transmission.write = None;
        }
        connection.consume(taken);
        whole
    }

    /// Passes over data that nobody wants.
    fn pass_data(&mut self, key: Key) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return false };
        let Connection { phase: Phase::Open(transmission), input, consumed, .. } = &mut **connection else {
            return false;
        };
        let unread = input.front().map_or(&[][..], |chunk| &chunk[*consumed..]);
        let (taken, _) = transmission.requests.next(unread, usize::MAX);
        connection.consume(taken);
        true
    }

    /// No more data is taken of the write whose data was coming; which one that was.
    pub(super) fn drop_write(&mut self, key: Key) -> Option<Key> {
        let write = self.connections.get_mut(key)?.transmission()?.write.take()?;
        if let Some(buf) = write.buf {
            self.release(write.command, buf.capacity());
        }
        Some(write.command)
    }
}
