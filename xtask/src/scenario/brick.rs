//! What the guest's host connects to: our daemon on this machine, or the kernel's target in the guest.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::daemon::Daemon;
use crate::vm::Guest;

/// The host NQN that the volumes admit; `tests/vm/host.sh` uses it too.
pub(crate) const HOST_NQN: &str = "nqn.2014-08.org.nvmexpress:uuid:0d5f1c1e-aaaa-4bbb-8ccc-000000000001";

/// What a volume is used for; each has one of its own so that scenarios don't disturb each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Volume {
    /// An ext4 file system.
    Ext4,
    /// An xfs file system.
    Xfs,
    /// Raw data, 4096-byte blocks.
    Raw,
    /// Raw data, 512-byte blocks.
    Sector512,
}

impl Volume {
    /// All of them, in the order of the stand-in's namespaces.
    pub(crate) const ALL: [Self; 4] = [Self::Ext4, Self::Xfs, Self::Raw, Self::Sector512];

    /// Its name in the daemon.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Raw => "raw",
            Self::Sector512 => "sector512",
        }
    }

    /// Its block size in bytes.
    pub(crate) fn block_bytes(self) -> u32 {
        if self == Self::Sector512 { 512 } else { 4096 }
    }
}

/// How the daemon is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// `kill -9`.
    Kill,
    /// SIGTERM.
    Terminate,
}

/// Size of every volume, in the command line's words.
pub(crate) const VOLUME_SIZE: &str = "1GiB";

/// The target under test.
pub(crate) struct Brick {
    daemon: Option<Daemon>,
    /// Address and ports as the guest sees them.
    pub(crate) address: &'static str,
    /// The guest's network interface that leads there.
    pub(crate) interface: &'static str,
    pub(crate) port: u16,
    pub(crate) discovery_port: u16,
    /// Subsystem NQN.
    pub(crate) subsystem: String,
    uuids: Vec<String>,
}

impl Brick {
    /// Starts our daemon and makes the volumes.
    pub(crate) fn dolmen(binary: &Path, work: &Path) -> Result<Self> {
        let daemon = Daemon::start(binary, work)?;
        let mut uuids = Vec::new();
        for volume in Volume::ALL {
            let sector_size = volume.block_bytes().to_string();
            let words = ["volume", "create", volume.name(), "--size", VOLUME_SIZE, "--acl", HOST_NQN];
            let words = [words.as_slice(), &["--sector-size", &sector_size]].concat();
            daemon.cli(&words).with_context(|| format!("making volume {}", volume.name()))?;
            uuids.push(uuid_of(&daemon, volume.name())?);
        }
        let subsystem = subsystem_of(&daemon)?;
        let (port, discovery_port) = (daemon.port, daemon.discovery_port);
        Ok(Self {
            daemon: Some(daemon),
            address: "192.0.2.2",
            interface: "eth0",
            port,
            discovery_port,
            subsystem,
            uuids,
        })
    }

    /// Sets up the kernel's target in the guest with the same volumes.
    pub(crate) fn kernel(guest: &mut Guest) -> Result<Self> {
        guest.check("sh /share/standin.sh", Duration::from_secs(30))?;
        Ok(Self {
            daemon: None,
            address: "127.0.0.1",
            interface: "lo",
            port: 4420,
            // A port of nvmet's tells of what it serves itself.
            discovery_port: 4420,
            subsystem: "nqn.2014-08.org.example:guest".to_owned(),
            uuids: (1..=4).map(|nsid| format!("6d1c7a52-0000-4000-8000-00000000000{nsid}")).collect(),
        })
    }

    /// The identity of a volume.
    pub(crate) fn uuid(&self, volume: Volume) -> &str {
        let index = Volume::ALL.iter().position(|other| *other == volume).unwrap_or_default();
        &self.uuids[index]
    }

    /// The daemon, where there is one.
    pub(crate) fn daemon(&mut self) -> Result<&mut Daemon> {
        self.daemon.as_mut().context("this scenario needs the daemon")
    }

    /// Ends the target and starts it again. The kernel's can't die alone; it drops its hosts and refuses them
    /// for a second.
    pub(crate) fn interrupt(&mut self, ending: Ending, guest: &mut Guest) -> Result<()> {
        let Some(daemon) = &mut self.daemon else {
            guest.check("sh /share/interrupt.sh", Duration::from_secs(20))?;
            return Ok(());
        };
        match ending {
            Ending::Kill => daemon.kill()?,
            Ending::Terminate => daemon.stop()?,
        }
        daemon.launch()
    }

    /// The daemon's log, or nothing.
    pub(crate) fn log(&self) -> String {
        self.daemon.as_ref().map(Daemon::log).unwrap_or_default()
    }

    /// Assignments that `tests/vm/host.sh` expects.
    pub(crate) fn preamble(&self) -> String {
        format!(
            "ADDRESS={}\nPORT={}\nDISCOVERY_PORT={}\nSUBSYSTEM={}\n. /share/host.sh\n",
            self.address, self.port, self.discovery_port, self.subsystem
        )
    }
}

/// The UUID of a volume, as `volume show` tells it.
fn uuid_of(daemon: &Daemon, name: &str) -> Result<String> {
    let shown = daemon.cli(&["volume", "show", name])?;
    let uuid = ["UUID", "uuid"].iter().find_map(|key| shown[key].as_str());
    uuid.map(str::to_owned).with_context(|| format!("`volume show {name}` names no UUID: {shown}"))
}

/// The subsystem NQN, as the cluster tells it.
fn subsystem_of(daemon: &Daemon) -> Result<String> {
    subsystem_in(&daemon.cli(&["status"])?)
}

/// The subsystem NQN in what `status` says.
pub(crate) fn subsystem_in(status: &serde_json::Value) -> Result<String> {
    match find_text(status, &["subsystemNQN", "subsystemNqn", "subsystem_nqn"]) {
        Some(nqn) => Ok(nqn),
        None => bail!("`status` names no subsystemNQN: {status}"),
    }
}

/// The first text under one of the keys, however deep.
fn find_text(value: &serde_json::Value, keys: &[&str]) -> Option<String> {
    match value {
        serde_json::Value::Object(map) => map.iter().find_map(|(key, inner)| {
            let here = keys.contains(&key.as_str()).then(|| inner.as_str().map(str::to_owned)).flatten();
            here.or_else(|| find_text(inner, keys))
        }),
        serde_json::Value::Array(list) => list.iter().find_map(|inner| find_text(inner, keys)),
        _ => None,
    }
}
