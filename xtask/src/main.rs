//! Developer verbs of Dolmen: `cargo xtask <verb>`.
#![forbid(unsafe_code)]

mod bench;
mod fuzz;
mod golden;
mod guard;
mod packages;
mod scenario;
mod sh;
mod test;
mod tidy;
mod tools;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use scenario::{Against, Plan};

/// Developer verbs of Dolmen.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run every test but the long soaks: the workspace's, the count of instructions, and the scenarios in virtual machines.
    Test {
        /// Leave the virtual machines out.
        #[arg(long)]
        skip_vm: bool,
    },
    /// Measure this tree's daemon beside a bare TCP program and beside peers, in one run, against the budgets (`matrix`, or no
    /// words at all); one load if only flags are given; `store`: the store against its bare drive I/O, and the kernels against
    /// the machine's libraries; `kernel`: instructions per command, ours and the kernel's target.
    Bench {
        /// The benchmark's own words; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Feed hostile bytes to the parsers.
    Fuzz {
        /// Only targets whose name contains this.
        target: Option<String>,
        /// How long each target runs.
        #[arg(long, default_value_t = 30)]
        seconds: u32,
    },
    /// Let random runs of everything the store does loose on pools with drives that fail, against a model, seed after seed.
    Soak {
        /// Of a daemon and its command line instead, with kill -9 and drives that are lost.
        #[arg(long)]
        daemon: bool,
        /// For how long; 0 for one seed alone.
        #[arg(long, default_value_t = 20)]
        minutes: u64,
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Measure how long a start takes with 16 Mi blocks mapped, snapshots, and a log to replay.
    Recovery,
    /// Overwrite pools of the real store on simulated drives for long, and show what drives write for each byte that hosts
    /// write.
    Amplification,
    /// Count the instructions of the hot paths and compare them with what is recorded.
    Guard {
        /// Record what is counted now.
        #[arg(long)]
        record: bool,
    },
    /// Check formatting, lints, dependencies, layers and lengths.
    Tidy,
    /// Boot a real kernel in emulation and give its shell to this terminal, or run scenarios in it.
    Vm {
        #[command(subcommand)]
        action: Option<VmAction>,
        /// Kernel series: 6.12 or 6.1; `run` takes both too, with a comma, and runs them beside each other.
        #[arg(long, default_value = "6.12", global = true)]
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

#[derive(Subcommand)]
enum VmAction {
    /// Run scenarios: all, or those whose names contain one of the words.
    Run {
        /// Words of scenarios' names.
        scenario: Vec<String>,
        /// What the guest's host connects to.
        #[arg(long, value_enum, default_value = "dolmen")]
        against: Against,
        /// The daemon's binary, if not the one in the build tree.
        #[arg(long)]
        binary: Option<PathBuf>,
    },
}

/// The root of the workspace.
fn root() -> PathBuf {
    // Set by cargo for `cargo xtask`, whatever folder it was called in.
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("xtask"), PathBuf::from);
    manifest.parent().map_or_else(|| PathBuf::from("."), PathBuf::from)
}

/// The store's tests in a release build.
const STORE: &[&str] = &["--release", "--package", "dolmen-store"];

/// The daemon's, with every assertion.
const DAEMON: &[&str] = &["--package", "dolmen"];

/// Runs a test that is too long for every day, with what it prints.
fn long_test(build: &[&str], (file, name): (&str, &str), variables: &[(&str, String)]) -> Result<()> {
    let mut command =
        sh::run("cargo").args(["test", "--quiet"]).args(build).args(["--test", file, "--", name]);
    command = command.args(["--exact", "--ignored", "--nocapture"]).dir(root());
    for (variable, value) in variables {
        command = command.env(variable, value);
    }
    command.status()
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
        Verb::Test { skip_vm } => test::test(skip_vm),
        Verb::Bench { words } => bench::bench(words),
        Verb::Fuzz { target, seconds } => fuzz::fuzz(target.as_deref(), seconds),
        Verb::Recovery => long_test(STORE, ("memory", "recovery"), &[]),
        Verb::Amplification => long_test(STORE, ("amplification", "table"), &[]),
        Verb::Soak { daemon, minutes, seed } => {
            let seconds = (minutes * 60).to_string();
            let variables = [("DOLMEN_SOAK_SECONDS", seconds), ("DOLMEN_SOAK_SEED", seed.to_string())];
            let (build, file) = if daemon { (DAEMON, "anything") } else { (STORE, "model") };
            long_test(build, (file, "soak"), &variables)
        }
        Verb::Guard { record } => guard::guard(record),
        Verb::Tidy => tidy::tidy(),
        Verb::Vm { kernel, action: None } => vm::shell(&kernel),
        Verb::Vm { kernel, action: Some(VmAction::Run { scenario, against, binary }) } => {
            let binary = binary.unwrap_or_else(|| root().join("target/release/dolmen"));
            let series = kernel.split(',').map(str::to_owned).collect();
            let tally = scenario::run(&Plan { series, against, binary, only: scenario })?;
            println!("{} passed, {} failed", tally.passed, tally.failed);
            if tally.failed > 0 { Err(anyhow::anyhow!("scenarios failed")) } else { Ok(()) }
        }
        Verb::Golden { kernel, pcap } => golden::golden(&kernel, pcap.as_deref()),
    }
}
