//! `dolmen drive ...` of a running daemon.

use super::{
    args::DriveCommand,
    client::Client,
    error::{CliError, Exit},
    locate::quoted,
    output::{Align, Output, pairs, size, table, text},
    system::rows,
};
use crate::config::DriveOption;
use serde_json::{Value, json};
use std::{path::Path, thread, time::Duration};

/// Between two looks at a drive that is being emptied.
const LOOK: Duration = Duration::from_millis(500);

pub(crate) fn run(client: &Client, output: &Output, command: DriveCommand) -> Result<(), CliError> {
    match command {
        DriveCommand::List => output.put(&listed(client)?, drive_table),
        DriveCommand::Add { path } => add(client, output, &path),
        DriveCommand::Remove { drive, force, no_wait } => {
            let found = find(client, &drive)?;
            let force = if force { "?force=true" } else { "" };
            client.delete(&format!("/dolmen/v1/drives/{}{force}", text(&found, "UUID")))?;
            if !force.is_empty() {
                warn_of_space(client, output, &found)?;
            }
            if no_wait {
                return output.put(&find(client, &drive)?, |d| format!("drive {} is {}", name(d), state(d)));
            }
            output.remark(&goes_on(client, &found, !force.is_empty()));
            emptied(client, output, &found)?;
            let gone = json!({"path": found["path"], "UUID": found["UUID"], "state": "Gone"});
            output.put(&gone, |d| format!("drive {} has left the pool and can be taken away", name(d)))
        }
        DriveCommand::Keep { drive } => {
            let found = find(client, &drive)?;
            client.put(&format!("/dolmen/v1/drives/{}/keep", text(&found, "UUID")), "", &json!({}))?;
            output.put(&found, |d| format!("drive {} stays", name(d)))
        }
        DriveCommand::Locate { drive, off } => locate(client, output, &drive, off),
        DriveCommand::Wipe { .. } => Ok(()),
    }
}

fn listed(client: &Client) -> Result<Value, CliError> {
    Ok(client.get("/dolmen/v1/drives")?["drives"].take())
}

/// The drive of this path or UUID.
fn find(client: &Client, name: &str) -> Result<Value, CliError> {
    let drives = listed(client)?;
    let all = drives.as_array().map(Vec::as_slice).unwrap_or_default();
    // A path may have been in service before, under another UUID, and still be listed.
    let serves = |d: &&Value| matches!(text(d, "state").as_str(), "Active" | "Leaving");
    let named = |d: &&Value| text(d, "path") == name || text(d, "UUID").eq_ignore_ascii_case(name);
    let found = all.iter().filter(named).find(serves).or_else(|| all.iter().find(named));
    found.cloned().ok_or_else(|| {
        CliError::new(Exit::NotFound, format!("the pool has no drive '{name}'"))
            .hint(format!("what there is: {}", client.suggest("drive list")))
    })
}

fn add(client: &Client, output: &Output, given: &str) -> Result<(), CliError> {
    let drive = DriveOption::parse(given)
        .map_err(|why| CliError::usage(why.to_string().replacen("--drive ", "", 1)))?;
    // The daemon has a working folder of its own.
    let path = std::path::absolute(&drive.path).map_err(|why| CliError::usage(format!("{given}: {why}")))?;
    let mut body = json!({"path": path.display().to_string()});
    if let Some(bytes) = drive.size_bytes {
        body["sizeBytes"] = bytes.to_string().into();
    }
    let answer = client.post("/dolmen/v1/drives", &body)?;
    output.put(&answer["drives"], |_| format!("drive {} is in service", shown(&path)))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// What somebody should know who would rather not wait, or not have it at all.
fn goes_on(client: &Client, drive: &Value, forced: bool) -> String {
    if forced {
        return "This goes on by itself, also when this command is interrupted.".into();
    }
    let keep = client.suggest(&format!("drive keep {}", quoted(Path::new(&name(drive)))));
    format!("This goes on by itself, also when this command is interrupted. To call it off: {keep}")
}

/// Tells when what a drive held that was given up has no room on the others.
fn warn_of_space(client: &Client, output: &Output, drive: &Value) -> Result<(), CliError> {
    let pool = client.get("/dolmen/v1/pool")?;
    let lacks = &pool["reprotection"];
    if !matches!(text(lacks, "lacksBytes").as_str(), "" | "0") {
        let (drive, room, more) = (name(drive), size(&pool, "usableBytes"), size(lacks, "lacksBytes"));
        output.remark(&format!(
            "warning: the other drives hold {room} of data at most, and the pool has {more} more than that: until so much is deleted, or a \
             drive is added, what {drive} held is not protected again"
        ));
    }
    Ok(())
}

/// Waits until a drive has left, and tells how far it is; an error, if it stays after all.
fn emptied(client: &Client, output: &Output, drive: &Value) -> Result<(), CliError> {
    let uuid = text(drive, "UUID");
    let bytes = |d: &Value| text(d, "usedBytes").parse::<u64>().unwrap_or(0);
    let begun = bytes(drive).max(1);
    let mut told = String::new();
    loop {
        let drives = listed(client)?;
        let all = drives.as_array().map(Vec::as_slice).unwrap_or_default();
        let Some(now) = all.iter().find(|d| text(d, "UUID") == uuid) else { return Ok(()) };
        if text(now, "state") == "Active" {
            let stays = format!(
                "drive {} stays in the pool: somebody kept it, or the pool has come to need it",
                name(now)
            );
            return Err(CliError::new(Exit::Failed, stays).hint(format!(
                "which drives there are, and how they are: {}",
                client.suggest("drive list")
            )));
        }
        let done = begun.saturating_sub(bytes(now)) * 100 / begun;
        let line = format!("{}: {done} % moved, {} to go", state(now), size(now, "usedBytes"));
        if line != told {
            output.remark(&line);
            told = line;
        }
        thread::sleep(LOOK);
    }
}

fn locate(client: &Client, output: &Output, drive: &str, off: bool) -> Result<(), CliError> {
    let found = find(client, drive)?;
    let path = format!("/dolmen/v1/drives/{}/location", text(&found, "UUID"));
    let place = client.get(&path)?;
    let place = if text(&place, "light") == "None" {
        place
    } else {
        client.put(&path, "", &json!({"blink": !off}))?
    };
    output.put(&place, |p| {
        let light = match text(p, "light").as_str() {
            "None" => "none that the system knows".into(),
            other => other.to_lowercase(),
        };
        pairs(&[
            ("Drive", text(p, "path")),
            ("Slot", text(p, "slot")),
            ("Model", text(p, "model")),
            ("Serial", text(p, "serial")),
            ("Light", light),
        ])
    })
}

/// What a drive is called: its path, or its UUID where another drive has its path by now.
fn name(d: &Value) -> String {
    let path = text(d, "path");
    if path.is_empty() { text(d, "UUID") } else { path }
}

fn state(d: &Value) -> String {
    let (state, reason) = (text(d, "state").to_lowercase(), text(d, "reason"));
    if reason.is_empty() { state } else { format!("{state}: {reason}") }
}

/// A mean time for people.
fn time(d: &Value, key: &str) -> String {
    match text(d, key).parse::<u64>() {
        Ok(ns) if ns > 0 => format!("{} us", ns.div_ceil(1000)),
        _ => "-".into(),
    }
}

/// The drives, one a line, and under them why some do not serve.
pub(crate) fn drive_table(drives: &Value) -> String {
    let columns = [
        ("DRIVE", Align::Left),
        ("STATE", Align::Left),
        ("SIZE", Align::Right),
        ("USED", Align::Right),
        ("LIVE", Align::Right),
        ("ERRORS", Align::Right),
        ("READ", Align::Right),
        ("WRITE", Align::Right),
        ("MODEL", Align::Left),
        ("SERIAL", Align::Left),
    ];
    let rows = rows(drives, |d| {
        let file = d["file"] == true;
        vec![
            name(d),
            text(d, "state").to_lowercase(),
            size(d, "sizeBytes"),
            size(d, "usedBytes"),
            size(d, "liveBytes"),
            text(d, "errors"),
            time(d, "readNanoseconds"),
            time(d, "writeNanoseconds"),
            if file { "(file)".into() } else { text(d, "model") },
            text(d, "serial"),
        ]
    });
    let mut shown = table(&columns, rows, "There are no drives.");
    for d in drives.as_array().into_iter().flatten().filter(|d| !text(d, "reason").is_empty()) {
        shown.push_str(&format!("\n{} is {}", name(d), state(d)));
    }
    shown
}
