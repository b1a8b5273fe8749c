//! Snapshots, clones, rollback: what they hold, how they end, what a crash leaves.

use super::*;
use crate::group::kind;
use dolmen_store::Key;
use dolmen_types::{
    Lba, Seq,
    snapshot::{CloneSource, SnapshotDescriptor, SnapshotState},
};

const BLOCKS: u64 = 8;

/// A volume of group 0.
fn volume(n: u8) -> VolumeDescriptor {
    VolumeDescriptor { pg: PgId(0), ..descriptor(n, SectorSize::B4096, VolumeKind::Durable, BLOCKS) }
}

fn uuid(n: u8) -> Uuid {
    Uuid([n; 16])
}

/// A snapshot's descriptor as the control side gives it.
fn snapshot(n: u8, of: u8) -> SnapshotDescriptor {
    SnapshotDescriptor {
        uuid: uuid(n),
        name: format!("s{n}"),
        project: "default".into(),
        description: String::new(),
        volume: uuid(of),
        volume_name: String::new(),
        pg: PgId(0),
        line: LineId(0),
        at: Seq(0),
        size_bytes: 0,
        sector: SectorSize::B4096,
        compression: false,
        encryption: false,
        mapped_blocks: 0,
        labels: vec![],
        created: UnixMillis(3),
        expires: None,
        policy: None,
        revision: 0,
        state: SnapshotState::Available,
    }
}

fn clone_of(n: u8, of: u8) -> VolumeDescriptor {
    let source = Some(CloneSource { snapshot: uuid(of), name: format!("s{of}") });
    VolumeDescriptor { source, ..volume(n) }
}

impl Bench {
    fn take(&mut self, wanted: Vec<SnapshotDescriptor>) -> Result<Vec<SnapshotDescriptor>, ControlError> {
        match self.control(ControlCommand::CreateSnapshots(wanted))? {
            ControlDone::Snapshots(all) => Ok(all.into_iter().map(|s| s.descriptor).collect()),
            other => panic!("{other:?}"),
        }
    }

    fn drop_snapshot(&mut self, n: u8) -> Result<ControlDone, ControlError> {
        self.control(ControlCommand::DeleteSnapshot { uuid: uuid(n), expected_revision: None })
    }

    fn delete(&mut self, n: u8) {
        let command = ControlCommand::Delete { uuid: uuid(n), expected_revision: None };
        self.control(command).unwrap();
        self.settle();
    }

    fn roll_back(&mut self, n: u8, to: u8, line: u64) -> Result<ControlDone, ControlError> {
        let (uuid, snapshot, line) = (uuid(n), uuid(to), LineId(line));
        self.control(ControlCommand::Rollback { uuid, snapshot, line, expected_revision: None })
    }

    fn snapshots(&mut self) -> Vec<SnapshotInfo> {
        match self.control(ControlCommand::ListSnapshots) {
            Ok(ControlDone::Snapshots(all)) => all,
            other => panic!("{other:?}"),
        }
    }

    fn at(&self, n: u8) -> VolumeRef {
        self.volumes.find(uuid(n)).unwrap()
    }

    /// The first bytes of a volume's blocks.
    fn firsts(&mut self, n: u8) -> Vec<u8> {
        let at = self.at(n);
        let bytes = self.read(at, 0, 8, 4096);
        bytes.chunks(4096).map(|block| block[0]).collect()
    }

    fn put(&mut self, n: u8, lba: u64, byte: u8) {
        let at = self.at(n);
        self.write(at, lba, &[byte; 4096], 4096);
    }
}

#[test]
fn a_snapshot_holds_what_was_sequenced_before_it_and_a_clone_begins_with_that() {
    let mut bench = Bench::new();
    let at = bench.create(VolumeDescriptor { labels: vec![("k".into(), "v".into())], ..volume(1) });
    bench.put(1, 0, 1);
    // Sequenced in this order, durable together: the first write is in, the second is not.
    let buf = bench.buf(&[2; 4096]);
    bench.send(at, Command::Write { lba: 1, blocks: 1, buf });
    bench.step();
    bench.ask(ControlCommand::CreateSnapshots(vec![snapshot(50, 1)]));
    bench.step();
    assert!(bench.volumes.list_snapshots().is_empty(), "unknown until it is durable");
    let buf = bench.buf(&[3; 4096]);
    bench.send(at, Command::Write { lba: 1, blocks: 1, buf });
    bench.settle();
    let found = bench.snapshots();
    let d = &found[0].descriptor;
    assert_eq!((&*d.name, &*d.volume_name, d.size_bytes, d.revision), ("s50", "v1", BLOCKS * 4096, 1));
    assert_eq!((d.line, d.labels.len()), (LineId(1), 1));
    bench.create(clone_of(2, 50));
    assert_eq!(bench.firsts(2), [1, 2, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bench.firsts(1), [1, 3, 0, 0, 0, 0, 0, 0]);
    bench.put(2, 0, 9);
    assert_eq!((bench.firsts(1)[0], bench.firsts(2)[0]), (1, 9));
    let mut bench = Bench::over(bench.crash(0), Restart::Process);
    assert_eq!(bench.snapshots(), found);
    assert_eq!(bench.firsts(2), [9, 2, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn several_volumes_at_one_instant_or_none_of_them() {
    let mut bench = Bench::new();
    bench.create(volume(1));
    bench.create(volume(2));
    bench.create(VolumeDescriptor { pg: PgId(1), ..volume(3) });
    let both = bench.take(vec![snapshot(50, 1), snapshot(51, 2)]).unwrap();
    assert_eq!(both[0].at, both[1].at);
    for wanted in [
        vec![],
        vec![snapshot(52, 1), snapshot(53, 3)],
        vec![snapshot(52, 1), snapshot(53, 1)],
        vec![SnapshotDescriptor { description: "x".repeat(300), ..snapshot(52, 1) }],
    ] {
        assert!(matches!(bench.take(wanted), Err(ControlError::Invalid { .. })));
    }
    assert_eq!(bench.take(vec![snapshot(50, 2)]), Err(ControlError::Exists));
    assert_eq!(bench.take(vec![snapshot(52, 1), snapshot(53, 9)]), Err(ControlError::NotFound));
    assert_eq!(bench.snapshots().len(), 2);
    let memory = descriptor(4, SectorSize::B4096, VolumeKind::Memory, 8);
    bench.create(memory);
    assert!(matches!(bench.take(vec![snapshot(54, 4)]), Err(ControlError::Invalid { .. })));
}

#[test]
fn a_snapshot_stays_deleting_until_its_last_clone_is_gone() {
    let mut bench = Bench::new();
    bench.create(volume(1));
    bench.put(1, 0, 1);
    bench.take(vec![snapshot(50, 1)]).unwrap();
    bench.create(clone_of(2, 50));
    bench.create(clone_of(3, 50));
    bench.delete(1);
    let wrong = ControlCommand::DeleteSnapshot { uuid: uuid(50), expected_revision: Some(7) };
    assert_eq!(bench.control(wrong), Err(ControlError::Conflict { revision: 1 }));
    bench.drop_snapshot(50).unwrap();
    bench.drop_snapshot(50).unwrap();
    let late = bench.control(ControlCommand::Create(Box::new(clone_of(4, 50))));
    assert!(matches!(late, Err(ControlError::Invalid { field: "source", .. })));
    for n in [2, 3] {
        bench.settle();
        assert_eq!(bench.snapshots()[0].descriptor.state, SnapshotState::Deleting);
        assert_eq!(bench.firsts(n)[0], 1);
        bench = Bench::over(bench.crash(0), Restart::Process);
        bench.settle();
        bench.delete(n);
    }
    bench.settle();
    assert!(bench.snapshots().is_empty() && bench.log.disk.points.is_empty());
    let left = bench.log.disk.objects.keys().filter(|(_, key)| key.kind != kind::GROUP).count();
    assert_eq!(left, 0);
    assert_eq!(bench.drop_snapshot(50), Err(ControlError::NotFound));
}

#[test]
fn a_rollback_waits_for_what_is_under_way_and_brings_the_old_contents_back() {
    let mut bench = Bench::new();
    let at = bench.create(volume(1));
    bench.put(1, 0, 1);
    bench.take(vec![snapshot(50, 1)]).unwrap();
    bench.put(1, 0, 2);
    bench.take(vec![snapshot(51, 1)]).unwrap();
    let grow = VolumeUpdate { size_bytes: Some(16 * 4096), ..VolumeUpdate::default() };
    bench.control(ControlCommand::Update { uuid: uuid(1), update: Box::new(grow) }).unwrap();
    bench.write(at, 12, &[7; 4096], 4096);
    let buf = bench.buf(&[3; 4096]);
    let before = bench.send(at, Command::Write { lba: 1, blocks: 1, buf });
    bench.step();
    let (u, s) = (uuid(1), uuid(50));
    let rollback =
        |line| ControlCommand::Rollback { uuid: u, snapshot: s, line: LineId(line), expected_revision: None };
    let token = bench.ask(rollback(70));
    bench.step();
    let buf = bench.data.alloc(4096).unwrap();
    let after = bench.send(at, Command::Read { lba: 0, blocks: 1, buf });
    let buf = bench.buf(&[4; 4096]);
    bench.send(at, Command::Write { lba: 2, blocks: 1, buf });
    // A snapshot that is asked for meanwhile is of the new contents.
    bench.ask(ControlCommand::CreateSnapshots(vec![snapshot(52, 1)]));
    bench.step();
    assert!(!bench.controls.contains_key(&token));
    bench.settle();
    assert_eq!(bench.replies[&before].result, Ok(Done::Ok));
    assert_eq!(bench.replies[&after].buf.as_ref().unwrap()[0], 1);
    let Ok(ControlDone::Volume(info)) = bench.controls[&token].clone() else { panic!("rolled back") };
    assert_eq!((info.descriptor.line, info.descriptor.size_bytes), (LineId(70), 16 * 4096));
    assert_eq!(bench.firsts(1), [1, 0, 4, 0, 0, 0, 0, 0]);
    assert_eq!(bench.read(at, 12, 1, 4096)[0], 0);
    assert_eq!(
        bench.snapshots().iter().find(|s| s.descriptor.uuid == uuid(52)).unwrap().descriptor.line,
        LineId(70)
    );
    // Forward again, to a newer snapshot; each from its own line. All survives a crash.
    bench.roll_back(1, 51, 71).unwrap();
    assert_eq!(bench.firsts(1)[0], 2);
    let mut bench = Bench::over(bench.crash(0), Restart::Process);
    assert_eq!(bench.firsts(1)[0], 2);
    for n in [50, 51, 52] {
        bench.drop_snapshot(n).unwrap();
    }
    bench.settle();
    assert!(bench.snapshots().is_empty(), "a rolled back volume is no clone");
    assert_eq!(bench.log.disk.lines, [71].into());
    bench.create(volume(2));
    bench.take(vec![snapshot(60, 2)]).unwrap();
    assert!(matches!(bench.roll_back(1, 60, 80), Err(ControlError::Invalid { field: "source", .. })));
    assert!(matches!(bench.roll_back(1, 61, 80), Err(ControlError::Invalid { field: "source", .. })));
    assert!(matches!(bench.roll_back(2, 60, 2), Err(ControlError::Invalid { field: "line", .. })));
    assert_eq!(bench.roll_back(9, 60, 80), Err(ControlError::NotFound));
}

#[test]
fn a_snapshot_stays_while_a_volume_goes_back_to_it() {
    let mut bench = Bench::new();
    let at = bench.create(volume(1));
    bench.put(1, 0, 1);
    bench.take(vec![snapshot(50, 1)]).unwrap();
    bench.put(1, 0, 2);
    let buf = bench.data.alloc(4096).unwrap();
    let read = bench.send(at, Command::Read { lba: 0, blocks: 1, buf });
    bench.step();
    let (u, s) = (uuid(1), uuid(50));
    let line = LineId(70);
    let rollback =
        bench.ask(ControlCommand::Rollback { uuid: u, snapshot: s, line, expected_revision: None });
    bench.step();
    let delete = bench.ask(ControlCommand::DeleteSnapshot { uuid: s, expected_revision: None });
    bench.step();
    // All that can end without the read, ends.
    for _ in 0..2 {
        while let Some(done) = bench.log.end_append() {
            bench.volumes.on_store_done(done);
        }
        bench.step();
    }
    assert!(!bench.replies.contains_key(&read) && !bench.controls.contains_key(&rollback));
    bench.settle();
    let Ok(ControlDone::Volume(info)) = &bench.controls[&rollback] else { panic!("rolled back") };
    assert_eq!(info.descriptor.line, line);
    assert!(bench.controls[&delete].is_ok());
    assert_eq!(bench.firsts(1)[0], 1);
    assert!(bench.snapshots().is_empty() && bench.log.disk.points.is_empty());
}

#[test]
fn clones_fit_their_source_and_lie_sixteen_deep_at_most() {
    let mut bench = Bench::new();
    bench.create(volume(1));
    bench.take(vec![snapshot(101, 1)]).unwrap();
    let make = |bench: &mut Bench, d: VolumeDescriptor| bench.control(ControlCommand::Create(Box::new(d)));
    for (field, d) in [
        ("size_bytes", VolumeDescriptor { size_bytes: 4096, ..clone_of(2, 101) }),
        ("sector", VolumeDescriptor { sector: SectorSize::B512, ..clone_of(2, 101) }),
        ("compression", VolumeDescriptor { compression: false, ..clone_of(2, 101) }),
        ("pg", VolumeDescriptor { pg: PgId(1), ..clone_of(2, 101) }),
        ("pg", VolumeDescriptor { kind: VolumeKind::Memory, ..clone_of(2, 101) }),
        ("source", clone_of(2, 99)),
    ] {
        let refused = make(&mut bench, d);
        assert!(
            matches!(refused, Err(ControlError::Invalid { field: f, .. }) if f == field),
            "{field}: {refused:?}"
        );
    }
    for n in 2..=16 {
        make(&mut bench, clone_of(n, 99 + n)).unwrap();
        bench.take(vec![snapshot(100 + n, n)]).unwrap();
    }
    let deep = make(&mut bench, clone_of(17, 116));
    assert!(matches!(deep, Err(ControlError::Invalid { field: "source", .. })), "{deep:?}");
    assert!(matches!(bench.roll_back(16, 116, 90), Err(ControlError::Invalid { field: "source", .. })));
}

#[test]
fn what_differs_is_listed_in_pages() {
    let mut bench = Bench::new();
    bench.create(volume(1));
    bench.put(1, 0, 1);
    bench.put(1, 1, 1);
    bench.take(vec![snapshot(50, 1)]).unwrap();
    bench.put(1, 1, 2);
    let at = bench.at(1);
    bench.run(at, Command::WriteZeroes { lba: 0, blocks: 1, deallocate: true });
    bench.take(vec![snapshot(51, 1)]).unwrap();
    let ask = |bench: &mut Bench, query: DiffQuery| match bench.control(ControlCommand::Diff(query)) {
        Ok(ControlDone::Diff(page)) => Ok(page),
        Err(error) => Err(error),
        other => panic!("{other:?}"),
    };
    let query = DiffQuery { snapshot: uuid(51), base: Some(uuid(50)), first: Lba(0), limit: 1 };
    let page = ask(&mut bench, query).unwrap();
    assert_eq!((page.ranges[0].lba, page.ranges[0].mapped, page.next), (Lba(0), false, Some(Lba(1))));
    let page = ask(&mut bench, DiffQuery { first: Lba(1), limit: 9, ..query }).unwrap();
    assert_eq!((page.ranges[0].lba, page.ranges[0].mapped, page.next), (Lba(1), true, None));
    let all = ask(&mut bench, DiffQuery { base: None, snapshot: uuid(50), limit: 9, ..query }).unwrap();
    assert_eq!(all.ranges.len(), 2);
    bench.create(volume(2));
    bench.take(vec![snapshot(60, 2)]).unwrap();
    let refused = ask(&mut bench, DiffQuery { base: Some(uuid(60)), ..query });
    assert!(matches!(refused, Err(ControlError::Invalid { field: "base", .. })));
    assert_eq!(ask(&mut bench, DiffQuery { base: Some(uuid(61)), ..query }), Err(ControlError::NotFound));
    assert_eq!(bench.volumes.outstanding(), 0);
}

#[test]
fn a_record_that_is_not_understood_is_left_alone() {
    let mut bench = Bench::new();
    bench.create(volume(1));
    bench.take(vec![snapshot(50, 1)]).unwrap();
    let mut disk = bench.crash(0);
    let place = (PgId(0), Key { kind: kind::SNAPSHOT, id: u128::from_be_bytes([50; 16]) });
    disk.objects.get_mut(&place).unwrap()[0] = 9;
    let mut bench = Bench::over(disk, Restart::Process);
    assert_eq!(bench.snapshots()[0].health, Health::Quarantined);
    assert_eq!(bench.drop_snapshot(50), Err(ControlError::NotReady));
    assert_eq!(bench.control(ControlCommand::Create(Box::new(clone_of(2, 50)))), Err(ControlError::NotReady));
    assert_eq!((bench.log.disk.points.len(), bench.firsts(1)[0]), (1, 0));
}

/// What a random run believes.
#[derive(Default)]
struct Model {
    volumes: BTreeMap<u8, Vec<u8>>,
    snapshots: BTreeMap<u8, (u8, Vec<u8>)>,
}

#[test]
fn random_lives_end_as_a_simple_model_says() {
    for seed in 0..40 {
        let mut rng = Rng(seed);
        let mut bench = Bench::new();
        let mut model = Model::default();
        let (mut next, mut line) = (1u8, 100u64);
        for _ in 0..120 {
            let pick = |rng: &mut Rng, keys: Vec<u8>| {
                (!keys.is_empty()).then(|| keys[usize::try_from(rng.below(keys.len() as u64)).unwrap()])
            };
            let some_volume = pick(&mut rng, model.volumes.keys().copied().collect());
            let some_snapshot = pick(&mut rng, model.snapshots.keys().copied().collect());
            match (rng.below(12), some_volume, some_snapshot) {
                (0, _, _) if next < 250 => {
                    bench.create(volume(next));
                    model.volumes.insert(next, vec![0; 8]);
                    next += 1;
                }
                (1..=4, Some(v), _) => {
                    let (lba, byte) = (rng.below(8), u8::try_from(1 + rng.below(200)).unwrap());
                    bench.put(v, lba, byte);
                    model.volumes.get_mut(&v).unwrap()[usize::try_from(lba).unwrap()] = byte;
                }
                (5 | 6, Some(v), _) if next < 250 => {
                    bench.take(vec![snapshot(next, v)]).unwrap();
                    model.snapshots.insert(next, (v, model.volumes[&v].clone()));
                    next += 1;
                }
                (7, _, Some(s)) if next < 250 => {
                    let made = bench.control(ControlCommand::Create(Box::new(clone_of(next, s))));
                    let held = made.is_ok().then(|| model.snapshots[&s].1.clone());
                    next += u8::from(held.is_some());
                    model.volumes.extend(held.map(|held| (next - 1, held)));
                }
                (8, _, Some(s)) => {
                    let v = model.snapshots[&s].0;
                    line += 1;
                    if model.volumes.contains_key(&v) && bench.roll_back(v, s, line + 1000).is_ok() {
                        model.volumes.insert(v, model.snapshots[&s].1.clone());
                    }
                }
                (9, _, Some(s)) => {
                    bench.drop_snapshot(s).unwrap();
                    model.snapshots.remove(&s);
                }
                (10, Some(v), _) => {
                    bench.delete(v);
                    model.volumes.remove(&v);
                }
                (11, _, _) => bench = Bench::over(bench.crash(0), Restart::Process),
                _ => {}
            }
            bench.settle();
        }
        for (v, bytes) in &model.volumes {
            assert_eq!(bench.firsts(*v), *bytes, "seed {seed}, volume {v}");
        }
        let live = bench.snapshots().into_iter().filter(|s| s.descriptor.state == SnapshotState::Available);
        let live: Vec<u8> = live.map(|s| s.descriptor.uuid.0[0]).collect();
        assert_eq!(live, model.snapshots.keys().copied().collect::<Vec<_>>(), "seed {seed}");
        for v in model.volumes.keys() {
            bench.delete(*v);
        }
        for s in model.snapshots.keys() {
            bench.drop_snapshot(*s).unwrap();
        }
        bench.settle();
        assert!(bench.log.disk.points.is_empty() && bench.log.disk.lines.is_empty(), "seed {seed}");
        assert!(bench.volumes.snapshots.is_empty(), "seed {seed}");
    }
}
