//! Finding subsystems and namespaces behind an address, for the verbs that are hosts themselves.

use super::error::{CliError, Exit};
use clap::Args;
use dolmen_initiator::{
    Digests, Discovered, DiscoveredSubsystem, Error, ErrorKind, Options,
    blocking::{Session, SessionError},
};
use dolmen_io::Io;
use dolmen_types::{Nqn, Uuid};
use dolmen_uring::{Uring, UringConfig};
pub(crate) use paths::{PathArgs, Reached, reach_all};
use std::{
    net::{SocketAddr, ToSocketAddrs},
    path::Path,
};

mod paths;

/// Where NVMe/TCP subsystems and discovery services listen by convention.
const DATA_PORT: u16 = 4420;
const DISCOVERY_PORT: u16 = 8009;
/// Who we are on a machine that has no name as an NVMe host.
const HOST_NQN: &str = "nqn.2014-08.org.nvmexpress:uuid:d01be9c4-0000-4000-8000-000000000002";
const HOST_ID: Uuid = Uuid([0xd0, 0x1b, 0xe9, 0xc4, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, 2]);

/// Who is meant, and who we are.
#[derive(Args, Clone, Debug)]
pub struct FabricArgs {
    /// The subsystem [default: the only one that the target's discovery service tells]
    #[arg(long, value_name = "NQN")]
    pub nqn: Option<Nqn>,
    /// The namespace, by number [default: the only one that is seen]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub nsid: Option<u32>,
    /// The namespace, by its UUID; that of a volume
    #[arg(long, value_name = "UUID", conflicts_with = "nsid")]
    pub uuid: Option<Uuid>,
    /// Our name, which the target must admit [default: /etc/nvme/hostnqn, else one of our own]
    #[arg(long, value_name = "NQN", visible_alias = "hostnqn")]
    pub host_nqn: Option<Nqn>,
    /// Our host identifier [default: /etc/nvme/hostid, else one of our own]
    #[arg(long, value_name = "UUID", visible_alias = "hostid")]
    pub host_id: Option<Uuid>,
    /// Ask for CRC-32C over headers
    #[arg(long, visible_alias = "hdr-digest")]
    pub header_digest: bool,
    /// Ask for CRC-32C over data
    #[arg(long)]
    pub data_digest: bool,
}

/// Turns failures of a session into ours.
pub(crate) trait Failed<T> {
    /// `what` says what was tried.
    fn failed(self, what: impl FnOnce() -> String) -> Result<T, CliError>;
}

impl<T> Failed<T> for Result<T, SessionError> {
    fn failed(self, what: impl FnOnce() -> String) -> Result<T, CliError> {
        self.map_err(|why| {
            let exit = if matches!(why, SessionError::Connect(_)) { Exit::Unreachable } else { Exit::Failed };
            CliError::new(exit, format!("{}: {why}", what()))
        })
    }
}

/// Connects to the subsystem that is meant, at a target, asking it for what was not given; and how that was done.
pub(crate) fn reach(target: &str, args: &FabricArgs) -> Result<(Session, Options), CliError> {
    let (addresses, has_port) = resolve(target)?;
    let host = Host::new(args)?;
    let options = match &args.nqn {
        Some(nqn) => host.options(addresses[0], nqn.clone()),
        None => {
            let told = discover(target, addresses[0], has_port, &host)?;
            host.options(told.ways[0], told.subsystem)
        }
    };
    let digests = Digests { header: args.header_digest, data: args.data_digest };
    let options = Options { digests, ..options };
    Ok((connect(target, &options)?, options))
}

/// Who we are.
struct Host {
    nqn: Nqn,
    id: Uuid,
}

impl Host {
    fn new(args: &FabricArgs) -> Result<Host, CliError> {
        let file = |path: &str| std::fs::read_to_string(Path::new(path)).ok().map(|t| t.trim().to_string());
        let nqn = match (&args.host_nqn, file("/etc/nvme/hostnqn")) {
            (Some(nqn), _) => nqn.clone(),
            (None, Some(text)) if !text.is_empty() => text.parse().map_err(|why| {
                CliError::usage(format!("/etc/nvme/hostnqn: {why}; name one with --host-nqn"))
            })?,
            (None, _) => HOST_NQN.parse().expect("a valid constant"),
        };
        let id = args.host_id.or_else(|| file("/etc/nvme/hostid")?.parse().ok()).unwrap_or(HOST_ID);
        if id.is_nil() {
            return Err(CliError::usage("the host identifier is all zeroes, which names nobody")
                .hint("take any other UUID for --host-id, the same each time"));
        }
        Ok(Host { nqn, id })
    }

    fn options(&self, addr: SocketAddr, subsystem: Nqn) -> Options {
        Options::new(addr, subsystem, self.nqn.clone(), self.id)
    }
}

/// The addresses of a target, at least one, and whether it named a port.
fn resolve(target: &str) -> Result<(Vec<SocketAddr>, bool), CliError> {
    let bare = target.parse().map(|ip| vec![SocketAddr::new(ip, DATA_PORT)]);
    let found = match bare {
        Ok(addresses) => Ok((addresses, false)),
        Err(_) if target.contains(':') => target.to_socket_addrs().map(|all| (all.collect(), true)),
        Err(_) => (target, DATA_PORT).to_socket_addrs().map(|all| (all.collect(), false)),
    };
    match found {
        Ok((addresses, has_port)) if !addresses.is_empty() => Ok((addresses, has_port)),
        Ok(_) => Err(CliError::usage(format!("target '{target}' has no address"))),
        Err(why) => Err(CliError::usage(format!("target '{target}': {why}"))
            .hint(format!(
                "write an IP or a name, with :PORT if it is not the usual one: {DATA_PORT} with --nqn, without it {DISCOVERY_PORT}"
            ))),
    }
}

fn io() -> Result<Io, CliError> {
    let config = UringConfig::without_drives(8 << 20);
    let uring = Uring::new(&config).map_err(|why| CliError::new(Exit::Failed, why.to_string()))?;
    Ok(Io::new(Box::new(uring)))
}

fn connect(target: &str, options: &Options) -> Result<Session, CliError> {
    let unreachable = |why: SessionError| {
        // Nothing was tried.
        if let SessionError::Connect(Error { kind: ErrorKind::Options, .. }) = why {
            return CliError::usage(why.to_string());
        }
        CliError::new(Exit::Unreachable, format!("{target}: {why}")).hint(format!(
            "is it an NVMe/TCP target, and does it admit {}? --host-nqn is another name for us",
            options.host
        ))
    };
    Session::connect(io()?, options.clone()).map_err(unreachable)
}

/// A discovery service that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    /// Where it listens.
    pub(crate) addr: SocketAddr,
    /// It was named with a port that isn't the usual one of discovery: the subsystem may be there too.
    pub(crate) has_port: bool,
}

impl Service {
    /// One that has not answered yet, where it is most likely.
    fn unheard(addr: SocketAddr, has_port: bool) -> Service {
        let port = if has_port { addr.port() } else { DISCOVERY_PORT };
        Service { addr: SocketAddr::new(addr.ip(), port), has_port: port != DISCOVERY_PORT }
    }

    /// Where the ports of one subsystem are that this service tells of, the best first, each once. A target that was asked at its
    /// own port serves there, whatever address it tells the world.
    pub(crate) fn ways(self, told: &[SocketAddr]) -> Vec<SocketAddr> {
        let asked = self.addr;
        let here = self.has_port && !told.contains(&asked);
        let place = |&addr: &SocketAddr| if here && addr.port() == asked.port() { asked } else { addr };
        let mut ways: Vec<SocketAddr> = told.iter().map(place).collect();
        // The address that was asked first, then that machine's others.
        ways.sort_by_key(|addr| (*addr != asked, addr.ip() != asked.ip()));
        let mut seen = Vec::new();
        ways.retain(|addr| {
            !seen.contains(addr) && {
                seen.push(*addr);
                true
            }
        });
        ways
    }
}

/// What a discovery service tells of the only subsystem that it knows.
#[derive(Debug)]
struct Told {
    subsystem: Nqn,
    service: Service,
    /// At least one.
    ways: Vec<SocketAddr>,
}

/// The only subsystem that the discovery service tells. It is asked at the address itself if that has a port, else at the
/// usual ones.
fn discover(target: &str, addr: SocketAddr, has_port: bool, host: &Host) -> Result<Told, CliError> {
    let ports: &[u16] = if has_port { &[addr.port()] } else { &[DISCOVERY_PORT, DATA_PORT] };
    let nqn = Nqn::DISCOVERY.parse::<Nqn>().expect("a valid constant");
    let mut failure = None;
    for &port in ports {
        let addr = SocketAddr::new(addr.ip(), port);
        let options = host.options(addr, nqn.clone());
        match connect(target, &options) {
            Ok(mut session) => {
                let found = session.discover().failed(|| format!("the discovery service of {target}"));
                session.disconnect();
                let service = Service { addr, has_port: has_port && port != DISCOVERY_PORT };
                return choose(target, service, &host.nqn, &found?);
            }
            Err(why) if why.exit != Exit::Unreachable => return Err(why),
            Err(why) => {
                failure.get_or_insert(why);
            }
        }
    }
    let why = failure.expect("at least one port was tried");
    Err(CliError::new(why.exit, format!("no discovery service answers. {}", why.text))
        .hint("name the subsystem with --nqn, or the port of the discovery service with TARGET:PORT"))
}

/// Addresses and name of the only subsystem of a discovery log.
fn choose(
    target: &str,
    service: Service,
    host: &Nqn,
    found: &[DiscoveredSubsystem],
) -> Result<Told, CliError> {
    let entries: Vec<_> = found.iter().filter(|e| e.kind == Discovered::Subsystem).collect();
    let Some(first) = entries.first() else {
        let text = format!("{target} tells {host} of no subsystem");
        return Err(CliError::new(Exit::NotFound, text)
            .hint("admit that host to a volume, take another name with --host-nqn, or name the subsystem with --nqn"));
    };
    if let Some(other) = entries.iter().find(|e| e.nqn != first.nqn) {
        let text = format!("{target} has several subsystems, among them {} and {}", first.nqn, other.nqn);
        return Err(CliError::usage(text).hint("name one with --nqn"));
    }
    let told: Vec<SocketAddr> = entries.iter().map(|e| e.addr).collect();
    Ok(Told { subsystem: first.nqn.clone(), service, ways: service.ways(&told) })
}

/// The namespace that was asked for, or the only one.
pub(crate) fn namespace_of(
    session: &mut Session,
    args: &FabricArgs,
    options: &Options,
) -> Result<u32, CliError> {
    if let Some(nsid) = args.nsid {
        return Ok(nsid);
    }
    let addr = options.addr;
    let all = session.namespaces().failed(|| format!("the namespaces at {addr}"))?;
    if let Some(uuid) = args.uuid {
        for &nsid in &all {
            let namespace = session.namespace(nsid).failed(|| format!("namespace {nsid} at {addr}"))?;
            if namespace.uuid == Some(uuid) {
                return Ok(nsid);
            }
        }
        return Err(CliError::new(Exit::NotFound, format!("no namespace at {addr} has the UUID {uuid}")));
    }
    match all[..] {
        [only] => Ok(only),
        [] => Err(CliError::new(Exit::NotFound, format!("{addr} shows us no namespace"))
            .hint(format!("admit {} to a volume, or name another host with --host-nqn", options.host))),
        _ => {
            let some: Vec<String> = all.iter().take(16).map(u32::to_string).collect();
            let text = format!("{addr} shows {} namespaces: {}", all.len(), some.join(", "));
            Err(CliError::usage(text).hint("name one with --nsid or --uuid"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(nqn: &str, addr: &str) -> DiscoveredSubsystem {
        let (nqn, addr) = (nqn.parse().unwrap(), addr.parse().unwrap());
        DiscoveredSubsystem { kind: Discovered::Subsystem, nqn, addr, port_id: 1, needs_tls: false }
    }

    #[test]
    fn targets_are_names_or_addresses_with_or_without_a_port() {
        let one = |text: &str| resolve(text).map(|(all, port)| (all[0].to_string(), port)).ok();
        assert_eq!(one("127.0.0.1"), Some(("127.0.0.1:4420".into(), false)));
        assert_eq!(one("127.0.0.1:9"), Some(("127.0.0.1:9".into(), true)));
        assert_eq!(one("::1"), Some(("[::1]:4420".into(), false)));
        assert_eq!(one("[::1]:9"), Some(("[::1]:9".into(), true)));
        assert_eq!(one("127.0.0.1:x"), None);
    }

    #[test]
    fn a_host_is_somebody() {
        let nil = FabricArgs {
            nqn: None,
            nsid: None,
            uuid: None,
            host_nqn: HOST_NQN.parse().ok(),
            host_id: Some(Uuid::NIL),
            header_digest: false,
            data_digest: false,
        };
        let exit = |args: &FabricArgs| Host::new(args).map(|_| ()).map_err(|why| why.exit);
        assert_eq!(exit(&nil), Err(Exit::Usage));
        assert_eq!(exit(&FabricArgs { host_id: Some(HOST_ID), ..nil }), Ok(()));
    }

    #[test]
    fn the_only_subsystem_is_taken_at_the_address_that_was_asked() {
        let (a, b) = ("nqn.2014-08.org.example:a", "nqn.2014-08.org.example:b");
        let asked: SocketAddr = "192.0.2.1:4420".parse().unwrap();
        let pick = |has_port, found: &[DiscoveredSubsystem]| {
            choose("t", Service { addr: asked, has_port }, &a.parse().unwrap(), found)
                .map(|told| told.ways.iter().map(SocketAddr::to_string).collect::<Vec<_>>())
                .map_err(|e| e.text)
        };
        let two = [entry(a, "192.0.2.2:4420"), entry(a, "192.0.2.1:4421")];
        assert_eq!(pick(false, &two).unwrap(), ["192.0.2.1:4421", "192.0.2.2:4420"]);
        assert_eq!(pick(true, &[entry(a, "0.0.0.0:4420")]).unwrap(), ["192.0.2.1:4420"]);
        // One that tells of the very address is not behind another one.
        let both = [entry(a, "192.0.2.2:4420"), entry(a, "192.0.2.1:4420"), entry(a, "192.0.2.1:4420")];
        assert_eq!(pick(true, &both).unwrap(), ["192.0.2.1:4420", "192.0.2.2:4420"]);
        assert!(pick(false, &[entry(a, "192.0.2.1:4420"), entry(b, "192.0.2.1:4420")]).is_err());
        assert!(pick(false, &[]).unwrap_err().contains("no subsystem"));
    }
}
