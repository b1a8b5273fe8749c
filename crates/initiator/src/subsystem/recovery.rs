//! What a [`Subsystem`] does about time and loss: attempts to connect, deadlines, a controller that is silent or gone,
//! and the end.

use super::{
    Fencing, Out, Subsystem,
    follow::number,
    route::{Aborting, Life, Route},
};
use crate::{
    Completion, Error, ErrorKind, Failure, Notice, State,
    command::Resend,
    slots::{Origin, Payload, Place, SlotId, Under},
};
use dolmen_io::Io;
use dolmen_types::Nanos;
use std::collections::VecDeque;

/// What a look at all commands found.
#[derive(Default)]
struct Found {
    /// Past their deadline.
    expired: Vec<SlotId>,
    /// Parked, and due.
    due: Vec<SlotId>,
    /// To be aborted.
    late: Vec<(SlotId, Under)>,
    /// Paths whose controller is to be reset, as bits.
    stuck: u32,
}

impl Subsystem {
    /// Deadlines, timeouts, the next attempt to connect. Sets the next [`Subsystem::wake_at`].
    pub(crate) fn tick(&mut self, io: &mut Io, out: &mut Out) {
        self.stirred = true;
        let now = io.now();
        self.wake_at = Nanos(u64::MAX);
        self.fences.prune(now);
        for at in 0..self.routes.len() {
            self.tick_route(io, at, out);
        }
        if self.state == State::Closing && self.routes.iter().all(|r| r.path.is_idle()) {
            self.set_state(State::Closed, out);
        }
        self.scan(io, out);
        self.tick_ana(io, out);
        self.fail_stranded(now, out);
        self.fail_fast(io, out);
        for route in &self.routes {
            self.wake_at = self.wake_at.min(route.path.wake_at());
            if let Some(until) = self.given_up_at(route) {
                self.wake_at = self.wake_at.min(until);
            }
        }
    }

    /// When a path that is down is given up, be an attempt under way then or not.
    fn given_up_at(&self, route: &Route) -> Option<Nanos> {
        let waits = route.life == Life::Connecting && route.attempts > 0;
        let limit_ms = self.shared.options.loss_timeout_ms.filter(|_| waits)?;
        Some(route.down_since.plus_ms(limit_ms))
    }

    fn tick_route(&mut self, io: &mut Io, at: usize, out: &mut Out) {
        let route = &mut self.routes[at];
        match &self.state {
            State::Connecting | State::Live { .. } if route.life == Life::Connecting => {
                self.attempt(io, at, out);
            }
            State::Closing if route.path.shutdown_over(io.now()) => route.path.tear_down(io),
            _ => {}
        }
        let result = self.routes[at].path.tick(io, &mut self.shared);
        self.after(io, at, result, out);
    }

    fn attempt(&mut self, io: &mut Io, at: usize, out: &mut Out) {
        let given_up = self.given_up_at(&self.routes[at]).is_some_and(|until| io.now() >= until);
        let route = &mut self.routes[at];
        if given_up {
            let what = format!("{} was away or no good for longer than the loss timeout", route.path.addr());
            return self.give_up(io, at, &Error::new(ErrorKind::Timeout, what), out);
        }
        if !route.path.is_idle() || io.now() < route.path.retry_at() {
            return;
        }
        route.attempts = route.attempts.saturating_add(1);
        route.tries = route.tries.saturating_add(1);
        let started = route.path.start(io, &self.shared);
        self.after(io, at, started, out);
    }

    /// Looks at every command: expires, sends again what was parked, finds a controller that is stuck.
    fn scan(&mut self, io: &mut Io, out: &mut Out) {
        let now = io.now();
        let found = self.look(now);
        self.put_due(io, found.due);
        for (id, under) in found.late {
            self.abort(io, id, under);
        }
        let fences = self.expire(&found.expired, now, out);
        for at in 0..self.routes.len() {
            if fences & 1 << at != 0 {
                let addr = self.routes[at].path.addr();
                let error =
                    Error::new(ErrorKind::Timeout, format!("the deadline of a change passed ({addr})"));
                self.path_lost(io, at, &error, out);
            } else if found.stuck & 1 << at != 0 {
                let why = self.unanswered(at);
                self.reset(io, at, why, out);
            }
        }
    }

    fn look(&mut self, now: Nanos) -> Found {
        let (io_ms, abort_ms) = (self.shared.options.io_timeout_ms, self.shared.options.abort_timeout_ms);
        // What waits or is about to be sent again may be sent right after this look.
        let soon = now.plus_ms(io_ms);
        let mut found = Found::default();
        for (id, slot) in self.shared.slots.iter() {
            let waits = slot.is_callers() && !matches!(slot.place, Place::Abandoned(_) | Place::Lent);
            if waits && slot.deadline <= now {
                found.expired.push(id);
                continue;
            }
            let deadline = if waits { slot.deadline } else { Nanos(u64::MAX) };
            let next = match slot.place {
                Place::Parked { until } if until <= now => {
                    found.due.push(id);
                    deadline.min(soon)
                }
                Place::Parked { until } => until.min(deadline),
                Place::Sent(under) | Place::Abandoned(under) if slot.origin != Origin::AsyncEvent => {
                    let route = &self.routes[usize::from(under.path)];
                    let aborting = route.aborting(id, slot.sent);
                    let late = aborting.map_or(slot.sent.plus_ms(io_ms), |a| a.until);
                    let may_abort = aborting.is_none() && abort_ms > 0 && under.queue > 0;
                    let earlier = || found.late.iter().filter(|(_, u)| u.path == under.path).count();
                    if late > now {
                        late.min(deadline)
                    } else if may_abort && route.path.is_live() && earlier() < route.aborts_left() {
                        found.late.push((id, under));
                        deadline.min(now.plus_ms(abort_ms))
                    } else if may_abort && now < late.plus_ms(abort_ms) {
                        // Others are being aborted: this one's turn comes, or the controller is reset for all.
                        deadline.min(late.plus_ms(abort_ms))
                    } else {
                        found.stuck |= 1 << under.path;
                        deadline
                    }
                }
                Place::Waiting | Place::Half if waits => deadline.min(soon),
                _ => continue,
            };
            self.wake_at = self.wake_at.min(next);
        }
        found
    }

    /// Asks the controller to abort a command that takes too long.
    fn abort(&mut self, io: &mut Io, victim: SlotId, under: Under) {
        let until = io.now().plus_ms(self.shared.options.abort_timeout_ms);
        let sent = self.shared.slots.get(victim).sent;
        let route = &mut self.routes[usize::from(under.path)];
        if route.path.abort(io, &mut self.shared, victim, under) {
            route.statistics.aborts += 1;
            route.aborting.push(Aborting { victim, sent, until, answered: false });
        }
    }

    /// An Abort was answered. True: the controller left alone what it was to abort, and is to be reset.
    pub(super) fn abort_answered(
        &mut self,
        at: usize,
        (victim, sent): (SlotId, Nanos),
        aborted: bool,
    ) -> bool {
        let slots = &self.shared.slots;
        let route = &mut self.routes[at];
        for a in route.aborting.iter_mut().filter(|a| (a.victim, a.sent) == (victim, sent)) {
            a.answered = true;
        }
        // What is over on both sides is nobody's affair any more; the next one's turn comes.
        route.aborting.retain(|a| !a.answered || slots.is_under_way(a.victim, a.sent));
        self.wake_at = Nanos(0);
        // One that was answered meanwhile could not be aborted.
        !aborted && slots.is_under_way(victim, sent)
    }

    /// Why a controller is reset that leaves a command alone.
    pub(super) fn unanswered(&self, at: usize) -> Error {
        let what = format!("{} left a command unanswered", self.routes[at].path.addr());
        Error::new(ErrorKind::Timeout, what)
    }

    /// Resets a controller; the association ends with its answer, or without it a little later.
    pub(super) fn reset(&mut self, io: &mut Io, at: usize, why: Error, out: &mut Out) {
        let route = &mut self.routes[at];
        if !route.path.is_live() {
            // It is being reset already, or on its way up: that has its own timeout.
            return;
        }
        route.statistics.resets += 1;
        let result = route.path.reset(io, &mut self.shared, why);
        self.choices.forget();
        self.after(io, at, result, out);
    }

    /// Completes commands whose deadline passed. The bits say which associations must end, since one of their commands
    /// could still be carried out.
    fn expire(&mut self, expired: &[SlotId], now: Nanos, out: &mut Out) -> u32 {
        let mut fences = 0;
        for &id in expired {
            let slot = self.shared.slots.get(id);
            match slot.place {
                Place::Waiting => {
                    self.shelter.retain(|&other| other != id);
                    self.routes.iter_mut().for_each(|route| route.forget(id));
                    self.finish(id, Err(Failure::Expired), now, out);
                }
                Place::Parked { .. } => self.finish(id, Err(Failure::Expired), now, out),
                Place::Sent(under) if !slot.changes_data() => self.abandon(id, under, now, out),
                Place::Sent(_) | Place::Half => {
                    // Of a pair that is answered by half the other half may be carried out yet.
                    let second = || self.shared.slots.get(self.partner(id)?).under();
                    if let Some(under) = slot.under().or_else(second) {
                        fences |= 1 << under.path;
                        self.expired.extend(slot.span().map(|span| (under.path, span)));
                    }
                    self.finish(id, Err(Failure::Expired), now, out);
                }
                _ => {}
            }
        }
        fences
    }

    /// Answers the caller of a read that is under way; the slot stays until the controller answers or is lost, and
    /// what still comes for it is thrown away.
    fn abandon(&mut self, id: SlotId, under: Under, now: Nanos, out: &mut Out) {
        self.make_whole(id);
        self.fences.disown(id);
        let slot = self.shared.slots.get_mut(id);
        let Origin::Caller { ticket, .. } = slot.origin else { return };
        let buf = match std::mem::replace(&mut slot.payload, Payload::None) {
            Payload::In(buf) => Some(buf),
            _ => None,
        };
        slot.place = Place::Abandoned(under);
        let completion = Completion {
            ticket,
            subsystem: self.shared.id,
            queue: under.queue.saturating_sub(1),
            result: Err(Failure::Expired),
            buf,
            submitted: slot.submitted,
            completed: now,
        };
        out.completions.push(completion);
        self.callers -= 1;
    }

    /// An association is over: its commands wait for the next one, go to another path, or fail.
    pub(super) fn path_lost(&mut self, io: &mut Io, at: usize, error: &Error, out: &mut Out) {
        let now = io.now();
        let was_live = self.routes[at].life == Life::Live;
        if was_live {
            self.note_loss(at, now);
        }
        self.routes[at].path.tear_down(io);
        self.fence(at, now);
        self.routes[at].forget_controller();
        self.first = self.first.filter(|first| *first != at);
        if was_live {
            let route = &mut self.routes[at];
            route.life = Life::Connecting;
            // One that ends as soon as it is live is no better than one that can't be made.
            if now >= route.live_since.plus_ms(self.shared.options.reconnect_max_ms) {
                route.tries = 0;
            }
            route.statistics.losses += 1;
        }
        // From now on nothing is put here but by a choice that is left with nothing else.
        self.choices.forget();
        self.measure();
        self.take_back_all(at, now, out);
        match self.state {
            State::Closing => return self.wake_at = now,
            State::Closed | State::Lost(_) => return,
            State::Live { .. } | State::Connecting => {}
        }
        if self.routes[at].is_given_up() {
            return self.none_live(now, out);
        }
        if error.is_final() {
            return self.give_up(io, at, error, out);
        }
        let pause = self.pause_ms(io, at);
        let route = &mut self.routes[at];
        route.path.retry_after(now.plus_ms(pause));
        let given_up_at = self.given_up_at(&self.routes[at]).unwrap_or(Nanos(u64::MAX));
        self.wake_at = self.wake_at.min(now.plus_ms(pause)).min(given_up_at);
        let (subsystem, path) = (self.shared.id, number(at));
        out.notices.push(Notice::PathLost { subsystem, path, error: error.clone() });
        self.none_live(now, out);
    }

    /// A live association ends: if it was any good, its path is away from now on; else it has been away all the time.
    fn note_loss(&mut self, at: usize, now: Nanos) {
        let path = number(at);
        let here = |under: &Under| under.path == path && under.queue > 0;
        let under_way = self.shared.slots.iter().filter(|(_, slot)| slot.under().as_ref().is_some_and(here));
        let oldest = under_way.map(|(_, slot)| slot.sent).min();
        let route = &mut self.routes[at];
        // A controller that is asked nothing is as good as it looks, once it has stayed for a while.
        let looked_good_until = oldest.unwrap_or(now);
        let stayed = looked_good_until >= route.live_since.plus_ms(self.shared.options.reconnect_max_ms);
        if stayed || route.has_answered() {
            (route.down_since, route.attempts, self.down_since) = (now, 0, now);
        }
    }

    /// With the last live path the subsystem is no longer live.
    fn none_live(&mut self, now: Nanos, out: &mut Out) {
        let any = self.routes.iter().any(|r| r.life == Life::Live);
        if !any && matches!(self.state, State::Live { .. }) {
            // It may be time to fail what waits.
            self.wake_at = now;
            self.set_state(State::Connecting, out);
        }
    }

    /// Everything that was under way or waited on a path that is over.
    fn take_back_all(&mut self, at: usize, now: Nanos, out: &mut Out) {
        let path = number(at);
        let under_way: Vec<SlotId> = self
            .shared
            .slots
            .iter()
            .filter(|(_, slot)| slot.under().is_some_and(|under| under.path == path))
            .map(|(id, _)| id)
            .collect();
        let waiting = if self.plain { Vec::new() } else { self.routes[at].empty() };
        let held = match self.shared.options.fencing {
            Fencing::Commands => self.quiet_at(at, now),
            Fencing::Blocks | Fencing::Off => None,
        };
        for id in under_way {
            self.take_back(id, (at, held), now, out);
        }
        self.enqueue_again(waiting);
    }

    /// Puts commands that waited in lanes on their way anew.
    pub(super) fn enqueue_again(&mut self, waiting: Vec<SlotId>) {
        for id in waiting {
            let slot = self.shared.slots.get(id);
            if slot.place == Place::Waiting && !matches!(slot.origin, Origin::Second { .. }) {
                self.enqueue(id);
            }
        }
    }

    /// A command of an association that is over.
    fn take_back(&mut self, id: SlotId, (at, held): (usize, Option<Nanos>), now: Nanos, out: &mut Out) {
        let slot = self.shared.slots.get(id);
        match (slot.place, slot.origin) {
            // The other half of a pair has taken this one with it, or as far as a send lets go of it.
            (Place::Free | Place::Lent, _) => {}
            (_, Origin::Second { first }) => self.finish(first, Err(Failure::Lost), now, out),
            (Place::Abandoned(_), _) => self.shared.slots.remove(id),
            (_, Origin::Caller { .. }) if slot.resend == Resend::Never => {
                self.finish(id, Err(Failure::Lost), now, out);
            }
            (_, Origin::Caller { .. }) => {
                self.routes[at].statistics.resent += 1;
                match held.filter(|_| slot.span().is_some()) {
                    Some(until) => {
                        self.shared.slots.get_mut(id).place = Place::Parked { until };
                        self.wake_at = self.wake_at.min(until);
                    }
                    None => self.enqueue(id),
                }
            }
            _ => self.shared.slots.remove(id),
        }
    }

    /// Pauses that double until a path stays live, with a jitter of a quarter, so that many hosts don't come back in step.
    fn pause_ms(&self, io: &mut Io, at: usize) -> u64 {
        let o = &self.shared.options;
        let doubled = o.reconnect_min_ms.saturating_mul(1 << self.routes[at].tries.saturating_sub(1).min(16));
        let pause = doubled.min(o.reconnect_max_ms);
        let mut random = [0u8; 1];
        io.random(&mut random);
        pause - pause / 4 * u64::from(random[0]) / 256
    }

    /// No more attempts on a path, which is down; with the last one every command fails.
    fn give_up(&mut self, io: &mut Io, at: usize, error: &Error, out: &mut Out) {
        let route = &mut self.routes[at];
        route.path.tear_down(io);
        route.life = Life::Lost(error.clone());
        let over = self.routes.iter().all(Route::is_given_up);
        if over {
            self.fail_all(Failure::Lost, io.now(), out);
            return self.set_state(State::Lost(error.clone()), out);
        }
        let (subsystem, path) = (self.shared.id, number(at));
        out.notices.push(Notice::PathGivenUp { subsystem, path, error: error.clone() });
        self.reroute();
        self.none_live(io.now(), out);
    }

    /// Takes a path away; see [`Initiator::remove_path`](crate::Initiator::remove_path).
    pub(crate) fn remove_path(&mut self, io: &mut Io, path: u8, out: &mut Out) -> bool {
        self.stirred = true;
        let at = usize::from(path);
        let there = self.routes.get(at).is_some_and(|r| r.life != Life::Removed);
        // One that was given up never comes back: with no other the subsystem would be for ever without a way, and not know it.
        let others = self.routes.iter().enumerate().any(|(other, r)| other != at && !r.is_given_up());
        if !others || !there {
            return false;
        }
        let was_live = self.routes[at].life == Life::Live;
        if was_live {
            self.note_loss(at, io.now());
        }
        self.routes[at].life = Life::Removed;
        self.routes[at].statistics.losses += u64::from(was_live);
        let error = Error::new(ErrorKind::Options, "the path was taken away");
        self.path_lost(io, at, &error, out);
        self.reroute();
        true
    }

    /// Fails what waits when no path has been live for too long.
    fn fail_fast(&mut self, io: &mut Io, out: &mut Out) {
        let Some(ms) = self.shared.options.fast_fail_ms else { return };
        if self.state != State::Connecting || self.failing {
            return;
        }
        let until = self.down_since.plus_ms(ms);
        if io.now() < until {
            self.wake_at = self.wake_at.min(until);
            return;
        }
        self.failing = true;
        self.fail_all(Failure::Lost, io.now(), out);
    }

    /// Fails every command of the callers; no connected queue may know any of them any more.
    fn fail_all(&mut self, why: Failure, now: Nanos, out: &mut Out) {
        for route in &mut self.routes {
            route.admin.clear();
            route.lanes.iter_mut().for_each(VecDeque::clear);
        }
        self.shelter.clear();
        let callers = self.shared.slots.iter().filter(|(_, s)| s.is_callers() && s.place != Place::Lent);
        let all: Vec<(SlotId, Place)> = callers.map(|(id, s)| (id, s.place)).collect();
        for (id, place) in all {
            match place {
                Place::Abandoned(_) => self.shared.slots.remove(id),
                _ => self.finish(id, Err(why), now, out),
            }
        }
    }

    /// Ends the subsystem: commands fail, the sockets close, the controllers are told if that can be done in order.
    pub(crate) fn disconnect(&mut self, io: &mut Io, out: &mut Out) {
        self.stirred = true;
        if matches!(self.state, State::Closing | State::Closed) {
            return;
        }
        let mut polite = false;
        for at in 0..self.routes.len() {
            let path = number(at);
            let on_admin = |under: Under| under.path == path && under.queue == 0;
            let busy =
                self.shared.slots.iter().any(|(_, s)| s.is_callers() && s.under().is_some_and(on_admin));
            let route = &mut self.routes[at];
            if route.path.is_live() && !busy && route.path.shut_down(io, &mut self.shared).is_ok() {
                polite = true;
            } else {
                route.path.tear_down(io);
            }
        }
        self.fail_all(Failure::Disconnected, io.now(), out);
        self.set_state(if polite { State::Closing } else { State::Closed }, out);
        self.wake_at = io.now();
    }
}
