//! What callers ask and learn about the blocks that differ between two states of lines.

use crate::{StoreError, Ticket};
use dolmen_types::{Blocks, Lba, LineId, Seq};

/// Changed ranges of one answer at most.
pub const MAX_DIFF_RANGES: usize = 4096;

/// Listings that one shard works on at a time; more are refused.
pub const MAX_DIFFS: usize = 4;

/// The state of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct View {
    /// The line.
    pub line: LineId,
    /// A snapshot of it; `None` for how it is now.
    pub at: Option<Seq>,
}

/// A question for what changed between two states, of the same line or of lines that share an ancestor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiffRequest {
    /// The older state; `None` for an empty line: then what is mapped is what changed.
    pub from: Option<View>,
    /// The newer state.
    pub to: View,
    /// First block to look at.
    pub first: Lba,
    /// Block behind the last one to look at.
    pub end: Lba,
    /// Ranges to list, 1 to [`MAX_DIFF_RANGES`].
    pub limit: usize,
}

/// Consecutive blocks that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangedRange {
    /// First block.
    pub lba: Lba,
    /// How many.
    pub blocks: Blocks,
    /// They hold data in the newer state; otherwise they read as zeros there.
    pub mapped: bool,
}

/// A part of the list of changed blocks: as many ranges as were asked for, or what was found in half a second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiffPage {
    /// In order of addresses, without overlap. A block that is not named has the same contents in both states; one that is
    /// named was written or unmapped in between (maybe with what it held before). May be empty though there is more to look at.
    pub ranges: Vec<ChangedRange>,
    /// Where to go on, always further than where this part began; `None` when everything was looked at.
    pub next: Option<Lba>,
}

/// The end of a [`Store::diff`](crate::Store::diff).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiffDone {
    /// The caller's name for it.
    pub ticket: Ticket,
    /// The list, or why there is none.
    pub result: Result<DiffPage, StoreError>,
}
