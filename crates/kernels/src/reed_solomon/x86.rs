//! The loops with the vector instructions of x86-64: byte shuffles by nibbles (SSSE3, AVX2), or one affine instruction per
//! product (GFNI with AVX-512). Each loop goes as far as whole vectors reach and says how far that was.

use super::gf::{CARRY, MATRICES, NIBBLES};
use std::arch::x86_64::*;

/// What the machine can do, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Gfni,
    Avx2,
    Ssse3,
}

impl Level {
    pub(super) const ALL: [Level; 3] = [Level::Gfni, Level::Avx2, Level::Ssse3];

    /// Whether this machine has the level's instructions; a load of a cached word.
    pub(super) fn is_there(self) -> bool {
        match self {
            Level::Gfni => {
                is_x86_feature_detected!("gfni")
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
            }
            Level::Avx2 => is_x86_feature_detected!("avx2"),
            Level::Ssse3 => is_x86_feature_detected!("ssse3"),
        }
    }

    pub(super) fn sum(self, data: &[&[u8]], p: &mut [u8], from: usize) -> usize {
        assert!(self.is_there() && data.iter().all(|d| d.len() == p.len()));
        // SAFETY: the machine has the instructions, and all slices are of one length (both asserted above).
        unsafe {
            match self {
                Level::Gfni => gfni::sum(data, p, from),
                Level::Avx2 => avx2::sum(data, p, from),
                Level::Ssse3 => ssse3::sum(data, p, from),
            }
        }
    }

    pub(super) fn pair(self, data: &[&[u8]], p: &mut [u8], q: &mut [u8], from: usize) -> usize {
        assert!(self.is_there() && p.len() == q.len() && data.iter().all(|d| d.len() == p.len()));
        // SAFETY: the machine has the instructions, and all slices are of one length (both asserted above).
        unsafe {
            match self {
                Level::Gfni => gfni::pair(data, p, q, from),
                Level::Avx2 => avx2::pair(data, p, q, from),
                Level::Ssse3 => ssse3::pair(data, p, q, from),
            }
        }
    }

    pub(super) fn dot(self, factors: &[u8], sources: &[&[u8]], out: &mut [u8], from: usize) -> usize {
        assert!(self.is_there() && factors.len() == sources.len() && factors.len() <= super::MAX_DATA);
        assert!(sources.iter().all(|s| s.len() == out.len()));
        // SAFETY: the machine has the instructions, all slices are of one length, and there are at most MAX_DATA (asserted
        // above).
        unsafe {
            match self {
                Level::Gfni => gfni::dot(factors, sources, out, from),
                Level::Avx2 => avx2::dot(factors, sources, out, from),
                Level::Ssse3 => ssse3::dot(factors, sources, out, from),
            }
        }
    }
}

/// The three loops over one kind of vector. The module's `load`, `store`, `zero`, `xor`, `double`, `table` and `mul` are the
/// vector's own.
macro_rules! loops {
    ($features:literal, $table:ty) => {
        /// # Safety
        /// The machine has the features, and every slice is as long as `p`.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn sum(data: &[&[u8]], p: &mut [u8], from: usize) -> usize {
            let mut at = from;
            while p.len() - at >= 2 * BYTES {
                let (mut a, mut b) = (zero(), zero());
                for d in data {
                    // SAFETY: `at + 2 * BYTES` is at most the length of `p`, which is that of `d`.
                    unsafe {
                        a = xor(a, load(d.as_ptr().add(at)));
                        b = xor(b, load(d.as_ptr().add(at + BYTES)));
                    }
                }
                // SAFETY: as above.
                unsafe {
                    store(p.as_mut_ptr().add(at), a);
                    store(p.as_mut_ptr().add(at + BYTES), b);
                }
                at += 2 * BYTES;
            }
            at
        }

        /// # Safety
        /// The machine has the features, and every slice is as long as `p`.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn pair(data: &[&[u8]], p: &mut [u8], q: &mut [u8], from: usize) -> usize {
            let mut at = from;
            while p.len() - at >= 2 * BYTES {
                let (mut pa, mut pb, mut qa, mut qb) = (zero(), zero(), zero(), zero());
                for d in data.iter().rev() {
                    // SAFETY: `at + 2 * BYTES` is at most the length of `p`, which is that of `d`.
                    let (a, b) = unsafe { (load(d.as_ptr().add(at)), load(d.as_ptr().add(at + BYTES))) };
                    (pa, pb) = (xor(pa, a), xor(pb, b));
                    (qa, qb) = (xor(double(qa), a), xor(double(qb), b));
                }
                // SAFETY: as above; `q` is as long as `p`.
                unsafe {
                    store(p.as_mut_ptr().add(at), pa);
                    store(p.as_mut_ptr().add(at + BYTES), pb);
                    store(q.as_mut_ptr().add(at), qa);
                    store(q.as_mut_ptr().add(at + BYTES), qb);
                }
                at += 2 * BYTES;
            }
            at
        }

        /// # Safety
        /// The machine has the features, every source is as long as `out`, and there are at most `MAX_DATA`.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn dot(factors: &[u8], sources: &[&[u8]], out: &mut [u8], from: usize) -> usize {
            let mut tables: [$table; super::super::MAX_DATA] = [table(0); super::super::MAX_DATA];
            for (t, factor) in tables.iter_mut().zip(factors) {
                *t = table(*factor);
            }
            let mut at = from;
            while out.len() - at >= 2 * BYTES {
                let (mut a, mut b) = (zero(), zero());
                for (t, s) in tables.iter().zip(sources) {
                    // SAFETY: `at + 2 * BYTES` is at most the length of `out`, which is that of `s`.
                    let (x, y) = unsafe { (load(s.as_ptr().add(at)), load(s.as_ptr().add(at + BYTES))) };
                    a = xor(a, mul(x, t));
                    b = xor(b, mul(y, t));
                }
                // SAFETY: as above.
                unsafe {
                    store(out.as_mut_ptr().add(at), a);
                    store(out.as_mut_ptr().add(at + BYTES), b);
                }
                at += 2 * BYTES;
            }
            at
        }
    };
}

mod gfni {
    use super::*;

    const BYTES: usize = 64;

    /// # Safety
    /// 64 bytes may be read at `at`.
    #[inline]
    #[target_feature(enable = "gfni,avx512f,avx512bw")]
    unsafe fn load(at: *const u8) -> __m512i {
        // SAFETY: the caller's; the instruction needs no alignment.
        unsafe { _mm512_loadu_si512(at.cast()) }
    }

    /// # Safety
    /// 64 bytes may be written at `at`.
    #[inline]
    #[target_feature(enable = "gfni,avx512f,avx512bw")]
    unsafe fn store(at: *mut u8, x: __m512i) {
        // SAFETY: the caller's; the instruction needs no alignment.
        unsafe { _mm512_storeu_si512(at.cast(), x) }
    }

    #[inline]
    #[target_feature(enable = "gfni,avx512f,avx512bw")]
    fn zero() -> __m512i {
        _mm512_setzero_si512()
    }

    #[inline]
    #[target_feature(enable = "gfni,avx512f,avx512bw")]
    fn xor(a: __m512i, b: __m512i) -> __m512i {
        _mm512_xor_si512(a, b)
    }

    #[inline]
    #[target_feature(enable = "gfni,avx512f,avx512bw")]
    fn double(x: __m512i) -> __m512i {
        mul(x, &table(2))
    }

    #[inline]
    #[target_feature(enable = "gfni,avx512f,avx512bw")]
    fn table(factor: u8) -> __m512i {
        _mm512_set1_epi64(MATRICES[usize::from(factor)].cast_signed())
    }

    #[inline]
    #[target_feature(enable = "gfni,avx512f,avx512bw")]
    fn mul(x: __m512i, table: &__m512i) -> __m512i {
        _mm512_gf2p8affine_epi64_epi8::<0>(x, *table)
    }

    loops!("gfni,avx512f,avx512bw", __m512i);
}

mod avx2 {
    use super::*;

    const BYTES: usize = 32;

    /// # Safety
    /// 32 bytes may be read at `at`.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(at: *const u8) -> __m256i {
        // SAFETY: the caller's; the instruction needs no alignment.
        unsafe { _mm256_loadu_si256(at.cast()) }
    }

    /// # Safety
    /// 32 bytes may be written at `at`.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn store(at: *mut u8, x: __m256i) {
        // SAFETY: the caller's; the instruction needs no alignment.
        unsafe { _mm256_storeu_si256(at.cast(), x) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn zero() -> __m256i {
        _mm256_setzero_si256()
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn xor(a: __m256i, b: __m256i) -> __m256i {
        _mm256_xor_si256(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn double(x: __m256i) -> __m256i {
        let carries = _mm256_and_si256(_mm256_cmpgt_epi8(zero(), x), _mm256_set1_epi8(CARRY.cast_signed()));
        xor(_mm256_add_epi8(x, x), carries)
    }

    /// Products with low and with high nibbles, each in both lanes.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn table(factor: u8) -> (__m256i, __m256i) {
        let bytes = &NIBBLES[usize::from(factor)];
        // SAFETY: the table has 32 bytes.
        let both = unsafe { load(bytes.as_ptr()) };
        (_mm256_permute2x128_si256::<0x00>(both, both), _mm256_permute2x128_si256::<0x11>(both, both))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn mul(x: __m256i, table: &(__m256i, __m256i)) -> __m256i {
        let nibble = _mm256_set1_epi8(15);
        let low = _mm256_shuffle_epi8(table.0, _mm256_and_si256(x, nibble));
        let high = _mm256_shuffle_epi8(table.1, _mm256_and_si256(_mm256_srli_epi64::<4>(x), nibble));
        xor(low, high)
    }

    loops!("avx2", (__m256i, __m256i));
}

mod ssse3 {
    use super::*;

    const BYTES: usize = 16;

    /// # Safety
    /// 16 bytes may be read at `at`.
    #[inline]
    #[target_feature(enable = "ssse3")]
    unsafe fn load(at: *const u8) -> __m128i {
        // SAFETY: the caller's; the instruction needs no alignment.
        unsafe { _mm_loadu_si128(at.cast()) }
    }

    /// # Safety
    /// 16 bytes may be written at `at`.
    #[inline]
    #[target_feature(enable = "ssse3")]
    unsafe fn store(at: *mut u8, x: __m128i) {
        // SAFETY: the caller's; the instruction needs no alignment.
        unsafe { _mm_storeu_si128(at.cast(), x) }
    }

    #[inline]
    #[target_feature(enable = "ssse3")]
    fn zero() -> __m128i {
        _mm_setzero_si128()
    }

    #[inline]
    #[target_feature(enable = "ssse3")]
    fn xor(a: __m128i, b: __m128i) -> __m128i {
        _mm_xor_si128(a, b)
    }

    #[inline]
    #[target_feature(enable = "ssse3")]
    fn double(x: __m128i) -> __m128i {
        let carries = _mm_and_si128(_mm_cmpgt_epi8(zero(), x), _mm_set1_epi8(CARRY.cast_signed()));
        xor(_mm_add_epi8(x, x), carries)
    }

    /// Products with low and with high nibbles.
    #[inline]
    #[target_feature(enable = "ssse3")]
    fn table(factor: u8) -> (__m128i, __m128i) {
        let bytes = &NIBBLES[usize::from(factor)];
        // SAFETY: the table has 32 bytes.
        unsafe { (load(bytes.as_ptr()), load(bytes.as_ptr().add(16))) }
    }

    #[inline]
    #[target_feature(enable = "ssse3")]
    fn mul(x: __m128i, table: &(__m128i, __m128i)) -> __m128i {
        let nibble = _mm_set1_epi8(15);
        let low = _mm_shuffle_epi8(table.0, _mm_and_si128(x, nibble));
        let high = _mm_shuffle_epi8(table.1, _mm_and_si128(_mm_srli_epi64::<4>(x), nibble));
        xor(low, high)
    }

    loops!("ssse3", (__m128i, __m128i));
}
