//! Blocks that a lost controller may still write to.
//!
//! A change whose answer never came may be carried out late: its controller is cut off from us, not stopped. Sent again on
//! another path it is soon done and answered; and then a *newer* change of the same blocks must not be answered before
//! the old one is sure to be over, or the late one would overwrite newer data. So its blocks are fenced: only the change
//! itself may be sent again, everything else that would change them waits.
//!
//! With one path alone nothing waits, since what is sent again goes through the same port, and what has not reached that never will
//! ([`Queue::abort`](crate::queue::Queue::abort)); the fences are kept for the path that may be added.
//!
//! How long is the controller's word (Base 2.1, 9.6): once it has noticed the loss, its commands end within CQT; and it
//! notices at the latest when its keep-alive timer expires.

use super::{Subsystem, follow::number};
use crate::{
    command::Lane,
    slots::{Payload, Place, Slot, SlotId},
};
use dolmen_nvme::spec::{DatasetCommand, DsmRange, Fuse, NvmOpcode, Sqe};
use dolmen_types::Nanos;
use std::ops::Range;

/// Fences kept apart; more are drawn together, namespace by namespace.
const MAX_FENCES: usize = 8192;

/// All blocks.
const EVERYTHING: Range<u64> = 0..u64::MAX;

/// What is done about changes whose outcome is unknown when another path takes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fencing {
    /// They are sent again on another path at once; their blocks take no other change until the lost controller is sure
    /// to have ended them. Right where this host alone writes to the namespace, as file systems of one host do.
    #[default]
    Blocks,
    /// They are not sent again before that. Needed where several hosts write to the same blocks and agree among
    /// themselves who may: an answer then means that nothing comes after it.
    Commands,
    /// Nothing, as the Linux kernel does it: a change may overwrite a newer one if its controller was slow, not dead.
    Off,
}

/// Blocks of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) nsid: u32,
    pub(super) blocks: Range<u64>,
}

impl Span {
    fn overlaps(&self, other: &Span) -> bool {
        self.nsid == other.nsid
            && self.blocks.start < other.blocks.end
            && other.blocks.start < self.blocks.end
    }

    /// What an I/O command changes; `None` for one that changes no blocks. What can't be told is everything.
    fn of(sqe: &Sqe, payload: &Payload) -> Option<Span> {
        let blocks = match NvmOpcode(sqe.opcode) {
            NvmOpcode::WRITE | NvmOpcode::WRITE_ZEROES | NvmOpcode::WRITE_UNCORRECTABLE => {
                let rw = sqe.read_write();
                rw.start..rw.start.saturating_add(u64::from(rw.blocks))
            }
            // The first half of a pair stands for both: it is what waits, and the write's blocks are the same.
            NvmOpcode::COMPARE if sqe.fuse() == Fuse::First => {
                let rw = sqe.read_write();
                rw.start..rw.start.saturating_add(u64::from(rw.blocks))
            }
            NvmOpcode::DATASET_MANAGEMENT => hull(sqe, payload),
            NvmOpcode::READ
            | NvmOpcode::COMPARE
            | NvmOpcode::VERIFY
            | NvmOpcode::FLUSH
            | NvmOpcode::RESERVATION_REGISTER
            | NvmOpcode::RESERVATION_REPORT
            | NvmOpcode::RESERVATION_ACQUIRE
            | NvmOpcode::RESERVATION_RELEASE => return None,
            // A Copy's length is in its list, and other commands are not known here.
            _ => EVERYTHING,
        };
        Some(Span { nsid: sqe.nsid.get(), blocks })
    }
}

impl Slot {
    /// What the command in it changes, as far as fences are concerned: only I/O commands of callers change blocks. What we send
    /// on our own behalf is in the admin lane, whatever queue it goes to.
    pub(super) fn span(&self) -> Option<Span> {
        match self.lane {
            Lane::Io => Span::of(&self.sqe, &self.payload),
            Lane::Admin => None,
        }
    }
}

/// From the first block of a range list to its last.
fn hull(sqe: &Sqe, payload: &Payload) -> Range<u64> {
    let Some(bytes) = payload.bytes() else { return EVERYTHING };
    let (entries, _) = bytes.as_chunks::<{ size_of::<DsmRange>() }>();
    let ranges = entries.iter().take(usize::from(DatasetCommand::of(sqe).ranges)).map(|entry| {
        let range: &DsmRange = zerocopy::transmute_ref!(entry);
        range.start.get()..range.start.get().saturating_add(u64::from(range.blocks.get()))
    });
    ranges.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).unwrap_or(EVERYTHING)
}

struct Fence {
    span: Span,
    until: Nanos,
    /// The change that may be sent again, until it is answered.
    owner: Option<SlotId>,
}

/// The fences of one subsystem.
#[derive(Default)]
pub(super) struct Fences {
    fences: Vec<Fence>,
}

impl Fences {
    /// True when nothing is fenced: nearly always.
    pub(super) fn is_empty(&self) -> bool {
        self.fences.is_empty()
    }

    /// Fences a change's blocks; without an owner if its caller is answered.
    pub(super) fn add(&mut self, span: Span, until: Nanos, owner: Option<SlotId>) {
        if self.fences.len() >= MAX_FENCES {
            self.draw_together();
        }
        self.fences.push(Fence { span, until, owner });
    }

    /// One fence over each namespace that has any. The changes inside wait then, too; that is always right.
    fn draw_together(&mut self) {
        let mut all: Vec<Fence> = Vec::new();
        for fence in self.fences.drain(..) {
            match all.iter_mut().find(|f| f.span.nsid == fence.span.nsid) {
                Some(one) => one.until = one.until.max(fence.until),
                None => all.push(Fence {
                    span: Span { nsid: fence.span.nsid, blocks: EVERYTHING },
                    until: fence.until,
                    owner: None,
                }),
            }
        }
        self.fences = all;
    }

    /// Until when a change has to wait; `None` if it need not.
    pub(super) fn holds(&self, span: &Span, who: SlotId) -> Option<Nanos> {
        let others = self.fences.iter().filter(|f| f.owner != Some(who) && f.span.overlaps(span));
        others.map(|f| f.until).max()
    }

    /// A change was answered: its slot will be another's.
    pub(super) fn disown(&mut self, who: SlotId) {
        self.fences.iter_mut().filter(|f| f.owner == Some(who)).for_each(|f| f.owner = None);
    }

    /// Takes away what is over.
    pub(super) fn prune(&mut self, now: Nanos) {
        self.fences.retain(|f| f.until > now);
    }
}

impl Subsystem {
    /// Fences the blocks of changes whose outcome is unknown: what was under way on a path that is over.
    pub(super) fn fence(&mut self, at: usize, now: Nanos) {
        let path = number(at);
        let expired: Vec<(u8, Span)> = self.expired.extract_if(.., |(its, _)| *its == path).collect();
        let Some(until) = self.quiet_at(at, now) else { return };
        let mut lost = Vec::new();
        for (id, slot) in self.shared.slots.iter() {
            if slot.under().is_some_and(|under| under.path == path)
                && let Some(span) = slot.span()
            {
                let owner = (!matches!(slot.place, Place::Abandoned(_))).then_some(id);
                lost.push((owner, span));
            }
        }
        // An attempt to connect that fails leaves nothing behind: it holds nothing up.
        if expired.is_empty() && lost.is_empty() {
            return;
        }
        for (_, span) in expired {
            self.fences.add(span, until, None);
        }
        for (owner, span) in lost {
            self.fences.add(span, until, owner);
        }
        if self.keeps_fences() {
            self.hold_overlapping(path, until);
        }
    }

    /// True when there are fences, and they hold. One port takes what it received before what it receives later, and
    /// receives nothing more of a connection that is over: nothing waits as long as there is no other; but that may be added while an
    /// old change is still to be feared.
    #[inline]
    pub(super) fn keeps_fences(&self) -> bool {
        !self.fences.is_empty() && self.routes.len() > 1
    }

    /// Changes of fenced blocks that wait in other lanes go back to where they are looked at again. One that is under way on
    /// another path already may be carried out before or after ours is sent again; then ours waits for the end, too.
    fn hold_overlapping(&mut self, path: u8, until: Nanos) {
        let (mut waiting, mut under_way) = (Vec::new(), Vec::new());
        for (id, slot) in self.shared.slots.iter() {
            let Some(span) = slot.span() else { continue };
            match slot.place {
                Place::Waiting if slot.is_callers() && self.fences.holds(&span, id).is_some() => {
                    waiting.push(id);
                }
                Place::Sent(under) if under.path != path && self.fences.holds(&span, id).is_some() => {
                    under_way.push((id, span));
                }
                _ => {}
            }
        }
        for id in waiting {
            self.routes.iter_mut().for_each(|route| route.forget(id));
            self.shelter.retain(|&other| other != id);
            if let Some(second) = self.shared.slots.get(id).is_fused().then(|| self.partner(id)).flatten() {
                self.routes.iter_mut().for_each(|route| route.forget(second));
            }
            self.shared.slots.get_mut(id).place = Place::Parked { until };
        }
        for (id, span) in under_way {
            self.fences.add(span, until, Some(id));
        }
        self.wake_at = self.wake_at.min(until);
    }

    /// When the controller of an association that is over is sure to have ended its commands; `None` when nothing is to be
    /// fenced.
    pub(super) fn quiet_at(&self, at: usize, now: Nanos) -> Option<Nanos> {
        let options = &self.shared.options;
        match options.fencing {
            Fencing::Off => return None,
            Fencing::Blocks | Fencing::Commands => {}
        }
        let path = &self.routes[at].path;
        let identity = path.identity()?;
        let quiesce_ms = options.quiesce_ms.unwrap_or(u64::from(identity.quiesce_ms));
        if quiesce_ms == 0 {
            return None;
        }
        // Until its keep-alive timer expires, counted from the worst moment; it is looked at once per timeout where any
        // command counts (TBKAS).
        let timeouts = if identity.traffic_keeps_alive { 3 } else { 2 };
        let notice_ms = if path.is_told() { 0 } else { timeouts * u64::from(options.keep_alive_ms) };
        Some(now.plus_ms(notice_ms + quiesce_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dolmen_io::{Pool, PoolConfig};
    use dolmen_nvme::spec::ReadWrite;

    fn span(nsid: u32, blocks: Range<u64>) -> Span {
        Span { nsid, blocks }
    }

    #[test]
    fn only_the_owner_passes_and_time_opens() {
        let mut fences = Fences::default();
        fences.add(span(1, 10..20), Nanos(100), Some(7));
        fences.add(span(1, 15..30), Nanos(200), Some(8));
        assert_eq!(fences.holds(&span(1, 0..10), 9), None);
        assert_eq!(fences.holds(&span(2, 10..20), 9), None);
        assert_eq!(fences.holds(&span(1, 19..20), 9), Some(Nanos(200)));
        // Two changes of the same blocks, both lost: neither may be answered before the other is over.
        assert_eq!(fences.holds(&span(1, 10..20), 7), Some(Nanos(200)));
        assert_eq!(fences.holds(&span(1, 15..30), 8), Some(Nanos(100)));
        fences.disown(7);
        assert_eq!(fences.holds(&span(1, 10..15), 7), Some(Nanos(100)));
        fences.prune(Nanos(100));
        assert_eq!(fences.holds(&span(1, 10..15), 9), None);
        fences.prune(Nanos(200));
        assert!(fences.is_empty());
    }

    #[test]
    fn fences_are_bounded() {
        let mut fences = Fences::default();
        for i in 0..20_000u32 {
            fences.add(span(i % 3, u64::from(i)..u64::from(i) + 1), Nanos(u64::from(i)), Some(i));
        }
        assert!(fences.fences.len() <= MAX_FENCES);
        assert!(fences.holds(&span(2, 5..6), u32::MAX).is_some(), "what was drawn together still holds");
    }

    #[test]
    fn spans_are_what_commands_change() {
        let rw = ReadWrite { start: 5, blocks: 3, ..ReadWrite::default() };
        let of = |opcode| Span::of(&Sqe::with_read_write(opcode, 0, 2, rw), &Payload::None);
        assert_eq!(of(NvmOpcode::WRITE), Some(span(2, 5..8)));
        assert_eq!(of(NvmOpcode::READ), None);
        assert_eq!(of(NvmOpcode::COPY), Some(span(2, EVERYTHING)));
        let pool = Pool::new(&PoolConfig::new(vec![(4096, 1)]));
        let mut list = pool.alloc(48).unwrap();
        list.fill(0);
        for (at, (start, blocks)) in [(9u64, 2u32), (3, 1), (100, 5)].into_iter().enumerate() {
            list[at * 16 + 4..at * 16 + 8].copy_from_slice(&blocks.to_le_bytes());
            list[at * 16 + 8..at * 16 + 16].copy_from_slice(&start.to_le_bytes());
        }
        let sqe = DatasetCommand { ranges: 3, deallocate: true }.encode(0, 2);
        assert_eq!(Span::of(&sqe, &Payload::Out(list)), Some(span(2, 3..105)));
    }
}
