//! A shard's anchor: where its newest checkpoint is and from where its log is replayed (`docs/format/anchor.md`).

use crate::bytes::{Reader, Writer};
use crate::check::{seal, unseal};
use crate::columns::{COLUMNS_BYTES, Columns, MAX_PARITY};
use crate::format::{FORMAT_VERSION, put_unit, take_unit};
use dolmen_types::{ShardId, Uuid};

/// Bytes of an anchor.
pub(crate) const ANCHOR_BYTES: usize = 8192;
/// Slots that are written alternately.
pub(crate) const ANCHOR_SLOTS: u64 = 2;
/// Copies of an anchor within its slot, so that one rotten block does not hide the newest checkpoint.
pub(crate) const ANCHOR_COPIES: u64 = 2;
/// Behind the anchors of the most shards that a pool may have. Bytes from the drive's start.
pub(crate) const ANCHORS_END: u64 =
    32 * 1024 + super::superblock::MAX_SHARDS as u64 * ANCHOR_SLOTS * ANCHOR_COPIES * ANCHOR_BYTES as u64;
/// Eras of the log at most; reaching it makes recovery write a checkpoint before it serves.
pub(crate) const MAX_ERAS: usize = 8;
/// Chunks that an anchor names at most: those of a checkpoint's body or, when it has more, those of a list that names its chunks.
/// A list of so many chunks names bodies of gigabytes where units are the smallest, and of a hundred where they are as pools have
/// them: more than fits in memory, where a body is made.
pub(crate) const MAX_CHUNKS: usize = 96;

const MAGIC: &[u8; 8] = b"dolmANCH";
const ERAS_AT: usize = 128;
const START_BYTES: usize = COLUMNS_BYTES + 16;
const ERA_BYTES: usize = 32 + 3 * START_BYTES;
const CHUNKS_AT: usize = 3072;
/// Units of a chunk at most: it lies in a narrow segment.
const CHUNK_UNITS: usize = 1 + MAX_PARITY;
const CHUNK_BYTES: usize = 8 + 8 * CHUNK_UNITS + 16;

const _: () = assert!(ERAS_AT + MAX_ERAS * ERA_BYTES <= CHUNKS_AT);
const _: () = assert!(CHUNKS_AT + MAX_CHUNKS * CHUNK_BYTES <= ANCHOR_BYTES);

/// Offset on every drive of one copy of one slot of a shard's anchor. Bytes.
pub(crate) fn anchor_offset(shard: ShardId, slot: u64, copy: u64) -> u64 {
    let first = 32 * 1024 + u64::from(shard.0) * ANCHOR_SLOTS * ANCHOR_COPIES * ANCHOR_BYTES as u64;
    first + (slot * ANCHOR_COPIES + copy) * ANCHOR_BYTES as u64
}

/// A point in a stream of segments from which the log goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    /// The units.
    pub(crate) columns: Columns,
    /// Offset in them of the next commit; 0 when the segment was not begun.
    pub(crate) offset: u32,
    /// Number of the segment in its stream.
    pub(crate) stream_seq: u64,
}

/// Commits of one opening of the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Era {
    /// The pool's incarnation that the era's commits carry.
    pub(crate) incarnation: u64,
    /// Seed of their headers' checks: random, so that no host can forge one.
    pub(crate) salt: u64,
    /// Number of its last commit; `u64::MAX` for the one that is open. Commits beyond are void.
    pub(crate) end: u64,
    /// Where its hot, cold and bulk stream go on; `None` for a stream that the era does not have.
    pub(crate) starts: [Option<Start>; 3],
}

/// A piece of a checkpoint's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// The units of its narrow segment, each of which holds it.
    pub(crate) columns: Columns,
    /// Offset in them.
    pub(crate) offset: u32,
    /// Bytes of it that count (it takes whole pages).
    pub(crate) len: u32,
    /// Their check.
    pub(crate) check: u64,
}

/// What an anchor says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Anchor {
    /// Grows with every writing; the highest one counts.
    pub(crate) generation: u64,
    /// The pool.
    pub(crate) pool: Uuid,
    /// The shard.
    pub(crate) shard: ShardId,
    /// Last commit that the checkpoint holds.
    pub(crate) base: u64,
    /// Check of that commit's header, which the next one names.
    pub(crate) chain: u64,
    /// The log since, oldest first; the last one is open.
    pub(crate) eras: Vec<Era>,
    /// The body, in order, or the list of its chunks. Empty for a shard without a checkpoint.
    pub(crate) chunks: Vec<Chunk>,
    /// The chunks are of the list.
    pub(crate) listed: bool,
}

impl Anchor {
    /// The anchor's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let count = |n: usize| u16::try_from(n).expect("bounded by the anchor's room");
        let mut w = Writer::default();
        w.bytes(MAGIC)
            .u64(0)
            .u32(FORMAT_VERSION)
            .u16(self.shard.0)
            .u16(count(self.eras.len()))
            .u64(self.generation);
        w.bytes(&self.pool.0).u64(self.base).u64(self.chain);
        w.u16(count(self.chunks.len())).u8(u8::from(self.listed)).pad_to(ERAS_AT);
        for era in &self.eras {
            w.u64(era.incarnation).u64(era.salt).u64(era.end).u64(0);
            for start in &era.starts {
                match start {
                    Some(start) => {
                        start.columns.put(&mut w);
                        w.u32(start.offset).u32(0).u64(start.stream_seq);
                    }
                    None => {
                        Columns::put_none(&mut w);
                        w.u64(0).u64(0);
                    }
                }
            }
        }
        w.pad_to(CHUNKS_AT);
        for chunk in &self.chunks {
            put_chunk(&mut w, chunk);
        }
        w.pad_to(ANCHOR_BYTES);
        seal(0, w.as_mut());
        w.finish()
    }

    /// What the bytes say, when they are an anchor of this version.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Anchor> {
        if bytes.len() != ANCHOR_BYTES {
            return None;
        }
        unseal(0, MAGIC, bytes)?;
        let mut r = Reader::new(&bytes[16..]);
        if r.u32()? != FORMAT_VERSION {
            return None;
        }
        let (shard, eras_len, generation) = (ShardId(r.u16()?), usize::from(r.u16()?), r.u64()?);
        let (pool, base, chain) = (Uuid(r.array()?), r.u64()?, r.u64()?);
        let (chunks_len, listed) = (usize::from(r.u16()?), r.u8()?);
        // A list of lists would hold a body that is in no memory.
        if listed > 1 || eras_len == 0 || eras_len > MAX_ERAS || chunks_len > MAX_CHUNKS {
            return None;
        }
        let mut r = Reader::new(&bytes[ERAS_AT..]);
        let eras = (0..eras_len).map(|_| decode_era(&mut r)).collect::<Option<Vec<_>>>()?;
        let mut r = Reader::new(&bytes[CHUNKS_AT..]);
        let chunks = (0..chunks_len).map(|_| decode_chunk(&mut r)).collect::<Option<Vec<_>>>()?;
        Some(Anchor { generation, pool, shard, base, chain, eras, chunks, listed: listed == 1 })
    }

    /// True for a copy of that anchor, and for the zeros on a drive that has joined since it was written.
    pub(crate) fn is_or_never_was(bytes: &[u8], pool: Uuid, shard: ShardId, generation: u64) -> bool {
        let is = |a: Anchor| (a.pool, a.shard, a.generation) == (pool, shard, generation);
        bytes.iter().all(|&b| b == 0) || Anchor::decode(bytes).is_some_and(is)
    }
}

/// The bytes of a list of chunks.
pub(crate) fn encode_list<'a>(chunks: impl Iterator<Item = &'a Chunk>) -> Vec<u8> {
    let mut w = Writer::default();
    chunks.for_each(|chunk| put_chunk(&mut w, chunk));
    w.finish()
}

/// The chunks of a body that a list names; `None` when it is malformed.
pub(crate) fn decode_list(bytes: &[u8]) -> Option<Vec<Chunk>> {
    let (rows, rest) = bytes.as_chunks::<CHUNK_BYTES>();
    let chunks = rows.iter().map(|row| decode_chunk(&mut Reader::new(row))).collect::<Option<Vec<_>>>()?;
    Some(chunks).filter(|c| rest.is_empty() && !c.is_empty())
}

fn decode_era(r: &mut Reader<'_>) -> Option<Era> {
    let (incarnation, salt, end) = (r.u64()?, r.u64()?, r.u64()?);
    r.u64()?;
    let mut start = || {
        let (columns, offset) = (Columns::take(r)?, r.u32()?);
        r.u32()?;
        let stream_seq = r.u64()?;
        Some(columns.map(|columns| Start { columns, offset, stream_seq }))
    };
    Some(Era { incarnation, salt, end, starts: [start()?, start()?, start()?] })
}

fn put_chunk(w: &mut Writer, chunk: &Chunk) {
    let (end, units) = (w.len() + 8 + 8 * CHUNK_UNITS, chunk.columns.units());
    w.u8(chunk.columns.data_u8()).u8(chunk.columns.parity_u8()).u16(0).u32(0);
    units.iter().take(CHUNK_UNITS).for_each(|&unit| put_unit(w, unit));
    w.pad_to(end).u32(chunk.offset).u32(chunk.len).u64(chunk.check);
}

fn decode_chunk(r: &mut Reader<'_>) -> Option<Chunk> {
    let (data, parity) = (usize::from(r.u8()?), usize::from(r.u8()?));
    r.take(6)?;
    let units = (0..CHUNK_UNITS).map(|_| take_unit(r)).collect::<Option<Vec<_>>>()?;
    let columns = Columns::new(units.get(..data.checked_add(parity)?)?, parity).filter(|_| data == 1)?;
    Some(Chunk { columns, offset: r.u32()?, len: r.u32()?, check: r.u64()? })
}
