//! Which superblock is in force, when drives say different things.
//!
//! A superblock is in force once every drive that it counts has it; until then nothing is done by it. An opening or an eviction
//! that was cut short leaves one on some drives only, and another set of drives may have gone on without it. Each writing takes
//! the slot that the one in force does not hold, so that this stays on every drive. So: the newest one counts of which no drive
//! that is there, and that it counts, shows that it never had it. It also shows that by holding a newer one that counts a drive which
//! the other has given up: whoever went on from the other would not, since such a drive only comes back under another name.

use super::label::{Found, Slot};
use crate::StoreError;
use crate::format::superblock::{SUPERBLOCK_SLOTS, Superblock};
use dolmen_types::Uuid;

/// The superblock in force; `None` where no pool was finished. Of several pools that of the expected one, if it is there.
pub(super) fn in_force(found: &[Found], expected: Option<Uuid>) -> Result<Option<Superblock>, StoreError> {
    let all = || found.iter().flat_map(Found::superblocks);
    let pool = expected.filter(|pool| all().any(|block| block.pool == *pool));
    let mut views: Vec<Superblock> = Vec::new();
    for block in all().filter(|block| pool.is_none_or(|pool| block.pool == pool)) {
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

/// True when the superblock after this one was on every drive that this one counts, all of which are there, and is damaged on all of
/// them: nobody went on without these drives.
pub(super) fn next_is_damaged(view: &Superblock, found: &[Found]) -> bool {
    let slot = usize::try_from((view.sequence + 1) % SUPERBLOCK_SLOTS).expect("few slots");
    view.drives.iter().filter(|d| d.state.counts()).all(|drive| {
        found.iter().any(|there| {
            let own = there.membership(view.pool);
            let is_it = own.is_some_and(|own| own.drives[usize::from(own.index)].uuid == drive.uuid);
            is_it && there.slots().is_some_and(|slots| matches!(slots[slot], Slot::Damaged))
        })
    })
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
        if own.sequence > view.sequence && apart(view, own) {
            return true;
        }
        match &slots[slot] {
            Slot::Empty => true,
            Slot::Damaged => false,
            Slot::Holds(held) => general(held) != *view && held.sequence <= view.sequence,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DriveState;
    use crate::format::superblock::DriveEntry;

    /// A superblock of three drives, of which one may be out.
    fn block(sequence: u64, out: Option<usize>) -> Superblock {
        let entry = |i: usize| DriveEntry {
            uuid: Uuid([u8::try_from(i + 1).unwrap(); 16]),
            units: 100,
            state: if out == Some(i) { DriveState::Out } else { DriveState::In },
            fresh: false,
            serial: String::new(),
            path: format!("d{i}"),
        };
        Superblock {
            sequence,
            pool: Uuid([9; 16]),
            index: 0,
            incarnation: 3,
            shards: 1,
            parity: 1,
            deficit: 0,
            unit_bytes: 1 << 20,
            drives: (0..3).map(entry).collect(),
        }
    }

    fn drive(index: u16, blocks: [Superblock; 2]) -> Found {
        let mut slots = [Slot::Empty, Slot::Empty];
        for block in blocks {
            let slot = usize::try_from(block.sequence % SUPERBLOCK_SLOTS).unwrap();
            slots[slot] = Slot::Holds(Box::new(Superblock { index, ..block }));
        }
        Found::Ours(slots)
    }

    /// The giving up of one drive was cut short on another one, which then was away while the others went on without it.
    #[test]
    fn what_was_never_in_force_does_not_come_back_with_a_drive() {
        let on = |index| drive(index, [block(7, Some(2)), block(8, Some(2))]);
        let found = [on(0), on(1), drive(2, [block(5, None), block(6, Some(1))])];
        assert_eq!(in_force(&found, None).unwrap(), Some(block(8, Some(2))));
        // Nobody of those that it counts was with the others: they went on apart.
        let found =
            [drive(1, [block(7, Some(2)), block(8, Some(2))]), drive(2, [block(5, None), block(6, Some(1))])];
        assert!(in_force(&found, None).is_err());
    }
}
