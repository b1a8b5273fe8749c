//! A pool that hosts overwrite for ever, and how long that takes.

use super::*;
use dolmen_types::Nanos;

/// Which blocks hosts write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Single blocks, all alike.
    Uniform,
    /// Single blocks, nine of ten writes to a tenth of them.
    Skewed,
    /// 128 KiB at a time, one behind the other.
    Sequential,
}

/// Commands of single blocks under way.
const DEPTH: usize = 32;

/// See the module.
pub struct Load {
    pub world: World,
    pub node: Node,
    /// Blocks that are written.
    pub blocks: u64,
    pub depth: usize,
    /// Single reads that are under way all the time.
    pub readers: usize,
    rng: Rng,
    next: u64,
    seq: u64,
    waiting: BTreeMap<u64, Nanos>,
    reading: BTreeMap<u64, Nanos>,
    /// How long commands took, since the last time somebody took this. Nanoseconds.
    pub write_ns: Vec<u64>,
    pub read_ns: Vec<u64>,
}

impl Load {
    /// A pool of one drive whose data will fill `percent` of what hosts may fill.
    pub fn new(units: u64, unit_bytes: u32, percent: u64, cache_bytes: usize) -> Load {
        let world = World::new(percent);
        let mut setup = Setup::tiny(units);
        setup.unit_bytes = unit_bytes;
        setup.drives = vec![("d0", (4 << 20) + units * u64::from(unit_bytes))];
        let commit_bytes = (unit_bytes as usize / 4 * 3).min(1 << 20);
        setup.tuning = ShardTuning { commit_bytes, cache_bytes, ..ShardTuning::default() };
        let mut node = Node::open(&world, &setup).unwrap();
        // Data that does not compress, on a line that tries.
        let attributes = LineAttributes { compress: true, encrypt: false };
        node.commit(0, 1, vec![Record::CreateLine { line: LineId(1), attributes }]).unwrap();
        let blocks = node.owner.capacity_bytes() * percent / 100 / BLOCK as u64;
        Load {
            world,
            node,
            blocks,
            depth: DEPTH,
            readers: 0,
            rng: Rng::new(7),
            next: 0,
            seq: 1,
            waiting: BTreeMap::new(),
            reading: BTreeMap::new(),
            write_ns: Vec::new(),
            read_ns: Vec::new(),
        }
    }

    /// Sends one command; its blocks.
    fn send(&mut self, pattern: Pattern) -> u64 {
        let (lba, count) = match pattern {
            Pattern::Uniform => (self.rng.next_u64() % self.blocks, 1),
            Pattern::Skewed if self.rng.below(10) > 0 => (self.rng.next_u64() % (self.blocks / 10), 1),
            Pattern::Skewed => (self.rng.next_u64() % self.blocks, 1),
            Pattern::Sequential => {
                let lba = self.next;
                let count = 32.min(self.blocks - lba);
                self.next = (lba + count) % self.blocks;
                (lba, count)
            }
        };
        self.seq += 1;
        let mut buf = self.node.io.alloc(count as usize * BLOCK).expect("the test's pool is large enough");
        self.rng.fill(&mut buf);
        let record = Record::Write { line: LineId(1), lba: Lba(lba), data: buf.freeze() };
        let sent = self.node.append(0, self.seq, vec![record]);
        let ticket = sent.unwrap_or_else(|e| panic!("{e:?}: {:?}", self.node.space()));
        self.waiting.insert(ticket, self.node.io.now());
        count
    }

    /// Writes so many blocks.
    pub fn write(&mut self, blocks: u64, pattern: Pattern) {
        let mut left = blocks;
        let depth = if pattern == Pattern::Sequential { 4 } else { self.depth };
        while left > 0 || !self.waiting.is_empty() {
            while left > 0 && self.waiting.len() < depth {
                left = left.saturating_sub(self.send(pattern));
            }
            while self.reading.len() < self.readers {
                let lba = self.rng.next_u64() % self.blocks;
                let ticket = self.node.start_read(0, 1, lba, 1);
                self.reading.insert(ticket, self.node.io.now());
            }
            self.node.turn();
            let now = self.node.io.now();
            for (_, done) in std::mem::take(&mut self.node.done) {
                assert_eq!(done.result, Ok(()), "{:?}", self.node.space());
                if let Some(sent) = self.waiting.remove(&done.ticket.0) {
                    self.write_ns.push(now.since(sent));
                }
                if let Some(sent) = self.reading.remove(&done.ticket.0) {
                    self.read_ns.push(now.since(sent));
                }
            }
        }
    }
}
