//! The line that moves while a run goes on; only where stderr is a terminal.

use super::{
    job::{Order, Told},
    text,
};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    cell::Cell,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

/// The line.
pub(super) struct Progress {
    bar: ProgressBar,
    what: String,
    bs: u64,
    begin: Instant,
    /// How long the order takes, where that is known.
    takes: Option<Duration>,
    ramp: Duration,
    /// When it was last shown, and the commands done by then.
    last: Cell<(Instant, u64)>,
}

impl Progress {
    /// A line that is not shown yet.
    pub(super) fn new() -> Progress {
        let now = Instant::now();
        Progress {
            bar: ProgressBar::hidden(),
            what: String::new(),
            bs: 0,
            begin: now,
            takes: None,
            ramp: Duration::ZERO,
            last: Cell::new((now, 0)),
        }
    }

    /// Begins a line for an order.
    pub(super) fn begin(&mut self, order: Order, what: &str, bs: u64) {
        (self.takes, self.ramp) = match order {
            Order::Run(run) if !run.once => (Some(run.ramp + run.runtime), run.ramp),
            Order::Run(_) | Order::ReadBack => (None, Duration::ZERO),
        };
        let template = "{bar:30} {msg}";
        let style = ProgressStyle::with_template(template).expect("the template is well-formed");
        self.bar = ProgressBar::new(1000).with_style(style);
        (self.what, self.bs, self.begin) = (what.into(), bs, Instant::now());
        self.last.set((self.begin, 0));
    }

    /// Shows how far all jobs are.
    pub(super) fn show(&self, told: &[Told]) {
        if self.bar.is_hidden() {
            return;
        }
        let (now, passed) = (Instant::now(), self.begin.elapsed());
        let done: u64 = told.iter().map(|t| t.operations.load(Relaxed)).sum();
        let of: u64 = told.iter().map(|t| t.of.load(Relaxed)).sum();
        let (then, before) = self.last.get();
        if now - then < Duration::from_millis(90) {
            return;
        }
        self.last.set((now, done));
        // Counting begins again after the ramp.
        let rate = done.saturating_sub(before) as f64 / (now - then).as_secs_f64();
        let part = match self.takes {
            Some(takes) => passed.as_secs_f64() / takes.as_secs_f64().max(1e-9),
            None => done as f64 / (of.max(1)) as f64,
        };
        let when = match self.takes {
            Some(takes) => format!("{} of {} s", passed.as_secs(), takes.as_secs()),
            None => format!("{} s", passed.as_secs()),
        };
        let ramp = if passed < self.ramp { ", ramp" } else { "" };
        // Between 0 and 1000.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        self.bar.set_position((part.clamp(0.0, 1.0) * 1000.0) as u64);
        let lost: u64 = told.iter().map(|t| t.losses.load(Relaxed)).sum();
        let lost = if lost > 0 { format!(", {lost} connections lost") } else { String::new() };
        self.bar.set_message(format!(
            "{}  {} IOPS  {}  {when}{ramp}{lost}",
            self.what,
            text::count(rate),
            text::bandwidth(rate * self.bs as f64),
        ));
    }

    /// Takes the line away.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
