//! Versions of blocks, as the map names them.

use crate::location::{GRANULE_BYTES, Location};
use crate::stored::Form;

/// Where a version of a block is stored, and how to know that it is the one. The entry kinds "frame of several blocks"
/// and "dedup indirection" have numbers reserved in the format; this version writes plain blocks only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The write's sequence number, kept for life.
    pub(crate) seq: u64,
    /// Where its stored form begins.
    pub(crate) location: Location,
    /// The check of its stored form.
    pub(crate) check: u64,
    /// Length of its stored form in granules.
    pub(crate) granules: u16,
    /// How its stored form was made.
    pub(crate) form: Form,
}

impl Entry {
    /// Bytes that its stored form takes.
    pub(crate) fn bytes(&self) -> u32 {
        u32::from(self.granules) * GRANULE_BYTES
    }
}

/// What stands in one slot of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// One block's contents from its sequence number on.
    Stored(Entry),
    /// So many blocks have no contents from this number on.
    Hole {
        /// Sequence number of the unmap.
        seq: u64,
        /// How many blocks, from the slot's address on.
        blocks: u64,
    },
}

impl Version {
    /// From when on it counts.
    pub(crate) fn seq(&self) -> u64 {
        match self {
            Version::Stored(entry) => entry.seq,
            Version::Hole { seq, .. } => *seq,
        }
    }

    /// The stored block, if it is one.
    pub(crate) fn stored(&self) -> Option<&Entry> {
        match self {
            Version::Stored(entry) => Some(entry),
            Version::Hole { .. } => None,
        }
    }
}

/// What one line says about one block, as of some state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Content {
    /// Nothing: its parent decides.
    #[default]
    Nothing,
    /// It was unmapped with this sequence number.
    Hole(u64),
    /// It is stored.
    Stored(Entry),
}

impl Content {
    /// Replaced by a stored version, unless it is newer than that.
    pub(crate) fn store(&mut self, entry: Entry) {
        if self.seq().is_none_or(|s| s <= entry.seq) {
            *self = Content::Stored(entry);
        }
    }

    /// Replaced by what an older layer says, when that is newer: of the same version the newer layer knows where it is.
    pub(crate) fn lay_under(&mut self, below: Content) {
        if self.seq() < below.seq() {
            *self = below;
        }
    }

    /// Replaced by a hole, unless it is newer than that.
    pub(crate) fn hide(&mut self, seq: u64) {
        if self.seq().is_none_or(|s| s <= seq) {
            *self = Content::Hole(seq);
        }
    }

    /// From when on it counts.
    pub(crate) fn seq(&self) -> Option<u64> {
        match self {
            Content::Nothing => None,
            Content::Hole(seq) => Some(*seq),
            Content::Stored(entry) => Some(entry.seq),
        }
    }
}
