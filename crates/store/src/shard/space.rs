//! Space as one shard sees it: leases ahead, its allowance, when host writes wait and when they fail, what is due.

use super::{Lease, Phase, Shard};
use crate::format::segment::Stream;
use crate::map::Delta;
use crate::owner::stream_of;
use crate::policy::hosts_for_moved;
use crate::{Purpose, StoreError, ToPool, ToShard};
use dolmen_types::Nanos;
use dolmen_types::limits::BLOCK_BYTES;

/// Cleaned segments that are worth a checkpoint when space is scarce: at most this many at a time.
const MAX_FREEABLE: usize = 128;

/// What [`Shard::look_ahead`] decides by, but for leases and membership: changes of those forget it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    next_number: u64,
    live: u64,
    queued: bool,
    moves: bool,
}

/// How often it is looked at whether a checkpoint would free space. Nanoseconds.
const FREES_NS: u64 = 1_000_000;

/// The most often that one comes in the mere hope that it frees some. Nanoseconds.
const HOPE_NS: u64 = 1_000_000_000;

/// What was overwritten or unmapped counts as used until a checkpoint. So one comes for this many changes once no more have come for so
/// long; and while they go on, when much of the pool was unmapped. Not so soon after the one before. Blocks, nanoseconds.
const LAG_BLOCKS: u64 = 256;
const SETTLED_NS: u64 = 2_000_000_000;
const LAG_NS: u64 = 10_000_000_000;

/// That much of the pool: one of so many blocks.
const LAG_SHARE: u64 = 256;

/// Bursts of changes must not make drives write checkpoints all the time: it comes for changes of so many times the bytes that the last
/// one took, or once they have lasted for so long. Nanoseconds.
const WORTH_LAST: u64 = 2;
const WORTH_NS: u64 = 600_000_000_000;

/// A checkpoint comes for what heirs were written when that has ended for so long, or has gone on for so long. Nanoseconds.
const QUIET_NS: u64 = 10_000_000_000;
const LASTING_NS: u64 = 600_000_000_000;

/// A checkpoint comes for losses that none has yet, but no sooner than so long after the one before: a host may come upon one after the other.
/// Nanoseconds.
const LOSSES_NS: u64 = 60_000_000_000;

/// A unit that was asked for this long ago is not to be had without a checkpoint. Nanoseconds.
const STARVED_NS: u64 = 10_000_000;

/// Hosts that have to keep pace with cleaning wait no longer for its next step: a drive may take its time to read what is to be moved.
/// Nanoseconds.
const PACE_NS: u64 = 1_000_000_000;

/// What hosts may have saved up at most for when they have to keep pace with cleaning: about a job's worth. Bytes.
const CREDIT_BYTES: u64 = 256 * 1024;

impl Shard {
    /// A message of the pool's owner.
    pub(crate) fn on_pool(&mut self, message: ToShard) {
        self.space.ahead = None;
        match message {
            ToShard::Lease { columns, purpose } => {
                let state = &mut self.log.streams[stream_of(purpose) as usize];
                state
                    .leases
                    .push_back(Lease { columns, host: matches!(purpose, Purpose::Host | Purpose::Bulk) });
                // A higher class may have been asked for since; its answer comes by itself.
                state.wanted = None;
                self.space.short_since = None;
                self.lease_bell.notify();
            }
            ToShard::Space(level) => {
                self.space.level = level;
                self.space.answers += 1;
                self.space.short_since = None;
                self.clean_bell.notify();
            }
            ToShard::Joined(joined) => self.drives.join(joined),
            ToShard::Members(members) => self.members_changed(members),
            ToShard::Stop { reason } => self.halt(reason),
        }
    }

    /// Asks for a unit, unless that class (or a more urgent one) was asked for already.
    pub(crate) fn want(&mut self, purpose: Purpose) {
        let state = &mut self.log.streams[stream_of(purpose) as usize];
        if state.wanted.is_none_or(|p| p < purpose) {
            if state.wanted.is_none() {
                state.wanted_since = self.now;
            }
            state.wanted = Some(purpose);
            self.to_pool.push(ToPool::Want { shard: self.id.shard, purpose });
        }
    }

    /// The hot stream can't go on. Control records dig into the reserve when what hosts may have was not granted at once.
    pub(crate) fn want_hot(&mut self, control: bool) {
        let asked = self.log.streams[Stream::Hot as usize].wanted.is_some();
        self.want(if control && asked { Purpose::Control } else { Purpose::Host });
    }

    /// Keeps enough leases ahead and the pool's owner informed. Once per turn.
    pub(crate) fn look_ahead(&mut self) {
        if self.phase != Phase::Serving {
            return;
        }
        // Nearly every turn finds what the one before has found.
        let seen = Seen {
            next_number: self.log.next_number,
            live: self.segments.live_bytes(),
            queued: !self.queue.is_empty(),
            moves: !self.move_jobs.is_empty(),
        };
        if self.space.ahead.replace(seen) == Some(seen) {
            return;
        }
        let half = self.drives.unit_bytes / 2;
        let bulk = self.drives.members().shape.data > 1;
        for (stream, purpose) in
            [(Stream::Hot, Purpose::Host), (Stream::Cold, Purpose::Clean), (Stream::Bulk, Purpose::Bulk)]
        {
            let state = &self.log.streams[stream as usize];
            let leaves = self.lacks_where(stream);
            let begun = state.open.is_some() || !state.leases.is_empty();
            if stream == Stream::Bulk && !(begun && (bulk || leaves)) {
                // A stream that no anchor names can't be begun.
                continue;
            }
            let busy = match stream {
                Stream::Hot => !self.queue.is_empty(),
                Stream::Cold => !self.move_jobs.is_empty(),
                _ => false,
            };
            let soon = match state.open {
                Some(open) => open.tail > half,
                None => busy,
            };
            if state.leases.is_empty() || ((soon || leaves) && state.leases.len() < 2) {
                self.want(purpose);
            }
        }
        let taken = self.footprint();
        if taken.abs_diff(self.space.reported) >= u64::from(self.drives.unit_bytes) / 2 {
            self.report_live();
        }
    }

    /// Bytes on drives that what lives here takes once cleaning has been over it. A map takes more than its live pages: half as much
    /// again lies dead among them ([`pages_to_move`](super::checkpoint)), and a checkpoint writes what it replaces anew before the old
    /// goes. The reserve has room for that beside data, whose map is a small part of it; what a map of holes needs beyond
    /// counts, or the checkpoint that is to give space back would find none.
    pub(crate) fn footprint(&self) -> u64 {
        let shape = self.drives.members().shape;
        let beside = self.segments.meta_bytes() * u64::from(shape.narrow()) * 3 / 2;
        let held_back = self.space.level.map_bytes;
        let more = if held_back > 0 { beside.saturating_sub(held_back) } else { 0 };
        self.segments.footprint(shape) + more
    }

    /// Tells the pool's owner how much is live here; it answers with the level.
    pub(crate) fn report_live(&mut self) {
        self.space.reported = self.footprint();
        let footprint_bytes = self.space.reported;
        self.to_pool.push(ToPool::Live { shard: self.id.shard, footprint_bytes });
    }

    /// True when `bytes` more of host data keep within the allowance.
    pub(crate) fn allowed(&self, bytes: u64) -> bool {
        let more = self.drives.members().shape.raw(self.log.payload + bytes);
        self.footprint() + more <= self.space.level.allowance_bytes
    }

    /// True when the map may grow by `bytes` more for what hosts unmap.
    pub(super) fn may_take_holes(&self, bytes: u64) -> bool {
        let unmerged = self.map.live.holes_bytes() + self.map.frozen.as_ref().map_or(0, Delta::holes_bytes);
        let more = (unmerged + bytes) * u64::from(self.drives.members().shape.narrow());
        self.footprint() + more <= self.space.level.holes_bytes
    }

    /// True when a stream may take `bytes` more of host data: allowance, and a segment that is not the reserve's.
    pub(crate) fn may_take_host(&self, bytes: u64, stream: Stream) -> bool {
        let state = &self.log.streams[stream as usize];
        let own = state.open.is_some_and(|o| o.host) || state.leases.iter().any(|l| l.host);
        own && self.allowed(bytes)
    }

    /// Cleaning has emptied a segment, maybe without moving anything.
    pub(super) fn emptied_one(&mut self) {
        self.space.credit = CREDIT_BYTES.min(self.space.credit + u64::from(self.drives.unit_bytes) / 8);
        self.space.unpaid_since = None;
    }

    /// True when the head of the queue may be written now, as far as cleaning keeps up.
    pub(super) fn head_in_pace(&mut self, bytes: u64) -> bool {
        if self.is_paid(bytes) {
            self.space.unpaid_since = None;
        } else {
            self.space.unpaid_since.get_or_insert(self.now);
        }
        self.in_pace(bytes)
    }

    /// True when hosts may write so much now, or have to wait until cleaning has moved more. While it can't, they need not: how many
    /// units there are bounds them as well.
    pub(super) fn in_pace(&self, bytes: u64) -> bool {
        let stuck = self.space.unpaid_since.is_some_and(|since| self.now.since(since) > PACE_NS);
        stuck || self.is_paid(bytes)
    }

    fn is_paid(&self, bytes: u64) -> bool {
        let paced = hosts_for_moved(0, self.space.level.pressure).is_some() && !self.cleaner_idle;
        !paced || self.space.credit >= bytes.min(CREDIT_BYTES)
    }

    /// Cleaning has moved so much: hosts may write their share of that.
    pub(super) fn earn(&mut self, moved_bytes: u64) {
        let credit = match hosts_for_moved(moved_bytes, self.space.level.pressure) {
            Some(bytes) => self.space.credit.saturating_add(bytes).min(CREDIT_BYTES),
            None => CREDIT_BYTES,
        };
        self.space.credit = credit;
        self.space.unpaid_since = None;
    }

    /// Decides on the host batch at the head of the queue: true to take it now. Otherwise it waits, or has waited long enough
    /// and is ended with `Full`.
    pub(crate) fn admit_host(&mut self, now: Nanos, bytes: u64, stream: Stream) -> bool {
        if self.may_take_host(bytes, stream) {
            self.space.blocked = None;
            self.space.full = false;
            return true;
        }
        if !self.log.streams[stream as usize].leases.iter().any(|l| l.host) {
            // Leases that control records took from the reserve are not for host data.
            self.want(if stream == Stream::Bulk { Purpose::Bulk } else { Purpose::Host });
        }
        let mut give_up = self.is_short(now);
        if !self.allowed(bytes) {
            give_up |= self.is_used_up();
        }
        if give_up {
            self.refuse_head();
        }
        false
    }

    /// The same of one that does nothing but unmap, and takes that much of the map for good.
    pub(crate) fn admit_holes(&mut self, now: Nanos, bytes: u64) -> bool {
        if self.may_take_holes(bytes) {
            self.space.blocked = None;
            return true;
        }
        let used_up = self.is_used_up();
        if used_up || self.is_short(now) {
            self.refuse_head();
        }
        false
    }

    /// The allowance has no room for the head of the queue: whether that is so for certain, after a checkpoint that began since and
    /// the owner's answer to what it found.
    fn is_used_up(&mut self) -> bool {
        match self.space.blocked {
            None => {
                let begun = self.checkpoint.begun;
                self.space.blocked = Some((begun + 1, u64::MAX));
                self.checkpoint.requested = true;
            }
            // What heirs hide comes back bit by bit.
            Some((finished, u64::MAX))
                if self.checkpoint.finished >= finished && self.checkpoint.sweeping =>
            {
                self.space.blocked = Some((self.checkpoint.begun + 1, u64::MAX));
                self.checkpoint.requested = true;
            }
            Some((finished, u64::MAX)) if self.checkpoint.finished >= finished => {
                self.report_live();
                self.space.blocked = Some((finished, self.space.answers + 1));
            }
            Some((_, answers)) if answers != u64::MAX && self.space.answers >= answers => {
                self.space.full = true;
                return true;
            }
            Some(_) => {}
        }
        false
    }

    /// The host batch at the head of the queue waits for units; it is ended with `Full` when there were none for long enough.
    pub(crate) fn wait_for_units(&mut self, now: Nanos) {
        if self.is_short(now) {
            self.refuse_head();
        }
    }

    /// True when host batches have found no room for as long as they may wait. All of them wait for the same, so those behind the
    /// first have no time of their own: a queue of them would keep the last one waiting for minutes.
    fn is_short(&mut self, now: Nanos) -> bool {
        self.space.short_since.get_or_insert(now);
        self.refuses(now)
    }

    /// True when the last host batches found no room, and those that come now will not wait for it.
    pub(super) fn refuses(&self, now: Nanos) -> bool {
        self.space.short_since.is_some_and(|since| now.since(since) > self.tuning.full_wait_ms * 1_000_000)
    }

    fn refuse_head(&mut self) {
        let Some(head) = self.queue.pop_front() else { return };
        self.space.blocked = None;
        self.announced.refuse(&head.batch);
        self.refuse(head.ticket, StoreError::Full);
    }

    /// Changed blocks that make a checkpoint due: the knob, but no more than a small part of the pool, since what they
    /// supersede is not known to be free before.
    pub(crate) fn delta_limit(&self) -> usize {
        self.tuning.delta_entries.min((self.pool_blocks() / 8).max(64))
    }

    fn pool_blocks(&self) -> usize {
        self.drives.total_units() * (self.drives.unit_bytes as usize / BLOCK_BYTES)
    }

    /// Segments that the next checkpoint gives back for certain; those whose record finds no room are among them.
    pub(crate) fn freeable(&self) -> usize {
        let retiring = if self.starved(Stream::Cold) { self.retiring.len() } else { 0 };
        self.segments.iter().filter(|(_, s)| s.closed && s.base + s.delta == 0 && s.body == 0).count()
            + self.cleaned
            + retiring
    }

    /// Cleaned segments at which a checkpoint pays: it rewrites most of the map under a random load, so it should give
    /// back a few per cent of the pool at a time.
    pub(crate) fn freeable_goal(&self) -> usize {
        let width = self.drives.members().shape.wide() as usize;
        (self.drives.total_units() / width / 32).clamp(1, MAX_FREEABLE)
    }

    /// True when a stream has waited for a unit for longer than an answer takes.
    pub(super) fn starved(&self, stream: Stream) -> bool {
        let state = &self.log.streams[stream as usize];
        state.wanted.is_some() && self.now.since(state.wanted_since) > STARVED_NS
    }

    /// True when space is scarce and a checkpoint now is the way to get some. Each one rewrites a good part of the map under a
    /// random load, so while the cleaner gets on, even waiting hosts are better served by one that frees several units.
    fn checkpoint_frees(&mut self) -> bool {
        if !self.space.level.clean || self.now.since(self.space.weighed) < FREES_NS {
            return false;
        }
        self.space.weighed = self.now;
        let (freeable, goal) = (self.freeable(), self.freeable_goal());
        let hosts_wait = !self.queue.is_empty() && self.starved(Stream::Hot);
        let cleaner_waits = self.cleaner_idle || (!self.move_jobs.is_empty() && self.starved(Stream::Cold));
        freeable >= goal
            || (freeable > 0 && cleaner_waits)
            || (hosts_wait && freeable > goal / 2)
            || (cleaner_waits && self.hosts_hope(hosts_wait))
    }

    /// True when hosts find no room, and what was unmapped or overwritten since the last checkpoint is all that may give them some: by
    /// what the map knew then nothing is worth cleaning.
    fn hosts_hope(&mut self, hosts_wait: bool) -> bool {
        (hosts_wait || self.refuses(self.now)) && self.may_hope()
    }

    /// Asks for a checkpoint when what was overwritten or unmapped since the last one may make room.
    pub(super) fn hope_for_room(&mut self) {
        self.checkpoint.requested |= self.may_hope();
    }

    /// True when there is such a thing, now and then.
    fn may_hope(&mut self) -> bool {
        let may = self.map.live.len() > 0 && self.now.since(self.space.hoped) >= HOPE_NS;
        if may {
            self.space.hoped = self.now;
        }
        may
    }

    /// True when a checkpoint may come for a sweep that is in no haste, or for what heirs were written.
    pub(super) fn may_sweep(&self) -> bool {
        match self.checkpoint.heirs_written {
            Some((first, last)) => self.now.since(last) >= QUIET_NS || self.now.since(first) >= LASTING_NS,
            None => self.checkpoint.sweeping,
        }
    }

    /// True when the figures of space may be wrong by more than a little.
    fn figures_lag(&self) -> bool {
        self.map.live.len() as u64 >= LAG_BLOCKS || self.checkpoint.unmapped_blocks >= LAG_BLOCKS
    }

    /// True when a checkpoint is due so that they are right.
    fn brings_figures_up_to_date(&self) -> bool {
        let of = &self.checkpoint;
        let since_ns = self.now.since(of.frozen);
        if !self.figures_lag() || since_ns < LAG_NS {
            return false;
        }
        let settled = self.now.since(of.changed) >= SETTLED_NS;
        let much = of.unmapped_blocks >= self.pool_blocks() as u64 / LAG_SHARE;
        let blocks = of.unmapped_blocks.saturating_add(self.map.live.len() as u64);
        let changed = blocks.saturating_mul(BLOCK_BYTES as u64);
        (settled || much) && (changed >= WORTH_LAST * of.took_bytes || since_ns >= WORTH_NS)
    }

    /// True when a checkpoint is due so that a restart knows what is lost.
    fn keeps_losses(&self) -> bool {
        self.lost.unsaved && self.now.since(self.checkpoint.frozen) >= LOSSES_NS
    }

    /// Wakes the checkpoint task when a checkpoint is due.
    pub(crate) fn ring_checkpoint(&mut self) {
        if self.checkpoint.running || self.phase != Phase::Serving {
            return;
        }
        let risk = self.risk_wants_checkpoint();
        let due = self.checkpoint.requested
            || risk
            || self.map.live.len() >= self.delta_limit()
            || self.checkpoint.log_bytes >= self.tuning.log_bytes
            || self.checkpoint.dropping
            || self.may_sweep()
            || self.has_gone()
            || self.brings_figures_up_to_date()
            || self.keeps_losses()
            || self.checkpoint_frees();
        self.checkpoint.requested = due;
        // The last checkpoint waits for everything under way, and looks for itself whether it has ended.
        if due || self.closing {
            self.checkpoint_bell.notify();
        }
    }

    /// A stop whose last checkpoint finds no unit, and nobody cleans any more, goes without it: the next start has more to replay.
    pub(crate) fn stop_without_checkpoint(&mut self) {
        let drained = self.queue.is_empty() && self.log.flights.is_empty();
        self.down |= self.closing && drained && self.starved(Stream::Meta);
    }
}
