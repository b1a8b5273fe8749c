//! The 16-byte completion (Base 3.3.3.2; Fabrics responses 6.2).

use super::Status;
use std::fmt;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32},
};

/// A completion queue entry.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Cqe {
    /// Command-specific result, dword 0.
    pub dw0: U32,
    /// Command-specific result, dword 1 (the upper half of a Property Get's value).
    pub dw1: U32,
    /// Submission Queue Head Pointer; 0 and without meaning when SQ flow control is disabled.
    pub sq_head: U16,
    /// Submission Queue Identifier; reserved on fabrics.
    pub sq_id: U16,
    /// The command that this completes.
    pub cid: U16,
    /// Status Field in bits 15:1; bit 0 is the phase, reserved on fabrics.
    pub status: U16,
}

const _: () = assert!(size_of::<Cqe>() == 16 && align_of::<Cqe>() == 1);

impl Cqe {
    /// A completion with the given status and nothing else.
    #[inline]
    #[must_use]
    pub fn new(cid: u16, status: Status) -> Cqe {
        Cqe { cid: cid.into(), status: (status.bits() << 1).into(), ..Cqe::default() }
    }

    /// This completion with a result in dword 0.
    #[inline]
    #[must_use]
    pub fn with_dw0(self, dw0: u32) -> Cqe {
        Cqe { dw0: dw0.into(), ..self }
    }

    /// This completion with a 64-bit result in dwords 0 and 1.
    #[must_use]
    pub fn with_result(self, result: u64) -> Cqe {
        let [low, high] = super::sqe::split(result);
        Cqe { dw0: low.into(), dw1: high.into(), ..self }
    }

    /// This completion with a submission queue head.
    #[inline]
    #[must_use]
    pub fn with_sq_head(self, sq_head: u16) -> Cqe {
        Cqe { sq_head: sq_head.into(), ..self }
    }

    /// The status.
    #[inline]
    #[must_use]
    pub fn status(&self) -> Status {
        Status::from_bits(self.status.get() >> 1)
    }

    /// Dwords 0 and 1 as one number.
    #[inline]
    #[must_use]
    pub fn result(&self) -> u64 {
        u64::from(self.dw0.get()) | u64::from(self.dw1.get()) << 32
    }
}

impl fmt::Display for Cqe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cid {} {} result {:x}h sqhd {}", self.cid, self.status(), self.result(), self.sq_head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_stands_above_the_phase_bit() {
        let cqe = Cqe::new(0x1234, Status::INVALID_FIELD.with_dnr())
            .with_result(0x0102_0304_0506_0708)
            .with_sq_head(9);
        assert_eq!(cqe.as_bytes(), [8, 7, 6, 5, 4, 3, 2, 1, 9, 0, 0, 0, 0x34, 0x12, 0x04, 0x80]);
        assert_eq!(cqe.status(), Status::INVALID_FIELD.with_dnr());
        assert_eq!(cqe.result(), 0x0102_0304_0506_0708);
    }
}
