//! What hosts must be told about their reservations: the door turns a notice into an asynchronous event and an entry
//! of log page 80h on every controller of the host.

use crate::{HostId, VolumeRef};
use dolmen_types::Nsid;

/// The Reservation Notification Log Page Type (Base Specification 2.0, log page 80h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum NoticeKind {
    /// The host's registration was taken away by another one.
    RegistrationPreempted = 1,
    /// The reservation that concerned the host was given up.
    ReservationReleased = 2,
    /// The host held the reservation and another one took it.
    ReservationPreempted = 3,
}

/// A notice for one host. Bounded: at most one per registrant and reservation command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The volume.
    pub volume: VolumeRef,
    /// Its namespace.
    pub nsid: Nsid,
    /// The host to tell.
    pub host: HostId,
    /// What happened.
    pub kind: NoticeKind,
}
