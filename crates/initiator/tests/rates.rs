//! Loads in virtual time: what is said of a target that holds a rate, and of one that does not; and what is gone over once.
#![allow(clippy::unwrap_used)] // tests

mod common;
#[path = "common/multi.rs"]
mod multi;

use common::{Behaviour, namespace};
use dolmen_initiator::load::{Load, LoadOptions, Mix, Pattern, Start};
use multi::Multi;

const PER_SECOND: u64 = 1000;
const DEPTH: usize = 4;

fn load(m: &Multi) -> Load {
    let options = LoadOptions {
        depth: DEPTH,
        queues: 1,
        mix: Mix::READ,
        per_second: Some(PER_SECOND),
        ..LoadOptions::new(namespace())
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
    assert!((due - 50..due + 50).contains(&behind), "{behind}");
    assert_eq!(load.under_way(), DEPTH);
}

/// A stall until the end would leave no trace else: what fell into it never came to an end.
#[test]
fn what_is_open_at_the_end_has_taken_as_long_as_it_has_waited() {
    let mut m = Multi::new(2, vec![Behaviour::default()], |_| {});
    m.live();
    let mut load = load(&m);
    run(&mut m, &mut load, 1000);
    m.peer(0).behaviour.swallow = usize::MAX;
    run(&mut m, &mut load, 1000);
    let before = load.stats().clone();
    assert!(before.read_latency.percentile(99_000) < 100_000_000);
    load.count_open(m.io.now(), before.read_latency.percentile(50_000));
    let after = load.stats();
    assert_eq!((after.reads, after.bytes), (before.reads, before.bytes), "latencies alone");
    assert!(after.reads < 1100 && after.read_latency.count() > 1800, "{}", after.read_latency.count());
    let of = |per_100_000| after.read_latency.percentile(per_100_000) / 1_000_000;
    assert!((900..1000).contains(&of(99_000)) && (400..600).contains(&of(75_000)), "{}", of(75_000));
    assert_eq!(after.read_latency.min(), before.read_latency.min(), "what has only begun says nothing");
}

/// A command that is not taken, since there is no room, is none of those that were to be: its turn comes again.
#[test]
fn a_pass_over_the_range_leaves_nothing_out_where_commands_find_no_room() {
    for pattern in [Pattern::Sequential, Pattern::Shuffled] {
        let mut m = Multi::new(3, vec![Behaviour::default()], |o| (o.queue_depth, o.backlog) = (2, 1));
        m.live();
        let options = LoadOptions {
            depth: 16,
            queues: 1,
            verify: Some(7),
            start: Start::Anything,
            ..LoadOptions::new(namespace())
        };
        let mut load = Load::new(m.id, options).unwrap();
        let units = load.units();
        load.set_work(pattern, Mix::WRITE, units);
        m.until("the pass is over", |m| {
            std::mem::take(&mut m.completions).into_iter().for_each(|c| load.on_completion(c));
            load.step(&mut m.io, &mut m.initiator);
            load.is_done()
        });
        assert_eq!((load.stats().changes, load.stats().errors), (units, 0));
        assert_eq!(load.read_back(), units, "{pattern:?}");
    }
}
