//! Encryption and keyed check of a stored block in one go: AES-256-XTS and the MAC of what it gives ([`Xts`], [`Mac`]).
//!
//! Where the machine has the vectors for it, both run over the bytes in one pass, which costs hardly more than the encryption
//! alone: it keeps the cipher's unit busy, and the MAC the multiplier's. Elsewhere one runs after the other. The result is the same.

#[cfg(target_arch = "x86_64")]
mod x86;

use crate::{Mac, Xts};
use std::fmt;

/// Lengths of what is sealed are multiples of this. Bytes.
const GRAIN_BYTES: usize = 16;

/// Both keys of one line, set up.
pub struct Seal {
    xts: Xts,
    mac: Mac,
    #[cfg(target_arch = "x86_64")]
    fast: Option<Box<x86::Keys>>,
}

impl Seal {
    /// From the key of the encryption and that of the check. `None` for an encryption key with equal halves, which the standard
    /// forbids, or without memory.
    #[must_use]
    pub fn new(encryption: &[u8; 64], check: &[u8; 64]) -> Option<Seal> {
        Some(Seal {
            xts: Xts::new(encryption)?,
            mac: Mac::new(check),
            #[cfg(target_arch = "x86_64")]
            fast: x86::is_there().then(|| {
                // SAFETY: the machine has the instructions.
                unsafe { x86::Keys::new(encryption, check) }
            }),
        })
    }

    /// Encrypts `plain` into `out` of the same length, a multiple of 16 bytes from 16 on; the check of that.
    ///
    /// # Panics
    /// For other lengths: a defect of the caller.
    pub fn seal(&mut self, tweak: &[u8; 16], place: [u8; 12], plain: &[u8], out: &mut [u8]) -> u64 {
        check_lengths(plain.len(), out.len());
        #[cfg(target_arch = "x86_64")]
        if let Some(keys) = &self.fast {
            // SAFETY: the machine has the instructions, and the lengths were looked at.
            return unsafe { x86::seal(keys, tweak, place, plain, out) };
        }
        self.xts.encrypt(tweak, plain, out);
        self.mac.check(place, out)
    }

    /// Decrypts `stored` into `out` of the same length, if its check is `check`. False, with whatever in `out`, if not.
    ///
    /// # Panics
    /// For lengths that [`Seal::seal`] refuses.
    #[must_use]
    pub fn open(
        &mut self,
        tweak: &[u8; 16],
        place: [u8; 12],
        check: u64,
        stored: &[u8],
        out: &mut [u8],
    ) -> bool {
        check_lengths(stored.len(), out.len());
        #[cfg(target_arch = "x86_64")]
        if let Some(keys) = &self.fast {
            // SAFETY: as in `seal`.
            return unsafe { x86::open(keys, tweak, place, stored, out) } == check;
        }
        let holds = self.mac.check(place, stored) == check;
        if holds {
            self.xts.decrypt(tweak, stored, out);
        }
        holds
    }

    /// [`Seal::open`] where the bytes are.
    ///
    /// # Panics
    /// For lengths that [`Seal::seal`] refuses.
    #[must_use]
    pub fn open_in_place(&mut self, tweak: &[u8; 16], place: [u8; 12], check: u64, bytes: &mut [u8]) -> bool {
        check_lengths(bytes.len(), bytes.len());
        #[cfg(target_arch = "x86_64")]
        if let Some(keys) = &self.fast {
            // SAFETY: as in `seal`.
            return unsafe { x86::open_in_place(keys, tweak, place, bytes) } == check;
        }
        let holds = self.mac.check(place, bytes) == check;
        if holds {
            self.xts.decrypt_in_place(tweak, bytes);
        }
        holds
    }

    /// The check of stored bytes of any length.
    #[must_use]
    pub fn check(&self, place: [u8; 12], stored: &[u8]) -> u64 {
        self.mac.check(place, stored)
    }

    /// Decrypts stored bytes that are known to hold.
    ///
    /// # Panics
    /// For lengths that [`Seal::seal`] refuses.
    pub fn decrypt(&mut self, tweak: &[u8; 16], stored: &[u8], out: &mut [u8]) {
        self.xts.decrypt(tweak, stored, out);
    }

    /// Decrypts stored bytes that are known to hold, where they are.
    ///
    /// # Panics
    /// For lengths that [`Seal::seal`] refuses.
    pub fn decrypt_in_place(&mut self, tweak: &[u8; 16], bytes: &mut [u8]) {
        self.xts.decrypt_in_place(tweak, bytes);
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal(secret)")
    }
}

fn check_lengths(from: usize, to: usize) {
    let fits = from == to && from >= GRAIN_BYTES && from.is_multiple_of(GRAIN_BYTES) && from <= 16 << 20;
    assert!(fits, "what is sealed has 16 bytes to 16 MiB, a multiple of 16");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(from: u8) -> [u8; 64] {
        std::array::from_fn(|i| from.wrapping_add(u8::try_from(i * 7 % 251).unwrap()))
    }

    /// In one pass or in two, the bytes and the check are those of [`Xts`] and [`Mac`], whose own tests hold them to the standards.
    #[test]
    fn is_what_its_parts_are() {
        let (mut seal, mut xts, mac) =
            (Seal::new(&key(1), &key(9)).unwrap(), Xts::new(&key(1)).unwrap(), Mac::new(&key(9)));
        let plain: Vec<u8> =
            (0..8192u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect();
        for grains in (1..=100).chain([127, 128, 129, 200, 224, 255, 256, 257, 300, 511, 512]) {
            let len = grains * 16;
            let tweak: [u8; 16] =
                std::array::from_fn(|i| u8::try_from((grains * 31 + i * 17) % 256).unwrap());
            let place: [u8; 12] = std::array::from_fn(|i| u8::try_from((grains * 13 + i * 5) % 256).unwrap());
            let (mut out, mut expected) = (vec![0; len], vec![0; len]);
            xts.encrypt(&tweak, &plain[..len], &mut expected);
            let check = seal.seal(&tweak, place, &plain[..len], &mut out);
            assert!(out == expected, "{grains} grains");
            assert_eq!(check, mac.check(place, &expected), "{grains} grains");
            let mut back = vec![0; len];
            assert!(seal.open(&tweak, place, check, &out, &mut back) && back == plain[..len]);
            assert!(!seal.open(&tweak, place, check ^ 1, &out, &mut back));
            let mut rotten = out.clone();
            rotten[len - 1] ^= 1;
            assert!(!seal.open(&tweak, place, check, &rotten, &mut back));
            assert!(seal.open_in_place(&tweak, place, check, &mut out) && out == plain[..len]);
        }
        assert_eq!(format!("{seal:?}"), "Seal(secret)");
        assert!(Seal::new(&[7; 64], &key(1)).is_none(), "equal halves");
    }
}
