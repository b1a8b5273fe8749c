//! Memory is a budget: a pool whose map is far larger than what is kept of it, and how long a start takes.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::*;
use dolmen_sim::{Rng, World};
use dolmen_store::*;

/// Reads, overwrites and cleaning with a cache for a fiftieth of the leaves.
#[test]
fn a_map_far_larger_than_its_memory() {
    let world = World::new(1);
    let mut setup = Setup::tiny(640);
    (setup.tuning.delta_entries, setup.tuning.cache_bytes) = (512, 16 * 1024);
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    // Far apart, so that there are many leaves for the data.
    let (runs, mut seq, mut rng) = (600u64, 1, Rng::new(4));
    let mut model = vec![0; runs as usize];
    for i in 0..3 * runs {
        let run = if i < runs { i } else { rng.next_u64() % runs };
        seq += 1;
        let record = node.write(1, run << 33, &[seq; 8]);
        node.commit(0, seq, vec![record]).unwrap();
        model[run as usize] = seq;
    }
    node.checkpoint();
    let leaves = node.space().map_bytes / BLOCK as u64;
    assert!(leaves >= 600, "{leaves} pages");
    for _ in 0..400 {
        let run = rng.next_u64() % runs;
        assert_eq!(node.read(0, 1, run << 33, 8).unwrap(), [model[run as usize]; 8]);
    }
    // References to all leaves, four cached ones, what a delta may have three times over.
    let most = leaves * 48 + 5 * BLOCK as u64 + 3 * 512 * 72 + 16 * 1024;
    let memory = node.space().map_memory_bytes;
    assert!(memory <= most, "{memory} bytes, at most {most}");
    assert!(memory * 10 < leaves * BLOCK as u64, "{memory} bytes of memory for {leaves} pages");
    drop(node);
    world.crash();
    let mut node = Node::open(&world, &setup).unwrap();
    assert_eq!(node.read(0, 1, 7 << 33, 8).unwrap(), [model[7]; 8]);
}

/// How long a start takes with many blocks mapped and snapshots, part of it in the log alone.
#[test]
#[ignore = "minutes, and 4 GiB of memory: `cargo xtask recovery`"]
fn recovery() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let blocks = number("DOLMEN_BLOCKS").unwrap_or(16 << 20);
    let world = World::new(2);
    let mut setup = Setup::tiny(0);
    (setup.unit_bytes, setup.drives) = (1 << 20, vec![("d0", 8 << 30)]);
    setup.tuning = ShardTuning { delta_entries: 256 * 1024, ..ShardTuning::default() };
    let mut node = Node::open(&world, &setup).unwrap();
    let attributes = LineAttributes { compress: true, encrypt: false };
    node.commit(0, 1, vec![Record::CreateLine { line: dolmen_types::LineId(1), attributes }]).unwrap();
    let (mut seq, mut waiting) = (1u64, Vec::new());
    // Blocks that compress to almost nothing, so that all of it fits in memory.
    let mut write = |node: &mut Node, lba: u64| {
        seq += 1;
        let mut buf = node.io.alloc(60 * BLOCK).unwrap();
        buf.fill(seq.to_le_bytes()[0] | 1);
        let record =
            Record::Write { line: dolmen_types::LineId(1), lba: dolmen_types::Lba(lba), data: buf.freeze() };
        waiting.push(node.append(0, seq, vec![record]).unwrap());
        if waiting.len() >= 8 {
            waiting.drain(..).for_each(|t| assert_eq!(node.wait(t).result, Ok(())));
        }
        if seq % (blocks / 60 / 16).max(1) == 0 {
            seq += 1;
            node.commit(0, seq, vec![snapshot(1)]).unwrap();
        }
    };
    (0..blocks / 60).for_each(|i| write(&mut node, i * 60));
    let mut rng = Rng::new(1);
    (0..blocks / 60 / 64).for_each(|_| write(&mut node, rng.next_u64() % (blocks - 60)));
    let (usage, memory) =
        (node.stores[0].usage(dolmen_types::PgId(0), dolmen_types::LineId(1)), node.space());
    drop(node);
    world.crash();
    let (began, then) = (std::time::Instant::now(), world.now());
    let node = Node::open(&world, &setup).unwrap();
    let virtual_ms = world.now().since(then) / 1_000_000;
    println!(
        "{} blocks mapped, {} MiB of map, {} MiB of memory for it: started in {:.2} s of processor, {virtual_ms} ms of drives",
        usage.mapped_blocks,
        memory.map_bytes >> 20,
        memory.map_memory_bytes >> 20,
        began.elapsed().as_secs_f64(),
    );
    drop(node);
}
