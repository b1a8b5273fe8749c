//! What the control side asks of drives, carried out over all cores: one change at a time.
//!
//! A drive that is added is written down in the data folder before the pool counts it, so that the next start names it; one that is
//! removed before it is told to go, and again when it has left. See [`Settings`].

use super::{
    cores::Talk,
    locate::{self, Sought},
    router::Node,
    settings::{KnownDrive, Settings},
};
use dolmen_cluster::plane::{DriveLocation, Notice, PlaneError, ReprotectionNews};
use dolmen_core::{
    message::{OpenedDrive, ToCore},
    report::CoreReport,
    why_not_opened,
};
use dolmen_io::{FileId, OpenDrive};
use dolmen_store::{Candidate, DriveStanding, DriveState, NewDrive, StoreError};
use dolmen_types::{CoreId, DriveChange, Uuid};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};
use tokio::{
    sync::{Mutex, mpsc},
    time::{Instant, sleep},
};

/// The core that owns the pool's units.
const OWNER: CoreId = CoreId(0);

/// How long the drives may take to write down that one of them was given up. Until then it is in service.
const OUT_DEADLINE: Duration = Duration::from_secs(10);

/// Between two looks whether they have.
const OUT_LOOK: Duration = Duration::from_millis(20);

/// Why what has no bytes is no drive, and what to do about it.
fn empty(path: &Path) -> String {
    let path = path.display();
    format!(
        "{path} is empty (0 bytes). For a file that stands for a drive say how large it is to be, when it is not there yet: remove it, and \
         give {path}:10GiB"
    )
}

/// What changes of the drives need to know.
pub(crate) struct DriveOps {
    /// Where what is decided is kept.
    pub(crate) folder: PathBuf,
    /// What was decided. Held for as long as a change takes: one at a time.
    pub(super) settings: Mutex<Settings>,
    /// Drives that were seen to be leaving.
    pub(super) seen_leaving: std::sync::Mutex<BTreeSet<Uuid>>,
    /// Whether file drives are left unallocated.
    pub(crate) sparse: bool,
    /// For what is told unasked.
    pub(crate) notices: mpsc::Sender<Notice>,
    /// Whether re-protection rests, and what it may move in a second; a copy, since a change may take long.
    paused: AtomicBool,
    bytes_per_s: AtomicU64,
}

impl DriveOps {
    /// With what was decided before.
    pub(crate) fn new(
        folder: PathBuf,
        settings: Settings,
        sparse: bool,
        notices: mpsc::Sender<Notice>,
    ) -> DriveOps {
        let (paused, bytes_per_s) = (settings.paused.into(), settings.bytes_per_s.into());
        let (settings, seen_leaving) = (Mutex::new(settings), std::sync::Mutex::default());
        DriveOps { folder, settings, seen_leaving, sparse, notices, paused, bytes_per_s }
    }

    /// How re-protection was told to go on: whether it rests, and what it may move in a second. Bytes.
    pub(super) fn reprotection(&self) -> (bool, u64) {
        (self.paused.load(Ordering::Relaxed), self.bytes_per_s.load(Ordering::Relaxed))
    }
}

/// Why a drive has not joined, as far as one knows.
enum Unjoined {
    /// The pool does not count it, and never will: all can be as it was before.
    Refused(PlaneError),
    /// The pool was told to count it, and nobody knows what came of that. A start takes what was added and never counted, and needs
    /// what was counted.
    Unknown,
}

impl From<PlaneError> for Unjoined {
    fn from(why: PlaneError) -> Unjoined {
        Unjoined::Refused(why)
    }
}

fn gone<T>(_: T) -> PlaneError {
    PlaneError::Unavailable("the node is stopping".into())
}

fn refused(why: impl Into<String>) -> PlaneError {
    PlaneError::Refused(why.into())
}

/// The drives of the pool, from what the cores report.
pub(super) fn standings(reports: &[CoreReport]) -> impl Iterator<Item = (u16, &DriveStanding)> {
    let pool = reports.iter().find_map(|r| r.pool.as_ref());
    (0..).zip(pool.into_iter().flat_map(|pool| pool.drives.iter().map(|d| &d.standing)))
}

impl Node {
    /// Takes a drive into the running pool.
    pub(super) async fn add_drive(&self, path: String, size_bytes: Option<u64>) -> Result<(), PlaneError> {
        if !path.starts_with('/') {
            return Err(refused(format!("'{path}': name the drive by its whole path")));
        }
        if size_bytes.is_some() && path.starts_with("/dev/") && !path.starts_with("/dev/shm/") {
            return Err(refused(format!("{path} names a device, which has a size of its own")));
        }
        let mut settings = self.drives.settings.lock().await;
        let reports = self.reports().await.ok_or_else(|| gone(()))?;
        for (place, drive) in standings(&reports).filter(|(_, d)| d.path == path) {
            match drive.state {
                DriveState::In | DriveState::Leaving => {
                    return Err(refused(format!("{path} is a drive of the pool already")));
                }
                DriveState::Out | DriveState::Gone => self.close(place, &path).await?,
            }
        }
        let opened = self.open(&path, size_bytes).await?;
        let made = opened.info.created;
        let before = settings.clone();
        let why = match self.join(&path, opened, &mut settings).await {
            Ok(()) => return Ok(()),
            Err(Unjoined::Unknown) => {
                return Err(PlaneError::Unavailable(format!(
                    "{path}: the node is stopping; whether the drive has joined shows after its next start, which takes it if it has not"
                )));
            }
            Err(Unjoined::Refused(why)) => why,
        };
        if *settings != before {
            *settings = before;
            if let Err(why) = settings.save(&self.drives.folder) {
                tracing::warn!("the next start tries {path} again: {why}");
            }
        }
        if made {
            // The file was ours alone, and nobody counts on it.
            let _ = std::fs::remove_file(&path);
        }
        Err(why)
    }

    async fn open(&self, path: &str, create_bytes: Option<u64>) -> Result<OpenedDrive, PlaneError> {
        let drive =
            OpenDrive { path: path.into(), create_bytes, sparse: self.drives.sparse, exclusive: true };
        // On no core: to open a dying disk, or to make a large file, may take minutes.
        let opening = tokio::task::spawn_blocking(move || match dolmen_uring::open_drive(&drive) {
            Ok((_, info)) if info.size_bytes == 0 => Err(empty(&drive.path)),
            Ok((handle, info)) => Ok(OpenedDrive { info, handle }),
            // What is given to `drive add` is no option.
            Err(error) => Err(why_not_opened(&drive, &error).replacen("--drive ", "", 1)),
        });
        let drive = opening.await.map_err(gone)?.map_err(PlaneError::Refused)?;
        let taken =
            self.cores.ask(OWNER, |answer| ToCore::TakeDrive { drive, answer }).await.map_err(gone)?;
        taken.map_err(PlaneError::Refused)
    }

    async fn join(&self, path: &str, opened: OpenedDrive, settings: &mut Settings) -> Result<(), Unjoined> {
        let file = opened.info.file;
        let drive = Candidate { info: opened.info.clone(), path: path.into() };
        let prepared =
            self.cores.ask(OWNER, |answer| ToCore::PrepareDrive { drive, answer }).await.map_err(gone)?;
        let drive = match prepared {
            Ok(drive) => drive,
            Err(why) => {
                self.cores.ask(OWNER, |answer| ToCore::CloseFile { file, answer }).await.map_err(gone)?;
                return Err(Unjoined::Refused(match why {
                    StoreError::Refused(text) | StoreError::Drive(text) => PlaneError::Refused(text),
                    other => PlaneError::Unavailable(other.to_string()),
                }));
            }
        };
        let (uuid, was_out) = (drive.uuid(), drive.was_out);
        let attached =
            self.cores.ask_all(|answer| ToCore::AttachDrive { uuid, drive: opened.clone(), answer }).await;
        let attached = attached.map_err(gone)?.into_iter().collect::<Result<Vec<()>, String>>();
        settings.add(KnownDrive::new(uuid, path));
        let place = match attached.and_then(|_| settings.save(&self.drives.folder)) {
            Ok(()) => self.enter(drive, file).await?,
            Err(why) => Err(why),
        };
        let known = place.as_ref().ok().copied();
        let told = self.cores.ask_all(|answer| ToCore::DriveJoined { uuid, place: known, answer }).await;
        if place.is_ok() && told.is_err() {
            return Err(Unjoined::Unknown);
        }
        if place.is_ok() && was_out {
            self.tell(Notice::Drive { path: path.into(), what: dolmen_cluster::plane::DriveNews::Stale })
                .await;
        }
        place.map(|_| ()).map_err(|why| Unjoined::Refused(refused(format!("{path}: {why}"))))
    }

    /// Gives a prepared drive the key table, and only then lets it count: the pool must never live on drives that lack it. Its
    /// place in the pool, or why it is not in.
    async fn enter(&self, drive: NewDrive, file: FileId) -> Result<Result<u16, String>, Unjoined> {
        let keys = self.cores.ask(OWNER, |answer| ToCore::JoinKeys { file, answer }).await.map_err(gone)?;
        let place = match keys {
            Ok(()) => {
                let joining = self.cores.ask(OWNER, |answer| ToCore::JoinDrive { drive, answer });
                let joined = joining.await.map_err(|_| Unjoined::Unknown)?;
                // A pool that has stopped may have got as far as some of its drives.
                if joined.is_err() && self.has_stopped().await {
                    return Err(Unjoined::Unknown);
                }
                joined
            }
            Err(why) => Err(why.to_string()),
        };
        if place.is_err() {
            self.cores.ask(OWNER, |answer| ToCore::LeaveKeys { file, answer }).await.map_err(gone)?;
        }
        Ok(place)
    }

    async fn has_stopped(&self) -> bool {
        self.reports().await.is_none_or(|reports| reports.iter().any(|r| r.stopped.is_some()))
    }

    /// Closes what is open of a drive that is out or gone.
    async fn close(&self, place: u16, path: &str) -> Result<(), PlaneError> {
        let closed = self.cores.ask_all(|answer| ToCore::CloseDrive { place, answer }).await.map_err(gone)?;
        if closed.iter().all(|&c| c) {
            return Ok(());
        }
        Err(PlaneError::Unavailable(format!(
            "{path} still has operations under way from before it was out; try again when they have ended"
        )))
    }

    /// Lets go of drives that are out or gone, so that they can be pulled and their names be used again.
    pub(super) async fn close_lost(&self, reports: &[CoreReport]) {
        let lost = |d: &DriveStanding| matches!(d.state, DriveState::Out | DriveState::Gone);
        for (place, _) in standings(reports).filter(|(_, d)| lost(d)) {
            // One on which something is under way is tried again at the next look.
            let _ = self.cores.ask_all(|answer| ToCore::CloseDrive { place, answer }).await;
        }
    }

    /// Empties a drive, gives it up, or keeps it.
    pub(super) async fn change_drive(&self, uuid: Uuid, change: DriveChange) -> Result<(), PlaneError> {
        let mut settings = self.drives.settings.lock().await;
        let reports = self.reports().await.ok_or_else(|| gone(()))?;
        let found = standings(&reports).find(|(_, d)| d.uuid == uuid && d.state != DriveState::Gone);
        let (place, path) = found.map(|(place, d)| (place, d.path.clone())).ok_or(PlaneError::NotFound)?;
        let before = settings.clone();
        match change {
            // What is to leave is needed until it has: see [`super::release`].
            DriveChange::Remove | DriveChange::ForceOut => settings.leave(KnownDrive::new(uuid, &path)),
            DriveChange::Keep => settings.stay(uuid),
        }
        if change != DriveChange::Keep {
            // A drive that goes and is not known to have been told to would come back with the next start.
            settings.save(&self.drives.folder).map_err(PlaneError::Unavailable)?;
        }
        let changing = self.cores.ask(OWNER, |answer| ToCore::ChangeDrive { place, change, answer });
        let changed = changing.await.map_err(gone)?.map_err(|why| refused(format!("{path}: {why}")));
        if changed.is_err() {
            *settings = before;
        }
        changed.and(self.remember(&settings))?;
        drop(settings);
        if change == DriveChange::ForceOut { self.until_out(uuid, &path).await } else { Ok(()) }
    }

    /// Waits until a drive that was given up is out: who looks at it next must not find one in service.
    async fn until_out(&self, uuid: Uuid, path: &str) -> Result<(), PlaneError> {
        let deadline = Instant::now() + OUT_DEADLINE;
        loop {
            let reports = self.reports().await.ok_or_else(|| gone(()))?;
            let serves = |d: &DriveStanding| matches!(d.state, DriveState::In | DriveState::Leaving);
            if !standings(&reports).any(|(_, d)| d.uuid == uuid && serves(d)) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(PlaneError::Unavailable(format!(
                    "{path} is given up, and out once the other drives have that written down, which takes long; look again later"
                )));
            }
            sleep(OUT_LOOK).await;
        }
    }

    fn remember(&self, settings: &Settings) -> Result<(), PlaneError> {
        settings.save(&self.drives.folder).map_err(|why| {
            PlaneError::Unavailable(format!("it is done, but the next start does not know of it: {why}"))
        })
    }

    /// Tells where a drive is.
    pub(super) async fn locate_drive(
        &self,
        uuid: Uuid,
        light: Option<bool>,
    ) -> Result<DriveLocation, PlaneError> {
        let reports = self.reports().await.ok_or_else(|| gone(()))?;
        let pool = reports.iter().find_map(|r| r.pool.as_ref()).ok_or(PlaneError::NotFound)?;
        let here = pool.drives.iter().filter(|d| d.info.is_some());
        let here = here.map(|d| (d.standing.path.clone().into(), d.standing.uuid)).collect();
        let found = pool.drives.iter().find(|d| d.standing.uuid == uuid).ok_or(PlaneError::NotFound)?;
        let (path, serial) = (found.standing.path.clone().into(), found.standing.serial.clone());
        let sought = Sought { path, serial, open: found.info.is_some(), here };
        let looking =
            tokio::task::spawn_blocking(move || locate::locate(Path::new(locate::SYS), &sought, light));
        looking.await.map_err(gone)?.map_err(PlaneError::Refused)
    }

    /// Says how re-protection goes on, on every core and after the next start.
    pub(super) async fn set_reprotection(
        &self,
        paused: Option<bool>,
        bytes_per_s: Option<u64>,
    ) -> Result<(), PlaneError> {
        let mut settings = self.drives.settings.lock().await;
        let before = settings.clone();
        settings.paused = paused.unwrap_or(before.paused);
        settings.bytes_per_s = bytes_per_s.unwrap_or(before.bytes_per_s);
        reprotect(&self.cores, self.plan.shards, &settings).await?;
        self.drives.paused.store(settings.paused, Ordering::Relaxed);
        self.drives.bytes_per_s.store(settings.bytes_per_s, Ordering::Relaxed);
        if before.paused != settings.paused {
            let news = if settings.paused { ReprotectionNews::Paused } else { ReprotectionNews::Resumed };
            self.tell(Notice::Reprotection(news)).await;
        }
        if before.bytes_per_s != settings.bytes_per_s {
            self.tell(Notice::Reprotection(ReprotectionNews::Bounded(settings.bytes_per_s))).await;
        }
        self.remember(&settings)
    }

    /// Writes down what was decided; a failure is logged, and tried again with the next change.
    pub(super) fn keep_settings(&self, settings: &Settings) {
        if let Err(why) = settings.save(&self.drives.folder) {
            tracing::warn!(why, "the next start looks for a drive that has left");
        }
    }

    pub(super) async fn tell(&self, notice: Notice) {
        // Without a control side there is nobody to tell.
        let _ = self.drives.notices.send(notice).await;
    }
}

/// Has every core go on so.
pub(super) async fn reprotect(cores: &Talk, shards: u16, settings: &Settings) -> Result<(), PlaneError> {
    let (paused, all) = (settings.paused, settings.bytes_per_s);
    // Each shard has its part, and a bound is never no bound.
    let bytes_per_s = if all == 0 { 0 } else { (all / u64::from(shards.max(1))).max(1) };
    let told = cores.ask_all(|answer| ToCore::Reprotect { paused, bytes_per_s, answer }).await;
    told.map(|_| ()).map_err(gone)
}

#[cfg(test)]
mod tests;
