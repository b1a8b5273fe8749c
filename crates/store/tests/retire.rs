//! Segments that cleaning has emptied go back by a record, also where cleaning itself gets no further.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::*;
use dolmen_sim::World;
use dolmen_store::*;
use dolmen_types::ShardId;

/// Blocks of one write; a segment has room for two, but not for their headers.
const BLOCKS: u64 = 7;

/// A line for each shard, and what was written to it, a write for each number.
struct Line {
    pg: u32,
    seq: u64,
    trimmed: u64,
}

impl Line {
    fn new(node: &mut Node, pg: u32) -> Line {
        node.commit(pg, 1, vec![create(u64::from(pg) + 1)]).unwrap();
        Line { pg, seq: 1, trimmed: 0 }
    }

    fn line(&self) -> u64 {
        u64::from(self.pg) + 1
    }

    fn write_until_free(&mut self, node: &mut Node, units: u32) {
        while node.owner.free_units() > units {
            self.seq += 1;
            let record = node.write(self.line(), self.seq * BLOCKS, &self.values(self.seq));
            node.commit(self.pg, self.seq, vec![record]).unwrap();
        }
    }

    fn values(&self, seq: u64) -> Vec<u64> {
        (0..BLOCKS).map(|i| seq * 100 + i).collect()
    }

    /// Fills some units; nothing of the oldest one is needed then, which only the changes since a checkpoint say.
    fn begin(&mut self, node: &mut Node, units: u32) {
        self.write_until_free(node, units);
        node.checkpoint();
        (0..100).for_each(|_| node.turn());
        self.seq += 1;
        self.trimmed = self.seq;
        node.commit(self.pg, self.seq, vec![unmap(self.line(), 2 * BLOCKS, BLOCKS)]).unwrap();
    }

    fn verify(&self, node: &mut Node) {
        for seq in (2..=self.seq).filter(|seq| *seq != self.trimmed) {
            let want = if seq == 2 && self.trimmed > 0 { vec![0; BLOCKS as usize] } else { self.values(seq) };
            assert_eq!(node.read(self.pg, self.line(), seq * BLOCKS, BLOCKS as usize).unwrap(), want);
        }
    }
}

/// The cleaner empties a segment of which nothing is needed any more, and then has something to move and no unit to move it to. The first
/// one's units go back at once: nobody waits for a checkpoint, nor for the moves.
#[test]
fn what_is_emptied_goes_back_while_moves_wait_for_units() {
    let world = World::new(1);
    let setup = Setup::tiny(40);
    let mut node = Node::open(&world, &setup).unwrap();
    let mut line = Line::new(&mut node, 0);
    line.begin(&mut node, 14);
    node.no_units = vec![Purpose::Clean];
    let checkpoints = node.stores[0].checkpoints();
    // Cleaning begins.
    line.write_until_free(&mut node, 6);
    let held = node.space().held_bytes;
    node.turns_for(100);
    assert_eq!(node.space().held_bytes, held - u64::from(setup.unit_bytes), "{:?}", node.space());
    assert_eq!(node.space().cleaned_bytes, 0, "moves wait");
    assert_eq!(node.stores[0].checkpoints(), checkpoints);
    line.verify(&mut node);
    drop(node);
    world.crash();
    line.verify(&mut Node::open(&world, &setup).unwrap());
}

/// Where no stream has room for the record either, a checkpoint comes for it. `pages` are the commits of a page that fill the hot stream up
/// to its end; `None` to find out how many those are.
fn emptied_without_room(pages: Option<u64>) -> u64 {
    let world = World::new(2);
    let setup = Setup { shards: 2, cores: 2, ..Setup::tiny(60) };
    let mut node = Node::open(&world, &setup).unwrap();
    let mut lines = [0, 1].map(|pg| Line::new(&mut node, pg));
    lines[0].begin(&mut node, 17);
    node.starved = Some(ShardId(0));
    for page in 0..pages.unwrap_or(100) {
        let ticket = node.append(0, 1000 + page, vec![unmap(1, 1_000_000, 1)]).unwrap();
        (0..100).for_each(|_| node.turn());
        if node.done.remove(&ticket).is_none() {
            return page;
        }
    }
    let checkpoints = node.stores[0].checkpoints();
    lines[1].write_until_free(&mut node, 12);
    node.turns_for(300);
    assert_eq!(node.stores[0].checkpoints(), checkpoints + 1);
    node.starved = None;
    lines.iter().for_each(|line| line.verify(&mut node));
    pages.unwrap_or_default()
}

#[test]
fn a_checkpoint_comes_for_what_is_emptied_and_finds_no_room_to_say_so() {
    let pages = emptied_without_room(None);
    assert!(pages > 0);
    emptied_without_room(Some(pages));
}

/// Spoils whatever leaves of a line's map are on the drive.
fn spoil_leaves(world: &World, setup: &Setup, line: u64) {
    let (image, mut page) = (world.image(NODE, path("d0")), vec![0; BLOCK]);
    for at in (4 << 20..setup.drives[0].1).step_by(BLOCK) {
        image.read(at, &mut page);
        if page.starts_with(b"dolmPAGE") && page[18] == 0 && page[40..48] == line.to_le_bytes() {
            world.spoil(NODE, path("d0"), at, BLOCK as u64);
        }
    }
}

fn write_some(node: &mut Node, seq: &mut u64, line: u64, lba: u64) {
    *seq += 1;
    let values: Vec<u64> = (0..BLOCKS).map(|i| line * 1000 + lba + i).collect();
    let record = node.write(line, lba, &values);
    node.commit(0, *seq, vec![record]).unwrap();
}

/// A checkpoint makes lost blocks of a leaf that can't be read, and goes on. By what memory says then nobody needs a segment that the leaf
/// named, and cleaning empties it. It must not go before the anchor: power fails, and the leaf is there again.
#[test]
fn what_a_checkpoint_gave_up_stays_until_its_anchor() {
    for ends in [false, true] {
        let world = World::new(3);
        let setup = Setup::tiny(40);
        let mut node = Node::open(&world, &setup).unwrap();
        node.commit(0, 1, vec![create(1), create(2), create(3)]).unwrap();
        let (mut seq, mut lba) = (1, 0);
        write_some(&mut node, &mut seq, 1, 0);
        write_some(&mut node, &mut seq, 2, 0);
        let mut fill = |node: &mut Node, seq: &mut u64, units: u32| {
            while node.owner.free_units() > units {
                write_some(node, seq, 3, lba);
                lba += BLOCKS;
            }
        };
        fill(&mut node, &mut seq, 14);
        seq += 1;
        node.commit(0, seq, vec![unmap(1, 2, BLOCKS - 2)]).unwrap();
        node.checkpoint();
        drop(node);
        world.crash();
        spoil_leaves(&world, &setup, 1);
        spoil_leaves(&world, &setup, 2);
        let mut node = Node::open(&world, &setup).unwrap();
        // The first line's leaf is given up; while the second one's is tried for three seconds, cleaning comes by.
        for line in [1, 2] {
            seq += 1;
            let record = node.write(line, BLOCKS - 1, &[line * 1000]);
            node.commit(0, seq, vec![record]).unwrap();
        }
        let checkpoints = node.stores[0].checkpoints();
        node.stores[0].checkpoint();
        while node.space().integrity_errors == 0 {
            node.turn();
        }
        node.turns_for(100);
        fill(&mut node, &mut seq, 6);
        node.turns_for(500);
        assert_eq!((node.space().integrity_errors, node.stores[0].checkpoints()), (1, checkpoints));
        if ends {
            while node.stores[0].checkpoints() == checkpoints {
                node.turn();
            }
            node.turns_for(500);
        }
        drop(node);
        world.crash();
        world.unspoil(NODE, path("d0"));
        let mut node = Node::open(&world, &setup).unwrap();
        let read = node.read(0, 1, 0, 2);
        match ends {
            true => assert!(read.is_err(), "{read:?}"),
            false => assert_eq!(read.unwrap(), [1000, 1001]),
        }
    }
}
