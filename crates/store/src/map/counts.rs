//! What the leaves of a line hold, summed so that it can be told what the head, the snapshots and both need.

use super::{Lineage, Version};
use std::collections::BTreeMap;

/// Sums over leaves. Whether a block's newest version is needed by a snapshot depends on points alone, so the bytes of newest
/// versions are kept by the interval between points in which they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Blocks whose newest version is stored.
    pub(crate) mapped: u64,
    /// Bytes of all stored versions.
    pub(crate) stored: u64,
    /// Bytes of newest versions, by the newest point below their numbers (as of the last rebase).
    pub(crate) newest: BTreeMap<Option<u64>, u64>,
}

impl Counts {
    /// Counts the slots of one leaf. `goes_on`: the next leaf begins with newer versions of this one's only block.
    pub(crate) fn add_leaf(
        &mut self,
        slots: impl Iterator<Item = (u64, Version)> + Clone,
        goes_on: bool,
        lineage: &Lineage,
    ) {
        let holes: Vec<(u64, u64, u64)> = slots
            .clone()
            .filter_map(|(lba, version)| match version {
                Version::Hole { seq, blocks } => Some((lba, lba.saturating_add(blocks), seq)),
                Version::Stored(_) | Version::Lost { .. } => None,
            })
            .collect();
        let mut entries = slots.filter_map(|(lba, v)| v.stored().map(|e| (lba, *e))).peekable();
        // Blocks of one point come together.
        let mut run: Option<(Option<u64>, u64)> = None;
        while let Some((lba, entry)) = entries.next() {
            let bytes = u64::from(entry.bytes());
            self.stored += bytes;
            let hidden = goes_on
                || entries.peek().is_some_and(|(next, _)| *next == lba)
                || holes.iter().any(|&(from, to, seq)| (from..to).contains(&lba) && seq > entry.seq);
            if !hidden {
                self.mapped += 1;
                let point = lineage.below(entry.seq);
                match &mut run {
                    Some((last, sum)) if *last == point => *sum += bytes,
                    _ => self.add_newest(run.replace((point, bytes))),
                }
            }
        }
        self.add_newest(run);
    }

    fn add_newest(&mut self, run: Option<(Option<u64>, u64)>) {
        if let Some((point, bytes)) = run {
            *self.newest.entry(point).or_default() += bytes;
        }
    }

    /// These leaves were replaced by those.
    pub(crate) fn replace(&mut self, before: &Counts, after: &Counts) {
        self.mapped = (self.mapped + after.mapped).saturating_sub(before.mapped);
        self.stored = (self.stored + after.stored).saturating_sub(before.stored);
        for (point, bytes) in &after.newest {
            *self.newest.entry(*point).or_default() += bytes;
        }
        for (point, bytes) in &before.newest {
            if let Some(sum) = self.newest.get_mut(point) {
                *sum = sum.saturating_sub(*bytes);
            }
        }
        self.newest.retain(|_, bytes| *bytes > 0);
    }

    /// From now on sums go by these points: what was written behind one that is gone joins what was written before it.
    pub(crate) fn rebase(&mut self, lineage: &Lineage) {
        if self.newest.keys().flatten().any(|&p| lineage.point(p).is_none()) {
            for (point, bytes) in std::mem::take(&mut self.newest) {
                let point = point.and_then(|p| lineage.below(p.saturating_add(1)));
                *self.newest.entry(point).or_default() += bytes;
            }
        }
    }

    /// Bytes that the head alone needs, and those that it shares with a snapshot.
    pub(crate) fn of_head(&self, lineage: &Lineage) -> (u64, u64) {
        if !lineage.head {
            return (0, 0);
        }
        let newest = lineage.newest();
        let split = |sum: (u64, u64), (point, bytes): (&Option<u64>, &u64)| {
            if newest > *point { (sum.0, sum.1 + bytes) } else { (sum.0 + bytes, sum.1) }
        };
        self.newest.iter().fold((0, 0), split)
    }
}
