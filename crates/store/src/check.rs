//! The 64-bit checks of everything on a drive: XXH3-64, seeded so that right bytes in a wrong place are wrong.

pub(crate) use dolmen_kernels::check64;
use dolmen_types::limits::BLOCK_BYTES;

/// Where the check sits in every structure that begins with magic and check: behind the 8 bytes of magic.
const SEAL_AT: usize = 8;
/// What the check covers starts here.
const SEALED_FROM: usize = 16;

/// The seed of a stored block's check: its line, address and write sequence number, mixed.
pub(crate) fn block_seed(line: u64, lba: u64, seq: u64) -> u64 {
    let mut x = line.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ lba.rotate_left(32);
    x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ seq;
    x = (x ^ (x >> 32)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Check of one stored block.
pub(crate) fn block_check(line: u64, lba: u64, seq: u64, bytes: &[u8]) -> u64 {
    check64(block_seed(line, lba, seq), bytes)
}

/// Puts the check of a structure (magic, check, rest) into its place and returns it.
pub(crate) fn seal(seed: u64, bytes: &mut [u8]) -> u64 {
    let check = check64(seed, &bytes[SEALED_FROM..]);
    bytes[SEAL_AT..SEALED_FROM].copy_from_slice(&check.to_le_bytes());
    check
}

/// The check of a structure that begins with `magic`, when it holds.
pub(crate) fn unseal(seed: u64, magic: &[u8; 8], bytes: &[u8]) -> Option<u64> {
    if bytes.len() <= SEALED_FROM || &bytes[..SEAL_AT] != magic {
        return None;
    }
    let stored = u64::from_le_bytes(bytes[SEAL_AT..SEALED_FROM].try_into().ok()?);
    (stored == check64(seed, &bytes[SEALED_FROM..])).then_some(stored)
}

/// True when a store block holds nothing but zeros.
pub(crate) fn is_zero(block: &[u8]) -> bool {
    static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
    block.len() <= BLOCK_BYTES
        && block[..8.min(block.len())] == ZEROS[..8.min(block.len())]
        && block == &ZEROS[..block.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_tell_places_apart() {
        let mut seen = std::collections::BTreeSet::new();
        for line in 1..5 {
            for lba in 0..50 {
                for seq in 1..20 {
                    assert!(seen.insert(block_seed(line, lba, seq)));
                }
            }
        }
    }

    #[test]
    fn a_seal_breaks_with_any_byte() {
        let mut bytes = vec![7u8; 64];
        bytes[..8].copy_from_slice(b"dolmTEST");
        let check = seal(3, &mut bytes);
        assert_eq!(unseal(3, b"dolmTEST", &bytes), Some(check));
        assert_eq!(unseal(4, b"dolmTEST", &bytes), None);
        for i in 0..bytes.len() {
            bytes[i] ^= 1;
            assert_eq!(unseal(3, b"dolmTEST", &bytes), None, "byte {i}");
            bytes[i] ^= 1;
        }
    }

    #[test]
    fn zeros_are_seen() {
        let mut block = vec![0; BLOCK_BYTES];
        assert!(is_zero(&block));
        block[4095] = 1;
        assert!(!is_zero(&block));
    }
}
