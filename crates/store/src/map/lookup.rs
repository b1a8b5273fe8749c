//! Looking blocks up: one search per leaf, not per block.

use super::{Cache, Delta, Entry, Line};
use crate::format::page::{Leaf, PageRef};
use dolmen_types::LineId;
use std::collections::BTreeMap;

/// The map of one shard.
pub(crate) struct Map {
    /// All lines.
    pub(crate) lines: BTreeMap<u64, Line>,
    /// Changes since the last freeze.
    pub(crate) live: Delta,
    /// Changes that a checkpoint is merging.
    pub(crate) frozen: Option<Delta>,
    /// Leaves in memory.
    pub(crate) cache: Cache,
}

/// What a lookup came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// Every block asked for is resolved.
    Complete,
    /// The leaf must be read first; as many blocks as said were resolved before it.
    Miss { page: PageRef, resolved: usize },
    /// There is no such line.
    NoLine,
}

impl Map {
    /// Nothing mapped, and room for `cache_bytes` of leaves.
    pub(crate) fn new(cache_bytes: usize) -> Map {
        Map { lines: BTreeMap::new(), live: Delta::default(), frozen: None, cache: Cache::new(cache_bytes) }
    }

    /// Resolves `count` blocks from `lba` on: appends to `out` the newest version of each, `None` for an unmapped one.
    pub(crate) fn lookup(
        &mut self,
        line: LineId,
        lba: u64,
        count: usize,
        out: &mut Vec<Option<Entry>>,
    ) -> Lookup {
        let Some(tree) = self.lines.get_mut(&line.0).filter(|l| !l.dropped) else { return Lookup::NoLine };
        let begin = out.len();
        out.resize(begin + count, None);
        let end = lba.saturating_add(count as u64);
        let at = |address: u64| begin + usize::try_from(address - lba).expect("inside the window");
        let (mut next, mut missing) = (lba, None);
        while next < end {
            let (found, leaf_end) = tree.find(next);
            let stop = leaf_end.min(end);
            if let Some((node, leaf)) = found {
                let leaf = &mut tree.nodes[node].leaves[leaf];
                let Some(bytes) = self.cache.at(leaf.hint, &leaf.page) else {
                    missing = Some(leaf.page);
                    break;
                };
                let view = Leaf::trusted(bytes);
                for (address, entry) in view.from(next).take_while(|(a, _)| *a < stop) {
                    // Versions of one block lie side by side, the newest last.
                    out[at(address)] = Some(entry);
                }
            }
            next = stop;
        }
        let resolved = usize::try_from(next - lba).expect("inside the window");
        out.truncate(begin + resolved);
        for delta in self.frozen.iter().chain(std::iter::once(&self.live)) {
            if let Some(delta) = delta.line(line.0) {
                delta.overlay(lba, &mut out[begin..]);
            }
        }
        missing.map_or(Lookup::Complete, |page| Lookup::Miss { page, resolved })
    }

    /// Keeps a verified leaf of `line` that a miss asked for.
    pub(crate) fn leaf_read(&mut self, line: LineId, page: &PageRef, bytes: &[u8]) {
        let Some(tree) = self.lines.get_mut(&line.0) else { return };
        if let (Some((node, leaf)), _) = tree.find(page.first) {
            let leaf = &mut tree.nodes[node].leaves[leaf];
            if leaf.page == *page {
                leaf.hint = self.cache.insert(page, bytes);
            }
        }
    }

    /// Blocks of a line that are mapped, and bytes stored for them: exact in leaves, and an upper bound with the deltas.
    pub(crate) fn usage(&self, line: LineId) -> Option<(u64, u64)> {
        let tree = self.lines.get(&line.0).filter(|l| !l.dropped)?;
        let (mut mapped, mut stored) = (tree.mapped, tree.stored);
        for delta in self.frozen.iter().chain(std::iter::once(&self.live)).filter_map(|d| d.line(line.0)) {
            mapped += delta.point_count() as u64;
            stored += delta.points().map(|(_, e)| u64::from(e.bytes())).sum::<u64>();
        }
        Some((mapped, stored))
    }
}
