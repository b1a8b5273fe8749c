//! An ordered map from a block's address to a version of it, for very many of them.
//!
//! Sorted *runs* of up to 62 pairs, and over them an array of the addresses at which runs begin, and over that every sixteenth of
//! these. A search touches those, which are small and stay in the CPU's caches, and then one run, which mostly comes from far away. So
//! a run is made to be fetched and searched without waiting twice:
//!
//! ```text
//!   lines of 64 bytes   0..4                    4                      5..36
//!                       keys: 64 x u32          places: 62 x u8, len   entries: 62 x 32 bytes, two to a line
//! ```
//!
//! The keys are the lower halves of the addresses, ascending; all of them are compared, which takes fewer cycles than a search that
//! has to guess, and their four lines come side by side. A pair that comes in between moves keys and places, not entries.
//!
//! It holds: no run is empty; all addresses of a run have the same upper half; addresses ascend within runs and from run to run;
//! `begins` has one element per run, which has the upper half of the run's addresses, is not above the first of them, and is above
//! the last one of the run before.

use super::Entry;
use crate::location::Location;
use crate::stored::Form;
use dolmen_kernels::prefetch;

/// Pairs of a run at most.
const RUN: usize = 62;

/// Runs of which one is in `tops`: the addresses at which they begin are two cache lines.
const SAMPLE: usize = 16;

/// Keys of a run, with those that stand for nothing.
const KEYS: usize = 64;

/// What stands where nothing does.
const NONE: Entry = Entry { seq: 0, location: Location(0), check: 0, granules: 0, form: Form(0) };

/// The map.
#[derive(Clone, Debug, Default)]
pub(crate) struct EntryMap {
    begins: Vec<u64>,
    /// Every [`SAMPLE`]th of them: so few that looking among them costs no wait for memory.
    tops: Vec<u64>,
    // Boxed, so that a new run between others moves pointers, not runs.
    #[expect(clippy::vec_box)]
    runs: Vec<Box<Run>>,
    len: usize,
    /// The run that was changed last: where the next one of a sequence goes.
    last: usize,
}

/// See the module.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
struct Run {
    index: Index,
    /// In the order in which they came.
    entries: [Entry; RUN],
}

/// What a search looks at.
#[derive(Clone, Debug)]
#[repr(C)]
struct Index {
    /// Lower halves of the addresses; behind them all ones.
    keys: [u32; KEYS],
    /// Where the entry of each key is. As numbers they are those below `len`, each once.
    places: [u8; RUN],
    len: u8,
}

const _: () = assert!(size_of::<Entry>() == 32 && size_of::<Index>() == 320 && size_of::<Run>() == 36 * 64);

/// The lower half of an address.
fn low(lba: u64) -> u32 {
    u32::try_from(lba & u64::from(u32::MAX)).expect("half of it")
}

/// The upper half of an address, where it is.
fn high(lba: u64) -> u64 {
    lba & !u64::from(u32::MAX)
}

impl Run {
    fn of<'e>(pairs: impl Iterator<Item = (u32, &'e Entry)>) -> Box<Run> {
        let index = Index { keys: [u32::MAX; KEYS], places: [0; RUN], len: 0 };
        let mut run = Box::new(Run { index, entries: [NONE; RUN] });
        for (key, entry) in pairs {
            run.insert(run.len(), key, *entry);
        }
        run
    }

    fn len(&self) -> usize {
        usize::from(self.index.len)
    }

    /// First place whose key is not below this one.
    fn seek(&self, key: u32) -> usize {
        let below = |keys: &[u32; KEYS]| keys.iter().map(|&k| u32::from(k < key)).sum::<u32>();
        below(&self.index.keys) as usize
    }

    /// True when the pair in a place has this key.
    fn is_at(&self, place: usize, key: u32) -> bool {
        place < self.len() && self.index.keys[place] == key
    }

    fn entry(&self, place: usize) -> &Entry {
        &self.entries[usize::from(self.index.places[place])]
    }

    fn entry_mut(&mut self, place: usize) -> &mut Entry {
        &mut self.entries[usize::from(self.index.places[place])]
    }

    fn insert(&mut self, place: usize, key: u32, entry: Entry) {
        let (len, index) = (self.len(), &mut self.index);
        index.keys.copy_within(place..len, place + 1);
        index.places.copy_within(place..len, place + 1);
        (index.keys[place], index.places[place]) = (key, index.len);
        index.len += 1;
        self.entries[len] = entry;
    }

    /// Takes out what is `gone` of the places `from..to`, in order; true when something was.
    fn extract(
        &mut self,
        high: u64,
        (from, to): (usize, usize),
        gone: &mut impl FnMut(&Entry) -> bool,
        each: &mut impl FnMut(u64, Entry),
    ) -> bool {
        let mut kept = [false; RUN];
        for (place, keep) in kept.iter_mut().enumerate().take(self.len()) {
            *keep = place < from || place >= to || !gone(self.entry(place));
            if !*keep {
                each(high | u64::from(self.index.keys[place]), *self.entry(place));
            }
        }
        let some = kept.iter().filter(|&&k| k).count() < self.len();
        if some {
            let rest = self.pairs(0).zip(kept).filter_map(|(pair, keep)| keep.then_some(pair));
            *self = *Run::of(rest);
        }
        some
    }

    /// Keys and entries from a place on, in order.
    fn pairs(&self, from: usize) -> impl Iterator<Item = (u32, &Entry)> + '_ {
        (from..self.len()).map(|place| (self.index.keys[place], self.entry(place)))
    }
}

impl EntryMap {
    /// Pairs in it.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The run in which an address is, or would be; searched for only when it is not the one that is guessed.
    fn run_near(&self, guess: usize, lba: u64) -> usize {
        let begun = |at: usize| self.begins.get(at).is_some_and(|&begin| begin <= lba);
        if begun(guess) && !begun(guess + 1) { guess } else { self.search(lba) }
    }

    /// The run in which an address is, or would be.
    fn run_of(&self, lba: u64) -> usize {
        self.run_near(self.last, lba)
    }

    fn search(&self, lba: u64) -> usize {
        let top = self.tops.partition_point(|&begin| begin <= lba).saturating_sub(1) * SAMPLE;
        let part = &self.begins[top..self.begins.len().min(top + SAMPLE)];
        top + part.iter().filter(|&&begin| begin <= lba).count().saturating_sub(1)
    }

    /// Runs have come, gone, or begin elsewhere, from this one on.
    fn sample(&mut self, from: usize) {
        self.tops.truncate(from / SAMPLE);
        self.tops.extend(self.begins.iter().skip(self.tops.len() * SAMPLE).step_by(SAMPLE));
    }

    /// First place of a run that is not below an address of any upper half.
    fn seek(&self, at: usize, lba: u64) -> usize {
        let run = &self.runs[at];
        match high(lba).cmp(&high(self.begins[at])) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Equal => run.seek(low(lba)),
            std::cmp::Ordering::Greater => run.len(),
        }
    }

    /// Where a block is, or would be; good for as long as nothing changes, and as a guess for longer.
    pub(crate) fn run(&self, lba: u64) -> usize {
        self.run_of(lba)
    }

    /// Has what a search in a run will look at brought near.
    pub(crate) fn prefetch(&self, run: usize) {
        if let Some(run) = self.runs.get(run) {
            prefetch(&run.index);
        }
    }

    /// The same of where the entry of a block is, or will be.
    pub(crate) fn prefetch_entry(&self, run: usize, lba: u64) {
        if let Some(run) = self.runs.get(run) {
            let place = run.seek(low(lba));
            prefetch(if run.is_at(place, low(lba)) {
                run.entry(place)
            } else {
                &run.entries[run.len().min(RUN - 1)]
            });
        }
    }

    /// What is stored of a block.
    pub(crate) fn get(&self, lba: u64) -> Option<&Entry> {
        self.get_near(self.last, lba)
    }

    /// What is stored of a block, which is probably in this run.
    pub(crate) fn get_near(&self, guess: usize, lba: u64) -> Option<&Entry> {
        let at = self.run_near(guess, lba);
        let run = self.runs.get(at).filter(|_| high(self.begins[at]) == high(lba))?;
        let place = run.seek(low(lba));
        run.is_at(place, low(lba)).then(|| run.entry(place))
    }

    /// [`EntryMap::get_or_put`], probably in this run.
    pub(crate) fn get_or_put_near(&mut self, guess: usize, lba: u64, entry: Entry) -> Option<&mut Entry> {
        self.last = guess;
        self.get_or_put(lba, entry)
    }

    /// Puts an entry where there is none; otherwise that one.
    pub(crate) fn get_or_put(&mut self, lba: u64, entry: Entry) -> Option<&mut Entry> {
        let at = self.run_of(lba);
        let Some(&begin) = self.begins.get(at) else {
            self.put_run(0, lba, Run::of(std::iter::once((low(lba), &entry))));
            self.len = 1;
            return None;
        };
        if high(begin) != high(lba) {
            // Only the first run may begin above.
            let at = if begin < lba { at + 1 } else { at };
            self.put_run(at, lba, Run::of(std::iter::once((low(lba), &entry))));
            (self.len, self.last) = (self.len + 1, at);
            return None;
        }
        self.last = at;
        let run = &mut self.runs[at];
        let place = run.seek(low(lba));
        if run.is_at(place, low(lba)) {
            return Some(self.runs[at].entry_mut(place));
        }
        self.len += 1;
        if lba < begin {
            // Only before the first one.
            (self.begins[0], self.tops[0]) = (lba, lba);
        }
        if run.len() < RUN {
            run.insert(place, low(lba), entry);
        } else {
            self.split(at, place, lba, entry);
        }
        None
    }

    fn put_run(&mut self, at: usize, begin: u64, run: Box<Run>) {
        self.begins.insert(at, begin);
        self.runs.insert(at, run);
        self.sample(at);
    }

    /// Puts a pair into a full run. At either end of it the pair gets a run of its own, so that what comes in order fills runs.
    fn split(&mut self, at: usize, place: usize, lba: u64, entry: Entry) {
        let run = &mut self.runs[at];
        let begin = |key: u32| high(lba) | u64::from(key);
        match place {
            0 => {
                self.begins[at] = begin(run.index.keys[0]);
                self.put_run(at, lba, Run::of(std::iter::once((low(lba), &entry))));
            }
            RUN => {
                self.put_run(at + 1, lba, Run::of(std::iter::once((low(lba), &entry))));
                self.last = at + 1;
            }
            _ => {
                let half = RUN / 2;
                let mut upper = Run::of(run.pairs(half));
                **run = *Run::of(run.pairs(0).take(half));
                let first = begin(upper.index.keys[0]);
                if place <= half {
                    run.insert(place, low(lba), entry);
                } else {
                    upper.insert(place - half, low(lba), entry);
                }
                self.put_run(at + 1, first, upper);
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
            let (from, to) = (self.seek(behind, lba), self.seek(behind, end));
            let (run, high) = (&mut self.runs[behind], high(self.begins[behind]));
            let before = run.len();
            if from < to && run.extract(high, (from, to), &mut gone, &mut each) {
                self.len -= before - run.len();
            }
            behind += 1;
        }
        self.drop_empty(first, behind);
    }

    /// Takes empty runs of `first..behind` away.
    fn drop_empty(&mut self, first: usize, mut behind: usize) {
        let (mut at, before) = (first, behind);
        while at < behind {
            let empty = self.runs[at..behind].iter().take_while(|run| run.len() == 0).count();
            if empty > 0 {
                self.runs.drain(at..at + empty);
                self.begins.drain(at..at + empty);
                behind -= empty;
            } else {
                at += 1;
            }
        }
        if behind < before {
            self.sample(first);
        }
    }

    /// The pairs of `lba..end`, ascending.
    pub(crate) fn range(&self, lba: u64, end: u64) -> impl Iterator<Item = (u64, &Entry)> + '_ {
        let first = self.run_of(lba);
        let start = if first < self.runs.len() { self.seek(first, lba) } else { 0 };
        let runs = self.runs.iter().zip(&self.begins).skip(first).enumerate();
        runs.flat_map(move |(n, (run, begin))| {
            let address = move |(key, entry)| (high(*begin) | u64::from(key), entry);
            run.pairs(if n == 0 { start } else { 0 }).map(address)
        })
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
        assert_eq!(map.tops, map.begins.iter().copied().step_by(SAMPLE).collect::<Vec<_>>());
        let mut behind = 0;
        for (begin, run) in map.begins.iter().zip(&map.runs) {
            let len = run.len();
            assert!((1..=RUN).contains(&len) && run.index.keys[..len].is_sorted());
            assert!(run.index.keys[len..].iter().all(|&key| key == u32::MAX));
            let mut places = run.index.places[..len].to_vec();
            places.sort_unstable();
            assert!(places.iter().enumerate().all(|(n, &place)| n == usize::from(place)));
            let addresses: Vec<u64> = run.pairs(0).map(|(key, _)| high(*begin) | u64::from(key)).collect();
            assert!(behind <= *begin && *begin <= addresses[0] && addresses.is_sorted());
            behind = addresses[len - 1] + 1;
        }
        assert_eq!(map.len, map.runs.iter().map(|run| run.len()).sum::<usize>());
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
        // Close together and far apart; some across the ends of upper halves.
        let spans =
            [(0, 40, 1), (0, 1000, 1), (0, 100_000, 1), ((7 << 32) - 500, 1000, 1), (3, 400, 1 << 30)];
        for (base, span, stride) in spans {
            let (mut map, mut model) = (EntryMap::default(), BTreeMap::new());
            let mut next = 0;
            for step in 1..6000u64 {
                next = match random(3) {
                    // Sequences, upwards and downwards.
                    0 => (next + 1) % span,
                    1 => (next + span - 1) % span,
                    _ => random(span),
                };
                let lba = base + next * stride;
                match random(20) {
                    0 => {
                        let mut removed = None;
                        map.extract(lba, lba + 1, |_| true, |_, entry| removed = Some(entry));
                        assert_eq!(removed, model.remove(&lba));
                    }
                    1 => {
                        let end = lba + random(span / 8) * stride;
                        let (mut gone, odd) = (Vec::new(), random(2));
                        map.extract(lba, end, |e| e.seq % 2 >= odd, |lba, e| gone.push((lba, e)));
                        let taken = model.extract_if(lba..end.max(lba), |_, e| e.seq % 2 >= odd);
                        assert_eq!(gone, taken.collect::<Vec<_>>());
                    }
                    2 => same(&map, &model, lba, lba + random(span) * stride),
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
