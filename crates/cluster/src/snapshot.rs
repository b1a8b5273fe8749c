//! What a user may ask of snapshots: the requests in typed form, and their rules.

use crate::{Error, volume, volume::VolumeKey};
use dolmen_types::{Uuid, limits::MAX_DESCRIPTION_BYTES};

/// Longest retention: a thousand years. Milliseconds.
pub const MAX_RETENTION_MS: u64 = 1000 * 366 * 24 * 3_600_000;

/// One snapshot to be taken, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotSpec {
    /// Unique among the project's snapshots.
    pub name: String,
    /// The tenant.
    pub project: String,
    /// The volume.
    pub volume: VolumeKey,
    /// For people.
    pub description: String,
    /// After how long it is deleted by itself. Milliseconds.
    pub retention_ms: Option<u64>,
    /// The snapshot policy that wants it.
    pub policy: Option<Uuid>,
}

impl SnapshotSpec {
    /// Checks names and lengths; texts name the fields of the management API.
    pub fn check(&self) -> Result<(), Error> {
        volume::check_name("name", &self.name)?;
        volume::check_project("projectName", &self.project)?;
        check_description(&self.description)?;
        match self.retention_ms {
            Some(ms) if ms == 0 || ms > MAX_RETENTION_MS => {
                Err(Error::invalid("retentionTime", "must be more than nothing and at most 1000 years"))
            }
            _ => Ok(()),
        }
    }
}

/// Checks the length of a description.
pub fn check_description(text: &str) -> Result<(), Error> {
    if text.len() > MAX_DESCRIPTION_BYTES {
        return Err(Error::invalid("description", format!("more than {MAX_DESCRIPTION_BYTES} bytes")));
    }
    Ok(())
}

/// What differs between two snapshots is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiffSpec {
    /// The tenant.
    pub project: Option<String>,
    /// The newer snapshot.
    pub snapshot: VolumeKey,
    /// The older one; `None` for all that is written.
    pub base: Option<VolumeKey>,
    /// First store block to look at.
    pub first_block: u64,
    /// Ranges to list at most.
    pub limit: usize,
}
