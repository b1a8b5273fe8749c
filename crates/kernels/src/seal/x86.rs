//! AES-256-XTS and GMAC in one pass, with vectors of four AES blocks.
//!
//! Four vectors are encrypted at a time, a step; while their rounds run in one unit, the step before is multiplied in the other. The
//! hash is POLYVAL over reversed bytes, which is GHASH (RFC 8452, appendix A): its products need no shift. Four lanes gather it; 128
//! blocks are multiplied by falling powers of the key and reduced together, the last ones along with the block of lengths.
//!
//! On Intel's processors a unit takes one vector a cycle. The rounds keep the first one busy, and everything else has to fit into the
//! second: hence the tweaks are kept with the last round's key added, which that round wants and the first one takes out again with
//! its own key, and products are summed two at a time. On AMD's the products take the rounds' units: hence there are three to a
//! vector, not four, and they are spread over the rounds. The rounds are written in assembler, for the order alone (see [`round`]).

use std::arch::asm;
use std::arch::x86_64::*;
use zeroize::Zeroize;

const ROUNDS: usize = 14;
/// Vectors that are worked on at a time, and the AES blocks in them.
const VECTORS: usize = 4;
const BLOCKS: usize = 4 * VECTORS;
const STEP_BYTES: usize = 16 * BLOCKS;
/// Steps whose products are reduced together, and the AES blocks in them.
const GROUP_STEPS: usize = 8;
const GROUP_BLOCKS: usize = GROUP_STEPS * BLOCKS;
/// Powers of the hash's key: for a group of blocks, and the block of lengths behind it.
const POWERS: usize = GROUP_BLOCKS + 1;
/// Behind the powers, so that those of a whole step can be read wherever one begins.
const POWERS_SPARE: usize = BLOCKS;
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
    /// Powers of the hash's key: at place i the one of [`POWERS`] - i, and zeros behind the first.
    powers: [[u64; 2]; POWERS + POWERS_SPARE],
    /// Of the power at each place, and of the one four places on: the sum of its halves.
    folded: [[u64; 2]; POWERS + POWERS_SPARE],
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
        self.folded.zeroize();
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
            powers: [[0; 2]; POWERS + POWERS_SPARE],
            folded: [[0; 2]; POWERS + POWERS_SPARE],
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
        for i in (0..POWERS).rev() {
            keys.powers[i] = words(power);
            power = times(power, hash);
        }
        for i in 0..POWERS + POWERS_SPARE - 4 {
            keys.folded[i] = [i, i + 4].map(|i| keys.powers[i][0] ^ keys.powers[i][1]);
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

#[inline]
#[target_feature(enable = "avx512f")]
fn xor3(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    _mm512_ternarylogic_epi64::<XOR3>(a, b, c)
}

/// The sum of each lane's halves, in both.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves_summed(x: __m512i) -> __m512i {
    _mm512_xor_si512(x, _mm512_shuffle_epi32::<0x4e>(x))
}

/// Sums of products, lane by lane, before they are reduced. By halves, as Karatsuba multiplies: three products instead of four.
#[derive(Clone, Copy)]
struct Sum {
    low: __m512i,
    high: __m512i,
    /// Products of the halves' sums.
    folded: __m512i,
}

impl Sum {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn zero() -> Sum {
        let zero = _mm512_setzero_si512();
        Sum { low: zero, high: zero, folded: zero }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,vpclmulqdq")]
    fn add(&mut self, x: __m512i, power: __m512i) {
        let (x_sum, power_sum) = (halves_summed(x), halves_summed(power));
        self.low = _mm512_xor_si512(self.low, _mm512_clmulepi64_epi128::<0x00>(x, power));
        self.high = _mm512_xor_si512(self.high, _mm512_clmulepi64_epi128::<0x11>(x, power));
        self.folded = _mm512_xor_si512(self.folded, _mm512_clmulepi64_epi128::<0x00>(x_sum, power_sum));
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,vpclmulqdq")]
    fn reduced(self) -> __m512i {
        let factor = _mm512_set1_epi64(POLYVAL);
        let middle = xor3(self.folded, self.low, self.high);
        let low = _mm512_xor_si512(self.low, _mm512_bslli_epi128::<8>(middle));
        let high = _mm512_xor_si512(self.high, _mm512_bsrli_epi128::<8>(middle));
        let first = _mm512_shuffle_epi32::<0x4e>(_mm512_clmulepi64_epi128::<0x00>(low, factor));
        let first = _mm512_xor_si512(first, low);
        let second = _mm512_clmulepi64_epi128::<0x11>(first, factor);
        xor3(high, first, second)
    }
}

/// Two vectors, the powers by which they are multiplied, and the sums of the powers' halves. Products are summed two at a time.
struct Two {
    x: __m512i,
    y: __m512i,
    p: __m512i,
    q: __m512i,
    folded: __m512i,
}

impl Two {
    #[inline]
    #[target_feature(enable = "avx512f,vpclmulqdq")]
    fn low(&self, sum: &mut Sum) {
        let (a, b) = (
            _mm512_clmulepi64_epi128::<0x00>(self.x, self.p),
            _mm512_clmulepi64_epi128::<0x00>(self.y, self.q),
        );
        sum.low = xor3(sum.low, a, b);
    }

    #[inline]
    #[target_feature(enable = "avx512f,vpclmulqdq")]
    fn high(&self, sum: &mut Sum) {
        let (a, b) = (
            _mm512_clmulepi64_epi128::<0x11>(self.x, self.p),
            _mm512_clmulepi64_epi128::<0x11>(self.y, self.q),
        );
        sum.high = xor3(sum.high, a, b);
    }

    #[inline]
    #[target_feature(enable = "avx512f,vpclmulqdq")]
    fn folded(&self, sum: &mut Sum) {
        let both =
            _mm512_xor_si512(_mm512_unpacklo_epi64(self.x, self.y), _mm512_unpackhi_epi64(self.x, self.y));
        let (a, b) = (
            _mm512_clmulepi64_epi128::<0x00>(both, self.folded),
            _mm512_clmulepi64_epi128::<0x11>(both, self.folded),
        );
        sum.folded = xor3(sum.folded, a, b);
    }
}

/// The hash of stored bytes, in their order.
struct Hash<'a> {
    keys: &'a Keys,
    sum: Sum,
    /// Blocks that are still to come, and the place of the next one's power.
    left: usize,
    power: usize,
}

impl<'a> Hash<'a> {
    /// Of so many blocks, and that of lengths.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(keys: &'a Keys, blocks: usize) -> Hash<'a> {
        Hash { keys, sum: Sum::zero(), left: blocks, power: Self::first_power(blocks) }
    }

    /// The place of the power of a group's first block, with so many blocks to come: the last group has one term more.
    #[inline]
    fn first_power(left: usize) -> usize {
        if left > GROUP_BLOCKS { POWERS - GROUP_BLOCKS } else { POWERS - 1 - left }
    }

    /// Before each step: what is gathered is reduced and multiplied when a group ends here.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,vpclmulqdq")]
    fn begin(&mut self) {
        if self.power == POWERS {
            let gathered = self.sum.reduced();
            self.power = Self::first_power(self.left);
            self.sum = Sum::zero();
            self.sum.add(gathered, _mm512_broadcast_i32x4(one(&self.keys.powers[self.power])));
        }
        assert!(self.power < POWERS, "a group ends with a step, but for the last");
    }

    /// Two vectors of a step that has begun, the one with this number and the next, and their powers.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn two(&self, number: usize, x: &[__m512i; VECTORS]) -> Two {
        let place = self.power + 4 * number;
        let (powers, folded) = (self.keys.powers.as_ptr(), self.keys.folded.as_ptr());
        // SAFETY: the step began below `POWERS`, and there are as many powers as a step has blocks behind, folded ones too; the
        // instruction needs no alignment.
        let [p, q, folded] = unsafe {
            [powers.add(place), powers.add(place + 4), folded.add(place)]
                .map(|at| _mm512_loadu_si512(at.cast()))
        };
        Two { x: reversed_lanes(x[number]), y: reversed_lanes(x[number + 1]), p, q, folded }
    }

    /// So many blocks of the step counted; the others were zeros.
    #[inline]
    fn end(&mut self, blocks: usize) {
        self.left -= blocks;
        self.power += blocks;
    }

    /// The check: the block of lengths, the pad, and the block behind.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vpclmulqdq,aes,pclmulqdq")]
    fn finish(mut self, len: usize, pad: __m128i) -> u64 {
        // Bits of associated data in the upper half, bits of text in the lower: reversed, as everything here.
        let bits = i64::try_from(len).expect("far below 2^60") * 8;
        let lengths = _mm512_zextsi128_si512(_mm_set_epi64x(bits, 0));
        self.sum.add(lengths, _mm512_zextsi128_si512(one(&self.keys.powers[POWERS - 1])));
        let hash = self.sum.reduced();
        let half = _mm256_xor_si256(_mm512_castsi512_si256(hash), _mm512_extracti64x4_epi64::<1>(hash));
        let lane = _mm_xor_si128(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half));
        words(encrypt_words(&self.keys.last, _mm_xor_si128(reversed(lane), pad)))[0]
    }
}

/// The tweaks of four blocks that begin `from` blocks behind the first: the encrypted one times powers of x. With `key` added.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq")]
fn first_tweak(tweak: __m128i, from: u32, key: __m512i) -> __m512i {
    let (all, by) = (_mm512_broadcast_i32x4(tweak), i64::from(from));
    let by = _mm512_set_epi64(by + 3, by + 3, by + 2, by + 2, by + 1, by + 1, by, by);
    // What each half loses above: the lower one's goes to the upper one, the upper one's comes back as x^128 does.
    let out = _mm512_srlv_epi64(all, _mm512_sub_epi64(_mm512_set1_epi64(64), by));
    let over = _mm512_clmulepi64_epi128::<0x01>(out, _mm512_set1_epi64(TWEAK_CARRY));
    let shifted = xor3(_mm512_sllv_epi64(all, by), _mm512_bslli_epi128::<8>(out), over);
    _mm512_xor_si512(shifted, key)
}

/// A tweak of the next step: times x^16, so what two bytes lose above comes back below. What is `added` makes up for what is added to
/// the tweak.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq")]
fn next_tweak(t: __m512i, added: __m512i) -> __m512i {
    const { assert!(BLOCKS == 16, "two bytes are shifted out") };
    // The two bytes are below already: the one in the factor is theirs.
    let turned = _mm512_alignr_epi8::<14>(t, t);
    let out = _mm512_and_si512(turned, _mm512_set_epi64(0, 0xffff, 0, 0xffff, 0, 0xffff, 0, 0xffff));
    xor3(turned, _mm512_clmulepi64_epi128::<0x00>(out, _mm512_set1_epi64(TWEAK_CARRY ^ 1)), added)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn reversed_lanes(x: __m512i) -> __m512i {
    let order = _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    _mm512_shuffle_epi8(x, _mm512_broadcast_i32x4(order))
}

/// One round of a step's vectors, side by side. Left to itself the compiler takes a vector through all rounds, each of which waits
/// for the one before, and keeps so many keys in registers that nothing else has room there.
#[inline]
#[target_feature(enable = "avx512f,vaes")]
fn round<const DECRYPT: bool>([a, b, c, d]: &mut [__m512i; VECTORS], key: &[u64; 8]) {
    // It has a name since only so its size is known.
    let _key: __m512i;
    macro_rules! four {
        ($instruction:literal) => {
            asm!(
                "vmovdqu64 {k}, [{key}]",
                concat!($instruction, " {a}, {a}, {k}"),
                concat!($instruction, " {b}, {b}, {k}"),
                concat!($instruction, " {c}, {c}, {k}"),
                concat!($instruction, " {d}, {d}, {k}"),
                key = in(reg) key.as_ptr(),
                k = out(zmm_reg) _key,
                a = inout(zmm_reg) *a,
                b = inout(zmm_reg) *b,
                c = inout(zmm_reg) *c,
                d = inout(zmm_reg) *d,
                options(pure, readonly, nostack, preserves_flags),
            )
        };
    }
    // SAFETY: reads the 64 bytes of the key, and writes nothing but these registers.
    unsafe {
        if DECRYPT {
            four!("vaesdec");
        } else {
            four!("vaesenc");
        }
    }
}

/// A key of a round, for the four blocks of a vector.
#[inline]
#[target_feature(enable = "avx512f")]
fn four_of(key: &[u64; 8]) -> __m512i {
    // SAFETY: 64 bytes; the instruction needs no alignment.
    unsafe { _mm512_loadu_si512(key.as_ptr().cast()) }
}

/// All rounds of a step's vectors side by side; the tweaks have the last round's key added. Between the rounds a step of stored
/// vectors goes into the hash: the cipher and the multiplier are different units, and neither waits for the other so.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,vaes,vpclmulqdq")]
fn cipher<const DECRYPT: bool>(
    schedule: &[[u64; 8]; ROUNDS + 1],
    mut x: [__m512i; VECTORS],
    (tweaks, added): (&mut [__m512i; VECTORS], __m512i),
    hash: &mut Hash<'_>,
    stored: &[__m512i; VECTORS],
) -> [__m512i; VECTORS] {
    let first = _mm512_xor_si512(four_of(&schedule[0]), four_of(&schedule[ROUNDS]));
    let [t, u, v, w] = *tweaks;
    x = [xor3(x[0], t, first), xor3(x[1], u, first), xor3(x[2], v, first), xor3(x[3], w, first)];
    hash.begin();
    macro_rules! rounds {
        ($($number:literal)*) => { $(round::<DECRYPT>(&mut x, &schedule[$number]);)* }
    }
    rounds!(1);
    let two = hash.two(0, stored);
    rounds!(2);
    two.low(&mut hash.sum);
    rounds!(3);
    two.high(&mut hash.sum);
    rounds!(4);
    two.folded(&mut hash.sum);
    rounds!(5);
    tweaks[0] = next_tweak(t, added);
    rounds!(6);
    tweaks[1] = next_tweak(u, added);
    rounds!(7);
    let two = hash.two(2, stored);
    rounds!(8);
    two.low(&mut hash.sum);
    rounds!(9);
    two.high(&mut hash.sum);
    rounds!(10);
    two.folded(&mut hash.sum);
    rounds!(11);
    tweaks[2] = next_tweak(v, added);
    rounds!(12);
    tweaks[3] = next_tweak(w, added);
    rounds!(13);
    [last::<DECRYPT>(x[0], t), last::<DECRYPT>(x[1], u), last::<DECRYPT>(x[2], v), last::<DECRYPT>(x[3], w)]
}

/// The last round, with a tweak that has its key.
#[inline]
#[target_feature(enable = "avx512f,vaes")]
fn last<const DECRYPT: bool>(x: __m512i, tweak: __m512i) -> __m512i {
    if DECRYPT { _mm512_aesdeclast_epi128(x, tweak) } else { _mm512_aesenclast_epi128(x, tweak) }
}

/// So many blocks of a step, and zeros behind.
///
/// # Safety
/// They can be read there.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load(from: *const u8, blocks: usize) -> [__m512i; VECTORS] {
    if blocks == BLOCKS {
        // SAFETY: all of the step is there.
        return unsafe {
            [
                _mm512_loadu_si512(from.cast()),
                _mm512_loadu_si512(from.add(64).cast()),
                _mm512_loadu_si512(from.add(128).cast()),
                _mm512_loadu_si512(from.add(192).cast()),
            ]
        };
    }
    let [k, l, m, n] = masks(blocks);
    // SAFETY: the masks keep what is read within the blocks.
    unsafe {
        [
            _mm512_maskz_loadu_epi64(k, from.cast()),
            _mm512_maskz_loadu_epi64(l, from.wrapping_add(64).cast()),
            _mm512_maskz_loadu_epi64(m, from.wrapping_add(128).cast()),
            _mm512_maskz_loadu_epi64(n, from.wrapping_add(192).cast()),
        ]
    }
}

/// Writes so many blocks of a step; these, and zeros behind.
///
/// # Safety
/// They can be written there.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store(to: *mut u8, blocks: usize, x: [__m512i; VECTORS]) -> [__m512i; VECTORS] {
    let [a, b, c, d] = x;
    if blocks == BLOCKS {
        // SAFETY: all of the step is there.
        unsafe {
            _mm512_storeu_si512(to.cast(), a);
            _mm512_storeu_si512(to.add(64).cast(), b);
            _mm512_storeu_si512(to.add(128).cast(), c);
            _mm512_storeu_si512(to.add(192).cast(), d);
        }
        return x;
    }
    let [k, l, m, n] = masks(blocks);
    // SAFETY: the masks keep what is written within the blocks.
    unsafe {
        _mm512_mask_storeu_epi64(to.cast(), k, a);
        _mm512_mask_storeu_epi64(to.wrapping_add(64).cast(), l, b);
        _mm512_mask_storeu_epi64(to.wrapping_add(128).cast(), m, c);
        _mm512_mask_storeu_epi64(to.wrapping_add(192).cast(), n, d);
    }
    [
        _mm512_maskz_mov_epi64(k, a),
        _mm512_maskz_mov_epi64(l, b),
        _mm512_maskz_mov_epi64(m, c),
        _mm512_maskz_mov_epi64(n, d),
    ]
}

/// Which words of a step's vectors belong to its first blocks, fewer than all.
#[inline]
fn masks(blocks: usize) -> [u8; VECTORS] {
    ((1u32 << (2 * blocks)) - 1).to_le_bytes()
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
    let schedule = if DECRYPT { &keys.decrypt } else { &keys.encrypt };
    let key = four_of(&schedule[ROUNDS]);
    let added = _mm512_xor_si512(next_tweak(key, _mm512_setzero_si512()), key);
    // SAFETY: the tweak has 16 bytes.
    let tweak = encrypt_words(&keys.tweak, unsafe { _mm_loadu_si128(tweak.as_ptr().cast()) });
    let mut tweaks = [
        first_tweak(tweak, 0, key),
        first_tweak(tweak, 4, key),
        first_tweak(tweak, 8, key),
        first_tweak(tweak, 12, key),
    ];
    let mut hash = Hash::new(keys, len / 16);
    // What was encrypted last and is not in the hash yet, and the blocks in it.
    let (mut before, mut blocks_before) = ([_mm512_setzero_si512(); VECTORS], 0);
    let mut at = 0;
    while at < len {
        let blocks = ((len - at) / 16).min(BLOCKS);
        // SAFETY: so many blocks from there on lie within `len`.
        let input = unsafe { load(from.add(at), blocks) };
        // What is stored is there at once when it is decrypted; when it is made, the step before is.
        let (stored, count) = if DECRYPT { (&input, blocks) } else { (&before, blocks_before) };
        let x = cipher::<DECRYPT>(schedule, input, (&mut tweaks, added), &mut hash, stored);
        hash.end(count);
        // SAFETY: as above.
        before = unsafe { store(to.add(at), blocks, x) };
        blocks_before = blocks;
        at += STEP_BYTES;
    }
    if !DECRYPT {
        hash.begin();
        for number in [0, 2] {
            let two = hash.two(number, &before);
            two.low(&mut hash.sum);
            two.high(&mut hash.sum);
            two.folded(&mut hash.sum);
        }
        hash.end(blocks_before);
    }
    hash.finish(len, encrypt_words(&keys.pad, counter(place)))
}

/// The block that is encrypted for the check's pad: its place, and a one.
#[inline]
#[target_feature(enable = "avx512f")]
fn counter(place: [u8; 12]) -> __m128i {
    let mut counter = [0; 16];
    counter[..12].copy_from_slice(&place);
    counter[15] = 1;
    // SAFETY: 16 bytes; the instruction needs no alignment.
    unsafe { _mm_loadu_si128(counter.as_ptr().cast()) }
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
