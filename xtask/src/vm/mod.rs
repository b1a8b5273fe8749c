//! `cargo xtask vm`: a real Linux kernel in plain emulation, to test against the stock NVMe/TCP host and target.
//!
//! Debian's kernel package is downloaded and unpacked (never installed), an initramfs is packed with busybox,
//! nvme-cli, fio, mkfs and the modules, and qemu boots it in a few seconds. The guest reaches the host's
//! loopback at 192.0.2.2; a port of the host can be led into the guest; `/share` is a folder of the host's.

mod cpio;
mod guest;
mod initramfs;
mod kernel;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::Result;

pub(crate) use guest::{Guest, Job, Options, Outcome};
pub(crate) use initramfs::libraries_of;

/// The guest's network; 192.0.2.0/24 is kept for documentation, so it collides with nobody's.
const NETWORK: &str = "192.0.2.0/24";

/// The folder in the build tree where kernels, archives and logs lie. While one of these lives no other process
/// boots a guest, so that what an earlier one left behind can be swept away.
pub(crate) struct Work {
    dir: PathBuf,
    _lock: File,
}

impl Work {
    /// Waits for its turn, then removes what killed runs left.
    pub(crate) fn open() -> Result<Self> {
        let dir = crate::root().join("target/vm");
        fs::create_dir_all(&dir)?;
        let lock = File::create(dir.join("lock"))?;
        if let Err(TryLockError::WouldBlock) = lock.try_lock() {
            eprintln!("waiting for another run in the virtual machine");
            lock.lock()?;
        }
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if TEMPORARY.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(Self { dir, _lock: lock })
    }

    /// The folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// How the names of folders begin that live no longer than a run: shared folders, daemons' data.
const TEMPORARY: [&str; 2] = ["share-", "node-"];

/// Fetches and builds what a guest of a kernel series boots from, where it is missing.
pub(crate) fn prepare(series: &str, work: &Path) -> Result<()> {
    initramfs::build(&kernel::Kernel::of_series(series, work)?, work)?;
    Ok(())
}

/// Boots a guest and gives its shell to this terminal.
pub(crate) fn shell(series: &str) -> Result<()> {
    crate::packages::ensure_vm_tools()?;
    guest::interactive(&Options { series: series.to_owned(), ..Options::default() }, Work::open()?.dir())
}
