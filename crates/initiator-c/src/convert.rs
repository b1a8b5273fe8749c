//! From the header's types to the initiator's, and back.

use crate::{
    FAILED, FULL, GONE, INVALID, NO_MEMORY, TOO_LARGE,
    types::{CDiscoveryOptions, COptions},
};
use dolmen_initiator::{
    Digests, ErrorKind, Failure, Fencing, Options, PathOptions, Policy, State, SubmitError,
    discovery::DiscoveryOptions,
};
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
    let addr = parse_address(address)?;
    let more = match c.more_addresses.is_null() {
        true => "",
        // SAFETY: the caller's promise.
        false => unsafe { text(c.more_addresses, "more_addresses")? },
    };
    let more = parse_addresses(more)?;
    let preferred = (1..=u8::MAX).chain(std::iter::repeat(u8::MAX));
    let paths = more.into_iter().zip(preferred).map(|(addr, preference)| PathOptions { addr, preference });
    let policy = match c.policy {
        0 => Policy::ActivePassive,
        1 => Policy::RoundRobin,
        2 => Policy::QueueDepth,
        other => return Err(format!("{other} is no enum dolmen_policy")),
    };
    let fencing = match c.fencing {
        0 => Fencing::Blocks,
        1 => Fencing::Commands,
        2 => Fencing::Off,
        other => return Err(format!("{other} is no enum dolmen_fencing")),
    };
    let subsystem = subsystem.parse().map_err(|e| format!("the subsystem's NQN: {e}"))?;
    let host = host.parse().map_err(|e| format!("the host's NQN: {e}"))?;
    Ok(Options {
        io_queues: c.io_queues,
        queue_depth: c.queue_depth,
        digests: Digests { header: c.header_digest != 0, data: c.data_digest != 0 },
        keep_alive_ms: c.keep_alive_ms,
        connect_timeout_ms: c.connect_timeout_ms,
        io_timeout_ms: c.io_timeout_ms,
        abort_timeout_ms: c.abort_timeout_ms,
        fast_fail_ms: (c.fast_fail_ms != u64::MAX).then_some(c.fast_fail_ms),
        loss_timeout_ms: (c.loss_timeout_ms != u64::MAX).then_some(c.loss_timeout_ms),
        paths: paths.collect(),
        policy,
        fencing,
        quiesce_ms: (c.quiesce_ms != u64::MAX).then_some(c.quiesce_ms),
        backlog: c.backlog,
        stage_bytes: c.stage_bytes,
        reconnect_min_ms: c.reconnect_min_ms,
        reconnect_max_ms: c.reconnect_max_ms,
        retries: c.retries,
        preference: c.preference,
        ..Options::new(addr, subsystem, host, Uuid(c.host_id))
    })
}

/// Reads how to follow discovery services, and which.
///
/// # Safety
/// Its strings are as [`text`] wants them.
pub(crate) unsafe fn discovery_options(
    c: &CDiscoveryOptions,
) -> Result<(DiscoveryOptions, Vec<SocketAddr>), String> {
    // SAFETY: the caller's promise, twice.
    let (addresses, host) = unsafe { (text(c.addresses, "addresses")?, text(c.host, "host")?) };
    let addresses = parse_addresses(addresses)?;
    if addresses.is_empty() {
        return Err("there is no address of a discovery service".into());
    }
    let host = host.parse().map_err(|e| format!("the host's NQN: {e}"))?;
    let (keep_alive_ms, max_services) = (c.keep_alive_ms, c.max_services);
    let usual = DiscoveryOptions::new(host, Uuid(c.host_id));
    Ok((DiscoveryOptions { keep_alive_ms, max_services, ..usual }, addresses))
}

/// Addresses with commas between them.
fn parse_addresses(text: &str) -> Result<Vec<SocketAddr>, String> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(parse_address).collect()
}

pub(crate) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("'{text}' is not an address with a port, like 192.0.2.1:4420"))
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
        policy: 0,
        fencing: 0,
        keep_alive_ms: usual.keep_alive_ms,
        connect_timeout_ms: usual.connect_timeout_ms,
        io_timeout_ms: usual.io_timeout_ms,
        abort_timeout_ms: usual.abort_timeout_ms,
        fast_fail_ms: usual.fast_fail_ms.unwrap_or(u64::MAX),
        loss_timeout_ms: usual.loss_timeout_ms.unwrap_or(u64::MAX),
        more_addresses: std::ptr::null(),
        quiesce_ms: usual.quiesce_ms.unwrap_or(u64::MAX),
        backlog: usual.backlog,
        stage_bytes: usual.stage_bytes,
        reconnect_min_ms: usual.reconnect_min_ms,
        reconnect_max_ms: usual.reconnect_max_ms,
        retries: usual.retries,
        preference: usual.preference,
        reserved: [0; 3],
    }
}

/// The usual values of discovery, without names.
pub(crate) fn usual_discovery() -> CDiscoveryOptions {
    let nobody: Nqn = "nqn.2014-08.org.example:nobody".parse().expect("a name");
    let usual = DiscoveryOptions::new(nobody, Uuid::NIL);
    CDiscoveryOptions {
        size: size_of::<CDiscoveryOptions>(),
        addresses: std::ptr::null(),
        host: std::ptr::null(),
        host_id: [0; 16],
        max_services: usual.max_services,
        keep_alive_ms: usual.keep_alive_ms,
        reserved: 0,
    }
}

/// `enum dolmen_state`.
pub(crate) fn state(state: &State) -> u8 {
    match state {
        State::Connecting => 0,
        State::Live { .. } => 1,
        State::Lost(_) => 2,
        State::Closing | State::Closed => 3,
    }
}

/// `enum dolmen_error_kind`.
pub(crate) fn error_kind(kind: ErrorKind) -> i32 {
    match kind {
        ErrorKind::Options => 1,
        ErrorKind::Connection => 2,
        ErrorKind::Refused => 3,
        ErrorKind::Protocol => 4,
        ErrorKind::Timeout => 5,
        ErrorKind::Unsupported => 6,
        ErrorKind::Memory => 7,
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
