//! Opening a pool: which drives are its own, which join, which are refused and why.
//!
//! Nothing is written before every drive was looked at and accepted. A new pool is made in two rounds of superblocks: the
//! first says "being made" (incarnation 0) and counts for nothing, so a crash in between leaves drives that can be taken
//! again; the second makes the pool.

mod label;
pub(crate) mod signature;

pub use label::{Identity, identify_drive, wipe_drive};

use crate::format::superblock::{DriveEntry, MAX_DRIVES, MAX_SHARDS, SUPERBLOCK_SLOTS, Superblock};
use crate::format::{LABEL_BYTES, MAX_UNIT_BYTES, MIN_UNIT_BYTES};
use crate::{PlanDrive, PoolPlan, StoreError};
use dolmen_io::{DriveInfo, exec::Handle};
use dolmen_types::Uuid;
use label::{Found, look, zero};

/// Units that a pool has at least, when its size allows.
const MIN_UNITS: u64 = 512;

/// Units per shard that a pool has at least, when its size allows.
const MIN_UNITS_PER_SHARD: u64 = 192;

/// Smallest unit that is chosen for an operator's pool. Bytes.
const MIN_CHOSEN_UNIT_BYTES: u32 = 1 << 20;

/// A drive that was opened (with `exclusive`), offered to [`open_pool`].
#[derive(Clone, Debug)]
pub struct Candidate {
    /// What the driver said about it.
    pub info: DriveInfo,
    /// Where it is, as the operator names it.
    pub path: String,
}

/// How a new pool is made.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// Shards of a new pool, 1 to 16.
    pub shards: u16,
    /// Bytes of a unit of a new pool (tests); `None` chooses by the pool's size.
    pub unit_bytes: Option<u32>,
    /// Fresh random bytes for the UUIDs of a new pool and of drives that join.
    pub seed: [u8; 32],
    /// The pool that the node has served before: no other is opened, and none is made in its place.
    pub expect: Option<Uuid>,
}

/// Opens (or, over blank drives alone, makes) the pool that lives on these drives, and records this opening's incarnation
/// durably on every drive. Refuses a drive with a foreign signature, of another pool or of a newer format, and a pool
/// with a drive missing, by name; nothing is written then.
pub async fn open_pool(
    exec: Handle,
    drives: Vec<Candidate>,
    options: PoolOptions,
) -> Result<PoolPlan, StoreError> {
    let (found, newest) = survey(&exec, &drives).await?;
    if let Some(expected) = options.expect
        && newest.as_ref().is_none_or(|s| s.pool != expected)
    {
        let what = newest.map_or("are blank".into(), |s| format!("hold pool {}", s.pool));
        return Err(StoreError::Refused(format!(
            "this node has served pool {expected}, and the drives named {what}; nothing was written. Name the pool's own \
             drives, or use a fresh data folder"
        )));
    }
    match newest {
        Some(newest) => reopen(&exec, &drives, &found, newest, &options).await,
        None => make(&exec, &drives, &options).await,
    }
}

/// Looks at every drive and refuses what is not ours to touch; the newest superblock, if there is one.
async fn survey(exec: &Handle, drives: &[Candidate]) -> Result<(Vec<Found>, Option<Superblock>), StoreError> {
    if drives.is_empty() || drives.len() > MAX_DRIVES {
        return Err(StoreError::Refused(format!(
            "a pool has 1 to {MAX_DRIVES} drives, {} were named",
            drives.len()
        )));
    }
    let mut found = Vec::new();
    for drive in drives {
        found.push(look(exec, &drive.info).await.map_err(|e| named(drive, e))?);
    }
    for (drive, found) in drives.iter().zip(&found) {
        accept(drive, found)?;
    }
    let newest =
        found.iter().filter_map(Found::superblock).max_by_key(|s| (s.incarnation, s.sequence)).cloned();
    Ok((found, newest))
}

/// The plan of the pool on these drives as it stands; reads only. Every drive must be the pool's.
pub(crate) async fn read_plan(exec: &Handle, drives: &[Candidate]) -> Result<PoolPlan, StoreError> {
    let (found, newest) = survey(exec, drives).await?;
    let Some(mut block) = newest else { return Err(StoreError::Refused("the drives hold no pool".into())) };
    let (order, joining) = members(drives, &found, &mut block)?;
    match joining.first() {
        Some(&i) => Err(StoreError::Refused(format!("{} is blank", drives[i].path))),
        None => Ok(plan(&block, order, false)),
    }
}

fn named(drive: &Candidate, error: StoreError) -> StoreError {
    match error {
        StoreError::Drive(text) | StoreError::Refused(text) => {
            StoreError::Refused(format!("{}: {text}", drive.path))
        }
        other => other,
    }
}

/// Refuses what is not ours to touch.
fn accept(drive: &Candidate, found: &Found) -> Result<(), StoreError> {
    let path = &drive.path;
    let refuse = |text: String| Err(StoreError::Refused(text));
    match found {
        Found::Blank | Found::BeingMade(_) | Found::Ours(_) => Ok(()),
        Found::Newer(version) => refuse(format!(
            "{path} belongs to a pool of format version {version}, which this program does not know; use a newer one"
        )),
        Found::Damaged => refuse(format!(
            "{path} was a drive of a Dolmen pool, but neither of its superblocks checks; `dolmen drive wipe {path}` gives it up"
        )),
        Found::Foreign(what) => refuse(format!(
            "{path} holds {what}; nothing was written. If that may be lost: `dolmen drive wipe {path}`"
        )),
    }
}

/// Makes a pool over blank drives.
async fn make(exec: &Handle, drives: &[Candidate], options: &PoolOptions) -> Result<PoolPlan, StoreError> {
    if !(1..=MAX_SHARDS).contains(&options.shards) {
        return Err(StoreError::Refused(format!("a pool has 1 to {MAX_SHARDS} shards")));
    }
    let total: u64 = drives.iter().map(|d| d.info.size_bytes.saturating_sub(LABEL_BYTES)).sum();
    let unit_bytes = options.unit_bytes.unwrap_or_else(|| choose_unit(total, options.shards));
    if !unit_bytes.is_power_of_two() || !(MIN_UNIT_BYTES..=MAX_UNIT_BYTES).contains(&unit_bytes) {
        return Err(StoreError::Refused(format!(
            "a unit of {unit_bytes} bytes is not a power of two within the limits"
        )));
    }
    let entries: Vec<DriveEntry> =
        (0u64..).zip(drives).map(|(i, d)| entry(d, unit_bytes, derive(&options.seed, i + 1))).collect();
    let units: u64 = entries.iter().map(|e| u64::from(e.units)).sum();
    let needed = 16 * u64::from(options.shards) + 4;
    if units < needed || entries.iter().any(|e| e.units == 0) {
        let sizes: Vec<String> =
            drives.iter().map(|d| format!("{} has {} bytes", d.path, d.info.size_bytes)).collect();
        return Err(StoreError::Refused(format!(
            "too little for a pool of {} shards, which takes {needed} units of {unit_bytes} bytes, and at least one of \
             them and 1 MiB of each drive: {}",
            options.shards,
            sizes.join(", ")
        )));
    }
    let mut block = Superblock {
        sequence: 0,
        pool: derive(&options.seed, 0),
        index: 0,
        incarnation: 0,
        shards: options.shards,
        columns: (1, 0),
        unit_bytes,
        drives: entries,
    };
    let all: Vec<usize> = (0..drives.len()).collect();
    for drive in drives {
        zero(exec, drive.info.file, 0, LABEL_BYTES).await?;
    }
    write_all(exec, drives, &all, &block).await?;
    (block.incarnation, block.sequence) = (1, 1);
    write_all(exec, drives, &all, &block).await?;
    Ok(plan(&block, all, true))
}

/// Opens the pool that the newest superblock describes; blank drives join it.
async fn reopen(
    exec: &Handle,
    drives: &[Candidate],
    found: &[Found],
    newest: Superblock,
    options: &PoolOptions,
) -> Result<PoolPlan, StoreError> {
    let mut block = newest;
    let (mut order, joining) = members(drives, found, &mut block)?;
    for i in joining {
        let salt = u64::try_from(block.drives.len()).unwrap_or(u64::MAX);
        let entry = entry(&drives[i], block.unit_bytes, derive(&options.seed, 1000 + salt));
        if block.drives.len() == MAX_DRIVES || entry.units == 0 {
            return Err(StoreError::Refused(format!(
                "{} is too small, or the pool has its most drives",
                drives[i].path
            )));
        }
        zero(exec, drives[i].info.file, 0, LABEL_BYTES).await?;
        block.drives.push(entry);
        order.push(i);
    }
    block.incarnation += 1;
    block.sequence += 1;
    // New drives first: should we die before the old ones know them, the newest superblock still names everything.
    let written: Vec<usize> = order.iter().rev().copied().collect();
    for &i in &written {
        write_one(exec, drives, &order, i, &block).await?;
    }
    Ok(plan(&block, order, false))
}

/// Matches the drives with the superblock's table and brings paths and serial numbers up to date: for each drive of the pool
/// the index of its candidate, and the candidates that are blank.
fn members(
    drives: &[Candidate],
    found: &[Found],
    block: &mut Superblock,
) -> Result<(Vec<usize>, Vec<usize>), StoreError> {
    let mut order = vec![usize::MAX; block.drives.len()];
    let mut joining = Vec::new();
    for (i, (drive, found)) in drives.iter().zip(found).enumerate() {
        let Some(own) = found.membership(block.pool) else {
            joining.push(i);
            continue;
        };
        let uuid = own.drives[usize::from(own.index)].uuid;
        let place = block.drives.iter().position(|d| d.uuid == uuid).filter(|_| own.pool == block.pool);
        let Some(place) = place else {
            return Err(StoreError::Refused(format!(
                "{} belongs to pool {}, the others to pool {}; nothing was written",
                drive.path, own.pool, block.pool
            )));
        };
        if order[place] != usize::MAX {
            return Err(StoreError::Refused(format!(
                "{} and {} are the same drive of the pool, or a copy of one",
                drives[order[place]].path, drive.path
            )));
        }
        order[place] = i;
        let known = &mut block.drives[place];
        if drive.info.size_bytes < LABEL_BYTES + u64::from(known.units) * u64::from(block.unit_bytes) {
            return Err(StoreError::Refused(format!(
                "{} has shrunk to {} bytes; the pool needs all of its {} units",
                drive.path, drive.info.size_bytes, known.units
            )));
        }
        known.path.clone_from(&drive.path);
        known.serial = drive.info.serial.clone().unwrap_or_default();
    }
    missing(block, &order)?;
    Ok((order, joining))
}

/// Refuses a pool with a drive missing, by the name under which the operator knew it.
fn missing(block: &Superblock, order: &[usize]) -> Result<(), StoreError> {
    let absent: Vec<String> = block
        .drives
        .iter()
        .zip(order)
        .filter(|(_, at)| **at == usize::MAX)
        .map(|(d, _)| {
            let serial = if d.serial.is_empty() { String::new() } else { format!(", serial {}", d.serial) };
            format!("{} (drive {}{serial})", d.path, d.uuid)
        })
        .collect();
    if absent.is_empty() {
        return Ok(());
    }
    Err(StoreError::Refused(format!(
        "pool {} has {} drives, and these are missing: {}; nothing was written",
        block.pool,
        block.drives.len(),
        absent.join(", ")
    )))
}

fn entry(drive: &Candidate, unit_bytes: u32, uuid: Uuid) -> DriveEntry {
    let units = drive.info.size_bytes.saturating_sub(LABEL_BYTES) / u64::from(unit_bytes);
    DriveEntry {
        uuid,
        units: u32::try_from(units).unwrap_or(u32::MAX),
        serial: drive.info.serial.clone().unwrap_or_default(),
        path: drive.path.clone(),
    }
}

/// The largest unit that still gives enough of them.
fn choose_unit(total_bytes: u64, shards: u16) -> u32 {
    let units = MIN_UNITS.max(MIN_UNITS_PER_SHARD * u64::from(shards));
    let mut unit = MAX_UNIT_BYTES;
    while unit > MIN_CHOSEN_UNIT_BYTES && total_bytes / u64::from(unit) < units {
        unit /= 2;
    }
    unit
}

/// A UUID from the opening's randomness.
fn derive(seed: &[u8; 32], number: u64) -> Uuid {
    let (low, high) = (crate::check::check64(number, seed), crate::check::check64(!number, seed));
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&low.to_le_bytes());
    bytes[8..].copy_from_slice(&high.to_le_bytes());
    Uuid::from_random(bytes)
}

fn plan(block: &Superblock, order: Vec<usize>, created: bool) -> PoolPlan {
    let drive = |d: &DriveEntry| PlanDrive {
        uuid: d.uuid,
        path: d.path.clone(),
        serial: d.serial.clone(),
        units: d.units,
    };
    PoolPlan {
        pool: block.pool,
        incarnation: block.incarnation,
        unit_bytes: block.unit_bytes,
        shards: block.shards,
        drives: block.drives.iter().map(drive).collect(),
        order,
        created,
    }
}

async fn write_all(
    exec: &Handle,
    drives: &[Candidate],
    order: &[usize],
    block: &Superblock,
) -> Result<(), StoreError> {
    for &i in order {
        write_one(exec, drives, order, i, block).await?;
    }
    Ok(())
}

/// Writes the superblock of candidate `i` into the slot of its sequence number.
async fn write_one(
    exec: &Handle,
    drives: &[Candidate],
    order: &[usize],
    i: usize,
    block: &Superblock,
) -> Result<(), StoreError> {
    let place = order.iter().position(|&o| o == i).unwrap_or(0);
    let index = u16::try_from(place).expect("at most MAX_DRIVES");
    let bytes = Superblock { index, ..block.clone() }.encode();
    let mut buf = exec.alloc(bytes.len()).await;
    buf.copy_from_slice(&bytes);
    let at = (block.sequence % SUPERBLOCK_SLOTS) * bytes.len() as u64;
    let file = drives[i].info.file;
    let failed = |e: dolmen_io::Error| StoreError::Drive(format!("{}: {e}", drives[i].path));
    exec.write_durable(file, at, vec![buf.freeze()]).await.map_err(failed)?;
    exec.flush(file).await.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_scale_with_the_pool() {
        assert_eq!(choose_unit(1 << 40, 2), 64 << 20);
        assert_eq!(choose_unit(10 << 30, 2), 16 << 20);
        assert_eq!(choose_unit(1 << 30, 2), 2 << 20);
        assert_eq!(choose_unit(100 << 20, 2), 1 << 20);
        assert_eq!(choose_unit(10 << 30, 16), 2 << 20);
    }
}
