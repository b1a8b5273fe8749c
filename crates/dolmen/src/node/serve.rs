//! The life of the daemon: what is started in which order, and how it ends.
//!
//! ```text
//!   start  folder, keys → ports tried → cores → drives, cluster key, pool, recovery → volumes → targets listen → API listens → ready
//!   stop   API ends → targets drain → volumes finish, checkpoint → threads end
//! ```

use crate::{
    config::ServeOptions,
    control::{DataSide, Prepared},
    node::{
        ServeError,
        boot::{self, boot},
        cores::{Cores, Talk},
        drive_ops::{DriveOps, reprotect},
        keys::{ClusterKeys, KeySource},
        ports::Ports,
        router::{Node, Parts},
        scrubbing::Scrubbing,
        sequence::SequenceFile,
        settings::Settings,
        watch::watch,
    },
    notify::{self, Phase},
};
use dolmen_cluster::{
    plane::{self, MAX_PENDING_NOTICES, Notice, Recovered},
    state::Identity,
};
use dolmen_core::message::{FromCore, ToCore};
use dolmen_export::nbd::{Listen, ServerConfig};
use dolmen_security::{KeyFiles, PassphraseFiles};
use dolmen_target::TargetConfig;
use dolmen_types::{LineId, Nsid};
use std::{net::SocketAddr, process::ExitCode, sync::Arc};
use tokio::sync::mpsc;

/// Runs the daemon until it is told to stop.
pub fn serve(options: &ServeOptions) -> Result<ExitCode, ServeError> {
    let prepared = Prepared::open(options).map_err(ServeError::system)?;
    let ports = Ports::choose(options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("router")
        .enable_all()
        .build()
        .map_err(ServeError::system)?;
    let (from_cores, changes) = mpsc::unbounded_channel();
    let mut cores = Cores::start(options, &from_cores)?;
    drop(from_cores);
    let talk = cores.talk().clone();
    tracing::info!(cores = talk.count(), features = %cores.features, "cores started");

    let (notices, notices_in) = mpsc::channel::<Notice>(MAX_PENDING_NOTICES);
    let starting = start(options, &prepared, &talk, ports, changes, notices);
    let found = runtime.block_on(notify::while_starting(starting))?;
    let data = DataSide {
        recovered: found.recovered,
        plane: found.plane,
        notices: notices_in,
        nvme_port: ports.data,
        discovery_port: ports.discovery,
    };
    let subsystem = prepared.identity().subsystem_nqn.clone();
    let mut control = prepared.start(options, data).map_err(ServeError::system)?;
    notify::tell(Phase::Ready);
    tracing::info!(
        data_port = ports.data, discovery_port = ports.discovery, api = ?control.addresses(), %subsystem, "ready"
    );

    let signal = control.wait_for_signal();
    notify::tell(Phase::Stopping);
    tracing::info!(signal, "stopping");
    control.stop();
    let down = runtime.block_on(async {
        talk.ask_all(|answer| ToCore::Drain { answer }).await?;
        talk.ask_all(|answer| ToCore::Close { answer }).await
    });
    cores.stop();
    down?;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// What the start hands to the control side.
struct Found {
    recovered: Recovered,
    plane: plane::Plane,
}

async fn start(
    options: &ServeOptions,
    prepared: &Prepared,
    talk: &Talk,
    ports: Ports,
    changes: mpsc::UnboundedReceiver<FromCore>,
    notices: mpsc::Sender<Notice>,
) -> Result<Found, ServeError> {
    let state = prepared.state();
    let restart = boot::restart_kind(&options.data);
    let known = state.pool().map_err(ServeError::system)?;
    let keys = Arc::new(ClusterKeys::new(key_source(options)));
    let mut settings = Settings::load(&options.data).map_err(ServeError::new)?;
    let mut booted =
        boot(options, talk, known, restart, keys.clone(), &settings, prepared.identity()).await?;
    settings.know(&booted.plan, &options.data);
    reprotect(talk, booted.plan.shards, &settings).await.map_err(ServeError::system)?;
    if known.is_none() {
        if !booted.plan.created {
            tracing::warn!(
                pool = %booted.plan.pool, subsystem = %prepared.identity().subsystem_nqn,
                "a new data folder for a pool that was there: taken over, under this new subsystem NQN; hosts that knew \
                 the old one need it back: `dolmen pool recover` into a fresh data folder"
            );
        }
        state.set_pool(booted.plan.pool).map_err(ServeError::system)?;
    }
    boot::remember(&options.data);
    let mut sequence = SequenceFile::of_folder(&options.data);
    sequence.remember(booted.plan.sequence);
    let generation = state.start_discovery_generation().map_err(ServeError::system)?;
    let known = booted.volumes.iter().map(|v| &v.descriptor);
    let mut recovered = Recovered {
        highest_line: known.clone().map(|d| d.line).max().unwrap_or(LineId(0)).max(booted.highest_line),
        highest_nsid: known.clone().map(|d| d.nsid).max().unwrap_or(Nsid(0)),
        volumes: known.cloned().collect(),
        snapshots: Vec::new(),
    };
    let drives = DriveOps::new(options.data.clone(), settings, options.sparse, notices.clone());
    let scrubbing = Scrubbing::load(&options.data);
    let nbd = options.nbd.as_ref().map(|nbd| nbd.access.clone());
    let parts = Parts { keys, drives, scrubbing, allow_test_volumes: options.allow_test_volumes, nbd };
    let left = std::mem::take(&mut booted.left);
    let node = Node::start(talk.clone(), booted, parts, generation, changes);
    let stopping = || ServeError::new("a core has ended");
    let snapshots = node.snapshots().await.ok_or_else(stopping)?;
    // The line of a snapshot may be that of no volume any more.
    let lines = snapshots.iter().map(|s| s.descriptor.line).max();
    recovered.highest_line = recovered.highest_line.max(lines.unwrap_or_default());
    recovered.snapshots = snapshots.into_iter().filter(|s| s.usable).map(|s| s.descriptor).collect();
    let (plane, requests) = plane::channel();
    tokio::spawn(node.clone().serve(requests));
    listen(options, prepared.identity(), talk, ports, &node).await?;
    listen_nbd(options, talk, &node).await?;
    tokio::spawn(async move {
        node.release_at_start(left).await;
        watch(node, sequence, notices).await;
    });
    Ok(Found { recovered, plane })
}

/// Where the cluster key is.
fn key_source(options: &ServeOptions) -> KeySource {
    match (&options.cluster_passphrase_file, &options.cluster_key) {
        (Some(path), _) => KeySource::Passphrase(PassphraseFiles::at(path)),
        (None, Some(path)) => KeySource::Files(KeyFiles::at(path)),
        (None, None) => KeySource::Files(KeyFiles::of_folder(&options.data)),
    }
}

async fn listen(
    options: &ServeOptions,
    identity: &Identity,
    talk: &Talk,
    ports: Ports,
    node: &Node,
) -> Result<(), ServeError> {
    let at = |port| options.listen.iter().map(|&ip| SocketAddr::new(ip, port)).collect::<Vec<_>>();
    let names = dolmen_target::Identity {
        subsystem: identity.subsystem_nqn.clone(),
        serial: identity.serial.clone(),
        model: "Dolmen".into(),
        firmware: env!("CARGO_PKG_VERSION").into(),
    };
    let count = u16::try_from(talk.count()).map_err(ServeError::config)?;
    let table = node.table();
    for core in talk.ids() {
        let config = TargetConfig {
            core,
            cores: count,
            io_listen: at(ports.data),
            discovery_listen: at(ports.discovery),
            advertise: options.advertise,
            ..TargetConfig::new(names.clone())
        };
        let (config, table) = (Box::new(config), table.clone());
        let listening = talk.ask(core, |answer| ToCore::Listen { config, table, answer }).await?;
        listening.map_err(ServeError::new)?;
    }
    Ok(())
}

/// Opens the NBD door, if there is to be one: addresses on every core, sockets in the file system on the first.
async fn listen_nbd(options: &ServeOptions, talk: &Talk, node: &Node) -> Result<(), ServeError> {
    let (Some(nbd), Some(exports)) = (&options.nbd, node.exports()) else { return Ok(()) };
    for core in talk.ids() {
        let here = nbd.listen.iter().filter(|at| core.0 == 0 || matches!(at, Listen::Tcp(_)));
        let mut config = Box::new(ServerConfig::new(here.cloned().collect()));
        config.host = Some(nbd.access.host.clone());
        let exports = exports.clone();
        let listening = talk.ask(core, |answer| ToCore::ListenNbd { config, exports, answer }).await?;
        listening.map_err(|why| ServeError::new(format!("--nbd: {why}")))?;
    }
    let host = &nbd.access.host;
    tracing::info!(listen = ?nbd.listen, %host, "NBD clients reach the volumes that admit this host");
    Ok(())
}
