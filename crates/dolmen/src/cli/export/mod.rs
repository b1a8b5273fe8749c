//! `dolmen export nbd`: namespaces of any NVMe/TCP target, for NBD clients.
//!
//! What it is told, and what it finds at the start; [`relay`] is the loop, [`ways`] follows what discovery services tell.

mod relay;
mod ways;

use super::{
    error::{CliError, Exit},
    fabric::{self, FabricArgs, Failed, PathArgs, Reached},
    output::Output,
};
use crate::{config::parse_nbd_listen, interrupts};
use clap::{Args, Subcommand};
use dolmen_export::nbd::Listen;
use dolmen_initiator::{Identity, Namespace, Options};
use relay::Relay;

/// Doors.
#[derive(Clone, Debug, Subcommand)]
pub enum ExportCommand {
    /// A network block device server, for nbd-client, qemu and the like. NBD has no authentication: who reaches it has the data
    Nbd(Box<NbdArgs>),
}

/// Options of `export nbd`.
#[derive(Args, Clone, Debug)]
pub struct NbdArgs {
    /// Where the NVMe/TCP target listens: ADDRESS or ADDRESS:PORT, by default port 4420. Repeatable: each is another path to the same
    /// subsystem. Without --nqn it is where a discovery service listens, by default port 8009; what that tells are the paths, also when
    /// it changes
    #[arg(long, value_name = "TARGET", required = true)]
    pub target: Vec<String>,

    /// Where NBD clients come to: PORT on the loopback address, IP:PORT, or unix:PATH for a socket that only this user may
    /// use. Repeatable
    #[arg(long, value_name = "WHERE", default_value = "10809", value_parser = parse_nbd_listen)]
    pub listen: Vec<Listen>,

    /// Name of the export, of a namespace that --nsid or --uuid names [default: the namespace's UUID]. Without these all that are
    /// seen are exported, each under its UUID
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Clients only read
    #[arg(long)]
    pub read_only: bool,

    /// Connections (I/O queues) of each path
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=128))]
    pub connections: u16,

    /// How paths are used.
    #[command(flatten)]
    pub paths: PathArgs,

    /// Who is meant, and who we are.
    #[command(flatten)]
    pub fabric: FabricArgs,
}

/// What is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chosen {
    /// Every namespace that is seen, also those that come later.
    All,
    /// The one with this number.
    One(u32),
}

/// What was found at the start.
struct Start {
    /// How it is reached.
    options: Options,
    services: Vec<fabric::Service>,
    identity: Identity,
    chosen: Chosen,
    namespaces: Vec<Namespace>,
}

/// Runs the verb until it is interrupted.
pub(super) fn run(output: &Output, command: &ExportCommand) -> Result<(), CliError> {
    let ExportCommand::Nbd(args) = command;
    let start = look(args)?;
    let paths: Vec<String> = std::iter::once(start.options.addr)
        .chain(start.options.paths.iter().map(|path| path.addr))
        .map(|addr| addr.to_string())
        .collect();
    interrupts::catch().map_err(|why| CliError::new(Exit::Failed, format!("signals: {why}")))?;
    let mut relay = Relay::start(args, start)?;
    let (listen, names) = (relay.told(), relay.names());
    let answer = serde_json::json!({"listen": listen, "exports": names, "paths": paths});
    output.put(&answer, |_| {
        let (listen, paths, names) = (listen.join(", "), paths.join(", "), names.join("\n  "));
        format!("NBD clients are served at {listen}, by way of {paths}; exports:\n  {names}")
    })?;
    relay.run()
}

/// What is to be exported, and how it is reached.
fn look(args: &NbdArgs) -> Result<Start, CliError> {
    let Reached { mut session, options, services } =
        fabric::reach_all(&args.target, &args.fabric, &args.paths)?;
    let addr = options.addr;
    let one = args.fabric.nsid.is_some() || args.fabric.uuid.is_some() || args.name.is_some();
    let (chosen, nsids) = if one {
        let nsid = fabric::namespace_of(&mut session, &args.fabric, &options)?;
        (Chosen::One(nsid), vec![nsid])
    } else {
        (Chosen::All, session.namespaces().failed(|| format!("the namespaces at {addr}"))?)
    };
    let mut namespaces = Vec::new();
    for nsid in nsids {
        namespaces.push(session.namespace(nsid).failed(|| format!("namespace {nsid} at {addr}"))?);
    }
    if namespaces.is_empty() {
        let text = format!("{addr} shows us no namespace");
        return Err(CliError::new(Exit::NotFound, text)
            .hint(format!("admit {} to a volume, or name another host with --host-nqn", options.host)));
    }
    let identity = session.identity().clone();
    session.disconnect();
    let options = Options { io_queues: args.connections, ..options };
    Ok(Start { options, services, identity, chosen, namespaces })
}
