//! Our contestant: the initiator against a target, one core each side.

use crate::{
    Result,
    args::{Args, Shape},
    cores::pin,
    floor::Rates,
    gauge::{Gauge, Gauged},
};
use dolmen_initiator::{
    Digests, Discovered, Namespace, Options,
    blocking::Session,
    load::{Histogram, Load, LoadOptions, Mix, Pattern},
};
use dolmen_io::{Io, PoolConfig};
use dolmen_types::{Nanos, Nqn, Uuid};
use dolmen_uring::{Uring, UringConfig};
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// The client's buffers. Bytes of address space.
const POOL_BYTES: usize = 128 << 20;
/// Our host identifier.
pub(crate) const HOST_ID: Uuid = Uuid([0xd0, 0x1b, 0xe9, 0xc4, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, 1]);

/// What to load.
pub(crate) struct Goal {
    options: Options,
    namespace: Namespace,
}

/// How it is loaded.
#[derive(Clone, Copy)]
pub(crate) struct Work {
    /// The CPU of the client.
    pub(crate) cpu: usize,
    /// Data of one command. Bytes.
    pub(crate) size_bytes: usize,
    pub(crate) depth: u16,
    pub(crate) connections: u16,
    pub(crate) pattern: Pattern,
    pub(crate) mix: Mix,
    /// Not counted.
    pub(crate) ramp: Duration,
    /// Counted.
    pub(crate) runtime: Duration,
}

impl Work {
    /// The load that the command line names.
    pub(crate) fn of(args: &Args) -> Work {
        Work {
            cpu: args.client_cpu,
            size_bytes: 4096,
            depth: args.depth,
            connections: args.connections,
            pattern: Pattern::Random,
            mix: if args.shape == Shape::Read { Mix::READ } else { Mix::WRITE },
            ramp: args.ramp(),
            runtime: args.runtime(),
        }
    }
}

/// Somebody who looks on.
#[derive(Clone, Copy)]
pub(crate) struct Watch<'a> {
    /// How busy the client is goes here.
    pub(crate) client: &'a Arc<Gauge>,
    /// Called by the client when counting begins (true) and when it ends.
    pub(crate) moment: &'a (dyn Fn(bool) + Sync),
}

fn io(gauge: Option<&Arc<Gauge>>) -> Result<Io> {
    let config = UringConfig { pool: PoolConfig::sized(POOL_BYTES), ..UringConfig::default() };
    let uring = Uring::new(&config)?;
    Ok(Io::new(match gauge {
        Some(gauge) => Box::new(Gauged::new(uring, gauge.clone())),
        None => Box::new(uring),
    }))
}

impl Goal {
    /// Finds subsystem and namespace behind an address.
    pub(crate) fn find(addr: SocketAddr, args: &Args) -> Result<Goal> {
        let host: Nqn = args.host_nqn.parse()?;
        let subsystem: Nqn = match &args.nqn {
            Some(nqn) => nqn.parse()?,
            None => {
                let discovery = Options::new(addr, Nqn::DISCOVERY.parse()?, host.clone(), HOST_ID);
                let mut session = Session::connect(io(None)?, discovery)?;
                let found = session.discover()?.into_iter().find(|e| e.kind == Discovered::Subsystem);
                session.disconnect();
                found.ok_or("the discovery service lists no subsystem; name one with --nqn")?.nqn
            }
        };
        let mut options = Options::new(addr, subsystem, host, HOST_ID);
        options.io_queues = args.connections;
        options.queue_depth = args.depth;
        options.digests = Digests { header: args.digests, data: args.digests };
        Goal::named(options, args.nsid)
    }

    /// The namespace of that number, or else the first one, of a controller.
    pub(crate) fn named(options: Options, nsid: Option<u32>) -> Result<Goal> {
        let mut session = Session::connect(io(None)?, options.clone())?;
        let nsid = match nsid {
            Some(nsid) => nsid,
            None => {
                *session.namespaces()?.first().ok_or("no namespace is visible to us; name a volume's ACL")?
            }
        };
        let namespace = session.namespace(nsid)?;
        session.disconnect();
        Ok(Goal { options, namespace })
    }

    /// One contest: connects, loads, disconnects.
    pub(crate) fn run(&self, work: &Work, watch: Option<Watch<'_>>) -> Result<Rates> {
        std::thread::scope(|scope| {
            let contest = scope.spawn(|| {
                pin(work.cpu).map_err(|e| e.to_string())?;
                self.contest(work, watch).map_err(|e| e.to_string())
            });
            contest.join().expect("the client's loop doesn't panic")
        })
        .map_err(Into::into)
    }

    fn contest(&self, work: &Work, watch: Option<Watch<'_>>) -> Result<Rates> {
        let mut session = Session::connect(io(watch.map(|w| w.client))?, self.options.clone())?;
        let options = LoadOptions {
            namespace: self.namespace,
            region_start: 0,
            region_bytes: self.namespace.size_bytes(),
            size_bytes: work.size_bytes,
            depth: usize::from(work.depth),
            queues: work.connections,
            pattern: work.pattern,
            mix: work.mix,
            verify: None,
            seed: 1,
            deadline_ms: None,
        };
        let mut load = Load::new(session.subsystem(), options)?;
        let begin = session.now();
        let after =
            |d: Duration| Nanos(begin.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)));
        let (count_from, end) = (after(work.ramp), after(work.ramp + work.runtime));
        let (mut started, mut ended) = (None, None);
        let tell = |begins| _ = watch.map(|watch| (watch.moment)(begins));
        session.run(&mut load, |load, now| {
            if started.is_none() && now >= count_from {
                load.restart_counting();
                started = Some(now);
                tell(true);
            }
            if ended.is_none() && now >= end {
                ended = Some((now, load.stats().clone()));
                tell(false);
            }
            ended.is_none()
        });
        session.disconnect();
        let (Some(started), Some((ended, stats))) = (started, ended) else {
            return Err("the load ended before its time".into());
        };
        if let Some(failure) = stats.first_error {
            return Err(format!("{} commands failed, the first one: {failure}", stats.errors).into());
        }
        let seconds = Duration::from_nanos(ended.since(started)).as_secs_f64();
        let mut latency = Histogram::new();
        latency.merge(&stats.read_latency);
        latency.merge(&stats.change_latency);
        let by_connection: Vec<f64> = stats.by_queue.iter().map(|&n| n as f64 / seconds).collect();
        Ok(Rates { per_second: by_connection.iter().sum(), latency, by_connection, congestion: None })
    }
}
