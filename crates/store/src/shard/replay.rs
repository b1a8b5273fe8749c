//! Replaying the log since the checkpoint: both streams merged by commit number, each commit chained to its predecessor.
//!
//! Commits may have been under way together when the power went, so the log may end in a hole with a valid commit behind
//! it: those were never acknowledged and are void. But every commit says up to which number all were durable when it was
//! formed. If one beyond the hole says that the hole was durable, the hole is damage, and the shard is not opened.
//!
//! What is believed at the end, without such a proof, may lack columns. It is made whole before anything else ([`make_whole`]), so
//! that no later recovery, with other drives there, can decide otherwise.

use super::members::on_all;
use super::meta::STAGE_BYTES;
use super::scan::Found;
use super::{SegmentScan, Shared};
use crate::StoreError;
use crate::columns::Columns;
use crate::format::PAGE_BYTES;
use crate::format::anchor::{Era, Start};
use crate::format::body::SegmentRow;
use crate::format::commit::{CommitHeader, LogIdentity};
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, Stream};
use crate::parity;
use dolmen_io::exec::Handle;
use dolmen_io::{Buf, Op};
use std::collections::VecDeque;

/// How far behind the end of the log is looked for proof that it is not the end: no more can have been under way.
const LOOK_BEHIND_BYTES: u32 = 4 << 20;

/// Where one stream's replay is.
struct Cursor {
    stream: Stream,
    /// The segment that is being read: its scan, header, and the offset of the next commit.
    at: Option<(SegmentScan, SegmentHeader, u32)>,
    start: Option<Start>,
    peeked: Option<Found>,
}

/// Replays one era onto the shard. Its last commit's number is in the shard's log afterwards. The commits that were believed
/// without proof that every drive has them; they are to be made whole.
pub(super) async fn era(shard: &Shared, exec: &Handle, era: &Era) -> Result<Vec<Found>, StoreError> {
    let id = {
        let s = shard.borrow();
        LogIdentity { incarnation: era.incarnation, salt: era.salt, ..s.id }
    };
    let cursor = |(stream, start)| Cursor { stream, at: None, start, peeked: None };
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
    no_proof_of_more(shard, exec, &id, &mut cursors, number + 1).await?;
    // What may have been under way is believed only when its payload is there too.
    let mut tail = Vec::new();
    for found in waiting {
        let Some(scan) = scan_of(shard, exec, &found.0) else { break };
        if scan.whole(shard, &found).await?.is_none() {
            break;
        }
        apply(shard, Some(&found));
        tail.push(found);
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
pub(super) async fn make_whole(shard: &Shared, exec: &Handle, found: &Found) -> Result<(), StoreError> {
    let header = &found.0;
    let (Some(columns), Some(mut scan)) = (columns_of(shard, header), scan_of(shard, exec, header)) else {
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
    let mut image = scan.whole(shard, found).await?.ok_or_else(gone)?;
    let depth = header.depth as usize;
    let mut extra = vec![vec![0; depth]; columns.parity()];
    let data: Vec<&[u8]> = image.iter().map(Vec::as_slice).collect();
    let mut sums: Vec<&mut [u8]> = extra.iter_mut().map(Vec::as_mut_slice).collect();
    parity::encode(&data, &mut sums);
    image.append(&mut extra);
    rewrite(shard, exec, &scan, &columns, header.place.offset, &image).await
}

/// Writes those columns that do not hold their bytes at `offset`.
async fn rewrite(
    shard: &Shared,
    exec: &Handle,
    scan: &SegmentScan,
    columns: &Columns,
    offset: u32,
    image: &[Vec<u8>],
) -> Result<(), StoreError> {
    let mut ops = Vec::new();
    for (column, (bytes, &unit)) in image.iter().zip(columns.units()).enumerate() {
        let place = shard.borrow().drives.place(unit, offset);
        let Some((file, at)) = place else { continue };
        if scan.column(column, &[column], offset, bytes.len()).await.is_ok_and(|is| is == *bytes) {
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
    for cursor in cursors {
        if cursor.peeked.is_none() {
            cursor.peek(shard, exec, id).await?;
        }
        let fits = |f: &mut Found| f.0.place.number == number && f.0.place.previous == chain;
        if let Some(found) = cursor.peeked.take_if(fits) {
            if let Some((_, _, offset)) = cursor.at.as_mut() {
                *offset = u32::try_from(found.0.end()).expect("a commit ends within its unit");
            }
            return Ok(Some(found));
        }
    }
    Ok(None)
}

impl Cursor {
    /// Looks at the next commit of the stream, in this segment or in its successor.
    async fn peek(&mut self, shard: &Shared, exec: &Handle, id: &LogIdentity) -> Result<(), StoreError> {
        let medium = |reason| StoreError::Medium { reason };
        if self.at.is_none() {
            let Some(start) = self.start else { return Ok(()) };
            let Some((scan, header)) =
                open(shard, exec, id, self.stream, start.columns, start.stream_seq).await?
            else {
                if start.offset == 0 {
                    return Ok(());
                }
                return Err(corrupt(id, &format!("the segment {:?} has lost its header", start.columns)));
            };
            self.at = Some((scan, header, start.offset.max(SEGMENT_HEADER_BYTES)));
        }
        let Some((scan, header, offset)) = self.at.as_mut() else { return Ok(()) };
        let here = scan.commit(id, Some(header.slot), *offset).await.map_err(medium)?;
        if let Some(found) = here.filter(|f| f.0.place.stream_seq == header.stream_seq) {
            self.peeked = Some(found);
            return Ok(());
        }
        let Some(successor) = header.successor else { return Ok(()) };
        let stream_seq = header.stream_seq + 1;
        if let Some((mut scan, header)) = open(shard, exec, id, self.stream, successor, stream_seq).await? {
            let first = scan.commit(id, Some(header.slot), SEGMENT_HEADER_BYTES).await.map_err(medium)?;
            if let Some(found) = first.filter(|f| f.0.place.stream_seq == stream_seq) {
                self.peeked = Some(found);
                self.at = Some((scan, header, SEGMENT_HEADER_BYTES));
            }
        }
        Ok(())
    }
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
    let mut scan = SegmentScan::new(exec.clone(), drives.clone(), columns);
    let expected = |h: &SegmentHeader| {
        h.pool == id.pool
            && h.shard == id.shard
            && h.stream == stream
            && h.stream_seq == stream_seq
            && h.incarnation == id.incarnation
            && h.salt == id.salt
    };
    let header = scan.header(expected).await.map_err(|reason| StoreError::Medium { reason })?;
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

/// Fails when a valid commit behind the end of the log says that commit `missing` was durable. Looked for where the streams
/// end and where they would go on, whether or not the segment there still has its header.
async fn no_proof_of_more(
    shard: &Shared,
    exec: &Handle,
    id: &LogIdentity,
    cursors: &mut [Cursor; 3],
    missing: u64,
) -> Result<(), StoreError> {
    let drives = shard.borrow().drives.clone();
    for cursor in cursors {
        let (mut proven, mut onward) = (false, cursor.start.map(|s| s.columns));
        // A commit that was looked at, and does not fit, lies there: those behind it may know more than it does.
        if let Some((scan, header, offset)) = cursor.at.as_mut() {
            proven = proof(scan, id, *offset, missing).await?;
            onward = header.successor;
        }
        if let Some(columns) = onward.filter(|c| !proven && drives.hold(c)) {
            let mut scan = SegmentScan::new(exec.clone(), drives.clone(), columns);
            proven = proof(&mut scan, id, SEGMENT_HEADER_BYTES, missing).await?;
        }
        if proven {
            return Err(corrupt(
                id,
                &format!("commit {missing} was acknowledged and does not hold any more"),
            ));
        }
    }
    Ok(())
}

/// True when a commit at or behind `offset` says that `missing` was durable.
async fn proof(
    scan: &mut SegmentScan,
    id: &LogIdentity,
    offset: u32,
    missing: u64,
) -> Result<bool, StoreError> {
    let end = offset.saturating_add(LOOK_BEHIND_BYTES);
    let mut at = offset;
    while at < end {
        let found = scan.commit(id, None, at).await.map_err(|reason| StoreError::Medium { reason })?;
        if found.is_some_and(|f| f.0.place.durable_through >= missing) {
            return Ok(true);
        }
        at += PAGE_BYTES;
    }
    Ok(false)
}
