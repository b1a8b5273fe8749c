//! What a group refuses for good keeps nobody else from their turn.

use super::{schedules::hourly, *};

/// Group 0 refuses everything; the others do what they are asked.
fn refuses(pg: PgId) -> bool {
    pg == PgId(0)
}

fn refusal<T>() -> Option<Result<T, PlaneError>> {
    Some(Err(PlaneError::Unavailable("the shard has stopped".into())))
}

fn uuid(n: u8) -> Uuid {
    Uuid::from_random([n; 16])
}

/// A model with a volume for each of the groups, by name and id.
fn model(volumes: impl Iterator<Item = (u8, PgId)>) -> Model {
    let first = made(&mut Model::recover(Marks::default(), Marks::default(), Vec::new()), "v", 1);
    let all = volumes.map(|(n, pg)| VolumeDescriptor {
        uuid: uuid(n),
        name: format!("v{n}"),
        pg,
        nsid: Nsid(u32::from(n) + 1),
        line: LineId(u64::from(n) + 1),
        ..first.clone()
    });
    Model::recover(Marks::default(), Marks::default(), all.collect())
}

/// A tick with room for 16 snapshots; those taken, by their policy.
fn tick(model: &mut Model, now: UnixMillis) -> BTreeSet<Uuid> {
    let fresh = |n: u64| Uuid::from_random((u128::from(now.0) << 8 | u128::from(n)).to_be_bytes());
    let mut commands =
        model.step(Input::Tick { now, dated: now, sure: true, fresh: (0..16).map(fresh).collect() });
    let mut taken = BTreeSet::new();
    while let Some(command) = commands.pop() {
        let (uuids, result) = match command {
            Command::CreateSnapshots(wanted) if refuses(wanted[0].pg) => {
                (wanted.iter().map(|d| d.uuid).collect(), refusal())
            }
            Command::CreateSnapshots(wanted) => {
                taken.extend(wanted.iter().filter_map(|d| d.policy));
                (wanted.iter().map(|d| d.uuid).collect(), Some(Ok(wanted)))
            }
            Command::DeleteSnapshot { uuid, pg, .. } if refuses(pg) => (vec![uuid], refusal()),
            Command::DeleteSnapshot { uuid, .. } => {
                let old = model.snapshot(None, &VolumeKey::Uuid(uuid)).unwrap().descriptor;
                let gone = SnapshotDescriptor { state: SnapshotState::Deleting, revision: 2, ..old };
                (vec![uuid], Some(Ok(vec![gone])))
            }
            _ => continue,
        };
        commands.extend(model.step(Input::SnapshotsAnswered { uuids, result }));
    }
    taken
}

#[test]
fn snapshots_that_cannot_be_deleted_keep_no_others() {
    let groups = || (0..40).map(|n| (n, PgId(u32::from(n >= 33))));
    let mut model = model(groups());
    let spec = SnapshotSpec {
        name: "s".into(),
        project: "default".into(),
        volume: VolumeKey::Name("v0".into()),
        description: String::new(),
        retention_ms: Some(1),
        policy: None,
    };
    let first = match model
        .step(Input::CreateSnapshots { request: None, wanted: vec![(spec, uuid(0))], now: UnixMillis(1) })
        .as_slice()
    {
        [Command::CreateSnapshots(made)] => made[0].clone(),
        other => panic!("{other:?}"),
    };
    model.step(Input::SnapshotsAnswered { uuids: vec![uuid(0)], result: refusal() });
    let of = |(n, pg)| SnapshotDescriptor { uuid: uuid(n), name: format!("s{n}"), pg, ..first.clone() };
    model.restore_snapshots(groups().map(of).collect());
    for at in 0..10 {
        tick(&mut model, UnixMillis(1000 + at));
    }
    let left: Vec<PgId> =
        model.snapshots(None).filter(|s| s.life == Life::Available).map(|s| s.descriptor.pg).collect();
    assert_eq!(left, [PgId(0); 33]);
}

#[test]
fn policies_that_cannot_run_keep_no_others() {
    let hour = 3_600_000;
    let mut model = model((0..17).map(|n| (n, PgId(u32::from(n == 16)))));
    for n in 0..17 {
        let plan = SchedulePlan { volume: VolumeKey::Uuid(uuid(n)), ..hourly(&format!("p{n}"), 0) };
        model.put_schedule(model.new_schedule(plan, uuid(n)).unwrap());
    }
    let taken: BTreeSet<Uuid> = (0..10).flat_map(|at| tick(&mut model, UnixMillis(hour + at))).collect();
    assert_eq!(taken, BTreeSet::from([uuid(16)]));
}

/// The volumes have the policy 'p', which is changed then: what the model wants, and the limits that they are to get.
fn changed(model: &mut Model, volumes: impl Iterator<Item = u8>) -> (Vec<Command>, QosLimits) {
    let policy =
        model.new_policy(PolicySpec { name: "p".into(), ..PolicySpec::default() }, uuid(99)).unwrap();
    model.put_policy(policy);
    for n in volumes {
        let change = VolumeChange { qos: Some(PolicyKey::Name("p".into())), ..VolumeChange::default() };
        let key = VolumeKey::Uuid(uuid(n));
        model.step(Input::Update { request: RequestId(0), project: None, key, expected: None, change });
        model.step(Input::Answered { uuid: uuid(n), result: Some(Ok(())) });
    }
    let limits = QosLimits { iops: PerDirection { read: 7, write: 0 }, ..QosLimits::default() };
    let change = PolicyChange { limits: Some(limits), ..PolicyChange::default() };
    let policy = model.changed_policy(&PolicyKey::Name("p".into()), change).unwrap();
    model.put_policy(policy);
    (model.follow_policies(), limits)
}

fn some_time(model: &mut Model) -> Vec<Command> {
    let now = UnixMillis(10);
    model.step(Input::Tick { now, dated: now, sure: true, fresh: Vec::new() })
}

#[test]
fn volumes_that_refuse_their_policy_keep_no_others() {
    let groups = || (0..40).map(|n| (n, PgId(u32::from(n >= 33))));
    let mut model = model(groups());
    let (mut commands, limits) = changed(&mut model, groups().map(|(n, _)| n));
    for _ in 0..10 {
        while let Some(command) = commands.pop() {
            let Command::Update { descriptor, .. } = command else { continue };
            let result = if refuses(descriptor.pg) { refusal() } else { Some(Ok(())) };
            commands.extend(model.step(Input::Answered { uuid: descriptor.uuid, result }));
            let changing = model.volumes(None).filter(|v| v.life == Life::Updating).count();
            assert!(changing <= 32, "a few at a time");
        }
        commands = some_time(&mut model);
    }
    let old: Vec<PgId> = model
        .volumes(None)
        .filter(|v| v.descriptor.qos.as_ref().is_some_and(|q| q.limits != limits))
        .map(|v| v.descriptor.pg)
        .collect();
    assert_eq!(old, [PgId(0); 33]);
    assert!(model.policies().iter().any(|p| p.updating));
}

#[test]
fn a_volume_that_refuses_its_policy_is_asked_ever_more_rarely_and_at_once_when_it_takes_a_change() {
    let mut model = model(std::iter::once((0, PgId(0))));
    let (mut commands, limits) = changed(&mut model, std::iter::once(0));
    let asks = |commands: &[Command]| matches!(commands, [Command::Update { .. }]);
    let mut asked_at = Vec::new();
    for tick in 0..300 {
        if asks(&commands) {
            asked_at.push(tick);
            let nothing = model.step(Input::Answered { uuid: uuid(0), result: refusal() });
            assert!(nothing.is_empty(), "{nothing:?}");
        }
        // Nobody has to look what the volumes are: it has said what it is.
        assert!(!model.wants_observation() && model.wants_ticks());
        assert!(model.policies().iter().any(|p| p.updating));
        let round = model.ask();
        let volumes = model.volumes(None).map(|v| v.descriptor).collect();
        assert!(model.step(Input::Observed { round, volumes, snapshots: Vec::new() }).is_empty());
        commands = some_time(&mut model);
    }
    assert_eq!(asked_at, [0, 1, 3, 7, 15, 31, 63, 127, 191, 255]);
    let change = VolumeChange { name: Some("other".into()), ..VolumeChange::default() };
    let key = VolumeKey::Uuid(uuid(0));
    model.step(Input::Update { request: RequestId(1), project: None, key, expected: None, change });
    let commands = model.step(Input::Answered { uuid: uuid(0), result: Some(Ok(())) });
    assert!(matches!(commands.last(), Some(Command::Update { .. })), "{commands:?}");
    model.step(Input::Answered { uuid: uuid(0), result: Some(Ok(())) });
    assert_eq!(model.volumes(None).next().unwrap().descriptor.qos.unwrap().limits, limits);
    assert!(!model.wants_ticks());
}

/// A model after a restart with so many volumes of a policy 'p', in the order of their UUIDs; the first carry its second state, which is in force,
/// the rest its first.
fn restarted(follow: u16, late: u16) -> Model {
    let limits = QosLimits { iops: PerDirection { read: 7, write: 0 }, ..QosLimits::default() };
    let first = made(&mut Model::recover(Marks::default(), Marks::default(), Vec::new()), "v", 1);
    let mut model = Model::recover(Marks::default(), Marks::default(), Vec::new());
    let spec = PolicySpec { name: "p".into(), limits, ..PolicySpec::default() };
    let old = model.new_policy(spec, uuid(99)).unwrap();
    let new = QosPolicy { revision: 2, ..old.clone() };
    let carries = |policy: &QosPolicy, n: u16| VolumeDescriptor {
        uuid: Uuid::from_random((u128::from(n) << 96).to_be_bytes()),
        name: format!("v{n}"),
        nsid: Nsid(u32::from(n) + 1),
        line: LineId(u64::from(n) + 1),
        qos: policy.assignment(),
        ..first.clone()
    };
    let all = (0..follow + late).map(|n| carries(if n < follow { &new } else { &old }, n));
    model = Model::recover(Marks::default(), Marks::default(), all.collect());
    assert!(model.restore_policies(vec![new], None).is_empty());
    model
}

/// The plane does what the model wants until it wants nothing; how many changes that were. Time does not pass.
fn obeyed(model: &mut Model, mut commands: Vec<Command>) -> usize {
    let mut changes = 0;
    while let Some(command) = commands.pop() {
        let Command::Update { descriptor, .. } = command else { continue };
        changes += 1;
        commands.extend(model.step(Input::Answered { uuid: descriptor.uuid, result: Some(Ok(())) }));
    }
    changes
}

#[test]
fn volumes_that_follow_already_keep_none_that_do_not() {
    let mut model = restarted(200, 100);
    let commands = model.follow_policies();
    assert_eq!(obeyed(&mut model, commands), 100);
    assert!(model.volumes(None).all(|v| v.descriptor.qos.unwrap().revision == 2));
    assert!(model.policies().iter().all(|p| !p.updating));
}

#[test]
fn a_change_of_one_policy_does_not_wait_for_volumes_that_follow_another() {
    let mut model = restarted(1000, 0);
    assert!(model.follow_policies().is_empty());
    // The last one comes to have a policy of its own, which is changed then.
    let last = model.volumes(None).last().unwrap().descriptor.uuid;
    let spec = PolicySpec { name: "q".into(), ..PolicySpec::default() };
    let own = model.new_policy(spec, uuid(98)).unwrap();
    model.put_policy(own.clone());
    let qos = Some(PolicyKey::Uuid(own.uuid));
    let (key, change) = (VolumeKey::Uuid(last), VolumeChange { qos, ..VolumeChange::default() });
    model.step(Input::Update { request: RequestId(0), project: None, key, expected: None, change });
    model.step(Input::Answered { uuid: last, result: Some(Ok(())) });
    model.put_policy(QosPolicy { revision: 2, ..own });
    let commands = model.follow_policies();
    assert!(
        matches!(commands.as_slice(), [Command::Update { descriptor, .. }] if descriptor.uuid == last),
        "{commands:?}"
    );
}
