//! One subsystem: the commands that callers gave us for it, and the paths that carry them.
//!
//! ```text
//!   submit -> slot -> choice of a path -> its lane -> its queue -> answered -> completion
//!               ^         ^        |                       |
//!               |         |        +-> shelter: no path can be used now
//!               |         +--- path lost, ANA says elsewhere: sent again ---+
//!               +------- parked for a while: "ask again later" (CRD), blocks that are fenced
//! ```
//!
//! Commands belong to the subsystem, not to a connection; a [`Path`](crate::path::Path) knows nothing of callers. Each path is
//! an association with a controller of its own (`route.rs`); which one a command takes is decided once, when it is put
//! into a lane (`choice.rs`). ANA logs and the identity of namespaces are read by ourselves (`follow.rs`).
//!
//! Promises, over all paths: every command that was taken ends in exactly one completion, at the latest at its deadline or
//! when the subsystem is given up; a command that may not be carried out twice is never sent twice; a change whose
//! answer was lost with a path does not overwrite what was written after it on another one (`fence.rs`); a command for a
//! namespace goes only where that namespace was seen to be the same (`agreed.rs`), and waits as long as that is only away.

use crate::{
    Completion, Error, ErrorKind, Failure, Identity, Notice, Options, PathOptions, PathReport,
    PathStatistics, Request, State, SubmitError, SubsystemId,
    command::{Command, Lane},
    options::{ADMIN_ENTRIES, ENDLESS_FENCES, SAME_ADDRESS},
    path::Answer,
    slots::{Origin, Payload, Place, Reply, SlotId, Slots},
};
use dolmen_io::{Buf, Event, Io, Owner};
use dolmen_nvme::spec::{NvmOpcode, ReadWrite, Status};
use dolmen_types::Nanos;
use std::collections::VecDeque;

mod agreed;
pub(crate) mod choice;
pub(crate) mod fence;
mod follow;
mod judge;
mod pairs;
mod pieces;
mod recovery;
mod route;

use agreed::Agreed;
use choice::{Choices, MAX_PATHS, Policy, Standing};
use fence::{Fences, Fencing, Span};
use follow::number;
use pieces::Pieces;
use route::{Life, Route};

/// Slots kept for our own commands on each path: one Connect per I/O queue, and as many as the admin queue takes.
const OWN_SLOTS: usize = 8;
/// Pause before the next attempt when the pool was empty. Milliseconds.
const MEMORY_RETRY_MS: u64 = 1;
/// Why a slot is always free.
const ROOM: &str = "there are more slots than commands of callers";
/// The namespace id that means all of them.
const ALL: u32 = u32::MAX;

/// What the path needs of its subsystem.
pub(crate) struct Shared {
    pub(crate) id: SubsystemId,
    pub(crate) owner: Owner,
    pub(crate) options: Options,
    pub(crate) slots: Slots,
    /// Pairs that came to a queue which can never take them.
    pub(crate) refused: Vec<SlotId>,
}

/// What a subsystem hands to its caller.
#[derive(Default)]
pub(crate) struct Out {
    pub(crate) completions: Vec<Completion>,
    pub(crate) notices: Vec<Notice>,
}

/// One subsystem and everything under way for it.
pub(crate) struct Subsystem {
    shared: Shared,
    routes: Vec<Route>,
    choices: Choices,
    /// One path, with everything behind it reached well: commands go there without a choice.
    plain: bool,
    /// What the paths agree on about namespaces.
    agreed: Agreed,
    /// The path that was live alone before others came, as long as that association lasts: commands have gone to what it leads to.
    first: Option<usize>,
    /// A namespace's identity is to be asked for somewhere.
    unchecked: bool,
    /// Commands for which no path can be used now.
    shelter: VecDeque<SlotId>,
    fences: Fences,
    pieces: Pieces,
    /// Changes that were answered as expired and may still be carried out by a path that is ending, with its number.
    expired: Vec<(u8, Span)>,
    /// Commands of callers that have not been completed.
    callers: usize,
    /// Commands that are answered but whose payload is still lent to a send.
    lent: Vec<(SlotId, Result<u64, Failure>)>,
    answers: Vec<Answer>,
    /// Something happened since the last [`Subsystem::step`]: there may be something to send.
    stirred: bool,
    /// Why the controller that is being heard is to be reset.
    to_reset: Option<Error>,
    state: State,
    /// Since when no path has had an association that was any good.
    down_since: Nanos,
    /// No path has been there for longer than `fast_fail_ms`: commands fail at once.
    failing: bool,
    /// When [`Subsystem::tick`] is due.
    wake_at: Nanos,
}

impl Subsystem {
    /// A subsystem that starts to connect in the next [`Subsystem::tick`].
    pub(crate) fn new(id: SubsystemId, owner: Owner, options: Options, now: Nanos) -> Subsystem {
        let queues = usize::from(options.io_queues);
        let first = PathOptions { addr: options.addr, preference: options.preference };
        let paths = std::iter::once(first).chain(options.paths.iter().copied());
        let routes: Vec<Route> = (0..)
            .zip(paths)
            .map(|(number, path)| Route::new(number, (path.addr, path.preference), queues, now))
            .collect();
        let slots = Slots::new(options.capacity() + routes.len() * slots_per_path(&options));
        Subsystem {
            plain: routes.len() == 1,
            routes,
            shared: Shared { id, owner, options, slots, refused: Vec::new() },
            choices: Choices::new(),
            agreed: Agreed::default(),
            first: None,
            unchecked: false,
            shelter: VecDeque::new(),
            fences: Fences::default(),
            pieces: Pieces::default(),
            expired: Vec::new(),
            callers: 0,
            lent: Vec::new(),
            answers: Vec::new(),
            stirred: true,
            to_reset: None,
            state: State::Connecting,
            down_since: now,
            failing: false,
            wake_at: now,
        }
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// What the first live controller said of itself, or the last one that was live; with the least transfer limit of all that are
    /// live.
    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.pieces.identity()
    }

    pub(crate) fn reports(&self) -> Vec<PathReport> {
        (0..).zip(&self.routes).map(|(number, route)| route.report(number)).collect()
    }

    pub(crate) fn statistics(&self, path: u8) -> Option<&PathStatistics> {
        self.routes.get(usize::from(path)).map(|route| &route.statistics)
    }

    /// Adds a path; it connects in the next [`Subsystem::tick`].
    pub(crate) fn add_path(&mut self, path: PathOptions, now: Nanos) -> Result<u8, Error> {
        let wrong = |what: &str| Err(Error::new(ErrorKind::Options, format!("{}: {what}", path.addr)));
        if matches!(self.state, State::Lost(_) | State::Closing | State::Closed) {
            return wrong("the subsystem is given up or disconnected");
        }
        if self.shared.options.has_endless_fences(2) {
            return wrong(ENDLESS_FENCES);
        }
        // One that was given up may be tried anew.
        if self.routes.iter().any(|r| !r.is_given_up() && r.addr() == path.addr) {
            return wrong(SAME_ADDRESS);
        }
        // What is known of a path that was given up is kept as long as there is room.
        let full = self.routes.len() >= MAX_PATHS;
        let removed = self.routes.iter().position(|r| r.life == Life::Removed);
        let used = removed.or_else(|| self.routes.iter().position(|r| full && r.is_given_up()));
        if used.is_none() && full {
            return wrong("a subsystem has at most 32 paths");
        }
        let at = used.unwrap_or(self.routes.len());
        let queues = usize::from(self.shared.options.io_queues);
        let route = Route::new(number(at), (path.addr, path.preference), queues, now);
        // What waits for the only path to come back need not any more.
        let alone = self.routes.len() == 1;
        let is_away = self.routes[0].life != Life::Live;
        let waiting = if alone && is_away { self.routes[0].empty() } else { Vec::new() };
        if alone && !is_away {
            self.first = Some(0);
        }
        if at == self.routes.len() {
            self.shared.slots.grow(slots_per_path(&self.shared.options));
            self.routes.push(route);
        } else {
            // Events of the association that the place had before are told apart by its generation.
            self.agreed.forget_path(number(at));
            self.routes[at].take_over(route);
        }
        self.reroute();
        self.enqueue_again(waiting);
        (self.wake_at, self.stirred) = (now, true);
        Ok(number(at))
    }

    /// When [`Subsystem::tick`] wants to be called.
    pub(crate) fn wake_at(&self) -> Nanos {
        self.wake_at
    }

    /// True when nothing is left of it: it may be forgotten.
    pub(crate) fn is_over(&self) -> bool {
        self.state == State::Closed && self.lent.is_empty()
    }

    /// Takes a command.
    pub(crate) fn submit(&mut self, io: &mut Io, request: Request) -> Result<(), (Request, SubmitError)> {
        if let Err(e) = self.admissible(&request.command) {
            return Err((request, e));
        }
        let now = io.now();
        let Request { ticket, deadline, queue, command } = request;
        let origin = Origin::Caller { ticket, queue };
        let slots = &mut self.shared.slots;
        let times = (deadline, now);
        let rw = |start, blocks, fua| ReadWrite { start, blocks, fua, ..ReadWrite::default() };
        let id = match command {
            Command::Read { nsid, lba, blocks, buf } => {
                let what = (NvmOpcode::READ, nsid, rw(lba, blocks, false));
                slots.insert_block(what, Payload::In(buf), origin, times).expect(ROOM)
            }
            Command::Write { nsid, lba, blocks, buf, fua } => {
                let what = (NvmOpcode::WRITE, nsid, rw(lba, blocks, fua));
                slots.insert_block(what, Payload::Out(buf), origin, times).expect(ROOM)
            }
            Command::Compare { nsid, lba, blocks, buf } => {
                let what = (NvmOpcode::COMPARE, nsid, rw(lba, blocks, false));
                slots.insert_block(what, Payload::Out(buf), origin, times).expect(ROOM)
            }
            command => match self.insert(io, command, origin, times) {
                Ok(id) => id,
                Err(command) => {
                    return Err((Request { ticket, deadline, queue, command }, SubmitError::Memory));
                }
            },
        };
        self.callers += 1;
        // Sent or not by then: `look` sees to what is left of its time.
        let look_at = now.plus_ms(self.shared.options.io_timeout_ms);
        self.wake_at = self.wake_at.min(deadline).min(look_at);
        self.stirred = true;
        self.enqueue(id);
        Ok(())
    }

    /// Gives a command slots that has a form of its own; back when there is no buffer for its ranges.
    fn insert(
        &mut self,
        io: &Io,
        command: Command,
        origin: Origin,
        (deadline, now): (Nanos, Nanos),
    ) -> Result<SlotId, Command> {
        let list = match &command {
            Command::Deallocate { .. } => match io.alloc(command.data_bytes()) {
                Some(buf) => Some(buf),
                None => return Err(command),
            },
            _ => None,
        };
        let (job, second) = command.into_jobs(list);
        let id = self.shared.slots.insert(job, origin, deadline, now).expect(ROOM);
        if let Some(second) = second {
            let origin = Origin::Second { first: id };
            self.shared.slots.insert(second, origin, Nanos(u64::MAX), now).expect(ROOM);
            self.callers += 1;
        }
        Ok(id)
    }

    fn admissible(&self, command: &Command) -> Result<(), SubmitError> {
        if matches!(self.state, State::Lost(_) | State::Closing | State::Closed) {
            return Err(SubmitError::Gone);
        }
        if self.failing {
            return Err(SubmitError::Down);
        }
        let fused = matches!(command, Command::CompareAndWrite { .. });
        if self.callers + usize::from(fused) >= self.shared.options.capacity() {
            return Err(SubmitError::Full);
        }
        if fused && self.shared.options.queue_depth < 2 {
            return Err(SubmitError::Invalid);
        }
        if !command.is_valid() {
            return Err(SubmitError::Invalid);
        }
        if command.lane() == Lane::Io && self.shared.options.is_discovery() {
            return Err(SubmitError::NoQueues);
        }
        if self.pieces.is_too_large(command.data_bytes()) { Err(SubmitError::TooLarge) } else { Ok(()) }
    }

    /// Puts a command on its way: into a lane of the path that it takes, or to where it waits.
    fn enqueue(&mut self, id: SlotId) {
        let fenced = self.keeps_fences();
        let slot = self.shared.slots.get_mut(id);
        slot.place = Place::Waiting;
        if fenced
            && let Some(span) = slot.span()
            && let Some(until) = self.fences.holds(&span, id)
        {
            slot.place = Place::Parked { until };
            self.wake_at = self.wake_at.min(until);
            return;
        }
        let (lane, fused) = (slot.lane, slot.is_fused());
        if self.pieces.is_long(slot.payload.len()) && self.can_be_cut(id) {
            return self.park_for_cutting(id);
        }
        let Some(at) = self.choose(id) else {
            if self.leads_nowhere(id) {
                self.wake_at = Nanos(0);
            }
            return self.shelter.push_back(id);
        };
        let route = &mut self.routes[at];
        match lane {
            Lane::Admin => route.admin.push_back(id),
            Lane::Io => route.push(&self.shared.slots, id),
        }
        if fused && let Some(second) = self.partner(id) {
            self.shared.slots.get_mut(second).place = Place::Waiting;
            self.routes[at].push_behind(id, second);
        }
    }

    /// The path that a command takes; `None` when none can be used now.
    fn choose(&mut self, id: SlotId) -> Option<usize> {
        if self.plain {
            return Some(0);
        }
        let slot = self.shared.slots.get(id);
        // What concerns the controller or all namespaces goes wherever something goes.
        let nsid = match (slot.lane, slot.sqe.nsid.get()) {
            (Lane::Admin, _) => ALL,
            (Lane::Io, nsid) => nsid,
        };
        let mask = match self.choices.known(nsid) {
            Some(mask) => mask,
            None => self.work_out(nsid),
        };
        if mask == 0 {
            return None;
        }
        let routes = &self.routes;
        Some(self.choices.pick(self.shared.options.policy, mask, |at| routes[at].load()))
    }

    /// The best paths to a namespace, as bits.
    fn work_out(&mut self, nsid: u32) -> u32 {
        let policy = if nsid == ALL { Policy::ActivePassive } else { self.shared.options.policy };
        let standings = self.standings(nsid);
        let mask = choice::best(policy, &standings[..self.routes.len()]);
        self.choices.keep(nsid, mask);
        mask
    }

    /// How each path stands to a namespace, with its preference.
    fn standings(&mut self, nsid: u32) -> [(Standing, u8); MAX_PATHS] {
        let alone = self.routes.len() == 1;
        let mut standings = [(Standing::Never, u8::MAX); MAX_PATHS];
        for (standing, route) in standings.iter_mut().zip(&mut self.routes) {
            *standing = (route.standing(nsid, alone), route.preference);
        }
        self.unchecked |= !alone;
        standings
    }

    /// An event of one of a path's sockets; `queue` 0 is the admin queue.
    pub(crate) fn on_event(
        &mut self,
        io: &mut Io,
        at: usize,
        queue: (u16, u16),
        event: Event,
        out: &mut Out,
    ) {
        let Some(route) = self.routes.get_mut(at) else { return };
        self.stirred = true;
        let mut answers = std::mem::take(&mut self.answers);
        let mut result = route.path.on_event(io, &mut self.shared, queue, event, &mut answers);
        let now = io.now();
        for answer in answers.drain(..) {
            if let Answer::Command(id) = answer
                && self.complete(at, id, now, out)
            {
                continue;
            }
            let outcome = self.answered(io, at, answer, out);
            result = result.and(outcome);
        }
        self.answers = answers;
        self.after(io, at, result, out);
        if let Some(why) = self.to_reset.take() {
            self.reset(io, at, why, out);
        }
        if !self.lent.is_empty() {
            self.settle_lent(io.now(), out);
        }
    }

    /// Looks at what a path did: it may have become live, or lost.
    fn after(&mut self, io: &mut Io, at: usize, result: Result<(), Error>, out: &mut Out) {
        if let Err(error) = result {
            self.path_lost(io, at, &error, out);
        } else if self.routes[at].path.is_live() && self.routes[at].life == Life::Connecting {
            self.path_live(at, io.now(), out);
        }
        self.wake_at = self.wake_at.min(self.routes[at].path.wake_at());
    }

    fn path_live(&mut self, at: usize, now: Nanos, out: &mut Out) {
        let route = &mut self.routes[at];
        route.goes_live(now);
        let queues = u16::try_from(route.path.io_queues()).expect("at most 128 queues were asked for");
        self.failing = false;
        self.measure();
        self.reroute();
        out.notices.push(Notice::PathLive { subsystem: self.shared.id, path: number(at) });
        if self.state == State::Connecting {
            self.set_state(State::Live { queues }, out);
        }
    }

    fn set_state(&mut self, state: State, out: &mut Out) {
        if self.state != state {
            self.state = state.clone();
            out.notices.push(Notice::State { subsystem: self.shared.id, state });
        }
    }

    /// A path heard something that is not its own affair.
    fn answered(&mut self, io: &mut Io, at: usize, answer: Answer, out: &mut Out) -> Result<(), Error> {
        match answer {
            Answer::Command(id) if self.shared.slots.get(id).is_fused() => {
                self.half_answered(at, id, io.now(), out);
            }
            Answer::Command(id) => self.judge(at, id, io.now(), out),
            Answer::Event(event) => self.event(io, at, event, out),
            Answer::ShutDown => self.wake_at = io.now(),
            Answer::Page(origin, page) => return self.page(io, at, (origin, page), out),
            // Not before everything else that was heard is taken.
            Answer::QueueEnded(why) => self.to_reset = Some(why),
            Answer::Abort { victim, sent, aborted } => {
                if self.abort_answered(at, (victim, sent), aborted) {
                    self.to_reset = Some(self.unanswered(at));
                }
            }
        }
        Ok(())
    }

    /// Completes a caller's command that ended as nearly all do: well, as a whole, and on its own. False: nothing is done, and
    /// [`Subsystem::judge`] has to look at it.
    #[inline]
    fn complete(&mut self, at: usize, id: SlotId, now: Nanos, out: &mut Out) -> bool {
        let slot = self.shared.slots.get_mut(id);
        let Reply { cqe, received, intact } = slot.reply;
        let (Origin::Caller { ticket, .. }, Place::Sent(under)) = (slot.origin, slot.place) else {
            return false;
        };
        let others = !self.fences.is_empty() || !self.pieces.is_empty();
        if !intact || !cqe.status().is_success() || slot.is_fused() || others {
            return false;
        }
        let bytes = slot.payload.len();
        let buf = match std::mem::replace(&mut slot.payload, Payload::None) {
            Payload::None => None,
            Payload::In(buf) if usize::try_from(received) == Ok(bytes) => Some(buf),
            Payload::Out(buf) => Some(buf),
            other => {
                slot.payload = other;
                return false;
            }
        };
        let (opcode, sent) = (slot.sqe.opcode, slot.sent);
        self.routes[at].note((under, opcode), bytes, (sent, now), true);
        let queue = under.queue.saturating_sub(1);
        self.hand_over(id, (ticket, queue), (Ok(cqe.result()), buf), now, out);
        true
    }

    /// Completes a command of a caller, now or when its payload comes back from the send that it is lent to.
    fn finish(&mut self, id: SlotId, result: Result<u64, Failure>, now: Nanos, out: &mut Out) {
        if self.shared.slots.get(id).is_fused() {
            self.join(id);
        }
        if !self.fences.is_empty() {
            self.fences.disown(id);
        }
        self.make_whole(id);
        let slot = self.shared.slots.get_mut(id);
        let Origin::Caller { ticket, .. } = slot.origin else {
            self.shared.slots.remove(id);
            return;
        };
        let queue = match slot.place {
            Place::Sent(under) => under.queue.saturating_sub(1),
            _ => 0,
        };
        let buf = match std::mem::replace(&mut slot.payload, Payload::None) {
            Payload::None => None,
            Payload::In(buf) | Payload::Out(buf) => Some(buf),
            Payload::Shared(slice) => match slice.try_into_buf() {
                Ok(buf) => Some(buf),
                Err(slice) => {
                    (slot.payload, slot.place) = (Payload::Shared(slice), Place::Lent);
                    self.lent.push((id, result));
                    return;
                }
            },
        };
        self.hand_over(id, (ticket, queue), (result, buf), now, out);
    }

    /// A command's completion goes to its caller, and its slot back.
    #[inline(always)]
    fn hand_over(
        &mut self,
        id: SlotId,
        (ticket, queue): (u64, u16),
        (result, buf): (Result<u64, Failure>, Option<Buf>),
        now: Nanos,
        out: &mut Out,
    ) {
        let (subsystem, submitted) = (self.shared.id, self.shared.slots.get(id).submitted);
        out.completions.push(Completion { ticket, subsystem, queue, result, buf, submitted, completed: now });
        self.shared.slots.remove(id);
        self.callers -= 1;
    }

    fn settle_lent(&mut self, now: Nanos, out: &mut Out) {
        let mut lent = std::mem::take(&mut self.lent);
        for (id, result) in lent.drain(..) {
            self.finish(id, result, now, out);
        }
        lent.append(&mut self.lent);
        self.lent = lent;
    }

    /// Sends what can be sent. Once per turn.
    pub(crate) fn step(&mut self, io: &mut Io, out: &mut Out) {
        if !std::mem::take(&mut self.stirred) {
            return;
        }
        let now = io.now();
        self.ask(io);
        let mut starved = false;
        for route in &mut self.routes {
            starved |= route.pump(io, &mut self.shared);
        }
        while let Some(pair) = self.shared.refused.pop() {
            self.finish(pair, Err(Failure::Status(Status::ABORTED_MISSING_FUSED.with_dnr())), now, out);
        }
        if starved {
            self.wake_at = self.wake_at.min(now.plus_ms(MEMORY_RETRY_MS));
        }
    }
}

/// Slots that a path needs beyond those of the callers' commands: an abandoned command keeps its slot as long as its
/// identifier and is no longer counted as its caller's; and our own.
fn slots_per_path(options: &Options) -> usize {
    let queues = usize::from(options.io_queues);
    queues * usize::from(options.queue_depth) + usize::from(ADMIN_ENTRIES) + queues + OWN_SLOTS
}
