//! A commit: header that names every record, and the payload behind it (`docs/format/commit.md`). Journal and data at
//! once; valid whole or not at all.
//!
//! ```text
//!   | header: fixed 96 bytes, records, zeros to a multiple of 4 KiB | payload: stored blocks, whole pages |
//! ```
//! A record names its payload by its distance from the payload's start, so a header is complete wherever it lands.

use crate::bytes::{Reader, Writer};
use crate::check::{block_check, seal, unseal};
use crate::format::segment::Stream;
use crate::location::{BLOCK_GRANULES, GRANULE_BYTES, Location, Slot};
use crate::{Key, MAX_OBJECT_BYTES};
use dolmen_types::limits::BLOCK_BYTES;
use dolmen_types::{Epoch, PgId, Seq, ShardId, Uuid};

/// Bytes of a commit header at most.
pub(crate) const MAX_HEADER_BYTES: usize = 64 * 1024;
/// Bytes of the fixed part.
pub(crate) const FIXED_BYTES: usize = 96;
/// Bytes of a commit's payload at most.
pub(crate) const MAX_PAYLOAD_BYTES: u32 = 16 << 20;

const MAGIC: &[u8; 8] = b"dolmCOMT";
const ALIGN: usize = 4096;

mod kind {
    pub(super) const BATCH: u8 = 1;
    pub(super) const WRITE: u8 = 2;
    pub(super) const UNMAP: u8 = 3;
    pub(super) const PUT: u8 = 4;
    pub(super) const DELETE: u8 = 5;
    pub(super) const CREATE_LINE: u8 = 6;
    pub(super) const DROP_LINE: u8 = 7;
    pub(super) const MOVE: u8 = 8;
    pub(super) const SNAPSHOT: u8 = 9;
    pub(super) const DROP_SNAPSHOT: u8 = 10;
    pub(super) const CLONE_LINE: u8 = 11;
}

/// The group of batches that no one's host sent: moves made by cleaning.
pub(crate) const NO_PG: PgId = PgId(u32::MAX);

/// Who writes the log: what does not change between commits of an era.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogIdentity {
    /// The pool.
    pub(crate) pool: Uuid,
    /// The shard.
    pub(crate) shard: ShardId,
    /// The pool's incarnation.
    pub(crate) incarnation: u64,
    /// Seed of header checks in this incarnation.
    pub(crate) salt: u64,
}

/// Where a commit is and what it follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommitPlace {
    /// The stream it is in.
    pub(crate) stream: Stream,
    /// Number of its segment in the stream.
    pub(crate) stream_seq: u64,
    /// Its segment's slot.
    pub(crate) slot: Slot,
    /// Its offset in the segment. Bytes.
    pub(crate) offset: u32,
    /// Its number: one more than its predecessor's, across streams.
    pub(crate) number: u64,
    /// The check of its predecessor's header.
    pub(crate) previous: u64,
    /// Every commit up to this number was durable when this one was formed.
    pub(crate) durable_through: u64,
}

/// The fixed part of a header that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommitHeader {
    /// Where it is and what it follows.
    pub(crate) place: CommitPlace,
    /// Bytes of the header.
    pub(crate) header_len: u32,
    /// Bytes of the payload.
    pub(crate) payload_len: u32,
    /// The header's check, which the successor names.
    pub(crate) check: u64,
}

impl CommitHeader {
    /// Offset behind the commit. Bytes.
    pub(crate) fn end(&self) -> u64 {
        u64::from(self.place.offset) + u64::from(self.header_len) + u64::from(self.payload_len)
    }

    /// Location of the payload bytes that lie `granules` behind the payload's start.
    pub(crate) fn location(&self, granules: u32) -> Location {
        Location::new(self.place.slot, self.place.offset + self.header_len).plus(granules)
    }
}

/// One record of a commit, borrowed from its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogRecord<'a> {
    /// What follows, up to the next batch, belongs to this group and number.
    Batch { pg: PgId, epoch: Epoch, seq: Seq },
    /// Consecutive blocks stored one behind the other, each `granules` long, from `at` granules on in the payload.
    Write { line: u64, lba: u64, granules: u16, at: u32, checks: Checks<'a> },
    /// Blocks without contents.
    Unmap { line: u64, lba: u64, blocks: u64 },
    /// New value of a keyed object.
    Put { key: Key, value: &'a [u8] },
    /// End of a keyed object.
    Delete { key: Key },
    /// New line.
    CreateLine { line: u64 },
    /// End of a line.
    DropLine { line: u64 },
    /// The line is kept as it is after this batch, under the batch's number.
    Snapshot { line: u64 },
    /// End of a snapshot.
    DropSnapshot { line: u64, at: u64 },
    /// New line over a snapshot of another.
    CloneLine { line: u64, parent: u64, at: u64 },
    /// The version `seq` of a block is now in the payload, no longer at `from`.
    Move { line: u64, lba: u64, seq: u64, from: Location, granules: u16, at: u32, check: u64 },
}

impl LogRecord<'_> {
    /// True when it makes, ends or keeps a line or a state of one.
    pub(crate) fn changes_lines(&self) -> bool {
        match self {
            LogRecord::CreateLine { .. }
            | LogRecord::DropLine { .. }
            | LogRecord::Snapshot { .. }
            | LogRecord::DropSnapshot { .. }
            | LogRecord::CloneLine { .. } => true,
            LogRecord::Batch { .. }
            | LogRecord::Write { .. }
            | LogRecord::Unmap { .. }
            | LogRecord::Put { .. }
            | LogRecord::Delete { .. }
            | LogRecord::Move { .. } => false,
        }
    }
}

/// The checks of a write's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checks<'a>(&'a [u8]);

impl<'a> Checks<'a> {
    /// Blocks.
    pub(crate) fn len(self) -> usize {
        self.0.len() / 8
    }

    /// The checks in order.
    pub(crate) fn iter(self) -> impl Iterator<Item = u64> + 'a {
        self.0.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().expect("chunks of 8 bytes")))
    }
}

/// Builds a header record by record; reused from commit to commit.
#[derive(Default)]
pub(crate) struct HeaderWriter {
    w: Writer,
    batches: u32,
}

impl HeaderWriter {
    /// Starts an empty header in the given memory.
    pub(crate) fn start(memory: Vec<u8>) -> HeaderWriter {
        let mut w = Writer::over(memory);
        w.pad_to(FIXED_BYTES);
        HeaderWriter { w, batches: 0 }
    }

    pub(crate) fn batch(&mut self, pg: PgId, epoch: Epoch, seq: Seq) {
        self.batches += 1;
        self.w.u8(kind::BATCH).u8(0).u16(0).u32(pg.0).u64(epoch.0).u64(seq.0);
    }

    /// Starts a write record; exactly `blocks` calls of [`HeaderWriter::block`] follow.
    pub(crate) fn write(&mut self, line: u64, lba: u64, blocks: u32, at: u32) {
        let granules = u16::try_from(BLOCK_GRANULES).expect("fits 16 bits");
        self.w.u8(kind::WRITE).u8(0).u16(granules).u32(blocks).u64(line).u64(lba).u32(at).u32(0);
    }

    pub(crate) fn block(&mut self, check: u64) {
        self.w.u64(check);
    }

    pub(crate) fn unmap(&mut self, line: u64, lba: u64, blocks: u64) {
        self.w.u64(u64::from(kind::UNMAP)).u64(line).u64(lba).u64(blocks);
    }

    pub(crate) fn put(&mut self, key: Key, value: &[u8]) {
        let len = u32::try_from(value.len()).expect("bounded by MAX_OBJECT_BYTES");
        self.w.u8(kind::PUT).u8(key.kind).u16(0).u32(len).u128(key.id).bytes(value).align(8);
    }

    pub(crate) fn delete(&mut self, key: Key) {
        self.w.u8(kind::DELETE).u8(key.kind).u16(0).u32(0).u128(key.id);
    }

    pub(crate) fn create_line(&mut self, line: u64) {
        self.w.u64(u64::from(kind::CREATE_LINE)).u64(line);
    }

    pub(crate) fn drop_line(&mut self, line: u64) {
        self.w.u64(u64::from(kind::DROP_LINE)).u64(line);
    }

    pub(crate) fn snapshot(&mut self, line: u64) {
        self.w.u64(u64::from(kind::SNAPSHOT)).u64(line);
    }

    pub(crate) fn drop_snapshot(&mut self, line: u64, at: u64) {
        self.w.u64(u64::from(kind::DROP_SNAPSHOT)).u64(line).u64(at);
    }

    pub(crate) fn clone_line(&mut self, line: u64, parent: u64, at: u64) {
        self.w.u64(u64::from(kind::CLONE_LINE)).u64(line).u64(parent).u64(at);
    }

    #[allow(clippy::too_many_arguments)] // The fields of one record, in their order on the drive.
    pub(crate) fn moved(
        &mut self,
        line: u64,
        lba: u64,
        seq: u64,
        from: Location,
        granules: u16,
        at: u32,
        check: u64,
    ) {
        self.w.u8(kind::MOVE).u8(0).u16(granules).u32(at).u64(line).u64(lba).u64(seq).u64(from.0).u64(check);
    }

    /// Completes the header. Its fixed part, for the successor and for locations, and its bytes.
    pub(crate) fn finish(
        mut self,
        id: &LogIdentity,
        place: CommitPlace,
        payload_len: u32,
    ) -> (CommitHeader, Vec<u8>) {
        self.w.align(ALIGN);
        let header_len = u32::try_from(self.w.len()).expect("bounded by MAX_HEADER_BYTES");
        let mut fixed = Writer::default();
        fixed.bytes(MAGIC).u64(0).u32(header_len).u32(payload_len).bytes(&id.pool.0);
        fixed
            .u16(id.shard.0)
            .u8(place.stream as u8)
            .u8(0)
            .u32(place.slot.0)
            .u32(place.offset)
            .u32(self.batches);
        fixed.u64(place.number).u64(place.previous).u64(id.incarnation).u64(place.durable_through);
        debug_assert_eq!(fixed.len() + 8, FIXED_BYTES);
        fixed.u64(place.stream_seq);
        self.w.as_mut()[..FIXED_BYTES].copy_from_slice(fixed.as_slice());
        let check = seal(id.salt, self.w.as_mut());
        (CommitHeader { place, header_len, payload_len, check }, self.w.finish())
    }
}

/// How long the header that begins with `first` (at least one page) claims to be, when it looks like a header at all.
pub(crate) fn claimed_len(first: &[u8]) -> Option<usize> {
    let mut r = Reader::new(first);
    if r.take(8)? != MAGIC {
        return None;
    }
    r.u64()?;
    let len = r.u32()? as usize;
    (len >= ALIGN && len.is_multiple_of(ALIGN) && len <= MAX_HEADER_BYTES).then_some(len)
}

/// Decodes a whole header of this log that claims to be at `slot` (any, when its segment has lost its header) and
/// `offset` of a unit of `unit_bytes`.
pub(crate) fn decode(
    bytes: &[u8],
    id: &LogIdentity,
    slot: Option<Slot>,
    offset: u32,
    unit_bytes: u32,
) -> Option<CommitHeader> {
    let check = unseal(id.salt, MAGIC, bytes)?;
    let mut r = Reader::new(&bytes[16..]);
    let (header_len, payload_len) = (r.u32()?, r.u32()?);
    let (pool, shard) = (Uuid(r.array()?), ShardId(r.u16()?));
    let stream = Stream::from_number(r.u8()?)?;
    r.u8()?;
    let (own_slot, own_offset) = (Slot(r.u32()?), r.u32()?);
    r.u32()?;
    let (number, previous, incarnation, durable_through) = (r.u64()?, r.u64()?, r.u64()?, r.u64()?);
    let stream_seq = r.u64()?;
    let ours = pool == id.pool && shard == id.shard && incarnation == id.incarnation;
    let here =
        slot.is_none_or(|s| s == own_slot) && own_offset == offset && header_len as usize == bytes.len();
    let place = CommitPlace { stream, stream_seq, slot: own_slot, offset, number, previous, durable_through };
    let header = CommitHeader { place, header_len, payload_len, check };
    let fits = payload_len <= MAX_PAYLOAD_BYTES && header.end() <= u64::from(unit_bytes);
    (ours && here && fits && durable_through < number).then_some(header)
}

/// The records of a header that holds. Yields `None` once, at the end, if they are malformed (which the check makes a
/// defect of the writer, not of the drive).
pub(crate) fn records<'a>(
    bytes: &'a [u8],
    header: &CommitHeader,
) -> impl Iterator<Item = Option<LogRecord<'a>>> {
    let mut r = Reader::new(bytes.get(FIXED_BYTES..).unwrap_or_default());
    let payload_granules = header.payload_len / GRANULE_BYTES;
    let mut over = false;
    std::iter::from_fn(move || {
        if over {
            return None;
        }
        // Records are at least 16 bytes; what is shorter, or begins with zeros, is padding.
        let tag = r.u8();
        if tag.is_none() || tag == Some(0) {
            return None;
        }
        let record = decode_record(tag.unwrap_or(0), &mut r).filter(|rec| within(rec, payload_granules));
        over = record.is_none();
        Some(record)
    })
}

fn within(record: &LogRecord<'_>, payload_granules: u32) -> bool {
    let (at, granules) = match *record {
        LogRecord::Write { granules, at, checks, lba, .. } => {
            let blocks = u64::try_from(checks.len()).unwrap_or(u64::MAX);
            if lba.checked_add(blocks).is_none() || checks.len() == 0 {
                return false;
            }
            (at, u64::from(granules) * blocks)
        }
        LogRecord::Move { granules, at, .. } => (at, u64::from(granules)),
        LogRecord::Unmap { lba, blocks, .. } => return lba.checked_add(blocks).is_some(),
        _ => return true,
    };
    granules > 0 && u64::from(at) + granules <= u64::from(payload_granules)
}

fn decode_record<'a>(tag: u8, r: &mut Reader<'a>) -> Option<LogRecord<'a>> {
    let second = r.u8()?;
    let granules = r.u16()?;
    let word = r.u32()?;
    Some(match tag {
        kind::BATCH => LogRecord::Batch { pg: PgId(word), epoch: Epoch(r.u64()?), seq: Seq(r.u64()?) },
        kind::WRITE => {
            let (line, lba, at) = (r.u64()?, r.u64()?, r.u32()?);
            r.u32()?;
            let checks = Checks(r.take((word as usize).checked_mul(8)?)?);
            LogRecord::Write { line, lba, granules, at, checks }
        }
        kind::UNMAP => LogRecord::Unmap { line: r.u64()?, lba: r.u64()?, blocks: r.u64()? },
        kind::PUT => {
            let key = Key { kind: second, id: r.u128()? };
            let len = word as usize;
            let value = r.take(len)?;
            r.take(len.next_multiple_of(8) - len)?;
            (len <= MAX_OBJECT_BYTES).then_some(LogRecord::Put { key, value })?
        }
        kind::DELETE => LogRecord::Delete { key: Key { kind: second, id: r.u128()? } },
        kind::CREATE_LINE => LogRecord::CreateLine { line: r.u64()? },
        kind::DROP_LINE => LogRecord::DropLine { line: r.u64()? },
        kind::SNAPSHOT => LogRecord::Snapshot { line: r.u64()? },
        kind::DROP_SNAPSHOT => LogRecord::DropSnapshot { line: r.u64()?, at: r.u64()? },
        kind::CLONE_LINE => LogRecord::CloneLine { line: r.u64()?, parent: r.u64()?, at: r.u64()? },
        kind::MOVE => LogRecord::Move {
            line: r.u64()?,
            lba: r.u64()?,
            seq: r.u64()?,
            from: Location(r.u64()?),
            granules,
            at: word,
            check: r.u64()?,
        },
        _ => return None,
    })
}

/// True when every stored block of the payload has the check that the header names.
pub(crate) fn payload_holds(header_bytes: &[u8], header: &CommitHeader, payload: &[u8]) -> bool {
    let mut current = Seq(0);
    for record in records(header_bytes, header) {
        let stored = |at: u32, granules: u16| {
            let from = (at as usize) * GRANULE_BYTES as usize;
            payload.get(from..from + usize::from(granules) * GRANULE_BYTES as usize)
        };
        let holds = match record {
            None => false,
            Some(LogRecord::Batch { seq, .. }) => {
                current = seq;
                true
            }
            Some(LogRecord::Write { line, lba, granules, at, checks }) => {
                (lba..).zip(checks.iter()).enumerate().all(|(i, (lba, check))| {
                    let at = at + u32::from(granules) * u32::try_from(i).expect("a commit's blocks are few");
                    stored(at, granules).is_some_and(|b| block_check(line, lba, current.0, b) == check)
                })
            }
            Some(LogRecord::Move { line, lba, seq, granules, at, check, .. }) => {
                stored(at, granules).is_some_and(|b| block_check(line, lba, seq, b) == check)
            }
            Some(_) => true,
        };
        if !holds {
            return false;
        }
    }
    true
}

/// Bytes that a record for `blocks` written blocks takes in a header, in the worst case of every second one being zero.
pub(crate) const fn write_record_bytes(blocks: usize) -> usize {
    // Alternating zero and data runs: per pair one write (32 + 8) and one unmap (32).
    32 + blocks * 40
}

const _: () = assert!(
    write_record_bytes(dolmen_types::limits::MAX_COMMAND_BLOCKS) + FIXED_BYTES + 24 < MAX_HEADER_BYTES
);
const _: () = assert!(BLOCK_BYTES == (BLOCK_GRANULES * GRANULE_BYTES) as usize);
