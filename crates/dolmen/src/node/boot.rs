//! From drives to volumes: opens the drives, the pool, every core's shards and volumes, in that order. Any failure ends the
//! start with a text that names the drive; nothing has been served then.

use crate::{
    config::ServeOptions,
    node::{
        ServeError,
        cores::Talk,
        keys::{ClusterKeys, LineKey},
        sequence::known_sequence,
        settings::Settings,
    },
};
use dolmen_cluster::state::Identity;
use dolmen_core::{
    home_core,
    message::{OpenedDrive, ToCore},
};
use dolmen_io::OpenDrive;
use dolmen_security::{
    file::{Visibility, replace},
    fresh_uuid,
};
use dolmen_store::{Finding, FoundPool, Keyring, PoolOptions, PoolPlan, StoreError, WrappedKey};
use dolmen_types::{CoreId, LineId, Uuid};
use dolmen_volume::{NodeIdentity, Replace, Restart, VolumeInfo};
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
    /// The highest line that has a key, or that there is anything of in the store: no volume may know it any more.
    pub highest_line: LineId,
    /// Drives that were to leave and are none of the pool any more; open still.
    pub left: Vec<(Uuid, OpenedDrive)>,
}

/// What to bring up.
pub struct Start {
    /// The drives; those that can't be opened must be ones that the pool can do without.
    pub drives: Vec<OpenDrive>,
    /// For a new pool, and which pool it must be.
    pub pool: PoolOptions,
    /// Whether reservations that do not persist are still there.
    pub restart: Restart,
    /// The cluster key.
    pub keys: Arc<ClusterKeys>,
    /// Who the node is; the log of a new pool, or of this node's own, says so afterwards.
    pub identity: Option<NodeIdentity>,
    /// Drives that are to leave.
    pub leaving: Vec<Uuid>,
    /// Takes away a file drive that this start has made and the pool has refused, so that a drive whose file system is not
    /// mounted leaves nothing in its place.
    pub unmake: fn(&Path),
}

/// Brings the pool and its volumes up on running cores. `known_pool` is the pool that this data folder has served before.
pub(crate) async fn boot(
    options: &ServeOptions,
    cores: &Talk,
    known_pool: Option<Uuid>,
    restart: Restart,
    keys: Arc<ClusterKeys>,
    settings: &Settings,
    identity: &Identity,
) -> Result<Booted, ServeError> {
    for drive in &settings.added {
        tracing::info!(drive = %drive.path.display(), "opened too: it was added with `dolmen drive add`");
    }
    for drive in &settings.leaving {
        tracing::info!(
            drive = %drive.path.display(), "opened still: `dolmen drive remove` has not come to its end there"
        );
    }
    let drives = settings
        .drives(&options.drives)
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
        at_least: known_pool.map_or(Ok(0), |_| known_sequence(&options.data)),
        absent: Vec::new(),
        degraded: options.degraded,
        let_go: settings.leaving.iter().chain(&settings.removed).map(|d| d.uuid).collect(),
        added: settings.added.iter().map(|d| d.path.display().to_string()).collect(),
    };
    let leaving = settings.leaving.iter().map(|d| d.uuid).collect();
    let identity = Some(recorded(identity));
    bring_up(cores, Start { drives, pool, restart, keys, identity, leaving, unmake: remove }).await
}

/// The identity as the log has it.
fn recorded(identity: &Identity) -> NodeIdentity {
    NodeIdentity {
        cluster_uuid: identity.cluster_uuid,
        node_uuid: identity.node_uuid,
        server_uuid: identity.server_uuid,
        cluster_name: identity.cluster_name.clone(),
        node_name: identity.node_name.clone(),
        subsystem_nqn: identity.subsystem_nqn.to_string(),
        serial: identity.serial.clone(),
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(drive = %path.display(), %error, "this file was made by this start and can't be removed");
    }
}

fn log_finding(finding: &Finding) {
    match finding {
        Finding::Lost { path, reason, .. } => {
            tracing::warn!(drive = path, reason, "a drive of the pool is lost; the pool goes on without it");
        }
        Finding::Untouched { path, reason } => {
            tracing::warn!(drive = path, reason, "this is no drive of the pool; it is left as it is");
        }
        Finding::Stale { path } => {
            tracing::warn!(
                drive = path,
                "a drive that was out is back; what it held counts no more, it joins anew"
            );
        }
        Finding::Joined { path } => tracing::info!(drive = path, "a blank drive has joined the pool"),
    }
}

/// A size is for a drive to be made; one that is there keeps its own.
fn warn_of_size(path: &str, asked: Option<u64>, drive: &OpenedDrive) {
    let has = drive.info.size_bytes;
    if let Some(asked) = asked.filter(|asked| *asked != has) {
        tracing::warn!(
            drive = path,
            "keeps its size of {has} bytes; the {asked} asked for are for a drive to be made"
        );
    }
}

/// The sequence itself, for cores of any world.
///
/// # Errors
/// Which drive or pool can't be opened and why, in words.
pub async fn bring_up(cores: &Talk, start: Start) -> Result<Booted, ServeError> {
    let first = CoreId(0);
    let Start { drives, mut pool, restart, keys, identity, leaving, unmake } = start;
    let served_before = pool.expect.is_some();
    let asked: Vec<(String, Option<u64>)> =
        drives.iter().map(|d| (d.path.display().to_string(), d.create_bytes)).collect();
    let results = cores.ask(first, |answer| ToCore::OpenDrives { drives, answer }).await?;
    let (mut paths, mut opened) = (Vec::new(), Vec::new());
    for ((path, size), result) in asked.into_iter().zip(results) {
        match result {
            Ok(drive) => {
                warn_of_size(&path, size, &drive);
                paths.push(path);
                opened.push(drive);
            }
            Err(why) => {
                tracing::warn!(drive = path, why, "a drive is not there");
                pool.absent.push((path, why));
            }
        }
    }
    // Nothing was written when the pool or its keys are refused, and the drives are still locked by us.
    let forget_made = |plan: Option<&PoolPlan>| {
        let taken = |i: usize| plan.is_some_and(|plan| plan.order.contains(&Some(i)));
        let made = paths.iter().zip(&opened).enumerate().filter(|(_, (_, drive))| drive.info.created);
        made.filter(|(i, _)| !taken(*i)).for_each(|(_, (path, _))| unmake(path.as_ref()));
    };
    let names = paths.clone();
    // What is refused here is refused when the pool is opened, and so is a pool that may not be opened for another reason.
    let found = match cores.ask(first, |answer| ToCore::FindPool { paths: names, answer }).await? {
        Err(StoreError::Refused(_)) => None,
        found => found.map_err(ServeError::system)?.filter(|found| may_open(found, &pool)),
    };
    let unlocked = match &found {
        Some(found) => Some(keys.unlock(found.pool, &found.keys).await.inspect_err(|_| forget_made(None))?),
        None => None,
    };
    let names = paths.clone();
    let plan = cores.ask(first, |answer| ToCore::OpenPool { paths: names, options: pool, answer }).await?;
    // Nothing was written to those that the pool has not taken.
    if !matches!(&plan, Err(error) if !matches!(error, StoreError::Refused(_))) {
        forget_made(plan.as_ref().ok());
    }
    let plan = Arc::new(plan.map_err(ServeError::system)?);
    plan.findings.iter().for_each(log_finding);
    tracing::info!(
        pool = %plan.pool, drives = plan.drives_of_it().count(), shards = plan.shards, unit_bytes = plan.unit_bytes,
        parity = plan.parity, created = plan.created, "pool opened"
    );
    let left = dismiss(cores, &plan, &paths, &opened, &leaving).await?;
    let drives: Vec<Option<OpenedDrive>> =
        plan.order.iter().map(|at| at.map(|i| opened[i].clone())).collect();
    let opening = |answer| ToCore::OpenKeys { plan: plan.clone(), drives: drives.clone(), answer };
    let wrapped = cores.ask(first, opening).await?.map_err(ServeError::system)?;
    let unlocked = match unlocked {
        Some(unlocked) if unlocked.len() == wrapped.len() => unlocked,
        _ => keys.unlock(plan.pool, &wrapped).await?,
    };
    let highest_stored = open_store(cores, &plan, &drives, unlocked).await?;
    keys.settle(cores).await;
    sweep(cores, &plan, &wrapped).await?;
    let replaces = if served_before || plan.created { Replace::Other } else { Replace::Nothing };
    let identity = identity.map(|identity| (identity, replaces));
    let volumes =
        cores.ask_all(|answer| ToCore::OpenVolumes { restart, identity: identity.clone(), answer }).await?;
    let volumes: Vec<VolumeInfo> = volumes.into_iter().flatten().collect();
    let highest_line = wrapped.iter().map(|key| key.line).fold(highest_stored, LineId::max);
    tracing::info!(volumes = volumes.len(), keys = wrapped.len(), "recovered");
    Ok(Booted { plan, drives, volumes, highest_line, left })
}

/// Closes what the pool has not taken, so that others can; but for drives that were to leave, which are returned: there is something
/// to be done on them yet.
async fn dismiss(
    cores: &Talk,
    plan: &PoolPlan,
    paths: &[String],
    opened: &[OpenedDrive],
    leaving: &[Uuid],
) -> Result<Vec<(Uuid, OpenedDrive)>, ServeError> {
    let mut left = Vec::new();
    for (i, drive) in opened.iter().enumerate().filter(|(i, _)| !plan.order.contains(&Some(*i))) {
        let let_go = plan.let_go.iter().find(|(at, _)| *at == i).map(|(_, uuid)| *uuid);
        if let Some(uuid) = let_go.flatten().filter(|uuid| leaving.contains(uuid)) {
            left.push((uuid, drive.clone()));
            continue;
        }
        if let_go.is_some() {
            tracing::info!(
                drive = paths[i],
                "left alone: it was removed with `dolmen drive remove`, or is where such a drive was; `dolmen drive add` takes it"
            );
        }
        let file = drive.info.file;
        cores.ask(CoreId(0), |answer| ToCore::CloseFile { file, answer }).await?;
    }
    Ok(left)
}

/// True when nothing that is known of the pool from before speaks against opening it.
fn may_open(found: &FoundPool, pool: &PoolOptions) -> bool {
    let at_least = pool.at_least.as_ref().map_or(0, |sequence| *sequence);
    pool.expect.is_none_or(|expected| expected == found.pool) && found.sequence >= at_least
}

/// Opens every core's shards, with the keys of their lines. The highest line that there is anything of.
async fn open_store(
    cores: &Talk,
    plan: &Arc<PoolPlan>,
    drives: &[Option<OpenedDrive>],
    unlocked: Vec<LineKey>,
) -> Result<LineId, ServeError> {
    let mut keyrings = vec![Keyring::default(); cores.count()];
    for LineKey { pg, line, key } in unlocked {
        keyrings[usize::from(home_core(plan, pg, cores.count()).0)].insert(line, key);
    }
    let mut keyrings = keyrings.into_iter();
    let recovering = cores.ask_all(|answer| ToCore::OpenStore {
        plan: plan.clone(),
        drives: drives.to_vec(),
        keyring: keyrings.next().unwrap_or_default(),
        answer,
    });
    let mut highest = LineId(0);
    for result in recovering.await? {
        highest = highest.max(result.map_err(ServeError::new)?);
    }
    Ok(highest)
}

/// Has the keys erased that a crash left over.
async fn sweep(cores: &Talk, plan: &PoolPlan, wrapped: &[WrappedKey]) -> Result<(), ServeError> {
    for core in cores.ids() {
        let here = wrapped.iter().filter(|key| home_core(plan, key.pg, cores.count()) == core);
        let lines = here.map(|key| (key.pg, key.line)).collect();
        cores.ask(core, |answer| ToCore::SweepKeys { lines, answer }).await?;
    }
    Ok(())
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
        && let Err(error) = replace(&folder.join(BOOT_FILE), id.as_bytes(), Visibility::Everybody)
    {
        tracing::warn!(%error, "the next start will take itself for one after a power cycle");
    }
}

fn boot_id() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()
}
