//! What was decided about the drives while the daemon ran, in a file of the data folder: which drives were added and removed, and
//! how re-protection goes on. A restart with the flags of before finds the pool's drives by it.
//!
//! A drive is known by its UUID, which its label tells under whatever name. Its path says where to look for it; the drives that serve
//! have theirs brought up to date by every start.

use crate::config::DriveOption;
use dolmen_security::file::{self, Visibility};
use dolmen_store::{DriveState, PlanDrive, PoolPlan};
use dolmen_types::Uuid;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf, absolute};

/// The file in the data folder.
const FILE: &str = "drives.json";

/// A drive of the pool, or one that was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownDrive {
    /// What it is in the pool.
    #[serde(with = "as_text")]
    pub(crate) uuid: Uuid,
    /// Where it is, or was.
    pub(crate) path: PathBuf,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Settings {
    /// Drives that were added, and are opened beside those that the command line names.
    pub(crate) added: Vec<KnownDrive>,
    /// The drives in service at the last start, for tools that have no command line of the daemon's.
    pub(crate) served: Vec<KnownDrive>,
    /// Drives that are to leave, and may be needed until they have.
    pub(crate) leaving: Vec<KnownDrive>,
    /// Drives that have left: they do not join again, although the command line may name them.
    pub(crate) removed: Vec<KnownDrive>,
    /// Whether re-protection rests.
    pub(crate) paused: bool,
    /// What re-protection may move in a second; 0 for no bound. Bytes.
    pub(crate) bytes_per_s: u64,
}

impl KnownDrive {
    pub(crate) fn new(uuid: Uuid, path: impl AsRef<Path>) -> KnownDrive {
        let path = path.as_ref();
        KnownDrive { uuid, path: absolute(path).unwrap_or_else(|_| path.into()) }
    }
}

impl From<&PlanDrive> for KnownDrive {
    fn from(drive: &PlanDrive) -> KnownDrive {
        KnownDrive::new(drive.uuid, &drive.path)
    }
}

impl Settings {
    /// What the folder says; nothing was decided where there is no file.
    pub(crate) fn load(folder: &Path) -> Result<Settings, String> {
        let path = folder.join(FILE);
        let Some(bytes) = file::read_if_there(&path).map_err(|why| why.to_string())? else {
            return Ok(Settings::default());
        };
        serde_json::from_slice(&bytes).map_err(|why| {
            format!(
                "{} is damaged, or of another build: {why}; remove it, and name all drives of the pool with --drive",
                path.display()
            )
        })
    }

    /// Makes it durable, in one step.
    pub(crate) fn save(&self, folder: &Path) -> Result<(), String> {
        let text = serde_json::to_vec_pretty(self).map_err(|why| why.to_string())?;
        file::replace(&folder.join(FILE), &text, Visibility::Everybody).map_err(|why| why.to_string())
    }

    /// Remembers that a drive was added; another one that was at its path before is not.
    pub(crate) fn add(&mut self, drive: KnownDrive) {
        self.added.retain(|d| d.uuid != drive.uuid && d.path != drive.path);
        self.added.push(drive);
    }

    /// Remembers that a drive is to leave.
    pub(crate) fn leave(&mut self, drive: KnownDrive) {
        if !self.leaving.iter().any(|d| d.uuid == drive.uuid) {
            self.leaving.push(drive);
        }
    }

    /// Remembers that a drive that was to leave stays.
    pub(crate) fn stay(&mut self, uuid: Uuid) {
        self.leaving.retain(|d| d.uuid != uuid);
    }

    /// Remembers that a drive that was to leave has left.
    pub(crate) fn remove(&mut self, uuid: Uuid) {
        self.added.retain(|d| d.uuid != uuid);
        if let Some(at) = self.leaving.iter().position(|d| d.uuid == uuid) {
            self.removed.push(self.leaving.remove(at));
        }
    }

    /// Remembers which drives serve, and where this start has found them. Tools miss it, nothing else.
    pub(crate) fn know(&mut self, plan: &PoolPlan, folder: &Path) {
        let before = self.clone();
        let serves = plan.drives.iter().filter(|d| matches!(d.state, DriveState::In | DriveState::Leaving));
        self.served = serves.map(KnownDrive::from).collect();
        for known in self.added.iter_mut().chain(&mut self.leaving) {
            if let Some(now) = self.served.iter().find(|d| d.uuid == known.uuid) {
                known.path.clone_from(&now.path);
            }
        }
        for known in &mut self.added {
            // One that this start let join has got another name in the pool.
            if let Some(now) = self.served.iter().find(|d| d.path == known.path) {
                known.uuid = now.uuid;
            }
        }
        if *self != before
            && let Err(why) = self.save(folder)
        {
            tracing::warn!("`dolmen pool check` has to be told the drives: {why}");
        }
    }

    /// The drives of the pool, as far as the folder knows.
    pub(crate) fn known(&self) -> Vec<PathBuf> {
        let mut all: Vec<&KnownDrive> = self.served.iter().collect();
        for drive in self.added.iter().chain(&self.leaving) {
            if !all.iter().any(|d| d.uuid == drive.uuid || d.path == drive.path) {
                all.push(drive);
            }
        }
        let stays = |d: &&KnownDrive| !self.removed.iter().any(|r| r.uuid == d.uuid);
        all.into_iter().filter(stays).map(|d| d.path.clone()).collect()
    }

    /// The drives to open: those of the command line, what was added, and what is still to leave. Nothing is made in the place of the
    /// last, nor of what has left.
    pub(crate) fn drives(&self, named: &[DriveOption]) -> Vec<DriveOption> {
        let mut all: Vec<DriveOption> = named.to_vec();
        for drive in self.added.iter().chain(&self.leaving) {
            if !all.iter().any(|d| is_at(drive, &d.path)) {
                all.push(DriveOption { path: drive.path.clone(), size_bytes: None });
            }
        }
        for drive in &mut all {
            if self.leaving.iter().chain(&self.removed).any(|d| is_at(d, &drive.path)) {
                drive.size_bytes = None;
            }
        }
        all
    }
}

fn is_at(drive: &KnownDrive, path: &Path) -> bool {
    absolute(path).is_ok_and(|path| path == drive.path)
}

/// A UUID as people write it.
mod as_text {
    use dolmen_types::Uuid;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(uuid: &Uuid, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(uuid)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Uuid, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(path: &str) -> DriveOption {
        DriveOption { path: path.into(), size_bytes: Some(1 << 30) }
    }

    fn drive(number: u8, path: &str) -> KnownDrive {
        KnownDrive::new(Uuid([number; 16]), path)
    }

    #[test]
    fn what_was_decided_survives() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::load(folder.path()).unwrap();
        assert_eq!(settings, Settings::default());
        settings.add(drive(3, "/c"));
        settings.add(drive(4, "/d"));
        for gone in [drive(1, "/a"), drive(4, "/d")] {
            settings.leave(gone.clone());
            settings.remove(gone.uuid);
        }
        settings.paused = true;
        settings.save(folder.path()).unwrap();
        let settings = Settings::load(folder.path()).unwrap();
        let paths = |s: &Settings| -> Vec<PathBuf> {
            s.drives(&[named("/a"), named("/b")]).into_iter().map(|d| d.path).collect()
        };
        assert_eq!(paths(&settings), [PathBuf::from("/a"), "/b".into(), "/c".into()]);
        assert_eq!(settings.known(), [PathBuf::from("/c")]);
        assert!(settings.paused);
        let made = |s: &Settings| -> Vec<PathBuf> {
            let all = s.drives(&[named("/a"), named("/b")]).into_iter();
            all.filter(|d| d.size_bytes.is_some()).map(|d| d.path).collect()
        };
        assert_eq!(made(&settings), [PathBuf::from("/b")]);
        let mut leaving = settings.clone();
        leaving.leave(drive(2, "/b"));
        leaving.leave(drive(3, "/c"));
        assert!(made(&leaving).is_empty());
        assert_eq!(leaving.known(), [PathBuf::from("/c"), "/b".into()]);
        leaving.stay(drive(2, "/b").uuid);
        leaving.remove(drive(3, "/c").uuid);
        assert_eq!(paths(&leaving), [PathBuf::from("/a"), "/b".into()]);
        // Another drive at the path of one that is to leave.
        let mut other = settings.clone();
        other.leave(drive(3, "/c"));
        other.add(drive(5, "/c"));
        other.remove(drive(3, "/c").uuid);
        assert_eq!((other.added.as_slice(), other.known()), ([drive(5, "/c")].as_slice(), vec!["/c".into()]));
        for wrong in ["{", r#"{"added": ["/c"]}"#, r#"{"removed": [{"uuid": "c", "path": "/c"}]}"#] {
            std::fs::write(folder.path().join(FILE), wrong).unwrap();
            assert!(Settings::load(folder.path()).unwrap_err().contains("--drive"));
        }
    }
}
