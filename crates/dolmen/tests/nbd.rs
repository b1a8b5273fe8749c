//! The NBD doors with the clients that people use: qemu's tools, libnbd's, fio. What isn't installed is left out and said so;
//! `cargo xtask test` installs all of it.
#![allow(clippy::unwrap_used)] // a test that can't go on fails

mod door;
mod node;

use door::{Door, client, source};
use serde_json::Value;

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
    // What was never written is known as such, so that a copy of a thin volume reads and takes no more than it holds.
    door.node.cli(&["volume", "create", "thin", "--size", "8GiB", "--acl", "ALLOW_ANY"]);
    let thin = door.uri("thin");
    if client(&["qemu-io", "-f", "raw", "-c", "write -P 9 1G 1M", "-c", "write -P 8 512 512", &thin])
        .is_some()
    {
        let map = client(&["qemu-img", "map", "-f", "raw", "--output=json", &thin]).unwrap();
        let map: Value = serde_json::from_str(&map).unwrap();
        let runs: Vec<_> = map.as_array().unwrap().iter().filter(|run| run["data"] == true).collect();
        let of = |run: &Value| (run["start"].as_u64().unwrap(), run["length"].as_u64().unwrap());
        // Less than a block is written by reading it first, which is the client's doing.
        assert_eq!(runs.iter().map(|run| of(run)).collect::<Vec<_>>(), [(0, 4096), (1 << 30, 1 << 20)]);
        let copy = door.node.drive("thin");
        client(&["qemu-img", "convert", "-f", "raw", "-O", "raw", &thin, copy.to_str().unwrap()]);
        let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&copy).unwrap());
        assert!(blocks * 512 < 16 << 20, "the copy takes {blocks} sectors");
    }
    if let Some(map) = client(&["nbdinfo", "--map", "--totals", &thin]) {
        assert!(map.contains("hole") && map.contains("data"), "{map}");
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
        assert!(!list.contains("'web'") && list.contains("base:allocation"), "{list}");
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
    let more = ["--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--randrepeat=1"];
    if client(&["fio", "--enghelp=nbd"]).is_some_and(|help| help.contains("uri")) {
        client(&[&fio[..], &more].concat());
    }
}

/// Listing tools ask about each export in turn, and copying tools ask what is stored, whether they may write or not.
#[test]
fn many_volumes_are_listed_and_read_only_ones_copied() {
    let door = Door::new(&["--nbd-read-only"]);
    (0..40).for_each(|number| drop(door.volume(&format!("v{number}"), "ALLOW_ANY")));
    let socket = door.socket.to_str().unwrap();
    if let Some(list) = client(&["qemu-nbd", "--list", "-k", socket]) {
        assert!(list.contains("exports available: 40"), "{list}");
        assert_eq!(list.matches("base:allocation").count(), 40, "{list}");
    }
    let (copy, zeroes) = (door.node.drive("copy"), vec![0; 64 << 20]);
    let (web, to) = (door.uri("v7"), copy.to_str().unwrap());
    if client(&["qemu-img", "convert", "-f", "raw", "-O", "raw", &web, to]).is_some() {
        assert!(std::fs::read(&copy).unwrap() == zeroes);
    }
    let _ = std::fs::remove_file(&copy);
    if client(&["nbdcopy", &web, to]).is_some() {
        assert!(std::fs::read(&copy).unwrap() == zeroes);
    }
}
