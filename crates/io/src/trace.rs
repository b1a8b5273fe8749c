//! What became of commands lately, for tools that ask where the time goes: always on, in memory that is bounded, written in place.
//! Each door has its own.
//!
//! Namespaces share [`RINGS`] rings, so that a busy volume does not wash a quiet one's commands away. A ring keeps every command while
//! few come, and one in 2^n when many do, such that it spans about [`LAP_NS`]; which one is kept does not depend on how long it
//! took. Beside that it keeps the slowest ones of the last half minute or so.

use crate::{Stage, Stamps, slab::Key};
use dolmen_types::{Nanos, Nqn};

/// Rings of one core, a power of two.
const RINGS: usize = 128;

/// Commands that a ring keeps, beside slow ones.
const ENTRIES: usize = 256;

/// Slow commands that a ring keeps of each window.
const SLOW: usize = 8;

/// Length of a window of slow commands. Nanoseconds.
const WINDOW_NS: u64 = 30_000_000_000;

/// What a ring spans at least when it is full. Nanoseconds.
const LAP_NS: u64 = 1_000_000_000;

/// So long after the last command that was kept the next one is kept in any case. Nanoseconds.
const GAP_NS: u64 = 50_000_000;

/// One in 2^n commands is kept, with n at most this.
const MAX_SHIFT: u32 = 14;

/// Commands of one connection whose send is still to be told of, at most.
const MAX_UNSENT: usize = 64;

/// A command that was answered.
#[derive(Clone, Copy, Debug)]
struct Trace {
    nsid: u32,
    opcode: u8,
    failed: bool,
    /// It stands for so many, as a power of two.
    shift: u8,
    lba: u64,
    /// Logical blocks of it, as far as its opcode says so.
    blocks: u32,
    /// Commands under way on its connection when it was answered, itself included.
    outstanding: u32,
    connection: Key,
    stamps: Stamps,
    /// From its reply to the end of the send that carried it, 0 while that is not known. Nanoseconds.
    send_ns: u32,
    serial: u32,
}

/// Where a trace is kept, for as long as it is.
#[derive(Clone, Copy, Debug)]
pub struct TraceAt {
    ring: u16,
    /// Among the entries, or beyond them among the slow ones.
    place: u16,
    serial: u32,
}

/// Traces of one connection whose replies are not sent yet.
#[derive(Debug, Default)]
pub struct Unsent {
    traces: Vec<TraceAt>,
    /// Of them, the first ones are in the send under way.
    in_send: usize,
}

/// A command that was answered, for tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandTrace {
    /// Its opcode.
    pub opcode: u8,
    /// It was answered with an error.
    pub failed: bool,
    /// It stands for so many that came beside it.
    pub weight: u32,
    /// First logical block.
    pub lba: u64,
    /// Logical blocks of a read or write.
    pub blocks: u32,
    /// Commands under way on its connection when it was answered, itself included; 0 for one that was answered on the spot.
    pub outstanding: u32,
    /// The host, while its connection lives.
    pub host: Option<Nqn>,
    /// When it passed which stage.
    pub stamps: Stamps,
    /// When the send that carried its reply ended, if that is known.
    pub sent: Option<Nanos>,
}

/// What a core knows of one namespace's commands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceReport {
    /// Commands answered lately, oldest first.
    pub recent: Vec<CommandTrace>,
    /// The slowest ones of the last half minute or so, slowest first.
    pub slowest: Vec<CommandTrace>,
    /// Commands that are held back now, as far as they have come. Doors know none.
    pub waiting: Vec<CommandTrace>,
    /// When this was told.
    pub now: Nanos,
}

/// Some namespaces' commands.
#[derive(Debug)]
struct Ring {
    entries: Vec<Trace>,
    next: usize,
    /// One in 2^shift is kept.
    shift: u32,
    /// Commands seen since the last one that was kept.
    seen: u32,
    kept_at: Nanos,
    lap_began: Nanos,
    slow: Vec<Trace>,
    before: Vec<Trace>,
    window_end: Nanos,
    /// Anything that took longer is among the slowest of this window.
    floor_ns: u64,
    serial: u32,
}

impl Ring {
    fn new(now: Nanos) -> Ring {
        Ring {
            entries: Vec::new(),
            next: 0,
            shift: 0,
            // The ring is made for its first command.
            seen: 1,
            kept_at: now,
            lap_began: now,
            slow: Vec::new(),
            before: Vec::new(),
            window_end: Nanos(now.0 + WINDOW_NS),
            floor_ns: 0,
            serial: 0,
        }
    }

    /// True when the command that is answered now, and is counted, is to be kept.
    #[inline]
    fn is_due(&self, now: Nanos) -> bool {
        self.seen >> self.shift != 0 || now.since(self.kept_at) >= GAP_NS
    }

    fn keep(&mut self, mut trace: Trace, now: Nanos) -> (usize, u32) {
        // One that was kept for the gap stands for fewer.
        let weight = self.seen.max(1).ilog2().min(self.shift);
        trace.shift = u8::try_from(weight).expect("small");
        self.shift = weight;
        (self.seen, self.kept_at) = (0, now);
        self.turn_window(now);
        self.serial = self.serial.wrapping_add(1);
        trace.serial = self.serial;
        let place = self.next;
        match self.entries.get_mut(place) {
            Some(entry) => *entry = trace,
            None => self.entries.push(trace),
        }
        self.next = (place + 1) % ENTRIES;
        if self.next == 0 {
            let lap_ns = now.since(self.lap_began);
            self.lap_began = now;
            if lap_ns < LAP_NS {
                self.shift = (self.shift + 1).min(MAX_SHIFT);
            } else if lap_ns > 4 * LAP_NS {
                self.shift = self.shift.saturating_sub(1);
            }
        }
        (place, trace.serial)
    }

    /// Begins a new window of slow commands when it is time.
    fn turn_window(&mut self, now: Nanos) {
        if now >= self.window_end {
            self.before = std::mem::take(&mut self.slow);
            (self.window_end, self.floor_ns) = (Nanos(now.0 + WINDOW_NS), 0);
        }
    }

    fn keep_slow(&mut self, mut trace: Trace, now: Nanos) -> (usize, u32) {
        self.turn_window(now);
        self.serial = self.serial.wrapping_add(1);
        trace.serial = self.serial;
        let place = if self.slow.len() < SLOW {
            self.slow.push(trace);
            self.slow.len() - 1
        } else {
            let fastest = (0..SLOW).min_by_key(|&at| took_ns(&self.slow[at].stamps)).unwrap_or(0);
            self.slow[fastest] = trace;
            fastest
        };
        if self.slow.len() == SLOW {
            // Clearly slower, so that commands that all take the same do not drive each other out.
            let fastest_ns = self.slow.iter().map(|t| took_ns(&t.stamps)).min().unwrap_or(0);
            self.floor_ns = fastest_ns + fastest_ns / 16 + 128;
        }
        (ENTRIES + place, trace.serial)
    }

    fn at(&mut self, at: TraceAt) -> Option<&mut Trace> {
        let place = usize::from(at.place);
        let trace = match place.checked_sub(ENTRIES) {
            None => self.entries.get_mut(place),
            Some(place) => self.slow.get_mut(place),
        };
        trace.filter(|trace| trace.serial == at.serial)
    }
}

/// From receipt to the staging of the reply. Nanoseconds.
fn took_ns(stamps: &Stamps) -> u64 {
    let at = |stage| stamps.at(stage).unwrap_or_default();
    at(Stage::Replied).since(at(Stage::Received))
}

/// The ring of a namespace.
fn ring_of(nsid: u32) -> usize {
    usize::try_from(nsid).unwrap_or_default() % RINGS
}

/// A command that is answered now, before it is known whether it is kept.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// The namespace that it was for.
    pub nsid: u32,
    /// What it did: the opcode of the NVM command, or of the one that does the same.
    pub opcode: u8,
    /// With an error.
    pub failed: bool,
    /// First logical block.
    pub lba: u64,
    /// Logical blocks, as far as its opcode says so.
    pub blocks: u32,
    /// Commands under way on its connection, itself included.
    pub outstanding: u32,
    /// Its connection.
    pub connection: Key,
}

/// All traces of one core.
#[derive(Debug, Default)]
pub struct Traces {
    /// By the low bits of the namespace id; made when needed.
    rings: Vec<Option<Box<Ring>>>,
}

impl Traces {
    /// Counts a command that is answered now and was received then; true when [`Traces::keep`] is to be told more of it.
    #[inline]
    pub fn is_wanted(&mut self, nsid: u32, received: Nanos, now: Nanos) -> bool {
        let Some(Some(ring)) = self.rings.get_mut(ring_of(nsid)) else { return true };
        ring.seen += 1;
        ring.is_due(now) || now.since(received) > ring.floor_ns
    }

    /// Keeps a command that is wanted; where, once or twice.
    #[cold]
    pub fn keep(&mut self, answered: &Answered, stamps: &Stamps, now: Nanos) -> [Option<TraceAt>; 2] {
        let number = ring_of(answered.nsid);
        if self.rings.is_empty() {
            self.rings.resize_with(RINGS, || None);
        }
        let ring = self.rings[number].get_or_insert_with(|| Box::new(Ring::new(now)));
        let took_ns = now.since(stamps.at(Stage::Received).unwrap_or(now));
        let (due, slow) = (ring.is_due(now), took_ns > ring.floor_ns);
        let &Answered { nsid, opcode, failed, lba, blocks, outstanding, connection } = answered;
        let mut stamps = *stamps;
        stamps.mark(Stage::Replied, now);
        let trace = Trace {
            nsid,
            opcode,
            failed,
            shift: 0,
            lba,
            blocks,
            outstanding,
            connection,
            stamps,
            send_ns: 0,
            serial: 0,
        };
        let at = |(place, serial): (usize, u32)| {
            let (ring, place) = (u16::try_from(number), u16::try_from(place));
            Some(TraceAt { ring: ring.ok()?, place: place.ok()?, serial })
        };
        [
            if due { at(ring.keep(trace, now)) } else { None },
            if slow { at(ring.keep_slow(trace, now)) } else { None },
        ]
    }

    /// The send that carried these replies has ended.
    fn sent(&mut self, traces: impl Iterator<Item = TraceAt>, now: Nanos) {
        for at in traces {
            let ring = self.rings.get_mut(usize::from(at.ring)).and_then(Option::as_mut);
            let Some(trace) = ring.and_then(|ring| ring.at(at)) else { continue };
            let ns = now.since(trace.stamps.at(Stage::Replied).unwrap_or(now));
            trace.send_ns = u32::try_from(ns).unwrap_or(u32::MAX).max(1);
        }
    }

    /// What is known of a namespace; `host` tells whose a connection is.
    #[must_use]
    pub fn report(&self, nsid: u32, now: Nanos, host: impl Fn(Key) -> Option<Nqn>) -> TraceReport {
        let number = ring_of(nsid);
        let Some(Some(ring)) = self.rings.get(number) else {
            return TraceReport { now, ..TraceReport::default() };
        };
        let tell = |trace: &Trace| CommandTrace {
            opcode: trace.opcode,
            failed: trace.failed,
            weight: 1 << trace.shift,
            lba: trace.lba,
            blocks: trace.blocks,
            outstanding: trace.outstanding,
            host: host(trace.connection),
            stamps: trace.stamps,
            sent: (trace.send_ns != 0).then(|| {
                Nanos(trace.stamps.at(Stage::Replied).unwrap_or_default().0 + u64::from(trace.send_ns))
            }),
        };
        let mine = |trace: &&Trace| trace.nsid == nsid;
        let (new, old) = ring.entries.split_at(ring.next.min(ring.entries.len()));
        // Windows end when a slow command comes; a long silence ends them too.
        let fresh = now.0 < ring.window_end.0 + WINDOW_NS;
        let slow = ring.before.iter().chain(&ring.slow).filter(|_| fresh);
        let mut slowest: Vec<CommandTrace> = slow.filter(mine).map(tell).collect();
        slowest.sort_by_key(|trace| std::cmp::Reverse(took_ns(&trace.stamps)));
        let recent = old.iter().chain(new).filter(mine).map(tell).collect();
        TraceReport { recent, slowest, waiting: Vec::new(), now }
    }
}

impl Unsent {
    /// The reply of this trace is staged.
    #[inline]
    pub fn add(&mut self, traces: [Option<TraceAt>; 2]) {
        for trace in traces.into_iter().flatten() {
            if self.traces.len() < MAX_UNSENT {
                self.traces.push(trace);
            }
        }
    }

    /// A send has taken everything that is staged.
    #[inline]
    pub fn sending(&mut self) {
        self.in_send = self.traces.len();
    }

    /// That send has ended.
    #[inline]
    pub fn sent(&mut self, all: &mut Traces, now: Nanos) {
        if self.in_send > 0 {
            all.sent(self.traces.drain(..self.in_send), now);
            self.in_send = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn answered(nsid: u32, lba: u64) -> Answered {
        let (opcode, failed, blocks, outstanding) = (2, false, 1, 1);
        Answered { nsid, opcode, failed, lba, blocks, outstanding, connection: Key::from_bits(7) }
    }

    fn note(traces: &mut Traces, nsid: u32, lba: u64, at_ns: u64, took_ns: u64) -> [Option<TraceAt>; 2] {
        let stamps = Stamps::received(Nanos(at_ns - took_ns), 0);
        let (received, now) = (Nanos(at_ns - took_ns), Nanos(at_ns));
        if !traces.is_wanted(nsid, received, now) {
            return [None, None];
        }
        traces.keep(&answered(nsid, lba), &stamps, now)
    }

    fn report(traces: &Traces, nsid: u32, at_ns: u64) -> TraceReport {
        traces.report(nsid, Nanos(at_ns), |_| None)
    }

    #[test]
    fn few_commands_are_all_kept_and_the_oldest_go_first() {
        let mut traces = Traces::default();
        for i in 0..1000 {
            note(&mut traces, 1, i, (i + 1) * 20 * MS, MS);
        }
        let report = report(&traces, 1, 1001 * 20 * MS);
        let lbas: Vec<u64> = report.recent.iter().map(|t| t.lba).collect();
        assert_eq!(lbas, (1000 - ENTRIES as u64..1000).collect::<Vec<_>>());
        assert!(report.recent.iter().all(|t| t.weight == 1));
    }

    #[test]
    fn many_commands_are_thinned_until_the_ring_spans_a_second_and_weights_add_up() {
        let mut traces = Traces::default();
        // A million a second for ten seconds.
        let (mut at, count) = (MS, 10_000_000_u64);
        for i in 0..count {
            at += 1000;
            note(&mut traces, 1, i, at, 1000);
        }
        let recent = report(&traces, 1, at).recent;
        assert_eq!(recent.len(), ENTRIES);
        let span = recent[ENTRIES - 1].lba - recent[0].lba;
        assert!((500_000..5_000_000).contains(&span), "{span}");
        let weights: u64 = recent[1..].iter().map(|t| u64::from(t.weight)).sum();
        assert!(weights.abs_diff(span) * 4 < span, "{weights} {span}");
        // Then one now and then: each is kept again.
        for i in 0..20 {
            at += 100 * MS;
            note(&mut traces, 1, count + i, at, 1000);
        }
        let recent = report(&traces, 1, at).recent;
        assert!(recent[ENTRIES - 20..].iter().map(|t| t.lba).eq(count..count + 20));
    }

    #[test]
    fn the_slowest_are_kept_for_a_while_however_busy_the_ring_is() {
        let mut traces = Traces::default();
        let mut at = MS;
        for i in 0..1_000_000_u64 {
            at += 10_000;
            note(&mut traces, 1, i, at, if i == 1234 { 90 * MS / 10 } else { 5000 });
        }
        let slowest = report(&traces, 1, at).slowest;
        assert_eq!((slowest[0].lba, slowest.len()), (1234, SLOW));
        // In the next window the one before is still told of.
        at += WINDOW_NS;
        note(&mut traces, 1, 7, at, 10 * MS);
        let slowest = report(&traces, 1, at).slowest;
        assert_eq!((slowest[0].lba, slowest[1].lba), (7, 1234));
        // After a minute of silence nothing is recent.
        assert!(report(&traces, 1, at + 3 * WINDOW_NS).slowest.is_empty());
    }

    #[test]
    fn namespaces_that_share_a_ring_are_told_apart() {
        let mut traces = Traces::default();
        let other = 1 + u32::try_from(RINGS).unwrap();
        for i in 0..100 {
            note(&mut traces, if i % 2 == 0 { 1 } else { other }, i, (i + 1) * MS, 0);
        }
        let odd = report(&traces, other, 200 * MS).recent;
        assert!(odd.len() == 50 && odd.iter().all(|t| t.lba % 2 == 1));
        assert!(report(&traces, 2, 200 * MS).recent.is_empty());
    }

    #[test]
    fn sends_find_their_traces_and_nobody_elses() {
        let mut traces = Traces::default();
        let mut unsent = Unsent::default();
        unsent.add(note(&mut traces, 1, 1, 2 * MS, 0));
        unsent.sending();
        // Staged while the send is under way: it is not in it.
        unsent.add(note(&mut traces, 1, 2, 3 * MS, 0));
        unsent.sent(&mut traces, Nanos(4 * MS));
        let sent: Vec<_> = report(&traces, 1, 5 * MS).recent.iter().map(|t| t.sent).collect();
        assert!(sent[0].is_some_and(|at| at.0.abs_diff(4 * MS) < 100) && sent[1].is_none());
        // A place that was used again meanwhile is left alone.
        for i in 0..ENTRIES as u64 {
            note(&mut traces, 1, 10 + i, (5 + i) * 20 * MS, 0);
        }
        unsent.sending();
        unsent.sent(&mut traces, Nanos(10_000 * MS));
        assert!(report(&traces, 1, 10_000 * MS).recent.iter().all(|t| t.sent.is_none()));
        for _ in 0..1000 {
            unsent.add([Some(TraceAt { ring: 0, place: 0, serial: 0 }), None]);
        }
        assert_eq!(unsent.traces.len(), MAX_UNSENT);
    }
}
