//! Snapshot policies in the model: which there are, and which snapshots they want now.
//!
//! A policy goes with its volume. Its run counts when the snapshot is durable, so one that was refused is tried again at
//! the next tick, and after a crash the newest snapshot of a policy tells when it last ran.

use super::{Command, Model, rotation::Rotation};
use crate::{
    Error, Kind,
    event::{Component, Occurrence, Severity},
    schedule::{MAX_SNAPSHOT_POLICIES, Schedule, SnapshotPolicy, before},
    snapshot::SnapshotSpec,
    volume::VolumeKey,
};
use dolmen_types::{UnixMillis, Uuid, snapshot::SnapshotDescriptor};
use std::collections::BTreeMap;

/// One policy.
#[derive(Debug)]
struct Held {
    policy: SnapshotPolicy,
    /// A snapshot is on its way.
    running: bool,
    /// The last try failed, and that was told.
    failing: bool,
}

/// All snapshot policies.
#[derive(Debug, Default)]
pub(super) struct Schedules {
    by_uuid: BTreeMap<Uuid, Held>,
    /// Which takes its snapshot next when it is due.
    running: Rotation,
}

/// What a user wants of a snapshot policy.
#[derive(Clone, Debug)]
pub struct SchedulePlan {
    /// Unique in the project.
    pub name: String,
    /// The tenant.
    pub project: String,
    /// The volume.
    pub volume: VolumeKey,
    /// For people.
    pub description: String,
    /// How often.
    pub schedule: Schedule,
    /// How long its snapshots are kept. Milliseconds.
    pub retention_ms: Option<u64>,
    /// When that was asked for: earlier times are not made up. Where no start was named, it is this.
    pub asked: UnixMillis,
}

impl Model {
    /// Takes over the snapshot policies of the state file; after the snapshots, which know better when they last ran. Those of
    /// a time to come do not: the clock was ahead.
    pub fn restore_schedules(&mut self, stored: Vec<SnapshotPolicy>, now: UnixMillis) {
        for mut policy in stored {
            let taken = self.snapshots(None).filter(|s| s.descriptor.policy == Some(policy.uuid));
            let newest = taken.map(|s| s.descriptor.created).filter(|at| *at <= now).max();
            policy.last = newest.map_or(policy.last, |at| at.max(policy.last));
            self.schedules.by_uuid.insert(policy.uuid, Held { policy, running: false, failing: false });
        }
    }

    /// The policy that `plan` describes, if it may be made. It counts from [`Model::put_schedule`] on.
    pub fn new_schedule(&self, plan: SchedulePlan, uuid: Uuid) -> Result<SnapshotPolicy, Error> {
        let volume = self.find(Some(&plan.project), &plan.volume)?.descriptor;
        if volume.kind != dolmen_types::volume::VolumeKind::Durable {
            return Err(Error::invalid("resourceName", "a test volume has no snapshots"));
        }
        if self.schedules.by_uuid.len() >= MAX_SNAPSHOT_POLICIES {
            let text =
                format!("the cluster has its {MAX_SNAPSHOT_POLICIES} snapshot policies; delete some first");
            return Err(Error::new(Kind::ResourceExhausted, text));
        }
        let same = |h: &Held| h.policy.name == plan.name && h.policy.project == plan.project;
        if self.schedules.by_uuid.values().any(same) {
            let text = format!(
                "a snapshot policy named '{}' exists already in project '{}'",
                plan.name, plan.project
            );
            return Err(Error::new(Kind::AlreadyExists, text));
        }
        let SchedulePlan { name, project, description, schedule, retention_ms, asked, .. } = plan;
        let (volume, last) = (volume.uuid, before(asked));
        let policy =
            SnapshotPolicy { uuid, name, project, volume, description, schedule, retention_ms, last };
        policy.check()?;
        Ok(policy)
    }

    /// A policy that is durable: it counts from now on.
    pub fn put_schedule(&mut self, policy: SnapshotPolicy) {
        let held = self.schedules.by_uuid.remove(&policy.uuid);
        let running = held.is_some_and(|h| h.running);
        self.schedules.by_uuid.insert(policy.uuid, Held { policy, running, failing: false });
    }

    /// A policy is gone for good. Its snapshots stay.
    pub fn drop_schedule(&mut self, uuid: Uuid) {
        self.schedules.by_uuid.remove(&uuid);
    }

    /// One policy of a project.
    pub fn schedule(&self, project: &str, uuid: Uuid) -> Result<SnapshotPolicy, Error> {
        let held = self.schedules.by_uuid.get(&uuid).filter(|h| h.policy.project == project);
        let none = || Error::new(Kind::NotFound, format!("snapshot policy {uuid} does not exist"));
        held.map(|h| h.policy.clone()).ok_or_else(none)
    }

    /// All policies by UUID, each with the name of its volume.
    #[must_use]
    pub fn schedules(&self) -> Vec<(SnapshotPolicy, String)> {
        let name =
            |uuid: &Uuid| self.volumes.get(uuid).map(|e| e.descriptor().name.clone()).unwrap_or_default();
        self.schedules.by_uuid.values().map(|h| (h.policy.clone(), name(&h.policy.volume))).collect()
    }

    /// True while there are policies.
    pub(super) fn has_schedules(&self) -> bool {
        !self.schedules.by_uuid.is_empty()
    }

    /// Takes the snapshots that are due, at most one for each of the fresh UUIDs, and forgets policies whose volume is gone.
    ///
    /// When they are due, and their names, go by the clock even where it is known to be behind, since it goes on: several may be `dated`
    /// the same.
    pub(super) fn run_schedules(
        &mut self,
        now: UnixMillis,
        dated: UnixMillis,
        fresh: &[Uuid],
    ) -> Vec<Command> {
        let gone = |h: &&Held| self.volumes.get(&h.policy.volume).is_none_or(|e| e.is_deleting());
        let orphans: Vec<Uuid> =
            self.schedules.by_uuid.values().filter(gone).map(|h| h.policy.uuid).collect();
        let mut commands = Vec::new();
        for uuid in orphans {
            self.schedules.by_uuid.remove(&uuid);
            commands.push(Command::RemoveSchedule(uuid));
        }
        for Held { policy, .. } in self.schedules.by_uuid.values_mut() {
            if policy.follow_clock(now) {
                commands.push(Command::SaveSchedule(Box::new(policy.clone())));
            }
        }
        let due = |h: &Held| !h.running && h.policy.is_due(now);
        let Schedules { by_uuid, running } = &self.schedules;
        let due = running.order(|range| by_uuid.range(range).filter(|(_, h)| due(h)).map(|(uuid, _)| *uuid));
        let due: Vec<Uuid> = due.take(fresh.len()).collect();
        for (policy, uuid) in due.into_iter().zip(fresh) {
            self.schedules.running.has_turn(policy);
            let policy = self.schedules.by_uuid[&policy].policy.clone();
            let spec = SnapshotSpec {
                name: policy.snapshot_name(now),
                project: policy.project.clone(),
                volume: VolumeKey::Uuid(policy.volume),
                description: String::new(),
                retention_ms: policy.retention_ms,
                policy: Some(policy.uuid),
            };
            match self.create_snapshots(None, vec![(spec, *uuid)], dated) {
                Ok(more) => {
                    self.set_running(policy.uuid, true);
                    commands.extend(more);
                }
                Err(why) => commands.extend(self.schedule_failed(policy.uuid, &why.text)),
            }
        }
        commands
    }

    /// A snapshot of a policy is durable (with its time), or was not taken.
    pub(super) fn schedule_ran(
        &mut self,
        taken: &SnapshotDescriptor,
        result: Result<(), &str>,
    ) -> Vec<Command> {
        let Some(uuid) = taken.policy else { return Vec::new() };
        self.set_running(uuid, false);
        let Some(held) = self.schedules.by_uuid.get_mut(&uuid) else { return Vec::new() };
        match result {
            Ok(()) => {
                held.policy.last = taken.created;
                held.failing = false;
                vec![Command::SaveSchedule(Box::new(held.policy.clone()))]
            }
            Err(why) => self.schedule_failed(uuid, why),
        }
    }

    fn set_running(&mut self, uuid: Uuid, running: bool) {
        if let Some(held) = self.schedules.by_uuid.get_mut(&uuid) {
            held.running = running;
        }
    }

    /// Says once that a policy's snapshots can't be taken.
    fn schedule_failed(&mut self, uuid: Uuid, why: &str) -> Vec<Command> {
        let Some(held) = self.schedules.by_uuid.get_mut(&uuid) else { return Vec::new() };
        if std::mem::replace(&mut held.failing, true) {
            return Vec::new();
        }
        let SnapshotPolicy { name, volume, project, .. } = &held.policy;
        vec![Command::Record(Occurrence {
            component: Component::Volume,
            severity: Severity::Medium,
            name: "SnapshotPolicyFailed".into(),
            subject: volume.to_string(),
            project: project.clone(),
            text: format!(
                "snapshot policy '{name}' ({uuid}) can't take its snapshot, and tries again: {why}"
            ),
        })]
    }
}
