//! The front that a core's components work with: the driver, this turn's operations, the timers, the turn's time.
//!
//! Components queue operations during a turn; [`Io::submit`] hands them to the driver in one go, and [`Io::poll`]
//! brings completions and expired timers. Nothing here waits but `poll`.

use crate::{
    Buf, DriveCounters, DriveHandle, DriveInfo, Driver, Error, Event, FileId, Landing, ListenerId, Op,
    OpenDrive, Pool, Slices, SocketId, Tag, TimerId, Timers, Wait, Wake,
};
use dolmen_types::{Nanos, UnixMillis};
use std::{net::SocketAddr, os::fd::BorrowedFd, path::Path, sync::Arc};

/// Timers of one core at most: several for each of many thousands of connections.
pub const MAX_TIMERS: usize = 1 << 20;

/// Emptied vectors of slices that are kept for reuse at most.
const MAX_SPARE_SLICES: usize = 1024;

/// One core's access to the world. Passed down to components as `&mut Io`.
pub struct Io {
    driver: Box<dyn Driver>,
    pool: Pool,
    queue: Vec<(Tag, Op)>,
    timers: Timers,
    now: Nanos,
    before: Nanos,
    lag_ns: u64,
    spare: Vec<Slices>,
}

impl Io {
    /// Takes over a driver.
    #[must_use]
    pub fn new(driver: Box<dyn Driver>) -> Io {
        let (pool, now) = (driver.pool().clone(), driver.now());
        Io {
            driver,
            pool,
            queue: Vec::new(),
            timers: Timers::new(MAX_TIMERS),
            now,
            before: now,
            lag_ns: 0,
            spare: Vec::new(),
        }
    }

    // The turn.

    /// Submits what is queued, waits as `wait` allows but no longer than to the next timer, and appends completions and
    /// expired timers to `events`. Sets the turn's [`Io::now`].
    pub fn poll(&mut self, wait: Wait, events: &mut Vec<(Tag, Event)>) {
        self.submit();
        let wait = match (wait, self.timers.next_deadline()) {
            (Wait::No, _) | (_, None) => wait,
            (Wait::Until(at), Some(timer)) => Wait::Until(at.min(timer)),
            (Wait::Forever, Some(timer)) => Wait::Until(timer),
        };
        let looked = self.driver.reap(wait, events);
        self.before = std::mem::replace(&mut self.now, looked);
        // What came while the core slept was looked at at once.
        self.lag_ns = if wait == Wait::No { looked.since(self.before) } else { 0 };
        while let Some(tag) = self.timers.expire(self.now) {
            events.push((tag, Event::Timer));
        }
    }

    /// Hands this turn's operations to the driver, in order. [`Io::poll`] does; who has much for a drive to do need not wait for it.
    pub fn submit(&mut self) {
        if !self.queue.is_empty() {
            self.driver.submit(&mut self.queue);
        }
    }

    /// The time at which this turn began (CLOCK_BOOTTIME or virtual time).
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// The time of the look before this turn's. What came in with this turn was not taken then, but may have come any time since: a core that
    /// sleeps is woken by what comes, but the whole thread may have stood still, or the machine.
    #[must_use]
    pub fn looked_before(&self) -> Nanos {
        self.before
    }

    /// How long what came in with this turn may have waited for the turn before, at most. Nanoseconds.
    #[must_use]
    pub fn lag_ns(&self) -> u64 {
        self.lag_ns
    }

    /// The time at this very moment, for measuring work within a turn. It costs a look at the clock; everything else goes by
    /// [`Io::now`].
    #[must_use]
    pub fn moment(&self) -> Nanos {
        self.driver.now()
    }

    /// The wall clock, for people and for NVMe's Timestamp feature.
    #[must_use]
    pub fn wall(&self) -> UnixMillis {
        self.driver.wall()
    }

    /// Fills `out` with random bytes fit for keys and UUIDs.
    pub fn random(&mut self, out: &mut [u8]) {
        self.driver.random(out);
    }

    /// A handle that wakes this core, for mailboxes and inboxes.
    #[must_use]
    pub fn waker(&self) -> Arc<dyn Wake> {
        self.driver.waker()
    }

    // In somebody else's loop.

    /// A descriptor that is readable when [`Io::poll`] would bring completions; `None` when the driver has none. It says
    /// nothing of timers: [`Io::next_deadline`] does.
    #[must_use]
    pub fn descriptor(&mut self) -> Option<BorrowedFd<'_>> {
        self.driver.descriptor()
    }

    /// When the next timer expires.
    #[must_use]
    pub fn next_deadline(&mut self) -> Option<Nanos> {
        self.timers.next_deadline()
    }

    /// The clock as it is now; [`Io::now`] stands still during a turn.
    #[must_use]
    pub fn clock(&self) -> Nanos {
        self.driver.now()
    }

    // Memory.

    /// This core's buffers.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// A buffer of `len` bytes (old contents), or `None` when the pool has none.
    #[must_use]
    pub fn alloc(&self, len: usize) -> Option<Buf> {
        self.pool.alloc(len)
    }

    /// An empty vector for [`Io::send`] and [`Io::write`], recycled when there is one.
    #[must_use]
    pub fn slices(&mut self) -> Slices {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes back the vector of a finished send or write for reuse.
    pub fn recycle(&mut self, mut slices: Slices) {
        slices.clear();
        if self.spare.len() < MAX_SPARE_SLICES {
            self.spare.push(slices);
        }
    }

    // Timers.

    /// Arms a timer: [`Event::Timer`] with `tag` in the first turn at or after `at`.
    pub fn timer_at(&mut self, tag: Tag, at: Nanos) -> TimerId {
        self.timers.arm(tag, at)
    }

    /// Moves a timer; cheap when it moves later. False when it fired or was cancelled before.
    pub fn rearm_timer(&mut self, id: TimerId, at: Nanos) -> bool {
        self.timers.rearm(id, at)
    }

    /// Disarms a timer; false when it fired (its event may be in this turn's batch) or was cancelled before.
    pub fn cancel_timer(&mut self, id: TimerId) -> bool {
        self.timers.cancel(id)
    }

    // Operations.

    /// Queues any operation.
    pub fn queue_op(&mut self, tag: Tag, op: Op) {
        self.queue.push((tag, op));
    }

    // Sockets.

    /// Binds and listens; `port` 0 picks a free one.
    pub fn listen(&mut self, addr: SocketAddr) -> Result<(ListenerId, SocketAddr), Error> {
        self.driver.listen(addr)
    }

    /// Binds and listens at a socket in the file system that only its owner may use.
    pub fn listen_unix(&mut self, path: &Path) -> Result<ListenerId, Error> {
        self.driver.listen_unix(path)
    }

    /// Queues [`Op::Accept`].
    pub fn accept(&mut self, tag: Tag, listener: ListenerId) {
        self.queue.push((tag, Op::Accept { listener }));
    }

    /// Stops listening; the accept under way ends.
    pub fn close_listener(&mut self, listener: ListenerId) {
        self.submit();
        self.driver.close_listener(listener);
    }

    /// Makes a socket and queues [`Op::Connect`] on it.
    pub fn connect(&mut self, tag: Tag, addr: SocketAddr) -> Result<SocketId, Error> {
        let sock = self.driver.socket(addr)?;
        self.queue.push((tag, Op::Connect { sock, addr }));
        Ok(sock)
    }

    /// Queues [`Op::Receive`].
    pub fn receive(&mut self, tag: Tag, sock: SocketId) {
        self.queue.push((tag, Op::Receive { sock }));
    }

    /// True when the socket's receive would fill a landing now, and has none.
    #[must_use]
    pub fn lands(&self, sock: SocketId) -> bool {
        self.driver.lands(sock)
    }

    /// Lends a landing; see [`Driver::land`].
    ///
    /// # Errors
    /// The landing, when the socket has no use for it.
    pub fn land(&mut self, sock: SocketId, landing: Box<Landing>) -> Result<(), Box<Landing>> {
        self.driver.land(sock, landing)
    }

    /// Takes a landing back that was lent and not filled.
    pub fn recall(&mut self, sock: SocketId) -> Option<Box<Landing>> {
        self.driver.recall(sock)
    }

    /// How many of the bytes that were sent have reached the other end; see [`Driver::bytes_taken`].
    #[must_use]
    pub fn bytes_taken(&self, sock: SocketId) -> Option<u64> {
        self.driver.bytes_taken(sock)
    }

    /// Queues [`Op::StopReceive`]; the receive's own tag gets the end.
    pub fn stop_receive(&mut self, tag: Tag, sock: SocketId) {
        self.queue.push((tag, Op::StopReceive { sock }));
    }

    /// Queues [`Op::EndStream`].
    pub fn end_stream(&mut self, tag: Tag, sock: SocketId) {
        self.queue.push((tag, Op::EndStream { sock }));
    }

    /// Queues [`Op::Send`].
    pub fn send(&mut self, tag: Tag, sock: SocketId, data: Slices) {
        self.queue.push((tag, Op::Send { sock, data }));
    }

    /// Queues [`Op::Close`].
    pub fn close(&mut self, tag: Tag, sock: SocketId) {
        self.queue.push((tag, Op::Close { sock }));
    }

    /// Queues [`Op::Abort`].
    pub fn abort(&mut self, tag: Tag, sock: SocketId) {
        self.queue.push((tag, Op::Abort { sock }));
    }

    // Drives.

    /// Opens (or makes) a drive. Blocks; for start-up and control paths.
    pub fn open_drive(&mut self, options: &OpenDrive) -> Result<DriveInfo, Error> {
        self.driver.open_drive(options)
    }

    /// A handle for [`Io::share_drive`] on other cores.
    pub fn export_drive(&self, file: FileId) -> Result<DriveHandle, Error> {
        self.driver.export_drive(file)
    }

    /// This core's own handle for a drive that another core opened.
    pub fn share_drive(&mut self, drive: &DriveHandle) -> Result<FileId, Error> {
        self.driver.share_drive(drive)
    }

    /// What this core has done with a drive since it opened it.
    #[must_use]
    pub fn drive_counters(&self, file: FileId) -> DriveCounters {
        self.driver.drive_counters(file)
    }

    /// Closes a drive on which nothing is under way.
    pub fn close_drive(&mut self, file: FileId) {
        self.driver.close_drive(file);
    }

    /// Queues [`Op::Read`].
    pub fn read(&mut self, tag: Tag, file: FileId, offset: u64, buf: Buf) {
        self.queue.push((tag, Op::Read { file, offset, buf }));
    }

    /// Queues [`Op::Write`] that is complete when the drive has it, perhaps in a volatile cache.
    pub fn write(&mut self, tag: Tag, file: FileId, offset: u64, data: Slices) {
        self.queue.push((tag, Op::Write { file, offset, data, durable: false }));
    }

    /// Queues [`Op::Write`] that is complete when it is on stable media.
    pub fn write_durable(&mut self, tag: Tag, file: FileId, offset: u64, data: Slices) {
        self.queue.push((tag, Op::Write { file, offset, data, durable: true }));
    }

    /// Queues [`Op::Flush`].
    pub fn flush_drive(&mut self, tag: Tag, file: FileId) {
        self.queue.push((tag, Op::Flush { file }));
    }

    /// Queues [`Op::Discard`].
    pub fn discard(&mut self, tag: Tag, file: FileId, offset: u64, len: u64) {
        self.queue.push((tag, Op::Discard { file, offset, len }));
    }
}
