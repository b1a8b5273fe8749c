//! Status of a completed command (Base 3.3.3.2, figures 94 to 99): one file says what every code is called.

use std::fmt;

/// The 15-bit Status Field of a completion: code type, code, retry delay index, More and Do Not Retry bits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Status(u16);

const MORE: u16 = 1 << 13;
const DNR: u16 = 1 << 14;

impl Status {
    /// A status by its code type (0 to 7) and code.
    #[must_use]
    pub const fn new(sct: u8, sc: u8) -> Status {
        Status(u16::from_le_bytes([sc, sct & 7]))
    }

    /// From the 15 bits of a completion, phase bit already shifted out.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Status {
        Status(bits & 0x7fff)
    }

    /// The 15 bits, as they stand above the phase bit.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Status Code Type: 0 generic, 1 command specific, 2 media and data integrity, 3 path related, 7 vendor.
    #[must_use]
    pub const fn sct(self) -> u8 {
        self.0.to_le_bytes()[1] & 7
    }

    /// Status Code within its type.
    #[must_use]
    pub const fn sc(self) -> u8 {
        self.0.to_le_bytes()[0]
    }

    /// Command Retry Delay: 0 none, 1 to 3 an index into Identify Controller's CRDT fields.
    #[must_use]
    pub const fn crd(self) -> u8 {
        (self.0.to_le_bytes()[1] >> 3) & 3
    }

    /// True when the Error Information log holds more about this failure.
    #[must_use]
    pub const fn more(self) -> bool {
        self.0 & MORE != 0
    }

    /// True when the same command would fail again (Do Not Retry).
    #[must_use]
    pub const fn dnr(self) -> bool {
        self.0 & DNR != 0
    }

    /// This status with Do Not Retry set.
    #[must_use]
    pub const fn with_dnr(self) -> Status {
        Status(self.0 | DNR)
    }

    /// This status with More set.
    #[must_use]
    pub const fn with_more(self) -> Status {
        Status(self.0 | MORE)
    }

    /// True for Successful Completion, whatever the other bits say.
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.0 & 0x7ff == 0
    }

    /// True when `self` and `other` name the same code, whatever their retry and More bits.
    #[must_use]
    pub const fn same_code(self, other: Status) -> bool {
        self.0 & 0x7ff == other.0 & 0x7ff
    }

    /// The code's name as the specification writes it; `None` for one that it doesn't define.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        NAMES.iter().find(|(status, _)| status.same_code(self)).map(|&(_, name)| name)
    }
}

macro_rules! codes {
    ($($sct:literal $sc:literal $konst:ident $name:literal;)*) => {
        impl Status {
            $(#[doc = concat!($name, " (SCT ", stringify!($sct), ", SC ", stringify!($sc), ").")]
            pub const $konst: Status = Status::new($sct, $sc);)*
        }
        const NAMES: &[(Status, &str)] = &[$((Status::$konst, $name),)*];
    };
}

codes! {
    0 0x00 SUCCESS "Successful Completion";
    0 0x01 INVALID_OPCODE "Invalid Command Opcode";
    0 0x02 INVALID_FIELD "Invalid Field in Command";
    0 0x03 COMMAND_ID_CONFLICT "Command ID Conflict";
    0 0x04 DATA_TRANSFER_ERROR "Data Transfer Error";
    0 0x05 POWER_LOSS "Commands Aborted due to Power Loss Notification";
    0 0x06 INTERNAL_ERROR "Internal Error";
    0 0x07 ABORT_REQUESTED "Command Abort Requested";
    0 0x08 ABORTED_SQ_DELETION "Command Aborted due to SQ Deletion";
    0 0x09 ABORTED_FAILED_FUSED "Command Aborted due to Failed Fused Command";
    0 0x0a ABORTED_MISSING_FUSED "Command Aborted due to Missing Fused Command";
    0 0x0b INVALID_NAMESPACE "Invalid Namespace or Format";
    0 0x0c COMMAND_SEQUENCE_ERROR "Command Sequence Error";
    0 0x0d INVALID_SGL_SEGMENT "Invalid SGL Segment Descriptor";
    0 0x0e INVALID_SGL_COUNT "Invalid Number of SGL Descriptors";
    0 0x0f DATA_SGL_LENGTH_INVALID "Data SGL Length Invalid";
    0 0x10 METADATA_SGL_LENGTH_INVALID "Metadata SGL Length Invalid";
    0 0x11 SGL_TYPE_INVALID "SGL Descriptor Type Invalid";
    0 0x13 PRP_OFFSET_INVALID "PRP Offset Invalid";
    0 0x14 ATOMIC_WRITE_UNIT_EXCEEDED "Atomic Write Unit Exceeded";
    0 0x15 OPERATION_DENIED "Operation Denied";
    0 0x16 SGL_OFFSET_INVALID "SGL Offset Invalid";
    0 0x18 HOST_ID_INCONSISTENT "Host Identifier Inconsistent Format";
    0 0x19 KEEP_ALIVE_EXPIRED "Keep Alive Timer Expired";
    0 0x1a KEEP_ALIVE_INVALID "Keep Alive Timeout Invalid";
    0 0x1b ABORTED_PREEMPT "Command Aborted due to Preempt and Abort";
    0 0x1c SANITIZE_FAILED "Sanitize Failed";
    0 0x1d SANITIZE_IN_PROGRESS "Sanitize In Progress";
    0 0x1e SGL_GRANULARITY_INVALID "SGL Data Block Granularity Invalid";
    0 0x1f NOT_SUPPORTED_IN_CMB "Command Not Supported for Queue in CMB";
    0 0x20 NAMESPACE_WRITE_PROTECTED "Namespace is Write Protected";
    0 0x21 COMMAND_INTERRUPTED "Command Interrupted";
    0 0x22 TRANSIENT_TRANSPORT_ERROR "Transient Transport Error";
    0 0x23 PROHIBITED_BY_LOCKDOWN "Command Prohibited by Command and Feature Lockdown";
    0 0x24 ADMIN_MEDIA_NOT_READY "Admin Command Media Not Ready";
    0 0x80 LBA_OUT_OF_RANGE "LBA Out of Range";
    0 0x81 CAPACITY_EXCEEDED "Capacity Exceeded";
    0 0x82 NAMESPACE_NOT_READY "Namespace Not Ready";
    0 0x83 RESERVATION_CONFLICT "Reservation Conflict";
    0 0x84 FORMAT_IN_PROGRESS "Format In Progress";
    1 0x00 COMPLETION_QUEUE_INVALID "Completion Queue Invalid";
    1 0x01 INVALID_QUEUE_ID "Invalid Queue Identifier";
    1 0x02 INVALID_QUEUE_SIZE "Invalid Queue Size";
    1 0x03 ABORT_LIMIT_EXCEEDED "Abort Command Limit Exceeded";
    1 0x05 ASYNC_EVENT_LIMIT_EXCEEDED "Asynchronous Event Request Limit Exceeded";
    1 0x06 INVALID_FIRMWARE_SLOT "Invalid Firmware Slot";
    1 0x09 INVALID_LOG_PAGE "Invalid Log Page";
    1 0x0a INVALID_FORMAT "Invalid Format";
    1 0x0c INVALID_QUEUE_DELETION "Invalid Queue Deletion";
    1 0x0d FEATURE_NOT_SAVEABLE "Feature Identifier Not Saveable";
    1 0x0e FEATURE_NOT_CHANGEABLE "Feature Not Changeable";
    1 0x0f FEATURE_NOT_NAMESPACE_SPECIFIC "Feature Not Namespace Specific";
    1 0x18 NAMESPACE_ALREADY_ATTACHED "Namespace Already Attached";
    1 0x1a NAMESPACE_NOT_ATTACHED "Namespace Not Attached";
    1 0x1c CONTROLLER_LIST_INVALID "Controller List Invalid";
    1 0x1f INVALID_CONTROLLER_ID "Invalid Controller Identifier";
    1 0x24 ANA_GROUP_ID_INVALID "ANA Group Identifier Invalid";
    1 0x29 IO_COMMAND_SET_NOT_SUPPORTED "I/O Command Set Not Supported";
    1 0x2b IO_COMMAND_SET_COMBINATION_REJECTED "I/O Command Set Combination Rejected";
    1 0x2c INVALID_IO_COMMAND_SET "Invalid I/O Command Set";
    1 0x80 CONNECT_INCOMPATIBLE_FORMAT "Connect Incompatible Format";
    1 0x81 CONNECT_CONTROLLER_BUSY "Connect Controller Busy";
    1 0x82 CONNECT_INVALID_PARAMETERS "Connect Invalid Parameters";
    1 0x83 CONNECT_RESTART_DISCOVERY "Connect Restart Discovery";
    1 0x84 CONNECT_INVALID_HOST "Connect Invalid Host";
    1 0x85 INVALID_QUEUE_TYPE "Invalid Queue Type";
    1 0x90 DISCOVER_RESTART "Discover Restart";
    1 0x91 AUTHENTICATION_REQUIRED "Authentication Required";
    2 0x80 WRITE_FAULT "Write Fault";
    2 0x81 UNRECOVERED_READ_ERROR "Unrecovered Read Error";
    2 0x82 GUARD_CHECK_ERROR "End-to-end Guard Check Error";
    2 0x85 COMPARE_FAILURE "Compare Failure";
    2 0x86 ACCESS_DENIED "Access Denied";
    2 0x87 DEALLOCATED_BLOCK "Deallocated or Unwritten Logical Block";
    3 0x00 INTERNAL_PATH_ERROR "Internal Path Error";
    3 0x01 ANA_PERSISTENT_LOSS "Asymmetric Access Persistent Loss";
    3 0x02 ANA_INACCESSIBLE "Asymmetric Access Inaccessible";
    3 0x03 ANA_TRANSITION "Asymmetric Access Transition";
    3 0x60 CONTROLLER_PATHING_ERROR "Controller Pathing Error";
    3 0x70 HOST_PATHING_ERROR "Host Pathing Error";
    3 0x71 ABORTED_BY_HOST "Command Aborted By Host";
}

/// Statuses of the NVM Command Set that share a number with a Fabrics one; the command tells which is meant.
impl Status {
    /// Conflicting Attributes (NVM 3.1.2; SCT 1, SC 80h).
    pub const CONFLICTING_ATTRIBUTES: Status = Status::new(1, 0x80);
    /// Invalid Protection Information (NVM 3.1.2; SCT 1, SC 81h).
    pub const INVALID_PROTECTION_INFORMATION: Status = Status::new(1, 0x81);
    /// Attempted Write to Read Only Range (NVM 3.1.2; SCT 1, SC 82h).
    pub const WRITE_TO_READ_ONLY_RANGE: Status = Status::new(1, 0x82);
    /// Command Size Limit Exceeded (NVM 3.1.2; SCT 1, SC 83h): more Copy or Dataset ranges than advertised.
    pub const COMMAND_SIZE_LIMIT_EXCEEDED: Status = Status::new(1, 0x83);
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name)?,
            None => f.write_str("unknown status")?,
        }
        write!(f, " (SCT {}, SC {:02x}h", self.sct(), self.sc())?;
        if self.dnr() {
            f.write_str(", DNR")?;
        }
        if self.more() {
            f.write_str(", More")?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_spec_puts_them() {
        let status = Status::ANA_TRANSITION.with_dnr();
        assert_eq!(status.bits(), 0x4303);
        assert_eq!((status.sct(), status.sc(), status.dnr(), status.more()), (3, 3, true, false));
        assert!(status.same_code(Status::ANA_TRANSITION) && !status.is_success());
        assert_eq!(Status::from_bits(0x0800 | 0x2000).crd(), 1);
        assert!(Status::from_bits(0x2000).is_success());
    }

    #[test]
    fn shows_names() {
        assert_eq!(
            Status::INVALID_FIELD.with_dnr().to_string(),
            "Invalid Field in Command (SCT 0, SC 02h, DNR)"
        );
        assert_eq!(Status::new(7, 9).to_string(), "unknown status (SCT 7, SC 09h)");
    }

    #[test]
    fn no_code_has_two_names() {
        for (i, (a, _)) in NAMES.iter().enumerate() {
            assert!(NAMES[i + 1..].iter().all(|(b, _)| !a.same_code(*b)), "{a}");
        }
    }
}
