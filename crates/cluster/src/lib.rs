//! The control side of one node: who it is, what it must remember, and the model of its volumes.
//!
//! - [`plane`]: the words between control and data.
//! - [`model`]: the cluster's model as a step function: events in, commands out; no clock, no randomness, no I/O.
//! - [`volume`]: what a user may ask of a volume, checked once, here.
//! - [`qos`]: policies that limit the rate of volumes.
//! - [`schedule`]: policies that take snapshots, and when.
//! - [`snapshot`]: what a user may ask of snapshots.
//! - [`state`]: the embedded file that holds what must survive but isn't in the log (identity, marks, keys, events).
//! - [`trace`]: where the time of commands went; [`why`]: what to make of it.
//! - [`lock`]: one daemon per data folder.
//! - [`node`]: the adapter that runs the model beside the data plane; [`node::Handle`] is what the API calls.
//!
//! The truth about volumes is the pool's log. The model is derived from it at every start and changes only when the
//! data plane says that a change is durable.
#![forbid(unsafe_code)]

mod error;
pub mod event;
pub mod lock;
pub mod model;
pub mod node;
pub mod plane;
pub mod qos;
pub mod schedule;
pub mod snapshot;
pub mod state;
pub mod trace;
pub mod volume;
pub mod why;

pub use error::{Error, Kind};
