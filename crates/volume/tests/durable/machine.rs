//! One simulated machine: a core with its loop, a pool of drives, the store, and volumes on top.

use dolmen_io::{Buf, Event, Io, OpenDrive, Owner, Stamps, Tag, Wait, exec::Exec};
use dolmen_sim::{CoreConfig, World};
use dolmen_store::{Candidate, Keyring, PoolOptions, PoolOwner, PoolPlan, ShardTuning, Store, open_pool};
use dolmen_types::{
    CoreId, LineId, Nanos, Nsid, PgId, UnixMillis, Uuid,
    volume::{HostAccess, IpAccess, SectorSize, VolumeDescriptor, VolumeKind, VolumeState},
};
use dolmen_volume::{
    Change, Command, ControlCommand, ControlDone, ControlError, ControlRequest, HostId, Reply, Request,
    Restart, VolumeInfo, VolumeRef, Volumes,
};
use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

const STORE: Owner = Owner(2);
const EXEC: Owner = Owner(3);
const VOLUMES: Owner = Owner(5);
pub(crate) const DRIVES: usize = 2;
const DRIVE_BYTES: u64 = 64 << 20;

/// A running process of the machine.
pub(crate) struct Machine {
    io: Io,
    exec: Exec,
    store: Store,
    pool: PoolOwner,
    pub(crate) volumes: Volumes,
    pub(crate) replies: BTreeMap<u64, Reply>,
    pub(crate) controls: BTreeMap<u64, Result<ControlDone, ControlError>>,
    pub(crate) changes: Vec<Change>,
    next_token: u64,
}

fn tuning() -> ShardTuning {
    ShardTuning { delta_entries: 200, log_bytes: 4 << 20, commit_bytes: 512 << 10, ..ShardTuning::default() }
}

/// Opens the pool over the machine's drives.
fn plan(io: &mut Io, exec: &mut Exec) -> (PoolPlan, Vec<Option<dolmen_io::FileId>>) {
    let drives: Vec<Candidate> = (0..DRIVES)
        .map(|n| {
            let path = format!("drive{n}");
            let options = OpenDrive {
                path: path.clone().into(),
                create_bytes: Some(DRIVE_BYTES),
                sparse: true,
                exclusive: true,
            };
            Candidate { info: io.open_drive(&options).unwrap(), path }
        })
        .collect();
    let files: Vec<_> = drives.iter().map(|d| d.info.file).collect();
    let mut seed = [0; 32];
    io.random(&mut seed);
    let options = PoolOptions {
        shards: 1,
        parity: None,
        unit_bytes: Some(1 << 20),
        seed,
        expect: None,
        at_least: Ok(0),
        absent: Vec::new(),
        degraded: false,
        let_go: Vec::new(),
        added: Vec::new(),
    };
    let result = Rc::new(RefCell::new(None));
    let (slot, handle) = (result.clone(), exec.handle());
    exec.handle()
        .spawn(async move { *slot.borrow_mut() = Some(open_pool(handle, drives, options).await) })
        .unwrap();
    let mut events: Vec<(Tag, Event)> = Vec::new();
    while result.borrow().is_none() {
        exec.run(io);
        let wait = if exec.has_ready() { Wait::No } else { Wait::Forever };
        io.poll(wait, &mut events);
        for (tag, event) in events.drain(..) {
            exec.deliver(tag.key, event);
        }
    }
    let plan = result.take().unwrap().unwrap();
    let ordered = plan.order.iter().map(|at| at.map(|at| files[at])).collect();
    (plan, ordered)
}

impl Machine {
    /// Starts a process: opens or makes the pool, recovers, opens the volumes.
    pub(crate) fn start(world: &World, restart: Restart) -> Machine {
        let mut io = Io::new(Box::new(world.driver(CoreConfig::default())));
        let mut exec = Exec::new(EXEC, 256, &io);
        let (plan, files) = plan(&mut io, &mut exec);
        let mut salt = [0; 8];
        io.random(&mut salt);
        let salt = u64::from_le_bytes(salt);
        let store = Store::open(
            &plan,
            &plan.shards_of(0, 1),
            &files,
            tuning(),
            STORE,
            salt,
            &Keyring::default(),
            &exec.handle(),
        );
        let groups = [PgId(0), PgId(1)];
        let owner = PoolOwner::new(&plan, &files, &exec.handle());
        let mut machine = Machine {
            io,
            exec,
            store,
            pool: owner,
            volumes: Volumes::new(CoreId(0), &groups, restart, VOLUMES),
            replies: BTreeMap::new(),
            controls: BTreeMap::new(),
            changes: Vec::new(),
            next_token: 0,
        };
        machine.until(|m| m.store.ready().is_some());
        machine.store.ready().unwrap().unwrap();
        machine.volumes.open(&mut machine.io, &mut machine.store);
        machine.until(|m| m.volumes.is_open());
        machine
    }

    /// Turns until something holds.
    pub(crate) fn until(&mut self, done: impl Fn(&Machine) -> bool) {
        for _ in 0..2_000_000 {
            if done(self) {
                return;
            }
            self.turn();
        }
        panic!("nothing more happens; {} requests are not answered", self.volumes.outstanding());
    }

    /// One turn of the core's loop.
    pub(crate) fn turn(&mut self) {
        let mut worked = self.volumes.step(&mut self.io, Some(&mut self.store));
        worked |= self.store.step(&mut self.io);
        worked |= self.exec.run(&mut self.io);
        let mut messages = Vec::new();
        self.store.drain_pool(&mut messages);
        worked |= !messages.is_empty();
        messages.into_iter().for_each(|m| self.pool.on_shard(m).unwrap());
        let mut leases = Vec::new();
        self.pool.drain(&mut leases);
        worked |= !leases.is_empty();
        leases.into_iter().for_each(|(shard, m)| self.store.on_pool(shard, m));
        let mut done = Vec::new();
        self.store.drain(&mut done);
        worked |= !done.is_empty();
        done.into_iter().for_each(|d| self.volumes.on_store_done(d));
        self.take_answers();
        let wait = if worked || self.exec.has_ready() {
            Wait::No
        } else {
            Wait::Until(Nanos(self.io.now().0 + 1_000_000))
        };
        let mut events = Vec::new();
        self.io.poll(wait, &mut events);
        for (tag, event) in events {
            match tag.owner {
                STORE => self.store.on_event(&mut self.io, tag.key, event),
                EXEC => self.exec.deliver(tag.key, event),
                VOLUMES => self.volumes.on_event(event),
                other => panic!("nobody is {other:?}"),
            }
        }
    }

    fn take_answers(&mut self) {
        let mut replies = Vec::new();
        self.volumes.drain(&mut replies);
        for (_, reply) in replies {
            assert!(self.replies.insert(reply.token, reply).is_none(), "one reply per request");
        }
        let mut controls = Vec::new();
        self.volumes.drain_control(&mut controls);
        for reply in controls {
            assert!(self.controls.insert(reply.token, reply.result).is_none(), "one reply per request");
        }
        self.volumes.changes(&mut self.changes);
    }

    pub(crate) fn now(&self) -> Nanos {
        self.io.now()
    }

    pub(crate) fn alloc(&self, len: usize) -> Buf {
        self.io.alloc(len).unwrap()
    }

    pub(crate) fn buf(&self, data: &[u8]) -> Buf {
        let mut buf = self.alloc(data.len());
        buf.copy_from_slice(data);
        buf
    }

    pub(crate) fn send(&mut self, host_id: HostId, volume: VolumeRef, command: Command) -> u64 {
        self.next_token += 1;
        let (token, stamps) = (self.next_token, Stamps::default());
        let deadline = Nanos(u64::MAX);
        self.volumes.submit(Request { token, from: CoreId(0), volume, host_id, deadline, stamps, command });
        token
    }

    /// Sends a command and waits for its reply.
    pub(crate) fn run(&mut self, host: HostId, volume: VolumeRef, command: Command) -> Reply {
        let token = self.send(host, volume, command);
        self.until(|m| m.replies.contains_key(&token));
        self.replies.remove(&token).unwrap()
    }

    pub(crate) fn ask(&mut self, command: ControlCommand) -> u64 {
        self.next_token += 1;
        self.volumes.control(ControlRequest { token: self.next_token, command });
        self.next_token
    }

    pub(crate) fn control(&mut self, command: ControlCommand) -> Result<ControlDone, ControlError> {
        let token = self.ask(command);
        self.until(|m| m.controls.contains_key(&token));
        self.controls.remove(&token).unwrap()
    }

    pub(crate) fn list(&mut self) -> Vec<VolumeInfo> {
        match self.control(ControlCommand::List) {
            Ok(ControlDone::List(list)) => list,
            other => panic!("{other:?}"),
        }
    }

    /// Stops in order: everything answered, a checkpoint taken.
    pub(crate) fn stop(mut self) {
        self.until(|m| m.volumes.outstanding() == 0);
        self.store.shutdown();
        self.until(|m| m.store.is_down());
    }
}

/// A durable volume with this number for everything.
pub(crate) fn descriptor(n: u8, sector: SectorSize, blocks: u64) -> VolumeDescriptor {
    VolumeDescriptor {
        uuid: Uuid([n; 16]),
        name: format!("v{n}"),
        project: "default".into(),
        nsid: Nsid(u32::from(n)),
        pg: PgId(u32::from(n % 2)),
        line: LineId(u64::from(n)),
        size_bytes: blocks * 4096,
        sector,
        kind: VolumeKind::Durable,
        acl: HostAccess::Any,
        ip_acl: IpAccess::Any,
        labels: vec![("who".into(), "test".into())],
        compression: true,
        encryption: false,
        qos: None,
        source: None,
        created: UnixMillis(1),
        revision: 1,
        state: VolumeState::Available,
    }
}
