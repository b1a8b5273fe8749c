//! Copy (NVM 3.2.2).

use super::{NvmOpcode, Sqe, sqe::split};
use zerocopy::{
    FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

/// The dwords of a Copy command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyCommand {
    /// SDLBA: first logical block of the destination.
    pub destination: u64,
    /// Number of source ranges, 1 to 256.
    pub ranges: u16,
    /// CDFMT: format of the descriptors; we support 0.
    pub format: u8,
    /// Force Unit Access.
    pub fua: bool,
    /// PRINFOR and PRINFOW; not 0 only with protection information.
    pub protection: u8,
}

impl CopyCommand {
    /// Reads the command.
    #[must_use]
    pub fn of(sqe: &Sqe) -> CopyCommand {
        let cdw12 = sqe.cdw12.get();
        let [ranges, b1, _, b3] = cdw12.to_le_bytes();
        CopyCommand {
            destination: u64::from(sqe.cdw10.get()) | u64::from(sqe.cdw11.get()) << 32,
            ranges: u16::from(ranges) + 1,
            format: b1 & 0xf,
            fua: b3 & 0x40 != 0,
            protection: b1 >> 4 | b3 >> 2 & 0xf,
        }
    }

    /// The command; `ranges` must be 1 to 256.
    #[must_use]
    pub fn encode(&self, cid: u16, nsid: u32) -> Sqe {
        let mut sqe = Sqe::new(NvmOpcode::COPY.0, cid);
        let [low, high] = split(self.destination);
        let ranges = self.ranges.saturating_sub(1).to_le_bytes()[0];
        let b1 = self.format & 0xf | (self.protection & 0xf) << 4;
        sqe.nsid = nsid.into();
        sqe.cdw10 = low.into();
        sqe.cdw11 = high.into();
        sqe.cdw12 = U32::from_bytes([ranges, b1, 0, u8::from(self.fua) << 6]);
        sqe
    }
}

/// One source range, descriptor format 0 (NVM figure 40).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CopyDescriptor {
    /// Reserved.
    pub reserved0: [u8; 8],
    /// First logical block.
    pub start: U64,
    /// Number of logical blocks, counted from 0.
    pub blocks_minus_one: U16,
    /// Reserved.
    pub reserved18: [u8; 6],
    /// Expected initial logical block reference tag.
    pub reference_tag: U32,
    /// Expected logical block application tag.
    pub application_tag: U16,
    /// Its mask.
    pub application_mask: U16,
}

const _: () = assert!(size_of::<CopyDescriptor>() == 32);

impl CopyDescriptor {
    /// The range of `blocks` (1 to 65,536) logical blocks from `start` on.
    #[must_use]
    pub fn new(start: u64, blocks: u32) -> CopyDescriptor {
        let mut range = CopyDescriptor::new_zeroed();
        range.start = start.into();
        range.blocks_minus_one = u16::try_from(blocks.saturating_sub(1)).unwrap_or(u16::MAX).into();
        range
    }

    /// Number of logical blocks, 1 to 65,536.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        u32::from(self.blocks_minus_one.get()) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_spec_puts_them() {
        let sqe = Sqe { cdw10: 5.into(), cdw11: 1.into(), cdw12: 0x4000_0103.into(), ..Sqe::default() };
        let command = CopyCommand::of(&sqe);
        assert_eq!(command.destination, 0x1_0000_0005);
        assert_eq!((command.ranges, command.format, command.fua, command.protection), (4, 1, true, 0));
        assert_eq!(CopyCommand::of(&command.encode(7, 1)), command);
        let range = CopyDescriptor::new(0x0102_0304_0506_0708, 65_536);
        assert_eq!(range.as_bytes()[8..18], [8, 7, 6, 5, 4, 3, 2, 1, 0xff, 0xff]);
        assert_eq!(range.blocks(), 65_536);
    }
}
