//! One volume in the model: what is durable, and the one change that may be under way.

use super::{RequestId, snapshots::rolled_back, volume_occurrence};
use crate::{Error, Kind, event::Occurrence};
use dolmen_types::{
    ByteSize,
    volume::{VolumeDescriptor, VolumeState},
};

/// A volume's life as users see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Not yet durable.
    Creating,
    /// In use.
    Available,
    /// In use, with a change under way.
    Updating,
    /// On its way back to a snapshot.
    Rollback,
    /// Its data is being given up.
    Deleting,
}

/// A volume as users see it: the descriptor in force and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumeView {
    /// The descriptor in force.
    pub descriptor: VolumeDescriptor,
    /// Where it stands.
    pub life: Life,
}

/// A change that the data plane has been asked for and hasn't answered.
#[derive(Debug)]
pub(super) enum Pending {
    /// The volume is being made.
    Create { request: Option<RequestId> },
    /// `next` is being put in the place of the descriptor in force.
    Update { request: Option<RequestId>, next: Box<VolumeDescriptor> },
    /// The volume is going back to a snapshot; `next` is its descriptor then.
    Rollback { request: Option<RequestId>, next: Box<VolumeDescriptor> },
    /// The volume is being put into `Deleting`.
    Delete { request: Option<RequestId>, new_revision: u64 },
}

impl Pending {
    /// Who waits for it.
    pub(super) fn request(&self) -> Option<RequestId> {
        match self {
            Pending::Create { request }
            | Pending::Update { request, .. }
            | Pending::Rollback { request, .. }
            | Pending::Delete { request, .. } => *request,
        }
    }

    /// The event that its success is.
    pub(super) fn occurrence(&self, old: &VolumeDescriptor) -> Occurrence {
        let (name, uuid) = (&old.name, old.uuid);
        match self {
            Pending::Create { .. } => {
                let text = format!("volume '{name}' ({uuid}) of {} created", ByteSize(old.size_bytes));
                volume_occurrence(old, "VolumeCreated", text)
            }
            Pending::Update { next, .. } => {
                let text = format!("volume '{name}' ({uuid}) changed: {}", differences(old, next));
                volume_occurrence(old, "VolumeUpdated", text)
            }
            Pending::Rollback { .. } => rolled_back(old),
            Pending::Delete { .. } => {
                let text =
                    format!("volume '{name}' ({uuid}) deleted; its space comes back in the background");
                volume_occurrence(old, "VolumeDeleted", text)
            }
        }
    }
}

/// The event of a deleted volume's last trace being gone.
pub(super) fn erased(d: &VolumeDescriptor) -> Occurrence {
    let text = format!("the space of volume '{}' ({}) has come back", d.name, d.uuid);
    volume_occurrence(d, "VolumeErased", text)
}

/// What an update changes, for people.
fn differences(old: &VolumeDescriptor, next: &VolumeDescriptor) -> String {
    let mut said = Vec::new();
    if old.size_bytes != next.size_bytes {
        said.push(format!("size {} to {}", ByteSize(old.size_bytes), ByteSize(next.size_bytes)));
    }
    if old.name != next.name {
        said.push(format!("name to '{}'", next.name));
    }
    if old.acl != next.acl {
        said.push("acl".into());
    }
    if old.ip_acl != next.ip_acl {
        said.push("IPAcl".into());
    }
    if old.labels != next.labels {
        said.push("labels".into());
    }
    if old.qos != next.qos {
        said.push("QoS policy".into());
    }
    if said.is_empty() { "nothing".into() } else { said.join(", ") }
}

/// One volume.
#[derive(Debug)]
pub(super) struct Entry {
    descriptor: VolumeDescriptor,
    /// The change under way.
    pub(super) pending: Option<Pending>,
    /// Set when an answer got lost: the first round of observation that settles it.
    pub(super) doubt: Option<u64>,
    /// The first round of observation that tells whether one in `Deleting` is gone. Lists of rounds before may be older than the volume.
    gone_from: u64,
}

impl Entry {
    /// A volume that the data plane holds.
    pub(super) fn stored(descriptor: VolumeDescriptor) -> Entry {
        Entry { descriptor, pending: None, doubt: None, gone_from: 0 }
    }

    /// A volume that the data plane is asked to make.
    pub(super) fn creating(descriptor: VolumeDescriptor, request: RequestId) -> Entry {
        let pending = Some(Pending::Create { request: Some(request) });
        Entry { pending, ..Entry::stored(descriptor) }
    }

    /// The descriptor in force (or to be, while creating).
    pub(super) fn descriptor(&self) -> &VolumeDescriptor {
        &self.descriptor
    }

    /// True once the deletion is durable.
    pub(super) fn is_deleting(&self) -> bool {
        self.descriptor.state == VolumeState::Deleting
    }

    /// Enters `Deleting`; the next round of observation is the first that can miss it.
    pub(super) fn set_deleting(&mut self, revision: u64, next_round: u64) {
        self.descriptor.state = VolumeState::Deleting;
        self.descriptor.revision = revision;
        self.gone_from = next_round;
    }

    /// True if it is gone when it is not in the list of this round.
    pub(super) fn can_be_gone(&self, round: u64) -> bool {
        self.is_deleting() && self.pending.is_none() && self.gone_from <= round
    }

    /// Takes the waiting caller off the pending change, which stays.
    pub(super) fn take_request(&mut self) -> Option<RequestId> {
        match self.pending.as_mut()? {
            Pending::Create { request }
            | Pending::Update { request, .. }
            | Pending::Rollback { request, .. }
            | Pending::Delete { request, .. } => request.take(),
        }
    }

    /// Whether a change may begin: none under way, and the revision is the one that the user saw.
    pub(super) fn check_changeable(&self, expected: Option<u64>) -> Result<(), Error> {
        if let Some(pending) = &self.pending {
            let doing = match pending {
                Pending::Create { .. } => "created",
                Pending::Update { .. } => "changed",
                Pending::Rollback { .. } => "rolled back",
                Pending::Delete { .. } => "deleted",
            };
            let text = format!("volume '{}' is just being {doing}; try again", self.descriptor.name);
            return Err(Error::new(Kind::Unavailable, text));
        }
        match expected {
            Some(revision) if revision != self.descriptor.revision => Err(Error::new(
                Kind::FailedPrecondition,
                format!(
                    "Etag mismatch: volume '{}' has ETag {}, not {revision}; read it again",
                    self.descriptor.name, self.descriptor.revision
                ),
            )),
            _ => Ok(()),
        }
    }

    /// As users see it.
    pub(super) fn view(&self) -> VolumeView {
        let life = match &self.pending {
            Some(Pending::Create { .. }) => Life::Creating,
            Some(Pending::Update { .. }) => Life::Updating,
            Some(Pending::Rollback { .. }) => Life::Rollback,
            Some(Pending::Delete { .. }) => Life::Deleting,
            None if self.is_deleting() => Life::Deleting,
            None => Life::Available,
        };
        VolumeView { descriptor: self.descriptor.clone(), life }
    }
}
