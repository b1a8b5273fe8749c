//! Reading and writing of the small binary records of this crate. Little-endian; reading never panics.

/// Why a stored record was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DecodeError {
    /// Written by a newer version of the product.
    Newer {
        /// The version found.
        version: u16,
    },
    /// Damaged: too short, too long, or with a value that has no meaning.
    Malformed,
}

/// Takes values off the front of a record.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn bytes(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        let (front, rest) = self.0.split_at_checked(n).ok_or(DecodeError::Malformed)?;
        self.0 = rest;
        Ok(front)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.bytes(N)?.try_into().map_err(|_| DecodeError::Malformed)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length byte and that much UTF-8.
    pub(crate) fn text(&mut self) -> Result<&'a str, DecodeError> {
        let len = self.u8()?;
        std::str::from_utf8(self.bytes(usize::from(len))?).map_err(|_| DecodeError::Malformed)
    }

    /// Everything has been read.
    pub(crate) fn end(self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Malformed) }
    }
}

/// Appends a length byte and the text.
///
/// # Panics
/// When the text is longer than 255 bytes; callers have checked their limits.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).expect("texts in records are limited to 255 bytes"));
    out.extend_from_slice(text.as_bytes());
}
