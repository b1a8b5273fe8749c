//! Copies, fused pairs and reservations, one call each.

use super::{Result, Session, SessionError};
use crate::{Acquisition, BlockRange, Command, Namespace, Registration, Release, ReservationReport};

/// Room for 63 registrants behind the report's header. Bytes.
const REPORT_BYTES: usize = 4096;

impl Session {
    /// Copies blocks within a namespace: `sources`, one behind the other, to block `destination` on.
    ///
    /// # Errors
    /// What the command answers; [`SessionError::Submit`] for ranges that no command can have.
    pub fn copy(&mut self, ns: &Namespace, destination: u64, sources: &[BlockRange]) -> Result<()> {
        let command = Command::copy(self.io.pool(), ns.nsid, destination, sources);
        self.composed(command)
    }

    /// Compares what is stored from block `lba` on with `compare` and, if it is the same, writes `write` there, in one.
    ///
    /// # Errors
    /// [`Failure::Status`](crate::Failure::Status) with Compare Failure when they differ; what the command answers;
    /// [`SessionError::Length`] unless both are whole blocks, and as long.
    pub fn compare_and_write(
        &mut self,
        ns: &Namespace,
        lba: u64,
        compare: &[u8],
        write: &[u8],
    ) -> Result<()> {
        let block = usize::try_from(ns.block_bytes).expect("a block is at most 64 KiB");
        if compare.len() != write.len() || !write.len().is_multiple_of(block) {
            return Err(SessionError::Length);
        }
        let blocks = u32::try_from(write.len() / block).map_err(|_| SessionError::Length)?;
        let (mut old, mut new) = (self.buffer(compare.len())?, self.buffer(write.len())?);
        old.copy_from_slice(compare);
        new.copy_from_slice(write);
        self.composed(Ok(Command::CompareAndWrite { nsid: ns.nsid, lba, blocks, compare: old, write: new }))
    }

    /// Marks blocks as unreadable until they are written again.
    ///
    /// # Errors
    /// What the command answers.
    pub fn write_uncorrectable(&mut self, ns: &Namespace, lba: u64, blocks: u32) -> Result<()> {
        self.composed(Command::write_uncorrectable(ns.nsid, lba, blocks))
    }

    /// Has the controller read blocks and check them.
    ///
    /// # Errors
    /// What the command answers.
    pub fn verify(&mut self, ns: &Namespace, lba: u64, blocks: u32) -> Result<()> {
        self.composed(Ok(Command::Verify { nsid: ns.nsid, lba, blocks }))
    }

    /// Changes this host's registration.
    ///
    /// # Errors
    /// What the command answers.
    pub fn register(&mut self, ns: &Namespace, what: &Registration) -> Result<()> {
        let command = Command::register(self.io.pool(), ns.nsid, what);
        self.composed(command)
    }

    /// Takes a reservation, or preempts others.
    ///
    /// # Errors
    /// What the command answers; Reservation Conflict when somebody else holds it.
    pub fn acquire(&mut self, ns: &Namespace, what: &Acquisition) -> Result<()> {
        let command = Command::acquire(self.io.pool(), ns.nsid, what);
        self.composed(command)
    }

    /// Gives a reservation back.
    ///
    /// # Errors
    /// What the command answers.
    pub fn release(&mut self, ns: &Namespace, what: &Release) -> Result<()> {
        let command = Command::release(self.io.pool(), ns.nsid, what);
        self.composed(command)
    }

    /// Who is registered with a namespace, and who holds it.
    ///
    /// # Errors
    /// What the command answers.
    pub fn reservations(&mut self, ns: &Namespace) -> Result<ReservationReport> {
        let buf = self.buffer(REPORT_BYTES)?;
        let command = Command::reservation_report(ns.nsid, buf).map_err(SessionError::Submit)?;
        let page = self.data(command)?;
        ReservationReport::parse(&page).map_err(SessionError::Malformed)
    }

    fn composed(&mut self, command: std::result::Result<Command, crate::SubmitError>) -> Result<()> {
        self.execute(command.map_err(SessionError::Submit)?).map(|_| ())
    }
}
