//! Our contestant: the initiator against a target, one core each side.

use crate::{
    Result,
    args::{Args, Shape},
    cores::pin,
    floor::Rates,
};
use dolmen_initiator::{
    Digests, Discovered, Namespace, Options,
    blocking::Session,
    load::{Histogram, Load, LoadOptions, Mix},
};
use dolmen_io::{Io, PoolConfig};
use dolmen_types::{Nanos, Nqn, Uuid};
use dolmen_uring::{Uring, UringConfig};
use std::{net::SocketAddr, time::Duration};

/// Data of one command. Bytes.
const SIZE_BYTES: usize = 4096;
/// The client's buffers. Bytes of address space.
const POOL_BYTES: usize = 128 << 20;
/// Our host identifier.
const HOST_ID: Uuid = Uuid([0xd0, 0x1b, 0xe9, 0xc4, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, 1]);

/// What to load.
pub(crate) struct Goal {
    options: Options,
    namespace: Namespace,
}

fn io() -> Result<Io> {
    let config = UringConfig { pool: PoolConfig::sized(POOL_BYTES), ..UringConfig::default() };
    Ok(Io::new(Box::new(Uring::new(&config)?)))
}

impl Goal {
    /// Finds subsystem and namespace behind an address.
    pub(crate) fn find(addr: SocketAddr, args: &Args) -> Result<Goal> {
        let host: Nqn = args.host_nqn.parse()?;
        let subsystem: Nqn = match &args.nqn {
            Some(nqn) => nqn.parse()?,
            None => {
                let discovery = Options::new(addr, Nqn::DISCOVERY.parse()?, host.clone(), HOST_ID);
                let mut session = Session::connect(io()?, discovery)?;
                let found = session.discover()?.into_iter().find(|e| e.kind == Discovered::Subsystem);
                session.disconnect();
                found.ok_or("the discovery service lists no subsystem; name one with --nqn")?.nqn
            }
        };
        let mut options = Options::new(addr, subsystem, host, HOST_ID);
        options.io_queues = args.connections;
        options.queue_depth = args.depth;
        options.digests = Digests { header: args.digests, data: args.digests };
        let mut session = Session::connect(io()?, options.clone())?;
        let nsid = match args.nsid {
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
    pub(crate) fn run(&self, args: &Args) -> Result<Rates> {
        std::thread::scope(|scope| {
            let contest = scope.spawn(|| {
                pin(args.client_cpu).map_err(|e| e.to_string())?;
                self.contest(args).map_err(|e| e.to_string())
            });
            contest.join().expect("the client's loop doesn't panic")
        })
        .map_err(Into::into)
    }

    fn contest(&self, args: &Args) -> Result<Rates> {
        let mut session = Session::connect(io()?, self.options.clone())?;
        let options = LoadOptions {
            region_bytes: self.namespace.size_bytes(),
            size_bytes: SIZE_BYTES,
            depth: usize::from(args.depth),
            queues: args.connections,
            mix: if args.shape == Shape::Read { Mix::READ } else { Mix::WRITE },
            ..LoadOptions::new(self.namespace)
        };
        let mut load = Load::new(session.subsystem(), options)?;
        let begin = session.now();
        let after =
            |d: Duration| Nanos(begin.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)));
        let (count_from, end) = (after(args.ramp()), after(args.ramp() + args.runtime()));
        let (mut started, mut ended) = (None, None);
        session.run(&mut load, |load, now| {
            if started.is_none() && now >= count_from {
                load.restart_counting();
                started = Some(now);
            }
            if ended.is_none() && now >= end {
                ended = Some((now, load.stats().clone()));
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
