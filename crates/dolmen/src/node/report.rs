//! What a core tells about itself when asked.

use dolmen_io::DriveCounters;
use dolmen_store::SpaceReport;
use dolmen_target::{ConnectionInfo, HostInfo, TargetStats};
use dolmen_types::{CoreId, Uuid};
use dolmen_volume::{VolumeInfo, VolumeStats};

/// How a core's loop has spent its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LoopCounters {
    /// Turns.
    pub(crate) turns: u64,
    /// Turns that may have slept in the kernel.
    pub(crate) sleeps: u64,
    /// Time in turns that did not wait. Nanoseconds.
    pub(crate) busy_ns: u64,
    /// Time in waits. Nanoseconds.
    pub(crate) idle_ns: u64,
    /// Messages from other cores.
    pub(crate) messages: u64,
}

/// A snapshot of one core.
#[derive(Clone, Debug)]
pub(crate) struct CoreReport {
    /// Which core.
    pub(crate) core: CoreId,
    /// Its loop.
    pub(crate) counters: LoopCounters,
    /// Its target.
    pub(crate) target: TargetStats,
    /// Queues that it serves.
    pub(crate) connections: Vec<ConnectionInfo>,
    /// Controllers that live on it.
    pub(crate) hosts: Vec<HostInfo>,
    /// Volumes whose home it is.
    pub(crate) volumes: Vec<VolumeInfo>,
    /// Their counters.
    pub(crate) volume_stats: Vec<(Uuid, VolumeStats)>,
    /// The space of its shards; zeros on a core without.
    pub(crate) space: SpaceReport,
    /// Core 0: units that no shard holds, and the bytes that hosts' data may take in all.
    pub(crate) pool: Option<PoolReport>,
    /// What it has done with each drive, in the pool's order.
    pub(crate) drives: Vec<DriveCounters>,
    /// Why its shards take no writes, if they don't.
    pub(crate) stopped: Option<String>,
    /// 4 KiB buffers that are free now.
    pub(crate) buffers_free: u64,
    /// 4 KiB buffers in all.
    pub(crate) buffers_total: u64,
}

/// What the owner of the pool's units knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PoolReport {
    /// Units that no shard holds, by drive, in the pool's order.
    pub(crate) free_units: Vec<u32>,
    /// Bytes of data that hosts may store in all.
    pub(crate) capacity_bytes: u64,
}
