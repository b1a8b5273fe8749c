//! Drives that fail, vanish, hang, rot and come back.

use crate::common::*;
use crate::run::Run;
use dolmen_sim::DriveFaults;
use dolmen_store::*;

impl Run {
    /// Loses a drive in the middle of everything, if the pool can spare one.
    pub(crate) fn lose(&mut self) {
        if self.setup.parity == 0 || self.lost.is_some() || !self.can_lose() {
            return;
        }
        self.leaves_whole = false;
        let pick = self.below(self.setup.drives.len() as u64) as usize;
        let name = self.setup.drives[pick].0;
        match self.below(4) {
            0 => {
                let faults = DriveFaults { write_ppm: 1_000_000, ..DriveFaults::default() };
                self.world.set_faults(NODE, path(name), faults);
            }
            1 => {
                let faults = DriveFaults { flush_ppm: 1_000_000, ..DriveFaults::default() };
                self.world.set_faults(NODE, path(name), faults);
            }
            2 => self.world.remove_drive(NODE, path(name)),
            _ => {
                let slow =
                    DriveFaults { latency_ns: (8_000_000_000, 9_000_000_000), ..DriveFaults::default() };
                self.world.set_faults(NODE, path(name), slow);
            }
        }
        self.losses += 1;
        self.lost = Some(name);
    }

    /// While the node is down a drive is taken out or put back.
    pub(crate) fn shuffle(&mut self) {
        if let Some(name) = self.lost {
            if self.below(2) == 0 {
                self.world.return_drive(NODE, path(name));
                self.world.set_faults(NODE, path(name), DriveFaults::default());
                self.lost = None;
            } else {
                self.world.remove_drive(NODE, path(name));
            }
        }
    }

    /// While the node is down some sectors of one drive become unreadable, where everything can be had without that drive. Which one.
    pub(crate) fn spoil(&mut self) -> &'static str {
        let name = self.some_drive().0;
        self.spoil_on(name);
        name
    }

    fn some_drive(&mut self) -> (&'static str, u64) {
        let pick = self.below(self.setup.drives.len() as u64) as usize;
        self.setup.drives[pick]
    }

    fn spoil_on(&mut self, name: &'static str) {
        for _ in 0..=self.below(6) {
            let at = self.some_sector(name);
            self.world.spoil(NODE, path(name), at, 512);
            self.spoilt += 1;
        }
    }

    /// Offset of some sector of a drive's units.
    fn some_sector(&mut self, name: &str) -> u64 {
        let size = self.setup.drives.iter().find(|d| d.0 == name).unwrap().1;
        (4 << 20) + self.below((size - (4 << 20)) / 512) * 512
    }

    /// Some sectors of one drive rot or become unreadable; a round of scrubbing later another drive may be lost.
    pub(crate) fn decay(&mut self) {
        if self.setup.parity == 0 || self.lost.is_some() || !self.node.is_protected() {
            return;
        }
        // What is under way may be looked at before it is there.
        self.settle();
        self.node.checkpoint();
        if !self.node.is_protected() {
            return;
        }
        let name = self.some_drive().0;
        if self.below(2) == 0 {
            self.spoil_on(name);
        } else {
            for _ in 0..=self.below(6) {
                let at = self.some_sector(name) + self.below(500);
                self.world.overwrite(NODE, path(name), at, b"rot");
                self.rotten += 1;
            }
        }
        let reports = self.node.stores.iter().map(|s| s.scrub().unwrap());
        let round = 1 + reports.map(|r| r.running.max(r.finished)).max().unwrap();
        for store in &mut self.node.stores {
            store.set_scrub(ScrubPlan { round, paused: false, bytes_per_s: 0 });
        }
        for _ in 0..200_000 {
            let reports: Vec<ScrubReport> = self.node.stores.iter().map(|s| s.scrub().unwrap()).collect();
            assert!(reports.iter().all(|r| r.lost == 0), "{reports:?}");
            if reports.iter().all(|r| r.finished == round) && self.node.is_protected() {
                // What holds nothing that counts was not looked at.
                self.world.unspoil(NODE, path(name));
                return;
            }
            self.node.turn();
            self.collect();
        }
        panic!("scrubbing does not end: {:?}", self.node.space());
    }
}
