//! `dolmen export nbd`, namespaces elsewhere for stock clients: paths that are lost under load, volumes that grow, come and go.
#![allow(clippy::unwrap_used)] // a test that can't go on fails

mod door;
mod node;

use door::{Door, Raw, Relay, Wire, client, source, uri};
use node::{DOLMEN, Node, within};
use serde_json::Value;
use std::{
    net::SocketAddr,
    process::{Child, Command},
};

/// Data that is copied while things happen. MiB.
const MIB: usize = 24;

#[test]
fn namespaces_elsewhere_are_exported_and_outlive_their_target_s_restart() {
    let mut door = Door::new(&[]);
    let uuid = door.volume("web", "ALLOW_ANY");
    let status = door.node.cli(&["status"]);
    let target = format!("127.0.0.1:{}", status["discoveryPort"]);
    let socket = door.node.drive("relay.sock");
    let relay = Relay::start(&["--target", &target, "--name", "disk"], &socket);
    assert_eq!(relay.told["exports"], serde_json::json!(["disk"]));
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

/// A node with the volume `web`, the address of its subsystem, and that one's name.
fn with_volume() -> (Door, SocketAddr, String) {
    let door = Door::new(&[]);
    door.node.cli(&["volume", "create", "web", "--size", &format!("{MIB}MiB"), "--acl", "ALLOW_ANY"]);
    let (addr, nqn) = subsystem(&door);
    (door, addr, nqn)
}

/// The address of a node's subsystem, and its name.
fn subsystem(door: &Door) -> (SocketAddr, String) {
    let status = door.node.cli(&["status"]);
    let port = u16::try_from(status["nvmePort"].as_u64().unwrap()).unwrap();
    (([127, 0, 0, 1], port).into(), status["subsystemNQN"].as_str().unwrap().to_string())
}

/// A copy that goes on while other things happen; `None` where there is no such program.
fn copy(from: &str, to: &str) -> Option<Child> {
    let words = ["convert", "-n", "-W", "-f", "raw", "-O", "raw", "-r", "12M", from, to];
    Command::new("qemu-img").args(words).spawn().ok()
}

#[test]
fn a_path_that_is_lost_under_load_costs_no_request() {
    let (door, addr, nqn) = with_volume();
    let wires = [Wire::to(addr), Wire::to(addr)];
    let [a, b] = wires.each_ref().map(|wire| wire.addr.to_string());
    let socket = door.node.drive("relay.sock");
    let paths = ["--target", &a, "--target", &b, "--policy", "round-robin", "--connections", "2"];
    let relay = Relay::start(&[&paths[..], &["--nqn", &nqn, "--name", "disk"]].concat(), &socket);
    assert_eq!(relay.paths(), [a.clone(), b.clone()]);
    let (from, back) = (door.node.drive("from"), door.node.drive("back"));
    source(&from, MIB);
    std::fs::write(&back, []).unwrap();
    std::fs::OpenOptions::new().write(true).open(&back).unwrap().set_len((MIB as u64) << 20).unwrap();
    let (from, back) = (from.to_str().unwrap(), back.to_str().unwrap());
    let disk = relay.uri("disk");
    // Both carry it; one is cut in the middle, is mended, and then the other.
    for (round, (source, destination)) in [(from, &disk[..]), (&disk[..], back)].into_iter().enumerate() {
        let Some(mut copying) = copy(source, destination) else {
            return eprintln!("skipped: there is no qemu-img");
        };
        for (cut, other) in [(0, 1), (1, 0)] {
            let before = wires.each_ref().map(Wire::bytes);
            let flows = |wire: usize, from: u64| wires[wire].bytes() > from + (1 << 20);
            within(&|| format!("load on path {cut} in round {round}"), || flows(cut, before[cut]));
            assert!(copying.try_wait().unwrap().is_none(), "the copy ended before the wire was cut");
            wires[cut].cut();
            let left = wires[other].bytes();
            within(&|| format!("load on path {other}"), || flows(other, left));
            wires[cut].mend();
        }
        assert!(copying.wait().unwrap().success());
    }
    let (from, back) = (std::fs::read(from).unwrap(), std::fs::read(back).unwrap());
    assert!(back == from, "what was written and read over lost paths differs");
    // Each loss is told once, and its end too.
    let told = |what: &str| relay.said().matches(what).count();
    within(&|| relay.said(), || told("connected again") == 4);
    assert_eq!(told("connecting again"), 4, "{}", relay.said());
    relay.stop();
}

#[test]
fn a_volume_that_grows_is_larger_for_new_connections_and_others_come_and_go() {
    let door = Door::new(&[]);
    door.volume("web", "ALLOW_ANY");
    let (addr, nqn) = subsystem(&door);
    let socket = door.node.drive("relay.sock");
    let relay = Relay::start(&["--target", &addr.to_string(), "--nqn", &nqn], &socket);
    let web = relay.told["exports"][0].as_str().unwrap().to_string();
    let mut old = Raw::open(&socket, &web);
    assert_eq!((old.size, old.ask(0, 0)), (64 << 20, 0));
    // Twice: the second event comes only if what the first one was about has been read.
    for mib in [96u64, 128] {
        door.node.cli(&["volume", "resize", "web", "--size", &format!("{mib}MiB")]);
        within(&|| format!("{mib} MiB"), || Raw::open(&socket, &web).size == mib << 20);
    }
    let last = (128 << 20) - 4096;
    let mut new = Raw::open(&socket, &web);
    assert_eq!((new.ask(1, last), new.ask(0, last)), (0, 0));
    // The old one goes on within what it was told.
    let (read_beyond, write_beyond) = (old.ask(0, 64 << 20), old.ask(1, 64 << 20));
    assert_eq!((read_beyond, write_beyond), (22, 28), "EINVAL and ENOSPC");
    assert_eq!((old.ask(1, (64 << 20) - 4096), old.ask(0, 0)), (0, 0));
    if let Some(size) = client(&["nbdinfo", "--size", &relay.uri(&web)]) {
        assert_eq!(size.trim(), (128 << 20).to_string());
    }
    let more = door.volume("more", "ALLOW_ANY");
    let listed = |name: &str| {
        client(&["nbdinfo", "--list", "--json", &uri(&socket, "")]).is_none_or(|l| l.contains(name))
    };
    within(&|| "the new volume".into(), || listed(&more));
    door.node.cli(&["volume", "delete", "more", "--yes"]);
    if client(&["nbdinfo", "--version"]).is_some() {
        within(&|| "the end of the new volume".into(), || !listed(&more));
    }
    relay.stop();
}

/// Two nodes: the second one's discovery service tells of another way to the first one's subsystem, as long as it has something to
/// tell of at all.
#[test]
fn a_path_that_discovery_adds_or_takes_away_under_load_costs_no_request() {
    let (door, addr, nqn) = with_volume();
    let mut second = Node::new();
    second.start(&["a"], &["--subsystem-nqn", &nqn, "--advertise", "127.0.0.3"]);
    let tell = |second: &Node| {
        second.cli(&["volume", "create", "way", "--size", "8MiB", "--acl", "ALLOW_ANY"]);
    };
    tell(&second);
    let at = |status: &Value, what: &str| u16::try_from(status[what].as_u64().unwrap()).unwrap();
    let status = second.cli(&["status"]);
    let wire = Wire::at(([127, 0, 0, 3], at(&status, "nvmePort")).into(), addr);
    let services = [at(&door.node.cli(&["status"]), "discoveryPort"), at(&status, "discoveryPort")];
    let [a, b] = services.map(|port| format!("127.0.0.1:{port}"));
    let socket = door.node.drive("relay.sock");
    let relay =
        Relay::start(&["--target", &a, "--target", &b, "--policy", "round-robin", "--name", "disk"], &socket);
    assert_eq!(relay.paths(), [addr.to_string(), wire.addr.to_string()]);
    let (from, back) = (door.node.drive("from"), door.node.drive("back"));
    source(&from, MIB);
    std::fs::write(&back, []).unwrap();
    std::fs::OpenOptions::new().write(true).open(&back).unwrap().set_len((MIB as u64) << 20).unwrap();
    let (from, back) = (from.to_str().unwrap(), back.to_str().unwrap());
    let disk = relay.uri("disk");
    for (source, destination) in [(from, &disk[..]), (&disk[..], back)] {
        let Some(mut copying) = copy(source, destination) else {
            return eprintln!("skipped: there is no qemu-img");
        };
        let flows = |more: u64| {
            let before = wire.bytes();
            within(&|| "load on the way that is told of".into(), || wire.bytes() > before + more);
        };
        for _ in 0..2 {
            flows(64 << 10);
            second.cli(&["volume", "delete", "way", "--yes"]);
            within(&|| "the end of the way that is told of no more".into(), || wire.is_unused());
            assert!(copying.try_wait().unwrap().is_none(), "the copy ended before the path did");
            // Nobody misses it now.
            wire.cut();
            wire.mend();
            tell(&second);
        }
        flows(64 << 10);
        assert!(copying.wait().unwrap().success());
    }
    let (from, back) = (std::fs::read(from).unwrap(), std::fs::read(back).unwrap());
    assert!(back == from, "what was written and read over changing paths differs");
    relay.stop();
}

#[test]
fn discovery_services_tell_of_the_paths_and_one_of_several_is_enough() {
    let door = Door::new(&["--listen", "127.0.0.2"]);
    door.volume("web", "ALLOW_ANY");
    let status = door.node.cli(&["status"]);
    let (port, data) = (&status["discoveryPort"], &status["nvmePort"]);
    let targets = [format!("127.0.0.1:{port}"), format!("127.0.0.2:{port}"), "127.0.0.3:1".into()];
    let flags: Vec<&str> = targets.iter().flat_map(|target| ["--target", target]).collect();
    let relay = Relay::start(&flags, &door.node.drive("relay.sock"));
    assert_eq!(relay.paths(), [format!("127.0.0.1:{data}"), format!("127.0.0.2:{data}")]);
    let web = relay.told["exports"][0].as_str().unwrap();
    let mut raw = Raw::open(&door.node.drive("relay.sock"), web);
    assert_eq!((raw.ask(1, 0), raw.ask(0, 0)), (0, 0));
    relay.stop();
}
