//! Doors for hosts that have no NVMe/TCP: a network block device server over anything that has blocks.
//!
//! ```text
//!   socket ──chunk──▶ nbd::Session ──▶ nbd::Server ──backend::Request──▶ volumes of this node    (VolumeBackend)
//!   socket ◀──send─── nbd::Outbox ◀──── nbd::Server ◀──backend::Reply──── or namespaces elsewhere (NamespaceBackend)
//! ```
//!
//! - [`backend`] is the one interface between a door and what stands behind it: plain values, both ways.
//! - [`nbd::Server`] is the door, a component of a core's loop: it owns listeners and connections and names no backend.
//! - [`VolumeBackend`] turns its requests into those of `dolmen-volume`, [`NamespaceBackend`] into commands of
//!   `dolmen-initiator`.
//!
//! Promises: what is acknowledged was acknowledged by the backend; a client that says anything at all but NBD is
//! disconnected; no client makes this panic, spin, grow without bound or starve others. Never does: know what a volume or a
//! namespace is beyond its size and its blocks.
#![forbid(unsafe_code)]

pub mod backend;
mod exports;
mod namespaces;
pub mod nbd;
mod volumes;

use dolmen_io::slab;
pub use exports::{Export, Exports};
pub use namespaces::NamespaceBackend;
pub use volumes::VolumeBackend;
