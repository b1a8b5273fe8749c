//! Sizes as people write them: `10GiB`, `4 gib`, `1073741824b`.

use std::{fmt, str::FromStr};

/// A size in bytes, with the text form that the command line, the configuration file and the API share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// Why a text is not a size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SizeError {
    /// No digits, or something that is neither a number nor a known unit.
    Malformed(String),
    /// A bare number where a unit is demanded.
    UnitMissing(String),
    /// More than 64 bits of bytes.
    TooLarge(String),
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SizeError::Malformed(t) => {
                write!(f, "'{t}' is not a size; write a number and a unit, as in 10GiB")
            }
            SizeError::UnitMissing(t) => write!(f, "'{t}' has no unit; write for instance {t}GiB or {t}B"),
            SizeError::TooLarge(t) => write!(f, "'{t}' is more than 64 bits of bytes"),
        }
    }
}

impl std::error::Error for SizeError {}

impl ByteSize {
    /// Parses a size whose unit may be missing (plain bytes), as API clients send it.
    pub fn parse_lenient(text: &str) -> Result<ByteSize, SizeError> {
        parse(text, Some(1))
    }
}

fn parse(text: &str, bare_unit: Option<u64>) -> Result<ByteSize, SizeError> {
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (digits, unit) = (&trimmed[..split], trimmed[split..].trim_start().to_ascii_lowercase());
    if digits.is_empty() {
        return Err(SizeError::Malformed(text.into()));
    }
    let factor: u64 = match unit.as_str() {
        "" => bare_unit.ok_or_else(|| SizeError::UnitMissing(text.into()))?,
        "b" => 1,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        "tib" | "t" => 1 << 40,
        "pib" | "p" => 1 << 50,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "pb" => 1_000_000_000_000_000,
        _ => return Err(SizeError::Malformed(text.into())),
    };
    let number: u64 = digits.parse().map_err(|_| SizeError::TooLarge(text.into()))?;
    number.checked_mul(factor).map(ByteSize).ok_or_else(|| SizeError::TooLarge(text.into()))
}

impl FromStr for ByteSize {
    type Err = SizeError;

    /// Parses a size; a unit is demanded.
    fn from_str(s: &str) -> Result<Self, SizeError> {
        parse(s, None)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u32); 5] = [("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        for (name, shift) in UNITS {
            let unit = 1u64 << shift;
            if self.0 >= unit {
                let tenths = (u128::from(self.0) * 10 + u128::from(unit / 2)) / u128::from(unit);
                return if tenths.is_multiple_of(10) {
                    write!(f, "{} {name}", tenths / 10)
                } else {
                    write!(f, "{}.{} {name}", tenths / 10, tenths % 10)
                };
            }
        }
        write!(f, "{} B", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_clients_send() {
        assert_eq!("10GiB".parse(), Ok(ByteSize(10 << 30)));
        assert_eq!("1 gib".parse(), Ok(ByteSize(1 << 30)));
        assert_eq!("2gb".parse(), Ok(ByteSize(2_000_000_000)));
        assert_eq!(ByteSize::parse_lenient("1073741824b"), Ok(ByteSize(1 << 30)));
        assert_eq!(ByteSize::parse_lenient("4096"), Ok(ByteSize(4096)));
    }

    #[test]
    fn refuses_with_a_reason() {
        assert_eq!("10".parse::<ByteSize>(), Err(SizeError::UnitMissing("10".into())));
        assert!(matches!("GiB".parse::<ByteSize>(), Err(SizeError::Malformed(_))));
        assert!(matches!("-1GiB".parse::<ByteSize>(), Err(SizeError::Malformed(_))));
        assert!(matches!("99999999999PiB".parse::<ByteSize>(), Err(SizeError::TooLarge(_))));
    }

    #[test]
    fn shows_for_people() {
        assert_eq!(ByteSize(0).to_string(), "0 B");
        assert_eq!(ByteSize(1536).to_string(), "1.5 KiB");
        assert_eq!(ByteSize(10 << 30).to_string(), "10 GiB");
    }
}
