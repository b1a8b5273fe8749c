//! The key table of a whole node, while drives come, go and fail.

use crate::{
    node::{DRIVES, NODE},
    why::{Scene, descriptor},
};
use dolmen_core::{
    message::{Answer, ToCore},
    report::CoreReport,
};
use dolmen_io::{Io, OpenDrive, PoolConfig, Wait};
use dolmen_sim::{CoreConfig, DriveFaults, DriveSpec, Fault, NodeId, World};
use dolmen_store::{Candidate, DriveState, NewDrive, WrappedKey};
use dolmen_types::{CoreId, LineId, Nanos, PgId, Uuid};
use std::path::Path;
use tokio::sync::oneshot::Receiver;

const MS: u64 = 1_000_000;
/// Where the key table lies on a drive.
const TABLE: std::ops::Range<u64> = 544 << 10..4 << 20;
/// The core that the table belongs to.
const OWNER: CoreId = CoreId(0);
/// The drive that joins.
const JOINER: &str = "d2";

fn key(line: u64) -> WrappedKey {
    WrappedKey { line: LineId(line), pg: PgId(0), cluster_key: [5; 16], wrapped: [6; 40] }
}

/// How long every operation on a drive takes.
fn slow(world: &World, drive: &str, ms: u64) {
    let latency_ns = (ms * MS, ms * MS);
    world.set_faults(NODE, drive.as_ref(), DriveFaults { latency_ns, ..DriveFaults::default() });
}

fn fast(world: &World, drive: &str) {
    world.set_faults(NODE, drive.as_ref(), DriveFaults::default());
}

/// A node, and somebody who looks at the clock: without, time would go on to the next thing that happens.
struct Node {
    scene: Scene,
    clock: Io,
}

impl Node {
    fn new(seed: u64, cores: usize, parity: u8) -> Node {
        let scene = Scene::with_parity(seed, cores, parity, &descriptor());
        let config = CoreConfig { node: NodeId(9), pool: PoolConfig::sized(1 << 20) };
        let clock = Io::new(Box::new(scene.world.driver(config)));
        Node { scene, clock }
    }

    fn cores(&self) -> impl Iterator<Item = CoreId> + use<> {
        (0..u16::try_from(self.scene.process.cores()).unwrap()).map(CoreId)
    }

    /// So many milliseconds go by.
    fn run(&mut self, ms: u64) {
        let until = Nanos(self.scene.world.now().0 + ms * MS);
        let (mut events, mut outcomes) = (Vec::new(), Vec::new());
        while self.scene.world.now() < until {
            self.clock.poll(Wait::Until(until), &mut events);
            for core in 0..self.scene.process.cores() {
                self.scene.process.turn_core(core);
            }
            self.scene.process.step(&mut outcomes);
        }
    }

    fn tell<T: Send + 'static>(&self, ask: impl FnOnce(Answer<T>) -> ToCore) -> Receiver<T> {
        self.scene.process.tell(OWNER, ask)
    }

    /// What comes of a question, within a minute.
    fn answer<T>(&mut self, mut asked: Receiver<T>) -> T {
        for _ in 0..60_000 {
            if let Ok(answer) = asked.try_recv() {
                return answer;
            }
            self.run(1);
        }
        panic!("no answer");
    }

    fn asked<T: Send + 'static>(&mut self, ask: impl FnOnce(Answer<T>) -> ToCore) -> T {
        let asked = self.tell(ask);
        self.answer(asked)
    }

    fn told(&mut self) -> Box<CoreReport> {
        self.asked(|answer| ToCore::Report { answer })
    }

    /// A new drive, prepared, open on every core, and with all keys: it has only to join.
    fn joiner(&mut self) -> NewDrive {
        self.scene.world.add_drive(NODE, JOINER.as_ref(), DriveSpec::file(48 << 20));
        let drive = OpenDrive { path: JOINER.into(), create_bytes: None, sparse: true, exclusive: true };
        let opened = self.asked(|answer| ToCore::OpenDrives { drives: vec![drive], answer });
        let opened = opened.into_iter().next().unwrap().unwrap();
        let file = opened.info.file;
        let drive = Candidate { info: opened.info.clone(), path: JOINER.into() };
        let drive = self.asked(|answer| ToCore::PrepareDrive { drive, answer }).unwrap();
        let uuid = drive.uuid();
        for core in self.cores() {
            let drive = opened.clone();
            let attaching = |answer| ToCore::AttachDrive { uuid, drive, answer };
            let attached = self.scene.process.tell(core, attaching);
            self.answer(attached).unwrap();
        }
        self.asked(|answer| ToCore::JoinKeys { file, answer }).unwrap();
        drive
    }

    /// Every core hears what has come of it.
    fn joined(&mut self, uuid: Uuid, place: Option<u16>) {
        for core in self.cores() {
            let joined = |answer| ToCore::DriveJoined { uuid, place, answer };
            let told = self.scene.process.tell(core, joined);
            self.answer(told);
        }
    }

    fn state(&mut self, drive: &str) -> Option<DriveState> {
        let pool = self.told().pool.unwrap();
        pool.drives.iter().map(|d| &d.standing).find(|d| d.path == drive).map(|d| d.state)
    }
}

fn holds_no_keys(world: &World, drive: &str) -> bool {
    let mut bytes = vec![1; usize::try_from(TABLE.end - TABLE.start).unwrap()];
    world.image(NODE, Path::new(drive)).read(TABLE.start, &mut bytes);
    bytes.iter().all(|&b| b == 0)
}

/// A drive leaves while all pages are written anew: once it is told that its keys are erased, none comes back there.
#[test]
fn keys_are_not_written_behind_the_eraser() {
    for (seed, latency_ms) in [(1, 1), (2, 5), (3, 20)] {
        let mut node = Node::new(seed, 2, 0);
        let world = node.scene.world.clone();
        // Some pages.
        for line in 100..300 {
            let key = key(line);
            node.asked(|answer| ToCore::KeepKey { key, answer }).unwrap();
        }
        let drive = node.asked(|answer| ToCore::InfoOf { place: 1, answer }).unwrap();
        assert!(!holds_no_keys(&world, DRIVES[1]));
        DRIVES.iter().for_each(|drive| slow(&world, drive, latency_ms));
        let (to, rewrap) = ([8; 16], Box::new(|_: &WrappedKey| Some([7; 40])));
        let rotated = node.tell(|answer| ToCore::RewrapKeys { to, rewrap, answer });
        node.run(3 * latency_ms);
        let erased = node.tell(|answer| ToCore::EraseKeysOn { drive, answer });
        node.answer(erased).unwrap();
        node.answer(rotated).unwrap();
        node.run(1000);
        assert!(holds_no_keys(&world, DRIVES[1]), "seed {seed}");
    }
}

/// A drive that does not take a change between getting the table and joining does not join.
#[test]
fn a_drive_that_lacks_a_key_does_not_join() {
    let mut node = Node::new(4, 2, 1);
    let drive = node.joiner();
    let uuid = drive.uuid();
    node.scene.world.fail_next(NODE, JOINER.as_ref(), Fault::Write);
    let mut kept = node.tell(|answer| ToCore::KeepKey { key: key(100), answer });
    node.run(1000);
    assert!(kept.try_recv().is_err(), "it counts, and a drive that is to join lacks it");
    let why = node.asked(|answer| ToCore::JoinDrive { drive, answer }).unwrap_err();
    assert!(why.contains("key table"), "{why}");
    node.joined(uuid, None);
    node.answer(kept).unwrap();
    assert_eq!(node.state(JOINER), None);
}

/// One that does not take it while the superblock that counts it is written is put out, and nobody relies on the change before.
#[test]
fn a_drive_that_lacks_a_key_and_has_joined_goes_out() {
    let mut node = Node::new(5, 2, 1);
    let world = node.scene.world.clone();
    let drive = node.joiner();
    let uuid = drive.uuid();
    DRIVES.iter().for_each(|drive| slow(&world, drive, 500));
    let mut kept = node.tell(|answer| ToCore::KeepKey { key: key(100), answer });
    let joining = node.tell(|answer| ToCore::JoinDrive { drive, answer });
    // The new drive has its superblock, and waits for the others', and for the key.
    node.run(700);
    world.fail_next(NODE, JOINER.as_ref(), Fault::Write);
    let place = node.answer(joining).unwrap();
    node.run(2000);
    assert!(kept.try_recv().is_err(), "it counts, and a drive of the pool lacks it");
    assert_eq!(node.state(JOINER), Some(DriveState::In));
    node.joined(uuid, Some(place));
    DRIVES.iter().for_each(|drive| fast(&world, drive));
    node.answer(kept).unwrap();
    let state = node.state(JOINER).unwrap();
    assert!(matches!(state, DriveState::Out | DriveState::Gone), "{state:?}");
}

/// Keys that can't be erased are told of, and erased as soon as that works out.
#[test]
fn keys_that_could_not_be_erased_are_tried_again() {
    let mut node = Node::new(6, 1, 0);
    let world = node.scene.world.clone();
    let has = |node: &mut Node, line: u64| {
        let keys = node.asked(|answer| ToCore::ListKeys { answer });
        keys.iter().any(|key| key.line == LineId(line))
    };
    for line in [100, 101] {
        node.asked(|answer| ToCore::KeepKey { key: key(line), answer }).unwrap();
    }
    let sweep = |node: &mut Node, line: u64| {
        node.asked(|answer| ToCore::SweepKeys { lines: vec![(PgId(0), LineId(line))], answer });
    };
    // A checkpoint is made for the first one; nothing but the key is written for the second.
    sweep(&mut node, 100);
    let gone = (0..100).any(|_| {
        node.run(100);
        !has(&mut node, 100)
    });
    assert!(gone);
    DRIVES.iter().for_each(|drive| slow(&world, drive, 7000));
    sweep(&mut node, 101);
    node.run(20_000);
    assert!(has(&mut node, 101));
    let (count, why) = node.told().unerased.expect("it is told");
    assert!(count == 1 && why.contains("key table"), "{why}");
    DRIVES.iter().for_each(|drive| fast(&world, drive));
    node.run(70_000);
    assert!(!has(&mut node, 101) && node.told().unerased.is_none());
}
