//! One daemon per data folder: an advisory lock on `DIR/lock` that dies with the process.

use std::{
    fmt,
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// The held lock; dropping it (or the end of the process, however it comes) frees the folder.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Nobody holds it from here on; if that can't be written, the next holder writes over it.
        let _ = self.file.set_len(0);
        // A child process between fork and exec has the file open too; the lock shall not wait for it.
        let _ = self.file.unlock();
    }
}

/// Why the folder can't be had.
#[derive(Debug)]
pub enum LockError {
    /// Another process holds it.
    Held {
        /// The folder.
        folder: PathBuf,
        /// The holder's process id, if it could be read.
        pid: Option<u32>,
    },
    /// The lock file can't be made.
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockError::Held { folder, pid: Some(pid) } => {
                write!(
                    f,
                    "the data folder {} is in use by process {pid} (dolmen serve); stop it first, or give another --data",
                    folder.display()
                )
            }
            LockError::Held { folder, pid: None } => {
                write!(f, "the data folder {} is in use by another dolmen serve", folder.display())
            }
            LockError::Io { path, source } => write!(f, "can't lock {}: {source}", path.display()),
        }
    }
}

impl std::error::Error for LockError {}

impl FolderLock {
    /// Takes the lock of `folder`, which must exist, and writes this process's id into it, if there is room.
    pub fn take(folder: &Path) -> Result<FolderLock, LockError> {
        let path = folder.join("lock");
        let io = |source| LockError::Io { path: path.clone(), source };
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held { folder: folder.into(), pid: read_pid(&mut file) });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        // The lock is what counts: on a disk that is full, others are only not told who holds it.
        if let Err(error) = write_pid(&mut file) {
            tracing::warn!(path = %path.display(), %error, "can't write down which process holds the data folder");
        }
        Ok(FolderLock { file })
    }
}

/// The process that wrote itself into the folder's lock and hasn't left it cleanly, whether or not it lives.
#[must_use]
pub fn holder(folder: &Path) -> Option<u32> {
    read_pid(&mut File::open(folder.join("lock")).ok()?)
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_told_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let held = FolderLock::take(dir.path()).unwrap();
        let refused = FolderLock::take(dir.path()).unwrap_err();
        assert!(matches!(refused, LockError::Held { pid: Some(pid), .. } if pid == std::process::id()));
        assert!(refused.to_string().contains("in use by process"));
        assert_eq!(holder(dir.path()), Some(std::process::id()));
        drop(held);
        assert_eq!(holder(dir.path()), None);
        FolderLock::take(dir.path()).unwrap();
    }

    /// Run once more by itself, where no file may grow.
    #[test]
    fn a_lock_takes_no_room() {
        const FOLDER: &str = "DOLMEN_TEST_FOLDER_WITHOUT_ROOM";
        if let Some(folder) = std::env::var_os(FOLDER) {
            let _held = FolderLock::take(Path::new(&folder)).unwrap();
            let refused = FolderLock::take(Path::new(&folder)).unwrap_err();
            assert!(matches!(refused, LockError::Held { pid: None, .. }), "{refused}");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let again = "trap '' XFSZ; ulimit -f 0; exec \"$0\" --exact lock::tests::a_lock_takes_no_room";
        let mut command = std::process::Command::new("sh");
        command.arg("-c").arg(again).arg(std::env::current_exe().unwrap()).env(FOLDER, dir.path());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}
