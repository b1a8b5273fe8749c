//! The words that cores, and the control side and a core, say to each other.

use crate::report::CoreReport;
use dolmen_export::{Exports, nbd::ServerConfig};
use dolmen_io::{DriveHandle, DriveInfo, FileId, OpenDrive, mailbox, trace::TraceReport};
use dolmen_store::{
    Candidate, DataKey, FoundPool, Keyring, NewDrive, PoolOptions, PoolPlan, ScrubPlan, StoreError, ToPool,
    ToShard, WrappedKey,
};
use dolmen_target::{Envelope, Health, NamespaceTable, TargetConfig};
use dolmen_types::{CoreId, DriveChange, LineId, PgId, ShardId, Uuid};
use dolmen_volume::{
    Change, ControlCommand, ControlDone, ControlError, NodeIdentity, Notice, Replace, Reply, Request,
    Restart, VolumeInfo,
};
use std::sync::Arc;

/// Where the one answer to a request goes; dropped when the core ends first.
pub struct Answer<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Answer<T> {
    /// An answer that goes to whatever this does with it, on the core's thread. It must not wait.
    pub fn new(deliver: impl FnOnce(T) + Send + 'static) -> Answer<T> {
        Answer(Box::new(deliver))
    }

    /// Gives it. Whether anybody still wants it makes no difference to a core.
    pub fn send(self, value: T) {
        (self.0)(value);
    }
}

/// Where a core's news go; called on the core's thread, it must not wait.
pub type News = Box<dyn Fn(FromCore) + Send>;

/// Wraps a data key anew; `None` for one that it can't unwrap.
pub type Rewrap = Box<dyn Fn(&WrappedKey) -> Option<[u8; 40]> + Send>;

/// Between cores, through mailboxes.
#[derive(Debug)]
pub enum Between {
    /// A host's command for a volume whose home is the receiver.
    Request(Request),
    /// The answer, for the door that the command came from.
    Reply(Reply),
    /// Nobody waits for the answers to these requests of a core any more.
    CallOff {
        /// The core.
        from: CoreId,
        /// Their tokens.
        tokens: Box<[u64]>,
        /// The number under which its target wants to hear that the volumes have been told, if it does.
        ticket: Option<u64>,
    },
    /// Between targets.
    Target(Envelope),
    /// Between NBD doors.
    Nbd(dolmen_export::nbd::Message),
    /// From a shard to the owner of the pool's units, on core 0.
    ToPool(ToPool),
    /// From the owner of the pool's units to a shard.
    ToShard(ShardId, ToShard),
    /// To core 0: nothing is left of these lines, and nothing needs their keys.
    LinesGone(Vec<LineId>),
    /// From core 0: the keys of these lines are erased.
    ForgetKeys(Vec<LineId>),
    /// A reservation notice; every core's target gets every notice.
    Notice(Notice),
}

/// The mailboxes of one core: one pair for each other core, by its number; none for itself.
#[derive(Default)]
pub struct Links {
    /// To other cores.
    pub out: Vec<Option<mailbox::Sender<Between>>>,
    /// From other cores.
    pub into: Vec<mailbox::Receiver<Between>>,
}

/// A drive that is open.
#[derive(Clone, Debug)]
pub struct OpenedDrive {
    /// What it is.
    pub info: DriveInfo,
    /// For cores that have no handle of it.
    pub handle: DriveHandle,
}

/// From the control side to a core. The start is a sequence of these, in this order.
pub enum ToCore {
    /// The mailboxes to the other cores.
    Link(Links),
    /// Core 0: open the drives.
    OpenDrives {
        /// Which.
        drives: Vec<OpenDrive>,
        /// The drives in the same order, or why one can't be opened.
        answer: Answer<Vec<Result<OpenedDrive, String>>>,
    },
    /// Core 0: say which pool the drives that were opened are of, and which keys it has; nothing is written.
    FindPool {
        /// How the drives that could be opened are named, in the order of `OpenDrives`.
        paths: Vec<String>,
        /// The pool, if there is one, or why the drives can't be used.
        answer: Answer<Result<Option<FoundPool>, StoreError>>,
    },
    /// Core 0: open the pool on the drives that were opened.
    OpenPool {
        /// How the drives that could be opened are named, in the order of `OpenDrives`.
        paths: Vec<String>,
        /// For a new pool.
        options: PoolOptions,
        /// The pool, or why it can't be opened.
        answer: Answer<Result<PoolPlan, StoreError>>,
    },
    /// Core 0: open the pool's key table, and bring it up to date on every drive.
    OpenKeys {
        /// The pool.
        plan: Arc<PoolPlan>,
        /// Its drives, in the plan's order.
        drives: Vec<Option<OpenedDrive>>,
        /// All keys, or why the table can't be read.
        answer: Answer<Result<Vec<WrappedKey>, StoreError>>,
    },
    /// Recover this core's shards.
    OpenStore {
        /// The pool.
        plan: Arc<PoolPlan>,
        /// Its drives, in the plan's order.
        drives: Vec<Option<OpenedDrive>>,
        /// The keys of this core's encrypted lines.
        keyring: Keyring,
        /// When the shards serve: the highest line that there is anything of. Or why not.
        answer: Answer<Result<LineId, String>>,
    },
    /// Open this core's protection groups and volumes.
    OpenVolumes {
        /// Whether reservations that do not persist are still there.
        restart: Restart,
        /// Who the node is, for the log; and whether that takes another one's place there.
        identity: Option<(NodeIdentity, Replace)>,
        /// All volumes of this core.
        answer: Answer<Vec<VolumeInfo>>,
    },
    /// Listen.
    Listen {
        /// What the target is told.
        config: Box<TargetConfig>,
        /// The namespaces to begin with.
        table: Arc<NamespaceTable>,
        /// When it listens, or why not.
        answer: Answer<Result<(), String>>,
    },
    /// Core 0: put the key of a new line into the table.
    KeepKey {
        /// The key.
        key: WrappedKey,
        /// When it is there, durably, or why not. A line that has a key, or had one that is not erased yet, gets no other.
        answer: Answer<Result<(), StoreError>>,
    },
    /// Core 0: wrap all keys anew that are not under this cluster key.
    RewrapKeys {
        /// The cluster key.
        to: [u8; 16],
        /// What does it.
        rewrap: Rewrap,
        /// When all are, durably, or why some are not.
        answer: Answer<Result<(), StoreError>>,
    },
    /// Core 0: give a drive that is about to join the whole key table, and every change from then on.
    JoinKeys {
        /// Its handle on this core.
        file: FileId,
        /// When it has it, durably, or why not.
        answer: Answer<Result<(), StoreError>>,
    },
    /// Core 0: that drive has not joined after all.
    LeaveKeys {
        /// Its handle on this core.
        file: FileId,
        /// When it is given no more changes.
        answer: Answer<()>,
    },
    /// Core 0: all keys in the table.
    ListKeys {
        /// In no order.
        answer: Answer<Vec<WrappedKey>>,
    },
    /// The key of an encrypted line of a group that lives here: before the line is made.
    AddKey {
        /// The group.
        pg: PgId,
        /// The line.
        line: LineId,
        /// Its key.
        key: DataKey,
        /// When it is here.
        answer: Answer<()>,
    },
    /// Keys of lines of groups that live here: those of lines that do not exist are to be erased when nothing needs them.
    SweepKeys {
        /// The lines; none of them is being made.
        lines: Vec<(PgId, LineId)>,
        /// When that is taken in.
        answer: Answer<()>,
    },
    /// Open the NBD door.
    ListenNbd {
        /// Where, and its bounds.
        config: Box<ServerConfig>,
        /// The exports to begin with.
        exports: Arc<Exports>,
        /// When it listens, or why not.
        answer: Answer<Result<(), String>>,
    },
    /// New exports.
    Exports {
        /// All of them.
        exports: Arc<Exports>,
        /// When they are in force on this core.
        answer: Answer<()>,
    },
    /// New namespaces.
    Namespaces {
        /// All of them.
        table: Arc<NamespaceTable>,
        /// When they are in force on this core.
        answer: Answer<()>,
    },
    /// What the scrubbers are to do from now on.
    Scrub {
        /// The same for all shards.
        plan: ScrubPlan,
        /// When they know.
        answer: Answer<()>,
    },
    /// What the SMART log is to say from now on.
    Health {
        /// The whole node's.
        health: Health,
        /// When this core says it.
        answer: Answer<()>,
    },
    /// A change of a volume whose home is this core, or a question about it.
    Volume {
        /// What to do.
        command: ControlCommand,
        /// What came of it.
        answer: Answer<Result<ControlDone, ControlError>>,
    },
    /// Tell everything that users are told.
    Report {
        /// A snapshot.
        answer: Answer<Box<CoreReport>>,
    },
    /// Tell where the time of a namespace's commands went lately, as far as they were answered here.
    Traces {
        /// Which.
        nsid: u32,
        /// What its target, its NBD door and its volumes know; empty where there is none.
        answer: Answer<[TraceReport; 3]>,
    },
    /// Stop listening, finish what is under way, let hosts go.
    Drain {
        /// When no connection is left, or the time is up.
        answer: Answer<()>,
    },
    /// Checkpoint and close the store.
    Close {
        /// When it is down.
        answer: Answer<()>,
    },
    /// Core 0: get a handle of one more drive, which nobody counts on yet. To open it may take long, which is not for a core that serves.
    TakeDrive {
        /// The drive, opened elsewhere.
        drive: OpenedDrive,
        /// The drive with this core's handle, or why there is none.
        answer: Answer<Result<OpenedDrive, String>>,
    },
    /// Core 0: look at a drive that was opened, and make it ready to join.
    PrepareDrive {
        /// What it is, and how it is named.
        drive: Candidate,
        /// The drive, or why it can't join.
        answer: Answer<Result<NewDrive, StoreError>>,
    },
    /// A drive is about to join: get a handle of it.
    AttachDrive {
        /// Its identity in the pool.
        uuid: Uuid,
        /// The drive.
        drive: OpenedDrive,
        /// When there is one, or why not.
        answer: Answer<Result<(), String>>,
    },
    /// Core 0: take a drive into the pool that every core has a handle of.
    JoinDrive {
        /// The drive.
        drive: NewDrive,
        /// Its place in the pool once it is in service, or why it did not join.
        answer: Answer<Result<u16, String>>,
    },
    /// A drive that was attached has joined, or has not: then its handle is closed.
    DriveJoined {
        /// Its identity.
        uuid: Uuid,
        /// Its place in the pool.
        place: Option<u16>,
        /// When that is known here.
        answer: Answer<()>,
    },
    /// Close a drive that nobody counts on: one that was opened and did not join.
    CloseFile {
        /// Core 0's handle.
        file: FileId,
        /// When it is closed.
        answer: Answer<()>,
    },
    /// Core 0: tell what a drive of the pool is.
    InfoOf {
        /// Its place in the pool.
        place: u16,
        /// With its handle, while it is open.
        answer: Answer<Option<DriveInfo>>,
    },
    /// Core 0: overwrite the keys on a drive that the pool does not count.
    EraseKeysOn {
        /// Which, with its handle.
        drive: DriveInfo,
        /// When that is durable, or why it can't be done.
        answer: Answer<Result<(), StoreError>>,
    },
    /// Close a drive that is out or gone.
    CloseDrive {
        /// Its place in the pool.
        place: u16,
        /// True when it is closed; false when something is still under way on it.
        answer: Answer<bool>,
    },
    /// Core 0: change where a drive stands.
    ChangeDrive {
        /// Its place in the pool.
        place: u16,
        /// What to do.
        change: DriveChange,
        /// When that has begun, or why not.
        answer: Answer<Result<(), String>>,
    },
    /// Say how re-protection goes on.
    Reprotect {
        /// Whether it rests.
        paused: bool,
        /// What each shard may move in a second; 0 for no bound. Bytes.
        bytes_per_s: u64,
        /// When this core's shards know.
        answer: Answer<()>,
    },
    /// End the loop.
    Exit,
}

/// From a core to the control side, unasked.
#[derive(Debug)]
pub enum FromCore {
    /// A volume came, changed or went. Sent before the answer to the request that made it.
    Change(Change),
    /// Where the drives stand has changed.
    Drives,
}
