//! The namespaces of the subsystem as one immutable snapshot, made by the node's control side at every change and given
//! to every core. Entries that did not change are the same `Arc` in the next snapshot, so a core finds what changed
//! without looking into the rest.

use dolmen_types::{
    Nsid, PgId, Uuid,
    volume::{HostAccess, IpAccess, SectorSize},
};
use dolmen_volume::{VolumeInfo, VolumeRef};
use std::sync::Arc;

/// One namespace: what hosts may know of a volume, and who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Namespace id, cluster-wide, 1 to 0xFFFFFFFE.
    pub nsid: Nsid,
    /// The volume's UUID; hosts see it as NGUID and as the UUID descriptor.
    pub uuid: Uuid,
    /// Where its commands go.
    pub volume: VolumeRef,
    /// Its protection group; hosts see it as ANA group `pg + 1`.
    pub pg: PgId,
    /// Size in bytes, a multiple of the sector size.
    pub size_bytes: u64,
    /// Logical block size.
    pub sector: SectorSize,
    /// Admitted hosts by NQN.
    pub acl: HostAccess,
    /// Admitted hosts by source address. A host needs both.
    pub ip_acl: IpAccess,
}

impl Namespace {
    /// The namespace of a volume.
    #[must_use]
    pub fn of(volume: &VolumeInfo) -> Namespace {
        let d = &volume.descriptor;
        Namespace {
            nsid: d.nsid,
            uuid: d.uuid,
            volume: volume.at,
            pg: d.pg,
            size_bytes: d.size_bytes,
            sector: d.sector,
            acl: d.acl.clone(),
            ip_acl: d.ip_acl.clone(),
        }
    }

    /// Size in logical blocks.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.size_bytes / u64::from(self.sector.bytes())
    }

    /// ANA group identifier (Base 8.1), 1 to the number of protection groups.
    #[must_use]
    pub fn ana_group(&self) -> u32 {
        self.pg.0 + 1
    }

    /// True when a host that sees both must look again (size, format, group or what stands behind differ).
    pub(crate) fn looks_different(&self, old: &Namespace) -> bool {
        (self.size_bytes, self.sector, self.pg, self.uuid) != (old.size_bytes, old.sector, old.pg, old.uuid)
    }
}

/// All namespaces at one moment.
#[derive(Clone, Debug, Default)]
pub struct NamespaceTable {
    generation: u64,
    spaces: Vec<Arc<Namespace>>,
}

impl NamespaceTable {
    /// A snapshot. `generation` grows with every change, also over restarts (it is the discovery log's GENCTR).
    ///
    /// # Panics
    /// When two namespaces share an nsid, or one is 0 or 0xFFFFFFFF: going on would mix up two volumes.
    #[must_use]
    pub fn new(generation: u64, mut spaces: Vec<Arc<Namespace>>) -> NamespaceTable {
        spaces.sort_by_key(|s| s.nsid);
        assert!(spaces.windows(2).all(|w| w[0].nsid != w[1].nsid), "an nsid names one volume");
        assert!(spaces.iter().all(|s| s.nsid.0 != 0 && s.nsid.0 != u32::MAX), "an nsid is not reserved");
        NamespaceTable { generation, spaces }
    }

    /// Version of this snapshot.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The namespaces, by ascending nsid.
    #[must_use]
    pub fn spaces(&self) -> &[Arc<Namespace>] {
        &self.spaces
    }

    /// Calls `each` with (old, new) for every namespace that is not the same `Arc` in both.
    pub(crate) fn diff(
        &self,
        new: &NamespaceTable,
        mut each: impl FnMut(Option<&Arc<Namespace>>, Option<&Arc<Namespace>>),
    ) {
        let (mut a, mut b) = (self.spaces.iter().peekable(), new.spaces.iter().peekable());
        loop {
            match (a.peek(), b.peek()) {
                (None, None) => return,
                (Some(x), Some(y)) if x.nsid == y.nsid => {
                    if !Arc::ptr_eq(x, y) {
                        each(Some(x), Some(y));
                    }
                    a.next();
                    b.next();
                }
                (Some(x), y) if y.is_none_or(|y| x.nsid < y.nsid) => {
                    each(Some(x), None);
                    a.next();
                }
                (_, y) => {
                    each(None, y.copied());
                    b.next();
                }
            }
        }
    }
}
