//! One core's [`Driver`] on io_uring.

use crate::{
    chunks::Chunks,
    config::{Features, UringConfig},
    drives::Drives,
    errors,
    listeners::Listeners,
    open::{self, Opened},
    ring::{Cqe, EnterWait, Ring},
    sockets::{Events, Sockets},
    sys,
    token::{Kind, Token},
    waker::Waker,
};
use dolmen_io::{
    ALIGN_BYTES, DriveCounters, DriveHandle, DriveInfo, Driver, Error, Event, FileId, Landing, ListenerId,
    Op, OpenDrive, Pool, SocketId, Tag, Wait, Wake,
};
use dolmen_types::{Nanos, UnixMillis};
use io_uring::{opcode, types};
use std::{
    mem::ManuallyDrop,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
};

/// Writes of so much in all are worth a system call of their own: drives are busy with them while the turn goes on. Bytes.
const EARLY_BYTES: usize = 256 * 1024;

/// Looks in one reap when few sockets are asked directly, as long as nothing comes: what comes meanwhile is heard sooner than by the next
/// turn's.
const LOOKS: usize = 4;

/// How long a driver that is dropped waits for the kernel to let go of its buffers. Nanoseconds.
const DRAIN_NS: u64 = 10_000_000_000;

/// The real world of one core. Made, used and dropped on that core's thread.
pub struct Uring {
    ring: Ring,
    /// Dropped by hand, once the kernel has let go of it.
    io: ManuallyDrop<Tables>,
    waker: Arc<Waker>,
    /// A read of the eventfd is under way.
    wake_armed: bool,
    /// Signalled by the kernel whenever there is something to take; made for the first that asks for it.
    event: Option<OwnedFd>,
    /// It may be readable for what was taken already.
    event_is_old: bool,
    /// Events of operations that ended without the kernel; they wait for the next look.
    ready: Events,
    cqes: Vec<Cqe>,
    /// When completions were last looked at: the turn's time, for drives' counters.
    clock: Nanos,
    reuse_port: bool,
    congestion: Option<String>,
}

/// What the kernel may be touching.
struct Tables {
    sockets: Sockets,
    listeners: Listeners,
    drives: Drives,
    chunks: Chunks,
    wake_count: Box<[u8; 8]>,
    pool: Pool,
}

impl Uring {
    /// A ring for the calling thread. An error's text names what to change.
    pub fn new(config: &UringConfig) -> Result<Uring, Error> {
        if let Some(name) = &config.congestion {
            sys::check_congestion(name)?;
        }
        let pool = Pool::try_new(&config.pool)
            .ok_or_else(|| errors::refused("buffers: there is no memory for so many".into()))?;
        sys::prefer_large_pages(pool.region());
        let ring = Ring::new(config, &pool)?;
        let chunks = Chunks::new(&ring.submitter(), config.most_chunks, &pool)?;
        let waker = Arc::new(Waker::new()?);
        pool.on_return(waker.clone());
        let (sockets, listeners, drives) = (Sockets::default(), Listeners::default(), Drives::default());
        let wake_count = Box::default();
        Ok(Uring {
            ring,
            io: ManuallyDrop::new(Tables { sockets, listeners, drives, chunks, wake_count, pool }),
            waker,
            wake_armed: false,
            event: None,
            event_is_old: false,
            ready: Vec::new(),
            cqes: Vec::new(),
            clock: sys::boot_time(),
            reuse_port: config.reuse_port,
            congestion: config.congestion.clone(),
        })
    }

    /// What the ring uses of what the kernel offers.
    #[must_use]
    pub fn features(&self) -> Features {
        self.ring.features()
    }

    fn start(&mut self, tag: Tag, op: Op) {
        let (ring, out) = (&mut self.ring, &mut self.ready);
        match op {
            Op::Send { sock, data } => self.io.sockets.send(tag, sock, data, ring, out),
            Op::Receive { sock } => self.io.sockets.receive(tag, sock, ring, out),
            Op::StopReceive { sock } => self.io.sockets.stop_receive(sock, ring, out),
            Op::EndStream { sock } => self.io.sockets.end_stream(sock),
            Op::Connect { sock, addr } => self.io.sockets.connect(tag, sock, addr, ring, out),
            Op::Close { sock } => self.io.sockets.close(tag, sock, ring, out),
            Op::Abort { sock } => self.io.sockets.abort(tag, sock, ring, out),
            Op::Accept { listener } => self.io.listeners.accept(tag, listener, ring, out),
            Op::Read { .. } | Op::Write { .. } | Op::Flush { .. } | Op::Discard { .. } => {
                self.io.drives.start(tag, op, self.clock, ring, out);
            }
        }
    }

    /// Chunks go to the kernel, and receives that waited for them go on.
    fn refill(&mut self) {
        let io = &mut *self.io;
        io.chunks.refill(&io.pool);
        if io.sockets.starving() {
            io.sockets.feed_starved(io.chunks.provided(), &mut self.ring);
        }
    }

    /// Makes the descriptor unreadable, if it is readable for what was taken already or is taken now.
    fn renew_event(&mut self) {
        let Some(event) = &self.event else { return };
        let now = self.ring.wants_enter() || self.ring.has_completions();
        // Before the look: what comes after it makes the descriptor readable again. Entering may signal it, too.
        if std::mem::replace(&mut self.event_is_old, now) || now {
            sys::clear(event);
        }
    }

    /// Nobody else may wake us when streams are to be asked for their ends.
    fn until_ends(&self, wait: Wait) -> Wait {
        match (wait, self.io.sockets.ends_due(self.clock)) {
            (Wait::Forever, Some(due)) => Wait::Until(due),
            (Wait::Until(at), Some(due)) => Wait::Until(at.min(due)),
            _ => wait,
        }
    }

    fn enter(&mut self, wait: Wait) {
        let wait = match wait {
            Wait::No => EnterWait::No,
            Wait::Forever => EnterWait::Forever,
            Wait::Until(at) => match at.since(sys::boot_time()) {
                0 => EnterWait::No,
                nanos => EnterWait::Nanos(nanos),
            },
        };
        if wait == EnterWait::No || !self.ready.is_empty() || self.ring.has_completions() {
            if self.ring.wants_enter() {
                self.ring.enter(EnterWait::No);
            }
            return;
        }
        self.arm_wake();
        let asleep = self.waker.bell.try_sleep();
        self.ring.enter(if asleep { wait } else { EnterWait::No });
        self.waker.bell.awake();
    }

    /// Has a read of the eventfd under way before the core sleeps.
    fn arm_wake(&mut self) {
        if self.wake_armed {
            return;
        }
        self.wake_armed = true;
        let entry = opcode::Read::new(types::Fd(self.waker.fd()), self.io.wake_count.as_mut_ptr(), 8).build();
        // SAFETY: the boxed counter lives as long as the driver, which outlives the request.
        unsafe { self.ring.push(entry, Token::new(Kind::Wake, 0, 0)) };
    }

    fn complete(&mut self, cqe: &Cqe, out: &mut Events) {
        let (ring, io) = (&mut self.ring, &mut *self.io);
        match cqe.token.kind {
            Kind::Receive | Kind::Send | Kind::Connect => {
                io.sockets.complete(cqe, &mut io.chunks, ring, out);
            }
            Kind::Accept => io.listeners.complete(cqe, &mut io.sockets, ring, out),
            Kind::Drive => io.drives.complete(cqe, self.clock, ring, out),
            Kind::Wake => self.wake_armed = false,
            Kind::Cancel => {}
        }
    }

    fn take_completions(&mut self, events: &mut Events) {
        let mut cqes = std::mem::take(&mut self.cqes);
        self.ring.take(&mut cqes);
        // Some may have come after the descriptor was made unreadable, while we slept above all.
        self.event_is_old |= !cqes.is_empty();
        for cqe in cqes.drain(..) {
            self.complete(&cqe, events);
        }
        self.cqes = cqes;
    }
}

impl Uring {
    /// Refuses drives where buffers are not aligned for them.
    fn takes_drives(&self) -> Result<(), Error> {
        if self.io.pool.align_bytes() < ALIGN_BYTES {
            let what = "a drive: this core's buffers have room for headers (PoolConfig::with_heads), so they are not aligned for it";
            return Err(errors::refused(what.into()));
        }
        Ok(())
    }
}

impl Driver for Uring {
    fn submit(&mut self, ops: &mut Vec<(Tag, Op)>) {
        let mut written = 0;
        for (tag, op) in ops.drain(..) {
            if let Op::Write { data, .. } = &op {
                written += data.iter().map(|part| part.len()).sum::<usize>();
            }
            self.start(tag, op);
        }
        if written >= EARLY_BYTES {
            self.ring.enter(EnterWait::No);
        }
    }

    fn reap(&mut self, wait: Wait, events: &mut Vec<(Tag, Event)>) -> Nanos {
        self.refill();
        self.renew_event();
        // Who waits for the descriptor hears only of what the kernel does.
        let spins = wait == Wait::No && self.event.is_none() && self.ring.features().direct;
        if !spins {
            self.io.sockets.ask_no_more(&mut self.ring);
        }
        self.enter(self.until_ends(wait));
        events.append(&mut self.ready);
        self.clock = sys::boot_time();
        self.take_completions(events);
        self.io.sockets.look_for_ends(self.clock, &mut self.ring);
        if spins {
            let Tables { sockets, pool, .. } = &mut *self.io;
            sockets.ask(pool, &mut self.ring, events);
            for _ in 1..LOOKS {
                if !events.is_empty() || !sockets.asks_few() {
                    break;
                }
                sockets.ask(pool, &mut self.ring, events);
            }
        }
        self.clock
    }

    fn now(&self) -> Nanos {
        sys::boot_time()
    }

    fn wall(&self) -> UnixMillis {
        sys::wall_time()
    }

    fn random(&mut self, out: &mut [u8]) {
        sys::random(out);
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.waker.clone()
    }

    fn descriptor(&mut self) -> Option<BorrowedFd<'_>> {
        if self.event.is_none() {
            // The ring's own descriptor doesn't become readable by work that is deferred to us; an eventfd does.
            let event = sys::polled_eventfd().ok()?;
            self.ring.submitter().register_eventfd(event.as_raw_fd()).ok()?;
            (self.event, self.event_is_old) = (Some(event), true);
        }
        self.event.as_ref().map(AsFd::as_fd)
    }

    fn pool(&self) -> &Pool {
        &self.io.pool
    }

    fn listen(&mut self, addr: SocketAddr) -> Result<(ListenerId, SocketAddr), Error> {
        let (fd, local) = sys::listener(addr, self.reuse_port, self.congestion.as_deref())?;
        Ok((self.io.listeners.insert(fd), local))
    }

    fn listen_unix(&mut self, path: &Path) -> Result<ListenerId, Error> {
        Ok(self.io.listeners.insert(sys::unix_listener(path)?))
    }

    fn close_listener(&mut self, listener: ListenerId) {
        self.io.listeners.close(listener, &mut self.ring);
    }

    fn lands(&self, sock: SocketId) -> bool {
        self.io.sockets.lands(sock)
    }

    fn land(&mut self, sock: SocketId, landing: Box<Landing>) -> Result<(), Box<Landing>> {
        self.io.sockets.land(sock, landing)
    }

    fn recall(&mut self, sock: SocketId) -> Option<Box<Landing>> {
        self.io.sockets.recall(sock)
    }

    fn bytes_taken(&self, sock: SocketId) -> Option<u64> {
        self.io.sockets.bytes_taken(sock)
    }

    fn socket(&mut self, addr: SocketAddr) -> Result<SocketId, Error> {
        let fd = sys::stream_socket(addr, self.congestion.as_deref())?;
        Ok(self.io.sockets.insert(fd, &mut self.ring))
    }

    fn open_drive(&mut self, options: &OpenDrive) -> Result<DriveInfo, Error> {
        self.takes_drives()?;
        let (opened, info) = open::open(options)?;
        let file = self.io.drives.insert(Arc::new(opened));
        Ok(DriveInfo { file, ..info })
    }

    fn share_drive(&mut self, drive: &DriveHandle) -> Result<FileId, Error> {
        match drive.0.clone().downcast::<Opened>() {
            Ok(opened) => self.takes_drives().map(|()| self.io.drives.insert(opened)),
            Err(_) => Err(errors::refused("share a drive of another driver".into())),
        }
    }

    fn export_drive(&self, file: FileId) -> Result<DriveHandle, Error> {
        let opened = self.io.drives.opened(file);
        let opened = opened.ok_or_else(|| errors::closed("export a drive that is not open"))?;
        Ok(DriveHandle(opened.clone()))
    }

    fn drive_counters(&self, file: FileId) -> DriveCounters {
        self.io.drives.counters(file)
    }

    fn close_drive(&mut self, file: FileId) {
        self.io.drives.close(file);
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.io.listeners.close_all(&mut self.ring);
        self.io.sockets.close_all(&mut self.ring);
        if self.wake_armed {
            self.ring.cancel(Token::new(Kind::Wake, 0, 0));
        }
        let deadline = Nanos(sys::boot_time().0.saturating_add(DRAIN_NS));
        let mut events = Vec::new();
        while self.ring.outstanding() > 0 {
            let left = deadline.since(sys::boot_time());
            if left == 0 {
                // A drive that hangs may still write into our buffers: they are never freed.
                return;
            }
            self.ring.enter(EnterWait::Nanos(left));
            self.take_completions(&mut events);
            events.clear();
        }
        // Events that nobody took hold buffers of the pool; they may go before it or after.
        // SAFETY: nothing uses `io` after this; the kernel touches none of it, since no request is outstanding.
        unsafe { ManuallyDrop::drop(&mut self.io) };
    }
}
