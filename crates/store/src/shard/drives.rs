//! The pool's drives as the shards of one core see them: where units lie, who is in service, and who behaves badly.

use super::watch::Watch;
use crate::columns::{Columns, drive_bit};
use crate::format::unit_offset;
use crate::message::{Joined, Members};
use crate::{PlanDrive, PoolPlan, ShardTuning, UnitId};
use dolmen_io::FileId;
use dolmen_types::{Nanos, Uuid};
use std::cell::{Cell, RefCell};

/// Reads of a drive that failed or did not check within [`STRIKES_NS`] after which it is better emptied.
const MAX_STRIKES: u32 = 64;

/// The window in which strikes count. Nanoseconds.
const STRIKES_NS: u64 = 60_000_000_000;

/// What a core wants the owner of the pool to know about a drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Complaint {
    /// It has to be out before anything goes on.
    Failed(u16, String),
    /// It would be better out.
    Ailing(u16, String),
    /// It answers no reads.
    Silent(u16, String),
    /// It would be better emptied.
    ReadsBadly(u16, String),
}

/// A drive whose writes take longer than this, and [`SLOW_FACTOR`] times as long as those of its peers, for [`SLOW_NS`] is slow.
/// Nanoseconds.
const SLOW_WRITE_NS: u64 = 20_000_000;
pub(super) const SLOW_FACTOR: u64 = 10;
const SLOW_NS: u64 = 3_000_000_000;

/// Writes in that time at least.
const SLOW_WRITES: u32 = 16;

/// How long writes of a drive take.
#[derive(Clone, Copy, Default)]
struct Pace {
    /// Moving average over about eight writes. Nanoseconds; 0 before the first.
    mean_ns: u64,
    /// Since when it is slow; 0 when it is not.
    since: Nanos,
    /// Writes since then.
    writes: u32,
}

/// A drive that is doubted anew in so many of the seconds of a minute, and [`SLOW_FACTOR`] times as often as its peers, is slow, however
/// well it answers its probes.
const MAX_DOUBTS: u32 = 20;

/// However often a drive is doubted within this time, it counts once. Nanoseconds.
const DOUBT_NS: u64 = 1_000_000_000;

/// How far apart the places are at which a drive is probed, one after the other; a prime, so that each comes in turn. Units.
const PROBE_STRIDE: u64 = 7919;

/// How often a drive was doubted in the minute that is counted, and when last.
#[derive(Clone, Copy, Default)]
struct Doubts {
    count: u32,
    last: Nanos,
}

/// What is known of one drive.
#[derive(Clone, Copy, Default)]
struct Place {
    /// This core's handle; `None` for a drive that is not there.
    file: Option<FileId>,
    units: u32,
    strikes: Strikes,
    doubts: Doubts,
    pace: Pace,
}

#[derive(Clone, Copy, Default)]
struct Strikes {
    since: Nanos,
    count: u32,
}

/// The drives, their handles here, and where they stand.
pub(crate) struct Drives {
    /// By drive index. Drives join; none ever goes, though its place may be given to another.
    table: RefCell<Vec<Place>>,
    /// Handles of drives that are about to join.
    waiting: RefCell<Vec<(Uuid, FileId)>>,
    /// Bytes of a unit.
    pub(crate) unit_bytes: u32,
    /// How long a read may take before it is answered through other columns. Milliseconds.
    pub(crate) slow_read_ms: u64,
    /// How long it may take a drive to answer before it counts as silent. Milliseconds.
    pub(super) silent_ms: u64,
    members: Cell<Members>,
    pub(super) watch: Watch,
    /// Drives that were complained about as failed and are not out yet.
    failing: Cell<u64>,
    /// Since when the doubts of all drives are counted, for a minute.
    doubts_since: Cell<Nanos>,
    complaints: RefCell<Vec<Complaint>>,
    /// Reads that were answered through other columns.
    mended: Cell<u64>,
}

impl Drives {
    /// The drives of an opened pool.
    pub(crate) fn new(plan: &PoolPlan, files: &[Option<FileId>], tuning: &ShardTuning) -> Drives {
        let place = |(d, file): (&PlanDrive, &Option<FileId>)| Place {
            file: *file,
            units: d.units,
            ..Place::default()
        };
        let drives = Drives {
            table: RefCell::new(plan.drives.iter().zip(files).map(place).collect()),
            waiting: RefCell::default(),
            unit_bytes: plan.unit_bytes,
            slow_read_ms: tuning.slow_read_ms,
            silent_ms: tuning.stuck_write_ms,
            members: Cell::new(plan.members()),
            watch: Watch::default(),
            failing: Cell::new(0),
            doubts_since: Cell::new(Nanos(0)),
            complaints: RefCell::default(),
            mended: Cell::new(0),
        };
        drives.set_late(0);
        drives
    }

    /// This core's handle of a drive that is about to join.
    pub(crate) fn attach(&self, uuid: Uuid, file: FileId) {
        let mut waiting = self.waiting.borrow_mut();
        waiting.retain(|(other, _)| *other != uuid);
        waiting.push((uuid, file));
    }

    /// Gives the handle of a drive that is out up, lest anything is done on it any more.
    pub(crate) fn detach(&self, drive: u16) {
        if let Some(place) =
            self.table.borrow_mut().get_mut(usize::from(drive)).filter(|_| !self.counts(drive))
        {
            place.file = None;
        }
    }

    /// A drive has joined. Without a handle (it was never attached here) everything on it fails, and it goes out again.
    pub(crate) fn join(&self, joined: Joined) {
        let Joined { drive, uuid, units } = joined;
        let mut waiting = self.waiting.borrow_mut();
        let Some(at) = waiting.iter().position(|(other, _)| *other == uuid) else { return };
        let (_, file) = waiting.swap_remove(at);
        let mut table = self.table.borrow_mut();
        let len = table.len().max(usize::from(drive) + 1);
        table.resize(len, Place::default());
        table[usize::from(drive)] = Place { file: Some(file), units, ..Place::default() };
    }

    /// This core's handle of a drive.
    pub(crate) fn file(&self, drive: u16) -> Option<FileId> {
        self.table.borrow().get(usize::from(drive)).and_then(|p| p.file)
    }

    /// Units of the drives in service.
    pub(crate) fn total_units(&self) -> usize {
        let table = self.table.borrow();
        (0u16..).zip(table.iter()).filter(|(d, _)| self.counts(*d)).map(|(_, p)| p.units as usize).sum()
    }

    /// Slots that a shard's table may have: segments, and those that are kept for stale names.
    pub(crate) fn max_slots(&self) -> usize {
        self.table.borrow().iter().map(|p| 2 * p.units as usize).sum()
    }

    /// True when there are such units, each on another drive.
    pub(crate) fn hold(&self, columns: &Columns) -> bool {
        let table = self.table.borrow();
        let exists = |u: &UnitId| table.get(usize::from(u.drive)).is_some_and(|p| u.unit < p.units);
        let mut seen = 0;
        columns.units().iter().all(|u| {
            let fresh = seen & drive_bit(u.drive) == 0;
            seen |= drive_bit(u.drive);
            fresh && exists(u)
        })
    }

    /// Where the drives stand.
    pub(crate) fn members(&self) -> Members {
        self.members.get()
    }

    /// The membership has changed, durably.
    pub(crate) fn set_members(&self, members: Members) {
        self.members.set(members);
        self.failing.set(self.failing.get() & !members.out);
        self.end_waits();
    }

    /// True when a drive belongs to the pool, so that every commit has to have its column there.
    pub(crate) fn counts(&self, drive: u16) -> bool {
        self.members.get().out & drive_bit(drive) == 0
    }

    /// Indexes of the drives that belong to the pool.
    pub(crate) fn in_service(&self) -> Vec<u16> {
        (0u16..).take(self.table.borrow().len()).filter(|&d| self.counts(d)).collect()
    }

    /// The drive's handle and the offset on it of a place in a unit; `None` when the drive is out.
    pub(crate) fn place(&self, unit: UnitId, offset: u32) -> Option<(FileId, u64)> {
        if !self.counts(unit.drive) {
            return None;
        }
        self.at(unit, offset)
    }

    /// The same; `None` also when the drive answers late.
    pub(crate) fn prompt_place(&self, unit: UnitId, offset: u32) -> Option<(FileId, u64)> {
        if self.is_shunned(unit.drive) {
            return None;
        }
        self.at(unit, offset)
    }

    fn at(&self, unit: UnitId, offset: u32) -> Option<(FileId, u64)> {
        let file = self.file(unit.drive)?;
        Some((file, unit_offset(unit.unit, self.unit_bytes) + u64::from(offset)))
    }

    /// Drives whose failure is being recorded.
    pub(crate) fn failing(&self) -> u64 {
        self.failing.get()
    }

    /// A drive did not do what it was told; said once.
    pub(crate) fn fail(&self, drive: u16, reason: String) {
        let bit = drive_bit(drive);
        if self.counts(drive) && self.failing.get() & bit == 0 {
            self.failing.set(self.failing.get() | bit);
            self.complaints.borrow_mut().push(Complaint::Failed(drive, reason));
        }
    }

    /// A read of a drive failed, or what it gave does not check.
    pub(crate) fn strike(&self, drive: u16, now: Nanos, what: &str) {
        let mut table = self.table.borrow_mut();
        let Some(s) = table.get_mut(usize::from(drive)).map(|p| &mut p.strikes) else { return };
        if now.since(s.since) > STRIKES_NS {
            *s = Strikes { since: now, count: 0 };
        }
        s.count += 1;
        if s.count == MAX_STRIKES {
            let text = format!("{MAX_STRIKES} bad reads within a minute, the last one: {what}");
            self.complaints.borrow_mut().push(Complaint::ReadsBadly(drive, text));
        }
    }

    /// A drive is doubted anew, having answered since it was before.
    pub(super) fn count_doubt(&self, drive: u16, now: Nanos) {
        let service = self.in_service();
        let mut table = self.table.borrow_mut();
        if now.since(self.doubts_since.get()) > STRIKES_NS {
            self.doubts_since.set(now);
            table.iter_mut().for_each(|place| place.doubts = Doubts::default());
        }
        let Some(d) = table.get_mut(usize::from(drive)).map(|p| &mut p.doubts) else { return };
        if d.count > 0 && now.since(d.last) < DOUBT_NS {
            return;
        }
        *d = Doubts { count: d.count + 1, last: now };
        let count = d.count;
        let peers = service.iter().filter(|&&peer| peer != drive);
        let mut peers: Vec<u64> = peers.map(|&peer| table[usize::from(peer)].doubts.count.into()).collect();
        peers.sort_unstable();
        let Some(&median) = peers.get(peers.len() / 2) else { return };
        if count >= MAX_DOUBTS && u64::from(count) > median.saturating_mul(SLOW_FACTOR) {
            table[usize::from(drive)].doubts = Doubts::default();
            let text =
                format!("reads were late in {count} seconds of a minute, those of its peers in {median}");
            self.complaints.borrow_mut().push(Complaint::Ailing(drive, text));
        }
    }

    /// A place on a drive to probe: a page of each unit in turn, far apart, so that one bad place is met once.
    pub(super) fn place_to_probe(&self, drive: u16, turn: u64) -> Option<(FileId, u64)> {
        let place = *self.table.borrow().get(usize::from(drive))?;
        let unit = turn.wrapping_mul(PROBE_STRIDE) % u64::from(place.units.max(1));
        Some((place.file?, unit_offset(u32::try_from(unit).ok()?, self.unit_bytes)))
    }

    /// A write of a drive has taken so long.
    pub(crate) fn timed(&self, drive: u16, ns: u64) {
        if let Some(pace) = self.table.borrow_mut().get_mut(usize::from(drive)).map(|p| &mut p.pace) {
            pace.mean_ns = if pace.mean_ns == 0 { ns.max(1) } else { (pace.mean_ns * 7 + ns) / 8 };
            pace.writes = pace.writes.saturating_add(1);
        }
    }

    /// Complains about a drive that has been much slower than its peers for long.
    pub(crate) fn look_for_slow_drives(&self, now: Nanos) {
        let service = self.in_service();
        let mut table = self.table.borrow_mut();
        let mut means: Vec<u64> =
            service.iter().map(|&d| table[usize::from(d)].pace.mean_ns).filter(|&ns| ns > 0).collect();
        means.sort_unstable();
        let Some(&median) = means.len().checked_sub(1).and_then(|last| means.get(last / 2)) else { return };
        for drive in service {
            let pace = &mut table[usize::from(drive)].pace;
            let slow = pace.mean_ns > SLOW_WRITE_NS && pace.mean_ns > median.saturating_mul(SLOW_FACTOR);
            if !slow || pace.since == Nanos(0) {
                (pace.since, pace.writes) = (if slow { now } else { Nanos(0) }, 0);
            } else if now.since(pace.since) > SLOW_NS && pace.writes >= SLOW_WRITES {
                let (ms, peers) = (pace.mean_ns / 1_000_000, median / 1_000);
                let text = format!("writes take {ms} ms, those of its peers {peers} us");
                self.complaints.borrow_mut().push(Complaint::Ailing(drive, text));
                (pace.since, pace.writes) = (now, 0);
            }
        }
    }

    /// Counts a read that was answered through other columns.
    pub(crate) fn count_mended(&self) {
        self.mended.set(self.mended.get() + 1);
    }

    /// Reads that were answered through other columns.
    pub(crate) fn mended(&self) -> u64 {
        self.mended.get()
    }

    pub(super) fn complain(&self, complaint: Complaint) {
        self.complaints.borrow_mut().push(complaint);
    }

    /// Takes what is to be said about drives.
    pub(crate) fn complaints(&self) -> Vec<Complaint> {
        std::mem::take(&mut *self.complaints.borrow_mut())
    }
}
