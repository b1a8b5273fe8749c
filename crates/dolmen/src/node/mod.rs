//! The daemon's data side: cores, drives, volumes and the target.

use crate::config::ServeOptions;
use std::{fmt, path::Path, process::ExitCode};

/// Why the daemon can't serve.
#[derive(Debug)]
pub struct ServeError(String);

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ServeError {}

/// Runs the daemon until it is told to stop.
pub fn serve(_options: ServeOptions) -> Result<ExitCode, ServeError> {
    Err(ServeError("this build has no data plane".into()))
}

/// Makes a drive blank again, so that `serve` takes it. The caller has the user's word for it.
pub fn wipe_drive(_path: &Path) -> Result<(), ServeError> {
    Err(ServeError("this build has no data plane".into()))
}
