//! The command line as its users run it: the real binary against a real control side over TLS, with a data plane in
//! memory behind it.
#![allow(clippy::unwrap_used)] // a test that can't go on fails

#[path = "../../api/tests/support/plane.rs"]
#[allow(dead_code, unreachable_pub)]
mod plane;

use dolmen::{
    config::{ServeArgs, ServeOptions},
    control::{Control, ControlError, DataSide, Prepared},
};
use dolmen_cluster::plane::{Recovered, channel};
use serde_json::Value;
use std::{
    path::Path,
    process::{Command, Output},
};
use tokio::{runtime::Runtime, sync::mpsc};

const DOLMEN: &str = env!("CARGO_BIN_EXE_dolmen");
const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:11111111-1111-4111-8111-111111111111";

struct Node {
    control: Control,
    _plane: Runtime,
}

fn options(data: &Path) -> ServeOptions {
    let args = ServeArgs {
        drive: vec!["/drives/a:1GiB".into()],
        listen: vec!["127.0.0.1".parse().unwrap()],
        api_port: Some(0),
        allow_test_volumes: Some(true),
        ..ServeArgs::default()
    };
    ServeOptions::load(Some(data), args).unwrap()
}

fn start(data: &Path) -> Result<Node, ControlError> {
    let options = options(data);
    let prepared = Prepared::open(&options)?;
    let runtime = Runtime::new().unwrap();
    let (plane, requests) = channel();
    runtime.spawn(plane::run(plane::Log::default(), requests, 2));
    let (_notices, notices) = mpsc::channel(1);
    let data =
        DataSide { recovered: Recovered::default(), plane, notices, nvme_port: 4420, discovery_port: 8009 };
    Ok(Node { control: prepared.start(&options, data)?, _plane: runtime })
}

fn run(args: &[&str]) -> Output {
    Command::new(DOLMEN).args(args).output().unwrap()
}

/// Runs a verb that must succeed; its stdout.
fn good(data: &Path, args: &[&str]) -> String {
    let output = run(&[args, &["--data", data.to_str().unwrap()]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must fail with this code; its stderr.
fn bad(code: i32, args: &[&str]) -> String {
    let output = run(args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{args:?} says something on stdout");
    stderr
}

#[test]
fn the_cluster_key_is_told_rotated_exported_and_imported() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let node = start(&data).unwrap();
    let on = |args: &[&str]| good(&data, args);
    let shown: Value = serde_json::from_str(&on(&["key", "show", "-o", "json"])).unwrap();
    assert_eq!((&shown["source"], &shown["dataKeys"]), (&Value::from("file"), &Value::from(3)));
    assert!(on(&["key", "rotate"]).contains("00000000000000000000000000000001"));
    let events = on(&["event", "list"]);
    assert!(events.contains("ClusterKeyRotated"), "{events}");
    drop(node);
    // The files are looked at without a daemon.
    let folder = data.to_str().unwrap();
    let why = bad(3, &["--data", folder, "key", "export"]);
    assert!(why.contains("there is no cluster key in") && why.contains("first start"), "{why}");
    let text = "dolmen cluster key 1\nid  98352ce80ce3d800151d1178fa395037\nkey ".to_owned();
    let text = text + &"07".repeat(32) + "\n";
    let (file, bad_file) = (dir.path().join("key"), dir.path().join("bad"));
    std::fs::write(&file, &text).unwrap();
    std::fs::write(&bad_file, text.replace("key 0", "key 1")).unwrap();
    let why = bad(1, &["--data", folder, "key", "import", bad_file.to_str().unwrap()]);
    assert!(why.contains("damaged"), "{why}");
    assert!(on(&["key", "import", file.to_str().unwrap()]).contains("98352ce80ce3d800151d1178fa395037"));
    on(&["key", "import", file.to_str().unwrap()]);
    assert_eq!(on(&["key", "export"]), text);
    let kept = dir.path().join("kept");
    let said = on(&["key", "export", "--to", kept.to_str().unwrap()]);
    assert!(
        said.contains("98352ce80ce3d800151d1178fa395037") && said.contains(kept.to_str().unwrap()),
        "{said}"
    );
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), text);
    // A copy of the same key is written over, sealed or not; anything else is not.
    let phrase = dir.path().join("phrase");
    std::fs::write(&phrase, "correct horse battery").unwrap();
    let sealing = ["--passphrase-file", phrase.to_str().unwrap()];
    on(&[&["key", "export", "--to", kept.to_str().unwrap()][..], &sealing].concat());
    let sealed = std::fs::read_to_string(&kept).unwrap();
    assert!(sealed.contains("sealed") && !sealed.contains(&"07".repeat(32)), "{sealed}");
    on(&["key", "export", "--to", kept.to_str().unwrap()]);
    for (there, what) in [
        (sealed.replace("id     98", "id     99"), "99352ce80ce3d800151d1178fa395037"),
        (text.replace("id  98", "id  99"), "99352ce80ce3d800151d1178fa395037"),
        ("what else there is".to_owned(), "something else"),
    ] {
        std::fs::write(&kept, &there).unwrap();
        let why = bad(4, &["--data", folder, "key", "export", "--to", kept.to_str().unwrap()]);
        assert!(why.contains(what) && why.contains(kept.to_str().unwrap()), "{why}");
        assert_eq!(std::fs::read_to_string(&kept).unwrap(), there);
    }
    let own = data.join("keys/cluster.key");
    let to_itself = ["--data", folder, "key", "export", "--to", own.to_str().unwrap()];
    assert!(bad(4, &[&to_itself[..], &sealing].concat()).contains("keeps its key"));
    assert_eq!(std::fs::read_to_string(&own).unwrap(), text);
    let other = text.replace("id  98", "id  99");
    std::fs::write(&file, other).unwrap();
    bad(1, &["--data", folder, "key", "import", file.to_str().unwrap()]);
    assert_eq!(on(&["key", "export"]), text, "a key that is there stays");
    let why = bad(2, &["key", "export"]);
    assert!(why.contains("--data DIR"), "{why}");
}

#[test]
fn a_volume_from_create_to_delete() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let node = start(&data).unwrap();
    let on = |args: &[&str]| good(&data, args);
    assert!(on(&["volume", "list"]).contains("There are no volumes"));
    let made = run(&["--data", data.to_str().unwrap(), "volume", "create", "web", "--size", "10GiB"]);
    assert_eq!(made.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&made.stdout).contains("volume 'web' of 10 GiB is available"));
    assert!(String::from_utf8_lossy(&made.stderr).contains("Nobody is admitted yet"));
    assert!(on(&["connect-help", "web"]).contains("volume allow web NQN"));
    assert!(on(&["volume", "allow", "web", HOST, "--ip", "192.0.2.9"]).contains(HOST));
    let seen: Value = serde_json::from_str(&on(&["volume", "show", "web", "-o", "json"])).unwrap();
    assert_eq!((&seen["acl"]["values"][0], &seen["sectorSize"]), (&Value::from(HOST), &Value::from(4096)));
    let uuid = seen["UUID"].as_str().unwrap();
    let shown = on(&["volume", "show", uuid]);
    assert!(shown.contains("10 GiB (10737418240 bytes)") && shown.contains("on, ratio 2.67"), "{shown}");
    assert!(on(&["volume", "resize", "web", "--size", "20GiB"]).contains("20 GiB"));
    let list = on(&["volume", "list"]);
    assert!(list.contains("20 GiB") && list.contains("2.67"), "{list}");
    let why = bad(1, &["--data", data.to_str().unwrap(), "volume", "resize", "web", "--size", "1GiB"]);
    assert!(why.contains("size: ") && why.contains("shrink"), "{why}");
    assert!(on(&["connect-help", "web"]).contains("nvme connect -t tcp -a 127.0.0.1 -s 4420 -n nqn.2016-01"));
    assert!(on(&["volume", "deny", "web", HOST]).contains("ALLOW_NONE"));
    on(&["volume", "allow", "web", "--ip", "ALLOW_ANY"]);
    let said = run(&["--data", data.to_str().unwrap(), "volume", "allow", "web", "--ip", "192.0.2.1"]);
    assert!(String::from_utf8_lossy(&said.stderr).contains("volume deny web --ip ALLOW_ANY"));
    let why = bad(4, &["--data", data.to_str().unwrap(), "volume", "create", "web", "--size", "1GiB"]);
    assert!(why.contains("exists already"), "{why}");
    let dashed = ["--data", data.to_str().unwrap(), "volume", "create", "--size", "1GiB", "--", "-x"];
    let said = run(&dashed);
    let said = String::from_utf8_lossy(&said.stderr);
    assert!(said.contains("volume allow -- -x NQN") && said.contains("connect-help -- -x"), "{said}");
    // Nobody is at the terminal, and nobody uses it.
    assert!(on(&["volume", "delete", "web"]).contains("is deleted"));
    let why = bad(3, &["--data", data.to_str().unwrap(), "volume", "show", "web"]);
    assert!(why.contains("does not exist") && why.contains("volume list"), "{why}");
    let why = bad(3, &["--data", data.to_str().unwrap(), "-o", "json", "volume", "show", "web"]);
    let why: Value = serde_json::from_str(&why).unwrap();
    assert_eq!(why["exitCode"], 3);
    let says = |field: &str, what: &str| why[field].as_str().unwrap().contains(what);
    assert!(says("error", "does not exist") && says("hint", "volume list"), "{why}");
    let args = [
        "volume",
        "create",
        "n",
        "--size",
        "1GiB",
        "--kind",
        "null",
        "--sector-size",
        "512",
        "--acl",
        "ALLOW_ANY",
    ];
    let why = bad(1, &[&["--data", data.to_str().unwrap()], &args[..], &["--compression", "on"]].concat());
    assert!(why.contains("compression: "), "{why}");
    on(&[&args[..], &["--label", "a=b", "--ip-acl", "::1"]].concat());
    let seen: Value = serde_json::from_str(&on(&["volume", "list", "--output", "json"])).unwrap();
    let found = seen.as_array().unwrap().iter().find(|v| v["name"] == "n").unwrap();
    assert_eq!((&found["kind"], &found["sectorSize"]), (&Value::from("null"), &Value::from(512)));
    assert_eq!(found["compression"], "false", "a test volume stores nothing");
    node.control.stop();
}

#[test]
fn a_snapshot_from_create_to_delete() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).unwrap();
    let data = dir.path().to_str().unwrap();
    let on = |args: &[&str]| good(dir.path(), args);
    assert!(on(&["snapshot", "list"]).contains("There are no snapshots"));
    on(&["volume", "create", "v", "--size", "1GiB", "--sector-size", "512"]);
    assert!(on(&["snapshot", "create", "s", "v", "--keep", "3600"]).contains("snapshot 's' of volume 'v'"));
    assert!(on(&["snapshot", "show", "s"]).contains("on"));
    let off = ["--compression", "off"];
    let clone_off = [&["--data", data, "volume", "create", "c", "--from-snapshot", "s"][..], &off].concat();
    let why = bad(1, &clone_off);
    assert!(why.contains("compression: "), "{why}");
    on(&[&["volume", "create", "plain", "--size", "1GiB"][..], &off].concat());
    on(&["snapshot", "create", "p", "plain"]);
    on(&["volume", "create", "plain2", "--from-snapshot", "p"]);
    for plain in ["plain", "plain2"] {
        let seen: Value = serde_json::from_str(&on(&["volume", "show", plain, "-o", "json"])).unwrap();
        assert_eq!(seen["compression"], "false");
    }
    on(&["volume", "create", "c", "--from-snapshot", "s"]);
    let clone = on(&["volume", "show", "c"]);
    assert!(clone.contains("1 GiB (1073741824 bytes)") && clone.contains("512"), "{clone}");
    on(&["snapshot", "create", "g", "v", "c"]);
    let list = on(&["snapshot", "list", "--volume", "v"]);
    assert!(list.contains("3600s") && list.contains("g-v") && !list.contains("g-c"), "{list}");
    assert!(on(&["snapshot", "show", "g-c"]).contains("ever"));
    let listed = on(&["snapshot", "diff", "g-v", "--base", "s"]);
    assert!(listed.contains("4096") && listed.contains("8192"), "{listed}");
    let runs: Value = serde_json::from_str(&on(&["snapshot", "diff", "s", "-o", "json"])).unwrap();
    assert_eq!(runs[1]["offset"], 409_600);
    let why = bad(1, &["--data", data, "volume", "rollback", "v", "--to", "s"]);
    assert!(why.contains("nothing was changed") && why.contains("--yes"), "{why}");
    assert!(why.contains("no host is connected"), "{why}");
    assert!(on(&["volume", "rollback", "v", "--to", "s", "--yes"]).contains("is as it was at"));
    bad(1, &["--data", data, "volume", "rollback", "c", "--to", "s", "--yes"]);
    assert!(on(&["snapshot", "delete", "s"]).contains("is deleted"));
    assert!(on(&["snapshot", "list"]).contains("Deleting"), "its clone is there");
    assert!(
        bad(4, &["--data", data, "snapshot", "create", "s", "v"]).contains("once its clones are deleted too")
    );
    assert!(bad(3, &["--data", data, "snapshot", "show", "x"]).contains("snapshot list"));
    bad(2, &["--data", data, "volume", "create", "x"]);
    bad(2, &["--data", data, "snapshot", "create", "x"]);
    let uuid = "5c1d3f4e-0000-4000-8000-000000000009";
    for made in [
        &["volume", "create", uuid, "--size", "1GiB"][..],
        &["volume", "update", "v", "--name", uuid],
        &["snapshot", "create", uuid, "v"],
        &["policy", "create", uuid, "v", "--days", "1"],
        &["qos", "create", uuid],
    ] {
        let why = bad(1, &[&["--data", data], made].concat());
        assert!(why.contains("is a UUID; a name is none"), "{why}");
    }
    node.control.stop();
}

/// A snapshot keeps the name that its volume had, and belongs to the volume.
#[test]
fn snapshots_are_listed_by_volume_whatever_that_is_named_now() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).unwrap();
    let on = |args: &[&str]| good(dir.path(), args);
    on(&["volume", "create", "a", "--size", "1GiB"]);
    on(&["snapshot", "create", "s", "a"]);
    let said = on(&["volume", "update", "a", "--name", "b"]);
    assert!(said.contains("volume 'a' is named 'b' now") && !said.contains("QoS"), "{said}");
    on(&["volume", "create", "a", "--size", "1GiB"]);
    let of = |volume: &str| on(&["snapshot", "list", "--volume", volume]);
    assert!(of("b").contains("ever"), "{}", of("b"));
    assert!(of("a").contains("There are no snapshots"), "{}", of("a"));
    // Of a volume that is not there the name is all that is known.
    on(&["volume", "delete", "a", "--yes"]);
    assert!(of("a").contains("ever") && of("nothing").contains("There are no snapshots"), "{}", of("a"));
    node.control.stop();
}

#[test]
fn a_snapshot_policy_from_create_to_delete() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).unwrap();
    let data = dir.path().to_str().unwrap();
    let on = |args: &[&str]| good(dir.path(), args);
    on(&["volume", "create", "v", "--size", "1GiB"]);
    assert!(on(&["policy", "list"]).contains("There are no snapshot policies"));
    let at = ["--start", "2100-01-01T03:00:00Z"];
    let made = on(&[&["policy", "create", "d", "v", "--days", "1", "--keep", "86400"][..], &at].concat());
    assert!(made.contains("snapshot policy 'd' of volume 'v' is active"), "{made}");
    on(&[&["policy", "create", "w", "v", "--weekday", "monday", "--weekday", "friday"][..], &at].concat());
    let list = on(&["policy", "list"]);
    assert!(list.contains("every 1 days from 2100-01-01T03:00:00.000Z") && list.contains("86400s"), "{list}");
    assert!(on(&["policy", "show", "w"]).contains("Friday from 2100"));
    assert!(on(&["policy", "delete", "d"]).contains("its snapshots stay"));
    assert!(bad(3, &["--data", data, "policy", "show", "d"]).contains("policy list"));
    on(&["policy", "create", "at-once", "v", "--days", "1"]);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !on(&["snapshot", "list"]).contains("at-once-") {
        assert!(std::time::Instant::now() < deadline, "no first snapshot: {}", on(&["snapshot", "list"]));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    bad(2, &["--data", data, "policy", "create", "x", "v"]);
    bad(2, &["--data", data, "policy", "create", "x", "v", "--hours", "1", "--days", "1"]);
    bad(1, &["--data", data, "policy", "create", "x", "v", "--hours", "0"]);
    node.control.stop();
}

#[test]
fn a_qos_policy_from_create_to_delete() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).unwrap();
    let data = dir.path().to_str().unwrap();
    let on = |args: &[&str]| good(dir.path(), args);
    let args = ["qos", "create", "silver", "--read-iops", "500", "--write-mb", "20", "--description", "slow"];
    assert!(on(&args).contains("'silver'"));
    assert!(on(&["qos", "list"]).contains("500 / -"));
    on(&["qos", "update", "silver", "--write-iops", "7"]);
    let seen = on(&["qos", "show", "silver"]);
    assert!(seen.contains("500 / 7") && seen.contains("- / 20") && seen.contains("slow"), "{seen}");
    on(&["volume", "create", "v", "--size", "1GiB", "--qos", "silver"]);
    assert!(on(&["volume", "show", "v"]).contains("silver"));
    let why = bad(1, &["--data", data, "qos", "delete", "silver"]);
    assert!(why.contains("that of 1 volumes"), "{why}");
    assert!(on(&["qos", "default"]).contains("no-limit-policy"));
    assert!(on(&["qos", "default", "silver"]).contains("'silver'"));
    on(&["qos", "default", "no-limit-policy"]);
    let changed = on(&["volume", "update", "v", "--qos", "no-limit-policy", "--name", "w"]);
    assert!(changed.contains("volume 'w' has the QoS policy 'no-limit-policy'"), "{changed}");
    assert!(on(&["qos", "delete", "silver"]).contains("is deleted"));
    assert!(bad(3, &["--data", data, "qos", "show", "silver"]).contains("qos list"));
    bad(1, &["--data", data, "volume", "update", "w", "--qos", "silver"]);
    bad(2, &["--data", data, "volume", "update", "w"]);
    serde_json::from_str::<Value>(&on(&["qos", "list", "-o", "json"])).unwrap();
    node.control.stop();
}

#[test]
fn a_refusal_names_what_was_written_on_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).unwrap();
    let data = dir.path().to_str().unwrap();
    good(dir.path(), &["volume", "create", "v", "--size", "1GiB"]);
    let long = "x".repeat(300);
    let at = |days: &'static str| ["policy", "create", "p", "v", "--days", "1", "--start", days];
    let cases: [(&[&str], &str); 11] = [
        (&["volume", "create", "a b", "--size", "1GiB"], "error: 'a b' is not a name"),
        (&["volume", "create", "w", "--size", "500TiB"], "error: --size: "),
        (&["volume", "create", "w", "--size", "1GiB", "--qos", "none"], "error: --qos: QoS policy 'none'"),
        (&["volume", "create", "w", "--size", "1GiB", "--label", "a b=c"], "error: --label: 'a b'"),
        (
            &["volume", "create", "w", "--size", "1GiB", "--kind", "null", "--compression", "on"],
            "error: --compression: ",
        ),
        (&["volume", "resize", "v", "--size", "1MiB"], "error: --size: a volume can't shrink"),
        (&["qos", "create", "p", "--description", &long], "error: --description: more than"),
        (&["qos", "create", "p", "--project", "No!"], "error: --project: 'No!'"),
        (&["qos", "delete", "no-limit-policy"], "error: policy 'no-limit-policy' can't be deleted"),
        (&["policy", "create", "p", "v", "--days", "0"], "error: --days: must be 1 to"),
        (&at("soon"), "error: --start: 'soon' is not a time like 2026-"),
    ];
    for (args, told) in cases {
        let why = bad(1, &[&["--data", data], args].concat());
        assert!(why.starts_with(told), "{args:?}: {why}");
    }
    // What the command line can tell by itself never gets that far.
    let ages = ["snapshot", "create", "s", "v", "--keep", "99999999999999999"];
    assert!(bad(2, &ages).contains("'--keep <SECONDS>'"));
    node.control.stop();
}

#[test]
fn the_node_tells_about_itself() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).unwrap();
    let on = |args: &[&str]| good(dir.path(), args);
    assert!(on(&["status"]).contains("nqn.2016-01.com.lightbitslabs:uuid:"));
    let nodes = on(&["node", "list"]);
    assert!(nodes.contains("Active") && nodes.contains("1.50"), "{nodes}");
    let pool = on(&["pool", "show"]);
    assert!(pool.contains("Ready") && pool.contains("1.50"), "{pool}");
    assert!(on(&["drive", "list"]).contains("/drives/a"));
    assert!(on(&["host", "list"]).contains(HOST));
    on(&["volume", "create", "v", "--size", "1GiB"]);
    assert!(on(&["event", "list"]).contains("VolumeCreated"));
    assert!(on(&["event", "list", "--since", "2100-01-01T00:00:00+00:00"]).contains("Nothing happened"));
    assert!(on(&["event", "list", "--since", "2020-01-01"]).contains("VolumeCreated"));
    for args in [
        &["status"][..],
        &["node", "list"],
        &["pool", "show"],
        &["drive", "list"],
        &["host", "list"],
        &["event", "list"],
        &["volume", "list"],
        &["connect-help", "v"],
    ] {
        let text = on(&[args, &["--output", "json"]].concat());
        serde_json::from_str::<Value>(&text).unwrap_or_else(|why| panic!("{args:?}: {why}: {text}"));
    }
    node.control.stop();
}

#[test]
fn endpoint_and_token_from_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).unwrap();
    let url = format!("https://{}", node.control.addresses()[0]);
    let token = dir.path().join("token");
    let token = token.to_str().unwrap();
    let output = run(&["--endpoint", &url, "--token-file", token, "status"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let away = tempfile::tempdir().unwrap();
    let copy = away.path().join("token");
    std::fs::copy(token, &copy).unwrap();
    let copied = copy.to_str().unwrap();
    let why = bad(2, &["--endpoint", &url, "--token-file", copied, "status"]);
    assert!(why.contains("--certificate"), "{why}");
    let why = bad(6, &["--endpoint", &url, "--token-file", "/no/such/token", "status"]);
    assert!(why.contains("/no/such/token"), "{why}");
    let certificate = dir.path().join("tls.crt");
    let certificate = certificate.to_str().unwrap();
    let named = ["--endpoint", &url, "--token-file", copied, "--certificate", certificate];
    let with = [&named[..], &["status"]].concat();
    assert_eq!(run(&with).status.code(), Some(0));
    // What is suggested can be run as it stands.
    for kind in ["volume", "snapshot", "policy"] {
        let empty = String::from_utf8(run(&[&named[..], &[kind, "list"]].concat()).stdout).unwrap();
        assert!(empty.contains(&format!(": dolmen {} {kind} create NAME", named.join(" "))), "{empty}");
    }
    std::fs::write(&copy, "not.a.token").unwrap();
    let why = bad(6, &with);
    assert!(why.contains("malformed") && why.contains("DIR/token"), "{why}");
    // What is no certificate is not the node's own, which a start would make anew.
    let why = bad(1, &["--endpoint", &url, "--token-file", token, "--certificate", copied, "status"]);
    assert!(why.contains("is no certificate") && why.contains("copy DIR/tls.crt"), "{why}");
    assert!(!why.contains("start again"), "{why}");
    // Another node's certificate: not the node that was meant.
    let other = tempfile::tempdir().unwrap();
    let stranger = start(other.path()).unwrap();
    let theirs = other.path().join("tls.crt");
    let why = bad(
        5,
        &["--endpoint", &url, "--token-file", token, "--certificate", theirs.to_str().unwrap(), "status"],
    );
    assert!(why.contains("not the node that was meant"), "{why}");
    for wrong in ["http://127.0.0.1:1", "127.0.0.1:8443", "https://", "https://a/b", "https://a:x"] {
        bad(2, &["--endpoint", wrong, "--token-file", token, "status"]);
    }
    stranger.control.stop();
    node.control.stop();
}

#[test]
fn who_does_not_answer_is_told_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let text = data.to_str().unwrap();
    assert!(bad(5, &["--data", text, "status"]).contains("there is no data folder"));
    std::fs::create_dir(&data).unwrap();
    assert!(bad(5, &["--data", text, "status"]).contains("is not the data folder of a node"));
    let prepared = Prepared::open(&options(&data)).unwrap();
    let why = bad(7, &["--data", text, "status"]);
    assert!(why.contains("is starting") && why.contains(&std::process::id().to_string()), "{why}");
    drop(prepared);
    start(&data).unwrap().control.stop();
    let why = bad(5, &["--data", text, "status"]);
    assert!(why.contains("is not running") && why.contains("dolmen serve"), "{why}");
    // A daemon that was killed leaves its file behind.
    std::fs::write(data.join("endpoint"), r#"{"api":"127.0.0.1:1","pid":1}"#).unwrap();
    let why = bad(5, &["--data", text, "status"]);
    assert!(why.contains("no daemon answers at 127.0.0.1:1") && why.contains("dolmen serve"), "{why}");
    assert!(bad(2, &["status"]).contains("--data DIR"));
    assert!(bad(2, &["--data", text, "--endpoint", "https://a", "status"]).contains("give one"));
}

#[test]
fn one_daemon_per_folder_and_one_identity_for_life() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("deep/data");
    let node = start(&data).unwrap();
    let refused = start(&data).err().expect("the folder is taken").to_string();
    assert!(refused.contains(&std::process::id().to_string()), "{refused}");
    for (file, mode) in
        [("", 0o700), ("token", 0o600), ("token.key", 0o600), ("tls.key", 0o600), ("endpoint", 0o600)]
    {
        let found = std::fs::metadata(data.join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{file}");
    }
    let identity = node.control.cluster().identity().clone();
    node.control.stop();
    let node = start(&data).unwrap();
    assert_eq!(*node.control.cluster().identity(), identity);
    node.control.stop();
    let occupied = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = occupied.local_addr().unwrap().port();
    let taken = ServeOptions { api_port: port, ..options(&data) };
    let prepared = Prepared::open(&taken).unwrap();
    let (plane, _requests) = channel();
    let (_notices, notices) = mpsc::channel(1);
    let side =
        DataSide { recovered: Recovered::default(), plane, notices, nvme_port: 4420, discovery_port: 8009 };
    let why = prepared.start(&taken, side).unwrap_err().to_string();
    assert!(why.contains(&port.to_string()), "{why}");
}

#[test]
fn wrong_command_lines_end_with_two() {
    for args in [
        &[][..],
        &["frobnicate"],
        &["volume"],
        &["volume", "create", "v"],
        &["volume", "create", "v", "--size", "10"],
        &["volume", "create", "v", "--size", "10GiB", "--acl", "host"],
        &["volume", "create", "v", "--size", "10GiB", "--sector-size", "520"],
        &["volume", "create", "v", "--size", "10GiB", "--acl", "nqn.2014-08.org.nvmexpress:uuid:..."],
        &["volume", "allow", "v"],
        &["volume", "deny", "v"],
        &["volume", "update", "v"],
        &["qos", "update", "q"],
        &["pool", "scrub", "--start", "--pause"],
        &["demo", "--data", "/tmp/x"],
        &["event", "list", "--limit", "0"],
        &["serve"],
        &["serve", "--data", "/tmp/x"],
        &["serve", "--data", "/tmp/x", "--drive", "/tmp/y:10"],
        &["serve", "--endpoint", "https://a", "--data", "/tmp/x", "--drive", "/dev/x"],
        &["serve", "--certificate", "c", "--data", "/tmp/x", "--drive", "/dev/x"],
        &["serve", "--data", "/tmp/x", "--drive", "/dev/x:1GiB"],
        &["completions", "tclsh"],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
    assert!(bad(2, &["volume", "create", "v", "--size", "10"]).contains("10GiB"));
    // What would do is named in full.
    assert!(bad(2, &["volume", "update", "v"]).contains("<--qos <POLICY>|--name <NAME>>"));
    for verb in ["allow", "deny"] {
        assert!(bad(2, &["volume", verb, "v"]).contains("--ip <IP>"));
    }
    assert!(bad(2, &["qos", "update", "q"]).contains("--read-iops <COUNT>"));
    let manual = ["volume", "create", "v", "--size", "1GiB", "--acl", "nqn.2014-08.org.nvmexpress:uuid:XYZ"];
    assert!(bad(2, &manual).contains("/etc/nvme/hostnqn"));
}

#[test]
fn help_version_and_completions() {
    let text = |args: &[&str]| {
        let output = run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(text(&["--version"]).starts_with("dolmen "));
    let help = text(&["--help"]);
    assert!(help.contains("Exit codes:") && help.contains("--token-file"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(text(&["completions", shell]).contains("connect-help"));
    }
}

/// `docs/cli.md` is made from the program's own help. To renew it: `UPDATE_DOCS=1 cargo test -p dolmen --test cli`.
#[test]
fn the_documentation_is_the_program_s_own_help() {
    use clap::CommandFactory;
    fn section(out: &mut String, command: &mut clap::Command, name: &str) {
        let help = command.clone().term_width(110).bin_name(name).render_long_help().to_string();
        let help: Vec<&str> = help.lines().map(str::trim_end).collect();
        out.push_str(&format!("\n## {name}\n\n```text\n{}\n```\n", help.join("\n").trim_end()));
        let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_string()).collect();
        let names = names.into_iter().filter(|sub| sub != "help");
        for sub in names {
            let child = command.find_subcommand_mut(&sub).unwrap();
            section(out, child, &format!("{name} {sub}"));
        }
    }
    let mut made = String::from(
        "# The command line\n\nMade from the program's own help; a test compares. Renew it with\n\
         `UPDATE_DOCS=1 cargo test -p dolmen --test cli`.\n",
    );
    let mut command = dolmen::cli::args::Cli::command();
    command.build();
    section(&mut made, &mut command, "dolmen");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == made,
        "docs/cli.md is out of date; renew it: UPDATE_DOCS=1 cargo test -p dolmen --test cli"
    );
}
