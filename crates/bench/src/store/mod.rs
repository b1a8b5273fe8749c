//! The store's own speed, on one core, in one process: what it adds to the null volume and to the bare drive I/O.
//!
//! ```text
//!   N      the null volume, driven by the same loop           ns per command
//!   R      the drive I/O that the run caused, by itself       ns per command
//!   ours   the real store, over drives in memory              ns per command
//!   of P   (N + R) / ours: what physics allows over what it takes
//! ```
//! The contestants take turns; ratios are of one round, figures are medians of the rounds.

mod data;
mod figures;
mod load;
mod machine;
mod ram;
mod replay;

use crate::{
    Result,
    args::{Output, StoreArgs},
    cores,
};
use data::Fill;
use dolmen_io::{Io, PoolConfig};
use dolmen_types::volume::VolumeKind;
use dolmen_volume::VolumeRef;
use figures::{Budget, Figure, Figures};
use load::{Load, Run, Shape};
use machine::Machine;
use ram::{Ram, Shared, Step};
use std::{cell::RefCell, path::PathBuf, rc::Rc, time::Duration};

/// Bytes of each drive and of the volumes: enough that what is read does not come from the CPU's caches alone, and so little
/// that the drives stay nearly empty.
const DRIVE_BYTES: usize = 2 << 30;
const VOLUME_BYTES: u64 = 256 << 20;

const POOL_BYTES: usize = 128 << 20;

/// Volumes of a machine, by number.
const NULL: u8 = 1;
const PLAIN: u8 = 2;
const PACKED: u8 = 3;

const WRITE_4K: Shape =
    Shape { name: "4K random write", write: true, blocks: 1, random: true, depth: 32, fill: Fill::Noise };
const READ_4K: Shape = Shape { name: "4K random read", write: false, ..WRITE_4K };
const WRITE_128K: Shape = Shape { name: "128K sequential write", blocks: 32, random: false, ..WRITE_4K };
const READ_128K: Shape = Shape { name: "128K sequential read", write: false, ..WRITE_128K };

/// Runs everything and prints it.
pub(crate) fn run(args: &StoreArgs) -> Result<()> {
    cores::pin(args.cpu)?;
    let mut figures =
        Figures { rounds: args.repeats, runtime_s: args.runtime, cpu: args.cpu, figures: Vec::new() };
    let only = |part: &str| args.only.as_deref().is_none_or(|only| part.contains(only));
    if only("shapes") {
        let mut bench = Bench::start(1, 0)?;
        for shape in [WRITE_4K, READ_4K, WRITE_128K, READ_128K] {
            if args.shape.as_deref().is_none_or(|wanted| shape.name.contains(wanted)) {
                figures.figures.extend(bench.of_p(shape, args)?);
            }
        }
    }
    match args.output {
        Output::Table => print!("{figures}"),
        Output::Json => println!("{}", serde_json::to_string_pretty(&figures)?),
    }
    Ok(())
}

/// A machine with its volumes, and drives of the same size for the bare I/O.
struct Bench {
    machine: Machine,
    drives: Rc<RefCell<Shared>>,
    bare: Io,
    null: VolumeRef,
    plain: VolumeRef,
    packed: VolumeRef,
}

fn memory(drives: usize) -> (Io, Rc<RefCell<Shared>>) {
    let (ram, shared) = Ram::new(drives, DRIVE_BYTES, &PoolConfig::sized(POOL_BYTES));
    (Io::new(Box::new(ram)), shared)
}

impl Bench {
    /// Over so many drives in memory, with parity on so many of them. The volumes are full of noise.
    fn start(drives: usize, parity: u8) -> Result<Bench> {
        let names: Vec<PathBuf> = (0..drives).map(|n| n.to_string().into()).collect();
        let ((io, shared), (bare, _)) = (memory(drives), memory(drives));
        let mut machine = Machine::start(io, &names, None, parity)?;
        let null = machine.volume(NULL, VolumeKind::Null, VOLUME_BYTES, false)?;
        let plain = machine.volume(PLAIN, VolumeKind::Durable, VOLUME_BYTES, false)?;
        let packed = machine.volume(PACKED, VolumeKind::Durable, VOLUME_BYTES, true)?;
        let mut fill = Load::new(&machine, WRITE_128K, plain, VOLUME_BYTES)?;
        fill.run_count(&mut machine, VOLUME_BYTES / WRITE_128K.bytes() as u64)?;
        machine.settle()?;
        Ok(Bench { machine, drives: shared, bare, null, plain, packed })
    }

    /// Runs a load and tells what it did to the drives.
    fn recorded(&mut self, load: &mut Load, time: Duration) -> Result<(Run, Vec<Step>)> {
        self.drives.borrow_mut().tape = Some(Vec::with_capacity(1 << 20));
        let run = load.run(&mut self.machine, time)?;
        let tape = self.drives.borrow_mut().tape.take().unwrap_or_default();
        Ok((run, tape))
    }

    /// One shape against what physics allows.
    fn of_p(&mut self, shape: Shape, args: &StoreArgs) -> Result<Option<Figure>> {
        let mut null = Load::new(&self.machine, shape, self.null, VOLUME_BYTES)?;
        let mut ours = Load::new(&self.machine, shape, self.plain, VOLUME_BYTES)?;
        let (mut ratios, mut parts) = (Vec::new(), [const { Vec::new() }; 3]);
        ours.run(&mut self.machine, args.runtime())?;
        if let Some(seconds) = args.profile {
            let run = ours.run(&mut self.machine, Duration::from_secs_f64(seconds))?;
            let text = "nothing to compare with".into();
            return Ok(Figure::new(shape.name, "ns", &[run.ns], Budget::None, text));
        }
        for _ in 0..args.repeats {
            let n = null.run(&mut self.machine, args.runtime())?;
            let (o, tape) = self.recorded(&mut ours, args.runtime())?;
            let r = replay::replay(&mut self.bare, &tape, o.commands, args.runtime())?;
            ratios.push((n.ns + r.ns) / o.ns);
            [n.ns, r.ns, o.ns].into_iter().zip(&mut parts).for_each(|(ns, all)| all.push(ns));
        }
        let middle =
            |values: &Vec<f64>| crate::report::Spread::of(values.iter().copied()).map_or(0.0, |s| s.median);
        let [n, r, o] = parts.each_ref().map(middle);
        let text = format!("N {n:.0} ns, R {r:.0} ns, ours {o:.0} ns");
        let name = format!("{}, depth {}, of P", shape.name, shape.depth);
        Ok(Figure::new(name, "", &ratios, Budget::AtLeast(0.85), text))
    }
}
