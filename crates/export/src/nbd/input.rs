//! What a client has sent, cut into options, requests and data.

use super::{
    command::{Command, Kind, Next},
    connection::{Connection, Incoming, Phase, Receiving, Transmission},
    flow::MAX_HELD,
    handshake::Progress,
    request::{NbdRequest, Piece, Requests},
    server::Server,
    wire::{Errno, command},
};
use crate::slab::Key;
use dolmen_io::{Io, Stamps};
use std::{collections::VecDeque, sync::Arc};

/// Chunks of a client that may lie about before receiving is stopped.
const MAX_INPUT: usize = 2;

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

    /// Stops or starts receiving.
    fn regulate(&mut self, io: &mut Io, key: Key) {
        let tag = self.receive_tag(key);
        let Some(connection) = self.connections.get_mut(key) else { return };
        match connection.receiving {
            Receiving::On if connection.input.len() > MAX_INPUT => {
                connection.receiving = Receiving::Stopping;
                io.stop_receive(tag, connection.sock);
            }
            Receiving::Off if connection.input.is_empty() && !connection.leaving => {
                connection.receiving = Receiving::On;
                io.receive(tag, connection.sock);
            }
            _ => {}
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
                    held: 0,
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
            transmission.write = Some(Incoming { command, buf: None, filled: 0 });
        }
        self.advance(io, command);
    }

    /// Some data of a write; true when there is more to look at.
    fn take_data(&mut self, io: &mut Io, key: Key) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return false };
        let Connection { phase: Phase::Open(transmission), input, consumed, .. } = &mut **connection else {
            return false;
        };
        let unread = input.front().map_or(&[][..], |chunk| &chunk[*consumed..]);
        let Some(write) = &mut transmission.write else {
            // Nobody wants it.
            let (taken, _) = transmission.requests.next(unread, usize::MAX);
            connection.consume(taken);
            return true;
        };
        let Some(command) = self.commands.get(write.command) else { return false };
        let range = match command.next() {
            Next::Range(range) => range,
            _ if command.error.is_some() => {
                transmission.write = None;
                return true;
            }
            _ => return false,
        };
        let length = usize::try_from(range.end - range.start).expect("a piece fits a buffer");
        if write.buf.is_none() && transmission.held + length as u64 <= MAX_HELD {
            write.buf = io.pool().alloc_plentiful(length);
        }
        let Some(buf) = &mut write.buf else {
            self.stall(key);
            return false;
        };
        let (taken, piece) = transmission.requests.next(unread, length - write.filled);
        if let Piece::Data(data) = piece {
            buf[write.filled..write.filled + data.len()].copy_from_slice(data);
            write.filled += data.len();
        }
        let whole = write.filled == length;
        let (command, buf) = (write.command, if whole { write.buf.take() } else { None });
        if whole {
            write.filled = 0;
        }
        if transmission.requests.data_left() == 0 {
            transmission.write = None;
        }
        connection.consume(taken);
        if whole && !self.ask(io, key, command, &Next::Range(range), buf) {
            self.fail(io, command, Errno::NoMemory);
        }
        true
    }
}
