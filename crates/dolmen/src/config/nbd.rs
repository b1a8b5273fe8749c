//! Where NBD clients find us, and who they are to volumes.

use super::ConfigError;
use crate::node::router::NbdAccess;
use dolmen_export::nbd::Listen;
use dolmen_types::Nqn;
use std::net::{Ipv4Addr, SocketAddr};

/// Places to listen at most. Count.
const MAX_LISTEN: usize = 16;

/// The host that NBD clients are, unless another is named.
const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:6e6264ff-0000-4000-8000-646f6c6d656e";

/// The NBD door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NbdOptions {
    /// Where it listens; at least one.
    pub listen: Vec<Listen>,
    /// Who its clients are to volumes.
    pub access: NbdAccess,
}

impl NbdOptions {
    /// What `serve` was told; `None` when nothing.
    pub(super) fn check(
        listen: &[String],
        host: Option<&str>,
        read_only: bool,
    ) -> Result<Option<NbdOptions>, ConfigError> {
        if listen.is_empty() {
            if host.is_some() || read_only {
                return Err(ConfigError::new("--nbd-host and --nbd-read-only say nothing without --nbd"));
            }
            return Ok(None);
        }
        if listen.len() > MAX_LISTEN {
            return Err(ConfigError::new(format!("--nbd: {} given, at most {MAX_LISTEN}", listen.len())));
        }
        let listen = listen.iter().map(|text| {
            let parsed = parse_nbd_listen(text);
            parsed.map_err(|why| ConfigError::new(format!("--nbd {text}: {why}")))
        });
        let listen = listen.collect::<Result<Vec<_>, _>>()?;
        if listen.contains(&Listen::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))) {
            return Err(ConfigError::new("--nbd 0: clients need to know the port; choose one"));
        }
        let host = host.unwrap_or(HOST);
        // No volume can admit any other.
        let host =
            Nqn::of_host(host).map_err(|why| ConfigError::new(format!("--nbd-host '{host}' is {why}")))?;
        Ok(Some(NbdOptions { listen, access: NbdAccess { host, read_only } }))
    }
}

/// Reads `PORT` (on the loopback address), `IP:PORT` or `unix:PATH`.
pub fn parse_nbd_listen(text: &str) -> Result<Listen, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.is_empty() { Err("write unix:PATH".into()) } else { Ok(Listen::Unix(path.into())) };
    }
    let port = || text.parse().ok().map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let addr = text.parse().ok().or_else(port);
    addr.map(Listen::Tcp).ok_or_else(|| "write PORT, IP:PORT or unix:PATH".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_the_loopback_address_is_the_usual_one() {
        let at = |text: &str| parse_nbd_listen(text);
        assert_eq!(at("10809"), Ok(Listen::Tcp("127.0.0.1:10809".parse().unwrap())));
        assert_eq!(at("[::]:9"), Ok(Listen::Tcp("[::]:9".parse().unwrap())));
        assert_eq!(at("unix:/run/x"), Ok(Listen::Unix("/run/x".into())));
        assert!(["", "unix:", "x", "99999", "127.0.0.1"].iter().all(|text| at(text).is_err()));
        let texts = |list: &[&str]| list.iter().map(|t| t.to_string()).collect::<Vec<_>>();
        assert_eq!(NbdOptions::check(&[], None, false), Ok(None));
        assert!(NbdOptions::check(&[], Some(HOST), false).is_err());
        assert!(NbdOptions::check(&texts(&["0"]), None, false).is_err());
        assert!(NbdOptions::check(&texts(&["1"]), Some("x"), false).is_err());
        let both = NbdOptions::check(&texts(&["1", "unix:/a"]), None, true).unwrap().unwrap();
        assert_eq!((both.listen.len(), both.access.read_only), (2, true));
    }
}
