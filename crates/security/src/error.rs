//! Why a key, certificate or token file can't be made or used.

use std::{fmt, io, path::PathBuf};

/// Why a key, certificate or token file can't be made or used.
#[derive(Debug)]
pub enum Error {
    /// The file can't be read or written.
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is there but holds something else.
    Damaged {
        /// Which.
        path: PathBuf,
        /// What it should hold, and what is wrong.
        what: String,
    },
    /// The file holds what must not be replaced, or is needed and not what it should be.
    Key {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what to do.
        what: String,
    },
    /// The cryptographic library refused.
    Crypto(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::File { path, source } => write!(f, "{}: {source}", path.display()),
            Error::Damaged { path, what } => write!(
                f,
                "{} is damaged: {what}; put back a copy, or remove it and start again to have a new one made",
                path.display()
            ),
            Error::Key { path, what } => write!(f, "{}: {what}", path.display()),
            Error::Crypto(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::File { source, .. } => Some(source),
            _ => None,
        }
    }
}
