//! The command line.

use crate::{
    floor::Course,
    ours::Access,
    workload::{Shape, Workload},
};
use clap::{Parser, Subcommand, ValueEnum};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// Who the benchmark is.
pub(crate) const HOST_NQN: &str = "nqn.2014-08.org.nvmexpress:uuid:d01be9c4-0000-4000-8000-000000000001";

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
        default_value = HOST_NQN
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
    /// Congestion control of all contestants, in a network of the run's own; `system`: the machine's network, as it is. Without effect
    /// on targets that run already.
    #[arg(long, value_name = "NAME", global = true, default_value = "cubic")]
    pub(crate) congestion: String,
}

/// What else can be measured.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Verb {
    /// The store over drives in memory, behind NVMe/TCP and alone: what it adds to the null volume and to the bare drive I/O; and
    /// the kernels beside the best libraries of the machine.
    Store(StoreArgs),
    /// All loads of interest, ours and peers beside the floor, judged against the budgets.
    Matrix(MatrixArgs),
    /// A number of 4 KiB commands, and the CPU time that every process of the machine used for them, as JSON.
    Count(CountArgs),
}

/// What is loaded and counted.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CountArgs {
    /// The target.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) target: SocketAddr,
    /// Its subsystem; asked of the discovery service at the same address if not given.
    #[arg(long, value_name = "NQN")]
    pub(crate) nqn: Option<String>,
    /// The namespace; the first that is seen if not given. Writes destroy what it holds.
    #[arg(long)]
    pub(crate) nsid: Option<u32>,
    /// Our own NQN.
    #[arg(long, value_name = "NQN", default_value = HOST_NQN)]
    pub(crate) host_nqn: String,
    /// Which way the data goes.
    #[arg(long, value_enum, default_value_t = Shape::Read)]
    pub(crate) shape: Shape,
    /// Commands under way on each connection.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1023))]
    pub(crate) depth: u16,
    /// Connections (I/O queues).
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=128))]
    pub(crate) connections: u16,
    /// Commands that are counted.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) commands: u64,
    /// Write the whole namespace before.
    #[arg(long)]
    pub(crate) fill: bool,
    /// The client's CPU.
    #[arg(long, default_value_t = 0)]
    pub(crate) cpu: usize,
}

impl CountArgs {
    pub(crate) fn workload(&self) -> Workload {
        Workload::small(self.shape, self.depth, self.connections)
    }
}

/// What of the matrix is measured, and how long.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct MatrixArgs {
    /// The dolmen program, of which daemons are started for the run.
    #[arg(long, value_name = "PATH")]
    pub(crate) dolmen: PathBuf,
    /// Every depth with every number of connections, instead of those that have a budget.
    #[arg(long)]
    pub(crate) full: bool,
    /// Only parts whose name contains one of these: loads, adaptive, peers, staging, costs (repeatable).
    #[arg(long, value_name = "WORD")]
    pub(crate) only: Vec<String>,
    /// Only loads whose name contains this, say "read, depth 32".
    #[arg(long, value_name = "WORDS")]
    pub(crate) load: Option<String>,
    /// Rounds; in each one every contestant of every row has its turn.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repeats: u32,
    /// Seconds before counting, each time.
    #[arg(long, default_value_t = 0.1, value_parser = seconds)]
    pub(crate) ramp: f64,
    /// Seconds of counting, each time.
    #[arg(long, default_value_t = 0.5, value_parser = seconds)]
    pub(crate) runtime: f64,
    /// The CPU of the servers.
    #[arg(long, default_value_t = 0)]
    pub(crate) server_cpu: usize,
    /// The CPU of the clients.
    #[arg(long, default_value_t = 1)]
    pub(crate) client_cpu: usize,
    /// How results are printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// Also put the table into performance.md of this folder, and a plot beside it.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) docs: Option<PathBuf>,
}

impl MatrixArgs {
    pub(crate) fn course(&self) -> Course {
        Course {
            server_cpu: self.server_cpu,
            client_cpu: self.client_cpu,
            ramp: Duration::from_secs_f64(self.ramp),
            runtime: Duration::from_secs_f64(self.runtime),
        }
    }

    /// Whether the costs are wanted: a thousand volumes take a while, so by themselves only in the full matrix.
    pub(crate) fn wants_costs(&self) -> bool {
        self.load.is_none() && (self.full || !self.only.is_empty()) && self.wants("costs")
    }

    /// Whether a part is wanted.
    pub(crate) fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| part.contains(only.as_str()))
    }
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
    pub(crate) fn workload(&self) -> Workload {
        Workload::small(self.shape, self.depth, self.connections)
    }

    pub(crate) fn course(&self) -> Course {
        Course {
            server_cpu: self.server_cpu,
            client_cpu: self.client_cpu,
            ramp: Duration::from_secs_f64(self.ramp),
            runtime: Duration::from_secs_f64(self.runtime),
        }
    }

    /// How to reach a target as these arguments say.
    pub(crate) fn access(&self, addr: SocketAddr) -> Access {
        let (nqn, host_nqn) = (self.nqn.clone(), self.host_nqn.clone());
        Access { addr, nqn, host_nqn, digests: self.digests }
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
        assert_eq!(args.workload().exchanges()[0].request, 4168);
        assert!(Args::try_parse_from(["b", "--floor-only", "--runtime", "-1"]).is_err());
    }
}
