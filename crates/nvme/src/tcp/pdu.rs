//! The PDUs of NVMe/TCP, byte by byte (TCP 3.6.2).

use crate::spec::{Cqe, Sqe};
use std::fmt;
use zerocopy::{
    FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32},
};

/// Length of a header or data digest: CRC-32C, little-endian.
pub const DIGEST_BYTES: usize = 4;

/// Room that any header needs at most, its digest and padding included: 72 bytes of command capsule, 4 of digest,
/// up to an alignment of 128 bytes; initialisation and terminate PDUs are no longer.
pub const MAX_HEADER_BYTES: usize = 152;

/// PDU-Type (TCP figure 16).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PduKind(pub u8);

impl PduKind {
    /// Initialize Connection Request, from the host.
    pub const IC_REQ: PduKind = PduKind(0x00);
    /// Initialize Connection Response.
    pub const IC_RESP: PduKind = PduKind(0x01);
    /// Host to Controller Terminate Connection Request.
    pub const H2C_TERM_REQ: PduKind = PduKind(0x02);
    /// Controller to Host Terminate Connection Request.
    pub const C2H_TERM_REQ: PduKind = PduKind(0x03);
    /// Command Capsule.
    pub const CAPSULE_CMD: PduKind = PduKind(0x04);
    /// Response Capsule.
    pub const CAPSULE_RESP: PduKind = PduKind(0x05);
    /// Host to Controller Data.
    pub const H2C_DATA: PduKind = PduKind(0x06);
    /// Controller to Host Data.
    pub const C2H_DATA: PduKind = PduKind(0x07);
    /// Ready to Transfer.
    pub const R2T: PduKind = PduKind(0x09);

    /// The length that HLEN must have; `None` for an unknown type.
    #[must_use]
    pub const fn header_bytes(self) -> Option<u8> {
        match self {
            PduKind::IC_REQ | PduKind::IC_RESP => Some(128),
            PduKind::CAPSULE_CMD => Some(72),
            PduKind::H2C_TERM_REQ
            | PduKind::C2H_TERM_REQ
            | PduKind::CAPSULE_RESP
            | PduKind::H2C_DATA
            | PduKind::C2H_DATA
            | PduKind::R2T => Some(24),
            _ => None,
        }
    }

    /// True for PDUs that carry digests when these were negotiated.
    #[must_use]
    pub const fn is_digested(self) -> bool {
        self.0 >= PduKind::CAPSULE_CMD.0
    }

    /// True for PDUs that can carry data behind their header.
    #[must_use]
    pub const fn may_carry_data(self) -> bool {
        matches!(self, PduKind::CAPSULE_CMD | PduKind::H2C_DATA | PduKind::C2H_DATA)
    }
}

impl fmt::Display for PduKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            PduKind::IC_REQ => "ICReq",
            PduKind::IC_RESP => "ICResp",
            PduKind::H2C_TERM_REQ => "H2CTermReq",
            PduKind::C2H_TERM_REQ => "C2HTermReq",
            PduKind::CAPSULE_CMD => "CapsuleCmd",
            PduKind::CAPSULE_RESP => "CapsuleResp",
            PduKind::H2C_DATA => "H2CData",
            PduKind::C2H_DATA => "C2HData",
            PduKind::R2T => "R2T",
            PduKind(other) => return write!(f, "PDU type {other:02x}h"),
        })
    }
}

impl fmt::Debug for PduKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Bits of FLAGS (TCP figure 15 and each PDU's own).
pub mod flags {
    /// HDGSTF: a header digest follows the header.
    pub const HEADER_DIGEST: u8 = 1 << 0;
    /// DDGSTF: a data digest follows the data.
    pub const DATA_DIGEST: u8 = 1 << 1;
    /// LAST_PDU: the last data PDU of an R2T (H2CData) or of a command (C2HData).
    pub const LAST_PDU: u8 = 1 << 2;
    /// SUCCESS: the command succeeded, no response capsule follows (C2HData).
    pub const SUCCESS: u8 = 1 << 3;
}

/// CH: the first 8 bytes of every PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CommonHeader {
    /// PDU-Type.
    pub kind: u8,
    /// FLAGS.
    pub flags: u8,
    /// HLEN: header without its digest. Bytes.
    pub header_len: u8,
    /// PDO: where the data starts, from the start of the PDU; 0 without data. Bytes.
    pub data_offset: u8,
    /// PLEN: the whole PDU, digests and padding included. Bytes.
    pub length: U32,
}

impl CommonHeader {
    /// The header of a PDU without data and digests, `kind` being a known one.
    #[inline]
    #[must_use]
    pub fn new(kind: PduKind) -> CommonHeader {
        let header_len = kind.header_bytes().unwrap_or(0);
        CommonHeader {
            kind: kind.0,
            flags: 0,
            header_len,
            data_offset: 0,
            length: u32::from(header_len).into(),
        }
    }
}

/// ICReq (TCP figure 25).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IcReq {
    /// CH.
    pub common: CommonHeader,
    /// PFV: version of the PDU format, 0.
    pub format: U16,
    /// HPDA: alignment of data sent to the host, in dwords, counted from 0 (0 to 31).
    pub alignment: u8,
    /// DGST: bit 0 header digests wanted, bit 1 data digests wanted.
    pub digests: u8,
    /// MAXR2T: R2Ts that may be open for one command, counted from 0.
    pub max_r2t: U32,
    /// Reserved.
    pub reserved: [u8; 112],
}

/// ICResp (TCP figure 26).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IcResp {
    /// CH.
    pub common: CommonHeader,
    /// PFV: version of the PDU format, 0.
    pub format: U16,
    /// CPDA: alignment of data sent to the controller, in dwords, counted from 0 (0 to 31).
    pub alignment: u8,
    /// DGST: bit 0 header digests on, bit 1 data digests on.
    pub digests: u8,
    /// MAXH2CDATA: data of one H2CData PDU at most, at least 4096, a multiple of 4. Bytes.
    pub max_h2c_data: U32,
    /// Reserved.
    pub reserved: [u8; 112],
}

/// Header of H2CTermReq and C2HTermReq (TCP figures 27, 29); the header of the PDU in error follows, cut at 128 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TermReqHeader {
    /// CH.
    pub common: CommonHeader,
    /// FES: what was wrong.
    pub status: U16,
    /// FEI: where, by FES.
    pub info: U32,
    /// Reserved.
    pub reserved: [u8; 10],
}

impl TermReqHeader {
    /// Bytes of the offending header that are returned at most.
    pub const MAX_DATA: usize = 128;
}

/// Command Capsule (TCP figure 31); in-capsule data follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CapsuleCmd {
    /// CH.
    pub common: CommonHeader,
    /// CCSQE.
    pub sqe: Sqe,
}

/// Response Capsule (TCP figure 32).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CapsuleResp {
    /// CH.
    pub common: CommonHeader,
    /// RCCQE.
    pub cqe: Cqe,
}

/// Header of H2CData, C2HData and R2T (TCP figures 33 to 35), which differ in nothing but names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DataHeader {
    /// CH.
    pub common: CommonHeader,
    /// CCCID: the command.
    pub cid: U16,
    /// TTAG: the R2T, chosen by the controller; reserved in C2HData.
    pub tag: U16,
    /// DATAO or R2TO: offset within the command's data. Bytes.
    pub offset: U32,
    /// DATAL or R2TL: length. Bytes.
    pub length: U32,
    /// Reserved.
    pub reserved: U32,
}

const _: () = assert!(size_of::<CommonHeader>() == 8);
const _: () = assert!(size_of::<IcReq>() == 128 && size_of::<IcResp>() == 128);
const _: () = assert!(size_of::<TermReqHeader>() == 24);
const _: () = assert!(size_of::<CapsuleCmd>() == 72);
const _: () = assert!(size_of::<CapsuleResp>() == 24);
const _: () = assert!(size_of::<DataHeader>() == 24);

impl IcReq {
    /// The request of a host.
    #[must_use]
    pub fn new(alignment: u8, digests: u8, max_r2t: u32) -> IcReq {
        let mut pdu = IcReq::new_zeroed();
        pdu.common = CommonHeader::new(PduKind::IC_REQ);
        pdu.alignment = alignment;
        pdu.digests = digests;
        pdu.max_r2t = max_r2t.into();
        pdu
    }
}

impl IcResp {
    /// The response of a controller.
    #[must_use]
    pub fn new(alignment: u8, digests: u8, max_h2c_data: u32) -> IcResp {
        let mut pdu = IcResp::new_zeroed();
        pdu.common = CommonHeader::new(PduKind::IC_RESP);
        pdu.alignment = alignment;
        pdu.digests = digests;
        pdu.max_h2c_data = max_h2c_data.into();
        pdu
    }
}

impl DataHeader {
    /// A header of the given kind, flags clear.
    #[inline]
    #[must_use]
    pub fn new(kind: PduKind, cid: u16, tag: u16, offset: u32, length: u32) -> DataHeader {
        DataHeader {
            common: CommonHeader::new(kind),
            cid: cid.into(),
            tag: tag.into(),
            offset: offset.into(),
            length: length.into(),
            reserved: U32::ZERO,
        }
    }
}

/// Byte offsets of fields, as FEI reports them.
pub(crate) mod field {
    pub(crate) const KIND: u32 = 0;
    pub(crate) const FLAGS: u32 = 1;
    pub(crate) const HEADER_LEN: u32 = 2;
    pub(crate) const DATA_OFFSET: u32 = 3;
    pub(crate) const LENGTH: u32 = 4;
    /// PFV of ICReq and ICResp.
    pub(crate) const FORMAT: u32 = 8;
    /// HPDA and CPDA.
    pub(crate) const ALIGNMENT: u32 = 10;
    /// DGST.
    pub(crate) const DIGESTS: u32 = 11;
    /// MAXH2CDATA.
    pub(crate) const MAX_H2C_DATA: u32 = 12;
    /// CCCID of H2CData, C2HData and R2T.
    pub(crate) const CID: u32 = 8;
    /// TTAG.
    pub(crate) const TAG: u32 = 10;
    /// DATAL, R2TL.
    pub(crate) const DATA_LENGTH: u32 = 16;
    /// The command identifier inside a response capsule.
    pub(crate) const RESPONSE_CID: u32 = 20;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_their_length() {
        assert_eq!(CommonHeader::new(PduKind::CAPSULE_CMD).as_bytes(), [4, 0, 72, 0, 72, 0, 0, 0]);
        assert_eq!(
            IcReq::new(0, 3, 0).as_bytes()[..16],
            [0, 0, 128, 0, 128, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0]
        );
        let r2t = DataHeader::new(PduKind::R2T, 0x102, 3, 0, 4096);
        assert_eq!(
            r2t.as_bytes(),
            [9, 0, 24, 0, 24, 0, 0, 0, 2, 1, 3, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0]
        );
    }
}
