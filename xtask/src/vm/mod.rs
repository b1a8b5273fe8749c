//! `cargo xtask vm`: a real Linux kernel in plain emulation, to test against the stock NVMe/TCP host and target.
//!
//! Debian's kernel package is downloaded and unpacked (never installed), an initramfs is packed with busybox,
//! nvme-cli, fio, mkfs and the modules, and qemu boots it in a few seconds. The guest reaches the host's
//! loopback at 192.0.2.2; a port of the host can be led into the guest; `/share` is a folder of the host's.

mod cpio;
mod guest;
mod initramfs;
mod kernel;

use std::path::PathBuf;

use anyhow::Result;

pub(crate) use guest::{Guest, Job, Options, Outcome};

/// The guest's network; 192.0.2.0/24 is kept for documentation, so it collides with nobody's.
const NETWORK: &str = "192.0.2.0/24";

/// The folder in the build tree where kernels, archives and logs lie.
pub(crate) fn work_dir() -> Result<PathBuf> {
    let dir = crate::root().join("target/vm");
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// Boots a guest and gives its shell to this terminal.
pub(crate) fn shell(series: &str) -> Result<()> {
    crate::packages::ensure_vm_tools()?;
    guest::interactive(&Options { series: series.to_owned(), ..Options::default() }, &work_dir()?)
}
