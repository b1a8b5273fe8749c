//! AES-256-XTS and GMAC in one pass, with vectors of four AES blocks.
//!
//! Eight vectors are encrypted at a time; while their rounds run in one unit, the ones before are multiplied in the other. The hash
//! is POLYVAL over reversed bytes, which is GHASH (RFC 8452, appendix A): its products need no shift. Four lanes gather it; 32 blocks
//! are multiplied by powers 32 to 1 of the key and reduced together.

use std::arch::x86_64::*;
use zeroize::Zeroize;

const ROUNDS: usize = 14;
/// Vectors that are worked on at a time, and the AES blocks in them.
const VECTORS: usize = 8;
const BLOCKS: usize = 4 * VECTORS;
const STEP_BYTES: usize = 16 * BLOCKS;
/// `x ^ y ^ z` in one instruction.
const XOR3: i32 = 0x96;
/// What a carry out of a tweak comes to: x^128 = x^7 + x^2 + x + 1.
const TWEAK_CARRY: i64 = 0x87;
/// The upper half of POLYVAL's polynomial.
const POLYVAL: i64 = 0xc200_0000_0000_0000_u64.cast_signed();

/// The key schedules of one line.
#[repr(C, align(64))]
pub(super) struct Keys {
    /// Round keys, four times each.
    encrypt: [[u64; 8]; ROUNDS + 1],
    decrypt: [[u64; 8]; ROUNDS + 1],
    /// Powers of the hash's key: at place i the one of [`BLOCKS`] - i, and behind the first nothing that is used.
    powers: [[u64; 2]; BLOCKS + 4],
    tweak: [[u64; 2]; ROUNDS + 1],
    /// Of the GMAC, and of the block behind it.
    pad: [[u64; 2]; ROUNDS + 1],
    last: [[u64; 2]; ROUNDS + 1],
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.encrypt.zeroize();
        self.decrypt.zeroize();
        self.powers.zeroize();
        self.tweak.zeroize();
        self.pad.zeroize();
        self.last.zeroize();
    }
}

/// True when the machine has the instructions that are used here.
pub(super) fn is_there() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("vaes")
        && is_x86_feature_detected!("vpclmulqdq")
        && is_x86_feature_detected!("aes")
        && is_x86_feature_detected!("pclmulqdq")
}

type Schedule = [__m128i; ROUNDS + 1];

impl Keys {
    /// Sets both keys up.
    ///
    /// # Safety
    /// [`is_there`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq")]
    pub(super) unsafe fn new(encryption: &[u8; 64], check: &[u8; 64]) -> Box<Keys> {
        let data = expand(&encryption[..32]);
        let (pad, last) = (expand(&check[..32]), expand(&check[32..]));
        let mut keys = Box::new(Keys {
            encrypt: [[0; 8]; ROUNDS + 1],
            decrypt: [[0; 8]; ROUNDS + 1],
            powers: [[0; 2]; BLOCKS + 4],
            tweak: expand(&encryption[32..]).map(|k| words(k)),
            pad: pad.map(|k| words(k)),
            last: last.map(|k| words(k)),
        });
        for round in 0..=ROUNDS {
            keys.encrypt[round] = four(data[round]);
            let mirrored = data[ROUNDS - round];
            let inner = (1..ROUNDS).contains(&round);
            keys.decrypt[round] = four(if inner { _mm_aesimc_si128(mirrored) } else { mirrored });
        }
        let hash = times_x(reversed(encrypt_one(&pad, _mm_setzero_si128())));
        let mut power = hash;
        for i in (0..BLOCKS).rev() {
            keys.powers[i] = words(power);
            power = times(power, hash);
        }
        keys
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn words(x: __m128i) -> [u64; 2] {
    [_mm_cvtsi128_si64(x).cast_unsigned(), _mm_cvtsi128_si64(_mm_unpackhi_epi64(x, x)).cast_unsigned()]
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn four(x: __m128i) -> [u64; 8] {
    let [a, b] = words(x);
    [a, b, a, b, a, b, a, b]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn one(words: &[u64; 2]) -> __m128i {
    // SAFETY: 16 bytes; the instruction needs no alignment.
    unsafe { _mm_loadu_si128(words.as_ptr().cast()) }
}

/// The schedule of a key of 32 bytes (FIPS 197).
#[target_feature(enable = "avx512f,avx512vl,aes")]
fn expand(key: &[u8]) -> Schedule {
    #[inline]
    #[target_feature(enable = "avx512f,avx512vl")]
    fn spread(mut x: __m128i) -> __m128i {
        x = _mm_xor_si128(x, _mm_slli_si128::<4>(x));
        x = _mm_xor_si128(x, _mm_slli_si128::<4>(x));
        _mm_xor_si128(x, _mm_slli_si128::<4>(x))
    }
    assert_eq!(key.len(), 32, "a key of AES-256");
    let mut k = [_mm_setzero_si128(); ROUNDS + 1];
    // SAFETY: the key has 32 bytes.
    unsafe {
        k[0] = _mm_loadu_si128(key.as_ptr().cast());
        k[1] = _mm_loadu_si128(key.as_ptr().add(16).cast());
    }
    macro_rules! pair {
        ($i:literal, $constant:literal) => {
            let word = _mm_shuffle_epi32::<0xff>(_mm_aeskeygenassist_si128::<$constant>(k[$i - 1]));
            k[$i] = _mm_xor_si128(spread(k[$i - 2]), word);
            if $i < ROUNDS {
                let word = _mm_shuffle_epi32::<0xaa>(_mm_aeskeygenassist_si128::<0>(k[$i]));
                k[($i + 1) % (ROUNDS + 1)] = _mm_xor_si128(spread(k[$i - 1]), word);
            }
        };
    }
    pair!(2, 0x01);
    pair!(4, 0x02);
    pair!(6, 0x04);
    pair!(8, 0x08);
    pair!(10, 0x10);
    pair!(12, 0x20);
    pair!(14, 0x40);
    k
}

#[inline]
#[target_feature(enable = "aes")]
fn encrypt_one(keys: &Schedule, block: __m128i) -> __m128i {
    let mut x = _mm_xor_si128(block, keys[0]);
    for key in &keys[1..ROUNDS] {
        x = _mm_aesenc_si128(x, *key);
    }
    _mm_aesenclast_si128(x, keys[ROUNDS])
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl,aes")]
fn encrypt_words(keys: &[[u64; 2]; ROUNDS + 1], block: __m128i) -> __m128i {
    let mut x = _mm_xor_si128(block, one(&keys[0]));
    for key in &keys[1..ROUNDS] {
        x = _mm_aesenc_si128(x, one(key));
    }
    _mm_aesenclast_si128(x, one(&keys[ROUNDS]))
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512bw")]
fn reversed(x: __m128i) -> __m128i {
    _mm_shuffle_epi8(x, _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15))
}

/// The product with x in POLYVAL's field.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512dq")]
fn times_x(v: __m128i) -> __m128i {
    let [low, high] = words(v);
    let carry = high >> 63;
    let (low, high) = (low << 1, (high << 1) | (low >> 63));
    // Without a branch: the key is secret.
    let mask = carry.wrapping_neg();
    let (low, high) = (low ^ (mask & 1), high ^ (mask & POLYVAL.cast_unsigned()));
    _mm_set_epi64x(high.cast_signed(), low.cast_signed())
}

/// POLYVAL's product of two elements.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,vpclmulqdq,pclmulqdq")]
fn times(a: __m128i, b: __m128i) -> __m128i {
    let mut sum = Sum::zero();
    sum.add(_mm512_zextsi128_si512(a), _mm512_zextsi128_si512(b));
    _mm512_castsi512_si128(sum.reduced())
}

/// Sums of products, lane by lane, before they are reduced.
#[derive(Clone, Copy)]
struct Sum {
    low: __m512i,
    middle: __m512i,
    high: __m512i,
}

impl Sum {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn zero() -> Sum {
        let zero = _mm512_setzero_si512();
        Sum { low: zero, middle: zero, high: zero }
    }

    #[inline]
    #[target_feature(enable = "avx512f,vpclmulqdq")]
    fn add(&mut self, x: __m512i, power: __m512i) {
        self.low = _mm512_xor_si512(self.low, _mm512_clmulepi64_epi128::<0x00>(x, power));
        self.high = _mm512_xor_si512(self.high, _mm512_clmulepi64_epi128::<0x11>(x, power));
        let (a, b) = (_mm512_clmulepi64_epi128::<0x01>(x, power), _mm512_clmulepi64_epi128::<0x10>(x, power));
        self.middle = _mm512_ternarylogic_epi64::<XOR3>(self.middle, a, b);
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,vpclmulqdq")]
    fn reduced(self) -> __m512i {
        let factor = _mm512_set1_epi64(POLYVAL);
        let low = _mm512_xor_si512(self.low, _mm512_bslli_epi128::<8>(self.middle));
        let high = _mm512_xor_si512(self.high, _mm512_bsrli_epi128::<8>(self.middle));
        let first = _mm512_shuffle_epi32::<0x4e>(_mm512_clmulepi64_epi128::<0x00>(low, factor));
        let first = _mm512_xor_si512(first, low);
        let second = _mm512_clmulepi64_epi128::<0x11>(first, factor);
        _mm512_ternarylogic_epi64::<XOR3>(high, first, second)
    }
}

/// The tweaks of the first [`BLOCKS`] blocks: the encrypted one times powers of x.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq")]
fn first_tweaks(tweak: __m128i) -> [__m512i; VECTORS] {
    let (all, carry) = (_mm512_broadcast_i32x4(tweak), _mm512_set1_epi64(TWEAK_CARRY));
    let mut out = [all; VECTORS];
    for (i, t) in out.iter_mut().enumerate() {
        let first = 1i64 << (4 * i);
        let powers = _mm512_set_epi64(0, first << 3, 0, first << 2, 0, first << 1, 0, first);
        let low = _mm512_clmulepi64_epi128::<0x00>(all, powers);
        let high = _mm512_clmulepi64_epi128::<0x01>(all, powers);
        let over = _mm512_clmulepi64_epi128::<0x01>(high, carry);
        *t = _mm512_ternarylogic_epi64::<XOR3>(low, _mm512_bslli_epi128::<8>(high), over);
    }
    out
}

/// A tweak [`BLOCKS`] blocks on: times x^32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq")]
fn next_tweak(t: __m512i) -> __m512i {
    let over = _mm512_clmulepi64_epi128::<0x00>(_mm512_bsrli_epi128::<12>(t), _mm512_set1_epi64(TWEAK_CARRY));
    _mm512_xor_si512(_mm512_bslli_epi128::<4>(t), over)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn reversed_lanes(x: __m512i) -> __m512i {
    let order = _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    _mm512_shuffle_epi8(x, _mm512_broadcast_i32x4(order))
}

#[inline]
#[target_feature(enable = "avx512f,vaes")]
fn round<const DECRYPT: bool>(x: __m512i, key: __m512i) -> __m512i {
    if DECRYPT { _mm512_aesdec_epi128(x, key) } else { _mm512_aesenc_epi128(x, key) }
}

/// All rounds of several vectors side by side. Between the rounds the bytes of one step at `hashed` go into `sum`, a vector at a
/// time, if there are any: the cipher and the multiplier are different units, and neither waits for the other so.
///
/// # Safety
/// [`STEP_BYTES`] can be read at `hashed`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,vaes,vpclmulqdq")]
unsafe fn cipher<const DECRYPT: bool, const N: usize>(
    keys: &Keys,
    x: &mut [__m512i; N],
    tweaks: &[__m512i; N],
    hashed: Option<*const u8>,
    sum: &mut Sum,
) {
    let schedule = if DECRYPT { &keys.decrypt } else { &keys.encrypt };
    // SAFETY: a key has 64 bytes.
    let key = |round: usize| unsafe { _mm512_loadu_si512(schedule[round].as_ptr().cast()) };
    for (x, t) in x.iter_mut().zip(tweaks) {
        *x = _mm512_ternarylogic_epi64::<XOR3>(*x, *t, key(0));
    }
    for number in 1..ROUNDS {
        let k = key(number);
        for x in x.iter_mut() {
            *x = round::<DECRYPT>(*x, k);
        }
        if let Some(hashed) = hashed.filter(|_| number <= VECTORS) {
            let i = number - 1;
            // SAFETY: the caller's, and there are powers for every block of a step.
            let (stored, power) = unsafe {
                (
                    _mm512_loadu_si512(hashed.add(64 * i).cast()),
                    _mm512_loadu_si512(keys.powers.as_ptr().add(4 * i).cast()),
                )
            };
            sum.add(reversed_lanes(stored), power);
        }
    }
    let k = key(ROUNDS);
    for (x, t) in x.iter_mut().zip(tweaks) {
        // The last round ends with the addition of its key, so the tweak is added along with it.
        let k = _mm512_xor_si512(k, *t);
        *x = if DECRYPT { _mm512_aesdeclast_epi128(*x, k) } else { _mm512_aesenclast_epi128(*x, k) };
    }
}

/// What was gathered so far, times the power of a whole step.
#[inline]
#[target_feature(enable = "avx512f,vpclmulqdq")]
fn carried(keys: &Keys, hash: __m512i) -> Sum {
    let mut sum = Sum::zero();
    sum.add(hash, _mm512_broadcast_i32x4(one(&keys.powers[0])));
    sum
}

/// Encrypts or decrypts; the check of what is stored.
///
/// # Safety
/// [`is_there`]; `len` bytes, a multiple of 16, can be read at `from` and written at `to`, which is `from` or does not overlap it.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq")]
unsafe fn run<const DECRYPT: bool>(
    keys: &Keys,
    tweak: &[u8; 16],
    place: [u8; 12],
    from: *const u8,
    to: *mut u8,
    len: usize,
) -> u64 {
    let mut counter = [0; 16];
    counter[..12].copy_from_slice(&place);
    counter[15] = 1;
    // SAFETY: both have 16 bytes.
    let (tweak, counter) =
        unsafe { (_mm_loadu_si128(tweak.as_ptr().cast()), _mm_loadu_si128(counter.as_ptr().cast())) };
    let pad = encrypt_words(&keys.pad, counter);
    let mut tweaks = first_tweaks(encrypt_words(&keys.tweak, tweak));
    let mut hash = _mm512_setzero_si512();
    let mut at = 0;
    // SAFETY: powers are read 64 bytes at a time from at most 4 blocks before their end.
    let power = |block: usize| unsafe { _mm512_loadu_si512(keys.powers.as_ptr().add(block).cast()) };
    while len - at >= STEP_BYTES {
        let mut x = [_mm512_setzero_si512(); VECTORS];
        for (i, x) in x.iter_mut().enumerate() {
            // SAFETY: the step lies within `len`.
            *x = unsafe { _mm512_loadu_si512(from.add(at + 64 * i).cast()) };
        }
        // What is stored is there at once when it is decrypted; when it is made, the step before is.
        let hashed = if DECRYPT {
            // SAFETY: the step lies within `len`.
            Some(unsafe { from.add(at) })
        } else {
            // SAFETY: the step before lies within `len`.
            (at > 0).then(|| unsafe { to.add(at - STEP_BYTES).cast_const() })
        };
        let mut sum = carried(keys, hash);
        // SAFETY: both are steps within `len`.
        unsafe { cipher::<DECRYPT, VECTORS>(keys, &mut x, &tweaks, hashed, &mut sum) };
        for (i, x) in x.iter().enumerate() {
            // SAFETY: as above.
            unsafe { _mm512_storeu_si512(to.add(at + 64 * i).cast(), *x) };
        }
        hash = sum.reduced();
        for t in &mut tweaks {
            *t = next_tweak(*t);
        }
        at += STEP_BYTES;
    }
    if !DECRYPT && at > 0 {
        let mut sum = carried(keys, hash);
        for i in 0..VECTORS {
            // SAFETY: the last step lies within `len`.
            let stored = unsafe { _mm512_loadu_si512(to.add(at - STEP_BYTES + 64 * i).cast()) };
            sum.add(reversed_lanes(stored), power(4 * i));
        }
        hash = sum.reduced();
    }
    let left = (len - at) / 16;
    if left > 0 {
        let start = BLOCKS - left;
        let mut sum = Sum::zero();
        sum.add(hash, _mm512_broadcast_i32x4(one(&keys.powers[start])));
        for (i, t) in tweaks.iter().enumerate().take(left.div_ceil(4)) {
            let words = 2 * (left - 4 * i).min(4);
            let mask = u8::try_from((1u32 << words) - 1).expect("8 bits at most");
            // SAFETY: the mask keeps what is read and written within `len`.
            let input = unsafe { _mm512_maskz_loadu_epi64(mask, from.add(at + 64 * i).cast()) };
            let mut x = [input];
            // SAFETY: nothing is hashed on the way.
            unsafe { cipher::<DECRYPT, 1>(keys, &mut x, &[*t], None, &mut sum) };
            // SAFETY: as above.
            unsafe { _mm512_mask_storeu_epi64(to.add(at + 64 * i).cast(), mask, x[0]) };
            let stored = if DECRYPT { input } else { _mm512_maskz_mov_epi64(mask, x[0]) };
            sum.add(reversed_lanes(stored), power(start + 4 * i));
        }
        hash = sum.reduced();
    }
    finish(keys, hash, len, pad)
}

/// The check from the four lanes of the hash: the block of lengths, the pad, and the block behind.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vpclmulqdq,aes,pclmulqdq")]
fn finish(keys: &Keys, hash: __m512i, len: usize, pad: __m128i) -> u64 {
    let half = _mm256_xor_si256(_mm512_castsi512_si256(hash), _mm512_extracti64x4_epi64::<1>(hash));
    let lane = _mm_xor_si128(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half));
    // Bits of associated data in the upper half, bits of text in the lower: reversed, as everything here.
    let bits = i64::try_from(len).expect("far below 2^60") * 8;
    let lane = _mm_xor_si128(lane, _mm_set_epi64x(bits, 0));
    let tag = _mm_xor_si128(reversed(times(lane, one(&keys.powers[BLOCKS - 1]))), pad);
    words(encrypt_words(&keys.last, tag))[0]
}

/// See [`super::Seal::seal`].
///
/// # Safety
/// [`is_there`]; both are as long, a multiple of 16 bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq")]
pub(super) unsafe fn seal(
    keys: &Keys,
    tweak: &[u8; 16],
    place: [u8; 12],
    plain: &[u8],
    out: &mut [u8],
) -> u64 {
    // SAFETY: the caller's; a shared slice never overlaps an exclusive one.
    unsafe { run::<false>(keys, tweak, place, plain.as_ptr(), out.as_mut_ptr(), out.len()) }
}

/// The check of `stored`, which is decrypted into `out` as well.
///
/// # Safety
/// As [`seal`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq")]
pub(super) unsafe fn open(
    keys: &Keys,
    tweak: &[u8; 16],
    place: [u8; 12],
    stored: &[u8],
    out: &mut [u8],
) -> u64 {
    // SAFETY: as in `seal`.
    unsafe { run::<true>(keys, tweak, place, stored.as_ptr(), out.as_mut_ptr(), out.len()) }
}

/// [`open`] where the bytes are.
///
/// # Safety
/// As [`seal`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq")]
pub(super) unsafe fn open_in_place(keys: &Keys, tweak: &[u8; 16], place: [u8; 12], bytes: &mut [u8]) -> u64 {
    let (at, len) = (bytes.as_mut_ptr(), bytes.len());
    // SAFETY: source and target are the same bytes, each read before it is written.
    unsafe { run::<true>(keys, tweak, place, at, at, len) }
}
