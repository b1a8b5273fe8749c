//! Snapshots in the model: their names, their lives, and what volumes are made from them.
//!
//! A snapshot's name is taken until it is really gone. One whose deletion is durable stays `Deleting` while a clone of
//! it is there.

use super::{Command, Life, Model, Pending, RequestId, name_taken, rotation::Rotation, volume_occurrence};
use crate::{
    Error, Kind,
    event::{Component, Occurrence, Severity},
    plane::PlaneError,
    snapshot::SnapshotSpec,
    volume::{VolumeKey, VolumeSpec},
};
use dolmen_types::{
    LineId, PgId, Seq, UnixMillis, Uuid, limits,
    snapshot::{CloneSource, SnapshotDescriptor, SnapshotState},
    volume::{SectorSize, VolumeDescriptor, VolumeKind, VolumeState},
};
use std::collections::{BTreeMap, BTreeSet};

/// Snapshots whose time is over that one tick deletes at most. Count.
const MAX_EXPIRING: usize = 32;

/// A snapshot as users see it.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotView {
    /// The descriptor in force.
    pub descriptor: SnapshotDescriptor,
    /// Where it stands: creating, available or deleting.
    pub life: Life,
}

/// What the data plane has been asked for and hasn't answered.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Create(Option<RequestId>),
    Delete(Option<RequestId>),
}

#[derive(Debug)]
struct Held {
    descriptor: SnapshotDescriptor,
    asked: Option<Asked>,
    /// Set when an answer got lost: the first round of observation that settles it.
    doubt: Option<u64>,
}

impl Held {
    fn stored(descriptor: SnapshotDescriptor) -> Held {
        Held { descriptor, asked: None, doubt: None }
    }

    fn view(&self) -> SnapshotView {
        let deleting = self.descriptor.state == SnapshotState::Deleting;
        let life = match self.asked {
            Some(Asked::Create(_)) => Life::Creating,
            Some(Asked::Delete(_)) => Life::Deleting,
            None if deleting => Life::Deleting,
            None => Life::Available,
        };
        SnapshotView { descriptor: self.descriptor.clone(), life }
    }
}

/// All snapshots.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    by_uuid: BTreeMap<Uuid, Held>,
    /// By project and name.
    names: BTreeMap<(String, String), Uuid>,
    /// Which is to be deleted next when its time is over.
    expiring: Rotation,
}

impl Snapshots {
    fn insert(&mut self, held: Held) {
        let d = &held.descriptor;
        self.names.insert((d.project.clone(), d.name.clone()), d.uuid);
        self.by_uuid.insert(d.uuid, held);
    }

    fn remove(&mut self, uuid: &Uuid) -> Option<Held> {
        let held = self.by_uuid.remove(uuid)?;
        self.names.remove(&(held.descriptor.project.clone(), held.descriptor.name.clone()));
        Some(held)
    }

    fn find(&self, project: Option<&str>, key: &VolumeKey) -> Result<&Held, Error> {
        let (found, what) = match key {
            VolumeKey::Uuid(uuid) => {
                let held = self.by_uuid.get(uuid);
                (held.filter(|h| project.is_none_or(|p| h.descriptor.project == p)), uuid.to_string())
            }
            VolumeKey::Name(name) => {
                let project = project.unwrap_or(crate::volume::DEFAULT_PROJECT);
                let uuid = self.names.get(&(project.to_string(), name.clone()));
                (uuid.and_then(|uuid| self.by_uuid.get(uuid)), format!("'{name}'"))
            }
        };
        found.ok_or_else(|| Error::new(Kind::NotFound, format!("snapshot {what} does not exist")))
    }
}

impl Model {
    /// Takes over the snapshots of the log.
    pub fn restore_snapshots(&mut self, found: Vec<SnapshotDescriptor>) {
        for descriptor in found {
            self.used.line = self.used.line.max(descriptor.line);
            self.snapshots.insert(Held::stored(descriptor));
        }
    }

    /// A snapshot as users see it.
    pub fn snapshot(&self, project: Option<&str>, key: &VolumeKey) -> Result<SnapshotView, Error> {
        self.snapshots.find(project, key).map(Held::view)
    }

    /// All snapshots as users see them, in the order of their UUIDs, after `after`.
    pub fn snapshots(&self, after: Option<Uuid>) -> impl Iterator<Item = SnapshotView> + '_ {
        use std::ops::Bound::{Excluded, Unbounded};
        let range = (after.map_or(Unbounded, Excluded), Unbounded);
        self.snapshots.by_uuid.range(range).map(|(_, held)| held.view())
    }

    /// True while something is to happen at some time: see [`Input::Tick`](super::Input::Tick).
    #[must_use]
    pub fn wants_ticks(&self) -> bool {
        self.has_schedules() || self.snapshots.by_uuid.values().any(|h| h.descriptor.expires.is_some())
    }

    /// Snapshots of one project, of volumes that are to be taken together.
    pub(super) fn create_snapshots(
        &mut self,
        request: Option<RequestId>,
        wanted: Vec<(SnapshotSpec, Uuid)>,
        now: UnixMillis,
    ) -> Result<Vec<Command>, Error> {
        let mut descriptors: Vec<SnapshotDescriptor> = Vec::with_capacity(wanted.len());
        for (spec, uuid) in wanted {
            let descriptor = self.new_snapshot(spec, uuid, now)?;
            let together = |d: &SnapshotDescriptor| d.pg == descriptor.pg && d.volume != descriptor.volume;
            if !descriptors.iter().all(together) {
                let why = "snapshots of different volumes can be taken at one instant only if the volumes share a \
                           protection group";
                return Err(Error::invalid("volumes", why));
            }
            if descriptors.iter().any(|d| d.name == descriptor.name) {
                return Err(taken(&descriptor.name, &descriptor.project));
            }
            descriptors.push(descriptor);
        }
        for descriptor in &descriptors {
            let asked = Some(Asked::Create(request));
            self.snapshots.insert(Held { descriptor: descriptor.clone(), asked, doubt: None });
        }
        Ok(vec![Command::CreateSnapshots(descriptors)])
    }

    fn new_snapshot(
        &self,
        spec: SnapshotSpec,
        uuid: Uuid,
        now: UnixMillis,
    ) -> Result<SnapshotDescriptor, Error> {
        spec.check()?;
        if self.snapshots.names.contains_key(&(spec.project.clone(), spec.name.clone())) {
            return Err(taken(&spec.name, &spec.project));
        }
        if self.snapshots.by_uuid.len() >= limits::MAX_SNAPSHOTS as usize {
            let text = format!("the cluster has its {} snapshots; delete some first", limits::MAX_SNAPSHOTS);
            return Err(Error::new(Kind::ResourceExhausted, text));
        }
        let entry = self.entry(Some(&spec.project), &spec.volume)?;
        let volume = entry.descriptor();
        match entry.view().life {
            Life::Creating | Life::Rollback => {
                let text = format!("volume '{}' is just being changed; try again", volume.name);
                return Err(Error::new(Kind::Unavailable, text));
            }
            Life::Deleting => {
                return Err(Error::invalid(
                    "sourceVolumeName",
                    format!("'{}' is being deleted", volume.name),
                ));
            }
            Life::Available | Life::Updating => {}
        }
        if volume.kind != VolumeKind::Durable {
            return Err(Error::invalid("sourceVolumeName", "a test volume has no snapshots"));
        }
        Ok(SnapshotDescriptor {
            uuid,
            name: spec.name,
            project: spec.project,
            description: spec.description,
            volume: volume.uuid,
            volume_name: volume.name.clone(),
            pg: volume.pg,
            line: volume.line,
            at: Seq(0),
            size_bytes: volume.size_bytes,
            sector: volume.sector,
            compression: volume.compression,
            encryption: volume.encryption,
            mapped_blocks: 0,
            labels: volume.labels.clone(),
            created: now,
            expires: spec.retention_ms.map(|ms| UnixMillis(now.0.saturating_add(ms))),
            policy: spec.policy,
            revision: 1,
            state: SnapshotState::Available,
        })
    }

    pub(super) fn delete_snapshot(
        &mut self,
        request: RequestId,
        project: Option<&str>,
        key: &VolumeKey,
        expected: Option<u64>,
    ) -> Result<Vec<Command>, Error> {
        let held = self.snapshots.find(project, key)?;
        let d = &held.descriptor;
        match held.asked {
            None if d.state == SnapshotState::Deleting => {
                return Ok(vec![Command::AnswerSnapshots { request, result: Ok(vec![held.view()]) }]);
            }
            None if held.doubt.is_none() => {}
            _ => {
                let text = format!("snapshot '{}' is just being changed; try again", d.name);
                return Err(Error::new(Kind::Unavailable, text));
            }
        }
        if expected.is_some_and(|revision| revision != d.revision) {
            let text = format!("Etag mismatch: snapshot '{}' has ETag {}; read it again", d.name, d.revision);
            return Err(Error::new(Kind::FailedPrecondition, text));
        }
        let uuid = d.uuid;
        Ok(self.ask_deletion(uuid, Some(request)))
    }

    fn ask_deletion(&mut self, uuid: Uuid, request: Option<RequestId>) -> Vec<Command> {
        let Some(held) = self.snapshots.by_uuid.get_mut(&uuid) else { return Vec::new() };
        held.asked = Some(Asked::Delete(request));
        let (pg, expected_revision) = (held.descriptor.pg, held.descriptor.revision);
        vec![Command::DeleteSnapshot { uuid, pg, expected_revision }]
    }

    /// Deletes snapshots whose time is over.
    pub(super) fn expire(&mut self, now: UnixMillis) -> Vec<Command> {
        let over = |h: &Held| {
            h.view().life == Life::Available
                && h.doubt.is_none()
                && h.descriptor.expires.is_some_and(|at| at <= now)
        };
        let Snapshots { by_uuid, expiring, .. } = &self.snapshots;
        let late =
            expiring.order(|range| by_uuid.range(range).filter(|(_, h)| over(h)).map(|(uuid, _)| *uuid));
        let late: Vec<Uuid> = late.take(MAX_EXPIRING).collect();
        let mut commands = Vec::with_capacity(late.len());
        for uuid in late {
            self.snapshots.expiring.has_turn(uuid);
            commands.extend(self.ask_deletion(uuid, None));
        }
        commands
    }

    /// The data plane answered for these snapshots; `None` when it will never answer.
    pub(super) fn snapshots_answered(
        &mut self,
        uuids: &[Uuid],
        result: Option<Result<Vec<SnapshotDescriptor>, PlaneError>>,
    ) -> Vec<Command> {
        let next_round = self.round + 1;
        let (mut request, mut commands) = (None, Vec::new());
        let mut ran: Vec<SnapshotDescriptor> = Vec::new();
        for uuid in uuids {
            let Some(held) = self.snapshots.by_uuid.get_mut(uuid) else { continue };
            let asked = held.asked.take();
            request = match asked {
                Some(Asked::Create(request) | Asked::Delete(request)) => request,
                None => None,
            };
            match (&result, asked) {
                (None, _) => {
                    held.doubt = Some(next_round);
                    held.asked = match asked {
                        Some(Asked::Create(_)) => Some(Asked::Create(None)),
                        other => other.map(|_| Asked::Delete(None)),
                    };
                }
                (Some(Ok(done)), asked) => {
                    if let Some(d) = done.iter().find(|d| d.uuid == *uuid) {
                        held.descriptor = d.clone();
                    }
                    let what = match asked {
                        Some(Asked::Create(_)) => {
                            ran.push(held.descriptor.clone());
                            "SnapshotCreated"
                        }
                        _ => "SnapshotDeleted",
                    };
                    commands.push(Command::Record(occurrence(&held.descriptor, what)));
                }
                (Some(Err(_)), Some(Asked::Create(_))) => {
                    ran.extend(self.snapshots.remove(uuid).map(|held| held.descriptor));
                }
                (Some(Err(_)), _) => {}
            }
        }
        for taken in &ran {
            let refusal = match &result {
                Some(Err(why)) => Some(why.to_string()),
                _ => None,
            };
            commands.extend(self.schedule_ran(taken, refusal.as_deref().map_or(Ok(()), Err)));
        }
        let views = || uuids.iter().filter_map(|u| self.snapshots.by_uuid.get(u)).map(Held::view).collect();
        let told = match result {
            Some(Ok(_)) => Ok(views()),
            Some(Err(why)) => Err(Error::from(why)),
            None => {
                let text = "the data plane gave no answer; whether the change was made shows later";
                Err(Error::new(Kind::Unavailable, text))
            }
        };
        commands.extend(request.map(|request| Command::AnswerSnapshots { request, result: told }));
        commands
    }

    /// True while something about snapshots is only known to the data plane. One that a clone holds back is not asked
    /// about: its end follows that of the clone.
    pub(super) fn snapshots_want_observation(&self) -> bool {
        let mut leaving =
            self.snapshots.by_uuid.values().filter(|h| h.asked.is_none() && h.view().life == Life::Deleting);
        let held_back = |uuid: Uuid| {
            self.volumes.values().any(|e| e.descriptor().source.as_ref().is_some_and(|s| s.snapshot == uuid))
        };
        self.snapshots.by_uuid.values().any(|h| h.doubt.is_some())
            || leaving.any(|h| !held_back(h.descriptor.uuid))
    }

    /// The data plane's list of snapshots, asked for in `round`.
    pub(super) fn snapshots_observed(&mut self, round: u64, found: Vec<SnapshotDescriptor>) -> Vec<Command> {
        let found: BTreeMap<Uuid, SnapshotDescriptor> = found.into_iter().map(|d| (d.uuid, d)).collect();
        let settled: BTreeSet<Uuid> = self
            .snapshots
            .by_uuid
            .iter()
            .filter(|(uuid, h)| {
                let doubtful = h.doubt.is_some_and(|since| since <= round);
                let gone = h.asked.is_none() && h.view().life == Life::Deleting && !found.contains_key(uuid);
                doubtful || gone
            })
            .map(|(uuid, _)| *uuid)
            .collect();
        let mut commands = Vec::new();
        for uuid in settled {
            let Some(held) = self.snapshots.remove(&uuid) else { continue };
            if held.doubt.is_some() {
                let there = found.contains_key(&uuid);
                let result = if there { Ok(()) } else { Err("the data plane gave no answer") };
                commands.extend(self.schedule_ran(&held.descriptor, result));
            }
            match found.get(&uuid) {
                Some(descriptor) => self.snapshots.insert(Held::stored(descriptor.clone())),
                None if held.descriptor.state == SnapshotState::Deleting => {
                    commands.push(Command::Record(occurrence(&held.descriptor, "SnapshotErased")));
                }
                None => {}
            }
        }
        commands
    }

    /// What a volume takes from the snapshot that it is to be a clone of.
    pub(super) fn clone_plan(&self, spec: &VolumeSpec) -> Result<Option<ClonePlan>, Error> {
        let Some(key) = &spec.source else { return Ok(None) };
        let field = match key {
            VolumeKey::Uuid(_) => "sourceSnapshotUUID",
            VolumeKey::Name(_) => "sourceSnapshotName",
        };
        let held = self.snapshots.find(Some(&spec.project), key)?;
        let d = &held.descriptor;
        if held.view().life != Life::Available {
            return Err(Error::invalid(field, format!("snapshot '{}' is not available", d.name)));
        }
        if spec.kind != VolumeKind::Durable {
            return Err(Error::invalid("kind", "a clone is on the drives, as its snapshot is"));
        }
        if spec.size_bytes < d.size_bytes {
            let why = format!("a clone can't be smaller than its snapshot ({} bytes)", d.size_bytes);
            return Err(Error::invalid("size", why));
        }
        if spec.sector.is_some_and(|sector| sector != d.sector) {
            return Err(Error::invalid("sectorSize", format!("the snapshot has {}", d.sector.bytes())));
        }
        Ok(Some(ClonePlan {
            pg: d.pg,
            sector: d.sector,
            compression: d.compression,
            encryption: d.encryption,
            labels: d.labels.clone(),
            source: CloneSource { snapshot: d.uuid, name: d.name.clone() },
        }))
    }

    /// Puts a volume back to a snapshot of it.
    pub(super) fn rollback(
        &mut self,
        request: RequestId,
        project: Option<&str>,
        (key, snapshot): (&VolumeKey, &VolumeKey),
        expected: Option<u64>,
    ) -> Result<Vec<Command>, Error> {
        let entry = self.entry(project, key)?;
        entry.check_changeable(expected)?;
        let old = entry.descriptor();
        if old.state == VolumeState::Deleting {
            return Err(Error::new(Kind::InvalidArgument, format!("volume '{}' is being deleted", old.name)));
        }
        let field = match snapshot {
            VolumeKey::Uuid(_) => "srcSnapshotUUID",
            VolumeKey::Name(_) => "srcSnapshotName",
        };
        let held = self.snapshots.find(Some(&old.project), snapshot)?;
        let source = &held.descriptor;
        if held.view().life != Life::Available {
            return Err(Error::invalid(field, format!("snapshot '{}' is not available", source.name)));
        }
        if source.volume != old.uuid {
            let why = format!("snapshot '{}' is of another volume; make a clone of it instead", source.name);
            return Err(Error::invalid(field, why));
        }
        let (uuid, snapshot, size) = (old.uuid, source.uuid, source.size_bytes);
        let (compression, encryption) = (source.compression, source.encryption);
        let (line, save) = self.take_line();
        let entry = self.volumes.get_mut(&uuid).expect("entry() found it in this map");
        let old = entry.descriptor();
        let expected_revision = old.revision;
        // As the data plane does it: the size never becomes smaller under a host.
        let next = VolumeDescriptor {
            line,
            size_bytes: old.size_bytes.max(size),
            compression,
            encryption,
            revision: old.revision.saturating_add(1),
            ..old.clone()
        };
        entry.pending = Some(Pending::Rollback { request: Some(request), next: Box::new(next) });
        let mut commands: Vec<Command> = save.into_iter().collect();
        commands.push(Command::Rollback { uuid, snapshot, line, expected_revision });
        Ok(commands)
    }
}

/// What follows from a snapshot for its clone.
pub(super) struct ClonePlan {
    pub(super) pg: PgId,
    pub(super) sector: SectorSize,
    pub(super) compression: bool,
    pub(super) encryption: bool,
    pub(super) labels: Vec<(String, String)>,
    pub(super) source: CloneSource,
}

fn taken(name: &str, project: &str) -> Error {
    let volume = name_taken(name, project);
    Error::new(volume.kind, format!("a snapshot named '{name}' exists already in project '{project}'"))
}

fn occurrence(d: &SnapshotDescriptor, name: &str) -> Occurrence {
    let did = match name {
        "SnapshotCreated" => "taken",
        "SnapshotDeleted" => "deleted",
        _ => "has ended; what only it needed comes back",
    };
    Occurrence {
        component: Component::Volume,
        severity: Severity::Info,
        name: name.into(),
        subject: d.volume.to_string(),
        project: d.project.clone(),
        text: format!("snapshot '{}' ({}) of volume '{}' {did}", d.name, d.uuid, d.volume_name),
    }
}

/// The event of a volume's rollback.
pub(super) fn rolled_back(d: &VolumeDescriptor) -> Occurrence {
    volume_occurrence(d, "VolumeRolledBack", format!("volume '{}' ({}) rolled back", d.name, d.uuid))
}

/// A line's number on its way to use: what must be durable first.
pub(super) type TakenLine = (LineId, Option<Command>);
