//! Tests of the engine over the fake log: a bench with which each test plays host, control side and drive.

mod called_off;
mod chaos;
mod commands;
mod lifecycle;
mod model;
mod reservations;
mod snapshots;
mod straight;
mod throttle;

use crate::{
    backing::fake::{Disk, FakeLog},
    open::Contents,
    *,
};
use dolmen_io::{Buf, Owner, Pool, PoolConfig, Stamps};
use dolmen_types::{
    CoreId, LineId, Nanos, Nsid, PgId, UnixMillis, Uuid,
    volume::{HostAccess, IpAccess, SectorSize, VolumeDescriptor, VolumeKind, VolumeState},
};
use std::collections::BTreeMap;

pub(crate) const CORE: CoreId = CoreId(0);
pub(crate) const FAR: Nanos = Nanos(u64::MAX);
pub(crate) const HOST: HostId = [9; 16];

/// Small, fixed pseudo-random numbers.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// One core's volumes over a fake log.
pub(crate) struct Bench {
    pub(crate) volumes: Volumes,
    pub(crate) log: FakeLog,
    pub(crate) data: Pool,
    pub(crate) replies: BTreeMap<u64, Reply>,
    pub(crate) controls: BTreeMap<u64, Result<ControlDone, ControlError>>,
    pub(crate) notices: Vec<Notice>,
    pub(crate) changes: Vec<Change>,
    next_token: u64,
}

/// The volume that tests use: durable, `blocks` store blocks.
pub(crate) fn descriptor(n: u8, sector: SectorSize, kind: VolumeKind, blocks: u64) -> VolumeDescriptor {
    VolumeDescriptor {
        uuid: Uuid([n; 16]),
        name: format!("v{n}"),
        project: "default".into(),
        nsid: Nsid(u32::from(n)),
        pg: PgId(u32::from(n % 2)),
        line: LineId(u64::from(n)),
        size_bytes: blocks * 4096,
        sector,
        kind,
        acl: HostAccess::Any,
        ip_acl: IpAccess::Any,
        labels: vec![],
        compression: true,
        encryption: false,
        qos: None,
        source: None,
        created: UnixMillis(1),
        revision: 0,
        state: VolumeState::Available,
    }
}

impl Bench {
    pub(crate) fn new() -> Bench {
        Bench::over(Disk::default(), Restart::Process)
    }

    /// Opens what a disk holds.
    pub(crate) fn over(disk: Disk, restart: Restart) -> Bench {
        let pgs = [PgId(0), PgId(1)];
        let mut bench = Bench {
            volumes: Volumes::new(CORE, &pgs, restart, Owner(5)),
            log: FakeLog::new(disk),
            data: Pool::new(&PoolConfig::new(vec![(4096, 64), (65 * 4096, 64)])),
            replies: BTreeMap::new(),
            controls: BTreeMap::new(),
            notices: Vec::new(),
            changes: Vec::new(),
            next_token: 0,
        };
        let contents = |pg: PgId| {
            let objects = bench.log.disk.objects.iter().filter(|((p, _), _)| *p == pg);
            let objects = objects.map(|((_, key), value)| (*key, value.clone())).collect();
            Contents { marks: bench.log.disk.marks.get(&pg).copied().unwrap_or_default(), objects }
        };
        let found = pgs.iter().map(|pg| (*pg, contents(*pg))).collect();
        bench.volumes.open_groups(found, &mut bench.log);
        assert!(!bench.volumes.is_open());
        bench.settle();
        assert!(bench.volumes.is_open());
        bench
    }

    /// The disk as a crash now leaves it; with `also` of the appends under way durable though nobody was told.
    pub(crate) fn crash(mut self, also: usize) -> Disk {
        for _ in 0..also {
            let _ = self.log.end_append();
        }
        self.log.disk
    }

    pub(crate) fn buf(&self, data: &[u8]) -> Buf {
        let mut buf = self.data.alloc(data.len()).unwrap();
        buf.copy_from_slice(data);
        buf
    }

    pub(crate) fn send_as(
        &mut self,
        host: HostId,
        volume: VolumeRef,
        deadline: Nanos,
        command: Command,
    ) -> u64 {
        self.next_token += 1;
        let token = self.next_token;
        let stamps = Stamps::default();
        self.volumes.submit(Request { token, from: CORE, volume, host_id: host, deadline, stamps, command });
        token
    }

    pub(crate) fn send(&mut self, volume: VolumeRef, command: Command) -> u64 {
        self.send_as(HOST, volume, FAR, command)
    }

    pub(crate) fn ask(&mut self, command: ControlCommand) -> u64 {
        self.next_token += 1;
        self.volumes.control(ControlRequest { token: self.next_token, command });
        self.next_token
    }

    /// One step, without any progress of the log.
    pub(crate) fn step(&mut self) {
        self.volumes.run(&mut self.log);
        assert!(!self.volumes.has_work(), "a step leaves nothing that could be done at once");
        let mut replies = Vec::new();
        self.volumes.drain(&mut replies);
        for (core, reply) in replies {
            assert_eq!(core, CORE);
            assert!(self.replies.insert(reply.token, reply).is_none(), "one reply per request");
        }
        let mut controls = Vec::new();
        self.volumes.drain_control(&mut controls);
        for reply in controls {
            assert!(self.controls.insert(reply.token, reply.result).is_none(), "one reply per request");
        }
        self.volumes.notices(&mut self.notices);
        self.volumes.changes(&mut self.changes);
    }

    /// Steps until nothing is under way.
    pub(crate) fn settle(&mut self) {
        self.step();
        while self.log.pending() > 0 {
            while let Some(done) = self.log.end_append() {
                self.volumes.on_store_done(done);
            }
            while !self.log.reads.is_empty() {
                let done = self.log.end_read(0);
                self.volumes.on_store_done(done);
            }
            self.step();
        }
        self.step();
    }

    /// Sends a command and waits for all that is under way.
    pub(crate) fn run(&mut self, volume: VolumeRef, command: Command) -> Reply {
        let token = self.send(volume, command);
        self.settle();
        self.replies.remove(&token).unwrap()
    }

    /// Sends a control request and waits for its answer.
    pub(crate) fn control(&mut self, command: ControlCommand) -> Result<ControlDone, ControlError> {
        let token = self.ask(command);
        self.settle();
        self.controls.remove(&token).unwrap()
    }

    pub(crate) fn create(&mut self, d: VolumeDescriptor) -> VolumeRef {
        match self.control(ControlCommand::Create(Box::new(d))) {
            Ok(ControlDone::Volume(info)) => info.at,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn read(&mut self, volume: VolumeRef, lba: u64, blocks: u32, sector: usize) -> Vec<u8> {
        let buf = self.data.alloc(blocks as usize * sector).unwrap();
        let reply = self.run(volume, Command::Read { lba, blocks, buf });
        assert_eq!(reply.result, Ok(Done::Ok));
        reply.buf.unwrap().to_vec()
    }

    pub(crate) fn write(&mut self, volume: VolumeRef, lba: u64, data: &[u8], sector: usize) {
        let blocks = u32::try_from(data.len() / sector).unwrap();
        let buf = self.buf(data);
        let reply = self.run(volume, Command::Write { lba, blocks, buf });
        assert_eq!(reply.result, Ok(Done::Ok));
    }
}
