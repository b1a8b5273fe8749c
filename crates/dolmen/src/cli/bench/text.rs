//! A result for people.

use super::{
    args::Rw,
    report::{Latency, Report, Side, Verified},
};
use crate::cli::output::{Align, table};
use clap::ValueEnum;
use dolmen_types::ByteSize;
use std::fmt::Write;

/// Width of the longest bar of the histogram.
const BAR: usize = 40;

/// A workload in fio's words.
pub(super) fn rw(rw: Rw) -> String {
    rw.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string())
}

/// A size for people.
pub(super) fn bytes(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// A count for people: whole, digits in groups.
pub(super) fn count(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A rate of bytes for people.
pub(super) fn bandwidth(bytes_per_second: f64) -> String {
    let (value, unit) = match bytes_per_second / f64::from(1 << 20) {
        mib if mib >= 1024.0 => (mib / 1024.0, "GiB/s"),
        mib => (mib, "MiB/s"),
    };
    format!("{value:.2} {unit}")
}

/// A time for people: microseconds, or milliseconds when there are many of them.
pub(super) fn time(ns: f64) -> String {
    match ns {
        ns if ns >= 100e6 => format!("{:.0} ms", ns / 1e6),
        ns if ns >= 10e6 => format!("{:.1} ms", ns / 1e6),
        ns if ns >= 1e6 => format!("{:.2} ms", ns / 1e6),
        ns if ns >= 100e3 => format!("{:.0} us", ns / 1e3),
        ns => format!("{:.1} us", ns / 1e3),
    }
}

/// The whole result.
pub(super) fn report(report: &Report) -> String {
    let mut text = head(report);
    let _ = write!(text, "\n\n{}", sides(report));
    let _ = write!(text, "\n\n{}", histogram(&report.all.latency_ns));
    let _ = write!(text, "\n\n{}", feet(report).trim_end());
    text
}

fn head(report: &Report) -> String {
    let w = &report.workload;
    let mut text = format!("{} {}, depth {}", rw(w.rw), bytes(w.bs), w.iodepth);
    if w.reads > 0 && w.reads < 100 {
        let _ = write!(text, ", {} % reads", w.reads);
    }
    if let Some([commands, region]) = w.hot {
        let _ = write!(text, ", {commands} % of it to {region} % of the range");
    }
    for (number, what) in [(w.connections, "connections per job"), (w.jobs, "jobs")] {
        if number > 1 {
            let _ = write!(text, ", {number} {what}");
        }
    }
    if let Some(rate) = w.rate {
        let _ = write!(text, ", {} IOPS asked for", count(rate as f64));
    }
    let _ = write!(text, "; {:.1} s counted", report.seconds);
    for t in &report.targets {
        let uuid = t.uuid.as_ref().map(|uuid| format!(" ({uuid})")).unwrap_or_default();
        let _ = write!(text, "\n{}: namespace {}{uuid} of {}", t.address, t.nsid, bytes(t.size));
        if !t.model.is_empty() {
            let _ = write!(text, ", {}", t.model);
        }
    }
    text
}

fn sides(report: &Report) -> String {
    let mut rows = Vec::new();
    let kinds = [("read", &report.reads), ("write", &report.writes)];
    let both = kinds.iter().all(|(_, side)| side.is_some());
    for (name, side) in kinds {
        rows.extend(side.as_ref().map(|side| row(name, side)));
    }
    if both {
        rows.push(row("all", &report.all));
    }
    let mut columns = vec![("", Align::Left)];
    let names =
        ["IOPS", "bandwidth", "min", "mean", "stddev"].into_iter().chain(Latency::names()).chain(["max"]);
    columns.extend(names.map(|name| (name, Align::Right)));
    table(&columns, rows, "Nothing was counted.")
}

fn row(name: &str, side: &Side) -> Vec<String> {
    let l = &side.latency_ns;
    let mut row = vec![name.into(), count(side.iops), bandwidth(side.bytes_per_second)];
    row.extend([l.min as f64, l.mean as f64, l.standard_deviation].map(time));
    row.extend(Latency::names().map(|name| time(l.percentile(name) as f64)));
    row.push(time(l.max as f64));
    row
}

/// Latencies by powers of two.
fn histogram(latency: &Latency) -> String {
    let mut powers: Vec<(u32, u64)> = Vec::new();
    for &[end, count] in &latency.histogram {
        let power = end.max(1).ilog2();
        match powers.last_mut() {
            Some((last, sum)) if *last == power => *sum += count,
            _ => powers.push((power, count)),
        }
    }
    let total = powers.iter().map(|(_, n)| *n).sum::<u64>().max(1) as f64;
    let most = powers.iter().map(|(_, n)| *n).max().unwrap_or(1).max(1);
    let line = |&(power, number): &(u32, u64)| {
        let bar = usize::try_from(u128::from(number) * BAR as u128 / u128::from(most)).unwrap_or(0);
        let (from, to) = (2f64.powi(power.cast_signed()), 2f64.powi(power.cast_signed() + 1));
        let share = number as f64 * 100.0 / total;
        let bar = if bar == 0 { ".".into() } else { "#".repeat(bar) };
        format!("{:>8} to {:>8}  {share:>8.4} %  {bar}", time(from), time(to))
    };
    powers.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// What else there is to know.
fn feet(report: &Report) -> String {
    let mut text = String::new();
    if let Some(spread) = report.spread(|s| Some(s.iops)) {
        let (n, empty) = (report.slices.len(), report.empty_slices());
        let empty =
            if empty > 0 { format!("; in {empty} of them nothing was completed") } else { String::new() };
        let _ = writeln!(
            text,
            "Steadiness: IOPS of {n} slices differ by {:.1} % (standard deviation){empty}",
            spread * 100.0
        );
    }
    if report.jobs.len() > 1 {
        let each = |rate: f64| count(rate);
        let rates = || report.jobs.iter().map(|job| job.iops);
        let (least, most) = (rates().fold(f64::INFINITY, f64::min), rates().fold(0.0, f64::max));
        let _ = writeln!(text, "Jobs: the slowest made {} IOPS, the fastest {}", each(least), each(most));
    }
    if let Some(ns) = report.cpu_ns_per_io {
        let _ = writeln!(text, "CPU per I/O here: {}, spinning included", time(ns));
    }
    let _ = match report.target_cpu_ns_per_io {
        Some(ns) => writeln!(
            text,
            "CPU per I/O of the target: {}, all threads of {}",
            time(ns),
            report.target_processes
        ),
        None => writeln!(text, "CPU per I/O of the target: not to be seen ({})", report.target_processes),
    };
    if let Some(found) = &report.latency_target {
        let tries: Vec<String> = found
            .tries
            .iter()
            .map(|t| {
                if t.iops > 0.0 {
                    format!("depth {}: {} IOPS, {}", t.depth, count(t.iops), time(t.latency_ns as f64))
                } else {
                    format!("depth {}: nothing was completed", t.depth)
                }
            })
            .collect();
        let verdict = if found.held { "held at depth" } else { "not held even at depth" };
        let target = time(found.ns as f64);
        let depth = report.workload.iodepth;
        let _ = writeln!(
            text,
            "Latency target: p{} of {target} is {verdict} {depth} (tried: {})",
            found.percentile,
            tries.join("; ")
        );
    }
    // A few are open at the end of every run.
    if report.all.late > report.all.operations / 100 {
        let late = count(report.all.late as f64);
        let _ = writeln!(
            text,
            "Late: {late} commands were not done at the end; latencies count them with the time that they had waited"
        );
    }
    if report.workload.rate.is_some() && report.behind > 0 {
        let behind = count(report.behind as f64);
        let _ = writeln!(
            text,
            "Rate: {behind} commands were due and not issued at the end: the target does not hold this rate at this depth"
        );
    }
    if let Some(verified) = &report.verified {
        let _ = writeln!(text, "{}", verdict(verified));
    }
    if report.connections_lost > 0 {
        let (lost, again) = (report.connections_lost, report.connections_made_again);
        let _ = writeln!(text, "Connections lost: {lost}, of which {again} came back");
    }
    if report.errors > 0 {
        let _ = writeln!(text, "Failed: {} commands", count(report.errors as f64));
    }
    if report.unanswered > 0 {
        let _ = writeln!(text, "Unanswered: {} commands", count(report.unanswered as f64));
    }
    if report.interrupted {
        text.push_str("It was interrupted: this is what was counted until then\n");
    }
    text
}

/// What is known of what was written.
fn verdict(verified: &Verified) -> String {
    let (blocks, wrong) = (count(verified.blocks_read_back as f64), verified.violations);
    match &verified.not_read_back {
        None => format!("Verified: {blocks} blocks of 4 KiB read back at the end, {wrong} wrong in all"),
        Some(why) if verified.blocks_read_back == 0 => {
            format!(
                "NOT verified: what was written was not read back ({why}); {wrong} blocks were wrong until then"
            )
        }
        Some(why) => format!(
            "NOT verified: only {blocks} blocks of 4 KiB of what was written were read back ({why}), {wrong} wrong in all"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_read_back_is_not_called_verified() {
        let of = |blocks_read_back, why: Option<&str>| {
            verdict(&Verified {
                blocks_read_back,
                not_read_back: why.map(Into::into),
                violations: 0,
                first_violation: None,
            })
        };
        assert!(of(8, None).starts_with("Verified: 8 blocks"));
        assert!(
            of(0, Some("it was interrupted"))
                .starts_with("NOT verified: what was written was not read back (it was")
        );
        assert!(of(8, Some("commands failed")).starts_with("NOT verified: only 8 blocks"));
    }

    #[test]
    fn quantities_are_short_and_exact_enough() {
        assert_eq!(
            (count(0.4), count(999.6), count(1_234_567.0)),
            ("0".into(), "1 000".into(), "1 234 567".into())
        );
        assert_eq!(
            (bandwidth(1048576.0), bandwidth(3221225472.0)),
            ("1.00 MiB/s".into(), "3.00 GiB/s".into())
        );
        let times = [850.0, 12_340.0, 250_400.0, 1_500_000.0, 12_000_000.0, 2_000_000_000.0].map(time);
        assert_eq!(times, ["0.8 us", "12.3 us", "250 us", "1.50 ms", "12.0 ms", "2000 ms"]);
    }
}
