//! What a shard does when drives go: commits under way are excused from the columns that went, streams move on to whole
//! segments, and what lives in segments that lack a column is moved by cleaning and checkpoints like anything else.

use super::log::OpenSegment;
use super::{Phase, Shard, Shared};
use crate::ToPool;
use crate::columns::Columns;
use crate::format::segment::Stream;
use crate::location::Slot;
use crate::message::Members;
use crate::segments::Segment;
use dolmen_io::exec::{Completion, Handle};
use dolmen_io::{Event, Io, Op};
use dolmen_types::Nanos;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

/// How often reads and writes under way are looked at for lateness. Nanoseconds.
const LOOK_NS: u64 = 20_000_000;

/// Pause between two checkpoints that are begun for segments at risk alone, twice as long after each one that takes nothing further, and
/// the longest. Nanoseconds.
const CHECKPOINT_NS: u64 = 200_000_000;
const VAIN_CHECKPOINT_NS: u64 = 60_000_000_000;

/// Segments at risk, as of the last look.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Risk {
    /// There are some, or a stream is about to use one.
    pub(crate) any: bool,
    /// How many.
    pub(crate) segments: u64,
    /// Live bytes in them.
    pub(crate) bytes: u64,
    /// Drives without which something there could not be had.
    needs: u64,
    /// A checkpoint would give some of them back, or empty them of map pages, or let a stream leave one.
    checkpoint: bool,
    /// When a checkpoint was asked for last, and when the next one may be.
    asked: Nanos,
    pause_ns: u64,
    /// Segments and live bytes then.
    before: (u64, u64),
}

impl Shard {
    /// The membership has changed, durably.
    pub(crate) fn members_changed(&mut self, members: Members) {
        self.drives.set_members(members);
        self.risk.pause_ns = CHECKPOINT_NS;
        self.drop_leases();
        self.weigh_risk();
        self.apply_durable();
        self.members_bell.notify();
        self.clean_bell.notify();
        self.checkpoint_bell.notify();
    }

    /// More drives fail than the pool can lose: nothing is written any more.
    pub(crate) fn halt(&mut self, reason: String) {
        self.halted = Some(reason.clone());
        self.stop(reason);
        self.members_bell.notify();
        self.lease_bell.notify();
    }

    /// Gives back leases that lack a column, but for those that an open segment or an anchor names as its successor.
    fn drop_leases(&mut self) {
        let mut segments = Vec::new();
        for stream in Stream::ALL {
            let open = self.log.streams[stream as usize].open;
            if stream == Stream::Meta && open.is_some_and(|o| self.should_leave(&o)) {
                self.end_meta();
            }
            let kept = usize::from(stream != Stream::Meta);
            let leases = std::mem::take(&mut self.log.streams[stream as usize].leases);
            let (stay, go): (Vec<_>, Vec<_>) =
                leases.into_iter().enumerate().partition(|(i, l)| *i < kept || !self.lacks(&l.columns));
            segments.extend(go.iter().map(|(_, l)| l.columns));
            self.log.streams[stream as usize].leases = stay.into_iter().map(|(_, l)| l).collect();
        }
        if !segments.is_empty() {
            self.to_pool.push(ToPool::Release { shard: self.id.shard, segments });
        }
    }

    /// Ends the open metadata segment: nothing has to follow it.
    fn end_meta(&mut self) {
        let open = self.log.streams[Stream::Meta as usize].open.take();
        if let Some(segment) = open.and_then(|o| self.segments.at_mut(o.slot)) {
            segment.closed = true;
        }
    }

    /// Drives from which everything is to be moved.
    pub(super) fn unwanted(&self) -> u64 {
        let members = self.drives.members();
        members.out | members.leaving
    }

    /// True when a segment of these columns lacks one, will do so soon, or has less parity than the pool can give.
    pub(crate) fn lacks(&self, columns: &Columns) -> bool {
        let shape = self.drives.members().shape;
        columns.touches(self.unwanted()) || columns.parity() < usize::from(shape.parity)
    }

    /// True when a stream had better not go on in its open segment.
    pub(crate) fn should_leave(&self, open: &OpenSegment) -> bool {
        self.lacks(&open.columns) || self.segments.at(open.slot).is_some_and(|s| s.suspect != 0)
    }

    /// True when a stream appends to a segment that lacks a column, or will do so next.
    pub(crate) fn lacks_where(&self, stream: Stream) -> bool {
        let state = &self.log.streams[stream as usize];
        state.open.is_some_and(|o| self.should_leave(&o))
            || state.leases.front().is_some_and(|l| self.lacks(&l.columns))
    }

    /// Takes streams out of segments that lack a column, with commits of nothing where hosts send none; true when one was formed.
    pub(crate) fn move_on(&mut self, io: &mut Io) -> bool {
        let mut formed = false;
        for stream in Stream::LOGS {
            let named = stream != Stream::Bulk || self.log.bulk_named;
            let leases = self.log.streams[stream as usize].leases.len();
            if self.risk.any && named && leases >= 2 && self.lacks_where(stream) {
                formed |= self.form_step(io, stream);
            }
        }
        formed
    }

    /// True when cleaning should move what lives in a segment whatever that gains.
    pub(crate) fn is_at_risk(&self, segment: &Segment) -> bool {
        segment.at_risk(self.unwanted(), self.drives.members().shape)
    }

    /// Looks at all segments for such as lack a column.
    pub(crate) fn weigh_risk(&mut self) {
        self.space.ahead = None;
        let out = self.drives.members().out;
        let Risk { asked, pause_ns, before, .. } = self.risk;
        let mut risk = Risk { asked, pause_ns, before, ..Risk::default() };
        for (_, segment) in self.segments.iter().filter(|(_, s)| self.is_at_risk(s)) {
            risk.any = true;
            risk.segments += 1;
            risk.bytes += u64::from(segment.live());
            let moved =
                segment.base + segment.delta == 0 || segment.cleaned || segment.stream == Stream::Meta;
            risk.checkpoint |= segment.closed && moved;
            risk.needs |= segment.needs(out);
        }
        // What streams append to is not cleaned yet, but no other column of it may go either.
        let open = self.segments.iter().filter(|(_, s)| s.is_suspect() && !s.closed);
        for (_, segment) in open.filter(|(_, s)| !self.is_at_risk(s)) {
            risk.any = true;
            risk.segments += 1;
            risk.bytes += u64::from(segment.live());
            risk.needs |= segment.needs(out);
        }
        risk.any |= Stream::LOGS.into_iter().any(|stream| self.lacks_where(stream));
        // Until an anchor names the stream it can't move on.
        risk.checkpoint |= !self.log.bulk_named && self.lacks_where(Stream::Bulk);
        if risk.needs != self.risk.needs {
            self.to_pool.push(ToPool::Needs { shard: self.id.shard, drives: risk.needs });
        }
        self.risk = risk;
    }

    /// True when a checkpoint now takes re-protection further.
    pub(crate) fn risk_wants_checkpoint(&mut self) -> bool {
        let risk = &mut self.risk;
        let wants = risk.checkpoint && self.now.since(risk.asked) >= risk.pause_ns;
        if wants {
            let left = (risk.segments, risk.bytes);
            let pause_ns = if left == risk.before { risk.pause_ns * 2 } else { 0 };
            risk.pause_ns = pause_ns.clamp(CHECKPOINT_NS, VAIN_CHECKPOINT_NS);
            (risk.asked, risk.before) = (self.now, left);
        }
        wants
    }

    /// Columns of a segment, by their numbers, did not hold what was written: what lives there is moved.
    pub(crate) fn suspect(&mut self, slot: Slot, columns: &Columns, wrong: &[usize]) {
        if let Some(segment) = self.segments.at_mut(slot).filter(|s| s.columns == *columns) {
            let wrong = wrong.iter().fold(0, |set, column| set | 1 << column);
            if wrong & !segment.suspect != 0 {
                // What cleaning could not have before is another matter.
                segment.failed = 0;
            }
            segment.suspect |= wrong;
            if self.log.streams[Stream::Meta as usize].open.is_some_and(|o| o.slot == slot) {
                self.end_meta();
            }
            self.weigh_risk();
            self.clean_bell.notify();
        }
    }

    /// Looks at what is under way for lateness, now and then.
    pub(crate) fn look(&mut self) {
        if self.now.since(self.looked) < LOOK_NS {
            return;
        }
        self.looked = self.now;
        self.look_for_stuck_writes();
        self.look_for_slow_reads();
        self.drives.look_for_slow_drives(self.now);
        if self.risk.any {
            self.weigh_risk();
            self.clean_bell.notify();
        }
    }
}

/// A write or flush of a drive failed: waits until the drive is out. An error when the pool can't lose it.
pub(super) async fn cast_out(shard: &Shared, drive: u16, reason: String) -> Result<(), String> {
    let bell = {
        let s = shard.borrow();
        s.drives.fail(drive, reason.clone());
        s.members_bell.clone()
    };
    loop {
        {
            let s = shard.borrow();
            if !s.drives.counts(drive) {
                return Ok(());
            }
            if let Some(why) = &s.halted {
                return Err(why.clone());
            }
            if !matches!(s.phase, Phase::Serving | Phase::Recovering) {
                return Err(reason);
            }
        }
        bell.notified().await;
    }
}

/// Does the same on several drives at once and waits for all; a drive that fails, or does not end while another one has done it, is out
/// before this returns. An error when the pool can't lose it.
pub(super) async fn on_all(shard: &Shared, exec: &Handle, ops: Vec<(u16, Op)>) -> Result<(), String> {
    let bound_ms = shard.borrow().tuning.stuck_write_ms;
    let mut waiting: Vec<(u16, Completion)> =
        ops.into_iter().map(|(drive, op)| (drive, exec.start(op))).collect();
    let mut sleep = pin!(exec.sleep_until(exec.now().plus_ms(bound_ms)));
    let (mut late, mut done, mut failed) = (false, false, Vec::new());
    // A drive goes out one at a time, and until then others may end: nobody is blamed by an earlier look.
    let mut next = poll_fn(|cx| {
        waiting.retain_mut(|(drive, completion)| match Pin::new(completion).poll(cx) {
            Poll::Pending => true,
            Poll::Ready(Event::Failed { error, .. }) => {
                failed.push((*drive, error.to_string()));
                false
            }
            Poll::Ready(_) => {
                done = true;
                false
            }
        });
        late = late || sleep.as_mut().poll(cx).is_ready();
        let stuck = failed.is_empty() && late && done;
        if let Some((drive, _)) = if stuck { waiting.pop() } else { None } {
            failed.push((drive, format!("an operation did not end within {bound_ms} ms")));
        }
        match failed.pop() {
            None if !waiting.is_empty() => Poll::Pending,
            found => Poll::Ready(found),
        }
    });
    while let Some((drive, reason)) = (&mut next).await {
        cast_out(shard, drive, reason).await?;
    }
    Ok(())
}
