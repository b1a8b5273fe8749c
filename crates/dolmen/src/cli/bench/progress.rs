//! The line that moves while a run goes on; only where stderr is a terminal.

use super::{job::Order, text, told::Told};
use indicatif::{ProgressBar, ProgressStyle};
use ratatui::crossterm::terminal;
use std::{
    cell::RefCell,
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// How often the line changes.
const PACE: Duration = Duration::from_millis(90);
/// Over how long the rate is taken: jobs tell every now and then, which a shorter time would show as jumps.
const WINDOW: Duration = Duration::from_secs(1);
/// Columns of the bar and the space after it.
const BAR_COLUMNS: usize = 31;

/// The line.
pub(super) struct Progress {
    bar: ProgressBar,
    what: String,
    bs: u64,
    begin: Instant,
    /// How long the order takes, where that is known.
    takes: Option<Duration>,
    ramp: Duration,
    seen: RefCell<Seen>,
}

impl Progress {
    /// A line that is not shown yet.
    pub(super) fn new() -> Progress {
        Progress {
            bar: ProgressBar::hidden(),
            what: String::new(),
            bs: 0,
            begin: Instant::now(),
            takes: None,
            ramp: Duration::ZERO,
            seen: RefCell::default(),
        }
    }

    /// Begins a line for an order.
    pub(super) fn begin(&mut self, order: Order, what: &str, bs: u64) {
        (self.takes, self.ramp) = match order {
            Order::Run(run) if !run.once => (Some(run.ramp + run.runtime), run.ramp),
            Order::Run(_) | Order::ReadBack => (None, Duration::ZERO),
        };
        self.bar = ProgressBar::new(1000);
        (self.what, self.bs, self.begin) = (what.into(), bs, Instant::now());
        self.seen = RefCell::default();
    }

    /// Shows how far all jobs are.
    pub(super) fn show(&self, told: &[Told]) {
        if self.bar.is_hidden() {
            return;
        }
        let sum = |of: fn(&Told) -> &AtomicU64| told.iter().map(|t| of(t).load(Relaxed)).sum::<u64>();
        let (done, of) = (sum(|t| &t.operations), sum(|t| &t.of));
        let passed = self.begin.elapsed();
        let Some(rate) = self.seen.borrow_mut().rate(passed, done) else { return };
        let part = match self.takes {
            Some(takes) => passed.as_secs_f64() / takes.as_secs_f64().max(1e-9),
            None => done as f64 / (of.max(1)) as f64,
        };
        let when = match self.takes {
            // What is under way at the end is waited for.
            Some(takes) if passed > takes + WINDOW => {
                format!("{} s are over, waiting for answers", takes.as_secs())
            }
            Some(takes) => format!("{} of {} s", passed.as_secs(), takes.as_secs()),
            None => format!("{} s", passed.as_secs()),
        };
        let ramp = if passed < self.ramp { ", ramp" } else { "" };
        let line = format!(
            "{}{}  {} IOPS  {}  {when}{ramp}",
            lost(told),
            self.what,
            text::count(rate),
            text::bandwidth(rate * self.bs as f64),
        );
        let columns = terminal::size().map_or(80, |(columns, _)| usize::from(columns));
        let template = if line.len() + BAR_COLUMNS < columns { "{bar:30} {msg}" } else { "{msg}" };
        self.bar.set_style(ProgressStyle::with_template(template).expect("the template is well-formed"));
        // Between 0 and 1000.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        self.bar.set_position((part.clamp(0.0, 1.0) * 1000.0) as u64);
        // A line that wraps would stay behind.
        self.bar.set_message(line.chars().take(columns.saturating_sub(1)).collect::<String>());
    }

    /// Takes the line away.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// What is wrong with the connections; first, so that it is seen on the narrowest terminal.
fn lost(told: &[Told]) -> String {
    let away: Vec<u64> = told.iter().map(|t| t.away_ms.load(Relaxed)).filter(|&ms| ms > 0).collect();
    let losses: u64 = told.iter().map(|t| t.losses.load(Relaxed)).sum();
    match away.iter().max() {
        Some(ms) if told.len() == 1 => format!("CONNECTION LOST {} s ago  ", ms / 1000),
        Some(ms) => format!("{} OF {} CONNECTIONS LOST {} s ago  ", away.len(), told.len(), ms / 1000),
        None if losses > 0 => format!("connections lost and back: {losses}  "),
        None => String::new(),
    }
}

/// What was seen lately.
#[derive(Debug, Default)]
struct Seen {
    /// When, since the beginning, and the commands done by then.
    looks: VecDeque<(Duration, u64)>,
    /// The rate that was shown.
    rate: f64,
}

impl Seen {
    /// Commands a second; `None` when it is too early to look again.
    fn rate(&mut self, now: Duration, done: u64) -> Option<f64> {
        let last = self.looks.back().copied().unwrap_or_default();
        if now < last.0 + PACE {
            return None;
        }
        // Counting begins again after the ramp.
        if done < last.1 {
            self.looks.clear();
        }
        self.looks.push_back((now, done));
        while self.looks.len() > 2 && self.looks[0].0 + WINDOW < now {
            self.looks.pop_front();
        }
        let (from, before) = self.looks[0];
        if from < now {
            self.rate = (done - before) as f64 / (now - from).as_secs_f64();
        }
        Some(self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_tells_late_does_not_make_the_rate_jump() {
        let mut seen = Seen::default();
        let ms = Duration::from_millis;
        // 1000 a second; every other look sees nothing new.
        let rates: Vec<f64> = (1..50).filter_map(|i| seen.rate(ms(i * 100), i / 2 * 200)).collect();
        assert_eq!(rates.len(), 49);
        assert!(rates[10..].iter().all(|rate| (800.0..=1200.0).contains(rate)), "{rates:?}");
        assert_eq!(seen.rate(ms(4950), 10_000), None);
    }

    #[test]
    fn a_lost_connection_is_told_as_long_as_it_is_away() {
        let told = [Told::default(), Told::default()];
        assert_eq!(lost(&told), "");
        told[1].losses.store(1, Relaxed);
        told[1].away_ms.store(3200, Relaxed);
        assert_eq!(lost(&told), "1 OF 2 CONNECTIONS LOST 3 s ago  ");
        assert_eq!(lost(&told[1..]), "CONNECTION LOST 3 s ago  ");
        told[1].away_ms.store(0, Relaxed);
        assert_eq!(lost(&told), "connections lost and back: 1  ");
    }
}
