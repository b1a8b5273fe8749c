//! Makes load on a subsystem, measures it, and verifies what it reads.
//!
//! [`Load`] is the loop; [`Histogram`] counts its latencies; [`Model`] and [`Stamp`] are what a verified load checks
//! against. All of it is deterministic for a given seed and order of completions.

mod histogram;
mod model;
mod options;
mod pace;
mod rng;
mod runner;
mod shuffle;
mod stamp;
mod stats;

pub use histogram::Histogram;
pub use model::{Change, Model, Violation};
pub use options::{LoadError, LoadOptions, Mix, Pattern, Skew, Start};
pub use rng::Rng;
pub use runner::Load;
pub use stamp::{Found, STAMP_BYTES, Stamp, inspect};
pub use stats::LoadStats;
