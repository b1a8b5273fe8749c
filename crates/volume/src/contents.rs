//! What a pool's keyed objects say, for whoever reads drives without serving them.

use crate::{descriptor, group::kind, identity, identity::NodeIdentity, snapshot};
use dolmen_store::Key;
use dolmen_types::{PgId, Uuid, snapshot::SnapshotDescriptor, volume::VolumeDescriptor};

/// The contents of a pool by name.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// Volumes whose record is understood, those in deletion included.
    pub volumes: Vec<VolumeDescriptor>,
    /// Snapshots whose record is understood, those in deletion included.
    pub snapshots: Vec<SnapshotDescriptor>,
    /// Volumes and snapshots whose record is not understood.
    pub unknown: Vec<Uuid>,
    /// Who the node is that has served the pool.
    pub identity: Option<NodeIdentity>,
}

impl Catalog {
    /// Reads the keyed objects of all groups.
    #[must_use]
    pub fn read<'a>(objects: impl IntoIterator<Item = (PgId, Key, &'a [u8])>) -> Catalog {
        let mut catalog = Catalog::default();
        for (pg, key, value) in objects {
            let uuid = Uuid(key.id.to_be_bytes());
            match key.kind {
                kind::DESCRIPTOR => match descriptor::decode(value) {
                    Ok(d) if d.uuid == uuid && d.pg == pg => catalog.volumes.push(d),
                    _ => catalog.unknown.push(uuid),
                },
                kind::SNAPSHOT => match snapshot::decode(value) {
                    Ok(d) if d.uuid == uuid && d.pg == pg => catalog.snapshots.push(d),
                    _ => catalog.unknown.push(uuid),
                },
                kind::IDENTITY => catalog.identity = identity::decode(value).ok(),
                _ => {}
            }
        }
        catalog.volumes.sort_by_key(|d| d.uuid);
        catalog.snapshots.sort_by_key(|d| d.uuid);
        catalog
    }
}
