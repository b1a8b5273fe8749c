//! The store behind its door: the same shapes over NVMe/TCP, the node's one core on one CPU and the host on another.
//!
//! Here N is the whole path of a command to the null volume, as hosts have it: this is what the budget is about. Whoever of the two
//! is the slower one sets the rate; so the core's own time per command is told beside it.

use super::{
    LARGE, NULL, PLAIN, Shape, WRITE_128K,
    figures::{Budget, Figure},
    gauge::{Gauge, Spent},
    host::{Goal, Watch, Work},
    middle,
    node::Node,
    over,
    ram::{self, Drives, Step},
    replay::{self, Burden},
};
use crate::{Result, args::StoreArgs, cores};
use dolmen_initiator::load::{Mix, Pattern};
use dolmen_types::volume::VolumeKind;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Not counted, before each contest: connections settle and caches fill.
const RAMP: Duration = Duration::from_millis(100);
/// A command on the wire, without its data. Bytes.
const CAPSULE_BYTES: usize = 72;
/// A client that has less than this share of its time left sets the rate, when the core has more.
const SPARE: f64 = 0.05;

/// The node with its volumes.
struct Wire<'a> {
    args: &'a StoreArgs,
    node: Node,
    drives: Drives,
    null: Goal,
    plain: Goal,
}

/// What one contest came to.
struct Outcome {
    /// Per command, by the clock.
    ns: f64,
    /// Per command, of the core's time.
    core_ns: f64,
    core: Spent,
    client: Spent,
    commands: u64,
    /// What was done to the drives.
    tape: Vec<Step>,
}

/// What the client's moments leave.
#[derive(Default)]
struct Notes {
    core: [Spent; 2],
    client: [Spent; 2],
    blank: Option<Vec<Step>>,
    tape: Vec<Step>,
}

/// All shapes.
pub(super) fn figures(shapes: &[Shape], args: &StoreArgs) -> Result<Vec<Figure>> {
    let drives = Drives::new(1, LARGE.drive);
    let mut node = Node::start(&drives, args.cpu)?;
    let null = node.volume(NULL, VolumeKind::Null, LARGE.volume)?;
    let plain = node.volume(PLAIN, VolumeKind::Durable, LARGE.volume)?;
    let wire = Wire { args, node, drives, null, plain };
    // Every block is there before anything is read.
    let fill = Duration::from_millis(700);
    wire.contest(&wire.plain, WRITE_128K, fill)?;
    let mut figures = Vec::new();
    for &shape in shapes {
        figures.extend(wire.of_p(shape)?);
    }
    Ok(figures)
}

impl Wire<'_> {
    /// One shape against what physics allows.
    fn of_p(&self, shape: Shape) -> Result<Vec<Figure>> {
        if let Some(seconds) = self.args.profile {
            let run = self.contest(&self.plain, shape, Duration::from_secs_f64(seconds))?;
            let text = "nothing to compare with";
            return Ok(Figure::new(shape.name, "ns", &[run.ns], Budget::None, text).into_iter().collect());
        }
        let spare = Drives::new(1, LARGE.drive);
        let (mut ratios, mut of_core, mut parts) = (Vec::new(), Vec::new(), [const { Vec::new() }; 5]);
        let mut shares = [const { Vec::new() }; 4];
        let (mut least_of_p, mut of_least) = (Vec::new(), Vec::new());
        for round in 0..=self.args.repeats {
            let n = self.contest(&self.null, shape, self.args.runtime())?;
            let o = self.contest(&self.plain, shape, self.args.runtime())?;
            let r = self.bare(&spare, &o)?;
            let least = self.least(&spare, shape, &o)?;
            if round == 0 {
                continue;
            }
            of_least.push(least / o.ns);
            least_of_p.push((n.ns + r) / least);
            ratios.push((n.ns + r) / o.ns);
            of_core.push((n.core_ns + r) / o.core_ns);
            [n.ns, r, o.ns, n.core_ns, o.core_ns]
                .into_iter()
                .zip(&mut parts)
                .for_each(|(v, all)| all.push(v));
            let busy = [n.core.share(), n.client.share(), o.core.share(), o.client.share()];
            busy.into_iter().zip(&mut shares).for_each(|(v, all)| all.push(v));
        }
        let [n, r, o, n_core, o_core] = parts.each_ref().map(|values| middle(values));
        let [core, client, o_core_share, o_client] = shares.each_ref().map(|values| middle(values));
        let bound = |core: f64, client: f64| {
            if core < 1.0 - SPARE && client > core { ", the client sets the pace" } else { "" }
        };
        let text = format!(
            "N {n:.0} ns (core {:.0} %, client {:.0} % busy{}), R {r:.0} ns, ours {o:.0} ns (core {:.0} %, client {:.0} %{})",
            core * 100.0,
            client * 100.0,
            bound(core, client),
            o_core_share * 100.0,
            o_client * 100.0,
            bound(o_core_share, o_client),
        );
        let name = format!("{}, depth {}, NVMe/TCP, of P", shape.name, shape.depth);
        let mut figures = Vec::new();
        figures.extend(Figure::new(name, "", &ratios, Budget::AtLeast(0.85), text));
        let text = format!("N {n_core:.0} ns, R {r:.0} ns, ours {o_core:.0} ns");
        figures.extend(Figure::new("   the same in time of the core", "", &of_core, Budget::None, text));
        let text = "the null volume's loop, with the drive I/O and a check of each block done beside it";
        figures.extend(Figure::new(
            "   the least that a store does, of P",
            "",
            &least_of_p,
            Budget::None,
            text,
        ));
        figures.extend(Figure::new("   ours, of that least", "", &of_least, Budget::None, ""));
        Ok(figures)
    }

    /// Runs a shape on a volume.
    fn contest(&self, goal: &Goal, shape: Shape, time: Duration) -> Result<Outcome> {
        let work = Work {
            cpu: self.args.client_cpu,
            size_bytes: shape.bytes(),
            depth: u16::try_from(shape.depth)?,
            pattern: if shape.random { Pattern::Random } else { Pattern::Sequential },
            mix: if shape.write { Mix::WRITE } else { Mix::READ },
            ramp: RAMP,
            runtime: time,
        };
        // A long look through a profiler leaves none.
        let tape = if self.args.profile.is_none() { Some(ram::tape()) } else { None };
        let notes = Mutex::new(Notes { blank: tape, ..Notes::default() });
        let client = Arc::new(Gauge::default());
        let moment = |begins: bool| {
            let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
            let at = usize::from(!begins);
            (notes.core[at], notes.client[at]) = (self.node.gauge.read(), client.read());
            let mut drives = self.drives.lock();
            if begins {
                drives.tape = notes.blank.take();
            } else {
                notes.tape = drives.tape.take().unwrap_or_default();
            }
        };
        let count = goal.run(&work, Watch { client: &client, moment: &moment })?;
        let notes = notes.into_inner().unwrap_or_else(PoisonError::into_inner);
        let core = notes.core[1].since(notes.core[0]);
        Ok(Outcome {
            ns: count.ns,
            core_ns: core.busy_ns as f64 / count.commands as f64,
            core,
            client: notes.client[1].since(notes.client[0]),
            commands: count.commands,
            tape: notes.tape,
        })
    }

    /// The null volume again, with what `outcome` did to the drives done beside it, and each block checked. Nanoseconds per command.
    fn least(&self, spare: &Drives, shape: Shape, outcome: &Outcome) -> Result<f64> {
        let capsule = CAPSULE_BYTES + if shape.write { shape.bytes() } else { 0 };
        let burden = Burden::new(spare.clone(), outcome.tape.clone(), outcome.commands, capsule);
        self.drives.lock().burden = Some(burden);
        let run = self.contest(&self.null, shape, self.args.runtime());
        self.drives.lock().burden = None;
        Ok(run?.ns)
    }

    /// What a contest did to the drives, by itself and on the core's CPU; the core sleeps meanwhile. Nanoseconds per command.
    fn bare(&self, spare: &Drives, outcome: &Outcome) -> Result<f64> {
        let cpu = self.args.cpu;
        let run = std::thread::scope(|scope| {
            let replaying = scope.spawn(|| {
                cores::pin(cpu).map_err(|e| e.to_string())?;
                replay::replay(&mut over(spare), &outcome.tape, outcome.commands).map_err(|e| e.to_string())
            });
            replaying.join().expect("replaying doesn't panic")
        })?;
        Ok(run.ns)
    }
}
