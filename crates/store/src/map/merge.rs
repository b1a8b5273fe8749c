//! Merging a delta into leaves: pure functions from old entries and changes to new entries.

use super::{Entry, LineDelta};
use crate::format::page::PAGE_SLOTS;

/// What a merge of one leaf yields.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    /// The entries of the leaf's part of the addresses, ascending.
    pub(crate) entries: Vec<(u64, Entry)>,
    /// Versions that nothing names any more.
    pub(crate) freed: Vec<Entry>,
}

/// Merges the changes to `from..to` into the entries of that part. Of each block the newest version is kept (a snapshot
/// will keep more); of the same version at two places, the change's place.
pub(crate) fn merge_leaf(
    old: impl Iterator<Item = (u64, Entry)>,
    delta: &LineDelta,
    from: u64,
    to: u64,
    out: &mut Merged,
) {
    let mut old = old.peekable();
    let mut new = delta.points_in(from, to).map(|(a, e)| (a, *e)).peekable();
    let unmapped = |address: u64, entry: &Entry| delta.hole_at(address).is_some_and(|seq| seq >= entry.seq);
    loop {
        let old_first = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(a), Some(b)) => a.0 <= b.0,
        };
        let Some((address, entry)) = (if old_first { old.next() } else { new.next() }) else { return };
        if old_first && unmapped(address, &entry) {
            out.freed.push(entry);
            continue;
        }
        match out.entries.last_mut() {
            Some(last) if last.0 == address => {
                // The later one comes from the delta, or is a newer version in the leaf.
                let loser =
                    if last.1.seq <= entry.seq { std::mem::replace(&mut last.1, entry) } else { entry };
                out.freed.push(loser);
            }
            _ => out.entries.push((address, entry)),
        }
    }
}

/// Cuts entries into leaves: even parts of at most [`PAGE_SLOTS`], none spanning 2^32 blocks or more.
pub(crate) fn split(entries: &[(u64, Entry)]) -> impl Iterator<Item = &[(u64, Entry)]> {
    let pages = entries.len().div_ceil(PAGE_SLOTS).max(1);
    let each = entries.len().div_ceil(pages).max(1);
    let mut rest = entries;
    std::iter::from_fn(move || {
        let first = rest.first()?.0;
        let near = rest.partition_point(|e| e.0 - first <= u64::from(u32::MAX));
        let (page, tail) = rest.split_at(near.min(each));
        rest = tail;
        Some(page)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::location::Location;
    use crate::stored::Form;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn entry(seq: u64, place: u64) -> Entry {
        Entry { seq, location: Location(place), check: 0, granules: 256, form: Form(0) }
    }

    proptest! {
        #[test]
        fn a_merge_is_the_overlay(
            old in proptest::collection::btree_map(0u64..100, 1u64..50, 0..60),
            ops in proptest::collection::vec((any::<bool>(), 0u64..100, 1u64..20), 0..60),
        ) {
            let mut delta = LineDelta::default();
            let (mut freed_early, mut inserted) = (0, 0);
            for (i, &(write, lba, n)) in ops.iter().enumerate() {
                let seq = 100 + i as u64;
                if write {
                    inserted += 1;
                    delta.insert(lba, entry(seq, seq), |_| freed_early += 1);
                } else {
                    delta.unmap(lba, lba + n, seq, |_| freed_early += 1);
                }
            }
            let old: BTreeMap<u64, Entry> = old.into_iter().map(|(a, s)| (a, entry(s, s))).collect();
            let mut blocks: Vec<Option<Entry>> = (0..130).map(|a| old.get(&a).copied()).collect();
            delta.overlay(0, &mut blocks);
            let mut merged = Merged::default();
            merge_leaf(old.iter().map(|(a, e)| (*a, *e)), &delta, 0, u64::MAX, &mut merged);
            let want: Vec<(u64, Entry)> =
                blocks.iter().enumerate().filter_map(|(a, e)| e.map(|e| (a as u64, e))).collect();
            prop_assert_eq!(&merged.entries, &want);
            prop_assert_eq!(old.len() + inserted, want.len() + merged.freed.len() + freed_early);
            let pages: Vec<&[(u64, Entry)]> = split(&merged.entries).collect();
            prop_assert_eq!(pages.concat(), want);
        }
    }

    #[test]
    fn a_moved_version_takes_its_new_place() {
        let mut delta = LineDelta::default();
        delta.insert(4, entry(9, 2), |_| ());
        let mut merged = Merged::default();
        merge_leaf([(4, entry(9, 1)), (5, entry(9, 3))].into_iter(), &delta, 0, 10, &mut merged);
        assert_eq!(merged.entries, [(4, entry(9, 2)), (5, entry(9, 3))]);
        assert_eq!(merged.freed, [entry(9, 1)]);
    }

    #[test]
    fn far_apart_entries_get_leaves_of_their_own() {
        let far = [(0, entry(1, 1)), (1 << 33, entry(1, 2)), ((1 << 33) + 5, entry(1, 3))];
        let pages: Vec<usize> = split(&far).map(<[_]>::len).collect();
        assert_eq!(pages, [1, 2]);
    }
}
