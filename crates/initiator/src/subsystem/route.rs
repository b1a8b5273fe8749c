//! One path of a subsystem, with what waits for it and what is known of the namespaces behind it.

use super::{ALL, Shared, agreed::Agreed, choice::Standing};
use crate::{
    Error, PathReport,
    ana::AnaTable,
    path::Path,
    slots::{Origin, Place, SlotId, Slots, Under},
    statistics::{PathStatistics, QueueStatistics, ana_states},
};
use dolmen_io::Io;
use dolmen_nvme::spec::AnaState;
use dolmen_types::Nanos;
use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
};

/// Namespaces whose identity is remembered per path at most; beyond, all are looked at anew.
const MAX_CHECKED: usize = 65_536;

/// How a path stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// Not connected (yet, or again).
    Connecting,
    /// Commands flow.
    Live,
    /// Given up.
    Lost(Error),
    /// Taken away by the caller.
    Removed,
}

/// What is known of a namespace on a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// To be asked for.
    Wanted,
    /// Asked for.
    Asked,
    /// The same as on the others.
    Same,
    /// Not there.
    Absent,
    /// Another one.
    Other,
}

/// A command that takes too long and is being aborted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aborting {
    pub(super) victim: SlotId,
    /// When the victim was sent: its slot may be another's by now.
    pub(super) sent: Nanos,
    /// Until when that may take.
    pub(super) until: Nanos,
    /// The Abort itself is answered.
    pub(super) answered: bool,
}

/// The reading of the ANA log.
#[derive(Debug, Default)]
pub(super) struct AnaReading {
    /// The log is to be read (again).
    pub(super) wanted: bool,
    /// A piece was asked for.
    pub(super) asked: bool,
    /// Pieces that came.
    pub(super) log: Vec<u8>,
    /// Not before then.
    pub(super) not_before: Nanos,
}

/// One path of a subsystem.
pub(super) struct Route {
    pub(super) path: Path,
    /// Smaller is preferred.
    pub(super) preference: u8,
    pub(super) life: Life,
    /// Commands that wait for each of the I/O queues that were asked for.
    pub(super) lanes: Box<[VecDeque<SlotId>]>,
    pub(super) admin: VecDeque<SlotId>,
    next_lane: usize,
    /// The lane that is looked at first: the first that found no memory to send from.
    first_lane: usize,
    /// Since when it has had no association that was any good: that answered a command, or stayed for a while.
    pub(super) down_since: Nanos,
    /// Attempts to connect since then.
    pub(super) attempts: u32,
    /// The same since it last was live for as long as the longest pause: the pauses grow with them.
    pub(super) tries: u32,
    pub(super) live_since: Nanos,
    /// Commands that had been answered by then.
    answered_before: u64,
    /// What the ANA log said last; `None` before it was read in this association, or when there is none.
    pub(super) ana: Option<AnaTable>,
    pub(super) reading: AnaReading,
    /// Since when a namespace has been in transition.
    pub(super) changing_since: Option<Nanos>,
    pub(super) known: BTreeMap<u32, Known>,
    pub(super) aborting: Vec<Aborting>,
    pub(super) statistics: PathStatistics,
}

impl Route {
    pub(super) fn new(number: u8, (addr, preference): (SocketAddr, u8), queues: usize, now: Nanos) -> Route {
        Route {
            path: Path::new(number, addr),
            preference,
            life: Life::Connecting,
            lanes: (0..queues).map(|_| VecDeque::new()).collect(),
            admin: VecDeque::new(),
            next_lane: 0,
            first_lane: 0,
            down_since: now,
            attempts: 0,
            tries: 0,
            live_since: now,
            answered_before: 0,
            ana: None,
            reading: AnaReading::default(),
            changing_since: None,
            known: BTreeMap::new(),
            aborting: Vec::new(),
            statistics: PathStatistics {
                queues: vec![QueueStatistics::default(); queues],
                ..PathStatistics::default()
            },
        }
    }

    /// Sends what can be sent; true when some found no memory. Those are the first next time: with many queues and little memory
    /// the same ones would have all of it otherwise.
    pub(super) fn pump(&mut self, io: &mut Io, shared: &mut Shared) -> bool {
        let mut starved = self.path.pump(io, shared, 0, &mut self.admin);
        if !self.path.is_live() {
            self.path.flush_opening(io);
            return starved;
        }
        let lanes = self.path.io_queues().min(self.lanes.len());
        let first = if self.first_lane < lanes { self.first_lane } else { 0 };
        let mut short = None;
        for lane in (first..lanes).chain(0..first) {
            let number = u16::try_from(lane + 1).expect("queues are numbered in 16 bits");
            if self.path.pump(io, shared, number, &mut self.lanes[lane]) {
                short.get_or_insert(lane);
            }
        }
        starved |= short.is_some();
        self.first_lane = short.unwrap_or(first);
        starved
    }

    /// Becomes another route in the same place.
    pub(super) fn take_over(&mut self, mut route: Route) {
        route.path.follow(&self.path);
        *self = route;
    }

    /// Where it leads.
    pub(super) fn addr(&self) -> SocketAddr {
        self.path.addr()
    }

    /// True when no more attempts are made.
    pub(super) fn is_given_up(&self) -> bool {
        matches!(self.life, Life::Lost(_) | Life::Removed)
    }

    /// A new association is live.
    pub(super) fn goes_live(&mut self, now: Nanos) {
        (self.life, self.live_since) = (Life::Live, now);
        self.answered_before = self.statistics.answered();
        self.statistics.connects += 1;
        self.spread();
        self.reading.wanted = self.has_ana();
    }

    /// True when the live association has answered a command.
    pub(super) fn has_answered(&self) -> bool {
        self.statistics.answered() > self.answered_before
    }

    /// True when the controller reports ANA.
    pub(super) fn has_ana(&self) -> bool {
        self.path.identity().is_some_and(|id| id.ana)
    }

    /// Commands on this path that wait or are under way.
    pub(super) fn load(&self) -> usize {
        self.path.load() + self.lanes.iter().map(VecDeque::len).sum::<usize>()
    }

    /// True when another namespace has the number on this path.
    pub(super) fn leads_elsewhere(&self, nsid: u32) -> bool {
        self.known.get(&nsid) == Some(&Known::Other)
    }

    /// Namespaces of which this path is about to say what they are, and no other has; ascending.
    pub(super) fn unsaid(&self, agreed: &Agreed) -> Vec<u32> {
        let asks = |known: &Known| matches!(known, Known::Wanted | Known::Asked);
        let known = self.known.iter().filter(|(nsid, known)| asks(known) && !agreed.knows(**nsid));
        known.map(|(&nsid, _)| nsid).collect()
    }

    /// How the path stands to a namespace, as far as ANA and identity tell; what has to be asked for is noted. What concerns
    /// all namespaces goes wherever something goes.
    pub(super) fn standing(&mut self, nsid: u32, alone: bool) -> Standing {
        if self.is_given_up() {
            return Standing::Never;
        }
        if !self.path.is_live() {
            return Standing::Unusable;
        }
        if nsid == ALL {
            return Standing::Best;
        }
        let state = match &self.ana {
            Some(table) => table.state(nsid),
            None if self.has_ana() && !alone => return Standing::Unusable,
            None => AnaState::Optimized,
        };
        if !alone {
            if self.known.len() >= MAX_CHECKED {
                self.known.clear();
            }
            match self.known.entry(nsid).or_insert(Known::Wanted) {
                Known::Wanted | Known::Asked => return Standing::Unusable,
                Known::Absent => return Standing::Hopeless,
                Known::Other => return Standing::Never,
                Known::Same => {}
            }
        }
        match state {
            AnaState::Optimized => Standing::Best,
            AnaState::NonOptimized => Standing::Good,
            AnaState::PersistentLoss => Standing::Hopeless,
            AnaState::Inaccessible | AnaState::Change => Standing::Unusable,
        }
    }

    /// Puts a waiting I/O command into the lane of its queue.
    pub(super) fn push(&mut self, slots: &Slots, id: SlotId) {
        // While the path is down all lanes fill; those that are not granted are spread over the others then.
        let queues = if self.path.is_live() { self.path.io_queues().max(1) } else { self.lanes.len() };
        let lane = match slots.get(id).origin {
            _ if queues == 1 => 0,
            Origin::Caller { queue: Some(q), .. } => usize::from(q) % queues,
            _ => {
                // The emptier one of two neighbours, going round.
                self.next_lane = (self.next_lane + 1) % queues;
                let other = (self.next_lane + 1) % queues;
                let load = |lane: usize| self.lanes[lane].len() + self.path.under_way(lane);
                if load(other) < load(self.next_lane) { other } else { self.next_lane }
            }
        };
        self.lanes[lane].push_back(id);
    }

    /// Puts the second half of a pair right behind the first, which was just pushed.
    pub(super) fn push_behind(&mut self, first: SlotId, second: SlotId) {
        let lane = self.lanes.iter_mut().find(|lane| lane.back() == Some(&first));
        lane.expect("the first half was just put at the end of a lane").push_back(second);
    }

    /// Takes a waiting command out.
    pub(super) fn forget(&mut self, id: SlotId) {
        self.admin.retain(|&other| other != id);
        self.lanes.iter_mut().for_each(|lane| lane.retain(|&other| other != id));
    }

    /// Takes all waiting commands out, in order.
    pub(super) fn empty(&mut self) -> Vec<SlotId> {
        let lanes = self.lanes.iter_mut().flat_map(|lane| lane.drain(..));
        self.admin.drain(..).chain(lanes).collect()
    }

    /// Moves what waits for queues that were not granted to those that were.
    fn spread(&mut self) {
        let queues = self.path.io_queues().max(1);
        for lane in queues..self.lanes.len() {
            let waiting = std::mem::take(&mut self.lanes[lane]);
            self.lanes[lane % queues].extend(waiting);
        }
    }

    /// The association is over: nothing that it told holds.
    pub(super) fn forget_controller(&mut self) {
        self.ana = None;
        self.reading = AnaReading::default();
        self.changing_since = None;
        self.known.clear();
        self.aborting.clear();
    }

    /// What is being done to abort what was sent then from a slot.
    pub(super) fn aborting(&self, victim: SlotId, sent: Nanos) -> Option<&Aborting> {
        self.aborting.iter().find(|a| (a.victim, a.sent) == (victim, sent))
    }

    /// How many more Aborts the controller takes now.
    pub(super) fn aborts_left(&self) -> usize {
        let limit = self.path.identity().map_or(1, |id| usize::from(id.aborts));
        limit.saturating_sub(self.aborting.iter().filter(|a| !a.answered).count())
    }

    /// Notes an answer to a caller's command.
    pub(super) fn note_answer(&mut self, slots: &Slots, id: SlotId, now: Nanos, good: bool) {
        let slot = slots.get(id);
        let Place::Sent(under) = slot.place else { return };
        self.note((under, slot.sqe.opcode), slot.payload.len(), (slot.sent, now), good);
    }

    /// Notes an answer to the command that was sent under `under`.
    #[inline]
    pub(super) fn note(
        &mut self,
        (under, opcode): (Under, u8),
        bytes: usize,
        times: (Nanos, Nanos),
        good: bool,
    ) {
        let queue = usize::from(under.queue).checked_sub(1);
        let Some(queue) = queue.and_then(|at| self.statistics.queues.get_mut(at)) else { return };
        queue.note(opcode, bytes, times, good);
    }

    pub(super) fn report(&self, number: u8) -> PathReport {
        PathReport {
            path: number,
            addr: self.path.addr(),
            live: self.path.is_live(),
            given_up: self.is_given_up(),
            controller_id: self.path.identity().map(|id| id.controller_id),
            ana: ana_states(self.ana.as_ref()),
            statistics: self.statistics.clone(),
        }
    }
}
