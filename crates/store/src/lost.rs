//! Blocks that no drive gives any more: told by the states of lines that show them, side by side as one range.

use crate::View;
use dolmen_types::{Blocks, Lba, LineId};
use std::collections::BTreeMap;

/// Why blocks can't be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LostCause {
    /// What the drives hold there is not what was written, and other columns don't give it either.
    Damaged,
    /// Drives are out, missing, or could not read it. When one comes back it may be had after all.
    Unreadable,
    /// The part of the map that told what they hold can't be had: some of them may never have been written.
    Map,
}

/// Consecutive blocks that can't be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostRange {
    /// The line that they were written to.
    pub line: LineId,
    /// The states that show them: lines as they are now, of this line or of clones, and snapshots. Ascending.
    pub views: Vec<View>,
    /// The first one.
    pub lba: Lba,
    /// How many. Of a range whose end nobody knows any more it reaches beyond the end of the volume.
    pub blocks: Blocks,
    /// Why.
    pub cause: LostCause,
}

/// What makes blocks side by side one range: their line, who shows them, and why they can't be had.
type Kind = (u64, Vec<View>, LostCause);

/// Gathers ranges: blocks come one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Losses {
    of: BTreeMap<Kind, Vec<(u64, u64)>>,
}

impl Losses {
    /// Adds blocks of a line that these states show.
    pub(crate) fn add(&mut self, line: u64, views: Vec<View>, cause: LostCause, (lba, blocks): (u64, u64)) {
        let ranges = self.of.entry((line, views, cause)).or_default();
        match ranges.last_mut() {
            Some((first, count)) if first.saturating_add(*count) == lba => *count += blocks,
            _ => ranges.push((lba, blocks)),
        }
    }

    /// All of them, by line and address.
    pub(crate) fn ranges(self) -> Vec<LostRange> {
        let mut all = Vec::new();
        for ((line, views, cause), mut ranges) in self.of {
            ranges.sort_unstable();
            let mut joined: Vec<(u64, u64)> = Vec::new();
            for (lba, blocks) in ranges {
                let end = lba.saturating_add(blocks);
                match joined.last_mut() {
                    Some((first, count)) if first.saturating_add(*count) >= lba => {
                        *count = (*count).max(end - *first);
                    }
                    _ => joined.push((lba, blocks)),
                }
            }
            all.extend(joined.into_iter().map(|(lba, blocks)| LostRange {
                line: LineId(line),
                views: views.clone(),
                lba: Lba(lba),
                blocks: Blocks(blocks),
                cause,
            }));
        }
        all.sort_by_key(|range| (range.line, range.lba));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_side_by_side_are_one_range_in_whatever_order_they_come() {
        let now = || vec![View { line: LineId(1), at: None }];
        let mut losses = Losses::default();
        for lba in [5, 6, 7, 3, 4, 9, 6] {
            losses.add(1, now(), LostCause::Damaged, (lba, 1));
        }
        losses.add(1, Vec::new(), LostCause::Damaged, (8, 1));
        losses.add(1, now(), LostCause::Map, (100, u64::MAX - 100));
        let ranges: Vec<_> =
            losses.ranges().iter().map(|r| (r.lba.0, r.blocks.0, r.views.len(), r.cause)).collect();
        let (damaged, map) = (LostCause::Damaged, LostCause::Map);
        let end = u64::MAX - 100;
        assert_eq!(ranges, [(3, 5, 1, damaged), (8, 1, 0, damaged), (9, 1, 1, damaged), (100, end, 1, map)]);
    }
}
