//! Answers on stdout: tables and sentences for people, or JSON for programs.

use super::{
    args::Format,
    error::{CliError, Exit},
};
use comfy_table::{CellAlignment, Table, presets};
use dolmen_types::ByteSize;
use serde_json::Value;
use std::io::{self, Write};

/// Where answers go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
}

/// A column: its title, and whether its values are quantities.
pub(crate) type Column = (&'static str, Align);

/// How a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Quantities.
    Right,
}

impl Output {
    pub(crate) fn new(format: Format) -> Output {
        Output { format }
    }

    /// An object or a list for programs, or what `people` makes of it.
    pub(crate) fn put(&self, value: &Value, people: impl FnOnce(&Value) -> String) -> Result<(), CliError> {
        let text = match self.format {
            Format::Json => pretty(value),
            Format::Table => people(value),
        };
        say(format!("{}\n", text.trim_end()).as_bytes())
    }

    /// A remark for people, on stderr, so that programs are not disturbed.
    pub(crate) fn remark(&self, text: &str) {
        if self.format == Format::Table {
            eprintln!("{text}");
        }
    }
}

/// Writes to stdout. A reader that has seen enough (`| head`) is no failure.
pub(crate) fn say(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(why) if why.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::new(Exit::Failed, format!("the answer can't be written: {why}")))
        }
        _ => Ok(()),
    }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string())
}

/// A table; `empty` is said where there are no rows.
pub(crate) fn table(columns: &[Column], rows: Vec<Vec<String>>, empty: &str) -> String {
    if rows.is_empty() {
        return empty.into();
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(columns.iter().map(|(title, _)| *title));
    table.add_rows(rows);
    for (i, (_, align)) in columns.iter().enumerate() {
        if let Some(column) = table.column_mut(i) {
            column.set_padding((0, 2));
            if *align == Align::Right {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_string()).collect();
    lines.join("\n")
}

/// Pairs of a name and a value, one a line, values in one column. A value of several lines is indented.
pub(crate) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
    let mut text = String::new();
    for (name, value) in pairs {
        let value = value.replace('\n', &format!("\n{:width$}", ""));
        text.push_str(&format!("{name:width$}{value}\n"));
    }
    text
}

/// A field as text: numbers and booleans too; nothing for what isn't there.
pub(crate) fn text(value: &Value, key: &str) -> String {
    match &value[key] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// A field of bytes for people.
pub(crate) fn size(value: &Value, key: &str) -> String {
    text(value, key).parse::<u64>().map_or_else(|_| "-".into(), |bytes| ByteSize(bytes).to_string())
}

/// A field that is a ratio, for people.
pub(crate) fn ratio(value: &Value, key: &str) -> String {
    value[key].as_f64().map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}"))
}

/// A part of one, in per cent.
pub(crate) fn percent(value: &Value, key: &str) -> String {
    value[key].as_f64().map_or_else(|| "-".into(), |part| format!("{:.1} %", part * 100.0))
}

/// The texts of a list.
pub(crate) fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(|v| v.as_str().map(String::from)).collect()
}
