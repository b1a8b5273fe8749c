//! What drives say of their pool before it is opened: nothing is written.

use super::label::Found;
use super::{Candidate, survey, view};
use crate::StoreError;
use crate::key_table::{Sources, WrappedKey, read_keys};
use dolmen_io::exec::Handle;
use dolmen_types::Uuid;

/// A pool that drives belong to.
#[derive(Clone, Debug)]
pub struct FoundPool {
    /// Its identity.
    pub pool: Uuid,
    /// Number of the superblock in force.
    pub sequence: u64,
    /// The keys of its encrypted lines: whoever can't unwrap them need not open it.
    pub keys: Vec<WrappedKey>,
}

/// Finds the pool of these drives, and its keys; `None` when none was made of them yet. Judges no drive: that is for [`open_pool`](super::open_pool).
pub async fn find_pool(exec: Handle, drives: Vec<Candidate>) -> Result<Option<FoundPool>, StoreError> {
    let found = survey(&exec, &drives).await?;
    let Some(in_force) = view::in_force(&found, None, 0)? else { return Ok(None) };
    let block = &in_force.block;
    let counts = |own: &crate::format::superblock::Superblock| {
        let uuid = own.drives[usize::from(own.index)].uuid;
        own.pool == block.pool && block.drives.iter().any(|d| d.uuid == uuid && d.state.counts())
    };
    // What is on a drive that was out or is behind, or on one of another pool, counts for nothing.
    let serves =
        |found: &Found| found.membership(block.pool).is_some_and(counts) && !in_force.is_behind(found);
    let ours = drives.iter().zip(&found).filter(|(_, found)| serves(found));
    let mut sources = Sources { files: Vec::new(), fresh: Vec::new(), spare: usize::from(block.parity) };
    for (drive, found) in ours {
        let own = found.membership(block.pool).map(|own| own.drives[usize::from(own.index)].uuid);
        let fresh = block.drives.iter().any(|d| d.fresh && Some(d.uuid) == own);
        sources.fresh.extend(fresh.then_some(drive.info.file));
        sources.files.push(drive.info.file);
    }
    let keys = read_keys(&exec, block.pool, &sources).await?;
    Ok(Some(FoundPool { pool: block.pool, sequence: block.sequence, keys }))
}
