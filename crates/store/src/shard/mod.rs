//! A shard: an independent stream of commits with its own map, segments and checkpoints.
//!
//! One owner for all its state, behind one `RefCell` that the core's turn and the shard's long flows (recovery,
//! checkpoint, cleaning; tasks on the core's executor) borrow in turn and never across a wait.
//!
//! ```text
//!   append -> queue -> [form] commit -> drive -> [applied in chain order] -> map, objects, marks -> Done
//!   read   -> map (leaf read on a miss) -> drive -> check -> Done
//! ```

mod anchors;
mod announced;
mod append;
mod apply;
mod changes;
mod checkpoint;
mod clean;
mod drives;
mod fetch;
mod form;
mod layout;
mod lines;
mod log;
mod lost;
mod members;
mod mend;
mod meta;
mod read;
mod recover;
mod replay;
mod retire;
mod scan;
mod scrub;
mod space;
mod span;
mod staging;
mod watch;

pub(crate) use announced::Announced;
pub(crate) use clean::still_held;
pub(crate) use drives::{Complaint, Drives};
pub(crate) use fetch::{FetchError, Way, stored_how, within};
pub(crate) use log::{Flight, Lease, Log};
pub(crate) use lost::{LostBlocks, add_extent, shown};
pub(crate) use members::Risk;
pub(crate) use mend::Mends;
pub(crate) use read::{ID_MASK, KIND_COMMIT, KIND_DATA, KIND_LEAF, KIND_MASK, KIND_TIMER, Reads};
pub(crate) use recover::{load as load_shard, run as run_shard};
pub(crate) use scan::{Found, SegmentScan};
pub(crate) use scrub::{Scrub, copy_holds, wrong_parity};
pub(crate) use span::Span;
pub(crate) use watch::serve as watch_drives;

use crate::columns::Columns;
use crate::format::anchor::Chunk;
use crate::format::commit::LogIdentity;
use crate::location::Slot;
use crate::map::Map;
use crate::segments::{SegmentName, SegmentTable};
use crate::stored::Forms;
use crate::{
    Batch, DiffDone, DiffRequest, Done, Key, MAX_DIFFS, Marks, ShardTuning, SpaceLevel, SpaceReport,
    StoreError, Ticket, ToPool,
};
use dolmen_io::Tag;
use dolmen_io::exec::{Handle, Notify};
use dolmen_types::{LineId, Nanos, PgId};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// Bytes of all keyed objects of a shard at most: a checkpoint writes them all.
pub(crate) const MAX_OBJECTS_BYTES: usize = 8 << 20;

/// A shard, shared by the core's turn and its tasks.
pub(crate) type Shared = Rc<RefCell<Shard>>;

/// Where a shard stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Recovery is under way.
    Recovering,
    /// Recovery failed; nothing is served.
    Failed(StoreError),
    /// In service.
    Serving,
    /// A write or flush failed: no more appends, reads go on.
    Stopped(String),
}

/// A batch in the queue.
pub(crate) struct Pending {
    pub(crate) batch: Batch,
    pub(crate) ticket: Ticket,
    /// Bytes that it takes in a header at most.
    pub(crate) header_bytes: usize,
    /// Bytes of its data; 0 for control batches, which a full pool does not refuse.
    pub(crate) payload_bytes: usize,
    /// Bytes that the map may grow by for good, where it does nothing but unmap.
    pub(crate) holes_bytes: usize,
    /// Some of its blocks are packed when they are stored.
    pub(crate) packs: bool,
    /// Some of its blocks are not stored as they came, or can't be written from where they are.
    pub(crate) made: bool,
}

/// What cleaning asked to be moved in one commit.
pub(crate) struct MoveJob {
    /// What, in the order of the data.
    pub(crate) items: Vec<MoveItem>,
    /// The stored forms of blocks that fill whole pages, one behind the other.
    pub(crate) data: dolmen_io::Slices,
    /// The stored forms when not all do.
    pub(crate) packed: Option<Vec<u8>>,
}

/// One version of a block that cleaning moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MoveItem {
    pub(crate) line: u64,
    pub(crate) lba: u64,
    pub(crate) entry: crate::map::Entry,
}

/// How re-protection is to go about.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reprotect {
    pub(crate) paused: bool,
    /// Bytes that it may move in a second; 0 for no bound.
    pub(crate) bytes_per_s: u64,
}

/// Figures since start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) host_written: u64,
    pub(crate) drive_written: u64,
    pub(crate) cleaned: u64,
    pub(crate) map_written: u64,
    pub(crate) integrity_errors: u64,
}

/// The checkpoint that the newest anchor names, and when the next one is due.
#[derive(Default)]
pub(crate) struct CheckpointState {
    /// Generation of the newest anchor.
    pub(crate) generation: u64,
    /// Chunks of the newest body, and of the list that names them.
    pub(crate) chunks: Vec<Chunk>,
    /// Last commit that the newest checkpoint holds.
    pub(crate) base: u64,
    /// Log bytes written since the last freeze.
    pub(crate) log_bytes: u64,
    /// Blocks that were unmapped since then, be they mapped or not.
    pub(crate) unmapped_blocks: u64,
    /// What the last checkpoint wrote, and what all had written when it began. Bytes.
    pub(crate) took_bytes: u64,
    pub(crate) written_before: u64,
    /// When the last one began, and when a commit was applied last.
    pub(crate) frozen: Nanos,
    pub(crate) changed: Nanos,
    /// Commits and other reasons ask for one.
    pub(crate) requested: bool,
    /// One is running.
    pub(crate) running: bool,
    /// How many were begun and finished since start.
    pub(crate) begun: u64,
    pub(crate) finished: u64,
    /// Lines or points that were dropped wait for what they needed to be freed.
    pub(crate) dropping: bool,
    /// Some line is swept, be it without haste.
    pub(crate) sweeping: bool,
    /// Lines that may come to hide more of others.
    pub(crate) heirs: BTreeSet<u64>,
    /// When hosts wrote to one of them, first and last, since the last one began.
    pub(crate) heirs_written: Option<(Nanos, Nanos)>,
    /// Segments of which the running one has given up something that an heir hides: that counts when it has finished, and not before.
    pub(crate) inherited: BTreeSet<Slot>,
    /// The running one has made lost blocks of a leaf. The newest anchor still names what that told of, and a start may have it again.
    pub(crate) gave_up: bool,
    /// Leaves that the running checkpoint, or the start, could not have.
    pub(crate) lost_leaves: usize,
    /// Encrypted lines of which nothing is left, with the last commit that may name them: a checkpoint that holds it makes their
    /// keys useless, since no recovery looks at that commit any more.
    pub(crate) gone: Vec<(u64, u64)>,
    /// Lines whose keys nothing needs.
    pub(crate) ended: Vec<LineId>,
    /// Segments in which replay from the newest anchor begins, and from the one that the running checkpoint will write.
    pub(crate) starts: Vec<Columns>,
    pub(crate) next_starts: Vec<Columns>,
}

impl CheckpointState {
    /// A host has written to a line that is a clone: if it is an heir, it may hide more now.
    fn heir_written(&mut self, line: u64, now: Nanos) {
        if self.heirs.contains(&line) {
            let first = self.heirs_written.map_or(now, |(first, _)| first);
            self.heirs_written = Some((first, now));
        }
    }
}

/// What waits for space.
#[derive(Default)]
pub(crate) struct SpaceState {
    /// What the pool's owner said last.
    pub(crate) level: SpaceLevel,
    /// Its messages so far.
    pub(crate) answers: u64,
    /// Live bytes that were reported last.
    pub(crate) reported: u64,
    /// The head of the queue waits for allowance: checkpoints finished and answers that must be reached before it fails.
    pub(crate) blocked: Option<(u64, u64)>,
    /// The allowance is used up, as of a finished checkpoint.
    pub(crate) full: bool,
    /// Since when no batch of a host found room; `None` when one did, and when the owner said something since.
    pub(crate) short_since: Option<Nanos>,
    /// What the last look ahead has seen; `None` when it has to be done again.
    pub(crate) ahead: Option<space::Seen>,
    /// When it was last looked at whether a checkpoint would free space.
    pub(crate) weighed: Nanos,
    /// When a checkpoint came last because hosts found no room and what they had changed might give some.
    pub(crate) hoped: Nanos,
    /// What hosts may still write for what cleaning has moved. Bytes.
    pub(crate) credit: u64,
    /// Since when hosts have waited for cleaning to move more, and it has moved nothing.
    pub(crate) unpaid_since: Option<Nanos>,
}

/// See the module.
pub(crate) struct Shard {
    pub(crate) id: LogIdentity,
    pub(crate) drives: Rc<Drives>,
    pub(crate) tuning: ShardTuning,
    pub(crate) phase: Phase,
    pub(crate) map: Map,
    pub(crate) segments: SegmentTable,
    pub(crate) objects: BTreeMap<(PgId, Key), Box<[u8]>>,
    pub(crate) objects_bytes: usize,
    pub(crate) marks: BTreeMap<PgId, Marks>,
    pub(crate) log: Log,
    /// Memory of the applying of commits.
    pub(crate) named: Vec<apply::Named>,
    pub(crate) queue: VecDeque<Pending>,
    /// Buffers kept back, so that a pool full of queued data does not keep that very data from being written.
    pub(crate) reserve: Vec<dolmen_io::Buf>,
    /// The checkpoint's own buffers, so that it gets on however full the pool is: pages, and the stage of its writes.
    pub(crate) kept_pages: Vec<dolmen_io::Buf>,
    pub(crate) kept_stage: Option<dolmen_io::Buf>,
    /// Changes to lines that are queued or under way.
    pub(crate) announced: Announced,
    /// Makes and undoes stored forms.
    pub(crate) forms: Forms,
    pub(crate) reads: read::Reads,
    /// Host reads that did not work out on the direct way.
    pub(crate) mends: Mends,
    /// Versions (line, block, sequence number) that cleaning is about to move.
    pub(crate) moving: BTreeSet<(u64, u64, u64)>,
    /// Some were taken off that list though they may still be needed.
    pub(crate) moves_forgotten: bool,
    pub(crate) move_jobs: VecDeque<MoveJob>,
    /// Segments that cleaning emptied since the last freeze and that only the next checkpoint can give back.
    pub(crate) cleaned: usize,
    /// Segments that cleaning emptied and that the next commit of moves gives back, or one of its own.
    pub(crate) retiring: Vec<SegmentName>,
    /// The cleaner finds nothing to gain, or has emptied enough.
    pub(crate) cleaner_idle: bool,
    pub(crate) checkpoint: CheckpointState,
    pub(crate) space: SpaceState,
    pub(crate) counters: Counters,
    pub(crate) closing: bool,
    pub(crate) down: bool,
    /// Segments that lack a column.
    pub(crate) risk: Risk,
    pub(crate) reprotect: Reprotect,
    pub(crate) scrub: Scrub,
    pub(crate) lost: LostBlocks,
    /// More drives failed than the pool can lose, and why.
    pub(crate) halted: Option<String>,
    /// When reads and writes under way were last looked at for lateness.
    pub(crate) looked: Nanos,
    /// The time of the turn that is running.
    pub(crate) now: Nanos,
    /// Wakes the checkpoint task.
    pub(crate) checkpoint_bell: Notify,
    /// Wakes whatever waits for a lease.
    pub(crate) lease_bell: Notify,
    /// Wakes the cleaner: commits were applied, a checkpoint finished, the pool's level changed.
    pub(crate) clean_bell: Notify,
    /// Wakes whatever waits for the membership to change.
    pub(crate) members_bell: Notify,
    pub(crate) tag: Tag,
    pub(crate) done: Vec<Done>,
    /// Listings of changes under way, and those that have ended.
    pub(crate) diffs: usize,
    pub(crate) diffs_done: Vec<DiffDone>,
    pub(crate) to_pool: Vec<ToPool>,
}

/// Starts a listing of changes as a task of its own.
pub(crate) fn start_diff(shard: &Shared, exec: &Handle, request: DiffRequest, ticket: Ticket) {
    let refuse = |why: &str| {
        let result = Err(StoreError::Refused(why.into()));
        shard.borrow_mut().diffs_done.push(DiffDone { ticket, result });
    };
    let (serves, running) = {
        let s = shard.borrow();
        (matches!(s.phase, Phase::Serving | Phase::Stopped(_)), s.diffs)
    };
    if !serves || running >= MAX_DIFFS {
        return refuse("changes are listed by a serving shard, MAX_DIFFS at a time");
    }
    shard.borrow_mut().diffs += 1;
    let (task_shard, task_exec) = (shard.clone(), exec.clone());
    let task = async move {
        let result = changes::list(&task_shard, &task_exec, &request).await;
        {
            let mut s = task_shard.borrow_mut();
            s.diffs -= 1;
            s.diffs_done.push(DiffDone { ticket, result });
        }
        // One more turn, in which the result is taken.
        task_exec.yield_now().await;
    };
    if exec.spawn(task).is_err() {
        shard.borrow_mut().diffs -= 1;
        refuse("the core has too many tasks");
    }
}

impl Shard {
    /// Begins a clean stop.
    pub(crate) fn close(&mut self) {
        self.closing = true;
        // What cleaning still wants to move is safe where it is, and may wait for a segment that nobody will free any more.
        self.move_jobs.clear();
        // Without service there is nothing to finish.
        self.down |= !matches!(self.phase, Phase::Serving);
        self.checkpoint_bell.notify();
        self.clean_bell.notify();
        self.scrub.bell.notify();
        self.lost.bell.notify();
    }

    /// True when reads wait for a buffer.
    pub(crate) fn has_stalled_reads(&self) -> bool {
        self.reads.has_stalled()
    }

    /// True when something waits that no completion will wake.
    pub(crate) fn is_waiting(&self) -> bool {
        let under_way = !self.log.flights.is_empty() || self.reads.under_way();
        let waits = !self.queue.is_empty() || !self.move_jobs.is_empty() || self.reads.has_stalled();
        matches!(self.phase, Phase::Serving | Phase::Stopped(_)) && (waits || under_way)
            || self.phase == Phase::Serving && self.risk.any
            || self.closing && !self.down
    }

    /// Adds this shard's figures.
    pub(crate) fn report_space(&self, sum: &mut SpaceReport) {
        let body: u64 = self.checkpoint.chunks.iter().map(|c| u64::from(c.len)).sum();
        sum.live_bytes += self.segments.live_bytes() + body;
        sum.map_bytes += self.segments.meta_bytes() + body;
        sum.held_bytes += self.segments.units() as u64 * u64::from(self.drives.unit_bytes);
        sum.allowance_bytes += self.drives.members().shape.usable(self.space.level.allowance_bytes);
        sum.host_written_bytes += self.counters.host_written;
        sum.drive_written_bytes += self.counters.drive_written;
        sum.cleaned_bytes += self.counters.cleaned;
        sum.map_written_bytes += self.counters.map_written;
        sum.map_memory_bytes += self.map.memory_bytes();
        sum.integrity_errors += self.counters.integrity_errors;
        sum.at_risk_bytes += self.risk.bytes;
        sum.at_risk_segments += self.risk.segments;
        sum.refusing_shards += u64::from(self.refuses(self.now));
    }
}
