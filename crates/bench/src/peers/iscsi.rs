//! libiscsi's iscsi-perf, and what it says.

use super::{fio::mean_ns, program};
use crate::{
    Result,
    floor::{Course, Rates},
    sample::Latency,
    workload::Workload,
};
use std::process::Command;

/// Bytes of a block of tgt's disk.
const BLOCK_BYTES: usize = 512;

/// The command line of a load of reads. It counts in whole seconds.
pub(super) fn command(port: u16, iqn: &str, workload: &Workload, course: &Course) -> Command {
    let seconds = course.runtime.as_secs_f64().ceil().max(1.0);
    let mut command = program("iscsi-perf");
    command.args(["-m", &workload.depth.to_string(), "-b", &(workload.bytes / BLOCK_BYTES).to_string()]);
    command.args(["-t", &seconds.to_string()]);
    if workload.bytes <= Workload::RANDOM_UP_TO_BYTES {
        command.arg("-r");
    }
    command.arg(format!("iscsi://127.0.0.1:{port}/{iqn}/1"));
    command
}

/// The last average that it printed; it tells no latencies.
pub(super) fn rates(output: &str, workload: &Workload) -> Result<Rates> {
    let averages = output.split("iops average ").skip(1);
    let iops = averages.filter_map(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    let per_second = iops.last().filter(|&iops| iops > 0.0).ok_or("iscsi-perf tells no average")?;
    let mean_ns = mean_ns(workload, per_second);
    let latency = Latency { mean_ns, p50_ns: None, p99_ns: None, p999_ns: None };
    Ok(Rates { per_second, latency, by_connection: vec![per_second], congestion: None, server_cpu_ns: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Shape;

    /// From libiscsi-bin 1.19; lines end with a carriage return.
    const OUTPUT: &str = "will run for 2 seconds.\n\n\r00:00:01 - lba 35298, iops current 18576 (72 MB/s), iops average \
18576 (72 MB/s), in_flight 32, busy 0          \riops average 19339 (75 MB/s)                       \n\nfinished.\n";

    #[test]
    fn the_last_average_counts() {
        let load = Workload::small(Shape::Read, 32, 1);
        let rates = rates(OUTPUT, &load).unwrap();
        assert_eq!((rates.per_second, rates.latency.p50_ns), (19_339.0, None));
        assert_eq!(rates.latency.mean_ns / 1000, 1654);
        assert!(super::rates("failed to connect", &load).is_err());
    }
}
