//! The adapter that runs the model beside the data plane of one node: one task owns the model and the state file,
//! [`Handle`]s ask it.
//!
//! It promises: changes are answered within [`CHANGE_DEADLINE`] (their outcome may come later and is never forgotten);
//! reads never wait for changes, nor for the disk of the state file; events reach the file within a tenth of a second. It decides nothing itself.

mod clock;
mod drives;
mod news;
mod policies;
mod questions;
mod service;
#[cfg(test)]
mod tests;

use crate::{
    Error, Kind,
    event::{Component, Event, Occurrence, Severity},
    model::{Life, PolicyView, SchedulePlan, SnapshotView, VolumeView},
    plane::{
        DiffPart, DriveStatus, HostStatus, KeyStatus, LostBlocks, MetricsSnapshot, NodeRequest, Notice,
        Plane, PoolStatus, Protection, Recovered, ScrubChange, ScrubStatus, VolumeStatus, VolumeUsage,
    },
    qos::{PolicyChange, PolicyKey, PolicySpec},
    schedule::SnapshotPolicy,
    snapshot::{DiffSpec, SnapshotSpec},
    state::{Credential, Identity, State, StateError},
    trace::VolumeTraces,
    volume::{VolumeChange, VolumeKey, VolumeSpec},
};
use dolmen_types::{Nqn, UnixMillis, Uuid};
use policies::PolicyMessage;
pub use policies::ScheduleChange;
use questions::Question;
use service::{Message, Service};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

/// How long a change may take before its caller is told to look again later.
pub const CHANGE_DEADLINE: Duration = Duration::from_secs(20);

/// Changes that may wait for the service, and as many questions. Count.
const MAX_WAITING: usize = 1024;

/// The time and fresh identities, given by whoever composes the node.
#[derive(Clone, Copy, Debug)]
pub struct Ambient {
    /// The time of day.
    pub now: fn() -> UnixMillis,
    /// A fresh random UUID.
    pub uuid: fn() -> Uuid,
    /// How long the machine has been up; `None` where nobody knows.
    pub uptime: fn() -> Option<Uptime>,
}

/// How long a machine has been up, by a clock that nobody sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uptime {
    /// Which start of the machine this counts from.
    pub boot: Uuid,
    /// Since then, sleep included. Milliseconds.
    pub ms: u64,
}

/// What objects are where nobody says.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// Whether new volumes are encrypted.
    pub encryption: bool,
}

/// A volume with all that users are told of it.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumeReport {
    /// Its descriptor and life.
    pub view: VolumeView,
    /// Its space.
    pub usage: VolumeUsage,
    /// Hosts that are connected and admitted.
    pub connected_hosts: Vec<Nqn>,
    /// What hosts may do with it now; `None` while it is being made.
    pub protection: Option<Protection>,
    /// What of it nothing gives any more.
    pub lost: Vec<LostBlocks>,
    /// The protection group's UUID.
    pub pg_uuid: Uuid,
}

/// Which events are wanted.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Only events with a larger id.
    pub after: Option<u64>,
    /// Only events at or after this time.
    pub since: Option<UnixMillis>,
    /// Only events at or before this time.
    pub until: Option<UnixMillis>,
    /// Only events of this project.
    pub project: Option<String>,
    /// At most so many, the oldest first.
    pub limit: usize,
}

/// Starts the service of one node on the current Tokio runtime.
///
/// `recovered` is what the data plane found on its drives; `notices` come from it later. The task ends, after it has
/// written what it must, when the last [`Handle`] is dropped.
pub fn start(
    state: State,
    recovered: Recovered,
    plane: Plane,
    notices: mpsc::Receiver<Notice>,
    ambient: Ambient,
    defaults: Defaults,
) -> Result<(Handle, JoinHandle<()>), StateError> {
    let (inbox, requests) = mpsc::channel(MAX_WAITING);
    let (questions, asked) = mpsc::channel(MAX_WAITING);
    let identity = Arc::new(state.identity().clone());
    let credentials = state.credentials()?;
    let service = Service::new(state, recovered, plane.clone(), asked, (ambient, defaults))?;
    let task = tokio::spawn(service.run(requests, notices));
    Ok((Handle { inbox, questions, plane, identity, credentials: credentials.into() }, task))
}

/// What the API calls.
#[derive(Clone, Debug)]
pub struct Handle {
    inbox: mpsc::Sender<Message>,
    questions: mpsc::Sender<Question>,
    plane: Plane,
    identity: Arc<Identity>,
    credentials: Arc<[Credential]>,
}

impl Handle {
    /// Who we are.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The public keys that tokens are checked against.
    #[must_use]
    pub fn credentials(&self) -> &[Credential] {
        &self.credentials
    }

    /// Makes a volume; returns when it is durable and in use.
    pub async fn create_volume(&self, spec: VolumeSpec) -> Result<VolumeReport, Error> {
        let view = self.change(|answer| Message::Create { spec, answer }).await?;
        Ok(self.report(view, Seen::Nothing))
    }

    /// Changes a volume; returns when the change is durable and in force.
    pub async fn update_volume(
        &self,
        project: Option<String>,
        key: VolumeKey,
        expected: Option<u64>,
        change: VolumeChange,
    ) -> Result<VolumeReport, Error> {
        let view = self.change(|answer| Message::Update { project, key, expected, change, answer }).await?;
        Ok(self.report(view, Seen::Nothing))
    }

    /// Gives a volume up; returns when no host can see it any more. Its space comes back in the background.
    pub async fn delete_volume(
        &self,
        project: Option<String>,
        key: VolumeKey,
        expected: Option<u64>,
    ) -> Result<(), Error> {
        self.change(|answer| Message::Delete { project, key, expected, answer }).await.map(|_| ())
    }

    /// One volume, by UUID in any life, by name only if it isn't being deleted.
    pub async fn volume(&self, project: Option<String>, key: VolumeKey) -> Result<VolumeReport, Error> {
        let view = self.question(|answer| Question::Volume { project, key, answer }).await??;
        let only = Some(view.descriptor.uuid);
        let found = self.plane.query(|answer| NodeRequest::ListVolumes { only, answer }).await;
        let seen = match found {
            Ok(list) => Seen::of(list.into_iter().next()),
            Err(_) => Seen::Silence,
        };
        Ok(self.report(view, seen))
    }

    /// All volumes in the order of their UUIDs, those in `Deleting` included, after `after`.
    pub async fn volumes(&self, after: Option<Uuid>) -> Result<Vec<VolumeReport>, Error> {
        let views = self.question(|answer| Question::Volumes { after, answer }).await?;
        let found = self.plane.query(|answer| NodeRequest::ListVolumes { only: None, answer }).await;
        let silent = found.is_err();
        let mut statuses = found.unwrap_or_default().into_iter().peekable();
        let reports = views.into_iter().map(|view| {
            let uuid = view.descriptor.uuid;
            while statuses.next_if(|s| s.descriptor.uuid < uuid).is_some() {}
            let status = statuses.next_if(|s| s.descriptor.uuid == uuid);
            self.report(view, if silent { Seen::Silence } else { Seen::of(status) })
        });
        Ok(reports.collect())
    }

    /// Puts a volume back to a snapshot of it; returns when that is durable and in force.
    pub async fn roll_back(
        &self,
        project: Option<String>,
        key: VolumeKey,
        snapshot: VolumeKey,
        expected: Option<u64>,
    ) -> Result<VolumeReport, Error> {
        let view =
            self.change(|answer| Message::Rollback { project, key, snapshot, expected, answer }).await?;
        Ok(self.report(view, Seen::Nothing))
    }

    /// Takes snapshots of different volumes at one instant, all or none; returns when they are durable.
    pub async fn create_snapshots(&self, specs: Vec<SnapshotSpec>) -> Result<Vec<SnapshotView>, Error> {
        self.change(|answer| Message::CreateSnapshots { specs, answer }).await
    }

    /// Gives a snapshot up; it is gone when no clone of it is left.
    pub async fn delete_snapshot(
        &self,
        project: Option<String>,
        key: VolumeKey,
        expected: Option<u64>,
    ) -> Result<(), Error> {
        self.change(|answer| Message::DeleteSnapshot { project, key, expected, answer }).await.map(|_| ())
    }

    /// One snapshot, in any life.
    pub async fn snapshot(&self, project: Option<String>, key: VolumeKey) -> Result<SnapshotView, Error> {
        self.question(|answer| Question::Snapshot { project, key, answer }).await?
    }

    /// All snapshots in the order of their UUIDs, those in `Deleting` included, after `after`.
    pub async fn snapshots(&self, after: Option<Uuid>) -> Result<Vec<SnapshotView>, Error> {
        self.question(|answer| Question::Snapshots { after, answer }).await
    }

    /// What differs between two snapshots, in store blocks.
    pub async fn diff(&self, spec: DiffSpec) -> Result<DiffPart, Error> {
        let DiffSpec { project, snapshot, base, first_block, limit } = spec;
        let to = self.snapshot(project.clone(), snapshot).await?.descriptor;
        let base = match base {
            None => None,
            Some(key) => {
                let from = self.snapshot(project, key).await?.descriptor;
                if from.pg != to.pg {
                    let why = format!("'{}' and '{}' have nothing in common", from.name, to.name);
                    return Err(Error::invalid("baseSnapshotUUID", why));
                }
                Some(from.uuid)
            }
        };
        let (pg, snapshot, first) = (to.pg, to.uuid, first_block);
        let asked =
            self.plane.send(|answer| NodeRequest::Diff { pg, snapshot, base, first, limit, answer })?;
        match tokio::time::timeout(CHANGE_DEADLINE, asked).await {
            Ok(Ok(answer)) => Ok(answer?),
            Ok(Err(_)) => Err(stopped()),
            Err(_) => {
                let why = "the comparison takes long, as drives are slow to answer; try again";
                Err(Error::new(Kind::DeadlineExceeded, why))
            }
        }
    }

    /// Makes a QoS policy.
    pub async fn create_policy(&self, spec: PolicySpec) -> Result<PolicyView, Error> {
        self.ask(|answer| Message::Policy(PolicyMessage::Create { spec, answer })).await?
    }

    /// Changes a QoS policy; returns when that is durable. The volumes that have it follow at once, a few at a time.
    pub async fn update_policy(&self, key: PolicyKey, change: PolicyChange) -> Result<PolicyView, Error> {
        self.ask(|answer| Message::Policy(PolicyMessage::Update { key, change, answer })).await?
    }

    /// Deletes a QoS policy that no volume has.
    pub async fn delete_policy(&self, key: PolicyKey) -> Result<(), Error> {
        self.ask(|answer| Message::Policy(PolicyMessage::Delete { key, answer })).await?
    }

    /// Chooses the QoS policy of volumes that name none.
    pub async fn set_default_policy(&self, key: PolicyKey) -> Result<(), Error> {
        self.ask(|answer| Message::Policy(PolicyMessage::SetDefault { key, answer })).await?
    }

    /// One QoS policy.
    pub async fn policy(&self, key: PolicyKey) -> Result<PolicyView, Error> {
        self.question(|answer| Question::Policy { key, answer }).await?
    }

    /// All QoS policies, by name.
    pub async fn policies(&self) -> Result<Vec<PolicyView>, Error> {
        self.question(|answer| Question::Policies { answer }).await
    }

    /// Makes a snapshot policy.
    pub async fn create_schedule(&self, plan: SchedulePlan) -> Result<SnapshotPolicy, Error> {
        self.ask(|answer| Message::Policy(PolicyMessage::CreateSchedule { plan, answer })).await?
    }

    /// Changes a snapshot policy; its snapshots stay as they are.
    pub async fn update_schedule(
        &self,
        project: String,
        uuid: Uuid,
        change: ScheduleChange,
    ) -> Result<(), Error> {
        let make = |answer| Message::Policy(PolicyMessage::UpdateSchedule { project, uuid, change, answer });
        self.ask(make).await?
    }

    /// Deletes a snapshot policy; its snapshots stay.
    pub async fn delete_schedule(&self, project: String, uuid: Uuid) -> Result<(), Error> {
        self.ask(|answer| Message::Policy(PolicyMessage::DeleteSchedule { project, uuid, answer })).await?
    }

    /// All snapshot policies by UUID, each with the name of its volume.
    pub async fn schedules(&self) -> Result<Vec<(SnapshotPolicy, String)>, Error> {
        self.question(|answer| Question::Schedules { answer }).await
    }

    /// Connected hosts.
    pub async fn hosts(&self) -> Result<Vec<HostStatus>, Error> {
        Ok(self.plane.query(|answer| NodeRequest::Hosts { answer }).await?)
    }

    /// The pool.
    pub async fn pool(&self) -> Result<PoolStatus, Error> {
        Ok(self.plane.query(|answer| NodeRequest::Pool { answer }).await?)
    }

    /// Changes how the pool is scrubbed, or begins a round.
    pub async fn scrub(&self, change: ScrubChange) -> Result<ScrubStatus, Error> {
        Ok(self.plane.query(|answer| NodeRequest::Scrub { change, answer }).await?)
    }

    /// The drives.
    pub async fn drives(&self) -> Result<Vec<DriveStatus>, Error> {
        Ok(self.plane.query(|answer| NodeRequest::Drives { answer }).await?)
    }

    /// The cluster key, by name.
    pub async fn keys(&self) -> Result<KeyStatus, Error> {
        Ok(self.plane.query(|answer| NodeRequest::Keys { answer }).await?)
    }

    /// Puts a new cluster key into the place of the one in force; returns when every data key is wrapped by it.
    pub async fn rotate_keys(&self) -> Result<KeyStatus, Error> {
        let rotated = self.plane.send(|answer| NodeRequest::RotateKeys { answer })?;
        let status = match tokio::time::timeout(CHANGE_DEADLINE, rotated).await {
            Ok(Ok(status)) => status?,
            Ok(Err(_)) => return Err(stopped()),
            Err(_) => {
                let text = "the drives take long; the rotation goes on, look again later";
                return Err(Error::new(Kind::DeadlineExceeded, text));
            }
        };
        let what = Occurrence {
            component: Component::Cluster,
            severity: Severity::Info,
            name: "ClusterKeyRotated".into(),
            subject: status.id.clone(),
            project: String::new(),
            text: format!("cluster key {} is in force; it wraps {} data keys", status.id, status.lines),
        };
        self.record(what).await?;
        Ok(status)
    }

    /// Where the time of a volume's commands went lately.
    pub async fn traces(&self, uuid: Uuid) -> Result<VolumeTraces, Error> {
        Ok(self.plane.query(|answer| NodeRequest::Traces { uuid, answer }).await?)
    }

    /// All counters.
    pub async fn metrics(&self) -> Result<Box<MetricsSnapshot>, Error> {
        Ok(self.plane.query(|answer| NodeRequest::Metrics { answer }).await?)
    }

    /// Events, oldest first.
    pub async fn events(&self, filter: EventFilter) -> Result<Vec<Event>, Error> {
        self.question(|answer| Question::Events { filter, answer }).await
    }

    /// Records an event.
    pub async fn record(&self, what: Occurrence) -> Result<(), Error> {
        self.questions.send(Question::Record(what)).await.map_err(|_| stopped())
    }

    async fn change<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Message,
    ) -> Result<T, Error> {
        match tokio::time::timeout(CHANGE_DEADLINE, self.ask(make)).await {
            Ok(answer) => answer?,
            Err(_) => Err(Error::new(
                Kind::DeadlineExceeded,
                "the data plane takes long; the change may still be made, look again later",
            )),
        }
    }

    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T, Error> {
        let (sender, receiver) = oneshot::channel();
        self.inbox.send(make(sender)).await.map_err(|_| stopped())?;
        receiver.await.map_err(|_| stopped())
    }

    async fn question<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Question) -> Result<T, Error> {
        let (sender, receiver) = oneshot::channel();
        self.questions.send(make(sender)).await.map_err(|_| stopped())?;
        receiver.await.map_err(|_| stopped())
    }

    fn report(&self, view: VolumeView, seen: Seen) -> VolumeReport {
        let pg_uuid = self.identity.pg_uuid(view.descriptor.pg);
        let (usage, connected_hosts, protection, lost) = match seen {
            Seen::Status(status) => (status.usage, status.connected_hosts, status.protection, status.lost),
            Seen::Nothing => (VolumeUsage::default(), Vec::new(), Protection::FullyProtected, Vec::new()),
            Seen::Silence => (VolumeUsage::default(), Vec::new(), Protection::NotAvailable, Vec::new()),
        };
        let protection = (view.life != Life::Creating).then_some(protection);
        VolumeReport { view, usage, connected_hosts, protection, lost, pg_uuid }
    }
}

/// What the data plane says about a volume.
enum Seen {
    /// This.
    Status(Box<VolumeStatus>),
    /// Nothing yet: just made or changed, and nothing is known to be wrong with it.
    Nothing,
    /// It doesn't answer, so nobody is served.
    Silence,
}

impl Seen {
    fn of(status: Option<VolumeStatus>) -> Seen {
        status.map_or(Seen::Nothing, |status| Seen::Status(Box::new(status)))
    }
}

fn stopped() -> Error {
    Error::new(Kind::Unavailable, "the node is stopping")
}
