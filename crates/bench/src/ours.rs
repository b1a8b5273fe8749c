//! Our contestant: the initiator against a target, one core each side.

use crate::{
    Result,
    client::{Client, Mark, io},
    cores::pin,
    cpu_time,
    floor::{Course, Rates},
    sample::Latency,
    workload::{Shape, Workload},
};
use dolmen_initiator::{
    Digests, Discovered, Namespace, Options, SubsystemId,
    blocking::Session,
    load::{Load, LoadOptions, Mix, Pattern},
};
use dolmen_types::{Nqn, Uuid};
use std::{net::SocketAddr, time::Duration};

/// The client polls for so long after the last answer: whatever the server does, it never sleeps under load.
const SPIN: Duration = Duration::from_millis(20);
/// Data of one command while a volume is filled. Bytes.
const FILL_BYTES: usize = 128 << 10;
/// Our host identifier.
const HOST_ID: Uuid = Uuid([0xd0, 0x1b, 0xe9, 0xc4, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, 1]);

/// Which namespace of a subsystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// The first that is seen.
    First,
    /// By number.
    Nsid(u32),
    /// The one of this size. Bytes.
    Sized(u64),
}

/// Where a target is and who we are.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub(crate) addr: SocketAddr,
    /// Asked of the discovery service at the same address if not given.
    pub(crate) nqn: Option<String>,
    pub(crate) host_nqn: String,
    pub(crate) digests: bool,
}

/// What to load.
#[derive(Clone, Debug)]
pub(crate) struct Goal {
    options: Options,
    namespace: Namespace,
    /// The server's process, if it is on this machine and to be watched.
    pub(crate) server: Option<u32>,
    /// How long the client polls after the last answer before it sleeps.
    pub(crate) spin: Duration,
}

impl Goal {
    /// Finds subsystem and namespace behind an address.
    pub(crate) fn find(access: &Access, which: Which) -> Result<Goal> {
        let host: Nqn = access.host_nqn.parse()?;
        let subsystem: Nqn = match &access.nqn {
            Some(nqn) => nqn.parse()?,
            None => {
                let discovery = Options::new(access.addr, Nqn::DISCOVERY.parse()?, host.clone(), HOST_ID);
                let mut session = Session::connect(io()?, discovery)?;
                let found = session.discover()?.into_iter().find(|e| e.kind == Discovered::Subsystem);
                session.disconnect();
                found.ok_or("the discovery service lists no subsystem; name one with --nqn")?.nqn
            }
        };
        let mut options = Options::new(access.addr, subsystem, host, HOST_ID);
        options.digests = Digests { header: access.digests, data: access.digests };
        let mut session = Session::connect(io()?, options.clone())?;
        let namespace = namespace(&mut session, which)?;
        session.disconnect();
        Ok(Goal { options, namespace, server: None, spin: SPIN })
    }

    /// One contest in a pinned thread of its own: connects, loads, disconnects.
    pub(crate) fn run(&self, workload: &Workload, course: &Course) -> Result<Rates> {
        self.pinned(course.client_cpu, |client| {
            let id = client.connect(self.options(workload))?;
            let mut load = [self.load_on(id, workload)?];
            self.counted(client, &mut load, course)
        })
    }

    /// Writes the whole namespace once, so that reads find data.
    pub(crate) fn fill(&self, cpu: usize) -> Result<()> {
        let workload = Workload { shape: Shape::Write, bytes: FILL_BYTES, depth: 8, connections: 1 };
        self.pinned(cpu, |client| {
            let id = client.connect(self.options(&workload))?;
            let mut load = self.load_on(id, &workload)?;
            let units = load.units();
            load.set_work(Pattern::Sequential, Mix::WRITE, units);
            client.finish(&mut load)
        })
    }

    /// Does something with a client in a thread on this CPU, and disconnects it.
    pub(crate) fn pinned<T: Send>(
        &self,
        cpu: usize,
        work: impl FnOnce(&mut Client) -> Result<T> + Send,
    ) -> Result<T> {
        std::thread::scope(|scope| {
            let contest = scope.spawn(|| {
                let run = || {
                    pin(cpu)?;
                    let mut client = Client::new(self.spin)?;
                    let done = work(&mut client)?;
                    client.disconnect();
                    Ok(done)
                };
                run().map_err(|e: Box<dyn std::error::Error>| e.to_string())
            });
            contest.join().expect("the client's loop doesn't panic")
        })
        .map_err(Into::into)
    }

    /// Runs loads and takes the server's CPU time meanwhile.
    pub(crate) fn counted(&self, client: &mut Client, loads: &mut [Load], course: &Course) -> Result<Rates> {
        let mut cpu = [Duration::ZERO; 2];
        let counted = client.run(loads, course.ramp, course.runtime, |mark| {
            if let Some(pid) = self.server {
                cpu[usize::from(mark == Mark::Ended)] = cpu_time::of_process(pid)?;
            }
            Ok(())
        })?;
        let used = cpu[1].saturating_sub(cpu[0]).as_nanos();
        let by_connection: Vec<f64> =
            counted.by_connection.iter().map(|&n| n as f64 / counted.seconds).collect();
        Ok(Rates {
            per_second: counted.commands as f64 / counted.seconds,
            latency: Latency::from(&counted.latency),
            by_connection,
            congestion: None,
            server_cpu_ns: self.server.map(|_| used as f64 / counted.commands.max(1) as f64),
        })
    }

    /// A controller for a workload.
    pub(crate) fn options(&self, workload: &Workload) -> Options {
        let mut options = self.options.clone();
        options.io_queues = workload.connections;
        options.queue_depth = workload.depth;
        options
    }

    /// A load on one controller.
    pub(crate) fn load_on(&self, id: SubsystemId, workload: &Workload) -> Result<Load> {
        let random = workload.bytes <= Workload::RANDOM_UP_TO_BYTES;
        let options = LoadOptions {
            namespace: self.namespace,
            region_start: 0,
            region_bytes: self.namespace.size_bytes(),
            size_bytes: workload.bytes,
            depth: usize::from(workload.depth),
            queues: workload.connections,
            pattern: if random { Pattern::Random } else { Pattern::Sequential },
            mix: workload.mix(),
            verify: None,
            seed: 1,
            deadline_ms: None,
        };
        Ok(Load::new(id, options)?)
    }
}

fn namespace(session: &mut Session, which: Which) -> Result<Namespace> {
    if let Which::Nsid(nsid) = which {
        return Ok(session.namespace(nsid)?);
    }
    for nsid in session.namespaces()? {
        let found = session.namespace(nsid)?;
        if which == Which::First || which == Which::Sized(found.size_bytes()) {
            return Ok(found);
        }
    }
    Err("no such namespace is visible to us; name a volume's ACL".into())
}
