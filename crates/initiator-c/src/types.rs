//! The header's structures. Layouts are held to the header's by the C program that the tests run.

use crate::buffer::Buffer;
use std::ffi::c_char;

/// `struct dolmen_options`.
#[repr(C)]
pub struct COptions {
    pub(crate) size: usize,
    pub(crate) address: *const c_char,
    pub(crate) subsystem: *const c_char,
    pub(crate) host: *const c_char,
    pub(crate) host_id: [u8; 16],
    pub(crate) io_queues: u16,
    pub(crate) queue_depth: u16,
    pub(crate) header_digest: u8,
    pub(crate) data_digest: u8,
    pub(crate) policy: u8,
    pub(crate) fencing: u8,
    pub(crate) keep_alive_ms: u32,
    pub(crate) connect_timeout_ms: u64,
    pub(crate) io_timeout_ms: u64,
    pub(crate) abort_timeout_ms: u64,
    pub(crate) fast_fail_ms: u64,
    pub(crate) loss_timeout_ms: u64,
    pub(crate) more_addresses: *const c_char,
    pub(crate) quiesce_ms: u64,
    pub(crate) backlog: usize,
    pub(crate) stage_bytes: usize,
    pub(crate) reconnect_min_ms: u64,
    pub(crate) reconnect_max_ms: u64,
    pub(crate) retries: u32,
    pub(crate) preference: u8,
    pub(crate) reserved: [u8; 3],
}

/// `struct dolmen_completion`.
#[repr(C)]
pub struct CCompletion {
    pub(crate) ticket: u64,
    pub(crate) result: u64,
    pub(crate) latency_ns: u64,
    pub(crate) buffer: *mut Buffer,
    pub(crate) subsystem: u32,
    pub(crate) outcome: i32,
    pub(crate) status: u16,
    pub(crate) queue: u16,
    pub(crate) reserved: u32,
}

/// `struct dolmen_namespace`.
#[repr(C)]
pub struct CNamespace {
    pub(crate) blocks: u64,
    pub(crate) block_bytes: u32,
    pub(crate) nsid: u32,
    pub(crate) uuid: [u8; 16],
    pub(crate) nguid: [u8; 16],
}

/// `struct dolmen_range`.
#[repr(C)]
pub struct CRange {
    pub(crate) lba: u64,
    pub(crate) blocks: u32,
    pub(crate) reserved: u32,
}

/// `struct dolmen_known_namespace`.
#[repr(C)]
pub struct CKnownNamespace {
    pub(crate) size: usize,
    pub(crate) blocks: u64,
    pub(crate) block_bytes: u32,
    pub(crate) nsid: u32,
    pub(crate) uuid: [u8; 16],
    pub(crate) nguid: [u8; 16],
    pub(crate) deallocated_reads_zero: u8,
    pub(crate) reserved: [u8; 7],
}

/// `struct dolmen_notice`.
#[repr(C)]
pub struct CNotice {
    pub(crate) size: usize,
    pub(crate) value: u64,
    pub(crate) subsystem: u32,
    pub(crate) kind: i32,
    pub(crate) path: u32,
    pub(crate) nsid: u32,
    pub(crate) error: i32,
    pub(crate) status: u16,
    pub(crate) reserved: u16,
    pub(crate) text: [u8; 256],
}

/// `struct dolmen_identity`.
#[repr(C)]
pub struct CIdentity {
    pub(crate) size: usize,
    pub(crate) max_transfer_bytes: u32,
    pub(crate) in_capsule_bytes: u32,
    pub(crate) max_namespaces: u32,
    pub(crate) ana_groups: u32,
    pub(crate) atomic_compare_blocks: u32,
    pub(crate) controller_id: u16,
    pub(crate) max_entries: u16,
    pub(crate) io_queues: u16,
    pub(crate) optional_nvm: u16,
    pub(crate) retry_delays: [u16; 3],
    pub(crate) quiesce_ms: u16,
    pub(crate) aborts: u16,
    pub(crate) events: u8,
    pub(crate) ana: u8,
    pub(crate) ana_transition_s: u8,
    pub(crate) traffic_keeps_alive: u8,
    pub(crate) fused: u8,
    pub(crate) reserved: u8,
    pub(crate) serial: [u8; 32],
    pub(crate) model: [u8; 48],
    pub(crate) firmware: [u8; 16],
    pub(crate) subsystem: [u8; 264],
}

/// `struct dolmen_discovery_options`.
#[repr(C)]
pub struct CDiscoveryOptions {
    pub(crate) size: usize,
    pub(crate) addresses: *const c_char,
    pub(crate) host: *const c_char,
    pub(crate) host_id: [u8; 16],
    pub(crate) max_services: usize,
    pub(crate) keep_alive_ms: u32,
    pub(crate) reserved: u32,
}

/// `struct dolmen_discovered`.
#[repr(C)]
pub struct CDiscovered {
    pub(crate) size: usize,
    pub(crate) kind: i32,
    pub(crate) port_id: u16,
    pub(crate) port: u16,
    pub(crate) needs_tls: u8,
    pub(crate) reserved: [u8; 7],
    pub(crate) address: [u8; 64],
    pub(crate) connect_to: [u8; 72],
    pub(crate) by: [u8; 72],
    pub(crate) nqn: [u8; 264],
}

/// `struct dolmen_change`.
#[repr(C)]
pub struct CChange {
    pub(crate) size: usize,
    pub(crate) value: u64,
    pub(crate) kind: i32,
    pub(crate) port_id: u16,
    pub(crate) needs_tls: u8,
    pub(crate) reserved: u8,
    pub(crate) connect_to: [u8; 72],
    pub(crate) by: [u8; 72],
    pub(crate) nqn: [u8; 264],
    pub(crate) text: [u8; 256],
}

/// `struct dolmen_reservation`.
#[repr(C)]
pub struct CReservation {
    pub(crate) size: usize,
    pub(crate) generation: u32,
    pub(crate) kind: i32,
    pub(crate) registrants: u32,
    pub(crate) persists: u8,
    pub(crate) reserved: [u8; 3],
}

/// `struct dolmen_registrant`.
#[repr(C)]
pub struct CRegistrant {
    pub(crate) size: usize,
    pub(crate) key: u64,
    pub(crate) host_id: [u8; 16],
    pub(crate) controller_id: u16,
    pub(crate) holder: u8,
    pub(crate) reserved: [u8; 5],
}

/// `struct dolmen_path`.
#[repr(C)]
pub struct CPath {
    pub(crate) size: usize,
    pub(crate) connects: u64,
    pub(crate) losses: u64,
    pub(crate) resent: u64,
    pub(crate) retried: u64,
    pub(crate) aborts: u64,
    pub(crate) resets: u64,
    pub(crate) path: u32,
    pub(crate) queues: u32,
    pub(crate) controller_id: i32,
    pub(crate) live: u8,
    pub(crate) given_up: u8,
    pub(crate) reserved: [u8; 2],
    pub(crate) address: [u8; 72],
}

/// `struct dolmen_ana`.
#[repr(C)]
pub struct CAna {
    pub(crate) nsid: u32,
    pub(crate) state: i32,
}

/// `struct dolmen_statistics`.
#[repr(C)]
pub struct CStatistics {
    pub(crate) size: usize,
    pub(crate) commands: u64,
    pub(crate) bytes: u64,
    pub(crate) errors: u64,
    pub(crate) measured: u64,
    pub(crate) mean_ns: u64,
    pub(crate) deviation_ns: u64,
    pub(crate) min_ns: u64,
    pub(crate) max_ns: u64,
}

/// `struct dolmen_bucket`.
#[repr(C)]
pub struct CBucket {
    pub(crate) to_ns: u64,
    pub(crate) count: u64,
}
