//! Latencies counted in log-linear buckets: a fixed table, an error of at most 1.6 %, no allocation per value.
//!
//! Values below 64 have a bucket each; above, every power of two is cut into 64 equal buckets. Histograms of several
//! queues or threads are added up with [`Histogram::merge`].

/// Buckets per power of two, as an exponent of two.
const SUB_BITS: u32 = 6;
/// Buckets per power of two.
const SUB: u64 = 1 << SUB_BITS;
/// Values at or above 2^MAX_BITS share the last bucket (about 18 minutes in nanoseconds).
const MAX_BITS: u32 = 40;
const BUCKETS: usize = ((MAX_BITS - SUB_BITS + 1) as usize) << SUB_BITS;

/// Counts of values (nanoseconds, by convention) in log-linear buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u64]>,
    total: u64,
    sum: u128,
    min: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram::new()
    }
}

impl Histogram {
    /// No values yet.
    #[must_use]
    pub fn new() -> Histogram {
        Histogram { counts: vec![0; BUCKETS].into(), total: 0, sum: 0, min: u64::MAX, max: 0 }
    }

    /// Counts one value.
    pub fn record(&mut self, value: u64) {
        self.record_many(value, 1);
    }

    /// Counts a value as often as it came; at least once.
    pub fn record_many(&mut self, value: u64, count: u64) {
        self.counts[bucket_of(value)] += count;
        self.total += count;
        self.sum += u128::from(value) * u128::from(count);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// Adds another histogram's counts.
    pub fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        (self.total, self.sum, self.min, self.max) = (0, 0, u64::MAX, 0);
    }

    /// Number of values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.total
    }

    /// Arithmetic mean, exact; 0 of nothing.
    #[must_use]
    pub fn mean(&self) -> u64 {
        let mean = self.sum.checked_div(u128::from(self.total)).unwrap_or(0);
        u64::try_from(mean).expect("a mean is at most the largest value")
    }

    /// Standard deviation, from the buckets' upper ends: as exact as they are; 0 of nothing.
    #[must_use]
    pub fn standard_deviation(&self) -> f64 {
        let total = self.total.max(1) as f64;
        let sums = self.buckets().fold((0.0, 0.0), |(sum, squares), (value, count)| {
            let (value, count) = (value as f64, count as f64);
            (sum + value * count, squares + value * value * count)
        });
        let mean = sums.0 / total;
        (sums.1 / total - mean * mean).max(0.0).sqrt()
    }

    /// Smallest value; 0 of nothing.
    #[must_use]
    pub fn min(&self) -> u64 {
        if self.total == 0 { 0 } else { self.min }
    }

    /// Largest value; 0 of nothing.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The value that `per_100_000` of 100,000 values don't exceed (50,000 is the median, 99,990 is p99.99), rounded up
    /// to its bucket's upper end but never above the largest value; 0 of nothing.
    #[must_use]
    pub fn percentile(&self, per_100_000: u32) -> u64 {
        let wanted = u128::from(self.total) * u128::from(per_100_000.min(100_000));
        let wanted = wanted.div_ceil(100_000).max(1);
        let mut seen = 0u128;
        for (index, &count) in self.counts.iter().enumerate() {
            seen += u128::from(count);
            if seen >= wanted {
                return upper_end(index).clamp(self.min(), self.max);
            }
        }
        self.max
    }

    /// Buckets that hold something, as (largest value of the bucket, count), ascending.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.counts.iter().enumerate().filter(|(_, c)| **c > 0).map(|(i, &c)| (upper_end(i), c))
    }
}

fn bucket_of(value: u64) -> usize {
    let value = value.min((1 << MAX_BITS) - 1);
    let index = if value < SUB {
        value
    } else {
        let exponent = value.ilog2();
        let within = (value >> (exponent - SUB_BITS)) & (SUB - 1);
        u64::from(exponent - SUB_BITS + 1) * SUB + within
    };
    usize::try_from(index).expect("the table has a few thousand buckets")
}

/// Largest value that belongs to a bucket.
fn upper_end(index: usize) -> u64 {
    let index = index as u64;
    let (power, within) = (index / SUB, index % SUB);
    match power {
        0 => within,
        _ => ((SUB + within + 1) << (power - 1)) - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_ordered_and_close() {
        let mut start = 0;
        for index in 0..BUCKETS {
            let end = upper_end(index);
            assert_eq!((bucket_of(start), bucket_of(end)), (index, index));
            assert!(end - start <= start / SUB, "bucket {index}, {start} to {end}, is too wide");
            start = end + 1;
        }
        assert_eq!(start, 1 << MAX_BITS);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_of_known_values() {
        let mut h = Histogram::new();
        assert_eq!((h.percentile(50_000), h.mean(), h.min(), h.max()), (0, 0, 0, 0));
        for v in 1..=1000u64 {
            h.record(v * 1000);
        }
        let near = |got: u64, want: u64| assert!(got.abs_diff(want) <= want / 60, "{got} is not near {want}");
        near(h.percentile(50_000), 500_000);
        near(h.percentile(99_000), 990_000);
        assert_eq!(h.percentile(100_000), 1_000_000);
        assert_eq!((h.mean(), h.min(), h.max(), h.count()), (500_500, 1000, 1_000_000, 1000));
        let deviation = h.standard_deviation();
        assert!((deviation - 288_675.0).abs() < 288_675.0 / 60.0, "{deviation}");
        assert_eq!(Histogram::new().standard_deviation().to_bits(), 0);
    }

    #[test]
    fn merging_is_counting_together() {
        let (mut a, mut b, mut both) = (Histogram::new(), Histogram::new(), Histogram::new());
        for v in 0..500u64 {
            let value = v * v * 7;
            if v % 3 == 0 {
                a.record(value)
            } else {
                b.record(value)
            }
            both.record(value);
        }
        a.merge(&b);
        assert_eq!(a, both);
        assert_eq!(a.buckets().map(|(_, n)| n).sum::<u64>(), 500);
    }
}
