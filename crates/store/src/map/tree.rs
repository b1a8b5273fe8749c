//! A line's tree: nodes in memory, leaves by reference.
//!
//! Leaves are ordered by (address, sequence number) of their first slots. All versions of a block are in one *group* of
//! leaves: one leaf, or, when a block has more versions than a leaf holds, several that begin at that same address. So
//! groups divide the addresses among them, and a version is found with one search and in one leaf, however many there are.

use super::cache::NO_FRAME;
use super::{Counts, LineDelta, Lineage, is_nowhere};
use crate::LineAttributes;
use crate::format::page::PageRef;
use crate::location::Location;
use dolmen_kernels::prefetch;
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

    /// It stands for leaves that nobody knows any more.
    pub(crate) fn is_lost(&self) -> bool {
        is_nowhere(self.location)
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

    /// Address and sequence number of its first slot: those of its first leaf, without a look at that.
    fn key(&self) -> (u64, u64) {
        (self.page.first, self.page.seq)
    }

    /// Where the leaf of an address is when all of them hold as much; `end` is the address behind the last one.
    fn guess(&self, lba: u64, end: u64) -> usize {
        let (distance, span) = (lba.saturating_sub(self.page.first), end.saturating_sub(self.page.first));
        // Their upper 32 bits are exact enough, and divided faster than products of 128.
        let shift = 32 - span.leading_zeros().min(32);
        let (distance, span) = (distance >> shift, (span >> shift).max(1));
        let share = distance.min(span) * self.leaves.len() as u64 / span;
        usize::try_from(share).unwrap_or(usize::MAX).min(self.leaves.len() - 1)
    }

    /// How many of its leaves begin at or below a key. The search begins at the guess and widens: references come from far away,
    /// and so the next one or two are all that is looked at where blocks lie evenly.
    fn begun(&self, key: (u64, u64), end: u64) -> usize {
        let begun = |at: usize| self.leaves[at].key() <= key;
        let (guess, mut step) = (self.guess(key.0, end), 1);
        let (low, high) = if begun(guess) {
            let mut low = guess + 1;
            while low + step <= self.leaves.len() && begun(low + step - 1) {
                (low, step) = (low + step, step * 2);
            }
            (low, self.leaves.len().min(low + step - 1))
        } else {
            let mut high = guess;
            while high >= step && !begun(high - step) {
                (high, step) = (high - step, step * 2);
            }
            (high.saturating_sub(step - 1), high)
        };
        low + self.leaves[low..high].partition_point(|l| l.key() <= key)
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
    /// Memory that they took when they were weighed last: at the start, and with each checkpoint. Bytes.
    pub(crate) memory_bytes: usize,
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
    /// For so many rounds of it checkpoints come. Others go with those that come anyway.
    pub(crate) urgent_rounds: u8,
    /// A point or the head went since the last checkpoint began.
    pub(crate) shrunk: bool,
    /// The newest change of a host in its leaves when the running checkpoint began, and with that checkpoint. Numbers of a line
    /// ascend, so nothing in a leaf is newer.
    pub(crate) merged_to: (u64, u64),
}

impl Line {
    /// A new line.
    pub(crate) fn new(parent: Option<(u64, u64)>) -> Line {
        Line { now: Rc::new(Lineage::new(parent)), ..Line::default() }
    }

    /// Notes what memory the nodes take.
    pub(crate) fn weigh(&mut self) {
        let node = |n: &Node| size_of::<Node>() + n.leaves.capacity() * size_of::<LeafRef>();
        self.memory_bytes = self.nodes.iter().map(node).sum();
    }

    /// A checkpoint begins; `delta` is what it merges.
    pub(crate) fn freeze(&mut self, delta: Option<&LineDelta>) {
        let with = self.merged_to.1;
        self.merged_to = (with, with.max(delta.map_or(0, LineDelta::written_to)));
        self.base = Some(self.now.clone());
        if std::mem::take(&mut self.shrunk) {
            self.counts.rebase(&self.now);
            self.sweep_all(true);
        }
    }

    /// Something may have become free anywhere: a round begins, behind the one under way if there is one.
    pub(crate) fn sweep_all(&mut self, urgent: bool) {
        let rounds = match &mut self.sweep {
            Some(sweep) if sweep.from > 0 => {
                sweep.again = true;
                2
            }
            begun => {
                *begun = Some(Sweep::default());
                1
            }
        };
        if urgent {
            self.urgent_rounds = self.urgent_rounds.max(rounds);
        }
    }

    /// A checkpoint has swept up to an address, or everything.
    pub(crate) fn swept_to(&mut self, end: u64) {
        let Some(sweep) = &mut self.sweep else { return };
        if end < u64::MAX {
            sweep.from = end;
            return;
        }
        self.sweep = sweep.again.then(Sweep::default);
        self.urgent_rounds = self.urgent_rounds.saturating_sub(1);
    }

    /// True when checkpoints have to come for it.
    pub(crate) fn wants_checkpoint(&self) -> bool {
        self.shrunk || self.urgent_rounds > 0 || self.now.is_doomed()
    }

    /// The leaf in which the newest version of a block at or below `at` is, if there is one (node, leaf), and the first slot
    /// of the leaf behind it. `None` below the first leaf.
    pub(crate) fn find(&self, lba: u64, at: u64) -> (Option<(usize, usize)>, (u64, u64)) {
        let (node, behind) = self.node(lba, at);
        let Some(node_index) = node else { return (None, behind) };
        let node = &self.nodes[node_index];
        let next = node.begun((lba, at), behind.0);
        let end = node.leaves.get(next).map_or(behind, LeafRef::key);
        (next.checked_sub(1).map(|leaf| (node_index, leaf)), end)
    }

    /// The node of that leaf, and the first slot of the node behind it.
    fn node(&self, lba: u64, at: u64) -> (Option<usize>, (u64, u64)) {
        const END: (u64, u64) = (u64::MAX, u64::MAX);
        let next = self.nodes.partition_point(|n| n.key() <= (lba, at));
        (next.checked_sub(1), self.nodes.get(next).map_or(END, Node::key))
    }

    /// Where the leaf of a block's newest version is to be looked for; what that look touches first is brought near.
    pub(crate) fn near(&self, lba: u64) -> Near {
        let (node, behind) = self.node(lba, u64::MAX);
        if let Some(node) = node.map(|node| &self.nodes[node]) {
            let guess = node.guess(lba, behind.0);
            prefetch(&node.leaves[guess..(guess + 2).min(node.leaves.len())]);
        }
        Near { node, end: behind.0 }
    }

    /// The leaf of a block's newest version, for which [`Line::near`] was asked; `None` below the first leaf.
    pub(crate) fn leaf(&self, near: &Near, lba: u64) -> Option<&LeafRef> {
        let node = &self.nodes[near.node?];
        node.begun((lba, u64::MAX), near.end).checked_sub(1).map(|leaf| &node.leaves[leaf])
    }
}

/// What [`Line::near`] found: the node, and the address behind it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Near {
    node: Option<usize>,
    end: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(first: u64, seq: u64) -> LeafRef {
        LeafRef::new(PageRef { first, seq, location: Location(0), check: 0, count: 1, flags: 0 })
    }

    #[test]
    fn finds_what_a_plain_search_finds() {
        let mut state = 5u64;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(0xd129_42d9_57d5_9f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 33) % below
        };
        for case in 0..200 {
            // Evenly, wildly, and many of one address.
            let count = 1 + random(100);
            let mut keys: Vec<(u64, u64)> = (0..count)
                .map(|i| match case % 3 {
                    0 => (i * 95, 7),
                    1 => {
                        let bits = random(40);
                        (random(1 << 30) >> (bits % 30), random(5))
                    }
                    _ => (random(4) * 1000, random(100)),
                })
                .collect();
            keys.sort_unstable();
            keys.dedup();
            let nodes: Vec<Node> = keys
                .chunks(1 + usize::try_from(random(30)).unwrap())
                .map(|part| Node {
                    page: leaf(part[0].0, part[0].1).page(),
                    leaves: part.iter().map(|k| leaf(k.0, k.1)).collect(),
                })
                .collect();
            let line = Line { nodes, ..Line::default() };
            for _ in 0..50 {
                let near = keys[usize::try_from(random(keys.len() as u64)).unwrap()];
                let at = [(near.0, near.1), (near.0 + random(90), random(9)), (random(1 << 20), u64::MAX)];
                for (lba, seq) in at {
                    let newest =
                        line.find(lba, u64::MAX).0.map(|(node, leaf)| line.nodes[node].leaves[leaf].key());
                    assert_eq!(line.leaf(&line.near(lba), lba).map(LeafRef::key), newest);
                    let next = keys.partition_point(|k| *k <= (lba, seq));
                    let (found, end) = line.find(lba, seq);
                    let key = found.map(|(node, leaf)| line.nodes[node].leaves[leaf].key());
                    assert_eq!(key, next.checked_sub(1).map(|i| keys[i]));
                    assert_eq!(end, keys.get(next).copied().unwrap_or((u64::MAX, u64::MAX)));
                }
            }
        }
    }
}
