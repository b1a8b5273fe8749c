//! Merging a delta into leaves and pruning what nobody sees: a pure function from old slots, changes and points to new slots.

use super::{Entry, LineDelta, Lineage, Version};
use std::collections::BTreeMap;

/// What a merge yields.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    /// The slots of the merged part of the addresses, ascending by (address, sequence number).
    pub(crate) slots: Vec<(u64, Version)>,
    /// Versions that nothing names any more.
    pub(crate) freed: Vec<Entry>,
    /// Memory of a merge: what was stored, and that with the changes.
    scratch: [Vec<(u64, Entry)>; 2],
}

/// Merges the changes to the addresses `from..to` into all the old slots of that part. Of the same version at two places the
/// change's place is kept. Kept is what somebody sees by `lineage`; of holes only those that hide something: an older
/// version that is kept, or the parent. `hidden` are more holes (first block, block behind the last, number): what nobody sees
/// though the line by itself can't tell.
pub(crate) fn merge(
    old: impl Iterator<Item = (u64, Version)>,
    delta: &LineDelta,
    (from, to): (u64, u64),
    hidden: &[(u64, u64, u64)],
    lineage: &Lineage,
    out: &mut Merged,
) {
    let mut holes: Vec<(u64, u64, u64)> = delta.holes_in(from, to).collect();
    holes.extend(hidden);
    let mut lost = Vec::new();
    let [mut stored, mut entries] = std::mem::take(&mut out.scratch);
    stored.clear();
    for (lba, version) in old {
        match version {
            Version::Stored(entry) => stored.push((lba, entry)),
            Version::Hole { seq, blocks } => holes.push((lba, lba.saturating_add(blocks), seq)),
            Version::Lost { until, blocks } => lost.push((lba, lba.saturating_add(blocks), until)),
        }
    }
    overlay(&stored, delta.entries_in(from, to), &mut out.freed, &mut entries);
    if !lost.is_empty() {
        let is_lost = |lba: u64, e: &Entry| {
            lost.iter().any(|&(from, to, until)| (from..to).contains(&lba) && e.seq < until)
        };
        out.freed.extend(entries.extract_if(.., |(lba, e)| is_lost(*lba, e)).map(|(_, e)| e));
    }
    if holes.is_empty() && lost.is_empty() {
        out.slots.reserve(entries.len());
        for block in entries.chunk_by(|a, b| a.0 == b.0) {
            prune_entries(block, lineage, out);
        }
    } else {
        holes.sort_unstable();
        lost.sort_unstable();
        let (active, open) = (BTreeMap::new(), Open::default());
        Sweeper { lineage, active, lost: None, open, end: from, out }.run(&entries, &holes, &lost);
    }
    out.scratch = [stored, entries];
}

/// Both lists by (address, sequence number), the second one's entry where both have one.
fn overlay<'a>(
    old: &[(u64, Entry)],
    new: impl Iterator<Item = (u64, &'a Entry)>,
    freed: &mut Vec<Entry>,
    entries: &mut Vec<(u64, Entry)>,
) {
    entries.clear();
    let mut old = old.iter().copied().peekable();
    for (lba, entry) in new {
        while let Some(before) = old.next_if(|(a, e)| (*a, e.seq) < (lba, entry.seq)) {
            entries.push(before);
        }
        if let Some((_, moved)) = old.next_if(|(a, e)| (*a, e.seq) == (lba, entry.seq)) {
            freed.push(moved);
        }
        entries.push((lba, *entry));
    }
    entries.extend(old);
}

/// Keeps what is needed of the versions of one block that no hole meets.
fn prune_entries(block: &[(u64, Entry)], lineage: &Lineage, out: &mut Merged) {
    for (i, (lba, entry)) in block.iter().enumerate() {
        let successor = block.get(i + 1).map(|(_, e)| e.seq);
        if lineage.needs(entry.seq, successor) {
            out.slots.push((*lba, Version::Stored(*entry)));
        } else {
            out.freed.push(*entry);
        }
    }
}

/// Slots of ranges that end where the sweeper is.
#[derive(Default)]
struct Open {
    /// Holes, by the newest point below their numbers: a block needs one of each at most.
    holes: BTreeMap<Option<u64>, OpenHole>,
    /// Lost blocks.
    lost: Option<usize>,
}

/// A hole that may become longer.
struct OpenHole {
    /// Its slot.
    index: usize,
    /// Until when what any of its blocks held is lost: its number can't be lower.
    until: u64,
}

/// Walks over the addresses and prunes, where holes are about: between two of their edges and from entry to entry.
struct Sweeper<'a> {
    lineage: &'a Lineage,
    /// Holes that cover the current address, by sequence number: block behind the last.
    active: BTreeMap<u64, u64>,
    /// The range of lost blocks that the current address is in: block behind the last, and until when what they held is lost.
    lost: Option<(u64, u64)>,
    /// What was kept for the block before `end` and may go on behind it.
    open: Open,
    end: u64,
    out: &'a mut Merged,
}

impl Sweeper<'_> {
    fn run(&mut self, entries: &[(u64, Entry)], holes: &[(u64, u64, u64)], lost: &[(u64, u64, u64)]) {
        let (mut entries, mut holes, mut lost) = (entries, holes, lost);
        let mut at = self.end;
        loop {
            while let Some(((first, stop, seq), rest)) = holes.split_first()
                && *first <= at
            {
                // Of one number there may be one of the line itself and one of what is hidden.
                let covered = self.active.entry(*seq).or_default();
                *covered = (*covered).max(*stop);
                holes = rest;
            }
            self.active.retain(|_, stop| *stop > at);
            while let Some(((first, stop, until), rest)) = lost.split_first()
                && *first <= at
            {
                self.lost = Some((*stop, *until));
                lost = rest;
            }
            self.lost = self.lost.filter(|(stop, _)| *stop > at);
            let count = entries.iter().take_while(|(lba, _)| *lba == at).count();
            let (here, later) = entries.split_at(count);
            entries = later;
            // Everything is the same up to here: the next entry, or the edge of a hole.
            let edges = [
                entries.first().map(|e| e.0),
                holes.first().map(|h| h.0),
                lost.first().map(|l| l.0),
                self.lost.map(|l| l.0),
            ];
            let next = edges.into_iter().flatten().chain(self.active.values().copied()).min();
            let stop = match next {
                Some(next) if here.is_empty() => next,
                // What stands at this block is for this block alone.
                _ if !here.is_empty() => at + 1,
                _ => return,
            };
            self.block(at, stop, here);
            at = stop;
        }
    }

    /// Prunes the versions of the blocks `at..stop`, which share their holes; `here` is of a single block.
    fn block(&mut self, at: u64, stop: u64, here: &[(u64, Entry)]) {
        let mut before = std::mem::take(&mut self.open);
        if self.end != at {
            before = Open::default();
        }
        let entries = here.iter().map(|(_, e)| (e.seq, Some(*e)));
        let mut versions: Vec<(u64, Option<Entry>)> =
            entries.chain(self.active.keys().map(|&seq| (seq, None))).collect();
        // A hole hides what has its number, too.
        versions.sort_by_key(|(seq, _)| *seq);
        // What the last version that was kept shows; nothing shows the parent.
        let mut shows_data = self.lineage.parent.is_some();
        if let Some((_, until)) = self.lost {
            versions.retain(|(seq, _)| *seq >= until);
            if self.lineage.needs(0, versions.first().map(|v| v.0)) {
                self.open.lost = Some(self.lost_range(at, stop - at, until, before.lost));
                shows_data = true;
            }
        }
        for (i, (seq, entry)) in versions.iter().enumerate() {
            let needed = self.lineage.needs(*seq, versions.get(i + 1).map(|v| v.0));
            match entry {
                Some(entry) if needed => {
                    self.out.slots.push((at, Version::Stored(*entry)));
                    shows_data = true;
                }
                Some(entry) => self.out.freed.push(*entry),
                None if needed && shows_data => {
                    let point = self.lineage.below(*seq);
                    let hole = self.hole(at, stop - at, *seq, before.holes.remove(&point));
                    self.open.holes.insert(point, hole);
                    shows_data = false;
                }
                None => {}
            }
        }
        self.end = stop;
    }

    /// Keeps a hole, as part of the one before it if no kept state tells the two apart: none lies between their numbers. The
    /// lower number is that of both then. It hides nothing that the higher one did not hide: what lies between the two is in no
    /// kept state, was freed by this merge, and is not moved any more either, since moves are of what is needed. What was moved
    /// meanwhile of that which only an heir hides shows again, and nobody sees it: the next merge frees it.
    fn hole(&mut self, at: u64, blocks: u64, seq: u64, before: Option<OpenHole>) -> OpenHole {
        let until = self.lost.map_or(0, |(_, until)| until);
        if let Some(before) = before
            && let Version::Hole { seq: first, blocks: len } = &mut self.out.slots[before.index].1
        {
            let (lower, until) = (seq.min(*first), until.max(before.until));
            // What is older than what was lost says nothing.
            if seq == *first || lower >= until {
                (*first, *len) = (lower, *len + blocks);
                return OpenHole { index: before.index, until };
            }
        }
        self.out.slots.push((at, Version::Hole { seq, blocks }));
        OpenHole { index: self.out.slots.len() - 1, until }
    }

    /// Keeps a range of lost blocks, as part of the slot of such that ends where it begins if there is one; the slot's index.
    fn lost_range(&mut self, at: u64, more: u64, until: u64, before: Option<usize>) -> usize {
        if let Some(index) = before
            && let Version::Lost { until: same, blocks } = &mut self.out.slots[index].1
            && *same == until
        {
            *blocks += more;
            return index;
        }
        self.out.slots.push((at, Version::Lost { until, blocks: more }));
        self.out.slots.len() - 1
    }
}
