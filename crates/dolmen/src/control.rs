//! The control side of a daemon, composed: data folder, lock, identity, keys, the management API on its own threads.
//!
//! Two steps, since no port may accept before recovery is done: [`Prepared::open`] takes the folder and makes what the
//! first start makes; [`Prepared::start`] is called once the drives are recovered, and opens the API. It promises: one
//! daemon per folder; the token file always holds a good token; after [`Control::stop`] nothing of it runs and all that
//! it must remember is on disk. It never touches a drive or the data path.

mod endpoint;

use crate::config::ServeOptions;
use dolmen_api::{Endpoints, Server, ServerOptions};
use dolmen_cluster::{
    lock::{FolderLock, LockError},
    node::{self, Ambient, Defaults, Handle, Uptime},
    plane::{Notice, Plane, Recovered},
    state::{Credential, FirstStart, Identity, State, StateError},
};
use dolmen_security::{
    Certificate, KeyId, SigningKey, TOKEN_LIFE_SECS, TokenFile, Verifier, fresh_uuid, install_crypto,
};
use dolmen_types::UnixMillis;
pub use endpoint::Endpoint;
use std::{
    fmt, fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

/// How often the token file is looked at: a clock that was set makes a token void that was good.
const TOKEN_PERIOD: Duration = Duration::from_secs(5);

/// When something could not be written there, how soon it is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// How long the control side may take to end.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Threads of the control side. Count.
const THREADS: usize = 2;

/// Names of files in the data folder.
pub mod files {
    /// The administrator's token.
    pub const TOKEN: &str = "token";
    /// The key that signs tokens.
    pub const TOKEN_KEY: &str = "token.key";
    /// The API's certificate.
    pub const CERTIFICATE: &str = "tls.crt";
    /// The certificate's private key.
    pub const CERTIFICATE_KEY: &str = "tls.key";
    /// Where the running daemon answers.
    pub const ENDPOINT: &str = "endpoint";
    /// What must survive and isn't in the log; there from the first start, or the recovery, on.
    pub const STATE: &str = "state.redb";
}

/// Why the control side can't run. The texts are for the operator.
#[derive(Debug)]
pub enum ControlError {
    /// The data folder can't be made or used.
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another daemon has it.
    Lock(LockError),
    /// The state file.
    State(StateError),
    /// A key, certificate or token.
    Security(dolmen_security::Error),
    /// The API's port.
    Bind(dolmen_api::BindError),
    /// Threads or sockets of the system.
    System(io::Error),
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ControlError::Folder { path, source } => {
                write!(f, "the data folder {} can't be used: {source}", path.display())
            }
            ControlError::Lock(why) => why.fmt(f),
            ControlError::State(why) => why.fmt(f),
            ControlError::Security(why) => why.fmt(f),
            ControlError::Bind(why) => why.fmt(f),
            ControlError::System(why) => write!(f, "the control side can't start: {why}"),
        }
    }
}

impl std::error::Error for ControlError {}

impl From<LockError> for ControlError {
    fn from(why: LockError) -> Self {
        ControlError::Lock(why)
    }
}

impl From<StateError> for ControlError {
    fn from(why: StateError) -> Self {
        ControlError::State(why)
    }
}

impl From<dolmen_security::Error> for ControlError {
    fn from(why: dolmen_security::Error) -> Self {
        ControlError::Security(why)
    }
}

impl From<dolmen_api::BindError> for ControlError {
    fn from(why: dolmen_api::BindError) -> Self {
        ControlError::Bind(why)
    }
}

/// The time of day.
#[must_use]
pub fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// How long the machine has been up, as the kernel counts.
fn uptime() -> Option<Uptime> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().parse().ok()?;
    let text = fs::read_to_string("/proc/uptime").ok()?;
    let (seconds, hundredths) = text.split(' ').next()?.split_once('.')?;
    let ms = seconds.parse::<u64>().ok()?.checked_mul(1000)? + hundredths.parse::<u64>().ok()?.min(99) * 10;
    Some(Uptime { boot, ms })
}

/// The data folder, taken and complete; nothing runs yet.
#[derive(Debug)]
pub struct Prepared {
    folder: PathBuf,
    lock: FolderLock,
    state: State,
    certificate: Certificate,
    tokens: TokenFile,
}

/// What the data side tells the control side once it has recovered.
#[derive(Debug)]
pub struct DataSide {
    /// What was found on the drives.
    pub recovered: Recovered,
    /// The control side's end of the mailbox.
    pub plane: Plane,
    /// What the data side notices by itself.
    pub notices: mpsc::Receiver<Notice>,
    /// The data port in force.
    pub nvme_port: u16,
    /// The discovery port in force.
    pub discovery_port: u16,
}

impl Prepared {
    /// Takes the data folder (made if missing, mode 0700), and loads or makes identity, keys and certificate.
    pub fn open(options: &ServeOptions) -> Result<Prepared, ControlError> {
        install_crypto();
        let folder = make_folder(&options.data)?;
        let lock = FolderLock::take(&folder)?;
        // One left over from a daemon that was killed would send clients to the wrong place.
        Endpoint::remove(&folder);
        let first = FirstStart {
            cluster_name: options.cluster_name.clone(),
            node_name: host_name(),
            subsystem_nqn: options.subsystem_nqn.clone(),
            uuids: std::array::from_fn(|_| fresh_uuid()),
        };
        let state = State::open(&folder, &first)?;
        let key = SigningKey::load_or_make(&folder.join(files::TOKEN_KEY))?;
        let root = KeyId::root();
        let credential = Credential { scope: root.scope, id: root.id, public_key: key.public_key().to_vec() };
        if !state.credentials()?.contains(&credential) {
            state.put_credential(&credential)?;
        }
        let certificate = Certificate::load_or_make(
            &folder.join(files::CERTIFICATE),
            &folder.join(files::CERTIFICATE_KEY),
            &certificate_names(options, &first.node_name),
        )?;
        let tokens = TokenFile::new(folder.join(files::TOKEN), key, TOKEN_LIFE_SECS);
        Ok(Prepared { folder, lock, state, certificate, tokens })
    }

    /// Who we are.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        self.state.identity()
    }

    /// The state file: the pool's UUID, the discovery generation.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Opens the API and serves it on threads of its own; returns when its ports accept.
    pub fn start(self, options: &ServeOptions, data: DataSide) -> Result<Control, ControlError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("control")
            .enable_all()
            .build()
            .map_err(ControlError::System)?;
        let Prepared { folder, lock, state, certificate, tokens } = self;
        let tls = certificate.server_config()?;
        let (server, cluster, service, signals) = runtime.block_on(async {
            // From here on an order to stop is an orderly stop, however soon it comes after readiness.
            let signals = Signals::catch().map_err(ControlError::System)?;
            let ambient = Ambient { now, uuid: fresh_uuid, uptime };
            let defaults = Defaults { encryption: options.encryption };
            let (cluster, service) =
                node::start(state, data.recovered, data.plane, data.notices, ambient, defaults)?;
            let server = Server::bind(ServerOptions {
                listen: options.listen.iter().map(|ip| SocketAddr::new(*ip, options.api_port)).collect(),
                tls,
                cluster: cluster.clone(),
                verifier: verifier(&cluster),
                endpoints: Endpoints {
                    advertise: options.advertise,
                    listen: options.listen.clone(),
                    nvme_port: data.nvme_port,
                    discovery_port: data.discovery_port,
                    api_port: options.api_port,
                },
                allow_test_volumes: options.allow_test_volumes,
                now,
            })?;
            Ok::<_, ControlError>((server, cluster, service, signals))
        })?;
        let addresses = server.local_addresses().map_err(ControlError::System)?;
        let mut access = Access { endpoint: Some((folder.clone(), Endpoint::of(&addresses))), tokens, now };
        // Hosts are served all the same.
        let told = access.tell();
        if let Err(why) = &told {
            tracing::warn!(
                "the command line does not find this node before there is room in its data folder: {why}"
            );
        }
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = runtime.spawn(async move {
            let renewing = tokio::spawn(access.keep(told.is_ok()));
            server
                .run(async {
                    // Both an order to stop and its sender's end mean stop.
                    let _ = stopped.await;
                })
                .await;
            renewing.abort();
        });
        Ok(Control { folder, addresses, cluster, signals, stop, serving, service, runtime, _lock: lock })
    }
}

/// The orders to stop that are caught instead of ending the process at once.
#[derive(Debug)]
struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    fn catch() -> io::Result<Signals> {
        Ok(Signals { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }
}

/// The running control side.
#[derive(Debug)]
pub struct Control {
    folder: PathBuf,
    addresses: Vec<SocketAddr>,
    cluster: Handle,
    signals: Signals,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
    service: JoinHandle<()>,
    runtime: Runtime,
    _lock: FolderLock,
}

impl Control {
    /// Where the API answers.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The cluster, for what the daemon itself wants done.
    #[must_use]
    pub fn cluster(&self) -> &Handle {
        &self.cluster
    }

    /// Waits until the process is told to end (SIGTERM or SIGINT), and says which.
    pub fn wait_for_signal(&mut self) -> &'static str {
        let Signals { term, int } = &mut self.signals;
        self.runtime.block_on(async {
            tokio::select! {
                _ = term.recv() => "SIGTERM",
                _ = int.recv() => "SIGINT",
            }
        })
    }

    /// Ends the API, lets open requests finish for a bounded time, and writes what must be remembered. The data side
    /// must still answer meanwhile. The folder's lock goes last.
    pub fn stop(self) {
        let Control { folder, cluster, stop, serving, service, runtime, _lock, .. } = self;
        Endpoint::remove(&folder);
        drop(stop);
        drop(cluster);
        let ended = runtime.block_on(async {
            tokio::time::timeout(STOP_DEADLINE, async {
                let _ = serving.await;
                let _ = service.await;
            })
            .await
        });
        if ended.is_err() {
            tracing::warn!("the control side did not end in time");
        }
        runtime.shutdown_timeout(Duration::from_secs(1));
    }
}

/// The keys that tokens are checked against.
fn verifier(cluster: &Handle) -> Verifier {
    let keys = cluster.credentials().iter();
    Verifier::new(
        keys.map(|c| (KeyId { scope: c.scope.clone(), id: c.id.clone() }, c.public_key.clone()))
            .collect::<Vec<_>>(),
    )
}

/// What the command line needs from the data folder.
struct Access {
    /// Where the API answers; `None` once the folder says so.
    endpoint: Option<(PathBuf, Endpoint)>,
    tokens: TokenFile,
    /// The time of day.
    now: fn() -> UnixMillis,
}

impl Access {
    /// Writes what is not there yet, or no longer fresh. Who finds the endpoint finds a token: it comes last.
    fn tell(&mut self) -> Result<(), dolmen_security::Error> {
        if self.tokens.renew((self.now)().0 / 1000)? {
            tracing::info!("the token file has a new token");
        }
        if let Some((folder, endpoint)) = &self.endpoint {
            endpoint.write(folder)?;
            self.endpoint = None;
        }
        Ok(())
    }

    /// Keeps it so; what could not be written, as `told` says, is tried again soon.
    async fn keep(mut self, mut told: bool) {
        loop {
            tokio::time::sleep(if told { TOKEN_PERIOD } else { TRY_AGAIN }).await;
            let telling = tokio::task::spawn_blocking(move || {
                let result = self.tell();
                (self, result)
            });
            let Ok((access, result)) = telling.await else { return };
            self = access;
            match (&result, told) {
                (Err(why), true) => tracing::error!("the token can't be renewed: {why}"),
                (Ok(()), false) => tracing::info!("the command line finds this node"),
                _ => {}
            }
            told = result.is_ok();
        }
    }
}

fn make_folder(path: &Path) -> Result<PathBuf, ControlError> {
    let fail = |source| ControlError::Folder { path: path.into(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fail)?;
    let folder = fs::canonicalize(path).map_err(fail)?;
    if !folder.is_dir() {
        return Err(fail(io::Error::from(io::ErrorKind::NotADirectory)));
    }
    Ok(folder)
}

fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "node0".into() } else { name.into() }
}

/// What the certificate is made out to; our own clients pin it and don't care.
fn certificate_names(options: &ServeOptions, host: &str) -> Vec<String> {
    let mut names = vec!["localhost".to_string(), "127.0.0.1".into(), "::1".into()];
    let dns = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if host.chars().all(dns) && host != "localhost" {
        names.push(host.into());
    }
    let loopback = |ip: &IpAddr| ip.is_loopback() || ip.is_unspecified();
    let addresses = options.listen.iter().chain(&options.advertise).filter(|ip| !loopback(ip));
    names.extend(addresses.map(ToString::to_string));
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn who_finds_the_endpoint_finds_a_token() {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::load_or_make(&folder.path().join(files::TOKEN_KEY)).unwrap();
        let token = folder.path().join(files::TOKEN);
        // A token can't be written where a folder is.
        fs::create_dir(&token).unwrap();
        let endpoint = Endpoint::of(&[SocketAddr::from(([127, 0, 0, 1], 1))]);
        let mut access = Access {
            endpoint: Some((folder.path().into(), endpoint)),
            tokens: TokenFile::new(token.clone(), key, TOKEN_LIFE_SECS),
            now,
        };
        access.tell().unwrap_err();
        assert!(Endpoint::read(folder.path()).is_none());
        fs::remove_dir(&token).unwrap();
        access.tell().unwrap();
        assert!(token.is_file() && Endpoint::read(folder.path()).is_some());
    }

    /// The time of day of the test below. Seconds.
    static CLOCK: AtomicU64 = AtomicU64::new(0);

    #[tokio::test]
    async fn a_clock_that_is_set_costs_nobody_the_token() {
        const DAY: u64 = 24 * 3600;
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::load_or_make(&folder.path().join(files::TOKEN_KEY)).unwrap();
        let verifier = Verifier::new([(KeyId::root(), key.public_key().to_vec())]);
        let token = folder.path().join(files::TOKEN);
        let tokens = TokenFile::new(token.clone(), key, TOKEN_LIFE_SECS);
        let clock = || UnixMillis(CLOCK.load(Ordering::Relaxed) * 1000);
        let mut access = Access { endpoint: None, tokens, now: clock };
        CLOCK.store(20_000 * DAY, Ordering::Relaxed);
        access.tell().unwrap();
        let keeping = tokio::spawn(access.keep(true));
        for day in [19_900, 20_300] {
            CLOCK.store(day * DAY, Ordering::Relaxed);
            let good = || verifier.verify(&fs::read_to_string(&token).unwrap(), day * DAY).is_ok();
            let mut looks = 0;
            while !good() {
                looks += 1;
                assert!(looks < 1200, "the token is not made anew");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        keeping.abort();
    }
}
