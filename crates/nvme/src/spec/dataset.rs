//! Dataset Management (NVM 3.2.3).

use super::{NvmOpcode, Sqe};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U32, U64},
};

/// The dwords of a Dataset Management command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatasetCommand {
    /// Number of ranges, 1 to 256.
    pub ranges: u16,
    /// AD: the ranges may be deallocated. Without it the command is only a hint.
    pub deallocate: bool,
}

impl DatasetCommand {
    /// Ranges of one command at most.
    pub const MAX_RANGES: usize = 256;

    /// Reads the command.
    #[must_use]
    pub fn of(sqe: &Sqe) -> DatasetCommand {
        DatasetCommand {
            ranges: u16::from(sqe.cdw10.get().to_le_bytes()[0]) + 1,
            deallocate: sqe.cdw11.get() & 4 != 0,
        }
    }

    /// The command; `ranges` must be 1 to 256.
    #[must_use]
    pub fn encode(&self, cid: u16, nsid: u32) -> Sqe {
        let mut sqe = Sqe::new(NvmOpcode::DATASET_MANAGEMENT.0, cid);
        sqe.nsid = nsid.into();
        sqe.cdw10 = u32::from(self.ranges.saturating_sub(1) & 0xff).into();
        sqe.cdw11 = (u32::from(self.deallocate) << 2).into();
        sqe
    }

    /// Length of the command's data. Bytes.
    #[must_use]
    pub fn data_bytes(&self) -> usize {
        usize::from(self.ranges) * size_of::<DsmRange>()
    }
}

/// One range (NVM figure 46).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct DsmRange {
    /// Context attributes: access hints.
    pub attributes: U32,
    /// Length. Logical blocks, from 0 (nothing).
    pub blocks: U32,
    /// First logical block.
    pub start: U64,
}

const _: () = assert!(size_of::<DsmRange>() == 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_round_trips() {
        let command = DatasetCommand { ranges: 256, deallocate: true };
        let sqe = command.encode(1, 2);
        assert_eq!((sqe.cdw10.get(), sqe.cdw11.get()), (255, 4));
        assert_eq!(DatasetCommand::of(&sqe), command);
        assert_eq!(command.data_bytes(), 4096);
    }
}
