//! A disk for tests that takes nothing more.

use super::State;
use std::{
    fs::OpenOptions,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// The file on a disk that takes nothing more once it is full.
#[derive(Debug)]
struct Disk {
    file: redb::backends::FileBackend,
    full: Arc<AtomicBool>,
    refused: Arc<AtomicU64>,
}

/// Puts the file onto a disk that is full, until it is opened anew. How often the disk has refused something.
pub(crate) fn fill(state: &State) -> Arc<AtomicU64> {
    let (full, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut db = state.db.lock().unwrap();
    db.take();
    let file = OpenOptions::new().read(true).write(true).open(&state.path).unwrap();
    let file = redb::backends::FileBackend::new(file).unwrap();
    let disk = Disk { file, full: full.clone(), refused: refused.clone() };
    *db = Some(redb::Builder::new().create_with_backend(disk).unwrap());
    full.store(true, Ordering::Relaxed);
    refused
}

impl Disk {
    fn room(&self) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) {
            self.refused.fetch_add(1, Ordering::Relaxed);
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
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.room().and_then(|()| self.file.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}
