//! Events: what happened to the cluster's objects, for people and for programs that watch.

use dolmen_types::UnixMillis;
use serde::{Deserialize, Serialize};

/// Events kept; older ones are dropped. Count.
pub const MAX_EVENTS: usize = 4096;

/// How much an event matters (words of the management API).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    /// Normal life.
    Info,
    /// Worth a look.
    Low,
    /// Something is not as it should be.
    Medium,
    /// Service or protection is reduced.
    High,
    /// Data can't be served, or is at risk.
    Critical,
}

/// What sort of object an event is about (words of the management API).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Component {
    /// The cluster or its pool.
    Cluster,
    /// A node.
    Node,
    /// A volume.
    Volume,
    /// A drive.
    #[serde(rename = "NVMeSSD")]
    Drive,
    /// The bytes of a volume.
    DataIntegrity,
}

/// What happened, without its place in the order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Occurrence {
    /// The object's sort.
    pub component: Component,
    /// How much it matters.
    pub severity: Severity,
    /// One word, stable over versions: `VolumeCreated`.
    pub name: String,
    /// The object: a UUID, an NQN or a path.
    pub subject: String,
    /// The project of the object; empty for what belongs to the cluster.
    pub project: String,
    /// A sentence for people.
    pub text: String,
}

/// An occurrence with its place in the order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Grows by one with each event, over restarts too.
    pub id: u64,
    /// When. Milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// What.
    pub what: Occurrence,
}

impl Event {
    /// When it happened.
    #[must_use]
    pub fn at(&self) -> UnixMillis {
        UnixMillis(self.unix_ms)
    }
}
