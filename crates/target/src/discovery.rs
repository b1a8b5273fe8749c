//! The discovery log (Base 5.16.1.23): where the host that asks finds controllers for what it may use.
//!
//! A host that no volume admits gets a valid, empty page: it learns nothing, and is told by an event when that changes.

use crate::{config::TargetConfig, view::View};
use dolmen_nvme::spec::{DiscoveryEntry, DiscoveryHeader, SubsystemType};
use std::net::{IpAddr, SocketAddr};
use zerocopy::IntoBytes;

/// Port id of the first I/O port.
const FIRST_PORT_ID: u16 = 1;

/// The page for a host that asks on a connection to our address `local`.
pub(crate) fn page(config: &TargetConfig, view: &View, generation: u64, local: SocketAddr) -> Vec<u8> {
    let ports = if view.spaces().is_empty() { Vec::new() } else { ports(config, local.ip()) };
    let subsystem = config.identity.subsystem.as_str();
    let entry = |(id, port): (u16, SocketAddr)| {
        DiscoveryEntry::tcp(SubsystemType::NVM, subsystem, port.ip(), port.port(), id)
    };
    let entries: Vec<_> = (FIRST_PORT_ID..).zip(ports).map(entry).collect();
    let header = DiscoveryHeader::new(generation, u64::try_from(entries.len()).unwrap_or(0));
    let mut page = header.as_bytes().to_vec();
    page.extend_from_slice(entries.as_bytes());
    page
}

/// Where a host that came to our address `local` finds us: at the address that is told to all, or else at that one and at the others that
/// we listen on by name. Addresses of the machine itself are for hosts on it.
fn ports(config: &TargetConfig, local: IpAddr) -> Vec<SocketAddr> {
    let local = local.to_canonical();
    if let Some(told) = config.advertise {
        return vec![SocketAddr::new(told.to_canonical(), config.io_port())];
    }
    let named = config.io_listen.iter().map(|at| SocketAddr::new(at.ip().to_canonical(), at.port()));
    let others = named.clone().filter(|at| {
        let ip = at.ip();
        ip != local && !ip.is_unspecified() && ip.is_loopback() == local.is_loopback()
    });
    let first = named.clone().find(|at| at.ip() == local);
    let mut ports = vec![first.unwrap_or(SocketAddr::new(local, config.io_port()))];
    for other in others {
        if !ports.contains(&other) {
            ports.push(other);
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Identity;

    fn told(listen: &[&str], advertise: Option<&str>, local: &str) -> Vec<String> {
        let mut config = TargetConfig::new(Identity {
            subsystem: "nqn.2026-01.example:node".parse().unwrap(),
            serial: "1".into(),
            model: "M".into(),
            firmware: "1".into(),
        });
        config.io_listen = listen.iter().map(|at| at.parse().unwrap()).collect();
        config.advertise = advertise.map(|ip| ip.parse().unwrap());
        ports(&config, local.parse().unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_address_is_told_that_a_host_may_reach() {
        let both = ["192.0.2.1:4420", "198.51.100.1:4421", "127.0.0.1:4420", "192.0.2.1:4420"];
        assert_eq!(told(&both, None, "198.51.100.1"), ["198.51.100.1:4421", "192.0.2.1:4420"]);
        assert_eq!(told(&both, None, "::ffff:192.0.2.1"), ["192.0.2.1:4420", "198.51.100.1:4421"]);
        assert_eq!(told(&both, None, "127.0.0.1"), ["127.0.0.1:4420"]);
        assert_eq!(told(&both, Some("203.0.113.9"), "192.0.2.1"), ["203.0.113.9:4420"]);
        assert_eq!(told(&["0.0.0.0:4420"], None, "192.0.2.1"), ["192.0.2.1:4420"]);
        assert_eq!(
            told(&["[::]:4420", "192.0.2.7:4420"], None, "192.0.2.1"),
            ["192.0.2.1:4420", "192.0.2.7:4420"]
        );
    }
}
