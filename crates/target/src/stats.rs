//! What a target counts, and what it can tell about its hosts. Plain numbers, read by the node's metrics.

use dolmen_nvme::spec::NvmOpcode;
use dolmen_types::{Nqn, UnixMillis};
use std::net::SocketAddr;

/// Traffic of a connection or of a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Read commands answered.
    pub reads: u64,
    /// Write commands answered.
    pub writes: u64,
    /// Other I/O commands answered.
    pub others: u64,
    /// Bytes of data sent to hosts by Read.
    pub bytes_read: u64,
    /// Bytes of data taken from hosts by Write.
    pub bytes_written: u64,
    /// Commands answered with an error.
    pub errors: u64,
    /// Times that a command had to wait for memory or for its host to read.
    pub stalls: u64,
}

impl Counters {
    /// Counts a command that was answered without an error.
    #[inline]
    pub(crate) fn note(&mut self, opcode: NvmOpcode, bytes: u64) {
        match opcode {
            NvmOpcode::READ => {
                self.reads += 1;
                self.bytes_read += bytes;
            }
            NvmOpcode::WRITE => {
                self.writes += 1;
                self.bytes_written += bytes;
            }
            _ => self.others += 1,
        }
    }
}

/// Totals of one core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetStats {
    /// Traffic.
    pub traffic: Counters,
    /// Connections now.
    pub connections: u32,
    /// Controllers now, discovery controllers included.
    pub controllers: u32,
    /// I/O commands under way now.
    pub outstanding: u32,
    /// Connections accepted since the start.
    pub accepted: u64,
    /// Connections closed at accept because there were too many.
    pub refused: u64,
    /// Connections ended because the host broke the protocol.
    pub violations: u64,
    /// Connections ended because a deadline of the transport passed.
    pub timeouts: u64,
    /// Controllers ended because their keep alive timer expired.
    pub keep_alive_expired: u64,
    /// Commands that were called off because their connection had ended.
    pub called_off: u64,
    /// Connects refused.
    pub connects_refused: u64,
}

/// One queue of one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// The host.
    pub host_nqn: Nqn,
    /// Where it connects from.
    pub peer: SocketAddr,
    /// Our address that it connected to.
    pub local: SocketAddr,
    /// The controller.
    pub controller: u16,
    /// The queue, 0 for the admin queue.
    pub qid: u16,
    /// Entries of its submission queue.
    pub depth: u16,
    /// Commands under way now.
    pub outstanding: u32,
    /// Traffic.
    pub traffic: Counters,
}

/// One controller of one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostInfo {
    /// The host.
    pub host_nqn: Nqn,
    /// Its identifier.
    pub host_id: [u8; 16],
    /// Where its admin queue comes from.
    pub peer: SocketAddr,
    /// Our address that it came to.
    pub local: SocketAddr,
    /// When it connected.
    pub since: UnixMillis,
    /// The controller.
    pub controller: u16,
    /// True for a discovery controller.
    pub discovery: bool,
    /// I/O queues.
    pub io_queues: u32,
    /// Namespaces that it sees, by ascending nsid.
    pub namespaces: Vec<u32>,
}
