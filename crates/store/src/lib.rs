//! The flash engine of one node: everything is written by appending.
#![forbid(unsafe_code)]

mod batch;
mod bytes;
mod check;
mod error;
mod format;
mod location;
mod map;
mod message;
mod owner;
mod plan;
mod policy;
mod pool;
mod segments;
mod shard;
mod store;

pub use batch::{
    AppendError, Batch, Done, Key, LineUsage, MAX_BATCH_RECORDS, MAX_OBJECT_BYTES, Marks, Record, Records,
    Ticket,
};
pub use error::StoreError;
pub use message::{Purpose, SpaceLevel, ToPool, ToShard, UnitId};
pub use owner::PoolOwner;
pub use plan::{PlanDrive, PoolPlan, ShardTuning, SpaceReport};
pub use pool::{Candidate, Identity, PoolOptions, identify_drive, open_pool, wipe_drive};
pub use store::Store;
