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
