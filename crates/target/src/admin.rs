//! Admin commands of a controller: what is asked of it, answered from its own state and from what its host may see.
//!
//! Anything that is not here is an invalid opcode. Data to the host is built after its room in the outbox is sure, so
//! that a page whose reading has an effect is never read twice.

use crate::{
    connection::{Connection, FirstHalf, Stage},
    controller::Kind,
    features::{self, Value},
    identify,
    lifecycle::NewRequest,
    logs,
    slab::Key,
    status,
    target::Target,
    wire::Taken,
};
use dolmen_io::Io;
use dolmen_nvme::{
    spec::{
        AdminOpcode, DataPlan, FabricsType, FeatureId, FeatureSelect, Fuse, GetLogCommand, IdentifyCommand,
        Sqe, Status, feature_select,
    },
    tcp::{C2hData, DIGEST_BYTES, DataEnd, MAX_HEADER_BYTES},
};
use dolmen_types::limits;
use dolmen_volume::{Command, Done, ReservationCommand, VolumeError};

const INVALID: Status = Status::INVALID_FIELD.with_dnr();

/// What an admin command came to.
enum Answer {
    /// Success, with dword 0.
    Dword(u32),
    /// Success, with data for the host.
    Page(Vec<u8>),
    /// Nothing to say now.
    Later,
}

impl Target {
    /// A command on an admin queue.
    pub(crate) fn start_admin(
        &mut self,
        io: &mut Io,
        key: Key,
        id: u16,
        sqe: &Sqe,
        capsule_data: u32,
    ) -> Taken {
        let Some(controller) = self.controllers.get_mut(id) else { return Taken::Yes };
        // Discovery clients in the field leave the SGL of these commands empty or too short; the command's own length rules.
        let lenient = controller.kind == Kind::Discovery;
        controller.hear(io.now());
        let checked = if controller.is_ready() {
            needs(sqe, controller.kind)
        } else {
            Err(Status::COMMAND_SEQUENCE_ERROR.with_dnr())
        };
        let answer = match checked {
            Ok(Needs::Nothing) => self.execute(io, key, id, sqe, &[]),
            Ok(Needs::Volume(command)) => match self.ask_volume(io, key, id, sqe, command) {
                Ok(taken) => return taken,
                Err(status) => Err(status),
            },
            Ok(Needs::FromHost(length)) => match DataPlan::of(sqe, capsule_data) {
                Ok(plan) if plan.length() as usize == length => return self.collect(io, key, sqe, plan),
                Ok(_) => Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr()),
                Err(status) => Err(status),
            },
            Ok(Needs::ToHost(length)) => {
                if !lenient && (sqe.data_pointer.length.get() as usize) < length {
                    Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr())
                } else if self.reserve_page(io, key, length) {
                    self.execute(io, key, id, sqe, &[])
                } else {
                    return Taken::NoMemory;
                }
            }
            Err(status) => Err(status),
        };
        self.answer_admin(io, key, sqe, answer);
        Taken::Yes
    }

    /// All data of an admin or Connect command is here.
    pub(crate) fn admin_data(&mut self, io: &mut Io, request: Key) {
        let Some(slot) = self.free_request(request) else { return };
        let (key, sqe) = (slot.connection, slot.sqe);
        let data: &[u8] = slot.buf.as_deref().unwrap_or(&[]);
        if sqe.is_fabrics() && sqe.fabrics_type() == FabricsType::CONNECT {
            self.connect(io, key, &sqe, data);
            return;
        }
        let Some((id, _)) = self.connections.get(key).and_then(|c| c.queue()) else { return };
        let answer = self.execute(io, key, id, &sqe, data);
        self.answer_admin(io, key, &sqe, answer);
    }

    fn answer_admin(&mut self, io: &mut Io, key: Key, sqe: &Sqe, answer: Result<Answer, Status>) {
        match answer {
            Ok(Answer::Dword(dword)) => self.succeed(io, key, sqe, u64::from(dword)),
            Ok(Answer::Page(page)) => {
                self.stage_page(key, sqe.cid.get(), &page);
                self.succeed(io, key, sqe, 0);
                // That a log page was read may let the next event come.
                self.send_events_of(io, key);
            }
            Ok(Answer::Later) => self.send_events_of(io, key),
            Err(status) => self.fail(io, key, sqe, status),
        }
    }

    /// Asks the namespace's volume what an admin command is about; [`Target::volume_answered`] answers the host.
    fn ask_volume(
        &mut self,
        io: &mut Io,
        key: Key,
        id: u16,
        sqe: &Sqe,
        command: ReservationCommand,
    ) -> Result<Taken, Status> {
        let Some(controller) = self.controllers.get_mut(id) else { return Err(Status::INTERNAL_ERROR) };
        let space = self.views.at(controller.view).find(sqe.nsid.get());
        let volume = space.ok_or(Status::INVALID_NAMESPACE.with_dnr())?.volume;
        Ok(match self.add_request(key, sqe, Stage::Volume, NewRequest::received(io)) {
            Some(request) => {
                self.submit(io, request, volume, Command::Reservation(command));
                Taken::Yes
            }
            None => Taken::NoMemory,
        })
    }

    /// A volume's answer to an admin command.
    pub(crate) fn volume_answered(&mut self, io: &mut Io, request: Key, result: Result<Done, VolumeError>) {
        let Some(slot) = self.free_request(request) else { return };
        match result {
            Ok(Done::Report(report)) => {
                self.succeed(io, slot.connection, &slot.sqe, u64::from(report.persists));
            }
            Ok(_) => self.succeed(io, slot.connection, &slot.sqe, 0),
            Err(error) => self.fail(io, slot.connection, &slot.sqe, status::of(error)),
        }
        self.end_if_drained(io, slot.connection);
    }

    fn execute(&mut self, io: &mut Io, key: Key, id: u16, sqe: &Sqe, data: &[u8]) -> Result<Answer, Status> {
        let Some(controller) = self.controllers.get_mut(id) else { return Err(Status::INTERNAL_ERROR) };
        let Some(connection) = self.connections.get(key) else { return Err(Status::INTERNAL_ERROR) };
        let discovery = controller.kind == Kind::Discovery;
        match AdminOpcode(sqe.opcode) {
            AdminOpcode::IDENTIFY => {
                let subject = identify::Subject {
                    identity: &self.config.identity,
                    controller: id,
                    discovery,
                    events: &controller.events,
                    view: self.views.at(controller.view),
                    quiesce_ms: self.config.timeouts.quiesce_ms(controller.features.least_keep_alive_ms()),
                };
                identify::page(sqe, &subject).map(Answer::Page)
            }
            AdminOpcode::GET_LOG_PAGE => {
                let subject = logs::Subject {
                    config: &self.config,
                    discovery,
                    view: self.views.at(controller.view),
                    generation: self.views.generation(),
                    local: connection.local,
                    health: &self.health,
                    errors: &controller.errors,
                };
                logs::page(sqe, &subject, &mut controller.events).map(Answer::Page)
            }
            AdminOpcode::GET_FEATURES | AdminOpcode::SET_FEATURES => {
                let view = self.views.at(controller.view);
                let context = features::Context {
                    now: io.now(),
                    wall: io.wall(),
                    host_id: controller.host.id,
                    has_io_queues: !controller.queues.is_empty(),
                    discovery,
                    sees: &|nsid| view.find(nsid).is_some(),
                };
                if sqe.opcode == AdminOpcode::SET_FEATURES.0 {
                    let set = controller.features.set(sqe, data, &mut controller.events, &context);
                    return set.map(Answer::Dword);
                }
                match controller.features.get(sqe, &controller.events, &context)? {
                    Value::Dword(dword) => Ok(Answer::Dword(dword)),
                    Value::Data(page) => Ok(Answer::Page(page)),
                }
            }
            AdminOpcode::ASYNC_EVENT_REQUEST => {
                if !controller.events.request(sqe.cid.get()) {
                    return Err(Status::ASYNC_EVENT_LIMIT_EXCEEDED.with_dnr());
                }
                Ok(Answer::Later)
            }
            AdminOpcode::KEEP_ALIVE => Ok(Answer::Dword(0)),
            AdminOpcode::ABORT => Ok(Answer::Dword(self.abort(io, key, id, sqe))),
            _ => Err(Status::INVALID_OPCODE.with_dnr()),
        }
    }

    /// Abort (Base 5.1), as far as it goes: a waiting event request, or an I/O command that waits here for memory. Dword 0 is 0
    /// when the command was aborted, 1 when not; what a volume has takes its course.
    fn abort(&mut self, io: &mut Io, key: Key, id: u16, sqe: &Sqe) -> u32 {
        let [q0, q1, c0, c1] = sqe.cdw10.get().to_le_bytes();
        let (qid, cid) = (u16::from_le_bytes([q0, q1]), u16::from_le_bytes([c0, c1]));
        let aborted = Status::ABORT_REQUESTED;
        let Some(controller) = self.controllers.get_mut(id) else { return 1 };
        if qid == 0 {
            if !controller.events.abort(cid) {
                return 1;
            }
            if let Some(connection) = self.connections.get(key) {
                let cqe = connection.completion(cid, aborted);
                self.respond(io, key, cqe);
            }
            return 0;
        }
        let own = self.config.core;
        let queue =
            controller.queues.iter().find(|(q, at)| *q == qid && at.core == own).map(|(_, at)| at.connection);
        let Some(queue) = queue else { return 1 };
        let waits = |r: &&Key| self.requests.get(**r).is_some_and(|slot| slot.sqe.cid.get() == cid);
        let waiting = self.connections.get(queue).map(|c| c.unsolicited.iter().chain(&c.parked));
        let found = waiting.and_then(|mut keys| keys.find(waits).copied());
        match found {
            Some(request) if !self.is_half(queue, request) => {
                self.abandon(io, request, aborted);
                0
            }
            _ => 1,
        }
    }

    /// True for a half of a fused pair, which is never aborted alone.
    fn is_half(&self, queue: Key, request: Key) -> bool {
        let first = self.connections.get(queue).and_then(|c| c.first_half);
        first == Some(FirstHalf::Request(request))
            || self.requests.get(request).is_none_or(|r| r.partner.is_some() || r.stage == Stage::Volume)
    }

    // Events.

    /// Completes event requests of all controllers for which something happened.
    pub(crate) fn send_events(&mut self, io: &mut Io) {
        let mut completions = Vec::new();
        for controller in self.controllers.iter_mut() {
            while let Some((cid, dword)) = controller.events.next() {
                completions.push((controller.admin, cid, dword));
            }
        }
        for (key, cid, dword) in completions {
            self.send_event(io, key, cid, dword);
        }
    }

    fn send_events_of(&mut self, io: &mut Io, key: Key) {
        let Some((id, _)) = self.connections.get(key).and_then(|c| c.queue()) else { return };
        while let Some((cid, dword)) = self.controllers.get_mut(id).and_then(|c| c.events.next()) {
            self.send_event(io, key, cid, dword);
        }
    }

    fn send_event(&mut self, io: &mut Io, key: Key, cid: u16, dword: u32) {
        if let Some(connection) = self.connections.get(key) {
            let cqe = connection.completion(cid, Status::SUCCESS).with_dw0(dword);
            self.respond(io, key, cqe);
        }
    }

    // Data to the host.

    /// Makes sure of room for a page and its completion.
    fn reserve_page(&mut self, io: &mut Io, key: Key, length: usize) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return false };
        let need = length + 2 * MAX_HEADER_BYTES + DIGEST_BYTES;
        connection.outbox.reserve(io, &mut self.reserve, need)
    }

    /// Stages a page for which room was reserved: one PDU, and always a completion of its own after it, which is what
    /// discovery clients insist on.
    fn stage_page(&mut self, key: Key, cid: u16, page: &[u8]) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Ok(length) = u32::try_from(page.len()) else { return };
        let Connection { outbox, protocol, .. } = &mut **connection;
        let header = C2hData { cid, offset: 0, length, end: DataEnd::Last };
        let Some(n) = protocol.write_c2h_data(outbox.room(), &header) else { return };
        let room = &mut outbox.room()[n..];
        room[..page.len()].copy_from_slice(page);
        let digest = protocol.finish_data(room, page.len()).unwrap_or(0);
        outbox.commit(n + page.len() + digest);
        self.mark_dirty(key);
    }
}

/// What a command moves, as far as the entry alone tells. Bytes.
enum Needs {
    Nothing,
    Volume(ReservationCommand),
    FromHost(usize),
    ToHost(usize),
}

fn needs(sqe: &Sqe, kind: Kind) -> Result<Needs, Status> {
    if sqe.fuse() != Fuse::Normal {
        return Err(INVALID);
    }
    if kind == Kind::Io
        && matches!(AdminOpcode(sqe.opcode), AdminOpcode::GET_FEATURES | AdminOpcode::SET_FEATURES)
        && let Some(command) = features::persistence(sqe)?
    {
        return Ok(Needs::Volume(command));
    }
    Ok(match AdminOpcode(sqe.opcode) {
        AdminOpcode::IDENTIFY => Needs::ToHost(IdentifyCommand::DATA_BYTES),
        AdminOpcode::GET_LOG_PAGE => {
            let length = usize::try_from(GetLogCommand::of(sqe)?.length).map_err(|_| INVALID)?;
            if length > limits::MAX_TRANSFER_BYTES {
                return Err(INVALID);
            }
            Needs::ToHost(length)
        }
        AdminOpcode::SET_FEATURES => match features::data_bytes(sqe) {
            0 => Needs::Nothing,
            // Without the feature there is no data to wait for.
            _ if kind == Kind::Discovery => Needs::Nothing,
            length => Needs::FromHost(length),
        },
        AdminOpcode::GET_FEATURES if feature_select::select(sqe) != FeatureSelect::Capabilities => {
            match feature_select::id(sqe) {
                _ if kind == Kind::Discovery => Needs::Nothing,
                FeatureId::TIMESTAMP => Needs::ToHost(features::TIMESTAMP_BYTES),
                FeatureId::HOST_BEHAVIOR => Needs::ToHost(features::HOST_BEHAVIOR_BYTES),
                FeatureId::HOST_ID if sqe.cdw11.get() & 1 != 0 => Needs::ToHost(16),
                _ => Needs::Nothing,
            }
        }
        _ => Needs::Nothing,
    })
}

const _: () = assert!(
    limits::MAX_TRANSFER_BYTES + 2 * MAX_HEADER_BYTES + DIGEST_BYTES <= dolmen_io::PoolConfig::LARGE_BYTES
);
