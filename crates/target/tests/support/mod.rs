//! A small world for the target's tests: machines with hosts, cores with targets, and volumes in memory, all in one
//! thread under one seed. Hosts speak through the `nvme` crate's host side.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::cast_possible_truncation)] // each test file uses its part

mod host;
mod volumes;

pub use host::{Completion, Conn, Machine, Payload};
pub use volumes::Memory;

use dolmen_io::{Event, Io, Owner, PoolConfig, Wait};
use dolmen_nvme::{
    spec::*,
    tcp::{CommonHeader, Digests, IcReq, PduKind},
};
use dolmen_sim::{CoreConfig, NodeId, World};
use dolmen_target::{Envelope, Identity, Namespace, NamespaceTable, Target, TargetConfig};
use dolmen_types::{
    CoreId, Nsid, PgId, Uuid,
    volume::{HostAccess, IpAccess, SectorSize},
};
use dolmen_volume::{Near, VolumeRef, Volumes};
use std::{net::SocketAddr, sync::Arc};
use zerocopy::IntoBytes;

pub const SUBSYSTEM: &str = "nqn.2016-01.com.lightbitslabs:uuid:11111111-2222-4333-8444-555555555555";
pub const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:aaaaaaaa-0000-4000-8000-000000000001";
pub const OTHER: &str = "nqn.2014-08.org.nvmexpress:uuid:bbbbbbbb-0000-4000-8000-000000000002";
pub const HOST_ID: [u8; 16] = [0xaa; 16];
pub const SERVER: NodeId = NodeId(1);
const OWNER: Owner = Owner(1);

pub fn server(port: u16) -> SocketAddr {
    SocketAddr::new(SERVER.addr(), port)
}

/// A namespace with `blocks` blocks of 4 KiB, admitting `acl`.
pub fn space(nsid: u32, blocks: u64, acl: HostAccess) -> Arc<Namespace> {
    Arc::new(Namespace {
        nsid: Nsid(nsid),
        uuid: Uuid([u8::try_from(nsid & 0xff).unwrap(); 16]),
        volume: VolumeRef { core: CoreId(0), slot: nsid, generation: 1 },
        pg: PgId(nsid % 64),
        size_bytes: blocks * 4096,
        sector: SectorSize::B4096,
        acl,
        ip_acl: IpAccess::Any,
    })
}

pub fn only(nqn: &str) -> HostAccess {
    HostAccess::Hosts([nqn.parse().unwrap()].into())
}

pub struct Core {
    pub io: Io,
    pub target: Target,
    /// Volumes that reads at hand are answered from; all other requests go to [`Memory`].
    pub near: Option<Volumes>,
}

pub struct Rig {
    pub world: World,
    pub cores: Vec<Core>,
    pub memory: Memory,
    pub machines: Vec<Machine>,
    /// Machines that do not run.
    pub frozen: Vec<usize>,
    /// Cores don't hear that what they called off is over.
    pub mute: bool,
    unheard: Vec<(usize, Envelope)>,
    generation: u64,
}

/// A controller as a host sees it.
#[derive(Clone, Copy, Debug)]
pub struct Ctrl {
    pub machine: usize,
    pub admin: Conn,
    pub id: u16,
}

impl Rig {
    pub fn new(seed: u64, cores: u16) -> Rig {
        Rig::with(seed, cores, |_| {}, PoolConfig::sized(16 << 20))
    }

    pub fn with(seed: u64, cores: u16, change: impl Fn(&mut TargetConfig), pool: PoolConfig) -> Rig {
        let world = World::new(seed);
        let mut rig = Rig {
            world,
            cores: Vec::new(),
            memory: Memory::default(),
            machines: Vec::new(),
            frozen: Vec::new(),
            mute: false,
            unheard: Vec::new(),
            generation: 1,
        };
        for core in 0..cores {
            let mut config = TargetConfig::new(Identity {
                subsystem: SUBSYSTEM.parse().unwrap(),
                serial: "0123456789abcdef".into(),
                model: "Dolmen".into(),
                firmware: "0.1.0".into(),
            });
            config.core = CoreId(core);
            config.cores = cores;
            config.io_listen = vec![server(4420)];
            config.discovery_listen = vec![server(8009)];
            change(&mut config);
            let driver = rig.world.driver(CoreConfig { node: SERVER, pool: pool.clone() });
            let mut io = Io::new(Box::new(driver));
            let mut target = Target::new(config, OWNER);
            target.start(&mut io).unwrap();
            rig.cores.push(Core { io, target, near: None });
        }
        for node in [2, 3] {
            rig.machines.push(Machine::new(&rig.world, NodeId(node)));
        }
        rig
    }

    /// Gives all cores a new table.
    pub fn set(&mut self, spaces: &[Arc<Namespace>]) {
        self.generation += 1;
        for s in spaces {
            self.memory.ensure(s);
        }
        let table = Arc::new(NamespaceTable::new(self.generation, spaces.to_vec()));
        for core in &mut self.cores {
            core.target.set_namespaces(&mut core.io, Arc::clone(&table));
        }
    }

    /// One turn of everybody.
    pub fn turn(&mut self) {
        self.world.advance(50_000);
        let mut events = Vec::new();
        for core in &mut self.cores {
            core.io.poll(Wait::No, &mut events);
            for (tag, event) in events.drain(..) {
                assert_eq!(tag.owner, OWNER);
                core.target.on_event(&mut core.io, &mut Near::of(core.near.as_mut()), tag.key, event);
            }
        }
        for n in 0..self.cores.len() {
            let out = std::mem::take(self.cores[n].target.outputs());
            for message in out.messages {
                let to = &mut self.cores[usize::from(message.to.0)];
                to.target.on_message(&mut to.io, message);
            }
            self.memory.requests.extend(out.requests);
            for called_off in out.called_off {
                let from = CoreId(u16::try_from(n).unwrap());
                self.memory.call_off(from, &called_off.tokens);
                for _ in 1..self.cores.len() {
                    self.unheard.push((n, Envelope::called_off(from, called_off.ticket)));
                }
            }
        }
        if !self.mute {
            for (n, answer) in std::mem::take(&mut self.unheard) {
                let core = &mut self.cores[n];
                core.target.on_message(&mut core.io, answer);
            }
        }
        for (core, reply) in self.memory.run() {
            let core = &mut self.cores[usize::from(core.0)];
            core.target.on_reply(&mut core.io, reply);
        }
        for core in &mut self.cores {
            core.target.step(&mut core.io, &mut Near::of(core.near.as_mut()));
            core.io.submit();
        }
        for (at, machine) in self.machines.iter_mut().enumerate() {
            if !self.frozen.contains(&at) {
                machine.turn();
            }
        }
    }

    pub fn turns(&mut self, n: usize) {
        for _ in 0..n {
            self.turn();
        }
    }

    /// Lets time pass in steps of a tenth of a second.
    pub fn pass_ms(&mut self, ms: u64) {
        for _ in 0..ms / 100 {
            self.world.advance(100_000_000);
            self.turn();
        }
    }

    /// Opens a connection and agrees on its terms.
    pub fn dial(&mut self, machine: usize, port: u16, digests: Digests, depth: u16) -> Conn {
        let conn = self.machines[machine].dial(server(port), digests, depth);
        for _ in 0..2000 {
            if self.machines[machine].is_open(conn) {
                return conn;
            }
            self.turn();
        }
        panic!("no ICResp came");
    }

    pub fn send(&mut self, machine: usize, conn: Conn, sqe: Sqe, payload: Payload) -> u16 {
        self.machines[machine].send(conn, sqe, payload)
    }

    pub fn wait(&mut self, machine: usize, conn: Conn, cid: u16) -> Completion {
        for _ in 0..5000 {
            if let Some(done) = self.machines[machine].take(conn, cid) {
                return done;
            }
            assert!(!self.machines[machine].is_gone(conn), "the connection ended");
            self.turn();
        }
        panic!("no completion for {cid}; {:?} {:?}", self.cores[0].io.pool(), self.machines[0].io.pool());
    }

    pub fn exec(&mut self, machine: usize, conn: Conn, sqe: Sqe, payload: Payload) -> Completion {
        let cid = self.send(machine, conn, sqe, payload);
        self.wait(machine, conn, cid)
    }

    /// Connect on a fresh connection.
    pub fn connect(
        &mut self,
        machine: usize,
        conn: Conn,
        command: ConnectCommand,
        data: ConnectData,
    ) -> Completion {
        self.exec(machine, conn, command.encode(0), Payload::InCapsule(data.as_bytes().to_vec()))
    }

    pub fn connect_command(qid: u16, kato: u32) -> ConnectCommand {
        let sq_size = if qid == 0 { 31 } else { 127 };
        ConnectCommand { record_format: 0, queue: qid, sq_size, attributes: 4, keep_alive_ms: kato }
    }

    /// An enabled I/O controller, made as Linux does it.
    pub fn controller(&mut self, machine: usize, nqn: &str) -> Ctrl {
        self.controller_with(machine, nqn, Digests::NONE, 0)
    }

    pub fn controller_with(&mut self, machine: usize, nqn: &str, digests: Digests, kato: u32) -> Ctrl {
        let admin = self.dial(machine, 4420, digests, 32);
        let data = ConnectData::new(HOST_ID, ConnectData::DYNAMIC, SUBSYSTEM, nqn);
        let done = self.connect(machine, admin, Rig::connect_command(0, kato), data);
        assert!(done.cqe.status().is_success(), "{}", done.cqe);
        let ctrl = Ctrl { machine, admin, id: connect_response::controller_id(done.cqe.dw0.get()) };
        self.enable(&ctrl);
        ctrl
    }

    pub fn property(&mut self, ctrl: &Ctrl, property: Property, wide: bool) -> u64 {
        let done =
            self.exec(ctrl.machine, ctrl.admin, PropertyGet { property, wide }.encode(0), Payload::None);
        assert!(done.cqe.status().is_success());
        done.cqe.result()
    }

    pub fn set_config(&mut self, ctrl: &Ctrl, config: ControllerConfig) -> Completion {
        let set = PropertySet { property: Property::CC, wide: false, value: u64::from(config.0) };
        self.exec(ctrl.machine, ctrl.admin, set.encode(0), Payload::None)
    }

    pub fn enable(&mut self, ctrl: &Ctrl) {
        let cap = Capabilities::from_bits(self.property(ctrl, Property::CAP, true));
        assert_eq!(cap.max_queue_entries, 1023);
        assert!(self.set_config(ctrl, ControllerConfig::ENABLE).cqe.status().is_success());
        assert_eq!(self.property(ctrl, Property::CSTS, false), 1);
        assert_eq!(self.property(ctrl, Property::VS, false), u64::from(SPEC_VERSION_1_4));
    }

    /// An I/O queue of a controller.
    pub fn io_queue(&mut self, ctrl: &Ctrl, nqn: &str, qid: u16, digests: Digests) -> Conn {
        let conn = self.dial(ctrl.machine, 4420, digests, 128);
        let data = ConnectData::new(HOST_ID, ctrl.id, SUBSYSTEM, nqn);
        let done = self.connect(ctrl.machine, conn, Rig::connect_command(qid, 0), data);
        assert!(done.cqe.status().is_success(), "{}", done.cqe);
        assert_eq!(connect_response::controller_id(done.cqe.dw0.get()), ctrl.id);
        conn
    }

    pub fn identify(&mut self, ctrl: &Ctrl, cns: Cns, nsid: u32) -> Completion {
        let command = IdentifyCommand { cns, controller: 0, specific: 0, command_set: 0, uuid_index: 0 };
        self.exec(ctrl.machine, ctrl.admin, command.encode(0, nsid), Payload::Read(4096))
    }

    pub fn log(
        &mut self,
        ctrl: &Ctrl,
        page: LogId,
        offset: u64,
        length: u32,
        retain_event: bool,
    ) -> Completion {
        let command = GetLogCommand {
            page,
            specific: 0,
            retain_event,
            length: u64::from(length),
            offset,
            identifier: 0,
            command_set: 0,
        };
        self.exec(ctrl.machine, ctrl.admin, command.encode(0, u32::MAX), Payload::Read(length))
    }

    pub fn active(&mut self, ctrl: &Ctrl) -> Vec<u32> {
        let done = self.identify(ctrl, Cns::ACTIVE_NAMESPACES, 0);
        done.data
            .chunks(4)
            .map(|b| u32::from_le_bytes(b.try_into().unwrap()))
            .take_while(|&n| n != 0)
            .collect()
    }

    pub fn write(&mut self, m: usize, conn: Conn, nsid: u32, lba: u64, data: &[u8]) -> Status {
        let blocks = u32::try_from(data.len() / 4096).unwrap();
        let rw = ReadWrite { start: lba, blocks, ..ReadWrite::default() };
        let sqe = Sqe::with_read_write(NvmOpcode::WRITE, 0, nsid, rw);
        let payload = if data.len() <= 8192 {
            Payload::InCapsule(data.to_vec())
        } else {
            Payload::Write(data.to_vec())
        };
        self.exec(m, conn, sqe, payload).cqe.status()
    }

    pub fn read(&mut self, m: usize, conn: Conn, nsid: u32, lba: u64, blocks: u32) -> Completion {
        let rw = ReadWrite { start: lba, blocks, ..ReadWrite::default() };
        let sqe = Sqe::with_read_write(NvmOpcode::READ, 0, nsid, rw);
        self.exec(m, conn, sqe, Payload::Read(blocks * 4096))
    }
}

/// A pattern that tells blocks apart.
pub fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    let mut rng = dolmen_sim::Rng::new(seed);
    let mut out = vec![0; bytes];
    rng.fill(&mut out);
    out
}

/// True for an event that ends a connection.
pub fn ends(event: &Event) -> bool {
    matches!(event, Event::EndOfStream | Event::Failed { .. } | Event::Closed)
}

/// A command with data in its capsule, for a connection without digests.
pub fn capsule(sqe: &Sqe, data: &[u8]) -> Vec<u8> {
    let mut header = CommonHeader::new(PduKind::CAPSULE_CMD);
    header.length = u32::try_from(72 + data.len()).unwrap().into();
    header.data_offset = if data.is_empty() { 0 } else { 72 };
    [header.as_bytes(), sqe.as_bytes(), data].concat()
}

/// What opens an I/O queue.
pub fn raw_queue(controller: u16) -> Vec<u8> {
    let mut sqe = Rig::connect_command(1, 0).encode(1);
    sqe.data_pointer = SglDescriptor::in_capsule(1024);
    let data = ConnectData::new(HOST_ID, controller, SUBSYSTEM, HOST);
    [IcReq::new(0, 0, 0).as_bytes(), &capsule(&sqe, data.as_bytes())].concat()
}

/// Everything that hosts may have, held by nobody who will give it back.
pub fn drain(rig: &Rig) -> Vec<dolmen_io::Buf> {
    let pool = rig.cores[0].io.pool();
    std::iter::from_fn(|| pool.alloc_share(1, 0)).collect()
}
