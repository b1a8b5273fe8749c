//! Benchmarks of Dolmen as ratios, in one run, to a bare TCP program that moves the same bytes (the *floor*).
//!
//! Both contestants use the same two CPUs, the server on one and the client on the other, and take turns several times.
//! The time that a cache line takes between the two CPUs is measured beside every run: virtual machines have a fast and
//! a slow state, and only runs of one state are compared.
//!
//! ```text
//!   dolmen-bench --dolmen target/release/dolmen             starts a daemon with a null volume
//!   dolmen-bench --target 127.0.0.1:4420 [--nqn NQN]        uses one that runs (pin it yourself)
//!   dolmen-bench --floor-only
//!   dolmen-bench matrix --dolmen target/release/dolmen      all loads, and peers (see `matrix/`)
//!   dolmen-bench count --target 127.0.0.1:4420              CPU time of everybody for so many commands
//!   dolmen-bench store                                      the store: behind NVMe/TCP, and alone (see `store/`)
//! ```
#![forbid(unsafe_code)]

mod args;
mod busy;
mod client;
mod cores;
mod count;
mod cpu_time;
mod daemon;
mod floor;
mod matrix;
mod network;
mod ours;
mod peers;
mod report;
mod sample;
mod store;
mod verdict;
mod workload;

use args::{Args, Output, Verb};
use clap::Parser;
use cores::round_trip;
use floor::{Course, Waiting};
use ours::{Goal, Which};
use report::{Report, Round};
use sample::Sample;
use std::{net::SocketAddr, path::Path, process::ExitCode};

/// Size of a null volume.
const NULL_BYTES: u64 = 4 << 30;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dolmen-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    // Who is to be found at an address of the machine's is not in another network.
    if args.target.is_none() && !matches!(args.verb, Some(Verb::Count(_))) {
        network::enter(&args.congestion)?;
    }
    match &args.verb {
        Some(Verb::Store(args)) => return store::run(args),
        Some(Verb::Matrix(args)) => return matrix::run(args),
        Some(Verb::Count(args)) => return count::run(args),
        None => {}
    }
    let daemon = match &args.dolmen {
        Some(path) => Some(null_daemon(path, args)?),
        None => None,
    };
    let target = daemon.as_ref().map(daemon::Daemon::addr).or(args.target);
    let which = args.nsid.map_or(Which::First, Which::Nsid);
    let goal = match target {
        Some(addr) => Some(Goal::find(&args.access(addr), which)?),
        None => None,
    };
    let mut report = Report::new(args);
    for number in 1..=args.repeats {
        let round = one_round(args, goal.as_ref(), number)?;
        if args.output == Output::Table {
            eprintln!("{round}");
        }
        report.add(round);
    }
    match args.output {
        Output::Table => println!("{report}"),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(())
}

/// A daemon with a null volume.
fn null_daemon(program: &Path, args: &Args) -> Result<daemon::Daemon> {
    let daemon = daemon::Daemon::start(&daemon::Plan {
        program,
        cpus: &[args.server_cpu],
        poll_window_us: None,
        more: &args.serve_arg,
        host_nqn: &args.host_nqn,
    })?;
    daemon.volume("bench", "null", NULL_BYTES)?;
    Ok(daemon)
}

/// One turn of each contestant; who is first alternates.
fn one_round(args: &Args, goal: Option<&Goal>, number: u32) -> Result<Round> {
    let (workload, course) = (args.workload(), args.course());
    let bare = || Ok(floor::run(&workload, &course, Waiting::Polls)?);
    let (floor, ours) = match goal {
        Some(goal) if number.is_multiple_of(2) => {
            let ours = Some(contest(&course, || goal.run(&workload, &course))?);
            (contest(&course, bare)?, ours)
        }
        _ => {
            let floor = contest(&course, bare)?;
            (floor, goal.map(|goal| contest(&course, || goal.run(&workload, &course))).transpose()?)
        }
    };
    Ok(Round { number, floor, ours })
}

/// One contest, with the state of the two CPUs before and after.
fn contest(course: &Course, work: impl FnOnce() -> Result<floor::Rates>) -> Result<Sample> {
    let before = round_trip(course.client_cpu, course.server_cpu)?;
    let rates = work()?;
    let after = round_trip(course.client_cpu, course.server_cpu)?;
    Ok(Sample::new(&rates, before, after))
}

/// The address that a daemon of ours listens on.
fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
