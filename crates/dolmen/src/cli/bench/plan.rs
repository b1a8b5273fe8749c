//! What is to be done, checked as a whole: the workload, the range, and which job does what where.

use super::{BenchArgs, args::Rw, goal::Goal};
use crate::cli::error::{CliError, Exit};
use dolmen_initiator::load::{LoadOptions, Mix, Pattern, Start};
use dolmen_types::ByteSize;
use std::{collections::BTreeSet, time::Duration};

/// Most that one run verifies: 16 bytes of memory for each 4 KiB.
const MAX_VERIFIED: u64 = 256 << 30;

/// A checked plan.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) rw: Rw,
    pub(super) mix: Mix,
    pub(super) pattern: Pattern,
    /// Data of one command. Bytes.
    pub(super) bs: u64,
    /// Commands under way on each connection.
    pub(super) depth: u16,
    pub(super) jobs: u16,
    /// Connections of each job.
    pub(super) connections: u16,
    pub(super) rate: Option<u64>,
    /// Where the range starts, and how long it is. Bytes.
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) seed: u64,
    pub(super) zero_fill: u8,
    /// What tells this run's stamps from others'.
    pub(super) verify: Option<u64>,
    /// The range is gone over once.
    once: bool,
    pub(super) spin_ns: u64,
    cpus: Vec<usize>,
    /// One for each target.
    pub(super) goals: Vec<Goal>,
}

/// One stretch of load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// Commands under way on each connection.
    pub(super) depth: u16,
    /// Before counting.
    pub(super) ramp: Duration,
    /// Counting.
    pub(super) runtime: Duration,
    /// End after the range has been gone over once, instead.
    pub(super) once: bool,
}

impl Plan {
    /// Checks what was asked for against what the targets have. `stamp` is a number that no other run has.
    pub(super) fn new(args: &BenchArgs, goals: Vec<Goal>, stamp: u64) -> Result<Plan, CliError> {
        let mix = args.mix();
        // Beyond that commands would wait here, and be counted as if they were under way.
        let most = goals.iter().map(|goal| goal.most_depth).min().unwrap_or(args.iodepth);
        let plan = Plan {
            rw: args.rw,
            mix,
            pattern: args.pattern(),
            bs: args.bs.0,
            depth: args.iodepth.min(most),
            jobs: args.jobs,
            connections: args.connections,
            rate: args.rate,
            offset: args.offset.0,
            size: 0,
            seed: args.seed,
            zero_fill: args.compressible.unwrap_or(0),
            verify: args.verify.then_some(stamp),
            once: args.once,
            spin_ns: if args.poll { u64::MAX } else { args.poll_window_us.saturating_mul(1000) },
            cpus: args.cpus.clone().map(|list| list.0).unwrap_or_default(),
            goals,
        };
        for goal in &plan.goals {
            plan.check_commands(goal)?;
        }
        let plan = Plan { size: plan.check_range(args)?, ..plan };
        plan.check_flags(args)?;
        Ok(plan)
    }

    fn check_commands(&self, goal: &Goal) -> Result<(), CliError> {
        let (block, bs) = (u64::from(goal.namespace.block_bytes), self.bs);
        let most = goal.most_bytes;
        if bs == 0 {
            return Err(CliError::usage(format!(
                "--bs is at least the block of {block} bytes of {}",
                goal.name()
            )));
        }
        if !bs.is_multiple_of(block) {
            return Err(CliError::usage(format!(
                "--bs {bs} is not a multiple of the block of {block} bytes of {}",
                goal.name()
            )));
        }
        if bs > most {
            return Err(CliError::usage(format!(
                "--bs {bs} is more than one command may move at {}: {most} bytes",
                goal.options.addr
            )));
        }
        if self.verify.is_some() && !bs.is_multiple_of(4096) {
            return Err(CliError::usage("--verify needs a --bs that is a multiple of 4096"));
        }
        Ok(())
    }

    /// The length of the range.
    fn check_range(&self, args: &BenchArgs) -> Result<u64, CliError> {
        let smallest = self.goals.iter().map(|g| g.namespace.size_bytes()).min().unwrap_or(0);
        let least = self.bs * if self.is_parted() { u64::from(self.jobs) } else { 1 };
        let offset = args.offset.0;
        if !offset.is_multiple_of(self.bs) {
            return Err(CliError::usage(format!("--offset {offset} is not a multiple of --bs {}", self.bs)));
        }
        if offset >= smallest {
            let text =
                format!("--offset {offset} is beyond the end of the namespace, which has {smallest} bytes");
            return Err(CliError::usage(text));
        }
        let left = smallest - offset;
        let size = args.size.map_or(left, |size| size.0);
        if size > left {
            let text = format!(
                "the range from {offset} of {size} bytes goes beyond the end of the namespace, which has {smallest} bytes"
            );
            return Err(CliError::usage(text).hint("see --offset and --size"));
        }
        if size < least {
            return Err(CliError::usage(format!(
                "the range of {size} bytes has no room for a command of each job"
            )));
        }
        if self.verify.is_some() && size > MAX_VERIFIED {
            let text = format!(
                "--verify remembers 16 bytes for every 4 KiB; {} are too much for that",
                ByteSize(size)
            );
            return Err(
                CliError::usage(text).hint(format!("choose a --size up to {}", ByteSize(MAX_VERIFIED)))
            );
        }
        Ok(size)
    }

    fn check_flags(&self, args: &BenchArgs) -> Result<(), CliError> {
        if args.hot.is_some() && self.rw.is_sequential() {
            return Err(CliError::usage("--hot is for random commands; take randread, randwrite or randrw"));
        }
        self.check_use(args)?;
        if args.hot.is_some() && args.once {
            return Err(CliError::usage(
                "--once takes every block once, --hot some more often than others; give one",
            ));
        }
        if !args.once && args.runtime.is_zero() {
            return Err(CliError::usage("--runtime 0 counts nothing"));
        }
        if self.rate.is_some_and(|rate| rate < u64::from(self.jobs)) {
            return Err(CliError::usage("--rate is less than one command a second for each job"));
        }
        if self.mix.reads == 100 {
            return match args.verify {
                true => Err(CliError::usage(
                    "--verify checks what this run has written; choose a --rw that writes",
                )),
                false => Ok(()),
            };
        }
        if args.destroy_data {
            return Ok(());
        }
        let names: Vec<String> = self.goals.iter().map(Goal::name).collect();
        Err(CliError::new(
            Exit::Failed,
            format!(
                "this writes over {} from byte {} of {}; nothing was written",
                ByteSize(self.size),
                self.offset,
                names.join(" and ")
            ),
        )
        .hint("if all of that may be lost: add --destroy-data"))
    }

    /// Refuses what would be without effect.
    fn check_use(&self, args: &BenchArgs) -> Result<(), CliError> {
        let is_mixed = matches!(self.rw, Rw::Randrw | Rw::Rw);
        let idle = match () {
            () if args.rwmixread.is_some() && !is_mixed => "--rwmixread is for --rw randrw and rw",
            () if args.compressible.is_some() && self.mix.reads == 100 => {
                "--compressible is for a --rw that writes"
            }
            () if args.compressible.is_some() && args.verify => {
                "--verify writes stamps, which --compressible says nothing of; give one"
            }
            () if self.goals.len() > usize::from(self.jobs) => {
                "there are more targets than jobs to spread over them; raise --jobs"
            }
            () => return Ok(()),
        };
        Err(CliError::usage(idle))
    }

    /// Whether each job has a part of the range of its own.
    fn is_parted(&self) -> bool {
        self.rw.is_sequential() || self.verify.is_some() || self.once
    }

    /// Where a job's connections go.
    pub(super) fn goal_of(&self, job: usize) -> &Goal {
        &self.goals[job % self.goals.len()]
    }

    /// Where a job runs.
    pub(super) fn cpu_of(&self, job: usize) -> Option<usize> {
        self.cpus.get(job.checked_rem(self.cpus.len())?).copied()
    }

    /// What is to be known of a depth that was asked for and can't be had.
    pub(super) fn shallow(&self, asked: u16) -> Option<String> {
        let depth = self.depth;
        (depth < asked).then(|| {
            format!("note: a connection takes {depth} commands at once there, not --iodepth {asked}; the depth is {depth}")
        })
    }

    /// What is to be known of a range that whole commands do not fill.
    pub(super) fn rest(&self) -> Option<String> {
        let rest = self.size % self.bs;
        (rest > 0).then(|| {
            format!(
                "note: --bs {} does not divide the range of {} bytes; its last {rest} bytes are left alone",
                self.bs, self.size
            )
        })
    }

    /// What is to be known of jobs that never sleep and have no CPU each.
    pub(super) fn crowd(&self) -> Option<String> {
        let pinned: BTreeSet<usize> =
            (0..usize::from(self.jobs)).filter_map(|job| self.cpu_of(job)).collect();
        let cpus = match pinned.len() {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        };
        let crowd = self.spin_ns == u64::MAX && usize::from(self.jobs) > cpus;
        crowd.then(|| {
            let jobs = self.jobs;
            let few = if cpus == 1 { "one CPU".into() } else { format!("{cpus} CPUs") };
            format!(
                "note: {jobs} jobs that never sleep (--poll) share {few} and wait for each other's turns there, which latencies show; \
                 --connections keeps one job busy"
            )
        })
    }

    /// The load of one job.
    pub(super) fn load(&self, job: usize, goal: &Goal, depth: u16) -> LoadOptions {
        let number = job as u64;
        // The first jobs take what doesn't divide.
        let jobs = u64::from(self.jobs);
        let share = |all: u64| all / jobs + u64::from(number < all % jobs);
        let (region_start, region_bytes) = if self.is_parted() {
            let commands = self.size / self.bs;
            let before = commands / jobs * number + number.min(commands % jobs);
            (self.offset + before * self.bs, share(commands) * self.bs)
        } else {
            (self.offset, self.size)
        };
        LoadOptions {
            region_start,
            region_bytes,
            size_bytes: usize::try_from(self.bs).expect("at most what a command may move"),
            depth: usize::from(depth),
            queues: self.connections,
            pattern: self.pattern,
            mix: self.mix,
            per_second: self.rate.map(share),
            verify: self.verify.map(|stamp| stamp.wrapping_add(number)),
            start: Start::Anything,
            zero_fill: self.zero_fill,
            seed: self.seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            ..LoadOptions::new(goal.namespace)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use dolmen_initiator::{Namespace, Options};
    use dolmen_types::{Nqn, Uuid};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn goal(most_depth: u16) -> Goal {
        let host: Nqn = "nqn.2014-08.org.example:host".parse().unwrap();
        let subsystem: Nqn = "nqn.2014-08.org.example:subsystem".parse().unwrap();
        Goal {
            options: Options::new(([192, 0, 2, 1], 4420).into(), subsystem, host, Uuid([7; 16])),
            namespace: Namespace {
                nsid: 1,
                block_bytes: 4096,
                blocks: 1024,
                uuid: None,
                nguid: [0; 16],
                deallocated_reads_zero: true,
            },
            most_bytes: 1 << 20,
            most_depth,
            model: String::new(),
        }
    }

    fn plan(words: &[&str]) -> Result<Plan, CliError> {
        let args = Line::parse_from([&["bench", "192.0.2.1"], words].concat()).args;
        Plan::new(&args, vec![goal(1023)], 1)
    }

    #[test]
    fn a_depth_that_a_target_does_not_take_is_not_told() {
        let args = Line::parse_from(["bench", "192.0.2.1", "--iodepth", "512", "--jobs", "2"]).args;
        let plan = Plan::new(&args, vec![goal(1023), goal(127)], 1).unwrap();
        assert_eq!(plan.depth, 127);
        assert!(plan.shallow(512).unwrap().contains("127 commands at once"));
        assert_eq!(Plan::new(&args, vec![goal(1023)], 1).unwrap().shallow(512), None);
    }

    #[test]
    fn what_has_no_effect_and_what_cannot_be_is_refused_with_its_reason() {
        for (words, reason) in [
            (&["--rwmixread", "70"][..], "--rwmixread is for"),
            (&["--compressible", "50"], "a --rw that writes"),
            (&["--rw", "randwrite", "--verify", "--compressible", "50"], "writes stamps"),
            (&["--once", "--hot", "90/10"], "--once takes every block once"),
            (&["--offset", "8MiB"], "beyond the end of the namespace, which has 4194304 bytes"),
            (&["--bs", "0"], "at least the block of 4096 bytes"),
        ] {
            let why = plan(words).unwrap_err();
            assert!(why.exit == Exit::Usage && why.text.contains(reason), "{words:?}: {why}");
        }
        let args = Line::parse_from(["bench", "192.0.2.1", "192.0.2.2"]).args;
        assert!(Plan::new(&args, vec![goal(8), goal(8)], 1).unwrap_err().text.contains("raise --jobs"));
        for (flag, reason) in
            [("--bs", "size"), ("--rate", "at least 1"), ("--offset", "size"), ("--runtime", "seconds")]
        {
            let Err(why) = Line::try_parse_from(["bench", "192.0.2.1", flag, "-1"]) else { panic!("{flag}") };
            let why = why.to_string();
            assert!(why.contains(reason) && !why.contains("-- -1"), "{why}");
        }
    }

    #[test]
    fn parts_of_jobs_are_the_whole_range_and_the_rest_is_told() {
        for words in [
            &["--rw", "write", "--destroy-data"][..],
            &["--rw", "randwrite", "--verify", "--destroy-data"],
            &["--rw", "randread", "--once"],
        ] {
            let more = ["--jobs", "3", "--bs", "16k", "--offset", "16k", "--size", "1000KiB"];
            let plan = plan(&[words, &more].concat()).unwrap();
            let parts: Vec<_> = (0..3)
                .map(|job| plan.load(job, plan.goal_of(job), 1))
                .map(|load| (load.region_start >> 14, load.region_bytes >> 14))
                .collect();
            assert_eq!(parts, [(1, 21), (22, 21), (43, 20)], "{words:?}");
            assert!(plan.rest().unwrap().contains("last 8192 bytes"));
        }
        assert_eq!(plan(&["--bs", "8k"]).unwrap().rest(), None);
    }
}
