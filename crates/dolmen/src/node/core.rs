//! One core: its components, and the one place that says who is called when in a turn.
//!
//! ```text
//!   events ──▶ target ──requests──▶ volumes ──▶ store ──▶ drives
//!                 ▲                    │  ▲        │
//!                 └──────replies───────┘  └──done──┘
//! ```
//!
//! Requests for a volume of another core, and their replies, go through mailboxes as the very same values. The core knows
//! nothing of threads: production runs one per thread over io_uring, tests run several in one thread over a simulated
//! world.

use crate::node::{
    boot::home_core,
    message::{Answer, Between, FromCore, Links, OpenedDrive, ToCore},
    report::{CoreReport, LoopCounters, PoolReport},
};
use dolmen_io::{Event, FileId, Inbox, Io, OpenDrive, Owner, Poller, Tag, Turn, Wait, exec::Exec};
use dolmen_store::{Candidate, PoolOwner, PoolPlan, ShardTuning, Store, ToPool, ToShard};
use dolmen_target::{NamespaceTable, Target, TargetConfig};
use dolmen_types::{
    CoreId, Nanos, PgId, ShardId,
    limits::{BLOCK_BYTES, PROTECTION_GROUPS},
};
use dolmen_volume::{
    Change, ControlCommand, ControlDone, ControlError, ControlReply, ControlRequest, Notice, Reply, Restart,
    VolumeInfo, Volumes,
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};
use tokio::sync::mpsc;

/// Tags of the loop's own timers.
pub const LOOP: Owner = Owner(0);
/// Tags of the target's operations.
pub const TARGET: Owner = Owner(1);
/// Tags of the store's operations.
pub const STORE: Owner = Owner(2);
/// Tags of long flows' operations.
pub const EXEC: Owner = Owner(3);
/// Tags of the volumes' timers.
pub const VOLUME: Owner = Owner(5);

/// Long flows of one core at most: a few per shard.
const MAX_TASKS: usize = 1024;

/// Passes of one turn between volumes and store before what is left waits for the next turn: a read-modify-write whose read
/// needs no drive takes two.
const PASSES: usize = 4;

/// How long hosts' commands may take to finish when the node stops. Milliseconds.
const DRAIN_MS: u64 = 10_000;

/// What is to be done with the answer to a control request of ours.
enum Pending {
    User(Answer<Result<ControlDone, ControlError>>),
    Opened(Answer<Vec<VolumeInfo>>),
    Report(Answer<Box<CoreReport>>),
}

/// What the core waits for on behalf of the control side.
#[derive(Default)]
struct Waiting {
    store: Option<Answer<Result<(), String>>>,
    volumes: Option<Answer<Vec<VolumeInfo>>>,
    drained: Option<(Answer<()>, Nanos)>,
    closed: Option<Closing>,
}

/// The end of volumes and store.
struct Closing {
    answer: Answer<()>,
    /// When commands under way are no longer waited for.
    give_up: Nanos,
    /// The store has been told.
    store_told: bool,
}

/// One core's loop and everything that lives on it.
pub struct Core {
    id: CoreId,
    cores: usize,
    io: Io,
    exec: Exec,
    poller: Poller,
    last: Turn,
    inbox: Inbox<ToCore>,
    out: mpsc::UnboundedSender<FromCore>,
    links: Links,
    /// Messages that found their mailbox full, by core.
    backlog: Vec<VecDeque<Between>>,

    /// Core 0: the drives as they were opened.
    drives: Vec<OpenedDrive>,
    /// The pool, once it is open.
    plan: Option<Arc<PoolPlan>>,
    /// This core's handles of the pool's drives, in the pool's order.
    files: Vec<FileId>,
    owner: Option<PoolOwner>,
    /// Core 0: what the shards' claims contradict each other in.
    contradiction: Option<String>,
    store: Option<Store>,
    volumes: Option<Volumes>,
    target: Option<Target>,

    waiting: Waiting,
    pending: BTreeMap<u64, Pending>,
    next_token: u64,
    counters: LoopCounters,
    buffers_total: u64,
    exit: bool,

    events: Vec<(Tag, Event)>,
    commands: Vec<ToCore>,
    mail: Vec<Between>,
    done: Vec<dolmen_store::Done>,
    replies: Vec<(CoreId, Reply)>,
    notices: Vec<Notice>,
    changes: Vec<Change>,
    answers: Vec<ControlReply>,
    to_pool: Vec<ToPool>,
    to_shards: Vec<(ShardId, ToShard)>,
}

impl Core {
    /// A core with nothing on it, which does what `inbox` tells it. `spin_ns` is how long it polls after the last work.
    #[must_use]
    pub fn new(
        id: CoreId,
        cores: usize,
        io: Io,
        inbox: Inbox<ToCore>,
        out: mpsc::UnboundedSender<FromCore>,
        spin_ns: u64,
    ) -> Core {
        let exec = Exec::new(EXEC, MAX_TASKS, &io);
        let buffers_total = u64::try_from(io.pool().available(BLOCK_BYTES)).unwrap_or(u64::MAX);
        Core {
            id,
            cores,
            exec,
            io,
            poller: Poller::new(spin_ns),
            last: Turn::MoreToDo,
            inbox,
            out,
            links: Links::default(),
            backlog: (0..cores).map(|_| VecDeque::new()).collect(),
            drives: Vec::new(),
            plan: None,
            files: Vec::new(),
            owner: None,
            contradiction: None,
            store: None,
            volumes: None,
            target: None,
            waiting: Waiting::default(),
            pending: BTreeMap::new(),
            next_token: 0,
            counters: LoopCounters::default(),
            buffers_total,
            exit: false,
            events: Vec::new(),
            commands: Vec::new(),
            mail: Vec::new(),
            done: Vec::new(),
            replies: Vec::new(),
            notices: Vec::new(),
            changes: Vec::new(),
            answers: Vec::new(),
            to_pool: Vec::new(),
            to_shards: Vec::new(),
        }
    }

    /// Turns until told to end.
    pub fn run(&mut self) {
        while self.turn() {}
    }

    /// One turn; false when the core has been told to end.
    pub fn turn(&mut self) -> bool {
        let began = self.io.now();
        let wait = if self.exec.has_ready() { Wait::No } else { self.poller.wait(began, self.last) };
        self.io.poll(wait, &mut self.events);
        self.count_turn(wait, began);
        let mut worked = !self.events.is_empty();
        self.dispatch();
        worked |= self.take_mail();
        worked |= self.take_commands();
        worked |= self.exec.run(&mut self.io);
        let mut more = self.work();
        more |= self.watch();
        self.send_mail();
        self.last = match (more, worked) {
            (true, _) => Turn::MoreToDo,
            (false, true) => Turn::Worked,
            (false, false) => Turn::Idle,
        };
        !self.exit
    }

    fn count_turn(&mut self, wait: Wait, began: Nanos) {
        let spent = self.io.now().since(began);
        self.counters.turns += 1;
        if wait == Wait::No {
            self.counters.busy_ns += spent;
        } else {
            self.counters.sleeps += 1;
            self.counters.idle_ns += spent;
        }
    }

    /// Each completion to the component that it belongs to.
    fn dispatch(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        for (tag, event) in events.drain(..) {
            match tag.owner {
                TARGET => {
                    if let Some(target) = &mut self.target {
                        target.on_event(&mut self.io, tag.key, event);
                    }
                }
                STORE => {
                    if let Some(store) = &mut self.store {
                        store.on_event(&mut self.io, tag.key, event);
                    }
                }
                EXEC => self.exec.deliver(tag.key, event),
                VOLUME => {
                    if let Some(volumes) = &mut self.volumes {
                        volumes.on_event(event);
                    }
                }
                _ => {}
            }
        }
        self.events = events;
    }

    fn take_mail(&mut self) -> bool {
        let mut mail = std::mem::take(&mut self.mail);
        for receiver in &mut self.links.into {
            receiver.drain(&mut mail);
        }
        let worked = !mail.is_empty();
        self.counters.messages += u64::try_from(mail.len()).unwrap_or(0);
        for message in mail.drain(..) {
            self.take_message(message);
        }
        self.mail = mail;
        worked
    }

    fn take_message(&mut self, message: Between) {
        match message {
            Between::Request(request) => {
                if let Some(volumes) = &mut self.volumes {
                    volumes.submit(request);
                }
            }
            Between::Reply(reply) => {
                if let Some(target) = &mut self.target {
                    target.on_reply(&mut self.io, reply);
                }
            }
            Between::Target(envelope) => {
                if let Some(target) = &mut self.target {
                    target.on_message(&mut self.io, envelope);
                }
            }
            Between::Notice(notice) => {
                if let Some(target) = &mut self.target {
                    target.on_notice(&mut self.io, &notice);
                }
            }
            Between::ToPool(message) => self.to_pool.push(message),
            Between::ToShard(shard, message) => {
                if let Some(store) = &mut self.store {
                    store.on_pool(shard, message);
                }
            }
        }
    }

    /// Volumes, store and target, in the order in which a command passes them. True when another turn could do more
    /// at once.
    fn work(&mut self) -> bool {
        let mut more = false;
        self.route_requests();
        self.collect_done();
        for pass in 0..PASSES {
            if let Some(volumes) = &mut self.volumes {
                volumes.step(&mut self.io, self.store.as_mut());
            }
            if let Some(store) = &mut self.store {
                more = store.step(&mut self.io);
            }
            if !self.collect_done() {
                break;
            }
            more |= pass + 1 == PASSES;
        }
        self.route_volumes();
        self.route_pool();
        if let Some(target) = &mut self.target {
            target.step(&mut self.io);
        }
        more |= self.route_requests();
        more | self.volumes.as_ref().is_some_and(Volumes::has_work)
    }

    /// Takes what the store has finished to the volumes; true when there was something.
    fn collect_done(&mut self) -> bool {
        let (Some(store), Some(volumes)) = (&mut self.store, &mut self.volumes) else { return false };
        store.drain(&mut self.done);
        let any = !self.done.is_empty();
        for done in self.done.drain(..) {
            volumes.on_store_done(done);
        }
        any
    }

    /// Takes the target's requests to the volumes, here or elsewhere; true when some are for here.
    fn route_requests(&mut self) -> bool {
        let Some(target) = &mut self.target else { return false };
        let outputs = target.outputs();
        if outputs.requests.is_empty() && outputs.messages.is_empty() {
            return false;
        }
        let mut any = false;
        for request in outputs.requests.drain(..) {
            let home = request.volume.core;
            match &mut self.volumes {
                Some(volumes) if home == self.id => {
                    volumes.submit(request);
                    any = true;
                }
                _ => post(&mut self.links, &mut self.backlog, home, Between::Request(request)),
            }
        }
        for envelope in outputs.messages.drain(..) {
            let to = envelope.to;
            post(&mut self.links, &mut self.backlog, to, Between::Target(envelope));
        }
        any
    }

    /// Takes the volumes' replies and news where they belong.
    fn route_volumes(&mut self) {
        let Some(volumes) = &mut self.volumes else { return };
        volumes.drain(&mut self.replies);
        volumes.notices(&mut self.notices);
        volumes.changes(&mut self.changes);
        volumes.drain_control(&mut self.answers);
        for (core, reply) in self.replies.drain(..) {
            match &mut self.target {
                Some(target) if core == self.id => target.on_reply(&mut self.io, reply),
                _ => post(&mut self.links, &mut self.backlog, core, Between::Reply(reply)),
            }
        }
        for notice in self.notices.drain(..) {
            if let Some(target) = &mut self.target {
                target.on_notice(&mut self.io, &notice);
            }
            for core in (0..self.cores).filter_map(|c| u16::try_from(c).ok()).filter(|&c| c != self.id.0) {
                post(&mut self.links, &mut self.backlog, CoreId(core), Between::Notice(notice));
            }
        }
        // Changes before answers: who gets an answer finds the change already told.
        for change in self.changes.drain(..) {
            // The control side only goes away when the process ends.
            let _ = self.out.send(FromCore::Change(change));
        }
        let mut answers = std::mem::take(&mut self.answers);
        for reply in answers.drain(..) {
            self.answer(reply);
        }
        self.answers = answers;
    }

    fn answer(&mut self, reply: ControlReply) {
        let list = |result| match result {
            Ok(ControlDone::List(list)) => list,
            _ => Vec::new(),
        };
        // A dropped receiver means that nobody waits any more.
        match self.pending.remove(&reply.token) {
            Some(Pending::User(answer)) => drop(answer.send(reply.result)),
            Some(Pending::Opened(answer)) => drop(answer.send(list(reply.result))),
            Some(Pending::Report(answer)) => {
                let report = self.report(list(reply.result));
                drop(answer.send(Box::new(report)));
            }
            None => {}
        }
    }

    /// Messages between shards and the owner of the pool's units.
    fn route_pool(&mut self) {
        if let Some(store) = &mut self.store {
            store.drain_pool(&mut self.to_pool);
        }
        for message in self.to_pool.drain(..) {
            match &mut self.owner {
                Some(owner) => {
                    if let Err(error) = owner.on_shard(message) {
                        // Two shards claim one unit: nothing may be served from such drives.
                        self.contradiction.get_or_insert(error.to_string());
                    }
                }
                None => post(&mut self.links, &mut self.backlog, CoreId(0), Between::ToPool(message)),
            }
        }
        let Some(owner) = &mut self.owner else { return };
        owner.drain(&mut self.to_shards);
        for (shard, message) in self.to_shards.drain(..) {
            let home = usize::from(shard.0) % self.cores;
            match &mut self.store {
                Some(store) if home == usize::from(self.id.0) => store.on_pool(shard, message),
                _ => {
                    let home = CoreId(u16::try_from(home).expect("cores are few"));
                    post(&mut self.links, &mut self.backlog, home, Between::ToShard(shard, message));
                }
            }
        }
    }

    fn send_mail(&mut self) {
        for (out, backlog) in self.links.out.iter_mut().zip(&mut self.backlog) {
            let Some(out) = out else { continue };
            while let Some(message) = backlog.pop_front() {
                if let Err(message) = out.push(message) {
                    backlog.push_front(message);
                    break;
                }
            }
            out.flush();
        }
    }

    // The control side.

    fn take_commands(&mut self) -> bool {
        let mut commands = std::mem::take(&mut self.commands);
        let any = self.inbox.drain(&mut commands) > 0;
        for command in commands.drain(..) {
            self.take_command(command);
        }
        self.commands = commands;
        any
    }

    fn take_command(&mut self, command: ToCore) {
        match command {
            ToCore::Link(links) => self.links = links,
            ToCore::OpenDrives { drives, answer } => {
                let opened = self.open_drives(&drives);
                drop(answer.send(opened));
            }
            ToCore::OpenPool { paths, options, answer } => {
                let drives = self.drives.iter().zip(paths);
                let candidates = drives.map(|(d, path)| Candidate { info: d.info.clone(), path }).collect();
                let opening = dolmen_store::open_pool(self.exec.handle(), candidates, options);
                let task = async move { drop(answer.send(opening.await)) };
                self.exec.handle().spawn(task).expect("nothing else runs on the core yet");
            }
            ToCore::OpenStore { plan, drives, answer } => {
                if let Err(why) = self.open_store(&plan, &drives) {
                    drop(answer.send(Err(why)));
                } else {
                    self.waiting.store = Some(answer);
                }
            }
            ToCore::OpenVolumes { restart, answer } => self.open_volumes(restart, answer),
            ToCore::Listen { config, table, answer } => drop(answer.send(self.listen(*config, table))),
            ToCore::Namespaces { table, answer } => {
                if let Some(target) = &mut self.target {
                    target.set_namespaces(&mut self.io, table);
                }
                let _ = answer.send(());
            }
            ToCore::Volume { command, answer } => self.ask_volumes(command, Pending::User(answer)),
            ToCore::Report { answer } => self.ask_volumes(ControlCommand::List, Pending::Report(answer)),
            ToCore::Drain { answer } => self.drain(answer),
            ToCore::Close { answer } => {
                let give_up = self.io.now().plus_ms(DRAIN_MS);
                self.io.timer_at(Tag { owner: LOOP, key: 0 }, give_up);
                self.waiting.closed = Some(Closing { answer, give_up, store_told: false });
            }
            ToCore::Exit => self.exit = true,
        }
    }

    fn open_drives(&mut self, drives: &[OpenDrive]) -> Result<Vec<OpenedDrive>, String> {
        for drive in drives {
            let info = self.io.open_drive(drive).map_err(|e| describe(drive, &e))?;
            let handle = self.io.export_drive(info.file).map_err(|e| e.to_string())?;
            self.drives.push(OpenedDrive { info, handle });
        }
        Ok(self.drives.clone())
    }

    fn open_store(&mut self, plan: &Arc<PoolPlan>, drives: &[OpenedDrive]) -> Result<(), String> {
        let mut files = Vec::new();
        for drive in drives {
            let file = if self.id.0 == 0 {
                drive.info.file
            } else {
                self.io.share_drive(&drive.handle).map_err(|e| e.to_string())?
            };
            files.push(file);
        }
        if self.id.0 == 0 {
            self.owner = Some(PoolOwner::new(plan));
        }
        let shards = plan.shards_of(usize::from(self.id.0), self.cores);
        let (tuning, exec) = (ShardTuning::default(), self.exec.handle());
        let mut salt = [0; 8];
        self.io.random(&mut salt);
        let salt = u64::from_le_bytes(salt);
        self.store = Some(Store::open(plan, &shards, &files, tuning, STORE, salt, &exec));
        self.plan = Some(plan.clone());
        self.files = files;
        Ok(())
    }

    /// The protection groups whose shard lives here.
    fn groups(&self) -> Vec<PgId> {
        let Some(plan) = &self.plan else { return Vec::new() };
        let here = |pg: &PgId| home_core(plan, *pg, self.cores) == self.id;
        (0..PROTECTION_GROUPS).map(PgId).filter(here).collect()
    }

    fn open_volumes(&mut self, restart: Restart, answer: Answer<Vec<VolumeInfo>>) {
        let mut volumes = Volumes::new(self.id, &self.groups(), restart, VOLUME);
        if let Some(store) = &mut self.store {
            volumes.open(&mut self.io, store);
        }
        self.volumes = Some(volumes);
        self.waiting.volumes = Some(answer);
    }

    fn listen(&mut self, config: TargetConfig, table: Arc<NamespaceTable>) -> Result<(), String> {
        let mut target = Target::new(config, TARGET);
        target.set_namespaces(&mut self.io, table);
        let listening = target.start(&mut self.io).map_err(|e| e.to_string());
        self.target = Some(target);
        listening
    }

    fn ask_volumes(&mut self, command: ControlCommand, pending: Pending) {
        let token = self.next_token;
        self.next_token += 1;
        match &mut self.volumes {
            Some(volumes) => {
                self.pending.insert(token, pending);
                volumes.control(ControlRequest { token, command });
            }
            None => {
                self.pending.insert(token, pending);
                self.answer(ControlReply { token, result: Err(ControlError::NotReady) });
            }
        }
    }

    fn drain(&mut self, answer: Answer<()>) {
        if let Some(target) = &mut self.target {
            target.drain(&mut self.io);
        }
        let give_up = self.io.now().plus_ms(DRAIN_MS);
        self.io.timer_at(Tag { owner: LOOP, key: 0 }, give_up);
        self.waiting.drained = Some((answer, give_up));
    }

    /// Answers the control side's long questions when the time has come. True when that gives the volumes work.
    fn watch(&mut self) -> bool {
        let mut more = false;
        if self.waiting.store.is_some()
            && let Some(result) = self.store.as_ref().and_then(Store::ready)
            && let Some(answer) = self.waiting.store.take()
        {
            let contradiction = self.contradiction.clone().map_or(Ok(()), Err);
            drop(answer.send(result.map_err(|e| e.to_string()).and(contradiction)));
        }
        if self.waiting.volumes.is_some()
            && self.volumes.as_ref().is_some_and(Volumes::is_open)
            && let Some(answer) = self.waiting.volumes.take()
        {
            self.ask_volumes(ControlCommand::List, Pending::Opened(answer));
            more = true;
        }
        let now = self.io.now();
        if let Some((_, give_up)) = &self.waiting.drained
            && (*give_up <= now || self.target.as_ref().is_none_or(Target::is_drained))
            && let Some((answer, _)) = self.waiting.drained.take()
        {
            let _ = answer.send(());
        }
        self.watch_closing(now);
        more
    }

    fn watch_closing(&mut self, now: Nanos) {
        let Some(closing) = &mut self.waiting.closed else { return };
        let idle = self.volumes.as_ref().is_none_or(|v| v.outstanding() == 0);
        if !closing.store_told && (idle || closing.give_up <= now) {
            closing.store_told = true;
            if let Some(store) = &mut self.store {
                store.shutdown();
            }
        }
        let down = closing.store_told && self.store.as_ref().is_none_or(Store::is_down);
        if down && let Some(closing) = self.waiting.closed.take() {
            let _ = closing.answer.send(());
        }
    }

    fn report(&self, volumes: Vec<VolumeInfo>) -> CoreReport {
        let stats = self.volumes.as_ref().map(|v| v.stats().map(|(uuid, s)| (uuid, s.clone())).collect());
        CoreReport {
            core: self.id,
            counters: self.counters,
            target: self.target.as_ref().map(Target::stats).unwrap_or_default(),
            connections: self.target.as_ref().map(Target::connections).unwrap_or_default(),
            hosts: self.target.as_ref().map(Target::hosts).unwrap_or_default(),
            volumes,
            volume_stats: stats.unwrap_or_default(),
            space: self.store.as_ref().map(Store::space).unwrap_or_default(),
            pool: self.owner.as_ref().map(|owner| PoolReport {
                free_units: owner.free_units_by_drive(),
                capacity_bytes: owner.capacity_bytes(),
            }),
            drives: self.files.iter().map(|&file| self.io.drive_counters(file)).collect(),
            stopped: self
                .store
                .as_ref()
                .and_then(Store::stopped)
                .map(|(shard, why)| format!("shard {shard}: {why}")),
            buffers_free: u64::try_from(self.io.pool().available(BLOCK_BYTES)).unwrap_or(u64::MAX),
            buffers_total: self.buffers_total,
        }
    }
}

/// Why a drive can't be opened, and what to do about it.
fn describe(drive: &OpenDrive, error: &dolmen_io::Error) -> String {
    let path = drive.path.display();
    if drive.create_bytes.is_none() && !drive.path.exists() {
        return format!(
            "there is no drive {path}; to make a file that stands for one, give its size: --drive {path}:10GiB"
        );
    }
    error.to_string()
}

/// Puts a message into a core's mailbox, or behind those that wait for it to have room. Order is kept.
fn post(links: &mut Links, backlog: &mut [VecDeque<Between>], to: CoreId, message: Between) {
    let to = usize::from(to.0);
    let (Some(Some(out)), Some(backlog)) = (links.out.get_mut(to), backlog.get_mut(to)) else {
        // A core that does not exist: a stale reference; the sender's deadline answers it.
        return;
    };
    if !backlog.is_empty() {
        backlog.push_back(message);
    } else if let Err(message) = out.push(message) {
        backlog.push_back(message);
    }
}
