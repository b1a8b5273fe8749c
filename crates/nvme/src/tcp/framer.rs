//! The sending half that both sides share: completes a header, adds its digest and padding, seals data.

use super::negotiate::alignment_bytes;
use super::pdu::{CommonHeader, DIGEST_BYTES, PduKind, TermReqHeader, flags};
use super::violation::Violation;
use dolmen_kernels::{Crc32c, crc32c};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Which digests a connection uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// Behind every header.
    pub header: bool,
    /// Behind all data.
    pub data: bool,
}

impl Digests {
    /// No digests.
    pub const NONE: Digests = Digests { header: false, data: false };
    /// Both digests.
    pub const BOTH: Digests = Digests { header: true, data: true };

    /// The DGST field.
    #[must_use]
    pub fn bits(self) -> u8 {
        u8::from(self.header) | u8::from(self.data) << 1
    }

    /// Reads the DGST field; other bits are reserved and ignored.
    #[must_use]
    pub fn from_bits(bits: u8) -> Digests {
        Digests { header: bits & 1 != 0, data: bits & 2 != 0 }
    }

    /// The digests that both want.
    #[must_use]
    pub fn and(self, other: Digests) -> Digests {
        Digests { header: self.header && other.header, data: self.data && other.data }
    }

    pub(crate) fn header_bytes(self) -> usize {
        if self.header { DIGEST_BYTES } else { 0 }
    }
}

/// CRC-32C over data that lies in several pieces (scattered sends, where `finish_data` can't be used).
#[derive(Clone, Copy, Debug, Default)]
pub struct DataDigest(Crc32c);

impl DataDigest {
    /// The digest of no data yet.
    #[must_use]
    pub fn new() -> DataDigest {
        DataDigest::default()
    }

    /// Goes on over `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest as it stands on the wire.
    #[must_use]
    pub fn finish(&self) -> [u8; DIGEST_BYTES] {
        self.0.value().to_le_bytes()
    }
}

/// A header as it lies in memory.
pub(crate) trait Pdu: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned + Copy {}

impl<T: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned + Copy> Pdu for T {}

/// How this side frames what it sends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Framer {
    digests: Digests,
    alignment: usize,
}

impl Framer {
    /// `alignment` is the peer's HPDA or CPDA field.
    pub(crate) fn new(digests: Digests, alignment: u8) -> Framer {
        Framer { digests, alignment: alignment_bytes(alignment) }
    }

    /// Length of a digested PDU's header before data, with digest and padding. Bytes.
    pub(crate) fn header_bytes<T: Pdu>(&self) -> usize {
        (size_of::<T>() + self.digests.header_bytes()).next_multiple_of(self.alignment)
    }

    /// Writes a digested PDU's header, with digest and padding, for `data_len` bytes of data (0: no data). `pdu`
    /// starts with a common header whose kind, HLEN and own flags are set.
    ///
    #[inline(always)]
    pub(crate) fn header<T: Pdu>(&self, out: &mut [u8], pdu: &T, data_len: u32) -> Option<usize> {
        self.header_with(out, data_len, |place| *place = *pdu)
    }

    /// The same for a header that `fill` makes.
    ///
    /// Inlined, so that the fields go straight where they belong: a header that is made in one place and copied to another right away
    /// costs a stall of the store buffer for each of its words.
    #[inline(always)]
    pub(crate) fn header_with<T: Pdu>(
        &self,
        out: &mut [u8],
        data_len: u32,
        fill: impl FnOnce(&mut T),
    ) -> Option<usize> {
        const { assert!(size_of::<T>() >= size_of::<CommonHeader>() && size_of::<T>() <= 128) };
        if self.digests != Digests::NONE || (data_len > 0 && self.alignment != 4) {
            let mut pdu = T::new_zeroed();
            fill(&mut pdu);
            return self.long_header(out, pdu.as_bytes(), data_len);
        }
        const { assert!(size_of::<T>().is_multiple_of(4)) };
        let head = out.get_mut(..size_of::<T>())?;
        fill(T::mut_from_bytes(head).ok()?);
        let start = u8::try_from(size_of::<T>()).ok()?;
        if data_len > 0 {
            head[3] = start;
        }
        head[4..8].copy_from_slice(&u32::from(start).checked_add(data_len)?.to_le_bytes());
        Some(size_of::<T>())
    }

    /// The same with digests or padding.
    #[inline(never)]
    fn long_header(&self, out: &mut [u8], pdu: &[u8], data_len: u32) -> Option<usize> {
        let bare = pdu.len() + self.digests.header_bytes();
        let start = if data_len == 0 { bare } else { bare.next_multiple_of(self.alignment) };
        let written = out.get_mut(..start)?;
        let (head, rest) = written.split_at_mut(pdu.len());
        head.copy_from_slice(pdu);
        head[1] |= if self.digests.header { flags::HEADER_DIGEST } else { 0 };
        let mut total = u32::try_from(start).ok()?.checked_add(data_len)?;
        if data_len > 0 {
            head[3] = u8::try_from(start).ok()?;
            if self.digests.data {
                head[1] |= flags::DATA_DIGEST;
                total = total.checked_add(u32::try_from(DIGEST_BYTES).ok()?)?;
            }
        }
        head[4..8].copy_from_slice(&total.to_le_bytes());
        rest.fill(0);
        if self.digests.header {
            let digest = crc32c(head).to_le_bytes();
            rest[..DIGEST_BYTES].copy_from_slice(&digest);
        }
        Some(start)
    }

    /// Writes the digest behind `data_len` bytes of data at the start of `data`; how many bytes it took.
    pub(crate) fn finish(&self, data: &mut [u8], data_len: usize) -> Option<usize> {
        if !self.digests.data || data_len == 0 {
            return Some(0);
        }
        let (payload, digest) = data.get_mut(..data_len.checked_add(DIGEST_BYTES)?)?.split_at_mut(data_len);
        digest.copy_from_slice(&crc32c(payload).to_le_bytes());
        Some(DIGEST_BYTES)
    }
}

/// Writes a terminate request that reports `violation` of the PDU whose header (as far as it came) is `offender`.
pub(crate) fn term_req(
    kind: PduKind,
    out: &mut [u8],
    violation: &Violation,
    offender: &[u8],
) -> Option<usize> {
    let offender = &offender[..offender.len().min(TermReqHeader::MAX_DATA)];
    let total = size_of::<TermReqHeader>() + offender.len();
    let out = out.get_mut(..total)?;
    let mut header = TermReqHeader::new_zeroed();
    header.common = CommonHeader::new(kind);
    header.common.length = u32::try_from(total).ok()?.into();
    header.status = violation.fes.code().into();
    header.info = violation.fei.into();
    out[..size_of::<TermReqHeader>()].copy_from_slice(header.as_bytes());
    out[size_of::<TermReqHeader>()..].copy_from_slice(offender);
    Some(total)
}

/// Copies a PDU structure out of the bytes of a header. (By way of a reference: what is not looked at is not copied.)
#[inline]
pub(crate) fn read<T: Pdu>(header: &[u8]) -> T {
    *T::ref_from_prefix(header).map(|(pdu, _)| pdu).expect("the decoder hands out whole headers")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::pdu::DataHeader;

    #[test]
    fn pads_digests_and_lengths() {
        let pdu = DataHeader::new(PduKind::C2H_DATA, 1, 0, 0, 8);
        let mut out = [0xee; 63];
        let framer = Framer::new(Digests::BOTH, 15);
        assert_eq!(framer.header(&mut out, &pdu, 8), None);
        assert_eq!(framer.header_bytes::<DataHeader>(), 64);
        let mut out = [0xee; 76];
        let start = framer.header(&mut out, &pdu, 8).unwrap();
        assert_eq!(start, 64);
        assert_eq!(out[..8], [7, 3, 24, 64, 76, 0, 0, 0]);
        assert_eq!(out[24..28], crc32c(&out[..24]).to_le_bytes());
        assert_eq!(out[28..64], [0; 36]);
        out[64..72].copy_from_slice(b"12345678");
        assert_eq!(framer.finish(&mut out[64..75], 8), None);
        assert_eq!(framer.finish(&mut out[64..], 8), Some(4));
        assert_eq!(out[72..], crc32c(b"12345678").to_le_bytes());
    }

    #[test]
    fn bare_when_nothing_is_agreed() {
        let pdu = DataHeader::new(PduKind::R2T, 1, 2, 0, 8);
        let mut out = [0xee; 24];
        assert_eq!(Framer::new(Digests::NONE, 0).header(&mut out, &pdu, 0), Some(24));
        assert_eq!(out[..8], [9, 0, 24, 0, 24, 0, 0, 0]);
        assert_eq!(Framer::new(Digests::NONE, 0).header_bytes::<DataHeader>(), 24);
    }
}
