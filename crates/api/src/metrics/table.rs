//! The table of all metrics.

use dolmen_cluster::plane::{
    ConnectionMetrics, CoreMetrics, DriveMetrics, PoolState, PoolStatus, VolumeMetrics,
};

/// One metric of a sort of object. Its full name is `dolmen_<name>[_<unit>]`, and `_total` after a counter.
pub(super) struct Metric<T: 'static> {
    /// Name without prefix, unit and suffix.
    pub(super) name: &'static str,
    /// `bytes`, `seconds`, or nothing for a count.
    pub(super) unit: &'static str,
    /// A sentence for people.
    pub(super) help: &'static str,
    /// Where its value is.
    pub(super) value: Measure<T>,
}

/// How a metric is read.
pub(super) enum Measure<T> {
    /// Only grows.
    Counter(fn(&T) -> u64),
    /// Only grows; read in nanoseconds, told in seconds.
    Seconds(fn(&T) -> u64),
    /// Goes up and down.
    Gauge(fn(&T) -> u64),
    /// Goes up and down, and is no whole number.
    Ratio(fn(&T) -> f64),
}

const fn row<T>(name: &'static str, unit: &'static str, help: &'static str, value: Measure<T>) -> Metric<T> {
    Metric { name, unit, help, value }
}

use Measure::{Counter, Gauge, Ratio, Seconds};

/// The pool.
pub(super) const POOL: &[Metric<PoolStatus>] = &[
    row("pool_physical", "bytes", "Size of all drives", Gauge(|m| m.physical_bytes)),
    row("pool_usable", "bytes", "What data of hosts may take in all", Gauge(|m| m.usable_bytes)),
    row("pool_used", "bytes", "What data of hosts takes", Gauge(|m| m.used_bytes)),
    row("pool_free", "bytes", "What data of hosts may still take", Gauge(|m| m.free_bytes)),
    row(
        "pool_reserved",
        "bytes",
        "Kept back for cleaning, checkpoints and metadata",
        Gauge(|m| m.reserved_bytes),
    ),
    row(
        "pool_logical_used",
        "bytes",
        "Bytes of volumes that are written and not trimmed",
        Gauge(|m| m.logical_used_bytes),
    ),
    row(
        "pool_compression_ratio",
        "",
        "How many times smaller the data of all volumes is stored",
        Ratio(|m| m.compression.ratio()),
    ),
    row(
        "pool_at_risk",
        "bytes",
        "What re-protection has still to move",
        Gauge(|m| m.reprotection.at_risk_bytes),
    ),
    row(
        "pool_at_risk_segments",
        "",
        "Segments that lack a column or will; 0 when everything is protected as the drives in service allow",
        Gauge(|m| m.reprotection.at_risk_segments),
    ),
    row(
        "pool_deficit",
        "",
        "Of the drives that the pool was made to lose, how many it can't lose now",
        Gauge(|m| u64::from(m.reprotection.deficit)),
    ),
    row(
        "pool_reprotection_paused",
        "",
        "1 while re-protection rests",
        Gauge(|m| u64::from(m.reprotection.paused)),
    ),
    row(
        "pool_mended_reads",
        "",
        "Reads that were answered through other drives",
        Counter(|m| m.mended_reads),
    ),
    row(
        "pool_integrity_errors",
        "",
        "Blocks that did not check and that no other drive could give",
        Counter(|m| m.integrity_errors),
    ),
    row(
        "pool_reserve_ratio",
        "",
        "Part of the drives in service that cleaning, checkpoints and control records keep for themselves",
        Ratio(|m| f64::from(m.reserve_ppm) / 1e6),
    ),
    row(
        "pool_host_written",
        "bytes",
        "What hosts wrote, as it came",
        Counter(|m| m.amplification.hosts_bytes),
    ),
    row(
        "pool_drive_written",
        "bytes",
        "What was written to drives, without what parity and mirrors add",
        Counter(|m| m.amplification.drives_bytes),
    ),
    row(
        "pool_cleaning_written",
        "bytes",
        "Of what was written to drives, what cleaning moved",
        Counter(|m| m.amplification.cleaning_bytes),
    ),
    row(
        "pool_map_written",
        "bytes",
        "Of what was written to drives, map pages and checkpoints",
        Counter(|m| m.amplification.map_bytes),
    ),
    row(
        "pool_write_amplification_ratio",
        "",
        "Bytes written to drives for each byte that hosts wrote, without what parity and mirrors add",
        Ratio(|m| m.amplification.drives()),
    ),
    row(
        "pool_scrubbed",
        "bytes",
        "What scrubbing has read and verified, copies and parity included",
        Counter(|m| m.scrub.checked_bytes),
    ),
    row(
        "pool_scrub_mended",
        "",
        "Damaged places that scrubbing found and that other drives had",
        Counter(|m| m.scrub.mended),
    ),
    row(
        "pool_scrub_lost",
        "",
        "Damaged places that scrubbing found and that nothing gives any more",
        Counter(|m| m.scrub.lost),
    ),
    row(
        "pool_scrub_finished",
        "seconds",
        "When the last round of scrubbing ended, since 1970; 0 before the first",
        Gauge(|m| m.scrub.finished.0 / 1000),
    ),
    row("pool_map_memory", "bytes", "Memory that the map takes", Gauge(|m| m.map_memory_bytes)),
    row(
        "pool_ready",
        "",
        "1 while the pool serves reads and writes",
        Gauge(|m| u64::from(m.state == PoolState::Ready)),
    ),
];

/// Per volume.
pub(super) const VOLUME: &[Metric<VolumeMetrics>] = &[
    row("volume_read_operations", "", "Reads completed", Counter(|m| m.reads.operations)),
    row("volume_read", "bytes", "Data moved by reads", Counter(|m| m.reads.bytes)),
    row(
        "volume_read_time",
        "seconds",
        "Time that reads took from receipt to answer, added up",
        Seconds(|m| m.reads.time_ns),
    ),
    row("volume_write_operations", "", "Writes completed", Counter(|m| m.writes.operations)),
    row("volume_write", "bytes", "Data moved by writes", Counter(|m| m.writes.bytes)),
    row(
        "volume_write_time",
        "seconds",
        "Time that writes took from receipt to answer, added up",
        Seconds(|m| m.writes.time_ns),
    ),
    row(
        "volume_other_operations",
        "",
        "Trims, compares, copies and other commands completed",
        Counter(|m| m.others),
    ),
    row("volume_failed", "", "Commands that failed", Counter(|m| m.failed)),
    row("volume_waited", "", "Commands that waited for an overlapping one", Counter(|m| m.waited)),
    row(
        "volume_throttled",
        "",
        "Commands that waited because the volume's QoS policy allowed no more",
        Counter(|m| m.throttled),
    ),
    row(
        "volume_throttled_time",
        "seconds",
        "Time that commands waited for the volume's QoS policy, added up",
        Seconds(|m| m.throttled_ns),
    ),
    row("volume_mapped", "bytes", "Bytes written and not trimmed", Gauge(|m| m.usage.mapped_bytes)),
    row(
        "volume_stored",
        "bytes",
        "Bytes that the volume takes in the store",
        Gauge(|m| m.usage.stored_bytes),
    ),
    row(
        "volume_compression_ratio",
        "",
        "How many times smaller the volume's data is stored",
        Ratio(|m| m.usage.compression.ratio()),
    ),
];

/// Per drive.
pub(super) const DRIVE: &[Metric<DriveMetrics>] = &[
    row("drive_read_operations", "", "Reads completed", Counter(|m| m.reads.operations)),
    row("drive_read", "bytes", "Data moved by reads", Counter(|m| m.reads.bytes)),
    row("drive_read_errors", "", "Reads that failed", Counter(|m| m.reads.errors)),
    row(
        "drive_read_time",
        "seconds",
        "Time that reads took from receipt to answer, added up",
        Seconds(|m| m.reads.time_ns),
    ),
    row("drive_write_operations", "", "Writes completed", Counter(|m| m.writes.operations)),
    row("drive_write", "bytes", "Data moved by writes", Counter(|m| m.writes.bytes)),
    row("drive_write_errors", "", "Writes that failed", Counter(|m| m.writes.errors)),
    row(
        "drive_write_time",
        "seconds",
        "Time that writes took from receipt to answer, added up",
        Seconds(|m| m.writes.time_ns),
    ),
    row(
        "drive_flush_operations",
        "",
        "Flushes completed, failed ones included",
        Counter(|m| m.flushes.operations),
    ),
    row("drive_flush_errors", "", "Flushes that failed", Counter(|m| m.flushes.errors)),
    row(
        "drive_flush_time",
        "seconds",
        "Time that flushes took from receipt to answer, added up",
        Seconds(|m| m.flushes.time_ns),
    ),
    row("drive_inflight", "", "Operations in work", Gauge(|m| m.inflight)),
    row("drive_size", "bytes", "Usable size", Gauge(|m| m.size_bytes)),
    row("drive_free", "bytes", "Space not allocated", Gauge(|m| m.free_bytes)),
    row("drive_healthy", "", "1 unless the drive has failed", Gauge(|m| u64::from(m.healthy))),
];

/// Per TCP connection.
pub(super) const CONNECTION: &[Metric<ConnectionMetrics>] = &[
    row("connection_commands", "", "Commands received", Counter(|m| m.commands)),
    row("connection_received", "bytes", "Bytes received", Counter(|m| m.received_bytes)),
    row("connection_sent", "bytes", "Bytes sent", Counter(|m| m.sent_bytes)),
    row("connection_inflight", "", "Commands in work", Gauge(|m| m.inflight)),
];

/// Per core's loop.
pub(super) const CORE: &[Metric<CoreMetrics>] = &[
    row("core_turns", "", "Turns of the loop", Counter(|m| m.turns)),
    row("core_sleeps", "", "Turns that slept in the kernel", Counter(|m| m.sleeps)),
    row("core_busy", "seconds", "Time not asleep", Seconds(|m| m.busy_ns)),
    row("core_idle", "seconds", "Time asleep", Seconds(|m| m.idle_ns)),
    row("core_connections", "", "Connections that live on the core", Gauge(|m| m.connections)),
    row("core_messages", "", "Messages that came from other cores", Counter(|m| m.messages)),
    row("core_buffers_used", "", "Pool buffers in use", Gauge(|m| m.buffers_used)),
    row("core_buffers", "", "Pool buffers in all", Gauge(|m| m.buffers_total)),
];
