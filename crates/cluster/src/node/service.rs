//! The task behind [`super::Handle`]: owns the model and the state file, executes the model's commands.

use super::{
    Ambient, Defaults,
    clock::Clock,
    news::{occurrence_of, overdue},
    policies::PolicyMessage,
    questions::Question,
};
use crate::{
    Error,
    event::{Event, MAX_EVENTS, Occurrence, Severity},
    model::{Command, Input, Model, RequestId, SnapshotView, VolumeView},
    plane::{Answer, NodeRequest, Notice, Plane, PlaneError, Recovered},
    snapshot::SnapshotSpec,
    state::{Marks, State, StateError},
    volume::{VolumeChange, VolumeKey, VolumeSpec},
};
use dolmen_types::{UnixMillis, Uuid, snapshot::SnapshotDescriptor};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

/// How often the data plane's list is asked for while volumes are being given up.
const OBSERVE_PERIOD: Duration = Duration::from_millis(250);

/// How long a snapshot may outlive its time, a due one may be late, and a volume that refused its policy's new state is left alone at least.
const TICK_PERIOD: Duration = Duration::from_secs(5);

/// Snapshots of policies that one tick takes at most. Count.
const MAX_DUE: usize = 16;

/// How long an event may wait for its write to the file, so that a few that come together are written together.
const EVENT_PERIOD: Duration = Duration::from_millis(50);

/// How long after they could not be written.
const EVENT_RETRY: Duration = Duration::from_secs(10);

/// What it costs when the clock could not be kept for the next start.
const NOT_KEPT: &str = "after a restart snapshots whose time is over stay for longer";

/// What a [`super::Handle`] asks to change. One is done after another.
#[derive(Debug)]
pub(super) enum Message {
    Create {
        spec: VolumeSpec,
        answer: Answer<Result<VolumeView, Error>>,
    },
    Update {
        project: Option<String>,
        key: VolumeKey,
        expected: Option<u64>,
        change: VolumeChange,
        answer: Answer<Result<VolumeView, Error>>,
    },
    Delete {
        project: Option<String>,
        key: VolumeKey,
        expected: Option<u64>,
        answer: Answer<Result<VolumeView, Error>>,
    },
    Rollback {
        project: Option<String>,
        key: VolumeKey,
        snapshot: VolumeKey,
        expected: Option<u64>,
        answer: Answer<Result<VolumeView, Error>>,
    },
    CreateSnapshots {
        specs: Vec<SnapshotSpec>,
        answer: Answer<Result<Vec<SnapshotView>, Error>>,
    },
    DeleteSnapshot {
        project: Option<String>,
        key: VolumeKey,
        expected: Option<u64>,
        answer: Answer<Result<Vec<SnapshotView>, Error>>,
    },
    Policy(PolicyMessage),
}

/// The task's state.
pub(super) struct Service {
    pub(super) model: Model,
    state: Arc<State>,
    plane: Plane,
    pub(super) ambient: Ambient,
    clock: Clock,
    waiting: BTreeMap<RequestId, Answer<Result<VolumeView, Error>>>,
    waiting_for_snapshots: BTreeMap<RequestId, Answer<Result<Vec<SnapshotView>, Error>>>,
    next_request: u64,
    /// What is answered whatever is being written.
    questions: mpsc::Receiver<Question>,
    /// Answers of the data plane on their way back to the model.
    inputs: mpsc::Sender<Input>,
    inputs_out: mpsc::Receiver<Input>,
    pub(super) events: VecDeque<Event>,
    next_event: u64,
    /// The last event that is in the file; those after it are to be written.
    saved_event: u64,
    /// The last try to write events failed, and that was told.
    failing: bool,
    /// It was told that snapshots stay beyond their time, since the clock is in doubt.
    overdue_told: bool,
    /// True while a list has been asked for and not come.
    observing: bool,
    /// Why the last marks were not made durable, if they were not: an id that follows could be given out twice. The model has them
    /// written anew before it takes another.
    marks_failed: Option<String>,
}

impl Service {
    /// Derives the model from the marks and from what was recovered.
    pub(super) fn new(
        state: State,
        recovered: Recovered,
        plane: Plane,
        questions: mpsc::Receiver<Question>,
        (ambient, defaults): (Ambient, Defaults),
    ) -> Result<Service, StateError> {
        let events = state.events()?;
        let taken = recovered.snapshots.iter().map(|s| s.created);
        let newest = taken.chain(events.back().map(Event::at)).max();
        let (now, uptime) = ((ambient.now)(), (ambient.uptime)());
        let mut clock = Clock::start(state.belief()?, newest, (Instant::now(), now), uptime);
        if let Some(why) = clock.take_belief(uptime).and_then(|belief| state.set_belief(&belief).err()) {
            tracing::warn!("{NOT_KEPT}: {why}");
        }
        let highest = Marks { nsid: recovered.highest_nsid, line: recovered.highest_line };
        let mut model = Model::recover(state.marks()?, highest, recovered.volumes);
        model.encrypt_by_default(defaults.encryption);
        model.restore_snapshots(recovered.snapshots);
        model.restore_schedules(state.snapshot_policies()?, now);
        for policy in model.restore_policies(state.qos_policies()?, state.default_qos_policy()?) {
            tracing::info!(policy = policy.name, uuid = %policy.uuid, "QoS policy told again by its volumes");
            state.put_qos_policy(&policy)?;
        }
        let (inputs, inputs_out) = mpsc::channel(crate::plane::MAX_PENDING_REQUESTS);
        let last_event = events.back().map_or(0, |e| e.id);
        Ok(Service {
            model,
            plane,
            ambient,
            clock,
            waiting: BTreeMap::new(),
            waiting_for_snapshots: BTreeMap::new(),
            next_request: 0,
            questions,
            inputs,
            inputs_out,
            next_event: last_event + 1,
            saved_event: last_event,
            failing: false,
            overdue_told: false,
            events,
            observing: false,
            marks_failed: None,
            state: Arc::new(state),
        })
    }

    /// Serves until the last handle is gone, then writes what is left.
    pub(super) async fn run(
        mut self,
        mut requests: mpsc::Receiver<Message>,
        mut notices: mpsc::Receiver<Notice>,
    ) {
        let mut notices_open = true;
        let (mut save_at, mut observe_at, mut tick_at) = (None, None, None);
        // What was left of a change of a policy when the process ended.
        self.spread().await;
        loop {
            let wanted = self.model.wants_observation() && !self.observing;
            arm(&mut observe_at, wanted, OBSERVE_PERIOD);
            let soon = if self.failing { EVENT_RETRY } else { EVENT_PERIOD };
            arm(&mut save_at, self.saved_event + 1 < self.next_event, soon);
            arm(&mut tick_at, self.model.wants_ticks(), TICK_PERIOD);
            tokio::select! {
                message = requests.recv() => match message {
                    Some(message) => self.on_message(message).await,
                    None => break,
                },
                Some(question) = self.questions.recv() => self.on_question(question),
                Some(input) = self.inputs_out.recv() => self.step(input).await,
                notice = notices.recv(), if notices_open => match notice {
                    Some(notice) => self.record(occurrence_of(notice)),
                    None => notices_open = false,
                },
                () = sleep_until(observe_at), if observe_at.is_some() => {
                    observe_at = None;
                    self.observe();
                }
                () = sleep_until(tick_at), if tick_at.is_some() => {
                    tick_at = None;
                    self.tick().await;
                }
                () = sleep_until(save_at), if save_at.is_some() => {
                    save_at = None;
                    self.save_events().await;
                }
            }
        }
        // Events that were recorded last.
        while let Some(question) = self.questions.recv().await {
            self.on_question(question);
        }
        self.save_events().await;
        if self.clock.believes((Instant::now(), (self.ambient.now)())) {
            self.keep_clock().await;
        }
        let used = self.model.used();
        let _ = self.on_state(move |state| state.set_marks(used)).await;
    }

    /// Snapshots whose time is over go, those that are due are taken.
    async fn tick(&mut self) {
        let fresh = (0..MAX_DUE).map(|_| (self.ambient.uuid)()).collect();
        let (looked, now) = (Instant::now(), (self.ambient.now)());
        let sure = self.clock.believes((looked, now));
        if sure {
            self.overdue_told = false;
            self.keep_clock().await;
        } else if !self.overdue_told {
            let stays_for = self.clock.holds_for(looked);
            self.overdue_told =
                self.model.overdue(now).map(|count| self.record(overdue(count, stays_for))).is_some();
        }
        let dated = self.clock.at_least(now);
        self.step(Input::Tick { now, dated, sure, fresh }).await;
    }

    /// Keeps what the clock says for the next start, when it is time to.
    async fn keep_clock(&mut self) {
        let Some(belief) = self.clock.take_belief((self.ambient.uptime)()) else { return };
        if let Err(why) = self.on_state(move |state| state.set_belief(&belief)).await {
            tracing::warn!("{NOT_KEPT}: {why}");
        }
    }

    async fn on_message(&mut self, message: Message) {
        match message {
            Message::Create { spec, answer } => {
                let request = self.wait(answer);
                let (uuid, now) = ((self.ambient.uuid)(), (self.ambient.now)());
                self.step(Input::Create { request, spec, uuid, now }).await;
            }
            Message::Update { project, key, expected, change, answer } => {
                let request = self.wait(answer);
                self.step(Input::Update { request, project, key, expected, change }).await;
            }
            Message::Delete { project, key, expected, answer } => {
                let request = self.wait(answer);
                self.step(Input::Delete { request, project, key, expected }).await;
            }
            Message::Rollback { project, key, snapshot, expected, answer } => {
                let request = self.wait(answer);
                self.step(Input::Rollback { request, project, key, snapshot, expected }).await;
            }
            Message::CreateSnapshots { specs, answer } => {
                let request = Some(self.wait_for_snapshots(answer));
                let wanted = specs.into_iter().map(|spec| (spec, (self.ambient.uuid)())).collect();
                let now = self.clock.at_least((self.ambient.now)());
                self.step(Input::CreateSnapshots { request, wanted, now }).await;
            }
            Message::DeleteSnapshot { project, key, expected, answer } => {
                let request = self.wait_for_snapshots(answer);
                self.step(Input::DeleteSnapshot { request, project, key, expected }).await;
            }
            Message::Policy(message) => self.on_policy(message).await,
        }
    }

    fn wait(&mut self, answer: Answer<Result<VolumeView, Error>>) -> RequestId {
        let request = RequestId(self.next_request);
        self.next_request += 1;
        self.waiting.insert(request, answer);
        request
    }

    fn wait_for_snapshots(&mut self, answer: Answer<Result<Vec<SnapshotView>, Error>>) -> RequestId {
        let request = RequestId(self.next_request);
        self.next_request += 1;
        self.waiting_for_snapshots.insert(request, answer);
        request
    }

    /// Feeds the model and does what it says, until it has nothing more to say.
    async fn step(&mut self, input: Input) {
        if matches!(input, Input::Observed { .. } | Input::Unobserved) {
            self.observing = false;
        }
        let commands = self.model.step(input);
        self.carry_out(commands).await;
    }

    /// Lets volumes follow a policy that has changed.
    pub(super) async fn spread(&mut self) {
        let commands = self.model.follow_policies();
        self.carry_out(commands).await;
    }

    async fn carry_out(&mut self, commands: Vec<Command>) {
        let mut commands = VecDeque::from(commands);
        while let Some(command) = commands.pop_front() {
            if let Some(input) = self.execute(command).await {
                commands.extend(self.model.step(input));
            }
        }
    }

    /// Does one command; returns what the model must know at once.
    async fn execute(&mut self, command: Command) -> Option<Input> {
        match command {
            Command::SaveMarks(marks) => {
                self.marks_failed = self.on_state(move |state| state.set_marks(marks)).await.err();
                let why = self.marks_failed.as_ref()?;
                tracing::error!("{why}; no volume can be made before that is mended");
                Some(Input::MarksNotSaved)
            }
            Command::Create(descriptor) => {
                let uuid = descriptor.uuid;
                if let Some(why) = &self.marks_failed {
                    let result = Some(Err(PlaneError::Unavailable(why.clone())));
                    return Some(Input::Answered { uuid, result });
                }
                self.request(uuid, |answer| NodeRequest::CreateVolume { descriptor, answer })
            }
            Command::Update { descriptor, expected_revision } => self.request(descriptor.uuid, |answer| {
                NodeRequest::UpdateVolume { descriptor, expected_revision, answer }
            }),
            Command::Delete { uuid, expected_revision, new_revision } => self.request(uuid, |answer| {
                NodeRequest::DeleteVolume { uuid, expected_revision, new_revision, answer }
            }),
            Command::Rollback { uuid, snapshot, line, expected_revision } => {
                if let Some(why) = &self.marks_failed {
                    let result = Some(Err(PlaneError::Unavailable(why.clone())));
                    return Some(Input::Answered { uuid, result });
                }
                self.request(uuid, |answer| NodeRequest::Rollback {
                    uuid,
                    snapshot,
                    line,
                    expected_revision,
                    answer,
                })
            }
            Command::CreateSnapshots(descriptors) => {
                let uuids = descriptors.iter().map(|d| d.uuid).collect();
                self.request_snapshots(uuids, |answer| NodeRequest::CreateSnapshots { descriptors, answer })
            }
            Command::DeleteSnapshot { uuid, pg, expected_revision } => {
                self.request_snapshots(vec![uuid], |answer| NodeRequest::DeleteSnapshot {
                    uuid,
                    pg,
                    expected_revision,
                    answer,
                })
            }
            Command::SaveSchedule(policy) => {
                if let Err(why) = self.on_state(move |state| state.put_snapshot_policy(&policy)).await {
                    tracing::warn!("when a snapshot policy ran is not kept over a restart: {why}");
                }
                None
            }
            Command::RemoveSchedule(uuid) => {
                if let Err(why) = self.on_state(move |state| state.remove_snapshot_policy(uuid)).await {
                    tracing::warn!(
                        "a snapshot policy of a volume that is gone comes back at the next start: {why}"
                    );
                }
                None
            }
            Command::AnswerSnapshots { request, result } => {
                if let Some(answer) = self.waiting_for_snapshots.remove(&request) {
                    let _ = answer.send(result);
                }
                None
            }
            Command::Answer { request, result } => {
                if let Some(answer) = self.waiting.remove(&request) {
                    let _ = answer.send(result.map(|view| *view));
                }
                None
            }
            Command::Record(what) => {
                self.record(what);
                None
            }
        }
    }

    /// Sends a change to the data plane; its answer comes back as an input, at once if it can't be sent.
    fn request(
        &self,
        uuid: Uuid,
        make: impl FnOnce(Answer<Result<(), PlaneError>>) -> NodeRequest,
    ) -> Option<Input> {
        match self.plane.send(make) {
            Ok(receiver) => {
                self.forward(receiver, move |answer| Input::Answered { uuid, result: answer });
                None
            }
            Err(why) => {
                let result = Some(Err(PlaneError::Unavailable(why.to_string())));
                Some(Input::Answered { uuid, result })
            }
        }
    }

    /// The same for snapshots.
    fn request_snapshots(
        &self,
        uuids: Vec<Uuid>,
        make: impl FnOnce(Answer<Result<Vec<SnapshotDescriptor>, PlaneError>>) -> NodeRequest,
    ) -> Option<Input> {
        match self.plane.send(make) {
            Ok(receiver) => {
                self.forward(receiver, move |result| Input::SnapshotsAnswered { uuids, result });
                None
            }
            Err(why) => {
                let result = Some(Err(PlaneError::Unavailable(why.to_string())));
                Some(Input::SnapshotsAnswered { uuids, result })
            }
        }
    }

    fn observe(&mut self) {
        let round = self.model.ask();
        let Ok(volumes) = self.plane.send(|answer| NodeRequest::ListVolumes { only: None, answer }) else {
            return;
        };
        let Ok(snapshots) = self.plane.send(|answer| NodeRequest::ListSnapshots { answer }) else { return };
        self.observing = true;
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let seen = match (volumes.await, snapshots.await) {
                (Ok(volumes), Ok(snapshots)) => Input::Observed {
                    round,
                    volumes: volumes.into_iter().map(|status| status.descriptor).collect(),
                    snapshots: snapshots.into_iter().map(|status| status.descriptor).collect(),
                },
                _ => Input::Unobserved,
            };
            let _ = inputs.send(seen).await;
        });
    }

    fn forward<T: Send + 'static>(
        &self,
        receiver: oneshot::Receiver<T>,
        input: impl FnOnce(Option<T>) -> Input + Send + 'static,
    ) {
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let _ = inputs.send(input(receiver.await.ok())).await;
        });
    }

    pub(super) fn record(&mut self, what: Occurrence) {
        log(&what);
        let UnixMillis(unix_ms) = (self.ambient.now)();
        let event = Event { id: self.next_event, unix_ms, what };
        self.next_event += 1;
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Writes what is not in the file yet. What could not be written is tried again, as long as it is kept.
    async fn save_events(&mut self) {
        let unsaved = self.events.iter().filter(|e| e.id > self.saved_event);
        let (events, last): (Vec<Event>, u64) = (unsaved.cloned().collect(), self.next_event - 1);
        if events.is_empty() {
            return;
        }
        match self.on_state(move |state| state.append_events(&events)).await {
            Ok(()) => (self.saved_event, self.failing) = (last, false),
            Err(_) if self.failing => {}
            Err(why) => {
                tracing::warn!("events are not kept over a restart before this is mended: {why}");
                self.failing = true;
            }
        }
    }

    /// Runs a blocking call on the state file off the runtime's threads. What the disk takes for it is no reason to keep those waiting who
    /// only ask: they are answered meanwhile. Nothing else happens before it is done.
    pub(super) async fn on_state(
        &mut self,
        call: impl FnOnce(&State) -> Result<(), StateError> + Send + 'static,
    ) -> Result<(), String> {
        let state = Arc::clone(&self.state);
        let mut writing = tokio::task::spawn_blocking(move || call(&state));
        loop {
            tokio::select! {
                written = &mut writing => return match written {
                    Ok(result) => result.map_err(|why| why.to_string()),
                    Err(why) => Err(why.to_string()),
                },
                Some(question) = self.questions.recv() => self.on_question(question),
            }
        }
    }
}

/// Sets the alarm when it is wanted and not set, unsets it when it isn't wanted.
fn arm(at: &mut Option<Instant>, wanted: bool, after: Duration) {
    *at = if wanted { at.or_else(|| Some(Instant::now() + after)) } else { None };
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}

/// An event in the log, as loud as it is grave.
fn log(what: &Occurrence) {
    let Occurrence { name, subject, severity, text, .. } = what;
    match severity {
        Severity::Info => tracing::info!(event = name, subject, ?severity, "{text}"),
        Severity::Critical => tracing::error!(event = name, subject, ?severity, "{text}"),
        _ => tracing::warn!(event = name, subject, ?severity, "{text}"),
    }
}
