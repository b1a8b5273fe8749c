//! `cargo xtask bench`: builds what is measured in release mode, installs what the peers need, and measures.

mod kernel;

use anyhow::Result;

use crate::root;
use crate::sh::run;

/// The benchmark's own words, but for `kernel`, which takes a virtual machine.
pub(crate) fn bench(words: Vec<String>) -> Result<()> {
    let first = words.first().map(String::as_str);
    if first == Some("kernel") {
        return kernel::bench(&words[1..]);
    }
    if ["store", "help", "--help", "-h", "count"].iter().any(|&word| first == Some(word)) {
        return benchmark(words);
    }
    if ["--target", "--floor-only", "--dolmen"].iter().any(|&own| words.iter().any(|word| word == own)) {
        return benchmark(words);
    }
    build("dolmen")?;
    let daemon = ["--dolmen".to_owned(), root().join("target/release/dolmen").display().to_string()];
    // Without a word it is the matrix; with flags alone one load.
    match first {
        None | Some("matrix") => {
            crate::packages::offer_bench_tools();
            let (docs, mut own): (Vec<_>, Vec<_>) =
                words.into_iter().skip(1).partition(|word| word == "--docs");
            if !docs.is_empty() {
                own.extend(["--docs".to_owned(), root().join("docs").display().to_string()]);
            }
            benchmark(["matrix".to_owned()].into_iter().chain(daemon).chain(own).collect())
        }
        Some(_) => benchmark(daemon.into_iter().chain(words).collect()),
    }
}

fn build(package: &str) -> Result<()> {
    run("cargo").args(["build", "--release", "--package", package]).dir(root()).status()
}

fn benchmark(words: Vec<String>) -> Result<()> {
    let cargo = ["run", "--release", "--package", "dolmen-bench", "--"];
    run("cargo").args(cargo).args(words).dir(root()).status()
}
