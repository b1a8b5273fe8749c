//! Checksums: CRC-32C of the wire, XXH3-64 of what is stored. The same result on every machine and in every version.

#[cfg(target_arch = "x86_64")]
mod crc32c_x86;
#[cfg(target_arch = "x86_64")]
mod xxh3_x86;

use crc_fast::{CrcAlgorithm, Digest};

/// CRC-32C (Castagnoli) of `bytes`: the digest of NVMe/TCP, written little-endian there.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    !update(!0, bytes)
}

/// CRC-32C over bytes that come in pieces.
#[derive(Clone, Copy, Debug)]
pub struct Crc32c(u32);

impl Crc32c {
    /// The digest of no bytes yet.
    #[must_use]
    pub fn new() -> Crc32c {
        Crc32c(!0)
    }

    /// Goes on over `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0 = update(self.0, bytes);
    }

    /// The CRC of all bytes so far; the digest may still be continued.
    #[must_use]
    pub fn value(&self) -> u32 {
        !self.0
    }
}

impl Default for Crc32c {
    fn default() -> Self {
        Crc32c::new()
    }
}

/// The CRC's state behind `bytes`: inverted, as it is between pieces.
fn update(state: u32, bytes: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if bytes.len() >= crc32c_x86::MIN_BYTES && crc32c_x86::is_there() {
        // SAFETY: the machine has the instructions.
        return unsafe { crc32c_x86::update(state, bytes) };
    }
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(state));
    digest.update(bytes);
    // The library returns every CRC in 64 bits; a 32-bit one leaves the upper half zero.
    u32::try_from(digest.get_state()).expect("a 32-bit CRC fits 32 bits")
}

/// XXH3-64 of `bytes` under `seed`: the check of stored blocks. The seed binds a block to its place, so that a
/// valid block at a wrong address is caught. Not a cryptographic hash.
#[must_use]
pub fn check64(seed: u64, bytes: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if bytes.len() > xxh3_x86::SHORT_BYTES && xxh3_x86::is_there() {
        // SAFETY: the machine has the instructions.
        return unsafe { xxh3_x86::hash(seed, bytes) };
    }
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

    /// The reference implementation's own test vectors: its generated buffer, no seed and its usual one, lengths on every
    /// code path.
    #[test]
    fn check64_has_the_published_values() {
        const PRIME: u64 = 0x9e37_79b1_85eb_ca8d;
        let mut state = 2_654_435_761u64;
        let mut next = || {
            let byte = state.to_be_bytes()[0];
            state = state.wrapping_mul(PRIME);
            byte
        };
        let buffer: Vec<u8> = (0..2367).map(|_| next()).collect();
        let vectors: [(usize, u64, u64); 14] = [
            (0, 0x2d06_8005_38d3_94c2, 0xa8a6_b918_b2f0_364a),
            (1, 0xc44b_dff4_074e_ecdb, 0x032b_e332_dd76_6ef8),
            (6, 0x27b5_6a84_cd2d_7325, 0x8458_9c11_6ab5_9ab9),
            (12, 0xa713_daf0_dfbb_77e7, 0xe730_3e1b_2336_de0e),
            (24, 0xa3fe_70bf_9d35_10eb, 0x850e_80fc_35bd_d690),
            (48, 0x397d_a259_ecba_1f11, 0xadc2_cbaa_44ac_c616),
            (80, 0xbcde_fbbb_2c47_c90a, 0xc6dd_0cb6_9953_2e73),
            (195, 0xcd94_217e_e362_ec3a, 0xba68_003d_370c_b3d9),
            (403, 0xcdeb_804d_65c6_dea4, 0x6259_f6ec_fd64_43fd),
            (512, 0x617e_4959_9013_cb6b, 0x3ce4_57de_14c2_7708),
            (2048, 0xdd59_e2c3_a5f0_38e0, 0x66f8_1670_669a_babc),
            (2099, 0xc6b9_d9b3_fc9a_c765, 0x184f_3168_4366_3974),
            (2240, 0x6e73_a905_39cf_2948, 0x757b_a848_7d1b_5247),
            (2367, 0xcb37_aeb9_e5d3_61ed, 0xd2db_3415_b942_b42a),
        ];
        for (len, plain, seeded) in vectors {
            assert_eq!(check64(0, &buffer[..len]), plain, "length {len}");
            assert_eq!(check64(PRIME, &buffer[..len]), seeded, "length {len}, seeded");
        }
    }

    /// Every length near a change of path gives what the libraries give.
    #[test]
    fn all_paths_agree_with_the_libraries() {
        let bytes: Vec<u8> =
            (0..9000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect();
        for len in (0..1400).chain(2000..2200).chain(4000..4200).chain(8180..8200) {
            let part = &bytes[len % 7..][..len];
            let crc = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, part);
            assert_eq!(u64::from(crc32c(part)), crc, "CRC of {len}");
            let seed = (len as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let hash = twox_hash::XxHash3_64::oneshot_with_seed(seed, part);
            assert_eq!(check64(seed, part), hash, "hash of {len}");
        }
    }
}
