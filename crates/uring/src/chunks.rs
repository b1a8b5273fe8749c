//! The receive buffers that the kernel picks from: a ring of pool chunks shared with it.
//!
//! As few chunks as suffice are kept provided, because the kernel takes them in turn and a short ring stays in the cache. When
//! it runs dry within one turn the number doubles, up to half of the pool's; when that has not happened for long it halves. Chunks
//! leave as [`Buf`] and come back through the pool.

use crate::errors;
use dolmen_io::{Buf, Error, Pool, PoolConfig};
use io_uring::{Submitter, types::BufRingEntry};
use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    ptr::NonNull,
    sync::atomic::{AtomicU16, Ordering},
};

/// The group that receives name; a ring has one.
pub(crate) const GROUP: u16 = 0;

/// Chunks that are provided at least.
const LEAST: usize = 16;

/// Refills without a dry ring after which fewer chunks are provided.
const CALM_REFILLS: u32 = 1 << 16;

pub(crate) struct Chunks {
    entries: NonNull<BufRingEntry>,
    layout: Layout,
    mask: u16,
    tail: u16,
    /// The chunk behind each buffer id, while the kernel has it.
    chunks: Vec<Option<Buf>>,
    free: Vec<u16>,
    target: usize,
    /// What the target grows to: others need chunks too.
    most: usize,
    calm: u32,
    /// The pool had no more chunks at the last refill.
    pool_empty: bool,
    chunk_bytes: usize,
}

impl Chunks {
    /// Registers an empty ring for `most` chunks.
    pub(crate) fn new(submitter: &Submitter<'_>, most: u16, pool: &Pool) -> Result<Chunks, Error> {
        let most = most.clamp(32, 1 << 15).next_power_of_two();
        let chunk_bytes = PoolConfig::CHUNK_BYTES.min(pool.largest());
        let bytes = usize::from(most) * size_of::<BufRingEntry>();
        let layout = Layout::from_size_align(bytes, 4096).expect("a small ring");
        // SAFETY: the size is not zero.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(entries) = NonNull::new(memory.cast::<BufRingEntry>()) else { handle_alloc_error(layout) };
        let chunks = Chunks {
            entries,
            layout,
            mask: most - 1,
            tail: 0,
            chunks: (0..most).map(|_| None).collect(),
            free: (0..most).rev().collect(),
            target: LEAST,
            most: (pool.fitting(chunk_bytes) / 2).clamp(LEAST, usize::from(most)),
            calm: 0,
            pool_empty: false,
            chunk_bytes,
        };
        // SAFETY: the memory lives until `Chunks` is dropped, and the driver does that once no request is outstanding.
        unsafe { submitter.register_buf_ring_with_flags(entries.as_ptr() as u64, most, GROUP, 0) }
            .map_err(|e| errors::no_ring(e.raw_os_error().unwrap_or(libc::EINVAL)))?;
        Ok(chunks)
    }

    /// Chunks that the kernel has now.
    pub(crate) fn provided(&self) -> usize {
        self.chunks.len() - self.free.len()
    }

    /// Provides chunks up to the number that is kept, as far as the pool has them.
    pub(crate) fn refill(&mut self, pool: &Pool) {
        self.calm += 1;
        if self.calm == CALM_REFILLS {
            (self.calm, self.target) = (0, (self.target / 2).max(LEAST));
        }
        let before = self.tail;
        self.pool_empty = false;
        while self.provided() < self.target {
            let Some(mut chunk) = pool.alloc_fitting(self.chunk_bytes) else {
                self.pool_empty = true;
                break;
            };
            let id = self.free.pop().expect("the target is at most the number of ids");
            // SAFETY: the index is below the number of entries; the kernel reads an entry only once the tail has passed it.
            let entry = unsafe { &mut *self.entries.as_ptr().add(usize::from(self.tail & self.mask)) };
            entry.set_addr(chunk.as_mut_ptr() as u64);
            entry.set_len(u32::try_from(chunk.len()).expect("chunks are small"));
            entry.set_bid(id);
            self.chunks[usize::from(id)] = Some(chunk);
            self.tail = self.tail.wrapping_add(1);
        }
        if self.tail != before {
            // SAFETY: the tail lies in the ring's first entry, which lives as long as `self`.
            let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr()).cast_mut()) };
            tail.store(self.tail, Ordering::Release);
        }
    }

    /// The chunk that the kernel handed back under `id`, with `len` bytes of data.
    pub(crate) fn take(&mut self, id: u16, len: usize) -> Buf {
        let mut chunk = self.chunks[usize::from(id)].take().expect("the kernel hands back what it was given");
        self.free.push(id);
        chunk.set_len(len);
        chunk
    }

    /// A receive found no chunk: provide more from now on, unless it is the pool that has none.
    pub(crate) fn ran_dry(&mut self) {
        self.calm = 0;
        if !self.pool_empty {
            self.target = (self.target * 2).min(self.most);
        }
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout; the kernel is done with it, see `new`.
        unsafe { dealloc(self.entries.as_ptr().cast(), self.layout) };
    }
}
