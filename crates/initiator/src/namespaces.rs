//! The namespaces of a subsystem, followed: read when it becomes live, and again whenever a controller says that they have changed.
//!
//! ```text
//!   wanted -> (changed-namespaces log) -> list -> for each: page, descriptors -> known
//!      ^------- Namespace Attribute Changed (AEN), a path that became live ----------+
//! ```
//!
//! [`Namespaces`] is polled beside the [`Initiator`] that carries it, as [`Discovery`](crate::discovery::Discovery) is: hand it
//! the notices and its completions, step it, and look whether something changed.
//!
//! Bounds: one command at a time, at most 65,536 namespaces. What can't be read now is read again after a pause, which grows from try to
//! try until something new is heard; until then what was known stays known. It ends with its subsystem: what is disconnected or given up
//! ([`State::Lost`](crate::State::Lost), which a [`Notice::State`] tells) never comes back, and is asked for nothing more.

use crate::{
    Command, Completion, Error, Initiator, Namespace, Notice, Request, SubmitError, SubsystemId,
    identity::active_namespaces,
};
use dolmen_io::{Buf, Io};
use dolmen_nvme::spec::{Cns, IdentifyCommand, LogId, notice};
use dolmen_types::Nanos;

/// Pause before another attempt. Milliseconds.
const PAUSE_MS: u64 = 1000;
/// The same at most, after many. Milliseconds.
const MAX_PAUSE_MS: u64 = 64_000;
/// Bytes of the changed-namespaces log, whose reading lets its event come again.
const CHANGED_LOG_BYTES: usize = 4096;
/// The controller as a whole.
const ALL: u32 = 0xffff_ffff;

#[derive(Debug)]
enum Phase {
    /// Not reading.
    Idle,
    /// The log that the event names.
    Log,
    /// Pages of the list.
    List,
    /// The page of the namespace at this place in the list.
    Page(usize),
    /// Its descriptors.
    Descriptors(usize, Buf),
}

/// What a subsystem's namespaces are.
#[derive(Debug)]
pub struct Namespaces {
    subsystem: SubsystemId,
    ticket: u64,
    phase: Phase,
    /// They are to be read (again).
    wanted: bool,
    /// Not before then.
    not_before: Nanos,
    /// Before the next attempt, should this one fail. Milliseconds.
    pause_ms: u64,
    /// A command is under way.
    asked: bool,
    list: Vec<u32>,
    reading: Vec<Namespace>,
    known: Vec<Namespace>,
    changed: bool,
}

impl Namespaces {
    /// Follows those of `subsystem`; what was `known` of them before. Commands carry `ticket`, which nothing else may have.
    #[must_use]
    pub fn new(subsystem: SubsystemId, ticket: u64, known: Vec<Namespace>) -> Namespaces {
        Namespaces {
            subsystem,
            ticket,
            phase: Phase::Idle,
            wanted: true,
            not_before: Nanos(0),
            pause_ms: PAUSE_MS,
            asked: false,
            list: Vec::new(),
            reading: Vec::new(),
            known,
            changed: false,
        }
    }

    /// True for a completion that belongs here.
    #[must_use]
    pub fn owns(&self, completion: &Completion) -> bool {
        completion.subsystem == self.subsystem && completion.ticket == self.ticket
    }

    /// What is known now, by ascending number.
    #[must_use]
    pub fn known(&self) -> &[Namespace] {
        &self.known
    }

    /// True once after what is known became something else.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Takes a notice; those of other subsystems are left out.
    pub fn on_notice(&mut self, what: &Notice) {
        let again = match what {
            // Events may have been missed while it was away.
            Notice::PathLive { subsystem, .. } => *subsystem == self.subsystem,
            Notice::Event { subsystem, event, .. } => {
                *subsystem == self.subsystem && *event == notice::NAMESPACE_CHANGED
            }
            _ => false,
        };
        if again {
            (self.wanted, self.not_before, self.pause_ms) = (true, Nanos(0), PAUSE_MS);
        }
    }

    /// Takes a completion that [`Namespaces::owns`].
    pub fn on_completion(&mut self, io: &Io, completion: Completion) {
        self.asked = false;
        let page = match (completion.result, completion.buf) {
            (Ok(_), page) => page,
            (Err(_), _) => None,
        };
        match (std::mem::replace(&mut self.phase, Phase::Idle), page) {
            // A controller without that log still has namespaces.
            (Phase::Log, _) => {
                self.list.clear();
                self.phase = Phase::List;
            }
            (Phase::List, Some(page)) => match active_namespaces(&page, &mut self.list) {
                Ok(true) => {
                    self.reading.clear();
                    self.go_on(0);
                }
                Ok(false) => self.phase = Phase::List,
                Err(_) => self.put_off(io.now()),
            },
            (Phase::Page(at), Some(page)) => self.phase = Phase::Descriptors(at, page),
            (Phase::Descriptors(at, page), Some(descriptors)) => {
                self.reading.extend(self.parse(at, &page, &descriptors).ok());
                self.go_on(at + 1);
            }
            // One that is gone since it was listed shows in the next list; it or the connection is why this failed.
            (Phase::Idle | Phase::List | Phase::Page(_) | Phase::Descriptors(..), _) => {
                self.put_off(io.now());
            }
        }
    }

    fn parse(&self, at: usize, page: &Buf, descriptors: &Buf) -> Result<Namespace, Error> {
        let nsid = self.list.get(at).copied().unwrap_or(0);
        Namespace::parse(nsid, page, descriptors)
    }

    /// The next namespace, or the end.
    fn go_on(&mut self, at: usize) {
        if at < self.list.len() {
            return self.phase = Phase::Page(at);
        }
        (self.phase, self.pause_ms) = (Phase::Idle, PAUSE_MS);
        if self.known != self.reading {
            self.known = std::mem::take(&mut self.reading);
            self.changed = true;
        }
    }

    fn put_off(&mut self, now: Nanos) {
        self.phase = Phase::Idle;
        self.wanted = true;
        self.not_before = now.plus_ms(self.pause_ms);
        self.pause_ms = (2 * self.pause_ms).min(MAX_PAUSE_MS);
    }

    /// Asks for what is to be read. Once per turn.
    pub fn step(&mut self, io: &mut Io, initiator: &mut Initiator) {
        if self.wanted && matches!(self.phase, Phase::Idle) && io.now() >= self.not_before {
            (self.wanted, self.phase) = (false, Phase::Log);
        }
        if self.asked || matches!(self.phase, Phase::Idle) {
            return;
        }
        let identify = |cns, nsid, buf| Command::Identify { cns, nsid, buf };
        let at = |at: usize| self.list.get(at).copied().unwrap_or(0);
        let bytes =
            if matches!(self.phase, Phase::Log) { CHANGED_LOG_BYTES } else { IdentifyCommand::DATA_BYTES };
        let Some(buf) = io.alloc(bytes) else { return };
        let command = match self.phase {
            Phase::Idle => return,
            // The event comes again when it is read, so it is read before what it is about.
            Phase::Log => {
                let page = LogId::CHANGED_NAMESPACES;
                Command::GetLog { page, nsid: ALL, offset: 0, retain_event: false, buf }
            }
            Phase::List => identify(Cns::ACTIVE_NAMESPACES, self.list.last().copied().unwrap_or(0), buf),
            Phase::Page(i) => identify(Cns::NAMESPACE, at(i), buf),
            Phase::Descriptors(i, _) => identify(Cns::NAMESPACE_DESCRIPTORS, at(i), buf),
        };
        match initiator.submit(io, self.subsystem, Request::new(self.ticket, command)) {
            Ok(()) => self.asked = true,
            Err((_, SubmitError::Full | SubmitError::Memory)) => {}
            Err((_, SubmitError::Gone)) => (self.phase, self.wanted) = (Phase::Idle, false),
            Err(_) => self.put_off(io.now()),
        }
    }

    /// When [`Namespaces::step`] wants to be called even if nothing happens; `None` when it need not.
    #[must_use]
    pub fn wake_at(&self) -> Option<Nanos> {
        let waits = self.wanted && matches!(self.phase, Phase::Idle) && self.not_before > Nanos(0);
        waits.then_some(self.not_before)
    }
}
