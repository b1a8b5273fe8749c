//! What the model is told, and what it says must be done.

use super::{SnapshotView, VolumeView};
use crate::{
    Error,
    event::Occurrence,
    plane::PlaneError,
    schedule::SnapshotPolicy,
    snapshot::SnapshotSpec,
    state::Marks,
    volume::{VolumeChange, VolumeKey, VolumeSpec},
};
use dolmen_types::{LineId, PgId, UnixMillis, Uuid, snapshot::SnapshotDescriptor, volume::VolumeDescriptor};

/// Names a caller that waits; echoed in [`Command::Answer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What came in.
#[derive(Clone, Debug)]
pub enum Input {
    /// A user wants a volume.
    Create {
        /// Who waits.
        request: RequestId,
        /// What is wanted.
        spec: VolumeSpec,
        /// A fresh random UUID.
        uuid: Uuid,
        /// The time.
        now: UnixMillis,
    },
    /// A user wants a volume changed.
    Update {
        /// Who waits.
        request: RequestId,
        /// The project in which `key` is looked up; `None` for any, by UUID only.
        project: Option<String>,
        /// Which volume.
        key: VolumeKey,
        /// The revision that the user saw.
        expected: Option<u64>,
        /// What to change.
        change: VolumeChange,
    },
    /// A user wants a volume gone.
    Delete {
        /// Who waits.
        request: RequestId,
        /// As for `Update`.
        project: Option<String>,
        /// Which volume.
        key: VolumeKey,
        /// The revision that the user saw.
        expected: Option<u64>,
    },
    /// A user wants a volume put back to a snapshot.
    Rollback {
        /// Who waits.
        request: RequestId,
        /// As for `Update`.
        project: Option<String>,
        /// Which volume.
        key: VolumeKey,
        /// Which snapshot, in the volume's project.
        snapshot: VolumeKey,
        /// The revision that the user saw.
        expected: Option<u64>,
    },
    /// A user wants snapshots, taken at one instant.
    CreateSnapshots {
        /// Who waits; nobody for those of a policy.
        request: Option<RequestId>,
        /// What is wanted, each with a fresh random UUID.
        wanted: Vec<(SnapshotSpec, Uuid)>,
        /// The time.
        now: UnixMillis,
    },
    /// A user wants a snapshot gone.
    DeleteSnapshot {
        /// Who waits.
        request: RequestId,
        /// As for `Update`.
        project: Option<String>,
        /// Which snapshot.
        key: VolumeKey,
        /// The revision that the user saw.
        expected: Option<u64>,
    },
    /// The data plane answered for these snapshots; `None` when it will never answer.
    SnapshotsAnswered {
        /// Which.
        uuids: Vec<Uuid>,
        /// The snapshots as they are now, or why nothing was changed.
        result: Option<Result<Vec<SnapshotDescriptor>, PlaneError>>,
    },
    /// The time, now and then: snapshots whose time is over go, those that are due are taken.
    Tick {
        /// The time.
        now: UnixMillis,
        /// From when on what is taken now is kept: the time, or a later one where the clock is known to be behind.
        dated: UnixMillis,
        /// Whether the clock can be believed. What is not sure to be over stays.
        sure: bool,
        /// Fresh random UUIDs, one for each snapshot that may be taken.
        fresh: Vec<Uuid>,
    },
    /// The data plane answered the change of this volume; `None` when it will never answer.
    Answered {
        /// Which volume.
        uuid: Uuid,
        /// Its answer.
        result: Option<Result<(), PlaneError>>,
    },
    /// The data plane's list of all volumes, asked for after [`Model::ask`](super::Model::ask) gave this `round`.
    Observed {
        /// The round of the question.
        round: u64,
        /// All volumes that exist.
        volumes: Vec<VolumeDescriptor>,
        /// All snapshots that exist.
        snapshots: Vec<SnapshotDescriptor>,
    },
    /// The question of [`Model::ask`](super::Model::ask) got no answer.
    Unobserved,
    /// Marks could not be made durable: none above those in the file may be used.
    MarksNotSaved,
}

/// What must be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Make these marks durable before going on; if that fails, refuse what follows and takes an id, and tell the model
    /// ([`Input::MarksNotSaved`]).
    SaveMarks(Marks),
    /// Ask the data plane to make this volume, and feed its answer back.
    Create(Box<VolumeDescriptor>),
    /// Ask the data plane to put this descriptor in the place of that revision, and feed its answer back.
    Update {
        /// The new descriptor.
        descriptor: Box<VolumeDescriptor>,
        /// The old revision.
        expected_revision: u64,
    },
    /// Ask the data plane to give this volume up, and feed its answer back.
    Delete {
        /// Which.
        uuid: Uuid,
        /// The old revision.
        expected_revision: u64,
        /// The revision of its `Deleting` descriptor.
        new_revision: u64,
    },
    /// Ask the data plane to put this volume back to that snapshot, and feed its answer back as that of a change.
    Rollback {
        /// Which volume.
        uuid: Uuid,
        /// Which snapshot.
        snapshot: Uuid,
        /// The volume's new line.
        line: LineId,
        /// The old revision.
        expected_revision: u64,
    },
    /// Ask the data plane for these snapshots, and feed its answer back.
    CreateSnapshots(Vec<SnapshotDescriptor>),
    /// Ask the data plane to give this snapshot up, and feed its answer back.
    DeleteSnapshot {
        /// Which.
        uuid: Uuid,
        /// Its protection group.
        pg: PgId,
        /// The old revision.
        expected_revision: u64,
    },
    /// Make this state of a snapshot policy durable.
    SaveSchedule(Box<SnapshotPolicy>),
    /// Forget this snapshot policy for good.
    RemoveSchedule(Uuid),
    /// Tell a caller that asked for snapshots.
    AnswerSnapshots {
        /// Which caller.
        request: RequestId,
        /// The snapshots as they are now, or why not.
        result: Result<Vec<SnapshotView>, Error>,
    },
    /// Tell the caller.
    Answer {
        /// Which caller.
        request: RequestId,
        /// The volume as it is now, or why not.
        result: Result<Box<VolumeView>, Error>,
    },
    /// Record what happened.
    Record(Occurrence),
}
