//! The discovery log page (Base 5.16.1.23): a header and entries of 1024 bytes each.

use super::text::set_padded_ascii;
use std::net::IpAddr;
use zerocopy::{
    FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U64},
};

/// Header of the discovery log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DiscoveryHeader {
    /// GENCTR: changes whenever the log does.
    pub generation: U64,
    /// NUMREC: entries that follow.
    pub records: U64,
    /// RECFMT: 0.
    pub format: U16,
    /// Reserved.
    pub reserved: [u8; 1006],
}

const _: () = assert!(size_of::<DiscoveryHeader>() == 1024);

impl DiscoveryHeader {
    /// The header.
    #[must_use]
    pub fn new(generation: u64, records: u64) -> DiscoveryHeader {
        let mut header = DiscoveryHeader::new_zeroed();
        header.generation = generation.into();
        header.records = records.into();
        header
    }
}

/// TRTYPE: kind of transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransportType(pub u8);

impl TransportType {
    /// TCP.
    pub const TCP: TransportType = TransportType(3);
}

/// ADRFAM: kind of address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressFamily(pub u8);

impl AddressFamily {
    /// IPv4.
    pub const IPV4: AddressFamily = AddressFamily(1);
    /// IPv6.
    pub const IPV6: AddressFamily = AddressFamily(2);
}

/// SUBTYPE: what an entry points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubsystemType(pub u8);

impl SubsystemType {
    /// A referral to another discovery service.
    pub const REFERRAL: SubsystemType = SubsystemType(1);
    /// A subsystem with namespaces.
    pub const NVM: SubsystemType = SubsystemType(2);
    /// The discovery subsystem that is being asked.
    pub const CURRENT_DISCOVERY: SubsystemType = SubsystemType(3);
}

/// TREQ: bits about the connection.
pub struct TransportRequirement;

impl TransportRequirement {
    /// Bits 1:0 = 1: a secure channel is required.
    pub const SECURE_CHANNEL: u8 = 1;
    /// Bits 1:0 = 2: a secure channel is not required.
    pub const NO_SECURE_CHANNEL: u8 = 2;
    /// Bit 2: SQ flow control can be disabled.
    pub const FLOW_CONTROL_OPTIONAL: u8 = 4;
}

/// One entry of the discovery log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DiscoveryEntry {
    /// TRTYPE.
    pub transport: u8,
    /// ADRFAM.
    pub family: u8,
    /// SUBTYPE.
    pub subsystem_type: u8,
    /// TREQ.
    pub requirements: u8,
    /// PORTID: number of the port within the subsystem.
    pub port_id: U16,
    /// CNTLID: FFFFh for the dynamic controller model.
    pub controller_id: U16,
    /// ASQSZ: admin queue entries at most, at least 32.
    pub admin_queue_size: U16,
    /// EFLAGS: bit 0 duplicate information elsewhere, 1 explicit persistent connection.
    pub flags: U16,
    /// Reserved.
    pub reserved12: [u8; 20],
    /// TRSVCID: port number, ASCII padded with blanks.
    pub service: [u8; 32],
    /// Reserved.
    pub reserved64: [u8; 192],
    /// SUBNQN, padded with zeroes.
    pub subsystem_nqn: [u8; 256],
    /// TRADDR: address, ASCII padded with blanks.
    pub address: [u8; 256],
    /// TSAS: for TCP its first byte is SECTYPE, 0 no security.
    pub transport_specific: [u8; 256],
}

const _: () = assert!(size_of::<DiscoveryEntry>() == 1024);
const _: () = assert!(std::mem::offset_of!(DiscoveryEntry, subsystem_nqn) == 256);

impl DiscoveryEntry {
    /// An entry for a TCP port without transport security, dynamic controllers.
    #[must_use]
    pub fn tcp(kind: SubsystemType, nqn: &str, address: IpAddr, port: u16, port_id: u16) -> DiscoveryEntry {
        let mut entry = DiscoveryEntry::new_zeroed();
        entry.transport = TransportType::TCP.0;
        entry.family = if address.is_ipv4() { AddressFamily::IPV4.0 } else { AddressFamily::IPV6.0 };
        entry.subsystem_type = kind.0;
        // Secure channel "not specified", as the kernel's target says it: libnvme 1.3 takes "not required" for a wish for TLS
        // and then finds no key.
        entry.requirements = TransportRequirement::FLOW_CONTROL_OPTIONAL;
        entry.port_id = port_id.into();
        entry.controller_id = 0xffff.into();
        entry.admin_queue_size = 32.into();
        set_padded_ascii(&mut entry.service, &port.to_string(), b' ');
        set_padded_ascii(&mut entry.subsystem_nqn, nqn, 0);
        set_padded_ascii(&mut entry.address, &address.to_string(), b' ');
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::padded_ascii;

    #[test]
    fn an_entry_reads_as_text() {
        let entry = DiscoveryEntry::tcp(
            SubsystemType::NVM,
            "nqn.2014-08.org.a",
            "192.0.2.1".parse().unwrap(),
            4420,
            1,
        );
        assert_eq!(padded_ascii(&entry.service), "4420");
        assert_eq!(padded_ascii(&entry.address), "192.0.2.1");
        assert_eq!(padded_ascii(&entry.subsystem_nqn), "nqn.2014-08.org.a");
        assert_eq!(entry.as_bytes()[..10], [3, 1, 2, 4, 1, 0, 0xff, 0xff, 32, 0]);
    }
}
