//! The key table goes from a drive that has left the pool.
//!
//! What is overwritten must stay so: the table gives the drive no page any more, and a write that was given up because it took too long has
//! ended, before the first zeros are written.

use super::{KeyTable, READ_PAGES};
use crate::format::PAGE_BYTES;
use crate::format::keys::{KEY_COPIES, KEY_PAGES, key_offset};
use crate::shard::within;
use crate::{Identity, StoreError, identify_drive};
use dolmen_io::exec::{Completion, Handle};
use dolmen_io::{DriveInfo, FileId};
use dolmen_types::Uuid;
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;

/// How long a write that was given up is waited for before a drive's keys are overwritten. Milliseconds.
const LATE_MS: u64 = 30_000;

/// How long it may take to look at a drive and to overwrite its keys. Milliseconds.
const ERASE_MS: u64 = 20_000;

/// How often it is looked at whether it has ended. Milliseconds.
const LOOK_MS: u64 = 50;

/// Writes that were given up and have not ended, by the drive that they may still change.
#[derive(Clone, Debug, Default)]
pub(super) struct Late(Rc<RefCell<Vec<FileId>>>);

impl Late {
    /// A write is given up; sees when it ends.
    pub(super) fn give_up(&self, exec: &Handle, file: FileId, writing: Pin<Box<Completion>>) {
        self.0.borrow_mut().push(file);
        let late = self.clone();
        let watching = async move {
            writing.await;
            let mut late = late.0.borrow_mut();
            if let Some(at) = late.iter().position(|f| *f == file) {
                late.swap_remove(at);
            }
        };
        // A core with too many tasks never hears of the end: the drive counts as one that may change.
        let _ = exec.spawn(watching);
    }

    pub(super) fn has(&self, file: FileId) -> bool {
        self.0.borrow().contains(&file)
    }
}

impl KeyTable {
    /// Gives a drive that has left the pool no page any more, and overwrites what it has, as [`erase_keys_on`] does, while the table goes
    /// on. Nothing that was written there before comes after.
    pub fn erase_on(
        &mut self,
        exec: &Handle,
        drive: DriveInfo,
    ) -> impl Future<Output = Result<(), StoreError>> + use<> {
        self.leave(drive.file);
        let (exec, late, pool) = (exec.clone(), self.late.clone(), self.pages[0].pool);
        async move {
            let give_up = exec.now().plus_ms(LATE_MS);
            while late.has(drive.file) {
                if give_up <= exec.now() {
                    let why = "a write from before it left has not ended, and might bring keys back";
                    return Err(StoreError::Drive(why.into()));
                }
                exec.sleep_until(exec.now().plus_ms(LOOK_MS)).await;
            }
            erase_keys_on(exec, drive, pool).await
        }
    }
}

/// Overwrites the key table of a drive that has left the pool, durably: the wrapped keys of the pool's lines are there no more. What
/// serves something else by now is left as it is, and refused. A drive that hangs is given up.
pub async fn erase_keys_on(exec: Handle, drive: DriveInfo, from: Uuid) -> Result<(), StoreError> {
    let erasing = overwrite(exec.clone(), drive, from);
    let late = || Err(StoreError::Drive(format!("it took longer than {ERASE_MS} ms")));
    within(&exec, ERASE_MS, erasing).await.unwrap_or_else(late)
}

async fn overwrite(exec: Handle, drive: DriveInfo, from: Uuid) -> Result<(), StoreError> {
    let (file, drive_error) = (drive.file, |error: dolmen_io::Error| StoreError::Drive(error.to_string()));
    match identify_drive(exec.clone(), drive).await? {
        Identity::Ours { pool, .. } if pool == from => {}
        _ => return Err(StoreError::Refused("it holds something else by now, and was left as it is".into())),
    }
    for copy in 0..KEY_COPIES {
        for first in (0..KEY_PAGES).step_by(usize::from(READ_PAGES)) {
            let len = usize::from(READ_PAGES.min(KEY_PAGES - first)) * PAGE_BYTES as usize;
            let mut buf = exec.alloc(len).await;
            buf.set_len(len);
            buf.fill(0);
            let writing = exec.write_durable(file, key_offset(first, copy), vec![buf.freeze()]);
            writing.await.map_err(drive_error)?;
        }
    }
    exec.flush(file).await.map_err(drive_error)
}
