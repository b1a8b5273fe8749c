//! What doors ask of a volume, and what they get back. Plain messages: they may cross cores.

use crate::{Extent, HostId, NearRange, ReservationCommand, ReservationReport, VolumeError};
use dolmen_io::{Buf, Stamps};
use dolmen_types::{CoreId, Nanos};

/// Where a volume lives, as good as a pointer while the volume exists: no map is searched on the way of an I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeRef {
    /// The home core of its protection group.
    pub core: CoreId,
    /// Index among that core's volumes.
    pub slot: u32,
    /// Grows when the slot is reused, so that a stale reference is noticed ([`VolumeError::Gone`]).
    pub generation: u32,
}

/// A run of logical blocks of the volume's own format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LbaRange {
    /// First logical block.
    pub lba: u64,
    /// Number of logical blocks; 0 is an empty range, which does nothing.
    pub blocks: u32,
}

/// One command of a host.
#[derive(Debug)]
pub struct Request {
    /// The caller's, echoed in the [`Reply`].
    pub token: u64,
    /// The core that the reply goes to.
    pub from: CoreId,
    /// The volume it is for.
    pub volume: VolumeRef,
    /// The host, for reservations; equal on all of a host's controllers.
    pub host_id: HostId,
    /// A command that is not sequenced (writes) or looked up (reads) before this is failed as [`VolumeError::Expired`].
    pub deadline: Nanos,
    /// When it passed which stage.
    pub stamps: Stamps,
    /// What to do.
    pub command: Command,
}

impl Request {
    /// True when it may be about blocks of `range`.
    #[must_use]
    pub fn meets(&self, range: &NearRange<'_>) -> bool {
        let same = self.volume == range.volume;
        let (lba, blocks) = match &self.command {
            Command::Read { lba, blocks, .. }
            | Command::Write { lba, blocks, .. }
            | Command::Compare { lba, blocks, .. }
            | Command::CompareAndWrite { lba, blocks, .. }
            | Command::WriteZeroes { lba, blocks, .. }
            | Command::Verify { lba, blocks }
            | Command::Allocation { lba, blocks } => (*lba, *blocks),
            Command::Flush => return false,
            Command::Deallocate { .. } | Command::Copy { .. } | Command::Reservation(_) => return same,
        };
        let end = |lba: u64, blocks: u32| lba.saturating_add(u64::from(blocks));
        same && lba < end(range.lba, range.blocks) && range.lba < end(lba, blocks)
    }
}

/// What to do. Addresses and lengths are in logical blocks of the volume's format (512 or 4096 bytes), and never zero
/// long. Buffers hold exactly the range's bytes; they come from the caller's pool and go back in the [`Reply`].
#[derive(Debug)]
pub enum Command {
    /// Fill `buf` with the range. Its length is `blocks` logical blocks; its contents are undefined after an error.
    Read {
        /// First logical block.
        lba: u64,
        /// Number of logical blocks.
        blocks: u32,
        /// Where the data goes.
        buf: Buf,
    },
    /// Store `buf` in the range: durable when answered (which makes FUA a no-op), all or nothing.
    Write {
        /// First logical block.
        lba: u64,
        /// Number of logical blocks.
        blocks: u32,
        /// The data.
        buf: Buf,
    },
    /// Compare the range with `buf`: [`VolumeError::CompareFailed`] when they differ.
    Compare {
        /// First logical block.
        lba: u64,
        /// Number of logical blocks.
        blocks: u32,
        /// What the host believes is there.
        buf: Buf,
    },
    /// Fused Compare and Write of one range: nothing else touches it in between.
    CompareAndWrite {
        /// First logical block.
        lba: u64,
        /// Number of logical blocks.
        blocks: u32,
        /// What the host believes is there. Goes back as [`Reply::buf`].
        compare: Buf,
        /// What is to be there. Goes back as [`Reply::buf2`].
        write: Buf,
    },
    /// Make the range read zeros.
    WriteZeroes {
        /// First logical block.
        lba: u64,
        /// Number of logical blocks.
        blocks: u32,
        /// The host would like the space to be given up (DEAC). We always give it up; the field is for the record.
        deallocate: bool,
    },
    /// Give up the space of the ranges. Whole store blocks (4 KiB) within a range read zeros afterwards; what a range
    /// covers of a store block in part keeps its data. All ranges in one step, at most
    /// [`MAX_DEALLOCATE_RANGES`](crate::limits::MAX_DEALLOCATE_RANGES).
    Deallocate {
        /// Any order, overlaps allowed.
        ranges: Box<[LbaRange]>,
    },
    /// Read and check the range without handing out data.
    Verify {
        /// First logical block.
        lba: u64,
        /// Number of logical blocks.
        blocks: u32,
    },
    /// Tell what of the range is stored, at most [`MAX_ALLOCATION_BYTES`](crate::limits::MAX_ALLOCATION_BYTES).
    Allocation {
        /// First logical block.
        lba: u64,
        /// Number of logical blocks.
        blocks: u32,
    },
    /// Copy the sources, one after the other, to the range that starts at `dest`; as if all were read before any is
    /// written, and in one step. Limits: `MAX_COPY_*` of [`limits`](crate::limits).
    Copy {
        /// What to copy, in this order.
        sources: Box<[LbaRange]>,
        /// First logical block of the destination.
        dest: u64,
    },
    /// Make what was acknowledged durable. It is already, so this only waits for nothing.
    Flush,
    /// A reservation command.
    Reservation(ReservationCommand),
}

/// What came of a command that was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// It was done, and there is nothing to say.
    Ok,
    /// The answer of [`ReservationCommand::Report`].
    Report(Box<ReservationReport>),
    /// The answer of [`Command::Allocation`]: runs from the beginning of the range on, at least one, at most
    /// [`MAX_EXTENTS`](crate::limits::MAX_EXTENTS); maybe not to its end.
    Allocation(Box<[Extent]>),
}

/// The answer to one [`Request`]. Every request gets exactly one.
#[derive(Debug)]
pub struct Reply {
    /// The request's.
    pub token: u64,
    /// What came of it.
    pub result: Result<Done, VolumeError>,
    /// The request's first buffer, when it had one and it can be handed back.
    pub buf: Option<Buf>,
    /// The request's second buffer, likewise.
    pub buf2: Option<Buf>,
    /// The request's stamps, continued.
    pub stamps: Stamps,
}
