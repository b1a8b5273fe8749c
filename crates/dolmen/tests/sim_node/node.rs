//! A node's data side in a simulated world: real cores, turned in one thread, told what to do by the messages that
//! the daemon's control side uses.

use dolmen::node::{
    ServeError,
    boot::{self, Booted, Start},
    cores::{Talk, news},
    keys::{ClusterKeys, KeySource},
    router::Catalogue,
};
use dolmen_core::{
    Core, home_core,
    message::{Answer, FromCore, ToCore},
    report::CoreReport,
};
use dolmen_export::{
    Export, Exports,
    nbd::{Listen, ServerConfig},
};
use dolmen_io::trace::TraceReport;
use dolmen_io::{Io, OpenDrive, PoolConfig, inbox};
use dolmen_security::{ClusterKey, Imported, Secret};
use dolmen_sim::{CoreConfig, NodeId, Rng, World};
use dolmen_store::{PoolOptions, PoolPlan};
use dolmen_target::{Identity, NamespaceTable, TargetConfig};
use dolmen_types::{CoreId, LineId, PgId};
use dolmen_volume::{ControlCommand, ControlDone, ControlError, Restart};
use std::{
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};
use tokio::sync::{mpsc, oneshot};

/// The machine that the node runs on.
pub const NODE: NodeId = NodeId(0);
/// The subsystem that it serves.
pub const SUBSYSTEM: &str = "nqn.2020-01.example:simulated";
/// Its drives.
pub const DRIVES: [&str; 2] = ["d0", "d1"];

/// Buffers of one core. Each shard keeps some large ones for itself, and all shards may live on one core.
const POOL_BYTES: usize = 48 << 20;
const UNIT_BYTES: u32 = 128 * 1024;

/// The cluster key of all runs.
const CLUSTER_KEY: &str = "dolmen cluster key 1
id  98352ce80ce3d800151d1178fa395037
key 0707070707070707070707070707070707070707070707070707070707070707
";

/// What came of a request to a volume.
pub type Outcome = Result<ControlDone, ControlError>;

/// A conversation of the control side with the cores.
type Job<T> = Pin<Box<dyn Future<Output = Result<T, ServeError>>>>;

/// What the process is doing.
enum Phase {
    Booting(Job<Booted>),
    Listening(Job<()>),
    Serving,
    Stopping(Job<()>),
}

/// One life of the process.
pub struct Process {
    cores: Vec<Core>,
    talk: Talk,
    keys: Arc<ClusterKeys>,
    changes: mpsc::UnboundedReceiver<FromCore>,
    catalogue: Catalogue,
    plan: Option<Arc<PoolPlan>>,
    phase: Phase,
    asked: Vec<(u64, Job<Outcome>)>,
    /// Turns of all cores.
    pub turns: u64,
}

/// How a process starts.
#[derive(Clone, Copy, Debug)]
pub struct Begin {
    /// The node's count of starts.
    pub generation: u64,
    pub restart: Restart,
    /// Drives that a new pool can lose.
    pub parity: u8,
    /// Size of each drive, should it be made.
    pub drive_bytes: u64,
}

/// Where the process has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Starting,
    Serving,
    Stopping,
    /// Ended in an orderly way.
    Over,
}

impl Process {
    /// Starts the process with so many cores.
    pub fn start(world: &World, rng: &mut Rng, cores: usize, how: Begin) -> Process {
        let (out, changes) = mpsc::unbounded_channel();
        let spin_ns = [0, 0, 2_000][rng.index(3)];
        let (mut all, mut inboxes, mut wakers) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..cores {
            let config = CoreConfig { node: NODE, pool: PoolConfig::sized(POOL_BYTES) };
            let io = Io::new(Box::new(world.driver(config)));
            let waker = io.waker();
            let (sender, receiver) = inbox(4096, waker.clone());
            all.push(Core::new(core_id(index), cores, io, receiver, news(out.clone()), spin_ns));
            inboxes.push(sender);
            wakers.push(waker);
        }
        let talk = Talk::new(inboxes);
        talk.link(&wakers);
        let mut seed = [0; 32];
        rng.fill(&mut seed);
        let shards = u16::try_from(rng.between(1, 4)).unwrap();
        let drive = |path: &&str| OpenDrive {
            path: path.into(),
            create_bytes: Some(how.drive_bytes),
            sparse: true,
            exclusive: true,
        };
        let parity = Some(how.parity);
        let pool = PoolOptions {
            shards,
            parity,
            unit_bytes: Some(UNIT_BYTES),
            seed,
            expect: None,
            at_least: Ok(0),
            absent: Vec::new(),
            degraded: false,
            let_go: Vec::new(),
            added: Vec::new(),
        };
        let drives = DRIVES.iter().map(drive).collect();
        // One key for all runs: what is random in a run follows from its seed, and data keys change no course of events.
        let text = Secret::new(CLUSTER_KEY.as_bytes().to_vec());
        let Imported::Key(key) = ClusterKey::import(&text, None) else { panic!("the key is none") };
        let keys = Arc::new(ClusterKeys::new(KeySource::Given(key)));
        let start = Start {
            drives,
            pool,
            restart: how.restart,
            keys: keys.clone(),
            identity: None,
            leaving: Vec::new(),
            unmake: |_| (),
        };
        let job = {
            let talk = talk.clone();
            async move { boot::bring_up(&talk, start).await }
        };
        Process {
            cores: all,
            talk,
            keys,
            changes,
            catalogue: Catalogue::new(how.generation << 32, Vec::new()),
            plan: None,
            phase: Phase::Booting(Box::pin(job)),
            asked: Vec::new(),
            turns: 0,
        }
    }

    pub fn cores(&self) -> usize {
        self.cores.len()
    }

    pub fn describe(&self) -> String {
        let pool = self.plan.as_ref().map(|p| {
            let units: Vec<u32> = p.drives.iter().map(|d| d.units).collect();
            (p.shards, units)
        });
        format!("{} cores, shards and units {pool:?}", self.cores.len())
    }

    pub fn turn_core(&mut self, index: usize) {
        self.turns += 1;
        let _ = self.cores[index].turn();
    }

    pub fn standing(&self) -> Standing {
        match self.phase {
            Phase::Booting(_) | Phase::Listening(_) => Standing::Starting,
            Phase::Serving => Standing::Serving,
            Phase::Stopping(_) => Standing::Stopping,
        }
    }

    /// Asks the home of a protection group; the outcome comes from [`Process::step`] with the number.
    pub fn ask(&mut self, number: u64, pg: dolmen_types::PgId, command: ControlCommand) {
        let plan = self.plan.as_ref().expect("asked only while serving");
        let (talk, core) = (self.talk.clone(), home_core(plan, pg, self.cores.len()));
        let (keys, keyed) = (self.keys.clone(), keyed(&command));
        let job = async move {
            if let Some((pg, line)) = keyed {
                keys.make(&talk, core, pg, line).await.expect("a new line gets a key");
            }
            talk.ask(core, |answer| ToCore::Volume { command, answer }).await
        };
        self.asked.push((number, Box::pin(job)));
    }

    /// Asks one core something.
    pub fn tell<T: Send + 'static>(
        &self,
        core: CoreId,
        ask: impl FnOnce(Answer<T>) -> ToCore,
    ) -> oneshot::Receiver<T> {
        at_once(self.talk.send(core, ask))
    }

    /// Asks every core for its report, for nobody.
    pub fn report(&self) {
        for core in self.talk.ids() {
            drop(at_once(self.talk.send(core, |answer| ToCore::Report { answer })));
        }
    }

    /// Asks every core for its report.
    pub fn reports(&self) -> Vec<(CoreId, oneshot::Receiver<Box<CoreReport>>)> {
        let ask = |core| (core, at_once(self.talk.send(core, |answer| ToCore::Report { answer })));
        self.talk.ids().map(ask).collect()
    }

    /// Asks every core where the time of a namespace's commands went.
    pub fn traces(&self, nsid: u32) -> Vec<(CoreId, oneshot::Receiver<[TraceReport; 3]>)> {
        let ask = |core| (core, at_once(self.talk.send(core, |answer| ToCore::Traces { nsid, answer })));
        self.talk.ids().map(ask).collect()
    }

    /// Has every core serve this to NBD clients.
    pub fn open_nbd(&self, at: SocketAddr, export: Export) {
        let exports = Arc::new(Exports::new(vec![Arc::new(export)]));
        for core in self.talk.ids() {
            let config = Box::new(ServerConfig::new(vec![Listen::Tcp(at)]));
            let exports = exports.clone();
            drop(at_once(self.talk.send(core, |answer| ToCore::ListenNbd { config, exports, answer })));
        }
    }

    /// Begins an orderly end.
    pub fn stop(&mut self) {
        let talk = self.talk.clone();
        self.phase = Phase::Stopping(Box::pin(async move {
            talk.ask_all(|answer| ToCore::Drain { answer }).await?;
            talk.ask_all(|answer| ToCore::Close { answer }).await?;
            Ok(())
        }));
    }

    /// The control side's part; answers to [`Process::ask`] are appended to `out`.
    pub fn step(&mut self, out: &mut Vec<(u64, Outcome)>) -> Standing {
        self.publish();
        match &mut self.phase {
            Phase::Serving => {}
            Phase::Booting(job) => {
                if let Some(booted) = poll(job) {
                    self.plan = Some(booted.plan);
                    drop(
                        self.catalogue.take(
                            booted
                                .volumes
                                .into_iter()
                                .map(|v| dolmen_volume::Change::Present(v.into()))
                                .collect(),
                        ),
                    );
                    let (talk, table) = (self.talk.clone(), self.catalogue.table());
                    self.phase = Phase::Listening(Box::pin(listen(talk, table)));
                }
            }
            Phase::Listening(job) => {
                if poll(job).is_some() {
                    self.phase = Phase::Serving;
                }
            }
            Phase::Stopping(job) => {
                if poll(job).is_some() {
                    return Standing::Over;
                }
            }
        }
        self.asked.retain_mut(|(number, job)| match poll(job) {
            None => true,
            Some(outcome) => {
                out.push((*number, outcome));
                false
            }
        });
        self.standing()
    }

    /// Puts what changed into force on every core.
    fn publish(&mut self) {
        let mut batch = Vec::new();
        while let Ok(told) = self.changes.try_recv() {
            if let FromCore::Change(change) = told {
                batch.push(change);
            }
        }
        if batch.is_empty() {
            return;
        }
        let table = self.catalogue.take(batch);
        for core in self.talk.ids() {
            drop(at_once(self.talk.send(core, |answer| ToCore::Namespaces { table: table.clone(), answer })));
        }
    }
}

fn core_id(index: usize) -> CoreId {
    CoreId(u16::try_from(index).unwrap())
}

fn poll<T>(job: &mut Job<T>) -> Option<T> {
    match job.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Pending => None,
        Poll::Ready(result) => Some(result.unwrap()),
    }
}

/// What needs not wait, since the cores have room.
fn at_once<T>(sending: impl Future<Output = Result<T, ServeError>>) -> T {
    match pin!(sending).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Pending => panic!("a core has too many requests before it"),
        Poll::Ready(sent) => sent.unwrap(),
    }
}

async fn listen(talk: Talk, table: Arc<NamespaceTable>) -> Result<(), ServeError> {
    let identity = Identity {
        subsystem: SUBSYSTEM.parse().unwrap(),
        serial: "1".into(),
        model: "Dolmen".into(),
        firmware: "1".into(),
    };
    for core in talk.ids() {
        let config = TargetConfig {
            core,
            cores: u16::try_from(talk.count()).unwrap(),
            io_listen: vec![address()],
            ..TargetConfig::new(identity.clone())
        };
        let (config, table) = (Box::new(config), table.clone());
        talk.ask(core, |answer| ToCore::Listen { config, table, answer }).await?.unwrap();
    }
    Ok(())
}

/// Where the node listens.
pub fn address() -> SocketAddr {
    SocketAddr::new(NODE.addr(), 4420)
}

/// The line that a command makes, if it needs a key.
fn keyed(command: &ControlCommand) -> Option<(PgId, LineId)> {
    match command {
        ControlCommand::Create(d) if d.encryption => Some((d.pg, d.line)),
        _ => None,
    }
}
