//! Snapshots in the model: their names and their lives. What volumes take from them is in `clones.rs`.
//!
//! A snapshot's name is taken until it is really gone. One whose deletion is durable stays `Deleting` while a clone of
//! it is there.

use super::{Command, Life, Model, RequestId, name_taken, rotation::Rotation, volume_occurrence};
use crate::{
    Error, Kind,
    event::{Component, Occurrence, Severity},
    plane::PlaneError,
    snapshot::SnapshotSpec,
    volume::VolumeKey,
};
use dolmen_types::{
    LineId, Seq, UnixMillis, Uuid, limits,
    snapshot::{CloneSource, SnapshotDescriptor, SnapshotState},
    volume::{VolumeDescriptor, VolumeKind},
};
use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

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
pub(super) struct Held {
    pub(super) descriptor: SnapshotDescriptor,
    asked: Option<Asked>,
    /// Set when an answer got lost: the first round of observation that settles it.
    doubt: Option<u64>,
    /// The first round of observation that tells whether one that is leaving is gone. Lists of rounds before may be older than the snapshot.
    gone_from: u64,
}

impl Held {
    fn stored(descriptor: SnapshotDescriptor) -> Held {
        Held { descriptor, asked: None, doubt: None, gone_from: 0 }
    }

    pub(super) fn life(&self) -> Life {
        match self.asked {
            Some(Asked::Create(_)) => Life::Creating,
            Some(Asked::Delete(_)) => Life::Deleting,
            None if self.is_leaving() => Life::Deleting,
            None => Life::Available,
        }
    }

    /// True once its deletion is durable.
    fn is_leaving(&self) -> bool {
        self.asked.is_none() && self.descriptor.state == SnapshotState::Deleting
    }

    /// True if it is gone when it is not in the list of this round.
    fn can_be_gone(&self, round: u64) -> bool {
        self.is_leaving() && self.gone_from <= round
    }

    /// True when its time is over and nothing stands in the way of its deletion.
    fn is_over(&self, now: UnixMillis) -> bool {
        self.life() == Life::Available
            && self.doubt.is_none()
            && self.descriptor.expires.is_some_and(|at| at <= now)
    }

    fn view(&self) -> SnapshotView {
        SnapshotView { descriptor: self.descriptor.clone(), life: self.life() }
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
    /// How many volumes are clones of each, of those that have any. It follows the volumes.
    clones: BTreeMap<Uuid, u32>,
    /// Those of which something is only known to the data plane; [`Snapshots::note`] keeps it.
    unsettled: BTreeSet<Uuid>,
}

impl Snapshots {
    fn insert(&mut self, held: Held) {
        let d = &held.descriptor;
        let uuid = d.uuid;
        self.names.insert((d.project.clone(), d.name.clone()), uuid);
        self.by_uuid.insert(uuid, held);
        self.note(uuid);
    }

    fn remove(&mut self, uuid: &Uuid) -> Option<Held> {
        let held = self.by_uuid.remove(uuid)?;
        self.names.remove(&(held.descriptor.project.clone(), held.descriptor.name.clone()));
        self.unsettled.remove(uuid);
        Some(held)
    }

    /// Looks whether a snapshot that changed has to be asked about. One that a clone holds back has not: its end follows that of the
    /// clone.
    fn note(&mut self, uuid: Uuid) {
        let ends = |h: &Held| h.is_leaving() && !self.clones.contains_key(&uuid);
        if self.by_uuid.get(&uuid).is_some_and(|h| h.doubt.is_some() || ends(h)) {
            self.unsettled.insert(uuid);
        } else {
            self.unsettled.remove(&uuid);
        }
    }

    /// A volume is there, or on its way, that is a clone.
    pub(super) fn clone_came(&mut self, source: &CloneSource) {
        *self.clones.entry(source.snapshot).or_default() += 1;
        self.note(source.snapshot);
    }

    /// A volume is gone that was a clone.
    pub(super) fn clone_went(&mut self, source: &CloneSource) {
        if let Entry::Occupied(mut count) = self.clones.entry(source.snapshot) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        self.note(source.snapshot);
    }

    pub(super) fn find(&self, project: Option<&str>, key: &VolumeKey) -> Result<&Held, Error> {
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
        self.has_schedules()
            || self.refusals_want_ticks()
            || self.snapshots.by_uuid.values().any(|h| h.descriptor.expires.is_some())
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
            self.snapshots.insert(Held { asked, ..Held::stored(descriptor.clone()) });
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
        if let Ok(held) = self.snapshots.find(Some(&spec.project), &VolumeKey::Name(spec.name.clone())) {
            let clones = self.snapshots.clones.contains_key(&held.descriptor.uuid);
            return Err(if held.is_leaving() && clones {
                let text = format!(
                    "the snapshot '{}' was deleted, and its name is free once its clones are deleted too",
                    spec.name
                );
                Error::new(Kind::AlreadyExists, text)
            } else {
                taken(&spec.name, &spec.project)
            });
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
        self.snapshots.note(uuid);
        vec![Command::DeleteSnapshot { uuid, pg, expected_revision }]
    }

    /// How many snapshots would be deleted now, if the clock was believed; `None` for none.
    #[must_use]
    pub fn overdue(&self, now: UnixMillis) -> Option<usize> {
        Some(self.snapshots.by_uuid.values().filter(|h| h.is_over(now)).count()).filter(|count| *count > 0)
    }

    /// Deletes snapshots whose time is over.
    pub(super) fn expire(&mut self, now: UnixMillis) -> Vec<Command> {
        let Snapshots { by_uuid, expiring, .. } = &self.snapshots;
        let over = |h: &Held| h.is_over(now);
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
                        held.gone_from = next_round;
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
            self.snapshots.note(*uuid);
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

    /// True while something about snapshots is only known to the data plane.
    pub(super) fn snapshots_want_observation(&self) -> bool {
        !self.snapshots.unsettled.is_empty()
    }

    /// The same, told from the snapshots and volumes themselves.
    #[cfg(test)]
    pub(super) fn snapshots_are_unsettled(&self) -> bool {
        let sources = self.volumes.values().filter_map(|e| Some(e.descriptor().source.as_ref()?.snapshot));
        let held_back: BTreeSet<Uuid> = sources.collect();
        let ends = |h: &Held| h.view().life == Life::Deleting && h.asked.is_none();
        let mut all = self.snapshots.by_uuid.iter();
        all.any(|(uuid, h)| h.doubt.is_some() || (ends(h) && !held_back.contains(uuid)))
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
                let gone = h.can_be_gone(round) && !found.contains_key(uuid);
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
