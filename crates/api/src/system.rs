//! The cluster's own objects: version, cluster, nodes, connected hosts, drives, projects.

use crate::{
    API_VERSION,
    app::{App, Caller, LocalAddress},
    error::{ApiError, ApiResult},
    volumes::{Params, Segments, check_project_exists},
    wire,
};
use axum::{
    Json,
    extract::{Path, Query, State},
};
use dolmen_cluster::{
    Kind,
    model::Life,
    node::VolumeReport,
    plane::{PoolState, PoolStatus, Protection},
    volume::DEFAULT_PROJECT,
};
use dolmen_security::Level;
use serde_json::{Value, json};
use std::{net::SocketAddr, sync::Arc};

/// `GET /version`
pub(crate) async fn version(_: Caller) -> Json<Value> {
    Json(json!({ "apiVersion": API_VERSION }))
}

fn at(app: &App, local: LocalAddress, port: u16) -> Vec<String> {
    let addresses = app.endpoints.addresses(local.0.ip());
    addresses.into_iter().map(|ip| SocketAddr::new(ip, port).to_string()).collect()
}

/// What `clusterinfo` and `cluster` have in common.
fn cluster_base(app: &App, local: LocalAddress) -> Value {
    let identity = app.cluster.identity();
    json!({
        "UUID": identity.cluster_uuid.to_string(),
        "subsystemNQN": identity.subsystem_nqn.as_str(),
        "currentMaxReplicas": 1,
        "supportedMaxReplicas": 1,
        "ETag": "1",
        "apiEndpoints": at(app, local, app.endpoints.api_port),
        "discoveryEndpoints": at(app, local, app.endpoints.discovery_port),
        "clusterName": identity.cluster_name,
        "inBandAuthMode": "Disabled",
        "encryptionStatus": {"encryptionState": "Enabled", "rotationState": "NoRotation"},
    })
}

/// `GET /clusterinfo`; for tenants too.
pub(crate) async fn cluster_info(State(app): State<Arc<App>>, _: Caller, local: LocalAddress) -> Json<Value> {
    let mut value = cluster_base(&app, local);
    value["nvmeEndpoints"] = at(&app, local, app.endpoints.nvme_port).into();
    Json(value)
}

/// `GET /cluster`
pub(crate) async fn cluster(
    State(app): State<Arc<App>>,
    caller: Caller,
    local: LocalAddress,
) -> ApiResult<Json<Value>> {
    caller.cluster(Level::Viewer)?;
    let (pool, volumes) = (app.cluster.pool().await?, app.cluster.volumes(None).await?);
    let mut value = cluster_base(&app, local);
    if app.cluster.keys().await?.stale > 0 {
        value["encryptionStatus"]["rotationState"] = "EncryptingDEKs".into();
    }
    let version = env!("CARGO_PKG_VERSION");
    value["statistics"] = wire::cluster_statistics(&pool, logical_bytes(&volumes));
    value["health"] = health(&pool, &volumes);
    value["MinVersionInCluster"] = version.into();
    value["MinAllowedVersion"] = version.into();
    value["MaxAllowedVersion"] = version.into();
    Ok(Json(value))
}

/// Size of all volumes together, those in `Deleting` aside. Bytes.
fn logical_bytes(volumes: &[VolumeReport]) -> u64 {
    let live = volumes.iter().filter(|v| v.view.life != Life::Deleting);
    live.fold(0, |sum, v| sum.saturating_add(v.view.descriptor.size_bytes))
}

/// `ClusterHealth`: Error when a volume can't be written or has lost data, Warning when one is not fully protected.
pub(crate) fn health(pool: &PoolStatus, volumes: &[VolumeReport]) -> Value {
    let live = || volumes.iter().filter(|v| v.view.life != Life::Deleting);
    let count = |state| live().filter(|v| v.protection == Some(state)).count();
    let (degraded, read_only) = (count(Protection::Degraded), count(Protection::ReadOnly));
    let unavailable = count(Protection::NotAvailable);
    let lost = !pool.lost.is_empty();
    let state = if matches!(pool.state, PoolState::Stopped(_)) || read_only + unavailable > 0 || lost {
        "Error"
    } else if degraded > 0 || pool.state == PoolState::Full {
        "Warning"
    } else {
        "OK"
    };
    json!({
        "state": state,
        "numDegradedVolumes": degraded,
        "numReadOnlyVolumes": read_only,
        "numNotAvailableVolumes": unavailable,
        "numInactiveNodes": 0,
        "numHealthyVolumes": count(Protection::FullyProtected),
    })
}

async fn node_value(app: &App, local: LocalAddress) -> ApiResult<Value> {
    let identity = app.cluster.identity();
    let (pool, volumes) = (app.cluster.pool().await?, app.cluster.volumes(None).await?);
    let drives = app.cluster.drives().await?;
    let again = pool.reprotection;
    let rebuilds = again.at_risk_segments > 0 && !again.paused;
    let endpoint = at(app, local, app.endpoints.nvme_port).into_iter().next().unwrap_or_default();
    Ok(json!({
        "name": identity.node_name,
        "UUID": identity.node_uuid.to_string(),
        "state": "Active",
        "status": "ConnectivityOK",
        "nvmeEndpoint": endpoint,
        "failureDomains": [identity.node_name],
        "failureInfo": "",
        "hostname": identity.node_name,
        "inLocalRebuild": rebuilds,
        "localRebuildProgress": if rebuilds { percent(again.progress()) } else { 0 },
        "numManagedDevices": drives.len(),
        "maxNvmeDevices": drives.len(),
        "ec": false,
        "statistics": wire::node_statistics(&pool, logical_bytes(&volumes)),
        "serverUUID": identity.server_uuid.to_string(),
        "ETag": "1",
        "readOnly": pool.state != PoolState::Ready,
        "powerupProgress": 100,
        "permanentFailure": false,
    }))
}

/// A part of 1 in whole hundredths.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Within 0 and 100.
fn percent(part: Option<f64>) -> u32 {
    part.map_or(0, |part| (part.clamp(0.0, 1.0) * 100.0) as u32)
}

/// `GET /nodes`; for tenants too. Filters: name, UUID, failureDomain.
pub(crate) async fn nodes(
    State(app): State<Arc<App>>,
    _: Caller,
    local: LocalAddress,
    Query(query): Params,
) -> ApiResult<Json<Value>> {
    let identity = app.cluster.identity();
    let uuid = identity.node_uuid.to_string();
    let wants =
        |key: &str, ours: &str| query.get(key).is_none_or(|v| v.is_empty() || v.eq_ignore_ascii_case(ours));
    let ours = wants("name", &identity.node_name)
        && wants("UUID", &uuid)
        && wants("failureDomain", &identity.node_name);
    let nodes = if ours { vec![node_value(&app, local).await?] } else { Vec::new() };
    Ok(Json(json!({ "nodes": nodes })))
}

/// `GET /nodes/{UUID}`
pub(crate) async fn node(
    State(app): State<Arc<App>>,
    _: Caller,
    local: LocalAddress,
    Path(path): Segments,
) -> ApiResult<Json<Value>> {
    let asked = path.get("uuid").map(String::as_str).unwrap_or_default();
    if asked.eq_ignore_ascii_case(&app.cluster.identity().node_uuid.to_string()) {
        return Ok(Json(node_value(&app, local).await?));
    }
    Err(ApiError::new(Kind::NotFound, format!("node {asked} does not exist")))
}

/// `GET /connectedHosts`. Filters: hostNQN, volumeUUID.
pub(crate) async fn hosts(
    State(app): State<Arc<App>>,
    caller: Caller,
    Query(query): Params,
) -> ApiResult<Json<Value>> {
    caller.cluster(Level::Viewer)?;
    let given = |key: &str| query.get(key).filter(|text| !text.is_empty());
    let (nqn, volume) = (given("hostNQN"), given("volumeUUID"));
    let hosts = app.cluster.hosts().await?;
    let selected = hosts.iter().filter(|host| {
        nqn.is_none_or(|nqn| host.nqn.as_str() == nqn)
            && volume.is_none_or(|v| host.volumes.iter().any(|uuid| uuid.to_string().eq_ignore_ascii_case(v)))
    });
    Ok(Json(json!({ "connectedHosts": selected.map(wire::host).collect::<Vec<_>>() })))
}

/// `GET /connectedHosts/{hostNQN}`; the NQN's colons may be escaped or not.
pub(crate) async fn host(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
) -> ApiResult<Json<Value>> {
    caller.cluster(Level::Viewer)?;
    let nqn = path.get("nqn").map(String::as_str).unwrap_or_default();
    let hosts = app.cluster.hosts().await?;
    match hosts.iter().find(|host| host.nqn.as_str() == nqn) {
        Some(host) => Ok(Json(wire::host(host))),
        None => Err(ApiError::new(Kind::NotFound, format!("host '{nqn}' is not connected"))),
    }
}

/// `GET /nvmeDevices`. Filters: nodeUUID, serverUUID.
pub(crate) async fn devices(
    State(app): State<Arc<App>>,
    caller: Caller,
    Query(query): Params,
) -> ApiResult<Json<Value>> {
    caller.cluster(Level::Viewer)?;
    let identity = app.cluster.identity();
    let wants = |key: &str, ours: String| query.get(key).is_none_or(|v| v.is_empty() || *v == ours);
    let ours = wants("nodeUUID", identity.node_uuid.to_string())
        && wants("serverUUID", identity.server_uuid.to_string());
    let drives = if ours { app.cluster.drives().await? } else { Vec::new() };
    let devices: Vec<Value> = drives.iter().map(|drive| wire::device(&app.cluster, drive)).collect();
    Ok(Json(json!({ "NvmeDevices": devices })))
}

/// `GET /nvmeDevices/{Serial}`
pub(crate) async fn device(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
) -> ApiResult<Json<Value>> {
    caller.cluster(Level::Viewer)?;
    let serial = path.get("serial").map(String::as_str).unwrap_or_default();
    let drives = app.cluster.drives().await?;
    match drives.iter().find(|drive| wire::device_serial(drive) == serial) {
        Some(drive) => Ok(Json(wire::device(&app.cluster, drive))),
        None => Err(ApiError::new(Kind::NotFound, format!("drive '{serial}' does not exist"))),
    }
}

fn default_project(app: &App) -> Value {
    // The project is as old as the cluster and has no life of its own: it shares the cluster's UUID.
    let uuid = app.cluster.identity().cluster_uuid.to_string();
    json!({"UUID": uuid, "name": DEFAULT_PROJECT, "description": "", "defaultPolicies": []})
}

/// `GET /projects`
pub(crate) async fn projects(State(app): State<Arc<App>>, caller: Caller) -> Json<Value> {
    let all = if caller.sees(DEFAULT_PROJECT) { vec![default_project(&app)] } else { Vec::new() };
    Json(json!({ "projects": all }))
}

/// `GET /projects/{name}`
pub(crate) async fn project(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
) -> ApiResult<Json<Value>> {
    let name = path.get("project").map(String::as_str).unwrap_or_default();
    caller.project(name, Level::Viewer)?;
    check_project_exists(name)?;
    Ok(Json(default_project(&app)))
}
