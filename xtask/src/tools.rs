//! Cargo's plug-ins that the verbs use: installed with cargo when missing, left alone otherwise.

use anyhow::{Context, Result};

use crate::packages::find_program;
use crate::sh::run;

/// Installs a plug-in from the registry unless it is on the path. Compiling one takes minutes, once.
pub(crate) fn ensure(plugin: &str) -> Result<()> {
    if find_program(plugin).is_some() {
        return Ok(());
    }
    eprintln!("installing {plugin} (once; this takes a few minutes)");
    run("nice")
        // Unoptimised: it builds in half the time, and what these tools do takes a moment either way.
        .args(["cargo", "install", "--quiet", "--locked", "--debug", plugin])
        .status()
        .with_context(|| format!("installing {plugin}; by hand: cargo install --locked {plugin}"))
}
