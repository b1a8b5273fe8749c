//! What a caller asks for and what comes back: [`Request`], [`Command`], [`Completion`].

use crate::Failure;
use dolmen_io::Buf;
use dolmen_nvme::spec::{
    Cns, DatasetCommand, DsmRange, GetLogCommand, IdentifyCommand, LogId, NvmOpcode, ReadWrite, Sqe,
};
use dolmen_types::Nanos;
use std::fmt;

/// A subsystem that [`Initiator::connect`](crate::Initiator::connect) was called for. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubsystemId(pub(crate) u32);

/// No deadline of its own: the command waits until it is answered or its controller is given up.
pub const NO_DEADLINE: Nanos = Nanos(u64::MAX);

/// A command with what belongs to it but is not sent.
#[derive(Debug)]
pub struct Request {
    /// The caller's, echoed in the [`Completion`].
    pub ticket: u64,
    /// When to give up, on the seam's clock; [`NO_DEADLINE`] for none.
    pub deadline: Nanos,
    /// The I/O queue to use, counted from 0 (taken modulo the queues there are); the emptiest one if `None`.
    pub queue: Option<u16>,
    /// What to do.
    pub command: Command,
}

impl Request {
    /// A request without a deadline, on any queue.
    #[must_use]
    pub fn new(ticket: u64, command: Command) -> Request {
        Request { ticket, deadline: NO_DEADLINE, queue: None, command }
    }
}

/// Where a command's data goes.
#[derive(Debug)]
pub enum Data {
    /// Nowhere, there is none.
    None,
    /// To us: the buffer's whole length is asked for, and filled up to what the controller sends.
    ToHost(Buf),
    /// To the controller: the buffer's whole length.
    ToController(Buf),
}

/// Whether a command may be sent again after its connection was lost with its outcome unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resend {
    /// Doing it twice is as good as once.
    Allowed,
    /// It fails with [`Failure::Lost`] instead.
    Never,
}

/// One NVMe command. Logical blocks are in the namespace's own format; buffers come from this core's pool, their length
/// is what is transferred, and they come back in the [`Completion`]. A read may come back with another buffer of the pool than it
/// was given, of the same length and capacity: the one that its data landed in.
#[derive(Debug)]
pub enum Command {
    /// Fill `buf` from `blocks` blocks at `lba`.
    Read {
        /// Namespace.
        nsid: u32,
        /// First logical block.
        lba: u64,
        /// Number of blocks, 1 to 65,536.
        blocks: u32,
        /// `blocks` times the block size long.
        buf: Buf,
    },
    /// Write `buf` to `blocks` blocks at `lba`.
    Write {
        /// Namespace.
        nsid: u32,
        /// First logical block.
        lba: u64,
        /// Number of blocks, 1 to 65,536.
        blocks: u32,
        /// `blocks` times the block size long.
        buf: Buf,
        /// Force Unit Access: on stable media before the completion.
        fua: bool,
    },
    /// Compare `buf` with what is stored; [`Status::COMPARE_FAILURE`](dolmen_nvme::spec::Status::COMPARE_FAILURE) if it differs.
    Compare {
        /// Namespace.
        nsid: u32,
        /// First logical block.
        lba: u64,
        /// Number of blocks, 1 to 65,536.
        blocks: u32,
        /// `blocks` times the block size long.
        buf: Buf,
    },
    /// Compare what is stored with `compare` and, if it is the same, write `write` instead, in one (fused; Base 3.4.2). Never
    /// sent again when it may have been carried out. Only `write` comes back in the completion.
    CompareAndWrite {
        /// Namespace.
        nsid: u32,
        /// First logical block.
        lba: u64,
        /// Number of blocks; at most [`Identity::atomic_compare_blocks`](crate::Identity::atomic_compare_blocks).
        blocks: u32,
        /// `blocks` times the block size long.
        compare: Buf,
        /// As long.
        write: Buf,
    },
    /// Make blocks read as zeroes.
    WriteZeroes {
        /// Namespace.
        nsid: u32,
        /// First logical block.
        lba: u64,
        /// Number of blocks, 1 to 65,536.
        blocks: u32,
        /// The controller may give their space back.
        deallocate: bool,
    },
    /// Trim: say that ranges hold nothing of value (Dataset Management, AD).
    Deallocate {
        /// Namespace.
        nsid: u32,
        /// 1 to 256 ranges.
        ranges: Box<[BlockRange]>,
    },
    /// Read blocks on the controller's side and check them, without a transfer.
    Verify {
        /// Namespace.
        nsid: u32,
        /// First logical block.
        lba: u64,
        /// Number of blocks, 1 to 65,536.
        blocks: u32,
    },
    /// Make all completed writes durable.
    Flush {
        /// Namespace, or FFFFFFFFh for all.
        nsid: u32,
    },
    /// Identify: 4096 bytes into `buf`.
    Identify {
        /// Which page.
        cns: Cns,
        /// Namespace, where the page wants one.
        nsid: u32,
        /// 4096 bytes long.
        buf: Buf,
    },
    /// Get Log Page: `buf.len()` bytes from `offset`; both multiples of 4.
    GetLog {
        /// Which page.
        page: LogId,
        /// Namespace, or FFFFFFFFh for the controller.
        nsid: u32,
        /// Byte offset into the page.
        offset: u64,
        /// Leave the event that the page answers masked (RAE); the last read of a page clears it.
        retain_event: bool,
        /// Filled.
        buf: Buf,
    },
    /// Any command on the admin queue; its identifier and data pointer are set here.
    Admin {
        /// The rest of the command.
        sqe: Sqe,
        /// Its data.
        data: Data,
        /// What to do when its outcome is unknown.
        resend: Resend,
    },
    /// Any command on an I/O queue, likewise.
    Io {
        /// The rest of the command.
        sqe: Sqe,
        /// Its data.
        data: Data,
        /// What to do when its outcome is unknown.
        resend: Resend,
    },
}

/// Consecutive logical blocks of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRange {
    /// First block.
    pub lba: u64,
    /// Number of blocks.
    pub blocks: u32,
}

/// Why a request was not taken; it comes back beside this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmitError {
    /// As many commands are in our hands as [`Options::capacity`](crate::Options::capacity) says; reap some first.
    Full,
    /// Nobody connected that subsystem, it was disconnected, or it was given up.
    Gone,
    /// A count or a length that no command can have; a defect of the caller.
    Invalid,
    /// An I/O command to a discovery controller.
    NoQueues,
    /// More data than the controller takes in one command; split it.
    TooLarge,
    /// The pool has no buffer for the ranges; reap some completions first.
    Memory,
    /// No path has been live for longer than [`Options::fast_fail_ms`](crate::Options::fast_fail_ms).
    Down,
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SubmitError::Full => "too many commands under way",
            SubmitError::Gone => "not connected to that subsystem",
            SubmitError::Invalid => "no command can have that count or length",
            SubmitError::NoQueues => "a discovery controller has no I/O queues",
            SubmitError::TooLarge => "more data than the controller takes in one command",
            SubmitError::Memory => "no buffer left in the pool",
            SubmitError::Down => "no path to the subsystem for too long",
        })
    }
}

impl std::error::Error for SubmitError {}

/// What became of a request.
#[derive(Debug)]
pub struct Completion {
    /// The request's.
    pub ticket: u64,
    /// The subsystem it was for.
    pub subsystem: SubsystemId,
    /// The I/O queue that it was last sent on, counted from 0; 0 for admin commands.
    pub queue: u16,
    /// Dwords 0 and 1 of the completion queue entry.
    pub result: Result<u64, Failure>,
    /// The command's buffer.
    pub buf: Option<Buf>,
    /// When it was submitted (the turn's time).
    pub submitted: Nanos,
    /// When its completion was seen (the turn's time).
    pub completed: Nanos,
}

/// Which queue a command belongs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Admin,
    Io,
}

/// A command reduced to what the queues handle. Identifier and data pointer are filled in when it is sent.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) lane: Lane,
    pub(crate) sqe: Sqe,
    pub(crate) data: Data,
    pub(crate) resend: Resend,
}

/// FUSE of the two halves of a pair.
const FUSE_FIRST: u8 = 1;
const FUSE_SECOND: u8 = 2;

/// The smallest unit of a log page's offset and length. Bytes.
const DWORD: usize = 4;

impl Command {
    /// The queue it belongs on.
    pub(crate) fn lane(&self) -> Lane {
        match self {
            Command::Identify { .. } | Command::GetLog { .. } | Command::Admin { .. } => Lane::Admin,
            _ => Lane::Io,
        }
    }

    /// Bytes that it moves.
    pub(crate) fn data_bytes(&self) -> usize {
        match self {
            Command::Read { buf, .. }
            | Command::Write { buf, .. }
            | Command::Compare { buf, .. }
            | Command::Identify { buf, .. }
            | Command::GetLog { buf, .. } => buf.len(),
            Command::Admin { data, .. } | Command::Io { data, .. } => match data {
                Data::None => 0,
                Data::ToHost(buf) | Data::ToController(buf) => buf.len(),
            },
            Command::Deallocate { ranges, .. } => size_of::<DsmRange>() * ranges.len(),
            Command::CompareAndWrite { write, .. } => write.len(),
            _ => 0,
        }
    }

    /// True when its counts and lengths can be put into a command.
    pub(crate) fn is_valid(&self) -> bool {
        let count = |blocks: u32| (1..=65_536).contains(&blocks);
        match self {
            Command::Read { blocks, buf, .. }
            | Command::Write { blocks, buf, .. }
            | Command::Compare { blocks, buf, .. } => {
                let blocks = usize::try_from(*blocks).unwrap_or(0);
                (1..=65_536).contains(&blocks) && !buf.is_empty() && buf.len().is_multiple_of(blocks)
            }
            Command::CompareAndWrite { blocks, compare, write, .. } => {
                let each = usize::try_from(*blocks).unwrap_or(0);
                let whole = count(*blocks) && !write.is_empty() && write.len().is_multiple_of(each);
                whole && compare.len() == write.len()
            }
            Command::WriteZeroes { blocks, .. } | Command::Verify { blocks, .. } => count(*blocks),
            Command::Deallocate { ranges, .. } => (1..=DatasetCommand::MAX_RANGES).contains(&ranges.len()),
            Command::Identify { buf, .. } => buf.len() == IdentifyCommand::DATA_BYTES,
            Command::GetLog { offset, buf, .. } => {
                !buf.is_empty() && buf.len().is_multiple_of(DWORD) && offset.is_multiple_of(DWORD as u64)
            }
            Command::Flush { .. } | Command::Admin { .. } | Command::Io { .. } => true,
        }
    }

    /// Reduces a valid command that isn't a read, a write or a compare; `list` is a buffer for a range list, taken only by [`Command::Deallocate`]. The second job is
    /// that of a fused pair's second half.
    pub(crate) fn into_jobs(self, list: Option<Buf>) -> (Job, Option<Job>) {
        match self {
            Command::CompareAndWrite { nsid, lba, blocks, compare, write } => {
                let half = |opcode, fuse, buf| {
                    let rw = ReadWrite { start: lba, blocks, ..ReadWrite::default() };
                    let mut sqe = Sqe::with_read_write(opcode, 0, nsid, rw);
                    sqe.flags |= fuse;
                    Job { lane: Lane::Io, sqe, data: Data::ToController(buf), resend: Resend::Never }
                };
                let first = half(NvmOpcode::COMPARE, FUSE_FIRST, compare);
                (first, Some(half(NvmOpcode::WRITE, FUSE_SECOND, write)))
            }
            other => (other.into_job(list), None),
        }
    }

    fn into_job(self, list: Option<Buf>) -> Job {
        let io = |sqe, data| Job { lane: Lane::Io, sqe, data, resend: Resend::Allowed };
        let block = |opcode, nsid, start, blocks| {
            Sqe::with_read_write(opcode, 0, nsid, ReadWrite { start, blocks, ..ReadWrite::default() })
        };
        match self {
            Command::WriteZeroes { nsid, lba, blocks, deallocate } => {
                let rw = ReadWrite { start: lba, blocks, deallocate, ..ReadWrite::default() };
                io(Sqe::with_read_write(NvmOpcode::WRITE_ZEROES, 0, nsid, rw), Data::None)
            }
            Command::Verify { nsid, lba, blocks } => {
                io(block(NvmOpcode::VERIFY, nsid, lba, blocks), Data::None)
            }
            Command::Deallocate { nsid, ranges } => deallocate(nsid, &ranges, list),
            Command::Read { .. } | Command::Write { .. } | Command::Compare { .. } => {
                unreachable!("these are made where they stay")
            }
            Command::CompareAndWrite { .. } => unreachable!("a pair is two jobs"),
            Command::Flush { nsid } => {
                let sqe = Sqe { nsid: nsid.into(), ..Sqe::new(NvmOpcode::FLUSH.0, 0) };
                io(sqe, Data::None)
            }
            Command::Identify { cns, nsid, buf } => {
                let identify =
                    IdentifyCommand { cns, controller: 0, specific: 0, command_set: 0, uuid_index: 0 };
                admin(identify.encode(0, nsid), Data::ToHost(buf), Resend::Allowed)
            }
            Command::GetLog { page, nsid, offset, retain_event, buf } => {
                let log = GetLogCommand {
                    page,
                    specific: 0,
                    retain_event,
                    length: buf.len() as u64,
                    offset,
                    identifier: 0,
                    command_set: 0,
                };
                admin(log.encode(0, nsid), Data::ToHost(buf), Resend::Allowed)
            }
            Command::Admin { sqe, data, resend } => admin(sqe, data, resend),
            Command::Io { sqe, data, resend } => Job { lane: Lane::Io, sqe, data, resend },
        }
    }
}

pub(crate) fn admin(sqe: Sqe, data: Data, resend: Resend) -> Job {
    Job { lane: Lane::Admin, sqe, data, resend }
}

fn deallocate(nsid: u32, ranges: &[BlockRange], list: Option<Buf>) -> Job {
    let count = u16::try_from(ranges.len()).expect("valid commands have at most 256 ranges");
    let sqe = DatasetCommand { ranges: count, deallocate: true }.encode(0, nsid);
    let mut buf = list.expect("the caller brings a buffer for a range list");
    let (entries, _) = buf.as_chunks_mut::<{ size_of::<DsmRange>() }>();
    for (entry, range) in entries.iter_mut().zip(ranges) {
        let wire = DsmRange { attributes: 0.into(), blocks: range.blocks.into(), start: range.lba.into() };
        *entry = zerocopy::transmute!(wire);
    }
    Job { lane: Lane::Io, sqe, data: Data::ToController(buf), resend: Resend::Allowed }
}
