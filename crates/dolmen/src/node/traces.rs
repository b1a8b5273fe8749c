//! From the stamps of commands to the time that they spent in each stage. Pure functions.

use dolmen_cluster::trace::{CommandTrace, TraceKind, TraceStage, VolumeTraces};
use dolmen_core::report::CoreReport;
use dolmen_io::{Stage, Stamps, trace::TraceReport};
use dolmen_types::{CoreId, Nanos};

/// Opcodes of NVM commands (NVM Command Set 3.1).
const WRITE: u8 = 1;
const READ: u8 = 2;

/// The stage that ends with each stamp, in the order of the way.
const WAY: [(Stage, TraceStage); 11] = [
    (Stage::DataIn, TraceStage::Data),
    (Stage::Handed, TraceStage::Memory),
    (Stage::Home, TraceStage::Crossing),
    (Stage::Allowed, TraceStage::Qos),
    (Stage::Admitted, TraceStage::Backlog),
    (Stage::Granted, TraceStage::Locks),
    (Stage::Sequenced, TraceStage::Edges),
    (Stage::Submitted, TraceStage::Store),
    (Stage::Drive, TraceStage::Drive),
    (Stage::Ended, TraceStage::Order),
    (Stage::Replied, TraceStage::Return),
];

/// The drives' paths, by their place in the pool.
pub(crate) fn drive_paths(reports: &[CoreReport]) -> Vec<String> {
    let pool = reports.iter().find_map(|report| report.pool.as_ref());
    pool.map(|pool| pool.drives.iter().map(|drive| drive.standing.path.clone()).collect()).unwrap_or_default()
}

/// What all cores know of one volume's commands.
pub fn collect<'a>(told: impl Iterator<Item = (CoreId, &'a TraceReport)>, drives: &[String]) -> VolumeTraces {
    let mut all = VolumeTraces::default();
    for (core, report) in told {
        let tell = |trace| command(trace, core, report.now, drives);
        all.recent.extend(report.recent.iter().map(tell));
        all.slowest.extend(report.slowest.iter().map(tell));
        all.waiting.extend(report.waiting.iter().map(tell));
    }
    all
}

fn command(
    trace: &dolmen_io::trace::CommandTrace,
    core: CoreId,
    now: Nanos,
    drives: &[String],
) -> CommandTrace {
    let stamps = &trace.stamps;
    CommandTrace {
        kind: match trace.opcode {
            READ => TraceKind::Read,
            WRITE => TraceKind::Write,
            other => TraceKind::Other(other),
        },
        failed: trace.failed,
        weight: trace.weight,
        lba: trace.lba,
        blocks: trace.blocks,
        age_ns: now.since(stamps.at(Stage::Received).unwrap_or(now)),
        host: trace.host.clone(),
        core,
        outstanding: trace.outstanding,
        drive: stamps.drive().and_then(|drive| drives.get(usize::from(drive)).cloned()),
        stages: stages(stamps, trace.sent),
    }
}

/// Time in each stage. Nanoseconds.
fn stages(stamps: &Stamps, sent: Option<Nanos>) -> [u64; TraceStage::COUNT] {
    let mut stages = [0; TraceStage::COUNT];
    let mut before = stamps.at(Stage::Received).unwrap_or_default();
    for (stage, ends) in WAY {
        if let Some(at) = stamps.at(stage) {
            stages[ends as usize] = at.since(before);
            // Cores don't begin their turns together: what seems to lie before is no time.
            before = before.max(at);
        }
    }
    stages[TraceStage::Socket as usize] = stamps.lag_ns();
    stages[TraceStage::Send as usize] = sent.map_or(0, |at| at.since(before));
    // A commit is made before its drives work on it, in the turn that submits it; a read's blocks are undone behind them, in the
    // turn that replies.
    let around = if stamps.at(Stage::Sequenced).is_some() { TraceStage::Drive } else { TraceStage::Send };
    let work_ns = stamps.work_ns();
    stages[around as usize] = stages[around as usize].saturating_sub(work_ns);
    stages[TraceStage::Codec as usize] = work_ns;
    stages
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: u64 = 1000;

    fn at(us: u64) -> Nanos {
        Nanos(5_000_000_000 + us * US)
    }

    fn told(stages: &[u64; TraceStage::COUNT]) -> Vec<(TraceStage, u64)> {
        let us = |stage: TraceStage| (stage, (stages[stage as usize] + 500) / US);
        TraceStage::ALL.into_iter().map(us).filter(|(_, us)| *us > 0).collect()
    }

    #[test]
    fn a_write_is_cut_into_its_stages() {
        let mut stamps = Stamps::received(at(0), 7 * US);
        stamps.mark(Stage::DataIn, at(30));
        stamps.mark(Stage::Handed, at(30));
        stamps.mark(Stage::Home, at(35));
        stamps.mark(Stage::Allowed, at(1035));
        stamps.mark(Stage::Admitted, at(1035));
        stamps.mark(Stage::Granted, at(1055));
        stamps.mark(Stage::Sequenced, at(1095));
        stamps.mark_drive(at(1125), at(1325), 50 * US, Some(1));
        stamps.mark(Stage::Ended, at(1345));
        stamps.mark(Stage::Replied, at(1350));
        use TraceStage::*;
        let expected = [
            (Socket, 7),
            (Data, 30),
            (Crossing, 5),
            (Qos, 1000),
            (Locks, 20),
            (Edges, 40),
            (Store, 30),
            (Codec, 50),
            (Drive, 150),
            (Order, 20),
            (Return, 5),
            (Send, 12),
        ];
        assert_eq!(told(&stages(&stamps, Some(at(1362)))), expected);
    }

    #[test]
    fn a_reads_work_is_behind_the_drive_and_clocks_that_disagree_are_no_time() {
        let mut stamps = Stamps::received(at(100), 0);
        stamps.mark(Stage::Handed, at(100));
        // The home core's turn began a little before ours.
        stamps.mark(Stage::Home, at(98));
        stamps.mark(Stage::Granted, at(98));
        stamps.mark_drive(at(98), at(180), 4 * US, None);
        stamps.mark(Stage::Ended, at(180));
        stamps.mark(Stage::Replied, at(180));
        use TraceStage::*;
        assert_eq!(told(&stages(&stamps, Some(at(190)))), [(Codec, 4), (Drive, 80), (Send, 6)]);
        // Its send was not seen.
        assert_eq!(told(&stages(&stamps, None)), [(Codec, 4), (Drive, 80)]);
    }
}
