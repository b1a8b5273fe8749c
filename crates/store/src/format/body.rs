//! The body of a checkpoint: segment table, roots of the lines' maps, marks and keyed objects of one shard
//! (`docs/format/checkpoint.md`). Written as a run of bytes in chunks that the anchor names and checks.

use crate::bytes::{Reader, Writer, len32};
use crate::columns::{Columns, MAX_COLUMNS};
use crate::format::page::PageRef;
use crate::format::segment::{STREAMS, Stream};
use crate::format::{FORMAT_VERSION, put_unit, take_unit};
use crate::location::{Location, Slot};
use crate::map::{Entry, Sweep};
use crate::stored::Form;
use crate::{Key, LineAttributes, LostCause, MAX_OBJECT_BYTES, Marks};
use dolmen_types::{Epoch, PgId, Seq};

const MAGIC: &[u8; 8] = b"dolmCKPT";

/// A segment that the shard holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentRow {
    /// Its slot.
    pub(crate) slot: Slot,
    /// Its units.
    pub(crate) columns: Columns,
    /// What it is filled with.
    pub(crate) stream: Stream,
    /// Its number in the stream.
    pub(crate) stream_seq: u64,
    /// Bytes of it that the checkpoint's map and the checkpoint itself name.
    pub(crate) live: u32,
    /// Last commit in it.
    pub(crate) last_commit: u64,
    /// Columns of it that were found wrong and are not mended, a bit each.
    pub(crate) suspect: u16,
}

/// A line and the root of its map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LineRow {
    /// The line.
    pub(crate) line: u64,
    /// Its newest state can be read and written.
    pub(crate) head: bool,
    /// How its blocks are stored.
    pub(crate) attributes: LineAttributes,
    /// The line and the point that it was cloned from.
    pub(crate) parent: Option<(u64, u64)>,
    /// Something in its leaves may have become free.
    pub(crate) sweep: Option<Sweep>,
    /// The newest change of a host in its leaves, at most.
    pub(crate) merged_to: u64,
    /// Blocks whose newest version is stored.
    pub(crate) mapped: u64,
    /// Bytes of all stored versions in its map.
    pub(crate) stored: u64,
    /// Of them, those of newest versions that are older than the first point.
    pub(crate) newest: u64,
    /// Its points, ascending.
    pub(crate) points: Vec<PointRow>,
    /// Its nodes, in order of addresses.
    pub(crate) nodes: Vec<PageRef>,
}

/// A state of a line that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PointRow {
    /// Versions up to this number are in it.
    pub(crate) seq: u64,
    /// Blocks that are mapped in it, at most.
    pub(crate) mapped: u64,
    /// It is a snapshot; otherwise only clones need it.
    pub(crate) snapshot: bool,
    /// Bytes of newest versions that were written between this point and the next.
    pub(crate) newest: u64,
}

/// How far scrubbing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ScrubMark {
    /// The last round that was gone through.
    pub(crate) finished: u64,
    /// The round that was begun last.
    pub(crate) round: u64,
    /// The slot from which on it goes on.
    pub(crate) next: u32,
}

/// Blocks of a line that could not be had when the checkpoint was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LostRow {
    /// The line that they were written to.
    pub(crate) line: u64,
    /// The first one.
    pub(crate) lba: u64,
    /// What is lost there.
    pub(crate) what: Lost,
}

/// What is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// A version that is not what was written.
    Damaged(Entry),
    /// One that drives could not read, or that lies on such as are out.
    Unreadable(Entry),
    /// Whatever a leaf told of so many blocks.
    Leaf(u64),
}

impl Lost {
    /// A version that can't be had.
    pub(crate) fn version(entry: Entry, cause: LostCause) -> Lost {
        if cause == LostCause::Damaged { Lost::Damaged(entry) } else { Lost::Unreadable(entry) }
    }
}

/// What a checkpoint's body says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Body {
    /// The next segment's number in each stream.
    pub(crate) next_seq: [u64; STREAMS],
    /// How far scrubbing is.
    pub(crate) scrub: ScrubMark,
    /// Every segment that is held but the ones to be given back with this checkpoint.
    pub(crate) segments: Vec<SegmentRow>,
    /// Slots of segments that were given back and that leaves still name; so many bytes of each.
    pub(crate) retired: Vec<(Slot, u32)>,
    /// What can't be had, as far as it is known.
    pub(crate) lost: Vec<LostRow>,
    /// Every line.
    pub(crate) lines: Vec<LineRow>,
    /// Marks of every group that has any.
    pub(crate) marks: Vec<(PgId, Marks)>,
    /// Every keyed object, by group and key.
    pub(crate) objects: Vec<(PgId, Key, Box<[u8]>)>,
}

impl Body {
    /// Starts a body's bytes: all but the objects, which [`put_object`] appends `objects` times.
    pub(crate) fn encode_head(&self, objects: usize) -> Writer {
        let mut w = Writer::default();
        w.bytes(MAGIC).u32(FORMAT_VERSION).u32(len32(self.segments.len())).u32(len32(self.lines.len()));
        w.u32(len32(self.marks.len())).u32(len32(objects)).u32(len32(self.retired.len()));
        for seq in self.next_seq {
            w.u64(seq);
        }
        w.u64(self.scrub.finished).u64(self.scrub.round).u32(self.scrub.next).u32(len32(self.lost.len()));
        for s in &self.segments {
            w.u32(s.slot.0)
                .u8(s.stream as u8)
                .u8(s.columns.data_u8())
                .u8(s.columns.parity_u8())
                .u8(0)
                .u64(s.stream_seq)
                .u64(s.last_commit)
                .u32(s.live)
                .u16(s.suspect)
                .u16(0);
            s.columns.units().iter().for_each(|&unit| put_unit(&mut w, unit));
        }
        for (slot, stale) in &self.retired {
            w.u32(slot.0).u32(*stale);
        }
        self.lost.iter().for_each(|row| put_lost(&mut w, row));
        for line in &self.lines {
            put_line(&mut w, line);
        }
        for (pg, marks) in &self.marks {
            w.u32(pg.0).u32(0).u64(marks.epoch.0).u64(marks.highest_seq.0);
        }
        w
    }

    /// What the bytes say; `None` when they are malformed.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Body> {
        let mut r = Reader::new(bytes);
        if r.take(8)? != MAGIC || r.u32()? != FORMAT_VERSION {
            return None;
        }
        let (segments, lines, marks, objects) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?);
        let retired = r.u32()?;
        let mut body = Body { next_seq: [r.u64()?, r.u64()?, r.u64()?, r.u64()?], ..Body::default() };
        body.scrub = ScrubMark { finished: r.u64()?, round: r.u64()?, next: r.u32()? };
        let lost = r.u32()?;
        for _ in 0..segments {
            body.segments.push(take_segment(&mut r)?);
        }
        for _ in 0..retired {
            body.retired.push((Slot(r.u32()?), r.u32()?));
        }
        for _ in 0..lost {
            body.lost.push(take_lost(&mut r)?);
        }
        for _ in 0..lines {
            body.lines.push(take_line(&mut r)?);
        }
        for _ in 0..marks {
            let pg = PgId(r.u32()?);
            r.u32()?;
            body.marks.push((pg, Marks { epoch: Epoch(r.u64()?), highest_seq: Seq(r.u64()?) }));
        }
        for _ in 0..objects {
            body.objects.push(take_object(&mut r)?);
        }
        Some(body)
    }
}

fn take_segment(r: &mut Reader<'_>) -> Option<SegmentRow> {
    let (slot, stream) = (Slot(r.u32()?), Stream::from_number(r.u8()?)?);
    let (data, parity) = (usize::from(r.u8()?), usize::from(r.u8()?));
    r.u8()?;
    let (stream_seq, last_commit, live, suspect) = (r.u64()?, r.u64()?, r.u32()?, r.u16()?);
    r.u16()?;
    let count = Some(data + parity).filter(|&n| n <= MAX_COLUMNS)?;
    let units = (0..count).map(|_| take_unit(r)).collect::<Option<Vec<_>>>()?;
    let columns = Columns::new(&units, parity)?;
    Some(SegmentRow { slot, columns, stream, stream_seq, live, last_commit, suspect })
}

fn put_lost(w: &mut Writer, LostRow { line, lba, what }: &LostRow) {
    let (kind, form, granules, words) = match what {
        Lost::Damaged(e) => (0, e.form.0, e.granules, [e.seq, e.location.0, e.check]),
        Lost::Unreadable(e) => (1, e.form.0, e.granules, [e.seq, e.location.0, e.check]),
        Lost::Leaf(blocks) => (2, 0, 0, [*blocks, 0, 0]),
    };
    w.u64(*line).u64(*lba).u8(kind).u8(form).u16(granules).u32(0);
    words.iter().for_each(|&word| _ = w.u64(word));
}

fn take_lost(r: &mut Reader<'_>) -> Option<LostRow> {
    let (line, lba, kind, form, granules) = (r.u64()?, r.u64()?, r.u8()?, Form(r.u8()?), r.u16()?);
    r.u32()?;
    let (seq, location, check) = (r.u64()?, Location(r.u64()?), r.u64()?);
    let entry = Entry { seq, location, check, granules, form };
    let what = match kind {
        0 => Lost::Damaged(entry),
        1 => Lost::Unreadable(entry),
        2 => Lost::Leaf(seq),
        _ => return None,
    };
    Some(LostRow { line, lba, what })
}

/// Bit of a line's flags: it has a head.
const HEAD: u32 = 1;
/// Bit of a line's flags: it is a clone.
const CLONE: u32 = 2;
/// Bit of a line's flags: something may have become free.
const SWEEP: u32 = 4;
/// Bit of a line's flags: when the sweep is through, it begins anew.
const SWEEP_AGAIN: u32 = 8;
/// Bit of a point's bytes: it is a snapshot.
const SNAPSHOT: u64 = 1 << 63;

fn put_line(w: &mut Writer, line: &LineRow) {
    let flag = |set: bool, bit: u32| if set { bit } else { 0 };
    let sweep = line.sweep.unwrap_or_default();
    let flags = flag(line.head, HEAD)
        | flag(line.parent.is_some(), CLONE)
        | flag(line.sweep.is_some(), SWEEP)
        | flag(sweep.again, SWEEP_AGAIN);
    let (parent, at) = line.parent.unwrap_or_default();
    w.u64(line.line).u32(flags).u32(len32(line.points.len())).u32(len32(line.nodes.len()));
    w.u8(line.attributes.bits()).u8(0).u16(0);
    w.u64(parent)
        .u64(at)
        .u64(sweep.from)
        .u64(line.merged_to)
        .u64(line.mapped)
        .u64(line.stored)
        .u64(line.newest);
    for point in &line.points {
        w.u64(point.seq).u64(point.mapped);
        w.u64(point.newest | if point.snapshot { SNAPSHOT } else { 0 });
    }
    for node in &line.nodes {
        node.put(w);
    }
}

fn take_line(r: &mut Reader<'_>) -> Option<LineRow> {
    let (line, flags, points, nodes) = (r.u64()?, r.u32()?, r.u32()?, r.u32()?);
    let attributes = LineAttributes::from_bits(r.u8()?);
    r.take(3)?;
    let (parent, at, from, merged_to) = (r.u64()?, r.u64()?, r.u64()?, r.u64()?);
    let (mapped, stored, newest) = (r.u64()?, r.u64()?, r.u64()?);
    let point = |r: &mut Reader<'_>| {
        let (seq, mapped, bytes) = (r.u64()?, r.u64()?, r.u64()?);
        Some(PointRow { seq, mapped, snapshot: bytes & SNAPSHOT != 0, newest: bytes & !SNAPSHOT })
    };
    let points = (0..points).map(|_| point(r)).collect::<Option<Vec<_>>>()?;
    let nodes = (0..nodes).map(|_| PageRef::take(r)).collect::<Option<Vec<_>>>()?;
    Some(LineRow {
        line,
        attributes,
        head: flags & HEAD != 0,
        parent: (flags & CLONE != 0).then_some((parent, at)),
        sweep: (flags & SWEEP != 0).then_some(Sweep { from, again: flags & SWEEP_AGAIN != 0 }),
        merged_to,
        mapped,
        stored,
        newest,
        points,
        nodes,
    })
}

/// Appends one object to a body's bytes.
pub(crate) fn put_object(w: &mut Writer, pg: PgId, key: Key, value: &[u8]) {
    w.u32(pg.0).u8(key.kind).u8(0).u16(0).u128(key.id).u64(value.len() as u64).bytes(value).align(8);
}

fn take_object(r: &mut Reader<'_>) -> Option<(PgId, Key, Box<[u8]>)> {
    let (pg, kind) = (PgId(r.u32()?), r.u8()?);
    r.take(3)?;
    let id = r.u128()?;
    let len = usize::try_from(r.u64()?).ok().filter(|&n| n <= MAX_OBJECT_BYTES)?;
    let value = r.take(len)?.into();
    r.take(len.next_multiple_of(8) - len)?;
    Some((pg, Key { kind, id }, value))
}
