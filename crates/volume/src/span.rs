//! Geometry: a run of a volume's logical blocks as bytes and as store blocks.

use crate::{LbaRange, VolumeError};
use dolmen_types::{Blocks, Lba, limits::BLOCK_BYTES};

/// [`BLOCK_BYTES`] as an offset.
const BLOCK: u64 = BLOCK_BYTES as u64;

/// A range of a volume's bytes, not empty and within the volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    /// First byte.
    pub(crate) start: u64,
    /// Byte after the last one.
    pub(crate) end: u64,
}

impl Span {
    /// The bytes of a range of logical blocks in a volume of `size` bytes.
    pub(crate) fn of(range: LbaRange, sector_shift: u32, size: u64) -> Result<Span, VolumeError> {
        if range.blocks == 0 {
            return Err(VolumeError::Invalid);
        }
        let end = range.lba.checked_add(u64::from(range.blocks)).ok_or(VolumeError::OutOfRange)?;
        if end > size >> sector_shift {
            return Err(VolumeError::OutOfRange);
        }
        Ok(Span { start: range.lba << sector_shift, end: end << sector_shift })
    }

    /// Length in bytes.
    pub(crate) fn len(self) -> u64 {
        self.end - self.start
    }

    /// First store block that it touches.
    pub(crate) fn first(self) -> u64 {
        self.start / BLOCK
    }

    /// The store block after the last one that it touches.
    pub(crate) fn after(self) -> u64 {
        self.end.div_ceil(BLOCK)
    }

    /// Store blocks that it touches.
    pub(crate) fn blocks(self) -> u64 {
        self.after() - self.first()
    }

    /// Bytes of an image of all store blocks that it touches. Only for spans within one command's data.
    pub(crate) fn image_bytes(self) -> usize {
        usize::try_from(self.blocks() * BLOCK).expect("images are of bounded spans")
    }

    /// Where its own bytes lie in that image.
    pub(crate) fn in_image(self) -> std::ops::Range<usize> {
        let offset = usize::try_from(self.start % BLOCK).expect("below 4096");
        offset..offset + usize::try_from(self.len()).expect("images are of bounded spans")
    }

    /// True when it consists of whole store blocks.
    pub(crate) fn is_aligned(self) -> bool {
        (self.start | self.end).is_multiple_of(BLOCK)
    }

    /// The `n`th store block that it covers only in part; there are 0, 1 or 2.
    pub(crate) fn edge(self, n: usize) -> Option<u64> {
        let head = (!self.start.is_multiple_of(BLOCK)).then(|| self.first());
        let tail = (!self.end.is_multiple_of(BLOCK)).then(|| self.after() - 1);
        let tail = tail.filter(|t| head != Some(*t));
        head.into_iter().chain(tail).nth(n)
    }

    /// The whole store blocks within it: first and number, if there are any.
    pub(crate) fn inner(self) -> Option<(Lba, Blocks)> {
        let (first, after) = (self.start.div_ceil(BLOCK), self.end / BLOCK);
        (first < after).then(|| (Lba(first), Blocks(after - first)))
    }

    /// Copies what lies outside of the span from store block `block` into that block of an image.
    pub(crate) fn keep_outside(self, block: u64, old: &[u8], image: &mut [u8]) {
        let base = block * BLOCK;
        let cut = |at: u64| usize::try_from(at.clamp(base, base + BLOCK) - base).expect("within a block");
        let (head, tail) = (cut(self.start), cut(self.end));
        image[..head].copy_from_slice(&old[..head]);
        image[tail..].copy_from_slice(&old[tail..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_and_inner_blocks() {
        let span = |start, end| Span { start, end };
        let all = |s: Span| (s.edge(0), s.edge(1), s.edge(2), s.inner());
        assert_eq!(all(span(0, 8192)), (None, None, None, Some((Lba(0), Blocks(2)))));
        assert_eq!(all(span(512, 1024)), (Some(0), None, None, None));
        assert_eq!(all(span(4096, 4608)), (Some(1), None, None, None));
        assert_eq!(all(span(3584, 4608)), (Some(0), Some(1), None, None));
        assert_eq!(all(span(512, 12800)), (Some(0), Some(3), None, Some((Lba(1), Blocks(2)))));
    }

    #[test]
    fn ranges_end_with_the_volume() {
        let of = |lba, blocks| Span::of(LbaRange { lba, blocks }, 9, 8192);
        assert_eq!(of(15, 1), Ok(Span { start: 7680, end: 8192 }));
        assert_eq!(of(15, 2), Err(VolumeError::OutOfRange));
        assert_eq!(of(u64::MAX, 1), Err(VolumeError::OutOfRange));
        assert_eq!(of(0, 0), Err(VolumeError::Invalid));
    }

    #[test]
    fn outside_bytes_are_kept() {
        let span = Span { start: 4096 + 10, end: 4096 + 20 };
        let (old, mut image) = (vec![1u8; 4096], vec![2u8; 4096]);
        span.keep_outside(1, &old, &mut image);
        assert!(image.iter().enumerate().all(|(i, &b)| b == if (10..20).contains(&i) { 2 } else { 1 }));
    }
}
