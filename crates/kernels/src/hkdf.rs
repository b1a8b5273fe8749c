//! HKDF with SHA-256 (RFC 5869): keys from a key.

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};

/// Bytes that one call derives at most, by the standard.
pub const MAX_BYTES: usize = 255 * 32;

struct Len(usize);

impl KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

/// Fills `out` with what follows from `key` (secret, of any length) for the purpose that `info` names.
///
/// # Panics
/// When `out` is longer than [`MAX_BYTES`]: a defect of the caller.
pub fn derive(salt: &[u8], key: &[u8], info: &[u8], out: &mut [u8]) {
    assert!(out.len() <= MAX_BYTES, "HKDF derives at most {MAX_BYTES} bytes");
    let root = Salt::new(HKDF_SHA256, salt).extract(key);
    let parts = [info];
    let filled = root.expand(&parts, Len(out.len())).and_then(|okm| okm.fill(out));
    filled.expect("the length was checked");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5869, test case 1.
    #[test]
    fn has_the_published_values() {
        let mut out = [0; 42];
        let salt: Vec<u8> = (0..=0x0c).collect();
        let info: Vec<u8> = (0xf0..=0xf9).collect();
        derive(&salt, &[0x0b; 22], &info, &mut out);
        let expected = [
            0x3c, 0xb2, 0x5f, 0x25, 0xfa, 0xac, 0xd5, 0x7a, 0x90, 0x43, 0x4f, 0x64, 0xd0, 0x36, 0x2f, 0x2a,
            0x2d, 0x2d, 0x0a, 0x90, 0xcf, 0x1a, 0x5a, 0x4c, 0x5d, 0xb0, 0x2d, 0x56, 0xec, 0xc4, 0xc5, 0xbf,
            0x34, 0x00, 0x72, 0x08, 0xd5, 0xb8, 0x87, 0x18, 0x58, 0x65,
        ];
        assert_eq!(out, expected);
    }
}
