//! A running guest: boots, runs scripts with a deadline each, dies with its owner.
//!
//! The host drops a script into the shared folder and says `run N` over the guest's second serial port, which
//! is qemu's standard input and output; the agent in the guest (init.sh) answers `done N STATUS`. Output goes
//! through a file in the shared folder, so its size doesn't matter and nothing needs escaping. Scripts run
//! beside each other. The console goes to a log file that every error names.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::kernel::Kernel;
use super::{NETWORK, initramfs};

/// How long a guest may take from start to its agent's first word; ordinary is five to ten seconds.
const BOOT_DEADLINE: Duration = Duration::from_secs(120);

/// How a guest is set up.
pub(crate) struct Options {
    /// Kernel series, `6.12` or `6.1`.
    pub(crate) series: String,
    /// Virtual processors.
    pub(crate) cpus: u32,
    /// Memory in MiB.
    pub(crate) memory_mib: u32,
    /// Ports of the host's loopback that lead into the guest: (host's port, guest's port).
    pub(crate) forwards: Vec<(u16, u16)>,
    /// The guest's clock counts instructions, one a nanosecond, and stands still for nobody; needs one processor.
    pub(crate) counts_instructions: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            series: "6.12".to_owned(),
            cpus: 2,
            memory_mib: 1536,
            forwards: Vec::new(),
            counts_instructions: false,
        }
    }
}

/// What a script in the guest came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The exit code; 128 and the signal's number for a killed script.
    pub(crate) status: i32,
    /// Standard output and standard error as they came.
    pub(crate) output: String,
}

/// A script running in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Job(u32);

/// A booted guest. Dropping it kills the emulator.
pub(crate) struct Guest {
    emulator: Child,
    agent: ChildStdin,
    lines: Receiver<String>,
    finished: BTreeMap<Job, i32>,
    next_job: u32,
    share: tempfile::TempDir,
    console: PathBuf,
}

impl Guest {
    /// Fetches and builds what is missing, boots, and returns when the guest's agent is ready.
    pub(crate) fn boot(options: &Options, work: &Path) -> Result<Self> {
        let kernel = Kernel::of_series(&options.series, work)?;
        let archive = initramfs::build(&kernel, work)?;
        let share = tempfile::Builder::new().prefix("share-").tempdir_in(work)?;
        fs::create_dir(share.path().join("job"))?;
        let console = work.join(format!("console-{}.log", options.series));
        let mut command = emulator(options, &kernel, &archive, share.path(), "");
        command.arg("-serial").arg(format!("file:{}", console.display())).args(["-serial", "stdio"]);
        let mut emulator = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(work.join(format!("emulator-{}.log", options.series)))?)
            .spawn()
            .context("starting qemu-system-x86_64")?;
        let agent = emulator.stdin.take().context("the emulator's input is a pipe")?;
        let output = emulator.stdout.take().context("the emulator's output is a pipe")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim().to_owned();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let finished = BTreeMap::new();
        let guest = Self { emulator, agent, lines, finished, next_job: 0, share, console };
        let deadline = Instant::now() + BOOT_DEADLINE;
        while guest.next_line(deadline)?.context("the guest did not come up in time")? != "ready" {}
        Ok(guest)
    }

    /// The folder that the guest sees as `/share`.
    pub(crate) fn share(&self) -> &Path {
        self.share.path()
    }

    /// Copies the scripts of `tests/vm` into the shared folder.
    pub(crate) fn bring_scripts(&self) -> Result<()> {
        for entry in fs::read_dir(crate::root().join("tests/vm"))? {
            let path = entry?.path();
            if let Some(name) = path.file_name().filter(|_| path.extension().is_some_and(|ext| ext == "sh")) {
                fs::copy(&path, self.share.path().join(name))?;
            }
        }
        Ok(())
    }

    /// Starts a shell script in the guest and returns at once.
    pub(crate) fn start(&mut self, script: &str) -> Result<Job> {
        let job = Job(self.next_job);
        self.next_job += 1;
        fs::write(self.job_file(job, "sh"), script)?;
        self.say(&format!("run {}", job.0))?;
        Ok(job)
    }

    /// Waits for a script; past the deadline it is killed and the error holds what it had printed.
    pub(crate) fn wait(&mut self, job: Job, limit: Duration) -> Result<Outcome> {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.finished.remove(&job) {
                break status;
            }
            if let Some(line) = self.next_line(deadline)? {
                self.note(&line);
            } else {
                self.say(&format!("kill {}", job.0))?;
                let so_far = self.output_of(job);
                bail!("a script in the guest ran past {} s; so far it printed:\n{so_far}", limit.as_secs());
            }
        };
        Ok(Outcome { status, output: self.output_of(job) })
    }

    /// Whether a script is still running.
    pub(crate) fn is_running(&mut self, job: Job) -> Result<bool> {
        while let Some(line) = self.next_line(Instant::now())? {
            self.note(&line);
        }
        Ok(!self.finished.contains_key(&job))
    }

    /// Runs a shell script and returns its outcome, whatever its exit code.
    pub(crate) fn run(&mut self, script: &str, limit: Duration) -> Result<Outcome> {
        let job = self.start(script)?;
        self.wait(job, limit)
    }

    /// Runs a shell script that has to succeed and returns its output.
    pub(crate) fn check(&mut self, script: &str, limit: Duration) -> Result<String> {
        let outcome = self.run(script, limit)?;
        if outcome.status != 0 {
            bail!("in the guest, exit code {}:\n{script}\n--- printed:\n{}", outcome.status, outcome.output);
        }
        Ok(outcome.output)
    }

    /// What the guest's kernel has printed on its console so far.
    pub(crate) fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    /// Powers the guest off and waits for the emulator to end.
    pub(crate) fn shutdown(mut self) -> Result<()> {
        self.say("off 0")?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if self.emulator.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(anyhow!("the guest did not power off in time"))
    }

    fn say(&mut self, line: &str) -> Result<()> {
        self.agent
            .write_all(format!("{line}\n").as_bytes())
            .and_then(|()| self.agent.flush())
            .with_context(|| format!("talking to the guest; its console is in {}", self.console.display()))
    }

    /// The next line the agent says, or nothing by the deadline; a dead emulator is an error.
    fn next_line(&self, deadline: Instant) -> Result<Option<String>> {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                let console = self.console();
                let tail: Vec<&str> = console.lines().rev().take(15).collect();
                let tail: String = tail.into_iter().rev().map(|line| format!("  {line}\n")).collect();
                bail!("the guest died; its console ({}) ends:\n{tail}", self.console.display())
            }
        }
    }

    fn note(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        if words.next() == Some("done")
            && let (Some(job), Some(status)) = (words.next(), words.next())
            && let (Ok(job), Ok(status)) = (job.parse(), status.parse())
        {
            self.finished.insert(Job(job), status);
        }
    }

    fn job_file(&self, job: Job, kind: &str) -> PathBuf {
        self.share.path().join("job").join(format!("{}.{kind}", job.0))
    }

    fn output_of(&self, job: Job) -> String {
        String::from_utf8_lossy(&fs::read(self.job_file(job, "out")).unwrap_or_default()).into_owned()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.emulator.kill();
        let _ = self.emulator.wait();
    }
}

/// Boots a guest with a shell on this terminal and a fresh shared folder; returns when it powers off.
pub(crate) fn interactive(options: &Options, work: &Path) -> Result<()> {
    let kernel = Kernel::of_series(&options.series, work)?;
    let archive = initramfs::build(&kernel, work)?;
    let share = tempfile::Builder::new().prefix("share-").tempdir_in(work)?;
    let mut command = emulator(options, &kernel, &archive, share.path(), "dolmen.shell");
    command.args(["-serial", "mon:stdio"]);
    let status = command.status().context("starting qemu-system-x86_64")?;
    if !status.success() {
        bail!("the emulator ended with {status}");
    }
    Ok(())
}

/// The emulator's command line, but for the serial ports. It runs under `setpriv --pdeathsig`, so it does not
/// outlive us however we end.
fn emulator(options: &Options, kernel: &Kernel, archive: &Path, share: &Path, append: &str) -> Command {
    let mut network = format!("user,id=net0,net={NETWORK},host=192.0.2.2,dns=192.0.2.3,restrict=off");
    for (host, guest) in &options.forwards {
        network.push_str(&format!(",hostfwd=tcp:127.0.0.1:{host}-192.0.2.15:{guest}"));
    }
    // Where it counts, the emulator counts each byte of a `rep movsb` as an instruction: copies are to be loops, as they are where
    // the processor does not say that it is quick at that one.
    let cpu = if options.counts_instructions { "max,-erms" } else { "max" };
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
        .args(["-cpu", cpu, "-machine", "pc,hpet=off"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-monitor", "none"])
        .args(["-smp", &options.cpus.to_string(), "-m", &format!("{}M", options.memory_mib)])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(archive)
        .args([
            "-append",
            &format!("console=ttyS0 quiet loglevel=5 panic=-1 mitigations=off nokaslr no_timer_check net.ifnames=0 random.trust_cpu=on {append}"),
        ])
        .args(["-netdev", &network, "-device", "virtio-net-pci,netdev=net0,romfile="])
        .arg("-fsdev")
        .arg(format!("local,id=share,security_model=none,path={}", share.display()))
        .args(["-device", "virtio-9p-pci,fsdev=share,mount_tag=share"]);
    if options.counts_instructions {
        command.args(["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"]);
    } else {
        command.args(["-accel", "tcg,thread=multi"]);
    }
    command
}
