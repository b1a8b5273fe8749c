//! One function per command. A buffer moves into its command at submit, and back into its handle with the completion, or
//! at once if the command was not taken.

use crate::{BUSY, INVALID, NO_MEMORY, OK, buffer::Buffer, client::Client, convert, types::CRange};
use dolmen_initiator::{BlockRange, Command, Data, SubmitError};
use dolmen_io::{Buf, Pool};
use std::ffi::c_int;

/// Where a command goes, and how long it may take.
#[derive(Clone, Copy)]
pub(crate) struct Whither {
    pub(crate) client: *mut Client,
    pub(crate) subsystem: u32,
    pub(crate) ticket: u64,
    pub(crate) timeout_ms: u64,
}

impl Whither {
    /// Submits a command without a buffer of the caller.
    ///
    /// # Safety
    /// `self.client` is NULL or a client of this thread.
    pub(crate) unsafe fn plain(self, command: Command) -> c_int {
        // SAFETY: the caller's promise.
        let Some(client) = (unsafe { self.client.as_mut() }) else { return INVALID };
        let nothing = (std::ptr::null_mut(), false);
        let submitted = client.submit(self.subsystem, (self.ticket, self.timeout_ms), nothing, command);
        submitted.map_or_else(|(_, code)| code, |()| OK)
    }

    /// Submits a command that `make` composes in the client's pool.
    ///
    /// # Safety
    /// As [`Whither::plain`].
    pub(crate) unsafe fn composed(self, make: impl FnOnce(&Pool) -> Result<Command, SubmitError>) -> c_int {
        // SAFETY: the caller's promise.
        let Some(client) = (unsafe { self.client.as_mut() }) else { return INVALID };
        let pool = client.inner.parts().0.pool().clone();
        match make(&pool) {
            // SAFETY: the caller's promise.
            Ok(command) => unsafe { self.plain(command) },
            Err(error) => client.fail(convert::refusal(error), error.to_string()),
        }
    }

    /// Submits a command that `make` makes of the caller's buffer.
    ///
    /// # Safety
    /// `self.client` is NULL or a client of this thread, `buffer` NULL or a buffer of it.
    pub(crate) unsafe fn with(self, buffer: *mut Buffer, make: impl FnOnce(Buf) -> Command) -> c_int {
        // SAFETY: the caller's promise.
        let (client, handle) = unsafe { (self.client.as_mut(), buffer.as_mut()) };
        let Some(client) = client else { return INVALID };
        let Some(handle) = handle else { return client.fail(INVALID, "the buffer is NULL") };
        if handle.busy {
            return client.fail(BUSY, "the buffer belongs to a command");
        }
        let Some(buf) = handle.buf.take() else {
            return client.fail(INVALID, "the buffer's client is gone");
        };
        let submitted =
            client.submit(self.subsystem, (self.ticket, self.timeout_ms), (buffer, false), make(buf));
        match submitted {
            Ok(()) => {
                handle.busy = true;
                OK
            }
            Err((command, code)) => {
                handle.buf = buf_of(command);
                code
            }
        }
    }
}

/// The buffer of a command that was not taken.
fn buf_of(command: Command) -> Option<Buf> {
    match command {
        Command::Read { buf, .. }
        | Command::Write { buf, .. }
        | Command::Compare { buf, .. }
        | Command::Identify { buf, .. }
        | Command::GetLog { buf, .. } => Some(buf),
        Command::Admin { data, .. } | Command::Io { data, .. } => match data {
            Data::ToHost(buf) | Data::ToController(buf) => Some(buf),
            Data::None => None,
        },
        Command::CompareAndWrite { write, .. } => Some(write),
        _ => None,
    }
}

/// Reads.
///
/// # Safety
/// `client` is NULL or a client of this thread, `buffer` NULL or a buffer of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_read(
    client: *mut Client,
    subsystem: u32,
    ticket: u64,
    timeout_ms: u64,
    nsid: u32,
    lba: u64,
    blocks: u32,
    buffer: *mut Buffer,
) -> c_int {
    let whither = Whither { client, subsystem, ticket, timeout_ms };
    // SAFETY: the caller's promise.
    unsafe { whither.with(buffer, |buf| Command::Read { nsid, lba, blocks, buf }) }
}

/// Writes.
///
/// # Safety
/// As [`dolmen_read`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_write(
    client: *mut Client,
    subsystem: u32,
    ticket: u64,
    timeout_ms: u64,
    nsid: u32,
    lba: u64,
    blocks: u32,
    buffer: *mut Buffer,
    fua: c_int,
) -> c_int {
    let whither = Whither { client, subsystem, ticket, timeout_ms };
    let make = |buf| Command::Write { nsid, lba, blocks, buf, fua: fua != 0 };
    // SAFETY: the caller's promise.
    unsafe { whither.with(buffer, make) }
}

/// Compares.
///
/// # Safety
/// As [`dolmen_read`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_compare(
    client: *mut Client,
    subsystem: u32,
    ticket: u64,
    timeout_ms: u64,
    nsid: u32,
    lba: u64,
    blocks: u32,
    buffer: *mut Buffer,
) -> c_int {
    let whither = Whither { client, subsystem, ticket, timeout_ms };
    // SAFETY: the caller's promise.
    unsafe { whither.with(buffer, |buf| Command::Compare { nsid, lba, blocks, buf }) }
}

/// Compares and writes in one.
///
/// # Safety
/// `client` is NULL or a client of this thread, `compare` and `write` NULL or buffers of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_compare_and_write(
    client: *mut Client,
    subsystem: u32,
    ticket: u64,
    timeout_ms: u64,
    nsid: u32,
    lba: u64,
    blocks: u32,
    compare: *const Buffer,
    write: *mut Buffer,
) -> c_int {
    // SAFETY: the caller's promise.
    let (inner, wanted) = unsafe { (client.as_mut(), compare.as_ref()) };
    let Some(inner) = inner else { return INVALID };
    let Some(wanted) = wanted.filter(|_| !std::ptr::eq(compare, write)) else {
        return inner
            .fail(INVALID, "what is compared and what is written are two buffers, neither of them NULL");
    };
    let Some(wanted) = &wanted.buf else { return inner.fail(BUSY, "the buffer belongs to a command") };
    let Some(mut copy) = inner.inner.parts().0.alloc(wanted.len()) else {
        return inner.fail(NO_MEMORY, "no buffer left in the pool");
    };
    copy.copy_from_slice(wanted);
    let whither = Whither { client, subsystem, ticket, timeout_ms };
    let make = |write| Command::CompareAndWrite { nsid, lba, blocks, compare: copy, write };
    // SAFETY: the caller's promise.
    unsafe { whither.with(write, make) }
}

/// Makes blocks read as zeroes.
///
/// # Safety
/// `client` is NULL or a client of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_write_zeroes(
    client: *mut Client,
    subsystem: u32,
    ticket: u64,
    timeout_ms: u64,
    nsid: u32,
    lba: u64,
    blocks: u32,
    deallocate: c_int,
) -> c_int {
    let command = Command::WriteZeroes { nsid, lba, blocks, deallocate: deallocate != 0 };
    // SAFETY: the caller's promise.
    unsafe { Whither { client, subsystem, ticket, timeout_ms }.plain(command) }
}

/// Makes completed writes durable.
///
/// # Safety
/// `client` is NULL or a client of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_flush(
    client: *mut Client,
    subsystem: u32,
    ticket: u64,
    timeout_ms: u64,
    nsid: u32,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { Whither { client, subsystem, ticket, timeout_ms }.plain(Command::Flush { nsid }) }
}

/// Trims.
///
/// # Safety
/// `client` is NULL or a client of this thread, `ranges` NULL or `count` ranges.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_trim(
    client: *mut Client,
    subsystem: u32,
    ticket: u64,
    timeout_ms: u64,
    nsid: u32,
    ranges: *const CRange,
    count: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    let ranges = match unsafe { list(client.as_mut(), ranges, count) } {
        Ok(ranges) => ranges,
        Err(code) => return code,
    };
    let command = Command::Deallocate { nsid, ranges: ranges.into() };
    // SAFETY: the caller's promise.
    unsafe { Whither { client, subsystem, ticket, timeout_ms }.plain(command) }
}

/// Copies within a namespace.
///
/// # Safety
/// `client` is NULL or a client of this thread, `sources` NULL or `count` ranges.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_copy(
    client: *mut Client,
    subsystem: u32,
    ticket: u64,
    timeout_ms: u64,
    nsid: u32,
    destination: u64,
    sources: *const CRange,
    count: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    let sources = match unsafe { list(client.as_mut(), sources, count) } {
        Ok(sources) => sources,
        Err(code) => return code,
    };
    let whither = Whither { client, subsystem, ticket, timeout_ms };
    // SAFETY: the caller's promise.
    unsafe { whither.composed(|pool| Command::copy(pool, nsid, destination, &sources)) }
}

/// Has the controller read blocks and check them.
///
/// # Safety
/// `client` is NULL or a client of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_verify(
    client: *mut Client,
    subsystem: u32,
    ticket: u64,
    timeout_ms: u64,
    nsid: u32,
    lba: u64,
    blocks: u32,
) -> c_int {
    let whither = Whither { client, subsystem, ticket, timeout_ms };
    // SAFETY: the caller's promise.
    unsafe { whither.plain(Command::Verify { nsid, lba, blocks }) }
}

/// Marks blocks as unreadable.
///
/// # Safety
/// `client` is NULL or a client of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_write_uncorrectable(
    client: *mut Client,
    subsystem: u32,
    ticket: u64,
    timeout_ms: u64,
    nsid: u32,
    lba: u64,
    blocks: u32,
) -> c_int {
    let whither = Whither { client, subsystem, ticket, timeout_ms };
    // SAFETY: the caller's promise.
    unsafe { whither.composed(|_| Command::write_uncorrectable(nsid, lba, blocks)) }
}

/// Ranges of the caller, at most as many as a command can have.
///
/// # Safety
/// `ranges` is NULL or points to `count` ranges.
unsafe fn list(
    client: Option<&mut Client>,
    ranges: *const CRange,
    count: usize,
) -> Result<Vec<BlockRange>, c_int> {
    let Some(client) = client else { return Err(INVALID) };
    if ranges.is_null() || !(1..=256).contains(&count) {
        return Err(client.fail(INVALID, format!("{count} ranges, or NULL: a command has 1 to 256")));
    }
    // SAFETY: the caller's promise.
    let ranges = unsafe { std::slice::from_raw_parts(ranges, count) };
    Ok(ranges.iter().map(|r| BlockRange { lba: r.lba, blocks: r.blocks }).collect())
}
