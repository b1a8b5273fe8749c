//! A commit's payload: stored forms that are made in staging buffers, and blocks that are written from where they are.

use super::layout::{Bufs, USUAL_BUFFERS};
use crate::LineAttributes;
use crate::check::is_zero;
use crate::format::commit::{HeaderWriter, StoredBlock};
use crate::format::segment::SEGMENT_HEADER_BYTES;
use crate::location::GRANULE_BYTES;
use crate::stored::{BlockVersion, Form, Forms};
use dolmen_io::{Buf, Slice, Slices};
use dolmen_types::limits::BLOCK_BYTES;
use smallvec::SmallVec;
use std::ops::Range;

const PAGE: usize = SEGMENT_HEADER_BYTES as usize;

/// A commit's payload as it comes together: stored forms that are made here, in staging buffers, and blocks that are stored as
/// they came, which are written from where they are.
pub(super) struct Staging {
    bufs: Bufs,
    current: usize,
    /// Filled bytes of the current buffer, and how many of them are in `pieces`.
    used: usize,
    named: usize,
    total: usize,
    pub(super) pieces: Vec<Piece>,
}

/// A part of the payload.
pub(crate) enum Piece {
    /// A part of a staging buffer.
    Staged(usize, Range<usize>),
    /// Somebody else's.
    Lent(Slice),
}

impl Staging {
    /// Over buffers for the stored forms that are made.
    pub(super) fn over(bufs: Bufs) -> Staging {
        Staging { bufs, current: 0, used: 0, named: 0, total: 0, pieces: Vec::new() }
    }

    /// Room for the stored form of one block, and where it will lie: granules from the payload's start. A buffer in which a whole
    /// block no longer fits is left: as many blocks as it has room for were in it then, so the buffers never run out.
    pub(super) fn room(&mut self) -> (u32, &mut [u8]) {
        if self.used + BLOCK_BYTES > self.bufs[self.current].len() {
            self.skip(self.bufs[self.current].len() - self.used);
            self.name();
            self.current += 1;
            (self.used, self.named) = (0, 0);
        }
        (granules(self.total), &mut self.bufs[self.current][self.used..self.used + BLOCK_BYTES])
    }

    /// The stored form in the room took this much.
    pub(super) fn took(&mut self, len: usize) {
        self.used += len;
        self.total += len;
    }

    /// Takes whole blocks where they lie; at which granule of the payload they will.
    pub(super) fn lend(&mut self, blocks: Slice) -> u32 {
        self.align();
        self.name();
        let at = granules(self.total);
        self.total += blocks.len();
        self.pieces.push(Piece::Lent(blocks));
        at
    }

    /// True when the next block will lie on a page of its own.
    fn is_aligned(&self) -> bool {
        self.total.is_multiple_of(BLOCK_BYTES)
    }

    /// Zeros up to the next page: whole blocks from here on are read straight to where they are wanted.
    fn align(&mut self) {
        self.skip(self.total.next_multiple_of(BLOCK_BYTES) - self.total);
    }

    fn skip(&mut self, len: usize) {
        if len > 0 {
            self.bufs[self.current][self.used..self.used + len].fill(0);
            self.took(len);
        }
    }

    /// What was staged since the last time is a piece.
    fn name(&mut self) {
        if self.used > self.named {
            self.pieces.push(Piece::Staged(self.current, self.named..self.used));
            self.named = self.used;
        }
    }

    /// The payload, whole pages, appended to `slices`; its length, and the memory of the pieces.
    pub(super) fn finish(mut self, slices: &mut Slices) -> (u32, Vec<Piece>) {
        self.align();
        self.name();
        let staged: SmallVec<[Slice; USUAL_BUFFERS]> = self.bufs.into_iter().map(Buf::freeze).collect();
        slices.extend(self.pieces.drain(..).map(|piece| match piece {
            Piece::Staged(buf, range) => staged[buf].slice(range),
            Piece::Lent(slice) => slice,
        }));
        (u32::try_from(self.total).expect("a commit is far below 4 GiB"), self.pieces)
    }
}

/// A distance in a payload.
pub(super) fn granules(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a commit is far below 4 GiB") / GRANULE_BYTES
}

/// Where a write record's blocks go, and how they are made.
pub(super) struct Stage<'a> {
    pub(super) header: &'a mut HeaderWriter,
    pub(super) staging: &'a mut Staging,
    pub(super) forms: &'a mut Forms,
    pub(super) attributes: LineAttributes,
}

impl Stage<'_> {
    /// Runs of zero blocks become unmaps; the rest is made into its stored form in staging, or written from where it is.
    pub(super) fn write(&mut self, first: BlockVersion, data: &Slice) {
        let block = |i: usize| &data[i * BLOCK_BYTES..(i + 1) * BLOCK_BYTES];
        let (blocks, mut from) = (data.len() / BLOCK_BYTES, 0);
        while from < blocks {
            let zero = is_zero(block(from));
            let to = (from + 1..blocks).find(|&i| is_zero(block(i)) != zero).unwrap_or(blocks);
            let version = BlockVersion { lba: first.lba + from as u64, ..first };
            let range = from * BLOCK_BYTES..to * BLOCK_BYTES;
            if zero {
                self.header.unmap(version.line, version.lba, (to - from) as u64);
            } else if self.attributes.compress {
                self.run_packed(version, data.slice(range));
            } else {
                self.run_as_is(version, data.slice(range));
            }
            from = to;
        }
    }

    /// Blocks that stay as long as they are, on pages.
    fn run_as_is(&mut self, first: BlockVersion, data: Slice) {
        if self.attributes.encrypt || !lies_on_pages(&data) {
            self.run_whole(first, &data);
        } else {
            self.run_lent(first, data);
        }
    }

    /// Blocks that are stored as they are: written from where they are.
    fn run_lent(&mut self, first: BlockVersion, data: Slice) {
        let count = u32::try_from(data.len() / BLOCK_BYTES).expect("a command's blocks are few");
        let at = self.staging.lend(data.clone());
        self.header.write_even(first.line, first.lba, count, Form(0), at);
        for (lba, block) in (first.lba..).zip(data.chunks_exact(BLOCK_BYTES)) {
            self.header.check(Forms::plain_check(BlockVersion { lba, ..first }, block));
        }
    }

    /// Blocks that are encrypted or copied: one behind the other.
    fn run_whole(&mut self, first: BlockVersion, data: &[u8]) {
        self.staging.align();
        let count = u32::try_from(data.len() / BLOCK_BYTES).expect("a command's blocks are few");
        let form = if self.attributes.encrypt { Form(Form::ENCRYPTED) } else { Form(0) };
        let at = self.staging.room().0;
        self.header.write_even(first.line, first.lba, count, form, at);
        let as_is = LineAttributes { compress: false, ..self.attributes };
        for (lba, block) in (first.lba..).zip(data.chunks_exact(BLOCK_BYTES)) {
            let version = BlockVersion { lba, ..first };
            let made = self.forms.make(as_is, version, block, self.staging.room().1);
            self.staging.took(made.len);
            self.header.check(made.check);
        }
    }

    /// Blocks of whatever length they come to, packed. What stays as it is and would lie on pages of its own is written from where it is.
    fn run_packed(&mut self, first: BlockVersion, data: Slice) {
        let count = data.len() / BLOCK_BYTES;
        let whole = data.chunks_exact(BLOCK_BYTES).take_while(|block| !self.forms.packs(block)).count();
        if whole == count && self.staging.is_aligned() {
            return self.run_as_is(first, data);
        }
        let lends = !self.attributes.encrypt && lies_on_pages(&data);
        let blocks = u32::try_from(count).expect("a command's blocks are few");
        self.header.write_each(first.line, first.lba, blocks);
        for (i, block) in data.chunks_exact(BLOCK_BYTES).enumerate() {
            let version = BlockVersion { lba: first.lba + i as u64, ..first };
            // Those before the first that packs were looked at, and it was.
            let packs = i == whole || i > whole && self.forms.packs(block);
            if lends && !packs && self.staging.is_aligned() {
                let at = self.staging.lend(data.slice(i * BLOCK_BYTES..(i + 1) * BLOCK_BYTES));
                let check = Forms::plain_check(version, block);
                let granules = u16::try_from(granules(BLOCK_BYTES)).expect("a block");
                self.header.block(StoredBlock { at, granules, form: Form(0), check });
                continue;
            }
            let (at, room) = self.staging.room();
            let made =
                self.forms.make(LineAttributes { compress: packs, ..self.attributes }, version, block, room);
            self.staging.took(made.len);
            let granules = u16::try_from(granules(made.len)).expect("a block at most");
            self.header.block(StoredBlock { at, granules, form: made.form, check: made.check });
        }
    }
}

/// True when data can go to a drive from where it is.
pub(super) fn lies_on_pages(data: &[u8]) -> bool {
    data.as_ptr().addr().is_multiple_of(PAGE)
}
