//! The network block device protocol: fixed newstyle handshake, simple and structured replies, no TLS.
//!
//! [`Handshake`] and [`Requests`] are the protocol, sans-IO; [`Server`] is the component that runs them over the sockets of
//! one core.

mod command;
mod connection;
mod flow;
mod handshake;
mod hearing;
mod input;
mod insight;
mod outbox;
mod output;
mod request;
mod server;
mod settle;
mod wire;

pub use handshake::{Handshake, Opened, Progress};
pub use insight::ClientInfo;
pub use request::{NbdRequest, Piece, Requests};
pub use server::{Listen, Outputs, Server, ServerConfig, ServerStats};
pub use settle::{Asks, Envelope, Message};
