//! The file in the data folder that tells how far the pool's superblock had come. Of two drives that mirror each other, one that
//! comes back alone can't know by itself that the other went on without it: this number is all that tells.
//!
//! Promises: the file holds the old number or the new, whole and durable. What can't be read, or was never written, is no number:
//! a pool is opened without one only when none of its drives is missing.

use crate::node::ServeError;
use dolmen_security::file::{Visibility, read_if_there, replace};
use std::path::{Path, PathBuf};

/// Its name.
const FILE: &str = "pool-sequence";

/// The number that the file holds, or why it can't be known, and what to do about it.
pub(crate) fn known_sequence(folder: &Path) -> Result<u64, String> {
    let path = folder.join(FILE);
    let why = match read_if_there(&path) {
        Ok(Some(bytes)) => match std::str::from_utf8(&bytes).map(|text| text.trim().parse()) {
            Ok(Ok(sequence)) => return Ok(sequence),
            _ => format!("{} does not hold a number", path.display()),
        },
        Ok(None) => format!("{} is not there", path.display()),
        Err(error) => error.to_string(),
    };
    let path = path.display();
    Err(format!("{why}. If you are sure that the drives named were the last that served: echo 0 > {path}"))
}

/// Keeps the file up to date.
#[derive(Debug)]
pub(crate) struct SequenceFile {
    path: PathBuf,
    /// What the file holds; `None` until it was written.
    written: Option<u64>,
    /// The last try to write it failed, and that was told.
    failing: bool,
}

impl SequenceFile {
    /// The file in a data folder.
    pub(crate) fn of_folder(folder: &Path) -> SequenceFile {
        SequenceFile { path: folder.join(FILE), written: None, failing: false }
    }

    /// Writes down how far the pool's superblock has come, unless the file says so. What could not be written is to be told
    /// again, until it can.
    pub(crate) fn remember(&mut self, sequence: u64) {
        if self.written == Some(sequence) {
            return;
        }
        match self.write(sequence) {
            Ok(()) => {}
            Err(_) if self.failing => {}
            Err(error) => {
                self.failing = true;
                tracing::warn!(%error, "before this can be written, a start can't tell drives that were left behind");
            }
        }
    }

    /// The same, once.
    ///
    /// # Errors
    /// The file can't be written.
    pub(crate) fn write(&mut self, sequence: u64) -> Result<(), ServeError> {
        replace(&self.path, format!("{sequence}\n").as_bytes(), Visibility::Everybody)
            .map_err(ServeError::system)?;
        (self.written, self.failing) = (Some(sequence), false);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_number_is_told_from_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let mut file = SequenceFile::of_folder(dir.path());
        assert!(known_sequence(dir.path()).unwrap_err().contains("is not there"));
        file.remember(17);
        assert_eq!(known_sequence(dir.path()), Ok(17));
        for nonsense in [&b""[..], b"\n", b"1x", b"\xff\xfe", b"-1", b"99999999999999999999999"] {
            fs::write(&path, nonsense).unwrap();
            let why = known_sequence(dir.path()).unwrap_err();
            assert!(why.contains(path.to_str().unwrap()) && why.contains("echo 0"), "{why}");
        }
        fs::write(&path, "0\n").unwrap();
        assert_eq!(known_sequence(dir.path()), Ok(0));
    }

    #[test]
    fn what_could_not_be_written_leaves_the_old_number_and_is_written_later() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("data");
        fs::create_dir(&folder).unwrap();
        let mut file = SequenceFile::of_folder(&folder);
        file.remember(5);
        // A folder in the place of the new file stands for a disk that is full.
        let in_the_way = folder.join(format!(".{FILE}.{}.new", std::process::id()));
        fs::create_dir_all(in_the_way.join("full")).unwrap();
        file.remember(6);
        file.remember(6);
        assert_eq!(known_sequence(&folder), Ok(5), "the old number is whole");
        fs::remove_dir_all(in_the_way).unwrap();
        file.remember(6);
        assert_eq!(known_sequence(&folder), Ok(6));
    }
}
