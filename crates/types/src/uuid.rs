//! RFC 9562 UUIDs as 16 plain bytes; making new ones takes randomness from the caller (the seam).

use std::{fmt, str::FromStr};

/// A UUID in network (big-endian, text) byte order, as NVMe puts it into NGUID and the UUID descriptor.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// The nil UUID, never the name of anything.
    pub const NIL: Uuid = Uuid([0; 16]);

    /// A version 4 (random) UUID from 16 random bytes.
    #[must_use]
    pub fn from_random(mut bytes: [u8; 16]) -> Uuid {
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Uuid(bytes)
    }

    /// True for the nil UUID.
    #[must_use]
    pub fn is_nil(&self) -> bool {
        *self == Uuid::NIL
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, b) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{b:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a UUID in its 36-character form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UuidError;

impl fmt::Display for UuidError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a UUID (want 8-4-4-4-12 hexadecimal digits)")
    }
}

impl std::error::Error for UuidError {}

impl FromStr for Uuid {
    type Err = UuidError;

    fn from_str(s: &str) -> Result<Self, UuidError> {
        let text = s.as_bytes();
        if text.len() != 36 || [8, 13, 18, 23].iter().any(|&i| text[i] != b'-') {
            return Err(UuidError);
        }
        let mut digits = text.iter().filter(|&&c| c != b'-').map(|&c| (c as char).to_digit(16));
        let mut out = [0u8; 16];
        for byte in &mut out {
            let (Some(Some(hi)), Some(Some(lo))) = (digits.next(), digits.next()) else {
                return Err(UuidError);
            };
            *byte = u8::try_from(hi * 16 + lo).map_err(|_| UuidError)?;
        }
        if digits.next().is_some() { Err(UuidError) } else { Ok(Uuid(out)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_round_trip() {
        let u = Uuid::from_random([0xff; 16]);
        assert_eq!(u.to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(u.to_string().parse(), Ok(u));
        assert_eq!("FFFFFFFF-ffff-4fff-bfff-ffffffffffff".parse(), Ok(u));
    }

    #[test]
    fn refuses_what_is_not_a_uuid() {
        for bad in [
            "",
            "ffffffff",
            "ffffffff-ffff-4fff-bfff-fffffffffff",
            "g0000000-0000-0000-0000-000000000000",
            "00000000000000000000-0000-0000-00000",
            "--------0000-0000-0000-000000000000",
        ] {
            assert_eq!(bad.parse::<Uuid>(), Err(UuidError), "{bad}");
        }
    }
}
