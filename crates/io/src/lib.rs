//! The seam between Dolmen and the world, and the parts of a core's loop.
//!
//! Everything above this crate sees sockets, drives, clocks and randomness only through one trait object,
//! [`Driver`], called a few times per turn: io_uring in production (`uring`), a simulated world in tests (`sim`).
//! Operations are values ([`Op`]) that own their buffers; each gets exactly one terminal [`Event`], which hands the
//! buffers back. Events find their owner by [`Tag`].
//!
//! ```text
//!   one turn of a core
//!   ------------------
//!   io.poll(wait)      reap completions, fire timers          -> events by owner
//!   parse, step        target / volume / store state machines -> queue ops in Io, messages in mailboxes
//!   io.submit()        everything queued goes to the driver in one submission
//!   mailboxes          ring the bell of each core that got messages and sleeps
//! ```
//!
//! A core is one thread; nothing here is shared between cores except mailboxes and the wakers of sleeping cores.

mod bell;
mod buf;
mod driver;
pub mod exec;
#[cfg(test)]
mod fake;
mod inbox;
mod io;
mod landing;
pub mod mailbox;
mod op;
mod poller;
mod reserve;
pub mod slab;
mod stamps;
mod timers;
pub mod trace;

pub use bell::Bell;
pub use buf::{ALIGN_BYTES, Buf, Pool, PoolConfig, Slice};
pub use driver::{DriveCounters, DriveHandle, DriveInfo, Driver, OpCounters, OpenDrive, Wait, Wake};
pub use inbox::{Inbox, InboxSender, inbox};
pub use io::{Io, MAX_TIMERS};
pub use landing::Landing;
pub use op::{Error, ErrorKind, Event, FileId, ListenerId, Op, Owner, Slices, SocketId, Tag};
pub use poller::{Poller, Turn};
pub use reserve::Reserve;
pub use stamps::{Stage, Stamps};
pub use timers::{TimerId, Timers};
