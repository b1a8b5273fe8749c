//! Where the time goes, as a whole node tells it: slow drives are blamed, and by name.

use crate::{
    host::{Host, REGION_BYTES},
    nbd::Client,
    node::{Begin, DRIVES, NODE, Process, Standing},
};
use dolmen::node::traces::collect;
use dolmen_cluster::{
    trace::TraceStage,
    why::{Context, Why, look},
};
use dolmen_initiator::load::{Mix, Pattern};
use dolmen_sim::{DriveFaults, Rng, World};
use dolmen_types::{
    CoreId, LineId, Nanos, Nsid, PgId, UnixMillis, Uuid,
    volume::{HostAccess, IpAccess, SectorSize, VolumeDescriptor, VolumeKind, VolumeState},
};
use dolmen_volume::{ControlCommand, ControlDone, Restart, VolumeRef};

const MS: u64 = 1_000_000;
const NSID: Nsid = Nsid(1);

/// A node, its host, and the two in turns.
pub struct Scene {
    pub world: World,
    pub rng: Rng,
    pub process: Process,
    pub host: Option<Host>,
    pub clients: Vec<Client>,
    /// Where the volume is.
    pub at: VolumeRef,
    first: usize,
    outcomes: Vec<(u64, crate::node::Outcome)>,
}

impl Scene {
    /// A node of so many cores that serves this volume.
    pub fn new(seed: u64, cores: usize, volume: &VolumeDescriptor) -> Scene {
        Scene::with_parity(seed, cores, 0, volume)
    }

    /// The same, on drives of which so many may be lost.
    pub fn with_parity(seed: u64, cores: usize, parity: u8, volume: &VolumeDescriptor) -> Scene {
        let (world, mut rng) = (World::new(seed), Rng::new(seed));
        let how = Begin { generation: 1, restart: Restart::PowerOn, parity, drive_bytes: 48 << 20 };
        let process = Process::start(&world, &mut rng, cores, how);
        let at = VolumeRef { core: CoreId(0), slot: 0, generation: 0 };
        let mut scene = Scene {
            world,
            rng,
            process,
            host: None,
            clients: Vec::new(),
            at,
            first: 0,
            outcomes: Vec::new(),
        };
        scene.run(60_000 * MS, |s| s.process.standing() == Standing::Serving);
        scene.process.ask(0, volume.pg, ControlCommand::Create(Box::new(volume.clone())));
        scene.run(10_000 * MS, |s| !s.outcomes.is_empty());
        let Ok(ControlDone::Volume(info)) = &scene.outcomes[0].1 else { panic!("{:?}", scene.outcomes) };
        scene.at = info.at;
        scene
    }

    /// Rounds until something holds or the time is over.
    pub fn run(&mut self, ns: u64, holds: impl Fn(&Scene) -> bool) {
        let until = Nanos(self.world.now().0 + ns);
        while self.world.now() < until && !holds(self) {
            let cores = self.process.cores();
            let clients = cores + usize::from(self.host.is_some());
            let all = clients + self.clients.len();
            // Whoever looked last is not the first to look again.
            self.first = if all > 2 { (self.first + 1) % all } else { 0 };
            for at in (0..all).map(|i| (self.first + i) % all) {
                match &mut self.host {
                    _ if at >= clients => self.clients[at - clients].turn(until),
                    Some(host) if at == cores => host.turn(until, |_, _| ()),
                    _ => self.process.turn_core(at),
                }
            }
            self.process.step(&mut self.outcomes);
        }
    }

    fn why(&mut self) -> Why {
        let mut asked = self.process.traces(NSID.0);
        let mut told = Vec::new();
        for _ in 0..1000 {
            self.run(MS / 10, |_| false);
            asked.retain_mut(|(core, answer)| match answer.try_recv() {
                Ok(report) => {
                    told.push((*core, report));
                    false
                }
                Err(_) => true,
            });
            if asked.is_empty() {
                let drives = DRIVES.map(str::to_owned);
                let told = told.iter().flat_map(|(core, doors)| doors.iter().map(|report| (*core, report)));
                return look(&collect(told, &drives), Context::default());
            }
        }
        panic!("the cores do not tell");
    }
}

pub fn descriptor() -> VolumeDescriptor {
    VolumeDescriptor {
        uuid: Uuid([1; 16]),
        name: "v1".into(),
        project: "default".into(),
        nsid: NSID,
        pg: PgId(7),
        line: LineId(1),
        size_bytes: REGION_BYTES * 2,
        sector: SectorSize::B4096,
        kind: VolumeKind::Durable,
        acl: HostAccess::Any,
        ip_acl: IpAccess::Any,
        labels: vec![],
        compression: true,
        encryption: true,
        qos: None,
        source: None,
        created: UnixMillis(1),
        revision: 1,
        state: VolumeState::Available,
    }
}

#[test]
fn a_slow_drive_is_blamed_and_a_quick_one_is_not() {
    let volume = descriptor();
    let mut scene = Scene::new(11, 2, &volume);
    let world = scene.world.clone();
    let mut host = Host::new(&world, &mut scene.rng, 0, &volume);
    host.load.set_work(Pattern::Random, Mix { reads: 50, zeroes: 0 }, u64::MAX);
    scene.host = Some(host);
    scene.run(200 * MS, |_| false);
    for drive in DRIVES {
        let faults = DriveFaults { latency_ns: (4 * MS, 5 * MS), ..DriveFaults::default() };
        world.set_faults(NODE, drive.as_ref(), faults);
    }
    scene.run(1_500 * MS, |_| false);
    let why = scene.why();
    assert!(why.verdicts.iter().any(|v| v.contains("drive")), "{:?}", why.verdicts);
    assert!(!why.slowest.is_empty() && why.per_second > 10.0, "{why:?}");
    for kind in why.kinds.iter().filter(|kind| ["reads", "writes"].contains(&kind.name)) {
        let share = |stage| kind.stages.iter().find(|s| s.stage == stage).map_or(0.0, |s| s.share);
        // Behind a slow drive commits wait for each other, so both count.
        let drives = share(TraceStage::Drive) + share(TraceStage::Store) + share(TraceStage::Locks);
        assert!(drives > 0.8 && share(TraceStage::Drive) > 0.3, "{kind:?}");
        let drive = kind.drive.as_ref().expect("somebody is to blame");
        assert!(DRIVES.contains(&drive.0.as_str()));
        let sum: f64 = kind.stages.iter().map(|s| s.share).sum();
        assert!((sum - 1.0).abs() < 1e-6, "the stages are the whole: {kind:?}");
        assert!(kind.total.p99_ns >= 4 * MS, "{kind:?}");
    }
}
