//! Why a command of a host was not carried out. The door decides the NVMe status, in one file of its own.

use std::fmt;

/// Why a command was not carried out. Unless said otherwise nothing of it took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeError {
    /// The range does not lie within the volume (LBA Out of Range).
    OutOfRange,
    /// The stored data differs from the host's (Compare Failure).
    CompareFailed,
    /// Another host's reservation forbids it, or a key did not match (Reservation Conflict).
    ReservationConflict,
    /// The waiting command was called off by another host's Preempt and Abort (Command Aborted due to Preempt and Abort).
    Preempted,
    /// No space for new data, for good until something is deleted (Capacity Exceeded).
    CapacityExceeded,
    /// Too many commands or buffers are in use just now; trying again helps (Namespace Not Ready, may retry).
    Busy,
    /// The volume cannot be served now: it is quarantined, or its store has stopped after a drive's failure. Writes
    /// that were under way may or may not have taken effect (Namespace Not Ready).
    NotReady,
    /// A stored block could not be read, or failed its check (Unrecovered Read Error).
    Media,
    /// Not sequenced before its deadline, and never will be.
    Expired,
    /// Nobody waits for its answer any more, and it was not sequenced; it never will be.
    CalledOff,
    /// The volume is being deleted, or the reference is stale (Invalid Namespace or Format).
    Gone,
    /// More ranges or blocks than [`limits`](crate::limits) allows (Command Size Limit Exceeded).
    TooLarge,
    /// A field has no valid meaning: a length that does not match its buffer, a reserved action (Invalid Field in Command).
    Invalid,
    /// The volume has as many registrants as it can hold (the door answers an internal, not retryable error).
    TooManyRegistrants,
}

impl fmt::Display for VolumeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            VolumeError::OutOfRange => "the range lies beyond the end of the volume",
            VolumeError::CompareFailed => "the stored data differs",
            VolumeError::ReservationConflict => "forbidden by a reservation, or the key does not match",
            VolumeError::Preempted => "called off by another host's preempt and abort",
            VolumeError::CapacityExceeded => "no space is left for new data",
            VolumeError::Busy => "too much is under way; try again",
            VolumeError::NotReady => "the volume cannot be served now",
            VolumeError::Media => "a stored block could not be read or failed its check",
            VolumeError::Expired => "not started before its deadline",
            VolumeError::CalledOff => "called off: its connection is gone",
            VolumeError::Gone => "the volume is gone",
            VolumeError::TooLarge => "more ranges or blocks than the limits allow",
            VolumeError::Invalid => "a field of the command has no valid meaning",
            VolumeError::TooManyRegistrants => "no more hosts can register",
        })
    }
}

impl std::error::Error for VolumeError {}
