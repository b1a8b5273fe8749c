//! ASCII fields of fixed length, filled up with blanks (Base 1.4.2) or zeroes.

/// Writes `text` left-justified into `field` and fills the rest with `fill` (a blank for serial, model, firmware,
/// address and port fields; 0 for NQNs). What doesn't fit is cut.
pub fn set_padded_ascii(field: &mut [u8], text: &str, fill: u8) {
    let n = text.len().min(field.len());
    field[..n].copy_from_slice(&text.as_bytes()[..n]);
    field[n..].fill(fill);
}

/// The text of `field` up to its first zero and without trailing blanks; bytes that are not printable ASCII (which
/// only a broken peer sends) are shown as `?`.
#[must_use]
pub fn padded_ascii(field: &[u8]) -> String {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    let shown = |b: &u8| if (0x20..0x7f).contains(b) { char::from(*b) } else { '?' };
    field[..end].iter().map(shown).collect::<String>().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pads_cuts_and_reads_back() {
        let mut field = [0xffu8; 8];
        set_padded_ascii(&mut field, "abc", b' ');
        assert_eq!(&field, b"abc     ");
        assert_eq!(padded_ascii(&field), "abc");
        set_padded_ascii(&mut field, "0123456789", 0);
        assert_eq!(padded_ascii(&field), "01234567");
        assert_eq!(padded_ascii(b"a\xffb\0zz"), "a?b");
    }
}
