//! Where a node finds the passphrase that its cluster key follows from: a file of the operator's, and a second one beside it while keys
//! are wrapped anew.
//!
//! ```text
//!   FILE        the passphrase in force
//!   FILE.new    its successor, put there by the operator
//! ```
//!
//! A rotation makes the successor durable before the first data key is wrapped by what follows from it, and puts it into the place of
//! the old one after the last. A crash in between leaves both, and whoever finds data keys under the new one goes on. Until then a
//! successor that nobody has asked for counts for nothing.

use crate::{ClusterKey, Error, KnownKeys, Secret, file};
use std::{
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassphraseFiles {
    current: PathBuf,
}

impl PassphraseFiles {
    /// Those at a place of the operator's choice.
    #[must_use]
    pub fn at(path: &Path) -> PassphraseFiles {
        PassphraseFiles { current: path.into() }
    }

    /// Where the passphrase in force is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.current
    }

    /// Where its successor is put.
    #[must_use]
    pub fn next_path(&self) -> PathBuf {
        let mut name = OsString::from(self.current.as_os_str());
        name.push(".new");
        name.into()
    }

    /// The keys that follow for a pool; that of the successor only when data keys are `under` it.
    pub fn load(&self, salt: &[u8], under: impl Fn(&ClusterKey) -> bool) -> Result<KnownKeys, Error> {
        let current = ClusterKey::from_passphrase(&read_passphrase(&self.current)?, salt)?;
        let path = self.next_path();
        // One that nothing can follow from was never rotated to.
        let next = if path.exists() {
            read_passphrase(&path).and_then(|phrase| ClusterKey::from_passphrase(&phrase, salt)).ok()
        } else {
            None
        };
        Ok(KnownKeys { current: Some(current), next: next.filter(under) })
    }

    /// The key that follows from the successor, once that is durable.
    pub fn begin_rotation(&self, salt: &[u8]) -> Result<ClusterKey, Error> {
        let path = self.next_path();
        let next = ClusterKey::from_passphrase(&read_passphrase(&path)?, salt)?;
        let fail = |source| Error::File { path: path.clone(), source };
        File::open(&path).and_then(|file| file.sync_all()).map_err(fail)?;
        file::sync_folder(&path).map_err(fail)?;
        Ok(next)
    }

    /// Nothing is wrapped by what follows from the old passphrase any more: the one that key `to` follows from takes its place. Nothing
    /// happens where it is there already, and no other one is ever put there.
    pub fn end_rotation(&self, salt: &[u8], to: &ClusterKey) -> Result<(), Error> {
        let next = self.next_path();
        let gives = |path: &Path| {
            read_passphrase(path)
                .and_then(|phrase| ClusterKey::from_passphrase(&phrase, salt))
                .is_ok_and(|key| key == *to)
        };
        if !gives(&next) {
            if gives(&self.current) {
                return Ok(());
            }
            let what = "it does not hold the passphrase that is being rotated to".into();
            return Err(Error::Key { path: next, what });
        }
        let fail = |source| Error::File { path: self.current.clone(), source };
        fs::rename(&next, &self.current).map_err(fail)?;
        file::sync_folder(&self.current).map_err(fail)
    }
}

/// A passphrase from a file, without the end of its line.
pub fn read_passphrase(path: &Path) -> Result<Secret, Error> {
    let Some(mut bytes) = file::read_if_there(path)? else {
        return Err(Error::Key { path: path.into(), what: "there is no such passphrase file".into() });
    };
    while bytes.last().is_some_and(|b| b"\r\n".contains(b)) {
        bytes.pop();
    }
    Ok(Secret::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_counts_once_keys_are_under_it() {
        let dir = tempfile::tempdir().unwrap();
        let files = PassphraseFiles::at(&dir.path().join("phrase"));
        assert!(files.load(b"salt", |_| true).is_err() && files.begin_rotation(b"salt").is_err());
        fs::write(files.path(), "correct horse battery\n").unwrap();
        let old = files.load(b"salt", |_| true).unwrap().current.unwrap();
        fs::write(files.next_path(), "short").unwrap();
        assert_eq!(files.load(b"salt", |_| true).unwrap().next, None);
        assert!(files.begin_rotation(b"salt").is_err());
        fs::write(files.next_path(), "staple of another kind").unwrap();
        let new = files.begin_rotation(b"salt").unwrap();
        assert_eq!(
            files.load(b"salt", |_| false).unwrap(),
            KnownKeys { current: Some(old.clone()), next: None }
        );
        let both = KnownKeys { current: Some(old), next: Some(new.clone()) };
        assert_eq!(files.load(b"salt", |key| *key == new).unwrap(), both);
        // Whatever is put there meanwhile does not take the old one's place.
        fs::write(files.next_path(), "something that nobody asked for").unwrap();
        assert!(files.end_rotation(b"salt", &new).is_err());
        fs::write(files.next_path(), "staple of another kind").unwrap();
        files.end_rotation(b"salt", &new).unwrap();
        files.end_rotation(b"salt", &new).unwrap();
        assert_eq!(files.load(b"salt", |_| true).unwrap(), KnownKeys { current: Some(new), next: None });
    }
}
