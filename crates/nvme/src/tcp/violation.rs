//! Fatal transport errors and the terminate requests that report them (TCP 3.6.2.4, 3.6.2.5).

use super::pdu::TermReqHeader;
use std::fmt;
use zerocopy::FromBytes;

/// FES: Fatal Error Status (TCP figures 28, 30).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fes {
    /// 01h.
    InvalidHeaderField,
    /// 02h.
    PduSequence,
    /// 03h.
    HeaderDigest,
    /// 04h.
    DataOutOfRange,
    /// 05h: more data than allowed, or more R2Ts than MAXR2T.
    LimitExceeded,
    /// 06h.
    UnsupportedParameter,
}

impl Fes {
    /// The code.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Fes::InvalidHeaderField => 1,
            Fes::PduSequence => 2,
            Fes::HeaderDigest => 3,
            Fes::DataOutOfRange => 4,
            Fes::LimitExceeded => 5,
            Fes::UnsupportedParameter => 6,
        }
    }

    /// The status of a code.
    #[must_use]
    pub const fn from_code(code: u16) -> Option<Fes> {
        Some(match code {
            1 => Fes::InvalidHeaderField,
            2 => Fes::PduSequence,
            3 => Fes::HeaderDigest,
            4 => Fes::DataOutOfRange,
            5 => Fes::LimitExceeded,
            6 => Fes::UnsupportedParameter,
            _ => return None,
        })
    }
}

impl fmt::Display for Fes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fes::InvalidHeaderField => "Invalid PDU Header Field",
            Fes::PduSequence => "PDU Sequence Error",
            Fes::HeaderDigest => "Header Digest Error",
            Fes::DataOutOfRange => "Data Transfer Out of Range",
            Fes::LimitExceeded => "Data Transfer Limit Exceeded",
            Fes::UnsupportedParameter => "Unsupported Parameter",
        })
    }
}

/// What the peer did wrong; the connection is beyond use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The status to report.
    pub fes: Fes,
    /// FEI: the offset of the field for [`Fes::InvalidHeaderField`] and [`Fes::UnsupportedParameter`], the digest that
    /// came for [`Fes::HeaderDigest`], else 0.
    pub fei: u32,
    /// What was wrong, for people.
    pub what: &'static str,
}

impl Violation {
    pub(crate) const fn field(offset: u32, what: &'static str) -> Violation {
        Violation { fes: Fes::InvalidHeaderField, fei: offset, what }
    }

    pub(crate) const fn unsupported(offset: u32, what: &'static str) -> Violation {
        Violation { fes: Fes::UnsupportedParameter, fei: offset, what }
    }

    pub(crate) const fn of(fes: Fes, what: &'static str) -> Violation {
        Violation { fes, fei: 0, what }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, information {:x}h)", self.what, self.fes, self.fei)
    }
}

impl std::error::Error for Violation {}

/// What a terminate request of the peer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermReason {
    /// FES as it came.
    pub code: u16,
    /// FEI as it came.
    pub fei: u32,
}

impl TermReason {
    /// Reads a terminate request; one that is cut short says nothing (code 0).
    pub(crate) fn of(header: &[u8]) -> TermReason {
        match TermReqHeader::read_from_prefix(header) {
            Ok((header, _)) => TermReason { code: header.status.get(), fei: header.info.get() },
            Err(_) => TermReason { code: 0, fei: 0 },
        }
    }
}

impl fmt::Display for TermReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Fes::from_code(self.code) {
            Some(fes) => write!(f, "the peer ended the connection: {fes}, information {:x}h", self.fei),
            None => {
                write!(
                    f,
                    "the peer ended the connection: status {:x}h, information {:x}h",
                    self.code, self.fei
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip() {
        for code in 0..=16 {
            assert_eq!(Fes::from_code(code).map(Fes::code), (1..=6).contains(&code).then_some(code));
        }
    }
}
