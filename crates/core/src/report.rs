//! What a core tells about itself when asked.

use dolmen_export::nbd::{ClientInfo, ServerStats};
use dolmen_io::{DriveCounters, DriveInfo};
use dolmen_store::{DriveStanding, LostRange, ScrubReport, SpaceReport};
use dolmen_target::{ConnectionInfo, HostInfo, TargetStats};
use dolmen_types::{CoreId, Uuid};
use dolmen_volume::{VolumeInfo, VolumeStats};

/// How a core's loop has spent its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoopCounters {
    /// Turns.
    pub turns: u64,
    /// Turns that may have slept in the kernel.
    pub sleeps: u64,
    /// Time in turns that did not wait. Nanoseconds.
    pub busy_ns: u64,
    /// Time in waits. Nanoseconds.
    pub idle_ns: u64,
    /// Messages from other cores.
    pub messages: u64,
}

/// A snapshot of one core.
#[derive(Clone, Debug)]
pub struct CoreReport {
    /// Which core.
    pub core: CoreId,
    /// Its loop.
    pub counters: LoopCounters,
    /// Its target.
    pub target: TargetStats,
    /// Queues that it serves.
    pub connections: Vec<ConnectionInfo>,
    /// Its NBD door.
    pub nbd: ServerStats,
    /// NBD clients that it serves.
    pub nbd_clients: Vec<ClientInfo>,
    /// Controllers that live on it.
    pub hosts: Vec<HostInfo>,
    /// Volumes whose home it is.
    pub volumes: Vec<VolumeInfo>,
    /// Their counters.
    pub volume_stats: Vec<(Uuid, VolumeStats)>,
    /// The space of its shards; zeros on a core without.
    pub space: SpaceReport,
    /// How far its shards are scrubbed; `None` on a core without.
    pub scrub: Option<ScrubReport>,
    /// What of its shards is lost, as far as anybody has come upon it.
    pub lost: Vec<LostRange>,
    /// Core 0: units that no shard holds, and the bytes that hosts' data may take in all.
    pub pool: Option<PoolReport>,
    /// What it has done with each drive, in the pool's order.
    pub drives: Vec<DriveCounters>,
    /// Live bytes of its shards by drive, parity included.
    pub live_by_drive: Vec<u64>,
    /// Core 0: keys of lines that are gone, which could not be erased yet, and why; it is tried again and again.
    pub unerased: Option<(usize, String)>,
    /// Why its shards take no writes, if they don't.
    pub stopped: Option<String>,
    /// 4 KiB buffers that are free now.
    pub buffers_free: u64,
    /// 4 KiB buffers in all.
    pub buffers_total: u64,
}

/// What the owner of the pool's units knows.
#[derive(Clone, Debug, Default)]
pub struct PoolReport {
    /// Number of the superblock in force.
    pub sequence: u64,
    /// Of the drives that the pool was made to lose, how many it can't lose now.
    pub deficit: u8,
    /// The drives, by their place in the pool.
    pub drives: Vec<DriveReport>,
    /// Bytes of data that hosts may store in all.
    pub capacity_bytes: u64,
    /// Of the drives in service, what is kept back for the store itself, and what they have in all. Bytes.
    pub reserve_bytes: (u64, u64),
}

/// A drive as the owner of the pool's units knows it.
#[derive(Clone, Debug)]
pub struct DriveReport {
    /// Where it stands.
    pub standing: DriveStanding,
    /// What it is, while it is open.
    pub info: Option<DriveInfo>,
}
