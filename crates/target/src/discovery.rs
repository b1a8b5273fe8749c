//! The discovery log (Base 5.16.1.23): where the host that asks finds controllers for what it may use.
//!
//! A host that no volume admits gets a valid, empty page: it learns nothing, and is told by an event when that changes.

use crate::{config::TargetConfig, view::View};
use dolmen_nvme::spec::{DiscoveryEntry, DiscoveryHeader, SubsystemType};
use std::net::SocketAddr;
use zerocopy::IntoBytes;

/// Port id of the I/O port.
const IO_PORT_ID: u16 = 1;

/// The page for a host that asks on a connection to our address `local`.
pub(crate) fn page(config: &TargetConfig, view: &View, generation: u64, local: SocketAddr) -> Vec<u8> {
    let mut entries = Vec::new();
    if !view.spaces().is_empty() {
        let address = config.advertise.unwrap_or(local.ip()).to_canonical();
        entries.push(DiscoveryEntry::tcp(
            SubsystemType::NVM,
            config.identity.subsystem.as_str(),
            address,
            config.io_port(),
            IO_PORT_ID,
        ));
    }
    let header = DiscoveryHeader::new(generation, u64::try_from(entries.len()).unwrap_or(0));
    let mut page = header.as_bytes().to_vec();
    page.extend_from_slice(entries.as_bytes());
    page
}
