//! Blocks in memory, for tests and benchmarks: bounded, gone with the process.

use crate::{VolumeError, limits::MAX_MEMORY_VOLUME_BYTES};
use dolmen_store::Record;
use dolmen_types::limits::BLOCK_BYTES;

/// Blocks of one extent: together as large as a huge page.
const EXTENT_BLOCKS: usize = 512;
/// As a block's number counts.
const EXTENT: u64 = EXTENT_BLOCKS as u64;

/// Neighbouring blocks. What was never written is zero, and takes no memory: the system gives pages when they are touched.
#[derive(Debug)]
struct Extent {
    written: [bool; EXTENT_BLOCKS],
    data: Box<[u8]>,
}

impl Extent {
    fn new() -> Box<Extent> {
        let data = vec![0; EXTENT_BLOCKS * BLOCK_BYTES].into();
        Box::new(Extent { written: [false; EXTENT_BLOCKS], data })
    }
}

/// The blocks of one memory volume; absent ones read zeros.
#[derive(Debug, Default)]
pub(crate) struct MemoryBlocks {
    extents: Vec<Option<Box<Extent>>>,
}

/// The extent of a block, and its place there.
fn place(block: u64) -> (usize, usize) {
    let extent = usize::try_from(block / EXTENT).unwrap_or(usize::MAX);
    (extent, usize::try_from(block % EXTENT).expect("below 512"))
}

/// The first `blocks` blocks from `first` on, cut at extents: extent, first place, number.
fn pieces(first: u64, blocks: u64) -> impl Iterator<Item = (usize, usize, usize)> {
    let mut at = first;
    let end = first.saturating_add(blocks);
    std::iter::from_fn(move || {
        let (extent, place) = place(at);
        let count = (end - at).min((EXTENT_BLOCKS - place) as u64);
        at += count;
        (count > 0).then(|| (extent, place, usize::try_from(count).expect("at most 512")))
    })
}

impl MemoryBlocks {
    /// Number of blocks kept.
    pub(crate) fn len(&self) -> u64 {
        let written = self.extents.iter().flatten().map(|e| e.written.iter().filter(|w| **w).count() as u64);
        written.sum()
    }

    /// Fills `buf` with the blocks from `first` on.
    pub(crate) fn read(&self, first: u64, buf: &mut [u8]) {
        let mut rest = buf;
        for (extent, place, count) in pieces(first, (rest.len() / BLOCK_BYTES) as u64) {
            let (part, tail) = rest.split_at_mut(count * BLOCK_BYTES);
            match self.extents.get(extent) {
                Some(Some(extent)) => part.copy_from_slice(&extent.data[place * BLOCK_BYTES..][..part.len()]),
                _ => part.fill(0),
            }
            rest = tail;
        }
    }

    /// Applies the data records of one batch, all or nothing; others mean nothing here.
    pub(crate) fn apply(&mut self, records: &[Record]) -> Result<(), VolumeError> {
        let mut writes = records
            .iter()
            .filter_map(|r| if let Record::Write { lba, data, .. } = r { Some((lba, data)) } else { None });
        if !writes.all(|(lba, data)| fits(lba.0, data)) {
            return Err(VolumeError::CapacityExceeded);
        }
        for record in records {
            match record {
                Record::Write { lba, data, .. } => self.write(lba.0, data)?,
                Record::Unmap { lba, blocks, .. } => self.unmap(lba.0, blocks.0),
                _ => {}
            }
        }
        Ok(())
    }

    /// Stores whole blocks from `first` on; refused, and nothing is stored, beyond the largest size.
    pub(crate) fn write(&mut self, first: u64, data: &[u8]) -> Result<(), VolumeError> {
        if !fits(first, data) {
            return Err(VolumeError::CapacityExceeded);
        }
        let mut rest = data;
        for (extent, place, count) in pieces(first, (data.len() / BLOCK_BYTES) as u64) {
            let (part, tail) = rest.split_at(count * BLOCK_BYTES);
            if self.extents.len() <= extent {
                self.extents.resize_with(extent + 1, || None);
            }
            let extent = self.extents[extent].get_or_insert_with(Extent::new);
            extent.data[place * BLOCK_BYTES..][..part.len()].copy_from_slice(part);
            extent.written[place..place + count].fill(true);
            rest = tail;
        }
        Ok(())
    }

    /// Makes blocks read zeros again.
    fn unmap(&mut self, first: u64, blocks: u64) {
        let there = self.extents.len() as u64 * EXTENT;
        for (at, place, count) in pieces(first, blocks.min(there.saturating_sub(first))) {
            let Some(slot) = self.extents.get_mut(at) else { return };
            let Some(extent) = slot else { continue };
            extent.written[place..place + count].fill(false);
            if extent.written.contains(&true) {
                extent.data[place * BLOCK_BYTES..][..count * BLOCK_BYTES].fill(0);
            } else {
                *slot = None;
            }
        }
    }
}

/// True for blocks within the largest memory volume.
fn fits(first: u64, data: &[u8]) -> bool {
    let end = first.checked_add((data.len() / BLOCK_BYTES) as u64);
    end.is_some_and(|end| end <= MAX_MEMORY_VOLUME_BYTES / BLOCK_BYTES as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dolmen_types::{Blocks, Lba, LineId};

    #[test]
    fn keeps_what_was_written_across_extents_and_forgets_what_was_unmapped() {
        let mut blocks = MemoryBlocks::default();
        let data: Vec<u8> = (0..=255).cycle().step_by(7).take(4 * BLOCK_BYTES).collect();
        blocks.write(EXTENT - 2, &data).unwrap();
        let read = |blocks: &MemoryBlocks, first, count: usize| {
            let mut buf = vec![0xee; count * BLOCK_BYTES];
            blocks.read(first, &mut buf);
            buf
        };
        assert_eq!((read(&blocks, EXTENT - 2, 4), blocks.len()), (data.clone(), 4));
        assert!(read(&blocks, 3 * EXTENT, 2).iter().all(|&b| b == 0));
        let unmap = |lba, count| Record::Unmap { line: LineId(1), lba: Lba(lba), blocks: Blocks(count) };
        blocks.apply(&[unmap(EXTENT - 1, 2)]).unwrap();
        let now = read(&blocks, EXTENT - 2, 4);
        assert_eq!(now[..BLOCK_BYTES], data[..BLOCK_BYTES]);
        assert!(now[BLOCK_BYTES..3 * BLOCK_BYTES].iter().all(|&b| b == 0));
        assert_eq!(now[3 * BLOCK_BYTES..], data[3 * BLOCK_BYTES..]);
        blocks.apply(&[unmap(0, u64::MAX)]).unwrap();
        assert!(blocks.extents.iter().all(Option::is_none));
    }

    #[test]
    fn refuses_blocks_beyond_the_largest_size() {
        let mut blocks = MemoryBlocks::default();
        let last = MAX_MEMORY_VOLUME_BYTES / BLOCK_BYTES as u64 - 1;
        assert!(blocks.write(last, &[7; BLOCK_BYTES]).is_ok());
        assert!(blocks.write(last, &[7; 2 * BLOCK_BYTES]).is_err());
        assert!(blocks.write(u64::MAX, &[7; BLOCK_BYTES]).is_err());
    }
}
