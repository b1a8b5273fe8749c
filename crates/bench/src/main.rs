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
//!   dolmen-bench store                                      the store: behind NVMe/TCP, and alone (see `store/`)
//! ```
#![forbid(unsafe_code)]

mod args;
mod cores;
mod daemon;
mod floor;
mod gauge;
mod ours;
mod report;
mod store;

use args::{Args, Output, Verb};
use clap::Parser;
use cores::round_trip;
use report::{Report, Round, Sample};
use std::{net::SocketAddr, process::ExitCode};

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
    if let Some(Verb::Store(args)) = &args.verb {
        return store::run(args);
    }
    let daemon = match &args.dolmen {
        Some(path) => Some(daemon::Daemon::start(path, args)?),
        None => None,
    };
    let target = daemon.as_ref().map(daemon::Daemon::addr).or(args.target);
    let goal = match target {
        Some(addr) => Some(ours::Goal::find(addr, args)?),
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

/// One turn of each contestant; who is first alternates.
fn one_round(args: &Args, goal: Option<&ours::Goal>, number: u32) -> Result<Round> {
    let bare = || Ok(floor::run(&args.floor_options())?);
    let (floor, ours) = match goal {
        Some(goal) if number.is_multiple_of(2) => {
            let ours = Some(sample(args, || goal.run(&ours::Work::of(args), None))?);
            (sample(args, bare)?, ours)
        }
        _ => (
            sample(args, bare)?,
            goal.map(|goal| sample(args, || goal.run(&ours::Work::of(args), None))).transpose()?,
        ),
    };
    Ok(Round { number, floor, ours })
}

/// One contest, with the state of the two CPUs before and after.
fn sample(args: &Args, contest: impl FnOnce() -> Result<floor::Rates>) -> Result<Sample> {
    let before = round_trip(args.client_cpu, args.server_cpu)?;
    let rates = contest()?;
    let after = round_trip(args.client_cpu, args.server_cpu)?;
    Ok(Sample::new(&rates, before, after))
}

/// The address that a daemon of ours listens on.
fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
