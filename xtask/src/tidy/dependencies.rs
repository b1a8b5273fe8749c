//! What dependencies may be: under a permissive licence, from the public registry, and none of those that we have a better one for.
//! The reason for each is in docs/dependencies.md.
//!
//! This reads cargo's own metadata, so nothing has to be installed for it. The database of advisories is not asked: it needs a
//! network that builds should not depend on.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::Value;
use spdx::{Expression, ParseMode};

use super::layers::{array, string};
use super::verdict;
use crate::sh::run;

/// Permissive licences only; a copyleft licence would bind those who embed the initiator.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "OpenSSL",
    "Unicode-3.0",
    "Zlib",
];

/// Crates that may not be there, however deep, and why. On the control side a second version of a crate costs build time only; below
/// a data-path crate it is refused with the layers.
const BANNED: &[(&str, &str)] = &[
    ("openssl-sys", "one crypto library: aws-lc"),
    ("ring", "one crypto library: aws-lc"),
    ("native-tls", "rustls on aws-lc"),
    ("async-std", "tokio on the control side, our own loop on the data path"),
    ("progenitor", "MPL"),
];

/// Where crates come from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Machines that it is built for.
const PLATFORMS: [&str; 2] = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];

pub(crate) fn check() -> Result<()> {
    let text = run("cargo")
        .args(["metadata", "--format-version", "1", "--all-features"])
        .dir(crate::root())
        .text()?;
    let metadata: Value = serde_json::from_str(&text).context("reading cargo's metadata")?;
    let built = built()?;
    let mut findings = Vec::new();
    array(&metadata["packages"])
        .filter(|package| {
            let key = (string(&package["name"]).to_owned(), string(&package["version"]).to_owned());
            built.contains(&key)
        })
        .for_each(|package| look_at(package, &mut findings));
    verdict(&findings)
}

/// Name and version of every package that is built for one of the platforms; the metadata also lists what only a feature that
/// nobody asks for would need.
fn built() -> Result<BTreeSet<(String, String)>> {
    let mut all = BTreeSet::new();
    for platform in PLATFORMS {
        let words = [
            "tree",
            "--workspace",
            "--all-features",
            "--edges",
            "all",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ];
        let text = run("cargo").args(words).args(["--target", platform]).dir(crate::root()).text()?;
        all.extend(text.lines().filter_map(|line| {
            let (name, rest) = line.split_once(" v")?;
            Some((name.to_owned(), rest.split_whitespace().next()?.to_owned()))
        }));
    }
    Ok(all)
}

fn look_at(package: &Value, findings: &mut Vec<String>) {
    let name = string(&package["name"]);
    if let Err(why) = licence(package["license"].as_str()) {
        findings.push(format!("{name} {}: {why}", string(&package["version"])));
    }
    if let Some((_, why)) = BANNED.iter().find(|(banned, _)| *banned == name) {
        findings.push(format!("{name} is not to be used: {why}"));
    }
    match package["source"].as_str() {
        Some(REGISTRY) => {}
        Some(other) => findings.push(format!("{name} comes from {other}, not from the public registry")),
        None => findings.extend(
            array(&package["dependencies"])
                .filter(|dependency| dependency["path"].is_null() && string(&dependency["req"]) == "*")
                .map(|dependency| format!("{name} takes any version of {}", string(&dependency["name"]))),
        ),
    }
}

/// Whether a licence, as a manifest names it, lets us do with the crate what we do.
fn licence(named: Option<&str>) -> Result<(), String> {
    let named = named.ok_or("its manifest names no licence")?;
    let expression = Expression::parse_mode(named, ParseMode::LAX)
        .map_err(|error| format!("its licence {named} is none that is known: {}", error.reason))?;
    let allowed = expression.evaluate(|one| LICENCES.contains(&one.to_string().as_str()));
    allowed.then_some(()).ok_or_else(|| format!("its licence is {named}, which is not among those allowed"))
}

#[cfg(test)]
mod tests {
    use super::{licence, look_at};
    use serde_json::json;

    #[test]
    fn licences_are_understood_not_compared() {
        for allowed in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0-only OR MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert_eq!(licence(Some(allowed)), Ok(()), "{allowed}");
        }
        for refused in ["MPL-2.0", "MIT AND GPL-2.0-only", "MIT WITH LLVM-exception", "None Of These", ""] {
            assert!(licence(Some(refused)).is_err(), "{refused}");
        }
        assert!(licence(None).is_err());
    }

    #[test]
    fn strangers_are_found() {
        let registry = super::REGISTRY;
        let mut findings = Vec::new();
        let good = json!({"name": "a", "version": "1.0.0", "license": "MIT", "source": registry});
        let ours = json!({"name": "b", "license": "Apache-2.0", "source": null,
            "dependencies": [{"name": "c", "req": "*", "path": "crates/c"}, {"name": "d", "req": "^1"}]});
        look_at(&good, &mut findings);
        look_at(&ours, &mut findings);
        assert!(findings.is_empty(), "{findings:?}");
        let banned = json!({"name": "ring", "version": "0.17.0", "license": "ISC", "source": registry});
        let elsewhere = json!({"name": "e", "license": "MIT", "source": "git+https://example.com/e"});
        let any = json!({"name": "f", "license": "MIT", "source": null, "dependencies": [{"name": "g", "req": "*"}]});
        let bound = json!({"name": "h", "version": "2.0.0", "license": "AGPL-3.0-only", "source": registry});
        for package in [banned, elsewhere, any, bound] {
            look_at(&package, &mut findings);
        }
        assert_eq!(findings.len(), 4, "{findings:?}");
    }
}
