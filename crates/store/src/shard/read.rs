//! Reads: look up, read what is contiguous in one go, verify every block, copy only where a read is in pieces. What does not
//! work out directly is answered through other columns (`mend.rs`).

mod request;

use super::fetch::FetchError;
use super::mend::{Job, Mended, Wanted};
use super::{MoveItem, Phase, Shard};
use crate::format::page::{Level, PageRef, verify};
use crate::location::Location;
use crate::map::{Asked, Entry, Found, Lookup, Newest};
use crate::{Done, StoreError, Ticket, Timing};
use dolmen_io::{Buf, Error, FileId, Io, Tag};
use dolmen_types::limits::BLOCK_BYTES;
use dolmen_types::{Lba, LineId, Nanos, Seq};
use request::{Piece, Request, cut_pieces, is_kept, is_whole, take_piece, unresolve, zero_unmapped};
use smallvec::SmallVec;
use std::collections::VecDeque;

/// Event keys: shard in the top byte, then the kind, then what the kind needs. A column of a commit: number and column.
pub(crate) const KIND_COMMIT: u64 = 1 << 52;
/// A piece of a read's data: attempt, request and piece.
pub(crate) const KIND_DATA: u64 = 2 << 52;
/// A leaf that a read needs: attempt and request.
pub(crate) const KIND_LEAF: u64 = 3 << 52;
/// The store's own timer.
pub(crate) const KIND_TIMER: u64 = 4 << 52;
/// Bits of the kind.
pub(crate) const KIND_MASK: u64 = 0xf << 52;
/// Bits of what the kind needs.
pub(crate) const ID_MASK: u64 = (1 << 52) - 1;
/// Bits of a piece's number.
const PIECE_BITS: u32 = 16;
/// Bits of a request's number.
const INDEX_BITS: u32 = 16;
/// Bits of an attempt's number: it comes again only when everything of that time has long ended.
const SERIAL_MASK: u64 = (1 << 20) - 1;

/// One of so many reads is measured while the forms of its blocks are undone.
const MEASURED_OF: u64 = 8;

/// How often a read looks its blocks up again when a block moved under it.
const MAX_ATTEMPTS: u32 = 4;

/// The reads of a shard.
#[derive(Default)]
pub(crate) struct Reads {
    slots: Vec<Option<Box<Request>>>,
    free: Vec<usize>,
    /// Reads that came in this turn.
    fresh: Vec<usize>,
    /// What the map is asked for them, and what it says.
    asked: Vec<Asked>,
    answers: Vec<Newest>,
    /// Reads that wait for a buffer.
    stalled: VecDeque<usize>,
    /// Finished requests' memory, for reuse.
    #[allow(clippy::vec_box)] // The boxes themselves are what is reused.
    spare: Vec<Box<Request>>,
    /// The leaf that each waiting request needs, and of which line.
    leaves: Vec<Option<(u64, PageRef)>>,
    serial: u64,
    /// What the last block whose form was undone took, of those that were measured. Nanoseconds.
    block_ns: u64,
}

impl Reads {
    /// Reads that wait for a buffer are there.
    pub(crate) fn has_stalled(&self) -> bool {
        !self.stalled.is_empty()
    }

    /// Reads are under way.
    pub(crate) fn under_way(&self) -> bool {
        self.free.len() < self.slots.len()
    }

    fn next_serial(&mut self) -> u64 {
        self.serial = (self.serial + 1) & SERIAL_MASK;
        self.serial
    }
}

impl Shard {
    /// Takes a read in: it begins with all others of this turn.
    pub(crate) fn read(&mut self, line: LineId, at: Option<Seq>, lba: Lba, buf: Buf, ticket: Ticket) {
        let serves = matches!(self.phase, Phase::Serving | Phase::Stopped(_));
        let blocks = buf.len() / BLOCK_BYTES;
        let room = !self.reads.free.is_empty() || self.reads.slots.len() < 1 << INDEX_BITS;
        let sound = serves && room && blocks > 0 && buf.len().is_multiple_of(BLOCK_BYTES);
        if !sound || lba.0.checked_add(blocks as u64).is_none() {
            let error = StoreError::Refused(
                "a read needs a serving shard and whole blocks below the last address".into(),
            );
            let result = Err(error);
            return self.done.push(Done { ticket, result, buf: Some(buf), timing: Timing::default() });
        }
        let mut request = self.reads.spare.pop().unwrap_or_default();
        request.begin(ticket, (line, at, lba), buf);
        let index = self.reads.free.pop().unwrap_or_else(|| {
            self.reads.slots.push(None);
            self.reads.leaves.push(None);
            self.reads.slots.len() - 1
        });
        self.reads.slots[index] = Some(request);
        self.reads.fresh.push(index);
    }

    /// Begins the reads that came in: their first blocks are looked up together. Of most that is all.
    pub(crate) fn begin_reads(&mut self, io: &mut Io) {
        if self.reads.fresh.is_empty() {
            return;
        }
        let Reads { slots, fresh, asked, answers, .. } = &mut self.reads;
        let (mut fresh, mut answers) = (std::mem::take(fresh), std::mem::take(answers));
        asked.clear();
        asked.extend(fresh.iter().map(|&index| match &slots[index] {
            Some(request) => Asked { line: request.line.0, lba: request.lba, seq: 0 },
            None => Asked::default(),
        }));
        self.map.newest(asked, &mut answers);
        for (index, answer) in fresh.drain(..).zip(&answers) {
            match self.reads.slots[index].take_if(|request| request.settle(answer)) {
                Some(request) => self.read_data(io, index, request),
                None => self.resolve(io, index),
            }
        }
        (self.reads.fresh, self.reads.answers) = (fresh, answers);
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
            Lookup::Miss { line, page } => self.read_leaf(io, index, request, line, page),
            Lookup::Complete => self.read_data(io, index, request),
        }
    }

    /// Reads a leaf that a request needs.
    fn read_leaf(&mut self, io: &mut Io, index: usize, mut request: Box<Request>, line: u64, page: PageRef) {
        if !self.is_somewhere(page.location, BLOCK_BYTES) {
            let reason = format!("a leaf is said to be at {}, which is nowhere", page.location);
            request.error = Some(StoreError::Map { line: LineId(line), reason });
            return self.finish(index, request);
        }
        (request.serial, request.since, request.mending) = (self.reads.next_serial(), io.now(), false);
        if request.timing.submitted == Nanos(0) {
            request.timing.submitted = io.now();
        }
        match self.direct(page.location) {
            Some((drive, file, offset)) => match io.alloc(BLOCK_BYTES) {
                Some(buf) => {
                    request.asked = drive;
                    let key = self.tag.key | KIND_LEAF | read_key(request.serial, index, 0);
                    io.read(Tag { owner: self.tag.owner, key }, file, offset, buf);
                    self.reads.leaves[index] = Some((line, page));
                }
                None => self.reads.stalled.push_back(index),
            },
            None => {
                self.reads.leaves[index] = Some((line, page));
                self.mend_leaf(index, &mut request, line, page);
            }
        }
        self.reads.slots[index] = Some(request);
    }

    /// Asks for a leaf through other columns.
    fn mend_leaf(&mut self, index: usize, request: &mut Request, line: u64, page: PageRef) {
        request.mending = true;
        let wanted = Wanted::Leaf { line, page };
        self.mends.push(Job { index, serial: request.serial, wanted });
    }

    /// True when there may be stored bytes at a location.
    fn is_somewhere(&self, location: Location, len: usize) -> bool {
        let (column, offset) = location.place(self.drives.unit_bytes);
        let inside = u64::from(offset) + len as u64 <= u64::from(self.drives.unit_bytes);
        inside && self.segments.at(location.slot()).is_some_and(|s| column < s.columns.data())
    }

    /// Where the bytes at a location can be read in one go, and on which drive: in their column, or in a copy of it. Not on a drive that
    /// answers late, where other columns can give them.
    fn direct(&self, location: Location) -> Option<(u16, FileId, u64)> {
        let columns = self.segments.at(location.slot())?.columns;
        let (column, offset) = location.place(self.drives.unit_bytes);
        let copies = if columns.data() == 1 { columns.len() } else { 1 };
        let mut units = (column..column + copies).filter_map(|c| columns.unit(c));
        let unit = if columns.parity() == 0 {
            units.next()
        } else {
            units.find(|&unit| self.drives.prompt_place(unit, offset).is_some())
        };
        let (file, at) = self.drives.place(unit?, offset)?;
        Some((unit?.drive, file, at))
    }

    /// The drive of the column that a location lies in.
    fn drive_of(&self, location: Location) -> Option<u16> {
        let columns = self.segments.at(location.slot())?.columns;
        columns.unit(location.place(self.drives.unit_bytes).0).map(|unit| unit.drive)
    }

    /// True when other columns than its own can give the bytes at a location.
    fn mendable(&self, location: Location) -> bool {
        self.segments.at(location.slot()).is_some_and(|s| s.columns.parity() > 0)
    }

    /// Reads the stored blocks of a resolved request, or ends it when there are none.
    fn read_data(&mut self, io: &mut Io, index: usize, mut request: Box<Request>) {
        if let Some(error) = self.unfit(&request) {
            request.error = Some(error);
            return self.finish(index, request);
        }
        if let [Some(Found { entry, .. })] = request.entries[..]
            && let Some((drive, file, offset)) = self.page_of_its_own(&entry)
            && let Some(buf) = request.buf.take()
        {
            // Most reads are like this one.
            request.pieces.clear();
            request.pieces.push(Piece { asked: drive, ..Piece::of(0, &entry) });
            self.sent(io, &mut request);
            request.outstanding = 1;
            let key = self.tag.key | KIND_DATA | read_key(request.serial, index, 0);
            io.read(Tag { owner: self.tag.owner, key }, file, offset, buf);
            self.reads.slots[index] = Some(request);
            return;
        }
        if request.buf.is_none() {
            // It is away with a read of an earlier attempt that has not ended.
            request.buf = io.alloc(request.blocks * BLOCK_BYTES);
        }
        if request.buf.is_none() {
            self.reads.slots[index] = Some(request);
            return self.reads.stalled.push_back(index);
        }
        cut_pieces(&request.entries, io.pool().largest(), &mut request.pieces);
        let nowhere = |p: &&mut Piece| !self.is_somewhere(p.span.location(), p.span.len());
        if let Some(piece) = request.pieces.iter_mut().find(nowhere) {
            // While it waited for a leaf or a buffer, cleaning may have moved what was looked up first, and the segment is gone.
            piece.wrong = Some(piece.first);
            return self.look_again(io, index, request);
        }
        // All buffers first, so that a short pool leaves nothing half begun.
        let whole = request.pieces.first().is_some_and(|p| is_whole(p, &request.entries));
        let mut bufs = SmallVec::<[Buf; 4]>::new();
        if !whole {
            for piece in &request.pieces {
                match io.alloc(piece.span.len()) {
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
            bufs.push(buf);
        }
        if bufs.is_empty() {
            return self.finish(index, request);
        }
        self.sent(io, &mut request);
        for (number, buf) in bufs.into_iter().enumerate() {
            let piece = request.pieces[number];
            request.outstanding += 1;
            if let Some((drive, file, offset)) = self.direct(piece.span.location()) {
                request.pieces[number].asked = drive;
                let key = self.tag.key | KIND_DATA | read_key(request.serial, index, number);
                io.read(Tag { owner: self.tag.owner, key }, file, offset, buf);
            } else {
                if whole {
                    request.buf = Some(buf);
                }
                self.mend_piece(index, &mut request, number);
            }
        }
        self.reads.slots[index] = Some(request);
    }

    /// An attempt's drive operations begin.
    fn sent(&mut self, io: &Io, request: &mut Request) {
        (request.serial, request.since) = (self.reads.next_serial(), io.now());
        if request.timing.submitted == Nanos(0) {
            request.timing.submitted = io.now();
        }
    }

    /// Where a block that is as long as it was, on a page of its own, can be read in one go.
    fn page_of_its_own(&self, entry: &Entry) -> Option<(u16, FileId, u64)> {
        let (column, offset) = entry.location.place(self.drives.unit_bytes);
        let whole = is_kept(entry) && (offset as usize).is_multiple_of(BLOCK_BYTES);
        let inside = u64::from(offset) + BLOCK_BYTES as u64 <= u64::from(self.drives.unit_bytes);
        let columns = &self.segments.at(entry.location.slot()).filter(|_| whole && inside)?.columns;
        if column >= columns.data() {
            return None;
        }
        let unit = columns.unit(column)?;
        self.drives.prompt_place(unit, offset).map(|(file, at)| (unit.drive, file, at))
    }

    /// Why the blocks that the map names may not be served: a line's key is not here, or a block of an encrypted line claims not
    /// to be encrypted, which nobody with the key has written.
    fn unfit(&self, request: &Request) -> Option<StoreError> {
        // Blocks of one line mostly lie side by side.
        let mut last = None;
        for (found, lba) in request.entries.iter().zip(request.lba..) {
            let Some(Found { line, entry }) = found else { continue };
            let encrypted = match last {
                Some((known, encrypted)) if known == *line => encrypted,
                _ => self.attributes(*line).is_some_and(|a| a.encrypt),
            };
            let is_new = last.replace((*line, encrypted)) != Some((*line, encrypted));
            if is_new && encrypted && !self.forms.has_key(*line) {
                return Some(StoreError::NoKey(LineId(*line)));
            }
            if encrypted && !entry.form.is_encrypted() {
                return Some(StoreError::Integrity { line: request.line, lba: Lba(lba) });
            }
        }
        None
    }

    /// Asks for a piece through other columns.
    fn mend_piece(&mut self, index: usize, request: &mut Request, number: usize) {
        let piece = &mut request.pieces[number];
        piece.mending = true;
        let found =
            request.entries[piece.first..piece.first + piece.count].iter().flatten().copied().collect();
        let lba = request.lba + piece.first as u64;
        let wanted = Wanted::Blocks { lba, found, span: piece.span, piece: number };
        self.mends.push(Job { index, serial: request.serial, wanted });
    }

    /// Takes the request of an attempt out of its place, if it is still that attempt.
    fn take_request(&mut self, index: usize, serial: u64) -> Option<Box<Request>> {
        self.reads.slots.get_mut(index)?.take_if(|r| r.serial == serial)
    }

    /// A leaf that a read waited for.
    pub(crate) fn leaf_arrived(&mut self, io: &mut Io, id: u64, result: Result<Buf, (Error, Option<Buf>)>) {
        let (serial, index, _) = split_key(id);
        let result = result.map_err(|(error, _)| FetchError::Medium(error.to_string()));
        self.leaf_came(io, index, serial, result, true);
    }

    fn leaf_came(
        &mut self,
        io: &mut Io,
        index: usize,
        serial: u64,
        result: Result<Buf, FetchError>,
        direct: bool,
    ) {
        let Some(mut request) = self.take_request(index, serial) else { return };
        let Some((line, page)) = self.reads.leaves[index] else {
            self.reads.slots[index] = Some(request);
            return;
        };
        let holds = result.as_ref().is_ok_and(|buf| verify(buf, Level::Leaf, line, &page));
        if direct && !holds && self.mendable(page.location) {
            if !request.mending {
                self.mend_leaf(index, &mut request, line, page);
            }
            self.reads.slots[index] = Some(request);
            return;
        }
        self.reads.leaves[index] = None;
        request.timing.drive = io.now();
        request.timing.slowest = self.drive_of(page.location);
        match result {
            Ok(buf) if holds => self.map.leaf_read(LineId(line), &page, &buf),
            Err(FetchError::Medium(reason)) if self.map.has_leaf(LineId(line), &page) => {
                request.error = Some(StoreError::Medium { reason });
                return self.finish(index, request);
            }
            _ => {
                // A checkpoint may have replaced the leaf and its place may be in use again: then the lookup asks for another.
                request.attempts += 1;
                if request.attempts >= MAX_ATTEMPTS {
                    self.counters.integrity_errors += 1;
                    self.lost_leaf(line, &page);
                    let reason = format!("the leaf at {} does not check", page.location);
                    request.error = Some(StoreError::Map { line: LineId(line), reason });
                    return self.finish(index, request);
                }
            }
        }
        self.reads.slots[index] = Some(request);
        self.resolve(io, index);
    }

    /// A piece of data that a read waited for.
    pub(crate) fn data_arrived(&mut self, io: &mut Io, id: u64, result: Result<Buf, (Error, Option<Buf>)>) {
        let (serial, index, number) = split_key(id);
        let Some(mut request) = self.take_request(index, serial) else { return };
        let Some(piece) = request.pieces.get(number).copied().filter(|p| !p.done) else {
            self.reads.slots[index] = Some(request);
            return;
        };
        match result {
            Ok(buf) => {
                let damaged = self.undo(io, &mut request, piece, buf);
                if piece.mending && damaged.is_some() {
                    // It was late and is wrong: what comes through other columns decides.
                    self.reads.slots[index] = Some(request);
                    return;
                }
                request.pieces[number].wrong = damaged;
            }
            Err((error, buf)) => {
                if let Some(buf) = buf.filter(|_| request.buf.is_none()) {
                    request.buf = Some(buf);
                }
                if self.mendable(piece.span.location()) {
                    if !piece.mending {
                        self.mend_piece(index, &mut request, number);
                    }
                    self.reads.slots[index] = Some(request);
                    return;
                }
                request.unread(number, error.to_string());
            }
        }
        self.piece_ended(io, index, request, number);
    }

    /// Takes a piece in, and the time that it takes when its blocks are not stored as they came.
    fn undo(&mut self, io: &Io, request: &mut Request, piece: Piece, buf: Buf) -> Option<usize> {
        let first = request.entries[piece.first].as_ref();
        if first.is_none_or(|found| found.entry.form.is_plain()) {
            return take_piece(request, piece, buf, &mut self.forms);
        }
        let blocks = piece.count as u64;
        if !request.serial.is_multiple_of(MEASURED_OF) {
            request.timing.work_ns += blocks * self.reads.block_ns;
            return take_piece(request, piece, buf, &mut self.forms);
        }
        let began = io.moment();
        let damaged = take_piece(request, piece, buf, &mut self.forms);
        let took_ns = io.moment().since(began);
        self.reads.block_ns = took_ns / blocks;
        request.timing.work_ns += took_ns;
        damaged
    }

    /// Takes what was read through other columns.
    pub(crate) fn take_mended(&mut self, io: &mut Io) {
        for Mended { job, result } in std::mem::take(&mut self.mends.done) {
            match job.wanted {
                Wanted::Leaf { .. } => self.leaf_came(io, job.index, job.serial, result, false),
                Wanted::Blocks { piece: number, .. } => {
                    let Some(mut request) = self.take_request(job.index, job.serial) else { continue };
                    let Some(piece) = request.pieces.get(number).copied().filter(|p| !p.done) else {
                        self.reads.slots[job.index] = Some(request);
                        continue;
                    };
                    match result {
                        Ok(buf) => {
                            let damaged = take_piece(&mut request, piece, buf, &mut self.forms);
                            request.pieces[number].wrong = damaged;
                        }
                        Err(FetchError::Damaged | FetchError::Nowhere) => {
                            request.pieces[number].wrong = piece.wrong.or(Some(piece.first));
                        }
                        Err(FetchError::Medium(why)) => request.unread(number, why),
                    }
                    self.piece_ended(io, job.index, request, number);
                }
            }
        }
    }

    fn piece_ended(&mut self, io: &mut Io, index: usize, mut request: Box<Request>, number: usize) {
        request.pieces[number].done = true;
        request.outstanding -= 1;
        request.timing.drive = io.now();
        request.timing.slowest = self.drive_of(request.pieces[number].span.location());
        if request.outstanding > 0 {
            self.reads.slots[index] = Some(request);
        } else if request.wrong().is_some() {
            self.look_again(io, index, request);
        } else {
            self.finish(index, request);
        }
    }

    /// Asks for what has been under way for long through other columns as well.
    pub(crate) fn look_for_slow_reads(&mut self) {
        let bound_ns = self.tuning.slow_read_ms * 1_000_000;
        for index in 0..self.reads.slots.len() {
            let late = |r: &mut Box<Request>| r.since != Nanos(0) && self.now.since(r.since) > bound_ns;
            let Some(mut request) = self.reads.slots[index].take_if(late) else { continue };
            if let Some((line, page)) = self.reads.leaves[index] {
                if !request.mending && self.mendable(page.location) {
                    self.drives.doubt(request.asked, self.now);
                    self.mend_leaf(index, &mut request, line, page);
                }
            } else {
                for number in 0..request.pieces.len() {
                    let piece = request.pieces[number];
                    if !piece.done && !piece.mending && self.mendable(piece.span.location()) {
                        self.drives.doubt(piece.asked, self.now);
                        self.mend_piece(index, &mut request, number);
                    }
                }
            }
            self.reads.slots[index] = Some(request);
        }
    }

    /// Some block was not what the map said, or could not be read. If the map says something else by now, the block moved and its old
    /// place is in use again, or was given up with its drive; if it insists, the block can't be had, unless other columns still have it.
    fn look_again(&mut self, io: &mut Io, index: usize, mut request: Box<Request>) {
        request.attempts += 1;
        let before = std::mem::take(&mut request.entries);
        unresolve(&mut request.entries, &mut request.levels, request.blocks);
        let at = request.at.map(|s| s.0);
        let found = self.map.lookup(request.line, at, request.lba, &mut request.entries, &mut request.levels);
        let unchanged = found == Lookup::Complete && request.entries == before;
        let lost = if unchanged { self.beyond_mending(&request) } else { None };
        if unchanged && lost.is_none() {
            self.mend_wrong(index, &mut request);
            self.reads.slots[index] = Some(request);
            return;
        }
        if unchanged || request.attempts >= MAX_ATTEMPTS {
            request.error = Some(match request.unreadable.take() {
                Some(reason) => StoreError::Medium { reason },
                None => {
                    self.counters.integrity_errors += 1;
                    let block = lost.or(request.wrong()).unwrap_or(0);
                    StoreError::Integrity { line: request.line, lba: Lba(request.lba + block as u64) }
                }
            });
            return self.finish(index, request);
        }
        unresolve(&mut request.entries, &mut request.levels, request.blocks);
        request.pieces.clear();
        request.unreadable = None;
        self.reads.slots[index] = Some(request);
        self.resolve(io, index);
    }

    /// The first wrong block of a piece that can't be had through other columns, or not even so.
    fn beyond_mending(&self, request: &Request) -> Option<usize> {
        let hopeless = |p: &&Piece| p.mending || !self.mendable(p.span.location());
        request.pieces.iter().filter(hopeless).find_map(|piece| piece.wrong)
    }

    /// Asks for the pieces that are wrong through other columns.
    fn mend_wrong(&mut self, index: usize, request: &mut Request) {
        request.unreadable = None;
        for number in 0..request.pieces.len() {
            if request.pieces[number].wrong.is_some() {
                request.pieces[number].done = false;
                request.outstanding += 1;
                self.mend_piece(index, request, number);
            }
        }
    }

    fn finish(&mut self, index: usize, mut request: Box<Request>) {
        let result = match request.error.take() {
            None => Ok(()),
            Some(error) => {
                self.lost.suspect(items_of(&request));
                Err(error)
            }
        };
        let (ticket, timing) = (request.ticket, request.timing);
        self.done.push(Done { ticket, result, buf: request.buf.take(), timing });
        self.reads.leaves[index] = None;
        self.reads.free.push(index);
        if self.reads.spare.len() < 64 {
            self.reads.spare.push(request);
        }
    }
}

/// The stored versions that a read was of.
fn items_of(request: &Request) -> impl Iterator<Item = MoveItem> {
    let found = (request.lba..).zip(&request.entries).filter_map(|(lba, found)| Some((lba, (*found)?)));
    found.map(|(lba, Found { line, entry })| MoveItem { line, lba, entry })
}

/// What an event's key says of a read: its attempt, the request and the piece.
fn read_key(serial: u64, index: usize, piece: usize) -> u64 {
    serial << (PIECE_BITS + INDEX_BITS) | (index as u64) << PIECE_BITS | piece as u64
}

fn split_key(id: u64) -> (u64, usize, usize) {
    let part = |n: u64, bits: u32| usize::try_from(n & ((1 << bits) - 1)).expect("few bits");
    (id >> (PIECE_BITS + INDEX_BITS), part(id >> PIECE_BITS, INDEX_BITS), part(id, PIECE_BITS))
}
