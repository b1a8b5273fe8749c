//! All loads of interest in one run: ours beside the floor and beside peers, in turn, several rounds, judged.
//!
//! [`plan`] says what is measured and what is asked of it, [`arena`] runs the contestants, [`row`] gathers and compares
//! their samples, [`report`] is what comes out, [`plot`] draws it.

mod arena;
mod costs;
mod plan;
mod plot;
mod report;
mod row;

use crate::{
    Result,
    args::{MatrixArgs, Output},
    contest,
};
use arena::Arena;
use plan::RowPlan;
use report::Report;
use row::Row;

/// Runs what the arguments ask for, prints it, and writes it down.
pub(crate) fn run(args: &MatrixArgs) -> Result<()> {
    let mut arena = Arena::new(args);
    let mut plans = Vec::new();
    for mut plan in plan::rows(args) {
        let mut there = Vec::new();
        for who in std::mem::take(&mut plan.contestants) {
            if arena.prepare(who)? {
                there.push(who);
            }
        }
        plan.judges.retain(|judge| there.contains(&judge.of) && there.contains(&judge.to));
        plan.contestants = there;
        plans.push(plan);
    }
    let mut rows: Vec<Row> = plans.iter().map(Row::new).collect();
    for round in 0..args.repeats {
        for (plan, row) in plans.iter().zip(&mut rows) {
            one_round(&arena, plan, row, round as usize)?;
        }
        eprintln!("round {} of {} done", round + 1, args.repeats);
    }
    let costs = if args.wants_costs() { costs::verdicts(args)? } else { Vec::new() };
    let report = Report::new(args, rows, costs, arena.absent);
    match args.output {
        Output::Table => println!("{report}"),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    if let Some(folder) = &args.docs {
        report.write_to(folder)?;
    }
    Ok(())
}

/// One turn of each contestant of a row; who is first changes from round to round.
fn one_round(arena: &Arena, plan: &RowPlan, row: &mut Row, round: usize) -> Result<()> {
    let count = plan.contestants.len();
    let mut samples: Vec<_> = (0..count).map(|_| None).collect();
    for turn in 0..count {
        let index = (turn + round) % count;
        let who = plan.contestants[index];
        let sample = contest(&arena.course, || arena.run(who, &plan.workload));
        samples[index] = Some(sample.map_err(|e| format!("{}: {who}: {e}", plan.workload))?);
    }
    row.add(samples.into_iter().flatten().collect());
    Ok(())
}
