//! One command's whole way: our initiator, a real core with its target, volumes and store, and back.

use crate::{
    Result, counted, next_random,
    node::{Kind, Node, SUBSYSTEM, address},
    world::World,
};
use dolmen_initiator::{Command, Completion, Initiator, OWNER, Options, Request, State, SubsystemId};
use dolmen_io::{Buf, Event, Io, Tag, Wait};
use dolmen_types::{Uuid, limits::BLOCK_BYTES, volume::VolumeKind};

/// Turns after which something that does not come is given up.
const PATIENCE: usize = 1_000_000;
const DRIVE_BYTES: usize = 384 << 20;
const VOLUME_BYTES: u64 = 4 << 20;

/// What is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    kind: VolumeKind,
    sealed: bool,
    write: bool,
    /// Commands under way.
    depth: usize,
    /// Commands that are counted, a multiple of the depth.
    count: u64,
}

impl Shape {
    pub(crate) const NULL_READ: Shape =
        Shape { kind: VolumeKind::Null, sealed: false, write: false, depth: 32, count: 3200 };
    pub(crate) const NULL_READ_ALONE: Shape = Shape { depth: 1, count: 800, ..Shape::NULL_READ };
    pub(crate) const NULL_WRITE: Shape = Shape { write: true, ..Shape::NULL_READ };
    pub(crate) const DURABLE_READ: Shape = Shape { kind: VolumeKind::Durable, ..Shape::NULL_READ };
    pub(crate) const DURABLE_WRITE: Shape = Shape { write: true, ..Shape::DURABLE_READ };
    pub(crate) const SEALED_READ: Shape = Shape { sealed: true, ..Shape::DURABLE_READ };
    pub(crate) const SEALED_WRITE: Shape = Shape { write: true, ..Shape::SEALED_READ };
}

/// Host and node.
struct Pair {
    node: Node,
    io: Io,
    initiator: Initiator,
    id: SubsystemId,
    events: Vec<(Tag, Event)>,
    completions: Vec<Completion>,
    free: Vec<Buf>,
    random: u64,
}

/// Runs a shape; how many commands were counted.
pub(crate) fn run(shape: &Shape) -> Result<u64> {
    let mut pair = Pair::start(shape)?;
    let blocks = VOLUME_BYTES / BLOCK_BYTES as u64;
    if shape.kind == VolumeKind::Durable {
        let mut next = 0..blocks;
        while !next.is_empty() {
            pair.round(32, true, |_| next.next().unwrap_or(0))?;
        }
    }
    let go = |pair: &mut Pair, count: u64| {
        let mut done = 0;
        while done < count {
            done += pair.round(shape.depth, shape.write, |random| next_random(random) % blocks)?;
        }
        Ok(done)
    };
    go(&mut pair, 320)?;
    counted(&mut || go(&mut pair, shape.count))
}

impl Pair {
    fn start(shape: &Shape) -> Result<Pair> {
        let world = World::new(1, DRIVE_BYTES);
        let volume = Kind { kind: shape.kind, sealed: shape.sealed, bytes: VOLUME_BYTES };
        let node = Node::start(&world, volume)?;
        let mut io = Io::new(world.driver(1));
        let mut initiator = Initiator::new(OWNER);
        let host = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-4333-8444-555555555555".parse()?;
        let mut options = Options::new(address(), SUBSYSTEM.parse()?, host, Uuid([7; 16]));
        options.queue_depth = 128;
        let id = initiator.connect(&mut io, options).map_err(|e| e.to_string())?;
        let free = (0..shape.depth.max(32)).map(|n| filled(&io, n)).collect::<Result<_>>()?;
        let (events, completions) = (Vec::new(), Vec::new());
        let mut pair =
            Pair { node, io, initiator, id, events, completions, free, random: 0x1234_5678_9abc_def1 };
        for _ in 0..PATIENCE {
            if matches!(pair.initiator.state(pair.id), State::Live { .. }) {
                return Ok(pair);
            }
            pair.turn();
        }
        Err(format!("the host did not get through: {:?}", pair.initiator.state(pair.id)).into())
    }

    /// One turn of both.
    fn turn(&mut self) {
        self.initiator.step(&mut self.io);
        self.io.poll(Wait::No, &mut self.events);
        for (tag, event) in self.events.drain(..) {
            self.initiator.on_event(&mut self.io, tag.key, event);
        }
        self.initiator.drain(&mut self.completions);
        self.node.core.turn();
    }

    /// So many commands at once, until all are answered.
    fn round(&mut self, depth: usize, write: bool, mut lba: impl FnMut(&mut u64) -> u64) -> Result<u64> {
        for ticket in 0..depth as u64 {
            let (nsid, lba, blocks) = (1, lba(&mut self.random), 1);
            let mut buf = self.free.pop().ok_or("a buffer went astray")?;
            let command = if write {
                buf[..8].copy_from_slice(&self.random.to_le_bytes());
                Command::Write { nsid, lba, blocks, buf, fua: false }
            } else {
                Command::Read { nsid, lba, blocks, buf }
            };
            let request = Request::new(ticket, command);
            self.initiator.submit(&mut self.io, self.id, request).map_err(|(_, e)| format!("{e:?}"))?;
        }
        for _ in 0..PATIENCE {
            self.turn();
            if self.completions.len() == depth {
                break;
            }
        }
        let mut done = 0;
        for completion in self.completions.drain(..) {
            completion.result.map_err(|e| format!("a command failed: {e:?}"))?;
            self.free.extend(completion.buf);
            done += 1;
        }
        if done == depth as u64 { Ok(done) } else { Err("commands were not answered".into()) }
    }
}

/// A block that compresses to about a half.
fn filled(io: &Io, number: usize) -> Result<Buf> {
    let mut buf = io.alloc(BLOCK_BYTES).ok_or("too few buffers")?;
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ number as u64;
    for part in buf.chunks_mut(1024) {
        part[..512].iter_mut().for_each(|byte| *byte = next_random(&mut state).to_be_bytes()[0]);
        part[512..].fill(0);
    }
    Ok(buf)
}
