//! A controller: properties, life, queues, events. It lives on the core of its admin queue, as long as its association.
//!
//! ```text
//!   Connect(QID 0) ──▶ made, disabled ── CC.EN ──▶ ready ── I/O queues join
//!                          ▲                        │
//!                          └───── CC.EN cleared ────┤  all I/O queues end
//!                                     CC.SHN set ───┤  all I/O queues end, SHST complete
//!          keep alive expired, admin queue gone, ───┘  everything ends
//!          an I/O queue that we gave up
//! ```

use crate::{
    config::Timeouts,
    events::{Events, Notice},
    features::{self, Features},
    logs::ErrorLog,
    message::QueueAt,
    slab::Key,
    view::ViewId,
};
use dolmen_nvme::spec::{
    Capabilities, ControllerConfig, ControllerStatus, Property, PropertyGet, PropertySet, SPEC_VERSION_1_4,
    ShutdownRequest, Status,
};
use dolmen_types::{Nanos, Nqn, UnixMillis, limits};

const INVALID: Status = Status::INVALID_FIELD.with_dnr();

/// Milliseconds that an expired keep alive is forgiven: the granularity of the clock tick that finds it.
const KEEP_ALIVE_GRACE_MS: u64 = 500;

/// What a controller is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The subsystem's namespaces.
    Io,
    /// The discovery log.
    Discovery,
}

/// Who made a controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostIdentity {
    pub(crate) nqn: Nqn,
    pub(crate) id: [u8; 16],
}

/// What a Connect to an admin queue brings along.
#[derive(Clone, Debug)]
pub(crate) struct Association {
    pub(crate) kind: Kind,
    pub(crate) host: HostIdentity,
    /// The admin queue's connection.
    pub(crate) admin: Key,
    /// What the host may see; the controller holds it.
    pub(crate) view: ViewId,
    /// As the host asked for. Milliseconds.
    pub(crate) keep_alive_ms: u32,
    /// When.
    pub(crate) since: UnixMillis,
}

/// What must happen after a property was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterWrite {
    /// Nothing.
    Nothing,
    /// All I/O queues end; the admin queue stays.
    EndQueues,
}

/// One controller.
#[derive(Debug)]
pub(crate) struct Controller {
    pub(crate) id: u16,
    pub(crate) kind: Kind,
    pub(crate) host: HostIdentity,
    pub(crate) admin: Key,
    pub(crate) view: ViewId,
    pub(crate) since: UnixMillis,
    pub(crate) features: Features,
    pub(crate) events: Events,
    pub(crate) errors: ErrorLog,
    pub(crate) queues: Vec<(u16, QueueAt)>,
    config: ControllerConfig,
    status: u32,
    heard: Nanos,
}

impl Controller {
    /// A controller as Connect makes it.
    pub(crate) fn new(id: u16, made: Association, now: Nanos) -> Controller {
        let Association { kind, host, admin, view, keep_alive_ms, since } = made;
        let supported = match kind {
            Kind::Io => Notice::Namespace.config_bit() | Notice::Ana.config_bit(),
            Kind::Discovery => Notice::Discovery.config_bit(),
        };
        Controller {
            id,
            kind,
            host,
            admin,
            view,
            since,
            features: Features::new(features::round_keep_alive(keep_alive_ms)),
            events: Events::new(supported),
            errors: ErrorLog::default(),
            queues: Vec::new(),
            config: ControllerConfig::default(),
            status: 0,
            heard: now,
        }
    }

    /// True when commands other than Fabrics ones are accepted.
    pub(crate) fn is_ready(&self) -> bool {
        self.config.enabled() && self.status & (ControllerStatus::READY | ControllerStatus::FATAL) == 1
    }

    /// True when I/O queues may join.
    pub(crate) fn accepts_queues(&self) -> bool {
        self.kind == Kind::Io && self.is_ready() && self.config.shutdown() == ShutdownRequest::None
    }

    /// A sign of life on the admin queue.
    pub(crate) fn hear(&mut self, now: Nanos) {
        self.heard = now;
    }

    /// True when the host has been silent for too long.
    pub(crate) fn expired(&self, now: Nanos, timeouts: &Timeouts) -> bool {
        let limit_ms = match (self.features.keep_alive_ms(), self.kind) {
            (0, Kind::Io) => return false,
            (0, Kind::Discovery) => timeouts.discovery_kato_ms,
            (ms, _) => ms,
        };
        now > self.heard.plus_ms(u64::from(limit_ms) + KEEP_ALIVE_GRACE_MS)
    }

    /// Adds an I/O queue.
    pub(crate) fn join(&mut self, qid: u16, queue: QueueAt) -> Result<(), Status> {
        if self.queues.iter().any(|(q, _)| *q == qid) {
            return Err(Status::COMMAND_SEQUENCE_ERROR);
        }
        self.queues.push((qid, queue));
        Ok(())
    }

    /// Forgets an I/O queue, if it is still that one.
    pub(crate) fn leave(&mut self, qid: u16, queue: QueueAt) {
        self.queues.retain(|entry| *entry != (qid, queue));
    }

    /// Property Get (Base 6.6).
    pub(crate) fn property(&self, get: PropertyGet) -> Result<u64, Status> {
        match (get.property, get.wide) {
            (Property::CAP, true) => Ok(capabilities().bits()),
            (Property::VS, false) => Ok(u64::from(SPEC_VERSION_1_4)),
            (Property::CC, false) => Ok(u64::from(self.config.0)),
            (Property::CSTS, false) => Ok(u64::from(self.status)),
            _ => Err(INVALID),
        }
    }

    /// Property Set (Base 6.7). Only CC can be written.
    pub(crate) fn set_property(&mut self, set: PropertySet) -> Result<AfterWrite, Status> {
        if set.property != Property::CC || set.wide {
            return Err(INVALID);
        }
        let new = ControllerConfig(u32::try_from(set.value).map_err(|_| INVALID)?);
        if new.shutdown() == ShutdownRequest::Reserved {
            return Err(INVALID);
        }
        let old = std::mem::replace(&mut self.config, new);
        let mut after = AfterWrite::Nothing;
        if new.enabled() && !old.enabled() {
            self.status =
                if self.understands(new) { ControllerStatus::READY } else { ControllerStatus::FATAL };
        }
        if !new.enabled() && old.enabled() {
            self.reset();
            after = AfterWrite::EndQueues;
        }
        match (new.shutdown(), old.shutdown()) {
            (ShutdownRequest::None, ShutdownRequest::None) => {}
            (ShutdownRequest::None, _) => self.status &= !ControllerStatus::SHUTDOWN_COMPLETE,
            // All that was acknowledged is durable, so there is nothing to wait for.
            (_, ShutdownRequest::None) => {
                self.status |= ControllerStatus::SHUTDOWN_COMPLETE;
                after = AfterWrite::EndQueues;
            }
            _ => {}
        }
        Ok(after)
    }

    /// True for a configuration that we can run with: our command sets, 4 KiB pages, the usual entry sizes.
    fn understands(&self, config: ControllerConfig) -> bool {
        let sizes = match self.kind {
            Kind::Io => config.sq_entry_size() == 6 && config.cq_entry_size() == 4,
            Kind::Discovery => true,
        };
        sizes && matches!(config.command_set(), 0 | 6) && config.page_size() == 0 && config.arbitration() == 0
    }

    /// Controller reset: what the host had set is gone; outstanding event requests end without a completion.
    fn reset(&mut self) {
        self.status = 0;
        self.features = Features::new(self.features.keep_alive_ms());
        self.events = Events::new(self.events.supported());
    }
}

/// CAP.
fn capabilities() -> Capabilities {
    Capabilities {
        max_queue_entries: limits::MAX_QUEUE_DEPTH - 1,
        timeout: 15,
        subsystem_reset: false,
        command_sets: 1 | 1 << 6,
        min_page: 0,
        max_page: 0,
    }
}

/// The controllers of a core, found by id without searching; ids are reused as late as possible.
#[derive(Debug)]
pub(crate) struct Controllers {
    first: u16,
    slots: Vec<Option<Box<Controller>>>,
    next: usize,
    count: usize,
}

impl Controllers {
    /// `ids` controller ids from `first` on.
    pub(crate) fn new(first: u16, ids: u16) -> Controllers {
        let slots = std::iter::repeat_with(|| None).take(usize::from(ids)).collect();
        Controllers { first, slots, next: 0, count: 0 }
    }

    /// Makes a controller with a free id; `None` when all are in use.
    pub(crate) fn insert(&mut self, make: impl FnOnce(u16) -> Controller) -> Option<u16> {
        let n = self.slots.len();
        let at = (0..n).map(|i| (self.next + i) % n).find(|&i| self.slots[i].is_none())?;
        let id = self.first + u16::try_from(at).ok()?;
        self.slots[at] = Some(Box::new(make(id)));
        self.next = (at + 1) % n;
        self.count += 1;
        Some(id)
    }

    pub(crate) fn remove(&mut self, id: u16) -> Option<Box<Controller>> {
        let removed = self.slots.get_mut(usize::from(id.checked_sub(self.first)?))?.take();
        self.count -= usize::from(removed.is_some());
        removed
    }

    pub(crate) fn get(&self, id: u16) -> Option<&Controller> {
        self.slots.get(usize::from(id.checked_sub(self.first)?))?.as_deref()
    }

    pub(crate) fn get_mut(&mut self, id: u16) -> Option<&mut Controller> {
        self.slots.get_mut(usize::from(id.checked_sub(self.first)?))?.as_deref_mut()
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Controller> {
        self.slots.iter().filter_map(Option::as_deref)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Controller> {
        self.slots.iter_mut().filter_map(Option::as_deref_mut)
    }
}
