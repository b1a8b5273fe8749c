//! Who belongs to the pool: keeps the superblock, and writes a new one when a drive fails, leaves or is gone.
//!
//! A drive is out only once the superblock that says so is durable on every drive that remains. Until then no commit that lacks
//! its column counts. Whoever finds a drive wanting tells [`Membership::fail`]; the outcome comes from [`Membership::poll`].

use crate::columns::{Shape, drive_bit};
use crate::format::superblock::Superblock;
use crate::message::Members;
use crate::pool::write_superblock;
use crate::shard::within;
use crate::{DriveState, Finding, PoolPlan};
use dolmen_io::FileId;
use dolmen_io::exec::Handle;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// How long a superblock may take on one drive. Milliseconds.
const WRITE_MS: u64 = 5_000;

/// What has come of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is durable.
    Members(Members),
    /// More drives fail than the pool can lose.
    Stop(String),
}

/// How the writing of a superblock ended: the drive that could not, and why.
type Outcome = Result<(), (u16, String)>;

/// See the module.
pub(crate) struct Membership {
    /// What is durable.
    block: Superblock,
    /// This core's handles, by drive index.
    files: Vec<Option<FileId>>,
    /// Runs the writes; without one (tests of the bookkeeping) every change is durable at once.
    exec: Option<Handle>,
    /// States that are wanted and differ from the durable ones.
    wanted: BTreeMap<u16, DriveState>,
    /// Why drives failed.
    reasons: BTreeMap<u16, String>,
    /// What is being written, and how that ended.
    writing: Option<(Superblock, Rc<RefCell<Option<Outcome>>>)>,
    stopped: bool,
}

impl Membership {
    /// The membership of a pool that was just opened.
    pub(crate) fn new(plan: &PoolPlan, files: &[Option<FileId>], exec: Option<Handle>) -> Membership {
        Membership {
            block: plan.superblock(),
            files: files.to_vec(),
            exec,
            wanted: BTreeMap::new(),
            reasons: plan.findings.iter().filter_map(lost).collect(),
            writing: None,
            stopped: false,
        }
    }

    /// Where a drive stands, durably.
    pub(crate) fn state(&self, drive: u16) -> DriveState {
        self.block.drives.get(usize::from(drive)).map_or(DriveState::Gone, |d| d.state)
    }

    /// Number of the superblock that is durable.
    pub(crate) fn sequence(&self) -> u64 {
        self.block.sequence
    }

    /// Where the drives stand, durably.
    pub(crate) fn members(&self) -> Members {
        members(&self.block)
    }

    /// Why a drive that is out failed.
    pub(crate) fn reason(&self, drive: u16) -> Option<&str> {
        self.reasons.get(&drive).map(String::as_str)
    }

    /// A drive does not do what it is told.
    pub(crate) fn fail(&mut self, drive: u16, reason: String) {
        if self.state(drive).counts() && self.wanted.get(&drive) != Some(&DriveState::Out) {
            self.wanted.insert(drive, DriveState::Out);
            self.reasons.insert(drive, reason);
        }
    }

    /// True when no drive is out or about to be: one more can be lost.
    pub(crate) fn can_spare(&self) -> bool {
        let out = self.block.drives.iter().any(|d| d.state == DriveState::Out);
        self.block.parity > 0 && !out && !self.wanted.values().any(|&s| s == DriveState::Out)
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

    /// A leaving drive shall stay.
    pub(crate) fn stay(&mut self, drive: u16) {
        if self.state(drive) == DriveState::Leaving {
            self.wanted.entry(drive).or_insert(DriveState::In);
        }
    }

    /// A drive that is out or leaving holds nothing any more.
    pub(crate) fn emptied(&mut self, drive: u16) {
        if matches!(self.state(drive), DriveState::Out | DriveState::Leaving) {
            self.wanted.entry(drive).or_insert(DriveState::Gone);
        }
    }

    /// Goes on with what is to be changed; what has come of it.
    pub(crate) fn poll(&mut self) -> Option<Change> {
        if self.stopped {
            return None;
        }
        let mut change = None;
        if let Some((_, outcome)) = &self.writing {
            let outcome = outcome.borrow_mut().take();
            match (outcome, self.writing.take()) {
                (None, writing) => self.writing = writing,
                (Some(Ok(())), Some((block, _))) => {
                    self.block = block;
                    change = Some(Change::Members(self.members()));
                }
                (Some(Err((drive, reason))), _) => {
                    self.wanted.insert(drive, DriveState::Out);
                    self.reasons.insert(drive, reason);
                }
                (Some(Ok(())), None) => {}
            }
        }
        if self.writing.is_none() {
            let block = &self.block;
            self.wanted.retain(|&d, state| {
                block
                    .drives
                    .get(usize::from(d))
                    .is_some_and(|e| e.state != *state && !(e.state == DriveState::Gone))
            });
            if !self.wanted.is_empty() {
                return change.or_else(|| self.begin());
            }
        }
        change
    }

    /// Starts to write what is wanted.
    fn begin(&mut self) -> Option<Change> {
        let mut block = self.block.clone();
        block.sequence += 1;
        for (&drive, &state) in &self.wanted {
            block.drives[usize::from(drive)].state = state;
        }
        let out = block.drives.iter().filter(|d| d.state == DriveState::Out).count();
        if out > usize::from(block.parity) || !block.drives.iter().any(|d| d.state.counts()) {
            self.stopped = true;
            let failed = self.reasons.iter().map(|(&d, why)| {
                let path = self.block.drives.get(usize::from(d)).map_or("", |e| e.path.as_str());
                if why.contains(path) { why.clone() } else { format!("{path}: {why}") }
            });
            return Some(Change::Stop(failed.collect::<Vec<_>>().join("; ")));
        }
        let Some(exec) = self.exec.clone() else {
            self.block = block;
            return Some(Change::Members(self.members()));
        };
        let outcome = Rc::new(RefCell::new(None));
        let (put, files, text) = (outcome.clone(), self.files.clone(), block.clone());
        let handle = exec.clone();
        let task = async move {
            let written = write(&handle, &files, &text).await;
            *put.borrow_mut() = Some(written);
            // One turn more, so that whoever looks once a turn sees it.
            handle.yield_now().await;
        };
        if exec.spawn(task).is_err() {
            self.stopped = true;
            return Some(Change::Stop("the core has too many tasks to record a drive's failure".into()));
        }
        self.writing = Some((block, outcome));
        None
    }
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
    members
}

/// Writes a superblock durably to every drive that remains.
async fn write(exec: &Handle, files: &[Option<FileId>], block: &Superblock) -> Outcome {
    for (index, drive) in (0u16..).zip(&block.drives) {
        if !drive.state.counts() {
            continue;
        }
        let Some(file) = files.get(usize::from(index)).copied().flatten() else {
            return Err((index, "the drive is not there".into()));
        };
        let writing = write_superblock(exec, file, block, index);
        match within(exec, WRITE_MS, writing).await {
            Some(Ok(())) => {}
            Some(Err(error)) => return Err((index, error.to_string())),
            None => return Err((index, "the superblock could not be written in time".into())),
        }
    }
    Ok(())
}
