//! The daemon: cores with their drives, volumes and targets on one side, the management API on the other, and the order
//! in which they start and stop.
//!
//! - [`cores`]: the threads of the cores, and how they are asked. What runs on them is `dolmen_core`.
//! - [`boot`]: drives, pool, recovery, volumes, in that order; nothing listens before.
//! - [`router`]: carries out what the control side asks, and keeps the table of namespaces.
//! - [`keys`]: the cluster key, and what it unlocks.
//! - [`drive_ops`]: drives that come and go; [`settings`]: what of that the next start has to know.
//! - [`watch`]: what is told unasked. [`traces`]: where commands spent their time.
//!
//! How cores are told what to do is public so that whole nodes can be run over a simulated world.

pub mod boot;
pub mod cores;
mod drive_ops;
pub mod keys;
mod locate;
pub(crate) mod losses;
mod offline;
mod ports;
mod release;
pub mod router;
mod scrubbing;
mod sequence;
mod serve;
mod settings;
mod tell;
pub mod traces;
mod watch;
mod wipe;

pub use offline::{Checked, KeyPlace, Recovery, check, recover};
pub use serve::serve;
pub use wipe::{DriveIdentity, identify_drive, wipe_drive};

use std::fmt;

/// Why the daemon can't serve; the text says what was tried and what to do.
#[derive(Debug)]
pub struct ServeError {
    text: String,
    denied: bool,
}

impl ServeError {
    pub(crate) fn new(text: impl Into<String>) -> ServeError {
        ServeError { text: text.into(), denied: false }
    }

    /// Of somebody who may not do that.
    pub(crate) fn denied(error: impl fmt::Display) -> ServeError {
        ServeError { text: error.to_string(), denied: true }
    }

    pub(crate) fn config(error: impl fmt::Display) -> ServeError {
        ServeError::new(format!("configuration: {error}"))
    }

    pub(crate) fn system(error: impl fmt::Display) -> ServeError {
        ServeError::new(error.to_string())
    }

    /// True where another user may do it.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.denied
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ServeError {}
