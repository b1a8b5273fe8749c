//! When counting begins, when a slice of a run ends, and when the run does.

use super::{
    peer::{self, Peer},
    plan::Run,
    report::both,
    told::{TELL_MS, Told},
};
use crate::interrupts;
use dolmen_initiator::load::{Load, LoadStats};
use dolmen_types::Nanos;
use std::{sync::atomic::Ordering::Relaxed, time::Duration};

/// Slices that a run is cut into, so that one can see how steady it is; of a run without a set end up to twice as many.
const SLICES: usize = 20;
/// First length of a slice of a run without a set end.
const FIRST_SLICE: Duration = Duration::from_millis(100);

/// A part of a run.
#[derive(Clone, Debug)]
pub(super) struct Slice {
    /// How long it was. Nanoseconds.
    pub(super) ns: u64,
    /// What was counted.
    pub(super) stats: LoadStats,
}

/// A run between the end of the ramp and the end.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    /// Parts in order, of the clock: where nothing was done there are parts with nothing in them. The last one may be shorter.
    pub(super) slices: Vec<Slice>,
    /// How long the others are. Nanoseconds.
    pub(super) slice_ns: u64,
    /// CPU time of this thread. Nanoseconds; `None` where the system doesn't tell.
    pub(super) cpu_ns: Option<u64>,
    /// CPU time of the processes behind the target, by the job that was told to look.
    pub(super) peer_ns: Option<u64>,
    /// Commands that were due and not issued at the end.
    pub(super) behind: u64,
}

impl Measured {
    /// How long it was counted. Nanoseconds.
    pub(super) fn ns(&self) -> u64 {
        self.slices.iter().map(|slice| slice.ns).sum()
    }
}

/// True as long as there is no reason to end before the time.
pub(super) fn goes_on(load: &Load) -> bool {
    let stats = load.stats();
    stats.errors == 0 && stats.violations == 0 && !interrupts::seen()
}

/// Decides when counting begins, when a slice ends and when the run does.
pub(super) struct Meter<'a> {
    run: Run,
    told: &'a Told,
    peer: Option<&'a Peer>,
    measured: Measured,
    begin: Nanos,
    /// When counting began.
    counting: Option<Nanos>,
    /// When the slice under way began: the ends don't drift, however late they are seen.
    slice: Nanos,
    tell_at: Nanos,
    before: (Option<u64>, Option<u64>),
    done: bool,
}

impl<'a> Meter<'a> {
    pub(super) fn new(run: Run, now: Nanos, told: &'a Told, peer: Option<&'a Peer>) -> Meter<'a> {
        let slice = if run.once { FIRST_SLICE } else { run.runtime / u32::try_from(SLICES).unwrap_or(1) };
        Meter {
            run,
            told,
            peer,
            measured: Measured { slice_ns: nanos(slice).max(1), ..Measured::default() },
            begin: now,
            counting: None,
            slice: now,
            tell_at: now,
            before: (None, None),
            done: false,
        }
    }

    /// Once per turn; false to end.
    pub(super) fn look(&mut self, load: &mut Load, now: Nanos) -> bool {
        if self.done {
            return false;
        }
        if now >= self.tell_at {
            let counted: u64 = self.measured.slices.iter().map(|s| s.stats.reads + s.stats.changes).sum();
            self.told.operations.store(counted + load.stats().reads + load.stats().changes, Relaxed);
            self.tell_at = now.plus_ms(TELL_MS);
        }
        let stops = !goes_on(load) || load.is_done();
        let Some(counting) = self.counting else {
            if stops || self.run.once || now.since(self.begin) >= nanos(self.run.ramp) {
                self.count_from(load, now);
            }
            if stops {
                self.end(load);
            }
            return !self.done;
        };
        let ends = stops || (!self.run.once && now.since(counting) >= nanos(self.run.runtime));
        if ends {
            load.count_open(now, self.usual_ns(load));
        }
        self.cut(load, now, ends);
        if ends {
            self.end(load);
        }
        !self.done
    }

    /// Cuts off the slices that are over by the clock. What was counted meanwhile belongs to the first; in those that passed after it
    /// without a look nothing was done.
    fn cut(&mut self, load: &mut Load, now: Nanos, ends: bool) {
        while now.since(self.slice) >= self.measured.slice_ns {
            let ns = self.measured.slice_ns;
            self.measured.slices.push(Slice { ns, stats: load.take_counts() });
            self.slice = Nanos(self.slice.0 + ns);
            self.coarsen();
        }
        if ends {
            let ns = now.since(self.slice);
            self.measured.slices.push(Slice { ns, stats: load.take_counts() });
        }
    }

    /// The end of the ramp. A load that goes over its range once is counted from its first command.
    fn count_from(&mut self, load: &mut Load, now: Nanos) {
        let from = if self.run.once { self.begin } else { now };
        if !self.run.once {
            load.restart_counting();
        }
        (self.counting, self.slice) = (Some(from), from);
        self.before = (peer::thread_ns(), self.peer.and_then(Peer::cpu_ns));
    }

    /// The median of what was counted so far.
    fn usual_ns(&self, load: &Load) -> u64 {
        let mut sum = both(load.stats());
        self.measured.slices.iter().for_each(|slice| sum.merge(&both(&slice.stats)));
        sum.percentile(50_000)
    }

    /// Twice as many slices become half as many.
    fn coarsen(&mut self) {
        if self.measured.slices.len() < 2 * SLICES {
            return;
        }
        let slices = std::mem::take(&mut self.measured.slices);
        for pair in slices.chunks(2) {
            let mut slice = pair[0].clone();
            for other in &pair[1..] {
                slice.ns += other.ns;
                add(&mut slice.stats, &other.stats);
            }
            self.measured.slices.push(slice);
        }
        self.measured.slice_ns *= 2;
    }

    fn end(&mut self, load: &Load) {
        let after = (peer::thread_ns(), self.peer.and_then(Peer::cpu_ns));
        let passed = |before: Option<u64>, after: Option<u64>| Some(after?.saturating_sub(before?));
        self.measured.cpu_ns = passed(self.before.0, after.0);
        self.measured.peer_ns = passed(self.before.1, after.1);
        self.measured.behind = load.behind();
        self.done = true;
    }

    /// What was measured.
    pub(super) fn measured(self) -> Measured {
        self.measured
    }
}

/// Adds up what was counted.
pub(super) fn add(sum: &mut LoadStats, other: &LoadStats) {
    sum.reads += other.reads;
    sum.changes += other.changes;
    sum.bytes += other.bytes;
    sum.read_latency.merge(&other.read_latency);
    sum.change_latency.merge(&other.change_latency);
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
