//! Whose turn it is, where not all can have it at once.

use dolmen_types::Uuid;
use std::ops::Bound::{self, Excluded, Included, Unbounded};

/// A part of a set that is ordered by UUID.
pub(super) type Range = (Bound<Uuid>, Bound<Uuid>);

/// Goes round a set in the order of its UUIDs. It promises: whoever had a turn waits until all others had theirs, so that
/// those that fail every time keep nobody from it.
#[derive(Debug, Default)]
pub(super) struct Rotation {
    last: Option<Uuid>,
}

impl Rotation {
    /// All those of the set in the order of their turns; `of` tells those in a range of it.
    pub(super) fn order<I>(&self, of: impl Fn(Range) -> I) -> impl Iterator<Item = Uuid>
    where
        I: Iterator<Item = Uuid>,
    {
        let behind = of((self.last.map_or(Unbounded, Excluded), Unbounded));
        behind.chain(self.last.map(|last| of((Unbounded, Included(last)))).into_iter().flatten())
    }

    /// This one has its turn now.
    pub(super) fn has_turn(&mut self, uuid: Uuid) {
        self.last = Some(uuid);
    }
}
