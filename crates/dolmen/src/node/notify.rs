//! Tells systemd (`Type=notify`) where we are; does nothing elsewhere. See sd_notify(3).

use std::os::{linux::net::SocketAddrExt, unix::net::{SocketAddr, UnixDatagram}};

/// We serve.
pub(super) fn ready() {
    tell("READY=1");
}

/// We are about to end.
pub(super) fn stopping() {
    tell("STOPPING=1");
}

fn tell(state: &str) {
    let Ok(path) = std::env::var("NOTIFY_SOCKET") else { return };
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let sent = address.and_then(|to| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &to));
    if let Err(error) = sent {
        tracing::warn!(%error, "systemd can't be told: {state}");
    }
}
