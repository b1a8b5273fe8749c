//! One real core of a node, told what to do by the messages that the daemon's control side uses.

use crate::{Result, world::World};
use dolmen_core::{
    Core,
    message::{Answer, ToCore},
};
use dolmen_io::{InboxSender, Io, OpenDrive, inbox};
use dolmen_store::{DataKey, Keyring, PoolOptions};
use dolmen_target::{Identity, Namespace, NamespaceTable, TargetConfig};
use dolmen_types::{
    CoreId, LineId, Nsid, PgId, UnixMillis, Uuid,
    volume::{HostAccess, IpAccess, SectorSize, VolumeDescriptor, VolumeKind, VolumeState},
};
use dolmen_volume::{ControlCommand, ControlDone, Restart, VolumeInfo};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, mpsc},
};

/// The subsystem that it serves.
pub(crate) const SUBSYSTEM: &str = "nqn.2020-01.example:guard";

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
    inbox: InboxSender<ToCore>,
}

impl Node {
    /// Starts it with one volume, namespace 1, and has it listen.
    pub(crate) fn start(world: &World, volume: Kind) -> Result<Node> {
        let io = Io::new(world.driver(0));
        let (inbox, receiver) = inbox(64, io.waker());
        let core = Core::new(CoreId(0), 1, io, receiver, Box::new(|_| ()), 0);
        let mut node = Node { core, inbox };
        node.open_pool()?;
        let info = node.make(volume)?;
        node.listen(&info)?;
        Ok(node)
    }

    fn open_pool(&mut self) -> Result<()> {
        let drive = OpenDrive { path: "0".into(), create_bytes: None, sparse: false, exclusive: true };
        let options = PoolOptions {
            shards: 1,
            parity: Some(0),
            unit_bytes: None,
            seed: [7; 32],
            expect: None,
            at_least: Ok(0),
            absent: Vec::new(),
            degraded: false,
            let_go: Vec::new(),
            added: Vec::new(),
        };
        let opened = self.ask(|answer| ToCore::OpenDrives { drives: vec![drive], answer })?;
        let drives =
            opened.into_iter().map(|drive| drive.map(Some)).collect::<std::result::Result<Vec<_>, _>>()?;
        let plan = self.ask(|answer| ToCore::OpenPool { paths: vec!["0".into()], options, answer })?;
        let plan = Arc::new(plan?);
        self.ask(|answer| ToCore::OpenKeys { plan: plan.clone(), drives: drives.clone(), answer })??;
        self.ask(|answer| ToCore::OpenStore { plan, drives, keyring: Keyring::default(), answer })??;
        self.ask(|answer| ToCore::OpenVolumes { restart: Restart::PowerOn, identity: None, answer })?;
        Ok(())
    }

    /// Makes the volume. Its key, if it has one, is in nobody's table: this node starts once only.
    fn make(&mut self, volume: Kind) -> Result<VolumeInfo> {
        let descriptor = descriptor(volume);
        if volume.sealed {
            let (pg, line, key) = (descriptor.pg, descriptor.line, DataKey::new([7; 32]));
            self.ask(|answer| ToCore::AddKey { pg, line, key, answer })?;
        }
        let command = ControlCommand::Create(Box::new(descriptor));
        match self.ask(|answer| ToCore::Volume { command, answer })? {
            Ok(ControlDone::Volume(info)) => Ok(*info),
            other => Err(format!("making the volume: {other:?}").into()),
        }
    }

    fn listen(&mut self, info: &VolumeInfo) -> Result<()> {
        let space = Namespace::of(info);
        let table = Arc::new(NamespaceTable::new(1, vec![Arc::new(space)]));
        let identity = Identity {
            subsystem: SUBSYSTEM.parse()?,
            serial: "1".into(),
            model: "Dolmen".into(),
            firmware: "1".into(),
        };
        let config = Box::new(TargetConfig { io_listen: vec![address()], ..TargetConfig::new(identity) });
        Ok(self.ask(|answer| ToCore::Listen { config, table, answer })??)
    }

    /// Turns until a request has its answer.
    fn ask<T: Send + 'static>(&mut self, make: impl FnOnce(Answer<T>) -> ToCore) -> Result<T> {
        let (sender, receiver) = mpsc::channel();
        let request = make(Answer::new(move |value| drop(sender.send(value))));
        self.inbox.send(request).map_err(|_| "the core takes no request")?;
        for _ in 0..PATIENCE {
            self.core.turn();
            if let Ok(value) = receiver.try_recv() {
                return Ok(value);
            }
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
