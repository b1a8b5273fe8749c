//! A drive that joins while the pool is open: looked at and made ready here; it counts once [`PoolOwner`](crate::PoolOwner) has the
//! superblock that says so on every drive.
//!
//! A crash before that leaves a blank drive, or one with a superblock that was never in force: the next start that names it lets it
//! join. Never: writes to a drive that holds anything but nothing, or what a drive of this pool that is out has left.

use super::label::{Found, look};
use super::{Candidate, LOOK_MS, accept, derive, entry, prepare};
use crate::StoreError;
use crate::format::superblock::{DriveEntry, Superblock};
use crate::shard::within;
use dolmen_io::FileId;
use dolmen_io::exec::Handle;
use dolmen_types::Uuid;

/// The pool that a drive is to join, as it stands; see [`PoolOwner::join_to`](crate::PoolOwner::join_to).
#[derive(Clone, Debug)]
pub struct JoinTo {
    pub(crate) block: Superblock,
    /// Fresh random bytes.
    pub(crate) seed: [u8; 32],
}

/// A drive that is ready to join.
#[derive(Clone, Debug)]
pub struct NewDrive {
    pub(crate) entry: DriveEntry,
    /// The handle of the core that owns the pool's units.
    pub(crate) file: FileId,
    /// True when it was a drive of the pool before.
    pub was_out: bool,
}

impl NewDrive {
    /// Its identity in the pool.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.entry.uuid
    }

    /// The handle of the core that owns the pool's units.
    #[must_use]
    pub fn file(&self) -> FileId {
        self.file
    }
}

/// Looks at a drive and makes it ready to join: blank, or one of the pool's that was out. Refuses anything else, and writes
/// nothing then.
pub async fn prepare_drive(exec: Handle, drive: Candidate, pool: JoinTo) -> Result<NewDrive, StoreError> {
    let refused = |text: String| Err(StoreError::Refused(format!("{}: {text}", drive.path)));
    let found = match within(&exec, LOOK_MS, look(&exec, &drive.info)).await {
        Some(Ok(found)) => found,
        Some(Err(error)) => return refused(error.to_string()),
        None => return refused("it does not answer".into()),
    };
    accept(&drive, &found)?;
    let own = found.membership(pool.block.pool);
    let was_out = match (&found, own) {
        (Found::Ours(_), Some(own)) if own.pool != pool.block.pool => {
            return refused(format!(
                "it belongs to pool {}; nothing was written. If what it holds may be lost: `dolmen drive wipe {}`",
                own.pool, drive.path
            ));
        }
        (_, Some(own)) => {
            let uuid = own.drives[usize::from(own.index)].uuid;
            if pool.block.drives.iter().any(|d| d.uuid == uuid && d.state.counts()) {
                return refused("it is in service already, or a copy of a drive that is".into());
            }
            true
        }
        _ => false,
    };
    let entry = entry(&drive, pool.block.unit_bytes, derive(&pool.seed, pool.block.sequence + 1));
    if entry.units == 0 {
        return refused(format!(
            "it has {} bytes, and 4 MiB and a unit of {} bytes are the least",
            drive.info.size_bytes, pool.block.unit_bytes
        ));
    }
    match prepare(&exec, drive.info.file).await {
        Ok(()) => Ok(NewDrive { entry, file: drive.info.file, was_out }),
        Err(why) => refused(why),
    }
}
