//! The header of a segment's column: whose it is, which one of its stream, and where the stream goes on
//! (`docs/format/segment.md`).

use crate::bytes::{Reader, Writer};
use crate::check::{seal, unseal};
use crate::columns::{COLUMNS_BYTES, Columns};
use crate::format::FORMAT_VERSION;
use crate::location::Slot;
use dolmen_types::{ShardId, Uuid};

/// Bytes of a segment header, at the start of each of its units.
pub(crate) const SEGMENT_HEADER_BYTES: u32 = 4096;

const MAGIC: &[u8; 8] = b"dolmSEGM";
const _: () = assert!(80 + 2 * COLUMNS_BYTES == 256);

/// What a segment is filled with. All but the metadata are logs of commits and are replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stream {
    /// Small host writes and control records.
    Hot = 0,
    /// What cleaning moves.
    Cold = 1,
    /// Map pages and checkpoints.
    Meta = 2,
    /// Host writes large enough to fill all columns of a wide segment.
    Bulk = 3,
}

/// Streams that there are.
pub(crate) const STREAMS: usize = 4;

impl Stream {
    /// All, in the order of their numbers.
    pub(crate) const ALL: [Stream; STREAMS] = [Stream::Hot, Stream::Cold, Stream::Meta, Stream::Bulk];

    /// Those that are logs of commits, in the order of an era's starts.
    pub(crate) const LOGS: [Stream; 3] = [Stream::Hot, Stream::Cold, Stream::Bulk];

    pub(crate) fn from_number(n: u8) -> Option<Stream> {
        Stream::ALL.into_iter().find(|&s| s as u8 == n)
    }
}

/// What a segment header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// The pool.
    pub(crate) pool: Uuid,
    /// The shard.
    pub(crate) shard: ShardId,
    /// The stream.
    pub(crate) stream: Stream,
    /// Its slot in the shard's table.
    pub(crate) slot: Slot,
    /// Its number in the stream: grows, never reused.
    pub(crate) stream_seq: u64,
    /// The pool's incarnation when it was begun.
    pub(crate) incarnation: u64,
    /// Seed of the checks of its commits' headers: random per opening, so that no host can forge a commit.
    pub(crate) salt: u64,
    /// Bytes of a unit.
    pub(crate) unit_bytes: u32,
    /// The units, column by column.
    pub(crate) columns: Columns,
    /// This unit's column.
    pub(crate) column: u8,
    /// Where the stream goes on when this segment is full, if it is one that is replayed.
    pub(crate) successor: Option<Columns>,
}

impl SegmentHeader {
    /// The header's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.bytes(MAGIC).u64(0).u32(FORMAT_VERSION).u16(self.shard.0).u8(self.stream as u8).u8(self.column);
        w.bytes(&self.pool.0)
            .u64(self.stream_seq)
            .u64(self.incarnation)
            .u64(self.salt)
            .u32(self.slot.0)
            .u32(self.unit_bytes)
            .u64(0);
        match &self.successor {
            Some(columns) => columns.put(&mut w),
            None => Columns::put_none(&mut w),
        }
        self.columns.put(&mut w);
        w.pad_to(SEGMENT_HEADER_BYTES as usize);
        seal(0, w.as_mut());
        w.finish()
    }

    /// What the bytes say, when they are a segment header of this version.
    pub(crate) fn decode(bytes: &[u8]) -> Option<SegmentHeader> {
        if bytes.len() != SEGMENT_HEADER_BYTES as usize {
            return None;
        }
        unseal(0, MAGIC, bytes)?;
        let mut r = Reader::new(&bytes[16..]);
        if r.u32()? != FORMAT_VERSION {
            return None;
        }
        let (shard, stream, column) = (ShardId(r.u16()?), Stream::from_number(r.u8()?)?, r.u8()?);
        let (pool, stream_seq, incarnation, salt) = (Uuid(r.array()?), r.u64()?, r.u64()?, r.u64()?);
        let (slot, unit_bytes) = (Slot(r.u32()?), r.u32()?);
        r.u64()?;
        let (successor, columns) = (Columns::take(&mut r)?, Columns::take(&mut r)??);
        (usize::from(column) < columns.len()).then_some(SegmentHeader {
            pool,
            shard,
            stream,
            slot,
            stream_seq,
            incarnation,
            salt,
            unit_bytes,
            columns,
            column,
            successor,
        })
    }

    /// The same header for another column.
    pub(crate) fn for_column(&self, column: usize) -> SegmentHeader {
        SegmentHeader { column: u8::try_from(column).expect("columns are few"), ..self.clone() }
    }
}
