//! A command whose ranges are its own: check, load, decide, sequence, end.

use super::records::{Decision, decide};
use super::{straight::STRAIGHT, take_those};
use crate::{
    Done, Notice, Reply, ReservationCommand, VolumeError, Volumes,
    backing::{Backing, Log, Refusal, host_error},
    group,
    locks::Claim,
    op::{ControlOp, Kind, Op, OpId, Phase},
};
use dolmen_io::Stage;
use dolmen_store::{Done as StoreDone, Records, StoreError, Timing};
use dolmen_types::{Nanos, PgId};

/// Tickets of group openings: this bit and the group's number.
const OPENING: u64 = 1 << 63;

/// Tickets of batches of snapshots: this bit and a number. All others are [`OpId`]s.
const SNAPSHOT: u64 = 1 << 62;

/// The ticket of a group's opening.
pub(crate) fn opening_ticket(pg: PgId) -> u64 {
    OPENING | u64::from(pg.0)
}

/// The ticket of a batch of snapshots.
pub(crate) fn snapshot_ticket(number: u64) -> u64 {
    SNAPSHOT | number
}

impl Volumes {
    /// Runs a command whose claim is granted: takes the buffers that it needs all at once (so holders of buffers never
    /// wait for buffers), then loads. One at a time may take what hosts leave: they may have everything else, and wait for such commands.
    pub(crate) fn begin<L: Log>(&mut self, id: OpId, log: &mut L) {
        let now = log.now();
        if let Err(error) = self.check(id, now) {
            return self.finish(id, Err(error), log);
        }
        let op = self.ops.at(id);
        if let Kind::Control(control) = &op.kind
            && control.needs_quiet()
            && self.volumes[op.volume].straights > 0
        {
            // Reads that hold no range are under way; no new ones begin.
            op.phase = Phase::Ready;
            return self.starved.push_back(id);
        }
        let (image, spare) = op.memory();
        if image > 0 {
            let alone = self.equipped == 0;
            let alloc = |len| if alone { log.alloc_alone(len) } else { log.alloc(len) };
            let first = alloc(image);
            let second = if spare > 0 { alloc(spare) } else { None };
            if first.is_none() || (spare > 0 && second.is_none()) {
                op.phase = Phase::Ready;
                self.starved.push_back(id);
                return;
            }
            (op.image, op.spare) = (first, second);
            op.is_equipped = true;
            self.equipped += 1;
        }
        op.phase = Phase::Loading;
        op.stamps.mark(Stage::Granted, now);
        if matches!(op.kind, Kind::Allocation(_)) && !self.list_allocation(id, log) {
            return;
        }
        self.load(id, log);
    }

    /// May it still run? Asked when it is granted and again when it is to be sequenced: the deadline may have passed,
    /// the volume may have shrunk or be on its way out, and others may have taken reservations meanwhile.
    fn check(&mut self, id: OpId, now: Nanos) -> Result<(), VolumeError> {
        let op = self.ops.at(id);
        if matches!(op.kind, Kind::Control(_)) {
            return Ok(());
        }
        if let Some(error) = op.cancelled {
            return Err(error);
        }
        if now >= op.deadline {
            return Err(VolumeError::Expired);
        }
        let volume = &self.volumes[op.volume];
        if op.kind.access().is_some_and(|access| !volume.reservations.permits(&op.host, access)) {
            return Err(VolumeError::ReservationConflict);
        }
        let end = match &op.kind {
            Kind::Deallocate(spans) => spans.last().map_or(0, |s| s.end),
            Kind::Copy(sources) => sources.iter().map(|s| s.end).max().unwrap_or(0).max(op.span.end),
            _ => op.span.end,
        };
        if end > volume.size { Err(VolumeError::OutOfRange) } else { Ok(()) }
    }

    /// Reads what the command still needs, then decides. Returns while the log reads.
    fn load<L: Log>(&mut self, id: OpId, log: &mut L) {
        loop {
            let op = self.ops.at(id);
            let Some(load) = op.next_load() else { return self.decide(id, log) };
            let mut buf = op.take_target(&load);
            let volume = &self.volumes[op.volume];
            if let Backing::Durable(line) = volume.backing {
                return log.read(volume.descriptor.pg, line, load.first, buf, u64::from(id));
            }
            volume.backing.read_now(load.first, &mut buf);
            op.absorb(&load, buf);
        }
    }

    fn decide<L: Log>(&mut self, id: OpId, log: &mut L) {
        let now = log.now();
        let op = self.ops.at(id);
        if op.loads > 0
            && !matches!(op.kind, Kind::Read | Kind::Compare | Kind::Verify)
            && let Err(error) = self.check(id, now)
        {
            return self.finish(id, Err(error), log);
        }
        let op = self.ops.at(id);
        match decide(op, &self.volumes[op.volume]) {
            Decision::End(result) => self.finish(id, result, log),
            Decision::Append(records) => self.append(id, records, log),
        }
    }

    /// Tries again to sequence a command that the log had no room for.
    pub(crate) fn resend<L: Log>(&mut self, id: OpId, records: Records, log: &mut L) {
        let now = log.now();
        match self.check(id, now) {
            Ok(()) => self.append(id, records, log),
            Err(error) => {
                drop(records);
                self.finish(id, Err(error), log);
            }
        }
    }

    /// Sequences a decided command. From here on it will be done, whatever happens to its host.
    fn append<L: Log>(&mut self, id: OpId, records: Records, log: &mut L) {
        let now = log.now();
        let op = self.ops.at(id);
        let volume = &mut self.volumes[op.volume];
        match &mut volume.backing {
            Backing::Null => {
                self.sequenced(id);
                return self.finish(id, Ok(()), log);
            }
            Backing::Memory(blocks) => {
                let result = blocks.apply(&records);
                drop(records);
                if result.is_ok() {
                    self.sequenced(id);
                }
                return self.finish(id, result, log);
            }
            Backing::Durable(_) => {}
        }
        let group = self.groups[volume.descriptor.pg.0 as usize].as_mut();
        let group = group.filter(|g| g.phase == group::Phase::Open);
        let Some(group) = group else { return self.finish(id, Err(VolumeError::NotReady), log) };
        match log.append(group.batch(records), u64::from(id)) {
            Ok(()) => {
                group.sequenced();
                op.phase = Phase::Appending;
                op.stamps.mark(Stage::Sequenced, now);
                self.sequenced(id);
            }
            Err((batch, Refusal::Busy)) => {
                op.phase = Phase::Ready;
                self.unsent.push_back((id, batch.records));
            }
            Err((batch, refusal)) => {
                drop(batch);
                let stopped = refusal == Refusal::Stopped;
                let result = if stopped { Err(VolumeError::NotReady) } else { no_room(&op.kind) };
                if stopped {
                    let pg = volume.descriptor.pg;
                    self.stop_group(pg, log);
                }
                self.finish(id, result, log);
            }
        }
    }

    /// What holds from the moment of sequencing on, for every command that is sequenced later.
    fn sequenced(&mut self, id: OpId) {
        let op = self.ops.at(id);
        let volume = &mut self.volumes[op.volume];
        match &op.kind {
            Kind::Reserve(_, Some(outcome)) => {
                volume.reservations = outcome.next.clone();
                let (slot, hosts) = (op.volume, outcome.abort.clone());
                if !hosts.is_empty() {
                    self.preempt(slot, &hosts);
                }
            }
            Kind::Control(control) => {
                if let ControlOp::Update(next) = &**control {
                    volume.size = volume.size.min(next.size_bytes);
                }
            }
            _ => {}
        }
    }

    /// Preempt and Abort: commands of these hosts that are not sequenced yet never will be.
    fn preempt(&mut self, slot: usize, hosts: &[crate::HostId]) {
        let concerned = |op: &Op| {
            op.volume == slot
                && hosts.contains(&op.host)
                && op.kind.access().is_some()
                && op.phase != Phase::Appending
        };
        let ids: Vec<OpId> = self.ops.iter().filter(|(_, op)| concerned(op)).map(|(id, _)| id).collect();
        for id in ids {
            self.ops.at(id).cancelled = Some(VolumeError::Preempted);
        }
        self.next_sweep_now();
    }

    /// Answers those in backlogs that are late, whatever is before them.
    pub(crate) fn expire_backlogs<L: Log>(&mut self, log: &mut L) {
        let now = log.now();
        for at in 0..self.backlogs.len() {
            let slot = self.backlogs[at];
            for request in take_those(&mut self.volumes[slot].backlog, |request| now >= request.deadline) {
                self.backlogged -= 1;
                self.admit(request, log);
            }
        }
        let volumes = &self.volumes;
        self.backlogs.retain(|&slot| !volumes[slot].backlog.is_empty());
    }

    /// Ends commands that wait for overlapping ones and can no longer run in time, or were called off.
    pub(crate) fn expire_waiting<L: Log>(&mut self, log: &mut L) {
        let now = log.now();
        let late = |op: &Op| {
            op.phase == Phase::Waiting
                && !matches!(op.kind, Kind::Control(_))
                && (now >= op.deadline || op.cancelled.is_some())
        };
        let ids: Vec<OpId> = self.ops.iter().filter(|(_, op)| late(op)).map(|(id, _)| id).collect();
        for id in ids {
            let op = self.ops.at(id);
            if op.phase != Phase::Waiting {
                // The end of one before it granted it: it is about to run, and is checked then.
                continue;
            }
            let error = op.cancelled.unwrap_or(VolumeError::Expired);
            self.waiting -= 1;
            self.finish(id, Err(error), log);
        }
    }

    /// An operation of the log has ended.
    pub(crate) fn log_done<L: Log>(&mut self, done: StoreDone, log: &mut L) {
        if done.ticket.0 & STRAIGHT != 0 {
            return self.straight_done(done, log);
        }
        if done.ticket.0 & OPENING != 0 {
            return self.group_opened(done, log);
        }
        if done.ticket.0 & SNAPSHOT != 0 {
            return self.snapshot_op_ended(done, log);
        }
        let id = OpId::try_from(done.ticket.0).expect("tickets of commands are their ids");
        let op = self.ops.at(id);
        if done.timing.submitted.0 != 0 {
            let Timing { submitted, drive, work_ns, slowest } = done.timing;
            op.stamps.mark_drive(submitted, drive, work_ns, slowest);
        }
        if op.phase == Phase::Loading {
            if op.is_straight() && done.result.is_ok() && done.buf.is_some() {
                // Its one load is all that such a read does.
                op.buf = done.buf;
                return self.finish(id, Ok(()), log);
            }
            let load = op.next_load().expect("a read that ended was planned");
            match (done.result, done.buf) {
                (Ok(()), Some(buf)) => {
                    op.absorb(&load, buf);
                    self.load(id, log);
                }
                (result, buf) => {
                    if load.into == crate::op::Into::Data {
                        op.buf = buf;
                    }
                    let error = result.err().map_or(VolumeError::Media, |e| host_error(&e));
                    self.finish(id, Err(error), log);
                }
            }
            return;
        }
        let internal = matches!(op.kind, Kind::Reserve(..) | Kind::Control(_));
        let pg = self.volumes[op.volume].descriptor.pg;
        let result = match done.result {
            Ok(()) => Ok(()),
            Err(StoreError::Full) if !internal => no_room(&op.kind),
            Err(error) => {
                // Whether it took effect is unknown; only what a host wrote and found no space certainly did not.
                self.stop_group(pg, log);
                Err(host_error(&error))
            }
        };
        self.finish(id, result, log);
    }

    /// Ends a command: gives its ranges up, its buffers back, and the answer.
    pub(crate) fn finish<L: Log>(&mut self, id: OpId, result: Result<(), VolumeError>, log: &mut L) {
        let now = log.now();
        let mut op = self.ops.take(id);
        self.equipped -= usize::from(op.is_equipped);
        if let Some(claim) = op.claim.take() {
            self.release(op.volume, claim);
        }
        if let Kind::Control(control) = op.kind {
            return self.control_ended(*control, op.token, op.volume, result, log);
        }
        self.volumes[op.volume].commands -= 1;
        if let Some(whole) =
            op.sent.take().filter(|_| op.span.is_aligned() && !matches!(op.kind, Kind::Copy(_)))
        {
            let slot = if matches!(op.kind, Kind::CompareAndWrite) { &mut op.buf2 } else { &mut op.buf };
            *slot = whole.try_into_buf().ok();
        }
        let volume = &mut self.volumes[op.volume];
        let ns = op.stamps.at(Stage::Received).map_or(0, |at| now.since(at));
        match (&op.kind, &result) {
            (_, Err(_)) => volume.stats.failed += 1,
            (Kind::Read, _) => {
                volume.stats.read_bytes += op.span.len();
                volume.stats.reads.add(ns);
            }
            (Kind::Write | Kind::CompareAndWrite, _) => {
                volume.stats.write_bytes += op.span.len();
                volume.stats.writes.add(ns);
            }
            _ => volume.stats.others += 1,
        }
        let result = result.map(|()| match op.kind {
            Kind::Reserve(ReservationCommand::Report, _) => {
                Done::Report(Box::new(volume.reservations.report()))
            }
            Kind::Reserve(_, Some(outcome)) => {
                let (volume, nsid) = (volume.at, volume.descriptor.nsid);
                let notice = |(host, kind)| Notice { volume, nsid, host, kind };
                self.notices.extend(outcome.notices.into_iter().map(notice));
                Done::Ok
            }
            Kind::Allocation(extents) => Done::Allocation(extents),
            _ => Done::Ok,
        });
        let Op { token, from, buf, buf2, mut stamps, .. } = op;
        stamps.mark(Stage::Ended, now);
        self.reply_to(from, Reply { token, result, buf, buf2, stamps });
    }

    /// Gives a command's claim up; commands that this grants get ready.
    pub(super) fn release(&mut self, slot: usize, claim: Claim) {
        let mut granted = Vec::new();
        self.locks.release(&mut self.volumes[slot].locks, claim, &mut granted);
        for id in granted {
            self.ops.at(id).phase = Phase::Ready;
            self.waiting -= 1;
            self.ready.push_back(id);
        }
    }
}

/// What becomes of a command for which there is no space. Deallocate is advice: a host that gives blocks up need not hear that they are
/// still mapped (NVM command set 3.2.3), and what it trims next may make room.
fn no_room(kind: &Kind) -> Result<(), VolumeError> {
    match kind {
        Kind::Deallocate(_) => Ok(()),
        _ => Err(VolumeError::CapacityExceeded),
    }
}
