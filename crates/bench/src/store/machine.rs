//! One core with everything between a host's command and the drives, and no network: volumes over a store over a driver.

use crate::Result;
use dolmen_io::{Event, FileId, Io, OpenDrive, Owner, Tag, Wait, exec::Exec};
use dolmen_store::{
    Candidate, Done as StoreDone, Keyring, PoolOptions, PoolOwner, PoolPlan, ShardTuning, Store, ToPool,
    ToShard, open_pool,
};
use dolmen_types::{
    CoreId, LineId, Nsid, PgId, ShardId, UnixMillis, Uuid,
    volume::{HostAccess, IpAccess, SectorSize, VolumeDescriptor, VolumeKind, VolumeState},
};
use dolmen_volume::{
    Command, ControlCommand, ControlReply, ControlRequest, HostId, Reply, Request, Restart, VolumeRef,
    Volumes,
};
use std::{cell::RefCell, path::PathBuf, rc::Rc};

const STORE: Owner = Owner(2);
const EXEC: Owner = Owner(3);
const VOLUMES: Owner = Owner(5);

/// Passes of a turn between volumes and store, as on a core of the daemon.
const PASSES: usize = 4;

/// Turns after which something that does not come is given up.
const PATIENCE: usize = 50_000_000;

/// See the module.
pub(crate) struct Machine {
    pub(crate) io: Io,
    exec: Exec,
    pub(crate) store: Store,
    owner: PoolOwner,
    volumes: Volumes,
    /// Answers that nobody has taken yet.
    pub(crate) replies: Vec<(CoreId, Reply)>,
    controls: Vec<ControlReply>,
    events: Vec<(Tag, Event)>,
    done: Vec<StoreDone>,
    to_pool: Vec<ToPool>,
    to_shards: Vec<(ShardId, ToShard)>,
    /// Poll without waiting: what is under way needs no time to pass.
    pub(crate) busy: bool,
}

impl Machine {
    /// Makes a pool over drives with these names and opens volumes over it.
    pub(crate) fn start(mut io: Io, drives: &[PathBuf], bytes: Option<u64>, parity: u8) -> Result<Machine> {
        let mut exec = Exec::new(EXEC, 256, &io);
        let (plan, files) = make_pool(&mut io, &mut exec, drives, bytes, parity)?;
        let (keyring, tuning) = (Keyring::default(), ShardTuning::default());
        let shards = plan.shards_of(0, 1);
        let store = Store::open(&plan, &shards, &files, tuning, STORE, 1, &keyring, &exec.handle());
        let owner = PoolOwner::new(&plan, &files, &exec.handle());
        let mut machine = Machine {
            io,
            exec,
            store,
            owner,
            volumes: Volumes::new(CoreId(0), &[PgId(0)], Restart::PowerOn, VOLUMES),
            replies: Vec::new(),
            controls: Vec::new(),
            events: Vec::new(),
            done: Vec::new(),
            to_pool: Vec::new(),
            to_shards: Vec::new(),
            busy: true,
        };
        machine.until("recovery", |m| m.store.ready().is_some())?;
        machine.store.ready().expect("asked for just now").map_err(|e| e.to_string())?;
        machine.volumes.open(&mut machine.io, &mut machine.store);
        machine.until("the volumes", |m| m.volumes.is_open())?;
        Ok(machine)
    }

    /// Makes a volume.
    pub(crate) fn volume(
        &mut self,
        number: u8,
        kind: VolumeKind,
        bytes: u64,
        compress: bool,
    ) -> Result<VolumeRef> {
        let descriptor = descriptor(number, kind, bytes, compress);
        let uuid = descriptor.uuid;
        let command = ControlCommand::Create(Box::new(descriptor));
        self.volumes.control(ControlRequest { token: 1, command });
        self.until("a volume", |m| !m.controls.is_empty())?;
        let answer = self.controls.pop().expect("there is one");
        answer.result.map_err(|e| format!("making a volume: {e:?}"))?;
        Ok(self.volumes.find(uuid).ok_or("the volume was made")?)
    }

    /// Turns until something holds.
    pub(crate) fn until(&mut self, what: &str, holds: impl Fn(&Machine) -> bool) -> Result<()> {
        for _ in 0..PATIENCE {
            if holds(self) {
                return Ok(());
            }
            self.turn();
        }
        Err(format!("{what} did not come").into())
    }

    /// Takes a checkpoint and waits until the cleaner and the pool's owner have nothing more to say for a while.
    pub(crate) fn settle(&mut self) -> Result<()> {
        let before = self.store.checkpoints();
        self.store.checkpoint();
        self.until("a checkpoint", |m| m.store.checkpoints() > before)?;
        (0..1000).for_each(|_| self.turn());
        Ok(())
    }

    /// A host's command.
    pub(crate) fn send(&mut self, token: u64, volume: VolumeRef, command: Command) {
        let (host_id, now) = (HostId::default(), self.io.now());
        let mut stamps = dolmen_io::Stamps::default();
        stamps.mark(dolmen_io::Stage::Received, now);
        let deadline = now.plus_ms(30_000);
        self.volumes.submit(Request { token, from: CoreId(0), volume, host_id, deadline, stamps, command });
    }

    /// One turn of the core's loop.
    pub(crate) fn turn(&mut self) {
        let idle = !self.busy && !self.exec.has_ready();
        self.io.poll(if idle { Wait::Forever } else { Wait::No }, &mut self.events);
        for (tag, event) in self.events.drain(..) {
            match tag.owner {
                STORE => self.store.on_event(&mut self.io, tag.key, event),
                EXEC => self.exec.deliver(tag.key, event),
                _ => self.volumes.on_event(event),
            }
        }
        self.exec.run(&mut self.io);
        self.collect();
        for _ in 0..PASSES {
            self.volumes.step(&mut self.io, Some(&mut self.store));
            self.store.step(&mut self.io);
            if !self.collect() {
                break;
            }
        }
        self.volumes.drain(&mut self.replies);
        self.volumes.drain_control(&mut self.controls);
        self.store.drain_pool(&mut self.to_pool);
        for message in self.to_pool.drain(..) {
            self.owner.on_shard(message).expect("one store claims nothing twice");
        }
        self.owner.drain(&mut self.to_shards);
        for (shard, message) in self.to_shards.drain(..) {
            self.store.on_pool(shard, message);
        }
    }

    fn collect(&mut self) -> bool {
        self.store.drain(&mut self.done);
        let any = !self.done.is_empty();
        for done in self.done.drain(..) {
            self.volumes.on_store_done(done);
        }
        any
    }
}

/// A volume's descriptor, not encrypted.
pub(super) fn descriptor(number: u8, kind: VolumeKind, bytes: u64, compress: bool) -> VolumeDescriptor {
    VolumeDescriptor {
        uuid: Uuid([number; 16]),
        name: format!("v{number}"),
        project: "default".into(),
        nsid: Nsid(u32::from(number)),
        pg: PgId(0),
        line: LineId(u64::from(number)),
        size_bytes: bytes,
        sector: SectorSize::B4096,
        kind,
        acl: HostAccess::Any,
        ip_acl: IpAccess::Any,
        labels: Vec::new(),
        compression: compress,
        encryption: false,
        qos: None,
        source: None,
        created: UnixMillis(1),
        revision: 1,
        state: VolumeState::Available,
    }
}

/// Of a new pool with one shard.
pub(super) fn pool_options() -> PoolOptions {
    PoolOptions {
        shards: 1,
        parity: None,
        unit_bytes: None,
        seed: [7; 32],
        expect: None,
        at_least: Ok(0),
        absent: Vec::new(),
        degraded: false,
        let_go: Vec::new(),
        added: Vec::new(),
    }
}

/// Opens the drives and makes a pool of them; its plan and the files in its order.
fn make_pool(
    io: &mut Io,
    exec: &mut Exec,
    drives: &[PathBuf],
    bytes: Option<u64>,
    parity: u8,
) -> Result<(PoolPlan, Vec<Option<FileId>>)> {
    let mut candidates = Vec::new();
    for path in drives {
        let open = OpenDrive { path: path.clone(), create_bytes: bytes, sparse: false, exclusive: true };
        candidates.push(Candidate { info: io.open_drive(&open)?, path: path.display().to_string() });
    }
    let files: Vec<FileId> = candidates.iter().map(|d| d.info.file).collect();
    let options = PoolOptions { parity: Some(parity), ..pool_options() };
    let result = Rc::new(RefCell::new(None));
    let (slot, opening) = (result.clone(), open_pool(exec.handle(), candidates, options));
    let task = async move { *slot.borrow_mut() = Some(opening.await) };
    exec.handle().spawn(task).map_err(|_| "the executor is full")?;
    let mut events = Vec::new();
    while result.borrow().is_none() {
        exec.run(io);
        io.poll(if exec.has_ready() { Wait::No } else { Wait::Forever }, &mut events);
        events.drain(..).for_each(|(tag, event)| exec.deliver(tag.key, event));
    }
    let plan = result.take().expect("the loop ended")?;
    let files = plan.order.iter().map(|at| at.map(|at| files[at])).collect();
    Ok((plan, files))
}
