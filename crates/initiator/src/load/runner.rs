//! The load loop: keeps so many commands under way on each queue, counts them, and judges what they read.
//!
//! It is polled like everything else on a core: [`Load::on_completion`] for each completion that is its own, then
//! [`Load::step`], which submits until every queue has its depth. Buffers are taken from the pool once per place under
//! way and used again. A load with a rate has something to do when no event comes, too: [`Load::wake_at`].

use super::{
    model::{Change, Model},
    options::{LoadError, LoadOptions, Mix, Pattern},
    pace::Pace,
    rng::Rng,
    shuffle::Shuffle,
    stamp::{STAMP_BYTES, inspect},
    stats::LoadStats,
};
use crate::{Command, Completion, Failure, Initiator, NO_DEADLINE, Request, SubmitError, SubsystemId};
use dolmen_io::{Buf, Io};
use dolmen_types::Nanos;

/// Random addresses that are tried for a change before the place is left empty for this turn: with a verified load two
/// changes of one block are never under way together.
const TRIES: u32 = 8;

/// Values that stand for commands which were due and not issued, at most.
const MAX_RECORDED: u64 = 1 << 20;

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Read,
    Write,
    Zero,
}

/// One place under way.
struct Place {
    buf: Option<Buf>,
    work: Option<(Work, u64)>,
    /// From when its latency counts: when it was issued, or due if there is a rate.
    since: Nanos,
    /// Of each 4 KiB block of a verified read, its floor when it was issued.
    floors: Box<[u32]>,
    /// The queue that it keeps busy.
    queue: u16,
}

/// A load on one subsystem. Its tickets are 0 up to depth times queues, not included.
pub struct Load {
    subsystem: SubsystemId,
    options: LoadOptions,
    units: u64,
    /// The first logical block of the region, and how many a command has.
    first_lba: u64,
    blocks: u32,
    model: Option<Model>,
    rng: Rng,
    /// How many units of a pattern with an order were taken in this pass.
    next_unit: u64,
    /// The order of a shuffled one's pass.
    shuffle: Shuffle,
    /// Units without a known change are passed over.
    only_known: bool,
    /// When commands are due; begins with the first step.
    pace: Option<Pace>,
    /// Commands that were due at the last step and found no place.
    behind: u64,
    /// Commands that may still be issued.
    budget: u64,
    /// Nobody waits for what is under way.
    abandoned: bool,
    places: Vec<Place>,
    idle: Vec<usize>,
    stats: LoadStats,
}

impl Load {
    /// A load that is not started.
    ///
    /// # Errors
    /// What is wrong with the options.
    pub fn new(subsystem: SubsystemId, options: LoadOptions) -> Result<Load, LoadError> {
        let units = options.check()?;
        let count = options.depth * usize::from(options.queues);
        let blocks = options.size_bytes / STAMP_BYTES;
        let model = match options.verify {
            Some(volume) => {
                let all = usize::try_from(units).ok().and_then(|u| u.checked_mul(blocks));
                Some(Model::new(
                    volume,
                    options.start,
                    all.ok_or(LoadError("the region to verify is too large for memory"))?,
                ))
            }
            None => None,
        };
        let queue =
            |index: usize| u16::try_from(index / options.depth).expect("queues are counted in 16 bits");
        let place = |index| {
            let floors = vec![0; blocks].into();
            Place { buf: None, work: None, since: Nanos(0), floors, queue: queue(index) }
        };
        let block_bytes = u64::from(options.namespace.block_bytes);
        let lbas = options.size_bytes as u64 / block_bytes;
        let rng = Rng::new(options.seed);
        // From numbers of its own: the other patterns have the same as without it.
        let shuffle = Shuffle::new(units, &mut Rng::new(!options.seed));
        Ok(Load {
            subsystem,
            units,
            first_lba: options.region_start / block_bytes,
            blocks: u32::try_from(lbas).expect("a command's blocks are counted in 32 bits"),
            model,
            rng,
            next_unit: 0,
            shuffle,
            only_known: false,
            pace: None,
            behind: 0,
            budget: u64::MAX,
            abandoned: false,
            places: (0..count).map(place).collect(),
            idle: (0..count).rev().collect(),
            stats: LoadStats { by_queue: vec![0; usize::from(options.queues)], ..LoadStats::default() },
            options,
        })
    }

    /// Changes what is done from now on; `budget` more commands are issued at most.
    pub fn set_work(&mut self, pattern: Pattern, mix: Mix, budget: u64) {
        (self.options.pattern, self.options.mix, self.budget, self.next_unit) = (pattern, mix, budget, 0);
        self.only_known = false;
    }

    /// From now on reads once, in order, what is known to have been changed, without regard to the rate; the number of
    /// commands that this takes. Nothing of a load that doesn't verify.
    pub fn read_back(&mut self) -> u64 {
        let known = (0..self.units).filter(|&unit| self.is_known(unit)).count() as u64;
        self.set_work(Pattern::Sequential, Mix::READ, known);
        (self.only_known, self.pace, self.behind, self.options.per_second) = (true, None, 0, None);
        known
    }

    fn is_known(&self, unit: u64) -> bool {
        let blocks = self.options.size_bytes / STAMP_BYTES;
        let known = |model: &Model| {
            let first = first_block(unit, blocks);
            (first..first + blocks).any(|block| model.is_known(block))
        };
        self.model.as_ref().is_some_and(known)
    }

    /// Issues nothing more.
    pub fn stop(&mut self) {
        self.budget = 0;
    }

    /// Issues nothing more and waits for nothing: it is done, and what is under way is no longer its own.
    pub fn abandon(&mut self) {
        self.budget = 0;
        self.abandoned = true;
    }

    /// Commands of the region's size that cover it once.
    #[must_use]
    pub fn units(&self) -> u64 {
        self.units
    }

    /// Commands under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.places.len() - self.idle.len()
    }

    /// True when nothing is under way and nothing more will be issued.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.abandoned || (self.budget == 0 && self.under_way() == 0)
    }

    /// When it wants to issue something although nothing completes; `None` when only completions matter.
    #[must_use]
    pub fn wake_at(&self) -> Option<Nanos> {
        let waits = self.budget > 0 && !self.idle.is_empty();
        self.pace.filter(|_| waits).map(|pace| pace.next_due())
    }

    /// Commands that were due at the last step and found all places taken: a sign of a target that can't hold the rate. What fell
    /// due since then is none.
    #[must_use]
    pub fn behind(&self) -> u64 {
        self.behind
    }

    /// What was counted since the start or the last [`Load::restart_counting`].
    #[must_use]
    pub fn stats(&self) -> &LoadStats {
        &self.stats
    }

    /// Counts from 0 again: the end of the ramp. Violations and errors stay.
    pub fn restart_counting(&mut self) {
        let s = &mut self.stats;
        (s.reads, s.changes, s.bytes) = (0, 0, 0);
        s.read_latency.clear();
        s.change_latency.clear();
        s.by_queue.fill(0);
    }

    /// What was counted, and counts from 0 again.
    pub fn take_counts(&mut self) -> LoadStats {
        let taken = self.stats.clone();
        self.restart_counting();
        taken
    }

    /// True when the completion is this load's.
    #[must_use]
    pub fn owns(&self, completion: &Completion) -> bool {
        let ours = completion.subsystem == self.subsystem && completion.ticket < self.places.len() as u64;
        ours && !self.abandoned
    }

    /// Takes a completion that is this load's.
    pub fn on_completion(&mut self, completion: Completion) {
        let Some(index) = usize::try_from(completion.ticket).ok().filter(|&i| i < self.places.len()) else {
            return;
        };
        let place = &mut self.places[index];
        let Some((work, unit)) = place.work.take() else { return };
        if let Some(buf) = completion.buf {
            place.buf = Some(buf);
        }
        self.idle.push(index);
        match completion.result {
            Ok(_) => {
                let begin = self.places[index].since;
                self.count(index, work, completion.completed.since(begin));
            }
            Err(failure) => {
                self.stats.errors += 1;
                self.stats.first_error.get_or_insert(failure);
            }
        }
        self.judge(index, work, unit, completion.result.is_ok());
    }

    /// At the end of what is counted: what is open has taken as long as it has waited, and takes longer, whether it is under way or
    /// was due and found no place. Without that a stall until the end would be in no latency. Nothing but latencies is counted, and
    /// none below `at_least_ns`: what has only begun says nothing.
    pub fn count_open(&mut self, now: Nanos, at_least_ns: u64) {
        for index in 0..self.places.len() {
            let (work, since) = (self.places[index].work, self.places[index].since);
            let age = now.since(since);
            if let Some((work, _)) = work.filter(|_| age >= at_least_ns) {
                self.stats.latency_of(work).record(age);
            }
        }
        let Some(pace) = self.pace else { return };
        // A few values for many that are alike.
        let alike = self.behind.div_ceil(MAX_RECORDED).max(1);
        for first in (0..self.behind).step_by(usize::try_from(alike).unwrap_or(usize::MAX)) {
            let age = now.since(pace.due(first));
            if age < at_least_ns {
                return;
            }
            let work = self.choose();
            self.stats.latency_of(work).record_many(age, alike.min(self.behind - first));
        }
    }

    fn count(&mut self, index: usize, work: Work, latency_ns: u64) {
        let stats = &mut self.stats;
        stats.latency_of(work).record(latency_ns);
        if work == Work::Read {
            stats.reads += 1;
        } else {
            stats.changes += 1;
        }
        stats.bytes += self.options.size_bytes as u64;
        stats.by_queue[usize::from(self.places[index].queue)] += 1;
    }

    /// Tells the model what a command did, and checks what it read.
    fn judge(&mut self, index: usize, work: Work, unit: u64, succeeded: bool) {
        let Some(model) = &mut self.model else { return };
        let place = &self.places[index];
        let first = first_block(unit, place.floors.len());
        if work != Work::Read {
            for block in first..first + place.floors.len() {
                if succeeded { model.succeeded(block) } else { model.unknown(block) }
            }
            return;
        }
        let Some(buf) = place.buf.as_ref().filter(|_| succeeded) else { return };
        let (blocks, _) = buf.as_chunks::<STAMP_BYTES>();
        for ((block, bytes), &floor) in (first..).zip(blocks).zip(&place.floors) {
            if let Err(violation) = model.check(block, floor, inspect(bytes)) {
                self.stats.violations += 1;
                self.stats.first_violation.get_or_insert(violation);
            }
        }
    }

    /// Submits until every queue has its depth, the rate or the budget is spent, or something is full.
    pub fn step(&mut self, io: &mut Io, initiator: &mut Initiator) {
        if let (None, Some(per_second)) = (self.pace, self.options.per_second) {
            self.pace = Some(Pace::new(per_second, io.now()));
        }
        self.issue_due(io, initiator);
        let full = self.idle.is_empty();
        self.behind = self.pace.filter(|_| full).map_or(0, |pace| pace.behind(io.now()).min(self.budget));
    }

    fn issue_due(&mut self, io: &mut Io, initiator: &mut Initiator) {
        for _ in 0..self.idle.len() {
            if self.budget == 0 || self.pace.is_some_and(|pace| pace.next_due() > io.now()) {
                return;
            }
            let Some(index) = self.idle.pop() else { return };
            let order = (self.next_unit, self.shuffle);
            if !self.issue(io, initiator, index) {
                // Another place may have a buffer where this one found none: it goes first next time. The unit's turn comes again.
                self.idle.insert(0, index);
                (self.next_unit, self.shuffle) = order;
                return;
            }
            self.places[index].since = io.now();
            if let Some(pace) = &mut self.pace {
                self.places[index].since = pace.next_due();
                pace.issue();
            }
            self.budget -= 1;
        }
    }

    fn issue(&mut self, io: &mut Io, initiator: &mut Initiator, index: usize) -> bool {
        let work = self.choose();
        let Some(unit) = self.choose_unit(work) else { return false };
        let size = self.options.size_bytes;
        let buf = match (work, self.places[index].buf.take()) {
            (Work::Zero, kept) => {
                self.places[index].buf = kept;
                None
            }
            (_, Some(buf)) => Some(buf),
            (_, None) => match io.alloc(size) {
                Some(mut buf) => {
                    self.fill(&mut buf);
                    Some(buf)
                }
                None => return false,
            },
        };
        let command = self.prepare(index, work, unit, buf);
        let queue = self.places[index].queue;
        let deadline = self.options.deadline_ms.map_or(NO_DEADLINE, |ms| io.now().plus_ms(ms));
        let request = Request { ticket: index as u64, deadline, queue: Some(queue), command };
        self.places[index].work = Some((work, unit));
        match initiator.submit(io, self.subsystem, request) {
            Ok(()) => true,
            Err((request, error)) => {
                self.take_back(index, work, unit, request, error);
                false
            }
        }
    }

    /// Puts noise into a fresh buffer: what is written must not be blocks of zeros, which a thin target need not store, nor
    /// more compressible than was asked for.
    fn fill(&mut self, buf: &mut Buf) {
        let zeroes = STAMP_BYTES / 8 * usize::from(self.options.zero_fill) / 100;
        for (at, word) in buf.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let noise = at % (STAMP_BYTES / 8) >= zeroes;
            *word = if noise { self.rng.next_u64().to_le_bytes() } else { [0; 8] };
        }
    }

    /// The command for a unit; a change is begun in the model.
    fn prepare(&mut self, index: usize, work: Work, unit: u64, mut buf: Option<Buf>) -> Command {
        let (nsid, blocks) = (self.options.namespace.nsid, self.blocks);
        let lba = self.first_lba + unit * u64::from(blocks);
        if let Some(model) = &mut self.model {
            let place = &mut self.places[index];
            let first = first_block(unit, place.floors.len());
            for (at, floor) in place.floors.iter_mut().enumerate() {
                match (work, &mut buf) {
                    (Work::Write, Some(buf)) => {
                        let stamp = model.begin(first + at, Change::Write);
                        stamp.fill(&mut buf[at * STAMP_BYTES..(at + 1) * STAMP_BYTES]);
                    }
                    (Work::Zero, _) => {
                        let _ = model.begin(first + at, Change::Zero);
                    }
                    _ => *floor = model.floor(first + at),
                }
            }
        }
        match (work, buf) {
            (Work::Read, Some(buf)) => Command::Read { nsid, lba, blocks, buf },
            (Work::Write, Some(buf)) => Command::Write { nsid, lba, blocks, buf, fua: false },
            _ => Command::WriteZeroes { nsid, lba, blocks, deallocate: true },
        }
    }

    /// A command that was not taken after all.
    fn take_back(&mut self, index: usize, work: Work, unit: u64, request: Request, error: SubmitError) {
        let place = &mut self.places[index];
        place.work = None;
        if let Command::Read { buf, .. } | Command::Write { buf, .. } = request.command {
            place.buf = Some(buf);
        }
        if work != Work::Read {
            self.judge(index, work, unit, false);
        }
        if error != SubmitError::Full {
            // It will not be taken later either.
            self.budget = 0;
            self.stats.errors += 1;
            self.stats.first_error.get_or_insert(Failure::NotTaken(error));
        }
    }

    fn choose(&mut self) -> Work {
        let Mix { reads, zeroes } = self.options.mix;
        if reads == 100 {
            return Work::Read;
        }
        let draw = self.rng.below(100);
        if draw < u64::from(reads) {
            Work::Read
        } else if draw < u64::from(reads) + u64::from(zeroes) {
            Work::Zero
        } else {
            Work::Write
        }
    }

    fn next_in_order(&mut self) -> u64 {
        loop {
            let unit = self.next_unit;
            self.next_unit = (unit + 1) % self.units;
            // What reads back has a budget only if something is known, so this ends.
            if !self.only_known || self.is_known(unit) {
                return unit;
            }
        }
    }

    fn next_shuffled(&mut self) -> u64 {
        let unit = self.shuffle.at(self.next_unit);
        self.next_unit += 1;
        if self.next_unit == self.units {
            (self.next_unit, self.shuffle) = (0, Shuffle::new(self.units, &mut self.rng));
        }
        unit
    }

    /// Which unit is next; `None` when all that were tried are being changed.
    fn choose_unit(&mut self, work: Work) -> Option<u64> {
        for _ in 0..TRIES {
            let unit = match self.options.pattern {
                Pattern::Random => self.rng.below(self.units),
                Pattern::Skewed(skew) => {
                    let hot = skew.hot(self.units);
                    if self.rng.below(100) < u64::from(skew.commands) {
                        self.rng.below(hot)
                    } else {
                        hot + self.rng.below(self.units - hot)
                    }
                }
                Pattern::Sequential => self.next_in_order(),
                Pattern::Shuffled => self.next_shuffled(),
            };
            let blocks = self.options.size_bytes / STAMP_BYTES;
            let free = |model: &Model| !model.busy(first_block(unit, blocks), blocks);
            if work == Work::Read || self.model.as_ref().is_none_or(free) {
                return Some(unit);
            }
        }
        None
    }
}

fn first_block(unit: u64, blocks: usize) -> usize {
    usize::try_from(unit).expect("the model holds every block") * blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Namespace,
        load::{Skew, Start},
    };

    fn load(change: impl FnOnce(&mut LoadOptions)) -> Load {
        let (uuid, nguid) = (None, [0; 16]);
        let namespace =
            Namespace { nsid: 1, block_bytes: 4096, blocks: 1000, uuid, nguid, deallocated_reads_zero: true };
        let mut options = LoadOptions::new(namespace);
        change(&mut options);
        Load::new(SubsystemId(0), options).unwrap()
    }

    #[test]
    fn a_skew_goes_to_its_hot_part_as_often_as_it_says() {
        let mut load = load(|o| o.pattern = Pattern::Skewed(Skew { commands: 90, region: 10 }));
        let units: Vec<u64> = (0..10_000).map(|_| load.choose_unit(Work::Write).unwrap()).collect();
        let hot = units.iter().filter(|&&unit| unit < 100).count();
        assert!((8_800..9_200).contains(&hot), "{hot}");
        assert!(units.iter().all(|&unit| unit < 1000) && units.iter().any(|&unit| unit > 990));
    }

    #[test]
    fn a_shuffled_load_takes_every_unit_once_in_each_pass() {
        let mut load = load(|o| o.pattern = Pattern::Shuffled);
        let mut pass = || (0..1000).map(|_| load.choose_unit(Work::Write).unwrap()).collect::<Vec<u64>>();
        let (first, second) = (pass(), pass());
        assert_ne!(first, second);
        for mut units in [first, second] {
            assert!(!units.is_sorted());
            units.sort_unstable();
            assert!(units.into_iter().eq(0..1000));
        }
    }

    #[test]
    fn reading_back_passes_over_what_was_never_written() {
        let mut load = load(|o| {
            (o.verify, o.start, o.size_bytes, o.per_second) = (Some(1), Start::Anything, 8192, Some(5));
        });
        for block in [6, 7, 20, 21] {
            let model = load.model.as_mut().unwrap();
            let _ = model.begin(block, Change::Write);
            model.succeeded(block);
        }
        assert_eq!(load.read_back(), 2);
        let units = [(); 2].map(|()| load.choose_unit(Work::Read).unwrap());
        assert_eq!((units, load.wake_at()), ([3, 10], None));
    }
}
