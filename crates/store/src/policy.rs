//! Which segment to clean: cost-benefit, as pure arithmetic over live counts and ages.
//!
//! Utilisation is measured against what a segment holds when cleaning fills it: headers take their share, and a segment that
//! is as full as that would gain nothing.
//!
//! Cleaning a segment of utilisation `u` costs reading and writing `u` of it and gains `1 - u`; the gain lasts the longer
//! the longer the segment has been left alone. So the one with the highest `(1 - u) / (1 + u) * age` goes first.

/// What the policy needs to know of one candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate<T> {
    /// Its name for the caller.
    pub(crate) id: T,
    /// Bytes on drives that its live data would take in a segment that cleaning fills.
    pub(crate) live_bytes: u64,
    /// Bytes on drives that it takes.
    pub(crate) dense_bytes: u64,
    /// Commits since its last one.
    pub(crate) age: u64,
}

/// A segment fuller than this gains too little: parts of 1000.
const WORTHWHILE_PER_MILLE: u64 = 970;

/// Live bytes that fit a segment of `unit_bytes` that cleaning fills: pages less the segment's header and one header per 64
/// blocks.
pub(crate) fn dense_bytes(unit_bytes: u32) -> u64 {
    let pages = u64::from(unit_bytes / 4096) - 1;
    pages * 64 / 65 * 4096
}

/// The candidate to clean next; `None` when none is worth it.
pub(crate) fn victim<T: Copy>(candidates: impl Iterator<Item = Candidate<T>>) -> Option<T> {
    let score = |c: &Candidate<T>| {
        let free = u128::from(c.dense_bytes.saturating_sub(c.live_bytes));
        let cost = u128::from(c.dense_bytes + c.live_bytes);
        // The square root of the age: a uniform load is then cleaned nearly greedily, a skewed one still apart.
        free * u128::from(c.age.max(1).isqrt()) * 1024 / cost
    };
    candidates
        .filter(|c| c.live_bytes * 1000 <= c.dense_bytes * WORTHWHILE_PER_MILLE)
        .map(|c| (score(&c), c.id))
        .reduce(|best, c| if c.0 > best.0 { c } else { best })
        .map(|(_, id)| id)
}

/// From this pressure on hosts write no faster than cleaning lets them. Parts of 1000.
const PACED_FROM: u32 = 250;

/// How much hosts may write for what cleaning has moved, at a pressure of so many thousandths (0: there is as much free as
/// cleaning aims at; 1000: all but the reserve is taken). `None`: whatever they like.
///
/// The less is free the more the cleaner gets, in steps from 4 bytes for hosts for a byte moved down to an eighth: the step
/// at which cleaning gives back what hosts take is where the pool stays, above the reserve, so nobody runs into a wall. Hosts keep a ninth
/// of what is written whatever happens, and wait for no more than eight jobs of moves for a job's worth of their own.
pub(crate) fn hosts_for_moved(moved_bytes: u64, pressure: u32) -> Option<u64> {
    let over = pressure.min(1000).checked_sub(PACED_FROM)?;
    let steps = over * 5 / (1000 - PACED_FROM);
    Some((moved_bytes * 4) >> steps)
}

#[cfg(test)]
mod tests;
