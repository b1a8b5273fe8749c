//! The units of a segment, column by column, and where in them a byte of the segment lies.
//!
//! All columns advance in lockstep. Byte x of a parity column is computed from byte x of the data columns, so a lost column is
//! rebuilt without knowing what commits lie in it.

use crate::UnitId;
use crate::bytes::{Reader, Writer};
use crate::format::{put_unit, take_unit};
use std::fmt;

/// Data columns of a segment at most.
pub(crate) const MAX_DATA_COLUMNS: usize = 8;
/// Parity columns of a segment at most.
pub(crate) const MAX_PARITY: usize = 2;
/// Columns of a segment at most.
pub(crate) const MAX_COLUMNS: usize = MAX_DATA_COLUMNS + MAX_PARITY;
/// Bytes of the columns in a structure of fixed layout.
pub(crate) const COLUMNS_BYTES: usize = 8 + 8 * MAX_COLUMNS;

/// The units of one segment: first those of data, then those of parity, each on a drive of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Columns {
    units: [UnitId; MAX_COLUMNS],
    data: u8,
    parity: u8,
}

impl Columns {
    /// Columns on these units, the last `parity` of them for parity. `None` when there are too many or no data columns.
    pub(crate) fn new(list: &[UnitId], parity: usize) -> Option<Columns> {
        let data = list.len().checked_sub(parity)?;
        if !(1..=MAX_DATA_COLUMNS).contains(&data) || parity > MAX_PARITY {
            return None;
        }
        let mut units = [UnitId { drive: 0, unit: 0 }; MAX_COLUMNS];
        units[..list.len()].copy_from_slice(list);
        Some(Columns { units, data: u8::try_from(data).ok()?, parity: u8::try_from(parity).ok()? })
    }

    /// All units, by column.
    #[must_use]
    pub fn units(&self) -> &[UnitId] {
        &self.units[..self.len()]
    }

    /// The unit of a column; `None` when there is no such column.
    pub(crate) fn unit(&self, column: usize) -> Option<UnitId> {
        self.units().get(column).copied()
    }

    /// Columns in all.
    #[allow(clippy::len_without_is_empty)] // There is always one.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.data) + usize::from(self.parity)
    }

    /// Data columns.
    #[must_use]
    pub fn data(&self) -> usize {
        usize::from(self.data)
    }

    /// Parity columns.
    #[must_use]
    pub fn parity(&self) -> usize {
        usize::from(self.parity)
    }

    /// The data columns as a number of a disk structure.
    pub(crate) fn data_u8(&self) -> u8 {
        self.data
    }

    /// The parity columns as a number of a disk structure.
    pub(crate) fn parity_u8(&self) -> u8 {
        self.parity
    }

    /// True when one of the units is on a drive of the set.
    pub(crate) fn touches(&self, drives: u64) -> bool {
        self.units().iter().any(|u| drives & drive_bit(u.drive) != 0)
    }

    /// Columns on drives of the set.
    pub(crate) fn lost(&self, drives: u64) -> usize {
        self.units().iter().filter(|u| drives & drive_bit(u.drive) != 0).count()
    }

    /// Writes them with fixed length.
    pub(crate) fn put(&self, w: &mut Writer) {
        w.u8(self.data).u8(self.parity).u16(0).u32(0);
        self.units.iter().for_each(|&unit| put_unit(w, unit));
    }

    /// Writes the absence of columns with the same length.
    pub(crate) fn put_none(w: &mut Writer) {
        let end = w.len() + COLUMNS_BYTES;
        w.pad_to(end);
    }

    /// Reads what [`Columns::put`] or [`Columns::put_none`] wrote; `None` when it makes no sense.
    pub(crate) fn take(r: &mut Reader<'_>) -> Option<Option<Columns>> {
        let (data, parity) = (usize::from(r.u8()?), usize::from(r.u8()?));
        r.take(6)?;
        let mut units = [UnitId { drive: 0, unit: 0 }; MAX_COLUMNS];
        for unit in &mut units {
            *unit = take_unit(r)?;
        }
        if data == 0 {
            return Some(None);
        }
        Some(Some(Columns::new(units.get(..data + parity)?, parity)?))
    }
}

impl fmt::Debug for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}[", self.data, self.parity)?;
        for unit in self.units() {
            write!(f, " {}:{}", unit.drive, unit.unit)?;
        }
        f.write_str(" ]")
    }
}

/// A drive as a member of a set of drives.
pub(crate) fn drive_bit(drive: u16) -> u64 {
    1u64.checked_shl(u32::from(drive)).unwrap_or(0)
}

/// What the segments of a pool are made of, given its drives in service and the parity it was made with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Data columns of a wide segment.
    pub data: u8,
    /// Parity columns of every segment.
    pub parity: u8,
}

impl Shape {
    /// The shape over `drives` drives: one drive more than needed is left free where there is one, so that a lost drive costs
    /// its own column and nothing else. Without parity wide segments would save nothing: there are none.
    pub(crate) fn of(drives: usize, parity: u8) -> Shape {
        let parity = usize::from(parity).min(drives.saturating_sub(1));
        let spare = drives.saturating_sub(1 + parity);
        let data = match (parity, spare) {
            (0, _) => 1,
            (_, 0 | 1) => drives.saturating_sub(parity),
            (_, spare) => spare,
        };
        Shape {
            data: u8::try_from(data.clamp(1, MAX_DATA_COLUMNS)).expect("at most eight"),
            parity: u8::try_from(parity).expect("at most two"),
        }
    }

    /// Units of a wide segment.
    #[must_use]
    pub fn wide(self) -> u32 {
        u32::from(self.data) + u32::from(self.parity)
    }

    /// Units of a narrow segment.
    #[must_use]
    pub fn narrow(self) -> u32 {
        1 + u32::from(self.parity)
    }

    /// Bytes on drives that so many bytes of data take once cleaning has moved them into wide segments.
    pub(crate) fn raw(self, bytes: u64) -> u64 {
        let data = u64::from(self.data.max(1));
        bytes.saturating_mul(u64::from(self.wide().max(1))).div_ceil(data)
    }

    /// Bytes of data for which so many bytes on drives suffice.
    pub(crate) fn usable(self, raw: u64) -> u64 {
        let data = u64::from(self.data.max(1));
        (u128::from(raw) * u128::from(data) / u128::from(self.wide().max(1))).try_into().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_leave_a_drive_where_they_can() {
        let of = |drives, parity| {
            let s = Shape::of(drives, parity);
            (s.data, s.parity)
        };
        assert_eq!([of(1, 0), of(1, 1), of(2, 0), of(2, 1)], [(1, 0), (1, 0), (1, 0), (1, 1)]);
        assert_eq!([of(3, 1), of(4, 1), of(5, 1), of(6, 1)], [(2, 1), (2, 1), (3, 1), (4, 1)]);
        assert_eq!([of(3, 2), of(4, 2), of(5, 2), of(6, 2)], [(1, 2), (2, 2), (2, 2), (3, 2)]);
        assert_eq!([of(10, 1), of(40, 2)], [(8, 1), (8, 2)]);
    }

    #[test]
    fn columns_come_back_from_their_bytes() {
        let unit = |drive: u16| UnitId { drive, unit: u32::from(drive) * 7 };
        let columns = Columns::new(&[unit(3), unit(1), unit(2)], 1).unwrap();
        let mut w = Writer::default();
        columns.put(&mut w);
        Columns::put_none(&mut w);
        let bytes = w.finish();
        assert_eq!(bytes.len(), 2 * COLUMNS_BYTES);
        let mut r = Reader::new(&bytes);
        assert_eq!(Columns::take(&mut r), Some(Some(columns)));
        assert_eq!(Columns::take(&mut r), Some(None));
        assert_eq!(Columns::new(&[], 0), None);
        assert_eq!(Columns::new(&[unit(1), unit(2)], 2), None);
        assert!(columns.touches(drive_bit(1)) && !columns.touches(drive_bit(0)));
    }
}
