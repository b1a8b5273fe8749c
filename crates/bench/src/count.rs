//! `dolmen-bench count`: a fixed number of commands against a target, and what every process of the machine used for them.
//!
//! For a guest whose clock counts instructions, with one CPU: the client sleeps at once when it has nothing to do, so that
//! it takes nothing from the target.

use crate::{
    Result,
    args::CountArgs,
    busy::Busy,
    ours::{Access, Goal, Which},
};
use dolmen_initiator::load::{Mix, Pattern};
use serde::Serialize;
use std::{collections::BTreeMap, time::Duration};

/// Commands before counting: connections are warm, buffers are taken.
const RAMP_COMMANDS: u64 = 2000;

/// What came of it.
#[derive(Clone, Debug, Serialize)]
struct Counts {
    commands: u64,
    mean_ns: u64,
    /// CPU time by process name. Nanoseconds.
    used_ns: BTreeMap<String, u64>,
}

/// Loads, counts, prints JSON.
pub(crate) fn run(args: &CountArgs) -> Result<()> {
    let access =
        Access { addr: args.target, nqn: args.nqn.clone(), host_nqn: args.host_nqn.clone(), digests: false };
    let mut goal = Goal::find(&access, args.nsid.map_or(Which::First, Which::Nsid))?;
    goal.spin = Duration::ZERO;
    if args.fill {
        goal.fill(args.cpu)?;
    }
    let workload = args.workload();
    let counts = goal.pinned(args.cpu, |client| {
        let id = client.connect(goal.options(&workload))?;
        let mut load = goal.load_on(id, &workload)?;
        let mix = workload.mix();
        load.set_work(Pattern::Random, mix, RAMP_COMMANDS);
        client.finish(&mut load)?;
        load.restart_counting();
        let before = Busy::now()?;
        load.set_work(Pattern::Random, mix, args.commands);
        client.finish(&mut load)?;
        let used_ns = Busy::now()?.since(&before);
        let stats = load.stats();
        let latency = if mix == Mix::WRITE { &stats.change_latency } else { &stats.read_latency };
        Ok(Counts { commands: stats.reads + stats.changes, mean_ns: latency.mean(), used_ns })
    })?;
    println!("{}", serde_json::to_string(&counts)?);
    Ok(())
}
