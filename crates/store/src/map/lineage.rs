//! Which states of a line are kept, and therefore which versions of its blocks are needed.
//!
//! A snapshot is a *point*: a sequence number. A version with number `s` is visible from `s` on, until the next version (a
//! write or a hole) with number `n` hides it. So it is needed if some point lies in `s..n`, or if nothing hides it and the
//! line still has its head. A new point is never older than any version, so what is not needed once never is again.

/// A state of a line that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    /// Versions up to this number are in it.
    pub(crate) seq: u64,
    /// Blocks that are mapped in it, at most.
    pub(crate) mapped: u64,
    /// Somebody took it and has not dropped it.
    pub(crate) snapshot: bool,
    /// Lines that were cloned from it and are not gone.
    pub(crate) clones: u32,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lineage {
    /// The newest state can be read and written.
    pub(crate) head: bool,
    /// What the line shows where it holds nothing itself: a line and a point of it.
    pub(crate) parent: Option<(u64, u64)>,
    /// Ascending.
    points: Vec<Point>,
}

impl Lineage {
    /// A new line.
    pub(crate) fn new(parent: Option<(u64, u64)>) -> Lineage {
        Lineage { head: true, parent, points: Vec::new() }
    }

    /// A line as a checkpoint describes it; `None` when its points do not ascend.
    pub(crate) fn restored(head: bool, parent: Option<(u64, u64)>, points: Vec<Point>) -> Option<Lineage> {
        points.is_sorted_by(|a, b| a.seq < b.seq).then_some(Lineage { head, parent, points })
    }

    /// Nothing of it can be read any more.
    pub(crate) fn is_doomed(&self) -> bool {
        !self.head && self.points.is_empty()
    }

    /// The points, oldest first.
    pub(crate) fn points(&self) -> &[Point] {
        &self.points
    }

    /// The newest point.
    pub(crate) fn newest(&self) -> Option<u64> {
        self.points.last().map(|p| p.seq)
    }

    /// The newest point below a number.
    pub(crate) fn below(&self, seq: u64) -> Option<u64> {
        let index = self.points.partition_point(|p| p.seq < seq);
        index.checked_sub(1).map(|i| self.points[i].seq)
    }

    /// The point that the only line was cloned from which still shows anything of this one. Once there is such a line it stays so:
    /// without a head there are no new points, and without a snapshot no new clones.
    pub(crate) fn inherited(&self) -> Option<u64> {
        match self.points[..] {
            [Point { seq, snapshot: false, clones: 1, .. }] if !self.head => Some(seq),
            _ => None,
        }
    }

    /// The oldest state that is kept, as lookups name it. What it hides of a parent, all others hide too.
    pub(crate) fn oldest(&self) -> u64 {
        self.points.first().map_or(u64::MAX, |p| p.seq)
    }

    /// True when a point lies in `from..to`.
    pub(crate) fn keeps(&self, from: u64, to: u64) -> bool {
        let index = self.points.partition_point(|p| p.seq < from);
        self.points.get(index).is_some_and(|p| p.seq < to)
    }

    /// True when somebody sees the version `seq` of a block, which is hidden from `successor` on.
    pub(crate) fn needs(&self, seq: u64, successor: Option<u64>) -> bool {
        match successor {
            Some(next) => self.keeps(seq, next),
            None => self.head || self.newest().is_some_and(|p| p >= seq),
        }
    }

    /// The point of that very number.
    pub(crate) fn point(&self, seq: u64) -> Option<&Point> {
        self.points.binary_search_by_key(&seq, |p| p.seq).ok().map(|i| &self.points[i])
    }

    /// Takes a snapshot in which so many blocks are mapped; false when that point is there already.
    pub(crate) fn add_snapshot(&mut self, seq: u64, mapped: u64) -> bool {
        match self.points.binary_search_by_key(&seq, |p| p.seq) {
            Ok(index) => {
                self.points[index].snapshot = true;
                false
            }
            Err(index) => {
                self.points.insert(index, Point { seq, mapped, snapshot: true, clones: 0 });
                true
            }
        }
    }

    /// One clone more of a point; false when there is no such point.
    pub(crate) fn pin(&mut self, seq: u64) -> bool {
        let Ok(index) = self.points.binary_search_by_key(&seq, |p| p.seq) else { return false };
        self.points[index].clones += 1;
        true
    }

    /// One clone less, or (`snapshot`) the snapshot dropped; true when the point is gone with it.
    pub(crate) fn release(&mut self, seq: u64, what: Hold) -> bool {
        let Ok(index) = self.points.binary_search_by_key(&seq, |p| p.seq) else { return false };
        let point = &mut self.points[index];
        match what {
            Hold::Snapshot => point.snapshot = false,
            Hold::Clone => point.clones = point.clones.saturating_sub(1),
        }
        let gone = !point.snapshot && point.clones == 0;
        if gone {
            self.points.remove(index);
        }
        gone
    }
}

/// What keeps a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Somebody took it.
    Snapshot,
    /// A line was cloned from it.
    Clone,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needed_is_what_somebody_sees() {
        let mut line = Lineage::new(None);
        assert!(line.needs(5, None) && !line.needs(5, Some(9)));
        assert!(line.add_snapshot(7, 1) && !line.add_snapshot(7, 1));
        assert!(line.needs(5, Some(9)) && line.needs(7, Some(8)));
        assert!(!line.needs(5, Some(7)) && !line.needs(8, Some(9)));
        line.head = false;
        assert!(line.needs(7, None) && !line.needs(8, None));
        assert!(line.pin(7) && !line.pin(6));
        assert!(!line.release(7, Hold::Snapshot), "the clone holds it");
        assert!(line.release(7, Hold::Clone) && line.is_doomed());
    }
}
