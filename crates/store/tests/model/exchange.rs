//! Drives that come and go on purpose: one is added, one is emptied and leaves, one is given up at once, one may stay after all.

use crate::common::*;
use crate::run::Run;
use dolmen_sim::DriveSpec;
use dolmen_store::*;

/// Drives that a pool may get.
const FRESH: [&str; 12] = ["e0", "e1", "e2", "e3", "e4", "e5", "e6", "e7", "e8", "e9", "ea", "eb"];

/// Drives in service at most.
const MOST: usize = 6;

impl Run {
    /// One drive more, or one less.
    pub(crate) fn exchange(&mut self) {
        match self.below(5) {
            0 | 1 => self.add(),
            2 => self.remove(),
            3 => self.give_up(),
            _ => self.keep(),
        }
    }

    /// Drives that have left are not named any more; they may come back one day.
    pub(crate) fn forget_gone(&mut self) {
        let standing = self.node.owner.drives();
        let lost = self.lost;
        let (shelf, exchanged) = (&mut self.shelf, &mut self.exchanged);
        let Setup { drives, added, .. } = &mut self.setup;
        drives.retain(|drive| {
            let now = standing.iter().rfind(|d| d.path == drive.0).map(|d| d.state);
            let gone = now == Some(DriveState::Gone) && lost != Some(drive.0);
            if gone {
                added.retain(|name| *name != drive.0);
                shelf.push(*drive);
                exchanged.1 += 1;
            }
            !gone
        });
    }

    /// A blank drive, or one that was the pool's before, joins; now and then the power goes meanwhile.
    fn add(&mut self) {
        if self.setup.drives.len() >= MOST {
            return;
        }
        let back = if self.below(2) == 0 { self.shelf.pop() } else { None };
        let Some(drive) = back.or_else(|| self.buy()) else { return };
        if self.below(4) == 0 {
            // Whoever adds a drive has written down that it is to be named, whatever comes of it.
            let turns = self.below(60);
            self.node.add_drive_for(drive.0, turns);
            self.setup.drives.push(drive);
            self.setup.added.push(drive.0);
            self.crash();
            return;
        }
        let joined = self.node.add_drive(drive.0);
        assert_eq!(joined, Ok(()), "{drive:?} of {:?}", self.node.owner.drives());
        self.setup.drives.push(drive);
        self.setup.added.push(drive.0);
        self.exchanged.0 += 1;
    }

    /// A drive as large as one of the others, or a little more.
    fn buy(&mut self) -> Option<(&'static str, u64)> {
        let name = *FRESH.get(self.bought)?;
        self.bought += 1;
        let like = self.setup.drives[0].1;
        let size = like + self.below(3) * u64::from(self.setup.unit_bytes) * 5;
        self.world.add_drive(NODE, path(name), DriveSpec::file(size));
        Some((name, size))
    }

    /// The place of some drive in a state.
    fn some(&mut self, state: DriveState) -> Option<u16> {
        let standing = self.node.owner.drives();
        let all: Vec<u16> = (0..).zip(&standing).filter(|(_, d)| d.state == state).map(|(i, _)| i).collect();
        let pick = self.below(all.len().max(1) as u64) as usize;
        all.get(pick).copied()
    }

    /// A drive is to be emptied. What does not fit without it is refused.
    fn remove(&mut self) {
        let whole = self.node.is_protected() && self.lost_is_gone();
        if let Some(drive) = self.some(DriveState::In)
            && self.node.owner.remove_drive(drive).is_ok()
        {
            self.leaves_whole = whole;
        }
    }

    /// A drive is given up at once.
    fn give_up(&mut self) {
        if !self.node.is_protected() || !self.lost_is_gone() {
            return;
        }
        if let Some(drive) = self.some(DriveState::In)
            && self.node.owner.force_out(drive, "given up".into()).is_ok()
        {
            self.losses += 1;
            self.given_up = Some(drive);
        }
    }

    /// False while a drive that is lost, or was given up, is known to be so to us alone.
    fn lost_is_gone(&self) -> bool {
        let standing = self.node.owner.drives();
        let state = |name: &str| standing.iter().rfind(|d| d.path == name).map(|d| d.state);
        let gone = |state: Option<DriveState>| state.is_none_or(|s| s == DriveState::Gone);
        self.lost.is_none_or(|name| gone(state(name)))
            && self.given_up.is_none_or(|drive| gone(standing.get(usize::from(drive)).map(|d| d.state)))
    }

    fn keep(&mut self) {
        if let Some(drive) = self.some(DriveState::Leaving) {
            self.node.owner.keep_drive(drive);
        }
    }

    /// True when one more drive may be lost: all is protected, or was when a drive began to leave.
    pub(crate) fn can_lose(&self) -> bool {
        let states: Vec<DriveState> = self.node.owner.drives().iter().map(|d| d.state).collect();
        let count = |state| states.iter().filter(|s| **s == state).count();
        let gone =
            self.given_up.is_none_or(|drive| states.get(usize::from(drive)) == Some(&DriveState::Gone));
        (gone && self.node.is_protected())
            || (gone
                && self.leaves_whole
                && count(DriveState::Out) == 0
                && count(DriveState::Leaving) > 0
                && count(DriveState::In) > usize::from(self.setup.parity))
    }
}
