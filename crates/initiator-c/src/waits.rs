//! The few functions that wait: until a subsystem is live, and for what describes its namespaces.

use crate::{
    FAILED, INVALID, NO_MEMORY, OK, TIMEOUT,
    client::{Client, given_up},
    types::CNamespace,
};
use dolmen_initiator::{Command, Failure, Namespace, State};
use dolmen_io::Buf;
use dolmen_nvme::spec::{Cns, IdentifyCommand};
use dolmen_types::{Nanos, Uuid};
use std::{ffi::c_int, time::Duration};

/// Pages of the list of namespaces that are read at most: 65,536 ids.
const MAX_PAGES: usize = 64;

/// Waits until commands flow.
///
/// # Safety
/// `client` is NULL or a client of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_wait_live(client: *mut Client, subsystem: u32, timeout_ms: u64) -> c_int {
    // SAFETY: the caller's promise.
    let Some(client) = (unsafe { client.as_mut() }) else { return INVALID };
    let Some(id) = client.subsystem(subsystem) else { return given_up(client, State::Closed) };
    let until = client.inner.clock().plus_ms(timeout_ms);
    loop {
        match client.inner.state(id) {
            State::Live { .. } => return OK,
            State::Connecting => {}
            over => return given_up(client, over),
        }
        if !turn(client, until) {
            return client.fail(TIMEOUT, "the subsystem did not become live in time");
        }
    }
}

/// The ids of the namespaces.
///
/// # Safety
/// `client` is NULL or a client of this thread, `nsids` NULL or room for `most` ids.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_namespaces(
    client: *mut Client,
    subsystem: u32,
    timeout_ms: u64,
    nsids: *mut u32,
    most: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    let Some(client) = (unsafe { client.as_mut() }) else { return INVALID };
    let until = client.inner.clock().plus_ms(timeout_ms);
    let (mut count, mut last) = (0usize, 0u32);
    for _ in 0..MAX_PAGES {
        let page = match identify(client, subsystem, until, (Cns::ACTIVE_NAMESPACES, last)) {
            Ok(page) => page,
            Err(code) => return code,
        };
        let (words, _) = page.as_chunks::<4>();
        let ids = words.iter().map(|w| u32::from_le_bytes(*w)).take_while(|&id| id != 0);
        let mut seen = 0;
        for id in ids.filter(|&id| id > last).collect::<Vec<_>>() {
            if count < most && !nsids.is_null() {
                // SAFETY: below `most`, so inside the caller's room.
                unsafe { nsids.add(count).write(id) };
            }
            (count, last, seen) = (count + 1, id, seen + 1);
        }
        if seen < words.len() {
            return c_int::try_from(count).unwrap_or(c_int::MAX);
        }
    }
    client.fail(FAILED, "the list of namespaces has no end")
}

/// One namespace.
///
/// # Safety
/// `client` is NULL or a client of this thread, `out` NULL or a place for a namespace.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_describe(
    client: *mut Client,
    subsystem: u32,
    timeout_ms: u64,
    nsid: u32,
    out: *mut CNamespace,
) -> c_int {
    // SAFETY: the caller's promise.
    let Some(client) = (unsafe { client.as_mut() }) else { return INVALID };
    if out.is_null() {
        return client.fail(INVALID, "the place for the namespace is NULL");
    }
    let until = client.inner.clock().plus_ms(timeout_ms);
    let mut page = |cns| identify(client, subsystem, until, (cns, nsid));
    let described = match (page(Cns::NAMESPACE), page(Cns::NAMESPACE_DESCRIPTORS)) {
        (Ok(page), Ok(descriptors)) => Namespace::parse(nsid, &page, &descriptors),
        (Err(code), _) | (_, Err(code)) => return code,
    };
    match described {
        Ok(ns) => {
            let (blocks, block_bytes, nguid) = (ns.blocks, ns.block_bytes, ns.nguid);
            let uuid = ns.uuid.unwrap_or(Uuid::NIL).0;
            // SAFETY: not null, and a place for a namespace by the caller's promise.
            unsafe { out.write(CNamespace { blocks, block_bytes, nsid, uuid, nguid }) };
            OK
        }
        Err(error) => client.fail(FAILED, error.to_string()),
    }
}

/// One page of Identify.
fn identify(
    client: &mut Client,
    subsystem: u32,
    until: Nanos,
    (cns, nsid): (Cns, u32),
) -> Result<Buf, c_int> {
    let Some(buf) = client.inner.parts().0.alloc(IdentifyCommand::DATA_BYTES) else {
        return Err(client.fail(NO_MEMORY, "no buffer left in the pool"));
    };
    let left_ms = until.since(client.inner.clock()).div_ceil(1_000_000);
    data(client, subsystem, left_ms, Command::Identify { cns, nsid, buf })
}

/// Carries out a command of our own, and waits for its data.
pub(crate) fn data(
    client: &mut Client,
    subsystem: u32,
    timeout_ms: u64,
    command: Command,
) -> Result<Buf, c_int> {
    // 0 would be no deadline.
    let timeout_ms = timeout_ms.max(1);
    let until = client.inner.clock().plus_ms(timeout_ms);
    let submitted = client.submit(subsystem, (0, timeout_ms), (std::ptr::null_mut(), true), command);
    submitted.map_err(|(_, code)| code)?;
    // The command's own deadline ends this, at the latest.
    let answer = loop {
        if let Some(answer) = client.answer.take() {
            break answer;
        }
        turn(client, until);
    };
    match (answer.result, answer.buf) {
        (Ok(_), Some(page)) => Ok(page),
        (Err(Failure::Expired), _) => Err(client.fail(TIMEOUT, "no answer came in time")),
        (Err(failure), _) => Err(client.fail(FAILED, failure.to_string())),
        (Ok(_), None) => Err(client.fail(FAILED, "no data came")),
    }
}

/// One turn that waits no longer than to `until`. False: it is past that.
pub(crate) fn turn(client: &mut Client, until: Nanos) -> bool {
    let left = until.since(client.inner.clock());
    // A command's deadline is the initiator's business: leave it a moment.
    client.poll(Some(Duration::from_nanos(left.clamp(1_000_000, 100_000_000))));
    left > 0
}
