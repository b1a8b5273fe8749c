//! Operations, their completions, and the handles they name.

use crate::{Buf, Landing, Slice};
use std::{fmt, net::SocketAddr};

/// A component of a core that receives events: small numbers given out by whoever composes the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(pub u8);

/// Where a completion goes: the component, and a key that means something to that component alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    /// The component that started the operation.
    pub owner: Owner,
    /// The component's own key (slot index, generation, ...).
    pub key: u64,
}

/// A listening socket of this core's driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub u32);

/// A stream socket of this core's driver. Ids are reused only after [`Event::Closed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u32);

/// An open drive (block device, or a file that stands for one) of this core's driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u32);

/// Bytes to send or write, in order, as shared read-only views of pool buffers.
pub type Slices = Vec<Slice>;

/// One operation. Buffers belong to it until its terminal event.
#[derive(Debug)]
pub enum Op {
    /// Accept connections until the listener is closed: many [`Event::Accepted`], at last [`Event::Failed`]. One that fails with
    /// [`ErrorKind::Resources`] (no descriptors left) may be started again after a pause.
    Accept {
        /// From [`Driver::listen`](crate::Driver::listen).
        listener: ListenerId,
    },
    /// Open a connection on a socket from [`Driver::socket`](crate::Driver::socket): [`Event::Connected`] or [`Event::Failed`].
    Connect {
        /// The unconnected socket.
        sock: SocketId,
        /// The peer.
        addr: SocketAddr,
    },
    /// Receive until the end of the stream, an error, [`Op::StopReceive`], [`Op::Close`] or [`Op::Abort`]: many [`Event::Received`], in order.
    /// When the pool has no chunk left the driver waits for one to come back; that is the back-pressure. Ends with
    /// [`Event::EndOfStream`], [`Event::ReceiveStopped`] or [`Event::Failed`].
    Receive {
        /// A connected socket with no receive under way.
        sock: SocketId,
    },
    /// Stop receiving. Data already taken from the kernel is still delivered, then the [`Op::Receive`] ends with
    /// [`Event::ReceiveStopped`], or with what ended it in the same moment. Has no event of its own.
    StopReceive {
        /// A socket with a receive under way.
        sock: SocketId,
    },
    /// End our side of the stream after what was sent; no send may be under way, and none may follow. Receiving goes on until the peer
    /// ends its side too. Has no event of its own.
    EndStream {
        /// A connected socket.
        sock: SocketId,
    },
    /// Send all of `data`: [`Event::Sent`] after the last byte is in the kernel, or [`Event::Failed`]. One send per socket at a time.
    Send {
        /// A connected socket.
        sock: SocketId,
        /// What to send. Handed back (emptied) for reuse.
        data: Slices,
    },
    /// Close a socket: every operation still under way on it ends first (with what it achieved, else
    /// [`ErrorKind::Closed`]), then [`Event::Closed`], and nothing after. What [`Event::Sent`] covered still goes out.
    Close {
        /// Any socket.
        sock: SocketId,
    },
    /// [`Op::Close`] for a stream whose rest must not arrive: what [`Event::Sent`] covered and the peer has not received is not sent
    /// any more, and the peer is told of a reset. After a mere close the kernel would send it again and again, for minutes, and what
    /// goes over another connection meanwhile comes first.
    Abort {
        /// Any socket.
        sock: SocketId,
    },
    /// Read `buf.len()` bytes at `offset`: [`Event::Read`]. Offset and length are multiples of the drive's alignment.
    Read {
        /// The drive.
        file: FileId,
        /// Byte offset.
        offset: u64,
        /// Filled wholly or not at all.
        buf: Buf,
    },
    /// Write `data` at `offset`: [`Event::Written`]. Offset and lengths are multiples of the drive's alignment.
    Write {
        /// The drive.
        file: FileId,
        /// Byte offset.
        offset: u64,
        /// What to write. Handed back (emptied) for reuse.
        data: Slices,
        /// True: on stable media before the event (RWF_DSYNC or FUA).
        durable: bool,
    },
    /// Make everything written before durable: [`Event::Flushed`]. A failure is never retried by anyone.
    Flush {
        /// The drive.
        file: FileId,
    },
    /// Tell the drive that a range holds nothing of value (punch hole, TRIM): [`Event::Discarded`]. Reads may return anything afterwards.
    Discard {
        /// The drive.
        file: FileId,
        /// Byte offset.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
}

/// What became of an operation. `Accepted`, `Received` and `Landed` may come many times for one operation; everything else ends it.
#[derive(Debug)]
pub enum Event {
    /// A new connection.
    Accepted {
        /// The connection's socket, with NODELAY set and no receive under way yet.
        sock: SocketId,
        /// The other end.
        peer: SocketAddr,
        /// Our end: the address that this host used to reach us.
        local: SocketAddr,
    },
    /// The connection is open.
    Connected {
        /// Our end.
        local: SocketAddr,
    },
    /// Bytes of the stream, in order. Dropping the buffer lends it to the driver again.
    Received(Buf),
    /// Bytes of the stream, in order, in the landing that was lent by [`Driver::land`](crate::Driver::land).
    Landed {
        /// Filled from its start (behind what it skips).
        landing: Box<Landing>,
        /// How much came; at least 1. Bytes.
        bytes: usize,
    },
    /// The peer closed its side; ends [`Op::Receive`].
    EndOfStream,
    /// [`Op::Receive`] ended because of [`Op::StopReceive`].
    ReceiveStopped,
    /// Everything was handed to the kernel.
    Sent(Slices),
    /// The socket is gone.
    Closed,
    /// The buffer is filled.
    Read(Buf),
    /// The data is written (and durable, if that was asked).
    Written(Slices),
    /// All earlier writes are durable.
    Flushed,
    /// The range is given up.
    Discarded,
    /// A timer's time has come.
    Timer,
    /// The operation failed; buffers that it owned are back in the pool, except for a read's, which is handed back.
    Failed {
        /// Why.
        error: Error,
        /// The buffer of a failed [`Op::Read`], contents undefined.
        buf: Option<Buf>,
    },
}

/// What kind of failure, for code to decide on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The operation was ended by [`Op::Close`] or [`Op::Abort`], or the socket or file is not open.
    Closed,
    /// The peer reset or refused the connection, or it timed out.
    Connection,
    /// The medium failed (EIO, ENODATA, EREMOTEIO, a short transfer).
    Medium,
    /// The device is gone (ENODEV, ENXIO).
    Gone,
    /// No space behind a file that stands for a drive (ENOSPC, EDQUOT, EFBIG).
    NoSpace,
    /// Out of descriptors or memory; may pass.
    Resources,
    /// We asked for something the system does not do; a defect of ours or of the set-up.
    Refused,
}

/// A failed operation: kind, what was tried, and the system's error number when there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// For code.
    pub kind: ErrorKind,
    /// What was tried on what, for people.
    pub context: String,
    /// The system's errno, if any.
    pub errno: Option<i32>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errno {
            Some(n) => write!(f, "{}: {}", self.context, std::io::Error::from_raw_os_error(n)),
            None => f.write_str(&self.context),
        }
    }
}

impl std::error::Error for Error {}
