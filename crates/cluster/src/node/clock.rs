//! Whether the time of day can be believed: by a clock that is ahead, snapshots would be deleted whose time is not over.
//!
//! A time is believed when the clock has held for as long as it has jumped beyond the last time that was believed: since the start
//! (RTCs are wrong by an hour or by years, and are put right some seconds after), or since it was set. What it jumps by while it
//! holds is the time that passes. So a snapshot can go too early by no more than a minute at a time, or, where a clock stays wrong for
//! a day, because nobody minds.

use dolmen_types::UnixMillis;
use std::time::Duration;
use tokio::time::Instant;

/// What the clock may differ from the time that has passed between two looks. Milliseconds.
const SLACK_MS: u64 = 60_000;

/// What a clock has to hold for at least after a start or after it was set. Milliseconds.
const MIN_HOLD_MS: u64 = 15 * 60_000;

/// What is enough, however far it has jumped. Milliseconds.
const MAX_HOLD_MS: u64 = 24 * 3_600_000;

/// Watches the time of day from look to look.
#[derive(Debug)]
pub(super) struct Clock {
    /// The last time that was believed.
    believed: UnixMillis,
    last: (Instant, UnixMillis),
    /// Since when it has held, and for how long it has to before it is believed. `None`: it is.
    held: Option<(Instant, Duration)>,
}

impl Clock {
    /// From a start on, of a node that has written down something of that time before; if it has not, nothing can be lost yet.
    pub(super) fn start(newest: Option<UnixMillis>, now: (Instant, UnixMillis)) -> Clock {
        let mut clock = Clock { believed: newest.unwrap_or(now.1), last: now, held: None };
        if newest.is_some() {
            clock.doubt(now);
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

    fn doubt(&mut self, now: (Instant, UnixMillis)) {
        let jumped_ms = now.1.0.saturating_sub(self.believed.0);
        let hold = Duration::from_millis(jumped_ms.clamp(MIN_HOLD_MS, MAX_HOLD_MS));
        self.held = Some((now.0, hold));
        if jumped_ms >= MAX_HOLD_MS {
            tracing::warn!(
                days = jumped_ms / MAX_HOLD_MS,
                "the clock has gone on by days since it was believed last; snapshots whose time is over stay for a day yet: is it right?"
            );
        }
    }
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
    fn a_clock_must_hold_for_as_long_as_it_has_jumped() {
        let began = Instant::now();
        let start = |newest: Option<u64>| Clock::start(newest.map(UnixMillis), (began, UnixMillis(NOW)));
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
}
