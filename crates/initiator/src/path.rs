//! One path to a controller: an association of an admin queue and I/O queues, from connect to tear-down.
//!
//! Owns the connections, the bring-up, the keep-alive and the event request. Knows nothing of callers: it reports what
//! was answered, and whose commands those were is the subsystem's affair. Any error ends the association; the subsystem
//! then tears the path down and starts it again later.

use crate::{
    Error, ErrorKind, Identity,
    bringup::{self, Bringup, Step, connect_step, succeeded},
    command::{Data, Resend, admin},
    initiator::Key,
    options::ADMIN_ENTRIES,
    queue::{ADMIN_IN_CAPSULE_BYTES, Dispatch, Heard, Queue, no_memory},
    slots::{Origin, Payload, Place, Reply, SlotId, Under},
    subsystem::Shared,
};
use dolmen_io::{Buf, Event, Io};
use dolmen_nvme::spec::{
    AbortCommand, AdminOpcode, AsyncEvent, Cns, ControllerConfig, GetLogCommand, IdentifyCommand, LogId,
    Property, PropertySet, ShutdownRequest, Sqe, Status,
};
use dolmen_types::Nanos;
use std::{collections::VecDeque, net::SocketAddr};
use zerocopy::IntoBytes;

/// How long the controller gets to answer the shutdown. Milliseconds.
const SHUTDOWN_MS: u64 = 1000;
/// How long the controller gets to answer a reset. Milliseconds.
const RESET_MS: u64 = 1000;
/// Never.
const NEVER: Nanos = Nanos(u64::MAX);

/// What the path has to say about commands.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A command of a caller was answered; its slot has the reply.
    Command(SlotId),
    /// The controller reported an event.
    Event(AsyncEvent),
    /// The shutdown was answered.
    ShutDown,
    /// A page that was asked for on behalf of the subsystem came, or why not.
    Page(Origin, Result<Buf, Status>),
    /// The controller ended an I/O queue. The others live on, for all we know, and are to end as well.
    QueueEnded(Error),
    /// An Abort was answered: whether the controller aborted what was sent then from the victim's slot.
    Abort { victim: SlotId, sent: Nanos, aborted: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No connections.
    Idle,
    /// On the way up.
    Opening,
    /// Commands flow.
    Live,
    /// The controller is being told that we leave.
    Leaving,
    /// The controller is being told to reset itself; the association is over then.
    Resetting,
}

/// The state of one path.
pub(crate) struct Path {
    number: u8,
    addr: SocketAddr,
    phase: Phase,
    /// Of the association; events of sockets of an earlier one are not ours any more.
    generation: u16,
    bringup: Option<Bringup>,
    /// What the controller said of itself when it last was live.
    identity: Option<Identity>,
    admin: Option<Queue>,
    io: Vec<Queue>,
    /// I/O queues that are not connected yet.
    opening: usize,
    heard: Vec<Heard>,
    /// The present step of the bring-up (or of leaving) must be over by then.
    step_until: Nanos,
    /// When to look at CSTS again.
    look_at: Nanos,
    /// When to send a keep-alive.
    keep_alive_at: Nanos,
    /// A keep-alive is unanswered.
    keeping_alive: bool,
    /// Something was answered since the last look at the keep-alive.
    heard_of: bool,
    /// The controller knows that the association is over: it ended the admin queue, or confirmed our reset.
    told: bool,
    /// Why the controller is being reset.
    why: Option<Error>,
    retry_at: Nanos,
}

impl Path {
    /// A path that is not connected.
    pub(crate) fn new(number: u8, addr: SocketAddr) -> Path {
        Path {
            number,
            addr,
            phase: Phase::Idle,
            generation: 0,
            bringup: None,
            identity: None,
            admin: None,
            io: Vec::new(),
            opening: 0,
            heard: Vec::new(),
            step_until: NEVER,
            look_at: NEVER,
            keep_alive_at: NEVER,
            keeping_alive: false,
            heard_of: false,
            told: false,
            why: None,
            retry_at: Nanos(0),
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.phase == Phase::Idle
    }

    pub(crate) fn is_live(&self) -> bool {
        self.phase == Phase::Live
    }

    /// I/O queues of the association; 0 before it is live.
    pub(crate) fn io_queues(&self) -> usize {
        if self.is_live() { self.io.len() } else { 0 }
    }

    /// Commands under way on I/O queue `index`, counted from 0.
    pub(crate) fn under_way(&self, index: usize) -> usize {
        self.io.get(index).map_or(0, Queue::under_way)
    }

    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Takes the place of another path: events of that one's sockets are not mistaken for ours.
    pub(crate) fn follow(&mut self, old: &Path) {
        self.generation = old.generation;
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// True when the controller knows that the last association is over.
    pub(crate) fn is_told(&self) -> bool {
        self.told
    }

    /// Commands under way on all I/O queues.
    pub(crate) fn load(&self) -> usize {
        self.io.iter().map(Queue::under_way).sum()
    }

    pub(crate) fn retry_at(&self) -> Nanos {
        self.retry_at
    }

    pub(crate) fn retry_after(&mut self, at: Nanos) {
        self.retry_at = at;
    }

    /// When [`Path::tick`] has something to do.
    pub(crate) fn wake_at(&self) -> Nanos {
        match self.phase {
            Phase::Idle => self.retry_at,
            Phase::Opening | Phase::Leaving | Phase::Resetting => self.step_until.min(self.look_at),
            Phase::Live => self.keep_alive_at,
        }
    }

    /// Starts to connect the admin queue.
    pub(crate) fn start(&mut self, io: &mut Io, shared: &Shared) -> Result<(), Error> {
        self.generation = self.generation.wrapping_add(1);
        self.phase = Phase::Opening;
        self.told = false;
        self.step_until = io.now().plus_ms(shared.options.connect_timeout_ms);
        let way = (self.key(shared, 0), self.addr);
        let shape = (ADMIN_ENTRIES - 1, ADMIN_IN_CAPSULE_BYTES);
        self.admin = Some(Queue::open(io, shared.owner, way, &shared.options, shape)?);
        Ok(())
    }

    fn key(&self, shared: &Shared, queue: u16) -> Key {
        Key { subsystem: shared.id, path: self.number, queue, generation: self.generation }
    }

    fn queue(&mut self, number: u16) -> Option<&mut Queue> {
        match usize::from(number).checked_sub(1) {
            None => self.admin.as_mut(),
            Some(index) => self.io.get_mut(index),
        }
    }

    /// An event of the socket of queue `number` of the association `generation`.
    pub(crate) fn on_event(
        &mut self,
        io: &mut Io,
        shared: &mut Shared,
        (number, generation): (u16, u16),
        event: Event,
        answers: &mut Vec<Answer>,
    ) -> Result<(), Error> {
        let stale = generation != self.generation || self.queue(number).is_none();
        if stale {
            return Ok(());
        }
        let lost = |what: String| Error::new(ErrorKind::Connection, what);
        let (addr, phase) = (self.addr, self.phase);
        let ended = || lost(format!("{addr} closed the connection of queue {number}"));
        let mut heard = std::mem::take(&mut self.heard);
        let Some(queue) = self.queue(number) else { return Ok(()) };
        let result = match event {
            Event::Connected { .. } => queue.connected(io),
            Event::Received(chunk) => queue.received(io, &chunk, &mut shared.slots, &mut heard),
            Event::Landed { landing, bytes } => {
                queue.landed(io.pool(), (landing, bytes), &mut shared.slots, &mut heard)
            }
            Event::Sent(slices) => {
                queue.sent(io, slices);
                Ok(())
            }
            // What is waited for comes on the admin queue.
            Event::EndOfStream | Event::Failed { .. } if number > 0 && phase == Phase::Resetting => Ok(()),
            Event::EndOfStream if number == 0 => {
                self.told = true;
                Err(ended())
            }
            Event::EndOfStream if phase == Phase::Live => {
                answers.push(Answer::QueueEnded(ended()));
                Ok(())
            }
            Event::EndOfStream => Err(ended()),
            // A reset proves nothing: something on the way may have sent it.
            Event::Failed { error, .. } => Err(lost(format!("queue {number} to {addr}: {error}"))),
            _ => Ok(()),
        };
        // What was heard before an error is still good.
        let mut outcome = Ok(());
        for event in heard.drain(..) {
            outcome = outcome.and_then(|()| self.hear(io, shared, number, event, answers));
        }
        self.heard = heard;
        outcome.and(result)
    }

    fn hear(
        &mut self,
        io: &mut Io,
        shared: &mut Shared,
        number: u16,
        heard: Heard,
        answers: &mut Vec<Answer>,
    ) -> Result<(), Error> {
        match heard {
            Heard::Completed(id) => {
                self.heard_of = true;
                let slot = shared.slots.get(id);
                match slot.origin {
                    Origin::Caller { .. } if matches!(slot.place, Place::Abandoned(_)) => {
                        shared.slots.remove(id);
                        Ok(())
                    }
                    Origin::Caller { .. } | Origin::Second { .. } => {
                        answers.push(Answer::Command(id));
                        Ok(())
                    }
                    origin => self.own_answered(io, shared, id, origin, answers),
                }
            }
            Heard::Initialized if number == 0 => {
                let (bringup, step) = Bringup::begin(&shared.options);
                self.bringup = Some(bringup);
                self.take(io, shared, step)
            }
            Heard::Initialized => self.connect_queue(io, shared, number),
        }
    }

    /// An answer to one of our own commands.
    fn own_answered(
        &mut self,
        io: &mut Io,
        shared: &mut Shared,
        id: SlotId,
        origin: Origin,
        answers: &mut Vec<Answer>,
    ) -> Result<(), Error> {
        let slot = shared.slots.get_mut(id);
        let payload = std::mem::replace(&mut slot.payload, Payload::None);
        let Reply { cqe, intact, .. } = slot.reply;
        shared.slots.remove(id);
        if !intact {
            return Err(Error::new(ErrorKind::Protocol, "a wrong data digest while connecting"));
        }
        match origin {
            Origin::Bringup => {
                let page: &[u8] = match &payload {
                    Payload::In(buf) => buf,
                    _ => &[],
                };
                let Some(bringup) = &mut self.bringup else { return Ok(()) };
                let step = bringup.answer(&cqe, page, io.now())?;
                self.take(io, shared, step)
            }
            Origin::QueueConnect => {
                succeeded("Connect of an I/O queue", cqe.status())?;
                self.opening = self.opening.saturating_sub(1);
                match &mut self.bringup {
                    Some(bringup) if self.opening == 0 => {
                        let step = bringup.queues_open();
                        self.take(io, shared, step)
                    }
                    _ => Ok(()),
                }
            }
            Origin::KeepAlive => {
                self.keeping_alive = false;
                succeeded("Keep Alive", cqe.status())
            }
            Origin::AsyncEvent if cqe.status().is_success() => {
                answers.push(Answer::Event(AsyncEvent::from_dword(cqe.dw0.get())));
                self.request_event(io, shared)
            }
            // A controller that takes no event request goes on without.
            Origin::AsyncEvent | Origin::Caller { .. } | Origin::Second { .. } => Ok(()),
            Origin::Log(_) | Origin::Check { .. } => {
                let page = match payload {
                    Payload::In(buf) if cqe.status().is_success() => Ok(buf),
                    _ => Err(cqe.status()),
                };
                answers.push(Answer::Page(origin, page));
                Ok(())
            }
            Origin::Abort { victim, sent } => {
                let aborted = cqe.status().is_success() && cqe.dw0.get() & AbortCommand::NOT_ABORTED == 0;
                answers.push(Answer::Abort { victim, sent, aborted });
                Ok(())
            }
            Origin::Reset => {
                self.told = cqe.status().is_success();
                Err(self.reset_ended("and was reset"))
            }
            Origin::Shutdown => {
                self.step_until = io.now();
                answers.push(Answer::ShutDown);
                Ok(())
            }
        }
    }

    /// Does what the bring-up wants next.
    fn take(&mut self, io: &mut Io, shared: &mut Shared, step: Step) -> Result<(), Error> {
        self.step_until = io.now().plus_ms(shared.options.connect_timeout_ms);
        match step {
            Step::Send(sqe, payload) => self.send_own(io, shared, 0, Origin::Bringup, sqe, &payload),
            Step::Wait(until) => {
                self.look_at = until;
                Ok(())
            }
            Step::OpenQueues(count) => self.open_queues(io, shared, count),
            Step::Live => {
                (self.phase, self.step_until) = (Phase::Live, NEVER);
                self.identity = self.bringup.as_ref().map(|b| b.identity().clone());
                self.keeping_alive = false;
                self.keep_alive_at = keep_alive_pause_ms(shared).map_or(NEVER, |ms| io.now().plus_ms(ms));
                if self.identity().is_some_and(|i| i.events) {
                    self.request_event(io, shared)?;
                }
                Ok(())
            }
        }
    }

    fn open_queues(&mut self, io: &mut Io, shared: &mut Shared, count: u16) -> Result<(), Error> {
        let identity = self.bringup.as_ref().map(Bringup::identity);
        let (entries, in_capsule) = identity.map_or((2, 0), |i| (i.max_entries, i.in_capsule_bytes));
        let depth = shared.options.queue_depth.min(entries.saturating_sub(1)).max(1);
        for number in 1..=count {
            let way = (self.key(shared, number), self.addr);
            self.io.push(Queue::open(io, shared.owner, way, &shared.options, (depth, in_capsule))?);
        }
        self.opening = usize::from(count);
        Ok(())
    }

    /// The connection of I/O queue `number` is initialised: attaches it to the controller.
    fn connect_queue(&mut self, io: &mut Io, shared: &mut Shared, number: u16) -> Result<(), Error> {
        let identity = self.bringup.as_ref().map(Bringup::identity);
        let (entries, controller) = identity.map_or((2, 0), |i| (i.max_entries, i.controller_id));
        let entries = (shared.options.queue_depth + 1).min(entries).max(2);
        match connect_step(&shared.options, number, entries, controller) {
            Step::Send(sqe, payload) => {
                self.send_own(io, shared, number, Origin::QueueConnect, sqe, &payload)
            }
            Step::Wait(_) | Step::OpenQueues(_) | Step::Live => Ok(()),
        }
    }

    /// Reads `bytes` of a log page from `offset` on; the answer is an [`Answer::Page`]. False: there is no room now.
    pub(crate) fn read_log(
        &mut self,
        io: &mut Io,
        shared: &mut Shared,
        page: LogId,
        (offset, bytes): (usize, usize),
    ) -> bool {
        let log = GetLogCommand {
            page,
            specific: 0,
            // The first piece lets the event come again; a change between two pieces is heard of by it.
            retain_event: offset > 0,
            length: bytes as u64,
            offset: offset as u64,
            identifier: 0,
            command_set: 0,
        };
        let payload = bringup::Payload::Page(bytes);
        self.send_own(io, shared, 0, Origin::Log(page), log.encode(0, u32::MAX), &payload).is_ok()
    }

    /// Asks for a namespace's identifiers; the answer is an [`Answer::Page`]. False: there is no room now.
    pub(crate) fn check_namespace(&mut self, io: &mut Io, shared: &mut Shared, nsid: u32) -> bool {
        let cns = Cns::NAMESPACE_DESCRIPTORS;
        let identify = IdentifyCommand { cns, controller: 0, specific: 0, command_set: 0, uuid_index: 0 };
        let payload = bringup::Payload::Page(IdentifyCommand::DATA_BYTES);
        self.send_own(io, shared, 0, Origin::Check { nsid }, identify.encode(0, nsid), &payload).is_ok()
    }

    /// Asks the controller to abort a command. False: there is no room now.
    pub(crate) fn abort(&mut self, io: &mut Io, shared: &mut Shared, victim: SlotId, under: Under) -> bool {
        let abort = AbortCommand { queue: under.queue, cid: under.cid };
        let origin = Origin::Abort { victim, sent: shared.slots.get(victim).sent };
        self.send_own(io, shared, 0, origin, abort.encode(0), &bringup::Payload::None).is_ok()
    }

    /// Tells the controller to reset itself, which ends the association whether it answers or not.
    pub(crate) fn reset(&mut self, io: &mut Io, shared: &mut Shared, why: Error) -> Result<(), Error> {
        (self.phase, self.why) = (Phase::Resetting, Some(why));
        self.step_until = io.now().plus_ms(RESET_MS);
        let set = PropertySet { property: Property::CC, wide: false, value: 0 };
        self.send_own(io, shared, 0, Origin::Reset, set.encode(0), &bringup::Payload::None)
    }

    /// What the association ended with, whose controller is being reset.
    fn reset_ended(&mut self, how: &str) -> Error {
        let mut why = self.why.take().expect("a reset has its reason");
        why.context = format!("{}, {how}", why.context);
        why
    }

    fn request_event(&mut self, io: &mut Io, shared: &mut Shared) -> Result<(), Error> {
        let sqe = Sqe::new(AdminOpcode::ASYNC_EVENT_REQUEST.0, 0);
        self.send_own(io, shared, 0, Origin::AsyncEvent, sqe, &bringup::Payload::None)
    }

    /// Stages one of our own commands.
    fn send_own(
        &mut self,
        io: &mut Io,
        shared: &mut Shared,
        number: u16,
        origin: Origin,
        sqe: Sqe,
        payload: &bringup::Payload,
    ) -> Result<(), Error> {
        let data = match payload {
            bringup::Payload::None => Data::None,
            bringup::Payload::Page(bytes) => Data::ToHost(io.alloc(*bytes).ok_or_else(no_memory)?),
            bringup::Payload::Connect(connect) => {
                let mut buf = io.alloc(connect.as_bytes().len()).ok_or_else(no_memory)?;
                buf.copy_from_slice(connect.as_bytes());
                Data::ToController(buf)
            }
        };
        let job = admin(sqe, data, Resend::Never);
        let Ok(slot) = shared.slots.insert(job, origin, NEVER, io.now()) else { return Err(no_memory()) };
        let now = io.now();
        let sent = match self.queue(number) {
            Some(queue) => queue.dispatch(io.pool(), &mut shared.slots, slot, now),
            None => Dispatch::Full,
        };
        if sent == Dispatch::Sent {
            return Ok(());
        }
        shared.slots.remove(slot);
        match sent {
            // A caller's admin commands have taken all identifiers; what we send while live can wait.
            Dispatch::Full if origin == Origin::KeepAlive => {
                self.keeping_alive = false;
                Ok(())
            }
            Dispatch::Full => Err(Error::new(ErrorKind::Protocol, "the admin queue has no room left")),
            Dispatch::NoMemory | Dispatch::Sent => Err(no_memory()),
        }
    }

    /// Sends on queue `number` what the controller asked for and what waits in `lane`. True: the pool was empty.
    pub(crate) fn pump(
        &mut self,
        io: &mut Io,
        shared: &mut Shared,
        number: u16,
        lane: &mut VecDeque<SlotId>,
    ) -> bool {
        let live = self.is_live();
        let Some(queue) = self.queue(number) else { return false };
        if queue.is_sending() {
            return false;
        }
        let mut starved = queue.send_asked(io.pool(), &mut shared.slots);
        while live
            && !starved
            && let Some(&id) = lane.front()
        {
            match queue.dispatch(io.pool(), &mut shared.slots, id, io.now()) {
                Dispatch::Sent => {
                    lane.pop_front();
                }
                Dispatch::Full if shared.slots.get(id).is_fused() && !queue.takes_pairs() => {
                    lane.pop_front();
                    let second = |next| shared.slots.get(next).origin == Origin::Second { first: id };
                    if lane.front().is_some_and(|&next| second(next)) {
                        lane.pop_front();
                    }
                    shared.refused.push(id);
                }
                Dispatch::Full => break,
                Dispatch::NoMemory => starved = true,
            }
        }
        queue.flush(io);
        starved
    }

    /// Sends what our own commands staged on queues that [`Path::pump`] isn't called for yet.
    pub(crate) fn flush_opening(&mut self, io: &mut Io) {
        if self.phase == Phase::Opening {
            self.io.iter_mut().for_each(|queue| queue.flush(io));
        }
    }

    /// What is due at `io.now()`.
    pub(crate) fn tick(&mut self, io: &mut Io, shared: &mut Shared) -> Result<(), Error> {
        let now = io.now();
        if self.phase == Phase::Opening {
            if now >= self.step_until {
                let what = format!("{} didn't answer in time while connecting", self.addr);
                return Err(Error::new(ErrorKind::Timeout, what));
            }
            if now >= self.look_at {
                self.look_at = NEVER;
                if let Some(step) = self.bringup.as_ref().map(Bringup::again) {
                    return self.take(io, shared, step);
                }
            }
        }
        if self.phase == Phase::Resetting && now >= self.step_until {
            return Err(self.reset_ended("and did not confirm its reset"));
        }
        if self.is_live() && now >= self.keep_alive_at {
            return self.keep_alive(io, shared);
        }
        Ok(())
    }

    fn keep_alive(&mut self, io: &mut Io, shared: &mut Shared) -> Result<(), Error> {
        if self.keeping_alive {
            let what = format!("{} left a keep-alive unanswered", self.addr);
            return Err(Error::new(ErrorKind::Timeout, what));
        }
        self.keep_alive_at = keep_alive_pause_ms(shared).map_or(NEVER, |ms| io.now().plus_ms(ms));
        // Where any command keeps the association alive (TBKAS), one that was answered in the last half is enough.
        let traffic = std::mem::take(&mut self.heard_of);
        if traffic && self.identity().is_some_and(|id| id.traffic_keeps_alive) {
            return Ok(());
        }
        self.keeping_alive = true;
        let sqe = Sqe::new(AdminOpcode::KEEP_ALIVE.0, 0);
        self.send_own(io, shared, 0, Origin::KeepAlive, sqe, &bringup::Payload::None)
    }

    /// Closes the I/O queues and tells the controller that we leave.
    pub(crate) fn shut_down(&mut self, io: &mut Io, shared: &mut Shared) -> Result<(), Error> {
        for queue in self.io.drain(..) {
            if queue.under_way() > 0 { queue.abort(io) } else { queue.close(io) }
        }
        self.phase = Phase::Leaving;
        self.step_until = io.now().plus_ms(SHUTDOWN_MS);
        let value = ControllerConfig::ENABLE.with_shutdown(ShutdownRequest::Normal).0;
        let set = PropertySet { property: Property::CC, wide: false, value: u64::from(value) };
        self.send_own(io, shared, 0, Origin::Shutdown, set.encode(0), &bringup::Payload::None)
    }

    /// True when the controller was told, or had its time.
    pub(crate) fn shutdown_over(&self, now: Nanos) -> bool {
        self.phase == Phase::Leaving && now >= self.step_until
    }

    /// Ends everything. Identity stays, for those who ask while we are away.
    pub(crate) fn tear_down(&mut self, io: &mut Io) {
        let end = if self.phase == Phase::Leaving { Queue::close } else { Queue::abort };
        self.admin.take().into_iter().chain(self.io.drain(..)).for_each(|queue| end(queue, io));
        (self.phase, self.opening, self.retry_at) = (Phase::Idle, 0, NEVER);
        (self.step_until, self.look_at, self.keep_alive_at) = (NEVER, NEVER, NEVER);
    }
}

/// Two keep-alives in the controller's timeout, so that one may be late.
fn keep_alive_pause_ms(shared: &Shared) -> Option<u64> {
    match u64::from(shared.options.keep_alive_ms) {
        0 => None,
        ms => Some((ms / 2).max(1)),
    }
}
