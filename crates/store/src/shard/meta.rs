//! Writing map pages and checkpoint bodies: staged, appended to the metadata stream in large writes.
//!
//! What is written here counts only once an anchor names it; a crash before leaves garbage that nobody looks at.

use super::{Phase, Shared};
use crate::format::PAGE_BYTES;
use crate::format::anchor::Chunk;
use crate::format::segment::{SEGMENT_HEADER_BYTES, Stream};
use crate::location::{Location, Slot};
use crate::{Purpose, UnitId};
use dolmen_io::Buf;
use dolmen_io::exec::Handle;

/// Bytes of one write of metadata at most.
pub(crate) const STAGE_BYTES: usize = 256 * 1024;

const _: () = assert!(STAGE_BYTES <= dolmen_io::PoolConfig::LARGE_BYTES);

/// What is staged and where it goes.
struct Stage {
    buf: Buf,
    unit: UnitId,
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
    pub(crate) unit: UnitId,
    pub(crate) offset: u32,
}

impl Placed {
    pub(crate) fn location(&self) -> Location {
        Location::new(self.slot, self.offset)
    }
}

impl MetaWriter {
    pub(crate) fn new(shard: Shared, exec: Handle) -> MetaWriter {
        MetaWriter { shard, exec, stage: None }
    }

    /// Appends one page.
    pub(crate) async fn page(&mut self, bytes: &[u8]) -> Result<Placed, String> {
        self.reserve(PAGE_BYTES).await?;
        let placed = self.advance(PAGE_BYTES)?;
        self.put(&placed, bytes).await?;
        Ok(placed)
    }

    /// Appends a run of bytes as chunks, each in whole pages of one segment.
    pub(crate) async fn chunks(&mut self, bytes: &[u8]) -> Result<Vec<(Slot, Chunk)>, String> {
        let mut chunks = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = self.reserve(PAGE_BYTES).await? as usize;
            let take = rest.len().min(room).min(STAGE_BYTES);
            let (part, tail) = rest.split_at(take);
            rest = tail;
            let padded =
                u32::try_from(take.next_multiple_of(PAGE_BYTES as usize)).expect("below STAGE_BYTES");
            // A chunk is one piece on the drive: begin it in an empty stage.
            self.flush_stage().await?;
            let placed = self.advance(padded)?;
            self.put(&placed, part).await?;
            let len = u32::try_from(take).expect("below STAGE_BYTES");
            let check = crate::check::check64(0, part);
            chunks.push((placed.slot, Chunk { unit: placed.unit, offset: placed.offset, len, check }));
        }
        Ok(chunks)
    }

    /// Writes what is staged.
    pub(crate) async fn flush_stage(&mut self) -> Result<(), String> {
        let Some(mut stage) = self.stage.take() else { return Ok(()) };
        stage.buf.set_len(stage.len);
        let (file, offset) = {
            let mut shard = self.shard.borrow_mut();
            shard.counters.drive_written += stage.len as u64;
            shard.counters.map_written += stage.len as u64;
            shard.geometry.place(stage.unit, u64::from(stage.offset))
        };
        let slice = stage.buf.freeze();
        let kept = slice.clone();
        self.exec.write(file, offset, vec![slice]).await.map_err(|e| e.to_string())?;
        self.shard.borrow_mut().kept_stage = kept.try_into_buf().ok();
        Ok(())
    }

    /// Makes sure that the open segment has room for `bytes`; the room.
    async fn reserve(&mut self, bytes: u32) -> Result<u32, String> {
        loop {
            let header = {
                let mut shard = self.shard.borrow_mut();
                if !matches!(shard.phase, Phase::Serving | Phase::Recovering) {
                    return Err("the shard stopped meanwhile".into());
                }
                let unit_bytes = shard.geometry.unit_bytes;
                if let Some(open) = shard.log.streams[Stream::Meta as usize].open
                    && open.tail + bytes <= unit_bytes
                {
                    return Ok(unit_bytes - open.tail);
                }
                shard.open_segment(Stream::Meta)
            };
            match header {
                Some(header) => self.begin(&header).await?,
                None => {
                    let bell = {
                        let mut shard = self.shard.borrow_mut();
                        shard.want(Purpose::Metadata);
                        shard.lease_bell.clone()
                    };
                    bell.notified().await;
                }
            }
        }
    }

    /// Stages the header of a segment that was just opened.
    async fn begin(&mut self, header: &[u8]) -> Result<(), String> {
        self.flush_stage().await?;
        let open = self.shard.borrow().log.streams[Stream::Meta as usize].open.ok_or("no open segment")?;
        let placed = Placed { slot: open.slot, unit: open.unit, offset: open.tail - SEGMENT_HEADER_BYTES };
        self.put(&placed, header).await
    }

    /// Takes `bytes` of the open segment.
    fn advance(&mut self, bytes: u32) -> Result<Placed, String> {
        let mut shard = self.shard.borrow_mut();
        let open = shard.log.streams[Stream::Meta as usize].open.as_mut().ok_or("no open segment")?;
        let placed = Placed { slot: open.slot, unit: open.unit, offset: open.tail };
        open.tail += bytes;
        Ok(placed)
    }

    /// Copies bytes into the stage, zero-padded to whole pages; they follow what is staged, or begin a new stage.
    async fn put(&mut self, placed: &Placed, bytes: &[u8]) -> Result<(), String> {
        let padded = bytes.len().next_multiple_of(PAGE_BYTES as usize);
        let follows = self.stage.as_ref().is_some_and(|s| {
            s.unit == placed.unit
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
            self.stage = Some(Stage { buf, unit: placed.unit, offset: placed.offset, len: 0 });
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
