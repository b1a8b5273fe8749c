//! What the demo does with its volume: verified load over a kill, then measurements.

use super::child::Node;
use crate::interrupts;
use comfy_table::{Table, presets};
use dolmen_initiator::{
    Namespace,
    blocking::Session,
    load::{Load, LoadOptions, Mix, Pattern},
};
use dolmen_types::ByteSize;
use indicatif::{ProgressBar, ProgressStyle};
use std::{error::Error, time::Duration};

/// The part of the volume that is written and verified. Bytes.
const REGION: u64 = 256 << 20;
/// Random 4 KiB commands before the final reading of everything.
const COMMANDS: u64 = 120_000;
/// Reads, writes and trims.
const VERIFIED_MIX: Mix = Mix { reads: 30, zeroes: 2 };

fn load(namespace: &Namespace, size_bytes: usize, depth: usize) -> LoadOptions {
    LoadOptions { region_bytes: REGION, size_bytes, depth, mix: VERIFIED_MIX, ..LoadOptions::new(*namespace) }
}

/// Writes and reads stamped blocks at random, kills the node in the middle and starts it again while the load goes on,
/// and finally reads everything. Every block must be what was last acknowledged.
pub(super) fn verify_over_a_kill(
    session: &mut Session,
    namespace: &Namespace,
    node: &mut Node,
) -> Result<(), Box<dyn Error>> {
    let options = LoadOptions { verify: Some(1), ..load(namespace, 4096, 32) };
    let mut load = Load::new(session.subsystem(), options)?;
    let sweep = load.units();
    let bar = progress(COMMANDS + sweep);
    load.set_work(Pattern::Random, VERIFIED_MIX, COMMANDS);
    let mut killed = false;
    let mut failure: Option<Box<dyn Error>> = None;
    bar.set_message("writing and reading at random, every block stamped and checked");
    session.run(&mut load, |load, _| {
        let done = load.stats().reads + load.stats().changes;
        bar.set_position(done);
        if !killed && done > COMMANDS / 2 {
            killed = true;
            bar.println("  kill -9 of the node, with commands under way ...");
            let restarted = node.kill().and_then(|()| node.spawn());
            match restarted {
                Ok(()) => bar.println("  ... it serves again; the load goes on where it was"),
                Err(error) => failure = Some(error),
            }
        }
        failure.is_none() && !interrupts::seen()
    });
    if let Some(error) = failure {
        return Err(error);
    }
    if !interrupts::seen() {
        bar.set_message("reading everything");
        load.set_work(Pattern::Sequential, Mix::READ, sweep);
        session.run(&mut load, |load, _| {
            bar.set_position(load.stats().reads + load.stats().changes);
            !interrupts::seen()
        });
    }
    bar.finish_and_clear();
    let stats = load.stats();
    if let Some(violation) = &stats.first_violation {
        return Err(format!(
            "{} blocks are not what was acknowledged; the first: {violation}",
            stats.violations
        )
        .into());
    }
    if let Some(error) = &stats.first_error {
        return Err(format!("{} commands failed; the first: {error}", stats.errors).into());
    }
    say!(
        "Verified: {} writes and {} reads of 4 KiB across a kill -9, no error, every byte as acknowledged.",
        stats.changes,
        stats.reads
    );
    Ok(())
}

/// Measures a few usual workloads and prints a table.
pub(super) fn measure(
    session: &mut Session,
    namespace: &Namespace,
    each: Duration,
) -> Result<(), Box<dyn Error>> {
    let cases = [
        ("128K sequential write", 128 << 10, 8, Pattern::Sequential, Mix::WRITE),
        ("128K sequential read", 128 << 10, 8, Pattern::Sequential, Mix::READ),
        ("4K random write", 4096, 32, Pattern::Random, Mix::WRITE),
        ("4K random read", 4096, 32, Pattern::Random, Mix::READ),
        ("4K random read", 4096, 1, Pattern::Random, Mix::READ),
    ];
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY).set_header([
        "workload",
        "depth",
        "IOPS",
        "throughput",
        "p50",
        "p99",
    ]);
    let micros = |ns: u64| format!("{} us", ns / 1000);
    let bar = progress(cases.len() as u64);
    for (name, size, depth, pattern, mix) in cases {
        bar.set_message(format!("{name}, depth {depth}"));
        let options = LoadOptions { pattern, mix, ..load(namespace, size, depth) };
        let mut load = Load::new(session.subsystem(), options)?;
        let start = session.now();
        let each_ns = u64::try_from(each.as_nanos())?;
        session.run(&mut load, |_, now| now.since(start) < each_ns && !interrupts::seen());
        let seconds = session.now().since(start).max(1);
        let stats = load.stats();
        let per_second =
            |n: u64| u64::try_from(u128::from(n) * 1_000_000_000 / u128::from(seconds)).unwrap_or(0);
        let latency = if mix == Mix::READ { &stats.read_latency } else { &stats.change_latency };
        table.add_row([
            name.to_string(),
            depth.to_string(),
            per_second(stats.reads + stats.changes).to_string(),
            format!("{}/s", ByteSize(per_second(stats.bytes))),
            micros(latency.percentile(50_000)),
            micros(latency.percentile(99_000)),
        ]);
        bar.inc(1);
        if interrupts::seen() {
            break;
        }
    }
    bar.finish_and_clear();
    say!("\n{table}");
    say!(
        "Node and host share this machine's cores, and a file stands for the drive: a demonstration, not a benchmark."
    );
    Ok(())
}

fn progress(length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length);
    let style = ProgressStyle::with_template("{bar:40} {percent:>3} % {msg}");
    bar.with_style(style.expect("the template is well-formed"))
}
