//! The data folder of one node: which file is where. Shared by the daemon, which writes them, and by the command line,
//! which finds the daemon through them.

use dolmen_volume::Restart;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// How a running daemon is reached from this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The API's address.
    pub address: IpAddr,
    /// The API's port.
    pub port: u16,
    /// The daemon's process id.
    pub pid: u32,
}

impl Endpoint {
    /// The endpoint of this process, listening on these addresses.
    #[must_use]
    pub fn new(listen: &[IpAddr], port: u16) -> Endpoint {
        let address = match listen.first() {
            Some(IpAddr::V4(ip)) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            Some(IpAddr::V6(ip)) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            Some(ip) => *ip,
            None => Ipv4Addr::LOCALHOST.into(),
        };
        Endpoint { address, port, pid: std::process::id() }
    }
}

/// A data folder.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// The folder at `path`, which need not exist.
    #[must_use]
    pub fn at(path: &Path) -> Folder {
        Folder { path: path.into() }
    }

    /// The folder at `path`, made with mode 0700 when it is missing.
    pub fn make(path: &Path) -> io::Result<Folder> {
        let context = |e: io::Error| io::Error::new(e.kind(), format!("the data folder {}: {e}", path.display()));
        if !path.is_dir() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(context)?;
        }
        Ok(Folder::at(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The token of the cluster's administrator.
    #[must_use]
    pub fn token(&self) -> PathBuf {
        self.path.join("token")
    }

    /// The API's certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.path.join("certificate.pem")
    }

    /// The certificate's private key, PEM.
    #[must_use]
    pub fn certificate_key(&self) -> PathBuf {
        self.path.join("certificate.key")
    }

    /// The key that signs tokens.
    #[must_use]
    pub fn signing_key(&self) -> PathBuf {
        self.path.join("token.key")
    }

    fn endpoint_file(&self) -> PathBuf {
        self.path.join("endpoint.json")
    }

    /// How the daemon of this folder is reached; `None` when none says that it runs.
    pub fn endpoint(&self) -> io::Result<Option<Endpoint>> {
        match fs::read(self.endpoint_file()) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Tells how this daemon is reached.
    pub fn tell_endpoint(&self, endpoint: &Endpoint) -> io::Result<()> {
        let fresh = self.path.join("endpoint.json.new");
        fs::write(&fresh, serde_json::to_vec(endpoint).map_err(io::Error::other)?)?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o644))?;
        fs::rename(fresh, self.endpoint_file())
    }

    /// No daemon serves this folder now.
    pub fn forget_endpoint(&self) {
        // Missing is what we want; anything else shows when the file is written again.
        let _ = fs::remove_file(self.endpoint_file());
    }

    /// Whether the machine has been up since this folder was last served.
    #[must_use]
    pub fn restart_kind(&self) -> Restart {
        match (fs::read_to_string(self.path.join("boot-id")), boot_id()) {
            (Ok(then), Some(now)) if then == now => Restart::Process,
            _ => Restart::PowerOn,
        }
    }

    /// Remembers which boot of the machine this is.
    pub fn remember_boot(&self) {
        if let Some(id) = boot_id() {
            // Lost: the next start takes it for a power cycle, which only ends reservations that did not ask to persist.
            let _ = fs::write(self.path.join("boot-id"), id);
        }
    }
}

fn boot_id() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()
}
