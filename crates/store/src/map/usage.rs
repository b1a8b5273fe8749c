//! What lines take.

use super::{DELTA_ENTRY_BYTES, Delta, LeafRef, Line, Map, Node};
use crate::LineUsage;
use dolmen_types::LineId;

impl Map {
    /// Memory that the map takes now. Bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let nodes = self.lines.values().flat_map(|l| &l.nodes);
        let tree: usize = nodes.map(|n| size_of::<Node>() + n.leaves.capacity() * size_of::<LeafRef>()).sum();
        let changes = self.live.len() + self.frozen.as_ref().map_or(0, Delta::len);
        (tree + self.cache.memory_bytes() + changes * DELTA_ENTRY_BYTES) as u64
    }

    /// What a line takes: exact in leaves, and an upper bound with the deltas.
    pub(crate) fn usage(&self, line: LineId) -> Option<LineUsage> {
        let tree = self.lines.get(&line.0).filter(|l| !l.now.is_doomed())?;
        let now = &tree.now;
        let (head, shared) = tree.counts.of_head(now);
        let mut usage = LineUsage {
            mapped_blocks: if now.head { self.mapped(line.0, tree) } else { 0 },
            own_blocks: if now.head { tree.counts.mapped } else { 0 },
            stored_bytes: tree.counts.stored,
            head_bytes: head,
            shared_bytes: shared,
            snapshot_bytes: tree.counts.stored.saturating_sub(head + shared),
        };
        for delta in self.frozen.iter().chain(std::iter::once(&self.live)).filter_map(|d| d.line(line.0)) {
            for (lba, entry) in delta.entries() {
                let bytes = u64::from(entry.bytes());
                usage.stored_bytes += bytes;
                if !now.head || delta.successor(lba, entry.seq).is_some() {
                    usage.snapshot_bytes += bytes;
                    continue;
                }
                usage.own_blocks += 1;
                if now.newest().is_some_and(|p| p >= entry.seq) {
                    usage.shared_bytes += bytes;
                } else {
                    usage.head_bytes += bytes;
                }
            }
        }
        Some(usage)
    }

    /// Blocks that are mapped in a line as it is now, at most: its own, and what it was cloned with.
    pub(crate) fn mapped(&self, line: u64, tree: &Line) -> u64 {
        let deltas = self.frozen.iter().chain(std::iter::once(&self.live)).filter_map(|d| d.line(line));
        let parent = tree.now.parent.and_then(|(parent, at)| self.lines.get(&parent)?.now.point(at).copied());
        tree.counts.mapped
            + deltas.map(|d| d.stored() as u64).sum::<u64>()
            + parent.map_or(0, |point| point.mapped)
    }
}
