//! What opening a pool finds out, and what every core needs to host its shards.

use dolmen_types::{ShardId, Uuid};

/// One drive of an opened pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanDrive {
    /// Its identity in this pool.
    pub uuid: Uuid,
    /// Where it was found this time.
    pub path: String,
    /// Its serial number, if it tells one.
    pub serial: String,
    /// Units on it.
    pub units: u32,
}

/// An opened pool: plain data, handed to every core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolPlan {
    /// Its identity.
    pub pool: Uuid,
    /// This opening's generation; every earlier one is below.
    pub incarnation: u64,
    /// Bytes of one unit, a power of two.
    pub unit_bytes: u32,
    /// Shards, fixed for the pool's life.
    pub shards: u16,
    /// The drives; a unit's `drive` is an index here. The caller's own list of drives is matched by `order`.
    pub drives: Vec<PlanDrive>,
    /// `order[i]` is the index, in the list that was given to the opener, of the drive at `drives[i]`.
    pub order: Vec<usize>,
    /// True when this opening made the pool.
    pub created: bool,
}

impl PoolPlan {
    /// The shards of one core: shard s lives on core s modulo `cores`.
    #[must_use]
    pub fn shards_of(&self, core: usize, cores: usize) -> Vec<ShardId> {
        (0..self.shards).filter(|&s| usize::from(s) % cores == core).map(ShardId).collect()
    }
}

/// Where the space of a core's shards is. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceReport {
    /// Held by live data, map pages and checkpoints; an upper bound until the next checkpoint.
    pub live_bytes: u64,
    /// Of these, map pages and checkpoints.
    pub map_bytes: u64,
    /// In units that the shards hold.
    pub held_bytes: u64,
    /// Host data that the shards may hold in all.
    pub allowance_bytes: u64,
    /// Written for hosts (payload of host writes as they came).
    pub host_written_bytes: u64,
    /// Written to drives in all: commits, survivors of cleaning, map pages, checkpoints.
    pub drive_written_bytes: u64,
    /// Of these, survivors of cleaning.
    pub cleaned_bytes: u64,
    /// Of these, map pages and checkpoints.
    pub map_written_bytes: u64,
    /// Blocks whose check differed when read.
    pub integrity_errors: u64,
}

/// Knobs of a shard; the defaults suit production, tests make everything small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardTuning {
    /// Changed blocks that start a checkpoint.
    pub delta_entries: usize,
    /// Log bytes that start a checkpoint.
    pub log_bytes: u64,
    /// Bytes of one commit at most (header and payload).
    pub commit_bytes: usize,
    /// Commits under way at most.
    pub commits_in_flight: usize,
    /// Batches waiting at most.
    pub queued_batches: usize,
    /// Bytes of map leaves kept in memory.
    pub cache_bytes: usize,
    /// How long an append waits for space before it fails with `Full`. Milliseconds.
    pub full_wait_ms: u64,
}

impl Default for ShardTuning {
    fn default() -> ShardTuning {
        ShardTuning {
            delta_entries: 64 * 1024,
            log_bytes: 1 << 30,
            commit_bytes: 1 << 20,
            commits_in_flight: 8,
            queued_batches: 4096,
            cache_bytes: 64 << 20,
            full_wait_ms: 10_000,
        }
    }
}
