//! Drives that come and go while the pool serves: what joins, what is refused, and what can't be taken away.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::*;
use dolmen_sim::{CrashLimits, DriveFaults, DriveSpec, Fault, World};
use dolmen_store::*;

/// The names of drives, as [`drives`] gives them.
const NAMES: [&str; 7] = ["d0", "d1", "d2", "d3", "d4", "d5", "d6"];

fn pool(count: usize, parity: u8) -> Setup {
    let mut setup = Setup { drives: drives(count, 8), parity, unit_bytes: 128 * 1024, ..Setup::tiny(0) };
    setup.tuning.commit_bytes = 120 * 1024;
    setup.shards = 2;
    setup.cores = 2;
    setup
}

/// Writes blocks of both shards over and over, and checks them.
struct Load {
    seq: u64,
    values: Vec<u64>,
}

impl Load {
    fn begin(node: &mut Node) -> Load {
        (0..2).for_each(|pg| node.commit(pg, 1, vec![create(1 + u64::from(pg))]).unwrap());
        Load { seq: 1, values: vec![0; 60] }
    }

    fn run(&mut self, node: &mut Node, rounds: u64) {
        for _ in 0..rounds {
            self.seq += 1;
            let at = self.seq * 7 % 50;
            for pg in 0..2u32 {
                let values: Vec<u64> = (0..8).map(|k| self.seq * 10 + k).collect();
                let record = node.write(1 + u64::from(pg), at, &values);
                node.commit(pg, self.seq, vec![record]).unwrap();
                self.values[at as usize..][..8].copy_from_slice(&values);
            }
        }
    }

    fn verify(&self, node: &mut Node) {
        for pg in 0..2u32 {
            for at in (0..60).step_by(20) {
                let got = node.read(pg, 1 + u64::from(pg), at as u64, 20).unwrap();
                assert_eq!(got, self.values[at..at + 20]);
            }
        }
    }
}

fn blank(world: &World, drive: &str) {
    world.add_drive(NODE, path(drive), DriveSpec::file(11 << 20));
}

#[test]
fn a_drive_joins_and_takes_its_share() {
    for (count, parity) in [(1, 0), (2, 1), (3, 1), (3, 2)] {
        let world = World::new(u64::from(parity) * 10 + count as u64);
        let mut node = Node::open(&world, &pool(count, parity)).unwrap();
        let mut load = Load::begin(&mut node);
        load.run(&mut node, 60);
        let before = node.owner.capacity_bytes();
        let name = ["d0", "d1", "d2", "d3"][count];
        blank(&world, name);
        node.add_drive(name).unwrap();
        assert!(node.owner.capacity_bytes() > before);
        let shown = node.owner.drives();
        assert_eq!((shown.len(), shown[count].state), (count + 1, DriveState::In));
        assert!(node.add_drive(name).is_err(), "it is in service");
        load.run(&mut node, 120);
        assert!(node.owner.drives()[count].held_units > 0);
        assert!(node.stores.iter().any(|s| s.live_by_drive().get(count).is_some_and(|&live| live > 0)));
        load.verify(&mut node);
        drop(node);
        world.crash();
        // It has to be named from now on.
        assert!(matches!(Node::open(&world, &pool(count, parity)), Err(StoreError::Refused(_))));
        let mut node = Node::open(&world, &pool(count + 1, parity)).unwrap();
        load.verify(&mut node);
        if parity > 0 {
            world.remove_drive(NODE, path(name));
            load.run(&mut node, 10);
            load.verify(&mut node);
        }
    }
}

/// What was out is stale, and joins as a new drive under the same name while the pool serves.
#[test]
fn a_drive_that_was_out_comes_back() {
    let world = World::new(1);
    let mut node = Node::open(&world, &pool(3, 1)).unwrap();
    let mut load = Load::begin(&mut node);
    load.run(&mut node, 60);
    world.remove_drive(NODE, path("d1"));
    load.run(&mut node, 20);
    assert_ne!(node.owner.drives()[1].state, DriveState::In);
    world.return_drive(NODE, path("d1"));
    node.add_drive("d1").unwrap();
    load.run(&mut node, 60);
    node.until_protected();
    assert_eq!(node.owner.drives().len(), 4);
    world.remove_drive(NODE, path("d0"));
    load.run(&mut node, 20);
    load.verify(&mut node);
    drop(node);
    world.crash();
    let mut node = Node::open(&world, &pool(3, 1)).unwrap();
    load.verify(&mut node);
}

#[test]
fn what_is_not_blank_is_refused_and_left_alone() {
    let world = World::new(2);
    drop(Node::open(&world, &Setup { drives: vec![("other", 11 << 20)], ..Setup::tiny(0) }).unwrap());
    let mut node = Node::open(&world, &pool(2, 1)).unwrap();
    let mut load = Load::begin(&mut node);
    blank(&world, "foreign");
    world.overwrite(NODE, path("foreign"), 0, b"XFSB");
    world.add_drive(NODE, path("small"), DriveSpec::file(1 << 20));
    for (drive, says) in
        [("other", "belongs to pool"), ("foreign", "XFS"), ("small", "least"), ("nowhere", "")]
    {
        let before = (drive != "nowhere").then(|| world.image(NODE, path(drive)));
        let why = node.add_drive(drive).unwrap_err();
        assert!(why.contains(says), "{drive}: {why}");
        if let Some(before) = before {
            assert!(world.image(NODE, path(drive)) == before, "{drive}: something was written");
        }
    }
    // One that fails while it joins changes nothing.
    blank(&world, "bad");
    world.fail_next(NODE, path("bad"), Fault::Write);
    assert!(node.add_drive("bad").is_err());
    blank(&world, "worse");
    world.fail_next(NODE, path("worse"), Fault::Flush);
    assert!(node.add_drive("worse").is_err());
    assert_eq!(node.owner.drives().len(), 2);
    load.run(&mut node, 20);
    load.verify(&mut node);
}

#[test]
fn what_the_pool_needs_is_not_taken_away() {
    let world = World::new(3);
    let mut node = Node::open(&world, &pool(2, 1)).unwrap();
    let mut load = Load::begin(&mut node);
    load.run(&mut node, 10);
    assert!(node.owner.remove_drive(0).unwrap_err().contains("one drive more"));
    blank(&world, "d2");
    node.add_drive("d2").unwrap();
    node.owner.remove_drive(0).unwrap();
    for _ in 0..100 {
        node.turn();
    }
    assert!(node.owner.keep_drive(0) || node.owner.drives()[0].state == DriveState::Gone);
    // By force only as long as the rest has everything.
    node.until_protected();
    let in_service = node.owner.drives().iter().position(|d| d.state == DriveState::In).unwrap() as u16;
    if node.owner.drives().iter().filter(|d| d.state == DriveState::In).count() == 3 {
        node.owner.force_out(in_service, "taken out by hand".into()).unwrap();
        assert!(node.owner.force_out(in_service + 1, "another".into()).is_err());
        while node.owner.drives()[usize::from(in_service)].state != DriveState::Gone {
            node.turn();
        }
        node.until_protected();
    }
    load.run(&mut node, 10);
    load.verify(&mut node);
}

/// A pool that is too full for fewer drives says so with figures.
#[test]
fn data_that_would_not_fit_keeps_a_drive() {
    let world = World::new(4);
    let mut setup = pool(3, 0);
    (setup.shards, setup.cores) = (1, 1);
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    let mut seq = 1;
    loop {
        seq += 1;
        let values: Vec<u64> = (0..20).map(|k| seq * 100 + k).collect();
        let record = node.write(1, seq * 20, &values);
        if node.commit(0, seq, vec![record]).is_err() {
            break;
        }
    }
    let why = node.owner.remove_drive(0).unwrap_err();
    assert!(why.contains("hold") && why.contains("add a drive"), "{why}");
    assert_eq!(node.owner.drives()[0].state, DriveState::In);
}

/// Turns until a drive stands so.
fn until(node: &mut Node, drive: usize, state: DriveState) {
    for _ in 0..20_000 {
        if node.owner.drives()[drive].state == state {
            return;
        }
        node.turn();
    }
    panic!("drive {drive} is not {state:?}: {:?}", node.owner.drives());
}

/// A drive that works is given up by hand, and another one fails before that is written down: the one that works stays.
#[test]
fn a_drive_given_up_by_hand_stays_when_another_one_fails() {
    for (turns, failing) in [(0, Fault::Write), (1, Fault::Write), (0, Fault::Flush), (1, Fault::Flush)] {
        let world = World::new(17);
        let mut node = Node::open(&world, &pool(4, 1)).unwrap();
        let mut load = Load::begin(&mut node);
        load.run(&mut node, 40);
        node.owner.force_out(0, "by hand".into()).unwrap();
        (0..turns).for_each(|_| node.turn());
        // Until it is out, it leaves: whoever has asked for that sees it come back.
        assert_eq!(node.owner.drives()[0].state, DriveState::Leaving);
        world.fail_next(NODE, path("d1"), failing);
        until(&mut node, 1, DriveState::Gone);
        let given_up = &node.owner.drives()[0];
        assert_eq!((given_up.state, &given_up.reason), (DriveState::In, &None), "{turns}, {failing:?}");
        node.until_protected();
        load.run(&mut node, 20);
        // Now it may be given up, or fail.
        node.owner.force_out(0, "by hand".into()).unwrap();
        until(&mut node, 0, DriveState::Gone);
        load.verify(&mut node);
        drop(node);
        world.crash();
        load.verify(&mut Node::open(&world, &pool(4, 1)).unwrap());
    }
}

/// A drive fails while another one is being emptied, or while that is still being written down: what the pool can't do without stays.
#[test]
fn a_drive_stays_when_another_one_fails() {
    for turns in [0, 1, 3, 10, 40] {
        let world = World::new(5);
        let mut node = Node::open(&world, &pool(3, 1)).unwrap();
        let mut load = Load::begin(&mut node);
        load.run(&mut node, 60);
        node.owner.remove_drive(0).unwrap();
        (0..turns).for_each(|_| node.turn());
        world.remove_drive(NODE, path("d1"));
        load.run(&mut node, 20);
        until(&mut node, 0, DriveState::In);
        node.until_protected();
        // With it a further one may go.
        world.remove_drive(NODE, path("d2"));
        load.run(&mut node, 10);
        load.verify(&mut node);
    }
    // Of four drives two are enough.
    let world = World::new(6);
    let mut node = Node::open(&world, &pool(4, 1)).unwrap();
    let mut load = Load::begin(&mut node);
    load.run(&mut node, 30);
    node.owner.remove_drive(0).unwrap();
    world.remove_drive(NODE, path("d1"));
    until(&mut node, 0, DriveState::Gone);
    node.until_protected();
    load.run(&mut node, 10);
    load.verify(&mut node);
}

/// Three drives, of which one is on its way out, and is written down so; nothing is moved yet.
fn leaving(world: &World) -> (Node, Load) {
    let mut node = Node::open(world, &pool(3, 1)).unwrap();
    let mut load = Load::begin(&mut node);
    load.run(&mut node, 60);
    node.stores.iter_mut().for_each(|s| s.set_reprotection(true, 0));
    let sequence = node.owner.sequence();
    node.owner.remove_drive(0).unwrap();
    while node.owner.sequence() == sequence {
        node.turn();
    }
    (node, load)
}

/// A drive that is leaving comes back, and with it a further one may go.
fn stays(mut node: Node, mut load: Load) {
    until(&mut node, 0, DriveState::In);
    node.until_protected();
    node.world.remove_drive(NODE, path("d2"));
    load.run(&mut node, 10);
    load.verify(&mut node);
}

/// A drive is dead at the start after another one was told to leave.
#[test]
fn a_drive_stays_when_another_one_is_dead_at_a_start() {
    let world = World::new(18);
    let (node, load) = leaving(&world);
    drop(node);
    world.crash();
    world.remove_drive(NODE, path("d1"));
    stays(Node::open(&world, &pool(3, 1)).unwrap(), load);
    // With all of them there it leaves as it was told.
    let world = World::new(19);
    let (node, mut load) = leaving(&world);
    drop(node);
    world.crash();
    let mut node = Node::open(&world, &pool(3, 1)).unwrap();
    until(&mut node, 0, DriveState::Gone);
    load.run(&mut node, 10);
    load.verify(&mut node);
}

/// It is written down that one drive is out, and the power is cut before it is that the other one stays.
#[test]
fn a_drive_stays_when_another_one_fails_and_the_power_is_cut() {
    let world = World::new(20);
    let (mut node, load) = leaving(&world);
    world.start_recording();
    world.remove_drive(NODE, path("d1"));
    node.stores.iter_mut().for_each(Store::checkpoint);
    until(&mut node, 0, DriveState::In);
    drop(node);
    let recording = world.stop_recording().unwrap();
    let mut between = 0;
    for state in recording.crash_states(CrashLimits { per_point: 12, total: 120, seed: 1 }) {
        let world = World::restore(21, &state);
        world.remove_drive(NODE, path("d1"));
        let node = Node::start(&world, &pool(3, 1)).unwrap_or_else(|why| panic!("{}: {why}", state.label));
        between += usize::from(node.plan.deficit > 0 && node.plan.drives[0].state == DriveState::Leaving);
        let load = Load { seq: load.seq, values: load.values.clone() };
        stays(node.until_ready().unwrap(), load);
    }
    assert!(between > 10, "{between}");
}

/// Units for wide segments come when no anchor can name them any more, and nothing else is on one of their drives. It is let go by a shard
/// that does nothing.
#[test]
fn a_lease_that_no_anchor_names_holds_no_drive() {
    for by_force in [false, true] {
        let world = World::new(22);
        let setup = |count| Setup { shards: 1, cores: 1, ..pool(count, 1) };
        let mut node = Node::open_without_units(&world, &setup(3), &[Purpose::Bulk]).unwrap();
        node.turns_for(1_000);
        blank(&world, "d3");
        node.add_drive("d3").unwrap();
        node.give_units();
        node.turns_for(1_000);
        assert_eq!(node.owner.drives()[3].held_units, 1);
        if by_force {
            node.owner.force_out(3, "by hand".into()).unwrap();
        } else {
            node.owner.remove_drive(3).unwrap();
        }
        until(&mut node, 3, DriveState::Gone);
        drop(node);
        world.crash();
        let mut node = Node::open(&world, &setup(3)).unwrap();
        let mut load = Load::begin(&mut node);
        load.run(&mut node, 20);
        load.verify(&mut node);
    }
}

/// A mirror that has room.
fn mirror(count: usize) -> Setup {
    mirror_of(2, count)
}

/// One with so many copies.
fn mirror_of(copies: usize, count: usize) -> Setup {
    Setup { drives: drives(count, 40), ..pool(count, copies as u8 - 1) }
}

/// One that has lost d1 for good and has everything on d0 alone; d2 has joined, and nothing is on it yet.
fn half_a_mirror(world: &World) -> (Node, Load) {
    last_of(2, world)
}

/// One of so many copies of which d0 alone is left; the next drive has joined, and nothing is on it yet.
fn last_of(copies: usize, world: &World) -> (Node, Load) {
    let mut node = Node::open(world, &mirror_of(copies, copies)).unwrap();
    let mut load = Load::begin(&mut node);
    load.run(&mut node, 60);
    for lost in &NAMES[1..copies] {
        world.remove_drive(NODE, path(lost));
        load.run(&mut node, 60);
    }
    load.seq += 1;
    for pg in 0..2u32 {
        let record = node.write(1 + u64::from(pg), 100, &[5; 8]);
        node.commit(pg, load.seq, vec![record]).unwrap();
    }
    (1..copies).for_each(|lost| until(&mut node, lost, DriveState::Gone));
    node.stores.iter_mut().for_each(|s| s.set_reprotection(true, 0));
    join(&mut node, NAMES[copies]);
    assert_eq!(usize::from(node.owner.deficit()), copies - 1);
    (node, load)
}

/// A new drive joins.
fn join(node: &mut Node, name: &str) {
    node.world.add_drive(NODE, path(name), DriveSpec::file(43 << 20));
    node.add_drive(name).unwrap();
}

/// Everything is there.
fn verify_all(node: &mut Node, load: &Load) {
    load.verify(node);
    for pg in 0..2u32 {
        assert_eq!(node.read(pg, 1 + u64::from(pg), 100, 8).unwrap(), [5; 8]);
    }
}

/// What was written while there were too few drives for its parity has one copy until re-protection is through: a start without that
/// is refused, and changes nothing.
#[test]
fn a_start_without_the_only_copy_is_refused() {
    let world = World::new(7);
    let (node, load) = half_a_mirror(&world);
    drop(node);
    world.crash();
    world.remove_drive(NODE, path("d0"));
    let Err(StoreError::Refused(text)) = Node::open(&world, &mirror(3)) else { panic!("it opened") };
    assert!(text.contains("d0"), "{text}");
    world.return_drive(NODE, path("d0"));
    verify_all(&mut Node::open(&world, &mirror(3)).unwrap(), &load);
}

/// A write that fails where the only copy is stops the pool; nobody is told that the drive is out.
#[test]
fn a_failed_write_beside_the_only_copy_stops_the_pool() {
    let world = World::new(8);
    let (mut node, load) = half_a_mirror(&world);
    world.fail_next(NODE, path("d0"), Fault::Write);
    let stopped = (1..20).any(|i| {
        let record = node.write(1, 300, &[5]);
        matches!(node.commit(0, load.seq + i, vec![record]), Err(StoreError::Stopped { .. }))
    });
    assert!(stopped);
    drop(node);
    world.crash();
    verify_all(&mut Node::open(&world, &mirror(3)).unwrap(), &load);
}

/// However slow the drive with the only copy is beside one that has come, it stays, and nobody takes it out by hand.
#[test]
fn the_only_copy_is_not_given_up_for_being_slow() {
    let world = World::new(9);
    let (mut node, mut load) = half_a_mirror(&world);
    load.run(&mut node, 40);
    let latency_ns = (60_000_000, 70_000_000);
    world.set_faults(NODE, path("d0"), DriveFaults { latency_ns, ..DriveFaults::default() });
    let began = world.now();
    while world.now().since(began) < 8_000_000_000 {
        load.run(&mut node, 1);
        assert_eq!((node.owner.drives()[0].state, node.owner.deficit()), (DriveState::In, 1));
    }
    assert!(node.owner.force_out(0, "by hand".into()).is_err());
    world.set_faults(NODE, path("d0"), DriveFaults::default());
    verify_all(&mut node, &load);
}

/// The drive that has come may fail while the first copies are made on it: the old one has everything. So may two, where there were three
/// copies.
#[test]
fn a_drive_that_has_just_joined_is_not_missed() {
    for (copies, come) in [(2, 1), (3, 1), (3, 2)] {
        for restart in [false, true] {
            let world = World::new(10);
            let (mut node, mut load) = last_of(copies, &world);
            (1..come).for_each(|i| join(&mut node, NAMES[copies + i]));
            load.run(&mut node, 10);
            let all = copies + come;
            NAMES[copies..all].iter().for_each(|name| world.remove_drive(NODE, path(name)));
            if restart {
                drop(node);
                world.crash();
                node = Node::open(&world, &mirror_of(copies, all)).unwrap();
            }
            load.run(&mut node, 10);
            verify_all(&mut node, &load);
            (copies..all).for_each(|i| assert_ne!(node.owner.drives()[i].state, DriveState::In));
            // Others take their places, and everything is as it was before all this.
            node.stores.iter_mut().for_each(|s| s.set_reprotection(false, 0));
            (1..copies).for_each(|i| join(&mut node, NAMES[all + i - 1]));
            node.until_protected();
            assert_eq!(node.owner.deficit(), 0);
            world.remove_drive(NODE, path("d0"));
            load.run(&mut node, 10);
            verify_all(&mut node, &load);
        }
    }
}

/// The same for two that were blank at one start.
#[test]
fn drives_that_joined_at_a_start_are_not_missed() {
    let world = World::new(13);
    let (node, load) = last_of(3, &world);
    drop(node);
    world.crash();
    world.remove_drive(NODE, path("d3"));
    ["d4", "d5"].iter().for_each(|d| world.add_drive(NODE, path(d), DriveSpec::file(43 << 20)));
    let mut node = Node::open(&world, &mirror_of(3, 6)).unwrap();
    verify_all(&mut node, &load);
    drop(node);
    world.crash();
    ["d4", "d5"].iter().for_each(|d| world.remove_drive(NODE, path(d)));
    verify_all(&mut Node::open(&world, &mirror_of(3, 6)).unwrap(), &load);
}

/// Once everything has a copy on the new drive either one may go, while the pool serves or at a start.
#[test]
fn a_mirror_is_whole_again() {
    for (lost, restart) in [("d0", false), ("d2", false), ("d0", true), ("d2", true)] {
        let world = World::new(11);
        let (mut node, mut load) = half_a_mirror(&world);
        node.stores.iter_mut().for_each(|s| s.set_reprotection(false, 0));
        node.until_protected();
        world.remove_drive(NODE, path(lost));
        if restart {
            drop(node);
            world.crash();
            node = Node::open(&world, &mirror(3)).unwrap();
        }
        load.run(&mut node, 10);
        verify_all(&mut node, &load);
    }
}

/// Of three drives that may lose two, two are lost for good, one after the other, and two others come.
#[test]
fn double_parity_is_counted_down_and_up() {
    let world = World::new(12);
    let mut node = Node::open(&world, &pool(3, 2)).unwrap();
    let mut load = Load::begin(&mut node);
    load.run(&mut node, 40);
    for (i, drive) in [(1, "d1"), (2, "d2")] {
        world.remove_drive(NODE, path(drive));
        load.run(&mut node, 40);
        until(&mut node, i, DriveState::Gone);
        assert_eq!(usize::from(node.owner.deficit()), i);
    }
    for (i, drive) in [(3, "d3"), (4, "d4")] {
        blank(&world, drive);
        node.add_drive(drive).unwrap();
        assert_eq!(node.owner.deficit(), 2, "{drive}");
        assert!(node.owner.force_out(0, "by hand".into()).is_err());
        if i == 3 {
            for _ in 0..2000 {
                node.turn();
            }
        }
    }
    node.until_protected();
    assert_eq!(node.owner.deficit(), 0);
    ["d0", "d3"].iter().for_each(|d| world.remove_drive(NODE, path(d)));
    load.run(&mut node, 10);
    load.verify(&mut node);
}
