//! Opening a pool: which drives are its own, which join, which are refused and why.

use crate::{PoolPlan, StoreError};
use dolmen_io::{DriveInfo, exec};
use dolmen_types::Uuid;

/// A drive that was opened (with `exclusive`), offered to [`open_pool`].
#[derive(Clone, Debug)]
pub struct Candidate {
    /// What the driver said about it.
    pub info: DriveInfo,
    /// Where it is, as the operator names it.
    pub path: String,
}

/// How a new pool is made.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// Shards of a new pool, 1 to 16.
    pub shards: u16,
    /// Bytes of a unit of a new pool (tests); `None` chooses by the pool's size.
    pub unit_bytes: Option<u32>,
    /// Fresh random bytes for the UUIDs of a new pool and of drives that join, and for this opening.
    pub seed: [u8; 32],
}

/// What a drive holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Nothing but zeros where signatures live.
    Blank,
    /// A drive of one of our pools.
    Ours {
        /// The pool.
        pool: Uuid,
        /// The drive.
        drive: Uuid,
        /// Its format version.
        version: u32,
    },
    /// Something else, named when known.
    Foreign(String),
}

/// Opens (or, over blank drives alone, makes) the pool that lives on these drives, and records this opening's incarnation
/// durably on every drive. Refuses a drive with a foreign signature, of another pool or of a newer format, and a pool
/// with a drive missing, by name; nothing is written then.
pub async fn open_pool(
    exec: exec::Handle,
    drives: Vec<Candidate>,
    options: PoolOptions,
) -> Result<PoolPlan, StoreError> {
    let _ = (exec, drives, options);
    Err(StoreError::Refused("the skeleton has no insides yet".into()))
}

/// What a drive holds; reads only.
pub async fn identify_drive(exec: exec::Handle, info: DriveInfo) -> Result<Identity, StoreError> {
    let _ = (exec, info);
    Err(StoreError::Refused("the skeleton has no insides yet".into()))
}

/// Makes a drive blank: zeros its first and last MiB and gives the rest up.
pub async fn wipe_drive(exec: exec::Handle, info: DriveInfo) -> Result<(), StoreError> {
    let _ = (exec, info);
    Err(StoreError::Refused("the skeleton has no insides yet".into()))
}
