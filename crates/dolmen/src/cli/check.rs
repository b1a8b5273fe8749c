//! `dolmen pool check`: what is lost, by volume and snapshot; what can be repaired, by drive.

use super::{
    args::CheckArgs,
    error::{CliError, Exit},
    offline::{failed, place},
    output::{Align, Output, pairs, size, table, text, texts},
};
use crate::node::{self, Checked};
use dolmen_store::{Damage, DriveDamage};
use dolmen_types::{ByteSize, limits::BLOCK_BYTES};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::{path::Path, process::ExitCode};

/// Ranges of one volume or snapshot that the table shows unless it is to be verbose.
pub(super) const RANGES: usize = 50;

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
    output.put(&told(&checked), |value| people(value, args.verbose))?;
    Ok(verdict(&checked).into())
}

/// Blocks that are lost where no volume and no snapshot shows them any more are no reason to worry.
fn verdict(checked: &Checked) -> Exit {
    if !checked.lost.is_empty() || !checked.report.others.is_empty() {
        Exit::Failed
    } else if checked.report.mendable > 0 || !checked.missing.is_empty() {
        Exit::Repairable
    } else {
        Exit::Done
    }
}

fn told(checked: &Checked) -> Value {
    let report = &checked.report;
    let unseen = report.lost.iter().filter(|range| range.views.is_empty());
    json!({
        "verdict": match verdict(checked) {
            Exit::Done => "Good",
            Exit::Repairable => "Repairable",
            _ => "Lost",
        },
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
        "lostObjects": checked.lost.iter().map(dolmen_api::lost_object).collect::<Vec<_>>(),
        "lostOtherwise": report.others.iter().map(|d| damage(checked, d)).collect::<Vec<_>>(),
        "lostUnseenBlocks": unseen.fold(0, |sum: u64, range| sum.saturating_add(range.blocks.0)).to_string(),
        "repairable": report.by_drive.iter().map(drive).collect::<Vec<_>>(),
        "unknownRecords": checked.catalog.unknown.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "damages": report.named.iter().map(|d| damage(checked, d)).collect::<Vec<_>>(),
    })
}

fn drive(of: &DriveDamage) -> Value {
    json!({
        "path": of.path,
        "blocks": of.blocks,
        "mapPages": of.pages,
        "columns": of.columns,
        "labels": of.labels,
        "absentBlocks": of.absent,
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

fn people(value: &Value, verbose: bool) -> String {
    let mut parts = vec![summary(value)];
    let missing = texts(&value["missing"]);
    parts.extend((!missing.is_empty()).then(|| format!("Missing:\n{}", indented(&missing))));
    parts.extend(lost(value, verbose));
    let otherwise: Vec<String> = list(value, "lostOtherwise").iter().map(line).collect();
    parts.extend((!otherwise.is_empty()).then(|| format!("Lost beside that:\n{}", indented(&otherwise))));
    parts.extend(repairable(value));
    let unknown = texts(&value["unknownRecords"]);
    parts.extend((!unknown.is_empty()).then(|| format!("Records not understood:\n{}", indented(&unknown))));
    if verbose {
        parts.extend(places(value));
    }
    parts.join("\n")
}

fn summary(value: &Value) -> String {
    let count = |key: &str| text(value, key);
    let objects = list(value, "lostObjects");
    let bytes = objects.iter().filter_map(|o| text(o, "lostBytes").parse::<u64>().ok());
    let bytes = bytes.fold(0, u64::saturating_add);
    let verdict = match text(value, "verdict").as_str() {
        "Good" => "everything is there, and as it was written".into(),
        "Repairable" => "nothing is lost; what is damaged or missing other drives have".into(),
        _ if objects.is_empty() => "DATA IS LOST, see below".into(),
        _ => {
            let mut of: Vec<String> = objects.iter().take(4).map(|o| text(o, "of")).collect();
            of.extend((objects.len() > 4).then(|| "others".into()));
            format!("DATA IS LOST: {} of {}", ByteSize(bytes), of.join(", "))
        }
    };
    let read = format!(
        "{}, {}: {}, {} of the map, {}",
        many_of(value, "volumes", "volume"),
        many_of(value, "snapshots", "snapshot"),
        many_of(value, "blocks", "block"),
        many_of(value, "leaves", "leaf"),
        many_of(value, "commits", "commit"),
    );
    let mut lines = vec![
        ("Pool", count("pool")),
        ("Verdict", verdict),
        ("Drives", texts(&value["drives"]).join("\n")),
        ("Read", read),
    ];
    if count("mendable") != "0" {
        lines
            .push(("Repairable", format!("{}, by drive below", many_of(value, "mendable", "damaged place"))));
    }
    if count("lostUnseenBlocks") != "0" {
        let blocks = many_of(value, "lostUnseenBlocks", "block");
        lines.push(("Beside that", format!("{blocks} lost that no volume and no snapshot shows any more")));
    }
    pairs(&lines)
}

/// What is lost, a range a line.
fn lost(value: &Value, verbose: bool) -> Option<String> {
    let columns = [
        ("LOST", Align::Left),
        ("LBA", Align::Left),
        ("BYTES", Align::Left),
        ("SIZE", Align::Right),
        ("WHY", Align::Left),
    ];
    let (mut rows, mut notes) = (Vec::new(), Vec::new());
    let objects = list(value, "lostObjects");
    for object in &objects {
        let (of, sector) = (text(object, "of"), object["sectorSize"].as_u64().unwrap_or(1));
        let shown = if verbose { usize::MAX } else { RANGES };
        for range in ranges_of(object).take(shown) {
            let [lbas, bytes, size] = place_of(range, sector);
            rows.push(vec![of.clone(), lbas, bytes, size, why(&text(range, "cause")).into()]);
        }
        let more = ranges_of(object).count().saturating_sub(shown);
        if more > 0 {
            let bytes = size(object, "lostBytes");
            notes.push(format!("{of} has {more} lost ranges more, {bytes} in all: --verbose lists them"));
        }
        let also = texts(&object["alsoIn"]);
        if !also.is_empty() {
            notes.push(format!("{of} shares lost blocks with the snapshots {}", also.join(", ")));
        }
    }
    if !rows.is_empty() && !list(value, "missing").is_empty() {
        notes.push(
            "a drive that is missing may still have it: bring it back and check again before anything else"
                .into(),
        );
    }
    let notes = if notes.is_empty() { String::new() } else { indented(&notes) };
    (!rows.is_empty()).then(|| format!("{}\n{notes}", table(&columns, rows, "")))
}

/// What is repairable, a drive a line.
fn repairable(value: &Value) -> Option<String> {
    let columns = [
        ("REPAIRABLE, ON DRIVE", Align::Left),
        ("BLOCKS", Align::Right),
        ("MAP PAGES", Align::Right),
        ("COLUMNS", Align::Right),
        ("LABELS", Align::Right),
        ("NOT READ", Align::Right),
    ];
    let drives = list(value, "repairable");
    let row = |d: &Value| {
        let counts = ["blocks", "mapPages", "columns", "labels", "absentBlocks"].map(|key| text(d, key));
        [text(d, "path")].into_iter().chain(counts).collect()
    };
    let rows: Vec<Vec<String>> = drives.iter().map(row).collect();
    let note = "  Other drives have all of this. The daemon repairs what it meets: serve, and `pool scrub --start` has it meet everything;\n  \
                what is not read since its drive is missing or out is protected anew by itself.\n";
    (!rows.is_empty()).then(|| format!("{}\n{note}", table(&columns, rows, "")))
}

/// Every damaged place.
fn places(value: &Value) -> Option<String> {
    let all = list(value, "damages");
    let mut lines: Vec<String> = all.iter().map(line).collect();
    let known =
        ["lost", "mendable"].iter().filter_map(|k| text(value, k).parse::<usize>().ok()).sum::<usize>();
    if known > all.len() {
        lines.push(format!("and {} more", known - all.len()));
    }
    (!lines.is_empty()).then(|| format!("Damaged places:\n{}", indented(&lines)))
}

fn line(damage: &Value) -> String {
    let kind = if damage["lost"] == true { "LOST" } else { "repairable" };
    let lba = damage["lba"].as_u64().map_or_else(String::new, |lba| format!(", LBA {lba}"));
    let parts = [format!("{}{lba}", text(damage, "of")), text(damage, "place"), text(damage, "what")];
    let parts: Vec<String> = parts.into_iter().filter(|p| !p.is_empty()).collect();
    format!("{kind}: {}", parts.join(": "))
}

/// The lost ranges of a volume or snapshot.
pub(super) fn ranges_of(object: &Value) -> impl Iterator<Item = &Value> {
    object["ranges"].as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

/// The blocks of a range, its bytes, and how much it is.
pub(super) fn place_of(range: &Value, sector: u64) -> [String; 3] {
    let (lba, blocks) = (range["lba"].as_u64().unwrap_or(0), range["blocks"].as_u64().unwrap_or(0));
    let last = |from: u64, count: u64| from.saturating_add(count.saturating_sub(1));
    let lbas = if blocks == 1 { lba.to_string() } else { format!("{lba}-{}", last(lba, blocks)) };
    let (from, bytes) = (lba.saturating_mul(sector), blocks.saturating_mul(sector));
    [lbas, format!("{from}-{}", last(from, bytes)), ByteSize(bytes).to_string()]
}

/// What a cause says to people.
pub(super) fn why(cause: &str) -> &'static str {
    match cause {
        "Damaged" => "damaged on more drives than can be lost",
        "Unreadable" => "on drives that are missing or fail, at least in part",
        _ => "the map of it is lost; what was never written reads as lost, too",
    }
}

fn list(value: &Value, key: &str) -> Vec<Value> {
    value[key].as_array().cloned().unwrap_or_default()
}

fn indented(lines: &[String]) -> String {
    lines.iter().map(|line| format!("  {line}\n")).collect()
}

fn many_of(value: &Value, key: &str, noun: &str) -> String {
    let count = text(value, key);
    let plural = if noun == "leaf" { "leaves".into() } else { format!("{noun}s") };
    format!("{count} {}", if count == "1" { noun.into() } else { plural })
}
