//! `dolmen pool ...` of a running daemon.

use super::{
    args::{PoolCommand, ReprotectArgs, ScrubArgs},
    check,
    client::Client,
    error::CliError,
    output::{Output, pairs, percent, ratio, size, text, texts},
};
use serde_json::{Map, Value, json};

/// Places of something lost, and ranges of one volume, that are shown in a line or column.
const PLACES: usize = 8;

pub(crate) fn run(client: &Client, output: &Output, command: PoolCommand) -> Result<(), CliError> {
    match command {
        PoolCommand::Show => output.put(&client.get("/dolmen/v1/pool")?, |p| pairs(&pool_pairs(client, p))),
        PoolCommand::Reprotect(args) => reprotect(client, output, &args),
        PoolCommand::Scrub(args) => scrub(client, output, &args),
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
    output.put(&pool, |p| pairs(&[("Protection", protection(client, &p["reprotection"]))]))
}

/// The pool, one property a line.
pub(crate) fn pool_pairs(client: &Client, p: &Value) -> Vec<(&'static str, String)> {
    let reason = text(p, "reason");
    let state = text(p, "state");
    vec![
        ("Pool", text(p, "UUID")),
        ("Data lost", lost(p)),
        ("State", if reason.is_empty() { state } else { format!("{state}: {reason}") }),
        ("Drives hold", size(p, "physicalBytes")),
        ("Usable", size(p, "usableBytes")),
        ("Used", size(p, "usedBytes")),
        ("Free", size(p, "freeBytes")),
        ("Kept back", size(p, "reservedBytes")),
        ("Written by hosts", size(p, "logicalUsedBytes")),
        ("Compression ratio", ratio(p, "compressionRatio")),
        ("Protection", protection(client, &p["reprotection"])),
        ("Mended reads", text(p, "mendedReads")),
        ("Damaged blocks", text(p, "integrityErrors")),
        ("Reserve", percent(p, "reserveShare")),
        ("Drive bytes per host byte, parity aside", ratio(p, "writeAmplification")),
        ("  of that, cleaning", ratio(p, "writeAmplificationCleaning")),
        ("  of that, the map", ratio(p, "writeAmplificationMap")),
        ("Memory of the map", size(p, "mapMemoryBytes")),
        ("Scrubbing", scrub_line(client, &p["scrub"])),
    ]
}

/// Who has lost data, a volume or snapshot a line.
fn lost(p: &Value) -> String {
    let all = p["lost"].as_array().map(Vec::as_slice).unwrap_or_default();
    let line = |o: &Value| {
        let ranges = o["ranges"].as_array().map_or(0, Vec::len);
        let sector = o["sectorSize"].as_u64().unwrap_or(1);
        let first: Vec<String> =
            check::ranges_of(o).take(PLACES).map(|r| check::place_of(r, sector)[0].clone()).collect();
        let more = if ranges > first.len() {
            format!(" and {} ranges more", ranges - first.len())
        } else {
            String::new()
        };
        format!("{}: {} at LBA {}{more}", text(o, "of"), size(o, "lostBytes"), first.join(", "))
    };
    if all.is_empty() {
        "nothing that is known of".into()
    } else {
        all.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// How re-protection stands, in a sentence.
fn protection(client: &Client, r: &Value) -> String {
    let bound = match text(r, "bytesPerSecond").as_str() {
        "0" | "" => String::new(),
        _ => format!(", at most {}/s", size(r, "bytesPerSecond")),
    };
    let percent = (r["progress"].as_f64().unwrap_or(1.0) * 100.0).floor();
    let (left, segments) = (size(r, "atRiskBytes"), text(r, "atRiskSegments"));
    match text(r, "state").as_str() {
        "Running" => format!("re-protecting: {percent} % done, {left} in {segments} segments to go{bound}"),
        "WaitsForSpace" => {
            let lacks = size(r, "lacksBytes");
            format!(
                "waits for space, with {left} in {segments} segments at risk: delete {lacks} or add a drive"
            )
        }
        "Paused" => {
            let resume = client.suggest("pool reprotect --resume");
            format!("re-protection rests: {left} in {segments} segments at risk; `{resume}`")
        }
        "Degraded" => {
            let fewer = text(r, "deficit");
            format!("as the drives in service allow: {fewer} fewer than usual can be lost; add as many")
        }
        _ if r["paused"] == true => "complete; re-protection rests".into(),
        _ => format!("complete{bound}"),
    }
}

/// How far scrubbing is, in a line.
fn scrub_line(client: &Client, s: &Value) -> String {
    let state = text(s, "state").to_lowercase();
    let (done, all, ended) = (text(s, "segmentsDone"), text(s, "segments"), text(s, "finished"));
    // Times are written so that later ones sort after earlier ones; before any there is nothing.
    let begun = text(s, "started") > ended;
    let progress = match (state.as_str(), ended.is_empty()) {
        ("running", _) => format!("{done} of {all} segments"),
        ("paused", _) if begun => {
            format!("a round has begun and waits for `{}`", client.suggest("pool scrub --resume"))
        }
        (_, true) => "no round yet".into(),
        (_, false) => format!("last round ended {ended}"),
    };
    let (mended, lost) = (text(s, "mended"), text(s, "lost"));
    format!("{state}, {progress}; {mended} damaged places mended, {lost} lost")
}

fn scrub_pairs(client: &Client, s: &Value) -> Vec<(&'static str, String)> {
    let days = s["everySeconds"].as_f64().unwrap_or(0.0) / 86400.0;
    let (rate, places) = (text(s, "bytesPerSecond"), texts(&s["lostPlaces"]));
    let at_most = || format!("{} a second", size(s, "bytesPerSecond"));
    vec![
        ("Scrubbing", scrub_line(client, s)),
        ("A round every", if days == 0.0 { "(by hand)".into() } else { format!("{days} days") }),
        ("At most", if rate == "0" { "(as the period asks)".into() } else { at_most() }),
        ("Verified since the start", size(s, "checkedBytes")),
        ("Lost", lost_places(&places)),
    ]
}

/// Where something was lost. Whose it was, `volume list` tells.
fn lost_places(places: &[String]) -> String {
    let more = places.len().saturating_sub(PLACES);
    let more = (more > 0).then(|| format!("and {more} places more; `volume list` tells whose they are"));
    let shown: Vec<String> = places.iter().take(PLACES).cloned().chain(more).collect();
    if shown.is_empty() { "nothing".into() } else { shown.join("\n") }
}

/// `dolmen pool scrub`
fn scrub(client: &Client, output: &Output, args: &ScrubArgs) -> Result<(), CliError> {
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
    output.put(&status, |s| pairs(&scrub_pairs(client, s)))
}
