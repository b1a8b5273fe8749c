//! What a snapshot is, as plain data: shared by the log's records, the data path and the control side.

use crate::{LineId, PgId, Seq, UnixMillis, Uuid, volume::SectorSize};

/// Where a snapshot stands in its life. `Creating` is never stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SnapshotState {
    /// Can be cloned, rolled back to, compared.
    #[default]
    Available,
    /// On its way out; ends by itself when no clone of it is left.
    Deleting,
}

/// Everything that defines a snapshot but its data. Its record in the log is the truth; all else is derived from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotDescriptor {
    /// Identity; never reused.
    pub uuid: Uuid,
    /// Unique in its project among all snapshots, until it is really gone.
    pub name: String,
    /// The tenant, that of the volume.
    pub project: String,
    /// For people.
    pub description: String,
    /// The volume that it was taken of; it may be gone by now.
    pub volume: Uuid,
    /// That volume's name when it was taken.
    pub volume_name: String,
    /// The protection group of the volume, and so of every clone.
    pub pg: PgId,
    /// The volume's line when it was taken.
    pub line: LineId,
    /// Which point of the line it keeps.
    pub at: Seq,
    /// The volume's size then. Bytes.
    pub size_bytes: u64,
    /// The volume's logical block size.
    pub sector: SectorSize,
    /// Whether the volume's data is compressed, and so that of every clone.
    pub compression: bool,
    /// Whether the volume's data is encrypted, and so that of every clone.
    pub encryption: bool,
    /// Store blocks that the volume had written and not trimmed then; an upper bound.
    pub mapped_blocks: u64,
    /// The volume's labels then; a clone inherits them.
    pub labels: Vec<(String, String)>,
    /// When it was taken.
    pub created: UnixMillis,
    /// When it is deleted by itself.
    pub expires: Option<UnixMillis>,
    /// The snapshot policy that took it.
    pub policy: Option<Uuid>,
    /// Grows with every change; the API's ETag.
    pub revision: u64,
    /// Place in its life.
    pub state: SnapshotState,
}

/// What a volume was cloned from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloneSource {
    /// The snapshot.
    pub snapshot: Uuid,
    /// The snapshot's name then.
    pub name: String,
}
