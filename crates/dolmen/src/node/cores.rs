//! The threads of the cores, and the control side's way to talk to them.

use crate::{
    config::{Cores as Wanted, ServeOptions},
    node::ServeError,
};
use dolmen_core::{
    Core,
    message::{Answer, Between, FromCore, Links, News, ToCore},
};
use dolmen_io::{InboxSender, Io, PoolConfig, Wake, inbox, mailbox};
use dolmen_target::Bounds;
use dolmen_types::CoreId;
use dolmen_uring::{Features, Mask, Uring, UringConfig};
use std::{
    sync::{Arc, mpsc as std_mpsc},
    thread::{self, JoinHandle},
};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Requests of the control side that one core may have before it; more wait with who asks. Count.
const INBOX: usize = 4096;

/// Messages that a mailbox between two cores holds; more wait with their sender.
const MAILBOX: usize = 4096;

/// Address space of one core's buffers. Bytes; pages that are never used are never touched.
const POOL_BYTES: usize = 256 << 20;

/// The way to talk to the cores. A core that is slow is waited for: what can't be sent at once is sent when there is room.
#[derive(Clone)]
pub struct Talk {
    desks: Vec<Desk>,
}

/// The way to talk to one core.
#[derive(Clone)]
struct Desk {
    inbox: InboxSender<ToCore>,
    /// What may be asked before something is answered. There is always room for the word to exit.
    room: Arc<Semaphore>,
}

/// The running cores.
pub(crate) struct Cores {
    talk: Talk,
    threads: Vec<JoinHandle<()>>,
    /// What a core's ring uses of the kernel.
    pub(crate) features: Features,
}

struct Started {
    inbox: InboxSender<ToCore>,
    waker: Arc<dyn Wake>,
    features: Features,
}

/// Ends the process when its thread panics: a core that is gone must not leave a node that looks alive.
struct Vital;

impl Drop for Vital {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

impl Cores {
    /// Starts a thread per core and connects them with each other.
    pub(crate) fn start(
        options: &ServeOptions,
        out: &mpsc::UnboundedSender<FromCore>,
    ) -> Result<Cores, ServeError> {
        let cpus: Vec<Option<usize>> = match &options.cores {
            Wanted::Count(n) => vec![None; *n],
            Wanted::List(list) => list.iter().copied().map(Some).collect(),
        };
        let mask: Mask = options.uring_mask.join(",").parse().map_err(ServeError::config)?;
        let count = cpus.len();
        let present = thread::available_parallelism().map_or(1, usize::from);
        if count > present {
            let text = format!(
                "--cores {count}: this process may use {present} CPUs, and a core needs one of its own"
            );
            return Err(ServeError::new(text));
        }
        // Every connection takes a descriptor.
        let descriptors = dolmen_uring::raise_descriptor_limit();
        if let Some(warning) = scarce_descriptors(descriptors) {
            tracing::warn!("{warning}");
        }
        let spin_ns = u64::try_from(options.poll_window.as_nanos()).unwrap_or(u64::MAX);
        let config = UringConfig {
            pool: PoolConfig::sized(POOL_BYTES),
            reuse_port: count > 1,
            congestion: options.congestion_control.clone(),
            mask,
            ..UringConfig::default()
        };
        let (mut inboxes, mut threads, mut wakers, mut features) = (Vec::new(), Vec::new(), Vec::new(), None);
        for (index, cpu) in cpus.into_iter().enumerate() {
            let id = CoreId(u16::try_from(index).map_err(ServeError::config)?);
            let (ready, started) = std_mpsc::sync_channel(1);
            let (config, out) = (config.clone(), out.clone());
            let name = format!("core-{index}");
            let body = move || core_thread(id, count, cpu, &config, spin_ns, out, &ready);
            let thread = thread::Builder::new().name(name).spawn(body).map_err(ServeError::system)?;
            threads.push(thread);
            let started =
                started.recv().map_err(|_| ServeError::new("a core's thread ended at its start"))??;
            features = Some(started.features);
            inboxes.push(started.inbox);
            wakers.push(started.waker);
        }
        let features = features.ok_or_else(|| ServeError::new("--cores: at least one is needed"))?;
        let cores = Cores { talk: Talk::new(inboxes), threads, features };
        cores.talk.link(&wakers);
        Ok(cores)
    }

    /// The way to talk to them.
    pub(crate) fn talk(&self) -> &Talk {
        &self.talk
    }

    /// Ends the loops and waits for their threads.
    pub(crate) fn stop(&mut self) {
        for desk in &self.talk.desks {
            drop(desk.inbox.send(ToCore::Exit));
        }
        for thread in self.threads.drain(..) {
            // A core that panicked has ended the process.
            drop(thread.join());
        }
    }
}

impl Talk {
    /// The way to talk to cores that take their requests from these inboxes, by their number.
    #[must_use]
    pub fn new(inboxes: Vec<InboxSender<ToCore>>) -> Talk {
        let desk = |inbox: InboxSender<ToCore>| {
            let room = Arc::new(Semaphore::new(inbox.capacity().saturating_sub(1)));
            Desk { inbox, room }
        };
        Talk { desks: inboxes.into_iter().map(desk).collect() }
    }

    /// Where a core takes its requests from, for what has one of its own in between.
    #[cfg(test)]
    pub(super) fn inbox(&self, core: CoreId) -> InboxSender<ToCore> {
        self.desks[usize::from(core.0)].inbox.clone()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.desks.len()
    }

    /// The cores' numbers.
    pub fn ids(&self) -> impl Iterator<Item = CoreId> + use<> {
        (0..u16::try_from(self.count()).unwrap_or(u16::MAX)).map(CoreId)
    }

    /// Gives the cores a mailbox for each ordered pair of different ones; `wakers` are theirs, by their number.
    pub fn link(&self, wakers: &[Arc<dyn Wake>]) {
        let count = self.count();
        let mut all: Vec<Links> = (0..count).map(|_| Links::default()).collect();
        for from in 0..count {
            for to in 0..count {
                if from == to {
                    all[from].out.push(None);
                    continue;
                }
                let (sender, receiver) = mailbox::channel::<Between>(MAILBOX, wakers[to].clone());
                all[from].out.push(Some(sender));
                all[to].into.push(receiver);
            }
        }
        for (desk, links) in self.desks.iter().zip(all) {
            // A fresh inbox has room.
            drop(desk.inbox.send(ToCore::Link(links)));
        }
    }

    /// Sends the request that `make` builds round its answer's sender, as soon as there is room.
    ///
    /// # Errors
    /// There is no such core.
    pub async fn send<T: Send + 'static>(
        &self,
        core: CoreId,
        make: impl FnOnce(Answer<T>) -> ToCore,
    ) -> Result<oneshot::Receiver<T>, ServeError> {
        let desk = self.desks.get(usize::from(core.0)).ok_or_else(|| ServeError::new("no such core"))?;
        let room = desk.room.clone().acquire_owned().await.map_err(ServeError::system)?;
        let (sender, receiver) = oneshot::channel();
        let answer = Answer::new(move |value| {
            // A dropped receiver means that nobody waits any more.
            drop(sender.send(value));
            drop(room);
        });
        desk.inbox.send(make(answer)).map_err(|_| ServeError::new("a core takes no more requests"))?;
        Ok(receiver)
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// There is no such core, or it ended first.
    pub async fn ask<T: Send + 'static>(
        &self,
        core: CoreId,
        make: impl FnOnce(Answer<T>) -> ToCore,
    ) -> Result<T, ServeError> {
        self.send(core, make)
            .await?
            .await
            .map_err(|_| ServeError::new("a core ended in the middle of a request"))
    }

    /// Asks every core at once and waits for all answers, in the order of the cores.
    ///
    /// # Errors
    /// As [`Talk::ask`].
    pub async fn ask_all<T: Send + 'static>(
        &self,
        mut make: impl FnMut(Answer<T>) -> ToCore,
    ) -> Result<Vec<T>, ServeError> {
        let mut receivers = Vec::new();
        for core in self.ids() {
            receivers.push(self.send(core, &mut make).await?);
        }
        let mut all = Vec::new();
        for receiver in receivers {
            all.push(receiver.await.map_err(|_| ServeError::new("a core ended in the middle of a request"))?);
        }
        Ok(all)
    }
}

impl Drop for Cores {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Puts a core's news where the control side takes them.
#[must_use]
pub fn news(out: mpsc::UnboundedSender<FromCore>) -> News {
    // The control side only goes away when the process ends.
    Box::new(move |news| drop(out.send(news)))
}

/// Open files that the node itself needs: drives, rings, listeners, its folder, calls of the API. Count, generous.
const OWN_DESCRIPTORS: u32 = 128;

/// What to tell when fewer connections can be open than one core's target takes.
fn scarce_descriptors(limit: u32) -> Option<String> {
    let wanted = Bounds::default().connections + OWN_DESCRIPTORS;
    (limit < wanted).then(|| {
        format!(
            "the limit of open files is {limit}, so at most some {} connections of hosts fit, and more are not accepted: \
             raise it above {wanted} (LimitNOFILE= in a systemd unit, --ulimit nofile= of a container, ulimit -n in a shell)",
            limit.saturating_sub(OWN_DESCRIPTORS)
        )
    })
}

fn core_thread(
    id: CoreId,
    count: usize,
    cpu: Option<usize>,
    config: &UringConfig,
    spin_ns: u64,
    out: mpsc::UnboundedSender<FromCore>,
    ready: &std_mpsc::SyncSender<Result<Started, ServeError>>,
) {
    let _vital = Vital;
    let driver = pin(cpu).and_then(|()| Uring::new(config).map_err(|e| ServeError::new(e.to_string())));
    let driver = match driver {
        Ok(driver) => driver,
        Err(error) => {
            drop(ready.send(Err(error)));
            return;
        }
    };
    let features = driver.features();
    let io = Io::new(Box::new(driver));
    let waker = io.waker();
    let (sender, receiver) = inbox(INBOX, waker.clone());
    let mut core = Core::new(id, count, io, receiver, news(out), spin_ns);
    if ready.send(Ok(Started { inbox: sender, waker, features })).is_ok() {
        core.run();
    }
}

/// Binds the calling thread to one CPU.
fn pin(cpu: Option<usize>) -> Result<(), ServeError> {
    let Some(cpu) = cpu else { return Ok(()) };
    let mut set = rustix::thread::CpuSet::new();
    if cpu >= rustix::thread::CpuSet::MAX_CPU {
        return Err(ServeError::new(format!("--cores: there is no CPU {cpu}")));
    }
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set)
        .map_err(|e| ServeError::new(format!("--cores: cannot run on CPU {cpu}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_descriptors_are_told_with_the_way_out() {
        assert_eq!(scarce_descriptors(65_536), None);
        let text = scarce_descriptors(1024).unwrap();
        assert!(
            text.contains("is 1024") && text.contains("some 896") && text.contains("LimitNOFILE"),
            "{text}"
        );
    }
}
