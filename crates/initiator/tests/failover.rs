//! Verified load over two paths while controllers are cut off, dropped, slow, and carry out late what they were given:
//! every command ends well, once, and every block holds what it must.
#![allow(clippy::unwrap_used)] // tests

mod common;
#[path = "common/multi.rs"]
mod multi;

use common::{Behaviour, namespace};
use dolmen_initiator::{
    Fencing, Policy,
    load::{Load, LoadOptions, Mix, Pattern, Rng},
};
use dolmen_nvme::spec::AnaState;
use dolmen_types::Nanos;
use multi::Multi;

const KEEP_ALIVE_MS: u32 = 400;
const QUIESCE_MS: u16 = 300;
/// What a turn takes at least.
const TURN_NS: u64 = 500_000;

/// What happens to one controller.
#[derive(Clone, Copy)]
struct Trouble {
    /// Cut off until then.
    heal_at: Option<Nanos>,
    /// Carries out what it holds back then.
    carry_out_at: Option<Nanos>,
}

fn load(m: &Multi, seed: u64) -> Load {
    let options = LoadOptions {
        // Small, so that blocks are written again and again.
        region_bytes: 96 * 4096,
        depth: 8,
        queues: 2,
        mix: Mix { reads: 40, zeroes: 10 },
        verify: Some(0xd01),
        seed,
        ..LoadOptions::new(namespace())
    };
    Load::new(m.id, options).unwrap()
}

/// Something goes wrong with path `path`, or gets well again.
fn disturb(m: &mut Multi, path: usize, trouble: &mut Trouble, rng: &mut Rng) {
    let now = m.io.now();
    if trouble.heal_at.is_some_and(|at| at <= now) {
        trouble.heal_at = None;
        m.heal(path);
    }
    if trouble.carry_out_at.is_some_and(|at| at <= now) {
        trouble.carry_out_at = None;
        m.peer(path).behaviour.hold = false;
        m.peer(path).carry_out();
    }
    if trouble.heal_at.is_some() || trouble.carry_out_at.is_some() {
        return;
    }
    match rng.below(900) {
        0 | 1 => {
            // Slow, and then gone: it ends what it has in the time that it promised, seen from here.
            m.peer(path).behaviour.hold = true;
            let within = u64::from(2 * KEEP_ALIVE_MS) + u64::from(QUIESCE_MS);
            trouble.heal_at = Some(now.plus_ms(5 + rng.below(4000)));
            trouble.carry_out_at = Some(now.plus_ms(rng.below(within - 50)));
            if rng.below(3) > 0 {
                m.cut(path);
            }
        }
        2 => {
            let (io, peer) = &mut m.peers[path];
            peer.carry_out();
            peer.drop_all(io);
        }
        3 => m.peer(path).behaviour.swallow = 1,
        4 => {
            let states = [AnaState::Optimized, AnaState::NonOptimized, AnaState::Inaccessible];
            let state = states[usize::try_from(rng.below(3)).unwrap()];
            m.peer(path).set_ana(state);
        }
        _ => {}
    }
}

/// Drives a load until it is done; true when a block held what it can't.
fn run(fencing: Fencing, policy: Policy, seed: u64) -> bool {
    let behaviour = Behaviour {
        quiesce_ms: QUIESCE_MS,
        ana: Some(vec![(1, AnaState::Optimized)]),
        in_capsule_bytes: 4096 * (seed % 2) as u32,
        ..Behaviour::default()
    };
    let mut m = Multi::new(seed, vec![behaviour; 2], |o| {
        (o.fencing, o.policy) = (fencing, policy);
        (o.keep_alive_ms, o.io_timeout_ms, o.abort_timeout_ms) = (KEEP_ALIVE_MS, 600, 100);
        (o.connect_timeout_ms, o.reconnect_max_ms) = (300, 200);
    });
    m.until("live", |m| m.paths().iter().all(|p| p.live));
    let mut load = load(&m, seed);
    load.set_work(Pattern::Random, Mix { reads: 40, zeroes: 10 }, 3000);
    let mut rng = Rng::new(seed);
    let mut troubles = [Trouble { heal_at: None, carry_out_at: None }; 2];
    let mut sweeping = false;
    for turn in 0.. {
        assert!(turn < 3_000_000, "stuck: {:?} {:?}", m.initiator.state(m.id), m.notices.last());
        for completion in std::mem::take(&mut m.completions) {
            load.on_completion(completion);
        }
        if load.is_done() && sweeping {
            break;
        }
        if load.is_done() {
            // Whatever is still held back comes when it was to come; then everything is read.
            for (path, trouble) in troubles.iter_mut().enumerate() {
                if let Some(at) = trouble.carry_out_at.take() {
                    m.until("the last moment", |m| m.io.now() >= at);
                    m.peer(path).carry_out();
                }
            }
            (0..2).for_each(|path| {
                m.heal(path);
                m.peer(path).behaviour.hold = false;
                m.peer(path).behaviour.swallow = 0;
                m.peer(path).set_ana(AnaState::Optimized);
            });
            sweeping = true;
            let units = load.units();
            load.set_work(Pattern::Sequential, Mix::READ, units);
        }
        load.step(&mut m.io, &mut m.initiator);
        m.turn();
        // So that a load lasts for seconds, and late means during it.
        m.world.advance(TURN_NS);
        if !sweeping {
            (0..2).for_each(|path| disturb(&mut m, path, &mut troubles[path], &mut rng));
        }
    }
    let stats = load.stats();
    assert_eq!((stats.errors, stats.first_error), (0, None), "seed {seed}");
    let lost: u64 = m.paths().iter().map(|p| p.statistics.losses).sum();
    assert!(lost > 0 || fencing == Fencing::Off, "seed {seed}: nothing was lost, the test is too kind");
    if let Some(violation) = &stats.first_violation {
        assert!(fencing == Fencing::Off, "seed {seed}: {violation:?}");
        return true;
    }
    false
}

#[test]
fn a_verified_load_fails_over_without_a_failed_command_or_a_wrong_block() {
    for seed in 0..4 {
        let policy = [Policy::ActivePassive, Policy::RoundRobin, Policy::QueueDepth]
            [usize::try_from(seed % 3).unwrap()];
        assert!(!run(Fencing::Blocks, policy, seed));
    }
    assert!(!run(Fencing::Commands, Policy::RoundRobin, 100));
}

/// Without fences the same faults do harm: what is tested above is not for nothing.
#[test]
fn without_fences_the_same_faults_do_harm() {
    assert!((0..40).any(|seed| run(Fencing::Off, Policy::RoundRobin, seed)));
}
