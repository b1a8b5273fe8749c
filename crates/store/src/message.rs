//! Messages between shards and the owner of the pool's units (on core 0); the composition routes them.

use crate::columns::{Columns, Shape};
use dolmen_types::{ShardId, Uuid};

/// One unit of one drive: index of the drive in the pool, index of the unit on the drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitId {
    /// The drive.
    pub drive: u16,
    /// The unit on it.
    pub unit: u32,
}

/// What a unit is wanted for; later classes may dig deeper into the reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Host writes: never from the reserve.
    Host,
    /// Host writes that fill wide segments: likewise.
    Bulk,
    /// Unmap, delete and other control records.
    Control,
    /// Survivors of cleaning.
    Clean,
    /// Map pages and checkpoints, without which nothing is ever given back.
    Metadata,
}

/// From a shard to the pool's owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToPool {
    /// The shard has recovered and holds these units.
    Recovered {
        /// Who.
        shard: ShardId,
        /// The units of every segment that it holds.
        segments: Vec<Columns>,
        /// Bytes on drives that its live data takes.
        footprint_bytes: u64,
    },
    /// The shard wants the units of one segment.
    Want {
        /// Who.
        shard: ShardId,
        /// What for.
        purpose: Purpose,
    },
    /// These units hold nothing that anyone needs; a durable checkpoint says so.
    Release {
        /// Who.
        shard: ShardId,
        /// The units, as they were leased.
        segments: Vec<Columns>,
    },
    /// The shard's live data changed, or it has come to the end of its allowance.
    Live {
        /// Who.
        shard: ShardId,
        /// Bytes on drives that its live data takes.
        footprint_bytes: u64,
    },
    /// Without one of these drives something could not be had that is still to be moved, since other columns of it are out or wrong.
    Needs {
        /// Who.
        shard: ShardId,
        /// The drives, as a set of their indexes.
        drives: u64,
    },
    /// A drive did not do what it was told: it has to be out before anything that lacks its columns is acknowledged.
    Failed {
        /// Who noticed.
        shard: ShardId,
        /// The drive, by its index in the pool.
        drive: u16,
        /// What happened, for people.
        reason: String,
    },
    /// A drive is slow: better without it, if the pool can spare it.
    Ailing {
        /// Who noticed.
        shard: ShardId,
        /// The drive, by its index in the pool.
        drive: u16,
        /// What happened, for people.
        reason: String,
    },
    /// A drive leaves reads unanswered for long, and its peers do not: better without it, if the pool can spare it.
    Silent {
        /// Who noticed.
        shard: ShardId,
        /// The drive, by its index in the pool.
        drive: u16,
        /// What happened, for people.
        reason: String,
    },
    /// A drive answers, and much of what it gives is wrong or can't be read: it had better be emptied.
    ReadsBadly {
        /// Who noticed.
        shard: ShardId,
        /// The drive, by its index in the pool.
        drive: u16,
        /// What happened, for people.
        reason: String,
    },
}

impl ToPool {
    /// Who sent it.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        match self {
            ToPool::Recovered { shard, .. }
            | ToPool::Want { shard, .. }
            | ToPool::Release { shard, .. }
            | ToPool::Live { shard, .. }
            | ToPool::Needs { shard, .. }
            | ToPool::Failed { shard, .. }
            | ToPool::Ailing { shard, .. }
            | ToPool::Silent { shard, .. }
            | ToPool::ReadsBadly { shard, .. } => *shard,
        }
    }
}

/// From the pool's owner to a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToShard {
    /// The shard now holds these units.
    Lease {
        /// The units of one segment, by column.
        columns: Columns,
        /// What was asked for.
        purpose: Purpose,
    },
    /// Where the pool stands; sent when it changes, and in answer to [`ToPool::Live`].
    Space(SpaceLevel),
    /// A drive is about to be one of the pool's; comes before the members that count it.
    Joined(Joined),
    /// Who belongs to the pool now; durable on every drive that does.
    Members(Members),
    /// More drives fail than the pool can lose: nothing may be written any more.
    Stop {
        /// What happened, for people.
        reason: String,
    },
}

/// A drive that has joined while the pool was open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Its place in the pool.
    pub drive: u16,
    /// Its identity, under which each core was given a handle.
    pub uuid: Uuid,
    /// Units on it.
    pub units: u32,
}

/// Where the drives of the pool stand, as sets of their indexes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Drives that nothing is read from or written to.
    pub out: u64,
    /// Drives in service that are being emptied.
    pub leaving: u64,
    /// What segments are made of from now on.
    pub shape: Shape,
    /// Drives that can be lost now, whichever they are.
    pub spare: u8,
}

/// Where the pool stands, as one shard needs to know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceLevel {
    /// Bytes on drives that the live data of this shard may take.
    pub allowance_bytes: u64,
    /// Bytes on drives that it may come to by what the map takes for blocks that were unmapped, beyond that.
    pub holes_bytes: u64,
    /// Bytes on drives that the reserve holds for what this shard's map takes beside its live pages.
    pub map_bytes: u64,
    /// Units that nobody holds.
    pub free_units: u32,
    /// Shards with something to gain should clean.
    pub clean: bool,
    /// How urgently: 0 where cleaning begins, 1000 where hosts get no more units.
    pub pressure: u32,
    /// What a wide segment is made of now: narrower than the pool's shape where hosts get no more units and too few drives have some.
    pub shape: Shape,
    /// Drives with much less free than the others, where hosts get no more units: what the others have waits for them.
    pub(crate) scarce: u64,
    /// How many of them a wide segment takes a unit of now.
    pub(crate) takes_scarce: u32,
}
