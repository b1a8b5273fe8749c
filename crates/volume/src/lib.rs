//! What a volume is. Every door (NVMe/TCP today, others later) goes through here.
//!
//! One [`Volumes`] per core owns the volumes whose protection group's home is that core: the order of their writes,
//! their range locks, read-modify-write, compare-and-write, reservations, and their life from create to delete. It owns
//! no bytes of durable volumes (the store does) and knows no protocol (doors do).
//!
//! ```text
//!   submit ──> admit ──> claim ranges ──> begin ──> load ──> decide ──> append ──> finish ──> drain
//!              look at    wait for        check     blocks   compare,   number,    release
//!              its form   earlier ones    again     it       merge      hand to    the ranges,
//!                         that overlap    buffers   needs               the log    answer
//! ```
//!
//! Promises
//! - Commands of one volume whose 4 KiB blocks overlap take effect in the order in which they arrived here, unless they
//!   only read; others never wait for each other. A read whose data is at hand ([`Near`]) is answered when it is asked for,
//!   before commands that have no answer yet; never from a state older than one that was answered.
//! - One command is one batch of the log: all or nothing, also across a power failure, up to
//!   [`limits::ATOMIC_WRITE_BYTES`]. What is answered is durable.
//! - A write is numbered (sequenced) before its deadline and while reservations allow it, or never. Once sequenced it is
//!   judged no more: a reservation command that is answered later has every earlier write before it and none after it.
//! - Every request gets exactly one answer; every queue and every table has a bound in [`limits`].
//!
//! How it is stepped: the composition calls [`Volumes::submit`] for requests, [`Volumes::on_store_done`] for what the
//! store's `drain` yields, [`Volumes::step`] once per turn before the store's step, and takes replies, control answers,
//! notices and changes. Nothing here blocks, and nothing reads a clock but through the seam.
#![forbid(unsafe_code)]

mod allocation;
mod backing;
mod codec;
mod contents;
mod control;
mod descriptor;
mod engine;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod group;
mod identity;
mod lifecycle;
pub mod limits;
mod locks;
mod near;
mod notice;
mod op;
mod open;
mod qos;
mod request;
mod reservation;
mod snapshot;
mod snapshots;
mod span;
mod stats;
#[cfg(test)]
mod tests;
mod volume;
mod volumes;

pub use allocation::Extent;
pub use contents::Catalog;
pub use control::{
    Change, ControlCommand, ControlDone, ControlError, ControlReply, ControlRequest, DiffQuery, Health,
    Restart, Shrink, SnapshotInfo, VolumeInfo, VolumeUpdate,
};
pub use dolmen_store::{ChangedRange, DiffPage, LineUsage};
pub use engine::straight::{Asker, StraightWay};
pub use error::VolumeError;
pub use identity::NodeIdentity;
pub use near::{AtHand, Near, NearRange};
pub use notice::{Notice, NoticeKind};
pub use request::{Command, Done, LbaRange, Reply, Request, VolumeRef};
pub use reservation::{
    Access, AcquireAction, HostId, PersistChange, RegisterAction, Registrant, ReleaseAction,
    ReservationCommand, ReservationReport, ReservationType,
};
pub use stats::{LATENCY_BUCKETS, LatencyHistogram, VolumeStats};
pub use volumes::{Replace, Volumes};
