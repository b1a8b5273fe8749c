//! What a volume is, as plain data: shared by the log's descriptors, the data path and the control side.

use crate::{LineId, Nqn, Nsid, PgId, UnixMillis, Uuid, qos::QosAssignment, snapshot::CloneSource};
use std::{collections::BTreeSet, net::IpAddr};

/// Logical block size that hosts see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SectorSize {
    /// 512 bytes; writes that do not fill a 4 KiB store block cost a read.
    B512,
    /// 4096 bytes, the default.
    #[default]
    B4096,
}

impl SectorSize {
    /// Bytes of one logical block.
    #[must_use]
    pub fn bytes(self) -> u32 {
        match self {
            SectorSize::B512 => 512,
            SectorSize::B4096 => 4096,
        }
    }

    /// The size with this many bytes, if it is one that we serve.
    #[must_use]
    pub fn from_bytes(bytes: u32) -> Option<SectorSize> {
        match bytes {
            512 => Some(SectorSize::B512),
            4096 => Some(SectorSize::B4096),
            _ => None,
        }
    }
}

/// What stands behind a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VolumeKind {
    /// The flash engine: durable. The only kind outside tests and benchmarks.
    #[default]
    Durable,
    /// Reads zeros, forgets writes; for benchmarks of the path. Never in the log.
    Null,
    /// Keeps blocks in memory, gone at the end of the process. Never in the log.
    Memory,
}

/// Which hosts a volume admits, by NQN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostAccess {
    /// Nobody (`ALLOW_NONE`).
    #[default]
    None,
    /// Everybody (`ALLOW_ANY`).
    Any,
    /// These NQNs, at most [`MAX_ACL_ENTRIES`](crate::limits::MAX_ACL_ENTRIES).
    Hosts(BTreeSet<Nqn>),
}

impl HostAccess {
    /// True when the host may see the volume.
    #[must_use]
    pub fn admits(&self, host: &Nqn) -> bool {
        match self {
            HostAccess::None => false,
            HostAccess::Any => true,
            HostAccess::Hosts(set) => set.contains(host),
        }
    }
}

/// Which source addresses a volume admits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum IpAccess {
    /// Nobody (`ALLOW_NONE`).
    None,
    /// Everybody (`ALLOW_ANY`), the default.
    #[default]
    Any,
    /// These addresses, at most [`MAX_IP_ACL_ENTRIES`](crate::limits::MAX_IP_ACL_ENTRIES).
    Addresses(BTreeSet<IpAddr>),
}

impl IpAccess {
    /// True when a connection from `ip` may see the volume. An IPv4-mapped IPv6 address counts as its IPv4 address.
    #[must_use]
    pub fn admits(&self, ip: IpAddr) -> bool {
        match self {
            IpAccess::None => false,
            IpAccess::Any => true,
            IpAccess::Addresses(set) => set.contains(&ip.to_canonical()),
        }
    }
}

/// Where a volume stands in its life. `Creating` and `Deleted` are never stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VolumeState {
    /// In use.
    #[default]
    Available,
    /// Its data is being given up; no host sees it any more; ends by itself.
    Deleting,
}

/// Everything that defines a volume but its data. Its record in the log is the truth; all else is derived from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeDescriptor {
    /// Identity for hosts (NVMe UUID and NGUID) and for the API; never reused.
    pub uuid: Uuid,
    /// Unique in its project among volumes that are not `Deleting`.
    pub name: String,
    /// The tenant; `default` when none is named.
    pub project: String,
    /// Namespace id, cluster-wide; not reused while the volume or a host's memory of it may live.
    pub nsid: Nsid,
    /// The protection group that orders its writes.
    pub pg: PgId,
    /// Its history of writes.
    pub line: LineId,
    /// Logical size in bytes, a multiple of 4096.
    pub size_bytes: u64,
    /// Logical block size.
    pub sector: SectorSize,
    /// What stands behind it.
    pub kind: VolumeKind,
    /// Admitted hosts by NQN.
    pub acl: HostAccess,
    /// Admitted hosts by address. A host needs both.
    pub ip_acl: IpAccess,
    /// Free labels (key, value), at most 16.
    pub labels: Vec<(String, String)>,
    /// Its data is compressed where that pays. A property of its line: decided when it is made, and that of its source for a
    /// clone.
    pub compression: bool,
    /// Its data is encrypted on the drives, under a key of its line's own. Decided likewise.
    pub encryption: bool,
    /// How its rate is limited; `None` for not at all.
    pub qos: Option<QosAssignment>,
    /// What it was cloned from; `None` for a volume that began empty.
    pub source: Option<CloneSource>,
    /// When it was made.
    pub created: UnixMillis,
    /// Grows with every change; the API's ETag.
    pub revision: u64,
    /// Place in its life.
    pub state: VolumeState,
}
