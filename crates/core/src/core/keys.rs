//! The pool's key table, on core 0: one task does what is asked of it, one thing at a time. Wrapped keys alone come by here.
//!
//! What was written counts when the drives that did not take it are out, or will not join: a change is answered only then. Keys of lines
//! that the stores tell as gone are erased from the drives first, then forgotten on every core; where that fails it is tried again. A drive
//! that has left is overwritten between two changes, so that none writes there after it.

use super::{Core, LOOP, post};
use crate::message::{Answer, Between, OpenedDrive, Rewrap, ToCore};
use dolmen_io::{
    DriveInfo, FileId, Tag,
    exec::{Handle, Notify},
};
use dolmen_store::{
    DriveState, KeyTable, LabelScrub, PoolOwner, PoolPlan, ScrubPlan, ScrubReport, Store, StoreError, ToPool,
    WrappedKey,
};
use dolmen_types::{CoreId, LineId, Nanos, PgId, ShardId};
use std::{
    cell::RefCell,
    collections::{BTreeSet, VecDeque},
    rc::Rc,
    sync::Arc,
};

/// How long a drive that did not take a page may take to go out. Milliseconds.
const OUT_MS: u64 = 15_000;

/// How long after keys could not be erased it is tried again. Milliseconds.
const AGAIN_MS: u64 = 60_000;

/// What is asked of the table.
enum Job {
    Keep(WrappedKey, Answer<Result<(), StoreError>>),
    Rewrap([u8; 16], Rewrap, Answer<Result<(), StoreError>>),
    Erase(BTreeSet<LineId>),
    List(Answer<Vec<WrappedKey>>),
    Join(FileId, Answer<Result<(), StoreError>>),
    Leave(FileId),
    EraseOn(DriveInfo, Answer<Result<(), StoreError>>),
    Scrub,
}

/// What has come of it, to be told once it counts.
enum Outcome {
    Opened,
    Changed(Answer<Result<(), StoreError>>, Result<(), StoreError>),
    Erased(BTreeSet<LineId>, Result<(), StoreError>),
    Scrubbed(Result<LabelScrub, StoreError>),
}

/// An outcome, the drives that did not take all of it, and until when they are waited for.
struct Ended {
    outcome: Outcome,
    failed: Vec<(FileId, String)>,
    /// The pool's owner has been told; wait no longer than this.
    told: Option<Nanos>,
}

/// What looks at the labels of the drives have found since the start, beside what the shards tell.
#[derive(Debug, Default)]
pub(super) struct Labels {
    /// The round for which they were looked at last.
    round: u64,
    found: LabelScrub,
}

impl Labels {
    fn add(&mut self, found: LabelScrub) {
        self.found.checked_bytes += found.checked_bytes;
        self.found.mended += found.mended;
    }

    /// The report of the core's shards, with this.
    pub(super) fn with(&self, mut report: ScrubReport) -> ScrubReport {
        report.checked_bytes += self.found.checked_bytes;
        report.mended += self.found.mended;
        report
    }
}

/// Between the core's turn and the task.
#[derive(Default)]
struct Desk {
    /// With the drives that were out when it was asked.
    jobs: VecDeque<(Vec<FileId>, Job)>,
    busy: bool,
    ended: Vec<Ended>,
}

/// Keys of lines that are gone and could not be erased.
#[derive(Debug, Default)]
struct Unerased {
    lines: BTreeSet<LineId>,
    why: String,
    /// When they are tried again.
    again: Nanos,
}

/// See the module.
pub(super) struct Keeper {
    desk: Rc<RefCell<Desk>>,
    bell: Notify,
    /// Drives that did not take all of a change, and why, while they have no place in the pool yet: they must not get one, or be out as soon
    /// as they have.
    behind: Vec<(FileId, String)>,
    unerased: Unerased,
}

impl Keeper {
    fn open(
        exec: &Handle,
        plan: Arc<PoolPlan>,
        files: Vec<Option<FileId>>,
        answer: Answer<Result<Vec<WrappedKey>, StoreError>>,
    ) -> Keeper {
        let (desk, bell) = (Rc::default(), Notify::default());
        let keeper = Keeper { desk, bell, behind: Vec::new(), unerased: Unerased::default() };
        let (desk, bell, handle) = (keeper.desk.clone(), keeper.bell.clone(), exec.clone());
        let task = async move {
            match KeyTable::load(&handle, &plan, &files).await {
                Err(error) => answer.send(Err(error)),
                Ok(table) => {
                    answer.send(Ok(table.keys().collect()));
                    let failed = table.behind().to_vec();
                    desk.borrow_mut().ended.push(Ended { outcome: Outcome::Opened, failed, told: None });
                    serve(&handle, table, &desk, &bell).await;
                }
            }
        };
        exec.spawn(task).expect("nothing else runs on the core yet");
        keeper
    }

    fn ask(&self, out: Vec<FileId>, job: Job) {
        self.desk.borrow_mut().jobs.push_back((out, job));
        self.bell.notify();
    }

    /// Why a drive that is to join must not: it lacks what was changed since it got the table.
    pub(super) fn is_behind(&self, file: FileId) -> Option<&str> {
        let mut all = self.behind.iter();
        all.find(|(behind, _)| *behind == file).map(|(_, why)| why.as_str())
    }

    /// How many keys could not be erased though their lines are gone, and why.
    pub(super) fn unerased(&self) -> Option<(usize, String)> {
        let Unerased { lines, why, .. } = &self.unerased;
        (!lines.is_empty()).then(|| (lines.len(), why.clone()))
    }

    /// True when nothing is asked and everything was told.
    pub(super) fn is_idle(&self) -> bool {
        let desk = self.desk.borrow();
        desk.jobs.is_empty() && !desk.busy && desk.ended.is_empty()
    }
}

/// The task.
async fn serve(exec: &Handle, mut table: KeyTable, desk: &RefCell<Desk>, bell: &Notify) {
    loop {
        let next = desk.borrow_mut().jobs.pop_front();
        let Some((out, job)) = next else {
            bell.notified().await;
            continue;
        };
        desk.borrow_mut().busy = true;
        out.into_iter().for_each(|drive| table.leave(drive));
        let outcome = carry_out(exec, &mut table, job).await;
        // Also those that an earlier job has found: they need not be out yet.
        let failed = table.behind().to_vec();
        {
            let mut desk = desk.borrow_mut();
            desk.busy = false;
            desk.ended.extend(outcome.map(|outcome| Ended { outcome, failed, told: None }));
        }
        // One turn more, in which that is seen.
        exec.yield_now().await;
    }
}

async fn carry_out(exec: &Handle, table: &mut KeyTable, job: Job) -> Option<Outcome> {
    Some(match job {
        Job::Keep(key, answer) => Outcome::Changed(answer, table.add(exec, key).await),
        Job::Rewrap(to, rewrap, answer) => {
            Outcome::Changed(answer, table.rotate(exec, to, |key| rewrap(key)).await)
        }
        Job::Erase(lines) => {
            let result = table.erase(exec, &lines).await;
            Outcome::Erased(lines, result)
        }
        Job::List(answer) => {
            answer.send(table.keys().collect());
            return None;
        }
        Job::Scrub => Outcome::Scrubbed(table.scrub(exec).await),
        Job::Join(drive, answer) => Outcome::Changed(answer, table.join(exec, drive).await),
        Job::Leave(drive) => {
            table.leave(drive);
            return None;
        }
        Job::EraseOn(drive, answer) => {
            // Begun between two jobs, so that none gives the drive a page any more; from then on it is in nobody's way.
            let erasing = table.erase_on(exec, drive);
            // Without room for the task the answer's sender is dropped, and with it the request.
            let _ = exec.spawn(async move { answer.send(erasing.await) });
            return None;
        }
    })
}

impl Core {
    /// Core 0: opens the key table.
    pub(super) fn open_keys(
        &mut self,
        plan: &Arc<PoolPlan>,
        drives: &[Option<OpenedDrive>],
        answer: Answer<Result<Vec<WrappedKey>, StoreError>>,
    ) {
        let files = drives.iter().map(|drive| drive.as_ref().map(|d| d.info.file)).collect();
        self.keeper = Some(Keeper::open(&self.exec.handle(), plan.clone(), files, answer));
    }

    /// A question about keys, from the control side.
    pub(super) fn take_key_command(&mut self, command: ToCore) {
        match command {
            ToCore::KeepKey { key, answer } => self.ask_keeper(Job::Keep(key, answer)),
            ToCore::RewrapKeys { to, rewrap, answer } => self.ask_keeper(Job::Rewrap(to, rewrap, answer)),
            ToCore::ListKeys { answer } => self.ask_keeper(Job::List(answer)),
            ToCore::JoinKeys { file, answer } => self.ask_keeper(Job::Join(file, answer)),
            ToCore::LeaveKeys { file, answer } => {
                self.leave_keys(file);
                answer.send(());
            }
            ToCore::EraseKeysOn { drive, answer } => self.ask_keeper(Job::EraseOn(drive, answer)),
            ToCore::AddKey { pg, line, key, answer } => {
                if let Some(store) = &mut self.store {
                    store.add_key(pg, line, key);
                }
                answer.send(());
            }
            ToCore::SweepKeys { lines, answer } => {
                self.sweep_keys(&lines);
                answer.send(());
            }
            _ => {}
        }
    }

    /// Core 0: begins to read the labels of all drives, once for each round of scrubbing.
    pub(super) fn scrub_labels(&mut self, plan: ScrubPlan) {
        let finished = self.store.as_ref().and_then(Store::scrub).map_or(0, |report| report.finished);
        let (Some(owner), true) = (&mut self.owner, plan.round > self.labels.round.max(finished)) else {
            return;
        };
        if plan.paused {
            return;
        }
        self.labels.round = plan.round;
        owner.scrub();
        self.ask_keeper(Job::Scrub);
    }

    /// Sees what a look at the superblocks has found.
    pub(super) fn settle_labels(&mut self) {
        if let Some(found) = self.owner.as_mut().and_then(PoolOwner::take_scrubbed) {
            self.labels.add(found);
        }
    }

    /// Gives a drive no more changes of the table.
    pub(super) fn leave_keys(&mut self, file: FileId) {
        self.ask_keeper(Job::Leave(file));
    }

    fn sweep_keys(&mut self, lines: &[(PgId, LineId)]) {
        if let Some(store) = &mut self.store {
            lines.iter().for_each(|&(pg, line)| store.sweep_key(pg, line));
        }
    }

    fn ask_keeper(&mut self, job: Job) {
        let standings = self.owner.as_ref().map(PoolOwner::drives).unwrap_or_default();
        let counts = |state| !matches!(state, DriveState::Out | DriveState::Gone);
        let out = self.files.iter().zip(standings).filter(|(_, drive)| !counts(drive.state));
        let out = out.filter_map(|(file, _)| *file).collect();
        // Without one the answer's sender is dropped: the caller hears that nothing will come.
        if let Some(keeper) = &self.keeper {
            keeper.ask(out, job);
        }
    }

    /// Keys of lines that are gone: to core 0, which erases them.
    pub(super) fn route_gone(&mut self) {
        let Some(store) = &mut self.store else { return };
        store.drain_gone(&mut self.gone);
        if !self.gone.is_empty() {
            let gone = std::mem::take(&mut self.gone);
            self.lines_gone(gone);
        }
    }

    pub(super) fn lines_gone(&mut self, lines: Vec<LineId>) {
        if self.id == CoreId(0) {
            self.ask_keeper(Job::Erase(lines.into_iter().collect()));
        } else {
            post(&mut self.links, &mut self.backlog, CoreId(0), Between::LinesGone(lines));
        }
    }

    pub(super) fn forget_keys(&mut self, lines: &[LineId]) {
        if let Some(store) = &mut self.store {
            lines.iter().for_each(|&line| store.forget_key(line));
        }
    }

    /// Tells what has come of changes of the table, once it counts.
    pub(super) fn settle_keys(&mut self) {
        self.erase_again();
        let Some(keeper) = &self.keeper else { return };
        if keeper.desk.borrow().ended.is_empty() {
            return;
        }
        let desk = keeper.desk.clone();
        let ended = std::mem::take(&mut desk.borrow_mut().ended);
        let mut waiting = Vec::new();
        for mut ended in ended {
            if self.counts(&mut ended) {
                self.tell_outcome(ended);
            } else {
                waiting.push(ended);
            }
        }
        let mut desk = desk.borrow_mut();
        waiting.append(&mut desk.ended);
        desk.ended = waiting;
    }

    /// Tries once more to erase what could not be erased, when it is time.
    fn erase_again(&mut self) {
        let now = self.io.now();
        let Some(unerased) = self.keeper.as_mut().map(|k| &mut k.unerased) else { return };
        if !unerased.lines.is_empty() && unerased.again <= now {
            // Not again before this has ended.
            unerased.again = Nanos(u64::MAX);
            let lines = unerased.lines.clone();
            self.ask_keeper(Job::Erase(lines));
        }
    }

    /// True when no drive that lacks a change can come back with what was before it, or when that is no longer waited for.
    fn counts(&mut self, ended: &mut Ended) -> bool {
        if ended.failed.is_empty() {
            return true;
        }
        let (Some(owner), Some(keeper)) = (&self.owner, &mut self.keeper) else { return false };
        let now = self.io.now();
        let place = |file: FileId| self.files.iter().position(|f| *f == Some(file));
        let joins = |file: FileId| self.attached.iter().any(|(_, drive)| drive.file == file);
        let Some(until) = ended.told else {
            for (file, reason) in &ended.failed {
                match place(*file).and_then(|drive| u16::try_from(drive).ok()) {
                    Some(drive) => self.to_pool.push(failed(drive, reason)),
                    None if joins(*file) => keeper.behind.push((*file, reason.clone())),
                    None => {}
                }
            }
            let until = now.plus_ms(OUT_MS);
            ended.told = Some(until);
            self.io.timer_at(Tag { owner: LOOP, key: 0 }, until);
            return false;
        };
        let standings = owner.drives();
        let is_out = |file: FileId| {
            let state = place(file).and_then(|drive| standings.get(drive)).map(|s| s.state);
            // One that is about to join may have a superblock already.
            state.map_or(!joins(file), |state| matches!(state, DriveState::Out | DriveState::Gone))
        };
        ended.failed.retain(|(file, _)| !is_out(*file));
        ended.failed.is_empty() || until <= now
    }

    /// A drive that was to join has got its place, or will not get one.
    pub(super) fn keys_joined(&mut self, file: FileId, place: Option<u16>) {
        let Some(keeper) = &mut self.keeper else { return };
        let behind = keeper.behind.extract_if(.., |(behind, _)| *behind == file);
        for (_, reason) in behind {
            self.to_pool.extend(place.map(|drive| failed(drive, &reason)));
        }
    }

    fn tell_outcome(&mut self, ended: Ended) {
        let doubt = ended.failed.first().map(|(_, why)| StoreError::Drive(why.clone()));
        let doubt = doubt.map_or(Ok(()), Err);
        // A receiver that went away meanwhile needs no answer.
        match ended.outcome {
            // When too many drives fail the pool stops, and says why.
            Outcome::Opened | Outcome::Scrubbed(Err(_)) => {}
            Outcome::Scrubbed(Ok(found)) => self.labels.add(found),
            Outcome::Changed(answer, result) => answer.send(result.and(doubt)),
            Outcome::Erased(lines, Ok(())) => self.erased(lines),
            Outcome::Erased(lines, Err(error)) => self.not_erased(lines, error.to_string()),
        }
    }

    /// Keys are erased on the drives: every core forgets them.
    fn erased(&mut self, lines: BTreeSet<LineId>) {
        if let Some(keeper) = &mut self.keeper {
            keeper.unerased.lines.retain(|line| !lines.contains(line));
        }
        let lines: Vec<LineId> = lines.into_iter().collect();
        self.forget_keys(&lines);
        for core in (1..self.cores).filter_map(|c| u16::try_from(c).ok()) {
            post(&mut self.links, &mut self.backlog, CoreId(core), Between::ForgetKeys(lines.clone()));
        }
    }

    /// Keys are still there; nobody may take them for erased. The pool may go on with that, so it is tried again and again.
    fn not_erased(&mut self, lines: BTreeSet<LineId>, why: String) {
        let again = self.io.now().plus_ms(AGAIN_MS);
        let Some(keeper) = &mut self.keeper else { return };
        keeper.unerased.lines.extend(lines);
        (keeper.unerased.why, keeper.unerased.again) = (why, again);
        self.io.timer_at(Tag { owner: LOOP, key: 0 }, again);
    }
}

/// What the pool's owner is told of a drive that did not take all of a change.
fn failed(drive: u16, reason: &str) -> ToPool {
    ToPool::Failed { shard: ShardId(0), drive, reason: reason.into() }
}
