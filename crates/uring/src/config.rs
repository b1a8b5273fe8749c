//! How a core's ring is set up, and what came of it.

use dolmen_io::PoolConfig;
use std::{fmt, str::FromStr};

/// Settings of one core's ring.
#[derive(Clone, Debug)]
pub struct UringConfig {
    /// The core's buffers.
    pub pool: PoolConfig,
    /// Operations that can be queued before the kernel is entered. A power of two.
    pub submission_entries: u32,
    /// Receive buffers that are kept provided to the kernel: as few as suffice, so that memory stays warm, and up to this
    /// many when they run dry. A power of two, at most 32768.
    pub most_chunks: u16,
    /// Register the pool with the kernel where that is allowed. Saves the pinning of pages at every drive operation with one
    /// buffer; but all of the pool's memory is taken at once, used or not.
    pub register_pool: bool,
    /// Other cores of this process listen on the same addresses (SO_REUSEPORT).
    pub reuse_port: bool,
    /// Congestion control of TCP sockets; `None` for the system's default.
    pub congestion: Option<String>,
    /// Features not to use even where the kernel has them.
    pub mask: Mask,
}

impl UringConfig {
    /// For a core that moves data over sockets and has no drives, like an initiator's: with about so many bytes of buffers, which have room
    /// for a header each.
    #[must_use]
    pub fn without_drives(pool_bytes: usize) -> UringConfig {
        UringConfig { pool: PoolConfig::sized(pool_bytes).with_heads(), ..UringConfig::default() }
    }
}

impl Default for UringConfig {
    fn default() -> UringConfig {
        UringConfig {
            pool: PoolConfig::sized(64 << 20),
            submission_entries: 1024,
            most_chunks: 1024,
            register_pool: false,
            reuse_port: false,
            congestion: None,
            mask: Mask::default(),
        }
    }
}

/// Features that are not to be used. As text: names separated by commas, `none`, or `all`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mask {
    /// `multishot`: one receive or accept request that completes many times.
    pub multishot: bool,
    /// `defer`: completion work runs only when this thread asks for it.
    pub defer: bool,
    /// `fixed`: the pool is registered with the kernel; needs CAP_IPC_LOCK or an unlimited RLIMIT_MEMLOCK, and to be wanted.
    pub fixed: bool,
    /// `files`: sockets and drives are registered with the kernel.
    pub files: bool,
    /// `ringfd`: the ring's own descriptor is registered with the thread.
    pub ringfd: bool,
    /// `waitall`: the kernel continues short sends by itself.
    pub waitall: bool,
    /// `taskflag`: the kernel tells in shared memory that it has work to run.
    pub taskflag: bool,
    /// `direct`: few busy sockets are asked by system calls of our own while the core spins.
    pub direct: bool,
}

/// A name that is not a feature's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskError(String);

impl fmt::Display for MaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is not a feature; known are {}, none and all", self.0, Mask::NAMES.join(", "))
    }
}

impl std::error::Error for MaskError {}

impl Mask {
    /// The features' names.
    pub const NAMES: [&'static str; 8] =
        ["multishot", "defer", "fixed", "files", "ringfd", "waitall", "taskflag", "direct"];

    fn fields(&mut self) -> [&mut bool; 8] {
        [
            &mut self.multishot,
            &mut self.defer,
            &mut self.fixed,
            &mut self.files,
            &mut self.ringfd,
            &mut self.waitall,
            &mut self.taskflag,
            &mut self.direct,
        ]
    }
}

impl FromStr for Mask {
    type Err = MaskError;

    fn from_str(text: &str) -> Result<Mask, MaskError> {
        let mut mask = Mask::default();
        for name in text.split(',').map(str::trim).filter(|n| !n.is_empty() && *n != "none") {
            let wanted = |known: &str| name == "all" || name == known;
            if !Mask::NAMES.iter().any(|k| wanted(k)) {
                return Err(MaskError(name.into()));
            }
            for (field, known) in mask.fields().into_iter().zip(Mask::NAMES) {
                *field |= wanted(known);
            }
        }
        Ok(mask)
    }
}

/// What a ring uses of what the kernel offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Receives and accepts complete many times.
    pub multishot: bool,
    /// SINGLE_ISSUER and DEFER_TASKRUN.
    pub defer: bool,
    /// The pool is registered: drive reads and writes skip the pinning of pages.
    pub fixed_buffers: bool,
    /// Sockets and drives that can be registered at a time; 0: none.
    pub fixed_files: u32,
    /// The ring's descriptor is registered with the thread.
    pub ring_fd: bool,
    /// The kernel continues short sends.
    pub waitall: bool,
    /// Spinning needs no system call.
    pub taskrun_flag: bool,
    /// Few busy sockets are asked directly while the core spins.
    pub direct: bool,
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = [
            ("multishot", self.multishot),
            ("defer", self.defer),
            ("fixed", self.fixed_buffers),
            ("files", self.fixed_files > 0),
            ("ringfd", self.ring_fd),
            ("waitall", self.waitall),
            ("taskflag", self.taskrun_flag),
            ("direct", self.direct),
        ];
        let on: Vec<&str> = flags.into_iter().filter(|f| f.1).map(|f| f.0).collect();
        f.write_str(&on.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_parse() {
        assert_eq!("none".parse(), Ok(Mask::default()));
        assert_eq!("defer, fixed".parse(), Ok(Mask { defer: true, fixed: true, ..Mask::default() }));
        let all: Mask = "all".parse().unwrap();
        assert!(all.multishot && all.waitall && all.taskflag);
        assert!("warp".parse::<Mask>().unwrap_err().to_string().contains("multishot"));
    }
}
