//! What a check has found: what is lost, by blocks and who shows them, and what the pool repairs, by the drive that is the cause.

use super::CheckProgress;
use crate::lost::Losses;
use crate::{Finding, Key, LostRange};
use dolmen_types::{Lba, LineId, PgId, ShardId, Uuid};
use std::collections::BTreeMap;

/// Problems of one sort that are listed at most; more are only counted.
const MAX_NAMED: usize = 1000;

/// Something that a check found wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// The line that it belongs to, where that is known.
    pub line: Option<LineId>,
    /// The block of the line, where it is one.
    pub lba: Option<Lba>,
    /// Drive, unit and offset, where that is known; empty otherwise.
    pub place: String,
    /// False when other columns still give what is wrong here.
    pub lost: bool,
    /// What is wrong.
    pub what: String,
}

/// What is wrong with one drive and right on others, or can't be had from it and is computed from others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriveDamage {
    /// Where the drive is, or was.
    pub path: String,
    /// Blocks of volumes and snapshots that are wrong on it.
    pub blocks: u64,
    /// Pages of the map.
    pub pages: u64,
    /// Columns of commits: data and parity, with whatever they hold, and the heads of columns.
    pub columns: u64,
    /// Copies of superblock, anchors and wrapped keys.
    pub labels: u64,
    /// Blocks that others give since the drive is missing, out, or does not answer.
    pub absent: u64,
}

/// A sort of [`DriveDamage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Block,
    Page,
    Column,
    Label,
}

/// How far a check is in what it has to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Meter {
    pub(super) progress: CheckProgress,
    /// Shards that are through, and all.
    pub(super) shards: (u16, u16),
    /// Bytes of the current one.
    pub(super) done: u64,
    pub(super) total: u64,
}

impl Meter {
    pub(super) fn begin(&mut self, shard: ShardId, total: u64) {
        (self.shards.0, self.done, self.total) = (shard.0, 0, total);
        self.add(0);
    }

    pub(super) fn add(&mut self, bytes: u64) {
        self.done = self.total.min(self.done + bytes);
        let part = (self.done * 1000).checked_div(self.total).unwrap_or(0);
        let all = (u64::from(self.shards.0) * 1000 + part) / u64::from(self.shards.1.max(1));
        self.progress.0.set(u32::try_from(all).unwrap_or(1000));
    }
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// The pool.
    pub pool: Uuid,
    /// Its drives, by path, but for those that have left.
    pub drives: Vec<String>,
    /// All places of its table of drives, by path: how places on drives are told.
    pub(super) table: Vec<String>,
    /// Shards that were looked at.
    pub shards: u16,
    /// Lines that exist.
    pub lines: u64,
    /// Leaves of their maps that were read.
    pub leaves: u64,
    /// Stored blocks that were read.
    pub blocks: u64,
    /// Units that shards hold.
    pub units_held: u64,
    /// Commits whose columns were compared with each other.
    pub commits: u64,
    /// Places that hold something wrong, which other columns still give right: the pool mends them when it meets them.
    pub mendable: u64,
    /// Problems in all: what is lost.
    pub problems: u64,
    /// The blocks that are lost, all of them, with the states that show them: what no state shows any more has none.
    pub lost: Vec<LostRange>,
    /// What else is lost, and is no block of a line.
    pub others: Vec<Damage>,
    /// The drives with something that can be repaired, in the pool's order.
    pub by_drive: Vec<DriveDamage>,
    /// The first of both sorts; each names what is damaged.
    pub named: Vec<Damage>,
    /// What the opening of the pool would come upon.
    pub findings: Vec<Finding>,
    /// All keyed objects, by which lines are told by their names.
    pub objects: Vec<(PgId, Key, Box<[u8]>)>,
    pub(super) meter: Meter,
    pub(super) losses: Losses,
    pub(super) drives_of: BTreeMap<u16, DriveDamage>,
}

impl CheckReport {
    /// Something is wrong on a drive, and right elsewhere.
    pub(super) fn mended(&mut self, drive: u16, sort: Sort, damage: Damage) {
        self.mendable += 1;
        let of = self.drive(drive);
        *match sort {
            Sort::Block => &mut of.blocks,
            Sort::Page => &mut of.pages,
            Sort::Column => &mut of.columns,
            Sort::Label => &mut of.labels,
        } += 1;
        if self.mendable <= MAX_NAMED as u64 {
            self.named.push(damage);
        }
    }

    /// A drive does not give a block, and others do.
    pub(super) fn absent(&mut self, drive: u16) {
        self.drive(drive).absent += 1;
    }

    /// Blocks of a line are lost, which are named beside.
    pub(super) fn lost_blocks(&mut self, damage: Damage) {
        self.problems += 1;
        if self.problems <= MAX_NAMED as u64 {
            self.named.push(Damage { lost: true, ..damage });
        }
    }

    /// Something else is lost.
    pub(super) fn problem(&mut self, damage: Damage) {
        if self.others.len() < MAX_NAMED {
            self.others.push(Damage { lost: true, ..damage.clone() });
        }
        self.lost_blocks(damage);
    }

    /// Nothing more is found.
    pub(super) fn close(&mut self) {
        self.lost = std::mem::take(&mut self.losses).ranges();
        self.by_drive = std::mem::take(&mut self.drives_of).into_values().collect();
    }

    fn drive(&mut self, drive: u16) -> &mut DriveDamage {
        let path = self.table.get(usize::from(drive)).cloned().unwrap_or_default();
        self.drives_of.entry(drive).or_insert_with(|| DriveDamage { path, ..DriveDamage::default() })
    }
}
