//! Which superblock is in force, when drives say different things.
//!
//! A superblock is in force once every drive that it counts has it; until then nothing is done by it. An opening or an eviction
//! that was cut short leaves one on some drives only, and another set of drives may have gone on without it. Each writing takes
//! the slot that the one in force does not hold, so that this stays on every drive. So: the newest one counts of which no drive
//! that is there, and that it counts, shows that it never had it.

use super::label::{Found, Slot};
use crate::StoreError;
use crate::format::superblock::{SUPERBLOCK_SLOTS, Superblock};

/// The superblock in force; `None` where no pool was finished.
pub(super) fn in_force(found: &[Found]) -> Result<Option<Superblock>, StoreError> {
    let mut views: Vec<Superblock> = Vec::new();
    for block in found.iter().flat_map(Found::superblocks) {
        let view = general(block);
        if view.incarnation > 0 && !views.contains(&view) {
            views.push(view);
        }
    }
    views.sort_by_key(|v| std::cmp::Reverse((v.sequence, v.incarnation)));
    let mut standing = views.iter().filter(|v| !refuted(v, found));
    let newest = standing.next().or_else(|| views.first()).cloned();
    if let Some(newest) = &newest
        && let Some(other) = standing.find(|v| apart(v, newest))
    {
        let path = |v: &Superblock| {
            let counted = v.drives.iter().filter(|d| d.state.counts()).map(|d| d.path.as_str());
            counted.collect::<Vec<_>>().join(", ")
        };
        return Err(StoreError::Refused(format!(
            "the drives of pool {} went on apart from each other: once without all but {}, and once without all but {}; \
             nothing was written. Decide which ones count and name those alone",
            newest.pool,
            path(newest),
            path(other)
        )));
    }
    Ok(newest)
}

/// True when one superblock has given up a drive that the other counts. A drive that was out only comes back under another name,
/// so neither can have followed the other.
fn apart(one: &Superblock, other: &Superblock) -> bool {
    let gave_up = |uuid| one.drives.iter().any(|d| d.uuid == uuid && !d.state.counts());
    one.pool == other.pool && other.drives.iter().any(|d| d.state.counts() && gave_up(d.uuid))
}

/// The same superblock whichever drive it is on.
fn general(block: &Superblock) -> Superblock {
    Superblock { index: 0, ..block.clone() }
}

/// True when a drive that the superblock counts is there and holds, in the place of this one, one that is not newer.
fn refuted(view: &Superblock, found: &[Found]) -> bool {
    let slot = usize::try_from(view.sequence % SUPERBLOCK_SLOTS).expect("few slots");
    found.iter().any(|drive| {
        let (Some(slots), Some(own)) = (drive.slots(), drive.membership(view.pool)) else { return false };
        let uuid = own.drives[usize::from(own.index)].uuid;
        if own.pool != view.pool || !view.drives.iter().any(|d| d.uuid == uuid && d.state.counts()) {
            return false;
        }
        match &slots[slot] {
            Slot::Empty => true,
            Slot::Damaged => false,
            Slot::Holds(held) => general(held) != *view && held.sequence <= view.sequence,
        }
    })
}
