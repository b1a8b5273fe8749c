//! Debian packages: what the developer verbs need on this machine, installed only where missing, and kernels,
//! which are only ever downloaded and unpacked.
//!
//! Everything goes through apt with the machine's own sources. Without root the verbs say what to install.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::sh::{is_on_path, run};

/// A program and the package that holds it.
#[derive(Clone, Copy)]
struct Tool {
    /// The program's file name, looked up on the path and in the system's sbin folders.
    program: &'static str,
    /// The Debian package.
    package: &'static str,
}

/// What the virtual machine, its guest, the captures and tests with stock clients need.
const VM_TOOLS: &[Tool] = &[
    Tool { program: "qemu-system-x86_64", package: "qemu-system-x86" },
    Tool { program: "busybox", package: "busybox-static" },
    Tool { program: "nvme", package: "nvme-cli" },
    Tool { program: "fio", package: "fio" },
    Tool { program: "mkfs.ext4", package: "e2fsprogs" },
    Tool { program: "mkfs.xfs", package: "xfsprogs" },
    Tool { program: "tcpdump", package: "tcpdump" },
    Tool { program: "tshark", package: "tshark" },
    Tool { program: "depmod", package: "kmod" },
    Tool { program: "xz", package: "xz-utils" },
    Tool { program: "zstd", package: "zstd" },
    Tool { program: "setpriv", package: "util-linux" },
    Tool { program: "qemu-img", package: "qemu-utils" },
    Tool { program: "nbdcopy", package: "libnbd-bin" },
    Tool { program: "nbd-client", package: "nbd-client" },
];

/// What the benchmark's network and its peers are: it does without those that are missing.
const BENCH_TOOLS: &[Tool] = &[
    Tool { program: "unshare", package: "util-linux" },
    Tool { program: "ip", package: "iproute2" },
    Tool { program: "nbdkit", package: "nbdkit" },
    Tool { program: "qemu-nbd", package: "qemu-utils" },
    Tool { program: "fio", package: "fio" },
    Tool { program: "tgtd", package: "tgt" },
    Tool { program: "iscsi-perf", package: "libiscsi-bin" },
];

/// What counting instructions needs.
const GUARD_TOOLS: &[Tool] = &[Tool { program: "valgrind", package: "valgrind" }];

/// Installs whatever of the virtual machine's tools is missing.
pub(crate) fn ensure_vm_tools() -> Result<()> {
    ensure(VM_TOOLS)
}

/// Installs whatever is missing of what all tests need.
pub(crate) fn ensure_test_tools() -> Result<()> {
    ensure(&[VM_TOOLS, GUARD_TOOLS].concat())
}

/// Installs what counts instructions, if it is missing.
pub(crate) fn ensure_guard_tools() -> Result<()> {
    ensure(GUARD_TOOLS)
}

/// Installs the benchmark's peers where that can be done, and else says what is missing: the benchmark goes on without.
pub(crate) fn offer_bench_tools() {
    if let Err(error) = ensure(BENCH_TOOLS) {
        eprintln!("some peers will be absent: {error:#}");
    }
}

fn ensure(tools: &[Tool]) -> Result<()> {
    let missing: BTreeSet<&str> =
        tools.iter().filter(|tool| find_program(tool.program).is_none()).map(|tool| tool.package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.iter().copied().collect::<Vec<_>>().join(" ");
    if !is_on_path("apt-get") {
        bail!("these Debian packages are needed and apt-get is not here to install them: {list}");
    }
    if !is_root()? {
        bail!(
            "these Debian packages are needed; install them as root and run this again:\n  apt-get install --no-install-recommends {list}"
        );
    }
    eprintln!("installing Debian packages: {list}");
    apt_update()?;
    run("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(&missing)
        .bytes()
        .context("installing the test tools")?;
    Ok(())
}

/// Where a program lies: the path, or the sbin folders that an ordinary user's path lacks.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// Downloads and unpacks the newest kernel image package of a series (`6.12`, `6.1`) into `into`, and returns
/// the unpacked folder. Nothing is installed. A series that is there already is not fetched again.
pub(crate) fn unpack_kernel(series: &str, into: &Path) -> Result<PathBuf> {
    let root = into.join(format!("kernel-{series}"));
    if root.join("boot").is_dir() {
        return Ok(root);
    }
    let package = match newest_kernel_package(series)? {
        Some(package) => package,
        None => {
            apt_update()?;
            newest_kernel_package(series)?.with_context(|| {
                format!("no package linux-image-{series}*-amd64 in this machine's apt sources (Debian 12 with security updates has it)")
            })?
        }
    };
    let staging = tempfile::tempdir_in(into)?;
    eprintln!("fetching {package}");
    let download = || run("apt-get").args(["download", "-qq", &package]).dir(staging.path()).bytes();
    if download().is_err() {
        apt_update()?;
        download()?;
    }
    let deb = std::fs::read_dir(staging.path())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|ext| ext == "deb"))
        .context("apt-get download left no package")?;
    let unpacked = staging.path().join("unpacked");
    run("dpkg-deb").arg("-x").arg(&deb).arg(&unpacked).bytes()?;
    std::fs::rename(&unpacked, &root)?;
    Ok(root)
}

/// The newest image package of a series that apt knows: the plain signed flavour, not cloud, rt or debug.
fn newest_kernel_package(series: &str) -> Result<Option<String>> {
    let names = run("apt-cache").args(["pkgnames", &format!("linux-image-{series}")]).text()?;
    let candidates = names.lines().filter(|name| {
        name.strip_prefix("linux-image-").and_then(|rest| rest.strip_suffix("-amd64")).is_some_and(
            |version| {
                // "6.12.117+deb12" or "6.1.0-56": more than the series alone (that is the metapackage), no flavour.
                version.strip_prefix(series).is_some_and(|rest| rest.starts_with('.'))
                    && !["cloud", "rt", "unsigned", "dbg"].iter().any(|flavour| version.contains(flavour))
            },
        )
    });
    Ok(candidates.max_by_key(|name| version_key(name)).map(str::to_owned))
}

/// A key that orders version strings by their numbers.
fn version_key(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// Refreshes apt's lists; needs root.
fn apt_update() -> Result<()> {
    if !is_root()? {
        bail!("apt's package lists are missing or stale; as root run: apt-get update");
    }
    run("apt-get").args(["update", "-qq"]).bytes().context("refreshing apt's package lists")?;
    Ok(())
}

/// Whether this process is root.
pub(crate) fn is_root() -> Result<bool> {
    Ok(run("id").arg("-u").text()?.trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::version_key;

    #[test]
    fn versions_order_by_number() {
        assert!(
            version_key("linux-image-6.12.117+deb12-amd64") > version_key("linux-image-6.12.9+deb12-amd64")
        );
        assert!(version_key("linux-image-6.1.0-56-amd64") > version_key("linux-image-6.1.0-9-amd64"));
    }
}
