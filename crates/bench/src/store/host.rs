//! The host of a node: our initiator on a CPU of its own, with one load on one connection.

use super::gauge::{Gauge, Gauged};
use crate::{Result, cores::pin};
use dolmen_initiator::{
    Namespace, Options,
    blocking::Session,
    load::{Load, LoadOptions, Mix, Pattern},
};
use dolmen_io::Io;
use dolmen_types::{Nanos, Nqn, Uuid};
use dolmen_uring::{Uring, UringConfig};
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// Our name.
const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:d01be9c4-0000-4000-8000-000000000001";
/// The client's buffers. Bytes of address space.
const POOL_BYTES: usize = 128 << 20;
/// Our host identifier.
const HOST_ID: Uuid = Uuid([0xd0, 0x1b, 0xe9, 0xc4, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, 1]);

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
    pub(crate) pattern: Pattern,
    pub(crate) mix: Mix,
    /// Not counted.
    pub(crate) ramp: Duration,
    /// Counted.
    pub(crate) runtime: Duration,
}

/// What was counted.
#[derive(Clone, Copy)]
pub(crate) struct Count {
    pub(crate) commands: u64,
    /// Per command, by the clock.
    pub(crate) ns: f64,
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
    let config = UringConfig::without_drives(POOL_BYTES);
    let uring = Uring::new(&config)?;
    Ok(Io::new(match gauge {
        Some(gauge) => Box::new(Gauged::new(uring, gauge.clone())),
        None => Box::new(uring),
    }))
}

impl Goal {
    /// A namespace of the subsystem at an address.
    pub(crate) fn new(addr: SocketAddr, subsystem: Nqn, nsid: u32) -> Result<Goal> {
        let options = Options::new(addr, subsystem, HOST.parse()?, HOST_ID);
        let mut session = Session::connect(io(None)?, options.clone())?;
        let namespace = session.namespace(nsid)?;
        session.disconnect();
        Ok(Goal { options, namespace })
    }

    /// One contest: connects, loads, disconnects.
    pub(crate) fn run(&self, work: &Work, watch: Watch<'_>) -> Result<Count> {
        std::thread::scope(|scope| {
            let contest = scope.spawn(|| {
                pin(work.cpu).map_err(|e| e.to_string())?;
                self.contest(work, watch).map_err(|e| e.to_string())
            });
            contest.join().expect("the client's loop doesn't panic")
        })
        .map_err(Into::into)
    }

    fn contest(&self, work: &Work, watch: Watch<'_>) -> Result<Count> {
        let mut session = Session::connect(
            io(Some(watch.client))?,
            Options { queue_depth: work.depth, ..self.options.clone() },
        )?;
        // It never sleeps: to wake it would cost the core.
        session.set_spin_ns(u64::MAX);
        let options = LoadOptions {
            size_bytes: work.size_bytes,
            depth: usize::from(work.depth),
            pattern: work.pattern,
            mix: work.mix,
            ..LoadOptions::new(self.namespace)
        };
        let mut load = Load::new(session.subsystem(), options)?;
        let begin = session.now();
        let after =
            |d: Duration| Nanos(begin.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)));
        let (count_from, end) = (after(work.ramp), after(work.ramp + work.runtime));
        let (mut started, mut ended) = (None, None);
        let tell = watch.moment;
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
        let commands = (stats.reads + stats.changes).max(1);
        Ok(Count { commands, ns: ended.since(started) as f64 / commands as f64 })
    }
}
