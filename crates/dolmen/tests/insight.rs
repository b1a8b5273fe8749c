//! `why-slow` and `top` as people and programs use them, against a real daemon that is told to be slow.
#![allow(clippy::unwrap_used)] // a test that can't go on fails

mod door;
mod node;

use door::{Door, Raw};
use node::{DOLMEN, Host, Node};
use serde_json::Value;
use std::{
    io::{Read, Write},
    process::{Command, Stdio},
};

/// A node with a volume whose policy lets few writes through, and 48 writes to it.
fn throttled() -> (Node, Host) {
    let mut node = Node::new();
    node.start(&["a"], &[]);
    node.cli(&["qos", "create", "bronze", "--write-iops", "25"]);
    node.cli(&["volume", "create", "v", "--size", "64MiB", "--acl", "ALLOW_ANY", "--qos", "bronze"]);
    let nsid = node.cli(&["volume", "show", "v"])["nsid"].as_u64().unwrap();
    let mut host = node.host(u32::try_from(nsid).unwrap());
    host.fill(1, 3);
    host.verify(1, 3);
    (node, host)
}

fn plain(node: &Node, args: &[&str]) -> String {
    let output = Command::new(DOLMEN).args(args).arg("--data").arg(node.data()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command in a terminal of its own, waits until `seen` is shown, presses keys; everything that was shown.
fn in_terminal(node: &Node, args: &str, seen: &str, keys: &[u8]) -> String {
    let line = format!("stty cols 110 rows 40; {DOLMEN} --data {} {args}", node.data().display());
    let mut child = Command::new("script")
        .args(["-q", "-e", "-f", "-c", &line, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut keyboard, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (mut shown, mut piece) = (Vec::new(), [0; 4096]);
    let mut pressed = false;
    loop {
        let n = screen.read(&mut piece).unwrap();
        if n == 0 {
            break;
        }
        shown.extend_from_slice(&piece[..n]);
        if !pressed && String::from_utf8_lossy(&shown).contains(seen) {
            keyboard.write_all(keys).unwrap();
            pressed = true;
        }
    }
    let text = String::from_utf8_lossy(&shown).into_owned();
    assert!(child.wait().unwrap().success() && pressed, "{text}");
    text
}

#[test]
fn nbd_clients_are_seen_like_hosts() {
    let door = Door::new(&[]);
    door.node.cli(&["qos", "create", "bronze", "--write-iops", "8"]);
    door.node.cli(&["volume", "create", "v", "--size", "64MiB", "--acl", "ALLOW_ANY", "--qos", "bronze"]);
    assert!(door.node.cli(&["why-slow", "v"])["verdicts"].to_string().contains("nothing comes"));
    let mut client = Raw::open(&door.socket, "v");
    // The policy takes 125 ms of each: more than a busy machine's disk.
    for block in 0..12 {
        assert_eq!((client.ask(1, block * 4096), client.ask(0, block * 4096)), (0, 0));
    }
    let why = door.node.cli(&["why-slow", "v"]);
    let kinds = why["kinds"].as_array().unwrap();
    let of = |kind: &str| kinds.iter().find(|k| k["kind"] == kind).unwrap();
    assert_eq!((&of("writes")["sampled"], &of("reads")["sampled"]), (&12.into(), &12.into()), "{why}");
    let stages = |kind: &str| of(kind)["stages"].to_string();
    assert!(stages("writes").contains("\"qos\"") && !stages("reads").contains("\"qos\""), "{why}");
    assert!(stages("reads").contains("\"send\""), "{why}");
    assert!(why["verdicts"].to_string().contains("'bronze' holds commands back"), "{why}");
    assert!(why["slowest"][0]["host"].as_str().unwrap().starts_with("nqn."), "{why}");
    let top = door.node.cli(&["top", "--once", "--interval", "0.2"]);
    let host = &top["hosts"][0];
    assert_eq!((&host["host"], &host["connections"]), (&"nbd v".into(), &1.into()), "{top}");
    drop(client);
}

#[test]
fn commands_that_a_policy_holds_back_now_are_told_before_any_of_them_is_answered() {
    let door = Door::new(&[]);
    door.node.cli(&["qos", "create", "lead", "--write-iops", "1"]);
    door.node.cli(&["volume", "create", "v", "--size", "64MiB", "--acl", "ALLOW_ANY", "--qos", "lead"]);
    let mut client = Raw::open(&door.socket, "v");
    assert_eq!(client.ask(1, 0), 0);
    (1..20).for_each(|block| client.send(1, block * 4096));
    let why = || door.node.cli(&["why-slow", "v"]);
    node::within(&|| why().to_string(), || {
        let why = why();
        let writes = &why["kinds"][0];
        let told = why["verdicts"][0].as_str().unwrap();
        writes["waiting"].as_u64() > Some(10) && told.contains("'lead' holds commands back, ")
    });
}

#[test]
fn a_policy_that_holds_back_is_blamed_by_name() {
    let (node, _host) = throttled();
    let why = node.cli(&["why-slow", "v"]);
    let kinds = why["kinds"].as_array().unwrap();
    let writes = kinds.iter().find(|k| k["kind"] == "writes").unwrap();
    let share = |stage: &str| {
        let stages = writes["stages"].as_array().unwrap();
        stages.iter().find(|s| s["stage"] == stage).map_or(0.0, |s| s["share"].as_f64().unwrap())
    };
    assert!(share("qos") > 0.5 && writes["sampled"] == 48, "{why}");
    let verdicts = why["verdicts"].to_string();
    assert!(verdicts.contains("'bronze' holds commands back"), "{verdicts}");
    let reads = kinds.iter().find(|k| k["kind"] == "reads").unwrap();
    assert!(!reads["stages"].to_string().contains("\"qos\""), "{reads}");
    let slowest = why["slowest"].as_array().unwrap();
    assert!(slowest.len() >= 5, "{why}");
    assert!(slowest.iter().all(|c| c["host"] == "nqn.2014-08.org.example:host"), "{why}");
    let page = plain(&node, &["why-slow", "v"]);
    for word in ["bronze", "STAGE", "qos", "The slowest commands", "held back by the QoS policy"] {
        assert!(page.contains(word), "{word} in\n{page}");
    }
    // A host is connected, and nobody is there to be asked.
    let why = node.fails(1, &["volume", "delete", "v"]);
    assert!(why.contains("connected to it: nqn.2014-08.org.example:host; it has no snapshots"), "{why}");
    assert!(why.contains("nothing was deleted") && why.contains("--yes"), "{why}");
    let why = node.fails(3, &["why-slow", "w"]);
    assert!(why.contains("volume list"), "{why}");

    // The same node at a glance.
    let top = node.cli(&["top", "--once", "--interval", "0.2"]);
    assert_eq!((top["cores"].as_array().unwrap().len(), &top["volumes"][0]["name"]), (1, &Value::from("v")));
    assert!(top["drives"][0]["path"].as_str().unwrap().ends_with("/a"));
    let page = plain(&node, &["top", "--interval", "0.2"]);
    assert!(page.contains("VOLUME") && page.contains("OPS/S"), "a pipe gets one page: {page}");
    assert!(node.fails(2, &["top", "--interval", "0"]).contains("0.1 to 3600"));

    // In a terminal it goes on until a key ends it, and leaves the terminal as it was.
    for keys in [b"nl+q".as_slice(), b"\x03"] {
        let shown = in_terminal(&node, "top --interval 0.2", "VOLUME", keys);
        let (begin, end) = (shown.find("\x1b[?1049h").unwrap(), shown.rfind("\x1b[?1049l").unwrap());
        assert!(begin < end, "{shown}");
    }
}
