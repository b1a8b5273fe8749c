//! Traces of the machine the tree was written on: absolute paths of its home and checkout folders, hosts of
//! its private package mirrors.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{tracked_files, verdict};

/// Folders that mean the same on every machine, so their names give nothing away.
const ORDINARY: &[&str] = &[
    "bin", "boot", "dev", "etc", "lib", "lib64", "media", "mnt", "opt", "proc", "run", "sbin", "share",
    "srv", "sys", "tmp", "usr", "var",
];

/// Package hosts that everybody uses.
const PUBLIC_HOSTS: &[&str] = &[
    "deb.debian.org",
    "security.debian.org",
    "snapshot.debian.org",
    "crates.io",
    "github.com",
    "static.rust-lang.org",
];

pub(crate) fn check() -> Result<()> {
    let patterns: Vec<String> = paths().into_iter().chain(hosts()).collect();
    let root = crate::root();
    let mut findings = Vec::new();
    for file in tracked_files()? {
        let Ok(text) = fs::read_to_string(root.join(&file)) else { continue };
        for (index, line) in text.lines().enumerate() {
            if let Some(pattern) = patterns.iter().find(|pattern| occurs(line, pattern)) {
                findings.push(format!("{}:{}: holds {pattern}", file.display(), index + 1));
            }
        }
    }
    verdict(&findings)
}

/// Whether a pattern stands in a line with nothing of a name or path before it.
fn occurs(line: &str, pattern: &str) -> bool {
    line.match_indices(pattern).any(|(at, _)| {
        !line[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '}' | '~'))
    })
}

/// Absolute paths that exist on this machine or on anybody's: homes, and the first folder of the checkout.
fn paths() -> BTreeSet<String> {
    let mut found: BTreeSet<String> =
        ["home", "Users", "root"].iter().map(|first| format!("/{first}/")).collect();
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    for path in [Some(crate::root()), home, cargo].into_iter().flatten() {
        if let Some(first) = first_folder(&path)
            && !ORDINARY.contains(&first.as_str())
        {
            found.insert(format!("/{first}/"));
        }
    }
    found
}

fn first_folder(path: &Path) -> Option<String> {
    path.strip_prefix("/").ok()?.iter().next()?.to_str().map(str::to_owned)
}

/// Hosts that this machine's package managers are pointed at, but for the public ones.
fn hosts() -> BTreeSet<String> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let mut files = vec![
        home.join(".cargo/config.toml"),
        home.join(".cargo/config"),
        home.join(".npmrc"),
        home.join(".config/pip/pip.conf"),
        PathBuf::from("/etc/pip.conf"),
        PathBuf::from("/etc/apt/sources.list"),
    ];
    for dir in ["/etc/apt/sources.list.d", "/etc/apt/apt.conf.d"] {
        files.extend(fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())));
    }
    let mut texts: Vec<String> = files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect();
    texts.extend(
        std::env::vars().filter(|(name, _)| name.contains("INDEX") || name.contains("PROXY")).map(|(_, v)| v),
    );
    let is_public = |host: &str| {
        PUBLIC_HOSTS.iter().any(|public| host == *public || host.ends_with(&format!(".{public}")))
    };
    texts.iter().flat_map(|text| hosts_in(text)).filter(|host| !is_public(host)).collect()
}

/// The hosts of all URLs in a text.
fn hosts_in(text: &str) -> Vec<String> {
    text.split("://")
        .skip(1)
        .filter_map(|rest| {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '.' | '-' | '@' | '_')));
            let host = rest[..end.unwrap_or(rest.len())].rsplit('@').next()?;
            host.contains('.').then(|| host.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{hosts_in, occurs};

    #[test]
    fn hosts_are_cut_out_of_urls() {
        assert_eq!(
            hosts_in("deb http://mirror.example.net/debian x\nindex=sparse+https://u:p@a.example/"),
            ["mirror.example.net"]
        );
    }

    #[test]
    fn a_path_inside_a_longer_one_is_not_a_trace() {
        let pattern = ["/", "home", "/"].concat();
        assert!(occurs(&format!("open(\"{pattern}me\")"), &pattern));
        assert!(!occurs(&format!("srv{pattern}me"), &pattern));
    }
}
