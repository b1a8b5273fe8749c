//! Ids, units and limits that every other crate shares. No dependencies, no behaviour.
//!
//! Newtypes keep numbers of different meaning apart: an [`Lba`] is never added to a [`Seq`], and a length in
//! [`Blocks`] is never taken for one in bytes.
#![forbid(unsafe_code)]

mod drive;
pub mod limits;
mod nqn;
pub mod qos;
mod size;
pub mod snapshot;
mod uuid;
pub mod volume;

pub use drive::DriveChange;
pub use nqn::{Nqn, NqnError};
pub use size::{ByteSize, SizeError};
pub use uuid::{Uuid, UuidError};

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// Address of a *store block* ([`limits::BLOCK_BYTES`] bytes) in a line, counted from 0.
    /// Host addresses in a volume's own format (512 or 4096 bytes) are converted by the `volume` crate.
    Lba(u64)
}
number! {
    /// A number of store blocks of [`limits::BLOCK_BYTES`] bytes each.
    Blocks(u64)
}
number! {
    /// Generation of a protection group's configuration; grows at every opening of the group.
    Epoch(u64)
}
number! {
    /// Place of one record in the order of writes of a protection group. Never reused, never 0 for a record.
    Seq(u64)
}
number! {
    /// Protection group: the unit of order, of home core, of epoch and of resync.
    PgId(u32)
}
number! {
    /// One history of writes (a volume's, or a clone's); unique in a pool, never reused, never 0.
    LineId(u64)
}
number! {
    /// Index of a core's loop in this process, counted from 0 (not the kernel's CPU number).
    CoreId(u16)
}
number! {
    /// NVMe namespace identifier; cluster-wide, 1 to 0xFFFFFFFE for a real namespace.
    Nsid(u32)
}
number! {
    /// Index of a shard of the store (an independent stream of commits with its own map), counted from 0.
    ShardId(u16)
}
number! {
    /// Nanoseconds on the seam's monotonic clock (CLOCK_BOOTTIME, or the simulator's virtual time).
    Nanos(u64)
}
number! {
    /// Milliseconds since the Unix epoch, UTC; for people and for NVMe's Timestamp feature, never for ordering.
    UnixMillis(u64)
}

impl Lba {
    /// The address `n` blocks further on; `None` when it would not fit 64 bits.
    #[must_use]
    pub fn checked_add(self, n: Blocks) -> Option<Lba> {
        self.0.checked_add(n.0).map(Lba)
    }
}

impl Blocks {
    /// Length in bytes; `None` when it would not fit 64 bits.
    #[must_use]
    pub fn checked_bytes(self) -> Option<u64> {
        self.0.checked_mul(limits::BLOCK_BYTES as u64)
    }
}

impl Nanos {
    /// This instant plus `ms` milliseconds, saturating.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Nanos {
        Nanos(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }

    /// Nanoseconds since `earlier`, 0 when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Nanos) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
