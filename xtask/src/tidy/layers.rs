//! Who may import whom. Imports run downward only, the data path stays small, and only the binary, tests and
//! benches know which world is behind the seam.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::Value;

use super::verdict;
use crate::sh::run;

/// One room of the house: a crate's short name, and the crates it may import.
struct Room {
    name: &'static str,
    imports: &'static [&'static str],
    /// Whether it runs per I/O: no control-side dependencies, no duplicate versions below it.
    data_path: bool,
}

/// The house, bottom up. A crate that is not here is refused until it is given its place.
const HOUSE: &[Room] = &[
    Room { name: "types", imports: &[], data_path: true },
    Room { name: "kernels", imports: &["types"], data_path: true },
    Room { name: "nvme", imports: &["kernels", "types"], data_path: true },
    Room { name: "io", imports: &["types"], data_path: true },
    Room { name: "uring", imports: &["io", "types"], data_path: true },
    Room { name: "sim", imports: &["io", "types"], data_path: false },
    Room { name: "security", imports: &["kernels", "types"], data_path: false },
    Room { name: "store", imports: &["io", "kernels", "types"], data_path: true },
    Room { name: "replication", imports: &["io", "kernels", "types"], data_path: true },
    Room { name: "volume", imports: &["store", "replication", "io", "kernels", "types"], data_path: true },
    Room {
        name: "target",
        imports: &["volume", "nvme", "security", "io", "kernels", "types"],
        data_path: true,
    },
    Room { name: "initiator", imports: &["nvme", "security", "io", "kernels", "types"], data_path: true },
    Room {
        name: "initiator-c",
        imports: &["initiator", "uring", "nvme", "io", "kernels", "types"],
        data_path: true,
    },
    Room {
        name: "export",
        imports: &["volume", "initiator", "nvme", "io", "kernels", "types"],
        data_path: true,
    },
    Room {
        name: "core",
        imports: &["export", "target", "volume", "store", "nvme", "io", "types"],
        data_path: true,
    },
    Room { name: "cluster", imports: &["security", "types"], data_path: false },
    Room { name: "api", imports: &["cluster", "security", "types"], data_path: false },
    Room { name: "csi", imports: &["cluster", "security", "types"], data_path: false },
];

/// The composition roots: they may import everything.
const ROOTS: &[&str] = &["dolmen", "bench", "guard"];

/// Crates that are another world behind the seam: named by roots and by tests only.
const WORLDS: &[&str] = &["uring", "sim"];

/// What programs in other languages link: as final as the binary, so it names the real world.
const ARTIFACTS: &[&str] = &["initiator-c"];

/// Never below a data-path crate, however deep.
const CONTROL_ONLY: &[&str] = &[
    "tokio",
    "mio",
    "async-std",
    "smol",
    "parking_lot",
    "serde_json",
    "axum",
    "hyper",
    "tracing-subscriber",
];

pub(crate) fn check() -> Result<()> {
    let text = run("cargo")
        .args(["metadata", "--format-version", "1", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .dir(crate::root())
        .text()?;
    let metadata: Value = serde_json::from_str(&text).context("reading cargo's metadata")?;
    let mut findings = Vec::new();
    for package in array(&metadata["packages"]).filter(|package| package["source"].is_null()) {
        let Some(name) = string(&package["name"]).strip_prefix("dolmen").map(short_name) else { continue };
        imports_of(name, package, &mut findings);
        forbids_unsafe(name, package, &mut findings)?;
    }
    let graph = Graph::read(&metadata);
    for room in HOUSE.iter().filter(|room| room.data_path) {
        graph.check_data_path(room.name, &mut findings);
    }
    verdict(&findings)
}

/// `-nvme` -> `nvme`; the binary's package has no suffix.
fn short_name(suffix: &str) -> &str {
    if suffix.is_empty() { "dolmen" } else { suffix.trim_start_matches('-') }
}

/// Checks the crates of ours that a package's manifest names.
fn imports_of(name: &str, package: &Value, findings: &mut Vec<String>) {
    if ROOTS.contains(&name) {
        return;
    }
    let Some(room) = HOUSE.iter().find(|room| room.name == name) else {
        findings
            .push(format!("crate {name} has no place in the house: give it one in xtask/src/tidy/layers.rs"));
        return;
    };
    for dependency in array(&package["dependencies"]) {
        let Some(import) = string(&dependency["name"]).strip_prefix("dolmen").map(short_name) else {
            continue;
        };
        let is_dev = string(&dependency["kind"]) == "dev";
        let is_world = WORLDS.contains(&import);
        if is_world && !is_dev && !ARTIFACTS.contains(&name) {
            findings.push(format!("{name} imports {import}: only the binary, tests and benches may"));
        } else if !is_dev && !room.imports.contains(&import) {
            findings.push(format!("{name} imports {import}: imports run downward only"));
        }
    }
}

/// Every crate but the few homes of unsafe forbids it in its root file.
fn forbids_unsafe(name: &str, package: &Value, findings: &mut Vec<String>) -> Result<()> {
    if super::sources::MAY_BE_UNSAFE.contains(&name) {
        return Ok(());
    }
    for target in array(&package["targets"]) {
        if !array(&target["kind"]).any(|kind| matches!(string(kind), "lib" | "bin" | "cdylib")) {
            continue;
        }
        let path = string(&target["src_path"]);
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
        if !text.contains("#![forbid(unsafe_code)]") {
            findings.push(format!("{name}: its root file lacks #![forbid(unsafe_code)]"));
        }
    }
    Ok(())
}

/// Cargo's resolved graph of normal dependencies.
struct Graph<'a> {
    /// Name and version of each package id.
    packages: BTreeMap<&'a str, (&'a str, &'a str)>,
    /// Package ids that a package id needs at run time.
    edges: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> Graph<'a> {
    fn read(metadata: &'a Value) -> Self {
        let packages = array(&metadata["packages"])
            .map(|package| (string(&package["id"]), (string(&package["name"]), string(&package["version"]))))
            .collect::<BTreeMap<_, _>>();
        let edges = array(&metadata["resolve"]["nodes"])
            .map(|node| {
                let normal = array(&node["deps"])
                    .filter(|dependency| array(&dependency["dep_kinds"]).any(|kind| kind["kind"].is_null()))
                    .map(|dependency| string(&dependency["pkg"]))
                    .collect();
                (string(&node["id"]), normal)
            })
            .collect();
        Self { packages, edges }
    }

    /// No control-side library and no crate in two versions below a data-path crate.
    fn check_data_path(&self, room: &str, findings: &mut Vec<String>) {
        let package = format!("dolmen-{room}");
        let Some((root, _)) = self.packages.iter().find(|(_, (name, _))| *name == package) else { return };
        let mut below = BTreeSet::new();
        let mut todo = vec![*root];
        while let Some(id) = todo.pop() {
            if below.insert(id) {
                todo.extend(self.edges.get(id).into_iter().flatten());
            }
        }
        let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (name, version) in below.iter().filter_map(|id| self.packages.get(id)) {
            versions.entry(name).or_default().insert(version);
        }
        for (name, versions) in versions {
            if CONTROL_ONLY.contains(&name) {
                findings.push(format!("{room} depends on {name}, which belongs to the control side"));
            }
            if versions.len() > 1 {
                findings
                    .push(format!("{room} depends on {name} in {} versions: {versions:?}", versions.len()));
            }
        }
    }
}

pub(super) fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

pub(super) fn string(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{HOUSE, imports_of};
    use serde_json::json;

    #[test]
    fn imports_of_the_house_run_downward() {
        for (height, room) in HOUSE.iter().enumerate() {
            for import in room.imports {
                let below = HOUSE.iter().position(|other| other.name == *import);
                assert!(below.is_some_and(|below| below < height), "{} imports {import}", room.name);
            }
        }
    }

    #[test]
    fn upward_imports_and_worlds_are_found() {
        let mut findings = Vec::new();
        let package = json!({"dependencies": [
            {"name": "dolmen-types", "kind": null},
            {"name": "dolmen-target", "kind": null},
            {"name": "dolmen-sim", "kind": "dev"},
            {"name": "dolmen-uring", "kind": null},
        ]});
        imports_of("store", &package, &mut findings);
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(findings[0].contains("target") && findings[1].contains("uring"));
    }
}
