//! Ranges of blocks that were unmapped, each with the sequence number of its unmap. They never overlap one another.

use std::collections::BTreeMap;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holes {
    /// First block -> (block behind the last, sequence number).
    ranges: BTreeMap<u64, (u64, u64)>,
}

impl Holes {
    /// How many ranges there are.
    pub(crate) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// A range, in place of whatever it meets.
    pub(crate) fn put(&mut self, lba: u64, end: u64, seq: u64) {
        self.cut(lba, end);
        self.ranges.insert(lba, (end, seq));
    }

    /// Takes `lba..end` out of all ranges.
    pub(crate) fn cut(&mut self, lba: u64, end: u64) {
        if let Some((&first, &(stop, seq))) = self.ranges.range(..lba).next_back()
            && stop > lba
        {
            self.ranges.insert(first, (lba, seq));
            if stop > end {
                self.ranges.insert(end, (stop, seq));
            }
        }
        let inside: Vec<(u64, (u64, u64))> = self.ranges.range(lba..end).map(|(&k, &v)| (k, v)).collect();
        for (first, (stop, seq)) in inside {
            self.ranges.remove(&first);
            if stop > end {
                self.ranges.insert(end, (stop, seq));
            }
        }
    }

    /// Sequence number of the range that covers a block.
    pub(crate) fn at(&self, lba: u64) -> Option<u64> {
        let (_, &(end, seq)) = self.ranges.range(..=lba).next_back()?;
        (lba < end).then_some(seq)
    }

    /// The parts of ranges in `lba..end`: (first, behind the last, seq).
    pub(crate) fn within(&self, lba: u64, end: u64) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        let before = self.ranges.range(..lba).next_back().filter(move |(_, (stop, _))| *stop > lba);
        before
            .into_iter()
            .chain(self.ranges.range(lba..end.max(lba)))
            .map(move |(&first, &(stop, seq))| (first.max(lba), stop.min(end), seq))
    }
}
