//! One real core of a node, told what to do by the messages that the daemon's control side uses.

use crate::{Result, world::World};
use dolmen::node::{
    boot::{self, Start},
    core::Core,
    cores::Talk,
    keys::{ClusterKeys, KeySource},
    message::{FromCore, ToCore},
    router::Catalogue,
};
use dolmen_io::{Io, OpenDrive, inbox};
use dolmen_security::{ClusterKey, Imported, Secret};
use dolmen_store::PoolOptions;
use dolmen_target::{Identity, TargetConfig};
use dolmen_types::{
    CoreId, LineId, Nsid, PgId, UnixMillis, Uuid,
    volume::{HostAccess, IpAccess, SectorSize, VolumeDescriptor, VolumeKind, VolumeState},
};
use dolmen_volume::{ControlCommand, Restart};
use std::{
    net::{Ipv4Addr, SocketAddr},
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};
use tokio::sync::mpsc;

/// The subsystem that it serves.
pub(crate) const SUBSYSTEM: &str = "nqn.2020-01.example:guard";

/// What makes keys in a world without secrets.
const CLUSTER_KEY: &str = "dolmen cluster key 1
id  98352ce80ce3d800151d1178fa395037
key 0707070707070707070707070707070707070707070707070707070707070707
";

/// Turns after which something that does not come is given up.
const PATIENCE: usize = 1_000_000;

/// Where it listens.
pub(crate) fn address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 4420))
}

/// How the only volume is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) kind: VolumeKind,
    /// Compressed and encrypted.
    pub(crate) sealed: bool,
    pub(crate) bytes: u64,
}

/// The node.
pub(crate) struct Node {
    pub(crate) core: Core,
    talk: Talk,
    changes: mpsc::UnboundedReceiver<FromCore>,
}

impl Node {
    /// Starts it with one volume, namespace 1, and has it listen.
    pub(crate) fn start(world: &World, volume: Kind) -> Result<Node> {
        let (out, changes) = mpsc::unbounded_channel();
        let io = Io::new(world.driver(0));
        let waker = io.waker();
        let (sender, receiver) = inbox(64, waker.clone());
        let core = Core::new(CoreId(0), 1, io, receiver, out, 0);
        let talk = Talk::new(vec![sender]);
        talk.link(&[waker]);
        let mut node = Node { core, talk, changes };
        node.boot(volume)?;
        Ok(node)
    }

    fn boot(&mut self, volume: Kind) -> Result<()> {
        let text = Secret::new(CLUSTER_KEY.as_bytes().to_vec());
        let Imported::Key(key) = ClusterKey::import(&text, None) else {
            return Err("the key is none".into());
        };
        let keys = Arc::new(ClusterKeys::new(KeySource::Given(key)));
        let drive = OpenDrive { path: "0".into(), create_bytes: None, sparse: false, exclusive: true };
        let pool = PoolOptions {
            shards: 1,
            parity: Some(0),
            unit_bytes: None,
            seed: [7; 32],
            expect: None,
            at_least: 0,
            absent: Vec::new(),
            degraded: false,
            leaving: Vec::new(),
        };
        let start = Start {
            drives: vec![drive],
            pool,
            restart: Restart::PowerOn,
            keys: keys.clone(),
            identity: None,
            unmake: |_| (),
        };
        let talk = self.talk.clone();
        self.wait(async { boot::bring_up(&talk, start).await.map_err(|e| e.to_string()) })??;
        let descriptor = descriptor(volume);
        let (home, pg, line) = (CoreId(0), descriptor.pg, descriptor.line);
        if volume.sealed {
            let made =
                self.wait(async { keys.make(&talk, home, pg, line).await.map_err(|e| format!("{e:?}")) });
            made??;
        }
        let command = ControlCommand::Create(Box::new(descriptor));
        let asked = self.wait(talk.ask(home, |answer| ToCore::Volume { command, answer }))?;
        asked.map_err(|e| e.to_string())?.map_err(|e| format!("making the volume: {e:?}"))?;
        let mut changes = Vec::new();
        while let Ok(told) = self.changes.try_recv() {
            if let FromCore::Change(change) = told {
                changes.push(change);
            }
        }
        let table = Catalogue::new(1, Vec::new()).take(changes);
        let identity = Identity {
            subsystem: SUBSYSTEM.parse()?,
            serial: "1".into(),
            model: "Dolmen".into(),
            firmware: "1".into(),
        };
        let config = Box::new(TargetConfig { io_listen: vec![address()], ..TargetConfig::new(identity) });
        let listening = self.wait(talk.ask(home, |answer| ToCore::Listen { config, table, answer }))?;
        Ok(listening.map_err(|e| e.to_string())??)
    }

    /// Turns until the control side has its answer.
    fn wait<T>(&mut self, job: impl Future<Output = T>) -> Result<T> {
        let mut job = pin!(job);
        for _ in 0..PATIENCE {
            if let Poll::Ready(done) = job.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return Ok(done);
            }
            self.core.turn();
        }
        Err("the core gave no answer".into())
    }
}

fn descriptor(volume: Kind) -> VolumeDescriptor {
    VolumeDescriptor {
        uuid: Uuid([1; 16]),
        name: "guarded".into(),
        project: "default".into(),
        nsid: Nsid(1),
        pg: PgId(0),
        line: LineId(1),
        size_bytes: volume.bytes,
        sector: SectorSize::B4096,
        kind: volume.kind,
        acl: HostAccess::Any,
        ip_acl: IpAccess::Any,
        labels: Vec::new(),
        compression: volume.sealed,
        encryption: volume.sealed,
        qos: None,
        source: None,
        created: UnixMillis(1),
        revision: 1,
        state: VolumeState::Available,
    }
}
