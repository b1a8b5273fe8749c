//! What is told of a job while it works, and how its connection fares.

use dolmen_initiator::{Notice, State};
use dolmen_types::Nanos;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How often a job tells how far it is. Milliseconds.
pub(super) const TELL_MS: u64 = 100;

/// What all see of a job while it works, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Told {
    /// Commands done since the order.
    pub(super) operations: AtomicU64,
    /// Commands that the order will take, where that is known.
    pub(super) of: AtomicU64,
    /// Connections lost since the start.
    pub(super) losses: AtomicU64,
    /// Those of them that were made again.
    pub(super) returns: AtomicU64,
    /// For how long there has been no connection; 0 while there is one. Milliseconds.
    pub(super) away_ms: AtomicU64,
}

/// The connection of a job, as its session's notices tell.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// Since when there is none.
    away_since: Option<Nanos>,
    /// Why it was given up.
    given_up: Option<String>,
    losses: u64,
    returns: u64,
}

impl Link {
    /// Takes what happened, and tells how it stands.
    pub(super) fn note(&mut self, notices: Vec<Notice>, now: Nanos, told: &Told) {
        for notice in notices {
            match notice {
                Notice::PathLive { .. } => self.come_back(),
                Notice::PathLost { .. } => self.lose(now),
                Notice::State { state: State::Lost(why), .. } => {
                    self.lose(now);
                    self.given_up = Some(why.to_string());
                }
                _ => {}
            }
        }
        told.losses.store(self.losses, Relaxed);
        told.returns.store(self.returns, Relaxed);
        told.away_ms.store(self.away_since.map_or(0, |since| (now.since(since) / 1_000_000).max(1)), Relaxed);
    }

    /// Attempts to connect again that fail are no losses.
    fn lose(&mut self, now: Nanos) {
        if self.away_since.is_none() {
            (self.away_since, self.losses) = (Some(now), self.losses + 1);
        }
    }

    fn come_back(&mut self) {
        self.returns += u64::from(self.away_since.take().is_some());
    }

    /// True when there is none.
    pub(super) fn is_away(&self) -> bool {
        self.away_since.is_some()
    }

    /// Why it was given up, if it was.
    pub(super) fn given_up(&self) -> Option<&str> {
        self.given_up.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_attempts_are_no_losses_and_what_came_back_is_counted() {
        let (mut link, told) = (Link::default(), Told::default());
        let told_at = |link: &mut Link, ms: u64| {
            link.note(Vec::new(), Nanos(ms * 1_000_000), &told);
            [&told.losses, &told.returns, &told.away_ms].map(|number| number.load(Relaxed))
        };
        link.come_back();
        assert_eq!((told_at(&mut link, 500), link.is_away()), ([0, 0, 0], false));
        link.lose(Nanos(1_000_000_000));
        link.lose(Nanos(2_000_000_000));
        assert_eq!((told_at(&mut link, 3500), link.is_away()), ([1, 0, 2500], true));
        link.come_back();
        assert_eq!((told_at(&mut link, 4000), link.is_away()), ([1, 1, 0], false));
    }
}
