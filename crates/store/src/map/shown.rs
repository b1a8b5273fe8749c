//! Which states show a version of a block: its line as it is now, snapshots of it, and clones that have nothing of their own there.

use super::{Content, Entry, Map};
use crate::View;
use crate::format::page::PageRef;
use dolmen_types::{LineId, Seq};
use std::collections::BTreeMap;

/// Of each line, those that were cloned from it, and from which point.
pub(crate) type Clones = BTreeMap<u64, Vec<(u64, u64)>>;

/// What a line holds of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holding {
    /// This version at this place.
    Version(Entry),
    /// Nobody knows what.
    Lost,
    /// Nothing.
    Nothing,
}

impl Holding {
    fn is(&self, content: Content) -> bool {
        match (self, content) {
            (Holding::Version(wanted), Content::Stored(entry)) => *wanted == entry,
            (Holding::Lost, Content::Lost(_)) | (Holding::Nothing, Content::Nothing) => true,
            _ => false,
        }
    }
}

impl Map {
    /// Who was cloned from whom.
    pub(crate) fn clones(&self) -> Clones {
        let mut clones = Clones::new();
        for (&line, tree) in &self.lines {
            if let Some((parent, at)) = tree.now.parent {
                clones.entry(parent).or_default().push((line, at));
            }
        }
        clones
    }

    /// The states that show what a line holds of a block. `lost` are leaves that can't be had: what only they say is lost. Another leaf
    /// that is not in memory is named, to be read first, with its line.
    pub(crate) fn shown(
        &mut self,
        clones: &Clones,
        (line, lba): (u64, u64),
        held: Holding,
        lost: &[PageRef],
    ) -> Result<Vec<View>, (u64, PageRef)> {
        let (mut views, mut next) = (Vec::new(), vec![(line, held)]);
        while let Some((line, held)) = next.pop() {
            let states = self.states(line, lba, held, lost)?;
            let Some(tree) = self.lines.get(&line) else { continue };
            for &at in &states {
                if at == u64::MAX {
                    views.push(View { line: LineId(line), at: None });
                } else if tree.now.point(at).is_some_and(|point| point.snapshot) {
                    views.push(View { line: LineId(line), at: Some(Seq(at)) });
                }
            }
            let heirs = clones.get(&line).into_iter().flatten();
            next.extend(
                heirs.filter(|(_, at)| states.contains(at)).map(|(heir, _)| (*heir, Holding::Nothing)),
            );
        }
        views.sort_unstable();
        Ok(views)
    }

    /// The states of a line itself, by number, in which it holds this of a block: they follow each other.
    fn states(
        &mut self,
        line: u64,
        lba: u64,
        held: Holding,
        lost: &[PageRef],
    ) -> Result<Vec<u64>, (u64, PageRef)> {
        let Some(tree) = self.lines.get(&line) else { return Ok(Vec::new()) };
        let from = if let Holding::Version(entry) = held { entry.seq } else { 0 };
        let points = tree.now.points().iter().map(|p| p.seq).filter(|at| *at >= from);
        let all: Vec<u64> = points.chain(tree.now.head.then_some(u64::MAX)).collect();
        let mut states = Vec::new();
        for at in all {
            let mut content = [Content::Nothing];
            let (_, missing) = self.search(line, at, lba, &mut content, None);
            if let Some(page) = missing {
                if !lost.contains(&page) {
                    return Err((line, page));
                }
                if content == [Content::Nothing] {
                    content = [Content::Lost(0)];
                }
            }
            if held.is(content[0]) {
                states.push(at);
            } else if !states.is_empty() {
                break;
            }
        }
        Ok(states)
    }
}
