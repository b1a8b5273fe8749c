//! Looks at a drive, or makes it blank, without a pool.

use crate::node::{ServeError, offline::open};
use dolmen_io::{DriveInfo, exec::Handle};
use dolmen_store::{Candidate, StoreError};
use std::{future::Future, path::Path};

pub use dolmen_store::Identity as DriveIdentity;

/// What a drive holds. Fails when a daemon has it open.
pub fn identify_drive(path: &Path) -> Result<DriveIdentity, ServeError> {
    with_drive(path, dolmen_store::identify_drive)
}

/// Makes a drive blank again, so that `serve` takes it. The caller has the user's word for it. Fails when a daemon has it
/// open.
pub fn wipe_drive(path: &Path) -> Result<(), ServeError> {
    with_drive(path, dolmen_store::wipe_drive)
}

fn with_drive<T: 'static, F>(path: &Path, work: impl FnOnce(Handle, DriveInfo) -> F) -> Result<T, ServeError>
where
    F: Future<Output = Result<T, StoreError>> + 'static,
{
    let opened = open(&[path.into()])?;
    let (opened, absent) = opened;
    let Some(Candidate { info, .. }) = opened.drives.first().cloned() else {
        return Err(ServeError::new(absent.into_iter().map(|(_, why)| why).next().unwrap_or_default()));
    };
    opened.run(|exec, _| work(exec, info), || ())
}
