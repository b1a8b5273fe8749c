//! Giving segments back without a checkpoint.
//!
//! What cleaning moved out of a segment is named by the log, and replay finds it there; what leaves still name in the old place is
//! hidden by that until a checkpoint merges it. So a segment of which nothing is needed any more can go as soon as a record that
//! says so is durable, if no replay begins in it or reads a commit of it. Its slot stays taken until the leaves have followed.
//!
//! The record stands behind the moves in the order of commits, live and at replay, so its units are given back only when nobody can
//! look there any more.

use super::{Phase, Shard};
use crate::ToPool;
use crate::format::commit::HeaderWriter;
use crate::segments::SegmentName;

/// Records of the kind in one commit at most: they fit beside as many moves as one has.
pub(super) const RETIRED_AT_ONCE: usize = 16;

/// Bytes of one such record.
pub(super) const RETIRE_BYTES: usize = 16;

impl Shard {
    /// True when cleaning has emptied a segment and it need not wait for a checkpoint.
    pub(super) fn may_retire(&self, name: SegmentName) -> bool {
        let needed = |columns| {
            self.checkpoint.starts.iter().chain(&self.checkpoint.next_starts).any(|c| *c == columns)
        };
        // Slots that are kept for stale names alone are bounded: a checkpoint frees them.
        // What a running checkpoint has given up is needed again if it never ends.
        !self.checkpoint.gave_up
            && !self.checkpoint.inherited.contains(&name.slot)
            && self.segments.retired_count() + self.retiring.len() < self.drives.total_units()
            && self.segments.named(name).is_some_and(|s| {
                s.cleaned
                    && s.closed
                    && s.delta == 0
                    && s.body == 0
                    && s.last_commit <= self.checkpoint.base
                    && !needed(s.columns)
            })
    }

    /// A checkpoint has ended: what was emptied meanwhile, or was too young before, may go now.
    pub(super) fn retire_cleaned(&mut self) {
        self.retiring.retain(|&name| self.segments.named(name).is_some());
        let cleaned = self.segments.iter().filter(|(_, s)| s.cleaned).map(|(slot, s)| s.name(slot));
        let (go, stay): (Vec<SegmentName>, Vec<SegmentName>) =
            cleaned.filter(|name| !self.retiring.contains(name)).partition(|&name| self.may_retire(name));
        self.cleaned = stay.len();
        self.retiring.extend(go);
    }

    /// Writes records of what is to be given back into a commit's header.
    pub(super) fn put_retired(&mut self, header: &mut HeaderWriter) {
        let count = self.retiring.len().min(RETIRED_AT_ONCE);
        let names: Vec<SegmentName> = self.retiring.drain(..count).collect();
        // A checkpoint may have been quicker.
        for name in names.into_iter().filter(|&name| self.may_retire(name)) {
            header.retire(name.slot, name.stream, name.stream_seq);
        }
    }

    /// Nothing lives in a segment any more, and the log says so: its units are free.
    pub(super) fn retire(&mut self, name: SegmentName) {
        let Some(columns) = self.segments.retire(name) else { return };
        // At replay the units are simply not reported as held.
        if !matches!(self.phase, Phase::Recovering) {
            self.to_pool.push(ToPool::Release { shard: self.id.shard, segments: vec![columns] });
        }
    }
}
