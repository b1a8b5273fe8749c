//! What the data plane tells by itself: what has happened, and what a start has found.

use super::PoolState;
use dolmen_types::{LineId, Nqn, Nsid, Uuid, snapshot::SnapshotDescriptor, volume::VolumeDescriptor};
use std::net::SocketAddr;

/// What happened by itself in the data plane; becomes an event. Hints: losing one loses an event, never state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A host's first controller came up.
    HostConnected {
        /// The host.
        nqn: Nqn,
        /// Where from.
        peer: SocketAddr,
    },
    /// A host's last controller went away.
    HostDisconnected {
        /// The host.
        nqn: Nqn,
        /// Why, for people (keep-alive timeout, connection closed ...).
        reason: String,
    },
    /// Something happened to a drive.
    Drive {
        /// Path as given to `serve`.
        path: String,
        /// What.
        what: DriveNews,
    },
    /// Re-protection began, ended, or was told something else.
    Reprotection(ReprotectionNews),
    /// The pool changed its state.
    Pool {
        /// The new state.
        state: PoolState,
    },
    /// Scrubbing found something wrong.
    Scrub {
        /// It can't be mended.
        lost: bool,
        /// What was found, for people.
        text: String,
    },
    /// Keys of deleted volumes could not be erased; it is tried again and again.
    KeysLeft {
        /// How many.
        count: usize,
        /// Why, for people.
        why: String,
    },
    /// They are erased now.
    KeysErased,
    /// Blocks of a volume, or of snapshots alone, are lost.
    Lost {
        /// The volume or snapshot.
        of: Uuid,
        /// Which blocks, for people.
        text: String,
    },
    /// It shows no lost block any more.
    LostNoMore {
        /// The volume or snapshot.
        of: Uuid,
        /// Its name, for people.
        name: String,
    },
}

/// What happened to a drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriveNews {
    /// It has joined.
    Added,
    /// It is being emptied.
    Leaving,
    /// It stays after all.
    Kept,
    /// It has left: nothing needs it any more.
    Gone,
    /// It was removed, and its copy of the wrapped keys is overwritten.
    KeysErased,
    /// It was removed, and still holds wrapped keys, and why.
    KeysLeft(String),
    /// Much of what it gives is wrong, or can't be read, and what comes of that.
    Ailing(String),
    /// It is out, and why.
    Out(String),
    /// It was not there at the start, or could not be used, and why.
    Absent(String),
    /// It was out and came back; what it held counts no more, and it has joined as a new one.
    Stale,
    /// What was named in its place is no drive of the pool and was left as it is, and why.
    Untouched(String),
}

/// What happened to re-protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReprotectionNews {
    /// So many bytes are to be moved.
    Started(u64),
    /// It waits until so many bytes are deleted, or a drive joins.
    LacksSpace(u64),
    /// Everything is protected as the drives in service allow.
    Finished,
    /// It rests.
    Paused,
    /// It goes on.
    Resumed,
    /// It may move so many bytes in a second; 0 for no bound.
    Bounded(u64),
}

/// What the data plane found on the drives at start: the truth from which the model is derived.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Every descriptor in the log, `Deleting` ones included.
    pub volumes: Vec<VolumeDescriptor>,
    /// Every snapshot in the log, those in `Deleting` included, whose record is understood.
    pub snapshots: Vec<SnapshotDescriptor>,
    /// The highest line that the pool has ever known.
    pub highest_line: LineId,
    /// The highest NSID of any descriptor that the pool has ever known, as far as it can tell.
    pub highest_nsid: Nsid,
}
