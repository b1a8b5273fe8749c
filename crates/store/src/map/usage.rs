//! What lines take.

use super::{DELTA_ENTRY_BYTES, Delta, Line, LineDelta, Map};
use crate::LineUsage;
use dolmen_types::LineId;

impl Map {
    /// Memory that the map takes now. Bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let tree: usize = self.lines.values().map(|l| l.memory_bytes).sum();
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
        for delta in self.changes(line.0) {
            usage.stored_bytes += delta.stored_bytes();
            usage.snapshot_bytes += delta.stored_bytes();
            for seen in delta.seen().filter(|_| now.head) {
                usage.snapshot_bytes -= seen.bytes;
                usage.own_blocks += seen.blocks;
                if now.newest() > seen.point {
                    usage.shared_bytes += seen.bytes;
                } else {
                    usage.head_bytes += seen.bytes;
                }
            }
        }
        Some(usage)
    }

    fn changes(&self, line: u64) -> impl Iterator<Item = &LineDelta> {
        self.frozen.iter().chain(std::iter::once(&self.live)).filter_map(move |d| d.line(line))
    }

    /// Blocks that are mapped in a line as it is now, at most: its own, and what it was cloned with.
    pub(crate) fn mapped(&self, line: u64, tree: &Line) -> u64 {
        let parent = tree.now.parent.and_then(|(parent, at)| self.lines.get(&parent)?.now.point(at).copied());
        tree.counts.mapped
            + self.changes(line).map(|d| d.stored() as u64).sum::<u64>()
            + parent.map_or(0, |point| point.mapped)
    }
}
