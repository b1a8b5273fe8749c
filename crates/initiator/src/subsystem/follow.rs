//! What a [`Subsystem`] reads on its own behalf: ANA logs, the identity of namespaces on several paths, and log pages
//! whose reading lets an event come again.

use super::{
    Out, Subsystem,
    agreed::Word,
    route::{Known, Life},
};
use crate::{
    Error, ErrorKind, Failure, Identity, NamespaceIds, Notice,
    ana::{self, AnaTable, Parsed},
    command::Lane,
    slots::{Origin, SlotId},
};
use dolmen_io::{Buf, Io, PoolConfig};
use dolmen_nvme::spec::{AnaGroupDescriptor, AnaLogHeader, AnaState, AsyncEvent, LogId, Status, notice};
use dolmen_types::Nanos;
use std::collections::VecDeque;

/// Pause between two readings of a path's ANA log, so that a controller whose log and statuses disagree costs little.
/// Milliseconds.
const ANA_PAUSE_MS: u64 = 100;
/// While commands wait for a path, the logs of those that are connected are read this often: the event may be lost.
/// Milliseconds.
const ANA_POLL_MS: u64 = 1000;
/// Bytes of a log page that is read only so that its event can come again.
const EVENT_LOG_BYTES: usize = 4096;
/// The longest time in the Change state when a controller doesn't tell (ANATT = 0). Seconds.
const TRANSITION_S: u8 = 10;

impl Subsystem {
    /// A controller reported an event.
    pub(super) fn event(&mut self, io: &mut Io, at: usize, event: AsyncEvent, out: &mut Out) {
        let path = number(at);
        out.notices.push(Notice::Event { subsystem: self.shared.id, path, event });
        let several = self.routes.len() > 1;
        let route = &mut self.routes[at];
        if event == notice::ANA_CHANGED {
            return route.reading.wanted = true;
        }
        if event == notice::NAMESPACE_CHANGED {
            // A namespace may have come, gone, or become another; its ANA group comes with it.
            route.known.clear();
            route.reading.wanted |= route.has_ana();
            self.choices.forget();
        }
        // With one path the caller reads the page. With several the caller can't tell which controller it would ask.
        if several && !self.shared.options.is_discovery() {
            let log = LogId(event.log_page);
            let _room = self.routes[at].path.read_log(io, &mut self.shared, log, (0, EVENT_LOG_BYTES));
        }
    }

    /// Asks for what is to be read. Once per turn.
    pub(super) fn ask(&mut self, io: &mut Io) {
        let now = io.now();
        let first = self.first.filter(|_| self.unchecked);
        let unsaid = first.map_or_else(Vec::new, |at| self.routes[at].unsaid(&self.agreed));
        for (at, route) in self.routes.iter_mut().enumerate() {
            if !route.path.is_live() {
                continue;
            }
            let reading = &mut route.reading;
            if reading.wanted && !reading.asked && now >= reading.not_before {
                reading.log.clear();
                let bytes = route.path.identity().map_or(0, ana_log_bytes);
                (reading.wanted, reading.asked) = (false, true);
                if !route.path.read_log(io, &mut self.shared, LogId::ANA, (0, bytes)) {
                    (route.reading.wanted, route.reading.asked) = (true, false);
                    self.wake_at = self.wake_at.min(now.plus_ms(ANA_PAUSE_MS));
                }
            } else if reading.wanted && !reading.asked {
                self.wake_at = self.wake_at.min(reading.not_before);
            }
            if self.unchecked {
                let may_say = |nsid: u32| first == Some(at) || unsaid.binary_search(&nsid).is_err();
                let wanted =
                    route.known.iter_mut().filter(|(nsid, k)| **k == Known::Wanted && may_say(**nsid));
                for (&nsid, known) in wanted {
                    if !route.path.check_namespace(io, &mut self.shared, nsid) {
                        self.wake_at = self.wake_at.min(now.plus_ms(1));
                        break;
                    }
                    *known = Known::Asked;
                }
            }
        }
        let left = |r: &super::Route| r.path.is_live() && r.known.values().any(|k| *k == Known::Wanted);
        self.unchecked = self.unchecked && self.routes.iter().any(left);
    }

    /// A page that was asked for here.
    pub(super) fn page(
        &mut self,
        io: &mut Io,
        at: usize,
        (origin, page): (Origin, Result<Buf, Status>),
        out: &mut Out,
    ) -> Result<(), Error> {
        match origin {
            Origin::Log(LogId::ANA) => self.ana_page(io, at, page),
            Origin::Check { nsid } => {
                let known = match page.map(|page| NamespaceIds::parse(&page)) {
                    Ok(ids) => self.identified(at, nsid, ids, out),
                    Err(_) => Known::Absent,
                };
                // Unless it has been forgotten meanwhile.
                if let Some(place) = self.routes[at].known.get_mut(&nsid) {
                    *place = known;
                }
                self.reroute();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A path said what a namespace is.
    fn identified(&mut self, at: usize, nsid: u32, ids: NamespaceIds, out: &mut Out) -> Known {
        let there = (0..).zip(&self.routes).filter(|(_, route)| !route.is_given_up());
        let there = there.fold(0, |mask, (path, _)| mask | 1u32 << path);
        match self.agreed.hear(nsid, ids, number(at), there) {
            Word::Same => Known::Same,
            Word::Other => {
                out.notices.push(Notice::Mismatch { subsystem: self.shared.id, path: number(at), nsid });
                Known::Other
            }
            Word::Replaced => {
                // Others may have it by now.
                let known = self.routes.iter_mut().filter_map(|route| route.known.get_mut(&nsid));
                known.filter(|known| **known == Known::Other).for_each(|known| *known = Known::Wanted);
                self.unchecked = true;
                Known::Same
            }
        }
    }

    fn ana_page(&mut self, io: &mut Io, at: usize, page: Result<Buf, Status>) -> Result<(), Error> {
        let route = &mut self.routes[at];
        route.reading.asked = false;
        route.reading.not_before = io.now().plus_ms(ANA_PAUSE_MS);
        let table = match page {
            // A controller that says it has a log and doesn't: its statuses have to do.
            Err(_) => AnaTable::default(),
            Ok(page) => {
                route.reading.log.extend_from_slice(&page);
                match ana::parse(&route.reading.log)? {
                    Parsed::Whole(table) => table,
                    Parsed::Needs(bytes) => {
                        let have = route.reading.log.len();
                        let piece = (bytes - have)
                            .next_multiple_of(4)
                            .clamp(EVENT_LOG_BYTES, PoolConfig::CHUNK_BYTES);
                        let asked = route.path.read_log(io, &mut self.shared, LogId::ANA, (have, piece));
                        (route.reading.asked, route.reading.wanted) = (asked, !asked);
                        return Ok(());
                    }
                }
            }
        };
        route.reading.log = Vec::new();
        self.set_ana(at, table, io.now());
        Ok(())
    }

    fn set_ana(&mut self, at: usize, table: AnaTable, now: Nanos) {
        let route = &mut self.routes[at];
        route.changing_since = table.in_transition().then(|| route.changing_since.unwrap_or(now));
        if route.ana.as_ref() == Some(&table) {
            return;
        }
        route.ana = Some(table);
        self.reroute();
    }

    /// Notes what a command's status tells of a namespace, before the log is read again.
    pub(super) fn note_ana(&mut self, at: usize, nsid: u32, state: AnaState, now: Nanos) {
        let route = &mut self.routes[at];
        let table = route.ana.get_or_insert_default();
        if table.state(nsid) == state {
            route.reading.wanted = true;
            return;
        }
        table.note(nsid, state);
        route.reading.wanted = true;
        route.changing_since = table.in_transition().then(|| route.changing_since.unwrap_or(now));
        self.set_plain();
        self.choices.forget();
    }

    /// A path, its ANA states or what is known of its namespaces changed: choices are made anew, and what found no path
    /// looks again.
    pub(super) fn reroute(&mut self) {
        self.set_plain();
        self.choices.forget();
        for id in std::mem::take(&mut self.shelter) {
            self.enqueue(id);
        }
    }

    /// True when no path leads to a command's namespace, nor will when those come back that are away, and the last that did was given
    /// up. Who takes it away himself may bring another one.
    pub(super) fn leads_nowhere(&self, id: SlotId) -> bool {
        let slot = self.shared.slots.get(id);
        let nsid = slot.sqe.nsid.get();
        let lost = self.routes.iter().any(|route| matches!(route.life, Life::Lost(_)));
        lost && slot.lane == Lane::Io
            && self.routes.iter().all(|route| route.is_given_up() || route.leads_elsewhere(nsid))
    }

    /// Fails what waits for a path to a namespace to which none leads any more.
    pub(super) fn fail_stranded(&mut self, now: Nanos, out: &mut Out) {
        if self.shelter.is_empty() {
            return;
        }
        let (stranded, waiting) =
            self.shelter.iter().copied().partition::<VecDeque<SlotId>, _>(|&id| self.leads_nowhere(id));
        self.shelter = waiting;
        stranded.into_iter().for_each(|id| self.finish(id, Err(Failure::Lost), now, out));
    }

    /// One path, with everything behind it reached well: there is nothing to choose.
    fn set_plain(&mut self) {
        let all_well = |table: &AnaTable| table.iter().all(|(_, state)| state == AnaState::Optimized);
        self.plain = self.routes.len() == 1 && self.routes[0].ana.as_ref().is_none_or(all_well);
    }

    /// What is due about ANA: logs of connected paths while commands wait; a transition that takes too long is an error.
    pub(super) fn tick_ana(&mut self, io: &mut Io, out: &mut Out) {
        let now = io.now();
        let waiting = !self.shelter.is_empty();
        let mut late = Vec::new();
        for (at, route) in self.routes.iter_mut().enumerate() {
            if route.life != Life::Live || !route.has_ana() {
                continue;
            }
            if let Some(since) = route.changing_since {
                let told = route.path.identity().map_or(0, |id| id.ana_transition_s);
                let seconds = u64::from(if told == 0 { TRANSITION_S } else { told });
                let until = since.plus_ms(seconds * 1000);
                if now >= until {
                    late.push(at);
                }
                self.wake_at = self.wake_at.min(until);
            }
            if waiting {
                let next = route.reading.not_before.plus_ms(ANA_POLL_MS - ANA_PAUSE_MS);
                route.reading.wanted |= now >= next;
                self.wake_at = self.wake_at.min(next.max(now.plus_ms(1)));
            }
        }
        for at in late {
            let addr = self.routes[at].path.addr();
            let what = format!("{addr} left a namespace in ANA Change for longer than ANATT");
            self.path_lost(io, at, &Error::new(ErrorKind::Timeout, what), out);
        }
    }
}

/// The number of a path.
pub(super) fn number(at: usize) -> u8 {
    u8::try_from(at).expect("there are at most 32 paths")
}

/// How much to ask for at first: all of the longest log that the controller could have, if that is not too much. The
/// kernel's target takes no offset into this page.
fn ana_log_bytes(identity: &Identity) -> usize {
    let count = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    let groups = count(identity.ana_groups).saturating_mul(size_of::<AnaGroupDescriptor>());
    let nsids = count(identity.max_namespaces).saturating_mul(size_of::<u32>());
    let whole = size_of::<AnaLogHeader>().saturating_add(groups).saturating_add(nsids);
    let most = count(identity.max_transfer_bytes).min(PoolConfig::LARGE_BYTES);
    whole.next_multiple_of(4).clamp(EVENT_LOG_BYTES, most.max(EVENT_LOG_BYTES))
}
