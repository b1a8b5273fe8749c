//! I/O commands: from the submission queue entry to the volume's request, and from the volume's reply to the host.

use crate::{
    connection::{Capsule, Connection, Stage},
    lifecycle::NewRequest,
    nvm::{self, Transfer},
    outbox::{ATTACH_BYTES, Outbox},
    reservation,
    slab::Key,
    status,
    target::{Late, Target},
    wire::Taken,
};
use dolmen_io::{Buf, Io, Reserve, Stage as Stamp};
use dolmen_nvme::{
    spec::{Cqe, DataPlan, Fuse, NvmOpcode, Sqe, Status},
    tcp::{C2hData, DIGEST_BYTES, DataDigest, DataEnd, MAX_HEADER_BYTES},
};
use dolmen_volume as volume;
use dolmen_volume::{Command, Done, Reply, VolumeRef};

const LENGTH_INVALID: Status = Status::DATA_SGL_LENGTH_INVALID.with_dnr();

impl Target {
    /// A command on an I/O queue.
    pub(crate) fn start_io(&mut self, io: &mut Io, key: Key, sqe: &Sqe, capsule_data: u32) -> Taken {
        if sqe.fuse() == Fuse::Normal && self.connections.get(key).is_some_and(|c| c.first_half.is_none()) {
            return match self.start_single(io, key, sqe, capsule_data) {
                Ok(taken) => taken,
                Err(status) => {
                    self.fail(io, key, sqe, status);
                    Taken::Yes
                }
            };
        }
        self.start_fused(io, key, sqe, capsule_data)
    }

    /// Checks a command, gets the memory it needs, and starts it.
    pub(crate) fn start_single(
        &mut self,
        io: &mut Io,
        key: Key,
        sqe: &Sqe,
        capsule_data: u32,
    ) -> Result<Taken, Status> {
        let Some(view) = self.connections.get(key).and_then(|c| c.view) else {
            return Err(Status::INTERNAL_ERROR);
        };
        let Some(plan) = nvm::plan(sqe, self.views.at(view))? else {
            self.succeed(io, key, sqe, 0);
            return Ok(Taken::Yes);
        };
        let volume = plan.space.volume;
        match plan.transfer {
            Transfer::FromHost { least, most } => {
                let plan = DataPlan::of(sqe, capsule_data)?;
                if !(least..=most).contains(&plan.length()) {
                    return Err(LENGTH_INVALID);
                }
                Ok(self.collect(io, key, sqe, plan))
            }
            Transfer::ToHost(length) | Transfer::Report(length) => {
                if DataPlan::of(sqe, capsule_data)? != (DataPlan::Transport { length }) {
                    return Err(LENGTH_INVALID);
                }
                let asks = self.connections.get(key).filter(|c| !c.is_congested(&self.config.bounds));
                let buf = asks.and_then(|c| io.pool().alloc_share(length as usize, c.holds()));
                let held = buf.as_ref().map_or(0, Buf::capacity);
                let stage = if buf.is_some() { Stage::Volume } else { Stage::Parked };
                let new = NewRequest { held, length, ..NewRequest::received(io) };
                let Some(request) = self.add_request(key, sqe, stage, new) else {
                    return Ok(Taken::NoMemory);
                };
                match buf {
                    Some(buf) => self.fetch(io, request, volume, buf),
                    None => self.park(key, request),
                }
                Ok(Taken::Yes)
            }
            Transfer::Nothing => {
                let new = NewRequest::received(io);
                let Some(request) = self.add_request(key, sqe, Stage::Volume, new) else {
                    return Ok(Taken::NoMemory);
                };
                match nvm::command(sqe, None) {
                    Ok(Some(command)) => self.submit(io, request, volume, command),
                    Ok(None) => self.complete(io, request, Status::SUCCESS),
                    Err(status) => self.complete(io, request, status),
                }
                Ok(Taken::Yes)
            }
        }
    }

    /// Sends a command that brings data for the host; a report's buffer stays here until there is a report.
    fn fetch(&mut self, io: &mut Io, request: Key, volume: VolumeRef, buf: Buf) {
        let Some(slot) = self.requests.get_mut(request) else { return };
        let sqe = slot.sqe;
        let given = if sqe.opcode == NvmOpcode::READ.0 {
            Some(buf)
        } else {
            slot.buf = Some(buf);
            None
        };
        match nvm::command(&sqe, given) {
            Ok(Some(command)) => self.submit(io, request, volume, command),
            Ok(None) => self.complete(io, request, Status::SUCCESS),
            Err(status) => self.complete(io, request, status),
        }
    }

    /// Lets a read wait for memory beside the stream.
    fn park(&mut self, key: Key, request: Key) {
        self.stats.traffic.stalls += 1;
        if let Some(connection) = self.connections.get_mut(key) {
            connection.counters.stalls += 1;
            connection.parked.push_back(request);
        }
        self.stall(key);
    }

    /// Starts reads that waited for memory, as far as there is some now.
    pub(crate) fn unpark(&mut self, io: &mut Io, key: Key, most: usize) {
        let mut left = most;
        loop {
            let Some(connection) = self.connections.get_mut(key) else { return };
            let Some(&request) = connection.parked.front() else { return };
            let Some(slot) = self.requests.get_mut(request) else {
                connection.parked.pop_front();
                continue;
            };
            let asks = left > 0 && !connection.is_congested(&self.config.bounds);
            let (length, holds) = (slot.length as usize, connection.holds());
            let Some(buf) = asks.then(|| io.pool().alloc_share(length, holds)).flatten() else {
                self.stall(key);
                return;
            };
            left -= 1;
            connection.parked.pop_front();
            connection.held_bytes += buf.capacity();
            slot.held = buf.capacity();
            let nsid = slot.sqe.nsid.get();
            let space = connection.view.and_then(|view| self.views.at(view).find(nsid));
            match space.map(|s| s.volume) {
                Some(volume) => self.fetch(io, request, volume, buf),
                None => self.abandon(io, request, Status::INVALID_NAMESPACE.with_dnr()),
            }
        }
    }

    /// Starts to collect a command's data: from the capsule at once, else by R2T when its turn comes.
    pub(crate) fn collect(&mut self, io: &mut Io, key: Key, sqe: &Sqe, plan: DataPlan) -> Taken {
        let request = match plan {
            DataPlan::InCapsule { offset, length } => {
                let Some(connection) = self.connections.get(key) else { return Taken::Yes };
                // Data that R2Ts have asked for comes behind this: it is not waited for.
                let holds = connection.holds().saturating_sub(connection.solicited_bytes);
                let room = holds < self.config.bounds.connection_bytes;
                let Some(buf) = room.then(|| io.pool().alloc_share(length as usize, holds)).flatten() else {
                    return Taken::NoMemory;
                };
                let (held, buf) = (buf.capacity(), Some(buf));
                let new = NewRequest { held, buf, length, ..NewRequest::received(io) };
                let Some(request) = self.add_request(key, sqe, Stage::Capsule, new) else {
                    return Taken::NoMemory;
                };
                if let Some(connection) = self.connections.get_mut(key) {
                    connection.capsule = Capsule::Request { request, offset };
                }
                request
            }
            DataPlan::Transport { length } => {
                let new = NewRequest { length, ..NewRequest::received(io) };
                let Some(request) = self.add_request(key, sqe, Stage::Unsolicited, new) else {
                    return Taken::NoMemory;
                };
                if let Some(connection) = self.connections.get_mut(key) {
                    connection.unsolicited.push_back(request);
                }
                request
            }
        };
        self.pair_up(key, request, sqe.fuse());
        if matches!(plan, DataPlan::Transport { .. }) {
            self.solicit(io, key, usize::MAX);
        }
        Taken::Yes
    }

    /// All data of an I/O command is here.
    pub(crate) fn io_data(&mut self, io: &mut Io, request: Key) {
        let Some(slot) = self.requests.get_mut(request) else { return };
        if let Some(status) = slot.verdict {
            self.abandon(io, request, status);
            return;
        }
        (slot.stage, slot.since) = (Stage::Half, io.now());
        let (sqe, key, partner) = (slot.sqe, slot.connection, slot.partner);
        // The namespace may have been hidden or deleted while the data came.
        let view = self.connections.get(key).and_then(|c| c.view);
        let space = view.and_then(|view| self.views.at(view).find(sqe.nsid.get()));
        let Some(volume) = space.map(|s| s.volume) else {
            self.abandon(io, request, Status::INVALID_NAMESPACE.with_dnr());
            return;
        };
        if sqe.fuse() == Fuse::Normal {
            let buf = self.requests.get_mut(request).and_then(|slot| slot.buf.take());
            match nvm::command(&sqe, buf) {
                Ok(Some(command)) => self.submit(io, request, volume, command),
                Ok(None) => self.complete(io, request, Status::SUCCESS),
                Err(status) => self.abandon(io, request, status),
            }
            return;
        }
        self.halves = true;
        let Some(partner) = partner else { return };
        if self.requests.get(partner).is_some_and(|p| p.stage == Stage::Half) {
            let (first, second) =
                if sqe.fuse() == Fuse::First { (request, partner) } else { (partner, request) };
            self.submit_pair(io, first, second, volume);
        }
    }

    pub(crate) fn submit(&mut self, io: &mut Io, request: Key, volume: VolumeRef, command: Command) {
        let Some(slot) = self.requests.get_mut(request) else { return };
        slot.stage = Stage::Volume;
        let mut stamps = slot.stamps;
        stamps.mark(Stamp::Handed, io.now());
        let host_id = self.connections.get(slot.connection).map_or([0; 16], |c| c.host_id);
        self.outputs.requests.push(volume::Request {
            token: request.bits(),
            from: self.config.core,
            volume,
            host_id,
            deadline: io.looked_before().plus_ms(self.config.timeouts.command_ms),
            stamps,
            command,
        });
    }

    // Replies.

    /// Answers a command that needed no volume.
    fn complete(&mut self, io: &mut Io, request: Key, status: Status) {
        let Some(slot) = self.free_request(request) else { return };
        self.answer(io, slot.connection, &slot.sqe, status);
    }

    fn answer(&mut self, io: &mut Io, key: Key, sqe: &Sqe, status: Status) {
        if status.is_success() {
            self.succeed(io, key, sqe, 0);
        } else {
            self.fail(io, key, sqe, status);
        }
    }

    /// A volume's reply.
    pub(crate) fn finish_request(&mut self, io: &mut Io, mut reply: Reply) {
        let request = Key::from_bits(reply.token);
        let Some(slot) = self.requests.get_mut(request) else { return };
        let (key, sqe, partner) = (slot.connection, slot.sqe, slot.partner);
        if slot.admin {
            self.volume_answered(io, request, reply.result);
            return;
        }
        let gone = self.connections.get(key).is_none_or(|c| c.is_over());
        if !gone && let Some(data) = self.data_of(request, &mut reply) {
            let Some(connection) = self.connections.get_mut(key) else { return };
            let length = data.len();
            if let Err(data) = stage_data(connection, &mut self.reserve, io, sqe.cid.get(), data) {
                match &reply.result {
                    Ok(Done::Report(_)) => {
                        if let Some(slot) = self.requests.get_mut(request) {
                            slot.buf = Some(data);
                        }
                    }
                    _ => reply.buf = Some(data),
                }
                self.put_off(Late::Reply(reply));
                return;
            }
            self.mark_dirty(key);
            self.count(key, sqe.opcode, length);
            self.release(io, request, key, &sqe, &reply);
            return;
        }
        let outcome = reply.result.as_ref().err().copied();
        if let Some(partner) = partner {
            let first = outcome.map_or(Status::SUCCESS, |e| status::of_fused(e).0);
            let second = outcome.map_or(Status::SUCCESS, |e| status::of_fused(e).1);
            let other = self.free_request(partner);
            if let (false, Some(other)) = (gone, other) {
                self.answer(io, key, &sqe, first);
                self.answer(io, key, &other.sqe, second);
                self.count(key, other.sqe.opcode, other.length as usize);
            }
        } else if !gone {
            let status = outcome.map_or(Status::SUCCESS, status::of);
            self.answer(io, key, &sqe, status);
        }
        let length = reply.buf.as_ref().map_or(0, |b| b.len());
        if !gone && outcome.is_none() {
            self.count(key, sqe.opcode, length);
        }
        self.release(io, request, key, &sqe, &reply);
    }

    /// The data that a successful reply carries to the host.
    fn data_of(&mut self, request: Key, reply: &mut Reply) -> Option<Buf> {
        match &reply.result {
            Ok(Done::Report(report)) => {
                let mut buf = self.requests.get_mut(request)?.buf.take()?;
                reservation::write_report(report, &mut buf);
                Some(buf)
            }
            Ok(Done::Ok) if self.requests.get(request)?.sqe.opcode == NvmOpcode::READ.0 => reply.buf.take(),
            _ => None,
        }
    }

    /// Gives an answered command's slot back, and lets go on what waited for it.
    fn release(&mut self, io: &mut Io, request: Key, key: Key, sqe: &Sqe, reply: &Reply) {
        self.trace(io, key, sqe, &reply.stamps, &reply.result);
        self.end_request(request);
        if self.draining {
            self.end_if_drained(io, key);
        }
    }

    fn count(&mut self, key: Key, opcode: u8, length: usize) {
        let bytes = u64::try_from(length).unwrap_or(0);
        let connection = self.connections.get_mut(key).map(|c| &mut c.counters);
        for counters in connection.into_iter().chain(Some(&mut self.stats.traffic)) {
            counters.note(NvmOpcode(opcode), bytes);
        }
    }
}

/// A data PDU whose header is written where the next bytes go; nothing of it counts yet.
pub(crate) struct Staged {
    /// Bytes of its header, which the data follows.
    pub(crate) header: usize,
    end: DataEnd,
}

/// Writes the header of a data PDU, with `room` behind it for data that is to be staged, digest and response. `None` when
/// there is no memory; otherwise nothing has happened until [`end_data`] or [`end_attached`].
#[inline]
pub(crate) fn begin_data(
    connection: &mut Connection,
    reserve: &mut Reserve,
    io: &Io,
    (cid, length): (u16, u32),
    room: usize,
) -> Option<Staged> {
    let end = if connection.flow_control { DataEnd::Last } else { DataEnd::LastAndSuccess };
    let need = 2 * MAX_HEADER_BYTES + room + DIGEST_BYTES;
    let Connection { outbox, protocol, .. } = connection;
    if !outbox.reserve(io, reserve, need) {
        return None;
    }
    let header = C2hData { cid, offset: 0, length, end };
    let header = protocol.write_c2h_data(outbox.room(), &header)?;
    outbox.expect_data();
    Some(Staged { header, end })
}

/// Ends a data PDU whose `bytes` of data lie behind its header: digest, and the command's response if it needs one.
#[inline]
pub(crate) fn end_data(connection: &mut Connection, cid: u16, staged: &Staged, bytes: usize) {
    let Connection { outbox, protocol, .. } = connection;
    let digest = protocol.finish_data(&mut outbox.room()[staged.header..], bytes).unwrap_or(0);
    outbox.commit(staged.header + bytes + digest);
    if staged.end == DataEnd::Last {
        stage_response(connection, &connection.completion(cid, Status::SUCCESS));
    }
}

/// Ends a data PDU whose data `attach` hangs behind its header, and adds to the digest where there is one.
pub(crate) fn end_attached(
    connection: &mut Connection,
    cid: u16,
    staged: &Staged,
    attach: impl FnOnce(&mut Outbox, Option<&mut DataDigest>),
) {
    let Connection { outbox, protocol, .. } = connection;
    outbox.commit(staged.header);
    let mut digest = protocol.negotiated().digests.data.then(DataDigest::new);
    attach(outbox, digest.as_mut());
    if let Some(digest) = digest {
        outbox.room()[..DIGEST_BYTES].copy_from_slice(&digest.finish());
        outbox.commit(DIGEST_BYTES);
    }
    if staged.end == DataEnd::Last {
        stage_response(connection, &connection.completion(cid, Status::SUCCESS));
    }
}

/// Stages data for the host and the end of its command; gives the data back when there is no memory.
pub(crate) fn stage_data(
    connection: &mut Connection,
    reserve: &mut Reserve,
    io: &Io,
    cid: u16,
    data: Buf,
) -> Result<(), Buf> {
    let Ok(length) = u32::try_from(data.len()) else { return Err(data) };
    let room = if data.len() >= ATTACH_BYTES { 0 } else { data.len() };
    let Some(staged) = begin_data(connection, reserve, io, (cid, length), room) else { return Err(data) };
    if room > 0 {
        connection.outbox.room()[staged.header..][..data.len()].copy_from_slice(&data);
        end_data(connection, cid, &staged, data.len());
    } else {
        end_attached(connection, cid, &staged, |outbox, digest| {
            if let Some(digest) = digest {
                digest.update(&data);
            }
            outbox.attach(data);
        });
    }
    Ok(())
}

/// Stages a response for which room was reserved.
#[inline]
pub(crate) fn stage_response(connection: &mut Connection, cqe: &Cqe) {
    let Connection { outbox, protocol, .. } = connection;
    outbox.respond(|room| protocol.write_response(room, cqe));
}
