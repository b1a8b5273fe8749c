//! A keyed check of 64 bits over stored bytes and their place.
//!
//! ```text
//!   tag  = AES-256(second key, GMAC(first key, nonce = place, bytes))     GMAC: AES-256-GCM over nothing but associated data
//!   check = its first 8 bytes
//! ```
//!
//! A GMAC that is merely cut short tells an attacker who finds one forgery something about its key, and one that meets a nonce
//! twice gives it away. With one AES block more neither holds: the GMAC's 128 bits are never seen, only a pseudo-random function
//! of them, so a forgery is a guess of 64 bits, and a place that repeats shows at most that the same bytes were there.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_sys::{AES_KEY, AES_encrypt, AES_set_encrypt_key};
use std::fmt;
use zeroize::Zeroize;

/// Bytes of the key: one half for the GMAC, one for the block behind it.
const KEY_BYTES: usize = 64;

/// The keyed check; reused from block to block.
pub struct Mac {
    hash: LessSafeKey,
    last: AES_KEY,
}

impl Mac {
    /// From a key whose halves are independent.
    #[must_use]
    pub fn new(key: &[u8; KEY_BYTES]) -> Mac {
        let unbound = UnboundKey::new(&AES_256_GCM, &key[..32]).expect("a key of 256 bits is one");
        let mut last = AES_KEY { rd_key: [0; 60], rounds: 0 };
        // SAFETY: the key has 256 bits from byte 32 on, as said in the second argument.
        let set = unsafe { AES_set_encrypt_key(key[32..].as_ptr(), 256, &raw mut last) };
        assert_eq!(set, 0, "a key of 256 bits is one");
        Mac { hash: LessSafeKey::new(unbound), last }
    }

    /// The check of `bytes` at `place`.
    #[must_use]
    pub fn check(&self, place: [u8; NONCE_LEN], bytes: &[u8]) -> u64 {
        let nonce = Nonce::assume_unique_for_key(place);
        let tag = self.hash.seal_in_place_separate_tag(nonce, Aad::from(bytes), &mut []);
        let tag = tag.expect("the associated data is far below the standard's bound");
        let input: [u8; 16] = tag.as_ref().try_into().expect("a tag of AES-GCM has 16 bytes");
        let mut output = [0; 16];
        // SAFETY: both blocks have 16 bytes, and the key was set up.
        unsafe { AES_encrypt(input.as_ptr(), output.as_mut_ptr(), &raw const self.last) };
        u64::from_le_bytes(output[..8].try_into().expect("8 bytes"))
    }
}

impl Drop for Mac {
    fn drop(&mut self) {
        self.last.rd_key.zeroize();
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mac(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> [u8; 64] {
        let mut key = [0; 64];
        key.iter_mut().zip(0..).for_each(|(k, b)| *k = b);
        key
    }

    /// The inner tag is what the GCM specification's test case 13 gives for no data under a zero key and nonce; the block behind
    /// it is FIPS 197's cipher, tried alone on its own example below.
    #[test]
    fn is_gmac_and_one_block_more() {
        let gmac =
            [0x53, 0x0f, 0x8a, 0xfb, 0xc7, 0x45, 0x36, 0xb9, 0xa9, 0x63, 0xb4, 0xf1, 0xc4, 0xcb, 0x73, 0x8b];
        let mac = Mac::new(&[0; 64]);
        let mut block = [0u8; 16];
        // SAFETY: both blocks have 16 bytes, and the key was set up.
        unsafe { AES_encrypt(gmac.as_ptr(), block.as_mut_ptr(), &raw const mac.last) };
        assert_eq!(mac.check([0; 12], &[]), u64::from_le_bytes(block[..8].try_into().unwrap()));
    }

    /// FIPS 197, appendix C.3.
    #[test]
    fn the_last_block_is_aes() {
        let mut both = [0; 64];
        both[32..].copy_from_slice(&key()[..32]);
        let mac = Mac::new(&both);
        let plain: [u8; 16] = std::array::from_fn(|i| u8::try_from(i * 0x11).unwrap());
        let mut out = [0u8; 16];
        // SAFETY: both blocks have 16 bytes, and the key was set up.
        unsafe { AES_encrypt(plain.as_ptr(), out.as_mut_ptr(), &raw const mac.last) };
        assert_eq!(out[..8], [0x8e, 0xa2, 0xb7, 0xca, 0x51, 0x67, 0x45, 0xbf]);
    }

    #[test]
    fn everything_counts() {
        let mac = Mac::new(&key());
        let mut bytes = vec![7; 4096];
        let check = mac.check([1; 12], &bytes);
        assert_eq!(mac.check([1; 12], &bytes), check);
        assert_ne!(mac.check([2; 12], &bytes), check);
        assert_ne!(mac.check([1; 12], &bytes[..4080]), check);
        for at in [0, 15, 16, 2047, 4095] {
            bytes[at] ^= 1;
            assert_ne!(mac.check([1; 12], &bytes), check, "byte {at}");
            bytes[at] ^= 1;
        }
        for half in [0, 32] {
            let mut other = key();
            other[half] ^= 1;
            assert_ne!(Mac::new(&other).check([1; 12], &bytes), check);
        }
        assert_eq!(format!("{mac:?}"), "Mac(secret)");
    }
}
