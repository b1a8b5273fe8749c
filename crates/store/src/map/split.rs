//! Cutting merged slots into leaves, so that all versions of a block are in one leaf, or in leaves of their own.

use super::Version;
use crate::format::page::{PAGE_SLOTS, PageRef};

/// The slots of one leaf to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// Ascending by (address, sequence number), at most [`PAGE_SLOTS`].
    pub(crate) slots: Vec<(u64, Version)>,
    /// Flags of its reference.
    pub(crate) flags: u16,
    /// The next page begins with newer versions of this one's only block.
    pub(crate) goes_on: bool,
}

/// Cuts slots into leaves: about even parts of at most [`PAGE_SLOTS`], none spanning 2^32 blocks or more. Holes, and ranges that are
/// lost, are cut where leaves are.
pub(crate) fn split(slots: &[(u64, Version)]) -> Vec<Page> {
    let count = slots.len().div_ceil(PAGE_SLOTS).max(1);
    let mut splitter = Splitter {
        each: slots.len().div_ceil(count).max(1),
        leaf: Vec::new(),
        rest: Vec::new(),
        pages: Vec::new(),
    };
    let mut bundles = slots.chunk_by(|a, b| a.0 == b.0).peekable();
    loop {
        // Holes that a cut left over begin anew, maybe before the next slot.
        let over = splitter.rest.first().map(|s| s.0);
        let slot = bundles.peek().map(|b| b[0].0);
        let Some(address) = over.into_iter().chain(slot).min() else { break };
        let own = bundles.next_if(|b| b[0].0 == address).unwrap_or_default();
        splitter.add(address, own);
    }
    splitter.close(None);
    splitter.pages
}

struct Splitter {
    /// Slots at which a leaf is full enough.
    each: usize,
    leaf: Vec<(u64, Version)>,
    /// Parts of holes that a cut left over; all begin at one address.
    rest: Vec<(u64, Version)>,
    pages: Vec<Page>,
}

impl Splitter {
    /// Adds all slots that begin at an address.
    fn add(&mut self, address: u64, own: &[(u64, Version)]) {
        let far = self.leaf.first().is_some_and(|(first, _)| address - first > u64::from(u32::MAX));
        let full = self.leaf.len() >= self.each || self.leaf.len() + own.len() + self.rest.len() > PAGE_SLOTS;
        if !self.leaf.is_empty() && (far || full) {
            self.close(Some(address));
        }
        if self.rest.is_empty() && own.len() <= PAGE_SLOTS {
            self.leaf.extend_from_slice(own);
            return;
        }
        let mut bundle = std::mem::take(&mut self.rest);
        bundle.extend_from_slice(own);
        bundle.sort_by_key(|(_, v)| v.seq());
        if bundle.len() > PAGE_SLOTS {
            return self.alone(address, bundle);
        }
        self.leaf.append(&mut bundle);
    }

    /// Ends the open leaf; holes that reach beyond `next` go on there.
    fn close(&mut self, next: Option<u64>) {
        if self.leaf.is_empty() {
            return;
        }
        let mut slots = std::mem::take(&mut self.leaf);
        if let Some(next) = next {
            self.rest.extend(cut_holes(&mut slots, next));
        }
        let holes = slots.iter().any(|(_, v)| v.stored().is_none());
        let several = slots.windows(2).any(|w| w[0].0 == w[1].0);
        let flags = if holes {
            PageRef::HISTORY | PageRef::HOLES
        } else if several {
            PageRef::HISTORY
        } else {
            0
        };
        self.pages.push(Page { slots, flags, goes_on: false });
    }

    /// A block with more versions than a leaf holds: full leaves from the oldest on, which later merges leave as they are.
    fn alone(&mut self, address: u64, mut bundle: Vec<(u64, Version)>) {
        self.rest.extend(cut_holes(&mut bundle, address.saturating_add(1)));
        let holes = bundle.iter().any(|(_, v)| v.stored().is_none());
        let flags = if holes { PageRef::HISTORY | PageRef::HOLES } else { PageRef::HISTORY };
        let pages = bundle.chunks(PAGE_SLOTS);
        let last = pages.len() - 1;
        let page =
            |(i, slots): (usize, &[(u64, Version)])| Page { slots: slots.to_vec(), flags, goes_on: i < last };
        self.pages.extend(pages.enumerate().map(page));
    }
}

/// Cuts all holes at `next`; the parts behind it.
fn cut_holes(slots: &mut [(u64, Version)], next: u64) -> Vec<(u64, Version)> {
    let mut rest = Vec::new();
    for (lba, version) in slots {
        let mut behind = *version;
        if let (Some(blocks), Some(left)) = (version.range_mut(), behind.range_mut()) {
            let end = lba.saturating_add(*blocks);
            if end > next {
                (*blocks, *left) = (next - *lba, end - next);
                rest.push((next, behind));
            }
        }
    }
    rest
}
