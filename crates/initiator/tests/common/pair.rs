//! Host and controller in one simulated world, stepped turn by turn.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // helpers of several test programs

use super::common::{Behaviour, PEER, Ram, host_pool};
use dolmen_initiator::{
    Command, Completion, Initiator, NO_DEADLINE, Notice, OWNER, Options, Request, State, SubsystemId,
};
use dolmen_io::{Buf, Io, PoolConfig, Wait};
use dolmen_sim::{CoreConfig, NodeId, World};
use dolmen_types::{Nqn, Uuid};
use std::net::SocketAddr;

pub const HOST: NodeId = NodeId(1);
pub const TARGET: NodeId = NodeId(2);

pub struct Pair {
    pub world: World,
    pub io: Io,
    pub initiator: Initiator,
    pub completions: Vec<Completion>,
    pub notices: Vec<Notice>,
    pub peer_io: Io,
    pub peer: Ram,
    pub id: SubsystemId,
    pause_ns: u64,
}

fn core(world: &World, node: NodeId, pool: PoolConfig) -> Io {
    Io::new(Box::new(world.driver(CoreConfig { node, pool })))
}

pub fn options(addr: SocketAddr) -> Options {
    let host: Nqn = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-4333-8444-555555555555".parse().unwrap();
    let mut o = Options::new(addr, "nqn.2020-01.example:ram".parse().unwrap(), host, Uuid([7; 16]));
    (o.io_queues, o.queue_depth) = (2, 32);
    o
}

impl Pair {
    pub fn new(seed: u64, behaviour: Behaviour, change: impl FnOnce(&mut Options)) -> Pair {
        let world = World::new(seed);
        let mut io = core(&world, HOST, host_pool(seed));
        let mut peer_io = core(&world, TARGET, PoolConfig::sized(32 << 20));
        let peer = Ram::listen(&mut peer_io, SocketAddr::new(TARGET.addr(), 4420), behaviour);
        let mut initiator = Initiator::new(OWNER);
        let mut o = options(peer.addr);
        change(&mut o);
        let id = initiator.connect(&mut io, o).unwrap();
        Pair {
            world,
            io,
            initiator,
            completions: Vec::new(),
            notices: Vec::new(),
            peer_io,
            peer,
            id,
            pause_ns: 0,
        }
    }

    /// One turn of both. Time passes in steps that grow while nothing happens.
    pub fn turn(&mut self) {
        let mut events = Vec::new();
        self.initiator.step(&mut self.io);
        self.io.poll(Wait::No, &mut events);
        let mut quiet = events.is_empty();
        for (tag, event) in events.drain(..) {
            assert_eq!(tag.owner, OWNER);
            self.initiator.on_event(&mut self.io, tag.key, event);
        }
        self.initiator.drain(&mut self.completions);
        self.initiator.drain_notices(&mut self.notices);
        self.peer.step(&mut self.peer_io);
        self.peer_io.poll(Wait::No, &mut events);
        quiet &= events.is_empty();
        for (tag, event) in events.drain(..) {
            assert_eq!(tag.owner, PEER);
            self.peer.on_event(&mut self.peer_io, tag.key, event);
        }
        self.pause_ns = if quiet { (self.pause_ns * 2).clamp(100, 5_000_000) } else { 0 };
        self.world.advance(self.pause_ns);
    }

    pub fn until(&mut self, what: &str, mut reached: impl FnMut(&mut Pair) -> bool) {
        for _ in 0..100_000 {
            if reached(self) {
                return;
            }
            self.turn();
        }
        let notices = &self.notices[..self.notices.len().min(3)];
        let state = self.initiator.state(self.id);
        panic!("never: {what}; {state:?}, first notices {notices:?}, {:?}", self.peer.counts);
    }

    pub fn live(&mut self) {
        self.until("live", |p| matches!(p.initiator.state(p.id), State::Live { .. }));
    }

    pub fn buf(&mut self, bytes: usize, fill: u8) -> Buf {
        let mut buf = self.io.alloc(bytes).unwrap();
        buf.fill(fill);
        buf
    }

    pub fn submit(&mut self, ticket: u64, command: Command) {
        self.submit_by(ticket, NO_DEADLINE, command);
    }

    pub fn submit_by(&mut self, ticket: u64, deadline: dolmen_types::Nanos, command: Command) {
        let request = Request { ticket, deadline, queue: None, command };
        self.initiator.submit(&mut self.io, self.id, request).map_err(|(_, e)| e).unwrap();
    }

    /// One command to its end.
    pub fn execute(&mut self, command: Command) -> Completion {
        self.submit(u64::MAX, command);
        self.wait(u64::MAX)
    }

    /// The completion of one ticket.
    pub fn wait(&mut self, ticket: u64) -> Completion {
        self.until("a completion", |p| p.completions.iter().any(|c| c.ticket == ticket));
        let at = self.completions.iter().position(|c| c.ticket == ticket).unwrap();
        self.completions.swap_remove(at)
    }

    pub fn read(&mut self, lba: u64, blocks: u32) -> Completion {
        let buf = self.buf(blocks as usize * 4096, 0xee);
        self.execute(Command::Read { nsid: 1, lba, blocks, buf })
    }

    pub fn write(&mut self, lba: u64, blocks: u32, fill: u8) -> Completion {
        let buf = self.buf(blocks as usize * 4096, fill);
        self.execute(Command::Write { nsid: 1, lba, blocks, buf, fua: false })
    }
}
