//! The loops in plain code: for machines without the instructions, for tails, and as the oracle of the others. Eight bytes at
//! a time where the arithmetic allows it.

use super::gf::{CARRY, NIBBLES};

const LOW_BITS: u64 = 0x0101_0101_0101_0101;

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

fn put(bytes: &mut [u8], at: usize, word: u64) {
    bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
}

/// Each of the eight bytes times 2.
fn double(x: u64) -> u64 {
    let carries = (x >> 7) & LOW_BITS;
    ((x ^ (carries << 7)) << 1) ^ (carries * u64::from(CARRY))
}

/// `p` = sum of all, from byte `from` on.
pub(super) fn sum(data: &[&[u8]], p: &mut [u8], from: usize) {
    for at in (from..p.len()).step_by(8) {
        let sum = data.iter().fold(0, |sum, d| sum ^ word(d, at));
        put(p, at, sum);
    }
}

/// `p` = sum of all, `q` = sum of 2^i times column i, from byte `from` on.
pub(super) fn pair(data: &[&[u8]], p: &mut [u8], q: &mut [u8], from: usize) {
    for at in (from..p.len()).step_by(8) {
        let (mut sum, mut weighted) = (0, 0);
        for d in data.iter().rev() {
            let x = word(d, at);
            sum ^= x;
            weighted = double(weighted) ^ x;
        }
        put(p, at, sum);
        put(q, at, weighted);
    }
}

/// `out` = sum of factor times source, from byte `from` on.
pub(super) fn dot(factors: &[u8], sources: &[&[u8]], out: &mut [u8], from: usize) {
    for (at, out) in out.iter_mut().enumerate().skip(from) {
        *out = factors.iter().zip(sources).fold(0, |sum, (&factor, source)| {
            let (table, byte) = (&NIBBLES[usize::from(factor)], source[at]);
            sum ^ table[usize::from(byte & 15)] ^ table[16 + usize::from(byte >> 4)]
        });
    }
}
