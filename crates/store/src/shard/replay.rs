//! Replaying the log since the checkpoint: both streams merged by commit number, each commit chained to its predecessor.
//!
//! Commits may have been under way together when the power went, so the log may end in a hole with a valid commit behind
//! it: those were never acknowledged and are void. But every commit says up to which number all were durable when it was
//! formed. If one beyond the hole says that the hole was durable, the hole is damage, and the shard is not opened.

use super::{SegmentScan, Shared};
use crate::StoreError;
use crate::format::PAGE_BYTES;
use crate::format::anchor::{Era, Start};
use crate::format::body::SegmentRow;
use crate::format::commit::{CommitHeader, LogIdentity, payload_holds};
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, Stream};
use dolmen_io::exec::Handle;
use std::collections::VecDeque;

/// How far behind the end of the log is looked for proof that it is not the end: no more can have been under way.
const LOOK_BEHIND_BYTES: u32 = 4 << 20;

/// A commit that was found, and its header's bytes.
type Found = (CommitHeader, Vec<u8>);

/// Where one stream's replay is.
struct Cursor {
    stream: Stream,
    /// The segment that is being read: its scan, header, and the offset of the next commit.
    at: Option<(SegmentScan, SegmentHeader, u32)>,
    start: Start,
    peeked: Option<Found>,
}

/// Replays one era onto the shard. Its last commit's number is in the shard's log afterwards.
pub(super) async fn era(shard: &Shared, exec: &Handle, era: &Era) -> Result<(), StoreError> {
    let id = {
        let s = shard.borrow();
        LogIdentity { incarnation: era.incarnation, salt: era.salt, ..s.id }
    };
    let mut cursors = [
        Cursor { stream: Stream::Hot, at: None, start: era.starts[0], peeked: None },
        Cursor { stream: Stream::Cold, at: None, start: era.starts[1], peeked: None },
    ];
    let (mut number, mut chain) = {
        let s = shard.borrow();
        (s.log.applied, s.log.applied_chain)
    };
    let mut durable = if era.end == u64::MAX { number } else { era.end };
    let mut waiting: VecDeque<(usize, Found, dolmen_types::ShardId)> = VecDeque::new();
    while number < era.end {
        let Some((index, found)) = next(shard, exec, &id, &mut cursors, number + 1, chain).await? else {
            break;
        };
        (number, chain) = (found.0.place.number, found.0.check);
        durable = durable.max(found.0.place.durable_through);
        waiting.push_back((index, found, id.shard));
        while waiting.front().is_some_and(|w| w.1.0.place.number <= durable) {
            apply(shard, waiting.pop_front());
        }
    }
    if era.end != u64::MAX {
        if number != era.end {
            return Err(corrupt(
                &id,
                &format!("commit {} is missing, the log went on to {}", number + 1, era.end),
            ));
        }
        return Ok(());
    }
    no_proof_of_more(shard, exec, &id, &mut cursors, number + 1).await?;
    // What may have been under way is believed only when its payload is there too.
    while let Some((index, found, _)) = waiting.pop_front() {
        let unit_scan = payload_scan(shard, exec, &found.0);
        let payload = match unit_scan {
            Some(mut scan) => scan.payload(&found.0).await.map_err(|e| StoreError::Medium { reason: e })?,
            None => break,
        };
        let mut s = shard.borrow_mut();
        // Without a key that a commit's blocks need there is no telling whether it is whole: then nothing is decided.
        let holds = payload_holds(&found.1, &found.0, &payload, |version, block, bytes| {
            s.forms.holds(block.form, version, bytes, block.check)
        })?;
        drop(s);
        if !holds {
            break;
        }
        apply(shard, Some((index, found, id.shard)));
    }
    Ok(())
}

fn payload_scan(shard: &Shared, exec: &Handle, header: &CommitHeader) -> Option<SegmentScan> {
    let s = shard.borrow();
    let unit = s.segments.at(header.place.slot)?.unit;
    Some(SegmentScan::new(exec.clone(), s.geometry.clone(), unit))
}

fn apply(shard: &Shared, found: Option<(usize, Found, dolmen_types::ShardId)>) {
    let Some((_, (header, bytes), _)) = found else { return };
    let mut s = shard.borrow_mut();
    s.apply(&bytes, &header);
    s.checkpoint.log_bytes += u64::from(header.header_len) + u64::from(header.payload_len);
    if let Some(segment) = s.segments.at_mut(header.place.slot) {
        segment.last_commit = segment.last_commit.max(header.place.number);
    }
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
    cursors: &mut [Cursor; 2],
    number: u64,
    chain: u64,
) -> Result<Option<(usize, Found)>, StoreError> {
    for (index, cursor) in cursors.iter_mut().enumerate() {
        if cursor.peeked.is_none() {
            cursor.peek(shard, exec, id).await?;
        }
        let fits = |f: &mut Found| f.0.place.number == number && f.0.place.previous == chain;
        if let Some(found) = cursor.peeked.take_if(fits) {
            if let Some((_, _, offset)) = cursor.at.as_mut() {
                *offset = u32::try_from(found.0.end()).expect("a commit ends within its unit");
            }
            return Ok(Some((index, found)));
        }
    }
    Ok(None)
}

impl Cursor {
    /// Looks at the next commit of the stream, in this segment or in its successor.
    async fn peek(&mut self, shard: &Shared, exec: &Handle, id: &LogIdentity) -> Result<(), StoreError> {
        let medium = |reason| StoreError::Medium { reason };
        if self.at.is_none() {
            let start = self.start;
            let Some((scan, header)) =
                open(shard, exec, id, self.stream, start.unit, start.stream_seq).await?
            else {
                if start.offset == 0 {
                    return Ok(());
                }
                return Err(corrupt(
                    id,
                    &format!("unit {} of drive {} has lost its header", start.unit.unit, start.unit.drive),
                ));
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
    unit: crate::UnitId,
    stream_seq: u64,
) -> Result<Option<(SegmentScan, SegmentHeader)>, StoreError> {
    let geometry = shard.borrow().geometry.clone();
    if !geometry.holds(unit) {
        return Err(corrupt(
            id,
            &format!("the log goes on in unit {} of drive {}, which is nowhere", unit.unit, unit.drive),
        ));
    }
    let mut scan = SegmentScan::new(exec.clone(), geometry.clone(), unit);
    let header = scan.header().await.map_err(|reason| StoreError::Medium { reason })?;
    let expected = |h: &SegmentHeader| {
        h.pool == id.pool
            && h.shard == id.shard
            && h.stream == stream
            && h.stream_seq == stream_seq
            && h.incarnation == id.incarnation
            && h.salt == id.salt
    };
    let Some(header) = header.filter(expected) else { return Ok(None) };
    let mut s = shard.borrow_mut();
    let known = s.segments.at(header.slot).map(|seg| seg.unit);
    if known.is_some_and(|u| u != unit) {
        return Err(corrupt(id, &format!("two segments claim slot {}", header.slot.0)));
    }
    if known.is_none() {
        let row = SegmentRow { slot: header.slot, unit, stream, stream_seq, live: 0, last_commit: 0 };
        if !s.segments.restore(&row, geometry.total_units()) {
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
    cursors: &mut [Cursor; 2],
    missing: u64,
) -> Result<(), StoreError> {
    let geometry = shard.borrow().geometry.clone();
    for cursor in cursors {
        let mut proven = cursor.peeked.as_ref().is_some_and(|f| f.0.place.durable_through >= missing);
        let mut onward = Some(cursor.start.unit);
        if let Some((scan, header, offset)) = cursor.at.as_mut() {
            proven = proven || (cursor.peeked.is_none() && proof(scan, id, *offset, missing).await?);
            onward = header.successor;
        }
        if let Some(unit) = onward.filter(|u| !proven && geometry.holds(*u)) {
            let mut scan = SegmentScan::new(exec.clone(), geometry.clone(), unit);
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
