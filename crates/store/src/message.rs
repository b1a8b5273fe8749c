//! Messages between shards and the owner of the pool's units (on core 0); the composition routes them.

use dolmen_types::ShardId;

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
        /// Every unit that it holds.
        units: Vec<UnitId>,
        /// Bytes of live data in them.
        live_bytes: u64,
    },
    /// The shard wants one unit.
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
        /// The units.
        units: Vec<UnitId>,
    },
    /// The shard's live data changed, or it has come to the end of its allowance.
    Live {
        /// Who.
        shard: ShardId,
        /// Bytes of live data in its units.
        live_bytes: u64,
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
            | ToPool::Live { shard, .. } => *shard,
        }
    }
}

/// From the pool's owner to a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToShard {
    /// The shard now holds this unit.
    Lease {
        /// The unit.
        unit: UnitId,
        /// What was asked for.
        purpose: Purpose,
    },
    /// Where the pool stands; sent when it changes, and in answer to [`ToPool::Live`].
    Space(SpaceLevel),
}

/// Where the pool stands, as one shard needs to know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceLevel {
    /// Bytes of live data that this shard may hold.
    pub allowance_bytes: u64,
    /// Units that nobody holds.
    pub free_units: u32,
    /// Shards with something to gain should clean.
    pub clean: bool,
}
