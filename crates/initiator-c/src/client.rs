//! `dolmen_client`: a polled client, and which C buffer belongs to which command under way.

use crate::{
    FAILED, GONE, INVALID, OK,
    buffer::Buffer,
    convert,
    types::{CCompletion, COptions},
};
use dolmen_initiator::{Command, Completion, NO_DEADLINE, Request, State, SubsystemId, polled};
use dolmen_io::Io;
use dolmen_uring::{Uring, UringConfig};
use std::{
    collections::VecDeque,
    ffi::{CString, c_char, c_int},
    os::fd::AsRawFd,
    time::Duration,
};

/// The smallest pool that a client can work with, and the largest that is made. Bytes.
const LEAST_POOL_BYTES: usize = 4 << 20;
const MOST_POOL_BYTES: usize = 64 << 30;

/// A command under way, by the ticket that the initiator knows it by.
struct Pending {
    ticket: u64,
    subsystem: u32,
    buffer: *mut Buffer,
    /// One of our own, whose answer a function of ours waits for.
    own: bool,
}

/// What a `dolmen_client *` points to.
pub struct Client {
    pub(crate) inner: polled::Client,
    text: CString,
    subsystems: Vec<SubsystemId>,
    pending: Vec<Option<Pending>>,
    free: Vec<usize>,
    ready: VecDeque<CCompletion>,
    /// The answer to our own command.
    pub(crate) answer: Option<Completion>,
}

impl Client {
    pub(crate) fn fail(&mut self, code: c_int, text: impl Into<String>) -> c_int {
        // A zero inside would end the text early; there is none in what we say, and none is let through.
        let text: String = text.into().chars().filter(|&c| c != '\0').collect();
        self.text = CString::new(text).unwrap_or_default();
        code
    }

    pub(crate) fn subsystem(&self, handle: u32) -> Option<SubsystemId> {
        self.subsystems.get(usize::try_from(handle).ok()?).copied()
    }

    /// Hands a command over; the buffer of one that is refused comes back.
    pub(crate) fn submit(
        &mut self,
        handle: u32,
        (ticket, timeout_ms): (u64, u64),
        (buffer, own): (*mut Buffer, bool),
        command: Command,
    ) -> Result<(), (Command, c_int)> {
        let Some(id) = self.subsystem(handle) else {
            return Err((command, self.fail(GONE, "no such subsystem")));
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.pending.push(None);
            self.pending.len() - 1
        });
        let deadline = if timeout_ms == 0 { NO_DEADLINE } else { self.inner.clock().plus_ms(timeout_ms) };
        let request = Request { deadline, ..Request::new(slot as u64, command) };
        match self.inner.submit(id, request) {
            Ok(()) => {
                self.pending[slot] = Some(Pending { ticket, subsystem: handle, buffer, own });
                Ok(())
            }
            Err((request, error)) => {
                self.free.push(slot);
                Err((request.command, self.fail(convert::refusal(error), error.to_string())))
            }
        }
    }

    /// Takes what came, and sorts completions.
    pub(crate) fn poll(&mut self, wait: Option<Duration>) -> bool {
        let worked = match wait {
            None => self.inner.poll(),
            Some(at_most) => self.inner.wait(at_most),
        };
        self.inner.notices().for_each(drop);
        let done: Vec<Completion> = self.inner.completions().collect();
        for completion in done {
            self.completed(completion);
        }
        worked
    }

    fn completed(&mut self, mut completion: Completion) {
        let slot = usize::try_from(completion.ticket).expect("our own tickets are indexes");
        let Some(pending) = self.pending[slot].take() else { return };
        self.free.push(slot);
        if pending.own {
            self.answer = Some(completion);
            return;
        }
        // SAFETY: the pointer was a live buffer at submit, and a busy one cannot be freed.
        if let Some(buffer) = unsafe { pending.buffer.as_mut() } {
            (buffer.buf, buffer.busy) = (completion.buf.take(), false);
        }
        let (outcome, status) = convert::outcome(&completion.result);
        self.ready.push_back(CCompletion {
            ticket: pending.ticket,
            result: completion.result.unwrap_or(0),
            latency_ns: completion.completed.since(completion.submitted),
            buffer: pending.buffer,
            subsystem: pending.subsystem,
            outcome,
            status,
            queue: completion.queue,
            reserved: 0,
        });
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        for pending in self.pending.iter().flatten() {
            // SAFETY: as in `completed`.
            if let Some(buffer) = unsafe { pending.buffer.as_mut() } {
                buffer.busy = false;
            }
        }
    }
}

/// Fills in the usual values.
///
/// # Safety
/// `options` is NULL or points to the header's structure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_options_init(options: *mut COptions) {
    if !options.is_null() {
        // SAFETY: the caller's promise; what was there before is plain data.
        unsafe { options.write(convert::usual()) };
    }
}

/// A client, or NULL.
#[unsafe(no_mangle)]
pub extern "C" fn dolmen_client_new(pool_bytes: usize) -> *mut Client {
    let config = UringConfig::without_drives(pool_bytes.clamp(LEAST_POOL_BYTES, MOST_POOL_BYTES));
    let uring = (pool_bytes <= MOST_POOL_BYTES).then(|| Uring::new(&config));
    let Some(Ok(uring)) = uring else { return std::ptr::null_mut() };
    Box::into_raw(Box::new(Client {
        inner: polled::Client::new(Io::new(Box::new(uring))),
        text: CString::default(),
        subsystems: Vec::new(),
        pending: Vec::new(),
        free: Vec::new(),
        ready: VecDeque::new(),
        answer: None,
    }))
}

/// Ends a client.
///
/// # Safety
/// `client` is NULL or a client of this thread that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_client_free(client: *mut Client) {
    if !client.is_null() {
        // SAFETY: it came from `Box::into_raw` in `dolmen_client_new`.
        drop(unsafe { Box::from_raw(client) });
    }
}

/// The last failure in words.
///
/// # Safety
/// `client` is NULL or a client of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_error_text(client: *const Client) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { client.as_ref() }.map_or(c"no client".as_ptr(), |client| client.text.as_ptr())
}

/// What to wait on; -1 without a client.
///
/// # Safety
/// `client` is NULL or a client of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_client_fd(client: *mut Client) -> c_int {
    // SAFETY: the caller's promise.
    let descriptor = unsafe { client.as_mut() }.and_then(|client| client.inner.descriptor());
    descriptor.map_or(-1, |fd| fd.as_raw_fd())
}

/// How long to wait at most. Nanoseconds; -1 for as long as it takes.
///
/// # Safety
/// `client` is NULL or a client of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_client_timeout_ns(client: *mut Client) -> i64 {
    // SAFETY: the caller's promise.
    let timeout = unsafe { client.as_mut() }.and_then(|client| client.inner.timeout());
    timeout.map_or(-1, |time| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX))
}

/// Takes what came, sends what was submitted.
///
/// # Safety
/// `client` is NULL or a client of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_client_poll(client: *mut Client) -> c_int {
    // SAFETY: the caller's promise.
    let Some(client) = (unsafe { client.as_mut() }) else { return INVALID };
    c_int::from(client.poll(None))
}

/// Waits, then polls.
///
/// # Safety
/// `client` is NULL or a client of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_client_wait(client: *mut Client, at_most_ns: u64) -> c_int {
    // SAFETY: the caller's promise.
    let Some(client) = (unsafe { client.as_mut() }) else { return INVALID };
    c_int::from(client.poll(Some(Duration::from_nanos(at_most_ns))))
}

/// Starts to connect.
///
/// # Safety
/// `client` is NULL or a client of this thread, `options` NULL or the header's structure as [`dolmen_options_init`] left
/// it but for what the caller set, `subsystem` NULL or a place for a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_connect(
    client: *mut Client,
    options: *const COptions,
    subsystem: *mut u32,
) -> c_int {
    // SAFETY: the caller's promise.
    let (client, size) = unsafe { (client.as_mut(), options.cast::<usize>().as_ref()) };
    let Some(client) = client else { return INVALID };
    let (Some(&size), false) = (size, subsystem.is_null()) else {
        return client.fail(INVALID, "the options, or the place for the subsystem, are NULL");
    };
    if size < size_of::<COptions>() {
        return client.fail(INVALID, "the options' size is not set: call dolmen_options_init");
    }
    // SAFETY: the caller's promise, and the structure says that it is as long as ours.
    let options = match unsafe { convert::options(&*options) } {
        Ok(options) => options,
        Err(text) => return client.fail(INVALID, text),
    };
    match client.inner.connect(options) {
        Ok(id) => {
            let handle = u32::try_from(client.subsystems.len()).expect("far fewer than 2^32 connects");
            client.subsystems.push(id);
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
    match client.subsystem(subsystem).map(|id| client.inner.state(id)) {
        Some(State::Connecting) => 0,
        Some(State::Live { .. }) => 1,
        Some(State::Lost(_)) => 2,
        Some(State::Closing | State::Closed) => 3,
        None => client.fail(GONE, "no such subsystem"),
    }
}

/// Hands completions out.
///
/// # Safety
/// `client` is NULL or a client of this thread, `out` NULL or room for `most` completions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_completions(
    client: *mut Client,
    out: *mut CCompletion,
    most: usize,
) -> usize {
    // SAFETY: the caller's promise.
    let Some(client) = (unsafe { client.as_mut() }).filter(|_| !out.is_null()) else { return 0 };
    let count = client.ready.len().min(most);
    for (at, completion) in client.ready.drain(..count).enumerate() {
        // SAFETY: below `most`, so inside the caller's room; what was there before is plain data.
        unsafe { out.add(at).write(completion) };
    }
    count
}

/// The text of a state that ends a wait.
pub(crate) fn given_up(client: &mut Client, state: State) -> c_int {
    match state {
        State::Lost(error) => client.fail(FAILED, error.to_string()),
        _ => client.fail(GONE, "the subsystem was disconnected"),
    }
}
