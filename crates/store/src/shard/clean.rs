//! Cleaning: moves what lives in a sparse segment to the cold stream, so that the next checkpoint can give it back.
//!
//! A move must never bring back what was overwritten. Blocks are put on the list of moves first; every batch that is formed
//! into a commit from then on takes its blocks off. Then the cleaner waits until everything formed before is applied, and
//! asks the map. What is still on the list when the move's commit is formed is therefore what the map holds at that point of
//! the commit order, live and at replay alike.

use super::{MoveItem, MoveJob, Phase, SegmentScan, Shared};
use crate::check::block_check;
use crate::format::commit::{LogIdentity, LogRecord, records};
use crate::format::page::{Level, verify};
use crate::format::segment::{SEGMENT_HEADER_BYTES, Stream};
use crate::location::{BLOCK_GRANULES, Slot};
use crate::map::{Entry, Held};
use crate::policy::{Candidate, dense_bytes, victim};
use dolmen_io::exec::Handle;
use dolmen_io::{Event, Op};
use dolmen_types::LineId;
use dolmen_types::limits::BLOCK_BYTES;

/// Versions that are looked up at a time; those that live are then moved, in one commit or several.
const BATCH_ITEMS: usize = 256;

/// Blocks that are read in one go.
const RUN_BLOCKS: usize = 32;

/// What made the cleaner give a segment up; the segment is left alone from then on.
struct Damaged;

/// The task: cleans while the pool asks for it and there is something to gain.
pub(super) async fn serve(shard: Shared, exec: Handle) {
    let bell = shard.borrow().clean_bell.clone();
    loop {
        let slot = {
            let mut s = shard.borrow_mut();
            if !matches!(s.phase, Phase::Serving) || s.closing {
                return;
            }
            let slot = s.pick_victim();
            s.cleaner_idle = slot.is_none();
            slot
        };
        let Some(slot) = slot else {
            bell.notified().await;
            continue;
        };
        let outcome = clean(&shard, &exec, slot).await;
        shard.borrow_mut().cleaned_up(slot, &outcome);
        exec.yield_now().await;
    }
}

impl super::Shard {
    fn cleaned_up(&mut self, slot: Slot, outcome: &Result<(), Damaged>) {
        self.moving.clear();
        // What was taken off the list of moves but is still needed stayed behind: the segment is cleaned again.
        let emptied = outcome.is_ok() && !std::mem::take(&mut self.moves_forgotten);
        let Some(segment) = self.segments.at_mut(slot) else { return };
        segment.cleaned = emptied;
        segment.quarantined = outcome.is_err();
        self.cleaned += usize::from(emptied);
    }

    fn pick_victim(&self) -> Option<Slot> {
        // Enough is emptied: the checkpoint comes first.
        if !self.space.level.clean || self.cleaned >= 2 * self.freeable_goal() {
            return None;
        }
        let candidates = self
            .segments
            .iter()
            .filter(|(_, s)| s.closed && !s.quarantined && !s.cleaned && s.stream != Stream::Meta)
            .filter(|(_, s)| s.last_commit <= self.log.applied && s.live() > 0)
            .map(|(id, s)| Candidate {
                id,
                live_bytes: u64::from(s.live()),
                age: self.log.applied - s.last_commit + 1,
            });
        victim(candidates, dense_bytes(self.geometry.unit_bytes))
    }
}

/// Moves everything that lives in a segment.
async fn clean(shard: &Shared, exec: &Handle, slot: Slot) -> Result<(), Damaged> {
    let (mut scan, id, last) = {
        let s = shard.borrow();
        let segment = s.segments.at(slot).ok_or(Damaged)?;
        (SegmentScan::new(exec.clone(), s.geometry.clone(), segment.unit), s.id, segment.last_commit)
    };
    let header = scan
        .header()
        .await
        .ok()
        .flatten()
        .filter(|h| h.slot == slot && h.shard == id.shard)
        .ok_or(Damaged)?;
    let id = LogIdentity { incarnation: header.incarnation, salt: header.salt, ..id };
    let (mut offset, mut seen) = (SEGMENT_HEADER_BYTES, 0);
    let mut items = Vec::new();
    while seen < last {
        let Some((commit, bytes)) = scan.commit(&id, Some(slot), offset).await.map_err(|_| Damaged)? else {
            break;
        };
        seen = commit.place.number;
        offset = u32::try_from(commit.end()).map_err(|_| Damaged)?;
        let mut seq = 0;
        for record in records(&bytes, &commit).flatten() {
            match record {
                LogRecord::Batch { seq: s, .. } => seq = s.0,
                LogRecord::Write { line, lba, granules, at, checks } => {
                    let places = (0..).map(|i| commit.location(at + i * u32::from(granules)));
                    items.extend((lba..).zip(checks.iter()).zip(places).map(|((lba, check), location)| {
                        MoveItem { line, lba, entry: Entry { seq, location, check, granules } }
                    }));
                }
                LogRecord::Move { line, lba, seq, granules, at, check, .. } => {
                    let entry = Entry { seq, location: commit.location(at), check, granules };
                    items.push(MoveItem { line, lba, entry });
                }
                _ => {}
            }
        }
        while items.len() >= BATCH_ITEMS {
            let rest = items.split_off(BATCH_ITEMS);
            move_items(shard, exec, &items).await?;
            items = rest;
        }
    }
    move_items(shard, exec, &items).await?;
    if seen < last { Err(Damaged) } else { Ok(()) }
}

/// Moves those of the given versions that the map still holds.
async fn move_items(shard: &Shared, exec: &Handle, items: &[MoveItem]) -> Result<(), Damaged> {
    let formed = {
        let mut s = shard.borrow_mut();
        s.moving = items.iter().map(|i| (i.line, i.lba, i.entry.seq)).collect();
        s.log.next_number - 1
    };
    applied(shard, formed).await?;
    let mut live = Vec::new();
    for item in items {
        if still_held(shard, exec, item).await? {
            live.push(*item);
        }
    }
    live.sort_by_key(|i| i.entry.location);
    let mut rest = live.as_slice();
    while !rest.is_empty() {
        let room = shard.borrow().move_room().max(1);
        let (part, tail) = rest.split_at(rest.len().min(room));
        rest = tail;
        let job = read_runs(shard, exec, part).await?;
        move_now(shard, exec, job).await?;
    }
    Ok(())
}

/// Hands a job to the log and waits until its commit is applied.
async fn move_now(shard: &Shared, exec: &Handle, job: MoveJob) -> Result<(), Damaged> {
    shard.borrow_mut().move_jobs.push_back(job);
    let bell = shard.borrow().clean_bell.clone();
    exec.yield_now().await;
    loop {
        {
            let s = shard.borrow();
            if !matches!(s.phase, Phase::Serving) {
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

/// True when the map holds this very version at this very place, and somebody sees it.
async fn still_held(shard: &Shared, exec: &Handle, item: &MoveItem) -> Result<bool, Damaged> {
    let held = |s: &mut super::Shard| s.map.holds(LineId(item.line), item.lba, &item.entry);
    loop {
        let (page, place) = {
            let mut s = shard.borrow_mut();
            match held(&mut s) {
                Held::Yes => return Ok(true),
                Held::No => return Ok(false),
                Held::Miss(page) => {
                    let unit = s.segments.at(page.location.slot()).map(|seg| seg.unit).ok_or(Damaged)?;
                    (page, s.geometry.place(unit, page.location.offset()))
                }
            }
        };
        let mut buf = exec.alloc(BLOCK_BYTES).await;
        buf.set_len(BLOCK_BYTES);
        let buf = exec.read(place.0, place.1, buf).await.map_err(|_| Damaged)?;
        let mut s = shard.borrow_mut();
        if verify(&buf, Level::Leaf, item.line, &page) {
            s.map.leaf_read(LineId(item.line), &page, &buf);
        } else if held(&mut s) == Held::Miss(page) {
            // Nobody replaced the leaf meanwhile: it is damaged.
            return Err(Damaged);
        }
    }
}

/// Reads the stored forms, what lies one behind the other in one go and all runs at once, and verifies each.
async fn read_runs(shard: &Shared, exec: &Handle, items: &[MoveItem]) -> Result<MoveJob, Damaged> {
    let mut job = MoveJob { items: Vec::new(), data: Vec::new() };
    let mut rest = items;
    let mut reads = Vec::new();
    while let Some(first) = rest.first() {
        let follows = |i: usize| {
            let step = u32::try_from(i).expect("runs are short") * BLOCK_GRANULES;
            rest[i].entry.location == first.entry.location.plus(step)
        };
        let count = (1..rest.len().min(RUN_BLOCKS)).take_while(|&i| follows(i)).count() + 1;
        let (run, tail) = rest.split_at(count);
        rest = tail;
        let mut buf = exec.alloc(count * BLOCK_BYTES).await;
        buf.set_len(count * BLOCK_BYTES);
        let (file, offset) = {
            let s = shard.borrow();
            let unit = s.segments.at(first.entry.location.slot()).map(|seg| seg.unit).ok_or(Damaged)?;
            s.geometry.place(unit, first.entry.location.offset())
        };
        reads.push((run, exec.start(Op::Read { file, offset, buf })));
    }
    for (run, read) in reads {
        let Event::Read(buf) = read.await else { return Err(Damaged) };
        let holds = |(item, bytes): (&MoveItem, &[u8])| {
            block_check(item.line, item.lba, item.entry.seq, bytes) == item.entry.check
        };
        if !run.iter().zip(buf.chunks_exact(BLOCK_BYTES)).all(holds) {
            shard.borrow_mut().counters.integrity_errors += 1;
            return Err(Damaged);
        }
        job.items.extend_from_slice(run);
        job.data.push(buf.freeze());
    }
    Ok(job)
}
