//! One core: its components, and the one place that says who is called when in a turn.
//!
//! ```text
//!   events ──▶ target, NBD ──requests──▶ volumes ──▶ store ──▶ drives
//!                  ▲                        │  ▲        │
//!                  └────────replies─────────┘  └──done──┘
//! ```
//!
//! Requests for a volume of another core, and their replies, go through mailboxes as the very same values. The core knows
//! nothing of threads: production runs one per thread over io_uring, tests run several in one thread over a simulated
//! world.

use crate::{
    message::{Answer, Between, FromCore, Links, News, ToCore},
    report::{CoreReport, LoopCounters},
};
use dolmen_export::nbd::Server;
use dolmen_io::{DriveInfo, Event, FileId, Inbox, Io, Owner, Poller, Tag, Turn, Wait, exec::Exec};
use dolmen_store::{PoolOwner, PoolPlan, Store, ToPool, ToShard};
use dolmen_target::{CalledOff, Envelope, Target};
use dolmen_types::{CoreId, LineId, Nanos, PgId, ShardId, Uuid, limits::BLOCK_BYTES};
use dolmen_volume::{
    Change, ControlDone, ControlError, ControlReply, Near, Notice, Reply, VolumeInfo, Volumes,
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

mod control;
mod drives;
mod held;
mod keys;
mod nbd;

pub use control::describe as why_not_opened;

/// Tags of the loop's own timers.
const LOOP: Owner = Owner(0);
/// Tags of the target's operations.
const TARGET: Owner = Owner(1);
/// Tags of the store's operations.
const STORE: Owner = Owner(2);
/// Tags of long flows' operations.
pub const EXEC: Owner = Owner(3);
/// Tags of the volumes' timers.
const VOLUME: Owner = Owner(5);
/// Tags of the NBD door's operations.
const NBD: Owner = Owner(6);

/// Long flows of one core at most: a few per shard.
const MAX_TASKS: usize = 1024;

/// Passes of one turn between volumes and store before what is left waits for the next turn: a read-modify-write whose read
/// needs no drive takes two.
const PASSES: usize = 4;

/// Turns in a row at most that belong to the target alone, or to nobody: some tens of microseconds under load.
const MOST_SHORT: u32 = 8;

/// Time between two looks after which the target is asked whether that was too long. Nanoseconds.
const STOOD_STILL_NS: u64 = 1_000_000_000;

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
    store: Option<Answer<Result<LineId, String>>>,
    volumes: Option<Answer<Vec<VolumeInfo>>>,
    drained: Option<(Answer<()>, Nanos)>,
    closed: Option<Closing>,
    joined: Option<Answer<Result<u16, String>>>,
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
    /// Turns since all components had one; [`MOST_SHORT`] while one of them has more to do.
    short_turns: u32,
    inbox: Inbox<ToCore>,
    out: News,
    links: Links,
    /// Messages that found their mailbox full, by core.
    backlog: Vec<VecDeque<Between>>,

    /// Core 0: the drives as they were opened.
    drives: Vec<DriveInfo>,
    /// The pool, once it is open.
    plan: Option<Arc<PoolPlan>>,
    /// This core's handles of the pool's drives, by their place in the pool.
    files: Vec<Option<FileId>>,
    /// Core 0: what they are.
    infos: Vec<Option<DriveInfo>>,
    /// Drives that are about to join.
    attached: Vec<(Uuid, DriveInfo)>,
    /// Core 0: the superblock that the control side was last told of.
    sequence: u64,
    owner: Option<PoolOwner>,
    /// Core 0: the pool's key table.
    keeper: Option<keys::Keeper>,
    /// Core 0: what was found wrong with the drives' labels.
    labels: keys::Labels,
    /// Core 0: what the shards' claims contradict each other in.
    contradiction: Option<String>,
    store: Option<Store>,
    volumes: Option<Volumes>,
    target: Option<Target>,
    nbd: Option<Server>,

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
    gone: Vec<LineId>,
    to_pool: Vec<ToPool>,
    to_shards: Vec<(ShardId, ToShard)>,
}

impl Core {
    /// A core with nothing on it, which does what `inbox` tells it. `spin_ns` is how long it polls after the last work.
    #[must_use]
    pub fn new(id: CoreId, cores: usize, io: Io, inbox: Inbox<ToCore>, out: News, spin_ns: u64) -> Core {
        let exec = Exec::new(EXEC, MAX_TASKS, &io);
        let buffers_total = u64::try_from(io.pool().available(BLOCK_BYTES)).unwrap_or(u64::MAX);
        Core {
            id,
            cores,
            exec,
            io,
            poller: Poller::new(spin_ns),
            last: Turn::MoreToDo,
            short_turns: MOST_SHORT,
            inbox,
            out,
            links: Links::default(),
            backlog: (0..cores).map(|_| VecDeque::new()).collect(),
            drives: Vec::new(),
            plan: None,
            files: Vec::new(),
            infos: Vec::new(),
            attached: Vec::new(),
            sequence: 0,
            owner: None,
            keeper: None,
            labels: keys::Labels::default(),
            contradiction: None,
            store: None,
            volumes: None,
            target: None,
            nbd: None,
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
            gone: Vec::new(),
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
        let mut wait = self.poller.wait(began, self.last);
        if wait != Wait::No && self.exec.has_ready() {
            wait = Wait::No;
        }
        self.io.poll(wait, &mut self.events);
        if self.count_turn(wait, began) >= STOOD_STILL_NS {
            self.stood_still(began);
        }
        let mut worked = !self.events.is_empty();
        let targets_own = worked && self.events.iter().all(|(tag, _)| tag.owner == TARGET);
        self.dispatch();
        let mail = self.take_mail();
        let idle = !worked && wait == Wait::No && self.last != Turn::MoreToDo;
        if !mail && self.short_turns < MOST_SHORT && (idle || targets_own) && self.end_short(idle) {
            return true;
        }
        worked |= mail;
        worked |= self.take_commands();
        worked |= self.exec.run(&mut self.io);
        let mut more = self.work();
        more |= self.watch();
        // Nobody rings when there is room again.
        more |= self.send_mail();
        self.last = match (more, worked) {
            (true, _) => Turn::MoreToDo,
            (false, true) => Turn::Worked,
            (false, false) => Turn::Idle,
        };
        self.short_turns = if more { MOST_SHORT } else { 0 };
        !self.exit
    }

    /// Ends a turn that need not go through all components: one in which nothing came and nobody had anything left to do, or one in
    /// which only hosts spoke, and only to the target, which has answered all by itself. Every few turns all are asked in any case;
    /// until then news from other threads waits. False when the turn has to go on.
    fn end_short(&mut self, idle: bool) -> bool {
        if idle {
            self.last = Turn::Idle;
        } else {
            let Some(target) = &mut self.target else { return false };
            let outputs = target.outputs();
            if !outputs.requests.is_empty() || !outputs.messages.is_empty() || !outputs.called_off.is_empty()
            {
                return false;
            }
            if self.volumes.as_ref().is_some_and(Volumes::has_work) {
                return false;
            }
            target.step(&mut self.io, &mut Near::of(self.volumes.as_mut()));
            // Nobody sleeps before all have had their turn.
            self.last = Turn::MoreToDo;
        }
        self.short_turns += 1;
        true
    }

    /// Told before anything of what came meanwhile is taken.
    #[cold]
    fn stood_still(&mut self, began: Nanos) {
        if let Some(target) = &mut self.target {
            let ns = self.io.now().since(began);
            target.stood_still(&mut self.io, ns);
        }
    }

    /// Counts what the last turn and the look after it took. Nanoseconds.
    fn count_turn(&mut self, wait: Wait, began: Nanos) -> u64 {
        let spent = self.io.now().since(began);
        self.counters.turns += 1;
        if wait == Wait::No {
            self.counters.busy_ns += spent;
        } else {
            self.counters.sleeps += 1;
            self.counters.idle_ns += spent;
        }
        spent
    }

    /// Each completion to the component that it belongs to.
    fn dispatch(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        for (tag, event) in events.drain(..) {
            match tag.owner {
                TARGET => {
                    if let Some(target) = &mut self.target {
                        target.on_event(&mut self.io, &mut Near::of(self.volumes.as_mut()), tag.key, event);
                    }
                }
                STORE => {
                    if let Some(store) = &mut self.store {
                        store.on_event(&mut self.io, tag.key, event);
                    }
                }
                EXEC => self.exec.deliver(tag.key, event),
                NBD => {
                    if let Some(nbd) = &mut self.nbd {
                        nbd.on_event(&mut self.io, tag.key, event);
                    }
                }
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
            Between::Reply(reply) => self.take_reply(reply),
            Between::CallOff { from, tokens, ticket } => {
                if let Some(volumes) = &mut self.volumes {
                    volumes.call_off(from, tokens);
                }
                // They look at it before any command that comes from now on.
                if let Some(ticket) = ticket {
                    let answer = Between::Target(Envelope::called_off(from, ticket));
                    post(&mut self.links, &mut self.backlog, from, answer);
                }
            }
            Between::Nbd(message) => self.take_nbd_message(message),
            Between::Target(envelope) => match &mut self.target {
                Some(target) => target.on_message(&mut self.io, envelope),
                // Others listen already, and wait for an answer.
                None => {
                    if let Some(answer) = envelope.without_target() {
                        post(&mut self.links, &mut self.backlog, answer.to, Between::Target(answer));
                    }
                }
            },
            Between::Notice(notice) => {
                if let Some(target) = &mut self.target {
                    target.on_notice(&mut self.io, &notice);
                }
            }
            Between::LinesGone(lines) => self.lines_gone(lines),
            Between::ForgetKeys(lines) => self.forget_keys(&lines),
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
        self.route_gone();
        if let Some(target) = &mut self.target {
            target.step(&mut self.io, &mut Near::of(self.volumes.as_mut()));
        }
        more |= self.step_nbd();
        more |= self.route_requests();
        more | self.volumes.as_ref().is_some_and(Volumes::has_work)
    }

    /// A volume's answer to the door that it is for.
    fn take_reply(&mut self, reply: Reply) {
        if Server::owns(reply.token) {
            self.take_nbd_reply(reply);
        } else if let Some(target) = &mut self.target {
            target.on_reply(&mut self.io, reply);
        }
    }

    /// Takes what the store has finished to the volumes; true when there was something.
    fn collect_done(&mut self) -> bool {
        let (Some(store), Some(volumes)) = (&mut self.store, &mut self.volumes) else { return false };
        store.drain(&mut self.done);
        let any = !self.done.is_empty();
        volumes.on_store_dones(&mut self.done);
        any
    }

    /// Takes the target's requests to the volumes, here or elsewhere; true when some are for here.
    fn route_requests(&mut self) -> bool {
        let mut any = false;
        // Its messages to itself are answered by others.
        while let Some(target) = &mut self.target {
            let outputs = target.outputs();
            if outputs.requests.is_empty() && outputs.messages.is_empty() && outputs.called_off.is_empty() {
                break;
            }
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
            // Behind the requests, and before others hear that their connection has ended.
            let called_off = std::mem::take(&mut outputs.called_off);
            let messages = std::mem::take(&mut outputs.messages);
            for CalledOff { ticket, tokens } in called_off {
                any |= self.call_off(&tokens, Some(ticket));
            }
            self.route_messages(messages);
        }
        any
    }

    /// Tells the volumes of all cores which requests of ours nobody waits for any more; true when some are here.
    fn call_off(&mut self, tokens: &[u64], ticket: Option<u64>) -> bool {
        let cores = u16::try_from(self.cores).expect("cores are numbered in 16 bits");
        for to in (0..cores).map(CoreId).filter(|to| *to != self.id) {
            let message = Between::CallOff { from: self.id, tokens: tokens.into(), ticket };
            post(&mut self.links, &mut self.backlog, to, message);
        }
        if let Some(volumes) = &mut self.volumes {
            volumes.call_off(self.id, tokens.into());
        }
        self.volumes.is_some()
    }

    fn route_messages(&mut self, messages: Vec<Envelope>) {
        for envelope in messages {
            match &mut self.target {
                Some(target) if envelope.to == self.id => target.on_message(&mut self.io, envelope),
                _ => {
                    let to = envelope.to;
                    post(&mut self.links, &mut self.backlog, to, Between::Target(envelope));
                }
            }
        }
    }

    /// Takes the volumes' replies and news where they belong.
    fn route_volumes(&mut self) {
        let Some(volumes) = &mut self.volumes else { return };
        volumes.drain(&mut self.replies);
        volumes.notices(&mut self.notices);
        volumes.changes(&mut self.changes);
        volumes.drain_control(&mut self.answers);
        let mut replies = std::mem::take(&mut self.replies);
        for (core, reply) in replies.drain(..) {
            if core == self.id {
                self.take_reply(reply);
            } else {
                post(&mut self.links, &mut self.backlog, core, Between::Reply(reply));
            }
        }
        self.replies = replies;
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
            (self.out)(FromCore::Change(change));
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
        match self.pending.remove(&reply.token) {
            Some(Pending::User(answer)) => answer.send(reply.result),
            Some(Pending::Opened(answer)) => answer.send(list(reply.result)),
            Some(Pending::Report(answer)) => {
                let report = self.report(list(reply.result));
                answer.send(Box::new(report));
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
        if owner.sequence() != self.sequence {
            self.sequence = owner.sequence();
            (self.out)(FromCore::Drives);
        }
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

    /// Publishes what other cores are to get; true when some of it finds no room yet.
    fn send_mail(&mut self) -> bool {
        let mut waits = false;
        for (out, backlog) in self.links.out.iter_mut().zip(&mut self.backlog) {
            let Some(out) = out else { continue };
            while let Some(message) = backlog.pop_front() {
                if let Err(message) = out.push(message) {
                    backlog.push_front(message);
                    break;
                }
            }
            out.flush();
            waits |= !backlog.is_empty();
        }
        waits
    }
}

/// The core that a protection group lives on.
#[must_use]
pub fn home_core(plan: &PoolPlan, pg: PgId, cores: usize) -> CoreId {
    let shard = pg.0 % u32::from(plan.shards.max(1));
    CoreId(u16::try_from(shard as usize % cores.max(1)).expect("cores are at most 256"))
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
