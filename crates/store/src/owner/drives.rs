//! What an operator does with the drives of an open pool: looks at them, adds one, takes one away.

use super::PoolOwner;
use super::reserve::{Reserve, usable};
use crate::columns::{Shape, drive_bit};
use crate::format::superblock::MAX_DRIVES;
use crate::message::Joined;
use crate::pool::{JoinTo, NewDrive};
use crate::{DriveState, LabelScrub, ToShard};
use dolmen_types::{ByteSize, ShardId, Uuid};

/// A drive as `dolmen drive list` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriveStanding {
    /// Its identity in the pool.
    pub uuid: Uuid,
    /// Where it is, or was.
    pub path: String,
    /// Its serial number, if it tells one.
    pub serial: String,
    /// Units on it.
    pub units: u32,
    /// Where it stands.
    pub state: DriveState,
    /// Why it is out, if that is known.
    pub reason: Option<String>,
    /// What is wrong with it although it serves, and what comes of that.
    pub ailment: Option<String>,
    /// Units that nobody holds.
    pub free_units: u32,
    /// Units that shards hold: for a drive that is out or leaving, what is still to be moved.
    pub held_units: u32,
}

impl PoolOwner {
    /// Begins to empty a drive so that it can be taken away; refused, with the reason, when it is not in service or the pool can't
    /// hold its data without it.
    pub fn remove_drive(&mut self, drive: u16) -> Result<(), String> {
        match self.membership.state(drive) {
            DriveState::In => {}
            DriveState::Leaving => return Ok(()),
            DriveState::Out => {
                return Err("it is out already; what it held is being made good elsewhere, and then it leaves by itself".into());
            }
            DriveState::Gone => return Err("it is no drive of the pool any more".into()),
        }
        self.fits_without(drive)?;
        if self.membership.leave(drive) {
            return Ok(());
        }
        Err(format!(
            "the pool was made to lose {} at a time, and takes one drive more than that in service; add one first",
            drives(self.members.shape.parity.into())
        ))
    }

    /// Gives a drive up at once, as if it had failed: what it holds is made good from the others. Refused when the pool can't. Should another
    /// one fail before this is written down, the drive stays after all: it is leaving until it is out, and in service again then.
    pub fn force_out(&mut self, drive: u16, reason: String) -> Result<(), String> {
        match self.membership.state(drive) {
            DriveState::Out => return Ok(()),
            DriveState::Gone => return Err("it is no drive of the pool any more".into()),
            DriveState::In | DriveState::Leaving => {}
        }
        if !self.can_spare(drive) {
            return Err(
                "the pool can't make good what this drive holds: it has no parity, another drive is out, or \
                        re-protection is not through"
                    .into(),
            );
        }
        self.membership.give_up(drive, reason);
        Ok(())
    }

    /// Keeps a drive that is being emptied; false when it is not.
    pub fn keep_drive(&mut self, drive: u16) -> bool {
        self.membership.stay(drive)
    }

    /// What [`prepare_drive`](crate::prepare_drive) needs to know of the pool. `seed` is fresh randomness.
    #[must_use]
    pub fn join_to(&self, seed: [u8; 32]) -> JoinTo {
        JoinTo { block: self.membership.told().clone(), seed }
    }

    /// Takes a drive that was made ready into the pool. Before that every core has to have a handle of it
    /// ([`Store::attach_drive`](crate::Store::attach_drive)). What comes of it tells [`PoolOwner::take_joined`].
    pub fn add_drive(&mut self, drive: NewDrive) -> Result<(), String> {
        if !self.ready() {
            return Err("the pool is still recovering".into());
        }
        self.membership.join(drive)
    }

    /// Takes what has come of the last [`PoolOwner::add_drive`]: the drive's identity once it is in service, or why it did not join.
    pub fn take_joined(&mut self) -> Option<Result<Uuid, String>> {
        self.membership.take_joined()
    }

    /// Reads the superblocks of all drives, and gives them new ones where one is not what was written.
    pub fn scrub(&mut self) {
        self.membership.scrub();
    }

    /// Takes what the last [`PoolOwner::scrub`] has found.
    pub fn take_scrubbed(&mut self) -> Option<LabelScrub> {
        self.membership.take_scrubbed()
    }

    /// The handle of a drive that is out or gone is about to be closed.
    pub fn detach_drive(&mut self, drive: u16) {
        self.membership.detach(drive);
    }

    /// Number of the superblock in force: remembered elsewhere, it tells drives that were left behind (see
    /// [`PoolOptions::at_least`](crate::PoolOptions)).
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.membership.sequence()
    }

    /// The drives, by their place in the pool.
    #[must_use]
    pub fn drives(&self) -> Vec<DriveStanding> {
        let standing = |(drive, known): (u16, &crate::format::superblock::DriveEntry)| DriveStanding {
            uuid: known.uuid,
            path: known.path.clone(),
            serial: known.serial.clone(),
            units: known.units,
            state: self.membership.shown(drive),
            reason: self
                .membership
                .reason(drive)
                .filter(|_| known.state == DriveState::Out)
                .map(str::to_owned),
            ailment: self.ailments.get(&drive).filter(|_| known.state.counts()).cloned(),
            free_units: self.free.get(usize::from(drive)).map_or(0, |_| self.free_on(usize::from(drive))),
            held_units: self.held_units.get(usize::from(drive)).copied().unwrap_or(0),
        };
        (0u16..).zip(&self.membership.told().drives).map(standing).collect()
    }

    /// A drive has joined: its units are there to be leased, and the shards learn of it before anybody counts it.
    pub(super) fn take_in(&mut self, joined: Joined) {
        let (place, units) = (usize::from(joined.drive), joined.units as usize);
        let len = self.held.len().max(place + 1);
        self.held.resize(len, Vec::new());
        self.held_units.resize(len, 0);
        self.free.resize_with(len, Default::default);
        self.held[place] = vec![false; units];
        self.held_units[place] = 0;
        self.free[place] = (0..joined.units).collect();
        self.ailments.remove(&joined.drive);
        for shard in (0u16..).take(self.shards.len()).map(ShardId) {
            self.out.push((shard, ToShard::Joined(joined)));
        }
    }

    /// Much of what a drive gives is wrong, or can't be read. It is emptied, and never put out for that: other columns may be rotten where
    /// nobody has looked yet, and this drive the only one that still gives a block. Where the others are too few or too small it stays.
    pub(super) fn reads_badly(&mut self, drive: u16, what: String) {
        if !self.ready() || !self.membership.state(drive).counts() {
            return;
        }
        let text = match self.remove_drive(drive) {
            Ok(()) => format!("{what}; it is being emptied"),
            Err(why) => format!("{what}; it can't be emptied, and stays: {why}"),
        };
        self.ailments.insert(drive, text);
    }

    /// Fewer drives are in service: those that are leaving stay when the others are too few, or too small, without them (one may have failed
    /// when it was already asked for, and not yet written down, that another leaves). Whoever wants them to leave says so again when there
    /// is another drive.
    pub(super) fn keep_what_is_needed(&mut self) {
        let leaving: Vec<u16> =
            (0u16..).take(MAX_DRIVES).filter(|&d| self.members.leaving & drive_bit(d) != 0).collect();
        let few = self.active().count() < 1 + usize::from(self.membership.told().parity);
        for drive in leaving {
            if few || self.fits_without(drive).is_err() {
                self.membership.stay(drive);
            }
        }
    }

    /// Refuses to take a drive away whose data would not fit on the others.
    fn fits_without(&self, drive: u16) -> Result<(), String> {
        let shards = u32::try_from(self.shards.len()).expect("at most MAX_SHARDS");
        let remain: Vec<u32> = self
            .active()
            .filter(|&i| i != usize::from(drive))
            .map(|i| u32::try_from(self.held[i].len()).expect("units fit 32 bits"))
            .collect();
        let shape = Shape::of(remain.len().max(1), self.membership.told().parity);
        let reserve = Reserve::of(usable(&remain, shape), self.unit_bytes, shards, shape);
        let live: u64 = self.shards.iter().map(|s| s.footprint_bytes).sum();
        let (data, room) = (self.members.shape.usable(live), shape.usable(reserve.capacity_bytes));
        if data <= room {
            return Ok(());
        }
        Err(format!(
            "the other {} hold {} of data at most, and the pool has {}; delete something or add a drive first",
            drives(remain.len()),
            ByteSize(room),
            ByteSize(data)
        ))
    }
}

fn drives(count: usize) -> String {
    if count == 1 { "1 drive".into() } else { format!("{count} drives") }
}
