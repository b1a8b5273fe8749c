//! Cleaning: moves what lives in a sparse segment to the cold stream, so that the next checkpoint can give it back.
//!
//! A move must never bring back what was overwritten. Blocks are put on the list of moves first; every batch that is formed
//! into a commit from then on takes its blocks off. Then the cleaner waits until everything formed before is applied, and
//! asks the map. What is still on the list when the move's commit is formed is therefore what the map holds at that point of
//! the commit order, live and at replay alike.

use super::fetch::{FetchError, Started, begin, end, stored, within};
use super::scan::Found;
use super::{MoveItem, MoveJob, Phase, SegmentScan, Shared, Span};
use crate::LostCause;
use crate::columns::Shape;
use crate::format::commit::{LogIdentity, LogRecord, records};
use crate::format::page::{Level, PageRef, verify};
use crate::format::segment::{SEGMENT_HEADER_BYTES, Stream};
use crate::location::Slot;
use crate::map::{AT_ONCE, Asked, Held};
use crate::policy::{Candidate, dense_bytes, victim};
use crate::segments::{Segment, SegmentName};
use crate::stored::BlockVersion;
use dolmen_io::exec::Handle;
use dolmen_io::{Buf, Slices};
use dolmen_types::limits::BLOCK_BYTES;
use dolmen_types::{LineId, Nanos};

/// Versions that are looked up at a time; those that live are then moved, in one commit or several.
const BATCH_ITEMS: usize = 256;

/// Bytes that are read in one go.
const RUN_BYTES: usize = 128 * 1024;

/// How long a segment is left alone of which something could not be had. Then it is looked at again: what was missing may be
/// readable after all, or nobody needs it any more. Nanoseconds.
const AGAIN_NS: u64 = 60_000_000_000;

/// What made the cleaner give a segment up: it can't be gone through, or the shard stops.
pub(crate) struct Damaged;

/// The last segment that was made safe: when that began, and what it took. Bytes.
#[derive(Clone, Copy, Default)]
struct MadeSafe {
    began: Nanos,
    bytes: u64,
}

impl MadeSafe {
    /// Until when re-protection rests after it, given the bytes that it may move in a second; other cleaning goes on.
    fn rest_until(self, bytes_per_s: u64) -> Nanos {
        let takes_ns = self.bytes.saturating_mul(1_000_000_000).checked_div(bytes_per_s).unwrap_or(0);
        Nanos(self.began.0.saturating_add(takes_ns))
    }
}

/// The task: cleans while the pool asks for it and there is something to gain.
pub(super) async fn serve(shard: Shared, exec: Handle) {
    let bell = shard.borrow().clean_bell.clone();
    let mut last = MadeSafe::default();
    loop {
        // By the bound as it is now: who changes it rings.
        let rest_ns = last.rest_until(shard.borrow().reprotect.bytes_per_s).since(exec.now());
        let (slot, at_risk) = {
            let mut s = shard.borrow_mut();
            if !matches!(s.phase, Phase::Serving) || s.closing {
                return;
            }
            let risky = || if rest_ns == 0 { s.pick_at_risk().map(|slot| (slot, true)) } else { None };
            let sparse = || s.pick_victim().map(|slot| (slot, false));
            // What is made safe takes from all drives and gives back to few: not before units wait for others no more.
            let slot =
                if s.space.level.scarce == 0 { risky().or_else(sparse) } else { sparse().or_else(risky) };
            s.cleaner_idle = slot.is_none();
            (slot, s.risk.any)
        };
        let Some((slot, risky)) = slot else {
            match rest_ns {
                // What is at risk and was left alone for a while is looked at again, though nothing else happens.
                0 if at_risk => _ = within(&exec, AGAIN_NS / 1_000_000, bell.notified()).await,
                0 => bell.notified().await,
                ns => _ = within(&exec, ns.div_ceil(1_000_000), bell.notified()).await,
            }
            continue;
        };
        let began = exec.now();
        let segment = shard.borrow().segments.at(slot).map(|s| (s.name(slot), u64::from(s.live())));
        let Some((name, live)) = segment else { continue };
        let outcome = clean(&shard, &exec, slot).await;
        shard.borrow_mut().cleaned_up(name, &outcome);
        exec.yield_now().await;
        if risky {
            last = MadeSafe { began, bytes: live };
        }
    }
}

impl super::Shard {
    fn cleaned_up(&mut self, name: SegmentName, outcome: &Result<Left, Damaged>) {
        self.moving.clear();
        let whole = matches!(outcome, Ok(Left(0)));
        // What was taken off the list of moves but is still needed stayed behind: the segment is cleaned again.
        let emptied = whole && !std::mem::take(&mut self.moves_forgotten);
        let again = Nanos(self.now.0 + AGAIN_NS);
        if outcome.is_err() {
            self.lost.gap(name);
        }
        // A checkpoint may have been quicker.
        let Some(segment) = self.segments.named_mut(name) else { return };
        segment.cleaned = emptied;
        segment.quarantined = (!whole).then_some(again);
        segment.failed = if whole { 0 } else { segment.failed.saturating_add(1) };
        if emptied {
            self.emptied_one();
        }
        if emptied && self.may_retire(name) {
            self.retiring.push(name);
        } else {
            self.cleaned += usize::from(emptied);
        }
        if self.risk.any {
            self.weigh_risk();
        }
    }

    /// A block that somebody needs stays where it is, since it can't be had.
    fn not_moved(&mut self, item: &MoveItem, why: &FetchError) {
        if self.lost_block(item, LostCause::from(why)) && *why == FetchError::Damaged {
            self.counters.integrity_errors += 1;
        }
    }

    fn pick_victim(&self) -> Option<Slot> {
        let shape = self.shape_now();
        // Enough is emptied: the checkpoint comes first.
        if !self.space.level.clean || self.cleaned >= 2 * self.freeable_goal() {
            return None;
        }
        let candidates = self.segments.iter().filter(|(_, s)| self.may_clean(s)).map(|(id, s)| Candidate {
            id,
            live_bytes: shape.raw(u64::from(s.live())),
            dense_bytes: self.worth_bytes(s),
            age: self.log.applied - s.last_commit + 1,
        });
        victim(candidates)
    }

    /// What wide segments are made of now.
    fn shape_now(&self) -> Shape {
        // Nothing until the pool's owner has told.
        let told = self.space.level.shape;
        if told.data == 0 { self.drives.members().shape } else { told }
    }

    /// What a segment may hold before cleaning it gains nothing. Of what cleaning has filled itself no more than that: it would not
    /// come out any denser, and in a pool without anything to gain cleaning must come to an end.
    fn worth_bytes(&self, s: &Segment) -> u64 {
        // A unit on a drive that units of others wait for brings one of those with it.
        let scarce = s.columns.lost(self.space.level.scarce);
        let given = self.given_bytes(s) + self.given_by(scarce);
        // It takes less of what is scarce once it lies elsewhere too, as after a drive was added; then no longer.
        let relieves = scarce > self.space.level.takes_scarce as usize;
        match u64::from(s.moved_in) {
            0 => given,
            _ if relieves => given,
            moved_in => given.min(self.shape_now().raw(moved_in)),
        }
    }

    fn may_clean(&self, s: &Segment) -> bool {
        let due = s.quarantined.is_none_or(|until| until <= self.now);
        let whole = s.closed && !s.cleaned && s.stream != Stream::Meta;
        due && whole && s.last_commit <= self.log.applied && s.live() > 0
    }

    /// A segment that lacks a column and still holds something, the one with least first.
    fn pick_at_risk(&self) -> Option<Slot> {
        // Asked whenever a commit was applied.
        if self.reprotect.paused || !self.risk.any || self.halted.is_some() {
            return None;
        }
        // At the end of what is free nothing is made safe at the cost of what keeps the pool going, and lets it start again.
        let scarce = self.space.level.pressure >= 1000;
        let candidates = self.segments.iter().filter(|(_, s)| {
            self.may_clean(s) && self.is_at_risk(s) && !(scarce && self.takes_more_than_it_gives(s))
        });
        candidates.min_by_key(|(_, s)| s.live()).map(|(slot, _)| slot)
    }

    /// True when what lives in a segment needs more units than come back for it.
    fn takes_more_than_it_gives(&self, s: &Segment) -> bool {
        self.shape_now().raw(u64::from(s.live())) > self.given_bytes(s)
    }

    /// What would fit the units that come back when a segment is cleaned: those on drives that are to stay.
    fn given_bytes(&self, s: &Segment) -> u64 {
        self.given_by(s.columns.len() - s.columns.lost(self.unwanted()))
    }

    fn given_by(&self, units: usize) -> u64 {
        dense_bytes(self.drives.unit_bytes) * units as u64
    }
}

/// So many versions that are needed could not be moved.
struct Left(usize);

/// Moves everything that lives in a segment and can be had.
async fn clean(shard: &Shared, exec: &Handle, slot: Slot) -> Result<Left, Damaged> {
    let (scan, id, of, last) = {
        let s = shard.borrow();
        let segment = s.segments.at(slot).ok_or(Damaged)?;
        let scan = SegmentScan::new(exec.clone(), s.drives.clone(), segment.columns);
        (scan, s.id, (segment.stream, segment.stream_seq), segment.last_commit)
    };
    let header =
        scan.header(|h| h.slot == slot && h.shard == id.shard).await.ok().flatten().ok_or(Damaged)?;
    let id = LogIdentity { incarnation: header.incarnation, salt: header.salt, ..id };
    let (mut offset, mut seen, mut gaps) = (SEGMENT_HEADER_BYTES, 0, false);
    let (mut items, mut left) = (Vec::new(), 0);
    while seen < last {
        // What is behind a commit that can't be read any more is needed as well.
        let Some((commit, bytes)) = scan.next(&id, of, offset, seen).await else { break };
        gaps |= commit.place.offset != offset;
        seen = commit.place.number;
        offset = u32::try_from(commit.end()).map_err(|_| Damaged)?;
        items.extend(items_of(&(commit, bytes)));
        while items.len() >= BATCH_ITEMS {
            let rest = items.split_off(BATCH_ITEMS);
            left += move_items(shard, exec, &items).await?;
            items = rest;
        }
    }
    left += move_items(shard, exec, &items).await?;
    if seen < last || gaps { Err(Damaged) } else { Ok(Left(left)) }
}

/// The versions that a commit stores.
pub(super) fn items_of((commit, bytes): &Found) -> Vec<MoveItem> {
    let (mut seq, mut items) = (0, Vec::new());
    for record in records(bytes, commit).flatten() {
        match record {
            LogRecord::Batch { seq: s, .. } => seq = s.0,
            LogRecord::Write { line, lba, blocks } => {
                let entries = blocks.iter().map(|block| commit.entry(seq, &block));
                items.extend((lba..).zip(entries).map(|(lba, entry)| MoveItem { line, lba, entry }));
            }
            LogRecord::Move { line, lba, seq, block, .. } => {
                items.push(MoveItem { line, lba, entry: commit.entry(seq, &block) });
            }
            _ => {}
        }
    }
    items
}

/// Moves those of the given versions that the map still holds; how many of them can't be had.
async fn move_items(shard: &Shared, exec: &Handle, items: &[MoveItem]) -> Result<usize, Damaged> {
    let (items, formed) = {
        let mut s = shard.borrow_mut();
        let mut needed = Vec::new();
        let mut asked = Vec::new();
        for some in items.chunks(AT_ONCE) {
            asked.clear();
            asked.extend(some.iter().map(|i| Asked { line: i.line, lba: i.lba, seq: i.entry.seq }));
            let superseded = s.map.superseded(&asked);
            needed.extend(some.iter().zip(superseded).filter(|(_, gone)| !gone).map(|(item, _)| *item));
        }
        let items: Vec<MoveItem> = needed;
        s.moving = items.iter().map(|i| (i.line, i.lba, i.entry.seq)).collect();
        (items, s.log.next_number - 1)
    };
    applied(shard, formed).await?;
    let (mut live, mut left, mut lost_leaves) = (Vec::new(), 0, Vec::new());
    for item in items {
        match still_held(shard, exec, &item, &mut lost_leaves).await {
            Ok(true) => live.push(item),
            Ok(false) => {}
            // Nobody can say.
            Err(Damaged) => left += 1,
        }
    }
    live.sort_by_key(|i| i.entry.location);
    let mut rest = live.as_slice();
    while !rest.is_empty() {
        let room = shard.borrow().move_room().max(1);
        let (part, tail) = rest.split_at(rest.len().min(room));
        rest = tail;
        let (job, lost) = read_runs(shard, exec, part).await?;
        left += lost;
        if !job.items.is_empty() {
            move_now(shard, exec, job).await?;
        }
    }
    Ok(left)
}

/// Hands a job to the log and waits until its commit is applied.
async fn move_now(shard: &Shared, exec: &Handle, job: MoveJob) -> Result<(), Damaged> {
    let bell = {
        let mut s = shard.borrow_mut();
        if s.closing {
            return Err(Damaged);
        }
        s.move_jobs.push_back(job);
        s.clean_bell.clone()
    };
    exec.yield_now().await;
    loop {
        {
            let s = shard.borrow();
            if !matches!(s.phase, Phase::Serving) || s.closing {
                return Err(Damaged);
            }
            if s.move_jobs.is_empty() {
                break;
            }
        }
        bell.notified().await;
    }
    let formed = shard.borrow().log.next_number - 1;
    applied(shard, formed).await
}

/// Waits until a commit is applied.
async fn applied(shard: &Shared, number: u64) -> Result<(), Damaged> {
    let bell = shard.borrow().clean_bell.clone();
    loop {
        {
            let s = shard.borrow();
            if !matches!(s.phase, Phase::Serving) {
                return Err(Damaged);
            }
            if s.log.applied >= number {
                return Ok(());
            }
        }
        bell.notified().await;
    }
}

/// True when the map holds this very version at this very place, and somebody sees it. `lost` are leaves that could not be had: they
/// are not read again and again.
pub(crate) async fn still_held(
    shard: &Shared,
    exec: &Handle,
    item: &MoveItem,
    lost: &mut Vec<PageRef>,
) -> Result<bool, Damaged> {
    let held = |s: &mut super::Shard| s.map.holds(LineId(item.line), item.lba, &item.entry);
    loop {
        let page = {
            let mut s = shard.borrow_mut();
            match held(&mut s) {
                Held::Yes => return Ok(true),
                Held::No => return Ok(false),
                Held::Miss(page) => page,
            }
        };
        if lost.contains(&page) {
            return Err(Damaged);
        }
        let mut buf = exec.alloc(BLOCK_BYTES).await;
        buf.set_len(BLOCK_BYTES);
        let holds = |bytes: &[u8]| verify(bytes, Level::Leaf, item.line, &page);
        let read = stored(shard, exec, page.location, buf, holds).await;
        if let Ok(buf) = read {
            shard.borrow_mut().map.leaf_read(LineId(item.line), &page, &buf);
            continue;
        }
        if held(&mut shard.borrow_mut()) == Held::Miss(page) {
            // Nobody replaced the leaf meanwhile: it is damaged.
            lost.push(page);
            return Err(Damaged);
        }
    }
}

/// Reads the stored forms, what lies on touching pages in one go and all runs at once, and verifies each. Blocks that fill whole
/// pages go on from where they were read to; others are packed one behind the other. How many can't be had, which are not in the job.
async fn read_runs(shard: &Shared, exec: &Handle, items: &[MoveItem]) -> Result<(MoveJob, usize), Damaged> {
    let mut rest = items;
    let mut reads = Vec::new();
    let mut whole = items.iter().all(|i| i.entry.bytes() as usize == BLOCK_BYTES);
    while let Some(first) = rest.first() {
        let mut span = Span::of(&first.entry);
        let count = 1 + rest[1..].iter().take_while(|i| span.extend(&i.entry, RUN_BYTES)).count();
        let (run, tail) = rest.split_at(count);
        rest = tail;
        whole &= span.len() == count * BLOCK_BYTES;
        reads.push((run, span, begin_span(shard, exec, &span).await));
    }
    let (mut gathered, mut lost) = (Gathered::new(whole), 0);
    for (run, span, read) in reads {
        match end_span(shard, exec, read, run, &span).await {
            Ok(buf) => gathered.add(run, &span, buf)?,
            Err(why) if run.len() == 1 => {
                shard.borrow_mut().not_moved(&run[0], &why);
                lost += 1;
            }
            Err(_) => lost += one_by_one(shard, exec, run, &mut gathered).await?,
        }
    }
    Ok((gathered.job(), lost))
}

/// Reads the blocks of a run of which some can't be had each by itself; how many those are.
async fn one_by_one(
    shard: &Shared,
    exec: &Handle,
    run: &[MoveItem],
    gathered: &mut Gathered,
) -> Result<usize, Damaged> {
    let mut lost = 0;
    for item in run {
        let span = Span::of(&item.entry);
        let read = begin_span(shard, exec, &span).await;
        match end_span(shard, exec, read, &[*item], &span).await {
            Ok(buf) => gathered.add(&[*item], &span, buf)?,
            Err(why) => {
                shard.borrow_mut().not_moved(item, &why);
                lost += 1;
            }
        }
    }
    Ok(lost)
}

async fn begin_span(shard: &Shared, exec: &Handle, span: &Span) -> Started {
    let mut buf = exec.alloc(span.len()).await;
    buf.set_len(span.len());
    begin(shard, exec, span.location(), buf)
}

async fn end_span(
    shard: &Shared,
    exec: &Handle,
    read: Started,
    run: &[MoveItem],
    span: &Span,
) -> Result<Buf, FetchError> {
    let holds = |bytes: &[u8]| {
        let version = |i: &MoveItem| BlockVersion { line: i.line, lba: i.lba, seq: i.entry.seq };
        let blocks = run.iter().map(|i| (version(i), &i.entry));
        span.holds(&mut shard.borrow_mut().forms, blocks, bytes)
    };
    end(shard, exec, read, holds).await
}

/// What was read for a job.
struct Gathered {
    items: Vec<MoveItem>,
    data: Slices,
    packed: Vec<u8>,
    whole: bool,
}

impl Gathered {
    /// `whole`: each block fills a page, and runs have no others.
    fn new(whole: bool) -> Gathered {
        Gathered { items: Vec::new(), data: Vec::new(), packed: Vec::new(), whole }
    }

    fn add(&mut self, run: &[MoveItem], span: &Span, buf: Buf) -> Result<(), Damaged> {
        self.items.extend_from_slice(run);
        if self.whole {
            self.data.push(buf.freeze());
            return Ok(());
        }
        for item in run {
            self.packed.extend_from_slice(span.part(&item.entry, &buf).ok_or(Damaged)?);
        }
        Ok(())
    }

    fn job(self) -> MoveJob {
        let Gathered { items, data, packed, whole } = self;
        MoveJob { items, data, packed: (!whole).then_some(packed) }
    }
}
