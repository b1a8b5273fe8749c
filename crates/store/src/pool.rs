//! Opening a pool: which drives are its own, which join, which are refused and why.
//!
//! Nothing is written before every drive was looked at and accepted. A new pool is made in three rounds of superblocks: the
//! first says "being made" (incarnation 0) and counts for nothing, so a crash in between leaves drives that can be taken
//! again; the second makes the pool, the third takes the first one's place.

mod find;
mod join;
mod label;
mod reopen;
pub(crate) mod signature;
mod view;

pub use find::{FoundPool, find_pool};
pub use join::{JoinTo, NewDrive, prepare_drive};
pub(crate) use label::damaged_slots;
pub use label::{Identity, identify_drive, wipe_drive};
pub(crate) use reopen::place_for;

use crate::columns::{MAX_PARITY, Shape};
use crate::format::superblock::{
    DriveEntry, MAX_DRIVES, MAX_SHARDS, POOL_VERSION, SUPERBLOCK_BYTES, SUPERBLOCK_SLOTS, Superblock,
};
use crate::format::{LABEL_BYTES, MAX_UNIT_BYTES, MIN_UNIT_BYTES};
use crate::shard::within;
use crate::{DriveState, Finding, PlanDrive, PoolPlan, StoreError};
use dolmen_io::{DriveInfo, FileId, exec::Handle};
use dolmen_types::Uuid;
use label::{Found, begin, look};
use std::future::poll_fn;
use std::task::Poll;

/// How long a drive may take to be looked at, or to take a superblock. Milliseconds.
const LOOK_MS: u64 = 15_000;

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
    /// Drives that a new pool may lose at a time without loss; a pool that is there must have been made so. `None`: one for a new
    /// pool of several drives, and whatever it is for one that is there.
    pub parity: Option<u8>,
    /// Bytes of a unit of a new pool (tests); `None` chooses by the pool's size.
    pub unit_bytes: Option<u32>,
    /// Fresh random bytes for the UUIDs of a new pool and of drives that join.
    pub seed: [u8; 32],
    /// The pool that the node has served before: no other is opened, and none is made in its place.
    pub expect: Option<Uuid>,
    /// Number of a superblock that was in force before: one with a lower number is refused, since other drives have gone on without
    /// the ones that hold it. 0 for a pool that this node has not served. Or why the number is not known: then any drive that is
    /// missing may have gone on alone, and none may be.
    pub at_least: Result<u64, String>,
    /// Drives that were named and could not be opened, and why: those of the pool are lost, and may be no more than it can lose.
    pub absent: Vec<(String, String)>,
    /// Whether drives of the pool that nobody names are taken for lost too, as far as it can do without them.
    pub degraded: bool,
    /// Drives that were removed on purpose, or are to be: one that the pool counts no more does not join again, nor does what is in its
    /// place.
    pub let_go: Vec<Uuid>,
    /// Where drives are that were to join while the pool served. One that the pool does not know never counted, whatever it was told,
    /// so nothing lives on it: it joins now if it can, and is left alone if it can't.
    pub added: Vec<String>,
}

/// Opens (or, over blank drives alone, makes) the pool that lives on these drives, and records this opening's incarnation
/// durably on every drive. Refuses a drive with a foreign signature, of another pool or of another format version, and a pool with more
/// drives missing than it can lose, by name; nothing is written then. Drives that are missing are out from then on; so is one in
/// whose place something else is found, which stays as it is. Blank drives and those that were out join as new ones. What of this
/// happened is in the plan's findings.
pub async fn open_pool(
    exec: Handle,
    drives: Vec<Candidate>,
    options: PoolOptions,
) -> Result<PoolPlan, StoreError> {
    if let (true, Some((_, why))) = (drives.is_empty(), options.absent.first()) {
        return Err(StoreError::Refused(why.clone()));
    }
    let found = survey(&exec, &drives).await?;
    let in_force = view::in_force(&found, options.expect, options.at_least.as_ref().map_or(0, |n| *n))?;
    let newest = in_force.as_ref().map(|in_force| &in_force.block);
    if newest.is_none() {
        drives.iter().zip(&found).try_for_each(|(drive, found)| accept(drive, found))?;
    }
    if let Some(expected) = options.expect
        && newest.is_none_or(|s| s.pool != expected)
    {
        let what = newest.map_or("are blank".into(), |s| format!("hold pool {}", s.pool));
        return Err(StoreError::Refused(format!(
            "this node has served pool {expected}, and the drives named {what}; nothing was written. Name the pool's own \
             drives, or use a fresh data folder"
        )));
    }
    let is_behind = |s: &&Superblock| {
        let Ok(at_least) = options.at_least else { return false };
        // With all that were named there, a drive that went on with others would know of it.
        let is_next = s.sequence + 1 == at_least && options.absent.is_empty();
        s.sequence < at_least && !(is_next && view::next_is_damaged(s, &found))
    };
    if let Some(newest) = newest.filter(is_behind) {
        let highest = view::highest(&found, newest.pool);
        let what = match options.at_least {
            Ok(at_least) if highest < at_least => format!(
                "all drives named are older than what this node has served: they tell of superblock {highest} of pool {}, and it had \
                 come to {at_least}. They have missed what was done since. Name those that served last too",
                newest.pool
            ),
            _ => format!(
                "some drives named have missed what pool {} did since, and nobody can tell which",
                newest.pool
            ),
        };
        return Err(StoreError::Refused(format!("{what}; nothing was written")));
    }
    match in_force {
        Some(in_force) => reopen::reopen(&exec, &drives, &found, in_force, &options).await,
        None => make(&exec, &drives, &options).await,
    }
}

/// Looks at all drives at once, so that those that do not answer are waited for together.
async fn survey(exec: &Handle, drives: &[Candidate]) -> Result<Vec<Found>, StoreError> {
    if drives.is_empty() || drives.len() > 2 * MAX_DRIVES {
        return Err(StoreError::Refused(format!(
            "a pool has 1 to {MAX_DRIVES} drives, {} were named and are there",
            drives.len()
        )));
    }
    let look_at = async |drive: &Candidate| match within(exec, LOOK_MS, look(exec, &drive.info)).await {
        Some(Ok(found)) => found,
        Some(Err(error)) => Found::Unreadable(error.to_string()),
        None => Found::Unreadable("it does not answer".into()),
    };
    let mut looks: Vec<_> = drives.iter().map(|drive| (Box::pin(look_at(drive)), None)).collect();
    poll_fn(|cx| {
        for (look, found) in looks.iter_mut().filter(|(_, found)| found.is_none()) {
            if let Poll::Ready(seen) = look.as_mut().poll(cx) {
                *found = Some(seen);
            }
        }
        let all = looks.iter().all(|(_, found)| found.is_some());
        if all { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    Ok(looks.into_iter().filter_map(|(_, found)| found).collect())
}

/// The plan of the pool on these drives as it stands, with what is missing out, and by drive of its table whether it counts, there or
/// not; reads only. Every drive must be the pool's. A superblock with the number `at_least` was in force.
pub(crate) async fn read_plan(
    exec: &Handle,
    drives: &[Candidate],
    at_least: u64,
) -> Result<(PoolPlan, Vec<bool>), StoreError> {
    let found = survey(exec, drives).await?;
    match view::in_force(&found, None, at_least)? {
        Some(in_force) => reopen::as_it_stands(drives, &found, &in_force),
        None => {
            drives.iter().zip(&found).try_for_each(|(drive, found)| accept(drive, found))?;
            Err(StoreError::Refused("the drives hold no pool".into()))
        }
    }
}

/// Refuses what is not ours to touch.
fn accept(drive: &Candidate, found: &Found) -> Result<(), StoreError> {
    let path = &drive.path;
    let refuse = |text: String| Err(StoreError::Refused(text));
    match found {
        Found::Blank | Found::BeingMade(_) | Found::Ours(_) => Ok(()),
        Found::Other(version) if *version < POOL_VERSION => refuse(format!(
            "{path} belongs to a pool of format version {version}, which an older build of this program made; this one reads version \
             {POOL_VERSION} alone. Nothing was written: use that build, or, if all of it may be lost, `dolmen drive wipe {path}`"
        )),
        Found::Other(version) => refuse(format!(
            "{path} belongs to a pool of format version {version}, which this program does not know; use a newer one"
        )),
        Found::Damaged => refuse(format!(
            "{path} was a drive of a Dolmen pool, but neither of its superblocks checks; `dolmen drive wipe {path}` gives it up"
        )),
        Found::Foreign(what) => refuse(format!(
            "{path} holds {what}; nothing was written. If that may be lost: `dolmen drive wipe {path}`"
        )),
        Found::Unreadable(why) => refuse(format!("{path}: {why}")),
    }
}

/// Makes a pool over blank drives.
async fn make(exec: &Handle, drives: &[Candidate], options: &PoolOptions) -> Result<PoolPlan, StoreError> {
    if let Some((_, why)) = options.absent.first() {
        return Err(StoreError::Refused(why.clone()));
    }
    if !(1..=MAX_SHARDS).contains(&options.shards) {
        return Err(StoreError::Refused(format!("a pool has 1 to {MAX_SHARDS} shards")));
    }
    let total: u64 = drives.iter().map(|d| d.info.size_bytes.saturating_sub(LABEL_BYTES)).sum();
    let parity = options.parity.unwrap_or(u8::from(drives.len() > 1));
    if usize::from(parity) > MAX_PARITY || drives.len() <= usize::from(parity) {
        return Err(StoreError::Refused(format!(
            "parity {parity} does not fit {} drives: it is 0 to {MAX_PARITY}, and takes one drive more than it says",
            drives.len()
        )));
    }
    let shape = Shape::of(drives.len(), parity);
    let unit_bytes = options.unit_bytes.unwrap_or_else(|| choose_unit(total, options.shards, shape));
    if !unit_bytes.is_power_of_two() || !(MIN_UNIT_BYTES..=MAX_UNIT_BYTES).contains(&unit_bytes) {
        return Err(StoreError::Refused(format!(
            "a unit of {unit_bytes} bytes is not a power of two within the limits"
        )));
    }
    let entries: Vec<DriveEntry> =
        (0u64..).zip(drives).map(|(i, d)| entry(d, unit_bytes, derive(&options.seed, i + 1))).collect();
    let units: u64 = entries.iter().map(|e| u64::from(e.units)).sum();
    let width = u64::from(shape.narrow() + shape.wide()) + if shape.data > 1 { 3 } else { 0 };
    let needed = 8 * u64::from(options.shards) * width + 4;
    if units < needed || entries.iter().any(|e| e.units == 0) {
        let sizes: Vec<String> =
            drives.iter().map(|d| format!("{} has {} bytes", d.path, d.info.size_bytes)).collect();
        return Err(StoreError::Refused(format!(
            "too little for a pool of {} shards, which takes {needed} units of {unit_bytes} bytes, and at least one of \
             them and 4 MiB of each drive: {}",
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
        parity,
        deficit: 0,
        unit_bytes,
        drives: entries,
    };
    let order: Vec<Option<usize>> = (0..drives.len()).map(Some).collect();
    for drive in drives {
        prepare(exec, drive.info.file).await.map_err(|why| failed(drive, why))?;
    }
    write_all(exec, drives, &order, &block).await?;
    (block.incarnation, block.sequence) = (1, 1);
    write_all(exec, drives, &order, &block).await?;
    // From here on both slots tell of the pool, and one that rots is not all that does.
    block.sequence = 2;
    write_all(exec, drives, &order, &block).await?;
    Ok(plan(&block, order, true, Vec::new()))
}

/// Makes the label of a drive that joins empty; or why it takes that no more.
async fn prepare(exec: &Handle, file: FileId) -> Result<(), String> {
    match within(exec, LOOK_MS, begin(exec, file)).await {
        Some(prepared) => prepared.map_err(|error| error.to_string()),
        None => Err("it takes too long to write to".into()),
    }
}

fn entry(drive: &Candidate, unit_bytes: u32, uuid: Uuid) -> DriveEntry {
    let units = drive.info.size_bytes.saturating_sub(LABEL_BYTES) / u64::from(unit_bytes);
    DriveEntry {
        uuid,
        units: u32::try_from(units).unwrap_or(u32::MAX),
        state: DriveState::In,
        fresh: false,
        serial: drive.info.serial.clone().unwrap_or_default(),
        path: drive.path.clone(),
    }
}

/// The largest unit that still gives enough of them.
fn choose_unit(total_bytes: u64, shards: u16, shape: Shape) -> u32 {
    let units = MIN_UNITS.max(MIN_UNITS_PER_SHARD * u64::from(shards) * u64::from(shape.wide()));
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

fn plan(block: &Superblock, order: Vec<Option<usize>>, created: bool, findings: Vec<Finding>) -> PoolPlan {
    let drive = |d: &DriveEntry| PlanDrive {
        uuid: d.uuid,
        path: d.path.clone(),
        serial: d.serial.clone(),
        units: d.units,
        state: d.state,
        fresh: d.fresh,
    };
    PoolPlan {
        pool: block.pool,
        incarnation: block.incarnation,
        unit_bytes: block.unit_bytes,
        shards: block.shards,
        parity: block.parity,
        deficit: block.deficit,
        sequence: block.sequence,
        drives: block.drives.iter().map(drive).collect(),
        order,
        created,
        findings,
        let_go: Vec::new(),
    }
}

/// Writes the superblock to every drive that is there, the newest of the table first.
async fn write_all(
    exec: &Handle,
    drives: &[Candidate],
    order: &[Option<usize>],
    block: &Superblock,
) -> Result<(), StoreError> {
    write_each(exec, drives, order, None, block).await.map_err(|(i, why)| failed(&drives[i], why))
}

/// The same, after the superblock in force where there is one; tells which drive could not be written.
async fn write_each(
    exec: &Handle,
    drives: &[Candidate],
    order: &[Option<usize>],
    in_force: Option<&Superblock>,
    block: &Superblock,
) -> Result<(), (usize, String)> {
    for (place, at) in order.iter().enumerate().rev() {
        let Some(i) = *at else { continue };
        let (file, index) = (drives[i].info.file, u16::try_from(place).expect("at most MAX_DRIVES"));
        let is_member =
            |old: &&Superblock| old.drives.get(place).is_some_and(|d| d.uuid == block.drives[place].uuid);
        let writing = async {
            match in_force.filter(is_member) {
                Some(old) => replace_superblock(exec, file, old, block, index).await,
                None => write_superblock(exec, file, block, index).await,
            }
        };
        match within(exec, LOOK_MS, writing).await {
            Some(Ok(())) => {}
            Some(Err(error)) => return Err((i, error.to_string())),
            None => return Err((i, "it does not answer".into())),
        }
    }
    Ok(())
}

fn failed(drive: &Candidate, why: impl std::fmt::Display) -> StoreError {
    StoreError::Drive(format!("{}: {why}", drive.path))
}

/// Goes on from the superblock in force to the next one, durably. That takes the other slot, so a drive that lacks the one in force where
/// it belongs gets it back first: cut short, no drive is without one.
pub(crate) async fn replace_superblock(
    exec: &Handle,
    file: FileId,
    in_force: &Superblock,
    next: &Superblock,
    index: u16,
) -> Result<(), dolmen_io::Error> {
    if !holds_superblock(exec, file, in_force, index).await {
        write_superblock(exec, file, in_force, index).await?;
    }
    write_superblock(exec, file, next, index).await
}

/// Writes the superblock of the drive with an index into the slot of its sequence number, durably.
pub(crate) async fn write_superblock(
    exec: &Handle,
    file: FileId,
    block: &Superblock,
    index: u16,
) -> Result<(), dolmen_io::Error> {
    let bytes = Superblock { index, ..block.clone() }.encode();
    let mut buf = exec.alloc(bytes.len()).await;
    buf.set_len(bytes.len());
    buf.copy_from_slice(&bytes);
    let at = (block.sequence % SUPERBLOCK_SLOTS) * bytes.len() as u64;
    exec.write_durable(file, at, vec![buf.freeze()]).await?;
    exec.flush(file).await
}

/// True when a drive has this superblock in its place, as the drive with that index.
pub(crate) async fn holds_superblock(exec: &Handle, file: FileId, block: &Superblock, index: u16) -> bool {
    let mut buf = exec.alloc(SUPERBLOCK_BYTES).await;
    buf.set_len(SUPERBLOCK_BYTES);
    let at = (block.sequence % SUPERBLOCK_SLOTS) * SUPERBLOCK_BYTES as u64;
    match within(exec, LOOK_MS, exec.read(file, at, buf)).await {
        Some(Ok(buf)) => Superblock::decode(&buf)
            .is_ok_and(|held| (held.pool, held.sequence, held.index) == (block.pool, block.sequence, index)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_scale_with_the_pool() {
        let single = Shape::of(1, 0);
        assert_eq!(choose_unit(1 << 40, 2, single), 64 << 20);
        assert_eq!(choose_unit(10 << 30, 2, single), 16 << 20);
        assert_eq!(choose_unit(1 << 30, 2, single), 2 << 20);
        assert_eq!(choose_unit(100 << 20, 2, single), 1 << 20);
        assert_eq!(choose_unit(10 << 30, 16, single), 2 << 20);
        assert_eq!(choose_unit(10 << 30, 2, Shape::of(5, 1)), 4 << 20);
    }
}
