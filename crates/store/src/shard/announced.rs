//! What queued batches will do to lines, so that a batch that builds on them can be judged when it is taken in.

use crate::map::Map;
use crate::{AppendError, Batch, LineAttributes, MAX_CLONE_DEPTH, Record};
use std::collections::VecDeque;

/// A change to a line's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineChange {
    Create { line: u64, attributes: LineAttributes },
    Clone { line: u64, parent: u64, at: u64 },
    Snapshot { line: u64, at: u64 },
    DropSnapshot { line: u64, at: u64 },
    Drop { line: u64 },
}

/// Changes of batches that were taken in and not applied yet, in order.
#[derive(Default)]
pub(crate) struct Announced {
    changes: VecDeque<LineChange>,
    /// How many of them, from the front, are in commits already.
    formed: usize,
}

impl Announced {
    /// A batch was taken in.
    pub(crate) fn add(&mut self, batch: &Batch) {
        self.changes.extend(changes(batch));
    }

    /// The batch at the head of the queue goes into a commit.
    pub(crate) fn form(&mut self, batch: &Batch) {
        self.formed += changes(batch).count();
    }

    /// The batch at the head of the queue is ended without being done.
    pub(crate) fn refuse(&mut self, batch: &Batch) {
        for _ in changes(batch) {
            self.changes.remove(self.formed);
        }
    }

    /// The oldest change was applied. At replay there is none.
    pub(crate) fn applied(&mut self) {
        if self.changes.pop_front().is_some() {
            self.formed = self.formed.saturating_sub(1);
        }
    }

    /// Nothing of what waits will happen.
    pub(crate) fn clear(&mut self) {
        self.changes.clear();
        self.formed = 0;
    }

    /// Changes to lines are in commits that are not applied: the map does not know yet what its points will be.
    pub(crate) fn is_under_way(&self) -> bool {
        self.formed > 0
    }

    /// Judges a batch by the lines as they will be before it.
    pub(crate) fn view<'a>(&'a self, map: &'a Map) -> Expected<'a> {
        Expected { map, waiting: &self.changes, own: Vec::new() }
    }
}

/// The lines as they will be.
pub(crate) struct Expected<'a> {
    map: &'a Map,
    waiting: &'a VecDeque<LineChange>,
    /// Changes of the batch that is judged.
    own: Vec<LineChange>,
}

impl Expected<'_> {
    /// Judges one record, and counts it as done for those behind it.
    pub(crate) fn record(&mut self, record: &Record, seq: u64) -> Result<(), AppendError> {
        self.judge(record).map_err(AppendError::Invalid)?;
        if matches!(record, Record::Snapshot { .. }) {
            let coming = self.all().filter(|c| matches!(c, LineChange::Snapshot { .. })).count();
            if self.map.points + coming >= crate::MAX_SNAPSHOTS_PER_SHARD {
                return Err(AppendError::SnapshotsFull);
            }
        }
        self.own.extend(change(record, seq));
        Ok(())
    }

    fn judge(&self, record: &Record) -> Result<(), &'static str> {
        match *record {
            Record::Write { line, .. } | Record::Unmap { line, .. } | Record::Snapshot { line } => {
                self.exists(line.0)
            }
            Record::CreateLine { line, .. } => self.is_new(line.0),
            Record::CloneLine { line, parent, at } => {
                self.is_new(line.0)?;
                if !self.has_snapshot(parent.0, at.0) {
                    return Err("a clone needs a snapshot that is there");
                }
                if self.depth(parent.0) >= MAX_CLONE_DEPTH {
                    return Err("more than MAX_CLONE_DEPTH lines would lie one over the other");
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn all(&self) -> impl DoubleEndedIterator<Item = &LineChange> {
        self.waiting.iter().chain(&self.own)
    }

    /// How a line comes into being, if a batch that waits makes it.
    fn origin(&self, line: u64) -> Option<&LineChange> {
        self.all().find(|c| match **c {
            LineChange::Create { line: l, .. } | LineChange::Clone { line: l, .. } => l == line,
            _ => false,
        })
    }

    /// A line is new unless there is anything of it, be it only what no checkpoint has freed yet.
    fn is_new(&self, line: u64) -> Result<(), &'static str> {
        let known = self.map.lines.contains_key(&line) || self.origin(line).is_some();
        if known { Err("a line that is made is a new one") } else { Ok(()) }
    }

    /// A line exists when it has a head, or when a batch that was taken in before makes it, or this very one.
    fn exists(&self, line: u64) -> Result<(), &'static str> {
        let known = self.map.lines.get(&line).is_some_and(|l| l.now.head) || self.origin(line).is_some();
        if known { Ok(()) } else { Err("the line does not exist") }
    }

    /// How the blocks of a line that there is or will be are stored. A clone is as its parent.
    pub(crate) fn attributes(&self, line: u64) -> Option<LineAttributes> {
        let mut line = line;
        for _ in 0..=MAX_CLONE_DEPTH {
            match (self.map.lines.get(&line), self.origin(line)) {
                (Some(applied), _) => return Some(applied.attributes),
                (None, Some(LineChange::Create { attributes, .. })) => return Some(*attributes),
                (None, Some(LineChange::Clone { parent, .. })) => line = *parent,
                (None, _) => return None,
            }
        }
        None
    }

    /// True when what is unmapped in a line may take slots in the map for good: there is something that holes hide.
    pub(crate) fn keeps_holes(&self, line: u64) -> bool {
        let now = self.map.lines.get(&line).map(|l| &l.now);
        now.is_some_and(|now| now.parent.is_some() || now.newest().is_some())
            || self.all().any(|change| match *change {
                LineChange::Clone { line: l, .. } | LineChange::Snapshot { line: l, .. } => l == line,
                _ => false,
            })
    }

    fn has_snapshot(&self, line: u64, at: u64) -> bool {
        let last = self.all().rev().find_map(|change| match *change {
            LineChange::Snapshot { line: l, at: a } if (l, a) == (line, at) => Some(true),
            LineChange::DropSnapshot { line: l, at: a } if (l, a) == (line, at) => Some(false),
            _ => None,
        });
        let applied = || self.map.lines.get(&line).and_then(|l| l.now.point(at)).is_some_and(|p| p.snapshot);
        last.unwrap_or_else(applied)
    }

    /// Lines from this one to its oldest ancestor.
    fn depth(&self, line: u64) -> usize {
        let parent = |line: u64| match self.origin(line) {
            Some(&LineChange::Clone { parent, .. }) => Some(parent),
            _ => self.map.lines.get(&line)?.now.parent.map(|p| p.0),
        };
        std::iter::successors(Some(line), |&l| parent(l)).take(MAX_CLONE_DEPTH + 1).count()
    }
}

/// What a batch does to lines.
fn changes(batch: &Batch) -> impl Iterator<Item = LineChange> + '_ {
    batch.records.iter().filter_map(|record| change(record, batch.seq.0))
}

fn change(record: &Record, seq: u64) -> Option<LineChange> {
    Some(match *record {
        Record::CreateLine { line, attributes } => LineChange::Create { line: line.0, attributes },
        Record::CloneLine { line, parent, at } => {
            LineChange::Clone { line: line.0, parent: parent.0, at: at.0 }
        }
        Record::Snapshot { line } => LineChange::Snapshot { line: line.0, at: seq },
        Record::DropSnapshot { line, at } => LineChange::DropSnapshot { line: line.0, at: at.0 },
        Record::DropLine { line } => LineChange::Drop { line: line.0 },
        Record::Write { .. } | Record::Unmap { .. } | Record::Put { .. } | Record::Delete { .. } => {
            return None;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MAX_SNAPSHOTS_PER_SHARD;
    use dolmen_types::LineId;

    /// One snapshot more than the shard may have is refused; whatever else is asked for is not.
    #[test]
    fn snapshots_end_at_their_bound() {
        let (mut map, announced) = (Map::new(1 << 16), Announced::default());
        map.points = MAX_SNAPSHOTS_PER_SHARD - 1;
        let mut lines = announced.view(&map);
        let line = LineId(1);
        lines.record(&Record::CreateLine { line, attributes: LineAttributes::default() }, 1).unwrap();
        lines.record(&Record::Snapshot { line }, 1).unwrap();
        assert_eq!(lines.record(&Record::Snapshot { line }, 2), Err(AppendError::SnapshotsFull));
        let unknown = Record::Snapshot { line: LineId(2) };
        assert!(matches!(lines.record(&unknown, 2), Err(AppendError::Invalid(_))));
        lines
            .record(&Record::CreateLine { line: LineId(2), attributes: LineAttributes::default() }, 2)
            .unwrap();
    }
}
