//! The NVM commands: from a submission queue entry, and its data once it is here, to a volume's command.
//!
//! Two steps. [`plan`] looks at the entry alone and says what is needed: nothing, a buffer to read into, or so many
//! bytes from the host. [`command`] makes the volume's command when that is there. Ranges are checked by the volume,
//! which alone knows its size at the moment of the command; here only what bounds our memory.

use crate::{reservation, table::Namespace, view::View};
use dolmen_io::Buf;
use dolmen_nvme::spec::{
    CopyCommand, CopyDescriptor, DatasetCommand, DsmRange, NvmOpcode, ReportCommand, Sqe, Status,
};
use dolmen_types::limits;
use dolmen_volume::{Command, LbaRange, ReservationCommand, limits as volume_limits};
use std::sync::Arc;
use zerocopy::FromBytes;

const INVALID: Status = Status::INVALID_FIELD.with_dnr();

/// Which way a command's data goes, and how much. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transfer {
    /// None.
    Nothing,
    /// To the host: so much of the volume's data.
    ToHost(u32),
    /// To the host: a report of this length.
    Report(u32),
    /// From the host: so much is needed, and so much may come. Bytes.
    FromHost {
        /// What the command reads.
        least: u32,
        /// What its SGL may describe at most; the rest is taken and not looked at.
        most: u32,
    },
}

/// Where an I/O command goes.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// The namespace, which this host sees.
    pub(crate) space: &'a Arc<Namespace>,
    /// Its data.
    pub(crate) transfer: Transfer,
}

/// Data of a full list of 256 ranges: Linux sends always so much, however few it names.
const DATASET_BYTES: u32 = 4096;

/// What an I/O command needs; `None` when it is done already (a Flush of everything: all that was acknowledged is durable).
pub(crate) fn plan<'a>(sqe: &Sqe, view: &'a View) -> Result<Option<Plan<'a>>, Status> {
    let (opcode, nsid) = (NvmOpcode(sqe.opcode), sqe.nsid.get());
    if opcode == NvmOpcode::FLUSH && nsid == u32::MAX {
        return Ok(None);
    }
    if !is_supported(opcode) {
        return Err(Status::INVALID_OPCODE.with_dnr());
    }
    let space = view.find(nsid).ok_or(Status::INVALID_NAMESPACE.with_dnr())?;
    Ok(Some(Plan { space, transfer: transfer(opcode, sqe, space)? }))
}

fn is_supported(opcode: NvmOpcode) -> bool {
    matches!(
        opcode,
        NvmOpcode::READ
            | NvmOpcode::WRITE
            | NvmOpcode::FLUSH
            | NvmOpcode::COMPARE
            | NvmOpcode::WRITE_ZEROES
            | NvmOpcode::DATASET_MANAGEMENT
            | NvmOpcode::VERIFY
            | NvmOpcode::COPY
            | NvmOpcode::RESERVATION_REGISTER
            | NvmOpcode::RESERVATION_REPORT
            | NvmOpcode::RESERVATION_ACQUIRE
            | NvmOpcode::RESERVATION_RELEASE
    )
}

fn transfer(opcode: NvmOpcode, sqe: &Sqe, space: &Namespace) -> Result<Transfer, Status> {
    Ok(match opcode {
        NvmOpcode::READ => Transfer::ToHost(data_bytes(sqe, space)?),
        NvmOpcode::WRITE | NvmOpcode::COMPARE => exactly(data_bytes(sqe, space)?),
        NvmOpcode::DATASET_MANAGEMENT => {
            let least = u32_of(DatasetCommand::of(sqe).data_bytes());
            Transfer::FromHost { least, most: DATASET_BYTES.max(least) }
        }
        NvmOpcode::VERIFY => {
            bounded(sqe, space, volume_limits::MAX_VERIFY_BYTES)?;
            Transfer::Nothing
        }
        NvmOpcode::WRITE_ZEROES => {
            if !sqe.read_write().deallocate {
                bounded(sqe, space, volume_limits::MAX_WRITE_ZEROES_BYTES)?;
            }
            Transfer::Nothing
        }
        NvmOpcode::COPY => {
            let copy = CopyCommand::of(sqe);
            if copy.format != 0 {
                return Err(INVALID);
            }
            if usize::from(copy.ranges) > volume_limits::MAX_COPY_RANGES {
                return Err(Status::COMMAND_SIZE_LIMIT_EXCEEDED.with_dnr());
            }
            exactly(u32_of(usize::from(copy.ranges) * size_of::<CopyDescriptor>()))
        }
        NvmOpcode::RESERVATION_REGISTER | NvmOpcode::RESERVATION_ACQUIRE => exactly(16),
        NvmOpcode::RESERVATION_RELEASE => exactly(8),
        NvmOpcode::RESERVATION_REPORT => {
            let report = ReportCommand::of(sqe);
            // Fabrics hosts have 128-bit identifiers, which only the extended form can hold (Base 7.4).
            if !report.extended {
                return Err(Status::HOST_ID_INCONSISTENT.with_dnr());
            }
            let length = usize::try_from(report.length).map_err(|_| INVALID)?;
            if length > limits::MAX_TRANSFER_BYTES {
                return Err(INVALID);
            }
            Transfer::Report(u32_of(length))
        }
        _ => Transfer::Nothing,
    })
}

/// Data from the host whose length the command leaves no choice about.
fn exactly(bytes: u32) -> Transfer {
    Transfer::FromHost { least: bytes, most: bytes }
}

/// Lengths here are bounded far below 4 GiB.
fn u32_of(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Bytes of a block command's range, at most `most`.
fn bounded(sqe: &Sqe, space: &Namespace, most: usize) -> Result<u32, Status> {
    let bytes = u64::from(sqe.read_write().blocks) * u64::from(space.sector.bytes());
    u32::try_from(bytes).ok().filter(|&b| b as usize <= most).ok_or(INVALID)
}

/// The same within MDTS.
fn data_bytes(sqe: &Sqe, space: &Namespace) -> Result<u32, Status> {
    bounded(sqe, space, limits::MAX_TRANSFER_BYTES)
}

/// The volume's command; `data` is the buffer that [`Transfer`] asked for, filled when it came from the host. `None`:
/// nothing is to be done (a hint that we do not take). A refused command's buffer is dropped.
pub(crate) fn command(sqe: &Sqe, data: Option<Buf>) -> Result<Option<Command>, Status> {
    let opcode = NvmOpcode(sqe.opcode);
    let rw = sqe.read_write();
    let (lba, blocks) = (rw.start, rw.blocks);
    let bytes: &[u8] = data.as_deref().unwrap_or(&[]);
    let command = match opcode {
        NvmOpcode::DATASET_MANAGEMENT => return deallocate(sqe, bytes),
        NvmOpcode::COPY => copy(sqe, bytes)?,
        NvmOpcode::RESERVATION_REGISTER => Command::Reservation(reservation::register(sqe, bytes)?),
        NvmOpcode::RESERVATION_ACQUIRE => Command::Reservation(reservation::acquire(sqe, bytes)?),
        NvmOpcode::RESERVATION_RELEASE => Command::Reservation(reservation::release(sqe, bytes)?),
        NvmOpcode::RESERVATION_REPORT => Command::Reservation(ReservationCommand::Report),
        NvmOpcode::FLUSH => Command::Flush,
        NvmOpcode::VERIFY => Command::Verify { lba, blocks },
        NvmOpcode::WRITE_ZEROES => Command::WriteZeroes { lba, blocks, deallocate: rw.deallocate },
        _ => match (opcode, data) {
            (NvmOpcode::READ, Some(buf)) => Command::Read { lba, blocks, buf },
            (NvmOpcode::WRITE, Some(buf)) => Command::Write { lba, blocks, buf },
            (NvmOpcode::COMPARE, Some(buf)) => Command::Compare { lba, blocks, buf },
            _ => return Err(Status::INVALID_OPCODE.with_dnr()),
        },
    };
    Ok(Some(command))
}

/// True for a Compare and a Write that can be fused: both name the same range of the same namespace (Base 3.4.2).
pub(crate) fn is_pair(first: &Sqe, second: &Sqe) -> bool {
    let (a, b) = (first.read_write(), second.read_write());
    first.opcode == NvmOpcode::COMPARE.0
        && second.opcode == NvmOpcode::WRITE.0
        && first.nsid == second.nsid
        && (a.start, a.blocks) == (b.start, b.blocks)
}

fn deallocate(sqe: &Sqe, bytes: &[u8]) -> Result<Option<Command>, Status> {
    let dataset = DatasetCommand::of(sqe);
    if !dataset.deallocate {
        return Ok(None);
    }
    let bytes = bytes.get(..dataset.data_bytes()).ok_or(INVALID)?;
    let (ranges, _) = <[DsmRange]>::ref_from_prefix_with_elems(bytes, bytes.len() / size_of::<DsmRange>())
        .map_err(|_| INVALID)?;
    let ranges = ranges.iter().map(|r| LbaRange { lba: r.start.get(), blocks: r.blocks.get() }).collect();
    Ok(Some(Command::Deallocate { ranges }))
}

fn copy(sqe: &Sqe, bytes: &[u8]) -> Result<Command, Status> {
    let (ranges, _) =
        <[CopyDescriptor]>::ref_from_prefix_with_elems(bytes, bytes.len() / size_of::<CopyDescriptor>())
            .map_err(|_| INVALID)?;
    let sources = ranges.iter().map(|r| LbaRange { lba: r.start.get(), blocks: r.blocks() }).collect();
    Ok(Command::Copy { sources, dest: CopyCommand::of(sqe).destination })
}
