//! Replaying the log since the checkpoint: both streams merged by commit number, each commit chained to its predecessor.
//!
//! Commits may have been under way together when the power went, so the log may end in a hole with a valid commit behind
//! it: those were never acknowledged and are void. But every commit says up to which number all were durable when it was
//! formed. If one beyond the hole says that the hole was durable, the hole is damage, and the shard is not opened.
//!
//! What is believed at the end, without such a proof, may lack columns. It is made whole before anything else ([`make_whole`]), so
//! that no later recovery, with other drives there, can decide otherwise.
//!
//! What can't be read is not what was torn. A payload that drives fail to read speaks against nothing: its commit is believed, and its
//! blocks are lost. Where a header can't be read nobody knows whether the log goes on, and the shard is not opened.

use super::clean::items_of;
use super::form::most_depth;
use super::members::on_all;
use super::meta::STAGE_BYTES;
use super::scan::Found;
use super::{SegmentScan, Shared};
use crate::columns::Columns;
use crate::format::PAGE_BYTES;
use crate::format::anchor::{Era, Start};
use crate::format::body::SegmentRow;
use crate::format::commit::{CommitHeader, LogIdentity, OfSegment};
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, Stream};
use crate::map::Held;
use crate::parity;
use crate::{LostCause, ShardTuning, StoreError};
use dolmen_io::exec::Handle;
use dolmen_io::{Buf, Op};
use dolmen_types::LineId;
use std::collections::VecDeque;

/// Where one stream's replay is.
struct Cursor {
    stream: Stream,
    /// The segment that is being read: its scan, header, and the offset of the next commit.
    at: Option<(SegmentScan, SegmentHeader, u32)>,
    start: Option<Start>,
    peeked: Option<Found>,
    /// What the drive said when the place behind the last commit could not be read. Where the stream goes on elsewhere, with the commit
    /// that is due, there was nothing.
    unread: Option<String>,
}

/// A commit that was believed without proof that every drive has it.
pub(super) struct Believed {
    found: Found,
    /// Blocks of it that no drive could read, by their places in the order of its records.
    unread: Vec<usize>,
}

/// Replays one era onto the shard. Its last commit's number is in the shard's log afterwards. The commits that were believed
/// without proof that every drive has them; they are to be made whole.
pub(super) async fn era(shard: &Shared, exec: &Handle, era: &Era) -> Result<Vec<Believed>, StoreError> {
    let id = {
        let s = shard.borrow();
        LogIdentity { incarnation: era.incarnation, salt: era.salt, ..s.id }
    };
    let cursor = |(stream, start)| Cursor { stream, at: None, start, peeked: None, unread: None };
    let mut cursors: [Cursor; 3] = std::array::from_fn(|i| cursor((Stream::LOGS[i], era.starts[i])));
    let (mut number, mut chain) = {
        let s = shard.borrow();
        (s.log.applied, s.log.applied_chain)
    };
    let mut durable = if era.end == u64::MAX { number } else { era.end };
    let mut waiting: VecDeque<Found> = VecDeque::new();
    while number < era.end {
        let Some(found) = next(shard, exec, &id, &mut cursors, number + 1, chain).await? else { break };
        (number, chain) = (found.0.place.number, found.0.check);
        durable = durable.max(found.0.place.durable_through);
        waiting.push_back(found);
        while waiting.front().is_some_and(|w| w.0.place.number <= durable) {
            apply(shard, waiting.pop_front().as_ref());
        }
    }
    if era.end != u64::MAX {
        if number != era.end {
            return Err(corrupt(
                &id,
                &format!("commit {} is missing, the log went on to {}", number + 1, era.end),
            ));
        }
        return Ok(Vec::new());
    }
    let known = known_behind(shard, exec, &id, &mut cursors).await;
    if known > number {
        let what = format!("commit {} was acknowledged and does not hold any more", number + 1);
        return Err(corrupt(&id, &what));
    }
    // Those behind a hole know of those before it.
    while waiting.front().is_some_and(|w| w.0.place.number <= known) {
        apply(shard, waiting.pop_front().as_ref());
    }
    // What may have been under way is believed only when its payload is there too.
    let mut tail = Vec::new();
    for found in waiting {
        let Some(scan) = scan_of(shard, exec, &found.0) else { break };
        let Some(payload) = scan.payload(shard, &found).await? else { break };
        apply(shard, Some(&found));
        tail.push(Believed { found, unread: payload.unread });
    }
    Ok(tail)
}

fn columns_of(shard: &Shared, header: &CommitHeader) -> Option<Columns> {
    shard.borrow().segments.at(header.place.slot).map(|s| s.columns)
}

fn scan_of(shard: &Shared, exec: &Handle, header: &CommitHeader) -> Option<SegmentScan> {
    let columns = columns_of(shard, header)?;
    let drives = shard.borrow().drives.clone();
    Some(SegmentScan::new(exec.clone(), drives, columns))
}

fn apply(shard: &Shared, found: Option<&Found>) {
    let Some((header, bytes)) = found else { return };
    let mut s = shard.borrow_mut();
    s.apply(bytes, header);
    s.checkpoint.log_bytes += u64::from(header.depth) * u64::from(header.place.data);
    if let Some(segment) = s.segments.at_mut(header.place.slot) {
        segment.last_commit = segment.last_commit.max(header.place.number);
    }
}

/// Rewrites whatever columns of a believed commit differ from what they should be, and those of the header of a segment that
/// begins with it.
pub(super) async fn make_whole(shard: &Shared, exec: &Handle, believed: &Believed) -> Result<(), StoreError> {
    let found = &believed.found;
    tell_unread(shard, believed);
    let header = &found.0;
    let (Some(columns), Some(scan)) = (columns_of(shard, header), scan_of(shard, exec, header)) else {
        return Ok(());
    };
    if columns.parity() == 0 {
        return Ok(());
    }
    let medium = |reason| StoreError::Medium { reason };
    if header.place.offset == SEGMENT_HEADER_BYTES {
        let expected =
            |h: &SegmentHeader| h.slot == header.place.slot && h.stream_seq == header.place.stream_seq;
        if let Some(segment) = scan.header(expected).await.map_err(medium)? {
            let pages = (0..columns.len()).map(|c| segment.for_column(c).encode()).collect::<Vec<_>>();
            rewrite(shard, exec, &scan, &columns, 0, &pages).await?;
        }
    }
    let gone =
        || StoreError::Medium { reason: "a commit at the end of the log can't be read any more".into() };
    let payload = scan.payload(shard, found).await?.ok_or_else(gone)?;
    let known = payload.known();
    let mut image = payload.columns;
    let depth = header.depth as usize;
    let mut extra = vec![vec![0; depth]; columns.parity()];
    let data: Vec<&[u8]> = image.iter().map(Vec::as_slice).collect();
    let mut sums: Vec<&mut [u8]> = extra.iter_mut().map(Vec::as_mut_slice).collect();
    parity::encode(&data, &mut sums);
    image.append(&mut extra);
    for (from, to) in known {
        let part: Vec<&[u8]> = image.iter().map(|column| &column[from..to]).collect();
        let at = header.place.offset + u32::try_from(from).expect("within a unit");
        rewrite(shard, exec, &scan, &columns, at, &part).await?;
    }
    Ok(())
}

/// Blocks of a believed commit that nobody could read, and that were not overwritten since, are told as lost.
fn tell_unread(shard: &Shared, believed: &Believed) {
    let items = items_of(&believed.found);
    let mut s = shard.borrow_mut();
    for item in believed.unread.iter().filter_map(|&i| items.get(i)) {
        if s.map.holds(LineId(item.line), item.lba, &item.entry) == Held::Yes {
            s.lost_block(item, LostCause::Unreadable);
        }
    }
}

/// Writes those columns that do not hold their bytes at `offset`.
async fn rewrite(
    shard: &Shared,
    exec: &Handle,
    scan: &SegmentScan,
    columns: &Columns,
    offset: u32,
    image: &[impl AsRef<[u8]>],
) -> Result<(), StoreError> {
    let mut ops = Vec::new();
    for (column, (bytes, &unit)) in image.iter().map(AsRef::as_ref).zip(columns.units()).enumerate() {
        let place = shard.borrow().drives.place(unit, offset);
        let Some((file, at)) = place else { continue };
        if scan.own_column(column, offset, bytes.len()).await.is_ok_and(|is| is == bytes) {
            continue;
        }
        let mut data = Vec::new();
        for part in bytes.chunks(STAGE_BYTES) {
            let mut buf = exec.alloc(part.len()).await;
            buf.set_len(part.len());
            buf.copy_from_slice(part);
            data.push(Buf::freeze(buf));
        }
        ops.push((unit.drive, Op::Write { file, offset: at, data, durable: true }));
    }
    on_all(shard, exec, ops).await.map_err(StoreError::Drive)
}

fn corrupt(id: &LogIdentity, what: &str) -> StoreError {
    StoreError::Corrupt(format!(
        "the log of shard {} is damaged: {what}; nothing was changed, run `dolmen pool check`",
        id.shard
    ))
}

/// The commit with the given number and predecessor, from whichever stream holds it.
async fn next(
    shard: &Shared,
    exec: &Handle,
    id: &LogIdentity,
    cursors: &mut [Cursor; 3],
    number: u64,
    chain: u64,
) -> Result<Option<Found>, StoreError> {
    for cursor in cursors.iter_mut() {
        if cursor.peeked.is_none() {
            cursor.peek(shard, exec, id, number).await?;
        }
        let fits = |f: &mut Found| f.0.place.number == number && f.0.place.previous == chain;
        if let Some(found) = cursor.peeked.take_if(fits) {
            if let Some((_, _, offset)) = cursor.at.as_mut() {
                *offset = u32::try_from(found.0.end()).expect("a commit ends within its unit");
            }
            cursor.unread = None;
            return Ok(Some(found));
        }
    }
    match cursors.iter_mut().find_map(|c| c.unread.take()) {
        Some(reason) => Err(StoreError::Medium { reason }),
        None => Ok(None),
    }
}

impl Cursor {
    /// Looks at the next commit of the stream, in this segment or in its successor. Commits before `number` are applied: what has such a
    /// number is none.
    async fn peek(
        &mut self,
        shard: &Shared,
        exec: &Handle,
        id: &LogIdentity,
        number: u64,
    ) -> Result<(), StoreError> {
        self.unread = None;
        if self.at.is_none() {
            let Some(start) = self.start else { return Ok(()) };
            let opened = open(shard, exec, id, self.stream, start.columns, start.stream_seq).await;
            let Some((scan, header)) = self.unless_unread(opened)? else {
                if start.offset == 0 || self.unread.is_some() {
                    return Ok(());
                }
                return Err(corrupt(id, &format!("the segment {:?} has lost its header", start.columns)));
            };
            self.at = Some((scan, header, start.offset.max(SEGMENT_HEADER_BYTES)));
        }
        let Some((scan, header, offset)) = self.at.as_mut() else { return Ok(()) };
        let due = |f: &Found| f.0.place.number >= number;
        match scan.commit(id, (self.stream, header.stream_seq), *offset).await {
            Ok(found) => self.peeked = found.filter(due),
            Err(reason) => self.unread = Some(reason),
        }
        if self.peeked.is_some() {
            return Ok(());
        }
        let Some(successor) = header.successor else { return Ok(()) };
        let stream_seq = header.stream_seq + 1;
        let opened = open(shard, exec, id, self.stream, successor, stream_seq).await;
        if let Some((scan, header)) = self.unless_unread(opened)? {
            let first = scan.commit(id, (self.stream, stream_seq), SEGMENT_HEADER_BYTES).await;
            let first = self.unless_unread(first.map_err(|reason| StoreError::Medium { reason }))?;
            if let Some(found) = first.filter(due) {
                self.peeked = Some(found);
                self.at = Some((scan, header, SEGMENT_HEADER_BYTES));
            }
        }
        Ok(())
    }

    /// Nothing where something could not be read, which is remembered.
    fn unless_unread<T>(&mut self, read: Result<Option<T>, StoreError>) -> Result<Option<T>, StoreError> {
        match read {
            Err(StoreError::Medium { reason }) => {
                self.unread = Some(reason);
                Ok(None)
            }
            other => other,
        }
    }
}

/// True for the header of this segment of this log.
fn is_of(h: &SegmentHeader, id: &LogIdentity, of: OfSegment) -> bool {
    let log = LogIdentity { pool: h.pool, shard: h.shard, incarnation: h.incarnation, salt: h.salt };
    log == *id && (h.stream, h.stream_seq) == of
}

/// Opens a segment of this era, if the unit holds the expected one, and enters it into the table.
async fn open(
    shard: &Shared,
    exec: &Handle,
    id: &LogIdentity,
    stream: Stream,
    columns: Columns,
    stream_seq: u64,
) -> Result<Option<(SegmentScan, SegmentHeader)>, StoreError> {
    let drives = shard.borrow().drives.clone();
    if !drives.hold(&columns) {
        return Err(corrupt(id, &format!("the log goes on in {columns:?}, which is nowhere")));
    }
    let scan = SegmentScan::new(exec.clone(), drives.clone(), columns);
    let header = match scan.header(|h| is_of(h, id, (stream, stream_seq))).await {
        Ok(header) => header,
        // It is written together with its first commit: where there is none it was not begun, or nothing of that was acknowledged.
        Err(reason) => match scan.commit(id, (stream, stream_seq), SEGMENT_HEADER_BYTES).await {
            Ok(None) => None,
            _ => return Err(StoreError::Medium { reason }),
        },
    };
    let Some(header) = header else { return Ok(None) };
    let mut s = shard.borrow_mut();
    let known = s.segments.at(header.slot).map(|seg| seg.columns);
    if known.is_some_and(|c| c != columns) {
        return Err(corrupt(id, &format!("two segments claim slot {}", header.slot.0)));
    }
    if known.is_none() {
        let row = SegmentRow {
            slot: header.slot,
            columns,
            stream,
            stream_seq,
            live: 0,
            last_commit: 0,
            suspect: 0,
        };
        if !s.segments.restore(&row, drives.max_slots()) {
            return Err(corrupt(id, &format!("a segment claims slot {}", header.slot.0)));
        }
    }
    let state = &mut s.log.streams[stream as usize];
    state.next_seq = state.next_seq.max(stream_seq + 1);
    drop(s);
    Ok(Some((scan, header)))
}

/// How far behind the end of the log is looked for proof that it is not the end.
struct Behind {
    /// As many commits as can be under way together, and one more, which knows of the first of them. In a stream there may be a step out
    /// of a segment that lacks a column besides; a step is small.
    commits: usize,
    /// What they take at most in a segment. Bytes.
    bytes: u32,
}

impl Behind {
    fn of(tuning: &ShardTuning) -> Behind {
        let commits = tuning.commits_in_flight + 1;
        let bytes = commits.saturating_mul(most_depth(tuning));
        Behind { commits, bytes: u32::try_from(bytes).unwrap_or(u32::MAX) }
    }
}

/// Up to which number valid commits behind the end of the log say that all was durable. Looked for where the streams end and where
/// they would go on, whether or not the segment there still has its header.
async fn known_behind(shard: &Shared, exec: &Handle, id: &LogIdentity, cursors: &mut [Cursor; 3]) -> u64 {
    let (drives, behind) = {
        let s = shard.borrow();
        (s.drives.clone(), Behind::of(&s.tuning))
    };
    let mut highest = 0;
    for cursor in cursors {
        let mut onward = cursor.start.map(|s| (s.columns, s.stream_seq));
        // A commit that was looked at, and does not fit, lies there: those behind it may know more than it does.
        if let Some((scan, header, offset)) = cursor.at.as_mut() {
            let of = (cursor.stream, header.stream_seq);
            highest = highest.max(known_from(scan, id, of, *offset, behind.bytes).await);
            onward = header.successor.map(|columns| (columns, header.stream_seq + 1));
        }
        // Every one of them may be alone in its segment.
        for _ in 0..behind.commits {
            let Some((columns, stream_seq)) = onward.take().filter(|(c, _)| drives.hold(c)) else { break };
            let scan = SegmentScan::new(exec.clone(), drives.clone(), columns);
            let of = (cursor.stream, stream_seq);
            highest = highest.max(known_from(&scan, id, of, SEGMENT_HEADER_BYTES, behind.bytes).await);
            let header = scan.header(|h| is_of(h, id, of)).await.ok().flatten();
            onward = header.and_then(|h| h.successor).map(|columns| (columns, stream_seq + 1));
        }
    }
    highest
}

/// Up to which number commits of a segment in so many bytes from `offset` on say that all was durable. What can't be read says nothing: mostly
/// nothing was ever written there.
async fn known_from(scan: &SegmentScan, id: &LogIdentity, of: OfSegment, offset: u32, bytes: u32) -> u64 {
    let end = offset.saturating_add(bytes);
    let (mut at, mut highest) = (offset, 0);
    while at < end {
        if let Ok(Some(found)) = scan.commit(id, of, at).await {
            highest = highest.max(found.0.place.durable_through);
        }
        at += PAGE_BYTES;
    }
    highest
}
