//! Changes to the map that are in the log but not in leaves yet.
//!
//! Per line: stored versions of changed blocks by (block, sequence number), and the ranges that were unmapped. Of versions that
//! nothing sees but the newest, only the newest is kept. Holes lie in layers, one per point that was the newest when
//! they came: within a layer a newer hole replaces an older one, since nobody could tell them apart. Records of one batch
//! share a sequence number; among them the one that is applied later wins, so a block has at most one version of a number.

use super::entry_map::EntryMap;
use super::sums::{Seen, Sums};
use super::{Content, Entry, Holes, Lineage};
use std::collections::BTreeMap;

/// Memory that a changed block takes in a delta, about: key, place and entry in runs that are half full. Bytes.
pub(crate) const DELTA_ENTRY_BYTES: usize = 72;

const _: () = assert!(size_of::<u32>() + size_of::<u8>() + size_of::<Entry>() <= DELTA_ENTRY_BYTES / 2 + 1);

/// The changes of one line.
#[derive(Clone, Debug, Default)]
pub(crate) struct LineDelta {
    /// The newest version of each block: what nearly everybody asks for.
    newest: EntryMap,
    /// The other versions, by block and number. Their blocks have a newer one above.
    older: BTreeMap<(u64, u64), Entry>,
    /// By the newest point below their numbers.
    holes: BTreeMap<Option<u64>, Holes>,
    /// Ranges in all layers.
    hole_count: usize,
    /// What all versions come to.
    sums: Sums,
    /// Of `newest`, those that a hole hides: they are not summed as such.
    hidden: usize,
    /// The first change of a host that came in. What lies under this delta is older.
    written_from: Option<u64>,
    /// The last one.
    written_to: u64,
}

impl LineDelta {
    /// Sets where a version of a block is stored. Whatever nothing sees any more (an older version, the same one at another
    /// place, or the new one when something newer hides it) goes to `freed`.
    pub(crate) fn insert(
        &mut self,
        near: usize,
        lba: u64,
        entry: Entry,
        lineage: &Lineage,
        mut freed: impl FnMut(Entry),
    ) {
        let seq = entry.seq;
        if self.hole_count == 0 {
            return self.put(near, lba, entry, lineage, freed);
        }
        // Put as if there were no holes.
        let was_hidden = self.unhide(lba, lineage);
        self.uncover(lba, seq, lineage);
        let hidden_from = self.successor(lba, seq);
        if hidden_from.is_some_and(|next| !lineage.keeps(seq, next)) {
            freed(entry);
        } else {
            self.put(near, lba, entry, lineage, freed);
        }
        if was_hidden || hidden_from.is_some() {
            self.hide(lba, lineage);
        }
    }

    /// The same where holes play no part.
    fn put(&mut self, near: usize, lba: u64, entry: Entry, lineage: &Lineage, mut freed: impl FnMut(Entry)) {
        let seq = entry.seq;
        let Some(newest) = self.newest.get_or_put_near(near, lba, entry) else {
            self.sums.stored += u64::from(entry.bytes());
            return self.sums.add(&entry, lineage);
        };
        if newest.seq > seq {
            return self.insert_older(lba, entry, lineage, freed);
        }
        let old = std::mem::replace(newest, entry);
        self.sums.stored += u64::from(entry.bytes());
        self.sums.replace(&old, &entry, lineage);
        if old.seq < seq && lineage.keeps(old.seq, seq) {
            self.older.insert((lba, old.seq), old);
        } else {
            self.sums.stored -= u64::from(old.bytes());
            freed(old);
        }
    }

    /// A block's newest version counts from here on though a hole hides it; true when one does.
    fn unhide(&mut self, lba: u64, lineage: &Lineage) -> bool {
        let hidden = |e: &&Entry| self.is_hidden(lba, e.seq);
        let Some(entry) = self.newest.get(lba).filter(|_| self.hidden > 0).filter(hidden) else {
            return false;
        };
        self.sums.add(entry, lineage);
        self.hidden -= 1;
        true
    }

    /// If a hole hides a block's newest version, which counts, it does not any more.
    fn hide(&mut self, lba: u64, lineage: &Lineage) {
        let hidden = |e: &&Entry| self.is_hidden(lba, e.seq);
        if let Some(entry) = self.newest.get(lba).filter(hidden) {
            self.sums.sub(entry, lineage);
            self.hidden += 1;
        }
    }

    fn is_hidden(&self, lba: u64, seq: u64) -> bool {
        self.holes.values().any(|layer| layer.at(lba).is_some_and(|hole| hole > seq))
    }

    /// None of the newest versions of `lba..end` counts any more.
    fn drop_sums(&mut self, lba: u64, end: u64, lineage: &Lineage) {
        for (lba, entry) in self.newest.range(lba, end) {
            if self.hidden > 0 && self.is_hidden(lba, entry.seq) {
                self.hidden -= 1;
            } else {
                self.sums.sub(entry, lineage);
            }
        }
    }

    /// A point of the line is gone.
    pub(crate) fn point_gone(&mut self, point: u64, lineage: &Lineage) {
        self.sums.point_gone(point, lineage.below(point));
    }

    /// Bytes of all stored versions.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.sums.stored
    }

    /// Blocks whose newest version here is stored and not hidden by a hole here, by the newest point below it.
    pub(crate) fn seen(&self) -> impl Iterator<Item = Seen> + '_ {
        self.sums.seen().iter().filter(|s| s.blocks > 0).copied()
    }

    /// What comes in with this number is a host's: numbers of a line ascend, so nothing that was there before is newer.
    pub(crate) fn written(&mut self, seq: u64) {
        self.written_from.get_or_insert(seq);
        self.written_to = self.written_to.max(seq);
    }

    /// The newest number with which a host's change came in; 0 without any.
    pub(crate) fn written_to(&self) -> u64 {
        self.written_to
    }

    /// The number from which on whatever this delta says of a block is all that has to be known.
    pub(crate) fn written_from(&self) -> Option<u64> {
        self.written_from
    }

    /// True when a block was unmapped here, at whatever time.
    pub(crate) fn has_hole(&self, lba: u64) -> bool {
        self.hole_count > 0 && self.holes.values().any(|layer| layer.at(lba).is_some())
    }

    /// Where the newest version of a block is named, or would be.
    pub(crate) fn place(&self, lba: u64) -> usize {
        self.newest.run(lba)
    }

    /// Has what a search in a place will look at brought near.
    pub(crate) fn prefetch(&self, place: usize) {
        self.newest.prefetch(place);
    }

    /// Has what names a block brought near, or the memory of what will: the search itself must be near.
    pub(crate) fn prefetch_entry(&self, place: usize, lba: u64) {
        self.newest.prefetch_entry(place, lba);
    }

    /// The newest version of a block that is here, which was found in this place.
    pub(crate) fn newest_near(&self, place: usize, lba: u64) -> Option<&Entry> {
        self.newest.get_near(place, lba)
    }

    /// The same of a version that is not the block's newest.
    fn insert_older(&mut self, lba: u64, entry: Entry, lineage: &Lineage, mut freed: impl FnMut(Entry)) {
        let seq = entry.seq;
        if self.successor(lba, seq).is_some_and(|next| !lineage.keeps(seq, next)) {
            return freed(entry);
        }
        self.sums.stored += u64::from(entry.bytes());
        if let Some(old) = self.older.insert((lba, seq), entry) {
            self.sums.stored -= u64::from(old.bytes());
            return freed(old);
        }
        let before = self.older.range((lba, 0)..(lba, seq)).next_back().map(|(k, _)| *k);
        if let Some(entry) = before.filter(|k| !lineage.keeps(k.1, seq)).and_then(|k| self.older.remove(&k)) {
            self.sums.stored -= u64::from(entry.bytes());
            freed(entry);
        }
    }

    /// A hole of the same number at this block came earlier in the same batch: it gives way.
    fn uncover(&mut self, lba: u64, seq: u64, lineage: &Lineage) {
        if let Some(layer) = self.holes.get_mut(&lineage.below(seq)).filter(|h| h.at(lba) == Some(seq)) {
            let before = layer.len();
            layer.cut(lba, lba.saturating_add(1));
            self.hole_count = self.hole_count + layer.len() - before;
        }
    }

    /// Unmaps `lba..end` as of `seq`, the newest number; the versions that nothing sees any more are handed to `freed`.
    pub(crate) fn unmap(
        &mut self,
        lba: u64,
        end: u64,
        seq: u64,
        lineage: &Lineage,
        mut freed: impl FnMut(Entry),
    ) {
        if lba >= end {
            return;
        }
        let point = lineage.below(seq);
        let unseen = |e: &Entry| e.seq <= seq && point.is_none_or(|p| p < e.seq);
        self.drop_sums(lba, end, lineage);
        let mut bytes = 0;
        let mut freed = |e: Entry| {
            bytes += u64::from(e.bytes());
            freed(e);
        };
        self.older.extract_if((lba, 0)..(end, 0), |_, e| unseen(e)).for_each(|(_, e)| freed(e));
        if self.older.is_empty() {
            self.newest.extract(lba, end, unseen, |_, e| freed(e));
        } else {
            let mut gone = Vec::new();
            self.newest.extract(lba, end, unseen, |lba, e| gone.push((lba, e)));
            for (lba, entry) in gone {
                freed(entry);
                let next = self.older.range((lba, 0)..=(lba, u64::MAX)).next_back().map(|(k, _)| *k);
                if let Some(entry) = next.and_then(|k| self.older.remove(&k)) {
                    self.newest.get_or_put(lba, entry);
                }
            }
        }
        self.sums.stored -= bytes;
        // What is left is of older numbers.
        self.hidden += if point.is_some() { self.newest.range(lba, end).count() } else { 0 };
        let layer = self.holes.entry(point).or_default();
        let before = layer.len();
        layer.put(lba, end, seq);
        self.hole_count = self.hole_count + layer.len() - before;
    }

    /// Forgets everything about `lba..end`: leaves say it now.
    pub(crate) fn forget(&mut self, lba: u64, end: u64, lineage: &Lineage) {
        let end = end.max(lba);
        self.drop_sums(lba, end, lineage);
        let mut bytes = 0;
        self.newest.extract(lba, end, |_| true, |_, e| bytes += u64::from(e.bytes()));
        let older = self.older.extract_if((lba, 0)..(end, 0), |_, _| true);
        bytes += older.map(|(_, e)| u64::from(e.bytes())).sum::<u64>();
        self.sums.stored -= bytes;
        for layer in self.holes.values_mut() {
            let before = layer.len();
            layer.cut(lba, end);
            self.hole_count = self.hole_count + layer.len() - before;
        }
    }

    /// The number from which on the version `seq` of a block is hidden by something here.
    pub(crate) fn successor(&self, lba: u64, seq: u64) -> Option<u64> {
        let from = seq.checked_add(1)?;
        let older = self.older.range((lba, from)..=(lba, u64::MAX)).next().map(|(k, _)| k.1);
        let entry = older.or_else(|| self.newest.get(lba).map(|e| e.seq).filter(|&s| s > seq));
        let holes = self.holes.values().filter_map(|h| h.at(lba)).filter(|&h| h > seq).min();
        entry.into_iter().chain(holes).min()
    }

    /// Where that version of a block is.
    pub(crate) fn entry(&self, lba: u64, seq: u64) -> Option<&Entry> {
        self.newest.get(lba).filter(|e| e.seq == seq).or_else(|| self.older.get(&(lba, seq)))
    }

    /// True when a newer version than `seq` of a block, which was found in this place, is here, and nobody needs that one any more
    /// since.
    pub(crate) fn supersedes(&self, place: usize, lba: u64, seq: u64, lineage: &Lineage) -> bool {
        self.newest_near(place, lba).is_some_and(|e| e.seq > seq && !lineage.needs(seq, Some(e.seq)))
    }

    /// Holes that meet `lba..end`, cut to it: (first, behind the last, seq); layer by layer.
    pub(crate) fn holes_in(&self, lba: u64, end: u64) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        self.holes.values().flat_map(move |layer| layer.within(lba, end))
    }

    /// Versions of `lba..end`, by block and number.
    pub(crate) fn entries_in(&self, lba: u64, end: u64) -> impl Iterator<Item = (u64, &Entry)> + '_ {
        let end = end.max(lba);
        let mut older = self.older.range((lba, 0)..(end, 0)).peekable();
        let mut newest = self.newest.range(lba, end).peekable();
        std::iter::from_fn(move || {
            let (block, entry) = newest.peek()?;
            if let Some((key, entry)) = older.next_if(|(key, _)| key.0 <= *block) {
                return Some((key.0, entry));
            }
            let next = (*block, *entry);
            newest.next();
            Some(next)
        })
    }

    /// All versions, by block and number.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u64, &Entry)> + '_ {
        // No block has the last address.
        self.entries_in(0, u64::MAX)
    }

    /// True when something in `lba..end` changed.
    pub(crate) fn touches(&self, lba: u64, end: u64) -> bool {
        self.entries_in(lba, end).next().is_some() || self.holes_in(lba, end).next().is_some()
    }

    /// First block at or behind `lba` that has a stored version here.
    pub(crate) fn next_stored(&self, lba: u64) -> Option<u64> {
        // No block has the last address.
        self.newest.range(lba, u64::MAX).next().map(|(lba, _)| lba)
    }

    /// Lays this delta over what older layers say of the blocks from `lba` on, as of `at`.
    pub(crate) fn overlay(&self, at: u64, lba: u64, blocks: &mut [Content]) {
        let end = lba.saturating_add(blocks.len() as u64);
        let index = |lba2: u64| usize::try_from(lba2 - lba).expect("inside the window");
        if self.hole_count > 0 {
            for (first, stop, seq) in self.holes_in(lba, end).filter(|h| h.2 <= at) {
                blocks[index(first)..index(stop)].iter_mut().for_each(|b| b.hide(seq));
            }
        }
        let mut lay = |address: u64, entry: &Entry| {
            let seen = if entry.seq <= at {
                Some(entry)
            } else {
                self.older.range((address, 0)..=(address, at)).next_back().map(|(_, e)| e)
            };
            if let Some(entry) = seen {
                blocks[index(address)].store(*entry);
            }
        };
        if end - lba == 1 {
            self.newest.get(lba).into_iter().for_each(|entry| lay(lba, entry));
        } else {
            self.newest.range(lba, end).for_each(|(address, entry)| lay(address, entry));
        }
    }

    /// Stored versions.
    pub(crate) fn stored(&self) -> usize {
        self.newest.len() + self.older.len()
    }

    /// Versions and holes.
    pub(crate) fn len(&self) -> usize {
        self.stored() + self.hole_count
    }
}

/// The changes of all lines of a shard.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delta {
    lines: BTreeMap<u64, LineDelta>,
    len: usize,
    /// What hosts' batches that did nothing but unmap may take in leaves.
    holes_bytes: u64,
}

impl Delta {
    /// The changes of a line, if there are any.
    pub(crate) fn line(&self, line: u64) -> Option<&LineDelta> {
        self.lines.get(&line)
    }

    /// A point of a line is gone.
    pub(crate) fn point_gone(&mut self, line: u64, point: u64, lineage: &Lineage) {
        if let Some(delta) = self.lines.get_mut(&line) {
            delta.point_gone(point, lineage);
        }
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

    /// A batch that does nothing but unmap may take that much in leaves.
    pub(crate) fn expect_holes(&mut self, bytes: u64) {
        self.holes_bytes += bytes;
    }

    /// What such batches may take in leaves, all together. Bytes.
    pub(crate) fn holes_bytes(&self) -> u64 {
        self.holes_bytes
    }

    /// Versions and holes of all lines.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}
