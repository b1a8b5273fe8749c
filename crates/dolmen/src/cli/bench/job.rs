//! One job: a thread with its own loop and its own connections, which does as it is ordered and tells what it counted.

use super::{
    goal::Goal,
    meter::{Measured, Meter, goes_on},
    peer::Peer,
    plan::{Plan, Run},
    told::{Link, TELL_MS, Told},
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
    load::{Load, Violation},
    spare_buffers,
};
use dolmen_io::{Io, PoolConfig};
use dolmen_types::Nanos;
use dolmen_uring::{Uring, UringConfig, pin_thread};
use std::sync::{
    atomic::Ordering::Relaxed,
    mpsc::{Receiver, Sender},
};

/// What a job is to do next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// Make load.
    Run(Run),
    /// Read back and check what was written.
    ReadBack,
}

/// What came of an order.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    /// What was measured, of a run.
    pub(super) run: Measured,
    /// Commands that failed, and why the first one did.
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    /// Commands that nobody waited for any longer.
    pub(super) unanswered: u64,
    /// Blocks that are wrong, and the first one.
    pub(super) violations: u64,
    pub(super) first_violation: Option<Violation>,
    /// Blocks read back.
    pub(super) read_back: u64,
    /// Blocks that were to be read back, and were not.
    pub(super) unread: u64,
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
    link: Link,
    /// Nobody waits for the target any longer.
    silent: bool,
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
    // A target that owes answers owes a good-bye too.
    if let Some(job) = job.filter(|job| !job.silent) {
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
        Ok(Job { number, plan, goal, told, peer, session, link: Link::default(), silent: false, load: None })
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
        let unanswered = self.drive(&mut load, |load, now| meter.look(load, now));
        let counted = self.finish(&load, Counted { run: meter.measured(), unanswered, ..Counted::default() });
        self.load = Some(load);
        Ok(counted)
    }

    /// Runs a load as the session does, and looks after the connection. Who is interrupted waits for answers for a while, and not at
    /// all while there is no connection; the number of commands that are not answered then.
    fn drive(&mut self, load: &mut Load, mut each_turn: impl FnMut(&mut Load, Nanos) -> bool) -> u64 {
        let mut patience = Patience::default();
        loop {
            self.session.turn_load(load);
            let now = self.session.now();
            self.link.note(self.session.take_notices(), now, self.told);
            if !each_turn(load, now) {
                load.stop();
            }
            if load.is_done() {
                return 0;
            }
            if patience.is_over() || (interrupts::seen() && self.link.is_away()) {
                load.abandon();
                self.silent = true;
                return load.under_way() as u64;
            }
        }
    }

    fn read_back(&mut self) -> Counted {
        let Some(mut load) = self.load.take() else { return Counted::default() };
        load.restart_counting();
        let known = load.read_back();
        self.told.of.store(known, Relaxed);
        let mut tell_at = self.session.now();
        let told = self.told;
        let unanswered = self.drive(&mut load, |load, now| {
            if now >= tell_at {
                told.operations.store(load.stats().reads, Relaxed);
                tell_at = now.plus_ms(TELL_MS);
            }
            goes_on(load)
        });
        let (read, blocks) = (load.stats().reads, self.plan.bs / 4096);
        let (read_back, unread) = (read * blocks, known.saturating_sub(read) * blocks);
        self.finish(&load, Counted { read_back, unread, unanswered, ..Counted::default() })
    }

    /// With what went wrong, whenever it did.
    fn finish(&mut self, load: &Load, counted: Counted) -> Counted {
        let stats = load.stats();
        self.told.operations.store(0, Relaxed);
        let why = |failure: Failure| match (failure, self.link.given_up()) {
            (Failure::Lost, Some(why)) => format!("{failure} ({why})"),
            _ => failure.to_string(),
        };
        Counted {
            errors: stats.errors,
            first_error: stats.first_error.map(why),
            violations: stats.violations,
            first_violation: stats.first_violation.clone(),
            ..counted
        }
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
