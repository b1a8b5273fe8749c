//! The vocabulary between the control side and the data plane of one node: typed requests, each with the sender of
//! its one answer, and notices the other way.
//!
//! This file owns words only, no behaviour but the bounded wait of [`Plane`]. The data plane promises: every request
//! is answered, or its answer's sender is dropped (which means "outcome unknown, list again"); a change is answered
//! only when it is durable. Nothing here runs per I/O.

use crate::trace::VolumeTraces;
use dolmen_types::{DriveChange, LineId, PgId, Uuid, snapshot::SnapshotDescriptor, volume::VolumeDescriptor};
use std::{fmt, time::Duration};
use tokio::sync::{mpsc, oneshot};

mod loss;
mod metrics;
mod notice;
mod status;

pub use loss::{LostBlocks, LostObject};
pub use metrics::{
    ConnectionMetrics, CoreMetrics, DriveMetrics, IoMetrics, IoTotals, LATENCY_BUCKETS, MetricsSnapshot,
    VolumeMetrics,
};
pub use notice::{DriveNews, Notice, Recovered, ReprotectionNews};
pub use status::{
    Amplification, Compression, ControllerStatus, DiffPart, DriveLocation, DriveState, DriveStatus,
    HostStatus, KeyOrigin, KeyStatus, PoolState, PoolStatus, Protection, Reprotection, ScrubChange,
    ScrubStatus, SnapshotStatus, VolumeStatus, VolumeUsage,
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
