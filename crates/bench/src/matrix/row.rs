//! One load and what its contestants reached, round by round.
//!
//! Figures are compared only within one state of the two CPUs: the state in which most of the row's samples were taken is
//! the row's, samples of another are left out, and how many is said.

use super::plan::{Contestant, Judge, Metric, RowPlan};
use crate::{
    sample::{Sample, Spread, State},
    verdict::{Budget, Verdict},
    workload::Workload,
};
use serde::Serialize;
use std::fmt;

/// One contestant of a row.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Entry {
    pub(super) name: String,
    #[serde(skip)]
    who: Contestant,
    /// Round by round.
    pub(super) samples: Vec<Sample>,
}

/// One load and all its samples.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) part: &'static str,
    pub(super) workload: Workload,
    /// The state that the figures are of; `None` if no sample was fit.
    pub(super) state: Option<State>,
    /// Rounds in which not all contestants ran in that state.
    pub(super) rounds_not_compared: usize,
    pub(super) entries: Vec<Entry>,
    #[serde(skip)]
    judges: Vec<Judge>,
}

impl Row {
    pub(super) fn new(plan: &RowPlan) -> Row {
        let entry = |who: &Contestant| Entry { name: who.to_string(), who: *who, samples: Vec::new() };
        Row {
            name: plan.workload.to_string(),
            part: plan.part,
            workload: plan.workload,
            state: None,
            rounds_not_compared: 0,
            entries: plan.contestants.iter().map(entry).collect(),
            judges: plan.judges.clone(),
        }
    }

    /// A round's samples, in the order of the contestants.
    pub(super) fn add(&mut self, samples: Vec<Sample>) {
        for (entry, sample) in self.entries.iter_mut().zip(samples) {
            entry.samples.push(sample);
        }
        let count = |state| self.samples().filter(|s| s.state() == state).count();
        let (fast, slow) = (count(State::Fast), count(State::Slow));
        let state = if fast >= slow { State::Fast } else { State::Slow };
        self.state = (fast + slow > 0).then_some(state);
        let whole =
            |round: usize| self.entries.iter().all(|e| e.samples.get(round).is_some_and(|s| self.counts(s)));
        self.rounds_not_compared = (0..self.rounds()).filter(|&round| !whole(round)).count();
    }

    fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.entries.iter().flat_map(|e| &e.samples)
    }

    pub(super) fn rounds(&self) -> usize {
        self.entries.first().map_or(0, |e| e.samples.len())
    }

    fn counts(&self, sample: &Sample) -> bool {
        self.state.is_some_and(|state| sample.state() == state)
    }

    /// One figure of a contestant, over its samples that count.
    pub(super) fn figure(&self, who: Contestant, figure: impl Fn(&Sample) -> Option<f64>) -> Option<Spread> {
        let entry = self.entries.iter().find(|e| e.who == who)?;
        Spread::of(entry.samples.iter().filter(|s| self.counts(s)).filter_map(figure))
    }

    /// What was asked of this row, judged.
    pub(super) fn verdicts(&self) -> Vec<Verdict> {
        self.judges.iter().filter_map(|judge| self.judged(judge)).collect()
    }

    fn judged(&self, judge: &Judge) -> Option<Verdict> {
        let find = |who| self.entries.iter().find(|e| e.who == who);
        let (of, to) = (find(judge.of)?, find(judge.to)?);
        let pairs = of.samples.iter().zip(&to.samples);
        let alone = matches!(judge.metric, Metric::Slowest | Metric::Tail);
        let fit = pairs.filter(|(a, b)| self.counts(a) && (alone || self.counts(b)));
        let values: Vec<f64> = fit.filter_map(|(a, b)| compare(judge.metric, a, b)).collect();
        let (of, to) = (&of.name, &to.name);
        let (what, unit) = match judge.metric {
            Metric::Rate => (format!("{of} / {to}"), ""),
            Metric::Mean => (format!("{of} / {to}, mean latency"), ""),
            Metric::P999 => (format!("{of} / {to}, p99.9"), ""),
            Metric::MeanBeyond => (format!("{of} beyond {to}, mean"), "us"),
            Metric::Slowest => (format!("{of}: slowest conn / mean"), ""),
            Metric::Tail => (format!("{of}: p99 / p50"), ""),
        };
        // A budget that nothing speaks for is not judged, and shows as no line.
        let budget = if values.is_empty() { Budget::None } else { judge.budget };
        Verdict::new(format!("{}: {what}", self.name), unit, &values, budget, "")
    }
}

fn compare(metric: Metric, of: &Sample, to: &Sample) -> Option<f64> {
    let ratio = |a: f64, b: f64| (b > 0.0).then(|| a / b);
    let (a, b) = (&of.latency, &to.latency);
    match metric {
        Metric::Rate => ratio(of.per_second, to.per_second),
        Metric::Mean => ratio(a.mean_ns as f64, b.mean_ns as f64),
        Metric::P999 => ratio(a.p999_ns? as f64, b.p999_ns? as f64),
        Metric::MeanBeyond => Some((a.mean_ns as f64 - b.mean_ns as f64) / 1e3),
        Metric::Slowest => Some(of.fairness),
        Metric::Tail => ratio(a.p99_ns? as f64, a.p50_ns? as f64),
    }
}

/// What stands above rows.
pub(super) const HEADING: &str = "\
load                                       contestant        k/s median (least to most)  of 1st    mean     p50     p99   p99.9 us  slowest";

impl fmt::Display for Row {
    /// A line for each contestant; "of 1st" is the median of the rounds' ratios to the row's first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.entries.first() else { return Ok(()) };
        for (index, entry) in self.entries.iter().enumerate() {
            let name = if index == 0 { self.name.as_str() } else { "" };
            let Some(rate) = self.figure(entry.who, |s| Some(s.per_second / 1e3)) else {
                writeln!(f, "{name:<42} {:<16} nothing comparable", entry.who)?;
                continue;
            };
            let pairs = entry.samples.iter().zip(&first.samples);
            let ratios = pairs.filter(|(a, b)| self.counts(a) && self.counts(b));
            let of_first = Spread::of(ratios.map(|(a, b)| a.per_second / b.per_second)).map(|s| s.median);
            let us = |pick: fn(&Sample) -> Option<u64>| {
                self.figure(entry.who, |s| pick(s).map(|ns| ns as f64 / 1e3)).map(|s| s.median)
            };
            let shown = |value: Option<f64>, digits: usize| {
                value.map_or_else(|| "-".to_string(), |v| format!("{v:.digits$}"))
            };
            let slowest = self.figure(entry.who, |s| Some(s.fairness)).map(|s| s.median);
            writeln!(
                f,
                "{name:<42} {:<16} {:>8.1} {:<20} {:>6} {:>7} {:>7} {:>7} {:>7}     {:>5}",
                entry.who,
                rate.median,
                format!("({:.1} to {:.1})", rate.min, rate.max),
                shown(of_first, 3),
                shown(us(|s| Some(s.latency.mean_ns)), 1),
                shown(us(|s| s.latency.p50_ns), 1),
                shown(us(|s| s.latency.p99_ns), 1),
                shown(us(|s| s.latency.p999_ns), 1),
                shown(slowest, 2),
            )?;
        }
        if self.rounds_not_compared > 0 {
            writeln!(f, "{:<42} {} of {} rounds not compared", "", self.rounds_not_compared, self.rounds())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Shape;

    const FAST: [u64; 2] = [100, 110];
    const SLOW: [u64; 2] = [360, 350];

    fn row(metric: Metric, budget: Budget) -> Row {
        let (of, to) = (Contestant::Memory, Contestant::Floor);
        Row::new(&RowPlan {
            part: "loads",
            workload: Workload::small(Shape::Read, 32, 1),
            contestants: vec![to, of],
            judges: vec![Judge { metric, of, to, budget }],
        })
    }

    #[test]
    fn one_state_counts_and_the_rest_is_left_out() {
        let mut row = row(Metric::Rate, Budget::AtLeast(0.85));
        row.add(vec![Sample::of(100.0, FAST), Sample::of(90.0, FAST)]);
        row.add(vec![Sample::of(50.0, SLOW), Sample::of(10.0, SLOW)]);
        row.add(vec![Sample::of(100.0, FAST), Sample::of(20.0, SLOW)]);
        row.add(vec![Sample::of(100.0, FAST), Sample::of(80.0, FAST)]);
        assert_eq!((row.state, row.rounds(), row.rounds_not_compared), (Some(State::Fast), 4, 2));
        let verdicts = row.verdicts();
        assert_eq!(verdicts.len(), 1);
        assert_eq!((verdicts[0].rounds, verdicts[0].kept), (2, Some(true)));
        assert!((verdicts[0].value.median - 0.85).abs() < 1e-9);
        let floor = row.figure(Contestant::Floor, |s| Some(s.per_second)).unwrap();
        assert_eq!((floor.median, floor.min), (100.0, 100.0));
    }

    #[test]
    fn without_a_fit_round_there_is_no_verdict() {
        let mut row = row(Metric::Rate, Budget::AtLeast(0.85));
        row.add(vec![Sample::of(100.0, [5000, 5000]), Sample::of(90.0, FAST)]);
        assert!(row.verdicts().is_empty());
        assert!(row.to_string().contains("nothing comparable"));
    }

    #[test]
    fn each_metric_reads_what_it_names() {
        let (mut a, mut b) = (Sample::of(80.0, FAST), Sample::of(100.0, FAST));
        a.latency.mean_ns = 12_000;
        a.latency.p99_ns = Some(40_000);
        a.latency.p999_ns = Some(26_000);
        a.fairness = 0.7;
        b.latency.p999_ns = Some(20_000);
        let value = |metric| compare(metric, &a, &b).unwrap();
        assert_eq!(value(Metric::Rate), 0.8);
        assert_eq!(value(Metric::Mean), 1.2);
        assert_eq!(value(Metric::P999), 1.3);
        assert_eq!(value(Metric::MeanBeyond), 2.0);
        assert_eq!(value(Metric::Slowest), 0.7);
        assert_eq!(value(Metric::Tail), 4.0);
        b.latency.p999_ns = None;
        assert_eq!(compare(Metric::P999, &a, &b), None);
    }
}
