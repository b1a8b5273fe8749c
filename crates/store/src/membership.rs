//! Who belongs to the pool: keeps the superblock, and writes a new one when a drive fails, leaves or is gone.
//!
//! A drive is out only once the superblock that says so is durable on every drive that remains. Until then no commit that lacks
//! its column counts. Whoever finds a drive wanting tells [`Membership::fail`]; the outcome comes from [`Membership::poll`].
//!
//! A try that fails may have got as far as drives that the next one, under the same number, does without. So that one is followed by
//! another before anything is done by it: **a drive that is out has no superblock with the number of one that was told.**

use crate::columns::{Shape, drive_bit};
use crate::format::superblock::{SUPERBLOCK_BYTES, Superblock};
use crate::message::{Joined, Members};
use crate::pool::{NewDrive, holds_superblock, place_for, replace_superblock, write_superblock};
use crate::shard::within;
use crate::{DriveState, Finding, LabelScrub, PoolPlan};
use dolmen_io::FileId;
use dolmen_io::exec::Handle;
use dolmen_types::Uuid;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// How long a superblock may take on one drive. Milliseconds.
const WRITE_MS: u64 = 5_000;

/// What has come of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is durable; with it a drive may have joined.
    Members(Members, Option<Joined>),
    /// More drives fail than the pool can lose.
    Stop(String),
}

/// How the writing of a superblock ended: the drive that could not, and why.
type Outcome = Result<(), (u16, String)>;

/// A superblock on its way to the drives.
struct Writing {
    block: Superblock,
    /// The place of a drive that joins by it.
    joins: Option<u16>,
    outcome: Rc<RefCell<Option<Outcome>>>,
}

/// A look at the superblocks of all drives.
struct Look {
    /// The number of the one that they are to have.
    sequence: u64,
    drives: u64,
    /// The drives that do not have it.
    wrong: Rc<RefCell<Option<Vec<u16>>>>,
}

/// See the module.
pub(crate) struct Membership {
    /// What is durable, and the next one goes on from.
    block: Superblock,
    /// The last of those that the pool goes by.
    told: Superblock,
    /// A try to write the next one has failed: drives may have it, under the number of the one that is written instead.
    tried: bool,
    /// A drive that is in service by what is durable, and not told yet.
    newcomer: Option<Joined>,
    /// This core's handles, by drive index.
    files: Vec<Option<FileId>>,
    /// Runs the writes; without one (tests of the bookkeeping) every change is durable at once.
    exec: Option<Handle>,
    /// States that are wanted and differ from the durable ones.
    wanted: BTreeMap<u16, DriveState>,
    /// The drive among them that is to be out although it does what it is told: it stays when the pool comes to need it.
    given_up: Option<u16>,
    /// A drive that is to join.
    joining: Option<NewDrive>,
    /// What has come of the last one that was.
    joined: Option<Result<Uuid, String>>,
    /// Why drives failed.
    reasons: BTreeMap<u16, String>,
    /// What is being written, and how that ended.
    writing: Option<Writing>,
    /// The superblocks are being read.
    look: Option<Look>,
    /// What the last look has found.
    looked: Option<LabelScrub>,
    /// A drive's superblock is not what was written, or the only one that it has, or one that was tried before: all get the next one.
    renew: bool,
    /// What was lost is made good but for what so many drives had, which the next superblock says.
    good: Option<usize>,
    stopped: bool,
}

impl Membership {
    /// The membership of a pool that was just opened.
    pub(crate) fn new(plan: &PoolPlan, files: &[Option<FileId>], exec: Option<Handle>) -> Membership {
        let has_one = |f: &Finding| matches!(f, Finding::Joined { .. } | Finding::Stale { .. });
        Membership {
            block: plan.superblock(),
            told: plan.superblock(),
            tried: false,
            newcomer: None,
            files: files.to_vec(),
            exec,
            wanted: BTreeMap::new(),
            given_up: None,
            joining: None,
            joined: None,
            reasons: plan.findings.iter().filter_map(lost).collect(),
            writing: None,
            look: None,
            looked: None,
            renew: plan.findings.iter().any(has_one),
            good: None,
            stopped: false,
        }
    }

    /// Where a drive stands, durably.
    pub(crate) fn state(&self, drive: u16) -> DriveState {
        state(&self.block, drive)
    }

    /// The same for people, to whom a drive is leaving from when that was asked for, or that it be given up: who waits for it to leave does
    /// not have to know that this takes a superblock first.
    pub(crate) fn shown(&self, drive: u16) -> DriveState {
        match (state(&self.told, drive), self.wanted.get(&drive)) {
            (DriveState::In, Some(DriveState::Leaving)) => DriveState::Leaving,
            (DriveState::In, Some(DriveState::Out)) if self.given_up == Some(drive) => DriveState::Leaving,
            (state, _) => state,
        }
    }

    /// Number of the superblock that the pool goes by.
    pub(crate) fn sequence(&self) -> u64 {
        self.told.sequence
    }

    /// Where the drives stand, for all who go by it.
    pub(crate) fn members(&self) -> Members {
        members(&self.told)
    }

    /// Why a drive that is out failed.
    pub(crate) fn reason(&self, drive: u16) -> Option<&str> {
        self.reasons.get(&drive).map(String::as_str)
    }

    /// A drive does not do what it is told.
    pub(crate) fn fail(&mut self, drive: u16, reason: String) {
        // One that was given up has no choice any more.
        let given_up = self.given_up.take_if(|d| *d == drive).is_some();
        if self.state(drive).counts() && (given_up || self.wanted.get(&drive) != Some(&DriveState::Out)) {
            self.wanted.insert(drive, DriveState::Out);
            self.reasons.insert(drive, reason);
        }
    }

    /// The pool is better without a drive that does what it is told, and [can spare](Membership::can_spare) it. Should another one fail before
    /// this is durable, it stays.
    pub(crate) fn give_up(&mut self, drive: u16, reason: String) {
        if self.state(drive).counts() {
            self.fail(drive, reason);
            self.given_up = Some(drive);
        }
    }

    /// True when as many drives as ever can be lost, and none is about to be.
    pub(crate) fn can_spare(&self) -> bool {
        let going = self.wanted.values().any(|&s| s == DriveState::Out);
        self.block.parity > 0 && self.block.deficit == 0 && !going
    }

    /// Whatever shards hold was begun with all its parity, and has columns on so many drives that are out.
    pub(crate) fn made_good(&mut self, out: usize) {
        // Whoever counts does not know of a drive that is out and not told yet.
        let knows_all = self.told.sequence == self.block.sequence;
        self.good = (knows_all && self.block.gains(out)).then_some(out);
    }

    /// A drive shall be emptied; false when it is not in service, or too few would remain.
    pub(crate) fn leave(&mut self, drive: u16) -> bool {
        let all = (0u16..).zip(&self.block.drives);
        let remaining =
            all.filter(|&(i, d)| i != drive && d.state == DriveState::In && !self.wanted.contains_key(&i));
        if self.state(drive) != DriveState::In || remaining.count() < 1 + usize::from(self.block.parity) {
            return false;
        }
        self.wanted.entry(drive).or_insert(DriveState::Leaving);
        true
    }

    /// A leaving drive shall stay; false for one that does not leave.
    pub(crate) fn stay(&mut self, drive: u16) -> bool {
        if self.shown(drive) != DriveState::Leaving || self.wanted.get(&drive) == Some(&DriveState::Out) {
            return false;
        }
        // Also when it was asked for only now that it leaves, and when it holds nothing any more.
        self.wanted.insert(drive, DriveState::In);
        true
    }

    /// A drive that is out or leaving holds nothing any more.
    pub(crate) fn emptied(&mut self, drive: u16) {
        if matches!(self.state(drive), DriveState::Out | DriveState::Leaving) {
            self.wanted.entry(drive).or_insert(DriveState::Gone);
        }
    }

    /// A drive that was made ready shall join. Refuses while another one does, and where there is no place.
    pub(crate) fn join(&mut self, drive: NewDrive) -> Result<(), String> {
        if self.stopped {
            return Err("the pool has stopped: more drives failed than it can lose".into());
        }
        if self.joining.is_some() || self.newcomer.is_some() {
            return Err("another drive is joining; try again in a moment".into());
        }
        place_for(&self.block, drive.entry.units)?;
        self.joining = Some(drive);
        self.joined = None;
        Ok(())
    }

    /// Takes what has come of a drive that was to join: its identity, or why it did not.
    pub(crate) fn take_joined(&mut self) -> Option<Result<Uuid, String>> {
        self.joined.take()
    }

    /// The drives, for all who go by them.
    pub(crate) fn told(&self) -> &Superblock {
        &self.told
    }

    /// The handle of a drive that is out or gone has been closed.
    pub(crate) fn detach(&mut self, drive: u16) {
        if let Some(file) = self.files.get_mut(usize::from(drive)) {
            *file = None;
        }
    }

    /// Reads the superblocks; drives that do not have the one in force get it back, and all get the next one.
    pub(crate) fn scrub(&mut self) {
        let (Some(exec), None, false) = (self.exec.clone(), &self.look, self.stopped) else { return };
        let counted = (0u16..).zip(&self.block.drives).filter(|(_, d)| d.state.counts()).map(|(i, _)| i);
        let drives: Vec<(u16, FileId)> =
            counted.filter_map(|i| Some((i, (*self.files.get(usize::from(i))?)?))).collect();
        let (wrong, block, handle) = (Rc::new(RefCell::new(None)), self.block.clone(), exec.clone());
        let (put, count) = (wrong.clone(), drives.len() as u64);
        let task = async move {
            let mut bad = Vec::new();
            for (index, file) in drives {
                if !holds_superblock(&handle, file, &block, index).await {
                    bad.push(index);
                }
            }
            *put.borrow_mut() = Some(bad);
            // One turn more, so that whoever looks once a turn sees it.
            handle.yield_now().await;
        };
        // A core with too many tasks looks another time.
        if exec.spawn(task).is_ok() {
            self.look = Some(Look { sequence: self.block.sequence, drives: count, wrong });
        }
    }

    /// Takes what the last look at the superblocks has found.
    pub(crate) fn take_scrubbed(&mut self) -> Option<LabelScrub> {
        self.looked.take()
    }

    /// Sees what has come of a look.
    fn end_look(&mut self) {
        let Some(wrong) = self.look.as_ref().and_then(|look| look.wrong.borrow_mut().take()) else { return };
        let Some(Look { sequence, drives, .. }) = self.look.take() else { return };
        // What was written meanwhile is none of what it looked for, and on drives that are to be out nothing is mended.
        let stays = |drive: &&u16| self.wanted.get(drive) != Some(&DriveState::Out);
        let mended =
            if sequence == self.block.sequence { wrong.iter().filter(stays).count() as u64 } else { 0 };
        self.renew |= mended > 0;
        self.looked = Some(LabelScrub { checked_bytes: drives * SUPERBLOCK_BYTES as u64, mended });
    }

    /// Goes on with what is to be changed; what has come of it.
    pub(crate) fn poll(&mut self) -> Option<Change> {
        if self.stopped {
            return None;
        }
        self.end_look();
        let outcome = self.writing.as_ref().and_then(|w| w.outcome.borrow_mut().take());
        if let Some(outcome) = outcome
            && let Some(Writing { block, joins, .. }) = self.writing.take()
        {
            self.tried |= outcome.is_err();
            match outcome {
                Ok(()) => {
                    if let Some(change) = self.in_force(block, joins) {
                        return Some(change);
                    }
                }
                Err((drive, reason)) if joins == Some(drive) => {
                    // Without it nothing has changed.
                    self.detach(drive);
                    self.joining = None;
                    self.joined = Some(Err(reason));
                }
                Err((drive, reason)) => self.fail(drive, reason),
            }
        }
        if self.writing.is_none() {
            let block = &self.block;
            self.wanted.retain(|&d, state| {
                let entry = block.drives.get(usize::from(d));
                entry.is_some_and(|e| e.state != *state && e.state != DriveState::Gone)
            });
            self.given_up = self.given_up.filter(|drive| self.wanted.contains_key(drive));
            if !self.wanted.is_empty() || self.joining.is_some() || self.renew || self.good.is_some() {
                return self.begin();
            }
        }
        None
    }

    /// A superblock has become durable on every drive that it counts. Nothing is told of one whose number others may have.
    fn in_force(&mut self, block: Superblock, joins: Option<u16>) -> Option<Change> {
        (self.block, self.renew, self.good) = (block, false, None);
        if let Some((drive, entry)) = joins.and_then(|d| Some((d, self.block.drives.get(usize::from(d))?))) {
            self.newcomer = Some(Joined { drive, uuid: entry.uuid, units: entry.units });
            (self.joining, self.renew) = (None, true);
            self.reasons.remove(&drive);
        }
        if std::mem::take(&mut self.tried) {
            self.renew = true;
            return None;
        }
        self.told = self.block.clone();
        let joined = self.take_newcomer();
        Some(Change::Members(self.members(), joined))
    }

    /// A drive that has joined can be told.
    fn take_newcomer(&mut self) -> Option<Joined> {
        let joined = self.newcomer.take()?;
        self.joined = Some(Ok(joined.uuid));
        Some(joined)
    }

    /// The place that a joining drive takes in a superblock.
    fn seat(&mut self, block: &mut Superblock) -> Option<u16> {
        let drive = self.joining.as_ref()?;
        let place = place_for(block, drive.entry.units).expect("join has looked, and places only come free");
        self.files.resize(self.files.len().max(place + 1), None);
        self.files[place] = Some(drive.file);
        block.seat(place, drive.entry.clone());
        Some(u16::try_from(place).expect("at most MAX_DRIVES"))
    }

    /// Starts to write what is wanted.
    fn begin(&mut self) -> Option<Change> {
        let mut block = self.block.clone();
        block.sequence += 1;
        if let Some(out) = self.good {
            block.make_good(out);
        }
        for (&drive, &state) in self.wanted.iter().filter(|(_, s)| **s != DriveState::Out) {
            block.drives[usize::from(drive)].state = state;
        }
        let failed = self.wanted.iter().filter(|(_, s)| **s == DriveState::Out).map(|(&d, _)| usize::from(d));
        if !block.lose(failed) {
            if let Some(drive) = self.given_up.take() {
                // A wish, which stands behind what has failed.
                self.wanted.remove(&drive);
                self.reasons.remove(&drive);
                return self.poll();
            }
            let failed = self.reasons.iter().map(|(&d, why)| {
                let path = self.block.drives.get(usize::from(d)).map_or("", |e| e.path.as_str());
                if why.contains(path) { why.clone() } else { format!("{path}: {why}") }
            });
            let reason = failed.collect::<Vec<_>>().join("; ");
            return Some(self.stop(reason));
        }
        let joins = self.seat(&mut block);
        assert!(block.covers_new() || !self.block.covers_new(), "what is begun now is covered: {block:?}");
        let Some(exec) = self.exec.clone() else {
            return self.in_force(block, joins);
        };
        let outcome = Rc::new(RefCell::new(None));
        let (put, files) = (outcome.clone(), self.files.clone());
        let (in_force, next) = (self.block.clone(), block.clone());
        let handle = exec.clone();
        let task = async move {
            let written = write(&handle, &files, &in_force, &next, joins).await;
            *put.borrow_mut() = Some(written);
            // One turn more, so that whoever looks once a turn sees it.
            handle.yield_now().await;
        };
        if exec.spawn(task).is_err() {
            return Some(self.stop("the core has too many tasks to record a change of the drives".into()));
        }
        self.writing = Some(Writing { block, joins, outcome });
        None
    }

    fn stop(&mut self, reason: String) -> Change {
        self.stopped = true;
        if self.joining.take().is_some() {
            self.joined = Some(Err(reason.clone()));
        }
        // One that counts is named by the next start.
        self.take_newcomer();
        Change::Stop(reason)
    }
}

/// Where a drive stands by a superblock.
fn state(block: &Superblock, drive: u16) -> DriveState {
    block.drives.get(usize::from(drive)).map_or(DriveState::Gone, |d| d.state)
}

/// Why a drive was out at the opening.
fn lost(finding: &Finding) -> Option<(u16, String)> {
    match finding {
        Finding::Lost { drive, reason, .. } => Some((*drive, reason.clone())),
        _ => None,
    }
}

/// Where the drives of a superblock stand.
pub(crate) fn members(block: &Superblock) -> Members {
    let mut members = Members::default();
    let mut active = 0;
    for (i, drive) in (0u16..).zip(&block.drives) {
        match drive.state {
            DriveState::In => active += 1,
            DriveState::Leaving => members.leaving |= drive_bit(i),
            DriveState::Out | DriveState::Gone => members.out |= drive_bit(i),
        }
    }
    members.shape = Shape::of(active.max(1), block.parity);
    members.spare = block.spare();
    members
}

/// Writes the next superblock durably to every drive that remains. One that joins by it goes first: cut short, it is a drive that no
/// other one knows, and not one that they miss.
async fn write(
    exec: &Handle,
    files: &[Option<FileId>],
    in_force: &Superblock,
    next: &Superblock,
    joins: Option<u16>,
) -> Outcome {
    let counted = (0u16..).zip(&next.drives).filter(|(_, d)| d.state.counts()).map(|(index, _)| index);
    for index in joins.into_iter().chain(counted.filter(|&index| Some(index) != joins)) {
        let Some(file) = files.get(usize::from(index)).copied().flatten() else {
            return Err((index, "the drive is not there".into()));
        };
        let writing = async {
            match joins {
                Some(joins) if joins == index => write_superblock(exec, file, next, index).await,
                _ => replace_superblock(exec, file, in_force, next, index).await,
            }
        };
        match within(exec, WRITE_MS, writing).await {
            Some(Ok(())) => {}
            Some(Err(error)) => return Err((index, error.to_string())),
            None => return Err((index, "the superblock could not be written in time".into())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PlanDrive;
    use crate::format::superblock::{DriveEntry, MAX_DRIVES};

    /// A pool whose table is full; the drive of `gone` has left, and had so many units.
    fn full(gone: usize, units: u32) -> Membership {
        let drive = |i: usize| PlanDrive {
            uuid: Uuid([u8::try_from(i).unwrap(); 16]),
            path: format!("d{i}"),
            serial: String::new(),
            units: if i == gone { units } else { 50 },
            state: if i == gone { DriveState::Gone } else { DriveState::In },
            fresh: false,
        };
        let plan = PoolPlan {
            pool: Uuid::NIL,
            incarnation: 1,
            unit_bytes: 1 << 20,
            shards: 1,
            parity: 1,
            deficit: 0,
            sequence: 1,
            drives: (0..MAX_DRIVES).map(drive).collect(),
            order: vec![None; MAX_DRIVES],
            created: false,
            findings: Vec::new(),
            let_go: Vec::new(),
        };
        Membership::new(&plan, &[], None)
    }

    fn new_drive(units: u32) -> NewDrive {
        let (serial, path) = (String::new(), "new".into());
        let entry =
            DriveEntry { uuid: Uuid([0xee; 16]), units, state: DriveState::In, fresh: false, serial, path };
        NewDrive { entry, file: FileId(7), was_out: false }
    }

    /// The newest checkpoint of a shard may still name a unit of the drive that has left: the one that takes its place has to have it.
    #[test]
    fn a_place_is_given_to_no_smaller_drive() {
        let mut members = full(9, 100);
        let why = members.join(new_drive(99)).unwrap_err();
        assert!(why.contains("100 units"), "{why}");
        members.join(new_drive(100)).unwrap();
        assert!(matches!(
            members.poll(),
            Some(Change::Members(_, Some(Joined { drive: 9, units: 100, .. })))
        ));
        assert!(full(MAX_DRIVES, 0).join(new_drive(100)).unwrap_err().contains("the most"));
    }
}
