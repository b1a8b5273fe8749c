//! The contestants' processes: started when they are first needed, kept for the run, stopped while others have their turn.

use super::plan::{Contestant, Mode};
use crate::{
    NULL_BYTES, Result,
    args::{HOST_NQN, MatrixArgs},
    daemon::{Daemon, Plan},
    floor::{self, Course, Rates, Waiting, bulk, filling, staging},
    ours::{Access, Goal, Which},
    peers::{Peer, Server},
    workload::Workload,
};
use std::path::PathBuf;

/// Size of the volume in memory. Bytes.
const MEMORY_BYTES: u64 = 256 << 20;
/// Longer than any gap in a load, and over before the next contestant counts. Microseconds.
const POLLING_US: u64 = 20_000;

/// A daemon and its volumes.
struct Ours {
    mode: Mode,
    daemon: Daemon,
    null: Goal,
    memory: Option<Goal>,
}

impl Ours {
    /// One contest against one of its volumes.
    fn run(
        &self,
        workload: &Workload,
        course: &Course,
        volume: impl FnOnce(&Ours) -> Option<&Goal>,
    ) -> Result<Rates> {
        let goal = volume(self).ok_or("a volume that was not made")?;
        self.daemon.thaw()?;
        let rates = goal.run(workload, course);
        self.daemon.freeze()?;
        rates
    }
}

/// Everything that runs.
pub(super) struct Arena {
    program: PathBuf,
    pub(super) course: Course,
    ours: Vec<Ours>,
    peers: Vec<(Peer, Option<Server>)>,
    /// Who could not take part, and why.
    pub(super) absent: Vec<String>,
}

impl Arena {
    pub(super) fn new(args: &MatrixArgs) -> Arena {
        let (program, course) = (args.dolmen.clone(), args.course());
        Arena { program, course, ours: Vec::new(), peers: Vec::new(), absent: Vec::new() }
    }

    /// Starts what a contestant needs; false when it can't take part, which is noted.
    pub(super) fn prepare(&mut self, who: Contestant) -> Result<bool> {
        match who {
            Contestant::Null(mode) => self.start_ours(mode)?,
            Contestant::Memory => self.start_ours(Mode::Polling)?,
            Contestant::Peer(peer) => return Ok(self.start_peer(peer)),
            Contestant::Floor
            | Contestant::Filling
            | Contestant::SleepingFloor
            | Contestant::Copy
            | Contestant::Gather(_) => {}
        }
        Ok(true)
    }

    /// One contest of one that was prepared.
    pub(super) fn run(&self, who: Contestant, workload: &Workload) -> Result<Rates> {
        let course = &self.course;
        match who {
            Contestant::Floor => Ok(floor::run(workload, course, Waiting::Polls)?),
            Contestant::Filling => Ok(filling::run(workload, course)?),
            Contestant::SleepingFloor => Ok(floor::run(workload, course, Waiting::Sleeps)?),
            Contestant::Copy => Ok(bulk::run(workload, course)?),
            Contestant::Gather(gather) => Ok(staging::run(workload, course, gather)?),
            Contestant::Null(mode) => self.ours(mode)?.run(workload, course, |ours| Some(&ours.null)),
            Contestant::Memory => {
                self.ours(Mode::Polling)?.run(workload, course, |ours| ours.memory.as_ref())
            }
            Contestant::Peer(peer) => {
                let server = self.peers.iter().find_map(|(p, s)| s.as_ref().filter(|_| *p == peer));
                server.ok_or("a peer that was not started")?.run(workload, course)
            }
        }
    }

    fn ours(&self, mode: Mode) -> Result<&Ours> {
        self.ours.iter().find(|ours| ours.mode == mode).ok_or_else(|| "a daemon that was not started".into())
    }

    fn start_ours(&mut self, mode: Mode) -> Result<()> {
        if self.ours.iter().any(|ours| ours.mode == mode) {
            return Ok(());
        }
        let poll_window_us = match mode {
            Mode::Polling => Some(POLLING_US),
            Mode::Adaptive => None,
            Mode::Asleep => Some(0),
        };
        let daemon = Daemon::start(&Plan {
            program: &self.program,
            cpus: &[self.course.server_cpu],
            poll_window_us,
            more: &[],
            host_nqn: HOST_NQN,
        })?;
        daemon.volume("null", "null", NULL_BYTES)?;
        let access =
            Access { addr: daemon.addr(), nqn: None, host_nqn: HOST_NQN.to_string(), digests: false };
        let memory = if mode == Mode::Polling {
            daemon.volume("memory", "memory", MEMORY_BYTES)?;
            let goal = Goal::find(&access, Which::Sized(MEMORY_BYTES))?;
            goal.fill(self.course.client_cpu)?;
            Some(goal)
        } else {
            None
        };
        let null = Goal::find(&access, Which::Sized(NULL_BYTES))?;
        daemon.freeze()?;
        self.ours.push(Ours { mode, daemon, null, memory });
        Ok(())
    }

    fn start_peer(&mut self, peer: Peer) -> bool {
        if let Some((_, server)) = self.peers.iter().find(|(p, _)| *p == peer) {
            return server.is_some();
        }
        let server = match Server::start(peer, &self.course) {
            Ok(server) => Some(server),
            Err(why) => {
                self.absent.push(format!("{}: {why}", peer.name()));
                None
            }
        };
        let there = server.is_some();
        self.peers.push((peer, server));
        there
    }
}
