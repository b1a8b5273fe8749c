//! Where a node keeps its cluster key: a file that is made once, and a second one beside it while keys are wrapped anew.
//!
//! ```text
//!   DIR/keys/cluster.key        the key in force
//!   DIR/keys/cluster.key.new    its successor: there from before the first data key is wrapped by it until the last one is
//! ```
//!
//! A rotation makes the successor, has everything wrapped anew, and puts the successor into the place of the old key. A crash in
//! between leaves both, and whoever finds both goes on. Never: replaces a key that may be needed.

use crate::{ClusterKey, Error, file};
use std::{
    ffi::OsString,
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// The folder of keys in a data folder, and the cluster key in it.
const FOLDER: &str = "keys";
const NAME: &str = "cluster.key";

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFiles {
    current: PathBuf,
}

/// What the files hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownKeys {
    /// The key in force.
    pub current: Option<ClusterKey>,
    /// The one that takes its place.
    pub next: Option<ClusterKey>,
}

impl KnownKeys {
    /// The key that everything shall be wrapped by.
    #[must_use]
    pub fn wanted(&self) -> Option<&ClusterKey> {
        self.next.as_ref().or(self.current.as_ref())
    }

    /// The key of that name, if it is here.
    #[must_use]
    pub fn find(&self, id: &[u8; 16]) -> Option<&ClusterKey> {
        [&self.current, &self.next].into_iter().flatten().find(|key| key.id() == *id)
    }
}

impl KeyFiles {
    /// Those of a data folder.
    #[must_use]
    pub fn of_folder(data: &Path) -> KeyFiles {
        KeyFiles { current: data.join(FOLDER).join(NAME) }
    }

    /// Those at a place of the operator's choice.
    #[must_use]
    pub fn at(path: &Path) -> KeyFiles {
        KeyFiles { current: path.into() }
    }

    /// Where the key in force is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.current
    }

    /// What is there.
    pub fn load(&self) -> Result<KnownKeys, Error> {
        Ok(KnownKeys {
            current: ClusterKey::load(&self.current)?,
            next: ClusterKey::load(&self.next_path())?,
        })
    }

    /// Makes a key where there is none, and the folder that it lies in. Only for who has seen that no other key is needed.
    pub fn make(&self) -> Result<ClusterKey, Error> {
        let key = ClusterKey::generate()?;
        self.put(&key)?;
        Ok(key)
    }

    /// Takes in a key from elsewhere. One that is there and differs is left alone, and that is an error.
    pub fn put(&self, key: &ClusterKey) -> Result<(), Error> {
        make_folder(&self.current)?;
        key.save(&self.current)
    }

    /// The key that shall take the place of the one in force: made durably, or found when a rotation was cut short.
    pub fn begin_rotation(&self) -> Result<ClusterKey, Error> {
        if let Some(next) = ClusterKey::load(&self.next_path())? {
            return Ok(next);
        }
        let next = ClusterKey::generate()?;
        next.save(&self.next_path())?;
        Ok(next)
    }

    /// Nothing is wrapped by the old key any more: `to` takes its place. Nothing happens where it is there already, and no other one is
    /// ever put there.
    pub fn end_rotation(&self, to: &ClusterKey) -> Result<(), Error> {
        let KnownKeys { current, next } = self.load()?;
        let path = self.next_path();
        if next.as_ref() != Some(to) {
            if current.as_ref() == Some(to) {
                return Ok(());
            }
            return Err(Error::Key {
                path,
                what: "it does not hold the key that is being rotated to".into(),
            });
        }
        let fail = |source| Error::File { path: path.clone(), source };
        fs::rename(&path, &self.current).map_err(fail)?;
        file::sync_folder(&self.current).map_err(fail)
    }

    fn next_path(&self) -> PathBuf {
        let mut name = OsString::from(self.current.as_os_str());
        name.push(".new");
        name.into()
    }
}

/// Makes the folder of a file, for its owner alone.
fn make_folder(path: &Path) -> Result<(), Error> {
    let Some(folder) = path.parent().filter(|folder| *folder != Path::new("")) else { return Ok(()) };
    let fail = |source| Error::File { path: folder.into(), source };
    if !folder.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(fail)?;
        file::sync_folder(folder).map_err(fail)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let files = KeyFiles::of_folder(dir.path());
        assert_eq!(files.load().unwrap(), KnownKeys::default());
        let key = files.make().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(files.path()), mode(files.path().parent().unwrap())), (0o600, 0o700));
        assert!(files.make().is_err(), "a key that may be needed is not replaced");
        assert!(files.put(&ClusterKey::generate().unwrap()).is_err());
        files.put(&key).unwrap();
        assert_eq!(files.load().unwrap().wanted(), Some(&key));
    }

    #[test]
    fn a_rotation_keeps_both_keys_until_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let files = KeyFiles::at(&dir.path().join("k"));
        let old = files.make().unwrap();
        let new = files.begin_rotation().unwrap();
        assert_eq!(files.begin_rotation().unwrap(), new, "one that was cut short goes on");
        let both = files.load().unwrap();
        assert_eq!((both.find(&old.id()), both.wanted()), (Some(&old), Some(&new)));
        assert!(files.end_rotation(&ClusterKey::generate().unwrap()).is_err());
        files.end_rotation(&new).unwrap();
        files.end_rotation(&new).unwrap();
        let after = KnownKeys { current: Some(new), next: None };
        assert_eq!((files.load().unwrap(), fs::read_dir(dir.path()).unwrap().count()), (after, 1));
    }
}
