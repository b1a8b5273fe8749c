//! Before a command is looked at at all: may its volume have another one now? Those that must wait do so here, by volume
//! and direction, in the order in which they came; the others never notice. They hold no slot and no lock, and their
//! deadline runs.

use super::take_those;
use crate::{Request, Volumes, backing::Log, qos, volume::Life};
use dolmen_io::Stage;
use dolmen_types::{Nanos, Nsid};
use std::cmp::Reverse;

impl Volumes {
    /// A command has come: it goes on, or waits until its volume's limits let it.
    pub(crate) fn arrive<L: Log>(&mut self, mut request: Request, log: &mut L) {
        request.stamps.mark(Stage::Home, log.now());
        let Some(request) = self.go_straight(request, log.now()) else {
            self.run_straights(log);
            return;
        };
        if let Some(request) = self.hold(request, log.now()) {
            self.enter(request, log);
        }
    }

    /// Keeps a command that has to wait.
    fn hold(&mut self, request: Request, now: Nanos) -> Option<Request> {
        let slot = request.volume.slot as usize;
        let serves = |v: &&mut crate::volume::Volume| {
            v.throttle.is_on() && v.at == request.volume && v.life == Life::Serving
        };
        let Some(volume) = self.volumes.get_mut(slot).filter(serves) else { return Some(request) };
        let Some((direction, bytes)) = qos::price(&request.command, volume.sector_shift) else {
            return Some(request);
        };
        let lane = &mut volume.throttle.lanes[direction];
        if lane.waiting.is_empty() && lane.is_open(now) {
            lane.pay(bytes, now);
            return Some(request);
        }
        lane.waiting.push_back((request, now));
        let is_watched = lane.alarm.is_some();
        volume.stats.throttled += 1;
        self.throttled += 1;
        if !is_watched {
            self.set_alarm(slot, direction, now);
        }
        None
    }

    /// Lets on what may go on by now.
    pub(crate) fn run_alarms<L: Log>(&mut self, log: &mut L) {
        let now = log.now();
        while let Some(Reverse((at, id, slot, direction))) = self.alarms.peek().copied()
            && at <= now
        {
            self.alarms.pop();
            // One that is not the lane's own any more was replaced, or its volume is gone.
            if self.volumes[slot].throttle.lanes[direction].alarm == Some(id) {
                self.let_on(slot, direction, log);
            }
        }
    }

    /// Lets on the commands of one direction as far as the limits allow; all of them when the volume does not serve any
    /// more. To be called when the limits have changed, or the volume's life has.
    pub(crate) fn let_on<L: Log>(&mut self, slot: usize, direction: usize, log: &mut L) {
        let now = log.now();
        self.volumes[slot].throttle.lanes[direction].alarm = None;
        loop {
            let volume = &mut self.volumes[slot];
            let lane = &mut volume.throttle.lanes[direction];
            let Some((request, _)) = lane.waiting.front() else { return };
            if volume.life == Life::Serving && now < request.deadline {
                if !lane.is_open(now) {
                    return self.set_alarm(slot, direction, now);
                }
                let price = qos::price(&request.command, volume.sector_shift);
                let (_, bytes) = price.expect("it had a price when it came");
                lane.pay(bytes, now);
            }
            let (mut request, since) = lane.waiting.pop_front().expect("it was looked at");
            request.stamps.mark(Stage::Allowed, now);
            volume.stats.throttled_ns += now.since(since);
            self.throttled -= 1;
            self.enter(request, log);
        }
    }

    /// Answers those that wait too long, whatever is before them: doors give their commands different times.
    pub(crate) fn expire_throttled<L: Log>(&mut self, log: &mut L) {
        let now = log.now();
        let lanes: Vec<(usize, usize)> = self.alarms.iter().map(|Reverse((_, _, s, d))| (*s, *d)).collect();
        for (slot, direction) in lanes {
            let volume = &mut self.volumes[slot];
            let waiting = &mut volume.throttle.lanes[direction].waiting;
            for (mut request, since) in take_those(waiting, |(request, _)| now >= request.deadline) {
                request.stamps.mark(Stage::Allowed, now);
                self.volumes[slot].stats.throttled_ns += now.since(since);
                self.throttled -= 1;
                self.enter(request, log);
            }
        }
    }

    /// Commands of one namespace that wait for their volume's limits now, those that read and those that write, each in the order in which
    /// they came.
    #[must_use]
    pub fn held_back(&self, nsid: Nsid) -> [Vec<&Request>; 2] {
        let volume = self.volumes.iter().find(|v| v.life == Life::Serving && v.descriptor.nsid == nsid);
        let lane =
            |direction: usize| volume.into_iter().flat_map(move |v| &v.throttle.lanes[direction].waiting);
        qos::DIRECTIONS.map(|direction| lane(direction).map(|(request, _)| request).collect())
    }

    fn set_alarm(&mut self, slot: usize, direction: usize, now: Nanos) {
        self.next_alarm += 1;
        let lane = &mut self.volumes[slot].throttle.lanes[direction];
        lane.alarm = Some(self.next_alarm);
        self.alarms.push(Reverse((lane.look_at(now), self.next_alarm, slot, direction)));
    }
}
