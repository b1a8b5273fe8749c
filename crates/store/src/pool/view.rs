//! Which superblock is in force, when drives say different things.
//!
//! A superblock is in force once every drive that it counts has it; until then nothing is done by it. An opening or an eviction
//! that was cut short leaves one on some drives only, and another set of drives may have gone on without it. Each writing takes
//! the slot that the one in force does not hold, so that this stays on every drive. So: the newest one counts of which no drive
//! that is there, and that it counts, shows that it never had it. It also shows that by holding a newer one that counts a drive which
//! the other has given up: whoever went on from the other would not, since such a drive only comes back under another name.
//!
//! Some superblocks are known to have been in force: the one that the data folder remembers, and the one before any that is found, since
//! that was written from it. A drive that such a one counts, and that has older ones alone, is *behind*: an older image of itself, say.
//! What it lacks says nothing about what came after, and it is as good as not there.

use super::label::{Found, Slot, Slots};
use crate::StoreError;
use crate::format::superblock::{SUPERBLOCK_SLOTS, Superblock};
use dolmen_types::Uuid;

/// A superblock, and since when the pool is known to have come so far.
pub(super) struct InForce {
    pub(super) block: Superblock,
    /// One with this number was in force.
    since: u64,
}

impl InForce {
    /// True when the superblock counts this drive, which is older than what was in force before.
    pub(super) fn is_behind(&self, drive: &Found) -> bool {
        is_behind(&self.block, drive, self.since)
    }
}

/// The superblock in force; `None` where no pool was finished. Of several pools that of the expected one, if it is there. One with the
/// number `at_least` is known to have been in force.
pub(super) fn in_force(
    found: &[Found],
    expected: Option<Uuid>,
    at_least: u64,
) -> Result<Option<InForce>, StoreError> {
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
    let since = |v: &Superblock| {
        let of_pool = views.iter().filter(|other| other.pool == v.pool).map(|other| other.sequence);
        at_least.max(of_pool.max().unwrap_or(0).saturating_sub(1))
    };
    let mut standing = views.iter().filter(|v| !refuted(v, found, since(v)));
    let Some(newest) = standing.next().or_else(|| views.first()) else { return Ok(None) };
    if let Some(other) = standing.find(|v| apart(v, newest)) {
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
    Ok(Some(InForce { since: since(newest), block: newest.clone() }))
}

/// The number of the newest superblock of a pool that any drive holds.
pub(super) fn highest(found: &[Found], pool: Uuid) -> u64 {
    let all = found.iter().flat_map(Found::superblocks).filter(|block| block.pool == pool);
    all.map(|block| block.sequence).max().unwrap_or(0)
}

/// True when the superblock after this one was on every drive that this one counts, all of which are there, and is damaged on all of
/// them: nobody went on without these drives.
pub(super) fn next_is_damaged(view: &Superblock, found: &[Found]) -> bool {
    let slot = slot(view.sequence + 1);
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

/// True when a drive that the superblock counts is there and shows that it never had it, and is not behind.
fn refuted(view: &Superblock, found: &[Found], since: u64) -> bool {
    found.iter().any(|drive| {
        let is_apart =
            counted(view, drive).is_some_and(|(own, _)| own.sequence > view.sequence && apart(view, own));
        is_apart || lacks(view, drive) && !is_behind(view, drive, since)
    })
}

/// The newest superblock of a drive that this one counts, and its slots.
fn counted<'a>(view: &Superblock, drive: &'a Found) -> Option<(&'a Superblock, &'a Slots)> {
    let own = drive.membership(view.pool).filter(|own| own.pool == view.pool)?;
    let uuid = own.drives[usize::from(own.index)].uuid;
    let counts = view.drives.iter().any(|d| d.uuid == uuid && d.state.counts());
    counts.then_some((own, drive.slots()?))
}

/// True when a drive that the superblock counts holds, in the place of this one, one that is not newer.
fn lacks(view: &Superblock, drive: &Found) -> bool {
    counted(view, drive).is_some_and(|(_, slots)| match &slots[slot(view.sequence)] {
        Slot::Empty => true,
        Slot::Damaged => false,
        Slot::Holds(held) => general(held) != *view && held.sequence <= view.sequence,
    })
}

/// True when a drive lacks the superblock, and the one with the number `since`, which was in force by then.
fn is_behind(view: &Superblock, drive: &Found, since: u64) -> bool {
    let Some((own, slots)) = counted(view, drive) else { return false };
    // What does not check may have been that one.
    let may_have_had = own.sequence + 1 == since && matches!(slots[slot(since)], Slot::Damaged);
    since <= view.sequence && own.sequence < since && !may_have_had && lacks(view, drive)
}

/// Where a superblock with this number is.
fn slot(sequence: u64) -> usize {
    usize::try_from(sequence % SUPERBLOCK_SLOTS).expect("few slots")
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
        assert_eq!(in_force(&found, None, 0).unwrap().unwrap().block, block(8, Some(2)));
        // Nobody of those that it counts was with the others: they went on apart.
        let found =
            [drive(1, [block(7, Some(2)), block(8, Some(2))]), drive(2, [block(5, None), block(6, Some(1))])];
        for at_least in [0, 8] {
            assert!(in_force(&found, None, at_least).is_err());
        }
    }

    /// What a drive lacks speaks against a superblock, unless an older one that was in force counts the drive, which lacks that too.
    #[test]
    fn one_that_is_behind_refutes_nothing() {
        let current = |index| drive(index, [block(7, None), block(8, None)]);
        let seen = |old: [Superblock; 2], at_least| {
            let found = [current(0), current(1), drive(2, old)];
            let seen = in_force(&found, None, at_least).unwrap().unwrap();
            (seen.block.sequence, found.iter().map(|drive| seen.is_behind(drive)).collect::<Vec<_>>())
        };
        let (one, two) = ([block(6, None), block(7, None)], [block(5, None), block(6, None)]);
        // The writing of 8 was cut short, for all that is known.
        for at_least in [0, 7] {
            assert_eq!(seen(one.clone(), at_least), (7, vec![false; 3]));
        }
        assert_eq!(seen(one.clone(), 8), (8, vec![false, false, true]));
        // 8 was written from 7.
        for at_least in [0, 7, 8] {
            assert_eq!(seen(two.clone(), at_least), (8, vec![false, false, true]));
        }
        // Nobody has what was in force.
        assert_eq!(seen(one, 9), (7, vec![false; 3]));
        // What has rotten may have been that.
        let mut rotten = drive(2, [block(6, None), block(7, None)]);
        if let Found::Ours(slots) = &mut rotten {
            slots[0] = Slot::Damaged;
        }
        let found = [current(0), current(1), rotten];
        let seen = in_force(&found, None, 8).unwrap().unwrap();
        assert!(seen.block.sequence == 8 && !found.iter().any(|drive| seen.is_behind(drive)));
    }
}
