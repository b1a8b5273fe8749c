//! `dolmen snapshot ...` and `dolmen volume rollback`.

use super::{
    args::{SnapshotCommand, SnapshotCreateArgs},
    client::Client,
    error::{CliError, Exit},
    output::{Align, Output, pairs, size, table, text},
    volume,
};
use dolmen_types::Uuid;
use serde_json::{Value, json};

const SNAPSHOTS: &str = "/api/v2/projects/default/snapshots";

pub(crate) fn run(client: &Client, output: &Output, command: SnapshotCommand) -> Result<(), CliError> {
    match command {
        SnapshotCommand::Create(args) => create(client, output, args),
        SnapshotCommand::List { volume } => list(client, output, volume.as_deref()),
        SnapshotCommand::Show { snapshot } => show(client, output, &snapshot),
        SnapshotCommand::Delete { snapshot } => delete(client, output, &snapshot),
        SnapshotCommand::Diff { snapshot, base } => diff(client, output, &snapshot, base.as_deref()),
    }
}

/// The path of a snapshot by name or UUID.
fn path(snapshot: &str) -> Result<String, CliError> {
    if snapshot.parse::<Uuid>().is_ok() {
        return Ok(format!("{SNAPSHOTS}/{snapshot}"));
    }
    dolmen_cluster::volume::check_name("SNAPSHOT", snapshot).map_err(|why| CliError::usage(why.text))?;
    Ok(format!("{SNAPSHOTS}/?Name={snapshot}"))
}

pub(crate) fn fetch(client: &Client, snapshot: &str) -> Result<Value, CliError> {
    client.get(&path(snapshot)?).map_err(|error| match error.exit {
        Exit::NotFound => {
            error.hint(format!("this tells which snapshots there are: {}", client.suggest("snapshot list")))
        }
        _ => error,
    })
}

/// The field that takes a snapshot as the user named it, beginning with `prefix`.
pub(crate) fn field(prefix: &str, snapshot: &str) -> String {
    let suffix = if snapshot.parse::<Uuid>().is_ok() { "UUID" } else { "Name" };
    format!("{prefix}{suffix}")
}

fn create(client: &Client, output: &Output, args: SnapshotCreateArgs) -> Result<(), CliError> {
    let retention = args.keep.map_or_else(|| "0s".to_string(), |seconds| format!("{seconds}s"));
    let mut body = json!({"name": args.name, "description": args.description, "retentionTime": retention});
    let made = match args.volumes.as_slice() {
        [one] => {
            body[field("sourceVolume", one)] = one.as_str().into();
            vec![client.post(SNAPSHOTS, &body)?]
        }
        _ => {
            body["volumes"] = json!({"values": args.volumes});
            let made = client.post("/dolmen/v1/snapshots", &body)?;
            made["snapshots"].as_array().cloned().unwrap_or_default()
        }
    };
    output.put(&Value::Array(made), |made| {
        let line = |s: &Value| {
            format!("snapshot '{}' of volume '{}' is there", text(s, "name"), text(s, "sourceVolumeName"))
        };
        let lines: Vec<String> = made.as_array().into_iter().flatten().map(line).collect();
        lines.join("\n")
    })
}

/// All that there are.
pub(crate) fn all(client: &Client) -> Result<Vec<Value>, CliError> {
    let mut snapshots: Vec<Value> = Vec::new();
    loop {
        // In pages, since the API bounds each.
        let after = snapshots.last().map_or_else(String::new, |s| format!("&offsetUUID={}", text(s, "UUID")));
        let page = client.get(&format!("{SNAPSHOTS}?showAll=true{after}"))?;
        let page = page["snapshots"].as_array().cloned().unwrap_or_default();
        if page.is_empty() {
            return Ok(snapshots);
        }
        snapshots.extend(page);
    }
}

fn list(client: &Client, output: &Output, volume: Option<&str>) -> Result<(), CliError> {
    let mut snapshots = all(client)?;
    if let Some(volume) = volume {
        // A snapshot keeps the name that its volume had: a volume that is there is told by its identity.
        let (field, wanted) = match volume::fetch(client, volume) {
            Ok(seen) => (field("sourceVolume", &text(&seen, "UUID")), text(&seen, "UUID")),
            Err(why) if why.exit != Exit::NotFound => return Err(why),
            Err(_) => (field("sourceVolume", volume), volume.to_string()),
        };
        snapshots.retain(|s| text(s, &field) == wanted);
    }
    snapshots.sort_by_key(|s| (text(s, "sourceVolumeName"), text(s, "creationTime")));
    output.put(&Value::Array(snapshots), |snapshots| {
        let columns = [
            ("SNAPSHOT", Align::Left),
            ("VOLUME", Align::Left),
            ("TAKEN", Align::Left),
            ("KEPT FOR", Align::Right),
            ("SIZE", Align::Right),
            ("STATE", Align::Left),
            ("UUID", Align::Left),
        ];
        let rows = snapshots.as_array().map(Vec::as_slice).unwrap_or_default().iter().map(|s| {
            vec![
                text(s, "name"),
                text(s, "sourceVolumeName"),
                text(s, "creationTime"),
                kept(s),
                size(s, "size"),
                text(s, "state"),
                text(s, "UUID"),
            ]
        });
        let take = client.suggest("snapshot create NAME VOLUME");
        table(&columns, rows.collect(), &format!("There are no snapshots. Take one: {take}"))
    })
}

fn kept(snapshot: &Value) -> String {
    match text(snapshot, "retentionTime").as_str() {
        "" | "0s" => "ever".into(),
        time => time.into(),
    }
}

fn show(client: &Client, output: &Output, snapshot: &str) -> Result<(), CliError> {
    output.put(&fetch(client, snapshot)?, |s| {
        pairs(&[
            ("Name", text(s, "name")),
            ("UUID", text(s, "UUID")),
            ("State", text(s, "state")),
            ("Volume", format!("{} ({})", text(s, "sourceVolumeName"), text(s, "sourceVolumeUUID"))),
            ("Taken", text(s, "creationTime")),
            ("Kept for", kept(s)),
            ("Size", format!("{} ({} bytes)", size(s, "size"), text(s, "size"))),
            ("Written", size(&s["statistics"], "userWritten")),
            ("Compression", if s["compression"] == true { "on" } else { "off" }.into()),
            ("Sector size", text(s, "sectorSize")),
            ("Description", text(s, "description")),
            ("ETag", text(s, "ETag")),
        ])
    })
}

fn delete(client: &Client, output: &Output, snapshot: &str) -> Result<(), CliError> {
    let seen = fetch(client, snapshot)?;
    let done = client.delete(&path(&text(&seen, "UUID"))?)?;
    output.put(&done, |_| {
        format!("snapshot '{}' is deleted; it ends when no clone of it is left", text(&seen, "name"))
    })
}

/// Bytes that differ, as runs: offset and length.
fn runs(ranges: &[Value], sector: u64) -> Option<Vec<(u64, u64)>> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for range in ranges {
        let start: u64 = range["lbaStart"].as_str()?.parse().ok()?;
        let map = STANDARD.decode(range["dataBitMap"].as_str()?).ok()?;
        let set = (0u64..).zip(map.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1)));
        for (n, _) in set.filter(|(_, set)| *set) {
            let at = (start + n) * sector;
            match runs.last_mut() {
                Some(last) if last.0 + last.1 == at => last.1 += sector,
                _ => runs.push((at, sector)),
            }
        }
    }
    Some(runs)
}

fn diff(client: &Client, output: &Output, snapshot: &str, base: Option<&str>) -> Result<(), CliError> {
    let seen = fetch(client, snapshot)?;
    let base = match base {
        None => String::new(),
        Some(base) => format!("&baseSnapshotUUID={}", text(&fetch(client, base)?, "UUID")),
    };
    let sector: u64 = text(&seen, "sectorSize").parse().unwrap_or(4096);
    let (mut ranges, mut next) = (Vec::new(), "0".to_string());
    loop {
        let uuid = text(&seen, "UUID");
        let page = client.get(&format!("{SNAPSHOTS}/diff/{uuid}?offsetLBA={next}{base}"))?;
        ranges.extend(page["lbaRanges"].as_array().cloned().unwrap_or_default());
        next = text(&page, "nextOffsetLBA");
        if next == "0" || next.is_empty() {
            break;
        }
    }
    let malformed = || CliError::new(Exit::Failed, "the daemon's answer makes no sense");
    let runs = runs(&ranges, sector).ok_or_else(malformed)?;
    let answer: Vec<Value> =
        runs.iter().map(|(at, length)| json!({"offset": at, "length": length})).collect();
    output.put(&Value::Array(answer), |_| {
        let columns = [("OFFSET", Align::Right), ("LENGTH", Align::Right)];
        let rows = runs.iter().map(|(at, length)| vec![at.to_string(), length.to_string()]);
        table(&columns, rows.collect(), "Nothing differs.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bit_maps_become_runs_of_bytes() {
        let range = |start: &str, map: &str| json!({"lbaStart": start, "dataBitMap": map});
        let ranges = [range("0", "AwAAAAAAAIA="), range("64", "AQAAAAAAAAA=")];
        assert_eq!(runs(&ranges, 512), Some(vec![(0, 1024), (63 * 512, 1024)]));
        assert_eq!(runs(&[range("x", "AA==")], 512), None);
        assert_eq!(runs(&[range("0", "?")], 512), None);
    }

    #[test]
    fn fields_by_name_or_uuid() {
        assert_eq!(field("sourceSnapshot", "s"), "sourceSnapshotName");
        assert_eq!(field("sourceSnapshot", "5c1d3f4e-0000-4000-8000-000000000009"), "sourceSnapshotUUID");
    }
}
