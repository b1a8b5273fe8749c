//! The one error of the control side; its kinds are the codes of the management API (gRPC's, as REST maps them).

use crate::plane::{NoAnswer, PlaneError};
use std::fmt;

/// What sort of refusal it is; decides the code that an API client sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request is wrong in itself; the text names the field.
    InvalidArgument,
    /// No such object.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The caller may not do this.
    PermissionDenied,
    /// The caller isn't known.
    Unauthenticated,
    /// The ETag given isn't the object's.
    FailedPrecondition,
    /// A limit is reached, or space.
    ResourceExhausted,
    /// Another change is under way, or the store doesn't serve now; asking again may help.
    Unavailable,
    /// The answer didn't come in time; whether the change was made is not known yet.
    DeadlineExceeded,
    /// This version or a cluster of one node can't do that.
    Unimplemented,
    /// A defect or a failed file of ours.
    Internal,
}

/// Why a request to the control side failed. The text is for people and says what to do where that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What sort.
    pub kind: Kind,
    /// What was tried on what, and why not.
    pub text: String,
}

impl Error {
    /// An error of `kind` with its text.
    pub fn new(kind: Kind, text: impl Into<String>) -> Error {
        Error { kind, text: text.into() }
    }

    /// A wrong field: `field: why`.
    pub fn invalid(field: &str, why: impl fmt::Display) -> Error {
        Error::new(Kind::InvalidArgument, format!("{field}: {why}"))
    }

    /// A field that asks for what this version or one node can't do: `field: why`.
    pub fn unimplemented(field: &str, why: impl fmt::Display) -> Error {
        Error::new(Kind::Unimplemented, format!("{field}: {why}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

impl From<NoAnswer> for Error {
    fn from(why: NoAnswer) -> Error {
        let kind = match why {
            NoAnswer::TooSlow => Kind::DeadlineExceeded,
            NoAnswer::Gone => Kind::Unavailable,
        };
        Error::new(kind, why.to_string())
    }
}

impl From<PlaneError> for Error {
    fn from(why: PlaneError) -> Error {
        let kind = match &why {
            PlaneError::NotFound => Kind::NotFound,
            PlaneError::Conflict => Kind::FailedPrecondition,
            PlaneError::Exhausted(_) => Kind::ResourceExhausted,
            PlaneError::Unsupported(_) => Kind::Unimplemented,
            PlaneError::Unavailable(_) => Kind::Unavailable,
            PlaneError::Refused(_) => Kind::InvalidArgument,
        };
        Error::new(kind, why.to_string())
    }
}
