//! The life of the daemon: what is started in which order, and how it ends.
//!
//! ```text
//!   start  folder lock → state file → cores → drives, pool, recovery → volumes → targets listen → API listens → ready
//!   stop   API ends → targets drain → volumes finish, checkpoint → threads end
//! ```

use crate::{
    config::{LogFormat, LogLevel, ServeOptions},
    folder::{Endpoint, Folder},
    node::{
        ServeError,
        boot::boot,
        cores::Cores,
        message::ToCore,
        notify,
        router::Node,
    },
};
use dolmen_api::{Endpoints, Server, ServerOptions};
use dolmen_cluster::{
    lock::FolderLock,
    node::{Ambient, Handle},
    plane::{self, MAX_PENDING_NOTICES, Recovered},
    state::{Credential, FirstStart, Identity, State},
};
use dolmen_security::{Certificate, KeyId, SigningKey, TOKEN_LIFE_SECS, TokenFile, Verifier, fresh_uuid};
use dolmen_target::TargetConfig;
use dolmen_types::{LineId, Nsid, UnixMillis, Uuid};
use dolmen_volume::Restart;
use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
};

/// How often the token is looked at.
const TOKEN_CHECK: Duration = Duration::from_secs(3600);

/// Threads of the control side.
const CONTROL_THREADS: usize = 2;

/// Runs the daemon until it is told to stop.
pub fn serve(options: ServeOptions) -> Result<ExitCode, ServeError> {
    log_to_stderr(options.log_level, options.log_format);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(ServeError::system)?;
    runtime.block_on(run(options))
}

async fn run(options: ServeOptions) -> Result<ExitCode, ServeError> {
    let mut stop = stop_signals()?;
    dolmen_security::install_crypto();
    let folder = Folder::make(&options.data).map_err(ServeError::system)?;
    let _lock = FolderLock::take(folder.path()).map_err(ServeError::system)?;
    folder.forget_endpoint();
    let state = State::open(folder.path(), &first_start(&options)).map_err(ServeError::system)?;
    let ports = Ports::choose(&options)?;

    let (from_cores, changes) = mpsc::unbounded_channel();
    let mut cores = Cores::start(&options, &from_cores)?;
    drop(from_cores);
    tracing::info!(cores = cores.count(), features = %cores.features, "cores started");
    let started = tokio::select! {
        started = start(&options, &folder, state, &cores, ports, changes) => started,
        name = &mut stop => {
            tracing::info!(signal = name.unwrap_or_default(), "told to stop while starting");
            cores.stop();
            return Ok(ExitCode::SUCCESS);
        }
    }?;

    notify::ready();
    tracing::info!(
        data_port = ports.data, discovery_port = ports.discovery, api_port = started.api_port,
        subsystem = %started.subsystem, "ready"
    );
    let reason = stop.await.unwrap_or_default();
    notify::stopping();
    tracing::info!(signal = reason, "stopping");
    folder.forget_endpoint();
    drop(started.stop_api.send(()));
    drop(started.api.await);
    // What is left of the start holds the cores: none of it asks for anything any more.
    drop(cores.ask_all(|answer| ToCore::Drain { answer }).await);
    drop(cores.ask_all(|answer| ToCore::Close { answer }).await);
    cores.stop();
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// The running control side.
struct Started {
    api: tokio::task::JoinHandle<()>,
    stop_api: oneshot::Sender<()>,
    api_port: u16,
    subsystem: String,
}

async fn start(
    options: &ServeOptions,
    folder: &Folder,
    state: State,
    cores: &Cores,
    ports: Ports,
    changes: mpsc::UnboundedReceiver<super::message::FromCore>,
) -> Result<Started, ServeError> {
    let key = SigningKey::load_or_make(&folder.signing_key()).map_err(ServeError::system)?;
    let root = KeyId::root();
    let credential = Credential {
        scope: root.scope_text().into(),
        id: root.id_text().into(),
        public_key: key.public_key().to_vec(),
    };
    state.put_credential(&credential).map_err(ServeError::system)?;
    let restart = folder.restart_kind();
    let known = state.pool().map_err(ServeError::system)?;
    let booted = boot(options, cores, known, restart, fresh_seed()).await?;
    if known.is_none() {
        if !booted.plan.created {
            tracing::warn!(pool = %booted.plan.pool, "this data folder is new, its drives hold a pool: taken over");
        }
        state.set_pool(booted.plan.pool).map_err(ServeError::system)?;
    }
    folder.remember_boot();

    let generation = state.start_discovery_generation().map_err(ServeError::system)?;
    let identity = state.identity().clone();
    let recovered = Recovered {
        highest_line: booted.volumes.iter().map(|v| v.descriptor.line).max().unwrap_or(LineId(0)),
        highest_nsid: booted.volumes.iter().map(|v| v.descriptor.nsid).max().unwrap_or(Nsid(0)),
        volumes: booted.volumes.iter().map(|v| v.descriptor.clone()).collect(),
    };
    let node = Node::start(cores.talk(), booted, generation, options.allow_test_volumes, changes);
    let (plane, requests) = plane::channel();
    tokio::spawn(node.clone().serve(requests));
    listen(options, &identity, cores, ports, &node).await?;

    // The data plane tells nothing by itself yet but through its reports; the sender lives as long as the node.
    let (notices, notices_in) = mpsc::channel(MAX_PENDING_NOTICES);
    let ambient = Ambient { now: wall, uuid: fresh_uuid };
    let (handle, _service) = dolmen_cluster::node::start(state, recovered, plane, notices_in, ambient)
        .map_err(ServeError::system)?;
    let (api, api_port) = bind_api(options, folder, &identity, handle, ports).await?;
    let token = TokenFile::new(folder.token(), key, TOKEN_LIFE_SECS);
    token.renew(wall().0 / 1000).map_err(ServeError::system)?;
    folder.tell_endpoint(&Endpoint::new(&options.listen, api_port)).map_err(ServeError::system)?;
    tokio::spawn(async move {
        let _notices = notices;
        loop {
            tokio::time::sleep(TOKEN_CHECK).await;
            if let Err(error) = token.renew(wall().0 / 1000) {
                tracing::error!(%error, "the API token can't be renewed");
            }
        }
    });
    let (stop_api, stopped) = oneshot::channel::<()>();
    let api = tokio::spawn(api.run(async move { drop(stopped.await) }));
    Ok(Started { api, stop_api, api_port, subsystem: identity.subsystem_nqn.to_string() })
}

async fn listen(
    options: &ServeOptions,
    identity: &Identity,
    cores: &Cores,
    ports: Ports,
    node: &Node,
) -> Result<(), ServeError> {
    let at = |port| options.listen.iter().map(move |&ip| SocketAddr::new(ip, port)).collect::<Vec<_>>();
    let names = dolmen_target::Identity {
        subsystem: identity.subsystem_nqn.clone(),
        serial: identity.serial.clone(),
        model: "Dolmen".into(),
        firmware: env!("CARGO_PKG_VERSION").into(),
    };
    let count = u16::try_from(cores.count()).map_err(ServeError::config)?;
    let table = node.table();
    for core in cores.ids() {
        let config = TargetConfig {
            core,
            cores: count,
            io_listen: at(ports.data),
            discovery_listen: at(ports.discovery),
            advertise: options.advertise,
            ..TargetConfig::new(names.clone())
        };
        let (config, table) = (Box::new(config), table.clone());
        let listening = cores.ask(core, |answer| ToCore::Listen { config, table, answer }).await?;
        listening.map_err(ServeError::new)?;
    }
    Ok(())
}

async fn bind_api(
    options: &ServeOptions,
    folder: &Folder,
    identity: &Identity,
    cluster: Handle,
    ports: Ports,
) -> Result<(Server, u16), ServeError> {
    let mut names = vec!["localhost".to_string(), identity.node_name.clone()];
    names.extend(options.advertise.iter().chain(&options.listen).filter(|ip| !ip.is_unspecified()).map(IpAddr::to_string));
    let certificate = Certificate::load_or_make(&folder.certificate(), &folder.certificate_key(), &names)
        .map_err(ServeError::system)?;
    let keys = cluster.credentials().iter().map(|c| (KeyId::of(&c.scope, &c.id), c.public_key.clone()));
    let verifier = Verifier::new(keys.collect::<Vec<_>>());
    let endpoints = Endpoints {
        advertise: options.advertise,
        listen: options.listen.clone(),
        nvme_port: ports.data,
        discovery_port: ports.discovery,
        api_port: options.api_port,
    };
    let server = Server::bind(ServerOptions {
        listen: options.listen.iter().map(|&ip| SocketAddr::new(ip, options.api_port)).collect(),
        tls: certificate.server_config().map_err(ServeError::system)?,
        cluster,
        verifier,
        endpoints,
        allow_test_volumes: options.allow_test_volumes,
        now: wall,
    });
    let server = server.await.map_err(ServeError::system)?;
    let port = server.local_addresses().map_err(ServeError::system)?.first().map_or(0, SocketAddr::port);
    Ok((server, port))
}

/// The NVMe/TCP ports in force.
#[derive(Clone, Copy, Debug)]
struct Ports {
    data: u16,
    discovery: u16,
}

impl Ports {
    /// The ports asked for; free ones for 0, the same for every core and address.
    fn choose(options: &ServeOptions) -> Result<Ports, ServeError> {
        let choose = |port: u16| -> Result<u16, ServeError> {
            if port != 0 {
                return Ok(port);
            }
            let ip = options.listen.first().copied().ok_or_else(|| ServeError::new("no address to listen on"))?;
            let probe = TcpListener::bind(SocketAddr::new(ip, 0)).map_err(ServeError::system)?;
            Ok(probe.local_addr().map_err(ServeError::system)?.port())
        };
        Ok(Ports { data: choose(options.port)?, discovery: choose(options.discovery_port)? })
    }
}

fn first_start(options: &ServeOptions) -> FirstStart {
    let node_name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let node_name = match node_name.trim() {
        "" => "node".to_string(),
        name => name.to_string(),
    };
    FirstStart {
        cluster_name: options.cluster_name.clone(),
        node_name,
        subsystem_nqn: options.subsystem_nqn.clone(),
        uuids: [fresh_uuid(), fresh_uuid(), fresh_uuid()],
    }
}

fn fresh_seed() -> [u8; 32] {
    let mut seed = [0; 32];
    seed[..16].copy_from_slice(&fresh_uuid().0);
    seed[16..].copy_from_slice(&fresh_uuid().0);
    seed
}

fn wall() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn log_to_stderr(level: LogLevel, format: LogFormat) {
    let level = match level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    };
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(level).with_target(false);
    // A subscriber that is there already is a test's, and stays.
    match format {
        LogFormat::Text => drop(builder.with_ansi(false).try_init()),
        LogFormat::Json => drop(builder.json().try_init()),
    }
}

/// Completes with the name of the first signal that asks us to stop.
fn stop_signals() -> Result<oneshot::Receiver<&'static str>, ServeError> {
    let mut term = signal(SignalKind::terminate()).map_err(ServeError::system)?;
    let mut int = signal(SignalKind::interrupt()).map_err(ServeError::system)?;
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = term.recv() => "SIGTERM",
            _ = int.recv() => "SIGINT",
        };
        drop(sender.send(name));
        // A second one means: now.
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        tracing::warn!("told to stop twice: ending at once; the next start recovers");
        std::process::exit(1);
    });
    Ok(receiver)
}
