//! `dolmen_notice`: what happened beside completions, kept until the caller takes it; and the namespaces that are followed.

use crate::{
    GONE, INVALID, OK,
    client::Client,
    convert,
    following::News,
    room::{Room, field},
    types::{CKnownNamespace, CNotice},
};
use dolmen_initiator::{Error, Notice, State, SubsystemId};
use dolmen_nvme::spec::Status;
use dolmen_types::Uuid;
use std::{collections::VecDeque, ffi::c_int};

/// Notices kept for a caller that does not take them; the oldest go first.
const MAX_NOTICES: usize = 1024;
/// No subsystem, or no path.
const NONE: u32 = u32::MAX;

/// `enum dolmen_notice_kind`.
#[derive(Clone, Copy)]
enum Kind {
    State = 1,
    PathLive = 2,
    PathLost = 3,
    PathGivenUp = 4,
    Mismatch = 5,
    Event = 6,
    NamespaceNew = 7,
    NamespaceGone = 8,
    NamespaceChanged = 9,
    Missed = 10,
}

/// What was not taken yet.
#[derive(Default)]
pub(crate) struct Notices {
    waiting: VecDeque<CNotice>,
    /// Notices that were forgotten.
    missed: u64,
}

impl Notices {
    fn push(&mut self, notice: CNotice) {
        if self.waiting.len() >= MAX_NOTICES {
            self.waiting.pop_front();
            self.missed += 1;
        }
        self.waiting.push_back(notice);
    }

    /// How many a caller can take, the one about those that were missed among them.
    fn len(&self) -> usize {
        self.waiting.len() + usize::from(self.missed > 0)
    }

    fn next(&mut self) -> Option<CNotice> {
        match std::mem::take(&mut self.missed) {
            0 => self.waiting.pop_front(),
            missed => Some(CNotice { value: missed, ..notice(NONE, Kind::Missed) }),
        }
    }
}

fn notice(subsystem: u32, kind: Kind) -> CNotice {
    CNotice {
        size: size_of::<CNotice>(),
        value: 0,
        subsystem,
        kind: kind as i32,
        path: NONE,
        nsid: 0,
        error: 0,
        status: 0,
        reserved: 0,
        text: [0; 256],
    }
}

/// A notice of something that was lost.
fn lost(kind: Kind, error: &Error) -> CNotice {
    let status = error.status.map_or(0, Status::bits);
    let text = field(&error.to_string());
    CNotice { error: convert::error_kind(error.kind), status, text, ..notice(NONE, kind) }
}

impl Client {
    /// Keeps a notice for the caller; those of subsystems of our own are none.
    pub(crate) fn notice(&mut self, what: Notice) {
        let state = match &what {
            Notice::State { state, .. } => Some(convert::state(state)),
            _ => None,
        };
        let (id, to) = told(what);
        let Some(subsystem) = self.handle(id) else { return };
        // Being ended and having ended are one state for C.
        if state.is_none_or(|state| self.tell_state(subsystem, state)) {
            self.notices.push(CNotice { subsystem, ..to });
        }
    }

    /// Keeps what became of followed namespaces for the caller.
    pub(crate) fn namespace_notices(&mut self) {
        for (id, nsid, what) in self.following.news() {
            let kind = match what {
                News::New => Kind::NamespaceNew,
                News::Gone => Kind::NamespaceGone,
                News::Changed => Kind::NamespaceChanged,
            };
            if let Some(subsystem) = self.handle(id) {
                self.notices.push(CNotice { nsid, ..notice(subsystem, kind) });
            }
        }
    }
}

/// A notice in the header's form, and whose it is.
fn told(what: Notice) -> (SubsystemId, CNotice) {
    let bare = |kind| notice(NONE, kind);
    match what {
        Notice::State { subsystem, state } => {
            let value = convert::state(&state).into();
            let bare = match &state {
                State::Lost(error) => lost(Kind::State, error),
                _ => bare(Kind::State),
            };
            (subsystem, CNotice { value, ..bare })
        }
        Notice::PathLive { subsystem, path } => {
            (subsystem, CNotice { path: path.into(), ..bare(Kind::PathLive) })
        }
        Notice::PathLost { subsystem, path, error } => {
            (subsystem, CNotice { path: path.into(), ..lost(Kind::PathLost, &error) })
        }
        Notice::PathGivenUp { subsystem, path, error } => {
            (subsystem, CNotice { path: path.into(), ..lost(Kind::PathGivenUp, &error) })
        }
        Notice::Mismatch { subsystem, path, nsid } => {
            (subsystem, CNotice { path: path.into(), nsid, ..bare(Kind::Mismatch) })
        }
        Notice::Event { subsystem, path, event } => {
            (subsystem, CNotice { path: path.into(), value: event.dword().into(), ..bare(Kind::Event) })
        }
    }
}

/// Hands notices out.
///
/// # Safety
/// `client` is NULL or a client of this thread; `out` NULL or room for `most` notices, with the first one's size set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_notices(client: *mut Client, out: *mut CNotice, most: usize) -> c_int {
    // SAFETY: the caller's promise.
    let Some(client) = (unsafe { client.as_mut() }) else { return INVALID };
    if out.is_null() && most > 0 {
        return client.fail(INVALID, "the place for the notices is NULL");
    }
    // SAFETY: the caller's promise.
    let room = match unsafe { Room::many(client, out, most) } {
        Ok(room) => room,
        Err(code) => return code,
    };
    let count = client.notices.len().min(most);
    for (at, notice) in (0..count).zip(std::iter::from_fn(|| client.notices.next())) {
        room.put(at, notice);
    }
    c_int::try_from(count).unwrap_or(c_int::MAX)
}

/// Follows a subsystem's namespaces.
///
/// # Safety
/// `client` is NULL or a client of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_follow_namespaces(client: *mut Client, subsystem: u32) -> c_int {
    // SAFETY: the caller's promise.
    let Some(client) = (unsafe { client.as_mut() }) else { return INVALID };
    let Some(id) = client.subsystem(subsystem) else { return client.fail(GONE, "no such subsystem") };
    if client.is_over(id) {
        return client.fail(GONE, "the subsystem was given up or disconnected");
    }
    client.following.follow_namespaces(id);
    OK
}

/// What is known of followed namespaces.
///
/// # Safety
/// `client` is NULL or a client of this thread; `out` NULL or room for `most` namespaces, with the first one's size set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_known_namespaces(
    client: *mut Client,
    subsystem: u32,
    out: *mut CKnownNamespace,
    most: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    let Some(client) = (unsafe { client.as_mut() }) else { return INVALID };
    let Some(id) = client.subsystem(subsystem) else { return client.fail(GONE, "no such subsystem") };
    // SAFETY: the caller's promise.
    let room = match unsafe { Room::many(client, out, most) } {
        Ok(room) => room,
        Err(code) => return code,
    };
    let Some(known) = client.following.namespaces(id) else {
        return client.fail(INVALID, "nobody follows that subsystem's namespaces: dolmen_follow_namespaces");
    };
    for (at, ns) in known.iter().enumerate() {
        let known = CKnownNamespace {
            size: size_of::<CKnownNamespace>(),
            blocks: ns.blocks,
            block_bytes: ns.block_bytes,
            nsid: ns.nsid,
            uuid: ns.uuid.unwrap_or(Uuid::NIL).0,
            nguid: ns.nguid,
            deallocated_reads_zero: u8::from(ns.deallocated_reads_zero),
            reserved: [0; 7],
        };
        room.put(at, known);
    }
    c_int::try_from(known.len()).unwrap_or(c_int::MAX)
}
