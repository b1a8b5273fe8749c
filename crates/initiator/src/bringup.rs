//! The way from a connected admin queue to a live controller, as a state machine that does no I/O.
//!
//! ```text
//!  AdminConnect -> Capabilities -> Enable -> Ready* -> Identify -> Events -+-> (discovery) ------------> Live
//!                                                                          +-> Queues -> OpenQueues -> Live
//! ```
//!
//! Each command of the way is one [`Step::Send`]; its answer goes to [`Bringup::answer`], which says what is next.
//! CSTS is polled (`Ready*`) until the controller is ready, bounded by what CAP.TO promises. Nothing here waits or
//! allocates, and no answer can make it panic.

use crate::{Error, ErrorKind, Identity, Options, options::ADMIN_ENTRIES};
use dolmen_nvme::spec::{
    Capabilities, Cns, ConnectCommand, ConnectData, ControllerConfig, ControllerStatus, Cqe, FeatureId,
    IdentifyCommand, IdentifyController, Property, PropertyGet, PropertySet, Sqe, Status, async_event_config,
    connect_attributes, connect_response, feature_select, number_of_queues,
};
use dolmen_types::Nanos;
use zerocopy::FromBytes;

/// Time between two looks at CSTS. Milliseconds.
const READY_POLL_MS: u64 = 20;
/// Unit of CAP.TO. Milliseconds.
const CAP_TIMEOUT_UNIT_MS: u64 = 500;
/// The smallest in-capsule data, and the unit of IOCCSZ and of the SQE itself. Bytes.
const SQE_BYTES: u32 = 64;
const CAPSULE_UNIT_BYTES: u32 = 16;

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send this on the admin queue and bring back its answer.
    Send(Sqe, Payload),
    /// Look again, by calling [`Bringup::again`], at this time.
    Wait(Nanos),
    /// Open so many I/O queues; call [`Bringup::queues_open`] when all are connected.
    OpenQueues(u16),
    /// The controller is live.
    Live,
}

/// The data of a bring-up command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    None,
    /// Connect's 1024 bytes.
    Connect(Box<ConnectData>),
    /// A page to us. Bytes.
    Page(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    AdminConnect,
    Capabilities,
    Enable,
    Ready { until: Nanos },
    Identify,
    Events,
    Queues,
    OpenQueues,
    Live,
}

/// One attempt to bring a controller up.
#[derive(Debug)]
pub(crate) struct Bringup {
    stage: Stage,
    discovery: bool,
    wanted_queues: u16,
    ready_timeout_ms: u64,
    identity: Identity,
    events_offered: u32,
}

impl Bringup {
    /// A new attempt and its first step, for an admin queue whose connection is initialised.
    pub(crate) fn begin(options: &Options) -> (Bringup, Step) {
        let bringup = Bringup {
            stage: Stage::AdminConnect,
            discovery: options.is_discovery(),
            wanted_queues: options.io_queues,
            ready_timeout_ms: 0,
            identity: Identity::default(),
            events_offered: 0,
        };
        let step = connect_step(options, 0, ADMIN_ENTRIES, ConnectData::DYNAMIC);
        (bringup, step)
    }

    /// What the controller said of itself so far.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Takes the answer to the last [`Step::Send`]: its completion and its page (empty if it has none).
    pub(crate) fn answer(&mut self, cqe: &Cqe, page: &[u8], now: Nanos) -> Result<Step, Error> {
        let status = cqe.status();
        match self.stage {
            Stage::AdminConnect => {
                succeeded("Connect of the admin queue", status)?;
                if cqe.dw0.get() & connect_response::AUTHENTICATION_REQUIRED != 0 {
                    let what = "the controller demands in-band authentication, which this host doesn't do";
                    return Err(Error::new(ErrorKind::Unsupported, what));
                }
                self.identity.controller_id = connect_response::controller_id(cqe.dw0.get());
                self.go(Stage::Capabilities, get(Property::CAP, true))
            }
            Stage::Capabilities => {
                succeeded("Property Get of CAP", status)?;
                let cap = Capabilities::from_bits(cqe.result());
                self.identity.max_entries = cap.max_queue_entries.saturating_add(1);
                self.ready_timeout_ms = u64::from(cap.timeout).max(1) * CAP_TIMEOUT_UNIT_MS;
                let value = u64::from(ControllerConfig::ENABLE.0);
                let set = PropertySet { property: Property::CC, wide: false, value };
                self.go(Stage::Enable, set.encode(0))
            }
            Stage::Enable => {
                succeeded("Property Set of CC", status)?;
                let until = now.plus_ms(self.ready_timeout_ms);
                self.go(Stage::Ready { until }, get(Property::CSTS, false))
            }
            Stage::Ready { until } => self.look_at_status(cqe, until, now),
            Stage::Identify => {
                succeeded("Identify Controller", status)?;
                self.take_identify(page)?;
                Ok(self.after_identify())
            }
            // A controller need not offer events; do without them.
            Stage::Events => Ok(self.after_events()),
            Stage::Queues => {
                succeeded("Set Features, Number of Queues", status)?;
                let granted = number_of_queues::counts(cqe.dw0.get()).map_or(0, |(sq, cq)| sq.min(cq));
                match granted.min(self.wanted_queues) {
                    0 => Err(Error::new(ErrorKind::Protocol, "the controller grants no I/O queue")),
                    queues => {
                        self.stage = Stage::OpenQueues;
                        Ok(Step::OpenQueues(queues))
                    }
                }
            }
            Stage::OpenQueues | Stage::Live => {
                Err(Error::new(ErrorKind::Protocol, "an answer that nothing was asked for"))
            }
        }
    }

    /// [`Step::Wait`] is over.
    pub(crate) fn again(&self) -> Step {
        Step::Send(get(Property::CSTS, false), Payload::None)
    }

    /// All I/O queues are connected.
    pub(crate) fn queues_open(&mut self) -> Step {
        self.stage = Stage::Live;
        Step::Live
    }

    fn go(&mut self, stage: Stage, sqe: Sqe) -> Result<Step, Error> {
        self.stage = stage;
        Ok(Step::Send(sqe, Payload::None))
    }

    fn look_at_status(&mut self, cqe: &Cqe, until: Nanos, now: Nanos) -> Result<Step, Error> {
        succeeded("Property Get of CSTS", cqe.status())?;
        let csts = ControllerStatus(cqe.dw0.get());
        if csts.fatal() {
            return Err(Error::new(ErrorKind::Protocol, "the controller reports a fatal status (CSTS.CFS)"));
        }
        if csts.ready() {
            self.stage = Stage::Identify;
            let identify = IdentifyCommand {
                cns: Cns::CONTROLLER,
                controller: 0,
                specific: 0,
                command_set: 0,
                uuid_index: 0,
            };
            return Ok(Step::Send(identify.encode(0, 0), Payload::Page(IdentifyCommand::DATA_BYTES)));
        }
        if now >= until {
            return Err(Error::new(
                ErrorKind::Timeout,
                "the controller didn't become ready in the time of CAP.TO",
            ));
        }
        Ok(Step::Wait(now.plus_ms(READY_POLL_MS)))
    }

    fn take_identify(&mut self, page: &[u8]) -> Result<(), Error> {
        let Ok(page) = IdentifyController::ref_from_bytes(page) else {
            return Err(Error::new(ErrorKind::Protocol, "Identify Controller returned a short page"));
        };
        let id = &mut self.identity;
        id.fill(page);
        let capsule = page.io_command_capsule.get().saturating_mul(CAPSULE_UNIT_BYTES);
        // An offset of the in-capsule data (ICDOFF) is always 0 on TCP; with another one we'd put it wrongly.
        id.in_capsule_bytes = match page.in_capsule_offset.get() {
            0 => capsule.saturating_sub(SQE_BYTES),
            _ => 0,
        };
        self.events_offered = page.async_events.get();
        Ok(())
    }

    fn after_identify(&mut self) -> Step {
        let wanted = if self.discovery {
            async_event_config::DISCOVERY
        } else {
            async_event_config::NAMESPACE | async_event_config::ANA
        };
        let mask = wanted & self.events_offered;
        self.identity.events = mask != 0;
        if mask == 0 {
            return self.after_events();
        }
        self.stage = Stage::Events;
        Step::Send(feature_select::set(0, 0, FeatureId::ASYNC_EVENT, mask), Payload::None)
    }

    fn after_events(&mut self) -> Step {
        if self.discovery {
            self.stage = Stage::Live;
            return Step::Live;
        }
        self.stage = Stage::Queues;
        let value = number_of_queues::value(self.wanted_queues, self.wanted_queues);
        Step::Send(feature_select::set(0, 0, FeatureId::NUMBER_OF_QUEUES, value), Payload::None)
    }
}

/// Connect for one queue: `entries` of the submission queue, and the controller (from the admin queue's Connect).
pub(crate) fn connect_step(options: &Options, queue: u16, entries: u16, controller: u16) -> Step {
    let connect = ConnectCommand {
        record_format: 0,
        queue,
        sq_size: entries - 1,
        attributes: connect_attributes::DISABLE_FLOW_CONTROL,
        keep_alive_ms: if queue == 0 { options.keep_alive_ms } else { 0 },
    };
    let (subsystem, host) = (options.subsystem.as_str(), options.host.as_str());
    let data = ConnectData::new(options.host_id.0, controller, subsystem, host);
    Step::Send(connect.encode(0), Payload::Connect(Box::new(data)))
}

/// The error of a refused bring-up command.
pub(crate) fn succeeded(what: &str, status: Status) -> Result<(), Error> {
    if status.is_success() { Ok(()) } else { Err(Error::refused(what, status)) }
}

fn get(property: Property, wide: bool) -> Sqe {
    PropertyGet { property, wide }.encode(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dolmen_types::{Nqn, Uuid};
    use zerocopy::IntoBytes;

    fn begin() -> Bringup {
        let nqn: Nqn = "nqn.2014-08.org.example:a".parse().unwrap();
        let options = Options::new("192.0.2.1:4420".parse().unwrap(), nqn.clone(), nqn, Uuid([1; 16]));
        Bringup::begin(&Options { io_queues: 4, ..options }).0
    }

    fn ok() -> Cqe {
        Cqe::new(0, Status::SUCCESS)
    }

    /// Brings a controller to where CSTS is awaited.
    fn enabling() -> Bringup {
        let mut b = begin();
        b.answer(&ok().with_dw0(5), &[], Nanos(0)).unwrap();
        let cap = Capabilities {
            max_queue_entries: 63,
            timeout: 2,
            subsystem_reset: false,
            command_sets: 1,
            min_page: 0,
            max_page: 0,
        };
        b.answer(&ok().with_result(cap.bits()), &[], Nanos(0)).unwrap();
        b.answer(&ok(), &[], Nanos(0)).unwrap();
        assert_eq!((b.identity().controller_id, b.identity().max_entries), (5, 64));
        b
    }

    fn kind(result: Result<Step, Error>) -> ErrorKind {
        result.unwrap_err().kind
    }

    #[test]
    fn waits_for_ready_as_long_as_cap_says() {
        let mut b = enabling();
        assert_eq!(b.answer(&ok(), &[], Nanos(0)), Ok(Step::Wait(Nanos(0).plus_ms(READY_POLL_MS))));
        assert!(matches!(b.again(), Step::Send(_, Payload::None)));
        assert!(matches!(b.answer(&ok(), &[], Nanos(999_999_999)), Ok(Step::Wait(_))));
        assert_eq!(kind(b.answer(&ok(), &[], Nanos(1_000_000_000))), ErrorKind::Timeout);
        let mut b = enabling();
        assert_eq!(
            kind(b.answer(&ok().with_dw0(ControllerStatus::FATAL), &[], Nanos(0))),
            ErrorKind::Protocol
        );
    }

    #[test]
    fn refuses_what_it_cannot_use() {
        let demands = ok().with_dw0(connect_response::AUTHENTICATION_REQUIRED);
        assert_eq!(kind(begin().answer(&demands, &[], Nanos(0))), ErrorKind::Unsupported);
        let busy = Cqe::new(0, Status::CONNECT_CONTROLLER_BUSY);
        assert!(!begin().answer(&busy, &[], Nanos(0)).unwrap_err().is_final());
        let mut b = enabling();
        b.answer(&ok().with_dw0(ControllerStatus::READY), &[], Nanos(0)).unwrap();
        assert_eq!(kind(b.answer(&ok(), &[0; 100], Nanos(0))), ErrorKind::Protocol);
    }

    #[test]
    fn takes_the_queues_that_are_granted() {
        let to_queues = || {
            let mut b = enabling();
            b.answer(&ok().with_dw0(ControllerStatus::READY), &[], Nanos(0)).unwrap();
            let mut page = IdentifyController::zeroed();
            page.io_command_capsule = 260.into();
            let step = b.answer(&ok(), page.as_bytes(), Nanos(0)).unwrap();
            assert!(matches!(step, Step::Send(..)), "no events are offered, so none are asked for");
            assert_eq!((b.identity().in_capsule_bytes, b.identity().events), (4096, false));
            b
        };
        for (granted, opened) in [(1, 1), (3, 3), (128, 4)] {
            let answer = ok().with_dw0(number_of_queues::value(granted, 200));
            assert_eq!(to_queues().answer(&answer, &[], Nanos(0)), Ok(Step::OpenQueues(opened)));
        }
        assert_eq!(kind(to_queues().answer(&ok().with_dw0(u32::MAX), &[], Nanos(0))), ErrorKind::Protocol);
    }
}
