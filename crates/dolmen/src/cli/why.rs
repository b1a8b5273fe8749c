//! `dolmen why-slow`: where the time of a volume's commands goes, in plain words first.

use super::{
    client::Client,
    error::{CliError, Exit},
    output::{Align, Output, table, text},
};
use dolmen_cluster::why::time;
use dolmen_types::{ByteSize, Uuid};
use serde_json::Value;
use std::fmt::Write;

/// Slow commands that people are shown. Count.
const SHOWN: usize = 5;

pub(crate) fn why(client: &Client, output: &Output, volume: &str) -> Result<(), CliError> {
    let path = if volume.parse::<Uuid>().is_ok() {
        format!("/dolmen/v1/volumes/{volume}/why")
    } else {
        dolmen_cluster::volume::check_name("VOLUME", volume).map_err(|why| CliError::usage(why.text))?;
        format!("/dolmen/v1/volumes//why?name={volume}")
    };
    let answer = client.get(&path).map_err(|error| match error.exit {
        Exit::NotFound => {
            error.hint(format!("this tells which volumes there are: {}", client.suggest("volume list")))
        }
        _ => error,
    })?;
    output.put(&answer, page)
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn ns(value: &Value, field: &str) -> String {
    time(value[field].as_u64().unwrap_or(0))
}

fn page(answer: &Value) -> String {
    let mut page = String::new();
    for verdict in items(&answer["verdicts"]) {
        page.push_str(&wrapped(verdict.as_str().unwrap_or_default()));
    }
    for kind in items(&answer["kinds"]) {
        let _ = write!(page, "\n{}\n{}\n", heading(answer, kind), stages(kind));
    }
    let slowest = items(&answer["slowest"]);
    if !slowest.is_empty() {
        let _ =
            write!(page, "\nThe slowest commands of the last half minute or so:\n{}\n", commands(slowest));
    }
    page
}

/// A verdict as a point of a list, in lines that fit a terminal.
fn wrapped(text: &str) -> String {
    const WIDTH: usize = 100;
    let (mut lines, mut line) = (String::new(), String::from("-"));
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            lines.push_str(&line);
            lines.push('\n');
            line = String::from(" ");
        }
        line.push(' ');
        line.push_str(word);
    }
    lines + &line + "\n"
}

fn heading(answer: &Value, kind: &Value) -> String {
    let name = text(kind, "kind");
    let mut letters = name.chars();
    let name =
        letters.next().map(|c| c.to_uppercase().chain(letters).collect::<String>()).unwrap_or_default();
    let number = |field: &str| answer[field].as_f64().unwrap_or(0.0);
    format!(
        "{name}: {} looked at; the volume has some {:.0} commands a second, {:.1} in hand on average",
        text(kind, "sampled"),
        number("commandsPerSecond"),
        number("inHand")
    )
}

fn stages(kind: &Value) -> String {
    let columns = [
        ("STAGE", Align::Left),
        ("SHARE", Align::Right),
        ("P50", Align::Right),
        ("P99", Align::Right),
        ("MAX", Align::Right),
        ("WHAT HAPPENS", Align::Left),
    ];
    let row = |stage: &Value| {
        vec![
            text(stage, "stage"),
            format!("{:.1} %", stage["share"].as_f64().unwrap_or(0.0) * 100.0),
            ns(stage, "p50Nanoseconds"),
            ns(stage, "p99Nanoseconds"),
            ns(stage, "maxNanoseconds"),
            text(stage, "meaning"),
        ]
    };
    let rows = items(&kind["stages"]).iter().chain([&kind["total"]]).map(row).collect();
    table(&columns, rows, "")
}

fn commands(slowest: &[Value]) -> String {
    let columns = [
        ("TOOK", Align::Right),
        ("AGO", Align::Right),
        ("COMMAND", Align::Left),
        ("LBA", Align::Right),
        ("SIZE", Align::Right),
        ("WHERE", Align::Left),
        ("HOST", Align::Left),
    ];
    let row = |command: &Value| {
        let mut stages: Vec<&Value> = items(&command["stages"]).iter().collect();
        stages.sort_by_key(|s| std::cmp::Reverse(s["nanoseconds"].as_u64()));
        let named = |s: &&Value| format!("{} {}", text(s, "stage"), ns(s, "nanoseconds"));
        let mut places: Vec<String> = stages.iter().take(3).map(named).collect();
        if let Some(drive) = command["drive"].as_str() {
            places.push(format!("({drive})"));
        }
        let failed = if command["failed"] == true { ", failed" } else { "" };
        vec![
            ns(command, "totalNanoseconds"),
            ns(command, "ageNanoseconds"),
            format!("{}{failed}", text(command, "kind")),
            text(command, "lba"),
            ByteSize(command["bytes"].as_u64().unwrap_or(0)).to_string(),
            places.join(", "),
            text(command, "host"),
        ]
    };
    table(&columns, slowest.iter().take(SHOWN).map(row).collect(), "")
}

#[cfg(test)]
mod tests {
    use super::wrapped;

    #[test]
    fn long_verdicts_are_broken_between_words() {
        let text = "word ".repeat(60);
        let lines: Vec<String> = wrapped(&text).lines().map(str::to_owned).collect();
        assert!(lines.len() == 4 && lines.iter().all(|l| l.len() <= 100), "{lines:?}");
        assert!(lines[0].starts_with("- word") && lines[1].starts_with("  word"));
    }
}
