//! What comes out: medians, spread and ratios, as a table or as JSON.

use crate::{args::Args, floor::Rates};
use serde::Serialize;
use std::{fmt, time::Duration};

/// Cache-line round trips below this belong to the fast state. Nanoseconds.
const FAST_BELOW_NS: u64 = 250;
/// From here on somebody else uses the two CPUs. Nanoseconds.
const BUSY_FROM_NS: u64 = 1000;

/// The state of the two CPUs, by their cache-line round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Fast,
    Slow,
    /// Shared with others, or changing: no ground for a comparison.
    Unfit,
}

/// One contestant, once.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    /// Requests per second.
    pub(crate) per_second: f64,
    /// Mean latency. Nanoseconds.
    pub(crate) mean_ns: u64,
    /// Median latency. Nanoseconds.
    pub(crate) p50_ns: u64,
    /// 99th percentile. Nanoseconds.
    pub(crate) p99_ns: u64,
    /// 99.9th percentile. Nanoseconds.
    pub(crate) p999_ns: u64,
    /// Slowest connection over the mean connection.
    pub(crate) fairness: f64,
    /// Cache-line round trip before and after. Nanoseconds.
    pub(crate) line_ns: [u64; 2],
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
            mean_ns: rates.latency.mean(),
            p50_ns: rates.latency.percentile(50_000),
            p99_ns: rates.latency.percentile(99_000),
            p999_ns: rates.latency.percentile(99_900),
            fairness: if mean > 0.0 { slowest / mean } else { 0.0 },
            line_ns: [ns(before), ns(after)],
            congestion: rates.congestion.clone(),
        }
    }

    fn state(&self) -> State {
        let one = |ns| match ns {
            0..FAST_BELOW_NS => State::Fast,
            FAST_BELOW_NS..BUSY_FROM_NS => State::Slow,
            _ => State::Unfit,
        };
        let [before, after] = self.line_ns.map(one);
        if before == after { before } else { State::Unfit }
    }
}

/// One turn of each.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Round {
    pub(crate) number: u32,
    pub(crate) floor: Sample,
    pub(crate) ours: Option<Sample>,
}

impl Round {
    /// Ours over the floor in requests per second, when both ran in one state of the machine.
    fn ratio(&self) -> Option<f64> {
        let ours = self.ours.as_ref()?;
        let comparable = self.floor.state() != State::Unfit && self.floor.state() == ours.state();
        (comparable && self.floor.per_second > 0.0).then(|| ours.per_second / self.floor.per_second)
    }

    fn latency_ratio(&self) -> Option<f64> {
        let ours = self.ours.as_ref()?;
        self.ratio()
            .filter(|_| self.floor.mean_ns > 0)
            .map(|_| ours.mean_ns as f64 / self.floor.mean_ns as f64)
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |s: &Sample| format!("{:>9.0}/s {:>7.1} us", s.per_second, s.mean_ns as f64 / 1e3);
        write!(f, "round {:>2}  floor {}  line {:?} ns", self.number, line(&self.floor), self.floor.line_ns)?;
        if let Some(ours) = &self.ours {
            write!(f, "  ours {}  line {:?} ns", line(ours), ours.line_ns)?;
        }
        match self.ratio() {
            Some(ratio) => write!(f, "  ratio {ratio:.3}"),
            None if self.ours.is_some() => {
                f.write_str("  (not compared: the CPUs changed their state, or others use them)")
            }
            None => Ok(()),
        }
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

/// All rounds of one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    shape: String,
    depth: u16,
    connections: u16,
    digests: bool,
    runtime_s: f64,
    server_cpu: usize,
    client_cpu: usize,
    /// Ours over the floor, requests per second, round by round.
    ratio: Option<Spread>,
    /// Ours over the floor, mean latency, round by round.
    latency_ratio: Option<Spread>,
    /// Rounds left out of the ratios because the CPUs changed their state or others used them.
    not_compared: usize,
    rounds: Vec<Round>,
}

impl Report {
    pub(crate) fn new(args: &Args) -> Report {
        Report {
            shape: format!("4K random {:?}", args.shape).to_lowercase(),
            depth: args.depth,
            connections: args.connections,
            digests: args.digests,
            runtime_s: args.runtime,
            server_cpu: args.server_cpu,
            client_cpu: args.client_cpu,
            ratio: None,
            latency_ratio: None,
            not_compared: 0,
            rounds: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, round: Round) {
        self.rounds.push(round);
        self.ratio = Spread::of(self.rounds.iter().filter_map(Round::ratio));
        self.latency_ratio = Spread::of(self.rounds.iter().filter_map(Round::latency_ratio));
        self.not_compared = self.rounds.iter().filter(|r| r.ours.is_some() && r.ratio().is_none()).count();
    }

    fn row(
        &self,
        f: &mut fmt::Formatter<'_>,
        name: &str,
        pick: impl Fn(&Round) -> Option<&Sample>,
    ) -> fmt::Result {
        let samples: Vec<&Sample> = self.rounds.iter().filter_map(pick).collect();
        let median = |figure: fn(&Sample) -> f64| {
            Spread::of(samples.iter().map(|s| figure(s))).unwrap_or(Spread {
                median: 0.0,
                min: 0.0,
                max: 0.0,
            })
        };
        let rate = median(|s| s.per_second);
        let us = |figure: fn(&Sample) -> f64| median(figure).median / 1e3;
        writeln!(
            f,
            "{name:<6} {:>10.0} {:>10.0} {:>10.0} {:>8.1} {:>8.1} {:>8.1} {:>8.1} {:>9.2} {:>8.0}",
            rate.median,
            rate.min,
            rate.max,
            us(|s| s.mean_ns as f64),
            us(|s| s.p50_ns as f64),
            us(|s| s.p99_ns as f64),
            us(|s| s.p999_ns as f64),
            median(|s| s.fairness).median,
            median(|s| s.line_ns[0] as f64).median,
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let congestion = self.rounds.iter().find_map(|r| r.floor.congestion.as_deref()).unwrap_or("unknown");
        writeln!(
            f,
            "{}, depth {}, {} connection(s), digests {}, server CPU {}, client CPU {}, congestion control {congestion}, {} rounds of {} s",
            self.shape,
            self.depth,
            self.connections,
            if self.digests { "on" } else { "off" },
            self.server_cpu,
            self.client_cpu,
            self.rounds.len(),
            self.runtime_s
        )?;
        writeln!(
            f,
            "       per second        min        max  mean us   p50 us   p99 us p99.9 us  fairness  line ns"
        )?;
        self.row(f, "floor", |r| Some(&r.floor))?;
        if self.rounds.iter().any(|r| r.ours.is_some()) {
            self.row(f, "ours", |r| r.ours.as_ref())?;
        }
        if let (Some(r), Some(l)) = (self.ratio, self.latency_ratio) {
            writeln!(
                f,
                "ours / floor, requests per second: median {:.3} ({:.3} to {:.3})",
                r.median, r.min, r.max
            )?;
            write!(
                f,
                "ours / floor, mean latency:        median {:.3} ({:.3} to {:.3})",
                l.median, l.min, l.max
            )?;
        }
        if self.not_compared > 0 {
            write!(
                f,
                "\n{} round(s) not compared: the CPUs changed their state, or others used them",
                self.not_compared
            )?;
        }
        Ok(())
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

    fn sample(per_second: f64, line_ns: [u64; 2]) -> Sample {
        let (mean_ns, fairness) = (10_000, 1.0);
        let (p50_ns, p99_ns, p999_ns) = (mean_ns, mean_ns, mean_ns);
        Sample { per_second, mean_ns, p50_ns, p99_ns, p999_ns, fairness, line_ns, congestion: None }
    }

    #[test]
    fn rounds_in_different_states_are_not_compared() {
        let round =
            |floor, ours| Round { number: 1, floor: sample(100.0, floor), ours: Some(sample(90.0, ours)) };
        assert_eq!(round([100, 120], [110, 90]).ratio(), Some(0.9));
        assert_eq!(round([360, 350], [370, 360]).ratio(), Some(0.9));
        assert_eq!(round([100, 120], [370, 360]).ratio(), None);
        assert_eq!(round([100, 370], [100, 370]).ratio(), None);
        assert_eq!(round([2000, 2000], [2000, 2000]).ratio(), None);
    }
}
