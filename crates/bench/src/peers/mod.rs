//! Others that serve blocks from user space, from Debian's packages, on the same CPUs and under the same load.
//!
//! Their servers keep data in memory: nbdkit's memory plugin; qemu-nbd and tgt over a file on a tmpfs. Their clients are the
//! usual ones: fio's nbd engine, and libiscsi's iscsi-perf for tgt.

mod fio;
mod iscsi;

use crate::{
    Result, cores,
    daemon::free_ports,
    floor::{Course, Rates},
    workload::{Shape, Workload},
};
use std::{
    env, fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How much they serve. Bytes.
const SIZE_BYTES: u64 = 256 << 20;
/// How long a server may take to listen.
const READY: Duration = Duration::from_secs(10);
/// The iSCSI target's name.
const IQN: &str = "iqn.2026-11.org.example:bench";

/// Who.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// nbdkit with its memory plugin.
    Nbdkit,
    /// qemu-nbd over a file in memory.
    QemuNbd,
    /// tgt over a file in memory, by iSCSI.
    Tgt,
}

impl Peer {
    pub(crate) const ALL: [Peer; 3] = [Peer::Nbdkit, Peer::QemuNbd, Peer::Tgt];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::Nbdkit => "nbdkit memory",
            Peer::QemuNbd => "qemu-nbd",
            Peer::Tgt => "tgt iSCSI",
        }
    }

    /// Whether its client knows such a load: iscsi-perf only reads.
    pub(crate) fn can(self, workload: &Workload) -> bool {
        self != Peer::Tgt || workload.shape == Shape::Read
    }

    /// The programs it takes and their Debian packages.
    fn programs(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Peer::Nbdkit => &[("nbdkit", "nbdkit"), ("fio", "fio")],
            Peer::QemuNbd => &[("qemu-nbd", "qemu-utils"), ("fio", "fio")],
            Peer::Tgt => &[("tgtd", "tgt"), ("tgtadm", "tgt"), ("iscsi-perf", "libiscsi-bin")],
        }
    }
}

/// A server that runs; dropping it ends it.
pub(crate) struct Server {
    peer: Peer,
    child: Child,
    folder: PathBuf,
    port: u16,
    /// tgt's own: which of its daemons a command is for.
    control: u16,
}

impl Server {
    /// Starts it on the servers' CPU.
    ///
    /// # Errors
    /// Which program is missing, or what it said.
    pub(crate) fn start(peer: Peer, course: &Course) -> Result<Server> {
        for (program, package) in peer.programs() {
            find(program).ok_or_else(|| format!("{program} is missing (Debian package {package})"))?;
        }
        let folder = memory_folder().join(format!("dolmen-bench-{}-{peer:?}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let [port, control] = free_ports()?;
        // tgt takes control numbers of 15 bits.
        let control = control & 0x7fff;
        let file = folder.join("disk");
        let mut command = match peer {
            Peer::Nbdkit => nbdkit(port),
            Peer::QemuNbd => qemu_nbd(port, &file),
            Peer::Tgt => tgtd(port, control),
        };
        if peer != Peer::Nbdkit {
            fill(&file)?;
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(fs::File::create(folder.join("log"))?);
        let child = cores::spawn_on(&[course.server_cpu], command)?;
        let mut server = Server { peer, child, folder, port, control };
        server.wait_ready()?;
        if peer == Peer::Tgt {
            server.tgt_disk(&file)?;
        }
        Ok(server)
    }

    /// One contest: its client on the clients' CPU.
    pub(crate) fn run(&self, workload: &Workload, course: &Course) -> Result<Rates> {
        let mut command = match self.peer {
            Peer::Nbdkit | Peer::QemuNbd => fio::command(self.port, SIZE_BYTES, workload, course),
            Peer::Tgt => iscsi::command(self.port, IQN, workload, course),
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = cores::spawn_on(&[course.client_cpu], command)?.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(
                format!("{}: its client ended with {}: {said}", self.peer.name(), output.status).into()
            );
        }
        match self.peer {
            Peer::Nbdkit | Peer::QemuNbd => fio::rates(&text, workload),
            Peer::Tgt => iscsi::rates(&text, workload),
        }
    }

    fn wait_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.child.try_wait()?;
            if ended.is_some() || start.elapsed() > READY {
                let said = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                return Err(format!("{} doesn't listen: {said}", self.peer.name()).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn tgt_disk(&self, file: &Path) -> Result<()> {
        let control = self.control.to_string();
        let file = file.display().to_string();
        let target = ["--mode", "target", "--tid", "1"];
        let unit = ["--mode", "logicalunit", "--tid", "1"];
        let steps: [(&str, &[&str], &[&str]); 3] = [
            ("new", &target, &["-T", IQN]),
            ("new", &unit, &["--lun", "1", "-b", &file]),
            ("bind", &target, &["-I", "ALL"]),
        ];
        for (op, object, more) in steps {
            let mut command = Command::new(find("tgtadm").ok_or("tgtadm has gone")?);
            command.args(["-C", &control, "--lld", "iscsi", "--op", op]).args(object).args(more);
            let done = command.output()?;
            if !done.status.success() {
                return Err(format!("tgtadm: {}", String::from_utf8_lossy(&done.stderr)).into());
            }
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing can be done about a failure here.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn nbdkit(port: u16) -> Command {
    let mut command = program("nbdkit");
    command.args(["-f", "-i", "127.0.0.1", "-p", &port.to_string(), "memory", &SIZE_BYTES.to_string()]);
    command
}

fn qemu_nbd(port: u16, file: &Path) -> Command {
    let mut command = program("qemu-nbd");
    // As many clients as ever connect, one after the other; the page cache holds the file anyway.
    command.args(["-b", "127.0.0.1", "-p", &port.to_string(), "-f", "raw", "-t", "-e", "64"]);
    command.arg("--cache=writeback").arg(file);
    command
}

fn tgtd(port: u16, control: u16) -> Command {
    let mut command = program("tgtd");
    command.args(["-f", "--iscsi", &format!("portal=127.0.0.1:{port}"), "-C", &control.to_string()]);
    command
}

/// A command for a program that [`find`] has found; else its bare name, which fails with an error that names it.
fn program(name: &str) -> Command {
    Command::new(find(name).unwrap_or_else(|| name.into()))
}

/// Where a program lies: the path, or the sbin folders that an ordinary user's path lacks.
fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// A folder whose files are in memory.
fn memory_folder() -> PathBuf {
    let shm = PathBuf::from("/dev/shm");
    if shm.is_dir() { shm } else { env::temp_dir() }
}

/// A disk that is not sparse and not of zeros.
fn fill(file: &Path) -> Result<()> {
    let piece: Vec<u8> =
        (0..1u32 << 18).flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let mut all = Vec::with_capacity(1 << 28);
    while (all.len() as u64) < SIZE_BYTES {
        all.extend_from_slice(&piece);
    }
    Ok(fs::write(file, all)?)
}
