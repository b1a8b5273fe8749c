//! A data plane in memory: does what the vocabulary promises, without drives. Deleted volumes linger for a while.

use dolmen_cluster::plane::{
    Amplification, Compression, ConnectionMetrics, CoreMetrics, DiffPart, DriveLocation, DriveMetrics,
    DriveState, DriveStatus, HostStatus, KeyOrigin, KeyStatus, MetricsSnapshot, NodeRequest, PlaneError,
    PoolState, PoolStatus, Protection, ScrubStatus, SnapshotStatus, VolumeMetrics, VolumeStatus, VolumeUsage,
};
use dolmen_cluster::trace::{CommandTrace, TraceKind, TraceStage, VolumeTraces};
use dolmen_types::{
    CoreId, Nqn, Seq, UnixMillis, Uuid,
    snapshot::{SnapshotDescriptor, SnapshotState},
    volume::{VolumeDescriptor, VolumeState},
};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Arc, Mutex},
};
use tokio::sync::mpsc;

/// What survives the plane: the "log".
pub type Log = Arc<Mutex<BTreeMap<Uuid, VolumeDescriptor>>>;

/// Serves until the control side is gone. A volume in `Deleting` is erased when it has been listed `linger` times.
pub async fn run(log: Log, mut requests: mpsc::Receiver<NodeRequest>, linger: u32) {
    let mut erasing: BTreeMap<Uuid, u32> = BTreeMap::new();
    let mut snapshots: BTreeMap<Uuid, SnapshotDescriptor> = BTreeMap::new();
    let mut rotations = 0_u64;
    while let Some(request) = requests.recv().await {
        let mut volumes = log.lock().unwrap();
        match request {
            NodeRequest::CreateVolume { descriptor, answer } => {
                let result = match volumes.entry(descriptor.uuid) {
                    Entry::Occupied(_) => Err(PlaneError::Conflict),
                    Entry::Vacant(_) if descriptor.name == "refused-by-plane" => {
                        Err(PlaneError::Exhausted("no room for the record".into()))
                    }
                    Entry::Vacant(place) => {
                        place.insert(*descriptor);
                        Ok(())
                    }
                };
                let _ = answer.send(result);
            }
            NodeRequest::UpdateVolume { descriptor, expected_revision, answer } => {
                let result = match volumes.get_mut(&descriptor.uuid) {
                    None => Err(PlaneError::NotFound),
                    Some(old) if old.revision != expected_revision => Err(PlaneError::Conflict),
                    Some(old) => {
                        *old = *descriptor;
                        Ok(())
                    }
                };
                let _ = answer.send(result);
            }
            NodeRequest::DeleteVolume { uuid, expected_revision, new_revision, answer } => {
                let result = match volumes.get_mut(&uuid) {
                    None => Err(PlaneError::NotFound),
                    Some(old) if old.revision != expected_revision => Err(PlaneError::Conflict),
                    Some(old) => {
                        old.revision = new_revision;
                        old.state = VolumeState::Deleting;
                        erasing.insert(uuid, linger);
                        Ok(())
                    }
                };
                let _ = answer.send(result);
            }
            NodeRequest::CreateSnapshots { descriptors, answer } => {
                let taken =
                    descriptors.into_iter().map(|d| SnapshotDescriptor { at: Seq(9), mapped_blocks: 2, ..d });
                let taken: Vec<SnapshotDescriptor> = taken.collect();
                snapshots.extend(taken.iter().map(|d| (d.uuid, d.clone())));
                let _ = answer.send(Ok(taken));
            }
            NodeRequest::DeleteSnapshot { uuid, expected_revision, answer, .. } => {
                let result = match snapshots.get_mut(&uuid) {
                    None => Err(PlaneError::NotFound),
                    Some(old) if old.revision != expected_revision => Err(PlaneError::Conflict),
                    Some(old) => {
                        old.revision += 1;
                        old.state = SnapshotState::Deleting;
                        Ok(vec![old.clone()])
                    }
                };
                let _ = answer.send(result);
            }
            NodeRequest::Rollback { uuid, snapshot, line, expected_revision, answer } => {
                let size = snapshots.get(&snapshot).map(|s| s.size_bytes);
                let result = match (volumes.get_mut(&uuid), size) {
                    (None, _) | (_, None) => Err(PlaneError::NotFound),
                    (Some(old), _) if old.revision != expected_revision => Err(PlaneError::Conflict),
                    (Some(old), Some(size)) => {
                        (old.line, old.revision) = (line, old.revision + 1);
                        old.size_bytes = old.size_bytes.max(size);
                        Ok(())
                    }
                };
                let _ = answer.send(result);
            }
            NodeRequest::ListSnapshots { answer } => {
                // Ends those that nothing was cloned from; the others when their clones are gone.
                snapshots.retain(|uuid, d| {
                    let is_source =
                        |v: &VolumeDescriptor| v.source.as_ref().is_some_and(|s| s.snapshot == *uuid);
                    d.state == SnapshotState::Available || volumes.values().any(is_source)
                });
                let list = snapshots.values().cloned();
                let _ =
                    answer.send(list.map(|descriptor| SnapshotStatus { descriptor, usable: true }).collect());
            }
            NodeRequest::Diff { base, first, limit, answer, .. } => {
                let changed = if base.is_some() { vec![(1, 2)] } else { vec![(0, 1), (100, 1)] };
                let ranges = changed.into_iter().filter(|(at, _)| *at >= first).take(limit).collect();
                let _ = answer.send(Ok(DiffPart { ranges, next: None }));
            }
            NodeRequest::ListVolumes { only, answer } => {
                let list = volumes.values().filter(|d| only.is_none_or(|only| d.uuid == only));
                let _ = answer.send(list.map(status).collect());
                if only.is_none() {
                    erasing.retain(|uuid, rounds| {
                        *rounds = rounds.saturating_sub(1);
                        if *rounds == 0 {
                            volumes.remove(uuid);
                        }
                        *rounds > 0
                    });
                }
            }
            NodeRequest::Hosts { answer } => {
                let _ = answer.send(vec![host(&volumes)]);
            }
            NodeRequest::Pool { answer } => {
                let _ = answer.send(pool());
            }
            NodeRequest::Scrub { change, answer } => {
                let every_s = change.every_s.unwrap_or(1_209_600);
                let paused = change.paused.unwrap_or(false);
                let _ = answer.send(ScrubStatus {
                    every_s,
                    paused,
                    running: change.start,
                    ..ScrubStatus::default()
                });
            }
            NodeRequest::Drives { answer } => {
                let _ = answer.send(vec![drive()]);
            }
            NodeRequest::Keys { answer } => drop(answer.send(key_status(rotations))),
            NodeRequest::RotateKeys { answer } => {
                rotations += 1;
                drop(answer.send(Ok(key_status(rotations))));
            }
            NodeRequest::AddDrive { answer, .. }
            | NodeRequest::ChangeDrive { answer, .. }
            | NodeRequest::SetReprotection { answer, .. } => {
                let _ = answer.send(Err(PlaneError::Refused("these drives stay as they are".into())));
            }
            NodeRequest::LocateDrive { answer, .. } => {
                let _ =
                    answer.send(Ok(DriveLocation { path: "/drives/a".into(), ..DriveLocation::default() }));
            }
            NodeRequest::Traces { uuid, answer } => {
                let known = volumes.contains_key(&uuid);
                let _ = answer.send(if known { traces() } else { VolumeTraces::default() });
            }
            NodeRequest::Metrics { answer } => {
                let _ = answer.send(Box::new(metrics(&volumes)));
            }
        }
    }
}

/// Fifty writes that a QoS policy held back, and one that was worse.
fn traces() -> VolumeTraces {
    let command = |i: u64, qos_ns: u64| {
        let mut stages = [0; TraceStage::COUNT];
        stages[TraceStage::Qos as usize] = qos_ns;
        stages[TraceStage::Drive as usize] = 100_000;
        CommandTrace {
            kind: TraceKind::Write,
            failed: false,
            weight: 1,
            lba: i,
            blocks: 2,
            age_ns: i * 1_000_000,
            host: Some(host_nqn()),
            core: CoreId(0),
            outstanding: 8,
            drive: Some("/drives/a".into()),
            stages,
        }
    };
    let recent = (0..50).map(|i| command(i, 9_900_000)).collect();
    VolumeTraces { recent, slowest: vec![command(77, 99_900_000)], waiting: Vec::new() }
}

pub fn host_nqn() -> Nqn {
    "nqn.2014-08.org.nvmexpress:uuid:11111111-1111-4111-8111-111111111111".parse().unwrap()
}

fn status(d: &VolumeDescriptor) -> VolumeStatus {
    let connected_hosts = if d.acl.admits(&host_nqn()) { vec![host_nqn()] } else { Vec::new() };
    VolumeStatus {
        descriptor: d.clone(),
        usage: VolumeUsage {
            mapped_bytes: 8192,
            stored_bytes: 4096,
            owned_bytes: 2048,
            snapshot_bytes: 1024,
            compression: Compression { plain_bytes: 8192, stored_bytes: 3072 },
        },
        connected_hosts,
        protection: Protection::FullyProtected,
        lost: Vec::new(),
    }
}

fn host(volumes: &BTreeMap<Uuid, VolumeDescriptor>) -> HostStatus {
    use dolmen_cluster::plane::ControllerStatus;
    HostStatus {
        nqn: host_nqn(),
        host_id: Uuid([0x11; 16]),
        controllers: vec![ControllerStatus {
            cntlid: 1,
            discovery: false,
            peer: "[::ffff:192.0.2.9]:5555".parse().unwrap(),
            local: "192.0.2.1:4420".parse().unwrap(),
            io_queues: 2,
            since: UnixMillis(1_700_000_000_000),
        }],
        volumes: volumes.values().filter(|d| d.acl.admits(&host_nqn())).map(|d| d.uuid).collect(),
    }
}

fn pool() -> PoolStatus {
    PoolStatus {
        uuid: Uuid([7; 16]),
        physical_bytes: 100 << 30,
        usable_bytes: 90 << 30,
        used_bytes: 10 << 30,
        free_bytes: 80 << 30,
        reserved_bytes: 10 << 30,
        logical_used_bytes: 12 << 30,
        compression: Compression { plain_bytes: 12 << 30, stored_bytes: 8 << 30 },
        reserve_ppm: 70_000,
        amplification: Amplification {
            hosts_bytes: 100 << 30,
            drives_bytes: 150 << 30,
            cleaning_bytes: 40 << 30,
            map_bytes: 5 << 30,
        },
        map_memory_bytes: 20 << 20,
        scrub: ScrubStatus { every_s: 1_209_600, checked_bytes: 5, ..ScrubStatus::default() },
        state: PoolState::Ready,
        ..PoolStatus::default()
    }
}

fn drive() -> DriveStatus {
    DriveStatus {
        path: "/drives/a".into(),
        uuid: Uuid([8; 16]),
        model: String::new(),
        serial: String::new(),
        size_bytes: 100 << 30,
        free_bytes: 50 << 30,
        file: true,
        state: DriveState::Active,
        used_bytes: 0,
        live_bytes: 0,
        errors: 0,
        read_ns: 0,
        write_ns: 0,
        strikes: 0,
    }
}

fn metrics(volumes: &BTreeMap<Uuid, VolumeDescriptor>) -> MetricsSnapshot {
    MetricsSnapshot {
        volumes: volumes
            .keys()
            .map(|uuid| VolumeMetrics { uuid: *uuid, ..VolumeMetrics::default() })
            .collect(),
        drives: vec![DriveMetrics {
            path: "/drives/a".into(),
            uuid: Uuid([8; 16]),
            healthy: true,
            ..DriveMetrics::default()
        }],
        connections: vec![ConnectionMetrics {
            peer: "192.0.2.9:5555".parse().unwrap(),
            host: host_nqn().to_string(),
            cntlid: 1,
            qid: 1,
            core: CoreId(0),
            commands: 5,
            received_bytes: 360,
            sent_bytes: 20_600,
            inflight: 0,
        }],
        cores: vec![CoreMetrics { turns: 3, busy_ns: 1_500_000_000, ..CoreMetrics::default() }],
    }
}

/// The cluster key after so many rotations.
fn key_status(rotations: u64) -> KeyStatus {
    let (id, place) = (format!("{rotations:032x}"), "/data/keys/cluster.key".to_string());
    KeyStatus { id, origin: KeyOrigin::File, place, lines: 3, stale: 0 }
}
