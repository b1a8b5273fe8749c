//! NVM Express as bytes and as rules: the vocabulary (commands, completions, identify pages, logs, features) and
//! NVMe/TCP, with a sans-IO connection for either side.
//!
//! - [`spec`] owns the layouts of NVM Express Base 2.0, the NVM Command Set and Fabrics. Every structure is a
//!   fixed-size, little-endian `zerocopy` type whose size is asserted when it is compiled, so that reading one is a
//!   cast and never fails half-way.
//! - [`tcp`] owns NVMe/TCP Transport 1.1: PDUs, digests, and the state machines [`tcp::Controller`] and
//!   [`tcp::Host`]. Bytes go in, events come out; encoders write into buffers of the caller.
//!
//! Promises: no input of a peer can make this crate panic, spin, or allocate; nothing is allocated per I/O; payload
//! bytes are never copied here. Never does: I/O, clocks, randomness, decisions about namespaces or access.
#![forbid(unsafe_code)]

pub mod spec;
pub mod tcp;
