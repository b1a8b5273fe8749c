//! Work on drives that no daemon serves: one ring on the calling thread, one task, done. Checks a pool, and recovers who its node was.
//!
//! The drives are locked meanwhile, so that no daemon takes them, and are only read.

use crate::control::files;
use crate::node::{
    ServeError,
    keys::{ClusterKeys, KeySource, LineKey},
    losses::Names,
    sequence::{SequenceFile, known_sequence},
    settings::{KnownDrive, Settings},
};
use dolmen_cluster::{
    lock::FolderLock,
    plane::LostObject,
    state::{FirstStart, State},
};
use dolmen_core::EXEC;
use dolmen_io::{
    ErrorKind, Io, OpenDrive, PoolConfig, Wait,
    exec::{Exec, Handle},
};
use dolmen_security::{KeyFiles, PassphraseFiles};
use dolmen_store::{
    Candidate, CheckProgress, CheckReport, Finding, Keyring, StoreError, check_pool_with, find_pool,
    read_contents,
};
use dolmen_types::Uuid;
use dolmen_uring::{Uring, UringConfig};
use dolmen_volume::Catalog;
use std::{
    cell::RefCell,
    fs,
    future::Future,
    io,
    os::unix::fs::DirBuilderExt,
    path::{self, Path, PathBuf},
    rc::Rc,
};

/// Address space of the buffers. Bytes; pages that are never used are never touched.
const POOL_BYTES: usize = 64 << 20;

/// Between two looks at how far the work has come.
const LOOK_MS: u64 = 100;

/// EBUSY: somebody else has the device.
const BUSY: i32 = 16;

/// EPERM and EACCES: it is not for us.
const DENIED: [i32; 2] = [1, 13];

/// Tasks at a time: the work, and what it waits for.
const TASKS: usize = 16;

/// Drives that are open and locked.
pub(super) struct Opened {
    io: Io,
    exec: Exec,
    /// Those that could be opened.
    pub(super) drives: Vec<Candidate>,
}

/// Drives that can't be opened: their paths, and why.
type Absent = Vec<(String, String)>;

/// Opens drives; those that can't be opened are told apart. One that a daemon holds or that we may not open is an error, and so it is
/// when none can be opened.
pub(super) fn open(paths: &[PathBuf]) -> Result<(Opened, Absent), ServeError> {
    let config = UringConfig { pool: PoolConfig::sized(POOL_BYTES), ..UringConfig::default() };
    let mut io = Io::new(Box::new(Uring::new(&config).map_err(ServeError::system)?));
    let exec = Exec::new(EXEC, TASKS, &io);
    let (mut drives, mut absent) = (Vec::new(), Vec::new());
    for path in paths {
        let options = OpenDrive { path: path.clone(), create_bytes: None, sparse: false, exclusive: true };
        match io.open_drive(&options) {
            Ok(info) => drives.push(Candidate { info, path: path.display().to_string() }),
            Err(why) if why.kind == ErrorKind::Refused && why.errno.is_none_or(|errno| errno == BUSY) => {
                return Err(ServeError::system(why));
            }
            Err(why) if why.errno.is_some_and(|errno| DENIED.contains(&errno)) => {
                return Err(ServeError::denied(why));
            }
            Err(why) => absent.push((path.display().to_string(), why.to_string())),
        }
    }
    match absent.first() {
        Some((_, why)) if drives.is_empty() => Err(ServeError::new(why.clone())),
        _ => Ok((Opened { io, exec, drives }, absent)),
    }
}

impl Opened {
    /// Runs one future to its end; `look` is called meanwhile, now and then. The drives are closed afterwards.
    pub(super) fn run<T: 'static, F>(
        mut self,
        work: impl FnOnce(Handle, Vec<Candidate>) -> F,
        look: impl FnMut(),
    ) -> Result<T, ServeError>
    where
        F: Future<Output = Result<T, StoreError>> + 'static,
    {
        let result = self.look(work, look);
        for drive in &self.drives {
            self.io.close_drive(drive.info.file);
        }
        result
    }

    /// The same; the drives stay open.
    fn look<T: 'static, F>(
        &mut self,
        work: impl FnOnce(Handle, Vec<Candidate>) -> F,
        mut look: impl FnMut(),
    ) -> Result<T, ServeError>
    where
        F: Future<Output = Result<T, StoreError>> + 'static,
    {
        let outcome = Rc::new(RefCell::new(None));
        let task = work(self.exec.handle(), self.drives.clone());
        let put = outcome.clone();
        self.exec
            .handle()
            .spawn(async move { *put.borrow_mut() = Some(task.await) })
            .expect("the executor has room for one task");
        let mut events = Vec::new();
        while outcome.borrow().is_none() {
            let wait =
                if self.exec.has_ready() { Wait::No } else { Wait::Until(self.io.now().plus_ms(LOOK_MS)) };
            self.io.poll(wait, &mut events);
            for (tag, event) in events.drain(..) {
                self.exec.deliver(tag.key, event);
            }
            self.exec.run(&mut self.io);
            look();
        }
        outcome.take().expect("the task has ended").map_err(ServeError::system)
    }
}

/// Where the cluster key is looked for: where it is said to be, or else in the data folder.
#[derive(Clone, Debug, Default)]
pub struct KeyPlace {
    /// The file with the cluster key.
    pub file: Option<PathBuf>,
    /// The file with the passphrase that it follows from.
    pub passphrase_file: Option<PathBuf>,
}

/// What is not there, and why: drives that can't be opened, and what the pool lacks beside them.
fn missing(findings: &[Finding], absent: &Absent) -> Vec<String> {
    let unnamed = findings.iter().filter_map(|finding| match finding {
        Finding::Lost { path, reason, .. } if absent.iter().all(|(at, _)| at != path) => {
            Some(format!("{path}: {reason}"))
        }
        Finding::Untouched { path, reason } => Some(format!("{path} {reason}")),
        Finding::Lost { .. } | Finding::Stale { .. } | Finding::Joined { .. } => None,
    });
    absent.iter().map(|(_, why)| why.clone()).chain(unnamed).collect()
}

/// The keys of the pool's encrypted volumes.
fn keyring_for(opened: &mut Opened, data: Option<&Path>, place: &KeyPlace) -> Result<Keyring, ServeError> {
    let found = opened.look(find_pool, || ())?;
    let Some(found) = found.filter(|found| !found.keys.is_empty()) else { return Ok(Keyring::default()) };
    let source = match (&place.passphrase_file, &place.file, data) {
        (Some(path), ..) => KeySource::Passphrase(PassphraseFiles::at(path)),
        (None, Some(path), _) => KeySource::Files(KeyFiles::at(path)),
        (None, None, Some(data)) => KeySource::Files(KeyFiles::of_folder(data)),
        (None, None, None) => {
            return Err(ServeError::new(
                "the pool has encrypted volumes: say where the cluster key is, with --data, --cluster-key or \
                 --cluster-passphrase-file",
            ));
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(ServeError::system)?;
    let unlocked = runtime.block_on(ClusterKeys::new(source).unlock(found.pool, &found.keys))?;
    let mut keyring = Keyring::default();
    unlocked.into_iter().for_each(|LineKey { line, key, .. }| keyring.insert(line, key));
    Ok(keyring)
}

/// The drives to look at: those that are named, or else those that the data folder knows.
fn drives_of(data: Option<&Path>, named: &[PathBuf]) -> Result<Vec<PathBuf>, ServeError> {
    if !named.is_empty() {
        return Ok(named.to_vec());
    }
    let known = match data {
        Some(folder) => Settings::load(folder).map_err(ServeError::new)?.known(),
        None => Vec::new(),
    };
    if known.is_empty() {
        return Err(ServeError::new(
            "which drives? Name all of the pool's with --drive, or a data folder that has served it",
        ));
    }
    Ok(known)
}

/// The number of the superblock that the data folder has seen in force, or 0: what it knows of other drives says nothing.
fn known_superblock(data: Option<&Path>, paths: &[PathBuf]) -> u64 {
    let Some(folder) = data else { return 0 };
    let known = Settings::load(folder).map_or(Vec::new(), |settings| settings.known());
    let is_known = |path: &PathBuf| path::absolute(path).is_ok_and(|path| known.contains(&path));
    if paths.iter().any(is_known) { known_sequence(folder).unwrap_or(0) } else { 0 }
}

/// What a check has found, and the names of what it is about.
pub struct Checked {
    /// The drives that are not there, and why.
    pub missing: Vec<String>,
    /// What was found.
    pub report: CheckReport,
    /// Volumes and snapshots.
    pub catalog: Catalog,
    /// What of them is lost.
    pub lost: Vec<LostObject>,
}

/// Reads everything that the pool on these drives holds, and verifies it. `look` is told how far that is, in parts of 1000.
pub fn check(
    data: Option<&Path>,
    named: &[PathBuf],
    key: &KeyPlace,
    mut look: impl FnMut(u32),
) -> Result<Checked, ServeError> {
    if let Some(folder) = data
        && fs::read_dir(folder).is_err_and(|why| why.kind() == io::ErrorKind::PermissionDenied)
    {
        return Err(ServeError::denied(format!("the data folder {} can't be read", folder.display())));
    }
    let lock = data.filter(|folder| folder.exists()).map(FolderLock::take).transpose();
    let _lock = lock.map_err(ServeError::system)?;
    let paths = drives_of(data, named)?;
    let at_least = known_superblock(data, &paths);
    let (mut opened, mut absent) = open(&paths)?;
    let keyring = keyring_for(&mut opened, data, key)?;
    let progress = CheckProgress::default();
    let seen = progress.clone();
    let report = opened.run(
        |exec, drives| check_pool_with(exec, drives, keyring, at_least, progress),
        || look(seen.per_mille()),
    )?;
    if named.is_empty() {
        // The data folder also knows drives that failed and that the pool has done without since: nobody misses those. The pool's own
        // table may have only the end of a path.
        absent.retain(|(path, _)| report.drives.iter().any(|known| path.ends_with(known.as_str())));
    }
    let objects = report.objects.iter().map(|(pg, key, value)| (*pg, *key, &**value));
    let catalog = Catalog::read(objects);
    let lost = Names::new(&catalog.volumes, &catalog.snapshots).of(&report.lost);
    Ok(Checked { missing: missing(&report.findings, &absent), report, catalog, lost })
}

/// What was recovered.
pub struct Recovery {
    /// The pool.
    pub pool: Uuid,
    /// Its drives: all that it counts, whether they are there or not.
    pub drives: Vec<PathBuf>,
    /// What is not there, and why.
    pub missing: Vec<String>,
    /// What the log says.
    pub catalog: Catalog,
    /// The name under which hosts find the node.
    pub subsystem_nqn: String,
}

/// Makes a data folder from drives alone: with it, and these drives, a daemon serves the same volumes under the same names. The
/// folder must not have served a pool.
pub fn recover(data: &Path, named: &[PathBuf], key: &KeyPlace) -> Result<Recovery, ServeError> {
    if data.join(files::STATE).exists() {
        return Err(ServeError::new(format!(
            "{} is the data folder of a node; recover into one that is not there yet",
            data.display()
        )));
    }
    let (mut opened, absent) = open(named)?;
    let keyring = keyring_for(&mut opened, Some(data), key)?;
    let contents = opened.run(|exec, drives| read_contents(exec, drives, keyring), || ())?;
    let catalog = Catalog::read(contents.objects.iter().map(|(pg, key, value)| (*pg, *key, &**value)));
    let Some(identity) = &catalog.identity else {
        return Err(ServeError::new(
            "the log does not tell who the node was: start it with a fresh data folder, and --subsystem-nqn with the name that \
             hosts know",
        ));
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(ServeError::system)?;
    let _lock = FolderLock::take(data).map_err(ServeError::system)?;
    let first = FirstStart {
        cluster_name: Some(identity.cluster_name.clone()),
        node_name: identity.node_name.clone(),
        subsystem_nqn: Some(identity.subsystem_nqn.parse().map_err(|why| {
            ServeError::new(format!("the subsystem NQN in the log, '{}': {why}", identity.subsystem_nqn))
        })?),
        uuids: [identity.cluster_uuid, identity.node_uuid, identity.server_uuid],
    };
    SequenceFile::of_folder(data).write(contents.sequence)?;
    let state = State::open(data, &first).map_err(ServeError::system)?;
    state.set_pool(contents.pool).map_err(ServeError::system)?;
    let settings =
        Settings { served: contents.drives.iter().map(KnownDrive::from).collect(), ..Settings::default() };
    settings.save(data).map_err(ServeError::new)?;
    let subsystem_nqn = identity.subsystem_nqn.clone();
    let missing = missing(&contents.findings, &absent);
    let drives = contents.drives.into_iter().map(|d| d.path.into()).collect();
    Ok(Recovery { pool: contents.pool, drives, missing, catalog, subsystem_nqn })
}
