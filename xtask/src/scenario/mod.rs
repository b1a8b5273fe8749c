//! `cargo xtask vm run`: what a stock Linux host has to see, told as scenarios.
//!
//! A boot costs seconds, so all scenarios of a kernel share one guest and one daemon, each leaves the host
//! disconnected, and a failed one doesn't stop the rest. Kernels run beside each other. The scenarios' host side can be tried against the
//! kernel's own target in the guest (`--against kernel`): a scenario that fails there is itself wrong.

mod brick;
mod crash;
mod daemon;
mod data;
mod fabric;
mod initiator;
mod nbd;
mod stage;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::vm::{Guest, Options, Work};
use brick::Brick;
pub(crate) use brick::subsystem_in;
use stage::Stage;

/// One scenario.
pub(crate) struct Scenario {
    /// Its name on the command line and in the summary.
    name: &'static str,
    /// What it needs to run against.
    needs: Needs,
    /// Runs it; the host is disconnected before and, if it went well, after.
    run: fn(&mut Stage) -> Result<()>,
}

/// What a scenario needs on the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// Any target with the four volumes.
    AnyTarget,
    /// Our daemon: the scenario kills, asks or changes it.
    Daemon,
}

/// What the scenarios run against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Against {
    /// Our daemon on this machine.
    Dolmen,
    /// The kernel's target in the guest.
    Kernel,
}

/// How scenarios are run.
pub(crate) struct Plan {
    /// Kernel series to boot.
    pub(crate) series: Vec<String>,
    /// What to run against.
    pub(crate) against: Against,
    /// The daemon's binary.
    pub(crate) binary: PathBuf,
    /// Only scenarios whose name contains one of these; all if empty.
    pub(crate) only: Vec<String>,
}

/// How many passed and failed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    /// Scenarios or tests that passed.
    pub(crate) passed: u32,
    /// Scenarios or tests that failed.
    pub(crate) failed: u32,
}

impl Tally {
    /// Counts another's.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// All scenarios, in the order in which they run.
const SCENARIOS: &[&[Scenario]] =
    &[fabric::SCENARIOS, data::SCENARIOS, crash::SCENARIOS, nbd::SCENARIOS, initiator::SCENARIOS];

/// What the floor of the supported kernels is tried with; the newest kernel runs everything.
const ON_EVERY_KERNEL: &[&str] = &["discovery", "connect", "identity", "ext4", "fio"];

/// The kernel series all scenarios run on.
const FULL_SERIES: &str = "6.12";

/// Runs the scenarios of a plan and tells the outcome of each.
pub(crate) fn run(plan: &Plan) -> Result<Tally> {
    crate::packages::ensure_vm_tools()?;
    let known: Vec<&str> = SCENARIOS.iter().copied().flatten().map(|scenario| scenario.name).collect();
    if let Some(unknown) =
        plan.only.iter().find(|only| !known.iter().any(|name| name.contains(only.as_str())))
    {
        bail!("no scenario is called {unknown}; there are: {}", known.join(", "));
    }
    let work = Work::open()?;
    // One after the other: apt's lists have a lock.
    for series in &plan.series {
        crate::vm::prepare(series, work.dir())?;
    }
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        let group = |series: &String| {
            let all = SCENARIOS.iter().copied().flatten();
            let chosen: Vec<&Scenario> = all.filter(|scenario| is_chosen(scenario, series, plan)).collect();
            if chosen.is_empty() { Tally::default() } else { run_group(series, &chosen, plan, work.dir()) }
        };
        let groups: Vec<_> = plan.series.iter().map(|series| scope.spawn(move || group(series))).collect();
        for group in groups {
            tally.add(group.join().expect("a failed scenario is counted"));
        }
    });
    Ok(tally)
}

fn is_chosen(scenario: &Scenario, series: &str, plan: &Plan) -> bool {
    let named = plan.only.iter().any(|only| scenario.name.contains(only.as_str()));
    let wanted = if plan.only.is_empty() {
        series == FULL_SERIES || ON_EVERY_KERNEL.contains(&scenario.name)
    } else {
        named
    };
    wanted && (plan.against == Against::Dolmen || scenario.needs == Needs::AnyTarget)
}

/// Runs scenarios in one guest; if the guest can't be had, all of them have failed.
fn run_group(series: &str, scenarios: &[&Scenario], plan: &Plan, work: &Path) -> Tally {
    let mut tally = Tally::default();
    let start = Instant::now();
    let mut stage = match set_up(series, plan, work) {
        Ok(stage) => stage,
        Err(error) => {
            println!("vm {series}: FAILED to set up: {error:#}");
            tally.failed = u32::try_from(scenarios.len()).unwrap_or(u32::MAX);
            return tally;
        }
    };
    println!("vm {series}: up in {:.1} s", start.elapsed().as_secs_f64());
    for scenario in scenarios {
        let start = Instant::now();
        let outcome = stage.reset().and_then(|()| (scenario.run)(&mut stage));
        let seconds = start.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                println!("vm {series}: {}: ok ({seconds:.1} s)", scenario.name);
                tally.passed += 1;
            }
            Err(error) => {
                println!("vm {series}: {}: FAILED ({seconds:.1} s)\n{error:#}", scenario.name);
                stage.explain();
                tally.failed += 1;
            }
        }
    }
    if let Err(error) = stage.finish() {
        println!("vm {series}: ending: {error:#}");
    }
    tally
}

fn set_up(series: &str, plan: &Plan, work: &Path) -> Result<Stage> {
    let initiator_ports = daemon::free_ports(initiator::GUEST_PORTS.len())?;
    let options = Options {
        series: series.to_owned(),
        forwards: initiator_ports.iter().copied().zip(initiator::GUEST_PORTS).collect(),
        ..Options::default()
    };
    // The daemon first: if it does not start there is no need for a guest.
    let brick = match plan.against {
        Against::Dolmen => Some(Brick::dolmen(&plan.binary, work)?),
        Against::Kernel => None,
    };
    let mut guest = Guest::boot(&options, work).context("booting the guest")?;
    guest.bring_scripts()?;
    let brick = match brick {
        Some(brick) => brick,
        None => Brick::kernel(&mut guest)?,
    };
    Ok(Stage { guest, brick, initiator_ports })
}
