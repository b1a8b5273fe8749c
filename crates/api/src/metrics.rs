//! `GET /metrics`: the counters of everything, in the OpenMetrics text format for those who ask for it (Prometheus does),
//! else in Prometheus's own. Each metric is one row of a table with its name, unit, kind and help; the values come from
//! one snapshot of the data plane.

mod table;

use crate::{
    app::{App, Caller},
    error::ApiResult,
};
use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, header},
};
use dolmen_cluster::{
    Error, Kind,
    model::Life,
    node::VolumeReport,
    plane::{ConnectionMetrics, CoreMetrics, DriveMetrics, MetricsSnapshot, PoolStatus, VolumeMetrics},
};
use dolmen_security::Level;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};
use table::{CONNECTION, CORE, DRIVE, Measure, Metric, POOL, VOLUME};

/// Connections told of one by one; the rest only counts in the cores' numbers. Count.
const MAX_CONNECTIONS: usize = 4096;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `GET /metrics`
pub(crate) async fn page(
    State(app): State<Arc<App>>,
    caller: Caller,
    headers: HeaderMap,
) -> ApiResult<([(HeaderName, &'static str); 1], String)> {
    caller.cluster(Level::Viewer)?;
    let page = Page {
        snapshot: app.cluster.metrics().await?,
        pool: app.cluster.pool().await?,
        volumes: app.cluster.volumes(None).await?,
    };
    let mut registry = Registry::with_prefix("dolmen");
    registry.register_collector(Box::new(page));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)
        .map_err(|_| Error::new(Kind::Internal, "the metrics page can't be written"))?;
    let wanted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    if wanted.flat_map(|list| list.split(',')).any(|sort| sort.contains("application/openmetrics-text")) {
        return Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text));
    }
    Ok(([(header::CONTENT_TYPE, PROMETHEUS_TEXT)], prometheus_text(&text)))
}

/// An OpenMetrics page in the older format: there a counter's family has the name of its samples, with `_total`, and
/// neither units nor an end are told.
fn prometheus_text(page: &str) -> String {
    let mut counters = BTreeSet::new();
    for line in page.lines() {
        if let Some(name) = line.strip_prefix("# TYPE ").and_then(|rest| rest.strip_suffix(" counter")) {
            counters.insert(name);
        }
    }
    let mut text = String::with_capacity(page.len());
    for line in page.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(kind @ ("HELP" | "TYPE")), Some(name), Some(rest))
                if counters.contains(name) =>
            {
                text.push_str(&format!("# {kind} {name}_total {rest}\n"));
            }
            (Some("#"), Some("UNIT" | "EOF"), ..) => {}
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

/// One page: the snapshot with the names of the volumes that it counts.
#[derive(Debug)]
struct Page {
    snapshot: Box<MetricsSnapshot>,
    pool: PoolStatus,
    volumes: Vec<VolumeReport>,
}

type Labels = Vec<(&'static str, String)>;

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let pool = [(Labels::new(), &self.pool)];
        write(&mut encoder, POOL, &pool)?;
        let names: BTreeMap<_, _> = self
            .volumes
            .iter()
            .filter(|v| v.view.life != Life::Deleting)
            .map(|v| (v.view.descriptor.uuid, &v.view.descriptor))
            .collect();
        let volumes: Vec<(Labels, &VolumeMetrics)> = self
            .snapshot
            .volumes
            .iter()
            .filter_map(|m| {
                let d = names.get(&m.uuid)?;
                let labels = vec![
                    ("volume", d.uuid.to_string()),
                    ("name", d.name.clone()),
                    ("project", d.project.clone()),
                ];
                Some((labels, m))
            })
            .collect();
        write(&mut encoder, VOLUME, &volumes)?;
        let drives: Vec<(Labels, &DriveMetrics)> = self
            .snapshot
            .drives
            .iter()
            .map(|m| (vec![("drive", m.path.clone()), ("uuid", m.uuid.to_string())], m))
            .collect();
        write(&mut encoder, DRIVE, &drives)?;
        let connections: Vec<(Labels, &ConnectionMetrics)> = self
            .snapshot
            .connections
            .iter()
            .take(MAX_CONNECTIONS)
            .map(|m| (connection_labels(m), m))
            .collect();
        write(&mut encoder, CONNECTION, &connections)?;
        let cores: Vec<(Labels, &CoreMetrics)> =
            self.snapshot.cores.iter().map(|m| (vec![("core", m.core.to_string())], m)).collect();
        write(&mut encoder, CORE, &cores)
    }
}

fn connection_labels(m: &ConnectionMetrics) -> Labels {
    vec![
        ("peer", m.peer.to_string()),
        ("host", m.host.clone()),
        ("cntlid", m.cntlid.to_string()),
        ("qid", m.qid.to_string()),
        ("core", m.core.to_string()),
    ]
}

/// Writes a table's metrics, each with all its rows.
fn write<T>(encoder: &mut DescriptorEncoder<'_>, table: &[Metric<T>], rows: &[(Labels, &T)]) -> fmt::Result {
    for metric in table {
        let unit = match metric.unit {
            "" => None,
            "bytes" => Some(Unit::Bytes),
            "seconds" => Some(Unit::Seconds),
            other => Some(Unit::Other(other.into())),
        };
        let kind = match metric.value {
            Measure::Counter(_) | Measure::Seconds(_) => ConstCounter::new(0u64).metric_type(),
            Measure::Gauge(_) | Measure::Ratio(_) => ConstGauge::new(0u64).metric_type(),
        };
        let mut family = encoder.encode_descriptor(metric.name, metric.help, unit.as_ref(), kind)?;
        for (labels, row) in rows {
            if labels.is_empty() {
                // The only one of its sort: no braces.
                encode(&metric.value, row, family)?;
                break;
            }
            encode(&metric.value, row, family.encode_family(labels)?)?;
        }
    }
    Ok(())
}

fn encode<T>(measure: &Measure<T>, row: &T, encoder: MetricEncoder<'_>) -> fmt::Result {
    match measure {
        Measure::Counter(read) => ConstCounter::new(read(row)).encode(encoder),
        Measure::Seconds(read_ns) => ConstCounter::new(seconds(read_ns(row))).encode(encoder),
        Measure::Gauge(read) => ConstGauge::new(read(row)).encode(encoder),
        Measure::Ratio(read) => ConstGauge::new(read(row)).encode(encoder),
    }
}

/// Nanoseconds as seconds; exact to a nanosecond for the first 104 days, to a microsecond for 285 years.
fn seconds(ns: u64) -> f64 {
    std::time::Duration::from_nanos(ns).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_names_counters_by_their_samples() {
        let page = "# HELP d_read_bytes Data moved.\n# TYPE d_read_bytes counter\n# UNIT d_read_bytes bytes\n\
                    d_read_bytes_total{v=\"# TYPE x\"} 1\n# HELP d_size Size of it.\n# TYPE d_size gauge\nd_size 2\n# EOF\n";
        assert_eq!(
            prometheus_text(page),
            "# HELP d_read_bytes_total Data moved.\n# TYPE d_read_bytes_total counter\n\
             d_read_bytes_total{v=\"# TYPE x\"} 1\n# HELP d_size Size of it.\n# TYPE d_size gauge\nd_size 2\n"
        );
    }
}
