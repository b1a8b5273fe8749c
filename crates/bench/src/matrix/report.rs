//! What comes out of a matrix: the table, the verdicts, and the documentation's share of both.

use super::{
    plot,
    row::{HEADING, Row},
};
use crate::{
    Result,
    args::MatrixArgs,
    sample::{Spread, State},
    verdict::Verdict,
};
use serde::Serialize;
use std::{fmt, fs, path::Path};

/// Between these lines of performance.md stands what the bench wrote.
const BEGIN: &str = "<!-- written by cargo xtask bench --docs: begin -->";
const END: &str = "<!-- written by cargo xtask bench --docs: end -->";

/// The largest free pieces that Linux keeps: 2 to that power of pages.
const MAX_PAGE_ORDER: u32 = 10;

/// The machine, as far as it matters here.
#[derive(Clone, Debug, Serialize)]
struct Machine {
    cpu: String,
    kernel: String,
    congestion_control: String,
    /// Cache-line round trip between the two CPUs, over all samples. Nanoseconds.
    line_ns: Option<Spread>,
    /// What is free goes back to the host of a virtual machine, and is slow when it is touched anew.
    free_memory_leaves: bool,
}

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    command: String,
    machine: Machine,
    rounds: u32,
    ramp_s: f64,
    runtime_s: f64,
    server_cpu: usize,
    client_cpu: usize,
    /// Who could not take part, and why.
    absent: Vec<String>,
    pub(super) rows: Vec<Row>,
    pub(super) verdicts: Vec<Verdict>,
}

impl Report {
    pub(super) fn new(args: &MatrixArgs, rows: Vec<Row>, costs: Vec<Verdict>, absent: Vec<String>) -> Report {
        let samples = || rows.iter().flat_map(|r| &r.entries).flat_map(|e| &e.samples);
        let congestion = samples().find_map(|s| s.congestion.clone());
        let machine = Machine {
            cpu: first_value(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown CPU".into()),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_string(),
            congestion_control: congestion.unwrap_or_else(|| "unknown".into()),
            line_ns: Spread::of(samples().map(|s| s.line_ns[0] as f64)),
            free_memory_leaves: free_memory_leaves(),
        };
        let verdicts = rows.iter().flat_map(Row::verdicts).chain(costs).collect();
        Report {
            command: command(args),
            machine,
            rounds: args.repeats,
            ramp_s: args.ramp,
            runtime_s: args.runtime,
            server_cpu: args.server_cpu,
            client_cpu: args.client_cpu,
            absent,
            rows,
            verdicts,
        }
    }

    fn head(&self) -> String {
        let Machine { cpu, kernel, congestion_control, line_ns, free_memory_leaves } = &self.machine;
        let leaves = if *free_memory_leaves { "; its free memory goes back to the host" } else { "" };
        let line = line_ns.map_or_else(String::new, |s| {
            format!(", cache line there and back {:.0} ns ({:.0} to {:.0})", s.median, s.min, s.max)
        });
        let count = |state| self.rows.iter().filter(|r| r.state == Some(state)).count();
        format!(
            "{cpu}, Linux {kernel}, congestion control {congestion_control}; servers on CPU {}, clients on CPU {}{line}{leaves}\n\
             {} rounds, each contestant {} s after {} s of ramp; rows in the machine's fast state: {}, slow: {}, unfit: {}",
            self.server_cpu,
            self.client_cpu,
            self.rounds,
            self.runtime_s,
            self.ramp_s,
            count(State::Fast),
            count(State::Slow),
            self.rows.iter().filter(|r| r.state.is_none()).count(),
        )
    }

    /// Puts table and plot into a folder's performance.md and performance.svg.
    pub(super) fn write_to(&self, folder: &Path) -> Result<()> {
        let file = folder.join("performance.md");
        let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        let block = format!("```\n{self}\n```\n\n![rates and ratios](performance.svg)\n");
        fs::write(&file, replaced(&text, &block)?)?;
        plot::draw(&self.rows, &folder.join("performance.svg"))
    }
}

/// True when the kernel reports free pages to the host by way of a memory balloon (feature 5 of virtio's memory balloon device) as
/// large as it has them by default.
fn free_memory_leaves() -> bool {
    let order = read("/sys/module/page_reporting/parameters/page_reporting_order");
    let devices = fs::read_dir("/sys/bus/virtio/drivers/virtio_balloon").into_iter().flatten().flatten();
    let reports = |device: &Path| read(device.join("features")).as_bytes().get(5) == Some(&b'1');
    order.trim().parse::<u32>().is_ok_and(|order| order <= MAX_PAGE_ORDER)
        && devices.map(|device| device.path()).any(|device| reports(&device))
}

/// The command that measures this again.
fn command(args: &MatrixArgs) -> String {
    let mut words = format!("cargo xtask bench matrix --repeats {} --runtime {}", args.repeats, args.runtime);
    if args.full {
        words.push_str(" --full");
    }
    for only in &args.only {
        words.push_str(&format!(" --only {only}"));
    }
    if let Some(load) = &args.load {
        words.push_str(&format!(" --load '{load}'"));
    }
    words
}

/// The document with what stands between the marks replaced.
fn replaced(document: &str, block: &str) -> Result<String> {
    let cut = document
        .split_once(BEGIN)
        .and_then(|(before, rest)| rest.split_once(END).map(|(_, after)| (before, after)));
    let (before, after) = cut.ok_or_else(|| format!("performance.md lacks the lines {BEGIN} and {END}"))?;
    Ok(format!("{before}{BEGIN}\n{block}{END}{after}"))
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The value of the first line `KEY : VALUE`.
fn first_value(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n\n{HEADING}", self.command, self.head())?;
        let mut part = "";
        for row in &self.rows {
            if row.part != part {
                part = row.part;
                writeln!(f, "{part}:")?;
            }
            write!(f, "{row}")?;
        }
        if !self.absent.is_empty() {
            writeln!(f, "\nabsent:")?;
            self.absent.iter().try_for_each(|why| writeln!(f, "  {why}"))?;
        }
        writeln!(f, "\nmedians of the rounds (least to most, how many were compared)")?;
        let lines: Vec<String> = self.verdicts.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let document = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        assert_eq!(replaced(&document, "new\n").unwrap(), format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert!(replaced("nothing", "new").is_err());
    }

    #[test]
    fn proc_is_read_by_key() {
        assert_eq!(first_value("a\t: 1\nmodel name\t: X 5\n", "model name").as_deref(), Some("X 5"));
        assert_eq!(first_value("a: 1", "b"), None);
    }
}
