//! LZ4 blocks, and a look that tells in a fraction of the compressor's time that compressing is not worth it.

mod expand;

use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};

/// Samples that [`looks_incompressible`] takes, and the bytes of each.
const SAMPLES: usize = 8;
const SAMPLE_BYTES: usize = 8;

/// How far apart bytes are that [`looks_incompressible`] compares.
const DISTANCES: usize = 16;

/// Equal pairs among the 1024 that are compared from which on bytes are not noise: that shows 4 on average, with a deviation of 2, English
/// text 66, data with zeros in a quarter of its places 67, in an eighth 19.
const REPEATS: u32 = 20;

/// The compressor's memory: one per core, reused from block to block.
pub struct Lz4(CompressTable);

impl Lz4 {
    /// A compressor for inputs below 64 KiB.
    #[must_use]
    pub fn new() -> Lz4 {
        Lz4(CompressTable::small())
    }

    /// Compresses `input` into the start of `out`, which has at least [`bound`] bytes; how many it took. `None` when `out` is
    /// smaller.
    pub fn compress(&mut self, input: &[u8], out: &mut [u8]) -> Option<usize> {
        compress_into_with_table(input, out, &mut self.0).ok()
    }
}

impl Default for Lz4 {
    fn default() -> Self {
        Lz4::new()
    }
}

/// Bytes that an input of `len` bytes compresses to at most.
#[must_use]
pub const fn bound(len: usize) -> usize {
    get_maximum_output_size(len)
}

/// Expands `input` so that it fills `out` whole. False for anything that does not give exactly that many bytes; `out` then
/// holds whatever was decoded. Any input is safe.
#[must_use]
pub fn expand(input: &[u8], out: &mut [u8]) -> bool {
    expand::expand(input, out).is_some()
}

/// True when a block is almost certainly not worth compressing: in a sample of its bytes, spread over the whole of it, equal ones are
/// about as rare as in noise (the index of coincidence of W. F. Friedman, 1922, over neighbours).
#[must_use]
pub fn looks_incompressible(block: &[u8]) -> bool {
    const ALL: usize = SAMPLES * SAMPLE_BYTES;
    let stride = block.len() / SAMPLES;
    if stride < SAMPLE_BYTES {
        return false;
    }
    let mut bytes = [0; ALL + DISTANCES];
    for (i, sample) in bytes[..ALL].chunks_exact_mut(SAMPLE_BYTES).enumerate() {
        sample.copy_from_slice(&block[i * stride..][..SAMPLE_BYTES]);
    }
    bytes.copy_within(..DISTANCES, ALL);
    let mut equal = [0u8; ALL];
    for distance in 1..=DISTANCES {
        for ((equal, one), other) in equal.iter_mut().zip(&bytes[..ALL]).zip(&bytes[distance..]) {
            *equal += u8::from(one == other);
        }
    }
    equal.iter().map(|&n| u32::from(n)).sum::<u32>() < REPEATS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, mut state: u64) -> Vec<u8> {
        let mut next = || {
            state = state.wrapping_mul(0xd129_42d9_57d5_9f2d).wrapping_add(0x1405_7b7e_f767_814f);
            state.to_be_bytes()[0]
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn comes_back() {
        let mut lz4 = Lz4::new();
        let mut out = vec![0; bound(4096)];
        let text = b"A dolmen is a few standing stones that carry one slab. ".repeat(80);
        for block in [&text[..4096], &vec![0; 4096], &noise(4096, 1), &text[..1], &[][..]] {
            let len = lz4.compress(block, &mut out).unwrap();
            let mut back = vec![0xaa; block.len()];
            assert!(expand(&out[..len], &mut back) && back == block);
        }
    }

    /// The format's own example: a literal "a", a match of 19 at distance 1, and the last five literals.
    #[test]
    fn reads_the_published_format() {
        let mut out = [0; 25];
        assert!(expand(&[0x1f, b'a', 1, 0, 0, 0x50, b'a', b'a', b'a', b'a', b'a'], &mut out));
        assert_eq!(out, [b'a'; 25]);
    }

    #[test]
    fn garbage_and_other_lengths_are_refused() {
        let mut lz4 = Lz4::new();
        let mut packed = vec![0; bound(4096)];
        let len = lz4.compress(&[7; 4096], &mut packed).unwrap();
        assert!(!expand(&packed[..len], &mut [0; 4095]));
        assert!(!expand(&packed[..len], &mut [0; 4097]));
        assert!(!expand(&packed[..len - 1], &mut [0; 4096]));
        // An offset of zero, and one before the start: the decoder must not read what is not there.
        assert!(!expand(&[0x10, b'a', 0, 0, 0x50, 1, 2, 3, 4, 5], &mut [0; 32]));
        assert!(!expand(&[0x10, b'a', 9, 0, 0x50, 1, 2, 3, 4, 5], &mut [0; 32]));
        for state in 0..2000 {
            let _ = expand(&noise(200, state), &mut [0; 4096]);
        }
        assert!(lz4.compress(&[0; 4096], &mut [0; 100]).is_none());
    }

    #[test]
    fn the_look_tells_noise_from_data() {
        for state in 0..500 {
            assert!(looks_incompressible(&noise(4096, state)), "noise {state}");
            let mut half = noise(2048, state);
            half.resize(4096, 0);
            assert!(!looks_incompressible(&half), "half zeros {state}");
        }
        let text = include_bytes!("lz4.rs");
        assert!(!looks_incompressible(&text[..4096]));
        assert!(!looks_incompressible(&[0; 4096]) && !looks_incompressible(&[1; 8]));
    }

    /// Whatever the library's decoder makes of a block, sound or damaged in any place, ours makes too; it never touches what
    /// lies beyond.
    #[test]
    fn expands_as_the_library_does() {
        let mut lz4 = Lz4::new();
        let (mut packed, mut sound) = (vec![0; bound(4096)], 0);
        for state in 0..400u64 {
            // Noise with repeats at all distances and of all lengths.
            let mut block = noise(4096, state);
            let mut at = 24;
            while at < 4000 {
                let (len, back) = (usize::from(block[at]) % 90, 1 + usize::from(block[at + 1]) % at.min(200));
                let back = if state % 3 == 0 { 1 + back % 20 } else { back };
                (at..(at + len).min(4096)).for_each(|i| block[i] = block[i - back]);
                at += len + 1 + usize::from(block[at]) % 40;
            }
            let len = lz4.compress(&block, &mut packed).unwrap();
            let mut back = vec![0; 4096];
            assert!(expand(&packed[..len], &mut back) && back == block, "block {state}");
            for rot in 0..40 {
                let mut damaged = packed[..len].to_vec();
                let place = (usize::from(block[rot]) * 256 + usize::from(block[rot + 1])) % len;
                damaged[place] ^= 1 << (rot % 8);
                let (mut ours, mut theirs) = (vec![0; 4096 + 64], vec![0; 4096]);
                ours[4096..].fill(0xa5);
                let held = expand(&damaged, &mut ours[..4096]);
                let known = lz4_flex::block::decompress_into(&damaged, &mut theirs).is_ok_and(|n| n == 4096);
                assert!(ours[4096..].iter().all(|&b| b == 0xa5), "block {state}, byte {place}");
                assert!(!known || (held && ours[..4096] == theirs), "block {state}, byte {place}");
                sound += usize::from(held);
            }
        }
        assert!(sound > 1000, "most damage is to literals");
    }
}
