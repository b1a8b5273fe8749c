//! Reads: look up, read what is contiguous in one go, verify every block, copy only where a read is in pieces.

use super::{Phase, Shard};
use crate::check::block_check;
use crate::format::page::{Level, PageRef, verify};
use crate::location::BLOCK_GRANULES;
use crate::map::{Found, Lookup};
use crate::{Done, StoreError, Ticket};
use dolmen_io::{Buf, Error, Io, Tag};
use dolmen_types::limits::BLOCK_BYTES;
use dolmen_types::{Lba, LineId, Nanos, Seq};
use smallvec::SmallVec;
use std::collections::VecDeque;

/// Event keys: shard in the top byte, then the kind, then what the kind needs.
pub(crate) const KIND_COMMIT: u64 = 1 << 52;
/// A piece of a read's data: request and piece.
pub(crate) const KIND_DATA: u64 = 2 << 52;
/// A leaf that a read needs: request.
pub(crate) const KIND_LEAF: u64 = 3 << 52;
/// The store's own timer.
pub(crate) const KIND_TIMER: u64 = 4 << 52;
/// Bits of the kind.
pub(crate) const KIND_MASK: u64 = 0xf << 52;
/// Bits of what the kind needs.
pub(crate) const ID_MASK: u64 = (1 << 52) - 1;
/// Bits of a piece's number.
const PIECE_BITS: u32 = 16;

/// How often a read looks its blocks up again when a block moved under it.
const MAX_ATTEMPTS: u32 = 4;

/// One read under way.
struct Request {
    ticket: Ticket,
    line: LineId,
    at: Option<Seq>,
    lba: u64,
    /// The caller's buffer; away while the one piece that fills it whole is read.
    buf: Option<Buf>,
    blocks: usize,
    /// What the map said, block by block, as far as it is known.
    entries: Vec<Option<Found>>,
    /// How far the map's answer is, block by block.
    levels: Vec<u8>,
    pieces: Vec<Piece>,
    outstanding: usize,
    error: Option<StoreError>,
    /// A block was not what the map said: it may have moved, look again.
    again: bool,
    attempts: u32,
    submitted: Nanos,
    drive: Nanos,
}

/// Blocks that lie one behind the other on a drive.
#[derive(Clone, Copy)]
struct Piece {
    first: usize,
    count: usize,
    /// It is the whole request and is read into the caller's buffer.
    whole: bool,
}

/// The reads of a shard.
#[derive(Default)]
pub(crate) struct Reads {
    slots: Vec<Option<Box<Request>>>,
    free: Vec<usize>,
    /// Reads that wait for a buffer.
    stalled: VecDeque<usize>,
    /// Finished requests' memory, for reuse.
    #[allow(clippy::vec_box)] // The boxes themselves are what is reused.
    spare: Vec<Box<Request>>,
    /// The leaf that each waiting request needs, and of which line.
    leaves: Vec<Option<(u64, PageRef)>>,
}

impl Reads {
    /// Reads that wait for a buffer are there.
    pub(crate) fn has_stalled(&self) -> bool {
        !self.stalled.is_empty()
    }
}

impl Shard {
    /// Starts a read.
    pub(crate) fn read(
        &mut self,
        io: &mut Io,
        line: LineId,
        at: Option<Seq>,
        lba: Lba,
        buf: Buf,
        ticket: Ticket,
    ) {
        let serves = matches!(self.phase, Phase::Serving | Phase::Stopped(_));
        let blocks = buf.len() / BLOCK_BYTES;
        let sound = serves && blocks > 0 && buf.len().is_multiple_of(BLOCK_BYTES);
        if !sound || lba.0.checked_add(blocks as u64).is_none() {
            let error = StoreError::Refused(
                "a read needs a serving shard and whole blocks below the last address".into(),
            );
            let none = Nanos(0);
            return self.done.push(Done {
                ticket,
                result: Err(error),
                buf: Some(buf),
                submitted: none,
                drive: none,
            });
        }
        let none = Nanos(0);
        let mut spare = self.reads.spare.pop();
        let (mut entries, mut levels, mut pieces) = match spare.as_deref_mut() {
            Some(old) => (
                std::mem::take(&mut old.entries),
                std::mem::take(&mut old.levels),
                std::mem::take(&mut old.pieces),
            ),
            None => Default::default(),
        };
        unresolve(&mut entries, &mut levels, blocks);
        pieces.clear();
        let request = Request {
            ticket,
            line,
            at,
            lba: lba.0,
            buf: Some(buf),
            blocks,
            entries,
            levels,
            pieces,
            outstanding: 0,
            error: None,
            again: false,
            attempts: 0,
            submitted: none,
            drive: none,
        };
        let request = match spare {
            Some(mut old) => {
                *old = request;
                old
            }
            None => Box::new(request),
        };
        let index = self.reads.free.pop().unwrap_or_else(|| {
            self.reads.slots.push(None);
            self.reads.leaves.push(None);
            self.reads.slots.len() - 1
        });
        self.reads.slots[index] = Some(request);
        self.resolve(io, index);
    }

    /// Tries again what waited for a buffer.
    pub(crate) fn retry_stalled(&mut self, io: &mut Io) {
        for _ in 0..self.reads.stalled.len() {
            if let Some(index) = self.reads.stalled.pop_front() {
                self.resolve(io, index);
            }
        }
    }

    /// Looks up what is not known yet; then reads the data, or first the leaf that is missing.
    fn resolve(&mut self, io: &mut Io, index: usize) {
        let Some(mut request) = self.reads.slots[index].take() else { return };
        let at = request.at.map(|s| s.0);
        let found = self.map.lookup(request.line, at, request.lba, &mut request.entries, &mut request.levels);
        match found {
            Lookup::NoLine => {
                request.error = Some(StoreError::NoLine(request.line));
                self.finish(index, request);
            }
            Lookup::NoSnapshot => {
                let at = request.at.unwrap_or_default();
                request.error = Some(StoreError::NoSnapshot { line: request.line, at });
                self.finish(index, request);
            }
            Lookup::Miss { line, page } => {
                let segment = self.segments.at(page.location.slot()).map(|s| s.unit);
                let bounds =
                    page.location.offset() + BLOCK_BYTES as u64 <= u64::from(self.geometry.unit_bytes);
                let Some(unit) = segment.filter(|_| bounds) else {
                    let reason = format!("a leaf is said to be at {}, which is nowhere", page.location);
                    request.error = Some(StoreError::Map { line: LineId(line), reason });
                    return self.finish(index, request);
                };
                if let Some(buf) = io.alloc(BLOCK_BYTES) {
                    let (file, offset) = self.geometry.place(unit, page.location.offset());
                    let key = self.tag.key | KIND_LEAF | index as u64;
                    if request.submitted == Nanos(0) {
                        request.submitted = io.now();
                    }
                    io.read(Tag { owner: self.tag.owner, key }, file, offset, buf);
                    self.reads.leaves[index] = Some((line, page));
                } else {
                    self.reads.stalled.push_back(index);
                }
                self.reads.slots[index] = Some(request);
            }
            Lookup::Complete => self.read_data(io, index, request),
        }
    }

    /// Reads the stored blocks of a resolved request, or ends it when there are none.
    fn read_data(&mut self, io: &mut Io, index: usize, mut request: Box<Request>) {
        cut_pieces(&request.entries, &mut request.pieces);
        // All buffers first, so that a short pool leaves nothing half begun.
        let whole = request.pieces.first().is_some_and(|p| p.count == request.blocks);
        let mut bufs = SmallVec::<[Buf; 4]>::new();
        if !whole {
            for piece in &request.pieces {
                match io.alloc(piece.count * BLOCK_BYTES) {
                    Some(buf) => bufs.push(buf),
                    None => {
                        request.pieces.clear();
                        self.reads.slots[index] = Some(request);
                        return self.reads.stalled.push_back(index);
                    }
                }
            }
            zero_unmapped(&mut request);
        } else if let Some(buf) = request.buf.take() {
            request.pieces[0].whole = true;
            bufs.push(buf);
        }
        if request.submitted == Nanos(0) && !bufs.is_empty() {
            request.submitted = io.now();
        }
        let mut nowhere = None;
        for (number, buf) in bufs.into_iter().enumerate() {
            let piece = request.pieces[number];
            let location =
                request.entries[piece.first].map_or(crate::location::Location(0), |f| f.entry.location);
            let end = location.offset() + (piece.count * BLOCK_BYTES) as u64;
            match self.segments.at(location.slot()) {
                Some(segment) if end <= u64::from(self.geometry.unit_bytes) => {
                    let (file, offset) = self.geometry.place(segment.unit, location.offset());
                    let key = self.tag.key | KIND_DATA | (index as u64) << PIECE_BITS | number as u64;
                    io.read(Tag { owner: self.tag.owner, key }, file, offset, buf);
                    request.outstanding += 1;
                }
                _ => {
                    nowhere = Some(StoreError::Integrity {
                        line: request.line,
                        lba: Lba(request.lba + piece.first as u64),
                    });
                    if piece.whole {
                        request.buf = Some(buf);
                    }
                }
            }
        }
        request.error = request.error.take().or(nowhere);
        if request.outstanding == 0 {
            self.finish(index, request);
        } else {
            self.reads.slots[index] = Some(request);
        }
    }

    /// A leaf that a read waited for.
    pub(crate) fn leaf_arrived(&mut self, io: &mut Io, id: u64, result: Result<Buf, (Error, Option<Buf>)>) {
        let Some(index) = usize::try_from(id).ok().filter(|&i| i < self.reads.slots.len()) else { return };
        let (Some((line, page)), Some(mut request)) =
            (self.reads.leaves[index].take(), self.reads.slots[index].take())
        else {
            return;
        };
        request.drive = io.now();
        match result {
            Ok(buf) if verify(&buf, Level::Leaf, line, &page) => {
                self.map.leaf_read(LineId(line), &page, &buf);
            }
            Ok(_) => {
                // A checkpoint may have replaced the leaf and its place may be in use again: then the lookup asks for another.
                request.attempts += 1;
                if request.attempts >= MAX_ATTEMPTS {
                    self.counters.integrity_errors += 1;
                    let reason = format!("the leaf at {} does not check", page.location);
                    request.error = Some(StoreError::Map { line: LineId(line), reason });
                    return self.finish(index, request);
                }
            }
            Err((error, _)) => {
                request.error = Some(StoreError::Medium { reason: error.to_string() });
                return self.finish(index, request);
            }
        }
        self.reads.slots[index] = Some(request);
        self.resolve(io, index);
    }

    /// A piece of data that a read waited for.
    pub(crate) fn data_arrived(&mut self, io: &mut Io, id: u64, result: Result<Buf, (Error, Option<Buf>)>) {
        let (index, number) = (id >> PIECE_BITS, id & ((1 << PIECE_BITS) - 1));
        let (Ok(index), Ok(number)) = (usize::try_from(index), usize::try_from(number)) else { return };
        let Some(mut request) = self.reads.slots.get_mut(index).and_then(Option::take) else { return };
        let Some(&piece) = request.pieces.get(number) else {
            self.reads.slots[index] = Some(request);
            return;
        };
        request.outstanding -= 1;
        request.drive = io.now();
        match result {
            Ok(buf) => {
                request.again |= !verify_piece(&request, piece, &buf);
                if piece.whole {
                    request.buf = Some(buf);
                } else if let Some(target) = request.buf.as_mut() {
                    let from = piece.first * BLOCK_BYTES;
                    target[from..from + buf.len()].copy_from_slice(&buf);
                }
            }
            Err((error, buf)) => {
                request.error = Some(StoreError::Medium { reason: error.to_string() });
                if piece.whole {
                    request.buf = buf;
                }
            }
        }
        if request.outstanding > 0 {
            self.reads.slots[index] = Some(request);
        } else if request.again && request.error.is_none() {
            self.look_again(io, index, request);
        } else {
            self.finish(index, request);
        }
    }

    /// Some block was not what the map said. If the map says something else by now, the block moved and its old place is in
    /// use again; if it insists, the block is damaged.
    fn look_again(&mut self, io: &mut Io, index: usize, mut request: Box<Request>) {
        request.again = false;
        request.attempts += 1;
        let before = std::mem::take(&mut request.entries);
        unresolve(&mut request.entries, &mut request.levels, request.blocks);
        let at = request.at.map(|s| s.0);
        let found = self.map.lookup(request.line, at, request.lba, &mut request.entries, &mut request.levels);
        let unchanged = found == Lookup::Complete && request.entries == before;
        if unchanged || request.attempts >= MAX_ATTEMPTS {
            self.counters.integrity_errors += 1;
            let lba = Lba(request.lba + first_damaged(&request, &before) as u64);
            request.error = Some(StoreError::Integrity { line: request.line, lba });
            return self.finish(index, request);
        }
        unresolve(&mut request.entries, &mut request.levels, request.blocks);
        request.pieces.clear();
        self.reads.slots[index] = Some(request);
        self.resolve(io, index);
    }

    fn finish(&mut self, index: usize, mut request: Box<Request>) {
        let result = request.error.take().map_or(Ok(()), Err);
        let (submitted, drive) = (request.submitted, request.drive);
        self.done.push(Done { ticket: request.ticket, result, buf: request.buf.take(), submitted, drive });
        self.reads.free.push(index);
        if self.reads.spare.len() < 64 {
            self.reads.spare.push(request);
        }
    }
}

/// Nothing is known of so many blocks.
fn unresolve(entries: &mut Vec<Option<Found>>, levels: &mut Vec<u8>, blocks: usize) {
    entries.clear();
    entries.resize(blocks, None);
    levels.clear();
    levels.resize(blocks, 0);
}

/// Zeros the parts of the caller's buffer that no piece fills.
fn zero_unmapped(request: &mut Request) {
    let Some(buf) = request.buf.as_mut() else { return };
    for (block, entry) in buf.chunks_exact_mut(BLOCK_BYTES).zip(&request.entries) {
        if entry.is_none() {
            block.fill(0);
        }
    }
}

/// Cuts resolved blocks into runs that lie one behind the other in one segment.
fn cut_pieces(entries: &[Option<Found>], pieces: &mut Vec<Piece>) {
    pieces.clear();
    let mut next = None;
    for (i, found) in entries.iter().enumerate() {
        if let Some(f) = found {
            match pieces.last_mut() {
                Some(piece) if next == Some(f.entry.location) => piece.count += 1,
                _ => pieces.push(Piece { first: i, count: 1, whole: false }),
            }
        }
        next = found.map(|f| f.entry.location.plus(BLOCK_GRANULES));
    }
}

/// The check belongs to the line that the block was written to.
fn block_holds(request: &Request, index: usize, found: &Found, bytes: &[u8]) -> bool {
    let Found { line, entry } = found;
    block_check(*line, request.lba + index as u64, entry.seq, bytes) == entry.check
}

fn verify_piece(request: &Request, piece: Piece, bytes: &[u8]) -> bool {
    let blocks = bytes.chunks_exact(BLOCK_BYTES).enumerate();
    blocks
        .map(|(i, b)| (piece.first + i, b))
        .all(|(i, b)| request.entries[i].is_some_and(|f| block_holds(request, i, &f, b)))
}

/// Which block of a failed read does not hold.
fn first_damaged(request: &Request, entries: &[Option<Found>]) -> usize {
    let Some(buf) = &request.buf else { return 0 };
    let damaged =
        |(i, (b, f)): &(usize, (&[u8], &Option<Found>))| f.is_some_and(|f| !block_holds(request, *i, &f, b));
    buf.chunks_exact(BLOCK_BYTES).zip(entries).enumerate().find(damaged).map_or(0, |(i, _)| i)
}
