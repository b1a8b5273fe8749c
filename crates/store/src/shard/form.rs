//! Forming commits: which batches go together, staging their bytes, and the one durable write.

use super::{Flight, FlightState, Phase, Shard};
use crate::check::{block_check, is_zero};
use crate::format::anchor::Start;
use crate::format::commit::{CommitPlace, FIXED_BYTES, HeaderWriter, MAX_HEADER_BYTES, NO_PG};
use crate::format::segment::{SEGMENT_HEADER_BYTES, Stream};
use crate::location::GRANULE_BYTES;
use crate::{Batch, Purpose, Record, Ticket};
use dolmen_io::{Buf, Io, PoolConfig, Slices, Tag};
use dolmen_types::limits::BLOCK_BYTES;
use dolmen_types::{Epoch, Nanos, Seq};

/// Blocks that one commit moves at most: their records fit one page of header.
const MOVE_BLOCKS: usize = 64;

const _: () = assert!(FIXED_BYTES + 24 + 56 * MOVE_BLOCKS <= 4096);

/// Payload on its way into staging buffers.
struct Staging {
    bufs: Vec<Buf>,
    current: usize,
    used: usize,
    total: usize,
}

impl Staging {
    /// Buffers for `bytes` in all; `None` when the pool has too few now.
    fn alloc(io: &Io, bytes: usize) -> Option<Staging> {
        let (largest, mut left) = (io.pool().largest(), bytes);
        let largest = largest - largest % BLOCK_BYTES;
        let mut bufs = Vec::new();
        while left > 0 {
            let part = left.min(largest);
            bufs.push(io.alloc(part)?);
            left -= part;
        }
        Some(Staging { bufs, current: 0, used: 0, total: 0 })
    }

    /// Copies one block in and returns where it lies: granules from the payload's start. This is where compression and
    /// encryption have their place: the stored form is made here, once.
    fn push(&mut self, block: &[u8]) -> (u32, &[u8]) {
        if self.used == self.bufs[self.current].len() {
            self.current += 1;
            self.used = 0;
        }
        let at = u32::try_from(self.total).expect("a commit is far below 4 GiB") / GRANULE_BYTES;
        let stored = &mut self.bufs[self.current][self.used..self.used + block.len()];
        stored.copy_from_slice(block);
        self.used += block.len();
        self.total += block.len();
        (at, stored)
    }

    /// Granules from the payload's start to the next block.
    fn next(&self) -> u32 {
        u32::try_from(self.total).expect("a commit is far below 4 GiB") / GRANULE_BYTES
    }

    /// The filled parts, appended to `slices`; their length.
    fn finish(mut self, slices: &mut Slices) -> u32 {
        self.bufs.truncate(if self.total == 0 { 0 } else { self.current + 1 });
        if let Some(last) = self.bufs.last_mut() {
            last.set_len(self.used);
        }
        slices.extend(self.bufs.into_iter().map(Buf::freeze));
        u32::try_from(self.total).expect("a commit is far below 4 GiB")
    }
}

/// Buffers that each shard keeps back: data, header and segment header of one commit.
const RESERVED_BUFFERS: usize = 3;

/// The memory of a commit of batches.
struct Buffers {
    staging: Staging,
    header: Buf,
    segment: Option<Buf>,
}

impl Buffers {
    /// From the pool; `None` when it has too few now.
    fn alloc(io: &Io, header: usize, payload: usize, rolls: bool) -> Option<Buffers> {
        let segment = if rolls { Some(io.alloc(SEGMENT_HEADER_BYTES as usize)?) } else { None };
        Some(Buffers { staging: Staging::alloc(io, payload)?, header: io.alloc(header)?, segment })
    }
}

impl Shard {
    /// Forms what can be formed now; true when something was.
    pub(crate) fn form(&mut self, io: &mut Io) -> bool {
        let mut formed = false;
        while self.may_form() && self.form_hot(io) {
            formed = true;
        }
        while self.may_form() && self.form_move(io) {
            formed = true;
        }
        formed
    }

    fn may_form(&self) -> bool {
        // A checkpoint that lags behind the writes holds them back.
        let behind = self.checkpoint.running && self.map.live.len() >= 2 * self.delta_limit();
        self.phase == Phase::Serving
            && self.log.flights.len() < self.tuning.commits_in_flight
            && !behind
            && !self.log_failed()
    }

    /// One commit of queued batches.
    fn form_hot(&mut self, io: &mut Io) -> bool {
        let Some((header, payload)) = self.queue.front().map(|p| (p.header_bytes, p.payload_bytes)) else {
            return false;
        };
        if payload > 0 && !self.admit_host(io.now(), payload as u64) {
            return false;
        }
        let needed = (FIXED_BYTES + header).next_multiple_of(4096) + payload;
        let mut room = self.room(Stream::Hot);
        let rolls = room < needed;
        if rolls {
            if self.log.streams[Stream::Hot as usize].leases.len() < 2 {
                self.want_hot(payload == 0);
                if payload > 0 {
                    self.wait_for_units(io.now());
                }
                return false;
            }
            room = (self.geometry.unit_bytes - SEGMENT_HEADER_BYTES) as usize;
        }
        let (mut count, header_bytes, payload_bytes) = self.gather(room);
        let header_room = (FIXED_BYTES + header_bytes).next_multiple_of(4096);
        let mut buffers = Buffers::alloc(io, header_room, payload_bytes, rolls);
        if buffers.is_none() {
            // The pool may be full of the very data that waits here: one batch at a time gets through on the reserve.
            count = 1;
            buffers = self.reserved(payload);
        }
        let Some(Buffers { mut staging, header: mut header_buf, segment: segment_buf }) = buffers else {
            return false;
        };
        let segment_header = if rolls { self.open_segment(Stream::Hot) } else { None };
        let mut header = HeaderWriter::start(self.log.spare.pop().unwrap_or_default());
        let mut tickets = self.log.spare_tickets.pop().unwrap_or_default();
        for _ in 0..count {
            let Some(pending) = self.queue.pop_front() else { break };
            self.stage(&pending.batch, &mut header, &mut staging);
            tickets.push(pending.ticket);
        }
        let mut slices = io.slices();
        let start = self.put_segment_header(segment_buf, segment_header, Stream::Hot, &mut slices);
        let header_at = slices.len();
        let payload_len = staging.finish(&mut slices);
        self.counters.host_written += u64::from(payload_len);
        let place = self.next_place(Stream::Hot);
        let (fixed, bytes) = header.finish(&self.id, place, payload_len);
        header_buf.set_len(bytes.len());
        header_buf.copy_from_slice(&bytes);
        slices.insert(header_at, header_buf.freeze());
        self.launch(
            io,
            Launch { header: fixed, bytes, tickets, start, payload: u64::from(payload_len), slices },
        );
        true
    }

    /// The buffers that are kept back, for a commit of one batch with `payload` bytes of data when nothing else is under way.
    fn reserved(&mut self, payload: usize) -> Option<Buffers> {
        let whole = self.log.flights.is_empty() && self.reserve.len() >= RESERVED_BUFFERS;
        if !whole || self.reserve.last()?.capacity() < payload {
            return None;
        }
        let (mut data, header, mut segment) = (self.reserve.pop()?, self.reserve.pop()?, self.reserve.pop()?);
        data.set_len(payload);
        segment.set_len(SEGMENT_HEADER_BYTES as usize);
        let staging = Staging { bufs: vec![data], current: 0, used: 0, total: 0 };
        Some(Buffers { staging, header, segment: Some(segment) })
    }

    /// Fills the reserve up again; called where buffers have just come back.
    pub(crate) fn refill_reserve(&mut self, io: &Io) {
        while self.reserve.len() < RESERVED_BUFFERS {
            let Some(buf) = io.alloc(PoolConfig::LARGE_BYTES.min(io.pool().largest())) else { return };
            self.reserve.push(buf);
        }
    }

    /// Bytes that are left in a stream's open segment.
    fn room(&self, stream: Stream) -> usize {
        self.log.streams[stream as usize].open.map_or(0, |o| (self.geometry.unit_bytes - o.tail) as usize)
    }

    /// Blocks that the next commit of moves has room for.
    pub(super) fn move_room(&self) -> usize {
        let blocks = |room: usize| (room.saturating_sub(4096) / BLOCK_BYTES).min(MOVE_BLOCKS);
        let (here, fresh) = (
            blocks(self.room(Stream::Cold)),
            blocks((self.geometry.unit_bytes - SEGMENT_HEADER_BYTES) as usize),
        );
        // In a large segment the last few blocks are not worth a commit's header.
        if here >= (fresh / 8).max(1) { here } else { fresh }
    }

    /// How many queued batches fit one commit of at most `room` bytes: number, header bytes, payload bytes.
    fn gather(&self, room: usize) -> (usize, usize, usize) {
        let room = room.min(self.tuning.commit_bytes);
        let (mut count, mut header, mut payload) = (0, 0, 0);
        for pending in &self.queue {
            let (h, p) = (header + pending.header_bytes, payload + pending.payload_bytes);
            let fits =
                FIXED_BYTES + h <= MAX_HEADER_BYTES && (FIXED_BYTES + h).next_multiple_of(4096) + p <= room;
            if !fits || (count > 0 && pending.payload_bytes > 0 && !self.may_take_host(p as u64)) {
                break;
            }
            (count, header, payload) = (count + 1, h, p);
        }
        (count, header, payload)
    }

    /// Writes a batch's records into the header and its blocks into staging.
    fn stage(&mut self, batch: &Batch, header: &mut HeaderWriter, staging: &mut Staging) {
        header.batch(batch.pg, batch.epoch, batch.seq);
        self.announced.form(batch);
        for record in &batch.records {
            match record {
                Record::Write { line, lba, data } => {
                    self.forget_moves(line.0, lba.0, (data.len() / BLOCK_BYTES) as u64);
                    stage_write(line.0, lba.0, batch.seq.0, data, header, staging);
                }
                Record::Unmap { line, lba, blocks } => {
                    self.forget_moves(line.0, lba.0, blocks.0);
                    header.unmap(line.0, lba.0, blocks.0);
                }
                Record::Put { key, value } => header.put(*key, value),
                Record::Delete { key } => header.delete(*key),
                Record::CreateLine { line } => header.create_line(line.0),
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

    /// These blocks get new versions: from here on a move of one that nobody sees any more would be out of date.
    fn forget_moves(&mut self, line: u64, lba: u64, blocks: u64) {
        if self.moving.is_empty() {
            return;
        }
        let range = (line, lba, 0)..(line, lba.saturating_add(blocks), 0);
        if self.announced.is_under_way() {
            // What will be seen is not known yet. The segment is looked at once more.
            self.moves_forgotten |= self.moving.extract_if(range, |_| true).count() > 0;
            return;
        }
        // A point at or behind a version keeps it, or something else hides it already.
        let newest = self.map.lines.get(&line).and_then(|l| l.now.newest());
        self.moving.extract_if(range, |key| newest.is_none_or(|p| p < key.2)).for_each(drop);
    }

    fn forget_all_moves(&mut self) {
        self.moves_forgotten |= !self.moving.is_empty();
        self.moving.clear();
    }

    /// One commit of blocks that cleaning moves.
    fn form_move(&mut self, io: &mut Io) -> bool {
        let Some(job) = self.move_jobs.front() else { return false };
        let payload_len: usize = job.data.iter().map(|s| s.len()).sum();
        let header_room = (FIXED_BYTES + 24 + 56 * job.items.len()).next_multiple_of(4096);
        let room = self.room(Stream::Cold);
        let rolls = room < header_room + payload_len;
        if rolls && self.log.streams[Stream::Cold as usize].leases.len() < 2 {
            self.want(Purpose::Clean);
            return false;
        }
        let (Some(mut header_buf), Some(segment_buf)) =
            (io.alloc(header_room), io.alloc(SEGMENT_HEADER_BYTES as usize))
        else {
            return false;
        };
        let segment_header = if rolls { self.open_segment(Stream::Cold) } else { None };
        let Some(job) = self.move_jobs.pop_front() else { return false };
        let mut header = HeaderWriter::start(self.log.spare.pop().unwrap_or_default());
        header.batch(NO_PG, Epoch(0), Seq(0));
        let mut at = 0;
        for item in &job.items {
            let e = item.entry;
            // Whatever was formed since the cleaner looked has taken its block off this list.
            if self.moving.remove(&(item.line, item.lba, e.seq)) {
                header.moved(item.line, item.lba, e.seq, e.location, e.granules, at, e.check);
            }
            at += u32::from(e.granules);
        }
        let mut slices = io.slices();
        let start = self.put_segment_header(Some(segment_buf), segment_header, Stream::Cold, &mut slices);
        let place = self.next_place(Stream::Cold);
        let payload_len = u32::try_from(payload_len).expect("a commit is far below 4 GiB");
        self.counters.cleaned += u64::from(payload_len);
        let (fixed, bytes) = header.finish(&self.id, place, payload_len);
        header_buf.set_len(bytes.len());
        header_buf.copy_from_slice(&bytes);
        slices.push(header_buf.freeze());
        slices.extend(job.data);
        self.launch(io, Launch { header: fixed, bytes, tickets: Vec::new(), start, payload: 0, slices });
        true
    }

    /// Puts a new segment's header in front; where replay would begin to find the commit that follows.
    fn put_segment_header(
        &self,
        buf: Option<Buf>,
        header: Option<Vec<u8>>,
        stream: Stream,
        slices: &mut Slices,
    ) -> Start {
        let open = self.log.streams[stream as usize].open.expect("a segment was opened before");
        let mut offset = open.tail;
        if let (Some(mut buf), Some(header)) = (buf, header) {
            buf.copy_from_slice(&header);
            slices.push(buf.freeze());
            // The header itself is under way: replay must not count on it.
            offset = 0;
        }
        Start { unit: open.unit, offset, stream_seq: open.stream_seq }
    }

    fn next_place(&self, stream: Stream) -> CommitPlace {
        let open = self.log.streams[stream as usize].open.expect("a segment was opened before");
        CommitPlace {
            stream,
            stream_seq: open.stream_seq,
            slot: open.slot,
            offset: open.tail,
            number: self.log.next_number,
            previous: self.log.chain,
            durable_through: self.log.applied,
        }
    }

    fn launch(&mut self, io: &mut Io, launch: Launch) {
        let Launch { header, bytes, tickets, start, payload, slices } = launch;
        let place = header.place;
        let (number, len) = (place.number, u64::from(header.header_len) + u64::from(header.payload_len));
        self.log.next_number += 1;
        self.log.chain = header.check;
        self.log.payload += payload;
        self.checkpoint.log_bytes += len;
        let offset = if start.offset == 0 { 0 } else { u64::from(place.offset) };
        self.counters.drive_written += header.end() - offset;
        if let Some(segment) = self.segments.at_mut(place.slot) {
            segment.last_commit = number;
        }
        if let Some(open) = self.log.streams[place.stream as usize].open.as_mut() {
            open.tail = u32::try_from(header.end()).expect("a commit ends within its unit");
        }
        let (file, at) = self.geometry.place(start.unit, offset);
        io.write_durable(Tag { owner: self.tag.owner, key: self.commit_key(number) }, file, at, slices);
        let submitted = io.now();
        let state = FlightState::Writing;
        self.log.flights.push_back(Flight {
            header,
            bytes,
            tickets,
            start,
            payload,
            submitted,
            durable: Nanos(0),
            state,
        });
    }
}

/// A commit that is ready to go.
struct Launch {
    header: crate::format::commit::CommitHeader,
    bytes: Vec<u8>,
    tickets: Vec<Ticket>,
    start: Start,
    payload: u64,
    slices: Slices,
}

/// Runs of zero blocks become unmaps; the rest is copied into staging and checked while it is warm.
fn stage_write(line: u64, lba: u64, seq: u64, data: &[u8], header: &mut HeaderWriter, staging: &mut Staging) {
    let block = |i: usize| &data[i * BLOCK_BYTES..(i + 1) * BLOCK_BYTES];
    let (blocks, mut from) = (data.len() / BLOCK_BYTES, 0);
    while from < blocks {
        let zero = is_zero(block(from));
        let to = (from + 1..blocks).find(|&i| is_zero(block(i)) != zero).unwrap_or(blocks);
        let first = lba + from as u64;
        if zero {
            header.unmap(line, first, (to - from) as u64);
        } else {
            let count = u32::try_from(to - from).expect("a command's blocks are few");
            header.write(line, first, count, staging.next());
            for (lba, i) in (first..).zip(from..to) {
                let (_, stored) = staging.push(block(i));
                header.block(block_check(line, lba, seq, stored));
            }
        }
        from = to;
    }
}
