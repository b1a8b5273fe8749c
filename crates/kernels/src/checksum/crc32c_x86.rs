//! CRC-32C of long inputs with carry-less products of 512 bits.
//!
//! Four vectors run over the input at a distance of 256 bytes, each multiplied by what that distance is modulo the polynomial;
//! in the end all are brought to the last 16 bytes, which the CRC instruction reduces.

use std::arch::x86_64::{
    __m512i, _mm_crc32_u8, _mm_crc32_u64, _mm_cvtsi32_si128, _mm_cvtsi128_si64, _mm_extract_epi64,
    _mm_xor_si128, _mm256_castsi256_si128, _mm256_extracti128_si256, _mm256_xor_si256,
    _mm512_castsi512_si256, _mm512_clmulepi64_epi128, _mm512_extracti64x4_epi64, _mm512_loadu_si512,
    _mm512_mask_mov_epi64, _mm512_set_epi64, _mm512_setzero_si512, _mm512_ternarylogic_epi64,
    _mm512_xor_si512, _mm512_zextsi128_si512,
};

/// Inputs that are shorter are not worth the set-up.
pub(super) const MIN_BYTES: usize = 256;

/// The polynomial without its highest term.
const POLYNOMIAL: u32 = 0x1edc_6f41;

/// `x ^ XOR` of three words in one instruction.
const XOR3: i32 = 0x96;

/// x to the power `bits` modulo the polynomial, reflected, as a factor of a carry-less product.
const fn power(bits: u32) -> i64 {
    let (mut value, mut i) = (1u32, 0);
    while i < bits {
        value = (value << 1) ^ (if value >> 31 == 1 { POLYNOMIAL } else { 0 });
        i += 1;
    }
    (value.reverse_bits() as i64) << 1
}

/// The factors of the lower and the upper half of a lane that is moved by so many bits.
const fn distance(bits: u32) -> (i64, i64) {
    (power(bits + 32), power(bits - 32))
}

/// True when the machine has what [`update`] needs.
pub(super) fn is_there() -> bool {
    is_x86_feature_detected!("vpclmulqdq")
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("sse4.2")
}

#[inline]
#[target_feature(enable = "avx512f")]
fn all_lanes((low, high): (i64, i64)) -> __m512i {
    _mm512_set_epi64(high, low, high, low, high, low, high, low)
}

/// Every lane of `x` moved on by what `k` says, and added to `y`.
#[inline]
#[target_feature(enable = "avx512f,vpclmulqdq")]
fn fold(x: __m512i, k: __m512i, y: __m512i) -> __m512i {
    let (low, high) = (_mm512_clmulepi64_epi128::<0x00>(x, k), _mm512_clmulepi64_epi128::<0x11>(x, k));
    _mm512_ternarylogic_epi64::<XOR3>(low, high, y)
}

/// The state of the CRC (inverted, as it is between pieces) behind `bytes`, of which there are [`MIN_BYTES`] at least.
///
/// # Safety
/// [`is_there`].
#[target_feature(enable = "avx512f,avx512vl,vpclmulqdq,sse4.2,pclmulqdq")]
pub(super) unsafe fn update(state: u32, bytes: &[u8]) -> u32 {
    debug_assert!(bytes.len() >= MIN_BYTES);
    // SAFETY: every call is for a piece of 64 bytes at least.
    let load = |piece: &[u8]| unsafe { _mm512_loadu_si512(piece.as_ptr().cast()) };
    let (first, mut rest) = bytes.split_at(MIN_BYTES);
    let start = _mm512_zextsi128_si512(_mm_cvtsi32_si128(state.cast_signed()));
    let mut a = _mm512_xor_si512(load(&first[..64]), start);
    let (mut b, mut c, mut d) = (load(&first[64..128]), load(&first[128..192]), load(&first[192..]));
    let far = all_lanes(const { distance(2048) });
    while let Some((piece, behind)) = rest.split_at_checked(256) {
        a = fold(a, far, load(&piece[..64]));
        b = fold(b, far, load(&piece[64..128]));
        c = fold(c, far, load(&piece[128..192]));
        d = fold(d, far, load(&piece[192..]));
        rest = behind;
    }
    let near = all_lanes(const { distance(512) });
    let left = fold(a, all_lanes(const { distance(1536) }), fold(c, near, d));
    let mut x = fold(b, all_lanes(const { distance(1024) }), left);
    while let Some((piece, behind)) = rest.split_at_checked(64) {
        x = fold(x, near, load(piece));
        rest = behind;
    }
    // The first three lanes to the last one.
    let ((l0, h0), (l1, h1), (l2, h2)) = const { (distance(384), distance(256), distance(128)) };
    let last = _mm512_mask_mov_epi64(_mm512_setzero_si512(), 0b1100_0000, x);
    let lanes = fold(x, _mm512_set_epi64(0, 0, h2, l2, h1, l1, h0, l0), last);
    let half = _mm256_xor_si256(_mm512_castsi512_si256(lanes), _mm512_extracti64x4_epi64::<1>(lanes));
    let lane = _mm_xor_si128(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half));
    let (low, high) = (_mm_cvtsi128_si64(lane).cast_unsigned(), _mm_extract_epi64::<1>(lane).cast_unsigned());
    let mut crc = _mm_crc32_u64(_mm_crc32_u64(0, low), high);
    while let Some((piece, behind)) = rest.split_first_chunk::<8>() {
        crc = _mm_crc32_u64(crc, u64::from_le_bytes(*piece));
        rest = behind;
    }
    let mut crc = u32::try_from(crc).expect("the instruction leaves the upper half zero");
    for byte in rest {
        crc = _mm_crc32_u8(crc, *byte);
    }
    crc
}
