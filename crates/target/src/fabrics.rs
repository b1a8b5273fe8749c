//! Fabrics commands (Base 6): Connect makes a connection an admin or an I/O queue, properties run a controller,
//! Disconnect ends a queue.
//!
//! Connect is accepted from any well-formed NQN: what a host may use is decided per namespace, and a refusal would make
//! hosts give up while an access list is empty for a moment.

use crate::{
    connection::{Joining, MAX_OPEN_R2TS, Phase},
    controller::{AfterWrite, Association, Controller, HostIdentity, Kind},
    identify::IN_CAPSULE_BYTES,
    message::{Envelope, Join, Membership, Message, QueueAt},
    slab::Key,
    target::Target,
    wire::Taken,
};
use dolmen_io::Io;
use dolmen_nvme::{
    spec::{
        ConnectCommand, ConnectData, ConnectError, DataPlan, FabricsType, PropertyGet, PropertySet, Sqe,
        Status, connect_response,
    },
    tcp::QueueSettings,
};
use dolmen_types::{Nqn, limits};
use zerocopy::FromBytes;

/// Why a Connect was refused: status and dword 0.
type Refusal = (Status, u32);

fn invalid(what: ConnectError) -> Refusal {
    (Status::CONNECT_INVALID_PARAMETERS.with_dnr(), what.dword())
}

/// A Connect of an I/O queue for a controller that is not there (any more). No DNR: between its Connects the node may have
/// restarted, or the controller ended; the host gets a new one by beginning again, and Linux gives a path up for good
/// when it reads DNR here.
pub(crate) fn no_longer(what: ConnectError) -> Refusal {
    (Status::CONNECT_INVALID_PARAMETERS, what.dword())
}

/// QID of the admin queue.
const ADMIN_QUEUE: u16 = 0;

impl Target {
    /// A Fabrics command.
    pub(crate) fn start_fabrics(&mut self, io: &mut Io, key: Key, sqe: &Sqe, capsule_data: u32) -> Taken {
        let Some(connection) = self.connections.get(key) else { return Taken::Yes };
        let status = match (sqe.fabrics_type(), &connection.phase) {
            (FabricsType::CONNECT, Phase::Open) => {
                return match DataPlan::of(sqe, capsule_data) {
                    Ok(plan @ DataPlan::InCapsule { length, .. })
                        if length as usize == size_of::<ConnectData>() =>
                    {
                        self.collect(io, key, sqe, plan)
                    }
                    Ok(_) => {
                        self.fail(io, key, sqe, Status::DATA_SGL_LENGTH_INVALID.with_dnr());
                        Taken::Yes
                    }
                    Err(status) => {
                        self.fail(io, key, sqe, status);
                        Taken::Yes
                    }
                };
            }
            (FabricsType::PROPERTY_GET, &Phase::Admin { controller }) => {
                self.property_get(io, key, controller, sqe)
            }
            (FabricsType::PROPERTY_SET, &Phase::Admin { controller }) => {
                self.property_set(io, key, controller, sqe)
            }
            (FabricsType::DISCONNECT, Phase::Io { .. }) => {
                let cqe = connection.completion(sqe.cid.get(), Status::SUCCESS);
                self.respond(io, key, cqe);
                self.end(io, key);
                Ok(())
            }
            (FabricsType::DISCONNECT, Phase::Admin { .. }) => Err(Status::INVALID_QUEUE_TYPE.with_dnr()),
            (FabricsType::CONNECT, _) | (_, Phase::Open | Phase::Joining(_) | Phase::Settling(_)) => {
                Err(Status::COMMAND_SEQUENCE_ERROR.with_dnr())
            }
            _ => Err(Status::INVALID_OPCODE.with_dnr()),
        };
        if let Err(status) = status {
            self.fail(io, key, sqe, status);
        }
        Taken::Yes
    }

    fn property_get(&mut self, io: &mut Io, key: Key, id: u16, sqe: &Sqe) -> Result<(), Status> {
        let get = PropertyGet::of(sqe)?;
        let controller = self.controllers.get_mut(id).ok_or(Status::INTERNAL_ERROR)?;
        controller.hear(io.now());
        let value = controller.property(get)?;
        self.succeed(io, key, sqe, value);
        Ok(())
    }

    fn property_set(&mut self, io: &mut Io, key: Key, id: u16, sqe: &Sqe) -> Result<(), Status> {
        let set = PropertySet::of(sqe)?;
        let controller = self.controllers.get_mut(id).ok_or(Status::INTERNAL_ERROR)?;
        controller.hear(io.now());
        let after = controller.set_property(set)?;
        if after == AfterWrite::EndQueues {
            self.end_queues(io, id);
        }
        self.succeed(io, key, sqe, 0);
        Ok(())
    }

    /// Answers a command with success and a result.
    pub(crate) fn succeed(&mut self, io: &mut Io, key: Key, sqe: &Sqe, result: u64) {
        if let Some(connection) = self.connections.get(key) {
            let cqe = connection.completion(sqe.cid.get(), Status::SUCCESS).with_result(result);
            self.respond(io, key, cqe);
        }
    }

    fn refuse(&mut self, io: &mut Io, key: Key, cid: u16, (status, dword): Refusal) {
        self.stats.connects_refused += 1;
        self.take_back_grant(key);
        if let Some(connection) = self.connections.get(key) {
            let cqe = connection.completion(cid, status).with_dw0(dword);
            self.respond(io, key, cqe);
        }
    }

    /// Connect's data is here.
    pub(crate) fn connect(&mut self, io: &mut Io, key: Key, sqe: &Sqe, data: &[u8]) {
        let command = ConnectCommand::of(sqe);
        let cid = sqe.cid.get();
        let refusal = match ConnectData::read_from_prefix(data) {
            Ok((data, _)) if command.queue == ADMIN_QUEUE => {
                if !self.ask_all(key, cid, command, data) {
                    self.finish_admin(io, key, cid, &command, &data);
                }
                return;
            }
            Ok((data, _)) => match self.connect_io(io, key, cid, &command, &data) {
                Ok(()) => return,
                Err(refusal) => refusal,
            },
            Err(_) => (Status::DATA_SGL_LENGTH_INVALID.with_dnr(), 0),
        };
        self.refuse(io, key, cid, refusal);
    }

    /// Makes the controller of an admin queue's Connect: nothing of its host's earlier ones is left.
    pub(crate) fn finish_admin(
        &mut self,
        io: &mut Io,
        key: Key,
        cid: u16,
        command: &ConnectCommand,
        data: &ConnectData,
    ) {
        match self.connect_admin(io, key, command, data) {
            Ok(id) => {
                let Some(connection) = self.connections.get(key) else { return };
                let cqe = connection.connected(cid, connect_response::success(id));
                self.respond(io, key, cqe);
            }
            Err(refusal) => self.refuse(io, key, cid, refusal),
        }
    }

    fn connect_admin(
        &mut self,
        io: &mut Io,
        key: Key,
        command: &ConnectCommand,
        data: &ConnectData,
    ) -> Result<u16, Refusal> {
        let (kind, host) = self.check_connect(command, data)?;
        if data.controller_id.get() != ConnectData::DYNAMIC {
            return Err(invalid(ConnectError::CONTROLLER_ID));
        }
        if command.sq_size == 0 || command.sq_size >= limits::MAX_ADMIN_DEPTH {
            return Err(invalid(ConnectError::SQ_SIZE));
        }
        if !self.grant(key, command.sq_size + 1) {
            return Err((Status::CONNECT_CONTROLLER_BUSY, 0));
        }
        let connection = self.connections.get(key).ok_or((Status::INTERNAL_ERROR, 0))?;
        let (peer, now) = (connection.peer.ip().to_canonical(), io.now());
        let view = self.hold_view(&host.nqn, peer);
        let keep_alive_ms = command.keep_alive_ms;
        let association =
            Association { kind, host: host.clone(), admin: key, view, keep_alive_ms, since: io.wall() };
        let made = self.controllers.insert(|id| Controller::new(id, association, now));
        let Some(id) = made else {
            self.views.release(view);
            return Err((Status::CONNECT_CONTROLLER_BUSY, 0));
        };
        self.adopt(io, key, command, &host, Phase::Admin { controller: id });
        Ok(id)
    }

    fn connect_io(
        &mut self,
        io: &mut Io,
        key: Key,
        cid: u16,
        command: &ConnectCommand,
        data: &ConnectData,
    ) -> Result<(), Refusal> {
        let (kind, host) = self.check_connect(command, data)?;
        let controller = data.controller_id.get();
        let core = self.config.core_of(controller).ok_or(no_longer(ConnectError::CONTROLLER_ID))?;
        if kind == Kind::Discovery || command.queue > limits::MAX_IO_QUEUES {
            return Err(invalid(ConnectError::QUEUE));
        }
        if command.sq_size == 0 || command.sq_size >= limits::MAX_QUEUE_DEPTH {
            return Err(invalid(ConnectError::SQ_SIZE));
        }
        if !self.grant(key, command.sq_size + 1) {
            return Err((Status::CONNECT_CONTROLLER_BUSY, 0));
        }
        let own = self.config.core;
        let connection = self.connections.get_mut(key).ok_or((Status::INTERNAL_ERROR, 0))?;
        connection.start_queue(command.sq_size + 1, !command.flow_control_disabled());
        connection.host_nqn = Some(host.nqn.clone());
        connection.host_id = host.id;
        connection.phase = Phase::Joining(Box::new(Joining { cid, controller, qid: command.queue }));
        let join = Box::new(Join {
            controller,
            qid: command.queue,
            queue: QueueAt { core: own, connection: key },
            host_nqn: host.nqn,
            host_id: host.id,
        });
        if core == own {
            let result = self.admit(&join);
            self.joined(io, key, controller, command.queue, result);
        } else {
            self.outputs.messages.push(Envelope { to: core, message: Message::Join(join) });
        }
        Ok(())
    }

    /// What both kinds of Connect are checked for.
    fn check_connect(
        &self,
        command: &ConnectCommand,
        data: &ConnectData,
    ) -> Result<(Kind, HostIdentity), Refusal> {
        if command.record_format != 0 {
            return Err((Status::CONNECT_INCOMPATIBLE_FORMAT.with_dnr(), 0));
        }
        let subsystem =
            Nqn::from_field(&data.subsystem_nqn).map_err(|_| invalid(ConnectError::SUBSYSTEM_NQN))?;
        let kind = if subsystem == self.config.identity.subsystem {
            Kind::Io
        } else if subsystem.as_str() == Nqn::DISCOVERY {
            Kind::Discovery
        } else {
            return Err(invalid(ConnectError::SUBSYSTEM_NQN));
        };
        let nqn = Nqn::from_field(&data.host_nqn).map_err(|_| invalid(ConnectError::HOST_NQN))?;
        // A host of namespaces must be someone (Base 5.27.1.25); who only asks for the discovery log need not.
        if kind == Kind::Io && data.host_id == [0; 16] {
            return Err(invalid(ConnectError::HOST_ID));
        }
        Ok((kind, HostIdentity { nqn, id: data.host_id }))
    }

    /// Makes a connection the queue that its Connect asked for.
    fn adopt(&mut self, io: &mut Io, key: Key, command: &ConnectCommand, host: &HostIdentity, phase: Phase) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.start_queue(command.sq_size + 1, !command.flow_control_disabled());
        connection.host_nqn = Some(host.nqn.clone());
        connection.host_id = host.id;
        connection.since = io.now();
        connection.phase = phase;
        let settings = QueueSettings {
            in_capsule_bytes: IN_CAPSULE_BYTES,
            max_transfers: MAX_OPEN_R2TS.min(command.sq_size + 1),
        };
        connection.protocol.set_queue(settings);
    }

    // Between cores.

    /// A message of another core's target.
    pub(crate) fn take_message(&mut self, io: &mut Io, message: Message) {
        match message {
            Message::Join(join) => {
                let result = self.admit(&join);
                let (connection, controller, qid) = (join.queue.connection, join.controller, join.qid);
                let message =
                    Message::Joined { connection, membership: Membership { controller, qid }, result };
                self.outputs.messages.push(Envelope { to: join.queue.core, message });
            }
            Message::Joined { connection, membership, result } => {
                self.joined(io, connection, membership.controller, membership.qid, result);
            }
            Message::Leave { controller, qid, queue } => self.left(io, controller, qid, queue),
            Message::GiveUp { controller, qid, queue } => self.given_up(io, controller, (qid, queue)),
            Message::Close { connection } => self.close_with_controller(io, connection),
            Message::Settle { host_id, asks } => self.settle(io, host_id, asks),
            Message::Settled { connection } => self.settled(io, connection),
            Message::CalledOff { ticket } => self.called_off(ticket),
        }
    }

    /// Lets a queue join a controller of this core, or says why not.
    fn admit(&mut self, join: &Join) -> Result<(), Refusal> {
        let controller =
            self.controllers.get_mut(join.controller).ok_or(no_longer(ConnectError::CONTROLLER_ID))?;
        if controller.host.nqn != join.host_nqn {
            return Err(no_longer(ConnectError::HOST_NQN));
        }
        if controller.host.id != join.host_id {
            return Err(no_longer(ConnectError::HOST_ID));
        }
        if !controller.accepts_queues() {
            return Err((Status::COMMAND_SEQUENCE_ERROR, 0));
        }
        if join.qid > controller.features.granted_queues() {
            return Err(invalid(ConnectError::QUEUE));
        }
        controller.join(join.qid, join.queue).map_err(|status| (status, 0))
    }

    /// The controller's answer to a queue of this core.
    fn joined(&mut self, io: &mut Io, key: Key, controller: u16, qid: u16, result: Result<(), Refusal>) {
        let queue = QueueAt { core: self.config.core, connection: key };
        let waiting = |phase: &Phase| match phase {
            Phase::Joining(j) if (j.controller, j.qid) == (controller, qid) => Some(j.cid),
            _ => None,
        };
        let found = self.connections.get(key).and_then(|c| {
            let cid = waiting(&c.phase)?;
            Some((cid, c.host_nqn.clone()?, c.peer.ip(), c.sq_entries))
        });
        let Some((cid, nqn, peer, depth)) = found else {
            // It ended meanwhile.
            if result.is_ok() {
                self.leave(io, controller, qid, queue);
            }
            return;
        };
        let view = result.is_ok().then(|| self.hold_view(&nqn, peer));
        let Some(connection) = self.connections.get_mut(key) else { return };
        match result {
            Ok(()) => {
                connection.view = view;
                connection.phase = Phase::Io { controller, qid };
                let settings = QueueSettings {
                    in_capsule_bytes: IN_CAPSULE_BYTES,
                    max_transfers: MAX_OPEN_R2TS.min(depth),
                };
                connection.protocol.set_queue(settings);
                let cqe = connection.connected(cid, connect_response::success(controller));
                self.respond(io, key, cqe);
            }
            Err(refusal) => {
                connection.phase = Phase::Open;
                self.refuse(io, key, cid, refusal);
            }
        }
    }
}
