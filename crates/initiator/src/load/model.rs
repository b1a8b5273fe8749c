//! What each block of a verified range may hold at any moment.
//!
//! The load loop never has two changes of one block under way, so a block is a register with a single writer: its
//! generations only grow, and a read that ran from `t0` to `t1` may return any generation from the newest one known to
//! be there at `t0` up to the newest one issued by `t1`. A change whose outcome is unknown (its deadline passed) stays
//! allowed, but not demanded, until a later change of the block succeeds.

use super::{
    options::Start,
    stamp::{Found, Stamp},
};
use std::fmt;

/// How a change leaves its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Stamped with its generation.
    Write,
    /// Reading as zeroes (trim of a namespace that promises zeroes, or Write Zeroes).
    Zero,
}

#[derive(Clone, Copy, Default)]
struct Block {
    /// The newest generation that is known to have been there.
    floor: u32,
    /// The newest generation that was issued.
    issued: u32,
    /// The newest generation that leaves zeroes; 0 is the state before any change.
    zeroed: u32,
    busy: bool,
}

/// The blocks of one verified range, counted from 0.
pub struct Model {
    volume: u64,
    start: Start,
    blocks: Vec<Block>,
}

/// A block that holds what it cannot hold: the proof of lost, stale, misplaced or damaged data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Index of the 4 KiB block.
    pub block: u64,
    /// The oldest generation that was allowed.
    pub floor: u32,
    /// The newest generation that was allowed.
    pub issued: u32,
    /// What was read.
    pub found: Found,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { block, floor, issued, found } = self;
        write!(f, "4 KiB block {block}: expected a generation from {floor} to {issued}, found ")?;
        match found {
            Found::Zeroes => f.write_str("zeroes"),
            Found::Damaged => f.write_str("neither zeroes nor an intact stamp"),
            Found::Stamp(s) => {
                write!(f, "generation {} of block {} of volume {:x}", s.generation, s.block, s.volume)
            }
        }
    }
}

impl std::error::Error for Violation {}

impl Model {
    /// A range of `blocks` blocks, of which `start` says what they hold now.
    #[must_use]
    pub fn new(volume: u64, start: Start, blocks: usize) -> Model {
        Model { volume, start, blocks: vec![Block::default(); blocks] }
    }

    /// Number of blocks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// True for a range of no blocks.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// True when a change of any of the blocks is under way.
    #[must_use]
    pub fn busy(&self, first: usize, count: usize) -> bool {
        self.blocks[first..first + count].iter().any(|b| b.busy)
    }

    /// Starts a change of a block that is not busy; the stamp that a write of it must carry.
    pub fn begin(&mut self, block: usize, change: Change) -> Stamp {
        let b = &mut self.blocks[block];
        assert!(!b.busy, "one change of a block at a time");
        b.busy = true;
        b.issued += 1;
        if change == Change::Zero {
            b.zeroed = b.issued;
        }
        Stamp { volume: self.volume, block: block as u64, generation: b.issued }
    }

    /// The change under way succeeded: nothing older may be read from now on.
    pub fn succeeded(&mut self, block: usize) {
        let b = &mut self.blocks[block];
        b.busy = false;
        b.floor = b.issued;
    }

    /// The change under way failed, or nobody knows.
    pub fn unknown(&mut self, block: usize) {
        self.blocks[block].busy = false;
    }

    /// True when something that was changed is known to be there.
    #[must_use]
    pub fn is_known(&self, block: usize) -> bool {
        self.blocks[block].floor > 0
    }

    /// To be taken when a read of the block is issued, and handed to [`Model::check`].
    #[must_use]
    pub fn floor(&self, block: usize) -> u32 {
        self.blocks[block].floor
    }

    /// Judges what a read returned that was issued when the floor was `floor`.
    ///
    /// # Errors
    /// The violation, if the block cannot have held that.
    pub fn check(&mut self, block: usize, floor: u32, found: Found) -> Result<(), Violation> {
        let volume = self.volume;
        let b = &mut self.blocks[block];
        let is_ours = |s: Stamp| {
            let here = s.volume == volume && s.block == block as u64;
            here && s.generation >= floor && s.generation <= b.issued && s.generation > 0
        };
        match found {
            Found::Zeroes if b.zeroed >= floor => Ok(()),
            Found::Stamp(s) if is_ours(s) => {
                // Seen once, it is there: later reads must not go back.
                b.floor = b.floor.max(s.generation);
                Ok(())
            }
            _ if self.start == Start::Anything && floor == 0 => Ok(()),
            _ => Err(Violation { block: block as u64, floor, issued: b.issued, found }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(generation: u32) -> Found {
        Found::Stamp(Stamp { volume: 9, block: 3, generation })
    }

    fn model() -> Model {
        Model::new(9, Start::Zeroes, 8)
    }

    #[test]
    fn a_finished_write_must_be_read() {
        let mut m = model();
        assert!(m.check(3, m.floor(3), Found::Zeroes).is_ok());
        assert_eq!(m.begin(3, Change::Write).generation, 1);
        let early = m.floor(3);
        m.succeeded(3);
        assert!(m.check(3, early, Found::Zeroes).is_ok(), "the read may have been first");
        assert!(m.check(3, m.floor(3), Found::Zeroes).is_err());
        assert!(m.check(3, m.floor(3), stamp(1)).is_ok());
        assert!(m.check(3, m.floor(3), stamp(2)).is_err(), "nobody wrote that yet");
        assert!(m.check(4, m.floor(4), stamp(1)).is_err(), "that is another block's");
    }

    #[test]
    fn an_unknown_write_is_allowed_until_a_later_one_succeeds() {
        let mut m = model();
        for _ in 0..2 {
            m.begin(3, Change::Write);
            m.unknown(3);
        }
        for found in [Found::Zeroes, stamp(1), stamp(2)] {
            assert!(model_check(&mut m, found).is_ok(), "{found:?}");
        }
        assert!(model_check(&mut m, stamp(1)).is_err(), "2 was seen, so 1 is gone");
        m.begin(3, Change::Write);
        m.succeeded(3);
        assert!(model_check(&mut m, stamp(2)).is_err());
        assert!(model_check(&mut m, stamp(3)).is_ok());
    }

    #[test]
    fn zeroes_after_a_trim_only() {
        let mut m = model();
        m.begin(3, Change::Write);
        m.succeeded(3);
        let before = m.floor(3);
        m.begin(3, Change::Zero);
        assert!(m.busy(2, 2) && !m.busy(4, 4));
        assert!(m.check(3, before, stamp(1)).is_ok());
        m.succeeded(3);
        m.begin(3, Change::Write);
        m.succeeded(3);
        assert!(
            m.check(3, before, Found::Zeroes).is_ok(),
            "a read that ran all along may have seen the trim"
        );
        assert!(model_check(&mut m, Found::Zeroes).is_err());
        assert!(model_check(&mut m, Found::Damaged).is_err());
    }

    #[test]
    fn what_was_there_before_is_believed_until_a_write_is_done() {
        let mut m = Model::new(9, Start::Anything, 8);
        for found in [Found::Damaged, Found::Zeroes, stamp(77)] {
            assert!(model_check(&mut m, found).is_ok(), "{found:?}");
        }
        assert!(!m.is_known(3));
        m.begin(3, Change::Write);
        let before = m.floor(3);
        m.succeeded(3);
        assert!(m.is_known(3));
        assert!(m.check(3, before, Found::Damaged).is_ok(), "that read may have been first");
        assert!(model_check(&mut m, Found::Damaged).is_err());
        assert!(model_check(&mut m, stamp(1)).is_ok());
    }

    fn model_check(m: &mut Model, found: Found) -> Result<(), Violation> {
        let floor = m.floor(3);
        m.check(3, floor, found)
    }
}
