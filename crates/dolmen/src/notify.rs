//! Readiness for the service manager: the sd_notify protocol, which is one datagram.

use std::{
    ffi::OsString,
    future::Future,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

/// How often the service manager is asked for more time while the node starts: half as long as is asked for.
const PATIENCE_EVERY: Duration = Duration::from_secs(20);
/// How often at most. Drives that hang are waited for with a bound each, one look after the other; what takes longer than that, in
/// all ten minutes, does not end.
const MOST_PATIENCE: usize = 30;

/// What the service manager is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// On the way up, and not stuck: it may take so long from now on.
    Starting,
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

/// Does `start`, and asks the service manager for more time as long as that takes, within reason.
pub async fn while_starting<T>(start: impl Future<Output = T>) -> T {
    let patience = async {
        for _ in 0..MOST_PATIENCE {
            tell(Phase::Starting);
            tokio::time::sleep(PATIENCE_EVERY).await;
        }
        std::future::pending().await
    };
    tokio::select! {
        started = start => started,
        () = patience => unreachable!("it ends with the start"),
    }
}

fn send(socket: &OsString, phase: Phase) -> io::Result<()> {
    let message: &[u8] = match phase {
        Phase::Starting => b"EXTEND_TIMEOUT_USEC=40000000\nSTATUS=opening the pool\n",
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
    fn says_how_far_it_is_in_one_datagram() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let path = path.into_os_string();
        let mut buffer = [0; 128];
        let said = [(Phase::Starting, "EXTEND_TIMEOUT_USEC="), (Phase::Ready, "READY=1\n")];
        for (phase, words) in said {
            send(&path, phase).unwrap();
            let len = manager.recv(&mut buffer).unwrap();
            assert!(buffer[..len].starts_with(words.as_bytes()), "{phase:?}");
        }
        assert!(send(&OsString::from("/no/such/socket"), Phase::Stopping).is_err());
    }
}
