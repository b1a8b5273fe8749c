//! Crash enumeration: short workloads, cut at every moment, with every mixture of unflushed writes kept, dropped and torn
//! (as far as the limits go); then a second cut right behind the recovery. What is found must be exactly the state after
//! some batch, and not before the last acknowledged one.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::*;
use dolmen_sim::{CrashLimits, DriveSpec, World};
use dolmen_store::DriveState;
use dolmen_types::PgId;

const BLOCKS: u64 = 64;

/// One step of a workload.
enum Step {
    /// Batches that are under way together; each writes the blocks named by (first, count), with values of its own.
    Write(Vec<Vec<(u64, u64)>>),
    Unmap(u64, u64),
    Checkpoint,
    /// A blank drive joins.
    Join(&'static str),
    /// A drive is to leave.
    Leave(u16),
    /// It has left.
    UntilGone(u16),
}

/// A workload over one line, and the line's contents after each batch.
struct Workload {
    setup: Setup,
    /// Run before recording, to fill segments.
    before: Vec<Step>,
    steps: Vec<Step>,
}

struct History {
    node: Node,
    seq: u64,
    states: Vec<Vec<u64>>,
    marking: bool,
}

impl History {
    fn run(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Write(batches) => {
                    let mut tickets = Vec::new();
                    for runs in batches {
                        self.seq += 1;
                        let mut state = self.states.last().unwrap().clone();
                        let mut records = Vec::new();
                        for &(first, count) in runs {
                            let values: Vec<u64> = (0..count).map(|i| self.seq * 100 + i).collect();
                            state[first as usize..(first + count) as usize].copy_from_slice(&values);
                            records.push(self.node.write(1, first, &values));
                        }
                        self.states.push(state);
                        tickets.push((self.seq, self.node.append(0, self.seq, records).unwrap()));
                    }
                    for (seq, ticket) in tickets {
                        assert_eq!(self.node.wait(ticket).result, Ok(()));
                        self.mark(seq);
                    }
                }
                Step::Unmap(first, count) => {
                    self.seq += 1;
                    let mut state = self.states.last().unwrap().clone();
                    state[*first as usize..(first + count) as usize].fill(0);
                    self.states.push(state);
                    self.node.commit(0, self.seq, vec![unmap(1, *first, *count)]).unwrap();
                    self.mark(self.seq);
                }
                Step::Checkpoint => self.node.checkpoint(),
                Step::Join(drive) => self.node.add_drive(drive).unwrap(),
                Step::Leave(drive) => self.node.owner.remove_drive(*drive).unwrap(),
                Step::UntilGone(drive) => {
                    let state = |node: &Node| node.owner.drives()[usize::from(*drive)].state;
                    for _ in 0..20_000 {
                        if state(&self.node) == DriveState::Gone {
                            break;
                        }
                        self.node.turn();
                    }
                    assert_eq!(state(&self.node), DriveState::Gone);
                }
            }
        }
    }

    fn mark(&self, seq: u64) {
        if self.marking {
            self.node.world.mark(seq);
        }
    }
}

fn check(world: &World, setup: &Setup, states: &[Vec<u64>], acknowledged: u64, label: &str) -> u64 {
    let node = Node::open(world, setup).unwrap_or_else(|e| panic!("{label}: {e}"));
    check_node(node, states, acknowledged, label)
}

fn check_node(mut node: Node, states: &[Vec<u64>], acknowledged: u64, label: &str) -> u64 {
    let highest = node.stores[0].marks(PgId(0)).highest_seq.0;
    assert!(highest >= acknowledged, "{label}: acknowledged {acknowledged}, found {highest}");
    let mut found = Vec::new();
    for first in (0..BLOCKS).step_by(16) {
        found.extend(node.read(0, 1, first, 16).unwrap_or_else(|e| panic!("{label}: {e}")));
    }
    assert_eq!(found, states[highest as usize], "{label}: the state after batch {highest}");
    highest
}

/// Runs a workload and checks every crash state; how many there were, and the bytes that cleaning moved.
fn enumerate(workload: &Workload, limits: CrashLimits) -> (usize, u64) {
    let world = World::new(77);
    let node = Node::open(&world, &workload.setup).unwrap();
    let mut history = History { node, seq: 1, states: vec![vec![0; BLOCKS as usize]; 2], marking: false };
    history.node.commit(0, 1, vec![create(1)]).unwrap();
    history.run(&workload.before);
    let durable = history.seq;
    history.marking = true;
    world.start_recording();
    history.run(&workload.steps);
    let recording = world.stop_recording().unwrap();
    let states = history.states.clone();
    let cleaned = history.node.space().cleaned_bytes;
    drop(history);
    let mut count = 0;
    for state in recording.crash_states(limits) {
        count += 1;
        let acknowledged = state.mark.unwrap_or(durable).max(durable);
        let world = World::restore(count, &state);
        let found = check(&world, &workload.setup, &states, acknowledged, &state.label);
        // The second cut: nothing that was served may go, nothing that was discarded may come back.
        world.crash();
        let again =
            check(&world, &workload.setup, &states, found, &format!("second cut after {}", state.label));
        assert_eq!(again, found, "{}", state.label);
    }
    (count as usize, cleaned)
}

fn limits(total: usize) -> CrashLimits {
    CrashLimits { per_point: 24, total, seed: 5 }
}

#[test]
fn commits_under_way_together() {
    let steps = vec![
        Step::Write(vec![vec![(0, 3)], vec![(2, 4)], vec![(10, 1), (0, 1)]]),
        Step::Unmap(1, 4),
        Step::Write(vec![vec![(3, 2)], vec![(40, 8)], vec![(44, 2)], vec![(0, 10)]]),
    ];
    let mut setup = Setup::tiny(32);
    // Small commits, so that several are under way.
    setup.tuning.commit_bytes = 48 * 1024;
    let (states, _) = enumerate(&Workload { setup, before: vec![], steps }, limits(500));
    assert!(states > 50, "{states} states only");
}

#[test]
fn over_a_segment_switch() {
    let steps = (0..8).map(|i| Step::Write(vec![vec![(i * 5, 5)], vec![(i * 5 + 2, 4)]])).collect();
    let (states, _) = enumerate(&Workload { setup: Setup::tiny(32), before: vec![], steps }, limits(500));
    assert!(states > 50, "{states} states only");
}

#[test]
fn over_checkpoints() {
    let steps = vec![
        Step::Write(vec![vec![(0, 10)], vec![(20, 10)]]),
        Step::Checkpoint,
        Step::Write(vec![vec![(5, 10)]]),
        Step::Unmap(22, 3),
        Step::Checkpoint,
        Step::Write(vec![vec![(0, 2)], vec![(60, 4)]]),
    ];
    let (states, _) = enumerate(&Workload { setup: Setup::tiny(32), before: vec![], steps }, limits(500));
    assert!(states > 100, "{states} states only");
}

#[test]
fn while_cleaning() {
    // Few units and many overwrites: cleaning and the checkpoints that free units run all the time.
    let before =
        (0..30).map(|i| Step::Write(vec![vec![((i * 7) % 52, 9)], vec![((i * 11) % 60, 3)]])).collect();
    let steps =
        (0..24).map(|i| Step::Write(vec![vec![((i * 13) % 52, 9)], vec![((i * 5) % 60, 3)]])).collect();
    let mut setup = Setup::tiny(20);
    setup.tuning.delta_entries = 64;
    let (states, cleaned) = enumerate(&Workload { setup, before, steps }, limits(400));
    assert!(states > 100, "{states} states only");
    assert!(cleaned > 0, "nothing was cleaned: the test misses its aim");
}

#[test]
fn over_two_drives() {
    let mut setup = Setup::tiny(16);
    setup.drives = vec![("d0", 6 << 20), ("d1", 7 << 20)];
    let mut steps: Vec<Step> =
        (0..10).map(|i| Step::Write(vec![vec![(i * 5, 5)], vec![(i * 3, 4)]])).collect();
    steps.insert(5, Step::Checkpoint);
    let (states, _) = enumerate(&Workload { setup, before: vec![], steps }, limits(300));
    assert!(states > 100, "{states} states only");
}

/// Like [`enumerate`], over pools that can lose a drive: every crash state with all drives there, and with each one of them absent
/// at the first start and back at the second.
fn enumerate_absent(workload: &Workload, limits: CrashLimits) -> usize {
    let world = World::new(78);
    let node = Node::open(&world, &workload.setup).unwrap();
    let mut history = History { node, seq: 1, states: vec![vec![0; BLOCKS as usize]; 2], marking: false };
    history.node.commit(0, 1, vec![create(1)]).unwrap();
    history.run(&workload.before);
    let durable = history.seq;
    history.marking = true;
    world.start_recording();
    history.run(&workload.steps);
    let recording = world.stop_recording().unwrap();
    let states = history.states.clone();
    drop(history);
    let names: Vec<&str> = workload.setup.drives.iter().map(|d| d.0).collect();
    // No drive, or as many as the pool can lose.
    let mut sets: Vec<Vec<&str>> = vec![vec![]];
    for (i, one) in names.iter().enumerate() {
        match workload.setup.parity {
            2 => sets.extend(names[i + 1..].iter().map(|other| vec![*one, *other])),
            _ => sets.push(vec![one]),
        }
    }
    let mut count = 0;
    for state in recording.crash_states(limits) {
        let acknowledged = state.mark.unwrap_or(durable).max(durable);
        for absent in &sets {
            count += 1;
            let world = World::restore(count, &state);
            let label = format!("{} without {absent:?}", state.label);
            absent.iter().for_each(|d| world.remove_drive(NODE, path(d)));
            let found = check(&world, &workload.setup, &states, acknowledged, &label);
            world.crash();
            absent.iter().for_each(|d| world.return_drive(NODE, path(d)));
            let again = check(&world, &workload.setup, &states, found, &format!("second cut after {label}"));
            assert_eq!(again, found, "{label}");
        }
    }
    count as usize
}

fn columns(drives: usize, mib: u64) -> Setup {
    Setup { drives: common::drives(drives, mib), parity: 1, ..Setup::tiny(0) }
}

#[test]
fn a_mirror_with_a_drive_absent() {
    let steps = vec![
        Step::Write(vec![vec![(0, 3)], vec![(2, 4)], vec![(10, 1), (0, 1)]]),
        Step::Checkpoint,
        Step::Write(vec![vec![(3, 2)], vec![(40, 8)], vec![(44, 2)], vec![(0, 10)]]),
        Step::Unmap(1, 4),
    ];
    let states = enumerate_absent(&Workload { setup: columns(2, 4), before: vec![], steps }, limits(120));
    assert!(states > 100, "{states} states only");
}

#[test]
fn wide_segments_with_a_drive_absent() {
    for (drives, parity) in [(3, 1), (5, 1), (3, 2), (5, 2)] {
        // Cleaning moves into wide segments, and the large batches go there at once.
        let before =
            (0..20).map(|i| Step::Write(vec![vec![((i * 7) % 52, 9)], vec![((i * 11) % 60, 3)]])).collect();
        let mut steps: Vec<Step> =
            (0..6).map(|i| Step::Write(vec![vec![((i * 13) % 52, 9)], vec![((i * 5) % 60, 3)]])).collect();
        steps.insert(3, Step::Checkpoint);
        let mut setup = columns(drives, if parity == 2 { 8 } else { 5 });
        setup.parity = parity;
        setup.unit_bytes = 128 * 1024;
        setup.tuning.commit_bytes = 120 * 1024;
        let few = CrashLimits { per_point: 8, total: 24, seed: 5 };
        let states = enumerate_absent(&Workload { setup, before, steps }, few);
        assert!(states > 60, "{states} states only");
    }
}

/// A drive joins a running pool and takes its share: every crash state, first with all drives named, with each one of the old ones
/// absent, and with the new one dead; then again with all of them.
#[test]
fn while_a_drive_joins() {
    for (count, parity) in [(1, 0), (2, 1), (3, 1)] {
        let names = common::drives(count + 1, 5);
        let mut old = Setup { drives: names[..count].to_vec(), parity, ..Setup::tiny(0) };
        old.unit_bytes = 128 * 1024;
        old.tuning.commit_bytes = 120 * 1024;
        let new = names[count].0;
        let all = Setup { drives: names.clone(), added: vec![new], ..old.clone() };
        let world = World::new(79);
        world.add_drive(NODE, path(new), DriveSpec::file(8 << 20));
        let node = Node::open(&world, &old).unwrap();
        let mut history = History { node, seq: 1, states: vec![vec![0; BLOCKS as usize]; 2], marking: false };
        history.node.commit(0, 1, vec![create(1)]).unwrap();
        history.run(&[Step::Write(vec![vec![(0, 9)], vec![(11, 3)]]), Step::Checkpoint]);
        let durable = history.seq;
        history.marking = true;
        world.start_recording();
        history.run(&[Step::Write(vec![vec![(1, 2)]]), Step::Join(new)]);
        history
            .run(&(0..4).map(|i| Step::Write(vec![vec![(i * 9, 9)], vec![(i * 5, 3)]])).collect::<Vec<_>>());
        history.run(&[Step::Checkpoint, Step::Write(vec![vec![(30, 9)]])]);
        let recording = world.stop_recording().unwrap();
        let states = history.states.clone();
        assert!(history.node.owner.drives()[count].held_units > 0, "the drive takes nothing");
        drop(history);
        let mut seen = 0;
        for state in recording.crash_states(CrashLimits { per_point: 8, total: 80, seed: 5 }) {
            let acknowledged = state.mark.unwrap_or(durable).max(durable);
            let absent = std::iter::once(None).chain(names.iter().filter(|_| parity > 0).map(|d| Some(d.0)));
            for absent in absent {
                seen += 1;
                let world = World::restore(seen, &state);
                let label = format!("{} without {absent:?}", state.label);
                if let Some(drive) = absent {
                    world.remove_drive(NODE, path(drive));
                }
                let node = Node::open(&world, &all).unwrap_or_else(|e| panic!("{label}: {e}"));
                let found = check_node(node, &states, acknowledged, &label);
                world.crash();
                if let Some(drive) = absent {
                    world.return_drive(NODE, path(drive));
                }
                let again = check(&world, &all, &states, found, &format!("second cut after {label}"));
                assert_eq!(again, found, "{label}");
            }
        }
        assert!(seen > 50, "{seen} states only");
    }
}

/// A drive is emptied and leaves while hosts write: every crash state, with all drives there, and with each one absent.
#[test]
fn while_a_drive_leaves() {
    for (count, parity) in [(2, 0), (3, 1), (4, 1)] {
        let mut setup = Setup { drives: common::drives(count, 6), parity, ..Setup::tiny(0) };
        (setup.unit_bytes, setup.tuning.commit_bytes) = (128 * 1024, 120 * 1024);
        let before = vec![Step::Write(vec![vec![(0, 9)], vec![(11, 3), (30, 20)]]), Step::Checkpoint];
        let steps = vec![
            Step::Write(vec![vec![(1, 2)]]),
            Step::Leave(0),
            Step::Write(vec![vec![(5, 9)], vec![(20, 3)]]),
            Step::UntilGone(0),
            Step::Write(vec![vec![(40, 9)], vec![(8, 3)]]),
        ];
        let limits = CrashLimits { per_point: 8, total: 60, seed: 5 };
        let workload = Workload { setup, before, steps };
        let states =
            if parity == 0 { enumerate(&workload, limits).0 } else { enumerate_absent(&workload, limits) };
        assert!(states > 40, "{states} states only");
    }
}
