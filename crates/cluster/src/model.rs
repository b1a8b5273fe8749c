//! The model of a cluster of one node as a step function: what came in, to what must be done.
//!
//! It owns the set of volumes with their lives (creating, in use, changing, deleting), the uniqueness of names, the
//! giving out of namespace ids and lines, and the placing of volumes into protection groups. It promises: no id is
//! given out twice, even over a crash (ids are used only below marks that are durable); a change is told as done only
//! after the data plane made it durable; what the data plane holds wins over what the model believes.
//! It never looks at a clock, a random number, a file or a socket: all of them come in with the event.

mod clones;
mod entry;
mod policies;
mod rotation;
mod schedules;
mod snapshots;
#[cfg(test)]
pub(crate) mod tests;
mod words;

use crate::{
    Error, Kind,
    event::{Component, Occurrence, Severity},
    plane::PlaneError,
    state::Marks,
    volume::{VolumeChange, VolumeKey, VolumeSpec},
};
use clones::ClonePlan;
use dolmen_types::{
    LineId, Nsid, PgId, UnixMillis, Uuid, limits,
    volume::{VolumeDescriptor, VolumeKind, VolumeState},
};
use entry::{Entry, Pending};
pub use entry::{Life, VolumeView};
use policies::Policies;
pub use policies::PolicyView;
pub use schedules::SchedulePlan;
use schedules::Schedules;
pub use snapshots::SnapshotView;
use snapshots::{Snapshots, TakenLine};
use std::collections::{BTreeMap, BTreeSet};
pub use words::{Command, Input, RequestId};

/// Ids made durable ahead of their use, so that not every volume costs a write of the state file. Count.
const MARK_STEP: u32 = 16;

/// The largest NSID that is given out.
const LAST_NSID: u32 = limits::MAX_NSID;

/// The model.
#[derive(Debug)]
pub struct Model {
    volumes: BTreeMap<Uuid, Entry>,
    /// Live volumes by (project, name); those in `Deleting` have given their name back.
    names: BTreeMap<(String, String), Uuid>,
    /// Volumes and bytes placed in each protection group.
    load: Vec<GroupLoad>,
    /// Ids given out so far.
    used: Marks,
    /// Ids that may be given out.
    durable: Marks,
    policies: Policies,
    snapshots: Snapshots,
    schedules: Schedules,
    /// Whether new volumes that don't say are encrypted.
    encrypts: bool,
    /// Count of questions for the data plane's list so far.
    round: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct GroupLoad {
    volumes: u32,
    bytes: u64,
}

impl Model {
    /// The model that follows from the marks in the state file and what was recovered from the log. Ids that the log
    /// knows raise the marks, so a state file older than the log does no harm.
    #[must_use]
    pub fn recover(marks: Marks, highest: Marks, volumes: Vec<VolumeDescriptor>) -> Model {
        let mut used = Marks { nsid: marks.nsid.max(highest.nsid), line: marks.line.max(highest.line) };
        let mut model = Model {
            volumes: BTreeMap::new(),
            names: BTreeMap::new(),
            load: vec![GroupLoad::default(); limits::PROTECTION_GROUPS as usize],
            used,
            durable: marks,
            policies: Policies::default(),
            snapshots: Snapshots::default(),
            schedules: Schedules::default(),
            encrypts: true,
            round: 0,
        };
        for descriptor in volumes {
            used.nsid = used.nsid.max(descriptor.nsid);
            used.line = used.line.max(descriptor.line);
            model.insert(Entry::stored(descriptor));
        }
        model.used = used;
        model
    }

    /// Whether new volumes that don't say are encrypted; they are unless this says otherwise.
    pub fn encrypt_by_default(&mut self, yes: bool) {
        self.encrypts = yes;
    }

    /// Takes one input and says what must be done.
    pub fn step(&mut self, input: Input) -> Vec<Command> {
        let mut commands = self.take(input);
        commands.extend(self.spread());
        commands
    }

    /// Gives volumes the new state of policies that have changed.
    pub fn follow_policies(&mut self) -> Vec<Command> {
        self.spread()
    }

    fn take(&mut self, input: Input) -> Vec<Command> {
        match input {
            Input::Create { request, spec, uuid, now } => self.create(request, spec, uuid, now),
            Input::Update { request, project, key, expected, change } => {
                let outcome = self.update(request, project.as_deref(), &key, expected, change);
                self.commands_or_refusal(request, outcome)
            }
            Input::Delete { request, project, key, expected } => {
                let outcome = self.delete(request, project.as_deref(), &key, expected);
                self.commands_or_refusal(request, outcome)
            }
            Input::Rollback { request, project, key, snapshot, expected } => {
                let outcome = self.rollback(request, project.as_deref(), (&key, &snapshot), expected);
                self.commands_or_refusal(request, outcome)
            }
            Input::CreateSnapshots { request, wanted, now } => {
                let outcome = self.create_snapshots(request, wanted, now);
                snapshots_or_refusal(request, outcome)
            }
            Input::DeleteSnapshot { request, project, key, expected } => {
                let outcome = self.delete_snapshot(request, project.as_deref(), &key, expected);
                snapshots_or_refusal(Some(request), outcome)
            }
            Input::SnapshotsAnswered { uuids, result } => self.snapshots_answered(&uuids, result),
            Input::Tick { now, dated, sure, fresh } => {
                self.refusals_age();
                let mut commands = if sure { self.expire(now) } else { Vec::new() };
                commands.extend(self.run_schedules(now, dated, &fresh));
                commands
            }
            Input::Answered { uuid, result } => self.answered(uuid, result),
            Input::Observed { round, volumes, snapshots } => {
                let mut commands = self.observed(round, volumes);
                commands.extend(self.snapshots_observed(round, snapshots));
                commands
            }
            Input::Unobserved => Vec::new(),
            Input::MarksNotSaved => {
                // What is in the file is as good as unknown: whoever takes the next id has it written anew.
                self.durable = Marks::default();
                Vec::new()
            }
        }
    }

    /// A volume as users see it. By name only live ones are found, by UUID also those in `Deleting`.
    pub fn find(&self, project: Option<&str>, key: &VolumeKey) -> Result<VolumeView, Error> {
        self.entry(project, key).map(Entry::view)
    }

    /// All volumes as users see them, in the order of their UUIDs, after `after`.
    pub fn volumes(&self, after: Option<Uuid>) -> impl Iterator<Item = VolumeView> + '_ {
        use std::ops::Bound::{Excluded, Unbounded};
        self.volumes.range((after.map_or(Unbounded, Excluded), Unbounded)).map(|(_, entry)| entry.view())
    }

    /// True while something is only known to the data plane: a volume that is being given up, or a change whose answer
    /// got lost. Then the caller shall ask it for its list now and then: see [`Model::ask`].
    #[must_use]
    pub fn wants_observation(&self) -> bool {
        self.snapshots_want_observation()
            || self.volumes.values().any(|e| e.doubt.is_some() || e.is_deleting())
    }

    /// Starts a round: the number to send back with the list that is asked for after this call.
    pub fn ask(&mut self) -> u64 {
        self.round += 1;
        self.round
    }

    /// The marks to save at a clean stop, so that ids reserved and never used aren't skipped.
    #[must_use]
    pub fn used(&self) -> Marks {
        self.used
    }

    fn create(&mut self, request: RequestId, spec: VolumeSpec, uuid: Uuid, now: UnixMillis) -> Vec<Command> {
        let admitted = self
            .admit(&spec, uuid)
            .and_then(|()| Ok((self.assignment(spec.qos.as_ref(), &spec.project)?, self.clone_plan(&spec)?)))
            .and_then(|(qos, plan)| Ok((qos, self.form(&spec, plan.as_ref())?, plan)));
        let (qos, (compression, encryption), plan) = match admitted {
            Ok(admitted) => admitted,
            Err(error) => return vec![Command::Answer { request, result: Err(error) }],
        };
        let nsid = self.next_nsid();
        self.used.nsid = self.used.nsid.max(nsid);
        let (line, save) = self.take_line();
        let mut commands: Vec<Command> = save.into_iter().collect();
        let sector = plan.as_ref().map_or(spec.sector.unwrap_or_default(), |plan| plan.sector);
        let pg = plan.as_ref().map_or_else(|| self.least_loaded(), |plan| plan.pg);
        let (labels, source) = match plan {
            Some(plan) if spec.labels.is_empty() => (plan.labels, Some(plan.source)),
            plan => (spec.labels, plan.map(|plan| plan.source)),
        };
        let descriptor = VolumeDescriptor {
            uuid,
            name: spec.name,
            project: spec.project,
            nsid,
            pg,
            line,
            size_bytes: spec.size_bytes,
            sector,
            kind: spec.kind,
            acl: spec.acl,
            ip_acl: spec.ip_acl,
            labels,
            compression,
            encryption,
            qos,
            source,
            created: now,
            revision: 1,
            state: VolumeState::Available,
        };
        self.insert(Entry::creating(descriptor.clone(), request));
        commands.push(Command::Create(Box::new(descriptor)));
        commands
    }

    /// A line that was never used, and what must be durable before it is, together with the namespace ids used so far.
    fn take_line(&mut self) -> TakenLine {
        let line = LineId(self.used.line.0 + 1);
        self.used.line = line;
        let nsid = self.used.nsid;
        if nsid <= self.durable.nsid && line <= self.durable.line {
            return (line, None);
        }
        self.durable = Marks {
            nsid: Nsid(nsid.0.saturating_add(MARK_STEP - 1).min(LAST_NSID)),
            line: LineId(line.0.saturating_add(u64::from(MARK_STEP - 1))),
        };
        (line, Some(Command::SaveMarks(self.durable)))
    }

    /// A namespace id that no volume has: a fresh one as long as there are, so that a host's memory of a deleted volume never
    /// meets another; then the lowest free one.
    fn next_nsid(&self) -> Nsid {
        if self.used.nsid.0 < LAST_NSID {
            return Nsid(self.used.nsid.0 + 1);
        }
        let taken: BTreeSet<u32> = self.volumes.values().map(|e| e.descriptor().nsid.0).collect();
        let free = (1..=LAST_NSID).find(|n| !taken.contains(n));
        Nsid(free.expect("there are fewer volumes than namespace ids"))
    }

    /// Whether a new volume fits: name free, limits kept.
    fn admit(&self, spec: &VolumeSpec, uuid: Uuid) -> Result<(), Error> {
        if self.names.contains_key(&(spec.project.clone(), spec.name.clone())) {
            return Err(name_taken(&spec.name, &spec.project));
        }
        if self.volumes.len() >= limits::MAX_VOLUMES as usize {
            let text = format!("the cluster has its {} volumes; delete some first", limits::MAX_VOLUMES);
            return Err(Error::new(Kind::ResourceExhausted, text));
        }
        if self.used.line.0 == u64::MAX {
            return Err(Error::new(Kind::ResourceExhausted, "all lines have been used"));
        }
        if self.volumes.contains_key(&uuid) {
            return Err(Error::new(Kind::Internal, "a random UUID came twice; ask again"));
        }
        Ok(())
    }

    fn update(
        &mut self,
        request: RequestId,
        project: Option<&str>,
        key: &VolumeKey,
        expected: Option<u64>,
        change: VolumeChange,
    ) -> Result<Vec<Command>, Error> {
        let entry = self.entry(project, key)?;
        entry.check_changeable(expected)?;
        let old = entry.descriptor();
        if old.state == VolumeState::Deleting {
            return Err(Error::new(Kind::InvalidArgument, format!("volume '{}' is being deleted", old.name)));
        }
        if let Some(size) = change.size_bytes.filter(|&size| size < old.size_bytes) {
            let text =
                format!("a volume can't shrink (it has {} bytes, {size} were asked for)", old.size_bytes);
            return Err(Error::invalid("size", text));
        }
        if change.compression.is_some_and(|wanted| wanted != old.compression) {
            let text = "is decided when a volume is made; copy the data to a new volume";
            return Err(Error::invalid("compression", text));
        }
        if change.encryption.is_some_and(|wanted| wanted != old.encryption) {
            let text = "is decided when a volume is made; copy the data to a new volume";
            return Err(Error::invalid("encryption", text));
        }
        if let Some(name) = change.name.as_ref().filter(|&name| *name != old.name)
            && self.names.contains_key(&(old.project.clone(), name.clone()))
        {
            return Err(name_taken(name, &old.project));
        }
        let qos = match &change.qos {
            Some(key) => self.assignment(Some(key), &old.project)?,
            None => old.qos.clone(),
        };
        let next = VolumeDescriptor { qos, ..applied(old, change) };
        let (uuid, expected_revision) = (old.uuid, old.revision);
        if next == *old {
            // Nothing to do is success. The data plane would keep its revision, and so must we.
            return Ok(vec![Command::Answer { request, result: Ok(Box::new(entry.view())) }]);
        }
        let next = VolumeDescriptor { revision: old.revision.saturating_add(1), ..next };
        // Both names are taken while the change is under way.
        self.names.insert((next.project.clone(), next.name.clone()), uuid);
        let entry = self.volumes.get_mut(&uuid).expect("entry() found it in this map");
        entry.pending = Some(Pending::Update { request: Some(request), next: Box::new(next.clone()) });
        Ok(vec![Command::Update { descriptor: Box::new(next), expected_revision }])
    }

    fn delete(
        &mut self,
        request: RequestId,
        project: Option<&str>,
        key: &VolumeKey,
        expected: Option<u64>,
    ) -> Result<Vec<Command>, Error> {
        let entry = self.entry(project, key)?;
        if entry.is_deleting() && entry.pending.is_none() {
            // Asked again: nothing to do is success.
            return Ok(vec![Command::Answer { request, result: Ok(Box::new(entry.view())) }]);
        }
        entry.check_changeable(expected)?;
        let old = entry.descriptor();
        let (uuid, expected_revision) = (old.uuid, old.revision);
        let new_revision = old.revision.saturating_add(1);
        let entry = self.volumes.get_mut(&uuid).expect("entry() found it in this map");
        entry.pending = Some(Pending::Delete { request: Some(request), new_revision });
        Ok(vec![Command::Delete { uuid, expected_revision, new_revision }])
    }

    fn answered(&mut self, uuid: Uuid, result: Option<Result<(), PlaneError>>) -> Vec<Command> {
        let next_round = self.round + 1;
        self.note_answer(uuid, result.as_ref().map(Result::is_ok));
        let Some(entry) = self.volumes.get_mut(&uuid) else { return Vec::new() };
        let Some(result) = result else {
            entry.doubt = Some(next_round);
            let text = "the data plane gave no answer; whether the change was made shows later";
            let result = Err(Error::new(Kind::Unavailable, text));
            return entry
                .take_request()
                .map(|request| Command::Answer { request, result })
                .into_iter()
                .collect();
        };
        let Some(pending) = entry.pending.take() else { return Vec::new() };
        let request = pending.request();
        let mut commands = Vec::new();
        let told = match result {
            Ok(()) => {
                commands.push(Command::Record(pending.occurrence(entry.descriptor())));
                Ok(Box::new(self.confirm(uuid, pending)))
            }
            Err(why) => {
                self.refuse(uuid, &pending);
                Err(Error::from(why))
            }
        };
        commands.extend(request.map(|request| Command::Answer { request, result: told }));
        commands
    }

    /// The data plane made the pending change.
    fn confirm(&mut self, uuid: Uuid, pending: Pending) -> VolumeView {
        let mut entry = self.remove(uuid).expect("the caller found it in this map");
        match pending {
            Pending::Create { .. } => {}
            Pending::Update { next, .. } | Pending::Rollback { next, .. } => entry = Entry::stored(*next),
            Pending::Delete { new_revision, .. } => entry.set_deleting(new_revision, self.round + 1),
        }
        let view = entry.view();
        self.insert(entry);
        view
    }

    /// The data plane refused the pending change: all is as before.
    fn refuse(&mut self, uuid: Uuid, pending: &Pending) {
        match pending {
            Pending::Create { .. } => {
                self.remove(uuid);
            }
            Pending::Update { next, .. } => {
                let kept = self.volumes.get(&uuid).map(|e| e.descriptor().name.clone());
                if kept.as_ref() != Some(&next.name) {
                    self.names.remove(&(next.project.clone(), next.name.clone()));
                }
            }
            Pending::Rollback { .. } | Pending::Delete { .. } => {}
        }
    }

    fn observed(&mut self, round: u64, volumes: Vec<VolumeDescriptor>) -> Vec<Command> {
        let found: BTreeMap<Uuid, VolumeDescriptor> = volumes.into_iter().map(|d| (d.uuid, d)).collect();
        let settled: BTreeSet<Uuid> = self
            .volumes
            .iter()
            .filter(|(uuid, e)| {
                let doubtful = e.doubt.is_some_and(|since| since <= round);
                let gone = e.can_be_gone(round) && !found.contains_key(uuid);
                doubtful || gone
            })
            .map(|(uuid, _)| *uuid)
            .collect();
        let mut commands = Vec::new();
        for uuid in settled {
            let Some(entry) = self.remove(uuid) else { continue };
            match found.get(&uuid) {
                Some(descriptor) => self.insert(Entry::stored(descriptor.clone())),
                None if entry.is_deleting() => {
                    commands.push(Command::Record(entry::erased(entry.descriptor())));
                }
                None => {}
            }
        }
        commands
    }

    fn entry(&self, project: Option<&str>, key: &VolumeKey) -> Result<&Entry, Error> {
        let not_found = |what: &str| Error::new(Kind::NotFound, format!("volume {what} does not exist"));
        match key {
            VolumeKey::Uuid(uuid) => self
                .volumes
                .get(uuid)
                .filter(|e| project.is_none_or(|p| e.descriptor().project == p))
                .ok_or_else(|| not_found(&uuid.to_string())),
            VolumeKey::Name(name) => {
                let project = project.unwrap_or(crate::volume::DEFAULT_PROJECT);
                self.names
                    .get(&(project.to_string(), name.clone()))
                    .and_then(|uuid| self.volumes.get(uuid))
                    .filter(|e| e.descriptor().name == *name)
                    .ok_or_else(|| not_found(&format!("'{name}'")))
            }
        }
    }

    fn insert(&mut self, entry: Entry) {
        let d = entry.descriptor();
        let uuid = d.uuid;
        if !entry.is_deleting() {
            self.names.insert((d.project.clone(), d.name.clone()), uuid);
            if let Some(load) = self.load.get_mut(d.pg.0 as usize) {
                load.volumes += 1;
                load.bytes = load.bytes.saturating_add(d.size_bytes);
            }
        }
        if let Some(source) = &d.source {
            self.snapshots.clone_came(source);
        }
        self.volumes.insert(uuid, entry);
    }

    fn remove(&mut self, uuid: Uuid) -> Option<Entry> {
        let entry = self.volumes.remove(&uuid)?;
        let d = entry.descriptor();
        if let Some(source) = &d.source {
            self.snapshots.clone_went(source);
        }
        if !entry.is_deleting() {
            if let Some(load) = self.load.get_mut(d.pg.0 as usize) {
                load.volumes -= 1;
                load.bytes = load.bytes.saturating_sub(d.size_bytes);
            }
            self.names.remove(&(d.project.clone(), d.name.clone()));
            if let Some(Pending::Update { next, .. }) = &entry.pending {
                self.names.remove(&(next.project.clone(), next.name.clone()));
            }
        }
        Some(entry)
    }

    /// The group with the fewest volumes, of those the one with the fewest bytes, of those the first.
    fn least_loaded(&self) -> PgId {
        let least = (0u32..).zip(&self.load).min_by_key(|(pg, load)| (**load, *pg));
        PgId(least.map_or(0, |(pg, _)| pg))
    }

    /// Whether the data of a new volume is compressed, and whether it is encrypted.
    fn form(&self, spec: &VolumeSpec, plan: Option<&ClonePlan>) -> Result<(bool, bool), Error> {
        let source = plan.map(|plan| (plan.compression, plan.encryption));
        let compression = stored_so("compression", (spec.compression, true), source.map(|s| s.0), spec.kind)?;
        let encryption =
            stored_so("encryption", (spec.encryption, self.encrypts), source.map(|s| s.1), spec.kind)?;
        Ok((compression, encryption))
    }

    fn commands_or_refusal(&self, request: RequestId, outcome: Result<Vec<Command>, Error>) -> Vec<Command> {
        outcome.unwrap_or_else(|error| vec![Command::Answer { request, result: Err(error) }])
    }
}

/// Whether the data of a new volume has a property: that of its snapshot for a clone, no for a test volume.
fn stored_so(
    field: &'static str,
    (wanted, default): (Option<bool>, bool),
    source: Option<bool>,
    kind: VolumeKind,
) -> Result<bool, Error> {
    match (source, wanted) {
        (Some(has), Some(wanted)) if wanted != has => {
            let is = if has { "on" } else { "off" };
            let text = format!(
                "is {is} for the snapshot, and so for a clone of it, which shares its blocks; copy the data to a new volume"
            );
            Err(Error::invalid(field, text))
        }
        (Some(has), _) => Ok(has),
        (None, wanted) if kind == VolumeKind::Durable => Ok(wanted.unwrap_or(default)),
        (None, Some(true)) => Err(Error::invalid(field, "a test volume stores nothing")),
        (None, _) => Ok(false),
    }
}

/// The descriptor with `change` made, at the revision that it had.
fn applied(old: &VolumeDescriptor, change: VolumeChange) -> VolumeDescriptor {
    VolumeDescriptor {
        size_bytes: change.size_bytes.unwrap_or(old.size_bytes),
        acl: change.acl.unwrap_or_else(|| old.acl.clone()),
        ip_acl: change.ip_acl.unwrap_or_else(|| old.ip_acl.clone()),
        name: change.name.unwrap_or_else(|| old.name.clone()),
        labels: change.labels.unwrap_or_else(|| old.labels.clone()),
        ..old.clone()
    }
}

/// What must be done for snapshots, or the refusal to who waits for them.
fn snapshots_or_refusal(request: Option<RequestId>, outcome: Result<Vec<Command>, Error>) -> Vec<Command> {
    match (outcome, request) {
        (Ok(commands), _) => commands,
        (Err(error), Some(request)) => vec![Command::AnswerSnapshots { request, result: Err(error) }],
        (Err(_), None) => Vec::new(),
    }
}

fn name_taken(name: &str, project: &str) -> Error {
    Error::new(Kind::AlreadyExists, format!("a volume named '{name}' exists already in project '{project}'"))
}

/// An event of the volume's project.
fn volume_occurrence(d: &VolumeDescriptor, name: &str, text: String) -> Occurrence {
    Occurrence {
        component: Component::Volume,
        severity: Severity::Info,
        name: name.into(),
        subject: d.uuid.to_string(),
        project: d.project.clone(),
        text,
    }
}
