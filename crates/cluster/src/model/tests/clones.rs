//! Snapshots that clones hold back.

use super::*;
use dolmen_types::snapshot::CloneSource;

/// A deleted snapshot is nobody's question while a clone holds it, and is one as soon as the last clone is gone.
#[test]
fn a_deleted_snapshot_is_asked_about_when_its_last_clone_is_gone() {
    let mut before = Model::recover(Marks::default(), Marks::default(), Vec::new());
    let volume = made(&mut before, "v", 1);
    let spec = SnapshotSpec {
        name: "s".into(),
        project: "default".into(),
        volume: VolumeKey::Name("v".into()),
        description: String::new(),
        retention_ms: None,
        policy: None,
    };
    let wanted = vec![(spec, Uuid::from_random([9; 16]))];
    let taken = before.step(Input::CreateSnapshots { request: None, wanted, now: UnixMillis(1) });
    let [Command::CreateSnapshots(taken)] = taken.as_slice() else { panic!("{taken:?}") };
    let snapshot = SnapshotDescriptor { state: SnapshotState::Deleting, ..taken[0].clone() };
    let clone = |id: u8| VolumeDescriptor {
        uuid: Uuid::from_random([id; 16]),
        name: format!("c{id}"),
        nsid: Nsid(u32::from(id)),
        line: LineId(u64::from(id)),
        source: Some(CloneSource { snapshot: snapshot.uuid, name: "s".into() }),
        ..volume.clone()
    };
    let all = [volume.clone(), clone(2), clone(3)];
    let mut model = Model::recover(Marks::default(), Marks::default(), all.to_vec());
    model.restore_snapshots(vec![snapshot.clone()]);
    assert!(!model.wants_observation(), "its clones hold it");
    for (gone, left) in [(2, 2), (3, 1)] {
        let uuid = Uuid::from_random([gone; 16]);
        let (request, key) = (RequestId(u64::from(gone)), VolumeKey::Uuid(uuid));
        model.step(Input::Delete { request, project: None, key, expected: None });
        model.step(Input::Answered { uuid, result: Some(Ok(())) });
        assert!(model.wants_observation(), "a volume is leaving");
        let (round, snapshots) = (model.ask(), vec![snapshot.clone()]);
        let volumes = all.iter().filter(|d| d.uuid == volume.uuid || (left == 2 && d.uuid != uuid)).cloned();
        model.step(Input::Observed { round, volumes: volumes.collect(), snapshots });
        assert_eq!((model.volumes.len(), model.wants_observation()), (left, left == 1));
    }
    let round = model.ask();
    model.step(Input::Observed { round, volumes: vec![volume], snapshots: Vec::new() });
    assert!(model.snapshots(None).next().is_none() && !model.wants_observation());
}
