//! Quality of service as plain data: what a policy limits, and what a volume carries of its policy.

use crate::Uuid;

/// A limit for each direction; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerDirection {
    /// For reads, compares and verifies.
    pub read: u32,
    /// For everything that changes the volume.
    pub write: u32,
}

impl PerDirection {
    /// True when neither direction is limited.
    #[must_use]
    pub fn is_unlimited(self) -> bool {
        self.read == 0 && self.write == 0
    }
}

/// What a policy limits; all limits hold together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QosLimits {
    /// Commands per second.
    pub iops: PerDirection,
    /// Megabytes (10^6 bytes) per second.
    pub megabytes: PerDirection,
    /// Commands per second for each GiB of the volume's size.
    pub iops_per_gib: PerDirection,
}

impl QosLimits {
    /// True when nothing is limited.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        [self.iops, self.megabytes, self.iops_per_gib].iter().all(|limit| limit.is_unlimited())
    }
}

/// A volume's copy of its policy, so that the data path needs nobody else to enforce it and the policies can be told
/// again from the volumes alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QosAssignment {
    /// The policy.
    pub policy: Uuid,
    /// The policy's revision that `name` and `limits` are from.
    pub revision: u64,
    /// The policy's name.
    pub name: String,
    /// What it limits.
    pub limits: QosLimits,
}
