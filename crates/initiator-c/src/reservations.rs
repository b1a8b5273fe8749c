//! Reservations: the commands, and the report in the header's form.

use crate::{
    BUSY, FAILED, GONE, INVALID, NO_MEMORY,
    buffer::Buffer,
    client::Client,
    commands::Whither,
    room::Room,
    types::{CRegistrant, CReservation},
    waits,
};
use dolmen_initiator::{
    AcquireAction, Acquisition, Command, RegisterAction, Registration, Release, ReleaseAction,
    ReservationReport, ReservationType,
};
use dolmen_io::PoolConfig;
use std::ffi::c_int;

/// Bytes of a report's header, and of each registrant in it (Base figures of the extended data structure).
const ENTRY_BYTES: usize = 64;

/// Changes this host's registration.
///
/// # Safety
/// `client` is NULL or a client of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_reservation_register(
    client: *mut Client,
    subsystem: u32,
    ticket: u64,
    timeout_ms: u64,
    nsid: u32,
    action: c_int,
    current_key: u64,
    new_key: u64,
    ignore_current_key: c_int,
    persistence: c_int,
) -> c_int {
    let ignore_current_key = ignore_current_key != 0;
    let action = match action {
        0 => RegisterAction::Register,
        1 => RegisterAction::Unregister,
        2 => RegisterAction::Replace,
        // SAFETY: the caller's promise.
        other => return unsafe { refuse(client, other, "dolmen_register_action") },
    };
    let persist = match persistence {
        0 => None,
        2 => Some(false),
        3 => Some(true),
        // SAFETY: the caller's promise.
        other => return unsafe { refuse(client, other, "dolmen_persistence") },
    };
    let what = Registration { action, current_key, new_key, ignore_current_key, persist };
    let whither = Whither { client, subsystem, ticket, timeout_ms };
    // SAFETY: the caller's promise.
    unsafe { whither.composed(|pool| Command::register(pool, nsid, &what)) }
}

/// Takes a reservation, or preempts others.
///
/// # Safety
/// `client` is NULL or a client of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_reservation_acquire(
    client: *mut Client,
    subsystem: u32,
    ticket: u64,
    timeout_ms: u64,
    nsid: u32,
    action: c_int,
    kind: c_int,
    current_key: u64,
    preempt_key: u64,
) -> c_int {
    let action = match action {
        0 => AcquireAction::Acquire,
        1 => AcquireAction::Preempt,
        2 => AcquireAction::PreemptAndAbort,
        // SAFETY: the caller's promise.
        other => return unsafe { refuse(client, other, "dolmen_acquire_action") },
    };
    let Some(kind) = kind_of(kind) else {
        // SAFETY: the caller's promise.
        return unsafe { refuse(client, kind, "dolmen_reservation_type") };
    };
    let what = Acquisition { action, kind, current_key, preempt_key };
    let whither = Whither { client, subsystem, ticket, timeout_ms };
    // SAFETY: the caller's promise.
    unsafe { whither.composed(|pool| Command::acquire(pool, nsid, &what)) }
}

/// Gives a reservation back, or clears all registrations.
///
/// # Safety
/// `client` is NULL or a client of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_reservation_release(
    client: *mut Client,
    subsystem: u32,
    ticket: u64,
    timeout_ms: u64,
    nsid: u32,
    action: c_int,
    kind: c_int,
    current_key: u64,
) -> c_int {
    let action = match action {
        0 => ReleaseAction::Release,
        1 => ReleaseAction::Clear,
        // SAFETY: the caller's promise.
        other => return unsafe { refuse(client, other, "dolmen_release_action") },
    };
    let Some(kind) = kind_of(kind) else {
        // SAFETY: the caller's promise.
        return unsafe { refuse(client, kind, "dolmen_reservation_type") };
    };
    let what = Release { action, kind, current_key };
    let whither = Whither { client, subsystem, ticket, timeout_ms };
    // SAFETY: the caller's promise.
    unsafe { whither.composed(|pool| Command::release(pool, nsid, &what)) }
}

/// Asks for a report into the caller's buffer.
///
/// # Safety
/// `client` is NULL or a client of this thread, `buffer` NULL or a buffer of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_reservation_report(
    client: *mut Client,
    subsystem: u32,
    ticket: u64,
    timeout_ms: u64,
    nsid: u32,
    buffer: *mut Buffer,
) -> c_int {
    // SAFETY: the caller's promise.
    let (inner, handle) = unsafe { (client.as_mut(), buffer.as_ref()) };
    let Some(inner) = inner else { return INVALID };
    let bytes = handle.and_then(|handle| handle.buf.as_ref()).map(|buf| buf.len());
    if bytes.is_some_and(|bytes| bytes < ENTRY_BYTES || !bytes.is_multiple_of(4)) {
        return inner.fail(INVALID, "a report takes a buffer of at least 64 bytes, and a multiple of 4");
    }
    let whither = Whither { client, subsystem, ticket, timeout_ms };
    let report = |buf| Command::reservation_report(nsid, buf).expect("the length was looked at");
    // SAFETY: the caller's promise.
    unsafe { whither.with(buffer, report) }
}

/// Reads the report that came into a buffer.
///
/// # Safety
/// `client` is NULL or a client of this thread, `buffer` NULL or a buffer of it; `out` NULL or a place for a reservation,
/// `registrants` NULL or room for `most`, each with the (first one's) size set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_reservation_read(
    client: *mut Client,
    buffer: *const Buffer,
    out: *mut CReservation,
    registrants: *mut CRegistrant,
    most: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    let (client, buffer) = unsafe { (client.as_mut(), buffer.as_ref()) };
    let Some(client) = client else { return INVALID };
    let Some(buffer) = buffer else { return client.fail(INVALID, "the buffer is NULL") };
    let Some(page) = &buffer.buf else { return client.fail(BUSY, "the buffer belongs to a command") };
    // SAFETY: the caller's promise.
    match unsafe { rooms(client, out, registrants, most) } {
        Ok(rooms) => fill(client, page, &rooms),
        Err(code) => code,
    }
}

/// Waits for a report.
///
/// # Safety
/// `client` is NULL or a client of this thread; `out` NULL or a place for a reservation, `registrants` NULL or room for `most`, each
/// with the (first one's) size set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_reservations(
    client: *mut Client,
    subsystem: u32,
    timeout_ms: u64,
    nsid: u32,
    out: *mut CReservation,
    registrants: *mut CRegistrant,
    most: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    let Some(client) = (unsafe { client.as_mut() }) else { return INVALID };
    let Some(id) = client.subsystem(subsystem) else { return client.fail(GONE, "no such subsystem") };
    // SAFETY: the caller's promise.
    let rooms = match unsafe { rooms(client, out, registrants, most) } {
        Ok(rooms) => rooms,
        Err(code) => return code,
    };
    let told = client.inner.identity(id).map_or(u32::MAX, |told| told.max_transfer_bytes);
    let longest = usize::try_from(told).unwrap_or(usize::MAX).min(PoolConfig::LARGE_BYTES);
    let wanted = most.saturating_add(1).saturating_mul(ENTRY_BYTES);
    let bytes = wanted.min(longest - longest % ENTRY_BYTES).max(ENTRY_BYTES);
    let Some(buf) = client.inner.parts().0.alloc(bytes) else {
        return client.fail(NO_MEMORY, "no buffer left in the pool");
    };
    let command = Command::reservation_report(nsid, buf).expect("the length is a multiple of 64");
    match waits::data(client, subsystem, timeout_ms, command) {
        Ok(page) => fill(client, &page, &rooms),
        Err(code) => code,
    }
}

type Rooms = (Room<CReservation>, Room<CRegistrant>);

/// # Safety
/// As [`dolmen_reservation_read`].
unsafe fn rooms(
    client: &mut Client,
    out: *mut CReservation,
    registrants: *mut CRegistrant,
    most: usize,
) -> Result<Rooms, c_int> {
    // SAFETY: the caller's promise, twice.
    unsafe { Ok((Room::one(client, out)?, Room::many(client, registrants, most)?)) }
}

/// Puts a report where the caller wants it.
fn fill(client: &mut Client, page: &[u8], (out, registrants): &Rooms) -> c_int {
    let report = match ReservationReport::parse(page) {
        Ok(report) => report,
        Err(error) => return client.fail(FAILED, error.to_string()),
    };
    let reservation = CReservation {
        size: size_of::<CReservation>(),
        generation: report.generation,
        kind: report.kind.map_or(0, |kind| kind.code().into()),
        registrants: report.count.into(),
        persists: u8::from(report.persists),
        reserved: [0; 3],
    };
    out.put(0, reservation);
    for (at, registrant) in report.registrants.iter().enumerate() {
        let registrant = CRegistrant {
            size: size_of::<CRegistrant>(),
            key: registrant.key,
            host_id: registrant.host_id,
            controller_id: registrant.controller_id,
            holder: u8::from(registrant.holder),
            reserved: [0; 5],
        };
        registrants.put(at, registrant);
    }
    c_int::try_from(report.registrants.len()).unwrap_or(c_int::MAX)
}

/// `enum dolmen_reservation_type`.
fn kind_of(code: c_int) -> Option<ReservationType> {
    ReservationType::from_code(u8::try_from(code).ok()?)
}

/// # Safety
/// `client` is NULL or a client of this thread.
unsafe fn refuse(client: *mut Client, code: c_int, what: &str) -> c_int {
    // SAFETY: the caller's promise.
    let client = unsafe { client.as_mut() };
    client.map_or(INVALID, |client| client.fail(INVALID, format!("{code} is no enum {what}")))
}
