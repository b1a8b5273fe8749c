//! `cargo xtask test`: installs what it needs, builds, runs every test but the long soaks, ends with the line `N passed, M failed`.
//!
//! Guests mostly wait for themselves, so the scenarios run beside the other tests; what each phase took is told at the end.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::packages::find_program;
use crate::scenario::{self, Against, Plan, Tally};
use crate::sh::{Stream, run};

/// The kernels the scenarios run on: the newest that Debian 12 has, and the floor.
const KERNELS: [&str; 2] = ["6.12", "6.1"];

/// How the summary line of nextest begins.
const NEXTEST_SUMMARY: &str = "Summary [";

/// A phase that is over: its name, what came of it, how long it took.
struct Phase {
    name: &'static str,
    tally: Tally,
    seconds: f64,
}

impl Phase {
    fn run(name: &'static str, work: impl FnOnce() -> Tally) -> Phase {
        let start = Instant::now();
        let tally = work();
        Phase { name, tally, seconds: start.elapsed().as_secs_f64() }
    }
}

/// Runs the workspace's tests and, unless told otherwise, the scenarios in virtual machines.
pub(crate) fn test(skip_vm: bool) -> Result<()> {
    let start = Instant::now();
    // First, so that a machine on which it can't be done says so at once.
    if skip_vm { crate::packages::ensure_guard_tools() } else { crate::packages::ensure_test_tools() }?;
    let mut phases = vec![Phase::run("build", build)];
    if phases[0].tally.failed == 0 {
        std::thread::scope(|scope| {
            let machines = (!skip_vm).then(|| scope.spawn(|| Phase::run("scenarios", scenarios)));
            phases.push(Phase::run("tests", unit_tests));
            phases.push(Phase::run("examples in the documentation", doc_tests));
            phases.push(Phase::run("guard", guard));
            phases.extend(machines.map(|thread| thread.join().expect("a failed scenario is counted")));
        });
    }
    let mut all = Tally::default();
    for Phase { name, tally, seconds } in phases {
        println!("{name}: {} passed, {} failed ({seconds:.0} s)", tally.passed, tally.failed);
        all.add(tally);
    }
    println!("all of it took {:.0} s", start.elapsed().as_secs_f64());
    println!("{} passed, {} failed", all.passed, all.failed);
    if all.failed > 0 {
        bail!("not all tests passed");
    }
    Ok(())
}

/// Builds all that the tests run, the daemon among it. Everything after this names the whole workspace too: for one package alone
/// cargo would build what it depends on once more, with fewer features.
fn build() -> Tally {
    counted(&["test", "--workspace", "--no-run", "--quiet"], Stream::Output)
}

/// All tests of the workspace but the documentation's: with nextest where it is installed, else with cargo.
fn unit_tests() -> Tally {
    let (words, stream): (&[&str], _) = if find_program("cargo-nextest").is_some() {
        let quiet = ["--status-level", "fail", "--final-status-level", "fail", "--no-tests", "pass"];
        (&[&["nextest", "run", "--workspace", "--no-fail-fast"], quiet.as_slice()].concat(), Stream::Error)
    } else {
        (&["test", "--workspace", "--all-targets", "--no-fail-fast", "--quiet"], Stream::Output)
    };
    counted(words, stream)
}

/// The examples in the documentation, which nextest doesn't run.
fn doc_tests() -> Tally {
    counted(&["test", "--workspace", "--doc", "--no-fail-fast", "--quiet"], Stream::Output)
}

/// The hot paths' instructions against what is recorded: one test.
fn guard() -> Tally {
    match crate::guard::guard(false) {
        Ok(()) => Tally { passed: 1, failed: 0 },
        Err(error) => {
            println!("guard: FAILED: {error:#}");
            Tally { passed: 0, failed: 1 }
        }
    }
}

/// Runs cargo and counts what its test runners say; a run that failed without a failed test (it did not even
/// build) counts as one failure.
fn counted(words: &[&str], stream: Stream) -> Tally {
    let mut tally = Tally::default();
    let succeeded = match run("cargo").args(words).dir(crate::root()).echoed(stream) {
        Ok((succeeded, text)) => {
            tally = summaries_of(&text);
            succeeded
        }
        Err(error) => {
            println!("FAILED: {error:#}");
            false
        }
    };
    if !succeeded && tally.failed == 0 {
        tally.failed = 1;
    }
    tally
}

/// What the summary lines of a run come to. Where nextest ran there is one, the last; a line of cargo's before it is what a failed
/// test printed, shown once more.
fn summaries_of(text: &str) -> Tally {
    let mut tally = Tally::default();
    for line in text.lines() {
        if line.trim_start().starts_with(NEXTEST_SUMMARY) {
            tally = Tally::default();
        }
        tally.add(summary_of(line));
    }
    tally
}

/// The counts in a summary line of cargo (`test result: ok. 3 passed; 0 failed; ...`) or of nextest
/// (`Summary [0.1s] 3 tests run: 2 passed, 1 failed, 0 skipped`); zero for any other line.
fn summary_of(line: &str) -> Tally {
    let line = line.trim_start();
    let Some(counts) = line.strip_prefix("test result:").or_else(|| {
        line.strip_prefix(NEXTEST_SUMMARY)
            .and_then(|rest| rest.split_once(" run: ").map(|(_, counts)| counts))
    }) else {
        return Tally::default();
    };
    let words: Vec<&str> =
        counts.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let count = |wanted: &[&str]| -> u32 {
        words
            .windows(2)
            .filter(|pair| wanted.contains(&pair[1]))
            .filter_map(|pair| pair[0].parse::<u32>().ok())
            .sum()
    };
    Tally { passed: count(&["passed"]), failed: count(&["failed", "timed", "exec"]) }
}

/// Runs the scenarios on both kernels, against the daemon that was built with the tests: its assertions are on.
fn scenarios() -> Tally {
    let binary = crate::root().join("target/debug/dolmen");
    let series = KERNELS.map(str::to_owned).to_vec();
    let plan = Plan { series, against: Against::Dolmen, binary, only: Vec::new() };
    scenario::run(&plan).unwrap_or_else(|error| {
        println!("vm: FAILED: {error:#}");
        Tally { passed: 0, failed: 1 }
    })
}

#[cfg(test)]
mod tests {
    use super::{summaries_of, summary_of};

    #[test]
    fn what_a_failed_test_printed_is_not_counted_again() {
        let nextest = "        FAIL [   0.005s] dolmen it::fails\n\
            test result: FAILED. 0 passed; 1 failed; 0 ignored\n\
            \u{20}    Summary [   0.006s] 5 tests run: 4 passed, 1 failed, 0 skipped\n\
            \u{20}       FAIL [   0.005s] dolmen it::fails\n";
        let cargo = "test result: ok. 3 passed; 0 failed\ntest result: FAILED. 1 passed; 1 failed\n";
        for (text, counts) in [(nextest, (4, 1)), (cargo, (4, 1)), ("", (0, 0))] {
            let tally = summaries_of(text);
            assert_eq!((tally.passed, tally.failed), counts, "{text}");
        }
    }

    #[test]
    fn summaries_of_both_runners_are_counted() {
        let cases = [
            (
                "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s",
                (3, 0),
            ),
            ("test result: FAILED. 3 passed; 2 failed; 0 ignored", (3, 2)),
            ("     Summary [   0.006s] 5 tests run: 5 passed, 0 skipped", (5, 0)),
            (
                "     Summary [   1.006s] 7 tests run: 4 passed (1 slow), 2 failed, 1 timed out, 3 skipped",
                (4, 3),
            ),
            ("     Summary [   1.006s] 5/7 tests run: 4 passed, 1 failed", (4, 1)),
            ("running 3 tests", (0, 0)),
        ];
        for (line, counts) in cases {
            let tally = summary_of(line);
            assert_eq!((tally.passed, tally.failed), counts, "{line}");
        }
    }
}
