//! When the next command of a load with a given rate is due.

use dolmen_types::Nanos;

const SECOND_NS: u128 = 1_000_000_000;

/// A schedule of so many commands a second. It never forgives: a command that could not be issued in time stays due
/// at its own time, so that a target's pause is felt by every command that fell into it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    per_second: u64,
    start: Nanos,
    issued: u64,
}

impl Pace {
    /// `per_second` commands a second, the first one at `start`. `per_second` is not 0.
    pub(super) fn new(per_second: u64, start: Nanos) -> Pace {
        Pace { per_second, start, issued: 0 }
    }

    /// When the next command is due.
    pub(super) fn next_due(&self) -> Nanos {
        self.due(0)
    }

    /// When the one is due that is to be issued after `ahead` others.
    pub(super) fn due(&self, ahead: u64) -> Nanos {
        let after = (u128::from(self.issued) + u128::from(ahead)) * SECOND_NS / u128::from(self.per_second);
        Nanos(self.start.0.saturating_add(u64::try_from(after).unwrap_or(u64::MAX)))
    }

    /// The command that was due is issued.
    pub(super) fn issue(&mut self) {
        self.issued += 1;
    }

    /// Commands that are due at `now` and not issued.
    pub(super) fn behind(&self, now: Nanos) -> u64 {
        let due = u128::from(now.since(self.start)) * u128::from(self.per_second) / SECOND_NS;
        u64::try_from(due).unwrap_or(u64::MAX).saturating_sub(self.issued)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_due_one_after_the_other_whatever_happened_before() {
        let mut pace = Pace::new(3, Nanos(1_000));
        let mut due = Vec::new();
        for _ in 0..4 {
            due.push(pace.next_due().0);
            pace.issue();
        }
        assert_eq!(due, [1_000, 333_334_333, 666_667_666, 1_000_001_000]);
        assert_eq!((pace.due(0), pace.due(2)), (pace.next_due(), Nanos(2_000_001_000)));
        assert_eq!(pace.behind(Nanos(1_000_001_000)), 0);
        assert_eq!(pace.behind(Nanos(3_000_001_000)), 5);
    }
}
