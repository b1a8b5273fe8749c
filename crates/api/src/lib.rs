//! The REST front of the cluster: wire-compatible with the LightOS v2 management API under `/api/v2`, our own
//! additions beside it under `/dolmen/v1`, and the metrics page at `/metrics`.
//!
//! This crate owns names, number formats, codes and headers; what is asked for is decided by `dolmen_cluster`. Every
//! path wants a bearer token, the metrics page too (Prometheus reads one from a file: `authorization:
//! credentials_file`). Fields that this version or one node can't honour are refused by name, never dropped.
#![forbid(unsafe_code)]

mod app;
mod drives;
mod error;
mod events;
mod fields;
mod metrics;
mod own;
mod policies;
mod resource_policies;
mod server;
mod snapshots;
mod stats;
mod system;
mod volumes;
mod wire;

pub use server::{BindError, Endpoints, Server, ServerOptions};
pub use wire::lost_object;

/// What `GET /version` answers; clients want exactly this.
pub const API_VERSION: &str = "v2.0";
