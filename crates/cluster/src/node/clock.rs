//! Whether the time of day can be believed: by a clock that is ahead, snapshots would be deleted whose time is not over.
//!
//! A time is believed when the clock has held for as long as it has jumped beyond the last time that was believed: since the start
//! of the machine (RTCs are wrong by an hour or by years, and are put right some seconds after), or since it was set. What it jumps by
//! while it holds is the time that passes. So a snapshot can go too early by no more than a minute at a time, or, where a clock stays
//! wrong for a day, because nobody minds.
//!
//! A daemon that starts again on a machine that has been up all along has nothing to wait for: the last time that was believed is kept
//! with how long the machine had been up, and the clock must agree with what that is now.

use super::Uptime;
use crate::state::Belief;
use dolmen_types::UnixMillis;
use std::time::Duration;
use tokio::time::Instant;

/// What the clock may differ from the time that has passed between two looks. Milliseconds.
const SLACK_MS: u64 = 60_000;

/// What a clock has to hold for at least after a start or after it was set. Milliseconds.
const MIN_HOLD_MS: u64 = 15 * 60_000;

/// What is enough, however far it has jumped. Milliseconds.
const MAX_HOLD_MS: u64 = 24 * 3_600_000;

/// After how long a time that is believed is worth to be kept anew. Milliseconds.
const KEEP_PERIOD_MS: u64 = 3_600_000;

/// Watches the time of day from look to look.
#[derive(Debug)]
pub(super) struct Clock {
    /// The last time that was believed.
    believed: UnixMillis,
    last: (Instant, UnixMillis),
    /// Since when it has held, and for how long it has to before it is believed. `None`: it is.
    held: Option<(Instant, Duration)>,
    /// What the next start finds, if that is of this clock as it goes.
    kept: Option<UnixMillis>,
}

impl Clock {
    /// From a start on, of a node that has kept what it believed, and has written down something of a time before; if it has
    /// neither, nothing can be lost yet.
    pub(super) fn start(
        kept: Option<Belief>,
        newest: Option<UnixMillis>,
        now: (Instant, UnixMillis),
        uptime: Option<Uptime>,
    ) -> Clock {
        let before = newest.max(kept.map(|k| k.at));
        let mut clock = Clock { believed: before.unwrap_or(now.1), last: now, held: None, kept: None };
        let went_on = |kept: &Belief| uptime.and_then(|up| at_uptime(kept, up));
        let same = kept.filter(|kept| went_on(kept).is_some_and(|at| at.abs_diff(now.1.0) <= SLACK_MS));
        match same {
            Some(kept) => (clock.believed, clock.kept) = (now.1, Some(kept.at)),
            None if before.is_some() => clock.doubt(now),
            None => {}
        }
        clock
    }

    /// Whether this time can be believed.
    pub(super) fn believes(&mut self, now: (Instant, UnixMillis)) -> bool {
        let (last, then) = std::mem::replace(&mut self.last, now);
        let passed = u64::try_from(now.0.duration_since(last).as_millis()).unwrap_or(u64::MAX);
        if then.0.saturating_add(passed).abs_diff(now.1.0) > SLACK_MS {
            self.doubt(now);
        }
        if self.held.is_some_and(|(since, hold)| now.0.duration_since(since) < hold) {
            return false;
        }
        (self.held, self.believed) = (None, now.1);
        true
    }

    /// What a time that is written down now may be at the least: one before what was believed last is known to be wrong, and what ends so
    /// long after it would end too early.
    pub(super) fn at_least(&self, now: UnixMillis) -> UnixMillis {
        now.max(self.believed)
    }

    /// For how long it has to hold yet.
    pub(super) fn holds_for(&self, now: Instant) -> Duration {
        self.held.map_or(Duration::ZERO, |(since, hold)| hold.saturating_sub(now.duration_since(since)))
    }

    /// What is to be kept for the next start, of a time that was just believed: now and then.
    pub(super) fn take_belief(&mut self, uptime: Option<Uptime>) -> Option<Belief> {
        let at = self.believed;
        let worth = |kept: UnixMillis| at.0.abs_diff(kept.0) >= KEEP_PERIOD_MS;
        if self.held.is_some() || !self.kept.is_none_or(worth) {
            return None;
        }
        self.kept = Some(at);
        Some(Belief { at, uptime })
    }

    fn doubt(&mut self, now: (Instant, UnixMillis)) {
        let jumped_ms = now.1.0.saturating_sub(self.believed.0);
        let hold = Duration::from_millis(jumped_ms.clamp(MIN_HOLD_MS, MAX_HOLD_MS));
        (self.held, self.kept) = (Some((now.0, hold)), None);
        if jumped_ms >= MAX_HOLD_MS {
            tracing::warn!(
                days = jumped_ms / MAX_HOLD_MS,
                "the clock has gone on by days since it was believed last; snapshots whose time is over stay for a day yet: is it right?"
            );
        }
    }
}

/// The time of day by a clock that has gone on since that was believed, as long as the machine was not started anew.
fn at_uptime(kept: &Belief, now: Uptime) -> Option<u64> {
    let then = kept.uptime.filter(|then| then.boot == now.boot)?;
    Some(kept.at.0.saturating_add(now.ms.checked_sub(then.ms)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;
    const HOUR: u64 = 60 * MINUTE;
    const NOW: u64 = 500_000 * HOUR;

    /// Looks every five seconds, as long as the clock holds; when it was believed first.
    fn holds(clock: &mut Clock, began: Instant, (passed, wall): (u64, u64)) -> Option<u64> {
        (0..).map(|n| n * 5000).take_while(|ms| *ms <= 2 * MAX_HOLD_MS).find(|ms| {
            let at = began + Duration::from_millis(passed + ms);
            clock.believes((at, UnixMillis(wall + ms)))
        })
    }

    #[test]
    fn what_is_written_down_is_never_before_what_was_believed() {
        let began = Instant::now();
        let clock = Clock::start(None, Some(UnixMillis(NOW)), (began, UnixMillis(NOW - 9 * HOUR)), None);
        assert_eq!(clock.at_least(UnixMillis(NOW - 9 * HOUR)), UnixMillis(NOW));
        assert_eq!(clock.at_least(UnixMillis(NOW + HOUR)), UnixMillis(NOW + HOUR));
    }

    #[test]
    fn a_clock_must_hold_for_as_long_as_it_has_jumped() {
        let began = Instant::now();
        let start =
            |newest: Option<u64>| Clock::start(None, newest.map(UnixMillis), (began, UnixMillis(NOW)), None);
        let after = |newest| holds(&mut start(newest), began, (0, NOW));
        assert_eq!(after(None), Some(0), "nothing was ever written by this node");
        assert_eq!(after(Some(NOW - 5000)), Some(MIN_HOLD_MS));
        assert_eq!(
            after(Some(NOW + 90 * 24 * HOUR)),
            Some(MIN_HOLD_MS),
            "it is behind: that deletes nothing"
        );
        assert_eq!(after(Some(NOW - 2 * HOUR)), Some(2 * HOUR), "it was off, or the RTC has local time");
        assert_eq!(after(Some(NOW - 90 * 24 * HOUR)), Some(MAX_HOLD_MS));
        // Wrong by months, and put right after half a minute.
        let mut clock = start(Some(NOW - 90 * 24 * HOUR));
        for ms in (0..30_000).step_by(5000) {
            assert!(!clock.believes((began + Duration::from_millis(ms), UnixMillis(NOW + ms))));
        }
        let right = NOW - 90 * 24 * HOUR + 30_000;
        assert_eq!(holds(&mut clock, began, (30_000, right)), Some(MIN_HOLD_MS));
        // Set while it runs, or the machine was asleep.
        let (at, wall) = (MIN_HOLD_MS + 40_000, right + MIN_HOLD_MS + 10_000);
        assert_eq!(holds(&mut clock, began, (at, wall)), Some(0), "nothing was set");
        assert_eq!(holds(&mut clock, began, (at + 5000, wall + 3 * HOUR)), Some(3 * HOUR));
    }
    #[test]
    fn a_start_on_a_machine_that_has_been_up_all_along_has_nothing_to_wait_for() {
        let began = Instant::now();
        let up = |boot, ms| Some(Uptime { boot: dolmen_types::Uuid([boot; 16]), ms });
        let mut first = Clock::start(None, None, (began, UnixMillis(NOW)), up(1, HOUR));
        let kept = first.take_belief(up(1, HOUR));
        assert_eq!(
            (kept.unwrap().at, first.take_belief(up(1, HOUR))),
            (UnixMillis(NOW), None),
            "it is kept once"
        );
        let after = |wall: u64, uptime| {
            let mut clock = Clock::start(kept, Some(UnixMillis(NOW)), (began, UnixMillis(wall)), uptime);
            holds(&mut clock, began, (0, wall))
        };
        let later = 90 * 24 * HOUR;
        assert_eq!(after(NOW + later, up(1, HOUR + later)), Some(0), "down for months");
        assert_eq!(after(NOW + 7000, up(1, HOUR + 5000)), Some(0), "the clock drifts");
        // Set while nobody looked; another start of the machine; a counter that went back; nobody knows.
        assert_eq!(after(NOW + 2 * HOUR, up(1, HOUR + 5000)), Some(2 * HOUR));
        assert_eq!(after(NOW + 5000, up(2, HOUR + 5000)), Some(MIN_HOLD_MS));
        assert_eq!(after(NOW + 5000, up(1, 5000)), Some(MIN_HOLD_MS));
        assert_eq!(after(NOW + 5000, None), Some(MIN_HOLD_MS));
    }

    #[test]
    fn a_time_is_kept_now_and_then_and_never_one_that_is_in_doubt() {
        let began = Instant::now();
        let mut clock = Clock::start(None, None, (began, UnixMillis(NOW)), None);
        let mut look = |ms: u64, jump: u64| {
            let now = (began + Duration::from_millis(ms), UnixMillis(NOW + ms + jump));
            clock.believes(now).then(|| clock.take_belief(None).is_some())
        };
        assert_eq!(look(0, 0), Some(true));
        assert_eq!(look(HOUR - 5000, 0), Some(false));
        assert_eq!(look(HOUR, 0), Some(true));
        assert_eq!(look(HOUR + 5000, HOUR), None, "it was set");
        assert_eq!(look(2 * HOUR + 10_000, HOUR), Some(true), "at once when it is believed again");
    }
}
