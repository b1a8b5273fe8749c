//! How a command ends: exit codes, and errors that say what to do.

use serde_json::{Value, json};
use std::{fmt, process::ExitCode};

/// Exit codes, as `dolmen --help` documents them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// Failed or refused.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The object does not exist.
    NotFound = 3,
    /// The name is taken, or the object changed in between.
    Conflict = 4,
    /// No daemon answers.
    Unreachable = 5,
    /// The token is missing, expired or lacks the role.
    NotPermitted = 6,
    /// Can't be done now.
    TryAgain = 7,
    /// A check found damage, all of which can be repaired.
    Repairable = 8,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CliError {
    /// With what the process ends.
    pub(crate) exit: Exit,
    /// What was tried, and why not.
    pub(crate) text: String,
    /// What to do.
    pub(crate) hint: Option<String>,
}

impl CliError {
    pub(crate) fn new(exit: Exit, text: impl Into<String>) -> CliError {
        CliError { exit, text: text.into(), hint: None }
    }

    pub(crate) fn usage(text: impl Into<String>) -> CliError {
        CliError::new(Exit::Usage, text)
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> CliError {
        CliError { hint: Some(hint.into()), ..self }
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        json!({"error": self.text, "hint": self.hint, "exitCode": self.exit as u8})
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.text)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}
