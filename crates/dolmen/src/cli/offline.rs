//! `dolmen pool recover`, and what it shares with `pool check`: on drives that no daemon serves.

use super::{
    args::{KeyPlaceArgs, RecoverArgs},
    error::{CliError, Exit},
    locate::quoted,
    output::{Output, pairs},
};
use crate::node;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

pub(super) fn failed(why: &node::ServeError) -> CliError {
    if why.is_denied() {
        return CliError::new(Exit::NotPermitted, why.to_string())
            .hint("run this command as the user that runs the daemon, or as root");
    }
    CliError::new(Exit::Failed, why.to_string())
}

pub(super) fn place(args: &KeyPlaceArgs) -> node::KeyPlace {
    node::KeyPlace { file: args.cluster_key.clone(), passphrase_file: args.cluster_passphrase_file.clone() }
}

/// What was in the lost data folder and nowhere else.
const NOT_RECOVERED: [&str; 5] = [
    "snapshot policies (the snapshots that they took are there): make them again",
    "QoS policies that no volume has, and which one is the default",
    "how scrubbing and re-protection were told to go on",
    "the administrator's token and the API's certificate: the first start makes new ones",
    "events",
];

/// Makes a data folder from drives alone.
pub(crate) fn recover(output: &Output, data: Option<&Path>, args: &RecoverArgs) -> Result<(), CliError> {
    let Some(data) = data else {
        return Err(CliError::usage("--data is missing: name the folder that is to be made"));
    };
    // Whatever is told of them holds in any folder.
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let data = absolute(&data.into());
    let key = place(&args.key);
    let key = node::KeyPlace {
        file: key.file.as_ref().map(absolute),
        passphrase_file: key.passphrase_file.as_ref().map(absolute),
    };
    let drives: Vec<PathBuf> = args.drive.iter().map(absolute).collect();
    let found = node::recover(&data, &drives, &key).map_err(|why| failed(&why))?;
    let serve = serve_line(&data, &key, &found.drives);
    let names = |list: Vec<&str>| list.join("\n");
    let volumes: Vec<Value> = found
        .catalog
        .volumes
        .iter()
        .map(|v| json!({"name": v.name, "UUID": v.uuid.to_string(), "nsid": v.nsid.0, "sizeBytes": v.size_bytes.to_string()}))
        .collect();
    let value = json!({
        "pool": found.pool.to_string(),
        "drives": found.drives,
        "missing": found.missing,
        "subsystemNQN": found.subsystem_nqn,
        "volumes": volumes,
        "snapshots": found.catalog.snapshots.iter().map(|s| s.name.clone()).collect::<Vec<_>>(),
        "unknownRecords": found.catalog.unknown.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "notRecovered": NOT_RECOVERED,
        "serve": serve,
    });
    output.put(&value, |_| {
        pairs(&[
            ("Pool", found.pool.to_string()),
            ("Missing", found.missing.join("\n")),
            ("Subsystem", found.subsystem_nqn.clone()),
            ("Volumes", names(found.catalog.volumes.iter().map(|v| v.name.as_str()).collect())),
            ("Snapshots", names(found.catalog.snapshots.iter().map(|s| s.name.as_str()).collect())),
            ("Not understood", found.catalog.unknown.len().to_string()),
            ("Not recovered", NOT_RECOVERED.join("\n")),
            ("Serve it", serve),
        ])
    })
}

/// The line for a shell that serves what was recovered.
fn serve_line(data: &Path, key: &node::KeyPlace, drives: &[PathBuf]) -> String {
    let named: BTreeSet<&PathBuf> = drives.iter().collect();
    let keys = [("--cluster-key", &key.file), ("--cluster-passphrase-file", &key.passphrase_file)];
    let keys = keys.into_iter().filter_map(|(flag, path)| Some((flag, path.as_ref()?)));
    let all = [("--data", data)].into_iter().chain(keys.map(|(flag, path)| (flag, path.as_path())));
    let all = all.chain(named.iter().map(|path| ("--drive", path.as_path())));
    let mut line = String::from("dolmen serve");
    all.for_each(|(flag, path)| line.push_str(&format!(" {flag} {}", quoted(path))));
    // A drive that is missing, and whose name another one has by now, can't be named.
    if named.len() < drives.len() {
        line.push_str(" --degraded");
    }
    line
}
