//! Where a result comes from, so that nobody compares what can't be compared.

use serde::{Deserialize, Serialize};
use std::{fs, time::SystemTime};

/// The machine that made the load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Machine {
    /// Its processor.
    pub(super) cpu: String,
    /// CPUs that this process may use.
    pub(super) cpus: usize,
    /// Release of its kernel.
    pub(super) kernel: String,
    /// TCP congestion control in use by default.
    pub(super) congestion_control: String,
    /// When. Seconds since 1970.
    pub(super) time: u64,
}

impl Machine {
    /// This one, now.
    pub(super) fn here() -> Machine {
        let file = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_string();
        let cpuinfo = file("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Machine {
            cpu: model.map_or_else(|| std::env::consts::ARCH.into(), |(_, name)| name.trim().to_string()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: file("/proc/sys/kernel/osrelease"),
            congestion_control: file("/proc/sys/net/ipv4/tcp_congestion_control"),
            time: SystemTime::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_secs()),
        }
    }
}
