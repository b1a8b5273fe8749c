//! Looking blocks up: one search per leaf, not per block, and one leaf per block, however many versions there are.

use super::{Asked, Cache, Content, Delta, Entry, LeafRef, Line, LineDelta, Version};
use crate::format::page::{Leaf, PageRef};
use dolmen_types::LineId;
use std::collections::BTreeMap;

/// The map of one shard.
pub(crate) struct Map {
    /// All lines.
    pub(crate) lines: BTreeMap<u64, Line>,
    /// Points of all lines.
    pub(crate) points: usize,
    /// Changes since the last freeze.
    pub(crate) live: Delta,
    /// Changes that a checkpoint is merging.
    pub(crate) frozen: Option<Delta>,
    /// Leaves in memory.
    pub(crate) cache: Cache,
    /// How often merges have given up what heirs hide.
    pub(crate) given_up: u64,
    /// Memory of lookups.
    scratch: Vec<Content>,
}

/// How the running checkpoint looks things up: without the live delta, and with a leaf that it has read itself, which the cache need
/// not keep.
pub(crate) type Aside = Option<(PageRef, Vec<u8>)>;

/// A stored block that a lookup found. Its check (and key and tweak) belong to the line that it was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The line that it was written to: the one asked for, or an ancestor.
    pub(crate) line: u64,
    /// The version.
    pub(crate) entry: Entry,
}

/// Level of a block that is resolved: no line is that deep.
const RESOLVED: u8 = u8::MAX;

/// How far a lookup is: of each block, how many generations above to look at next. That holds as long as merges give up nothing more
/// that heirs hide.
#[derive(Clone, Debug, Default)]
pub(crate) struct Levels {
    of: Vec<u8>,
    given_up: u64,
}

impl Levels {
    /// A lookup of so many blocks that has not begun.
    pub(crate) fn new(blocks: usize) -> Levels {
        Levels { of: vec![0; blocks], given_up: 0 }
    }

    /// The same in the memory of another.
    pub(crate) fn begin(&mut self, blocks: usize) {
        self.of.clear();
        self.of.resize(blocks, 0);
    }

    /// What the map holds of a block is known otherwise.
    pub(crate) fn resolve(&mut self, block: usize) {
        self.of[block] = RESOLVED;
    }

    /// Goes on. Where merges have given up more since, what was written meanwhile may have been passed: it begins anew.
    fn go_on(&mut self, given_up: u64) -> &mut [u8] {
        if std::mem::replace(&mut self.given_up, given_up) != given_up {
            self.of.iter_mut().filter(|level| **level != RESOLVED).for_each(|level| *level = 0);
        }
        &mut self.of
    }
}

/// What a lookup came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// Every block asked for is resolved.
    Complete,
    /// This leaf of that line must be read first; then the lookup goes on where it was.
    Miss { line: u64, page: PageRef },
    /// There is no such line, or no head of it.
    NoLine,
    /// The line has no such snapshot.
    NoSnapshot,
}

/// Whether the map holds a version at a place, and somebody needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// It does.
    Yes,
    /// It does not, or nobody does.
    No,
    /// This leaf must be read first.
    Miss(PageRef),
}

/// Where a line stores something next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextStored {
    /// The first such block.
    At(u64),
    /// Nowhere behind.
    Nothing,
    /// This leaf must be read first; then the search goes on from the cursor.
    Miss(PageRef),
}

impl Map {
    /// Nothing mapped, and room for `cache_bytes` of leaves.
    pub(crate) fn new(cache_bytes: usize) -> Map {
        Map {
            lines: BTreeMap::new(),
            points: 0,
            live: Delta::default(),
            frozen: None,
            cache: Cache::new(cache_bytes),
            given_up: 0,
            scratch: Vec::new(),
        }
    }

    /// Resolves the blocks from `lba` on as of the snapshot `at`, or as of now: `None` for an unmapped one. Before the first
    /// call `blocks` are as many as the range and `None`, and `levels` new; after a miss the call is
    /// repeated with what it left there.
    pub(crate) fn lookup(
        &mut self,
        line: LineId,
        at: Option<u64>,
        lba: u64,
        blocks: &mut [Option<Found>],
        levels: &mut Levels,
    ) -> Lookup {
        let Some(top) = self.lines.get(&line.0) else { return Lookup::NoLine };
        match at {
            None if !top.now.head => return Lookup::NoLine,
            // What clones alone keep of a state may have been given back in part.
            Some(point) if top.now.point(point).is_none_or(|p| !p.snapshot) => return Lookup::NoSnapshot,
            _ => {}
        }
        let levels = levels.go_on(self.given_up);
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut outcome = Lookup::Complete;
        let mut i = 0;
        while i < blocks.len() {
            let level = levels[i];
            let run = levels[i..].iter().take_while(|&&l| l == level).count();
            if level == RESOLVED {
                i += run;
                continue;
            }
            let Some((holder, seq)) = self.ancestor(line.0, at, level) else {
                outcome = Lookup::NoLine;
                break;
            };
            scratch.clear();
            scratch.resize(run, Content::Nothing);
            let Some(tree) = self.lines.get(&holder) else {
                outcome = Lookup::NoLine;
                break;
            };
            let deeper = tree.now.parent.is_some();
            let (known, missing) = self.search(holder, seq, lba + i as u64, &mut scratch, None);
            let results = blocks[i..].iter_mut().zip(&mut levels[i..]).zip(&scratch[..known]);
            for ((block, level), content) in results {
                match content {
                    Content::Nothing if deeper => *level += 1,
                    Content::Nothing | Content::Hole(_) => *level = RESOLVED,
                    Content::Stored(entry) => {
                        *block = Some(Found { line: holder, entry: *entry });
                        *level = RESOLVED;
                    }
                    Content::Lost(until) => {
                        *block = Some(Found { line: holder, entry: Entry::lost(*until) });
                        *level = RESOLVED;
                    }
                }
            }
            if let Some(page) = missing {
                outcome = Lookup::Miss { line: holder, page };
                break;
            }
        }
        self.scratch = scratch;
        outcome
    }

    /// The line `level` generations above, and as of when it is looked at.
    fn ancestor(&self, line: u64, at: Option<u64>, level: u8) -> Option<(u64, u64)> {
        let mut view = (line, at.unwrap_or(u64::MAX));
        for _ in 0..level {
            view = self.lines.get(&view.0)?.now.parent?;
        }
        Some(view)
    }

    /// What one line itself says as of `at` of the blocks from `lba` on: how many blocks are known, and the leaf that is missing for
    /// the others.
    pub(crate) fn search(
        &mut self,
        line: u64,
        at: u64,
        lba: u64,
        contents: &mut [Content],
        aside: Option<&Aside>,
    ) -> (usize, Option<PageRef>) {
        let Some(tree) = self.lines.get(&line) else { return (contents.len(), None) };
        let end = lba.saturating_add(contents.len() as u64);
        let (mut next, mut missing) = (lba, None);
        // Of one version at two places the newer delta's counts.
        let deltas = self.frozen.iter().chain(aside.is_none().then_some(&self.live));
        for delta in deltas.filter_map(|d| d.line(line)) {
            delta.overlay(at, lba, contents);
            // When a host wrote all of it in this delta's time, what lies below is older.
            if delta.written_from().is_some_and(|from| contents.iter().all(|c| c.seq() >= Some(from))) {
                next = end;
            }
        }
        while next < end {
            let (found, bound) = tree.find(next, at);
            // The newest version at or below `at` of every block up to here is in this leaf.
            let stop = if at < bound.1 { bound.0.saturating_add(1) } else { bound.0 }.min(end);
            if let Some((node, leaf)) = found {
                let leaf = &tree.nodes[node].leaves[leaf];
                let page = leaf.page();
                let read = aside.and_then(Option::as_ref).filter(|(read, _)| *read == page);
                let bytes = match read {
                    Some((_, bytes)) => Some(bytes.as_slice()),
                    None => self.cache.at(leaf.hint, &page),
                };
                let Some(bytes) = bytes else {
                    missing = Some(page);
                    break;
                };
                search_leaf(&Leaf::trusted(bytes), page.flags, at, next, stop, lba, contents);
            }
            next = stop;
        }
        (usize::try_from(next - lba).expect("inside the window"), missing)
    }

    /// Keeps a verified leaf of `line` that a miss asked for.
    pub(crate) fn leaf_read(&mut self, line: LineId, page: &PageRef, bytes: &[u8]) {
        let Some(tree) = self.lines.get_mut(&line.0) else { return };
        if let (Some((node, leaf)), _) = tree.find(page.first, page.seq) {
            let leaf = &mut tree.nodes[node].leaves[leaf];
            if leaf.page() == *page {
                leaf.hint = self.cache.insert(page, bytes);
            }
        }
    }

    /// Whether this version of a block is at this place by the map, and somebody sees it.
    pub(crate) fn holds(&mut self, line: LineId, lba: u64, entry: &Entry) -> Held {
        let [superseded, ..] = self.superseded(&[Asked { line: line.0, lba, seq: entry.seq }]);
        if superseded {
            return Held::No;
        }
        let Some(tree) = self.lines.get(&line.0) else { return Held::No };
        let layers = [Some(&self.live), self.frozen.as_ref()];
        let deltas: [Option<&LineDelta>; 2] = layers.map(|d| d.and_then(|d| d.line(line.0)));
        let place = deltas.iter().flatten().find_map(|d| d.entry(lba, entry.seq));
        if place.is_some_and(|p| p != entry) {
            return Held::No;
        }
        let mut known = place.is_some();
        let mut successor = deltas.iter().flatten().filter_map(|d| d.successor(lba, entry.seq)).min();
        let (found, bound) = tree.find(lba, entry.seq);
        if bound.0 == lba {
            successor = Some(successor.map_or(bound.1, |s| s.min(bound.1)));
        }
        if successor.is_some_and(|s| !tree.now.needs(entry.seq, Some(s))) {
            return Held::No;
        }
        if let Some((node, leaf)) = found {
            let leaf = &tree.nodes[node].leaves[leaf];
            let page = leaf.page();
            let Some(bytes) = self.cache.at(leaf.hint, &page) else { return Held::Miss(page) };
            let leaf = Leaf::trusted(bytes);
            // Holes may begin far before what they cover.
            let from = if page.flags & PageRef::HOLES == 0 { leaf.seek(lba, 0) } else { 0 };
            for (address, version) in leaf.from(from).take_while(|(a, _)| *a <= lba) {
                match version {
                    Version::Stored(e) if address == lba && e == *entry => known = true,
                    Version::Hole { blocks, .. } | Version::Lost { blocks, .. }
                        if lba - address >= blocks =>
                    {
                        continue;
                    }
                    Version::Lost { until, .. } if entry.seq < until => return Held::No,
                    Version::Stored(_) if address < lba => continue,
                    _ => {}
                }
                if version.seq() > entry.seq {
                    successor = Some(successor.map_or(version.seq(), |s| s.min(version.seq())));
                }
            }
        }
        let needed = self.lines.get(&line.0).is_some_and(|tree| tree.now.needs(entry.seq, successor));
        if known && needed { Held::Yes } else { Held::No }
    }

    /// How many blocks a leaf of the line tells of, from its first one on; `None` for a page that is none of its leaves.
    pub(crate) fn extent(&self, line: u64, page: &PageRef) -> Option<u64> {
        let tree = self.lines.get(&line)?;
        let (found, (behind, _)) = tree.find(page.first, page.seq);
        let (node, leaf) = found?;
        let is_it = tree.nodes[node].leaves[leaf].page() == *page;
        is_it.then(|| (behind - page.first).max(1))
    }

    /// True when this very leaf is part of the line's tree.
    pub(crate) fn has_leaf(&self, line: LineId, page: &PageRef) -> bool {
        let Some(tree) = self.lines.get(&line.0) else { return false };
        let found = tree.find(page.first, page.seq).0;
        found.is_some_and(|(node, leaf)| tree.nodes[node].leaves[leaf].page() == *page)
    }

    /// Leaves of the line from this one on, below `end`, that are not in memory: of `count` at most, and no more than the cache has
    /// plenty of room for.
    pub(crate) fn missing_from(&mut self, line: u64, page: &PageRef, end: u64, count: usize) -> Vec<PageRef> {
        let Some(tree) = self.lines.get(&line) else { return Vec::new() };
        let (Some((node, leaf)), _) = tree.find(page.first, page.seq) else { return Vec::new() };
        let here = tree.nodes[node].leaves[leaf..].iter();
        let behind = tree.nodes[node + 1..].iter().flat_map(|n| &n.leaves);
        let leaves =
            here.chain(behind).take(count.min(self.cache.limit() / 4)).take_while(|l| l.first() < end);
        leaves.filter(|l| self.cache.at(l.hint, &l.page()).is_none()).map(LeafRef::page).collect()
    }

    /// The first block at or behind `cursor` of which the line stores any version, if there is one below `end`; maybe one behind.
    pub(crate) fn next_stored(&mut self, line: u64, cursor: &mut u64, end: u64) -> NextStored {
        let Some(tree) = self.lines.get(&line) else { return NextStored::Nothing };
        let deltas = self.frozen.iter().chain(std::iter::once(&self.live)).filter_map(|d| d.line(line));
        let in_deltas = deltas.filter_map(|d| d.next_stored(*cursor)).min();
        let nearest = |in_tree: Option<u64>| {
            in_tree.into_iter().chain(in_deltas).min().map_or(NextStored::Nothing, NextStored::At)
        };
        loop {
            let (found, bound) = tree.find(*cursor, 0);
            if let Some((node, leaf)) = found {
                let leaf = &tree.nodes[node].leaves[leaf];
                let page = leaf.page();
                let Some(bytes) = self.cache.at(leaf.hint, &page) else { return NextStored::Miss(page) };
                let view = Leaf::trusted(bytes);
                let from = if page.flags & PageRef::HOLES == 0 { view.seek(*cursor, 0) } else { 0 };
                if let Some(lba) = view.from(from).find_map(|(lba, v)| v.shows(lba, *cursor)) {
                    return nearest(Some(lba));
                }
            }
            if bound.0 == u64::MAX || in_deltas.is_some_and(|lba| lba <= bound.0) {
                return nearest(None);
            }
            // Look at the next leaf: its first slot is stored, or it has to be searched.
            let (Some((node, leaf)), behind) = tree.find(bound.0, bound.1) else { return nearest(None) };
            let leaf = &tree.nodes[node].leaves[leaf];
            let page = leaf.page();
            if page.flags & PageRef::HOLES == 0 {
                return nearest(Some(bound.0));
            }
            let Some(bytes) = self.cache.at(leaf.hint, &page) else { return NextStored::Miss(page) };
            if let Some(lba) = Leaf::trusted(bytes).slots().find_map(|(lba, v)| v.shows(lba, bound.0)) {
                return nearest(Some(lba));
            }
            // Nothing but holes up to there.
            *cursor = behind.0.max(bound.0.saturating_add(1));
            if behind.0 == u64::MAX || *cursor >= end {
                return nearest(None);
            }
        }
    }
}

/// Lays what a leaf says of the blocks `from..to` as of `at` under `contents`, which begins at `lba`.
fn search_leaf(leaf: &Leaf<'_>, flags: u16, at: u64, from: u64, to: u64, lba: u64, contents: &mut [Content]) {
    let index = |address: u64| usize::try_from(address - lba).expect("inside the window");
    if flags & PageRef::HISTORY == 0 {
        for (address, version) in leaf.from(leaf.seek(from, 0)).take_while(|(a, _)| *a < to) {
            if let Version::Stored(entry) = version
                && entry.seq <= at
            {
                contents[index(address)].lay_under(Content::Stored(entry));
            }
        }
        return;
    }
    if flags & PageRef::HOLES != 0 {
        for (address, version) in leaf.slots().take_while(|(a, _)| *a < to) {
            let (content, blocks) = match version {
                Version::Hole { seq, blocks } if seq <= at => (Content::Hole(seq), blocks),
                // Of whatever state: it hides all that is older, and nothing lies below.
                Version::Lost { until, blocks } => (Content::Lost(until), blocks),
                _ => continue,
            };
            let (first, stop) = (address.max(from), address.saturating_add(blocks).min(to));
            if first < stop {
                contents[index(first)..index(stop)].iter_mut().for_each(|b| b.lay_under(content));
            }
        }
    }
    let mut slot = leaf.seek(from, 0);
    while slot < leaf.len() {
        let (address, _) = leaf.slot(slot);
        if address >= to {
            return;
        }
        let next = leaf.seek(address.saturating_add(1), 0);
        let stop = if at == u64::MAX { next } else { leaf.seek(address, at + 1).min(next) };
        let stored = (slot..stop).rev().find_map(|i| leaf.slot(i).1.stored().copied());
        if let Some(entry) = stored {
            contents[index(address)].lay_under(Content::Stored(entry));
        }
        slot = next;
    }
}
