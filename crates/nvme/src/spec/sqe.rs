//! The 64-byte command (Base 3.3.3.1, NVM 3.2; Fabrics commands 6.1) and the fields that several commands share.

use super::{AdminOpcode, FabricsType, NvmOpcode, Opcode, QueueKind, SglDescriptor};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

/// A submission queue entry.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Sqe {
    /// Opcode.
    pub opcode: u8,
    /// FUSE in bits 1:0, PSDT in bits 7:6 (for Fabrics commands too).
    pub flags: u8,
    /// Command Identifier, unique among the queue's outstanding commands.
    pub cid: U16,
    /// Namespace Identifier; in a Fabrics command its first byte is FCTYPE.
    pub nsid: U32,
    /// Command Dword 2.
    pub cdw2: U32,
    /// Command Dword 3.
    pub cdw3: U32,
    /// Metadata Pointer; unused, we have no separate metadata.
    pub metadata_pointer: U64,
    /// Data Pointer: one SGL descriptor.
    pub data_pointer: SglDescriptor,
    /// Command Dword 10.
    pub cdw10: U32,
    /// Command Dword 11.
    pub cdw11: U32,
    /// Command Dword 12.
    pub cdw12: U32,
    /// Command Dword 13.
    pub cdw13: U32,
    /// Command Dword 14.
    pub cdw14: U32,
    /// Command Dword 15.
    pub cdw15: U32,
}

const _: () = assert!(size_of::<Sqe>() == 64 && align_of::<Sqe>() == 1);

/// Place of a command in a fused pair (Base figure 87, FUSE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fuse {
    /// An ordinary command.
    Normal,
    /// The first of two (the Compare).
    First,
    /// The second of two (the Write).
    Second,
    /// The reserved value 3.
    Reserved,
}

impl Sqe {
    /// PSDT value "SGLs, metadata pointer is an address"; what Linux and SPDK send.
    pub const PSDT_SGL: u8 = 1;

    /// A command with opcode, identifier and the SGL flag set, all else 0.
    #[inline]
    #[must_use]
    pub fn new(opcode: u8, cid: u16) -> Sqe {
        Sqe { opcode, flags: Self::PSDT_SGL << 6, cid: cid.into(), ..Sqe::default() }
    }

    /// The PSDT field (PRP or SGL for Data Transfer), with the value 2 (metadata by SGL) counted as 1.
    #[must_use]
    pub fn psdt(&self) -> u8 {
        match self.flags >> 6 {
            2 => Self::PSDT_SGL,
            other => other,
        }
    }

    /// The FUSE field.
    #[must_use]
    pub fn fuse(&self) -> Fuse {
        match self.flags & 3 {
            0 => Fuse::Normal,
            1 => Fuse::First,
            2 => Fuse::Second,
            _ => Fuse::Reserved,
        }
    }

    /// True for a Fabrics command, on either kind of queue.
    #[must_use]
    pub fn is_fabrics(&self) -> bool {
        self.opcode == AdminOpcode::FABRICS.0
    }

    /// The Fabrics Command Type, byte 4; meaningful when [`Sqe::is_fabrics`].
    #[must_use]
    pub fn fabrics_type(&self) -> FabricsType {
        FabricsType(self.nsid.as_bytes()[0])
    }

    /// The opcode with its queue's meaning.
    #[must_use]
    pub fn opcode_on(&self, queue: QueueKind) -> Opcode {
        match queue {
            QueueKind::Admin => Opcode::Admin(AdminOpcode(self.opcode)),
            QueueKind::Io => Opcode::Nvm(NvmOpcode(self.opcode)),
        }
    }

    /// The fields that Read, Write, Compare, Write Zeroes and Verify share.
    #[inline]
    #[must_use]
    pub fn read_write(&self) -> ReadWrite {
        let cdw12 = self.cdw12.get();
        ReadWrite {
            start: u64::from(self.cdw10.get()) | u64::from(self.cdw11.get()) << 32,
            blocks: (cdw12 & 0xffff) + 1,
            deallocate: cdw12 & (1 << 25) != 0,
            fua: cdw12 & (1 << 30) != 0,
            limited_retry: cdw12 & (1 << 31) != 0,
            protection: cdw12 >> 26 & 0xf,
        }
    }

    /// A command of the [`Sqe::read_write`] family; `rw.blocks` counts from 1 and must not be 0 nor above 65,536.
    #[inline]
    #[must_use]
    pub fn with_read_write(opcode: NvmOpcode, cid: u16, nsid: u32, rw: ReadWrite) -> Sqe {
        let mut sqe = Sqe::new(opcode.0, cid);
        let [low, high] = split(rw.start);
        sqe.nsid = nsid.into();
        sqe.cdw10 = low.into();
        sqe.cdw11 = high.into();
        let count = rw.blocks.saturating_sub(1) & 0xffff;
        let bit = |set: bool, shift: u32| u32::from(set) << shift;
        sqe.cdw12 = (count
            | bit(rw.deallocate, 25)
            | (rw.protection & 0xf) << 26
            | bit(rw.fua, 30)
            | bit(rw.limited_retry, 31))
        .into();
        sqe
    }
}

/// Low and high half of a 64-bit number, as consecutive dwords hold it.
pub(crate) fn split(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

/// The common fields of the block commands (NVM 3.2.1 to 3.2.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadWrite {
    /// First logical block.
    pub start: u64,
    /// Number of logical blocks, 1 to 65,536 (the wire counts from 0).
    pub blocks: u32,
    /// DEAC of Write Zeroes: the blocks may be deallocated.
    pub deallocate: bool,
    /// Force Unit Access.
    pub fua: bool,
    /// Limited Retry.
    pub limited_retry: bool,
    /// PRINFO, 4 bits; not 0 only with protection information, which we don't offer.
    pub protection: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_commands_round_trip() {
        let rw = ReadWrite { start: 0x1_2345_6789, blocks: 8, fua: true, ..ReadWrite::default() };
        let sqe = Sqe::with_read_write(NvmOpcode::WRITE, 7, 1, rw);
        assert_eq!(sqe.read_write(), rw);
        let bytes = sqe.as_bytes();
        assert_eq!(&bytes[..8], [1, 0x40, 7, 0, 1, 0, 0, 0]);
        assert_eq!(&bytes[40..52], [0x89, 0x67, 0x45, 0x23, 1, 0, 0, 0, 7, 0, 0, 0x40]);
        let most = ReadWrite { blocks: 65_536, ..rw };
        assert_eq!(Sqe::with_read_write(NvmOpcode::READ, 7, 1, most).read_write(), most);
    }

    #[test]
    fn fuse_and_psdt() {
        assert_eq!(Sqe { flags: 0x41, ..Sqe::default() }.fuse(), Fuse::First);
        assert_eq!(Sqe { flags: 0x83, ..Sqe::default() }.fuse(), Fuse::Reserved);
        assert_eq!(Sqe { flags: 0x83, ..Sqe::default() }.psdt(), 1);
        assert_eq!(Sqe { flags: 0xc0, ..Sqe::default() }.psdt(), 3);
    }
}
