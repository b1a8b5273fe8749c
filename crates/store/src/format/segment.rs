//! The header of a segment's column: whose it is, which one of its stream, and where the stream goes on
//! (`docs/format/segment.md`).

use crate::UnitId;
use crate::bytes::{Reader, Writer};
use crate::check::{seal, unseal};
use crate::format::{FORMAT_VERSION, put_unit, take_unit};
use crate::location::Slot;
use dolmen_types::{ShardId, Uuid};

/// Bytes of a segment header, at the start of each of its units.
pub(crate) const SEGMENT_HEADER_BYTES: u32 = 4096;

const MAGIC: &[u8; 8] = b"dolmSEGM";
const MEMBERS_AT: usize = 256;
const MAX_MEMBERS: usize = 32;

/// What a segment is filled with. The first two are logs of commits and are replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stream {
    /// Host writes and control records.
    Hot = 0,
    /// What cleaning moves.
    Cold = 1,
    /// Map pages and checkpoints.
    Meta = 2,
}

impl Stream {
    /// All, in the order of their numbers.
    pub(crate) const ALL: [Stream; 3] = [Stream::Hot, Stream::Cold, Stream::Meta];

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
    /// Data and parity columns: 1 + 0 for a narrow segment without a mirror.
    pub(crate) columns: (u8, u8),
    /// This unit's column.
    pub(crate) column: u8,
    /// Where the stream goes on when this segment is full, if it is one that is replayed.
    pub(crate) successor: Option<UnitId>,
    /// The units, column by column.
    pub(crate) members: Vec<UnitId>,
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
            .u32(self.unit_bytes);
        w.u8(self.columns.0).u8(self.columns.1).u16(u16::try_from(self.members.len()).expect("few members"));
        w.u32(u32::from(self.successor.is_some()));
        put_unit(&mut w, self.successor.unwrap_or(UnitId { drive: 0, unit: 0 }));
        w.pad_to(MEMBERS_AT);
        for &member in &self.members {
            put_unit(&mut w, member);
        }
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
        let (columns, members_len) = ((r.u8()?, r.u8()?), usize::from(r.u16()?));
        let has_successor = r.u32()? != 0;
        let successor = take_unit(&mut r).filter(|_| has_successor);
        if members_len == 0 || members_len > MAX_MEMBERS || usize::from(column) >= members_len {
            return None;
        }
        let mut r = Reader::new(&bytes[MEMBERS_AT..]);
        let members = (0..members_len).map(|_| take_unit(&mut r)).collect::<Option<Vec<_>>>()?;
        Some(SegmentHeader {
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
            members,
        })
    }
}
