//! A network of the run's own, so that what a machine has set for all its sockets does not decide who is how fast.
//!
//! What matters most is the congestion control, which is the system's default for everybody here, peers too. BBR paces what is sent by timers; in
//! a virtual machine each costs as much as a command, and connections that share a CPU never learn how fast they may go.

use crate::Result;
use std::{
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

/// The choice that leaves everything as it is.
pub(crate) const SYSTEM: &str = "system";

/// Set for the program that runs in its own network: the one it came from.
const INSIDE: &str = "DOLMEN_BENCH_NETWORK";

/// Names the network that a process is in.
const NETWORK_FILE: &str = "/proc/self/ns/net";

const DEFAULT_FILE: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// Goes on in a network namespace with nothing but loopback and this congestion control: starts this program anew there, in the same process.
/// Where the machine permits none, says so and goes on in the machine's network.
pub(crate) fn enter(congestion: &str) -> Result<()> {
    if congestion == SYSTEM {
        return Ok(());
    }
    let here = std::fs::read_link(NETWORK_FILE)?;
    // Whatever else the variable says: the machine's own network is never set up.
    if std::env::var(INSIDE)
        .is_ok_and(|outside| outside.starts_with("net:[") && here.as_os_str() != outside.as_str())
    {
        return set_up(congestion);
    }
    let mut words = vec!["--net"];
    if !rustix::process::geteuid().is_root() {
        words.push("--map-root-user");
    }
    let unshare = || {
        let mut unshare = Command::new("unshare");
        unshare.args(&words).arg("--");
        unshare
    };
    let probe = unshare().arg("true").stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        eprintln!("no network of our own (unshare --net failed): the machine's, with its congestion control");
        return Ok(());
    }
    Err(unshare()
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, here)
        .exec()
        .into())
}

fn set_up(congestion: &str) -> Result<()> {
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    if !up.map_err(|e| format!("ip (of Debian's iproute2): {e}"))?.success() {
        return Err("the loopback device of our network did not come up".into());
    }
    std::fs::write(DEFAULT_FILE, congestion).map_err(|e| {
        let known = "/proc/sys/net/ipv4/tcp_available_congestion_control";
        format!("congestion control {congestion}: {e}; {known} names what there is, --congestion {SYSTEM} leaves it").into()
    })
}
