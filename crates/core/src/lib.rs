//! One core of a node: its loop, and the target, the NBD door, the volumes and the store that live on it.
//!
//! - [`Core`]: the composition, and the one place that says who is called when in a turn.
//! - [`message`]: what cores, and the control side and a core, say to each other.
//! - [`report`]: what a core tells about itself.
//!
//! Nothing here knows who drives a core, what waits for its answers or which world is behind the seam: the daemon runs one per
//! thread over io_uring, tests several in one thread over a simulated world, the guard one over memory.
#![forbid(unsafe_code)]

mod core;
pub mod message;
pub mod report;

pub use crate::core::{Core, EXEC, home_core, why_not_opened};
