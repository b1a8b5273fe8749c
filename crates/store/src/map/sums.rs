//! What the stored versions in a delta come to, kept as they come and go: nobody has to walk over them to tell.

use super::{Entry, LineDelta, Lineage};

/// Sums over a line's delta. As with [`Counts`](super::Counts), whether a snapshot needs a block's newest version depends on points
/// alone, so newest versions are summed by the interval between points in which they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    /// Bytes of all stored versions.
    pub(super) stored: u64,
    /// Newest versions, ascending by the newest point below their numbers; where nothing is, nothing stands.
    seen: Vec<Seen>,
}

/// Newest versions that no hole hides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The newest point below their numbers.
    pub(crate) point: Option<u64>,
    pub(crate) blocks: u64,
    pub(crate) bytes: u64,
}

impl Sums {
    /// Newest versions, by the newest point below their numbers.
    pub(super) fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// A version is the newest of its block.
    pub(super) fn add(&mut self, entry: &Entry, lineage: &Lineage) {
        let seen = self.of(lineage.below(entry.seq));
        seen.blocks += 1;
        seen.bytes += u64::from(entry.bytes());
    }

    /// It is not any more.
    pub(super) fn sub(&mut self, entry: &Entry, lineage: &Lineage) {
        let seen = self.of(lineage.below(entry.seq));
        debug_assert!(seen.blocks > 0, "{entry:?} was counted");
        seen.blocks = seen.blocks.saturating_sub(1);
        seen.bytes = seen.bytes.saturating_sub(entry.bytes().into());
    }

    /// One is another's successor.
    pub(super) fn replace(&mut self, old: &Entry, new: &Entry, lineage: &Lineage) {
        let point = lineage.below(new.seq);
        if lineage.below(old.seq) == point {
            let seen = self.of(point);
            seen.bytes = (seen.bytes + u64::from(new.bytes())).saturating_sub(old.bytes().into());
        } else {
            self.sub(old, lineage);
            self.add(new, lineage);
        }
    }

    /// Nearly always the last one: hosts write behind the newest point.
    fn of(&mut self, point: Option<u64>) -> &mut Seen {
        let last = self.seen.len().wrapping_sub(1);
        let place =
            if self.seen.get(last).is_some_and(|s| s.point == point) { last } else { self.find(point) };
        &mut self.seen[place]
    }

    #[cold]
    fn find(&mut self, point: Option<u64>) -> usize {
        self.seen.binary_search_by_key(&point, |s| s.point).unwrap_or_else(|place| {
            self.seen.insert(place, Seen { point, ..Seen::default() });
            place
        })
    }

    /// A point is gone: what was written behind it joins what was written before it.
    pub(super) fn point_gone(&mut self, point: u64, below: Option<u64>) {
        if let Ok(place) = self.seen.binary_search_by_key(&Some(point), |s| s.point) {
            let Seen { blocks, bytes, .. } = self.seen.remove(place);
            let seen = self.of(below);
            seen.blocks += blocks;
            seen.bytes += bytes;
        }
    }
}

impl LineDelta {
    /// What the sums must be, found by walking.
    #[cfg(test)]
    pub(crate) fn walked(&self, lineage: &Lineage) -> (u64, Vec<Seen>) {
        let mut sums = Sums::default();
        for (lba, entry) in self.entries() {
            sums.stored += u64::from(entry.bytes());
            if self.successor(lba, entry.seq).is_none() {
                sums.add(entry, lineage);
            }
        }
        (sums.stored, sums.seen)
    }
}
