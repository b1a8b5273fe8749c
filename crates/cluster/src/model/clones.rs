//! What volumes take from snapshots: clones begin as them, rollbacks go back to them.

use super::{Command, Life, Model, Pending, RequestId};
use crate::{
    Error, Kind,
    volume::{VolumeKey, VolumeSpec},
};
use dolmen_types::{
    PgId,
    snapshot::CloneSource,
    volume::{SectorSize, VolumeDescriptor, VolumeKind, VolumeState},
};

/// What follows from a snapshot for its clone.
pub(super) struct ClonePlan {
    pub(super) pg: PgId,
    pub(super) sector: SectorSize,
    pub(super) compression: bool,
    pub(super) encryption: bool,
    pub(super) labels: Vec<(String, String)>,
    pub(super) source: CloneSource,
}

impl Model {
    /// What a volume takes from the snapshot that it is to be a clone of.
    pub(super) fn clone_plan(&self, spec: &VolumeSpec) -> Result<Option<ClonePlan>, Error> {
        let Some(key) = &spec.source else { return Ok(None) };
        let field = match key {
            VolumeKey::Uuid(_) => "sourceSnapshotUUID",
            VolumeKey::Name(_) => "sourceSnapshotName",
        };
        let held = self.snapshots.find(Some(&spec.project), key)?;
        let d = &held.descriptor;
        if held.life() != Life::Available {
            return Err(Error::invalid(field, format!("snapshot '{}' is not available", d.name)));
        }
        if spec.kind != VolumeKind::Durable {
            return Err(Error::invalid("kind", "a clone is on the drives, as its snapshot is"));
        }
        if spec.size_bytes < d.size_bytes {
            let why = format!("a clone can't be smaller than its snapshot ({} bytes)", d.size_bytes);
            return Err(Error::invalid("size", why));
        }
        if spec.sector.is_some_and(|sector| sector != d.sector) {
            return Err(Error::invalid("sectorSize", format!("the snapshot has {}", d.sector.bytes())));
        }
        Ok(Some(ClonePlan {
            pg: d.pg,
            sector: d.sector,
            compression: d.compression,
            encryption: d.encryption,
            labels: d.labels.clone(),
            source: CloneSource { snapshot: d.uuid, name: d.name.clone() },
        }))
    }

    /// Puts a volume back to a snapshot of it.
    pub(super) fn rollback(
        &mut self,
        request: RequestId,
        project: Option<&str>,
        (key, snapshot): (&VolumeKey, &VolumeKey),
        expected: Option<u64>,
    ) -> Result<Vec<Command>, Error> {
        let entry = self.entry(project, key)?;
        entry.check_changeable(expected)?;
        let old = entry.descriptor();
        if old.state == VolumeState::Deleting {
            return Err(Error::new(Kind::InvalidArgument, format!("volume '{}' is being deleted", old.name)));
        }
        let field = match snapshot {
            VolumeKey::Uuid(_) => "srcSnapshotUUID",
            VolumeKey::Name(_) => "srcSnapshotName",
        };
        let held = self.snapshots.find(Some(&old.project), snapshot)?;
        let source = &held.descriptor;
        if held.life() != Life::Available {
            return Err(Error::invalid(field, format!("snapshot '{}' is not available", source.name)));
        }
        if source.volume != old.uuid {
            let why = format!("snapshot '{}' is of another volume; make a clone of it instead", source.name);
            return Err(Error::invalid(field, why));
        }
        let (uuid, snapshot, size) = (old.uuid, source.uuid, source.size_bytes);
        let (compression, encryption) = (source.compression, source.encryption);
        let (line, save) = self.take_line();
        let entry = self.volumes.get_mut(&uuid).expect("entry() found it in this map");
        let old = entry.descriptor();
        let expected_revision = old.revision;
        // As the data plane does it: the size never becomes smaller under a host.
        let next = VolumeDescriptor {
            line,
            size_bytes: old.size_bytes.max(size),
            compression,
            encryption,
            revision: old.revision.saturating_add(1),
            ..old.clone()
        };
        entry.pending = Some(Pending::Rollback { request: Some(request), next: Box::new(next) });
        let mut commands: Vec<Command> = save.into_iter().collect();
        commands.push(Command::Rollback { uuid, snapshot, line, expected_revision });
        Ok(commands)
    }
}
