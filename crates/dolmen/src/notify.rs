//! Readiness for the service manager: the sd_notify protocol, which is one datagram.

use std::{
    ffi::OsString,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// What the service manager is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// All ports accept.
    Ready,
    /// On the way down.
    Stopping,
}

/// Tells the service manager, if there is one (`NOTIFY_SOCKET`); without one nothing happens.
pub fn tell(phase: Phase) {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET")
        && let Err(why) = send(&socket, phase)
    {
        tracing::warn!("the service manager can't be told: {why}");
    }
}

fn send(socket: &OsString, phase: Phase) -> io::Result<()> {
    let message: &[u8] = match phase {
        Phase::Ready => b"READY=1\nSTATUS=serving\n",
        Phase::Stopping => b"STOPPING=1\nSTATUS=stopping\n",
    };
    // A leading @ stands for the abstract namespace (sd_notify(3)).
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message, &address).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_ready_in_one_datagram() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        send(&path.into_os_string(), Phase::Ready).unwrap();
        let mut buffer = [0; 64];
        let len = manager.recv(&mut buffer).unwrap();
        assert!(buffer[..len].starts_with(b"READY=1\n"));
        assert!(send(&OsString::from("/no/such/socket"), Phase::Stopping).is_err());
    }
}
