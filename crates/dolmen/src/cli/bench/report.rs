//! The result of a run: what is written as JSON, shown as text, and compared.

use super::{
    Machine,
    args::Rw,
    job::Counted,
    meter::{Measured, Slice, add},
    plan::Plan,
};
use dolmen_initiator::load::{Histogram, LoadStats, Pattern};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of the JSON form.
pub(super) const FORMAT: u32 = 1;
/// The percentiles that are told, by name, in hundred-thousandths.
const PERCENTILES: [(&str, u32); 7] = [
    ("p50", 50_000),
    ("p75", 75_000),
    ("p90", 90_000),
    ("p95", 95_000),
    ("p99", 99_000),
    ("p99.9", 99_900),
    ("p99.99", 99_990),
];

/// The result of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// [`FORMAT`].
    pub(super) bench_format: u32,
    /// What made it.
    pub(super) program: String,
    /// Where it ran.
    pub(super) machine: Machine,
    /// What was done.
    pub(super) workload: Workload,
    /// To what.
    pub(super) targets: Vec<Target>,
    /// How long it was counted. Seconds.
    pub(super) seconds: f64,
    /// All commands.
    pub(super) all: Side,
    /// Reads, if there were any.
    pub(super) reads: Option<Side>,
    /// Writes, if there were any.
    pub(super) writes: Option<Side>,
    /// The run in slices of equal length by the clock, all jobs together.
    pub(super) slices: Vec<SliceResult>,
    /// Each job.
    pub(super) jobs: Vec<JobResult>,
    /// CPU time for each command on this side, all jobs. Nanoseconds.
    pub(super) cpu_ns_per_io: Option<f64>,
    /// The same of the processes behind the target.
    pub(super) target_cpu_ns_per_io: Option<f64>,
    /// Which they are, or why they can't be seen.
    pub(super) target_processes: String,
    /// How the depth was found, if it was to be.
    pub(super) latency_target: Option<LatencyTarget>,
    /// What verification did, if there was one.
    pub(super) verified: Option<Verified>,
    /// Commands that were due under --rate and not issued at the end.
    pub(super) behind: u64,
    /// Connections lost.
    pub(super) connections_lost: u64,
    /// Those of them that were made again.
    #[serde(default)]
    pub(super) connections_made_again: u64,
    /// Commands that failed.
    pub(super) errors: u64,
    /// The first of them.
    pub(super) first_error: Option<String>,
    /// Commands that were not answered when an interruption ended the wait for them.
    #[serde(default)]
    pub(super) unanswered: u64,
    /// True when it ended before its time.
    pub(super) interrupted: bool,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Workload {
    pub(super) rw: Rw,
    /// Per cent.
    pub(super) reads: u8,
    /// Bytes.
    pub(super) bs: u64,
    pub(super) iodepth: u16,
    pub(super) jobs: u16,
    pub(super) connections: u16,
    /// Commands a second, if limited.
    pub(super) rate: Option<u64>,
    /// Bytes.
    pub(super) offset: u64,
    /// Bytes.
    pub(super) size: u64,
    /// Per cent of the commands, and of the range.
    pub(super) hot: Option<[u8; 2]>,
    pub(super) seed: u64,
    /// Per cent.
    pub(super) compressible: u8,
    pub(super) verify: bool,
    /// Header and data digests.
    pub(super) digests: [bool; 2],
    /// Microseconds; `None` when it never sleeps.
    pub(super) poll_window_us: Option<u64>,
}

/// One target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Target {
    pub(super) address: String,
    pub(super) subsystem: String,
    pub(super) nsid: u32,
    pub(super) uuid: Option<String>,
    /// Bytes.
    pub(super) size: u64,
    /// Bytes.
    pub(super) block: u32,
    pub(super) model: String,
}

/// One kind of commands.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Side {
    pub(super) operations: u64,
    /// Commands beyond these that were late at the end: the latencies count them with the time that they had waited.
    #[serde(default)]
    pub(super) late: u64,
    pub(super) bytes: u64,
    pub(super) iops: f64,
    pub(super) bytes_per_second: f64,
    pub(super) latency_ns: Latency,
}

/// How long commands took. Nanoseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Latency {
    pub(super) min: u64,
    pub(super) mean: u64,
    pub(super) standard_deviation: f64,
    pub(super) max: u64,
    pub(super) percentiles: BTreeMap<String, u64>,
    /// Pairs of the largest value of a bucket and how many fell into it, ascending; buckets are 1.6 % wide.
    pub(super) histogram: Vec<[u64; 2]>,
}

/// A slice of the run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SliceResult {
    pub(super) seconds: f64,
    pub(super) iops: f64,
    /// `None` where nothing was completed.
    pub(super) p50: Option<u64>,
    pub(super) p99: Option<u64>,
}

/// One job.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct JobResult {
    pub(super) target: String,
    pub(super) cpu: Option<usize>,
    pub(super) iops: f64,
    pub(super) cpu_ns_per_io: Option<f64>,
}

/// How the depth was found.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LatencyTarget {
    pub(super) ns: u64,
    pub(super) percentile: f64,
    /// False when not even depth 1 holds it.
    pub(super) held: bool,
    /// Depth, commands a second and latency of each try.
    pub(super) tries: Vec<Try>,
}

/// One try of a depth.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Try {
    pub(super) depth: u16,
    pub(super) iops: f64,
    pub(super) latency_ns: u64,
}

impl Try {
    /// True when the latency stayed within `ns`. A try in which nothing was completed has none, and shows nothing.
    pub(super) fn holds(&self, ns: u64) -> bool {
        self.iops > 0.0 && self.latency_ns <= ns
    }
}

/// What verification did.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Verified {
    /// 4 KiB blocks read back at the end.
    pub(super) blocks_read_back: u64,
    /// Why not all that was written was read back, if so.
    #[serde(default)]
    pub(super) not_read_back: Option<String>,
    /// Blocks that held what they cannot hold.
    pub(super) violations: u64,
    pub(super) first_violation: Option<String>,
}

impl Workload {
    pub(super) fn of(plan: &Plan, depth: u16) -> Workload {
        let digests = plan.goals[0].options.digests;
        Workload {
            rw: plan.rw,
            reads: plan.mix.reads,
            bs: plan.bs,
            iodepth: depth,
            jobs: plan.jobs,
            connections: plan.connections,
            rate: plan.rate,
            offset: plan.offset,
            size: plan.size,
            hot: match plan.pattern {
                Pattern::Skewed(skew) => Some([skew.commands, skew.region]),
                Pattern::Random | Pattern::Shuffled | Pattern::Sequential => None,
            },
            seed: plan.seed,
            compressible: plan.zero_fill,
            verify: plan.verify.is_some(),
            digests: [digests.header, digests.data],
            poll_window_us: (plan.spin_ns != u64::MAX).then_some(plan.spin_ns / 1000),
        }
    }
}

impl Latency {
    fn of(histogram: &Histogram) -> Latency {
        let percentile = |&(name, per): &(&str, u32)| (name.to_string(), histogram.percentile(per));
        Latency {
            min: histogram.min(),
            mean: histogram.mean(),
            standard_deviation: histogram.standard_deviation().round(),
            max: histogram.max(),
            percentiles: PERCENTILES.iter().map(percentile).collect(),
            histogram: histogram.buckets().map(|(end, count)| [end, count]).collect(),
        }
    }

    /// A percentile by its name.
    pub(super) fn percentile(&self, name: &str) -> u64 {
        self.percentiles.get(name).copied().unwrap_or(0)
    }

    /// Names of the percentiles, ascending.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        PERCENTILES.iter().map(|(name, _)| *name)
    }
}

impl Side {
    fn of(operations: u64, bs: u64, seconds: f64, latency: &Histogram) -> Side {
        let per_second = |n: u64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
        let bytes = operations * bs;
        Side {
            operations,
            late: latency.count().saturating_sub(operations),
            bytes,
            iops: per_second(operations),
            bytes_per_second: per_second(bytes),
            latency_ns: Latency::of(latency),
        }
    }
}

/// Latencies of all commands.
pub(super) fn both(stats: &LoadStats) -> Histogram {
    let mut both = stats.read_latency.clone();
    both.merge(&stats.change_latency);
    both
}

/// What all jobs counted together, and for how long. Seconds.
pub(super) fn total(counted: &[Counted]) -> (LoadStats, f64) {
    let mut sum = LoadStats::default();
    let mut longest = 0;
    for job in counted {
        job.run.slices.iter().for_each(|slice| add(&mut sum, &slice.stats));
        longest = longest.max(job.run.ns());
    }
    (sum, longest as f64 / 1e9)
}

impl Report {
    /// Adds up what the jobs counted at `depth`.
    pub(super) fn new(plan: &Plan, depth: u16, counted: &[Counted]) -> Report {
        let (sum, seconds) = total(counted);
        let operations = sum.reads + sum.changes;
        let all = Side::of(operations, plan.bs, seconds, &both(&sum));
        let side = |n: u64, latency| (n > 0).then(|| Side::of(n, plan.bs, seconds, latency));
        let per_io = |ns: Option<u64>, n: u64| ns.filter(|_| n > 0).map(|ns| ns as f64 / n as f64);
        let cpu: Option<u64> = counted.iter().map(|job| job.run.cpu_ns).sum();
        let peer = counted.iter().find_map(|job| job.run.peer_ns);
        Report {
            bench_format: FORMAT,
            program: concat!("dolmen ", env!("CARGO_PKG_VERSION")).into(),
            machine: Machine::here(),
            workload: Workload::of(plan, depth),
            targets: plan.goals.iter().map(Target::of).collect(),
            seconds,
            all,
            reads: side(sum.reads, &sum.read_latency),
            writes: side(sum.changes, &sum.change_latency),
            slices: slices(&counted.iter().map(|job| &job.run).collect::<Vec<_>>()),
            jobs: counted.iter().enumerate().map(|(number, job)| JobResult::of(plan, number, job)).collect(),
            cpu_ns_per_io: per_io(cpu, operations),
            target_cpu_ns_per_io: per_io(peer, operations),
            target_processes: String::new(),
            latency_target: None,
            verified: None,
            behind: counted.iter().map(|job| job.run.behind).sum(),
            connections_lost: 0,
            connections_made_again: 0,
            errors: counted.iter().map(|job| job.errors).sum(),
            first_error: counted.iter().find_map(|job| job.first_error.clone()),
            unanswered: counted.iter().map(|job| job.unanswered).sum(),
            interrupted: false,
        }
    }

    /// How much the slices of this run differ in something, of those that have it: standard deviation over mean; `None` for too few
    /// of them.
    pub(super) fn spread(&self, of: impl Fn(&SliceResult) -> Option<f64>) -> Option<f64> {
        let values: Vec<f64> = self.slices.iter().filter_map(of).collect();
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
        (values.len() >= 4 && mean > 0.0).then(|| (squares / (count - 1.0)).sqrt() / mean)
    }

    /// Slices in which nothing was completed.
    pub(super) fn empty_slices(&self) -> usize {
        self.slices.iter().filter(|slice| slice.iops <= 0.0).count()
    }
}

impl Target {
    fn of(goal: &super::goal::Goal) -> Target {
        Target {
            address: goal.options.addr.to_string(),
            subsystem: goal.options.subsystem.to_string(),
            nsid: goal.namespace.nsid,
            uuid: goal.namespace.uuid.map(|uuid| uuid.to_string()),
            size: goal.namespace.size_bytes(),
            block: goal.namespace.block_bytes,
            model: goal.model.clone(),
        }
    }
}

impl JobResult {
    fn of(plan: &Plan, number: usize, counted: &Counted) -> JobResult {
        let (sum, seconds) = total(std::slice::from_ref(counted));
        let operations = sum.reads + sum.changes;
        let rate = Side::of(operations, plan.bs, seconds, &Histogram::new()).iops;
        JobResult {
            target: plan.goal_of(number).options.addr.to_string(),
            cpu: plan.cpu_of(number),
            iops: rate,
            cpu_ns_per_io: counted
                .run
                .cpu_ns
                .filter(|_| operations > 0)
                .map(|ns| ns as f64 / operations as f64),
        }
    }
}

/// The slices of all jobs, one beside the other, as wide as the widest of them, which the others divide; without the last one where
/// that was cut short. A job that ended before the others did nothing from then on.
fn slices(runs: &[&Measured]) -> Vec<SliceResult> {
    let width = runs.iter().map(|run| run.slice_ns).max().unwrap_or(0).max(1);
    let longest = runs.iter().map(|run| run.ns()).max().unwrap_or(0);
    let beside = |at: u64| {
        let part = |run: &&Measured| usize::try_from(width / run.slice_ns.max(1)).unwrap_or(1);
        let all = runs
            .iter()
            .flat_map(move |run| run.slices.chunks(part(run)).nth(usize::try_from(at).ok()?))
            .flatten();
        let mut sum = LoadStats::default();
        all.for_each(|slice: &Slice| add(&mut sum, &slice.stats));
        let (latency, seconds) = (both(&sum), width.min(longest - at * width) as f64 / 1e9);
        let percentile = |per| (latency.count() > 0).then(|| latency.percentile(per));
        let iops = (sum.reads + sum.changes) as f64 / seconds;
        SliceResult { seconds, iops, p50: percentile(50_000), p99: percentile(99_000) }
    };
    (0..(longest + width / 4) / width).map(beside).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_stand_beside_each_other_by_the_clock() {
        let slice = |ns, reads: u64| {
            let mut stats = LoadStats { reads, ..LoadStats::default() };
            if reads > 0 {
                stats.read_latency.record_many(50, reads);
            }
            Slice { ns, stats }
        };
        let run = |slice_ns, slices: Vec<Slice>| Measured { slice_ns, slices, ..Measured::default() };
        let long = run(200, vec![slice(200, 8), slice(200, 0), slice(200, 4), slice(40, 1)]);
        let short = run(100, vec![slice(100, 1), slice(100, 1), slice(100, 0), slice(90, 0)]);
        let all = slices(&[&long, &short]);
        let seen: Vec<_> = all.iter().map(|s| ((s.iops * s.seconds).round(), s.p50.is_some())).collect();
        // The last one is cut short; where nothing was done there is no latency.
        assert_eq!(seen, [(10.0, true), (0.0, false), (4.0, true)]);
        assert!(slices(&[]).is_empty());
    }

    #[test]
    fn a_try_in_which_nothing_was_completed_holds_no_latency() {
        let one = |iops, latency_ns| Try { depth: 1, iops, latency_ns };
        assert!(one(10.0, 100).holds(100) && !one(10.0, 101).holds(100));
        assert!(!one(0.0, 0).holds(100));
    }
}
