//! `dolmen bench` as its users run it, against a real daemon.
#![allow(clippy::unwrap_used)] // a test that can't go on fails

mod figures;
mod node;

use figures::{add_up, compares, number};
use node::{DOLMEN, Node, within};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    process::{Command, Output, Stdio},
    time::Duration,
};

const HOST: &str = "nqn.2014-08.org.example:bench";

struct Bench {
    node: Node,
    target: String,
}

impl Bench {
    fn new() -> Bench {
        Bench::over(&["a"])
    }

    fn over(drives: &[&str]) -> Bench {
        let mut node = Node::new();
        node.start(drives, &["--allow-test-volumes"]);
        let status = node.cli(&["status"]);
        // The discovery service's port: subsystem and address are found from there.
        let target = format!("127.0.0.1:{}", status["discoveryPort"]);
        Bench { node, target }
    }

    fn volume(&self, name: &str, kind: &str) -> String {
        self.sized(name, kind, "64MiB")
    }

    fn sized(&self, name: &str, kind: &str, size: &str) -> String {
        let made = ["volume", "create", name, "--size", size, "--acl", HOST, "--kind", kind];
        self.node.cli(&made)["UUID"].as_str().unwrap().to_string()
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(DOLMEN);
        command.args(["bench", &self.target, "--host-nqn", HOST, "--output", "json"]).args(args);
        command.output().unwrap()
    }

    fn good(&self, args: &[&str]) -> Value {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        let run = serde_json::from_slice(&output.stdout).unwrap();
        add_up(&run);
        run
    }

    fn bad(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        stderr
    }
}

#[test]
fn a_mixed_run_is_counted_verified_and_compared() {
    let b = Bench::new();
    let why = b.bad(3, &[]);
    assert!(why.contains("no subsystem") && why.contains(HOST), "{why}");
    let uuid = b.volume("one", "durable");
    let saved = b.node.drive("saved.json");
    let saved = saved.to_str().unwrap();
    let writes = ["--rw", "randrw", "--rwmixread", "70", "--bs", "8k", "--jobs", "2", "--iodepth", "8"];
    let why = b.bad(1, &writes);
    assert!(why.contains("--destroy-data") && why.contains("nothing was written"), "{why}");
    let short = ["--size", "2MiB", "--ramp", "0.05", "--runtime", "0.4", "--destroy-data"];
    let run = b.good(&[&writes[..], &short, &["--verify", "--save", saved]].concat());
    let (reads, changes) = (number(&run, "/reads/operations"), number(&run, "/writes/operations"));
    assert!(reads > changes && changes > 0.0, "{reads} reads, {changes} writes");
    assert!(number(&run, "/verified/blocksReadBack") > 0.0 && number(&run, "/verified/violations") < 0.5);
    assert_eq!(
        (&run["targets"][0]["uuid"], &run["workload"]["bs"]),
        (&Value::from(uuid), &Value::from(8192))
    );
    assert_eq!(run["jobs"].as_array().unwrap().len(), 2);
    // The daemon is ours to look at.
    assert!(number(&run, "/cpuNsPerIo") > 0.0 && number(&run, "/targetCpuNsPerIo") > 0.0, "{run}");
    assert!(run["targetProcesses"].as_str().unwrap().contains("dolmen"));

    let again = b.good(&[&writes[..], &short, &["--compare", saved]].concat());
    compares(&run, &again, &again["comparison"]);
    let differences = again["comparison"]["differences"].as_array().unwrap();
    assert!(differences.iter().any(|d| d.as_str().unwrap().contains("verify")), "{differences:?}");
    let compared = Command::new(DOLMEN).args(["bench", "compare", saved, saved]).output().unwrap();
    let text = String::from_utf8(compared.stdout).unwrap();
    assert!(text.contains("IOPS") && text.contains("1.000") && !text.contains("worse"), "{text}");
}

#[test]
fn jobs_that_never_sleep_and_share_a_cpu_are_warned_of() {
    let b = Bench::new();
    b.volume("one", "null");
    for (how, warned) in [
        (["--poll", "--jobs", "3"], true),
        (["--poll", "--jobs", "1"], false),
        (["--ramp", "0", "--jobs=3"], false),
    ] {
        let mut command = Command::new(DOLMEN);
        command.args(["bench", &b.target, "--host-nqn", HOST, "--cpus", "0", "--runtime", "0.1"]).args(how);
        let Output { status, stderr, .. } = command.output().unwrap();
        let said = String::from_utf8(stderr).unwrap();
        assert!(status.success() && said.contains("share one CPU") == warned, "{how:?}: {said}");
    }
}

/// More long writes than the node has large buffers: what waits for a commit leaves it what it is made of, and what waits for room leaves
/// cleaning what makes room.
#[test]
fn more_long_writes_than_buffers_go_on() {
    let b = Bench::over(&["a", "b", "c"]);
    b.volume("one", "durable");
    b.sized("larger", "durable", "320MiB");
    let load = [
        "--bs",
        "128k",
        "--iodepth",
        "8",
        "--connections",
        "48",
        "--ramp",
        "0",
        "--destroy-data",
        "--verify",
    ];
    for kind in [
        &["--nsid", "1", "--rw", "randrw", "--rwmixread", "30", "--runtime", "0.5"][..],
        &["--nsid", "2", "--rw", "randwrite", "--runtime", "2.5"],
    ] {
        let run = b.good(&[kind, &load[..]].concat());
        assert!(number(&run, "/verified/blocksReadBack") > 0.0 && number(&run, "/verified/violations") < 0.5);
        assert!(number(&run, "/connectionsLost") < 0.5, "{run}");
    }
}

#[test]
fn rates_depths_and_ranges_are_kept() {
    let b = Bench::new();
    let uuid = b.volume("null", "null");
    b.volume("other", "null");
    let why = b.bad(2, &["--runtime", "0.1"]);
    assert!(why.contains("shows 2 namespaces") && why.contains("--uuid"), "{why}");
    let on = |args: &[&str]| b.good(&[&["--uuid", &uuid, "--ramp", "0"], args].concat());
    // As fast as it was told to, however slow the machine is: 100 a second for two jobs.
    let run = on(&["--rate", "100", "--jobs", "2", "--runtime", "0.5"]);
    assert_eq!(run["workload"]["rate"], 100);
    // Once over 64 MiB is 512 commands of 128 KiB.
    let run = on(&["--rw", "read", "--bs", "128k", "--once"]);
    assert_eq!(run["reads"]["operations"], 512);
    let run = on(&["--latency-target", "1h", "--iodepth", "4", "--runtime", "0.1"]);
    assert_eq!((&run["latencyTarget"]["held"], &run["workload"]["iodepth"]), (&true.into(), &4.into()));
    // What can't be is refused before anything is sent.
    for (wrong, why) in [
        (&["--bs", "1000"][..], "multiple of the block"),
        (&["--bs", "4MiB"], "more than one command may move"),
        (&["--offset", "64MiB"], "no room"),
        (&["--size", "65MiB"], "beyond the end"),
        (&["--verify"], "choose a --rw that writes"),
        (&["--hot", "90/10", "--rw", "read"], "--hot is for random"),
        (&["--compare", "/nowhere"], "/nowhere"),
    ] {
        let said = b.bad(2, &[&["--uuid", &uuid], wrong].concat());
        assert!(said.contains(why), "{wrong:?}: {said}");
    }
    assert!(b.bad(1, &["--uuid", &uuid, "--cpus", "4095"]).contains("cannot run on CPU"));
    let closed = ["bench", "127.0.0.1:1", "--nqn", "nqn.2014-08.org.example:x"];
    assert_eq!(Command::new(DOLMEN).args(closed).output().unwrap().status.code(), Some(5));
}

/// Who is interrupted reports what was counted, even if the target owes answers that will not come.
#[test]
fn an_interrupted_run_does_not_wait_for_a_target_that_stands_still() {
    let b = Bench::new();
    b.volume("still", "null");
    let mut command = Command::new(DOLMEN);
    command.args(["bench", &b.target, "--host-nqn", HOST, "--output", "json", "--runtime", "600s"]);
    let mut run = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    b.node.signal(Signal::STOP);
    std::thread::sleep(Duration::from_millis(200));
    for _ in 0..2 {
        kill_process(Pid::from_child(&run), Signal::INT).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    within(&|| "it still waits".into(), || run.try_wait().unwrap().is_some());
    b.node.signal(Signal::CONT);
    let output = run.wait_with_output().unwrap();
    let run: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(run["interrupted"], true);
    assert!(number(&run, "/reads/operations") > 0.0, "{run}");
}
