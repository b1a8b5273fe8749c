//! The simple face: a session with one subsystem that waits for each answer. For tools and tests.
//!
//! A [`Session`] owns an [`Io`] and drives its loop while a call runs; between calls nothing moves, so a session that
//! rests longer than the keep-alive timeout reconnects at its next call. Large transfers are split by the controller's
//! limit and kept under way together.

use crate::{
    BlockRange, Command, Completion, DiscoveredSubsystem, Error, Failure, Identity, Initiator, Namespace,
    Notice, OWNER, Options, PathReport, Request, State, SubmitError, SubsystemId,
    discovery::MAX_RECORDS,
    identity::{DISCOVERY_ENTRY_BYTES, active_namespaces, discovery_entries, discovery_header},
    load::Load,
};
use dolmen_io::{Buf, Event, Io, Poller, PoolConfig, Tag, Turn, Wait};
use dolmen_nvme::spec::{Cns, IdentifyCommand, LogId};
use dolmen_types::Nanos;
use std::{fmt, ops::Range};

mod reservations;

/// Spins this long after work before it sleeps. Nanoseconds.
const SPIN_NS: u64 = 50_000;
/// How long one call may take unless [`Session::set_timeout_ms`] says otherwise. Milliseconds.
const TIMEOUT_MS: u64 = 60_000;
/// A load is looked at this often although nothing completes. Milliseconds.
const LOOK_MS: u64 = 100;
/// Commands that one call keeps under way.
const WINDOW: usize = 16;
/// Attempts to read a discovery log that changes meanwhile.
const DISCOVERY_TRIES: u32 = 5;
/// All namespaces, or the controller as a whole.
const ALL: u32 = 0xffff_ffff;
/// Tickets of single commands, out of the way of a load's.
const SINGLE: u64 = u64::MAX;

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionError {
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
    /// The discovery log changed each time it was read.
    Unsettled,
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SessionError::Connect(e) | SessionError::Malformed(e) => fmt::Display::fmt(e, f),
            SessionError::Command(e) => fmt::Display::fmt(e, f),
            SessionError::Submit(e) => fmt::Display::fmt(e, f),
            SessionError::Memory => f.write_str("no buffer left in the pool"),
            SessionError::Length => f.write_str("the length is not a multiple of the namespace's block size"),
            SessionError::Unsettled => {
                f.write_str("the discovery log kept changing while it was read; try again")
            }
        }
    }
}

impl std::error::Error for SessionError {}

type Result<T> = std::result::Result<T, SessionError>;

/// A session with one subsystem.
pub struct Session {
    io: Io,
    initiator: Initiator,
    subsystem: SubsystemId,
    poller: Poller,
    timeout_ms: u64,
    worked: bool,
    events: Vec<(Tag, Event)>,
    completions: Vec<Completion>,
    notices: Vec<Notice>,
}

impl Session {
    /// Connects, and waits until commands flow. A first attempt that fails ends this call; later losses of the
    /// connection are mended as [`Options`] say.
    ///
    /// # Errors
    /// [`SessionError::Connect`].
    pub fn connect(mut io: Io, options: Options) -> Result<Session> {
        let mut initiator = Initiator::new(OWNER);
        let paths = 1 + options.paths.len();
        let subsystem = initiator.connect(&mut io, options).map_err(SessionError::Connect)?;
        let mut session = Session {
            io,
            initiator,
            subsystem,
            poller: Poller::new(SPIN_NS),
            timeout_ms: TIMEOUT_MS,
            worked: true,
            events: Vec::new(),
            completions: Vec::new(),
            notices: Vec::new(),
        };
        // Every step of the bring-up has its own timeout, so this ends: with one path that is live, or all that failed.
        let mut failed = Vec::new();
        while !matches!(session.state(), State::Live { .. }) {
            session.turn();
            for notice in session.notices.drain(..) {
                match notice {
                    Notice::PathLost { path, error, .. } | Notice::PathGivenUp { path, error, .. } => {
                        failed.retain(|(other, _)| *other != path);
                        failed.push((path, error));
                    }
                    Notice::State { state: State::Lost(error), .. } => {
                        return Err(SessionError::Connect(error));
                    }
                    _ => {}
                }
            }
            if failed.len() == paths
                && let Some((_, error)) = failed.pop()
            {
                return Err(SessionError::Connect(error));
            }
        }
        Ok(session)
    }

    /// Sets how long one call may take.
    pub fn set_timeout_ms(&mut self, timeout_ms: u64) {
        self.timeout_ms = timeout_ms;
    }

    /// Sets for how long the loop spins after the last work before it sleeps: 0 never, `u64::MAX` always. Nanoseconds.
    pub fn set_spin_ns(&mut self, spin_ns: u64) {
        self.poller = Poller::new(spin_ns);
    }

    /// How the subsystem stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.initiator.state(self.subsystem)
    }

    /// What the controller said of itself.
    ///
    /// # Panics
    /// Never: a session exists only once its controller was live.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        self.initiator.identity(self.subsystem).expect("a session's controller was live")
    }

    /// The subsystem, for a [`Load`].
    #[must_use]
    pub fn subsystem(&self) -> SubsystemId {
        self.subsystem
    }

    /// How its paths stand, and what happened on them.
    #[must_use]
    pub fn paths(&self) -> Vec<PathReport> {
        self.initiator.paths(self.subsystem)
    }

    /// State changes, losses and events since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// The session's clock.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.io.now()
    }

    /// The loop's access to the world, for buffers.
    pub fn io(&mut self) -> &mut Io {
        &mut self.io
    }

    /// Reads the discovery log of a discovery controller: a consistent one, whole.
    ///
    /// # Errors
    /// [`SessionError::Unsettled`] when it changes each time, or what the commands answer.
    pub fn discover(&mut self) -> Result<Vec<DiscoveredSubsystem>> {
        for _ in 0..DISCOVERY_TRIES {
            let (generation, records) = self.discovery_head(true)?;
            let mut found = Vec::new();
            let end = (1 + records) * DISCOVERY_ENTRY_BYTES as u64;
            let mut at = DISCOVERY_ENTRY_BYTES as u64;
            while at < end {
                let left = usize::try_from(end - at).unwrap_or(usize::MAX);
                let chunk = 16 * DISCOVERY_ENTRY_BYTES;
                let buf = self.log(LogId::DISCOVERY, at, left.min(chunk), true)?;
                discovery_entries(&buf, &mut found);
                at += buf.len() as u64;
            }
            if self.discovery_head(false)? == (generation, records) {
                return Ok(found);
            }
        }
        Err(SessionError::Unsettled)
    }

    fn discovery_head(&mut self, retain_event: bool) -> Result<(u64, u64)> {
        let buf = self.log(LogId::DISCOVERY, 0, DISCOVERY_ENTRY_BYTES, retain_event)?;
        let (generation, records) = discovery_header(&buf).unwrap_or((0, 0));
        Ok((generation, records.min(MAX_RECORDS)))
    }

    fn log(&mut self, page: LogId, offset: u64, bytes: usize, retain_event: bool) -> Result<Buf> {
        let buf = self.buffer(bytes)?;
        self.data(Command::GetLog { page, nsid: ALL, offset, retain_event, buf })
    }

    /// The first bytes of a log page. `bytes` is a multiple of 4.
    ///
    /// # Errors
    /// What the command answers.
    pub fn log_page(&mut self, page: LogId, bytes: usize) -> Result<Buf> {
        self.log(page, 0, bytes, false)
    }

    /// One page of Identify, 4096 bytes.
    ///
    /// # Errors
    /// What the command answers.
    pub fn identify(&mut self, cns: Cns, nsid: u32) -> Result<Buf> {
        let buf = self.buffer(IdentifyCommand::DATA_BYTES)?;
        self.data(Command::Identify { cns, nsid, buf })
    }

    /// NSIDs of all namespaces that we may see, ascending.
    ///
    /// # Errors
    /// What the command answers; [`SessionError::Malformed`] for more than 65,536.
    pub fn namespaces(&mut self) -> Result<Vec<u32>> {
        let mut all: Vec<u32> = Vec::new();
        loop {
            let page = self.identify(Cns::ACTIVE_NAMESPACES, all.last().copied().unwrap_or(0))?;
            if active_namespaces(&page, &mut all).map_err(SessionError::Malformed)? {
                return Ok(all);
            }
        }
    }

    /// One namespace.
    ///
    /// # Errors
    /// What the commands answer, or [`SessionError::Malformed`].
    pub fn namespace(&mut self, nsid: u32) -> Result<Namespace> {
        let page = self.identify(Cns::NAMESPACE, nsid)?;
        let descriptors = self.identify(Cns::NAMESPACE_DESCRIPTORS, nsid)?;
        Namespace::parse(nsid, &page, &descriptors).map_err(SessionError::Malformed)
    }

    /// Reads from block `lba` on, as many whole blocks as `out` holds.
    ///
    /// # Errors
    /// What the commands answer, [`SessionError::Length`].
    pub fn read(&mut self, ns: &Namespace, lba: u64, out: &mut [u8]) -> Result<()> {
        let nsid = ns.nsid;
        let length = out.len();
        self.transfer(
            ns,
            lba,
            length,
            |buf, _, lba, blocks| Command::Read { nsid, lba, blocks, buf },
            |buf, range| {
                out[range].copy_from_slice(buf);
            },
        )
    }

    /// Writes whole blocks from block `lba` on.
    ///
    /// # Errors
    /// What the commands answer, [`SessionError::Length`].
    pub fn write(&mut self, ns: &Namespace, lba: u64, data: &[u8]) -> Result<()> {
        let nsid = ns.nsid;
        let make = |mut buf: Buf, range: Range<usize>, lba, blocks| {
            buf.copy_from_slice(&data[range]);
            Command::Write { nsid, lba, blocks, buf, fua: false }
        };
        self.transfer(ns, lba, data.len(), make, |_, _| {})
    }

    /// Compares what is stored from block `lba` on with `data`.
    ///
    /// # Errors
    /// [`Failure::Status`] with Compare Failure when they differ; what the commands answer; [`SessionError::Length`].
    pub fn compare(&mut self, ns: &Namespace, lba: u64, data: &[u8]) -> Result<()> {
        let nsid = ns.nsid;
        let make = |mut buf: Buf, range: Range<usize>, lba, blocks| {
            buf.copy_from_slice(&data[range]);
            Command::Compare { nsid, lba, blocks, buf }
        };
        self.transfer(ns, lba, data.len(), make, |_, _| {})
    }

    /// Makes completed writes durable.
    ///
    /// # Errors
    /// What the command answers.
    pub fn flush(&mut self, ns: &Namespace) -> Result<()> {
        self.execute(Command::Flush { nsid: ns.nsid }).map(|_| ())
    }

    /// Trims up to 256 ranges in one command.
    ///
    /// # Errors
    /// What the command answers.
    pub fn trim(&mut self, ns: &Namespace, ranges: &[BlockRange]) -> Result<()> {
        self.execute(Command::Deallocate { nsid: ns.nsid, ranges: ranges.into() }).map(|_| ())
    }

    /// Makes up to 65,536 blocks read as zeroes, giving their space back.
    ///
    /// # Errors
    /// What the command answers.
    pub fn write_zeroes(&mut self, ns: &Namespace, lba: u64, blocks: u32) -> Result<()> {
        self.execute(Command::WriteZeroes { nsid: ns.nsid, lba, blocks, deallocate: true }).map(|_| ())
    }

    /// One command of any kind, to its end.
    ///
    /// # Errors
    /// [`SessionError::Submit`] if it was not taken, [`SessionError::Command`] if it failed.
    pub fn execute(&mut self, command: Command) -> Result<Completion> {
        let deadline = self.io.now().plus_ms(self.timeout_ms);
        let request = Request { ticket: SINGLE, deadline, queue: None, command };
        let submitted = self.initiator.submit(&mut self.io, self.subsystem, request);
        submitted.map_err(|(_, e)| SessionError::Submit(e))?;
        loop {
            self.turn();
            if let Some(at) = self.completions.iter().position(|c| c.ticket == SINGLE) {
                let completion = self.completions.swap_remove(at);
                completion.result.map_err(SessionError::Command)?;
                return Ok(completion);
            }
        }
    }

    /// Runs a load until it is done or `each_turn` says stop, which then waits for what is under way. `each_turn` is called
    /// at least ten times a second, even if nothing completes.
    pub fn run(&mut self, load: &mut Load, mut each_turn: impl FnMut(&mut Load, Nanos) -> bool) {
        loop {
            self.turn_load(load);
            if !each_turn(load, self.io.now()) {
                load.stop();
            }
            if load.is_done() {
                return;
            }
        }
    }

    /// One turn of a load, for those who look after the session meanwhile too; a tenth of a second at most.
    pub fn turn_load(&mut self, load: &mut Load) {
        load.step(&mut self.io, &mut self.initiator);
        let look = self.io.now().plus_ms(LOOK_MS);
        self.turn_until(load.wake_at().map_or(look, |at| at.min(look)));
        for completion in self.completions.drain(..) {
            if load.owns(&completion) {
                load.on_completion(completion);
            }
        }
    }

    /// Says good-bye to the controller; the loop comes back for other uses.
    pub fn disconnect(mut self) -> Io {
        self.initiator.disconnect(&mut self.io, self.subsystem);
        while self.state() != State::Closed {
            self.turn();
        }
        self.initiator.step(&mut self.io);
        self.io.submit();
        self.io
    }

    fn buffer(&mut self, bytes: usize) -> Result<Buf> {
        self.io.alloc(bytes).ok_or(SessionError::Memory)
    }

    fn data(&mut self, command: Command) -> Result<Buf> {
        self.execute(command)?.buf.ok_or(SessionError::Memory)
    }

    /// Moves `length` bytes from block `lba` on, in pieces, several at a time.
    fn transfer(
        &mut self,
        ns: &Namespace,
        lba: u64,
        length: usize,
        mut make: impl FnMut(Buf, Range<usize>, u64, u32) -> Command,
        mut done: impl FnMut(&Buf, Range<usize>),
    ) -> Result<()> {
        let block = usize::try_from(ns.block_bytes).expect("a block is at most 64 KiB");
        if !length.is_multiple_of(block) {
            return Err(SessionError::Length);
        }
        let limit = usize::try_from(self.identity().max_transfer_bytes).unwrap_or(usize::MAX);
        let piece = (limit.min(PoolConfig::LARGE_BYTES) / block).clamp(1, 65_536) * block;
        let deadline = self.io.now().plus_ms(self.timeout_ms);
        let (mut next, mut under_way, mut outcome) = (0, 0, Ok(()));
        while under_way > 0 || (next < length && outcome.is_ok()) {
            while under_way < WINDOW && next < length && outcome.is_ok() {
                let range = next..length.min(next + piece);
                let Some(buf) = self.io.alloc(range.len()) else { break };
                let at = lba.saturating_add((range.start / block) as u64);
                let blocks = u32::try_from(range.len() / block).expect("at most 65,536");
                let command = make(buf, range.clone(), at, blocks);
                let request = Request { ticket: range.start as u64, deadline, queue: None, command };
                match self.initiator.submit(&mut self.io, self.subsystem, request) {
                    Ok(()) => under_way += 1,
                    Err((_, error)) => outcome = Err(SessionError::Submit(error)),
                }
                next = range.end;
            }
            if under_way == 0 {
                return outcome.and(Err(SessionError::Memory));
            }
            self.turn();
            for completion in std::mem::take(&mut self.completions) {
                under_way -= 1;
                match (completion.result, &completion.buf) {
                    (Err(failure), _) => outcome = outcome.and(Err(SessionError::Command(failure))),
                    (Ok(_), Some(buf)) => {
                        let start = usize::try_from(completion.ticket).expect("an offset of ours");
                        done(buf, start..start + buf.len());
                    }
                    (Ok(_), None) => {}
                }
            }
        }
        outcome
    }

    /// One turn of the loop.
    fn turn(&mut self) {
        self.turn_until(Nanos(u64::MAX));
    }

    /// One turn that ends at `at` at the latest.
    fn turn_until(&mut self, at: Nanos) {
        self.initiator.step(&mut self.io);
        let turn = if self.worked { Turn::Worked } else { Turn::Idle };
        let wait = match self.poller.wait(self.io.now(), turn) {
            Wait::Forever if at.0 < u64::MAX => Wait::Until(at),
            wait => wait,
        };
        self.io.poll(wait, &mut self.events);
        self.worked = !self.events.is_empty();
        for (tag, event) in self.events.drain(..) {
            self.initiator.on_event(&mut self.io, tag.key, event);
        }
        self.initiator.drain(&mut self.completions);
        self.initiator.drain_notices(&mut self.notices);
    }
}
