//! The plainest model of a group: what its batches have done.

use crate::common::*;
use std::collections::BTreeMap;

/// What the blocks of a line hold; those that are not named hold zeros.
pub(crate) type State = BTreeMap<u64, u64>;

/// A state that is kept: by a snapshot, or by clones alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) state: State,
    pub(crate) listed: bool,
    pub(crate) clones: u32,
}

/// Everything that one group's batches have done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) heads: BTreeMap<u64, State>,
    pub(crate) points: BTreeMap<(u64, u64), Kept>,
    pub(crate) parents: BTreeMap<u64, (u64, u64)>,
    /// Whether the blocks of a line are compressed; a clone is as its parent.
    pub(crate) compresses: BTreeMap<u64, bool>,
    pub(crate) objects: BTreeMap<u128, u64>,
}

#[derive(Clone, Debug)]
pub(crate) enum Change {
    Write(u64, u64, Vec<u64>),
    Unmap(u64, u64, u64),
    Put(u128, u64),
    Delete(u128),
    Create(u64),
    Drop(u64),
    Snapshot(u64),
    DropSnapshot(u64, u64),
    Clone(u64, u64, u64),
}

impl Model {
    pub(crate) fn apply(&mut self, changes: &[Change], seq: u64) {
        for change in changes {
            match change {
                Change::Write(line, lba, values) => {
                    let head = self.heads.get_mut(line).unwrap();
                    for (lba, &value) in (*lba..).zip(values) {
                        head.insert(lba, value);
                    }
                    head.retain(|_, v| *v != 0);
                }
                Change::Unmap(line, lba, n) => {
                    let head = self.heads.get_mut(line).unwrap();
                    head.extract_if(*lba..lba + n, |_, _| true).for_each(drop);
                }
                Change::Put(id, value) => drop(self.objects.insert(*id, *value)),
                Change::Delete(id) => drop(self.objects.remove(id)),
                Change::Create(line) => {
                    self.compresses.insert(*line, attributes(*line).compress);
                    self.heads.insert(*line, State::new());
                }
                Change::Drop(line) => {
                    self.heads.remove(line);
                    self.tidy(*line);
                }
                Change::Snapshot(line) => {
                    let kept = Kept { state: self.heads[line].clone(), listed: true, clones: 0 };
                    self.points.insert((*line, seq), kept);
                }
                Change::DropSnapshot(line, at) => {
                    self.points.get_mut(&(*line, *at)).unwrap().listed = false;
                    self.tidy(*line);
                }
                Change::Clone(line, parent, at) => {
                    self.compresses.insert(*line, self.compresses[parent]);
                    let point = self.points.get_mut(&(*parent, *at)).unwrap();
                    point.clones += 1;
                    self.heads.insert(*line, point.state.clone());
                    self.parents.insert(*line, (*parent, *at));
                }
            }
        }
    }

    /// Points that nothing keeps go; a line without head and points lets go of its parent.
    pub(crate) fn tidy(&mut self, line: u64) {
        self.points.retain(|(l, _), p| *l != line || p.listed || p.clones > 0);
        if !self.heads.contains_key(&line)
            && self.points.range((line, 0)..(line + 1, 0)).next().is_none()
            && let Some((parent, at)) = self.parents.remove(&line)
        {
            self.points.get_mut(&(parent, at)).unwrap().clones -= 1;
            self.tidy(parent);
        }
    }

    /// Something of a line is left: a head, or a state that somebody can read.
    pub(crate) fn knows(&self, line: u64) -> bool {
        self.heads.contains_key(&line) || self.points.keys().any(|(l, _)| *l == line)
    }

    pub(crate) fn depth(&self, line: u64) -> usize {
        1 + self.parents.get(&line).map_or(0, |(parent, _)| self.depth(*parent))
    }

    pub(crate) fn snapshots(&self) -> Vec<(u64, u64)> {
        self.points.iter().filter(|(_, p)| p.listed).map(|(k, _)| *k).collect()
    }

    /// What has to be kept of a state: all of it, but of one that a single clone alone shows what that clone still shows.
    pub(crate) fn kept(&self, line: u64, at: u64) -> State {
        let point = &self.points[&(line, at)];
        let alone = !self.heads.contains_key(&line)
            && self.points.range((line, 0)..(line + 1, 0)).count() == 1
            && !point.listed
            && point.clones == 1;
        let Some(heir) = self.parents.iter().find(|(_, p)| alone && **p == (line, at)).map(|(l, _)| *l)
        else {
            return point.state.clone();
        };
        let oldest = self.points.range((heir, 0)..(heir + 1, 0)).next().map(|((_, at), _)| *at);
        let shown = oldest.map_or_else(|| self.heads[&heir].clone(), |at| self.kept(heir, at));
        point.state.iter().filter(|(lba, v)| shown.get(lba) == Some(v)).map(|(lba, v)| (*lba, *v)).collect()
    }

    /// Bytes that must be stored: every value was written once.
    pub(crate) fn stored(&self) -> usize {
        let heads = self.heads.iter().map(|(line, s)| (*line, s.clone()));
        let states = heads.chain(self.points.keys().map(|&(line, at)| (line, self.kept(line, at))));
        let values = states.flat_map(|(line, s)| s.into_values().map(move |v| (v, self.compresses[&line])));
        let all: BTreeMap<u64, bool> = values.collect();
        all.into_iter().map(|(value, compressed)| stored_bytes(value, compressed)).sum()
    }
}

/// Bytes that a block of this value takes.
pub(crate) fn stored_bytes(value: u64, compressed: bool) -> usize {
    let (mut block, mut out) = ([0; BLOCK], [0; 2 * BLOCK]);
    fill(&mut block, value);
    let packed = dolmen_kernels::lz4::Lz4::new().compress(&block, &mut out).unwrap() + 2;
    let packed = packed.next_multiple_of(16);
    if compressed && packed <= BLOCK - BLOCK / 8 { packed } else { BLOCK }
}
