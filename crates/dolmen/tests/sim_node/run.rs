//! One seed from beginning to end.

use crate::{
    host::{Host, REGION_BYTES},
    node::{Begin, DRIVES, NODE, Outcome, Process, Standing},
};
use dolmen_initiator::load::{Mix, Pattern};
use dolmen_sim::{DriveFaults, Rng, World};
use dolmen_types::{
    LineId, Nanos, Nsid, PgId, UnixMillis, Uuid,
    volume::{HostAccess, IpAccess, SectorSize, VolumeDescriptor, VolumeKind, VolumeState},
};
use dolmen_volume::{ControlCommand, ControlError, Restart, VolumeUpdate};
use std::path::Path;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

/// Rounds of turns of one seed at most: more means that something never waits.
const MAX_ROUNDS: u64 = 400_000;
/// Everything must come to its end within this time once the world is whole. Virtual time.
const HEALED_NS: u64 = 60 * SECOND;
/// Turns of one core in a second in which nothing flows, at most: timers and keep-alives, for every other core as well.
const IDLE_TURNS: u64 = 300;

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Of everything that was seen and when.
    pub trace: u64,
    pub commands: u64,
    pub starts: u64,
    pub virtual_ms: u64,
}

struct Trace(u64);

impl Trace {
    fn note(&mut self, values: &[u64]) {
        for value in values {
            self.0 = (self.0 ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17);
        }
    }
}

/// A volume that comes and goes beside the loaded ones.
struct Side {
    descriptor: VolumeDescriptor,
    /// Deletion has been asked for.
    deleting: bool,
}

struct Run {
    world: World,
    rng: Rng,
    trace: Trace,
    process: Option<Process>,
    starts: u64,
    drive_bytes: u64,
    parity: u8,
    /// A drive was taken out.
    lost: bool,
    /// When the process starts (again), while there is none, and how.
    start_at: (Nanos, Restart),
    stop_began: Nanos,
    hosts: Vec<Host>,
    /// What is asked of volumes, by number; `None` once it is answered.
    asked: Vec<Option<ControlCommand>>,
    side: Option<Side>,
    next_volume: u8,
    rounds: u64,
    first: usize,
    /// Things that end by themselves: when, and what.
    mend_at: Vec<(Nanos, Mend)>,
    /// Told on standard output as it goes.
    loud: bool,
}

#[derive(Clone, Copy, Debug)]
enum Mend {
    Partition(usize),
    Drives,
}

/// Runs one seed; panics when an oracle says no.
pub fn run(seed: u64) -> Report {
    let world = World::new(seed);
    let mut run = Run {
        start_at: (world.now(), Restart::PowerOn),
        stop_began: world.now(),
        world,
        rng: Rng::new(seed ^ 0x51d_0de),
        trace: Trace(0xcbf2_9ce4_8422_2325),
        process: None,
        starts: 0,
        drive_bytes: 0,
        parity: 0,
        lost: false,
        hosts: Vec::new(),
        asked: Vec::new(),
        side: None,
        next_volume: 1,
        rounds: 0,
        first: 0,
        mend_at: Vec::new(),
        loud: std::env::var_os("DOLMEN_LOUD").is_some(),
    };
    // Small drives are cleaned all the time, large ones never.
    run.drive_bytes = [10, 14, 20, 48][run.rng.index(4)] << 20;
    run.parity = u8::from(run.rng.one_in(2));
    // A mirror holds half.
    run.drive_bytes <<= run.parity;
    run.prepare();
    run.torment();
    run.come_to_rest("every command ends once the world is whole");
    run.sweep();
    run.sleep();
    run.stop_and_start();
    run.sweep();
    let commands = run.hosts.iter().map(|h| h.load.stats().reads + h.load.stats().changes).sum();
    let virtual_ms = run.world.now().0 / MS;
    run.trace.note(&[commands, virtual_ms, run.starts]);
    Report { trace: run.trace.0, commands, starts: run.starts, virtual_ms }
}

impl Run {
    /// The first start, volumes, a host for each.
    fn prepare(&mut self) {
        self.until("the first start", |run| run.serving());
        for number in 0..u16::try_from(self.rng.between(1, 3)).unwrap() {
            let volume = self.descriptor();
            self.ask(volume.pg, ControlCommand::Create(Box::new(volume.clone())));
            self.until("a volume is made", |run| run.asked.iter().all(Option::is_none));
            let mut host = Host::new(&self.world, &mut self.rng, number, &volume);
            host.load.set_work(Pattern::Random, Mix { reads: 40, zeroes: 10 }, u64::MAX);
            self.hosts.push(host);
        }
    }

    /// Load and faults.
    fn torment(&mut self) {
        for _ in 0..self.rng.between(5, 25) {
            let pause = match self.rng.below(4) {
                0 => self.rng.below(MS / 10),
                1 => self.rng.below(2 * MS),
                2 => self.rng.below(10 * MS),
                _ => self.rng.below(40 * MS),
            };
            let at = Nanos(self.world.now().0 + pause);
            while self.world.now() < at {
                self.round(at);
            }
            self.fault();
            if self.rng.one_in(3) {
                self.until_answered();
            }
        }
        self.hosts.iter_mut().for_each(|h| h.load.stop());
    }

    /// Lets the load get through for a while, whatever stands in its way.
    fn until_answered(&mut self) {
        let more = self.rng.below(200);
        let wanted: Vec<u64> = self.hosts.iter().map(|h| h.done() + more).collect();
        self.until("commands are answered", |run| {
            run.hosts.iter().zip(&wanted).any(|(host, &wanted)| host.done() >= wanted)
        });
    }

    fn serving(&self) -> bool {
        self.process.as_ref().is_some_and(|p| p.standing() == Standing::Serving)
    }

    fn descriptor(&mut self) -> VolumeDescriptor {
        let number = self.next_volume;
        self.next_volume += 1;
        VolumeDescriptor {
            uuid: Uuid([number; 16]),
            name: format!("v{number}"),
            project: "default".into(),
            nsid: Nsid(u32::from(number)),
            pg: PgId(u32::try_from(self.rng.below(64)).unwrap()),
            line: LineId(u64::from(number)),
            size_bytes: REGION_BYTES * 2,
            sector: if self.rng.one_in(3) { SectorSize::B512 } else { SectorSize::B4096 },
            kind: VolumeKind::Durable,
            acl: HostAccess::Any,
            ip_acl: IpAccess::Any,
            labels: Vec::new(),
            compression: number % 2 == 1,
            encryption: number % 4 < 2,
            qos: None,
            source: None,
            created: UnixMillis(1),
            revision: 1,
            state: VolumeState::Available,
        }
    }

    fn ask(&mut self, pg: PgId, command: ControlCommand) {
        let number = self.asked.len() as u64;
        self.asked.push(Some(command.clone()));
        self.process.as_mut().expect("asked only while serving").ask(number, pg, command);
    }

    fn tell(&self, what: &str) {
        if self.loud {
            println!("{:>12} us {what}", self.world.now().0 / 1000);
        }
    }

    /// Something bad, or something that users do.
    fn fault(&mut self) {
        let what = self.rng.below(12);
        self.trace.note(&[what, self.world.now().0]);
        self.tell(&format!("fault {what}"));
        let host = self.rng.index(self.hosts.len());
        let node = self.hosts[host].node;
        match what {
            0 | 1 => self.end(true),
            2 | 3 => self.end(false),
            4 => {
                if self.serving() {
                    self.stop_began = self.world.now();
                    self.process.as_mut().expect("serving").stop();
                }
            }
            5 | 6 => self.world.reset(node, NODE),
            7 => {
                self.world.partition(node, NODE);
                let ns = if self.rng.one_in(4) { 8 * SECOND } else { 100 * MS };
                self.mend_in(ns, Mend::Partition(host));
            }
            8 => {
                for drive in DRIVES {
                    let latency_ns = (MS, 30 * MS);
                    self.world.set_faults(
                        NODE,
                        Path::new(drive),
                        DriveFaults { latency_ns, ..DriveFaults::default() },
                    );
                }
                self.mend_in(300 * MS, Mend::Drives);
            }
            // A mirror goes on without one of its drives, for good.
            9 if self.parity > 0 && !self.lost && self.serving() => {
                self.lost = true;
                let drive = DRIVES[self.rng.index(DRIVES.len())];
                self.tell(&format!("drive {drive} is gone"));
                self.world.remove_drive(NODE, Path::new(drive));
            }
            _ => self.use_control(),
        }
    }

    fn mend_in(&mut self, most_ns: u64, what: Mend) {
        self.mend_at.push((Nanos(self.world.now().0 + self.rng.below(most_ns)), what));
    }

    /// The process ends at once: with the machine's power, or alone.
    fn end(&mut self, power: bool) {
        if self.process.is_none() {
            return;
        }
        if power {
            self.world.crash_node(NODE)
        } else {
            self.world.kill_node(NODE)
        }
        self.process = None;
        self.forget_asked();
        let pause = if self.rng.one_in(2) { 0 } else { self.rng.below(400 * MS) };
        let how = if power { Restart::PowerOn } else { Restart::Process };
        self.start_at = (Nanos(self.world.now().0 + pause), how);
    }

    /// What was asked of a process that has ended has an unknown outcome: it is asked again.
    fn forget_asked(&mut self) {
        self.asked.iter_mut().for_each(|a| *a = None);
        if let Some(side) = &mut self.side {
            side.deleting = false;
        }
    }

    fn use_control(&mut self) {
        if !self.serving() {
            return;
        }
        self.process.as_ref().expect("serving").report();
        match &mut self.side {
            None => {
                let descriptor = self.descriptor();
                self.ask(descriptor.pg, ControlCommand::Create(Box::new(descriptor.clone())));
                self.side = Some(Side { descriptor, deleting: false });
            }
            Some(side) if !side.deleting => {
                let (pg, uuid) = (side.descriptor.pg, side.descriptor.uuid);
                let command = if self.rng.one_in(3) {
                    side.descriptor.size_bytes += 4096;
                    let size_bytes = Some(side.descriptor.size_bytes);
                    let update = VolumeUpdate { size_bytes, ..VolumeUpdate::default() };
                    ControlCommand::Update { uuid, update: Box::new(update) }
                } else {
                    side.deleting = true;
                    ControlCommand::Delete { uuid, expected_revision: None }
                };
                self.ask(pg, command);
            }
            Some(_) => {}
        }
    }

    fn answered(&mut self, number: u64, outcome: &Outcome) {
        self.trace.note(&[number, u64::from(outcome.is_ok()), self.world.now().0]);
        let asked = self.asked[usize::try_from(number).unwrap()].take();
        match (asked, outcome) {
            (Some(ControlCommand::Delete { .. }), Ok(_) | Err(ControlError::NotFound)) => self.side = None,
            (Some(ControlCommand::Update { .. }), Err(ControlError::NotFound | ControlError::Deleting)) => {
                // Made or deleted by a process that ended before it answered.
            }
            (_, Ok(_)) => {}
            (asked, Err(error)) => panic!("{asked:?} was refused: {error}"),
        }
    }

    /// A turn for everyone, in an order that the seed decides.
    fn round(&mut self, until: Nanos) {
        self.rounds += 1;
        assert!(self.rounds < MAX_ROUNDS, "something never waits: {}", self.describe());
        let mut limit = until;
        if self.process.is_none() {
            if self.start_at.0 <= self.world.now() {
                self.start();
            } else {
                limit = limit.min(self.start_at.0);
            }
        }
        self.mend();
        limit = self.mend_at.iter().map(|m| m.0).fold(limit, Nanos::min);
        let cores = self.process.as_ref().map_or(0, Process::cores);
        let all = cores + self.hosts.len();
        // Whoever looked last is never first: the world would take it for the only one.
        self.first = (self.first + 1 + self.rng.index(all.saturating_sub(1).max(1))) % all.max(1);
        for i in 0..all {
            let at = (self.first + i) % all;
            if at < cores {
                self.process.as_mut().expect("it has cores").turn_core(at);
            } else {
                self.turn_host(at - cores, limit);
            }
        }
        self.first = (self.first + all - 1) % all.max(1);
        self.step_process();
    }

    fn turn_host(&mut self, at: usize, limit: Nanos) {
        let (host, trace, world) = (&mut self.hosts[at], &mut self.trace, &self.world);
        host.turn(limit, |ticket, ok| trace.note(&[at as u64, ticket, u64::from(ok), world.now().0]));
        host.judge();
    }

    fn start(&mut self) {
        self.starts += 1;
        let cores = 1 + self.rng.index(3);
        self.tell(&format!("start {} with {cores} cores", self.starts));
        let how = Begin {
            generation: self.starts,
            restart: self.start_at.1,
            parity: self.parity,
            drive_bytes: self.drive_bytes,
        };
        self.process = Some(Process::start(&self.world, &mut self.rng, cores, how));
    }

    fn step_process(&mut self) {
        let Some(process) = &mut self.process else { return };
        let mut answers = Vec::new();
        let standing = process.step(&mut answers);
        for (number, outcome) in answers {
            self.answered(number, &outcome);
        }
        match standing {
            Standing::Over => {
                self.tell("stopped");
                self.process = None;
                self.forget_asked();
                self.start_at = (self.world.now(), Restart::Process);
            }
            Standing::Stopping => {
                assert!(
                    self.world.now().since(self.stop_began) < 30 * SECOND,
                    "an orderly end takes for ever: {}",
                    self.describe()
                );
            }
            Standing::Starting | Standing::Serving => {}
        }
    }

    fn mend(&mut self) {
        let now = self.world.now();
        let due: Vec<Mend> = self.mend_at.iter().filter(|m| m.0 <= now).map(|m| m.1).collect();
        self.mend_at.retain(|m| m.0 > now);
        due.into_iter().for_each(|m| self.mend_one(m));
    }

    fn mend_one(&mut self, what: Mend) {
        self.tell(&format!("mend {what:?}"));
        match what {
            Mend::Partition(host) => self.world.heal(self.hosts[host].node, NODE),
            Mend::Drives => {
                for drive in DRIVES {
                    self.world.set_faults(NODE, Path::new(drive), DriveFaults::default());
                }
            }
        }
    }

    fn until(&mut self, what: &str, mut reached: impl FnMut(&Run) -> bool) {
        let give_up = Nanos(self.world.now().0 + HEALED_NS);
        while !reached(self) {
            assert!(self.world.now() < give_up, "never: {what}; {}", self.describe());
            self.round(give_up);
        }
    }

    /// Mends everything; what is under way and what is left of the load ends.
    fn come_to_rest(&mut self, what: &str) {
        let mends: Vec<Mend> = self.mend_at.drain(..).map(|m| m.1).collect();
        mends.into_iter().for_each(|m| self.mend_one(m));
        self.until(what, |run| run.serving() && run.hosts.iter().all(|h| h.load.is_done()));
    }

    /// Every block is read.
    fn sweep(&mut self) {
        for host in &mut self.hosts {
            let units = host.load.units();
            host.load.set_work(Pattern::Sequential, Mix::READ, units);
        }
        self.come_to_rest("every block is read");
    }

    /// Nothing flows: nobody polls.
    fn sleep(&mut self) {
        let settled = Nanos(self.world.now().0 + 5 * SECOND);
        while self.world.now() < settled {
            self.round(settled);
        }
        let process = self.process.as_ref().expect("serving");
        let (before, cores, seconds) = (process.turns, process.cores() as u64, 5);
        let end = Nanos(self.world.now().0 + seconds * SECOND);
        while self.world.now() < end {
            self.round(end);
        }
        let turns = self.process.as_ref().expect("serving").turns - before;
        self.tell(&format!("{turns} turns of {cores} cores in {seconds} idle seconds"));
        assert!(
            turns <= seconds * cores * IDLE_TURNS,
            "{turns} turns of {cores} cores in {seconds} idle seconds"
        );
    }

    fn stop_and_start(&mut self) {
        let starts = self.starts;
        self.stop_began = self.world.now();
        self.process.as_mut().expect("serving").stop();
        self.until("the next start", |run| run.starts > starts && run.serving());
    }

    fn describe(&self) -> String {
        let standing = self.process.as_ref().map(Process::standing);
        let hosts: Vec<String> = self.hosts.iter().map(Host::describe).collect();
        let what = self.process.as_ref().map(Process::describe).unwrap_or_default();
        format!("node {standing:?} after {} starts, {what}; {}", self.starts, hosts.join("; "))
    }
}
