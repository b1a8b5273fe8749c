//! NVMe Qualified Names (NVM Express Base Specification 2.0, section 4.5).

use crate::Uuid;
use std::{fmt, str::FromStr};

/// A well-formed NQN: `nqn.yyyy-mm.reverse-domain[:text]`, at most 223 bytes of UTF-8 without control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nqn(Box<str>);

impl Nqn {
    /// Longest NQN in bytes, without the terminating zero of its 256-byte field.
    pub const MAX_BYTES: usize = 223;
    /// The well-known discovery subsystem.
    pub const DISCOVERY: &'static str = "nqn.2014-08.org.nvmexpress.discovery";

    /// What hosts' own names begin with (section 4.5.1): a UUID follows, and nothing else.
    pub const UUID_PREFIX: &'static str = "nqn.2014-08.org.nvmexpress:uuid:";

    /// The name of a host that is to be admitted. One that says to have a UUID must have one: no host is called by what only stands
    /// for it, and a list with such a name admits nobody without a word.
    pub fn of_host(text: &str) -> Result<Nqn, NqnError> {
        match text.strip_prefix(Nqn::UUID_PREFIX) {
            Some(uuid) if uuid.parse::<Uuid>().is_err() => Err(NqnError::NoUuid),
            _ => text.parse(),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Parses the zero-terminated, zero-padded field of a Connect command's data.
    pub fn from_field(field: &[u8]) -> Result<Nqn, NqnError> {
        let end = field.iter().position(|&b| b == 0).ok_or(NqnError::Malformed)?;
        std::str::from_utf8(&field[..end]).map_err(|_| NqnError::Malformed)?.parse()
    }
}

/// Why a text is no NVMe Qualified Name, or not one of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NqnError {
    /// Not well-formed.
    Malformed,
    /// It says to have a UUID, and has none.
    NoUuid,
}

impl fmt::Display for NqnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NqnError::Malformed => "not an NQN (want nqn.YYYY-MM.reverse.domain[:name], at most 223 bytes)",
            NqnError::NoUuid => {
                "not a host's NQN (want a whole UUID after ':uuid:', as the host's /etc/nvme/hostnqn has it)"
            }
        })
    }
}

impl std::error::Error for NqnError {}

impl FromStr for Nqn {
    type Err = NqnError;

    fn from_str(s: &str) -> Result<Self, NqnError> {
        let b = s.as_bytes();
        let digits = |r: std::ops::Range<usize>| b[r].iter().all(u8::is_ascii_digit);
        let well_formed = b.len() > 12
            && b.len() <= Nqn::MAX_BYTES
            && b.starts_with(b"nqn.")
            && digits(4..8)
            && b[8] == b'-'
            && digits(9..11)
            && b[11] == b'.'
            && !s.chars().any(|c| c.is_control() || c.is_whitespace());
        if well_formed { Ok(Nqn(s.into())) } else { Err(NqnError::Malformed) }
    }
}

impl fmt::Display for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_usual_forms() {
        for good in [
            Nqn::DISCOVERY,
            "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-000000000000",
            "nqn.2016-01.com.lightbitslabs:uuid:x",
        ] {
            assert_eq!(good.parse::<Nqn>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn refuses_the_rest() {
        let long = format!("nqn.2014-08.org.{}", "x".repeat(208));
        for bad in
            ["", "nqn.", "nqn.2014-08.", "iqn.2014-08.org.a", "nqn.2o14-08.org.a", "nqn.2014-08.a b", &long]
        {
            assert!(bad.parse::<Nqn>().is_err(), "{bad}");
            assert!(Nqn::of_host(bad).is_err(), "{bad}");
        }
        assert!(Nqn::from_field(&[b'a'; 256]).is_err());
    }

    /// What stands for a UUID in a manual is no host.
    #[test]
    fn a_host_that_says_to_have_a_uuid_has_one() {
        let uuid = "00000000-0000-4000-8000-000000000000";
        for good in [&format!("{}{uuid}", Nqn::UUID_PREFIX), "nqn.2016-01.com.lightbitslabs:uuid:x"] {
            assert_eq!(Nqn::of_host(good).unwrap().as_str(), good);
        }
        for rest in ["...", "XYZ", "", &uuid[1..], &format!("{uuid}0")] {
            let bad = format!("{}{rest}", Nqn::UUID_PREFIX);
            assert_eq!(Nqn::of_host(&bad), Err(NqnError::NoUuid), "{bad}");
        }
    }
}
