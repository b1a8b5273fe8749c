//! Snapshots: taken, listed, compared, deleted.
//!
//! Taking one is one batch: it makes a point of the volume's line and puts the snapshot's record, which names the batch's
//! own sequence number; what was sequenced before is in it, what comes later is not. Several volumes of one group can be
//! in that batch. Deleting has two durable steps, as for volumes: first the record says `Deleting`; then, when no clone
//! of it is left, one batch drops the point and the record together.

use crate::{
    ControlDone, ControlError, ControlReply, ControlRequest, Health, SnapshotInfo, Volumes,
    backing::{Backing, Log, Refusal},
    control::ControlCommand,
    engine::snapshot_ticket,
    group::{Phase, kind},
    snapshot,
    volume::Life,
};
use dolmen_store::{
    DiffDone, DiffRequest, Done as StoreDone, Key, MAX_BATCH_RECORDS, MAX_CLONE_DEPTH, MAX_DIFF_RANGES,
    Record, Records, StoreError, Ticket, View,
};
use dolmen_types::{
    Lba, LineId, PgId, Seq, Uuid,
    limits::{BLOCK_BYTES, MAX_SNAPSHOTS},
    snapshot::{SnapshotDescriptor, SnapshotState},
};

/// Where a snapshot stands here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SnapshotLife {
    /// Its record is not durable yet; nobody knows of it.
    Creating,
    /// In use.
    Available,
    /// On its way out; nothing new may refer to it.
    Deleting,
    /// Its record was not understood; its point is left alone.
    Quarantined,
}

/// One snapshot.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// As it is durable.
    pub(crate) descriptor: SnapshotDescriptor,
    pub(crate) life: SnapshotLife,
    /// A batch of it is under way.
    busy: bool,
}

/// A batch under way.
#[derive(Debug)]
pub(crate) enum SnapshotOp {
    /// These are taken, of the volumes in these slots.
    Create { token: u64, uuids: Vec<Uuid>, slots: Vec<usize> },
    /// The record is put that says `Deleting`.
    Delete { token: u64, next: Box<SnapshotDescriptor> },
    /// Point and record are dropped. Nobody waits for an answer.
    Purge(Uuid),
}

impl Volumes {
    /// A snapshot that a recovered log holds.
    pub(crate) fn adopt_snapshot(&mut self, pg: PgId, id: u128, value: &[u8]) {
        let uuid = Uuid(id.to_be_bytes());
        let found = snapshot::decode(value).ok().filter(|d| d.uuid == uuid && d.pg == pg);
        let life = match found.as_ref().map(|d| d.state) {
            None => SnapshotLife::Quarantined,
            Some(SnapshotState::Available) => SnapshotLife::Available,
            Some(SnapshotState::Deleting) => SnapshotLife::Deleting,
        };
        if life == SnapshotLife::Deleting {
            self.snapshot_purges.push_back(uuid);
        }
        let descriptor = found.unwrap_or_else(|| unknown(uuid, pg));
        self.keep_snapshot(uuid, Snapshot { descriptor, life, busy: false });
    }

    fn keep_snapshot(&mut self, uuid: Uuid, snapshot: Snapshot) {
        let line = (snapshot.descriptor.volume, snapshot.descriptor.line);
        *self.snapshot_lines.entry(line).or_default() += 1;
        self.snapshots.insert(uuid, snapshot);
    }

    fn forget_snapshot(&mut self, uuid: &Uuid) {
        let Some(snapshot) = self.snapshots.remove(uuid) else { return };
        let line = (snapshot.descriptor.volume, snapshot.descriptor.line);
        if let Some(count) = self.snapshot_lines.get_mut(&line) {
            *count -= 1;
            if *count == 0 {
                self.snapshot_lines.remove(&line);
            }
        }
    }

    /// Lines that a volume had before it was rolled back and that snapshots of it name.
    pub(crate) fn former_lines(&self, volume: Uuid, now: LineId) -> Vec<LineId> {
        let all = self.snapshot_lines.range((volume, LineId(0))..=(volume, LineId(u64::MAX)));
        all.map(|((_, line), _)| *line).filter(|&line| line != now).collect()
    }

    /// Takes snapshots of volumes of one group, all at one instant.
    pub(crate) fn create_snapshots<L: Log>(
        &mut self,
        token: u64,
        mut wanted: Vec<SnapshotDescriptor>,
        log: &mut L,
    ) -> Result<Option<ControlDone>, ControlError> {
        let slots = self.snapshot_slots(&wanted)?;
        let pg = self.volumes[slots[0]].descriptor.pg;
        let group = self.groups[pg.0 as usize].as_mut().filter(|g| g.phase == Phase::Open);
        let Some(group) = group else { return Err(ControlError::NotReady) };
        let mut records = Records::new();
        for (d, &slot) in wanted.iter_mut().zip(&slots) {
            let volume = &self.volumes[slot].descriptor;
            d.volume_name.clone_from(&volume.name);
            d.project.clone_from(&volume.project);
            d.labels.clone_from(&volume.labels);
            (d.pg, d.line, d.at) = (pg, volume.line, group.next());
            (d.size_bytes, d.sector) = (volume.size_bytes, volume.sector);
            (d.compression, d.encryption) = (volume.compression, volume.encryption);
            // What was overwritten since the last checkpoint counts twice.
            let most = volume.size_bytes.div_ceil(BLOCK_BYTES as u64);
            d.mapped_blocks = log.usage(pg, volume.line, &[]).mapped_blocks.min(most);
            (d.revision, d.state) = (1, SnapshotState::Available);
            snapshot::check(d)?;
            records.push(Record::Snapshot { line: d.line });
            records.push(put(d));
        }
        match self.send(pg, records, log) {
            Ok(ticket) => {
                slots.iter().for_each(|&slot| self.volumes[slot].changing = true);
                let uuids = wanted.iter().map(|d| d.uuid).collect();
                self.snapshot_ops.insert(ticket, SnapshotOp::Create { token, uuids, slots });
                for descriptor in wanted {
                    let life = SnapshotLife::Creating;
                    self.keep_snapshot(descriptor.uuid, Snapshot { descriptor, life, busy: true });
                }
                Ok(None)
            }
            Err(Refusal::Busy) => {
                let command = ControlCommand::CreateSnapshots(wanted);
                self.control_inbox.push_back(ControlRequest { token, command });
                Ok(None)
            }
            Err(Refusal::Full) => Err(ControlError::TooMany),
            // Two records each.
            Err(Refusal::TooLarge(fit)) => Err(ControlError::TooManyTogether { fit: fit / 2 }),
            Err(Refusal::Stopped) => Err(ControlError::NotReady),
        }
    }

    /// The volumes of snapshots that may be taken together.
    fn snapshot_slots(&self, wanted: &[SnapshotDescriptor]) -> Result<Vec<usize>, ControlError> {
        let invalid = |reason| Err(ControlError::Invalid { field: "volumes", reason });
        if wanted.is_empty() || 2 * wanted.len() > MAX_BATCH_RECORDS {
            return invalid("must be 1 to 256");
        }
        if self.snapshots.len() + wanted.len() > MAX_SNAPSHOTS as usize {
            return Err(ControlError::TooMany);
        }
        let mut slots = Vec::with_capacity(wanted.len());
        for (n, d) in wanted.iter().enumerate() {
            let slot = self.named(d.volume)?;
            let volume = &self.volumes[slot];
            match volume.life {
                Life::Serving => {}
                Life::Deleting => return Err(ControlError::Deleting),
                _ => return Err(ControlError::NotReady),
            }
            if !matches!(volume.backing, Backing::Durable(_)) {
                return invalid("must be on the drives: test volumes have no snapshots");
            }
            if slots.contains(&slot) {
                return invalid("must all be different");
            }
            if volume.descriptor.pg != self.volumes[*slots.first().unwrap_or(&slot)].descriptor.pg {
                return invalid("must be of one protection group to be taken at one instant");
            }
            if self.snapshots.contains_key(&d.uuid) || wanted[..n].iter().any(|other| other.uuid == d.uuid) {
                return Err(ControlError::Exists);
            }
            slots.push(slot);
        }
        Ok(slots)
    }

    /// Deletes a snapshot: answered when that is durable.
    pub(crate) fn delete_snapshot<L: Log>(
        &mut self,
        token: u64,
        uuid: Uuid,
        expected_revision: Option<u64>,
        log: &mut L,
    ) -> Result<Option<ControlDone>, ControlError> {
        let found = self.snapshots.get(&uuid).filter(|s| s.life != SnapshotLife::Creating);
        let Some(found) = found else { return Err(ControlError::NotFound) };
        match found.life {
            SnapshotLife::Quarantined => return Err(ControlError::NotReady),
            SnapshotLife::Deleting => return Ok(Some(ControlDone::Snapshots(vec![self.told(found)]))),
            _ => {}
        }
        let revision = found.descriptor.revision;
        if expected_revision.is_some_and(|expected| expected != revision) {
            return Err(ControlError::Conflict { revision });
        }
        let mut next = found.descriptor.clone();
        (next.state, next.revision) = (SnapshotState::Deleting, revision + 1);
        let records: Records = [put(&next)].into_iter().collect();
        match self.send(next.pg, records, log) {
            Ok(ticket) => {
                if let Some(snapshot) = self.snapshots.get_mut(&uuid) {
                    (snapshot.life, snapshot.busy) = (SnapshotLife::Deleting, true);
                }
                self.snapshot_ops.insert(ticket, SnapshotOp::Delete { token, next: Box::new(next) });
                Ok(None)
            }
            Err(Refusal::Busy) => {
                let command = ControlCommand::DeleteSnapshot { uuid, expected_revision };
                self.control_inbox.push_back(ControlRequest { token, command });
                Ok(None)
            }
            Err(_) => Err(ControlError::NotReady),
        }
    }

    /// Sequences the end of deleted snapshots that no clone needs any more.
    pub(crate) fn run_snapshot_purges<L: Log>(&mut self, log: &mut L) {
        for _ in 0..self.snapshot_purges.len() {
            let Some(uuid) = self.snapshot_purges.pop_front() else { break };
            let gone = |s: &&Snapshot| s.life == SnapshotLife::Deleting;
            let Some(snapshot) = self.snapshots.get(&uuid).filter(gone) else { continue };
            if self.clones_of(uuid) > 0 {
                // The last of them puts it into the queue again.
                continue;
            }
            let (pg, line, at) = (snapshot.descriptor.pg, snapshot.descriptor.line, snapshot.descriptor.at);
            if snapshot.busy {
                self.snapshot_purges.push_back(uuid);
                continue;
            }
            let delete = Record::Delete { key: key(uuid) };
            let records: Records = [Record::DropSnapshot { line, at }, delete].into_iter().collect();
            match self.send(pg, records, log) {
                Ok(ticket) => {
                    if let Some(snapshot) = self.snapshots.get_mut(&uuid) {
                        snapshot.busy = true;
                    }
                    self.snapshot_ops.insert(ticket, SnapshotOp::Purge(uuid));
                }
                Err(_) => self.snapshot_purges.push_back(uuid),
            }
        }
    }

    /// A clone is gone: its snapshot may be waiting for that.
    pub(crate) fn clone_gone(&mut self, source: Uuid) {
        if self.snapshots.get(&source).is_some_and(|s| s.life == SnapshotLife::Deleting) {
            self.snapshot_purges.push_back(source);
        }
    }

    /// A batch of snapshots is durable, or was not done.
    pub(crate) fn snapshot_op_ended<L: Log>(&mut self, done: StoreDone, log: &mut L) {
        let Some(op) = self.snapshot_ops.remove(&done.ticket.0) else { return };
        let mut failed = |volumes: &mut Volumes, uuid: &Uuid| {
            // Whether it took effect is unknown: nothing more may be sequenced.
            if let Some(pg) = volumes.snapshots.get(uuid).map(|s| s.descriptor.pg) {
                volumes.stop_group(pg, log);
            }
            ControlError::NotReady
        };
        let ok = done.result.is_ok();
        let (token, result) = match op {
            SnapshotOp::Create { token, uuids, slots } => {
                slots.iter().for_each(|&slot| self.volumes[slot].changing = false);
                if !ok {
                    let error = failed(self, &uuids[0]);
                    uuids.iter().for_each(|uuid| self.forget_snapshot(uuid));
                    (token, Err(error))
                } else {
                    uuids.iter().for_each(|uuid| self.settle_snapshot(uuid, SnapshotLife::Available));
                    (token, Ok(uuids))
                }
            }
            SnapshotOp::Delete { token, next } if ok => {
                let uuid = next.uuid;
                self.settle_snapshot(&uuid, SnapshotLife::Deleting);
                if let Some(snapshot) = self.snapshots.get_mut(&uuid) {
                    snapshot.descriptor = *next;
                }
                self.snapshot_purges.push_back(uuid);
                (token, Ok(vec![uuid]))
            }
            SnapshotOp::Delete { token, next } => {
                self.settle_snapshot(&next.uuid, SnapshotLife::Available);
                (token, Err(failed(self, &next.uuid)))
            }
            SnapshotOp::Purge(uuid) => {
                if ok {
                    self.forget_snapshot(&uuid);
                } else {
                    self.settle_snapshot(&uuid, SnapshotLife::Deleting);
                    failed(self, &uuid);
                }
                return;
            }
        };
        let result = result.map(|uuids| {
            let all = uuids.iter().filter_map(|uuid| self.snapshots.get(uuid));
            ControlDone::Snapshots(all.map(|s| self.told(s)).collect())
        });
        self.control_replies.push(ControlReply { token, result });
    }

    /// All snapshots, by UUID.
    pub(crate) fn list_snapshots(&self) -> Vec<SnapshotInfo> {
        let known = self.snapshots.values().filter(|s| s.life != SnapshotLife::Creating);
        known.map(|s| self.told(s)).collect()
    }

    /// Where a clone of a snapshot (or a volume that is rolled back to it) begins, if it may.
    pub(crate) fn origin<L: Log>(&self, uuid: Uuid, log: &L) -> Result<(LineId, Seq), ControlError> {
        let invalid = |reason| Err(ControlError::Invalid { field: "source", reason });
        let Some(snapshot) = self.snapshots.get(&uuid) else {
            return invalid("no such snapshot in this protection group");
        };
        match snapshot.life {
            SnapshotLife::Available => {}
            SnapshotLife::Quarantined => return Err(ControlError::NotReady),
            _ => return invalid("the snapshot is not available"),
        }
        let (pg, line) = (snapshot.descriptor.pg, snapshot.descriptor.line);
        const { assert!(MAX_CLONE_DEPTH == 16, "the text says so") };
        if ancestry(pg, line, log).count() >= MAX_CLONE_DEPTH {
            return invalid(
                "16 clones and rollbacks lie one over the other already, which is the most: take an older snapshot, one from before the \
                 last rollback or of the volume that was cloned, or copy the data to a new volume",
            );
        }
        Ok((line, snapshot.descriptor.at))
    }

    /// Lists what differs between two snapshots; the answer comes later.
    pub(crate) fn diff<L: Log>(
        &mut self,
        token: u64,
        request: &crate::DiffQuery,
        log: &mut L,
    ) -> Result<Option<ControlDone>, ControlError> {
        let usable = |s: &&Snapshot| !matches!(s.life, SnapshotLife::Creating | SnapshotLife::Quarantined);
        let find = |uuid: &Uuid| self.snapshots.get(uuid).filter(usable).map(|s| &s.descriptor);
        let to = find(&request.snapshot).ok_or(ControlError::NotFound)?;
        let from = match &request.base {
            None => None,
            Some(uuid) => Some(find(uuid).ok_or(ControlError::NotFound)?),
        };
        let root = |d: &SnapshotDescriptor| ancestry(d.pg, d.line, log).last();
        if from.is_some_and(|from| from.pg != to.pg || root(from) != root(to)) {
            let reason = "is of another volume, which has no ancestor in common";
            return Err(ControlError::Invalid { field: "base", reason });
        }
        let view = |d: &SnapshotDescriptor| View { line: d.line, at: Some(d.at) };
        let end = Lba(to.size_bytes.max(from.map_or(0, |d| d.size_bytes)) / BLOCK_BYTES as u64);
        let question = DiffRequest {
            from: from.map(view),
            to: view(to),
            first: request.first,
            end,
            limit: request.limit.clamp(1, MAX_DIFF_RANGES),
        };
        let pg = to.pg;
        log.diff(pg, question, Ticket(token));
        self.diffs += 1;
        Ok(None)
    }

    /// Answers for listings that have ended.
    pub(crate) fn take_diffs<L: Log>(&mut self, log: &mut L) {
        if self.diffs == 0 {
            return;
        }
        let mut ended: Vec<DiffDone> = Vec::new();
        log.drain_diffs(&mut ended);
        for done in ended {
            self.diffs -= 1;
            let Some(done) = self.take_listing(done, log) else { continue };
            let result = match done.result {
                Ok(page) => Ok(ControlDone::Diff(page)),
                Err(StoreError::Refused(_)) => Err(ControlError::Busy),
                Err(StoreError::NoSnapshot { .. } | StoreError::NoLine(_)) => Err(ControlError::NotFound),
                Err(_) => Err(ControlError::NotReady),
            };
            self.control_replies.push(ControlReply { token: done.ticket.0, result });
        }
    }

    /// Volumes that were cloned from a snapshot and are still there.
    fn clones_of(&self, uuid: Uuid) -> usize {
        let is_clone = |v: &&crate::volume::Volume| {
            v.life != Life::Free && v.descriptor.source.as_ref().is_some_and(|s| s.snapshot == uuid)
        };
        self.volumes.iter().filter(is_clone).count()
    }

    fn told(&self, snapshot: &Snapshot) -> SnapshotInfo {
        let health = match snapshot.life {
            SnapshotLife::Quarantined => Health::Quarantined,
            _ => Health::Good,
        };
        SnapshotInfo { descriptor: snapshot.descriptor.clone(), health }
    }

    fn settle_snapshot(&mut self, uuid: &Uuid, life: SnapshotLife) {
        if let Some(snapshot) = self.snapshots.get_mut(uuid) {
            (snapshot.life, snapshot.busy) = (life, false);
        }
    }

    /// Sequences a batch of ours; its ticket.
    fn send<L: Log>(&mut self, pg: PgId, records: Records, log: &mut L) -> Result<u64, Refusal> {
        let group = self.groups[pg.0 as usize].as_mut().filter(|g| g.phase == Phase::Open);
        let Some(group) = group else { return Err(Refusal::Stopped) };
        self.next_snapshot_op += 1;
        let ticket = snapshot_ticket(self.next_snapshot_op);
        match log.append(group.batch(records), ticket) {
            Ok(()) => {
                group.sequenced();
                Ok(ticket)
            }
            Err((_, refusal)) => {
                if refusal == Refusal::Stopped {
                    self.stop_group(pg, log);
                }
                Err(refusal)
            }
        }
    }
}

/// A line, what it was cloned from, and so on.
fn ancestry<L: Log>(pg: PgId, line: LineId, log: &L) -> impl Iterator<Item = LineId> {
    let parent = move |line: &LineId| log.line(pg, *line).and_then(|info| info.parent).map(|(line, _)| line);
    std::iter::successors(Some(line), parent).take(MAX_CLONE_DEPTH)
}

fn key(uuid: Uuid) -> Key {
    Key { kind: kind::SNAPSHOT, id: u128::from_be_bytes(uuid.0) }
}

fn put(d: &SnapshotDescriptor) -> Record {
    Record::Put { key: key(d.uuid), value: snapshot::encode(d).into() }
}

/// What stands for the descriptor of a snapshot whose record was not understood.
fn unknown(uuid: Uuid, pg: PgId) -> SnapshotDescriptor {
    SnapshotDescriptor {
        uuid,
        name: String::new(),
        project: String::new(),
        description: String::new(),
        volume: Uuid::NIL,
        volume_name: String::new(),
        pg,
        line: LineId(0),
        at: Seq(0),
        size_bytes: 0,
        sector: dolmen_types::volume::SectorSize::B4096,
        compression: false,
        encryption: false,
        mapped_blocks: 0,
        labels: Vec::new(),
        created: dolmen_types::UnixMillis(0),
        expires: None,
        policy: None,
        revision: 0,
        state: SnapshotState::Available,
    }
}
