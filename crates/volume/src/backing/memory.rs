//! Blocks in memory, for tests and benchmarks: bounded, gone with the process.

use crate::{VolumeError, limits::MAX_MEMORY_VOLUME_BYTES};
use dolmen_store::Record;
use dolmen_types::limits::BLOCK_BYTES;
use std::collections::BTreeMap;

/// The blocks of one memory volume; absent ones read zeros.
#[derive(Debug, Default)]
pub(crate) struct MemoryBlocks {
    blocks: BTreeMap<u64, Box<[u8]>>,
}

impl MemoryBlocks {
    /// Number of blocks kept.
    pub(crate) fn len(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// Fills `buf` with the blocks from `first` on.
    pub(crate) fn read(&self, first: u64, buf: &mut [u8]) {
        for (block, part) in (first..).zip(buf.chunks_mut(BLOCK_BYTES)) {
            match self.blocks.get(&block) {
                Some(data) => part.copy_from_slice(data),
                None => part.fill(0),
            }
        }
    }

    /// Applies the data records of one batch, all or nothing; others mean nothing here.
    pub(crate) fn apply(&mut self, records: &[Record]) -> Result<(), VolumeError> {
        let written: u64 = records
            .iter()
            .map(|r| if let Record::Write { data, .. } = r { data.len() as u64 } else { 0 })
            .sum();
        if self.len() * BLOCK_BYTES as u64 + written > MAX_MEMORY_VOLUME_BYTES {
            return Err(VolumeError::CapacityExceeded);
        }
        for record in records {
            match record {
                Record::Write { lba, data, .. } => self.write(lba.0, data),
                Record::Unmap { lba, blocks, .. } => {
                    let end = lba.0.saturating_add(blocks.0);
                    let gone: Vec<u64> = self.blocks.range(lba.0..end).map(|b| *b.0).collect();
                    gone.iter().for_each(|block| drop(self.blocks.remove(block)));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Stores whole blocks from `first` on.
    fn write(&mut self, first: u64, data: &[u8]) {
        for (block, part) in (first..).zip(data.chunks(BLOCK_BYTES)) {
            self.blocks.entry(block).or_insert_with(|| part.into()).copy_from_slice(part);
        }
    }
}
