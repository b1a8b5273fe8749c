//! The C face of `dolmen-initiator`: `include/dolmen_initiator.h` says what each function does, this crate does it.
//!
//! The only `unsafe` of the initiator lives here: pointers of the caller are looked at once, at the edge, and become
//! references, slices and owned buffers. Every exported function's contract is the header's: pointers come from this
//! library or point to what the header says, and one thread uses a client.
//!
//! A panic cannot cross into C: it ends the process.
#![allow(clippy::too_many_arguments)] // the header's functions are plain C

pub mod admin;
pub mod buffer;
pub mod client;
pub mod commands;
pub mod connect;
mod convert;
pub mod discovery;
mod following;
pub mod notices;
pub mod reservations;
mod room;
pub mod statistics;
pub mod types;
pub mod waits;

use std::ffi::c_int;

/// Success.
const OK: c_int = 0;
/// An argument that cannot be.
const INVALID: c_int = -1;
/// As many commands as fit are under way.
const FULL: c_int = -2;
/// No such subsystem, or it was given up or disconnected.
const GONE: c_int = -3;
/// More data than the controller takes in one command.
const TOO_LARGE: c_int = -4;
/// The client's pool is empty.
const NO_MEMORY: c_int = -5;
/// It did not happen in the time given.
const TIMEOUT: c_int = -6;
/// The client's text says why.
const FAILED: c_int = -7;
/// The buffer belongs to a command.
const BUSY: c_int = -8;

/// Version of the interface.
#[unsafe(no_mangle)]
pub extern "C" fn dolmen_abi() -> u32 {
    1
}
