//! What the scrubber is told, and what it tells.

/// Damaged places that are named.
pub(crate) const MAX_NAMED: usize = 64;

/// What the scrubbers of all shards are to do. Whoever sends it keeps the schedule: the store looks at no clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubPlan {
    /// Rounds are numbered. A shard that has not been through this one goes through it; 0 for none. A round that a restart
    /// interrupts goes on about where it was.
    pub round: u64,
    /// Nothing is read meanwhile.
    pub paused: bool,
    /// What each shard reads in a second at most; 0 for no bound. Bytes.
    pub bytes_per_s: u64,
}

/// What a look at the labels of drives has found: superblocks ([`PoolOwner::scrub`](crate::PoolOwner::scrub)) or the key table
/// ([`KeyTable::scrub`](crate::KeyTable::scrub)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LabelScrub {
    /// Read and verified. Bytes.
    pub checked_bytes: u64,
    /// Copies that were wrong or could not be read, and were or are being written anew.
    pub mended: u64,
}

/// Where the scrubbers of a core's shards stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// The last round that all of them have been through.
    pub finished: u64,
    /// The round that some of them are in or wait for; 0 for none.
    pub running: u64,
    /// Segments that this round has been over, and those that it will have.
    pub segments_done: u64,
    /// Likewise, in all.
    pub segments: u64,
    /// Read and verified since the start, parity and copies included. Bytes.
    pub checked_bytes: u64,
    /// Columns of commits and copies of pages that were wrong or could not be read, since the start, and that others gave: what lives
    /// there is moved.
    pub mended: u64,
    /// Blocks and pages in use that nothing gives any more, since the start; those that cleaning came upon, too.
    pub lost: u64,
    /// Some of these, for people.
    pub named: Vec<String>,
}

impl ScrubReport {
    /// Adds what another core tells.
    pub fn add(&mut self, other: &ScrubReport) {
        self.finished = self.finished.min(other.finished);
        self.running = self.running.max(other.running);
        self.segments_done += other.segments_done;
        self.segments += other.segments;
        self.checked_bytes += other.checked_bytes;
        self.mended += other.mended;
        self.lost += other.lost;
        let room = MAX_NAMED.saturating_sub(self.named.len());
        self.named.extend(other.named.iter().take(room).cloned());
    }
}
