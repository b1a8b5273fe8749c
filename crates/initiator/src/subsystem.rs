//! One subsystem: the commands that callers gave us for it, and the path that carries them.
//!
//! ```text
//!   submit -> slot, lane -> path's queue -> answered -> completion
//!               ^   ^--- parked for a while: "ask again later" (CRD, ANA) ---+
//!               +------- path lost: sent again when it is back --------------+
//! ```
//!
//! Commands belong to the subsystem, not to a connection; the [`Path`] below knows nothing of callers. Several paths
//! would sit side by side here, with a choice between them where lanes are filled.
//!
//! Promises: every command that was taken ends in exactly one completion, at the latest at its deadline or when the
//! subsystem is given up; a command that may not be carried out twice is never sent twice.

use crate::{
    Completion, Error, Failure, Identity, Notice, Options, Request, State, SubmitError, SubsystemId,
    command::{Command, Lane, Resend},
    options::ADMIN_ENTRIES,
    path::{Answer, Path},
    slots::{Origin, Payload, Place, Reply, SlotId, Slots},
};
use dolmen_io::{Event, Io, Owner};
use dolmen_nvme::spec::{AsyncEvent, Status};
use dolmen_types::Nanos;
use std::collections::VecDeque;

mod recovery;

/// Slots kept for our own commands: one Connect per I/O queue, bring-up, keep-alive, event request, shutdown.
const OWN_SLOTS: usize = 8;
/// Pause before a command is sent again whose status says "not now" without saying when. Milliseconds.
const RETRY_MS: u64 = 100;
/// Unit of CRDT. Milliseconds.
const RETRY_UNIT_MS: u64 = 100;
/// Pause before the next attempt when the pool was empty. Milliseconds.
const MEMORY_RETRY_MS: u64 = 1;

/// What the path needs of its subsystem.
pub(crate) struct Shared {
    pub(crate) id: SubsystemId,
    pub(crate) owner: Owner,
    pub(crate) options: Options,
    pub(crate) slots: Slots,
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
    path: Path,
    /// Commands that wait for each of the I/O queues that were asked for.
    lanes: Box<[VecDeque<SlotId>]>,
    admin: VecDeque<SlotId>,
    next_lane: usize,
    /// Commands of callers that have not been completed.
    callers: usize,
    /// Commands that are answered but whose payload is still lent to a send.
    lent: Vec<(SlotId, Result<u64, Failure>)>,
    answers: Vec<Answer>,
    state: State,
    down_since: Nanos,
    attempts: u32,
    /// When [`Subsystem::tick`] is due.
    wake_at: Nanos,
}

impl Subsystem {
    /// A subsystem that starts to connect in the next [`Subsystem::tick`].
    pub(crate) fn new(id: SubsystemId, owner: Owner, options: Options, now: Nanos) -> Subsystem {
        let queues = usize::from(options.io_queues);
        // An abandoned command keeps its slot as long as its identifier, and is no longer counted as its caller's.
        let identifiers = queues * usize::from(options.queue_depth) + usize::from(ADMIN_ENTRIES);
        let slots = Slots::new(options.capacity() + identifiers + queues + OWN_SLOTS);
        Subsystem {
            lanes: (0..queues).map(|_| VecDeque::new()).collect(),
            shared: Shared { id, owner, options, slots },
            path: Path::new(),
            admin: VecDeque::new(),
            next_lane: 0,
            callers: 0,
            lent: Vec::new(),
            answers: Vec::new(),
            state: State::Connecting,
            down_since: now,
            attempts: 0,
            wake_at: now,
        }
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.path.identity()
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
        let list = match &request.command {
            command @ Command::Deallocate { .. } => match io.alloc(command.data_bytes()) {
                Some(buf) => Some(buf),
                None => return Err((request, SubmitError::Memory)),
            },
            _ => None,
        };
        let Request { ticket, deadline, queue, command } = request;
        let origin = Origin::Caller { ticket, queue };
        let id = self
            .shared
            .slots
            .insert(command.into_job(list), origin, deadline, io.now())
            .expect("there are more slots than commands of callers");
        self.callers += 1;
        self.wake_at = self.wake_at.min(deadline);
        self.enqueue(id);
        Ok(())
    }

    fn admissible(&self, command: &Command) -> Result<(), SubmitError> {
        if matches!(self.state, State::Lost(_) | State::Closing | State::Closed) {
            return Err(SubmitError::Gone);
        }
        if self.callers >= self.shared.options.capacity() {
            return Err(SubmitError::Full);
        }
        if !command.is_valid() {
            return Err(SubmitError::Invalid);
        }
        if command.lane() == Lane::Io && self.shared.options.is_discovery() {
            return Err(SubmitError::NoQueues);
        }
        let limit = self.identity().map_or(u32::MAX, |i| i.max_transfer_bytes);
        match u32::try_from(command.data_bytes()) {
            Ok(bytes) if bytes <= limit => Ok(()),
            _ => Err(SubmitError::TooLarge),
        }
    }

    /// Puts a waiting command into the lane where it belongs.
    fn enqueue(&mut self, id: SlotId) {
        let slot = self.shared.slots.get_mut(id);
        slot.place = Place::Waiting;
        if slot.lane == Lane::Admin {
            self.admin.push_back(id);
            return;
        }
        // While the path is down all lanes fill; those that are not granted are spread over the others then.
        let queues = if self.path.is_live() { self.path.io_queues().max(1) } else { self.lanes.len() };
        let lane = match slot.origin {
            Origin::Caller { queue: Some(q), .. } => usize::from(q) % queues,
            _ => {
                // The emptier one of two neighbours, going round.
                self.next_lane = (self.next_lane + 1) % queues;
                let other = (self.next_lane + 1) % queues;
                let load = |lane: usize| self.lanes[lane].len() + self.path.under_way(lane);
                if load(other) < load(self.next_lane) { other } else { self.next_lane }
            }
        };
        self.lanes[lane].push_back(id);
    }

    /// An event of one of the path's sockets; `queue` 0 is the admin queue.
    pub(crate) fn on_event(&mut self, io: &mut Io, queue: u16, generation: u16, event: Event, out: &mut Out) {
        let mut answers = std::mem::take(&mut self.answers);
        let result = self.path.on_event(io, &mut self.shared, (queue, generation), event, &mut answers);
        for answer in answers.drain(..) {
            self.answered(answer, io.now(), out);
        }
        self.answers = answers;
        self.after(io, result, out);
        if !self.lent.is_empty() {
            self.settle_lent(io.now(), out);
        }
    }

    /// Looks at what the path did: it may have become live, or lost.
    fn after(&mut self, io: &mut Io, result: Result<(), Error>, out: &mut Out) {
        if let Err(error) = result {
            self.path_lost(io, &error, out);
        } else if self.path.is_live() && self.state == State::Connecting {
            let queues = self.path.io_queues();
            self.attempts = 0;
            self.spread(queues);
            let queues = u16::try_from(queues).expect("at most 128 queues were asked for");
            self.set_state(State::Live { queues }, out);
        }
        self.wake_at = self.wake_at.min(self.path.wake_at());
    }

    /// Moves what waits for queues that were not granted to those that were.
    fn spread(&mut self, queues: usize) {
        for lane in queues.max(1)..self.lanes.len() {
            let waiting = std::mem::take(&mut self.lanes[lane]);
            self.lanes[lane % queues.max(1)].extend(waiting);
        }
    }

    fn set_state(&mut self, state: State, out: &mut Out) {
        if self.state != state {
            self.state = state.clone();
            out.notices.push(Notice::State { subsystem: self.shared.id, state });
        }
    }

    /// A command was answered by the controller.
    fn answered(&mut self, answer: Answer, now: Nanos, out: &mut Out) {
        match answer {
            Answer::Command(slot) => self.judge(slot, now, out),
            Answer::Event(event) => self.notice(event, out),
            Answer::ShutDown => self.wake_at = now,
        }
    }

    fn notice(&mut self, event: AsyncEvent, out: &mut Out) {
        out.notices.push(Notice::Event { subsystem: self.shared.id, event });
    }

    /// Decides what a reply means for its command.
    fn judge(&mut self, id: SlotId, now: Nanos, out: &mut Out) {
        let slot = self.shared.slots.get(id);
        let Reply { cqe, received, intact } = slot.reply;
        // A wrong data digest voids the data, not the command.
        let status = if intact { cqe.status() } else { Status::TRANSIENT_TRANSPORT_ERROR };
        if status.is_success() {
            let whole = match &slot.payload {
                Payload::In(buf) => usize::try_from(received) == Ok(buf.len()),
                _ => true,
            };
            // Without this check a controller that sends too little would have us hand out stale memory.
            let result =
                if whole { Ok(cqe.result()) } else { Err(Failure::Status(Status::DATA_TRANSFER_ERROR)) };
            return self.finish(id, result, now, out);
        }
        let may = slot.resend == Resend::Allowed && slot.tries < self.shared.options.retries;
        if may && slot.is_callers() && means_later(status) {
            let until = now.plus_ms(self.retry_ms(status));
            let slot = self.shared.slots.get_mut(id);
            (slot.place, slot.tries) = (Place::Parked { until }, slot.tries + 1);
            self.wake_at = self.wake_at.min(until);
            return;
        }
        self.finish(id, Err(Failure::Status(status)), now, out);
    }

    fn retry_ms(&self, status: Status) -> u64 {
        let delays = self.identity().map_or([0; 3], |i| i.retry_delays);
        let told = usize::from(status.crd()).checked_sub(1).and_then(|i| delays.get(i).copied());
        told.map_or(RETRY_MS, |units| u64::from(units) * RETRY_UNIT_MS).max(1)
    }

    /// Completes a command of a caller, now or when its payload comes back from the send that it is lent to.
    fn finish(&mut self, id: SlotId, result: Result<u64, Failure>, now: Nanos, out: &mut Out) {
        let slot = self.shared.slots.get_mut(id);
        let Origin::Caller { ticket, .. } = slot.origin else {
            self.shared.slots.remove(id);
            return;
        };
        let queue = match slot.place {
            Place::Sent { queue, .. } => queue.saturating_sub(1),
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
        let submitted = slot.submitted;
        let subsystem = self.shared.id;
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
    pub(crate) fn step(&mut self, io: &mut Io) {
        let now = io.now();
        let mut starved = self.path.pump(io, &mut self.shared, 0, &mut self.admin);
        if self.path.is_live() {
            let queues = self.path.io_queues();
            for (number, lane) in (1..).zip(self.lanes.iter_mut().take(queues)) {
                starved |= self.path.pump(io, &mut self.shared, number, lane);
            }
        } else {
            self.path.flush_opening(io);
        }
        if starved {
            self.wake_at = self.wake_at.min(now.plus_ms(MEMORY_RETRY_MS));
        }
    }
}

/// True for statuses after which the same command may well succeed (Base 3.3.3.2.1, path related and the like).
fn means_later(status: Status) -> bool {
    let transient =
        [Status::NAMESPACE_NOT_READY, Status::COMMAND_INTERRUPTED, Status::TRANSIENT_TRANSPORT_ERROR];
    !status.dnr() && (status.sct() == 3 || transient.iter().any(|t| t.same_code(status)))
}
