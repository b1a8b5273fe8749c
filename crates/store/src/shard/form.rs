//! Forming commits: which batches go together, staging their bytes, and one durable write for each column.

mod moves;

use super::layout::Bufs;
use super::retire::{RETIRE_BYTES, RETIRED_AT_ONCE};
use super::staging::{Stage, Staging};
use super::{Flight, Pending, Phase, Shard, layout};
use crate::columns::{Columns, MAX_DATA_COLUMNS};
use crate::format::anchor::Start;
use crate::format::commit::{CommitPlace, FIXED_BYTES, HeaderWriter, MAX_HEADER_BYTES, NO_PG, depth_of};
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, Stream};
use crate::stored::BlockVersion;
use crate::{Purpose, Record, ShardTuning, Ticket};
use dolmen_io::{Buf, Io, PoolConfig, Slices, Tag};
use dolmen_types::limits::BLOCK_BYTES;
use dolmen_types::{Epoch, Nanos, Seq};
use smallvec::smallvec;

/// A commit fills wide segments when its payload has at least this much for each data column. Bytes.
const BULK_COLUMN_BYTES: usize = 64 * 1024;

/// A host commit with less payload is small. Bytes.
const SMALL_BYTES: usize = 64 * 1024;

const PAGE: usize = SEGMENT_HEADER_BYTES as usize;

/// Bytes that a commit takes at most in each column.
pub(super) fn most_depth(tuning: &ShardTuning) -> usize {
    let moves = PAGE * (1 + MOVE_BLOCKS + MAX_DATA_COLUMNS);
    tuning.commit_bytes.max(moves).next_multiple_of(PAGE)
}

/// One of so many commits is measured: how long making the stored forms in it takes.
const MEASURED_OF: u64 = 8;

/// Blocks that one commit moves at most: their records fit one page of header.
const MOVE_BLOCKS: usize = 64;

const _: () = assert!(FIXED_BYTES + 24 + 56 * MOVE_BLOCKS + RETIRED_AT_ONCE * RETIRE_BYTES <= 4096);

/// Buffers that each shard keeps back: data, header and segment headers of one narrow commit.
const RESERVED_BUFFERS: usize = 3;

/// The memory of a commit beside its payload.
struct Buffers {
    header: Buf,
    /// Pages for the headers of a new segment, one per column, and one of zeros where columns may need filling.
    pages: Option<Buf>,
    /// What the parity columns are computed into; with one data column they are the same bytes again.
    parity: Vec<Bufs>,
}

impl Buffers {
    /// From the pool; `None` when it has too few now. `depth` is the most that the commit may take in each column.
    fn alloc(io: &Io, header: usize, depth: usize, columns: &Columns, rolls: bool) -> Option<Buffers> {
        let wide = columns.data() > 1;
        let pages = if rolls { columns.len() } else { 0 } + usize::from(wide);
        let parity = if wide { columns.parity() } else { 0 };
        Some(Buffers {
            header: io.alloc(header)?,
            pages: if pages > 0 { Some(io.alloc(pages * PAGE)?) } else { None },
            parity: (0..parity).map(|_| layout::buffers(io, depth)).collect::<Option<_>>()?,
        })
    }
}

impl Shard {
    /// Forms what can be formed now; true when something was.
    pub(crate) fn form(&mut self, io: &mut Io) -> bool {
        let mut formed = false;
        // What is moved may be what hosts wait for.
        while self.may_form() && (self.form_hot(io) || (self.may_form() && self.form_move(io))) {
            formed = true;
        }
        formed |= self.may_form() && self.move_on(io);
        // While the cleaner goes on, they go with what it moves; where that waits for a unit, it may be for one of theirs.
        let many = self.cleaner_idle || self.retiring.len() >= RETIRED_AT_ONCE / 4;
        let alone = (many && self.move_jobs.is_empty()) || self.starved(Stream::Cold);
        formed |= alone && !self.retiring.is_empty() && self.may_form() && self.form_retired(io);
        formed
    }

    fn may_form(&self) -> bool {
        // A checkpoint that lags behind the writes holds them back.
        let behind = self.checkpoint.running && self.map.live.len() >= 2 * self.delta_limit();
        self.phase == Phase::Serving
            && self.log.flights.len() < self.tuning.commits_in_flight
            && !behind
            && self.drives.failing() == 0
            && self.halted.is_none()
    }

    /// One commit of queued batches.
    fn form_hot(&mut self, io: &mut Io) -> bool {
        let Some(head) = self.queue.front() else { return false };
        let (header, payload, holes) = (head.header_bytes, head.payload_bytes, head.holes_bytes);
        if payload > 0 && (!self.head_in_pace(payload as u64) || self.should_gather()) {
            return false;
        }
        if holes > 0 && !self.admit_holes(io.now(), holes as u64) {
            return false;
        }
        let mut stream = if self.bulk_pays() { Stream::Bulk } else { Stream::Hot };
        if payload > 0 && !self.admit_host(io.now(), payload as u64, stream) {
            return false;
        }
        if stream == Stream::Bulk && !self.has_room(stream, header, payload) {
            // While its units are on their way, the hot stream takes what comes.
            self.want(Purpose::Bulk);
            stream = Stream::Hot;
            if payload > 0 && !self.admit_host(io.now(), payload as u64, stream) {
                return false;
            }
        }
        if !self.has_room(stream, header, payload) {
            self.want_hot(payload == 0);
            if payload > 0 {
                self.wait_for_units(io.now());
            }
            return false;
        }
        let rolls = self.rolls(stream, header, payload);
        let Some(columns) = self.next_columns(stream, rolls) else { return false };
        let room = if rolls { self.drives.unit_bytes - SEGMENT_HEADER_BYTES } else { self.room(stream) };
        let gathered = self.gather(stream, room as usize, columns.data());
        let Gathered { mut count, header: header_bytes, payload: payload_bytes, holes: _, made } = gathered;
        let header_room = (FIXED_BYTES + header_bytes).next_multiple_of(PAGE);
        let depth = depth_of(header_room, payload_bytes, columns.data());
        let mut memory = layout::buffers(io, made).map(Staging::over).zip(Buffers::alloc(
            io,
            header_room,
            depth,
            &columns,
            rolls,
        ));
        if memory.is_none() && stream == Stream::Hot {
            // The pool may be full of the very data that waits here: one batch at a time gets through on the reserve.
            count = 1;
            memory = self.reserved(payload, &columns, rolls);
        }
        let Some((mut staging, buffers)) = memory else { return false };
        let segment = if rolls { self.open_segment(stream) } else { None };
        // A look at the clock takes its time too: one of several commits is measured, as with reads.
        let measured =
            made > 0 && (self.log.made_block_ns == 0 || self.log.next_number.is_multiple_of(MEASURED_OF));
        let began = measured.then(|| io.moment());
        staging.pieces = std::mem::take(&mut self.log.spare_pieces);
        let mut header = HeaderWriter::start(self.log.spare.pop().unwrap_or_default());
        let mut tickets = self.log.spare_tickets.pop().unwrap_or_default();
        for _ in 0..count {
            let Some(pending) = self.queue.pop_front() else { break };
            self.counters.host_written += pending.payload_bytes as u64;
            if pending.payload_bytes > 0 {
                self.space.short_since = None;
            }
            self.map.live.expect_holes(pending.holes_bytes as u64);
            self.space.credit = self.space.credit.saturating_sub(pending.payload_bytes as u64);
            self.stage(&pending, &mut header, &mut staging);
            tickets.push(pending.ticket);
        }
        let blocks = (made / BLOCK_BYTES) as u64;
        let work_ns = began.map_or(blocks * self.log.made_block_ns, |began| io.moment().since(began));
        if measured {
            self.log.made_block_ns = work_ns / blocks.max(1);
        }
        let mut run = io.slices();
        let payload_len;
        (payload_len, self.log.spare_pieces) = staging.finish(&mut run);
        let host = u64::from(payload_len);
        self.launch(
            io,
            Launch { stream, header, payload_len, host, moved: 0, tickets, segment, run, buffers, work_ns },
        );
        true
    }

    /// True when what waits would make one more small commit beside those under way.
    fn should_gather(&self) -> bool {
        let mut waiting = 0;
        let hosts = self.log.flights.iter().filter(|f| f.payload > 0).count();
        hosts >= self.tuning.small_commits_in_flight
            && self.queue.iter().all(|p| {
                waiting += p.payload_bytes;
                waiting < SMALL_BYTES
            })
    }

    /// True when what waits fills the columns of a wide segment well.
    fn bulk_pays(&self) -> bool {
        let bulk = &self.log.streams[Stream::Bulk as usize];
        let columns = bulk.open.map(|o| o.columns).or_else(|| bulk.leases.front().map(|l| l.columns));
        let data = columns.map(|c| c.data()).filter(|&data| data > 1 && self.log.bulk_named);
        let Some(data) = data else { return false };
        let mut sum = 0;
        for pending in &self.queue {
            if pending.packs || sum + pending.payload_bytes > self.tuning.commit_bytes {
                break;
            }
            sum += pending.payload_bytes;
        }
        sum >= data * BULK_COLUMN_BYTES
    }

    /// Bytes that a commit takes at most in each column of a segment of so many data columns.
    fn depth_for(header: usize, payload: usize, data: usize) -> usize {
        depth_of((FIXED_BYTES + header).next_multiple_of(PAGE), payload, data)
    }

    /// True when a commit needs a new segment, or had better begin one.
    fn rolls(&self, stream: Stream, header: usize, payload: usize) -> bool {
        let state = &self.log.streams[stream as usize];
        let Some(open) = state.open else { return true };
        let full = (self.room(stream) as usize) < Self::depth_for(header, payload, open.columns.data());
        full || (state.leases.len() >= 2 && self.should_leave(&open))
    }

    /// True when a stream can take a commit, if need be in a new segment.
    fn has_room(&self, stream: Stream, header: usize, payload: usize) -> bool {
        let state = &self.log.streams[stream as usize];
        let fresh = (self.drives.unit_bytes - SEGMENT_HEADER_BYTES) as usize;
        let fits = |data| Self::depth_for(header, payload, data) <= fresh;
        !self.rolls(stream, header, payload)
            || (state.leases.len() >= 2 && state.leases.front().is_some_and(|l| fits(l.columns.data())))
    }

    /// The columns that the next commit goes to.
    fn next_columns(&self, stream: Stream, rolls: bool) -> Option<Columns> {
        let state = &self.log.streams[stream as usize];
        if rolls { state.leases.front().map(|l| l.columns) } else { state.open.map(|o| o.columns) }
    }

    /// The buffers that are kept back, for a commit of one batch with `payload` bytes of data when nothing else is under way.
    fn reserved(&mut self, payload: usize, columns: &Columns, rolls: bool) -> Option<(Staging, Buffers)> {
        let whole = self.log.flights.is_empty() && self.reserve.len() >= 2 + usize::from(rolls);
        if !whole || columns.data() > 1 || self.reserve.last()?.capacity() < payload {
            return None;
        }
        let (mut data, header) = (self.reserve.pop()?, self.reserve.pop()?);
        data.set_len(payload);
        // What the commit does not need stays here: dropped, it would be somebody else's before it could be taken back.
        let mut pages = if rolls { self.reserve.pop() } else { None };
        if let Some(pages) = &mut pages {
            pages.set_len(columns.len() * PAGE);
        }
        Some((Staging::over(smallvec![data]), Buffers { header, pages, parity: Vec::new() }))
    }

    /// Fills the reserve up again; called where buffers have just come back.
    pub(crate) fn refill_reserve(&mut self, io: &Io) {
        while self.reserve.len() < RESERVED_BUFFERS {
            let Some(buf) = io.alloc(PoolConfig::LARGE_BYTES.min(io.pool().largest())) else { return };
            self.reserve.push(buf);
        }
    }

    /// Bytes that are left in each column of a stream's open segment.
    fn room(&self, stream: Stream) -> u32 {
        self.log.streams[stream as usize].open.map_or(0, |o| self.drives.unit_bytes - o.tail)
    }

    /// Which queued batches fit one commit of at most `room` bytes in each of `data` columns.
    fn gather(&self, stream: Stream, room: usize, data: usize) -> Gathered {
        let mut sum = Gathered::default();
        for pending in &self.queue {
            let (h, p) = (sum.header + pending.header_bytes, sum.payload + pending.payload_bytes);
            let holes = sum.holes + pending.holes_bytes;
            let whole = (FIXED_BYTES + h).next_multiple_of(PAGE);
            let fits = FIXED_BYTES + h <= MAX_HEADER_BYTES
                && whole + p <= self.tuning.commit_bytes
                && depth_of(whole, p, data) <= room;
            // How long packed blocks come to is known only when they are made, too late to keep them off the ends of columns.
            let straddles = pending.packs && data > 1;
            if !fits
                || straddles
                || (sum.count > 0 && !self.in_pace(p as u64))
                || (sum.count > 0 && pending.payload_bytes > 0 && !self.may_take_host(p as u64, stream))
                || (pending.holes_bytes > 0 && !self.may_take_holes(holes as u64))
            {
                break;
            }
            let made = sum.made + if pending.made { pending.payload_bytes } else { 0 };
            sum = Gathered { count: sum.count + 1, header: h, payload: p, holes, made };
        }
        sum
    }

    /// Writes a batch's records into the header and its blocks into staging.
    fn stage(&mut self, pending: &Pending, header: &mut HeaderWriter, staging: &mut Staging) {
        let batch = &pending.batch;
        header.batch(batch.pg, batch.epoch, batch.seq);
        self.announced.form(batch);
        for record in &batch.records {
            match record {
                Record::Write { line, lba, data } => {
                    self.forget_moves(line.0, lba.0, (data.len() / BLOCK_BYTES) as u64);
                    // Of one whose blocks are stored as they came the lines have no attributes.
                    let attributes =
                        if pending.made { self.attributes(line.0) } else { None }.unwrap_or_default();
                    let first = BlockVersion { line: line.0, lba: lba.0, seq: batch.seq.0 };
                    Stage {
                        header: &mut *header,
                        staging: &mut *staging,
                        forms: &mut self.forms,
                        attributes,
                    }
                    .write(first, data);
                }
                Record::Unmap { line, lba, blocks } => {
                    self.forget_moves(line.0, lba.0, blocks.0);
                    header.unmap(line.0, lba.0, blocks.0);
                }
                Record::Put { key, value } => header.put(*key, value),
                Record::Delete { key } => header.delete(*key),
                Record::CreateLine { line, attributes } => header.create_line(line.0, *attributes),
                Record::Snapshot { line } => header.snapshot(line.0),
                Record::CloneLine { line, parent, at } => header.clone_line(line.0, parent.0, at.0),
                // What they keep, of this line and of those below it, may be needed no more.
                Record::DropSnapshot { line, at } => {
                    self.forget_all_moves();
                    header.drop_snapshot(line.0, at.0);
                }
                Record::DropLine { line } => {
                    self.forget_all_moves();
                    header.drop_line(line.0);
                }
            }
        }
    }

    /// A commit of nothing, which takes a stream out of a segment that lacks a column.
    pub(super) fn form_step(&mut self, io: &mut Io, stream: Stream) -> bool {
        self.form_empty(io, stream, true)
    }

    /// A commit that gives segments back and moves nothing: in the cold stream, or where that has no room and gets no unit in the hot one.
    fn form_retired(&mut self, io: &mut Io) -> bool {
        let header_bytes = 24 + RETIRED_AT_ONCE * RETIRE_BYTES;
        let mut stream = Stream::Cold;
        if !self.has_room(stream, header_bytes, 0) {
            self.want(Purpose::Clean);
            stream = Stream::Hot;
            if !self.starved(Stream::Cold) || !self.has_room(stream, header_bytes, 0) {
                return false;
            }
        }
        let rolls = self.rolls(stream, header_bytes, 0);
        self.form_empty(io, stream, rolls)
    }

    /// A commit without blocks.
    fn form_empty(&mut self, io: &mut Io, stream: Stream, rolls: bool) -> bool {
        let Some(columns) = self.next_columns(stream, rolls) else { return false };
        let Some(buffers) = Buffers::alloc(io, PAGE, PAGE, &columns, rolls) else { return false };
        let segment = if rolls { self.open_segment(stream) } else { None };
        let mut header = HeaderWriter::start(self.log.spare.pop().unwrap_or_default());
        header.batch(NO_PG, Epoch(0), Seq(0));
        self.put_retired(&mut header);
        let (tickets, run, work_ns) = (Vec::new(), io.slices(), 0);
        self.launch(
            io,
            Launch {
                stream,
                header,
                payload_len: 0,
                host: 0,
                moved: 0,
                tickets,
                segment,
                run,
                buffers,
                work_ns,
            },
        );
        true
    }

    fn next_place(&self, stream: Stream) -> CommitPlace {
        let open = self.log.streams[stream as usize].open.expect("a segment was opened before");
        CommitPlace {
            stream,
            stream_seq: open.stream_seq,
            slot: open.slot,
            offset: open.tail,
            data: open.columns.data_u8(),
            unit_bytes: self.drives.unit_bytes,
            number: self.log.next_number,
            previous: self.log.chain,
            durable_through: self.log.applied,
        }
    }

    /// Completes a commit and writes its columns.
    fn launch(&mut self, io: &mut Io, launch: Launch) {
        let Launch { stream, header, payload_len, host, moved, tickets, segment, mut run, buffers, work_ns } =
            launch;
        let open = self.log.streams[stream as usize].open.expect("a segment was opened before");
        let place = self.next_place(stream);
        let (fixed, bytes) = header.finish(&self.id, place, payload_len);
        let Buffers { header: mut buf, pages, parity } = buffers;
        buf.set_len(bytes.len());
        buf.copy_from_slice(&bytes);
        run.insert(0, buf.freeze());
        // The header of a new segment is under way too: replay must not count on it.
        let offset = if segment.is_some() { 0 } else { open.tail };
        let writes = lay_out(&mut run, &fixed, &open.columns, segment.as_ref(), pages, parity);
        self.log.next_number += 1;
        self.log.chain = fixed.check;
        self.log.payload += host;
        self.checkpoint.log_bytes += u64::from(fixed.depth) * open.columns.data() as u64;
        self.counters.drive_written += (fixed.end() - u64::from(offset)) * open.columns.data() as u64;
        if let Some(segment) = self.segments.at_mut(place.slot) {
            segment.last_commit = place.number;
            segment.moved_in += moved;
        }
        if let Some(open) = self.log.streams[stream as usize].open.as_mut() {
            open.tail = u32::try_from(fixed.end()).expect("a commit ends within its unit");
        }
        let mut lacking = 0;
        for (column, (slices, &unit)) in writes.into_iter().zip(open.columns.units()).enumerate() {
            lacking |= 1 << column;
            if let Some((file, at)) = self.drives.place(unit, offset) {
                let key = self.commit_key(place.number, column);
                io.write_durable(Tag { owner: self.tag.owner, key }, file, at, slices);
            }
        }
        if run.capacity() > 0 {
            io.recycle(run);
        }
        // A large one is still in the caches: the driver need not wait for what else the turn forms.
        io.submit();
        self.log.flights.push_back(Flight {
            header: fixed,
            bytes,
            tickets,
            start: Start { columns: open.columns, offset, stream_seq: open.stream_seq },
            payload: host,
            submitted: io.now(),
            durable: Nanos(0),
            work_ns,
            slowest: None,
            columns: open.columns,
            lacking,
        });
    }
}

/// The batches of one commit.
#[derive(Clone, Copy, Default)]
struct Gathered {
    count: usize,
    /// Bytes of their records at most.
    header: usize,
    /// Bytes of their payload at most.
    payload: usize,
    /// What the map may grow by for what they unmap.
    holes: usize,
    /// Of these, what may have to be made in staging buffers.
    made: usize,
}

/// A commit that is ready to be completed.
struct Launch {
    stream: Stream,
    header: HeaderWriter,
    payload_len: u32,
    /// Bytes of the payload that hosts wrote.
    host: u64,
    /// Bytes of it that cleaning moves.
    moved: u32,
    tickets: Vec<Ticket>,
    /// The header of the segment that begins with it.
    segment: Option<SegmentHeader>,
    /// The payload.
    run: Slices,
    buffers: Buffers,
    /// What making its stored forms took. Nanoseconds.
    work_ns: u64,
}

/// What is written to each column: the new segment's header, if there is one, and the column's part of the commit. With one data
/// column that is the run itself, which is taken.
fn lay_out(
    run: &mut Slices,
    header: &crate::format::commit::CommitHeader,
    columns: &Columns,
    segment: Option<&SegmentHeader>,
    mut pages: Option<Buf>,
    parity: Vec<Bufs>,
) -> Vec<Slices> {
    let heads = if segment.is_some() { columns.len() } else { 0 };
    if let Some(pages) = pages.as_mut() {
        for (column, page) in pages.chunks_exact_mut(PAGE).enumerate() {
            match segment {
                Some(segment) if column < heads => page.copy_from_slice(&segment.for_column(column).encode()),
                _ => page.fill(0),
            }
        }
    }
    let pages = pages.map(Buf::freeze);
    let page = |i: usize| pages.as_ref().map(|p| p.slice(i * PAGE..(i + 1) * PAGE));
    let (depth, wide) = (header.depth as usize, columns.data() > 1);
    let zeros = if wide { page(heads) } else { None };
    let mut parts = if wide {
        layout::cut(run, depth, columns.data(), zeros.as_ref())
    } else {
        vec![std::mem::take(run)]
    };
    if wide {
        parts.extend(layout::fill_parity(&parts, depth, parity));
    } else {
        parts.resize(columns.len(), parts[0].clone());
    }
    if segment.is_some() {
        for (column, part) in parts.iter_mut().enumerate() {
            part.splice(0..0, page(column));
        }
    }
    parts
}
