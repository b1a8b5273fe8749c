//! What comes out: one line for each figure, with its budget.

use crate::report::Spread;
use serde::Serialize;
use std::fmt;

/// On which side of its bound a figure has to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Budget {
    /// This much or more.
    AtLeast(f64),
    /// This much or less.
    AtMost(f64),
    /// It is shown and not judged.
    None,
}

/// One figure: its median over the rounds, and its spread.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// What was measured.
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) value: Spread,
    pub(crate) budget: Budget,
    /// Whether the median keeps the budget; `None` without one.
    pub(crate) kept: Option<bool>,
    /// What it is made of, for people.
    pub(crate) parts: String,
}

impl Figure {
    pub(crate) fn new(
        name: impl Into<String>,
        unit: &'static str,
        values: &[f64],
        budget: Budget,
        parts: String,
    ) -> Option<Figure> {
        let value = Spread::of(values.iter().copied())?;
        let kept = match budget {
            Budget::AtLeast(bound) => Some(value.median >= bound),
            Budget::AtMost(bound) => Some(value.median <= bound),
            Budget::None => None,
        };
        Some(Figure { name: name.into(), unit, value, budget, kept, parts })
    }
}

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) rounds: u32,
    pub(crate) runtime_s: f64,
    pub(crate) cpu: usize,
    pub(crate) figures: Vec<Figure>,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "store, CPU {}, {} rounds of {} s each; medians (least to most)",
            self.cpu, self.rounds, self.runtime_s
        )?;
        for figure in &self.figures {
            let Figure { name, unit, value, budget, kept, parts } = figure;
            let digits = if value.median.abs() < 10.0 { 3 } else { 0 };
            let range = format!("({:.digits$} to {:.digits$})", value.min, value.max);
            let bound = match budget {
                Budget::AtLeast(bound) => format!(">= {bound}"),
                Budget::AtMost(bound) => format!("<= {bound}"),
                Budget::None => String::new(),
            };
            let verdict = match kept {
                Some(true) => "ok",
                Some(false) => "MISSED",
                None => "",
            };
            writeln!(
                f,
                "{name:<50} {:>9.digits$} {unit:<5} {range:<22} {bound:>9} {verdict:<6}  {parts}",
                value.median
            )?;
        }
        Ok(())
    }
}
