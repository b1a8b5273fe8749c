//! Reservations (Base 7.2 to 7.5 and 8.19).

use super::{NvmOpcode, Sqe, Status};
use std::fmt;
use zerocopy::{
    FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

/// RTYPE: who may still read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReservationType {
    /// 1.
    WriteExclusive,
    /// 2.
    ExclusiveAccess,
    /// 3.
    WriteExclusiveRegistrantsOnly,
    /// 4.
    ExclusiveAccessRegistrantsOnly,
    /// 5: every registrant holds it.
    WriteExclusiveAllRegistrants,
    /// 6: every registrant holds it.
    ExclusiveAccessAllRegistrants,
}

impl ReservationType {
    /// The code, 1 to 6.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            ReservationType::WriteExclusive => 1,
            ReservationType::ExclusiveAccess => 2,
            ReservationType::WriteExclusiveRegistrantsOnly => 3,
            ReservationType::ExclusiveAccessRegistrantsOnly => 4,
            ReservationType::WriteExclusiveAllRegistrants => 5,
            ReservationType::ExclusiveAccessAllRegistrants => 6,
        }
    }

    /// The type of a code.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<ReservationType> {
        Some(match code {
            1 => ReservationType::WriteExclusive,
            2 => ReservationType::ExclusiveAccess,
            3 => ReservationType::WriteExclusiveRegistrantsOnly,
            4 => ReservationType::ExclusiveAccessRegistrantsOnly,
            5 => ReservationType::WriteExclusiveAllRegistrants,
            6 => ReservationType::ExclusiveAccessAllRegistrants,
            _ => return None,
        })
    }
}

impl fmt::Display for ReservationType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ReservationType::WriteExclusive => "Write Exclusive",
            ReservationType::ExclusiveAccess => "Exclusive Access",
            ReservationType::WriteExclusiveRegistrantsOnly => "Write Exclusive - Registrants Only",
            ReservationType::ExclusiveAccessRegistrantsOnly => "Exclusive Access - Registrants Only",
            ReservationType::WriteExclusiveAllRegistrants => "Write Exclusive - All Registrants",
            ReservationType::ExclusiveAccessAllRegistrants => "Exclusive Access - All Registrants",
        })
    }
}

/// RREGA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterAction {
    /// Register NRKEY.
    Register,
    /// Remove the registration of CRKEY.
    Unregister,
    /// Replace CRKEY by NRKEY.
    Replace,
}

/// RACQA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcquireAction {
    /// Take a free reservation.
    Acquire,
    /// Remove PRKEY's registrants, and take the reservation if they held it.
    Preempt,
    /// The same, aborting their commands.
    PreemptAndAbort,
}

/// RRELA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseAction {
    /// Give the reservation back.
    Release,
    /// Remove the reservation and all registrations.
    Clear,
}

/// Dword 10 of the three commands that change reservations; the action's meaning is the command's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservationCommand {
    /// Action, 3 bits.
    pub action: u8,
    /// IEKEY: don't check the current key.
    pub ignore_key: bool,
    /// RTYPE of Acquire and Release.
    pub kind: u8,
    /// CPTPL of Register: 0 unchanged, 2 don't persist, 3 persist through power loss.
    pub persistence: u8,
}

impl ReservationCommand {
    /// Reads the command.
    #[must_use]
    pub fn of(sqe: &Sqe) -> ReservationCommand {
        let [low, kind, _, high] = sqe.cdw10.get().to_le_bytes();
        ReservationCommand { action: low & 7, ignore_key: low & 8 != 0, kind, persistence: high >> 6 }
    }

    /// Dword 10.
    #[must_use]
    pub fn dword(&self) -> u32 {
        let low = self.action & 7 | u8::from(self.ignore_key) << 3;
        u32::from_le_bytes([low, self.kind, 0, self.persistence << 6])
    }

    /// The action of a Register command.
    ///
    /// # Errors
    /// Invalid Field for a reserved one.
    pub fn register(&self) -> Result<RegisterAction, Status> {
        match self.action {
            0 => Ok(RegisterAction::Register),
            1 => Ok(RegisterAction::Unregister),
            2 => Ok(RegisterAction::Replace),
            _ => Err(Status::INVALID_FIELD.with_dnr()),
        }
    }

    /// The action and type of an Acquire command.
    ///
    /// # Errors
    /// Invalid Field for a reserved one.
    pub fn acquire(&self) -> Result<(AcquireAction, ReservationType), Status> {
        let action = match self.action {
            0 => AcquireAction::Acquire,
            1 => AcquireAction::Preempt,
            2 => AcquireAction::PreemptAndAbort,
            _ => return Err(Status::INVALID_FIELD.with_dnr()),
        };
        Ok((action, self.reservation_type()?))
    }

    /// The action of a Release command.
    ///
    /// # Errors
    /// Invalid Field for a reserved one.
    pub fn release(&self) -> Result<ReleaseAction, Status> {
        match self.action {
            0 => Ok(ReleaseAction::Release),
            1 => Ok(ReleaseAction::Clear),
            _ => Err(Status::INVALID_FIELD.with_dnr()),
        }
    }

    /// RTYPE.
    ///
    /// # Errors
    /// Invalid Field for a reserved one.
    pub fn reservation_type(&self) -> Result<ReservationType, Status> {
        ReservationType::from_code(self.kind).ok_or(Status::INVALID_FIELD.with_dnr())
    }
}

/// Data of Reservation Register (Base figure 404).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct RegisterData {
    /// CRKEY.
    pub current_key: U64,
    /// NRKEY.
    pub new_key: U64,
}

/// Data of Reservation Acquire (Base figure 402).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct AcquireData {
    /// CRKEY.
    pub current_key: U64,
    /// PRKEY: the key to preempt.
    pub preempt_key: U64,
}

/// Data of Reservation Release (Base figure 406).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ReleaseData {
    /// CRKEY.
    pub current_key: U64,
}

const _: () = assert!(size_of::<RegisterData>() == 16);
const _: () = assert!(size_of::<AcquireData>() == 16);
const _: () = assert!(size_of::<ReleaseData>() == 8);

/// The dwords of Reservation Report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportCommand {
    /// How much to return, a multiple of 4. Bytes.
    pub length: u64,
    /// EDS: with 128-bit host ids; fabrics hosts must ask so.
    pub extended: bool,
}

impl ReportCommand {
    /// Reads the command.
    #[must_use]
    pub fn of(sqe: &Sqe) -> ReportCommand {
        ReportCommand { length: (u64::from(sqe.cdw10.get()) + 1) * 4, extended: sqe.cdw11.get() & 1 != 0 }
    }

    /// The command; `length` must be a multiple of 4, at least 4, and fit NUMD's 32 bits.
    #[must_use]
    pub fn encode(&self, cid: u16, nsid: u32) -> Sqe {
        let mut sqe = Sqe::new(NvmOpcode::RESERVATION_REPORT.0, cid);
        let dwords = u32::try_from(self.length / 4).unwrap_or(u32::MAX);
        sqe.nsid = nsid.into();
        sqe.cdw10 = dwords.saturating_sub(1).into();
        sqe.cdw11 = u32::from(self.extended).into();
        sqe
    }
}

/// Header of Reservation Status (Base figure 408); [`RegisteredController`] entries follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ReportHeader {
    /// GEN: grows with every register, clear, preempt and release of registrations.
    pub generation: U32,
    /// RTYPE: 0 when nobody holds a reservation.
    pub kind: u8,
    /// REGCTL: number of registered controllers.
    pub controllers: U16,
    /// Reserved.
    pub reserved7: [u8; 2],
    /// PTPLS: 1 when registrations persist through power loss.
    pub persist: u8,
    /// Reserved.
    pub reserved10: [u8; 14],
}

const _: () = assert!(size_of::<ReportHeader>() == 24);

impl ReportHeader {
    /// The header.
    #[must_use]
    pub fn new(
        generation: u32,
        held: Option<ReservationType>,
        controllers: u16,
        persist: bool,
    ) -> ReportHeader {
        let mut header = ReportHeader::new_zeroed();
        header.generation = generation.into();
        header.kind = held.map_or(0, ReservationType::code);
        header.controllers = controllers.into();
        header.persist = u8::from(persist);
        header
    }
}

/// Header of the extended Reservation Status (Base figure 409); [`RegisteredControllerExtended`] entries follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ReportHeaderExtended {
    /// The same as in the plain form.
    pub base: ReportHeader,
    /// Reserved.
    pub reserved24: [u8; 40],
}

const _: () = assert!(size_of::<ReportHeaderExtended>() == 64);

/// One registrant, plain form (Base figure 410).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RegisteredController {
    /// CNTLID; FFFFh for a host without a controller.
    pub controller_id: U16,
    /// RCSTS: bit 0 it holds the reservation.
    pub status: u8,
    /// Reserved.
    pub reserved3: [u8; 5],
    /// HOSTID, 64 bits.
    pub host_id: [u8; 8],
    /// RKEY.
    pub key: U64,
}

const _: () = assert!(size_of::<RegisteredController>() == 24);

/// One registrant, extended form (Base figure 411).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RegisteredControllerExtended {
    /// CNTLID; FFFFh for a host without a controller.
    pub controller_id: U16,
    /// RCSTS: bit 0 it holds the reservation.
    pub status: u8,
    /// Reserved.
    pub reserved3: [u8; 5],
    /// RKEY.
    pub key: U64,
    /// HOSTID, 128 bits.
    pub host_id: [u8; 16],
    /// Reserved.
    pub reserved32: [u8; 32],
}

const _: () = assert!(size_of::<RegisteredControllerExtended>() == 64);

impl RegisteredControllerExtended {
    /// The entry.
    #[must_use]
    pub fn new(
        controller_id: u16,
        holder: bool,
        key: u64,
        host_id: [u8; 16],
    ) -> RegisteredControllerExtended {
        RegisteredControllerExtended {
            controller_id: controller_id.into(),
            status: u8::from(holder),
            reserved3: [0; 5],
            key: key.into(),
            host_id,
            reserved32: [0; 32],
        }
    }
}

/// Reservation Notification log page (Base 5.16.1.24, log 80h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ReservationNotification {
    /// Number of this page; 0 when there is none.
    pub count: U64,
    /// 0 empty, 1 registration preempted, 2 reservation released, 3 reservation preempted.
    pub kind: u8,
    /// Further pages waiting, at most 255.
    pub more: u8,
    /// Reserved.
    pub reserved10: [u8; 2],
    /// Namespace concerned.
    pub nsid: U32,
    /// Reserved.
    pub reserved16: [u8; 48],
}

const _: () = assert!(size_of::<ReservationNotification>() == 64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_round_trip() {
        for code in 0..=255 {
            assert_eq!(
                ReservationType::from_code(code).map(ReservationType::code),
                (1..=6).contains(&code).then_some(code)
            );
        }
    }

    #[test]
    fn dword_ten_round_trips() {
        let command = ReservationCommand { action: 2, ignore_key: true, kind: 5, persistence: 3 };
        assert_eq!(command.dword(), 0xc000_050a);
        let sqe = Sqe { cdw10: command.dword().into(), ..Sqe::default() };
        assert_eq!(ReservationCommand::of(&sqe), command);
        assert_eq!(
            command.acquire(),
            Ok((AcquireAction::PreemptAndAbort, ReservationType::WriteExclusiveAllRegistrants))
        );
        assert!(command.release().is_err());
    }

    #[test]
    fn report_commands_round_trip() {
        let report = ReportCommand { length: 4096, extended: true };
        assert_eq!(ReportCommand::of(&report.encode(1, 2)), report);
    }

    #[test]
    fn report_bytes() {
        let header = ReportHeader::new(7, Some(ReservationType::WriteExclusive), 2, true);
        assert_eq!(header.as_bytes()[..10], [7, 0, 0, 0, 1, 2, 0, 0, 0, 1]);
        let entry = RegisteredControllerExtended::new(1, true, 0xabcd, [9; 16]);
        assert_eq!(entry.as_bytes()[..18], [1, 0, 1, 0, 0, 0, 0, 0, 0xcd, 0xab, 0, 0, 0, 0, 0, 0, 9, 9]);
    }
}
