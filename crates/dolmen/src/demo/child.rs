//! The demo's node: `dolmen serve` as a child process, and the ordinary command line beside it.

use crate::control::Endpoint;
use std::{
    error::Error,
    fs::File,
    net::{IpAddr, SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long a node may take until it serves.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// How long it may take to stop in an orderly way.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// This program.
pub(super) fn program() -> std::io::Result<PathBuf> {
    std::env::current_exe()
}

/// Runs a verb of the command line; its output goes to ours.
pub(super) fn run_cli(data: &Path, words: &[&str]) -> Result<(), Box<dyn Error>> {
    let status =
        Command::new(program()?).arg("--data").arg(data).args(words).stdin(Stdio::null()).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`dolmen {}` failed ({status})", words.join(" ")).into())
    }
}

/// A node in a folder.
pub(super) struct Node {
    folder: PathBuf,
    listen: IpAddr,
    ports: [u16; 3],
    child: Option<Child>,
}

impl Node {
    /// Starts a node and waits until it serves.
    pub(super) fn start(folder: &Path, listen: IpAddr) -> Result<Node, Box<dyn Error>> {
        // Held together, so that they differ.
        let probes = [0; 3].map(|port| TcpListener::bind(SocketAddr::new(listen, port)));
        let mut ports = [0; 3];
        for (port, probe) in ports.iter_mut().zip(&probes) {
            let probe = probe.as_ref().map_err(|e| format!("no free port on {listen}: {e}"))?;
            *port = probe.local_addr()?.port();
        }
        drop(probes);
        let mut node = Node { folder: folder.into(), listen, ports, child: None };
        node.spawn()?;
        Ok(node)
    }

    /// Starts the process (again) and waits until it serves.
    pub(super) fn spawn(&mut self) -> Result<(), Box<dyn Error>> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let [data_port, discovery_port, api_port] = self.ports.map(|p| p.to_string());
        let mut command = Command::new(program()?);
        command
            .arg("serve")
            .arg("--data")
            .arg(self.data_folder())
            .arg("--drive")
            .arg(format!("{}:4GiB", self.folder.join("drive0").display()))
            .args(["--sparse", "--listen", &self.listen.to_string(), "--port", &data_port])
            .args(["--discovery-port", &discovery_port, "--api-port", &api_port])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0);
        self.child = Some(command.spawn()?);
        let deadline = Instant::now() + START_DEADLINE;
        while Endpoint::read(&self.data_folder()).is_none() {
            if !self.is_running()? {
                return Err(format!("the node ended at its start:\n{}", self.log_tail()).into());
            }
            if Instant::now() > deadline {
                return Err(format!("the node does not become ready:\n{}", self.log_tail()).into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Where hosts connect.
    pub(super) fn address(&self) -> SocketAddr {
        SocketAddr::new(self.listen, self.ports[0])
    }

    /// The node's `--data`.
    pub(super) fn data_folder(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The NQN that hosts connect to.
    pub(super) fn subsystem_nqn(&self) -> Result<String, Box<dyn Error>> {
        let output = Command::new(program()?)
            .arg("--data")
            .arg(self.data_folder())
            .args(["status", "--output", "json"])
            .output()?;
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|e| {
            format!("`dolmen status` said nothing usable ({e}): {}", String::from_utf8_lossy(&output.stderr))
        })?;
        let nqn = status.get("subsystemNQN").and_then(serde_json::Value::as_str);
        Ok(nqn.ok_or("`dolmen status` does not tell the subsystem NQN")?.to_string())
    }

    /// SIGKILL: no chance to write anything more.
    pub(super) fn kill(&mut self) -> Result<(), Box<dyn Error>> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Endpoint::remove(&self.data_folder());
        Ok(())
    }

    /// True while the process lives.
    pub(super) fn is_running(&mut self) -> std::io::Result<bool> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?.is_none()),
            None => Ok(false),
        }
    }

    /// SIGTERM, and SIGKILL when that does not help.
    pub(super) fn stop(&mut self) -> Result<(), Box<dyn Error>> {
        let Some(child) = &mut self.child else { return Ok(()) };
        if let Some(pid) = rustix::process::Pid::from_raw(i32::try_from(child.id())?) {
            // Gone already is as good.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let deadline = Instant::now() + STOP_DEADLINE;
        while self.is_running()? {
            if Instant::now() > deadline {
                return self.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.child = None;
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The end of the demo, however it comes.
        let _ = self.kill();
    }
}
