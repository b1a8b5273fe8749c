//! What was decided about the drives while the daemon ran, in a file of the data folder: which drives were added and removed, and
//! how re-protection goes on. A restart with the flags of before finds the pool's drives by it.

use crate::config::DriveOption;
use dolmen_security::file::{self, Visibility};
use dolmen_store::{DriveState, PoolPlan};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The file in the data folder.
const FILE: &str = "drives.json";

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Settings {
    /// Paths of drives that were added, and are opened beside those that the command line names.
    pub(crate) added: Vec<PathBuf>,
    /// Paths of the drives in service at the last start, for tools that have no command line of the daemon's.
    pub(crate) served: Vec<PathBuf>,
    /// Paths of drives that are to leave, and may be needed until they have.
    pub(crate) leaving: Vec<PathBuf>,
    /// Paths of drives that have left, and are not opened although the command line may name them.
    pub(crate) removed: Vec<PathBuf>,
    /// Whether re-protection rests.
    pub(crate) paused: bool,
    /// What re-protection may move in a second; 0 for no bound. Bytes.
    pub(crate) bytes_per_s: u64,
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
                "{} is damaged: {why}; remove it, and name all drives of the pool with --drive",
                path.display()
            )
        })
    }

    /// Makes it durable, in one step.
    pub(crate) fn save(&self, folder: &Path) -> Result<(), String> {
        let text = serde_json::to_vec_pretty(self).map_err(|why| why.to_string())?;
        file::replace(&folder.join(FILE), &text, Visibility::Everybody).map_err(|why| why.to_string())
    }

    /// Remembers that a drive was added.
    pub(crate) fn add(&mut self, path: &Path) {
        self.removed.retain(|p| p != path);
        self.leaving.retain(|p| p != path);
        if !self.added.iter().any(|p| p == path) {
            self.added.push(path.into());
        }
    }

    /// Remembers that a drive is to leave.
    pub(crate) fn leave(&mut self, path: &Path) {
        if !self.leaving.iter().any(|p| p == path) {
            self.leaving.push(path.into());
        }
    }

    /// Remembers that a drive that was to leave stays.
    pub(crate) fn stay(&mut self, path: &Path) {
        self.leaving.retain(|p| p != path);
    }

    /// Remembers that a drive has left.
    pub(crate) fn remove(&mut self, path: &Path) {
        self.added.retain(|p| p != path);
        self.leaving.retain(|p| p != path);
        if !self.removed.iter().any(|p| p == path) {
            self.removed.push(path.into());
        }
    }

    /// Remembers which drives serve. Tools miss it, nothing else.
    pub(crate) fn know(&mut self, plan: &PoolPlan, folder: &Path) {
        let serves = plan.drives.iter().filter(|d| matches!(d.state, DriveState::In | DriveState::Leaving));
        let served: Vec<PathBuf> =
            serves.map(|d| std::path::absolute(&d.path).unwrap_or_else(|_| d.path.as_str().into())).collect();
        if served != self.served {
            self.served = served;
            if let Err(why) = self.save(folder) {
                tracing::warn!("`dolmen pool check` has to be told the drives: {why}");
            }
        }
    }

    /// The drives of the pool, as far as the folder knows.
    pub(crate) fn known(&self) -> Vec<PathBuf> {
        let mut all = self.served.clone();
        let others = self.added.iter().chain(&self.leaving);
        all.extend(others.filter(|path| !self.served.contains(path)).cloned());
        all.retain(|path| !self.removed.contains(path));
        all
    }

    /// The drives to open: those of the command line, less what was removed, what was added, and what is still to leave. Nothing is
    /// made in the place of the last.
    pub(crate) fn drives(&self, named: &[DriveOption]) -> Vec<DriveOption> {
        let stays = |d: &&DriveOption| !self.removed.contains(&d.path) && !self.leaving.contains(&d.path);
        let mut all: Vec<DriveOption> = named.iter().filter(stays).cloned().collect();
        for path in self.added.iter().chain(&self.leaving) {
            if !all.iter().any(|d| d.path == *path) {
                all.push(DriveOption { path: path.clone(), size_bytes: None });
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(path: &str) -> DriveOption {
        DriveOption { path: path.into(), size_bytes: Some(1 << 30) }
    }

    #[test]
    fn what_was_decided_survives() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::load(folder.path()).unwrap();
        assert_eq!(settings, Settings::default());
        settings.add(Path::new("/c"));
        settings.add(Path::new("/d"));
        settings.remove(Path::new("/a"));
        settings.remove(Path::new("/d"));
        settings.paused = true;
        settings.save(folder.path()).unwrap();
        let settings = Settings::load(folder.path()).unwrap();
        let paths = |s: &Settings| -> Vec<PathBuf> {
            s.drives(&[named("/a"), named("/b")]).into_iter().map(|d| d.path).collect()
        };
        assert_eq!(paths(&settings), [PathBuf::from("/b"), "/c".into()]);
        assert!(settings.paused);
        let mut leaving = settings.clone();
        leaving.leave(Path::new("/b"));
        leaving.leave(Path::new("/c"));
        assert_eq!(paths(&leaving), [PathBuf::from("/c"), "/b".into()]);
        assert!(leaving.drives(&[named("/b")]).iter().all(|d| d.size_bytes.is_none()));
        leaving.stay(Path::new("/b"));
        leaving.remove(Path::new("/c"));
        assert_eq!(paths(&leaving), [PathBuf::from("/b")]);
        let mut back = settings.clone();
        back.add(Path::new("/a"));
        assert_eq!(paths(&back), [PathBuf::from("/a"), "/b".into(), "/c".into()]);
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        assert!(Settings::load(folder.path()).unwrap_err().contains("--drive"));
    }
}
