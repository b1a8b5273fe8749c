//! Bytes in and out of connections: parsing what was received, collecting data, staging and sending replies.
//!
//! Bytes of a stream come in order, so a command that blocked it would also block the data that frees memory for it.
//! Therefore commands take no memory to be parsed: a read waits for its buffer beside the stream, a write is asked for its
//! data when there is room, and data that we asked for always has its buffer. Only in-capsule data or a response that finds none,
//! and a host that exceeds its queue or does not read its replies, hold the stream up: receiving stops, and each later turn
//! tries again.

use crate::{
    arrivals::Lending,
    connection::{Capsule, Connection, HeldCommand, MAX_BACKLOG, MAX_OPEN_R2TS, Phase, Receiving, Stage},
    slab::Key,
    target::{Late, Target},
};
use dolmen_io::{Buf, Io, Stage as Stamp};
use dolmen_nvme::{
    spec::{Cqe, Sqe, Status},
    tcp::{ControllerEvent, DataSource, MAX_HEADER_BYTES, R2tRequest, Violation},
};
use dolmen_volume::Near;

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is under way, or answered.
    Yes,
    /// There is no memory for it now.
    NoMemory,
}

impl Target {
    /// Received bytes.
    pub(crate) fn receive(&mut self, io: &mut Io, near: &mut Near<'_>, key: Key, chunk: Buf) {
        let Some(mut connection) = self.connections.get_mut(key) else { return };
        if matches!(connection.lending, Lending::Lent(_)) {
            self.recall(io, key);
            let Some(again) = self.connections.get_mut(key) else { return };
            connection = again;
        }
        connection.keep(chunk);
        self.pump(io, near, key, usize::MAX);
    }

    /// The driver's receive ended because we asked for it.
    pub(crate) fn receive_stopped(&mut self, io: &mut Io, near: &mut Near<'_>, key: Key) {
        if let Some(connection) = self.connections.get_mut(key) {
            connection.receiving = Receiving::Off;
            if matches!(connection.phase, Phase::Parting) {
                connection.receiving = Receiving::On;
                let sock = connection.sock;
                return io.receive(self.receive_tag(key), sock);
            }
            self.pump(io, near, key, usize::MAX);
        }
    }

    /// Goes on with what waits for memory, and parses what was received as far as it goes; then receives on, or not.
    /// At most `most` of what waits gets memory.
    pub(crate) fn pump(&mut self, io: &mut Io, near: &mut Near<'_>, key: Key, most: usize) {
        self.solicit(io, key, most);
        self.unpark(io, key, most);
        loop {
            let Some(connection) = self.connections.get_mut(key) else { return };
            if connection.is_over() {
                connection.backlog.clear();
                return;
            }
            if let Some(held) = connection.held.take()
                && self.take_command(io, key, held) == Taken::NoMemory
            {
                break;
            }
            let Some(connection) = self.connections.get_mut(key) else { return };
            let Some(chunk) = connection.backlog.pop_front() else { break };
            let start = std::mem::take(&mut connection.parsed);
            let left = self.parse(io, near, key, &chunk[start..]);
            let Some(connection) = self.connections.get_mut(key) else { return };
            if left > 0 {
                connection.parsed = chunk.len() - left;
                connection.backlog.push_front(chunk);
                break;
            }
        }
        self.steer_receiving(io, key);
    }

    /// Parses a chunk; returns how many bytes of it are left, because a command found no memory.
    pub(crate) fn parse(&mut self, io: &mut Io, near: &mut Near<'_>, key: Key, chunk: &[u8]) -> usize {
        let mut bytes = chunk;
        loop {
            let Some(connection) = self.connections.get_mut(key) else { return 0 };
            if connection.is_over() {
                return 0;
            }
            let event = match connection.protocol.receive(&mut bytes) {
                Ok(Some(event)) => event,
                Ok(None) => return 0,
                Err(violation) => {
                    self.violated(io, key, &violation);
                    return 0;
                }
            };
            match event {
                ControllerEvent::Command { sqe, capsule_data } => {
                    connection.progress = io.now();
                    connection.advance_head();
                    if self.answer_near(io, near, key, &sqe, &mut bytes) {
                        continue;
                    }
                    let command = HeldCommand { sqe, capsule_data };
                    if self.take_command(io, key, command) == Taken::NoMemory {
                        self.count_stall(key);
                        return bytes.len();
                    }
                }
                ControllerEvent::Data { source, offset, bytes } => self.take_data(key, source, offset, bytes),
                ControllerEvent::DataEnd { source, intact } => {
                    connection.progress = io.now();
                    self.end_data(io, key, source, intact);
                }
                ControllerEvent::Initialized(_) => self.initialize(io, key),
                ControllerEvent::Terminated(_) => {
                    self.close(io, key);
                    return 0;
                }
            }
        }
    }

    fn count_stall(&mut self, key: Key) {
        self.stats.traffic.stalls += 1;
        if let Some(connection) = self.connections.get_mut(key) {
            connection.counters.stalls += 1;
        }
    }

    /// Starts a command, or holds it until there is memory.
    fn take_command(&mut self, io: &mut Io, key: Key, command: HeldCommand) -> Taken {
        let Some(connection) = self.connections.get_mut(key) else { return Taken::Yes };
        if self.draining {
            // Neither started nor answered: the host sends it again on its next connection.
            connection.capsule = Capsule::Discard;
            return Taken::Yes;
        }
        let taken = if connection.is_full() || connection.is_unread() || connection.late > 0 {
            Taken::NoMemory
        } else {
            self.start_command(io, key, &command.sqe, command.capsule_data)
        };
        let Some(connection) = self.connections.get_mut(key) else { return Taken::Yes };
        if taken == Taken::NoMemory {
            connection.held = Some(command);
            self.stall(key);
        }
        taken
    }

    fn start_command(&mut self, io: &mut Io, key: Key, sqe: &Sqe, capsule_data: u32) -> Taken {
        let Some(connection) = self.connections.get_mut(key) else { return Taken::Yes };
        connection.capsule = Capsule::Discard;
        match connection.phase {
            Phase::Io { .. } if !sqe.is_fabrics() => self.start_io(io, key, sqe, capsule_data),
            Phase::Admin { controller } if !sqe.is_fabrics() => {
                self.start_admin(io, key, controller, sqe, capsule_data)
            }
            _ if sqe.is_fabrics() => self.start_fabrics(io, key, sqe, capsule_data),
            _ => {
                self.fail(io, key, sqe, Status::COMMAND_SEQUENCE_ERROR.with_dnr());
                Taken::Yes
            }
        }
    }

    /// Receives while everything received is parsed; stops when chunks pile up.
    fn steer_receiving(&mut self, io: &mut Io, key: Key) {
        let tag = self.receive_tag(key);
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.is_over() {
            return;
        }
        match connection.receiving {
            Receiving::On if connection.backlog.len() >= MAX_BACKLOG => {
                connection.receiving = Receiving::Stopping;
                io.stop_receive(tag, connection.sock);
            }
            Receiving::Off if connection.backlog.is_empty() && connection.held.is_none() => {
                connection.receiving = Receiving::On;
                io.receive(tag, connection.sock);
            }
            _ => {}
        }
        if connection.protocol.open_transfers() > 0 {
            self.landings.want(key, connection);
        }
    }

    // Data from the host.

    fn take_data(&mut self, key: Key, source: DataSource, offset: u32, bytes: &[u8]) {
        let Some(connection) = self.connections.get(key) else { return };
        let (request, start) = match source {
            DataSource::Capsule => match connection.capsule {
                Capsule::Discard => return,
                Capsule::Request { request, offset } => (Some(request), offset),
            },
            DataSource::Transfer(slot) => (self.requests.key_at(slot), 0),
        };
        let Some(request) = request.and_then(|r| self.requests.get_mut(r)) else { return };
        if request.connection != key {
            return;
        }
        let Some(buf) = request.buf.as_mut() else { return };
        copy_piece(buf, bytes, i64::from(offset) - i64::from(start));
    }

    fn end_data(&mut self, io: &mut Io, key: Key, source: DataSource, intact: bool) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let request = match source {
            DataSource::Capsule => match std::mem::replace(&mut connection.capsule, Capsule::Discard) {
                Capsule::Discard => return,
                Capsule::Request { request, .. } => request,
            },
            DataSource::Transfer(slot) => match self.requests.key_at(slot) {
                Some(request) => request,
                None => return,
            },
        };
        let Some(slot) = self.requests.get_mut(request).filter(|r| r.connection == key) else { return };
        slot.stamps.mark(Stamp::DataIn, io.now());
        let admin = slot.admin;
        if slot.stage == Stage::Solicited {
            self.unsolicit(request);
            self.solicit(io, key, usize::MAX);
        }
        match (intact, admin) {
            (false, _) => self.abandon(io, request, Status::TRANSIENT_TRANSPORT_ERROR),
            (true, true) => self.admin_data(io, request),
            (true, false) => self.io_data(io, request),
        }
    }

    /// An R2T's data is here, or will never come: its bytes no longer count as asked for.
    pub(crate) fn unsolicit(&mut self, request: Key) {
        let Some(slot) = self.requests.get_mut(request) else { return };
        if slot.stage != Stage::Solicited {
            return;
        }
        slot.stage = Stage::Half;
        let bytes = slot.held;
        self.solicited_bytes = self.solicited_bytes.saturating_sub(bytes);
        if let Some(connection) = self.connections.get_mut(slot.connection) {
            connection.solicited_bytes = connection.solicited_bytes.saturating_sub(bytes);
        }
    }

    /// Sends R2Ts for requests that wait for one, within the connection's share and the core's.
    pub(crate) fn solicit(&mut self, io: &mut Io, key: Key, most: usize) {
        let mut left = most;
        loop {
            let Some(connection) = self.connections.get_mut(key) else { return };
            let Some(&request) = connection.unsolicited.front() else { return };
            let Some(slot) = self.requests.get_mut(request) else {
                connection.unsolicited.pop_front();
                continue;
            };
            let length = slot.length as usize;
            let bounds = &self.config.bounds;
            let share = bounds.connection_bytes / 4;
            let busy = connection.protocol.open_transfers() >= usize::from(MAX_OPEN_R2TS)
                || (connection.solicited_bytes > 0 && connection.solicited_bytes + length > share);
            if busy {
                return;
            }
            // As much as it has asked for already is left to the others.
            let asks = self.solicited_bytes + connection.solicited_bytes + length;
            let room = self.solicited_bytes == 0 || asks <= self.solicited_limit;
            let staged = room
                && left > 0
                && !connection.is_congested(bounds)
                && connection.outbox.reserve(io, &mut self.reserve, MAX_HEADER_BYTES);
            let holds = connection.holds();
            let Some(buf) = staged.then(|| io.pool().alloc_share(length, holds)).flatten() else {
                self.stall(key);
                return;
            };
            let bytes = buf.capacity();
            let token =
                R2tRequest { cid: slot.sqe.cid.get(), token: request.index, offset: 0, length: slot.length };
            let Ok(n) = connection.protocol.write_r2t(connection.outbox.room(), token) else { return };
            connection.outbox.commit(n);
            left -= 1;
            connection.unsolicited.pop_front();
            connection.solicited_bytes += bytes;
            connection.held_bytes += bytes;
            connection.progress = io.now();
            self.solicited_bytes += bytes;
            slot.held = bytes;
            slot.buf = Some(buf);
            slot.stage = Stage::Solicited;
            slot.since = io.now();
            self.mark_dirty(key);
        }
    }

    // Replies.

    /// Sends a completion.
    pub(crate) fn respond(&mut self, io: &mut Io, key: Key, cqe: Cqe) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.is_over() {
            return;
        }
        let Connection { outbox, protocol, .. } = &mut **connection;
        if !outbox.reserve(io, &mut self.reserve, MAX_HEADER_BYTES) {
            connection.late += 1;
            debug_assert!(connection.late <= connection.most_late(), "{} responses wait", connection.late);
            self.put_off(Late::Response(key, cqe));
            return;
        }
        outbox.respond(|room| protocol.write_response(room, &cqe));
        self.mark_dirty(key);
    }

    /// Answers a command with a failure.
    pub(crate) fn fail(&mut self, io: &mut Io, key: Key, sqe: &Sqe, status: Status) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.counters.errors += 1;
        self.stats.traffic.errors += 1;
        let cqe = connection.completion(sqe.cid.get(), status);
        if let Phase::Admin { controller } = connection.phase
            && let Some(controller) = self.controllers.get_mut(controller)
        {
            controller.errors.note(sqe, status);
        }
        self.respond(io, key, cqe);
    }

    pub(crate) fn mark_dirty(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(key)
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push(key);
        }
    }

    /// Queues what waits as one send, unless one is under way.
    pub(crate) fn flush(&mut self, io: &mut Io, key: Key) {
        let tag = self.send_tag(key);
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.dirty = false;
        if connection.sending.is_some() || connection.outbox.bytes() == 0 {
            return;
        }
        let slices = connection.outbox.take(io.slices());
        connection.sending = Some(io.now());
        connection.unsent.sending();
        io.send(tag, connection.sock, slices);
        if connection.sated {
            self.retry(key);
        }
    }

    /// A send was taken whole.
    pub(crate) fn sent(&mut self, io: &mut Io, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.sending = None;
        connection.unsent.sent(&mut self.traces, io.now());
        connection.outbox.sent(&mut self.reserve);
        let sated = connection.sated;
        if connection.outbox.bytes() > 0 {
            self.mark_dirty(key);
        } else if matches!(connection.phase, Phase::Ending) {
            self.close(io, key);
        } else if self.draining {
            self.end_if_drained(io, key);
        }
        if sated {
            self.retry(key);
        }
    }

    fn initialize(&mut self, io: &mut Io, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Connection { outbox, protocol, .. } = &mut **connection;
        if !outbox.reserve(io, &mut self.reserve, MAX_HEADER_BYTES) {
            self.close(io, key);
            return;
        }
        if let Some(n) = protocol.write_ic_resp(outbox.room()) {
            outbox.commit(n);
        }
        connection.phase = Phase::Open;
        connection.since = io.now();
        self.mark_dirty(key);
    }

    /// The host broke the protocol: it is told what was wrong, and the connection ends.
    fn violated(&mut self, io: &mut Io, key: Key, violation: &Violation) {
        self.stats.violations += 1;
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Connection { outbox, protocol, .. } = &mut **connection;
        outbox.end_waiting();
        if outbox.reserve(io, &mut self.reserve, MAX_HEADER_BYTES)
            && let Some(n) = protocol.write_term_req(outbox.room(), violation)
        {
            outbox.commit(n);
        }
        self.give_up(io, key, Target::end);
    }
}

/// Copies what of `bytes` lies within `buf`, when the first byte belongs at `at`.
fn copy_piece(buf: &mut Buf, bytes: &[u8], at: i64) {
    let skip = usize::try_from(-at).unwrap_or(0);
    let at = usize::try_from(at).unwrap_or(0);
    let Some(bytes) = bytes.get(skip..) else { return };
    let Some(room) = buf.get_mut(at..) else { return };
    let n = bytes.len().min(room.len());
    room[..n].copy_from_slice(&bytes[..n]);
}
