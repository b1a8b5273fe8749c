//! A host with one volume: a verified load over several queues, on a machine of its own.

use crate::node::{SUBSYSTEM, address};
use dolmen_initiator::{
    Completion, Digests, Initiator, Namespace, Notice, OWNER, Options, SubsystemId,
    load::{Load, LoadOptions, Mix},
};
use dolmen_io::{Event, Io, PoolConfig, Tag, Wait};
use dolmen_sim::{CoreConfig, NodeId, Rng, World};
use dolmen_types::{Nanos, Uuid, volume::VolumeDescriptor};

/// Bytes at the start of every volume that its load goes over.
pub const REGION_BYTES: u64 = 1 << 20;

pub struct Host {
    pub node: NodeId,
    io: Io,
    initiator: Initiator,
    id: SubsystemId,
    pub load: Load,
    pub notices: Vec<Notice>,
    events: Vec<(Tag, Event)>,
    completions: Vec<Completion>,
}

impl Host {
    pub fn new(world: &World, rng: &mut Rng, number: u16, volume: &VolumeDescriptor) -> Host {
        Host::with(world, rng, (number, volume), |_| ())
    }

    /// One whose load is changed first.
    pub fn with(
        world: &World,
        rng: &mut Rng,
        (number, volume): (u16, &VolumeDescriptor),
        change: impl FnOnce(&mut LoadOptions),
    ) -> Host {
        let node = NodeId(number + 1);
        let mut io = Io::new(Box::new(world.driver(CoreConfig { node, pool: PoolConfig::sized(64 << 20) })));
        let mut initiator = Initiator::new(OWNER);
        let name = format!("nqn.2014-08.org.nvmexpress:uuid:11111111-2222-4333-8444-00000000000{number}");
        let host_id = Uuid([u8::try_from(number + 1).unwrap(); 16]);
        let mut options = Options::new(address(), SUBSYSTEM.parse().unwrap(), name.parse().unwrap(), host_id);
        let queues = u16::try_from(rng.between(1, 4)).unwrap();
        options.io_queues = queues;
        (options.keep_alive_ms, options.io_timeout_ms) = (2_000, 6_000);
        (options.reconnect_min_ms, options.reconnect_max_ms) = (5, 200);
        options.loss_timeout_ms = None;
        options.retries = u32::MAX;
        options.digests = Digests { header: rng.one_in(3), data: rng.one_in(3) };
        let id = initiator.connect(&mut io, options).unwrap();
        let block_bytes = volume.sector.bytes();
        let namespace = Namespace {
            nsid: volume.nsid.0,
            block_bytes,
            blocks: volume.size_bytes / u64::from(block_bytes),
            uuid: Some(volume.uuid),
            nguid: [0; 16],
            deallocated_reads_zero: true,
        };
        let mut load = LoadOptions {
            region_bytes: REGION_BYTES,
            size_bytes: [4096, 4096, 8192, 65_536][rng.index(4)],
            depth: 1 + rng.index(8),
            queues,
            mix: Mix { reads: 40, zeroes: 10 },
            verify: Some(u64::from(number) + 77),
            seed: rng.next_u64(),
            ..LoadOptions::new(namespace)
        };
        change(&mut load);
        let mut load = Load::new(id, load).unwrap();
        load.stop();
        let (notices, events, completions) = (Vec::new(), Vec::new(), Vec::new());
        Host { node, io, initiator, id, load, notices, events, completions }
    }

    /// One turn, which waits at most until `until`; each completion is told to `seen`.
    pub fn turn(&mut self, until: Nanos, mut seen: impl FnMut(u64, bool)) {
        self.load.step(&mut self.io, &mut self.initiator);
        self.initiator.step(&mut self.io);
        self.io.poll(Wait::Until(until), &mut self.events);
        for (tag, event) in self.events.drain(..) {
            if tag.owner == OWNER {
                self.initiator.on_event(&mut self.io, tag.key, event);
            }
        }
        self.initiator.drain(&mut self.completions);
        self.initiator.drain_notices(&mut self.notices);
        for completion in self.completions.drain(..) {
            seen(completion.ticket, completion.result.is_ok());
            self.load.on_completion(completion);
        }
    }

    /// Commands that succeeded.
    pub fn done(&self) -> u64 {
        self.load.stats().reads + self.load.stats().changes
    }

    /// Panics when the host has seen what it must not see.
    pub fn judge(&self) {
        let stats = self.load.stats();
        assert_eq!(stats.first_violation, None, "lost or wrong data: {}", self.describe());
        assert_eq!(stats.first_error, None, "an error: {}", self.describe());
    }

    pub fn describe(&self) -> String {
        let last = self.notices.iter().rev().take(4).collect::<Vec<_>>();
        format!(
            "host {}: {:?}, {} under way, done {}, last {last:?}",
            self.node.0,
            self.initiator.state(self.id),
            self.load.under_way(),
            self.load.is_done()
        )
    }
}
