//! What a load counts.

use super::{histogram::Histogram, model::Violation, runner::Work};
use crate::Failure;

/// What was counted.
#[derive(Clone, Debug, Default)]
pub struct LoadStats {
    /// Reads that succeeded.
    pub reads: u64,
    /// Changes that succeeded.
    pub changes: u64,
    /// Data of both. Bytes.
    pub bytes: u64,
    /// Commands that failed.
    pub errors: u64,
    /// The first failure.
    pub first_error: Option<Failure>,
    /// Blocks that held what they cannot hold.
    pub violations: u64,
    /// The first of them.
    pub first_violation: Option<Violation>,
    /// Latencies of reads, submit to completion, or from when they were due if there is a rate; with what was late at the end, by
    /// [`Load::count_open`](super::Load::count_open). Nanoseconds.
    pub read_latency: Histogram,
    /// Latencies of changes. Nanoseconds.
    pub change_latency: Histogram,
    /// Commands that succeeded, queue by queue.
    pub by_queue: Vec<u64>,
}

impl LoadStats {
    /// Where the latency of such a command is counted.
    pub(super) fn latency_of(&mut self, work: Work) -> &mut Histogram {
        match work {
            Work::Read => &mut self.read_latency,
            Work::Write | Work::Zero => &mut self.change_latency,
        }
    }
}
