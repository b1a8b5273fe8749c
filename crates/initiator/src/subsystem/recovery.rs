//! What a [`Subsystem`] does about time and loss: attempts to connect, deadlines, a controller that is silent or gone,
//! and the end.

use super::{Out, Subsystem};
use crate::{
    Completion, Error, ErrorKind, Failure, Notice, State,
    command::Resend,
    slots::{Origin, Payload, Place, SlotId},
};
use dolmen_io::Io;
use dolmen_types::Nanos;
use std::collections::VecDeque;

impl Subsystem {
    /// Deadlines, timeouts, the next attempt to connect. Sets the next [`Subsystem::wake_at`].
    pub(crate) fn tick(&mut self, io: &mut Io, out: &mut Out) {
        let now = io.now();
        self.wake_at = Nanos(u64::MAX);
        match &self.state {
            State::Connecting if self.path.is_idle() => self.attempt(io, out),
            State::Closing if self.path.shutdown_over(now) => {
                self.path.tear_down(io);
                self.set_state(State::Closed, out);
            }
            _ => {}
        }
        let result = self.path.tick(io, &mut self.shared);
        self.after(io, result, out);
        self.scan(io, out);
        self.wake_at = self.wake_at.min(self.path.wake_at());
    }

    fn attempt(&mut self, io: &mut Io, out: &mut Out) {
        let limit = self.shared.options.loss_timeout_ms;
        if self.attempts > 0 && limit.is_some_and(|ms| io.now() >= self.down_since.plus_ms(ms)) {
            let what = format!("{} stayed away longer than the loss timeout", self.shared.options.addr);
            let error = Error::new(ErrorKind::Timeout, what);
            return self.give_up(io, error, out);
        }
        if io.now() < self.path.retry_at() {
            return;
        }
        self.attempts = self.attempts.saturating_add(1);
        let started = self.path.start(io, &self.shared);
        self.after(io, started, out);
    }

    /// Looks at every command: expires, sends again what was parked, finds a controller that is stuck.
    fn scan(&mut self, io: &mut Io, out: &mut Out) {
        let now = io.now();
        let io_timeout_ms = self.shared.options.io_timeout_ms;
        let (mut expired, mut due, mut stuck) = (Vec::new(), Vec::new(), false);
        for (id, slot) in self.shared.slots.iter() {
            if slot.is_callers()
                && slot.deadline <= now
                && !matches!(slot.place, Place::Abandoned { .. } | Place::Lent)
            {
                expired.push(id);
                continue;
            }
            let next = match slot.place {
                Place::Parked { until } if until <= now => {
                    due.push(id);
                    slot.deadline
                }
                Place::Parked { until } => until.min(slot.deadline),
                Place::Sent { .. } | Place::Abandoned { .. } if slot.origin != Origin::AsyncEvent => {
                    let late = slot.sent.plus_ms(io_timeout_ms);
                    stuck |= late <= now;
                    late.min(if slot.is_callers() && matches!(slot.place, Place::Sent { .. }) {
                        slot.deadline
                    } else {
                        late
                    })
                }
                Place::Waiting if slot.is_callers() => slot.deadline,
                _ => continue,
            };
            self.wake_at = self.wake_at.min(next);
        }
        for id in due {
            self.enqueue(id);
        }
        let fence = self.expire(&expired, now, out);
        if stuck || fence {
            let what = if stuck { "a command stayed unanswered" } else { "the deadline of a change passed" };
            let error = Error::new(ErrorKind::Timeout, format!("{what} ({})", self.shared.options.addr));
            self.path_lost(io, &error, out);
        }
    }

    /// Completes commands whose deadline passed. True: the association must end, since one of them could still be
    /// carried out.
    fn expire(&mut self, expired: &[SlotId], now: Nanos, out: &mut Out) -> bool {
        let mut fence = false;
        for &id in expired {
            match self.shared.slots.get(id).place {
                Place::Waiting => {
                    self.admin.retain(|&other| other != id);
                    self.lanes.iter_mut().for_each(|lane| lane.retain(|&other| other != id));
                    self.finish(id, Err(Failure::Expired), now, out);
                }
                Place::Parked { .. } => self.finish(id, Err(Failure::Expired), now, out),
                Place::Sent { .. } if self.shared.slots.get(id).changes_data() => {
                    fence = true;
                    self.finish(id, Err(Failure::Expired), now, out);
                }
                Place::Sent { queue, cid } => self.abandon(id, (queue, cid), now, out),
                _ => {}
            }
        }
        fence
    }

    /// Answers the caller of a read that is under way; the slot stays until the controller answers or is lost, and
    /// what still comes for it is thrown away.
    fn abandon(&mut self, id: SlotId, (queue, cid): (u16, u16), now: Nanos, out: &mut Out) {
        let slot = self.shared.slots.get_mut(id);
        let Origin::Caller { ticket, .. } = slot.origin else { return };
        let buf = match std::mem::replace(&mut slot.payload, Payload::None) {
            Payload::In(buf) => Some(buf),
            _ => None,
        };
        slot.place = Place::Abandoned { queue, cid };
        let completion = Completion {
            ticket,
            subsystem: self.shared.id,
            queue: queue.saturating_sub(1),
            result: Err(Failure::Expired),
            buf,
            submitted: slot.submitted,
            completed: now,
        };
        out.completions.push(completion);
        self.callers -= 1;
    }

    /// The association is over: its commands wait for the next one, or fail.
    pub(super) fn path_lost(&mut self, io: &mut Io, error: &Error, out: &mut Out) {
        let now = io.now();
        self.path.tear_down(io);
        let under_way: Vec<SlotId> = self
            .shared
            .slots
            .iter()
            .filter(|(_, s)| {
                matches!(s.place, Place::Sent { .. } | Place::Abandoned { .. }) || !s.is_callers()
            })
            .map(|(id, _)| id)
            .collect();
        for id in under_way {
            self.take_back(id, now, out);
        }
        match self.state {
            State::Closing => return self.set_state(State::Closed, out),
            State::Closed | State::Lost(_) => return,
            State::Live { .. } => self.down_since = now,
            State::Connecting => {}
        }
        if error.is_final() {
            return self.give_up(io, error.clone(), out);
        }
        let pause = self.pause_ms(io);
        self.path.retry_after(now.plus_ms(pause));
        self.wake_at = self.wake_at.min(self.path.retry_at());
        out.notices.push(Notice::PathLost { subsystem: self.shared.id, error: error.clone() });
        self.set_state(State::Connecting, out);
    }

    /// A command of an association that is over.
    fn take_back(&mut self, id: SlotId, now: Nanos, out: &mut Out) {
        let slot = self.shared.slots.get(id);
        if !slot.is_callers() || matches!(slot.place, Place::Abandoned { .. }) {
            self.shared.slots.remove(id);
        } else if slot.resend == Resend::Allowed {
            self.enqueue(id);
        } else {
            self.finish(id, Err(Failure::Lost), now, out);
        }
    }

    /// Doubling pauses with a jitter of a quarter, so that many hosts don't come back in step.
    fn pause_ms(&self, io: &mut Io) -> u64 {
        let o = &self.shared.options;
        let doubled = o.reconnect_min_ms.saturating_mul(1 << self.attempts.saturating_sub(1).min(16));
        let pause = doubled.min(o.reconnect_max_ms);
        let mut random = [0u8; 1];
        io.random(&mut random);
        pause - pause / 4 * u64::from(random[0]) / 256
    }

    /// No more attempts: every command fails. The path is down.
    fn give_up(&mut self, io: &mut Io, error: Error, out: &mut Out) {
        self.path.tear_down(io);
        self.fail_all(Failure::Lost, io.now(), out);
        self.set_state(State::Lost(error), out);
    }

    /// Fails every command of the callers; no queue may know any of them any more.
    fn fail_all(&mut self, why: Failure, now: Nanos, out: &mut Out) {
        self.admin.clear();
        self.lanes.iter_mut().for_each(VecDeque::clear);
        let callers = self.shared.slots.iter().filter(|(_, s)| s.is_callers() && s.place != Place::Lent);
        let all: Vec<(SlotId, Place)> = callers.map(|(id, s)| (id, s.place)).collect();
        for (id, place) in all {
            match place {
                Place::Abandoned { .. } => self.shared.slots.remove(id),
                _ => self.finish(id, Err(why), now, out),
            }
        }
    }

    /// Ends the subsystem: commands fail, the sockets close, the controller is told if that can be done in order.
    pub(crate) fn disconnect(&mut self, io: &mut Io, out: &mut Out) {
        if matches!(self.state, State::Closing | State::Closed) {
            return;
        }
        let on_admin =
            |place: Place| matches!(place, Place::Sent { queue: 0, .. } | Place::Abandoned { queue: 0, .. });
        let busy = self.shared.slots.iter().any(|(_, s)| s.is_callers() && on_admin(s.place));
        let polite = self.path.is_live() && !busy && self.path.shut_down(io, &mut self.shared).is_ok();
        if !polite {
            self.path.tear_down(io);
        }
        self.fail_all(Failure::Disconnected, io.now(), out);
        self.set_state(if polite { State::Closing } else { State::Closed }, out);
        self.wake_at = io.now();
    }
}
