//! How many drives the pool can do without, as its superblock remembers it.
//!
//! The invariant: **no drive is ever written down as out without which something that a shard holds can't be had.** A pool is made to lose m
//! drives, but what it holds may stand less: until a lost drive is made good, and what was written while there were too few drives for
//! m parity columns. Neither shows in the states of the drives, since one that is empty leaves the table, and others come. So beside them:
//!
//! ```text
//!   deficit   whatever shards hold can be had without any m - deficit of the drives that count
//!   fresh     drives that joined since: whatever shards hold can be had without all of them besides, as long as no more than m go
//!
//!   drives go             each one that is not fresh adds one to the deficit, which is no less than their number; nothing is fresh
//!                         any more. With a deficit above m it must not be: the pool stops, or does not start
//!   one joins             fresh, if there is a deficit
//!   re-protection         once shards hold nothing with fewer parity columns, the deficit is the number of drives that are out and have
//!                         columns of something
//! ```
//! It holds for what is begun at any time, too. With a > m drives in service that has m parity columns. With fewer it has a copy on each of
//! them, and b of them are not fresh, with b + deficit > m: so many can't go, and one of them has the copy.
//! Nothing but a superblock changes any of this: what it says is durable before anything is held that needs it.

use crate::DriveState;
use crate::format::superblock::{DriveEntry, Superblock};

impl Superblock {
    /// Drives that can be lost, whichever they are.
    pub(crate) fn spare(&self) -> u8 {
        self.parity.saturating_sub(self.deficit)
    }

    /// Puts drives out; false when something may be held that can't be had without them. What the superblock says then is not to be
    /// written.
    #[must_use]
    pub(crate) fn lose(&mut self, places: impl IntoIterator<Item = usize>) -> bool {
        let (mut lost, mut needed) = (0, 0);
        for place in places {
            let drive = &mut self.drives[place];
            drive.state = DriveState::Out;
            lost += 1;
            needed += usize::from(!drive.fresh);
        }
        if lost == 0 {
            return true;
        }
        self.drives.iter_mut().for_each(|d| d.fresh = false);
        let deficit = lost.max(needed + usize::from(self.deficit));
        let can = deficit <= usize::from(self.parity) && self.drives.iter().any(|d| d.state.counts());
        self.deficit = u8::try_from(deficit).unwrap_or(u8::MAX).min(self.parity);
        can
    }

    /// Gives a drive that joins its place: a new one at the end of the table, or one that is free.
    pub(crate) fn seat(&mut self, place: usize, drive: DriveEntry) {
        if place == self.drives.len() {
            self.drives.push(drive);
        } else {
            self.drives[place] = drive;
        }
        self.drives[place].fresh = self.deficit > 0;
    }

    /// True when less than before is not made good: shards hold nothing with fewer than m parity columns, and something that has
    /// columns on so many drives that are out.
    pub(crate) fn gains(&self, out: usize) -> bool {
        self.has_enough() && out < usize::from(self.deficit)
    }

    /// Says so.
    pub(crate) fn make_good(&mut self, out: usize) {
        if self.gains(out) {
            self.deficit = u8::try_from(out).expect("it is less than before");
        }
    }

    /// True when segments are begun with m parity columns.
    pub(crate) fn has_enough(&self) -> bool {
        self.in_service() > usize::from(self.parity)
    }

    /// True when the deficit covers what is begun with the drives in service.
    pub(crate) fn covers_new(&self) -> bool {
        self.in_service() + usize::from(self.deficit) > usize::from(self.parity)
    }

    /// Drives that segments are begun on.
    fn in_service(&self) -> usize {
        self.drives.iter().filter(|d| d.state == DriveState::In).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dolmen_types::Uuid;

    fn entry() -> DriveEntry {
        DriveEntry {
            uuid: Uuid::NIL,
            units: 9,
            state: DriveState::In,
            fresh: false,
            serial: String::new(),
            path: String::new(),
        }
    }

    fn pool(drives: usize, parity: u8) -> Superblock {
        Superblock {
            sequence: 1,
            pool: Uuid::NIL,
            index: 0,
            incarnation: 1,
            shards: 1,
            parity,
            deficit: 0,
            unit_bytes: 1 << 20,
            drives: vec![entry(); drives],
        }
    }

    /// A segment as the model knows it: the drives of its columns, and how many of them it can do without.
    struct Held {
        drives: Vec<usize>,
        parity: usize,
    }

    impl Held {
        /// It can be had, and without as many more drives as the superblock says: m - deficit, and the fresh ones, but not more than m.
        fn check(&self, block: &Superblock) {
            let m = usize::from(block.parity);
            let there = || self.drives.iter().map(|&d| &block.drives[d]).filter(|d| d.state.counts());
            let lost = self.drives.len() - there().count();
            assert!(lost <= self.parity, "{:?} of {block:?}", self.drives);
            let fresh = there().filter(|d| d.fresh).count();
            let others = (there().count() - fresh).min(m - usize::from(block.deficit));
            assert!(self.parity - lost >= m.min(fresh + others), "{:?} of {block:?}", self.drives);
        }
    }

    /// Places of drives that stand so.
    fn places(block: &Superblock, state: DriveState) -> Vec<usize> {
        (0..block.drives.len()).filter(|&i| block.drives[i].state == state).collect()
    }

    /// Drives go, come and are emptied, segments are begun on any of them and moved or not: what the superblock allows never costs one.
    /// Nor is much forbidden that would not.
    #[test]
    fn nothing_held_is_ever_lost() {
        let mut noise = 7u64;
        let mut below = |n: usize| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(noise >> 33).unwrap() % n
        };
        let (mut forbidden, mut allowed, mut few) = (0, 0, 0);
        for round in 0..2000 {
            let m = 1 + round % 2;
            let mut block = pool(1 + m + below(3), u8::try_from(m).unwrap());
            let mut held: Vec<Held> = Vec::new();
            for _ in 0..30 {
                let inside = places(&block, DriveState::In);
                match below(9) {
                    0 => {
                        let mut next = block.clone();
                        let counted = block.drives.iter().enumerate().filter(|(_, d)| d.state.counts());
                        let go: Vec<usize> = counted.map(|(i, _)| i).filter(|_| below(3) == 0).collect();
                        let (can, count) = (next.lose(go.iter().copied()), go.len());
                        allowed += usize::from(can && count > 0);
                        forbidden += usize::from(!can && count == 1);
                        if can {
                            block = next;
                        }
                    }
                    1 if block.drives.len() < 12 => block.seat(block.drives.len(), entry()),
                    2 => {
                        // Re-protection has moved some, or all.
                        let good = |h: &Held| {
                            h.parity == m && h.drives.iter().all(|&d| block.drives[d].state == DriveState::In)
                        };
                        held.retain(|h| good(h) || below(2) == 0);
                        for i in 0..block.drives.len() {
                            if block.drives[i].state != DriveState::In
                                && !held.iter().any(|h| h.drives.contains(&i))
                            {
                                block.drives[i].state = DriveState::Gone;
                            }
                        }
                        if held.iter().all(|h| h.parity == m) {
                            block.make_good(places(&block, DriveState::Out).len());
                        }
                    }
                    3 => {
                        // One is to leave if enough remain, or stays after all.
                        let leaving = places(&block, DriveState::Leaving);
                        if inside.len() > 1 + m {
                            block.drives[inside[below(inside.len())]].state = DriveState::Leaving;
                        } else if let Some(&i) = leaving.first() {
                            block.drives[i].state = DriveState::In;
                        }
                    }
                    _ => {
                        let parity = m.min(inside.len() - 1);
                        let data = 1 + below(inside.len() - parity);
                        let from = below(inside.len());
                        let drives = (0..data + parity).map(|i| inside[(from + i) % inside.len()]).collect();
                        held.push(Held { drives, parity });
                        few += usize::from(parity < m && inside.iter().any(|&i| block.drives[i].fresh));
                    }
                }
                assert!(block.covers_new(), "{block:?}");
                held.iter().for_each(|h| h.check(&block));
            }
        }
        assert!(allowed > 1000 && forbidden > 100 && few > 100, "{allowed}, {forbidden}, {few}");
    }

    /// Three copies, of which one is left: drives that come may all go again, whether or not they are enough for all copies by then.
    #[test]
    fn whoever_comes_to_the_last_copy_may_go_again() {
        let mut block = pool(3, 2);
        assert!(block.lose([1, 2]) && block.deficit == 2);
        block.seat(1, entry());
        assert!(block.clone().lose([1]) && !block.clone().lose([0]));
        block.seat(2, entry());
        assert!(block.clone().lose([1, 2]) && !block.clone().lose([0]));
        assert!(block.lose([1]) && !block.clone().lose([2]) && !block.lose([0]));
    }

    #[test]
    fn a_mirror_is_counted_down_and_up() {
        let mut block = pool(2, 1);
        assert!(block.lose([1]) && block.spare() == 0);
        assert!(!block.clone().lose([0]));
        block.seat(2, entry());
        assert!(block.drives[2].fresh && !block.clone().lose([0]) && !block.clone().lose([0, 2]));
        let mut once_more = block.clone();
        assert!(once_more.lose([2]) && !once_more.lose([0]));
        block.make_good(0);
        assert!(block.clone().lose([0]) && block.clone().lose([2]) && !block.lose([0, 2]));
        assert!(!pool(1, 0).lose([0]));
    }
}
