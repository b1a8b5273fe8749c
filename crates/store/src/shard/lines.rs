//! Lines that come, branch and go: what the records of commits do to them.

use super::Shard;
use super::checkpoint::heirs_of;
use crate::LineAttributes;
use crate::map::{Hold, Line};
use std::rc::Rc;

impl Shard {
    /// A new, empty line.
    pub(super) fn create_line(&mut self, line: u64, attributes: LineAttributes) {
        self.map.lines.entry(line).or_insert_with(|| Line { attributes, ..Line::new(None) });
    }

    /// The line's state after this batch is kept.
    pub(super) fn take_snapshot(&mut self, line: u64, seq: u64) {
        let Some(tree) = self.map.lines.get(&line).filter(|l| l.now.head) else { return };
        let mapped = self.map.mapped(line, tree);
        let Some(tree) = self.map.lines.get_mut(&line) else { return };
        self.map.points += usize::from(Rc::make_mut(&mut tree.now).add_snapshot(seq, mapped));
    }

    /// Nobody but clones needs that point from now on.
    pub(super) fn drop_snapshot(&mut self, line: u64, at: u64) {
        let held = |l: &&mut Line| l.now.point(at).is_some_and(|p| p.snapshot);
        if self.map.lines.get_mut(&line).filter(held).is_some() {
            self.release(line, at, Hold::Snapshot);
        }
    }

    /// A new line over a point of another. `append` has seen to it that the point is there, and replay begins with the very
    /// points that were there; without it there is no line rather than a wrong one.
    pub(super) fn clone_line(&mut self, line: u64, parent: u64, at: u64) {
        if self.map.lines.contains_key(&line) {
            return;
        }
        let pinned = self.map.lines.get_mut(&parent).is_some_and(|p| Rc::make_mut(&mut p.now).pin(at));
        let attributes = self.map.lines.get(&parent).map(|p| p.attributes).unwrap_or_default();
        debug_assert!(
            pinned,
            "line {line} is cloned from snapshot {at} of line {parent}, which is not there"
        );
        if pinned {
            self.map.lines.insert(line, Line { attributes, ..Line::new(Some((parent, at))) });
        }
    }

    /// The line's newest state is needed no more.
    pub(super) fn drop_line(&mut self, line: u64) {
        let Some(tree) = self.map.lines.get_mut(&line).filter(|l| l.now.head) else { return };
        Rc::make_mut(&mut tree.now).head = false;
        self.shrink(line);
    }

    /// A point loses what kept it.
    fn release(&mut self, line: u64, at: u64, hold: Hold) {
        let Some(tree) = self.map.lines.get_mut(&line) else { return };
        if Rc::make_mut(&mut tree.now).release(at, hold) {
            let deltas = self.map.frozen.iter_mut().chain(std::iter::once(&mut self.map.live));
            deltas.for_each(|delta| delta.point_gone(line, at, &tree.now));
            self.map.points -= 1;
        } else if tree.now.inherited().is_none() {
            return;
        }
        self.shrink(line);
    }

    /// Less of a line is needed: a state of it is gone, or what its heir hides is from now on. The line may then hide more of the one
    /// that it is heir to. If that was the last of it the line goes, and with it its hold on its parent.
    fn shrink(&mut self, line: u64) {
        self.checkpoint.dropping = true;
        let (mut next, mut inherited) = (Some(line), false);
        while let Some(tree) = next.and_then(|line| self.map.lines.get_mut(&line)) {
            tree.shrunk = true;
            inherited |= tree.now.inherited().is_some();
            next = tree
                .now
                .parent
                .map(|p| p.0)
                .filter(|parent| self.map.lines.get(parent).is_some_and(|p| p.now.inherited().is_some()));
        }
        if inherited {
            self.checkpoint.heirs = heirs_of(&self.map);
        }
        if self.map.lines.get(&line).is_some_and(|tree| tree.now.is_doomed()) {
            self.doom(line);
        }
    }

    /// Nothing of a line can be read any more. Depth is bounded by that of clones.
    fn doom(&mut self, line: u64) {
        if let Some(delta) = self.map.live.remove(line) {
            delta.entries().for_each(|(_, e)| self.segments.sub_delta(e));
        }
        if let Some((parent, at)) = self.map.lines.get(&line).and_then(|l| l.now.parent) {
            self.release(parent, at, Hold::Clone);
        }
    }
}
