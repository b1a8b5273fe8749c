//! A pool with parity that holds something, and ways in which one of its drives answers late.

use super::*;
use dolmen_sim::DriveFaults;

pub const BLOCKS: u64 = 120;

pub fn setup(count: usize) -> Setup {
    let mut setup = Setup { drives: drives(count, 8), parity: 1, unit_bytes: 128 * 1024, ..Setup::tiny(0) };
    setup.tuning.commit_bytes = 120 * 1024;
    setup
}

/// A pool with a line of blocks in hot and cold, narrow and wide segments, and the value of each block.
pub struct Filled {
    pub node: Node,
    pub seq: u64,
    pub model: Vec<u64>,
}

impl Filled {
    pub fn new(world: &World, setup: &Setup) -> Filled {
        let mut node = Node::open(world, setup).unwrap();
        node.commit(0, 1, vec![create(1)]).unwrap();
        let mut filled = Filled { node, seq: 1, model: vec![0; BLOCKS as usize] };
        for round in 0..8 {
            filled.write_some(round, 12);
        }
        filled.node.checkpoint();
        filled.write_some(3, 20);
        filled
    }

    /// Overwrites every seventh run of blocks.
    pub fn write_some(&mut self, from: u64, count: u64) {
        for i in 0..count {
            let first = (from * 31 + i * 7) % (BLOCKS - 9);
            self.seq += 1;
            let values: Vec<u64> = (0..1 + i % 9).map(|k| self.seq * 100 + k).collect();
            let record = self.node.write(1, first, &values);
            self.node.commit(0, self.seq, vec![record]).unwrap();
            self.model[first as usize..first as usize + values.len()].copy_from_slice(&values);
        }
    }

    pub fn verify(&mut self) {
        for first in (0..BLOCKS).step_by(20) {
            let got = self.node.read(0, 1, first, 20).unwrap();
            assert_eq!(got, self.model[first as usize..first as usize + 20], "from {first}");
        }
    }

    pub fn reopen(self, world: &World, setup: &Setup) -> Filled {
        world.crash();
        let Filled { node, seq, model } = self;
        drop(node);
        let node = Node::open(world, setup).unwrap();
        let mut filled = Filled { node, seq, model };
        filled.verify();
        filled
    }

    pub fn state(&self, drive: usize) -> DriveState {
        self.node.owner.drives()[drive].state
    }
}

/// Every operation of a drive takes so long from now on.
pub fn lag(world: &World, drive: &str, ms: u64) {
    let latency_ns = (ms * 1_000_000, ms * 1_000_000);
    world.set_faults(NODE, path(drive), DriveFaults { latency_ns, ..DriveFaults::default() });
}

/// A pool of three drives of which one is out, and nothing that it held is moved.
pub fn degraded(world: &World, setup: &Setup, out: usize) -> Filled {
    let mut filled = Filled::new(world, setup);
    filled.node.stores[0].set_reprotection(true, 0);
    world.remove_drive(NODE, path(DRIVES[out]));
    filled.write_some(1, 4);
    assert_eq!(filled.state(out), DriveState::Out);
    filled
}

pub const DRIVES: [&str; 3] = ["d0", "d1", "d2"];

pub const HOUR_MS: u64 = 3_600_000;

/// A pool of which one drive answers nothing any more.
pub fn hung(world: &World, setup: &Setup, drive: &str) -> Filled {
    let filled = Filled::new(world, setup);
    lag(world, drive, HOUR_MS);
    filled
}

/// A drive answers no read from an offset on any more; it takes writes as ever.
pub fn mute(world: &World, drive: &str, from: u64) {
    slow_reads(world, drive, HOUR_MS, from);
}

/// Reads of a drive take so much longer from an offset on.
pub fn slow_reads(world: &World, drive: &str, ms: u64, read_extra_from: u64) {
    let faults = DriveFaults { read_extra_ns: ms * 1_000_000, read_extra_from, ..DriveFaults::default() };
    world.set_faults(NODE, path(drive), faults);
}
