//! Stored forms from outside: what is on the drives of an encrypted line, keys that are missing, and the key table.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::*;
use dolmen_io::FileId;
use dolmen_io::exec::{Exec, Handle};
use dolmen_sim::{CrashLimits, Rng, World};
use dolmen_store::*;
use dolmen_types::{LineId, PgId};
use std::collections::BTreeSet;

const PLAIN: u64 = 4;
const ENCRYPTED: u64 = 2;
const BOTH: u64 = 3;

fn drives(count: usize) -> Setup {
    // So small that there is cleaning.
    let size = if count > 2 { 11 << 19 } else { 7 << 20 };
    let drives = ["d0", "d1", "d2", "d3"][..count].iter().map(|name| (*name, size)).collect();
    let parity = u8::from(count > 1);
    Setup { drives, parity, keyring: keyring(), ..Setup::tiny(0) }
}

/// A word from the middle of the block of a value: it is nowhere by chance.
fn needle(value: u64) -> u64 {
    let mut block = vec![0; BLOCK];
    fill(&mut block, value);
    u64::from_le_bytes(block[2048..2056].try_into().unwrap())
}

/// Which of the words are on some drive, at any offset.
fn on_drives(world: &World, setup: &Setup, words: &BTreeSet<u64>) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    for (name, size) in &setup.drives {
        let mut bytes = vec![0; *size as usize];
        world.image(NODE, path(name)).read(0, &mut bytes);
        let windows = bytes.windows(8).map(|w| u64::from_le_bytes(w.try_into().unwrap()));
        found.extend(windows.filter(|w| words.contains(w)));
    }
    found
}

#[test]
fn no_plaintext_of_an_encrypted_line_is_on_any_drive() {
    for count in [1, 2, 4] {
        let world = World::new(count as u64);
        let setup = drives(count);
        let mut node = Node::open(&world, &setup).unwrap();
        let (mut rng, mut words, mut control) = (Rng::new(7), BTreeSet::new(), BTreeSet::new());
        let mut seq = 1;
        node.commit(0, seq, [PLAIN, ENCRYPTED, BOTH].map(create_some_kind).into()).unwrap();
        let mut values = 1..;
        while seq < 3000 && (seq < 400 || node.space().cleaned_bytes == 0) {
            let line = [PLAIN, ENCRYPTED, BOTH][rng.next_u64() as usize % 3];
            let blocks: Vec<u64> = values.by_ref().take(1 + rng.next_u64() as usize % 5).collect();
            let words = if line == PLAIN { &mut control } else { &mut words };
            words.extend(blocks.iter().map(|v| needle(*v)));
            seq += 1;
            let record = node.write(line, rng.next_u64() % 60, &blocks);
            node.commit(0, seq, vec![record]).unwrap();
        }
        assert!(
            node.space().cleaned_bytes > 0,
            "{count} drives: nothing was cleaned, the test misses its aim"
        );
        node.checkpoint();
        assert!(!on_drives(&world, &setup, &control).is_empty(), "the search finds what is there");
        assert_eq!(on_drives(&world, &setup, &words), BTreeSet::new(), "{count} drives");
    }
}

#[test]
fn a_log_that_needs_a_missing_key_is_not_touched() {
    let world = World::new(5);
    let setup = drives(1);
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, vec![create_some_kind(ENCRYPTED)]).unwrap();
    let record = node.write(ENCRYPTED, 0, &[11, 12, 13]);
    node.commit(0, 2, vec![record]).unwrap();
    drop(node);
    world.crash();
    let locked = Setup { keyring: Keyring::default(), ..setup.clone() };
    for _ in 0..3 {
        let refused = Node::open(&world, &locked).err();
        assert_eq!(refused, Some(StoreError::NoKey(LineId(ENCRYPTED))));
    }
    let mut node = Node::open(&world, &setup).unwrap();
    assert_eq!(node.read(0, ENCRYPTED, 0, 3).unwrap(), [11, 12, 13]);
}

#[test]
fn a_missing_key_locks_its_line_alone() {
    let world = World::new(6);
    let setup = drives(2);
    let mut node = Node::open(&world, &setup).unwrap();
    node.commit(0, 1, [PLAIN, ENCRYPTED, BOTH].map(create_some_kind).into()).unwrap();
    for (seq, line) in [(2, PLAIN), (3, BOTH), (4, ENCRYPTED)] {
        let record = node.write(line, 0, &[11, 12, 13]);
        node.commit(0, seq, vec![record]).unwrap();
    }
    node.shutdown();
    let locked = Setup { keyring: Keyring::default(), ..setup.clone() };
    let mut node = Node::open(&world, &locked).unwrap();
    assert_eq!(node.read(0, BOTH, 0, 2), Err(StoreError::NoKey(LineId(BOTH))));
    assert_eq!(node.read(0, PLAIN, 0, 3).unwrap(), [11, 12, 13]);
    let record = node.write(BOTH, 0, &[14]);
    assert!(matches!(node.append(0, 5, vec![record]), Err(AppendError::Invalid(_))));
    let record = node.write(PLAIN, 0, &[14]);
    node.commit(0, 6, vec![record]).unwrap();
    // Another encrypted line goes without its key.
    node.commit(0, 7, vec![drop_line(ENCRYPTED)]).unwrap();
    node.checkpoint();
    assert!(node.stores[0].line(PgId(0), LineId(ENCRYPTED)).is_none());
    node.shutdown();
    let mut node = Node::open(&world, &setup).unwrap();
    assert_eq!(node.read(0, BOTH, 0, 3).unwrap(), [11, 12, 13]);
    assert_eq!(node.read(0, PLAIN, 0, 3).unwrap(), [14, 12, 13]);
}

fn options(setup: &Setup, absent: Vec<(String, String)>) -> PoolOptions {
    PoolOptions {
        shards: 1,
        parity: Some(setup.parity),
        unit_bytes: Some(setup.unit_bytes),
        seed: [7; 32],
        expect: None,
        at_least: Ok(0),
        absent,
        degraded: false,
        let_go: Vec::new(),
        added: Vec::new(),
    }
}

/// Opens the pool and its key table, and does something with it.
fn with_table<T: 'static, F: Future<Output = T>>(
    world: &World,
    setup: &Setup,
    work: impl FnOnce(KeyTable, Handle) -> F + 'static,
) -> T {
    let (mut io, mut exec, candidates): (_, Exec, _) = offline(world, setup);
    let handle = exec.handle();
    let there = |name: &str| candidates.iter().any(|c| c.path == name);
    let absent = setup.drives.iter().filter(|d| !there(d.0)).map(|d| (d.0.to_string(), "away".to_string()));
    let options = options(setup, absent.collect());
    run(&mut io, &mut exec, async move {
        let all: Vec<FileId> = candidates.iter().map(|c| c.info.file).collect();
        let plan = open_pool(handle.clone(), candidates, options).await.unwrap();
        let files: Vec<_> = plan.order.iter().map(|at| at.map(|i| all[i])).collect();
        let table = KeyTable::load(&handle, &plan, &files).await.unwrap();
        work(table, handle).await
    })
}

fn wrapped(line: u64, cluster_key: u8) -> WrappedKey {
    let mut wrapped = [cluster_key; 40];
    wrapped[..8].copy_from_slice(&needle(line).to_le_bytes());
    WrappedKey { line: LineId(line), pg: PgId(3), cluster_key: [cluster_key; 16], wrapped }
}

fn sorted(table: &KeyTable) -> Vec<WrappedKey> {
    let mut keys: Vec<_> = table.keys().collect();
    keys.sort_by_key(|k| k.line);
    keys
}

#[test]
fn keys_are_found_again_and_erased_everywhere() {
    let (world, setup) = (World::new(8), drives(2));
    with_table(&world, &setup, |mut table, exec| async move {
        assert_eq!(sorted(&table), []);
        for line in 1..100 {
            table.add(&exec, wrapped(line, 1)).await.unwrap();
        }
        assert!(table.add(&exec, wrapped(7, 1)).await.is_err(), "a line has one key");
    });
    let all: Vec<_> = (1..100).map(|line| wrapped(line, 1)).collect();
    // A crash tore the first copy on one drive, and the second copy on the other one rotted.
    world.overwrite(NODE, path("d0"), 544 * 1024 + 900, b"torn");
    world.overwrite(NODE, path("d1"), (544 + 1760) * 1024 + 900, b"torn");
    let found = with_table(&world, &setup, |table, _| async move { sorted(&table) });
    assert_eq!(found, all);
    let seven = BTreeSet::from([needle(7)]);
    assert_eq!(on_drives(&world, &setup, &seven), seven);
    with_table(&world, &setup, |mut table, exec| async move {
        let seven = BTreeSet::from([LineId(7)]);
        table.erase(&exec, &seven).await.unwrap();
        table.erase(&exec, &seven).await.unwrap();
    });
    assert_eq!(on_drives(&world, &setup, &seven), BTreeSet::new());
    let found = with_table(&world, &setup, |table, _| async move { sorted(&table) });
    assert_eq!(found, all.into_iter().filter(|k| k.line != LineId(7)).collect::<Vec<_>>());
}

/// True when a key's word is in the key table of a drive.
fn in_table(world: &World, name: &str, word: u64) -> bool {
    let mut bytes = vec![0; (4 << 20) - 544 * 1024];
    world.image(NODE, path(name)).read(544 * 1024, &mut bytes);
    // Keys lie at multiples of 8.
    bytes.chunks_exact(8).any(|w| w == word.to_le_bytes())
}

/// Every crash state of changes of every sort, with both drives there, and with each one absent at the first start.
#[test]
fn the_key_table_outlives_a_crash_at_any_moment() {
    let (world, setup) = (World::new(10), drives(2));
    let again = |key: &WrappedKey| Some(wrapped(key.line.0, 2).wrapped);
    // More than a page of keys.
    let old: Vec<u64> = (1..70).collect();
    let (mut model, keys) =
        (Vec::new(), |lines: &[u64], by: u8| lines.iter().map(|&line| wrapped(line, by)).collect::<Vec<_>>());
    model.push(keys(&old, 1));
    model.push(keys(&[&old[..], &[100]].concat(), 1));
    model.push(keys(&[&old[1..], &[100]].concat(), 1));
    model.push(keys(&[&old[1..], &[100]].concat(), 2));
    model.push(keys(&[&old[2..], &[100]].concat(), 2));
    let recorded = world.clone();
    with_table(&world, &setup, move |mut table, exec| async move {
        for line in 1..70 {
            table.add(&exec, wrapped(line, 1)).await.unwrap();
        }
        recorded.start_recording();
        recorded.mark(0);
        table.add(&exec, wrapped(100, 1)).await.unwrap();
        recorded.mark(1);
        table.erase(&exec, &BTreeSet::from([LineId(1)])).await.unwrap();
        recorded.mark(2);
        table.rotate(&exec, [2; 16], again).await.unwrap();
        recorded.mark(3);
        table.erase(&exec, &BTreeSet::from([LineId(2)])).await.unwrap();
        recorded.mark(4);
    });
    let recording = world.stop_recording().unwrap();
    let mut count = 0;
    for state in recording.crash_states(CrashLimits { per_point: 8, total: 120, seed: 3 }) {
        for absent in [None, Some("d0"), Some("d1")] {
            count += 1;
            let world = World::restore(count, &state);
            let mark = usize::try_from(state.mark.unwrap()).unwrap();
            absent.iter().for_each(|d| world.remove_drive(NODE, path(d)));
            let found = with_table(&world, &setup, |table, _| async move { sorted(&table) });
            let lines = |keys: &[WrappedKey]| keys.iter().map(|k| k.line).collect::<Vec<_>>();
            let next = &model[(mark + 1).min(4)];
            assert!(
                lines(&found) == lines(&model[mark]) || lines(&found) == lines(next),
                "{} without {absent:?}",
                state.label
            );
            for key in &found {
                let whole = model[mark].contains(key) || next.contains(key);
                assert!(whole, "{} without {absent:?}: {key:?}", state.label);
            }
            absent.iter().for_each(|d| world.return_drive(NODE, path(d)));
            // What was found stays, whoever comes back, and what is erased is on no drive.
            let after = with_table(&world, &setup, |table, _| async move { sorted(&table) });
            assert_eq!(after, found, "{} with {absent:?} back", state.label);
            let erased = [1, 2].into_iter().filter(|l| !found.iter().any(|k| k.line == LineId(*l)));
            for line in erased {
                let left = setup.drives.iter().any(|(name, _)| in_table(&world, name, needle(line)));
                assert!(!left, "{} without {absent:?}: the key of line {line} is still there", state.label);
            }
        }
    }
    assert!(count > 100, "{count} states only");
}

#[test]
fn a_drive_that_joins_gets_the_whole_table_and_every_change() {
    let (world, both) = (World::new(11), drives(2));
    let (mut io, mut exec, mut candidates) = offline(&world, &both);
    let new = candidates.pop().unwrap().info.file;
    let handle = exec.handle();
    run(&mut io, &mut exec, async move {
        let files = vec![Some(candidates[0].info.file)];
        let plan = open_pool(handle.clone(), candidates, options(&drives(1), vec![])).await.unwrap();
        let mut table = KeyTable::load(&handle, &plan, &files).await.unwrap();
        for line in 1..70 {
            table.add(&handle, wrapped(line, 1)).await.unwrap();
        }
        table.join(&handle, new).await.unwrap();
        table.add(&handle, wrapped(70, 1)).await.unwrap();
        table.erase(&handle, &BTreeSet::from([LineId(3)])).await.unwrap();
        table.leave(new);
        table.add(&handle, wrapped(71, 1)).await.unwrap();
    });
    let second = Setup { drives: both.drives[1..].to_vec(), ..both };
    let words: BTreeSet<u64> = (1..=71).map(needle).collect();
    let there: BTreeSet<u64> = (1..=70).filter(|l| *l != 3).map(needle).collect();
    assert_eq!(on_drives(&world, &second, &words), there);
}

#[test]
fn a_rotation_that_was_cut_short_goes_on() {
    let (world, setup) = (World::new(9), drives(1));
    let again = |key: &WrappedKey| Some(wrapped(key.line.0, 2).wrapped);
    with_table(&world, &setup, move |mut table, exec| async move {
        for line in 1..100 {
            table.add(&exec, wrapped(line, 1)).await.unwrap();
        }
        let short = |key: &WrappedKey| again(key).filter(|_| key.line.0 < 80);
        let cut = table.rotate(&exec, [2; 16], short).await;
        assert!(matches!(cut, Err(StoreError::NoKey(_))), "{cut:?}");
    });
    let found = with_table(&world, &setup, move |mut table, exec| async move {
        let old = table.keys().filter(|k| k.cluster_key == [1; 16]).count();
        assert!(old > 0 && old < 99, "{old} keys are left");
        table.add(&exec, wrapped(200, 2)).await.unwrap();
        let only_old = |key: &WrappedKey| again(key).filter(|_| key.cluster_key == [1; 16]);
        table.rotate(&exec, [2; 16], only_old).await.unwrap();
        sorted(&table)
    });
    let want: Vec<_> = (1..100).chain([200]).map(|line| wrapped(line, 2)).collect();
    assert_eq!(found, want);
    assert_eq!(with_table(&world, &setup, |table, _| async move { sorted(&table) }), want);
}
