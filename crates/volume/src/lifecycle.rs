//! The life of volumes: create, update, delete, and the end of a deletion.
//!
//! A volume's control requests run one at a time. Deleting has two durable steps. First the descriptor says `Deleting`:
//! from the moment it is asked no new command gets in, and once it is durable the deletion is answered and cannot be
//! undone. Then, when the last command has ended, one batch drops the line and removes descriptor and reservations
//! together: there is no state in between to come back to after a crash, which finds either a volume that is `Deleting`
//! (and goes on) or none.

use crate::{
    Change, ControlCommand, ControlDone, ControlError, ControlReply, ControlRequest, Shrink, VolumeError,
    VolumeInfo, VolumeUpdate, Volumes,
    backing::{Backing, Log},
    descriptor,
    group::Phase as GroupPhase,
    op::{ControlOp, Kind, Op, Phase},
    open::is_locked,
    qos,
    span::Span,
    volume::{Life, Volume, slot_ref},
};
use dolmen_io::Stamps;
use dolmen_store::LineUsage;
use dolmen_types::{
    LineId, Nanos, PgId, Uuid,
    limits::MAX_VOLUMES,
    volume::{VolumeDescriptor, VolumeKind, VolumeState},
};

impl Volumes {
    /// Starts the control requests that can start; those of a volume that is being changed wait, in order.
    pub(crate) fn run_control<L: Log>(&mut self, log: &mut L) {
        for _ in 0..self.control_inbox.len() {
            let Some(request) = self.control_inbox.pop_front() else { break };
            if self.ops.is_full(0) || self.must_wait(&request.command) {
                self.control_inbox.push_back(request);
                continue;
            }
            let ControlRequest { token, command } = request;
            let now = match command {
                ControlCommand::Create(descriptor) => self.create(token, *descriptor, log),
                ControlCommand::Update { uuid, update } => self.update(token, uuid, *update, log),
                ControlCommand::Delete { uuid, expected_revision } => {
                    self.delete(token, uuid, expected_revision, log)
                }
                ControlCommand::Rollback { uuid, snapshot, line, expected_revision } => {
                    self.rollback(token, (uuid, snapshot), line, expected_revision, log)
                }
                ControlCommand::CreateSnapshots(wanted) => self.create_snapshots(token, wanted, log),
                ControlCommand::DeleteSnapshot { uuid, expected_revision } => {
                    self.delete_snapshot(token, uuid, expected_revision, log)
                }
                ControlCommand::Diff(query) => self.diff(token, &query, log),
                ControlCommand::ListSnapshots => Ok(Some(ControlDone::Snapshots(self.list_snapshots()))),
                ControlCommand::Show(uuid) => self.named(uuid).map(|slot| Some(self.shown(slot, log))),
                ControlCommand::List => Ok(Some(ControlDone::List(self.list(log)))),
            };
            match now {
                Ok(None) => {}
                Ok(Some(done)) => self.control_replies.push(ControlReply { token, result: Ok(done) }),
                Err(error) => self.control_replies.push(ControlReply { token, result: Err(error) }),
            }
        }
    }

    /// True while another control request of a volume that this one concerns is under way.
    fn must_wait(&self, command: &ControlCommand) -> bool {
        let changing = |uuid: &Uuid| self.by_uuid.get(uuid).is_some_and(|&slot| self.volumes[slot].changing);
        match command {
            ControlCommand::Create(d) => changing(&d.uuid),
            ControlCommand::Update { uuid, .. }
            | ControlCommand::Delete { uuid, .. }
            | ControlCommand::Rollback { uuid, .. } => changing(uuid),
            ControlCommand::CreateSnapshots(wanted) => wanted.iter().any(|d| changing(&d.volume)),
            // The volume may be on its way back to it.
            ControlCommand::DeleteSnapshot { uuid, .. } => {
                self.snapshots.get(uuid).is_some_and(|s| changing(&s.descriptor.volume))
            }
            ControlCommand::Diff(_)
            | ControlCommand::Show(_)
            | ControlCommand::List
            | ControlCommand::ListSnapshots => false,
        }
    }

    /// Sequences the end of deleted volumes.
    pub(crate) fn run_purges<L: Log>(&mut self, log: &mut L) {
        for _ in 0..self.purges.len() {
            let Some(slot) = self.purges.pop_front() else { break };
            let pg = self.volumes[slot].descriptor.pg;
            if self.ops.is_full(0) || (self.is_durable(slot) && self.phase_of(pg) != GroupPhase::Open) {
                self.purges.push_back(slot);
                continue;
            }
            self.start(0, slot, ControlOp::Purge, log);
        }
    }

    fn create<L: Log>(
        &mut self,
        token: u64,
        mut descriptor: VolumeDescriptor,
        log: &mut L,
    ) -> Result<Option<ControlDone>, ControlError> {
        descriptor.state = VolumeState::Available;
        descriptor.revision = 1;
        descriptor::check(&descriptor)?;
        let pg = descriptor.pg;
        if self.groups[pg.0 as usize].is_none() {
            let reason = "this core is not the home of that protection group";
            return Err(ControlError::Invalid { field: "pg", reason });
        }
        if let Some(&slot) = self.by_uuid.get(&descriptor.uuid) {
            let there = &self.volumes[slot];
            if there.life == Life::Deleting {
                return Err(ControlError::Deleting);
            }
            let known =
                VolumeDescriptor { revision: 1, created: descriptor.created, ..there.descriptor.clone() };
            let same = there.life == Life::Serving && known == descriptor;
            return if same { Ok(Some(self.shown(slot, log))) } else { Err(ControlError::Exists) };
        }
        if self.by_uuid.len() >= MAX_VOLUMES as usize {
            return Err(ControlError::TooMany);
        }
        let live = self.volumes.iter().filter(|v| v.life != Life::Free);
        if live.into_iter().any(|v| v.descriptor.nsid == descriptor.nsid) {
            return Err(ControlError::Invalid { field: "nsid", reason: "is in use by another volume" });
        }
        if descriptor.kind == VolumeKind::Durable && self.phase_of(pg) != GroupPhase::Open {
            return Err(ControlError::NotReady);
        }
        if descriptor.encryption && !log.has_key(pg, descriptor.line) {
            return Err(no_key());
        }
        let origin = match &descriptor.source {
            None => None,
            Some(source) => {
                let origin = self.origin(source.snapshot, log)?;
                self.check_clone(&descriptor)?;
                Some(origin)
            }
        };
        let slot = self.place(Life::Creating, descriptor);
        self.start(token, slot, ControlOp::Create(origin), log);
        Ok(None)
    }

    /// A clone must hold what its source holds, and in the same way.
    fn check_clone(&self, clone: &VolumeDescriptor) -> Result<(), ControlError> {
        let invalid = |field, reason| Err(ControlError::Invalid { field, reason });
        let source = clone.source.as_ref().and_then(|source| self.snapshots.get(&source.snapshot));
        let Some(source) = source.map(|s| &s.descriptor) else { return Ok(()) };
        if clone.kind != VolumeKind::Durable || clone.pg != source.pg {
            return invalid("pg", "a clone is of its source's protection group");
        }
        if clone.size_bytes < source.size_bytes {
            return invalid("size_bytes", "must not be smaller than the snapshot's");
        }
        if clone.sector != source.sector {
            return invalid("sector", "must be that of the snapshot");
        }
        if clone.compression != source.compression {
            return invalid("compression", "must be that of the snapshot");
        }
        if clone.encryption != source.encryption {
            return invalid("encryption", "must be that of the snapshot");
        }
        Ok(())
    }

    fn rollback<L: Log>(
        &mut self,
        token: u64,
        (uuid, snapshot): (Uuid, Uuid),
        line: LineId,
        expected_revision: Option<u64>,
        log: &mut L,
    ) -> Result<Option<ControlDone>, ControlError> {
        let slot = self.named(uuid)?;
        self.may_change(slot, expected_revision)?;
        if self.volumes[slot].life == Life::Deleting {
            return Err(ControlError::Deleting);
        }
        let origin = self.origin(snapshot, log)?;
        let source = &self.snapshots[&snapshot].descriptor;
        let mut next = self.volumes[slot].descriptor.clone();
        if source.volume != uuid {
            return Err(ControlError::Invalid { field: "source", reason: "is a snapshot of another volume" });
        }
        if line.0 == 0 || line == next.line {
            return Err(ControlError::Invalid { field: "line", reason: "must be a new one" });
        }
        if source.encryption && !log.has_key(source.pg, line) {
            return Err(no_key());
        }
        next.line = line;
        next.size_bytes = next.size_bytes.max(source.size_bytes);
        (next.compression, next.encryption) = (source.compression, source.encryption);
        next.revision += 1;
        self.start(token, slot, ControlOp::Rollback(next, origin), log);
        Ok(None)
    }

    fn update<L: Log>(
        &mut self,
        token: u64,
        uuid: Uuid,
        update: VolumeUpdate,
        log: &mut L,
    ) -> Result<Option<ControlDone>, ControlError> {
        let slot = self.named(uuid)?;
        let volume = &self.volumes[slot];
        self.may_change(slot, update.expected_revision)?;
        if volume.life == Life::Deleting {
            return Err(ControlError::Deleting);
        }
        let mut next = volume.descriptor.clone();
        let VolumeUpdate { expected_revision: _, name, size_bytes, shrink, acl, ip_acl, labels, qos } =
            update;
        next.name = name.unwrap_or(next.name);
        next.acl = acl.unwrap_or(next.acl);
        next.ip_acl = ip_acl.unwrap_or(next.ip_acl);
        next.labels = labels.unwrap_or(next.labels);
        next.qos = qos.unwrap_or(next.qos);
        next.size_bytes = size_bytes.unwrap_or(next.size_bytes);
        descriptor::check(&next)?;
        if next.size_bytes < volume.descriptor.size_bytes && shrink == Shrink::Refuse {
            return Err(ControlError::Invalid { field: "size_bytes", reason: "must not become smaller" });
        }
        if next == volume.descriptor {
            return Ok(Some(self.shown(slot, log)));
        }
        next.revision += 1;
        self.start(token, slot, ControlOp::Update(next), log);
        Ok(None)
    }

    fn delete<L: Log>(
        &mut self,
        token: u64,
        uuid: Uuid,
        expected_revision: Option<u64>,
        log: &mut L,
    ) -> Result<Option<ControlDone>, ControlError> {
        let slot = self.named(uuid)?;
        if self.volumes[slot].life == Life::Deleting {
            return Ok(Some(self.shown(slot, log)));
        }
        self.may_delete(slot, expected_revision)?;
        let volume = &mut self.volumes[slot];
        volume.life = Life::Deleting;
        let mut next = volume.descriptor.clone();
        next.state = VolumeState::Deleting;
        next.revision += 1;
        self.let_all_on(slot, log);
        self.start(token, slot, ControlOp::Delete(next), log);
        Ok(None)
    }

    /// A volume may change when it is understood and its key is here, at the expected revision, and its group takes records.
    fn may_change(&self, slot: usize, expected: Option<u64>) -> Result<(), ControlError> {
        self.may_delete(slot, expected)?;
        if self.volumes[slot].life == Life::Locked { Err(ControlError::NotReady) } else { Ok(()) }
    }

    /// It may be deleted without its key too.
    fn may_delete(&self, slot: usize, expected: Option<u64>) -> Result<(), ControlError> {
        let volume = &self.volumes[slot];
        let revision = volume.descriptor.revision;
        if expected.is_some_and(|e| e != revision) {
            return Err(ControlError::Conflict { revision });
        }
        let closed = self.is_durable(slot) && self.phase_of(volume.descriptor.pg) != GroupPhase::Open;
        if closed || volume.life == Life::Quarantined { Err(ControlError::NotReady) } else { Ok(()) }
    }

    /// Begins a control operation; its end is [`Volumes::control_ended`].
    fn start<L: Log>(&mut self, token: u64, slot: usize, control: ControlOp, log: &mut L) {
        self.volumes[slot].changing = true;
        let op = Op {
            kind: Kind::Control(Box::new(control)),
            token,
            from: self.core,
            volume: slot,
            host: [0; 16],
            deadline: Nanos(u64::MAX),
            stamps: Stamps::default(),
            span: Span::default(),
            buf: None,
            buf2: None,
            claim: None,
            phase: Phase::Ready,
            loads: 0,
            image: None,
            spare: None,
            is_equipped: false,
            sent: None,
            cancelled: None,
        };
        self.claim_for(op, log);
    }

    /// A control operation is durable, or was not done.
    pub(crate) fn control_ended<L: Log>(
        &mut self,
        control: ControlOp,
        token: u64,
        slot: usize,
        result: Result<(), VolumeError>,
        log: &mut L,
    ) {
        let volume = &mut self.volumes[slot];
        volume.changing = false;
        if matches!(control, ControlOp::Purge) {
            match result {
                Ok(()) => self.vacate(slot),
                Err(_) => self.purges.push_back(slot),
            }
            return;
        }
        if let Err(error) = result {
            match control {
                ControlOp::Create(_) => {
                    let uuid = volume.descriptor.uuid;
                    self.vacate_quietly(slot, uuid);
                }
                ControlOp::Delete(_) if is_locked(&volume.descriptor, log) => volume.life = Life::Locked,
                ControlOp::Delete(_) => volume.life = Life::Serving,
                ControlOp::Update(_) | ControlOp::Rollback(..) | ControlOp::Purge => {
                    volume.size = volume.descriptor.size_bytes;
                }
            }
            let result = Err(match error {
                VolumeError::Busy => ControlError::Busy,
                VolumeError::CapacityExceeded => ControlError::TooMany,
                _ => ControlError::NotReady,
            });
            self.control_replies.push(ControlReply { token, result });
            return;
        }
        match control {
            ControlOp::Create(_) | ControlOp::Purge => volume.life = Life::Serving,
            ControlOp::Update(next) | ControlOp::Rollback(next, _) => {
                if matches!(volume.backing, Backing::Durable(_)) {
                    volume.backing = Backing::Durable(next.line);
                }
                volume.size = next.size_bytes;
                volume.descriptor = next;
                volume.throttle.set(volume.descriptor.qos.as_ref(), volume.size, log.now());
                self.let_all_on(slot, log);
            }
            ControlOp::Delete(next) => {
                volume.descriptor = next;
                self.purges.push_back(slot);
            }
        }
        let info = self.info(slot, log);
        self.changes.push(Change::Present(Box::new(info.clone())));
        let result = Ok(ControlDone::Volume(Box::new(info)));
        self.control_replies.push(ControlReply { token, result });
    }

    /// Lets on the commands that wait for the volume's rate: it has changed, or there is nothing to wait for any more.
    fn let_all_on<L: Log>(&mut self, slot: usize, log: &mut L) {
        for direction in qos::DIRECTIONS {
            self.let_on(slot, direction, log);
        }
    }

    /// A slot for a volume.
    pub(crate) fn place(&mut self, life: Life, descriptor: VolumeDescriptor) -> usize {
        let uuid = descriptor.uuid;
        let slot = match self.free_slots.pop() {
            Some(slot) => {
                let at = slot_ref(self.core, slot, self.volumes[slot].at.generation.wrapping_add(1));
                self.volumes[slot] = Volume::new(at, life, descriptor);
                slot
            }
            None => {
                let slot = self.volumes.len();
                self.volumes.push(Volume::new(slot_ref(self.core, slot, 1), life, descriptor));
                slot
            }
        };
        self.by_uuid.insert(uuid, slot);
        slot
    }

    /// The volume is gone.
    fn vacate(&mut self, slot: usize) {
        let uuid = self.volumes[slot].descriptor.uuid;
        self.vacate_quietly(slot, uuid);
        self.changes.push(Change::Gone(uuid));
    }

    fn vacate_quietly(&mut self, slot: usize, uuid: Uuid) {
        let volume = &mut self.volumes[slot];
        volume.life = Life::Free;
        volume.backing = Backing::Null;
        let source = volume.descriptor.source.as_ref().map(|source| source.snapshot);
        let backlog = std::mem::take(&mut volume.backlog);
        self.backlogs.retain(|&other| other != slot);
        self.backlogged -= backlog.len();
        // They are told that it is gone when they are looked at.
        backlog.into_iter().for_each(|request| self.submit(request));
        self.by_uuid.remove(&uuid);
        self.free_slots.push(slot);
        if let Some(source) = source {
            self.clone_gone(source);
        }
    }

    /// The slot of a volume that the control side may know of.
    pub(crate) fn named(&self, uuid: Uuid) -> Result<usize, ControlError> {
        let slot = self.by_uuid.get(&uuid).copied();
        slot.filter(|&slot| self.volumes[slot].life != Life::Creating).ok_or(ControlError::NotFound)
    }

    fn is_durable(&self, slot: usize) -> bool {
        matches!(self.volumes[slot].backing, Backing::Durable(_))
    }

    fn phase_of(&self, pg: PgId) -> GroupPhase {
        let group = self.groups.get(pg.0 as usize).and_then(Option::as_ref);
        group.map_or(GroupPhase::Closed, |g| g.phase)
    }

    pub(crate) fn info<L: Log>(&self, slot: usize, log: &L) -> VolumeInfo {
        let volume = &self.volumes[slot];
        let pg = volume.descriptor.pg;
        let usage = match &volume.backing {
            Backing::Durable(_) if volume.life == Life::Quarantined => LineUsage::default(),
            Backing::Durable(line) => log.usage(pg, *line, &self.former_lines(volume.descriptor.uuid, *line)),
            Backing::Memory(blocks) => LineUsage { mapped_blocks: blocks.len(), ..LineUsage::default() },
            Backing::Null => LineUsage::default(),
        };
        let stopped = self.is_durable(slot) && self.phase_of(pg) == GroupPhase::Stopped;
        volume.info(usage, stopped)
    }

    fn shown<L: Log>(&self, slot: usize, log: &L) -> ControlDone {
        ControlDone::Volume(Box::new(self.info(slot, log)))
    }

    fn list<L: Log>(&self, log: &L) -> Vec<VolumeInfo> {
        let known = |slot: &usize| !matches!(self.volumes[*slot].life, Life::Free | Life::Creating);
        (0..self.volumes.len()).filter(known).map(|slot| self.info(slot, log)).collect()
    }
}

/// What is encrypted needs its line's key before its first record.
fn no_key() -> ControlError {
    ControlError::Invalid { field: "encryption", reason: "needs the key of its line, which is not here" }
}
