//! Lists of the data plane that are older than what they are compared with.

use super::*;

/// The space of what was made and deleted while a list was on its way has not come back.
#[test]
fn what_a_list_is_too_old_to_know_is_not_gone() {
    let mut model = Model::recover(Marks::default(), Marks::default(), Vec::new());
    let base = made(&mut model, "base", 1);
    let old = Input::Observed { round: model.ask(), volumes: vec![base.clone()], snapshots: Vec::new() };
    let short = made(&mut model, "short", 2);
    let snapshot = taken(&mut model, "s");
    let clone = VolumeSpec { source: Some(VolumeKey::Name("s".into())), sector: None, ..spec("clone") };
    let (request, uuid) = (RequestId(3), Uuid::from_random([3; 16]));
    model.step(Input::Create { request, spec: clone, uuid, now: UnixMillis(5) });
    model.step(Input::Answered { uuid, result: Some(Ok(())) });
    let (request, key) = (RequestId(4), VolumeKey::Uuid(short.uuid));
    model.step(Input::Delete { request, project: None, key, expected: None });
    model.step(Input::Answered { uuid: short.uuid, result: Some(Ok(())) });
    let (request, key) = (RequestId(5), VolumeKey::Name("s".into()));
    model.step(Input::DeleteSnapshot { request, project: None, key, expected: None });
    let leaving = SnapshotDescriptor { state: SnapshotState::Deleting, revision: 2, ..snapshot };
    let result = Some(Ok(vec![leaving.clone()]));
    model.step(Input::SnapshotsAnswered { uuids: vec![leaving.uuid], result });
    let left = |model: &Model| (model.volumes(None).count(), model.snapshots(None).count());
    assert_eq!((model.step(old), left(&model)), (Vec::new(), (3, 1)));
    // A list of afterwards knows.
    let clone = model.find(None, &VolumeKey::Uuid(uuid)).unwrap().descriptor;
    let (round, volumes) = (model.ask(), vec![base, clone]);
    let commands = model.step(Input::Observed { round, volumes, snapshots: vec![leaving] });
    let erased = |c: &Command| matches!(c, Command::Record(what) if what.name == "VolumeErased");
    assert!(matches!(commands.as_slice(), [c] if erased(c)), "{commands:?}");
    assert_eq!(left(&model), (2, 1));
}

/// A snapshot of the volume 'base' that the data plane took.
fn taken(model: &mut Model, name: &str) -> SnapshotDescriptor {
    let spec = SnapshotSpec {
        name: name.into(),
        project: "default".into(),
        volume: VolumeKey::Name("base".into()),
        description: String::new(),
        retention_ms: None,
        policy: None,
    };
    let uuid = Uuid::from_random([9; 16]);
    let wanted = vec![(spec, uuid)];
    let commands = model.step(Input::CreateSnapshots { request: None, wanted, now: UnixMillis(1) });
    let [Command::CreateSnapshots(taken)] = commands.as_slice() else { panic!("{commands:?}") };
    model.step(Input::SnapshotsAnswered { uuids: vec![uuid], result: Some(Ok(taken.clone())) });
    taken[0].clone()
}
