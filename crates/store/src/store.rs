//! The store of one core: its shards, their requests and completions.

use crate::format::commit::LogIdentity;
use crate::map::Map;
use crate::segments::SegmentTable;
use crate::shard::{
    Complaint, Drives, Log, Phase, Reprotect, Shard, Shared, run_shard, start_diff, watch_drives,
};
use crate::stored::Forms;
use crate::{
    AppendError, Batch, DataKey, DiffDone, DiffRequest, Done, Key, Keyring, LineInfo, LineUsage, LostRange,
    Marks, PoolPlan, ScrubPlan, ScrubReport, ShardTuning, SpaceReport, StoreError, Ticket, ToPool, ToShard,
};
use dolmen_io::{Buf, Error, Event, FileId, Io, Owner, Tag, TimerId, exec};
use dolmen_types::{Lba, LineId, Nanos, PgId, Seq, ShardId, Uuid};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use crate::shard::{ID_MASK, KIND_COMMIT, KIND_DATA, KIND_LEAF, KIND_MASK, KIND_TIMER};

/// How often waiting appends and reads are looked at when nothing else happens. Milliseconds.
const LOOK_MS: u64 = 20;

/// Bits of an event's key that name the shard (its place in this store).
const SHARD_SHIFT: u32 = 56;

/// The shards that live on one core. Stepped once per turn; never waits.
pub struct Store {
    /// Shards of the pool.
    total: u16,
    shards: Vec<(ShardId, Shared)>,
    drives: Rc<Drives>,
    owner: Owner,
    timer: Option<TimerId>,
    exec: exec::Handle,
    /// Listings of changes that were refused.
    diffs: Vec<DiffDone>,
}

impl Store {
    /// Hosts the given shards of an opened pool (see [`PoolPlan::shards_of`]); `files[i]` is this core's handle of the plan's
    /// drive `i`, if it is there. Recovery starts at once as a task on `exec`, which must have room for one task, for eleven per shard, and
    /// for listings of changes ([`MAX_DIFFS`](crate::MAX_DIFFS) per shard);
    /// [`Store::ready`] tells when it has ended. `owner` tags the store's own drive operations (reads and commits).
    /// `salt` is fresh randomness of this opening.
    /// `keyring` holds the keys of the encrypted lines; recovery refuses a log whose tail it could not verify without one
    /// that is missing.
    #[must_use]
    #[allow(clippy::too_many_arguments)] // What a store is made of, once.
    pub fn open(
        plan: &PoolPlan,
        shards: &[ShardId],
        files: &[Option<FileId>],
        tuning: ShardTuning,
        owner: Owner,
        salt: u64,
        keyring: &Keyring,
        exec: &exec::Handle,
    ) -> Store {
        let drives = Rc::new(Drives::new(plan, files, &tuning));
        // Where this finds no room, what comes next finds none either, and says so.
        let _ = exec.spawn(watch_drives(drives.clone(), exec.clone()));
        let make = |(index, &id): (u64, &ShardId)| {
            let salt = crate::check::block_seed(salt, u64::from(id.0), plan.incarnation);
            let log_id = LogIdentity { pool: plan.pool, shard: id, incarnation: plan.incarnation, salt };
            let tag = Tag { owner, key: index << SHARD_SHIFT };
            let shard = new_shard(log_id, drives.clone(), tuning.clone(), tag, keyring.clone());
            let shard = Rc::new(RefCell::new(shard));
            if exec.spawn(run_shard(shard.clone(), exec.clone())).is_err() {
                shard.borrow_mut().phase =
                    Phase::Failed(StoreError::Drive("the core has too many tasks".into()));
            }
            (id, shard)
        };
        let shards = (0..).zip(shards).map(make).collect();
        let (exec, diffs) = (exec.clone(), Vec::new());
        Store { total: plan.shards, shards, drives, owner, timer: None, exec, diffs }
    }

    /// `None` while recovering; then whether every shard serves.
    #[must_use]
    pub fn ready(&self) -> Option<Result<(), StoreError>> {
        let mut all = true;
        for (_, shard) in &self.shards {
            match &shard.borrow().phase {
                Phase::Failed(error) => return Some(Err(error.clone())),
                Phase::Recovering => all = false,
                Phase::Serving | Phase::Stopped(_) => {}
            }
        }
        all.then_some(Ok(()))
    }

    /// Why a shard no longer takes appends, if one does not.
    #[must_use]
    pub fn stopped(&self) -> Option<(ShardId, String)> {
        self.shards.iter().find_map(|(id, shard)| match &shard.borrow().phase {
            Phase::Stopped(reason) => Some((*id, reason.clone())),
            _ => None,
        })
    }

    /// Queues a batch; its [`Done`] comes when it is durable and applied, in chain order. The shard is that of `batch.pg`,
    /// which must live here.
    #[allow(clippy::result_large_err)] // The batch goes back to the caller, in place.
    pub fn append(&mut self, batch: Batch, ticket: Ticket) -> Result<(), (Batch, AppendError)> {
        match self.shard(batch.pg) {
            Some(shard) => shard.borrow_mut().append(batch, ticket),
            None => Err((batch, AppendError::Invalid("the group's shard lives on another core"))),
        }
    }

    /// Reads `buf.len() / 4096` blocks of the line as it is now, or as the snapshot `at` has kept it; unmapped blocks read
    /// zeros, every stored block is verified. `pg` names the shard. It begins with the next [`Store::step`]; the buffer comes back
    /// in the [`Done`].
    pub fn read(&mut self, pg: PgId, line: LineId, at: Option<Seq>, lba: Lba, buf: Buf, ticket: Ticket) {
        if let Some(shard) = self.shard(pg) {
            shard.borrow_mut().read(line, at, lba, buf, ticket);
        } else if let Some((_, any)) = self.shards.first() {
            let mut any = any.borrow_mut();
            any.refuse(ticket, StoreError::Refused("the group's shard lives on another core".into()));
        }
    }

    /// Gives the store the key of an encrypted line of a group: before the batch that creates the line.
    pub fn add_key(&mut self, pg: PgId, line: LineId, key: DataKey) {
        if let Some(shard) = self.shard(pg) {
            shard.borrow_mut().forms.add_key(line.0, key);
        }
    }

    /// Forgets the key of a line that is gone. One that the map or the queue still knows keeps its key.
    pub fn forget_key(&mut self, line: LineId) {
        for (_, shard) in &self.shards {
            let mut shard = shard.borrow_mut();
            if shard.attributes(line.0).is_none() {
                shard.forms.forget_key(line.0);
            }
        }
    }

    /// True when the key of a line of this group is here.
    #[must_use]
    pub fn has_key(&self, pg: PgId, line: LineId) -> bool {
        self.shard(pg).is_some_and(|shard| shard.borrow().forms.has_key(line.0))
    }

    /// Looks after the key of a line that may not exist: left over from a line that is gone, or added for one that never came
    /// to be. [`Store::drain_gone`] tells when nothing needs it. Never while the line is being made.
    pub fn sweep_key(&mut self, pg: PgId, line: LineId) {
        if let Some(shard) = self.shard(pg) {
            shard.borrow_mut().sweep_key(line.0);
        }
    }

    /// Takes encrypted lines of which nothing is left: no head, no snapshot, no clone, and no commit that a recovery would look
    /// at. Their keys are to be erased. Each is told once; what is not erased before a crash is told after it, when swept.
    pub fn drain_gone(&mut self, out: &mut Vec<LineId>) {
        for (_, shard) in &self.shards {
            out.append(&mut shard.borrow_mut().checkpoint.ended);
        }
    }

    /// Completions of operations that carry the store's owner.
    pub fn on_event(&mut self, io: &mut Io, key: u64, event: Event) {
        if key & KIND_MASK == KIND_TIMER {
            self.timer = None;
            return;
        }
        let index = usize::try_from(key >> SHARD_SHIFT).unwrap_or(usize::MAX);
        let Some((_, shard)) = self.shards.get(index) else { return };
        let mut shard = shard.borrow_mut();
        let id = key & ID_MASK;
        match (key & KIND_MASK, event) {
            (KIND_COMMIT, Event::Written(slices)) => {
                io.recycle(slices);
                shard.commit_written(id, io.now(), Ok(()));
                shard.refill_reserve(io);
            }
            (KIND_COMMIT, Event::Failed { error, .. }) => {
                shard.commit_written(id, io.now(), Err(error.to_string()));
                shard.refill_reserve(io);
            }
            (KIND_LEAF, event) => {
                if let Some(result) = read_result(event) {
                    shard.leaf_arrived(io, id, result);
                }
            }
            (KIND_DATA, event) => {
                if let Some(result) = read_result(event) {
                    shard.data_arrived(io, id, result);
                }
            }
            _ => {}
        }
    }

    /// Once per turn, after events, appends and reads: begins reads, forms and submits commits, asks for space, wakes checkpoint and cleaning.
    /// True when it did something.
    pub fn step(&mut self, io: &mut Io) -> bool {
        let (mut worked, mut waiting) = (false, false);
        for (_, shard) in &self.shards {
            let mut shard = shard.borrow_mut();
            shard.now = io.now();
            shard.refill_reserve(io);
            shard.look();
            shard.take_mended(io);
            shard.begin_reads(io);
            if shard.has_stalled_reads() {
                shard.retry_stalled(io);
            }
            worked |= shard.form(io);
            shard.look_ahead();
            shard.ring_checkpoint();
            shard.stop_without_checkpoint();
            waiting |= shard.is_waiting();
        }
        if waiting && self.timer.is_none() {
            let tag = Tag { owner: self.owner, key: KIND_TIMER };
            self.timer = Some(io.timer_at(tag, io.now().plus_ms(LOOK_MS)));
        }
        worked
    }

    /// Takes completions.
    pub fn drain(&mut self, out: &mut Vec<Done>) {
        for (_, shard) in &self.shards {
            let done = &mut shard.borrow_mut().done;
            // Mostly nothing is there yet: then nothing is copied.
            if out.is_empty() { std::mem::swap(out, done) } else { out.append(done) }
        }
    }

    /// Takes messages for the pool's owner.
    pub fn drain_pool(&mut self, out: &mut Vec<ToPool>) {
        for (_, shard) in &self.shards {
            out.append(&mut shard.borrow_mut().to_pool);
        }
        let Some(&(shard, _)) = self.shards.first() else { return };
        out.extend(self.drives.complaints().into_iter().map(|complaint| match complaint {
            Complaint::Failed(drive, reason) => ToPool::Failed { shard, drive, reason },
            Complaint::Ailing(drive, reason) => ToPool::Ailing { shard, drive, reason },
            Complaint::Silent(drive, reason) => ToPool::Silent { shard, drive, reason },
            Complaint::ReadsBadly(drive, reason) => ToPool::ReadsBadly { shard, drive, reason },
        }));
    }

    /// A message of the pool's owner for one of our shards.
    pub fn on_pool(&mut self, shard: ShardId, message: ToShard) {
        if let Some((_, shard)) = self.shards.iter().find(|(id, _)| *id == shard) {
            shard.borrow_mut().on_pool(message);
        }
    }

    /// Calls `visit` for every keyed object of a group, in key order (applied state).
    pub fn for_each_object(&self, pg: PgId, mut visit: impl FnMut(Key, &[u8])) {
        let Some(shard) = self.shard(pg) else { return };
        let shard = shard.borrow();
        let first = (pg, Key { kind: 0, id: 0 });
        for ((_, key), value) in shard.objects.range(first..).take_while(|((p, _), _)| *p == pg) {
            visit(*key, value);
        }
    }

    /// Epoch and highest applied sequence number of a group.
    #[must_use]
    pub fn marks(&self, pg: PgId) -> Marks {
        self.shard(pg).and_then(|s| s.borrow().marks.get(&pg).copied()).unwrap_or_default()
    }

    /// The lines of a group's shard that have a head, in order.
    #[must_use]
    pub fn lines(&self, pg: PgId) -> Vec<LineId> {
        let Some(shard) = self.shard(pg) else { return Vec::new() };
        let shard = shard.borrow();
        shard.map.lines.iter().filter(|(_, l)| l.now.head).map(|(&line, _)| LineId(line)).collect()
    }

    /// The highest line of all shards that there is anything of, be it only what no checkpoint has freed yet.
    #[must_use]
    pub fn highest_line(&self) -> LineId {
        let last = |(_, shard): &(ShardId, Shared)| {
            shard.borrow().map.lines.last_key_value().map(|(&line, _)| LineId(line))
        };
        self.shards.iter().filter_map(last).max().unwrap_or_default()
    }

    /// A line, its snapshots and its parent. `None` when nothing of it is left.
    #[must_use]
    pub fn line(&self, pg: PgId, line: LineId) -> Option<LineInfo> {
        let shard = self.shard(pg)?.borrow();
        let now = &shard.map.lines.get(&line.0).filter(|l| !l.now.is_doomed())?.now;
        Some(LineInfo {
            head: now.head,
            snapshots: now.points().iter().filter(|p| p.snapshot).map(|p| Seq(p.seq)).collect(),
            parent: now.parent.map(|(line, at)| (LineId(line), Seq(at))),
        })
    }

    /// Lists what changed between two states of lines of this group's shard. Its end comes from [`Store::drain_diffs`]. It
    /// reads map pages in the background, of both states and everything between; nothing else waits for it.
    pub fn diff(&mut self, pg: PgId, request: DiffRequest, ticket: Ticket) {
        match self.shard(pg) {
            Some(shard) => start_diff(shard, &self.exec, request, ticket),
            None => {
                let result = Err(StoreError::Refused("the group's shard lives on another core".into()));
                self.diffs.push(DiffDone { ticket, result });
            }
        }
    }

    /// Takes listings that have ended.
    pub fn drain_diffs(&mut self, out: &mut Vec<DiffDone>) {
        out.append(&mut self.diffs);
        for (_, shard) in &self.shards {
            out.append(&mut shard.borrow_mut().diffs_done);
        }
    }

    /// What a line takes; nothing for one that does not exist.
    #[must_use]
    pub fn usage(&self, pg: PgId, line: LineId) -> LineUsage {
        self.shard(pg).and_then(|s| s.borrow().map.usage(line)).unwrap_or_default()
    }

    /// What a line takes together with others that belong to it, and with those of their ancestors that nothing else holds: no
    /// snapshot and no clone but those lines. What several hold counts for none.
    #[must_use]
    pub fn usage_with(&self, pg: PgId, line: LineId, others: &[LineId]) -> LineUsage {
        self.shard(pg).and_then(|s| s.borrow().map.usage_with(line, others)).unwrap_or_default()
    }

    /// This core's handle of a drive that is about to join the pool.
    pub fn attach_drive(&mut self, uuid: Uuid, file: FileId) {
        self.drives.attach(uuid, file);
    }

    /// Forgets the handle of a drive that is out or gone, which is about to be closed.
    pub fn detach_drive(&mut self, drive: u16) {
        self.drives.detach(drive);
    }

    /// Live bytes of this core's shards by drive, parity included: what a drive would have to give away to be empty.
    #[must_use]
    pub fn live_by_drive(&self) -> Vec<u64> {
        let mut sums = Vec::new();
        for (_, shard) in &self.shards {
            for (_, segment) in shard.borrow().segments.iter() {
                // Columns are as full as each other, but for the last commit.
                let share = u64::from(segment.live()).div_ceil(segment.columns.data() as u64);
                for unit in segment.columns.units() {
                    let drive = usize::from(unit.drive);
                    sums.resize(sums.len().max(drive + 1), 0);
                    sums[drive] += share;
                }
            }
        }
        sums
    }

    /// Where the space of this core's shards is.
    #[must_use]
    pub fn space(&self) -> SpaceReport {
        let mut sum = SpaceReport::default();
        for (_, shard) in &self.shards {
            shard.borrow().report_space(&mut sum);
        }
        sum.mended_reads = self.drives.mended();
        sum
    }

    /// Pauses re-protection (what lives on drives that are out or leaving is then only moved by ordinary cleaning), or bounds the
    /// bytes that each shard moves for it in a second; 0 for no bound.
    pub fn set_reprotection(&mut self, paused: bool, bytes_per_s: u64) {
        for (_, shard) in &self.shards {
            let mut shard = shard.borrow_mut();
            shard.reprotect = Reprotect { paused, bytes_per_s };
            shard.clean_bell.notify();
        }
    }

    /// Tells the scrubbers what to do; they are idle before.
    pub fn set_scrub(&mut self, plan: ScrubPlan) {
        for (_, shard) in &self.shards {
            shard.borrow_mut().set_scrub(plan);
        }
    }

    /// Where the scrubbers stand; `None` on a core without shards.
    #[must_use]
    pub fn scrub(&self) -> Option<ScrubReport> {
        let reports = self.shards.iter().map(|(_, shard)| shard.borrow().scrub_report());
        reports.reduce(|mut sum, report| {
            sum.add(&report);
            sum
        })
    }

    /// Blocks that nothing gives any more and some state shows, as far as anybody has come upon them since the start; a second old at
    /// most. What was overwritten, trimmed or deleted since is not among them.
    #[must_use]
    pub fn lost(&self) -> Vec<LostRange> {
        self.shards.iter().flat_map(|(_, shard)| shard.borrow().lost_ranges().to_vec()).collect()
    }

    /// Asks for a checkpoint of every shard, soon.
    pub fn checkpoint(&mut self) {
        for (_, shard) in &self.shards {
            shard.borrow_mut().checkpoint.requested = true;
        }
    }

    /// Checkpoints that have ended since start, of all shards.
    #[must_use]
    pub fn checkpoints(&self) -> u64 {
        self.shards.iter().map(|(_, s)| s.borrow().checkpoint.finished).sum()
    }

    /// Stops taking appends, finishes those under way, checkpoints, so that a restart replays nothing.
    pub fn shutdown(&mut self) {
        for (_, shard) in &self.shards {
            shard.borrow_mut().close();
        }
    }

    /// True when [`Store::shutdown`] is through, or failed to (a shard that stopped or never recovered).
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.shards.iter().all(|(_, s)| s.borrow().down)
    }

    fn shard(&self, pg: PgId) -> Option<&Shared> {
        let id = ShardId(u16::try_from(pg.0 % u32::from(self.total)).expect("below the number of shards"));
        self.shards.iter().find(|(s, _)| *s == id).map(|(_, shard)| shard)
    }
}

fn read_result(event: Event) -> Option<Result<Buf, (Error, Option<Buf>)>> {
    match event {
        Event::Read(buf) => Some(Ok(buf)),
        Event::Failed { error, buf } => Some(Err((error, buf))),
        _ => None,
    }
}

/// A shard that has not begun to recover.
pub(crate) fn new_shard(
    id: LogIdentity,
    drives: Rc<Drives>,
    tuning: ShardTuning,
    tag: Tag,
    keyring: Keyring,
) -> Shard {
    let map = Map::new(tuning.cache_bytes);
    let mut log = Log { next_number: 1, ..Log::default() };
    // Segments of a stream are counted from 1.
    log.streams.iter_mut().for_each(|s| s.next_seq = 1);
    Shard {
        id,
        drives,
        tuning,
        phase: Phase::Recovering,
        map,
        segments: SegmentTable::default(),
        objects: BTreeMap::new(),
        objects_bytes: 0,
        marks: BTreeMap::new(),
        log,
        named: Vec::new(),
        queue: VecDeque::new(),
        reserve: Vec::new(),
        kept_pages: Vec::new(),
        kept_stage: None,
        announced: crate::shard::Announced::default(),
        forms: Forms::new(keyring),
        reads: crate::shard::Reads::default(),
        mends: crate::shard::Mends::default(),
        moving: BTreeSet::new(),
        moves_forgotten: false,
        move_jobs: VecDeque::new(),
        cleaned: 0,
        retiring: Vec::new(),
        cleaner_idle: true,
        checkpoint: crate::shard::CheckpointState::default(),
        space: crate::shard::SpaceState::default(),
        counters: crate::shard::Counters::default(),
        closing: false,
        down: false,
        risk: crate::shard::Risk::default(),
        reprotect: Reprotect::default(),
        scrub: crate::shard::Scrub::default(),
        lost: crate::shard::LostBlocks::default(),
        halted: None,
        looked: Nanos(0),
        now: Nanos(0),
        checkpoint_bell: exec::Notify::default(),
        lease_bell: exec::Notify::default(),
        clean_bell: exec::Notify::default(),
        members_bell: exec::Notify::default(),
        tag,
        done: Vec::new(),
        diffs: 0,
        diffs_done: Vec::new(),
        to_pool: Vec::new(),
    }
}
