//! A real daemon over file drives, its command line, and a host that reads and writes.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // what one test file does not use; a test that can't go on fails

use dolmen_initiator::{
    Namespace, Options,
    blocking::{Session, SessionError},
};
use dolmen_io::Io;
use dolmen_types::{Nqn, Uuid};
use dolmen_uring::{Uring, UringConfig};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

pub const DOLMEN: &str = env!("CARGO_BIN_EXE_dolmen");

/// Bytes of one write of the host.
const CHUNK: usize = 64 << 10;

/// A node and where its things are.
pub struct Node {
    pub dir: tempfile::TempDir,
    child: Option<Child>,
}

impl Node {
    pub fn new() -> Node {
        Node { dir: tempfile::tempdir().unwrap(), child: None }
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn drive(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn serve(&self, drives: &[&str], more: &[&str]) -> Command {
        let mut command = Command::new(DOLMEN);
        command.arg("serve").arg("--data").arg(self.data()).args(["--listen", "127.0.0.1", "--sparse"]);
        if !more.contains(&"--port") {
            command.args(["--port", "0"]);
        }
        command.args(["--discovery-port", "0", "--api-port", "0"]).args(more);
        for drive in drives {
            command.arg("--drive").arg(format!("{}:256MiB", self.drive(drive).display()));
        }
        command
    }

    /// Starts it and waits until it serves.
    pub fn start(&mut self, drives: &[&str], more: &[&str]) {
        self.run(self.serve(drives, more));
    }

    /// The same with a line for a shell, which runs in another folder and names no ports.
    pub fn start_by(&mut self, line: &str) {
        let rest = "--listen 127.0.0.1 --port 0 --discovery-port 0 --api-port 0";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("exec {line} {rest}")]).current_dir("/");
        command.env("PATH", Path::new(DOLMEN).parent().unwrap());
        self.run(command);
    }

    fn run(&mut self, mut command: Command) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.drive("log")).unwrap();
        self.child = Some(command.stderr(log).spawn().unwrap());
        let endpoint = self.data().join("endpoint");
        let log = self.drive("log");
        within(&|| std::fs::read_to_string(&log).unwrap(), || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "{}", std::fs::read_to_string(&log).unwrap());
            endpoint.exists()
        });
    }

    /// A start that is refused; what it says.
    pub fn refused(&self, drives: &[&str], more: &[&str]) -> String {
        let Output { status, stderr, .. } = self.serve(drives, more).output().unwrap();
        assert_eq!(status.code(), Some(1));
        String::from_utf8(stderr).unwrap()
    }

    pub fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        assert!(child.wait().unwrap().success());
    }

    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // A daemon that was killed leaves it behind; the next start is waited for by it.
        let _ = std::fs::remove_file(self.data().join("endpoint"));
    }

    /// Stops it where it is, or lets it go on.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(DOLMEN);
        command.arg("--data").arg(self.data()).args(["--output", "json"]).args(args).stdin(Stdio::null());
        command
    }

    fn ask(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Begins a command that takes its time.
    pub fn begin(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// What the command line answers.
    pub fn cli(&self, args: &[&str]) -> Value {
        let Output { status, stdout, stderr } = self.ask(args);
        assert!(status.success(), "{args:?}: {}", String::from_utf8_lossy(&stderr));
        serde_json::from_slice(&stdout).unwrap()
    }

    /// What it answers although it ends with this code.
    pub fn answers(&self, code: i32, args: &[&str]) -> Value {
        let Output { status, stdout, stderr } = self.ask(args);
        assert_eq!(status.code(), Some(code), "{args:?}: {}", String::from_utf8_lossy(&stderr));
        serde_json::from_slice(&stdout).unwrap()
    }

    /// What `pool check` tells where nothing is lost, whether something is to be repaired or not.
    pub fn check(&self) -> Value {
        let Output { status, stdout, stderr } = self.ask(&["pool", "check"]);
        assert!(matches!(status.code(), Some(0 | 8)), "{}", String::from_utf8_lossy(&stderr));
        serde_json::from_slice(&stdout).unwrap()
    }

    /// What it says when it fails with this code.
    pub fn fails(&self, code: i32, args: &[&str]) -> String {
        let Output { status, stderr, .. } = self.ask(args);
        let stderr = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(code), "{args:?}: {stderr}");
        stderr
    }

    /// The names of all events so far.
    pub fn events(&self) -> Vec<String> {
        let events = self.cli(&["event", "list", "--limit", "1000"]);
        events.as_array().unwrap().iter().map(|e| e["EventName"].as_str().unwrap().to_string()).collect()
    }

    /// Waits until an event is listed.
    pub fn until_event(&self, name: &str) {
        within(&|| format!("{name} in {:?}", self.events()), || self.events().iter().any(|e| e == name));
    }

    /// The state of each drive, by file name; of one that came back, that of the newest.
    pub fn states(&self) -> Vec<(String, String)> {
        let drives = self.cli(&["drive", "list"]);
        let name = |d: &Value| {
            let name = Path::new(d["path"].as_str().unwrap()).file_name().unwrap_or_default();
            name.to_str().unwrap().to_string()
        };
        drives
            .as_array()
            .unwrap()
            .iter()
            .map(|d| (name(d), d["state"].as_str().unwrap().to_string()))
            .collect()
    }

    /// Waits until nothing lacks a drive.
    pub fn until_protected(&self) {
        within(&|| self.cli(&["pool", "show"]).to_string(), || {
            let all = self.cli(&["pool", "show"])["reprotection"]["state"] == "Protected";
            all && self.states().iter().all(|(_, state)| state == "Active")
        });
    }

    /// A host that is connected to the volume with an NSID.
    pub fn host(&self, nsid: u32) -> Host {
        let status = self.cli(&["status"]);
        let port: u16 = status["nvmePort"].as_u64().unwrap().try_into().unwrap();
        let io = Io::new(Box::new(Uring::new(&UringConfig::default()).unwrap()));
        let nqn: Nqn = status["subsystemNQN"].as_str().unwrap().parse().unwrap();
        let host: Nqn = "nqn.2014-08.org.example:host".parse().unwrap();
        let address = format!("127.0.0.1:{port}").parse().unwrap();
        let options = Options::new(address, nqn, host, Uuid::from_random([9; 16]));
        let mut session = Session::connect(io, options).unwrap();
        let namespace = session.namespace(nsid).unwrap();
        Host { session, namespace }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A connected host.
pub struct Host {
    pub session: Session,
    namespace: Namespace,
}

impl Host {
    /// The 64 KiB that `fill` writes at `at` times as much.
    pub fn chunk(seed: u64, at: u64) -> Vec<u8> {
        let mut x = (seed << 32 | at).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x.to_le_bytes()
        };
        (0..CHUNK / 8).flat_map(|_| next()).collect()
    }

    /// Writes `mib` MiB of incompressible data that `seed` tells again.
    pub fn fill(&mut self, seed: u64, mib: u64) {
        self.try_fill(seed, mib).unwrap();
    }

    /// The same until a write is refused; the MiB that were taken before, whole ones, and why no more were.
    pub fn try_fill(&mut self, seed: u64, mib: u64) -> Result<(), (u64, SessionError)> {
        for at in 0..mib << 20 >> CHUNK.trailing_zeros() {
            let lba = at * (CHUNK as u64 / u64::from(self.namespace.block_bytes));
            let written = self.session.write(&self.namespace, lba, &Host::chunk(seed, at));
            written.map_err(|why| ((at * CHUNK as u64) >> 20, why))?;
        }
        Ok(())
    }

    /// The same from so many MiB on.
    pub fn fill_from(&mut self, seed: u64, from: u64, mib: u64) {
        for at in Host::chunks(from, mib) {
            let lba = at * (CHUNK as u64 / u64::from(self.namespace.block_bytes));
            self.session.write(&self.namespace, lba, &Host::chunk(seed, at)).unwrap();
        }
    }

    fn chunks(from: u64, mib: u64) -> std::ops::Range<u64> {
        from << 20 >> CHUNK.trailing_zeros()..(from + mib) << 20 >> CHUNK.trailing_zeros()
    }

    /// Reads it back.
    pub fn verify(&mut self, seed: u64, mib: u64) {
        self.verify_from(seed, 0, mib);
    }

    /// The same from so many MiB on.
    pub fn verify_from(&mut self, seed: u64, from: u64, mib: u64) {
        let mut got = vec![0; CHUNK];
        for at in Host::chunks(from, mib) {
            let lba = at * (CHUNK as u64 / u64::from(self.namespace.block_bytes));
            self.session.read(&self.namespace, lba, &mut got).unwrap();
            assert!(got == Host::chunk(seed, at), "chunk {at} of {seed}");
        }
    }
}

/// Waits for something, for a bounded time.
pub fn within(what: &dyn Fn() -> String, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "takes too long: {}", what());
        std::thread::sleep(Duration::from_millis(50));
    }
}
