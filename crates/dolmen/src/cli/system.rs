//! `dolmen node|pool|drive|host|event ...` and `dolmen status`.

use super::{
    args::{EventCommand, ScrubArgs},
    client::Client,
    error::CliError,
    output::{Align, Output, pairs, percent, ratio, size, table, text, texts},
};
use serde_json::{Value, json};

fn rows(value: &Value, of: impl Fn(&Value) -> Vec<String>) -> Vec<Vec<String>> {
    value.as_array().map(Vec::as_slice).unwrap_or_default().iter().map(of).collect()
}

pub(crate) fn nodes(client: &Client, output: &Output) -> Result<(), CliError> {
    let answer = client.get("/api/v2/nodes")?;
    output.put(&answer["nodes"], |nodes| {
        let columns = [
            ("NAME", Align::Left),
            ("STATE", Align::Left),
            ("ENDPOINT", Align::Left),
            ("DRIVES", Align::Right),
            ("FREE", Align::Right),
            ("RATIO", Align::Right),
            ("UUID", Align::Left),
        ];
        let rows = rows(nodes, |n| {
            vec![
                text(n, "name"),
                text(n, "state"),
                text(n, "nvmeEndpoint"),
                text(n, "numManagedDevices"),
                size(&n["statistics"], "estimatedFreeLogicalStorage"),
                ratio(&n["statistics"], "compressionRatio"),
                text(n, "UUID"),
            ]
        });
        table(&columns, rows, "There are no nodes.")
    })
}

fn pool_pairs(p: &Value) -> Vec<(&'static str, String)> {
    let reason = text(p, "reason");
    let state = text(p, "state");
    vec![
        ("Pool", text(p, "UUID")),
        ("State", if reason.is_empty() { state } else { format!("{state}: {reason}") }),
        ("Drives hold", size(p, "physicalBytes")),
        ("Usable", size(p, "usableBytes")),
        ("Used", size(p, "usedBytes")),
        ("Free", size(p, "freeBytes")),
        ("Kept back", size(p, "reservedBytes")),
        ("Written by hosts", size(p, "logicalUsedBytes")),
        ("Compression ratio", ratio(p, "compressionRatio")),
        ("Reserve", percent(p, "reserveShare")),
        ("Drive bytes per host byte", ratio(p, "writeAmplification")),
        ("  of that, cleaning", ratio(p, "writeAmplificationCleaning")),
        ("  of that, the map", ratio(p, "writeAmplificationMap")),
        ("Memory of the map", size(p, "mapMemoryBytes")),
        ("Scrubbing", scrub_line(&p["scrub"])),
    ]
}

/// How far scrubbing is, in a line.
fn scrub_line(s: &Value) -> String {
    let state = text(s, "state").to_lowercase();
    let (done, all, ended) = (text(s, "segmentsDone"), text(s, "segments"), text(s, "finished"));
    let progress = match (state.as_str(), ended.is_empty()) {
        ("running", _) => format!("{done} of {all} segments"),
        (_, true) => "no round yet".into(),
        (_, false) => format!("last round ended {ended}"),
    };
    let (mended, lost) = (text(s, "mended"), text(s, "lost"));
    format!("{state}, {progress}; {mended} damaged places mended, {lost} lost")
}

fn scrub_pairs(s: &Value) -> Vec<(&'static str, String)> {
    let days = s["everySeconds"].as_f64().unwrap_or(0.0) / 86400.0;
    let (rate, places) = (text(s, "bytesPerSecond"), texts(&s["lostPlaces"]));
    let at_most = || format!("{} a second", size(s, "bytesPerSecond"));
    vec![
        ("Scrubbing", scrub_line(s)),
        ("A round every", if days == 0.0 { "(by hand)".into() } else { format!("{days} days") }),
        ("At most", if rate == "0" { "(as the period asks)".into() } else { at_most() }),
        ("Verified since the start", size(s, "checkedBytes")),
        ("Lost", if places.is_empty() { "nothing".into() } else { places.join("\n") }),
    ]
}

/// `dolmen pool scrub`
pub(crate) fn scrub(client: &Client, output: &Output, args: &ScrubArgs) -> Result<(), CliError> {
    let mut body = json!({});
    if args.start {
        body["start"] = true.into();
    }
    if args.pause || args.resume {
        body["paused"] = args.pause.into();
    }
    if let Some(mib) = args.rate {
        body["bytesPerSecond"] = (u64::from(mib) << 20).into();
    }
    if let Some(days) = args.every {
        body["everySeconds"] = (u64::from(days) * 86400).into();
    }
    let asked = body.as_object().is_some_and(|fields| !fields.is_empty());
    let status = if asked {
        client.post("/dolmen/v1/pool/scrub", &body)?
    } else {
        client.get("/dolmen/v1/pool")?["scrub"].clone()
    };
    output.put(&status, |s| pairs(&scrub_pairs(s)))
}

pub(crate) fn pool(client: &Client, output: &Output) -> Result<(), CliError> {
    output.put(&client.get("/dolmen/v1/pool")?, |p| pairs(&pool_pairs(p)))
}

fn drive_table(drives: &Value) -> String {
    let columns = [
        ("DRIVE", Align::Left),
        ("STATE", Align::Left),
        ("SIZE", Align::Right),
        ("FREE", Align::Right),
        ("STRIKES", Align::Right),
        ("MODEL", Align::Left),
        ("SERIAL", Align::Left),
    ];
    let rows = rows(drives, |d| {
        let reason = text(d, "reason");
        let state = text(d, "state");
        let file = d["file"] == true;
        vec![
            text(d, "path"),
            if reason.is_empty() { state } else { format!("{state}: {reason}") },
            size(d, "sizeBytes"),
            size(d, "freeBytes"),
            text(d, "strikes"),
            if file { "(file)".into() } else { text(d, "model") },
            text(d, "serial"),
        ]
    });
    table(&columns, rows, "There are no drives.")
}

pub(crate) fn drives(client: &Client, output: &Output) -> Result<(), CliError> {
    output.put(&client.get("/dolmen/v1/drives")?["drives"], drive_table)
}

pub(crate) fn hosts(client: &Client, output: &Output) -> Result<(), CliError> {
    output.put(&client.get("/dolmen/v1/hosts")?["hosts"], |hosts| {
        let columns = [
            ("HOST", Align::Left),
            ("FROM", Align::Left),
            ("CONTROLLERS", Align::Right),
            ("IO QUEUES", Align::Right),
            ("VOLUMES", Align::Right),
        ];
        let rows = rows(hosts, |h| {
            let controllers = h["controllers"].as_array().map(Vec::as_slice).unwrap_or_default();
            let queues: u64 = controllers.iter().filter_map(|c| c["ioQueues"].as_u64()).sum();
            vec![
                text(h, "hostNQN"),
                text(h, "iPAddress"),
                controllers.len().to_string(),
                queues.to_string(),
                texts(&h["volumeUUIDs"]).len().to_string(),
            ]
        });
        table(&columns, rows, "No host is connected.")
    })
}

pub(crate) fn events(client: &Client, output: &Output, command: &EventCommand) -> Result<(), CliError> {
    let EventCommand::List { limit, since } = command;
    let since = since.as_ref().map_or_else(String::new, |since| format!("&since={}", escaped(since)));
    let mut events: Vec<Value> = Vec::new();
    let mut token = String::new();
    loop {
        let page = client.get(&format!("/api/v2/events?limit=1000{since}&nextToken={token}"))?;
        events.extend(page["events"].as_array().cloned().unwrap_or_default());
        token = text(&page, "nextToken");
        if token.is_empty() {
            break;
        }
    }
    let skip = events.len().saturating_sub(usize::try_from(*limit).unwrap_or(usize::MAX));
    output.put(&Value::Array(events.split_off(skip)), |events| {
        let columns = [
            ("TIME", Align::Left),
            ("SEVERITY", Align::Left),
            ("EVENT", Align::Left),
            ("DESCRIPTION", Align::Left),
        ];
        let rows = rows(events, |e| {
            vec![text(e, "Time"), text(e, "Severity"), text(e, "EventName"), text(e, "Description")]
        });
        table(&columns, rows, "Nothing happened.")
    })
}

/// A text as it may stand in a query.
fn escaped(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

pub(crate) fn status(client: &Client, output: &Output) -> Result<(), CliError> {
    output.put(&client.get("/dolmen/v1/status")?, |s| {
        let health = &s["health"];
        let mut lines = vec![
            ("Health", text(health, "state")),
            ("Cluster", format!("{} ({})", text(s, "clusterName"), text(s, "clusterUUID"))),
            ("Node", format!("{} ({})", text(s, "nodeName"), text(s, "nodeUUID"))),
            ("Version", text(s, "version")),
            ("Subsystem", text(s, "subsystemNQN")),
            (
                "Ports",
                format!(
                    "data {}, discovery {}, API {}",
                    text(s, "nvmePort"),
                    text(s, "discoveryPort"),
                    text(s, "apiPort")
                ),
            ),
            (
                "Volumes",
                format!(
                    "{}: {} healthy, {} degraded, {} read-only, {} not available",
                    text(s, "volumes"),
                    text(health, "numHealthyVolumes"),
                    text(health, "numDegradedVolumes"),
                    text(health, "numReadOnlyVolumes"),
                    text(health, "numNotAvailableVolumes")
                ),
            ),
            ("Connected hosts", text(s, "hosts")),
        ];
        lines.extend(pool_pairs(&s["pool"]));
        format!("{}\n{}", pairs(&lines), drive_table(&s["drives"]))
    })
}
