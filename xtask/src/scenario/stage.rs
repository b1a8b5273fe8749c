//! What a scenario acts on: the guest, and what its host connects to.

use std::time::Duration;

use anyhow::Result;

use super::brick::Brick;
use crate::vm::{Guest, Job, Outcome};

/// Guest and target, shared by the scenarios of a group.
pub(crate) struct Stage {
    pub(crate) guest: Guest,
    pub(crate) brick: Brick,
    /// Ports of this machine's loopback that lead to the guest's own target, in the order of `GUEST_PORTS`.
    pub(crate) initiator_ports: Vec<u16>,
}

impl Stage {
    /// Runs a script in the guest that has to succeed; `host.sh` and the target's address are at hand.
    pub(crate) fn host(&mut self, script: &str, seconds: u64) -> Result<String> {
        let script = format!("{}{script}", self.brick.preamble());
        self.guest.check(&script, Duration::from_secs(seconds))
    }

    /// Starts a script in the guest and returns at once.
    pub(crate) fn host_starts(&mut self, script: &str) -> Result<Job> {
        let script = format!("{}{script}", self.brick.preamble());
        self.guest.start(&script)
    }

    /// Waits for a script that was started.
    pub(crate) fn host_ends(&mut self, job: Job, seconds: u64) -> Result<Outcome> {
        self.guest.wait(job, Duration::from_secs(seconds))
    }

    /// A clean start for the next scenario: nothing mounted, nothing connected, an empty kernel log.
    pub(crate) fn reset(&mut self) -> Result<()> {
        let script = "sync; umount /mnt 2>/dev/null; killall -q fio tcpdump; nvme disconnect-all; nbd-client -d /dev/nbd0 2>/dev/null; dmesg -c >/dev/null; true";
        self.guest.check(script, Duration::from_secs(60))?;
        Ok(())
    }

    /// Prints what may help to understand a failure.
    pub(crate) fn explain(&mut self) {
        if let Ok(outcome) = self.guest.run("dmesg | tail -n 20", Duration::from_secs(20)) {
            println!("--- the guest's kernel says:\n{}", outcome.output);
        }
        let log = self.brick.log();
        let lines: Vec<&str> = log.lines().collect();
        if !lines.is_empty() {
            println!("--- the daemon says:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"));
        }
    }

    /// Powers the guest off; the daemon ends with the stage.
    pub(crate) fn finish(self) -> Result<()> {
        self.guest.shutdown()
    }
}
