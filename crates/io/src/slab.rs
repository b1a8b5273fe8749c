//! A bounded slab whose handles notice reuse: a handle from before is never taken for what lives in its slot now.

/// Handle of an entry: index and generation, as one number that fits half of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Where the entry lies.
    pub index: u32,
    /// Which of those that have lain there.
    pub generation: u32,
}

impl Key {
    /// As one number.
    #[must_use]
    pub fn bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// From one number.
    #[must_use]
    pub fn from_bits(bits: u64) -> Key {
        let [a, b, c, d, e, f, g, h] = bits.to_le_bytes();
        Key { index: u32::from_le_bytes([a, b, c, d]), generation: u32::from_le_bytes([e, f, g, h]) }
    }
}

/// Generations wrap here, so that a handle leaves room for a few bits in a 64-bit tag.
const GENERATIONS: u32 = 1 << 24;

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Entries at fixed indices, at most `limit`.
#[derive(Debug)]
pub struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    limit: u32,
}

impl<T> Slab<T> {
    /// An empty slab for `limit` entries.
    #[must_use]
    pub fn new(limit: u32) -> Slab<T> {
        Slab { slots: Vec::new(), free: Vec::new(), limit }
    }

    /// Puts a value in.
    ///
    /// # Errors
    /// The value, when the slab is full.
    pub fn insert(&mut self, value: T) -> Result<Key, T> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => match u32::try_from(self.slots.len()) {
                Ok(len) if len < self.limit => {
                    self.slots.push(Slot { generation: 0, value: None });
                    len
                }
                _ => return Err(value),
            },
        };
        let slot = &mut self.slots[index as usize];
        slot.value = Some(value);
        Ok(Key { index, generation: slot.generation })
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.index as usize).filter(|s| s.generation == key.generation)?;
        let value = slot.value.take()?;
        slot.generation = (slot.generation + 1) % GENERATIONS;
        self.free.push(key.index);
        Some(value)
    }

    /// Ends an entry where it is, for who has no use for it any more; false when it does not live.
    pub fn free(&mut self, key: Key) -> bool {
        let slot = self.slots.get_mut(key.index as usize).filter(|s| s.generation == key.generation);
        let Some(slot) = slot.filter(|s| s.value.is_some()) else { return false };
        slot.value = None;
        slot.generation = (slot.generation + 1) % GENERATIONS;
        self.free.push(key.index);
        true
    }

    /// The entry, if it still lives.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<&T> {
        self.slots.get(key.index as usize).filter(|s| s.generation == key.generation)?.value.as_ref()
    }

    /// The entry to be changed, if it still lives.
    #[must_use]
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.slots.get_mut(key.index as usize).filter(|s| s.generation == key.generation)?.value.as_mut()
    }

    /// The handle of the entry at an index, if one lives there.
    #[must_use]
    pub fn key_at(&self, index: u32) -> Option<Key> {
        let slot = self.slots.get(index as usize)?;
        slot.value.as_ref().map(|_| Key { index, generation: slot.generation })
    }

    /// True when no other entry fits.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.free.is_empty() && self.slots.len() >= self.limit as usize
    }

    /// Entries that live.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// True when none lives.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entries that live, with their handles.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        (0u32..).zip(&self.slots).filter_map(|(index, slot)| {
            slot.value.as_ref().map(|v| (Key { index, generation: slot.generation }, v))
        })
    }

    /// The entries that live, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().filter_map(|slot| slot.value.as_mut())
    }

    /// Handles of all entries that a test picks; for loops that change the slab on their way.
    pub fn keys(&self, mut pick: impl FnMut(&T) -> bool) -> Vec<Key> {
        self.iter().filter(|(_, v)| pick(v)).map(|(k, _)| k).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_handle_finds_nothing() {
        let mut slab = Slab::new(2);
        let a = slab.insert('a').unwrap();
        assert_eq!(slab.remove(a), Some('a'));
        let b = slab.insert('b').unwrap();
        assert_eq!((a.index, slab.get(a), slab.get(b)), (b.index, None, Some(&'b')));
        assert_eq!(slab.remove(a), None);
        assert!(!slab.free(a));
        assert_eq!(slab.key_at(b.index), Some(b));
        assert!(!slab.is_full() && slab.insert('c').is_ok() && slab.is_full());
        assert_eq!(slab.insert('d'), Err('d'));
        assert_eq!(Key::from_bits(b.bits()), b);
        assert_eq!(slab.len(), 2);
        assert!(slab.free(b) && !slab.free(b) && slab.get(b).is_none());
        assert_eq!((slab.remove(b), slab.len()), (None, 1));
    }
}
