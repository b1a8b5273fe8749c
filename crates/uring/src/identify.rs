//! Who a drive is, and who uses it: for people. Everything here is best effort, read from procfs and sysfs.

use std::{
    fs::{self, File},
    os::{
        fd::RawFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

/// What a block device tells of itself.
#[derive(Debug, Default)]
pub(crate) struct Identity {
    pub(crate) serial: Option<String>,
    pub(crate) model: Option<String>,
}

/// A small text file's contents, trimmed; `None` when there is nothing in it.
fn text(path: PathBuf) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    let clean: String = String::from_utf8_lossy(&bytes).chars().filter(|c| !c.is_control()).collect();
    let clean = clean.trim();
    (!clean.is_empty()).then(|| clean.to_owned())
}

/// The device's folder in sysfs; that of the whole disk when it is a partition.
fn sysfs(device: u64) -> Option<PathBuf> {
    let (major, minor) = (libc::major(device), libc::minor(device));
    let folder = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    if folder.join("partition").exists() { folder.parent().map(Path::to_owned) } else { Some(folder) }
}

/// Serial number and model of a block device.
pub(crate) fn block_device(file: &File) -> Identity {
    let Some(folder) = file.metadata().ok().and_then(|m| sysfs(m.rdev())) else { return Identity::default() };
    // NVMe and SCSI keep them with the device, virtio has the serial with the disk.
    let first = |names: &[&str]| names.iter().find_map(|n| text(folder.join(n)));
    Identity {
        serial: first(&["device/serial", "serial", "device/vpd_pg80"]),
        model: first(&["device/model"]),
    }
}

/// What keeps a block device from being claimed; empty when nothing can be seen.
pub(crate) fn users_of_device(path: &Path) -> String {
    let Ok(device) = fs::metadata(path).map(|m| m.rdev()) else { return String::new() };
    let (major, minor) = (libc::major(device), libc::minor(device));
    let mut users = Vec::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        if fields.nth(2) == Some(&format!("{major}:{minor}")) {
            users.push(format!("mounted on {}", fields.nth(1).unwrap_or("?")));
        }
    }
    if let Ok(holders) = fs::read_dir(format!("/sys/dev/block/{major}:{minor}/holders")) {
        users.extend(holders.flatten().map(|h| format!("held by {}", h.file_name().to_string_lossy())));
    }
    if users.is_empty() {
        let holder = fs::metadata(path).ok().and_then(|m| lock_holder(m.dev(), m.ino()));
        users.extend(holder.map(|h| format!("by {h}")));
    }
    users.join(", ")
}

/// Where this process has a file or block device open already, by another descriptor than `but`.
pub(crate) fn open_here(of: &fs::Metadata, but: Option<RawFd>) -> Option<PathBuf> {
    // A device has as many inodes as it has nodes.
    let identity = |m: &fs::Metadata| match m.file_type().is_block_device() {
        true => (true, m.rdev(), 0),
        false => (false, m.dev(), m.ino()),
    };
    let but = but.map(|fd| fd.to_string());
    let others = fs::read_dir("/proc/self/fd").ok()?.flatten();
    let mut others = others.filter(|fd| but.as_ref().is_none_or(|but| fd.file_name().to_str() != Some(but)));
    let found = others.find(|fd| fs::metadata(fd.path()).is_ok_and(|m| identity(&m) == identity(of)))?;
    fs::read_link(found.path()).ok()
}

/// The living process that holds the advisory lock on a file, if it can be seen.
pub(crate) fn lock_holder(device: u64, inode: u64) -> Option<String> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let file = format!("{:02x}:{:02x}:{inode}", libc::major(device), libc::minor(device));
    let line = locks.lines().find(|l| l.contains("FLOCK") && l.split_whitespace().any(|w| w == file))?;
    let pid: u32 = line.split_whitespace().nth(4)?.parse().ok()?;
    if pid == std::process::id() {
        return Some("this process".into());
    }
    let name = text(format!("/proc/{pid}/comm").into())?;
    Some(format!("process {pid} ({name})"))
}
