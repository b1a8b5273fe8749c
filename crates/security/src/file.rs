//! Files that are there whole or not at all.

use crate::Error;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// The owner alone (mode 0600).
    Owner,
    /// Everybody (mode 0644).
    Everybody,
}

/// Puts `bytes` in the place of `path`, durably: a reader sees the old content or the new, never a part.
pub fn replace(path: &Path, bytes: &[u8], visibility: Visibility) -> Result<(), Error> {
    let fail = |source| Error::File { path: path.into(), source };
    let name = path.file_name().ok_or_else(|| fail(io::Error::from(io::ErrorKind::InvalidInput)))?;
    let temporary = path.with_file_name(format!(".{}.{}.new", name.to_string_lossy(), std::process::id()));
    // Left over from a crash of a process with the same id.
    let _ = fs::remove_file(&temporary);
    let written = write_new(&temporary, bytes, visibility).and_then(|()| fs::rename(&temporary, path));
    if let Err(source) = written {
        let _ = fs::remove_file(&temporary);
        return Err(fail(source));
    }
    sync_folder(path).map_err(fail)
}

fn write_new(path: &Path, bytes: &[u8], visibility: Visibility) -> io::Result<()> {
    let mode = match visibility {
        Visibility::Owner => 0o600,
        Visibility::Everybody => 0o644,
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// The file's content, or `None` if there is no such file.
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File { path: path.into(), source }),
    }
}

/// Makes the name of a file durable.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn replaces_whole_with_the_mode_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert!(read_if_there(&path).unwrap().is_none());
        replace(&path, b"one", Visibility::Everybody).unwrap();
        replace(&path, b"two", Visibility::Owner).unwrap();
        assert_eq!(read_if_there(&path).unwrap().as_deref(), Some(&b"two"[..]));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_name_without_a_folder_is_one_in_the_current_folder() {
        let dir = tempfile::tempdir().unwrap();
        std::env::set_current_dir(dir.path()).unwrap();
        replace(Path::new("bare"), b"here", Visibility::Owner).unwrap();
        assert_eq!(fs::read(dir.path().join("bare")).unwrap(), b"here");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(replace(&dir.path().join("no/f"), b"", Visibility::Owner).is_err());
    }
}
