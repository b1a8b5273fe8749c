//! How the paths of a subsystem stand, what was done on them, and how long it took.

use crate::{
    GONE, INVALID, OK,
    client::Client,
    room::{Room, field},
    types::{CAna, CBucket, CPath, CStatistics},
};
use dolmen_initiator::{Answered, Histogram, PathStatistics, QueueStatistics};
use std::ffi::c_int;

/// Every path, queue or kind of command.
const ALL: u32 = u32::MAX;
/// The unit of a percentile.
const WHOLE: u32 = 100_000;

/// What the caller asks for.
#[derive(Clone, Copy)]
struct Which {
    subsystem: u32,
    path: u32,
    queue: u32,
    kind: u32,
}

/// What was counted.
#[derive(Default)]
struct Sum {
    commands: u64,
    bytes: u64,
    errors: u64,
    latency: Histogram,
}

impl Sum {
    fn add(&mut self, queue: &QueueStatistics, kind: u32) {
        self.errors += queue.errors;
        let kinds: &[&Answered] = match kind {
            0 => &[&queue.reads],
            1 => &[&queue.writes],
            2 => &[&queue.others],
            _ => &[&queue.reads, &queue.writes, &queue.others],
        };
        for answered in kinds {
            self.commands += answered.commands;
            self.bytes += answered.bytes;
            if let Some(latency) = &answered.latency {
                self.latency.merge(latency);
            }
        }
    }
}

/// The statistics of a subsystem's paths, by number.
fn paths(client: &mut Client, subsystem: u32) -> Result<Vec<&PathStatistics>, c_int> {
    let id = client.subsystem(subsystem);
    let is_there = id.is_some_and(|id| client.inner.parts().1.statistics(id, 0).is_some());
    let Some(id) = id.filter(|_| is_there) else {
        return Err(client.fail(GONE, "no such subsystem, or it is disconnected"));
    };
    let initiator = &*client.inner.parts().1;
    Ok((0..=u8::MAX).map_while(|path| initiator.statistics(id, path)).collect())
}

/// Adds up what the caller asks for.
///
/// # Safety
/// `client` is NULL or a client of this thread.
unsafe fn sum<'a>(client: *mut Client, which: Which) -> Result<(&'a mut Client, Sum), c_int> {
    // SAFETY: the caller's promise.
    let Some(client) = (unsafe { client.as_mut() }) else { return Err(INVALID) };
    if which.kind > 2 && which.kind != ALL {
        return Err(client.fail(INVALID, format!("{} is no enum dolmen_kind, nor DOLMEN_ALL", which.kind)));
    }
    let (mut sum, mut any) = (Sum::default(), false);
    let wanted = |asked: u32, number: usize| asked == ALL || u32::try_from(number) == Ok(asked);
    for (path, statistics) in paths(client, which.subsystem)?.into_iter().enumerate() {
        for (queue, counted) in statistics.queues.iter().enumerate() {
            if wanted(which.path, path) && wanted(which.queue, queue) {
                any = true;
                sum.add(counted, which.kind);
            }
        }
    }
    if !any {
        return Err(client.fail(INVALID, "the subsystem has no such path, or the path no such queue"));
    }
    Ok((client, sum))
}

/// What was done.
///
/// # Safety
/// `client` is NULL or a client of this thread; `out` NULL or a place for statistics, with its size set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_statistics(
    client: *mut Client,
    subsystem: u32,
    path: u32,
    queue: u32,
    kind: u32,
    out: *mut CStatistics,
) -> c_int {
    // SAFETY: the caller's promise.
    let (client, sum) = match unsafe { sum(client, Which { subsystem, path, queue, kind }) } {
        Ok(both) => both,
        Err(code) => return code,
    };
    // SAFETY: the caller's promise.
    let room = match unsafe { Room::one(client, out) } {
        Ok(room) => room,
        Err(code) => return code,
    };
    // The buckets' errors are larger than what is lost here; it is neither negative nor beyond the largest value.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let deviation_ns = sum.latency.standard_deviation() as u64;
    let statistics = CStatistics {
        size: size_of::<CStatistics>(),
        commands: sum.commands,
        bytes: sum.bytes,
        errors: sum.errors,
        measured: sum.latency.count(),
        mean_ns: sum.latency.mean(),
        deviation_ns,
        min_ns: sum.latency.min(),
        max_ns: sum.latency.max(),
    };
    room.put(0, statistics);
    OK
}

/// Latencies that so many commands did not exceed.
///
/// # Safety
/// `client` is NULL or a client of this thread; `per_100000` and `out` NULL or `count` values each.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_percentiles(
    client: *mut Client,
    subsystem: u32,
    path: u32,
    queue: u32,
    kind: u32,
    per_100000: *const u32,
    out: *mut u64,
    count: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    let (client, sum) = match unsafe { sum(client, Which { subsystem, path, queue, kind }) } {
        Ok(both) => both,
        Err(code) => return code,
    };
    if per_100000.is_null() || out.is_null() {
        return client.fail(INVALID, "the percentiles, or the place for them, are NULL");
    }
    for at in 0..count {
        // SAFETY: below `count`, so inside of what the caller promised.
        let wanted = unsafe { per_100000.add(at).read() };
        if wanted > WHOLE {
            return client.fail(INVALID, format!("{wanted} of 100000"));
        }
        // SAFETY: as above.
        unsafe { out.add(at).write(sum.latency.percentile(wanted)) };
    }
    OK
}

/// The buckets of a histogram that hold something.
///
/// # Safety
/// `client` is NULL or a client of this thread; `out` NULL or room for `most` buckets.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_buckets(
    client: *mut Client,
    subsystem: u32,
    path: u32,
    queue: u32,
    kind: u32,
    out: *mut CBucket,
    most: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    let (_, sum) = match unsafe { sum(client, Which { subsystem, path, queue, kind }) } {
        Ok(both) => both,
        Err(code) => return code,
    };
    let mut count = 0usize;
    for (to_ns, values) in sum.latency.buckets() {
        if count < most && !out.is_null() {
            // SAFETY: below `most`, so inside the caller's room.
            unsafe { out.add(count).write(CBucket { to_ns, count: values }) };
        }
        count += 1;
    }
    c_int::try_from(count).unwrap_or(c_int::MAX)
}

/// How the paths stand.
///
/// # Safety
/// `client` is NULL or a client of this thread; `out` NULL or room for `most` paths, with the first one's size set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_paths(
    client: *mut Client,
    subsystem: u32,
    out: *mut CPath,
    most: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    let Some(client) = (unsafe { client.as_mut() }) else { return INVALID };
    // SAFETY: the caller's promise.
    let room = match unsafe { Room::many(client, out, most) } {
        Ok(room) => room,
        Err(code) => return code,
    };
    if let Err(code) = paths(client, subsystem) {
        return code;
    }
    let reports = client.subsystem(subsystem).map(|id| client.inner.parts().1.paths(id)).unwrap_or_default();
    for (at, report) in reports.iter().enumerate() {
        let counts = &report.statistics;
        let path = CPath {
            size: size_of::<CPath>(),
            connects: counts.connects,
            losses: counts.losses,
            resent: counts.resent,
            retried: counts.retried,
            aborts: counts.aborts,
            resets: counts.resets,
            path: report.path.into(),
            queues: u32::try_from(counts.queues.len()).unwrap_or(u32::MAX),
            controller_id: report.controller_id.map_or(-1, i32::from),
            live: u8::from(report.live),
            given_up: u8::from(report.given_up),
            reserved: [0; 2],
            address: field(&report.addr.to_string()),
        };
        room.put(at, path);
    }
    c_int::try_from(reports.len()).unwrap_or(c_int::MAX)
}

/// The ANA states that a path's controller reports.
///
/// # Safety
/// `client` is NULL or a client of this thread; `out` NULL or room for `most` states.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dolmen_path_ana(
    client: *mut Client,
    subsystem: u32,
    path: u32,
    out: *mut CAna,
    most: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    let Some(client) = (unsafe { client.as_mut() }) else { return INVALID };
    if let Err(code) = paths(client, subsystem) {
        return code;
    }
    let reports = client.subsystem(subsystem).map(|id| client.inner.parts().1.paths(id)).unwrap_or_default();
    let Some(report) = reports.iter().find(|report| u32::from(report.path) == path) else {
        return client.fail(INVALID, "the subsystem has no such path");
    };
    for (at, &(nsid, state)) in report.ana.iter().enumerate().take(most) {
        if !out.is_null() {
            // SAFETY: below `most`, so inside the caller's room.
            unsafe { out.add(at).write(CAna { nsid, state: state.code().into() }) };
        }
    }
    c_int::try_from(report.ana.len()).unwrap_or(c_int::MAX)
}
