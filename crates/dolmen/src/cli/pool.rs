//! `dolmen pool ...` of a running daemon.

use super::{
    args::{PoolCommand, ReprotectArgs},
    client::Client,
    error::CliError,
    output::{Output, pairs, ratio, size, text},
};
use serde_json::{Map, Value, json};

pub(crate) fn run(client: &Client, output: &Output, command: PoolCommand) -> Result<(), CliError> {
    match command {
        PoolCommand::Show => output.put(&client.get("/dolmen/v1/pool")?, |p| pairs(&pool_pairs(p))),
        PoolCommand::Reprotect(args) => reprotect(client, output, &args),
        // These need no daemon.
        PoolCommand::Check(_) | PoolCommand::Recover(_) => Ok(()),
    }
}

fn reprotect(client: &Client, output: &Output, args: &ReprotectArgs) -> Result<(), CliError> {
    let mut body = Map::new();
    if args.pause || args.resume {
        body.insert("paused".into(), json!(args.pause));
    }
    if let Some(rate) = args.rate {
        body.insert("bytesPerSecond".into(), json!(rate.0.to_string()));
    }
    let pool = client.put("/dolmen/v1/pool/reprotection", "", &Value::Object(body))?;
    output.put(&pool, |p| pairs(&[("Protection", protection(&p["reprotection"]))]))
}

/// The pool, one property a line.
pub(crate) fn pool_pairs(p: &Value) -> Vec<(&'static str, String)> {
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
        ("Protection", protection(&p["reprotection"])),
        ("Mended reads", text(p, "mendedReads")),
        ("Damaged blocks", text(p, "integrityErrors")),
    ]
}

/// How re-protection stands, in a sentence.
fn protection(r: &Value) -> String {
    let bound = match text(r, "bytesPerSecond").as_str() {
        "0" | "" => String::new(),
        _ => format!(", at most {}/s", size(r, "bytesPerSecond")),
    };
    let percent = (r["progress"].as_f64().unwrap_or(1.0) * 100.0).floor();
    let (left, segments) = (size(r, "atRiskBytes"), text(r, "atRiskSegments"));
    match text(r, "state").as_str() {
        "Running" => format!("re-protecting: {percent} % done, {left} in {segments} segments to go{bound}"),
        "Paused" => format!(
            "re-protection rests: {left} in {segments} segments at risk; `dolmen pool reprotect --resume`"
        ),
        _ if r["paused"] == true => "complete; re-protection rests".into(),
        _ => format!("complete{bound}"),
    }
}
