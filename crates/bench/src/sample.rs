//! One contestant, once: what it reached, and the state that the two CPUs were in.

use crate::floor::Rates;
use dolmen_initiator::load::Histogram;
use serde::Serialize;
use std::time::Duration;

/// Cache-line round trips below this belong to the fast state. Nanoseconds.
const FAST_BELOW_NS: u64 = 250;
/// From here on somebody else uses the two CPUs. Nanoseconds.
const BUSY_FROM_NS: u64 = 1000;

/// The state of the two CPUs, by their cache-line round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// As good as it gets.
    Fast,
    /// A cache line takes several times as long.
    Slow,
    /// Shared with others, or changing: no ground for a comparison.
    Unfit,
}

/// Latency in figures; what a contestant doesn't tell is `None`. Nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Latency {
    /// Mean.
    pub(crate) mean_ns: u64,
    /// Median.
    pub(crate) p50_ns: Option<u64>,
    /// 99th percentile.
    pub(crate) p99_ns: Option<u64>,
    /// 99.9th percentile.
    pub(crate) p999_ns: Option<u64>,
}

impl From<&Histogram> for Latency {
    fn from(all: &Histogram) -> Latency {
        Latency {
            mean_ns: all.mean(),
            p50_ns: Some(all.percentile(50_000)),
            p99_ns: Some(all.percentile(99_000)),
            p999_ns: Some(all.percentile(99_900)),
        }
    }
}

/// One contestant, once.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    /// Requests per second.
    pub(crate) per_second: f64,
    /// Round trips.
    #[serde(flatten)]
    pub(crate) latency: Latency,
    /// Slowest connection over the mean connection.
    pub(crate) fairness: f64,
    /// Cache-line round trip before and after. Nanoseconds.
    pub(crate) line_ns: [u64; 2],
    /// CPU time of the server's threads per request, where it was asked for. Nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_cpu_ns: Option<f64>,
    /// Congestion control, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) congestion: Option<String>,
}

impl Sample {
    pub(crate) fn new(rates: &Rates, before: Duration, after: Duration) -> Sample {
        let ns = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        let slowest = rates.by_connection.iter().copied().fold(f64::INFINITY, f64::min);
        let mean = rates.per_second / rates.by_connection.len().max(1) as f64;
        Sample {
            per_second: rates.per_second,
            latency: rates.latency,
            fairness: if mean > 0.0 { slowest / mean } else { 0.0 },
            line_ns: [ns(before), ns(after)],
            server_cpu_ns: rates.server_cpu_ns,
            congestion: rates.congestion.clone(),
        }
    }

    /// One state before and after, or none.
    pub(crate) fn state(&self) -> State {
        let one = |ns| match ns {
            0..FAST_BELOW_NS => State::Fast,
            FAST_BELOW_NS..BUSY_FROM_NS => State::Slow,
            _ => State::Unfit,
        };
        let [before, after] = self.line_ns.map(one);
        if before == after { before } else { State::Unfit }
    }

    /// A sample for tests: so many per second, in a state.
    #[cfg(test)]
    pub(crate) fn of(per_second: f64, line_ns: [u64; 2]) -> Sample {
        let some = Some(10_000);
        let latency = Latency { mean_ns: 10_000, p50_ns: some, p99_ns: some, p999_ns: some };
        Sample { per_second, latency, fairness: 1.0, line_ns, server_cpu_ns: None, congestion: None }
    }
}

/// Median and spread of one figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Option<Spread> {
        let mut v: Vec<f64> = values.collect();
        v.sort_by(f64::total_cmp);
        let (&min, &max) = (v.first()?, v.last()?);
        let (low, high) = (v[(v.len() - 1) / 2], v[v.len() / 2]);
        Some(Spread { median: f64::midpoint(low, high), min, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spread() {
        assert_eq!(Spread::of(std::iter::empty()), None);
        let odd = Spread::of([3.0, 1.0, 2.0].into_iter()).unwrap();
        assert_eq!((odd.median, odd.min, odd.max), (2.0, 1.0, 3.0));
        assert_eq!(Spread::of([4.0, 1.0].into_iter()).unwrap().median, 2.5);
    }

    #[test]
    fn states() {
        assert_eq!(Sample::of(1.0, [100, 120]).state(), State::Fast);
        assert_eq!(Sample::of(1.0, [360, 350]).state(), State::Slow);
        assert_eq!(Sample::of(1.0, [100, 350]).state(), State::Unfit);
        assert_eq!(Sample::of(1.0, [2000, 2000]).state(), State::Unfit);
    }

    #[test]
    fn the_slowest_connection_counts() {
        let latency = Latency::from(&Histogram::new());
        let by_connection = vec![1.0, 3.0, 2.0];
        let rates =
            Rates { per_second: 6.0, latency, by_connection, congestion: None, server_cpu_ns: Some(5.0) };
        let sample = Sample::new(&rates, Duration::from_nanos(100), Duration::from_nanos(110));
        assert_eq!((sample.fairness, sample.line_ns, sample.server_cpu_ns), (0.5, [100, 110], Some(5.0)));
    }
}
