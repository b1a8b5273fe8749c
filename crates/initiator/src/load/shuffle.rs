//! All numbers below a bound in an order that looks like chance, each once, without a list of them.
//!
//! A few steps that can be undone, over the numbers of so many bits as the bound has, put those into another order; what comes out
//! beyond the bound goes in once more, until it is below, which takes less than two rounds on average.

use super::rng::Rng;

/// Steps of a round.
const STEPS: usize = 4;

/// One order of the numbers below a bound.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shuffle {
    bound: u64,
    /// The bits that the numbers have.
    mask: u64,
    shift: u32,
    /// What each step adds, and multiplies with, which is odd.
    keys: [(u64, u64); STEPS],
}

impl Shuffle {
    /// An order of the numbers below `bound`, which is not 0.
    pub(super) fn new(bound: u64, rng: &mut Rng) -> Shuffle {
        let bits = (u64::BITS - (bound - 1).leading_zeros()).max(1);
        let keys = [(); STEPS].map(|()| (rng.next_u64(), rng.next_u64() | 1));
        Shuffle { bound, mask: u64::MAX >> (u64::BITS - bits), shift: bits.div_ceil(2), keys }
    }

    /// The number at a place; places are below the bound too.
    pub(super) fn at(&self, place: u64) -> u64 {
        debug_assert!(place < self.bound, "there are as many places as numbers");
        let mut number = place;
        loop {
            for (add, multiply) in self.keys {
                number = number.wrapping_add(add).wrapping_mul(multiply) & self.mask;
                number ^= number >> self.shift;
            }
            if number < self.bound {
                return number;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_comes_once() {
        for bound in (1..=130).chain([1000, 4096, 4097, 65_537]) {
            let shuffle = Shuffle::new(bound, &mut Rng::new(bound));
            let mut all: Vec<u64> = (0..bound).map(|place| shuffle.at(place)).collect();
            all.sort_unstable();
            assert!(all.iter().copied().eq(0..bound), "{bound}: {all:?}");
        }
        // Nothing is too large.
        let shuffle = Shuffle::new(u64::MAX, &mut Rng::new(1));
        assert_ne!(shuffle.at(0), shuffle.at(u64::MAX - 1));
    }

    #[test]
    fn the_order_looks_like_chance_and_another_seed_makes_another() {
        let bound = 100_000;
        let of = |seed| Shuffle::new(bound, &mut Rng::new(seed));
        let (one, other) = (of(1), of(2));
        let alike = (0..bound).filter(|&place| one.at(place) == other.at(place)).count();
        assert!(alike < 20, "{alike} places have the same number");
        // Steps from one to the next are of every length: a third of the range on average.
        let steps: u64 = (1..bound).map(|place| one.at(place).abs_diff(one.at(place - 1))).sum();
        let mean = steps / (bound - 1);
        assert!((bound / 3).abs_diff(mean) < bound / 30, "{mean}");
        for tenth in 0..10 {
            let first: u64 =
                (0..bound / 10).filter(|&place| one.at(place) / (bound / 10) == tenth).count() as u64;
            assert!((800..1200).contains(&first), "{first} of tenth {tenth} come in the first tenth");
        }
    }
}
