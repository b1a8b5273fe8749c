//! QoS policies: named limits that volumes refer to. Their place is the state file; each volume's descriptor carries a copy
//! of what its own policy says (see `docs/decisions`), from which a lost policy is told again.

use crate::{Error, Kind, volume};
use dolmen_types::{
    Uuid,
    qos::{PerDirection, QosAssignment, QosLimits},
};
use serde::{Deserialize, Serialize};

/// Policies at most. Count.
pub const MAX_POLICIES: usize = 1024;

/// Projects that one policy may be scoped to at most. Count.
pub const MAX_SCOPE: usize = 64;

/// Bytes of a description at most.
pub const MAX_DESCRIPTION_BYTES: usize = 256;

/// Name of the policy that always exists and limits nothing: that of every volume that has no other.
pub const NO_LIMIT: &str = "no-limit-policy";

/// Identity of [`NO_LIMIT`], the same in every cluster.
#[must_use]
pub fn no_limit_uuid() -> Uuid {
    Uuid::from_random(*b"dolmen.no-limit.")
}

/// Which projects' volumes may take a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Visibility {
    /// No volume any more; those that have it keep it.
    Unavailable,
    /// Those of these projects.
    Scoped(Vec<String>),
    /// All.
    #[default]
    Global,
}

impl Visibility {
    /// Whether volumes of the project may take the policy.
    #[must_use]
    pub fn includes(&self, project: &str) -> bool {
        match self {
            Visibility::Unavailable => false,
            Visibility::Scoped(projects) => projects.iter().any(|p| p == project),
            Visibility::Global => true,
        }
    }
}

/// One policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QosPolicy {
    /// Identity.
    pub uuid: Uuid,
    /// Unique among policies.
    pub name: String,
    /// For people.
    pub description: String,
    /// Who may take it.
    pub visibility: Visibility,
    /// What it limits.
    pub limits: QosLimits,
    /// Grows with every change.
    pub revision: u64,
}

impl QosPolicy {
    /// The policy that always exists.
    #[must_use]
    pub fn no_limit() -> QosPolicy {
        QosPolicy {
            uuid: no_limit_uuid(),
            name: NO_LIMIT.into(),
            description: "Limits nothing".into(),
            visibility: Visibility::Global,
            limits: QosLimits::default(),
            revision: 1,
        }
    }

    /// What a volume under this policy carries; nothing under the one that limits nothing.
    #[must_use]
    pub fn assignment(&self) -> Option<QosAssignment> {
        (self.uuid != no_limit_uuid()).then(|| QosAssignment {
            policy: self.uuid,
            revision: self.revision,
            name: self.name.clone(),
            limits: self.limits,
        })
    }
}

/// A policy to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySpec {
    /// Unique among policies.
    pub name: String,
    /// For people.
    pub description: String,
    /// Who may take it.
    pub visibility: Visibility,
    /// What it limits.
    pub limits: QosLimits,
}

impl PolicySpec {
    /// Checks names and lengths; texts name the fields of the management API.
    pub fn check(&self) -> Result<(), Error> {
        volume::check_name("name", &self.name)?;
        if self.description.len() > MAX_DESCRIPTION_BYTES {
            return Err(Error::invalid("description", format!("more than {MAX_DESCRIPTION_BYTES} bytes")));
        }
        if let Visibility::Scoped(projects) = &self.visibility {
            if projects.is_empty() || projects.len() > MAX_SCOPE {
                let why = format!("a scoped policy needs 1 to {MAX_SCOPE} projects");
                return Err(Error::invalid("projectsNamesScope", why));
            }
            for project in projects {
                volume::check_project("projectsNamesScope", project)?;
            }
        }
        Ok(())
    }
}

/// What to change about a policy; `None` leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyChange {
    /// A new name.
    pub name: Option<String>,
    /// A new description.
    pub description: Option<String>,
    /// A new visibility.
    pub visibility: Option<Visibility>,
    /// New limits, all of them.
    pub limits: Option<QosLimits>,
}

/// Which policy is meant, and the field that said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyKey {
    /// By identity.
    Uuid(Uuid),
    /// By name.
    Name(String),
}

impl PolicyKey {
    /// The field of a volume's request that holds such a key.
    #[must_use]
    pub fn volume_field(&self) -> &'static str {
        match self {
            PolicyKey::Uuid(_) => "qosPolicyUUID",
            PolicyKey::Name(_) => "qosPolicyName",
        }
    }

    /// The refusal of a key that names nothing.
    #[must_use]
    pub fn not_found(&self) -> Error {
        let what = match self {
            PolicyKey::Uuid(uuid) => uuid.to_string(),
            PolicyKey::Name(name) => format!("'{name}'"),
        };
        Error::new(Kind::NotFound, format!("QoS policy {what} does not exist"))
    }
}

/// A policy as it stands in the state file.
#[derive(Serialize, Deserialize)]
struct Stored {
    uuid: String,
    name: String,
    description: String,
    visibility: Visibility,
    /// Read, write: IOPS, MB/s, IOPS per GiB.
    limits: [[u32; 2]; 3],
    revision: u64,
}

/// The bytes of a policy in the state file.
#[must_use]
pub(crate) fn encode(policy: &QosPolicy) -> Vec<u8> {
    let pair = |limit: PerDirection| [limit.read, limit.write];
    let limits = &policy.limits;
    let stored = Stored {
        uuid: policy.uuid.to_string(),
        name: policy.name.clone(),
        description: policy.description.clone(),
        visibility: policy.visibility.clone(),
        limits: [pair(limits.iops), pair(limits.megabytes), pair(limits.iops_per_gib)],
        revision: policy.revision,
    };
    serde_json::to_vec(&stored).expect("texts and numbers can be written")
}

/// The policy of such bytes.
pub(crate) fn decode(bytes: &[u8]) -> Option<QosPolicy> {
    let stored: Stored = serde_json::from_slice(bytes).ok()?;
    let [iops, megabytes, iops_per_gib] = stored.limits.map(|[read, write]| PerDirection { read, write });
    Some(QosPolicy {
        uuid: stored.uuid.parse().ok()?,
        name: stored.name,
        description: stored.description,
        visibility: stored.visibility,
        limits: QosLimits { iops, megabytes, iops_per_gib },
        revision: stored.revision,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_come_back_from_their_bytes() {
        let policy = QosPolicy {
            visibility: Visibility::Scoped(vec!["a".into()]),
            limits: QosLimits { megabytes: PerDirection { read: 1, write: 2 }, ..QosLimits::default() },
            ..QosPolicy::no_limit()
        };
        assert_eq!(decode(&encode(&policy)), Some(policy));
        assert_eq!(decode(b"{}"), None);
    }

    #[test]
    fn what_is_wrong_is_told_by_its_field() {
        let good = PolicySpec { name: "a".into(), ..PolicySpec::default() };
        assert_eq!(good.check(), Ok(()));
        let scoped = |projects: &[&str]| {
            let projects = projects.iter().map(|p| (*p).to_string()).collect();
            PolicySpec { visibility: Visibility::Scoped(projects), ..good.clone() }
        };
        assert_eq!(scoped(&["p"]).check(), Ok(()));
        for (field, spec) in [
            ("projectsNamesScope", scoped(&[])),
            ("projectsNamesScope", scoped(&["Bad Name"])),
            ("name", PolicySpec::default()),
            ("description", PolicySpec { description: "x".repeat(257), ..good.clone() }),
        ] {
            assert!(spec.check().unwrap_err().text.starts_with(&format!("{field}: ")));
        }
    }
}
