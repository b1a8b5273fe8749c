//! What nobody sees any more though a line by itself can't tell: of a line that has neither head nor snapshots, and only one line
//! that was cloned from it, all that this heir hides.
//!
//! That is what becomes of a volume that was rolled back, once its snapshots are gone: its data from before the rollback is one
//! line's, what was written since another's. Whatever the oldest kept state of the heir hides all of them hide, and those to come. So
//! a checkpoint takes it for unmapped. It goes by what the checkpoint itself will say of the heir: after a crash either both are as
//! they were, or neither is.

use super::super::Shared;
use super::super::fetch::stored;
use super::super::meta::{keep_page, page_buffer};
use super::merge::Loaded;
use crate::format::page::{Leaf, Level, PageRef, verify};
use crate::map::{Aside, Content, Line, Map};
use dolmen_io::exec::Handle;
use std::collections::{BTreeMap, BTreeSet};

/// Blocks that are asked for at a time: about a leaf's.
const WINDOW: u64 = 128;

/// Windows between two turns of the core.
const WINDOWS_PER_TURN: u32 = 16;

/// A hole that an heir makes: first block, block behind the last, number.
pub(super) type Hidden = (u64, u64, u64);

/// The only line that still shows anything of another, which has no head and no snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heir {
    line: u64,
    /// Its oldest kept state.
    at: u64,
    /// The state that it was cloned from.
    point: u64,
}

/// Heirs, by the lines that they show.
pub(super) struct Heirs(BTreeMap<u64, Heir>);

impl Heirs {
    /// As the checkpoint begins. What heirs that have changed since the last one may hide is swept.
    pub(super) fn find(map: &mut Map) -> Heirs {
        let (mut heirs, mut changed) = (Heirs(BTreeMap::new()), Vec::new());
        for (&line, tree) in &map.lines {
            let Some(base) = tree.base.as_ref().filter(|b| !b.is_doomed()) else { continue };
            let Some((parent, point)) = base.parent else { continue };
            let of = map.lines.get(&parent).and_then(|p| p.base.as_ref());
            if of.and_then(|p| p.inherited()) == Some(point) {
                heirs.0.insert(parent, Heir { line, at: base.oldest(), point });
                let delta = map.frozen.as_ref().and_then(|f| f.line(line));
                changed.extend(delta.filter(|d| d.written_from().is_some()).map(|_| parent));
            }
        }
        while let Some(line) = changed.pop() {
            let Some(tree) = map.lines.get_mut(&line) else { continue };
            if tree.counts.stored > 0 {
                tree.sweep_all(false);
            }
            changed.extend(tree.now.parent.map(|p| p.0).filter(|parent| heirs.0.contains_key(parent)));
        }
        heirs
    }

    /// The heir of a line, the heir's heir, and so on.
    pub(super) fn of(&self, line: u64) -> Vec<Heir> {
        let first = self.0.get(&line).copied();
        std::iter::successors(first, |heir| self.0.get(&heir.line).copied()).collect()
    }
}

/// The lines that may come to hide more of others.
pub(in super::super) fn heirs_of(map: &Map) -> BTreeSet<u64> {
    map.lines.keys().copied().filter(|&line| may_hide(map, line)).collect()
}

/// True for an heir of a line that stores something, or whose parent does. Lines are not deep.
fn may_hide(map: &Map, line: u64) -> bool {
    let Some((line, point)) = map.lines.get(&line).and_then(|tree| tree.now.parent) else { return false };
    let stores = |tree: &Line| {
        let changed = map.frozen.iter().chain(std::iter::once(&map.live)).any(|d| d.line(line).is_some());
        tree.counts.stored > 0 || changed || may_hide(map, line)
    };
    map.lines.get(&line).is_some_and(|tree| tree.now.inherited() == Some(point) && stores(tree))
}

/// What is hidden of a line's blocks: of those in these leaves and in what is merged into these ranges. What can't be known now is
/// not.
pub(super) async fn hidden(
    shard: &Shared,
    exec: &Handle,
    line: u64,
    heirs: &[Heir],
    leaves: &[Loaded],
    ranges: &[(u64, u64)],
) -> Vec<Hidden> {
    let Some(point) = heirs.first().map(|heir| heir.point) else { return Vec::new() };
    let blocks = blocks(shard, line, leaves, ranges);
    let (mut rest, mut hidden, mut windows) = (blocks.as_slice(), Vec::new(), 0);
    let mut asides: Vec<Aside> = heirs.iter().map(|_| None).collect();
    while let Some(&first) = rest.first() {
        let (window, tail) = rest.split_at(rest.partition_point(|&lba| lba - first < WINDOW));
        rest = tail;
        let place = |lba: u64| usize::try_from(lba - first).expect("a window is short");
        let mut contents = vec![Content::Nothing; window.last().map_or(0, |&last| place(last) + 1)];
        let mut open: Vec<u64> = window.to_vec();
        for (heir, aside) in heirs.iter().zip(&mut asides) {
            heir.look(shard, exec, first, &mut contents, aside).await;
            open.retain(|&lba| {
                let shows = contents[place(lba)] == Content::Nothing;
                hidden.extend((!shows).then_some((lba, lba + 1, point)));
                shows
            });
            if open.is_empty() {
                break;
            }
        }
        windows += 1;
        if windows % WINDOWS_PER_TURN == 0 {
            exec.yield_now().await;
        }
    }
    hidden.sort_unstable();
    hidden
}

/// Blocks of which the line stores something, ascending.
fn blocks(shard: &Shared, line: u64, leaves: &[Loaded], ranges: &[(u64, u64)]) -> Vec<u64> {
    let s = shard.borrow();
    let slots = leaves.iter().flatten().flat_map(|bytes| Leaf::trusted(bytes).slots());
    let mut blocks: BTreeSet<u64> =
        slots.filter(|(_, version)| version.stored().is_some()).map(|(lba, _)| lba).collect();
    if let Some(delta) = s.map.frozen.as_ref().and_then(|f| f.line(line)) {
        let entries = ranges.iter().flat_map(|&(from, to)| delta.entries_in(from, to));
        blocks.extend(entries.map(|(lba, _)| lba));
    }
    blocks.into_iter().collect()
}

impl Heir {
    /// What the heir itself says of the blocks from `first` on; from one on whose leaf can't be had, nothing.
    async fn look(
        &self,
        shard: &Shared,
        exec: &Handle,
        first: u64,
        contents: &mut [Content],
        aside: &mut Aside,
    ) {
        let (mut from, mut tried) = (0, None);
        while from < contents.len() {
            let rest = &mut contents[from..];
            rest.fill(Content::Nothing);
            let (known, missing) =
                shard.borrow_mut().map.search(self.line, self.at, first + from as u64, rest, Some(aside));
            let Some(page) = missing else { return };
            from += known;
            let again = tried.replace(page) == Some(page);
            *aside = if again { None } else { self.read(shard, exec, page).await };
            if aside.is_none() {
                return contents[from..].fill(Content::Nothing);
            }
        }
    }

    /// A leaf of the heir; `None` when it can't be had now.
    async fn read(&self, shard: &Shared, exec: &Handle, page: PageRef) -> Aside {
        let buf = page_buffer(shard, exec).await;
        let holds = |bytes: &[u8]| verify(bytes, Level::Leaf, self.line, &page);
        let buf = stored(shard, exec, page.location, buf, holds).await.ok()?;
        let bytes = buf.to_vec();
        keep_page(shard, buf);
        Some((page, bytes))
    }
}
