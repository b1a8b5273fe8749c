//! The drives of the world: which there are, what is under way on them, and how each operation ends.

use crate::{
    DriveFaults, DriveSpec, Fault, Image, NodeId, Rng, World,
    drive::{Drive, Outcome, Payload, WriteId},
    record::Entry,
    world::{Inner, What},
};
use dolmen_io::{Buf, Error, ErrorKind, Event, Slices, Tag};
use dolmen_types::Nanos;
use std::{
    path::{Path, PathBuf},
    sync::Weak,
};

pub(crate) struct DriveSlot {
    pub(crate) node: NodeId,
    pub(crate) path: PathBuf,
    pub(crate) drive: Drive,
    pub(crate) gone: bool,
    /// Whoever has it open exclusively.
    pub(crate) lock: Weak<OpenFile>,
    faults: DriveFaults,
    fail_next: Vec<Fault>,
    /// When the data of all operations so far has moved.
    busy_until: Nanos,
}

/// An open drive; shared between the cores of one process.
pub(crate) struct OpenFile {
    pub(crate) drive: usize,
}

pub(crate) enum DriveOp {
    Read {
        offset: u64,
        buf: Buf,
    },
    Write {
        id: WriteId,
        data: Slices,
    },
    Flush {
        covered: Vec<WriteId>,
    },
    Discard {
        id: Option<WriteId>,
    },
    /// An operation that is refused outright.
    Refused {
        error: Error,
        buf: Option<Buf>,
    },
}

impl DriveOp {
    /// Data that moves between drive and memory. Bytes.
    fn bytes(&self) -> u64 {
        match self {
            DriveOp::Read { buf, .. } => buf.len() as u64,
            DriveOp::Write { data, .. } => data.iter().map(|d| d.len() as u64).sum(),
            DriveOp::Flush { .. } | DriveOp::Discard { .. } | DriveOp::Refused { .. } => 0,
        }
    }
}

impl World {
    /// Puts a drive into a machine. One that is there already under this path is replaced.
    pub fn add_drive(&self, node: NodeId, path: &Path, spec: DriveSpec) {
        self.put_drive(node, path, spec, Image::default());
    }

    pub(crate) fn put_drive(&self, node: NodeId, path: &Path, spec: DriveSpec, image: Image) {
        let mut inner = self.0.borrow_mut();
        let at = inner.find_drive(node, path);
        inner.put_drive(at, DriveSlot::new(node, path, Drive::new(spec, image)));
    }

    /// Takes a drive out: operations fail with [`ErrorKind::Gone`], opening it fails.
    pub fn remove_drive(&self, node: NodeId, path: &Path) {
        self.with_drive(node, path, |d| d.gone = true);
    }

    /// Puts a drive that was taken out back, with what it held.
    pub fn return_drive(&self, node: NodeId, path: &Path) {
        self.with_drive(node, path, |d| d.gone = false);
    }

    /// Sets how a drive misbehaves.
    pub fn set_faults(&self, node: NodeId, path: &Path, faults: DriveFaults) {
        self.with_drive(node, path, |d| d.faults = faults);
    }

    /// Makes the next operation of a kind that ends on this drive fail; may be called several times.
    pub fn fail_next(&self, node: NodeId, path: &Path, fault: Fault) {
        self.with_drive(node, path, |d| d.fail_next.push(fault));
    }

    /// Changes bytes on the media behind everyone's back.
    pub fn overwrite(&self, node: NodeId, path: &Path, offset: u64, data: &[u8]) {
        self.with_drive(node, path, |d| d.drive.overwrite(offset, data));
    }

    /// Makes sectors unreadable: reads that touch them fail with [`ErrorKind::Medium`] until they are written.
    pub fn spoil(&self, node: NodeId, path: &Path, offset: u64, len: u64) {
        self.with_drive(node, path, |d| d.drive.spoil(offset, len));
    }

    /// Makes all sectors of a drive readable again, with what they hold.
    pub fn unspoil(&self, node: NodeId, path: &Path) {
        self.with_drive(node, path, |d| d.drive.unspoil());
    }

    /// What reads of a drive see now.
    ///
    /// # Panics
    /// When there is no such drive, like the other methods that name one: a defect of the test.
    #[must_use]
    pub fn image(&self, node: NodeId, path: &Path) -> Image {
        let mut image = Image::default();
        self.with_drive(node, path, |d| image = d.drive.current().clone());
        image
    }

    /// Writes whose fate a power cut would decide now, on all drives.
    #[must_use]
    pub fn writes_at_risk(&self) -> usize {
        self.0.borrow().drives.iter().map(|d| d.drive.at_risk().len()).sum()
    }

    fn with_drive(&self, node: NodeId, path: &Path, change: impl FnOnce(&mut DriveSlot)) {
        let mut inner = self.0.borrow_mut();
        let at = inner.find_drive(node, path).expect("the test names a drive that exists");
        change(&mut inner.drives[at]);
    }
}

impl DriveSlot {
    fn new(node: NodeId, path: &Path, drive: Drive) -> DriveSlot {
        let (faults, fail_next, busy_until) = (DriveFaults::default(), Vec::new(), Nanos(0));
        DriveSlot {
            node,
            path: path.into(),
            drive,
            gone: false,
            lock: Weak::new(),
            faults,
            fail_next,
            busy_until,
        }
    }

    /// How long so many bytes take to move. Nanoseconds.
    fn moves_for(&self, bytes: u64) -> u64 {
        (bytes * 1_000_000_000).checked_div(self.faults.bytes_per_s).unwrap_or(0)
    }

    /// True when an operation that ends now is to fail.
    fn fails(&mut self, fault: Fault, rng: &mut Rng) -> bool {
        if let Some(at) = self.fail_next.iter().position(|&f| f == fault) {
            self.fail_next.remove(at);
            return true;
        }
        rng.ppm(match fault {
            Fault::Read => self.faults.read_ppm,
            Fault::Write => self.faults.write_ppm,
            Fault::Flush => self.faults.flush_ppm,
        })
    }
}

/// A random fate of one volatile write.
pub(crate) fn chance(rng: &mut Rng) -> Outcome {
    match rng.below(5) {
        0 | 1 => Outcome::Kept,
        2 | 3 => Outcome::Dropped,
        _ => Outcome::Torn(rng.next_u64()),
    }
}

impl Inner {
    pub(crate) fn find_drive(&self, node: NodeId, path: &Path) -> Option<usize> {
        self.drives.iter().position(|d| d.node == node && d.path == path)
    }

    /// Makes a missing file; the caller looked that there is none.
    pub(crate) fn create_file(&mut self, node: NodeId, path: &Path, bytes: u64) -> usize {
        self.put_drive(None, DriveSlot::new(node, path, Drive::new(DriveSpec::file(bytes), Image::default())))
    }

    fn put_drive(&mut self, at: Option<usize>, slot: DriveSlot) -> usize {
        let at = at.unwrap_or(self.drives.len());
        let (node, path, drive) = (slot.node, slot.path.clone(), slot.drive.clone());
        self.log(Entry::Drive { at, node, path, drive });
        match self.drives.get_mut(at) {
            Some(there) => *there = slot,
            None => self.drives.push(slot),
        }
        at
    }

    /// Starts a drive operation, which ends after the drive's latency.
    pub(crate) fn start(&mut self, core: usize, tag: Tag, drive: usize, op: DriveOp) {
        let slot = &mut self.drives[drive];
        let (low, high) = slot.faults.latency_ns;
        slot.busy_until = Nanos(self.now.0.max(slot.busy_until.0) + slot.moves_for(op.bytes()));
        let extra = match op {
            DriveOp::Write { .. } => slot.faults.write_extra_ns,
            DriveOp::Read { offset, .. } if offset >= slot.faults.read_extra_from => {
                slot.faults.read_extra_ns
            }
            _ => 0,
        };
        let at = Nanos(slot.busy_until.0 + self.rng.between(low, high) + extra);
        self.schedule(at, What::Drive { core, tag, drive, op });
    }

    /// Notes a write's or a discard's submission.
    pub(crate) fn start_write(
        &mut self,
        drive: usize,
        offset: u64,
        payload: Payload,
        durable: bool,
    ) -> WriteId {
        self.writes += 1;
        let id = WriteId(self.writes);
        self.drives[drive].drive.start_write(id, offset, payload.clone(), durable);
        self.log(Entry::Start { drive, id, offset, payload, durable });
        id
    }

    pub(crate) fn end_drive_op(&mut self, core: usize, tag: Tag, drive: usize, op: DriveOp) {
        let event = self.drive_event(drive, op);
        self.cores[core].ready.push((tag, event));
    }

    fn drive_event(&mut self, drive: usize, op: DriveOp) -> Event {
        let slot = &mut self.drives[drive];
        let gone = slot.gone;
        let failed = |what: &str, buf: Option<Buf>, path: &Path| {
            let (kind, errno) = if gone { (ErrorKind::Gone, 19) } else { (ErrorKind::Medium, 5) };
            let context = format!("{what} of {}", path.display());
            Event::Failed { error: Error { kind, context, errno: Some(errno) }, buf }
        };
        match op {
            DriveOp::Refused { error, buf } => Event::Failed { error, buf },
            DriveOp::Read { offset, mut buf } => {
                let readable = slot.drive.is_readable(offset, buf.len() as u64);
                if gone || slot.fails(Fault::Read, &mut self.rng) || !readable {
                    return failed("read", Some(buf), &slot.path);
                }
                slot.drive.current().read(offset, &mut buf);
                Event::Read(buf)
            }
            DriveOp::Write { id, mut data } => {
                if gone || slot.fails(Fault::Write, &mut self.rng) {
                    let event = failed("write", None, &slot.path);
                    self.fail_write(drive, id);
                    return event;
                }
                slot.drive.finish_write(id);
                self.log(Entry::Finish { drive, id });
                data.clear();
                Event::Written(data)
            }
            DriveOp::Flush { covered } => {
                if gone || slot.fails(Fault::Flush, &mut self.rng) {
                    return failed("flush", None, &slot.path);
                }
                slot.drive.finish_flush(&covered);
                self.log(Entry::Flush { drive, covered });
                Event::Flushed
            }
            DriveOp::Discard { id } => {
                if gone {
                    return failed("discard", None, &slot.path);
                }
                if let Some(id) = id {
                    slot.drive.finish_write(id);
                    self.log(Entry::Finish { drive, id });
                }
                Event::Discarded
            }
        }
    }

    pub(crate) fn fail_write(&mut self, drive: usize, id: WriteId) {
        let outcome = chance(&mut self.rng);
        self.drives[drive].drive.fail_write(id, &outcome);
        self.log(Entry::Fail { drive, id, outcome });
    }
}
