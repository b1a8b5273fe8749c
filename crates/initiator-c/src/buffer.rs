//! `dolmen_buffer`: a buffer of a client's pool, or the place of one that a command has.

use crate::{BUSY, OK, client::Client};
use dolmen_io::Buf;
use std::ffi::{c_int, c_void};

/// What a `dolmen_buffer *` points to.
pub struct Buffer {
    /// `None` while a command has it, and for ever if its client went first.
    pub(crate) buf: Option<Buf>,
    /// A command has it.
    pub(crate) busy: bool,
}

/// A buffer of the client's pool.
///
/// # Safety
/// `client` is NULL or a client of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_buffer_new(client: *mut Client, bytes: usize) -> *mut Buffer {
    // SAFETY: the caller's promise.
    let Some(client) = (unsafe { client.as_ref() }) else { return std::ptr::null_mut() };
    match client.inner.alloc(bytes) {
        Some(buf) => Box::into_raw(Box::new(Buffer { buf: Some(buf), busy: false })),
        None => std::ptr::null_mut(),
    }
}

/// Where a buffer's bytes are; NULL while a command has it. After a command they may be elsewhere than before it.
///
/// # Safety
/// `buffer` is NULL or a buffer that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_buffer_data(buffer: *mut Buffer) -> *mut c_void {
    // SAFETY: the caller's promise.
    let buffer = unsafe { buffer.as_mut() };
    let buf = buffer.and_then(|buffer| buffer.buf.as_mut());
    buf.map_or(std::ptr::null_mut(), |buf| buf.as_mut_ptr().cast())
}

/// A buffer's size; 0 while a command has it.
///
/// # Safety
/// `buffer` is NULL or a buffer that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_buffer_size(buffer: *const Buffer) -> usize {
    // SAFETY: the caller's promise.
    let buffer = unsafe { buffer.as_ref() };
    buffer.and_then(|buffer| buffer.buf.as_ref()).map_or(0, |buf| buf.len())
}

/// Frees a buffer, unless a command has it.
///
/// # Safety
/// `buffer` is NULL or a buffer that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_buffer_free(buffer: *mut Buffer) -> c_int {
    // SAFETY: the caller's promise.
    let Some(inner) = (unsafe { buffer.as_ref() }) else { return OK };
    if inner.busy {
        return BUSY;
    }
    // SAFETY: it came from `Box::into_raw` in `dolmen_buffer_new`, and no command points to it.
    drop(unsafe { Box::from_raw(buffer) });
    OK
}
