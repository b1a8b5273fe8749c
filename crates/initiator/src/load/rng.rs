//! A small, fast, seeded generator for access patterns. Not for keys.

/// SplitMix64: one addition and three multiplications a number, full period, any seed.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The sequence that belongs to `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`, near enough to uniform (multiply-shift); 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.next_u64()) * u128::from(bound);
        u64::try_from(wide >> 64).expect("the upper half of a 128-bit product")
    }
}

/// A bijection that spreads every bit of `z` over all bits.
#[must_use]
pub(super) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_and_spreads() {
        let take = |seed| {
            std::iter::repeat_with({
                let mut r = Rng::new(seed);
                move || r.below(10)
            })
            .take(10_000)
            .collect::<Vec<_>>()
        };
        assert_eq!(take(1), take(1));
        assert_ne!(take(1), take(2));
        for digit in 0..10 {
            let n = take(3).iter().filter(|&&d| d == digit).count();
            assert!((800..1200).contains(&n), "{digit} came {n} times");
        }
        assert_eq!(Rng::new(9).below(0), 0);
    }
}
