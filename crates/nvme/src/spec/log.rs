//! Get Log Page and the pages that are not about ANA or discovery (Base 5.16).

use super::{AdminOpcode, Sqe, Status, sqe::split};
use zerocopy::{
    FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

/// Log Page Identifier (Base figure 202).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogId(pub u8);

impl LogId {
    /// Supported Log Pages.
    pub const SUPPORTED: LogId = LogId(0x00);
    /// Error Information.
    pub const ERROR: LogId = LogId(0x01);
    /// SMART / Health Information.
    pub const SMART: LogId = LogId(0x02);
    /// Firmware Slot Information.
    pub const FIRMWARE: LogId = LogId(0x03);
    /// Changed Namespace List.
    pub const CHANGED_NAMESPACES: LogId = LogId(0x04);
    /// Commands Supported and Effects.
    pub const EFFECTS: LogId = LogId(0x05);
    /// Asymmetric Namespace Access.
    pub const ANA: LogId = LogId(0x0c);
    /// Feature Identifiers Supported and Effects.
    pub const FEATURES: LogId = LogId(0x12);
    /// NVMe-MI Commands Supported and Effects.
    pub const MANAGEMENT: LogId = LogId(0x13);
    /// Discovery.
    pub const DISCOVERY: LogId = LogId(0x70);
    /// Reservation Notification.
    pub const RESERVATION_NOTIFICATION: LogId = LogId(0x80);
}

/// The dwords of a Get Log Page command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetLogCommand {
    /// Which page.
    pub page: LogId,
    /// Log Specific Field, 7 bits; for ANA bit 0 asks for groups only.
    pub specific: u8,
    /// Retain Asynchronous Event: don't re-arm the event that this page answers.
    pub retain_event: bool,
    /// How much to return, a multiple of 4, up to 16 GiB. Bytes.
    pub length: u64,
    /// Where to start, a multiple of 4. Bytes.
    pub offset: u64,
    /// Log Specific Identifier.
    pub identifier: u16,
    /// Command Set Identifier.
    pub command_set: u8,
}

impl GetLogCommand {
    /// Reads the command.
    ///
    /// # Errors
    /// Invalid Field when the offset is not a multiple of 4 or counts entries (we offer no such page).
    pub fn of(sqe: &Sqe) -> Result<GetLogCommand, Status> {
        let [page, flags, l0, l1] = sqe.cdw10.get().to_le_bytes();
        let [u0, u1, i0, i1] = sqe.cdw11.get().to_le_bytes();
        let dwords = u64::from(u32::from_le_bytes([l0, l1, u0, u1])) + 1;
        let offset = u64::from(sqe.cdw12.get()) | u64::from(sqe.cdw13.get()) << 32;
        let cdw14 = sqe.cdw14.get();
        if !offset.is_multiple_of(4) || cdw14 & (1 << 23) != 0 {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        Ok(GetLogCommand {
            page: LogId(page),
            specific: flags & 0x7f,
            retain_event: flags & 0x80 != 0,
            length: dwords * 4,
            offset,
            identifier: u16::from_le_bytes([i0, i1]),
            command_set: cdw14.to_le_bytes()[3],
        })
    }

    /// The command. `length` is rounded up to whole dwords; 0 is taken for 4.
    #[must_use]
    pub fn encode(&self, cid: u16, nsid: u32) -> Sqe {
        let dwords = self.length.div_ceil(4).max(1) - 1;
        let [l0, l1, u0, u1] = split(dwords)[0].to_le_bytes();
        let [i0, i1] = self.identifier.to_le_bytes();
        let [low, high] = split(self.offset);
        let flags = self.specific & 0x7f | u8::from(self.retain_event) << 7;
        let mut sqe = Sqe::new(AdminOpcode::GET_LOG_PAGE.0, cid);
        sqe.nsid = nsid.into();
        sqe.cdw10 = U32::from_bytes([self.page.0, flags, l0, l1]);
        sqe.cdw11 = U32::from_bytes([u0, u1, i0, i1]);
        sqe.cdw12 = low.into();
        sqe.cdw13 = high.into();
        sqe.cdw14 = U32::from_bytes([0, 0, 0, self.command_set]);
        sqe
    }
}

/// One entry of the Error Information log (Base figure 205).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ErrorLogEntry {
    /// Number of this error since the controller was made, from 1; 0 marks an unused entry.
    pub count: U64,
    /// Submission queue.
    pub sq_id: U16,
    /// Command.
    pub cid: U16,
    /// Status Field in bits 15:1, as in the completion.
    pub status: U16,
    /// Parameter Error Location: byte in bits 7:0, bit in 10:8; FFFFh when it's no parameter.
    pub location: U16,
    /// First block concerned.
    pub lba: U64,
    /// Namespace concerned.
    pub nsid: U32,
    /// Vendor specific information available.
    pub vendor: u8,
    /// Transport type (3 is TCP).
    pub transport: u8,
    /// Reserved.
    pub reserved30: [u8; 2],
    /// Command specific information.
    pub command_specific: U64,
    /// Transport specific information.
    pub transport_specific: U16,
    /// Reserved.
    pub reserved42: [u8; 22],
}

const _: () = assert!(size_of::<ErrorLogEntry>() == 64);

/// SMART / Health Information (Base figure 207). 128-bit counters are little-endian byte arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SmartLog {
    /// Bits: 0 spare low, 1 temperature, 2 reliability degraded, 3 read only, 4 volatile backup failed, 5 PMR.
    pub critical_warning: u8,
    /// Composite temperature. Kelvin.
    pub temperature: U16,
    /// Available spare. Per cent.
    pub spare: u8,
    /// Below this `critical_warning` bit 0 is set. Per cent.
    pub spare_threshold: u8,
    /// Used life. Per cent, may exceed 100.
    pub used: u8,
    /// Summary of the endurance groups' warnings.
    pub endurance_warning: u8,
    /// Reserved.
    pub reserved7: [u8; 25],
    /// Read, in units of 1000 times 512 bytes, rounded up.
    pub data_units_read: [u8; 16],
    /// Written, in the same units.
    pub data_units_written: [u8; 16],
    /// Read commands.
    pub host_reads: [u8; 16],
    /// Write commands.
    pub host_writes: [u8; 16],
    /// Time with a command outstanding. Minutes.
    pub busy_minutes: [u8; 16],
    /// Power cycles.
    pub power_cycles: [u8; 16],
    /// Hours powered on.
    pub power_on_hours: [u8; 16],
    /// Shutdowns without notice.
    pub unsafe_shutdowns: [u8; 16],
    /// Unrecovered data integrity errors.
    pub media_errors: [u8; 16],
    /// Error Information entries since the controller was made.
    pub error_entries: [u8; 16],
    /// Time above the warning temperature. Minutes.
    pub warning_minutes: U32,
    /// Time above the critical temperature. Minutes.
    pub critical_minutes: U32,
    /// Sensors 1 to 8; 0 is "none". Kelvin.
    pub sensors: [U16; 8],
    /// Thermal management transitions and times.
    pub thermal: [U32; 4],
    /// Reserved.
    pub reserved232: [u8; 280],
}

const _: () = assert!(size_of::<SmartLog>() == 512);

impl SmartLog {
    /// A page of zeroes, to be filled.
    #[must_use]
    pub fn zeroed() -> SmartLog {
        SmartLog::new_zeroed()
    }

    /// A 128-bit counter of the page from a 64-bit number.
    #[must_use]
    pub fn counter(value: u64) -> [u8; 16] {
        super::identify::wide(value)
    }
}

/// Firmware Slot Information (Base figure 209).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FirmwareLog {
    /// AFI: bits 2:0 the active slot, 6:4 the next one.
    pub active: u8,
    /// Reserved.
    pub reserved1: [u8; 7],
    /// FRS1 to FRS7: revisions, ASCII padded with blanks; zeroes are an empty slot.
    pub revisions: [[u8; 8]; 7],
    /// Reserved.
    pub reserved64: [u8; 448],
}

const _: () = assert!(size_of::<FirmwareLog>() == 512);

impl FirmwareLog {
    /// One slot with the given revision, active.
    #[must_use]
    pub fn single(revision: [u8; 8]) -> FirmwareLog {
        let mut log = FirmwareLog::new_zeroed();
        log.active = 1;
        log.revisions[0] = revision;
        log
    }
}

/// What a command (Base figure 211) or the setting of a feature (Base figure 259) may do: a set of [`effects`] bits.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(transparent)]
pub struct CommandEffects(pub U32);

/// Bits of [`CommandEffects`].
pub mod effects {
    /// CSUPP: the command is supported.
    pub const SUPPORTED: u32 = 1 << 0;
    /// LBCC: it may change logical block contents.
    pub const CHANGES_BLOCKS: u32 = 1 << 1;
    /// NCC: it may change namespace capabilities.
    pub const CHANGES_NAMESPACE: u32 = 1 << 2;
    /// NIC: it may change which namespaces there are.
    pub const CHANGES_INVENTORY: u32 = 1 << 3;
    /// CCC: it may change controller capabilities.
    pub const CHANGES_CONTROLLER: u32 = 1 << 4;
    /// CSP, FSP: it concerns one namespace.
    pub const OF_NAMESPACE: u32 = 1 << 20;
    /// CSP, FSP: it concerns one controller.
    pub const OF_CONTROLLER: u32 = 1 << 21;
}

/// Commands Supported and Effects (Base figure 210).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EffectsLog {
    /// Admin commands by opcode.
    pub admin: [CommandEffects; 256],
    /// I/O commands by opcode.
    pub io: [CommandEffects; 256],
    /// Reserved.
    pub reserved: [u8; 2048],
}

const _: () = assert!(size_of::<EffectsLog>() == 4096);

impl EffectsLog {
    /// A page on which no command is supported yet.
    #[must_use]
    pub fn zeroed() -> EffectsLog {
        EffectsLog::new_zeroed()
    }
}

/// Changed Namespace List (Base 5.16.1.5): a page of 1024 NSIDs.
pub mod changed_namespaces {
    use zerocopy::little_endian::U32;

    /// Entries of the page.
    pub const ENTRIES: usize = 1024;
    /// In the first entry: more changed than fit.
    pub const TOO_MANY: u32 = 0xffff_ffff;

    /// Fills the page with ascending ids, or with the mark that too many changed.
    pub fn write(page: &mut [U32; ENTRIES], ids: impl IntoIterator<Item = u32>) {
        page.fill(U32::ZERO);
        for (i, id) in ids.into_iter().enumerate() {
            let Some(slot) = page.get_mut(i) else {
                page.fill(U32::ZERO);
                page[0] = TOO_MANY.into();
                return;
            };
            *slot = id.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_round_trips() {
        let command = GetLogCommand {
            page: LogId::ANA,
            specific: 1,
            retain_event: true,
            length: 0x1_2345_6780,
            offset: 0x9_0000_0004,
            identifier: 0x55aa,
            command_set: 0,
        };
        let sqe = command.encode(3, 0xffff_ffff);
        assert_eq!(GetLogCommand::of(&sqe), Ok(command));
        let odd = GetLogCommand { offset: 2, ..command }.encode(3, 0);
        assert_eq!(GetLogCommand::of(&odd), Err(Status::INVALID_FIELD.with_dnr()));
    }

    /// The Linux host's request for the discovery log header: 1024 bytes of page 70h.
    #[test]
    fn known_dwords() {
        let sqe = Sqe { cdw10: 0x00ff_0070.into(), ..Sqe::default() };
        let command = GetLogCommand::of(&sqe).unwrap();
        assert_eq!((command.page, command.length, command.offset), (LogId::DISCOVERY, 1024, 0));
    }

    #[test]
    fn too_many_changes_are_marked() {
        let mut page = [U32::ZERO; 1024];
        changed_namespaces::write(&mut page, 1..=1024);
        assert_eq!((page[0].get(), page[1023].get()), (1, 1024));
        changed_namespaces::write(&mut page, 1..=1025);
        assert_eq!((page[0].get(), page[1].get()), (0xffff_ffff, 0));
    }
}
