//! When a core spins and when it sleeps.
//!
//! Polling more than doubles the rate at low concurrency, and an idle core must cost nothing: so a core polls while
//! work came within a short window, and waits in the kernel otherwise.

use crate::Wait;
use dolmen_types::Nanos;

/// What the turn that just ended had to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing came and nothing is left.
    Idle,
    /// Something was done, and what remains waits for the driver or for messages.
    Worked,
    /// Something could be done at once in another turn: don't wait at all.
    MoreToDo,
}

/// Decides how a core's next look at the driver waits.
#[derive(Clone, Debug)]
pub struct Poller {
    spin_ns: u64,
    last_work: Nanos,
}

impl Poller {
    /// Spins for `spin_ns` nanoseconds after the last work: 0 never, `u64::MAX` always.
    #[must_use]
    pub fn new(spin_ns: u64) -> Poller {
        Poller { spin_ns, last_work: Nanos(0) }
    }

    /// How the next look waits, given what the turn that began at `now` did. Timers bound the wait by themselves.
    pub fn wait(&mut self, now: Nanos, turn: Turn) -> Wait {
        if turn != Turn::Idle {
            self.last_work = now;
        }
        let spin = self.spin_ns == u64::MAX || now.since(self.last_work) < self.spin_ns;
        if spin || turn == Turn::MoreToDo { Wait::No } else { Wait::Forever }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spins_inside_the_window_only() {
        let mut p = Poller::new(50);
        assert_eq!(p.wait(Nanos(1000), Turn::Idle), Wait::Forever);
        assert_eq!(p.wait(Nanos(1010), Turn::Worked), Wait::No);
        assert_eq!(p.wait(Nanos(1059), Turn::Idle), Wait::No);
        assert_eq!(p.wait(Nanos(1060), Turn::Idle), Wait::Forever);
        assert_eq!(Poller::new(0).wait(Nanos(5), Turn::Worked), Wait::Forever);
        assert_eq!(Poller::new(0).wait(Nanos(5), Turn::MoreToDo), Wait::No);
        assert_eq!(Poller::new(u64::MAX).wait(Nanos(u64::MAX), Turn::Idle), Wait::No);
    }
}
