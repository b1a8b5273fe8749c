//! What ICReq and ICResp agree on (TCP 3.5).

use super::framer::Digests;

/// The terms of a connection, the same seen from both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Digests in use, both ways.
    pub digests: Digests,
    /// HPDA: alignment of data to the host, in dwords, counted from 0.
    pub host_alignment: u8,
    /// CPDA: alignment of data to the controller, in dwords, counted from 0.
    pub controller_alignment: u8,
    /// MAXR2T: R2Ts open for one command, counted from 0.
    pub max_r2t: u32,
    /// MAXH2CDATA: data of one H2CData PDU at most. Bytes.
    pub max_h2c_data: u32,
}

impl Negotiated {
    /// Largest HPDA and CPDA.
    pub(crate) const MAX_ALIGNMENT: u8 = 31;
    /// Smallest MAXH2CDATA. Bytes.
    pub(crate) const MIN_H2C_DATA: u32 = 4096;
    /// PFV that we speak.
    pub(crate) const FORMAT: u16 = 0;

    /// The terms before anything is agreed: no digests, no alignment.
    pub(crate) const NONE: Negotiated = Negotiated {
        digests: Digests::NONE,
        host_alignment: 0,
        controller_alignment: 0,
        max_r2t: 0,
        max_h2c_data: Self::MIN_H2C_DATA,
    };
}

/// An alignment field (dwords, counted from 0) in bytes.
pub(crate) fn alignment_bytes(field: u8) -> usize {
    (usize::from(field.min(Negotiated::MAX_ALIGNMENT)) + 1) * 4
}
