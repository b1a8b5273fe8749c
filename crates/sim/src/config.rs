//! What the test decides about the world: machines, cores, how drives misbehave.

use dolmen_io::PoolConfig;

/// A machine of the simulated world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

/// One core of a simulated process.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// The machine it runs on.
    pub node: NodeId,
    /// Its buffers.
    pub pool: PoolConfig,
}

impl Default for CoreConfig {
    fn default() -> CoreConfig {
        CoreConfig { node: NodeId(0), pool: PoolConfig::sized(16 << 20) }
    }
}

/// How a drive misbehaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriveFaults {
    /// Reads that fail, in a million.
    pub read_ppm: u32,
    /// Writes that fail, in a million; a part of each may be on the drive.
    pub write_ppm: u32,
    /// Flushes that fail, in a million; they make nothing safe.
    pub flush_ppm: u32,
    /// Shortest and longest time of one operation. Nanoseconds.
    pub latency_ns: (u64, u64),
    /// What a write takes besides. Nanoseconds.
    pub write_extra_ns: u64,
    /// What a read takes besides, from [`DriveFaults::read_extra_from`] on. Nanoseconds.
    pub read_extra_ns: u64,
    /// Where the part of the drive begins whose reads take longer. Bytes.
    pub read_extra_from: u64,
    /// How fast data moves, one operation behind the other, before that time begins; 0 for no bound. Bytes a second.
    pub bytes_per_s: u64,
}

impl Default for DriveFaults {
    fn default() -> DriveFaults {
        let latency_ns = (10_000, 150_000);
        DriveFaults {
            read_ppm: 0,
            write_ppm: 0,
            flush_ppm: 0,
            latency_ns,
            write_extra_ns: 0,
            read_extra_ns: 0,
            read_extra_from: 0,
            bytes_per_s: 0,
        }
    }
}

/// An operation that shall fail, see [`World::fail_next`](crate::World::fail_next).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The next read.
    Read,
    /// The next write.
    Write,
    /// The next flush.
    Flush,
}
