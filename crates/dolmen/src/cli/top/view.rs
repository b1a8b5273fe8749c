//! How rates look: as a page of text, and on a screen of any size.

use super::{
    fit,
    rates::{Object, Rates},
};
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
    /// Of each column: those with the largest are left out first where there is no room.
    ranks: &'static [u8],
    rows: Vec<Vec<String>>,
}

/// What the keys do, in as many words as there is room for.
const KEYS: [&str; 5] = [
    "q quit   s sort by: i iops, b bandwidth, l latency, d depth, n name   + - interval   up down scroll",
    "q quit  s sort: i iops b bandwidth l latency d depth n name  +- pace  ↑↓ scroll",
    "q quit  s sort (i b l d n)  +- interval  up down scroll",
    "q quit  s sort  +- interval",
    "q quit",
];

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
            ranks: &[0, 1, 2, 5, 4, 3],
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
            ranks: &[0, 1, 2, 6, 7, 9, 3, 10, 4, 8, 11, 5],
            rows: volumes.collect(),
        },
        Section {
            title: "DRIVES",
            columns: with(
                io("DRIVE"),
                &[("R MEAN", Right), ("W MEAN", Right), ("NOW", Right), ("ERRORS", Right), ("STATE", Left)],
            ),
            ranks: &[0, 2, 3, 4, 5, 6, 7, 9, 8, 1],
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
            ranks: &[0, 1, 2, 3, 4, 5],
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
    let room = usize::from(area.width);
    let rest = format!("  every {:.1} s  by {}", screen.interval_s, screen.sort.name());
    let left = room.saturating_sub("dolmen top  ".len() + rest.len());
    let node = fit::name(rates.map_or("", |r| r.node.as_str()), left);
    let titles = [format!("dolmen top  {node}{rest}"), rest.trim_start().into()];
    let title = fit::first(&titles.each_ref().map(String::as_str), room).to_string();
    let line = match &screen.trouble {
        Some(why) => Line::from(vec![
            Span::styled(title, bold),
            Span::raw("  "),
            Span::styled(why.clone(), bold.add_modifier(Modifier::REVERSED)),
        ]),
        None => Line::styled(title, bold),
    };
    frame.render_widget(Paragraph::new(line), head);
    let keys = fit::first(&KEYS, room);
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
    let natural: Vec<usize> = (0..section.columns.len())
        .map(|i| {
            let longest = section.rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0);
            longest.max(section.columns[i].0.len())
        })
        .collect();
    let shown = fit::columns(&natural, section.ranks, area.width.into());
    let cells = |text: &dyn Fn(usize) -> String| {
        let cell = |&(i, width): &(usize, usize)| {
            let text = fit::name(&text(i), width);
            match section.columns[i].1 {
                Align::Right => Cell::from(format!("{text:>width$}")),
                Align::Left => Cell::from(format!("{text:width$}")),
            }
        };
        Row::new(shown.iter().map(cell).collect::<Vec<_>>())
    };
    let header = cells(&|i| section.columns[i].0.into());
    let rows: Vec<Row<'_>> =
        section.rows.iter().skip(skipped).map(|row| cells(&|i| row[i].clone())).collect();
    let widths = shown.iter().map(|&(_, width)| Constraint::Length(u16::try_from(width).unwrap_or(u16::MAX)));
    let table = Table::new(rows, widths.collect::<Vec<_>>())
        .header(header.style(Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED)))
        .column_spacing(u16::try_from(fit::GAP).unwrap_or(0));
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

    /// A node that is busy in every column, with names as long as they come.
    fn busy() -> Rates {
        let (before, now) = two();
        let mut rates = Rates::between(&before, &now);
        rates.node = "storage-node-17.rack-4.example.org".into();
        for (volume, name) in rates.volumes.iter_mut().zip(["database-primary-data-0001", "web"]) {
            volume.name = name.into();
            (volume.reads.per_second, volume.writes.per_second) = (1002.0, 1003.0);
        }
        rates.drives[0].name = "/dev/disk/by-id/nvme-VENDOR_MODEL_SERIAL-0042".into();
        rates.drives[0].healthy = false;
        rates.hosts[0].name = "nqn.2014-08.org.nvmexpress:uuid:d01be9c4-0000-4000-8000-000000000042".into();
        rates.cores[0].core = 7;
        rates
    }

    #[test]
    fn figures_are_whole_or_left_out_and_every_row_has_its_name() {
        let rates = busy();
        let whole: Vec<String> = sections(&rates)
            .iter()
            .flat_map(|s| {
                s.rows.iter().flat_map(|row| row[1..].to_vec()).chain(s.columns.iter().map(|c| c.0.into()))
            })
            .flat_map(|cell: String| cell.split_whitespace().map(String::from).collect::<Vec<_>>())
            .collect();
        for width in [40, 60, 70, 80, 100, 120] {
            let shown = drawn(Some(&rates), &screen(), width, 24);
            let lines: Vec<&str> = shown.lines().map(|line| line.trim_matches('"').trim_end()).collect();
            for line in &lines[1..lines.len() - 1] {
                for word in line.split_whitespace().filter(|word| !word.contains('…')) {
                    let known = whole.iter().any(|w| w == word)
                        || ["web", "database-primary-data-0001", "7"].contains(&word)
                        || word.starts_with("/dev/")
                        || word.starts_with("nqn.");
                    assert!(known, "{word} is cut at {width}:\n{shown}");
                }
            }
            for row in ["web ", "data", "0042", "0001", "7  "] {
                assert!(
                    lines.iter().any(|line| line.contains(row)),
                    "{row} is not there at {width}:\n{shown}"
                );
            }
            assert!(shown.contains("1002") && shown.contains("failed"), "at {width}:\n{shown}");
            assert!(
                lines[0].contains("every 2.0 s") && lines[lines.len() - 1].starts_with("q quit"),
                "{shown}"
            );
        }
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
