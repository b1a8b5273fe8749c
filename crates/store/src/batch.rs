//! What callers hand to the store and get back: batches of records, tickets, completions.

use crate::StoreError;
use dolmen_io::{Buf, Slice};
use dolmen_types::{Blocks, Epoch, Lba, LineId, Nanos, PgId, Seq};
use smallvec::SmallVec;

/// Bytes of one keyed object's value at most: a volume descriptor with full access lists fits.
pub const MAX_OBJECT_BYTES: usize = 32 * 1024;

/// Records of one batch at most.
pub const MAX_BATCH_RECORDS: usize = 512;

/// Lines one over the other at most: a clone, what it was cloned from, and so on.
pub const MAX_CLONE_DEPTH: usize = 16;

/// Snapshots of all lines of a shard at most, those that only clones keep included: a checkpoint writes a row for each.
pub const MAX_SNAPSHOTS_PER_SHARD: usize = 1 << 18;

/// The caller's name for a request, echoed in its [`Done`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Name of a small keyed object within its protection group. The newest value wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// What kind of object; numbers are given out by the `volume` crate.
    pub kind: u8,
    /// Which one (for instance a volume's UUID as a number).
    pub id: u128,
}

/// How a line's blocks are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineAttributes {
    /// Compressed where it pays.
    pub compress: bool,
    /// Encrypted under the line's own key, which the store must have been given before the line's first record.
    pub encrypt: bool,
}

impl LineAttributes {
    const COMPRESS: u8 = 1;
    const ENCRYPT: u8 = 2;

    /// As flags in a record and in a checkpoint.
    pub(crate) fn bits(self) -> u8 {
        (u8::from(self.compress) * Self::COMPRESS) | (u8::from(self.encrypt) * Self::ENCRYPT)
    }

    /// What [`LineAttributes::bits`] made.
    pub(crate) fn from_bits(bits: u8) -> LineAttributes {
        LineAttributes { compress: bits & Self::COMPRESS != 0, encrypt: bits & Self::ENCRYPT != 0 }
    }
}

/// One change. All blocks are store blocks of 4096 bytes.
#[derive(Debug)]
pub enum Record {
    /// New contents of consecutive blocks.
    Write {
        /// The line.
        line: LineId,
        /// First block.
        lba: Lba,
        /// Whole store blocks, at least one.
        data: Slice,
    },
    /// These blocks read as zeros from now on and take no space (deallocate, write zeroes). Any length.
    Unmap {
        /// The line.
        line: LineId,
        /// First block.
        lba: Lba,
        /// How many.
        blocks: Blocks,
    },
    /// New value of a keyed object.
    Put {
        /// Its name.
        key: Key,
        /// At most [`MAX_OBJECT_BYTES`].
        value: Box<[u8]>,
    },
    /// The keyed object is gone.
    Delete {
        /// Its name.
        key: Key,
    },
    /// A new, empty line. Writes to a line that does not exist are refused.
    CreateLine {
        /// Never used before in this pool.
        line: LineId,
        /// How its blocks are stored, for the line's life.
        attributes: LineAttributes,
    },
    /// The line's head is gone: it can't be written or read as of now any more. Its snapshots, and clones of them, stay;
    /// whatever none of them needs comes back in the background.
    DropLine {
        /// The line.
        line: LineId,
    },
    /// Keeps the line as it is after this batch under the batch's sequence number, which names the snapshot from now on.
    /// Instant. Everything that the batch does to the line is in it, before and behind this record. Snapshots of
    /// several lines in one batch are of one instant.
    Snapshot {
        /// The line.
        line: LineId,
    },
    /// The snapshot is gone. What it alone needed comes back in the background; while a clone of it lives, the clone keeps it.
    DropSnapshot {
        /// The line.
        line: LineId,
        /// Sequence number of the batch that made it. Nothing happens when there is no such snapshot.
        at: Seq,
    },
    /// A new line with the contents of a snapshot; they are shared until overwritten. Instant.
    CloneLine {
        /// Never used before in this pool.
        line: LineId,
        /// The line of the snapshot; clones may be cloned, up to [`MAX_CLONE_DEPTH`] lines one over the other.
        parent: LineId,
        /// The snapshot: made before, or by an earlier record of this batch.
        at: Seq,
    },
}

/// The records of one batch; one or two fit without an allocation.
pub type Records = SmallVec<[Record; 2]>;

/// One host command or one control change: applied in one commit, all or nothing.
#[derive(Debug)]
pub struct Batch {
    /// The protection group that orders it.
    pub pg: PgId,
    /// The group's epoch.
    pub epoch: Epoch,
    /// Its place in the group's order; appended in ascending order per group.
    pub seq: Seq,
    /// At most [`MAX_BATCH_RECORDS`]; data in total at most one host command's
    /// ([`MAX_COMMAND_BLOCKS`](dolmen_types::limits::MAX_COMMAND_BLOCKS)).
    pub records: Records,
}

/// Why a batch was not even queued; it is handed back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendError {
    /// No space for host data. Unmap, delete and other control records are still accepted.
    Full,
    /// The shard has stopped after a drive fault.
    Stopped {
        /// What happened, for people.
        reason: String,
    },
    /// Recovery has not ended.
    NotReady,
    /// Nothing can be queued now: the queue is at its bound. Try again next turn.
    Busy,
    /// The shard's keyed objects have reached their limit. What does not grow them is still accepted.
    ObjectsFull,
    /// The shard has [`MAX_SNAPSHOTS_PER_SHARD`] snapshots, those among them that only clones need. All else is still accepted.
    SnapshotsFull,
    /// The batch does not fit one commit.
    TooLarge {
        /// Its records that would, from the first one on.
        fit: usize,
    },
    /// The batch breaks a limit or names a line that does not exist: a defect of the caller.
    Invalid(&'static str),
}

/// The end of one append or read.
#[derive(Debug)]
pub struct Done {
    /// The caller's name for it.
    pub ticket: Ticket,
    /// For appends: durable and applied, or why not. For reads: every block verified, or why not.
    pub result: Result<(), StoreError>,
    /// The read's buffer, filled when `result` is `Ok`.
    pub buf: Option<Buf>,
    /// What it waited for.
    pub timing: Timing,
}

/// What an append or a read waited for, for tools; all 0 when no drive was needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// When its first drive operation was handed to the driver.
    pub submitted: Nanos,
    /// When its last drive operation was complete.
    pub drive: Nanos,
    /// What compressing, encrypting and verifying its blocks took: before the drive was written, or after it was read. Of reads
    /// one in a few is measured, and the others are told its pace. Nanoseconds.
    pub work_ns: u64,
    /// The drive whose operation was complete last, by its place in the pool.
    pub slowest: Option<u16>,
}

/// What a protection group's records say about it after recovery and at any time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Newest epoch of an applied batch.
    pub epoch: Epoch,
    /// Highest sequence number of an applied batch.
    pub highest_seq: Seq,
}

/// How much one line takes. Counts are exact right after a checkpoint (after a snapshot was dropped: when its space has come
/// back) and otherwise upper bounds: an overwrite counts twice until the checkpoint that merges it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineUsage {
    /// Blocks of the head that are mapped. What a clone inherits counts too, even where the clone has overwritten it.
    pub mapped_blocks: u64,
    /// Of them, those that the line stores itself. Their stored forms take `head_bytes` and `shared_bytes`.
    pub own_blocks: u64,
    /// Bytes that the stored forms of this line's own blocks take: the sum of the three below.
    pub stored_bytes: u64,
    /// Of them, what only the head needs: dropping the line would give it back.
    pub head_bytes: u64,
    /// Of them, what only snapshots (and clones of them) need.
    pub snapshot_bytes: u64,
    /// Of them, what the head and some snapshot need.
    pub shared_bytes: u64,
}

/// A line and what hangs on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineInfo {
    /// It can be written, and read as of now.
    pub head: bool,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<Seq>,
    /// What it was cloned from.
    pub parent: Option<(LineId, Seq)>,
}
