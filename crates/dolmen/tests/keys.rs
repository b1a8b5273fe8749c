//! Encryption at rest as its users have it: the real daemon on file drives, hosts that write, and a look at the bytes on the drives.
#![allow(clippy::unwrap_used)] // a test that can't go on fails

use dolmen_initiator::{Namespace, Options, blocking::Session};
use dolmen_io::Io;
use dolmen_types::Uuid;
use dolmen_uring::{Uring, UringConfig};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

const DOLMEN: &str = env!("CARGO_BIN_EXE_dolmen");
const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:11111111-1111-4111-8111-111111111111";
const BLOCK: usize = 4096;
/// Where the key table lies on a drive, and how long it is.
const TABLE: std::ops::Range<usize> = 544 << 10..4 << 20;

/// A node of its own, and what is left of it between its lives.
struct Machine {
    dir: tempfile::TempDir,
    data: PathBuf,
    child: Option<Child>,
}

impl Machine {
    fn new() -> Machine {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        Machine { dir, data, child: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn drives(&self) -> [PathBuf; 2] {
        ["d0", "d1"].map(|name| self.path(name))
    }

    fn serve(&self, data: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(DOLMEN);
        command.arg("serve").arg("--data").arg(data).args(["--listen", "127.0.0.1", "--sparse"]);
        command.args(["--port", "0", "--discovery-port", "0", "--api-port", "0"]).args(more);
        for drive in self.drives() {
            command.arg("--drive").arg(format!("{}:256MiB", drive.display()));
        }
        command.stderr(Stdio::piped()).current_dir(self.dir.path());
        command
    }

    /// Starts it and waits until it serves.
    fn start(&mut self, more: &[&str]) {
        let _ = fs::remove_file(self.data.join("endpoint"));
        let mut child = self.serve(&self.data, more).stderr(Stdio::null()).spawn().unwrap();
        within("the start", || {
            assert!(child.try_wait().unwrap().is_none(), "the node ended at its start");
            self.data.join("endpoint").exists()
        });
        self.child = Some(child);
    }

    /// A start that must be refused; what it says. Nothing on the drives may change.
    fn refused(&self, data: &Path, more: &[&str]) -> String {
        let before = self.drives().map(|drive| fs::read(drive).unwrap());
        let Output { status, stderr, .. } = self.serve(data, more).output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(1), "{stderr}");
        let after = self.drives().map(|drive| fs::read(drive).unwrap());
        assert!(before == after, "a start that was refused wrote to a drive: {stderr}");
        stderr
    }

    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(child.wait().unwrap().success());
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(DOLMEN);
        command.current_dir(self.dir.path()).arg("--data").arg(&self.data).args(args).output().unwrap()
    }

    /// A verb that must succeed; its answer.
    fn cli(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.cli(&[args, &["-o", "json"]].concat())).unwrap()
    }

    fn create(&self, name: &str, more: &[&str]) {
        let args = ["volume", "create", name, "--size", "4MiB", "--acl", HOST];
        self.cli(&[&args[..], more].concat());
    }

    fn session(&self) -> Session {
        let status = self.json(&["status"]);
        let port = u16::try_from(status["nvmePort"].as_u64().unwrap()).unwrap();
        let io = Io::new(Box::new(Uring::new(&UringConfig::default()).unwrap()));
        let subsystem = status["subsystemNQN"].as_str().unwrap().parse().unwrap();
        let host = Uuid::from_random([7; 16]);
        Session::connect(
            io,
            Options::new(([127, 0, 0, 1], port).into(), subsystem, HOST.parse().unwrap(), host),
        )
        .unwrap()
    }

    fn namespace(&self, session: &mut Session, volume: &str) -> Namespace {
        let nsid = self.json(&["volume", "show", volume])["nsid"].as_u64().unwrap();
        session.namespace(u32::try_from(nsid).unwrap()).unwrap()
    }

    fn write(&self, volume: &str, data: &[u8]) {
        let mut session = self.session();
        let namespace = self.namespace(&mut session, volume);
        session.write(&namespace, 0, data).unwrap();
    }

    fn holds(&self, volume: &str, data: &[u8]) {
        let mut session = self.session();
        let namespace = self.namespace(&mut session, volume);
        let mut found = vec![0; data.len()];
        session.read(&namespace, 0, &mut found).unwrap();
        assert!(found == data, "volume {volume} holds something else");
    }

    /// How often a word is on the drives.
    fn count(&self, word: &[u8]) -> usize {
        let drives = self.drives().map(|drive| fs::read(drive).unwrap());
        drives.iter().map(|bytes| occurrences(bytes, word)).sum()
    }

    /// The wrapped keys of the key tables of both drives.
    fn wrapped(&self) -> BTreeSet<[u8; 40]> {
        let mut keys = BTreeSet::new();
        for drive in self.drives() {
            let bytes = fs::read(drive).unwrap();
            for page in bytes[TABLE].chunks_exact(BLOCK).filter(|page| page.starts_with(b"dolmKEYS")) {
                let used = page[64..].chunks_exact(64).filter(|entry| entry[12] == 1);
                keys.extend(used.map(|entry| <[u8; 40]>::try_from(&entry[16..56]).unwrap()));
            }
        }
        keys
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// How often a word begins in pages that hold anything.
fn occurrences(bytes: &[u8], word: &[u8]) -> usize {
    let blank = [0; BLOCK];
    let used = bytes.chunks_exact(BLOCK).enumerate().filter(|(_, page)| *page != blank);
    let in_page = |(i, _): (usize, &[u8])| {
        let end = bytes.len().min((i + 1) * BLOCK + word.len() - 1);
        bytes[i * BLOCK..end].windows(word.len()).filter(|w| *w == word).count()
    };
    used.map(in_page).sum()
}

fn within(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "{what} takes too long");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Blocks that begin with a word: some compress well, some not at all.
fn blocks(word: &str, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut data = Vec::new();
    for number in 0..64 {
        let mut block = format!("{word} {number:08} ").into_bytes();
        while number % 2 == 0 && block.len() < BLOCK {
            block.extend_from_within(..word.len().min(BLOCK - block.len()));
        }
        while block.len() < BLOCK {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            block.push(u8::try_from(state >> 56).unwrap());
        }
        data.extend(block);
    }
    data
}

#[test]
fn no_plaintext_of_an_encrypted_volume_is_on_a_drive() {
    let mut machine = Machine::new();
    machine.start(&[]);
    machine.create("secret", &[]);
    machine.create("loose", &["--compression", "off"]);
    machine.create("open", &["--encryption", "off"]);
    assert!(machine.cli(&["volume", "show", "secret"]).contains("Encryption"));
    let encryption = |volume: &str| machine.json(&["volume", "show", volume])["encryption"].clone();
    assert_eq!(["secret", "loose", "open"].map(encryption), ["true", "true", "false"]);
    machine.write("secret", &blocks("HIDDEN-WORD", 1));
    machine.write("loose", &blocks("HIDDEN-WORD", 2));
    machine.write("open", &blocks("PUBLIC-WORD", 3));
    machine.cli(&["snapshot", "create", "s", "secret"]);
    machine.cli(&["volume", "create", "copy", "--from-snapshot", "s", "--acl", HOST]);
    assert_eq!(encryption("copy"), "true");
    let why = machine.run(&["volume", "create", "not", "--from-snapshot", "s", "--encryption", "off"]);
    assert!(String::from_utf8_lossy(&why.stderr).contains("encryption: "), "{why:?}");
    machine.holds("copy", &blocks("HIDDEN-WORD", 1));
    machine.write("copy", &blocks("HIDDEN-WORD", 4)[..BLOCK * 8]);
    machine.write("secret", &blocks("HIDDEN-WORD", 5)[..BLOCK * 16]);
    machine.cli(&["volume", "rollback", "secret", "--to", "s", "--yes"]);
    machine.holds("secret", &blocks("HIDDEN-WORD", 1));
    machine.stop();
    assert_eq!(machine.count(b"HIDDEN-WORD"), 0);
    assert!(machine.count(b"PUBLIC-WORD") >= 64, "the search finds what is there");
    machine.start(&[]);
    machine.holds("secret", &blocks("HIDDEN-WORD", 1));
    machine.holds("loose", &blocks("HIDDEN-WORD", 2));
    machine.holds("open", &blocks("PUBLIC-WORD", 3));
    machine.holds(
        "copy",
        &[&blocks("HIDDEN-WORD", 4)[..BLOCK * 8], &blocks("HIDDEN-WORD", 1)[BLOCK * 8..]].concat(),
    );
    machine.kill();
    assert_eq!(machine.count(b"HIDDEN-WORD"), 0);
}

#[test]
fn the_default_is_what_serve_says() {
    let mut machine = Machine::new();
    machine.start(&["--encryption", "off", "--allow-test-volumes"]);
    machine.create("plain", &[]);
    machine.create("secret", &["--encryption", "on"]);
    machine.create("none", &["--kind", "null"]);
    let encryption = |volume: &str| machine.json(&["volume", "show", volume])["encryption"].clone();
    assert_eq!(["plain", "secret", "none"].map(encryption), ["false", "true", "false"]);
    let why =
        machine.run(&["volume", "create", "no", "--size", "1MiB", "--kind", "memory", "--encryption", "on"]);
    assert!(String::from_utf8_lossy(&why.stderr).contains("encryption: "), "{why:?}");
}

#[test]
fn a_key_that_is_not_here_is_named_and_an_exported_one_opens_the_pool_elsewhere() {
    let mut machine = Machine::new();
    machine.start(&[]);
    machine.create("secret", &[]);
    let data = blocks("HIDDEN-WORD", 1);
    machine.write("secret", &data);
    let id = machine.json(&["key", "show"])["id"].as_str().unwrap().to_owned();
    let phrase = machine.path("phrase");
    fs::write(&phrase, "correct horse battery staple\n").unwrap();
    let sealed = machine.path("sealed");
    machine.cli(&[
        "key",
        "export",
        "--passphrase-file",
        phrase.to_str().unwrap(),
        "--to",
        sealed.to_str().unwrap(),
    ]);
    let plain = machine.run(&["key", "export"]);
    assert!(String::from_utf8_lossy(&plain.stderr).starts_with("warning: "), "{plain:?}");
    machine.stop();
    // Neither a missing key nor another one opens it, in this folder or in a new one.
    let key = machine.data.join("keys/cluster.key");
    assert_eq!(fs::read(&key).unwrap(), plain.stdout);
    let kept = machine.path("kept");
    fs::rename(&key, &kept).unwrap();
    let why = machine.refused(&machine.data, &[]);
    assert!(why.contains(&id) && why.contains("there is none") && why.contains("key import"), "{why}");
    assert!(!key.exists(), "a key was made in the place of one that is needed");
    let other = "dolmen cluster key 1\nid  98352ce80ce3d800151d1178fa395037\nkey "; // 32 times 7
    fs::write(&key, format!("{other}{}\n", "07".repeat(32))).unwrap();
    let why = machine.refused(&machine.data, &[]);
    assert!(why.contains(&id) && why.contains("98352ce80ce3d800151d1178fa395037"), "{why}");
    let elsewhere = machine.path("elsewhere");
    let why = machine.refused(&elsewhere, &[]);
    assert!(why.contains(&id), "{why}");
    // What was exported opens it in a new folder.
    let sealed = sealed.to_str().unwrap();
    let import = |more: &[&str]| {
        let mut command = Command::new(DOLMEN);
        command.arg("--data").arg(&elsewhere).args(["key", "import", sealed]).args(more).output().unwrap()
    };
    assert_eq!(import(&[]).status.code(), Some(2), "it is sealed");
    let wrong = machine.path("wrong");
    fs::write(&wrong, "correct horse battery stable\n").unwrap();
    let why = import(&["--passphrase-file", wrong.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&why.stderr).contains("another passphrase"), "{why:?}");
    let done = import(&["--passphrase-file", phrase.to_str().unwrap()]);
    assert!(done.status.success() && String::from_utf8_lossy(&done.stdout).contains(&id), "{done:?}");
    let first = std::mem::replace(&mut machine.data, elsewhere);
    machine.start(&[]);
    machine.holds("secret", &data);
    machine.stop();
    // The key may be anywhere.
    machine.data = machine.path("third");
    machine.start(&["--cluster-key", kept.to_str().unwrap()]);
    machine.holds("secret", &data);
    machine.stop();
    fs::rename(&kept, &key).unwrap();
    machine.data = first;
    machine.start(&[]);
    machine.holds("secret", &data);
}

/// Key files may be named by what they are called in the current folder.
#[test]
fn a_key_file_needs_no_folder_in_its_name() {
    let mut machine = Machine::new();
    machine.start(&["--cluster-key", "k"]);
    machine.create("secret", &[]);
    machine.cli(&["key", "rotate"]);
    assert!(!machine.path("k.new").exists());
    machine.cli(&["key", "export", "--cluster-key", "k", "--to", "kept"]);
    machine.cli(&["key", "import", "kept", "--cluster-key", "again"]);
    let key = |name: &str| fs::read(machine.path(name)).unwrap();
    assert_eq!((key("kept"), key("again")), (key("k"), key("k")));
}

#[test]
fn a_passphrase_is_enough() {
    let mut machine = Machine::new();
    let phrase = machine.path("phrase");
    fs::write(&phrase, "correct horse battery staple").unwrap();
    let from = ["--cluster-passphrase-file", phrase.to_str().unwrap()];
    machine.start(&from);
    machine.create("secret", &[]);
    machine.write("secret", &blocks("HIDDEN-WORD", 1));
    assert_eq!(machine.json(&["key", "show"])["source"], "passphrase");
    let why = machine.run(&["key", "rotate"]);
    assert_eq!(why.status.code(), Some(1), "{why:?}");
    assert!(String::from_utf8_lossy(&why.stderr).contains("phrase.new"), "{why:?}");
    machine.stop();
    assert!(!machine.data.join("keys").exists());
    let why = machine.refused(&machine.data, &[]);
    assert!(why.contains("there is none"), "{why}");
    machine.data = machine.path("elsewhere");
    machine.start(&from);
    machine.holds("secret", &blocks("HIDDEN-WORD", 1));
    machine.stop();
    fs::write(&phrase, "correct horse battery stable").unwrap();
    let why = machine.refused(&machine.data, &from);
    assert!(why.contains("does not follow") || why.contains("is not what follows"), "{why}");
}

/// Another passphrase takes the place of the one in force, whatever kills the daemon meanwhile; then the old one opens nothing.
#[test]
fn a_passphrase_is_changed() {
    let mut machine = Machine::new();
    let (phrase, next) = (machine.path("phrase"), machine.path("phrase.new"));
    let say = |number: usize| format!("correct horse battery {number}");
    fs::write(&phrase, say(0)).unwrap();
    let from = ["--cluster-passphrase-file", phrase.to_str().unwrap()];
    machine.start(&from);
    // More than a page of keys.
    (0..70).for_each(|n| machine.create(&format!("v{n}"), &[]));
    machine.write("v69", &blocks("HIDDEN-WORD", 1));
    let before = machine.wrapped();
    fs::write(&next, say(0)).unwrap();
    let why = machine.run(&["key", "rotate"]);
    assert!(String::from_utf8_lossy(&why.stderr).contains("in force"), "{why:?}");
    // One that nobody has rotated to counts for nothing.
    fs::write(&next, say(1)).unwrap();
    machine.kill();
    machine.start(&from);
    assert!(next.exists());
    for (number, wait_ms) in (1..).zip([300, 320, 350, 400, 500]) {
        fs::write(&next, say(number)).unwrap();
        let mut rotating = Command::new(DOLMEN)
            .arg("--data")
            .arg(&machine.data)
            .args(["key", "rotate"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(wait_ms));
        machine.kill();
        rotating.wait().unwrap();
        machine.start(&from);
        assert_eq!(machine.json(&["key", "show"])["staleDataKeys"], Value::from(0));
        machine.holds("v69", &blocks("HIDDEN-WORD", 1));
    }
    fs::write(&next, say(9)).unwrap();
    machine.json(&["key", "rotate"]);
    assert!(!next.exists() && fs::read_to_string(&phrase).unwrap() == say(9));
    machine.stop();
    assert!(machine.wrapped().is_disjoint(&before));
    fs::write(&phrase, say(0)).unwrap();
    machine.refused(&machine.data, &from);
    fs::write(&phrase, say(9)).unwrap();
    machine.start(&from);
    machine.holds("v69", &blocks("HIDDEN-WORD", 1));
}

#[test]
fn a_rotation_outlives_kills_and_leaves_nothing_to_the_old_key() {
    let mut machine = Machine::new();
    machine.start(&[]);
    let data = blocks("HIDDEN-WORD", 1);
    // More than a page of keys.
    (0..70).for_each(|n| machine.create(&format!("v{n}"), &[]));
    machine.write("v0", &data);
    machine.write("v69", &data);
    let old = fs::read(machine.data.join("keys/cluster.key")).unwrap();
    let before = machine.wrapped();
    assert_eq!(before.len(), 70);
    let mut ids = BTreeSet::from([machine.json(&["key", "show"])["id"].as_str().unwrap().to_owned()]);
    let mut wait = Duration::from_millis(2);
    for _ in 0..8 {
        let args = ["key", "rotate"];
        let mut rotating = Command::new(DOLMEN)
            .arg("--data")
            .arg(&machine.data)
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        let next = machine.data.join("keys/cluster.key.new");
        while !next.exists() && begun.elapsed() < Duration::from_millis(300) {
            std::hint::spin_loop();
        }
        std::thread::sleep(wait);
        wait = wait * 3 / 2;
        machine.kill();
        rotating.wait().unwrap();
        machine.start(&[]);
        let key = machine.json(&["key", "show"]);
        assert_eq!((&key["dataKeys"], &key["staleDataKeys"]), (&Value::from(70), &Value::from(0)));
        assert!(!next.exists(), "a rotation that was cut short has ended at the start");
        ids.insert(key["id"].as_str().unwrap().to_owned());
        machine.holds("v0", &data);
    }
    assert!(ids.len() > 1, "nothing was rotated");
    let after = machine.json(&["key", "rotate"]);
    assert!(ids.insert(after["id"].as_str().unwrap().to_owned()));
    machine.create("later", &[]);
    machine.write("later", &data);
    machine.stop();
    let now = machine.wrapped();
    assert_eq!(now.len(), 71);
    assert!(now.is_disjoint(&before), "a key is still wrapped by the old cluster key");
    let key = machine.data.join("keys/cluster.key");
    let new = fs::read(&key).unwrap();
    fs::write(&key, old).unwrap();
    machine.refused(&machine.data, &[]);
    fs::write(&key, new).unwrap();
    machine.start(&[]);
    ["v0", "v69", "later"].iter().for_each(|volume| machine.holds(volume, &data));
}

#[test]
fn deleting_erases_the_key_on_every_drive() {
    let mut machine = Machine::new();
    machine.start(&[]);
    let data = blocks("HIDDEN-WORD", 1);
    machine.create("stays", &[]);
    machine.write("stays", &data);
    let others = machine.wrapped();
    machine.create("goes", &[]);
    machine.write("goes", &data);
    let both = machine.wrapped();
    let goes = *both.difference(&others).next().unwrap();
    assert_eq!(machine.count(&goes), 4, "two copies on each drive");
    machine.cli(&["snapshot", "create", "s", "goes"]);
    machine.cli(&["volume", "delete", "goes", "--yes"]);
    within("the volume's end", || !machine.run(&["volume", "show", "goes"]).status.success());
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(machine.count(&goes), 4, "the snapshot needs it");
    machine.cli(&["volume", "create", "copy", "--from-snapshot", "s", "--acl", HOST]);
    machine.holds("copy", &data);
    machine.cli(&["snapshot", "delete", "s"]);
    machine.cli(&["volume", "delete", "copy", "--yes"]);
    within("the erasure", || machine.wrapped() == others);
    assert_eq!(machine.count(&goes), 0);
    assert_eq!(machine.json(&["key", "show"])["dataKeys"], 1);
    machine.holds("stays", &data);
    // A kill at any moment after the deletion was answered only puts the erasure off.
    for wait_ms in [0, 1, 3, 10, 30, 100] {
        machine.create("short", &[]);
        machine.write("short", &data);
        assert_eq!(machine.wrapped().len(), 2);
        machine.cli(&["volume", "delete", "short", "--yes"]);
        std::thread::sleep(Duration::from_millis(wait_ms));
        machine.kill();
        machine.start(&[]);
        within("the erasure", || machine.wrapped() == others);
        machine.holds("stays", &data);
    }
}

#[test]
fn a_cluster_key_is_made_wherever_none_is_needed() {
    let mut machine = Machine::new();
    machine.start(&["--encryption", "off"]);
    machine.create("plain", &[]);
    machine.write("plain", &blocks("PUBLIC-WORD", 1));
    let first = machine.json(&["key", "show"]);
    machine.stop();
    // A pool without encrypted volumes needs no key.
    fs::remove_dir_all(machine.data.join("keys")).unwrap();
    machine.start(&[]);
    let second = machine.json(&["key", "show"]);
    assert!(first["id"] != second["id"] && second["dataKeys"] == 0);
    machine.holds("plain", &blocks("PUBLIC-WORD", 1));
    machine.stop();
    // A new pool takes a key that is there.
    let other = machine.path("other");
    let data = std::mem::replace(&mut machine.data, other);
    machine.drives().iter().for_each(|drive| fs::remove_file(drive).unwrap());
    machine.cli(&["key", "import", data.join("keys/cluster.key").to_str().unwrap()]);
    machine.start(&[]);
    assert_eq!(machine.json(&["key", "show"])["id"], second["id"]);
    machine.create("secret", &[]);
    machine.write("secret", &blocks("HIDDEN-WORD", 1));
    machine.holds("secret", &blocks("HIDDEN-WORD", 1));
}
