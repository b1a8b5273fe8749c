//! What one more of something costs the target: a connection, a core, a thousand connections, a thousand volumes.
//!
//! The daemons here sleep at once when there is nothing to do, so that the CPU time of their threads is work: time per
//! command is compared within a round, and should be flat.

use crate::{
    NULL_BYTES, Result,
    args::{HOST_NQN, MatrixArgs},
    contest, cores, cpu_time,
    daemon::{Daemon, Plan},
    floor::{Course, Rates},
    ours::{Access, Goal, Which},
    sample::{Sample, State},
    verdict::{Budget, Verdict},
    workload::{Shape, Workload},
};
use std::{sync::mpsc, thread};

/// Controllers of the thousand connections, and I/O queues of each.
const MANY: (usize, u16) = (8, 125);
/// Volumes of the daemon with many.
const VOLUMES: u32 = 1000;
/// `volume create` processes at a time.
const MAKERS: u32 = 4;
/// A cost that grows by no more is called flat.
const FLAT: Budget = Budget::AtMost(1.1);

/// A daemon that sleeps when it can, with a null volume.
struct Place {
    daemon: Daemon,
    goal: Goal,
}

impl Place {
    fn start(args: &MatrixArgs, cpus: &[usize]) -> Result<Place> {
        let plan =
            Plan { program: &args.dolmen, cpus, poll_window_us: Some(0), more: &[], host_nqn: HOST_NQN };
        let daemon = Daemon::start(&plan)?;
        daemon.volume("null", "null", NULL_BYTES)?;
        let access =
            Access { addr: daemon.addr(), nqn: None, host_nqn: HOST_NQN.to_string(), digests: false };
        let mut goal = Goal::find(&access, Which::Sized(NULL_BYTES))?;
        goal.server = Some(daemon.pid());
        Ok(Place { daemon, goal })
    }
}

/// Runs all of it; the figures of every round are compared with the first load's of that round.
pub(super) fn verdicts(args: &MatrixArgs) -> Result<Vec<Verdict>> {
    dolmen_uring::raise_descriptor_limit();
    let course = args.course();
    let one_core = Place::start(args, &[args.server_cpu])?;
    let spare = cores::spare(&[args.server_cpu, args.client_cpu])?;
    let two_cores = Place::start(args, &[args.server_cpu, spare.unwrap_or(args.client_cpu)])?;
    let two_cores_name = if spare.is_some() { TWO_CORES } else { SHARED };
    let full = Place::start(args, &[args.server_cpu])?;
    let before = cpu_time::resident(full.daemon.pid())?;
    make_volumes(&full.daemon)?;
    let volume_bytes = cpu_time::resident(full.daemon.pid())?.saturating_sub(before);
    let read = |depth, connections| Workload::small(Shape::Read, depth, connections);
    let mut costs = Costs::default();
    let mut rest_bytes = None;
    for _ in 0..args.repeats {
        let mut run = |name, place: &Place, load: Workload| -> Result<()> {
            let sample = contest(&course, || place.goal.run(&load, &course))?;
            costs.add(name, sample);
            Ok(())
        };
        run(BASE, &one_core, read(32, 1))?;
        run("2 connections", &one_core, read(32, 2))?;
        run("64 connections", &one_core, read(32, 64))?;
        run(two_cores_name, &two_cores, read(32, 2))?;
        run("one of 1000 volumes", &full, read(32, 1))?;
        let mut bytes = 0;
        let sample = contest(&course, || {
            let (rates, resident) = beside_idle(&one_core, &course)?;
            bytes = resident;
            Ok(rates)
        })?;
        costs.add("1 connection beside 1000 at rest", sample);
        // The pool's pages stay with the daemon: only the first time they are new.
        rest_bytes.get_or_insert(bytes);
    }
    let mut verdicts = costs.verdicts();
    let each = rest_bytes.unwrap_or(0) as f64 / 1024.0 / 1000.0;
    verdicts.extend(Verdict::new("memory of a connection at rest", "KiB", &[each], Budget::None, "of 1000"));
    let each = volume_bytes as f64 / 1024.0 / f64::from(VOLUMES);
    verdicts.extend(Verdict::new("memory of a volume", "KiB", &[each], Budget::None, "of 1000"));
    Ok(verdicts)
}

/// A load on one connection while a thousand others rest; and what these take. Bytes.
fn beside_idle(place: &Place, course: &Course) -> Result<(Rates, u64)> {
    let pid = place.daemon.pid();
    let before = cpu_time::resident(pid)?;
    let (busy, resting) = (Workload::small(Shape::Read, 32, 1), Workload::small(Shape::Read, 1, MANY.1));
    place.goal.pinned(course.client_cpu, |client| {
        let id = client.connect(place.goal.options(&busy))?;
        for _ in 0..MANY.0 {
            client.connect(place.goal.options(&resting))?;
        }
        let taken = cpu_time::resident(pid)?.saturating_sub(before);
        let rates = place.goal.counted(client, &mut [place.goal.load_on(id, &busy)?], course)?;
        Ok((rates, taken))
    })
}

/// Fills a daemon up to [`VOLUMES`]; several at a time, since a process is started for each.
fn make_volumes(daemon: &Daemon) -> Result<()> {
    let (sender, failures) = mpsc::channel();
    thread::scope(|scope| {
        for maker in 0..MAKERS {
            let sender = sender.clone();
            scope.spawn(move || {
                for number in (maker..VOLUMES - 1).step_by(MAKERS as usize) {
                    if let Err(error) = daemon.volume(&format!("v{number}"), "null", 64 << 20) {
                        // The receiver lives until all makers have ended.
                        let _ = sender.send(error.to_string());
                        return;
                    }
                }
            });
        }
    });
    drop(sender);
    failures.try_recv().map_or(Ok(()), |error| Err(error.into()))
}

const BASE: &str = "1 connection";
const TWO_CORES: &str = "2 cores, 2 connections";
/// The same where no third CPU is: what the second core and the client take from each other is not the core's cost, so it is not judged.
const SHARED: &str = "2 cores, one of them the client's";

/// Samples by name, round by round; every name has one in each.
#[derive(Default)]
struct Costs(Vec<(&'static str, Vec<Sample>)>);

impl Costs {
    fn add(&mut self, name: &'static str, sample: Sample) {
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some((_, samples)) => samples.push(sample),
            None => self.0.push((name, vec![sample])),
        }
    }

    fn verdicts(&self) -> Vec<Verdict> {
        let Some((_, base)) = self.0.iter().find(|(name, _)| *name == BASE) else { return Vec::new() };
        let ns = |sample: &Sample| sample.server_cpu_ns.filter(|_| sample.state() != State::Unfit);
        let mut verdicts = Vec::new();
        for (name, samples) in &self.0 {
            let pairs = samples.iter().zip(base).filter(|(a, b)| a.state() == b.state());
            let ratios: Vec<f64> = pairs.filter_map(|(a, b)| Some(ns(a)? / ns(b)?)).collect();
            let own: Vec<f64> = samples.iter().filter_map(ns).collect();
            let middle = crate::sample::Spread::of(own.iter().copied()).map_or(0.0, |s| s.median);
            if *name == BASE {
                let title = format!("target CPU per 4K read, depth 32, {name}");
                verdicts.extend(Verdict::new(title, "ns", &own, Budget::None, ""));
            } else {
                let title = format!("the same with {name}, over that");
                let budget = if *name == SHARED { Budget::None } else { FLAT };
                verdicts.extend(Verdict::new(title, "", &ratios, budget, format!("{middle:.0} ns")));
            }
        }
        verdicts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_compared_round_by_round() {
        let sample = |ns, line| Sample { server_cpu_ns: Some(ns), ..Sample::of(1.0, line) };
        let (fast, slow) = ([100, 100], [360, 360]);
        let mut costs = Costs::default();
        for (base, more, state) in [(1000.0, 1050.0, fast), (2000.0, 2200.0, slow)] {
            costs.add(BASE, sample(base, fast));
            costs.add("more", sample(more, state));
        }
        let verdicts = costs.verdicts();
        assert_eq!(verdicts[0].value.median, 1500.0);
        // The second round's two were not in one state.
        assert_eq!((verdicts[1].rounds, verdicts[1].value.median, verdicts[1].kept), (1, 1.05, Some(true)));
    }
}
