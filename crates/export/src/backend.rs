//! What a door asks of what stands behind it, and what comes back. Offsets and lengths are in bytes and multiples of the
//! export's block, inside the export, and no longer than [`MAX_DATA_BYTES`] or [`MAX_RANGE_BYTES`].

use dolmen_initiator::SubsystemId;
use dolmen_io::{Buf, Stamps};
use dolmen_types::limits::MAX_TRANSFER_BYTES;
use dolmen_volume::{Extent, VolumeRef, limits::MAX_ALLOCATION_BYTES};
use std::fmt;

/// Data of one request at most. Bytes.
pub const MAX_DATA_BYTES: usize = MAX_TRANSFER_BYTES;

/// Length of one request without data at most: 65,536 of the smallest blocks, which every backend takes. Bytes.
pub const MAX_RANGE_BYTES: u64 = 65_536 * 512;

/// Length of one question for what is stored at most. Bytes.
pub const MAX_MAP_BYTES: u64 = MAX_ALLOCATION_BYTES as u64;

const _: () = assert!((MAX_DATA_BYTES as u64) <= MAX_RANGE_BYTES);

/// Where the data of an export is; means something to its backend alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A volume of this node.
    Volume(VolumeRef),
    /// A namespace that the initiator is connected to.
    Namespace {
        /// Its subsystem.
        subsystem: SubsystemId,
        /// Its number there.
        nsid: u32,
    },
}

/// One request of a door.
#[derive(Debug)]
pub struct Request {
    /// The door's, echoed in the [`Reply`].
    pub token: u64,
    /// Which blocks are meant.
    pub place: Place,
    /// Bytes of one block of the export.
    pub block_bytes: u32,
    /// When its client's command passed which stage.
    pub stamps: Stamps,
    /// What to do.
    pub operation: Operation,
}

/// What to do.
#[derive(Debug)]
pub enum Operation {
    /// Fill `buf` from `offset` on.
    Read {
        /// Where it begins.
        offset: u64,
        /// Filled wholly, or of no meaning after a failure.
        buf: Buf,
    },
    /// Store `buf` from `offset` on.
    Write {
        /// Where it begins.
        offset: u64,
        /// The data.
        buf: Buf,
        /// On stable media before the reply.
        durable: bool,
    },
    /// Make a range read as zeroes.
    WriteZeroes {
        /// Where it begins.
        offset: u64,
        /// How long it is.
        length: u64,
        /// Its space may be given back.
        deallocate: bool,
    },
    /// Give the space of a range back; it need not read as anything in particular.
    Trim {
        /// Where it begins.
        offset: u64,
        /// How long it is.
        length: u64,
    },
    /// Tell what of a range is stored; only of exports that say so ([`Export::maps`](crate::Export::maps)).
    Map {
        /// Where it begins.
        offset: u64,
        /// How long it is, at most [`MAX_MAP_BYTES`].
        length: u64,
    },
    /// Make all completed writes durable.
    Flush,
}

/// What came of a [`Request`]. Every request gets exactly one.
#[derive(Debug)]
pub struct Reply {
    /// The request's.
    pub token: u64,
    /// Done, or why not.
    pub result: Result<(), Failure>,
    /// The request's buffer, if it had one and it can be handed back.
    pub buf: Option<Buf>,
    /// The answer to [`Operation::Map`]: runs from the beginning of the range on, maybe not to its end.
    pub extents: Box<[Extent]>,
    /// The request's stamps, continued as far as the backend does.
    pub stamps: Stamps,
}

impl Reply {
    /// The answer to a request that is not carried out.
    #[must_use]
    pub fn refused(token: u64, failure: Failure, buf: Option<Buf>) -> Reply {
        Reply { token, result: Err(failure), buf, extents: Box::default(), stamps: Stamps::default() }
    }
}

/// Why a request was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Too much is under way; trying again helps.
    Busy,
    /// No space is left for new data.
    NoSpace,
    /// Another host's reservation forbids it, or the medium is write-protected.
    Forbidden,
    /// The range, or something else about the request, makes no sense there.
    Invalid,
    /// It can't be done there at all.
    Unsupported,
    /// What stood behind the export is gone.
    Gone,
    /// Anything else: the medium, the path to it, its state.
    Failed,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::Busy => "too much is under way",
            Failure::NoSpace => "no space is left for new data",
            Failure::Forbidden => "forbidden by a reservation or by write protection",
            Failure::Invalid => "the range does not lie in the export",
            Failure::Unsupported => "not supported by what stands behind this export",
            Failure::Gone => "what stood behind this export is gone",
            Failure::Failed => "the data can't be reached or is damaged",
        })
    }
}

impl std::error::Error for Failure {}
