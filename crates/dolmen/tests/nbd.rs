//! The NBD doors with the clients that people use: qemu's tools, libnbd's, fio. What isn't installed is left out and said so;
//! `cargo xtask test` installs all of it.
#![allow(clippy::unwrap_used)] // a test that can't go on fails

mod node;

use node::{DOLMEN, Node, within};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

/// Runs a client that must succeed; its output, or nothing where there is no such program.
fn client(words: &[&str]) -> Option<String> {
    let ran = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output();
    let Ok(Output { status, stdout, stderr }) = ran else {
        eprintln!("skipped: there is no {}", words[0]);
        return None;
    };
    let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(status.success(), "{words:?}: {status}\n{stdout}{stderr}");
    Some(stdout)
}

/// Data with runs of zeroes in it.
fn source(path: &Path, mib: usize) {
    let mut x = 1u64;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    let data: Vec<u8> = (0..mib << 20 >> 3)
        .flat_map(|word| if word >> 14 & 3 == 1 { [0; 8] } else { next().to_le_bytes() })
        .collect();
    std::fs::write(path, data).unwrap();
}

struct Door {
    node: Node,
    socket: PathBuf,
}

impl Door {
    fn new(more: &[&str]) -> Door {
        let mut node = Node::new();
        let socket = node.drive("nbd.sock");
        let at = format!("unix:{}", socket.display());
        node.start(&["a"], &[&["--nbd", &at], more].concat());
        Door { node, socket }
    }

    fn volume(&self, name: &str, acl: &str) -> String {
        let made = self.node.cli(&["volume", "create", name, "--size", "64MiB", "--acl", acl]);
        made["UUID"].as_str().unwrap().to_string()
    }

    fn uri(&self, name: &str) -> String {
        uri(&self.socket, name)
    }
}

fn uri(socket: &Path, name: &str) -> String {
    format!("nbd+unix:///{name}?socket={}", socket.display())
}

#[test]
fn volumes_are_listed_copied_and_compared_by_stock_clients() {
    let door = Door::new(&[]);
    let uuid = door.volume("web", "ALLOW_ANY");
    door.volume("secret", "nqn.2014-08.org.example:somebody");
    let mode = std::fs::metadata(&door.socket).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);
    let socket = door.socket.to_str().unwrap();
    if let Some(list) = client(&["qemu-nbd", "--list", "-k", socket]) {
        assert!(list.contains("exports available: 1") && list.contains("'web'"), "{list}");
        assert!(list.contains("67108864") && list.contains(&uuid) && list.contains("multi"), "{list}");
    }
    if let Some(info) = client(&["nbdinfo", "--json", &door.uri("web")]) {
        let info: Value = serde_json::from_str(&info).unwrap();
        let export = &info["exports"][0];
        assert_eq!((&export["export-size"], &export["is_read_only"]), (&67_108_864.into(), &false.into()));
        assert_eq!((&export["can_multi_conn"], &export["can_fua"]), (&true.into(), &true.into()));
        assert_eq!(export["block_size_minimum"], 4096);
    }
    let (from, back) = (door.node.drive("from"), door.node.drive("back"));
    source(&from, 64);
    let (from, back) = (from.to_str().unwrap(), back.to_str().unwrap());
    let web = door.uri("web");
    let convert = ["qemu-img", "convert", "-n", "-W", "-f", "raw", "-O", "raw", from, &web];
    if client(&convert).is_some() {
        assert!(
            client(&["qemu-img", "compare", "-f", "raw", "-F", "raw", from, &web])
                .unwrap()
                .contains("identical")
        );
        client(&["qemu-img", "convert", "-f", "raw", "-O", "raw", &web, back]);
        assert!(std::fs::read(from).unwrap() == std::fs::read(back).unwrap());
    }
    // By another name, on several connections.
    let by_uuid = door.uri(&uuid);
    if client(&["nbdcopy", "--connections=2", from, &by_uuid]).is_some() {
        let _ = std::fs::remove_file(back);
        client(&["nbdcopy", &by_uuid, back]);
        assert!(std::fs::read(from).unwrap() == std::fs::read(back).unwrap());
    }
    // What a client has open is a connection that ends with its admission.
    let deny = ["volume", "deny", "web", "ALLOW_ANY"];
    door.node.cli(&deny);
    if let Some(list) = client(&["qemu-nbd", "--list", "-k", socket]) {
        assert!(list.contains("exports available: 0"), "{list}");
    }
}

#[test]
fn every_command_works_through_stock_clients() {
    let door = Door::new(&[]);
    door.volume("web", "ALLOW_ANY");
    let web = door.uri("web");
    let commands = [
        "write -P 0x5a 64k 128k",
        "read -P 0x5a 64k 128k",
        "write -f -P 0x33 1M 3M",
        "flush",
        "read -P 0x33 1M 3M",
        "write -z -u 2M 64k",
        "read -P 0 2M 64k",
        "discard 64k 64k",
        "read -P 0 64k 64k",
        "read -P 0x5a 128k 64k",
        "aio_write -P 1 8M 1M",
        "aio_write -P 2 9M 1M",
        "aio_flush",
        "read -P 1 8M 1M",
        "read -P 2 9M 1M",
    ];
    let mut words = vec!["qemu-io", "-f", "raw", "-t", "none"];
    commands.iter().for_each(|command| words.extend(["-c", command]));
    words.push(&web);
    if let Some(said) = client(&words) {
        assert!(!said.contains("failed"), "{said}");
    }
    let uri = format!("--uri={web}");
    // Blocks of one size: fio keeps them from overlapping, and NBD has no order among what is under way.
    let fio =
        ["fio", "--name=n", "--ioengine=nbd", &uri, "--rw=randrw", "--bs=4k", "--size=8M", "--iodepth=16"];
    let more = ["--verify=crc32c", "--verify_fatal=1", "--randrepeat=1"];
    if client(&["fio", "--enghelp=nbd"]).is_some_and(|help| help.contains("uri")) {
        client(&[&fio[..], &more].concat());
    }
}

/// `dolmen export nbd` in a process of its own.
struct Relay(Child);

impl Relay {
    fn start(args: &[&str], socket: &Path) -> Relay {
        let mut command = Command::new(DOLMEN);
        command.args(["export", "nbd", "--listen", &format!("unix:{}", socket.display())]).args(args);
        let relay = Relay(command.stdout(Stdio::null()).spawn().unwrap());
        within(&|| "the relay's socket".into(), || socket.exists());
        relay
    }

    fn stop(mut self) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn namespaces_elsewhere_are_exported_and_outlive_their_target_s_restart() {
    let mut door = Door::new(&[]);
    let uuid = door.volume("web", "ALLOW_ANY");
    let status = door.node.cli(&["status"]);
    let target = format!("127.0.0.1:{}", status["discoveryPort"]);
    let socket = door.node.drive("relay.sock");
    let relay = Relay::start(&["--target", &target, "--name", "disk"], &socket);
    let (from, back) = (door.node.drive("from"), door.node.drive("back"));
    source(&from, 16);
    let (from, back) = (from.to_str().unwrap(), back.to_str().unwrap());
    let (disk, web) = (uri(&socket, "disk"), door.uri("web"));
    let copied = client(&["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", from, &disk]).is_some();
    if copied {
        // Seen through the other door, and by identity.
        let same = ["qemu-img", "compare", "-f", "raw", "-F", "raw", &web, &uri(&socket, &uuid)];
        assert!(client(&same).unwrap().contains("identical"));
    }
    // The node is killed while the client reads, and comes back at the same port.
    let nvme = status["nvmePort"].to_string();
    let mut reader = Command::new("qemu-img");
    reader.args(["convert", "-f", "raw", "-O", "raw", "-r", "32M", &disk, back]);
    let reader = reader.spawn();
    door.node.kill();
    let at = format!("unix:{}", door.socket.display());
    door.node.start(&["a"], &["--port", &nvme, "--nbd", &at]);
    if let Ok(mut reader) = reader {
        assert!(reader.wait().unwrap().success());
        let (from, back) = (std::fs::read(from).unwrap(), std::fs::read(back).unwrap());
        assert!(back[..from.len()] == from && back[from.len()..].iter().all(|b| *b == 0));
    }
    relay.stop();
    let missing = Command::new(DOLMEN).args(["export", "nbd", "--target", "127.0.0.1:1"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(5));
}
