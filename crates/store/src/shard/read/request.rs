//! One read under way: what it asks for, what the map said, and the pieces that it is read in.

use crate::map::{Entry, Found, Levels, Newest};
use crate::shard::Span;
use crate::stored::{BlockVersion, Forms};
use crate::{StoreError, Ticket, Timing};
use dolmen_io::Buf;
use dolmen_types::limits::BLOCK_BYTES;
use dolmen_types::{Lba, LineId, Nanos, Seq};

/// One read under way.
#[derive(Default)]
pub(super) struct Request {
    pub(super) ticket: Ticket,
    /// Number of the attempt; what belongs to earlier ones is not looked at.
    pub(super) serial: u64,
    /// When the attempt began.
    pub(super) since: Nanos,
    /// The leaf that is waited for is read through other columns.
    pub(super) mending: bool,
    /// The drive that was asked for it.
    pub(super) asked: u16,
    pub(super) line: LineId,
    pub(super) at: Option<Seq>,
    pub(super) lba: u64,
    /// The caller's buffer; away while the one piece that fills it whole is read.
    pub(super) buf: Option<Buf>,
    pub(super) blocks: usize,
    /// What the map said, block by block, as far as it is known.
    pub(super) entries: Vec<Option<Found>>,
    /// How far the map's answer is, block by block.
    pub(super) levels: Levels,
    pub(super) pieces: Vec<Piece>,
    pub(super) outstanding: usize,
    pub(super) error: Option<StoreError>,
    /// What a drive said that could not read some piece of the attempt.
    pub(super) unreadable: Option<String>,
    pub(super) attempts: u32,
    pub(super) timing: Timing,
}

/// Blocks that are read in one go.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub(super) first: usize,
    pub(super) count: usize,
    /// The pages that hold them.
    pub(super) span: Span,
    /// The drive that was asked for them.
    pub(super) asked: u16,
    /// The first block in it that was not what the map said or could not be read: it may have moved, look again.
    pub(super) wrong: Option<usize>,
    /// It is read through other columns, or was.
    pub(super) mending: bool,
    /// It is there.
    pub(super) done: bool,
}

impl Piece {
    /// One block, the request's `first`.
    pub(super) fn of(first: usize, entry: &Entry) -> Piece {
        let span = Span::of(entry);
        Piece { first, count: 1, span, asked: 0, wrong: None, mending: false, done: false }
    }
}

impl Request {
    /// Becomes a read that has not begun, whatever it was before.
    pub(super) fn begin(&mut self, ticket: Ticket, (line, at, lba): (LineId, Option<Seq>, Lba), buf: Buf) {
        let blocks = buf.len() / BLOCK_BYTES;
        unresolve(&mut self.entries, &mut self.levels, blocks);
        self.pieces.clear();
        (self.ticket, self.line, self.at, self.lba) = (ticket, line, at, lba.0);
        (self.buf, self.blocks) = (Some(buf), blocks);
        (self.serial, self.since, self.mending) = (0, Nanos(0), false);
        (self.outstanding, self.error, self.unreadable, self.attempts) = (0, None, None, 0);
        self.timing = Timing::default();
    }

    /// Takes what the map says of its first block; true when that is all that it asks for.
    pub(super) fn settle(&mut self, answer: &Newest) -> bool {
        if self.blocks > 1 || self.at.is_some() {
            return false;
        }
        self.entries[0] = match answer {
            Newest::Stored(found) => Some(*found),
            Newest::Nothing => None,
            Newest::Unknown => return false,
        };
        self.levels.resolve(0);
        true
    }

    /// A piece could not be read, at least not here.
    pub(super) fn unread(&mut self, number: usize, why: String) {
        let piece = &mut self.pieces[number];
        piece.wrong = Some(piece.first);
        self.unreadable = Some(why);
    }

    /// The first block that is not there although all pieces ended.
    pub(super) fn wrong(&self) -> Option<usize> {
        self.pieces.iter().filter_map(|piece| piece.wrong).min()
    }
}

/// Verifies the blocks of a piece and puts what was written where the caller wants it: into its buffer, or where it lies while that
/// buffer is away. The first block that is not what the map said.
pub(super) fn take_piece(
    request: &mut Request,
    piece: Piece,
    mut buf: Buf,
    forms: &mut Forms,
) -> Option<usize> {
    let (mut damaged, in_place) = (None, request.buf.is_none());
    for i in piece.first..piece.first + piece.count {
        let Some(Found { line, entry }) = request.entries[i] else { continue };
        let version = BlockVersion { line, lba: request.lba + i as u64, seq: entry.seq };
        let target = i * BLOCK_BYTES..(i + 1) * BLOCK_BYTES;
        let undone = match request.buf.as_mut() {
            Some(block) => piece.span.part(&entry, &buf).is_some_and(|stored| {
                forms.open(entry.form, version, stored, entry.check, &mut block[target])
            }),
            None => forms.open_in_place(entry.form, version, entry.check, &mut buf[target]),
        };
        if !undone {
            damaged = damaged.or(Some(i));
        }
    }
    if in_place {
        request.buf = Some(buf);
    }
    damaged
}

/// Nothing is known of so many blocks.
pub(super) fn unresolve(entries: &mut Vec<Option<Found>>, levels: &mut Levels, blocks: usize) {
    entries.clear();
    entries.resize(blocks, None);
    levels.begin(blocks);
}

/// Zeros the parts of the caller's buffer that no piece fills.
pub(super) fn zero_unmapped(request: &mut Request) {
    let Some(buf) = request.buf.as_mut() else { return };
    for (block, entry) in buf.chunks_exact_mut(BLOCK_BYTES).zip(&request.entries) {
        if entry.is_none() {
            block.fill(0);
        }
    }
}

/// Cuts resolved blocks into runs that are read in one go, at most `max_bytes` each.
pub(super) fn cut_pieces(entries: &[Option<Found>], max_bytes: usize, pieces: &mut Vec<Piece>) {
    pieces.clear();
    let mut open = false;
    for (first, entry) in entries.iter().enumerate() {
        let Some(e) = entry else {
            open = false;
            continue;
        };
        let last = pieces.last_mut().filter(|_| open);
        match last.and_then(|piece| piece.span.extend(&e.entry, max_bytes).then_some(piece)) {
            Some(piece) => piece.count += 1,
            None => {
                pieces.push(Piece::of(first, &e.entry));
            }
        }
        open = true;
    }
}

/// True when a piece is the whole request, stored on pages of its own and as long as it was: it may be read to where it is
/// wanted.
pub(super) fn is_whole(piece: &Piece, entries: &[Option<Found>]) -> bool {
    piece.count == entries.len()
        && piece.span.len() == entries.len() * BLOCK_BYTES
        && entries.iter().all(|e| e.is_some_and(|f| is_kept(&f.entry)))
}

/// True for a block whose stored form is as long as it was.
pub(super) fn is_kept(entry: &Entry) -> bool {
    entry.form.is_whole() && entry.bytes() as usize == BLOCK_BYTES
}
