//! Why something failed: [`Error`] for subsystems as a whole, [`Failure`] for one command.

use crate::SubmitError;
use dolmen_nvme::spec::Status;
use std::fmt;

/// What kind of failure, for code to decide on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The caller's options can't work.
    Options,
    /// The address can't be reached, or the connection was lost.
    Connection,
    /// The controller answered a command of the bring-up with an error status.
    Refused,
    /// The controller broke the protocol.
    Protocol,
    /// The controller was silent for too long.
    Timeout,
    /// The controller demands what we don't have (in-band authentication).
    Unsupported,
    /// The pool has no buffer for a connection's own needs.
    Memory,
}

/// Why an association ended or could not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// For code.
    pub kind: ErrorKind,
    /// What was tried on what, for people.
    pub context: String,
    /// The controller's status, when it gave one.
    pub status: Option<Status>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, context: impl Into<String>) -> Error {
        Error { kind, context: context.into(), status: None }
    }

    pub(crate) fn refused(what: &str, status: Status) -> Error {
        Error { kind: ErrorKind::Refused, context: format!("{what} was refused"), status: Some(status) }
    }

    /// True when trying again by itself cannot help: the set-up must change first.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self.kind {
            ErrorKind::Options | ErrorKind::Unsupported => true,
            ErrorKind::Refused => self.status.is_some_and(Status::dnr),
            _ => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)?;
        match self.status {
            Some(status) => write!(f, ": {status}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// Why one command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The controller says so.
    Status(Status),
    /// Its deadline passed. If it changes data and had been sent, nobody knows whether it was carried out; its
    /// association was closed, so that it cannot be carried out later than that.
    Expired,
    /// The controller was lost, and the command may not be sent twice, or the controller stayed away longer than
    /// [`Options::loss_timeout_ms`](crate::Options::loss_timeout_ms).
    Lost,
    /// The caller disconnected.
    Disconnected,
    /// It was not taken in the first place; only a [`Load`](crate::load::Load) reports this.
    NotTaken(SubmitError),
}

impl Failure {
    /// The status, when the controller gave one.
    #[must_use]
    pub fn status(self) -> Option<Status> {
        match self {
            Failure::Status(status) => Some(status),
            _ => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Status(status) => write!(f, "the controller answered {status}"),
            Failure::Expired => f.write_str("the deadline passed"),
            Failure::Lost => f.write_str("the connection to the controller was lost"),
            Failure::Disconnected => f.write_str("disconnected"),
            Failure::NotTaken(why) => fmt::Display::fmt(why, f),
        }
    }
}

impl std::error::Error for Failure {}
