//! Time stamps of the stages of one request, so that tools can later tell where its time went.

use dolmen_types::Nanos;

/// A point in the life of one host command. The order is the usual order of the stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Stage {
    /// Its capsule was parsed on the connection's core.
    Received = 0,
    /// All of its data is here (writes).
    DataIn = 1,
    /// It reached its home core.
    Home = 2,
    /// It was sequenced (writes) or looked up (reads).
    Sequenced = 3,
    /// Its drive operations were submitted.
    Submitted = 4,
    /// Its drive operations are complete.
    Drive = 5,
    /// Its reply was staged on the connection's core.
    Replied = 6,
}

/// The stamps of one request; a stage that it did not pass through reads 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamps([u64; 7]);

impl Stamps {
    /// Records that `stage` was reached at `now` (the turn's time: stages within one turn read alike).
    pub fn mark(&mut self, stage: Stage, now: Nanos) {
        self.0[stage as usize] = now.0;
    }

    /// When `stage` was reached, if it was.
    #[must_use]
    pub fn at(&self, stage: Stage) -> Option<Nanos> {
        (self.0[stage as usize] != 0).then_some(Nanos(self.0[stage as usize]))
    }
}
