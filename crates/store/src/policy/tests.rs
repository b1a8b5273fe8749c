//! The policy on a simulated pool: random overwrites for ever, hot and cold streams, nothing but counts.

use super::*;

const PAGES: u64 = 256;

/// A small, fast, seeded generator; quality enough for addresses.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

#[derive(Clone, Default)]
struct Unit {
    blocks: Vec<usize>,
    live: u64,
    last: u64,
    closed: bool,
}

/// Units, the place of each block, and the two open units.
struct Pool {
    units: Vec<Unit>,
    place: Vec<usize>,
    free: Vec<usize>,
    open: [usize; 2],
    clock: u64,
    moved: u64,
}

impl Pool {
    fn new(units: usize, blocks: usize) -> Pool {
        let mut free: Vec<usize> = (0..units).rev().collect();
        let open = [free.pop().unwrap(), free.pop().unwrap()];
        let mut pool = Pool {
            units: vec![Unit::default(); units],
            place: vec![usize::MAX; blocks],
            free,
            open,
            clock: 0,
            moved: 0,
        };
        (0..blocks).for_each(|b| pool.put(b, 0));
        pool
    }

    fn put(&mut self, block: usize, stream: usize) {
        let old = std::mem::replace(&mut self.place[block], self.open[stream]);
        if old != usize::MAX {
            self.units[old].live -= 1;
        }
        self.clock += 1;
        let unit = &mut self.units[self.open[stream]];
        unit.blocks.push(block);
        unit.live += 1;
        unit.last = self.clock;
        // One page of 65 is a header.
        if unit.blocks.len() as u64 == (PAGES - 1) * 64 / 65 {
            unit.closed = true;
            self.open[stream] = self.free.pop().expect("cleaning keeps up");
        }
    }

    fn clean(&mut self, reserve: usize) {
        let dense = dense_bytes(u32::try_from(PAGES * 4096).unwrap());
        while self.free.len() < reserve {
            let candidates =
                self.units.iter().enumerate().filter(|(_, u)| u.closed).map(|(id, u)| Candidate {
                    id,
                    live_bytes: u.live * 4096,
                    dense_bytes: dense,
                    age: (self.clock - u.last) / 32 + 1,
                });
            let id = victim(candidates).expect("something to gain");
            let unit = std::mem::take(&mut self.units[id]);
            for &block in &unit.blocks {
                if self.place[block] == id {
                    self.place[block] = usize::MAX;
                    self.moved += 1;
                    self.put(block, 1);
                }
            }
            self.free.push(id);
        }
    }
}

/// Drive bytes per host byte, map and commit headers of host writes aside, at `percent` of the pool less a reserve of 7 %.
fn amplification(percent: u64, hot_percent: u64) -> f64 {
    let units = 256;
    let capacity = units as u64 * PAGES * 93 / 100;
    let blocks = usize::try_from(capacity * percent / 100).unwrap();
    let mut pool = Pool::new(units, blocks);
    let mut random = Random(9);
    let hot = blocks as u64 / 10;
    let (mut host, mut counted) = (0u64, 0u64);
    for i in 0..8 * blocks as u64 {
        if i == 4 * blocks as u64 {
            (pool.moved, counted) = (0, host);
        }
        let in_hot = random.below(100) < hot_percent;
        let block = if in_hot { random.below(hot) } else { random.below(blocks as u64) };
        pool.put(usize::try_from(block).unwrap(), 0);
        host += 1;
        pool.clean(8);
    }
    1.0 + pool.moved as f64 / (host - counted) as f64
}

#[test]
fn overwriting_for_ever_costs_what_the_theory_says() {
    let figures = [(75, 0), (80, 0), (80, 90)].map(|(p, h)| (p, h, amplification(p, h)));
    for (percent, hot, wa) in figures {
        println!("{percent} % full, {hot} % of the writes to a tenth: {wa:.2} drive bytes per host byte");
    }
    assert!(figures[0].2 <= 2.6, "{figures:?}");
    assert!(figures[1].2 <= 3.5, "{figures:?}");
    assert!(figures[2].2 <= figures[1].2, "skew must help: {figures:?}");
}

#[test]
fn leaves_full_segments_alone() {
    let dense = dense_bytes(64 * 1024);
    let full = Candidate { id: 1, live_bytes: dense, dense_bytes: dense, age: 1000 };
    assert_eq!(victim([full].into_iter()), None);
    let sparse = Candidate { id: 2, live_bytes: dense / 2, dense_bytes: dense, age: 1 };
    assert_eq!(victim([full, sparse].into_iter()), Some(2));
    let old = Candidate { id: 3, live_bytes: dense / 2, dense_bytes: dense, age: 100 };
    assert_eq!(victim([full, sparse, old].into_iter()), Some(3));
    assert_eq!(
        victim([Candidate { id: 4, live_bytes: u64::MAX / 2000, dense_bytes: 0, age: 1 }].into_iter()),
        None
    );
}
