//! What is lost, as users are told of it: blocks of lines that nothing gives any more, and the states that show them. Whoever comes
//! upon such a block (scrubbing, cleaning, a checkpoint, a start) names it here; what a host could not read is looked at first.
//!
//! ```text
//!   a segment has gaps ──▶ its blocks are looked for in the map, and read
//!   named or suspect ──▶ looked at once a second, while the log goes on: which states show it   none -> forgotten
//!                        read once more now and then                                    there again -> forgotten
//! ```
//! A checkpoint's body keeps the list, and one comes for what is new in it. What a start finds there is as good as named anew: it is looked at
//! before it is told, so what was overwritten or unmapped since, or written by what is replayed, is told no more.

use super::clean::still_held;
use super::fetch::{FetchError, stored, within};
use super::{MoveItem, Phase, Shard, Shared, Span};
use crate::format::body::{Lost, LostRow};
use crate::format::page::{Leaf, Level, PageRef, verify};
use crate::location::Slot;
use crate::lost::Losses;
use crate::map::{Clones, Entry, Holding, LeafRef};
use crate::segments::SegmentName;
use crate::stored::BlockVersion;
use crate::{LostCause, LostRange, View};
use dolmen_io::Buf;
use dolmen_io::exec::{Handle, Notify};
use dolmen_types::LineId;
use dolmen_types::limits::BLOCK_BYTES;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Lost blocks, and as many ranges of whole leaves, that are told at most; what more there is is only counted.
const MAX_TOLD: usize = 4096;

/// Between two looks. Milliseconds.
const LOOK_MS: u64 = 1000;

/// Between two tries to read what is lost. Nanoseconds: ten minutes.
const READ_AGAIN_NS: u64 = 600_000_000_000;

/// Of a range that a lost leaf told of so many blocks are looked at one by one; those behind are as the last one.
const ONE_BY_ONE: u64 = 1 << 12;

/// Blocks that are looked at between two turns of the core.
const A_TURN: u64 = 8;

/// Leaves that are read to find out who shows one block, at most: those of its line, and of all clones.
const MAX_LEAVES: usize = 1024;

/// See the module.
#[derive(Default)]
pub(crate) struct LostBlocks {
    /// Versions by line, block and sequence number: where they are, and why they can't be had.
    versions: BTreeMap<(u64, u64, u64), (Entry, LostCause)>,
    /// By line and first block, what lost leaves told of: how many blocks.
    extents: BTreeMap<(u64, u64), u64>,
    /// Segments of which not all commits can be found, so that only the map tells what else lies there: each is gone through once.
    gaps: BTreeSet<SegmentName>,
    gone_through: BTreeSet<SegmentName>,
    /// What hosts could not read.
    suspects: VecDeque<MoveItem>,
    /// As of the last look.
    ranges: Vec<LostRange>,
    /// Something was named since.
    fresh: bool,
    /// Something was named that no checkpoint has.
    pub(super) unsaved: bool,
    /// Rings when something is to be looked at.
    pub(crate) bell: Notify,
}

impl LostBlocks {
    /// A version can't be had.
    pub(super) fn name(&mut self, item: &MoveItem, cause: LostCause) {
        if self.versions.len() < MAX_TOLD {
            let before = self.versions.insert((item.line, item.lba, item.entry.seq), (item.entry, cause));
            self.unsaved |= before.is_none();
        }
        self.ring();
    }

    /// Nobody knows what so many blocks hold.
    pub(super) fn name_extent(&mut self, line: u64, lba: u64, blocks: u64) {
        if self.extents.len() < MAX_TOLD {
            let most = self.extents.entry((line, lba)).or_default();
            self.unsaved |= blocks > *most;
            *most = blocks.max(*most);
        }
        self.ring();
    }

    /// A host could not read some of these.
    pub(super) fn suspect(&mut self, items: impl Iterator<Item = MoveItem>) {
        for item in items {
            if item.entry.is_lost() {
                self.name_extent(item.line, item.lba, 1);
            } else if self.suspects.len() < MAX_TOLD && !self.is_named(&item) {
                self.suspects.push_back(item);
                self.bell.notify();
            }
        }
    }

    /// Some commit of a segment can't be found.
    pub(super) fn gap(&mut self, name: SegmentName) {
        if !self.gone_through.contains(&name) {
            self.gaps.insert(name);
            self.bell.notify();
        }
    }

    /// The list, for a checkpoint that is about to be written.
    pub(super) fn rows(&mut self) -> Vec<LostRow> {
        self.unsaved = false;
        let versions = self.versions.iter().map(|(&(line, lba, _), &(entry, cause))| LostRow {
            line,
            lba,
            what: Lost::version(entry, cause),
        });
        let leaves = self.extents.iter();
        let leaves = leaves.map(|(&(line, lba), &blocks)| LostRow { line, lba, what: Lost::Leaf(blocks) });
        versions.chain(leaves).collect()
    }

    /// What a checkpoint knew.
    pub(super) fn restore(&mut self, rows: &[LostRow]) {
        for &LostRow { line, lba, what } in rows {
            match what {
                Lost::Damaged(entry) => self.name(&MoveItem { line, lba, entry }, LostCause::Damaged),
                Lost::Unreadable(entry) => self.name(&MoveItem { line, lba, entry }, LostCause::Unreadable),
                Lost::Leaf(blocks) => self.name_extent(line, lba, blocks),
            }
        }
        self.unsaved = false;
    }

    fn is_named(&self, item: &MoveItem) -> bool {
        self.versions.contains_key(&(item.line, item.lba, item.entry.seq))
    }

    fn ring(&mut self) {
        self.fresh = true;
        self.bell.notify();
    }

    fn is_empty(&self) -> bool {
        let named = !self.versions.is_empty() || !self.extents.is_empty() || self.fresh;
        !named && self.suspects.is_empty() && self.gaps.is_empty()
    }
}

impl Shard {
    /// What is lost, as of the last look.
    pub(crate) fn lost_ranges(&self) -> &[LostRange] {
        &self.lost.ranges
    }

    /// A leaf of a line can't be had: what it told of is lost.
    pub(super) fn lost_leaf(&mut self, line: u64, page: &PageRef) {
        if let Some(blocks) = self.map.extent(line, page) {
            self.lost.name_extent(line, page.first, blocks);
        }
    }
}

/// The task.
pub(super) async fn serve(shard: Shared, exec: Handle) {
    let bell = shard.borrow().lost.bell.clone();
    // What a checkpoint knew is told first, and then read: that may take long, of drives that fail.
    let (mut looked, mut blind, mut read_at) = (0, Vec::new(), exec.now().plus_ms(LOOK_MS));
    loop {
        let (is_empty, fresh, applied) = {
            let mut s = shard.borrow_mut();
            if !matches!(s.phase, Phase::Serving | Phase::Stopped(_)) || s.closing {
                return;
            }
            (s.lost.is_empty(), std::mem::take(&mut s.lost.fresh), s.log.applied)
        };
        if is_empty {
            read_at = exec.now().plus_ms(READ_AGAIN_NS / 1_000_000);
            bell.notified().await;
            continue;
        }
        let read_again = exec.now() >= read_at;
        if read_again {
            read_at = exec.now().plus_ms(READ_AGAIN_NS / 1_000_000);
            blind.clear();
        }
        go_through_gaps(&shard, &exec).await;
        let found = judge(&shard, &exec).await;
        if fresh || found || read_again || looked != applied {
            looked = applied;
            look(&shard, &exec, &mut blind, read_again).await;
        }
        within(&exec, LOOK_MS, bell.notified()).await;
    }
}

/// Looks for what lies in segments with gaps, line by line in the map, and names what of it can't be had.
async fn go_through_gaps(shard: &Shared, exec: &Handle) {
    let (slots, lines) = {
        let mut s = shard.borrow_mut();
        let gaps = std::mem::take(&mut s.lost.gaps);
        // One that went meanwhile holds nothing any more.
        let slots: BTreeSet<Slot> =
            gaps.iter().filter(|name| s.segments.named(**name).is_some()).map(|name| name.slot).collect();
        s.lost.gone_through.extend(gaps);
        (slots, s.map.lines.keys().copied().collect::<Vec<u64>>())
    };
    if slots.is_empty() {
        return;
    }
    for line in lines {
        // A node of the map at a time: a line has many.
        for index in 0.. {
            let pages: Option<Vec<PageRef>> = {
                let s = shard.borrow();
                let node = s.map.lines.get(&line).and_then(|tree| tree.nodes.get(index));
                node.map(|node| node.leaves.iter().map(LeafRef::page).collect())
            };
            let Some(pages) = pages else { break };
            for page in pages {
                if shard.borrow().closing {
                    return;
                }
                // Of one that can't be had, or was replaced, the changes tell, or whoever needs it.
                if let Ok(buf) = read_leaf(shard, exec, line, &page).await {
                    let stored = Leaf::trusted(&buf).slots().filter_map(|(lba, v)| Some((lba, *v.stored()?)));
                    let there = stored.filter(|(_, e)| slots.contains(&e.location.slot())).collect();
                    name_lost(shard, exec, line, there).await;
                }
                exec.yield_now().await;
            }
        }
        let recent = {
            let s = shard.borrow();
            let deltas = s.map.frozen.iter().chain([&s.map.live]).filter_map(|delta| delta.line(line));
            let entries = deltas.flat_map(|delta| delta.entries()).map(|(lba, entry)| (lba, *entry));
            entries.filter(|(_, entry)| slots.contains(&entry.location.slot())).collect()
        };
        name_lost(shard, exec, line, recent).await;
    }
}

/// Names those of these versions that somebody needs and that can't be had.
async fn name_lost(shard: &Shared, exec: &Handle, line: u64, entries: Vec<(u64, Entry)>) {
    let mut lost_leaves = Vec::new();
    for (lba, entry) in entries {
        let item = MoveItem { line, lba, entry };
        if still_held(shard, exec, &item, &mut lost_leaves).await.unwrap_or(false)
            && let Err(why) = read_block(shard, exec, &item).await
        {
            shard.borrow_mut().lost_block(&item, LostCause::from(&why));
        }
        exec.yield_now().await;
    }
}

/// Reads what hosts could not; true when some of it is lost.
async fn judge(shard: &Shared, exec: &Handle) -> bool {
    let (mut found, mut lost_leaves) = (false, Vec::new());
    loop {
        let Some(item) = shard.borrow_mut().lost.suspects.pop_front() else { return found };
        if shard.borrow().closing {
            return found;
        }
        if let Err(why) = read_block(shard, exec, &item).await
            && still_held(shard, exec, &item, &mut lost_leaves).await.unwrap_or(false)
        {
            shard.borrow_mut().lost.name(&item, LostCause::from(&why));
            found = true;
        }
        exec.yield_now().await;
    }
}

/// Looks who shows what is lost, and forgets what nobody does.
async fn look(shard: &Shared, exec: &Handle, blind: &mut Vec<PageRef>, read_again: bool) {
    let (versions, extents, clones) = {
        let s = shard.borrow();
        (s.lost.versions.clone(), s.lost.extents.clone(), s.map.clones())
    };
    let mut losses = Losses::default();
    for (key, (entry, cause)) in versions {
        if shard.borrow().closing {
            return;
        }
        let item = MoveItem { line: key.0, lba: key.1, entry };
        let there = read_again && read_block(shard, exec, &item).await.is_ok();
        if there {
            shard.borrow_mut().is_back(&item);
        }
        let views = match there {
            true => Vec::new(),
            false => shown(shard, exec, &clones, &item, blind).await,
        };
        if views.is_empty() {
            shard.borrow_mut().lost.versions.remove(&key);
        } else {
            losses.add(item.line, views, cause, (item.lba, 1));
        }
        exec.yield_now().await;
    }
    for (key, blocks) in extents {
        if !add_extent(shard, exec, &clones, (key.0, key.1, blocks), blind, &mut losses).await {
            shard.borrow_mut().lost.extents.remove(&key);
        }
    }
    shard.borrow_mut().lost.ranges = losses.ranges();
}

/// Adds those of the blocks (line, first, how many) that a lost leaf told of which some state still shows as lost; false for none.
pub(crate) async fn add_extent(
    shard: &Shared,
    exec: &Handle,
    clones: &Clones,
    (line, lba, blocks): (u64, u64, u64),
    blind: &mut Vec<PageRef>,
    losses: &mut Losses,
) -> bool {
    let mut any = false;
    for i in 0..blocks.min(ONE_BY_ONE) {
        let views = who_shows(shard, exec, clones, (line, lba + i), Holding::Lost, blind).await;
        if !views.is_empty() {
            let last = i + 1 == ONE_BY_ONE;
            let count = if last { blocks - i } else { 1 };
            losses.add(line, views, LostCause::Map, (lba + i, count));
            any = true;
        }
        if i % A_TURN == 0 {
            exec.yield_now().await;
        }
    }
    any
}

/// The states that show a version. `blind` are leaves that could not be had: they are not read again and again.
pub(crate) async fn shown(
    shard: &Shared,
    exec: &Handle,
    clones: &Clones,
    item: &MoveItem,
    blind: &mut Vec<PageRef>,
) -> Vec<View> {
    who_shows(shard, exec, clones, (item.line, item.lba), Holding::Version(item.entry), blind).await
}

async fn who_shows(
    shard: &Shared,
    exec: &Handle,
    clones: &Clones,
    at: (u64, u64),
    held: Holding,
    blind: &mut Vec<PageRef>,
) -> Vec<View> {
    for _ in 0..MAX_LEAVES {
        let (line, page) = match shard.borrow_mut().map.shown(clones, at, held, blind) {
            Ok(views) => return views,
            Err(missing) => missing,
        };
        match read_leaf(shard, exec, line, &page).await {
            Ok(buf) => shard.borrow_mut().map.leaf_read(LineId(line), &page, &buf),
            Err(_) => blind.push(page),
        }
    }
    Vec::new()
}

async fn read_leaf(shard: &Shared, exec: &Handle, line: u64, page: &PageRef) -> Result<Buf, FetchError> {
    let mut buf = exec.alloc(BLOCK_BYTES).await;
    buf.set_len(BLOCK_BYTES);
    stored(shard, exec, page.location, buf, |bytes| verify(bytes, Level::Leaf, line, page)).await
}

/// Reads one stored block, whichever way. One whose key is not here is nothing that can be told of.
pub(super) async fn read_block(shard: &Shared, exec: &Handle, item: &MoveItem) -> Result<(), FetchError> {
    if item.entry.form.is_encrypted() && !shard.borrow().forms.has_key(item.line) {
        return Ok(());
    }
    let span = Span::of(&item.entry);
    let mut buf = exec.alloc(span.len()).await;
    buf.set_len(span.len());
    let version = BlockVersion { line: item.line, lba: item.lba, seq: item.entry.seq };
    let holds = |bytes: &[u8]| span.holds(&mut shard.borrow_mut().forms, [(version, &item.entry)], bytes);
    stored(shard, exec, span.location(), buf, holds).await.map(drop)
}

impl From<&FetchError> for LostCause {
    fn from(why: &FetchError) -> LostCause {
        match why {
            FetchError::Medium(_) => LostCause::Unreadable,
            FetchError::Damaged | FetchError::Nowhere => LostCause::Damaged,
        }
    }
}
