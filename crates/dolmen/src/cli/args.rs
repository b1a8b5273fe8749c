//! The grammar of the command line.

pub use super::{bench::BenchArgs, export::ExportCommand};
use crate::{
    config::{ServeArgs, Switch},
    demo::DemoArgs,
};
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use dolmen_types::{ByteSize, Nqn};
use std::{net::IpAddr, path::PathBuf};

/// The longest that a snapshot can be told to be kept; longer is for ever. Seconds.
const MAX_KEEP_S: u64 = dolmen_cluster::snapshot::MAX_RETENTION_MS / 1000;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed, or refused by the daemon for what was asked
  2  the command line or the configuration is wrong
  3  the object does not exist
  4  a conflict: the name is taken, or the object changed in between
  5  no daemon answers
  6  not permitted: the token is missing, expired or lacks the role, or this user may not read the node's files
  7  can't be done now: try again
  8  pool check: nothing is lost, but something is damaged or missing that other drives have

Examples:
  dolmen serve --data /var/lib/dolmen --drive /dev/nvme1n1
  dolmen --data /var/lib/dolmen volume create web --size 10GiB --acl NQN
  dolmen --data /var/lib/dolmen connect-help web
  dolmen --endpoint https://192.0.2.1:8443 --token-file token status";

/// Disaggregated block storage over NVMe/TCP: the daemon and its command line
#[derive(Debug, Parser)]
#[command(name = "dolmen", version, after_help = EXIT_CODES, max_term_width = 110)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// Flags of every verb.
    #[command(flatten)]
    pub global: Global,
    /// The verb.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that may stand before or after the verb.
#[derive(Args, Clone, Debug, Default)]
pub struct Global {
    /// Data folder of a node on this machine; port, certificate and token are found in it
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options", display_order = 900)]
    pub data: Option<PathBuf>,

    /// Management API of a node elsewhere (https://HOST:PORT); needs --token-file
    #[arg(long, global = true, value_name = "URL", help_heading = "Global options", display_order = 901)]
    pub endpoint: Option<String>,

    /// File with the token for --endpoint
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options", display_order = 902)]
    pub token_file: Option<PathBuf>,

    /// The node's certificate for --endpoint, a copy of its DIR/tls.crt [default: tls.crt beside the token file]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options", display_order = 903)]
    pub certificate: Option<PathBuf>,

    /// Tables for people, or JSON for programs; an error is then an object on stderr: error, hint, exitCode
    #[arg(
        long,
        short,
        global = true,
        value_name = "FORMAT",
        default_value = "table",
        help_heading = "Global options",
        display_order = 904
    )]
    pub output: Format,
}

/// How answers are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon in the foreground
    Serve(Box<ServeArgs>),
    /// Make, list, show, resize and delete volumes; say who may use them
    Volume {
        /// What to do.
        #[command(subcommand)]
        command: VolumeCommand,
    },
    /// Snapshots of volumes
    Snapshot {
        /// What to do.
        #[command(subcommand)]
        command: SnapshotCommand,
    },
    /// Policies that take snapshots by themselves
    Policy {
        /// What to do.
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Policies that limit the rate of volumes
    Qos {
        /// What to do.
        #[command(subcommand)]
        command: QosCommand,
    },
    /// The cluster's nodes
    Node {
        /// What to do.
        #[command(subcommand)]
        command: NodeCommand,
    },
    /// The pool of drives
    Pool {
        /// What to do.
        #[command(subcommand)]
        command: PoolCommand,
    },
    /// The drives
    Drive {
        /// What to do.
        #[command(subcommand)]
        command: DriveCommand,
    },
    /// The cluster key, which wraps the keys of encrypted volumes
    Key {
        /// What to do.
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Connected hosts
    Host {
        /// What to do.
        #[command(subcommand)]
        command: HostCommand,
    },
    /// What happened
    Event {
        /// What to do.
        #[command(subcommand)]
        command: EventCommand,
    },
    /// How the node is, in one page
    Status,
    /// What the node does now: cores, volumes, drives, hosts; live in a terminal
    Top(TopArgs),
    /// Why a volume is slow: where the time of its commands goes, in plain words first
    WhySlow {
        /// Name or UUID of the volume
        volume: String,
    },
    /// The commands that connect a host to a volume, once and for every boot
    ConnectHelp {
        /// Name or UUID of the volume
        volume: String,
    },
    /// See it work: a node, a volume, data that survives a kill, and how fast it is; needs nothing set up
    Demo(DemoArgs),
    /// Be a door to namespaces elsewhere for hosts without NVMe/TCP
    Export {
        /// Which door.
        #[command(subcommand)]
        command: ExportCommand,
    },
    /// Make load on any NVMe/TCP target, and measure it
    Bench(Box<BenchArgs>),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// How `top` shows things.
#[derive(Args, Clone, Debug)]
pub struct TopArgs {
    /// What happens in one interval, then end; also what a pipe gets, but for --output json: a line for each interval there
    #[arg(long)]
    pub once: bool,
    /// Seconds between two looks
    #[arg(long, short, value_name = "SECONDS", default_value_t = 1.0, value_parser = super::top::seconds)]
    pub interval: f64,
    /// What comes first among volumes, drives and hosts
    #[arg(long, value_enum, default_value_t = TopSort::Iops)]
    pub sort: TopSort,
}

/// What `top` sorts by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TopSort {
    /// Commands in a second.
    #[default]
    Iops,
    /// Bytes in a second.
    Bandwidth,
    /// Mean time of a command.
    Latency,
    /// Commands under way.
    Depth,
    /// Name.
    Name,
}

impl TopSort {
    /// As it is written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            TopSort::Iops => "iops",
            TopSort::Bandwidth => "bandwidth",
            TopSort::Latency => "latency",
            TopSort::Depth => "depth",
            TopSort::Name => "name",
        }
    }

    /// The one after it, round and round.
    pub(crate) fn next(self) -> TopSort {
        match self {
            TopSort::Iops => TopSort::Bandwidth,
            TopSort::Bandwidth => TopSort::Latency,
            TopSort::Latency => TopSort::Depth,
            TopSort::Depth => TopSort::Name,
            TopSort::Name => TopSort::Iops,
        }
    }
}

/// Verbs of volumes.
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Make a volume; returns when hosts can use it
    Create(CreateArgs),
    /// List all volumes
    List,
    /// Show one volume
    Show {
        /// Name or UUID
        volume: String,
    },
    /// Make a volume larger
    Resize {
        /// Name or UUID
        volume: String,
        /// The new size, with a unit (20GiB)
        #[arg(long)]
        size: ByteSize,
    },
    /// Put a volume back to what one of its snapshots holds; what was written since is lost
    Rollback {
        /// Name or UUID
        volume: String,
        /// The snapshot, by name or UUID
        #[arg(long, value_name = "SNAPSHOT")]
        to: String,
        /// Don't ask
        #[arg(long)]
        yes: bool,
    },
    /// Give a volume another QoS policy or another name
    #[command(override_usage = "dolmen volume update [OPTIONS] <VOLUME> <--qos <POLICY>|--name <NAME>>...")]
    Update(UpdateArgs),
    /// Delete a volume and its data; its snapshots stay
    Delete {
        /// Name or UUID
        volume: String,
        /// Don't ask, whoever uses it. Without it people at a terminal are asked, and a script is refused while a host is connected
        #[arg(long)]
        yes: bool,
    },
    /// Admit hosts
    #[command(override_usage = "dolmen volume allow [OPTIONS] <VOLUME> <NQN|--ip <IP>>...")]
    Allow(AccessArgs),
    /// Stop admitting hosts
    #[command(override_usage = "dolmen volume deny [OPTIONS] <VOLUME> <NQN|--ip <IP>>...")]
    Deny(AccessArgs),
}

/// Verbs of the cluster key.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Say which key it is, where it is kept and what it wraps; never the key itself
    Show,
    /// Put a new key into its place; no data is rewritten. Export the new one then. Of a passphrase: put the new one into FILE.new first,
    /// beside the one in force
    Rotate,
    /// Print the key, to keep elsewhere: without it nobody reads encrypted volumes
    Export {
        /// Seal it with the passphrase in this file, of at least 12 bytes; without one whoever sees the text has the key
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
        /// Write it to this file, for its owner alone, instead of printing it; over an older copy of the same key, and over nothing else
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
        /// Where the node keeps it, if it was told so with `serve --cluster-key`
        #[arg(long, value_name = "FILE")]
        cluster_key: Option<PathBuf>,
    },
    /// Put an exported key into a data folder, before the node is started
    Import {
        /// What `key export` gave; - reads it from the standard input
        file: PathBuf,
        /// File with the passphrase that `key export --passphrase-file` sealed it with; a key that is not sealed needs none
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
        /// Where the node is to keep it, if it is told so with `serve --cluster-key`
        #[arg(long, value_name = "FILE")]
        cluster_key: Option<PathBuf>,
    },
}

/// Arguments of `volume create`.
#[derive(Args, Debug)]
pub struct CreateArgs {
    /// Name: letters, digits and the signs - . _
    pub name: String,
    /// Size, with a unit (10GiB); rounded up to 4 KiB. Space is taken as it is written. Of a clone, that of its snapshot if
    /// it is not given
    #[arg(long, required_unless_present = "from_snapshot")]
    pub size: Option<ByteSize>,
    /// Begin as a clone of this snapshot, by name or UUID
    #[arg(long, value_name = "SNAPSHOT")]
    pub from_snapshot: Option<String>,
    /// A host that may use it, by NQN (on the host: cat /etc/nvme/hostnqn), or ALLOW_ANY. Repeatable; without it nobody
    /// is admitted
    #[arg(long, value_name = "NQN", value_parser = parse_host)]
    pub acl: Vec<String>,
    /// A source address that may use it; a host needs to be admitted by both [default: any]. Repeatable
    #[arg(long, value_name = "IP")]
    pub ip_acl: Vec<IpAddr>,
    /// Logical block size that hosts see [default: 4096, or that of the snapshot]
    #[arg(long, value_name = "BYTES", value_parser = ["512", "4096"])]
    pub sector_size: Option<String>,
    /// Whether its data is compressed where that pays; can't be changed later [default: on, or as the snapshot]
    #[arg(long, value_name = "on|off")]
    pub compression: Option<Switch>,
    /// Whether its data is encrypted on the drives; can't be changed later [default: on, or what `serve` was told, or as the
    /// snapshot]
    #[arg(long, value_name = "on|off")]
    pub encryption: Option<Switch>,
    /// A label. Repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    pub label: Vec<(String, String)>,
    /// The QoS policy, by name or UUID [default: see `dolmen qos default`]
    #[arg(long, value_name = "POLICY")]
    pub qos: Option<String>,
    /// What stands behind it; null and memory lose all data and need a daemon with --allow-test-volumes
    #[arg(long, default_value = "durable")]
    pub kind: Kind,
}

/// What stands behind a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// The drives.
    #[default]
    Durable,
    /// Nothing: reads zeros, forgets writes.
    Null,
    /// Memory, gone when the daemon ends.
    Memory,
}

/// Arguments of `volume update`.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("change").args(["qos", "name"]).required(true).multiple(true)))]
pub struct UpdateArgs {
    /// Name or UUID
    pub volume: String,
    /// The QoS policy, by name or UUID; no-limit-policy takes all limits away
    #[arg(long, value_name = "POLICY")]
    pub qos: Option<String>,
    /// The new name
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

/// Verbs of snapshots.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Take a snapshot of a volume, or of several at one instant
    Create(SnapshotCreateArgs),
    /// List snapshots
    List {
        /// Only those of this volume, by name or UUID
        #[arg(long, value_name = "VOLUME")]
        volume: Option<String>,
    },
    /// Show one snapshot
    Show {
        /// Name or UUID
        snapshot: String,
    },
    /// Delete a snapshot; it ends when no clone of it is left
    Delete {
        /// Name or UUID
        snapshot: String,
    },
    /// List the bytes that differ between two snapshots
    Diff {
        /// The newer one, by name or UUID
        snapshot: String,
        /// The older one, by name or UUID [default: all that is written differs]
        #[arg(long, value_name = "SNAPSHOT")]
        base: Option<String>,
    },
}

/// Arguments of `snapshot create`.
#[derive(Args, Debug)]
pub struct SnapshotCreateArgs {
    /// Name: letters, digits, - _ . With several volumes each snapshot is named NAME-VOLUME
    pub name: String,
    /// The volumes, by name; several must share a protection group, as a volume and its clones do
    #[arg(required = true, value_name = "VOLUME")]
    pub volumes: Vec<String>,
    /// Seconds after which it is deleted by itself [default: kept for ever]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=MAX_KEEP_S))]
    pub keep: Option<u64>,
    /// For people
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub description: String,
}

/// Verbs of snapshot policies.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Let snapshots of a volume be taken by themselves; times are UTC
    Create(PolicyCreateArgs),
    /// List all snapshot policies
    List,
    /// Show one snapshot policy
    Show {
        /// Name or UUID
        policy: String,
    },
    /// Delete a snapshot policy; its snapshots stay
    Delete {
        /// Name or UUID
        policy: String,
    },
}

/// Arguments of `policy create`.
#[derive(Args, Debug)]
pub struct PolicyCreateArgs {
    /// Name: letters, digits, - _ .
    pub name: String,
    /// The volume, by name or UUID
    pub volume: String,
    #[command(flatten)]
    /// How often.
    pub often: OftenArgs,
    /// First time, and the time of day of all others (2026-01-31T03:00:00Z) [default: now]
    #[arg(long, value_name = "TIME")]
    pub start: Option<String>,
    /// Seconds after which each snapshot is deleted by itself [default: kept for ever]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=MAX_KEEP_S))]
    pub keep: Option<u64>,
    /// For people
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub description: String,
}

/// How often a snapshot policy takes a snapshot: one of these.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct OftenArgs {
    /// Every so many hours
    #[arg(long, value_name = "COUNT")]
    pub hours: Option<u32>,
    /// Every so many days
    #[arg(long, value_name = "COUNT")]
    pub days: Option<u32>,
    /// Every week on this day. Repeatable
    #[arg(long, value_name = "DAY")]
    pub weekday: Vec<Weekday>,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)] // The names say it.
pub enum Weekday {
    Sunday,
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
}

/// Verbs of QoS policies.
#[derive(Debug, Subcommand)]
pub enum QosCommand {
    /// Make a policy
    Create(QosCreateArgs),
    /// List all policies
    List,
    /// Show one policy
    Show {
        /// Name or UUID
        policy: String,
    },
    /// Change a policy; the volumes that have it follow at once
    #[command(override_usage = "dolmen qos update [OPTIONS] <POLICY> <WHAT TO CHANGE>...")]
    Update(QosUpdateArgs),
    /// Delete a policy that no volume has
    Delete {
        /// Name or UUID
        policy: String,
    },
    /// Tell or choose the policy of new volumes that name none
    Default {
        /// Name or UUID; no-limit-policy limits nothing
        policy: Option<String>,
    },
}

/// The limits of a policy.
#[derive(Args, Clone, Debug, Default)]
pub struct LimitArgs {
    /// Reads per second; 0 for no limit
    #[arg(long, value_name = "COUNT")]
    pub read_iops: Option<u32>,
    /// Writes and other changes per second; 0 for no limit
    #[arg(long, value_name = "COUNT")]
    pub write_iops: Option<u32>,
    /// Megabytes (10^6 bytes) read per second; 0 for no limit
    #[arg(long, value_name = "COUNT")]
    pub read_mb: Option<u32>,
    /// Megabytes (10^6 bytes) written per second; 0 for no limit
    #[arg(long, value_name = "COUNT")]
    pub write_mb: Option<u32>,
    /// Reads per second for each GiB of the volume's size; 0 for no limit
    #[arg(long, value_name = "COUNT")]
    pub read_iops_per_gib: Option<u32>,
    /// Writes and other changes per second for each GiB of the volume's size; 0 for no limit
    #[arg(long, value_name = "COUNT")]
    pub write_iops_per_gib: Option<u32>,
}

/// Arguments of `qos create`.
#[derive(Args, Debug)]
pub struct QosCreateArgs {
    /// Name: letters, digits, - _ .
    pub name: String,
    #[command(flatten)]
    /// What it limits.
    pub limits: LimitArgs,
    /// For people
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub description: String,
    /// A project whose volumes may have it [default: all projects]. Repeatable
    #[arg(long, value_name = "NAME")]
    pub project: Vec<String>,
}

/// What can be changed of a QoS policy.
const QOS_CHANGES: [&str; 8] = [
    "read_iops",
    "write_iops",
    "read_mb",
    "write_mb",
    "read_iops_per_gib",
    "write_iops_per_gib",
    "description",
    "name",
];

/// Arguments of `qos update`.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("change").args(QOS_CHANGES).required(true).multiple(true)))]
pub struct QosUpdateArgs {
    /// Name or UUID
    pub policy: String,
    #[command(flatten)]
    /// What it limits.
    pub limits: LimitArgs,
    /// The new description
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// The new name
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

/// Arguments of `volume allow` and `volume deny`.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("who").args(["hosts", "ip"]).required(true).multiple(true)))]
pub struct AccessArgs {
    /// Name or UUID
    pub volume: String,
    /// Host NQNs, or ALLOW_ANY for every host
    #[arg(value_name = "NQN", value_parser = parse_listed)]
    pub hosts: Vec<String>,
    /// A source address, or ALLOW_ANY. Repeatable
    #[arg(long, value_name = "IP", value_parser = parse_address)]
    pub ip: Vec<String>,
}

/// Verbs of nodes.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List the nodes
    List,
}

/// Verbs of the pool.
#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// Show the pool's space and state, and how re-protection comes on
    Show,
    /// Let re-protection rest or go on, and say how much of the drives' bandwidth it may take
    Reprotect(ReprotectArgs),
    /// Scrub the pool: read everything, mend what is wrong from other drives; without options, show how that is done
    Scrub(ScrubArgs),
    /// Read and verify everything on the drives of a daemon that is stopped: which blocks of which volumes and snapshots are lost,
    /// and what other drives still have; changes nothing. Ends with 0 when all is well, with 8 when nothing is lost but
    /// something is damaged or missing, with 1 when data is lost
    Check(CheckArgs),
    /// Make a new data folder from drives alone, when the old one is gone: the daemon serves the same volumes under the same names
    /// with it
    Recover(RecoverArgs),
}

/// Arguments of `pool check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// A drive of the pool. Repeatable [default: those that the folder of --data knows]
    #[arg(long = "drive", value_name = "PATH")]
    pub drive: Vec<PathBuf>,

    /// List every damaged place on the drives, too, a thousand of each sort at most
    #[arg(long)]
    pub verbose: bool,

    /// The cluster key.
    #[command(flatten)]
    pub key: KeyPlaceArgs,
}

/// Where the cluster key is, for work that needs no daemon.
#[derive(Args, Debug)]
pub struct KeyPlaceArgs {
    /// File with the cluster key, which the pool's encrypted volumes are read with [default: keys/cluster.key in the data folder]
    #[arg(long, value_name = "FILE", conflicts_with = "cluster_passphrase_file")]
    pub cluster_key: Option<PathBuf>,

    /// File with the passphrase that the cluster key follows from
    #[arg(long, value_name = "FILE")]
    pub cluster_passphrase_file: Option<PathBuf>,
}

/// Arguments of `pool recover`.
#[derive(Args, Debug)]
pub struct RecoverArgs {
    /// A drive of the pool. Repeatable
    #[arg(long = "drive", value_name = "PATH", required = true)]
    pub drive: Vec<PathBuf>,

    /// The cluster key.
    #[command(flatten)]
    pub key: KeyPlaceArgs,
}

/// Arguments of `pool reprotect`.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub struct ReprotectArgs {
    /// Let it rest: what lost a drive stays without until it goes on, and another drive may cost data
    #[arg(long, conflicts_with = "resume")]
    pub pause: bool,
    /// Let it go on
    #[arg(long)]
    pub resume: bool,
    /// What it may move in a second (100MiB); 0B for no bound
    #[arg(long, value_name = "SIZE")]
    pub rate: Option<ByteSize>,
}

/// How the pool is scrubbed.
#[derive(Debug, Args)]
pub struct ScrubArgs {
    /// Begin a round now; while it is paused, as soon as it goes on
    #[arg(long, conflicts_with = "pause")]
    pub start: bool,
    /// Read nothing for the time being
    #[arg(long, conflicts_with = "resume")]
    pub pause: bool,
    /// Go on
    #[arg(long)]
    pub resume: bool,
    /// Read so many MiB in a second at most; 0 for as much as the period asks for
    #[arg(long, value_name = "MIB")]
    pub rate: Option<u32>,
    /// Begin a round every so many days; 0 for never by itself
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(..=3650))]
    pub every: Option<u32>,
}

/// Verbs of drives.
#[derive(Debug, Subcommand)]
pub enum DriveCommand {
    /// List the drives, with what they hold and how they do
    List,
    /// Take a drive into the running pool; it is part of it at the next start too, whatever --drive says
    Add {
        /// A block device, or PATH:SIZE for a file that stands for one (made if missing). It must be blank, or have been a drive
        /// of this pool that was out
        #[arg(value_name = "PATH[:SIZE]")]
        path: String,
    },
    /// Empty a drive so that it can be taken away; returns when nothing needs it any more
    Remove {
        /// Path or UUID
        drive: String,
        /// Give it up at once, for a drive that is dead or dying: what it holds is made good from the others
        #[arg(long)]
        force: bool,
        /// Return when it has begun; `drive list` tells how far it is
        #[arg(long)]
        no_wait: bool,
    },
    /// Let a drive stay that is being removed
    Keep {
        /// Path or UUID
        drive: String,
    },
    /// Tell where a drive is, and let its light blink where the machine has one that the daemon may touch: a service needs to be
    /// allowed to, see packaging/dolmen.service
    Locate {
        /// Path or UUID
        drive: String,
        /// Let the light be off again
        #[arg(long)]
        off: bool,
    },
    /// Make a drive of this machine blank, so that serve takes it; all its data is lost
    Wipe {
        /// A block device or a file
        path: PathBuf,
        /// Don't ask
        #[arg(long)]
        yes: bool,
    },
}

/// Verbs of hosts.
#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// List connected hosts
    List,
}

/// Verbs of events.
#[derive(Debug, Subcommand)]
pub enum EventCommand {
    /// List events, oldest first
    List {
        /// Only the last so many
        #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        /// Only from this time on (2026-01-31T12:00:00Z, or 2026-01-31)
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
    },
}

fn parse_host(text: &str) -> Result<String, String> {
    if text == "ALLOW_ANY" || text == "ALLOW_NONE" {
        return Ok(text.into());
    }
    Nqn::of_host(text).map(|nqn| nqn.to_string()).map_err(|why| why.to_string())
}

/// As [`parse_host`], and whatever a list may hold already.
fn parse_listed(text: &str) -> Result<String, String> {
    parse_host(text)
        .or_else(|_| text.parse::<Nqn>().map(|nqn| nqn.to_string()).map_err(|why| why.to_string()))
}

fn parse_address(text: &str) -> Result<String, String> {
    if text == "ALLOW_ANY" || text == "ALLOW_NONE" {
        return Ok(text.into());
    }
    text.parse::<IpAddr>().map(|ip| ip.to_string()).map_err(|why| why.to_string())
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => Ok((key.into(), value.into())),
        _ => Err("write KEY=VALUE".into()),
    }
}
