//! The cluster key of a running node: where it comes from, what it unlocks, and how another one takes its place.
//!
//! ```text
//!   cluster key (file, or passphrase)  wraps  data key per line  kept wrapped in the pool's key table, plain in the shard
//! ```
//!
//! This is the only place that knows both the cluster key and data keys. The key table on core 0 sees wrapped ones alone, a shard
//! the plain ones of its own lines. It promises: a cluster key is made only for a pool that needs none yet; a data key is durable
//! before its line is; every key in the table is always under a cluster key that is in a file or follows from the passphrase.

use crate::node::{ServeError, cores::Talk, message::ToCore};
use dolmen_cluster::plane::{KeyOrigin, KeyStatus, PlaneError};
use dolmen_security::{ClusterKey, KeyFiles, KnownKeys, Secret, file, fresh_data_key};
use dolmen_store::{DataKey, StoreError, WrappedKey};
use dolmen_types::{CoreId, LineId, PgId, Uuid};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::{Mutex, RwLock};

/// Where the key table is.
const TABLE: CoreId = CoreId(0);

/// Where the cluster key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A file, made at the first start.
    Files(KeyFiles),
    /// The passphrase in this file, and the pool's UUID.
    Passphrase(PathBuf),
    /// Whoever runs the node has it.
    Given(ClusterKey),
}

/// The data key of a line, unlocked.
pub struct LineKey {
    /// The protection group that orders the line.
    pub pg: PgId,
    /// The line.
    pub line: LineId,
    /// Its key.
    pub key: DataKey,
}

/// See the module.
#[derive(Debug)]
pub struct ClusterKeys {
    source: KeySource,
    /// The keys at hand. Whoever wraps a data key holds this until that key is in the table, so that none is added under a key
    /// that a rotation has left behind.
    known: RwLock<KnownKeys>,
    /// Held by a rotation.
    rotating: Mutex<()>,
}

impl ClusterKeys {
    /// Keys from there; nothing is read before [`ClusterKeys::unlock`].
    #[must_use]
    pub fn new(source: KeySource) -> ClusterKeys {
        ClusterKeys { source, known: RwLock::new(KnownKeys::default()), rotating: Mutex::new(()) }
    }

    /// Unlocks the keys of a pool, once, before anything is written to its drives. For a pool without any the cluster key is made
    /// if there is none.
    ///
    /// # Errors
    /// The cluster key is not the one that is needed, or can't be read or made; the text says which one is wanted.
    pub async fn unlock(&self, pool: Uuid, wrapped: &[WrappedKey]) -> Result<Vec<LineKey>, ServeError> {
        let known = self.load(pool, wrapped.is_empty())?;
        let needed: BTreeSet<[u8; 16]> = wrapped.iter().map(|key| key.cluster_key).collect();
        if let Some(missing) = needed.iter().find(|id| known.find(id).is_none()) {
            return Err(self.refusal(pool, missing, &known));
        }
        let unlocked = wrapped.iter().map(|key| {
            let plain = known.find(&key.cluster_key).and_then(|by| by.unwrap(&key.wrapped));
            let plain = plain.ok_or_else(|| {
                let (id, line) = (hex(&key.cluster_key), key.line);
                ServeError::new(format!(
                    "pool {pool}: the key of line {line} does not unwrap with cluster key {id}, which wrapped it: the key table on \
                     the drives is damaged; nothing was changed"
                ))
            })?;
            Ok(LineKey { pg: key.pg, line: key.line, key: DataKey::new(*plain) })
        });
        let unlocked = unlocked.collect::<Result<_, _>>()?;
        *self.known.write().await = known;
        Ok(unlocked)
    }

    fn load(&self, pool: Uuid, may_make: bool) -> Result<KnownKeys, ServeError> {
        let only = |key| KnownKeys { current: Some(key), next: None };
        match &self.source {
            KeySource::Given(key) => Ok(only(key.clone())),
            KeySource::Passphrase(path) => {
                let phrase = read_passphrase(path).map_err(ServeError::new)?;
                ClusterKey::from_passphrase(&phrase, &pool.0)
                    .map(only)
                    .map_err(|why| ServeError::new(format!("{}: {why}", path.display())))
            }
            KeySource::Files(files) => {
                let known = files.load().map_err(ServeError::system)?;
                warn_of_readers(files.path());
                if known.wanted().is_some() || !may_make {
                    return Ok(known);
                }
                let key = files.make().map_err(ServeError::system)?;
                tracing::info!(
                    key = %key, file = %files.path().display(),
                    "a new cluster key: without it nobody reads encrypted volumes; keep what `dolmen key export` gives elsewhere"
                );
                Ok(only(key))
            }
        }
    }

    fn refusal(&self, pool: Uuid, missing: &[u8; 16], known: &KnownKeys) -> ServeError {
        let here = known.wanted().map(ToString::to_string);
        let (what, remedy) = match &self.source {
            KeySource::Files(files) => {
                let path = files.path().display();
                let there = here.map_or("there is none".into(), |id| format!("the one there is {id}"));
                let aside = if known.wanted().is_some() { "move that file away, then " } else { "" };
                (
                    format!("was looked for in {path}, and {there}"),
                    format!(
                        "{aside}put the right one back: `dolmen key import` takes what `dolmen key export` gave"
                    ),
                )
            }
            KeySource::Passphrase(path) => (
                format!("is not what follows from the passphrase in {}", path.display()),
                "give the right passphrase, or, if the key was in a file, start without one".into(),
            ),
            KeySource::Given(_) => ("was not given".into(), "give that one".into()),
        };
        ServeError::new(format!(
            "pool {pool} has encrypted volumes, and their keys are wrapped by cluster key {}, which {what}. Nothing was changed; \
             {remedy}",
            hex(missing)
        ))
    }

    /// Goes on with a rotation that was cut short: everything under the key that is wanted, and no other one kept.
    pub(crate) async fn settle(&self, cores: &Talk, wrapped: &[WrappedKey]) -> Result<(), ServeError> {
        let wanted = self.known.read().await.wanted().map(ClusterKey::id);
        let stale = wrapped.iter().any(|key| Some(key.cluster_key) != wanted);
        if stale || self.known.read().await.next.is_some() {
            self.rewrap(cores).await.map_err(ServeError::system)?;
            tracing::info!("the rotation of the cluster key that was cut short has ended");
        }
        Ok(())
    }

    /// Makes the data key of a new line: durable in the table and in the hands of the line's shard.
    ///
    /// # Errors
    /// Why the line can't be made now. One that has a key, or had one, is not new.
    pub async fn make(&self, cores: &Talk, home: CoreId, pg: PgId, line: LineId) -> Result<(), PlaneError> {
        let known = self.known.read().await;
        let unavailable = |why: String| PlaneError::Unavailable(why);
        let Some(by) = known.wanted() else { return Err(unavailable("the cluster key is not here".into())) };
        let fresh = fresh_data_key().map_err(|why| unavailable(why.to_string()))?;
        let key = WrappedKey { line, pg, cluster_key: by.id(), wrapped: by.wrap(&fresh) };
        let kept = cores.ask(TABLE, |answer| ToCore::KeepKey { key, answer }).await.map_err(stopping)?;
        kept.map_err(|why| match why {
            StoreError::Refused(why) => PlaneError::Exhausted(why),
            other => unavailable(other.to_string()),
        })?;
        let key = DataKey::new(*fresh);
        cores.ask(home, |answer| ToCore::AddKey { pg, line, key, answer }).await.map_err(stopping)
    }

    /// A line was not made after all: its key is erased, unless the line is there.
    pub(crate) async fn give_up(&self, cores: &Talk, home: CoreId, pg: PgId, line: LineId) {
        let lines = vec![(pg, line)];
        // A core that ends takes the question with it; the next start asks again.
        drop(cores.ask(home, |answer| ToCore::SweepKeys { lines, answer }).await);
    }

    /// Puts a new cluster key into the place of the one in force. Every data key is wrapped anew; no data is touched.
    pub(crate) async fn rotate(self: &Arc<Self>, cores: &Talk) -> Result<(), PlaneError> {
        let Ok(_one) = self.rotating.try_lock() else {
            return Err(PlaneError::Unavailable("the cluster key is being rotated already".into()));
        };
        let KeySource::Files(files) = self.source.clone() else {
            return Err(PlaneError::Unsupported(
                "the cluster key follows from a passphrase and can't be replaced by one that does not".into(),
            ));
        };
        let making = tokio::task::spawn_blocking(move || files.begin_rotation()).await;
        let next = making.map_err(stopping)?.map_err(|why| PlaneError::Unavailable(why.to_string()))?;
        tracing::info!(key = %next, "rotating to this cluster key");
        // Whoever was wrapping a key by the old one has put it into the table when this comes through.
        self.known.write().await.next = Some(next);
        self.rewrap(cores).await
    }

    /// Wraps what is in the table by the key that is wanted, and puts that key into the place of the old one.
    async fn rewrap(&self, cores: &Talk) -> Result<(), PlaneError> {
        let known = self.known.read().await.clone();
        let Some(to) = known.wanted().cloned() else { return Ok(()) };
        let id = to.id();
        let rewrap = Box::new(move |key: &WrappedKey| {
            let plain = known.find(&key.cluster_key)?.unwrap(&key.wrapped)?;
            Some(to.wrap(&plain))
        });
        let done = cores.ask(TABLE, |answer| ToCore::RewrapKeys { to: id, rewrap, answer }).await;
        done.map_err(stopping)?.map_err(|why| PlaneError::Unavailable(why.to_string()))?;
        if let KeySource::Files(files) = self.source.clone() {
            let ending = tokio::task::spawn_blocking(move || files.end_rotation()).await;
            ending.map_err(stopping)?.map_err(|why| PlaneError::Unavailable(why.to_string()))?;
        }
        let mut known = self.known.write().await;
        *known = KnownKeys { current: known.wanted().cloned(), next: None };
        Ok(())
    }

    /// What users are told.
    pub(crate) async fn status(&self, cores: &Talk) -> Option<KeyStatus> {
        let wrapped = cores.ask(TABLE, |answer| ToCore::ListKeys { answer }).await.ok()?;
        let wanted = self.known.read().await.wanted().map(ClusterKey::id)?;
        let (origin, place) = match &self.source {
            KeySource::Files(files) => (KeyOrigin::File, files.path().display().to_string()),
            KeySource::Passphrase(path) => (KeyOrigin::Passphrase, path.display().to_string()),
            KeySource::Given(_) => (KeyOrigin::Given, String::new()),
        };
        let stale = wrapped.iter().filter(|key| key.cluster_key != wanted).count();
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        Some(KeyStatus { id: hex(&wanted), origin, place, lines: count(wrapped.len()), stale: count(stale) })
    }
}

/// A key file that others can read is no secret.
fn warn_of_readers(path: &Path) {
    let mode = fs::metadata(path).map(|meta| meta.permissions().mode() & 0o077);
    if mode.is_ok_and(|others| others != 0) {
        tracing::warn!(file = %path.display(), "others than its owner may use the file with the cluster key: chmod 600");
    }
}

/// A passphrase from a file, without the end of its line.
///
/// # Errors
/// Which file can't be read, and why.
pub fn read_passphrase(path: &Path) -> Result<Secret, String> {
    let mut bytes = match file::read_if_there(path) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Err(format!("there is no passphrase file {}", path.display())),
        Err(why) => return Err(why.to_string()),
    };
    while bytes.last().is_some_and(|b| b"\r\n".contains(b)) {
        bytes.pop();
    }
    Ok(Secret::new(bytes))
}

fn stopping(_: impl std::fmt::Display) -> PlaneError {
    PlaneError::Unavailable("the node is stopping".into())
}

fn hex(id: &[u8; 16]) -> String {
    id.iter().map(|b| format!("{b:02x}")).collect()
}
