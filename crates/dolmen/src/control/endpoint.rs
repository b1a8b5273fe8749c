//! `DIR/endpoint`: where the running daemon of a data folder answers, for the command line on the same machine.

use super::files;
use dolmen_security::file::{self, Visibility};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

/// The content of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The management API, by an address of this machine.
    pub api: SocketAddr,
    /// The daemon's process.
    pub pid: u32,
}

impl Endpoint {
    /// The endpoint to use among those that the API is bound to: loopback where it can be.
    #[must_use]
    pub fn of(bound: &[SocketAddr]) -> Endpoint {
        let reachable = |address: &SocketAddr| match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => {
                SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port())
            }
            IpAddr::V6(ip) if ip.is_unspecified() => {
                SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port())
            }
            _ => *address,
        };
        let all: Vec<SocketAddr> = bound.iter().map(reachable).collect();
        let loopback = all.iter().find(|address| address.ip().is_loopback());
        let api = loopback.or(all.first()).copied();
        // Nothing bound means nothing to say; the port 0 is refused by every client.
        let api = api.unwrap_or(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0));
        Endpoint { api, pid: std::process::id() }
    }

    /// Writes the file.
    pub fn write(&self, folder: &Path) -> Result<(), dolmen_security::Error> {
        let text = serde_json::to_vec(self).expect("an address and a number can be written as JSON");
        file::replace(&folder.join(files::ENDPOINT), &text, Visibility::Owner)
    }

    /// Reads the file; `None` if it isn't there or holds something else.
    #[must_use]
    pub fn read(folder: &Path) -> Option<Endpoint> {
        let bytes = fs::read(folder.join(files::ENDPOINT)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Removes the file at a clean stop.
    pub fn remove(folder: &Path) {
        // One left over is recognised by its client: nothing answers there.
        let _ = fs::remove_file(folder.join(files::ENDPOINT));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bound: &[&str]) -> String {
        let bound: Vec<SocketAddr> = bound.iter().map(|a| a.parse().unwrap()).collect();
        Endpoint::of(&bound).api.to_string()
    }

    #[test]
    fn loopback_is_preferred() {
        assert_eq!(of(&["0.0.0.0:8443"]), "127.0.0.1:8443");
        assert_eq!(of(&["[::]:8443"]), "[::1]:8443");
        assert_eq!(of(&["192.0.2.1:8443", "127.0.0.2:8443"]), "127.0.0.2:8443");
        assert_eq!(of(&["192.0.2.1:8443"]), "192.0.2.1:8443");
    }

    #[test]
    fn the_file_comes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Endpoint::read(dir.path()), None);
        let endpoint = Endpoint::of(&["127.0.0.1:1".parse().unwrap()]);
        endpoint.write(dir.path()).unwrap();
        assert_eq!(Endpoint::read(dir.path()), Some(endpoint));
        Endpoint::remove(dir.path());
        assert_eq!(Endpoint::read(dir.path()), None);
    }
}
