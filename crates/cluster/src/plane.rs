//! The vocabulary between the control side and the data plane of one node: typed requests, each with the sender of
//! its one answer, and notices the other way.
//!
//! This file owns words only, no behaviour but the bounded wait of [`Plane`]. The data plane promises: every request
//! is answered, or its answer's sender is dropped (which means "outcome unknown, list again"); a change is answered
//! only when it is durable. Nothing here runs per I/O.

use crate::trace::VolumeTraces;
use dolmen_types::{
    DriveChange, LineId, Nqn, Nsid, PgId, UnixMillis, Uuid, snapshot::SnapshotDescriptor,
    volume::VolumeDescriptor,
};
use std::{fmt, iter::Sum, net::SocketAddr, time::Duration};
use tokio::sync::{mpsc, oneshot};

mod metrics;

pub use metrics::{
    ConnectionMetrics, CoreMetrics, DriveMetrics, IoMetrics, IoTotals, LATENCY_BUCKETS, MetricsSnapshot,
    VolumeMetrics,
};

/// Requests that may wait for the data plane. Count.
pub const MAX_PENDING_REQUESTS: usize = 1024;

/// Notices that may wait for the control side; beyond it the data plane drops and counts them. Count.
pub const MAX_PENDING_NOTICES: usize = 1024;

/// How long a read of state may take before the caller is told that the data plane doesn't answer.
pub const QUERY_DEADLINE: Duration = Duration::from_secs(5);

/// The sender of the one answer to a request.
pub type Answer<T> = oneshot::Sender<T>;

/// What the control side asks of the data plane.
#[derive(Debug)]
pub enum NodeRequest {
    /// Make a volume. Answered when its descriptor is durable and hosts that its lists admit can see it.
    /// `Null` and `Memory` kinds are never written to the log and live as long as the process.
    CreateVolume {
        /// Everything that defines it; `revision` is 1, `state` is `Available`.
        descriptor: Box<VolumeDescriptor>,
        /// Success, or why nothing was kept.
        answer: Answer<Result<(), PlaneError>>,
    },
    /// Put a new descriptor in the place of the one with `expected_revision`: size (never smaller), ACL, IP ACL, name,
    /// labels and QoS may differ. Answered when durable and in force on every core (a host that lost access gets no more
    /// data after the answer).
    UpdateVolume {
        /// The whole new descriptor; `revision` is larger than `expected_revision`.
        descriptor: Box<VolumeDescriptor>,
        /// The revision that it replaces; anything else is [`PlaneError::Conflict`].
        expected_revision: u64,
        /// Success, or why the old descriptor stays in force.
        answer: Answer<Result<(), PlaneError>>,
    },
    /// Give a volume up. Answered when `state = Deleting` is durable and no host sees it any more; its space comes
    /// back in the background, after which it is missing from [`NodeRequest::ListVolumes`].
    DeleteVolume {
        /// Which volume.
        uuid: Uuid,
        /// The revision that the caller knows; anything else is [`PlaneError::Conflict`].
        expected_revision: u64,
        /// The revision of the descriptor that says `Deleting`.
        new_revision: u64,
        /// Success, or why the volume stays.
        answer: Answer<Result<(), PlaneError>>,
    },
    /// All volumes that exist, those in `Deleting` included, in the order of their UUIDs; or the one asked for.
    ListVolumes {
        /// Only this one, if given.
        only: Option<Uuid>,
        /// At most [`MAX_VOLUMES`](dolmen_types::limits::MAX_VOLUMES) entries.
        answer: Answer<Vec<VolumeStatus>>,
    },
    /// Change how the pool is scrubbed, or begin a round.
    Scrub {
        /// What is to be different.
        change: ScrubChange,
        /// How it is done now.
        answer: Answer<ScrubStatus>,
    },
    /// Take snapshots of different volumes of one protection group at one instant. Answered when they are durable.
    CreateSnapshots {
        /// What is wanted; size, line and point are filled in by the answer.
        descriptors: Vec<SnapshotDescriptor>,
        /// The snapshots, or why none was taken.
        answer: Answer<Result<Vec<SnapshotDescriptor>, PlaneError>>,
    },
    /// Give a snapshot up. Answered when `state = Deleting` is durable; it is missing from
    /// [`NodeRequest::ListSnapshots`] when no clone of it is left.
    DeleteSnapshot {
        /// Which.
        uuid: Uuid,
        /// Its protection group.
        pg: PgId,
        /// The revision that the caller knows; anything else is [`PlaneError::Conflict`].
        expected_revision: u64,
        /// The snapshot as it is now, or why it stays.
        answer: Answer<Result<Vec<SnapshotDescriptor>, PlaneError>>,
    },
    /// Put a volume back to a snapshot of it. Answered when that is durable and in force.
    Rollback {
        /// Which volume.
        uuid: Uuid,
        /// The snapshot.
        snapshot: Uuid,
        /// A line that was never used.
        line: LineId,
        /// The volume's revision that the caller knows; the next one is that of the volume after it.
        expected_revision: u64,
        /// Success, or why the volume stays as it is.
        answer: Answer<Result<(), PlaneError>>,
    },
    /// All snapshots that exist, those in `Deleting` included, in the order of their UUIDs.
    ListSnapshots {
        /// At most [`MAX_SNAPSHOTS`](dolmen_types::limits::MAX_SNAPSHOTS) entries.
        answer: Answer<Vec<SnapshotStatus>>,
    },
    /// What differs between two snapshots of one protection group.
    Diff {
        /// The group.
        pg: PgId,
        /// The newer snapshot.
        snapshot: Uuid,
        /// The older one; `None` for all that is written.
        base: Option<Uuid>,
        /// First store block to look at.
        first: u64,
        /// Ranges to list at most.
        limit: usize,
        /// A part of the list, or why there is none.
        answer: Answer<Result<DiffPart, PlaneError>>,
    },
    /// Hosts with at least one live controller, in the order of their NQNs.
    Hosts {
        /// One entry per host NQN.
        answer: Answer<Vec<HostStatus>>,
    },
    /// The pool as a whole.
    Pool {
        /// Its space and state.
        answer: Answer<PoolStatus>,
    },
    /// The pool's drives, in the order of their names.
    Drives {
        /// One entry per drive, missing ones included.
        answer: Answer<Vec<DriveStatus>>,
    },
    /// The cluster key, and what it wraps.
    Keys {
        /// Its name and place, never the key.
        answer: Answer<KeyStatus>,
    },
    /// Put a new cluster key into the place of the one in force. Answered when every data key is wrapped by it.
    RotateKeys {
        /// How it is now, or why the rotation has not ended; it goes on when asked again, or at the next start.
        answer: Answer<Result<KeyStatus, PlaneError>>,
    },
    /// Take a drive into the running pool. Answered when it is in service, and will be at the next start.
    AddDrive {
        /// A block device or a file.
        path: String,
        /// The size of a file that is to be made. Bytes.
        size_bytes: Option<u64>,
        /// Success, or why the pool is as it was.
        answer: Answer<Result<(), PlaneError>>,
    },
    /// Change where a drive of the pool stands. Answered when that has begun.
    ChangeDrive {
        /// Which drive, by its UUID.
        drive: Uuid,
        /// What to do.
        change: DriveChange,
        /// Success, or why not.
        answer: Answer<Result<(), PlaneError>>,
    },
    /// Tell where a drive is in the machine, and blink there if it can be done.
    LocateDrive {
        /// Which drive, by its UUID.
        drive: Uuid,
        /// Whether its light is to blink; `None` leaves it as it is.
        light: Option<bool>,
        /// Where it is.
        answer: Answer<Result<DriveLocation, PlaneError>>,
    },
    /// Say how re-protection goes on; in force on every core, and after the next start, when answered.
    SetReprotection {
        /// Whether it rests; `None` leaves that as it is.
        paused: Option<bool>,
        /// What it may move in a second, 0 for no bound; `None` leaves that as it is. Bytes.
        bytes_per_s: Option<u64>,
        /// Success, or why not.
        answer: Answer<Result<(), PlaneError>>,
    },
    /// Where the time of a volume's commands went lately.
    Traces {
        /// Which volume.
        uuid: Uuid,
        /// A sample of its commands; empty for a volume that does not exist.
        answer: Answer<VolumeTraces>,
    },
    /// Counters and gauges of everything, for the metrics page.
    Metrics {
        /// A snapshot; entries of one list are in a stable order.
        answer: Answer<Box<MetricsSnapshot>>,
    },
}

/// Where a drive is in the machine. Texts are empty where the system tells nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriveLocation {
    /// Where it is in the file system.
    pub path: String,
    /// Its serial number.
    pub serial: String,
    /// Its model.
    pub model: String,
    /// The slot of the enclosure or of the bus, or the address on the bus.
    pub slot: String,
    /// Whether its light blinks; `None` where there is none that can be told to.
    pub light: Option<bool>,
}

/// Why the data plane refused a change; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaneError {
    /// No volume of that UUID.
    NotFound,
    /// The volume has another revision than the one expected, or exists already.
    Conflict,
    /// No room for the record, or a limit is reached.
    Exhausted(String),
    /// This data plane can't do that (kind or sector size not served).
    Unsupported(String),
    /// The store has stopped, is draining, or the volume is not served at the moment; may pass.
    Unavailable(String),
    /// What was asked for can't be done with these drives; the text says why.
    Refused(String),
}

impl fmt::Display for PlaneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlaneError::NotFound => f.write_str("the data plane has no such object"),
            PlaneError::Conflict => f.write_str("the volume changed in between"),
            PlaneError::Exhausted(why)
            | PlaneError::Unsupported(why)
            | PlaneError::Unavailable(why)
            | PlaneError::Refused(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for PlaneError {}

/// One volume as the data plane sees it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeStatus {
    /// The descriptor in force.
    pub descriptor: VolumeDescriptor,
    /// Its space.
    pub usage: VolumeUsage,
    /// Hosts that are connected and admitted, sorted.
    pub connected_hosts: Vec<Nqn>,
    /// What hosts may do with it now.
    pub protection: Protection,
}

/// One snapshot as the data plane sees it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotStatus {
    /// The descriptor in force. Of one whose record is not understood only the UUID is meaningful.
    pub descriptor: SnapshotDescriptor,
    /// False for one whose record is not understood.
    pub usable: bool,
}

/// Where the cluster key comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOrigin {
    /// A file that holds it.
    File,
    /// A file with the passphrase that it follows from.
    Passphrase,
    /// Whoever runs the node.
    Given,
}

/// The cluster key as users are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyStatus {
    /// Its name, 32 hexadecimal digits, which give nothing of it away.
    pub id: String,
    /// Where it comes from.
    pub origin: KeyOrigin,
    /// The file's path.
    pub place: String,
    /// Keys in the pool's table: one for each encrypted line.
    pub lines: u64,
    /// Of them, those that another cluster key still wraps.
    pub stale: u64,
}

/// A part of the list of what differs, in store blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiffPart {
    /// First block and number of blocks, in order.
    pub ranges: Vec<(u64, u64)>,
    /// Where to go on; `None` at the end.
    pub next: Option<u64>,
}

/// Space that a volume takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeUsage {
    /// Bytes of the volume that have been written and not trimmed.
    pub mapped_bytes: u64,
    /// Bytes that the volume and its snapshots take in the store, parity and what clones share aside.
    pub stored_bytes: u64,
    /// Of them, what only the volume as it is now needs: deleting it would give them back.
    pub owned_bytes: u64,
    /// Of them, what only its snapshots (and clones of them) need.
    pub snapshot_bytes: u64,
    /// What compression saves of the data that the volume has now and stores itself.
    pub compression: Compression,
}

/// Data before and after compression.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compression {
    /// As hosts see it. Bytes.
    pub plain_bytes: u64,
    /// As it is stored, parity aside. Bytes.
    pub stored_bytes: u64,
}

impl Compression {
    /// How many times smaller the data is stored; 1 where there is none.
    #[must_use]
    pub fn ratio(self) -> f64 {
        if self.stored_bytes == 0 { 1.0 } else { self.plain_bytes as f64 / self.stored_bytes as f64 }
    }
}

impl Sum for Compression {
    fn sum<I: Iterator<Item = Compression>>(all: I) -> Compression {
        all.fold(Compression::default(), |sum, one| Compression {
            plain_bytes: sum.plain_bytes.saturating_add(one.plain_bytes),
            stored_bytes: sum.stored_bytes.saturating_add(one.stored_bytes),
        })
    }
}

/// How well a volume is protected, and so what hosts may do (words of the management API).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protection {
    /// All copies and all parity are there; read and write.
    #[default]
    FullyProtected,
    /// Something is missing that is not needed to serve; read and write.
    Degraded,
    /// Reads only.
    ReadOnly,
    /// Neither.
    NotAvailable,
}

/// One connected host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostStatus {
    /// Its name.
    pub nqn: Nqn,
    /// Its host identifier, as given at Connect.
    pub host_id: Uuid,
    /// Its I/O and discovery controllers, by controller id.
    pub controllers: Vec<ControllerStatus>,
    /// Volumes that it is admitted to and can see, sorted.
    pub volumes: Vec<Uuid>,
}

/// One controller of a host: an admin queue with its I/O queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerStatus {
    /// Controller id.
    pub cntlid: u16,
    /// True for a discovery controller.
    pub discovery: bool,
    /// Where the admin queue comes from.
    pub peer: SocketAddr,
    /// The address of ours that it came to.
    pub local: SocketAddr,
    /// I/O queues that are connected.
    pub io_queues: u16,
    /// When it connected.
    pub since: UnixMillis,
}

/// The pool as a whole. Bytes, parity and reserves accounted for: `used + free <= usable <= physical`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolStatus {
    /// Identity of the pool, as written on its drives.
    pub uuid: Uuid,
    /// Size of all drives together.
    pub physical_bytes: u64,
    /// What hosts' data may take in all.
    pub usable_bytes: u64,
    /// What hosts' data takes.
    pub used_bytes: u64,
    /// What hosts' data may still take, cleaning assumed.
    pub free_bytes: u64,
    /// Kept back for cleaning, checkpoints and metadata.
    pub reserved_bytes: u64,
    /// Bytes of volumes that are written and not trimmed.
    pub logical_used_bytes: u64,
    /// What compression saves of the data of all volumes.
    pub compression: Compression,
    /// Of the drives in service, the part that cleaning, checkpoints and control records keep for themselves. Parts of a million.
    pub reserve_ppm: u32,
    /// What drives were written for hosts' writes.
    pub amplification: Amplification,
    /// Memory that the map takes. Bytes.
    pub map_memory_bytes: u64,
    /// How its drives are looked at for rot.
    pub scrub: ScrubStatus,
    /// Whether it serves.
    pub state: PoolState,
    /// How what lost a drive is protected anew.
    pub reprotection: Reprotection,
    /// Reads that were answered through other drives, because one is out, failed, was late or held something else. Count.
    pub mended_reads: u64,
    /// Blocks that did not check and that no other drive could give. Count.
    pub integrity_errors: u64,
}

/// How data that lost a drive, or is to leave one, is moved to where it is safe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reprotection {
    /// Still to be moved. Bytes.
    pub at_risk_bytes: u64,
    /// Segments that this lies in; 0 when everything is protected as the drives in service allow. Count.
    pub at_risk_segments: u64,
    /// Of the drives that the pool was made to lose, how many it can't lose now: what was lost before is not made good. Count.
    pub deficit: u8,
    /// The most that was to be moved since everything was protected last. Bytes.
    pub begun_bytes: u64,
    /// Whether it rests.
    pub paused: bool,
    /// What it may move in a second; 0 for no bound. Bytes.
    pub bytes_per_s: u64,
}

impl Reprotection {
    /// How far it has come, 0 to 1; `None` when there is nothing to do.
    #[must_use]
    pub fn progress(self) -> Option<f64> {
        let begun = self.begun_bytes.max(self.at_risk_bytes);
        (self.at_risk_segments > 0)
            .then(|| if begun == 0 { 1.0 } else { 1.0 - self.at_risk_bytes as f64 / begun as f64 })
    }
}

/// Scrubbing: everything in use is read and verified now and then, and what is wrong is mended from what other drives have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubStatus {
    /// Between the beginnings of two rounds; 0: only when somebody says so. Seconds.
    pub every_s: u64,
    /// What is read in a second at most; 0: as much as the period asks for. Bytes.
    pub bytes_per_s: u64,
    /// Nothing is read at the moment.
    pub paused: bool,
    /// A round is under way.
    pub running: bool,
    /// Segments that it has been over.
    pub segments_done: u64,
    /// Segments that there are.
    pub segments: u64,
    /// When the newest round began; 0: none ever did.
    pub started: UnixMillis,
    /// When the last one ended.
    pub finished: UnixMillis,
    /// Read and verified since the start. Bytes.
    pub checked_bytes: u64,
    /// Places that were wrong and that other drives had, since the start.
    pub mended: u64,
    /// Blocks and pages that nothing gives any more, since the start.
    pub lost: u64,
    /// Some of these, for people.
    pub named: Vec<String>,
}

/// What is to be different about scrubbing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubChange {
    /// Begin a round now, unless one is under way.
    pub start: bool,
    /// Pause, or go on.
    pub paused: Option<bool>,
    /// See [`ScrubStatus::bytes_per_s`].
    pub bytes_per_s: Option<u64>,
    /// See [`ScrubStatus::every_s`].
    pub every_s: Option<u64>,
}

/// What was written to drives for what hosts wrote, since the start. What parity and mirrors add is not counted. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amplification {
    /// By hosts, as it came.
    pub hosts_bytes: u64,
    /// To drives, for whatever reason.
    pub drives_bytes: u64,
    /// Of that, what cleaning moved.
    pub cleaning_bytes: u64,
    /// Of that, map pages and checkpoints.
    pub map_bytes: u64,
}

impl Amplification {
    /// Drive bytes for each byte that hosts wrote; 0 before the first.
    #[must_use]
    pub fn drives(&self) -> f64 {
        self.share(self.drives_bytes)
    }

    /// Of [`Amplification::drives`], what cleaning moved.
    #[must_use]
    pub fn cleaning(&self) -> f64 {
        self.share(self.cleaning_bytes)
    }

    /// Of [`Amplification::drives`], what the map and its checkpoints took.
    #[must_use]
    pub fn map(&self) -> f64 {
        self.share(self.map_bytes)
    }

    #[allow(clippy::cast_precision_loss)] // Two digits are told.
    fn share(&self, bytes: u64) -> f64 {
        if self.hosts_bytes == 0 { 0.0 } else { bytes as f64 / self.hosts_bytes as f64 }
    }
}

/// Whether the pool serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PoolState {
    /// Reads and writes.
    #[default]
    Ready,
    /// Hosts' writes are refused: full.
    Full,
    /// Nothing is written any more; the reason is for people.
    Stopped(String),
}

/// One drive of the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriveStatus {
    /// Path as given to `serve`.
    pub path: String,
    /// Identity from its label.
    pub uuid: Uuid,
    /// Model and serial number as the system tells them; empty for files.
    pub model: String,
    /// See `model`.
    pub serial: String,
    /// Usable size. Bytes.
    pub size_bytes: u64,
    /// Of it not allocated to segments. Bytes.
    pub free_bytes: u64,
    /// Allocated to segments; of a drive that is out or leaving, what is still to be moved. Bytes.
    pub used_bytes: u64,
    /// Of it what is live, parity included. Bytes.
    pub live_bytes: u64,
    /// Operations that failed since the start. Count.
    pub errors: u64,
    /// Mean time of a read since the start. Nanoseconds.
    pub read_ns: u64,
    /// Mean time of a write since the start. Nanoseconds.
    pub write_ns: u64,
    /// True for a file that stands for a drive.
    pub file: bool,
    /// Whether it works.
    pub state: DriveState,
    /// Failed writes so far.
    pub strikes: u32,
}

/// Whether a drive works.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DriveState {
    /// In use.
    #[default]
    Active,
    /// In use, and being emptied so that it can be taken away.
    Leaving,
    /// It failed, and nothing is read from or written to it any more; the reason is for people.
    Out(String),
    /// The same, since it was not there or could not be used when the pool was opened.
    Absent(String),
}

impl DriveState {
    /// Why it is not in use.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            DriveState::Active | DriveState::Leaving => None,
            DriveState::Out(why) | DriveState::Absent(why) => Some(why),
        }
    }
}

/// What happened by itself in the data plane; becomes an event. Hints: losing one loses an event, never state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A host's first controller came up.
    HostConnected {
        /// The host.
        nqn: Nqn,
        /// Where from.
        peer: SocketAddr,
    },
    /// A host's last controller went away.
    HostDisconnected {
        /// The host.
        nqn: Nqn,
        /// Why, for people (keep-alive timeout, connection closed ...).
        reason: String,
    },
    /// Something happened to a drive.
    Drive {
        /// Path as given to `serve`.
        path: String,
        /// What.
        what: DriveNews,
    },
    /// Re-protection began, ended, or was told something else.
    Reprotection(ReprotectionNews),
    /// The pool changed its state.
    Pool {
        /// The new state.
        state: PoolState,
    },
    /// Scrubbing found something wrong.
    Scrub {
        /// It can't be mended.
        lost: bool,
        /// What was found, for people.
        text: String,
    },
    /// A block of a volume failed its check.
    Integrity {
        /// The volume.
        volume: Uuid,
        /// What was found, for people.
        text: String,
    },
}

/// What happened to a drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriveNews {
    /// It has joined.
    Added,
    /// It is being emptied.
    Leaving,
    /// It stays after all.
    Kept,
    /// It has left: nothing needs it any more.
    Gone,
    /// It was removed, and its copy of the wrapped keys is overwritten.
    KeysErased,
    /// It was removed, and still holds wrapped keys, and why.
    KeysLeft(String),
    /// It is out, and why.
    Out(String),
    /// It was not there at the start, or could not be used, and why.
    Absent(String),
    /// It was out and came back; what it held counts no more, and it has joined as a new one.
    Stale,
    /// What was named in its place is no drive of the pool and was left as it is, and why.
    Untouched(String),
}

/// What happened to re-protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReprotectionNews {
    /// So many bytes are to be moved.
    Started(u64),
    /// Everything is protected as the drives in service allow.
    Finished,
    /// It rests.
    Paused,
    /// It goes on.
    Resumed,
    /// It may move so many bytes in a second; 0 for no bound.
    Bounded(u64),
}

/// What the data plane found on the drives at start: the truth from which the model is derived.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Every descriptor in the log, `Deleting` ones included.
    pub volumes: Vec<VolumeDescriptor>,
    /// Every snapshot in the log, those in `Deleting` included, whose record is understood.
    pub snapshots: Vec<SnapshotDescriptor>,
    /// The highest line that the pool has ever known.
    pub highest_line: LineId,
    /// The highest NSID of any descriptor that the pool has ever known, as far as it can tell.
    pub highest_nsid: Nsid,
}

/// The control side's end: sends requests and waits, for a bounded time, for their answers.
#[derive(Clone, Debug)]
pub struct Plane {
    requests: mpsc::Sender<NodeRequest>,
}

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// Too many requests wait already, or it took longer than the deadline.
    TooSlow,
    /// The data plane has gone.
    Gone,
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoAnswer::TooSlow => "the data plane does not answer in time",
            NoAnswer::Gone => "the data plane has stopped",
        })
    }
}

impl std::error::Error for NoAnswer {}

/// Makes the two ends of the mailbox between control and data.
#[must_use]
pub fn channel() -> (Plane, mpsc::Receiver<NodeRequest>) {
    let (requests, receiver) = mpsc::channel(MAX_PENDING_REQUESTS);
    (Plane { requests }, receiver)
}

impl Plane {
    /// Sends the request that `make` builds round its answer's sender; the answer comes through the receiver.
    /// Never waits: a full mailbox is [`NoAnswer::TooSlow`].
    pub fn send<T>(
        &self,
        make: impl FnOnce(Answer<T>) -> NodeRequest,
    ) -> Result<oneshot::Receiver<T>, NoAnswer> {
        let (sender, receiver) = oneshot::channel();
        match self.requests.try_send(make(sender)) {
            Ok(()) => Ok(receiver),
            Err(mpsc::error::TrySendError::Full(_)) => Err(NoAnswer::TooSlow),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(NoAnswer::Gone),
        }
    }

    /// Asks for state and waits at most [`QUERY_DEADLINE`].
    pub async fn query<T>(&self, make: impl FnOnce(Answer<T>) -> NodeRequest) -> Result<T, NoAnswer> {
        let receiver = self.send(make)?;
        match tokio::time::timeout(QUERY_DEADLINE, receiver).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(NoAnswer::Gone),
            Err(_) => Err(NoAnswer::TooSlow),
        }
    }
}
