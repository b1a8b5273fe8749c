//! What lines take.

use super::{DELTA_ENTRY_BYTES, Delta, Line, LineDelta, Map, Point};
use crate::LineUsage;
use dolmen_types::LineId;
use std::collections::BTreeSet;

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

    /// What a line takes together with others that belong to it, and with those of their ancestors that nothing else holds: no
    /// snapshot and no clone is there that is not one of them.
    pub(crate) fn usage_with(&self, line: LineId, others: &[LineId]) -> Option<LineUsage> {
        let mut usage = self.usage(line)?;
        let lives = |l: &u64| *l != line.0 && self.lines.get(l).is_some_and(|l| !l.now.is_doomed());
        let mut more: BTreeSet<u64> = others.iter().map(|l| l.0).filter(lives).collect();
        let parent = |l: u64| Some(self.lines.get(&l)?.now.parent?.0);
        loop {
            let all = || more.iter().copied().chain([line.0]);
            let held = all()
                .filter_map(parent)
                .find(|&p| lives(&p) && !more.contains(&p) && self.is_held_by(p, all()));
            let Some(held) = held else { break };
            more.insert(held);
        }
        for other in more {
            self.add_other(line.0, other, &mut usage);
        }
        Some(usage)
    }

    /// True when nothing but these lines holds one.
    fn is_held_by(&self, line: u64, by: impl Iterator<Item = u64> + Clone) -> bool {
        let Some(tree) = self.lines.get(&line) else { return false };
        let clones = |at| {
            let is_clone = |l: &u64| self.lines.get(l).is_some_and(|l| l.now.parent == Some((line, at)));
            by.clone().filter(is_clone).count()
        };
        let held = |p: &Point| !p.snapshot && clones(p.seq) == p.clones as usize;
        !tree.now.head && tree.now.points().iter().all(held)
    }

    /// Adds what an ancestor of a line takes, or what else belongs to it.
    fn add_other(&self, line: u64, other: u64, usage: &mut LineUsage) {
        let (Some(tree), Some(stored)) = (self.lines.get(&other), self.usage(LineId(other))) else { return };
        let bytes = stored.stored_bytes;
        usage.stored_bytes += bytes;
        // The way down to the line: whether its head shows a state of the other, and nothing but its head.
        let (mut below, mut alone) = (Some(line), true);
        while let Some(l) = below.and_then(|l| self.lines.get(&l)) {
            let Some((parent, at)) = l.now.parent else { break };
            let points = self.lines.get(&parent).map_or(&[][..], |p| p.now.points());
            alone &= points.iter().all(|p| p.seq == at && !p.snapshot && p.clones == 1);
            alone &= below != Some(line) || l.now.points().is_empty();
            if parent == other && points.len() == 1 {
                usage.own_blocks +=
                    tree.counts.mapped + self.changes(other).map(|d| d.stored() as u64).sum::<u64>();
                return *(if alone { &mut usage.head_bytes } else { &mut usage.shared_bytes }) += bytes;
            }
            below = Some(parent);
        }
        usage.snapshot_bytes += bytes;
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
