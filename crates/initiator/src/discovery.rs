//! Discovery that stays: connections to discovery services that are kept, their logs read whenever they change, their
//! referrals followed.
//!
//! ```text
//!   add(root) -> connect -> read log -> records, referrals -> connect to those, and so on
//!                              ^---- Discovery Log Page Change (AEN), or connected anew ----+
//! ```
//!
//! [`Discovery`] is polled beside the [`Initiator`] that carries it: hand it the notices and completions of its own
//! subsystems, step it, and drain what changed.
//!
//! Bounds: a service is known by its address, so a referral back to one that is known already is no new one, and loops
//! end; at most [`DiscoveryOptions::max_services`] services, [`MAX_DEPTH`] referrals away from a root, each with at most
//! [`MAX_RECORDS`] records. A referral that no service names any more is dropped, with what it named.

use crate::{
    Command, Completion, Discovered, DiscoveredSubsystem, Error, ErrorKind, Initiator, Notice, Options,
    Request, State, SubmitError, SubsystemId,
    identity::{DISCOVERY_ENTRY_BYTES, discovery_entries, discovery_header},
};
use dolmen_io::{Buf, Io};
use dolmen_nvme::spec::{LogId, notice};
use dolmen_types::{Nanos, Nqn, Uuid};
use std::{collections::BTreeSet, net::SocketAddr};

/// Referrals between a root and a service at most.
pub const MAX_DEPTH: u32 = 8;
/// Records of one service that are read at most.
pub const MAX_RECORDS: u64 = 4096;

/// Attempts to read a log that changes meanwhile, before a pause.
const TRIES: u32 = 5;
/// Pause before a log is read again that kept changing, or could not be read. Milliseconds.
const PAUSE_MS: u64 = 1000;
/// Records that one command brings.
const RECORDS_AT_ONCE: usize = 16;
/// The controller as a whole.
const ALL: u32 = 0xffff_ffff;

/// Who asks, and how much at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryOptions {
    /// Who we are.
    pub host: Nqn,
    /// Host identifier, the same for all connections of one host; not nil.
    pub host_id: Uuid,
    /// Keep-alive timeout of the connections; not 0, so that they persist. Milliseconds.
    pub keep_alive_ms: u32,
    /// Services connected to at most, roots and referrals together.
    pub max_services: usize,
}

impl DiscoveryOptions {
    /// The usual values: 30 s of keep-alive, 32 services.
    #[must_use]
    pub fn new(host: Nqn, host_id: Uuid) -> DiscoveryOptions {
        DiscoveryOptions { host, host_id, keep_alive_ms: 30_000, max_services: 32 }
    }
}

/// Something that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A subsystem's port is named now, by the service at `by`.
    Appeared {
        /// The port.
        record: DiscoveredSubsystem,
        /// Who names it.
        by: SocketAddr,
    },
    /// It isn't named any more.
    Gone {
        /// The port.
        record: DiscoveredSubsystem,
        /// Who named it.
        by: SocketAddr,
    },
    /// A referral is followed.
    Following {
        /// The service that it leads to.
        addr: SocketAddr,
        /// The service that refers to it.
        by: SocketAddr,
    },
    /// A referral is not followed: too far away, or too many.
    NotFollowed {
        /// The service that it would lead to.
        addr: SocketAddr,
        /// The service that refers to it.
        by: SocketAddr,
        /// Why.
        error: Error,
    },
    /// A service can't be reached or read for now; what it named stays named until it says otherwise.
    Trouble {
        /// The service.
        addr: SocketAddr,
        /// Why.
        error: Error,
    },
}

/// Where the reading of a service's log stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not reading.
    Idle,
    /// The header is asked for.
    Header,
    /// Records are asked for, from byte `at` on, up to byte `end`.
    Records { at: u64, end: u64, generation: u64 },
    /// The header is asked for again, to see whether what was read is of one piece.
    Confirm { end: u64, generation: u64 },
}

struct Service {
    id: SubsystemId,
    addr: SocketAddr,
    /// Referrals between a root and this.
    depth: u32,
    phase: Phase,
    /// The log is to be read (again).
    wanted: bool,
    /// Not before then.
    not_before: Nanos,
    tries: u32,
    /// A command is under way.
    asked: bool,
    /// It was read whole at least once, or could not be.
    settled: bool,
    reading: Vec<DiscoveredSubsystem>,
    records: Vec<DiscoveredSubsystem>,
}

/// All discovery services that a host follows.
pub struct Discovery {
    options: DiscoveryOptions,
    services: Vec<Service>,
    changes: Vec<Change>,
    next_ticket: u64,
}

impl Discovery {
    /// Follows nothing yet.
    #[must_use]
    pub fn new(options: DiscoveryOptions) -> Discovery {
        Discovery { options, services: Vec::new(), changes: Vec::new(), next_ticket: 0 }
    }

    /// Starts to follow the service at `addr`; nothing happens if it is followed already.
    ///
    /// # Errors
    /// [`ErrorKind::Options`] when there are too many, or the options can't work.
    pub fn add(&mut self, io: &mut Io, initiator: &mut Initiator, addr: SocketAddr) -> Result<(), Error> {
        self.follow(io, initiator, addr, 0)
    }

    fn follow(
        &mut self,
        io: &mut Io,
        initiator: &mut Initiator,
        addr: SocketAddr,
        depth: u32,
    ) -> Result<(), Error> {
        if let Some(known) = self.services.iter_mut().find(|s| s.addr == addr) {
            known.depth = known.depth.min(depth);
            return Ok(());
        }
        let limit = |what: &str| Err(Error::new(ErrorKind::Options, format!("{addr} is not asked: {what}")));
        if depth > MAX_DEPTH {
            return limit("it is too many referrals away");
        }
        if self.services.len() >= self.options.max_services {
            return limit("as many discovery services as allowed are followed already (max_services)");
        }
        if self.options.keep_alive_ms == 0 {
            return limit("keep_alive_ms is 0, so that the connection would not persist");
        }
        let subsystem = Nqn::DISCOVERY.parse().expect("the well-known name is a name");
        let mut options = Options::new(addr, subsystem, self.options.host.clone(), self.options.host_id);
        (options.keep_alive_ms, options.loss_timeout_ms) = (self.options.keep_alive_ms, None);
        options.backlog = 4;
        let id = initiator.connect(io, options)?;
        self.services.push(Service {
            id,
            addr,
            depth,
            phase: Phase::Idle,
            wanted: true,
            not_before: Nanos(0),
            tries: 0,
            asked: false,
            settled: false,
            reading: Vec::new(),
            records: Vec::new(),
        });
        Ok(())
    }

    /// True when notices and completions of `id` belong here.
    #[must_use]
    pub fn owns(&self, id: SubsystemId) -> bool {
        self.services.iter().any(|s| s.id == id)
    }

    /// True when every service was read whole at least once, or could not be reached.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.services.iter().all(|s| s.settled)
    }

    /// Every port of a subsystem that is named now, each once.
    #[must_use]
    pub fn records(&self) -> Vec<DiscoveredSubsystem> {
        let mut seen = BTreeSet::new();
        let subsystems = self.named().map(|(_, record)| record).filter(|r| r.kind == Discovered::Subsystem);
        subsystems.filter(|record| seen.insert(*record)).cloned().collect()
    }

    /// Everything that is named now, referrals too, with the service that names it.
    pub fn named(&self) -> impl Iterator<Item = (SocketAddr, &DiscoveredSubsystem)> {
        self.services.iter().flat_map(|s| s.records.iter().map(|record| (s.addr, record)))
    }

    /// The services that are followed.
    pub fn services(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.services.iter().map(|s| s.addr)
    }

    /// Appends what changed to `out`, in order.
    pub fn drain(&mut self, out: &mut Vec<Change>) {
        out.append(&mut self.changes);
    }

    /// Takes a notice of a subsystem that [`Discovery::owns`].
    pub fn on_notice(&mut self, what: &Notice) {
        match what {
            Notice::State { subsystem, state: State::Live { .. } } => {
                // Events may have been missed while it was away.
                if let Some(service) = self.find(*subsystem) {
                    (service.wanted, service.tries, service.not_before) = (true, 0, Nanos(0));
                }
            }
            Notice::State { subsystem, state: State::Lost(error) }
            | Notice::PathLost { subsystem, error, .. } => {
                let Some(service) = self.find(*subsystem) else { return };
                service.settled = true;
                let trouble = Change::Trouble { addr: service.addr, error: error.clone() };
                self.changes.push(trouble);
            }
            Notice::Event { subsystem, event, .. } if *event == notice::DISCOVERY_CHANGED => {
                if let Some(service) = self.find(*subsystem) {
                    (service.wanted, service.tries, service.not_before) = (true, 0, Nanos(0));
                }
            }
            _ => {}
        }
    }

    fn find(&mut self, id: SubsystemId) -> Option<&mut Service> {
        self.services.iter_mut().find(|s| s.id == id)
    }

    /// Takes a completion of a subsystem that [`Discovery::owns`].
    pub fn on_completion(&mut self, io: &mut Io, initiator: &mut Initiator, completion: Completion) {
        let now = io.now();
        let Some(service) = self.find(completion.subsystem) else { return };
        service.asked = false;
        let page = match (completion.result, completion.buf) {
            (Ok(_), Some(page)) => page,
            (result, _) => {
                // A connection that was lost starts anew when it is back.
                let why = result.err().map_or_else(|| "no data came".into(), |failure| failure.to_string());
                let error = Error::new(ErrorKind::Protocol, format!("reading the discovery log: {why}"));
                let trouble = Change::Trouble { addr: service.addr, error };
                service.put_off(now);
                service.settled = true;
                self.changes.push(trouble);
                return;
            }
        };
        if service.take(&page, now) {
            let (id, by, depth) = (service.id, service.addr, service.depth);
            self.replace(id, by);
            self.follow_referrals(io, initiator, by, depth);
            self.forget_unreferred(io, initiator);
        }
    }

    /// A service's log was read whole: tells the differences.
    fn replace(&mut self, id: SubsystemId, by: SocketAddr) {
        let Some(service) = self.services.iter_mut().find(|s| s.id == id) else { return };
        let new = std::mem::take(&mut service.reading);
        let old = std::mem::replace(&mut service.records, new);
        let new = &service.records;
        let (had, has): (BTreeSet<_>, BTreeSet<_>) = (old.iter().collect(), new.iter().collect());
        let subsystem = |record: &&DiscoveredSubsystem| record.kind == Discovered::Subsystem;
        let gone = old.iter().filter(subsystem).filter(|r| !has.contains(r));
        self.changes.extend(gone.map(|r| Change::Gone { record: r.clone(), by }));
        let come = new.iter().filter(subsystem).filter(|r| !had.contains(r));
        self.changes.extend(come.map(|r| Change::Appeared { record: r.clone(), by }));
    }

    fn follow_referrals(&mut self, io: &mut Io, initiator: &mut Initiator, by: SocketAddr, depth: u32) {
        for addr in self.referrals(by) {
            let known = self.services.iter().any(|s| s.addr == addr);
            match self.follow(io, initiator, addr, depth + 1) {
                Ok(()) if known => {}
                Ok(()) => self.changes.push(Change::Following { addr, by }),
                Err(error) => self.changes.push(Change::NotFollowed { addr, by, error }),
            }
        }
    }

    fn referrals(&self, by: SocketAddr) -> Vec<SocketAddr> {
        let records = self.services.iter().filter(|s| s.addr == by).flat_map(|s| &s.records);
        records.filter(|r| r.kind == Discovered::Referral).map(|r| r.addr).collect()
    }

    /// Drops services that no root leads to any more.
    fn forget_unreferred(&mut self, io: &mut Io, initiator: &mut Initiator) {
        let mut reached: Vec<SocketAddr> =
            self.services.iter().filter(|s| s.depth == 0).map(|s| s.addr).collect();
        let mut next = 0;
        while let Some(&addr) = reached.get(next) {
            next += 1;
            for referral in self.referrals(addr) {
                if !reached.contains(&referral) {
                    reached.push(referral);
                }
            }
        }
        let changes = &mut self.changes;
        self.services.retain(|service| {
            let keep = reached.contains(&service.addr);
            if !keep {
                initiator.disconnect(io, service.id);
                let named = service.records.iter().filter(|r| r.kind == Discovered::Subsystem);
                changes.extend(named.map(|r| Change::Gone { record: r.clone(), by: service.addr }));
            }
            keep
        });
    }

    /// Asks for what is to be read. Once per turn.
    pub fn step(&mut self, io: &mut Io, initiator: &mut Initiator) {
        for service in &mut self.services {
            let due = service.wanted && service.phase == Phase::Idle && io.now() >= service.not_before;
            if due && matches!(initiator.state(service.id), State::Live { .. }) {
                (service.wanted, service.phase) = (false, Phase::Header);
                service.reading.clear();
            } else if due {
                // A notice tells when it is live; until then no time is worth waking for.
                service.not_before = Nanos(0);
            }
            if service.asked || service.phase == Phase::Idle {
                continue;
            }
            let (offset, bytes, retain_event) = service.next_read();
            let Some(buf) = io.alloc(bytes) else { continue };
            self.next_ticket += 1;
            let command = Command::GetLog { page: LogId::DISCOVERY, nsid: ALL, offset, retain_event, buf };
            match initiator.submit(io, service.id, Request::new(self.next_ticket, command)) {
                Ok(()) => service.asked = true,
                Err((_, SubmitError::Full | SubmitError::Memory)) => {}
                Err(_) => service.put_off(io.now()),
            }
        }
    }

    /// When [`Discovery::step`] wants to be called even if nothing happens; `None` when it need not.
    #[must_use]
    pub fn wake_at(&self) -> Option<Nanos> {
        let waiting = self.services.iter().filter(|s| s.wanted && s.phase == Phase::Idle);
        waiting.map(|s| s.not_before).filter(|&at| at > Nanos(0)).min()
    }

    /// Stops following everything; the connections are closed politely by the initiator.
    pub fn close(&mut self, io: &mut Io, initiator: &mut Initiator) {
        self.services.drain(..).for_each(|service| initiator.disconnect(io, service.id));
    }
}

impl Service {
    /// Offset, length and RAE of the read that is next. Only the last one lets the event come again: a change that happens
    /// before it shows in the generation that it brings.
    fn next_read(&self) -> (u64, usize, bool) {
        match self.phase {
            Phase::Idle | Phase::Header => (0, DISCOVERY_ENTRY_BYTES, true),
            Phase::Records { at, end, .. } => {
                let left = usize::try_from(end - at).unwrap_or(usize::MAX);
                (at, left.min(RECORDS_AT_ONCE * DISCOVERY_ENTRY_BYTES), true)
            }
            Phase::Confirm { .. } => (0, DISCOVERY_ENTRY_BYTES, false),
        }
    }

    /// Takes what was read. True: the log is whole.
    fn take(&mut self, page: &Buf, now: Nanos) -> bool {
        let head = || {
            let (generation, records) = discovery_header(page).unwrap_or((0, 0));
            (generation, (1 + records.min(MAX_RECORDS)) * DISCOVERY_ENTRY_BYTES as u64)
        };
        match self.phase {
            Phase::Idle => return false,
            Phase::Header => {
                let (generation, end) = head();
                self.phase = Phase::Records { at: DISCOVERY_ENTRY_BYTES as u64, end, generation };
            }
            Phase::Records { at, end, generation } => {
                discovery_entries(page, &mut self.reading);
                let at = at + page.len() as u64;
                self.phase = Phase::Records { at, end, generation };
            }
            Phase::Confirm { end, generation } => {
                self.phase = Phase::Idle;
                if head() == (generation, end) {
                    (self.tries, self.settled) = (0, true);
                    return true;
                }
                self.again(now);
                return false;
            }
        }
        if let Phase::Records { at, end, generation } = self.phase
            && at >= end
        {
            self.phase = Phase::Confirm { end, generation };
        }
        false
    }

    /// The log changed while it was read.
    fn again(&mut self, now: Nanos) {
        self.tries += 1;
        if self.tries >= TRIES {
            self.tries = 0;
            return self.put_off(now);
        }
        self.wanted = true;
    }

    fn put_off(&mut self, now: Nanos) {
        self.phase = Phase::Idle;
        self.wanted = true;
        self.not_before = now.plus_ms(PAUSE_MS);
    }
}
