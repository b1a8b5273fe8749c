//! Checkpoints: the frozen delta is merged into leaves, the body is written, the anchor makes it count, and only then are
//! emptied segments given back. Runs beside host I/O, a node of the map at a time.

use super::members::on_all;
use super::meta::{MetaWriter, keep_page, page_buffer};
use super::{Phase, Shared};
use crate::ToPool;
use crate::check::check64;
use crate::format::PAGE_BYTES;
use crate::format::anchor::{
    ANCHOR_BYTES, ANCHOR_COPIES, ANCHOR_SLOTS, Anchor, Chunk, Era, Start, anchor_offset,
};
use crate::format::body::{Body, LineRow, PointRow, SegmentRow, put_object};
use crate::format::page::PageName;
use crate::format::segment::Stream;
use crate::location::Slot;
use crate::map::{Line, Point};
use dolmen_io::Op;
use dolmen_io::exec::Handle;
use dolmen_types::LineId;
use std::collections::BTreeSet;

mod heirs;
mod merge;

use heirs::Heirs;
pub(super) use heirs::heirs_of;

/// What a checkpoint fixes when it begins.
struct Frozen {
    generation: u64,
    base: u64,
    chain: u64,
    starts: [Option<Start>; 3],
    /// Segments of map pages that are rewritten to be emptied.
    evacuate: BTreeSet<Slot>,
    lines: Vec<u64>,
    heirs: Heirs,
    /// What sweeps without haste may look at, in all lines together.
    unhurried_leaves: usize,
}

/// One whole checkpoint. An error is the reason to stop the shard.
pub(crate) async fn run(shard: &Shared, exec: &Handle) -> Result<(), String> {
    let frozen = freeze(shard)?;
    let mut writer = MetaWriter::new(shard.clone(), exec.clone());
    let name = |line| PageName { pool: shard.borrow().id.pool, line, generation: frozen.generation };
    let mut unhurried = frozen.unhurried_leaves;
    for &line in &frozen.lines {
        let heirs = frozen.heirs.of(line);
        merge::line(shard, exec, &mut writer, &name(line), &frozen.evacuate, &heirs, &mut unhurried).await?;
        exec.yield_now().await;
    }
    let (bytes, empty) = build_body(shard, &frozen);
    let body = writer.body(&bytes).await?;
    drop(bytes);
    flush_drives(shard, exec).await?;
    let anchor = {
        let s = shard.borrow();
        let open =
            Era { incarnation: s.id.incarnation, salt: s.id.salt, end: u64::MAX, starts: frozen.starts };
        let (chunks, listed) = body.named();
        Anchor {
            generation: frozen.generation,
            pool: s.id.pool,
            shard: s.id.shard,
            base: frozen.base,
            chain: frozen.chain,
            eras: vec![open],
            chunks,
            listed,
        }
    };
    write_anchor(shard, exec, &anchor).await?;
    finish(shard, &anchor, body.chunks, &empty);
    exec.yield_now().await;
    Ok(())
}

/// Everything applied so far becomes the checkpoint's; what comes later gathers in a new live delta.
fn freeze(shard: &Shared) -> Result<Frozen, String> {
    let mut s = shard.borrow_mut();
    let s = &mut *s;
    let starts = s.log.starts().ok_or("a stream has nowhere to go on")?;
    // One that comes for them has time.
    let may_sweep = s.may_sweep();
    let swept_for = if may_sweep { s.tuning.delta_entries } else { s.map.live.len() };
    s.map.frozen = Some(std::mem::take(&mut s.map.live));
    s.segments.freeze();
    let frozen = s.map.frozen.as_ref();
    s.map.lines.iter_mut().for_each(|(&number, line)| line.freeze(frozen.and_then(|f| f.line(number))));
    let heirs = Heirs::find(&mut s.map);
    s.cleaned = 0;
    s.checkpoint.next_starts = starts.iter().flatten().map(|start| start.columns).collect();
    s.checkpoint.running = true;
    s.checkpoint.requested = false;
    s.checkpoint.begun += 1;
    // One that did not come for them leaves them to one that does.
    if may_sweep {
        s.checkpoint.heirs_written = None;
    }
    s.checkpoint.log_bytes = 0;
    s.checkpoint.unmapped_blocks = 0;
    s.checkpoint.written_before = s.counters.map_written;
    s.checkpoint.frozen = s.now;
    s.checkpoint.lost_leaves = 0;
    let evacuate = pages_to_move(s);
    Ok(Frozen {
        generation: s.checkpoint.generation + 1,
        base: s.log.applied,
        chain: s.log.applied_chain,
        starts,
        evacuate,
        lines: s.map.lines.keys().copied().collect(),
        heirs,
        unhurried_leaves: merge::swept_leaves(swept_for),
    })
}

/// Segments of map pages that hold more dead than live bytes, when those segments take clearly more than their pages need; and
/// those that lack a column.
fn pages_to_move(s: &super::Shard) -> BTreeSet<Slot> {
    let unit = u64::from(s.drives.unit_bytes);
    let mut meta: Vec<(u32, Slot)> = s
        .segments
        .iter()
        .filter(|(_, seg)| seg.stream == Stream::Meta && seg.closed && seg.base > 0)
        .map(|(slot, seg)| (seg.base, slot))
        .collect();
    meta.sort_unstable();
    let live: u64 = meta.iter().map(|m| u64::from(m.0)).sum();
    let mut held = meta.len() as u64 * unit;
    let mut chosen = BTreeSet::new();
    for (bytes, slot) in meta {
        if held <= live * 3 / 2 + unit || u64::from(bytes) * 4 > unit * 3 {
            break;
        }
        held -= unit;
        chosen.insert(slot);
    }
    let lacking = s.segments.iter().filter(|(_, seg)| seg.stream == Stream::Meta && s.is_at_risk(seg));
    chosen.extend(lacking.map(|(slot, _)| slot));
    chosen
}

/// The body's bytes, and the segments that it leaves out because nothing needs them any more.
fn build_body(shard: &Shared, frozen: &Frozen) -> (Vec<u8>, Vec<Slot>) {
    let mut s = shard.borrow_mut();
    let s = &mut *s;
    s.map.frozen = None;
    let (formed, gone) = (s.log.next_number - 1, &mut s.checkpoint.gone);
    s.map.lines.retain(|&number, line| {
        let ends = line.base.as_ref().is_some_and(|b| b.is_doomed()) && line.nodes.is_empty();
        // A key that a plain line was given all the same goes with it.
        if ends && (line.attributes.encrypt || s.forms.has_key(number)) {
            gone.push((number, formed));
        }
        !ends
    });
    s.checkpoint.dropping = s.map.lines.values().any(Line::wants_checkpoint);
    s.checkpoint.heirs = heirs_of(&s.map);
    s.checkpoint.sweeping = s.map.lines.values().any(|l| l.sweep.is_some());
    let stale: Vec<(Slot, u32)> = s.segments.retired().collect();
    let needed = |columns| frozen.starts.iter().flatten().any(|start| start.columns == columns);
    let mut empty: Vec<Slot> = s
        .segments
        .iter()
        .filter(|(_, seg)| seg.closed && seg.base + seg.delta == 0 && seg.last_commit <= frozen.base)
        .filter(|(_, seg)| !needed(seg.columns))
        .map(|(slot, _)| slot)
        .collect();
    let row = |(slot, seg): (Slot, &crate::segments::Segment)| SegmentRow {
        slot,
        columns: seg.columns,
        stream: seg.stream,
        stream_seq: seg.stream_seq,
        live: seg.base,
        last_commit: seg.last_commit,
        suspect: seg.suspect,
    };
    let body = Body {
        next_seq: std::array::from_fn(|i| s.log.streams[i].next_seq),
        scrub: s.scrub.mark,
        segments: s.segments.iter().filter(|(slot, _)| empty.binary_search(slot).is_err()).map(row).collect(),
        lost: s.lost.rows(),
        retired: stale.iter().filter(|(_, bytes)| *bytes > 0).copied().collect(),
        lines: s.map.lines.iter_mut().filter_map(line_row).collect(),
        marks: s.marks.iter().map(|(pg, marks)| (*pg, *marks)).collect(),
        objects: Vec::new(),
    };
    empty.extend(stale.iter().filter(|(_, bytes)| *bytes == 0).map(|(slot, _)| *slot));
    let mut w = body.encode_head(s.objects.len());
    for ((pg, key), value) in &s.objects {
        put_object(&mut w, *pg, *key, value);
    }
    (w.finish(), empty)
}

/// A line as the checkpoint found it when it began; `None` for a younger one.
fn line_row((&line, tree): (&u64, &mut Line)) -> Option<LineRow> {
    let base = tree.base.take()?;
    let newest = |point| tree.counts.newest.get(&point).copied().unwrap_or(0);
    let point = |p: &Point| PointRow {
        seq: p.seq,
        mapped: p.mapped,
        snapshot: p.snapshot,
        newest: newest(Some(p.seq)),
    };
    Some(LineRow {
        line,
        attributes: tree.attributes,
        head: base.head,
        parent: base.parent,
        sweep: tree.sweep,
        merged_to: tree.merged_to.1,
        mapped: tree.counts.mapped,
        stored: tree.counts.stored,
        newest: newest(None),
        points: base.points().iter().map(point).collect(),
        nodes: tree.nodes.iter().map(|n| n.page).collect(),
    })
}

/// Makes everything written so far durable on every drive. A failure is final.
pub(super) async fn flush_drives(shard: &Shared, exec: &Handle) -> Result<(), String> {
    let drives = shard.borrow().drives.clone();
    let op = |drive: u16| drives.file(drive).map(|file| (drive, Op::Flush { file }));
    on_all(shard, exec, drives.in_service().into_iter().filter_map(op).collect()).await
}

/// Writes an anchor into its slot on every drive, first one copy, then the other, so that a crash tears one at most.
pub(super) async fn write_anchor(shard: &Shared, exec: &Handle, anchor: &Anchor) -> Result<(), String> {
    write_copies(shard, exec, anchor, |_, _| true).await
}

/// Writes those copies of an anchor that drives `lack`, in the same order.
pub(super) async fn write_copies(
    shard: &Shared,
    exec: &Handle,
    anchor: &Anchor,
    lack: impl Fn(u16, u64) -> bool,
) -> Result<(), String> {
    let drives = shard.borrow().drives.clone();
    let mut pages = Vec::new();
    for part in anchor.encode().chunks_exact(PAGE_BYTES as usize) {
        let mut buf = page_buffer(shard, exec).await;
        buf.copy_from_slice(part);
        pages.push(buf.freeze());
    }
    for copy in 0..ANCHOR_COPIES {
        let offset = anchor_offset(anchor.shard, anchor.generation % ANCHOR_SLOTS, copy);
        let op = |drive: u16| {
            let file = drives.file(drive)?;
            Some((drive, Op::Write { file, offset, data: pages.clone(), durable: true }))
        };
        let lacking = drives.in_service().into_iter().filter(|&drive| lack(drive, copy));
        on_all(shard, exec, lacking.filter_map(op).collect()).await?;
    }
    pages.into_iter().filter_map(|p| p.try_into_buf().ok()).for_each(|buf| keep_page(shard, buf));
    let written = ANCHOR_COPIES * ANCHOR_BYTES as u64;
    let mut s = shard.borrow_mut();
    s.counters.drive_written += written;
    s.counters.map_written += written;
    Ok(())
}

/// The anchor is durable: what the checkpoint freed goes back to the pool.
fn finish(shard: &Shared, anchor: &Anchor, chunks: Vec<(Slot, Chunk)>, empty: &[Slot]) {
    let mut s = shard.borrow_mut();
    let s = &mut *s;
    s.segments.set_body(chunks.iter().map(|(slot, c)| (*slot, c.len.next_multiple_of(4096))));
    let gone: Vec<_> = empty.iter().filter_map(|&slot| s.segments.remove(slot)).collect();
    s.named(anchor);
    s.checkpoint.generation = anchor.generation;
    s.checkpoint.base = anchor.base;
    s.checkpoint.chunks = chunks.into_iter().map(|(_, chunk)| chunk).collect();
    s.checkpoint.running = false;
    s.checkpoint.took_bytes = s.counters.map_written - s.checkpoint.written_before;
    s.checkpoint.finished += 1;
    s.checkpoint.inherited.clear();
    s.checkpoint.gave_up = false;
    s.end_gone();
    s.retire_cleaned();
    if !gone.is_empty() {
        s.to_pool.push(ToPool::Release { shard: s.id.shard, segments: gone });
    }
    s.weigh_risk();
    s.report_live();
    s.clean_bell.notify();
}

/// The task: a checkpoint whenever one is due, and a last one when the shard is closing.
pub(super) async fn serve(shard: Shared, exec: Handle) {
    let bell = shard.borrow().checkpoint_bell.clone();
    loop {
        let (due, closing) = {
            let s = shard.borrow();
            if !matches!(s.phase, Phase::Serving) {
                break;
            }
            let drained = s.queue.is_empty() && s.log.flights.is_empty() && s.move_jobs.is_empty();
            (s.checkpoint.requested, s.closing && drained)
        };
        if closing && !shard.borrow().needs_checkpoint() {
            break;
        }
        if due || closing {
            if let Err(reason) = run(&shard, &exec).await {
                shard.borrow_mut().stop(format!("a checkpoint could not be written: {reason}"));
            }
        } else {
            bell.notified().await;
        }
    }
    let mut s = shard.borrow_mut();
    s.down = s.closing;
    s.checkpoint.running = false;
    s.clean_bell.notify();
}

impl super::Shard {
    /// Ends the lines that no commit names which a recovery from the newest checkpoint would look at.
    pub(super) fn end_gone(&mut self) {
        let base = self.checkpoint.base;
        let ended = self.checkpoint.gone.extract_if(.., |(_, last)| *last <= base);
        self.checkpoint.ended.extend(ended.map(|(line, _)| LineId(line)));
    }

    /// A line whose key is here: if nothing is left of it, or it never came to be, it ends as one that is gone.
    pub(crate) fn sweep_key(&mut self, line: u64) {
        let knows = self.attributes(line).is_some() || self.checkpoint.gone.iter().any(|g| g.0 == line);
        if !knows && matches!(self.phase, Phase::Serving) {
            self.checkpoint.gone.push((line, self.log.next_number - 1));
            self.end_gone();
        }
    }

    /// True when a checkpoint would end lines that are gone.
    pub(super) fn has_gone(&self) -> bool {
        self.checkpoint.gone.iter().any(|(_, last)| *last <= self.log.applied)
    }

    /// True when a restart now would have something to replay, or know less of what is lost.
    pub(super) fn needs_checkpoint(&self) -> bool {
        self.log.applied != self.checkpoint.base || self.map.live.len() > 0 || self.lost.unsaved
    }
}

/// The check of a chunk of a body.
pub(super) fn chunk_holds(chunk: &Chunk, bytes: &[u8]) -> bool {
    check64(0, bytes) == chunk.check
}
