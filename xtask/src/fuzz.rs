//! `cargo xtask fuzz`: runs fuzz targets for a bounded time each, on the stable toolchain (without a sanitizer:
//! the parsers are safe code, so what there is to find are panics, endless loops and boundless memory).

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::sh::run;

/// A parser that needs more memory than this for a few KiB of input has a bound missing.
const MEMORY_LIMIT_MIB: u32 = 512;

/// Longest input that is tried, in bytes; two of the largest PDUs without much data.
const MAX_INPUT_BYTES: u32 = 16 << 10;

/// Runs all fuzz targets, or those whose name contains `only`, each for `seconds`.
pub(crate) fn fuzz(only: Option<&str>, seconds: u32) -> Result<()> {
    crate::tools::ensure("cargo-fuzz")?;
    let mut ran = 0;
    for folder in fuzz_folders()? {
        let list =
            run("cargo").args(["fuzz", "list", "--fuzz-dir"]).arg(&folder).dir(crate::root()).text()?;
        for target in list.lines().filter(|target| only.is_none_or(|only| target.contains(only))) {
            println!("fuzz: {target} for {seconds} s");
            run_target(&folder, target, seconds)?;
            ran += 1;
        }
    }
    match (ran, only) {
        (0, Some(only)) => bail!("no fuzz target's name contains {only}"),
        (0, None) => bail!("there are no fuzz targets"),
        _ => Ok(()),
    }
}

/// New inputs go to the target's corpus, which is not under version control; the golden bytes of the crate that
/// the target is named after (`nvme_host` -> `nvme`) are read as well.
fn run_target(folder: &Path, target: &str, seconds: u32) -> Result<()> {
    let corpus = folder.join("corpus").join(target);
    std::fs::create_dir_all(&corpus)?;
    let owner = target.split('_').next().unwrap_or(target);
    let golden = crate::root().join("crates").join(owner).join("tests/golden");
    run("nice")
        .args(["cargo", "fuzz", "run", "--sanitizer", "none", "--fuzz-dir"])
        .arg(folder)
        .arg(target)
        .arg(corpus)
        .args(golden.is_dir().then_some(golden))
        .arg("--")
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-rss_limit_mb={MEMORY_LIMIT_MIB}"))
        .arg(format!("-max_len={MAX_INPUT_BYTES}"))
        .args(["-timeout=5", "-print_final_stats=1"])
        .dir(crate::root())
        .status()
}

/// The folders that hold fuzz targets: `fuzz` at the root, or beside a crate's sources.
fn fuzz_folders() -> Result<Vec<PathBuf>> {
    let root = crate::root();
    let mut folders = vec![root.join("fuzz")];
    for entry in std::fs::read_dir(root.join("crates"))? {
        folders.push(entry?.path().join("fuzz"));
    }
    folders.retain(|folder| folder.join("Cargo.toml").is_file());
    folders.sort();
    Ok(folders)
}
