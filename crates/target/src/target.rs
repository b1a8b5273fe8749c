//! The target of one core: what it owns, and the calls of the core's loop.

use crate::{
    arrivals::Landings,
    config::TargetConfig,
    connection::{Connection, Phase, Receiving, Request},
    controller::{Controllers, Kind},
    events::Notice,
    logs::Health,
    message::Envelope,
    settle::Settlements,
    slab::{Key, Slab},
    stats::{ConnectionInfo, HostInfo, TargetStats},
    table::NamespaceTable,
    view::Views,
};
use dolmen_io::{
    Error, Event, Io, ListenerId, Owner, PoolConfig, Reserve, Slice, SocketId, Tag, TimerId,
    trace::{TraceReport, Traces},
};
use dolmen_nvme::spec::Cqe;
use dolmen_types::{Nanos, Nqn};
use dolmen_volume::{self as volume, Near};
use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// Time between two looks at all deadlines. Milliseconds.
const TICK_MS: u64 = 500;

/// What a tag's key means; the upper 8 bits of the key.
const LISTENER: u64 = 1 << 56;
const RECEIVE: u64 = 2 << 56;
const SEND: u64 = 3 << 56;
const CLOSE: u64 = 4 << 56;
const TICK: u64 = 5 << 56;
const KIND: u64 = 0xff << 56;

/// What a target wants carried elsewhere; the core's loop drains it every turn.
#[derive(Debug, Default)]
pub struct Outputs {
    /// To volumes, of this core or of another: see [`volume::VolumeRef::core`].
    pub requests: Vec<volume::Request>,
    /// To targets, of other cores or of this one.
    pub messages: Vec<Envelope>,
    /// To the volumes of every core, behind all requests so far.
    pub called_off: Vec<CalledOff>,
}

/// Requests of this target whose answers nobody waits for any more: see [`volume::Volumes::call_off`].
#[derive(Clone, Debug)]
pub struct CalledOff {
    /// What another core answers with, by [`Envelope::called_off`], when its volumes have been told.
    pub ticket: u64,
    /// The requests' tokens.
    pub tokens: Box<[u64]>,
}

/// A reply that found no memory for its bytes.
#[derive(Debug)]
pub(crate) enum Late {
    Response(Key, Cqe),
    Reply(volume::Reply),
}

/// The NVMe/TCP target of one core.
#[derive(Debug)]
pub struct Target {
    pub(crate) config: TargetConfig,
    pub(crate) owner: Owner,
    listeners: Vec<ListenerId>,
    /// Keys of listeners whose accept failed.
    deaf: Vec<u64>,
    tick: Option<TimerId>,
    pub(crate) connections: Slab<Box<Connection>>,
    pub(crate) requests: Slab<Request>,
    pub(crate) controllers: Controllers,
    pub(crate) views: Views,
    pub(crate) health: Health,
    pub(crate) reserve: Reserve,
    /// Zeros for reads of what is not there: never written to.
    pub(crate) zeros: Option<Slice>,
    pub(crate) outputs: Outputs,
    /// Connections with something to send.
    pub(crate) dirty: Vec<Key>,
    /// Connections that wait for memory which others hold (`share.rs`).
    pub(crate) stalled: VecDeque<Key>,
    pub(crate) landings: Landings,
    pub(crate) late: VecDeque<Late>,
    /// Request slots set aside for connections: the entries of their queues.
    pub(crate) granted: u32,
    /// Bytes that all R2Ts have asked for and not got yet, and how many there may be.
    pub(crate) solicited_bytes: usize,
    pub(crate) solicited_limit: usize,
    /// Halves of fused pairs may be waiting for their other halves.
    pub(crate) halves: bool,
    pub(crate) draining: bool,
    /// Nothing goes the short way (`near.rs`): the target stops, or responses wait for memory. What comes then waits behind them.
    pub(crate) no_near: bool,
    pub(crate) settlements: Settlements,
    pub(crate) stats: TargetStats,
    pub(crate) traces: Traces,
}

impl Target {
    /// A target that does nothing until [`Target::start`]. `owner` marks its operations' tags.
    #[must_use]
    pub fn new(config: TargetConfig, owner: Owner) -> Target {
        let (first, ids) = config.ids_of(config.core);
        let bounds = config.bounds;
        Target {
            owner,
            listeners: Vec::new(),
            deaf: Vec::new(),
            tick: None,
            connections: Slab::new(bounds.connections),
            // A Connect needs a slot before its queue has any.
            requests: Slab::new(bounds.requests.saturating_add(bounds.connections)),
            controllers: Controllers::new(first, ids),
            views: Views::new(),
            health: Health::default(),
            reserve: Reserve::default(),
            zeros: None,
            outputs: Outputs::default(),
            dirty: Vec::new(),
            stalled: VecDeque::new(),
            landings: Landings::default(),
            late: VecDeque::new(),
            granted: 0,
            solicited_bytes: 0,
            solicited_limit: bounds.solicited_bytes,
            halves: false,
            draining: false,
            no_near: false,
            settlements: Settlements::default(),
            stats: TargetStats::default(),
            traces: Traces::default(),
            config,
        }
    }

    // The calls of the core's loop.

    /// Listens on all addresses and accepts. Call it when the node can serve: recovery is done, the table is set.
    ///
    /// # Errors
    /// An address that can't be listened on; what was opened before it stays open.
    pub fn start(&mut self, io: &mut Io) -> Result<(), Error> {
        self.solicited_limit = self.solicited_limit.min(io.pool().region().1 / 8);
        self.reserve.top_up(io);
        self.zeros = io.alloc(PoolConfig::CHUNK_BYTES).map(|mut zeros| {
            zeros.fill(0);
            zeros.freeze()
        });
        for n in 0..self.config.io_listen.len() + self.config.discovery_listen.len() {
            let TargetConfig { io_listen, discovery_listen, .. } = &mut self.config;
            let Some(address) = io_listen.iter_mut().chain(discovery_listen).nth(n) else { break };
            let (listener, bound) = io.listen(*address)?;
            *address = bound;
            let index = u64::try_from(self.listeners.len()).unwrap_or(u64::MAX);
            io.accept(self.tag(LISTENER | index), listener);
            self.listeners.push(listener);
        }
        Ok(())
    }

    /// The configuration in force: after [`Target::start`] its addresses hold the ports that were bound.
    #[must_use]
    pub fn config(&self) -> &TargetConfig {
        &self.config
    }

    /// To be called before this turn's events are taken, if its look came so long after the one before. There is a tick while there are
    /// connections, so the core did not sleep all that time: it stood still. What hosts said meanwhile may be old, and they may have gone
    /// on by other paths. So after a long time it is not heard: their connections end.
    pub fn stood_still(&mut self, io: &mut Io, ns: u64) {
        if ns < self.config.timeouts.still_ms() * 1_000_000 {
            return;
        }
        for key in self.connections.keys(|c| !matches!(c.phase, Phase::Closing)) {
            self.stats.timeouts += 1;
            self.give_up(io, key, Target::close);
        }
    }

    /// Takes an event whose tag has this target's owner; `key` is the tag's. `near` are this core's volumes, for reads
    /// whose data is at hand.
    pub fn on_event(&mut self, io: &mut Io, near: &mut Near<'_>, key: u64, event: Event) {
        let at = Key::from_bits(key & !KIND);
        match (key & KIND, event) {
            (LISTENER, Event::Accepted { sock, peer, local }) => self.accept(io, sock, peer, local),
            (RECEIVE, Event::Received(chunk)) => self.receive(io, near, at, chunk),
            (RECEIVE, Event::Landed { landing, bytes }) => self.landed(io, near, at, landing, bytes),
            (RECEIVE, Event::ReceiveStopped) => self.receive_stopped(io, near, at),
            (RECEIVE, Event::EndOfStream | Event::Failed { .. }) => self.close(io, at),
            (SEND, Event::Sent(slices)) => {
                io.recycle(slices);
                self.sent(io, at);
            }
            (SEND, Event::Failed { .. }) => self.close(io, at),
            (CLOSE, Event::Closed | Event::Failed { .. }) => self.closed(at),
            (LISTENER, Event::Failed { .. }) if !self.draining => {
                // Out of descriptors, most likely: try again at the next tick.
                self.deaf.push(key);
                self.arm_tick(io);
            }
            (TICK, Event::Timer) => {
                self.tick = None;
                self.accept_again(io);
                self.check_deadlines(io);
                self.arm_tick(io);
            }
            _ => {}
        }
    }

    /// Takes a volume's answer to a request of this target.
    pub fn on_reply(&mut self, io: &mut Io, reply: volume::Reply) {
        self.finish_request(io, reply);
    }

    /// Takes a message of another core's target.
    pub fn on_message(&mut self, io: &mut Io, envelope: Envelope) {
        self.take_message(io, envelope.message);
    }

    /// Takes a new table of namespaces: hosts are told what changed for them. I/O under way goes on.
    pub fn set_namespaces(&mut self, io: &mut Io, table: Arc<NamespaceTable>) {
        let changes = self.views.update(table);
        if changes.is_empty() {
            return;
        }
        for controller in self.controllers.iter_mut() {
            let Some((_, change)) = changes.iter().find(|(view, _)| *view == controller.view) else {
                continue;
            };
            match controller.kind {
                Kind::Io => {
                    if !change.namespaces.is_empty() {
                        controller.events.namespaces_changed(&change.namespaces);
                    }
                    if change.ana {
                        controller.events.raise(Notice::Ana);
                    }
                }
                Kind::Discovery if change.discovery => controller.events.raise(Notice::Discovery),
                Kind::Discovery => {}
            }
        }
        self.send_events(io);
    }

    /// Takes a volume's notice about a reservation; every core's target gets every notice.
    pub fn on_notice(&mut self, io: &mut Io, notice: &volume::Notice) {
        let (kind, nsid) = (notice.kind as u8, notice.nsid.0);
        for controller in self.controllers.iter_mut() {
            let concerned = controller.kind == Kind::Io
                && controller.host.id == notice.host
                && !controller.features.masks_note(nsid, kind)
                && self.views.at(controller.view).find(nsid).is_some();
            if concerned {
                controller.events.reservation_note(kind, nsid);
            }
        }
        self.send_events(io);
    }

    /// Takes the subsystem's health, for the SMART log. Hosts that asked for it are told of a new warning.
    pub fn set_health(&mut self, io: &mut Io, health: Health) {
        let new = health.critical_warning & !self.health.critical_warning;
        self.health = health;
        if new != 0 {
            for controller in self.controllers.iter_mut().filter(|c| c.kind == Kind::Io) {
                controller.events.warned(new);
            }
            self.send_events(io);
        }
    }

    /// Once a turn, after all events, replies and messages: tries again what waited, and queues one send a connection.
    pub fn step(&mut self, io: &mut Io, near: &mut Near<'_>) {
        if !self.late.is_empty() {
            self.retry_late(io);
        }
        if !self.stalled.is_empty() {
            self.retry_stalled(io, near);
        }
        self.reserve.top_up(io);
        let mut dirty = std::mem::take(&mut self.dirty);
        for key in dirty.drain(..) {
            self.flush(io, key);
        }
        self.dirty = dirty;
        self.lend(io);
    }

    /// Remembers a reply that found no memory.
    #[cold]
    pub(crate) fn put_off(&mut self, late: Late) {
        self.late.push_back(late);
        self.no_near = true;
    }

    #[cold]
    fn retry_late(&mut self, io: &mut Io) {
        for _ in 0..self.late.len() {
            match self.late.pop_front() {
                Some(Late::Response(key, cqe)) => {
                    if let Some(connection) = self.connections.get_mut(key) {
                        connection.late -= 1;
                    }
                    self.respond(io, key, cqe);
                }
                Some(Late::Reply(reply)) => self.finish_request(io, reply),
                None => break,
            }
        }
        self.no_near = self.draining || !self.late.is_empty();
    }

    /// What is to be carried elsewhere. The loop empties both vectors every turn.
    pub fn outputs(&mut self) -> &mut Outputs {
        &mut self.outputs
    }

    // Stopping.

    /// Stops accepting and taking commands; what is under way is answered, then connections close one by one, which a
    /// host takes for a lost path and connects again.
    pub fn drain(&mut self, io: &mut Io) {
        (self.draining, self.no_near) = (true, true);
        for listener in self.listeners.drain(..) {
            io.close_listener(listener);
        }
        for key in self.connections.keys(|_| true) {
            self.end_if_drained(io, key);
        }
    }

    /// True when [`Target::drain`] has come to its end.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.draining && self.connections.is_empty()
    }

    // Telling.

    /// Totals of this core.
    #[must_use]
    pub fn stats(&self) -> TargetStats {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        TargetStats {
            connections: number(self.connections.len()),
            controllers: number(self.controllers.len()),
            outstanding: number(self.requests.len()),
            ..self.stats
        }
    }

    /// The queues of this core.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        let info = |c: &Connection| {
            let (controller, qid) = c.queue()?;
            Some(ConnectionInfo {
                host_nqn: c.host_nqn.clone()?,
                peer: c.peer,
                local: c.local,
                controller,
                qid,
                depth: c.sq_entries,
                outstanding: c.outstanding,
                traffic: c.counters,
            })
        };
        self.connections.iter().filter_map(|(_, c)| info(c)).collect()
    }

    /// The controllers of this core, discovery controllers included.
    #[must_use]
    pub fn hosts(&self) -> Vec<HostInfo> {
        let info = |c: &crate::controller::Controller| {
            // A controller ends with its admin queue's connection.
            let admin = self.connections.get(c.admin)?;
            Some(HostInfo {
                host_nqn: c.host.nqn.clone(),
                host_id: c.host.id,
                peer: admin.peer,
                local: admin.local,
                since: c.since,
                controller: c.id,
                discovery: c.kind == Kind::Discovery,
                io_queues: u32::try_from(c.queues.len()).unwrap_or(u32::MAX),
                namespaces: self.views.at(c.view).spaces().iter().map(|s| s.nsid.0).collect(),
            })
        };
        self.controllers.iter().filter_map(info).collect()
    }

    /// Where the time of a namespace's commands went lately, as far as this core answered them.
    #[must_use]
    pub fn traces(&self, nsid: u32, now: Nanos) -> TraceReport {
        self.traces.report(nsid, now, |key| self.connections.get(key)?.host_nqn.clone())
    }

    // For the other files.

    pub(crate) fn tag(&self, key: u64) -> Tag {
        Tag { owner: self.owner, key }
    }

    pub(crate) fn receive_tag(&self, key: Key) -> Tag {
        self.tag(RECEIVE | key.bits())
    }

    pub(crate) fn send_tag(&self, key: Key) -> Tag {
        self.tag(SEND | key.bits())
    }

    pub(crate) fn close_tag(&self, key: Key) -> Tag {
        self.tag(CLOSE | key.bits())
    }

    /// The view of a host, held by a connection or a controller.
    pub(crate) fn hold_view(&mut self, nqn: &Nqn, ip: IpAddr) -> crate::view::ViewId {
        self.views.hold(nqn, ip)
    }

    /// Deadlines are looked at while there is a connection.
    pub(crate) fn arm_tick(&mut self, io: &mut Io) {
        if self.tick.is_none() && (!self.connections.is_empty() || !self.deaf.is_empty()) {
            let at = io.now().plus_ms(TICK_MS);
            self.tick = Some(io.timer_at(self.tag(TICK), at));
        }
    }

    fn accept_again(&mut self, io: &mut Io) {
        for key in std::mem::take(&mut self.deaf) {
            let index = usize::try_from(key & !KIND).unwrap_or(usize::MAX);
            if let Some(&listener) = self.listeners.get(index) {
                io.accept(self.tag(key), listener);
            }
        }
    }

    fn accept(&mut self, io: &mut Io, sock: SocketId, peer: SocketAddr, local: SocketAddr) {
        self.stats.accepted += 1;
        let now: Nanos = io.now();
        let connection = Box::new(Connection::new(sock, peer, local, now));
        let key = match self.connections.insert(connection) {
            Ok(key) if !self.draining => key,
            refused => {
                self.stats.refused += 1;
                let at = Key { index: u32::MAX, generation: 0 };
                io.close(self.close_tag(at), sock);
                if let Ok(key) = refused {
                    self.connections.remove(key);
                }
                return;
            }
        };
        if let Some(connection) = self.connections.get_mut(key) {
            connection.receiving = Receiving::On;
        }
        io.receive(self.receive_tag(key), sock);
        self.arm_tick(io);
    }

    /// The socket is gone: so is the connection.
    fn closed(&mut self, key: Key) {
        if self.connections.get(key).is_some_and(|c| matches!(c.phase, Phase::Closing)) {
            self.connections.remove(key);
            self.landings.shed();
        }
    }
}
