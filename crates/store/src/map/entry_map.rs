//! An ordered map from a block's address to a version of it, for very many of them.
//!
//! Sorted *runs* of up to 64 pairs, and over them an array of the addresses at which runs begin. A search touches the array, which is
//! small and stays in the CPU's caches, and one run, whose addresses lie side by side. (The standard library's tree is five or six
//! levels deep at the size of a delta, and most of them are a cache line from far away each.)
//!
//! It holds: no run is empty; addresses ascend within runs and from run to run; `begins` has one element per run, ascends, is 0 for
//! the first one, and for the others lies above the last address of the run before and not above their own first one.

use super::Entry;
use crate::location::Location;
use crate::stored::Form;

/// Pairs of a run at most.
const RUN: usize = 64;

/// What stands where nothing does.
const NONE: Entry = Entry { seq: 0, location: Location(0), check: 0, granules: 0, form: Form(0) };

/// The map.
#[derive(Clone, Debug, Default)]
pub(crate) struct EntryMap {
    begins: Vec<u64>,
    // Boxed, so that a new run between others moves pointers, not runs.
    #[expect(clippy::vec_box)]
    runs: Vec<Box<Run>>,
    len: usize,
    /// The run that was changed last: where the next one of a sequence goes.
    last: usize,
}

#[derive(Clone, Debug)]
struct Run {
    len: usize,
    lbas: [u64; RUN],
    entries: [Entry; RUN],
}

impl Run {
    fn of(lbas: &[u64], entries: &[Entry]) -> Box<Run> {
        let len = lbas.len();
        let mut run = Box::new(Run { len, lbas: [0; RUN], entries: [NONE; RUN] });
        run.lbas[..len].copy_from_slice(lbas);
        run.entries[..len].copy_from_slice(entries);
        run
    }

    fn lbas(&self) -> &[u64] {
        &self.lbas[..self.len]
    }

    /// First place whose address is not below this one.
    fn seek(&self, lba: u64) -> usize {
        self.lbas().partition_point(|&l| l < lba)
    }

    fn insert(&mut self, place: usize, lba: u64, entry: Entry) {
        self.lbas.copy_within(place..self.len, place + 1);
        self.entries.copy_within(place..self.len, place + 1);
        (self.lbas[place], self.entries[place]) = (lba, entry);
        self.len += 1;
    }

    /// Takes out what is `gone` of the places `from..to`, in order.
    fn extract(
        &mut self,
        from: usize,
        to: usize,
        gone: &mut impl FnMut(&Entry) -> bool,
        each: &mut impl FnMut(u64, Entry),
    ) {
        let mut kept = from;
        for place in from..to {
            let (lba, entry) = (self.lbas[place], self.entries[place]);
            if gone(&entry) {
                each(lba, entry);
            } else {
                (self.lbas[kept], self.entries[kept]) = (lba, entry);
                kept += 1;
            }
        }
        self.lbas.copy_within(to..self.len, kept);
        self.entries.copy_within(to..self.len, kept);
        self.len -= to - kept;
    }

    fn pairs(&self, from: usize) -> impl Iterator<Item = (u64, &Entry)> + '_ {
        self.lbas()[from..].iter().copied().zip(&self.entries[from..])
    }
}

impl EntryMap {
    /// Pairs in it.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The run in which an address is, or would be.
    fn run_of(&self, lba: u64) -> usize {
        let begun = |at: usize| self.begins.get(at).is_some_and(|&begin| begin <= lba);
        if begun(self.last) && !begun(self.last + 1) {
            return self.last;
        }
        self.begins.partition_point(|&begin| begin <= lba).saturating_sub(1)
    }

    /// What is stored of a block.
    pub(crate) fn get(&self, lba: u64) -> Option<&Entry> {
        let run = self.runs.get(self.run_of(lba))?;
        let place = run.seek(lba);
        (run.lbas().get(place) == Some(&lba)).then(|| &run.entries[place])
    }

    /// Puts an entry where there is none; otherwise that one.
    pub(crate) fn get_or_put(&mut self, lba: u64, entry: Entry) -> Option<&mut Entry> {
        let at = self.run_of(lba);
        let Some(run) = self.runs.get(at) else {
            self.begins.push(0);
            self.runs.push(Run::of(&[lba], &[entry]));
            self.len = 1;
            return None;
        };
        self.last = at;
        let place = run.seek(lba);
        if run.lbas().get(place) == Some(&lba) {
            return Some(&mut self.runs[at].entries[place]);
        }
        self.len += 1;
        if run.len < RUN {
            self.runs[at].insert(place, lba, entry);
        } else {
            self.split(at, place, lba, entry);
        }
        None
    }

    /// Puts a pair into a full run. At either end of it the pair gets a run of its own, so that what comes in order fills runs.
    fn split(&mut self, at: usize, place: usize, lba: u64, entry: Entry) {
        let run = &mut self.runs[at];
        match place {
            0 => {
                self.begins.insert(at + 1, run.lbas[0]);
                self.runs.insert(at, Run::of(&[lba], &[entry]));
            }
            RUN => {
                self.begins.insert(at + 1, lba);
                self.runs.insert(at + 1, Run::of(&[lba], &[entry]));
                self.last = at + 1;
            }
            _ => {
                let half = RUN / 2;
                let mut upper = Run::of(&run.lbas[half..], &run.entries[half..]);
                run.len = half;
                let begin = upper.lbas[0];
                if place <= half {
                    run.insert(place, lba, entry);
                } else {
                    upper.insert(place - half, lba, entry);
                }
                self.begins.insert(at + 1, begin);
                self.runs.insert(at + 1, upper);
            }
        }
    }

    /// Takes out what is `gone` of the blocks `lba..end` and hands it to `each`, in order.
    pub(crate) fn extract(
        &mut self,
        lba: u64,
        end: u64,
        mut gone: impl FnMut(&Entry) -> bool,
        mut each: impl FnMut(u64, Entry),
    ) {
        if lba >= end {
            return;
        }
        let first = self.run_of(lba);
        let mut behind = first;
        while behind < self.runs.len() && (behind == first || self.begins[behind] < end) {
            let run = &mut self.runs[behind];
            let (before, from, to) = (run.len, run.seek(lba), run.seek(end));
            run.extract(from, to, &mut gone, &mut each);
            self.len -= before - run.len;
            behind += 1;
        }
        self.drop_empty(first, behind);
    }

    /// Takes empty runs of `first..behind` away.
    fn drop_empty(&mut self, first: usize, mut behind: usize) {
        let mut at = first;
        while at < behind {
            let empty = self.runs[at..behind].iter().take_while(|run| run.len == 0).count();
            if empty > 0 {
                self.runs.drain(at..at + empty);
                self.begins.drain(at..at + empty);
                behind -= empty;
            } else {
                at += 1;
            }
        }
        if let Some(begin) = self.begins.first_mut() {
            *begin = 0;
        }
    }

    /// The pairs of `lba..end`, ascending.
    pub(crate) fn range(&self, lba: u64, end: u64) -> impl Iterator<Item = (u64, &Entry)> + '_ {
        let first = self.run_of(lba);
        let start = self.runs.get(first).map_or(0, |run| run.seek(lba));
        let runs = self.runs.iter().skip(first).enumerate();
        runs.flat_map(move |(n, run)| run.pairs(if n == 0 { start } else { 0 }))
            .take_while(move |(at, _)| *at < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn entry(seq: u64) -> Entry {
        Entry { seq, ..NONE }
    }

    fn sound(map: &EntryMap) {
        assert_eq!(map.begins.len(), map.runs.len());
        assert!(map.begins.first().is_none_or(|&begin| begin == 0) && map.begins.is_sorted());
        assert!(map.runs.iter().all(|run| run.len > 0 && run.len <= RUN && run.lbas().is_sorted()));
        for (at, begin) in map.begins.iter().enumerate().skip(1) {
            assert!(*begin <= map.runs[at].lbas[0] && *begin > *map.runs[at - 1].lbas().last().unwrap());
        }
        assert_eq!(map.len, map.runs.iter().map(|run| run.len).sum::<usize>());
    }

    fn same(map: &EntryMap, model: &BTreeMap<u64, Entry>, lba: u64, end: u64) {
        let all: Vec<(u64, Entry)> = map.range(lba, end).map(|(lba, e)| (lba, *e)).collect();
        let expected: Vec<(u64, Entry)> = model.range(lba..end.max(lba)).map(|(lba, e)| (*lba, *e)).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn does_what_the_standard_map_does() {
        let mut state = 7u64;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(0xd129_42d9_57d5_9f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 33) % below
        };
        for span in [40, 1000, 100_000] {
            let (mut map, mut model) = (EntryMap::default(), BTreeMap::new());
            let mut next = 0;
            for step in 1..6000u64 {
                let lba = match random(3) {
                    // Sequences, upwards and downwards.
                    0 => (next + 1) % span,
                    1 => (next + span - 1) % span,
                    _ => random(span),
                };
                next = lba;
                match random(20) {
                    0 => {
                        let mut removed = None;
                        map.extract(lba, lba + 1, |_| true, |_, entry| removed = Some(entry));
                        assert_eq!(removed, model.remove(&lba));
                    }
                    1 => {
                        let end = lba + random(span / 8);
                        let (mut gone, odd) = (Vec::new(), random(2));
                        map.extract(lba, end, |e| e.seq % 2 >= odd, |lba, e| gone.push((lba, e)));
                        let taken = model.extract_if(lba..end.max(lba), |_, e| e.seq % 2 >= odd);
                        assert_eq!(gone, taken.collect::<Vec<_>>());
                    }
                    2 => same(&map, &model, lba, lba + random(span)),
                    _ => match map.get_or_put(lba, entry(step)) {
                        None => assert_eq!(model.insert(lba, entry(step)), None),
                        Some(there) => {
                            assert_eq!(Some(&*there), model.get(&lba));
                            *there = entry(step);
                            model.insert(lba, entry(step));
                        }
                    },
                }
                assert_eq!((map.get(lba), map.len()), (model.get(&lba), model.len()));
                if step % 64 == 0 {
                    sound(&map);
                }
            }
            sound(&map);
            same(&map, &model, 0, u64::MAX);
            map.extract(0, u64::MAX, |_| true, |_, _| ());
            assert!(map.len() == 0 && map.runs.is_empty() && map.get(0).is_none());
        }
    }

    #[test]
    fn what_comes_in_order_fills_runs() {
        for down in [false, true] {
            let mut map = EntryMap::default();
            for i in 0..10 * RUN as u64 {
                let lba = if down { 1_000_000 - i } else { i };
                assert!(map.get_or_put(lba, entry(i)).is_none());
            }
            sound(&map);
            assert!(map.runs.len() <= 11, "{} runs", map.runs.len());
        }
    }
}
