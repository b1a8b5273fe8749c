//! The world: virtual time, what is going to happen, and every drive, core and connection in it.
//!
//! Time moves only while cores wait: a core that waits with nothing to do lets the world go on to the next happening, or
//! to the nearest deadline of any core. With several cores in one thread the harness simply gives each a turn after the
//! other; a core that waits returns early when another has something to do. Same seed, same calls: same history.

use crate::{
    CoreConfig, NodeId, Recording, Rng, SimDriver,
    bay::{DriveOp, DriveSlot, chance},
    net::{Net, Signal},
    record::Entry,
};
use dolmen_io::{Event, Pool, Tag, Wake};
use dolmen_types::Nanos;
use std::{
    cell::RefCell,
    cmp::Reverse,
    collections::BinaryHeap,
    rc::Rc,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

/// What a look at the world costs a core in virtual time, so that spinning cores see time pass. Nanoseconds.
const LOOK_NS: u64 = 200;

/// Virtual time at the start. Nanoseconds; not 0, which stamps take for "never".
const START_NS: u64 = 1_000_000_000;

/// A simulated world. Clones are handles to the same one.
#[derive(Clone)]
pub struct World(pub(crate) Rc<RefCell<Inner>>);

pub(crate) struct Inner {
    pub(crate) now: Nanos,
    pub(crate) rng: Rng,
    pub(crate) cores: Vec<Core>,
    pub(crate) drives: Vec<DriveSlot>,
    pub(crate) net: Net,
    happenings: BinaryHeap<Reverse<Happening>>,
    happened: u64,
    pub(crate) writes: u64,
    last_looker: Option<usize>,
    /// The core that looks now also looked last: it is the only one being driven.
    alone: bool,
    recording: Option<Recording>,
}

pub(crate) struct Core {
    pub(crate) node: NodeId,
    pub(crate) alive: bool,
    pub(crate) ready: Vec<(Tag, Event)>,
    pub(crate) bell: Arc<SimBell>,
    state: CoreState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CoreState {
    /// Has not looked at the world yet.
    New,
    /// Runs, and will look again.
    Running,
    /// Waits until this instant.
    Waiting(Nanos),
}

/// Wakes a core of the simulated world.
#[derive(Default)]
pub(crate) struct SimBell(AtomicBool);

impl Wake for SimBell {
    fn wake(&self) {
        self.0.store(true, Ordering::Release);
    }
}

struct Happening {
    at: Nanos,
    order: u64,
    what: What,
}

impl PartialEq for Happening {
    fn eq(&self, other: &Happening) -> bool {
        self.order == other.order
    }
}
impl Eq for Happening {}
impl PartialOrd for Happening {
    fn partial_cmp(&self, other: &Happening) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Happening {
    fn cmp(&self, other: &Happening) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

pub(crate) enum What {
    /// A drive operation ends.
    Drive { core: usize, tag: Tag, drive: usize, op: DriveOp },
    /// Something happens on the network.
    Net(Signal),
}

impl World {
    /// An empty world.
    #[must_use]
    pub fn new(seed: u64) -> World {
        let mut rng = Rng::new(seed);
        let net = Net::new(Rng::new(rng.next_u64()));
        World(Rc::new(RefCell::new(Inner {
            now: Nanos(START_NS),
            rng,
            cores: Vec::new(),
            drives: Vec::new(),
            net,
            happenings: BinaryHeap::new(),
            happened: 0,
            writes: 0,
            last_looker: None,
            alone: false,
            recording: None,
        })))
    }

    /// A new core of a process; dropping the driver ends it as a kill would.
    #[must_use]
    pub fn driver(&self, config: CoreConfig) -> SimDriver {
        SimDriver::new(self.clone(), &config)
    }

    /// Virtual time.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.0.borrow().now
    }

    /// Lets `ns` nanoseconds pass, with everything that happens in them.
    pub fn advance(&self, ns: u64) {
        let mut inner = self.0.borrow_mut();
        let to = Nanos(inner.now.0.saturating_add(ns));
        inner.run_until(to);
    }

    /// Cuts the power of every machine: processes die, and each write that was not made safe is kept, dropped or torn.
    pub fn crash(&self) {
        let nodes: std::collections::BTreeSet<NodeId> = {
            let inner = self.0.borrow();
            inner.drives.iter().map(|d| d.node).chain(inner.cores.iter().map(|c| c.node)).collect()
        };
        nodes.into_iter().for_each(|n| self.crash_node(n));
    }

    /// Cuts the power of one machine. Its peers are not told.
    pub fn crash_node(&self, node: NodeId) {
        let mut inner = self.0.borrow_mut();
        let inner = &mut *inner;
        inner.net.cut(node);
        inner.end_node(node);
        for slot in inner.drives.iter_mut().filter(|d| d.node == node) {
            slot.drive.cut_power(|_| chance(&mut inner.rng));
        }
    }

    /// Kills the processes of one machine: its drives keep their caches, its peers' connections are reset.
    pub fn kill_node(&self, node: NodeId) {
        let mut inner = self.0.borrow_mut();
        inner.end_node(node);
    }

    // Recording.

    /// Starts to record what happens to the drives, from their present state on.
    pub fn start_recording(&self) {
        let mut inner = self.0.borrow_mut();
        let drives = inner.drives.iter().map(|d| (d.node, d.path.clone(), d.drive.clone())).collect();
        inner.recording = Some(Recording::new(drives));
    }

    /// Notes in the recording that the workload has come to `mark` (say: its operation `mark` was acknowledged).
    pub fn mark(&self, mark: u64) {
        self.0.borrow_mut().log(Entry::Mark(mark));
    }

    /// Ends the recording; `None` when there was none.
    #[must_use]
    pub fn stop_recording(&self) -> Option<Recording> {
        self.0.borrow_mut().recording.take()
    }

    // Network.

    /// Cuts the connection between two machines, both ways; bytes wait, nobody is told.
    pub fn partition(&self, a: NodeId, b: NodeId) {
        self.0.borrow_mut().net.partition(a, b);
    }

    /// Mends what [`World::partition`] cut.
    pub fn heal(&self, a: NodeId, b: NodeId) {
        self.heal_and_resend_after(a, b, 0);
    }

    /// The same, but what was lost is sent again only after `resend_ms`, as by a TCP whose pauses have grown. Connections that are opened
    /// meanwhile overtake it.
    pub fn heal_and_resend_after(&self, a: NodeId, b: NodeId, resend_ms: u64) {
        let mut inner = self.0.borrow_mut();
        inner.net.heal(a, b, resend_ms * 1_000_000);
        inner.settle_net();
    }

    /// What came so far into landings that were lent. Bytes.
    #[must_use]
    pub fn landed_bytes(&self) -> usize {
        self.0.borrow().net.landed
    }

    /// Resets every connection between two machines.
    pub fn reset(&self, a: NodeId, b: NodeId) {
        let mut inner = self.0.borrow_mut();
        inner.net.reset_between(a, b);
        inner.settle_net();
    }
}

impl Inner {
    pub(crate) fn add_core(&mut self, node: NodeId, pool: Pool) -> usize {
        let (bell, state) = (Arc::new(SimBell::default()), CoreState::New);
        self.cores.push(Core { node, alive: true, ready: Vec::new(), bell, state });
        self.net.boot(node, self.cores.len() - 1, pool);
        self.settle_net();
        self.cores.len() - 1
    }

    pub(crate) fn log(&mut self, entry: Entry) {
        if let Some(recording) = &mut self.recording {
            recording.push(entry);
        }
    }

    pub(crate) fn schedule(&mut self, at: Nanos, what: What) {
        self.happened += 1;
        self.happenings.push(Reverse(Happening { at, order: self.happened, what }));
    }

    /// One look of `core` at the world that doesn't wait.
    pub(crate) fn look(&mut self, core: usize) {
        self.alone = self.last_looker.replace(core) == Some(core);
        self.cores[core].state = CoreState::Running;
        self.run_until(Nanos(self.now.0 + LOOK_NS));
    }

    /// True when `core` has something to do now.
    pub(crate) fn has_work(&self, core: usize) -> bool {
        let c = &self.cores[core];
        !c.ready.is_empty() || c.bell.0.load(Ordering::Acquire)
    }

    /// Lets the world go on until `core` has something to do, `until` has come, another core has something to do, or
    /// nothing will ever happen.
    pub(crate) fn wait(&mut self, core: usize, until: Nanos) {
        // Others get their turn before time moves, but a core that is the only one being driven is not held up.
        let alone = self.alone;
        self.cores[core].state = CoreState::Waiting(until);
        while !self.has_work(core) && self.now < until && (alone || !self.others_can_run(core)) {
            let happening = self.happenings.peek().map(|h| h.0.at);
            let deadlines = self.cores.iter().filter(|c| c.alive).filter_map(|c| match c.state {
                CoreState::Waiting(at) if at > self.now && at < Nanos(u64::MAX) => Some(at),
                _ => None,
            });
            let Some(next) = deadlines.chain(happening).min() else { break };
            self.run_until(next.max(self.now));
        }
    }

    /// The core has taken what was ready.
    pub(crate) fn resume(&mut self, core: usize, got_something: bool) {
        self.cores[core].bell.0.store(false, Ordering::Release);
        if got_something {
            self.cores[core].state = CoreState::Running;
        }
    }

    fn others_can_run(&self, core: usize) -> bool {
        self.cores.iter().enumerate().any(|(i, c)| {
            i != core
                && c.alive
                && match c.state {
                    CoreState::New => false,
                    CoreState::Running => true,
                    CoreState::Waiting(at) => at <= self.now || self.has_work(i),
                }
        })
    }

    fn run_until(&mut self, to: Nanos) {
        while self.happenings.peek().is_some_and(|h| h.0.at <= to) {
            let Reverse(h) = self.happenings.pop().expect("peeked");
            self.now = self.now.max(h.at);
            match h.what {
                What::Drive { core, tag, drive, op } => self.end_drive_op(core, tag, drive, op),
                What::Net(signal) => {
                    self.net.happen(signal);
                    self.settle_net();
                }
            }
        }
        self.now = self.now.max(to);
    }

    /// Schedules what the network wants to happen and hands out its events.
    pub(crate) fn settle_net(&mut self) {
        for (core, tag, event) in self.net.take_events() {
            if self.cores[core].alive {
                self.cores[core].ready.push((tag, event));
            }
        }
        for (delay_ns, signal) in self.net.take_signals() {
            let at = Nanos(self.now.0 + delay_ns);
            self.schedule(at, What::Net(signal));
        }
    }

    fn end_node(&mut self, node: NodeId) {
        for core in 0..self.cores.len() {
            if self.cores[core].node == node {
                self.end_core(core);
            }
        }
        for slot in self.drives.iter_mut().filter(|d| d.node == node) {
            slot.lock = Weak::new();
        }
    }

    /// Ends a core as a kill does: what is under way on drives gets a random end, connections are reset.
    pub(crate) fn end_core(&mut self, ended: usize) {
        if !std::mem::replace(&mut self.cores[ended].alive, false) {
            return;
        }
        self.cores[ended].ready.clear();
        let (mut kept, mut lost) = (Vec::new(), Vec::new());
        for h in std::mem::take(&mut self.happenings).into_vec() {
            match &h.0.what {
                What::Drive { core, .. } if *core == ended => lost.push(h),
                _ => kept.push(h),
            }
        }
        self.happenings = kept.into();
        lost.sort_by_key(|h| h.0.order);
        for Reverse(h) in lost {
            if let What::Drive {
                drive,
                op: DriveOp::Write { id, .. } | DriveOp::Discard { id: Some(id) },
                ..
            } = h.what
            {
                self.fail_write(drive, id);
            }
        }
        self.net.end_core(ended);
        self.settle_net();
    }
}
