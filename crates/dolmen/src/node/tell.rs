//! Turns what the cores report into what users are told. Pure functions.

use dolmen_cluster::plane::{
    Amplification, Compression, ConnectionMetrics, ControllerStatus, CoreMetrics, DriveMetrics, DriveState,
    DriveStatus, HostStatus, IoMetrics, IoTotals, LostObject, MetricsSnapshot, PoolState, PoolStatus,
    Protection, Reprotection, ScrubStatus, VolumeMetrics, VolumeStatus, VolumeUsage,
};
use dolmen_core::report::{CoreReport, DriveReport};
use dolmen_io::{DriveCounters, OpCounters};
use dolmen_store::{DriveStanding, DriveState as Standing, Finding, PoolPlan, ScrubReport, SpaceReport};
use dolmen_types::{Nqn, Uuid, limits::BLOCK_BYTES};
use dolmen_volume::{Health, VolumeInfo};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

fn block_bytes(blocks: u64) -> u64 {
    blocks.saturating_mul(u64::try_from(BLOCK_BYTES).unwrap_or(0))
}

fn usage(info: &VolumeInfo) -> VolumeUsage {
    let usage = &info.usage;
    // What was overwritten since the last checkpoint is counted twice, and so is what a clone has of its own where it had inherited
    // something; there is never more than the volume has room for.
    let mapped = block_bytes(usage.mapped_blocks).min(info.descriptor.size_bytes);
    VolumeUsage {
        mapped_bytes: mapped,
        stored_bytes: usage.stored_bytes,
        owned_bytes: usage.head_bytes,
        snapshot_bytes: usage.snapshot_bytes,
        compression: Compression {
            plain_bytes: block_bytes(usage.own_blocks),
            stored_bytes: usage.head_bytes.saturating_add(usage.shared_bytes),
        },
    }
}

/// All volumes, or one, by ascending UUID.
pub(super) fn volumes(reports: &[CoreReport], only: Option<Uuid>, lost: &[LostObject]) -> Vec<VolumeStatus> {
    let lost_of = |uuid| lost.iter().find(|o| o.uuid == uuid && o.snapshots.is_empty());
    let mut watchers: BTreeMap<u32, BTreeSet<Nqn>> = BTreeMap::new();
    for host in reports.iter().flat_map(|r| &r.hosts).filter(|h| !h.discovery) {
        for nsid in &host.namespaces {
            watchers.entry(*nsid).or_default().insert(host.host_nqn.clone());
        }
    }
    // Any segment may hold something of any volume.
    let whole = if lacks_a_drive(reports) { Protection::Degraded } else { Protection::FullyProtected };
    let wanted = |info: &&VolumeInfo| only.is_none_or(|uuid| info.descriptor.uuid == uuid);
    let mut all: Vec<VolumeStatus> = reports
        .iter()
        .flat_map(|r| &r.volumes)
        .filter(wanted)
        .map(|info| VolumeStatus {
            usage: usage(info),
            connected_hosts: watchers.get(&info.descriptor.nsid.0).into_iter().flatten().cloned().collect(),
            protection: match info.health {
                Health::Good => whole,
                Health::Stopped => Protection::ReadOnly,
                Health::Quarantined => Protection::NotAvailable,
            },
            lost: lost_of(info.descriptor.uuid).map(|o| o.ranges.clone()).unwrap_or_default(),
            descriptor: info.descriptor.clone(),
        })
        .collect();
    all.sort_by_key(|v| v.descriptor.uuid);
    all
}

/// True while fewer drives than usual can be lost. What a drive that leaves holds is all there.
fn lacks_a_drive(reports: &[CoreReport]) -> bool {
    reports.iter().find_map(|r| r.pool.as_ref()).is_some_and(|pool| pool.deficit > 0)
}

/// Connected hosts by ascending NQN.
pub(super) fn hosts(reports: &[CoreReport]) -> Vec<HostStatus> {
    let names: BTreeMap<u32, Uuid> = reports
        .iter()
        .flat_map(|r| &r.volumes)
        .map(|info| (info.descriptor.nsid.0, info.descriptor.uuid))
        .collect();
    let mut all: BTreeMap<Nqn, HostStatus> = BTreeMap::new();
    for info in reports.iter().flat_map(|r| &r.hosts) {
        let host = all.entry(info.host_nqn.clone()).or_insert_with(|| HostStatus {
            nqn: info.host_nqn.clone(),
            host_id: Uuid(info.host_id),
            controllers: Vec::new(),
            volumes: Vec::new(),
        });
        host.controllers.push(ControllerStatus {
            cntlid: info.controller,
            discovery: info.discovery,
            peer: info.peer,
            local: info.local,
            io_queues: u16::try_from(info.io_queues).unwrap_or(u16::MAX),
            since: info.since,
        });
        host.volumes.extend(info.namespaces.iter().filter_map(|nsid| names.get(nsid)));
    }
    let mut hosts: Vec<HostStatus> = all.into_values().collect();
    for host in &mut hosts {
        host.controllers.sort_by_key(|c| c.cntlid);
        host.volumes.sort_unstable();
        host.volumes.dedup();
    }
    hosts
}

fn space(reports: &[CoreReport]) -> SpaceReport {
    let mut sum = SpaceReport::default();
    for s in reports.iter().map(|r| &r.space) {
        sum.live_bytes += s.live_bytes;
        sum.map_bytes += s.map_bytes;
        sum.integrity_errors += s.integrity_errors;
        sum.mended_reads += s.mended_reads;
        sum.at_risk_bytes += s.at_risk_bytes;
        sum.at_risk_segments += s.at_risk_segments;
        sum.refusing_shards += s.refusing_shards;
        sum.host_written_bytes += s.host_written_bytes;
        sum.drive_written_bytes += s.drive_written_bytes;
        sum.cleaned_bytes += s.cleaned_bytes;
        sum.map_written_bytes += s.map_written_bytes;
        sum.map_memory_bytes += s.map_memory_bytes;
    }
    sum
}

/// Free space below which a pool counts as full: of the last hundredth, part is in units that no write of any size can
/// have, and writes fail now and then. Bytes.
pub(super) fn full_below(usable_bytes: u64) -> u64 {
    usable_bytes / 100
}

/// What hosts' data takes, and what it may still take: the map takes its part of the same space. After the loss of a drive they may hold
/// more than there is room for. Bytes.
fn used_and_free(sum: &SpaceReport, usable_bytes: u64) -> (u64, u64) {
    let used_bytes = sum.live_bytes.saturating_sub(sum.map_bytes);
    (used_bytes, usable_bytes.saturating_sub(sum.live_bytes))
}

/// What the pool has and its drives in service have no room for, since one was lost. Bytes.
fn lacks_bytes(sum: &SpaceReport, usable_bytes: u64) -> u64 {
    sum.live_bytes.saturating_sub(usable_bytes)
}

/// How far all shards are scrubbed.
pub(super) fn scrub(reports: &[CoreReport]) -> ScrubReport {
    let all = reports.iter().filter_map(|r| r.scrub.clone());
    let sum = all.reduce(|mut sum, report| {
        sum.add(&report);
        sum
    });
    sum.unwrap_or_default()
}

/// The pool as a whole.
pub(super) fn pool(plan: &PoolPlan, reports: &[CoreReport]) -> PoolStatus {
    let sum = space(reports);
    let serves = |d: &&DriveReport| matches!(d.standing.state, Standing::In | Standing::Leaving);
    let physical_bytes = drive_reports(reports).filter(serves).map(|d| size_bytes(plan, d)).sum();
    let usable_bytes =
        reports.iter().find_map(|r| r.pool.as_ref()).map_or(0, |p| p.capacity_bytes).min(physical_bytes);
    let (used_bytes, free_bytes) = used_and_free(&sum, usable_bytes);
    let logical = reports.iter().flat_map(|r| &r.volumes).map(|v| usage(v).mapped_bytes).sum();
    let state = match reports.iter().find_map(|r| r.stopped.clone()) {
        Some(reason) => PoolState::Stopped(reason),
        None if free_bytes < full_below(usable_bytes) || sum.refusing_shards > 0 => PoolState::Full,
        None => PoolState::Ready,
    };
    let deficit = reports.iter().find_map(|r| r.pool.as_ref()).map_or(0, |p| p.deficit);
    PoolStatus {
        uuid: plan.pool,
        physical_bytes,
        usable_bytes,
        used_bytes,
        free_bytes,
        reserved_bytes: physical_bytes - usable_bytes,
        logical_used_bytes: logical,
        compression: reports.iter().flat_map(|r| &r.volumes).map(|v| usage(v).compression).sum(),
        reserve_ppm: reserve_ppm(reports),
        amplification: Amplification {
            hosts_bytes: sum.host_written_bytes,
            drives_bytes: sum.drive_written_bytes,
            cleaning_bytes: sum.cleaned_bytes,
            map_bytes: sum.map_written_bytes,
        },
        map_memory_bytes: sum.map_memory_bytes,
        scrub: ScrubStatus::default(),
        state,
        reprotection: Reprotection {
            lacks_bytes: if deficit > 0 { lacks_bytes(&sum, usable_bytes) } else { 0 },
            at_risk_bytes: sum.at_risk_bytes,
            at_risk_segments: sum.at_risk_segments,
            deficit,
            ..Reprotection::default()
        },
        mended_reads: sum.mended_reads,
        integrity_errors: sum.integrity_errors,
        lost: Vec::new(),
    }
}

/// The drives by their place in the pool, those that have left included.
fn drive_reports(reports: &[CoreReport]) -> impl Iterator<Item = &DriveReport> {
    reports.iter().find_map(|r| r.pool.as_ref()).into_iter().flat_map(|pool| &pool.drives)
}

/// Of the drives in service, the part that the store keeps for itself. Parts of a million.
fn reserve_ppm(reports: &[CoreReport]) -> u32 {
    let (reserve, raw) = reports.iter().find_map(|r| r.pool.as_ref()).map_or((0, 0), |p| p.reserve_bytes);
    let ppm = (u128::from(reserve) * 1_000_000).checked_div(u128::from(raw));
    u32::try_from(ppm.unwrap_or(0)).unwrap_or(u32::MAX)
}

/// The drives, in the pool's order.
pub(super) fn drives(plan: &PoolPlan, reports: &[CoreReport]) -> Vec<DriveStatus> {
    let stopped = reports.iter().find_map(|r| r.stopped.clone());
    let there = drive_reports(reports).enumerate().filter(|(_, d)| d.standing.state != Standing::Gone);
    let drives = there.map(|(index, drive)| {
        let status = drive_status(plan, reports, stopped.as_deref(), index, drive);
        // Devices are numbered anew when one is gone, and another drive may have been put in its place.
        let elsewhere = drive.info.is_none() && is_open(reports, &status.path);
        DriveStatus { path: if elsewhere { String::new() } else { status.path }, ..status }
    });
    drives.collect()
}

/// True when a drive of the pool is open at a path.
fn is_open(reports: &[CoreReport], path: &str) -> bool {
    drive_reports(reports).any(|d| d.info.is_some() && d.standing.path == path)
}

fn drive_status(
    plan: &PoolPlan,
    reports: &[CoreReport],
    stopped: Option<&str>,
    index: usize,
    drive: &DriveReport,
) -> DriveStatus {
    let (standing, info) = (&drive.standing, drive.info.as_ref());
    let counters = drive_counters(reports, index);
    let errors = counters.reads.errors + counters.writes.errors + counters.flushes.errors;
    let lost_at_start = |finding: &Finding| matches!(finding, Finding::Lost { path, drive, .. } if usize::from(*drive) == index && *path == standing.path);
    let state = match (standing.state, stopped) {
        (Standing::Out | Standing::Gone, _) => {
            let reason = standing.reason.clone().unwrap_or_else(|| "it is not there".into());
            if plan.findings.iter().any(lost_at_start) {
                DriveState::Absent(reason)
            } else {
                DriveState::Out(reason)
            }
        }
        (_, Some(reason)) if errors > 0 => DriveState::Out(reason.into()),
        (Standing::Leaving, _) => DriveState::Leaving,
        (Standing::In, _) => DriveState::Active,
    };
    let mean = |c: OpCounters| c.time_ns.checked_div(c.operations).unwrap_or(0);
    DriveStatus {
        path: standing.path.clone(),
        uuid: standing.uuid,
        model: info.and_then(|i| i.model.clone()).unwrap_or_default(),
        serial: standing.serial.clone(),
        size_bytes: size_bytes(plan, drive),
        free_bytes: free_bytes(plan, standing),
        used_bytes: u64::from(standing.held_units) * u64::from(plan.unit_bytes),
        live_bytes: reports.iter().filter_map(|r| r.live_by_drive.get(index)).sum(),
        errors,
        read_ns: mean(counters.reads),
        write_ns: mean(counters.writes),
        file: info.is_some_and(|i| !i.block_device),
        state,
        strikes: u32::try_from(counters.writes.errors + counters.flushes.errors).unwrap_or(u32::MAX),
    }
}

/// The size of a drive; of one that is not open, what the pool used of it.
fn size_bytes(plan: &PoolPlan, drive: &DriveReport) -> u64 {
    let units = u64::from(drive.standing.units) * u64::from(plan.unit_bytes);
    drive.info.as_ref().map_or(units, |info| info.size_bytes)
}

/// What the SMART log says of the node: traffic since the start, and whether the pool still takes writes. Wear and spare
/// area belong to the drives, which are replaced one by one; of the whole there is nothing to tell until one fails.
pub(super) fn health(reports: &[CoreReport], up: Duration) -> dolmen_target::Health {
    let mut health = dolmen_target::Health {
        media_errors: space(reports).integrity_errors,
        power_on_hours: up.as_secs() / 3600,
        ..dolmen_target::Health::default()
    };
    for traffic in reports.iter().map(|r| &r.target.traffic) {
        health.reads += traffic.reads;
        health.writes += traffic.writes;
        health.bytes_read += traffic.bytes_read;
        health.bytes_written += traffic.bytes_written;
    }
    if reports.iter().any(|r| r.stopped.is_some()) {
        health.critical_warning |= dolmen_target::Health::READ_ONLY;
    }
    health
}

fn free_bytes(plan: &PoolPlan, standing: &DriveStanding) -> u64 {
    let counts = matches!(standing.state, Standing::In | Standing::Leaving);
    if counts { u64::from(standing.free_units) * u64::from(plan.unit_bytes) } else { 0 }
}

/// What all cores have done with a drive.
fn drive_counters(reports: &[CoreReport], drive: usize) -> DriveCounters {
    let mut sum = DriveCounters::default();
    for counters in reports.iter().filter_map(|r| r.drives.get(drive)) {
        add(&mut sum.reads, counters.reads);
        add(&mut sum.writes, counters.writes);
        add(&mut sum.flushes, counters.flushes);
        sum.inflight += counters.inflight;
    }
    sum
}

fn add(sum: &mut OpCounters, more: OpCounters) {
    sum.operations += more.operations;
    sum.bytes += more.bytes;
    sum.errors += more.errors;
    sum.time_ns += more.time_ns;
}

fn io_metrics(c: OpCounters) -> IoMetrics {
    IoMetrics { operations: c.operations, bytes: c.bytes, errors: c.errors, time_ns: c.time_ns }
}

/// All counters.
pub(super) fn metrics(plan: &PoolPlan, reports: &[CoreReport]) -> MetricsSnapshot {
    MetricsSnapshot {
        volumes: volume_metrics(reports),
        drives: drive_metrics(plan, reports),
        connections: connection_metrics(reports),
        cores: reports.iter().map(core_metrics).collect(),
    }
}

fn volume_metrics(reports: &[CoreReport]) -> Vec<VolumeMetrics> {
    let usages: BTreeMap<Uuid, VolumeUsage> =
        reports.iter().flat_map(|r| &r.volumes).map(|v| (v.descriptor.uuid, usage(v))).collect();
    let mut all: Vec<VolumeMetrics> = reports
        .iter()
        .flat_map(|r| &r.volume_stats)
        .map(|(uuid, stats)| VolumeMetrics {
            uuid: *uuid,
            reads: IoTotals {
                operations: stats.reads.count(),
                bytes: stats.read_bytes,
                time_ns: stats.reads.total_ns,
                latency: stats.reads.buckets,
            },
            writes: IoTotals {
                operations: stats.writes.count(),
                bytes: stats.write_bytes,
                time_ns: stats.writes.total_ns,
                latency: stats.writes.buckets,
            },
            others: stats.others,
            failed: stats.failed,
            waited: stats.waited,
            throttled: stats.throttled,
            throttled_ns: stats.throttled_ns,
            usage: usages.get(uuid).copied().unwrap_or_default(),
        })
        .collect();
    all.sort_by_key(|v| v.uuid);
    all
}

fn drive_metrics(plan: &PoolPlan, reports: &[CoreReport]) -> Vec<DriveMetrics> {
    let there = drive_reports(reports).enumerate().filter(|(_, d)| d.standing.state != Standing::Gone);
    there
        .map(|(index, drive)| {
            let counters = drive_counters(reports, index);
            let serves = matches!(drive.standing.state, Standing::In | Standing::Leaving);
            DriveMetrics {
                path: drive.standing.path.clone(),
                uuid: drive.standing.uuid,
                reads: io_metrics(counters.reads),
                writes: io_metrics(counters.writes),
                flushes: io_metrics(counters.flushes),
                inflight: counters.inflight,
                size_bytes: size_bytes(plan, drive),
                free_bytes: free_bytes(plan, &drive.standing),
                healthy: serves && counters.writes.errors + counters.flushes.errors == 0,
            }
        })
        .collect()
}

fn connection_metrics(reports: &[CoreReport]) -> Vec<ConnectionMetrics> {
    let mut all: Vec<ConnectionMetrics> = Vec::new();
    for report in reports {
        all.extend(report.connections.iter().map(|c| ConnectionMetrics {
            peer: c.peer,
            host: c.host_nqn.to_string(),
            cntlid: c.controller,
            qid: c.qid,
            core: report.core,
            commands: c.traffic.reads + c.traffic.writes + c.traffic.others,
            received_bytes: c.traffic.bytes_written,
            sent_bytes: c.traffic.bytes_read,
            inflight: u64::from(c.outstanding),
        }));
        // An NBD client is no controller's: it is told apart by its number.
        all.extend(report.nbd_clients.iter().map(|c| ConnectionMetrics {
            peer: c.peer,
            host: format!("nbd {}", c.export),
            cntlid: 0,
            qid: u16::try_from(c.number).unwrap_or(u16::MAX),
            core: report.core,
            commands: c.commands,
            received_bytes: c.written_bytes,
            sent_bytes: c.read_bytes,
            inflight: u64::from(c.outstanding),
        }));
    }
    all.sort_by_key(|c| (c.cntlid, c.qid, c.core));
    all
}

fn core_metrics(report: &CoreReport) -> CoreMetrics {
    let traffic = &report.target.traffic;
    CoreMetrics {
        core: report.core,
        commands: traffic.reads + traffic.writes + traffic.others + report.nbd.commands,
        turns: report.counters.turns,
        sleeps: report.counters.sleeps,
        busy_ns: report.counters.busy_ns,
        idle_ns: report.counters.idle_ns,
        connections: u64::from(report.target.connections) + u64::from(report.nbd.connections),
        messages: report.counters.messages,
        buffers_used: report.buffers_total.saturating_sub(report.buffers_free),
        buffers_total: report.buffers_total,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_map_takes_is_not_free() {
        let sum = SpaceReport { live_bytes: 995, map_bytes: 35, ..SpaceReport::default() };
        let (used, free) = used_and_free(&sum, 1000);
        assert_eq!((used, free), (960, 5));
        assert!(free < full_below(1000), "a store that takes nothing more is told as full");
        assert_eq!(used_and_free(&SpaceReport { live_bytes: 1100, ..sum }, 1000), (1065, 0));
    }
}
