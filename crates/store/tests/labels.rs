//! Labels that rot: superblocks, anchors and key pages are read by the scrubber and by the check, named, and written anew.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::*;
use dolmen_io::FileId;
use dolmen_io::exec::Handle;
use dolmen_sim::{CrashLimits, DriveFaults, DriveSpec, Fault, World};
use dolmen_store::*;
use dolmen_types::{LineId, PgId, Uuid};

/// Where things lie (`docs/format`).
const SUPERBLOCK: u64 = 16 << 10;
const ANCHORS: u64 = 32 << 10;
const KEYS: u64 = 544 << 10;
const KEY_COPY: u64 = 440 * 4096;

fn setup(count: usize, parity: u8) -> Setup {
    Setup { drives: drives(count, 8), parity, unit_bytes: 128 * 1024, ..Setup::tiny(0) }
}

/// A pool with some data and a checkpoint.
fn filled(world: &World, setup: &Setup) -> Node {
    let mut node = Node::open(world, setup).unwrap();
    node.commit(0, 1, vec![create(1)]).unwrap();
    let record = node.write(1, 0, &[11, 12, 13]);
    node.commit(0, 2, vec![record]).unwrap();
    node.checkpoint();
    node
}

fn check(world: &World, setup: &Setup) -> CheckReport {
    let (mut io, mut exec, drives) = offline(world, setup);
    let checking = check_pool(exec.handle(), drives, Keyring::default());
    run(&mut io, &mut exec, checking).unwrap()
}

/// Goes through a round, labels included; what was found wrong with superblocks and anchors.
fn scrub(node: &mut Node, round: u64) -> (u64, u64) {
    let before = node.stores[0].scrub().unwrap().mended;
    node.owner.scrub();
    node.stores[0].set_scrub(ScrubPlan { round, paused: false, bytes_per_s: 0 });
    let mut superblocks = None;
    for _ in 0..100_000 {
        superblocks = superblocks.or_else(|| node.owner.take_scrubbed());
        let report = node.stores[0].scrub().unwrap();
        if let Some(superblocks) = superblocks.filter(|_| report.finished == round) {
            // What follows from it is done.
            node.checkpoint();
            (0..200).for_each(|_| node.turn());
            assert_eq!(report.lost, 0);
            return (superblocks.mended, report.mended - before);
        }
        node.turn();
    }
    panic!("a round does not end");
}

/// The slot of each sort that counts, by a rot of all and what a check says of it, is found by trying both.
fn rot_slots(world: &World, drive: &str, at: u64, slot_bytes: u64, slots: u64) {
    for slot in 0..slots {
        world.overwrite(NODE, path(drive), at + slot * slot_bytes + 200, b"rot");
    }
}

#[test]
fn superblocks_and_anchors_are_mended_while_the_pool_serves() {
    for (count, parity) in [(1, 0), (2, 0), (3, 1), (4, 2)] {
        let world = World::new(count as u64);
        let setup = setup(count, parity);
        let mut node = filled(&world, &setup);
        assert_eq!(scrub(&mut node, 1), (0, 0));
        let last = setup.drives[count - 1].0;
        rot_slots(&world, last, 0, SUPERBLOCK, 2);
        // Of each of the two slots the first copy; one slot counts.
        world.overwrite(NODE, path(last), ANCHORS + 100, b"rot");
        world.overwrite(NODE, path(last), ANCHORS + (16 << 10) + 100, b"rot");
        let sequence = node.owner.sequence();
        assert_eq!(scrub(&mut node, 2), (1, 1), "{count} drives");
        assert_eq!(node.owner.sequence(), sequence + 1, "all have the next one");
        assert_eq!(scrub(&mut node, 3), (0, 0));
        assert_eq!(node.read(0, 1, 0, 3).unwrap(), [11, 12, 13]);
        drop(node);
        world.crash();
        let report = check(&world, &setup);
        assert_eq!((report.problems, report.mendable), (0, 0), "{report:?}");
        // Without the mending the pool would have lost the drive, or, of one drive, all.
        let mut node = Node::open(&world, &setup).unwrap();
        assert!(node.owner.drives().iter().all(|d| d.state == DriveState::In));
        assert_eq!(node.read(0, 1, 0, 3).unwrap(), [11, 12, 13]);
    }
}

/// The superblock in force rots on one drive; the next one, which takes the slot of the only one that it has left, is cut short there. Still
/// no other drive is lost than the one that failed.
#[test]
fn no_cut_leaves_a_drive_without_a_superblock() {
    let world = World::new(6);
    let setup = setup(6, 1);
    let mut node = filled(&world, &setup);
    let sequence = node.owner.sequence();
    world.overwrite(NODE, path("d5"), sequence % 2 * SUPERBLOCK + 200, b"rot");
    world.start_recording();
    world.remove_drive(NODE, path("d4"));
    let mut seqs = 3..5000;
    while node.owner.sequence() == sequence {
        let seq = seqs.next().expect("a write reaches the drive that is gone");
        let record = node.write(1, seq, &[15]);
        node.commit(0, seq, vec![record]).unwrap();
    }
    let recording = world.stop_recording().unwrap();
    drop(node);
    let mut torn = 0;
    for state in recording.crash_states(CrashLimits { per_point: 40, total: 2000, seed: 3 }) {
        torn += u64::from(state.label.ends_with('t'));
        let world = World::restore(torn, &state);
        world.remove_drive(NODE, path("d4"));
        let mut node = Node::open(&world, &setup).unwrap_or_else(|why| panic!("{}: {why}", state.label));
        let lost = node.owner.drives().iter().filter(|d| d.state != DriveState::In).count();
        assert_eq!(lost, 1, "{}", state.label);
        assert_eq!(node.read(0, 1, 0, 3).unwrap(), [11, 12, 13], "{}", state.label);
    }
    assert!(torn > 5, "{torn} torn writes only");
}

/// A pool of one drive is found by either slot, from its first moment on, by whoever remembers how far it had come.
#[test]
fn one_slot_of_the_only_drive_will_do() {
    for slot in [0, 1] {
        for starts in 0..3 {
            let world = World::new(slot);
            let setup = setup(1, 0);
            let mut node = filled(&world, &setup);
            for _ in 0..starts {
                drop(node);
                node = Node::open(&world, &setup).unwrap();
            }
            let sequence = node.owner.sequence();
            drop(node);
            world.overwrite(NODE, path("d0"), slot * SUPERBLOCK + 200, b"rot");
            let setup = Setup { at_least: sequence, ..setup };
            let mut node = Node::open(&world, &setup).unwrap();
            assert_eq!(node.read(0, 1, 0, 3).unwrap(), [11, 12, 13]);
            assert!(node.owner.sequence() >= sequence);
        }
    }
}

/// Nor is one superblock all that a drive has when it has just joined, while the pool served or at a start.
#[test]
fn one_slot_of_a_drive_that_has_just_joined_will_do() {
    for (count, parity) in [(1, 0), (2, 1)] {
        for (slot, at_start) in [(0, false), (1, false), (0, true), (1, true)] {
            let world = World::new(slot);
            let (setup, wider) = (setup(count, parity), setup(count + 1, parity));
            let name = wider.drives[count].0;
            let mut node = filled(&world, &setup);
            world.add_drive(NODE, path(name), DriveSpec::file(11 << 20));
            if at_start {
                drop(node);
                node = Node::open(&world, &wider).unwrap();
            } else {
                node.add_drive(name).unwrap();
            }
            node.turns_for(100);
            drop(node);
            world.crash();
            world.overwrite(NODE, path(name), slot * SUPERBLOCK + 200, b"rot");
            let mut node = Node::open(&world, &wider).unwrap_or_else(|why| panic!("slot {slot}: {why}"));
            let drives = node.owner.drives();
            let all_in = drives.len() == count + 1 && drives.iter().all(|d| d.state == DriveState::In);
            assert!(all_in, "slot {slot}, {drives:?}");
            assert_eq!(node.read(0, 1, 0, 3).unwrap(), [11, 12, 13]);
        }
    }
}

/// A drive that is lost while superblocks are looked at, and a drive that joins meanwhile, are no reason to write anything twice.
#[test]
fn a_look_and_a_change_at_once() {
    let world = World::new(7);
    let setup = setup(3, 1);
    let mut node = filled(&world, &setup);
    node.owner.scrub();
    node.turn();
    world.remove_drive(NODE, path("d1"));
    let record = node.write(1, 5, &[15]);
    node.commit(0, 3, vec![record]).unwrap();
    node.until_protected();
    let found = loop {
        if let Some(found) = node.owner.take_scrubbed() {
            break found;
        }
        node.turn();
    };
    assert_eq!(found.mended, 0);
    assert_eq!(scrub(&mut node, 1).0, 0);
}

/// The check names each rotten copy, and only what no drive gives any more is lost.
#[test]
fn the_check_names_rotten_labels() {
    let world = World::new(3);
    let setup = setup(3, 1);
    drop(filled(&world, &setup));
    world.crash();
    table(&world, &setup, |_| {});
    assert_eq!(check(&world, &setup).mendable, 0);
    rot_slots(&world, "d0", 0, SUPERBLOCK, 1);
    rot_slots(&world, "d1", SUPERBLOCK, SUPERBLOCK, 1);
    rot_slots(&world, "d1", ANCHORS, 8 << 10, 4);
    world.overwrite(NODE, path("d2"), KEYS + 100, b"rot");
    // Of a page that was never written.
    world.overwrite(NODE, path("d2"), KEYS + KEY_COPY + 7 * 4096, b"rot");
    let report = check(&world, &setup);
    let named: Vec<&str> = report.named.iter().map(|d| d.what.as_str()).collect();
    assert_eq!((report.problems, report.mendable), (0, 6), "{named:?}");
    assert_eq!(named.iter().filter(|what| what.contains("superblock slot")).count(), 1, "{named:?}");
    for (drive, what) in [("d1", "anchor"), ("d2", "copy 0 of page 0"), ("d2", "copy 1 of page 7")] {
        let found = report.named.iter().any(|d| d.place == drive && d.what.contains(what));
        assert!(found, "{drive}, {what}: {named:?}");
    }
    for drive in ["d0", "d1", "d2"] {
        world.overwrite(NODE, path(drive), KEYS + 100, b"rot");
        world.overwrite(NODE, path(drive), KEYS + KEY_COPY + 100, b"rot");
    }
    let report = check(&world, &setup);
    assert!(
        report.problems == 1 && report.named.iter().any(|d| d.lost && d.what.contains("page 0")),
        "{report:?}"
    );
}

fn options(setup: &Setup) -> PoolOptions {
    PoolOptions {
        shards: 1,
        parity: Some(setup.parity),
        unit_bytes: Some(setup.unit_bytes),
        seed: [7; 32],
        expect: None,
        at_least: Ok(0),
        absent: Vec::new(),
        degraded: false,
        let_go: Vec::new(),
        added: Vec::new(),
    }
}

/// Opens the pool and its key table with a key in it; then something happens to the drives, and the table is scrubbed. What that found.
fn table(world: &World, setup: &Setup, happens: impl FnOnce(&World) + 'static) -> LabelScrub {
    let (mut io, mut exec, candidates) = offline(world, setup);
    let (handle, world) = (exec.handle(), world.clone());
    let options = options(setup);
    run(&mut io, &mut exec, async move {
        let all: Vec<FileId> = candidates.iter().map(|c| c.info.file).collect();
        let plan = open_pool(handle.clone(), candidates, options).await.unwrap();
        let files: Vec<_> = plan.order.iter().map(|at| at.map(|i| all[i])).collect();
        let mut table = KeyTable::load(&handle, &plan, &files).await.unwrap();
        let key = WrappedKey { line: LineId(1), pg: PgId(0), cluster_key: [1; 16], wrapped: [9; 40] };
        if table.key(LineId(1)).is_none() {
            table.add(&handle, key).await.unwrap();
        }
        assert_eq!(table.scrub(&handle).await.unwrap().mended, 0);
        happens(&world);
        let found = table.scrub(&handle).await.unwrap();
        assert_eq!(table.scrub(&handle).await.unwrap().mended, 0, "all is mended");
        assert_eq!(table.behind(), []);
        assert_eq!(table.keys().collect::<Vec<_>>(), [key]);
        found
    })
}

#[test]
fn copies_of_the_key_table_are_mended() {
    for (count, parity) in [(1, 0), (3, 1)] {
        let world = World::new(20 + count as u64);
        let setup = setup(count, parity);
        drop(filled(&world, &setup));
        world.crash();
        let last = setup.drives[count - 1].0;
        // The one copy of the page with the key, and either of pages that were never written.
        for copy in [0, 1] {
            let found = table(&world, &setup, move |world| {
                world.overwrite(NODE, path(last), KEYS + copy * KEY_COPY + 100, b"rot");
                world.overwrite(NODE, path(last), KEYS + (1 - copy) * KEY_COPY + 439 * 4096, b"rot");
            });
            assert_eq!(found.mended, 2);
            assert_eq!(found.checked_bytes, count as u64 * 2 * KEY_COPY);
        }
        let report = check(&world, &setup);
        assert_eq!((report.problems, report.mendable), (0, 0), "{report:?}");
    }
}

/// The last drive of a mirror can't read a page of the table; that of the one that has joined is empty, and tells nothing of it. Neither at the
/// start at which it joined nor at the next one.
#[test]
fn a_drive_that_has_just_joined_knows_no_keys() {
    let world = World::new(44);
    let (setup, wider) = (setup(2, 1), setup(3, 1));
    drop(filled(&world, &setup));
    world.crash();
    table(&world, &setup, |_| {});
    world.remove_drive(NODE, path("d1"));
    drop(Node::open(&world, &setup).unwrap());
    world.crash();
    world.add_drive(NODE, path("d2"), DriveSpec::file(11 << 20));
    let load = |world: &World| {
        let (mut io, mut exec, candidates) = offline(world, &wider);
        let (handle, options) = (exec.handle(), options(&wider));
        run(&mut io, &mut exec, async move {
            let all: Vec<FileId> = candidates.iter().map(|c| c.info.file).collect();
            let plan = open_pool(handle.clone(), candidates, options).await.unwrap();
            let files: Vec<_> = plan.order.iter().map(|at| at.map(|i| all[i])).collect();
            KeyTable::load(&handle, &plan, &files).await.map(|table| table.key(LineId(1)))
        })
    };
    for copy in [0, 1] {
        world.spoil(NODE, path("d0"), KEYS + copy * KEY_COPY, 4096);
    }
    for _ in 0..2 {
        let loaded = load(&world);
        assert!(matches!(loaded, Err(StoreError::Drive(_))), "{loaded:?}");
    }
    world.unspoil(NODE, path("d0"));
    assert!(load(&world).unwrap().is_some(), "the key is lost");
}

/// Keys are overwritten on a drive of the pool alone, and everything else on it stays.
#[test]
fn keys_are_erased_on_what_was_a_drive_of_the_pool_alone() {
    let world = World::new(40);
    let setup = setup(1, 0);
    let pool = filled(&world, &setup).plan.pool;
    world.crash();
    table(&world, &setup, |_| {});
    let erase = |pool: Uuid| {
        let (mut io, mut exec, drives) = offline(&world, &setup);
        let erasing = erase_keys_on(exec.handle(), drives[0].info.clone(), pool);
        run(&mut io, &mut exec, erasing)
    };
    let before = world.image(NODE, path("d0"));
    assert!(matches!(erase(Uuid([9; 16])), Err(StoreError::Refused(_))));
    assert!(world.image(NODE, path("d0")) == before, "something was written");
    erase(pool).unwrap();
    let (after, mut bytes) = (world.image(NODE, path("d0")), vec![1; (4 << 20) - KEYS as usize]);
    after.read(KEYS, &mut bytes);
    assert!(bytes.iter().all(|&b| b == 0));
    let (mut was, mut is) = (vec![0; KEYS as usize], vec![0; KEYS as usize]);
    before.read(0, &mut was);
    after.read(0, &mut is);
    assert!(was == is, "the rest of the label stays");
    world.overwrite(NODE, path("d0"), 0, b"XFSB");
    world.overwrite(NODE, path("d0"), SUPERBLOCK, b"else");
    assert!(matches!(erase(pool), Err(StoreError::Refused(_))));
}

/// A drive that hangs is not waited for, whatever is done on it.
#[test]
fn a_drive_that_hangs_keeps_its_keys() {
    for (read_ns, write_extra_ns) in [(3_600_000_000_000, 0), (100_000, 3_600_000_000_000)] {
        let world = World::new(42);
        let setup = setup(1, 0);
        let pool = filled(&world, &setup).plan.pool;
        world.crash();
        let latency_ns = (read_ns, read_ns);
        world.set_faults(
            NODE,
            path("d0"),
            DriveFaults { latency_ns, write_extra_ns, ..DriveFaults::default() },
        );
        let (mut io, mut exec, drives) = offline(&world, &setup);
        let before = world.now();
        let erasing = erase_keys_on(exec.handle(), drives[0].info.clone(), pool);
        let erased = run(&mut io, &mut exec, erasing);
        assert!(matches!(erased, Err(StoreError::Drive(_))), "{erased:?}");
        assert!(world.now().since(before) < 30_000_000_000);
    }
}

/// A change of the table fails on the only drive, and one of its writes comes late: what was added after it stays.
#[test]
fn a_page_that_comes_late_takes_nothing_back() {
    let world = World::new(43);
    let setup = setup(1, 0);
    drop(filled(&world, &setup));
    world.crash();
    let (mut io, mut exec, candidates) = offline(&world, &setup);
    let (handle, slow, options) = (exec.handle(), world.clone(), options(&setup));
    run(&mut io, &mut exec, async move {
        let file = candidates[0].info.file;
        let plan = open_pool(handle.clone(), candidates, options).await.unwrap();
        let mut table = KeyTable::load(&handle, &plan, &[Some(file)]).await.unwrap();
        let writes_take = move |ms: u64| {
            let write_extra_ns = ms * 1_000_000;
            slow.set_faults(NODE, path("d0"), DriveFaults { write_extra_ns, ..DriveFaults::default() });
        };
        // The first copy lands, the second one is given up.
        writes_take(3_000);
        let (later, slower) = (handle.clone(), writes_take.clone());
        let begins = async move {
            later.sleep_until(later.now().plus_ms(1_000)).await;
            slower(8_000);
        };
        handle.spawn(begins).unwrap();
        let key =
            |line| WrappedKey { line: LineId(line), pg: PgId(0), cluster_key: [1; 16], wrapped: [9; 40] };
        assert!(table.add(&handle, key(1)).await.is_err());
        writes_take(0);
        // Whoever is refused tries again.
        let given_up = handle.now().plus_ms(30_000);
        while let Err(why) = table.add(&handle, key(2)).await {
            assert!(handle.now() < given_up, "{why}");
            handle.sleep_until(handle.now().plus_ms(500)).await;
        }
        handle.sleep_until(handle.now().plus_ms(20_000)).await;
        let table = KeyTable::load(&handle, &plan, &[Some(file)]).await.unwrap();
        assert_eq!(table.key(LineId(2)), Some(key(2)));
        assert_eq!(table.key(LineId(1)), None);
    });
}

/// A write of a page that took too long and was given up may come late: what is overwritten after it stays overwritten.
#[test]
fn a_page_that_comes_late_does_not_bring_keys_back() {
    let world = World::new(41);
    let setup = setup(2, 1);
    drop(filled(&world, &setup));
    world.crash();
    let (mut io, mut exec, candidates) = offline(&world, &setup);
    let (handle, slow, options) = (exec.handle(), world.clone(), options(&setup));
    run(&mut io, &mut exec, async move {
        let all: Vec<FileId> = candidates.iter().map(|c| c.info.file).collect();
        let drive = candidates[1].info.clone();
        let plan = open_pool(handle.clone(), candidates, options).await.unwrap();
        let files: Vec<_> = plan.order.iter().map(|at| at.map(|i| all[i])).collect();
        let mut table = KeyTable::load(&handle, &plan, &files).await.unwrap();
        let latency_ns = (8_000_000_000, 8_000_000_000);
        slow.set_faults(NODE, path("d1"), DriveFaults { latency_ns, ..DriveFaults::default() });
        let key = WrappedKey { line: LineId(1), pg: PgId(0), cluster_key: [1; 16], wrapped: [9; 40] };
        table.add(&handle, key).await.unwrap();
        assert_eq!(table.behind().len(), 1);
        slow.set_faults(NODE, path("d1"), DriveFaults::default());
        table.erase_on(&handle, drive).await.unwrap();
        handle.sleep_until(handle.now().plus_ms(20_000)).await;
    });
    let mut bytes = vec![1; (4 << 20) - KEYS as usize];
    world.image(NODE, path("d1")).read(KEYS, &mut bytes);
    assert!(bytes.iter().all(|&b| b == 0));
}

/// Opens the pool and its key table with the key of line 1 in it, and does something with it; gets the drives' handles by their number.
fn with_key<T: 'static, F: Future<Output = T>>(
    world: &World,
    setup: &Setup,
    work: impl FnOnce(KeyTable, Handle, Vec<FileId>) -> F + 'static,
) -> T {
    let (mut io, mut exec, candidates) = offline(world, setup);
    let (handle, options) = (exec.handle(), options(setup));
    run(&mut io, &mut exec, async move {
        let all: Vec<FileId> = candidates.iter().map(|c| c.info.file).collect();
        let plan = open_pool(handle.clone(), candidates, options).await.unwrap();
        let files: Vec<_> = plan.order.iter().map(|at| at.map(|i| all[i])).collect();
        let mut table = KeyTable::load(&handle, &plan, &files).await.unwrap();
        if table.key(LineId(1)).is_none() {
            table.add(&handle, key_of(1)).await.unwrap();
        }
        work(table, handle, all).await
    })
}

fn key_of(line: u64) -> WrappedKey {
    WrappedKey { line: LineId(line), pg: PgId(0), cluster_key: [1; 16], wrapped: [9; 40] }
}

/// How long writes to a drive fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fails {
    Once,
    ForGood,
}

fn break_writes(world: &World, drive: &str, fails: Fails) {
    match fails {
        Fails::Once => world.fail_next(NODE, path(drive), Fault::Write),
        Fails::ForGood => {
            let faults = DriveFaults { write_ppm: 1_000_000, ..DriveFaults::default() };
            world.set_faults(NODE, path(drive), faults);
        }
    }
}

/// The only drive does not take a page that is mended: what is changed afterwards is on no drive, and nobody is told otherwise.
#[test]
fn no_key_counts_that_is_on_no_drive() {
    for fails in [Fails::Once, Fails::ForGood] {
        let (world, setup) = (World::new(45), setup(1, 0));
        drop(filled(&world, &setup));
        world.crash();
        let broken = world.clone();
        with_key(&world, &setup, async move |mut table, handle, drives| {
            broken.overwrite(NODE, path("d0"), KEYS + 100, b"rot");
            break_writes(&broken, "d0", fails);
            assert!(table.scrub(&handle).await.is_err());
            let added = table.add(&handle, key_of(2)).await;
            assert!(matches!(added, Err(StoreError::Drive(_))), "{fails:?}: {added:?}");
            let erased = table.erase(&handle, &[LineId(1)].into()).await;
            assert!(matches!(erased, Err(StoreError::Drive(_))), "{fails:?}: {erased:?}");
            let rotated = table.rotate(&handle, [2; 16], |_| Some([8; 40])).await;
            assert!(matches!(rotated, Err(StoreError::Drive(_))), "{fails:?}: {rotated:?}");
            assert_eq!(table.keys().collect::<Vec<_>>(), [key_of(1)]);
            assert!(table.behind().len() == 1 && table.behind()[0].0 == drives[0]);
        });
        world.set_faults(NODE, path("d0"), DriveFaults::default());
        let keys = with_key(&world, &setup, async |table, _, _| table.keys().collect::<Vec<_>>());
        assert_eq!(keys, [key_of(1)], "{fails:?}");
    }
}

/// The only drive does not take a change: what is refused is not believed, and what is not is there.
#[test]
fn a_key_that_the_only_drive_does_not_take_is_refused() {
    for fails in [Fails::Once, Fails::ForGood] {
        let (world, setup) = (World::new(46), setup(1, 0));
        drop(filled(&world, &setup));
        world.crash();
        let broken = world.clone();
        let second = with_key(&world, &setup, async move |mut table, handle, _| {
            break_writes(&broken, "d0", fails);
            assert!(table.add(&handle, key_of(2)).await.is_err());
            assert_eq!(table.key(LineId(2)), None);
            table.add(&handle, key_of(3)).await.is_ok()
        });
        assert_eq!(second, fails == Fails::Once);
        world.set_faults(NODE, path("d0"), DriveFaults::default());
        let lines: Vec<u64> =
            with_key(&world, &setup, async |table, _, _| table.keys().map(|k| k.line.0).collect());
        // A write that fails may be on the drive; what is counted is.
        assert!(lines.contains(&1) && (!second || lines == [1, 3]), "{fails:?}: {lines:?}");
    }
}

/// A drive of a mirror does not take a page, when it is mended or when it changes: no later change counts either before it is out, for
/// it has none of them. What the other one does not take then does not count at all.
#[test]
fn a_drive_that_is_behind_is_named_until_it_leaves() {
    for (fails, mending) in [Fails::Once, Fails::ForGood].into_iter().flat_map(|f| [(f, false), (f, true)]) {
        let (world, setup) = (World::new(47), setup(2, 1));
        drop(filled(&world, &setup));
        world.crash();
        let broken = world.clone();
        with_key(&world, &setup, async move |mut table, handle, drives| {
            let behind = |table: &KeyTable| table.behind().iter().map(|(file, _)| *file).collect::<Vec<_>>();
            if mending {
                broken.overwrite(NODE, path("d1"), KEYS + 100, b"rot");
            }
            break_writes(&broken, "d1", fails);
            if mending {
                assert_eq!(table.scrub(&handle).await.unwrap().mended, 1);
            } else {
                table.add(&handle, key_of(2)).await.unwrap();
            }
            assert_eq!(behind(&table), [drives[1]]);
            table.add(&handle, key_of(3)).await.unwrap();
            assert_eq!(behind(&table), [drives[1]], "{fails:?}, {mending}: the key is on one drive alone");
            table.leave(drives[1]);
            assert_eq!(behind(&table), []);
            break_writes(&broken, "d0", fails);
            assert!(table.erase(&handle, &[LineId(1)].into()).await.is_err());
            assert_eq!(table.key(LineId(1)), Some(key_of(1)));
        });
    }
}
