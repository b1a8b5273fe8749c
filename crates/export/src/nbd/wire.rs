//! The numbers of the NBD protocol, as <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md> has them, and
//! its structures. All integers are big-endian.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    big_endian::{U16, U32, U64},
};

/// The first eight bytes of a server.
pub(crate) const INIT_MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
/// In front of the server's flags and of every option.
pub(crate) const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
/// In front of every reply to an option.
pub(crate) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// In front of every request.
pub(crate) const REQUEST_MAGIC: u32 = 0x2560_9513;
/// In front of a simple reply.
pub(crate) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// In front of a chunk of a structured reply.
pub(crate) const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Handshake flags of the server: fixed newstyle, and no zeroes after an export's flags.
pub(crate) const HANDSHAKE_FLAGS: u16 = 0b11;
/// Handshake flags that a client may set: the same two.
pub(crate) const CLIENT_FIXED: u32 = 1;
pub(crate) const CLIENT_NO_ZEROES: u32 = 2;
/// Zeroes after the answer to [`option::EXPORT_NAME`], unless both sides do without.
pub(crate) const EXPORT_NAME_PADDING: usize = 124;

/// Longest string. Bytes.
pub(crate) const MAX_STRING: usize = 4096;

/// Options of a client.
pub(crate) mod option {
    pub(crate) const EXPORT_NAME: u32 = 1;
    pub(crate) const ABORT: u32 = 2;
    pub(crate) const LIST: u32 = 3;
    pub(crate) const STARTTLS: u32 = 5;
    pub(crate) const INFO: u32 = 6;
    pub(crate) const GO: u32 = 7;
    pub(crate) const STRUCTURED_REPLY: u32 = 8;
    pub(crate) const LIST_META_CONTEXT: u32 = 9;
    pub(crate) const SET_META_CONTEXT: u32 = 10;
}

/// Replies to options.
pub(crate) mod option_reply {
    pub(crate) const ACK: u32 = 1;
    pub(crate) const SERVER: u32 = 2;
    pub(crate) const INFO: u32 = 3;
    pub(crate) const META_CONTEXT: u32 = 4;
    pub(crate) const ERR_UNSUPPORTED: u32 = 1 << 31 | 1;
    pub(crate) const ERR_POLICY: u32 = 1 << 31 | 2;
    pub(crate) const ERR_INVALID: u32 = 1 << 31 | 3;
    pub(crate) const ERR_UNKNOWN: u32 = 1 << 31 | 6;
    pub(crate) const ERR_TOO_BIG: u32 = 1 << 31 | 9;
}

/// Kinds of information about an export.
pub(crate) mod info {
    pub(crate) const EXPORT: u16 = 0;
    pub(crate) const NAME: u16 = 1;
    pub(crate) const DESCRIPTION: u16 = 2;
    pub(crate) const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags.
pub(crate) mod flag {
    pub(crate) const HAS_FLAGS: u16 = 1;
    pub(crate) const READ_ONLY: u16 = 1 << 1;
    pub(crate) const SEND_FLUSH: u16 = 1 << 2;
    pub(crate) const SEND_FUA: u16 = 1 << 3;
    pub(crate) const SEND_TRIM: u16 = 1 << 5;
    pub(crate) const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub(crate) const SEND_DF: u16 = 1 << 7;
    pub(crate) const CAN_MULTI_CONN: u16 = 1 << 8;
    pub(crate) const SEND_CACHE: u16 = 1 << 10;
    pub(crate) const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Kinds of requests.
pub(crate) mod command {
    pub(crate) const READ: u16 = 0;
    pub(crate) const WRITE: u16 = 1;
    pub(crate) const DISCONNECT: u16 = 2;
    pub(crate) const FLUSH: u16 = 3;
    pub(crate) const TRIM: u16 = 4;
    pub(crate) const CACHE: u16 = 5;
    pub(crate) const WRITE_ZEROES: u16 = 6;
    pub(crate) const BLOCK_STATUS: u16 = 7;
}

/// Flags of requests.
pub(crate) mod command_flag {
    pub(crate) const FUA: u16 = 1;
    pub(crate) const NO_HOLE: u16 = 1 << 1;
    pub(crate) const DF: u16 = 1 << 2;
    pub(crate) const REQ_ONE: u16 = 1 << 3;
    pub(crate) const FAST_ZERO: u16 = 1 << 4;
}

/// Kinds of chunks of a structured reply.
pub(crate) mod chunk {
    pub(crate) const NONE: u16 = 0;
    pub(crate) const OFFSET_DATA: u16 = 1;
    pub(crate) const OFFSET_HOLE: u16 = 2;
    pub(crate) const BLOCK_STATUS: u16 = 5;
    pub(crate) const ERROR: u16 = 1 << 15 | 1;
    /// Flag: the last chunk of its reply.
    pub(crate) const DONE: u16 = 1;
}

/// What is told of extents.
pub(crate) mod extent {
    /// The context that tells what is stored, its family, and our number for it.
    pub(crate) const ALLOCATION: &[u8] = b"base:allocation";
    pub(crate) const FAMILY: &[u8] = b"base:";
    pub(crate) const ALLOCATION_ID: u32 = 1;
    /// Flags of its extents: nothing is stored, and it reads as zeroes.
    pub(crate) const HOLE: u32 = 1;
    pub(crate) const ZERO: u32 = 1 << 1;
}

/// Errors of replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Errno {
    /// Not permitted.
    Perm = 1,
    /// Input or output.
    Io = 5,
    /// Out of memory.
    NoMemory = 12,
    /// Invalid.
    Invalid = 22,
    /// No space left.
    NoSpace = 28,
    /// Too long to be answered whole.
    Overflow = 75,
    /// Not supported.
    NotSupported = 95,
    /// The server is shutting down.
    Shutdown = 108,
}

/// What a server says first.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Greeting {
    /// [`INIT_MAGIC`].
    pub(crate) magic: U64,
    /// [`OPTION_MAGIC`].
    pub(crate) option_magic: U64,
    /// [`HANDSHAKE_FLAGS`].
    pub(crate) flags: U16,
}

/// In front of an option's data.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct OptionHeader {
    /// [`OPTION_MAGIC`].
    pub(crate) magic: U64,
    /// One of [`option`].
    pub(crate) option: U32,
    /// Of the data. Bytes.
    pub(crate) length: U32,
}

/// In front of an option reply's data.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct OptionReplyHeader {
    /// [`OPTION_REPLY_MAGIC`].
    pub(crate) magic: U64,
    /// The option.
    pub(crate) option: U32,
    /// One of [`option_reply`].
    pub(crate) kind: U32,
    /// Of the data. Bytes.
    pub(crate) length: U32,
}

/// One request.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RequestHeader {
    /// [`REQUEST_MAGIC`].
    pub(crate) magic: U32,
    /// [`command_flag`].
    pub(crate) flags: U16,
    /// One of [`command`].
    pub(crate) command: U16,
    /// The client's, echoed.
    pub(crate) cookie: U64,
    /// Bytes.
    pub(crate) offset: U64,
    /// Bytes.
    pub(crate) length: U32,
}

/// A simple reply; a read's data follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct SimpleReply {
    /// [`SIMPLE_REPLY_MAGIC`].
    pub(crate) magic: U32,
    /// [`Errno`], 0 for none.
    pub(crate) error: U32,
    /// The request's.
    pub(crate) cookie: U64,
}

/// In front of a chunk's data.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct ChunkHeader {
    /// [`CHUNK_MAGIC`].
    pub(crate) magic: U32,
    /// [`chunk::DONE`] or nothing.
    pub(crate) flags: U16,
    /// One of [`chunk`].
    pub(crate) kind: U16,
    /// The request's.
    pub(crate) cookie: U64,
    /// Of what follows. Bytes.
    pub(crate) length: U32,
}

const _: () = assert!(size_of::<Greeting>() == 18);
const _: () = assert!(size_of::<OptionHeader>() == 16);
const _: () = assert!(size_of::<OptionReplyHeader>() == 20);
const _: () = assert!(size_of::<RequestHeader>() == 28);
const _: () = assert!(size_of::<SimpleReply>() == 16);
const _: () = assert!(size_of::<ChunkHeader>() == 20);
