//! `cargo xtask tidy`: everything that can be said about the tree without running it. Formatting, clippy,
//! dependency licences and sources, the layers of the house, what the data path may name, file lengths,
//! traces of the machine it was written on.

mod dependencies;
mod layers;
mod rust;
mod sources;
mod traces;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};

use crate::sh::run;

/// One check: looks at the tree and says what is wrong.
type Check = fn() -> Result<()>;

/// Runs all checks, tells the outcome of each, and fails if one did.
pub(crate) fn tidy() -> Result<()> {
    let checks: &[(&str, Check)] = &[
        ("layers", layers::check),
        ("sources", sources::check),
        ("traces", traces::check),
        ("formatting", formatting),
        ("dependencies", dependencies::check),
        ("clippy", clippy),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        let start = Instant::now();
        let outcome = check();
        let seconds = start.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => println!("tidy: {name}: ok ({seconds:.1} s)"),
            Err(error) => {
                println!("tidy: {name}: FAILED ({seconds:.1} s)\n{error:#}");
                failed.push(*name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("not tidy: {}", failed.join(", "));
    }
    Ok(())
}

fn formatting() -> Result<()> {
    component("rustfmt", "cargo-fmt")?;
    run("cargo").args(["fmt", "--all", "--check"]).dir(crate::root()).status()
}

fn clippy() -> Result<()> {
    component("clippy", "cargo-clippy")?;
    run("cargo")
        .args(["clippy", "--quiet", "--keep-going", "--workspace", "--all-targets", "--", "-D", "warnings"])
        .dir(crate::root())
        .status()
}

/// Makes sure that a component of the toolchain is there.
fn component(name: &str, program: &str) -> Result<()> {
    if crate::packages::find_program(program).is_some() {
        return Ok(());
    }
    run("rustup").args(["component", "add", name]).status()
}

/// The files under version control, and those that are about to be, relative to the root.
fn tracked_files() -> Result<Vec<PathBuf>> {
    let list = run("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .dir(crate::root())
        .text()?;
    let root = crate::root();
    Ok(list
        .split('\0')
        .filter(|name| !name.is_empty() && root.join(name).is_file())
        .map(PathBuf::from)
        .collect())
}

/// Turns a list of findings into an outcome.
fn verdict(findings: &[String]) -> Result<()> {
    if findings.is_empty() {
        return Ok(());
    }
    bail!("{}", findings.iter().map(|finding| format!("  {finding}")).collect::<Vec<_>>().join("\n"))
}

/// The crate a file belongs to: `crates/NAME/...` or `xtask/...`.
fn crate_of(file: &Path) -> Option<&str> {
    let mut parts = file.iter().filter_map(|part| part.to_str());
    match parts.next()? {
        "crates" => parts.next(),
        "xtask" => Some("xtask"),
        _ => None,
    }
}
