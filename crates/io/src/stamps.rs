//! Time stamps of the stages of one request, so that tools can tell where its time went: always on, so they are small and cost
//! a store each. A stamp is the time of the turn in which a stage was reached; no clock is read for it.

use dolmen_types::Nanos;

/// A point in the life of one host command. The order is the usual order of the stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Stage {
    /// Its capsule was parsed on the connection's core.
    Received = 0,
    /// All of its data is here (writes).
    DataIn = 1,
    /// The target gave it to the volumes, here or on another core.
    Handed = 2,
    /// It reached its home core.
    Home = 3,
    /// Its volume's QoS policy let it go on (if that held it back).
    Allowed = 4,
    /// It got a slot among its volume's commands under way.
    Admitted = 5,
    /// The blocks that it touches are its own.
    Granted = 6,
    /// It was sequenced (writes): what it had to read before it could be is read.
    Sequenced = 7,
    /// Its drive operations were submitted.
    Submitted = 8,
    /// Its drive operations are complete.
    Drive = 9,
    /// Its home core has done with it.
    Ended = 10,
    /// Its reply was staged on the connection's core.
    Replied = 11,
}

impl Stage {
    /// How many there are.
    pub const COUNT: usize = 12;
}

/// Log2 of the unit of a stamp: 32 ns.
const UNIT_BITS: u32 = 5;

/// Log2 of the unit of short times: 128 ns.
const SHORT_BITS: u32 = 7;

/// The stamps of one request: when it was received, and each other stage modulo 2^32 units, so that a request may take about a
/// minute before a stage seems to lie before its receipt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamps {
    received: u64,
    /// 0: the request did not pass through the stage.
    at: [u32; Stage::COUNT - 1],
    lag: u16,
    work: u16,
    /// The drive that it waited for last, by its place in the pool, counted from 1.
    drive: u16,
}

impl Stamps {
    /// Stamps of a request that was received at `now`, when the turn before had kept the core for at most `lag_ns`.
    #[inline]
    #[must_use]
    pub fn received(now: Nanos, lag_ns: u64) -> Stamps {
        Stamps { received: now.0, lag: short(lag_ns), ..Stamps::default() }
    }

    /// Records that `stage` was reached at `now` (the turn's time: stages within one turn read alike). The first one is
    /// [`Stage::Received`].
    #[inline]
    pub fn mark(&mut self, stage: Stage, now: Nanos) {
        match (stage as usize).checked_sub(1) {
            // The low bits: what is lost comes back with the time of receipt. Odd, so that it is never 0.
            #[allow(clippy::cast_possible_truncation)]
            Some(at) => self.at[at] = (now.0 >> UNIT_BITS) as u32 | 1,
            None => self.received = now.0,
        }
    }

    /// Records what the store told of its part: drive operations, the work before them, and the drive that came last.
    #[inline]
    pub fn mark_drive(&mut self, submitted: Nanos, complete: Nanos, work_ns: u64, drive: Option<u16>) {
        self.mark(Stage::Submitted, submitted);
        self.mark(Stage::Drive, complete);
        self.work = self.work.saturating_add(short(work_ns));
        self.drive = drive.map_or(0, |drive| drive.saturating_add(1));
    }

    /// When `stage` was reached, if it was; never before the request was received.
    #[must_use]
    pub fn at(&self, stage: Stage) -> Option<Nanos> {
        let Some(at) = (stage as usize).checked_sub(1) else {
            return (self.received != 0).then_some(Nanos(self.received));
        };
        let stamp = self.at[at];
        if stamp == 0 {
            return None;
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
        let units = stamp.wrapping_sub((self.received >> UNIT_BITS) as u32 | 1) as i32;
        let ns = u64::try_from(units).unwrap_or(0) << UNIT_BITS;
        Some(Nanos(self.received.saturating_add(ns)))
    }

    /// How long its bytes may have waited in the socket before the core looked, at most. Nanoseconds.
    #[must_use]
    pub fn lag_ns(&self) -> u64 {
        u64::from(self.lag) << SHORT_BITS
    }

    /// What compressing, encrypting and verifying took, as far as it was measured. Nanoseconds.
    #[must_use]
    pub fn work_ns(&self) -> u64 {
        u64::from(self.work) << SHORT_BITS
    }

    /// The drive that it waited for last, by its place in the pool.
    #[must_use]
    pub fn drive(&self) -> Option<u16> {
        self.drive.checked_sub(1)
    }
}

/// A short time, rounded up to its unit; what is too long reads as the longest.
#[inline]
fn short(ns: u64) -> u16 {
    u16::try_from(ns.saturating_add((1 << SHORT_BITS) - 1) >> SHORT_BITS).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// They travel with every command.
    #[test]
    fn stamps_fit_a_cache_line() {
        assert!(size_of::<Stamps>() <= 64, "{}", size_of::<Stamps>());
    }

    #[test]
    fn stages_are_told_to_their_unit_and_never_before_the_receipt() {
        // Near the end of the 32 bits, so that later stages wrap round.
        for begin in [1, 1_000_000, (u64::from(u32::MAX) << UNIT_BITS) - 500, 1 << 60] {
            let mut stamps = Stamps::received(Nanos(begin), 300);
            stamps.mark(Stage::Home, Nanos(begin + 64_000));
            stamps.mark_drive(Nanos(begin + 70_000), Nanos(begin + 30_000_000_000), 1000, Some(3));
            // Another core's turn may have begun before.
            stamps.mark(Stage::Ended, Nanos(begin.saturating_sub(400)));
            let ns = |stage| stamps.at(stage).map(|at| at.since(Nanos(begin)));
            assert_eq!(ns(Stage::Received), Some(0));
            assert!(ns(Stage::Home).is_some_and(|ns| ns.abs_diff(64_000) <= 64));
            assert!(ns(Stage::Drive).is_some_and(|ns| ns.abs_diff(30_000_000_000) <= 64));
            assert_eq!((ns(Stage::Ended), ns(Stage::Granted)), (Some(0), None));
            assert_eq!((stamps.lag_ns(), stamps.work_ns(), stamps.drive()), (384, 1024, Some(3)));
        }
        assert_eq!(Stamps::default().at(Stage::Received), None);
        assert_eq!(Stamps::received(Nanos(1), u64::MAX).lag_ns(), u64::from(u16::MAX) << SHORT_BITS);
    }
}
