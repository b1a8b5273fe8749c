//! Starts of a pool that can lose a drive: what is dead, wrecked or in the wrong place does not keep it from serving, and stays as
//! it is; what may only have been forgotten does.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::*;
use dolmen_sim::{DriveFaults, DriveSpec, Rng, World};
use dolmen_store::*;

const LABEL: usize = 4 << 20;

fn three() -> Setup {
    let mut setup = Setup { drives: drives(3, 8), parity: 1, unit_bytes: 128 * 1024, ..Setup::tiny(0) };
    setup.tuning.commit_bytes = 120 * 1024;
    setup
}

/// A pool with a few blocks, stopped.
fn filled(world: &World, setup: &Setup) {
    let mut node = Node::open(world, setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    for seq in 2..40 {
        let record = node.write(1, seq * 3, &[seq, seq + 1, seq + 2]);
        node.commit(0, seq, vec![record]).unwrap();
    }
    drop(node);
    world.crash();
}

fn verify(node: &mut Node) {
    for seq in 2..40 {
        assert_eq!(node.read(0, 1, seq * 3, 3).unwrap(), [seq, seq + 1, seq + 2]);
    }
}

fn label(world: &World, drive: &str) -> Vec<u8> {
    let mut bytes = vec![0; LABEL];
    world.image(NODE, path(drive)).read(0, &mut bytes);
    bytes
}

fn refusal(world: &World, setup: &Setup) -> String {
    match Node::open(world, setup) {
        Err(StoreError::Refused(text)) => text,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("the pool opened"),
    }
}

fn lost(node: &Node) -> Vec<(String, String)> {
    let lost = |f: &Finding| match f {
        Finding::Lost { path, reason, .. } => Some((path.clone(), reason.clone())),
        _ => None,
    };
    node.plan.findings.iter().filter_map(lost).collect()
}

/// Overwrites both superblocks, in each of the ways in which they go.
fn wreck(world: &World, drive: &str, way: u64) {
    match way {
        // Rot in both: ours, and neither checks.
        0 => (0..2).for_each(|slot| world.overwrite(NODE, path(drive), slot * 16384 + 300, b"rot")),
        // Something else was written over them.
        1 => (0..9).for_each(|page| world.overwrite(NODE, path(drive), page * 4096, &[0x5a; 4096])),
        // A file system was made on it.
        2 => {
            (0..9).for_each(|page| world.overwrite(NODE, path(drive), page * 4096, &[0; 4096]));
            world.overwrite(NODE, path(drive), 0, b"XFSB");
        }
        // The file was cut to nothing.
        3 => world.add_drive(NODE, path(drive), DriveSpec::file(0)),
        // The file was cut short.
        _ => {
            let head = label(world, drive);
            world.add_drive(NODE, path(drive), DriveSpec::file(5 << 20));
            (0..8).for_each(|page| {
                world.overwrite(NODE, path(drive), page as u64 * 4096, &head[page * 4096..][..4096]);
            });
        }
    }
}

#[test]
fn a_wrecked_drive_is_lost_and_left_alone() {
    for way in 0..5 {
        let world = World::new(way);
        let setup = three();
        filled(&world, &setup);
        wreck(&world, "d1", way);
        let before = label(&world, "d1");
        for start in 0..3 {
            let mut node = Node::open(&world, &setup).unwrap_or_else(|e| panic!("way {way}: {e}"));
            // While it is out, which does not take long.
            let shown = node.owner.drives();
            verify(&mut node);
            let untouched =
                |f: &Finding| matches!(f, Finding::Untouched { path, .. } if path.ends_with("d1"));
            assert!(node.plan.findings.iter().any(untouched), "{:?}", node.plan.findings);
            match start {
                0 => {
                    assert!(lost(&node)[0].0.ends_with("d1"), "way {way}: {:?}", node.plan.findings);
                    let reason = shown[1].reason.clone().unwrap();
                    assert!(reason.contains("what is there now"), "{reason}");
                }
                // It has left the table and may still be named.
                1 => node.until_protected(),
                _ => assert_eq!(node.owner.drives()[1].state, DriveState::Gone),
            }
            drop(node);
            world.crash();
        }
        assert_eq!(label(&world, "d1"), before, "way {way}: something was written");
        // Another one is more than the pool can lose only as long as the first one is missed.
        wreck(&world, "d2", 0);
        let mut node = Node::open(&world, &setup).unwrap();
        verify(&mut node);
    }
}

#[test]
fn a_drive_that_does_not_answer_or_takes_nothing_is_lost() {
    for way in 0..3 {
        let world = World::new(way);
        let setup = three();
        filled(&world, &setup);
        let faults = match way {
            0 => DriveFaults { read_ppm: 1_000_000, ..DriveFaults::default() },
            1 => DriveFaults { write_ppm: 1_000_000, ..DriveFaults::default() },
            _ => {
                let latency_ns = (60_000_000_000, 60_000_000_000);
                DriveFaults { latency_ns, ..DriveFaults::default() }
            }
        };
        world.set_faults(NODE, path("d0"), faults);
        let mut node = Node::open(&world, &setup).unwrap_or_else(|e| panic!("way {way}: {e}"));
        assert!(lost(&node)[0].0.ends_with("d0"), "way {way}: {:?}", node.plan.findings);
        verify(&mut node);
        drop(node);
        world.crash();
        // Mended, it is stale, and joins anew.
        world.set_faults(NODE, path("d0"), DriveFaults::default());
        let mut node = Node::open(&world, &setup).unwrap();
        assert!(node.plan.findings.iter().any(|f| matches!(f, Finding::Stale { .. })), "way {way}");
        node.until_protected();
        verify(&mut node);
    }
}

/// A drive that was out would join, and takes no write to its end: it is left alone.
#[test]
fn a_stale_drive_that_hangs_on_writes_holds_up_no_start() {
    let world = World::new(5);
    let setup = three();
    filled(&world, &setup);
    world.remove_drive(NODE, path("d1"));
    drop(Node::open(&world, &setup).unwrap());
    world.crash();
    world.return_drive(NODE, path("d1"));
    let write_extra_ns = 3_600_000_000_000;
    world.set_faults(NODE, path("d1"), DriveFaults { write_extra_ns, ..DriveFaults::default() });
    let before = world.now();
    let mut node = Node::open(&world, &setup).unwrap();
    assert!(world.now().since(before) < 60_000_000_000, "{:?}", world.now());
    let untouched = |f: &Finding| matches!(f, Finding::Untouched { path, .. } if path.ends_with("d1"));
    assert!(node.plan.findings.iter().any(untouched), "{:?}", node.plan.findings);
    assert!(!node.owner.drives().iter().skip(3).any(|d| d.state == DriveState::In));
    verify(&mut node);
}

/// Nor is a new pool waited for whose drive does that.
#[test]
fn a_pool_is_not_made_on_a_drive_that_hangs() {
    let world = World::new(6);
    let setup = three();
    world.add_drive(NODE, path("d1"), DriveSpec::file(11 << 20));
    let write_extra_ns = 3_600_000_000_000;
    world.set_faults(NODE, path("d1"), DriveFaults { write_extra_ns, ..DriveFaults::default() });
    let Err(StoreError::Drive(why)) = Node::open(&world, &setup) else { panic!("it opened") };
    assert!(why.contains("d1"), "{why}");
    assert!(world.now().0 < 60_000_000_000, "{:?}", world.now());
}

#[test]
fn more_than_parity_can_make_good_is_refused_and_named() {
    let world = World::new(1);
    let setup = three();
    filled(&world, &setup);
    wreck(&world, "d0", 0);
    world.remove_drive(NODE, path("d2"));
    let before = label(&world, "d1");
    let text = refusal(&world, &setup);
    assert!(text.contains("d0") && text.contains("d2") && text.contains("nothing was written"), "{text}");
    assert_eq!(label(&world, "d1"), before);
    // Without parity nothing can be lost.
    let world = World::new(2);
    let setup = Setup { parity: 0, ..three() };
    filled(&world, &setup);
    wreck(&world, "d0", 2);
    assert!(refusal(&world, &setup).contains("XFS"));
}

/// What is foreign is refused where the pool never had a drive, even when the pool misses one.
#[test]
fn a_foreign_drive_elsewhere_is_refused() {
    let world = World::new(1);
    let setup = three();
    filled(&world, &setup);
    let mut other = setup.clone();
    other.drives[2].0 = "d5";
    world.add_drive(NODE, path("d5"), DriveSpec::file(11 << 20));
    world.overwrite(NODE, path("d5"), 0, b"XFSB");
    let before = label(&world, "d5");
    assert!(refusal(&world, &other).contains("XFS"));
    assert!(refusal(&world, &Setup { degraded: true, ..other.clone() }).contains("XFS"));
    assert_eq!(label(&world, "d5"), before);
    Node::open(&world, &setup).unwrap();
}

#[test]
fn a_drive_that_nobody_names_is_lost_only_on_demand() {
    let world = World::new(3);
    let setup = three();
    filled(&world, &setup);
    let two = Setup { drives: setup.drives[..2].to_vec(), ..setup.clone() };
    let text = refusal(&world, &two);
    assert!(text.contains("d2") && text.contains("--degraded"), "{text}");
    let one = Setup { drives: setup.drives[..1].to_vec(), degraded: true, ..setup.clone() };
    assert!(refusal(&world, &one).contains("can do without 1"));
    let mut node = Node::open(&world, &Setup { degraded: true, ..two }).unwrap();
    verify(&mut node);
    assert_eq!(lost(&node).len(), 1);
}

/// Devices change their names when one is gone: the others are found under the names of their neighbours.
#[test]
fn names_may_shift() {
    let world = World::new(4);
    let setup = three();
    filled(&world, &setup);
    // d1 is dead; what was d2 is d1 now, and there is no d2.
    let image = world.image(NODE, path("d2"));
    let mut bytes = vec![0; 11 << 20];
    image.read(0, &mut bytes);
    world.add_drive(NODE, path("d1"), DriveSpec::file(11 << 20));
    for (page, bytes) in bytes.chunks_exact(4096).enumerate() {
        world.overwrite(NODE, path("d1"), page as u64 * 4096, bytes);
    }
    world.remove_drive(NODE, path("d2"));
    let mut node = Node::open(&world, &setup).unwrap();
    verify(&mut node);
    assert_eq!(lost(&node).len(), 1);
}

/// A drive's bytes become those of another one.
fn copy(world: &World, from: &str, to: &str) {
    let mut bytes = vec![0; 11 << 20];
    world.image(NODE, path(from)).read(0, &mut bytes);
    world.remove_drive(NODE, path(to));
    world.add_drive(NODE, path(to), DriveSpec::file(11 << 20));
    for (page, bytes) in bytes.chunks_exact(4096).enumerate() {
        world.overwrite(NODE, path(to), page as u64 * 4096, bytes);
    }
}

/// A name that was left over when devices were numbered anew is nobody's from the next start on, and is missed neither then.
#[test]
fn a_name_that_is_left_over_keeps_no_pool_from_starting() {
    let world = World::new(6);
    let setup = three();
    filled(&world, &setup);
    copy(&world, "d2", "d1");
    world.remove_drive(NODE, path("d2"));
    let mut node = Node::open(&world, &setup).unwrap();
    node.until_protected();
    drop(node);
    world.crash();
    for _ in 0..2 {
        let mut node = Node::open(&world, &setup).unwrap();
        verify(&mut node);
        assert!(lost(&node).is_empty());
        drop(node);
        world.crash();
    }
    // It excuses nobody: a drive that is not named is missed.
    let other = Setup { drives: vec![setup.drives[0], setup.drives[2]], ..setup };
    let text = refusal(&world, &other);
    assert!(text.contains("d1") && text.contains("d2"), "{text}");
}

/// A drive that was to leave is one of the pool's as long as that counts it; afterwards, and whatever it is then, it is left alone.
#[test]
fn a_drive_that_has_left_is_left_alone() {
    let world = World::new(31);
    let setup = Setup { drives: drives(3, 6), parity: 1, unit_bytes: 128 * 1024, ..Setup::tiny(0) };
    let mut node = Node::open(&world, &setup).unwrap();
    let leaves = Setup { let_go: vec![node.plan.drives[1].uuid], ..setup.clone() };
    node.commit(0, 1, vec![create(1)]).unwrap();
    let record = node.write(1, 0, &[1, 2, 3]);
    node.commit(0, 2, vec![record]).unwrap();
    node.checkpoint();
    drop(node);
    let mut node = Node::open(&world, &leaves).unwrap();
    assert_eq!(node.owner.drives()[1].state, DriveState::In);
    node.owner.remove_drive(1).unwrap();
    (0..50).for_each(|_| node.turn());
    drop(node);
    world.crash();
    let mut node = Node::open(&world, &leaves).unwrap();
    while node.owner.drives()[1].state != DriveState::Gone {
        node.turn();
    }
    let pool = node.plan.pool;
    drop(node);
    world.crash();
    let leaves = Setup { expect: Some(pool), ..leaves };
    let wrecks: [&[u8]; 4] = [b"", b"XFSB", b"", b""];
    for (i, wreck) in wrecks.into_iter().enumerate() {
        if i == 2 {
            // It was wiped.
            (0..4 << 20).step_by(4096).for_each(|at| world.overwrite(NODE, path("d1"), at, &[0; 4096]));
        }
        if i == 3 {
            // It serves another pool by now.
            let other = Setup { drives: vec![leaves.drives[1]], unit_bytes: 128 * 1024, ..Setup::tiny(0) };
            drop(Node::open(&world, &other).unwrap());
        }
        world.overwrite(NODE, path("d1"), 0, wreck);
        let before = world.image(NODE, path("d1"));
        let mut node = Node::open(&world, &leaves).unwrap();
        assert_eq!((node.plan.order[1], node.plan.findings.len()), (None, 0), "{:?}", node.plan.findings);
        let (place, was) = node.plan.let_go[0];
        assert_eq!(
            (place, was.is_some()),
            (1, i < 2),
            "the second superblock tells it after the first is gone"
        );
        assert_eq!(node.read(0, 1, 0, 3).unwrap(), [1, 2, 3]);
        assert!(world.image(NODE, path("d1")) == before, "something was written");
        drop(node);
        world.crash();
    }
    // As it was before anybody said that it was to leave: a drive like any other.
    world.remove_drive(NODE, path("d1"));
    Node::open(&world, &leaves).unwrap();
}

/// A start never waits for ever for units that nobody can free: it says what would help, and the pool is as it was.
#[test]
fn a_start_that_gets_no_unit_says_so() {
    let (world, setup) = (World::new(5), three());
    filled(&world, &setup);
    match Node::open_without_units(&world, &setup, &[Purpose::Control, Purpose::Clean]) {
        Err(StoreError::Drive(text)) => assert!(text.contains("one more drive"), "{text}"),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it serves without a unit for its log"),
    }
    world.crash();
    verify(&mut Node::open(&world, &setup).unwrap());
}

/// Nor does one that writes a checkpoint, since there were so many since the last one.
#[test]
fn a_start_that_gets_no_unit_for_a_checkpoint_says_so() {
    let (world, setup) = (World::new(5), three());
    filled(&world, &setup);
    let mut seq = 40;
    let refused =
        (0..40).find_map(|_| match Node::open_without_units(&world, &setup, &[Purpose::Metadata]) {
            Ok(mut node) => {
                seq += 1;
                let record = node.write(1, 1000, &[seq]);
                node.commit(0, seq, vec![record]).unwrap();
                drop(node);
                world.crash();
                None
            }
            Err(error) => Some(error),
        });
    match refused.expect("some start writes a checkpoint") {
        StoreError::Drive(text) => assert!(text.contains("one more drive"), "{text}"),
        other => panic!("{other:?}"),
    }
    world.crash();
    let mut node = Node::open(&world, &setup).unwrap();
    verify(&mut node);
    assert_eq!(node.read(0, 1, 1000, 1).unwrap(), [seq]);
}

/// Overwrites of a small pool that has to clean, with checkpoints in the midst, up to a power cut; true when nothing got stuck.
fn live_and_die(
    node: &mut Node,
    rng: &mut Rng,
    seq: &mut u64,
    (writes, blocks): (u64, u64),
    checkpoints: bool,
) -> bool {
    let mut under_way = 0;
    for _ in 0..writes {
        *seq += 1;
        let record = node.write(1, rng.next_u64() % blocks, &[*seq]);
        under_way += usize::from(node.append(0, *seq, vec![record]).is_ok());
        if checkpoints && rng.next_u64().is_multiple_of(20) {
            node.stores[0].checkpoint();
        }
        (0..rng.next_u64() % 12).for_each(|_| node.turn());
        for _ in 0..20_000 {
            under_way -= std::mem::take(&mut node.done).len();
            if under_way <= 8 {
                break;
            }
            node.turn();
        }
        if under_way > 8 {
            return false;
        }
    }
    true
}

/// A pool with keyed objects, whose lives end by power cuts; true when nothing got stuck.
fn lives(seed: u64, setup: &Setup, objects: usize) -> bool {
    let world = World::new(seed);
    let (mut rng, mut seq) = (Rng::new(seed), 1);
    let mut node = Node::open(&world, setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    for i in 0..objects as u128 / (30 << 10) {
        seq += 1;
        node.commit(0, seq, vec![Record::Put { key: key(i), value: vec![1; 30 << 10].into() }]).unwrap();
    }
    let blocks = 20 + rng.next_u64() % 200;
    for life in 0..12 {
        // Every other one ends before a checkpoint.
        let (writes, checkpoints) =
            if life % 2 == 1 { (10 + rng.next_u64() % 40, false) } else { (50 + rng.next_u64() % 200, true) };
        if !live_and_die(&mut node, &mut rng, &mut seq, (writes, blocks), checkpoints) {
            return false;
        }
        world.crash();
        node = Node::open(&world, setup).unwrap_or_else(|e| panic!("seed {seed}, life {life}: {e}"));
    }
    true
}

/// A checkpoint takes units that cleaning gave back while it ran; its own table still has the segment that was there.
#[test]
fn a_checkpoint_where_cleaning_made_room_outlives_two_power_cuts() {
    for seed in 0..8 {
        lives(seed, &Setup::tiny(70 + seed % 30), 540 << 10);
    }
}

/// Checkpoints write all objects anew, beside those of before.
#[test]
fn objects_leave_checkpoints_their_room() {
    for seed in 0..8 {
        let mut setup = Setup::tiny(50 + seed);
        let plan = Node::open(&World::new(seed), &setup).unwrap().plan.clone();
        setup.tuning.objects_bytes = ShardTuning::for_pool(&plan).objects_bytes;
        assert!(lives(seed, &setup, setup.tuning.objects_bytes), "seed {seed}");
        let mut node = Node::open(&World::new(seed), &setup).unwrap();
        for i in 0..setup.tuning.objects_bytes as u64 / (30 << 10) {
            let put = Record::Put { key: key(i.into()), value: vec![1; 30 << 10].into() };
            node.commit(0, 1 + i, vec![put]).unwrap();
        }
        let put = Record::Put { key: key(99), value: vec![1; 30 << 10].into() };
        assert_eq!(node.append(0, 99, vec![put]), Err(AppendError::ObjectsFull));
    }
}
