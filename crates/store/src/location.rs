//! Where stored bytes are: a segment's slot and an offset in its columns, in granules of 16 bytes. Byte x of column c counts as
//! `c * unit + x`, so in a narrow segment the offset is that in its unit.

use std::fmt;

/// Granularity of locations and stored lengths. Bytes.
pub(crate) const GRANULE_BYTES: u32 = 16;

/// Granules of a store block that is stored as it is.
pub(crate) const BLOCK_GRANULES: u32 = 256;

/// Slot of a segment in its shard's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot(pub(crate) u32);

/// Location of stored bytes: slot in the upper half, granule in the lower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Location(pub(crate) u64);

impl Location {
    /// The bytes at `offset` (a multiple of [`GRANULE_BYTES`]) of the segment in `slot`.
    pub(crate) fn new(slot: Slot, offset: u32) -> Location {
        debug_assert!(offset.is_multiple_of(GRANULE_BYTES));
        Location(u64::from(slot.0) << 32 | u64::from(offset / GRANULE_BYTES))
    }

    /// The segment's slot.
    pub(crate) fn slot(self) -> Slot {
        Slot(u32::try_from(self.0 >> 32).expect("32 bits"))
    }

    /// Offset in the segment. Bytes; more than 32 bits when the bytes on a drive are damaged.
    pub(crate) fn offset(self) -> u64 {
        (self.0 & 0xffff_ffff) * u64::from(GRANULE_BYTES)
    }

    /// Column of the segment and offset in that column's unit. Bytes.
    pub(crate) fn place(self, unit_bytes: u32) -> (usize, u32) {
        let (offset, unit) = (self.offset(), u64::from(unit_bytes));
        // Nothing is divided in the first column, which is the only one of most segments.
        if offset < unit {
            return (0, u32::try_from(offset).expect("below a unit"));
        }
        let column = usize::try_from(offset / unit).unwrap_or(usize::MAX);
        (column, u32::try_from(offset % unit).expect("below a unit"))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {} offset {}", self.slot().0, self.offset())
    }
}
