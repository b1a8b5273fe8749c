//! One drive with a volatile cache, exact about what a power cut may leave behind.
//!
//! `media` is what is safe; `current` is what reads see; `volatile` holds every write between its submission and the
//! moment it is known to be safe. A power cut keeps, drops or tears each volatile write by itself, in sectors of
//! [`SECTOR`] bytes. A flush makes safe what was complete when the flush was submitted, not more. A durable write is safe
//! when it completes, and no older cached write may then come out over it.

use crate::Image;
use std::{collections::BTreeSet, rc::Rc};

/// What a drive writes whole or not at all. Bytes.
pub const SECTOR: u64 = 512;

/// What a drive is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriveSpec {
    /// Size in bytes.
    pub size_bytes: u64,
    /// Alignment of offsets and lengths. Bytes.
    pub align_bytes: u32,
    /// A block device rather than a file.
    pub block_device: bool,
    /// Serial number that it tells.
    pub serial: Option<String>,
    /// Model that it tells.
    pub model: Option<String>,
}

impl DriveSpec {
    /// A file of this size that stands for a drive.
    #[must_use]
    pub fn file(size_bytes: u64) -> DriveSpec {
        DriveSpec { size_bytes, align_bytes: 4096, block_device: false, serial: None, model: None }
    }
}

/// What a volatile write puts on the media.
#[derive(Clone, Debug)]
pub(crate) enum Payload {
    Bytes(Rc<[u8]>),
    /// A discard that takes effect: the range reads as zeros.
    Zeros(u64),
}

impl Payload {
    fn len(&self) -> u64 {
        match self {
            Payload::Bytes(b) => b.len() as u64,
            Payload::Zeros(n) => *n,
        }
    }

    fn apply(&self, image: &mut Image, offset: u64, from: u64, to: u64) {
        match self {
            Payload::Bytes(b) => {
                let index = |n: u64| usize::try_from(n).expect("within the payload");
                image.write(offset + from, &b[index(from)..index(to)]);
            }
            Payload::Zeros(_) => image.clear(offset + from, to - from),
        }
    }
}

/// Names a write from its submission on; grows in the order of submission, across all drives of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WriteId(pub(crate) u64);

#[derive(Clone, Debug)]
struct Volatile {
    id: WriteId,
    offset: u64,
    payload: Payload,
    durable: bool,
    /// Place in the order of completion; `None` while under way.
    rank: Option<u64>,
    /// Sectors (counted from the write's start) that a later durable write replaced; sorted ranges are not needed for few.
    dead: Vec<std::ops::Range<u64>>,
}

/// What a power cut does to one volatile write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Kept,
    Dropped,
    /// Sectors are kept where the function of (seed, sector) says so.
    Torn(u64),
}

impl Outcome {
    fn keeps(&self, sector: u64) -> bool {
        match self {
            Outcome::Kept => true,
            Outcome::Dropped => false,
            Outcome::Torn(seed) => crate::Rng::new(seed ^ sector.rotate_left(32)).next_u64() & 1 == 0,
        }
    }
}

/// A drive's contents and what is at risk.
#[derive(Clone, Debug)]
pub(crate) struct Drive {
    pub(crate) spec: DriveSpec,
    media: Image,
    current: Image,
    volatile: Vec<Volatile>,
    completed: u64,
    /// Sectors that can't be read until they are written.
    bad: BTreeSet<u64>,
}

impl Drive {
    pub(crate) fn new(spec: DriveSpec, media: Image) -> Drive {
        let (volatile, bad) = (Vec::new(), BTreeSet::new());
        Drive { spec, current: media.clone(), media, volatile, completed: 0, bad }
    }

    /// What reads see.
    pub(crate) fn current(&self) -> &Image {
        &self.current
    }

    /// Changes bytes behind everyone's back, on the media and in what reads see.
    pub(crate) fn overwrite(&mut self, offset: u64, data: &[u8]) {
        self.media.write(offset, data);
        self.current.write(offset, data);
    }

    /// Makes the sectors of a range unreadable, until they are written.
    pub(crate) fn spoil(&mut self, offset: u64, len: u64) {
        self.bad.extend(sectors(offset, offset + len));
    }

    /// All sectors can be read again, with what they hold.
    pub(crate) fn unspoil(&mut self) {
        self.bad.clear();
    }

    /// False when a sector of a range can't be read.
    pub(crate) fn is_readable(&self, offset: u64, len: u64) -> bool {
        self.bad.range(sectors(offset, offset + len)).next().is_none()
    }

    pub(crate) fn start_write(&mut self, id: WriteId, offset: u64, payload: Payload, durable: bool) {
        self.volatile.push(Volatile { id, offset, payload, durable, rank: None, dead: Vec::new() });
    }

    /// The write is complete: reads see it, and it is safe if it was durable.
    pub(crate) fn finish_write(&mut self, id: WriteId) {
        let Some(at) = self.volatile.iter().position(|v| v.id == id) else { return };
        self.completed += 1;
        let write = &mut self.volatile[at];
        write.rank = Some(self.completed);
        write.payload.apply(&mut self.current, write.offset, 0, write.payload.len());
        mend(&mut self.bad, write.offset, write.offset + write.payload.len());
        if write.durable {
            let write = self.volatile.remove(at);
            let len = write.payload.len();
            write.payload.apply(&mut self.media, write.offset, 0, len);
            self.bury(write.offset, len);
        }
    }

    /// The write failed: `outcome` says which part of it reached the cache.
    pub(crate) fn fail_write(&mut self, id: WriteId, outcome: &Outcome) {
        let Some(at) = self.volatile.iter().position(|v| v.id == id) else { return };
        let write = &mut self.volatile[at];
        write.durable = false;
        self.completed += 1;
        write.rank = Some(self.completed);
        let sectors = write.payload.len().div_ceil(SECTOR);
        write.dead.extend((0..sectors).filter(|&s| !outcome.keeps(s)).map(|s| s..s + 1));
        for (from, to) in kept_runs(write, &Outcome::Kept) {
            write.payload.apply(&mut self.current, write.offset, from, to);
            mend(&mut self.bad, write.offset + from, write.offset + to);
        }
    }

    /// The writes that a flush submitted now will make safe.
    pub(crate) fn flushable(&self) -> Vec<WriteId> {
        self.volatile.iter().filter(|v| v.rank.is_some()).map(|v| v.id).collect()
    }

    /// A flush that was submitted when `covered` were complete is complete.
    pub(crate) fn finish_flush(&mut self, covered: &[WriteId]) {
        self.volatile.sort_by_key(|v| (v.rank.unwrap_or(u64::MAX), v.id));
        let (safe, left) = self.volatile.drain(..).partition(|v| covered.contains(&v.id));
        self.volatile = left;
        for write in safe {
            for (from, to) in kept_runs(&write, &Outcome::Kept) {
                write.payload.apply(&mut self.media, write.offset, from, to);
            }
        }
    }

    /// Writes whose fate a power cut would decide.
    pub(crate) fn at_risk(&self) -> Vec<WriteId> {
        self.volatile.iter().map(|v| v.id).collect()
    }

    /// Power is cut: `choose` decides each volatile write, and what is left is safe and current.
    pub(crate) fn cut_power(&mut self, mut choose: impl FnMut(WriteId) -> Outcome) {
        self.volatile.sort_by_key(|v| (v.rank.unwrap_or(u64::MAX), v.id));
        for write in std::mem::take(&mut self.volatile) {
            for (from, to) in kept_runs(&write, &choose(write.id)) {
                write.payload.apply(&mut self.media, write.offset, from, to);
                mend(&mut self.bad, write.offset + from, write.offset + to);
            }
        }
        self.current = self.media.clone();
    }

    /// Older cached writes no longer reach the media within this range.
    fn bury(&mut self, offset: u64, len: u64) {
        for v in self.volatile.iter_mut().filter(|v| v.rank.is_some()) {
            let (from, to) = (offset.max(v.offset), (offset + len).min(v.offset + v.payload.len()));
            if from < to {
                v.dead.push((from - v.offset) / SECTOR..(to - v.offset).div_ceil(SECTOR));
            }
        }
    }
}

/// The sectors that a range of bytes touches.
fn sectors(from: u64, to: u64) -> std::ops::Range<u64> {
    from / SECTOR..to.div_ceil(SECTOR)
}

/// The range was written: it can be read again.
fn mend(bad: &mut BTreeSet<u64>, from: u64, to: u64) {
    if !bad.is_empty() {
        bad.extract_if(sectors(from, to), |_| true).for_each(drop);
    }
}

/// The runs of bytes (from, to, counted from the write's start) that reach the media.
fn kept_runs(write: &Volatile, outcome: &Outcome) -> Vec<(u64, u64)> {
    let len = write.payload.len();
    let mut runs: Vec<(u64, u64)> = Vec::new();
    if *outcome == Outcome::Dropped {
        return runs;
    }
    if *outcome == Outcome::Kept && write.dead.is_empty() {
        runs.push((0, len));
        return runs;
    }
    for sector in 0..len.div_ceil(SECTOR) {
        if write.dead.iter().any(|d| d.contains(&sector)) || !outcome.keeps(sector) {
            continue;
        }
        let (from, to) = (sector * SECTOR, ((sector + 1) * SECTOR).min(len));
        match runs.last_mut() {
            Some(last) if last.1 == from => last.1 = to,
            _ => runs.push((from, to)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive() -> Drive {
        Drive::new(DriveSpec::file(1 << 20), Image::default())
    }

    fn bytes(fill: u8, len: usize) -> Payload {
        Payload::Bytes(vec![fill; len].into())
    }

    fn first(d: &Drive) -> u8 {
        let mut b = [0];
        d.current().read(0, &mut b);
        b[0]
    }

    #[test]
    fn a_flush_covers_only_what_was_complete_when_it_was_submitted() {
        let mut d = drive();
        d.start_write(WriteId(1), 0, bytes(1, 512), false);
        d.finish_write(WriteId(1));
        let covered = d.flushable();
        d.start_write(WriteId(2), 0, bytes(2, 512), false);
        d.finish_write(WriteId(2));
        d.finish_flush(&covered);
        assert_eq!(first(&d), 2);
        assert_eq!(d.at_risk(), [WriteId(2)]);
        d.cut_power(|_| Outcome::Dropped);
        assert_eq!(first(&d), 1);
    }

    #[test]
    fn a_cached_write_never_comes_out_over_a_later_durable_one() {
        let mut d = drive();
        d.start_write(WriteId(1), 0, bytes(1, 1024), false);
        d.finish_write(WriteId(1));
        d.start_write(WriteId(2), 0, bytes(2, 512), true);
        d.finish_write(WriteId(2));
        d.cut_power(|_| Outcome::Kept);
        let mut b = [0; 1024];
        d.current().read(0, &mut b);
        assert!(b[..512].iter().all(|&x| x == 2) && b[512..].iter().all(|&x| x == 1));
    }

    #[test]
    fn a_torn_write_is_torn_at_sectors() {
        let mut d = drive();
        d.start_write(WriteId(1), 0, bytes(9, 64 * 512), false);
        d.cut_power(|_| Outcome::Torn(5));
        let mut b = vec![0; 64 * 512];
        d.current().read(0, &mut b);
        let kept = b.chunks(512).filter(|s| s.iter().all(|&x| x == 9)).count();
        let gone = b.chunks(512).filter(|s| s.iter().all(|&x| x == 0)).count();
        assert!(kept > 8 && gone > 8 && kept + gone == 64, "{kept} kept, {gone} gone");
    }

    #[test]
    fn a_bad_sector_is_bad_until_it_is_written() {
        let mut d = drive();
        d.spoil(1024, 512);
        assert!(d.is_readable(0, 1024) && d.is_readable(1536, 512) && !d.is_readable(0, 4096));
        d.start_write(WriteId(1), 0, bytes(1, 1024), true);
        d.finish_write(WriteId(1));
        d.start_write(WriteId(2), 1024, bytes(2, 512), true);
        assert!(!d.is_readable(1024, 1), "nothing has come there yet");
        d.finish_write(WriteId(2));
        assert!(d.is_readable(0, 4096));
        d.spoil(0, 1);
        d.unspoil();
        assert!(d.is_readable(0, 4096));
    }

    #[test]
    fn a_write_under_way_is_at_risk_even_if_durable() {
        let mut d = drive();
        d.start_write(WriteId(1), 0, bytes(1, 512), true);
        assert_eq!(first(&d), 0);
        let mut kept = d.clone();
        kept.cut_power(|_| Outcome::Kept);
        d.cut_power(|_| Outcome::Dropped);
        assert_eq!((first(&kept), first(&d)), (1, 0));
    }
}
