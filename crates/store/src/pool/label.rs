//! What is written at the ends of a drive: ours, nothing, or somebody else's.

use super::signature;
use crate::StoreError;
use crate::format::superblock::{MAGIC, NotOurs, SUPERBLOCK_BYTES, Superblock};
use crate::format::{LABEL_BYTES, PAGE_BYTES};
use dolmen_io::exec::Handle;
use dolmen_io::{DriveInfo, FileId};
use dolmen_types::Uuid;

/// Where signatures live: this much at both ends. Bytes.
const ENDS_BYTES: u64 = 1 << 20;

/// Bytes that are read or written in one go.
const STEP_BYTES: u64 = 128 * 1024;

/// What a drive holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Nothing but zeros where signatures live.
    Blank,
    /// A drive of one of our pools.
    Ours {
        /// The pool.
        pool: Uuid,
        /// The drive.
        drive: Uuid,
    },
    /// A drive of one of our pools in a format that this program does not know, because one of the two is older.
    Other {
        /// Its format version.
        version: u32,
    },
    /// Once a drive of one of our pools: no superblock checks.
    Damaged,
    /// Something else, named when known.
    Foreign(String),
}

/// What a drive holds, as opening a pool needs to know it.
pub(super) enum Found {
    Blank,
    /// A superblock of a pool whose making was not finished, or a first one that was cut short: counts as blank, unless a sister
    /// drive knows better.
    BeingMade(Slots),
    Ours(Slots),
    /// Of a pool of another version.
    Other(u32),
    Damaged,
    Foreign(String),
    /// It does not tell: an error, or no answer.
    Unreadable(String),
}

/// What a superblock's slot holds.
#[derive(Clone, Debug)]
pub(super) enum Slot {
    /// Nothing of ours.
    Empty,
    /// Something of ours that does not check: torn, or rotten.
    Damaged,
    Holds(Box<Superblock>),
}

/// The two slots of a drive, of which one holds.
pub(super) type Slots = [Slot; 2];

fn newest(slots: &Slots) -> Option<&Superblock> {
    let held = slots.iter().filter_map(|s| if let Slot::Holds(block) = s { Some(&**block) } else { None });
    held.max_by_key(|block| (block.sequence, block.incarnation))
}

impl Found {
    /// The slots of a drive of a pool, finished or not.
    pub(super) fn slots(&self) -> Option<&Slots> {
        match self {
            Found::Ours(slots) | Found::BeingMade(slots) => Some(slots),
            _ => None,
        }
    }

    /// The superblocks of a drive of a pool that was finished.
    pub(super) fn superblocks(&self) -> impl Iterator<Item = &Superblock> {
        let slots = if let Found::Ours(slots) = self { slots.as_slice() } else { &[] };
        slots.iter().filter_map(|s| if let Slot::Holds(block) = s { Some(&**block) } else { None })
    }

    /// The superblock by which this drive is one of `pool`, whose making was finished on some drive.
    pub(super) fn membership(&self, pool: Uuid) -> Option<&Superblock> {
        match self {
            Found::Ours(slots) => newest(slots),
            Found::BeingMade(slots) => newest(slots).filter(|block| block.pool == pool),
            _ => None,
        }
    }
}

/// What a drive holds; reads only.
pub async fn identify_drive(exec: Handle, info: DriveInfo) -> Result<Identity, StoreError> {
    Ok(match look(&exec, &info).await? {
        Found::Blank | Found::BeingMade(_) => Identity::Blank,
        Found::Ours(slots) => newest(&slots).map_or(Identity::Damaged, |block| Identity::Ours {
            pool: block.pool,
            drive: block.drives[usize::from(block.index)].uuid,
        }),
        Found::Other(version) => Identity::Other { version },
        Found::Damaged => Identity::Damaged,
        Found::Foreign(what) => Identity::Foreign(what),
        Found::Unreadable(why) => return Err(StoreError::Drive(why)),
    })
}

/// Makes a drive blank: zeros its label area (with the wrapped keys in it) and its last MiB durably and gives the rest up.
pub async fn wipe_drive(exec: Handle, info: DriveInfo) -> Result<(), StoreError> {
    let (head, tail) = ends(info.size_bytes);
    let label = LABEL_BYTES.clamp(head.1, info.size_bytes - info.size_bytes % 4096);
    zero(&exec, info.file, head.0, label).await?;
    zero(&exec, info.file, tail.0, tail.1).await?;
    exec.flush(info.file).await.map_err(drive_error)?;
    if tail.0 > head.1 {
        // A drive that knows no discard is blank all the same.
        let _ = exec.discard(info.file, head.1, tail.0 - head.1).await;
    }
    Ok(())
}

fn drive_error(error: dolmen_io::Error) -> StoreError {
    StoreError::Drive(error.to_string())
}

/// First and last part of a drive: (offset, length) each, multiples of 4 KiB.
fn ends(size_bytes: u64) -> ((u64, u64), (u64, u64)) {
    let size = size_bytes - size_bytes % 4096;
    let head = size.min(ENDS_BYTES);
    let tail = (size - head).min(ENDS_BYTES);
    ((0, head), (size - tail, tail))
}

/// Reads both ends of a drive and says what is there.
pub(super) async fn look(exec: &Handle, info: &DriveInfo) -> Result<Found, StoreError> {
    let (head, tail) = ends(info.size_bytes);
    let first = match read(exec, info.file, head).await {
        Ok(first) => first,
        Err(error) => return readable_superblock(exec, info.file).await.ok_or(error),
    };
    if let Some(found) = superblock(&first) {
        return Ok(found);
    }
    let last = read(exec, info.file, tail).await?;
    if first.iter().chain(&last).all(|&b| b == 0) {
        return Ok(Found::Blank);
    }
    Ok(Found::Foreign(signature::name(&first, &last).into()))
}

/// What a drive of a pool holds whose first part can't be read whole: one superblock is enough. Nothing else is believed of such a drive.
async fn readable_superblock(exec: &Handle, file: FileId) -> Option<Found> {
    // What can't be read is not empty.
    let mut both = vec![0xff; 2 * SUPERBLOCK_BYTES];
    for (bytes, slot) in both.chunks_exact_mut(SUPERBLOCK_BYTES).zip(0..) {
        let place = (slot * SUPERBLOCK_BYTES as u64, SUPERBLOCK_BYTES as u64);
        if let Ok(read) = read(exec, file, place).await {
            bytes.copy_from_slice(&read);
        }
    }
    superblock(&both).filter(|found| matches!(found, Found::Ours(_)))
}

/// Which slots of a drive of a pool hold something that does not check, or can't be read.
pub(crate) async fn damaged_slots(exec: &Handle, file: FileId) -> Vec<usize> {
    let found = readable_superblock(exec, file).await;
    let slots = found.as_ref().and_then(Found::slots).into_iter().flatten().enumerate();
    slots.filter(|(_, slot)| matches!(slot, Slot::Damaged)).map(|(slot, _)| slot).collect()
}

/// The two superblocks, or what else of ours is there.
fn superblock(first: &[u8]) -> Option<Found> {
    let mut slots = [Slot::Empty, Slot::Empty];
    let (mut other, mut unsure, mut damaged) = (None, None, false);
    for (slot, bytes) in slots.iter_mut().zip(first.chunks_exact(SUPERBLOCK_BYTES)) {
        match Superblock::decode(bytes) {
            Ok(block) => *slot = Slot::Holds(Box::new(block)),
            Err(NotOurs::Version(version)) => other = other.max(Some(version)),
            Err(NotOurs::Unsure(version)) => (*slot, damaged, unsure) = (Slot::Damaged, true, Some(version)),
            Err(NotOurs::Damaged) if is_mark(bytes) => damaged = true,
            Err(NotOurs::Damaged) => (*slot, damaged) = (Slot::Damaged, true),
            Err(NotOurs::Unknown) if bytes.iter().any(|&b| b != 0) => *slot = Slot::Damaged,
            Err(NotOurs::Unknown) => {}
        }
    }
    // A drive that was ever in use has something in both slots.
    let begun = damaged && slots.iter().any(|slot| matches!(slot, Slot::Empty));
    let known = newest(&slots).map(|block| block.incarnation);
    // A version under a check that does not hold is damage where the other slot holds.
    match (other.or(unsure.filter(|_| known.is_none())), known) {
        (Some(version), _) => Some(Found::Other(version)),
        (None, Some(0)) => Some(Found::BeingMade(slots)),
        (None, Some(_)) => Some(Found::Ours(slots)),
        (None, None) if begun => Some(Found::BeingMade(slots)),
        (None, None) => damaged.then_some(Found::Damaged),
    }
}

/// True for what [`begin`] leaves in the first slot.
fn is_mark(bytes: &[u8]) -> bool {
    bytes.strip_prefix(MAGIC).is_some_and(|rest| rest.iter().all(|&b| b == 0))
}

/// Makes the label of a drive that is to be the pool's empty, but for a mark, so that a first superblock that is cut short is told
/// from what is not ours. The mark comes first: cut short, the drive must not look like somebody else's for what lies behind its label.
pub(super) async fn begin(exec: &Handle, file: FileId) -> Result<(), StoreError> {
    let mut buf = exec.alloc(PAGE_BYTES as usize).await;
    buf.set_len(PAGE_BYTES as usize);
    buf.fill(0);
    buf[..MAGIC.len()].copy_from_slice(MAGIC);
    exec.write_durable(file, 0, vec![buf.freeze()]).await.map_err(drive_error)?;
    let mark = u64::from(PAGE_BYTES);
    zero(exec, file, mark, LABEL_BYTES - mark).await
}

async fn read(exec: &Handle, file: FileId, (offset, len): (u64, u64)) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    let mut at = 0;
    while at < len {
        let step = usize::try_from((len - at).min(STEP_BYTES)).expect("at most STEP_BYTES");
        let mut buf = exec.alloc(step).await;
        buf.set_len(step);
        let buf = exec.read(file, offset + at, buf).await.map_err(|(e, _)| drive_error(e))?;
        bytes.extend_from_slice(&buf);
        at += step as u64;
    }
    Ok(bytes)
}

/// Writes zeros durably.
async fn zero(exec: &Handle, file: FileId, offset: u64, len: u64) -> Result<(), StoreError> {
    let mut at = 0;
    while at < len {
        let step = usize::try_from((len - at).min(STEP_BYTES)).expect("at most STEP_BYTES");
        let mut buf = exec.alloc(step).await;
        buf.set_len(step);
        buf.fill(0);
        exec.write_durable(file, offset + at, vec![buf.freeze()]).await.map_err(drive_error)?;
        at += step as u64;
    }
    Ok(())
}
