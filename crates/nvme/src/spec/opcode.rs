//! Command opcodes and their names (Base 3.3.3.1 and figure 138; NVM figure 21; Fabrics 6.1).

use std::fmt;

macro_rules! opcodes {
    ($(#[$doc:meta])* $type:ident { $($konst:ident = $value:literal $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $type(pub u8);

        impl $type {
            $(#[doc = concat!($name, " (", stringify!($value), ").")]
            pub const $konst: $type = $type($value);)*

            /// The name as the specification writes it; `None` for an opcode that it doesn't define.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($name),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "opcode {:02x}h", self.0),
                }
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

opcodes! {
    /// Opcode of a command on the admin queue.
    AdminOpcode {
        DELETE_IO_SQ = 0x00 "Delete I/O Submission Queue",
        CREATE_IO_SQ = 0x01 "Create I/O Submission Queue",
        GET_LOG_PAGE = 0x02 "Get Log Page",
        DELETE_IO_CQ = 0x04 "Delete I/O Completion Queue",
        CREATE_IO_CQ = 0x05 "Create I/O Completion Queue",
        IDENTIFY = 0x06 "Identify",
        ABORT = 0x08 "Abort",
        SET_FEATURES = 0x09 "Set Features",
        GET_FEATURES = 0x0a "Get Features",
        ASYNC_EVENT_REQUEST = 0x0c "Asynchronous Event Request",
        NAMESPACE_MANAGEMENT = 0x0d "Namespace Management",
        FIRMWARE_COMMIT = 0x10 "Firmware Commit",
        FIRMWARE_DOWNLOAD = 0x11 "Firmware Image Download",
        DEVICE_SELF_TEST = 0x14 "Device Self-test",
        NAMESPACE_ATTACHMENT = 0x15 "Namespace Attachment",
        KEEP_ALIVE = 0x18 "Keep Alive",
        FABRICS = 0x7f "Fabrics",
        FORMAT_NVM = 0x80 "Format NVM",
        SECURITY_SEND = 0x81 "Security Send",
        SECURITY_RECEIVE = 0x82 "Security Receive",
        SANITIZE = 0x84 "Sanitize",
        GET_LBA_STATUS = 0x86 "Get LBA Status",
    }
}

opcodes! {
    /// Opcode of a command on an I/O queue, NVM Command Set.
    NvmOpcode {
        FLUSH = 0x00 "Flush",
        WRITE = 0x01 "Write",
        READ = 0x02 "Read",
        WRITE_UNCORRECTABLE = 0x04 "Write Uncorrectable",
        COMPARE = 0x05 "Compare",
        WRITE_ZEROES = 0x08 "Write Zeroes",
        DATASET_MANAGEMENT = 0x09 "Dataset Management",
        VERIFY = 0x0c "Verify",
        RESERVATION_REGISTER = 0x0d "Reservation Register",
        RESERVATION_REPORT = 0x0e "Reservation Report",
        RESERVATION_ACQUIRE = 0x11 "Reservation Acquire",
        RESERVATION_RELEASE = 0x15 "Reservation Release",
        COPY = 0x19 "Copy",
        FABRICS = 0x7f "Fabrics",
    }
}

/// The two kinds of queue, which give opcodes different meanings.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum QueueKind {
    /// The admin queue, queue 0.
    Admin,
    /// An I/O queue.
    Io,
}

/// An opcode together with the queue that gives it its meaning.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Opcode {
    /// On the admin queue.
    Admin(AdminOpcode),
    /// On an I/O queue.
    Nvm(NvmOpcode),
}

impl Opcode {
    /// The raw opcode byte.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Opcode::Admin(AdminOpcode(b)) | Opcode::Nvm(NvmOpcode(b)) => b,
        }
    }
}

impl fmt::Display for Opcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Opcode::Admin(op) => fmt::Display::fmt(op, f),
            Opcode::Nvm(op) => fmt::Display::fmt(op, f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_means_different_things_on_different_queues() {
        assert_eq!(Opcode::Admin(AdminOpcode(2)).to_string(), "Get Log Page");
        assert_eq!(Opcode::Nvm(NvmOpcode(2)).to_string(), "Read");
        assert_eq!(NvmOpcode(0xc0).to_string(), "opcode c0h");
    }
}
