//! `dolmen bench` as its users run it, against a real daemon.
#![allow(clippy::unwrap_used)] // a test that can't go on fails

mod door;
mod figures;
mod node;

use door::Wire;
use figures::{add_up, compares, number};
use node::{DOLMEN, Node, within};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
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

    /// A stretch of network before the data port, and what a run through it says of the target.
    fn wire(&self) -> (Wire, [String; 2]) {
        let run = self.good(&["--runtime", "0.05", "--ramp", "0"]);
        let of = |what: &str| run["targets"][0][what].as_str().unwrap().to_string();
        (Wire::to(of("address").parse().unwrap()), [of("subsystem"), run["targets"][0]["nsid"].to_string()])
    }

    /// Begins a run by way of a wire.
    fn begin(&self, (wire, [nqn, nsid]): &(Wire, [String; 2]), args: &[&str]) -> Child {
        let mut command = Command::new(DOLMEN);
        command.args(["bench", &wire.addr.to_string(), "--nqn", nqn, "--nsid", nsid, "--host-nqn", HOST]);
        command.args(["--output", "json", "--ramp", "0"]).args(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
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
        (&["--offset", "64MiB"], "beyond the end"),
        (&["--bs", "64KiB", "--size", "4k"], "no room"),
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
    sleep(Duration::from_secs(2));
    b.node.signal(Signal::STOP);
    sleep(Duration::from_millis(200));
    for _ in 0..2 {
        kill_process(Pid::from_child(&run), Signal::INT).unwrap();
        sleep(Duration::from_millis(100));
    }
    within(&|| "it still waits".into(), || run.try_wait().unwrap().is_some());
    b.node.signal(Signal::CONT);
    let output = run.wait_with_output().unwrap();
    let run: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(run["interrupted"], true);
    assert!(number(&run, "/reads/operations") > 0.0, "{run}");
}

/// How a run ended: its code, what it reported, what it said.
fn end(run: Child) -> (Option<i32>, Value, String) {
    let Output { status, stdout, stderr } = run.wait_with_output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    let report = serde_json::from_slice(&stdout).unwrap_or_else(|why| panic!("{why}: {said}"));
    (status.code(), report, said)
}

fn interrupt(run: &Child) {
    kill_process(Pid::from_child(run), Signal::INT).unwrap();
}

fn empty_slices(run: &Value) -> usize {
    let slices = run["slices"].as_array().unwrap();
    slices.iter().filter(|slice| number(slice, "/iops") < 0.5 && slice["p50"].is_null()).count()
}

#[test]
fn a_connection_that_stays_away_ends_the_run_with_an_error() {
    let b = Bench::new();
    b.volume("one", "null");
    let wire = b.wire();
    let writes = ["--rw", "randwrite", "--destroy-data", "--rate", "500", "--runtime", "4"];
    let run = b.begin(&wire, &[&writes[..], &["--loss-timeout", "6"]].concat());
    sleep(Duration::from_millis(1500));
    wire.0.cut();
    let (code, run, said) = end(run);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("commands failed") && said.contains("lost"), "{said}");
    assert!(number(&run, "/errors") > 0.5, "{run}");
    assert_eq!((&run["connectionsLost"], &run["connectionsMadeAgain"]), (&1.into(), &0.into()));
    // What was counted ends by the clock, and the outage is in it.
    assert!((4.0..5.0).contains(&number(&run, "/seconds")), "{run}");
    assert!((20..=22).contains(&run["slices"].as_array().unwrap().len()), "{run}");
    assert!(empty_slices(&run) >= 6, "{run}");
}

#[test]
fn an_outage_that_heals_is_in_the_slices_and_in_the_comparison() {
    let b = Bench::new();
    b.volume("one", "null");
    let wire = b.wire();
    let saved = ["before", "after"].map(|name| b.node.drive(name).to_str().unwrap().to_string());
    for (save, outage) in saved.iter().zip([false, true]) {
        let run = b.begin(&wire, &["--rate", "500", "--runtime", "3", "--save", save]);
        sleep(Duration::from_millis(1000));
        if outage {
            wire.0.cut();
            sleep(Duration::from_millis(900));
            wire.0.mend();
        }
        let (code, run, said) = end(run);
        assert_eq!(code, Some(0), "{said}");
        let lost = u64::from(outage);
        assert_eq!((&run["connectionsLost"], &run["connectionsMadeAgain"]), (&lost.into(), &lost.into()));
        assert!((20..=22).contains(&run["slices"].as_array().unwrap().len()), "{run}");
        assert!(!outage || empty_slices(&run) >= 3, "{run}");
    }
    let [before, after] = &saved;
    let compared =
        Command::new(DOLMEN).args(["bench", "compare", before, after, "--output", "json"]).output();
    let compared: Value = serde_json::from_slice(&compared.unwrap().stdout).unwrap();
    let rows = compared["rows"].as_array().unwrap();
    let latency = rows.iter().find(|row| row["name"] == "mean latency").unwrap();
    assert_eq!(latency["verdict"], "worse", "{compared}");
    let differences = compared["differences"].to_string();
    assert!(differences.contains("connections lost"), "{differences}");
}

#[test]
fn an_interrupted_verification_says_that_nothing_was_read_back() {
    let b = Bench::new();
    b.volume("one", "null");
    let wire = b.wire();
    let run = b.begin(
        &wire,
        &["--rw", "randwrite", "--destroy-data", "--verify", "--rate", "500", "--runtime", "60"],
    );
    sleep(Duration::from_millis(1500));
    interrupt(&run);
    let (code, run, said) = end(run);
    assert_eq!((code, &run["interrupted"]), (Some(1), &true.into()), "{said}");
    assert!(said.contains("was not read back"), "{said}");
    assert_eq!(run["verified"]["notReadBack"], "it was interrupted");
    assert_eq!(run["verified"]["blocksReadBack"], 0);
}

#[test]
fn who_is_interrupted_does_not_wait_for_a_connection_that_is_away() {
    let b = Bench::new();
    b.volume("one", "null");
    let wire = b.wire();
    let run = b.begin(&wire, &["--rate", "500", "--runtime", "60", "--loss-timeout", "never"]);
    sleep(Duration::from_millis(1000));
    wire.0.cut();
    sleep(Duration::from_millis(500));
    interrupt(&run);
    let begun = Instant::now();
    let (code, run, said) = end(run);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(code, Some(1), "{said}");
    assert!(number(&run, "/unanswered") > 0.5 && said.contains("not answered"), "{said}");
}

#[test]
fn a_range_is_gone_over_once_and_whole() {
    let b = Bench::new();
    b.volume("one", "durable");
    let range = ["--once", "--bs", "16k", "--size", "16MiB", "--jobs", "3"];
    // Jobs end when they are through, so that their rates are not those of one time.
    let run = |args: &[&str]| {
        let Output { status, stdout, stderr } = b.run(&[&range[..], args].concat());
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
        serde_json::from_slice::<Value>(&stdout).unwrap()
    };
    for rw in ["randwrite", "write"] {
        let run = run(&["--rw", rw, "--verify", "--destroy-data"]);
        assert_eq!(
            (&run["verified"]["blocksReadBack"], &run["writes"]["operations"]),
            (&4096.into(), &1024.into())
        );
    }
    assert_eq!(run(&["--rw", "randread"])["reads"]["operations"], 1024);
}
