//! Create, update, delete; crashes at each step; records that are not understood.

use super::*;
use crate::group::kind;
use dolmen_store::Key;
use dolmen_types::{Epoch, Seq};

fn sample(n: u8) -> VolumeDescriptor {
    descriptor(n, SectorSize::B4096, VolumeKind::Durable, 64)
}

fn create(d: VolumeDescriptor) -> ControlCommand {
    ControlCommand::Create(Box::new(d))
}

fn update(n: u8, update: VolumeUpdate) -> ControlCommand {
    ControlCommand::Update { uuid: Uuid([n; 16]), update: Box::new(update) }
}

fn delete(n: u8) -> ControlCommand {
    ControlCommand::Delete { uuid: Uuid([n; 16]), expected_revision: None }
}

fn list(bench: &mut Bench) -> Vec<VolumeInfo> {
    match bench.control(ControlCommand::List) {
        Ok(ControlDone::List(list)) => list,
        other => panic!("{other:?}"),
    }
}

fn shown(result: Result<ControlDone, ControlError>) -> VolumeInfo {
    match result {
        Ok(ControlDone::Volume(info)) => *info,
        other => panic!("{other:?}"),
    }
}

#[test]
fn creating_is_durable_idempotent_and_checked() {
    let mut bench = Bench::new();
    let first = shown(bench.control(create(sample(1))));
    assert_eq!((first.descriptor.revision, first.usage.mapped_blocks), (1, 0));
    assert_eq!(shown(bench.control(create(sample(1)))), first);
    let other = VolumeDescriptor { size_bytes: 4096, ..sample(1) };
    assert_eq!(bench.control(create(other)), Err(ControlError::Exists));
    let taken = VolumeDescriptor { nsid: Nsid(1), ..sample(2) };
    assert!(matches!(bench.control(create(taken)), Err(ControlError::Invalid { field: "nsid", .. })));
    let elsewhere = VolumeDescriptor { pg: PgId(5), ..sample(2) };
    assert!(matches!(bench.control(create(elsewhere)), Err(ControlError::Invalid { field: "pg", .. })));
    let odd = VolumeDescriptor { size_bytes: 5000, ..sample(2) };
    assert!(matches!(bench.control(create(odd)), Err(ControlError::Invalid { field: "size_bytes", .. })));
    assert_eq!(list(&mut bench), std::slice::from_ref(&first));
    let mut bench = Bench::over(bench.crash(0), Restart::Process);
    assert_eq!(list(&mut bench)[0].descriptor, first.descriptor);
    assert!(matches!(&bench.changes[..], [Change::Present(info)] if info.descriptor == first.descriptor));
}

#[test]
fn a_volume_is_unknown_until_it_is_durable() {
    for also in [0, 1] {
        let mut bench = Bench::new();
        let token = bench.ask(create(sample(1)));
        let again = bench.ask(create(sample(1)));
        bench.step();
        assert!(!bench.controls.contains_key(&token) && bench.changes.is_empty());
        let at = VolumeRef { core: CORE, slot: 0, generation: 1 };
        let early = bench.send(at, Command::Flush);
        bench.step();
        assert_eq!(bench.replies[&early].result, Err(VolumeError::Gone));
        assert!(!bench.controls.contains_key(&again));
        let mut bench = Bench::over(bench.crash(also), Restart::Process);
        assert_eq!(list(&mut bench).len(), also);
    }
}

#[test]
fn each_opening_is_a_new_epoch_with_numbers_beyond_all_before() {
    let mut bench = Bench::new();
    let volume = bench.create(sample(1));
    bench.write(volume, 0, &[1; 4096], 4096);
    let before = bench.log.disk.marks[&PgId(1)];
    assert_eq!(before.epoch, Epoch(1));
    let bench = Bench::over(bench.crash(0), Restart::Process);
    let after = bench.log.disk.marks[&PgId(1)];
    assert_eq!(after.epoch, Epoch(2));
    assert!(
        after.highest_seq > Seq(before.highest_seq.0 + 1_000_000),
        "far beyond what may have been under way"
    );
}

#[test]
fn updates_change_what_they_say_at_the_revision_they_expect() {
    let mut bench = Bench::new();
    bench.create(sample(1));
    let change = VolumeUpdate {
        expected_revision: Some(1),
        name: Some("new".into()),
        size_bytes: Some(128 * 4096),
        acl: Some(HostAccess::None),
        labels: Some(vec![("a".into(), "b".into())]),
        ..VolumeUpdate::default()
    };
    let info = shown(bench.control(update(1, change.clone())));
    assert_eq!((info.descriptor.revision, &*info.descriptor.name), (2, "new"));
    assert_eq!(bench.control(update(1, change)), Err(ControlError::Conflict { revision: 2 }));
    assert_eq!(bench.control(update(3, VolumeUpdate::default())), Err(ControlError::NotFound));
    assert_eq!(shown(bench.control(update(1, VolumeUpdate::default()))), info, "nothing to change");
    bench.write(info.at, 127, &[1; 4096], 4096);
    let mut bench = Bench::over(bench.crash(0), Restart::Process);
    assert_eq!(list(&mut bench)[0].descriptor, info.descriptor);
    assert_eq!(list(&mut bench)[0].usage.mapped_blocks, 1);
}

#[test]
fn shrinking_discards_only_when_asked_and_only_for_good() {
    for kind in [VolumeKind::Durable, VolumeKind::Memory] {
        let mut bench = Bench::new();
        let volume = bench.create(descriptor(1, SectorSize::B4096, kind, 64));
        bench.write(volume, 40, &[1; 4096], 4096);
        bench.write(volume, 5, &[2; 4096], 4096);
        let mut change = VolumeUpdate { size_bytes: Some(10 * 4096), ..VolumeUpdate::default() };
        let refused = bench.control(update(1, change.clone()));
        assert!(matches!(refused, Err(ControlError::Invalid { field: "size_bytes", .. })));
        change.shrink = Shrink::Discard;
        // A command beyond the new end that was sequenced before is finished first; one that comes after is refused.
        let command = Command::Write { lba: 41, blocks: 1, buf: bench.buf(&[3; 4096]) };
        let before = bench.send(volume, command);
        bench.step();
        let token = bench.ask(update(1, change));
        bench.step();
        let command = Command::Write { lba: 42, blocks: 1, buf: bench.buf(&[3; 4096]) };
        let after = bench.send(volume, command);
        bench.settle();
        assert_eq!(bench.replies[&before].result, Ok(Done::Ok));
        assert_eq!(bench.replies[&after].result, Err(VolumeError::OutOfRange));
        assert!(bench.controls[&token].is_ok());
        assert_eq!(list(&mut bench)[0].usage.mapped_blocks, 1);
        let grow = VolumeUpdate { size_bytes: Some(64 * 4096), ..VolumeUpdate::default() };
        shown(bench.control(update(1, grow)));
        assert!(bench.read(volume, 40, 3, 4096).iter().all(|&b| b == 0));
        assert!(bench.read(volume, 5, 1, 4096).iter().all(|&b| b == 2));
    }
}

#[test]
fn deleting_survives_a_crash_at_each_step() {
    for steps in 0..4 {
        let mut bench = Bench::new();
        let volume = bench.create(sample(1));
        bench.write(volume, 0, &[1; 4096], 4096);
        let token = bench.ask(delete(1));
        bench.step();
        for _ in 0..steps {
            if let Some(done) = bench.log.end_append() {
                bench.volumes.on_store_done(done);
            }
            bench.step();
            bench.step();
        }
        let answered = bench.controls.contains_key(&token);
        assert_eq!(answered, steps > 0);
        let mut bench = Bench::over(bench.crash(0), Restart::Process);
        bench.settle();
        let left = list(&mut bench).len();
        assert_eq!(left, usize::from(!answered), "after {steps} appends");
        if answered {
            assert!(bench.log.disk.lines.is_empty() && bench.log.disk.blocks.is_empty());
            let of_volume = |(_, key): &&(PgId, Key)| key.kind != kind::GROUP;
            assert_eq!(bench.log.disk.objects.keys().filter(of_volume).count(), 0);
        }
    }
}

#[test]
fn deleting_waits_for_commands_under_way_and_refuses_new_ones() {
    let mut bench = Bench::new();
    let volume = bench.create(sample(1));
    let command = Command::Write { lba: 0, blocks: 1, buf: bench.buf(&[1; 4096]) };
    let write = bench.send(volume, command);
    bench.step();
    bench.ask(delete(1));
    let again = bench.ask(delete(1));
    bench.step();
    let late = bench.send(volume, Command::Flush);
    bench.settle();
    assert_eq!(bench.replies[&write].result, Ok(Done::Ok));
    assert_eq!(bench.replies[&late].result, Err(VolumeError::Gone));
    assert!(matches!(&bench.controls[&again], Ok(_) | Err(ControlError::NotFound)));
    assert_eq!(bench.changes.last(), Some(&Change::Gone(Uuid([1; 16]))));
    assert_eq!(bench.control(delete(1)), Err(ControlError::NotFound));
    // The slot is used again under a new generation.
    let next = bench.create(sample(2));
    assert_eq!((next.slot, next.generation), (volume.slot, volume.generation + 1));
    assert_eq!(bench.run(volume, Command::Flush).result, Err(VolumeError::Gone));
}

#[test]
fn what_is_not_understood_quarantines_one_volume() {
    for (kind, version) in [(kind::DESCRIPTOR, 9), (kind::DESCRIPTOR, 0), (kind::RESERVATIONS, 9)] {
        let mut bench = Bench::new();
        let good = bench.create(sample(2));
        bench.create(sample(1));
        bench.write(good, 0, &[1; 4096], 4096);
        let mut disk = bench.crash(0);
        let id = u128::from_be_bytes([1; 16]);
        let place = (PgId(1), Key { kind, id });
        let mut value = disk.objects.get(&place).cloned().unwrap_or_else(|| vec![0; 40].into());
        value[0] = version;
        disk.objects.insert(place, value.clone());
        let mut bench = Bench::over(disk, Restart::Process);
        let bad = bench.volumes.find(Uuid([1; 16])).unwrap();
        let health = list(&mut bench).into_iter().find(|i| i.at == bad).unwrap().health;
        assert_eq!(health, Health::Quarantined);
        assert_eq!(bench.run(bad, Command::Flush).result, Err(VolumeError::NotReady));
        assert_eq!(bench.control(delete(1)), Err(ControlError::NotReady));
        assert_eq!(bench.log.disk.objects[&place], value, "left as it is");
        let good = bench.volumes.find(Uuid([2; 16])).unwrap();
        assert!(bench.read(good, 0, 1, 4096).iter().all(|&b| b == 1));
    }
}

#[test]
fn an_encrypted_volume_needs_its_key() {
    let mut bench = Bench::new();
    let secret = VolumeDescriptor { encryption: true, ..sample(1) };
    let refused = bench.control(create(secret.clone()));
    assert!(matches!(refused, Err(ControlError::Invalid { field: "encryption", .. })), "{refused:?}");
    bench.log.disk.keys.insert(secret.line.0);
    assert!(shown(bench.control(create(secret.clone()))).descriptor.encryption);
    shown(bench.control(create(sample(2))));
    let mut disk = bench.crash(0);
    let health = |disk: Disk| {
        let mut bench = Bench::over(disk, Restart::Process);
        let mut all = list(&mut bench);
        all.sort_by_key(|info| info.descriptor.uuid);
        all.iter().map(|info| info.health).collect::<Vec<_>>()
    };
    assert_eq!(health(disk.clone()), [Health::Good, Health::Good]);
    disk.keys.clear();
    assert_eq!(health(disk.clone()), [Health::Quarantined, Health::Good]);
    // It takes no command and no change, and can be deleted, for good.
    let mut bench = Bench::over(disk, Restart::Process);
    let locked = bench.volumes.find(Uuid([1; 16])).unwrap();
    assert_eq!(bench.run(locked, Command::Flush).result, Err(VolumeError::NotReady));
    let change = VolumeUpdate { size_bytes: Some(64 * 4096), ..VolumeUpdate::default() };
    assert_eq!(bench.control(update(1, change)), Err(ControlError::NotReady));
    bench.control(delete(1)).unwrap();
    bench.settle();
    assert!(bench.volumes.find(Uuid([1; 16])).is_none());
    let disk = bench.crash(0);
    assert_eq!(health(disk), [Health::Good]);
}
