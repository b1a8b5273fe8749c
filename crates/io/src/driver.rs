//! The one trait through which Dolmen touches the world.

use crate::{Error, ErrorKind, Event, FileId, Landing, ListenerId, Op, Pool, SocketId, Tag};
use dolmen_types::{Nanos, UnixMillis};
use std::{
    net::SocketAddr,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

/// How long [`Driver::reap`] may wait for a first completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: we are polling.
    No,
    /// Until this instant, a completion, or a wake, whichever comes first.
    Until(Nanos),
    /// Until a completion or a wake.
    Forever,
}

/// Rings a core that sleeps in [`Driver::reap`]; callable from any thread, cheap when the core is awake.
pub trait Wake: Send + Sync {
    /// Makes the core's current or next wait return soon.
    fn wake(&self);
}

/// How to open a drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenDrive {
    /// Block device or regular file.
    pub path: PathBuf,
    /// `Some(bytes)`: create a missing regular file with this size (preallocated unless `sparse`).
    pub create_bytes: Option<u64>,
    /// Do not preallocate a file that is made, and give discarded ranges of a file back to its file system (a preallocated
    /// file keeps its space, so that later writes find it).
    pub sparse: bool,
    /// Refuse when another process (or another open of this one) holds the drive.
    pub exclusive: bool,
}

/// What a drive turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriveInfo {
    /// The handle for operations on this core.
    pub file: FileId,
    /// Usable size. Bytes.
    pub size_bytes: u64,
    /// Alignment of offsets and lengths. Bytes, at most one store block.
    pub align_bytes: u32,
    /// True for a block device, false for a regular file.
    pub block_device: bool,
    /// True when operations go past the page cache. False on file systems without direct I/O; durability holds there too.
    pub direct: bool,
    /// True when the file was made by this call.
    pub created: bool,
    /// The device's serial number, if it tells one.
    pub serial: Option<String>,
    /// The device's model, if it tells one.
    pub model: Option<String>,
}

/// What one core has done with a drive since it opened it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriveCounters {
    /// Reads.
    pub reads: OpCounters,
    /// Writes.
    pub writes: OpCounters,
    /// Flushes.
    pub flushes: OpCounters,
    /// Operations that have not ended.
    pub inflight: u64,
}

/// One kind of operation on a drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpCounters {
    /// Ended, well or not. Count.
    pub operations: u64,
    /// Moved by those that ended well. Bytes.
    pub bytes: u64,
    /// Failed. Count.
    pub errors: u64,
    /// From submission to the look at the completion, summed. Nanoseconds.
    pub time_ns: u64,
}

/// The world of one core: sockets, drives, time and randomness.
///
/// Contract: operations on one socket or one file may complete in any order; each (but [`Op::StopReceive`] and [`Op::EndStream`]) gets exactly one
/// terminal event, never from inside `submit`; buffers are owned by the driver from `submit` to that event. `reap` is the only call that waits.
pub trait Driver {
    /// Starts everything in `ops`, in order, and leaves it empty.
    fn submit(&mut self, ops: &mut Vec<(Tag, Op)>);

    /// Appends completions to `events`; waits for a first one as `wait` allows. The time at which it looked.
    fn reap(&mut self, wait: Wait, events: &mut Vec<(Tag, Event)>) -> Nanos;

    /// The monotonic clock (CLOCK_BOOTTIME or virtual).
    fn now(&self) -> Nanos;

    /// The wall clock, for people and for NVMe's Timestamp feature.
    fn wall(&self) -> UnixMillis;

    /// Fills `out` with random bytes fit for keys and UUIDs.
    fn random(&mut self, out: &mut [u8]);

    /// A handle that wakes this core.
    fn waker(&self) -> Arc<dyn Wake>;

    /// A descriptor that is readable when [`Driver::reap`] would bring something, for a loop of somebody else's to wait on;
    /// `None` for a driver that has none.
    fn descriptor(&mut self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The pool of this core's buffers; received chunks come from it.
    fn pool(&self) -> &Pool;

    /// Binds and listens; `port` 0 picks a free one. Several cores may listen on one address (SO_REUSEPORT).
    fn listen(&mut self, addr: SocketAddr) -> Result<(ListenerId, SocketAddr), Error>;

    /// Binds and listens at a socket in the file system that only its owner may use; a left-over one that nobody listens at is
    /// replaced. Its connections have no addresses: [`Event::Accepted`](crate::Event::Accepted) tells unspecified ones.
    fn listen_unix(&mut self, path: &Path) -> Result<ListenerId, Error> {
        let context = format!("listen at {}: this driver has no such sockets", path.display());
        Err(Error { kind: ErrorKind::Refused, context, errno: None })
    }

    /// Stops listening; [`Op::Accept`] on it ends with `Failed { Closed }`.
    fn close_listener(&mut self, listener: ListenerId);

    /// True when the socket's receive would fill a landing now, and has none. That can change with every [`Driver::reap`].
    fn lands(&self, sock: SocketId) -> bool {
        let _ = sock;
        false
    }

    /// Lends a landing to a socket for which [`Driver::lands`] is true: what comes next fills it, and it comes back with
    /// [`Event::Landed`]. Should something come another way ([`Event::Received`]), it is not filled any more, since it may not
    /// suit what follows; whoever takes such bytes takes the landing back first. The landing itself when the socket has no use
    /// for it.
    fn land(&mut self, sock: SocketId, landing: Box<Landing>) -> Result<(), Box<Landing>> {
        let _ = sock;
        Err(landing)
    }

    /// Takes a landing back that was lent and not filled; `None` when the socket has none.
    fn recall(&mut self, sock: SocketId) -> Option<Box<Landing>> {
        let _ = sock;
        None
    }

    /// How many of the bytes that were sent on a socket have reached the other end, since the connection began; `None` where nobody can
    /// tell. An end that does not read takes no more than it has room for, so the number stands still then. It costs a system call.
    fn bytes_taken(&self, sock: SocketId) -> Option<u64> {
        let _ = sock;
        None
    }

    /// An unconnected stream socket for [`Op::Connect`] to `addr`'s family.
    fn socket(&mut self, addr: SocketAddr) -> Result<SocketId, Error>;

    /// Opens (or makes) a drive. Blocking; for start-up and control paths.
    fn open_drive(&mut self, options: &OpenDrive) -> Result<DriveInfo, Error>;

    /// A second handle on this core for a drive that another core of this process opened; shares its lock.
    fn share_drive(&mut self, drive: &DriveHandle) -> Result<FileId, Error>;

    /// A handle that other cores give to [`Driver::share_drive`].
    fn export_drive(&self, file: FileId) -> Result<DriveHandle, Error>;

    /// What this core has done with a drive since it opened it; zeros for one that is not open.
    fn drive_counters(&self, file: FileId) -> DriveCounters;

    /// Closes a drive and gives up its lock when no other core holds it. No operation may be under way on it.
    fn close_drive(&mut self, file: FileId);
}

/// An open drive on its way to another core of the same process; opaque to all but the driver that made it.
#[derive(Clone)]
pub struct DriveHandle(pub Arc<dyn std::any::Any + Send + Sync>);

impl std::fmt::Debug for DriveHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DriveHandle")
    }
}
