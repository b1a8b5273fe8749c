//! One host and several controllers of one subsystem in a simulated world.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::cast_possible_truncation)] // helpers of several test programs

use super::common::{BLOCK, Behaviour, PEER, Ram, host_pool};
use dolmen_initiator::{
    Command, Completion, Initiator, NO_DEADLINE, Notice, OWNER, Options, PathOptions, PathReport, Request,
    State, SubsystemId,
};
use dolmen_io::{Buf, Io, PoolConfig, Wait};
use dolmen_sim::{CoreConfig, NodeId, World};
use dolmen_types::{Nanos, Nqn, Uuid};
use std::{cell::RefCell, net::SocketAddr, rc::Rc};

pub const HOST: NodeId = NodeId(1);

pub fn node(path: usize) -> NodeId {
    NodeId(u16::try_from(10 + path).unwrap())
}

pub fn addr(path: usize) -> SocketAddr {
    SocketAddr::new(node(path).addr(), 4420)
}

pub struct Multi {
    pub world: World,
    pub io: Io,
    pub initiator: Initiator,
    pub completions: Vec<Completion>,
    pub notices: Vec<Notice>,
    pub peers: Vec<(Io, Ram)>,
    pub id: SubsystemId,
    pause_ns: u64,
}

impl Multi {
    /// As many controllers as behaviours; all share what they store.
    pub fn new(seed: u64, behaviours: Vec<Behaviour>, change: impl FnOnce(&mut Options)) -> Multi {
        let world = World::new(seed);
        let core = |node, pool| Io::new(Box::new(world.driver(CoreConfig { node, pool })));
        let mut io = core(HOST, host_pool(seed));
        let stored = Rc::new(RefCell::new(vec![0; 1024 * BLOCK]));
        let peers: Vec<(Io, Ram)> = (0..)
            .zip(behaviours)
            .map(|(path, mut behaviour)| {
                behaviour.controller_id = u16::try_from(path).unwrap() + 1;
                let mut io = core(node(path), PoolConfig::sized(32 << 20));
                let mut ram = Ram::listen(&mut io, addr(path), behaviour);
                ram.shared = Some(stored.clone());
                (io, ram)
            })
            .collect();
        let host: Nqn = "nqn.2014-08.org.example:host".parse().unwrap();
        let mut o = Options::new(addr(0), "nqn.2020-01.example:ram".parse().unwrap(), host, Uuid([7; 16]));
        (o.io_queues, o.queue_depth) = (2, 32);
        o.paths = (1..peers.len()).map(|p| PathOptions { addr: addr(p), preference: p as u8 }).collect();
        change(&mut o);
        let mut initiator = Initiator::new(OWNER);
        let id = initiator.connect(&mut io, o).unwrap();
        Multi { world, io, initiator, completions: Vec::new(), notices: Vec::new(), peers, id, pause_ns: 0 }
    }

    /// One turn of all. Time passes in steps that grow while nothing happens.
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
        for (io, peer) in &mut self.peers {
            peer.step(io);
            io.poll(Wait::No, &mut events);
            quiet &= events.is_empty();
            for (tag, event) in events.drain(..) {
                assert_eq!(tag.owner, PEER);
                peer.on_event(io, tag.key, event);
            }
        }
        self.pause_ns = if quiet { (self.pause_ns * 2).clamp(100, 5_000_000) } else { 0 };
        self.world.advance(self.pause_ns);
    }

    pub fn until(&mut self, what: &str, mut reached: impl FnMut(&mut Multi) -> bool) {
        for _ in 0..100_000 {
            if reached(self) {
                return;
            }
            self.turn();
        }
        let paths: Vec<_> = self.paths().into_iter().map(|p| (p.live, p.given_up, p.ana)).collect();
        let (state, last) = (self.initiator.state(self.id), self.notices.last());
        panic!("never: {what}; {state:?}, {paths:?}, last notice {last:?}");
    }

    /// Another controller of the subsystem, with a path to it that begins to connect; the path's number.
    pub fn join(&mut self, mut behaviour: Behaviour) -> u8 {
        let path = self.peers.len();
        behaviour.controller_id = u16::try_from(path).unwrap() + 1;
        let pool = PoolConfig::sized(32 << 20);
        let mut io = Io::new(Box::new(self.world.driver(CoreConfig { node: node(path), pool })));
        let mut ram = Ram::listen(&mut io, addr(path), behaviour);
        ram.shared = self.peers[0].1.shared.clone();
        self.peers.push((io, ram));
        let options = PathOptions { addr: addr(path), preference: 1 };
        self.initiator.add_path(&mut self.io, self.id, options).unwrap()
    }

    /// Time passes, and everything that happens in it.
    pub fn pass_ms(&mut self, ms: u64) {
        let until = self.io.now().plus_ms(ms);
        self.until("time", |m| m.io.now() >= until);
    }

    pub fn paths(&self) -> Vec<PathReport> {
        self.initiator.paths(self.id)
    }

    /// All paths are live, and a first command has gone through.
    pub fn live(&mut self) {
        self.until("live", |m| m.paths().iter().all(|p| p.live || p.given_up));
        assert!(matches!(self.initiator.state(self.id), State::Live { .. }));
        assert_eq!(self.read(0).result, Ok(0));
        // All paths were asked for the namespace then; they answer when they do.
        self.pass_ms(20);
    }

    pub fn peer(&mut self, path: usize) -> &mut Ram {
        &mut self.peers[path].1
    }

    pub fn cut(&mut self, path: usize) {
        self.world.partition(HOST, node(path));
        self.world.reset(HOST, node(path));
    }

    pub fn heal(&mut self, path: usize) {
        self.world.heal(HOST, node(path));
    }

    pub fn buf(&mut self, bytes: usize, fill: u8) -> Buf {
        let mut buf = self.io.alloc(bytes).unwrap();
        buf.fill(fill);
        buf
    }

    pub fn submit(&mut self, ticket: u64, deadline: Nanos, command: Command) {
        let request = Request { ticket, deadline, queue: None, command };
        self.initiator.submit(&mut self.io, self.id, request).map_err(|(_, e)| e).unwrap();
    }

    pub fn submit_write(&mut self, ticket: u64, lba: u64, fill: u8) {
        let buf = self.buf(BLOCK, fill);
        self.submit(ticket, NO_DEADLINE, Command::Write { nsid: 1, lba, blocks: 1, buf, fua: false });
    }

    pub fn done(&self, ticket: u64) -> bool {
        self.completions.iter().any(|c| c.ticket == ticket)
    }

    /// The completion of one ticket; that it comes twice is an error.
    pub fn wait(&mut self, ticket: u64) -> Completion {
        self.until("a completion", |m| m.done(ticket));
        let at = self.completions.iter().position(|c| c.ticket == ticket).unwrap();
        let completion = self.completions.swap_remove(at);
        assert!(!self.done(ticket), "completed twice");
        completion
    }

    pub fn write(&mut self, lba: u64, fill: u8) -> Completion {
        self.submit_write(u64::MAX, lba, fill);
        self.wait(u64::MAX)
    }

    pub fn read(&mut self, lba: u64) -> Completion {
        let buf = self.buf(BLOCK, 0xee);
        self.submit(u64::MAX, NO_DEADLINE, Command::Read { nsid: 1, lba, blocks: 1, buf });
        self.wait(u64::MAX)
    }

    /// The first byte of a block.
    pub fn byte(&mut self, lba: u64) -> u8 {
        let done = self.read(lba);
        assert_eq!(done.result, Ok(0));
        done.buf.unwrap()[0]
    }

    /// Reads and changes that reached each controller since the last call.
    pub fn traffic(&mut self) -> Vec<usize> {
        let take = |(_, peer): &mut (Io, Ram)| {
            std::mem::take(&mut peer.counts.reads) + std::mem::take(&mut peer.counts.writes)
        };
        self.peers.iter_mut().map(take).collect()
    }
}
