//! A commit: header that names every record, and the payload behind it (`docs/format/commit.md`). Journal and data at
//! once; valid whole or not at all.
//!
//! ```text
//!   | header: fixed 104 bytes, records, zeros to a multiple of 4 KiB | payload: stored blocks, zeros to whole pages |
//! ```
//! Header and payload are one run of bytes that is laid over the data columns of the segment: the first `depth` bytes into
//! column 0, the next into column 1, all at the same offset of their units. Zeros fill what is left of the last ones.
//!
//! A record names its payload by its distance from the payload's start, so a header is complete wherever it lands.

use crate::bytes::{Reader, Writer};
use crate::check::{seal, unseal};
use crate::columns::MAX_DATA_COLUMNS;
use crate::format::PAGE_BYTES;
use crate::format::segment::Stream;
use crate::location::{BLOCK_GRANULES, GRANULE_BYTES, Location, Slot};
use crate::map::Entry;
use crate::stored::{BlockVersion, Form};
use crate::{Key, LineAttributes, MAX_OBJECT_BYTES};
use dolmen_types::limits::BLOCK_BYTES;
use dolmen_types::{Epoch, PgId, Seq, ShardId, Uuid};

/// Bytes of a commit header at most.
pub(crate) const MAX_HEADER_BYTES: usize = 64 * 1024;
/// Bytes of the fixed part.
pub(crate) const FIXED_BYTES: usize = 104;
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
    pub(super) const RETIRE: u8 = 12;
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
    /// Its offset in the segment's units. Bytes.
    pub(crate) offset: u32,
    /// Data columns of the segment.
    pub(crate) data: u8,
    /// Bytes of a unit.
    pub(crate) unit_bytes: u32,
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
    /// Bytes that it takes in every column.
    pub(crate) depth: u32,
    /// The header's check, which the successor names.
    pub(crate) check: u64,
}

impl CommitHeader {
    /// Offset behind the commit in the segment's units. Bytes.
    pub(crate) fn end(&self) -> u64 {
        u64::from(self.place.offset) + u64::from(self.depth)
    }

    /// Location of the payload bytes that lie `granules` behind the payload's start.
    pub(crate) fn location(&self, granules: u32) -> Location {
        let depth = u64::from(self.depth.max(1));
        let at = u64::from(self.header_len) + u64::from(granules) * u64::from(GRANULE_BYTES);
        // A division is dear, and most commits have one column.
        let (column, rest) = if at < depth { (0, at) } else { (at / depth, at % depth) };
        let offset = column * u64::from(self.place.unit_bytes) + u64::from(self.place.offset) + rest;
        Location::new(self.place.slot, u32::try_from(offset).expect("a segment's columns are below 4 GiB"))
    }

    /// The map's entry for a stored block of the payload.
    pub(crate) fn entry(&self, seq: u64, block: &StoredBlock) -> Entry {
        let StoredBlock { at, granules, form, check } = *block;
        Entry { seq, location: self.location(at), check, granules, form }
    }
}

/// Bytes that a commit takes in each of `data` columns.
pub(crate) fn depth_of(header_len: usize, payload_len: usize, data: usize) -> usize {
    (header_len + payload_len).div_ceil(data).max(header_len).next_multiple_of(ALIGN)
}

/// One record of a commit, borrowed from its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogRecord<'a> {
    /// What follows, up to the next batch, belongs to this group and number.
    Batch { pg: PgId, epoch: Epoch, seq: Seq },
    /// New versions of consecutive blocks.
    Write { line: u64, lba: u64, blocks: StoredBlocks<'a> },
    /// Blocks without contents.
    Unmap { line: u64, lba: u64, blocks: u64 },
    /// New value of a keyed object.
    Put { key: Key, value: &'a [u8] },
    /// End of a keyed object.
    Delete { key: Key },
    /// New line.
    CreateLine { line: u64, attributes: LineAttributes },
    /// End of a line.
    DropLine { line: u64 },
    /// The line is kept as it is after this batch, under the batch's number.
    Snapshot { line: u64 },
    /// End of a snapshot.
    DropSnapshot { line: u64, at: u64 },
    /// New line over a snapshot of another.
    CloneLine { line: u64, parent: u64, at: u64 },
    /// Nothing lives in a segment any more: its units are given back.
    Retire { slot: Slot, stream: Stream, stream_seq: u64 },
    /// The version `seq` of a block is now in the payload, no longer at `from`.
    Move { line: u64, lba: u64, seq: u64, from: Location, block: StoredBlock },
}

impl LogRecord<'_> {
    /// True when the blocks that were named before it have to be in the map first.
    pub(crate) fn needs_blocks(&self) -> bool {
        self.changes_lines() || matches!(self, LogRecord::Unmap { .. } | LogRecord::Retire { .. })
    }

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
            | LogRecord::Retire { .. }
            | LogRecord::Move { .. } => false,
        }
    }
}

/// One stored block of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredBlock {
    /// Granules from the payload's start.
    pub(crate) at: u32,
    /// Its length in granules.
    pub(crate) granules: u16,
    /// How it was made.
    pub(crate) form: Form,
    /// Its check.
    pub(crate) check: u64,
}

/// The blocks of a write, in order of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredBlocks<'a> {
    /// The first block, when all are of its length and form and lie one behind the other; `None` when each says for itself.
    even: Option<StoredBlock>,
    bytes: &'a [u8],
}

impl<'a> StoredBlocks<'a> {
    fn step(&self) -> usize {
        if self.even.is_some() { EVEN_BYTES } else { EACH_BYTES }
    }

    /// Blocks.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() / self.step()
    }

    /// The blocks in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = StoredBlock> + 'a {
        let even = self.even;
        self.bytes.chunks_exact(self.step()).zip(0u32..).map(move |(bytes, i)| {
            let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
            let check = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"));
            match even {
                Some(first) => {
                    let at = first.at.saturating_add(i.saturating_mul(u32::from(first.granules)));
                    StoredBlock { at, check, ..first }
                }
                None => {
                    let granules = u16::from_le_bytes([bytes[12], bytes[13]]);
                    StoredBlock { at: word(8), granules, form: Form(bytes[14]), check }
                }
            }
        })
    }
}

/// Bytes of a block in a write record whose blocks are all alike.
const EVEN_BYTES: usize = 8;
/// Bytes of a block in a write record whose blocks say for themselves where they are and how long.
const EACH_BYTES: usize = 16;
/// The flag of such a record.
const EACH: u8 = 0x80;

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

    /// Starts a write record of blocks that are as long as they were, from `at` on one behind the other; exactly `blocks`
    /// calls of [`HeaderWriter::check`] follow.
    pub(crate) fn write_even(&mut self, line: u64, lba: u64, blocks: u32, form: Form, at: u32) {
        let granules = u16::try_from(BLOCK_GRANULES).expect("fits 16 bits");
        self.w.u8(kind::WRITE).u8(form.0).u16(granules).u32(blocks).u64(line).u64(lba).u32(at).u32(0);
    }

    /// The next block of a record that [`HeaderWriter::write_even`] started.
    pub(crate) fn check(&mut self, check: u64) {
        self.w.u64(check);
    }

    /// Starts a write record; exactly `blocks` calls of [`HeaderWriter::block`] follow.
    pub(crate) fn write_each(&mut self, line: u64, lba: u64, blocks: u32) {
        self.w.u8(kind::WRITE).u8(EACH).u16(0).u32(blocks).u64(line).u64(lba).u64(0);
    }

    /// The next block of a record that [`HeaderWriter::write_each`] started.
    pub(crate) fn block(&mut self, block: StoredBlock) {
        self.w.u64(block.check).u32(block.at).u16(block.granules).u8(block.form.0).u8(0);
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

    pub(crate) fn create_line(&mut self, line: u64, attributes: LineAttributes) {
        self.w.u8(kind::CREATE_LINE).u8(attributes.bits()).u16(0).u32(0).u64(line);
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

    pub(crate) fn retire(&mut self, slot: Slot, stream: Stream, stream_seq: u64) {
        self.w.u8(kind::RETIRE).u8(stream as u8).u16(0).u32(slot.0).u64(stream_seq);
    }

    pub(crate) fn moved(&mut self, version: BlockVersion, from: Location, block: StoredBlock) {
        self.w.u8(kind::MOVE).u8(block.form.0).u16(block.granules).u32(block.at);
        self.w.u64(version.line).u64(version.lba).u64(version.seq).u64(from.0).u64(block.check);
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
        let depth = depth_of(header_len as usize, payload_len as usize, usize::from(place.data));
        let depth = u32::try_from(depth).expect("bounded by the unit");
        let mut fixed = Writer::over(Vec::with_capacity(FIXED_BYTES));
        fixed.bytes(MAGIC).u64(0).u32(header_len).u32(payload_len).bytes(&id.pool.0);
        fixed
            .u16(id.shard.0)
            .u8(place.stream as u8)
            .u8(place.data)
            .u32(place.slot.0)
            .u32(place.offset)
            .u32(depth)
            .u32(self.batches)
            .u32(0);
        fixed.u64(place.number).u64(place.previous).u64(id.incarnation).u64(place.durable_through);
        debug_assert_eq!(fixed.len() + 8, FIXED_BYTES);
        fixed.u64(place.stream_seq);
        self.w.as_mut()[..FIXED_BYTES].copy_from_slice(fixed.as_slice());
        let check = seal(id.salt, self.w.as_mut());
        (CommitHeader { place, header_len, payload_len, depth, check }, self.w.finish())
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

/// Which segment a commit must be of: its stream, and its number in that.
pub(crate) type OfSegment = (Stream, u64);

/// Decodes a whole header of this log, and of this segment, that claims to be at `offset` of a unit of `unit_bytes`. Units and slots are
/// used again within an incarnation, and what lay there before is not erased: only stream and number tell whose commit it is.
pub(crate) fn decode(
    bytes: &[u8],
    id: &LogIdentity,
    of: OfSegment,
    offset: u32,
    unit_bytes: u32,
) -> Option<CommitHeader> {
    let check = unseal(id.salt, MAGIC, bytes)?;
    let mut r = Reader::new(&bytes[16..]);
    let (header_len, payload_len) = (r.u32()?, r.u32()?);
    let (pool, shard) = (Uuid(r.array()?), ShardId(r.u16()?));
    let (stream, data) = (Stream::from_number(r.u8()?)?, r.u8()?);
    let (own_slot, own_offset, depth) = (Slot(r.u32()?), r.u32()?, r.u32()?);
    r.take(8)?;
    let (number, previous, incarnation, durable_through) = (r.u64()?, r.u64()?, r.u64()?, r.u64()?);
    let stream_seq = r.u64()?;
    let ours = pool == id.pool && shard == id.shard && incarnation == id.incarnation;
    let here = (stream, stream_seq) == of && own_offset == offset && header_len as usize == bytes.len();
    let place = CommitPlace {
        stream,
        stream_seq,
        slot: own_slot,
        offset,
        data,
        unit_bytes,
        number,
        previous,
        durable_through,
    };
    let header = CommitHeader { place, header_len, payload_len, depth, check };
    let columns = (1..=MAX_DATA_COLUMNS).contains(&usize::from(data));
    let holds = columns
        && depth.is_multiple_of(PAGE_BYTES)
        && depth >= header_len
        && u64::from(header_len) + u64::from(payload_len) <= u64::from(depth) * u64::from(data);
    let fits = holds && payload_len <= MAX_PAYLOAD_BYTES && header.end() <= u64::from(unit_bytes);
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
    let inside = |b: StoredBlock| {
        let end = u64::from(b.at) + u64::from(b.granules);
        b.granules > 0 && u32::from(b.granules) <= BLOCK_GRANULES && end <= u64::from(payload_granules)
    };
    match *record {
        LogRecord::Write { lba, blocks, .. } => {
            let count = u64::try_from(blocks.len()).unwrap_or(u64::MAX);
            count > 0 && lba.checked_add(count).is_some() && blocks.iter().all(inside)
        }
        LogRecord::Move { block, .. } => inside(block),
        LogRecord::Unmap { lba, blocks, .. } => lba.checked_add(blocks).is_some(),
        _ => true,
    }
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
            let first = StoredBlock { at, granules, form: Form(second), check: 0 };
            let (even, step) =
                if second & EACH == 0 { (Some(first), EVEN_BYTES) } else { (None, EACH_BYTES) };
            let bytes = r.take((word as usize).checked_mul(step)?)?;
            LogRecord::Write { line, lba, blocks: StoredBlocks { even, bytes } }
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
        kind::CREATE_LINE => {
            LogRecord::CreateLine { line: r.u64()?, attributes: LineAttributes::from_bits(second) }
        }
        kind::DROP_LINE => LogRecord::DropLine { line: r.u64()? },
        kind::SNAPSHOT => LogRecord::Snapshot { line: r.u64()? },
        kind::DROP_SNAPSHOT => LogRecord::DropSnapshot { line: r.u64()?, at: r.u64()? },
        kind::RETIRE => {
            LogRecord::Retire { slot: Slot(word), stream: Stream::from_number(second)?, stream_seq: r.u64()? }
        }
        kind::CLONE_LINE => LogRecord::CloneLine { line: r.u64()?, parent: r.u64()?, at: r.u64()? },
        kind::MOVE => LogRecord::Move {
            line: r.u64()?,
            lba: r.u64()?,
            seq: r.u64()?,
            from: Location(r.u64()?),
            block: StoredBlock { at: word, granules, form: Form(second), check: r.u64()? },
        },
        _ => return None,
    })
}

/// Bytes that a record for `blocks` written blocks takes in a header, in the worst case of every second one being zero.
pub(crate) const fn write_record_bytes(blocks: usize) -> usize {
    // Alternating zero and data runs: per pair one write (32 + 16) and one unmap (32).
    32 + blocks * 40
}

const _: () = assert!(
    write_record_bytes(dolmen_types::limits::MAX_COMMAND_BLOCKS) + FIXED_BYTES + 24 < MAX_HEADER_BYTES
);
const _: () = assert!(BLOCK_BYTES == (BLOCK_GRANULES * GRANULE_BYTES) as usize);
