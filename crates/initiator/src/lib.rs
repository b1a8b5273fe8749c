//! A user-space NVMe/TCP host: it connects to any NVMe/TCP target and reads, writes and trims its namespaces, without
//! a kernel driver.
//!
//! - [`Initiator`] is a component on a core's loop, for programs built like Dolmen. It allocates nothing per I/O, copies
//!   received payload once, into the caller's own buffer, and sends once per queue and turn.
//! - [`polled::Client`] owns its loop and has a descriptor to wait on: any program can embed it, whatever its own loop is.
//! - [`aio`] is the same for tasks on our executor: `subsystem.read(..).await`.
//! - [`blocking::Session`] is the simple face, for tools and tests: it waits for each answer.
//! - [`discovery::Discovery`] follows discovery services and their referrals, and tells what changes.
//! - [`namespaces::Namespaces`] follows what namespaces there are, and how large.
//! - [`load`] makes load and verifies what it reads.
//!
//! A subsystem may be reached by several paths ([`Options::paths`]), each an association with a controller of its own; ANA
//! tells which of them are good for a namespace, [`Policy`] which of those a command takes.
//!
//! Promises: every command taken ends in exactly one completion. When a connection dies, commands that may be repeated
//! are sent again on the next one, and the caller sees nothing but time passing, up to the command's own deadline and
//! [`Options::loss_timeout_ms`]. No input of a peer makes this crate panic, spin, or allocate without bound.
//!
//! Never does: sockets, clocks, threads or randomness of its own; all that comes from the caller's
//! [`Io`](dolmen_io::Io).
#![forbid(unsafe_code)]

pub mod aio;
mod ana;
pub mod blocking;
mod bringup;
mod command;
mod compose;
pub mod discovery;
mod error;
mod identity;
mod initiator;
pub mod load;
pub mod namespaces;
mod options;
mod outbox;
mod path;
pub mod polled;
mod queue;
mod slots;
mod statistics;
mod subsystem;

pub use command::{
    BlockRange, Command, Completion, Data, NO_DEADLINE, Request, Resend, SubmitError, SubsystemId,
};
pub use compose::{
    AcquireAction, Acquisition, RegisterAction, Registrant, Registration, Release, ReleaseAction,
    ReservationReport, ReservationType,
};
pub use error::{Error, ErrorKind, Failure};
pub use identity::{Discovered, DiscoveredSubsystem, Identity, Namespace, NamespaceIds};
pub use initiator::{Initiator, Notice, OWNER, State};
pub use load::Histogram;
pub use options::{ADMIN_ENTRIES, Digests, Options, PathOptions};
pub use queue::spare_buffers;
pub use statistics::{Answered, PathReport, PathStatistics, QueueStatistics};
pub use subsystem::{
    choice::{MAX_PATHS, Policy},
    fence::Fencing,
};
