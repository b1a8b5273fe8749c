//! The daemon under test: started on free ports of the loopback in a folder of its own, killed with its owner.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// From start, or restart after a kill, to accepting hosts: the promise.
const READY_LIMIT: Duration = Duration::from_secs(10);

/// From SIGTERM to the end of the process.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Size of the drive; a file, preallocated by the daemon.
const DRIVE_SIZE: &str = "6GiB";

/// The host's loopback as the guest sees it.
const ADVERTISED: &str = "192.0.2.2";

/// A running (or, in between, killed) daemon.
pub(crate) struct Daemon {
    binary: PathBuf,
    folder: tempfile::TempDir,
    child: Option<Child>,
    /// Ports of hosts' I/O, discovery and the management API.
    pub(crate) port: u16,
    pub(crate) discovery_port: u16,
    api_port: u16,
    /// The port of NBD clients.
    pub(crate) nbd_port: u16,
    starts: u32,
}

impl Daemon {
    /// Starts a daemon in a fresh folder below `work` and waits until it serves.
    pub(crate) fn start(binary: &Path, work: &Path) -> Result<Self> {
        if !binary.is_file() {
            bail!("{} is not there: cargo build --release", binary.display());
        }
        let folder = tempfile::Builder::new().prefix("node-").tempdir_in(work)?;
        let ports = free_ports(4)?;
        let mut daemon = Self {
            binary: binary.to_owned(),
            folder,
            child: None,
            port: ports[0],
            discovery_port: ports[1],
            api_port: ports[2],
            nbd_port: ports[3],
            starts: 0,
        };
        daemon.launch()?;
        Ok(daemon)
    }

    /// Starts the process again after it was killed or stopped, and waits until it serves.
    pub(crate) fn launch(&mut self) -> Result<()> {
        self.starts += 1;
        let log = File::create(self.log_file())?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(&self.binary)
            .args(["serve", "--listen", "127.0.0.1", "--advertise", ADVERTISED, "--data"])
            .arg(self.data_dir())
            .arg("--drive")
            .arg(format!("{}:{DRIVE_SIZE}", self.folder.path().join("drive").display()))
            .args(["--port", &self.port.to_string()])
            .args(["--discovery-port", &self.discovery_port.to_string()])
            .args(["--api-port", &self.api_port.to_string()])
            .args(["--nbd", &self.nbd_port.to_string(), "--nbd-host", super::brick::HOST_NQN])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", self.binary.display()))?;
        self.child = Some(child);
        self.await_ready()
    }

    /// Waits until every port accepts and the daemon says that it is ready: on a busy machine that is a moment later. A process
    /// that ended is an error at once.
    fn await_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        for port in [self.port, self.discovery_port, self.api_port] {
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                self.pause(deadline, &format!("did not open port {port}"))?;
            }
        }
        while !self.log().contains(" ready ") {
            self.pause(deadline, "did not say that it is ready")?;
        }
        Ok(())
    }

    /// A moment's wait for the daemon; an error when it has ended, or when the time is up.
    fn pause(&mut self, deadline: Instant, what: &str) -> Result<()> {
        if let Some(status) = self.running()?.try_wait()? {
            bail!("the daemon ended with {status}:\n{}", self.log());
        }
        if Instant::now() > deadline {
            bail!("the daemon {what} within {READY_LIMIT:?}:\n{}", self.log());
        }
        std::thread::sleep(Duration::from_millis(20));
        Ok(())
    }

    /// `kill -9`, and waits for the process to be gone.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the daemon is not running")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGTERM; the process has to end by itself, in time and with exit code zero.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the daemon is not running")?;
        crate::sh::run("kill").args(["-TERM", &child.id().to_string()]).bytes()?;
        let deadline = Instant::now() + STOP_LIMIT;
        loop {
            if let Some(status) = child.try_wait()? {
                if status.success() {
                    return Ok(());
                }
                bail!("the daemon ended with {status} on SIGTERM:\n{}", self.log());
            }
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                bail!("the daemon did not end within {STOP_LIMIT:?} of SIGTERM:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Processor time the daemon has used so far, all threads together, in clock ticks of 10 ms.
    pub(crate) fn cpu_ticks(&mut self) -> Result<u64> {
        let pid = self.running()?.id();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name in brackets may hold anything; utime and stime are the 12th and 13th field behind it.
        let (_, fields) = stat.rsplit_once(')').context("a stat line without a name")?;
        let fields = fields.split_whitespace().skip(11).take(2);
        fields.map(|ticks| ticks.parse::<u64>().context("a stat line without times")).sum()
    }

    /// Runs a verb of the command line against this daemon and returns its JSON.
    pub(crate) fn cli(&self, words: &[&str]) -> Result<Value> {
        let text = crate::sh::run(&self.binary.to_string_lossy())
            .arg("--data")
            .arg(self.data_dir())
            .args(["--output", "json"])
            .args(words)
            .text()?;
        if text.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).with_context(|| format!("`dolmen {}` printed:\n{text}", words.join(" ")))
    }

    /// What the daemon has logged since its last start.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join(format!("log-{}", self.starts))
    }

    fn running(&mut self) -> Result<&mut Child> {
        self.child.as_mut().context("the daemon is not running")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Ports that the kernel gives to nobody by itself (it gives those from 32768 on), so that none is lost to a connection of
/// another test while the daemon that listens there is being restarted.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Ports of the loopback that nobody listens on now; no two calls of this process get the same one.
pub(crate) fn free_ports(count: usize) -> Result<Vec<u16>> {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    // Another process begins elsewhere.
    let start = std::process::id().wrapping_mul(97);
    let mut found = Vec::new();
    for _ in PORTS {
        let step = start.wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + u16::try_from(step % u32::from(PORTS.end - PORTS.start))?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            found.push(port);
        }
        if found.len() == count {
            return Ok(found);
        }
    }
    bail!("fewer than {count} of the ports {} to {} are free", PORTS.start, PORTS.end)
}
