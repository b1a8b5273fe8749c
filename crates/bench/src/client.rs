//! The benchmark's host: one loop with any number of controllers, each under a load of its own or at rest.

use crate::Result;
use dolmen_initiator::{
    Completion, Initiator, Notice, OWNER, Options, State, SubsystemId,
    load::{Histogram, Load},
};
use dolmen_io::{Event, Io, Poller, Tag, Turn};
use dolmen_types::Nanos;
use dolmen_uring::{Uring, UringConfig};
use std::time::Duration;

/// The client's buffers. Bytes of address space.
const POOL_BYTES: usize = 128 << 20;
/// How long the controllers of one call may take to come up, and how long to go.
const PATIENCE: Duration = Duration::from_secs(20);

/// A ring of this thread.
pub(crate) fn io() -> Result<Io> {
    let config = UringConfig::without_drives(POOL_BYTES);
    Ok(Io::new(Box::new(Uring::new(&config)?)))
}

/// Moments of a run at which the caller may look at something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// The ramp is over; counting starts.
    Started,
    /// Counting has ended.
    Ended,
}

/// What the loads of one run came to.
#[derive(Clone, Debug)]
pub(crate) struct Counted {
    pub(crate) seconds: f64,
    pub(crate) commands: u64,
    pub(crate) latency: Histogram,
    /// Commands, connection by connection.
    pub(crate) by_connection: Vec<u64>,
}

/// Controllers on one loop of this thread.
pub(crate) struct Client {
    io: Io,
    initiator: Initiator,
    poller: Poller,
    worked: bool,
    controllers: Vec<SubsystemId>,
    events: Vec<(Tag, Event)>,
    completions: Vec<Completion>,
    notices: Vec<Notice>,
}

impl Client {
    /// A host without controllers, which polls for so long after the last work before it sleeps.
    pub(crate) fn new(spin: Duration) -> Result<Client> {
        Ok(Client {
            io: io()?,
            initiator: Initiator::new(OWNER),
            poller: Poller::new(u64::try_from(spin.as_nanos()).unwrap_or(u64::MAX)),
            worked: true,
            controllers: Vec::new(),
            events: Vec::new(),
            completions: Vec::new(),
            notices: Vec::new(),
        })
    }

    /// Connects one more controller and waits until it takes commands.
    pub(crate) fn connect(&mut self, options: Options) -> Result<SubsystemId> {
        let (addr, wanted) = (options.addr, options.io_queues);
        let id = self.initiator.connect(&mut self.io, options)?;
        self.controllers.push(id);
        let patience = self.after(PATIENCE);
        loop {
            match self.initiator.state(id) {
                State::Live { queues } if queues >= wanted => return Ok(id),
                State::Live { queues } => {
                    return Err(format!("{addr} grants {queues} queues, {wanted} are wanted").into());
                }
                State::Lost(error) => return Err(error.into()),
                _ if self.io.now() > patience => {
                    return Err(format!("{addr} doesn't come up in {PATIENCE:?}").into());
                }
                _ => self.turn(),
            }
            let lost = self.notices.drain(..).find_map(|notice| match notice {
                Notice::PathLost { error, .. } => Some(error),
                _ => None,
            });
            if let Some(error) = lost {
                return Err(error.into());
            }
        }
    }

    /// Runs loads for a time and counts; `at` is called at the ends of the counting.
    pub(crate) fn run(
        &mut self,
        loads: &mut [Load],
        ramp: Duration,
        runtime: Duration,
        mut at: impl FnMut(Mark) -> Result<()>,
    ) -> Result<Counted> {
        let (count_from, end) = (self.after(ramp), self.after(ramp + runtime));
        let mut started = None;
        let ended = loop {
            self.load_turn(loads);
            let now = self.io.now();
            if started.is_none() && now >= count_from {
                loads.iter_mut().for_each(Load::restart_counting);
                at(Mark::Started)?;
                started = Some(now);
            }
            if now >= end {
                break now;
            }
        };
        let seconds = Duration::from_nanos(ended.since(started.unwrap_or(count_from))).as_secs_f64();
        let counted = counted(loads, seconds);
        at(Mark::Ended)?;
        loads.iter_mut().for_each(Load::stop);
        while !loads.iter().all(Load::is_done) {
            self.load_turn(loads);
        }
        for stats in loads.iter().map(Load::stats) {
            if let Some(failure) = &stats.first_error {
                return Err(format!("{} commands failed, the first one: {failure}", stats.errors).into());
            }
        }
        Ok(counted)
    }

    /// Runs a load until it has done all it was allowed.
    pub(crate) fn finish(&mut self, load: &mut Load) -> Result<()> {
        while !load.is_done() {
            self.load_turn(std::slice::from_mut(load));
        }
        match &load.stats().first_error {
            Some(failure) => Err(format!("a command failed: {failure}").into()),
            None => Ok(()),
        }
    }

    /// Disconnects everything.
    pub(crate) fn disconnect(mut self) {
        let patience = self.after(PATIENCE);
        for id in std::mem::take(&mut self.controllers) {
            self.initiator.disconnect(&mut self.io, id);
            while self.initiator.state(id) != State::Closed && self.io.now() < patience {
                self.turn();
            }
        }
        self.initiator.step(&mut self.io);
        self.io.submit();
    }

    fn after(&self, time: Duration) -> Nanos {
        Nanos(self.io.now().0.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
    }

    fn load_turn(&mut self, loads: &mut [Load]) {
        for load in loads.iter_mut() {
            load.step(&mut self.io, &mut self.initiator);
        }
        self.turn();
        for completion in self.completions.drain(..) {
            if let Some(load) = loads.iter_mut().find(|load| load.owns(&completion)) {
                load.on_completion(completion);
            }
        }
    }

    fn turn(&mut self) {
        self.initiator.step(&mut self.io);
        let turn = if self.worked { Turn::Worked } else { Turn::Idle };
        let wait = self.poller.wait(self.io.now(), turn);
        self.io.poll(wait, &mut self.events);
        self.worked = !self.events.is_empty();
        for (tag, event) in self.events.drain(..) {
            self.initiator.on_event(&mut self.io, tag.key, event);
        }
        self.initiator.drain(&mut self.completions);
        self.initiator.drain_notices(&mut self.notices);
    }
}

fn counted(loads: &[Load], seconds: f64) -> Counted {
    let mut counted = Counted { seconds, commands: 0, latency: Histogram::new(), by_connection: Vec::new() };
    for stats in loads.iter().map(Load::stats) {
        counted.commands += stats.reads + stats.changes;
        counted.latency.merge(&stats.read_latency);
        counted.latency.merge(&stats.change_latency);
        counted.by_connection.extend_from_slice(&stats.by_queue);
    }
    counted
}
