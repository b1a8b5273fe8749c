//! `dolmen bench`: makes load on any NVMe/TCP target with our own initiator, and tells what came of it.
//!
//! [`Goal`] finds subsystem and namespace; [`Plan`] is the checked workload; each [`job`] is a thread with a loop and
//! connections of its own that runs the library's [`Load`](dolmen_initiator::load::Load); [`Report`] is the result.

mod args;
mod compare;
mod goal;
mod job;
mod machine;
mod meter;
mod peer;
mod plan;
mod progress;
mod report;
mod text;
mod told;

pub use args::{BenchArgs, BenchVerb, CpuList, Rw};

use super::{
    error::{CliError, Exit},
    output::Output,
};
use crate::interrupts;
use goal::Goal;
use job::{Counted, Order};
use machine::Machine;
use peer::Peer;
use plan::{Plan, Run};
use progress::Progress;
use report::{LatencyTarget, Report, Try, Verified};
use std::{
    path::Path,
    process::ExitCode,
    sync::{
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::Scope,
    time::{Duration, SystemTime},
};
use told::Told;

/// One try of a depth, under --latency-target.
const TRY_RAMP: Duration = Duration::from_millis(200);
const TRY_RUNTIME: Duration = Duration::from_secs(1);

/// Runs the verb.
pub(crate) fn bench(output: &Output, args: &BenchArgs) -> Result<ExitCode, CliError> {
    if let Some(BenchVerb::Compare { before, after }) = &args.verb {
        let (before, after) = (read(before)?, read(after)?);
        output.put(&compare::value(&before, &after), |_| compare::text(&before, &after))?;
        return Ok(Exit::Done.into());
    }
    // Read first: not after an hour of load.
    let earlier = args.compare.as_deref().map(read).transpose()?;
    let goals = args.targets.iter().map(|target| Goal::find(target, args)).collect::<Result<_, _>>()?;
    let plan = Plan::new(args, goals, stamp())?;
    for text in [plan.crowd(), plan.shallow(args.iodepth), plan.rest()].into_iter().flatten() {
        output.remark(&text);
    }
    interrupts::catch().map_err(|why| CliError::new(Exit::Failed, format!("signals: {why}")))?;
    let report = run(&plan, args)?;
    if let Some(path) = &args.save {
        let text = serde_json::to_string_pretty(&report).unwrap_or_default() + "\n";
        std::fs::write(path, text)
            .map_err(|why| CliError::new(Exit::Failed, format!("--save {}: {why}", path.display())))?;
    }
    let mut value = serde_json::json!(report);
    let mut shown = text::report(&report);
    if let Some(earlier) = &earlier {
        value["comparison"] = compare::value(earlier, &report);
        shown = format!("{shown}\n\n{}", compare::text(earlier, &report));
    }
    output.put(&value, |_| shown)?;
    judge(&report)
}

/// How a run ends that has a result.
fn judge(report: &Report) -> Result<ExitCode, CliError> {
    let failed = |text: String| Err(CliError::new(Exit::Failed, text));
    let verified = report.verified.as_ref();
    if let Some(violation) = verified.and_then(|v| v.first_violation.as_ref()) {
        let blocks = verified.map_or(0, |v| v.violations);
        return failed(format!("{blocks} blocks are not what was acknowledged; the first: {violation}"));
    }
    if let Some(first) = &report.first_error {
        return failed(format!("{} commands failed; the first: {first}", report.errors));
    }
    if report.unanswered > 0 {
        return failed(format!("{} commands were not answered", report.unanswered));
    }
    if let Some(why) = verified.and_then(|v| v.not_read_back.as_ref()) {
        return failed(format!("what was written was not read back: {why}"));
    }
    Ok(Exit::Done.into())
}

/// A number that no other run has, for its stamps.
fn stamp() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_nanos() & u128::from(u64::MAX)).unwrap_or(0) ^ u64::from(std::process::id()) << 48
}

fn read(path: &Path) -> Result<Report, CliError> {
    let wrong = |why: String| CliError::usage(format!("{}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|why| wrong(why.to_string()))?;
    let report: Report =
        serde_json::from_str(&text).map_err(|why| wrong(format!("not a result of dolmen bench ({why})")))?;
    if report.bench_format != report::FORMAT {
        return Err(wrong(format!("form {} of another version of dolmen", report.bench_format)));
    }
    Ok(report)
}

/// The jobs, from outside.
struct Crew<'a> {
    plan: &'a Plan,
    told: &'a [Told],
    orders: Vec<Sender<Order>>,
    results: Receiver<(usize, Result<Counted, CliError>)>,
    progress: Progress,
}

fn run(plan: &Plan, args: &BenchArgs) -> Result<Report, CliError> {
    let told: Vec<Told> = (0..plan.jobs).map(|_| Told::default()).collect();
    let peers = look_for_peers(plan);
    std::thread::scope(|scope| {
        let mut crew = Crew::gather(scope, plan, &told, peers.as_ref().ok())?;
        let mut depth = plan.depth;
        let mut latency_target = None;
        if let Some(target) = args.latency_target {
            let found = crew.find_depth(target, args.latency_percentile)?;
            depth = found.0;
            latency_target = Some(found.1);
        }
        let run = Run { depth, ramp: args.ramp, runtime: args.runtime, once: args.once };
        let counted =
            crew.order(Order::Run(run), &format!("{} {}", text::rw(plan.rw), text::bytes(plan.bs)))?;
        let mut report = Report::new(plan, depth, &counted);
        if plan.verify.is_some() {
            report.verified = Some(crew.verify(counted, &mut report)?);
        }
        report.latency_target = latency_target;
        report.interrupted = interrupts::seen();
        report.target_processes = peers.as_ref().map_or_else(Clone::clone, |peer| peer.names.clone());
        (report.connections_lost, report.connections_made_again) = crew.losses();
        Ok(report)
    })
}

/// The processes behind all targets, if they can be seen.
fn look_for_peers(plan: &Plan) -> Result<Peer, String> {
    let addresses: Vec<_> = plan.goals.iter().map(|goal| goal.options.addr).collect();
    Peer::find(&addresses)
}

impl<'a> Crew<'a> {
    /// Starts the jobs and waits until all are connected.
    fn gather<'scope>(
        scope: &'scope Scope<'scope, '_>,
        plan: &'a Plan,
        told: &'a [Told],
        peer: Option<&'a Peer>,
    ) -> Result<Crew<'a>, CliError>
    where
        'a: 'scope,
    {
        let (sender, results) = channel();
        let mut orders = Vec::new();
        for (number, told) in told.iter().enumerate() {
            let (order, taken) = channel();
            let results = sender.clone();
            // One job looks at the target's processes for all.
            let peer = peer.filter(|_| number == 0);
            let body = move || job::follow((number, plan, told), peer, &taken, &results);
            std::thread::Builder::new()
                .name(format!("job {number}"))
                .spawn_scoped(scope, body)
                .map_err(|why| CliError::new(Exit::Failed, format!("job {number}: {why}")))?;
            orders.push(order);
        }
        let progress = Progress::new();
        let crew = Crew { plan, told, orders, results, progress };
        crew.wait(None)?;
        Ok(crew)
    }

    /// Gives an order to all jobs; what each counted.
    fn order(&mut self, order: Order, what: &str) -> Result<Vec<Counted>, CliError> {
        for job in &self.orders {
            // A job that is gone has said why.
            let _ = job.send(order);
        }
        self.progress.begin(order, what, self.plan.bs);
        let counted = self.wait(Some(&self.progress));
        self.progress.end();
        counted
    }

    /// What every job says, once from each.
    fn wait(&self, progress: Option<&Progress>) -> Result<Vec<Counted>, CliError> {
        let mut said: Vec<Option<Counted>> = vec![None; self.orders.len()];
        while said.iter().any(Option::is_none) {
            match self.results.recv_timeout(Duration::from_millis(100)) {
                Ok((job, counted)) => said[job] = Some(counted?),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(CliError::new(Exit::Failed, "a job ended before its time"));
                }
            }
            if let Some(progress) = progress {
                progress.show(self.told);
            }
        }
        Ok(said.into_iter().flatten().collect())
    }

    /// Reads back what a run has written, if it ended well; what it found comes to the report.
    fn verify(&mut self, run: Vec<Counted>, report: &mut Report) -> Result<Verified, CliError> {
        let sound = run.iter().all(|job| job.errors == 0 && job.violations == 0);
        let reads = sound && !interrupts::seen();
        let counted = if reads { self.order(Order::ReadBack, "reading back")? } else { run };
        let sum = |of: fn(&Counted) -> u64| counted.iter().map(of).sum::<u64>();
        let violations = sum(|job| job.violations);
        if reads {
            report.errors = sum(|job| job.errors);
            report.first_error = counted.iter().find_map(|job| job.first_error.clone());
            report.unanswered += sum(|job| job.unanswered);
        }
        let why = match () {
            () if violations > 0 => "blocks were wrong",
            () if report.errors > 0 => "commands failed",
            () => "it was interrupted",
        };
        let first = counted.iter().find_map(|job| job.first_violation.as_ref());
        Ok(Verified {
            blocks_read_back: sum(|job| job.read_back),
            not_read_back: (!reads || sum(|job| job.unread) > 0).then(|| why.into()),
            violations,
            first_violation: first.map(ToString::to_string),
        })
    }

    /// Connections lost, and those of them that came back.
    fn losses(&self) -> (u64, u64) {
        let sum = |of: fn(&Told) -> &AtomicU64| self.told.iter().map(|told| of(told).load(Relaxed)).sum();
        (sum(|told| &told.losses), sum(|told| &told.returns))
    }

    /// The largest depth at which the percentile stays within the target, by halving; 1 if none does.
    fn find_depth(&mut self, target: Duration, percentile: f64) -> Result<(u16, LatencyTarget), CliError> {
        let ns = u64::try_from(target.as_nanos()).unwrap_or(u64::MAX);
        // Both are small and not negative.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let per_100_000 = (percentile * 1000.0).round() as u32;
        let (mut good, mut bad) = (0, self.plan.depth + 1);
        let mut tries = Vec::new();
        while good + 1 < bad && !interrupts::seen() {
            // The whole depth first: often it is good enough.
            let depth = if tries.is_empty() { self.plan.depth } else { good.midpoint(bad) };
            let run = Run { depth, ramp: TRY_RAMP, runtime: TRY_RUNTIME, once: false };
            let counted = self.order(Order::Run(run), &format!("trying depth {depth}"))?;
            if let Some(failure) = counted.iter().find_map(|job| job.first_error.as_ref()) {
                return Err(CliError::new(Exit::Failed, format!("a command failed: {failure}")));
            }
            let (sum, seconds) = report::total(&counted);
            let latency_ns = report::both(&sum).percentile(per_100_000);
            let iops = (sum.reads + sum.changes) as f64 / seconds.max(f64::MIN_POSITIVE);
            let tried = Try { depth, iops, latency_ns };
            if tried.holds(ns) {
                good = depth
            } else {
                bad = depth
            }
            tries.push(tried);
        }
        Ok((good.max(1), LatencyTarget { ns, percentile, held: good > 0, tries }))
    }
}
