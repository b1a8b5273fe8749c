//! The `dolmen` program: the daemon (`dolmen serve`) and the command line, one binary.
//!
//! [`cli`] reads the command line and talks to a daemon's management API; [`config`] is what `serve` is told;
//! [`control`] composes the control side (folder, keys, API) of a daemon; [`node`] composes the data side and runs both;
//! [`demo`] shows all of it in a minute.
#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod control;
pub mod demo;
mod interrupts;
pub mod node;
pub mod notify;
