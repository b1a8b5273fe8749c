//! Looking up many blocks together, each of which may be anywhere.
//!
//! A search touches memory that comes from far away, and what it touches next depends on what it finds there. One search after the
//! other waits each time; so what they all touch first is fetched for all of them, then what they touch next, and only then they run.
//! What each step has found the next one takes up.

use super::tree::Near;
use super::{Cache, Delta, Entry, Found, LeafRef, Line, LineDelta, Map};
use crate::format::page::{Leaf, PageRef};
use dolmen_kernels::prefetch;
use std::collections::BTreeMap;

/// Blocks that are looked up together at most.
pub(crate) const AT_ONCE: usize = 32;

/// A block, or a version of it, that is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The line.
    pub(crate) line: u64,
    /// The address.
    pub(crate) lba: u64,
    /// The version, where that matters.
    pub(crate) seq: u64,
}

/// What a line holds of a block now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Newest {
    /// This version.
    Stored(Found),
    /// Nothing, nor do its ancestors.
    Nothing,
    /// That takes a lookup: of a leaf that is not in memory, of holes, of versions that snapshots keep, of an ancestor; or the line
    /// has no head.
    Unknown,
}

/// What is looked into for a block.
#[derive(Clone, Copy)]
struct View<'m> {
    tree: &'m Line,
    /// What the deltas hold of the line, the newer one first.
    layers: [Option<&'m LineDelta>; 2],
}

/// Where a block's newest version is named, before that was looked at.
#[derive(Clone, Copy)]
enum Named<'m> {
    /// There, in a delta in which hosts wrote from this number on.
    Delta(&'m Entry, Option<u64>),
    Leaf(&'m LeafRef),
    Nowhere,
}

impl Map {
    /// What the lines of some blocks hold of them now, one for each; and all that a lookup from there on will touch first is near.
    pub(crate) fn newest(&mut self, asked: &[Asked], answers: &mut Vec<Newest>) {
        answers.clear();
        for some in asked.chunks(AT_ONCE) {
            self.newest_of_some(some, answers);
        }
    }

    fn newest_of_some(&mut self, asked: &[Asked], answers: &mut Vec<Newest>) {
        let Map { lines, live, frozen, cache, .. } = self;
        let views = views(lines, live, frozen.as_ref(), asked);
        let places = places(&views, asked);
        let mut nears = [Near::default(); AT_ONCE];
        for ((asked, view), near) in asked.iter().zip(&views).zip(&mut nears) {
            *near = view.map_or(Near::default(), |view| view.tree.near(asked.lba));
        }
        let mut named = [Named::Nowhere; AT_ONCE];
        for (n, asked) in asked.iter().enumerate() {
            let Some(view) = &views[n] else { continue };
            named[n] = view.name(&places[n], &nears[n], asked.lba);
            match named[n] {
                Named::Delta(entry, _) => prefetch(entry),
                Named::Leaf(leaf) => {
                    let slot = usize::try_from(asked.lba - leaf.first()).unwrap_or(usize::MAX);
                    cache.prefetch(leaf.hint, slot);
                }
                Named::Nowhere => {}
            }
        }
        answers.extend(asked.iter().zip(&views).zip(&named).map(|((asked, view), named)| {
            let Some(view) = view.filter(|view| view.is_plain(asked.lba)) else { return Newest::Unknown };
            match look(named, cache, asked.lba) {
                Ok(Some(entry)) => Newest::Stored(Found { line: asked.line, entry }),
                Ok(None) if view.tree.now.parent.is_none() => Newest::Nothing,
                Ok(None) | Err(NotAll) => Newest::Unknown,
            }
        }));
    }

    /// Of some versions of blocks, at most [`AT_ONCE`], whether nobody needs them any more, as far as the deltas tell. It stays so.
    pub(crate) fn superseded(&self, asked: &[Asked]) -> [bool; AT_ONCE] {
        let views = views(&self.lines, &self.live, self.frozen.as_ref(), asked);
        let places = places(&views, asked);
        for ((asked, view), places) in asked.iter().zip(&views).zip(&places) {
            for (delta, place) in view.iter().flat_map(|view| view.layers).zip(places) {
                if let Some(delta) = delta {
                    delta.prefetch_entry(*place, asked.lba);
                }
            }
        }
        let mut superseded = [true; AT_ONCE];
        for (n, asked) in asked.iter().enumerate() {
            let Some(view) = &views[n] else { continue };
            superseded[n] = view.layers.iter().zip(&places[n]).any(|(delta, place)| {
                delta.is_some_and(|d| d.supersedes(*place, asked.lba, asked.seq, &view.tree.now))
            });
        }
        superseded
    }
}

impl<'m> View<'m> {
    /// The line can be read as of now, and the block was not unmapped in the deltas.
    fn is_plain(&self, lba: u64) -> bool {
        self.tree.now.head && !self.layers.iter().flatten().any(|delta| delta.has_hole(lba))
    }

    /// Where a block's newest version is named, if it is.
    fn name(&self, places: &[usize; 2], near: &Near, lba: u64) -> Named<'m> {
        for (delta, place) in self.layers.iter().zip(places) {
            if let Some(delta) = *delta
                && let Some(entry) = delta.newest_near(*place, lba)
            {
                return Named::Delta(entry, delta.written_from());
            }
        }
        self.tree.leaf(near, lba).map_or(Named::Nowhere, Named::Leaf)
    }
}

/// What is looked into for each block; `None` for one of a line that is not there.
fn views<'m>(
    lines: &'m BTreeMap<u64, Line>,
    live: &'m Delta,
    frozen: Option<&'m Delta>,
    asked: &[Asked],
) -> [Option<View<'m>>; AT_ONCE] {
    let mut views = [None; AT_ONCE];
    let mut last: Option<(u64, Option<View<'m>>)> = None;
    for (asked, view) in asked.iter().zip(&mut views) {
        *view = match last {
            // Mostly one line is asked for again and again.
            Some((line, view)) if line == asked.line => view,
            _ => lines.get(&asked.line).map(|tree| {
                let layers = [live.line(asked.line), frozen.and_then(|delta| delta.line(asked.line))];
                View { tree, layers }
            }),
        };
        last = Some((asked.line, *view));
    }
    views
}

/// Where blocks are, or would be, in both deltas; what a search there touches first is brought near.
fn places(views: &[Option<View<'_>>; AT_ONCE], asked: &[Asked]) -> [[usize; 2]; AT_ONCE] {
    let mut places = [[0; 2]; AT_ONCE];
    for ((asked, view), places) in asked.iter().zip(views).zip(&mut places) {
        for (delta, place) in view.iter().flat_map(|view| view.layers).zip(places) {
            if let Some(delta) = delta {
                *place = delta.place(asked.lba);
                delta.prefetch(*place);
            }
        }
    }
    places
}

/// What was looked at is not all that has to be.
struct NotAll;

/// The newest version of a block by where it is named.
fn look(named: &Named<'_>, cache: &mut Cache, lba: u64) -> Result<Option<Entry>, NotAll> {
    match *named {
        // Older ones are moved too, and then what is newer may lie below.
        Named::Delta(entry, written_from) => {
            if written_from.is_some_and(|from| entry.seq >= from) {
                Ok(Some(*entry))
            } else {
                Err(NotAll)
            }
        }
        Named::Leaf(leaf) => {
            let page = leaf.page();
            if page.flags & (PageRef::HISTORY | PageRef::HOLES) != 0 {
                return Err(NotAll);
            }
            let leaf = Leaf::trusted(cache.at(leaf.hint, &page).ok_or(NotAll)?);
            let slot = leaf.seek(lba, 0);
            let found = (slot < leaf.len()).then(|| leaf.slot(slot)).filter(|(address, _)| *address == lba);
            Ok(found.and_then(|(_, version)| version.stored().copied()))
        }
        Named::Nowhere => Ok(None),
    }
}
