//! All volumes of one core, and the step that moves their commands.

use crate::{
    Change, ControlError, ControlReply, ControlRequest, NodeIdentity, Notice, Reply, Request, Restart,
    VolumeRef, VolumeStats,
    backing::{Durable, Log},
    engine::{call_off::CalledOff, straight::Straights},
    group::{Group, Phase},
    limits::{MAX_COMMANDS, MAX_CONTROL_REQUESTS, MAX_LOCKED_RANGES, MAX_VOLUME_COMMANDS, SWEEP_MS},
    locks::LockTable,
    op::{OpId, Ops},
    snapshots::{Snapshot, SnapshotOp},
    volume::{Life, Volume},
};
use dolmen_io::{Event, Io, Owner};
use dolmen_store::{Done as StoreDone, Records, Store};
use dolmen_types::{CoreId, LineId, Nanos, PgId, Uuid, limits::PROTECTION_GROUPS};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
};

/// Slots that are there from the start.
const EXPECTED_COMMANDS: usize = 4096;

/// The volumes whose protection group's home is one core.
pub struct Volumes {
    pub(crate) core: CoreId,
    pub(crate) owner: Owner,
    pub(crate) restart: Restart,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) free_slots: Vec<usize>,
    pub(crate) by_uuid: BTreeMap<Uuid, usize>,
    /// By protection group number; `None` for those of other cores.
    pub(crate) groups: Vec<Option<Group>>,
    pub(crate) ops: Ops,
    /// Commands under way that have no slot among them.
    pub(crate) straights: Straights,
    pub(crate) locks: LockTable,
    pub(crate) inbox: Vec<Request>,
    /// Requests that nobody waits for any more; not looked at yet.
    pub(crate) called_off: Vec<CalledOff>,
    /// Slots of volumes that have a backlog, each once; who is first goes next.
    pub(crate) backlogs: VecDeque<usize>,
    /// [`MAX_VOLUME_COMMANDS`], but for tests.
    pub(crate) volume_limit: usize,
    /// Commands in backlogs.
    pub(crate) backlogged: usize,
    /// When to look at the commands that a volume's QoS policy keeps waiting: time, id, slot, direction.
    pub(crate) alarms: BinaryHeap<Reverse<(Nanos, u64, usize, usize)>>,
    /// Id of the newest alarm.
    pub(crate) next_alarm: u64,
    /// Commands that wait so.
    pub(crate) throttled: usize,
    /// By UUID.
    pub(crate) snapshots: BTreeMap<Uuid, Snapshot>,
    /// How many of them there are by volume and line: a rollback leaves lines behind that only snapshots name.
    pub(crate) snapshot_lines: BTreeMap<(Uuid, LineId), usize>,
    /// Batches of snapshots under way, by ticket.
    pub(crate) snapshot_ops: BTreeMap<u64, SnapshotOp>,
    /// Number of the newest such batch.
    pub(crate) next_snapshot_op: u64,
    /// Snapshots whose deletion is durable and that may have come to their end.
    pub(crate) snapshot_purges: VecDeque<Uuid>,
    /// Listings of differences that the store works on.
    pub(crate) diffs: usize,
    completions: Vec<StoreDone>,
    pub(crate) replies: Vec<(CoreId, Reply)>,
    /// Granted, to be run.
    pub(crate) ready: VecDeque<OpId>,
    /// Granted, but short of buffers; in order.
    pub(crate) starved: VecDeque<OpId>,
    /// Commands under way with buffers of their own.
    pub(crate) equipped: usize,
    /// Decided, but the log took nothing that turn; in order.
    pub(crate) unsent: VecDeque<(OpId, Records)>,
    /// Commands that wait for overlapping ones.
    pub(crate) waiting: usize,
    next_sweep: Nanos,
    /// When the timer fires that was set last, until it does.
    timer: Option<Nanos>,
    /// Control requests that have not begun: new ones, and those that wait for another one of their volume.
    pub(crate) control_inbox: VecDeque<ControlRequest>,
    /// There are new ones.
    control_arrived: bool,
    pub(crate) control_replies: Vec<ControlReply>,
    pub(crate) notices: Vec<Notice>,
    pub(crate) changes: Vec<Change>,
    /// Volumes whose deletion is durable and whose end is still to be sequenced.
    pub(crate) purges: VecDeque<usize>,
    /// Who the node is, for the opening of group 0.
    pub(crate) identity: Option<IdentityClaim>,
}

/// Who the node is to its hosts, and by what right.
#[derive(Clone, Debug)]
pub(crate) struct IdentityClaim {
    pub(crate) identity: NodeIdentity,
    /// What the log says otherwise is replaced.
    pub(crate) replaces: bool,
}

/// Whether a node's identity takes the place of another one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// The pool is ours.
    Other,
    /// Somebody else may have served it.
    Nothing,
}

impl Volumes {
    /// No volumes yet, for the protection groups `groups` of this core. `owner` tags our timer.
    #[must_use]
    pub fn new(core: CoreId, groups: &[PgId], restart: Restart, owner: Owner) -> Volumes {
        let mut by_number: Vec<Option<Group>> = (0..PROTECTION_GROUPS).map(|_| None).collect();
        for pg in groups {
            by_number[pg.0 as usize] = Some(Group::new(*pg));
        }
        Volumes {
            core,
            owner,
            restart,
            volumes: Vec::new(),
            free_slots: Vec::new(),
            by_uuid: BTreeMap::new(),
            groups: by_number,
            straights: Straights::default(),
            ops: Ops::new(EXPECTED_COMMANDS, MAX_COMMANDS),
            locks: LockTable::new(EXPECTED_COMMANDS, MAX_LOCKED_RANGES),
            inbox: Vec::new(),
            called_off: Vec::new(),
            backlogs: VecDeque::new(),
            volume_limit: MAX_VOLUME_COMMANDS,
            backlogged: 0,
            alarms: BinaryHeap::new(),
            next_alarm: 0,
            throttled: 0,
            snapshots: BTreeMap::new(),
            snapshot_lines: BTreeMap::new(),
            snapshot_ops: BTreeMap::new(),
            next_snapshot_op: 0,
            snapshot_purges: VecDeque::new(),
            diffs: 0,
            completions: Vec::new(),
            replies: Vec::new(),
            ready: VecDeque::new(),
            starved: VecDeque::new(),
            equipped: 0,
            unsent: VecDeque::new(),
            waiting: 0,
            next_sweep: Nanos(0),
            timer: None,
            control_inbox: VecDeque::new(),
            control_arrived: false,
            control_replies: Vec::new(),
            notices: Vec::new(),
            changes: Vec::new(),
            purges: VecDeque::new(),
            identity: None,
        }
    }

    /// Before [`Volumes::open`]: the log shall tell who the node is. What it tells of another one stays unless `replaces`.
    pub fn identify(&mut self, identity: NodeIdentity, replaces: Replace) {
        self.identity = Some(IdentityClaim { identity, replaces: replaces == Replace::Other });
    }

    /// A host's command, from this core or from a mailbox. Looked at in the next step, in order.
    pub fn submit(&mut self, request: Request) {
        self.inbox.push(request);
    }

    /// A completion of the store, of an operation that this component started.
    pub fn on_store_done(&mut self, done: StoreDone) {
        self.completions.push(done);
    }

    /// Several of them, in order.
    pub fn on_store_dones(&mut self, dones: &mut Vec<StoreDone>) {
        let known = &mut self.completions;
        if known.is_empty() { std::mem::swap(known, dones) } else { known.append(dones) }
    }

    /// An event that carries our owner: the timer.
    pub fn on_event(&mut self, _event: Event) {
        self.timer = None;
    }

    /// A request of the control side. Answered in [`Volumes::drain_control`].
    pub fn control(&mut self, request: ControlRequest) {
        if self.control_inbox.len() >= MAX_CONTROL_REQUESTS {
            let result = Err(ControlError::Busy);
            self.control_replies.push(ControlReply { token: request.token, result });
        } else {
            self.control_inbox.push_back(request);
            self.control_arrived = true;
        }
    }

    /// Once per turn, before the store's own step, so that what is sequenced here goes into the next commit. `store` is
    /// `None` on a core that hosts no shard; it serves Null and Memory volumes alone. True when something was done.
    pub fn step(&mut self, io: &mut Io, store: Option<&mut Store>) -> bool {
        let owner = self.owner;
        self.run(&mut Durable { io, store, owner })
    }

    /// Takes the replies, each with the core that it goes to.
    pub fn drain(&mut self, out: &mut Vec<(CoreId, Reply)>) {
        if out.is_empty() { std::mem::swap(out, &mut self.replies) } else { out.append(&mut self.replies) }
    }

    /// Takes the answers to control requests.
    pub fn drain_control(&mut self, out: &mut Vec<ControlReply>) {
        out.append(&mut self.control_replies);
    }

    /// Takes what hosts are to be told about reservations.
    pub fn notices(&mut self, out: &mut Vec<Notice>) {
        out.append(&mut self.notices);
    }

    /// Takes what has changed about which volumes there are, in order.
    pub fn changes(&mut self, out: &mut Vec<Change>) {
        out.append(&mut self.changes);
    }

    /// True when every protection group serves, or has failed to: the core may start to listen.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.groups.iter().flatten().all(|g| matches!(g.phase, Phase::Open | Phase::Stopped))
    }

    /// Requests that are not answered yet, and background operations under way; 0 is what an orderly end waits for.
    /// (Deletions that are durable but not finished go on after the next start.)
    #[must_use]
    pub fn outstanding(&self) -> usize {
        let commands =
            self.inbox.len() + self.throttled + self.backlogged + self.ops.len() + self.straights.len();
        commands + self.control_inbox.len() + self.snapshot_ops.len() + self.diffs
    }

    /// True when another [`Volumes::step`] would find something to do at once: the core must not sleep.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.control_arrived
            || !self.inbox.is_empty()
            || !self.called_off.is_empty()
            || self.straights.has_begun()
            || !self.completions.is_empty()
    }

    /// The counters of every volume that serves.
    pub fn stats(&self) -> impl Iterator<Item = (Uuid, &VolumeStats)> {
        let serving = self.volumes.iter().filter(|v| v.life == Life::Serving);
        serving.map(|v| (v.descriptor.uuid, &v.stats))
    }

    /// The reference of a volume, while it can be named.
    #[must_use]
    pub fn find(&self, uuid: Uuid) -> Option<VolumeRef> {
        self.by_uuid.get(&uuid).map(|&slot| self.volumes[slot].at)
    }

    /// One step over any world.
    pub(crate) fn run<L: Log>(&mut self, log: &mut L) -> bool {
        // First: what has begun was judged by what was sequenced before, and nothing may come between.
        let mut worked = self.run_straights(log);
        if !self.called_off.is_empty() {
            worked = true;
            self.run_called_off(log);
        }
        let mut completions = std::mem::take(&mut self.completions);
        for done in completions.drain(..) {
            worked = true;
            self.log_done(done, log);
        }
        self.completions = completions;
        self.control_arrived = false;
        self.run_control(log);
        self.run_purges(log);
        self.run_snapshot_purges(log);
        self.take_diffs(log);
        self.retry_unsent(log);
        self.retry_starved(log);
        self.admit_backlogs(log);
        self.run_alarms(log);
        let mut inbox = std::mem::take(&mut self.inbox);
        for request in inbox.drain(..) {
            worked = true;
            self.arrive(request, log);
        }
        inbox.append(&mut self.inbox);
        self.inbox = inbox;
        self.run_ready(log);
        self.admit_backlogs(log);
        self.sweep(log);
        worked
    }

    /// Runs commands whose locks were granted, and those that this grants in turn.
    fn run_ready<L: Log>(&mut self, log: &mut L) {
        while let Some(id) = self.ready.pop_front() {
            self.begin(id, log);
        }
    }

    /// Tries starved commands again, before newer ones can take what they wait for; then those.
    fn retry_starved<L: Log>(&mut self, log: &mut L) {
        for _ in 0..self.starved.len() {
            let Some(id) = self.starved.pop_front() else { break };
            self.begin(id, log);
        }
        self.run_ready(log);
    }

    fn retry_unsent<L: Log>(&mut self, log: &mut L) {
        for _ in 0..self.unsent.len() {
            let Some((id, records)) = self.unsent.pop_front() else { break };
            self.resend(id, records, log);
        }
    }

    /// Lets the next sweep come at the end of this step.
    pub(crate) fn next_sweep_now(&mut self) {
        self.next_sweep = Nanos(0);
    }

    /// Answers waiting commands whose deadline has passed, a few times per second, while any wait.
    fn sweep<L: Log>(&mut self, log: &mut L) {
        let waiting =
            self.waiting + self.throttled + self.backlogged + self.starved.len() + self.unsent.len();
        if waiting == 0 {
            return;
        }
        let now = log.now();
        if now >= self.next_sweep {
            self.next_sweep = now.plus_ms(SWEEP_MS);
            self.expire_waiting(log);
            // Those of a full volume go from there to its backlog.
            self.expire_throttled(log);
            self.expire_backlogs(log);
            self.run_ready(log);
        }
        let alarm = self.alarms.peek().map_or(self.next_sweep, |Reverse((at, ..))| *at);
        let wanted = alarm.min(self.next_sweep);
        if self.timer.is_none_or(|at| wanted < at) {
            self.timer = Some(wanted);
            log.wake_at(wanted);
        }
    }
}
