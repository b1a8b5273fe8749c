//! Live figures under `/dolmen/v1`: where a volume's time goes, and counters for those who make rates of them.

use crate::{
    app::{App, Caller},
    error::ApiResult,
    fields::Fields,
    volumes::{self, Params, Segments},
};
use axum::{
    Json,
    extract::{Path, Query, State},
};
use dolmen_cluster::{
    model::Life,
    plane::{ConnectionMetrics, CoreMetrics, DriveMetrics, IoMetrics, IoTotals, VolumeMetrics},
    trace::{CommandTrace, TraceKind, TraceStage},
    why::{self, Context, KindReport, StageShare, Why},
};
use dolmen_security::Level;
use dolmen_types::volume::VolumeDescriptor;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

/// `GET /dolmen/v1/volumes/{UUID}/why` and `GET /dolmen/v1/volumes//why?name=N`
pub(crate) async fn why(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(path): Segments,
    Query(query): Params,
) -> ApiResult<Json<Value>> {
    let fields = Fields::parse(b"", &query)?;
    let report = volumes::found(&app, &caller, &path, &fields).await?;
    let volume = &report.view.descriptor;
    let traces = app.cluster.traces(volume.uuid).await?;
    let policy = volume.qos.as_ref().map(|qos| qos.name.as_str());
    Ok(Json(explained(&why::look(&traces, Context { policy }), volume)))
}

fn explained(why: &Why, volume: &VolumeDescriptor) -> Value {
    let policy = volume.qos.as_ref().map(|qos| qos.name.clone());
    json!({
        "UUID": volume.uuid.to_string(),
        "name": volume.name,
        "projectName": volume.project,
        "qosPolicyName": policy,
        "spanSeconds": why.span_s,
        "commandsPerSecond": why.per_second,
        "inHand": why.in_hand,
        "hostDepth": why.depth,
        "kinds": why.kinds.iter().map(kind).collect::<Vec<_>>(),
        "slowest": why.slowest.iter().map(|trace| command(trace, volume.sector.bytes())).collect::<Vec<_>>(),
        "verdicts": why.verdicts,
    })
}

fn kind(report: &KindReport) -> Value {
    json!({
        "kind": report.name,
        "sampled": report.sampled,
        "failed": report.failed,
        "waiting": report.waiting,
        "stages": report.stages.iter().map(|s| stage(s, s.stage.name(), s.stage.meaning())).collect::<Vec<_>>(),
        "total": stage(&report.total, "total", "from socket to socket"),
        "slowestDrive": report.drive.as_ref().map(|(path, share)| json!({"path": path, "share": share})),
    })
}

fn stage(share: &StageShare, name: &str, meaning: &str) -> Value {
    json!({
        "stage": name,
        "meaning": meaning,
        "share": share.share,
        "p50Nanoseconds": share.p50_ns,
        "p99Nanoseconds": share.p99_ns,
        "maxNanoseconds": share.max_ns,
    })
}

fn command(trace: &CommandTrace, sector_bytes: u32) -> Value {
    let (kind, opcode) = match trace.kind {
        TraceKind::Read => ("read", 2),
        TraceKind::Write => ("write", 1),
        TraceKind::Other(opcode) => ("other", opcode),
    };
    let stages = TraceStage::ALL.into_iter().filter(|stage| trace.stages[*stage as usize] > 0);
    json!({
        "kind": kind,
        "opcode": opcode,
        "failed": trace.failed,
        "lba": trace.lba,
        "bytes": u64::from(trace.blocks) * u64::from(sector_bytes),
        "ageNanoseconds": trace.age_ns,
        "totalNanoseconds": trace.total_ns(),
        "host": trace.host.as_ref().map(ToString::to_string),
        "core": trace.core.0,
        "drive": trace.drive,
        "stages": stages.map(|s| json!({"stage": s.name(), "nanoseconds": trace.stages[s as usize]})).collect::<Vec<_>>(),
    })
}

/// `GET /dolmen/v1/stats`: counters since the start, for rates between two calls.
pub(crate) async fn stats(State(app): State<Arc<App>>, caller: Caller) -> ApiResult<Json<Value>> {
    caller.cluster(Level::Viewer)?;
    let (snapshot, volumes) = (app.cluster.metrics().await?, app.cluster.volumes(None).await?);
    let names: BTreeMap<_, _> = volumes
        .iter()
        .filter(|v| v.view.life != Life::Deleting)
        .map(|v| (v.view.descriptor.uuid, &v.view.descriptor))
        .collect();
    let volumes: Vec<Value> =
        snapshot.volumes.iter().filter_map(|m| Some(volume(m, names.get(&m.uuid)?))).collect();
    Ok(Json(json!({
        "time": (app.now)().0,
        "nodeName": app.cluster.identity().node_name,
        "cores": snapshot.cores.iter().map(core).collect::<Vec<_>>(),
        "volumes": volumes,
        "drives": snapshot.drives.iter().map(drive).collect::<Vec<_>>(),
        "connections": snapshot.connections.iter().map(connection).collect::<Vec<_>>(),
    })))
}

fn core(m: &CoreMetrics) -> Value {
    json!({
        "core": m.core.0,
        "commands": m.commands,
        "turns": m.turns,
        "sleeps": m.sleeps,
        "busyNanoseconds": m.busy_ns,
        "idleNanoseconds": m.idle_ns,
        "connections": m.connections,
        "messages": m.messages,
        "buffersUsed": m.buffers_used,
        "buffersTotal": m.buffers_total,
    })
}

fn volume(m: &VolumeMetrics, descriptor: &VolumeDescriptor) -> Value {
    json!({
        "UUID": m.uuid.to_string(),
        "name": descriptor.name,
        "projectName": descriptor.project,
        "reads": totals(&m.reads),
        "writes": totals(&m.writes),
        "others": m.others,
        "failed": m.failed,
        "waited": m.waited,
        "throttled": m.throttled,
        "throttledNanoseconds": m.throttled_ns,
    })
}

fn totals(io: &IoTotals) -> Value {
    json!({"operations": io.operations, "bytes": io.bytes, "nanoseconds": io.time_ns, "latency": io.latency})
}

fn drive(m: &DriveMetrics) -> Value {
    json!({
        "path": m.path,
        "UUID": m.uuid.to_string(),
        "healthy": m.healthy,
        "reads": io(&m.reads),
        "writes": io(&m.writes),
        "flushes": io(&m.flushes),
        "inflight": m.inflight,
    })
}

fn io(io: &IoMetrics) -> Value {
    json!({"operations": io.operations, "bytes": io.bytes, "errors": io.errors, "nanoseconds": io.time_ns})
}

fn connection(m: &ConnectionMetrics) -> Value {
    json!({
        "peer": m.peer.to_string(),
        "host": m.host,
        "controller": m.cntlid,
        "queue": m.qid,
        "core": m.core.0,
        "commands": m.commands,
        "receivedBytes": m.received_bytes,
        "sentBytes": m.sent_bytes,
        "inflight": m.inflight,
    })
}
