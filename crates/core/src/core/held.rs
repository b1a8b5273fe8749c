//! Commands that wait for their volume's QoS limits, as traces: the doors know only those that were answered.

use dolmen_io::{
    Stage,
    trace::{CommandTrace, TraceReport},
};
use dolmen_types::{Nanos, Nsid};
use dolmen_volume::{Command, Request, Volumes};

/// Commands of one direction that are told of at most; each stands for as many of those that wait as it takes. Count.
const MAX_TOLD: usize = 256;

/// Opcodes of the NVM commands that do the same (NVM Command Set 3.1), as the doors keep them with what was answered.
mod opcode {
    pub(super) const FLUSH: u8 = 0x00;
    pub(super) const WRITE: u8 = 0x01;
    pub(super) const READ: u8 = 0x02;
    pub(super) const COMPARE: u8 = 0x05;
    pub(super) const WRITE_ZEROES: u8 = 0x08;
    pub(super) const DATASET_MANAGEMENT: u8 = 0x09;
    pub(super) const VERIFY: u8 = 0x0c;
    pub(super) const COPY: u8 = 0x19;
    pub(super) const GET_LBA_STATUS: u8 = 0x86;
}

/// What waits of a namespace whose home is this core. The time since each came is time that the policy takes.
pub(super) fn held_back(volumes: &Volumes, nsid: u32, now: Nanos) -> TraceReport {
    let mut told = TraceReport { now, ..TraceReport::default() };
    for waiting in volumes.held_back(Nsid(nsid)) {
        let step = waiting.len().div_ceil(MAX_TOLD).max(1);
        let weight = |part: &[&Request]| u32::try_from(part.len()).unwrap_or(u32::MAX);
        told.waiting.extend(waiting.chunks(step).map(|part| trace(part[part.len() / 2], weight(part), now)));
    }
    told
}

fn trace(request: &Request, weight: u32, now: Nanos) -> CommandTrace {
    let (opcode, lba, blocks) = match &request.command {
        Command::Read { lba, blocks, .. } => (opcode::READ, *lba, *blocks),
        Command::Write { lba, blocks, .. } | Command::CompareAndWrite { lba, blocks, .. } => {
            (opcode::WRITE, *lba, *blocks)
        }
        Command::Compare { lba, blocks, .. } => (opcode::COMPARE, *lba, *blocks),
        Command::WriteZeroes { lba, blocks, .. } => (opcode::WRITE_ZEROES, *lba, *blocks),
        Command::Verify { lba, blocks } => (opcode::VERIFY, *lba, *blocks),
        Command::Allocation { lba, blocks } => (opcode::GET_LBA_STATUS, *lba, *blocks),
        Command::Deallocate { .. } => (opcode::DATASET_MANAGEMENT, 0, 0),
        Command::Copy { dest, .. } => (opcode::COPY, *dest, 0),
        Command::Flush | Command::Reservation(_) => (opcode::FLUSH, 0, 0),
    };
    let mut stamps = request.stamps;
    stamps.mark(Stage::Allowed, now);
    CommandTrace {
        opcode,
        failed: false,
        weight,
        lba,
        blocks,
        outstanding: 0,
        host: None,
        stamps,
        sent: None,
    }
}
