//! The real world behind the `io` seam: sockets and drives through one io_uring per core.
//!
//! ```text
//!   submit(ops)   operations become SQEs; nothing enters the kernel yet
//!   reap(wait)    refill the receive buffers, then ONE io_uring_enter: it submits, runs deferred work, waits if asked;
//!                 then CQEs become events
//! ```
//!
//! A core that spins makes no system call while there is nothing to submit and the kernel has nothing for it: the kernel
//! raises a flag in shared memory when it has. But where one or two sockets are busy it asks these by calls of its own (`sockets/direct.rs`).
//! A core that sleeps is woken by a completion, its next timer, or its bell.
//!
//! What the kernel may touch (pool buffers, address and vector storage) is owned by tables here from submission to the
//! terminal CQE; when a [`Uring`] is dropped it first waits for the kernel to let go of everything.
//!
//! Linux 6.1 is the floor. Later or optional features are probed at start, reported by [`Uring::features`], and each can
//! be masked ([`Mask`]), so that the paths without them are tested too.

#[cfg(feature = "bench")]
pub mod bench;
mod chunks;
mod config;
mod driver;
mod drives;
mod errors;
mod identify;
mod listeners;
mod open;
mod process;
mod ring;
mod sockets;
mod sys;
mod token;
mod waker;

pub use config::{Features, Mask, MaskError, UringConfig};
pub use driver::Uring;
pub use open::open_drive;
pub use process::{pin_thread, raise_descriptor_limit};
