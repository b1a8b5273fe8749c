//! Checksums: thin wrappers round the fastest well-kept libraries, so that callers name what they mean and the
//! library can change. Promises the same result on every machine and in every version; chooses SIMD at run time.
//! Never allocates, never fails.
#![forbid(unsafe_code)]

use crc_fast::CrcAlgorithm;

/// CRC-32C (Castagnoli) of `bytes`: the digest of NVMe/TCP, written little-endian there.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    narrow(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes))
}

/// CRC-32C over bytes that come in pieces.
#[derive(Clone, Copy, Debug)]
pub struct Crc32c(crc_fast::Digest);

impl Crc32c {
    /// The digest of no bytes yet.
    #[must_use]
    pub fn new() -> Crc32c {
        Crc32c(crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    /// Goes on over `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The CRC of all bytes so far; the digest may still be continued.
    #[must_use]
    pub fn value(&self) -> u32 {
        narrow(self.0.finalize())
    }
}

impl Default for Crc32c {
    fn default() -> Self {
        Crc32c::new()
    }
}

/// The library returns every CRC in 64 bits; a 32-bit one leaves the upper half zero.
fn narrow(crc: u64) -> u32 {
    u32::try_from(crc).expect("a 32-bit CRC fits 32 bits")
}

/// XXH3-64 of `bytes` under `seed`: the check of stored blocks. The seed binds a block to its place, so that a
/// valid block at a wrong address is caught. Not a cryptographic hash.
#[must_use]
pub fn check64(seed: u64, bytes: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot_with_seed(seed, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, appendix B.4, and the usual check value.
    #[test]
    fn crc32c_has_the_published_values() {
        assert_eq!(crc32c(b""), 0);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&ascending), 0x46dd_794e);
        let descending: Vec<u8> = (0..32).rev().collect();
        assert_eq!(crc32c(&descending), 0x113f_db5c);
    }

    #[test]
    fn crc32c_in_pieces_is_the_whole() {
        let bytes: Vec<u8> =
            (0..5000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect();
        let whole = crc32c(&bytes);
        for cut in [0, 1, 3, 7, 64, 255, 256, 257, 4095, 4999, 5000] {
            let mut digest = Crc32c::new();
            digest.update(&bytes[..cut]);
            digest.update(&bytes[cut..]);
            assert_eq!(digest.value(), whole, "cut at {cut}");
        }
    }

    /// Values of the reference implementation of XXH3.
    #[test]
    fn check64_has_the_published_values() {
        assert_eq!(check64(0, b""), 0x2d06_8005_38d3_94c2);
        assert_ne!(check64(1, b"abc"), check64(2, b"abc"));
    }
}
