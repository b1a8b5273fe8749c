//! `dolmen_client`: a polled client, and which C buffer belongs to which command under way.

use crate::{
    FAILED, GONE, INVALID, buffer::Buffer, convert, following::Following, notices::Notices,
    types::CCompletion,
};
use dolmen_initiator::{
    Command, Completion, Initiator, NO_DEADLINE, Notice, Request, State, SubsystemId, polled,
};
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

/// A subsystem by its handle.
struct Connected {
    id: SubsystemId,
    /// The I/O queue that its commands take, the emptiest one if `None`.
    queue: Option<u16>,
    /// The state that the caller was last told of.
    told: Option<u8>,
}

/// What a `dolmen_client *` points to.
pub struct Client {
    pub(crate) inner: polled::Client,
    text: CString,
    /// By handle; their ids ascend.
    subsystems: Vec<Connected>,
    pending: Vec<Option<Pending>>,
    free: Vec<usize>,
    ready: VecDeque<CCompletion>,
    /// The answer to our own command.
    pub(crate) answer: Option<Completion>,
    pub(crate) following: Following,
    pub(crate) notices: Notices,
    /// What the last poll brought, while it is sorted.
    came: (Vec<Notice>, Vec<Completion>),
    /// What is followed asked for something in the last poll, which the next one sends: it is due at once.
    more: bool,
}

impl Client {
    pub(crate) fn fail(&mut self, code: c_int, text: impl Into<String>) -> c_int {
        // A zero inside would end the text early; there is none in what we say, and none is let through.
        let text: String = text.into().chars().filter(|&c| c != '\0').collect();
        self.text = CString::new(text).unwrap_or_default();
        code
    }

    pub(crate) fn subsystem(&self, handle: u32) -> Option<SubsystemId> {
        self.connected(handle).map(|connected| connected.id)
    }

    fn connected(&self, handle: u32) -> Option<&Connected> {
        self.subsystems.get(usize::try_from(handle).ok()?)
    }

    /// Gives a new subsystem its handle.
    pub(crate) fn add(&mut self, id: SubsystemId) -> u32 {
        let handle = u32::try_from(self.subsystems.len()).expect("far fewer than 2^32 connects");
        self.subsystems.push(Connected { id, queue: None, told: None });
        handle
    }

    /// The handle of a subsystem; none if it is one of our own.
    pub(crate) fn handle(&self, id: SubsystemId) -> Option<u32> {
        let at = self.subsystems.binary_search_by_key(&id, |connected| connected.id).ok()?;
        u32::try_from(at).ok()
    }

    /// Notes that the caller is told of a state; false when it knows.
    pub(crate) fn tell_state(&mut self, handle: u32, state: u8) -> bool {
        let at = usize::try_from(handle).unwrap_or(usize::MAX);
        self.subsystems.get_mut(at).is_some_and(|connected| connected.told.replace(state) != Some(state))
    }

    /// What is followed, and what it works with.
    pub(crate) fn followed(&mut self) -> (&mut Following, (&mut Io, &mut Initiator)) {
        (&mut self.following, self.inner.parts())
    }

    /// The I/O queue that a subsystem's commands take from now on, the emptiest one if `None`. False: there is no such subsystem.
    pub(crate) fn use_queue(&mut self, handle: u32, queue: Option<u16>) -> bool {
        let at = usize::try_from(handle).unwrap_or(usize::MAX);
        self.subsystems.get_mut(at).map(|connected| connected.queue = queue).is_some()
    }

    /// Hands a command over; the buffer of one that is refused comes back.
    pub(crate) fn submit(
        &mut self,
        handle: u32,
        (ticket, timeout_ms): (u64, u64),
        (buffer, own): (*mut Buffer, bool),
        command: Command,
    ) -> Result<(), (Command, c_int)> {
        let Some(&Connected { id, queue, .. }) = self.connected(handle) else {
            return Err((command, self.fail(GONE, "no such subsystem")));
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.pending.push(None);
            self.pending.len() - 1
        });
        let deadline = if timeout_ms == 0 { NO_DEADLINE } else { self.inner.clock().plus_ms(timeout_ms) };
        let request = Request { deadline, queue, ..Request::new(slot as u64, command) };
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

    /// Takes what came, and sorts it.
    pub(crate) fn poll(&mut self, wait: Option<Duration>) -> bool {
        let worked = match wait {
            None => self.inner.poll(),
            Some(at_most) => {
                let due = self.timeout().unwrap_or(at_most);
                self.inner.wait(at_most.min(due))
            }
        };
        self.more = self.settle();
        worked
    }

    /// Sorts what came. True: what is followed may have something to send.
    fn settle(&mut self) -> bool {
        let (mut notices, mut done) = std::mem::take(&mut self.came);
        notices.extend(self.inner.notices());
        done.extend(self.inner.completions());
        for notice in notices.drain(..) {
            self.following.on_notice(&notice);
            self.notice(notice);
        }
        for completion in done.drain(..) {
            if Following::is_ours(&completion) || self.handle(completion.subsystem).is_none() {
                let (following, world) = self.followed();
                following.on_completion(world, completion);
            } else {
                self.completed(completion);
            }
        }
        self.came = (notices, done);
        let (following, world) = self.followed();
        let more = following.step(world);
        self.namespace_notices();
        more
    }

    /// How long to wait at most.
    fn timeout(&mut self) -> Option<Duration> {
        if self.more {
            return Some(Duration::ZERO);
        }
        let clock = self.inner.clock();
        let due = self.following.wake_at().map(|at| Duration::from_nanos(at.since(clock)));
        self.inner.timeout().into_iter().chain(due).min()
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

/// A client, or NULL.
#[unsafe(no_mangle)]
pub extern "C" fn dolmen_client_new(pool_bytes: usize) -> *mut Client {
    if !(LEAST_POOL_BYTES..=MOST_POOL_BYTES).contains(&pool_bytes) {
        return std::ptr::null_mut();
    }
    let Ok(uring) = Uring::new(&UringConfig::without_drives(pool_bytes)) else { return std::ptr::null_mut() };
    Box::into_raw(Box::new(Client {
        inner: polled::Client::new(Io::new(Box::new(uring))),
        text: CString::default(),
        subsystems: Vec::new(),
        pending: Vec::new(),
        free: Vec::new(),
        ready: VecDeque::new(),
        answer: None,
        following: Following::default(),
        notices: Notices::default(),
        came: (Vec::new(), Vec::new()),
        more: false,
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
    let timeout = unsafe { client.as_mut() }.and_then(Client::timeout);
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
