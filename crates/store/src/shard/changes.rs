//! Listing what changed between two states of lines: both are looked up window by window, and what is not the same version is
//! named. Parts in which no line concerned has ever stored anything are skipped leaf by leaf.
//!
//! A page of the list ends after [`PAGE_MS`] with what there is, be it nothing, and says where to go on. So whoever asks has an answer
//! in time whatever a volume's size, and a listing that nobody waits for any more is soon over.

use super::Shared;
use super::fetch::{FetchError, begin, buffer_now, end as read_end};
use crate::format::page::{Level, PageRef, verify};
use crate::map::{Found, Levels, Lookup, NextStored};
use crate::{ChangedRange, DiffPage, DiffRequest, MAX_DIFF_RANGES, StoreError, View};
use dolmen_io::exec::Handle;
use dolmen_types::limits::BLOCK_BYTES;
use dolmen_types::{Blocks, Lba, LineId, Nanos};
use std::collections::BTreeSet;
use std::ops::Range;

/// Blocks that are compared in one go: about a leaf's.
const WINDOW: u64 = 128;

/// Windows between two turns of the core.
const WINDOWS_PER_TURN: u32 = 16;

/// Leaves that are read at a time.
const READ_AHEAD: usize = 16;

/// How long a page is worked on. Milliseconds.
const PAGE_MS: u64 = 500;

/// One page of a listing. Each gets at least a window, or a leaf, further.
pub(super) async fn list(
    shard: &Shared,
    exec: &Handle,
    request: &DiffRequest,
) -> Result<DiffPage, StoreError> {
    let DiffRequest { from, to, first, end, limit } = *request;
    let limit = limit.clamp(1, MAX_DIFF_RANGES);
    let until = exec.now().plus_ms(PAGE_MS);
    let lines = lines_of(shard, from.into_iter().chain([to]));
    let mut page = DiffPage::default();
    let (mut at, mut windows) = (first.0, 0);
    while at < end.0 {
        let start = match next_stored(shard, exec, &lines, at..end.0, until).await? {
            Next::Stored(start) if start < end.0 => start,
            Next::Late(next) if next < end.0 => {
                page.next = Some(Lba(next));
                break;
            }
            _ => break,
        };
        let count = usize::try_from((end.0 - start).min(WINDOW)).expect("a window is short");
        let new = resolve(shard, exec, &to, start, count, end).await?;
        let old = match &from {
            Some(view) => resolve(shard, exec, view, start, count, end).await?,
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
        if at < end.0 && exec.now() >= until {
            page.next = Some(Lba(at));
            break;
        }
    }
    // States that are not there have no changes either.
    for view in from.into_iter().chain([to]) {
        resolve(shard, exec, &view, first.0, 1, first).await?;
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

/// Where a listing goes on.
enum Next {
    /// The first block at or behind where it was for which some of the lines stores anything.
    Stored(u64),
    /// There is none before this one, which is further on; what comes then is left to the next page.
    Late(u64),
    /// There is none.
    Nothing,
}

/// The first block of the range, or behind it, for which some of the lines stores anything, or how far that was looked for until then.
async fn next_stored(
    shard: &Shared,
    exec: &Handle,
    lines: &BTreeSet<u64>,
    range: Range<u64>,
    until: Nanos,
) -> Result<Next, StoreError> {
    let (mut nearest, mut is_late) = (None, false);
    for &line in lines {
        let mut cursor = range.start;
        // Whatever is behind what another line stores is not looked for.
        let end = nearest.unwrap_or(range.end);
        while cursor < end {
            let next = shard.borrow_mut().map.next_stored(line, &mut cursor, end);
            let reached = match next {
                NextStored::At(lba) => Some((lba, false)),
                NextStored::Nothing => None,
                // Holes up to here, and more leaves to be read behind.
                NextStored::Miss(_) if cursor > range.start && exec.now() >= until => Some((cursor, true)),
                NextStored::Miss(page) => {
                    load_leaf(shard, exec, line, &page, range.end).await?;
                    continue;
                }
            };
            if let Some((lba, late)) = reached.filter(|r| nearest.is_none_or(|n| r.0 < n)) {
                (nearest, is_late) = (Some(lba), late);
            }
            break;
        }
    }
    Ok(nearest.map_or(Next::Nothing, |lba| if is_late { Next::Late(lba) } else { Next::Stored(lba) }))
}

/// What a state says of some blocks; those up to `end` are asked for later.
async fn resolve(
    shard: &Shared,
    exec: &Handle,
    view: &View,
    lba: u64,
    count: usize,
    end: Lba,
) -> Result<Vec<Option<Found>>, StoreError> {
    let (mut blocks, mut levels) = (vec![None; count], Levels::new(count));
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
            Lookup::Miss { line, page } => load_leaf(shard, exec, line, &page, end.0).await?,
            Lookup::NoLine => return Err(StoreError::NoLine(view.line)),
            Lookup::NoSnapshot => {
                return Err(StoreError::NoSnapshot { line: view.line, at: view.at.unwrap_or_default() });
            }
        }
    }
}

/// Brings a leaf into the cache, and with it some of those behind it below `end`, as far as there are buffers at once. One that was
/// replaced meanwhile is left: the lookup then asks for another.
async fn load_leaf(
    shard: &Shared,
    exec: &Handle,
    line: u64,
    page: &PageRef,
    end: u64,
) -> Result<(), StoreError> {
    let mut buf = exec.alloc(BLOCK_BYTES).await;
    buf.set_len(BLOCK_BYTES);
    let asked = begin(shard, exec, page.location, buf);
    let mut ahead = Vec::new();
    let next = shard.borrow_mut().map.missing_from(line, page, end, READ_AHEAD);
    for page in next.into_iter().filter(|next| next != page) {
        let Some(buf) = buffer_now(exec, BLOCK_BYTES).await else { break };
        ahead.push((page, begin(shard, exec, page.location, buf)));
    }
    let read = read_end(shard, exec, asked, |bytes| verify(bytes, Level::Leaf, line, page)).await;
    {
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
    }
    // Of those that can't be had it is told when they are needed.
    for (page, read) in ahead {
        if let Ok(buf) = read_end(shard, exec, read, |bytes| verify(bytes, Level::Leaf, line, &page)).await {
            shard.borrow_mut().map.leaf_read(LineId(line), &page, &buf);
        }
    }
    Ok(())
}
