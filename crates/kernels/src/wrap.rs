//! AES-256 key wrap (RFC 3394): a key of 256 bits under another. What was tampered with, or wrapped under another key, does not
//! unwrap.

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap as _};
use std::fmt;

/// Bytes of a wrapped key.
pub const WRAPPED_BYTES: usize = 40;

/// A key that wraps others.
pub struct KeyWrap {
    key: [u8; 32],
}

impl KeyWrap {
    /// From 256 bits.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> KeyWrap {
        KeyWrap { key: *key }
    }

    /// `key` wrapped.
    #[must_use]
    pub fn wrap(&self, key: &[u8; 32]) -> [u8; WRAPPED_BYTES] {
        let mut out = [0; WRAPPED_BYTES];
        let wrapped = self.library_key().wrap(key, &mut out).map(|w| w.len());
        // Going on would lose the key.
        assert_eq!(wrapped, Ok(WRAPPED_BYTES), "AES key wrap failed in the library");
        out
    }

    /// The key that was wrapped, if it was so under this key and nothing changed since.
    #[must_use]
    pub fn unwrap(&self, wrapped: &[u8; WRAPPED_BYTES]) -> Option<[u8; 32]> {
        // The library works in an output that is as long as its input.
        let mut out = [0; WRAPPED_BYTES];
        let len = self.library_key().unwrap(wrapped, &mut out).ok()?.len();
        (len == 32).then(|| out[..32].try_into().ok()).flatten()
    }

    fn library_key(&self) -> AesKek {
        AesKek::new(&AES_256, &self.key).expect("a key of 256 bits is one")
    }
}

impl Drop for KeyWrap {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.key);
    }
}

impl fmt::Debug for KeyWrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyWrap(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3394, section 4.6.
    #[test]
    fn has_the_published_values() {
        let kek: Vec<u8> = (0..32).collect();
        let mut key = [0; 32];
        key.iter_mut().zip((0..16u8).map(|i| i * 0x11).chain(0..16)).for_each(|(k, b)| *k = b);
        let wrapped = [
            0x28, 0xc9, 0xf4, 0x04, 0xc4, 0xb8, 0x10, 0xf4, 0xcb, 0xcc, 0xb3, 0x5c, 0xfb, 0x87, 0xf8, 0x26,
            0x3f, 0x57, 0x86, 0xe2, 0xd8, 0x0e, 0xd3, 0x26, 0xcb, 0xc7, 0xf0, 0xe7, 0x1a, 0x99, 0xf4, 0x3b,
            0xfb, 0x98, 0x8b, 0x9b, 0x7a, 0x02, 0xdd, 0x21,
        ];
        let wrap = KeyWrap::new(&kek.try_into().unwrap());
        assert_eq!(wrap.wrap(&key), wrapped);
        assert_eq!(wrap.unwrap(&wrapped), Some(key));
    }

    #[test]
    fn any_change_is_refused() {
        let wrap = KeyWrap::new(&[1; 32]);
        let wrapped = wrap.wrap(&[2; 32]);
        assert_eq!(KeyWrap::new(&[3; 32]).unwrap(&wrapped), None);
        for i in 0..WRAPPED_BYTES {
            let mut changed = wrapped;
            changed[i] ^= 1;
            assert_eq!(wrap.unwrap(&changed), None, "byte {i}");
        }
        assert_eq!(format!("{wrap:?}"), "KeyWrap(secret)");
    }
}
