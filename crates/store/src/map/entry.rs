//! One entry of the map: one stored block.

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
