//! A line's tree: nodes in memory, leaves by reference.
//!
//! Leaves are ordered by (address, sequence number) of their first slots. All versions of a block are in one *group* of
//! leaves: one leaf, or, when a block has more versions than a leaf holds, several that begin at that same address. So
//! groups divide the addresses among them, and a version is found with one search and in one leaf, however many there are.

use super::cache::NO_FRAME;
use super::{Counts, Lineage};
use crate::LineAttributes;
use crate::format::page::PageRef;
use crate::location::Location;
use std::rc::Rc;

/// A reference to a leaf and the cache's hint for it. All of them are in memory, so they are kept small.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeafRef {
    first: u64,
    seq: u64,
    location: Location,
    check: u64,
    /// Where the cache had it last.
    pub(crate) hint: u32,
    count: u16,
    flags: u16,
}

/// RAM for the map, beside cache and deltas, at leaves three quarters full: 2^28 blocks of a TiB.
const _: () = assert!(size_of::<LeafRef>() == 40);
const _: () = assert!(
    (1 << 28) / (crate::format::page::PAGE_SLOTS * 3 / 4) * (size_of::<LeafRef>() + 1)
        < crate::plan::REFERENCE_BYTES_PER_TIB
);

impl LeafRef {
    pub(crate) fn new(page: PageRef) -> LeafRef {
        let PageRef { first, seq, location, check, count, flags } = page;
        LeafRef { first, seq, location, check, hint: NO_FRAME, count, flags }
    }

    /// The leaf's page.
    pub(crate) fn page(&self) -> PageRef {
        let LeafRef { first, seq, location, check, count, flags, .. } = *self;
        PageRef { first, seq, location, check, count, flags }
    }

    /// Address of its first slot.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Address and sequence number of its first slot.
    pub(crate) fn key(&self) -> (u64, u64) {
        (self.first, self.seq)
    }

    /// Some block has several versions in it, or it holds holes: dropping a point may free something.
    pub(crate) fn has_history(&self) -> bool {
        self.flags & PageRef::HISTORY != 0
    }
}

/// A node: the references of its page, in memory.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Its page in the log.
    pub(crate) page: PageRef,
    /// Its leaves, ascending; never empty.
    pub(crate) leaves: Vec<LeafRef>,
}

impl Node {
    /// First address that belongs to it.
    pub(crate) fn first(&self) -> u64 {
        self.key().0
    }

    fn key(&self) -> (u64, u64) {
        self.leaves.first().map_or((0, 0), LeafRef::key)
    }
}

/// Leaves of a line in which something may have become free, to be looked at by coming checkpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sweep {
    /// First address that was not looked at yet.
    pub(crate) from: u64,
    /// When it is through it begins anew: more was dropped meanwhile.
    pub(crate) again: bool,
}

/// A line and the tree of its merged versions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    /// Ascending.
    pub(crate) nodes: Vec<Node>,
    /// How its blocks are stored.
    pub(crate) attributes: LineAttributes,
    /// What is kept of it now.
    pub(crate) now: Rc<Lineage>,
    /// What was kept when the running checkpoint began. The checkpoint prunes, and describes the line, by this alone: replay
    /// starts from there. `None` for a line that is younger, and when none runs.
    pub(crate) base: Option<Rc<Lineage>>,
    /// What is in its leaves.
    pub(crate) counts: Counts,
    /// What the checkpoints have to sweep.
    pub(crate) sweep: Option<Sweep>,
    /// A point or the head went since the last checkpoint began.
    pub(crate) shrunk: bool,
}

impl Line {
    /// A new line.
    pub(crate) fn new(parent: Option<(u64, u64)>) -> Line {
        Line { now: Rc::new(Lineage::new(parent)), ..Line::default() }
    }

    /// A checkpoint begins.
    pub(crate) fn freeze(&mut self) {
        self.base = Some(self.now.clone());
        if std::mem::take(&mut self.shrunk) {
            self.counts.rebase(&self.now);
            self.sweep = match self.sweep {
                Some(sweep) if sweep.from > 0 => Some(Sweep { again: true, ..sweep }),
                _ => Some(Sweep::default()),
            };
        }
    }

    /// The leaf in which the newest version of a block at or below `at` is, if there is one (node, leaf), and the first slot
    /// of the leaf behind it. `None` below the first leaf.
    pub(crate) fn find(&self, lba: u64, at: u64) -> (Option<(usize, usize)>, (u64, u64)) {
        const END: (u64, u64) = (u64::MAX, u64::MAX);
        let node = self.nodes.partition_point(|n| n.key() <= (lba, at));
        let Some(node_index) = node.checked_sub(1) else {
            return (None, self.nodes.first().map_or(END, Node::key));
        };
        let leaves = &self.nodes[node_index].leaves;
        let next = leaves.partition_point(|l| l.key() <= (lba, at));
        let end = match leaves.get(next) {
            Some(leaf) => leaf.key(),
            None => self.nodes.get(node).map_or(END, Node::key),
        };
        (next.checked_sub(1).map(|leaf| (node_index, leaf)), end)
    }
}
