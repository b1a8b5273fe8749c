//! Drives that were removed on purpose, once nothing needs them any more: their copy of the wrapped keys is overwritten, and the next
//! start leaves them alone.
//!
//! ```text
//!   settings:   leaving ───────────────────────────────▶ removed
//!   pool:       in service ──▶ leaving, or out ──▶ gone
//!               opened by every start            │ keys overwritten, then written down as removed, then closed
//! ```
//! A crash anywhere between goes on with the next start: it opens what is leaving, and the pool says whether it is a drive of its still.

use super::{cores::Talk, drive_ops::standings, router::Node, settings::KnownDrive};
use dolmen_cluster::plane::{DriveNews, Notice};
use dolmen_core::{
    message::{OpenedDrive, ToCore},
    report::CoreReport,
};
use dolmen_io::DriveInfo;
use dolmen_store::{DriveState, StoreError};
use dolmen_types::{CoreId, DriveChange, Uuid};
use std::{collections::BTreeSet, path::Path, sync::PoisonError};

/// The core that owns the pool's units.
const OWNER: CoreId = CoreId(0);

impl Node {
    /// Lets go of drives that were to leave and that nothing needs any more. Called before their handles are closed: false where it can't be
    /// told now which those are, and none may be.
    pub(super) async fn release_left(&self, reports: &[CoreReport]) -> bool {
        // While a change is under way the next look sees what has come of it.
        let Ok(mut settings) = self.drives.settings.try_lock() else { return false };
        for KnownDrive { uuid, path } in settings.leaving.clone() {
            let erased = match standings(reports).find(|(_, d)| d.uuid == uuid) {
                Some((_, drive)) if drive.state == DriveState::Leaving => {
                    self.seen_leaving(|seen| seen.insert(uuid));
                    continue;
                }
                Some((_, drive)) if drive.state == DriveState::In => {
                    // The pool keeps one that it has come to need; or it has not begun to let it go.
                    if self.seen_leaving(|seen| seen.remove(&uuid)) {
                        settings.stay(uuid);
                        self.keep_settings(&settings);
                    }
                    continue;
                }
                Some((place, _)) => self.erase_keys_of(place).await,
                None => Err("it is no drive of the pool any more".into()),
            };
            settings.remove(uuid);
            self.keep_settings(&settings);
            self.tell(told(&path, erased)).await;
        }
        true
    }

    /// What a start has found of drives that were to leave: those that have left are let go; a removal that a crash cut short goes on.
    pub(super) async fn release_at_start(&self, left: Vec<(Uuid, OpenedDrive)>) {
        let mut settings = self.drives.settings.lock().await;
        for (uuid, drive) in left {
            let erased = erase(&self.cores, drive.info.clone()).await;
            let file = drive.info.file;
            // A core that has ended has closed everything.
            let _ = self.cores.ask(OWNER, |answer| ToCore::CloseFile { file, answer }).await;
            let path = settings.leaving.iter().find(|d| d.uuid == uuid).map(|d| d.path.clone());
            settings.remove(uuid);
            self.keep_settings(&settings);
            self.tell(told(&path.unwrap_or_default(), erased)).await;
        }
        let Some(reports) = self.reports().await else { return };
        for KnownDrive { uuid, path } in settings.leaving.clone() {
            let serves = standings(&reports).find(|(_, d)| d.uuid == uuid && d.state == DriveState::In);
            let Some((place, _)) = serves else { continue };
            let change = DriveChange::Remove;
            let asked = self.cores.ask(OWNER, |answer| ToCore::ChangeDrive { place, change, answer }).await;
            if let Ok(Err(why)) = asked {
                tracing::warn!(drive = %path.display(), why, "it was to leave, and stays");
                settings.stay(uuid);
                self.keep_settings(&settings);
            }
        }
    }

    fn seen_leaving(&self, look: impl FnOnce(&mut BTreeSet<Uuid>) -> bool) -> bool {
        look(&mut self.drives.seen_leaving.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn erase_keys_of(&self, place: u16) -> Result<(), String> {
        let drive = self.cores.ask(OWNER, |answer| ToCore::InfoOf { place, answer }).await;
        match drive.ok().flatten() {
            Some(drive) => erase(&self.cores, drive).await,
            None => Err("it is not there".into()),
        }
    }
}

/// Overwrites the keys on a drive that the pool does not count.
async fn erase(cores: &Talk, drive: DriveInfo) -> Result<(), String> {
    match cores.ask(OWNER, |answer| ToCore::EraseKeysOn { drive, answer }).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(StoreError::Drive(why) | StoreError::Refused(why))) => Err(why),
        Ok(Err(why)) => Err(why.to_string()),
        Err(_) => Err("the node is stopping".into()),
    }
}

fn told(path: &Path, erased: Result<(), String>) -> Notice {
    let what = match erased {
        Ok(()) => DriveNews::KeysErased,
        Err(why) => DriveNews::KeysLeft(why),
    };
    Notice::Drive { path: path.display().to_string(), what }
}
