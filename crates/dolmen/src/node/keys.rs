//! The cluster key of a running node: where it comes from, what it unlocks, and how another one takes its place.
//!
//! ```text
//!   cluster key (file, or passphrase)  wraps  data key per line  kept wrapped in the pool's key table, plain in the shard
//! ```
//!
//! This is the only place that knows both the cluster key and data keys. The key table on core 0 sees wrapped ones alone, a shard
//! the plain ones of its own lines. It promises: a cluster key is made only for a pool that needs none yet; a data key is durable
//! before its line is; every key in the table is always under a cluster key that is in a file or follows from the passphrase. So a
//! rotation has one successor until it is through, which it is once that has taken the place of the old key in its file.

use crate::node::{ServeError, cores::Talk};
use dolmen_cluster::plane::{KeyOrigin, KeyStatus, PlaneError};
use dolmen_core::message::ToCore;
use dolmen_security::{ClusterKey, KeyFiles, KnownKeys, PassphraseFiles, fresh_data_key};
use dolmen_store::{DataKey, StoreError, WrappedKey};
use dolmen_types::{CoreId, LineId, PgId, Uuid};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, OnceLock},
};
use tokio::sync::{Mutex, RwLock};

/// Where the key table is.
const TABLE: CoreId = CoreId(0);

/// Where the cluster key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A file, made at the first start.
    Files(KeyFiles),
    /// The passphrase in a file, and the pool's UUID.
    Passphrase(PassphraseFiles),
    /// Whoever runs the node has it.
    Given(ClusterKey),
}

impl KeySource {
    /// The file with what is in force; its successor is beside it.
    fn path(&self) -> Option<String> {
        match self {
            KeySource::Files(files) => Some(files.path().display().to_string()),
            KeySource::Passphrase(files) => Some(files.path().display().to_string()),
            KeySource::Given(_) => None,
        }
    }
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
    /// The pool that was unlocked.
    pool: OnceLock<Uuid>,
}

impl ClusterKeys {
    /// Keys from there; nothing is read before [`ClusterKeys::unlock`].
    #[must_use]
    pub fn new(source: KeySource) -> ClusterKeys {
        let (known, rotating) = (RwLock::new(KnownKeys::default()), Mutex::new(()));
        ClusterKeys { source, known, rotating, pool: OnceLock::new() }
    }

    /// Unlocks the keys of a pool, once, before anything is written to its drives. For a pool without any the cluster key is made
    /// if there is none.
    ///
    /// # Errors
    /// The cluster key is not the one that is needed, or can't be read or made; the text says which one is wanted.
    pub async fn unlock(&self, pool: Uuid, wrapped: &[WrappedKey]) -> Result<Vec<LineKey>, ServeError> {
        let needed: BTreeSet<[u8; 16]> = wrapped.iter().map(|key| key.cluster_key).collect();
        let known = self.load(pool, &needed)?;
        if let Some(missing) = needed.iter().find(|id| known.find(id).is_none()) {
            return Err(self.refusal(pool, missing, (&known, &needed)));
        }
        let unlocked = wrapped.iter().filter_map(|key| {
            let plain = known.find(&key.cluster_key).and_then(|by| by.unwrap(&key.wrapped));
            if plain.is_none() {
                let (id, line) = (hex(&key.cluster_key), key.line);
                tracing::error!(
                    %pool, %line, cluster_key = id,
                    "the key of this line does not unwrap with the cluster key that wrapped it: the key table is damaged there, and \
                     what is written in this line can't be read"
                );
            }
            Some(LineKey { pg: key.pg, line: key.line, key: DataKey::new(*plain?) })
        });
        let unlocked: Vec<LineKey> = unlocked.collect();
        *self.known.write().await = known;
        // Another try to open the same one.
        let _ = self.pool.set(pool);
        Ok(unlocked)
    }

    fn load(&self, pool: Uuid, needed: &BTreeSet<[u8; 16]>) -> Result<KnownKeys, ServeError> {
        let only = |key| KnownKeys { current: Some(key), next: None };
        match &self.source {
            KeySource::Given(key) => Ok(only(key.clone())),
            KeySource::Passphrase(files) => files
                .load(&pool.0, |key| needed.contains(&key.id()))
                .map_err(|why| ServeError::new(of_file(files.path(), &why))),
            KeySource::Files(files) => {
                let known = files.load().map_err(ServeError::system)?;
                warn_of_readers(files.path());
                if known.wanted().is_some() || !needed.is_empty() {
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

    fn refusal(
        &self,
        pool: Uuid,
        missing: &[u8; 16],
        (known, needed): (&KnownKeys, &BTreeSet<[u8; 16]>),
    ) -> ServeError {
        let here = known.wanted().map(ToString::to_string);
        let (what, mut remedy) = match &self.source {
            KeySource::Files(files) => {
                let path = files.path().display();
                let there = here.map_or("there is none".into(), |id| format!("the one there is {id}"));
                let aside = if known.wanted().is_some() { "move that file away, then " } else { "" };
                (
                    format!("was looked for in {path}, and {there}"),
                    format!(
                        "{aside}put the right one back: `dolmen key import` takes what `dolmen key export` gave; or, if it follows from a \
                         passphrase, name the file with that: --cluster-passphrase-file FILE"
                    ),
                )
            }
            KeySource::Passphrase(files) => (
                format!("is not what follows from the passphrase in {}", files.path().display()),
                "give the right passphrase, or, if the key was in a file, start without one".into(),
            ),
            KeySource::Given(_) => ("was not given".into(), "give that one".into()),
        };
        if let Some(path) = self.source.path().filter(|_| needed.iter().any(|id| known.find(id).is_some())) {
            remedy = format!(
                "others are wrapped by the one that is there, so a rotation is not through, and a start needs both: what was in force \
                 in {path}, and what was rotated to in {path}.new"
            );
        }
        ServeError::new(format!(
            "pool {pool} has encrypted volumes, and their keys are wrapped by cluster key {}, which {what}. Nothing was changed; \
             {remedy}",
            hex(missing)
        ))
    }

    /// Goes on with a rotation that was cut short: everything under the key that is wanted, and no other one kept. Where that does not
    /// work out now, both keys are here, and stay so.
    pub(crate) async fn settle(&self, cores: &Talk) {
        let under_way = self.known.read().await.next.clone();
        let Some(to) = under_way else { return };
        match self.carry_through(cores, &to).await {
            Ok(()) => tracing::info!("the rotation of the cluster key that was cut short has ended"),
            Err(why) => tracing::warn!(%why, "the rotation of the cluster key has not ended"),
        }
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
        let under_way = self.known.read().await.next.clone();
        if let Some(to) = under_way
            && !self.resume(cores, &to).await?
        {
            return Ok(());
        }
        let next = self.successor().await?;
        tracing::info!(key = %next, "rotating to this cluster key");
        // Whoever was wrapping a key by the old one has put it into the table when this comes through.
        self.known.write().await.next = Some(next.clone());
        self.carry_through(cores, &next).await
    }

    /// Goes on with a rotation that did not come through, and with no other one before it has. True when what it rotates to was put into
    /// its place by hand, and there is another one to rotate to.
    async fn resume(&self, cores: &Talk, to: &ClusterKey) -> Result<bool, PlaneError> {
        let here = self.in_files().await?;
        if ![&here.current, &here.next].into_iter().flatten().any(|key| key == to) {
            let path = self.source.path().unwrap_or_default();
            return Err(PlaneError::Refused(format!(
                "a rotation to cluster key {} is not through, and it may wrap data keys already: put what {path}.new held back there, \
                 and rotate again",
                hex(&to.id())
            )));
        }
        tracing::info!(key = %to, "going on with the rotation to this cluster key");
        self.carry_through(cores, to).await?;
        Ok(here.next.is_some_and(|next| next != *to))
    }

    /// What the files hold now.
    async fn in_files(&self) -> Result<KnownKeys, PlaneError> {
        let (source, pool) = (self.source.clone(), self.pool.get().copied().unwrap_or(Uuid::NIL));
        let reading = tokio::task::spawn_blocking(move || match source {
            KeySource::Files(files) => files.load(),
            KeySource::Passphrase(files) => files.load(&pool.0, |_| true),
            KeySource::Given(key) => Ok(KnownKeys { current: Some(key), next: None }),
        });
        reading.await.map_err(stopping)?.map_err(|why| PlaneError::Unavailable(why.to_string()))
    }

    /// Has everything wrapped by a key, and puts that into the place of the old one.
    async fn carry_through(&self, cores: &Talk, to: &ClusterKey) -> Result<(), PlaneError> {
        self.rewrap(cores).await.map_err(|why| {
            let (id, path) = (hex(&to.id()), self.source.path().unwrap_or_default());
            PlaneError::Unavailable(format!(
                "{why}; the rotation to cluster key {id} is not through: leave {path} and {path}.new as they are, and rotate again"
            ))
        })?;
        self.finish(to).await?;
        *self.known.write().await = KnownKeys { current: Some(to.clone()), next: None };
        Ok(())
    }

    /// The key to rotate to: a fresh one in its file, or what follows from the passphrase that was put beside the one in force.
    async fn successor(&self) -> Result<ClusterKey, PlaneError> {
        let (source, pool) = (self.source.clone(), self.pool.get().copied().unwrap_or(Uuid::NIL));
        let current = self.known.read().await.current.clone();
        let making = tokio::task::spawn_blocking(move || match source {
            KeySource::Files(files) => {
                files.begin_rotation().map_err(|why| PlaneError::Unavailable(why.to_string()))
            }
            KeySource::Passphrase(files) => {
                let path = files.next_path();
                let next = files.begin_rotation(&pool.0).map_err(|why| {
                    let to_do =
                        "put the new passphrase there, for the daemon alone to read, and rotate again";
                    PlaneError::Refused(format!("{}; {to_do}", of_file(&path, &why)))
                })?;
                if current.is_some_and(|current| current == next) {
                    let text = format!("{} holds the passphrase that is in force", path.display());
                    return Err(PlaneError::Refused(text));
                }
                Ok(next)
            }
            KeySource::Given(_) => Err(PlaneError::Unsupported(
                "the cluster key was given, and is not this node's to replace".into(),
            )),
        });
        making.await.map_err(stopping)?
    }

    /// Wraps what is in the table by the key that is wanted.
    async fn rewrap(&self, cores: &Talk) -> Result<(), PlaneError> {
        let known = self.known.read().await.clone();
        let Some(to) = known.wanted().cloned() else { return Ok(()) };
        let id = to.id();
        let rewrap = Box::new(move |key: &WrappedKey| {
            // One that is damaged opens its line neither before nor after.
            let plain = known.find(&key.cluster_key)?.unwrap(&key.wrapped);
            Some(plain.map_or(key.wrapped, |plain| to.wrap(&plain)))
        });
        let done = cores.ask(TABLE, |answer| ToCore::RewrapKeys { to: id, rewrap, answer }).await;
        done.map_err(stopping)?.map_err(|why| PlaneError::Unavailable(why.to_string()))
    }

    /// Puts the new key, or passphrase, into the place of the old one, under which nothing is any more.
    async fn finish(&self, to: &ClusterKey) -> Result<(), PlaneError> {
        let (source, pool) = (self.source.clone(), self.pool.get().copied().unwrap_or(Uuid::NIL));
        let to = to.clone();
        let ending = tokio::task::spawn_blocking(move || {
            let done = match &source {
                KeySource::Files(files) => files.end_rotation(&to),
                KeySource::Passphrase(files) => files.end_rotation(&pool.0, &to),
                KeySource::Given(_) => return Ok(()),
            };
            done.map_err(|why| {
                let (id, new) = (hex(&to.id()), source.path().unwrap_or_default());
                PlaneError::Unavailable(format!(
                    "every data key is under the new cluster key {id}, but {new}.new can't be put into the place of {new}: {why}. \
                     Until it is there keep both; do so by hand, or rotate again"
                ))
            })
        });
        ending.await.map_err(stopping)?
    }

    /// What users are told.
    pub(crate) async fn status(&self, cores: &Talk) -> Option<KeyStatus> {
        let wrapped = cores.ask(TABLE, |answer| ToCore::ListKeys { answer }).await.ok()?;
        let wanted = self.known.read().await.wanted().map(ClusterKey::id)?;
        let origin = match &self.source {
            KeySource::Files(_) => KeyOrigin::File,
            KeySource::Passphrase(_) => KeyOrigin::Passphrase,
            KeySource::Given(_) => KeyOrigin::Given,
        };
        let place = self.source.path().unwrap_or_default();
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

fn stopping(_: impl std::fmt::Display) -> PlaneError {
    PlaneError::Unavailable("the node is stopping".into())
}

fn hex(id: &[u8; 16]) -> String {
    id.iter().map(|b| format!("{b:02x}")).collect()
}

/// What is wrong with a passphrase file, with its name once.
fn of_file(path: &Path, why: &dolmen_security::Error) -> String {
    match why {
        dolmen_security::Error::Crypto(what) => format!("{}: {what}", path.display()),
        named => named.to_string(),
    }
}

#[cfg(test)]
mod tests;
