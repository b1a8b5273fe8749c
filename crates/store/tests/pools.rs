//! Which drives are taken, which are refused, and with what words.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::*;
use dolmen_io::exec::Exec;
use dolmen_io::{Io, OpenDrive, Owner};
use dolmen_sim::{CoreConfig, World};
use dolmen_store::*;

fn refusal(world: &World, setup: &Setup) -> String {
    match Node::open(world, setup) {
        Err(StoreError::Refused(text)) => text,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("the pool opened"),
    }
}

fn two_drives() -> Setup {
    Setup { drives: vec![("d0", 6 << 20), ("d1", 6 << 20)], ..Setup::tiny(0) }
}

/// A mirror can do without a drive, but not because somebody forgot to name it.
#[test]
fn a_drive_that_nobody_names_is_not_lost() {
    let world = World::new(3);
    let both = Setup { drives: drives(2, 6), parity: 1, ..Setup::tiny(0) };
    drop(Node::open(&world, &both).unwrap());
    let one = Setup { drives: both.drives[..1].to_vec(), ..both.clone() };
    let text = refusal(&world, &one);
    assert!(text.contains("missing") && text.contains(both.drives[1].0), "{text}");
    Node::open(&world, &both).unwrap();
}

#[test]
fn a_missing_drive_is_refused_by_name() {
    let world = World::new(1);
    drop(Node::open(&world, &two_drives()).unwrap());
    let alone = Setup { drives: vec![("d0", 6 << 20)], ..two_drives() };
    let text = refusal(&world, &alone);
    assert!(text.contains("d1") && text.contains("missing"), "{text}");
    // A blank one in its place does not help.
    let other = Setup { drives: vec![("d0", 6 << 20), ("d2", 6 << 20)], ..two_drives() };
    assert!(refusal(&world, &other).contains("d1"));
    // In another order they are the same pool.
    let turned = Setup { drives: vec![("d1", 6 << 20), ("d0", 6 << 20)], ..two_drives() };
    Node::open(&world, &turned).unwrap();
}

#[test]
fn a_blank_drive_joins_and_serves() {
    let world = World::new(2);
    let one = Setup { drives: vec![("d0", 6 << 20)], ..two_drives() };
    let mut node = Node::open(&world, &one).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    let record = node.write(1, 0, &[5]);
    node.commit(0, 2, vec![record]).unwrap();
    let before = node.owner.capacity_bytes();
    drop(node);
    let mut node = Node::open(&world, &two_drives()).unwrap();
    assert!(node.owner.capacity_bytes() > before);
    for i in 0..100 {
        let record = node.write(1, 1 + i, &[i]);
        node.commit(0, 3 + i, vec![record]).unwrap();
    }
    world.crash();
    drop(node);
    let mut node = Node::open(&world, &two_drives()).unwrap();
    assert_eq!(node.read(0, 1, 0, 1).unwrap(), [5]);
    assert_eq!(node.read(0, 1, 91, 10).unwrap(), (90..100).collect::<Vec<u64>>());
    drop(node);
    assert!(refusal(&world, &one).contains("d1"));
}

#[test]
fn a_drive_of_another_pool_is_refused() {
    let world = World::new(3);
    let a = Setup { drives: vec![("a", 6 << 20)], ..two_drives() };
    let b = Setup { drives: vec![("b", 6 << 20)], ..two_drives() };
    drop(Node::open(&world, &a).unwrap());
    drop(Node::open(&world, &b).unwrap());
    let c = Setup { drives: vec![("c", 6 << 20)], ..two_drives() };
    drop(Node::open(&world, &c).unwrap());
    let all = Setup { drives: vec![("a", 6 << 20), ("b", 6 << 20), ("c", 6 << 20)], ..two_drives() };
    let why = refusal(&world, &all);
    assert!(why.contains("different pools") && why.contains("Nothing was written"), "{why}");
    assert!(["a of ", "b of ", "c of "].iter().all(|which| why.contains(which)), "{why}");
    Node::open(&world, &a).unwrap();
    Node::open(&world, &b).unwrap();
}

#[test]
fn foreign_drives_and_those_of_other_versions_are_refused_until_wiped() {
    let world = World::new(4);
    let setup = Setup { drives: vec![("d0", 6 << 20)], ..two_drives() };
    drop(Node::open(&world, &setup).unwrap());
    let version = |slot: u64, version: u32| {
        world.overwrite(NODE, path("d0"), slot * 16384, b"dolmSUPR");
        world.overwrite(NODE, path("d0"), slot * 16384 + 16, &version.to_le_bytes());
    };
    // Of one slot alone it is rot: the other one says what the drive is. (The older one: no newer one was ever in force.)
    version(1, 9);
    drop(Node::open(&world, &setup));
    (0..2).for_each(|slot| version(slot, 9));
    let why = refusal(&world, &setup);
    assert!(why.contains("format version 9") && why.contains("a newer one"), "{why}");
    // What an older build has made, its check in place or not.
    (0..2).for_each(|slot| version(slot, 1));
    let why = refusal(&world, &setup);
    assert!(why.contains("format version 1") && why.contains("older build") && why.contains("wipe"), "{why}");
    // A file system over it.
    for at in (0..1 << 20).step_by(4096) {
        world.overwrite(NODE, path("d0"), at, &[0; 4096]);
    }
    world.overwrite(NODE, path("d0"), 0, b"XFSB");
    assert!(refusal(&world, &setup).contains("XFS"));
    // Only something at the very end.
    world.overwrite(NODE, path("d0"), 0, &[0; 4]);
    world.overwrite(NODE, path("d0"), (6 << 20) - 512, b"EFI PART");
    assert!(refusal(&world, &setup).contains("GPT"));
    let mut io = Io::new(Box::new(world.driver(CoreConfig::default())));
    let mut exec = Exec::new(Owner(3), 4, &io);
    let open = OpenDrive { path: "d0".into(), create_bytes: None, sparse: true, exclusive: true };
    let info = io.open_drive(&open).unwrap();
    let handle = exec.handle();
    assert_eq!(
        run(&mut io, &mut exec, identify_drive(handle.clone(), info.clone())).unwrap(),
        Identity::Foreign("a GPT partition table".into())
    );
    run(&mut io, &mut exec, wipe_drive(handle.clone(), info.clone())).unwrap();
    assert_eq!(run(&mut io, &mut exec, identify_drive(handle, info)).unwrap(), Identity::Blank);
    drop((io, exec));
    assert!(Node::open(&world, &setup).unwrap().plan.created);
}

#[test]
fn a_drive_that_is_too_small_is_refused() {
    let world = World::new(5);
    let setup = Setup { drives: vec![("d0", 1 << 20)], ..two_drives() };
    assert!(refusal(&world, &setup).contains("too little"));
}

/// A crash while the pool is made leaves drives that can be taken again, or the pool.
#[test]
fn a_crash_while_the_pool_is_made() {
    for cut in 0..60 {
        let world = World::new(cut);
        let setup = two_drives();
        Node::start_for(&world, &setup, cut * 2);
        world.crash();
        let mut node = Node::open(&world, &setup).unwrap_or_else(|e| panic!("cut {cut}: {e}"));
        node.commit(0, 1, vec![create(1)]).unwrap();
    }
}
