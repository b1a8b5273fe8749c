//! The model against a data plane in a map, under random requests, refusals, lost answers and restarts.

use super::*;
use crate::qos::{NO_LIMIT, PolicyChange, PolicyKey, PolicySpec, QosPolicy, Visibility};
use crate::snapshot::SnapshotSpec;
use dolmen_types::{
    qos::{PerDirection, QosLimits},
    snapshot::{SnapshotDescriptor, SnapshotState},
    volume::{HostAccess, IpAccess, SectorSize, VolumeKind},
};

mod clones;
mod rounds;
mod schedules;
mod turns;

/// A small generator of numbers that look random; the seed is in the failure's message.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

pub(crate) fn spec(name: &str) -> VolumeSpec {
    VolumeSpec {
        name: name.into(),
        project: "default".into(),
        size_bytes: 4096,
        sector: Some(SectorSize::B4096),
        compression: None,
        encryption: None,
        kind: VolumeKind::Durable,
        acl: HostAccess::None,
        ip_acl: IpAccess::Any,
        labels: Vec::new(),
        qos: None,
        source: None,
    }
}

/// A world of a model, a plane that may refuse, lose or delay, and what must hold about them.
struct World {
    seed: u64,
    dice: Dice,
    model: Model,
    saved: Marks,
    plane: BTreeMap<Uuid, VolumeDescriptor>,
    /// Requests that the plane has not answered.
    open: Vec<Command>,
    /// Every NSID and line ever given out.
    nsids: BTreeSet<Nsid>,
    lines: BTreeSet<LineId>,
    /// The snapshots that the plane holds.
    snapshots: BTreeMap<Uuid, SnapshotDescriptor>,
    /// The plane's list, which has not come yet.
    seen: Option<Input>,
    /// The policies in the state file.
    policies: BTreeMap<Uuid, QosPolicy>,
    next: u64,
    answered: BTreeSet<RequestId>,
}

impl World {
    fn new(seed: u64) -> World {
        World {
            seed,
            dice: Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            model: Model::recover(Marks::default(), Marks::default(), Vec::new()),
            saved: Marks::default(),
            plane: BTreeMap::new(),
            open: Vec::new(),
            nsids: BTreeSet::new(),
            lines: BTreeSet::new(),
            snapshots: BTreeMap::new(),
            seen: None,
            policies: BTreeMap::new(),
            next: 0,
            answered: BTreeSet::new(),
        }
    }

    fn feed(&mut self, input: Input) {
        let commands = self.model.step(input);
        let (kept, told) = (self.model.snapshots_want_observation(), self.model.snapshots_are_unsettled());
        assert_eq!(kept, told, "seed {}", self.seed);
        self.take(commands);
    }

    fn take(&mut self, commands: Vec<Command>) {
        let mut refused = false;
        for command in commands {
            match command {
                Command::SaveMarks(_) if self.dice.roll(4) == 0 => {
                    refused = true;
                    self.feed(Input::MarksNotSaved);
                }
                Command::SaveMarks(marks) => self.saved = marks,
                Command::Create(ref d) if refused => self.cannot(d.uuid),
                Command::Rollback { uuid, .. } if refused => self.cannot(uuid),
                Command::Create(ref d) => {
                    assert!(d.nsid <= self.saved.nsid && d.line <= self.saved.line, "seed {}", self.seed);
                    assert!(self.nsids.insert(d.nsid) && self.lines.insert(d.line), "seed {}", self.seed);
                    self.open.push(command);
                }
                Command::Rollback { line, .. } => {
                    assert!(line <= self.saved.line && self.lines.insert(line), "seed {}", self.seed);
                    self.open.push(command);
                }
                Command::Update { .. }
                | Command::Delete { .. }
                | Command::CreateSnapshots(_)
                | Command::DeleteSnapshot { .. } => self.open.push(command),
                Command::AnswerSnapshots { request, .. } => {
                    assert!(self.answered.insert(request), "seed {}: answered twice", self.seed);
                }
                Command::Answer { request, .. } => {
                    assert!(self.answered.insert(request), "seed {}: answered twice", self.seed);
                }
                Command::Record(_) => {}
                Command::SaveSchedule(_) | Command::RemoveSchedule(_) => panic!("there are none"),
            }
        }
    }

    fn cannot(&mut self, uuid: Uuid) {
        let result = Some(Err(PlaneError::Unavailable("no marks".into())));
        self.feed(Input::Answered { uuid, result });
    }

    fn request(&mut self) {
        let request = RequestId(self.next);
        self.next += 1;
        let name = format!("v{}", self.dice.roll(4));
        let key = VolumeKey::Name(name.clone());
        match self.dice.roll(8) {
            0 | 1 => {
                let uuid = Uuid::from_random(u128::from(self.next).to_be_bytes());
                let qos = self.some_policy();
                let source = (self.dice.roll(3) == 0).then(|| self.some_snapshot());
                let spec = VolumeSpec { qos, source, sector: None, ..spec(&name) };
                self.feed(Input::Create { request, spec, uuid, now: UnixMillis(0) });
            }
            2 => {
                let new_name = (self.dice.roll(2) == 0).then(|| format!("v{}", self.dice.roll(4)));
                let qos = self.some_policy();
                let change =
                    VolumeChange { name: new_name, size_bytes: Some(8192), qos, ..VolumeChange::default() };
                self.feed(Input::Update { request, project: None, key, expected: None, change });
            }
            3 => self.feed(Input::Delete { request, project: None, key, expected: None }),
            4 | 5 => {
                let wanted = SnapshotSpec {
                    name: format!("s{}", self.dice.roll(4)),
                    project: "default".into(),
                    volume: key,
                    description: String::new(),
                    retention_ms: (self.dice.roll(3) == 0).then_some(5),
                    policy: None,
                };
                let uuid = Uuid::from_random(u128::from(self.next).to_be_bytes());
                let wanted = vec![(wanted, uuid)];
                self.feed(Input::CreateSnapshots { request: Some(request), wanted, now: UnixMillis(1) });
            }
            6 => {
                let snapshot = self.some_snapshot();
                self.feed(Input::Rollback { request, project: None, key, snapshot, expected: None });
            }
            _ => {
                let key = self.some_snapshot();
                self.feed(Input::DeleteSnapshot { request, project: None, key, expected: None });
            }
        }
    }

    fn some_snapshot(&mut self) -> VolumeKey {
        VolumeKey::Name(format!("s{}", self.dice.roll(4)))
    }

    /// A policy that is there, none, or the default.
    fn some_policy(&mut self) -> Option<PolicyKey> {
        let names: Vec<String> = self.policies.values().map(|p| p.name.clone()).collect();
        match (usize::try_from(self.dice.roll(4)).unwrap(), names.len()) {
            (0, _) | (_, 0) => None,
            (1, _) => Some(PolicyKey::Name(NO_LIMIT.into())),
            (n, len) => Some(PolicyKey::Name(names[n % len].clone())),
        }
    }

    /// A user makes, changes or deletes a policy.
    fn policy(&mut self) {
        let name = format!("p{}", self.dice.roll(2));
        let key = PolicyKey::Name(name.clone());
        let iops = PerDirection { read: u32::try_from(self.dice.roll(9)).unwrap(), write: 0 };
        let limits = QosLimits { iops, ..QosLimits::default() };
        self.next += 1;
        self.answered.insert(RequestId(self.next - 1));
        let uuid = Uuid::from_random(u128::from(self.next).to_be_bytes());
        let changed = match self.dice.roll(4) {
            0 => {
                if let Ok(uuid) = self.model.unused_policy(&key) {
                    self.policies.remove(&uuid);
                    self.model.drop_policy(uuid);
                }
                return;
            }
            1 => {
                let spec = PolicySpec { name, limits, ..PolicySpec::default() };
                self.model.new_policy(spec, uuid)
            }
            _ => {
                let change = PolicyChange { limits: Some(limits), ..PolicyChange::default() };
                self.model.changed_policy(&key, change)
            }
        };
        if let Ok(policy) = changed {
            self.policies.insert(policy.uuid, policy.clone());
            self.model.put_policy(policy);
            let commands = self.model.follow_policies();
            self.take(commands);
        }
    }

    /// Every volume comes to carry its policy as it is.
    fn check_followed(&mut self) {
        for _ in 0..1000 {
            while !self.open.is_empty() {
                self.answer();
            }
            if !self.model.wants_observation() && !self.model.refusals_want_ticks() {
                break;
            }
            self.erase();
            self.observe();
            self.tick();
        }
        let late = |d: &SnapshotDescriptor| d.state == SnapshotState::Available && d.expires.is_some();
        for _ in 0..100 {
            self.tick();
            while !self.open.is_empty() {
                self.answer();
            }
            self.observe();
        }
        assert!(!self.snapshots.values().any(late), "seed {}: one outlives its time", self.seed);
        for copy in self.plane.values().filter_map(|d| d.qos.clone()) {
            let policy = &self.policies[&copy.policy];
            assert_eq!(policy.assignment(), Some(copy), "seed {}", self.seed);
        }
        assert!(self.model.policies().iter().all(|p| !p.updating), "seed {}", self.seed);
    }

    /// The plane does, refuses, or loses the answer of (having done or not done) one open request.
    fn answer(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let at = usize::try_from(self.dice.roll(self.open.len() as u64)).unwrap();
        let command = self.open.swap_remove(at);
        let (does, tells) = (self.dice.roll(4) != 0, self.dice.roll(8) != 0);
        if let Command::CreateSnapshots(_) | Command::DeleteSnapshot { .. } = command {
            return self.answer_snapshots(command, does, tells);
        }
        let uuid = match command {
            Command::Create(d) => {
                let uuid = d.uuid;
                if does {
                    self.plane.insert(uuid, *d);
                }
                uuid
            }
            Command::Update { descriptor, expected_revision } => {
                let uuid = descriptor.uuid;
                assert_eq!(self.plane[&uuid].revision, expected_revision, "seed {}", self.seed);
                if does {
                    self.plane.insert(uuid, *descriptor);
                }
                uuid
            }
            Command::Delete { uuid, expected_revision, new_revision } => {
                let d = self.plane.get_mut(&uuid).unwrap();
                assert_eq!(d.revision, expected_revision, "seed {}", self.seed);
                if does {
                    d.state = VolumeState::Deleting;
                    d.revision = new_revision;
                }
                uuid
            }
            Command::Rollback { uuid, snapshot, line, expected_revision } => {
                let held = self.snapshots[&snapshot].clone();
                let d = self.plane.get_mut(&uuid).unwrap();
                assert_eq!((d.revision, held.volume), (expected_revision, uuid), "seed {}", self.seed);
                if does {
                    (d.line, d.revision) = (line, d.revision + 1);
                    d.size_bytes = d.size_bytes.max(held.size_bytes);
                }
                uuid
            }
            other => panic!("not a request: {other:?}"),
        };
        let told = if does { Ok(()) } else { Err(PlaneError::Unavailable("dice".into())) };
        self.feed(Input::Answered { uuid, result: tells.then_some(told) });
    }

    fn tick(&mut self) {
        self.next += 1;
        self.answered.insert(RequestId(self.next - 1));
        let fresh = vec![Uuid::from_random(u128::from(self.next).to_be_bytes())];
        let now = UnixMillis(10);
        self.feed(Input::Tick { now, dated: now, sure: true, fresh });
    }

    fn answer_snapshots(&mut self, command: Command, does: bool, tells: bool) {
        let (uuids, done) = match command {
            Command::CreateSnapshots(wanted) => {
                let uuids = wanted.iter().map(|d| d.uuid).collect();
                // The plane fills in what it knows better.
                let filled = |d| SnapshotDescriptor { at: dolmen_types::Seq(self.next + 1), ..d };
                (uuids, wanted.into_iter().map(filled).collect::<Vec<_>>())
            }
            Command::DeleteSnapshot { uuid, expected_revision, .. } => {
                let old = self.snapshots[&uuid].clone();
                assert_eq!(old.revision, expected_revision, "seed {}", self.seed);
                let state = SnapshotState::Deleting;
                (vec![uuid], vec![SnapshotDescriptor { state, revision: old.revision + 1, ..old }])
            }
            other => panic!("not of snapshots: {other:?}"),
        };
        let told = if does {
            self.snapshots.extend(done.iter().map(|d| (d.uuid, d.clone())));
            Ok(done)
        } else {
            Err(PlaneError::Unavailable("dice".into()))
        };
        self.feed(Input::SnapshotsAnswered { uuids, result: tells.then_some(told) });
    }

    /// The plane's list comes, of when it was asked for, if it was; else it is asked for now.
    fn look(&mut self) {
        if let Some(seen) = self.seen.take() {
            return self.feed(seen);
        }
        let round = self.model.ask();
        let volumes = self.plane.values().cloned().collect();
        let snapshots = self.snapshots.values().cloned().collect();
        self.seen = Some(Input::Observed { round, volumes, snapshots });
    }

    /// A list comes that was asked for now.
    fn observe(&mut self) {
        if self.seen.is_some() {
            self.look();
        }
        self.look();
        self.look();
    }

    /// The background end of deletions.
    fn erase(&mut self) {
        if self.dice.roll(2) == 0 {
            self.plane.retain(|_, d| d.state != VolumeState::Deleting);
            let clones: BTreeSet<Uuid> =
                self.plane.values().filter_map(|d| Some(d.source.as_ref()?.snapshot)).collect();
            self.snapshots.retain(|uuid, d| d.state != SnapshotState::Deleting || clones.contains(uuid));
        }
    }

    /// The process dies: open requests were done or not, and the model is derived anew.
    fn restart(&mut self) {
        while !self.open.is_empty() {
            self.answer();
        }
        self.seen = None;
        self.model = Model::recover(self.saved, Marks::default(), self.plane.values().cloned().collect());
        self.model.restore_snapshots(self.snapshots.values().cloned().collect());
        if self.dice.roll(4) == 0 {
            // The state file is lost, and with it the policies that no volume has.
            self.policies.clear();
        }
        let stored = self.policies.values().cloned().collect();
        for policy in self.model.restore_policies(stored, None) {
            self.policies.insert(policy.uuid, policy);
        }
        self.check_settled();
    }

    /// With nothing open and nothing in doubt, model and plane say the same.
    fn check_settled(&self) {
        let model: Vec<VolumeDescriptor> = self.model.volumes(None).map(|v| v.descriptor).collect();
        let plane: Vec<VolumeDescriptor> = self.plane.values().cloned().collect();
        assert_eq!(model, plane, "seed {}", self.seed);
        let model: Vec<SnapshotDescriptor> = self.model.snapshots(None).map(|s| s.descriptor).collect();
        let held: Vec<SnapshotDescriptor> = self.snapshots.values().cloned().collect();
        assert_eq!(model, held, "seed {}", self.seed);
        let mut names = BTreeSet::new();
        assert!(held.iter().all(|d| names.insert(d.name.clone())), "seed {}: a name twice", self.seed);
        let mut names = BTreeSet::new();
        for d in plane.iter().filter(|d| d.state == VolumeState::Available) {
            assert!(names.insert(d.name.clone()), "seed {}: name {} twice", self.seed, d.name);
            let key = VolumeKey::Name(d.name.clone());
            assert_eq!(self.model.find(None, &key).unwrap().descriptor.uuid, d.uuid, "seed {}", self.seed);
        }
        assert_eq!(self.model.names.len(), names.len(), "seed {}", self.seed);
        let placed: u32 = self.model.load.iter().map(|load| load.volumes).sum();
        assert_eq!(placed as usize, names.len(), "seed {}", self.seed);
    }
}

#[test]
fn the_model_never_disagrees_with_the_plane() {
    for seed in 1..400 {
        let mut world = World::new(seed);
        for _ in 0..60 {
            match world.dice.roll(15) {
                0..=5 => world.request(),
                6..=8 => world.answer(),
                9 => world.erase(),
                10 => world.look(),
                11 | 12 => world.policy(),
                13 => world.tick(),
                _ if world.dice.roll(4) == 0 => world.restart(),
                _ => {}
            }
        }
        while !world.open.is_empty() {
            world.answer();
        }
        world.observe();
        world.check_settled();
        assert_eq!(world.answered.len() as u64, world.next, "seed {seed}: every caller is answered");
        world.check_followed();
    }
}

fn made(model: &mut Model, name: &str, id: u8) -> VolumeDescriptor {
    let uuid = Uuid::from_random([id; 16]);
    let request = RequestId(u64::from(id));
    let commands = model.step(Input::Create { request, spec: spec(name), uuid, now: UnixMillis(5) });
    let descriptor = commands.into_iter().find_map(|c| match c {
        Command::Create(d) => Some(*d),
        _ => None,
    });
    model.step(Input::Answered { uuid, result: Some(Ok(())) });
    descriptor.unwrap()
}

#[test]
fn volumes_spread_over_the_groups() {
    let mut model = Model::recover(Marks::default(), Marks::default(), Vec::new());
    let groups: BTreeSet<PgId> = (1..=64).map(|id| made(&mut model, &format!("v{id}"), id).pg).collect();
    assert_eq!(groups.len(), 64);
}

#[test]
fn ids_the_log_knows_are_not_given_out_again() {
    let mut model = Model::recover(Marks::default(), Marks::default(), Vec::new());
    let first = made(&mut model, "a", 1);
    // The state file was lost; the log holds one volume and has known line 40.
    let highest = Marks { nsid: Nsid(9), line: LineId(40) };
    let mut model = Model::recover(Marks::default(), highest, vec![first]);
    let second = made(&mut model, "b", 2);
    assert_eq!((second.nsid, second.line), (Nsid(10), LineId(41)));
}

#[test]
fn a_change_under_way_keeps_others_out_and_both_names_taken() {
    let mut model = Model::recover(Marks::default(), Marks::default(), Vec::new());
    let d = made(&mut model, "a", 1);
    let key = VolumeKey::Uuid(d.uuid);
    let rename = |request, name: &str| Input::Update {
        request: RequestId(request),
        project: None,
        key: key.clone(),
        expected: None,
        change: VolumeChange { name: Some(name.into()), ..VolumeChange::default() },
    };
    let refusal = |commands: Vec<Command>| match commands.as_slice() {
        [Command::Answer { result: Err(error), .. }] => error.kind,
        other => panic!("{other:?}"),
    };
    assert!(matches!(model.step(rename(2, "b")).as_slice(), [Command::Update { .. }]));
    assert_eq!(refusal(model.step(rename(3, "c"))), Kind::Unavailable);
    for taken in ["a", "b"] {
        let uuid = Uuid::from_random([9; 16]);
        let create = Input::Create { request: RequestId(4), spec: spec(taken), uuid, now: UnixMillis(0) };
        assert_eq!(refusal(model.step(create)), Kind::AlreadyExists);
    }
    assert_eq!(model.find(None, &key).unwrap().life, Life::Updating);
    model.step(Input::Answered { uuid: d.uuid, result: Some(Ok(())) });
    assert_eq!(model.find(None, &VolumeKey::Name("b".into())).unwrap().descriptor.revision, 2);
    assert!(model.find(None, &VolumeKey::Name("a".into())).is_err());
}

#[test]
fn a_change_to_what_is_so_already_keeps_the_revision() {
    let mut model = Model::recover(Marks::default(), Marks::default(), Vec::new());
    let d = made(&mut model, "a", 1);
    let key = VolumeKey::Uuid(d.uuid);
    let change =
        VolumeChange { size_bytes: Some(d.size_bytes), name: Some("a".into()), ..VolumeChange::default() };
    let same =
        Input::Update { request: RequestId(2), project: None, key: key.clone(), expected: None, change };
    match model.step(same).as_slice() {
        [Command::Answer { result: Ok(view), .. }] => assert_eq!(view.descriptor.revision, d.revision),
        other => panic!("{other:?}"),
    }
    // The next change names the revision that the data plane has.
    let delete = Input::Delete { request: RequestId(3), project: None, key, expected: Some(d.revision) };
    let commands = model.step(delete);
    assert!(matches!(commands.as_slice(), [Command::Delete { expected_revision: 1, .. }]), "{commands:?}");
}

#[test]
fn the_number_of_volumes_is_bounded() {
    let mut model = Model::recover(Marks::default(), Marks::default(), Vec::new());
    let first = made(&mut model, "a", 1);
    let many = (0..limits::MAX_VOLUMES).map(|i| VolumeDescriptor {
        uuid: Uuid::from_random(u128::from(i).to_be_bytes()),
        name: format!("v{i}"),
        ..first.clone()
    });
    let mut model = Model::recover(Marks::default(), Marks::default(), many.collect());
    let uuid = Uuid::from_random([7; 16]);
    let create = Input::Create { request: RequestId(1), spec: spec("one-more"), uuid, now: UnixMillis(0) };
    let commands = model.step(create);
    assert!(matches!(
        commands.as_slice(),
        [Command::Answer { result: Err(Error { kind: Kind::ResourceExhausted, .. }), .. }]
    ));
}

#[test]
fn policies_are_for_whom_they_say_and_stay_while_they_are_needed() {
    let mut model = Model::recover(Marks::default(), Marks::default(), Vec::new());
    assert!(model.restore_policies(Vec::new(), None).is_empty());
    let spec = |name: &str, visibility| PolicySpec { name: name.into(), visibility, ..PolicySpec::default() };
    let add = |model: &mut Model, spec: PolicySpec, n: u8| {
        let policy = model.new_policy(spec, Uuid::from_random([n; 16])).unwrap();
        model.put_policy(policy);
    };
    add(&mut model, spec("all", Visibility::Global), 1);
    add(&mut model, spec("others", Visibility::Scoped(vec!["other".into()])), 2);
    add(&mut model, spec("old", Visibility::Unavailable), 3);
    let key = |name: &str| PolicyKey::Name(name.into());
    let taken = model.new_policy(spec("all", Visibility::Global), Uuid::from_random([4; 16])).unwrap_err();
    assert_eq!(taken.kind, Kind::AlreadyExists);
    for name in ["others", "old", "none"] {
        let why = model.assignment(Some(&key(name)), "default").unwrap_err();
        assert!(why.kind == Kind::InvalidArgument && why.text.starts_with("qosPolicyName: "), "{why}");
        assert!(model.possible_default(&key(name)).is_err());
    }
    assert_eq!(model.assignment(None, "default"), Ok(None));
    assert_eq!(model.assignment(Some(&key(NO_LIMIT)), "default"), Ok(None));
    let all = model.possible_default(&key("all")).unwrap();
    model.set_default_policy(all);
    assert_eq!(model.assignment(None, "default").unwrap().unwrap().policy, all);
    let d = made(&mut model, "v", 9);
    assert_eq!(d.qos.unwrap().name, "all");
    assert!(model.unused_policy(&key("all")).unwrap_err().text.contains("default"));
    for visibility in [Visibility::Unavailable, Visibility::Scoped(vec!["other".into()])] {
        let narrower = PolicyChange { visibility: Some(visibility), ..PolicyChange::default() };
        let why = model.changed_policy(&key("all"), narrower).unwrap_err();
        assert!(why.text.starts_with("policyVisibility: ") && why.text.contains("default"), "{why}");
    }
    model.set_default_policy(model.possible_default(&key(NO_LIMIT)).unwrap());
    assert!(model.unused_policy(&key("all")).unwrap_err().text.contains("1 volumes"));
    assert!(model.unused_policy(&key(NO_LIMIT)).is_err());
    assert!(model.changed_policy(&key(NO_LIMIT), PolicyChange::default()).is_err());
    assert!(model.unused_policy(&key("old")).is_ok());
}
