//! Pools that no daemon serves: checked, and recovered from drives alone.
#![allow(clippy::unwrap_used)] // a test that can't go on fails

mod node;

use node::{DOLMEN, Node};
use std::{
    fs,
    os::unix::{
        fs::{FileExt, PermissionsExt},
        process::CommandExt,
    },
    process::{Command, Output},
};

const THREE: [&str; 3] = ["d0", "d1", "d2"];

fn filled() -> Node {
    let mut node = Node::new();
    node.start(&THREE, &[]);
    let host = "nqn.2014-08.org.example:host";
    node.cli(&["volume", "create", "first", "--size", "16MiB", "--acl", host, "--compression", "off"]);
    node.cli(&[
        "volume",
        "create",
        "second",
        "--size",
        "32MiB",
        "--acl",
        "ALLOW_ANY",
        "--compression",
        "off",
    ]);
    node.host(1).fill(1, 8);
    node.host(2).fill(2, 24);
    node.cli(&["snapshot", "create", "then", "second"]);
    node
}

/// Writes over every fourth page of a drive behind its label, where commits are.
fn rot(node: &Node, drive: &str) {
    let file = fs::OpenOptions::new().write(true).open(node.drive(drive)).unwrap();
    let size = file.metadata().unwrap().len();
    for at in ((1 << 20) + 8192..size - 4096).step_by(16384) {
        file.write_all_at(b"rot", at).unwrap();
    }
}

/// Somebody else's drives: as a script is told, that is another thing than a check that finds something.
#[test]
fn a_check_without_rights_says_so_by_its_exit_code() {
    let mut node = Node::new();
    node.start(&THREE, &[]);
    node.stop();
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let nobody = |args: &[&str]| {
        let mut command = Command::new(DOLMEN);
        command.args(args).uid(65534).gid(65534).output()
    };
    // Where the program itself is out of reach there is nothing to see.
    if nobody(&["--version"]).is_err() {
        return;
    }
    let (data, drive) = (node.data().display().to_string(), node.drive("d0").display().to_string());
    fs::set_permissions(node.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for args in [["--data", &data, "pool", "check"], ["pool", "check", "--drive", &drive]] {
        let Output { status, stderr, .. } = nobody(&args).unwrap();
        let why = String::from_utf8_lossy(&stderr);
        assert_eq!(status.code(), Some(6), "{args:?}: {why}");
        assert!(why.contains("as root"), "{why}");
    }
}

#[test]
fn a_check_names_what_is_damaged() {
    let mut node = filled();
    let busy = node.fails(1, &["pool", "check"]);
    assert!(busy.contains("in use"), "{busy}");
    let one = node.drive("d0").display().to_string();
    node.stop();
    let before = THREE.map(|d| fs::read(node.drive(d)).unwrap());
    let good = node.cli(&["pool", "check"]);
    assert_eq!((&good["lost"], &good["mendable"]), (&"0".into(), &"0".into()), "{good}");
    assert_eq!((good["volumes"].as_u64(), good["snapshots"].as_u64()), (Some(2), Some(1)), "{good}");
    assert!(good["blocks"].as_str().unwrap().parse::<u64>().unwrap() >= (8 + 24) * 256, "{good}");
    assert!(THREE.map(|d| fs::read(node.drive(d)).unwrap()) == before, "a check has written");
    // One drive rots: nothing is lost. It is left out: neither.
    rot(&node, "d0");
    let mendable = node.cli(&["pool", "check"]);
    assert_eq!(mendable["lost"], "0");
    assert_ne!(mendable["mendable"], "0");
    let others = [node.drive("d1").display().to_string(), node.drive("d2").display().to_string()];
    let without = node.cli(&["pool", "check", "--drive", &others[0], "--drive", &others[1]]);
    assert_eq!(without["lost"], "0");
    assert!(without["missing"].to_string().contains(&one), "{without}");
    // Two rot: the volume's blocks are named, and the code says so.
    rot(&node, "d1");
    let lost = node.answers(1, &["pool", "check"]);
    let damages = lost["damages"].as_array().unwrap();
    assert_ne!(lost["lost"], "0");
    let named = |d: &&serde_json::Value| d["lost"] == true && d["volume"].is_string() && d["lba"].is_u64();
    let first = damages.iter().find(named).expect("a block of a volume");
    assert!(first["place"].as_str().unwrap().contains(" unit "), "{first}");
}

#[test]
fn a_data_folder_is_made_from_drives_alone() {
    let mut node = filled();
    let (status, volumes) = (node.cli(&["status"]), node.cli(&["volume", "list"]));
    node.kill();
    let kept = node.drive("kept.key");
    fs::copy(node.data().join("keys/cluster.key"), &kept).unwrap();
    let kept = kept.display().to_string();
    fs::remove_dir_all(node.data()).unwrap();
    let drives: Vec<String> = THREE.map(|d| node.drive(d).display().to_string()).into();
    let mut recover = vec!["pool", "recover"];
    drives.iter().for_each(|d| recover.extend(["--drive", d]));
    // The volumes are encrypted: without the cluster key there is nothing to serve.
    let why = node.fails(1, &recover);
    assert!(why.contains("cluster key") && why.contains("dolmen key import"), "{why}");
    node.cli(&["key", "import", &kept]);
    let found = node.cli(&recover);
    assert_eq!(found["subsystemNQN"], status["subsystemNQN"], "{found}");
    assert_eq!(found["snapshots"][0], "then");
    assert!(found["notRecovered"].to_string().contains("snapshot policies"), "{found}");
    // Nothing has served it yet.
    assert!(node.fails(5, &["policy", "list"]).contains("is not running"));
    assert!(node.fails(1, &recover).contains("not there yet"));
    node.start(&THREE, &[]);
    let after = node.cli(&["status"]);
    for name in ["subsystemNQN", "clusterUUID", "clusterName", "nodeUUID"] {
        assert_eq!(after[name], status[name]);
    }
    let again = node.cli(&["volume", "list"]);
    for (old, new) in volumes.as_array().unwrap().iter().zip(again.as_array().unwrap()) {
        for name in ["UUID", "name", "nsid", "size", "acl"] {
            assert_eq!(old[name], new[name], "{name}");
        }
    }
    node.host(1).verify(1, 8);
    node.host(2).verify(2, 24);
    assert_eq!(node.cli(&["snapshot", "list"]).as_array().unwrap().len(), 1);
    // A drive less is no reason not to.
    node.kill();
    fs::remove_dir_all(node.data()).unwrap();
    fs::rename(node.drive("d2"), node.drive("away")).unwrap();
    node.cli(&["key", "import", &kept]);
    node.cli(&recover);
    node.start(&THREE, &[]);
    node.host(2).verify(2, 24);
}

/// What is missing is named, and the line that is printed serves: with the key and with every drive that counts, whether it is there
/// or not, and whoever named it.
#[test]
fn what_recovery_prints_serves() {
    let mut node = Node::new();
    let key = node.drive("the key");
    let key = key.to_str().unwrap();
    node.start(&THREE, &["--cluster-key", key]);
    node.cli(&["volume", "create", "first", "--size", "16MiB", "--acl", "ALLOW_ANY"]);
    node.host(1).fill(1, 8);
    let path = |name: &str| node.drive(name).display().to_string();
    let [d0, d1, d2, added, typo] = ["d0", "d1", "d2", "a drive", "typo"].map(path);
    node.cli(&["drive", "add", &format!("{added}:256MiB")]);
    node.stop();
    let recovered = |node: &mut Node, named: [&String; 4], lacks: &String| {
        fs::remove_dir_all(node.data()).unwrap();
        let mut recover = vec!["pool", "recover", "--cluster-key", key];
        named.iter().for_each(|d| recover.extend(["--drive", d]));
        let found = node.cli(&recover);
        let missing = found["missing"].as_array().unwrap();
        let told = |path: &String| missing.iter().filter(|m| m.as_str().unwrap().contains(path)).count();
        assert_eq!((told(lacks), told(&typo), missing.len()), (1, 1, 2), "{found}");
        assert_eq!(found["drives"].as_array().unwrap().len(), 4, "{found}");
        node.start_by(found["serve"].as_str().unwrap());
        node.host(1).verify(1, 8);
        let states = node.states();
        node.kill();
        states
    };
    // Nobody thought of the one that joined later.
    let states = recovered(&mut node, [&d0, &d1, &d2, &typo], &added);
    assert!(states.iter().all(|(_, state)| state == "Active"), "{states:?}");
    // One is away.
    fs::rename(&d2, node.drive("away")).unwrap();
    let states = recovered(&mut node, [&d0, &d1, &added, &typo], &d2);
    assert!(states.iter().all(|(name, state)| (name == "d2") != (state == "Active")), "{states:?}");
}
