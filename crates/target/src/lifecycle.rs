//! How connections, requests and controllers end, and the deadlines that see to it.

use crate::{
    connection::{Connection, FirstHalf, Phase, Receiving, Request, Stage},
    message::{Envelope, Message, QueueAt},
    slab::Key,
    target::Target,
};
use dolmen_io::{Buf, Io, Stamps};
use dolmen_nvme::spec::{Sqe, Status};
use dolmen_types::Nanos;

impl Target {
    // Requests.

    /// A slot for a command of a connection; `buf` counts against its share. Gives the buffer back when no slot is left.
    pub(crate) fn add_request(&mut self, key: Key, sqe: &Sqe, stage: Stage, new: NewRequest) -> Option<Key> {
        let connection = self.connections.get_mut(key)?;
        let held = new.held;
        let request = Request {
            connection: key,
            sqe: *sqe,
            stage,
            buf: new.buf,
            length: new.length,
            held,
            since: Nanos(0),
            stamps: new.stamps,
            verdict: None,
            partner: None,
            admin: !matches!(connection.phase, Phase::Io { .. }),
        };
        let request = self.requests.insert(request).ok()?;
        connection.outstanding += 1;
        connection.held_bytes += held;
        Some(request)
    }

    /// Gives a request's slot back, with what was in it.
    pub(crate) fn free_request(&mut self, request: Key) -> Option<Request> {
        self.uncount_request(request);
        self.requests.remove(request)
    }

    /// Gives a request's slot back.
    pub(crate) fn end_request(&mut self, request: Key) {
        self.uncount_request(request);
        self.requests.free(request);
    }

    /// A request no longer counts as under way.
    fn uncount_request(&mut self, request: Key) {
        self.unsolicit(request);
        let Some(slot) = self.requests.get_mut(request) else { return };
        let key = slot.connection;
        if let Some(connection) = self.connections.get_mut(key) {
            connection.outstanding = connection.outstanding.saturating_sub(1);
            connection.held_bytes = connection.held_bytes.saturating_sub(slot.held);
            if connection.sated {
                self.retry(key);
            }
        }
    }

    /// Fails a request that no volume has, and with it the other half of a fused pair.
    pub(crate) fn abandon(&mut self, io: &mut Io, request: Key, status: Status) {
        let Some(slot) = self.free_request(request) else { return };
        self.fail(io, slot.connection, &slot.sqe, status);
        if let Some(connection) = self.connections.get_mut(slot.connection) {
            connection.unsolicited.retain(|&r| r != request);
            connection.parked.retain(|&r| r != request);
            if connection.first_half == Some(FirstHalf::Request(request)) {
                connection.first_half = Some(FirstHalf::Refused);
            }
        }
        if let Some(partner) = slot.partner {
            self.abandon_partner(io, partner);
        }
        self.end_if_drained(io, slot.connection);
    }

    /// The other half of a failed one: as long as its data is coming, the answer waits.
    fn abandon_partner(&mut self, io: &mut Io, request: Key) {
        let failed = Status::ABORTED_FAILED_FUSED.with_dnr();
        let Some(slot) = self.requests.get_mut(request) else { return };
        slot.partner = None;
        slot.verdict = Some(failed);
        if matches!(slot.stage, Stage::Half | Stage::Unsolicited) {
            self.abandon(io, request, failed);
        }
    }

    /// Sets request slots aside for a queue; false when there are too many queues.
    pub(crate) fn grant(&mut self, key: Key, entries: u16) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return false };
        // One more: Connect itself came before there was a queue.
        let wanted = u32::from(entries) + 1;
        if self.granted + wanted > self.config.bounds.requests {
            return false;
        }
        connection.granted += wanted;
        self.granted += wanted;
        true
    }

    /// Those of a queue that is over, or did not come to be.
    pub(crate) fn take_back_grant(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(key) {
            self.granted -= std::mem::take(&mut connection.granted);
        }
    }

    // Connections.

    /// Sends what is staged, then closes. Its queue or controller ends at once.
    pub(crate) fn end(&mut self, io: &mut Io, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.is_over() {
            return;
        }
        connection.since = io.now();
        let phase = std::mem::replace(&mut connection.phase, Phase::Ending);
        let nothing_to_say = connection.outbox.bytes() == 0 && connection.sending.is_none();
        self.detach(io, key, &phase);
        if nothing_to_say {
            self.close(io, key);
        } else {
            self.mark_dirty(key);
        }
    }

    /// Ends a connection that we can't go on with, in the way of `end`; with an I/O queue its whole association. A host may take the
    /// end of one of its queues for the end of all, since we don't offer to delete them one by one, and send elsewhere again what
    /// it had sent to the others.
    pub(crate) fn give_up(&mut self, io: &mut Io, key: Key, end: fn(&mut Target, &mut Io, Key)) {
        let queue = self.connections.get(key).and_then(|c| c.queue());
        let Some((controller, qid)) = queue.filter(|(_, qid)| *qid > 0) else { return end(self, io, key) };
        match self.config.core_of(controller) {
            Some(core) if core != self.config.core => {
                let queue = QueueAt { core: self.config.core, connection: key };
                // Before it leaves.
                let message = Message::GiveUp { controller, qid, queue };
                self.outputs.messages.push(Envelope { to: core, message });
                end(self, io, key);
            }
            _ => {
                end(self, io, key);
                self.end_controller(io, controller);
            }
        }
    }

    /// A queue of a controller of this core was given up.
    pub(crate) fn given_up(&mut self, io: &mut Io, controller: u16, member: (u16, QueueAt)) {
        // Unless the controller is another one by now.
        if self.controllers.get(controller).is_some_and(|c| c.queues.contains(&member)) {
            self.end_controller(io, controller);
        }
    }

    /// Ends our side of a stream on which nothing is under way, and goes on receiving until the host has ended its own side: were the
    /// socket closed at once, what the host still sends would be answered with a reset, and Linux gives SIGPIPE to the
    /// process whose command meets that.
    fn part(&mut self, io: &mut Io, key: Key) {
        let (tag, receive_tag) = (self.close_tag(key), self.receive_tag(key));
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.is_over() {
            return;
        }
        connection.since = io.now();
        let phase = std::mem::replace(&mut connection.phase, Phase::Parting);
        connection.backlog.clear();
        connection.outbox.end(&mut self.reserve);
        io.end_stream(tag, connection.sock);
        if connection.receiving == Receiving::Off {
            connection.receiving = Receiving::On;
            io.receive(receive_tag, connection.sock);
        }
        self.detach(io, key, &phase);
    }

    /// Closes a connection at once.
    pub(crate) fn close(&mut self, io: &mut Io, key: Key) {
        let tag = self.close_tag(key);
        let Some(connection) = self.connections.get_mut(key) else { return };
        if matches!(connection.phase, Phase::Closing) {
            return;
        }
        let phase = std::mem::replace(&mut connection.phase, Phase::Closing);
        connection.backlog.clear();
        connection.outbox.end(&mut self.reserve);
        io.close(tag, connection.sock);
        self.detach(io, key, &phase);
    }

    /// Undoes what a connection was used for. Requests that volumes have are called off, and keep their slots until
    /// the replies come.
    fn detach(&mut self, io: &mut Io, key: Key, phase: &Phase) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.held = None;
        connection.unsolicited.clear();
        connection.parked.clear();
        connection.first_half = None;
        let (view, outstanding) = (connection.view.take(), connection.outstanding);
        self.take_back_grant(key);
        if let Some(view) = view {
            self.views.release(view);
        }
        if outstanding > 0 {
            for request in self.requests.keys(|r| r.connection == key && r.stage != Stage::Volume) {
                self.end_request(request);
            }
        }
        let own = |controller| self.config.core_of(controller) == Some(self.config.core);
        let elsewhere = match *phase {
            Phase::Io { controller, qid } if !own(controller) => Some((controller, qid)),
            _ => None,
        };
        self.call_off(io, key, elsewhere);
        match *phase {
            Phase::Admin { controller } => self.end_controller(io, controller),
            Phase::Io { controller, qid } if elsewhere.is_none() => {
                let queue = QueueAt { core: self.config.core, connection: key };
                self.left(io, controller, qid, queue);
            }
            _ => {}
        }
    }

    /// While draining: closes a connection that has nothing under way; an admin queue goes last.
    pub(crate) fn end_if_drained(&mut self, io: &mut Io, key: Key) {
        if !self.draining {
            return;
        }
        let Some(connection) = self.connections.get(key) else { return };
        let at_rest =
            connection.outstanding == 0 && connection.outbox.bytes() == 0 && connection.sending.is_none();
        let queues_left = match connection.phase {
            Phase::Admin { controller } => {
                self.controllers.get(controller).is_some_and(|c| !c.queues.is_empty())
            }
            _ => false,
        };
        if at_rest && !queues_left {
            self.part(io, key);
        }
    }

    // Queues and controllers.

    /// Tells a queue's controller that the queue has ended.
    pub(crate) fn leave(&mut self, io: &mut Io, controller: u16, qid: u16, queue: QueueAt) {
        match self.config.core_of(controller) {
            Some(core) if core == self.config.core => self.left(io, controller, qid, queue),
            Some(core) => {
                let message = Message::Leave { controller, qid, queue };
                self.outputs.messages.push(Envelope { to: core, message });
            }
            None => {}
        }
    }

    /// A queue of a controller of this core has ended.
    pub(crate) fn left(&mut self, io: &mut Io, controller: u16, qid: u16, queue: QueueAt) {
        self.queue_left(queue);
        let Some(controller) = self.controllers.get_mut(controller) else { return };
        controller.leave(qid, queue);
        let admin = controller.admin;
        self.end_if_drained(io, admin);
    }

    /// Ends all I/O queues of a controller, wherever they are.
    pub(crate) fn end_queues(&mut self, io: &mut Io, controller: u16) {
        let Some(controller) = self.controllers.get_mut(controller) else { return };
        let host_id = controller.host.id;
        for (_, queue) in std::mem::take(&mut controller.queues) {
            self.close_queue(io, host_id, queue);
        }
    }

    fn close_queue(&mut self, io: &mut Io, host_id: [u8; 16], queue: QueueAt) {
        if queue.core == self.config.core {
            self.close_with_controller(io, queue.connection);
        } else {
            self.await_queue(io, host_id, queue);
            let message = Message::Close { connection: queue.connection };
            self.outputs.messages.push(Envelope { to: queue.core, message });
        }
    }

    /// Ends a controller with all of its queues.
    pub(crate) fn end_controller(&mut self, io: &mut Io, id: u16) {
        let Some(controller) = self.controllers.remove(id) else { return };
        self.views.release(controller.view);
        for (_, queue) in controller.queues {
            self.close_queue(io, controller.host.id, queue);
        }
        self.close_with_controller(io, controller.admin);
    }

    /// Closes a queue whose controller ends. One that is ending already has its reason for it to say yet, or waits for its host.
    pub(crate) fn close_with_controller(&mut self, io: &mut Io, key: Key) {
        if self.connections.get(key).is_some_and(|c| !c.is_over()) {
            self.close(io, key);
        }
    }

    // Deadlines.

    /// Ends what has waited for too long.
    pub(crate) fn check_deadlines(&mut self, io: &mut Io) {
        let (now, limits) = (io.now(), self.config.timeouts);
        self.prune_settlements(now);
        let after = |since: Nanos, ms: u64| now > since.plus_ms(ms);
        for connection in self.connections.values_mut() {
            // No PDU is under way, or we hold it up ourselves: the next one's time, or what is left of it, begins now.
            if connection.is_held_up() || connection.protocol.export().is_some() {
                connection.progress = now;
            }
            connection.watch_send(io);
        }
        let overdue = |c: &Connection| {
            let waits = match c.phase {
                Phase::Fresh => after(c.since, limits.icreq_ms),
                Phase::Open | Phase::Joining(_) | Phase::Settling(_) => after(c.since, limits.connect_ms),
                Phase::Ending => after(c.since, limits.send_ms),
                Phase::Parting => after(c.since, limits.part_ms),
                Phase::Closing => return false,
                Phase::Admin { .. } | Phase::Io { .. } => after(c.progress, limits.pdu_ms),
            };
            waits || c.sending.is_some_and(|since| after(since, limits.send_ms))
        };
        let mut late: Vec<Key> = self.connections.keys(|c| overdue(c));
        if self.solicited_bytes > 0 {
            let held_up = |key| self.connections.get(key).is_some_and(|c| c.is_held_up());
            for request in self.requests.values_mut().filter(|r| r.stage == Stage::Solicited) {
                // Its data may lie behind what we hold up.
                if held_up(request.connection) {
                    request.since = now;
                }
            }
            let silent = |r: &Request| r.stage == Stage::Solicited && after(r.since, limits.pdu_ms);
            late.extend(self.requests.iter().filter(|(_, r)| silent(r)).map(|(_, r)| r.connection));
        }
        late.extend(self.hung(io));
        late.sort_unstable();
        late.dedup();
        for key in late {
            self.stats.timeouts += 1;
            self.give_up(io, key, Target::close);
        }
        self.abandon_halves(io);
        let expired: Vec<u16> =
            self.controllers.iter().filter(|c| c.expired(now, &limits)).map(|c| c.id).collect();
        for id in expired {
            self.stats.keep_alive_expired += 1;
            self.end_controller(io, id);
        }
    }
}

/// What a new request starts with.
#[derive(Debug, Default)]
pub(crate) struct NewRequest {
    /// Room for its data, if that is here already.
    pub(crate) buf: Option<Buf>,
    /// Bytes of buffers that count as its connection's share.
    pub(crate) held: usize,
    /// Length of its data. Bytes.
    pub(crate) length: u32,
    /// When it was received.
    pub(crate) stamps: Stamps,
}

impl NewRequest {
    /// A command that was received now, without data so far.
    pub(crate) fn received(io: &Io) -> NewRequest {
        NewRequest { stamps: Stamps::received(io.now(), io.lag_ns()), ..NewRequest::default() }
    }
}
