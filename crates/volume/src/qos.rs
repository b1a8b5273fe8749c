//! The rate of one volume: how many commands and bytes per second it may have, reads and writes apart, and the commands
//! that wait until it may have more.
//!
//! Each limit is a token bucket, kept as the one number that matters: the time at which it is out of debt. A command
//! goes on when no bucket is in debt, and then pays its whole price, so that one large command never waits for more
//! tokens than a bucket can hold. An idle bucket saves up [`BURST_NS`] worth of tokens, no more.

use crate::{Command, Request};
use dolmen_types::{
    Nanos,
    limits::MAX_TRANSFER_BYTES,
    qos::{PerDirection, QosAssignment},
};
use std::collections::VecDeque;

/// What an idle volume may catch up on. It also makes up for commands being let on a little late.
pub(crate) const BURST_NS: u64 = 50_000_000;

/// Shortest time between two looks at commands that wait: many go on together rather than each with a timer of its own.
pub(crate) const GRAIN_NS: u64 = 500_000;

const SECOND_NS: u64 = 1_000_000_000;
const GIB: u128 = 1 << 30;
const MEGABYTE: u64 = 1_000_000;

/// The directions, as indices.
pub(crate) const DIRECTIONS: [usize; 2] = [READ, WRITE];
const READ: usize = 0;
const WRITE: usize = 1;

/// What a command costs: its direction, and its bytes. `None` for those that limits do not concern: a reservation may be
/// what takes a volume away from a host that floods it, and a flush has nothing to do.
pub(crate) fn price(command: &Command, sector_shift: u32) -> Option<(usize, u64)> {
    let (direction, sectors) = match command {
        Command::Read { blocks, .. } | Command::Compare { blocks, .. } | Command::Verify { blocks, .. } => {
            (READ, u64::from(*blocks))
        }
        Command::Allocation { .. } => (READ, 0),
        Command::Write { blocks, .. } | Command::CompareAndWrite { blocks, .. } => {
            (WRITE, u64::from(*blocks))
        }
        Command::Copy { sources, .. } => (WRITE, sources.iter().map(|s| u64::from(s.blocks)).sum()),
        Command::WriteZeroes { .. } | Command::Deallocate { .. } => (WRITE, 0),
        Command::Flush | Command::Reservation(_) => return None,
    };
    // What is longer will be refused, and must not put the volume in debt for hours.
    Some((direction, (sectors << sector_shift).min(MAX_TRANSFER_BYTES as u64)))
}

/// A token bucket; see the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bucket {
    /// Tokens per second; 0 is no limit.
    rate: u64,
    /// When it is out of debt.
    even: Nanos,
}

impl Bucket {
    fn is_open(&self, now: Nanos) -> bool {
        self.rate == 0 || self.even <= now
    }

    fn pay(&mut self, tokens: u64, now: Nanos) {
        if self.rate > 0 {
            let saved = now.0.saturating_sub(BURST_NS);
            let time = tokens.saturating_mul(SECOND_NS).div_ceil(self.rate);
            self.even = Nanos(self.even.0.max(saved).saturating_add(time));
        }
    }

    /// A debt stays the same number of tokens.
    fn set_rate(&mut self, rate: u64, now: Nanos) {
        if self.rate != 0 && rate != 0 {
            let debt = u128::from(self.even.since(now)) * u128::from(self.rate) / u128::from(rate);
            self.even = Nanos(now.0.saturating_add(u64::try_from(debt).unwrap_or(u64::MAX)));
        } else {
            self.even = Nanos(0);
        }
        self.rate = rate;
    }
}

/// One direction of a volume.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    commands: Bucket,
    bytes: Bucket,
    /// Commands that wait, in the order in which they came, each with the time of that.
    pub(crate) waiting: VecDeque<(Request, Nanos)>,
    /// The alarm that lets them on, while there are some.
    pub(crate) alarm: Option<u64>,
}

impl Lane {
    /// True when another command may go on.
    pub(crate) fn is_open(&self, now: Nanos) -> bool {
        self.commands.is_open(now) && self.bytes.is_open(now)
    }

    /// Counts a command that goes on.
    pub(crate) fn pay(&mut self, bytes: u64, now: Nanos) {
        self.commands.pay(1, now);
        self.bytes.pay(bytes, now);
    }

    /// When to look again, if a command must wait now.
    pub(crate) fn look_at(&self, now: Nanos) -> Nanos {
        Nanos(self.commands.even.max(self.bytes.even).0.max(now.0.saturating_add(GRAIN_NS)))
    }
}

/// Both directions of a volume.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    pub(crate) lanes: [Lane; 2],
    limited: bool,
}

impl Throttle {
    /// That of a volume of this size under this policy.
    pub(crate) fn new(qos: Option<&QosAssignment>, size_bytes: u64) -> Throttle {
        let mut throttle = Throttle::default();
        throttle.set(qos, size_bytes, Nanos(0));
        throttle
    }

    /// Puts other limits in force. Commands that wait are not let on by this; see
    /// [`Volumes::let_on`](crate::Volumes::let_on).
    pub(crate) fn set(&mut self, qos: Option<&QosAssignment>, size_bytes: u64, now: Nanos) {
        let limits = qos.map(|q| q.limits).unwrap_or_default();
        let pick = |limit: PerDirection| [limit.read, limit.write];
        let (iops, megabytes, per_gib) =
            (pick(limits.iops), pick(limits.megabytes), pick(limits.iops_per_gib));
        for direction in DIRECTIONS {
            let lane = &mut self.lanes[direction];
            let by_size = match per_gib[direction] {
                0 => 0,
                rate => {
                    let commands = u128::from(rate) * u128::from(size_bytes) / GIB;
                    u64::try_from(commands).unwrap_or(u64::MAX).max(1)
                }
            };
            lane.commands.set_rate(stricter(u64::from(iops[direction]), by_size), now);
            lane.bytes.set_rate(u64::from(megabytes[direction]) * MEGABYTE, now);
        }
        self.limited = !limits.is_unlimited();
    }

    /// True when commands have to be looked at.
    pub(crate) fn is_on(&self) -> bool {
        self.limited || self.lanes.iter().any(|lane| !lane.waiting.is_empty())
    }
}

/// The smaller of two limits, where 0 is none.
fn stricter(a: u64, b: u64) -> u64 {
    if a == 0 || b == 0 { a.max(b) } else { a.min(b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dolmen_types::{Uuid, qos::QosLimits};

    fn limited(limits: QosLimits) -> QosAssignment {
        QosAssignment { policy: Uuid([1; 16]), revision: 1, name: "p".into(), limits }
    }

    /// Commands of `bytes` that go on within `ms` when there is always one that wants to, looked at every `step_us`.
    fn passed(lane: &mut Lane, bytes: u64, from: Nanos, ms: u64, step_us: u64) -> u64 {
        let (mut now, mut count) = (from, 0);
        while now < from.plus_ms(ms) {
            while lane.is_open(now) {
                lane.pay(bytes, now);
                count += 1;
            }
            now = Nanos(now.0 + step_us * 1000);
        }
        count
    }

    #[test]
    fn the_rate_holds_however_late_one_looks() {
        let start = Nanos(1 << 40);
        for (iops, step_us) in [(1, 100), (777, 500), (10_000, 500), (10_000, 9_000), (300_000, 500)] {
            let limits = QosLimits { iops: PerDirection { read: iops, write: 0 }, ..QosLimits::default() };
            let mut throttle = Throttle::new(Some(&limited(limits)), 4096);
            let count = passed(&mut throttle.lanes[READ], 4096, start, 4000, step_us);
            let (least, burst) = (4 * u64::from(iops), u64::from(iops) / 20 + 1);
            assert!((least * 998 / 1000..=least + burst).contains(&count), "{iops} IOPS: {count}");
            assert!(throttle.lanes[WRITE].is_open(start), "writes are apart");
        }
    }

    #[test]
    fn bytes_count_and_a_large_command_is_paid_for_afterwards() {
        let limits = QosLimits { megabytes: PerDirection { read: 0, write: 10 }, ..QosLimits::default() };
        let mut throttle = Throttle::new(Some(&limited(limits)), 4096);
        let start = Nanos(1 << 40);
        let count = passed(&mut throttle.lanes[WRITE], 262_144, start, 10_000, 500);
        assert!((381..=384).contains(&count), "100 MB in pieces of 256 KiB: {count}");
        let lane = &throttle.lanes[WRITE];
        let now = start.plus_ms(10_000);
        assert!(!lane.is_open(now) && lane.look_at(now) > now);
    }

    #[test]
    fn the_size_counts_and_the_stricter_limit_holds() {
        let limits = QosLimits {
            iops: PerDirection { read: 100, write: 100 },
            iops_per_gib: PerDirection { read: 30, write: 1 },
            ..QosLimits::default()
        };
        let mut throttle = Throttle::default();
        for (size, read, write) in [(1 << 30, 30, 1), (3 << 30, 90, 3), (4 << 30, 100, 4), (4096, 1, 1)] {
            throttle.set(Some(&limited(limits)), size, Nanos(5));
            assert_eq!(throttle.lanes.each_ref().map(|lane| lane.commands.rate), [read, write]);
        }
        throttle.set(None, 4096, Nanos(5));
        assert!(!throttle.is_on() && throttle.lanes.iter().all(|lane| lane.is_open(Nanos(5))));
    }

    #[test]
    fn a_debt_is_worked_off_at_the_new_rate() {
        let mut bucket = Bucket { rate: 10, even: Nanos(0) };
        let now = Nanos(1 << 40);
        bucket.pay(100, now);
        bucket.set_rate(1000, now);
        assert!(bucket.even.since(now) <= 100_000_000, "100 tokens at 1000 a second");
        bucket.set_rate(10, now);
        assert!(bucket.even.since(now) > 9_000_000_000);
        bucket.set_rate(0, now);
        assert!(bucket.is_open(now));
    }
}
