//! Writing map pages and checkpoint bodies: staged, appended to the metadata stream in large writes.
//!
//! What is written here counts only once an anchor names it; a crash before leaves garbage that nobody looks at.

use super::fetch::within;
use super::members::on_all;
use super::recover::{FIRST_LEASES_MS, NO_UNIT};
use super::{Phase, Shared};
use crate::Purpose;
use crate::columns::Columns;
use crate::format::PAGE_BYTES;
use crate::format::anchor::{Chunk, MAX_CHUNKS, encode_list};
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, Stream};
use crate::location::{Location, Slot};
use dolmen_io::exec::Handle;
use dolmen_io::{Buf, Op, Slice};

/// Bytes of one write of metadata at most.
pub(crate) const STAGE_BYTES: usize = 256 * 1024;

const _: () = assert!(STAGE_BYTES <= dolmen_io::PoolConfig::LARGE_BYTES);

/// What is staged and where it goes.
struct Stage {
    buf: Buf,
    columns: Columns,
    offset: u32,
    len: usize,
}

/// Leaves that a checkpoint reads at a time, and pages kept for that.
pub(super) const READ_AHEAD: usize = 16;

/// Sets aside what a checkpoint needs, while the pool is still fresh.
pub(super) async fn keep_buffers(shard: &Shared, exec: &Handle) {
    for _ in 0..READ_AHEAD {
        let page = exec.alloc(PAGE_BYTES as usize).await;
        shard.borrow_mut().kept_pages.push(page);
    }
    let stage = exec.alloc(STAGE_BYTES).await;
    shard.borrow_mut().kept_stage = Some(stage);
}

/// One of the kept pages; from the pool when they are out.
pub(super) async fn page_buffer(shard: &Shared, exec: &Handle) -> Buf {
    let kept = shard.borrow_mut().kept_pages.pop();
    let mut buf = match kept {
        Some(buf) => buf,
        None => exec.alloc(PAGE_BYTES as usize).await,
    };
    buf.set_len(PAGE_BYTES as usize);
    buf
}

/// Gives a page back to the kept ones.
pub(super) fn keep_page(shard: &Shared, buf: Buf) {
    let mut s = shard.borrow_mut();
    if s.kept_pages.len() < READ_AHEAD {
        s.kept_pages.push(buf);
    }
}

/// Appends to the metadata stream of one shard. Errors are reasons to stop the shard.
pub(crate) struct MetaWriter {
    shard: Shared,
    exec: Handle,
    stage: Option<Stage>,
}

/// Where appended bytes landed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub(crate) slot: Slot,
    pub(crate) columns: Columns,
    pub(crate) offset: u32,
}

impl Placed {
    pub(crate) fn location(&self) -> Location {
        Location::new(self.slot, self.offset)
    }
}

/// A checkpoint's body as it was written.
#[derive(Default)]
pub(crate) struct WrittenBody {
    /// Its chunks, and those of their list behind them.
    pub(crate) chunks: Vec<(Slot, Chunk)>,
    /// How many of them, at the end, are the list's; 0 without one.
    list: usize,
}

impl WrittenBody {
    /// The chunks that the anchor names, and whether they are the list's.
    pub(crate) fn named(&self) -> (Vec<Chunk>, bool) {
        let from = if self.list > 0 { self.chunks.len() - self.list } else { 0 };
        (self.chunks[from..].iter().map(|c| c.1).collect(), self.list > 0)
    }
}

impl MetaWriter {
    pub(crate) fn new(shard: Shared, exec: Handle) -> MetaWriter {
        MetaWriter { shard, exec, stage: None }
    }

    /// Appends one page.
    pub(crate) async fn page(&mut self, bytes: &[u8]) -> Result<Placed, String> {
        let (placed, _) = self.take(PAGE_BYTES).await?;
        self.put(&placed, bytes).await?;
        Ok(placed)
    }

    /// Appends a checkpoint's body, and a list of its chunks when they are more than an anchor names.
    pub(crate) async fn body(&mut self, bytes: &[u8]) -> Result<WrittenBody, String> {
        let mut written = WrittenBody { chunks: self.chunks(bytes).await?, list: 0 };
        if written.chunks.len() > MAX_CHUNKS {
            let list = self.chunks(&encode_list(written.chunks.iter().map(|c| &c.1))).await?;
            written.list = list.len();
            written.chunks.extend(list);
        }
        self.flush_stage().await?;
        if written.list > MAX_CHUNKS {
            return Err(format!("a checkpoint of {} bytes does not fit its anchor", bytes.len()));
        }
        Ok(written)
    }

    /// Appends a run of bytes as chunks, each in whole pages of one segment.
    async fn chunks(&mut self, bytes: &[u8]) -> Result<Vec<(Slot, Chunk)>, String> {
        let mut chunks = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            // A chunk is one piece on the drive: begin it in an empty stage.
            self.flush_stage().await?;
            let most = rest.len().next_multiple_of(PAGE_BYTES as usize).min(STAGE_BYTES);
            let (placed, taken) = self.take(u32::try_from(most).expect("at most STAGE_BYTES")).await?;
            let (part, tail) = rest.split_at(rest.len().min(taken as usize));
            rest = tail;
            self.put(&placed, part).await?;
            let len = u32::try_from(part.len()).expect("at most STAGE_BYTES");
            let check = crate::check::check64(0, part);
            chunks.push((placed.slot, Chunk { columns: placed.columns, offset: placed.offset, len, check }));
        }
        Ok(chunks)
    }

    /// Writes what is staged.
    pub(crate) async fn flush_stage(&mut self) -> Result<(), String> {
        let Some(mut stage) = self.stage.take() else { return Ok(()) };
        stage.buf.set_len(stage.len);
        {
            let mut shard = self.shard.borrow_mut();
            shard.counters.drive_written += stage.len as u64;
            shard.counters.map_written += stage.len as u64;
        }
        let slice = stage.buf.freeze();
        let kept = slice.clone();
        self.write(&stage.columns, stage.offset, |_| slice.clone()).await?;
        drop(slice);
        self.shard.borrow_mut().kept_stage = kept.try_into_buf().ok();
        Ok(())
    }

    /// Writes to the same offset of every column; a drive that can't is out before this returns.
    async fn write(&self, columns: &Columns, at: u32, bytes: impl Fn(usize) -> Slice) -> Result<(), String> {
        let mut ops = Vec::new();
        for (column, &unit) in columns.units().iter().enumerate() {
            let place = self.shard.borrow().drives.place(unit, at);
            if let Some((file, offset)) = place {
                ops.push((unit.drive, Op::Write { file, offset, data: vec![bytes(column)], durable: false }));
            }
        }
        on_all(&self.shard, &self.exec, ops).await?;
        let lost = columns.lost(self.shard.borrow().drives.members().out);
        if lost > columns.parity() {
            return Err("more drives failed than a metadata segment can lose".into());
        }
        Ok(())
    }

    /// Takes up to `most` bytes of the open segment, whole pages and at least one, and says how many. A segment that has room may be
    /// closed whenever something is waited for, so nothing is between the look and the taking. A start waits for a unit so long and no
    /// longer.
    async fn take(&mut self, most: u32) -> Result<(Placed, u32), String> {
        let mut late = None;
        loop {
            let header = {
                let mut shard = self.shard.borrow_mut();
                if !matches!(shard.phase, Phase::Serving | Phase::Recovering) || shard.halted.is_some() {
                    return Err("the shard stopped meanwhile".into());
                }
                let unit_bytes = shard.drives.unit_bytes;
                if let Some(open) = shard.log.streams[Stream::Meta as usize].open.as_mut()
                    && open.tail + PAGE_BYTES <= unit_bytes
                {
                    let placed = Placed { slot: open.slot, columns: open.columns, offset: open.tail };
                    let taken = most.min(unit_bytes - open.tail);
                    open.tail += taken;
                    return Ok((placed, taken));
                }
                shard.open_segment(Stream::Meta)
            };
            match header {
                Some(header) => self.begin(&header).await?,
                None => {
                    let (bell, starting) = {
                        let mut shard = self.shard.borrow_mut();
                        shard.want(Purpose::Metadata);
                        (shard.lease_bell.clone(), shard.phase == Phase::Recovering)
                    };
                    if !starting {
                        bell.notified().await;
                        continue;
                    }
                    // Cleaning, which could free some, begins after the start.
                    let now = self.exec.now();
                    let until = *late.get_or_insert(now.plus_ms(FIRST_LEASES_MS));
                    let left_ms = until.since(now).div_ceil(1_000_000);
                    if left_ms == 0 || within(&self.exec, left_ms, bell.notified()).await.is_none() {
                        return Err(NO_UNIT.into());
                    }
                }
            }
        }
    }

    /// Writes the header of a segment that was just opened.
    async fn begin(&mut self, header: &SegmentHeader) -> Result<(), String> {
        self.flush_stage().await?;
        let mut pages = Vec::new();
        for column in 0..header.columns.len() {
            let mut page = page_buffer(&self.shard, &self.exec).await;
            page.copy_from_slice(&header.for_column(column).encode());
            pages.push(page.freeze());
        }
        self.write(&header.columns, 0, |column| pages[column].clone()).await?;
        pages.into_iter().filter_map(|p| p.try_into_buf().ok()).for_each(|buf| keep_page(&self.shard, buf));
        let mut s = self.shard.borrow_mut();
        s.counters.drive_written += u64::from(SEGMENT_HEADER_BYTES);
        s.counters.map_written += u64::from(SEGMENT_HEADER_BYTES);
        Ok(())
    }

    /// Copies bytes into the stage, zero-padded to whole pages; they follow what is staged, or begin a new stage.
    async fn put(&mut self, placed: &Placed, bytes: &[u8]) -> Result<(), String> {
        let padded = bytes.len().next_multiple_of(PAGE_BYTES as usize);
        let follows = self.stage.as_ref().is_some_and(|s| {
            s.columns == placed.columns
                && s.offset as usize + s.len == placed.offset as usize
                && s.len + padded <= STAGE_BYTES
        });
        if !follows {
            self.flush_stage().await?;
            let kept = self.shard.borrow_mut().kept_stage.take();
            let mut buf = match kept {
                Some(buf) => buf,
                None => self.exec.alloc(STAGE_BYTES).await,
            };
            buf.set_len(STAGE_BYTES);
            self.stage = Some(Stage { buf, columns: placed.columns, offset: placed.offset, len: 0 });
        }
        if let Some(stage) = self.stage.as_mut() {
            let target = &mut stage.buf[stage.len..stage.len + padded];
            target[..bytes.len()].copy_from_slice(bytes);
            target[bytes.len()..].fill(0);
            stage.len += padded;
        }
        Ok(())
    }
}
