//! AES-256-XTS: encryption that keeps the length. The safe API of the library lacks it, so its C functions are called here.

use aws_lc_sys::{
    EVP_CIPHER_CTX, EVP_CIPHER_CTX_free, EVP_CIPHER_CTX_new, EVP_DecryptInit_ex, EVP_DecryptUpdate,
    EVP_EncryptInit_ex, EVP_EncryptUpdate, EVP_aes_256_xts,
};
use std::ffi::c_int;
use std::fmt;
use std::ptr::{NonNull, null, null_mut};

/// Bytes of the key: one half for the data, one for the tweak.
const KEY_BYTES: usize = 64;
/// Bytes of a tweak, and of data at least.
const UNIT_BYTES: usize = 16;

/// Both directions under one key; used from one thread, reused from block to block.
pub struct Xts {
    encrypt: Context,
    decrypt: Context,
}

impl Xts {
    /// `None` for a key with equal halves, which the standard forbids, or without memory.
    #[must_use]
    pub fn new(key: &[u8; KEY_BYTES]) -> Option<Xts> {
        let (encrypt, decrypt) = (Context::new()?, Context::new()?);
        // SAFETY: the contexts are alive, the cipher is the library's own and static, the key has the 64 bytes that this cipher
        // reads, and the tweak may be given later.
        let keyed = unsafe {
            EVP_EncryptInit_ex(encrypt.0.as_ptr(), EVP_aes_256_xts(), null_mut(), key.as_ptr(), null()) == 1
                && EVP_DecryptInit_ex(decrypt.0.as_ptr(), EVP_aes_256_xts(), null_mut(), key.as_ptr(), null())
                    == 1
        };
        keyed.then_some(Xts { encrypt, decrypt })
    }

    /// Encrypts `plain` into `out` of the same length: 16 bytes to 16 MiB.
    ///
    /// # Panics
    /// For other lengths: a defect of the caller.
    pub fn encrypt(&mut self, tweak: &[u8; UNIT_BYTES], plain: &[u8], out: &mut [u8]) {
        check_lengths(plain.len(), out.len());
        // SAFETY: as in `in_place`, with `plain` as input: a shared slice never overlaps an exclusive one.
        unsafe { self.encrypt.run(Direction::Encrypt, tweak, plain.as_ptr(), out) }
    }

    /// Decrypts `bytes` where they are.
    ///
    /// # Panics
    /// For lengths that [`Xts::encrypt`] refuses.
    pub fn decrypt_in_place(&mut self, tweak: &[u8; UNIT_BYTES], bytes: &mut [u8]) {
        check_lengths(bytes.len(), bytes.len());
        // SAFETY: input and output are the same bytes, which the library allows.
        unsafe { self.decrypt.run(Direction::Decrypt, tweak, bytes.as_ptr(), bytes) }
    }

    /// Decrypts `stored` into `out` of the same length.
    ///
    /// # Panics
    /// For lengths that [`Xts::encrypt`] refuses.
    pub fn decrypt(&mut self, tweak: &[u8; UNIT_BYTES], stored: &[u8], out: &mut [u8]) {
        check_lengths(stored.len(), out.len());
        // SAFETY: `stored` is as long as `out` and does not overlap it.
        unsafe { self.decrypt.run(Direction::Decrypt, tweak, stored.as_ptr(), out) }
    }
}

impl fmt::Debug for Xts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Xts(secret)")
    }
}

fn check_lengths(from: usize, to: usize) {
    assert!(from == to && (UNIT_BYTES..=16 << 20).contains(&from), "a block has 16 bytes to 16 MiB");
}

#[derive(Clone, Copy)]
enum Direction {
    Encrypt,
    Decrypt,
}

/// A context of the library; it wipes the key when freed.
struct Context(NonNull<EVP_CIPHER_CTX>);

impl Context {
    fn new() -> Option<Context> {
        // SAFETY: has no preconditions.
        NonNull::new(unsafe { EVP_CIPHER_CTX_new() }).map(Context)
    }

    /// # Safety
    /// `from` is readable for `out.len()` bytes and is `out` itself or does not overlap it; the context was set up for
    /// `direction`.
    unsafe fn run(
        &mut self,
        direction: Direction,
        tweak: &[u8; UNIT_BYTES],
        from: *const u8,
        out: &mut [u8],
    ) {
        let (context, to) = (self.0.as_ptr(), out.as_mut_ptr());
        let len = c_int::try_from(out.len()).expect("at most 16 MiB");
        let mut written = 0;
        // SAFETY: the context is alive and keyed; null for cipher and key keeps them; the tweak has the 16 bytes that this cipher
        // reads; XTS writes exactly `len` bytes, which the caller vouches for on both sides.
        let done = unsafe {
            match direction {
                Direction::Encrypt => {
                    EVP_EncryptInit_ex(context, null(), null_mut(), null(), tweak.as_ptr()) == 1
                        && EVP_EncryptUpdate(context, to, &raw mut written, from, len) == 1
                }
                Direction::Decrypt => {
                    EVP_DecryptInit_ex(context, null(), null_mut(), null(), tweak.as_ptr()) == 1
                        && EVP_DecryptUpdate(context, to, &raw mut written, from, len) == 1
                }
            }
        };
        // Going on would store plaintext or serve ciphertext.
        assert!(done && written == len, "AES-XTS of {len} bytes failed in the library");
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the pointer came from the library and is freed once.
        unsafe { EVP_CIPHER_CTX_free(self.0.as_ptr()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
    }

    /// IEEE 1619, vector 10: XTS-AES-256, data unit 0xff.
    #[test]
    fn has_the_published_values() {
        let key = hex(
            "27182818284590452353602874713526624977572470936999595749669676273141592653589793238462643383279502884197169399375105820974944592",
        );
        let mut tweak = [0; 16];
        tweak[0] = 0xff;
        let plain: Vec<u8> = (0..512u32).map(|i| i.to_le_bytes()[0]).collect();
        let mut out = vec![0; 512];
        let mut xts = Xts::new(&key.try_into().unwrap()).unwrap();
        xts.encrypt(&tweak, &plain, &mut out);
        let first = hex("1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b");
        let last = hex("c4f36ffda9fcea70b9c6e693e148c151");
        assert_eq!((&out[..32], &out[496..]), (&first[..], &last[..]));
        let mut back = vec![0; 512];
        xts.decrypt(&tweak, &out, &mut back);
        assert_eq!(back, plain);
        xts.decrypt_in_place(&tweak, &mut out);
        assert_eq!(out, plain);
    }

    #[test]
    fn tweaks_and_lengths_differ() {
        let mut key = [7; 64];
        assert!(Xts::new(&key).is_none(), "equal halves");
        key[0] = 8;
        let mut xts = Xts::new(&key).unwrap();
        let (mut a, mut b) = ([0; 48], [0; 48]);
        xts.encrypt(&[1; 16], &[5; 48], &mut a);
        xts.encrypt(&[2; 16], &[5; 48], &mut b);
        assert!(a != b && a[..16] != a[16..32]);
        let mut back = [0; 48];
        xts.decrypt(&[1; 16], &a, &mut back);
        assert_eq!(back, [5; 48]);
        assert_eq!(format!("{xts:?}"), "Xts(secret)");
    }
}
