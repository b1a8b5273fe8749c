//! What the drives write for each byte that hosts write, of the real store over simulated drives, as long as it takes to settle.
//!
//! `cargo xtask amplification` runs the table at a pool of real proportions; the tests that always run do it at a small one.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::*;
use load::{Load, Pattern};

/// One row of the table.
#[derive(Clone, Copy, Debug)]
struct Row {
    pattern: Pattern,
    /// Live data, of what hosts may fill.
    percent: u64,
    /// The map is in memory; otherwise little of it.
    resident: bool,
    /// Drive bytes per host byte at most, in hundredths.
    budget: u64,
}

/// The pool.
#[derive(Clone, Copy, Debug)]
struct Size {
    units: u64,
    unit_bytes: u32,
    /// How often everything is written before it counts, and while it counts.
    warm: u64,
    counted: u64,
}

/// Drive bytes per host byte, and what goes with them.
#[derive(Clone, Copy, Debug)]
struct Figures {
    all: f64,
    cleaning: f64,
    map: f64,
    /// What hosts may not fill, of all units. Per cent.
    reserve: f64,
    /// Memory of the map. Bytes.
    memory: u64,
}

fn measure(size: Size, row: Row) -> Figures {
    let cache_bytes = if row.resident { 64 << 20 } else { 64 * 1024 };
    let mut load = Load::new(size.units, size.unit_bytes, row.percent, cache_bytes);
    let blocks = load.blocks;
    load.write(blocks, Pattern::Sequential);
    load.write(blocks * size.warm, row.pattern);
    let before = load.node.space();
    load.write(blocks * size.counted, row.pattern);
    let after = load.node.space();
    let hosts = after.host_written_bytes - before.host_written_bytes;
    assert_eq!(hosts / BLOCK as u64 / blocks, size.counted);
    let per_host_byte = |after: u64, before: u64| (after - before) as f64 / hosts as f64;
    let (reserve, raw) = load.node.owner.reserve_bytes();
    assert_eq!(raw, size.units * u64::from(size.unit_bytes));
    Figures {
        all: per_host_byte(after.drive_written_bytes, before.drive_written_bytes),
        cleaning: per_host_byte(after.cleaned_bytes, before.cleaned_bytes),
        map: per_host_byte(after.map_written_bytes, before.map_written_bytes),
        reserve: reserve as f64 * 100.0 / raw as f64,
        memory: after.map_memory_bytes,
    }
}

fn show(size: Size, row: Row, figures: &Figures) {
    let Size { units, unit_bytes, .. } = size;
    let pattern = match row.pattern {
        Pattern::Uniform => "4 KiB, uniform",
        Pattern::Skewed => "4 KiB, 90 % to a tenth",
        Pattern::Sequential => "128 KiB, in order",
    };
    let map = if row.resident { "in memory" } else { "paged" };
    println!("{pattern}, {} % full, map {map}, {units} units of {} KiB:", row.percent, unit_bytes / 1024);
    println!("    drive bytes per host byte {:.2}, at most {:.2}", figures.all, row.budget as f64 / 100.0);
    println!("    of that, cleaning         {:.2}", figures.cleaning);
    println!("    of that, the map          {:.2}", figures.map);
    println!("    reserve                   {:.2} %", figures.reserve);
    println!("    memory of the map         {:.1} MiB", figures.memory as f64 / 1048576.0);
}

fn keeps(size: Size, rows: &[Row]) {
    for &row in rows {
        let figures = measure(size, row);
        show(size, row, &figures);
        assert!(figures.all * 100.0 <= row.budget as f64, "{row:?}: {figures:?}");
        assert!(figures.reserve < 7.001, "{figures:?}");
    }
}

const fn row(pattern: Pattern, percent: u64, resident: bool, budget: u64) -> Row {
    Row { pattern, percent, resident, budget }
}

/// The table.
#[test]
#[ignore = "a minute of a release build: `cargo xtask amplification`"]
fn table() {
    let rows = [
        row(Pattern::Uniform, 75, true, 250),
        row(Pattern::Uniform, 75, false, 250),
        row(Pattern::Uniform, 80, true, 310),
        row(Pattern::Uniform, 80, false, 310),
        row(Pattern::Skewed, 80, true, 210),
        row(Pattern::Skewed, 80, false, 210),
        row(Pattern::Sequential, 80, true, 105),
    ];
    keeps(Size { units: 512, unit_bytes: 1 << 20, warm: 3, counted: 2 }, &rows);
}

/// The same at a size that takes no time; units so small that headers weigh more.
#[test]
fn a_small_pool_keeps_its_budgets() {
    let rows = [row(Pattern::Uniform, 75, true, 310), row(Pattern::Skewed, 80, true, 250)];
    keeps(Size { units: 512, unit_bytes: 256 * 1024, warm: 2, counted: 1 }, &rows);
}
