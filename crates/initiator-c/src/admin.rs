//! Pages of the controller, and commands of any kind.

use crate::{INVALID, buffer::Buffer, client::Client, commands::Whither};
use dolmen_initiator::{Command, Data, Resend};
use dolmen_io::Buf;
use dolmen_nvme::spec::{Cns, LogId, Sqe};
use std::ffi::{c_int, c_void};

/// FUSE and PSDT: the initiator's business.
const OURS: u8 = 0b1100_0011;

/// One page of Identify.
///
/// # Safety
/// `client` is NULL or a client of this thread, `buffer` NULL or a buffer of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_identify(
    client: *mut Client,
    subsystem: u32,
    ticket: u64,
    timeout_ms: u64,
    cns: u8,
    nsid: u32,
    buffer: *mut Buffer,
) -> c_int {
    let whither = Whither { client, subsystem, ticket, timeout_ms };
    // SAFETY: the caller's promise.
    unsafe { whither.with(buffer, |buf| Command::Identify { cns: Cns(cns), nsid, buf }) }
}

/// A part of a log page.
///
/// # Safety
/// As [`dolmen_identify`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_get_log(
    client: *mut Client,
    subsystem: u32,
    ticket: u64,
    timeout_ms: u64,
    page: u8,
    nsid: u32,
    offset: u64,
    retain_event: c_int,
    buffer: *mut Buffer,
) -> c_int {
    let whither = Whither { client, subsystem, ticket, timeout_ms };
    let (page, retain_event) = (LogId(page), retain_event != 0);
    // SAFETY: the caller's promise.
    unsafe { whither.with(buffer, |buf| Command::GetLog { page, nsid, offset, retain_event, buf }) }
}

/// Any command on the admin queue.
///
/// # Safety
/// `client` is NULL or a client of this thread, `sqe` NULL or 64 bytes, `buffer` NULL or a buffer of the client.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_admin_command(
    client: *mut Client,
    subsystem: u32,
    ticket: u64,
    timeout_ms: u64,
    sqe: *const c_void,
    direction: c_int,
    buffer: *mut Buffer,
    resend: c_int,
) -> c_int {
    let whither = Whither { client, subsystem, ticket, timeout_ms };
    let make = |sqe, data, resend| Command::Admin { sqe, data, resend };
    // SAFETY: the caller's promise.
    unsafe { any(whither, sqe.cast(), (direction, buffer), resend, make) }
}

/// Any command on an I/O queue.
///
/// # Safety
/// As [`dolmen_admin_command`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_io_command(
    client: *mut Client,
    subsystem: u32,
    ticket: u64,
    timeout_ms: u64,
    sqe: *const c_void,
    direction: c_int,
    buffer: *mut Buffer,
    resend: c_int,
) -> c_int {
    let whither = Whither { client, subsystem, ticket, timeout_ms };
    let make = |sqe, data, resend| Command::Io { sqe, data, resend };
    // SAFETY: the caller's promise.
    unsafe { any(whither, sqe.cast(), (direction, buffer), resend, make) }
}

/// # Safety
/// As [`dolmen_admin_command`].
unsafe fn any(
    whither: Whither,
    sqe: *const Sqe,
    (direction, buffer): (c_int, *mut Buffer),
    resend: c_int,
    make: impl FnOnce(Sqe, Data, Resend) -> Command,
) -> c_int {
    // SAFETY: the caller's promise; any bytes are a command, wherever they lie.
    let (client, sqe) = unsafe { (whither.client.as_mut(), sqe.as_ref()) };
    let Some(client) = client else { return INVALID };
    let Some(&sqe) = sqe else { return client.fail(INVALID, "the command is NULL") };
    if sqe.flags & OURS != 0 {
        return client.fail(INVALID, "a command by itself has no FUSE, and no PSDT of the caller");
    }
    // On fabrics data is described by an SGL.
    let sqe = Sqe { flags: sqe.flags | Sqe::new(sqe.opcode, 0).flags, ..sqe };
    let resend = if resend != 0 { Resend::Allowed } else { Resend::Never };
    let data: fn(Buf) -> Data = match direction {
        // SAFETY: the caller's promise.
        0 if buffer.is_null() => return unsafe { whither.plain(make(sqe, Data::None, resend)) },
        0 => return client.fail(INVALID, "a buffer for a command without data"),
        1 => Data::ToHost,
        2 => Data::ToController,
        other => return client.fail(INVALID, format!("{other} is no enum dolmen_direction")),
    };
    // SAFETY: the caller's promise.
    unsafe { whither.with(buffer, |buf| make(sqe, data(buf), resend)) }
}
