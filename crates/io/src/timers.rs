//! Timers of one core: an indexed heap whose entries are re-armed lazily.
//!
//! A keep-alive timer is moved later with every command and almost never fires. Moving a timer later therefore only
//! stores the new deadline in its slot; the heap keeps the old, smaller key, and the entry is sifted to its place when
//! it reaches the top. So re-arming costs one store, and nothing is allocated once the slots exist.
//!
//! Invariants: a slot in use has exactly one heap entry, at `heap[slot.position]`; an entry's key is at most its slot's
//! deadline; a [`TimerId`] whose generation differs from its slot's names a timer that is over.

use crate::Tag;
use dolmen_types::Nanos;

/// A timer that was armed. Stale ids (fired, cancelled) are harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerId {
    slot: u32,
    generation: u32,
}

struct Slot {
    tag: Tag,
    deadline: Nanos,
    generation: u32,
    position: u32,
}

#[derive(Clone, Copy)]
struct Entry {
    key: Nanos,
    slot: u32,
}

/// Position of a slot that is not in use.
const FREE: u32 = u32::MAX;

/// The timers of one core, at most `limit` at a time.
pub struct Timers {
    slots: Vec<Slot>,
    free: Vec<u32>,
    heap: Vec<Entry>,
    limit: usize,
}

impl Timers {
    /// No timers yet, and room for `limit` at a time.
    #[must_use]
    pub fn new(limit: usize) -> Timers {
        Timers { slots: Vec::new(), free: Vec::new(), heap: Vec::new(), limit }
    }

    /// Timers that are armed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// True when no timer is armed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Arms a timer that fires once, at `at`.
    ///
    /// # Panics
    /// When `limit` timers are armed: their owners are bounded, so that is a leak.
    pub fn arm(&mut self, tag: Tag, at: Nanos) -> TimerId {
        assert!(self.heap.len() < self.limit, "more than {} timers on one core: a leak", self.limit);
        let position = index(self.heap.len());
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(Slot { tag, deadline: at, generation: 0, position: FREE });
                index(self.slots.len() - 1)
            }
        };
        let s = &mut self.slots[slot as usize];
        (s.tag, s.deadline, s.position) = (tag, at, position);
        let generation = s.generation;
        self.heap.push(Entry { key: at, slot });
        self.sift_up(position as usize);
        TimerId { slot, generation }
    }

    /// Moves a timer to `at`; false when it is over (fired or cancelled) and nothing was done.
    pub fn rearm(&mut self, id: TimerId, at: Nanos) -> bool {
        let Some(slot) = self.live(id) else { return false };
        let position = self.slots[slot].position as usize;
        self.slots[slot].deadline = at;
        if at < self.heap[position].key {
            self.heap[position].key = at;
            self.sift_up(position);
        }
        true
    }

    /// Disarms a timer; false when it was over already.
    pub fn cancel(&mut self, id: TimerId) -> bool {
        let Some(slot) = self.live(id) else { return false };
        self.remove(self.slots[slot].position as usize);
        true
    }

    /// When the next timer fires.
    pub fn next_deadline(&mut self) -> Option<Nanos> {
        self.settle();
        self.heap.first().map(|e| e.key)
    }

    /// Takes one timer whose time has come at `now`; earliest first.
    pub fn expire(&mut self, now: Nanos) -> Option<Tag> {
        if self.heap.first()?.key > now {
            return None;
        }
        self.settle();
        let first = *self.heap.first().filter(|e| e.key <= now)?;
        self.remove(0);
        Some(self.slots[first.slot as usize].tag)
    }

    fn live(&self, id: TimerId) -> Option<usize> {
        let slot = self.slots.get(id.slot as usize)?;
        (slot.generation == id.generation && slot.position != FREE).then_some(id.slot as usize)
    }

    /// Sifts lazily re-armed entries down until the first one's key is its deadline.
    fn settle(&mut self) {
        while let Some(&Entry { key, slot }) = self.heap.first() {
            let deadline = self.slots[slot as usize].deadline;
            if key == deadline {
                return;
            }
            self.heap[0].key = deadline;
            self.sift_down(0);
        }
    }

    fn remove(&mut self, position: usize) {
        let entry = self.heap.swap_remove(position);
        let slot = &mut self.slots[entry.slot as usize];
        slot.position = FREE;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(entry.slot);
        if position < self.heap.len() {
            self.sift_down(position);
            self.sift_up(position);
        }
    }

    fn place(&mut self, position: usize, entry: Entry) {
        self.heap[position] = entry;
        self.slots[entry.slot as usize].position = index(position);
    }

    fn sift_up(&mut self, mut position: usize) {
        let entry = self.heap[position];
        while position > 0 {
            let parent = (position - 1) / 2;
            if self.heap[parent].key <= entry.key {
                break;
            }
            self.place(position, self.heap[parent]);
            position = parent;
        }
        self.place(position, entry);
    }

    fn sift_down(&mut self, mut position: usize) {
        let entry = self.heap[position];
        loop {
            let mut child = 2 * position + 1;
            if child + 1 < self.heap.len() && self.heap[child + 1].key < self.heap[child].key {
                child += 1;
            }
            if child >= self.heap.len() || entry.key <= self.heap[child].key {
                break;
            }
            self.place(position, self.heap[child]);
            position = child;
        }
        self.place(position, entry);
    }
}

fn index(n: usize) -> u32 {
    u32::try_from(n).expect("far fewer than 2^32 timers")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Owner;

    fn tag(key: u64) -> Tag {
        Tag { owner: Owner(1), key }
    }

    #[test]
    fn fires_in_order_and_once() {
        let mut t = Timers::new(8);
        for (k, at) in [(1, 30), (2, 10), (3, 20)] {
            t.arm(tag(k), Nanos(at));
        }
        assert_eq!(t.next_deadline(), Some(Nanos(10)));
        assert_eq!(t.expire(Nanos(9)), None);
        let fired: Vec<u64> = std::iter::from_fn(|| t.expire(Nanos(25))).map(|t| t.key).collect();
        assert_eq!(fired, [2, 3]);
        assert_eq!(t.len(), 1);
    }

    #[test]
    fn a_stale_id_does_nothing_to_its_slots_next_user() {
        let mut t = Timers::new(8);
        let old = t.arm(tag(1), Nanos(5));
        assert_eq!(t.expire(Nanos(5)), Some(tag(1)));
        t.arm(tag(2), Nanos(6));
        assert!(!t.cancel(old));
        assert!(!t.rearm(old, Nanos(100)));
        assert_eq!(t.expire(Nanos(6)), Some(tag(2)));
    }

    /// Random arms, re-arms, cancels and expiries against a plain list.
    #[test]
    fn agrees_with_a_list() {
        let mut rng = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = move |n: u64| {
            rng ^= rng << 13;
            rng ^= rng >> 7;
            rng ^= rng << 17;
            rng % n
        };
        let mut timers = Timers::new(1000);
        let mut model: Vec<(TimerId, u64, u64)> = Vec::new(); // id, key, deadline
        let (mut now, mut over) = (0u64, Vec::new());
        for key in 0..60_000u64 {
            match next(10) {
                0..=2 if model.len() < 1000 => {
                    let at = now + next(500);
                    model.push((timers.arm(tag(key), Nanos(at)), key, at));
                }
                3..=6 if !model.is_empty() => {
                    let i = usize::try_from(next(model.len() as u64)).unwrap();
                    let at = if next(3) == 0 { now + next(50) } else { model[i].2 + next(500) };
                    assert!(timers.rearm(model[i].0, Nanos(at)));
                    model[i].2 = at;
                }
                7 if !model.is_empty() => {
                    let i = usize::try_from(next(model.len() as u64)).unwrap();
                    let (id, ..) = model.swap_remove(i);
                    assert!(timers.cancel(id));
                    over.push(id);
                }
                8 if !over.is_empty() => {
                    let i = usize::try_from(next(over.len() as u64)).unwrap();
                    assert!(!timers.rearm(over[i], Nanos(now)));
                }
                _ => {
                    now += next(60);
                    let mut fired: Vec<u64> =
                        std::iter::from_fn(|| timers.expire(Nanos(now))).map(|t| t.key).collect();
                    let mut due: Vec<u64> = model.iter().filter(|m| m.2 <= now).map(|m| m.1).collect();
                    over.extend(model.iter().filter(|m| m.2 <= now).map(|m| m.0));
                    model.retain(|m| m.2 > now);
                    fired.sort_unstable();
                    due.sort_unstable();
                    assert_eq!(fired, due);
                }
            }
            assert_eq!(timers.len(), model.len());
            assert_eq!(timers.next_deadline(), model.iter().map(|m| Nanos(m.2)).min());
        }
        assert!(timers.slots.len() <= 1000);
    }
}
