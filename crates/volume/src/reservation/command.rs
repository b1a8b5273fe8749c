//! Reservation commands and their report, as values. The door decodes and encodes them; this crate decides.

/// Extended (128-bit) Host Identifier as it stands in the Connect command's data. All zeros: a host without identity,
/// which can register with no volume.
pub type HostId = [u8; 16];

/// RTYPE: what a reservation forbids to others (Base Specification 2.0, section 8.19, figure of reservation types).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ReservationType {
    /// Only the holder writes; everybody reads.
    WriteExclusive = 1,
    /// Only the holder reads and writes.
    ExclusiveAccess = 2,
    /// Registrants write; everybody reads. One registrant holds it.
    WriteExclusiveRegistrantsOnly = 3,
    /// Registrants read and write. One registrant holds it.
    ExclusiveAccessRegistrantsOnly = 4,
    /// Registrants write; everybody reads. All registrants hold it.
    WriteExclusiveAllRegistrants = 5,
    /// Registrants read and write. All registrants hold it.
    ExclusiveAccessAllRegistrants = 6,
}

impl ReservationType {
    /// All six, in the order of their codes.
    pub const ALL: [ReservationType; 6] = [
        ReservationType::WriteExclusive,
        ReservationType::ExclusiveAccess,
        ReservationType::WriteExclusiveRegistrantsOnly,
        ReservationType::ExclusiveAccessRegistrantsOnly,
        ReservationType::WriteExclusiveAllRegistrants,
        ReservationType::ExclusiveAccessAllRegistrants,
    ];

    /// The type with this RTYPE code; `None` for 0 and the reserved ones.
    #[must_use]
    pub fn from_code(code: u8) -> Option<ReservationType> {
        ReservationType::ALL.into_iter().find(|t| *t as u8 == code)
    }

    /// True for the two types that every registrant holds.
    #[must_use]
    pub fn is_all_registrants(self) -> bool {
        matches!(
            self,
            ReservationType::WriteExclusiveAllRegistrants | ReservationType::ExclusiveAccessAllRegistrants
        )
    }

    /// True for the two types of which only the one holder has the privileges.
    #[must_use]
    pub fn is_holder_only(self) -> bool {
        matches!(self, ReservationType::WriteExclusive | ReservationType::ExclusiveAccess)
    }

    /// True for the three types that forbid reading too.
    #[must_use]
    pub fn excludes_reads(self) -> bool {
        matches!(
            self,
            ReservationType::ExclusiveAccess
                | ReservationType::ExclusiveAccessRegistrantsOnly
                | ReservationType::ExclusiveAccessAllRegistrants
        )
    }
}

/// RREGA of Reservation Register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterAction {
    /// Register the host with the new key.
    Register,
    /// Take the host's registration away.
    Unregister,
    /// Give the host's registration the new key.
    Replace,
}

/// RACQA of Reservation Acquire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcquireAction {
    /// Take the reservation if nobody has it.
    Acquire,
    /// Take the registrations of a key away, and the reservation with them.
    Preempt,
    /// The same, and call off the waiting commands of the hosts concerned.
    PreemptAndAbort,
}

/// RRELA of Reservation Release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseAction {
    /// Give the reservation up, keep the registrations.
    Release,
    /// Give the reservation and all registrations up.
    Clear,
}

/// CPTPL of Reservation Register: whether reservations shall outlast a power loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PersistChange {
    /// 00b: leave it as it is.
    #[default]
    Keep,
    /// 10b: they end with a power loss.
    Clear,
    /// 11b: they outlast it.
    Set,
}

/// One reservation command. Fields that the door could decode but that make no sense for the volume's state are
/// answered by the volume ([`Invalid`](crate::VolumeError::Invalid),
/// [`ReservationConflict`](crate::VolumeError::ReservationConflict)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservationCommand {
    /// Reservation Register (7.3).
    Register {
        /// RREGA.
        action: RegisterAction,
        /// IEKEY: do not check `current_key`.
        ignore_existing_key: bool,
        /// CPTPL.
        persist: PersistChange,
        /// CRKEY.
        current_key: u64,
        /// NRKEY.
        new_key: u64,
    },
    /// Reservation Acquire (7.2).
    Acquire {
        /// RACQA.
        action: AcquireAction,
        /// IEKEY; set is an invalid field here.
        ignore_existing_key: bool,
        /// RTYPE; `None` when the code is 0 or reserved, which is an invalid field unless only registrants are preempted.
        kind: Option<ReservationType>,
        /// CRKEY.
        current_key: u64,
        /// PRKEY, for the preempting actions.
        preempt_key: u64,
    },
    /// Reservation Release (7.5).
    Release {
        /// RRELA.
        action: ReleaseAction,
        /// IEKEY; set is an invalid field here.
        ignore_existing_key: bool,
        /// RTYPE; must be that of the reservation held.
        kind: Option<ReservationType>,
        /// CRKEY.
        current_key: u64,
    },
    /// Set Features, Reservation Persistence (5.27.1.27): whether reservations shall outlast a power loss. Any host may.
    SetPersistence {
        /// PTPL.
        persists: bool,
    },
    /// Reservation Report (7.4).
    Report,
}

/// One registered host, as the report shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registrant {
    /// Its identity.
    pub host: HostId,
    /// Its key (RKEY).
    pub key: u64,
    /// It holds the reservation (bit 0 of RCSTS).
    pub holder: bool,
}

/// The state of a volume's reservations (7.4, Reservation Status data structure). Which controllers a registrant uses
/// (CNTLID) is the door's knowledge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReservationReport {
    /// GEN: grows with every register, preempt and clear that succeeds; wraps.
    pub generation: u32,
    /// RTYPE: the type of the reservation held, if one is.
    pub kind: Option<ReservationType>,
    /// PTPLS: reservations outlast a power loss.
    pub persists: bool,
    /// All registrants, ordered by host identifier.
    pub registrants: Vec<Registrant>,
}
