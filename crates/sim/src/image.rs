//! The bytes of a drive: a sparse map of pages, shared between copies until one of them is written.

use std::{collections::BTreeMap, rc::Rc};

const PAGE: usize = 4096;

/// Contents of a drive; what was never written reads as zeros. Cloning copies no pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    pages: BTreeMap<u64, Rc<[u8; PAGE]>>,
}

impl Image {
    /// Fills `out` from `offset` on.
    pub fn read(&self, offset: u64, out: &mut [u8]) {
        for (page, within, part) in spans(offset, out.len()) {
            let target = &mut out[part];
            match self.pages.get(&page) {
                Some(bytes) => target.copy_from_slice(&bytes[within..within + target.len()]),
                None => target.fill(0),
            }
        }
    }

    /// Stores `data` from `offset` on.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        for (page, within, part) in spans(offset, data.len()) {
            let source = &data[part];
            let bytes = Rc::make_mut(self.pages.entry(page).or_insert_with(|| Rc::new([0; PAGE])));
            bytes[within..within + source.len()].copy_from_slice(source);
        }
    }

    /// Makes a range read as zeros.
    pub fn clear(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        let page = PAGE as u64;
        let whole = offset.div_ceil(page)..end / page;
        if whole.start < whole.end {
            let inside: Vec<u64> = self.pages.range(whole.clone()).map(|(&p, _)| p).collect();
            for p in inside {
                self.pages.remove(&p);
            }
            self.zero_part(offset, whole.start * page);
            self.zero_part(whole.end * page, end);
        } else {
            self.zero_part(offset, end);
        }
    }

    /// Pages that hold something. Pages of 4096 bytes.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// Zeroes a range of less than two pages, without making pages that aren't there.
    fn zero_part(&mut self, from: u64, to: u64) {
        let len = usize::try_from(to.saturating_sub(from)).expect("at most two pages");
        for (page, within, part) in spans(from, len) {
            if let Some(bytes) = self.pages.get_mut(&page) {
                Rc::make_mut(bytes)[within..within + part.len()].fill(0);
            }
        }
    }
}

/// The page, the offset within it, and the range of the caller's bytes, for each page that a range touches.
fn spans(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at == len {
            return None;
        }
        let position = offset + at as u64;
        let within = usize::try_from(position % PAGE as u64).expect("below a page");
        let n = (PAGE - within).min(len - at);
        at += n;
        Some((position / PAGE as u64, within, at - n..at))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    #[test]
    fn agrees_with_a_flat_array() {
        let mut rng = Rng::new(1);
        let mut flat = vec![0u8; 64 * 1024];
        let mut image = Image::default();
        let before = image.clone();
        for _ in 0..2000 {
            let from = rng.index(flat.len());
            let len = rng.index((flat.len() - from).min(12_000) + 1);
            match rng.below(3) {
                0 => {
                    let mut data = vec![0; len];
                    rng.fill(&mut data);
                    image.write(from as u64, &data);
                    flat[from..from + len].copy_from_slice(&data);
                }
                1 => {
                    image.clear(from as u64, len as u64);
                    flat[from..from + len].fill(0);
                }
                _ => {
                    let mut out = vec![1; len];
                    image.read(from as u64, &mut out);
                    assert_eq!(out, flat[from..from + len]);
                }
            }
        }
        assert_eq!(before.pages(), 0, "copies are independent");
    }
}
