//! Controller properties (Base 3.1.3), read and written over fabrics by Property Get and Set.

/// A property by its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Property(pub u32);

/// VS of NVM Express 1.4.0.
pub const SPEC_VERSION_1_4: u32 = 0x0001_0400;

impl Property {
    /// CAP: Controller Capabilities, 8 bytes.
    pub const CAP: Property = Property(0x00);
    /// VS: Version, 4 bytes.
    pub const VS: Property = Property(0x08);
    /// CC: Controller Configuration, 4 bytes.
    pub const CC: Property = Property(0x14);
    /// CSTS: Controller Status, 4 bytes.
    pub const CSTS: Property = Property(0x1c);
    /// NSSR: NVM Subsystem Reset, 4 bytes.
    pub const NSSR: Property = Property(0x20);
    /// CRTO: Controller Ready Timeouts, 4 bytes.
    pub const CRTO: Property = Property(0x68);
}

/// CAP, the fields that mean something on fabrics; Base figure 36.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// MQES: entries of an I/O queue at most, counted from 0.
    pub max_queue_entries: u16,
    /// TO: longest wait for CSTS.RDY, in units of 500 ms.
    pub timeout: u8,
    /// NSSRS: NVM subsystem reset supported.
    pub subsystem_reset: bool,
    /// CSS: bit 0 NVM Command Set, bit 6 one or more I/O command sets, bit 7 no I/O command set.
    pub command_sets: u8,
    /// MPSMIN: smallest page, 2 to the power of (12 + MPSMIN) bytes.
    pub min_page: u8,
    /// MPSMAX: largest page, likewise.
    pub max_page: u8,
}

impl Capabilities {
    /// The 64-bit register. CQR (contiguous queues) is always set, as fabrics demand.
    #[must_use]
    pub fn bits(&self) -> u64 {
        u64::from(self.max_queue_entries)
            | 1 << 16
            | u64::from(self.timeout) << 24
            | u64::from(self.subsystem_reset) << 36
            | u64::from(self.command_sets) << 37
            | u64::from(self.min_page & 0xf) << 48
            | u64::from(self.max_page & 0xf) << 52
    }

    /// Reads the register.
    #[must_use]
    pub fn from_bits(bits: u64) -> Capabilities {
        let byte = |shift: u32| (bits >> shift).to_le_bytes()[0];
        Capabilities {
            max_queue_entries: u16::from_le_bytes([byte(0), byte(8)]),
            timeout: byte(24),
            subsystem_reset: byte(36) & 1 != 0,
            command_sets: byte(37),
            min_page: byte(48) & 0xf,
            max_page: byte(52) & 0xf,
        }
    }
}

/// CC.SHN: what the host wants of a shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownRequest {
    /// None.
    None,
    /// Orderly.
    Normal,
    /// Without delay.
    Abrupt,
    /// The reserved value 3.
    Reserved,
}

/// CC: Controller Configuration (Base figure 46).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControllerConfig(pub u32);

impl ControllerConfig {
    /// Enabled, NVM Command Set, 4 KiB pages, 64-byte commands and 16-byte completions: what hosts write.
    pub const ENABLE: ControllerConfig = ControllerConfig(0x0046_0001);

    /// EN.
    #[must_use]
    pub const fn enabled(self) -> bool {
        self.0 & 1 != 0
    }

    /// CSS: 0 NVM Command Set, 6 all supported ones, 7 admin only.
    #[must_use]
    pub const fn command_set(self) -> u8 {
        self.field(4, 7)
    }

    /// MPS: page size, 2 to the power of (12 + MPS) bytes.
    #[must_use]
    pub const fn page_size(self) -> u8 {
        self.field(7, 0xf)
    }

    /// AMS: arbitration mechanism, 0 round robin.
    #[must_use]
    pub const fn arbitration(self) -> u8 {
        self.field(11, 7)
    }

    /// SHN.
    #[must_use]
    pub const fn shutdown(self) -> ShutdownRequest {
        match self.field(14, 3) {
            0 => ShutdownRequest::None,
            1 => ShutdownRequest::Normal,
            2 => ShutdownRequest::Abrupt,
            _ => ShutdownRequest::Reserved,
        }
    }

    /// IOSQES: size of a command as a power of two.
    #[must_use]
    pub const fn sq_entry_size(self) -> u8 {
        self.field(16, 0xf)
    }

    /// IOCQES: size of a completion as a power of two.
    #[must_use]
    pub const fn cq_entry_size(self) -> u8 {
        self.field(20, 0xf)
    }

    /// This configuration with another shutdown request.
    #[must_use]
    pub const fn with_shutdown(self, request: ShutdownRequest) -> ControllerConfig {
        let code = match request {
            ShutdownRequest::None => 0,
            ShutdownRequest::Normal => 1,
            ShutdownRequest::Abrupt => 2,
            ShutdownRequest::Reserved => 3,
        };
        ControllerConfig(self.0 & !(3 << 14) | code << 14)
    }

    const fn field(self, shift: u32, mask: u8) -> u8 {
        (self.0 >> shift).to_le_bytes()[0] & mask
    }
}

/// CSTS: Controller Status (Base figure 47).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControllerStatus(pub u32);

impl ControllerStatus {
    /// RDY: ready for commands.
    pub const READY: u32 = 1 << 0;
    /// CFS: fatal error.
    pub const FATAL: u32 = 1 << 1;
    /// SHST 1: shutting down.
    pub const SHUTDOWN_OCCURRING: u32 = 1 << 2;
    /// SHST 2: shut down.
    pub const SHUTDOWN_COMPLETE: u32 = 2 << 2;

    /// RDY.
    #[must_use]
    pub const fn ready(self) -> bool {
        self.0 & Self::READY != 0
    }

    /// CFS.
    #[must_use]
    pub const fn fatal(self) -> bool {
        self.0 & Self::FATAL != 0
    }

    /// True when SHST says that shutdown is complete.
    #[must_use]
    pub const fn shutdown_complete(self) -> bool {
        self.0 & (3 << 2) == Self::SHUTDOWN_COMPLETE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_round_trip() {
        let cap = Capabilities {
            max_queue_entries: 1023,
            timeout: 15,
            subsystem_reset: false,
            command_sets: 0x41,
            min_page: 0,
            max_page: 0,
        };
        assert_eq!(cap.bits(), 0x0000_0820_0f01_03ff);
        assert_eq!(Capabilities::from_bits(cap.bits()), cap);
    }

    /// The values that the stock hosts write.
    #[test]
    fn configuration_reads() {
        let cc = ControllerConfig::ENABLE;
        assert!(cc.enabled());
        assert_eq!((cc.sq_entry_size(), cc.cq_entry_size(), cc.command_set()), (6, 4, 0));
        assert_eq!(cc.with_shutdown(ShutdownRequest::Normal).0, 0x0046_4001);
        assert_eq!(ControllerConfig(0x0046_4001).shutdown(), ShutdownRequest::Normal);
    }
}
