//! The segments that a shard holds, and how many live bytes each has.
//!
//! A count is split in three: what leaves and the frozen delta name (`base`), what the live delta names (`delta`), and what
//! the current checkpoint's own body takes (`body`). Counts are upper bounds: an overwritten block is taken off when the
//! delta or the merge that drops its entry does so. They never fall below what is live.

use crate::columns::{Columns, Shape};
use crate::format::body::SegmentRow;
use crate::format::segment::Stream;
use crate::location::Slot;
use crate::map::Entry;

/// One segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    /// Its units.
    pub(crate) columns: Columns,
    /// What it is filled with.
    pub(crate) stream: Stream,
    /// Its number in the stream.
    pub(crate) stream_seq: u64,
    /// Nothing is appended any more.
    pub(crate) closed: bool,
    /// Its contents could not be read or do not check: cleaning leaves it alone.
    pub(crate) quarantined: bool,
    /// A column of it could not be read or did not check, and was mended on the way: cleaning moves what lives here.
    pub(crate) suspect: bool,
    /// Cleaning has moved everything out of it.
    pub(crate) cleaned: bool,
    /// Live bytes by leaves, nodes and the frozen delta.
    pub(crate) base: u32,
    /// Live bytes by the live delta.
    pub(crate) delta: u32,
    /// Bytes of the current checkpoint's body.
    pub(crate) body: u32,
    /// Last commit in it, 0 when it has none.
    pub(crate) last_commit: u64,
}

impl Segment {
    /// Live bytes by every count.
    pub(crate) fn live(&self) -> u32 {
        self.base + self.delta + self.body
    }

    /// True when a column of it is on a drive of the set, it was begun with less parity than there should be, or something in it
    /// was wrong and nothing is appended to it any more.
    pub(crate) fn at_risk(&self, drives: u64, shape: Shape) -> bool {
        (self.suspect && self.closed)
            || self.columns.parity() < usize::from(shape.parity)
            || self.columns.touches(drives)
    }
}

/// The table of a shard's segments, by slot.
#[derive(Default)]
pub(crate) struct SegmentTable {
    slots: Vec<Option<Segment>>,
    /// Units of all segments.
    units: usize,
    /// Sum of `base` and `delta`.
    live: u64,
    /// Of it, and with bodies, what metadata takes.
    meta: u64,
}

impl SegmentTable {
    /// A new, open segment in the lowest free slot.
    pub(crate) fn add(&mut self, columns: Columns, stream: Stream, stream_seq: u64) -> Slot {
        let index = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        let slot = Slot(u32::try_from(index).expect("a pool has fewer than 2^32 units"));
        self.put(
            slot,
            Segment {
                columns,
                stream,
                stream_seq,
                closed: false,
                quarantined: false,
                suspect: false,
                cleaned: false,
                base: 0,
                delta: 0,
                body: 0,
                last_commit: 0,
            },
        );
        slot
    }

    /// A segment as a checkpoint's body or its own header describes it; false when its slot is taken or absurd.
    pub(crate) fn restore(&mut self, row: &SegmentRow, max_slots: usize) -> bool {
        if row.slot.0 as usize >= max_slots || self.at(row.slot).is_some() {
            return false;
        }
        self.put(
            row.slot,
            Segment {
                columns: row.columns,
                stream: row.stream,
                stream_seq: row.stream_seq,
                closed: true,
                quarantined: false,
                suspect: false,
                cleaned: false,
                base: 0,
                delta: 0,
                body: 0,
                last_commit: row.last_commit,
            },
        );
        self.add_base(row.slot, row.live);
        true
    }

    fn put(&mut self, slot: Slot, segment: Segment) {
        let index = slot.0 as usize;
        if index >= self.slots.len() {
            self.slots.resize(index + 1, None);
        }
        debug_assert!(self.slots[index].is_none(), "a slot is given out once");
        self.slots[index] = Some(segment);
        self.units += segment.columns.len();
    }

    /// Forgets a segment without live bytes; its units.
    pub(crate) fn remove(&mut self, slot: Slot) -> Option<Columns> {
        let segment = self.slots.get_mut(slot.0 as usize)?.take()?;
        debug_assert_eq!(segment.base + segment.delta, 0, "a segment that is given back is empty");
        self.units -= segment.columns.len();
        Some(segment.columns)
    }

    /// The segment in a slot.
    pub(crate) fn at(&self, slot: Slot) -> Option<&Segment> {
        self.slots.get(slot.0 as usize)?.as_ref()
    }

    /// The segment in a slot, to change anything but its counts.
    pub(crate) fn at_mut(&mut self, slot: Slot) -> Option<&mut Segment> {
        self.slots.get_mut(slot.0 as usize)?.as_mut()
    }

    /// All segments.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &Segment)> + '_ {
        (0u32..).map(Slot).zip(&self.slots).filter_map(|(slot, s)| Some((slot, s.as_ref()?)))
    }

    /// Units of all segments.
    pub(crate) fn units(&self) -> usize {
        self.units
    }

    /// Bytes on drives that what lives here takes once cleaning has been over it.
    pub(crate) fn footprint(&self, shape: Shape) -> u64 {
        shape.raw(self.live - self.meta) + self.meta * u64::from(shape.narrow())
    }

    /// Live bytes of all segments, without checkpoint bodies.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live
    }

    /// Of them, those of map pages.
    pub(crate) fn meta_bytes(&self) -> u64 {
        self.meta
    }

    /// The map (leaves or frozen delta) names `bytes` more in a slot.
    pub(crate) fn add_base(&mut self, slot: Slot, bytes: u32) {
        if let Some(s) = self.slots.get_mut(slot.0 as usize).and_then(Option::as_mut) {
            s.base += bytes;
            self.live += u64::from(bytes);
            if s.stream == Stream::Meta {
                self.meta += u64::from(bytes);
            }
        }
    }

    /// The map (leaves or frozen delta) names `bytes` less. Saturates, for a table from a damaged drive.
    pub(crate) fn sub_base(&mut self, slot: Slot, bytes: u32) {
        if let Some(s) = self.slots.get_mut(slot.0 as usize).and_then(Option::as_mut) {
            debug_assert!(s.base >= bytes, "slot {} has {} live bytes, {bytes} go", slot.0, s.base);
            let bytes = bytes.min(s.base);
            s.base -= bytes;
            self.live -= u64::from(bytes);
            if s.stream == Stream::Meta {
                self.meta -= u64::from(bytes);
            }
        }
    }

    /// The live delta names an entry.
    pub(crate) fn add_delta(&mut self, entry: &Entry) {
        if let Some(s) = self.slots.get_mut(entry.location.slot().0 as usize).and_then(Option::as_mut) {
            s.delta += entry.bytes();
            self.live += u64::from(entry.bytes());
        }
    }

    /// The live delta no longer names an entry.
    pub(crate) fn sub_delta(&mut self, entry: &Entry) {
        if let Some(s) = self.slots.get_mut(entry.location.slot().0 as usize).and_then(Option::as_mut) {
            debug_assert!(s.delta >= entry.bytes());
            let bytes = entry.bytes().min(s.delta);
            s.delta -= bytes;
            self.live -= u64::from(bytes);
        }
    }

    /// The live delta becomes the frozen one.
    pub(crate) fn freeze(&mut self) {
        for s in self.slots.iter_mut().flatten() {
            s.base += std::mem::take(&mut s.delta);
        }
    }

    /// Sets the bytes of the checkpoint's body per slot, replacing those of the one before.
    pub(crate) fn set_body(&mut self, chunks: impl Iterator<Item = (Slot, u32)>) {
        for s in self.slots.iter_mut().flatten() {
            s.body = 0;
        }
        for (slot, bytes) in chunks {
            if let Some(s) = self.at_mut(slot) {
                s.body += bytes;
            }
        }
    }
}
