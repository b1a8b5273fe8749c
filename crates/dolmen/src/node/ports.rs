//! Which NVMe/TCP ports the node listens on, and whether all its ports can be had: asked before a drive is touched.

use crate::{config::ServeOptions, node::ServeError};
use dolmen_export::nbd::Listen;
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    time::Duration,
};

/// How often, and how far apart, a port that is taken is tried again: a killed daemon's ports are free a moment after its
/// process has gone.
const PATIENCE_TRIES: u32 = 50;
const PATIENCE_PAUSE: Duration = Duration::from_millis(20);

/// The NVMe/TCP ports in force.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) data: u16,
    pub(super) discovery: u16,
}

impl Ports {
    /// The ports asked for, every one of which can be listened on; free ones for 0, the same for every core and address.
    pub(super) fn choose(options: &ServeOptions) -> Result<Ports, ServeError> {
        let ip = options.listen.first().copied().ok_or_else(|| ServeError::new("no address to listen on"))?;
        let free = || {
            let refused = |why| {
                ServeError::new(format!("--listen {ip}: no address of this machine to listen on: {why}"))
            };
            TcpListener::bind(SocketAddr::new(ip, 0)).map_err(refused)
        };
        // Both are held while they are chosen, so that they differ.
        let (data, discovery) = (free()?, free()?);
        for (flag, port) in [
            ("--port", options.port),
            ("--discovery-port", options.discovery_port),
            ("--api-port", options.api_port),
        ] {
            for &ip in &options.listen {
                available(SocketAddr::new(ip, port)).map_err(|why| refusal(flag, ip, port, &why))?;
            }
        }
        for listen in options.nbd.iter().flat_map(|nbd| &nbd.listen) {
            if let Listen::Tcp(at) = listen {
                available(*at).map_err(|why| refusal("--nbd", at.ip(), at.port(), &why))?;
            }
        }
        let choose = |port: u16, free: &TcpListener| match port {
            0 => free.local_addr().map(|a| a.port()).map_err(ServeError::system),
            _ => Ok(port),
        };
        Ok(Ports {
            data: choose(options.port, &data)?,
            discovery: choose(options.discovery_port, &discovery)?,
        })
    }
}

/// Binds and lets go again, alone: cores of one process share their ports later, two daemons must not.
fn available(address: SocketAddr) -> io::Result<()> {
    let attempt = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())
    };
    for _ in 0..PATIENCE_TRIES {
        match attempt() {
            Err(why) if why.kind() == io::ErrorKind::AddrInUse => std::thread::sleep(PATIENCE_PAUSE),
            other => return other,
        }
    }
    attempt()
}

fn refusal(flag: &str, ip: IpAddr, port: u16, why: &io::Error) -> ServeError {
    let address = SocketAddr::new(ip, port);
    let way_out = match why.kind() {
        io::ErrorKind::AddrInUse => "another program listens there; stop it, or give another port",
        io::ErrorKind::PermissionDenied => "ports below 1024 need root or CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "that is no address of this machine",
        _ => return ServeError::new(format!("{flag} {port}: can't listen on {address}: {why}")),
    };
    ServeError::new(format!("{flag} {port}: can't listen on {address}: {way_out}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ServeArgs;

    #[test]
    fn a_port_that_is_taken_is_told_by_its_flag_even_where_the_holder_shares_it() {
        let holder = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        holder.set_reuse_port(true).unwrap();
        holder.set_reuse_address(true).unwrap();
        holder.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        holder.listen(1).unwrap();
        let port = holder.local_addr().unwrap().as_socket().unwrap().port();
        let args = ServeArgs {
            drive: vec!["/no/such/drive".into()],
            listen: vec!["127.0.0.1".parse().unwrap()],
            port: Some(0),
            discovery_port: Some(port),
            api_port: Some(0),
            ..ServeArgs::default()
        };
        let mut options = ServeOptions::load(Some("/no/such/folder".as_ref()), args).unwrap();
        let why = Ports::choose(&options).unwrap_err().to_string();
        assert!(
            why.starts_with(&format!("--discovery-port {port}: ")) && why.contains("another port"),
            "{why}"
        );
        options.discovery_port = 0;
        let chosen = Ports::choose(&options).unwrap();
        assert!(chosen.data != 0 && chosen.discovery != 0 && chosen.data != chosen.discovery);
    }
}
