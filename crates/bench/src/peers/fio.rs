//! fio with its nbd engine, and what it says.

use super::program;
use crate::{
    Result,
    floor::{Course, Rates},
    sample::Latency,
    workload::{Shape, Workload},
};
use serde_json::Value;
use std::process::Command;

/// The command line of a load; its loads come to an end by themselves.
pub(super) fn command(port: u16, size_bytes: u64, workload: &Workload, course: &Course) -> Command {
    let random = workload.bytes <= Workload::RANDOM_UP_TO_BYTES;
    let rw = match (workload.shape, random) {
        (Shape::Read, true) => "randread",
        (Shape::Read, false) => "read",
        (Shape::Write, true) => "randwrite",
        (Shape::Write, false) => "write",
        (Shape::Mix, true) => "randrw",
        (Shape::Mix, false) => "rw",
    };
    let mut command = program("fio");
    command.args(["--name=load", "--ioengine=nbd", "--output-format=json", "--time_based", "--norandommap"]);
    command.args([
        "--lat_percentiles=1",
        "--clat_percentiles=0",
        "--percentile_list=50:99:99.9",
        "--rwmixread=70",
    ]);
    command.arg(format!("--uri=nbd://127.0.0.1:{port}")).arg(format!("--rw={rw}"));
    command.arg(format!("--size={size_bytes}")).arg(format!("--bs={}", workload.bytes));
    command.arg(format!("--iodepth={}", workload.depth)).arg(format!("--numjobs={}", workload.connections));
    command.arg(format!("--runtime={}ms", course.runtime.as_millis().max(1)));
    command.arg(format!("--ramp_time={}ms", course.ramp.as_millis()));
    command
}

/// Reads the report: one job for each connection.
pub(super) fn rates(output: &str, workload: &Workload) -> Result<Rates> {
    // Before the report fio may say that it has connected.
    let start = output.find('{').ok_or("fio printed no report")?;
    let report: Value = serde_json::from_str(&output[start..])?;
    let jobs = report["jobs"].as_array().filter(|jobs| !jobs.is_empty()).ok_or("fio's report has no jobs")?;
    let directions: &[&str] = match workload.shape {
        Shape::Read => &["read"],
        Shape::Write => &["write"],
        Shape::Mix => &["read", "write"],
    };
    let mut by_connection = Vec::new();
    for job in jobs {
        if job["error"].as_i64() != Some(0) {
            return Err(format!("fio's job failed with error {}", job["error"]).into());
        }
        let iops = |direction: &&str| job[direction]["iops"].as_f64().unwrap_or(0.0);
        by_connection.push(directions.iter().map(iops).sum());
    }
    // Percentiles of several jobs or directions don't add up: they are told of the first.
    let first = &jobs[0][directions[0]]["lat_ns"];
    let alone = jobs.len() == 1 && directions.len() == 1;
    let percentile = |name: &str| first["percentile"][name].as_u64().filter(|_| alone);
    let per_second: f64 = by_connection.iter().sum();
    if per_second <= 0.0 {
        return Err("fio counted nothing".into());
    }
    let latency = Latency {
        mean_ns: mean_ns(workload, per_second),
        p50_ns: percentile("50.000000"),
        p99_ns: percentile("99.000000"),
        p999_ns: percentile("99.900000"),
    };
    Ok(Rates { per_second, latency, by_connection, congestion: None, server_cpu_ns: None })
}

/// Little's law: what is under way, over the rate.
pub(super) fn mean_ns(workload: &Workload, per_second: f64) -> u64 {
    let under_way = f64::from(workload.depth) * f64::from(workload.connections);
    std::time::Duration::from_secs_f64(under_way / per_second).as_nanos().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shortened from fio 3.33.
    const REPORT: &str = r#"fio: connected to NBD server
{ "fio version" : "fio-3.33",
  "jobs" : [ { "jobname" : "load", "error" : 0,
    "read" : { "io_bytes" : 117620736, "iops" : 28163.836164,
      "lat_ns" : { "min" : 126437, "max" : 36238749, "mean" : 1134457.070055, "N" : 28192,
        "percentile" : { "50.000000" : 333824, "99.000000" : 11993088, "99.900000" : 32112640 } } },
    "write" : { "iops" : 0.0, "lat_ns" : { "mean" : 0.0 } } } ] }
"#;

    #[test]
    fn a_report_is_read() {
        let rates = rates(REPORT, &Workload::small(Shape::Read, 32, 1)).unwrap();
        assert_eq!(rates.by_connection, [28_163.836_164]);
        assert_eq!(rates.latency.p50_ns, Some(333_824));
        assert_eq!(rates.latency.p999_ns, Some(32_112_640));
        // 32 / 28163.8 per second.
        assert_eq!(rates.latency.mean_ns / 1000, 1136);
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        let load = Workload::small(Shape::Read, 32, 1);
        assert!(rates("", &load).is_err());
        assert!(rates("{}", &load).is_err());
        assert!(rates(&REPORT.replace("\"error\" : 0", "\"error\" : 5"), &load).is_err());
        assert!(rates(REPORT, &Workload::small(Shape::Write, 32, 1)).is_err());
    }

    #[test]
    fn jobs_add_up() {
        let two = r#"{"jobs":[{"error":0,"write":{"iops":10.0}},{"error":0,"write":{"iops":30.0}}]}"#;
        let rates = rates(two, &Workload::small(Shape::Write, 1, 2)).unwrap();
        assert_eq!((rates.per_second, rates.latency.p99_ns), (40.0, None));
    }
}
