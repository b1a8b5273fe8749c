//! A line's tree: nodes in memory, leaves by reference.

use super::cache::NO_FRAME;
use crate::LineAttributes;
use crate::format::page::PageRef;

/// A reference to a leaf and the cache's hint for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeafRef {
    /// The leaf's page.
    pub(crate) page: PageRef,
    /// Where the cache had it last.
    pub(crate) hint: u32,
}

impl LeafRef {
    pub(crate) fn new(page: PageRef) -> LeafRef {
        LeafRef { page, hint: NO_FRAME }
    }
}

/// A node: the references of its page, in memory.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Its page in the log.
    pub(crate) page: PageRef,
    /// Its leaves, ascending by first address; never empty.
    pub(crate) leaves: Vec<LeafRef>,
}

impl Node {
    /// First address that belongs to it.
    pub(crate) fn first(&self) -> u64 {
        self.leaves.first().map_or(0, |l| l.page.first)
    }
}

/// A line and the tree of its merged entries.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    /// Ascending by first address.
    pub(crate) nodes: Vec<Node>,
    /// Blocks in its leaves.
    pub(crate) mapped: u64,
    /// Bytes that their stored forms take.
    pub(crate) stored: u64,
    /// It was dropped; what is left of the tree waits to be freed.
    pub(crate) dropped: bool,
    /// How its blocks are stored.
    pub(crate) attributes: LineAttributes,
}

impl Line {
    /// The leaf that a block belongs to (node, leaf), and the first address of the next leaf. `None` below the first leaf.
    pub(crate) fn find(&self, lba: u64) -> (Option<(usize, usize)>, u64) {
        let node = self.nodes.partition_point(|n| n.first() <= lba);
        let Some(node_index) = node.checked_sub(1) else {
            return (None, self.nodes.first().map_or(u64::MAX, Node::first));
        };
        let leaves = &self.nodes[node_index].leaves;
        let next = leaves.partition_point(|l| l.page.first <= lba);
        let end = match leaves.get(next) {
            Some(leaf) => leaf.page.first,
            None => self.nodes.get(node).map_or(u64::MAX, Node::first),
        };
        (next.checked_sub(1).map(|leaf| (node_index, leaf)), end)
    }
}
