//! Range locks: readers and writers over ranges of addresses, granted in the order of arrival.
//!
//! A claim takes one or more ranges at once and waits for every earlier claim that overlaps it in conflict (two readers
//! never conflict), whether that one is granted or waits itself. So overlapping claims are served strictly in order of
//! arrival, nobody starves, claims that do not overlap never wait for each other, and since a claim takes all of its
//! ranges in one step there is no cycle to lock up in.
//!
//! While they are few, the ranges of one volume stand in a list that is looked through from end to end: that many lie in a few
//! cache lines side by side. Mostly not even that: as long as all of them are single blocks, counts by a hash of the block say
//! that nobody is in the way. When they become more they all move to a treap ordered by start, each node knowing the furthest end
//! below it, and stay there until it is empty; nodes of all volumes of a core share one slab, so an uncontended claim costs no
//! allocation. Claim and release are O(log n + k) for k conflicts. A claim counts its blockers once; each release counts them down.
//!
//! Treap priorities come from a fixed sequence: hosts choose addresses, but not priorities, so they cannot unbalance it.

use std::ops::Range;

const NIL: u32 = u32::MAX;

/// Ranges of a volume that stand in a list at most.
const FEW: usize = 64;

/// Counts of single blocks: so many that two of a few blocks seldom share one.
const COUNTS: usize = 256;

const _: () = assert!(FEW <= u8::MAX as usize);

/// How a range is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// With other readers.
    Shared,
    /// Alone.
    Exclusive,
}

/// A set of ranges that is held or waited for. Must be given to [`LockTable::release`] exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim(u32);

/// The ranges of one volume.
#[derive(Debug)]
pub(crate) struct RangeLocks {
    /// All of them, while they are few.
    few: Vec<Few>,
    /// Of these, the ones that are a single block, counted by [`count_of`].
    counts: [u8; COUNTS],
    /// Of these, the longer ones.
    long: usize,
    /// The root of their treap otherwise: then the list is empty.
    root: u32,
    /// Claims that are not granted: while there are none, nobody has to be looked for when one is given up.
    waiting: u32,
    /// Ranges of all claims, granted and waiting.
    claimed: usize,
}

impl RangeLocks {
    pub(crate) fn new() -> RangeLocks {
        RangeLocks { few: Vec::new(), counts: [0; COUNTS], long: 0, root: NIL, waiting: 0, claimed: 0 }
    }

    /// Ranges that are held or waited for.
    #[inline]
    pub(crate) fn claimed(&self) -> usize {
        self.claimed
    }

    /// True when nothing is claimed.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.few.is_empty() && self.root == NIL
    }

    /// True when a look tells that nobody holds or waits for any of a range.
    pub(crate) fn is_free(&self, range: &Range<u64>) -> bool {
        self.root == NIL && self.is_clear(range)
    }

    /// True when a look at the counts tells that none of the few meets a range.
    fn is_clear(&self, range: &Range<u64>) -> bool {
        self.few.is_empty()
            || (self.long == 0 && is_block(range.start, range.end) && self.counts[count_of(range.start)] == 0)
    }

    /// One of the few comes.
    fn count(&mut self, few: &Few) {
        if is_block(few.start, few.end) {
            self.counts[count_of(few.start)] += 1;
        } else {
            self.long += 1;
        }
    }

    /// One of the few goes.
    fn discount(&mut self, few: &Few) {
        if is_block(few.start, few.end) {
            self.counts[count_of(few.start)] -= 1;
        } else {
            self.long -= 1;
        }
    }
}

fn is_block(start: u64, end: u64) -> bool {
    end - start == 1
}

/// Which count a block belongs to.
fn count_of(block: u64) -> usize {
    usize::from(block.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0])
}

/// A range in a list.
#[derive(Clone, Copy, Debug)]
struct Few {
    start: u64,
    end: u64,
    node: u32,
    mode: Mode,
}

#[derive(Clone, Debug)]
struct Node {
    start: u64,
    end: u64,
    /// The furthest `end` in the subtree below and including this node.
    max_end: u64,
    /// Arrival of the claim.
    order: u64,
    left: u32,
    right: u32,
    priority: u32,
    mode: Mode,
    /// Where in the list it stands, while it does.
    place: u32,
    /// First node of the claim, the one that counts.
    head: u32,
    /// Next node of the same claim.
    next: u32,
    /// Head only: pairs of (one of our ranges, one of an earlier claim) in conflict.
    blockers: u32,
    /// Head only: the caller's name for the claim.
    owner: u32,
}

/// The slab behind all range locks of a core.
#[derive(Debug)]
pub(crate) struct LockTable {
    nodes: Vec<Node>,
    free: Vec<u32>,
    limit: usize,
    arrivals: u64,
    seed: u32,
    /// Reused by every search.
    hits: Vec<u32>,
}

/// The table has as many ranges as it may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableFull;

impl LockTable {
    /// A table of at most `limit` ranges, `expected` of them without growing.
    pub(crate) fn new(expected: usize, limit: usize) -> LockTable {
        LockTable {
            nodes: Vec::with_capacity(expected),
            free: Vec::with_capacity(expected),
            limit: limit.min(NIL as usize),
            arrivals: 0,
            seed: 0x9e37_79b9,
            hits: Vec::new(),
        }
    }

    /// Ranges held or waited for.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    /// Claims all `ranges` (none empty) for `owner`. True in the second place: granted at once; otherwise `owner`
    /// turns up in the `granted` list of a later [`LockTable::release`].
    pub(crate) fn claim(
        &mut self,
        locks: &mut RangeLocks,
        owner: u32,
        ranges: &[(Range<u64>, Mode)],
    ) -> Result<(Claim, bool), TableFull> {
        assert!(!ranges.is_empty(), "a claim has a range");
        if self.len() + ranges.len() > self.limit {
            return Err(TableFull);
        }
        let mut blockers = 0;
        for (range, mode) in ranges {
            self.search(locks, range, *mode);
            blockers += u32::try_from(self.hits.len()).expect("fewer hits than nodes");
        }
        locks.waiting += u32::from(blockers > 0);
        locks.claimed += ranges.len();
        self.arrivals += 1;
        let mut head = NIL;
        for (range, mode) in ranges {
            let node = self.take_node(range, *mode, owner);
            if head == NIL {
                head = node;
                self.nodes[node as usize].blockers = blockers;
            } else {
                self.nodes[node as usize].next = self.nodes[head as usize].next;
                self.nodes[head as usize].next = node;
            }
            self.nodes[node as usize].head = head;
            self.put(locks, Few { start: range.start, end: range.end, node, mode: *mode });
        }
        Ok((Claim(head), blockers == 0))
    }

    /// Gives a claim up, granted or waiting; owners of claims that are granted by that are appended to `granted`, in
    /// order of arrival.
    pub(crate) fn release(&mut self, locks: &mut RangeLocks, claim: Claim, granted: &mut Vec<u32>) {
        let mut node = claim.0;
        while node != NIL {
            locks.claimed -= 1;
            if locks.root == NIL {
                self.take_out(locks, node);
            } else {
                locks.root = self.remove(locks.root, node);
            }
            node = self.nodes[node as usize].next;
        }
        locks.waiting -= u32::from(self.nodes[claim.0 as usize].blockers > 0);
        let mut freed = Vec::new();
        let mut node = claim.0;
        while node != NIL {
            let Node { start, end, mode, order, next, .. } = self.nodes[node as usize];
            if locks.waiting > 0 {
                self.search(locks, &(start..end), mode);
                for i in 0..self.hits.len() {
                    let hit = &self.nodes[self.hits[i] as usize];
                    if hit.order > order {
                        let head = hit.head;
                        let first = &mut self.nodes[head as usize];
                        first.blockers -= 1;
                        if first.blockers == 0 {
                            locks.waiting -= 1;
                            freed.push((first.order, first.owner));
                        }
                    }
                }
            }
            self.free.push(node);
            node = next;
        }
        freed.sort_unstable();
        granted.extend(freed.into_iter().map(|(_, owner)| owner));
    }

    fn take_node(&mut self, range: &Range<u64>, mode: Mode, owner: u32) -> u32 {
        assert!(range.start < range.end, "a claimed range is not empty");
        // xorshift32
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 17;
        self.seed ^= self.seed << 5;
        let node = Node {
            start: range.start,
            end: range.end,
            max_end: range.end,
            order: self.arrivals,
            left: NIL,
            right: NIL,
            priority: self.seed,
            mode,
            place: 0,
            head: NIL,
            next: NIL,
            blockers: 0,
            owner,
        };
        if let Some(free) = self.free.pop() {
            self.nodes[free as usize] = node;
            return free;
        }
        self.nodes.push(node);
        u32::try_from(self.nodes.len() - 1).expect("the limit is below 2^32")
    }

    /// Takes a range in.
    fn put(&mut self, locks: &mut RangeLocks, new: Few) {
        if locks.root == NIL && locks.few.len() < FEW {
            self.nodes[new.node as usize].place = u32::try_from(locks.few.len()).expect("they are few");
            locks.count(&new);
            return locks.few.push(new);
        }
        (locks.counts, locks.long) = ([0; COUNTS], 0);
        for few in locks.few.drain(..).chain([new]) {
            locks.root = self.insert(locks.root, few.node);
        }
    }

    /// Takes a range out of the list; the last one takes its place.
    fn take_out(&mut self, locks: &mut RangeLocks, node: u32) {
        let place = self.nodes[node as usize].place;
        let gone = locks.few.swap_remove(place as usize);
        assert_eq!(gone.node, node, "a node knows its place");
        locks.discount(&gone);
        if let Some(moved) = locks.few.get(place as usize) {
            self.nodes[moved.node as usize].place = place;
        }
    }

    /// Puts the nodes that overlap `range` in conflict with `mode` into `self.hits`.
    fn search(&mut self, locks: &RangeLocks, range: &Range<u64>, mode: Mode) {
        self.hits.clear();
        if locks.is_free(range) {
            return;
        }
        let mut hits = std::mem::take(&mut self.hits);
        let meets = |few: &&Few| {
            let conflict = mode == Mode::Exclusive || few.mode == Mode::Exclusive;
            conflict && few.start < range.end && few.end > range.start
        };
        hits.extend(locks.few.iter().filter(meets).map(|few| few.node));
        self.visit(locks.root, range, mode, &mut hits);
        self.hits = hits;
    }

    fn visit(&self, at: u32, range: &Range<u64>, mode: Mode, hits: &mut Vec<u32>) {
        if at == NIL {
            return;
        }
        let node = &self.nodes[at as usize];
        if node.max_end <= range.start {
            return;
        }
        self.visit(node.left, range, mode, hits);
        if node.start < range.end {
            let conflict = mode == Mode::Exclusive || node.mode == Mode::Exclusive;
            if conflict && node.end > range.start {
                hits.push(at);
            }
            self.visit(node.right, range, mode, hits);
        }
    }

    fn key(&self, node: u32) -> (u64, u32) {
        (self.nodes[node as usize].start, node)
    }

    /// Recomputes what a node knows of its subtree.
    fn pull(&mut self, at: u32) {
        let Node { left, right, end, .. } = self.nodes[at as usize];
        let below = |n: u32| if n == NIL { 0 } else { self.nodes[n as usize].max_end };
        let max_end = end.max(below(left)).max(below(right));
        self.nodes[at as usize].max_end = max_end;
    }

    fn insert(&mut self, root: u32, new: u32) -> u32 {
        if root == NIL {
            return new;
        }
        if self.nodes[new as usize].priority > self.nodes[root as usize].priority {
            let (left, right) = self.split(root, self.key(new));
            self.nodes[new as usize].left = left;
            self.nodes[new as usize].right = right;
            self.pull(new);
            return new;
        }
        if self.key(new) < self.key(root) {
            let left = self.insert(self.nodes[root as usize].left, new);
            self.nodes[root as usize].left = left;
        } else {
            let right = self.insert(self.nodes[root as usize].right, new);
            self.nodes[root as usize].right = right;
        }
        self.pull(root);
        root
    }

    /// Cuts a subtree into the nodes below `key` and those above.
    fn split(&mut self, root: u32, key: (u64, u32)) -> (u32, u32) {
        if root == NIL {
            return (NIL, NIL);
        }
        if self.key(root) < key {
            let (low, high) = self.split(self.nodes[root as usize].right, key);
            self.nodes[root as usize].right = low;
            self.pull(root);
            (root, high)
        } else {
            let (low, high) = self.split(self.nodes[root as usize].left, key);
            self.nodes[root as usize].left = high;
            self.pull(root);
            (low, root)
        }
    }

    fn remove(&mut self, root: u32, gone: u32) -> u32 {
        assert!(root != NIL, "a node to remove is in its tree");
        let Node { left, right, .. } = self.nodes[root as usize];
        if root == gone {
            return self.merge(left, right);
        }
        if self.key(gone) < self.key(root) {
            let left = self.remove(left, gone);
            self.nodes[root as usize].left = left;
        } else {
            let right = self.remove(right, gone);
            self.nodes[root as usize].right = right;
        }
        self.pull(root);
        root
    }

    fn merge(&mut self, low: u32, high: u32) -> u32 {
        if low == NIL || high == NIL {
            return if low == NIL { high } else { low };
        }
        if self.nodes[low as usize].priority > self.nodes[high as usize].priority {
            let right = self.merge(self.nodes[low as usize].right, high);
            self.nodes[low as usize].right = right;
            self.pull(low);
            low
        } else {
            let left = self.merge(low, self.nodes[high as usize].left);
            self.nodes[high as usize].left = left;
            self.pull(high);
            high
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Ranges = Vec<(Range<u64>, Mode)>;

    /// Claims in order of arrival; granted when no earlier one conflicts. Nothing else.
    #[derive(Default)]
    struct Model {
        claims: Vec<(u32, Ranges)>,
    }

    impl Model {
        fn granted(&self, owner: u32) -> bool {
            let at = self.claims.iter().position(|c| c.0 == owner).unwrap();
            let conflict = |a: &(Range<u64>, Mode), b: &(Range<u64>, Mode)| {
                a.0.start < b.0.end
                    && b.0.start < a.0.end
                    && (a.1 == Mode::Exclusive || b.1 == Mode::Exclusive)
            };
            let mine = &self.claims[at].1;
            !self.claims[..at].iter().any(|(_, r)| r.iter().any(|a| mine.iter().any(|b| conflict(a, b))))
        }
    }

    fn random(seed: &mut u64) -> u64 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *seed >> 33
    }

    #[test]
    fn grants_like_the_model() {
        for start_seed in 0..60u64 {
            let mut seed = start_seed;
            // Few ranges at a time, or so many that they move to the treap and back.
            let more = if start_seed.is_multiple_of(10) { 10 } else { 3 };
            let mut table = LockTable::new(4, 1000);
            let (mut locks, mut model) = (RangeLocks::new(), Model::default());
            let mut claims: Vec<(u32, Claim)> = Vec::new();
            let mut is_granted = std::collections::BTreeSet::new();
            for owner in 0..400u32 {
                let grows = if owner / 40 % 2 == 0 { 3 } else { 1 };
                if random(&mut seed) % 5 < grows {
                    let ranges: Vec<_> = (0..1 + random(&mut seed) % more)
                        .map(|_| {
                            let start = random(&mut seed) % (22 * more);
                            let end = start + 1 + random(&mut seed) % 12;
                            let write = random(&mut seed).is_multiple_of(2);
                            (start..end, if write { Mode::Exclusive } else { Mode::Shared })
                        })
                        .collect();
                    let (claim, now) = table.claim(&mut locks, owner, &ranges).unwrap();
                    model.claims.push((owner, ranges));
                    claims.push((owner, claim));
                    if now {
                        is_granted.insert(owner);
                    }
                } else if !claims.is_empty() {
                    let pick = usize::try_from(random(&mut seed)).unwrap() % claims.len();
                    let (owner, claim) = claims.swap_remove(pick);
                    let mut woken = Vec::new();
                    table.release(&mut locks, claim, &mut woken);
                    model.claims.retain(|c| c.0 != owner);
                    is_granted.remove(&owner);
                    assert!(woken.is_sorted(), "woken in order of arrival");
                    for w in woken {
                        assert!(is_granted.insert(w), "woken once");
                    }
                }
                assert_eq!(locks.is_empty(), claims.is_empty());
                for (owner, _) in &claims {
                    assert_eq!(is_granted.contains(owner), model.granted(*owner), "seed {start_seed}");
                }
            }
            for (_, claim) in claims {
                table.release(&mut locks, claim, &mut Vec::new());
            }
            assert_eq!((table.len(), locks.root, locks.few.len()), (0, NIL, 0));
        }
    }

    #[test]
    fn a_full_table_refuses_and_stays_usable() {
        let mut table = LockTable::new(0, 2);
        let mut locks = RangeLocks::new();
        let (a, _) = table.claim(&mut locks, 1, &[(0..1, Mode::Shared), (5..6, Mode::Shared)]).unwrap();
        assert_eq!(table.claim(&mut locks, 2, &[(0..1, Mode::Shared)]), Err(TableFull));
        table.release(&mut locks, a, &mut Vec::new());
        assert!(table.claim(&mut locks, 2, &[(0..1, Mode::Shared)]).unwrap().1);
    }

    #[test]
    fn stays_shallow_for_addresses_in_order() {
        let mut table = LockTable::new(0, 20_000);
        let mut locks = RangeLocks::new();
        for i in 0..20_000u32 {
            table.claim(&mut locks, i, &[(u64::from(i)..u64::from(i) + 1, Mode::Exclusive)]).unwrap();
        }
        fn depth(t: &LockTable, at: u32) -> usize {
            if at == NIL {
                return 0;
            }
            let n = &t.nodes[at as usize];
            1 + depth(t, n.left).max(depth(t, n.right))
        }
        assert!(depth(&table, locks.root) < 60, "{}", depth(&table, locks.root));
    }
}
