//! What `dolmen serve` is told: flags and the TOML file, merged (flags win), checked, and handed on as one
//! [`ServeOptions`]. Nothing here touches drives or sockets.

mod drive;
mod nbd;
#[cfg(test)]
mod tests;

use clap::{Args, ValueEnum};
use dolmen_types::{Nqn, limits};
pub use drive::DriveOption;
pub use nbd::{NbdOptions, parse_nbd_listen};
use serde::Deserialize;
use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::Duration,
};

/// Drives of one node at most. Count.
pub const MAX_DRIVES: usize = 64;

/// Addresses to listen on at most. Count.
const MAX_LISTEN: usize = 16;

/// Longest window in which an idle core still polls. Microseconds.
const MAX_POLL_WINDOW_US: u64 = 1_000_000;

/// All that the daemon is told, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeOptions {
    /// The data folder.
    pub data: PathBuf,
    /// The pool's drives, at least one, no path twice.
    pub drives: Vec<DriveOption>,
    /// Drives that the pool can lose at a time without loss; `None` for what suits a new pool, or what it was made with.
    pub parity: Option<u8>,
    /// Whether drives of the pool that nobody names are taken for lost, as far as it can do without them.
    pub degraded: bool,
    /// True to leave file drives unallocated.
    pub sparse: bool,
    /// Addresses that all ports are opened on; at least one.
    pub listen: Vec<IpAddr>,
    /// The data port; 0 takes a free one.
    pub port: u16,
    /// The discovery port; 0 takes a free one.
    pub discovery_port: u16,
    /// The management API's port; 0 takes a free one.
    pub api_port: u16,
    /// Which cores serve.
    pub cores: Cores,
    /// The address told to hosts; `None` for the one that each connection came to and the others that are listened on.
    pub advertise: Option<IpAddr>,
    /// The subsystem's name, at first start.
    pub subsystem_nqn: Option<Nqn>,
    /// The cluster's name, at first start.
    pub cluster_name: Option<String>,
    /// The file with the cluster key; `None` for the one in the data folder.
    pub cluster_key: Option<PathBuf>,
    /// The file with the passphrase that the cluster key follows from, if it does.
    pub cluster_passphrase_file: Option<PathBuf>,
    /// Whether new volumes that don't say are encrypted.
    pub encryption: bool,
    /// Whether volumes of the kinds `null` and `memory` may be made.
    pub allow_test_volumes: bool,
    /// The NBD door, if there is to be one.
    pub nbd: Option<NbdOptions>,
    /// io_uring features not to use even where the kernel has them, by name, lower case.
    pub uring_mask: Vec<String>,
    /// How long a core polls after the last work before it sleeps in the kernel.
    pub poll_window: Duration,
    /// Congestion control of what hosts are sent; the system's if `None`.
    pub congestion_control: Option<String>,
    /// How much is logged.
    pub log_level: LogLevel,
    /// How it is written.
    pub log_format: LogFormat,
}

/// Which cores serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cores {
    /// So many, not pinned by name.
    Count(usize),
    /// One loop pinned to each of these CPUs of the system, no CPU twice.
    List(Vec<usize>),
}

/// Something that is done or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // The names say it.
pub enum Switch {
    On,
    Off,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Only what stops something from working.
    Error,
    /// Also what may become one.
    Warn,
    /// Also changes of state.
    #[default]
    Info,
    /// Also single requests of the control side.
    Debug,
    /// Everything.
    Trace,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The flags of `serve` as given. Each can stand in the configuration file too, under its long name.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ServeArgs {
    /// Configuration file (TOML); its keys are the names of these flags, all but --degraded, and flags win over it
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// The data folder, named by the global flag --data or by the file.
    #[arg(skip)]
    pub data: Option<PathBuf>,

    /// A drive of the pool: a block device, or PATH:SIZE for a file that stands for one (made if missing; SIZE needs a
    /// unit: 10GiB). Repeatable
    #[arg(long = "drive", value_name = "PATH[:SIZE]")]
    pub drive: Vec<String>,

    /// Drives that the pool can lose at a time without loss, 0 to 2; decided when it is made [default: 1, or 0 for one drive]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=2))]
    pub parity: Option<u8>,

    /// Start although drives of the pool are not named, as far as it can do without them: they are taken for lost. Drives that
    /// are named and dead need no such word
    #[arg(long)]
    #[serde(skip)]
    pub degraded: bool,

    /// Don't reserve the space of file drives in their file system
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", require_equals = true)]
    pub sparse: Option<bool>,

    /// Address to listen on, IPv4 or IPv6 (:: takes IPv6 only) [default: 0.0.0.0]. Repeatable
    #[arg(long, value_name = "IP")]
    pub listen: Vec<IpAddr>,

    /// NVMe/TCP data port [default: 4420]
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,

    /// NVMe/TCP discovery port [default: 8009]
    #[arg(long, value_name = "PORT")]
    pub discovery_port: Option<u16>,

    /// Management API port, HTTPS [default: 8443]
    #[arg(long, value_name = "PORT")]
    pub api_port: Option<u16>,

    /// Cores that serve: a count (2) or a list of CPUs (0,2-3) [default: 1]
    #[arg(long, value_name = "COUNT|LIST")]
    #[serde(deserialize_with = "number_or_text")]
    pub cores: Option<String>,

    /// Address told to hosts [default: the one that they connected to, and the others of --listen]
    #[arg(long, value_name = "IP")]
    pub advertise: Option<IpAddr>,

    /// Name of the NVMe subsystem, decided at first start [default: made from the cluster's UUID]
    #[arg(long, value_name = "NQN")]
    pub subsystem_nqn: Option<String>,

    /// Name of the cluster for people, decided at first start [default: dolmen]
    #[arg(long, value_name = "NAME")]
    pub cluster_name: Option<String>,

    /// File with the cluster key, which wraps the keys of encrypted volumes; made if there is none and none is needed yet
    /// [default: keys/cluster.key in the data folder]
    #[arg(long, value_name = "FILE", conflicts_with = "cluster_passphrase_file")]
    pub cluster_key: Option<PathBuf>,

    /// File with a passphrase that the cluster key follows from, instead of a key that is kept
    #[arg(long, value_name = "FILE")]
    pub cluster_passphrase_file: Option<PathBuf>,

    /// Whether new volumes that don't say are encrypted on the drives [default: on]
    #[arg(long, value_name = "on|off")]
    pub encryption: Option<Switch>,

    /// Allow volumes that keep nothing (`volume create --kind null|memory`), for tests and benchmarks
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", require_equals = true)]
    pub allow_test_volumes: Option<bool>,

    /// Serve volumes to NBD clients too, which prove nothing about themselves: PORT on the loopback address, IP:PORT, or unix:PATH
    /// for a socket that only this user may use. Volumes that admit --nbd-host are exported. Repeatable
    #[arg(long, value_name = "WHERE")]
    pub nbd: Vec<String>,

    /// The host that NBD clients are to volumes, to be admitted with `volume allow` [default:
    /// nqn.2014-08.org.nvmexpress:uuid:6e6264ff-0000-4000-8000-646f6c6d656e]
    #[arg(long, value_name = "NQN")]
    pub nbd_host: Option<String>,

    /// NBD clients only read
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", require_equals = true)]
    pub nbd_read_only: Option<bool>,

    /// io_uring features not to use although the kernel has them, comma-separated; for tests
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub uring_mask: Vec<String>,

    /// How long an idle core polls before it sleeps, in microseconds; 0 sleeps at once [default: 50]
    #[arg(long, value_name = "US")]
    pub poll_window_us: Option<u64>,

    /// Congestion control of what hosts are sent, such as cubic or dctcp [default: the system's,
    /// net.ipv4.tcp_congestion_control]. BBR sends by timers, which many busy connections on one core pay for
    #[arg(long, value_name = "NAME")]
    pub congestion_control: Option<String>,

    /// How much is logged [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,

    /// How the log is written [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// A setting that makes no sense; the text says which and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(String);

impl ConfigError {
    fn new(text: impl Into<String>) -> ConfigError {
        ConfigError(text.into())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

impl ServeOptions {
    /// Merges the flags with the file that they name, and checks every setting.
    pub fn load(data: Option<&Path>, flags: ServeArgs) -> Result<ServeOptions, ConfigError> {
        let mut args = match &flags.config {
            Some(path) => merged(flags.clone(), read_file(path)?),
            None => flags,
        };
        if let Some(data) = data {
            args.data = Some(data.into());
        }
        check(args)
    }
}

fn read_file(path: &Path) -> Result<ServeArgs, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|why| ConfigError::new(format!("--config {}: {why}", path.display())))?;
    toml::from_str(&text).map_err(|why| {
        ConfigError::new(format!("--config {}: {}", path.display(), why.to_string().trim_end()))
    })
}

/// Flags win over the file; a list given by flags replaces the file's list.
fn merged(flags: ServeArgs, file: ServeArgs) -> ServeArgs {
    fn list<T>(flag: Vec<T>, file: Vec<T>) -> Vec<T> {
        if flag.is_empty() { file } else { flag }
    }
    ServeArgs {
        config: flags.config,
        data: flags.data.or(file.data),
        drive: list(flags.drive, file.drive),
        parity: flags.parity.or(file.parity),
        degraded: flags.degraded,
        sparse: flags.sparse.or(file.sparse),
        listen: list(flags.listen, file.listen),
        port: flags.port.or(file.port),
        discovery_port: flags.discovery_port.or(file.discovery_port),
        api_port: flags.api_port.or(file.api_port),
        cores: flags.cores.or(file.cores),
        advertise: flags.advertise.or(file.advertise),
        subsystem_nqn: flags.subsystem_nqn.or(file.subsystem_nqn),
        cluster_name: flags.cluster_name.or(file.cluster_name),
        cluster_key: flags.cluster_key.or(file.cluster_key),
        cluster_passphrase_file: flags.cluster_passphrase_file.or(file.cluster_passphrase_file),
        encryption: flags.encryption.or(file.encryption),
        allow_test_volumes: flags.allow_test_volumes.or(file.allow_test_volumes),
        nbd: list(flags.nbd, file.nbd),
        nbd_host: flags.nbd_host.or(file.nbd_host),
        nbd_read_only: flags.nbd_read_only.or(file.nbd_read_only),
        uring_mask: list(flags.uring_mask, file.uring_mask),
        poll_window_us: flags.poll_window_us.or(file.poll_window_us),
        congestion_control: flags.congestion_control.or(file.congestion_control),
        log_level: flags.log_level.or(file.log_level),
        log_format: flags.log_format.or(file.log_format),
    }
}

/// TCP_CA_NAME_MAX, with its end.
const MOST_CONGESTION_BYTES: usize = 16;

/// Whether the kernel knows the name it tells when a socket is made.
fn check_congestion_control(name: Option<String>) -> Result<Option<String>, ConfigError> {
    match name {
        Some(name) if name.is_empty() || name.len() >= MOST_CONGESTION_BYTES => {
            let text = format!(
                "--congestion-control '{name}': a name of 1 to 15 letters, of those that \
                 /proc/sys/net/ipv4/tcp_available_congestion_control has"
            );
            Err(ConfigError::new(text))
        }
        other => Ok(other),
    }
}

fn check(args: ServeArgs) -> Result<ServeOptions, ConfigError> {
    let data = args.data.filter(|path| !path.as_os_str().is_empty()).ok_or_else(|| {
        ConfigError::new("--data is missing: name the folder that keeps this node's identity and keys")
    })?;
    let ports = Ports {
        port: args.port.unwrap_or(4420),
        discovery_port: args.discovery_port.unwrap_or(8009),
        api_port: args.api_port.unwrap_or(8443),
    };
    ports.check()?;
    let poll_window_us = args.poll_window_us.unwrap_or(50);
    if poll_window_us > MAX_POLL_WINDOW_US {
        let text = format!("--poll-window-us {poll_window_us}: at most {MAX_POLL_WINDOW_US} (one second)");
        return Err(ConfigError::new(text));
    }
    Ok(ServeOptions {
        data,
        drives: check_drives(&args.drive)?,
        parity: args.parity,
        degraded: args.degraded,
        sparse: args.sparse.unwrap_or(false),
        listen: check_listen(args.listen)?,
        port: ports.port,
        discovery_port: ports.discovery_port,
        api_port: ports.api_port,
        cores: args.cores.as_deref().map_or(Ok(Cores::Count(1)), parse_cores)?,
        advertise: check_advertise(args.advertise)?,
        subsystem_nqn: args.subsystem_nqn.as_deref().map(parse_nqn).transpose()?,
        cluster_name: check_cluster_name(args.cluster_name)?,
        cluster_key: check_key_files(args.cluster_key, args.cluster_passphrase_file.as_deref())?,
        cluster_passphrase_file: args.cluster_passphrase_file,
        encryption: args.encryption.unwrap_or(Switch::On) == Switch::On,
        allow_test_volumes: args.allow_test_volumes.unwrap_or(false),
        nbd: NbdOptions::check(&args.nbd, args.nbd_host.as_deref(), args.nbd_read_only.unwrap_or(false))?,
        uring_mask: check_mask(args.uring_mask)?,
        poll_window: Duration::from_micros(poll_window_us),
        congestion_control: check_congestion_control(args.congestion_control)?,
        log_level: args.log_level.unwrap_or_default(),
        log_format: args.log_format.unwrap_or_default(),
    })
}

/// The cluster key comes from one place.
fn check_key_files(key: Option<PathBuf>, passphrase: Option<&Path>) -> Result<Option<PathBuf>, ConfigError> {
    if key.is_some() && passphrase.is_some() {
        let text = "--cluster-key and --cluster-passphrase-file: the cluster key is in a file or follows from a passphrase";
        return Err(ConfigError::new(text));
    }
    Ok(key)
}

struct Ports {
    port: u16,
    discovery_port: u16,
    api_port: u16,
}

impl Ports {
    /// Ports of different services differ, unless the system chooses them.
    fn check(&self) -> Result<(), ConfigError> {
        let named =
            [("--port", self.port), ("--discovery-port", self.discovery_port), ("--api-port", self.api_port)];
        for (i, (name, port)) in named.iter().enumerate() {
            for (other, other_port) in &named[i + 1..] {
                if *port != 0 && port == other_port {
                    return Err(ConfigError::new(format!(
                        "{name} and {other} are both {port}; they must differ"
                    )));
                }
            }
        }
        Ok(())
    }
}

fn check_drives(texts: &[String]) -> Result<Vec<DriveOption>, ConfigError> {
    if texts.is_empty() {
        return Err(ConfigError::new(
            "--drive is missing: name a block device (--drive /dev/nvme1n1) or a file with its size \
             (--drive /var/lib/dolmen/drive0:10GiB)",
        ));
    }
    if texts.len() > MAX_DRIVES {
        return Err(ConfigError::new(format!("--drive: {} given, at most {MAX_DRIVES}", texts.len())));
    }
    let mut seen = BTreeSet::new();
    let mut drives = Vec::new();
    for text in texts {
        let drive = DriveOption::parse(text)?;
        if !seen.insert(drive.path.clone()) {
            return Err(ConfigError::new(format!("--drive {}: given twice", drive.path.display())));
        }
        drives.push(drive);
    }
    Ok(drives)
}

fn check_listen(listen: Vec<IpAddr>) -> Result<Vec<IpAddr>, ConfigError> {
    if listen.is_empty() {
        return Ok(vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)]);
    }
    if listen.len() > MAX_LISTEN {
        return Err(ConfigError::new(format!("--listen: {} given, at most {MAX_LISTEN}", listen.len())));
    }
    let mut seen = BTreeSet::new();
    match listen.iter().find(|ip| !seen.insert(**ip)) {
        Some(twice) => Err(ConfigError::new(format!("--listen {twice}: given twice"))),
        None => Ok(listen),
    }
}

fn check_advertise(advertise: Option<IpAddr>) -> Result<Option<IpAddr>, ConfigError> {
    match advertise {
        Some(ip) if ip.is_unspecified() || ip.is_multicast() => {
            Err(ConfigError::new(format!("--advertise {ip}: hosts can't connect to that address")))
        }
        other => Ok(other),
    }
}

fn parse_nqn(text: &str) -> Result<Nqn, ConfigError> {
    let nqn: Nqn =
        text.parse().map_err(|why| ConfigError::new(format!("--subsystem-nqn '{text}': {why}")))?;
    if nqn.as_str() == Nqn::DISCOVERY {
        return Err(ConfigError::new("--subsystem-nqn: that is the discovery service's name"));
    }
    Ok(nqn)
}

fn check_cluster_name(name: Option<String>) -> Result<Option<String>, ConfigError> {
    if let Some(name) = &name {
        dolmen_cluster::volume::check_word("--cluster-name", name)
            .map_err(|why| ConfigError::new(why.to_string()))?;
    }
    Ok(name)
}

fn check_mask(names: Vec<String>) -> Result<Vec<String>, ConfigError> {
    let good = |name: &String| {
        !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
    };
    match names.iter().find(|name| !good(name)) {
        Some(bad) => Err(ConfigError::new(format!("--uring-mask '{bad}': not the name of a feature"))),
        None => Ok(names),
    }
}

/// Reads `2` (a count) or `0,2-3` (a list of CPUs; a single CPU is written `3,`).
fn parse_cores(text: &str) -> Result<Cores, ConfigError> {
    let bad = |why: &str| ConfigError::new(format!("--cores '{text}': {why}"));
    let number =
        |t: &str| t.trim().parse::<usize>().map_err(|_| bad("write a count (2) or a list of CPUs (0,2-3)"));
    if !text.contains([',', '-']) {
        let count = number(text)?;
        return match count {
            0 => Err(bad("at least one core is needed (CPU 0 alone is written 0,)")),
            n if n > limits::MAX_CORES => Err(bad(&format!("at most {} cores", limits::MAX_CORES))),
            n => Ok(Cores::Count(n)),
        };
    }
    let mut cpus = Vec::new();
    let mut seen = BTreeSet::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if last < first {
            return Err(bad("a range runs upwards"));
        }
        if last - first >= limits::MAX_CORES {
            return Err(bad(&format!("at most {} cores", limits::MAX_CORES)));
        }
        for cpu in first..=last {
            if !seen.insert(cpu) {
                return Err(bad(&format!("CPU {cpu} is named twice")));
            }
            cpus.push(cpu);
        }
    }
    match cpus.len() {
        0 => Err(bad("names no CPU")),
        n if n > limits::MAX_CORES => Err(bad(&format!("at most {} cores", limits::MAX_CORES))),
        _ => Ok(Cores::List(cpus)),
    }
}

/// In the file a count may be written without quotes.
fn number_or_text<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "want a count (2) or a text with a list of CPUs (\"0,2-3\")")]
    enum Either {
        Number(u64),
        Text(String),
    }
    Ok(Some(match Either::deserialize(input)? {
        Either::Number(n) => n.to_string(),
        Either::Text(text) => text,
    }))
}
