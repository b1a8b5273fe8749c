//! What comes out: medians, spread and ratios, as a table or as JSON.

pub(crate) use crate::sample::Spread;
use crate::{
    args::Args,
    sample::{Sample, State},
    workload::Workload,
};
use serde::Serialize;
use std::fmt;

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
            .filter(|_| self.floor.latency.mean_ns > 0)
            .map(|_| ours.latency.mean_ns as f64 / self.floor.latency.mean_ns as f64)
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |s: &Sample| format!("{:>9.0}/s {:>7.1} us", s.per_second, s.latency.mean_ns as f64 / 1e3);
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

/// All rounds of one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    workload: Workload,
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
            workload: args.workload(),
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
            us(|s| s.latency.mean_ns as f64),
            us(|s| s.latency.p50_ns.unwrap_or(0) as f64),
            us(|s| s.latency.p99_ns.unwrap_or(0) as f64),
            us(|s| s.latency.p999_ns.unwrap_or(0) as f64),
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
            "{}, digests {}, server CPU {}, client CPU {}, congestion control {congestion}, {} rounds of {} s",
            self.workload,
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
    fn rounds_in_different_states_are_not_compared() {
        let round = |floor, ours| Round {
            number: 1,
            floor: Sample::of(100.0, floor),
            ours: Some(Sample::of(90.0, ours)),
        };
        assert_eq!(round([100, 120], [110, 90]).ratio(), Some(0.9));
        assert_eq!(round([360, 350], [370, 360]).ratio(), Some(0.9));
        assert_eq!(round([100, 120], [370, 360]).ratio(), None);
        assert_eq!(round([100, 370], [100, 370]).ratio(), None);
        assert_eq!(round([2000, 2000], [2000, 2000]).ratio(), None);
    }
}
