//! Pools that no daemon serves: checked, and recovered from drives alone.
#![allow(clippy::unwrap_used)] // a test that can't go on fails

mod node;

use node::{DOLMEN, Host, Node, within};
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
    let mendable = node.answers(8, &["pool", "check"]);
    assert_eq!((&mendable["lost"], &mendable["verdict"]), (&"0".into(), &"Repairable".into()));
    assert_ne!(mendable["mendable"], "0");
    // The drive that is the cause, and no other.
    let by_drive = mendable["repairable"].as_array().unwrap();
    assert!(by_drive.len() == 1 && by_drive[0]["path"] == *one, "{by_drive:?}");
    assert!(
        by_drive[0]["blocks"].as_u64() > Some(0) && by_drive[0]["columns"].as_u64() > Some(0),
        "{by_drive:?}"
    );
    let others = [node.drive("d1").display().to_string(), node.drive("d2").display().to_string()];
    let without = node.answers(8, &["pool", "check", "--drive", &others[0], "--drive", &others[1]]);
    assert_eq!(without["lost"], "0");
    let by_drive = without["repairable"].as_array().unwrap();
    assert!(by_drive.len() == 1 && by_drive[0]["path"] == *one, "{by_drive:?}");
    assert!(by_drive[0]["absentBlocks"].as_u64() > Some(0), "{by_drive:?}");
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

/// One that was added while the pool served stays known to the data folder when it is gone, in case it comes back.
#[test]
fn a_drive_that_failed_and_that_the_pool_does_without_is_not_missing() {
    let mut node = filled();
    node.cli(&["drive", "add", &format!("{}:256MiB", node.drive("d3").display())]);
    node.host(2).fill(3, 24);
    node.kill();
    fs::remove_file(node.drive("d3")).unwrap();
    let missing =
        |node: &Node, code| node.answers(code, &["pool", "check"])["missing"].as_array().unwrap().len();
    assert_eq!(missing(&node, 8), 1, "it counts until the pool does without it");
    node.start(&THREE, &[]);
    let drives = || node.cli(&["drive", "list"]);
    within(&|| drives().to_string(), || drives().as_array().unwrap().len() == THREE.len());
    node.stop();
    assert_eq!(missing(&node, 0), 0);
}

/// Damages pages of a chunk that a host wrote, wherever the drive has them.
fn damage(node: &Node, (seed, at): (u64, u64), pages: std::ops::Range<usize>) {
    let file = fs::OpenOptions::new().read(true).write(true).open(node.drive("d0")).unwrap();
    let (chunk, mut page, mut hits) = (Host::chunk(seed, at), vec![0; 4096], 0);
    for place in (0..file.metadata().unwrap().len()).step_by(4096) {
        file.read_exact_at(&mut page, place).unwrap();
        if pages.clone().any(|i| page == chunk[i * 4096..][..4096]) {
            file.write_all_at(b"rot", place + 100).unwrap();
            hits += 1;
        }
    }
    assert!(hits >= pages.len(), "{hits} of {pages:?}");
}

/// Of each object that has lost something its title, and the ranges.
fn told(objects: &serde_json::Value) -> Vec<(String, Vec<(u64, u64)>)> {
    let range = |r: &serde_json::Value| (r["lba"].as_u64().unwrap(), r["blocks"].as_u64().unwrap());
    let ranges = |o: &serde_json::Value| o["ranges"].as_array().unwrap().iter().map(range).collect();
    let one = |o: &serde_json::Value| (o["of"].as_str().unwrap().to_string(), ranges(o));
    objects.as_array().unwrap().iter().map(one).collect()
}

/// By name and block, with the daemon down and while it runs, and not a moment longer than somebody shows it.
#[test]
fn lost_data_is_told_by_volume_snapshot_and_block() {
    let mut node = Node::new();
    node.start(&["d0"], &["--encryption", "off"]);
    let first =
        ["volume", "create", "first", "--size", "16MiB", "--acl", "ALLOW_ANY", "--compression", "off"];
    node.cli(&first);
    node.host(1).fill(1, 1);
    node.cli(&["snapshot", "create", "then", "first"]);
    node.cli(&["volume", "create", "copy", "--from-snapshot", "then", "--acl", "ALLOW_ANY"]);
    node.host(1).fill(2, 1);
    node.stop();
    // Sixteen blocks are a chunk.
    damage(&node, (1, 3), 5..6);
    damage(&node, (2, 7), 0..2);
    damage(&node, (2, 6), 15..16);
    let (of_copy, of_first) =
        (("volume copy".to_string(), vec![(53, 1)]), ("volume first".to_string(), vec![(111, 3)]));
    let lost = node.answers(1, &["pool", "check"]);
    assert_eq!(told(&lost["lostObjects"]), [of_copy.clone(), of_first.clone()], "{lost}");
    assert_eq!((&lost["verdict"], &lost["lostObjects"][0]["alsoIn"][0]), (&"Lost".into(), &"then".into()));
    // The drives tell the names.
    let mut alone = Command::new(DOLMEN);
    alone.args(["pool", "check", "--drive"]).arg(node.drive("d0"));
    let Output { status, stdout, .. } = alone.output().unwrap();
    let text = String::from_utf8(stdout).unwrap();
    assert_eq!(status.code(), Some(1), "{text}");
    let line = |line: &str| {
        line.starts_with("volume first") && line.contains("111-113") && line.contains("454656-466943")
    };
    assert!(text.lines().any(line), "{text}");

    node.start(&["d0"], &["--encryption", "off"]);
    node.cli(&["pool", "scrub", "--start"]);
    let pool = || node.cli(&["pool", "show"]);
    within(&|| pool().to_string(), || told(&pool()["lost"]) == [of_copy.clone(), of_first.clone()]);
    node.until_event("BlocksLost");
    assert_eq!(node.cli(&["status"])["health"]["state"], "Error");
    let show = || node.cli(&["volume", "show", "first"])["lostRanges"].clone();
    assert_eq!((show()[0]["lba"].as_u64(), show()[0]["blocks"].as_u64()), (Some(111), Some(3)));
    let mut other = node.host(1);
    other.fill(3, 1);
    within(&|| show().to_string(), || show().as_array().unwrap().is_empty());
    node.until_event("BlocksLostNoMore");
    // What no volume shows is told of the snapshot.
    node.cli(&["volume", "delete", "copy", "--yes"]);
    let of_snapshot = ("snapshot then of volume first".to_string(), vec![(53, 1)]);
    within(&|| pool().to_string(), || told(&pool()["lost"]) == [of_snapshot.clone()]);
    node.cli(&["snapshot", "delete", "then"]);
    within(&|| pool().to_string(), || told(&pool()["lost"]).is_empty());
    assert_eq!(node.cli(&["status"])["health"]["state"], "OK");
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
