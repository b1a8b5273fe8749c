//! Scrubbing finds what rots where nobody reads, and has it mended while there is something to mend it from.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::*;
use dolmen_sim::{Rng, World};
use dolmen_store::*;
use dolmen_types::LineId;

const UNIT: u64 = 128 << 10;

fn setup(count: usize, parity: u8, mib: u64) -> Setup {
    let mut setup = Setup {
        drives: drives(count, mib),
        parity,
        unit_bytes: UNIT as u32,
        keyring: keyring(),
        ..Setup::tiny(0)
    };
    setup.tuning.commit_bytes = 120 * 1024;
    setup
}

/// A line of each kind, and what it holds.
struct Pool {
    node: Node,
    seq: u64,
    blocks: u64,
    model: Vec<Vec<u64>>,
}

impl Pool {
    fn new(world: &World, setup: &Setup, blocks: u64) -> Pool {
        let mut node = Node::open(world, setup).unwrap();
        for line in 0..4 {
            node.commit(0, line + 1, vec![create_some_kind(line)]).unwrap();
        }
        let mut pool = Pool { node, seq: 4, blocks, model: vec![vec![0; blocks as usize]; 4] };
        let mut rng = Rng::new(5);
        for _ in 0..blocks / 2 {
            pool.write(&mut rng);
        }
        pool.node.checkpoint();
        for _ in 0..20 {
            pool.write(&mut rng);
        }
        pool
    }

    fn write(&mut self, rng: &mut Rng) {
        let (line, count) = (rng.below(4), 1 + rng.below(12));
        let first = rng.below(self.blocks - count);
        self.seq += 1;
        let values: Vec<u64> = (0..count).map(|i| self.seq * 100 + i).collect();
        let record = self.node.write(line, first, &values);
        self.node.commit(0, self.seq, vec![record]).unwrap();
        self.model[line as usize][first as usize..(first + count) as usize].copy_from_slice(&values);
    }

    fn verify(&mut self) {
        for line in 0..4 {
            for first in (0..self.blocks).step_by(20) {
                let count = 20.min(self.blocks - first);
                let got = self.node.read(0, line, first, count as usize).unwrap();
                let want = &self.model[line as usize][first as usize..(first + count) as usize];
                assert_eq!(got, want, "line {line} from {first}");
            }
        }
    }

    /// Goes through a round.
    fn scrub(&mut self, round: u64) -> ScrubReport {
        self.node.stores[0].set_scrub(ScrubPlan { round, paused: false, bytes_per_s: 0 });
        for _ in 0..200_000 {
            let report = self.node.stores[0].scrub().unwrap();
            if report.finished == round {
                return report;
            }
            self.node.turn();
        }
        panic!("a round does not end: {:?}", self.node.stores[0].scrub());
    }

    fn reopen(self, world: &World, setup: &Setup) -> Pool {
        world.crash();
        let Pool { node, seq, blocks, model } = self;
        drop(node);
        Pool { node: Node::open(world, setup).unwrap(), seq, blocks, model }
    }
}

/// Rot in the pages of one drive, but for some.
fn rot(world: &World, drive: &str, mib: u64, mut hits: impl FnMut() -> bool) {
    for page in 0..((mib << 20) - (1 << 20)) / 4096 {
        if hits() {
            world.overwrite(NODE, path(drive), (4 << 20) + page * 4096 + 100, b"rot");
        }
    }
}

/// Whatever rots on one drive, in data, parity, pages of the map, heads of segments: after a round and what follows from it, any other
/// drive may go.
#[test]
fn what_rots_on_one_drive_is_mended_before_another_goes() {
    for (count, parity) in [(2, 1), (3, 1), (4, 1), (5, 2)] {
        for (seed, drive) in (0..count as u64).zip(["d0", "d1", "d2", "d3", "d4"]) {
            let world = World::new(seed);
            let setup = setup(count, parity, 10);
            let mut pool = Pool::new(&world, &setup, 90);
            let clean = pool.scrub(1);
            assert_eq!((clean.mended, clean.lost), (0, 0), "{clean:?}");
            assert!(clean.checked_bytes > 90 * 4096, "{clean:?}");
            let mut rng = Rng::new(seed);
            // Everything, or some of it.
            rot(&world, drive, 10, || seed == 0 || rng.one_in(3));
            let found = pool.scrub(2);
            assert!(found.mended > 0 && found.lost == 0, "{count} drives, {drive}: {found:?}");
            pool.node.until_protected();
            let after = pool.scrub(3);
            assert_eq!((after.mended, after.lost), (found.mended, 0), "{count} drives, {drive}: {after:?}");
            let other = if drive == "d0" { "d1" } else { "d0" };
            world.remove_drive(NODE, path(other));
            pool.verify();
            assert_eq!(pool.node.space().integrity_errors, 0);
            pool.reopen(&world, &setup).verify();
        }
    }
}

/// What nothing gives any more is named; what nobody needs is not.
#[test]
fn what_is_lost_is_named() {
    let world = World::new(9);
    let setup = setup(3, 1, 10);
    let mut pool = Pool::new(&world, &setup, 90);
    pool.node.checkpoint();
    ["d0", "d1"].iter().for_each(|d| rot(&world, d, 10, || true));
    let report = pool.scrub(1);
    assert!(report.lost > 0 && !report.named.is_empty(), "{report:?}");
    // Block by block, though hardly a commit can be found any more; and nothing else.
    (0..20_000).for_each(|_| pool.node.turn());
    let told = pool.node.stores[0].lost();
    let is_told = |line: u64, lba: u64| {
        let view = View { line: LineId(line), at: None };
        let holds = |r: &&LostRange| (r.lba.0..r.lba.0.saturating_add(r.blocks.0)).contains(&lba);
        told.iter().filter(holds).any(|r| r.views.contains(&view))
    };
    let mut lost = 0;
    for (line, lba) in (0..4).flat_map(|line| (0..90).map(move |lba| (line, lba))) {
        let failed = pool.node.read(0, line, lba, 1).is_err();
        assert_eq!(is_told(line, lba), failed, "line {line}, block {lba}: {told:?}");
        lost += u32::from(failed);
    }
    assert!(lost > 50, "{lost}");
}

#[test]
fn a_round_goes_on_while_a_drive_is_lost() {
    let world = World::new(11);
    let setup = setup(4, 1, 10);
    let mut pool = Pool::new(&world, &setup, 90);
    pool.node.stores[0].set_scrub(ScrubPlan { round: 1, paused: false, bytes_per_s: 20 << 20 });
    (0..10).for_each(|_| pool.node.turn());
    world.remove_drive(NODE, path("d2"));
    let mut rng = Rng::new(3);
    pool.write(&mut rng);
    // What could not be read before the drive was out is moved once more.
    let first = pool.scrub(1);
    assert_eq!(first.lost, 0, "{first:?}");
    pool.node.until_protected();
    pool.verify();
    let report = pool.scrub(2);
    assert_eq!((report.lost, report.mended), (0, first.mended), "{report:?}");
}

#[test]
fn a_full_pool_is_scrubbed_and_mended() {
    let world = World::new(12);
    let mut setup = setup(3, 1, 8);
    setup.tuning.full_wait_ms = 200;
    let mut pool = Pool::new(&world, &setup, 90);
    let mut lba = 1000;
    loop {
        pool.seq += 1;
        let record = pool.node.write(0, lba, &[pool.seq * 3; 8]);
        match pool.node.commit(0, pool.seq, vec![record]) {
            Ok(()) => lba += 8,
            Err(StoreError::Full) => break,
            Err(other) => panic!("{other}"),
        }
    }
    let mut rng = Rng::new(1);
    rot(&world, "d1", 8, || rng.one_in(200));
    let report = pool.scrub(1);
    assert!(report.mended > 0 && report.lost == 0, "{report:?}");
    pool.node.until_protected();
    let report = pool.scrub(2);
    world.remove_drive(NODE, path("d0"));
    assert_eq!(report.lost, 0);
    pool.verify();
    assert_eq!(pool.node.read(0, 0, lba - 8, 8).unwrap().len(), 8);
}

/// A rate, a pause, and a restart in the middle.
#[test]
fn a_round_keeps_its_rate_and_survives_a_restart() {
    let world = World::new(13);
    let setup = setup(3, 1, 20);
    let mut pool = Pool::new(&world, &setup, 400);
    let plan = ScrubPlan { round: 7, paused: false, bytes_per_s: 4 << 20 };
    let began = world.now();
    pool.node.stores[0].set_scrub(plan);
    let half = |pool: &Pool| {
        let r = pool.node.stores[0].scrub().unwrap();
        r.segments_done * 2 >= r.segments
    };
    while !half(&pool) {
        pool.node.turn();
    }
    let report = pool.node.stores[0].scrub().unwrap();
    let seconds = world.now().since(began) as f64 / 1e9;
    let rate = report.checked_bytes as f64 / seconds;
    assert!(rate < 1.2 * f64::from(4 << 20), "{rate} bytes a second");
    pool.node.stores[0].set_scrub(ScrubPlan { paused: true, ..plan });
    (0..50).for_each(|_| pool.node.turn());
    let paused = pool.node.stores[0].scrub().unwrap();
    assert!(paused.checked_bytes <= report.checked_bytes + 2 * UNIT);
    pool.node.checkpoint();
    let mut pool = pool.reopen(&world, &setup);
    let before = pool.node.stores[0].scrub().unwrap();
    assert_eq!((before.finished, before.checked_bytes), (0, 0));
    let rest = pool.scrub(7);
    assert!(rest.checked_bytes < 2 * report.checked_bytes, "it began anew: {rest:?}, {report:?}");
    // That it is through is in the checkpoint that it asks for.
    pool.node.checkpoint();
    let pool = pool.reopen(&world, &setup);
    assert_eq!(pool.node.stores[0].scrub().unwrap().finished, 7);
}

/// A rate that is raised counts at once, however long a wait for the sake of the old one would have been.
#[test]
fn a_rate_that_is_raised_is_not_waited_for() {
    let world = World::new(15);
    let mut pool = Pool::new(&world, &setup(3, 1, 20), 200);
    let mut checked_in = |bytes_per_s, ms| {
        let checked = |pool: &Pool| pool.node.stores[0].scrub().unwrap().checked_bytes;
        pool.node.stores[0].set_scrub(ScrubPlan { round: 7, paused: false, bytes_per_s });
        let (before, until) = (checked(&pool), pool.node.io.now().plus_ms(ms));
        while pool.node.io.now() < until {
            pool.node.turn();
        }
        checked(&pool) - before
    };
    let little = checked_in(64, 10_000);
    assert!(little > 0 && little <= 64 * 10 + UNIT, "{little} bytes");
    let much = checked_in(1 << 20, 1000);
    assert!(much > 256 << 10, "{much} bytes");
}

/// What a round has found and nothing has mended yet is known after a restart, though the round is through: it is moved then, and until
/// then no other drive is given up that has what belongs there.
#[test]
fn what_was_found_is_not_forgotten() {
    let world = World::new(14);
    let setup = setup(2, 1, 20);
    let mut pool = Pool::new(&world, &setup, 90);
    pool.node.stores[0].set_reprotection(true, 0);
    rot(&world, "d1", 20, || true);
    let found = pool.scrub(1);
    assert!(found.mended > 0 && found.lost == 0, "{found:?}");
    let at_risk = pool.node.space().at_risk_segments;
    assert!(at_risk > 0);
    pool.node.checkpoint();
    let mut pool = pool.reopen(&world, &setup);
    assert_eq!(pool.node.stores[0].scrub().unwrap().finished, 1);
    assert!(pool.node.space().at_risk_segments > 0);
    assert!(pool.node.owner.force_out(0, "by hand".into()).is_err());
    pool.node.until_protected();
    assert_eq!(pool.scrub(2).mended, 0);
    world.remove_drive(NODE, path("d0"));
    pool.verify();
}
