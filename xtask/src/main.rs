//! Developer verbs of Dolmen: `cargo xtask <verb>`.
#![forbid(unsafe_code)]

mod packages;
mod sh;
mod vm;

use std::path::PathBuf;
use std::time::{Duration, Instant};

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
    /// Boot a real kernel in emulation: a shell, or a command's output.
    Vm {
        /// Kernel series.
        #[arg(long, default_value = "6.12")]
        kernel: String,
        command: Option<String>,
    },
}

/// The root of the workspace.
fn root() -> PathBuf {
    // Set by cargo for `cargo xtask`, whatever folder it was called in.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("xtask"), PathBuf::from);
    manifest.parent().map_or_else(|| PathBuf::from("."), PathBuf::from)
}

fn main() -> Result<()> {
    match Cli::parse().verb {
        Verb::Vm { kernel, command: None } => vm::shell(&kernel),
        Verb::Vm { kernel, command: Some(command) } => {
            packages::ensure_vm_tools()?;
            let t = Instant::now();
            let mut guest = vm::Guest::boot(&vm::Options { series: kernel, ..Default::default() }, &vm::work_dir()?)?;
            eprintln!("boot {:?}", t.elapsed());
            let o = guest.run(&command, Duration::from_secs(60))?;
            println!("{} {}", o.status, o.output);
            eprintln!("{}", guest.console());
            guest.shutdown()
        }
    }
}
