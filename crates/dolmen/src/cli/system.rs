//! `dolmen node|host|event ...` and `dolmen status`.

use super::{
    args::EventCommand,
    client::Client,
    drive::drive_table,
    error::CliError,
    output::{Align, Output, pairs, ratio, size, table, text, texts},
    pool::pool_pairs,
};
use serde_json::Value;

pub(crate) fn rows(value: &Value, of: impl Fn(&Value) -> Vec<String>) -> Vec<Vec<String>> {
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
        lines.extend(pool_pairs(client, &s["pool"]));
        format!("{}\n{}", pairs(&lines), drive_table(&s["drives"]))
    })
}
