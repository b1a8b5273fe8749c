//! What comes out: one line for each figure, with its budget.

pub(super) use crate::verdict::{Budget, Verdict as Figure};
use serde::Serialize;
use std::fmt;

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
            writeln!(f, "{figure}")?;
        }
        Ok(())
    }
}
