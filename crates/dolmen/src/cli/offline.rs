//! `dolmen pool check` and `dolmen pool recover`: on drives that no daemon serves.

use super::{
    args::{CheckArgs, KeyPlaceArgs, RecoverArgs},
    error::{CliError, Exit},
    locate::quoted,
    output::{Output, pairs, text},
};
use crate::node::{self, Checked};
use dolmen_store::Damage;
use dolmen_types::limits::BLOCK_BYTES;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
};

fn failed(why: &node::ServeError) -> CliError {
    if why.is_denied() {
        return CliError::new(Exit::NotPermitted, why.to_string())
            .hint("run this command as the user that runs the daemon, or as root");
    }
    CliError::new(Exit::Failed, why.to_string())
}

fn place(args: &KeyPlaceArgs) -> node::KeyPlace {
    node::KeyPlace { file: args.cluster_key.clone(), passphrase_file: args.cluster_passphrase_file.clone() }
}

/// Reads everything and names what is damaged.
pub(crate) fn check(output: &Output, data: Option<&Path>, args: &CheckArgs) -> Result<ExitCode, CliError> {
    // On stderr, and only where that is a terminal.
    let bar = ProgressBar::new(1000);
    bar.set_style(
        ProgressStyle::with_template("{bar:40} {percent} % of what the drives hold, {eta} to go")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let checked = node::check(data, &args.drive, &place(&args.key), |done| bar.set_position(done.into()));
    bar.finish_and_clear();
    let checked = checked.map_err(|why| failed(&why))?;
    let value = told(&checked);
    output.put(&value, people)?;
    Ok(if checked.report.problems == 0 { Exit::Done } else { Exit::Failed }.into())
}

fn told(checked: &Checked) -> Value {
    let report = &checked.report;
    json!({
        "pool": report.pool.to_string(),
        "drives": report.drives,
        "missing": checked.missing,
        "shards": report.shards,
        "volumes": checked.catalog.volumes.len(),
        "snapshots": checked.catalog.snapshots.len(),
        "lines": report.lines.to_string(),
        "leaves": report.leaves.to_string(),
        "blocks": report.blocks.to_string(),
        "commits": report.commits.to_string(),
        "lost": report.problems.to_string(),
        "mendable": report.mendable.to_string(),
        "unknownRecords": checked.catalog.unknown.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "damages": report.named.iter().map(|d| damage(checked, d)).collect::<Vec<_>>(),
    })
}

fn damage(checked: &Checked, damage: &Damage) -> Value {
    let catalog = &checked.catalog;
    let volume = damage.line.and_then(|line| catalog.volumes.iter().find(|v| v.line == line));
    let of = match (volume, damage.line) {
        (Some(volume), _) => format!("volume {}", volume.name),
        (None, Some(line)) => match catalog.snapshots.iter().find(|s| s.line == line) {
            Some(snapshot) => format!("snapshots of {}", snapshot.volume_name),
            None => format!("line {line} of no volume"),
        },
        (None, None) => String::new(),
    };
    let sector = volume.map_or(BLOCK_BYTES as u64, |v| u64::from(v.sector.bytes()));
    let lba = damage.lba.map(|lba| lba.0 * (BLOCK_BYTES as u64 / sector));
    json!({
        "of": of,
        "volume": volume.map(|v| v.name.clone()),
        "lba": lba,
        "sectorSize": sector,
        "place": damage.place,
        "lost": damage.lost,
        "what": damage.what,
    })
}

fn people(value: &Value) -> String {
    let list = |key: &str| value[key].as_array().cloned().unwrap_or_default();
    let mut text_of_all = pairs(&[
        ("Pool", text(value, "pool")),
        ("Drives", list("drives").iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")),
        (
            "Read",
            format!(
                "{} volumes and {} snapshots: {} blocks, {} leaves of the map, {} commits compared with their parity",
                text(value, "volumes"),
                text(value, "snapshots"),
                text(value, "blocks"),
                text(value, "leaves"),
                text(value, "commits")
            ),
        ),
        ("Lost", text(value, "lost")),
        (
            "Mendable",
            format!(
                "{} (other drives have it; the daemon mends it when it meets it)",
                text(value, "mendable")
            ),
        ),
    ]);
    for missing in list("missing") {
        text_of_all.push_str(&format!("missing: {}\n", missing.as_str().unwrap_or_default()));
    }
    for unknown in list("unknownRecords") {
        text_of_all
            .push_str(&format!("not understood: the record of {}\n", unknown.as_str().unwrap_or_default()));
    }
    for d in list("damages") {
        let kind = if d["lost"] == true { "LOST" } else { "mendable" };
        let lba = d["lba"].as_u64().map_or_else(String::new, |lba| format!(", LBA {lba}"));
        let parts = [format!("{}{lba}", text(&d, "of")), text(&d, "place"), text(&d, "what")];
        let parts: Vec<String> = parts.into_iter().filter(|p| !p.is_empty()).collect();
        text_of_all.push_str(&format!("{kind}: {}\n", parts.join(": ")));
    }
    let named = list("damages").len() as u64;
    let all = ["lost", "mendable"].iter().filter_map(|k| text(value, k).parse::<u64>().ok()).sum::<u64>();
    if all > named {
        text_of_all.push_str(&format!("and {} more\n", all - named));
    }
    text_of_all
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
