//! Of what is scrubbed, that of which there are copies: pages of the map, the checkpoint's body, anchors.

use super::{Ended, Scrubber};
use crate::columns::Columns;
use crate::format::PAGE_BYTES;
use crate::format::anchor::{ANCHOR_BYTES, ANCHOR_COPIES, ANCHOR_SLOTS, Anchor, Chunk, anchor_offset};
use crate::format::page::{Leaf, Level, PageRef, verify};
use crate::map::LeafRef;
use crate::shard::Drives;
use crate::shard::fetch::Place;
use dolmen_io::exec::Handle;
use std::cell::RefCell;

impl Scrubber {
    /// Every copy of every page of the map.
    pub(super) async fn map(&mut self) -> Result<(), Ended> {
        let lines: Vec<u64> = self.shard.borrow().map.lines.keys().copied().collect();
        for line in lines {
            let mut index = 0;
            loop {
                let pages: Vec<(Level, PageRef)> = {
                    let s = self.shard.borrow();
                    let node = s.map.lines.get(&line).and_then(|l| l.nodes.get(index));
                    let Some(node) = node else { break };
                    let leaves = node.leaves.iter().map(|l| (Level::Leaf, l.page()));
                    std::iter::once((Level::Node, node.page)).chain(leaves).collect()
                };
                for (level, page) in pages {
                    self.page(line, level, &page).await?;
                }
                index += 1;
                self.exec.yield_now().await;
            }
        }
        Ok(())
    }

    /// The copies of a page.
    async fn page(&mut self, line: u64, level: Level, page: &PageRef) -> Result<(), Ended> {
        let slot = page.location.slot();
        let (columns, offset) = {
            let s = self.shard.borrow();
            let Some(segment) = s.segments.at(slot).filter(|s| s.suspect == 0) else { return Ok(()) };
            (segment.columns, page.location.place(s.drives.unit_bytes).1)
        };
        // A leaf that was lost before says so in what took its place.
        let extents = RefCell::new(Vec::new());
        let holds = |bytes: &[u8]| {
            let holds = verify(bytes, level, line, page);
            if holds && level == Level::Leaf {
                *extents.borrow_mut() = Leaf::trusted(bytes).lost();
            }
            holds
        };
        let (good, bad) = self.copies(&columns, offset, PAGE_BYTES as usize, holds).await?;
        for (lba, blocks) in extents.take() {
            self.shard.borrow_mut().lost.name_extent(line, lba, blocks);
        }
        if bad.is_empty() || !self.is_named(line, level, page) {
            return Ok(());
        }
        let mut s = self.shard.borrow_mut();
        if good == 0 {
            // There is nothing to write it anew from. Whoever needs it finds that out.
            s.lost_page(line, page);
        } else {
            s.scrub_mends(slot, &columns, &bad);
        }
        Ok(())
    }

    /// True while the map names a page.
    fn is_named(&self, line: u64, level: Level, page: &PageRef) -> bool {
        let s = self.shard.borrow();
        let Some(tree) = s.map.lines.get(&line) else { return false };
        match level {
            Level::Node => tree.nodes.iter().any(|n| n.page == *page),
            Level::Leaf => tree.nodes.iter().flat_map(|n| &n.leaves).map(LeafRef::page).any(|p| p == *page),
        }
    }

    /// How many copies of something hold, and which do not.
    async fn copies(
        &mut self,
        columns: &Columns,
        offset: u32,
        len: usize,
        holds: impl Fn(&[u8]) -> bool,
    ) -> Result<(usize, Vec<usize>), Ended> {
        let (mut good, mut bad) = (0, Vec::new());
        let drives = self.shard.borrow().drives.clone();
        for column in 0..columns.len() {
            match copy_holds(&drives, &self.exec, (*columns, column, offset), len, &holds).await {
                None => continue,
                Some(true) => good += 1,
                Some(false) => bad.push(column),
            }
            self.pace(len as u64).await?;
        }
        Ok((good, bad))
    }

    /// The copies of the checkpoint's body. One that comes meanwhile has written all of it anew.
    pub(super) async fn chunks(&mut self) -> Result<(), Ended> {
        let (generation, chunks): (u64, Vec<Chunk>) = {
            let s = self.shard.borrow();
            (s.checkpoint.generation, s.checkpoint.chunks.clone())
        };
        for chunk in chunks {
            let len = chunk.len as usize;
            let holds = |bytes: &[u8]| crate::shard::checkpoint::chunk_holds(&chunk, &bytes[..len]);
            let padded = len.next_multiple_of(PAGE_BYTES as usize);
            let (good, bad) = self.copies(&chunk.columns, chunk.offset, padded, holds).await?;
            let mut s = self.shard.borrow_mut();
            if s.checkpoint.generation != generation {
                return Ok(());
            }
            if bad.is_empty() {
                continue;
            }
            let slot = s.segments.iter().find(|(_, seg)| seg.columns == chunk.columns).map(|(slot, _)| slot);
            let Some(slot) = slot else { continue };
            if good == 0 {
                s.scrub_lost("a part of the checkpoint, which the next one replaces".into());
            }
            s.scrub_mends(slot, &chunk.columns, &bad);
            s.checkpoint.requested = true;
        }
        Ok(())
    }

    /// The copies of the newest anchor. What is wrong with one is put right by the next anchor, which takes the other slot, and which
    /// the end of the round asks for anyway.
    pub(super) async fn anchors(&mut self) -> Result<(), Ended> {
        let (id, generation, drives) = {
            let s = self.shard.borrow();
            (s.id, s.checkpoint.generation, s.drives.clone())
        };
        let mut wrong = 0;
        for drive in drives.in_service() {
            for copy in 0..ANCHOR_COPIES {
                let Some(file) = drives.file(drive) else { continue };
                let mut buf = self.exec.alloc(ANCHOR_BYTES).await;
                buf.set_len(ANCHOR_BYTES);
                let offset = anchor_offset(id.shard, generation % ANCHOR_SLOTS, copy);
                let right = match drives.read_again(&self.exec, (drive, file, offset), buf).await {
                    Ok(buf) => Anchor::is_or_never_was(&buf, id.pool, id.shard, generation),
                    Err(_) => false,
                };
                wrong += u64::from(!right && drives.counts(drive));
                self.pace(ANCHOR_BYTES as u64).await?;
            }
        }
        let mut s = self.shard.borrow_mut();
        // A checkpoint that came meanwhile has written another one.
        if s.checkpoint.generation == generation {
            s.scrub.mended += wrong;
        }
        Ok(())
    }
}

/// Whether a copy of something (its columns, which of them, where) holds; `None` when its drive is out.
pub(crate) async fn copy_holds(
    drives: &Drives,
    exec: &Handle,
    (columns, column, offset): (Columns, usize, u32),
    len: usize,
    holds: &impl Fn(&[u8]) -> bool,
) -> Option<bool> {
    let is_out = || columns.unit(column).is_none_or(|unit| drives.place(unit, 0).is_none());
    if is_out() {
        return None;
    }
    let mut buf = exec.alloc(len).await;
    buf.set_len(len);
    let place = Place { columns, column, offset };
    match drives.combine(exec, place, &[column], buf).await {
        Ok(buf) if holds(&buf) => Some(true),
        // It may have gone meanwhile.
        _ if is_out() => None,
        _ => Some(false),
    }
}
