//! The grammar of `dolmen bench`.

use crate::cli::{
    duration::{Span, duration, milliseconds_or_never},
    fabric::FabricArgs,
};
use clap::{Args, Subcommand, ValueEnum};
use dolmen_initiator::load::{Mix, Pattern, Skew};
use dolmen_types::{ByteSize, limits::MAX_IO_QUEUES};
use serde::{Deserialize, Serialize};
use std::{path::PathBuf, time::Duration};

const EXAMPLES: &str = "\
Examples:
  dolmen bench 192.0.2.1 --rw randread --bs 4k --iodepth 32
  dolmen bench 192.0.2.1:4420 --nqn nqn.2016-01.com.lightbitslabs:uuid:... --nsid 3 --rw randrw --rwmixread 70 --jobs 2 --cpus 2,3
  dolmen bench 192.0.2.1 --rw randwrite --size 8GiB --verify --destroy-data
  dolmen bench 192.0.2.1 --rw randread --rate 20000 --save before.json
  dolmen bench compare before.json after.json

Each job is a thread with its own connections. Several targets are addresses that the jobs are spread over.";

/// Options of `bench`.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, after_help = EXAMPLES)]
pub struct BenchArgs {
    /// What else.
    #[command(subcommand)]
    pub verb: Option<BenchVerb>,

    /// Where a target listens: ADDRESS or ADDRESS:PORT, a name or an IP. Jobs are spread over several. The port is 4420 with --nqn;
    /// without it that of a discovery service, 8009
    #[arg(required = true, value_name = "TARGET")]
    pub targets: Vec<String>,

    /// What the commands are
    #[arg(long, value_name = "WORKLOAD", default_value = "randread")]
    pub rw: Rw,
    /// Data of one command
    #[arg(long, value_name = "SIZE", default_value = "4k", allow_negative_numbers = true, value_parser = size, visible_alias = "block-size")]
    pub bs: ByteSize,
    /// Reads among the commands of randrw and rw, in per cent [default: 50]
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub rwmixread: Option<u8>,
    /// Commands under way on each connection
    #[arg(long, value_name = "COUNT", default_value_t = 32, allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..=1023))]
    pub iodepth: u16,
    /// Threads, each with connections of its own
    #[arg(long, value_name = "COUNT", default_value_t = 1, allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..=256), visible_alias = "numjobs")]
    pub jobs: u16,
    /// Connections (I/O queues) of each job
    #[arg(long, value_name = "COUNT", default_value_t = 1, allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_IO_QUEUES)))]
    pub connections: u16,
    /// How long is counted: seconds, or with a unit (500ms, 30s, 5m, 2h)
    #[arg(long, value_name = "TIME", default_value = "10", allow_negative_numbers = true, value_parser = duration)]
    pub runtime: Duration,
    /// How long it runs before counting begins
    #[arg(long, value_name = "TIME", default_value = "1", allow_negative_numbers = true, value_parser = duration, visible_alias = "ramp-time")]
    pub ramp: Duration,
    /// Commands a second, all jobs together; latency counts from when a command was due, and to the end of the run for those
    /// that are late then [default: as fast as it goes]
    #[arg(long, value_name = "IOPS", allow_negative_numbers = true, value_parser = rate)]
    pub rate: Option<u64>,
    /// Find the largest depth, up to --iodepth, at which latency stays within this (200us, 1ms), and measure there
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with_all = ["rate", "verify", "once"])]
    pub latency_target: Option<Duration>,
    /// The percentile that --latency-target is about
    #[arg(long, value_name = "PERCENT", default_value_t = 99.0, value_parser = percentile, requires = "latency_target")]
    pub latency_percentile: f64,
    /// End when the range has been gone over once, every block of it, instead of after --runtime; counting begins at once
    #[arg(long)]
    pub once: bool,
    /// Where the range starts in the namespace
    #[arg(long, value_name = "SIZE", default_value = "0", allow_negative_numbers = true, value_parser = size)]
    pub offset: ByteSize,
    /// How long the range is [default: to the end of the namespace]. Jobs share it at random, and have a part each when
    /// sequential, verified or gone over once
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, value_parser = size)]
    pub size: Option<ByteSize>,
    /// Random commands that go to a hot part of the range: 90/10 sends 90 % of them to the first 10 %
    #[arg(long, value_name = "PERCENT/PERCENT", value_parser = skew)]
    pub hot: Option<Skew>,
    /// Same seed, same addresses
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How much of what is written is zeroes, in per cent; the rest is noise that nothing compresses [default: 0]
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub compressible: Option<u8>,

    /// Stamp every 4 KiB that is written, check every read, and read everything back at the end
    #[arg(long)]
    pub verify: bool,
    /// All data in the range may be lost: needed for everything that writes
    #[arg(long)]
    pub destroy_data: bool,

    /// Who is meant, and who we are.
    #[command(flatten)]
    pub fabric: FabricArgs,

    /// A connection that has been away for so long is given up: what waits for it fails, and the run ends with an error
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = milliseconds_or_never)]
    pub loss_timeout: Span,

    /// CPUs that the jobs are pinned to, one after the other: 2,3 or 2-5
    #[arg(long, value_name = "LIST", value_parser = cpus)]
    pub cpus: Option<CpuList>,
    /// Never sleep: the least latency, for a whole CPU per job
    #[arg(long)]
    pub poll: bool,
    /// How long an idle job polls before it sleeps, in microseconds
    #[arg(long, value_name = "US", default_value_t = 50, conflicts_with = "poll")]
    pub poll_window_us: u64,

    /// Write the result to this file too, as JSON, for `bench compare`
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// Compare with an earlier result
    #[arg(long, value_name = "FILE")]
    pub compare: Option<PathBuf>,
}

/// Other verbs of `bench`.
#[derive(Clone, Debug, Subcommand)]
pub enum BenchVerb {
    /// Put two results side by side, and say which differences are more than noise
    Compare {
        /// The earlier one: a file from --save or --output json
        before: PathBuf,
        /// The later one
        after: PathBuf,
    },
}

/// What the commands of a workload are, in fio's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rw {
    /// Random reads.
    Randread,
    /// Random writes.
    Randwrite,
    /// Sequential reads.
    Read,
    /// Sequential writes.
    Write,
    /// Random reads and writes, see --rwmixread.
    Randrw,
    /// Sequential reads and writes, see --rwmixread.
    #[value(alias = "readwrite")]
    Rw,
}

impl Rw {
    /// True when commands follow each other in order of addresses.
    pub(super) fn is_sequential(self) -> bool {
        matches!(self, Rw::Read | Rw::Write | Rw::Rw)
    }
}

/// CPU numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(pub(super) Vec<usize>);

impl BenchArgs {
    /// Shares of reads and writes.
    pub(super) fn mix(&self) -> Mix {
        match self.rw {
            Rw::Randread | Rw::Read => Mix::READ,
            Rw::Randwrite | Rw::Write => Mix::WRITE,
            Rw::Randrw | Rw::Rw => Mix { reads: self.rwmixread.unwrap_or(50), zeroes: 0 },
        }
    }

    /// Order of addresses.
    pub(super) fn pattern(&self) -> Pattern {
        match self.hot {
            _ if self.rw.is_sequential() => Pattern::Sequential,
            Some(skew) => Pattern::Skewed(skew),
            None if self.once => Pattern::Shuffled,
            None => Pattern::Random,
        }
    }
}

fn size(text: &str) -> Result<ByteSize, String> {
    ByteSize::parse_lenient(text).map_err(|why| why.to_string())
}

fn rate(text: &str) -> Result<u64, String> {
    text.parse()
        .ok()
        .filter(|&rate| rate > 0)
        .ok_or_else(|| "a whole number of commands a second, at least 1".into())
}

fn percentile(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(p) if (1.0..100.0).contains(&p) => Ok(p),
        _ => Err("a percentile from 1 to below 100, as in 99.9".into()),
    }
}

fn skew(text: &str) -> Result<Skew, String> {
    let part = |text: &str| text.trim_end_matches('%').parse::<u8>().ok();
    match text.split_once('/').map(|(commands, region)| (part(commands), part(region))) {
        Some((Some(commands @ 0..=100), Some(region @ 1..=99))) => Ok(Skew { commands, region }),
        _ => Err("write two percentages, of the commands and of the range, as in 90/10".into()),
    }
}

fn cpus(text: &str) -> Result<CpuList, String> {
    let wrong = || "write CPU numbers, as in 2,3 or 2-5".to_string();
    let mut list = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
            (Ok(first), Ok(last)) if first <= last && last < 4096 => list.extend(first..=last),
            _ => return Err(wrong()),
        }
    }
    Ok(CpuList(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_fio_users_write_them() {
        assert_eq!(size("4k"), Ok(ByteSize(4096)));
        assert_eq!(size("1048576"), Ok(ByteSize(1 << 20)));
        assert_eq!(skew("90/10"), Ok(Skew { commands: 90, region: 10 }));
        assert_eq!(cpus("1,4-6"), Ok(CpuList(vec![1, 4, 5, 6])));
        for wrong in ["90", "101/10", "90/0", "90/100", "a/b"] {
            assert!(skew(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "a", "3-1", "1,,2", "99999"] {
            assert!(cpus(wrong).is_err(), "{wrong}");
        }
        assert_eq!((rate("20000"), rate("0").is_err(), rate("-1").is_err()), (Ok(20_000), true, true));
    }
}
