//! Errors of the store: few kinds to match on, a text that says what was tried on what.

use dolmen_types::{Lba, LineId, Seq};
use std::fmt;

/// Why a request of the store failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// No space for host data, and cleaning can't make any.
    Full,
    /// The shard stopped after a failed write or flush; reads go on.
    Stopped {
        /// What happened, for people.
        reason: String,
    },
    /// A drive could not read what it holds.
    Medium {
        /// Which drive and offset, and what the system said.
        reason: String,
    },
    /// A block's bytes are not those that were written.
    Integrity {
        /// The line.
        line: LineId,
        /// The block.
        lba: Lba,
    },
    /// A page of the map does not check; reads through it fail, nothing else does.
    Map {
        /// The line whose map it is.
        line: LineId,
        /// Which page, and what is wrong.
        reason: String,
    },
    /// The line has no such snapshot.
    NoSnapshot {
        /// The line.
        line: LineId,
        /// The snapshot asked for.
        at: Seq,
    },
    /// The line does not exist.
    NoLine(LineId),
    /// The line is encrypted, and its key is not here.
    NoKey(LineId),
    /// The drives do not hold a pool that can be opened; nothing was changed.
    Refused(String),
    /// What the drives hold contradicts itself; nothing was changed.
    Corrupt(String),
    /// The driver refused or lost the device while opening.
    Drive(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Full => f.write_str("the pool is full; delete or trim something, or add a drive"),
            StoreError::Stopped { reason } => write!(f, "the store has stopped taking writes: {reason}"),
            StoreError::Medium { reason } => write!(f, "a drive could not be read: {reason}"),
            StoreError::Integrity { line, lba } => {
                write!(f, "block {lba} of line {line} is not what was written (its check differs)")
            }
            StoreError::Map { line, reason } => write!(f, "the map of line {line} is damaged: {reason}"),
            StoreError::NoSnapshot { line, at } => write!(f, "line {line} has no snapshot {at}"),
            StoreError::NoLine(line) => write!(f, "line {line} does not exist"),
            StoreError::NoKey(line) => {
                write!(
                    f,
                    "line {line} is encrypted and its key is not here; name the cluster key that it was wrapped by"
                )
            }
            StoreError::Refused(text) | StoreError::Corrupt(text) | StoreError::Drive(text) => {
                f.write_str(text)
            }
        }
    }
}

impl std::error::Error for StoreError {}
