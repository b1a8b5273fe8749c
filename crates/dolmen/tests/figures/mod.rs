//! What the figures of one `dolmen bench` must have to do with each other, whatever they are.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::cast_precision_loss)] // what one test file does not use; figures

use serde_json::Value;

/// Little's law holds for the whole of a run; at its two ends up to a depth of commands are counted on one side only.
const LITTLE: f64 = 0.04;
/// The mean of a histogram's upper ends is above the exact one by up to a bucket's width.
const BUCKET: f64 = 0.017;

pub fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {value}"))
}

fn near(what: &str, a: f64, b: f64, most: f64) {
    assert!((a - b).abs() <= most, "{what}: {a} and {b} differ by more than {most}");
}

/// Checks everything that adds up in a result.
pub fn add_up(run: &Value) {
    let (bs, seconds) = (number(run, "/workload/bs"), number(run, "/seconds"));
    let all = number(run, "/all/operations");
    let sides: Vec<&str> =
        ["/reads", "/writes"].into_iter().filter(|s| !run.pointer(s).unwrap().is_null()).collect();
    let sum =
        |figure: &str| -> f64 { sides.iter().map(|side| number(run, &format!("{side}/{figure}"))).sum() };
    near("reads and writes", sum("operations"), all, 0.5);
    // Some of what was under way at the end, or due.
    assert!(number(run, "/all/late") <= under_way(run) + number(run, "/behind"), "{run}");
    near("their rates", sum("iops"), number(run, "/all/iops"), 1.0);
    for side in sides.iter().copied().chain(["/all"]) {
        let of = |figure: &str| number(run, &format!("{side}/{figure}"));
        let operations = of("operations");
        near("bytes", of("bytes"), operations * bs, 0.5);
        near("rate", of("iops") * seconds, operations, 1.0);
        near("bandwidth", of("bytesPerSecond"), of("iops") * bs, bs);
        latency(run.pointer(&format!("{side}/latencyNs")).unwrap(), operations + of("late"));
    }
    let known = |s: &str| number(run, &format!("{s}/operations")) + number(run, &format!("{s}/late"));
    let means: f64 = sides.iter().map(|s| known(s) * number(run, &format!("{s}/latencyNs/mean"))).sum();
    near("the mean of all", means / known("/all"), number(run, "/all/latencyNs/mean"), 2.0);
    let jobs = run["jobs"].as_array().unwrap();
    assert_eq!(jobs.len() as f64, number(run, "/workload/jobs"));
    let rates: f64 = jobs.iter().map(|job| number(job, "/iops")).sum();
    // Each job's own seconds.
    near("rates of the jobs", rates, number(run, "/all/iops"), rates * 0.05);
    let slices = run["slices"].as_array().unwrap();
    let sliced: f64 = slices.iter().map(|slice| number(slice, "/iops") * number(slice, "/seconds")).sum();
    assert!(slices.len() <= 40 && sliced <= all + 0.5, "{sliced} of {all} in {} slices", slices.len());
    assert!(number(run, "/errors") < 0.5 && run["firstError"].is_null(), "{run}");
    if run["workload"]["rate"].is_null() {
        little(run);
    } else {
        // As many as were due, up to those under way at the two ends.
        let due = number(run, "/workload/rate") * seconds;
        near("the rate that was asked for", all + number(run, "/behind"), due, under_way(run) + 2.0);
    }
}

fn under_way(run: &Value) -> f64 {
    ["iodepth", "jobs", "connections"].iter().map(|f| number(run, &format!("/workload/{f}"))).product()
}

/// Commands under way = rate times mean latency, but for what was under way at the two ends.
fn little(run: &Value) {
    let (depth, seconds) = (under_way(run), number(run, "/seconds"));
    let latency = |figure: &str| number(run, &format!("/all/latencyNs/{figure}")) / 1e9;
    let found = number(run, "/all/iops") * latency("mean");
    let ends = depth * latency("max") / seconds;
    near("commands under way", found, depth, depth * LITTLE + ends);
}

fn latency(latency: &Value, known: f64) {
    let of = |figure: &str| number(latency, &format!("/{figure}"));
    let buckets: Vec<(f64, f64)> =
        latency["histogram"].as_array().unwrap().iter().map(|b| (number(b, "/0"), number(b, "/1"))).collect();
    let counted: f64 = buckets.iter().map(|(_, count)| count).sum();
    near("the histogram's sum", counted, known, 0.5);
    let mean = buckets.iter().map(|(end, count)| end * count).sum::<f64>() / counted;
    let exact = of("mean");
    assert!(
        (exact..=exact * (1.0 + BUCKET) + 1.0).contains(&(mean + 1.0)),
        "mean {exact}, of the histogram {mean}"
    );
    let values: Vec<f64> = [
        "min",
        "percentiles/p50",
        "percentiles/p75",
        "percentiles/p90",
        "percentiles/p95",
        "percentiles/p99",
        "percentiles/p99.9",
        "percentiles/p99.99",
        "max",
    ]
    .map(of)
    .into();
    assert!(values.is_sorted(), "{values:?}");
    // The median by counting.
    let mut seen = 0.0;
    let median = buckets
        .iter()
        .find(|(_, count)| {
            seen += count;
            seen >= (counted / 2.0).ceil()
        })
        .unwrap()
        .0;
    near("the median", of("percentiles/p50"), median, median * BUCKET + 1.0);
}

/// Checks a comparison against the two results that it compares.
pub fn compares(before: &Value, after: &Value, comparison: &Value) {
    for (name, figure) in [
        ("IOPS", "/all/iops"),
        ("bandwidth", "/all/bytesPerSecond"),
        ("mean latency", "/all/latencyNs/mean"),
        ("p99", "/all/latencyNs/percentiles/p99"),
    ] {
        let rows = comparison["rows"].as_array().unwrap();
        let row =
            rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{name} in {comparison}"));
        let (a, b) = (number(before, figure), number(after, figure));
        near(name, number(row, "/before"), a, 1e-6 * a);
        near(name, number(row, "/after"), b, 1e-6 * b);
        near("the ratio", number(row, "/ratio"), b / a, 1e-6 * b / a);
        // Of latencies less is better.
        let better = (b > a) != name.starts_with(['m', 'p']);
        match row["verdict"].as_str().unwrap() {
            "better" => assert!(better, "{row}"),
            "worse" => assert!(!better, "{row}"),
            "noise" => assert!((b / a).ln().abs() <= (1.0 + number(row, "/noise")).ln() + 1e-9, "{row}"),
            _ => assert!(row["noise"].is_null(), "{row}"),
        }
    }
}
