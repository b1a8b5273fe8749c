//! Versions of blocks, as the map names them.

use crate::location::{BLOCK_GRANULES, GRANULE_BYTES, Location, Slot};
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

    /// What stands for a version that nobody knows any more: it is nowhere.
    pub(crate) fn lost(until: u64) -> Entry {
        let granules = u16::try_from(BLOCK_GRANULES).expect("a block's");
        Entry { seq: until, location: Location::new(NOWHERE, 0), check: 0, granules, form: Form(0) }
    }

    /// True for that.
    pub(crate) fn is_lost(&self) -> bool {
        is_nowhere(self.location)
    }
}

/// True of where what is lost is said to be.
pub(crate) fn is_nowhere(location: Location) -> bool {
    location.slot() == NOWHERE
}

/// No table of segments is that long.
const NOWHERE: Slot = Slot(u32::MAX);

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
    /// Of so many blocks nobody knows what they held before this number: the leaf that said it is lost. Whatever else is older says
    /// nothing of them either, since something newer may have been lost.
    Lost {
        /// Sequence number from which on versions count.
        until: u64,
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
            Version::Lost { .. } => 0,
        }
    }

    /// How many blocks it is about, if it is about a range of them.
    pub(crate) fn range_mut(&mut self) -> Option<&mut u64> {
        match self {
            Version::Stored(_) => None,
            Version::Hole { blocks, .. } | Version::Lost { blocks, .. } => Some(blocks),
        }
    }

    /// The stored block, if it is one.
    pub(crate) fn stored(&self) -> Option<&Entry> {
        match self {
            Version::Stored(entry) => Some(entry),
            Version::Hole { .. } | Version::Lost { .. } => None,
        }
    }

    /// The first block from `from` on of which it says that there is, or was, something; it stands at `lba`.
    pub(crate) fn shows(&self, lba: u64, from: u64) -> Option<u64> {
        let blocks = match self {
            Version::Stored(_) => 1,
            Version::Hole { .. } => 0,
            Version::Lost { blocks, .. } => *blocks,
        };
        (lba.saturating_add(blocks) > from && blocks > 0).then_some(lba.max(from))
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
    /// What it held before this number is lost, and nothing since is known.
    Lost(u64),
}

impl Content {
    /// Replaced by a stored version, unless it is newer than that.
    pub(crate) fn store(&mut self, entry: Entry) {
        if self.seq().is_none_or(|s| s <= entry.seq) {
            *self = Content::Stored(entry);
        }
    }

    /// Replaced by what an older layer says, when that is newer: of the same version the newer layer knows where it is. What is lost is
    /// older than the number it has, and that number itself counts.
    pub(crate) fn lay_under(&mut self, below: Content) {
        let ends_loss = matches!(self, Content::Lost(until) if below.seq() == Some(*until));
        if self.seq() < below.seq() || ends_loss {
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
            Content::Hole(seq) | Content::Lost(seq) => Some(*seq),
            Content::Stored(entry) => Some(entry.seq),
        }
    }
}
