//! Leaves in memory, up to a byte budget; the clock algorithm chooses which one goes.
//!
//! A leaf's reference holds a hint: the frame where the leaf was last seen. A frame is believed only when it holds the
//! page that is asked for (by place and check), so hints may be stale, and there is nothing to hash.

use crate::format::PAGE_BYTES;
use crate::format::page::{HEADER_BYTES, PageRef, slots_near};
use crate::location::Location;
use dolmen_kernels::prefetch;

/// What is in a place for one leaf.
struct Frame {
    location: Location,
    check: u64,
    used: bool,
}

/// Leaves whose memory is got at once.
const CHUNK_LEAVES: usize = 32;

const PAGE: usize = PAGE_BYTES as usize;

/// A hint that names no frame.
pub(crate) const NO_FRAME: u32 = u32::MAX;

/// The leaves in memory.
pub(crate) struct Cache {
    frames: Vec<Frame>,
    /// The leaves of the frames, in chunks: where a leaf is follows from its frame's number, without a look at anything else.
    chunks: Vec<Box<[u8]>>,
    limit: usize,
    hand: usize,
}

impl Cache {
    /// Keeps at most `budget_bytes` of leaves, but always a few.
    pub(crate) fn new(budget_bytes: usize) -> Cache {
        Cache { frames: Vec::new(), chunks: Vec::new(), limit: (budget_bytes / PAGE).max(4), hand: 0 }
    }

    /// Leaves that it keeps at most.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Memory that it takes now. Bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.frames.len() * (PAGE + size_of::<Frame>())
    }

    /// The leaf that `page` names, if the hinted frame holds it.
    pub(crate) fn at(&mut self, hint: u32, page: &PageRef) -> Option<&[u8]> {
        let frame = self.frames.get_mut(hint as usize)?;
        if frame.location != page.location || frame.check != page.check {
            return None;
        }
        frame.used = true;
        self.bytes(hint as usize)
    }

    fn bytes(&self, frame: usize) -> Option<&[u8]> {
        let at = frame % CHUNK_LEAVES * PAGE;
        self.chunks.get(frame / CHUNK_LEAVES)?.get(at..at + PAGE)
    }

    /// Has the part of a leaf brought near that a search for this slot looks at, if the hinted frame holds it.
    pub(crate) fn prefetch(&self, hint: u32, slot: usize) {
        if let Some(bytes) = self.bytes(hint as usize) {
            prefetch(&self.frames[hint as usize]);
            prefetch(&bytes[..HEADER_BYTES]);
            prefetch(slots_near(bytes, slot));
        }
    }

    /// Keeps a copy of a verified leaf; the hint for its reference.
    pub(crate) fn insert(&mut self, page: &PageRef, bytes: &[u8]) -> u32 {
        let (location, check) = (page.location, page.check);
        let index = if self.frames.len() < self.limit {
            if self.frames.len().is_multiple_of(CHUNK_LEAVES) {
                let leaves = CHUNK_LEAVES.min(self.limit - self.frames.len());
                self.chunks.push(vec![0; leaves * PAGE].into());
            }
            self.frames.push(Frame { location, check, used: true });
            self.frames.len() - 1
        } else {
            let index = self.victim();
            let frame = &mut self.frames[index];
            (frame.location, frame.check) = (location, check);
            frame.used = true;
            index
        };
        let at = index % CHUNK_LEAVES * PAGE;
        self.chunks[index / CHUNK_LEAVES][at..at + PAGE].copy_from_slice(bytes);
        u32::try_from(index).expect("a cache has fewer than 2^32 frames")
    }

    fn victim(&mut self) -> usize {
        loop {
            self.hand = (self.hand + 1) % self.frames.len();
            let frame = &mut self.frames[self.hand];
            if !std::mem::take(&mut frame.used) {
                return self.hand;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(i: u64) -> PageRef {
        PageRef { first: 0, seq: 0, location: Location(i), check: i * 3, count: 1, flags: 0 }
    }

    #[test]
    fn keeps_its_budget_and_never_lies() {
        let mut cache = Cache::new(0);
        let hints: Vec<u32> =
            (0..20u64).map(|i| cache.insert(&page(i), &vec![u8::try_from(i).unwrap(); 4096])).collect();
        let held: Vec<u64> = (0..20u64)
            .filter(|&i| {
                cache.at(hints[usize::try_from(i).unwrap()], &page(i)).is_some_and(|b| u64::from(b[0]) == i)
            })
            .collect();
        assert_eq!(held.len(), 4);
        assert!(held.contains(&19));
        assert!(cache.at(NO_FRAME, &page(19)).is_none());
        assert!(cache.at(hints[19], &PageRef { check: 1, ..page(19) }).is_none());
    }
}
