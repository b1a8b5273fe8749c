//! One job: a thread with its own loop and its own connections, which does as it is ordered and tells what it counted.

use super::{
    goal::Goal,
    peer::{self, Peer},
    plan::{Plan, Run},
    report::both,
};
use crate::{
    cli::{
        error::{CliError, Exit},
        fabric::Failed,
    },
    interrupts::{self, Patience},
};
use dolmen_initiator::{
    Failure,
    blocking::Session,
    load::{Load, LoadStats, Violation},
    spare_buffers,
};
use dolmen_io::{Io, PoolConfig};
use dolmen_types::Nanos;
use dolmen_uring::{Uring, UringConfig, pin_thread};
use std::{
    sync::{
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, Sender},
    },
    time::Duration,
};

/// Slices that a run is cut into, so that one can see how steady it is; of a run without a set end up to twice as many.
pub(super) const SLICES: usize = 20;
/// First length of a slice of a run without a set end.
const FIRST_SLICE: Duration = Duration::from_millis(100);
/// How often a job tells how far it is. Milliseconds.
const TELL_MS: u64 = 100;

/// What a job is to do next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// Make load.
    Run(Run),
    /// Read back and check what was written.
    ReadBack,
}

/// What all see of a job while it works, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Told {
    /// Commands done since the order.
    pub(super) operations: AtomicU64,
    /// Commands that the order will take, where that is known.
    pub(super) of: AtomicU64,
    /// Connections lost since the start.
    pub(super) losses: AtomicU64,
}

/// A part of a run.
#[derive(Clone, Debug)]
pub(super) struct Slice {
    /// How long it was. Nanoseconds.
    pub(super) ns: u64,
    /// What was counted.
    pub(super) stats: LoadStats,
}

/// What a job counted between the end of the ramp and the end.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    /// Parts in order; the last one may be shorter.
    pub(super) slices: Vec<Slice>,
    /// CPU time of this thread. Nanoseconds; `None` where the system doesn't tell.
    pub(super) cpu_ns: Option<u64>,
    /// CPU time of the processes behind the target, by the job that was told to look.
    pub(super) peer_ns: Option<u64>,
    /// Commands that were due and not issued at the end.
    pub(super) behind: u64,
    /// Commands that failed, and the first one.
    pub(super) errors: u64,
    pub(super) first_error: Option<Failure>,
    /// Blocks that are wrong, and the first one.
    pub(super) violations: u64,
    pub(super) first_violation: Option<Violation>,
    /// Blocks read back.
    pub(super) read_back: u64,
}

/// A connected job.
pub(super) struct Job<'a> {
    number: usize,
    plan: &'a Plan,
    goal: &'a Goal,
    told: &'a Told,
    /// The processes to look at, if it is this job that does.
    peer: Option<&'a Peer>,
    session: Session,
    load: Option<Load>,
}

/// Runs a job's thread: connects, says so, and follows orders until there are no more.
pub(super) fn follow(
    (number, plan, told): (usize, &Plan, &Told),
    peer: Option<&Peer>,
    orders: &Receiver<Order>,
    results: &Sender<(usize, Result<Counted, CliError>)>,
) {
    let job = Job::connect(number, plan, told, peer);
    let (mut job, connected) = match job {
        Ok(job) => (Some(job), Ok(Counted::default())),
        Err(why) => (None, Err(why)),
    };
    // Nobody listens when the others failed: then there are no orders either.
    let _ = results.send((number, connected));
    for order in orders {
        let Some(job) = &mut job else { return };
        let _ = results.send((number, job.obey(order)));
    }
    if let Some(job) = job {
        job.session.disconnect();
    }
}

impl<'a> Job<'a> {
    fn connect(
        number: usize,
        plan: &'a Plan,
        told: &'a Told,
        peer: Option<&'a Peer>,
    ) -> Result<Job<'a>, CliError> {
        let failed = |why: String| CliError::new(Exit::Failed, format!("job {number}: {why}"));
        if let Some(cpu) = plan.cpu_of(number) {
            pin_thread(cpu).map_err(|why| failed(why.to_string()).hint("see --cpus"))?;
        }
        let config =
            UringConfig { pool: pool(plan.connections, plan.depth, plan.bs), ..UringConfig::default() };
        let uring = Uring::new(&config).map_err(|why| failed(why.to_string()))?;
        let goal = plan.goal_of(number);
        let session = Session::connect(Io::new(Box::new(uring)), goal.options.clone());
        let mut session = session.failed(|| format!("job {number}: {}", goal.options.addr))?;
        session.set_spin_ns(plan.spin_ns);
        if let dolmen_initiator::State::Live { queues } = session.state()
            && queues < plan.connections
        {
            let text =
                format!("the target grants {queues} connections where {} are wanted", plan.connections);
            return Err(failed(text).hint("lower --connections"));
        }
        Ok(Job { number, plan, goal, told, peer, session, load: None })
    }

    fn obey(&mut self, order: Order) -> Result<Counted, CliError> {
        match order {
            Order::Run(run) => self.run(run),
            Order::ReadBack => Ok(self.read_back()),
        }
    }

    fn run(&mut self, run: Run) -> Result<Counted, CliError> {
        let options = self.plan.load(self.number, self.goal, run.depth);
        let load = Load::new(self.session.subsystem(), options);
        let mut load = load.map_err(|why| CliError::usage(why.to_string()))?;
        if run.once {
            load.set_work(self.plan.pattern, self.plan.mix, load.units());
        }
        self.told.of.store(if run.once { load.units() } else { 0 }, Relaxed);
        let mut meter = Meter::new(run, self.session.now(), self.told, self.peer);
        self.drive(&mut load, |load, now| meter.look(load, now));
        let mut counted = meter.counted;
        self.finish(&load, &mut counted);
        self.load = Some(load);
        Ok(counted)
    }

    /// Runs a load as the session does, but waits for nothing once patience has come to its end.
    fn drive(&mut self, load: &mut Load, mut each_turn: impl FnMut(&mut Load, Nanos) -> bool) {
        let mut patience = Patience::default();
        self.session.run(load, |load, now| {
            if patience.is_over() {
                load.abandon();
            }
            each_turn(load, now)
        });
    }

    fn read_back(&mut self) -> Counted {
        let mut counted = Counted::default();
        let Some(mut load) = self.load.take() else { return counted };
        load.restart_counting();
        self.told.of.store(load.read_back(), Relaxed);
        let mut tell_at = self.session.now();
        let told = self.told;
        self.drive(&mut load, |load, now| {
            if now >= tell_at {
                told.operations.store(load.stats().reads, Relaxed);
                tell_at = now.plus_ms(TELL_MS);
            }
            goes_on(load)
        });
        counted.read_back = load.stats().reads * (self.plan.bs / 4096);
        self.finish(&load, &mut counted);
        counted
    }

    /// What went wrong, whenever it did.
    fn finish(&mut self, load: &Load, counted: &mut Counted) {
        let stats = load.stats();
        (counted.errors, counted.first_error) = (stats.errors, stats.first_error);
        (counted.violations, counted.first_violation) = (stats.violations, stats.first_violation.clone());
        self.session.take_notices();
        // Attempts to connect again that failed are no losses.
        let losses = self.session.paths().iter().map(|path| path.statistics.losses).sum();
        self.told.losses.store(losses, Relaxed);
        self.told.operations.store(0, Relaxed);
    }
}

/// The buffers of one job: one for each command, what each connection keeps for what will come, chunks to receive into, and a few small
/// ones.
fn pool(connections: u16, depth: u16, bs: u64) -> PoolConfig {
    let bs = usize::try_from(bs).unwrap_or(usize::MAX);
    let places = usize::from(connections) * (usize::from(depth) + spare_buffers(bs));
    // More than the eighth that is left to others.
    let places = u32::try_from(places + places / 6).unwrap_or(u32::MAX);
    let mut classes = vec![(4096, 256), (PoolConfig::CHUNK_BYTES, 1280)];
    match classes.iter_mut().find(|(bytes, _)| *bytes >= bs) {
        Some((_, count)) => *count += places,
        None => classes.push((bs.next_multiple_of(4096), places + 8)),
    }
    PoolConfig::new(classes).with_heads()
}

fn goes_on(load: &Load) -> bool {
    let stats = load.stats();
    stats.errors == 0 && stats.violations == 0 && !interrupts::seen()
}

/// Decides when counting begins, when a slice ends and when the run does.
struct Meter<'a> {
    run: Run,
    told: &'a Told,
    peer: Option<&'a Peer>,
    counted: Counted,
    begin: Nanos,
    /// When counting began.
    counting: Option<Nanos>,
    /// When the slice under way began, and when it ends: the ends don't drift, however late they are seen.
    slice: Nanos,
    slice_end: Nanos,
    slice_ns: u64,
    tell_at: Nanos,
    before: (Option<u64>, Option<u64>),
    done: bool,
}

impl<'a> Meter<'a> {
    fn new(run: Run, now: Nanos, told: &'a Told, peer: Option<&'a Peer>) -> Meter<'a> {
        let slice = if run.once { FIRST_SLICE } else { run.runtime / u32::try_from(SLICES).unwrap_or(1) };
        Meter {
            run,
            told,
            peer,
            counted: Counted::default(),
            begin: now,
            counting: None,
            slice: now,
            slice_end: now,
            slice_ns: nanos(slice).max(1),
            tell_at: now,
            before: (None, None),
            done: false,
        }
    }

    /// Once per turn; false to end.
    fn look(&mut self, load: &mut Load, now: Nanos) -> bool {
        if self.done {
            return false;
        }
        if now >= self.tell_at {
            let counted: u64 = self.counted.slices.iter().map(|s| s.stats.reads + s.stats.changes).sum();
            self.told.operations.store(counted + load.stats().reads + load.stats().changes, Relaxed);
            self.tell_at = now.plus_ms(TELL_MS);
        }
        let stops = !goes_on(load) || load.is_done();
        let Some(counting) = self.counting else {
            if stops || self.run.once || now.since(self.begin) >= nanos(self.run.ramp) {
                self.count_from(load, now);
            }
            if stops {
                self.end(load);
            }
            return !self.done;
        };
        let ends = stops || (!self.run.once && now.since(counting) >= nanos(self.run.runtime));
        if ends {
            load.count_open(now, self.usual_ns(load));
        }
        if ends || now >= self.slice_end {
            self.counted.slices.push(Slice { ns: now.since(self.slice), stats: load.take_counts() });
            self.slice = now;
            self.coarsen();
            let passed = now.since(counting) / self.slice_ns;
            self.slice_end = Nanos(counting.0 + (passed + 1) * self.slice_ns);
        }
        if ends {
            self.end(load);
        }
        !self.done
    }

    /// The end of the ramp. A load that goes over its range once is counted from its first command.
    fn count_from(&mut self, load: &mut Load, now: Nanos) {
        let from = if self.run.once { self.begin } else { now };
        if !self.run.once {
            load.restart_counting();
        }
        (self.counting, self.slice, self.slice_end) = (Some(from), from, Nanos(from.0 + self.slice_ns));
        self.before = (peer::thread_ns(), self.peer.and_then(Peer::cpu_ns));
    }

    /// The median of what was counted so far.
    fn usual_ns(&self, load: &Load) -> u64 {
        let mut sum = both(load.stats());
        self.counted.slices.iter().for_each(|slice| sum.merge(&both(&slice.stats)));
        sum.percentile(50_000)
    }

    /// Twice as many slices become half as many.
    fn coarsen(&mut self) {
        if self.counted.slices.len() < 2 * SLICES {
            return;
        }
        let slices = std::mem::take(&mut self.counted.slices);
        for pair in slices.chunks(2) {
            let mut slice = pair[0].clone();
            for other in &pair[1..] {
                slice.ns += other.ns;
                add(&mut slice.stats, &other.stats);
            }
            self.counted.slices.push(slice);
        }
        self.slice_ns *= 2;
    }

    fn end(&mut self, load: &Load) {
        let after = (peer::thread_ns(), self.peer.and_then(Peer::cpu_ns));
        let passed = |before: Option<u64>, after: Option<u64>| Some(after?.saturating_sub(before?));
        self.counted.cpu_ns = passed(self.before.0, after.0);
        self.counted.peer_ns = passed(self.before.1, after.1);
        self.counted.behind = load.behind();
        self.done = true;
    }
}

/// Adds up what was counted.
pub(super) fn add(sum: &mut LoadStats, other: &LoadStats) {
    sum.reads += other.reads;
    sum.changes += other.changes;
    sum.bytes += other.bytes;
    sum.read_latency.merge(&other.read_latency);
    sum.change_latency.merge(&other.change_latency);
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Commands that find no buffer, or connections that keep none, would make a slower load than was asked for.
    #[test]
    fn every_command_and_every_connection_has_its_buffers() {
        for (connections, depth, bs) in
            [(1, 1, 4096), (64, 32, 4096), (128, 128, 4096), (128, 32, 8192), (16, 32, 128 << 10)]
        {
            let pool = pool(connections, depth, bs);
            let bs = usize::try_from(bs).unwrap();
            let (_, count) = *pool.classes.iter().find(|(bytes, _)| *bytes >= bs).unwrap();
            let taken = usize::from(connections) * (usize::from(depth) + spare_buffers(bs));
            let count = usize::try_from(count).unwrap();
            assert!(count - taken > count / 8, "{connections} {depth} {bs}: {count}");
        }
    }
}
