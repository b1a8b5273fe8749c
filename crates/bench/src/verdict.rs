//! A figure with its budget: what was asked for, what was reached, and whether that is enough.

use crate::sample::Spread;
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

impl Budget {
    fn keeps(self, value: f64) -> Option<bool> {
        match self {
            Budget::AtLeast(bound) => Some(value >= bound),
            Budget::AtMost(bound) => Some(value <= bound),
            Budget::None => None,
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Budget::AtLeast(bound) => format!(">= {bound}"),
            Budget::AtMost(bound) => format!("<= {bound}"),
            Budget::None => String::new(),
        };
        f.pad(&text)
    }
}

/// One figure, its median over the rounds and its spread, judged.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Verdict {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) value: Spread,
    pub(crate) budget: Budget,
    /// Whether the median keeps the budget; `None` without one.
    pub(crate) kept: Option<bool>,
    /// Values it is the median of.
    pub(crate) rounds: usize,
    /// What it is made of, for people.
    pub(crate) parts: String,
}

impl Verdict {
    /// `None` without any value.
    pub(crate) fn new(
        name: impl Into<String>,
        unit: &'static str,
        values: &[f64],
        budget: Budget,
        parts: impl Into<String>,
    ) -> Option<Verdict> {
        let value = Spread::of(values.iter().copied())?;
        let kept = budget.keeps(value.median);
        Some(Verdict {
            name: name.into(),
            unit,
            value,
            budget,
            kept,
            rounds: values.len(),
            parts: parts.into(),
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { name, unit, value, budget, kept, rounds, parts } = self;
        let digits = match value.median.abs() {
            0.0..10.0 => 3,
            10.0..1000.0 => 1,
            _ => 0,
        };
        let range = format!("({:.digits$} to {:.digits$}, {rounds})", value.min, value.max);
        let word = match kept {
            Some(true) => "ok",
            Some(false) => "MISSED",
            None => "",
        };
        let line = format!(
            "{name:<62} {:>9.digits$} {unit:<5} {range:<25} {budget:<8} {word:<6} {parts}",
            value.median
        );
        f.write_str(line.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_judged() {
        let judged = |budget| Verdict::new("x", "", &[0.8, 0.9, 1.0], budget, "").unwrap().kept;
        assert_eq!(judged(Budget::AtLeast(0.9)), Some(true));
        assert_eq!(judged(Budget::AtLeast(0.91)), Some(false));
        assert_eq!(judged(Budget::AtMost(0.89)), Some(false));
        assert_eq!(judged(Budget::None), None);
        assert!(Verdict::new("x", "", &[], Budget::None, "").is_none());
    }

    #[test]
    fn a_line_says_what_was_missed() {
        let verdict = Verdict::new("ours / floor", "", &[0.5], Budget::AtLeast(0.85), "").unwrap();
        let line = verdict.to_string();
        assert!(line.starts_with("ours / floor ") && line.ends_with(">= 0.85  MISSED"), "{line}");
    }
}
