//! Whole nodes in a simulated world: the daemon's cores with everything on them, real hosts, power failures, kills,
//! networks that fail, slow drives, volumes that come and go. One thread, one seed, one history.
//!
//! What is judged: hosts see every block as their model allows it and never an error; a node that has nothing to do
//! sleeps; once the world is whole, everything ends in bounded time; the same seed gives the same history.
//!
//! `DOLMEN_SEEDS=n` runs so many seeds (from `DOLMEN_FIRST_SEED` on), `DOLMEN_SEED=n` only that one (`DOLMEN_LOUD=1`: and tells what happens).
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)] // a test

#[path = "sim_node/host.rs"]
mod host;
#[path = "sim_node/keys.rs"]
mod keys;
#[path = "sim_node/lost.rs"]
mod lost;
#[path = "sim_node/nbd.rs"]
mod nbd;
#[path = "sim_node/node.rs"]
mod node;
#[path = "sim_node/run.rs"]
mod run;
#[path = "sim_node/still.rs"]
mod still;
#[path = "sim_node/why.rs"]
mod why;

use std::panic::catch_unwind;

const SEEDS: u64 = 20;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn nodes_keep_what_they_acknowledged() {
    let seeds = match number("DOLMEN_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = number("DOLMEN_FIRST_SEED").unwrap_or(0);
            first..first + number("DOLMEN_SEEDS").unwrap_or(SEEDS)
        }
    };
    let mut failed = Vec::new();
    for seed in seeds {
        match catch_unwind(|| run::run(seed)) {
            Ok(report) => println!("seed {seed}: {report:?}"),
            Err(_) => {
                eprintln!(
                    "seed {seed} failed: DOLMEN_SEED={seed} cargo test -p dolmen --test sim_node nodes_keep"
                );
                failed.push(seed);
            }
        }
    }
    assert!(failed.is_empty(), "failed seeds: {failed:?}");
}

#[test]
fn a_seed_is_one_history() {
    assert_eq!(run::run(3), run::run(3));
}
