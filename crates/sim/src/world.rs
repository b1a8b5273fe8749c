//! The world: virtual time, what is going to happen, and every drive, core and connection in it.
//!
//! Time moves only while cores wait: a core that waits with nothing to do lets the world go on to the next happening, or
//! to the nearest deadline of any core. With several cores in one thread the harness simply gives each a turn after the
//! other; a core that waits returns early when another has something to do. Same seed, same calls: same history.

use crate::{
    DriveSpec, Image, Recording, Rng, SimDriver,
    drive::{Drive, Outcome, Payload, WriteId},
    net::{Net, Signal},
    record::Entry,
};
use dolmen_io::{Buf, Error, ErrorKind, Event, Pool, PoolConfig, Slices, Tag, Wake};
use dolmen_types::Nanos;
use std::{
    cell::RefCell,
    cmp::Reverse,
    collections::BinaryHeap,
    path::{Path, PathBuf},
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

/// A machine of the simulated world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

/// One core of a simulated process.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// The machine it runs on.
    pub node: NodeId,
    /// Its buffers.
    pub pool: PoolConfig,
}

impl Default for CoreConfig {
    fn default() -> CoreConfig {
        CoreConfig { node: NodeId(0), pool: PoolConfig::sized(16 << 20) }
    }
}

/// How a drive misbehaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriveFaults {
    /// Reads that fail, in a million.
    pub read_ppm: u32,
    /// Writes that fail, in a million; a part of each may be on the drive.
    pub write_ppm: u32,
    /// Flushes that fail, in a million; they make nothing safe.
    pub flush_ppm: u32,
    /// Shortest and longest time of one operation. Nanoseconds.
    pub latency_ns: (u64, u64),
}

impl Default for DriveFaults {
    fn default() -> DriveFaults {
        DriveFaults { read_ppm: 0, write_ppm: 0, flush_ppm: 0, latency_ns: (10_000, 150_000) }
    }
}

/// An operation that shall fail, see [`World::fail_next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The next read.
    Read,
    /// The next write.
    Write,
    /// The next flush.
    Flush,
}

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
    writes: u64,
    last_waiter: Option<usize>,
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

pub(crate) struct DriveSlot {
    pub(crate) node: NodeId,
    pub(crate) path: PathBuf,
    pub(crate) drive: Drive,
    pub(crate) gone: bool,
    /// Whoever has it open exclusively.
    pub(crate) lock: Weak<OpenFile>,
    faults: DriveFaults,
    fail_next: Vec<Fault>,
}

/// An open drive; shared between the cores of one process.
pub(crate) struct OpenFile {
    pub(crate) drive: usize,
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

pub(crate) enum DriveOp {
    Read {
        offset: u64,
        buf: Buf,
    },
    Write {
        id: WriteId,
        data: Slices,
    },
    Flush {
        covered: Vec<WriteId>,
    },
    Discard {
        id: Option<WriteId>,
    },
    /// An operation that is refused outright.
    Refused {
        error: Error,
        buf: Option<Buf>,
    },
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
            last_waiter: None,
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

    // Drives.

    /// Puts a drive into a machine. One that is there already under this path is replaced.
    pub fn add_drive(&self, node: NodeId, path: &Path, spec: DriveSpec) {
        self.put_drive(node, path, spec, Image::default());
    }

    pub(crate) fn put_drive(&self, node: NodeId, path: &Path, spec: DriveSpec, image: Image) {
        let mut inner = self.0.borrow_mut();
        let at = inner.find_drive(node, path);
        inner.put_drive(at, DriveSlot::new(node, path, Drive::new(spec, image)));
    }

    /// Takes a drive out: operations fail with [`ErrorKind::Gone`], opening it fails.
    pub fn remove_drive(&self, node: NodeId, path: &Path) {
        self.with_drive(node, path, |d| d.gone = true);
    }

    /// Puts a drive that was taken out back, with what it held.
    pub fn return_drive(&self, node: NodeId, path: &Path) {
        self.with_drive(node, path, |d| d.gone = false);
    }

    /// Sets how a drive misbehaves.
    pub fn set_faults(&self, node: NodeId, path: &Path, faults: DriveFaults) {
        self.with_drive(node, path, |d| d.faults = faults);
    }

    /// Makes the next operation of a kind that ends on this drive fail; may be called several times.
    pub fn fail_next(&self, node: NodeId, path: &Path, fault: Fault) {
        self.with_drive(node, path, |d| d.fail_next.push(fault));
    }

    /// Changes bytes on the media behind everyone's back.
    pub fn overwrite(&self, node: NodeId, path: &Path, offset: u64, data: &[u8]) {
        self.with_drive(node, path, |d| d.drive.overwrite(offset, data));
    }

    /// What reads of a drive see now.
    ///
    /// # Panics
    /// When there is no such drive, like the other methods that name one: a defect of the test.
    #[must_use]
    pub fn image(&self, node: NodeId, path: &Path) -> Image {
        let mut image = Image::default();
        self.with_drive(node, path, |d| image = d.drive.current().clone());
        image
    }

    /// Writes whose fate a power cut would decide now, on all drives.
    #[must_use]
    pub fn writes_at_risk(&self) -> usize {
        self.0.borrow().drives.iter().map(|d| d.drive.at_risk().len()).sum()
    }

    fn with_drive(&self, node: NodeId, path: &Path, change: impl FnOnce(&mut DriveSlot)) {
        let mut inner = self.0.borrow_mut();
        let at = inner.find_drive(node, path).expect("the test names a drive that exists");
        change(&mut inner.drives[at]);
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
        let mut inner = self.0.borrow_mut();
        inner.net.heal(a, b);
        inner.settle_net();
    }

    /// Resets every connection between two machines.
    pub fn reset(&self, a: NodeId, b: NodeId) {
        let mut inner = self.0.borrow_mut();
        inner.net.reset_between(a, b);
        inner.settle_net();
    }
}

impl DriveSlot {
    fn new(node: NodeId, path: &Path, drive: Drive) -> DriveSlot {
        let (faults, fail_next) = (DriveFaults::default(), Vec::new());
        DriveSlot { node, path: path.into(), drive, gone: false, lock: Weak::new(), faults, fail_next }
    }

    /// True when an operation that ends now is to fail.
    fn fails(&mut self, fault: Fault, rng: &mut Rng) -> bool {
        if let Some(at) = self.fail_next.iter().position(|&f| f == fault) {
            self.fail_next.remove(at);
            return true;
        }
        rng.ppm(match fault {
            Fault::Read => self.faults.read_ppm,
            Fault::Write => self.faults.write_ppm,
            Fault::Flush => self.faults.flush_ppm,
        })
    }
}

/// A random fate of one volatile write.
fn chance(rng: &mut Rng) -> Outcome {
    match rng.below(5) {
        0 | 1 => Outcome::Kept,
        2 | 3 => Outcome::Dropped,
        _ => Outcome::Torn(rng.next_u64()),
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

    pub(crate) fn find_drive(&self, node: NodeId, path: &Path) -> Option<usize> {
        self.drives.iter().position(|d| d.node == node && d.path == path)
    }

    /// Makes a missing file; the caller looked that there is none.
    pub(crate) fn create_file(&mut self, node: NodeId, path: &Path, bytes: u64) -> usize {
        self.put_drive(None, DriveSlot::new(node, path, Drive::new(DriveSpec::file(bytes), Image::default())))
    }

    fn put_drive(&mut self, at: Option<usize>, slot: DriveSlot) -> usize {
        let at = at.unwrap_or(self.drives.len());
        let (node, path, drive) = (slot.node, slot.path.clone(), slot.drive.clone());
        self.log(Entry::Drive { at, node, path, drive });
        match self.drives.get_mut(at) {
            Some(there) => *there = slot,
            None => self.drives.push(slot),
        }
        at
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

    /// Starts a drive operation, which ends after the drive's latency.
    pub(crate) fn start(&mut self, core: usize, tag: Tag, drive: usize, op: DriveOp) {
        let (low, high) = self.drives[drive].faults.latency_ns;
        let at = Nanos(self.now.0 + self.rng.between(low, high));
        self.schedule(at, What::Drive { core, tag, drive, op });
    }

    /// Notes a write's or a discard's submission.
    pub(crate) fn start_write(
        &mut self,
        drive: usize,
        offset: u64,
        payload: Payload,
        durable: bool,
    ) -> WriteId {
        self.writes += 1;
        let id = WriteId(self.writes);
        self.drives[drive].drive.start_write(id, offset, payload.clone(), durable);
        self.log(Entry::Start { drive, id, offset, payload, durable });
        id
    }

    /// One look of `core` at the world that doesn't wait.
    pub(crate) fn look(&mut self, core: usize) {
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
        let alone = self.last_waiter == Some(core);
        self.last_waiter = Some(core);
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

    fn end_drive_op(&mut self, core: usize, tag: Tag, drive: usize, op: DriveOp) {
        let event = self.drive_event(drive, op);
        self.cores[core].ready.push((tag, event));
    }

    fn drive_event(&mut self, drive: usize, op: DriveOp) -> Event {
        let slot = &mut self.drives[drive];
        let gone = slot.gone;
        let failed = |what: &str, buf: Option<Buf>, path: &Path| {
            let (kind, errno) = if gone { (ErrorKind::Gone, 19) } else { (ErrorKind::Medium, 5) };
            let context = format!("{what} of {}", path.display());
            Event::Failed { error: Error { kind, context, errno: Some(errno) }, buf }
        };
        match op {
            DriveOp::Refused { error, buf } => Event::Failed { error, buf },
            DriveOp::Read { offset, mut buf } => {
                if gone || slot.fails(Fault::Read, &mut self.rng) {
                    return failed("read", Some(buf), &slot.path);
                }
                slot.drive.current().read(offset, &mut buf);
                Event::Read(buf)
            }
            DriveOp::Write { id, mut data } => {
                if gone || slot.fails(Fault::Write, &mut self.rng) {
                    let event = failed("write", None, &slot.path);
                    self.fail_write(drive, id);
                    return event;
                }
                slot.drive.finish_write(id);
                self.log(Entry::Finish { drive, id });
                data.clear();
                Event::Written(data)
            }
            DriveOp::Flush { covered } => {
                if gone || slot.fails(Fault::Flush, &mut self.rng) {
                    return failed("flush", None, &slot.path);
                }
                slot.drive.finish_flush(&covered);
                self.log(Entry::Flush { drive, covered });
                Event::Flushed
            }
            DriveOp::Discard { id } => {
                if gone {
                    return failed("discard", None, &slot.path);
                }
                if let Some(id) = id {
                    slot.drive.finish_write(id);
                    self.log(Entry::Finish { drive, id });
                }
                Event::Discarded
            }
        }
    }

    fn fail_write(&mut self, drive: usize, id: WriteId) {
        let outcome = chance(&mut self.rng);
        self.drives[drive].drive.fail_write(id, &outcome);
        self.log(Entry::Fail { drive, id, outcome });
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
