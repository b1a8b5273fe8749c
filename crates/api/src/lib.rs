//! The REST front of the cluster (wire-compatible with the LightOS v2 management API) and the metrics page.
#![forbid(unsafe_code)]

mod server;

pub use server::{Endpoints, Server, ServerOptions};
