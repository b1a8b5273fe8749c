//! Looks at a drive, or makes it blank, without a pool: one ring on the calling thread, one task, done.

use crate::node::{ServeError, core::EXEC};
use dolmen_io::{
    DriveInfo, Io, OpenDrive, Wait,
    exec::{Exec, Handle},
};
use dolmen_store::StoreError;
use dolmen_uring::{Uring, UringConfig};
use std::{cell::RefCell, future::Future, path::Path, rc::Rc};

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
    let driver = Uring::new(&UringConfig::default()).map_err(ServeError::system)?;
    let mut io = Io::new(Box::new(driver));
    let mut exec = Exec::new(EXEC, 1, &io);
    let options = OpenDrive { path: path.into(), create_bytes: None, sparse: false, exclusive: true };
    let info = io.open_drive(&options).map_err(ServeError::system)?;
    let file = info.file;
    let outcome = Rc::new(RefCell::new(None));
    let task = work(exec.handle(), info);
    let result = outcome.clone();
    exec.handle()
        .spawn(async move { *result.borrow_mut() = Some(task.await) })
        .expect("the executor has room for one task");
    let mut events = Vec::new();
    while !exec.is_empty() {
        let wait = if exec.has_ready() { Wait::No } else { Wait::Forever };
        io.poll(wait, &mut events);
        for (tag, event) in events.drain(..) {
            exec.deliver(tag.key, event);
        }
        exec.run(&mut io);
    }
    io.close_drive(file);
    let result = outcome.take().expect("the task has ended");
    result.map_err(ServeError::system)
}
