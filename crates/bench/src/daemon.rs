//! A daemon of our own for the length of a run: `dolmen serve` with a null volume, pinned to the servers' CPU.

use crate::{Result, args::Args, cores, loopback};
use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long the daemon may take until it answers.
const READY: Duration = Duration::from_secs(15);
/// Size of the null volume.
const VOLUME_SIZE: &str = "4GiB";

/// A running daemon; dropping it ends it and removes its folder.
pub(crate) struct Daemon {
    child: Child,
    folder: PathBuf,
    addr: SocketAddr,
}

impl Daemon {
    /// Starts `program` and makes the volume.
    pub(crate) fn start(program: &Path, args: &Args) -> Result<Daemon> {
        let folder = std::env::temp_dir().join(format!("dolmen-bench-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let [port, discovery, api] = free_ports()?;
        let mut serve = Command::new(program);
        serve.arg("serve").arg("--data").arg(&folder);
        serve.arg("--drive").arg(format!("{}:1GiB", folder.join("drive0").display()));
        serve.args(["--sparse", "--listen", "127.0.0.1", "--allow-test-volumes", "--log-level", "warn"]);
        serve.args(["--port", &port.to_string(), "--discovery-port", &discovery.to_string()]);
        serve.args(["--api-port", &api.to_string(), "--cores", &format!("{0}-{0}", args.server_cpu)]);
        serve.args(&args.serve_arg);
        // Children inherit the affinity of the thread that starts them.
        let child = std::thread::scope(|scope| {
            let start =
                scope.spawn(|| cores::pin(args.server_cpu).and_then(|()| serve.stdin(Stdio::null()).spawn()));
            start.join().expect("starting a process doesn't panic")
        });
        let child = child.map_err(|e| format!("{}: {e}", program.display()))?;
        let mut daemon = Daemon { child, folder, addr: loopback(port) };
        daemon.wait_ready(program)?;
        let host = args.host_nqn.as_str();
        let create = ["volume", "create", "bench", "--kind", "null", "--size", VOLUME_SIZE, "--acl", host];
        let made = daemon.verb(program, &create).output()?;
        if !made.status.success() {
            return Err(format!("making the volume: {}", String::from_utf8_lossy(&made.stderr)).into());
        }
        Ok(daemon)
    }

    /// Where it serves NVMe/TCP.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn verb(&self, program: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.arg("--data").arg(&self.folder).args(words).stdin(Stdio::null());
        command
    }

    fn wait_ready(&mut self, program: &Path) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("the daemon ended at once: {status}").into());
            }
            if self.verb(program, &["status"]).output()?.status.success() {
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

/// Three ports that nobody uses now.
fn free_ports() -> Result<[u16; 3]> {
    let hold = || TcpListener::bind(loopback(0));
    let held = [hold()?, hold()?, hold()?];
    let mut ports = [0; 3];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}
