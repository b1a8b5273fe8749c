//! What is counted in the data plane, as the control side is told.

use super::VolumeUsage;
use dolmen_types::{CoreId, Uuid};
use std::net::SocketAddr;

/// Counters since start and gauges of now, per volume, drive, connection and core.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetricsSnapshot {
    /// Per volume.
    pub volumes: Vec<VolumeMetrics>,
    /// Per drive.
    pub drives: Vec<DriveMetrics>,
    /// Per TCP connection.
    pub connections: Vec<ConnectionMetrics>,
    /// Per core.
    pub cores: Vec<CoreMetrics>,
}

/// Counters of one direction of I/O.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoMetrics {
    /// Commands completed, failed ones included. Count.
    pub operations: u64,
    /// Data moved. Bytes.
    pub bytes: u64,
    /// Commands completed with an error status. Count.
    pub errors: u64,
    /// Time from the receipt of each command to its answer, added up. Nanoseconds.
    pub time_ns: u64,
}

/// Counters of one volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeMetrics {
    /// Which volume.
    pub uuid: Uuid,
    /// Reads.
    pub reads: IoTotals,
    /// Writes, fused ones included.
    pub writes: IoTotals,
    /// Other commands that succeeded: trims, compares, copies, reservations ... Count.
    pub others: u64,
    /// Commands that failed, failed compares and reservation conflicts included. Count.
    pub failed: u64,
    /// Commands that had to wait for an overlapping one. Count.
    pub waited: u64,
    /// Commands that had to wait because the QoS policy allowed no more. Count.
    pub throttled: u64,
    /// Time that those waited, added up. Nanoseconds.
    pub throttled_ns: u64,
    /// Its space.
    pub usage: VolumeUsage,
}

/// Successful I/O of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoTotals {
    /// Commands. Count.
    pub operations: u64,
    /// Data moved. Bytes.
    pub bytes: u64,
    /// Time from the receipt of each command to its answer, added up. Nanoseconds.
    pub time_ns: u64,
    /// Commands by the time that they took: entry `i` counts those below 2^i microseconds and not below half of that; the last
    /// one has all that took longer.
    pub latency: [u64; LATENCY_BUCKETS],
}

/// Entries of [`IoTotals::latency`].
pub const LATENCY_BUCKETS: usize = 28;

/// Counters of one drive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriveMetrics {
    /// Path as given to `serve`.
    pub path: String,
    /// Its identity in the pool: another drive may have had the path before, and not be forgotten yet.
    pub uuid: Uuid,
    /// Reads of any kind.
    pub reads: IoMetrics,
    /// Writes of any kind.
    pub writes: IoMetrics,
    /// Flushes.
    pub flushes: IoMetrics,
    /// Operations in the drive now. Count.
    pub inflight: u64,
    /// Usable size. Bytes.
    pub size_bytes: u64,
    /// Of it free. Bytes.
    pub free_bytes: u64,
    /// True unless it has failed.
    pub healthy: bool,
}

/// Counters of one TCP connection (one queue of one controller).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionMetrics {
    /// The host's address.
    pub peer: SocketAddr,
    /// The host's name, empty before Connect; of an NBD client `nbd` and the export.
    pub host: String,
    /// Controller id; 0 for an NBD client.
    pub cntlid: u16,
    /// Queue id, 0 for the admin queue; of an NBD client its number.
    pub qid: u16,
    /// The core it lives on.
    pub core: CoreId,
    /// Commands received. Count.
    pub commands: u64,
    /// Received. Bytes.
    pub received_bytes: u64,
    /// Sent. Bytes.
    pub sent_bytes: u64,
    /// Commands in work now. Count.
    pub inflight: u64,
}

/// Counters of one core's loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreMetrics {
    /// Which loop.
    pub core: CoreId,
    /// I/O commands answered on its connections. Count.
    pub commands: u64,
    /// Turns of the loop. Count.
    pub turns: u64,
    /// Turns that slept in the kernel. Count.
    pub sleeps: u64,
    /// Time not asleep. Nanoseconds.
    pub busy_ns: u64,
    /// Time asleep. Nanoseconds.
    pub idle_ns: u64,
    /// Connections that live here now. Count.
    pub connections: u64,
    /// Messages that came from other cores. Count.
    pub messages: u64,
    /// Pool buffers in use now. Count.
    pub buffers_used: u64,
    /// Pool buffers in all. Count.
    pub buffers_total: u64,
}
