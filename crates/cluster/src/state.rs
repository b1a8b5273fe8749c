//! The embedded state of one node: one file in the data folder, for what must survive but isn't in the pool's log.
//!
//! It holds the identity (made once), the marks below which ids have been given out, the public keys of API
//! credentials, the QoS and snapshot policies, the last time that was believed, and the ring of events. It never holds volumes: those are in the log. Every call blocks on the file;
//! the caller keeps it off the threads that serve.

mod belief;
#[cfg(test)]
pub(crate) mod disk;

use crate::{
    event::{Event, MAX_EVENTS},
    qos::{self, QosPolicy},
    schedule::{self, SnapshotPolicy},
};
pub use belief::Belief;
use dolmen_types::{LineId, Nqn, Nsid, PgId, Uuid};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::{
    collections::VecDeque,
    fmt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// Version of this file's layout that this program reads and writes.
const FORMAT: &str = "1";

/// How far each start moves the discovery log's generation counter on, so that no generation of an earlier run is
/// ever told again.
const GENERATIONS_PER_START: u64 = 1 << 20;

const TEXTS: TableDefinition<&str, &str> = TableDefinition::new("texts");
const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");
const CREDENTIALS: TableDefinition<(&str, &str), &[u8]> = TableDefinition::new("credentials");
const QOS_POLICIES: TableDefinition<&str, &[u8]> = TableDefinition::new("qos_policies");
const SNAPSHOT_POLICIES: TableDefinition<&str, &[u8]> = TableDefinition::new("snapshot_policies");
const EVENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("events");

/// Who this cluster and this node are; made at first start, the same for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster_uuid: Uuid,
    /// The cluster's name, for people.
    pub cluster_name: String,
    /// This node.
    pub node_uuid: Uuid,
    /// This node's name, for people.
    pub node_name: String,
    /// The machine that the node runs on.
    pub server_uuid: Uuid,
    /// The one NVM subsystem of the cluster.
    pub subsystem_nqn: Nqn,
    /// Serial number of the subsystem: 20 printable characters (Identify Controller, SN).
    pub serial: String,
}

impl Identity {
    /// The UUID that the API tells for a protection group: the cluster's with the group's number folded in.
    #[must_use]
    pub fn pg_uuid(&self, pg: PgId) -> Uuid {
        let mut bytes = self.cluster_uuid.0;
        for (byte, fold) in bytes[12..].iter_mut().zip((pg.0.wrapping_add(1)).to_be_bytes()) {
            *byte ^= fold;
        }
        Uuid(bytes)
    }
}

/// What the first start decides; later starts only check that they are not asked for something else. A start that found no
/// pool has decided nothing yet.
#[derive(Clone, Debug)]
pub struct FirstStart {
    /// The cluster's name instead of `dolmen`.
    pub cluster_name: Option<String>,
    /// The node's name.
    pub node_name: String,
    /// A subsystem NQN instead of the one made from the cluster's UUID.
    pub subsystem_nqn: Option<Nqn>,
    /// Fresh random UUIDs for cluster, node and server.
    pub uuids: [Uuid; 3],
}

/// Ids up to and including these may have been given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Namespace ids.
    pub nsid: Nsid,
    /// Lines.
    pub line: LineId,
}

/// The public half of an API credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// `system`, or the project that the credential belongs to.
    pub scope: String,
    /// Its id in the scope.
    pub id: String,
    /// The RSA public key: DER of a SubjectPublicKeyInfo.
    pub public_key: Vec<u8>,
}

/// Why the state file can't be used.
#[derive(Debug)]
pub enum StateError {
    /// The file can't be read or written, or is damaged.
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
    /// Written by a newer program.
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: String,
    },
    /// A value in it is missing or makes no sense.
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Which value.
        what: &'static str,
    },
    /// A start asks for a subsystem NQN other than the one of the first start.
    OtherSubsystem {
        /// The one in force.
        kept: Nqn,
        /// The one asked for.
        asked: Nqn,
    },
    /// A start asks for a cluster's name other than the one of the first start.
    OtherName {
        /// The one in force.
        kept: String,
        /// The one asked for.
        asked: String,
    },
}

/// What helps when the file is lost.
const REMEDY: &str =
    "put back a copy, or move the folder away and make it anew from the drives: dolmen pool recover";

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StateError::File { path, source } => {
                write!(f, "the state file {}: {source}", path.display())?;
                match source.as_ref() {
                    // The disk, not the file.
                    redb::Error::Io(_) | redb::Error::PreviousIo => Ok(()),
                    _ => write!(f, ". If it is damaged: {REMEDY}"),
                }
            }
            StateError::Newer { path, found } => write!(
                f,
                "the state file {} has format {found}, this program knows up to {FORMAT}; run a newer dolmen",
                path.display()
            ),
            StateError::Damaged { path, what } => {
                write!(f, "the state file {} is damaged: no good value of '{what}'; {REMEDY}", path.display())
            }
            StateError::OtherSubsystem { kept, asked } => write!(
                f,
                "the subsystem NQN is decided at first start and is {kept}; it can't become {asked} (leave \
                 --subsystem-nqn out, or start with a fresh data folder and fresh drives)"
            ),
            StateError::OtherName { kept, asked } => write!(
                f,
                "the cluster's name is decided at first start and is '{kept}'; it can't become '{asked}' (leave \
                 --cluster-name out)"
            ),
        }
    }
}

impl std::error::Error for StateError {}

/// The open state file.
#[derive(Debug)]
pub struct State {
    /// Closed when the disk has failed it: what was opened then takes nothing any more. The next call opens it anew.
    db: Mutex<Option<Database>>,
    path: PathBuf,
    identity: Identity,
}

impl State {
    /// Opens the state in `folder`, making it at the first start.
    pub fn open(folder: &Path, first: &FirstStart) -> Result<State, StateError> {
        let path = folder.join("state.redb");
        if !path.exists() {
            State::make(folder, &path, first)?;
        }
        let db = Database::create(&path).map_err(|e| file_error(&path, e))?;
        let mut state = State { db: Mutex::new(Some(db)), path, identity: identity_of(first) };
        match state.text("format")? {
            // A file gets its name when it is complete, so one without a format has been cut off since.
            None => return Err(StateError::Damaged { path: state.path, what: "format" }),
            Some(format) if format == FORMAT => state.identity = state.read_identity()?,
            Some(found) => return Err(StateError::Newer { path: state.path, found }),
        }
        if state.pool()?.is_none() {
            state.redecide(first)?;
        }
        state.check(first)?;
        Ok(state)
    }

    /// Takes what `first` asks for into the identity of a node that has served nothing yet: an earlier start failed, at
    /// its drives most likely.
    fn redecide(&mut self, first: &FirstStart) -> Result<(), StateError> {
        let before = self.identity.clone();
        if let Some(name) = &first.cluster_name {
            self.identity.cluster_name.clone_from(name);
        }
        if let Some(nqn) = &first.subsystem_nqn {
            self.identity.subsystem_nqn.clone_from(nqn);
        }
        if self.identity == before { Ok(()) } else { self.write_identity() }
    }

    /// Refuses a start that asks for something else than what was decided.
    fn check(&self, first: &FirstStart) -> Result<(), StateError> {
        let own = &self.identity;
        if let Some(asked) = first.subsystem_nqn.clone().filter(|asked| *asked != own.subsystem_nqn) {
            return Err(StateError::OtherSubsystem { kept: own.subsystem_nqn.clone(), asked });
        }
        match first.cluster_name.clone().filter(|asked| *asked != own.cluster_name) {
            Some(asked) => Err(StateError::OtherName { kept: own.cluster_name.clone(), asked }),
            None => Ok(()),
        }
    }

    /// Makes the file under another name, and gives it its own when it is complete: a process killed here leaves nothing
    /// that the next start would have to call damaged.
    fn make(folder: &Path, path: &Path, first: &FirstStart) -> Result<(), StateError> {
        let unfinished = folder.join("state.redb.new");
        let failed = |e: std::io::Error| file_error(&unfinished, e);
        match std::fs::remove_file(&unfinished) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let db = Database::create(&unfinished).map_err(|e| file_error(&unfinished, e))?;
        let db = Mutex::new(Some(db));
        let state = State { db, path: unfinished.clone(), identity: identity_of(first) };
        state.write_identity()?;
        drop(state);
        std::fs::rename(&unfinished, path).map_err(failed)?;
        std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    /// Who we are.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Ids that may have been given out.
    pub fn marks(&self) -> Result<Marks, StateError> {
        let nsid = u32::try_from(self.number("nsid")?)
            .map_err(|_| StateError::Damaged { path: self.path.clone(), what: "nsid" })?;
        Ok(Marks { nsid: Nsid(nsid), line: LineId(self.number("line")?) })
    }

    /// Makes new marks durable; ids up to them may be given out afterwards.
    pub fn set_marks(&self, marks: Marks) -> Result<(), StateError> {
        self.set_numbers(&[("nsid", u64::from(marks.nsid.0)), ("line", marks.line.0)])
    }

    /// The first generation counter of the discovery log for this run: larger than any of an earlier run.
    pub fn start_discovery_generation(&self) -> Result<u64, StateError> {
        let base = self.number("discovery_generation")?.wrapping_add(GENERATIONS_PER_START);
        self.set_numbers(&[("discovery_generation", base)])?;
        Ok(base)
    }

    /// The pool that this node's data folder belongs to, once there is one.
    pub fn pool(&self) -> Result<Option<Uuid>, StateError> {
        let damaged = || StateError::Damaged { path: self.path.clone(), what: "pool" };
        self.text("pool")?.map(|text| text.parse().map_err(|_| damaged())).transpose()
    }

    /// Remembers the pool.
    pub fn set_pool(&self, pool: Uuid) -> Result<(), StateError> {
        self.set_texts(&[("pool", &pool.to_string())])
    }

    /// All credentials.
    pub fn credentials(&self) -> Result<Vec<Credential>, StateError> {
        self.read(|tx| {
            let table = match tx.open_table(CREDENTIALS) {
                Ok(table) => table,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                Err(why) => return Err(why.into()),
            };
            let mut all = Vec::new();
            for row in table.iter()? {
                let (key, value) = row?;
                let (scope, id) = key.value();
                all.push(Credential {
                    scope: scope.into(),
                    id: id.into(),
                    public_key: value.value().to_vec(),
                });
            }
            Ok(all)
        })
    }

    /// Adds or replaces a credential.
    pub fn put_credential(&self, credential: &Credential) -> Result<(), StateError> {
        self.write(|tx| {
            let key = (credential.scope.as_str(), credential.id.as_str());
            tx.open_table(CREDENTIALS)?.insert(key, credential.public_key.as_slice())?;
            Ok(())
        })
    }

    /// All QoS policies. One that this version can't read is told again by the volumes that have it.
    pub fn qos_policies(&self) -> Result<Vec<QosPolicy>, StateError> {
        self.values(QOS_POLICIES, qos::decode)
    }

    /// Adds or replaces a QoS policy.
    pub fn put_qos_policy(&self, policy: &QosPolicy) -> Result<(), StateError> {
        self.put_value(QOS_POLICIES, policy.uuid, &qos::encode(policy))
    }

    /// Removes a QoS policy.
    pub fn remove_qos_policy(&self, uuid: Uuid) -> Result<(), StateError> {
        self.remove_value(QOS_POLICIES, uuid)
    }

    /// All snapshot policies that this version can read.
    pub fn snapshot_policies(&self) -> Result<Vec<SnapshotPolicy>, StateError> {
        self.values(SNAPSHOT_POLICIES, schedule::decode)
    }

    /// Adds or replaces a snapshot policy.
    pub fn put_snapshot_policy(&self, policy: &SnapshotPolicy) -> Result<(), StateError> {
        self.put_value(SNAPSHOT_POLICIES, policy.uuid, &schedule::encode(policy))
    }

    /// Removes a snapshot policy.
    pub fn remove_snapshot_policy(&self, uuid: Uuid) -> Result<(), StateError> {
        self.remove_value(SNAPSHOT_POLICIES, uuid)
    }

    /// The QoS policy of volumes that name none, if one was chosen.
    pub fn default_qos_policy(&self) -> Result<Option<Uuid>, StateError> {
        Ok(self.text("default_qos_policy")?.and_then(|text| text.parse().ok()))
    }

    /// Chooses it.
    pub fn set_default_qos_policy(&self, uuid: Uuid) -> Result<(), StateError> {
        self.set_texts(&[("default_qos_policy", &uuid.to_string())])
    }

    /// The events kept, oldest first.
    pub fn events(&self) -> Result<VecDeque<Event>, StateError> {
        self.read(|tx| {
            let table = match tx.open_table(EVENTS) {
                Ok(table) => table,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(VecDeque::new()),
                Err(why) => return Err(why.into()),
            };
            let mut all = VecDeque::new();
            for row in table.iter()? {
                // An event that this version can't read is not worth refusing the start for.
                if let Ok(event) = serde_json::from_slice(row?.1.value()) {
                    all.push_back(event);
                }
            }
            Ok(all)
        })
    }

    /// Adds events and drops the oldest beyond [`MAX_EVENTS`].
    pub fn append_events(&self, events: &[Event]) -> Result<(), StateError> {
        self.write(|tx| {
            let mut table = tx.open_table(EVENTS)?;
            for event in events {
                table
                    .insert(event.id, serde_json::to_vec(event).map_err(std::io::Error::from)?.as_slice())?;
            }
            if let Some(last) = events.last() {
                let keep_from = (last.id + 1).saturating_sub(MAX_EVENTS as u64);
                table.retain_in(..keep_from, |_, _| false)?;
            }
            Ok(())
        })
    }

    fn write_identity(&self) -> Result<(), StateError> {
        let id = &self.identity;
        self.set_texts(&[
            ("format", FORMAT),
            ("cluster_uuid", &id.cluster_uuid.to_string()),
            ("cluster_name", &id.cluster_name),
            ("node_uuid", &id.node_uuid.to_string()),
            ("node_name", &id.node_name),
            ("server_uuid", &id.server_uuid.to_string()),
            ("subsystem_nqn", id.subsystem_nqn.as_str()),
            ("serial", &id.serial),
        ])
    }

    fn read_identity(&self) -> Result<Identity, StateError> {
        let text = |what: &'static str| {
            self.text(what)?.ok_or_else(|| StateError::Damaged { path: self.path.clone(), what })
        };
        let uuid = |what: &'static str| {
            text(what)?.parse::<Uuid>().map_err(|_| StateError::Damaged { path: self.path.clone(), what })
        };
        let nqn = text("subsystem_nqn")?
            .parse()
            .map_err(|_| StateError::Damaged { path: self.path.clone(), what: "subsystem_nqn" })?;
        Ok(Identity {
            cluster_uuid: uuid("cluster_uuid")?,
            cluster_name: text("cluster_name")?,
            node_uuid: uuid("node_uuid")?,
            node_name: text("node_name")?,
            server_uuid: uuid("server_uuid")?,
            subsystem_nqn: nqn,
            serial: text("serial")?,
        })
    }

    /// What a table of objects by UUID holds, as far as it can be read.
    fn values<T>(
        &self,
        table: TableDefinition<&str, &[u8]>,
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, StateError> {
        self.read(|tx| {
            let table = match tx.open_table(table) {
                Ok(table) => table,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                Err(why) => return Err(why.into()),
            };
            let mut all = Vec::new();
            for row in table.iter()? {
                all.extend(decode(row?.1.value()));
            }
            Ok(all)
        })
    }

    fn put_value(
        &self,
        table: TableDefinition<&str, &[u8]>,
        uuid: Uuid,
        value: &[u8],
    ) -> Result<(), StateError> {
        self.write(|tx| {
            tx.open_table(table)?.insert(uuid.to_string().as_str(), value)?;
            Ok(())
        })
    }

    fn remove_value(&self, table: TableDefinition<&str, &[u8]>, uuid: Uuid) -> Result<(), StateError> {
        self.write(|tx| {
            tx.open_table(table)?.remove(uuid.to_string().as_str())?;
            Ok(())
        })
    }

    fn text(&self, key: &str) -> Result<Option<String>, StateError> {
        self.read(|tx| match tx.open_table(TEXTS) {
            Ok(table) => Ok(table.get(key)?.map(|v| v.value().to_string())),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(why) => Err(why.into()),
        })
    }

    fn set_texts(&self, pairs: &[(&str, &str)]) -> Result<(), StateError> {
        self.write(|tx| {
            let mut table = tx.open_table(TEXTS)?;
            for (key, value) in pairs {
                table.insert(*key, *value)?;
            }
            Ok(())
        })
    }

    /// A number that was never set is 0.
    fn number(&self, key: &str) -> Result<u64, StateError> {
        self.read(|tx| match tx.open_table(NUMBERS) {
            Ok(table) => Ok(table.get(key)?.map_or(0, |v| v.value())),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(0),
            Err(why) => Err(why.into()),
        })
    }

    fn set_numbers(&self, pairs: &[(&str, u64)]) -> Result<(), StateError> {
        self.write(|tx| {
            let mut table = tx.open_table(NUMBERS)?;
            for (key, value) in pairs {
                table.insert(*key, *value)?;
            }
            Ok(())
        })
    }

    fn read<T>(
        &self,
        run: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StateError> {
        self.with(|db| run(&db.begin_read()?))
    }

    /// Runs one durable transaction.
    fn write(
        &self,
        run: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StateError> {
        self.with(|db| {
            let tx = db.begin_write()?;
            run(&tx)?;
            Ok(tx.commit()?)
        })
    }

    fn with<T>(&self, run: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, StateError> {
        let mut kept = self.db.lock().unwrap_or_else(PoisonError::into_inner);
        let db = match kept.take() {
            Some(db) => db,
            None => Database::open(&self.path).map_err(|e| file_error(&self.path, e))?,
        };
        let result = run(&db);
        if !matches!(result, Err(redb::Error::Io(_) | redb::Error::PreviousIo)) {
            *kept = Some(db);
        }
        result.map_err(|e| file_error(&self.path, e))
    }
}

fn file_error(path: &Path, source: impl Into<redb::Error>) -> StateError {
    StateError::File { path: path.into(), source: Box::new(source.into()) }
}

fn identity_of(first: &FirstStart) -> Identity {
    let [cluster_uuid, node_uuid, server_uuid] = first.uuids;
    // The stock discovery-client finds its clusters by this prefix.
    let default_nqn = format!("nqn.2016-01.com.lightbitslabs:uuid:{cluster_uuid}");
    let subsystem_nqn = first
        .subsystem_nqn
        .clone()
        .unwrap_or_else(|| default_nqn.parse().expect("a constant prefix and a UUID make a well-formed NQN"));
    let hex = cluster_uuid.to_string().replace('-', "");
    Identity {
        cluster_uuid,
        cluster_name: first.cluster_name.clone().unwrap_or_else(|| "dolmen".into()),
        node_uuid,
        node_name: first.node_name.clone(),
        server_uuid,
        subsystem_nqn,
        serial: hex[..20].to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Component, Occurrence, Severity};

    fn first(seed: u8) -> FirstStart {
        FirstStart {
            cluster_name: Some("c".into()),
            node_name: "n".into(),
            subsystem_nqn: None,
            uuids: [seed, seed + 1, seed + 2].map(|b| Uuid::from_random([b; 16])),
        }
    }

    #[test]
    fn identity_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let made = State::open(dir.path(), &first(1)).unwrap().identity().clone();
        let again = State::open(dir.path(), &first(9)).unwrap().identity().clone();
        assert_eq!(made, again);
        assert!(made.subsystem_nqn.as_str().starts_with("nqn.2016-01.com.lightbitslabs:uuid:"));
        assert_eq!(made.serial.len(), 20);
        assert_ne!(made.pg_uuid(PgId(0)), made.pg_uuid(PgId(1)));
        let other: Nqn = "nqn.2020-01.org.example:other".parse().unwrap();
        let renamed = FirstStart { subsystem_nqn: Some(other.clone()), ..first(1) };
        // As long as nothing has been served, a start that failed has decided nothing.
        let state = State::open(dir.path(), &renamed).unwrap();
        assert_eq!(state.identity().subsystem_nqn, other);
        drop(state);
        let original = FirstStart { subsystem_nqn: Some(made.subsystem_nqn.clone()), ..first(1) };
        let state = State::open(dir.path(), &original).unwrap();
        assert_eq!(*state.identity(), made);
        state.set_pool(Uuid([3; 16])).unwrap();
        drop(state);
        let refused = State::open(dir.path(), &renamed).unwrap_err();
        assert!(matches!(refused, StateError::OtherSubsystem { .. }));
        let refused = State::open(dir.path(), &FirstStart { cluster_name: Some("d".into()), ..first(1) });
        assert!(matches!(refused.unwrap_err(), StateError::OtherName { .. }));
        State::open(dir.path(), &FirstStart { cluster_name: None, ..first(1) }).unwrap();
        let same = FirstStart { subsystem_nqn: Some(made.subsystem_nqn.clone()), ..first(1) };
        State::open(dir.path(), &same).unwrap();
    }

    #[test]
    fn a_first_start_that_was_killed_is_begun_again() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("state.redb.new"), vec![0; 4096]).unwrap();
        let made = State::open(dir.path(), &first(1)).unwrap().identity().clone();
        assert_eq!(made, *State::open(dir.path(), &first(9)).unwrap().identity());
        assert!(!dir.path().join("state.redb.new").exists());
    }

    #[test]
    fn a_file_that_was_emptied_is_damaged_and_no_new_identity_is_made_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        State::open(dir.path(), &first(1)).unwrap();
        std::fs::write(dir.path().join("state.redb"), "").unwrap();
        for _ in 0..2 {
            let why = State::open(dir.path(), &first(9)).unwrap_err();
            assert!(matches!(why, StateError::Damaged { .. }) && why.to_string().contains("put back a copy"));
        }
    }

    #[test]
    fn marks_generations_and_keys_survive() {
        let dir = tempfile::tempdir().unwrap();
        let credential = Credential { scope: "system".into(), id: "root".into(), public_key: vec![1, 2, 3] };
        let before = {
            let state = State::open(dir.path(), &first(1)).unwrap();
            assert_eq!(state.marks().unwrap(), Marks::default());
            state.set_marks(Marks { nsid: Nsid(7), line: LineId(9) }).unwrap();
            state.set_pool(Uuid([3; 16])).unwrap();
            state.put_credential(&credential).unwrap();
            state.start_discovery_generation().unwrap()
        };
        let state = State::open(dir.path(), &first(1)).unwrap();
        assert_eq!(state.marks().unwrap(), Marks { nsid: Nsid(7), line: LineId(9) });
        assert_eq!(state.pool().unwrap(), Some(Uuid([3; 16])));
        assert_eq!(state.credentials().unwrap(), [credential]);
        assert!(state.start_discovery_generation().unwrap() > before);
    }

    #[test]
    fn events_are_a_ring() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path(), &first(1)).unwrap();
        let event = |id| Event {
            id,
            unix_ms: id,
            what: Occurrence {
                component: Component::Volume,
                severity: Severity::Info,
                name: "VolumeCreated".into(),
                subject: "x".into(),
                project: "default".into(),
                text: "made".into(),
            },
        };
        let max = MAX_EVENTS as u64;
        let all: Vec<Event> = (1..=max + 10).map(event).collect();
        state.append_events(&all).unwrap();
        let kept = state.events().unwrap();
        assert_eq!(kept.len(), MAX_EVENTS);
        assert_eq!((kept[0].id, kept.back().unwrap().id), (11, max + 10));
    }

    #[test]
    fn a_disk_that_was_full_costs_what_was_not_written_and_nothing_later() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path(), &first(1)).unwrap();
        state.set_pool(Uuid([3; 16])).unwrap();
        disk::fill(&state);
        let mut errors = 0;
        while state.set_pool(Uuid([4; 16])).is_err() {
            errors += 1;
            assert!(errors < 3, "there is room again");
        }
        assert_eq!((errors, state.pool().unwrap()), (1, Some(Uuid([4; 16]))));
        // One that has vanished meanwhile is not made anew.
        state.db.lock().unwrap().take();
        std::fs::remove_file(&state.path).unwrap();
        assert!(state.pool().is_err() && !state.path.exists());
    }

    #[test]
    fn a_newer_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        State::open(dir.path(), &first(1)).unwrap().set_texts(&[("format", "2")]).unwrap();
        assert!(matches!(State::open(dir.path(), &first(1)), Err(StateError::Newer { .. })));
    }
}
