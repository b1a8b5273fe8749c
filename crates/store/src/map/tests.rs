//! The whole map against the plainest model: per line and block the list of all versions ever made, and the points.
//!
//! Operations in any order, with a merge under way over several of them; after each step every state that is kept reads as
//! the model says, and in the end exactly what somebody sees is still there.
#![allow(clippy::cast_possible_truncation)] // Models index with small numbers.

use super::*;
use crate::format::page::{Leaf, PAGE_SLOTS, PageName, encode_leaf, encode_node};
use crate::location::Location;
use crate::stored::Form;
use dolmen_types::{LineId, Uuid};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

const BLOCKS: u64 = 24;
const PARENT: u64 = 1;
const CHILD: u64 = 2;

/// Per block: sequence number, and the place of what was written or `None` for a hole.
#[derive(Clone, Default)]
struct ModelLine {
    blocks: BTreeMap<u64, Vec<(u64, Option<u64>)>>,
    points: BTreeSet<u64>,
    head: bool,
    parent: Option<(u64, u64)>,
}

impl ModelLine {
    fn at(&self, lba: u64, at: u64) -> Option<(u64, Option<u64>)> {
        self.blocks.get(&lba)?.iter().rev().find(|v| v.0 <= at).copied()
    }

    /// Versions of a block that somebody sees.
    fn needed(&self, lba: u64) -> BTreeSet<(u64, Option<u64>)> {
        let views = self.points.iter().copied().chain(self.head.then_some(u64::MAX));
        views.filter_map(|at| self.at(lba, at)).collect()
    }

    fn set(&mut self, lba: u64, seq: u64, place: Option<u64>) {
        let versions = self.blocks.entry(lba).or_default();
        versions.retain(|v| v.0 != seq);
        versions.push((seq, place));
    }
}

struct Bench {
    map: Map,
    model: BTreeMap<u64, ModelLine>,
    seq: u64,
    place: u64,
    /// Places that the map says are in use.
    used: BTreeSet<u64>,
    frozen: bool,
}

#[derive(Clone, Debug)]
enum Act {
    Write(u64, u64, u64),
    Unmap(u64, u64, u64),
    UnmapThenWrite(u64, u64),
    Snapshot(u64),
    DropSnapshot(u64, usize),
    Clone(usize),
    DropHead(u64),
    /// The child is what is left of the parent.
    RollBack,
    Move(u64, usize),
    Freeze,
    Merge,
    Full,
}

fn act() -> impl Strategy<Value = Act> {
    let line = PARENT..=CHILD;
    prop_oneof![
        10 => (line.clone(), 0..BLOCKS, 1u64..4).prop_map(|(l, a, n)| Act::Write(l, a, n)),
        4 => (line.clone(), 0..BLOCKS, 1u64..BLOCKS).prop_map(|(l, a, n)| Act::Unmap(l, a, n)),
        1 => (line.clone(), 0..BLOCKS).prop_map(|(l, a)| Act::UnmapThenWrite(l, a)),
        4 => line.clone().prop_map(Act::Snapshot),
        2 => (line.clone(), any::<usize>()).prop_map(|(l, i)| Act::DropSnapshot(l, i)),
        2 => any::<usize>().prop_map(Act::Clone),
        1 => line.clone().prop_map(Act::DropHead),
        1 => Just(Act::RollBack),
        3 => (line, any::<usize>()).prop_map(|(l, i)| Act::Move(l, i)),
        2 => Just(Act::Freeze),
        2 => Just(Act::Merge),
        2 => Just(Act::Full),
    ]
}

impl Bench {
    fn new() -> Bench {
        let mut map = Map::new(4096 * 4096);
        map.lines.insert(PARENT, Line::new(None));
        let parent = ModelLine { head: true, ..ModelLine::default() };
        let model = BTreeMap::from([(PARENT, parent)]);
        Bench { map, model, seq: 0, place: 0, used: BTreeSet::new(), frozen: false }
    }

    fn insert(&mut self, line: u64, lba: u64, seq: u64) {
        self.place += 1;
        self.used.insert(self.place);
        let entry = Entry { seq, location: Location(self.place), check: 0, granules: 256, form: Form(0) };
        let (lineage, used) = (self.map.lines[&line].now.clone(), &mut self.used);
        let written = seq == self.seq;
        self.map.live.change(line, |d| {
            if written {
                d.written(seq);
            }
            d.insert(d.place(lba), lba, entry, &lineage, |e| {
                assert!(used.remove(&e.location.0), "freed once")
            });
        });
        self.model.get_mut(&line).unwrap().set(lba, seq, Some(self.place));
    }

    fn unmap(&mut self, line: u64, lba: u64, n: u64) {
        let (lineage, used, seq) = (self.map.lines[&line].now.clone(), &mut self.used, self.seq);
        self.map.live.change(line, |d| {
            d.written(seq);
            d.unmap(lba, lba + n, seq, &lineage, |e| assert!(used.remove(&e.location.0), "freed once"));
        });
        (lba..lba + n).for_each(|b| self.model.get_mut(&line).unwrap().set(b, seq, None));
    }

    fn run(&mut self, act: &Act) {
        self.seq += 1;
        let line = match *act {
            Act::Write(l, ..) | Act::Unmap(l, ..) | Act::UnmapThenWrite(l, _) => l,
            Act::Snapshot(l) | Act::DropSnapshot(l, _) | Act::DropHead(l) | Act::Move(l, _) => l,
            Act::Clone(_) | Act::RollBack | Act::Freeze | Act::Merge | Act::Full => PARENT,
        };
        let Some(model) = self.model.get(&line).cloned() else { return };
        match *act {
            Act::Write(_, lba, n) if model.head => {
                (lba..lba + n).for_each(|b| self.insert(line, b, self.seq))
            }
            Act::Unmap(_, lba, n) if model.head => self.unmap(line, lba, n),
            Act::UnmapThenWrite(_, lba) if model.head => {
                self.unmap(line, lba, 5);
                self.insert(line, lba + 2, self.seq);
            }
            Act::Snapshot(_) if model.head => {
                Rc::make_mut(&mut self.map.lines.get_mut(&line).unwrap().now).add_snapshot(self.seq, 0);
                self.model.get_mut(&line).unwrap().points.insert(self.seq);
            }
            Act::DropSnapshot(_, i) if !model.points.is_empty() => {
                let point = *model.points.iter().nth(i % model.points.len()).unwrap();
                self.release(line, point, Hold::Snapshot);
                self.let_go();
            }
            Act::Clone(i) if !self.model.contains_key(&CHILD) && !model.points.is_empty() => {
                let point = *model.points.iter().nth(i % model.points.len()).unwrap();
                Rc::make_mut(&mut self.map.lines.get_mut(&PARENT).unwrap().now).pin(point);
                self.map.lines.insert(CHILD, Line::new(Some((PARENT, point))));
                let child = ModelLine { head: true, parent: Some((PARENT, point)), ..ModelLine::default() };
                self.model.insert(CHILD, child);
            }
            Act::DropHead(_) => {
                Rc::make_mut(&mut self.map.lines.get_mut(&line).unwrap().now).head = false;
                self.model.get_mut(&line).unwrap().head = false;
                self.let_go();
            }
            Act::RollBack if model.head && !self.model.contains_key(&CHILD) => {
                self.run(&Act::Snapshot(PARENT));
                let points = self.model[&PARENT].points.len();
                self.run(&Act::Clone(points - 1));
                self.run(&Act::DropHead(PARENT));
                (0..points).rev().for_each(|i| self.run(&Act::DropSnapshot(PARENT, i)));
            }
            Act::Move(_, i) => self.relocate(line, i, &model),
            Act::Freeze => self.freeze(),
            Act::Merge => self.merge(),
            Act::Full => {
                self.merge();
                self.freeze();
                self.merge();
            }
            _ => {}
        }
    }

    fn release(&mut self, line: u64, point: u64, hold: Hold) {
        let tree = self.map.lines.get_mut(&line).unwrap();
        tree.shrunk = true;
        if Rc::make_mut(&mut tree.now).release(point, hold) {
            let deltas = self.map.frozen.iter_mut().chain(std::iter::once(&mut self.map.live));
            deltas.for_each(|delta| delta.point_gone(line, point, &tree.now));
            self.model.get_mut(&line).unwrap().points.remove(&point);
        }
    }

    /// A child of which nothing is left holds its parent no more.
    fn let_go(&mut self) {
        let Some(child) = self.model.get_mut(&CHILD).filter(|c| !c.head && c.points.is_empty()) else {
            return;
        };
        if let Some((parent, point)) = child.parent.take() {
            self.release(parent, point, Hold::Clone);
        }
    }

    /// Moves one of the versions that somebody sees, as cleaning does; the map must say that it holds it.
    fn relocate(&mut self, line: u64, i: usize, model: &ModelLine) {
        let versions: Vec<(u64, u64, u64, bool)> = model
            .blocks
            .iter()
            .flat_map(|(lba, v)| v.iter().filter_map(|(seq, p)| p.map(|p| (*lba, *seq, p))))
            .map(|(lba, seq, place)| (lba, seq, place, model.needed(lba).contains(&(seq, Some(place)))))
            .collect();
        if versions.is_empty() {
            return;
        }
        let (lba, seq, place, needed) = versions[i % versions.len()];
        let entry = Entry { seq, location: Location(place), check: 0, granules: 256, form: Form(0) };
        let held = self.map.holds(LineId(line), lba, &entry);
        // What the child hides goes with the next merge.
        let seen = self.needed(line, lba).contains(&(seq, Some(place)));
        let told = if needed { Held::Yes } else { Held::No };
        assert!(held == told || !seen && held == Held::No, "line {line} block {lba} version {seq}: {held:?}");
        if held == Held::Yes {
            let newest = model.blocks[&lba].clone();
            self.insert(line, lba, seq);
            // A move does not make it the newest.
            let moved = self.place;
            let versions = newest.into_iter().map(|v| if v.0 == seq { (seq, Some(moved)) } else { v });
            self.model.get_mut(&line).unwrap().blocks.insert(lba, versions.collect());
        }
    }

    fn freeze(&mut self) {
        if !self.frozen {
            self.map.frozen = Some(std::mem::take(&mut self.map.live));
            let frozen = self.map.frozen.as_ref();
            self.map.lines.iter_mut().for_each(|(&n, l)| l.freeze(frozen.and_then(|f| f.line(n))));
            self.frozen = true;
        }
    }

    /// Merges the frozen delta into every line, all leaves at once.
    fn merge(&mut self) {
        if !std::mem::take(&mut self.frozen) {
            return;
        }
        let lines: Vec<u64> = self.map.lines.keys().copied().collect();
        for line in lines {
            self.merge_line(line);
            // Readers come between.
            self.check();
        }
        self.map.frozen = None;
    }

    fn merge_line(&mut self, line: u64) {
        let nothing = LineDelta::default();
        let hidden = self.hidden(line);
        {
            let Some(tree) = self.map.lines.get_mut(&line) else { return };
            let Some(base) = tree.base.take() else { return };
            let mut old = Vec::new();
            for leaf in tree.nodes.iter().flat_map(|n| &n.leaves) {
                let bytes = self.map.cache.at(leaf.hint, &leaf.page()).expect("a large cache").to_vec();
                old.extend(Leaf::trusted(&bytes).slots());
            }
            let mut merged = Merged::default();
            let delta = self.map.frozen.as_ref().and_then(|f| f.line(line)).unwrap_or(&nothing);
            merge::merge(old.into_iter(), delta, (0, u64::MAX), &hidden, &base, &mut merged);
            for freed in merged.freed {
                assert!(self.used.remove(&freed.location.0), "freed once");
            }
            assert!(merged.slots.is_sorted_by_key(|(lba, v)| (*lba, v.seq())));
            let name = PageName { pool: Uuid([1; 16]), line, generation: 1 };
            let (mut leaves, mut counts) = (Vec::new(), Counts::default());
            for page in split(&merged.slots) {
                assert!(page.slots.len() <= PAGE_SLOTS);
                self.place += 1;
                let (mut reference, bytes) = encode_leaf(&page.slots, page.flags, &name, Vec::new());
                reference.location = Location(self.place);
                let mut leaf = LeafRef::new(reference);
                leaf.hint = self.map.cache.insert(&reference, &bytes);
                counts.add_leaf(page.slots.iter().copied(), page.goes_on, &base);
                leaves.push(leaf);
            }
            tree.counts = counts;
            let pages: Vec<_> = leaves.iter().map(LeafRef::page).collect();
            let (page, _) = encode_node(&pages[..pages.len().min(1)], &name, Vec::new());
            tree.nodes = if leaves.is_empty() { Vec::new() } else { vec![Node { page, leaves }] };
        }
        if let Some(frozen) = &mut self.map.frozen {
            let lineage = &self.map.lines[&line].now;
            frozen.change(line, |d| d.forget(0, u64::MAX, lineage));
        }
    }

    /// What the child hides of the line for good, by the states that the checkpoint began with.
    fn hidden(&mut self, line: u64) -> Vec<(u64, u64, u64)> {
        let base = |line| self.map.lines.get(&line).and_then(|tree| tree.base.clone());
        let (Some(of), Some(child)) = (base(line), base(CHILD)) else { return Vec::new() };
        let Some(point) = of.inherited().filter(|p| child.parent == Some((line, *p))) else {
            return Vec::new();
        };
        let (at, map) = (child.oldest(), &mut self.map);
        let mut hides = |lba: u64| {
            let mut content = [Content::Nothing];
            map.search(CHILD, at, lba, &mut content, Some(&None));
            !child.is_doomed() && content != [Content::Nothing]
        };
        (0..BLOCKS + 8).filter(|&lba| hides(lba)).map(|lba| (lba, lba + 1, point)).collect()
    }

    /// Versions of a block that somebody sees, if need be by way of the child.
    fn needed(&self, line: u64, lba: u64) -> BTreeSet<(u64, Option<u64>)> {
        let (model, child) = (&self.model[&line], self.model.get(&CHILD));
        let inherited = self.map.lines.get(&line).and_then(|tree| tree.now.inherited());
        let heir = child.filter(|c| inherited.is_some() && c.parent == inherited.map(|p| (line, p)));
        let hides = heir.is_some_and(|child| {
            let oldest = child.points.first().copied().or(child.head.then_some(u64::MAX));
            oldest.is_some_and(|at| child.at(lba, at).is_some())
        });
        if hides { BTreeSet::new() } else { model.needed(lba) }
    }

    fn expected(&self, line: u64, at: u64, lba: u64) -> Option<(u64, u64)> {
        let model = &self.model[&line];
        match (model.at(lba, at), model.parent) {
            (Some((_, place)), _) => place.map(|p| (line, p)),
            (None, Some((parent, point))) => self.expected(parent, point, lba),
            (None, None) => None,
        }
    }

    /// Every state that is kept, read in pieces and at once.
    fn check(&mut self) {
        self.newest();
        self.sums();
        for line in self.model.keys().copied().collect::<Vec<_>>() {
            let model = self.model[&line].clone();
            // What only a clone keeps nobody may ask for.
            let is_snapshot = |p: &u64| self.map.lines[&line].now.point(*p).is_some_and(|p| p.snapshot);
            let points: Vec<u64> = model.points.iter().copied().filter(is_snapshot).collect();
            let views = points.into_iter().map(Some).chain(model.head.then_some(None));
            for at in views {
                let want: Vec<_> =
                    (0..BLOCKS + 8).map(|lba| self.expected(line, at.unwrap_or(u64::MAX), lba)).collect();
                for window in [1, 5, want.len()] {
                    let mut got = Vec::new();
                    for first in (0..want.len()).step_by(window) {
                        let count = window.min(want.len() - first);
                        let (mut blocks, mut levels) = (vec![None; count], Levels::new(count));
                        let found = self.map.lookup(LineId(line), at, first as u64, &mut blocks, &mut levels);
                        assert_eq!(found, Lookup::Complete);
                        got.extend(blocks.into_iter().map(|b| b.map(|f| (f.line, f.entry.location.0))));
                    }
                    assert_eq!(got, want, "line {line} at {at:?}, {window} at a time");
                }
            }
        }
    }

    /// What deltas come to, as a walk finds it.
    fn sums(&self) {
        for delta in self.map.frozen.iter().chain(std::iter::once(&self.map.live)) {
            for (line, tree) in &self.map.lines {
                let Some(delta) = delta.line(*line) else { continue };
                let kept = (delta.stored_bytes(), delta.seen().collect());
                assert_eq!(kept, delta.walked(&tree.now), "line {line}");
            }
        }
    }

    /// What is known of blocks that are asked for together, of all lines and one after the other of each: as a lookup says, or not.
    fn newest(&mut self) -> Vec<Newest> {
        let lines: Vec<u64> = self.model.keys().copied().collect();
        let asked: Vec<Asked> = (0..BLOCKS + 8)
            .flat_map(|lba| lines.iter().map(move |&line| Asked { line, lba, seq: 0 }))
            .collect();
        let mut answers = Vec::new();
        self.map.newest(&asked, &mut answers);
        assert_eq!(answers.len(), asked.len());
        for (asked, answer) in asked.iter().zip(&answers) {
            let head = self.model[&asked.line].head;
            let known = match answer {
                Newest::Stored(found) => Some((found.line, found.entry.location.0)),
                Newest::Nothing => None,
                Newest::Unknown => continue,
            };
            assert!(head, "{asked:?}");
            assert_eq!(known, self.expected(asked.line, u64::MAX, asked.lba), "{asked:?}");
        }
        answers
    }

    /// After everything was merged and swept: only what somebody sees is left, and figures are exact.
    fn settle(&mut self) {
        self.merge();
        self.freeze();
        self.merge();
        let mut needed = BTreeSet::new();
        for (&line, model) in &self.model {
            let (mut head, mut shared, mut all) = (0, 0, 0);
            for &lba in model.blocks.keys() {
                let of_head = model.head.then(|| model.at(lba, u64::MAX)).flatten().and_then(|v| v.1);
                for (seq, place) in self.needed(line, lba) {
                    let Some(place) = place else { continue };
                    needed.insert(place);
                    all += 1;
                    if of_head == Some(place) {
                        let kept = model.points.iter().any(|&p| model.at(lba, p).is_some_and(|v| v.0 == seq));
                        if kept { shared += 1 } else { head += 1 }
                    }
                }
            }
            if let Some(usage) = self.map.usage(LineId(line)) {
                let bytes = [usage.stored_bytes, usage.head_bytes, usage.shared_bytes, usage.snapshot_bytes];
                assert_eq!(bytes.map(|b| b / 4096), [all, head, shared, all - head - shared], "line {line}");
            }
        }
        assert_eq!(self.used, needed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn every_kept_state_reads_as_it_was(acts in proptest::collection::vec(act(), 1..60)) {
        let mut bench = Bench::new();
        for act in &acts {
            bench.run(act);
            bench.check();
        }
        bench.settle();
        bench.check();
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// Many versions of few blocks, so that blocks have leaves of their own, with holes between.
    #[test]
    fn blocks_with_more_versions_than_a_leaf_holds(
        ops in proptest::collection::vec((0u64..6, 0u64..8, any::<bool>()), 300..500),
        drops in proptest::collection::vec(any::<usize>(), 0..40),
    ) {
        let mut bench = Bench::new();
        for (i, (lba, kind, merge)) in ops.into_iter().enumerate() {
            let lba = lba.saturating_sub(3);
            bench.run(&if kind == 0 { Act::Unmap(PARENT, lba, 2) } else { Act::Write(PARENT, lba, 1) });
            bench.run(&Act::Snapshot(PARENT));
            if merge && i % 16 == 0 {
                bench.run(&Act::Full);
            }
        }
        bench.run(&Act::Full);
        bench.check();
        for i in drops {
            bench.run(&Act::DropSnapshot(PARENT, i));
        }
        bench.check();
        bench.settle();
        bench.check();
        bench.run(&Act::DropHead(PARENT));
        bench.settle();
    }
}

/// Of plain blocks it is known at once what the map holds, be it in the deltas, in leaves or nowhere.
#[test]
fn plain_blocks_need_no_lookup() {
    let mut bench = Bench::new();
    bench.run(&Act::Write(PARENT, 0, BLOCKS - 5));
    let known = |bench: &mut Bench| bench.newest().iter().filter(|a| **a != Newest::Unknown).count() as u64;
    assert_eq!(known(&mut bench), BLOCKS + 8, "in the live delta");
    bench.run(&Act::Freeze);
    bench.run(&Act::Write(PARENT, 3, 2));
    assert_eq!(known(&mut bench), BLOCKS + 8, "in both deltas");
    bench.run(&Act::Merge);
    assert_eq!(known(&mut bench), BLOCKS + 8, "in leaves and the delta over them");
    bench.run(&Act::Unmap(PARENT, 4, 3));
    assert_eq!(known(&mut bench), BLOCKS + 8 - 3, "but for what was unmapped");
}

#[test]
fn far_apart_slots_get_leaves_of_their_own() {
    let entry =
        |seq| Version::Stored(Entry { seq, location: Location(seq), check: 0, granules: 256, form: Form(0) });
    let far = [(0, entry(1)), (1 << 33, entry(2)), ((1 << 33) + 5, entry(3))];
    let pages: Vec<usize> = split(&far).iter().map(|p| p.slots.len()).collect();
    assert_eq!(pages, [1, 2]);
}

#[test]
fn a_block_of_many_versions_is_apart_from_its_neighbours() {
    let stored =
        |seq| Version::Stored(Entry { seq, location: Location(seq), check: 0, granules: 256, form: Form(0) });
    let mut slots = vec![(3, stored(1)), (3, Version::Hole { seq: 2, blocks: 9 })];
    slots.extend((3..303).map(|seq| (4, stored(seq))));
    slots.extend([(5, stored(1)), (20, stored(1))]);
    slots.sort_by_key(|(lba, v)| (*lba, v.seq()));
    let pages = split(&slots);
    let firsts: Vec<(u64, usize, bool)> =
        pages.iter().map(|p| (p.slots[0].0, p.slots.len(), p.goes_on)).collect();
    assert_eq!(firsts, [(3, 2, false), (4, 126, true), (4, 126, true), (4, 49, false), (5, 3, false)]);
    // The hole goes on in each.
    assert_eq!(pages[0].slots[1], (3, Version::Hole { seq: 2, blocks: 1 }));
    assert_eq!(pages[1].slots[0], (4, Version::Hole { seq: 2, blocks: 1 }));
    assert_eq!(pages[4].slots[1], (5, Version::Hole { seq: 2, blocks: 7 }));
}

#[test]
fn a_hole_of_any_length_is_one_slot() {
    let mut delta = LineDelta::default();
    let lineage = Lineage::new(Some((7, 1)));
    delta.unmap(3, u64::MAX, 9, &lineage, |_| ());
    let mut merged = Merged::default();
    merge::merge(std::iter::empty(), &delta, (0, u64::MAX), &[], &lineage, &mut merged);
    assert_eq!(merged.slots, [(3, Version::Hole { seq: 9, blocks: u64::MAX - 3 })]);
    // A line without a parent and without older versions has nothing to hide.
    let (lineage, mut merged) = (Lineage::new(None), Merged::default());
    merge::merge(std::iter::empty(), &delta, (0, u64::MAX), &[], &lineage, &mut merged);
    assert_eq!(merged.slots, []);
}

/// Of a range that is lost, what was written since is known, and nothing older: not even where cleaning has put it.
#[test]
fn what_is_lost_hides_all_that_is_older() {
    let stored = |seq| Entry { seq, location: Location(seq), check: 0, granules: 256, form: Form(0) };
    let lost = |blocks| Version::Lost { until: 10, blocks };
    let old = || [(100, lost(50))].into_iter();
    let mut lineage = Lineage::new(None);
    let mut delta = LineDelta::default();
    delta.insert(0, 110, stored(4), &lineage, |_| ());
    delta.insert(0, 120, stored(12), &lineage, |_| ());
    delta.unmap(130, 140, 13, &lineage, |_| ());
    let mut merged = Merged::default();
    merge::merge(old(), &delta, (0, u64::MAX), &[], &lineage, &mut merged);
    let hole = Version::Hole { seq: 13, blocks: 10 };
    let healed = [(100, lost(20)), (120, Version::Stored(stored(12))), (121, lost(9)), (140, lost(10))];
    assert_eq!(merged.slots, healed, "a hole with nothing under it is gone too");
    assert_eq!(merged.freed, [stored(4)]);
    // A state from before what was written since needs to be told.
    lineage.add_snapshot(11, 0);
    let mut merged = Merged::default();
    merge::merge(old(), &delta, (0, u64::MAX), &[], &lineage, &mut merged);
    let kept = [(100, lost(50)), (120, Version::Stored(stored(12))), (130, hole)];
    assert_eq!(merged.slots, kept);
    for page in split(&merged.slots) {
        assert_ne!(page.flags, 0, "not to be read without a look at ranges");
    }
}

/// Cleaning may name an older version anew, before a leaf is found lost or at replay after.
#[test]
fn an_older_version_does_not_show_over_what_is_lost() {
    use crate::format::page::PageRef;
    let stored = |seq| Entry { seq, location: Location(seq), check: 0, granules: 256, form: Form(0) };
    let name = PageName { pool: Uuid([0; 16]), line: 1, generation: 1 };
    let slots = [(100, Version::Lost { until: 10, blocks: 50 })];
    let (page, bytes) = encode_leaf(&slots, PageRef::HISTORY | PageRef::HOLES, &name, Vec::new());
    let mut map = Map::new(1 << 16);
    let nodes = vec![Node { page, leaves: vec![LeafRef::new(page)] }];
    let mut line = Line { nodes, ..Line::new(None) };
    Rc::make_mut(&mut line.now).add_snapshot(7, 0);
    map.lines.insert(1, line);
    map.leaf_read(LineId(1), &page, &bytes);
    let lineage = map.lines[&1].now.clone();
    map.live.change(1, |delta| {
        delta.insert(0, 110, stored(4), &lineage, |_| ());
        delta.insert(0, 120, stored(12), &lineage, |_| ());
    });
    for (at, lba, lost) in [(None, 110, true), (Some(7), 110, true), (None, 120, false), (Some(7), 120, true)]
    {
        let (mut blocks, mut levels) = ([None], Levels::new(1));
        assert_eq!(map.lookup(LineId(1), at, lba, &mut blocks, &mut levels), Lookup::Complete);
        assert_eq!(blocks[0].map(|f| f.entry.is_lost()), Some(lost), "block {lba} as of {at:?}");
    }
    assert_eq!(map.holds(LineId(1), 110, &stored(4)), Held::No);
    assert_eq!(map.holds(LineId(1), 120, &stored(12)), Held::Yes);
    for (from, next) in [(0, NextStored::At(100)), (130, NextStored::At(130)), (150, NextStored::Nothing)] {
        let mut cursor = from;
        assert_eq!(map.next_stored(1, &mut cursor, u64::MAX), next);
    }
}

/// What is lost is older than its number: the batch that has this very number counts.
#[test]
fn the_first_batch_after_a_loss_counts() {
    use crate::format::page::PageRef;
    let entry = Entry { seq: 10, location: Location(3), check: 0, granules: 256, form: Form(0) };
    let slots = [
        (100, Version::Lost { until: 10, blocks: 50 }),
        (120, Version::Stored(entry)),
        (130, Version::Hole { seq: 10, blocks: 10 }),
    ];
    let name = PageName { pool: Uuid([0; 16]), line: 1, generation: 1 };
    let (page, bytes) = encode_leaf(&slots, PageRef::HISTORY | PageRef::HOLES, &name, Vec::new());
    let mut map = Map::new(1 << 16);
    let mut line = Line { nodes: vec![Node { page, leaves: vec![LeafRef::new(page)] }], ..Line::new(None) };
    Rc::make_mut(&mut line.now).add_snapshot(7, 0);
    map.lines.insert(1, line);
    map.leaf_read(LineId(1), &page, &bytes);
    let mut lost = |at, first, blocks| {
        let (mut found, mut levels) = (vec![None; blocks], Levels::new(blocks));
        assert_eq!(map.lookup(LineId(1), at, first, &mut found, &mut levels), Lookup::Complete);
        found.into_iter().map(|f| f.map(|f| f.entry.is_lost())).collect::<Vec<_>>()
    };
    for (at, stored, hole) in [(None, Some(false), None), (Some(7), Some(true), Some(true))] {
        assert_eq!(lost(at, 120, 1), [stored], "as of {at:?}");
        assert_eq!(lost(at, 135, 1), [hole], "as of {at:?}");
        assert_eq!(lost(at, 119, 3), [Some(true), stored, Some(true)], "as of {at:?}");
        assert_eq!(lost(at, 129, 2), [Some(true), hole], "as of {at:?}");
    }
}

#[test]
fn within_a_batch_the_later_record_wins() {
    let mut delta = LineDelta::default();
    let lineage = Lineage::new(None);
    let entry = Entry { seq: 5, location: Location(1), check: 0, granules: 256, form: Form(0) };
    delta.unmap(0, 10, 5, &lineage, |_| ());
    delta.insert(0, 3, entry, &lineage, |_| ());
    delta.insert(0, 7, entry, &lineage, |_| ());
    delta.unmap(7, 8, 5, &lineage, |_| ());
    let mut blocks = vec![Content::Stored(Entry { seq: 1, ..entry }); 10];
    delta.overlay(u64::MAX, 0, &mut blocks);
    let stored: Vec<usize> = (0..10).filter(|&i| matches!(blocks[i], Content::Stored(_))).collect();
    assert_eq!(stored, [3]);
}

/// What a read costs does not depend on the number of snapshots: one leaf is searched for a block, whatever the state.
#[test]
fn a_thousand_snapshots_cost_a_lookup_no_further_leaf() {
    let mut bench = Bench::new();
    for round in 0..1000 {
        bench.run(&Act::Write(PARENT, round % 5, 3));
        bench.run(&Act::Snapshot(PARENT));
        if round % 100 == 0 {
            bench.run(&Act::Full);
        }
    }
    bench.run(&Act::Full);
    let leaves: usize = bench.map.lines[&PARENT].nodes.iter().map(|n| n.leaves.len()).sum();
    assert!(leaves > 5, "{leaves} leaves");
    let points: Vec<u64> = bench.model[&PARENT].points.iter().copied().collect();
    assert_eq!(points.len(), 1000);
    for at in [None, Some(points[0]), Some(points[500]), Some(points[999])] {
        for lba in 0..7 {
            // Nothing is in memory but what the lookup asks for.
            let mut pages = std::mem::replace(&mut bench.map.cache, Cache::new(0));
            let (mut blocks, mut levels, mut searched) = (vec![None], Levels::new(1), 0);
            while let Lookup::Miss { line, page } =
                bench.map.lookup(LineId(PARENT), at, lba, &mut blocks, &mut levels)
            {
                searched += 1;
                let tree = &bench.map.lines[&line];
                let (node, leaf) = tree.find(page.first, page.seq).0.expect("it is there");
                let bytes =
                    pages.at(tree.nodes[node].leaves[leaf].hint, &page).expect("all are kept").to_vec();
                let before = bench.map.lines[&line].nodes[node].leaves[leaf].hint;
                bench.map.leaf_read(LineId(line), &page, &bytes);
                let outcome = bench.map.lookup(LineId(PARENT), at, lba, &mut blocks, &mut levels);
                assert_eq!(outcome, Lookup::Complete);
                bench.map.lines.get_mut(&line).unwrap().nodes[node].leaves[leaf].hint = before;
            }
            assert_eq!(searched, 1, "block {lba} at {at:?}");
            let want = bench.expected(PARENT, at.unwrap_or(u64::MAX), lba);
            assert_eq!(blocks[0].map(|f| (f.line, f.entry.location.0)), want);
            bench.map.cache = pages;
        }
    }
}
