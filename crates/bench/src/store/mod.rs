//! The store's own speed, on one core: what it adds to the null volume and to the bare drive I/O.
//!
//! ```text
//!   N      the null volume, driven by the same loop           ns per command
//!   R      the drive I/O that the run caused, by itself       ns per command
//!   ours   the real store, over drives in memory              ns per command
//!   of P   (N + R) / ours: what physics allows over what it takes
//! ```
//! The contestants take turns; ratios are of one round, figures are medians of the rounds. The budget is for what hosts see: a whole
//! node behind NVMe/TCP (`wire.rs`). The same shapes in one process, without a network, are there to look into.

mod data;
mod figures;
mod gauge;
mod host;
mod kernels;
mod load;
mod machine;
mod node;
mod ram;
mod replay;
mod split;
mod wire;

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
use ram::{Drives, Ram, Step};
use std::{path::PathBuf, time::Duration};

/// Bytes of each drive and of each volume.
#[derive(Clone, Copy)]
struct Sizes {
    drive: usize,
    volume: u64,
}

/// Enough that what is read does not come from the CPU's caches alone, and so little that the drives stay nearly empty.
const LARGE: Sizes = Sizes { drive: 2 << 30, volume: 256 << 20 };
/// For many drives at once.
const SMALL: Sizes = Sizes { drive: 384 << 20, volume: 128 << 20 };

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
    let mut figures =
        Figures { rounds: args.repeats, runtime_s: args.runtime, cpu: args.cpu, figures: Vec::new() };
    let only = |part: &str| args.only.as_deref().is_none_or(|only| part.contains(only));
    let mut shapes = vec![WRITE_4K, READ_4K, WRITE_128K, READ_128K];
    shapes.retain(|shape| args.shape.as_deref().is_none_or(|wanted| shape.name.contains(wanted)));
    if only("wire") {
        figures.figures.extend(wire::figures(&shapes, args)?);
    }
    cores::pin(args.cpu)?;
    if only("shapes") {
        let mut bench = Bench::start(1, 0, LARGE)?;
        for &shape in &shapes {
            figures.figures.extend(bench.of_p(shape, args)?);
        }
    }
    if only("counts") {
        figures.figures.extend(Bench::start(1, 0, LARGE)?.counts()?);
    }
    if only("compression") {
        figures.figures.extend(Bench::start(1, 0, LARGE)?.compression(args)?);
    }
    if only("parity") {
        figures.figures.extend(parity(args)?);
    }
    if only("kernels") {
        figures.figures.extend(kernels::figures());
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
    drives: Drives,
    bare: Io,
    /// Of each volume.
    bytes: u64,
    null: VolumeRef,
    plain: VolumeRef,
    packed: VolumeRef,
}

/// A loop over these drives and nothing else.
fn over(drives: &Drives) -> Io {
    Io::new(Box::new(Ram::new(drives.clone(), &PoolConfig::sized(POOL_BYTES))))
}

impl Bench {
    /// Over so many drives in memory, with parity on so many of them. The volumes are full of noise.
    fn start(drives: usize, parity: u8, sizes: Sizes) -> Result<Bench> {
        let bytes = sizes.volume;
        let names: Vec<PathBuf> = (0..drives).map(|n| n.to_string().into()).collect();
        let (shared, spare) = (Drives::new(drives, sizes.drive), Drives::new(drives, sizes.drive));
        let bare = over(&spare);
        let mut machine = Machine::start(over(&shared), &names, None, parity)?;
        let null = machine.volume(NULL, VolumeKind::Null, bytes, false)?;
        let plain = machine.volume(PLAIN, VolumeKind::Durable, bytes, false)?;
        let packed = machine.volume(PACKED, VolumeKind::Durable, bytes, true)?;
        let mut fill = Load::new(&machine, WRITE_128K, plain, bytes)?;
        fill.run_count(&mut machine, bytes / WRITE_128K.bytes() as u64)?;
        machine.settle()?;
        Ok(Bench { machine, drives: shared, bare, bytes, null, plain, packed })
    }

    /// Runs a load and tells what it did to the drives.
    fn recorded(&mut self, load: &mut Load, time: Duration) -> Result<(Run, Vec<Step>)> {
        self.drives.lock().tape = Some(ram::tape());
        let run = load.run(&mut self.machine, time)?;
        let tape = self.drives.lock().tape.take().unwrap_or_default();
        Ok((run, tape))
    }

    /// One shape against what physics allows.
    fn of_p(&mut self, shape: Shape, args: &StoreArgs) -> Result<Option<Figure>> {
        let mut null = Load::new(&self.machine, shape, self.null, self.bytes)?;
        let mut ours = Load::new(&self.machine, shape, self.plain, self.bytes)?;
        let (mut ratios, mut parts) = (Vec::new(), [const { Vec::new() }; 3]);
        ours.run(&mut self.machine, args.runtime())?;
        if let Some(seconds) = args.profile {
            let run = ours.run(&mut self.machine, Duration::from_secs_f64(seconds))?;
            let text = "nothing to compare with";
            return Ok(Figure::new(shape.name, "ns", &[run.ns], Budget::None, text));
        }
        for _ in 0..args.repeats {
            let n = null.run(&mut self.machine, args.runtime())?;
            let (o, tape) = self.recorded(&mut ours, args.runtime())?;
            let r = replay::replay(&mut self.bare, &tape, o.commands)?;
            ratios.push((n.ns + r.ns) / o.ns);
            [n.ns, r.ns, o.ns].into_iter().zip(&mut parts).for_each(|(ns, all)| all.push(ns));
        }
        let middle =
            |values: &Vec<f64>| crate::report::Spread::of(values.iter().copied()).map_or(0.0, |s| s.median);
        let [n, r, o] = parts.each_ref().map(middle);
        let text = format!("N {n:.0} ns, R {r:.0} ns, ours {o:.0} ns");
        let name = format!("{}, depth {}, in one process, of P", shape.name, shape.depth);
        Ok(Figure::new(name, "", &ratios, Budget::None, text))
    }

    /// Rounds of drive operations at depth 1.
    fn counts(&mut self) -> Result<Vec<Figure>> {
        let mut figures = Vec::new();
        for (shape, budget) in [(WRITE_4K, 1.01), (READ_4K, 1.0)] {
            let shape = Shape { depth: 1, ..shape };
            let mut load = Load::new(&self.machine, shape, self.plain, self.bytes)?;
            load.run_count(&mut self.machine, 1000)?;
            self.machine.settle()?;
            if !shape.write {
                // The checkpoint has replaced leaves; they come into memory with the first read each.
                load.run_count(&mut self.machine, 20_000)?;
            }
            let before = self.drives.lock().tally;
            let run = load.run_count(&mut self.machine, 4000)?;
            let after = self.drives.lock().tally;
            let (all, kind) = if shape.write {
                (after.writes - before.writes, "writes")
            } else {
                (after.reads - before.reads, "reads")
            };
            let each = all as f64 / run.commands as f64;
            let per_byte = (after.bytes_written - before.bytes_written) / run.commands;
            let text = if shape.write { format!("{per_byte} bytes each") } else { String::new() };
            let name = format!("drive {kind} per {}, depth 1", shape.name);
            figures.extend(Figure::new(name, "", &[each], Budget::AtMost(budget), text));
        }
        Ok(figures)
    }

    /// Runs two loads in turns for so long each: what a command of the first one takes, and how much more one of the second.
    /// The difference is that of neighbours, and of many of those the middle one.
    fn beside(&mut self, first: &mut Load, second: &mut Load, time: Duration) -> Result<(f64, f64)> {
        let (mut takes, mut more) = (Vec::new(), Vec::new());
        let turns = time.as_nanos().div_ceil(SLICE.as_nanos());
        for _ in 0..turns {
            let a = first.run(&mut self.machine, SLICE)?.ns;
            let b = second.run(&mut self.machine, SLICE)?.ns;
            takes.push(a);
            more.push(b - a);
        }
        Ok((middle(&takes), middle(&more)))
    }

    /// What compression adds to a write, over what the bare compressor takes.
    fn compression(&mut self, args: &StoreArgs) -> Result<Vec<Figure>> {
        let mut figures = Vec::new();
        let cases = [
            ("LZ4 on 2:1 data adds, of the compressor", Fill::Runs, 32, 1.15),
            ("LZ4 on 2:1 data adds at depth 1", Fill::Runs, 1, 3000.0),
            ("incompressible data pays, of the compressor", Fill::Noise, 32, 0.10),
        ];
        for (name, fill, depth, budget) in cases {
            let shape = Shape { fill, depth, ..WRITE_4K };
            let mut plain = Load::new(&self.machine, shape, self.plain, self.bytes)?;
            let mut packed = Load::new(&self.machine, shape, self.packed, self.bytes)?;
            let bare = kernels::compressor_ns(fill);
            let (mut values, mut parts) = (Vec::new(), [const { Vec::new() }; 2]);
            for round in 0..=args.repeats {
                let (a, more) = self.beside(&mut plain, &mut packed, args.runtime())?;
                if round > 0 {
                    values.push(if depth == 1 { more } else { more / bare });
                    [a, a + more].into_iter().zip(&mut parts).for_each(|(ns, all)| all.push(ns));
                }
            }
            let [a, b] = parts.each_ref().map(|values| middle(values));
            let text = format!("plain {a:.0} ns, compressed {b:.0} ns, compressor {bare:.0} ns");
            let unit = if depth == 1 { "ns" } else { "" };
            figures.extend(Figure::new(name, unit, &values, Budget::AtMost(budget), text));
        }
        Ok(figures)
    }
}

/// How long a load runs before the one that it is compared with has its turn: short beside whatever makes the machine slower for a
/// while, so that both feel it.
const SLICE: Duration = Duration::from_millis(4);

fn middle(values: &[f64]) -> f64 {
    crate::report::Spread::of(values.iter().copied()).map_or(0.0, |s| s.median)
}

/// What parity adds to sequential writes, beyond writing more bytes: 4+1 columns against 4.
fn parity(args: &StoreArgs) -> Result<Option<Figure>> {
    let (mut plain, mut coded) = (Bench::start(5, 0, SMALL)?, Bench::start(6, 1, SMALL)?);
    let mut loads = Vec::new();
    for bench in [&plain, &coded] {
        loads.push(Load::new(&bench.machine, WRITE_128K, bench.plain, bench.bytes)?);
    }
    let (mut values, mut parts) = (Vec::new(), [const { Vec::new() }; 4]);
    for round in 0..=args.repeats {
        let (a, tape) = plain.recorded(&mut loads[0], args.runtime())?;
        let bare = replay::replay(&mut plain.bare, &tape, a.commands)?;
        let (b, tape) = coded.recorded(&mut loads[1], args.runtime())?;
        let more = replay::replay(&mut coded.bare, &tape, b.commands)?;
        if round > 0 {
            values.push((b.ns - (more.ns - bare.ns)) / a.ns);
            let all = [a.ns, bare.ns, b.ns, more.ns];
            all.into_iter().zip(&mut parts).for_each(|(ns, all)| all.push(ns));
        }
    }
    let [a, bare, b, more] = parts.each_ref().map(|values| middle(values));
    let text = format!("4+0 {a:.0} ns, its bytes {bare:.0} ns, 4+1 {b:.0} ns, its bytes {more:.0} ns");
    let name = "4+1 over 4+0, but for the bytes";
    Ok(Figure::new(name, "", &values, Budget::AtMost(1.10), text))
}
