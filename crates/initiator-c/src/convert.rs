//! From the header's types to the initiator's, and back.

use crate::{FAILED, FULL, GONE, INVALID, NO_MEMORY, TOO_LARGE, types::COptions};
use dolmen_initiator::{Digests, Failure, Options, SubmitError};
use dolmen_types::{Nqn, Uuid};
use std::{
    ffi::{CStr, c_char, c_int},
    net::{Ipv4Addr, SocketAddr},
};

/// The text behind a pointer of the caller.
///
/// # Safety
/// `text` is NULL or points to a string that ends with a zero.
pub(crate) unsafe fn text<'a>(text: *const c_char, what: &str) -> Result<&'a str, String> {
    if text.is_null() {
        return Err(format!("{what} is NULL"));
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|_| format!("{what} is not UTF-8"))
}

/// Reads options.
///
/// # Safety
/// Its strings are as [`text`] wants them.
pub(crate) unsafe fn options(c: &COptions) -> Result<Options, String> {
    // SAFETY: the caller's promise, three times.
    let (address, subsystem, host) =
        unsafe { (text(c.address, "address")?, text(c.subsystem, "subsystem")?, text(c.host, "host")?) };
    let addr: SocketAddr = address
        .parse()
        .map_err(|_| format!("'{address}' is not an address with a port, like 192.0.2.1:4420"))?;
    let subsystem = subsystem.parse().map_err(|e| format!("the subsystem's NQN: {e}"))?;
    let host = host.parse().map_err(|e| format!("the host's NQN: {e}"))?;
    Ok(Options {
        io_queues: c.io_queues,
        queue_depth: c.queue_depth,
        digests: Digests { header: c.header_digest != 0, data: c.data_digest != 0 },
        keep_alive_ms: c.keep_alive_ms,
        connect_timeout_ms: c.connect_timeout_ms,
        io_timeout_ms: c.io_timeout_ms,
        loss_timeout_ms: (c.loss_timeout_ms != u64::MAX).then_some(c.loss_timeout_ms),
        ..Options::new(addr, subsystem, host, Uuid(c.host_id))
    })
}

/// The usual values, without names.
pub(crate) fn usual() -> COptions {
    let nobody: Nqn = "nqn.2014-08.org.example:nobody".parse().expect("a name");
    let usual = Options::new((Ipv4Addr::LOCALHOST, 4420).into(), nobody.clone(), nobody, Uuid::NIL);
    COptions {
        size: size_of::<COptions>(),
        address: std::ptr::null(),
        subsystem: std::ptr::null(),
        host: std::ptr::null(),
        host_id: [0; 16],
        io_queues: usual.io_queues,
        queue_depth: usual.queue_depth,
        header_digest: u8::from(usual.digests.header),
        data_digest: u8::from(usual.digests.data),
        reserved: [0; 2],
        keep_alive_ms: usual.keep_alive_ms,
        connect_timeout_ms: usual.connect_timeout_ms,
        io_timeout_ms: usual.io_timeout_ms,
        loss_timeout_ms: usual.loss_timeout_ms.unwrap_or(u64::MAX),
    }
}

/// The code of a refusal.
pub(crate) fn refusal(error: SubmitError) -> c_int {
    match error {
        SubmitError::Full => FULL,
        SubmitError::Gone | SubmitError::Down => GONE,
        SubmitError::Invalid => INVALID,
        SubmitError::NoQueues => FAILED,
        SubmitError::TooLarge => TOO_LARGE,
        SubmitError::Memory => NO_MEMORY,
    }
}

/// `enum dolmen_outcome` and the Status Field of a result.
pub(crate) fn outcome(result: &Result<u64, Failure>) -> (i32, u16) {
    match result {
        Ok(_) => (0, 0),
        Err(Failure::Status(status)) => (1, status.bits()),
        Err(Failure::Expired) => (2, 0),
        Err(Failure::Lost | Failure::NotTaken(_)) => (3, 0),
        Err(Failure::Disconnected) => (4, 0),
    }
}
