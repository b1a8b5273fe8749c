//! Disks for tests: one that takes nothing more, and one that takes its time.

use super::State;
use std::{
    fs::OpenOptions,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The file on a disk that has a fault from some time on.
#[derive(Debug)]
struct Disk {
    file: redb::backends::FileBackend,
    faulty: Arc<AtomicBool>,
    fault: Fault,
}

/// What is wrong with it.
#[derive(Debug)]
enum Fault {
    /// It takes nothing more, and counts what it refuses.
    Full(Arc<AtomicU64>),
    /// It says when it is to make something durable, and waits for a word before it does.
    Slow(Mutex<(UnboundedSender<()>, mpsc::Receiver<()>)>),
}

/// A disk that makes nothing durable before it is told to.
#[derive(Debug)]
pub(crate) struct Slow {
    /// One for each time that it was asked to.
    pub(crate) asked: UnboundedReceiver<()>,
    /// It does so once for each that is sent, and at once when this is gone.
    pub(crate) go: mpsc::Sender<()>,
}

/// Puts the file onto a disk that is full, until it is opened anew. How often the disk has refused something.
pub(crate) fn fill(state: &State) -> Arc<AtomicU64> {
    let refused = Arc::new(AtomicU64::new(0));
    put(state, Fault::Full(refused.clone()));
    refused
}

/// Puts the file onto a disk that is slow.
pub(crate) fn slow(state: &State) -> Slow {
    let ((ask, asked), (go, gone)) = (unbounded_channel(), mpsc::channel());
    put(state, Fault::Slow(Mutex::new((ask, gone))));
    Slow { asked, go }
}

fn put(state: &State, fault: Fault) {
    let mut db = state.db.lock().unwrap();
    db.take();
    let file = OpenOptions::new().read(true).write(true).open(&state.path).unwrap();
    let file = redb::backends::FileBackend::new(file).unwrap();
    let faulty = Arc::new(AtomicBool::new(false));
    let disk = Disk { file, faulty: faulty.clone(), fault };
    *db = Some(redb::Builder::new().create_with_backend(disk).unwrap());
    faulty.store(true, Ordering::Relaxed);
}

impl Disk {
    fn fault(&self) -> Option<&Fault> {
        self.faulty.load(Ordering::Relaxed).then_some(&self.fault)
    }

    fn room(&self) -> io::Result<()> {
        if let Some(Fault::Full(refused)) = self.fault() {
            refused.fetch_add(1, Ordering::Relaxed);
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl redb::StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.room().and_then(|()| self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        if let Some(Fault::Slow(words)) = self.fault() {
            let words = words.lock().unwrap();
            // A test that has ended neither listens nor says anything.
            let _ = (words.0.send(()), words.1.recv());
        }
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.room().and_then(|()| self.file.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}
