//! How rates look: as a page of text, and on a screen of any size.

use super::rates::{Object, Rates};
use crate::cli::{
    args::TopSort,
    output::{self, Align, Column},
};
use dolmen_cluster::why::time;
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Modifier, Style},
    text::{Line, Span},
    widgets::{Cell, Paragraph, Row, Table},
};

/// A sort of objects as rows of text.
struct Section {
    title: &'static str,
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

/// What the screen shows beside the rates.
#[derive(Clone, Debug)]
pub(super) struct Screen {
    pub(super) sort: TopSort,
    pub(super) interval_s: f64,
    /// Rows of volumes that are scrolled away.
    pub(super) skipped: usize,
    /// Why there are no new figures.
    pub(super) trouble: Option<String>,
}

fn count(n: f64) -> String {
    match n {
        n if n < 10.0 => format!("{n:.1}"),
        n if n < 10_000.0 => format!("{n:.0}"),
        n if n < 10_000_000.0 => format!("{:.1}k", n / 1e3),
        n => format!("{:.1}M", n / 1e6),
    }
}

fn bytes(n: f64) -> String {
    match n {
        n if n < 1e3 => format!("{n:.0} B/s"),
        n if n < 1e6 => format!("{:.1} kB/s", n / 1e3),
        n if n < 1e9 => format!("{:.1} MB/s", n / 1e6),
        n => format!("{:.2} GB/s", n / 1e9),
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Latencies, of at most years.
fn latency(ns: f64) -> String {
    if ns > 0.0 { time(ns.round() as u64) } else { "-".into() }
}

fn percent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

/// All sections of a page.
fn sections(rates: &Rates) -> [Section; 4] {
    use Align::{Left, Right};
    let both = |o: &Object| {
        vec![
            o.name.clone(),
            count(o.reads.per_second),
            count(o.writes.per_second),
            bytes(o.reads.bytes_per_second),
            bytes(o.writes.bytes_per_second),
        ]
    };
    let io = |first: &'static str| {
        vec![(first, Left), ("R/S", Right), ("W/S", Right), ("READ", Right), ("WRITTEN", Right)]
    };
    let with = |mut columns: Vec<Column>, more: &[Column]| {
        columns.extend_from_slice(more);
        columns
    };
    let cores = rates.cores.iter().map(|c| {
        vec![
            c.core.to_string(),
            percent(c.busy),
            count(c.per_second),
            count(c.turns_per_second),
            c.connections.to_string(),
            percent(c.buffers),
        ]
    });
    let volumes = rates.volumes.iter().map(|v| {
        let mut row = both(v);
        row.extend([v.reads.p50_ns, v.reads.p99_ns, v.writes.p50_ns, v.writes.p99_ns].map(latency));
        row.extend([count(v.depth), percent(v.throttled), v.failed.to_string()]);
        row
    });
    let drives = rates.drives.iter().map(|d| {
        let mut row = both(d);
        row.extend([d.reads.mean_ns, d.writes.mean_ns].map(latency));
        row.push(format!("{:.0}", d.depth));
        row.push((d.reads.errors + d.writes.errors).to_string());
        row.push(if d.healthy { String::new() } else { "failed".into() });
        row
    });
    let hosts = rates.hosts.iter().map(|h| {
        vec![
            h.name.clone(),
            count(h.per_second),
            bytes(h.sent_per_second),
            bytes(h.received_per_second),
            h.inflight.to_string(),
            h.connections.to_string(),
        ]
    });
    [
        Section {
            title: "CORES",
            columns: vec![
                ("CORE", Left),
                ("BUSY", Right),
                ("OPS/S", Right),
                ("TURNS/S", Right),
                ("CONNECTIONS", Right),
                ("BUFFERS", Right),
            ],
            rows: cores.collect(),
        },
        Section {
            title: "VOLUMES",
            columns: with(
                io("VOLUME"),
                &[
                    ("R P50", Right),
                    ("R P99", Right),
                    ("W P50", Right),
                    ("W P99", Right),
                    ("DEPTH", Right),
                    ("HELD", Right),
                    ("FAILED", Right),
                ],
            ),
            rows: volumes.collect(),
        },
        Section {
            title: "DRIVES",
            columns: with(
                io("DRIVE"),
                &[("R MEAN", Right), ("W MEAN", Right), ("NOW", Right), ("ERRORS", Right), ("STATE", Left)],
            ),
            rows: drives.collect(),
        },
        Section {
            title: "HOSTS",
            columns: vec![
                ("HOST", Left),
                ("OPS/S", Right),
                ("READ", Right),
                ("WRITTEN", Right),
                ("NOW", Right),
                ("QUEUES", Right),
            ],
            rows: hosts.collect(),
        },
    ]
}

/// Everything as text.
pub(super) fn page(rates: &Rates, sort: TopSort) -> String {
    let mut rates = rates.clone();
    rates.sort(sort);
    let tables = sections(&rates)
        .into_iter()
        .map(|s| output::table(&s.columns, s.rows, &format!("There are no {}.", s.title.to_lowercase())));
    format!("{}, {:.1} s\n\n{}", rates.node, rates.interval, tables.collect::<Vec<_>>().join("\n\n"))
}

/// Draws everything, as far as there is room: volumes get what the others leave.
pub(super) fn draw(frame: &mut Frame<'_>, rates: Option<&Rates>, screen: &Screen) {
    let area = frame.area();
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)]).areas(area);
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let node = rates.map_or("", |r| r.node.as_str());
    let title = format!("dolmen top  {node}  every {:.1} s  by {}", screen.interval_s, screen.sort.name());
    let line = match &screen.trouble {
        Some(why) => Line::from(vec![
            Span::styled(title, bold),
            Span::raw("  "),
            Span::styled(why.clone(), bold.add_modifier(Modifier::REVERSED)),
        ]),
        None => Line::styled(title, bold),
    };
    frame.render_widget(Paragraph::new(line), head);
    let keys =
        "q quit   s sort by: i iops, b bandwidth, l latency, d depth, n name   + - interval   up down scroll";
    frame.render_widget(Paragraph::new(Line::styled(keys, Style::new().add_modifier(Modifier::DIM))), foot);
    let Some(rates) = rates else {
        frame.render_widget(Paragraph::new("waiting for the first figures"), body);
        return;
    };
    let mut rates = rates.clone();
    rates.sort(screen.sort);
    let sections = sections(&rates);
    let heights = heights(&sections, body.height);
    let mut top = body.y;
    for (section, height) in sections.iter().zip(heights) {
        let skipped = if section.title == "VOLUMES" {
            screen.skipped.min(section.rows.len().saturating_sub(1))
        } else {
            0
        };
        let area = Rect { y: top, height, ..body };
        draw_section(frame, section, area, skipped);
        top += height;
    }
}

/// Rows for each section: header, rows and an empty line each; when that is too much, volumes shrink first to a third, then each gets
/// its part.
fn heights(sections: &[Section; 4], room: u16) -> [u16; 4] {
    let wanted =
        sections.each_ref().map(|s| u16::try_from(s.rows.len().max(1) + 2).unwrap_or(u16::MAX).min(room));
    let mut heights = wanted;
    let sum = |heights: &[u16; 4]| heights.iter().map(|h| u32::from(*h)).sum::<u32>();
    // The one that has most gives, until all fit; volumes last below a third.
    while sum(&heights) > u32::from(room) {
        let most = (0..4)
            .max_by_key(|&i| if i == 1 && heights[1] <= room / 3 { 0 } else { heights[i] })
            .filter(|&i| heights[i] > 0)
            .or_else(|| (0..4).max_by_key(|&i| heights[i]));
        let Some(most) = most.filter(|&i| heights[i] > 0) else { break };
        heights[most] -= 1;
    }
    heights
}

fn draw_section(frame: &mut Frame<'_>, section: &Section, area: Rect, skipped: usize) {
    if area.height == 0 {
        return;
    }
    let widths: Vec<u16> = (0..section.columns.len())
        .map(|i| {
            let longest = section.rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0);
            u16::try_from(longest.max(section.columns[i].0.len())).unwrap_or(u16::MAX)
        })
        .collect();
    let pad = |text: &str, i: usize| {
        let width = usize::from(widths[i]);
        if section.columns[i].1 == Align::Right {
            format!("{text:>width$}")
        } else {
            format!("{text:width$}")
        }
    };
    let cells = |texts: Vec<&str>| {
        Row::new(texts.into_iter().enumerate().map(|(i, text)| Cell::from(pad(text, i))).collect::<Vec<_>>())
    };
    let header = cells(section.columns.iter().map(|(title, _)| *title).collect());
    let rows: Vec<Row<'_>> = section
        .rows
        .iter()
        .skip(skipped)
        .map(|row| cells(row.iter().map(String::as_str).collect()))
        .collect();
    // A name may be cut when the screen is narrow, a figure may not.
    let constraints: Vec<Constraint> = widths
        .iter()
        .zip(&section.columns)
        .map(|(&w, (_, align))| match align {
            Align::Left => Constraint::Max(w),
            Align::Right => Constraint::Length(w),
        })
        .collect();
    let table = Table::new(rows, constraints)
        .header(header.style(Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED)))
        .column_spacing(2);
    frame.render_widget(table, area);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::top::rates::tests::two;
    use ratatui::{Terminal, backend::TestBackend};

    fn drawn(rates: Option<&Rates>, screen: &Screen, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, rates, screen)).unwrap();
        terminal.backend().to_string()
    }

    fn screen() -> Screen {
        Screen { sort: TopSort::Iops, interval_s: 2.0, skipped: 0, trouble: None }
    }

    #[test]
    fn a_wide_screen_shows_every_section_and_a_narrow_one_does_not_break() {
        let (before, now) = two();
        let rates = Rates::between(&before, &now);
        let wide = drawn(Some(&rates), &screen(), 140, 30);
        for word in ["25 %", "VOLUME", "500", "2.0 MB/s", "/dev/nvme0n1", "nqn.h", "q quit", "by iops"] {
            assert!(wide.contains(word), "{word} in\n{wide}");
        }
        for (width, height) in [(1, 1), (3, 2), (20, 5), (80, 3), (40, 12), (200, 100)] {
            drawn(Some(&rates), &screen(), width, height);
            drawn(None, &screen(), width, height);
        }
        let trouble = Screen { trouble: Some("no daemon answers".into()), ..screen() };
        assert!(drawn(Some(&rates), &trouble, 120, 20).contains("no daemon answers"));
    }

    #[test]
    fn many_volumes_leave_room_for_the_rest_and_scroll() {
        let named = |name: String| Object { name, ..Object::default() };
        let rates = Rates {
            volumes: (0..500).map(|i| named(format!("v{i:03}"))).collect(),
            drives: vec![named("drive".into())],
            ..Rates::default()
        };
        let by_name = Screen { sort: TopSort::Name, ..screen() };
        let shown = drawn(Some(&rates), &by_name, 120, 24);
        assert!(shown.contains("v000") && shown.contains("drive") && !shown.contains("v400"));
        let scrolled = drawn(Some(&rates), &Screen { skipped: 400, ..by_name.clone() }, 120, 24);
        assert!(scrolled.contains("v400") && !scrolled.contains("v000"));
        // Beyond the end the last one stays.
        assert!(drawn(Some(&rates), &Screen { skipped: 9999, ..by_name }, 120, 24).contains("v499"));
    }

    #[test]
    fn the_page_of_text_has_the_same_figures() {
        let (before, now) = two();
        let page = page(&Rates::between(&before, &now), TopSort::Latency);
        let (a, b) = (page.find("\na ").unwrap(), page.find("\nb ").unwrap());
        assert!(b < a && page.contains("HOST") && page.contains("50 %"), "{page}");
    }
}
