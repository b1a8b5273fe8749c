//! A daemon of our own for the length of a run: `dolmen serve` on the servers' CPUs, with volumes that keep nothing or keep
//! it in memory.

use crate::{Result, cores, loopback};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// How long the daemon may take until it answers.
const READY: Duration = Duration::from_secs(15);

/// How a daemon is started.
#[derive(Clone, Debug)]
pub(crate) struct Plan<'a> {
    /// The dolmen program.
    pub(crate) program: &'a Path,
    /// Its cores' CPUs.
    pub(crate) cpus: &'a [usize],
    /// How long an idle core polls before it sleeps; its own default if `None`.
    pub(crate) poll_window_us: Option<u64>,
    /// More arguments for `dolmen serve`.
    pub(crate) more: &'a [String],
    /// Who may use the volumes.
    pub(crate) host_nqn: &'a str,
}

/// A running daemon; dropping it ends it and removes its folder.
pub(crate) struct Daemon {
    child: Child,
    program: PathBuf,
    host_nqn: String,
    folder: PathBuf,
    addr: SocketAddr,
}

impl Daemon {
    /// Starts it, without volumes.
    pub(crate) fn start(plan: &Plan) -> Result<Daemon> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let name = format!("dolmen-bench-{}-{}", std::process::id(), STARTED.fetch_add(1, Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder)?;
        let [port, discovery, api] = free_ports()?;
        let cpus: Vec<String> = plan.cpus.iter().map(ToString::to_string).collect();
        // A list of one would be a count.
        let cores = if let [one] = cpus.as_slice() { format!("{one}-{one}") } else { cpus.join(",") };
        let mut serve = Command::new(plan.program);
        serve.arg("serve").arg("--data").arg(&folder);
        serve.arg("--drive").arg(format!("{}:1GiB", folder.join("drive0").display()));
        serve.args(["--sparse", "--listen", "127.0.0.1", "--allow-test-volumes", "--log-level", "warn"]);
        serve.args(["--port", &port.to_string(), "--discovery-port", &discovery.to_string()]);
        serve.args(["--api-port", &api.to_string(), "--cores", &cores]);
        if let Some(us) = plan.poll_window_us {
            serve.args(["--poll-window-us", &us.to_string()]);
        }
        serve.args(plan.more).stdin(Stdio::null());
        let child =
            cores::spawn_on(plan.cpus, serve).map_err(|e| format!("{}: {e}", plan.program.display()))?;
        let (program, host_nqn) = (plan.program.to_owned(), plan.host_nqn.to_owned());
        let mut daemon = Daemon { child, program, host_nqn, folder, addr: loopback(port) };
        daemon.wait_ready()?;
        Ok(daemon)
    }

    /// Makes a volume of a kind: `null` or `memory`.
    pub(crate) fn volume(&self, name: &str, kind: &str, size_bytes: u64) -> Result<()> {
        let size = format!("{}MiB", size_bytes >> 20);
        let words = ["volume", "create", name, "--kind", kind, "--size", &size, "--acl", &self.host_nqn];
        let made = self.verb(&words).output()?;
        if !made.status.success() {
            return Err(format!("making the volume: {}", String::from_utf8_lossy(&made.stderr)).into());
        }
        Ok(())
    }

    /// Where it serves NVMe/TCP.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops all its threads until [`Daemon::thaw`]: it takes no time from whoever has its turn.
    pub(crate) fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    fn verb(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--data").arg(&self.folder).args(words).stdin(Stdio::null());
        command
    }

    fn wait_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("the daemon ended at once: {status}").into());
            }
            if self.verb(&["status"]).output()?.status.success() {
                return Ok(());
            }
            if start.elapsed() > READY {
                return Err("the daemon didn't become ready in 15 seconds".into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Nothing can be done about a failure here, and a leftover folder harms nobody.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Ports that nobody uses now.
pub(crate) fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut held = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind(loopback(0))?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}
