//! What a verified load writes: blocks that say which they are, so that a lost, stale, misplaced or torn one is caught.
//!
//! ```text
//!  byte  0        8         16      24           32                                4088      4096
//!       | magic  | volume  | block | generation | filler made of the four before  | check   |
//! ```
//!
//! All numbers are little-endian; the check is XXH3-64 of bytes 0 to 4087. A block that was never written, or that
//! was trimmed, reads as zeroes.

use super::rng::mix;
use dolmen_kernels::check64;

/// Bytes of one stamped block, whatever the namespace's own format is.
pub const STAMP_BYTES: usize = 4096;

const MAGIC: u64 = u64::from_le_bytes(*b"dolmenV1");
const CHECK_AT: usize = STAMP_BYTES - 8;
const CHECK_SEED: u64 = 0x6c6f_6164;

/// Who a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Any number that tells volumes apart.
    pub volume: u64,
    /// Index of the 4 KiB block in the volume.
    pub block: u64,
    /// How often the block was changed, this write included; never 0.
    pub generation: u32,
}

/// What a block that was read turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// All zeroes.
    Zeroes,
    /// A whole stamped block.
    Stamp(Stamp),
    /// Neither: torn, damaged, or foreign.
    Damaged,
}

impl Stamp {
    /// Fills `out` with this stamp's block.
    ///
    /// # Panics
    /// When `out` is not [`STAMP_BYTES`] long.
    pub fn fill(&self, out: &mut [u8]) {
        assert_eq!(out.len(), STAMP_BYTES, "a stamped block has one size");
        let key = mix(self.volume ^ mix(self.block ^ mix(u64::from(self.generation))));
        let head = [MAGIC, self.volume, self.block, u64::from(self.generation)];
        let (words, _) = out.as_chunks_mut::<8>();
        let mut filler = key;
        for (index, word) in words.iter_mut().enumerate() {
            let value = head.get(index).copied().unwrap_or(filler);
            filler = filler.wrapping_add(key | 1);
            *word = value.to_le_bytes();
        }
        let check = check64(CHECK_SEED, &out[..CHECK_AT]);
        out[CHECK_AT..].copy_from_slice(&check.to_le_bytes());
    }
}

/// Reads a block back.
///
/// # Panics
/// When `bytes` is not [`STAMP_BYTES`] long.
#[must_use]
pub fn inspect(bytes: &[u8]) -> Found {
    assert_eq!(bytes.len(), STAMP_BYTES, "a stamped block has one size");
    let (words, _) = bytes.as_chunks::<8>();
    let word = |index: usize| u64::from_le_bytes(words[index]);
    if word(0) != MAGIC {
        let zeroes = words.iter().all(|w| *w == [0; 8]);
        return if zeroes { Found::Zeroes } else { Found::Damaged };
    }
    let intact = check64(CHECK_SEED, &bytes[..CHECK_AT]) == word(CHECK_AT / 8);
    match u32::try_from(word(3)) {
        Ok(generation) if intact => Found::Stamp(Stamp { volume: word(1), block: word(2), generation }),
        _ => Found::Damaged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_and_notices_every_flipped_bit_position() {
        let stamp = Stamp { volume: 7, block: 123_456_789, generation: 42 };
        let mut block = vec![0u8; STAMP_BYTES];
        assert_eq!(inspect(&block), Found::Zeroes);
        stamp.fill(&mut block);
        assert_eq!(inspect(&block), Found::Stamp(stamp));
        for at in (0..STAMP_BYTES).step_by(61).chain([0, 8, 31, CHECK_AT, STAMP_BYTES - 1]) {
            block[at] ^= 0x10;
            assert_eq!(inspect(&block), Found::Damaged, "byte {at}");
            block[at] ^= 0x10;
        }
    }

    #[test]
    fn a_torn_block_is_damaged() {
        let (mut old, mut new) = (vec![0u8; STAMP_BYTES], vec![0u8; STAMP_BYTES]);
        Stamp { volume: 1, block: 5, generation: 1 }.fill(&mut old);
        Stamp { volume: 1, block: 5, generation: 2 }.fill(&mut new);
        for cut in (512..STAMP_BYTES).step_by(512) {
            let torn = [&new[..cut], &old[cut..]].concat();
            assert_eq!(inspect(&torn), Found::Damaged, "torn at {cut}");
            let unwritten = [&new[..cut], &vec![0; STAMP_BYTES - cut]].concat();
            assert_eq!(inspect(&unwritten), Found::Damaged);
        }
    }
}
