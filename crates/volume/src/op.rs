//! One command under way: a slot of a slab, reused without allocation, and the plan of what it reads before it decides.

use crate::{
    Extent, HostId, LbaRange, ReservationCommand, VolumeError,
    locks::Claim,
    reservation::{Access, Outcome},
    span::Span,
};
use dolmen_io::{Buf, Slice, Stamps};
use dolmen_types::{CoreId, LineId, Nanos, Seq, limits::BLOCK_BYTES, volume::VolumeDescriptor};

/// Index of a slot; also the ticket of its operations of the log.
pub(crate) type OpId = u32;

/// What a command does.
#[derive(Debug)]
pub(crate) enum Kind {
    Read,
    Write,
    Compare,
    CompareAndWrite,
    WriteZeroes,
    Verify,
    /// What was found, from then on.
    Allocation(Box<[Extent]>),
    /// Merged, in order; whole store blocks of these are given up.
    Deallocate(Box<[Span]>),
    /// The sources; the destination is the op's span.
    Copy(Box<[Span]>),
    /// The second field is what was decided, from then on.
    Reserve(ReservationCommand, Option<Box<Outcome>>),
    Control(Box<ControlOp>),
}

/// What a control request does once it runs.
#[derive(Debug)]
pub(crate) enum ControlOp {
    /// Make the volume in this slot, as a clone of this point or empty.
    Create(Option<(LineId, Seq)>),
    /// Give it this descriptor.
    Update(VolumeDescriptor),
    /// Give it this descriptor, whose line begins at this point, and drop its old line.
    Rollback(VolumeDescriptor, (LineId, Seq)),
    /// Give it this descriptor, which says that it is being deleted.
    Delete(VolumeDescriptor),
    /// Drop its line and its records. Nobody waits for an answer.
    Purge,
}

impl Kind {
    /// What it needs of the reservations; `None` when they do not apply.
    pub(crate) fn access(&self) -> Option<Access> {
        match self {
            Kind::Read | Kind::Compare | Kind::Verify | Kind::Allocation(_) => Some(Access::Read),
            Kind::Write | Kind::CompareAndWrite | Kind::WriteZeroes | Kind::Deallocate(_) | Kind::Copy(_) => {
                Some(Access::Write)
            }
            Kind::Reserve(..) | Kind::Control(_) => None,
        }
    }
}

/// How far a command has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waits for earlier commands on overlapping ranges.
    Waiting,
    /// Could run; waits for its turn, for buffers, or for room in the log.
    Ready,
    /// Reads what it needs before it can decide.
    Loading,
    /// Sequenced: handed to the log.
    Appending,
}

/// One command under way.
#[derive(Debug)]
pub(crate) struct Op {
    pub(crate) kind: Kind,
    pub(crate) token: u64,
    pub(crate) from: CoreId,
    pub(crate) volume: usize,
    pub(crate) host: HostId,
    pub(crate) deadline: Nanos,
    pub(crate) stamps: Stamps,
    /// What it covers, or the destination of a copy.
    pub(crate) span: Span,
    /// The host's buffers.
    pub(crate) buf: Option<Buf>,
    pub(crate) buf2: Option<Buf>,
    pub(crate) claim: Option<Claim>,
    pub(crate) phase: Phase,
    /// Loads that have ended.
    pub(crate) loads: usize,
    /// Store blocks as they were (reads, compares) or will be (writes with edges, copies).
    pub(crate) image: Option<Buf>,
    /// Where edges and sources are read to before they go into the image.
    pub(crate) spare: Option<Buf>,
    /// It was given these, as far as it needs them.
    pub(crate) is_equipped: bool,
    /// The host's data while the log has it.
    pub(crate) sent: Option<Slice>,
    /// Called off, for this reason, as soon as it comes to a point where it can be.
    pub(crate) cancelled: Option<VolumeError>,
}

/// Where a load's data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Into {
    /// Straight to the host's buffer.
    Data,
    /// The image, which it fills.
    Image,
    /// The spare buffer, and from there in part to the image.
    Spare,
}

/// One read of store blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) first: u64,
    pub(crate) blocks: u64,
    pub(crate) into: Into,
}

impl Op {
    /// True for a read or a write of whole store blocks: the host's buffer is all the memory that it needs.
    #[inline]
    pub(crate) fn is_straight(&self) -> bool {
        matches!(self.kind, Kind::Read | Kind::Write) && self.span.is_aligned()
    }

    /// Lengths of the image and of the spare buffer that it needs, 0 for none. Bytes.
    pub(crate) fn memory(&self) -> (usize, usize) {
        if self.is_straight() {
            return (0, 0);
        }
        let edges = (0..2).filter(|&n| self.span.edge(n).is_some()).count();
        match &self.kind {
            Kind::Read | Kind::Compare | Kind::CompareAndWrite | Kind::Verify => (self.span.image_bytes(), 0),
            Kind::Write if edges > 0 => (self.span.image_bytes(), BLOCK_BYTES),
            Kind::WriteZeroes if edges > 0 => (edges * BLOCK_BYTES, BLOCK_BYTES),
            Kind::Copy(sources) => {
                let longest = sources.iter().map(|s| s.image_bytes()).max().unwrap_or(0);
                (self.span.image_bytes(), longest.max(BLOCK_BYTES))
            }
            _ => (0, 0),
        }
    }

    /// The next read that it needs before it can decide.
    pub(crate) fn next_load(&self) -> Option<Load> {
        let whole = |span: Span, into| Load { first: span.first(), blocks: span.blocks(), into };
        let edge = |n| self.span.edge(n).map(|first| Load { first, blocks: 1, into: Into::Spare });
        match &self.kind {
            Kind::Read if self.span.is_aligned() => (self.loads == 0).then(|| whole(self.span, Into::Data)),
            Kind::Read | Kind::Compare | Kind::CompareAndWrite | Kind::Verify => {
                (self.loads == 0).then(|| whole(self.span, Into::Image))
            }
            Kind::Write | Kind::WriteZeroes => edge(self.loads),
            Kind::Copy(sources) => match sources.get(self.loads) {
                Some(source) => Some(whole(*source, Into::Spare)),
                None => edge(self.loads - sources.len()),
            },
            Kind::Allocation(_) | Kind::Deallocate(_) | Kind::Reserve(..) | Kind::Control(_) => None,
        }
    }

    /// Takes the buffer that `load` is to fill, at its length.
    pub(crate) fn take_target(&mut self, load: &Load) -> Buf {
        let slot = match load.into {
            Into::Data => &mut self.buf,
            Into::Image => &mut self.image,
            Into::Spare => &mut self.spare,
        };
        let mut buf = slot.take().expect("buffers are there before the first load");
        let bytes = load.blocks * BLOCK_BYTES as u64;
        buf.set_len(usize::try_from(bytes).expect("a load is at most one command's data"));
        buf
    }

    /// Puts the filled buffer of `load` back and what it brought where it belongs.
    pub(crate) fn absorb(&mut self, load: &Load, buf: Buf) {
        match load.into {
            Into::Data => self.buf = Some(buf),
            Into::Image => self.image = Some(buf),
            Into::Spare => {
                self.absorb_spare(load, &buf);
                self.spare = Some(buf);
            }
        }
        self.loads += 1;
    }

    fn absorb_spare(&mut self, load: &Load, data: &[u8]) {
        let image = self.image.as_mut().expect("a command with a spare buffer has an image");
        let block_at = |n: usize| n * BLOCK_BYTES..(n + 1) * BLOCK_BYTES;
        match &self.kind {
            Kind::WriteZeroes => {
                let part = &mut image[block_at(self.loads)];
                part.fill(0);
                self.span.keep_outside(load.first, data, part);
            }
            Kind::Copy(sources) if self.loads < sources.len() => {
                let done: u64 = sources[..self.loads].iter().map(|s| s.len()).sum();
                let source = &data[sources[self.loads].in_image()];
                let at = self.span.in_image().start + usize::try_from(done).expect("copies are bounded");
                image[at..at + source.len()].copy_from_slice(source);
            }
            _ => {
                let n = usize::try_from(load.first - self.span.first()).expect("an edge is within the image");
                self.span.keep_outside(load.first, data, &mut image[block_at(n)]);
            }
        }
    }
}

/// The slots of all commands under way on one core.
#[derive(Debug)]
pub(crate) struct Ops {
    slots: Vec<Option<Op>>,
    free: Vec<OpId>,
    limit: usize,
}

impl Ops {
    /// Slots for at most `limit` commands, `expected` of them without growing.
    pub(crate) fn new(expected: usize, limit: usize) -> Ops {
        Ops { slots: Vec::with_capacity(expected), free: Vec::with_capacity(expected), limit }
    }

    /// Commands under way.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// True when no more than `reserve` slots are left.
    pub(crate) fn is_full(&self, reserve: usize) -> bool {
        self.len() + reserve >= self.limit
    }

    /// Puts a command in a slot. The caller has looked at [`Ops::is_full`].
    pub(crate) fn put(&mut self, op: Op) -> OpId {
        if let Some(id) = self.free.pop() {
            self.slots[id as usize] = Some(op);
            return id;
        }
        self.slots.push(Some(op));
        OpId::try_from(self.slots.len() - 1).expect("the limit is far below 2^32")
    }

    /// The command in a slot.
    pub(crate) fn at(&mut self, id: OpId) -> &mut Op {
        self.slots[id as usize].as_mut().expect("a slot is only named while its command is under way")
    }

    /// Ends a command.
    pub(crate) fn take(&mut self, id: OpId) -> Op {
        let op = self.slots[id as usize].take().expect("a command ends once");
        self.free.push(id);
        op
    }

    /// All commands under way.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (OpId, &Op)> {
        (0..).zip(&self.slots).filter_map(|(id, op)| Some((id, op.as_ref()?)))
    }
}

/// Sorts, drops empty ranges and joins what touches or overlaps.
pub(crate) fn merge_spans(mut spans: Vec<Span>) -> Box<[Span]> {
    spans.sort_unstable_by_key(|s| s.start);
    let mut merged: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match merged.last_mut() {
            Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
            _ => merged.push(span),
        }
    }
    merged.into()
}

/// Turns ranges into spans, skipping empty ones.
pub(crate) fn spans_of(ranges: &[LbaRange], shift: u32, size: u64) -> Result<Vec<Span>, VolumeError> {
    ranges.iter().filter(|r| r.blocks != 0).map(|r| Span::of(*r, shift, size)).collect()
}
