//! What hosts and users do.

use crate::common::*;
use crate::run::Run;
use crate::state::*;
use dolmen_store::*;

impl Run {
    pub(crate) fn changes(&mut self, g: usize) -> Vec<Change> {
        if self.groups[g].expected.heads.len() < 2 {
            return vec![Change::Create(self.fresh_line(g))];
        }
        if self.versions && self.below(8) == 0 {
            return self.version_changes(g);
        }
        let lines: Vec<u64> = self.groups[g].expected.heads.keys().copied().collect();
        let mut changes = Vec::new();
        for _ in 0..=self.below(2) {
            let line = lines[self.below(lines.len() as u64) as usize];
            let lba = self.below(self.blocks);
            let n = 1 + self.below(6).min(self.blocks - lba - 1);
            let writes = if self.crowded { 37 } else { 28 };
            let change = match self.below(41) {
                die if die < writes => {
                    let values = (0..n).map(|_| {
                        self.fresh += 1;
                        self.origins.insert(self.fresh, line);
                        if self.rng.next_u64().is_multiple_of(8) { 0 } else { self.fresh }
                    });
                    Change::Write(line, lba, values.collect())
                }
                28..34 => Change::Unmap(line, lba, n * (1 + self.rng.next_u64() % 10)),
                37 => Change::Unmap(line, lba, n),
                34..36 | 38 => Change::Put(u128::from(lba % 7), self.fresh),
                36 => Change::Delete(u128::from(lba % 7)),
                // A volume becomes smaller: all beyond its new end goes, and its definition with the new size comes, in one batch.
                40 => {
                    changes.push(Change::Unmap(line, lba, 1 << 40));
                    Change::Put(u128::from(line % 7), self.fresh)
                }
                _ => {
                    changes.push(Change::Drop(line));
                    break;
                }
            };
            changes.push(change);
        }
        changes
    }

    /// A snapshot, a clone, a rollback, or something of the kind goes.
    pub(crate) fn version_changes(&mut self, g: usize) -> Vec<Change> {
        let model = self.groups[g].expected.clone();
        let heads: Vec<u64> = model.heads.keys().copied().collect();
        let head = heads[self.below(heads.len() as u64) as usize];
        let snapshots = model.snapshots();
        // In a crowded pool few states are kept, so that all of them always fit.
        let most = if self.crowded { 2 } else { 4 };
        if snapshots.is_empty() || (snapshots.len() < most && self.below(3) == 0) {
            // Now and then of two lines at one instant.
            let mut changes = vec![Change::Snapshot(head)];
            if let Some(other) =
                heads.iter().find(|h| **h != head).filter(|_| self.rng.next_u64().is_multiple_of(3))
            {
                changes.push(Change::Snapshot(*other));
            }
            return changes;
        }
        let (line, at) = snapshots[self.below(snapshots.len() as u64) as usize];
        let may_clone = model.depth(line) < MAX_CLONE_DEPTH && model.points.len() < 2 * most;
        match self.below(4) {
            0 if heads.len() < 3 && may_clone => vec![Change::Clone(self.fresh_line(g), line, at)],
            1 if may_clone => {
                vec![Change::Clone(self.fresh_line(g), line, at), Change::Drop(head)]
            }
            2 if heads.len() > 2 => vec![Change::Drop(head)],
            _ => vec![Change::DropSnapshot(line, at)],
        }
    }

    pub(crate) fn records(&self, changes: &[Change]) -> Vec<Record> {
        let record = |change: &Change| match change {
            Change::Write(line, lba, values) => self.node.write(*line, *lba, values),
            Change::Unmap(line, lba, n) => unmap(*line, *lba, *n),
            Change::Put(id, value) => {
                Record::Put { key: key(*id), value: vec![*value as u8; 1 + *id as usize * 100].into() }
            }
            Change::Delete(id) => Record::Delete { key: key(*id) },
            Change::Create(line) => create_some_kind(*line),
            Change::Drop(line) => drop_line(*line),
            Change::Snapshot(line) => snapshot(*line),
            Change::DropSnapshot(line, at) => drop_snapshot(*line, *at),
            Change::Clone(line, parent, at) => clone_line(*line, *parent, *at),
        };
        changes.iter().map(record).collect()
    }

    pub(crate) fn send(&mut self, g: usize) {
        let changes = self.changes(g);
        self.send_changes(g, changes);
    }

    pub(crate) fn send_changes(&mut self, g: usize, changes: Vec<Change>) {
        let (pg, seq) = (self.groups[g].pg, self.groups[g].sent + 1);
        let ticket = loop {
            let records = self.records(&changes);
            match self.node.append(pg, seq, records) {
                Ok(ticket) => break ticket,
                // The queue is at its bound: some turns later it is not.
                Err(AppendError::Busy) => (0..20).for_each(|_| self.node.turn()),
                Err(AppendError::Full) => {
                    self.refused += 1;
                    return;
                }
                Err(other) => panic!("{other:?}: {changes:?}"),
            }
        };
        self.groups[g].sent = seq;
        self.groups[g].expected.apply(&changes, seq);
        self.groups[g].under_way.push((seq, ticket, changes));
    }
}
