//! What the data plane notices by itself, in words.

use crate::{
    event::{Component, Occurrence, Severity},
    plane::{DriveNews, Notice, PoolState, ReprotectionNews},
};
use dolmen_types::ByteSize;
use std::time::Duration;

/// Snapshots stay beyond their time for as long as this yet, as an event.
pub(super) fn overdue(count: usize, stays_for: Duration) -> Occurrence {
    let minutes = stays_for.as_secs().div_ceil(60);
    Occurrence {
        component: Component::Cluster,
        severity: Severity::Info,
        name: "SnapshotsOverdue".into(),
        subject: "pool".into(),
        project: String::new(),
        text: format!(
            "snapshots whose time is over ({count}) are deleted in {minutes} minutes, if the clock holds until then: the machine was \
             started or its clock was set, and by a clock that is ahead they would go too early"
        ),
    }
}

/// What the data plane noticed, as an event.
pub(super) fn occurrence_of(notice: Notice) -> Occurrence {
    let (component, severity, name, subject, text) = match notice {
        Notice::HostConnected { nqn, peer } => {
            let text = format!("host {nqn} connected from {peer}");
            (Component::Node, Severity::Info, "HostConnected", nqn.to_string(), text)
        }
        Notice::HostDisconnected { nqn, reason } => {
            let text = format!("host {nqn} disconnected: {reason}");
            (Component::Node, Severity::Info, "HostDisconnected", nqn.to_string(), text)
        }
        Notice::Drive { path, what } => {
            let (severity, name, text) = drive_news(&path, what);
            (Component::Drive, severity, name, path, text)
        }
        Notice::Reprotection(what) => {
            let (severity, name, text) = reprotection_news(what);
            (Component::Cluster, severity, name, "pool".into(), text)
        }
        Notice::Pool { state } => {
            let (severity, name, text) = match state {
                PoolState::Ready => (Severity::Info, "PoolReady", "the pool serves reads and writes".into()),
                PoolState::Full => {
                    (Severity::High, "PoolFull", "the pool is full: delete volumes or add drives".into())
                }
                PoolState::Stopped(why) => {
                    (Severity::Critical, "PoolStopped", format!("the pool stopped: {why}"))
                }
            };
            (Component::Cluster, severity, name, "pool".into(), text)
        }
        Notice::Scrub { lost: true, text } => {
            (Component::DataIntegrity, Severity::Critical, "DataLost", "pool".into(), text)
        }
        Notice::Scrub { lost: false, text } => {
            (Component::DataIntegrity, Severity::Medium, "DamageMended", "pool".into(), text)
        }
        Notice::KeysLeft { count, why } => {
            let text = format!(
                "{count} keys of encrypted volumes that were deleted could not be erased, which is tried again every minute: {why}. \
                 Until it is told that they are, what was deleted is not safe from who gets the drives and the cluster key"
            );
            (Component::Cluster, Severity::High, "KeysLeft", "pool".into(), text)
        }
        Notice::KeysErased => {
            let text = "all keys of encrypted volumes that were deleted are erased now".into();
            (Component::Cluster, Severity::Info, "KeysErased", "pool".into(), text)
        }
        Notice::Lost { of, text } => {
            (Component::DataIntegrity, Severity::Critical, "BlocksLost", of.to_string(), text)
        }
        Notice::LostNoMore { of, name } => {
            let text = format!(
                "{name} shows no lost data any more: it was overwritten, trimmed or deleted, or could be read after all"
            );
            (Component::DataIntegrity, Severity::Info, "BlocksLostNoMore", of.to_string(), text)
        }
    };
    Occurrence { component, severity, name: name.into(), subject, project: String::new(), text }
}

fn drive_news(path: &str, what: DriveNews) -> (Severity, &'static str, String) {
    match what {
        DriveNews::Added => (Severity::Info, "DriveAdded", format!("drive {path} has joined the pool")),
        DriveNews::Leaving => (
            Severity::Info,
            "DriveLeaving",
            format!("drive {path} is being emptied so that it can be taken away"),
        ),
        DriveNews::Kept => (Severity::Info, "DriveKept", format!("drive {path} stays in the pool")),
        DriveNews::Gone => (
            Severity::Info,
            "DriveGone",
            format!("drive {path} has left the pool; nothing needs it any more"),
        ),
        DriveNews::KeysErased => (
            Severity::Info,
            "DriveKeysErased",
            format!("drive {path} was removed, and holds no keys of encrypted volumes any more"),
        ),
        DriveNews::KeysLeft(why) => (
            Severity::Medium,
            "DriveKeysLeft",
            format!(
                "drive {path} was removed, and its copy of the wrapped keys of encrypted volumes could not be overwritten: {why}. \
                 Destroy it, or `dolmen drive wipe {path}`; once the cluster key is rotated what it holds opens nothing"
            ),
        ),
        DriveNews::Ailing(why) => (Severity::High, "DriveAiling", format!("drive {path} reads badly: {why}")),
        DriveNews::Out(why) => (Severity::Critical, "DriveFailed", format!("drive {path} is out: {why}")),
        DriveNews::Absent(why) => {
            let text = format!("drive {path} is lost, and the pool was started without it: {why}");
            (Severity::Critical, "DriveAbsent", text)
        }
        DriveNews::Stale => {
            let text =
                format!("drive {path} is back; what it held counts no more, it has joined as a new one");
            (Severity::Medium, "DriveStale", text)
        }
        DriveNews::Untouched(why) => {
            let text = format!("{path} is no drive of the pool and was left as it is: it {why}");
            (Severity::High, "DriveUntouched", text)
        }
    }
}

fn reprotection_news(what: ReprotectionNews) -> (Severity, &'static str, String) {
    match what {
        ReprotectionNews::Started(bytes) => {
            let text = format!("{} are being moved to where they are protected", ByteSize(bytes));
            (Severity::Medium, "ReprotectionStarted", text)
        }
        ReprotectionNews::LacksSpace(bytes) => {
            let text = format!(
                "re-protection waits for space: the drives in service are too small for what the pool has; delete {} or add a drive",
                ByteSize(bytes)
            );
            (Severity::High, "ReprotectionLacksSpace", text)
        }
        ReprotectionNews::Finished => {
            let text = "everything is protected as the drives in service allow".into();
            (Severity::Info, "ReprotectionFinished", text)
        }
        ReprotectionNews::Paused => (Severity::Low, "ReprotectionPaused", "re-protection rests".into()),
        ReprotectionNews::Resumed => (Severity::Info, "ReprotectionResumed", "re-protection goes on".into()),
        ReprotectionNews::Bounded(0) => {
            (Severity::Info, "ReprotectionBounded", "re-protection takes what it can get".into())
        }
        ReprotectionNews::Bounded(bytes) => {
            let text = format!("re-protection moves at most {} in a second", ByteSize(bytes));
            (Severity::Info, "ReprotectionBounded", text)
        }
    }
}
