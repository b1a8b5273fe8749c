//! The loop of `dolmen export nbd`, on one thread: the NBD server on the one side, the initiator on the other, requests and
//! replies between them, and what is exported as it changes.

use super::{Chosen, NbdArgs, Start, ways::Ways};
use crate::{
    cli::error::{CliError, Exit},
    interrupts,
};
use dolmen_export::{
    Export, Exports, NamespaceBackend,
    nbd::{Listen, Server, ServerConfig},
};
use dolmen_initiator::{
    Completion, Identity, Initiator, Namespace, Notice, OWNER, State, SubsystemId,
    discovery::DiscoveryOptions, namespaces::Namespaces,
};
use dolmen_io::{Event, Io, Owner, Poller, Tag, Turn, Wait};
use dolmen_uring::{Uring, UringConfig};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

/// Tags of the server's operations.
const NBD: Owner = Owner(6);
/// The ticket of commands that follow the namespaces; the server's have its own mark.
const FOLLOW: u64 = 1;
/// Spins this long after work before it sleeps. Nanoseconds.
const SPIN_NS: u64 = 50_000;
/// How often the loop looks whether it is to end. Milliseconds.
const LOOK_MS: u64 = 200;
/// How long clients may take to let go. Milliseconds.
const DRAIN_MS: u64 = 5_000;
/// The buffers. Bytes of address space.
const POOL_BYTES: usize = 256 << 20;

/// The loop.
pub(super) struct Relay {
    io: Io,
    server: Server,
    initiator: Initiator,
    subsystem: SubsystemId,
    namespaces: Namespaces,
    ways: Option<Ways>,
    shown: Shown,
    bound: Vec<Listen>,
    /// Paths that are away.
    away: BTreeSet<u8>,
    poller: Poller,
    last: Turn,
    events: Vec<(Tag, Event)>,
    completions: Vec<Completion>,
    notices: Vec<Notice>,
}

/// Which namespaces are shown to clients, and how.
struct Shown {
    subsystem: SubsystemId,
    identity: Identity,
    chosen: Chosen,
    name: Option<String>,
    read_only: bool,
    /// Sizes as they were told last, by name.
    sizes: BTreeMap<String, u64>,
}

impl Shown {
    fn exports(&self, namespaces: &[Namespace]) -> Vec<Arc<Export>> {
        let chosen = namespaces.iter().filter(|ns| match self.chosen {
            Chosen::All => true,
            Chosen::One(nsid) => ns.nsid == nsid,
        });
        let export = |ns: &Namespace| {
            let name = self.name.as_deref();
            NamespaceBackend::export(self.subsystem, &self.identity, ns, name, self.read_only)
        };
        chosen.map(|ns| Arc::new(export(ns))).collect()
    }

    /// Notes what is shown now; what changed, for people.
    fn note(&mut self, exports: &[Arc<Export>]) -> Vec<String> {
        let sizes: BTreeMap<String, u64> = exports.iter().map(|e| (e.name.clone(), e.size_bytes)).collect();
        let old = std::mem::replace(&mut self.sizes, sizes);
        let gone = old.keys().filter(|name| !self.sizes.contains_key(*name));
        let gone = gone.map(|name| format!("export {name} is gone; its clients are disconnected"));
        let come = self.sizes.iter().filter_map(|(name, size)| match old.get(name) {
            None => Some(format!("export {name} of {size} bytes is new")),
            Some(was) if was < size => {
                Some(format!("export {name} has grown to {size} bytes, for new connections"))
            }
            Some(was) if was > size => {
                Some(format!("export {name} has shrunk to {size} bytes; its clients are disconnected"))
            }
            Some(_) => None,
        });
        gone.chain(come).collect()
    }
}

impl Relay {
    pub(super) fn start(args: &NbdArgs, start: Start) -> Result<Relay, CliError> {
        let failed = |why: String| CliError::new(Exit::Failed, why);
        dolmen_uring::raise_descriptor_limit();
        let config = UringConfig::without_drives(POOL_BYTES);
        let uring = Uring::new(&config).map_err(|why| failed(why.to_string()))?;
        let mut io = Io::new(Box::new(uring));
        let mut initiator = Initiator::new(OWNER);
        let Start { options, services, identity, chosen, namespaces } = start;
        let (nqn, who) =
            (options.subsystem.clone(), DiscoveryOptions::new(options.host.clone(), options.host_id));
        let subsystem = initiator.connect(&mut io, options).map_err(|why| failed(why.to_string()))?;
        let ways = match services[..] {
            [] => None,
            _ => Some(
                Ways::new(&mut io, &mut initiator, who, (services, nqn))
                    .map_err(|why| failed(why.to_string()))?,
            ),
        };
        let (name, read_only) = (args.name.clone(), args.read_only);
        let mut shown = Shown { subsystem, identity, chosen, name, read_only, sizes: BTreeMap::new() };
        let exports = shown.exports(&namespaces);
        shown.note(&exports);
        let mut server = Server::new(ServerConfig::new(args.listen.clone()), NBD);
        server.set_exports(&mut io, Arc::new(Exports::new(exports)));
        let bound = server.start(&mut io).map_err(|why| failed(why.to_string()).hint("see --listen"))?;
        Ok(Relay {
            bound,
            away: BTreeSet::new(),
            namespaces: Namespaces::new(subsystem, FOLLOW, namespaces),
            ways,
            shown,
            io,
            server,
            initiator,
            subsystem,
            poller: Poller::new(SPIN_NS),
            last: Turn::Worked,
            events: Vec::new(),
            completions: Vec::new(),
            notices: Vec::new(),
        })
    }

    /// Where it listens, for people.
    pub(super) fn told(&self) -> Vec<String> {
        let told = self.bound.iter().map(|at| match at {
            Listen::Tcp(addr) => addr.to_string(),
            Listen::Unix(path) => format!("unix:{}", path.display()),
        });
        told.collect()
    }

    /// What it exports.
    pub(super) fn names(&self) -> Vec<String> {
        self.shown.sizes.keys().cloned().collect()
    }

    /// Serves until it is interrupted, or the target is lost for good.
    pub(super) fn run(&mut self) -> Result<(), CliError> {
        let outcome = self.serve();
        for at in &self.bound {
            if let Listen::Unix(path) = at {
                // It is of no use to anybody any more, and no harm if it is gone.
                let _ = std::fs::remove_file(path);
            }
        }
        outcome
    }

    fn serve(&mut self) -> Result<(), CliError> {
        while !interrupts::seen() {
            self.turn();
            self.tell()?;
            self.follow();
        }
        self.server.drain(&mut self.io);
        let give_up = self.io.now().plus_ms(DRAIN_MS);
        while !self.server.is_drained() && self.io.now() < give_up {
            self.turn();
        }
        if let Some(ways) = &mut self.ways {
            ways.close(&mut self.io, &mut self.initiator);
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
        self.take_completions();
        self.server.step(&mut self.io);
        let mut refused = Vec::new();
        let outputs = self.server.outputs();
        // What the initiator has been given can't be called off: clients to come wait for it.
        outputs.called_off.clear();
        for request in outputs.requests.drain(..) {
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

    fn take_completions(&mut self) {
        self.initiator.drain(&mut self.completions);
        for completion in self.completions.drain(..) {
            if self.namespaces.owns(&completion) {
                self.namespaces.on_completion(&self.io, completion);
            } else if completion.subsystem == self.subsystem {
                self.server.on_reply(&mut self.io, NamespaceBackend::reply(completion));
            } else if let Some(ways) = &mut self.ways {
                ways.on_completion(&mut self.io, &mut self.initiator, completion);
            }
        }
    }

    /// Follows what there is and where.
    fn follow(&mut self) {
        let mut news = Vec::new();
        self.namespaces.step(&mut self.io, &mut self.initiator);
        if self.namespaces.take_changed() {
            if let Some(identity) = self.initiator.identity(self.subsystem) {
                self.shown.identity = identity.clone();
            }
            let exports = self.shown.exports(self.namespaces.known());
            news.extend(self.shown.note(&exports));
            self.server.set_exports(&mut self.io, Arc::new(Exports::new(exports)));
        }
        if let Some(ways) = &mut self.ways {
            news.extend(ways.step(&mut self.io, &mut self.initiator, self.subsystem));
        }
        // What was asked for leaves with this turn.
        self.initiator.step(&mut self.io);
        news.iter().for_each(|what| eprintln!("{what}"));
    }

    /// Tells people what happened to the target.
    fn tell(&mut self) -> Result<(), CliError> {
        self.initiator.drain_notices(&mut self.notices);
        for notice in std::mem::take(&mut self.notices) {
            self.namespaces.on_notice(&notice);
            if let Some(ways) = self.ways.as_mut().filter(|ways| ways.owns(subsystem_of(&notice))) {
                ways.on_notice(&notice);
                continue;
            }
            match notice {
                // Attempts that fail are nothing new.
                Notice::PathLost { path, error, .. } => {
                    if self.away.insert(path) {
                        eprintln!("{}: {error}; connecting again", self.addr(path));
                    }
                }
                Notice::PathLive { path, .. } => {
                    if self.away.remove(&path) {
                        eprintln!("{}: connected again", self.addr(path));
                    }
                }
                Notice::State { state: State::Lost(error), .. } => {
                    return Err(CliError::new(
                        Exit::Unreachable,
                        format!("the last path is given up: {error}"),
                    ));
                }
                Notice::PathGivenUp { path, error, .. } => {
                    eprintln!("{}: {error}; given up", self.addr(path))
                }
                Notice::Mismatch { nsid, path, .. } => {
                    eprintln!("{}: namespace {nsid} is another one there; not used", self.addr(path));
                }
                Notice::State { .. } | Notice::Event { .. } => {}
            }
        }
        Ok(())
    }

    /// Where a path leads, for people.
    fn addr(&self, path: u8) -> String {
        let addr = |addr: SocketAddr| addr.to_string();
        let found = self.initiator.paths(self.subsystem).into_iter().find(|p| p.path == path);
        found.map_or_else(|| format!("path {path}"), |p| addr(p.addr))
    }
}

fn subsystem_of(notice: &Notice) -> SubsystemId {
    match notice {
        Notice::PathLive { subsystem, .. }
        | Notice::PathGivenUp { subsystem, .. }
        | Notice::Mismatch { subsystem, .. }
        | Notice::State { subsystem, .. }
        | Notice::PathLost { subsystem, .. }
        | Notice::Event { subsystem, .. } => *subsystem,
    }
}
