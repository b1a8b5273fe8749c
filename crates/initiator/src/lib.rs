//! A user-space NVMe/TCP host: it connects to any NVMe/TCP target and reads, writes and trims its namespaces, without
//! a kernel driver.
//!
//! - [`Initiator`] is the polled face: a component on a core's loop. It allocates nothing per I/O, copies received
//!   payload once, into the caller's own buffer, and sends once per queue and turn.
//! - [`blocking::Session`] is the simple face, for tools and tests: it drives a loop of its own.
//! - [`load`] makes load and verifies what it reads.
//!
//! Promises: every command taken ends in exactly one completion. When a connection dies, commands that may be repeated
//! are sent again on the next one, and the caller sees nothing but time passing, up to the command's own deadline and
//! [`Options::loss_timeout_ms`]. No input of a peer makes this crate panic, spin, or allocate without bound.
//!
//! Never does: sockets, clocks, threads or randomness of its own; all that comes from the caller's
//! [`Io`](dolmen_io::Io).
#![forbid(unsafe_code)]

pub mod blocking;
mod bringup;
mod command;
mod error;
mod identity;
mod initiator;
pub mod load;
mod options;
mod outbox;
mod path;
mod queue;
mod slots;
mod subsystem;

pub use command::{
    BlockRange, Command, Completion, Data, NO_DEADLINE, Request, Resend, SubmitError, SubsystemId,
};
pub use error::{Error, ErrorKind, Failure};
pub use identity::{Discovered, DiscoveredSubsystem, Identity, Namespace};
pub use initiator::{Initiator, Notice, OWNER, State};
pub use options::{ADMIN_ENTRIES, Digests, Options};
