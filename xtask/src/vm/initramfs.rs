//! The guest's root file system: busybox, the tools under test with their libraries, modules, and our init.
//!
//! It is staged as a tree below the work folder and packed uncompressed: emulated decompression would cost
//! more than reading the bytes.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cpio;
use super::kernel::Kernel;
use crate::packages::find_program;
use crate::sh::run;

/// Programs copied from this machine with every library they load.
const PROGRAMS: &[&str] = &[
    "nvme",
    "fio",
    "mkfs.ext4",
    "mkfs.xfs",
    "fstrim",
    "blkdiscard",
    "fsck.ext4",
    "xfs_repair",
    "tcpdump",
    "nbd-client",
];

const INIT: &str = include_str!("init.sh");

/// Builds the archive for a kernel unless a newer one than this program is there, and returns its path.
pub(crate) fn build(kernel: &Kernel, work: &Path) -> Result<PathBuf> {
    let archive = work.join(format!("initramfs-{}.cpio", kernel.release));
    if is_newer(&archive, Path::new("/proc/self/exe")) {
        return Ok(archive);
    }
    let staging = tempfile::tempdir_in(work)?;
    let root = staging.path();
    for dir in
        ["bin", "sbin", "usr/bin", "usr/sbin", "proc", "sys", "dev", "etc/nvme", "lib", "lib64", "usr/lib"]
    {
        fs::create_dir_all(root.join(dir))?;
    }
    install(&find_program("busybox").context("busybox is missing")?, &root.join("bin/busybox"))?;
    // The kernel loads modules on demand (crc32c through its crypto alias) by this very path.
    symlink("/bin/busybox", root.join("sbin/modprobe"))?;
    fs::write(root.join("init"), INIT)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;
    fs::write(root.join("etc/mke2fs.conf"), fs::read("/etc/mke2fs.conf").unwrap_or_default())?;
    let mut libraries = BTreeSet::new();
    for program in PROGRAMS {
        let file = find_program(program).with_context(|| format!("{program} is missing"))?;
        install(&file, &root.join("usr/bin").join(program))?;
        libraries.extend(libraries_of(&file)?);
    }
    for library in libraries {
        let inner = library.strip_prefix("/").context("library with a relative path")?;
        install(&library, &root.join(inner))?;
    }
    kernel.install_modules(root)?;
    cpio::pack(root, &archive)?;
    Ok(archive)
}

/// The shared libraries (and the loader) a program loads, as `ldd` finds them.
pub(crate) fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let text = run("ldd").arg(program).text()?;
    Ok(text
        .lines()
        .filter_map(|line| {
            let path = line.split_once("=>").map_or(line, |(_, path)| path);
            let path = path.trim().split(" (").next()?;
            path.starts_with('/').then(|| PathBuf::from(path))
        })
        .collect())
}

fn install(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("target without a folder")?)?;
    fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn is_newer(file: &Path, than: &Path) -> bool {
    let time = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    matches!((time(file), time(than)), (Some(file), Some(than)) if file > than)
}
