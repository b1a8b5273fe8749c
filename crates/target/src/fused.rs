//! Fused pairs: a Compare and a Write that are carried out as one (Base 3.4.2).
//!
//! The halves come one behind the other, each with data of its own. What is here waits for the rest, but not for ever: a half holds
//! memory that others may need, perhaps even its other half.

use crate::{
    connection::{Connection, FirstHalf, Request, Stage},
    nvm,
    slab::Key,
    target::Target,
    wire::Taken,
};
use dolmen_io::Io;
use dolmen_nvme::spec::{Fuse, NvmOpcode, Sqe, Status};
use dolmen_volume::{Command, VolumeRef};

const FAILED_FUSED: Status = Status::ABORTED_FAILED_FUSED.with_dnr();
const MISSING_FUSED: Status = Status::ABORTED_MISSING_FUSED.with_dnr();

impl Target {
    /// A fused command, or an ordinary one that follows a first half (Base 3.4.2).
    pub(crate) fn start_fused(&mut self, io: &mut Io, key: Key, sqe: &Sqe, capsule_data: u32) -> Taken {
        let Some(connection) = self.connections.get_mut(key) else { return Taken::Yes };
        let waiting = connection.first_half;
        match (sqe.fuse(), waiting) {
            (Fuse::Second, None) => self.fail(io, key, sqe, MISSING_FUSED),
            (Fuse::Second, Some(FirstHalf::Refused)) => {
                connection.first_half = None;
                self.fail(io, key, sqe, FAILED_FUSED);
            }
            (Fuse::Second, Some(FirstHalf::Request(first))) => {
                return self.start_second(io, key, first, sqe, capsule_data);
            }
            (_, Some(FirstHalf::Request(first))) => {
                connection.first_half = None;
                self.abandon_waiting(io, first, MISSING_FUSED);
                return self.start_io(io, key, sqe, capsule_data);
            }
            (_, Some(FirstHalf::Refused)) => {
                connection.first_half = None;
                return self.start_io(io, key, sqe, capsule_data);
            }
            (Fuse::First, None) if sqe.opcode == NvmOpcode::COMPARE.0 => {
                return match self.start_single(io, key, sqe, capsule_data) {
                    Ok(taken) => taken,
                    Err(status) => {
                        self.refuse_first(io, key, sqe, status);
                        Taken::Yes
                    }
                };
            }
            (Fuse::First, None) => self.refuse_first(io, key, sqe, Status::INVALID_FIELD.with_dnr()),
            _ => self.fail(io, key, sqe, Status::INVALID_FIELD.with_dnr()),
        }
        Taken::Yes
    }

    fn refuse_first(&mut self, io: &mut Io, key: Key, sqe: &Sqe, status: Status) {
        self.fail(io, key, sqe, status);
        if let Some(connection) = self.connections.get_mut(key) {
            connection.first_half = Some(FirstHalf::Refused);
        }
    }

    fn start_second(&mut self, io: &mut Io, key: Key, first: Key, sqe: &Sqe, capsule_data: u32) -> Taken {
        let before = self.requests.get(first).map(|r| r.sqe);
        let pair_ok = before.is_some_and(|f| nvm::is_pair(&f, sqe));
        let started = if pair_ok {
            self.start_single(io, key, sqe, capsule_data)
        } else {
            Err(Status::INVALID_FIELD.with_dnr())
        };
        match started {
            Ok(Taken::NoMemory) => return Taken::NoMemory,
            Ok(Taken::Yes) => {}
            Err(status) => {
                if let Some(connection) = self.connections.get_mut(key) {
                    connection.first_half = None;
                }
                self.abandon_waiting(io, first, FAILED_FUSED);
                self.fail(io, key, sqe, status);
            }
        }
        Taken::Yes
    }

    /// The first half that a connection has waiting for its second, with all of its data.
    pub(crate) fn waiting_half(&self, connection: &Connection) -> Option<&Request> {
        let Some(FirstHalf::Request(first)) = connection.first_half else { return None };
        self.requests.get(first).filter(|r| r.stage == Stage::Half)
    }

    /// Fails halves of fused pairs whose other halves did not follow in time, or found no memory: what they hold may be just
    /// what others' wait for.
    pub(crate) fn abandon_halves(&mut self, io: &mut Io) {
        if !self.halves {
            return;
        }
        let (now, ms) = (io.now(), self.config.timeouts.pdu_ms);
        let waits = |r: &Request| r.stage == Stage::Half && !r.admin;
        let late = self.requests.keys(|r| waits(r) && now > r.since.plus_ms(ms));
        for half in late {
            let Some(request) = self.requests.get(half) else { continue };
            let status = if request.partner.is_some() { Status::COMMAND_INTERRUPTED } else { MISSING_FUSED };
            self.abandon(io, half, status);
        }
        self.halves = self.requests.iter().any(|(_, r)| waits(r));
    }

    /// Fails a first half for which no second half will come.
    fn abandon_waiting(&mut self, io: &mut Io, first: Key, status: Status) {
        let Some(slot) = self.requests.get_mut(first) else { return };
        slot.verdict = Some(status);
        if matches!(slot.stage, Stage::Half | Stage::Unsolicited) {
            self.abandon(io, first, status);
        }
    }

    /// Remembers a first half; ties a second half to it.
    pub(crate) fn pair_up(&mut self, key: Key, request: Key, fuse: Fuse) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        match (fuse, connection.first_half) {
            (Fuse::First, _) => connection.first_half = Some(FirstHalf::Request(request)),
            (Fuse::Second, Some(FirstHalf::Request(first))) => {
                connection.first_half = None;
                for (a, b) in [(first, request), (request, first)] {
                    if let Some(slot) = self.requests.get_mut(a) {
                        slot.partner = Some(b);
                    }
                }
            }
            _ => {}
        }
    }

    /// Both halves are here: they are one command.
    pub(crate) fn submit_pair(&mut self, io: &mut Io, first: Key, second: Key, volume: VolumeRef) {
        let take = |target: &mut Target, key: Key| {
            let slot = target.requests.get_mut(key)?;
            slot.stage = Stage::Volume;
            Some((slot.sqe, slot.buf.take()?))
        };
        let (Some((sqe, compare)), Some((_, write))) = (take(self, first), take(self, second)) else {
            return;
        };
        let rw = sqe.read_write();
        let command = Command::CompareAndWrite { lba: rw.start, blocks: rw.blocks, compare, write };
        self.submit(io, first, volume, command);
    }
}
