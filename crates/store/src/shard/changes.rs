//! Listing what changed between two states of lines: both are looked up window by window, and what is not the same version is
//! named. Parts in which no line concerned has ever stored anything are skipped leaf by leaf.

use super::Shared;
use super::fetch::{FetchError, stored};
use crate::format::page::{Level, PageRef, verify};
use crate::map::{Found, Lookup, NextStored};
use crate::{ChangedRange, DiffPage, DiffRequest, MAX_DIFF_RANGES, StoreError, View};
use dolmen_io::exec::Handle;
use dolmen_types::limits::BLOCK_BYTES;
use dolmen_types::{Blocks, Lba, LineId};
use std::collections::BTreeSet;

/// Blocks that are compared in one go: about a leaf's.
const WINDOW: u64 = 128;

/// Windows between two turns of the core.
const WINDOWS_PER_TURN: u32 = 16;

/// The whole of one listing.
pub(super) async fn list(
    shard: &Shared,
    exec: &Handle,
    request: &DiffRequest,
) -> Result<DiffPage, StoreError> {
    let DiffRequest { from, to, first, end, limit } = *request;
    let limit = limit.clamp(1, MAX_DIFF_RANGES);
    let lines = lines_of(shard, from.into_iter().chain([to]));
    let mut page = DiffPage::default();
    let (mut at, mut windows) = (first.0, 0);
    while let Some(start) = next_stored(shard, exec, &lines, at).await?.filter(|&a| a < end.0) {
        let count = usize::try_from((end.0 - start).min(WINDOW)).expect("a window is short");
        let new = resolve(shard, exec, &to, start, count).await?;
        let old = match &from {
            Some(view) => resolve(shard, exec, view, start, count).await?,
            None => vec![None; count],
        };
        for (lba, (old, new)) in (start..).zip(old.iter().zip(&new)) {
            let version = |f: &Option<Found>| f.map(|f| (f.line, f.entry.seq));
            if version(old) != version(new) && !push(&mut page.ranges, lba, new.is_some(), limit) {
                page.next = Some(Lba(lba));
                return Ok(page);
            }
        }
        at = start + count as u64;
        windows += 1;
        if windows % WINDOWS_PER_TURN == 0 {
            exec.yield_now().await;
        }
    }
    // States that are not there have no changes either.
    for view in from.into_iter().chain([to]) {
        resolve(shard, exec, &view, first.0, 1).await?;
    }
    Ok(page)
}

/// Adds a block to the list; false when that needs a range more than there may be.
fn push(ranges: &mut Vec<ChangedRange>, lba: u64, mapped: bool, limit: usize) -> bool {
    if let Some(last) = ranges.last_mut()
        && last.mapped == mapped
        && last.lba.0 + last.blocks.0 == lba
    {
        last.blocks.0 += 1;
        return true;
    }
    let room = ranges.len() < limit;
    if room {
        ranges.push(ChangedRange { lba: Lba(lba), blocks: Blocks(1), mapped });
    }
    room
}

/// The lines of these states and all their ancestors.
fn lines_of(shard: &Shared, views: impl Iterator<Item = View>) -> BTreeSet<u64> {
    let s = shard.borrow();
    let mut lines = BTreeSet::new();
    for view in views {
        let mut line = Some(view.line.0);
        while let Some(l) = line.filter(|l| lines.insert(*l)) {
            line = s.map.lines.get(&l).and_then(|l| l.now.parent).map(|p| p.0);
        }
    }
    lines
}

/// The first block at or behind `from` for which some of the lines stores anything.
async fn next_stored(
    shard: &Shared,
    exec: &Handle,
    lines: &BTreeSet<u64>,
    from: u64,
) -> Result<Option<u64>, StoreError> {
    let mut nearest = None;
    for &line in lines {
        let mut cursor = from;
        loop {
            let next = shard.borrow_mut().map.next_stored(line, &mut cursor);
            match next {
                NextStored::At(lba) => {
                    nearest = Some(nearest.map_or(lba, |n: u64| n.min(lba)));
                    break;
                }
                NextStored::Nothing => break,
                NextStored::Miss(page) => load_leaf(shard, exec, line, &page).await?,
            }
        }
    }
    Ok(nearest)
}

/// What a state says of some blocks.
async fn resolve(
    shard: &Shared,
    exec: &Handle,
    view: &View,
    lba: u64,
    count: usize,
) -> Result<Vec<Option<Found>>, StoreError> {
    let (mut blocks, mut levels) = (vec![None; count], vec![0; count]);
    let at = view.at.map(|s| s.0);
    loop {
        let found = shard.borrow_mut().map.lookup(view.line, at, lba, &mut blocks, &mut levels);
        match found {
            Lookup::Complete => {
                let is_lost = |(_, found): &(u64, &Option<Found>)| found.is_some_and(|f| f.entry.is_lost());
                // Whether a block that is lost has changed nobody can say.
                return match (lba..).zip(&blocks).find(is_lost) {
                    Some((lba, _)) => Err(StoreError::Integrity { line: view.line, lba: Lba(lba) }),
                    None => Ok(blocks),
                };
            }
            Lookup::Miss { line, page } => load_leaf(shard, exec, line, &page).await?,
            Lookup::NoLine => return Err(StoreError::NoLine(view.line)),
            Lookup::NoSnapshot => {
                return Err(StoreError::NoSnapshot { line: view.line, at: view.at.unwrap_or_default() });
            }
        }
    }
}

/// Brings a leaf into the cache. One that was replaced meanwhile is left: the lookup then asks for another.
async fn load_leaf(shard: &Shared, exec: &Handle, line: u64, page: &PageRef) -> Result<(), StoreError> {
    let mut buf = exec.alloc(BLOCK_BYTES).await;
    buf.set_len(BLOCK_BYTES);
    let read = stored(shard, exec, page.location, buf, |bytes| verify(bytes, Level::Leaf, line, page)).await;
    let mut s = shard.borrow_mut();
    match read {
        Ok(buf) => s.map.leaf_read(LineId(line), page, &buf),
        Err(error) if s.map.has_leaf(LineId(line), page) => {
            return Err(match error {
                FetchError::Medium(reason) => StoreError::Medium { reason },
                FetchError::Damaged | FetchError::Nowhere => {
                    s.counters.integrity_errors += 1;
                    let reason = format!("the leaf at {} {error}", page.location);
                    StoreError::Map { line: LineId(line), reason }
                }
            });
        }
        Err(_) => {}
    }
    Ok(())
}
