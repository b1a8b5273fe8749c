//! What sources may hold: which crates may be unsafe, what the data path may not name, how long a file may be.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::rust::{blank, paths, without_tests};
use super::{crate_of, tracked_files, verdict};

/// Crates in which `unsafe` may be written.
pub(crate) const MAY_BE_UNSAFE: &[&str] = &["uring", "io", "kernels", "export", "initiator-c"];

/// Crates whose runs must replay from their inputs: clocks, threads, files, sockets and seeds reach them only
/// through the seam.
const REPLAYABLE: &[&str] = &[
    "types",
    "kernels",
    "nvme",
    "io",
    "sim",
    "store",
    "replication",
    "volume",
    "target",
    "initiator",
    "export",
    "core",
];

/// Paths that replayable crates may not name, and why.
const BANNED_PATHS: &[(&str, &str)] = &[
    ("std::time::Instant", "a clock: `now` is passed in"),
    ("std::time::SystemTime", "a clock: `now` is passed in"),
    ("std::thread", "a thread: cores belong to the binary"),
    ("std::fs", "a file: drives are behind the seam"),
    ("std::env", "the environment: options are passed in"),
    ("std::process", "a process"),
    ("std::net::TcpStream", "a socket: sockets are behind the seam"),
    ("std::net::TcpListener", "a socket: sockets are behind the seam"),
    ("std::net::UdpSocket", "a socket: sockets are behind the seam"),
    ("std::os::unix::net", "a socket: sockets are behind the seam"),
    ("std::collections::HashMap", "a randomly seeded map: use BTreeMap or a fixed hasher"),
    ("std::collections::HashSet", "a randomly seeded set: use BTreeSet or a fixed hasher"),
    ("std::hash::RandomState", "a random seed"),
    ("rand", "randomness: the seed is passed in"),
    ("getrandom", "randomness: the seed is passed in"),
];

/// Files longer than this are refused.
const MAX_LINES: usize = 900;

/// Files longer than this are listed.
const LONG_LINES: usize = 600;

pub(crate) fn check() -> Result<()> {
    let mut findings = Vec::new();
    let root = crate::root();
    for file in tracked_files()?.iter().filter(|file| file.extension().is_some_and(|ext| ext == "rs")) {
        let text = fs::read_to_string(root.join(file))?;
        let lines = text.lines().count();
        if lines > MAX_LINES {
            findings.push(format!("{}: {lines} lines, more than {MAX_LINES}: split it", file.display()));
        } else if lines > LONG_LINES {
            println!("  note: {} has {lines} lines", file.display());
        }
        let blanked = blank(&text);
        check_unsafe(file, &blanked, &mut findings);
        if !is_test_file(file) {
            check_paths(file, &without_tests(&blanked), &mut findings);
        }
    }
    verdict(&findings)
}

/// Files that are compiled for tests and benches only.
fn is_test_file(file: &Path) -> bool {
    file.iter().any(|part| {
        matches!(part.to_str(), Some("tests" | "benches" | "examples" | "fuzz" | "tests.rs" | "build.rs"))
    })
}

fn check_unsafe(file: &Path, blanked: &str, findings: &mut Vec<String>) {
    if crate_of(file).is_none_or(|name| MAY_BE_UNSAFE.contains(&name)) {
        return;
    }
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    for (index, line) in blanked.lines().enumerate() {
        if line.split(|c| !is_word(c)).any(|word| word == "unsafe") {
            findings.push(format!("{}:{}: unsafe outside its homes", file.display(), index + 1));
        }
    }
}

fn check_paths(file: &Path, blanked: &str, findings: &mut Vec<String>) {
    if crate_of(file).is_none_or(|name| !REPLAYABLE.contains(&name)) {
        return;
    }
    for (line, path) in paths(blanked) {
        let path = path.strip_prefix("core::").map_or(path.clone(), |rest| format!("std::{rest}"));
        let banned = BANNED_PATHS.iter().find(|(banned, _)| {
            path.strip_prefix(banned).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        });
        if let Some((banned, why)) = banned {
            let finding = format!("{}:{line}: names {banned}: {why}", file.display());
            if findings.last() != Some(&finding) {
                findings.push(finding);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{check_paths, check_unsafe};

    #[test]
    fn the_data_path_names_no_clock() {
        let mut findings = Vec::new();
        let source = "use std::time::{Duration, Instant};\nlet a = std::fs::read(b);\nuse std::net::IpAddr;";
        check_paths(Path::new("crates/store/src/lib.rs"), source, &mut findings);
        assert_eq!(findings.len(), 2, "{findings:?}");
        check_paths(Path::new("crates/dolmen/src/main.rs"), source, &mut findings);
        assert_eq!(findings.len(), 2, "the binary may");
    }

    #[test]
    fn unsafe_has_few_homes() {
        let mut findings = Vec::new();
        check_unsafe(Path::new("crates/io/src/buf.rs"), "unsafe { x }", &mut findings);
        check_unsafe(Path::new("crates/nvme/src/lib.rs"), "#![forbid(unsafe_code)]", &mut findings);
        assert!(findings.is_empty());
        check_unsafe(Path::new("crates/nvme/src/lib.rs"), "let a = unsafe { x };", &mut findings);
        assert_eq!(findings.len(), 1);
    }
}
