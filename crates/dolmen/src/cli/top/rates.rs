//! From two looks at the counters to what happened in between. Pure.

use crate::cli::args::TopSort;
use serde_json::{Value, json};
use std::{cmp::Reverse, collections::BTreeMap};

/// Counters at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// Since 1970, by the node's clock. Milliseconds.
    time_ms: u64,
    node: String,
    /// By sort of object and name.
    objects: BTreeMap<(&'static str, String), Value>,
}

/// One direction of I/O of a volume or a drive.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Flow {
    /// Commands in a second.
    pub(crate) per_second: f64,
    /// Bytes in a second.
    pub(crate) bytes_per_second: f64,
    /// Mean time of one. Nanoseconds.
    pub(crate) mean_ns: f64,
    /// Of a volume: half of the commands took less. Nanoseconds.
    pub(crate) p50_ns: f64,
    /// Of a volume: 99 of 100 took less. Nanoseconds.
    pub(crate) p99_ns: f64,
    /// Of a drive: failed ones in the interval.
    pub(crate) errors: u64,
    /// Time that all took together, for each second.
    busy: f64,
}

/// A volume or a drive.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Object {
    pub(crate) name: String,
    pub(crate) reads: Flow,
    pub(crate) writes: Flow,
    /// Commands under way: on average of a volume, now of a drive.
    pub(crate) depth: f64,
    /// Part of the interval's command time that the QoS policy held back, of a volume.
    pub(crate) throttled: f64,
    /// Failed commands in the interval, of a volume.
    pub(crate) failed: u64,
    /// It works, of a drive.
    pub(crate) healthy: bool,
}

/// A core.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Core {
    pub(crate) core: u64,
    /// Part of the time that it was not asleep, 0 to 1.
    pub(crate) busy: f64,
    pub(crate) per_second: f64,
    pub(crate) turns_per_second: f64,
    pub(crate) connections: u64,
    /// Part of its buffers in use, 0 to 1.
    pub(crate) buffers: f64,
}

/// A host.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) connections: u64,
    pub(crate) per_second: f64,
    pub(crate) received_per_second: f64,
    pub(crate) sent_per_second: f64,
    pub(crate) inflight: u64,
}

/// What happened between two samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rates {
    pub(crate) node: String,
    /// Seconds.
    pub(crate) interval: f64,
    pub(crate) cores: Vec<Core>,
    pub(crate) volumes: Vec<Object>,
    pub(crate) drives: Vec<Object>,
    pub(crate) hosts: Vec<Host>,
}

/// Lists of the answer, and what names their entries.
const SORTS: [(&str, &[&str]); 4] = [
    ("cores", &["core"]),
    ("volumes", &["UUID"]),
    ("drives", &["path", "UUID"]),
    ("connections", &["controller", "queue", "core", "peer"]),
];

impl Sample {
    /// From the API's answer.
    pub(crate) fn read(answer: &Value) -> Sample {
        let mut objects = BTreeMap::new();
        for (sort, keys) in SORTS {
            for object in answer[sort].as_array().into_iter().flatten() {
                let name: Vec<String> = keys.iter().map(|key| object[*key].to_string()).collect();
                objects.insert((sort, name.join("/")), object.clone());
            }
        }
        Sample {
            time_ms: answer["time"].as_u64().unwrap_or(0),
            node: answer["nodeName"].as_str().unwrap_or_default().into(),
            objects,
        }
    }

    /// How the objects of one sort have grown since `before`.
    fn grown<'a>(
        &'a self,
        before: &'a Sample,
        sort: &'static str,
        seconds: f64,
    ) -> impl Iterator<Item = Growth<'a>> {
        let all = self.objects.range((sort, String::new())..).take_while(move |((s, _), _)| *s == sort);
        all.map(move |(key, now)| Growth { before: before.objects.get(key), now, seconds })
    }
}

/// The growth of one object's counters. What is new, or began anew, counts from nothing.
struct Growth<'a> {
    before: Option<&'a Value>,
    now: &'a Value,
    seconds: f64,
}

#[allow(clippy::cast_precision_loss)] // Three digits are shown.
fn real(n: u64) -> f64 {
    n as f64
}

fn number(value: Option<&Value>, path: &str) -> u64 {
    value.and_then(|v| v.pointer(path)).and_then(Value::as_u64).unwrap_or(0)
}

impl Growth<'_> {
    fn count(&self, path: &str) -> u64 {
        let (before, now) = (number(self.before, path), number(Some(self.now), path));
        now.checked_sub(before).unwrap_or(now)
    }

    fn rate(&self, path: &str) -> f64 {
        real(self.count(path)) / self.seconds
    }

    fn flow(&self, side: &str) -> Flow {
        let path = |field: &str| format!("/{side}/{field}");
        let (operations, time_ns) = (self.count(&path("operations")), self.count(&path("nanoseconds")));
        let buckets: Vec<u64> = (0..64)
            .take_while(|i| self.now.pointer(&path(&format!("latency/{i}"))).is_some())
            .map(|i| self.count(&path(&format!("latency/{i}"))))
            .collect();
        let spread = Spread::of(&buckets, real(time_ns));
        Flow {
            per_second: real(operations) / self.seconds,
            bytes_per_second: self.rate(&path("bytes")),
            mean_ns: if operations > 0 { real(time_ns) / real(operations) } else { 0.0 },
            p50_ns: spread.percentile(&buckets, 0.5),
            p99_ns: spread.percentile(&buckets, 0.99),
            errors: self.count(&path("errors")),
            busy: real(time_ns) / 1e9 / self.seconds,
        }
    }
}

/// Where in their buckets commands lie. Bucket i has those that took less than 2^i microseconds and not less than half of that, which
/// alone would be wrong by up to a half. But what all took together is known exactly: every bucket is taken to be filled evenly, from one
/// of its ends on, as far as that sum demands.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Spread {
    /// From the lower end, this part of the width.
    Low(f64),
    /// From the upper end.
    High(f64),
}

impl Spread {
    /// What fits the counts and the time of all together. Nanoseconds.
    fn of(buckets: &[u64], time_ns: f64) -> Spread {
        let sum = |at: fn((f64, f64)) -> f64| -> f64 {
            buckets.iter().zip(0..).map(|(&count, i)| real(count) * at(ends(i))).sum()
        };
        let (low, middle, high) =
            (sum(|(low, _)| low), sum(|(low, high)| (low + high) / 2.0), sum(|(_, high)| high));
        // Time and counts may be of slightly different moments.
        if time_ns <= middle {
            Spread::Low(((time_ns - low) / (middle - low).max(1.0)).clamp(0.0, 1.0))
        } else {
            Spread::High(((high - time_ns) / (high - middle).max(1.0)).clamp(0.0, 1.0))
        }
    }

    /// The time that a part of the commands did not exceed. Nanoseconds.
    fn percentile(self, buckets: &[u64], part: f64) -> f64 {
        let all: u64 = buckets.iter().sum();
        let wanted = real(all) * part;
        let mut below = 0.0;
        for (&count, i) in buckets.iter().zip(0..) {
            let here = real(count);
            if here > 0.0 && below + here >= wanted {
                let (low, high) = ends(i);
                let (from, width) = match self {
                    Spread::Low(part) => (low, (high - low) * part),
                    Spread::High(part) => (high - (high - low) * part, (high - low) * part),
                };
                return from + width * ((wanted - below) / here);
            }
            below += here;
        }
        0.0
    }
}

/// The ends of a bucket. Nanoseconds.
fn ends(i: i32) -> (f64, f64) {
    let low = if i == 0 { 0.0 } else { 2f64.powi(i - 1) };
    (low * 1000.0, 2f64.powi(i) * 1000.0)
}

impl Rates {
    /// What happened between two samples of one node.
    pub(crate) fn between(before: &Sample, now: &Sample) -> Rates {
        // A clock that was set back, or two samples of one moment, must not make infinities.
        let interval = real(now.time_ms.saturating_sub(before.time_ms).max(1)) / 1000.0;
        let grown = |sort| now.grown(before, sort, interval);
        let mut hosts: BTreeMap<&str, Host> = BTreeMap::new();
        for g in grown("connections") {
            let name = g.now["host"].as_str().unwrap_or_default();
            let host = hosts.entry(name).or_insert_with(|| Host { name: name.into(), ..Host::default() });
            host.connections += 1;
            host.per_second += g.rate("/commands");
            host.received_per_second += g.rate("/receivedBytes");
            host.sent_per_second += g.rate("/sentBytes");
            host.inflight += number(Some(g.now), "/inflight");
        }
        Rates {
            node: now.node.clone(),
            interval,
            cores: grown("cores").map(|g| core(&g)).collect(),
            volumes: grown("volumes").map(|g| volume(&g)).collect(),
            drives: grown("drives").map(|g| drive(&g)).collect(),
            hosts: hosts.into_values().collect(),
        }
    }

    /// Volumes, drives and hosts with the most of something first.
    pub(crate) fn sort(&mut self, by: TopSort) {
        // Whole numbers order; the unit is small enough for every rate.
        let by_size = |f: f64| Reverse((f * 1000.0).round().max(0.0).to_bits());
        let object = |o: &Object| match by {
            TopSort::Iops => by_size(o.reads.per_second + o.writes.per_second),
            TopSort::Bandwidth => by_size(o.reads.bytes_per_second + o.writes.bytes_per_second),
            TopSort::Latency => by_size(o.latency_ns()),
            TopSort::Depth => by_size(o.depth),
            TopSort::Name => Reverse(0),
        };
        for objects in [&mut self.volumes, &mut self.drives] {
            objects.sort_by(|a, b| object(a).cmp(&object(b)).then_with(|| a.name.cmp(&b.name)));
        }
        let host = |h: &Host| match by {
            TopSort::Bandwidth => by_size(h.received_per_second + h.sent_per_second),
            TopSort::Name => Reverse(0),
            TopSort::Depth => by_size(real(h.inflight)),
            TopSort::Iops | TopSort::Latency => by_size(h.per_second),
        };
        self.hosts.sort_by(|a, b| host(a).cmp(&host(b)).then_with(|| a.name.cmp(&b.name)));
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let volume = |o: &Object| {
            json!({
                "name": o.name, "reads": flow(&o.reads), "writes": flow(&o.writes), "depth": o.depth,
                "throttled": o.throttled, "failed": o.failed,
            })
        };
        let drive = |o: &Object| {
            json!({
                "path": o.name, "healthy": o.healthy, "reads": flow(&o.reads), "writes": flow(&o.writes), "inflight": o.depth,
                "errors": o.reads.errors + o.writes.errors,
            })
        };
        json!({
            "nodeName": self.node,
            "intervalSeconds": self.interval,
            "cores": self.cores.iter().map(|c| json!({
                "core": c.core, "busy": c.busy, "commandsPerSecond": c.per_second, "turnsPerSecond": c.turns_per_second,
                "connections": c.connections, "buffers": c.buffers,
            })).collect::<Vec<_>>(),
            "volumes": self.volumes.iter().map(volume).collect::<Vec<_>>(),
            "drives": self.drives.iter().map(drive).collect::<Vec<_>>(),
            "hosts": self.hosts.iter().map(|h| json!({
                "host": h.name, "connections": h.connections, "commandsPerSecond": h.per_second,
                "receivedBytesPerSecond": h.received_per_second, "sentBytesPerSecond": h.sent_per_second,
                "inflight": h.inflight,
            })).collect::<Vec<_>>(),
        })
    }
}

impl Object {
    /// The worse mean of both directions. Nanoseconds.
    pub(crate) fn latency_ns(&self) -> f64 {
        self.reads.mean_ns.max(self.writes.mean_ns)
    }
}

fn flow(flow: &Flow) -> Value {
    json!({
        "perSecond": flow.per_second,
        "bytesPerSecond": flow.bytes_per_second,
        "meanNanoseconds": flow.mean_ns,
        "p50Nanoseconds": flow.p50_ns,
        "p99Nanoseconds": flow.p99_ns,
    })
}

fn core(g: &Growth<'_>) -> Core {
    let (busy, idle) = (g.rate("/busyNanoseconds"), g.rate("/idleNanoseconds"));
    let total = number(Some(g.now), "/buffersTotal").max(1);
    Core {
        core: number(Some(g.now), "/core"),
        busy: if busy + idle > 0.0 { busy / (busy + idle) } else { 0.0 },
        per_second: g.rate("/commands"),
        turns_per_second: g.rate("/turns"),
        connections: number(Some(g.now), "/connections"),
        buffers: real(number(Some(g.now), "/buffersUsed")) / real(total),
    }
}

fn volume(g: &Growth<'_>) -> Object {
    let (reads, writes) = (g.flow("reads"), g.flow("writes"));
    let (held, all) = (g.rate("/throttledNanoseconds") / 1e9, reads.busy + writes.busy);
    Object {
        name: g.now["name"].as_str().unwrap_or_default().into(),
        depth: all,
        throttled: if all > 0.0 { (held / all).min(1.0) } else { 0.0 },
        failed: g.count("/failed"),
        healthy: true,
        reads,
        writes,
    }
}

fn drive(g: &Growth<'_>) -> Object {
    Object {
        name: g.now["path"].as_str().unwrap_or_default().into(),
        reads: g.flow("reads"),
        writes: g.flow("writes"),
        depth: real(number(Some(g.now), "/inflight")),
        throttled: 0.0,
        failed: 0,
        healthy: g.now["healthy"].as_bool().unwrap_or(true),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Two looks, two seconds apart: volume `a` reads 1000 times, `b` writes 10 times slowly.
    pub(crate) fn two() -> (Sample, Sample) {
        let at = |time: u64, n: u64| {
            let io = |operations: u64, each_ns: u64, bucket: usize| {
                let mut latency = [0; 28];
                latency[bucket] = operations;
                json!({"operations": operations, "bytes": operations * 4096, "nanoseconds": operations * each_ns,
                    "errors": 0, "latency": latency})
            };
            let volume = |uuid: &str, name: &str, reads: Value, writes: Value| {
                json!({"UUID": uuid, "name": name, "reads": reads, "writes": writes, "failed": n / 5,
                    "throttledNanoseconds": n * 5_000_000})
            };
            json!({
                "time": time, "nodeName": "node",
                "cores": [{"core": 0, "commands": n * 101, "busyNanoseconds": n * 50_000_000, "idleNanoseconds": n * 150_000_000,
                    "turns": n * 40, "connections": 2, "buffersUsed": 10, "buffersTotal": 100}],
                "volumes": [
                    volume("1", "a", io(n * 100, 20_000, 5), io(0, 0, 0)),
                    volume("2", "b", io(0, 0, 0), io(n, 10_000_000, 14)),
                ],
                "drives": [{"path": "/dev/nvme0n1", "healthy": true, "reads": io(n * 100, 15_000, 4),
                    "writes": io(n, 9_000_000, 14), "inflight": 3}],
                "connections": [
                    {"peer": "p1", "host": "nqn.h", "controller": 1, "queue": 1, "core": 0, "commands": n * 60,
                        "receivedBytes": n * 4096, "sentBytes": 0, "inflight": 1},
                    {"peer": "p2", "host": "nqn.h", "controller": 1, "queue": 2, "core": 0, "commands": n * 41,
                        "receivedBytes": 0, "sentBytes": n * 409_600, "inflight": 2},
                ],
            })
        };
        (Sample::read(&at(10_000, 5)), Sample::read(&at(12_000, 15)))
    }

    #[test]
    fn rates_are_growth_over_time() {
        let (before, now) = two();
        let rates = Rates::between(&before, &now);
        let (a, b) = (&rates.volumes[0], &rates.volumes[1]);
        assert_eq!(
            (a.reads.per_second, a.reads.bytes_per_second, a.reads.mean_ns),
            (500.0, 2_048_000.0, 20_000.0)
        );
        assert!((16_000.0..32_000.0).contains(&a.reads.p50_ns) && a.reads.p99_ns > a.reads.p50_ns);
        assert!((a.depth - 0.01).abs() < 1e-9 && (b.depth - 0.05).abs() < 1e-9);
        assert!((b.throttled - 0.5).abs() < 1e-9 && b.failed == 2);
        assert_eq!((rates.cores[0].busy, rates.cores[0].per_second), (0.25, 505.0));
        assert_eq!(
            (rates.hosts[0].connections, rates.hosts[0].per_second, rates.hosts[0].inflight),
            (2, 505.0, 3)
        );
        assert_eq!(rates.drives[0].depth, 3.0);
    }

    #[test]
    fn percentiles_agree_with_the_mean() {
        let mut buckets = [0; 28];
        // A thousand near 646 ms, which share a bucket from 524 to 1049 ms.
        buckets[20] = 1000;
        let spread = Spread::of(&buckets, 1000.0 * 646e6);
        let (p50, p99) = (spread.percentile(&buckets, 0.5), spread.percentile(&buckets, 0.99));
        assert!((p50 - 646e6).abs() < 1e6 && p99 < 770e6, "{p50} {p99}");
        // Near the upper end.
        let spread = Spread::of(&buckets, 1000.0 * 1e9);
        let (p50, p99) = (spread.percentile(&buckets, 0.5), spread.percentile(&buckets, 0.99));
        assert!((p50 - 1e9).abs() < 1e6 && (1e9..1.049e9).contains(&p99), "{p50} {p99}");
        // A few slow ones beside many quick ones.
        buckets[5] = 100_000;
        let spread = Spread::of(&buckets, 1000.0 * 646e6 + 100_000.0 * 20e3);
        assert!((16e3..32e3).contains(&spread.percentile(&buckets, 0.5)));
        assert_eq!(Spread::of(&[0; 28], 0.0).percentile(&[0; 28], 0.5).to_bits(), 0);
    }

    /// A drive that has died is listed still when another one serves at its path.
    #[test]
    fn drives_of_one_path_are_told_apart() {
        let drive =
            |uuid: &str, healthy: bool| json!({"path": "/dev/nvme0n1", "UUID": uuid, "healthy": healthy});
        let sample = Sample::read(&json!({"time": 1, "drives": [drive("1", false), drive("2", true)]}));
        let drives = Rates::between(&sample, &sample).drives;
        assert_eq!(drives.iter().map(|d| d.healthy).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn a_node_that_began_anew_and_a_clock_that_stands_give_no_nonsense() {
        let (before, now) = two();
        let restarted = Rates::between(&now, &before);
        assert!(
            restarted.volumes.iter().all(|v| v.reads.per_second.is_finite() && v.reads.per_second >= 0.0)
        );
        let still = Rates::between(&now, &now);
        assert!(still.volumes.iter().all(|v| v.reads.per_second == 0.0 && v.reads.p99_ns == 0.0));
        assert!(Rates::between(&Sample::default(), &Sample::read(&Value::Null)).volumes.is_empty());
    }

    #[test]
    fn what_is_asked_for_comes_first() {
        let (before, now) = two();
        let mut rates = Rates::between(&before, &now);
        let mut first = |by| {
            rates.sort(by);
            rates.volumes[0].name.clone()
        };
        assert_eq!(
            [TopSort::Iops, TopSort::Latency, TopSort::Bandwidth, TopSort::Depth, TopSort::Name]
                .map(&mut first),
            ["a", "b", "a", "b", "a"]
        );
    }
}
