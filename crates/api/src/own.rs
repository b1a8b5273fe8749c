//! What is ours beside the management API, under `/dolmen/v1`: the node's state for the command line, and test
//! volumes.

use crate::{
    app::{App, Caller, body_bytes},
    error::ApiResult,
    fields::Fields,
    system, volumes,
    volumes::{Params, Segments},
    wire,
};
use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State},
};
use dolmen_cluster::{Error, plane::ScrubChange};
use dolmen_security::Level;
use dolmen_types::volume::VolumeKind;
use serde_json::{Value, json};
use std::sync::Arc;

/// Between two rounds of scrubbing at most. Seconds: ten years.
const MAX_EVERY_S: u64 = 10 * 365 * 24 * 3600;

/// `GET /dolmen/v1/status`: who we are and how we are, in one answer.
pub(crate) async fn status(State(app): State<Arc<App>>, caller: Caller) -> ApiResult<Json<Value>> {
    caller.cluster(Level::Viewer)?;
    let identity = app.cluster.identity();
    let (pool, volumes) = (app.cluster.pool().await?, app.cluster.volumes(None).await?);
    let (drives, hosts) = (app.cluster.drives().await?, app.cluster.hosts().await?);
    Ok(Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "clusterName": identity.cluster_name,
        "clusterUUID": identity.cluster_uuid.to_string(),
        "nodeName": identity.node_name,
        "nodeUUID": identity.node_uuid.to_string(),
        "subsystemNQN": identity.subsystem_nqn.as_str(),
        "nvmePort": app.endpoints.nvme_port,
        "discoveryPort": app.endpoints.discovery_port,
        "apiPort": app.endpoints.api_port,
        "health": system::health(&pool, &volumes),
        "pool": wire::pool(&pool),
        "drives": drives.iter().map(wire::drive).collect::<Vec<_>>(),
        "volumes": volumes.len(),
        "hosts": hosts.len(),
        "testVolumes": app.allow_test_volumes,
    })))
}

/// `GET /dolmen/v1/pool`
pub(crate) async fn pool(State(app): State<Arc<App>>, caller: Caller) -> ApiResult<Json<Value>> {
    caller.cluster(Level::Viewer)?;
    Ok(Json(wire::pool(&app.cluster.pool().await?)))
}

/// `POST /dolmen/v1/pool/scrub`: `start`, `paused`, `bytesPerSecond` (0: as the period asks for), `everySeconds` (0: only when
/// somebody says so); what is missing stays.
pub(crate) async fn scrub(
    State(app): State<Arc<App>>,
    caller: Caller,
    Query(query): Params,
    body: Body,
) -> ApiResult<Json<Value>> {
    caller.cluster(Level::Admin)?;
    let fields = Fields::parse(&body_bytes(body).await?, &query)?;
    fields.only(&["start", "paused", "bytesPerSecond", "everySeconds"])?;
    let change = ScrubChange {
        start: fields.flag("start")?.unwrap_or(false),
        paused: fields.flag("paused")?,
        bytes_per_s: fields.number("bytesPerSecond")?,
        every_s: fields.number("everySeconds")?,
    };
    if change.every_s.is_some_and(|s| s > MAX_EVERY_S) {
        return Err(Error::invalid("everySeconds", format!("at most {MAX_EVERY_S}")).into());
    }
    Ok(Json(wire::scrub(&app.cluster.scrub(change).await?)))
}

/// `GET /dolmen/v1/hosts`
pub(crate) async fn hosts(State(app): State<Arc<App>>, caller: Caller) -> ApiResult<Json<Value>> {
    caller.cluster(Level::Viewer)?;
    let hosts = app.cluster.hosts().await?;
    Ok(Json(json!({ "hosts": hosts.iter().map(wire::own_host).collect::<Vec<_>>() })))
}

/// `GET /dolmen/v1/key`: the cluster key, by name alone.
pub(crate) async fn key(State(app): State<Arc<App>>, caller: Caller) -> ApiResult<Json<Value>> {
    caller.cluster(Level::Viewer)?;
    Ok(Json(wire::key(&app.cluster.keys().await?)))
}

/// `POST /dolmen/v1/key/rotate`: another cluster key takes its place.
pub(crate) async fn rotate_key(State(app): State<Arc<App>>, caller: Caller) -> ApiResult<Json<Value>> {
    caller.cluster(Level::Admin)?;
    Ok(Json(wire::key(&app.cluster.rotate_keys().await?)))
}

/// `GET /dolmen/v1/volumes`: as `/api/v2/volumes`, with `kind`.
pub(crate) async fn volumes(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
    Query(query): Params,
) -> ApiResult<Json<Value>> {
    let fields = Fields::parse(b"", &query)?;
    let reports = volumes::listed(&app, &caller, &path, &fields).await?;
    let all: Vec<Value> = reports.iter().map(|report| wire::own_volume(&app.cluster, report)).collect();
    Ok(Json(json!({ "volumes": all })))
}

/// `GET /dolmen/v1/volumes/{UUID}` and `GET /dolmen/v1/volumes/?name=N`
pub(crate) async fn volume(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
    Query(query): Params,
) -> ApiResult<Json<Value>> {
    let fields = Fields::parse(b"", &query)?;
    let report = volumes::found(&app, &caller, &path, &fields).await?;
    Ok(Json(wire::own_volume(&app.cluster, &report)))
}

/// What there is to say of a new volume.
const VOLUME_FIELDS: [&str; 17] = [
    "name",
    "projectName",
    "size",
    "acl",
    "IPAcl",
    "labels",
    "sectorSize",
    "compression",
    "encryption",
    "kind",
    "qosPolicyName",
    "qosPolicyUUID",
    "sourceSnapshotName",
    "sourceSnapshotUUID",
    "replicaCount",
    "minReplicas",
    "placementRestrictions",
];

/// `POST /dolmen/v1/volumes`: as `/api/v2/volumes`, with `kind`.
pub(crate) async fn create_volume(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
    Query(query): Params,
    body: Body,
) -> ApiResult<Json<Value>> {
    let fields = Fields::parse(&body_bytes(body).await?, &query)?;
    fields.only(&VOLUME_FIELDS)?;
    let kind = match fields.nonempty("kind")?.as_deref() {
        None | Some("durable") => VolumeKind::Durable,
        Some("null") => VolumeKind::Null,
        Some("memory") => VolumeKind::Memory,
        Some(other) => {
            return Err(Error::invalid("kind", format!("'{other}': durable, null or memory")).into());
        }
    };
    if kind != VolumeKind::Durable && !app.allow_test_volumes {
        let why = "test volumes are not allowed here; start the daemon with --allow-test-volumes";
        return Err(Error::invalid("kind", why).into());
    }
    let report = volumes::create_from(&app, &caller, &path, &fields, kind).await?;
    Ok(Json(wire::own_volume(&app.cluster, &report)))
}
