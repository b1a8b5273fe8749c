//! What stands behind volumes: the log, nothing, or memory.

mod durable;
#[cfg(test)]
pub(crate) mod fake;
mod memory;

pub(crate) use durable::Durable;
pub(crate) use memory::MemoryBlocks;

use dolmen_io::Buf;
use dolmen_store::{Batch, DiffDone, DiffRequest, LineInfo, LineUsage, StoreError, Ticket};
use dolmen_types::{LineId, Nanos, PgId};

/// What stands behind one volume.
#[derive(Debug)]
pub(crate) enum Backing {
    /// A line of the log.
    Durable(LineId),
    /// Nothing: reads give zeros, writes are forgotten.
    Null,
    /// Blocks in memory.
    Memory(MemoryBlocks),
}

impl Backing {
    /// True when its operations end at once, so that a command never meets another one half done.
    pub(crate) fn is_immediate(&self) -> bool {
        !matches!(self, Backing::Durable(_))
    }

    /// Fills `buf` with store blocks from `first` on. Only for backings that are immediate.
    pub(crate) fn read_now(&self, first: u64, buf: &mut [u8]) {
        match self {
            Backing::Memory(blocks) => blocks.read(first, buf),
            Backing::Null | Backing::Durable(_) => buf.fill(0),
        }
    }

    /// Stores whole blocks from `first` on, where that takes no time; false, and nothing is stored, where it does, or where there is
    /// no room.
    #[inline]
    pub(crate) fn write_now(&mut self, first: u64, data: &[u8]) -> bool {
        match self {
            Backing::Null => true,
            Backing::Memory(blocks) => blocks.write(first, data).is_ok(),
            Backing::Durable(_) => false,
        }
    }
}

/// Why a batch was not taken; it is handed back, and nothing of it took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No space for host data, or for more keyed objects.
    Full,
    /// It does not fit one commit; so many of its records would, from the first one on.
    TooLarge(usize),
    /// Not this turn.
    Busy,
    /// Not at all any more.
    Stopped,
}

/// The world of one step: time, buffers and the log. Implemented by the store behind the seam ([`Durable`]), and by a
/// fake of a few lines that tests drive completion by completion.
pub(crate) trait Log {
    /// The turn's time.
    fn now(&self) -> Nanos;

    /// A buffer of `len` bytes with old contents, if there is one that hosts could have, too.
    fn alloc(&self, len: usize) -> Option<Buf>;

    /// The same, for the one command that is under way with buffers of ours: of those as well that hosts leave.
    fn alloc_alone(&self, len: usize) -> Option<Buf>;

    /// Sees to it that there is a step at or after `at`.
    fn wake_at(&mut self, at: Nanos);

    /// Reads `buf.len() / 4096` blocks; answered with `ticket`.
    fn read(&mut self, pg: PgId, line: LineId, first: u64, buf: Buf, ticket: u64);

    /// Queues a batch; answered with `ticket` when it is durable and applied.
    fn append(&mut self, batch: Batch, ticket: u64) -> Result<(), (Batch, Refusal)>;

    /// What a line takes together with others that belong to it, and with ancestors that only those lines hold.
    fn usage(&self, pg: PgId, line: LineId, others: &[LineId]) -> LineUsage;

    /// What hangs on a line.
    fn line(&self, pg: PgId, line: LineId) -> Option<LineInfo>;

    /// True when the key of a line, encrypted or about to be, is here.
    fn has_key(&self, pg: PgId, line: LineId) -> bool;

    /// Lists what differs between two states of lines; answered with `ticket`.
    fn diff(&mut self, pg: PgId, request: DiffRequest, ticket: Ticket);

    /// Takes such listings that have ended.
    fn drain_diffs(&mut self, out: &mut Vec<DiffDone>);
}

/// How a failed operation of the log looks to a host.
pub(crate) fn host_error(error: &StoreError) -> crate::VolumeError {
    match error {
        StoreError::Full => crate::VolumeError::CapacityExceeded,
        StoreError::Medium { .. } | StoreError::Integrity { .. } | StoreError::Map { .. } => {
            crate::VolumeError::Media
        }
        _ => crate::VolumeError::NotReady,
    }
}
