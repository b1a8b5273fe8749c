//! A daemon and its command line as they are, under whatever comes next, against a model: hosts write, trim and read, volumes, snapshots and
//! clones come and go, the daemon is killed, drives are lost, bought and taken away, keys are rotated, the data folder is gone; and beside
//! all that a load which verifies itself.
#![allow(clippy::unwrap_used)] // a test that can't go on fails

mod node;

use dolmen_initiator::{BlockRange, Namespace, blocking::Session, load::Rng};
use node::{DOLMEN, Node, within};
use serde_json::Value;
use std::{
    fs,
    io::Read,
    net::TcpListener,
    process::{Child, Command, Stdio},
    rc::Rc,
    time::Instant,
};

const MIB: usize = 1 << 20;
const BLOCK: usize = 4096;

/// Bytes of one read that looks at a whole volume.
const LOOK: usize = MIB;

/// The load's volume is the first one.
const LOAD_NSID: &str = "1";

/// Lines of the daemon's log that are shown when something is wrong.
const LAST_LINES: usize = 80;

const MOST_VOLUMES: usize = 6;
const MOST_SNAPSHOTS: usize = 12;
const MOST_DRIVES: usize = 8;

struct Volume {
    name: String,
    nsid: u32,
    sector: usize,
    data: Vec<u8>,
}

struct Snapshot {
    name: String,
    /// The volume's name, which may be gone.
    of: String,
    sector: usize,
    data: Rc<[u8]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drive {
    Active,
    Leaving,
    /// Nobody reads from it any more; it is still named at starts.
    Lost,
    /// Taken away in order.
    Gone,
}

/// What was done, in numbers.
#[derive(Clone, Copy, Debug, Default)]
struct Deeds {
    kills: u32,
    lost: u32,
    added: u32,
    removed: u32,
    recovered: u32,
    /// Runs of the load that came to their end and verified what they had written.
    loads: u32,
}

struct Trial {
    node: Node,
    rng: Rng,
    flags: Vec<String>,
    volumes: Vec<Volume>,
    snapshots: Vec<Snapshot>,
    /// By number, which is its name. Starts name the first `named`: those that the pool was made of, or that there were when the data folder
    /// was made anew.
    drives: Vec<Drive>,
    named: usize,
    parity: usize,
    /// None was lost since the one that is leaving began to.
    spare: bool,
    load: Option<Child>,
    names: u32,
    keys: u32,
    deeds: Deeds,
}

impl Trial {
    fn new(seed: u64) -> Trial {
        let mut rng = Rng::new(seed);
        let parity = 1 + usize::from(rng.below(3) == 0);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let flags = ["--port".into(), port.to_string(), "--parity".into(), parity.to_string()];
        let drives = vec![Drive::Active; 4 + parity];
        let named = drives.len();
        let (node, volumes, snapshots) = (Node::new(), Vec::new(), Vec::new());
        let mut trial = Trial {
            node,
            rng,
            flags: flags.into(),
            volumes,
            snapshots,
            drives,
            named,
            parity,
            spare: false,
            load: None,
            names: 0,
            keys: 0,
            deeds: Deeds::default(),
        };
        trial.start();
        trial.export_key();
        trial.node.cli(&["volume", "create", "load", "--size", "48MiB", "--acl", "ALLOW_ANY"]);
        trial.create();
        trial.create();
        trial
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.rng.below(count) == 0
    }

    /// One of so many; there must be one.
    fn pick(&mut self, count: usize) -> usize {
        usize::try_from(self.rng.below(count as u64)).unwrap()
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("n{}", self.names)
    }

    // The daemon.

    fn start(&mut self) {
        let named = |(_, drive): &(usize, &Drive)| **drive != Drive::Gone;
        let drives: Vec<String> = self.drives[..self.named]
            .iter()
            .enumerate()
            .filter(named)
            .map(|(at, _)| format!("d{at}"))
            .collect();
        let drives: Vec<&str> = drives.iter().map(String::as_str).collect();
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        self.node.start(&drives, &flags);
    }

    fn kill(&mut self) {
        println!("the daemon is killed");
        self.deeds.kills += 1;
        self.node.kill();
        self.start();
    }

    fn stop(&mut self) {
        self.end_load();
        self.node.stop();
    }

    /// Everything on the drives of a daemon that has stopped is as it should be.
    fn check(&mut self) {
        println!("the pool is checked");
        self.stop();
        let told = self.node.check();
        assert_eq!(told["lost"], "0", "{told}");
        self.start();
    }

    /// The data folder is gone; drives and the cluster's key are left.
    fn recover(&mut self) {
        if self.drives.contains(&Drive::Leaving) {
            return;
        }
        println!("the data folder is gone");
        self.deeds.recovered += 1;
        self.stop();
        fs::remove_dir_all(self.node.data()).unwrap();
        let key = self.key();
        self.node.cli(&["key", "import", &key]);
        let active: Vec<String> = self.numbers(Drive::Active).iter().map(|&at| self.path(at)).collect();
        let mut words = vec!["pool", "recover"];
        active.iter().for_each(|path| words.extend(["--drive", path]));
        self.node.cli(&words);
        self.named = self.drives.len();
        self.start();
    }

    fn key(&self) -> String {
        self.node.drive(&format!("key{}", self.keys)).display().to_string()
    }

    fn export_key(&mut self) {
        self.keys += 1;
        self.node.cli(&["key", "export", "--to", &self.key()]);
    }

    fn rotate(&mut self) {
        println!("the key is rotated");
        self.node.cli(&["key", "rotate"]);
        self.export_key();
    }

    // Drives.

    fn path(&self, at: usize) -> String {
        self.node.drive(&format!("d{at}")).display().to_string()
    }

    fn numbers(&self, state: Drive) -> Vec<usize> {
        (0..self.drives.len()).filter(|&at| self.drives[at] == state).collect()
    }

    /// A drive that was to leave has left, or stays, since another was lost.
    fn follow_leaving(&mut self) {
        for at in self.numbers(Drive::Leaving) {
            let name = format!("d{at}");
            let states = self.node.states();
            match states.iter().find(|(drive, _)| *drive == name).map(|(_, state)| state.as_str()) {
                None => {
                    println!("{name} has left");
                    self.drives[at] = Drive::Gone;
                    fs::remove_file(self.path(at)).unwrap();
                }
                Some("Leaving") => {}
                Some(state) => {
                    println!("{name} stays: {state}");
                    self.drives[at] = Drive::Active;
                }
            }
        }
    }

    /// Nothing lacks a drive. That one is lost is not known before something was read from it.
    fn is_protected(&self) -> bool {
        let lost = self.numbers(Drive::Lost);
        let named = |name: &str| lost.iter().any(|at| name == format!("d{at}"));
        let unknown = self.node.states().iter().any(|(name, state)| named(name) && state == "Active");
        !unknown && self.node.cli(&["pool", "show"])["reprotection"]["state"] == "Protected"
    }

    fn lose(&mut self) {
        let active = self.numbers(Drive::Active);
        // What a drive that is leaving holds is still there: everything may lack one more.
        let leaving = self.drives.contains(&Drive::Leaving) && std::mem::take(&mut self.spare);
        if active.len() < 4 + self.parity || !(leaving || self.is_protected()) {
            return;
        }
        let at = active[self.pick(active.len())];
        println!("d{at} is lost");
        self.deeds.lost += 1;
        fs::File::options().write(true).open(self.path(at)).unwrap().set_len(0).unwrap();
        self.drives[at] = Drive::Lost;
    }

    fn add(&mut self) {
        if self.numbers(Drive::Active).len() >= MOST_DRIVES {
            return;
        }
        let at = self.drives.len();
        println!("d{at} is added");
        self.deeds.added += 1;
        self.drives.push(Drive::Active);
        self.node.cli(&["drive", "add", &format!("{}:256MiB", self.path(at))]);
    }

    fn remove(&mut self) {
        let active = self.numbers(Drive::Active);
        if active.len() < 5 + self.parity || self.drives.contains(&Drive::Leaving) || !self.is_protected() {
            return;
        }
        let at = active[self.pick(active.len())];
        println!("d{at} is to leave");
        self.deeds.removed += 1;
        self.node.cli(&["drive", "remove", &self.path(at), "--no-wait"]);
        self.drives[at] = Drive::Leaving;
        self.spare = true;
    }

    // Volumes and snapshots.

    fn create(&mut self) {
        if self.volumes.len() >= MOST_VOLUMES {
            return;
        }
        let (name, bytes) = (self.name(), (2 + self.pick(6)) * MIB);
        let sector = if self.one_in(3) { 512 } else { BLOCK };
        let size = format!("{bytes}B");
        let own = if self.one_in(3) { "--encryption" } else { "--compression" };
        let how = if self.one_in(2) { "on" } else { "off" };
        let words = ["volume", "create", &name, "--size", &size, "--acl", "ALLOW_ANY", own, how];
        let made = self.node.cli(&[&words[..], &["--sector-size", &sector.to_string()]].concat());
        println!("volume {name} of {bytes} bytes");
        self.volumes.push(Volume { name, nsid: nsid(&made), sector, data: vec![0; bytes] });
    }

    fn clone_snapshot(&mut self) {
        if self.volumes.len() >= MOST_VOLUMES || self.snapshots.is_empty() {
            return;
        }
        let at = self.pick(self.snapshots.len());
        self.look_through_clone(at);
    }

    /// Makes a clone of a snapshot and looks at all of it.
    fn look_through_clone(&mut self, snapshot: usize) {
        let name = self.name();
        let from = &self.snapshots[snapshot];
        let words = ["volume", "create", &name, "--from-snapshot", &from.name, "--acl", "ALLOW_ANY"];
        let made = self.node.cli(&words);
        println!("volume {name} is a clone of {}", from.name);
        let (nsid, sector, data) = (nsid(&made), from.sector, from.data.to_vec());
        self.volumes.push(Volume { name, nsid, sector, data });
        self.look(self.volumes.len() - 1);
    }

    fn snapshot(&mut self) {
        if self.snapshots.len() >= MOST_SNAPSHOTS {
            return;
        }
        let (at, name) = (self.pick(self.volumes.len()), self.name());
        let volume = &self.volumes[at];
        println!("snapshot {name} of {}", volume.name);
        self.node.cli(&["snapshot", "create", &name, &volume.name]);
        let (of, data) = (volume.name.clone(), volume.data.as_slice().into());
        self.snapshots.push(Snapshot { name, of, sector: volume.sector, data });
    }

    fn delete(&mut self) {
        if self.one_in(2) && self.volumes.len() > 2 {
            let at = self.pick(self.volumes.len());
            let volume = self.volumes.remove(at);
            println!("volume {} is deleted", volume.name);
            self.node.cli(&["volume", "delete", &volume.name, "--yes"]);
        } else if !self.snapshots.is_empty() {
            let at = self.pick(self.snapshots.len());
            let snapshot = self.snapshots.remove(at);
            println!("snapshot {} is deleted", snapshot.name);
            self.node.cli(&["snapshot", "delete", &snapshot.name]);
        }
    }

    fn roll_back(&mut self) {
        let Some(at) = (0..self.snapshots.len()).rev().find(|_| self.rng.below(2) == 0) else { return };
        let from = &self.snapshots[at];
        let whose = |v: &Volume| v.name == from.of && v.data.len() == from.data.len();
        let Some(volume) = self.volumes.iter().position(whose) else { return };
        let name = &self.volumes[volume].name;
        println!("{name} is what {} holds", from.name);
        self.node.cli(&["volume", "rollback", name, "--to", &from.name, "--yes"]);
        self.volumes[volume].data = from.data.to_vec();
        self.look(volume);
    }

    fn resize(&mut self) {
        let at = self.pick(self.volumes.len());
        let volume = &mut self.volumes[at];
        volume.data.resize(volume.data.len() + MIB, 0);
        let size = format!("{}B", volume.data.len());
        self.node.cli(&["volume", "resize", &volume.name, "--size", &size]);
        self.look(at);
    }

    /// What two snapshots of a volume are said to differ in holds all that differs.
    fn compare(&mut self) {
        let mut pairs = Vec::new();
        for (at, base) in self.snapshots.iter().enumerate() {
            pairs.extend(self.snapshots[at + 1..].iter().filter(|s| s.of == base.of).map(|s| (base, s)));
        }
        let Some(&(base, newer)) = pairs.get(usize::try_from(self.rng.below(pairs.len() as u64)).unwrap())
        else {
            return;
        };
        let told = self.node.cli(&["snapshot", "diff", &newer.name, "--base", &base.name]);
        let number =
            |run: &Value, name: &str| run[name].as_u64().map(|n| usize::try_from(n).unwrap()).unwrap();
        let runs: Vec<_> =
            told.as_array().unwrap().iter().map(|r| (number(r, "offset"), number(r, "length"))).collect();
        let sector = newer.sector;
        for (at, now) in newer.data.chunks(sector).enumerate().map(|(at, now)| (at * sector, now)) {
            let before = base.data.get(at..at + sector).unwrap_or(&[0; BLOCK][..sector]);
            let named = || runs.iter().any(|&(from, length)| (from..from + length).contains(&at));
            assert!(before == now || named(), "{} and {} differ at {at}: {told}", base.name, newer.name);
        }
    }

    // Hosts.

    fn session(&self, at: usize) -> (Session, Namespace) {
        let mut session = self.node.host(self.volumes[at].nsid).session;
        let namespace = session.namespace(self.volumes[at].nsid).unwrap();
        (session, namespace)
    }

    /// Looks at all of a volume.
    fn look(&mut self, at: usize) {
        let (mut session, namespace) = self.session(at);
        let volume = &self.volumes[at];
        let mut got = vec![0; LOOK];
        for (part, expected) in volume.data.chunks(LOOK).enumerate() {
            let lba = (part * LOOK / volume.sector) as u64;
            session.read(&namespace, lba, &mut got[..expected.len()]).unwrap();
            for (block, (got, expected)) in got.chunks(BLOCK).zip(expected.chunks(BLOCK)).enumerate() {
                assert!(got == expected, "{} at {}", volume.name, part * LOOK + block * BLOCK);
            }
        }
    }

    /// Sectors of a volume: the first one and how many.
    fn range(&mut self, at: usize, most: usize) -> (usize, usize) {
        let sectors = self.volumes[at].data.len() / self.volumes[at].sector;
        let count = 1 + self.pick(most.min(sectors));
        (self.pick(sectors - count + 1), count)
    }

    fn change(&mut self) {
        let at = self.pick(self.volumes.len());
        let (mut session, namespace) = self.session(at);
        let sector = self.volumes[at].sector;
        for _ in 0..1 + self.pick(20) {
            let most = if self.one_in(4) { MIB / sector } else { 4 };
            let (first, count) = self.range(at, most);
            let (lba, bytes) = (first as u64, first * sector..(first + count) * sector);
            match self.pick(8) {
                0 => {
                    session.write_zeroes(&namespace, lba, u32::try_from(count).unwrap()).unwrap();
                    self.volumes[at].data[bytes].fill(0);
                }
                1 => {
                    let blocks = u32::try_from(count).unwrap();
                    session.trim(&namespace, &[BlockRange { lba, blocks }]).unwrap();
                    // Each sector is as it was, or zeros.
                    let mut got = vec![0; bytes.len()];
                    session.read(&namespace, lba, &mut got).unwrap();
                    let data = &mut self.volumes[at].data[bytes];
                    for (got, before) in got.chunks(sector).zip(data.chunks(sector)) {
                        assert!(got == before || got.iter().all(|&byte| byte == 0), "{lba} after a trim");
                    }
                    data.copy_from_slice(&got);
                }
                kind => {
                    let data = &mut self.volumes[at].data[bytes];
                    // Noise, or what is worth compressing.
                    let every = if kind < 5 { 1 } else { 5 };
                    for word in data.chunks_mut(8).step_by(every) {
                        word.copy_from_slice(&self.rng.next_u64().to_le_bytes()[..word.len()]);
                    }
                    session.write(&namespace, lba, data).unwrap();
                }
            }
        }
    }

    // The load beside.

    fn follow_load(&mut self) {
        let ended = self.load.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some());
        if ended {
            self.end_load();
            let bytes = ["4k", "16k", "64k"][self.pick(3)];
            let (target, seconds) = (format!("127.0.0.1:{}", self.flags[1]), "1");
            let nqn = self.node.cli(&["status"])["subsystemNQN"].as_str().unwrap().to_owned();
            let mut command = Command::new(DOLMEN);
            command.args([
                "bench",
                &target,
                "--nqn",
                &nqn,
                "--nsid",
                LOAD_NSID,
                "--bs",
                bytes,
                "--iodepth",
                "4",
            ]);
            command.args([
                "--rw",
                "randrw",
                "--rwmixread",
                "40",
                "--verify",
                "--destroy-data",
                "--ramp",
                "0",
            ]);
            command.args(["--runtime", seconds, "--host-nqn", "nqn.2014-08.org.example:load"]);
            self.load = Some(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
        }
    }

    fn end_load(&mut self) {
        let Some(mut child) = self.load.take() else { return };
        let status = child.wait().unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        // It may have begun while nobody listened.
        assert!(status.success() || status.code() == Some(5), "{status}: {said}");
        self.deeds.loads += u32::from(status.success());
    }

    // All of it.

    fn step(&mut self) {
        self.follow_load();
        self.follow_leaving();
        match self.pick(62) {
            0..=19 => self.change(),
            20..=27 => self.snapshot(),
            28..=32 => self.clone_snapshot(),
            33..=36 => self.delete(),
            37..=39 => self.roll_back(),
            40..=41 => self.create(),
            42 => self.resize(),
            43..=44 => self.compare(),
            45..=47 => {
                let at = self.pick(self.volumes.len());
                self.look(at);
            }
            48..=50 => self.kill(),
            51..=53 => self.lose(),
            54..=56 => self.add(),
            57..=58 => self.remove(),
            59 => self.check(),
            60 => self.recover(),
            _ => self.rotate(),
        }
    }

    /// So many steps, and then a look at everything.
    fn run(&mut self, steps: u32) {
        for _ in 0..steps {
            self.step();
        }
        self.end_load();
        within(&|| format!("{:?}", self.node.states()), || {
            !self.node.states().iter().any(|(_, s)| s == "Leaving")
        });
        self.check();
        (0..self.volumes.len()).for_each(|at| self.look(at));
        (0..self.snapshots.len()).for_each(|at| self.look_through_clone(at));
        self.node.stop();
        assert!(self.deeds.loads > 0, "the load never ran to its end");
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(log) = fs::read_to_string(self.node.drive("log"))
        {
            let lines: Vec<&str> = log.lines().collect();
            println!("the daemon's log ends so:");
            lines[lines.len().saturating_sub(LAST_LINES)..].iter().for_each(|line| println!("{line}"));
        }
        if let Some(mut child) = self.load.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn nsid(made: &Value) -> u32 {
    u32::try_from(made["nsid"].as_u64().unwrap()).unwrap()
}

#[test]
fn whatever_comes_next_loses_nothing() {
    Trial::new(1).run(60);
}

/// One trial after the other, each from its seed, for as long as `DOLMEN_SOAK_SECONDS` says from seed `DOLMEN_SOAK_SEED` on.
#[test]
#[ignore = "as long as one likes: `cargo xtask soak --daemon`"]
fn soak() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let (first, seconds) =
        (number("DOLMEN_SOAK_SEED").unwrap_or(1), number("DOLMEN_SOAK_SECONDS").unwrap_or(0));
    let began = Instant::now();
    for seed in first.. {
        let run = std::panic::catch_unwind(|| {
            let mut trial = Trial::new(seed);
            trial.run(300);
            trial.deeds
        });
        let Ok(deeds) = run else {
            panic!("seed {seed} failed; once more: cargo xtask soak --daemon --minutes 0 --seed {seed}");
        };
        let elapsed = began.elapsed().as_secs();
        println!("{elapsed:>6} s  seed {seed}: {deeds:?}");
        if elapsed >= seconds {
            println!("nothing found");
            return;
        }
    }
}
