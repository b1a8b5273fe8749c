//! The knobs of production: 1 MiB units, large commits, host commands of the largest size at depth.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::*;
use dolmen_sim::{DriveFaults, Rng, World};
use dolmen_store::*;
use dolmen_types::PgId;

#[test]
fn large_commands_at_depth() {
    let world = World::new(11);
    let unit = 1 << 20;
    let setup = Setup {
        drives: vec![("d0", (4 << 20) + 60 * unit), ("d1", (4 << 20) + 40 * unit)],
        unit_bytes: unit as u32,
        shards: 2,
        tuning: ShardTuning::default(),
        ..Setup::tiny(0)
    };
    let mut node = Node::open(&world, &setup).unwrap();
    let (mut rng, mut seq) = (Rng::new(3), [1; 2]);
    const BLOCKS: u64 = 4000;
    let mut model = vec![vec![0u64; BLOCKS as usize]; 2];
    for pg in 0..2 {
        node.commit(pg, 1, vec![create(u64::from(pg) + 1)]).unwrap();
    }
    for round in 0..40 {
        let mut tickets = Vec::new();
        for _ in 0..12 {
            let pg = rng.next_u64() % 2;
            let count = 1 + rng.next_u64() % 65;
            let first = rng.next_u64() % (BLOCKS - count);
            let s = &mut seq[pg as usize];
            *s += 1;
            let values: Vec<u64> = (0..count).map(|i| if i % 9 == 4 { 0 } else { *s * 1000 + i }).collect();
            model[pg as usize][first as usize..(first + count) as usize].copy_from_slice(&values);
            let record = node.write(pg + 1, first, &values);
            tickets.push(node.append(pg as u32, *s, vec![record]).unwrap());
        }
        for ticket in tickets {
            assert_eq!(node.wait(ticket).result, Ok(()));
        }
        if round % 15 == 7 {
            world.crash();
            drop(node);
            node = Node::open(&world, &setup).unwrap();
            assert_eq!(node.stores[0].marks(PgId(1)).highest_seq.0, seq[1]);
        }
        if round == 20 {
            node.checkpoint();
        }
    }
    for pg in 0..2u32 {
        for first in (0..BLOCKS).step_by(50) {
            let got = node.read(pg, u64::from(pg) + 1, first, 50).unwrap();
            assert_eq!(got, model[pg as usize][first as usize..first as usize + 50]);
        }
    }
    node.shutdown();
    let mut node = Node::open(&world, &setup).unwrap();
    assert_eq!(node.read(0, 1, 100, 20).unwrap(), model[0][100..120]);
}

#[test]
fn a_pool_full_of_queued_data_still_gets_written() {
    let world = World::new(12);
    let setup = Setup::tiny(200);
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    // Every buffer that there is goes into batches that wait.
    let (mut tickets, mut seq) = (Vec::new(), 1);
    while node.io.pool().available(BLOCK) > 0 && tickets.len() < 60 {
        let mut hoard = Vec::new();
        for i in 0..8 {
            if node.io.pool().available(BLOCK) > 0 {
                hoard.push(node.write(1, seq * 10 + i, &[seq * 100 + i + 1]));
            }
        }
        seq += 1;
        tickets.push(node.append(0, seq, hoard).unwrap());
    }
    assert_eq!(node.io.pool().available(BLOCK), 0, "{} batches", tickets.len());
    for ticket in tickets {
        assert_eq!(node.wait(ticket).result, Ok(()));
    }
}

/// Where commits lie, their numbers, and up to which all was durable when they were formed; by number.
fn commits(world: &World, size: u64) -> Vec<(u64, u64, u64)> {
    let (image, mut page) = (world.image(NODE, path("d0")), vec![0; BLOCK]);
    let mut found = Vec::new();
    for at in (4 << 20..size).step_by(BLOCK) {
        image.read(at, &mut page);
        let word = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap());
        if page.starts_with(b"dolmCOMT") {
            found.push((word(64), at, word(88)));
        }
    }
    found.sort_unstable();
    found
}

/// As many commits of the largest size as there may be are under way when one is acknowledged: the first one that knows of it lies that
/// far behind it.
#[test]
fn a_rotten_header_is_told_from_the_end_of_the_log_however_large_the_commits_are() {
    let (world, unit, tuning) = (World::new(13), 16u64 << 20, ShardTuning::default());
    let (size, depth) = ((4 << 20) + 24 * unit, tuning.commits_in_flight);
    let setup = Setup {
        drives: vec![("d0", size)],
        unit_bytes: unit as u32,
        tuning: tuning.clone(),
        ..Setup::tiny(0)
    };
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    world.set_faults(
        NODE,
        path("d0"),
        DriveFaults { latency_ns: (2_000_000, 2_000_000), ..DriveFaults::default() },
    );
    // One batch makes a commit that is as large as may be: what its header is counted as at most ends in the page that it does fill.
    let blocks = tuning.commit_bytes / BLOCK - 2;
    let value = vec![7; BLOCK + 8 - 104 - 24 - 2 * 32 - 8 * blocks - 24].into_boxed_slice();
    let mut waiting = std::collections::VecDeque::new();
    for seq in 2..26 {
        let values: Vec<u64> = (0..blocks as u64).map(|i| seq * 1000 + i).collect();
        let (first, second) = values.split_at(blocks / 2);
        let records = vec![
            node.write(1, seq * 200, first),
            node.write(1, seq * 200 + 100, second),
            Record::Put { key: key(1), value: value.clone() },
        ];
        waiting.push_back(node.append(0, seq, records).unwrap());
        if waiting.len() == depth + 3 {
            let ticket = waiting.pop_front().unwrap();
            assert_eq!(node.wait(ticket).result, Ok(()));
        }
    }
    waiting.into_iter().for_each(|ticket| assert_eq!(node.wait(ticket).result, Ok(())));
    drop(node);
    world.crash();
    let all = commits(&world, size);
    let far = |run: &&[(u64, u64, u64)]| {
        let (number, at, _) = run[0];
        let knows = |c: &(u64, u64, u64)| c.2 >= number;
        run[depth].1 == at + (depth * tuning.commit_bytes) as u64
            && knows(&run[depth])
            && !run[..depth].iter().any(knows)
    };
    let run = all.windows(depth + 1).find(far).expect("so many were under way at a time");
    world.overwrite(NODE, path("d0"), run[0].1 + 30, b"rot");
    match Node::open(&world, &setup) {
        Err(StoreError::Corrupt(why)) => assert!(why.contains("was acknowledged"), "{why}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("commit {} was acknowledged and is taken for the end of the log", run[0].0),
    }
}
