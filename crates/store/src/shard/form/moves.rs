//! Commits of blocks that cleaning moves.

use super::{Buffers, Launch, MOVE_BLOCKS, PAGE};
use crate::Purpose;
use crate::format::commit::{FIXED_BYTES, HeaderWriter, NO_PG, StoredBlock};
use crate::format::segment::{SEGMENT_HEADER_BYTES, Stream};
use crate::shard::layout::{self, Layout};
use crate::shard::staging::granules;
use crate::shard::{MoveJob, Shard};
use crate::stored::BlockVersion;
use dolmen_io::{Io, Slices};
use dolmen_types::limits::BLOCK_BYTES;
use dolmen_types::{Epoch, Seq};

impl Shard {
    /// Blocks that the next commit of moves has room for.
    pub(in crate::shard) fn move_room(&self) -> usize {
        let cold = &self.log.streams[Stream::Cold as usize];
        let blocks = |room: usize, data: usize| {
            ((room * data).saturating_sub(PAGE * data) / BLOCK_BYTES).min(MOVE_BLOCKS)
        };
        let next = cold.leases.front().map_or(1, |l| l.columns.data());
        let (here, fresh) = (
            cold.open.map_or(0, |o| blocks(self.room(Stream::Cold) as usize, o.columns.data())),
            blocks((self.drives.unit_bytes - SEGMENT_HEADER_BYTES) as usize, next),
        );
        // In a large segment the last few blocks are not worth a commit's header.
        if here >= (fresh / 8).max(1) { here } else { fresh }
    }

    /// These blocks get new versions: from here on a move of one that nobody sees any more would be out of date.
    pub(super) fn forget_moves(&mut self, line: u64, lba: u64, blocks: u64) {
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

    pub(super) fn forget_all_moves(&mut self) {
        self.moves_forgotten |= !self.moving.is_empty();
        self.moving.clear();
    }

    /// One commit of blocks that cleaning moves.
    pub(super) fn form_move(&mut self, io: &mut Io) -> bool {
        let Some(job) = self.move_jobs.front() else { return false };
        let header_bytes = 24 + 56 * job.items.len();
        let payload_len = self.most_moved(job);
        if !self.has_room(Stream::Cold, header_bytes, payload_len) {
            self.want(Purpose::Clean);
            return false;
        }
        let rolls = self.rolls(Stream::Cold, header_bytes, payload_len);
        let Some(columns) = self.next_columns(Stream::Cold, rolls) else { return false };
        let header_room = (FIXED_BYTES + header_bytes).next_multiple_of(PAGE);
        let lengths = job.items.iter().map(|i| i.entry.bytes() as usize);
        let Layout { depth, places, payload_len } = layout::spread(header_room, lengths, columns.data());
        let Some(buffers) = Buffers::alloc(io, header_room, depth, &columns, rolls) else { return false };
        let packed = match &job.packed {
            Some(packed) => match layout::place(io, &job.items, packed, &places, payload_len) {
                Some(run) => run,
                None => return false,
            },
            None => Slices::new(),
        };
        let segment = if rolls { self.open_segment(Stream::Cold) } else { None };
        let Some(job) = self.move_jobs.pop_front() else { return false };
        let mut header = HeaderWriter::start(self.log.spare.pop().unwrap_or_default());
        header.batch(NO_PG, Epoch(0), Seq(0));
        self.put_retired(&mut header);
        let mut moved = 0;
        for (item, at) in job.items.iter().zip(places) {
            let e = item.entry;
            // Whatever was formed since the cleaner looked has taken its block off this list.
            if self.moving.remove(&(item.line, item.lba, e.seq)) {
                let version = BlockVersion { line: item.line, lba: item.lba, seq: e.seq };
                let block =
                    StoredBlock { at: granules(at), granules: e.granules, form: e.form, check: e.check };
                header.moved(version, e.location, block);
                moved += e.bytes();
            }
        }
        let payload_len = u32::try_from(payload_len).expect("a commit is far below 4 GiB");
        self.counters.cleaned += u64::from(payload_len);
        self.earn(u64::from(payload_len));
        let run = if job.packed.is_some() { packed } else { job.data };
        let (stream, tickets) = (Stream::Cold, Vec::new());
        let work_ns = 0;
        self.launch(
            io,
            Launch { stream, header, payload_len, host: 0, moved, tickets, segment, run, buffers, work_ns },
        );
        true
    }

    /// Bytes of payload that a job comes to at most: packed blocks keep off the ends of columns.
    fn most_moved(&self, job: &MoveJob) -> usize {
        let cold = &self.log.streams[Stream::Cold as usize];
        let columns = cold.open.map(|o| o.columns).into_iter().chain(cold.leases.front().map(|l| l.columns));
        let ends = columns.map(|c| c.data() - 1).max().filter(|_| job.packed.is_some()).unwrap_or(0);
        let bytes: usize = job.items.iter().map(|i| i.entry.bytes() as usize).sum();
        bytes.next_multiple_of(PAGE) + ends * PAGE
    }
}
