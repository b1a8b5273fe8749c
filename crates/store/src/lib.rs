//! The flash engine of one node: everything is written by appending.
//!
//! ```text
//!   Store (per core)  hosts shards; each shard: append -> commit in the log -> map;  read -> map -> drive -> check
//!   PoolOwner (core 0)  leases sets of units to shards, keeps the reserve, shares out what hosts may fill, lets drives go
//!   open_pool         which drives are the pool's;  check_pool  reads everything offline;  identify_drive, wipe_drive
//! ```
//!
//! A write: [`Store::append`] queues a batch; `shard/form.rs` gathers batches into a commit, stages and checks their blocks and
//! writes it with one durable operation per column; `shard/apply.rs` applies commits in chain order once they are durable and ends the
//! appends. A read: `shard/read.rs` asks `map/lookup.rs`, reads what is contiguous in one go and verifies every block; what its
//! column can't give, `shard/fetch.rs` computes from the others.
//! `shard/checkpoint.rs` merges what changed into map pages and gives emptied segments back; `shard/clean.rs` empties sparse
//! ones; `shard/recover.rs` and `shard/replay.rs` bring all of it back. The bytes are described in `docs/format/`.
//!
//! Promises: what was acknowledged is found again whole after any crash; a batch is all or nothing; a block that is not what was
//! written is an error with its address, never data. Never: waits, allocates per block, retries a flush, looks at a clock.
#![forbid(unsafe_code)]

mod batch;
mod bytes;
mod check;
mod checker;
mod columns;
mod diff;
mod error;
mod format;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod key_table;
mod keyring;
mod location;
mod lost;
mod map;
mod membership;
mod message;
mod owner;
mod parity;
mod plan;
mod policy;
mod pool;
mod redundancy;
mod scrub;
mod segments;
mod shard;
mod store;
mod stored;

pub use batch::{
    AppendError, Batch, Done, Key, LineAttributes, LineInfo, LineUsage, MAX_BATCH_RECORDS, MAX_CLONE_DEPTH,
    MAX_OBJECT_BYTES, MAX_SNAPSHOTS_PER_SHARD, Marks, Record, Records, Ticket, Timing,
};
pub use checker::{
    CheckProgress, CheckReport, Damage, DriveDamage, PoolContents, check_pool, check_pool_with, read_contents,
};
pub use columns::{Columns, Shape};
pub use diff::{ChangedRange, DiffDone, DiffPage, DiffRequest, MAX_DIFF_RANGES, MAX_DIFFS, View};
pub use error::StoreError;
pub use format::superblock::DriveState;
pub use key_table::{KeyTable, WrappedKey, erase_keys_on};
pub use keyring::{DataKey, Keyring};
pub use lost::{LostCause, LostRange};
pub use message::{Joined, Members, Purpose, SpaceLevel, ToPool, ToShard, UnitId};
pub use owner::{DriveStanding, PoolOwner};
pub use plan::{Finding, PlanDrive, PoolPlan, ShardTuning, SpaceReport};
pub use pool::{
    Candidate, FoundPool, Identity, JoinTo, NewDrive, PoolOptions, find_pool, identify_drive, open_pool,
    prepare_drive, wipe_drive,
};
pub use scrub::{LabelScrub, ScrubPlan, ScrubReport};
pub use store::Store;
