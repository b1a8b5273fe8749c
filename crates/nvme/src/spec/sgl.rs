//! SGL descriptors as Fabrics commands carry them (Base 4.1.2; TCP 3.3): one descriptor in the command, nothing
//! chained, because MSDBD is 1 on NVMe/TCP.

use super::{Sqe, Status};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U32, U64},
};

/// An SGL descriptor: 8 bytes of address or offset, 4 of length, 3 reserved, type and sub type.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct SglDescriptor {
    /// Address, or for sub type 1 the offset into the capsule's data. Bytes.
    pub address: U64,
    /// Length of the data. Bytes.
    pub length: U32,
    /// Reserved, 0.
    pub reserved: [u8; 3],
    /// Descriptor type in bits 7:4, sub type in bits 3:0.
    pub kind: u8,
}

const _: () = assert!(size_of::<SglDescriptor>() == 16);

impl SglDescriptor {
    /// Data Block with sub type Offset (01h): the data lies in the command's own capsule.
    pub const IN_CAPSULE: u8 = 0x01;
    /// Transport SGL Data Block with sub type Transport (5Ah): the data moves in data PDUs.
    pub const TRANSPORT: u8 = 0x5a;

    /// Data in the capsule, from its first byte.
    #[must_use]
    pub fn in_capsule(length_bytes: u32) -> SglDescriptor {
        SglDescriptor { length: length_bytes.into(), kind: Self::IN_CAPSULE, ..Default::default() }
    }

    /// Data moved by the transport.
    #[must_use]
    pub fn transport(length_bytes: u32) -> SglDescriptor {
        SglDescriptor { length: length_bytes.into(), kind: Self::TRANSPORT, ..Default::default() }
    }
}

/// How a command's data comes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataPlan {
    /// `length` bytes (above 0) follow the command in its capsule, `offset` bytes behind the start of the capsule's data.
    InCapsule {
        /// Where the data starts, counted from the first byte of the capsule's data.
        offset: u32,
        /// How many bytes.
        length: u32,
    },
    /// `length` bytes (maybe 0) are moved by data PDUs.
    Transport {
        /// How many bytes.
        length: u32,
    },
}

impl DataPlan {
    /// Reads the command's SGL against the `capsule_data` bytes that really came with it. Use it only for commands
    /// that move data; others leave the field undefined.
    ///
    /// # Errors
    /// The status that answers the command: wrong PSDT or descriptor type, an offset or length beyond the capsule.
    pub fn of(sqe: &Sqe, capsule_data: u32) -> Result<DataPlan, Status> {
        let sgl = &sqe.data_pointer;
        if sqe.psdt() != Sqe::PSDT_SGL && !sqe.is_fabrics() {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        let length = sgl.length.get();
        match sgl.kind {
            SglDescriptor::TRANSPORT => Ok(DataPlan::Transport { length }),
            SglDescriptor::IN_CAPSULE => {
                let offset =
                    u32::try_from(sgl.address.get()).map_err(|_| Status::SGL_OFFSET_INVALID.with_dnr())?;
                if offset > capsule_data {
                    return Err(Status::SGL_OFFSET_INVALID.with_dnr());
                }
                if length > capsule_data - offset {
                    return Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr());
                }
                if length == 0 {
                    return Ok(DataPlan::Transport { length });
                }
                Ok(DataPlan::InCapsule { offset, length })
            }
            _ => Err(Status::SGL_TYPE_INVALID.with_dnr()),
        }
    }

    /// Bytes of data the command says it moves.
    #[must_use]
    pub fn length(self) -> u32 {
        match self {
            DataPlan::InCapsule { length, .. } | DataPlan::Transport { length } => length,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::NvmOpcode;

    fn write(sgl: SglDescriptor) -> Sqe {
        Sqe { data_pointer: sgl, ..Sqe::new(NvmOpcode::WRITE.0, 1) }
    }

    #[test]
    fn plans_or_refuses() {
        let plan = |sgl, bytes| DataPlan::of(&write(sgl), bytes);
        assert_eq!(plan(SglDescriptor::transport(4096), 0), Ok(DataPlan::Transport { length: 4096 }));
        assert_eq!(
            plan(SglDescriptor::in_capsule(512), 512),
            Ok(DataPlan::InCapsule { offset: 0, length: 512 })
        );
        assert_eq!(
            plan(SglDescriptor::in_capsule(513), 512),
            Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr())
        );
        let far = SglDescriptor { address: 513.into(), ..SglDescriptor::in_capsule(0) };
        assert_eq!(plan(far, 512), Err(Status::SGL_OFFSET_INVALID.with_dnr()));
        let chained = SglDescriptor { kind: 0x20, ..SglDescriptor::default() };
        assert_eq!(plan(chained, 0), Err(Status::SGL_TYPE_INVALID.with_dnr()));
        let prp = Sqe { flags: 0, ..write(SglDescriptor::transport(1)) };
        assert_eq!(DataPlan::of(&prp, 0), Err(Status::INVALID_FIELD.with_dnr()));
    }
}
