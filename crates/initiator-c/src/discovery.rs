//! Discovery services: what they name, asked for once, or followed.

use crate::{
    FAILED, INVALID, OK, TIMEOUT,
    client::Client,
    convert,
    room::{Room, field},
    types::{CChange, CDiscovered, CDiscoveryOptions},
    waits,
};
use dolmen_initiator::{
    Discovered, DiscoveredSubsystem,
    discovery::{Change, Discovery},
};
use std::{collections::BTreeSet, ffi::c_int, net::SocketAddr};

/// `enum dolmen_discovered_kind` of what a later specification has.
const OTHER: i32 = 0x100;

/// `enum dolmen_change_kind`.
#[derive(Clone, Copy)]
enum Kind {
    Appeared = 1,
    Gone = 2,
    Following = 3,
    NotFollowed = 4,
    Trouble = 5,
    Missed = 6,
}

/// Fills in the usual values, as far as the caller's structure goes.
///
/// # Safety
/// `options` is NULL or points to a structure of `size` bytes, made of plain data.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_discovery_options_init_sized(options: *mut CDiscoveryOptions, size: usize) {
    if options.is_null() || size < size_of::<CDiscoveryOptions>() {
        return;
    }
    // SAFETY: the caller's promise; it is at least as long as ours.
    unsafe {
        options.cast::<u8>().write_bytes(0, size);
        options.write(CDiscoveryOptions { size, ..convert::usual_discovery() });
    }
}

/// A discovery that follows what the caller's options name.
///
/// # Safety
/// `options` is NULL or the header's structure as `dolmen_discovery_options_init` left it but for what the caller set.
unsafe fn begin(client: &mut Client, options: *const CDiscoveryOptions) -> Result<Discovery, c_int> {
    // SAFETY: the caller's promise.
    let Some(&size) = (unsafe { options.cast::<usize>().as_ref() }) else {
        return Err(client.fail(INVALID, "the options are NULL"));
    };
    if size < size_of::<CDiscoveryOptions>() {
        return Err(client.fail(INVALID, "the options' size is not set: call dolmen_discovery_options_init"));
    }
    // SAFETY: the caller's promise, and the structure says that it is as long as ours.
    let (options, roots) = match unsafe { convert::discovery_options(&*options) } {
        Ok(both) => both,
        Err(text) => return Err(client.fail(INVALID, text)),
    };
    let mut discovery = Discovery::new(options);
    let (io, initiator) = client.inner.parts();
    for root in roots {
        if let Err(error) = discovery.add(io, initiator, root) {
            discovery.close(io, initiator);
            return Err(client.fail(INVALID, error.to_string()));
        }
    }
    Ok(discovery)
}

/// Asks discovery services once, and waits for all of them.
///
/// # Safety
/// `client` is NULL or a client of this thread; `options` NULL or the header's structure as `dolmen_discovery_options_init`
/// left it but for what the caller set; `out` NULL or room for `most` records, with the first one's size set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_discover(
    client: *mut Client,
    options: *const CDiscoveryOptions,
    timeout_ms: u64,
    out: *mut CDiscovered,
    most: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    let Some(client) = (unsafe { client.as_mut() }) else { return INVALID };
    // SAFETY: the caller's promise.
    let room = match unsafe { Room::many(client, out, most) } {
        Ok(room) => room,
        Err(code) => return code,
    };
    // SAFETY: the caller's promise.
    match unsafe { begin(client, options) } {
        Ok(discovery) => client.following.asked = Some(discovery),
        Err(code) => return code,
    }
    let until = client.inner.clock().plus_ms(timeout_ms);
    let is_settled = |client: &Client| client.following.asked.as_ref().is_none_or(Discovery::is_settled);
    while !is_settled(client) && waits::turn(client, until) {}
    let (settled, mut changes, mut named) = (is_settled(client), Vec::new(), Vec::new());
    if let Some(discovery) = &mut client.following.asked {
        discovery.drain(&mut changes);
        named = records(discovery);
    }
    let (following, world) = client.followed();
    following.end_asked(world);
    if !settled {
        return client.fail(TIMEOUT, "the discovery services did not answer in time");
    }
    let trouble = changes.iter().find_map(|change| match change {
        Change::Trouble { addr, error } => Some(format!("{addr}: {error}")),
        _ => None,
    });
    match trouble {
        // One service that can be read is enough.
        Some(text) if named.is_empty() => client.fail(FAILED, text),
        _ => hand_out(&named, &room),
    }
}

/// Follows discovery services from now on.
///
/// # Safety
/// `client` is NULL or a client of this thread; `options` as for [`dolmen_discover`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_follow_discovery(
    client: *mut Client,
    options: *const CDiscoveryOptions,
) -> c_int {
    // SAFETY: the caller's promise.
    let Some(client) = (unsafe { client.as_mut() }) else { return INVALID };
    if client.following.discovery.is_some() {
        return client.fail(INVALID, "this client follows discovery already: dolmen_end_discovery first");
    }
    // SAFETY: the caller's promise.
    match unsafe { begin(client, options) } {
        Ok(discovery) => {
            client.following.discovery = Some(discovery);
            OK
        }
        Err(code) => code,
    }
}

/// Follows them no more.
///
/// # Safety
/// `client` is NULL or a client of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_end_discovery(client: *mut Client) -> c_int {
    // SAFETY: the caller's promise.
    let Some(client) = (unsafe { client.as_mut() }) else { return INVALID };
    let (following, world) = client.followed();
    following.end_discovery(world);
    OK
}

/// Whether every service that is followed was read once, or could not be.
///
/// # Safety
/// `client` is NULL or a client of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_discovery_settled(client: *mut Client) -> c_int {
    // SAFETY: the caller's promise.
    let Some(client) = (unsafe { client.as_mut() }) else { return INVALID };
    match &client.following.discovery {
        Some(discovery) => c_int::from(discovery.is_settled()),
        None => client.fail(INVALID, NOT_FOLLOWED),
    }
}

/// What the services that are followed name now.
///
/// # Safety
/// `client` is NULL or a client of this thread; `out` NULL or room for `most` records, with the first one's size set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_discovered_records(
    client: *mut Client,
    out: *mut CDiscovered,
    most: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    let Some(client) = (unsafe { client.as_mut() }) else { return INVALID };
    // SAFETY: the caller's promise.
    let room = match unsafe { Room::many(client, out, most) } {
        Ok(room) => room,
        Err(code) => return code,
    };
    match &client.following.discovery {
        Some(discovery) => hand_out(&records(discovery), &room),
        None => client.fail(INVALID, NOT_FOLLOWED),
    }
}

/// Hands changes out.
///
/// # Safety
/// `client` is NULL or a client of this thread; `out` NULL or room for `most` changes, with the first one's size set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_discovery_changes(
    client: *mut Client,
    out: *mut CChange,
    most: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    let Some(client) = (unsafe { client.as_mut() }) else { return INVALID };
    if out.is_null() && most > 0 {
        return client.fail(INVALID, "the place for the changes is NULL");
    }
    // SAFETY: the caller's promise.
    let room = match unsafe { Room::many(client, out, most) } {
        Ok(room) => room,
        Err(code) => return code,
    };
    let most = most.min(usize::from(u16::MAX));
    let mut count = 0;
    if most > 0
        && let missed @ 1.. = client.following.take_missed()
    {
        room.put(0, CChange { value: missed, ..change(Kind::Missed) });
        count = 1;
    }
    while count < most
        && let Some(next) = client.following.next_change()
    {
        room.put(count, told(&next));
        count += 1;
    }
    c_int::try_from(count).expect("at most 65,535")
}

const NOT_FOLLOWED: &str = "this client follows no discovery: dolmen_follow_discovery";

/// Everything that is named, each once, with the first service that names it. There may be more than a hundred thousand.
fn records(discovery: &Discovery) -> Vec<(SocketAddr, DiscoveredSubsystem)> {
    let mut seen = BTreeSet::new();
    let named = discovery.named().filter(|(_, record)| seen.insert(*record));
    named.map(|(by, record)| (by, record.clone())).collect()
}

/// `enum dolmen_discovered_kind`.
fn kind_of(record: &DiscoveredSubsystem) -> i32 {
    match record.kind {
        Discovered::Referral => 1,
        Discovered::Subsystem => 2,
        Discovered::Current => 3,
        Discovered::Other(code) => OTHER + i32::from(code),
    }
}

fn hand_out(records: &[(SocketAddr, DiscoveredSubsystem)], room: &Room<CDiscovered>) -> c_int {
    for (at, (by, record)) in records.iter().enumerate() {
        let discovered = CDiscovered {
            size: size_of::<CDiscovered>(),
            kind: kind_of(record),
            port_id: record.port_id,
            port: record.addr.port(),
            needs_tls: u8::from(record.needs_tls),
            reserved: [0; 7],
            address: field(&record.addr.ip().to_string()),
            connect_to: field(&record.addr.to_string()),
            by: field(&by.to_string()),
            nqn: field(record.nqn.as_str()),
        };
        room.put(at, discovered);
    }
    c_int::try_from(records.len()).unwrap_or(c_int::MAX)
}

fn change(kind: Kind) -> CChange {
    CChange {
        size: size_of::<CChange>(),
        value: 0,
        kind: kind as i32,
        port_id: 0,
        needs_tls: 0,
        reserved: 0,
        connect_to: [0; 72],
        by: [0; 72],
        nqn: [0; 264],
        text: [0; 256],
    }
}

/// A change in the header's form.
fn told(what: &Change) -> CChange {
    let record = |kind, record: &DiscoveredSubsystem, by: &SocketAddr| CChange {
        port_id: record.port_id,
        needs_tls: u8::from(record.needs_tls),
        connect_to: field(&record.addr.to_string()),
        by: field(&by.to_string()),
        nqn: field(record.nqn.as_str()),
        ..change(kind)
    };
    match what {
        Change::Appeared { record: new, by } => record(Kind::Appeared, new, by),
        Change::Gone { record: old, by } => record(Kind::Gone, old, by),
        Change::Following { addr, by } => {
            let (connect_to, by) = (field(&addr.to_string()), field(&by.to_string()));
            CChange { connect_to, by, ..change(Kind::Following) }
        }
        Change::NotFollowed { addr, by, error } => {
            let (connect_to, by) = (field(&addr.to_string()), field(&by.to_string()));
            CChange { connect_to, by, text: field(&error.to_string()), ..change(Kind::NotFollowed) }
        }
        Change::Trouble { addr, error } => {
            let (connect_to, text) = (field(&addr.to_string()), field(&error.to_string()));
            CChange { connect_to, text, ..change(Kind::Trouble) }
        }
    }
}
