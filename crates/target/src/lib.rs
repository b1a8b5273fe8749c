//! The NVMe/TCP door of a node: listeners, connections, controllers, queues, namespaces, discovery and access control.
//!
//! One [`Target`] runs on each core, a plain struct that the core's loop steps. It owns what its listeners accepted.
//! Bytes of hosts become [`dolmen_volume::Request`]s, and replies become bytes; both leave through [`Outputs`].
//!
//! ```text
//!   socket ──chunk──▶ wire ──▶ fabrics   Connect, properties, Disconnect ─┐
//!                       │────▶ admin     Identify, logs, features, events ├▶ controller (core of the admin queue)
//!                       └────▶ io_queue  plan ▸ data ▸ Request ──▶ volume │
//!   socket ◀──send── outbox ◀── io_queue ◀────────────── Reply ◀── volume │
//!   other cores' targets ◀──────────── Envelope: Join, Joined, Leave, Close ┘
//! ```
//!
//! Promises: what a host may not see does not exist for it, on every path ([`NamespaceTable`] and the views made of it);
//! nothing a peer sends makes this panic, spin, grow without bound or slow others (every connection has deadlines, a
//! share of memory, and stops being read when it is used up); an acknowledged command was acknowledged by the volume.
//! Never does: order writes, check ranges against data, decide reservations. That is the volume's.
#![forbid(unsafe_code)]

mod admin;
mod arrivals;
mod config;
mod connection;
mod controller;
mod discovery;
mod events;
mod fabrics;
mod features;
mod fused;
mod identify;
mod io_queue;
mod lifecycle;
mod logs;
mod message;
mod near;
mod nvm;
mod outbox;
mod reservation;
mod settle;
mod share;
mod stats;
mod status;
mod table;
mod target;
mod trace;
mod view;
mod wire;

pub use config::{Bounds, Identity, LAST_CONTROLLER_ID, TargetConfig, Timeouts};
use dolmen_io::slab;
pub use logs::Health;
pub use message::Envelope;
pub use stats::{ConnectionInfo, Counters, HostInfo, TargetStats};
pub use table::{Namespace, NamespaceTable};
pub use target::{CalledOff, Outputs, Target};
