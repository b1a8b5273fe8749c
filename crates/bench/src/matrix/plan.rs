//! What the matrix measures: rows of loads, who contends in each, and what is asked of them.

use crate::{
    args::MatrixArgs,
    floor::staging::Gather,
    peers::Peer,
    verdict::Budget,
    workload::{Shape, Workload},
};
use std::fmt;

/// Requests under way over all connections at most: what the client's memory is laid out for.
const MOST_UNDER_WAY: u32 = 8192;
const DEPTHS: [u16; 4] = [1, 8, 32, 128];
const CONNECTIONS: [u16; 4] = [1, 4, 16, 64];
/// Payloads around the place where the target stops staging them.
const PAYLOAD_BYTES: [usize; 5] = [4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10];

/// How a daemon's cores wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// They poll through every gap of a load.
    Polling,
    /// As they do by themselves: they poll for a short time, then sleep.
    Adaptive,
    /// They sleep at once.
    Asleep,
}

/// Who contends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contestant {
    /// The bare program.
    Floor,
    /// The bare program, but messages are made anew, and payloads have buffers of their own.
    Filling,
    /// The bare program whose server sleeps in epoll.
    SleepingFloor,
    /// As much as one core can copy.
    Copy,
    /// A volume that keeps nothing.
    Null(Mode),
    /// A volume in memory.
    Memory,
    /// Somebody else.
    Peer(Peer),
    /// A bare server that gathers its replies so.
    Gather(Gather),
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Contestant::Floor => "floor",
            Contestant::Filling => "filling",
            Contestant::SleepingFloor => "epoll floor",
            Contestant::Copy => "bare copy",
            Contestant::Null(Mode::Polling) => "null",
            Contestant::Null(Mode::Adaptive) => "null, adaptive",
            Contestant::Null(Mode::Asleep) => "null, asleep",
            Contestant::Memory => "memory",
            Contestant::Peer(peer) => peer.name(),
            Contestant::Gather(Gather::Staged) => "staged",
            Contestant::Gather(Gather::Vectors) => "vectors",
        })
    }
}

/// Which figure is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Metric {
    /// Requests per second, over the other's.
    Rate,
    /// Mean latency, over the other's.
    Mean,
    /// 99.9th percentile, over the other's.
    P999,
    /// Mean latency beyond the other's, in microseconds.
    MeanBeyond,
    /// The slowest connection over the mean one.
    Slowest,
    /// 99th percentile over the median.
    Tail,
}

/// One thing asked of a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judge {
    pub(super) metric: Metric,
    pub(super) of: Contestant,
    /// The one it is compared with; ignored by metrics of one alone.
    pub(super) to: Contestant,
    pub(super) budget: Budget,
}

/// One load and who gets it.
#[derive(Clone, Debug)]
pub(super) struct RowPlan {
    pub(super) part: &'static str,
    pub(super) workload: Workload,
    pub(super) contestants: Vec<Contestant>,
    pub(super) judges: Vec<Judge>,
}

const NULL: Contestant = Contestant::Null(Mode::Polling);

/// All rows that the arguments ask for.
pub(super) fn rows(args: &MatrixArgs) -> Vec<RowPlan> {
    let mut rows = Vec::new();
    let loads = if args.full { all_loads() } else { judged_loads() };
    rows.extend(loads.into_iter().map(load));
    rows.extend(large());
    rows.extend(adaptive());
    rows.extend(peers(args.full));
    rows.extend(PAYLOAD_BYTES.map(staging));
    rows.retain(|row| args.wants(row.part));
    if let Some(words) = &args.load {
        rows.retain(|row| row.workload.to_string().contains(words.as_str()));
    }
    rows
}

fn all_loads() -> Vec<Workload> {
    let mut loads = Vec::new();
    for shape in [Shape::Read, Shape::Write, Shape::Mix] {
        for depth in DEPTHS {
            for connections in CONNECTIONS {
                let fits = u32::from(depth) * u32::from(connections) <= MOST_UNDER_WAY;
                if fits && (shape != Shape::Mix || connections == 1 || depth == 32) {
                    loads.push(Workload::small(shape, depth, connections));
                }
            }
        }
    }
    loads
}

/// Those with a budget.
fn judged_loads() -> Vec<Workload> {
    let mut loads = vec![Workload::small(Shape::Read, 1, 1)];
    loads.extend([1, 16, 64].map(|connections| Workload::small(Shape::Read, 32, connections)));
    loads.push(Workload::small(Shape::Read, 128, 16));
    loads.extend([1, 16].map(|connections| Workload::small(Shape::Write, 32, connections)));
    loads.push(Workload::small(Shape::Mix, 32, 1));
    loads
}

/// A 4 KiB load: both volumes beside the floor with as many connections.
fn load(workload: Workload) -> RowPlan {
    let judge = |metric, budget| Judge { metric, of: NULL, to: Contestant::Floor, budget };
    let (mut contestants, mut judges) = (vec![Contestant::Floor, NULL, Contestant::Memory], Vec::new());
    if workload.depth == 32 {
        let (metric, budget) = (Metric::Rate, Budget::None);
        judges.push(judge(metric, Budget::AtLeast(0.85)));
        judges.push(Judge { metric, of: Contestant::Filling, to: Contestant::Floor, budget });
        judges.push(Judge { metric, of: NULL, to: Contestant::Filling, budget });
        contestants.insert(1, Contestant::Filling);
    }
    if workload.depth == 1 && workload.connections == 1 && workload.shape == Shape::Read {
        judges.push(judge(Metric::Mean, Budget::AtMost(1.15)));
        judges.push(judge(Metric::P999, Budget::AtMost(1.3)));
    }
    if workload.connections >= 16 {
        judges.push(judge(Metric::Slowest, Budget::AtLeast(0.5)));
        judges.push(judge(Metric::Tail, Budget::AtMost(5.0)));
    }
    RowPlan { part: "loads", workload, contestants, judges }
}

/// 128 KiB: beside what one core can copy.
fn large() -> Vec<RowPlan> {
    let row = |shape, depth| {
        let workload = Workload { shape, bytes: 128 << 10, depth, connections: 1 };
        let budget = if depth == 32 { Budget::AtLeast(0.95) } else { Budget::None };
        let judges = vec![Judge { metric: Metric::Rate, of: NULL, to: Contestant::Copy, budget }];
        let contestants = vec![Contestant::Copy, Contestant::Floor, NULL, Contestant::Memory];
        RowPlan { part: "loads", workload, contestants, judges }
    };
    [Shape::Read, Shape::Write].into_iter().flat_map(|shape| [8, 32].map(|depth| row(shape, depth))).collect()
}

/// Sleeping when there is nothing to do, against polling and against a bare program that sleeps.
fn adaptive() -> Vec<RowPlan> {
    let (adaptive, asleep) = (Contestant::Null(Mode::Adaptive), Contestant::Null(Mode::Asleep));
    let judge = |metric, of, to, budget| Judge { metric, of, to, budget };
    let deep = RowPlan {
        part: "adaptive",
        workload: Workload::small(Shape::Read, 32, 1),
        contestants: vec![NULL, adaptive, asleep],
        judges: vec![
            judge(Metric::Rate, adaptive, NULL, Budget::AtLeast(0.97)),
            judge(Metric::Rate, asleep, NULL, Budget::None),
        ],
    };
    let single = RowPlan {
        part: "adaptive",
        workload: Workload::small(Shape::Read, 1, 1),
        contestants: vec![Contestant::SleepingFloor, adaptive, asleep],
        judges: vec![
            judge(Metric::MeanBeyond, adaptive, Contestant::SleepingFloor, Budget::AtMost(2.0)),
            judge(Metric::MeanBeyond, asleep, Contestant::SleepingFloor, Budget::AtMost(2.0)),
        ],
    };
    vec![deep, single]
}

fn peers(full: bool) -> Vec<RowPlan> {
    let mut loads = vec![Workload::small(Shape::Read, 1, 1), Workload::small(Shape::Read, 32, 1)];
    loads.push(Workload::small(Shape::Write, 32, 1));
    if full {
        loads.push(Workload::small(Shape::Mix, 32, 1));
    }
    let row = |workload: Workload| {
        let peers: Vec<_> = Peer::ALL.into_iter().filter(|peer| peer.can(&workload)).collect();
        let judges = peers.iter().map(|&peer| Judge {
            metric: Metric::Rate,
            of: Contestant::Memory,
            to: Contestant::Peer(peer),
            budget: Budget::AtLeast(1.0),
        });
        let mut contestants = vec![Contestant::Floor, Contestant::Memory];
        let judges = judges.collect();
        contestants.extend(peers.into_iter().map(Contestant::Peer));
        RowPlan { part: "peers", workload, contestants, judges }
    };
    loads.into_iter().map(row).collect()
}

fn staging(bytes: usize) -> RowPlan {
    let (staged, vectors) = (Contestant::Gather(Gather::Staged), Contestant::Gather(Gather::Vectors));
    RowPlan {
        part: "staging",
        workload: Workload { shape: Shape::Read, bytes, depth: 32, connections: 1 },
        contestants: vec![Contestant::Floor, staged, vectors],
        judges: vec![Judge { metric: Metric::Rate, of: staged, to: vectors, budget: Budget::None }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Verb};
    use clap::Parser;

    fn planned(words: &[&str]) -> Vec<RowPlan> {
        let words = [&["b", "matrix", "--dolmen", "d"], words].concat();
        let Some(Verb::Matrix(args)) = Args::try_parse_from(words).unwrap().verb else {
            panic!("another verb")
        };
        rows(&args)
    }

    #[test]
    fn everybody_judged_contends() {
        for row in planned(&["--full"]) {
            for judge in &row.judges {
                let both = [judge.of, judge.to];
                assert!(both.iter().all(|who| row.contestants.contains(who)), "{row:?}");
            }
        }
    }

    #[test]
    fn the_full_matrix_is_full() {
        let rows = planned(&["--full", "--only", "loads"]);
        for shape in [Shape::Read, Shape::Write] {
            let of = rows.iter().filter(|r| r.workload.shape == shape && r.workload.bytes == 4096);
            assert_eq!(of.count(), 16);
        }
        assert!(planned(&[]).len() < rows.len());
        let some = planned(&["--only", "loads", "--load", "4K random read, depth 32"]);
        assert_eq!(some.len(), 3);
    }
}
