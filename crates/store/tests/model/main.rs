//! The store against the plainest model, with everything mixed: batches of writes, unmaps, objects, lines that come and
//! go, checkpoints, restarts, kills and power cuts with commits under way. After each recovery the state must be exactly
//! that of all batches up to some number, and that number must not lie below the last acknowledged one.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod checks;
#[path = "../common/mod.rs"]
mod common;
mod drives;
mod exchange;
mod hosts;
mod run;
mod state;

use common::*;
use dolmen_store::*;
use run::Run;

/// Seeds of one test; a soak sets `DOLMEN_SEEDS` to try many more.
fn seeds(first: u64, count: u64) -> std::ops::Range<u64> {
    let factor = std::env::var("DOLMEN_SEEDS").ok().and_then(|v| v.parse().ok()).unwrap_or(1);
    first * 1000..first * 1000 + count * factor
}

#[test]
fn one_shard_with_everything() {
    for seed in seeds(0, 12) {
        let mut run = Run::new(seed, Setup::tiny(48), 1, 110);
        run.run(700);
    }
}

#[test]
fn snapshots_clones_and_rollbacks() {
    for seed in seeds(4, 10) {
        let mut run = Run::new(seed, Setup::tiny(160), 1, 110);
        run.versions = true;
        run.run(900);
    }
}

#[test]
fn snapshots_in_a_pool_that_must_clean() {
    let mut cleaned = 0;
    for seed in seeds(5, 8) {
        let mut run = Run::new(seed, Setup::tiny(40), 1, 40);
        (run.crashes, run.versions, run.crowded) = (6, true, true);
        run.run(2000);
        cleaned += run.totals.1;
    }
    assert!(cleaned > 0, "nothing was cleaned: the test misses its aim");
}

#[test]
fn a_crowded_pool_that_must_clean() {
    let mut cleaned = 0;
    for seed in seeds(3, 6) {
        let mut run = Run::new(seed, Setup::tiny(40), 1, 120);
        (run.crashes, run.crowded) = (6, true);
        run.run(1500);
        cleaned += run.totals.1;
    }
    assert!(cleaned > 0, "nothing was cleaned: the test misses its aim");
}

#[test]
fn roomy_pool_with_long_logs() {
    for seed in seeds(1, 4) {
        let mut setup = Setup::tiny(200);
        setup.tuning.delta_entries = 2000;
        setup.tuning.log_bytes = 8 << 20;
        Run::new(seed, setup, 2, 600).run(700);
    }
}

#[test]
fn several_drives_shards_and_cores() {
    for seed in seeds(2, 6) {
        let mut setup = Setup::tiny(48);
        setup.drives = vec![("d0", 7 << 20), ("d1", 8 << 20), ("d2", 9 << 20)];
        setup.shards = 3;
        setup.cores = 2;
        let mut run = Run::new(seed, setup, 4, 50);
        run.versions = seed % 2 == 0;
        run.run(500);
    }
}

#[test]
fn drives_that_fail_vanish_hang_and_come_back() {
    let (mut losses, mut spoilt) = (0, 0);
    for (count, mib, parity) in [(2, 6, 1), (3, 6, 1), (4, 6, 1), (5, 6, 1), (4, 9, 2), (5, 9, 2)] {
        for seed in seeds(4 + 10 * u64::from(parity) + count as u64, 3) {
            let mut setup = Setup { drives: drives(count, mib), parity, ..Setup::tiny(0) };
            setup.tuning.stuck_write_ms = 200;
            // Large enough for wide segments now and then.
            setup.unit_bytes = 128 * 1024;
            setup.tuning.commit_bytes = 120 * 1024;
            // Half of them over two shards on two cores, which have to hear of it by message.
            let shards = 1 + (seed % 2) as u16;
            if shards == 2 {
                (setup.shards, setup.cores) = (2, 2);
                setup.drives.iter_mut().for_each(|d| d.1 *= 2);
            }
            let mut run = Run::new(seed, setup, u32::from(shards), 90);
            run.versions = seed % 3 == 0;
            run.run(500);
            (losses, spoilt) = (losses + run.losses, spoilt + run.spoilt);
        }
    }
    assert!(losses > 12 && spoilt > 12, "{losses} drives lost, {spoilt} sectors unreadable only");
}

#[test]
fn drives_are_added_and_removed() {
    let (mut added, mut removed) = (0, 0);
    for (count, mib, parity) in [(1, 6, 0), (2, 8, 1), (3, 8, 1), (4, 9, 2)] {
        for seed in seeds(50 + 10 * u64::from(parity) + count as u64, 1) {
            let mut setup = Setup { drives: drives(count, mib), parity, ..Setup::tiny(0) };
            setup.tuning.stuck_write_ms = 200;
            (setup.unit_bytes, setup.tuning.commit_bytes) = (128 * 1024, 120 * 1024);
            let mut run = Run::new(seed, setup, 1, 90);
            (run.versions, run.exchanges) = (seed % 2 == 0, true);
            run.run(600);
            (added, removed) = (added + run.exchanged.0, removed + run.exchanged.1);
        }
    }
    assert!(added > 4 && removed > 0, "{added} drives added, {removed} removed only");
}

/// While a checkpoint had merged a leaf and not ended yet, an old version that cleaning had moved showed through: the hole over it
/// had gone together with the version, and the delta still named the version.
#[test]
fn a_hole_goes_together_with_what_it_hid() {
    let mut setup = Setup { drives: drives(5, 9), parity: 2, ..Setup::tiny(0) };
    setup.tuning.stuck_write_ms = 200;
    (setup.unit_bytes, setup.tuning.commit_bytes) = (128 * 1024, 120 * 1024);
    let mut run = Run::new(29010, setup, 1, 90);
    run.versions = true;
    run.run(500);
}

/// A pool of the kind that a seed stands for, and a run over it.
fn of_seed(seed: u64) -> (&'static str, Run) {
    let tiny = |units| Setup {
        tuning: ShardTuning { full_wait_ms: 300, ..Setup::tiny(0).tuning },
        ..Setup::tiny(units)
    };
    let (kind, mut run) = match seed % 8 {
        0 => ("one shard", Run::new(seed, tiny(48), 1, 110)),
        1 => ("crowded", Run::new(seed, tiny(40), 1, 40)),
        2 => {
            let mut setup = tiny(200);
            (setup.tuning.delta_entries, setup.tuning.log_bytes) = (2000, 8 << 20);
            ("long logs", Run::new(seed, setup, 2, 600))
        }
        3 => {
            let drives = vec![("d0", 7 << 20), ("d1", 8 << 20), ("d2", 9 << 20)];
            ("several shards", Run::new(seed, Setup { drives, shards: 3, cores: 2, ..tiny(0) }, 4, 50))
        }
        4 => {
            let mut run = Run::new(seed, tiny(40), 1, 400);
            run.full = true;
            ("full", run)
        }
        _ => {
            let (count, mib, parity) =
                [(2, 8, 1), (3, 8, 1), (4, 8, 1), (5, 8, 1), (4, 12, 2), (5, 12, 2)][(seed / 8 % 6) as usize];
            let mut setup = Setup { drives: drives(count, mib), parity, unit_bytes: 128 * 1024, ..tiny(0) };
            (setup.tuning.stuck_write_ms, setup.tuning.commit_bytes) = (200, 120 * 1024);
            let shards = 1 + (seed / 48 % 2) as u16;
            if shards == 2 {
                (setup.shards, setup.cores) = (2, 2);
                setup.drives.iter_mut().for_each(|d| d.1 *= 2);
            }
            let mut run = Run::new(seed, setup, u32::from(shards), 90);
            run.rots = seed % 8 > 5;
            ("parity", run)
        }
    };
    // What is bought is added to a pool of parity or not; the smallest drive there is has room for what lies on the largest one.
    run.exchanges = seed % 8 != 4 && (seed / 16).is_multiple_of(2);
    run.versions = seed % 8 != 4 && (seed / 8).is_multiple_of(2);
    (run.crashes, run.crowded) = if matches!(seed % 8, 1 | 4) { (6, true) } else { (15, false) };
    (kind, run)
}

/// One run after the other, each from its seed, for as long as `DOLMEN_SOAK_SECONDS` says from seed `DOLMEN_SOAK_SEED` on.
#[test]
#[ignore = "as long as one likes: `cargo xtask soak`"]
fn soak() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let (first, seconds) =
        (number("DOLMEN_SOAK_SEED").unwrap_or(1), number("DOLMEN_SOAK_SECONDS").unwrap_or(0));
    let began = std::time::Instant::now();
    for seed in first.. {
        let run = std::panic::catch_unwind(|| {
            let (kind, mut run) = of_seed(seed);
            run.run(1200);
            (kind, run)
        });
        let Ok((kind, run)) = run else {
            panic!("seed {seed} failed; once more: cargo xtask soak --minutes 0 --seed {seed}");
        };
        let (elapsed, (checkpoints, cleaned)) = (began.elapsed().as_secs(), run.totals);
        println!(
            "{elapsed:>6} s  seed {seed} ({kind}): {checkpoints} checkpoints, {} KiB moved, {} drives lost, {} added, {} removed, {} sectors rotten, {} unreadable, {} batches refused",
            cleaned / 1024,
            run.losses,
            run.exchanged.0,
            run.exchanged.1,
            run.rotten,
            run.spoilt,
            run.refused
        );
        if elapsed >= seconds {
            println!("nothing found");
            return;
        }
    }
}
