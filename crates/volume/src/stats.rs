//! Counters of one volume.

/// Buckets of a latency histogram.
pub const LATENCY_BUCKETS: usize = 28;

/// How many commands took how long: bucket `i` counts those below 2^i microseconds (and not below 2^(i-1)); the last
/// one counts all that took longer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LatencyHistogram {
    /// The counts.
    pub buckets: [u64; LATENCY_BUCKETS],
    /// Sum of all latencies. Nanoseconds.
    pub total_ns: u64,
}

impl LatencyHistogram {
    /// Counts one command.
    pub(crate) fn add(&mut self, ns: u64) {
        let micros = ns / 1000;
        let bucket = usize::try_from(u64::BITS - micros.leading_zeros()).expect("at most 64");
        self.buckets[bucket.min(LATENCY_BUCKETS - 1)] += 1;
        self.total_ns = self.total_ns.saturating_add(ns);
    }

    /// Commands counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// What a volume has done since the process started. Latencies run from the receipt of the command to its reply
/// leaving the home core.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeStats {
    /// Bytes that reads returned.
    pub read_bytes: u64,
    /// Bytes that writes stored.
    pub write_bytes: u64,
    /// Successful reads.
    pub reads: LatencyHistogram,
    /// Successful writes (plain, and fused with a compare).
    pub writes: LatencyHistogram,
    /// Other successful commands.
    pub others: u64,
    /// Commands that failed, compare failures and reservation conflicts included.
    pub failed: u64,
    /// Commands that had to wait for an overlapping one.
    pub waited: u64,
    /// Commands that had to wait because the volume's QoS policy allowed no more.
    pub throttled: u64,
    /// Time that those waited, added up when they go on. Nanoseconds.
    pub throttled_ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_powers_of_two_of_microseconds() {
        let mut h = LatencyHistogram::default();
        for ns in [0, 999, 1000, 1999, 2000, 3999, u64::MAX] {
            h.add(ns);
        }
        assert_eq!((h.buckets[0], h.buckets[1], h.buckets[2], h.buckets[27]), (2, 2, 2, 1));
        assert_eq!(h.count(), 7);
    }
}
