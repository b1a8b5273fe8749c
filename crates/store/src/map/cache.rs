//! Leaves in memory, up to a byte budget; the clock algorithm chooses which one goes.
//!
//! A leaf's reference holds a hint: the frame where the leaf was last seen. A frame is believed only when it holds the
//! page that is asked for (by place and check), so hints may be stale, and there is nothing to hash.

use crate::format::PAGE_BYTES;
use crate::format::page::PageRef;
use crate::location::Location;

/// A place for one leaf.
struct Frame {
    location: Location,
    check: u64,
    used: bool,
    bytes: Box<[u8]>,
}

/// A hint that names no frame.
pub(crate) const NO_FRAME: u32 = u32::MAX;

/// The leaves in memory.
pub(crate) struct Cache {
    frames: Vec<Frame>,
    limit: usize,
    hand: usize,
}

impl Cache {
    /// Keeps at most `budget_bytes` of leaves, but always a few.
    pub(crate) fn new(budget_bytes: usize) -> Cache {
        Cache { frames: Vec::new(), limit: (budget_bytes / PAGE_BYTES as usize).max(4), hand: 0 }
    }

    /// Memory that it takes now. Bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.frames.len() * (PAGE_BYTES as usize + size_of::<Frame>())
    }

    /// The leaf that `page` names, if the hinted frame holds it.
    pub(crate) fn at(&mut self, hint: u32, page: &PageRef) -> Option<&[u8]> {
        let frame = self.frames.get_mut(hint as usize)?;
        if frame.location != page.location || frame.check != page.check {
            return None;
        }
        frame.used = true;
        Some(&frame.bytes)
    }

    /// Keeps a copy of a verified leaf; the hint for its reference.
    pub(crate) fn insert(&mut self, page: &PageRef, bytes: &[u8]) -> u32 {
        let (location, check) = (page.location, page.check);
        let index = if self.frames.len() < self.limit {
            self.frames.push(Frame { location, check, used: true, bytes: bytes.into() });
            self.frames.len() - 1
        } else {
            let index = self.victim();
            let frame = &mut self.frames[index];
            (frame.location, frame.check) = (location, check);
            frame.used = true;
            frame.bytes.copy_from_slice(bytes);
            index
        };
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
