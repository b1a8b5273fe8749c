//! Changes to the map that are in the log but not in leaves yet.
//!
//! Per line: the newest stored version of each changed block, and the ranges that were unmapped. A hole and an entry may
//! name the same block; then the entry is the newer one. Holes never overlap one another. Records of one batch share a
//! sequence number; among them the one that is applied later wins.

use super::Entry;
use std::collections::BTreeMap;

/// The changes of one line.
#[derive(Clone, Debug, Default)]
pub(crate) struct LineDelta {
    points: BTreeMap<u64, Entry>,
    /// First block -> (block behind the last, sequence number of the unmap).
    holes: BTreeMap<u64, (u64, u64)>,
}

impl LineDelta {
    /// Sets the stored version of a block. Whatever loses (the old entry, or the new one when something newer is known)
    /// goes to `freed`.
    pub(crate) fn insert(&mut self, lba: u64, entry: Entry, mut freed: impl FnMut(Entry)) {
        match self.hole_at(lba) {
            Some(seq) if seq > entry.seq => return freed(entry),
            // Both are of one batch, and the unmap came first.
            Some(seq) if seq == entry.seq => self.cut_holes(lba, lba.saturating_add(1)),
            _ => {}
        }
        match self.points.entry(lba) {
            std::collections::btree_map::Entry::Vacant(v) => {
                v.insert(entry);
            }
            std::collections::btree_map::Entry::Occupied(mut o) => {
                if o.get().seq <= entry.seq {
                    freed(o.insert(entry));
                } else {
                    freed(entry);
                }
            }
        }
    }

    /// Unmaps `lba..end` as of `seq`; the entries that go are handed to `freed`.
    pub(crate) fn unmap(&mut self, lba: u64, end: u64, seq: u64, mut freed: impl FnMut(Entry)) {
        if lba >= end {
            return;
        }
        self.points.extract_if(lba..end, |_, e| e.seq <= seq).for_each(|(_, e)| freed(e));
        self.cut_holes(lba, end);
        self.holes.insert(lba, (end, seq));
    }

    /// Takes `lba..end` out of all holes.
    fn cut_holes(&mut self, lba: u64, end: u64) {
        if let Some((&first, &(stop, seq))) = self.holes.range(..lba).next_back()
            && stop > lba
        {
            self.holes.insert(first, (lba, seq));
            if stop > end {
                self.holes.insert(end, (stop, seq));
            }
        }
        let inside: Vec<(u64, (u64, u64))> = self.holes.range(lba..end).map(|(&k, &v)| (k, v)).collect();
        for (first, (stop, seq)) in inside {
            self.holes.remove(&first);
            if stop > end {
                self.holes.insert(end, (stop, seq));
            }
        }
    }

    /// Sequence number of the unmap that covers a block.
    pub(crate) fn hole_at(&self, lba: u64) -> Option<u64> {
        let (_, &(end, seq)) = self.holes.range(..=lba).next_back()?;
        (lba < end).then_some(seq)
    }

    /// Holes that meet `lba..end`, cut to it: (first, behind the last, seq).
    pub(crate) fn holes_in(&self, lba: u64, end: u64) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        let before = self.holes.range(..lba).next_back().filter(move |(_, (stop, _))| *stop > lba);
        before
            .into_iter()
            .chain(self.holes.range(lba..end.max(lba)))
            .map(move |(&first, &(stop, seq))| (first.max(lba), stop.min(end), seq))
    }

    /// Entries of `lba..end`, in order.
    pub(crate) fn points_in(&self, lba: u64, end: u64) -> impl Iterator<Item = (u64, &Entry)> + '_ {
        self.points.range(lba..end.max(lba)).map(|(&k, v)| (k, v))
    }

    /// All entries, in order.
    pub(crate) fn points(&self) -> impl Iterator<Item = (u64, &Entry)> + '_ {
        self.points.iter().map(|(&k, v)| (k, v))
    }

    /// True when something in `lba..end` changed.
    pub(crate) fn touches(&self, lba: u64, end: u64) -> bool {
        self.points_in(lba, end).next().is_some() || self.holes_in(lba, end).next().is_some()
    }

    /// Lays this delta over `blocks`, the versions of the blocks from `lba` on as older layers know them.
    pub(crate) fn overlay(&self, lba: u64, blocks: &mut [Option<Entry>]) {
        let end = lba.saturating_add(blocks.len() as u64);
        let at = |lba2: u64| usize::try_from(lba2 - lba).expect("inside the window");
        for (first, stop, seq) in self.holes_in(lba, end) {
            for block in &mut blocks[at(first)..at(stop)] {
                if block.is_some_and(|e| e.seq <= seq) {
                    *block = None;
                }
            }
        }
        for (address, entry) in self.points_in(lba, end) {
            let block = &mut blocks[at(address)];
            if block.is_none_or(|e| e.seq <= entry.seq) {
                *block = Some(*entry);
            }
        }
    }

    /// Entries and holes.
    pub(crate) fn len(&self) -> usize {
        self.points.len() + self.holes.len()
    }

    /// Entries alone.
    pub(crate) fn point_count(&self) -> usize {
        self.points.len()
    }
}

/// The changes of all lines of a shard.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delta {
    lines: BTreeMap<u64, LineDelta>,
    len: usize,
}

impl Delta {
    /// The changes of a line, if there are any.
    pub(crate) fn line(&self, line: u64) -> Option<&LineDelta> {
        self.lines.get(&line)
    }

    /// Changes a line's delta and keeps count.
    pub(crate) fn change<T>(&mut self, line: u64, change: impl FnOnce(&mut LineDelta) -> T) -> T {
        let delta = self.lines.entry(line).or_default();
        let before = delta.len();
        let result = change(delta);
        self.len = self.len + delta.len() - before;
        result
    }

    /// Forgets a line's changes and hands them over.
    pub(crate) fn remove(&mut self, line: u64) -> Option<LineDelta> {
        let delta = self.lines.remove(&line)?;
        self.len -= delta.len();
        Some(delta)
    }

    /// Entries and holes of all lines.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)] // Models index with small numbers.
mod tests {
    use super::*;
    use crate::location::Location;
    use crate::stored::Form;
    use proptest::prelude::*;

    fn entry(seq: u64) -> Entry {
        Entry { seq, location: Location(seq), check: 0, granules: 256, form: Form(0) }
    }

    proptest! {
        /// Against the plainest model: per block the newest write or unmap.
        #[test]
        fn overlay_is_the_newest_change(ops in proptest::collection::vec((any::<bool>(), 0u64..40, 1u64..20), 1..60)) {
            let mut delta = LineDelta::default();
            let mut model: Vec<Option<u64>> = vec![None; 64];
            let (mut inserted, mut freed) = (0usize, 0usize);
            for (i, &(write, lba, n)) in ops.iter().enumerate() {
                let seq = i as u64 + 1;
                if write {
                    inserted += 1;
                    delta.insert(lba, entry(seq), |_| freed += 1);
                    model[lba as usize] = Some(seq);
                } else {
                    delta.unmap(lba, lba + n, seq, |_| freed += 1);
                    model[lba as usize..(lba + n) as usize].fill(None);
                }
            }
            let mut blocks = vec![Some(entry(0)); 64];
            delta.overlay(0, &mut blocks);
            let touched = |lba: u64| delta.touches(lba, lba + 1);
            for lba in 0..64u64 {
                let want = if touched(lba) { model[lba as usize] } else { Some(0) };
                prop_assert_eq!(blocks[lba as usize].map(|e| e.seq), want);
            }
            prop_assert_eq!(inserted - freed, delta.point_count());
            let mut end = 0;
            for (first, stop, _) in delta.holes_in(0, 64) {
                prop_assert!(first >= end && stop > first);
                end = stop;
            }
        }
    }

    #[test]
    fn within_a_batch_the_later_record_wins() {
        let mut delta = LineDelta::default();
        delta.unmap(0, 10, 5, |_| ());
        delta.insert(3, entry(5), |_| ());
        delta.insert(7, entry(5), |_| ());
        delta.unmap(7, 8, 5, |_| ());
        let mut blocks = vec![Some(entry(1)); 10];
        delta.overlay(0, &mut blocks);
        let seqs: Vec<Option<u64>> = blocks.iter().map(|b| b.map(|e| e.seq)).collect();
        assert_eq!(seqs[2..9], [None, Some(5), None, None, None, None, None]);
    }

    #[test]
    fn a_late_move_of_an_old_version_loses() {
        let mut delta = LineDelta::default();
        let mut freed = Vec::new();
        delta.insert(5, entry(7), |e| freed.push(e.seq));
        delta.insert(5, entry(3), |e| freed.push(e.seq));
        delta.unmap(5, 6, 9, |e| freed.push(e.seq));
        delta.insert(5, entry(8), |e| freed.push(e.seq));
        assert_eq!(freed, [3, 7, 8]);
    }
}
