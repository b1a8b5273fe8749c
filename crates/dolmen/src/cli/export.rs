//! `dolmen export nbd`: namespaces of any NVMe/TCP target, for NBD clients.
//!
//! One loop on one thread: the NBD server on the one side, the initiator on the other, requests and replies between them.

use super::{
    error::{CliError, Exit},
    fabric::{self, FabricArgs, Failed},
    output::Output,
};
use crate::{config::parse_nbd_listen, interrupts};
use clap::{Args, Subcommand};
use dolmen_export::{
    Export, Exports, NamespaceBackend,
    nbd::{Listen, Server, ServerConfig},
};
use dolmen_initiator::{
    Completion, Identity, Initiator, Namespace, Notice, OWNER, Options, State, SubsystemId,
};
use dolmen_io::{Event, Io, Owner, Poller, PoolConfig, Tag, Turn, Wait};
use dolmen_uring::{Uring, UringConfig};
use std::{net::SocketAddr, sync::Arc};

/// Tags of the server's operations.
const NBD: Owner = Owner(6);
/// Spins this long after work before it sleeps. Nanoseconds.
const SPIN_NS: u64 = 50_000;
/// How often the loop looks whether it is to end. Milliseconds.
const LOOK_MS: u64 = 200;
/// How long clients may take to let go. Milliseconds.
const DRAIN_MS: u64 = 5_000;
/// The buffers. Bytes of address space.
const POOL_BYTES: usize = 256 << 20;

/// Doors.
#[derive(Clone, Debug, Subcommand)]
pub enum ExportCommand {
    /// A network block device server, for nbd-client, qemu and the like. NBD has no authentication: who reaches it has the data
    Nbd(Box<NbdArgs>),
}

/// Options of `export nbd`.
#[derive(Args, Clone, Debug)]
pub struct NbdArgs {
    /// Where the NVMe/TCP target listens: ADDRESS or ADDRESS:PORT
    #[arg(long, value_name = "TARGET")]
    pub target: String,

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

    /// Connections (I/O queues) to the target
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=128))]
    pub connections: u16,

    /// Who is meant, and who we are.
    #[command(flatten)]
    pub fabric: FabricArgs,
}

/// Runs the verb until it is interrupted.
pub(super) fn run(output: &Output, command: &ExportCommand) -> Result<(), CliError> {
    let ExportCommand::Nbd(args) = command;
    let (exports, options, identity) = look(args)?;
    interrupts::catch().map_err(|why| CliError::new(Exit::Failed, format!("signals: {why}")))?;
    let mut relay = Relay::start(args, options, &exports, &identity)?;
    let names: Vec<&str> = relay.names.iter().map(String::as_str).collect();
    let answer = serde_json::json!({"listen": relay.told, "exports": names});
    output.put(&answer, |_| {
        let exports = names.join("\n  ");
        format!("NBD clients are served at {}; exports:\n  {exports}", relay.told.join(", "))
    })?;
    relay.run()
}

/// What is to be exported, and how it is reached.
fn look(args: &NbdArgs) -> Result<(Vec<Namespace>, Options, Identity), CliError> {
    let (mut session, options) = fabric::reach(&args.target, &args.fabric)?;
    let addr = options.addr;
    let one = args.fabric.nsid.is_some() || args.fabric.uuid.is_some() || args.name.is_some();
    let nsids = if one {
        vec![fabric::namespace_of(&mut session, &args.fabric, &options)?]
    } else {
        session.namespaces().failed(|| format!("the namespaces at {addr}"))?
    };
    let mut found = Vec::new();
    for nsid in nsids {
        found.push(session.namespace(nsid).failed(|| format!("namespace {nsid} at {addr}"))?);
    }
    if found.is_empty() {
        let text = format!("{addr} shows us no namespace");
        return Err(CliError::new(Exit::NotFound, text)
            .hint(format!("admit {} to a volume, or name another host with --host-nqn", options.host)));
    }
    let identity = session.identity().clone();
    session.disconnect();
    let options = Options { io_queues: args.connections, ..options };
    Ok((found, options, identity))
}

/// The loop.
struct Relay {
    io: Io,
    server: Server,
    initiator: Initiator,
    subsystem: SubsystemId,
    addr: SocketAddr,
    /// Where it listens, and what it exports, for people.
    told: Vec<String>,
    names: Vec<String>,
    poller: Poller,
    last: Turn,
    events: Vec<(Tag, Event)>,
    completions: Vec<Completion>,
    notices: Vec<Notice>,
}

impl Relay {
    fn start(
        args: &NbdArgs,
        options: Options,
        namespaces: &[Namespace],
        identity: &Identity,
    ) -> Result<Relay, CliError> {
        let failed = |why: String| CliError::new(Exit::Failed, why);
        dolmen_uring::raise_descriptor_limit();
        let config = UringConfig { pool: PoolConfig::sized(POOL_BYTES), ..UringConfig::default() };
        let uring = Uring::new(&config).map_err(|why| failed(why.to_string()))?;
        let mut io = Io::new(Box::new(uring));
        let mut initiator = Initiator::new(OWNER);
        let addr = options.addr;
        let subsystem = initiator.connect(&mut io, options).map_err(|why| failed(why.to_string()))?;
        let export = |ns: &Namespace| {
            NamespaceBackend::export(subsystem, identity, ns, args.name.as_deref(), args.read_only)
        };
        let exports: Vec<Arc<Export>> = namespaces.iter().map(|ns| Arc::new(export(ns))).collect();
        let names = exports.iter().map(|e| e.name.clone()).collect();
        let mut server = Server::new(ServerConfig::new(args.listen.clone()), NBD);
        server.set_exports(&mut io, Arc::new(Exports::new(exports)));
        let bound = server.start(&mut io).map_err(|why| failed(why.to_string()).hint("see --listen"))?;
        let told = bound.iter().map(|at| match at {
            Listen::Tcp(addr) => addr.to_string(),
            Listen::Unix(path) => format!("unix:{}", path.display()),
        });
        Ok(Relay {
            told: told.collect(),
            names,
            io,
            server,
            initiator,
            subsystem,
            addr,
            poller: Poller::new(SPIN_NS),
            last: Turn::Worked,
            events: Vec::new(),
            completions: Vec::new(),
            notices: Vec::new(),
        })
    }

    /// Turns until it is interrupted, or the target is lost for good.
    fn run(&mut self) -> Result<(), CliError> {
        while !interrupts::seen() {
            self.turn();
            self.tell()?;
        }
        self.server.drain(&mut self.io);
        let give_up = self.io.now().plus_ms(DRAIN_MS);
        while !self.server.is_drained() && self.io.now() < give_up {
            self.turn();
        }
        self.initiator.disconnect(&mut self.io, self.subsystem);
        while self.initiator.state(self.subsystem) != State::Closed && self.io.now() < give_up {
            self.turn();
        }
        Ok(())
    }

    fn turn(&mut self) {
        let look = self.io.now().plus_ms(LOOK_MS);
        let wait = match self.poller.wait(self.io.now(), self.last) {
            Wait::Forever => Wait::Until(look),
            wait => wait,
        };
        self.io.poll(wait, &mut self.events);
        let worked = !self.events.is_empty();
        for (tag, event) in self.events.drain(..) {
            match tag.owner {
                NBD => self.server.on_event(&mut self.io, tag.key, event),
                _ => self.initiator.on_event(&mut self.io, tag.key, event),
            }
        }
        self.initiator.drain(&mut self.completions);
        for completion in self.completions.drain(..) {
            self.server.on_reply(&mut self.io, NamespaceBackend::reply(completion));
        }
        self.server.step(&mut self.io);
        let mut refused = Vec::new();
        for request in self.server.outputs().drain(..) {
            refused.extend(NamespaceBackend::submit(&mut self.io, &mut self.initiator, request));
        }
        for reply in refused {
            self.server.on_reply(&mut self.io, reply);
        }
        self.initiator.step(&mut self.io);
        self.last = match (self.server.has_work(), worked) {
            (true, _) => Turn::MoreToDo,
            (false, true) => Turn::Worked,
            (false, false) => Turn::Idle,
        };
    }

    /// Tells people what happened to the target.
    fn tell(&mut self) -> Result<(), CliError> {
        self.initiator.drain_notices(&mut self.notices);
        for notice in self.notices.drain(..) {
            match notice {
                Notice::PathLost { error, .. } => eprintln!("{}: {error}; connecting again", self.addr),
                Notice::State { state: State::Lost(error), .. } => {
                    return Err(CliError::new(Exit::Unreachable, format!("{}: {error}", self.addr)));
                }
                Notice::PathGivenUp { error, .. } => eprintln!("{}: {error}; given up", self.addr),
                Notice::Mismatch { nsid, .. } => {
                    eprintln!("{}: namespace {nsid} is another one there; not used", self.addr);
                }
                Notice::State { .. } | Notice::Event { .. } | Notice::PathLive { .. } => {}
            }
        }
        Ok(())
    }
}
