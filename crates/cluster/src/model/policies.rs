//! The QoS policies in the model: which there are, who may take them, and which volumes still carry an older state of
//! theirs.
//!
//! A change of a policy is durable in the state file first; then every volume that has it gets the new copy, a few at a
//! time. What is left of that at a crash is found again by comparing revisions. A volume that refuses it, since its key is not here or
//! its shard has stopped, is asked again more and more rarely, and at once when it has taken another change.

use super::{Command, Entry, Model, Pending, rotation::Rotation};
use crate::{
    Error, Kind,
    event::{Component, Occurrence, Severity},
    qos::{MAX_POLICIES, PolicyChange, PolicyKey, PolicySpec, QosPolicy, Visibility, no_limit_uuid},
};
use dolmen_types::{
    Uuid,
    qos::QosAssignment,
    volume::{VolumeDescriptor, VolumeState},
};
use std::collections::{BTreeMap, BTreeSet};

/// Volumes that are given their policy's new state at the same time at most. Count.
const MAX_SPREADING: usize = 32;

/// How long a volume that refuses again and again is left alone at most. Ticks; about five minutes.
const MAX_WAIT: u32 = 64;

/// The policies.
#[derive(Debug, Default)]
pub(super) struct Policies {
    by_uuid: BTreeMap<Uuid, QosPolicy>,
    /// That of new volumes that name none.
    default: Option<Uuid>,
    /// Volumes that may carry an older state of their policy, and can be asked to take the new one.
    stale: BTreeSet<Uuid>,
    /// Volumes that refused it last. They are stale again when they have waited.
    refused: BTreeMap<Uuid, Patience>,
    /// Those of them that are being given the new one.
    spreading: BTreeSet<Uuid>,
    /// Which of them is looked at next.
    rotation: Rotation,
}

/// How long a volume that refused is left alone.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// From now on. Ticks; none when it can be asked.
    left: u32,
    /// In all, since it refused last. Ticks.
    wait: u32,
}

/// A policy as users see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyView {
    /// The policy in force.
    pub policy: QosPolicy,
    /// True while volumes still follow its state before the last change.
    pub updating: bool,
    /// True for the one that new volumes get.
    pub default: bool,
}

impl Model {
    /// Takes over the policies of the state file. Volumes know better what is newer or missing there: those policies are
    /// returned, to be saved.
    pub fn restore_policies(&mut self, stored: Vec<QosPolicy>, default: Option<Uuid>) -> Vec<QosPolicy> {
        let policies = &mut self.policies;
        policies.by_uuid = stored.into_iter().map(|p| (p.uuid, p)).collect();
        policies.by_uuid.insert(no_limit_uuid(), QosPolicy::no_limit());
        policies.default = default.filter(|uuid| policies.by_uuid.contains_key(uuid));
        let mut renewed = BTreeSet::new();
        let carried: Vec<(Uuid, QosAssignment)> = self
            .volumes
            .values()
            // One that is deleted keeps no policy alive.
            .filter(|e| !e.is_deleting())
            .filter_map(|e| Some((e.descriptor().uuid, e.descriptor().qos.clone()?)))
            .collect();
        for (volume, copy) in carried {
            policies.stale.insert(volume);
            let known = policies.by_uuid.get(&copy.policy);
            if known.is_none_or(|p| p.revision < copy.revision) {
                renewed.insert(copy.policy);
                let found = policies.told_by_a_volume(copy);
                policies.by_uuid.insert(found.uuid, found);
            }
        }
        renewed.iter().filter_map(|uuid| self.policies.by_uuid.get(uuid).cloned()).collect()
    }

    /// All policies, by name.
    #[must_use]
    pub fn policies(&self) -> Vec<PolicyView> {
        let mut all: Vec<PolicyView> = self.policies.by_uuid.values().map(|p| self.policy_view(p)).collect();
        all.sort_by(|a, b| a.policy.name.cmp(&b.policy.name));
        all
    }

    /// One policy.
    pub fn policy(&self, key: &PolicyKey) -> Result<PolicyView, Error> {
        self.policies.find(key).map(|p| self.policy_view(p))
    }

    /// The policy that `spec` describes, if it may be made. It counts from [`Model::put_policy`] on.
    pub fn new_policy(&self, spec: PolicySpec, uuid: Uuid) -> Result<QosPolicy, Error> {
        spec.check()?;
        self.policies.check_free(&spec.name, uuid)?;
        if self.policies.by_uuid.len() >= MAX_POLICIES {
            let text = format!("the cluster has its {MAX_POLICIES} QoS policies; delete some first");
            return Err(Error::new(Kind::ResourceExhausted, text));
        }
        let PolicySpec { name, description, visibility, limits } = spec;
        Ok(QosPolicy { uuid, name, description, visibility, limits, revision: 1 })
    }

    /// The policy as it will be after `change`, if it may be so. It counts from [`Model::put_policy`] on.
    pub fn changed_policy(&self, key: &PolicyKey, change: PolicyChange) -> Result<QosPolicy, Error> {
        let old = self.policies.find(key)?;
        if old.uuid == no_limit_uuid() {
            return Err(Error::invalid("UUID", format!("policy '{}' can't be changed", old.name)));
        }
        let next = PolicySpec {
            name: change.name.unwrap_or_else(|| old.name.clone()),
            description: change.description.unwrap_or_else(|| old.description.clone()),
            visibility: change.visibility.unwrap_or_else(|| old.visibility.clone()),
            limits: change.limits.unwrap_or(old.limits),
        };
        next.check()?;
        self.policies.check_free(&next.name, old.uuid)?;
        if next.visibility != Visibility::Global && self.policies.default == Some(old.uuid) {
            let why = format!(
                "policy '{}' is the default of new volumes, and so for all projects; choose another default first",
                old.name
            );
            return Err(Error::invalid("policyVisibility", why));
        }
        let PolicySpec { name, description, visibility, limits } = next;
        let next =
            QosPolicy { uuid: old.uuid, name, description, visibility, limits, revision: old.revision };
        Ok(if next == *old { next } else { QosPolicy { revision: old.revision.saturating_add(1), ..next } })
    }

    /// A policy that is durable: from now on new volumes take it so, and those that have it are to follow.
    pub fn put_policy(&mut self, policy: QosPolicy) -> Occurrence {
        let (uuid, name) = (policy.uuid, policy.name.clone());
        let old = self.policies.by_uuid.insert(uuid, policy);
        for entry in self.volumes.values().filter(|e| takes(e, uuid)) {
            self.policies.ask_at_once(entry.descriptor().uuid);
        }
        match old {
            None => occurrence("QosPolicyCreated", uuid, format!("QoS policy '{name}' ({uuid}) created")),
            Some(_) => occurrence("QosPolicyUpdated", uuid, format!("QoS policy '{name}' ({uuid}) changed")),
        }
    }

    /// The policy to delete, if nothing needs it.
    pub fn unused_policy(&self, key: &PolicyKey) -> Result<Uuid, Error> {
        let policy = self.policies.find(key)?;
        let (uuid, name) = (policy.uuid, &policy.name);
        let refuse = |why: String| Err(Error::invalid("UUID", format!("policy '{name}' {why}")));
        if uuid == no_limit_uuid() {
            return refuse("can't be deleted".into());
        }
        if self.policies.default == Some(uuid) {
            return refuse("is the default of new volumes; choose another default first".into());
        }
        match self.volumes.values().filter(|e| takes(e, uuid)).count() {
            0 => Ok(uuid),
            n => refuse(format!("is that of {n} volumes; give them another one first")),
        }
    }

    /// A policy is gone for good.
    pub fn drop_policy(&mut self, uuid: Uuid) -> Option<Occurrence> {
        let old = self.policies.by_uuid.remove(&uuid)?;
        Some(occurrence("QosPolicyDeleted", uuid, format!("QoS policy '{}' ({uuid}) deleted", old.name)))
    }

    /// The policy that may become that of new volumes.
    pub fn possible_default(&self, key: &PolicyKey) -> Result<Uuid, Error> {
        let policy = self.policies.find(key)?;
        if policy.visibility == Visibility::Global {
            return Ok(policy.uuid);
        }
        let why = format!("policy '{}' is not for all projects", policy.name);
        Err(Error::invalid("DefaultQoSName", why))
    }

    /// The policy of new volumes that name none.
    pub fn set_default_policy(&mut self, uuid: Uuid) {
        self.policies.default = Some(uuid);
    }

    /// What a volume of `project` carries that asks for `key`, or for nothing in particular.
    pub(super) fn assignment(
        &self,
        key: Option<&PolicyKey>,
        project: &str,
    ) -> Result<Option<QosAssignment>, Error> {
        let Some(key) = key else {
            let default = self.policies.default.and_then(|uuid| self.policies.by_uuid.get(&uuid));
            return Ok(default.and_then(QosPolicy::assignment));
        };
        let field = key.volume_field();
        let policy = self.policies.find(key).map_err(|why| Error::invalid(field, why.text))?;
        if !policy.visibility.includes(project) {
            let why = format!("policy '{}' is not for project '{project}'", policy.name);
            return Err(Error::invalid(field, why));
        }
        Ok(policy.assignment())
    }

    /// Gives volumes the new state of their policies, a few at a time.
    pub(super) fn spread(&mut self) -> Vec<Command> {
        let (policies, volumes) = (&mut self.policies, &mut self.volumes);
        let changing = |e: &Entry| e.pending.is_some() || e.doubt.is_some();
        policies.spreading.retain(|uuid| volumes.get(uuid).is_some_and(changing));
        let mut commands = Vec::new();
        // Once round all of them: it is the answers of those that are asked that bring the next look, and any number with nothing to
        // follow may stand before them. Those that stay without being asked are just being changed, and so they are few.
        for _ in 0..policies.stale.len() {
            if policies.spreading.len() >= MAX_SPREADING {
                break;
            }
            let Some(uuid) = policies.next_stale() else { break };
            policies.rotation.has_turn(uuid);
            let entry = volumes.get_mut(&uuid).filter(|e| !e.is_deleting());
            let Some(entry) = entry else {
                policies.follows(uuid);
                continue;
            };
            if changing(entry) {
                continue;
            }
            let old = entry.descriptor();
            let Some(next) = policies.newer(old) else {
                policies.follows(uuid);
                continue;
            };
            let expected_revision = old.revision;
            let next =
                VolumeDescriptor { revision: old.revision.saturating_add(1), qos: Some(next), ..old.clone() };
            entry.pending = Some(Pending::Update { request: None, next: Box::new(next.clone()) });
            policies.spreading.insert(uuid);
            commands.push(Command::Update { descriptor: Box::new(next), expected_revision });
        }
        commands
    }

    /// A volume has answered a change, of its policy's state or another; `None` if the answer got lost.
    pub(super) fn note_answer(&mut self, uuid: Uuid, took: Option<bool>) {
        let policies = &mut self.policies;
        match took {
            Some(true) if policies.refused.contains_key(&uuid) => policies.ask_at_once(uuid),
            Some(true) => {}
            // What is in doubt stays one of those that are being given it until that is settled.
            None if policies.spreading.contains(&uuid) => policies.refuses(uuid),
            Some(false) if policies.spreading.remove(&uuid) => policies.refuses(uuid),
            None | Some(false) => {}
        }
    }

    /// Some time has passed for those that refused.
    pub(super) fn refusals_age(&mut self) {
        let Policies { refused, stale, .. } = &mut self.policies;
        for (uuid, patience) in refused.iter_mut().filter(|(_, p)| p.left > 0) {
            patience.left -= 1;
            if patience.left == 0 {
                stale.insert(*uuid);
            }
        }
    }

    /// True while volumes wait since they refused their policy's new state.
    pub(super) fn refusals_want_ticks(&self) -> bool {
        !self.policies.refused.is_empty()
    }

    fn policy_view(&self, policy: &QosPolicy) -> PolicyView {
        let uuid = policy.uuid;
        let follows = |volume: &Uuid| {
            let entry = self.volumes.get(volume).filter(|e| !e.is_deleting());
            let copy = entry.and_then(|e| e.descriptor().qos.as_ref());
            copy.is_some_and(|copy| copy.policy == uuid && copy.revision < policy.revision)
        };
        let default = self.policies.default.unwrap_or_else(no_limit_uuid) == uuid;
        let mut late = self.policies.stale.iter().chain(self.policies.refused.keys());
        PolicyView { policy: policy.clone(), updating: late.any(follows), default }
    }
}

impl Policies {
    fn find(&self, key: &PolicyKey) -> Result<&QosPolicy, Error> {
        let found = match key {
            PolicyKey::Uuid(uuid) => self.by_uuid.get(uuid),
            PolicyKey::Name(name) => self.by_uuid.values().find(|p| p.name == *name),
        };
        found.ok_or_else(|| key.not_found())
    }

    fn check_free(&self, name: &str, uuid: Uuid) -> Result<(), Error> {
        if self.by_uuid.values().any(|p| p.name == *name && p.uuid != uuid) {
            return Err(Error::new(
                Kind::AlreadyExists,
                format!("a QoS policy named '{name}' exists already"),
            ));
        }
        Ok(())
    }

    /// The volume is to follow its policy, and may be asked now.
    fn ask_at_once(&mut self, volume: Uuid) {
        self.refused.remove(&volume);
        self.stale.insert(volume);
    }

    /// The volume did not take its policy's new state: it is left alone, for twice as long as the last time.
    fn refuses(&mut self, volume: Uuid) {
        self.stale.remove(&volume);
        let wait = self.refused.get(&volume).map_or(1, |p| p.wait.saturating_mul(2).min(MAX_WAIT));
        self.refused.insert(volume, Patience { left: wait, wait });
    }

    /// The volume has nothing to follow.
    fn follows(&mut self, volume: Uuid) {
        self.stale.remove(&volume);
        self.refused.remove(&volume);
    }

    /// The volume that is to be looked at next.
    fn next_stale(&self) -> Option<Uuid> {
        self.rotation.order(|range| self.stale.range(range).copied()).next()
    }

    /// The state of the volume's policy that is newer than its copy.
    fn newer(&self, volume: &VolumeDescriptor) -> Option<QosAssignment> {
        let copy = volume.qos.as_ref()?;
        self.by_uuid.get(&copy.policy).filter(|p| p.revision > copy.revision).and_then(QosPolicy::assignment)
    }

    /// A policy as a volume's copy tells it; under another name if that is taken.
    fn told_by_a_volume(&self, copy: QosAssignment) -> QosPolicy {
        let old = self.by_uuid.get(&copy.policy);
        let taken = self.by_uuid.values().any(|p| p.name == copy.name && p.uuid != copy.policy);
        QosPolicy {
            uuid: copy.policy,
            name: if taken { copy.policy.to_string() } else { copy.name },
            description: old.map_or_else(String::new, |p| p.description.clone()),
            visibility: old.map(|p| p.visibility.clone()).unwrap_or_default(),
            limits: copy.limits,
            revision: copy.revision,
        }
    }
}

/// Whether a volume has the policy, or is about to.
fn takes(entry: &Entry, policy: Uuid) -> bool {
    let has = |d: &VolumeDescriptor| d.qos.as_ref().is_some_and(|q| q.policy == policy);
    let next = match &entry.pending {
        Some(Pending::Update { next, .. }) => has(next),
        _ => false,
    };
    entry.descriptor().state != VolumeState::Deleting && (has(entry.descriptor()) || next)
}

fn occurrence(name: &str, uuid: Uuid, text: String) -> Occurrence {
    Occurrence {
        component: Component::Cluster,
        severity: Severity::Info,
        name: name.into(),
        subject: uuid.to_string(),
        project: String::new(),
        text,
    }
}
