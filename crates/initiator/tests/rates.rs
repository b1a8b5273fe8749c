//! Loads with a rate in virtual time: what is said of a target that holds it, and of one that does not.
#![allow(clippy::unwrap_used)] // tests

mod common;
#[path = "common/multi.rs"]
mod multi;

use common::Behaviour;
use dolmen_initiator::{
    Namespace,
    load::{Load, LoadOptions, Mix},
};
use multi::Multi;

const PER_SECOND: u64 = 1000;
const DEPTH: usize = 4;

fn load(m: &Multi) -> Load {
    let namespace = Namespace {
        nsid: 1,
        block_bytes: 4096,
        blocks: 1024,
        uuid: None,
        nguid: [0; 16],
        deallocated_reads_zero: true,
    };
    let options = LoadOptions {
        depth: DEPTH,
        queues: 1,
        mix: Mix::READ,
        per_second: Some(PER_SECOND),
        ..LoadOptions::new(namespace)
    };
    Load::new(m.id, options).unwrap()
}

/// Drives a load for so long.
fn run(m: &mut Multi, load: &mut Load, ms: u64) {
    let until = m.io.now().plus_ms(ms);
    m.until("its time", |m| {
        std::mem::take(&mut m.completions).into_iter().for_each(|c| load.on_completion(c));
        load.step(&mut m.io, &mut m.initiator);
        m.io.now() >= until
    });
}

#[test]
fn what_fell_due_since_the_last_step_is_not_behind() {
    let mut m = Multi::new(1, vec![Behaviour::default()], |_| {});
    m.live();
    let mut load = load(&m);
    run(&mut m, &mut load, 1000);
    let told = load.behind();
    // As long as a poll may take.
    m.world.advance(20_000_000);
    m.turn();
    assert_eq!((told, load.behind()), (0, 0), "the rate is held");
    m.peer(0).behaviour.swallow = usize::MAX;
    run(&mut m, &mut load, 1000);
    let (behind, due) = (load.behind(), PER_SECOND);
    assert!((due - 50..due).contains(&behind), "{behind}");
    assert_eq!(load.under_way(), DEPTH);
}
