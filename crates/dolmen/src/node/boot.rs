//! From drives to volumes: opens the drives, the pool, every core's shards and volumes, in that order. Any failure ends the
//! start with a text that names the drive; nothing has been served then.

use crate::{
    config::ServeOptions,
    node::{
        ServeError,
        cores::Talk,
        message::{OpenedDrive, ToCore},
    },
};
use dolmen_io::OpenDrive;
use dolmen_security::fresh_uuid;
use dolmen_store::{PoolOptions, PoolPlan};
use dolmen_types::{CoreId, PgId, Uuid};
use dolmen_volume::{Restart, VolumeInfo};
use std::{fs, path::Path, sync::Arc};

/// Shards of a new pool at most.
const MAX_SHARDS: usize = 16;

/// What the start has found.
pub struct Booted {
    /// The pool.
    pub plan: Arc<PoolPlan>,
    /// Its drives, in the plan's order; `None` for one that is not there.
    pub drives: Vec<Option<OpenedDrive>>,
    /// All volumes of all cores.
    pub volumes: Vec<VolumeInfo>,
}

/// The core that a protection group lives on.
pub fn home_core(plan: &PoolPlan, pg: PgId, cores: usize) -> CoreId {
    let shard = pg.0 % u32::from(plan.shards.max(1));
    CoreId(u16::try_from(shard as usize % cores.max(1)).expect("cores are at most 256"))
}

/// What to bring up.
pub struct Start {
    /// The drives; those that can't be opened must be ones that the pool can do without.
    pub drives: Vec<OpenDrive>,
    /// For a new pool, and which pool it must be.
    pub pool: PoolOptions,
    /// Whether reservations that do not persist are still there.
    pub restart: Restart,
}

/// Brings the pool and its volumes up on running cores. `known_pool` is the pool that this data folder has served before.
pub(crate) async fn boot(
    options: &ServeOptions,
    cores: &Talk,
    known_pool: Option<Uuid>,
    restart: Restart,
) -> Result<Booted, ServeError> {
    let drives = options
        .drives
        .iter()
        .map(|drive| OpenDrive {
            path: drive.path.clone(),
            create_bytes: drive.size_bytes,
            sparse: options.sparse,
            exclusive: true,
        })
        .collect();
    let shards =
        std::thread::available_parallelism().map_or(1, usize::from).max(cores.count()).min(MAX_SHARDS);
    let shards = u16::try_from(shards).expect("at most 16");
    let pool = PoolOptions {
        shards,
        parity: options.parity,
        unit_bytes: None,
        seed: fresh_seed(),
        expect: known_pool,
        absent: Vec::new(),
    };
    bring_up(cores, Start { drives, pool, restart }).await
}

/// The sequence itself, for cores of any world.
///
/// # Errors
/// Which drive or pool can't be opened and why, in words.
pub async fn bring_up(cores: &Talk, start: Start) -> Result<Booted, ServeError> {
    let first = CoreId(0);
    let Start { drives, mut pool, restart } = start;
    let mut paths: Vec<String> = drives.iter().map(|d| d.path.display().to_string()).collect();
    let results = cores.ask(first, |answer| ToCore::OpenDrives { drives, answer }).await?;
    let mut opened = Vec::new();
    for (path, result) in std::mem::take(&mut paths).into_iter().zip(results) {
        match result {
            Ok(drive) => (opened.push(drive), paths.push(path)),
            Err(why) => {
                tracing::warn!(drive = path, why, "a drive is not there");
                ((), pool.absent.push((path, why)))
            }
        };
    }
    let plan = cores.ask(first, |answer| ToCore::OpenPool { paths, options: pool, answer }).await?;
    let plan = Arc::new(plan.map_err(ServeError::system)?);
    tracing::info!(
        pool = %plan.pool, drives = plan.drives.len(), shards = plan.shards, unit_bytes = plan.unit_bytes,
        parity = plan.parity, created = plan.created, "pool opened"
    );
    let drives: Vec<Option<OpenedDrive>> =
        plan.order.iter().map(|at| at.map(|i| opened[i].clone())).collect();
    let recovering =
        cores.ask_all(|answer| ToCore::OpenStore { plan: plan.clone(), drives: drives.clone(), answer });
    for result in recovering.await? {
        result.map_err(ServeError::new)?;
    }
    let volumes = cores.ask_all(|answer| ToCore::OpenVolumes { restart, answer }).await?;
    let volumes: Vec<VolumeInfo> = volumes.into_iter().flatten().collect();
    tracing::info!(volumes = volumes.len(), "recovered");
    Ok(Booted { plan, drives, volumes })
}

/// Fresh random bytes for what the pool needs identities for.
fn fresh_seed() -> [u8; 32] {
    let mut seed = [0; 32];
    seed[..16].copy_from_slice(&fresh_uuid().0);
    seed[16..].copy_from_slice(&fresh_uuid().0);
    seed
}

/// The file in the data folder that tells in which boot of the machine it was last served.
const BOOT_FILE: &str = "boot-id";

/// Whether the machine has been up since this folder was last served.
pub(crate) fn restart_kind(folder: &Path) -> Restart {
    match (fs::read_to_string(folder.join(BOOT_FILE)), boot_id()) {
        (Ok(then), Some(now)) if then == now => Restart::Process,
        _ => Restart::PowerOn,
    }
}

/// Remembers which boot of the machine this is.
pub(crate) fn remember(folder: &Path) {
    if let Some(id) = boot_id()
        && let Err(error) = fs::write(folder.join(BOOT_FILE), id)
    {
        tracing::warn!(%error, "the next start will take itself for one after a power cycle");
    }
}

fn boot_id() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()
}
