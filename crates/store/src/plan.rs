//! What opening a pool finds out, and what every core needs to host its shards.

use crate::DriveState;
use crate::format::superblock::{DriveEntry, Superblock};
use crate::message::Members;
use crate::shard::MAX_OBJECTS_BYTES;
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
    /// Where it stands since this opening.
    pub state: DriveState,
    /// It joined while what other drives had lost was not made good yet, and can be lost for all that.
    pub fresh: bool,
}

/// Something about a drive that an opening came upon, and that an operator should know. The texts are for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A drive of the pool is not there, or can't be used: it is out.
    Lost {
        /// Where it was.
        path: String,
        /// Its place in the plan.
        drive: u16,
        /// What is wrong.
        reason: String,
    },
    /// Something that was named was left as it is: it stands where a drive of the pool is or was, and can't be one.
    Untouched {
        /// Where it is.
        path: String,
        /// What it is.
        reason: String,
    },
    /// A drive that was out came back. What it held counts no more; it has joined as a new one.
    Stale {
        /// Where it is.
        path: String,
    },
    /// A blank drive has joined.
    Joined {
        /// Where it is.
        path: String,
    },
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
    /// Drives that may be lost at a time without loss, fixed for the pool's life.
    pub parity: u8,
    /// Of these, how many can't be lost now, since what was lost before is not made good.
    pub deficit: u8,
    /// Number of the superblock that describes the pool so.
    pub sequence: u64,
    /// The drives; a unit's `drive` is an index here. The caller's own list of drives is matched by `order`.
    pub drives: Vec<PlanDrive>,
    /// `order[i]` is the index, in the list that was given to the opener, of the drive at `drives[i]`; `None` for a drive
    /// that is not there or does not count.
    pub order: Vec<Option<usize>>,
    /// True when this opening made the pool.
    pub created: bool,
    /// What this opening came upon.
    pub findings: Vec<Finding>,
    /// What was left alone because it was removed on purpose, or is where such a drive was: indices in the list that was given to the
    /// opener, and which drive of the pool it was.
    pub let_go: Vec<(usize, Option<Uuid>)>,
}

impl PoolPlan {
    /// The shards of one core: shard s lives on core s modulo `cores`.
    #[must_use]
    pub fn shards_of(&self, core: usize, cores: usize) -> Vec<ShardId> {
        (0..self.shards).filter(|&s| usize::from(s) % cores == core).map(ShardId).collect()
    }

    /// The drives that are the pool's: all but those that have left.
    pub fn drives_of_it(&self) -> impl Iterator<Item = &PlanDrive> {
        self.drives.iter().filter(|d| d.state != DriveState::Gone)
    }

    /// Where the drives stand.
    #[must_use]
    pub fn members(&self) -> Members {
        crate::membership::members(&self.superblock())
    }

    /// The superblock that describes the pool so, for the drive with index 0.
    pub(crate) fn superblock(&self) -> Superblock {
        let entry = |d: &PlanDrive| DriveEntry {
            uuid: d.uuid,
            units: d.units,
            state: d.state,
            fresh: d.fresh,
            serial: d.serial.clone(),
            path: d.path.clone(),
        };
        Superblock {
            sequence: self.sequence,
            pool: self.pool,
            index: 0,
            incarnation: self.incarnation,
            shards: self.shards,
            parity: self.parity,
            deficit: self.deficit,
            unit_bytes: self.unit_bytes,
            drives: self.drives.iter().map(entry).collect(),
        }
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
    /// What hosts wrote since the start, as it came.
    pub host_written_bytes: u64,
    /// Written to drives since the start for whatever reason (commits with their headers, survivors of cleaning, map pages,
    /// checkpoints), but without what parity and mirrors add.
    pub drive_written_bytes: u64,
    /// Of these, survivors of cleaning.
    pub cleaned_bytes: u64,
    /// Of these, map pages and checkpoints.
    pub map_written_bytes: u64,
    /// Memory that the map takes now: references to its leaves, leaves in the cache, changes that are not in leaves yet.
    pub map_memory_bytes: u64,
    /// Blocks whose check differed when read, and that no other column could give.
    pub integrity_errors: u64,
    /// Reads that were answered through other columns, because a drive is out, failed, was late or held something else.
    pub mended_reads: u64,
    /// Live bytes in segments that lack a column, or will when a drive leaves: what re-protection has still to move.
    pub at_risk_bytes: u64,
    /// Those segments: 0 once everything is protected as the drives in service allow.
    pub at_risk_segments: u64,
    /// Shards that refuse hosts' data: there was no room for the last that came, and none has come since. Count.
    pub refusing_shards: u64,
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
    /// Of these, host commits of less than 64 KiB: what comes while so many are under way is gathered, since each costs a header.
    pub small_commits_in_flight: usize,
    /// Batches waiting at most.
    pub queued_batches: usize,
    /// Bytes of map leaves kept in memory.
    pub cache_bytes: usize,
    /// Bytes of keyed objects at most.
    pub objects_bytes: usize,
    /// How long an append waits for space before it fails with `Full`. Milliseconds.
    pub full_wait_ms: u64,
    /// A write that is under way for longer, while its peers on other drives have ended, puts its drive out. Milliseconds.
    pub stuck_write_ms: u64,
    /// A read that is under way for longer is answered through other columns, if it can be. Milliseconds.
    pub slow_read_ms: u64,
}

/// Memory for each TiB of data that a pool can hold, beside the references to the leaves of the map ([`REFERENCE_BYTES_PER_TIB`]):
/// together at most 200 MiB. A smaller pool has as much as one of a TiB. Bytes.
const MEMORY_BYTES_PER_TIB: u64 = 88 << 20;

/// What the references to the leaves take for each TiB that is written, in leaves that are three quarters full. Bytes.
pub(crate) const REFERENCE_BYTES_PER_TIB: usize = 112 << 20;

/// Every checkpoint writes all keyed objects anew, beside those of the one before, into what is reserved for metadata (an eightieth of
/// the pool): they may take half of that, or half a unit in each shard.
const OBJECTS_SHARE: u64 = 160;

const _: () = assert!(MEMORY_BYTES_PER_TIB + REFERENCE_BYTES_PER_TIB as u64 <= 200 << 20);

impl ShardTuning {
    /// The knobs for a pool: its shards share the memory that a pool of its size may take, half of it for leaves, half for
    /// changes.
    #[must_use]
    pub fn for_pool(plan: &PoolPlan) -> ShardTuning {
        let units: u64 = plan.drives.iter().filter(|d| d.state.counts()).map(|d| u64::from(d.units)).sum();
        let data = plan.members().shape.usable(units * u64::from(plan.unit_bytes));
        let total = (u128::from(MEMORY_BYTES_PER_TIB) * u128::from(data.max(1 << 40))) >> 40;
        let half = usize::try_from(total).unwrap_or(usize::MAX) / usize::from(plan.shards.max(1)) / 2;
        // A shard holds hosts back when two such deltas wait for a third one to be merged.
        let delta_entries = half / 3 / crate::map::DELTA_ENTRY_BYTES;
        let share = data / OBJECTS_SHARE / u64::from(plan.shards.max(1));
        let objects_bytes = usize::try_from(share.max(u64::from(plan.unit_bytes) / 2)).unwrap_or(usize::MAX);
        let objects_bytes = objects_bytes.min(MAX_OBJECTS_BYTES);
        ShardTuning { delta_entries, cache_bytes: half, objects_bytes, ..ShardTuning::default() }
    }
}

impl Default for ShardTuning {
    fn default() -> ShardTuning {
        ShardTuning {
            delta_entries: 64 * 1024,
            log_bytes: 1 << 30,
            // What is checked, coded and then written should still be in the caches when it is needed the next time.
            commit_bytes: 512 << 10,
            commits_in_flight: 8,
            small_commits_in_flight: 2,
            queued_batches: 4096,
            cache_bytes: 64 << 20,
            objects_bytes: MAX_OBJECTS_BYTES,
            full_wait_ms: 10_000,
            stuck_write_ms: 2_000,
            slow_read_ms: 50,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the pool's size and however many shards share it: 200 MiB for each TiB that it can hold, counted.
    #[test]
    fn the_map_keeps_its_budget() {
        for tib in [1u64, 2, 8, 100] {
            for shards in [1, 2, 16] {
                let unit_bytes = 64 << 20;
                let drive = PlanDrive {
                    uuid: Uuid::NIL,
                    path: String::new(),
                    serial: String::new(),
                    units: u32::try_from((tib << 40) / u64::from(unit_bytes)).unwrap(),
                    state: DriveState::In,
                    fresh: false,
                };
                let plan = PoolPlan {
                    pool: Uuid::NIL,
                    incarnation: 1,
                    unit_bytes,
                    shards,
                    parity: 0,
                    deficit: 0,
                    sequence: 1,
                    drives: vec![drive],
                    order: vec![Some(0)],
                    created: true,
                    findings: Vec::new(),
                    let_go: Vec::new(),
                };
                let tuning = ShardTuning::for_pool(&plan);
                let deltas = 3 * tuning.delta_entries * crate::map::DELTA_ENTRY_BYTES;
                let shared = (tuning.cache_bytes + deltas) * usize::from(shards);
                let all = shared as u64 + tib * REFERENCE_BYTES_PER_TIB as u64;
                assert!(all <= tib * (200 << 20), "{tib} TiB, {shards} shards: {all}");
                assert!(tuning.delta_entries > 10_000 && tuning.cache_bytes > 1 << 20);
            }
        }
    }
}
