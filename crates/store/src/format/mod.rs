//! The bytes on the drives, structure by structure, each described in `docs/format/`. Encoding cannot fail; decoding
//! never panics and yields nothing unless magic, version, check and every bound hold.
//!
//! ```text
//!   drive   0        16 KiB     32 KiB                    1 MiB          1 MiB + unit
//!           | super 0 | super 1 | anchors | key table, 2 x | unit 0       | unit 1 ...
//!   unit    | segment header 4 KiB | commit | commit | ...            (hot and cold streams)
//!           | segment header 4 KiB | page | page | checkpoint chunk | ... (metadata stream)
//! ```

pub(crate) mod anchor;
pub(crate) mod body;
pub(crate) mod commit;
pub(crate) mod keys;
pub(crate) mod page;
pub(crate) mod segment;
pub(crate) mod superblock;

use crate::UnitId;

/// Version of everything on the drives.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// Bytes at the start of a drive before its first unit.
pub(crate) const LABEL_BYTES: u64 = 4 << 20;

/// Smallest unit. Bytes. Pools of operators never go below 1 MiB; tests do.
pub(crate) const MIN_UNIT_BYTES: u32 = 32 * 1024;

/// Largest unit. Bytes.
pub(crate) const MAX_UNIT_BYTES: u32 = 64 << 20;

/// Everything metadata is read and written in multiples of this. Bytes.
pub(crate) const PAGE_BYTES: u32 = 4096;

/// First byte of a unit on its drive.
pub(crate) fn unit_offset(unit: u32, unit_bytes: u32) -> u64 {
    LABEL_BYTES + u64::from(unit) * u64::from(unit_bytes)
}

/// Bytes that a place of (drive, unit, offset) takes in a structure: see [`put_unit`].
pub(crate) fn put_unit(w: &mut crate::bytes::Writer, unit: UnitId) {
    w.u16(unit.drive).u16(0).u32(unit.unit);
}

/// Reads what [`put_unit`] wrote.
pub(crate) fn take_unit(r: &mut crate::bytes::Reader<'_>) -> Option<UnitId> {
    let drive = r.u16()?;
    r.u16()?;
    Some(UnitId { drive, unit: r.u32()? })
}

#[cfg(test)]
mod tests;
