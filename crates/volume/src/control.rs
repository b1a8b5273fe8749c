//! Life cycle of volumes as messages of the control side: create, update, delete, list. Answers come when what they
//! tell is durable.

use crate::VolumeRef;
use dolmen_store::{DiffPage, LineUsage};
use dolmen_types::{
    Lba, LineId, Uuid,
    qos::QosAssignment,
    snapshot::SnapshotDescriptor,
    volume::{HostAccess, IpAccess, VolumeDescriptor},
};
use std::fmt;

/// How the process came to open its volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// The machine has been up all the time: every reservation stays.
    Process,
    /// The machine was off: reservations without "persist through power loss" end (Base Specification 2.0, 8.19).
    PowerOn,
}

/// One request of the control side.
#[derive(Clone, Debug)]
pub struct ControlRequest {
    /// The caller's, echoed in the [`ControlReply`].
    pub token: u64,
    /// What to do.
    pub command: ControlCommand,
}

/// What to do with a volume.
#[derive(Clone, Debug)]
pub enum ControlCommand {
    /// Make a volume. The caller chooses UUID, NSID, PG (whose home is this core) and line, and has made sure that the
    /// name is free; `revision` and `state` are set here. Asking twice for the very same volume succeeds twice. With a
    /// source it begins with the snapshot's contents; the snapshot's group must be its own, and its size no smaller.
    Create(Box<VolumeDescriptor>),
    /// Change a volume.
    Update {
        /// The volume.
        uuid: Uuid,
        /// What to change.
        update: Box<VolumeUpdate>,
    },
    /// Delete a volume: answered when it is durably `Deleting`; the rest ends by itself. Deleting twice succeeds twice.
    Delete {
        /// The volume.
        uuid: Uuid,
        /// Refuse unless the volume is at this revision.
        expected_revision: Option<u64>,
    },
    /// Put a volume back to what one of its snapshots holds. Commands under way end first, later ones see the old
    /// contents come back. It keeps its size, or takes the snapshot's if that is larger; snapshots stay, newer ones too.
    Rollback {
        /// The volume.
        uuid: Uuid,
        /// A snapshot of it.
        snapshot: Uuid,
        /// A line that was never used.
        line: LineId,
        /// Refuse unless the volume is at this revision.
        expected_revision: Option<u64>,
    },
    /// Take snapshots of different volumes of one group at one instant: all or none. The caller chooses UUID, description,
    /// times and policy, and has made sure that the names are free; what follows from the volume is filled in here.
    CreateSnapshots(Vec<SnapshotDescriptor>),
    /// Delete a snapshot: answered when it is durably `Deleting`; it ends by itself when no clone of it is left.
    /// Deleting twice succeeds twice.
    DeleteSnapshot {
        /// The snapshot.
        uuid: Uuid,
        /// Refuse unless it is at this revision.
        expected_revision: Option<u64>,
    },
    /// Tell what differs between two snapshots.
    Diff(DiffQuery),
    /// Tell about one volume.
    Show(Uuid),
    /// Tell about all volumes of this core.
    List,
    /// Tell about all snapshots of this core.
    ListSnapshots,
}

/// A question for what differs between two snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiffQuery {
    /// The newer one.
    pub snapshot: Uuid,
    /// The older one, of the same volume or of one that shares an ancestor; `None` for all that is written.
    pub base: Option<Uuid>,
    /// First store block to look at.
    pub first: Lba,
    /// Ranges to list at most.
    pub limit: usize,
}

/// What is known about a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its definition. Of a quarantined one only the UUID is meaningful.
    pub descriptor: SnapshotDescriptor,
    /// How it is.
    pub health: Health,
}

/// What to change of a volume; `None` leaves as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeUpdate {
    /// Refuse unless the volume is at this revision.
    pub expected_revision: Option<u64>,
    /// New name.
    pub name: Option<String>,
    /// New logical size in bytes, a multiple of 4096.
    pub size_bytes: Option<u64>,
    /// Whether the size may become smaller.
    pub shrink: Shrink,
    /// New access list by NQN.
    pub acl: Option<HostAccess>,
    /// New access list by address.
    pub ip_acl: Option<IpAccess>,
    /// New labels (all of them).
    pub labels: Option<Vec<(String, String)>>,
    /// New QoS policy, or none; in force when the update is answered.
    pub qos: Option<Option<QosAssignment>>,
}

/// What to do when the new size is smaller than the old one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shrink {
    /// Refuse.
    #[default]
    Refuse,
    /// Do it; what lay beyond the new end is gone for ever, and reads zeros after a later growth.
    Discard,
}

/// How a volume is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Served.
    #[default]
    Good,
    /// Its records cannot be understood (damaged, or of a newer version): it is left alone and not served.
    Quarantined,
    /// The store refuses its writes after a drive's failure.
    Stopped,
}

/// What is known about a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeInfo {
    /// Its definition. Of a quarantined volume only the UUID is meaningful.
    pub descriptor: VolumeDescriptor,
    /// Where it lives.
    pub at: VolumeRef,
    /// How it is.
    pub health: Health,
    /// What it takes.
    pub usage: LineUsage,
}

/// The answer to one [`ControlRequest`]. Every request gets exactly one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlReply {
    /// The request's.
    pub token: u64,
    /// What came of it.
    pub result: Result<ControlDone, ControlError>,
}

/// What came of a control request that was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlDone {
    /// The volume as it is now (create, update, delete, show).
    Volume(Box<VolumeInfo>),
    /// All volumes of this core, in no particular order.
    List(Vec<VolumeInfo>),
    /// The snapshots as they are now (taken, deleted), or all of this core, in no particular order.
    Snapshots(Vec<SnapshotInfo>),
    /// What differs.
    Diff(DiffPage),
}

/// Why a control request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlError {
    /// No such volume or snapshot here.
    NotFound,
    /// A different volume or snapshot has this UUID.
    Exists,
    /// The volume is at another revision: the caller's picture is old.
    Conflict {
        /// The revision it is at.
        revision: u64,
    },
    /// A field has no valid value.
    Invalid {
        /// Name of the field, as in [`VolumeDescriptor`].
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The volume is being deleted.
    Deleting,
    /// No room for another volume, or for more in its descriptor.
    TooMany,
    /// So many snapshots can't be taken at one instant: their records fill what is written at once. None was.
    TooManyTogether {
        /// How many could be, of these from the first one on.
        fit: usize,
    },
    /// Too many control requests are under way; trying again helps.
    Busy,
    /// The store has stopped after a drive's failure, or the volume is quarantined.
    NotReady,
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ControlError::NotFound => f.write_str("no such volume or snapshot"),
            ControlError::Exists => f.write_str("another volume or snapshot has this UUID"),
            ControlError::Conflict { revision } => {
                write!(f, "it was changed meanwhile (it is at revision {revision}); read it again")
            }
            ControlError::Invalid { field, reason } => write!(f, "{field}: {reason}"),
            ControlError::Deleting => f.write_str("the volume is being deleted"),
            ControlError::TooMany => f.write_str("no room for another one; delete one first"),
            ControlError::TooManyTogether { fit } => write!(
                f,
                "so many snapshots, with what describes them and the labels of their volumes, can't be taken at one instant: the first \
                 {fit} of them could; take them in several goes"
            ),
            ControlError::Busy => f.write_str("too many requests are under way; try again"),
            ControlError::NotReady => {
                f.write_str("the volume cannot be changed now; see the state of its drives")
            }
        }
    }
}

impl std::error::Error for ControlError {}

/// A change of what volumes there are, for the tables that doors look in. Emitted when it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The volume is there, as told. Hosts may see it unless its state is `Deleting` or its health is not good.
    Present(Box<VolumeInfo>),
    /// The volume is gone, descriptor and all.
    Gone(Uuid),
}
