//! `dolmen volume rollback` and `dolmen volume delete`: what takes data away, after it has said what.

use super::{
    ask::{self, Loss},
    client::Client,
    error::CliError,
    output::{Output, size, text, texts},
    snapshot,
    volume::{fetch, missing, path},
};
use serde_json::{Value, json};

/// Hosts that are named one by one at most. Count.
const NAMED_USERS: usize = 3;

/// Who would feel it.
fn users(volume: &Value) -> String {
    let hosts = texts(&volume["connectedHosts"]);
    let named = hosts.iter().take(NAMED_USERS).cloned().collect::<Vec<_>>().join(", ");
    match hosts.len().saturating_sub(NAMED_USERS) {
        _ if hosts.is_empty() => "no host is connected".into(),
        0 => format!("connected to it: {named}"),
        more => format!("connected to it: {named} and {more} more"),
    }
}

/// Puts a volume back.
pub(super) fn roll_back(
    client: &Client,
    output: &Output,
    volume: &str,
    snapshot: &str,
    yes: bool,
) -> Result<(), CliError> {
    let (seen, to) = (fetch(client, volume)?, snapshot::fetch(client, snapshot)?);
    let (name, taken) = (text(&seen, "name"), text(&to, "creationTime"));
    if !yes {
        let users = users(&seen);
        ask::meant(&Loss {
            what: format!("volume '{name}' loses what was written since {taken}; {users}"),
            advice: "Hosts must not use it now.",
            spared: "nothing was changed",
        })?;
    }
    let uuid = text(&seen, "UUID");
    let body = json!({"srcSnapshotUUID": to["UUID"]});
    client.put(&format!("/api/v2/volumes/{uuid}/rollback"), &text(&seen, "ETag"), &body)?;
    let changed = fetch(client, &uuid)?;
    output.put(&changed, |_| format!("volume '{name}' is as it was at {taken}"))
}

/// What is lost with a volume, and what is not.
fn deleted(volume: &Value, snapshots: usize) -> String {
    let stay = match snapshots {
        0 => "it has no snapshots".into(),
        1 => "its snapshot stays".into(),
        many => format!("its {many} snapshots stay"),
    };
    let (name, written) = (text(volume, "name"), size(&volume["statistics"], "logicalUsedStorage"));
    let (size, users) = (size(volume, "size"), users(volume));
    format!("volume '{name}' of {size} is lost with the {written} that it holds; {users}; {stay}")
}

pub(super) fn delete(client: &Client, output: &Output, volume: &str, yes: bool) -> Result<(), CliError> {
    let seen = fetch(client, volume)?;
    // A script that deletes what nobody uses means it.
    let in_use = !texts(&seen["connectedHosts"]).is_empty();
    if !yes && (in_use || ask::at_terminal()) {
        let snapshots = snapshot::all(client)?;
        let uuid = text(&seen, "UUID");
        let own = snapshots.iter().filter(|s| text(s, "sourceVolumeUUID") == uuid).count();
        ask::meant(&Loss {
            what: deleted(&seen, own),
            advice: "Hosts lose it at once.",
            spared: "nothing was deleted",
        })?;
    }
    let done =
        client.delete(&path("/api/v2/volumes", &text(&seen, "UUID"))?).map_err(|why| missing(client, why))?;
    output.put(&done, |_| {
        format!("volume '{}' is deleted; its space comes back in the background", text(&seen, "name"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_deletes_is_told_what_and_whose_it_is() {
        let volume = |hosts: &[&str]| {
            json!({"name": "db1", "size": "10737418240", "connectedHosts": hosts,
                   "statistics": {"logicalUsedStorage": "1073741824"}})
        };
        assert_eq!(
            deleted(&volume(&[]), 0),
            "volume 'db1' of 10 GiB is lost with the 1 GiB that it holds; no host is connected; it has no snapshots"
        );
        let told = deleted(&volume(&["a", "b", "c", "d", "e"]), 2);
        assert!(told.contains("connected to it: a, b, c and 2 more; its 2 snapshots stay"), "{told}");
        assert!(deleted(&volume(&["a"]), 1).contains("connected to it: a; its snapshot stays"));
    }
}
