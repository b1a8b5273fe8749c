//! What the data plane tells of what it has: volumes, snapshots, hosts, the pool and its drives, as they are now.

use super::{LostBlocks, LostObject};
use dolmen_types::{Nqn, UnixMillis, Uuid, snapshot::SnapshotDescriptor, volume::VolumeDescriptor};
use std::{iter::Sum, net::SocketAddr};

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
    /// What of it nothing gives any more, as far as anybody has come upon it since the start, and it was not overwritten or trimmed since.
    pub lost: Vec<LostBlocks>,
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

/// A part of the list of what differs, in store blocks: what is found in half a second, maybe nothing though there is more.
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

/// The pool as a whole. Bytes, parity and reserves accounted for: `used + free <= usable <= physical`, but for a pool
/// that holds more than its drives in service have room for. What was overwritten or trimmed counts as used until a checkpoint.
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
    /// Volumes with lost blocks, and snapshots with such that no volume shows, as [`VolumeStatus::lost`] has them.
    pub lost: Vec<LostObject>,
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
    /// What has to be deleted, or to join, before there is room to make it good; 0 while there is enough. Bytes.
    pub lacks_bytes: u64,
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
    /// Path as given to `serve`; empty for one that is not there, and at whose path another drive of the pool is by now.
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
