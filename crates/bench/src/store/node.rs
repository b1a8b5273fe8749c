//! A node of the daemon's own parts, in this process: one core on a CPU of its own, a target that listens, and drives in memory.
//! The daemon itself takes no such drives: what is written to them is gone with the process.

use super::{
    gauge::{Gauge, Gauged},
    host::Goal,
    machine,
    ram::Drives,
    split::Split,
};
use crate::{Result, cores, loopback};
use dolmen::node::{
    boot::{Start, bring_up},
    cores::{Talk, news},
    keys::{ClusterKeys, KeySource},
    router::Catalogue,
};
use dolmen_core::{
    Core,
    message::{Answer, FromCore, ToCore},
};
use dolmen_io::{InboxSender, Io, OpenDrive, PoolConfig, inbox};
use dolmen_security::ClusterKey;
use dolmen_store::PoolOptions;
use dolmen_target::{Identity, TargetConfig};
use dolmen_types::{CoreId, volume::VolumeKind};
use dolmen_uring::{Uring, UringConfig};
use dolmen_volume::{ControlCommand, Restart};
use std::{
    net::{SocketAddr, TcpListener},
    sync::{Arc, mpsc as std_mpsc},
    thread::JoinHandle,
};
use tokio::{runtime::Runtime, sync::mpsc};

/// Address space of the core's buffers, as in the daemon. Bytes.
const POOL_BYTES: usize = 256 << 20;
/// How long the core polls after the last work, as in the daemon. Nanoseconds.
const SPIN_NS: u64 = 50_000;
/// Requests that may wait for the core.
const INBOX: usize = 64;

const CORE: CoreId = CoreId(0);
const SUBSYSTEM: &str = "nqn.2020-01.example:bench";

/// See the module.
pub(crate) struct Node {
    talk: Talk,
    runtime: Runtime,
    changes: mpsc::UnboundedReceiver<FromCore>,
    catalogue: Catalogue,
    addr: SocketAddr,
    thread: Option<JoinHandle<()>>,
    /// How busy the core is.
    pub(crate) gauge: Arc<Gauge>,
}

impl Node {
    /// Starts a node over the first of these drives, on this CPU, and has it listen.
    pub(crate) fn start(drives: &Drives, cpu: usize) -> Result<Node> {
        let (out, changes) = mpsc::unbounded_channel();
        let (ready, started) = std_mpsc::channel();
        let gauge = Arc::new(Gauge::default());
        let (drives, watched) = (drives.clone(), gauge.clone());
        let thread = std::thread::Builder::new().name("core-0".into()).spawn(move || {
            match core(&drives, cpu, watched, out) {
                Ok((mut core, inbox)) => {
                    if ready.send(Ok(inbox)).is_ok() {
                        core.run();
                    }
                }
                Err(error) => drop(ready.send(Err(error.to_string()))),
            }
        })?;
        let (inbox, waker) = started.recv()??;
        let talk = Talk::new(vec![inbox]);
        talk.link(&[waker]);
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let addr = TcpListener::bind(loopback(0))?.local_addr()?;
        let catalogue = Catalogue::new(1, Vec::new());
        let mut node = Node { talk, runtime, changes, catalogue, addr, thread: Some(thread), gauge };
        node.open()?;
        Ok(node)
    }

    /// Makes the pool and listens.
    fn open(&mut self) -> Result<()> {
        let drive = OpenDrive { path: "0".into(), create_bytes: None, sparse: false, exclusive: true };
        let start = Start {
            drives: vec![drive],
            pool: PoolOptions { parity: Some(0), ..machine::pool_options() },
            restart: Restart::PowerOn,
            keys: Arc::new(ClusterKeys::new(KeySource::Given(ClusterKey::generate()?))),
            identity: None,
            leaving: Vec::new(),
            unmake: |_| (),
        };
        self.runtime.block_on(bring_up(&self.talk, start))?;
        let identity = Identity {
            subsystem: SUBSYSTEM.parse()?,
            serial: "1".into(),
            model: "Dolmen".into(),
            firmware: "1".into(),
        };
        let config = Box::new(TargetConfig {
            core: CORE,
            cores: 1,
            io_listen: vec![self.addr],
            ..TargetConfig::new(identity)
        });
        let table = self.catalogue.take(Vec::new());
        let listen = self.talk.ask(CORE, |answer| ToCore::Listen { config, table, answer });
        Ok(self.runtime.block_on(listen)??)
    }

    /// Makes a volume and shows it to hosts; the way to it.
    pub(crate) fn volume(&mut self, number: u8, kind: VolumeKind, bytes: u64) -> Result<Goal> {
        let descriptor = machine::descriptor(number, kind, bytes, false);
        let nsid = descriptor.nsid.0;
        let command = ControlCommand::Create(Box::new(descriptor));
        let made = self.talk.ask(CORE, |answer| ToCore::Volume { command, answer });
        self.runtime.block_on(made)?.map_err(|e| format!("making a volume: {e:?}"))?;
        let mut changes = Vec::new();
        while let Ok(told) = self.changes.try_recv() {
            if let FromCore::Change(change) = told {
                changes.push(change);
            }
        }
        let table = self.catalogue.take(changes);
        self.runtime
            .block_on(self.talk.ask(CORE, |answer| ToCore::Namespaces { table: table.clone(), answer }))?;
        Goal::new(self.addr, SUBSYSTEM.parse()?, nsid)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.runtime.block_on(self.talk.send(CORE, |_: Answer<()>| ToCore::Exit)));
        if let Some(thread) = self.thread.take() {
            // A core that panicked has said so.
            drop(thread.join());
        }
    }
}

type Started = (InboxSender<ToCore>, Arc<dyn dolmen_io::Wake>);

/// The core, on the calling thread.
fn core(
    drives: &Drives,
    cpu: usize,
    gauge: Arc<Gauge>,
    out: mpsc::UnboundedSender<FromCore>,
) -> Result<(Core, Started)> {
    cores::pin(cpu)?;
    let config = UringConfig { pool: PoolConfig::sized(POOL_BYTES), ..UringConfig::default() };
    let driver = Split::new(Uring::new(&config)?, drives.clone());
    let io = Io::new(Box::new(Gauged::new(driver, gauge)));
    let waker = io.waker();
    let (sender, receiver) = inbox(INBOX, waker.clone());
    Ok((Core::new(CORE, 1, io, receiver, news(out), SPIN_NS), (sender, waker)))
}
