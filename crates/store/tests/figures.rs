//! Checkpoints that come only so that figures of space are right: they are worth their bytes.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::*;
use dolmen_sim::World;
use dolmen_store::*;

/// Blocks that change at a time.
const BURST: u64 = 300;

/// For so many minutes that much is overwritten or unmapped, always the same blocks, every twelve seconds: time enough for hosts to rest in.
/// How many checkpoints came, of which each takes some MiB. None comes for changes of less than twice the bytes that the one before took, unless
/// ten minutes have gone by.
fn bursts(minutes: u64, change: impl Fn(&Node, u64) -> Record) -> u64 {
    let world = World::new(1);
    let mut setup = Setup::tiny(3000);
    (setup.tuning.delta_entries, setup.tuning.log_bytes) = (1 << 20, 1 << 30);
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    let put = |id: u8| Record::Put { key: key(id.into()), value: vec![id; 30 << 10].into() };
    (0..150).for_each(|id| node.commit(0, 2 + u64::from(id), vec![put(id)]).unwrap());
    let written = |node: &Node| node.space().map_written_bytes;
    let before = written(&node);
    node.checkpoint();
    let (mut took, mut written_then) = (written(&node) - before, written(&node));
    assert!(took > 4 << 20, "{took}");
    let (mut seq, mut changed, mut came) = (1000, 0, 0);
    let (mut checkpoints, mut last) = (node.stores[0].checkpoints(), world.now());
    while world.now().0 < minutes * 60_000_000_000 {
        for first in (0..BURST).step_by(10) {
            seq += 10;
            let record = change(&node, first);
            node.commit(0, seq, vec![record]).unwrap();
        }
        changed += BURST * BLOCK as u64;
        node.turns_for(12_000);
        let now = node.stores[0].checkpoints();
        if now > checkpoints {
            assert_eq!(now, checkpoints + 1);
            let since_s = world.now().since(last) / 1_000_000_000;
            // What is in the delta counts besides.
            let worth = changed + BURST * BLOCK as u64 >= 2 * took;
            assert!(
                worth || since_s >= 600,
                "{changed} bytes of changes, after {since_s} s and {took} bytes"
            );
            (took, written_then) = (written(&node) - written_then, written(&node));
            (checkpoints, last, changed, came) = (now, world.now(), 0, came + 1);
        }
    }
    came
}

#[test]
fn overwrites_of_the_same_blocks_make_a_checkpoint_in_ten_minutes() {
    let came = bursts(45, |node, first| node.write(1, first, &(first + 1..first + 11).collect::<Vec<_>>()));
    assert!((3..=4).contains(&came), "{came}");
}

#[test]
fn trims_make_a_checkpoint_for_twice_the_bytes_that_it_takes() {
    let came = bursts(45, |_, first| unmap(1, 5000 + first, 10));
    // A burst is 1.2 MiB, and they come to 8 in a minute and a half.
    assert!((20..=35).contains(&came), "{came}");
}
