//! What a load is told to do.

use super::stamp::STAMP_BYTES;
use crate::Namespace;
use std::fmt;

/// Commands under way at most, over all queues.
const MAX_UNDER_WAY: usize = 65_536;

/// In which order a region is gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Every address as likely as any other.
    Random,
    /// At random, some addresses more often than others.
    Skewed(Skew),
    /// At random, every address once; then again in another order.
    Shuffled,
    /// One after the other, from the start again at the end.
    Sequential,
}

/// A hot part of a region and a cold one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skew {
    /// Commands that go to the hot part. Per cent, at most 100.
    pub commands: u8,
    /// How much of the region it is, from its start. Per cent, 1 to 99.
    pub region: u8,
}

/// What share of the commands is what. Per cent; the rest are writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// Reads.
    pub reads: u8,
    /// Write Zeroes with deallocation.
    pub zeroes: u8,
}

impl Mix {
    /// Only reads.
    pub const READ: Mix = Mix { reads: 100, zeroes: 0 };
    /// Only writes.
    pub const WRITE: Mix = Mix { reads: 0, zeroes: 0 };
}

/// What a verified region holds when its load starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Zeroes; a read that finds something else is a violation.
    Zeroes,
    /// Nobody knows: a block is checked from its first write on.
    Anything,
}

/// What a load does. Start from [`LoadOptions::new`] and change what should differ.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The namespace.
    pub namespace: Namespace,
    /// Where the region starts. Bytes, a multiple of `size_bytes`.
    pub region_start: u64,
    /// How long it is. Bytes; what is left over after whole commands is not touched.
    pub region_bytes: u64,
    /// Data of one command: a multiple of the namespace's block, and of 4096 when verifying. Bytes.
    pub size_bytes: usize,
    /// Commands under way on each queue.
    pub depth: usize,
    /// Queues to use; 1 to what the controller granted.
    pub queues: u16,
    /// Order of addresses.
    pub pattern: Pattern,
    /// Shares of reads and changes.
    pub mix: Mix,
    /// Commands a second over all queues; `None` for as many as the depth allows. With a rate, latency is counted
    /// from the moment when a command was due, not from when a place for it was free.
    pub per_second: Option<u64>,
    /// Stamp what is written and check what is read; the number tells this volume, and this load, from others.
    pub verify: Option<u64>,
    /// What a verified region holds at the start.
    pub start: Start,
    /// How much of each 4 KiB that is written without a stamp is zeroes, the rest being noise. Per cent, at most 100.
    pub zero_fill: u8,
    /// Same seed, same addresses.
    pub seed: u64,
    /// Deadline of each command. Milliseconds; `None` for none.
    pub deadline_ms: Option<u64>,
}

impl LoadOptions {
    /// The usual values: 4 KiB random reads of the whole namespace at depth 32 on one queue, as fast as they go.
    #[must_use]
    pub fn new(namespace: Namespace) -> LoadOptions {
        LoadOptions {
            namespace,
            region_start: 0,
            region_bytes: namespace.size_bytes(),
            size_bytes: 4096,
            depth: 32,
            queues: 1,
            pattern: Pattern::Random,
            mix: Mix::READ,
            per_second: None,
            verify: None,
            start: Start::Zeroes,
            zero_fill: 0,
            seed: 1,
            deadline_ms: None,
        }
    }

    /// Checks all that can be; the number of commands that cover the region once.
    pub(super) fn check(&self) -> Result<u64, LoadError> {
        let block = u64::from(self.namespace.block_bytes);
        let size = self.size_bytes as u64;
        if size == 0 || !size.is_multiple_of(block) || size / block > 65_536 {
            return Err(LoadError("the size of a command must be 1 to 65536 blocks of the namespace"));
        }
        if self.verify.is_some() && !self.size_bytes.is_multiple_of(STAMP_BYTES) {
            return Err(LoadError("a verified load needs a size that is a multiple of 4096"));
        }
        if u32::from(self.mix.reads) + u32::from(self.mix.zeroes) > 100 {
            return Err(LoadError("the shares of reads and zeroes add up to more than 100 per cent"));
        }
        if self.depth == 0 || self.queues == 0 || self.depth * usize::from(self.queues) > MAX_UNDER_WAY {
            return Err(LoadError("depth times queues must be 1 to 65536"));
        }
        if self.per_second == Some(0) {
            return Err(LoadError("a rate of 0 does nothing; leave it out for no limit"));
        }
        if self.zero_fill > 100 {
            return Err(LoadError("the share of zeroes in what is written is at most 100 per cent"));
        }
        let end = self.region_start.checked_add(self.region_bytes);
        if !self.region_start.is_multiple_of(size)
            || end.is_none_or(|end| end > self.namespace.size_bytes())
            || self.region_bytes < size
        {
            return Err(LoadError("the region must lie inside the namespace and hold at least one command"));
        }
        let units = self.region_bytes / size;
        match self.pattern {
            Pattern::Skewed(skew) if skew.commands > 100 || skew.region > 99 || skew.hot(units) == 0 => {
                Err(LoadError("the hot part must be 1 to 99 per cent of the region and hold a command"))
            }
            _ => Ok(units),
        }
    }
}

impl Skew {
    /// Commands that cover the hot part of a region of `units` once; the cold part has one at least.
    pub(super) fn hot(self, units: u64) -> u64 {
        let hot = u128::from(units) * u128::from(self.region.min(99)) / 100;
        u64::try_from(hot).expect("a part of a 64-bit number")
    }
}

/// Why a load can't be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError(pub(super) &'static str);

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for LoadError {}
