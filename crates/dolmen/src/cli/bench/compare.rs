//! Two results side by side.

use super::{
    report::{Report, SliceResult, Target, Workload},
    text::{bandwidth, count, time},
};
use crate::cli::output::{Align, table};
use serde::Serialize;
use serde_json::Value;

/// What was measured in both.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: &'static str,
    before: f64,
    after: f64,
    /// After over before.
    ratio: f64,
    /// How far the ratio may be from 1 by chance; `None` where nothing tells.
    noise: Option<f64>,
    verdict: Verdict,
    #[serde(skip)]
    show: fn(f64) -> String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Better,
    Worse,
    Noise,
    /// The runs don't tell how much noise there is.
    Unknown,
}

/// Slices of one run differ from each other by this much at least, whatever was seen of a few: two runs of the same thing are
/// hardly ever nearer.
const LEAST_NOISE: f64 = 0.01;

const NOISE: &str = "\
Noise is twice what the slices within each run differ by. Runs differ more between themselves than within, on a virtual machine
above all: before believing a small difference, repeat both in turn.";

/// The comparison for programs.
pub(super) fn value(before: &Report, after: &Report) -> Value {
    serde_json::json!({"rows": rows(before, after), "differences": differences(before, after)})
}

/// The comparison for people.
pub(super) fn text(before: &Report, after: &Report) -> String {
    let columns = [
        ("", Align::Left),
        ("before", Align::Right),
        ("after", Align::Right),
        ("ratio", Align::Right),
        ("noise", Align::Right),
        ("", Align::Left),
    ];
    let rows = rows(before, after);
    let cells = rows.iter().map(|row| {
        let noise = row.noise.map_or_else(|| "?".into(), |noise| format!("{:.1} %", noise * 100.0));
        let verdict = match row.verdict {
            Verdict::Better => "better",
            Verdict::Worse => "worse",
            Verdict::Noise => "within noise",
            Verdict::Unknown => "",
        };
        let ratio = format!("{:.3}", row.ratio);
        vec![row.name.into(), (row.show)(row.before), (row.show)(row.after), ratio, noise, verdict.into()]
    });
    let mut text = table(&columns, cells.collect(), "There is nothing to compare.");
    for difference in differences(before, after) {
        text.push_str(&format!("\nNot the same: {difference}"));
    }
    format!("{text}\n\n{NOISE}")
}

fn rows(before: &Report, after: &Report) -> Vec<Row> {
    let noise = |of: fn(&SliceResult) -> Option<f64>| {
        let (a, b) = (before.spread(of)?, after.spread(of)?);
        Some((2.0 * (a * a + b * b).sqrt()).max(LEAST_NOISE))
    };
    let (rate, middle, tail) =
        (noise(|s| Some(s.iops)), noise(|s| Some(s.p50? as f64)), noise(|s| Some(s.p99? as f64)));
    let mut rows = Vec::new();
    let mut push = |name, (before, after): (f64, f64), more_is_better: bool, noise, show| {
        if before > 0.0 && after > 0.0 {
            let ratio = after / before;
            let verdict = judge(ratio, noise, more_is_better);
            rows.push(Row { name, before, after, ratio, noise, verdict, show });
        }
    };
    let each = |of: fn(&Report) -> f64| (of(before), of(after));
    push("IOPS", each(|r| r.all.iops), true, rate, count as fn(f64) -> String);
    push("bandwidth", each(|r| r.all.bytes_per_second), true, rate, bandwidth);
    push("mean latency", each(|r| r.all.latency_ns.mean as f64), false, rate, time);
    push("p50", each(|r| r.all.latency_ns.percentile("p50") as f64), false, middle, time);
    push("p99", each(|r| r.all.latency_ns.percentile("p99") as f64), false, tail, time);
    push("p99.9", each(|r| r.all.latency_ns.percentile("p99.9") as f64), false, None, time);
    push("p99.99", each(|r| r.all.latency_ns.percentile("p99.99") as f64), false, None, time);
    push("CPU per I/O here", each(|r| r.cpu_ns_per_io.unwrap_or(0.0)), false, rate, time);
    push("CPU per I/O of the target", each(|r| r.target_cpu_ns_per_io.unwrap_or(0.0)), false, rate, time);
    rows
}

fn judge(ratio: f64, noise: Option<f64>, more_is_better: bool) -> Verdict {
    match noise {
        None => Verdict::Unknown,
        Some(noise) if (ratio.ln()).abs() <= (1.0 + noise).ln() => Verdict::Noise,
        Some(_) if (ratio > 1.0) == more_is_better => Verdict::Better,
        Some(_) => Verdict::Worse,
    }
}

/// What was not the same in the two runs, so that they may not be comparable.
fn differences(before: &Report, after: &Report) -> Vec<String> {
    let mut found = Vec::new();
    let mut check = |what: &str, a: String, b: String| {
        if a != b {
            found.push(format!("{what}: {a} before, {b} after"));
        }
    };
    let workload = |w: &Workload| serde_json::to_value(w).unwrap_or_default();
    let (a, b) = (workload(&before.workload), workload(&after.workload));
    for (key, value) in a.as_object().into_iter().flatten() {
        check(key, value.to_string(), b[key.as_str()].to_string());
    }
    let targets = |report: &Report| report.targets.iter().map(place).collect::<Vec<_>>().join("; ");
    check("targets", targets(before), targets(after));
    let (a, b) = (&before.machine, &after.machine);
    check("processor", format!("{} of {}", a.cpus, a.cpu), format!("{} of {}", b.cpus, b.cpu));
    check("kernel", a.kernel.clone(), b.kernel.clone());
    check("congestion control", a.congestion_control.clone(), b.congestion_control.clone());
    check("connections lost", before.connections_lost.to_string(), after.connections_lost.to_string());
    let ended = |report: &Report| if report.interrupted { "interrupted" } else { "whole" }.to_string();
    check("the run", ended(before), ended(after));
    found
}

/// What a target is, and what is behind it, in all that may make it another one.
fn place(target: &Target) -> String {
    let Target { address, subsystem, nsid, uuid, size, block, model } = target;
    let uuid = uuid.as_ref().map(|uuid| format!(" ({uuid})")).unwrap_or_default();
    let model = if model.is_empty() { String::new() } else { format!(", {model}") };
    format!("{address}, {subsystem}, namespace {nsid}{uuid} of {size} bytes in blocks of {block}{model}")
}

#[cfg(test)]
mod tests {
    use super::super::machine::Machine;
    use super::*;

    #[test]
    fn a_difference_counts_when_it_is_more_than_noise() {
        assert_eq!(judge(1.10, Some(0.05), true), Verdict::Better);
        assert_eq!(judge(1.10, Some(0.05), false), Verdict::Worse);
        assert_eq!(judge(0.90, Some(0.05), false), Verdict::Better);
        assert_eq!(judge(0.96, Some(0.05), true), Verdict::Noise);
        assert_eq!(judge(2.0, None, true), Verdict::Unknown);
    }

    /// What a run against a target tells.
    fn run(target: serde_json::Value) -> Report {
        let latency = serde_json::json!({"min": 1, "mean": 1, "standardDeviation": 0.0, "max": 1,
            "percentiles": {}, "histogram": []});
        let all = serde_json::json!({"operations": 1, "bytes": 4096, "iops": 1.0, "bytesPerSecond": 4096.0,
            "latencyNs": latency});
        let workload = serde_json::json!({"rw": "randread", "reads": 100, "bs": 4096, "iodepth": 1, "jobs": 1,
            "connections": 1, "rate": null, "offset": 0, "size": 4096, "hot": null, "seed": 1, "compressible": 0,
            "verify": false, "digests": [false, false], "pollWindowUs": null});
        let report = serde_json::json!({"benchFormat": 1, "program": "dolmen",
            "machine": serde_json::to_value(Machine::here()).unwrap(), "workload": workload, "targets": [target],
            "seconds": 1.0, "all": all, "reads": null, "writes": null, "slices": [], "jobs": [],
            "cpuNsPerIo": null, "targetCpuNsPerIo": null, "targetProcesses": "", "latencyTarget": null,
            "verified": null, "behind": 0, "connectionsLost": 0, "errors": 0, "firstError": null,
            "interrupted": false});
        serde_json::from_value(report).unwrap()
    }

    #[test]
    fn another_target_is_a_difference() {
        let target = serde_json::json!({"address": "127.0.0.1:4420", "subsystem": "nqn.2014-08.org.example:a",
            "nsid": 1, "uuid": null, "size": 4096, "block": 4096, "model": "Dolmen"});
        assert_eq!(differences(&run(target.clone()), &run(target.clone())), [""; 0]);
        let others = [
            ("address", serde_json::json!("127.0.0.1:4421")),
            ("subsystem", serde_json::json!("nqn.2014-08.org.example:b")),
            ("nsid", serde_json::json!(2)),
            ("uuid", serde_json::json!("00000000-0000-0000-0000-000000000001")),
            ("size", serde_json::json!(8192)),
            ("block", serde_json::json!(512)),
            ("model", serde_json::json!("Linux")),
        ];
        for (key, value) in others {
            let mut other = target.clone();
            other[key] = value;
            let found = differences(&run(target.clone()), &run(other));
            assert!(
                found.len() == 1 && found[0].starts_with("targets: 127.0.0.1:4420, "),
                "{key}: {found:?}"
            );
        }
    }
}
