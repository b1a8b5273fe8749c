//! `dolmen bench` against the Linux kernel's target, as its users run it. `cargo xtask vm run initiator` boots a kernel and says in
//! the environment where its target is.
#![allow(clippy::unwrap_used)] // a test that can't go on fails

mod figures;

use figures::{add_up, compares, number};
use serde_json::Value;
use std::process::Command;

const DOLMEN: &str = env!("CARGO_BIN_EXE_dolmen");

/// Runs on the namespace of 4096-byte blocks.
fn bench(args: &[&str]) -> Value {
    let from = |name: &str| std::env::var(name).expect("run by `cargo xtask vm run initiator`");
    let (target, subsystem) = (from("DOLMEN_KERNEL_TARGET"), from("DOLMEN_KERNEL_SUBSYSTEM"));
    let mut command = Command::new(DOLMEN);
    command.args(["bench", &target, "--nqn", &subsystem, "--output", "json", "--ramp", "0.2"]).args(args);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    let run: Value = serde_json::from_slice(&output.stdout).unwrap();
    add_up(&run);
    run
}

#[test]
#[ignore = "needs a kernel's target; `cargo xtask vm run initiator` runs it"]
fn figures_against_the_kernel_s_target_add_up_and_its_data_is_verified() {
    let dir = tempfile::tempdir().unwrap();
    let saved = dir.path().join("saved.json");
    let saved = saved.to_str().unwrap();
    let second = ["--nsid", "2", "--runtime", "1"];
    let on = |args: &[&str]| bench(&[&second[..], args].concat());
    let reads = on(&["--rw", "randread", "--iodepth", "8", "--jobs", "2", "--save", saved]);
    assert!(reads["writes"].is_null() && number(&reads, "/reads/operations") > 100.0, "{reads}");
    let model = reads["targets"][0]["model"].as_str().unwrap();
    assert!(model.starts_with("Linux"), "{model}");
    let destroys = ["--destroy-data", "--verify", "--size", "8MiB"];
    let writes =
        on(&[&destroys[..], &["--rw", "randwrite", "--iodepth", "4", "--connections", "2"]].concat());
    let mixed = [
        "--rw",
        "randrw",
        "--rwmixread",
        "70",
        "--bs",
        "16k",
        "--iodepth",
        "8",
        "--header-digest",
        "--data-digest",
    ];
    let mixed = on(&[&destroys[..], &mixed].concat());
    for run in [&writes, &mixed] {
        assert!(number(run, "/verified/blocksReadBack") > 0.0 && number(run, "/verified/violations") < 0.5);
    }
    let share = number(&mixed, "/reads/operations") / number(&mixed, "/all/operations");
    assert!((0.6..0.8).contains(&share), "{share} of 0.7 were reads");
    // The namespace of 512-byte blocks, at a rate that it holds.
    let paced = bench(&["--nsid", "1", "--runtime", "1", "--bs", "512", "--rate", "200", "--jobs", "2"]);
    assert!(number(&paced, "/behind") < 64.0, "{paced}");
    let again = on(&["--rw", "randread", "--iodepth", "8", "--jobs", "2", "--compare", saved]);
    compares(&reads, &again, &again["comparison"]);
    assert_eq!(again["comparison"]["differences"], serde_json::json!([]));
}
