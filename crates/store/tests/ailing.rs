//! Drives that answer and read badly: they are emptied, and never put out for that, since they may be the only ones that give a block.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::*;
use dolmen_sim::World;
use dolmen_store::*;
use std::collections::BTreeMap;

const BLOCKS: u64 = 600;

fn setup(count: usize, shards: u16) -> Setup {
    Setup {
        drives: drives(count, 20),
        parity: 1,
        unit_bytes: 128 * 1024,
        shards,
        cores: usize::from(shards),
        ..Setup::tiny(0)
    }
}

/// A line in each shard, whose blocks lie on two drives each.
fn filled(world: &World, setup: &Setup) -> Node {
    let mut node = Node::open(world, setup).unwrap();
    for pg in 0..u32::from(setup.shards) {
        node.commit(pg, 1, vec![create(line(pg))]).unwrap();
        for lba in 0..BLOCKS {
            let record = node.write(line(pg), lba, &[value(pg, lba)]);
            node.commit(pg, lba + 2, vec![record]).unwrap();
        }
    }
    node.checkpoint();
    node
}

fn line(pg: u32) -> u64 {
    u64::from(pg) + 1
}

fn value(pg: u32, lba: u64) -> u64 {
    (u64::from(pg) + 1) * 100_000 + lba
}

/// On which drives, and where, each value lies.
fn places(world: &World, setup: &Setup) -> BTreeMap<u64, Vec<(&'static str, u64)>> {
    let (mut places, mut block) = (BTreeMap::<u64, Vec<_>>::new(), vec![0; BLOCK]);
    for &(drive, bytes) in &setup.drives {
        let image = world.image(NODE, path(drive));
        for at in (4 << 20..bytes).step_by(BLOCK) {
            image.read(at, &mut block);
            let value = u64::from_le_bytes(block[..8].try_into().unwrap());
            let (shard, lba) = (value / 100_000, value % 100_000);
            if (1..=u64::from(setup.shards)).contains(&shard) && lba < BLOCKS {
                places.entry(value).or_default().push((drive, at));
            }
        }
    }
    places
}

fn verify(node: &mut Node, setup: &Setup) {
    for pg in 0..u32::from(setup.shards) {
        for lba in 0..BLOCKS {
            assert_eq!(node.read(pg, line(pg), lba, 1), Ok(vec![value(pg, lba)]), "shard {pg}, block {lba}");
        }
    }
}

/// Of what two drives have together some is rotten on the one, the rest on the other. What the first one lacks was found before, or nobody
/// knows of it; then the second one is found to read badly. Where there are two shards, each knows of one drive.
fn ailing(world: &World, setup: &Setup, found: bool) -> Node {
    let mut node = filled(world, setup);
    let mut rotten: [Vec<(u32, u64)>; 2] = Default::default();
    for (value, copies) in places(world, setup) {
        assert_eq!(copies.len(), 2, "{value}");
        let at = |drive| copies.iter().find(|c| c.0 == drive).map(|c| c.1);
        let first = if setup.shards > 1 { value >= 200_000 } else { value % 2 == 0 };
        let (drive, at) = match (at("d0"), at("d1")) {
            // Not so much that it reads badly as well.
            (Some(at), Some(_)) if first && rotten[0].len() < 60 => (0, at),
            (_, Some(at)) if !first => (1, at),
            _ => continue,
        };
        world.overwrite(NODE, path(["d0", "d1"][drive]), at + 100, b"rot");
        rotten[drive].push(((value / 100_000 - 1) as u32, value % 100_000));
    }
    assert!(rotten[0].len() > 30, "{rotten:?}");
    (0..node.stores.len()).for_each(|core| node.stores[core].set_reprotection(true, 0));
    for (pg, lba) in rotten.iter().skip(usize::from(!found)).flatten() {
        assert_eq!(node.read(*pg, line(*pg), *lba, 1), Ok(vec![value(*pg, *lba)]));
    }
    node
}

#[test]
fn a_drive_that_reads_badly_is_emptied_while_it_can_be_read() {
    for (count, shards) in [(3, 1), (4, 2)] {
        for found in [false, true] {
            let told = format!("{count} drives, {shards} shards, found {found}");
            let world = World::new(count as u64);
            let setup = setup(count, shards);
            let mut node = ailing(&world, &setup, found);
            (0..20).for_each(|_| node.turn());
            let drive = &node.owner.drives()[1];
            assert_eq!(drive.state, DriveState::Leaving, "{told}: {drive:?}");
            assert!(drive.ailment.as_ref().is_some_and(|why| why.contains("is being emptied")), "{drive:?}");
            assert_eq!(node.owner.deficit(), 0, "{told}");
            (0..node.stores.len()).for_each(|core| node.stores[core].set_reprotection(false, 0));
            let is_gone = |node: &mut Node| {
                node.turn();
                let state = node.owner.drives()[1].state;
                assert_ne!(state, DriveState::Out, "{told}");
                state == DriveState::Gone
            };
            assert!((0..50_000).any(|_| is_gone(&mut node)), "{told}: {:?}", node.owner.drives());
            world.remove_drive(NODE, path("d1"));
            node.until_protected();
            verify(&mut node, &setup);
        }
    }
}

/// A mirror of two can't be without one of them: both give what the other one lacks, until nothing is rotten any more.
#[test]
fn a_drive_that_reads_badly_stays_where_the_others_are_too_few() {
    for found in [false, true] {
        let world = World::new(7);
        let setup = setup(2, 1);
        let mut node = ailing(&world, &setup, found);
        (0..20).for_each(|_| node.turn());
        let drive = &node.owner.drives()[1];
        assert_eq!(drive.state, DriveState::In);
        assert!(drive.ailment.as_ref().is_some_and(|why| why.contains("stays")), "{drive:?}");
        node.stores[0].set_reprotection(false, 0);
        verify(&mut node, &setup);
        // What nobody reads is found, too.
        node.stores[0].set_scrub(ScrubPlan { round: 1, paused: false, bytes_per_s: 0 });
        while node.stores[0].scrub().unwrap().finished < 1 {
            node.turn();
        }
        node.until_protected();
        world.remove_drive(NODE, path("d0"));
        verify(&mut node, &setup);
    }
}
