//! Commands that wait for their volume's QoS limits, as traces: the doors know only those that were answered.

use dolmen_io::{
    Stage,
    trace::{CommandTrace, TraceReport},
};
use dolmen_nvme::spec::{AdminOpcode, NvmOpcode};
use dolmen_types::{Nanos, Nsid};
use dolmen_volume::{Command, Request, Volumes};

/// Commands of one direction that are told of at most; each stands for as many of those that wait as it takes. Count.
const MAX_TOLD: usize = 256;

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
        Command::Read { lba, blocks, .. } => (NvmOpcode::READ, *lba, *blocks),
        Command::Write { lba, blocks, .. } | Command::CompareAndWrite { lba, blocks, .. } => {
            (NvmOpcode::WRITE, *lba, *blocks)
        }
        Command::Compare { lba, blocks, .. } => (NvmOpcode::COMPARE, *lba, *blocks),
        Command::WriteZeroes { lba, blocks, .. } => (NvmOpcode::WRITE_ZEROES, *lba, *blocks),
        Command::Verify { lba, blocks } => (NvmOpcode::VERIFY, *lba, *blocks),
        Command::Allocation { lba, blocks } => (NvmOpcode(AdminOpcode::GET_LBA_STATUS.0), *lba, *blocks),
        Command::Deallocate { .. } => (NvmOpcode::DATASET_MANAGEMENT, 0, 0),
        Command::Copy { dest, .. } => (NvmOpcode::COPY, *dest, 0),
        Command::Flush | Command::Reservation(_) => (NvmOpcode::FLUSH, 0, 0),
    };
    let mut stamps = request.stamps;
    stamps.mark(Stage::Allowed, now);
    CommandTrace {
        opcode: opcode.0,
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
