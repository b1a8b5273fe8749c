//! Crash enumeration: what happened to the drives is recorded, and every state that a power cut could have left behind
//! is made from the record.
//!
//! Between two points at which writes become safe, the set of writes at risk only grows. So it is enough to cut the
//! power right before each such point, and at the end: every subset of the writes at risk there covers all cuts since
//! the point before. Small sets are enumerated wholly; of larger ones come the empty and the full set, each write alone
//! dropped, each alone kept, and then random fates with torn writes, up to a bound.

use crate::{
    DriveSpec, Image, NodeId, Rng, World,
    drive::{Drive, Outcome, Payload, WriteId},
};
use std::{
    collections::{BTreeSet, VecDeque},
    path::PathBuf,
};

#[derive(Clone, Debug)]
pub(crate) enum Entry {
    Start {
        drive: usize,
        id: WriteId,
        offset: u64,
        payload: Payload,
        durable: bool,
    },
    Finish {
        drive: usize,
        id: WriteId,
    },
    Fail {
        drive: usize,
        id: WriteId,
        outcome: Outcome,
    },
    Flush {
        drive: usize,
        covered: Vec<WriteId>,
    },
    Mark(u64),
    /// A drive was put under this index.
    Drive {
        at: usize,
        node: NodeId,
        path: PathBuf,
        drive: Drive,
    },
}

/// What happened to the drives of a world, in order.
#[derive(Clone, Debug)]
pub struct Recording {
    drives: Vec<(NodeId, PathBuf, Drive)>,
    entries: Vec<Entry>,
}

/// Bounds of an enumeration.
#[derive(Clone, Copy, Debug)]
pub struct CrashLimits {
    /// States made at one point in time at most.
    pub per_point: usize,
    /// States in all at most; points are thinned evenly when there would be more.
    pub total: usize,
    /// Seed of the random fates.
    pub seed: u64,
}

impl Default for CrashLimits {
    fn default() -> CrashLimits {
        CrashLimits { per_point: 64, total: 10_000, seed: 1 }
    }
}

/// What one power cut left behind.
#[derive(Clone, Debug)]
pub struct CrashState {
    /// The drives' contents.
    pub drives: Vec<(NodeId, PathBuf, DriveSpec, Image)>,
    /// The last mark before the cut, if there was one.
    pub mark: Option<u64>,
    /// Where the power was cut and which writes survived, for people.
    pub label: String,
}

impl Recording {
    pub(crate) fn new(drives: Vec<(NodeId, PathBuf, Drive)>) -> Recording {
        Recording { drives, entries: Vec::new() }
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// Things that happened.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when nothing happened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The states that a power cut could have left, at any moment of the recording.
    #[must_use]
    pub fn crash_states(&self, limits: CrashLimits) -> CrashStates {
        let durable: BTreeSet<WriteId> = self
            .entries
            .iter()
            .filter_map(|e| match e {
                Entry::Start { id, durable: true, .. } => Some(*id),
                _ => None,
            })
            .collect();
        let makes_safe = |entry: &Entry| match entry {
            Entry::Flush { .. } => true,
            Entry::Finish { id, .. } => durable.contains(id),
            _ => false,
        };
        let points = self.entries.iter().enumerate().filter(|(_, e)| makes_safe(e)).map(|(i, _)| i);
        let points: Vec<usize> = points.chain([self.entries.len()]).collect();
        let most = (limits.total / limits.per_point.max(1)).max(1);
        let thinned = if points.len() <= most {
            points
        } else {
            (0..most).map(|i| points[(i + 1) * points.len() / most - 1]).collect()
        };
        CrashStates {
            recording: self.clone(),
            position: 0,
            mark: None,
            points: thinned.into(),
            made: VecDeque::new(),
            rng: Rng::new(limits.seed),
            limits,
        }
    }

    /// The drives' states move on by one entry.
    fn replay(&mut self, at: usize) -> Option<u64> {
        match self.entries[at].clone() {
            Entry::Start { drive, id, offset, payload, durable } => {
                self.drives[drive].2.start_write(id, offset, payload, durable);
            }
            Entry::Finish { drive, id } => self.drives[drive].2.finish_write(id),
            Entry::Fail { drive, id, outcome } => self.drives[drive].2.fail_write(id, &outcome),
            Entry::Flush { drive, covered } => self.drives[drive].2.finish_flush(&covered),
            Entry::Mark(mark) => return Some(mark),
            Entry::Drive { at, node, path, drive } => match self.drives.get_mut(at) {
                Some(there) => *there = (node, path, drive),
                None => self.drives.push((node, path, drive)),
            },
        }
        None
    }
}

/// Iterates over crash states, see [`Recording::crash_states`].
pub struct CrashStates {
    recording: Recording,
    position: usize,
    mark: Option<u64>,
    points: VecDeque<usize>,
    made: VecDeque<CrashState>,
    rng: Rng,
    limits: CrashLimits,
}

impl Iterator for CrashStates {
    type Item = CrashState;

    fn next(&mut self) -> Option<CrashState> {
        while self.made.is_empty() {
            let point = self.points.pop_front()?;
            while self.position < point {
                self.mark = self.recording.replay(self.position).or(self.mark);
                self.position += 1;
            }
            self.cut_here();
        }
        self.made.pop_front()
    }
}

impl CrashStates {
    fn cut_here(&mut self) {
        let at_risk: Vec<WriteId> =
            self.recording.drives.iter().flat_map(|(_, _, drive)| drive.at_risk()).collect();
        for fates in fates(at_risk.len(), self.limits.per_point, &mut self.rng) {
            let fate = |id: WriteId| {
                let at = at_risk.iter().position(|&w| w == id).expect("it is at risk");
                fates[at].clone()
            };
            let mut drives = Vec::new();
            for (node, path, drive) in &self.recording.drives {
                let mut drive = drive.clone();
                drive.cut_power(fate);
                drives.push((*node, path.clone(), drive.spec.clone(), drive.current().clone()));
            }
            let survivors: String = fates
                .iter()
                .map(|f| match f {
                    Outcome::Kept => 'k',
                    Outcome::Dropped => '-',
                    Outcome::Torn(_) => 't',
                })
                .collect();
            let label = format!("cut after event {} of {}: {survivors}", self.position, self.recording.len());
            self.made.push_back(CrashState { drives, mark: self.mark, label });
        }
    }
}

/// Fates of `n` writes, in at most `most` variants.
fn fates(n: usize, most: usize, rng: &mut Rng) -> Vec<Vec<Outcome>> {
    let pick = |keep: bool| if keep { Outcome::Kept } else { Outcome::Dropped };
    let mut all: Vec<Vec<Outcome>> = Vec::new();
    if n < 16 && (1usize << n) <= most {
        all.extend((0..1usize << n).map(|set| (0..n).map(|i| pick(set & (1 << i) != 0)).collect()));
    } else {
        all.push(vec![Outcome::Dropped; n]);
        all.push(vec![Outcome::Kept; n]);
        // Neighbours matter most: the newest writes first.
        for i in (0..n).rev() {
            all.push((0..n).map(|j| pick(i != j)).collect());
            all.push((0..n).map(|j| pick(j < i)).collect());
            all.push((0..n).map(|j| pick(i == j)).collect());
            if all.len() * 2 >= most {
                break;
            }
        }
        all.truncate(most);
    }
    let torn = if n == 0 { 0 } else { most.saturating_sub(all.len()).min(8 * n) };
    for _ in 0..torn {
        let some = rng.index(n);
        let fate = |i: usize, rng: &mut Rng| match rng.below(3) {
            _ if i == some => Outcome::Torn(rng.next_u64()),
            0 => Outcome::Kept,
            1 => Outcome::Dropped,
            _ => Outcome::Torn(rng.next_u64()),
        };
        all.push((0..n).map(|i| fate(i, rng)).collect());
    }
    all
}

impl World {
    /// A new world whose drives hold what a power cut left.
    #[must_use]
    pub fn restore(seed: u64, state: &CrashState) -> World {
        let world = World::new(seed);
        for (node, path, spec, image) in &state.drives {
            world.put_drive(*node, path, spec.clone(), image.clone());
        }
        world
    }
}
