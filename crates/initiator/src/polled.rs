//! The polled face: a client that owns its loop and lives in anybody's.
//!
//! ```text
//!   your loop:  wait for client.descriptor() to be readable, for client.timeout() at most
//!               client.poll()                      what came is taken, what was submitted is sent
//!               for done in client.completions()   -> your next submits; then poll() once more, to send them
//! ```
//!
//! Nothing here waits but [`Client::wait`], for programs that have no loop of their own. A client belongs to one thread;
//! several threads have a client each, with connections of its own, and share nothing.

use crate::{
    Completion, Error, Identity, Initiator, Notice, OWNER, Options, Request, State, SubmitError, SubsystemId,
};
use dolmen_io::{Buf, Event, Io, Tag, Wait};
use dolmen_types::Nanos;
use std::{os::fd::BorrowedFd, time::Duration, vec::Drain};

/// Turns of the loop that one [`Client::poll`] takes at most, so that a fast peer cannot keep it for ever.
const MAX_TURNS: usize = 64;

/// An initiator with a loop of its own.
pub struct Client {
    io: Io,
    initiator: Initiator,
    events: Vec<(Tag, Event)>,
    completions: Vec<Completion>,
    notices: Vec<Notice>,
    /// The last poll ended although there was more to take or to send.
    more: bool,
}

impl Client {
    /// A client without connections, on the world behind `io`.
    #[must_use]
    pub fn new(io: Io) -> Client {
        Client {
            io,
            initiator: Initiator::new(OWNER),
            events: Vec::new(),
            completions: Vec::new(),
            notices: Vec::new(),
            more: false,
        }
    }

    /// What to wait on: readable when [`Client::poll`] has something to take. It stays the same for the client's life. `None`
    /// when the driver has none (a simulated one).
    #[must_use]
    pub fn descriptor(&mut self) -> Option<BorrowedFd<'_>> {
        self.io.descriptor()
    }

    /// How long to wait for the descriptor at most before [`Client::poll`] is due; `None` for as long as it takes.
    pub fn timeout(&mut self) -> Option<Duration> {
        if self.more {
            return Some(Duration::ZERO);
        }
        let deadline = self.io.next_deadline()?;
        Some(Duration::from_nanos(deadline.since(self.io.clock())))
    }

    /// Takes what has come and sends what was submitted. True when something came.
    pub fn poll(&mut self) -> bool {
        for turns in 0..MAX_TURNS {
            // The last turn, in which nothing comes, hands over what the turns before had to send.
            self.more = self.turn(Wait::No);
            if !self.more {
                return turns > 0;
            }
        }
        true
    }

    /// Waits until something comes, for `at_most`, and then does what [`Client::poll`] does.
    pub fn wait(&mut self, at_most: Duration) -> bool {
        let nanos = u64::try_from(at_most.as_nanos()).unwrap_or(u64::MAX);
        let until = Nanos(self.io.clock().0.saturating_add(nanos));
        self.turn(Wait::Until(until)) | self.poll()
    }

    fn turn(&mut self, wait: Wait) -> bool {
        self.initiator.step(&mut self.io);
        self.io.poll(wait, &mut self.events);
        let worked = !self.events.is_empty();
        for (tag, event) in self.events.drain(..) {
            self.initiator.on_event(&mut self.io, tag.key, event);
        }
        self.initiator.drain(&mut self.completions);
        self.initiator.drain_notices(&mut self.notices);
        worked
    }

    /// Starts to connect to a subsystem and keeps connected to it. Commands may be submitted at once; they wait.
    ///
    /// # Errors
    /// [`ErrorKind::Options`](crate::ErrorKind::Options) for options that can't work.
    pub fn connect(&mut self, options: Options) -> Result<SubsystemId, Error> {
        self.initiator.connect(&mut self.io, options)
    }

    /// Ends a subsystem: its commands fail, its connections close in the polls to come.
    pub fn disconnect(&mut self, id: SubsystemId) {
        self.initiator.disconnect(&mut self.io, id);
    }

    /// Hands over a command; it is sent by the next [`Client::poll`].
    ///
    /// # Errors
    /// The request itself, with the reason why it was not taken.
    pub fn submit(&mut self, id: SubsystemId, request: Request) -> Result<(), (Request, SubmitError)> {
        self.initiator.submit(&mut self.io, id, request)
    }

    /// What was completed since the last call, in order.
    pub fn completions(&mut self) -> Drain<'_, Completion> {
        self.completions.drain(..)
    }

    /// What else happened since the last call.
    pub fn notices(&mut self) -> Drain<'_, Notice> {
        self.notices.drain(..)
    }

    /// A buffer of `len` bytes (old contents) for a command; `None` when the pool has none to spare: an eighth of it stays for sending and
    /// receiving.
    #[must_use]
    pub fn alloc(&self, len: usize) -> Option<Buf> {
        self.io.pool().alloc_plentiful(len)
    }

    /// The client's clock, for deadlines.
    #[must_use]
    pub fn clock(&self) -> Nanos {
        self.io.clock()
    }

    /// How a subsystem stands.
    #[must_use]
    pub fn state(&self, id: SubsystemId) -> State {
        self.initiator.state(id)
    }

    /// What a subsystem's controller said of itself when it last became live.
    #[must_use]
    pub fn identity(&self, id: SubsystemId) -> Option<&Identity> {
        self.initiator.identity(id)
    }

    /// The component and its loop, for what this face does not show: discovery, loads.
    pub fn parts(&mut self) -> (&mut Io, &mut Initiator) {
        (&mut self.io, &mut self.initiator)
    }
}
