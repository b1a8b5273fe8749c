//! The command line.

use crate::floor::{
    FloorOptions, READ_REPLY_BYTES, READ_REQUEST_BYTES, WRITE_REPLY_BYTES, WRITE_REQUEST_BYTES,
};
use clap::{Parser, Subcommand, ValueEnum};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// Which way the data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shape {
    /// 4 KiB random reads.
    Read,
    /// 4 KiB random writes.
    Write,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Measures Dolmen against a bare TCP program that moves the same bytes.
#[derive(Clone, Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Args {
    /// What is measured, if not the null volume.
    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
    /// The dolmen program: a daemon with a null volume is started for the run.
    #[arg(long, value_name = "PATH", conflicts_with = "target")]
    pub(crate) dolmen: Option<PathBuf>,
    /// One more argument for `dolmen serve` (repeatable), say --serve-arg=--config=FILE.
    #[arg(long, value_name = "ARG", requires = "dolmen", allow_hyphen_values = true)]
    pub(crate) serve_arg: Vec<String>,
    /// A target that runs already; pin it to --server-cpu yourself.
    #[arg(long, value_name = "IP:PORT", required_unless_present_any = ["dolmen", "floor_only"])]
    pub(crate) target: Option<SocketAddr>,
    /// Its subsystem; asked of the discovery service at the same address if not given.
    #[arg(long, value_name = "NQN")]
    pub(crate) nqn: Option<String>,
    /// The namespace; the first that is seen if not given. Writes destroy what it holds.
    #[arg(long)]
    pub(crate) nsid: Option<u32>,
    /// Our own NQN, for a target that admits only some.
    #[arg(
        long,
        value_name = "NQN",
        default_value = "nqn.2014-08.org.nvmexpress:uuid:d01be9c4-0000-4000-8000-000000000001"
    )]
    pub(crate) host_nqn: String,
    /// Run only the floor.
    #[arg(long, conflicts_with_all = ["dolmen", "target"])]
    pub(crate) floor_only: bool,
    /// Which way the data goes.
    #[arg(long, value_enum, default_value_t = Shape::Read)]
    pub(crate) shape: Shape,
    /// Commands under way on each connection.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1023))]
    pub(crate) depth: u16,
    /// Connections (I/O queues).
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=128))]
    pub(crate) connections: u16,
    /// Header and data digests on our side; the floor has none.
    #[arg(long)]
    pub(crate) digests: bool,
    /// Seconds before counting, each time.
    #[arg(long, default_value_t = 0.5, value_parser = seconds)]
    pub(crate) ramp: f64,
    /// Seconds of counting, each time.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    pub(crate) runtime: f64,
    /// How often each contestant runs.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repeats: u32,
    /// The CPU of the servers.
    #[arg(long, default_value_t = 0)]
    pub(crate) server_cpu: usize,
    /// The CPU of the clients.
    #[arg(long, default_value_t = 1)]
    pub(crate) client_cpu: usize,
    /// How results are printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

/// What else can be measured.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Verb {
    /// The store over drives in memory, behind NVMe/TCP and alone: what it adds to the null volume and to the bare drive I/O; and
    /// the kernels beside the best libraries of the machine.
    Store(StoreArgs),
}

/// How the store is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StoreArgs {
    /// Only the parts whose name contains this: wire, shapes, counts, compression, parity, kernels.
    #[arg(long, value_name = "WORD")]
    pub(crate) only: Option<String>,
    /// Only the shapes whose name contains this, say "4K random read".
    #[arg(long, value_name = "WORDS")]
    pub(crate) shape: Option<String>,
    /// Run nothing but the store under the shapes named, for so many seconds each: something for a profiler to look at.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) profile: Option<f64>,
    /// Seconds of each contestant in each round.
    #[arg(long, default_value_t = 0.1, value_parser = seconds)]
    pub(crate) runtime: f64,
    /// Rounds.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repeats: u32,
    /// The CPU of the store.
    #[arg(long, default_value_t = 1)]
    pub(crate) cpu: usize,
    /// The CPU of the host, where there is a network between them.
    #[arg(long, default_value_t = 0)]
    pub(crate) client_cpu: usize,
    /// How results are printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

impl StoreArgs {
    pub(crate) fn runtime(&self) -> Duration {
        Duration::from_secs_f64(self.runtime)
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(s) if (0.0..=3600.0).contains(&s) => Ok(s),
        _ => Err("seconds from 0 to 3600".into()),
    }
}

impl Args {
    pub(crate) fn ramp(&self) -> Duration {
        Duration::from_secs_f64(self.ramp)
    }

    pub(crate) fn runtime(&self) -> Duration {
        Duration::from_secs_f64(self.runtime)
    }

    pub(crate) fn floor_options(&self) -> FloorOptions {
        let (request_bytes, reply_bytes) = match self.shape {
            Shape::Read => (READ_REQUEST_BYTES, READ_REPLY_BYTES),
            Shape::Write => (WRITE_REQUEST_BYTES, WRITE_REPLY_BYTES),
        };
        FloorOptions {
            server_cpu: self.server_cpu,
            client_cpu: self.client_cpu,
            depth: usize::from(self.depth),
            connections: usize::from(self.connections),
            request_bytes,
            reply_bytes,
            ramp: self.ramp(),
            runtime: self.runtime(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
        assert!(Args::try_parse_from(["b"]).is_err());
        let args =
            Args::try_parse_from(["b", "--dolmen", "x", "--serve-arg=--spin", "--shape", "write"]).unwrap();
        assert_eq!(args.floor_options().request_bytes, 4168);
        assert!(Args::try_parse_from(["b", "--floor-only", "--runtime", "-1"]).is_err());
    }
}
