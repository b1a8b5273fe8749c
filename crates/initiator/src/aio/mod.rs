//! The async face: commands as futures, for tasks on our executor ([`dolmen_io::exec`]).
//!
//! ```text
//!   task: subsystem.read(..).await      queued here, the task sleeps
//!   turn: host.step(&mut io)            what is queued goes to the initiator, completions wake their tasks
//! ```
//!
//! [`Host`] is the component on a core's loop; [`Handle`]s, cheap to clone, are what tasks work with. [`Runtime`] is a loop
//! with nothing but a host and an executor on it, for programs and tests that need no more.
//!
//! A future that is dropped does not take its command back: that runs to its end, and its buffer returns to the pool.
//! Commands beyond a subsystem's capacity wait here, in order, up to their deadlines; what waits is bounded by the tasks that there are.

mod runtime;
mod subsystem;

pub use runtime::Runtime;
pub use subsystem::{Connect, Execute, Subsystem};

use crate::{
    Completion, Error, Failure, Identity, Initiator, NO_DEADLINE, Notice, Options, Request, State,
    SubmitError, SubsystemId, initiator::arm,
};
use dolmen_io::{Event, Io, Owner, Tag, TimerId};
use dolmen_types::Nanos;
use std::{
    cell::{Ref, RefCell},
    collections::VecDeque,
    fmt,
    rc::Rc,
    task::Waker,
};

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The subsystem can't be reached, or was given up.
    Connect(Error),
    /// The command failed.
    Command(Failure),
    /// The command was not taken.
    Submit(SubmitError),
    /// The pool has no buffer.
    Memory,
    /// A length that is not a multiple of the namespace's block.
    Length,
    /// The controller returned something that makes no sense.
    Malformed(Error),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Connect(e) | CallError::Malformed(e) => fmt::Display::fmt(e, f),
            CallError::Command(e) => fmt::Display::fmt(e, f),
            CallError::Submit(e) => fmt::Display::fmt(e, f),
            CallError::Memory => f.write_str("no buffer left in the pool"),
            CallError::Length => f.write_str("the length is not a multiple of the namespace's block size"),
        }
    }
}

impl std::error::Error for CallError {}

type Result<T, E = CallError> = std::result::Result<T, E>;

/// A command of a task.
enum Call {
    /// Nobody's.
    Free,
    /// Under way; with the waker of the future that waits, if it was polled.
    Waiting(Option<Waker>),
    /// Over, not yet picked up.
    Done(Result<Completion>),
    /// The future was dropped; the completion goes nowhere.
    Orphan,
}

struct Inner {
    initiator: Initiator,
    /// Commands that the initiator has not been given yet.
    queued: VecDeque<(SubsystemId, Request)>,
    /// By ticket.
    calls: Vec<Call>,
    free: Vec<usize>,
    /// Subsystems to be connected or ended at the next step.
    options: Vec<(usize, Options)>,
    ending: Vec<SubsystemId>,
    connecting: Vec<Connecting>,
    /// Tasks whose commands were not taken, or not in time, to be woken at the end of the step.
    refused: Vec<Waker>,
    /// Woken at every notice, and when something was connected or ended, which may be over without one.
    watchers: Vec<Waker>,
    notices: VecDeque<Notice>,
    pool: dolmen_io::Pool,
    now: Nanos,
}

/// A connect that was asked for, by its place.
enum Connecting {
    Free,
    Asked,
    Made(Result<SubsystemId, Error>),
}

/// The key of our own timer: no subsystem has such a number.
const TIMER: u64 = u64::MAX;

/// Notices kept for tasks that look for them late; the oldest go first.
const MAX_NOTICES: usize = 256;

/// The component: an initiator whose commands are tasks'.
pub struct Host {
    inner: Rc<RefCell<Inner>>,
    owner: Owner,
    /// For the first deadline of what is queued; earlier perhaps.
    timer: Option<(TimerId, Nanos)>,
    completions: Vec<Completion>,
    notices: Vec<Notice>,
}

/// What tasks work with.
#[derive(Clone)]
pub struct Handle {
    inner: Rc<RefCell<Inner>>,
}

impl Host {
    /// A host without connections, whose operations carry `owner`.
    #[must_use]
    pub fn new(owner: Owner, io: &Io) -> Host {
        let inner = Inner {
            initiator: Initiator::new(owner),
            queued: VecDeque::new(),
            calls: Vec::new(),
            free: Vec::new(),
            options: Vec::new(),
            ending: Vec::new(),
            connecting: Vec::new(),
            refused: Vec::new(),
            watchers: Vec::new(),
            notices: VecDeque::new(),
            pool: io.pool().clone(),
            now: io.now(),
        };
        let inner = Rc::new(RefCell::new(inner));
        Host { inner, owner, timer: None, completions: Vec::new(), notices: Vec::new() }
    }

    /// What tasks work with.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle { inner: self.inner.clone() }
    }

    /// Takes an event whose tag has our owner.
    pub fn on_event(&mut self, io: &mut Io, key: u64, event: Event) {
        if key == TIMER {
            self.timer = None;
            return;
        }
        self.inner.borrow_mut().initiator.on_event(io, key, event);
    }

    /// Hands over what tasks asked for, wakes those whose commands are over, sends. Once per turn, after the events and
    /// after the executor ran. True when there is something to do at once: a task was woken, or what is queued may find room.
    pub fn step(&mut self, io: &mut Io) -> bool {
        let mut inner = self.inner.borrow_mut();
        inner.now = io.now();
        let changed = inner.connect(io);
        let until = inner.submit(io);
        if until != NO_DEADLINE {
            arm(io, &mut self.timer, Tag { owner: self.owner, key: TIMER }, until);
        }
        inner.initiator.step(io);
        inner.initiator.drain(&mut self.completions);
        inner.initiator.drain_notices(&mut self.notices);
        // Those that nobody waits for make room without waking anyone.
        let room = !self.completions.is_empty() && !inner.queued.is_empty();
        let mut woken = Vec::new();
        for completion in self.completions.drain(..) {
            let ticket = usize::try_from(completion.ticket).expect("our own tickets are indexes");
            inner.finish(ticket, Ok(completion), &mut woken);
        }
        if changed || !self.notices.is_empty() {
            woken.append(&mut inner.watchers);
            inner.notices.extend(self.notices.drain(..));
            let excess = inner.notices.len().saturating_sub(MAX_NOTICES);
            inner.notices.drain(..excess);
        }
        woken.append(&mut inner.refused);
        drop(inner);
        let any = !woken.is_empty() || room;
        woken.into_iter().for_each(Waker::wake);
        any
    }
}

impl Handle {
    /// The time of the turn that is running.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.inner.borrow().now
    }

    /// Connects, and waits until commands flow. Losses of the connection, also of the first one, are mended as `options`
    /// say; the future ends when the subsystem is given up.
    #[must_use]
    pub fn connect(&self, options: Options) -> Connect {
        let mut inner = self.inner.borrow_mut();
        let free = inner.connecting.iter().position(|c| matches!(c, Connecting::Free));
        let place = free.unwrap_or_else(|| {
            inner.connecting.push(Connecting::Free);
            inner.connecting.len() - 1
        });
        inner.connecting[place] = Connecting::Asked;
        inner.options.push((place, options));
        drop(inner);
        Connect::new(self.clone(), place)
    }

    /// The oldest thing that happened beside completions, and was not taken yet.
    #[must_use]
    pub fn next_notice(&self) -> Option<Notice> {
        self.inner.borrow_mut().notices.pop_front()
    }

    fn identity(&self, id: SubsystemId) -> Option<Ref<'_, Identity>> {
        Ref::filter_map(self.inner.borrow(), |inner| inner.initiator.identity(id)).ok()
    }
}

impl Inner {
    /// Connects and ends what tasks asked for; true when there was something.
    fn connect(&mut self, io: &mut Io) -> bool {
        let any = !self.options.is_empty() || !self.ending.is_empty();
        for (place, options) in std::mem::take(&mut self.options) {
            self.connecting[place] = Connecting::Made(self.initiator.connect(io, options));
        }
        for id in std::mem::take(&mut self.ending) {
            self.initiator.disconnect(io, id);
        }
        any
    }

    /// Nobody waits for a connect any more; what it made so far is ended.
    fn call_off(&mut self, place: usize) {
        self.options.retain(|(at, _)| *at != place);
        if let Connecting::Made(Ok(id)) = std::mem::replace(&mut self.connecting[place], Connecting::Free) {
            self.ending.push(id);
        }
    }

    /// Gives the initiator what is queued, as far as it takes it; one subsystem's full house doesn't hold up another's. The first deadline
    /// of what is left.
    fn submit(&mut self, io: &mut Io) -> Nanos {
        let mut until = NO_DEADLINE;
        for _ in 0..self.queued.len() {
            let Some((id, request)) = self.queued.pop_front() else { return until };
            let ticket = request.ticket;
            let error = match self.initiator.submit(io, id, request) {
                Ok(()) => continue,
                Err((request, SubmitError::Full)) if request.deadline > self.now => {
                    until = until.min(request.deadline);
                    self.queued.push_back((id, request));
                    continue;
                }
                Err((_, SubmitError::Full)) => CallError::Command(Failure::Expired),
                Err((_, error)) => CallError::Submit(error),
            };
            let ticket = usize::try_from(ticket).expect("our own tickets are indexes");
            let mut woken = std::mem::take(&mut self.refused);
            self.finish(ticket, Err(error), &mut woken);
            self.refused = woken;
        }
        until
    }

    fn finish(&mut self, ticket: usize, outcome: Result<Completion>, woken: &mut Vec<Waker>) {
        match std::mem::replace(&mut self.calls[ticket], Call::Done(outcome)) {
            Call::Waiting(waker) => woken.extend(waker),
            Call::Orphan | Call::Free | Call::Done(_) => self.release(ticket),
        }
    }

    fn release(&mut self, ticket: usize) {
        self.calls[ticket] = Call::Free;
        self.free.push(ticket);
    }

    fn call(&mut self, id: SubsystemId, mut request: Request) -> usize {
        let ticket = self.free.pop().unwrap_or_else(|| {
            self.calls.push(Call::Free);
            self.calls.len() - 1
        });
        self.calls[ticket] = Call::Waiting(None);
        request.ticket = ticket as u64;
        self.queued.push_back((id, request));
        ticket
    }

    fn state(&self, id: SubsystemId) -> State {
        self.initiator.state(id)
    }

    /// Has a task woken when something changes. One that is woken for other reasons meanwhile, and asks again, is noted once.
    fn watch(&mut self, waker: &Waker) {
        if !self.watchers.iter().any(|other| other.will_wake(waker)) {
            self.watchers.push(waker.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OWNER;
    use dolmen_sim::{CoreConfig, World};
    use dolmen_types::Uuid;
    use std::{
        pin::pin,
        task::{Context, Poll},
    };

    #[test]
    fn who_asks_again_and_again_is_noted_once() {
        let io = Io::new(Box::new(World::new(1).driver(CoreConfig::default())));
        let handle = Host::new(OWNER, &io).handle();
        let nqn: dolmen_types::Nqn = "nqn.2014-08.org.example:host".parse().unwrap();
        let options = Options::new(([192, 0, 2, 1], 4420).into(), nqn.clone(), nqn, Uuid([1; 16]));
        let mut connect = pin!(handle.connect(options));
        for _ in 0..100 {
            assert!(matches!(connect.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
        }
        assert_eq!(handle.inner.borrow().watchers.len(), 1);
    }
}
