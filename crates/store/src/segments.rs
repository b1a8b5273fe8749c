//! The segments that a shard holds, and how many live bytes each has.
//!
//! A count is split in three: what leaves and the frozen delta name (`base`), what the live delta names (`delta`), and what
//! the current checkpoint's own body takes (`body`). Counts are upper bounds: an overwritten block is taken off when the
//! delta or the merge that drops its entry does so. They never fall below what is live.
//!
//! A segment that was *retired* has given its units back; its slot stays taken until no leaf names it any more, so that what leaves
//! still name there is never mistaken for something else. To everybody outside it is not there.

use crate::UnitId;
use crate::columns::{Columns, Shape, drive_bit};
use crate::format::body::SegmentRow;
use crate::format::segment::Stream;
use crate::location::Slot;
use crate::map::Entry;
use dolmen_types::Nanos;

/// Cleanings of a segment in which something was wrong until what is left behind is taken for lost: a read may fail once, and what it was
/// of must not be given up for that.
const TRIES: u8 = 3;

/// A segment by a name that no other of its shard ever has. Slots are used again: whoever comes back to a segment after a while
/// must ask for it by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentName {
    /// Where it is, while it is there.
    pub(crate) slot: Slot,
    /// What it is filled with.
    pub(crate) stream: Stream,
    /// Its number in the stream.
    pub(crate) stream_seq: u64,
}

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
    /// Something in it could not be read or does not check, and is still needed: cleaning leaves it alone until then.
    pub(crate) quarantined: Option<Nanos>,
    /// Cleanings that left something behind, one after the other.
    pub(crate) failed: u8,
    /// Columns of it that could not be read or did not check, a bit each, and were mended on the way: cleaning moves what lives here, also
    /// after a restart.
    pub(crate) suspect: u16,
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
    /// What cleaning has moved here since the start, 0 for one from before. Bytes.
    pub(crate) moved_in: u32,
    /// Its units are others' now; only stale names of it are left.
    retired: bool,
}

impl Segment {
    fn new(columns: Columns, stream: Stream, stream_seq: u64) -> Segment {
        Segment {
            columns,
            stream,
            stream_seq,
            closed: false,
            quarantined: None,
            failed: 0,
            suspect: 0,
            cleaned: false,
            base: 0,
            delta: 0,
            body: 0,
            last_commit: 0,
            moved_in: 0,
            retired: false,
        }
    }

    /// Its name, in this slot.
    pub(crate) fn name(&self, slot: Slot) -> SegmentName {
        SegmentName { slot, stream: self.stream, stream_seq: self.stream_seq }
    }

    /// Live bytes by every count.
    pub(crate) fn live(&self) -> u32 {
        self.base + self.delta + self.body
    }

    /// True when a column of it is on a drive of the set, it was begun with less parity than there should be, or something in it
    /// was wrong, nothing is appended to it any more and all that could be had was not moved yet.
    pub(crate) fn at_risk(&self, drives: u64, shape: Shape) -> bool {
        (self.is_suspect() && self.closed)
            || self.columns.parity() < usize::from(shape.parity)
            || self.columns.touches(drives)
    }

    /// True when something in it was wrong, and what else it holds may still be had and moved.
    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect != 0 && self.failed < TRIES
    }

    /// The drives without each of which something here could not be had, since as many columns as it can do without are on drives of the
    /// set, or wrong.
    pub(crate) fn needs(&self, out: u64) -> u64 {
        let columns = || self.columns.units().iter().enumerate();
        let bad = |(column, unit): &(usize, &UnitId)| {
            out & drive_bit(unit.drive) != 0 || self.suspect & 1 << column != 0
        };
        if columns().filter(bad).count() < self.columns.parity() {
            return 0;
        }
        columns().filter(|c| !bad(c)).fold(0, |set, (_, unit)| set | drive_bit(unit.drive))
    }
}

/// The table of a shard's segments, by slot.
#[derive(Default)]
pub(crate) struct SegmentTable {
    slots: Vec<Option<Segment>>,
    /// Units of all segments.
    units: usize,
    /// Slots of retired segments.
    retired: usize,
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
        self.put(slot, Segment::new(columns, stream, stream_seq));
        slot
    }

    /// A segment as a checkpoint's body or its own header describes it; false when its slot is taken or absurd.
    pub(crate) fn restore(&mut self, row: &SegmentRow, max_slots: usize) -> bool {
        if row.slot.0 as usize >= max_slots
            || self.slots.get(row.slot.0 as usize).is_some_and(Option::is_some)
        {
            return false;
        }
        let fresh = Segment::new(row.columns, row.stream, row.stream_seq);
        let (last_commit, suspect) = (row.last_commit, row.suspect);
        self.put(row.slot, Segment { closed: true, last_commit, suspect, ..fresh });
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

    /// Forgets a segment without live bytes; its units, unless it was retired before.
    pub(crate) fn remove(&mut self, slot: Slot) -> Option<Columns> {
        let segment = self.slots.get_mut(slot.0 as usize)?.take()?;
        debug_assert_eq!(segment.base + segment.delta, 0, "a segment that is given back is empty");
        if segment.retired {
            self.retired -= 1;
            return None;
        }
        self.units -= segment.columns.len();
        Some(segment.columns)
    }

    /// Takes the units of a segment in which nothing lives any more, whatever leaves still name there. `None` when it is not there
    /// any more.
    pub(crate) fn retire(&mut self, name: SegmentName) -> Option<Columns> {
        let segment = self.named_mut(name)?;
        segment.retired = true;
        let (columns, stale) = (segment.columns, u64::from(segment.base) + u64::from(segment.delta));
        self.retired += 1;
        self.units -= columns.len();
        self.live -= stale;
        Some(columns)
    }

    /// A slot that a checkpoint names as retired, with the bytes that leaves still name there; false when it is taken or absurd.
    pub(crate) fn restore_retired(&mut self, slot: Slot, stale: u32, max_slots: usize) -> bool {
        let nowhere = UnitId { drive: 0, unit: 0 };
        let columns = Columns::new(&[nowhere], 0).expect("one column");
        let name = SegmentName { slot, stream: Stream::Cold, stream_seq: 0 };
        let row = SegmentRow {
            slot,
            columns,
            stream: name.stream,
            stream_seq: 0,
            live: stale,
            last_commit: 0,
            suspect: 0,
        };
        self.restore(&row, max_slots) && self.retire(name).is_some()
    }

    /// Slots of retired segments, and what leaves still name there. Bytes.
    pub(crate) fn retired(&self) -> impl Iterator<Item = (Slot, u32)> + '_ {
        let all = (0u32..).map(Slot).zip(&self.slots).filter_map(|(slot, s)| Some((slot, s.as_ref()?)));
        all.filter(|(_, s)| s.retired).map(|(slot, s)| (slot, s.base + s.delta))
    }

    /// How many slots are kept for stale names alone.
    pub(crate) fn retired_count(&self) -> usize {
        self.retired
    }

    /// Slots that were ever taken.
    pub(crate) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The map names so many bytes of pages in each slot; false when that is not what was counted.
    pub(crate) fn recount_pages(&mut self, live: &[u32]) -> bool {
        let mut as_counted = true;
        for (segment, &live) in self.slots.iter_mut().zip(live) {
            if let Some(s) = segment.as_mut().filter(|s| s.stream == Stream::Meta) {
                as_counted &= s.base == live;
                self.live = self.live - u64::from(s.base) + u64::from(live);
                self.meta = self.meta - u64::from(s.base) + u64::from(live);
                s.base = live;
            }
        }
        as_counted
    }

    /// The segment in a slot.
    pub(crate) fn at(&self, slot: Slot) -> Option<&Segment> {
        self.slots.get(slot.0 as usize)?.as_ref().filter(|s| !s.retired)
    }

    /// The segment in a slot, to change anything but its counts.
    pub(crate) fn at_mut(&mut self, slot: Slot) -> Option<&mut Segment> {
        self.slots.get_mut(slot.0 as usize)?.as_mut().filter(|s| !s.retired)
    }

    /// A segment, while it is there.
    pub(crate) fn named(&self, name: SegmentName) -> Option<&Segment> {
        self.at(name.slot).filter(|s| s.name(name.slot) == name)
    }

    /// A segment, while it is there, to change anything but its counts.
    pub(crate) fn named_mut(&mut self, name: SegmentName) -> Option<&mut Segment> {
        self.at_mut(name.slot).filter(|s| s.name(name.slot) == name)
    }

    /// All segments.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &Segment)> + '_ {
        let all = (0u32..).map(Slot).zip(&self.slots).filter_map(|(slot, s)| Some((slot, s.as_ref()?)));
        all.filter(|(_, s)| !s.retired)
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
            self.live += if s.retired { 0 } else { u64::from(bytes) };
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
            self.live -= if s.retired { 0 } else { u64::from(bytes) };
            if s.stream == Stream::Meta {
                self.meta -= u64::from(bytes);
            }
        }
    }

    /// The live delta names an entry.
    pub(crate) fn add_delta(&mut self, entry: &Entry) {
        if let Some(s) = self.slots.get_mut(entry.location.slot().0 as usize).and_then(Option::as_mut) {
            s.delta += entry.bytes();
            self.live += if s.retired { 0 } else { u64::from(entry.bytes()) };
        }
    }

    /// The live delta no longer names an entry.
    pub(crate) fn sub_delta(&mut self, entry: &Entry) {
        if let Some(s) = self.slots.get_mut(entry.location.slot().0 as usize).and_then(Option::as_mut) {
            debug_assert!(s.delta >= entry.bytes());
            let bytes = entry.bytes().min(s.delta);
            s.delta -= bytes;
            self.live -= if s.retired { 0 } else { u64::from(bytes) };
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
