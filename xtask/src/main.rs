//! Developer verbs of Dolmen: `cargo xtask <verb>`.
#![forbid(unsafe_code)]

mod golden;
mod packages;
mod sh;
mod tidy;
mod tools;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Developer verbs of Dolmen.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Check formatting, lints, dependencies, layers and lengths.
    Tidy,
    /// Boot a real kernel in emulation and give its shell to this terminal.
    Vm {
        /// Kernel series: 6.12 or 6.1.
        #[arg(long, default_value = "6.12")]
        kernel: String,
    },
    /// Capture the golden bytes of the NVMe crate anew.
    Golden {
        /// Kernel series: 6.12 or 6.1.
        #[arg(long, default_value = "6.12")]
        kernel: String,
        /// Sort a capture that is there already instead of making one.
        #[arg(long)]
        pcap: Option<PathBuf>,
    },
}

/// The root of the workspace.
fn root() -> PathBuf {
    // Set by cargo for `cargo xtask`, whatever folder it was called in.
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("xtask"), PathBuf::from);
    manifest.parent().map_or_else(|| PathBuf::from("."), PathBuf::from)
}

fn main() -> ExitCode {
    match verb(Cli::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn verb(verb: Verb) -> Result<()> {
    match verb {
        Verb::Tidy => tidy::tidy(),
        Verb::Vm { kernel } => vm::shell(&kernel),
        Verb::Golden { kernel, pcap } => golden::golden(&kernel, pcap.as_deref()),
    }
}
