//! Recovery of one shard: newest anchor, its checkpoint, the log since; then the seal that makes a discarded tail void
//! for good, and service.

use super::anchors::Newest;
use super::checkpoint::{chunk_holds, flush_drives, heirs_of, write_anchor, write_copies};
use super::fetch::{FetchError, Place, begin, end};
use super::meta::keep_buffers;
use super::replay::Believed;
use super::{Phase, SegmentScan, Shard, Shared, anchors, checkpoint, clean, lost, mend, replay, scrub};
use crate::format::PAGE_BYTES;
use crate::format::anchor::{Anchor, Chunk, Era, MAX_ERAS, decode_list};
use crate::format::body::{Body, LineRow, SegmentRow};
use crate::format::page::{Level, PageRef, node_refs, verify};
use crate::format::segment::{SegmentHeader, Stream};
use crate::location::Slot;
use crate::map::{Counts, Entry, LeafRef, Line, Lineage, Node, Point};
use crate::segments::Segment;
use crate::{Purpose, StoreError, ToPool, UnitId};
use dolmen_io::exec::Handle;
use dolmen_types::{LineId, ShardId};
use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

/// Node pages that are read at a time.
const READ_AHEAD: usize = 32;

/// How long a start waits for units, and what it says when none came. Milliseconds.
pub(super) const FIRST_LEASES_MS: u64 = 30_000;
pub(super) const NO_UNIT: &str = "the pool is so full that no unit is free for its log to go on in: start it with one more drive, a \
                                  blank one, or with a drive that it lacks";

/// The life of a shard as a task: recovery, then checkpoints until it ends. Cleaning gets a task of its own.
pub(crate) async fn run(shard: Shared, exec: Handle) {
    if let Err(error) = recover(&shard, &exec).await {
        shard.borrow_mut().phase = Phase::Failed(error);
        return exec.yield_now().await;
    }
    {
        let mut s = shard.borrow_mut();
        s.phase = Phase::Serving;
        // What lacks a drive since before, or since this opening, is moved at once, and told.
        s.weigh_risk();
        // Drives may have failed on other cores meanwhile.
        if let Some(reason) = s.halted.clone() {
            s.stop(reason);
        }
    }
    let mut spawned = exec.spawn(clean::serve(shard.clone(), exec.clone()));
    spawned = spawned.and_then(|()| exec.spawn(scrub::serve(shard.clone(), exec.clone())));
    spawned = spawned.and_then(|()| exec.spawn(lost::serve(shard.clone(), exec.clone())));
    for _ in 0..mend::TASKS {
        spawned = spawned.and_then(|()| exec.spawn(mend::serve(shard.clone(), exec.clone())));
    }
    if spawned.is_err() {
        shard.borrow_mut().stop("the core has too many tasks".into());
    }
    exec.yield_now().await;
    checkpoint::serve(shard, exec).await;
}

/// What the drives hold of a shard.
#[derive(Default)]
pub(crate) struct Loaded {
    newest: Option<Newest>,
    /// The anchor's eras as they ended.
    eras: Vec<Era>,
    /// The commits at the end that were believed without proof that every drive has them.
    tail: Vec<Believed>,
}

/// Brings the shard's state into memory, and changes nothing on the drives.
pub(crate) async fn load(shard: &Shared, exec: &Handle) -> Result<Loaded, StoreError> {
    let mut loaded = Loaded { newest: anchors::newest(shard, exec).await?, ..Loaded::default() };
    if let Some(Newest { anchor, .. }) = &loaded.newest {
        restore(shard, exec, anchor).await?;
        (loaded.eras, loaded.tail) = replay_all(shard, exec, anchor).await?;
    }
    Ok(loaded)
}

async fn recover(shard: &Shared, exec: &Handle) -> Result<(), StoreError> {
    let Loaded { newest, mut eras, tail } = load(shard, exec).await?;
    // What was read may still sit in a volatile cache; from here on it counts.
    let drive = |text| StoreError::Drive(text);
    flush_drives(shard, exec).await.map_err(drive)?;
    if let Some(Newest { anchor, lacking }) = newest.as_ref().filter(|n| !n.lacking.is_empty()) {
        // A crash cut it short, and it could be lost with a drive. What the one before needs is not given up until then.
        let lacks = |drive, copy| lacking.contains(&(drive, copy));
        write_copies(shard, exec, anchor, lacks).await.map_err(drive)?;
    }
    let old = newest.map(|n| n.anchor);
    for believed in &tail {
        replay::make_whole(shard, exec, believed).await?;
    }
    keep_buffers(shard, exec).await;
    report(shard);
    first_leases(shard, exec).await.map_err(drive)?;
    let sealed = {
        let mut s = shard.borrow_mut();
        s.log.next_number = s.log.applied + 1;
        s.log.chain = s.log.applied_chain;
        let starts = s.log.starts();
        let starts = starts.ok_or_else(|| StoreError::Drive("the pool has no unit to go on in".into()))?;
        eras.push(Era { incarnation: s.id.incarnation, salt: s.id.salt, end: u64::MAX, starts });
        let (base, chain, chunks, listed) =
            old.map_or((0, 0, Vec::new(), false), |a| (a.base, a.chain, a.chunks, a.listed));
        let generation = s.checkpoint.generation + 1;
        Anchor { generation, pool: s.id.pool, shard: s.id.shard, base, chain, eras, chunks, listed }
    };
    if sealed.eras.len() > MAX_ERAS {
        // No room for one more era: a checkpoint begins a new list, and seals too.
        return checkpoint::run(shard, exec).await.map_err(drive);
    }
    write_anchor(shard, exec, &sealed).await.map_err(drive)?;
    let mut s = shard.borrow_mut();
    s.named(&sealed);
    s.checkpoint.generation = sealed.generation;
    s.checkpoint.base = sealed.base;
    Ok(())
}

/// Puts the checkpoint's contents into the shard.
async fn restore(shard: &Shared, exec: &Handle, anchor: &Anchor) -> Result<(), StoreError> {
    {
        let mut s = shard.borrow_mut();
        (s.log.applied, s.log.applied_chain) = (anchor.base, anchor.chain);
        (s.checkpoint.generation, s.checkpoint.base) = (anchor.generation, anchor.base);
    }
    if anchor.chunks.is_empty() {
        return Ok(());
    }
    let damaged = |what: &str| {
        StoreError::Corrupt(format!("the checkpoint of shard {} is damaged: {what}", anchor.shard))
    };
    let mut bytes = read_chunks(shard, exec, anchor.shard, &anchor.chunks).await?;
    let mut chunks = anchor.chunks.clone();
    if anchor.listed {
        let mut named = decode_list(&bytes).ok_or_else(|| damaged("its list of chunks is malformed"))?;
        bytes = read_chunks(shard, exec, anchor.shard, &named).await?;
        named.append(&mut chunks);
        chunks = named;
    }
    let body = Body::decode(&bytes).ok_or_else(|| damaged("malformed"))?;
    let mut by_unit = BTreeMap::new();
    {
        let mut s = shard.borrow_mut();
        let s = &mut *s;
        for row in &body.segments {
            let most = u64::from(s.drives.unit_bytes) * row.columns.data() as u64;
            let sound = s.drives.hold(&row.columns)
                && u64::from(row.live) <= most
                && row.columns.units().iter().all(|&unit| by_unit.insert(unit, row.slot).is_none())
                && s.segments.restore(row, s.drives.max_slots());
            if !sound {
                return Err(damaged("a segment is held twice or is nowhere"));
            }
        }
        let max_slots = s.drives.max_slots();
        if !body.retired.iter().all(|&(slot, stale)| s.segments.restore_retired(slot, stale, max_slots)) {
            return Err(damaged("a slot is taken twice"));
        }
        for (stream, seq) in s.log.streams.iter_mut().zip(body.next_seq) {
            stream.next_seq = seq;
        }
        s.scrub.mark = body.scrub;
        s.lost.restore(&body.lost);
        s.marks = body.marks.iter().copied().collect();
        s.objects_bytes = body.objects.iter().map(|o| o.2.len()).sum();
        s.objects = body.objects.into_iter().map(|(pg, key, value)| ((pg, key), value)).collect();
    }
    drop(bytes);
    place_body(shard, exec, anchor, chunks, &mut by_unit).await?;
    restore_lines(shard, exec, body.lines).await?;
    recount_pages(&mut shard.borrow_mut());
    Ok(())
}

/// Counts the live pages of the map by what names them: what lies under a node that can't be had would count for ever, and keep its
/// segments, since nobody knows any more which pages those are. Leaves where no pages are any more, since the node above was given up
/// before and can be had now, are lost with it.
fn recount_pages(s: &mut Shard) {
    let (mut live, mut lost) = (vec![0; s.segments.slots()], false);
    for node in s.map.lines.values_mut().flat_map(|line| &mut line.nodes) {
        for leaf in &mut node.leaves {
            let page = leaf.page();
            if s.segments.at(page.location.slot()).is_none_or(|s| s.stream != Stream::Meta) {
                (*leaf, lost) = (LeafRef::new(lost_leaf(&page)), true);
            }
        }
        let leaves = node.leaves.iter().map(|leaf| leaf.page().location);
        for page in leaves.chain([node.page.location]) {
            if let Some(live) = live.get_mut(page.slot().0 as usize) {
                *live += PAGE_BYTES;
            }
        }
    }
    let as_said = s.segments.recount_pages(&live);
    debug_assert!(as_said || lost, "a map without damage has the pages that its checkpoint counts");
    // What was under them is others' once a checkpoint has given its segments back: the same one says that it is lost.
    s.checkpoint.requested |= lost;
}

/// Puts the lines of a checkpoint into the map.
async fn restore_lines(shard: &Shared, exec: &Handle, rows: Vec<LineRow>) -> Result<(), StoreError> {
    let damaged = |line: u64, what: &str| StoreError::Map {
        line: LineId(line),
        reason: format!("the checkpoint says {what}"),
    };
    let mut clones = Vec::new();
    for row in rows {
        let nodes = load_nodes(shard, exec, row.line, &row.nodes).await?;
        let points = row
            .points
            .iter()
            .map(|p| Point { seq: p.seq, mapped: p.mapped, snapshot: p.snapshot, clones: 0 })
            .collect();
        let now = Lineage::restored(row.head, row.parent, points)
            .ok_or_else(|| damaged(row.line, "that its snapshots are out of order"))?;
        let newest = row.points.iter().map(|p| (Some(p.seq), p.newest)).chain([(None, row.newest)]);
        let counts = Counts {
            mapped: row.mapped,
            stored: row.stored,
            newest: newest.filter(|(_, bytes)| *bytes > 0).collect(),
        };
        let mut s = shard.borrow_mut();
        s.map.points += row.points.len();
        if !now.is_doomed() {
            clones.extend(row.parent.map(|(parent, at)| (row.line, parent, at)));
        }
        let attributes = row.attributes;
        let merged_to = (row.merged_to, row.merged_to);
        let (now, sweep) = (Rc::new(now), row.sweep);
        let mut line = Line { attributes, nodes, now, counts, sweep, merged_to, ..Line::default() };
        line.weigh();
        s.map.lines.insert(row.line, line);
    }
    let mut s = shard.borrow_mut();
    for (line, parent, at) in clones {
        if !s.map.lines.get_mut(&parent).is_some_and(|p| Rc::make_mut(&mut p.now).pin(at)) {
            return Err(damaged(
                line,
                &format!("that it is a clone of {at} of line {parent}, which is not there"),
            ));
        }
    }
    for tree in s.map.lines.values_mut() {
        tree.urgent_rounds = u8::from(tree.sweep.is_some() && tree.now.inherited().is_none());
    }
    s.checkpoint.dropping = s.map.lines.values().any(Line::wants_checkpoint);
    s.checkpoint.sweeping = s.map.lines.values().any(|l| l.sweep.is_some());
    s.checkpoint.heirs = heirs_of(&s.map);
    Ok(())
}

/// Reads and verifies chunks of a checkpoint. They lie apart, so that they are no more than drives hold, whatever a list says.
async fn read_chunks(
    shard: &Shared,
    exec: &Handle,
    id: ShardId,
    chunks: &[Chunk],
) -> Result<Vec<u8>, StoreError> {
    let drives = shard.borrow().drives.clone();
    let nowhere =
        || StoreError::Corrupt(format!("the checkpoint of shard {id} names a place that is nowhere"));
    let (mut bytes, mut places) = (Vec::new(), BTreeSet::new());
    for chunk in chunks {
        let padded = (chunk.len as usize).next_multiple_of(PAGE_BYTES as usize);
        let end = u64::from(chunk.offset) + padded as u64;
        let sound = drives.hold(&chunk.columns)
            && chunk.offset.is_multiple_of(PAGE_BYTES)
            && end <= u64::from(drives.unit_bytes)
            && padded <= super::meta::STAGE_BYTES;
        let mut pages = (chunk.offset..).step_by(PAGE_BYTES as usize).take(padded / PAGE_BYTES as usize);
        let mut lies_apart = || pages.all(|at| places.insert((chunk.columns.units()[0], at)));
        if !sound || chunk.len == 0 || !lies_apart() {
            return Err(nowhere());
        }
        let mut buf = exec.alloc(padded).await;
        buf.set_len(padded);
        let place = Place { columns: chunk.columns, column: 0, offset: chunk.offset };
        let read = drives.fetch(exec, place, buf, |b| chunk_holds(chunk, &b[..chunk.len as usize])).await;
        let (buf, _) = read.map_err(|error| match error {
            FetchError::Medium(reason) => StoreError::Medium { reason },
            _ => StoreError::Corrupt(format!(
                "the checkpoint of shard {id} does not check ({:?}); nothing was changed",
                chunk.columns
            )),
        })?;
        bytes.extend_from_slice(&buf[..chunk.len as usize]);
    }
    Ok(bytes)
}

/// Enters the segments that hold the body itself: begun after the table was written, some of them are not in it. Their units may
/// be those of a segment that is, if cleaning emptied that one meanwhile: the log behind the checkpoint gives it back.
async fn place_body(
    shard: &Shared,
    exec: &Handle,
    anchor: &Anchor,
    chunks: Vec<Chunk>,
    by_unit: &mut BTreeMap<UnitId, Slot>,
) -> Result<(), StoreError> {
    let mut placed = Vec::new();
    for chunk in &chunks {
        let first = chunk.columns.units()[0];
        let known = by_unit.get(&first).copied().filter(|&slot| {
            let is_it = |seg: &Segment| seg.stream == Stream::Meta && seg.columns == chunk.columns;
            shard.borrow().segments.at(slot).is_some_and(is_it)
        });
        let slot = match known {
            Some(slot) => slot,
            None => {
                let drives = shard.borrow().drives.clone();
                let scan = SegmentScan::new(exec.clone(), drives.clone(), chunk.columns);
                let ours = |h: &SegmentHeader| {
                    h.shard == anchor.shard && h.pool == anchor.pool && h.stream == Stream::Meta
                };
                let header = scan.header(ours).await.map_err(|reason| StoreError::Medium { reason })?;
                let (slot, stream_seq) = header.map_or((Slot(u32::MAX), 0), |h| (h.slot, h.stream_seq));
                let row = SegmentRow {
                    slot,
                    columns: chunk.columns,
                    stream: Stream::Meta,
                    stream_seq,
                    live: 0,
                    last_commit: 0,
                    suspect: 0,
                };
                let mut s = shard.borrow_mut();
                if !s.segments.restore(&row, drives.max_slots()) {
                    return Err(StoreError::Corrupt(format!(
                        "the segment with the checkpoint of shard {} has lost its header",
                        anchor.shard
                    )));
                }
                let meta = &mut s.log.streams[Stream::Meta as usize];
                meta.next_seq = meta.next_seq.max(stream_seq + 1);
                by_unit.insert(first, slot);
                slot
            }
        };
        placed.push((slot, chunk.len.next_multiple_of(PAGE_BYTES)));
    }
    let mut s = shard.borrow_mut();
    s.segments.set_body(placed.into_iter());
    s.checkpoint.chunks = chunks;
    Ok(())
}

/// Reads the nodes of a line.
async fn load_nodes(
    shard: &Shared,
    exec: &Handle,
    line: u64,
    pages: &[PageRef],
) -> Result<Vec<Node>, StoreError> {
    let mut nodes = Vec::with_capacity(pages.len());
    for part in pages.chunks(READ_AHEAD) {
        let mut waiting = Vec::new();
        for page in part {
            let mut buf = exec.alloc(PAGE_BYTES as usize).await;
            buf.set_len(PAGE_BYTES as usize);
            waiting.push(begin(shard, exec, page.location, buf));
        }
        for (page, started) in part.iter().zip(waiting) {
            let first = |bytes: &[u8]| node_refs(bytes).first().map(|r| (r.first, r.seq));
            let holds = |bytes: &[u8]| {
                verify(bytes, Level::Node, line, page) && first(bytes) == Some((page.first, page.seq))
            };
            let refs = match end(shard, exec, started, holds).await {
                Ok(buf) => node_refs(&buf),
                Err(FetchError::Medium(reason)) => return Err(StoreError::Medium { reason }),
                Err(error) => {
                    let given_up = shard.borrow_mut().give_up_page(line, page, &error);
                    given_up.map_err(|reason| StoreError::Map { line: LineId(line), reason })?;
                    vec![lost_leaf(page)]
                }
            };
            nodes.push(Node { page: *page, leaves: refs.into_iter().map(LeafRef::new).collect() });
        }
    }
    Ok(nodes)
}

/// What stands for the leaves of a node that can't be had: one that can't either. The first checkpoint settles that.
fn lost_leaf(node: &PageRef) -> PageRef {
    let flags = PageRef::HISTORY | PageRef::HOLES;
    PageRef { location: Entry::lost(0).location, check: 0, count: 0, flags, ..*node }
}

/// Replays every era; the list to seal with: each closed at its end, without those that hold nothing; and the end of the log.
async fn replay_all(
    shard: &Shared,
    exec: &Handle,
    anchor: &Anchor,
) -> Result<(Vec<Era>, Vec<Believed>), StoreError> {
    let (mut eras, mut tail) = (Vec::new(), Vec::new());
    for era in &anchor.eras {
        let before = shard.borrow().log.applied;
        tail.extend(replay::era(shard, exec, era).await?);
        let mut s = shard.borrow_mut();
        for (stream, start) in Stream::LOGS.into_iter().zip(era.starts) {
            // A segment whose header was under way may carry this number.
            let state = &mut s.log.streams[stream as usize];
            state.next_seq = state.next_seq.max(start.map_or(0, |start| start.stream_seq + 1));
        }
        let end = s.log.applied;
        if end > before {
            eras.push(Era { end, ..era.clone() });
        }
    }
    Ok((eras, tail))
}

/// Tells the pool's owner which units are held, and asks for the first ones to go on in.
fn report(shard: &Shared) {
    let mut s = shard.borrow_mut();
    let s = &mut *s;
    let segments = s.segments.iter().map(|(_, seg)| seg.columns).collect();
    let footprint_bytes = s.footprint();
    s.space.reported = footprint_bytes;
    s.weigh_risk();
    s.to_pool.push(ToPool::Recovered { shard: s.id.shard, segments, footprint_bytes });
    // The first units of the hot stream are for whatever comes; later ones tell hosts from control records.
    s.want(Purpose::Control);
    s.want(Purpose::Clean);
    if s.drives.members().shape.data > 1 {
        s.want(Purpose::Bulk);
    }
}

/// Waits for them; other shards may serve already, and free some.
async fn first_leases(shard: &Shared, exec: &Handle) -> Result<(), String> {
    let bell = shard.borrow().lease_bell.clone();
    let mut late = pin!(exec.sleep_until(exec.now().plus_ms(FIRST_LEASES_MS)));
    let mut is_late = false;
    loop {
        {
            let s = shard.borrow();
            let there = |&st: &Stream| !s.log.streams[st as usize].leases.is_empty();
            if [Stream::Hot, Stream::Cold].iter().all(there) {
                return Ok(());
            }
            if let Some(why) = &s.halted {
                return Err(why.clone());
            }
        }
        if is_late {
            return Err(NO_UNIT.into());
        }
        let mut rung = pin!(bell.notified());
        poll_fn(|cx| {
            is_late = late.as_mut().poll(cx).is_ready();
            if is_late || rung.as_mut().poll(cx).is_ready() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}
