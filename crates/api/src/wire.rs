//! Objects as the management API spells them: 64-bit numbers as texts, 32-bit ones as numbers, every scalar present.

use dolmen_cluster::{
    event::{Component, Event, Severity},
    model::{Life, SnapshotView},
    node::{Handle, VolumeReport},
    plane::{
        DriveLocation, DriveState, DriveStatus, HostStatus, KeyOrigin, KeyStatus, LostBlocks, LostObject,
        PoolState, PoolStatus, Protection, Reprotection, ScrubStatus,
    },
    qos,
};
use dolmen_types::{
    UnixMillis,
    volume::{HostAccess, IpAccess, VolumeKind},
};
use serde_json::{Value, json};

/// Characters of a date (2026-01-31).
const DATE_LEN: usize = 10;

/// RFC 3339 in UTC, to the millisecond.
pub(crate) fn timestamp(at: UnixMillis) -> String {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis).map_or_else(|_| String::new(), |t| format!("{t:.3}"))
}

/// Reads RFC 3339, or ISO 8601 with an offset; a date alone is its first moment in UTC.
pub(crate) fn parse_timestamp(text: &str) -> Option<UnixMillis> {
    let day = |text: &str| Some(text.parse::<jiff::civil::Date>().ok()?.at(0, 0, 0, 0));
    let text = text.trim();
    let at: jiff::Timestamp = match text.len() {
        DATE_LEN => jiff::tz::TimeZone::UTC.to_timestamp(day(text)?).ok()?,
        _ => text.parse().ok()?,
    };
    u64::try_from(at.as_millisecond()).ok().map(UnixMillis)
}

fn acl(list: &HostAccess) -> Value {
    let values = match list {
        HostAccess::None => vec!["ALLOW_NONE".to_string()],
        HostAccess::Any => vec!["ALLOW_ANY".to_string()],
        HostAccess::Hosts(hosts) => hosts.iter().map(ToString::to_string).collect(),
    };
    json!({ "values": values })
}

fn ip_acl(list: &IpAccess) -> Value {
    let values = match list {
        IpAccess::None => vec!["ALLOW_NONE".to_string()],
        IpAccess::Any => vec!["ALLOW_ANY".to_string()],
        IpAccess::Addresses(all) => all.iter().map(ToString::to_string).collect(),
    };
    json!({ "values": values })
}

fn life(life: Life) -> &'static str {
    match life {
        Life::Creating => "Creating",
        Life::Available => "Available",
        Life::Updating => "Updating",
        Life::Rollback => "Rollback",
        Life::Deleting => "Deleting",
    }
}

fn protection(state: Option<Protection>) -> &'static str {
    match state {
        None => "Unknown",
        Some(Protection::FullyProtected) => "FullyProtected",
        Some(Protection::Degraded) => "Degraded",
        Some(Protection::ReadOnly) => "ReadOnly",
        Some(Protection::NotAvailable) => "NotAvailable",
    }
}

/// `Volume`.
pub(crate) fn volume(cluster: &Handle, report: &VolumeReport) -> Value {
    let d = &report.view.descriptor;
    let node = cluster.identity().node_uuid.to_string();
    let labels: Vec<Value> = d.labels.iter().map(|(k, v)| json!({"key": k, "value": v})).collect();
    let hosts: Vec<String> = report.connected_hosts.iter().map(ToString::to_string).collect();
    let (qos_uuid, qos_name) = match &d.qos {
        Some(qos) => (qos.policy.to_string(), qos.name.clone()),
        None => (qos::no_limit_uuid().to_string(), qos::NO_LIMIT.into()),
    };
    let source = d.source.as_ref();
    let source_uuid = source.map_or_else(String::new, |s| s.snapshot.to_string());
    let source_name = source.map_or_else(String::new, |s| s.name.clone());
    let (mapped, stored) = (report.usage.mapped_bytes.to_string(), report.usage.stored_bytes.to_string());
    let ratio = report.usage.compression.ratio();
    json!({
        "state": life(report.view.life),
        "protectionState": protection(report.protection),
        "replicaCount": 1,
        "nodeList": [node],
        "UUID": d.uuid.to_string(),
        "nsid": d.nsid.0,
        "acl": acl(&d.acl),
        "compression": if d.compression { "true" } else { "false" },
        "size": d.size_bytes.to_string(),
        "name": d.name,
        "rebuildProgress": "None",
        "statistics": {
            "logicalUsedStorage": mapped, "physicalUsedStorage": stored,
            "compressionRatio": ratio, "totalCompressionRatio": ratio,
            "physicalCapacity": stored, "physicalOwnedCapacity": report.usage.owned_bytes.to_string(),
            "physicalOwnedMemory": "0", "physicalMemory": "0", "userWritten": mapped,
            "unrecoverableDataIntegrityErrors": 0, "recoverableDataIntegrityErrors": 0,
        },
        "IPAcl": ip_acl(&d.ip_acl),
        "ETag": d.revision.to_string(),
        "connectedHosts": hosts,
        "sectorSize": d.sector.bytes(),
        "projectName": d.project,
        "sourceSnapshotUUID": source_uuid,
        "sourceSnapshotName": source_name,
        "placementRestrictions": [],
        "qosPolicyUUID": qos_uuid,
        "qosPolicyName": qos_name,
        "primaryNodeUUID": node,
        "creationTime": timestamp(d.created),
        "labels": labels,
        "clusterId": "",
        "pgUUID": report.pg_uuid.to_string(),
    })
}

/// The cluster key.
pub(crate) fn key(status: &KeyStatus) -> Value {
    let source = match status.origin {
        KeyOrigin::File => "file",
        KeyOrigin::Passphrase => "passphrase",
        KeyOrigin::Given => "given",
    };
    json!({
        "id": status.id,
        "source": source,
        "path": status.place,
        "dataKeys": status.lines,
        "staleDataKeys": status.stale,
    })
}

/// `Volume` with our own additions.
pub(crate) fn own_volume(cluster: &Handle, report: &VolumeReport) -> Value {
    let mut value = volume(cluster, report);
    let kind = match report.view.descriptor.kind {
        VolumeKind::Durable => "durable",
        VolumeKind::Null => "null",
        VolumeKind::Memory => "memory",
    };
    value["kind"] = kind.into();
    value["encryption"] = if report.view.descriptor.encryption { "true" } else { "false" }.into();
    value["snapshotBytes"] = report.usage.snapshot_bytes.to_string().into();
    value["lostRanges"] = report.lost.iter().map(lost_blocks).collect();
    value
}

/// Consecutive blocks that are lost.
fn lost_blocks(range: &LostBlocks) -> Value {
    json!({"lba": range.lba, "blocks": range.blocks, "cause": range.cause})
}

/// A volume with lost blocks, or snapshots that alone show some.
pub fn lost_object(object: &LostObject) -> Value {
    json!({
        "of": object.title(),
        "UUID": object.uuid.to_string(),
        "volume": object.volume,
        "snapshots": object.snapshots,
        "alsoIn": object.also,
        "sectorSize": object.sector_bytes,
        "lostBytes": object.lost_bytes().to_string(),
        "ranges": object.ranges.iter().map(lost_blocks).collect::<Vec<_>>(),
    })
}

/// `Snapshot`. Nobody is admitted to a snapshot itself.
pub(crate) fn snapshot(cluster: &Handle, view: &SnapshotView) -> Value {
    let d = &view.descriptor;
    let node = cluster.identity().node_uuid.to_string();
    let labels: Vec<Value> = d.labels.iter().map(|(k, v)| json!({"key": k, "value": v})).collect();
    let retention = d.expires.map_or(0, |at| at.0.saturating_sub(d.created.0));
    let retention = if retention.is_multiple_of(1000) {
        format!("{}s", retention / 1000)
    } else {
        format!("{}.{:03}s", retention / 1000, retention % 1000)
    };
    let written = d.mapped_blocks.saturating_mul(4096).to_string();
    json!({
        "state": life(view.life),
        "UUID": d.uuid.to_string(),
        "name": d.name,
        "description": d.description,
        "creationTime": timestamp(d.created),
        "retentionTime": retention,
        "sourceVolumeUUID": d.volume.to_string(),
        "sourceVolumeName": d.volume_name,
        "replicaCount": 1,
        "nodeList": [node],
        "nsid": 0,
        "acl": {"values": ["ALLOW_NONE"]},
        "compression": d.compression,
        "size": d.size_bytes.to_string(),
        "IPAcl": {"values": ["ALLOW_NONE"]},
        "sectorSize": d.sector.bytes(),
        "statistics": {
            "physicalCapacity": "0", "physicalOwnedCapacity": "0",
            "physicalOwnedMemory": "0", "physicalMemory": "0", "userWritten": written,
        },
        "ETag": d.revision.to_string(),
        "projectName": d.project,
        "primaryNodeUUID": node,
        "labels": labels,
        "clusterId": "",
        "pgUUID": cluster.identity().pg_uuid(d.pg).to_string(),
    })
}

/// `ClusterStatisticsApi`; `logical` is the size of all volumes together.
pub(crate) fn cluster_statistics(pool: &PoolStatus, logical: u64) -> Value {
    json!({
        "installedPhysicalStorage": pool.physical_bytes.to_string(),
        "managedPhysicalStorage": pool.physical_bytes.to_string(),
        "effectivePhysicalStorage": pool.usable_bytes.to_string(),
        "logicalStorage": logical.to_string(),
        "logicalUsedStorage": pool.logical_used_bytes.to_string(),
        "physicalUsedStorage": pool.used_bytes.to_string(),
        "physicalUsedStorageIncludingParity": pool.used_bytes.to_string(),
        "freePhysicalStorage": pool.free_bytes.to_string(),
        "estimatedFreeLogicalStorage": pool.free_bytes.to_string(),
        "estimatedLogicalStorage": pool.usable_bytes.to_string(),
        "compressionRatio": pool.compression.ratio(),
    })
}

/// `NodeStatisticsApi`.
pub(crate) fn node_statistics(pool: &PoolStatus, logical: u64) -> Value {
    let mut value = cluster_statistics(pool, logical);
    if let Value::Object(fields) = &mut value {
        fields.remove("installedPhysicalStorage");
        fields.insert("UnrecoverableDataIntegrityErrors".into(), 0.into());
        fields.insert("RecoverableDataIntegrityErrors".into(), 0.into());
        fields.insert("GarbageCollectorDataIntegrityErrors".into(), "0".into());
        fields.insert("metadataUtilization".into(), 0.0.into());
    }
    value
}

/// `UserNvmeDevicesResponse`.
pub(crate) fn device(cluster: &Handle, drive: &DriveStatus) -> Value {
    let identity = cluster.identity();
    let state = match drive.state {
        DriveState::Active | DriveState::Leaving => "Healthy",
        DriveState::Out(_) | DriveState::Absent(_) => "Failed",
    };
    json!({
        "size": drive.size_bytes.to_string(),
        "numaNodeID": "0",
        "model": drive.model,
        "serial": device_serial(drive),
        "serverUUID": identity.server_uuid.to_string(),
        "state": state,
        "name": drive.path,
        "nodeUUID": identity.node_uuid.to_string(),
        "ETag": "",
        "statistics": {"UnrecoverableDataIntegrityErrors": 0, "RecoverableDataIntegrityErrors": 0},
        "deviceUsage": "Data",
    })
}

/// What names a drive in URLs: its serial number, or its identity where it has none (files).
pub(crate) fn device_serial(drive: &DriveStatus) -> String {
    if drive.serial.is_empty() { drive.uuid.to_string() } else { drive.serial.clone() }
}

/// `ConnectedHost`.
pub(crate) fn host(status: &HostStatus) -> Value {
    let address =
        status.controllers.first().map_or_else(String::new, |c| c.peer.ip().to_canonical().to_string());
    let volumes: Vec<String> = status.volumes.iter().map(ToString::to_string).collect();
    json!({"hostNQN": status.nqn.as_str(), "iPAddress": address, "hostname": "", "volumeUUIDs": volumes})
}

/// A host with its controllers, for our own path.
pub(crate) fn own_host(status: &HostStatus) -> Value {
    let controllers: Vec<Value> = status
        .controllers
        .iter()
        .map(|c| {
            json!({
                "cntlid": c.cntlid,
                "discovery": c.discovery,
                "peer": c.peer.to_string(),
                "local": c.local.to_string(),
                "ioQueues": c.io_queues,
                "since": timestamp(c.since),
            })
        })
        .collect();
    let mut value = host(status);
    value["hostID"] = status.host_id.to_string().into();
    value["controllers"] = controllers.into();
    value
}

/// The pool, for our own path.
pub(crate) fn pool(pool: &PoolStatus) -> Value {
    let (state, reason) = match &pool.state {
        PoolState::Ready => ("Ready", ""),
        PoolState::Full => ("Full", "no space for hosts' writes: delete volumes, trim, or add a drive"),
        PoolState::Stopped(why) => ("Stopped", why.as_str()),
    };
    json!({
        "UUID": pool.uuid.to_string(),
        "state": state,
        "reason": reason,
        "physicalBytes": pool.physical_bytes.to_string(),
        "usableBytes": pool.usable_bytes.to_string(),
        "usedBytes": pool.used_bytes.to_string(),
        "freeBytes": pool.free_bytes.to_string(),
        "reservedBytes": pool.reserved_bytes.to_string(),
        "logicalUsedBytes": pool.logical_used_bytes.to_string(),
        "compressionRatio": pool.compression.ratio(),
        "mendedReads": pool.mended_reads.to_string(),
        "integrityErrors": pool.integrity_errors.to_string(),
        "lost": pool.lost.iter().map(lost_object).collect::<Vec<_>>(),
        "reprotection": reprotection(pool.reprotection),
        "reserveShare": f64::from(pool.reserve_ppm) / 1e6,
        "hostWrittenBytes": pool.amplification.hosts_bytes.to_string(),
        "driveWrittenBytes": pool.amplification.drives_bytes.to_string(),
        "writeAmplification": pool.amplification.drives(),
        "writeAmplificationCleaning": pool.amplification.cleaning(),
        "writeAmplificationMap": pool.amplification.map(),
        "mapMemoryBytes": pool.map_memory_bytes.to_string(),
        "scrub": scrub(&pool.scrub),
    })
}

fn reprotection(all: Reprotection) -> Value {
    let state = match (all.at_risk_segments, all.deficit, all.paused) {
        (0, 0, _) => "Protected",
        (0, _, _) => "Degraded",
        (_, _, true) => "Paused",
        _ if all.lacks_bytes > 0 => "WaitsForSpace",
        _ => "Running",
    };
    json!({
        "state": state,
        "lacksBytes": all.lacks_bytes.to_string(),
        "atRiskBytes": all.at_risk_bytes.to_string(),
        "atRiskSegments": all.at_risk_segments.to_string(),
        "deficit": all.deficit,
        "progress": all.progress().unwrap_or(1.0),
        "paused": all.paused,
        "bytesPerSecond": all.bytes_per_s.to_string(),
    })
}

/// How the pool is scrubbed, for our own path.
pub(crate) fn scrub(scrub: &ScrubStatus) -> Value {
    let state = match (scrub.running, scrub.paused) {
        (true, false) => "Running",
        (_, true) => "Paused",
        (false, false) => "Waiting",
    };
    let time = |at: UnixMillis| if at.0 == 0 { String::new() } else { timestamp(at) };
    json!({
        "state": state,
        "everySeconds": scrub.every_s,
        "bytesPerSecond": scrub.bytes_per_s.to_string(),
        "segmentsDone": scrub.segments_done,
        "segments": scrub.segments,
        "started": time(scrub.started),
        "finished": time(scrub.finished),
        "checkedBytes": scrub.checked_bytes.to_string(),
        "mended": scrub.mended,
        "lost": scrub.lost,
        "lostPlaces": scrub.named,
    })
}

/// A drive, for our own path.
pub(crate) fn drive(drive: &DriveStatus) -> Value {
    let state = match &drive.state {
        DriveState::Active => "Active",
        DriveState::Leaving => "Leaving",
        DriveState::Out(_) => "Out",
        DriveState::Absent(_) => "Absent",
    };
    json!({
        "path": drive.path,
        "UUID": drive.uuid.to_string(),
        "model": drive.model,
        "serial": drive.serial,
        "sizeBytes": drive.size_bytes.to_string(),
        "freeBytes": drive.free_bytes.to_string(),
        "usedBytes": drive.used_bytes.to_string(),
        "liveBytes": drive.live_bytes.to_string(),
        "file": drive.file,
        "state": state,
        "reason": drive.state.reason().unwrap_or_default(),
        "errors": drive.errors.to_string(),
        "readNanoseconds": drive.read_ns.to_string(),
        "writeNanoseconds": drive.write_ns.to_string(),
        "strikes": drive.strikes,
    })
}

/// Where a drive is, for our own path.
pub(crate) fn location(at: &DriveLocation) -> Value {
    json!({
        "path": at.path,
        "serial": at.serial,
        "model": at.model,
        "slot": at.slot,
        "light": match at.light {
            None => "None",
            Some(true) => "Blinking",
            Some(false) => "Off",
        },
    })
}

/// `Event`.
pub(crate) fn event(cluster: &Handle, event: &Event) -> Value {
    let what = &event.what;
    let mut value = json!({
        "ID": event.id.to_string(),
        "Time": timestamp(event.at()),
        "Type": component(what.component),
        "Severity": severity(what.severity),
        "EventName": what.name,
        "EventCode": 0,
        "ReportingService": "NM",
        "AssociatedEventID": "",
        "Status": "",
        "CauseCode": 0,
        "Description": what.text,
    });
    let identity = cluster.identity();
    match what.component {
        Component::Volume => {
            let list = json!([{"ID": what.subject, "Name": ""}]);
            value["ComponentVolumesInfo"] =
                json!({"ProjectVolumesMap": {&what.project: {"VolumeComponentInfoList": list}}});
        }
        Component::Drive => value["ComponentNVMeSSDInfo"] = json!({"ID": what.subject, "Name": what.subject}),
        Component::Node => {
            let node = identity.node_uuid.to_string();
            value["ComponentNodeInfo"] = json!({"ID": node, "Name": identity.node_name});
        }
        Component::Cluster => {
            let cluster = identity.cluster_uuid.to_string();
            value["ComponentClusterInfo"] = json!({"ID": cluster, "Name": identity.cluster_name});
        }
        Component::DataIntegrity => {
            let (node, server) = (identity.node_uuid.to_string(), identity.server_uuid.to_string());
            value["ComponentDataIntegrityInfo"] = json!({"NodeUUID": node, "ServerUUID": server, "SSDs": []});
        }
    }
    value
}

/// `Event.EventType`.
pub(crate) fn component(component: Component) -> &'static str {
    match component {
        Component::Cluster => "Cluster",
        Component::Node => "Node",
        Component::Volume => "Volume",
        Component::Drive => "NVMeSSD",
        Component::DataIntegrity => "DataIntegrity",
    }
}

/// `Event.EventSeverity`.
pub(crate) fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "Info",
        Severity::Low => "Low",
        Severity::Medium => "Medium",
        Severity::High => "High",
        Severity::Critical => "Critical",
    }
}
