//! Subsystems and their paths: connecting, and what is known of whom one is connected to.

use crate::{
    FAILED, GONE, INVALID, OK,
    client::Client,
    convert,
    room::{Room, field},
    types::{CIdentity, COptions},
};
use dolmen_initiator::{PathOptions, State, SubsystemId};
use std::{
    ffi::{c_char, c_int},
    mem::offset_of,
};

/// What programs know of the options that were built against the first header.
const FIRST_OPTIONS_BYTES: usize = offset_of!(COptions, quiesce_ms);
/// The emptiest queue, where one is asked for.
const ANY: u32 = u32::MAX;

impl Client {
    /// True for a subsystem that takes no more commands.
    pub(crate) fn is_over(&self, id: SubsystemId) -> bool {
        matches!(self.inner.state(id), State::Lost(_) | State::Closing | State::Closed)
    }
}

/// Fills in the usual values, for programs that were built against the first header.
///
/// # Safety
/// `options` is NULL or points to the first header's structure.
#[unsafe(export_name = "dolmen_options_init")]
pub unsafe extern "C" fn dolmen_first_options_init(options: *mut COptions) {
    // SAFETY: the caller's promise.
    unsafe { dolmen_options_init_sized(options, FIRST_OPTIONS_BYTES) };
}

/// Fills in the usual values, as far as the caller's structure goes.
///
/// # Safety
/// `options` is NULL or points to a structure of `size` bytes, made of plain data.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_options_init_sized(options: *mut COptions, size: usize) {
    if options.is_null() || size < FIRST_OPTIONS_BYTES {
        return;
    }
    let usual = COptions { size, ..convert::usual() };
    let known = size.min(size_of::<COptions>());
    // SAFETY: both are at least as long; the source is plain data.
    unsafe {
        options.cast::<u8>().write_bytes(0, size);
        options.cast::<u8>().copy_from_nonoverlapping((&raw const usual).cast(), known);
    }
}

/// The caller's options; what an old one doesn't know has its usual value.
///
/// # Safety
/// `options` is NULL or points to options that are as long as their size says.
unsafe fn options_of(options: *const COptions) -> Result<COptions, &'static str> {
    // SAFETY: the caller's promise.
    let Some(&size) = (unsafe { options.cast::<usize>().as_ref() }) else {
        return Err("the options are NULL");
    };
    if size < FIRST_OPTIONS_BYTES {
        return Err("the options' size is not set: call dolmen_options_init");
    }
    let mut all = convert::usual();
    let known = size.min(size_of::<COptions>());
    // SAFETY: both are at least as long; what is written is plain data.
    unsafe { (&raw mut all).cast::<u8>().copy_from_nonoverlapping(options.cast(), known) };
    Ok(all)
}

/// Starts to connect.
///
/// # Safety
/// `client` is NULL or a client of this thread, `options` NULL or the header's structure as `dolmen_options_init` left
/// it but for what the caller set, `subsystem` NULL or a place for a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_connect(
    client: *mut Client,
    options: *const COptions,
    subsystem: *mut u32,
) -> c_int {
    // SAFETY: the caller's promise.
    let Some(client) = (unsafe { client.as_mut() }) else { return INVALID };
    if subsystem.is_null() {
        return client.fail(INVALID, "the place for the subsystem is NULL");
    }
    // SAFETY: the caller's promise.
    let options = unsafe { options_of(options) }.map_err(String::from).and_then(|all| {
        // SAFETY: the caller's promise.
        unsafe { convert::options(&all) }
    });
    let options = match options {
        Ok(options) => options,
        Err(text) => return client.fail(INVALID, text),
    };
    match client.inner.connect(options) {
        Ok(id) => {
            let handle = client.add(id);
            // SAFETY: not null, and a place for a handle by the caller's promise.
            unsafe { subsystem.write(handle) };
            OK
        }
        Err(error) => client.fail(INVALID, error.to_string()),
    }
}

/// Ends a subsystem.
///
/// # Safety
/// `client` is NULL or a client of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_disconnect(client: *mut Client, subsystem: u32) -> c_int {
    // SAFETY: the caller's promise.
    let Some(client) = (unsafe { client.as_mut() }) else { return INVALID };
    let Some(id) = client.subsystem(subsystem) else { return client.fail(GONE, "no such subsystem") };
    client.following.forget_namespaces(id);
    client.inner.disconnect(id);
    OK
}

/// How a subsystem stands.
///
/// # Safety
/// `client` is NULL or a client of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_state(client: *mut Client, subsystem: u32) -> c_int {
    // SAFETY: the caller's promise.
    let Some(client) = (unsafe { client.as_mut() }) else { return INVALID };
    match client.subsystem(subsystem).map(|id| convert::state(&client.inner.state(id))) {
        Some(state) => state.into(),
        None => client.fail(GONE, "no such subsystem"),
    }
}

/// What a controller said of itself.
///
/// # Safety
/// `client` is NULL or a client of this thread; `out` NULL or a place for an identity, with its size set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_identity(client: *mut Client, subsystem: u32, out: *mut CIdentity) -> c_int {
    // SAFETY: the caller's promise.
    let Some(client) = (unsafe { client.as_mut() }) else { return INVALID };
    let Some(id) = client.subsystem(subsystem) else { return client.fail(GONE, "no such subsystem") };
    // SAFETY: the caller's promise.
    let room = match unsafe { Room::one(client, out) } {
        Ok(room) => room,
        Err(code) => return code,
    };
    let io_queues = match client.inner.state(id) {
        State::Live { queues } => queues,
        _ => 0,
    };
    let Some(told) = client.inner.identity(id) else {
        return client.fail(FAILED, "no controller of that subsystem was live yet, or it is gone");
    };
    let identity = CIdentity {
        size: size_of::<CIdentity>(),
        max_transfer_bytes: told.max_transfer_bytes,
        in_capsule_bytes: told.in_capsule_bytes,
        max_namespaces: told.max_namespaces,
        ana_groups: told.ana_groups,
        atomic_compare_blocks: told.atomic_compare_blocks,
        controller_id: told.controller_id,
        max_entries: told.max_entries,
        io_queues,
        optional_nvm: told.optional_nvm,
        retry_delays: told.retry_delays,
        quiesce_ms: told.quiesce_ms,
        aborts: told.aborts,
        events: u8::from(told.events),
        ana: u8::from(told.ana),
        ana_transition_s: told.ana_transition_s,
        traffic_keeps_alive: u8::from(told.traffic_keeps_alive),
        fused: u8::from(told.fused),
        reserved: 0,
        serial: field(&told.serial),
        model: field(&told.model),
        firmware: field(&told.firmware),
        subsystem: field(&told.subsystem),
    };
    room.put(0, identity);
    OK
}

/// Adds a path.
///
/// # Safety
/// `client` is NULL or a client of this thread; `address` NULL or a string that ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_add_path(
    client: *mut Client,
    subsystem: u32,
    address: *const c_char,
    preference: u8,
) -> c_int {
    // SAFETY: the caller's promise.
    let Some(client) = (unsafe { client.as_mut() }) else { return INVALID };
    let Some(id) = client.subsystem(subsystem) else { return client.fail(GONE, "no such subsystem") };
    if client.is_over(id) {
        return client.fail(GONE, "the subsystem was given up or disconnected");
    }
    // SAFETY: the caller's promise.
    let addr = match unsafe { convert::text(address, "address") }.and_then(convert::parse_address) {
        Ok(addr) => addr,
        Err(text) => return client.fail(INVALID, text),
    };
    let (io, initiator) = client.inner.parts();
    match initiator.add_path(io, id, PathOptions { addr, preference }) {
        Ok(path) => path.into(),
        Err(error) => client.fail(INVALID, error.to_string()),
    }
}

/// Takes a path away.
///
/// # Safety
/// `client` is NULL or a client of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_remove_path(client: *mut Client, subsystem: u32, path: u32) -> c_int {
    // SAFETY: the caller's promise.
    let Some(client) = (unsafe { client.as_mut() }) else { return INVALID };
    let Some(id) = client.subsystem(subsystem) else { return client.fail(GONE, "no such subsystem") };
    let (io, initiator) = client.inner.parts();
    if u8::try_from(path).is_ok_and(|path| initiator.remove_path(io, id, path)) {
        return OK;
    }
    client.fail(INVALID, "there is no such path, or it is the last; that takes dolmen_disconnect")
}

/// The I/O queue that commands take from now on.
///
/// # Safety
/// `client` is NULL or a client of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_use_queue(client: *mut Client, subsystem: u32, queue: u32) -> c_int {
    // SAFETY: the caller's promise.
    let Some(client) = (unsafe { client.as_mut() }) else { return INVALID };
    let queue = match u16::try_from(queue) {
        Ok(queue) => Some(queue),
        Err(_) if queue == ANY => None,
        Err(_) => return client.fail(INVALID, format!("{queue} is no queue, nor DOLMEN_ALL")),
    };
    if client.use_queue(subsystem, queue) { OK } else { client.fail(GONE, "no such subsystem") }
}
