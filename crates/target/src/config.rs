//! What a [`Target`](crate::Target) is told once, at start; the same for every core but for [`TargetConfig::core`].

use dolmen_io::PoolConfig;
use dolmen_types::{CoreId, Nqn, limits};
use std::net::{IpAddr, SocketAddr};

/// Controller ids that a node may give out at most: 0xFFF0 and above are reserved (Base 5.17.2.1, CNTLID).
pub const LAST_CONTROLLER_ID: u16 = 0xffef;

/// The part of a subsystem that hosts can name; survives restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The subsystem's NQN, one for the whole cluster.
    pub subsystem: Nqn,
    /// Serial number, at most 20 printable ASCII characters, one for the whole subsystem.
    pub serial: String,
    /// Model number, at most 40 printable ASCII characters.
    pub model: String,
    /// Firmware revision, at most 8 printable ASCII characters.
    pub firmware: String,
}

/// Bounds in time. All of them end in a closed connection or a failed command, never in a hang.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From accept to a complete ICReq. Milliseconds.
    pub icreq_ms: u64,
    /// From ICResp to a complete Connect. Milliseconds.
    pub connect_ms: u64,
    /// From the first byte of a PDU to its last, from an R2T to the last byte it asked for, and from the first half of a fused pair to
    /// the second. Milliseconds.
    pub pdu_ms: u64,
    /// For a send to go on: for the peer to take more of it. Milliseconds.
    pub send_ms: u64,
    /// The same, for data that was asked for to go on coming, and for the second half of a fused pair to follow the first, while memory is
    /// short and others wait for it. Milliseconds.
    pub hung_ms: u64,
    /// For a host to end its side of a connection whose other side we have ended. Milliseconds.
    pub part_ms: u64,
    /// Keep-alive timeout of a discovery controller whose host asked for none. Milliseconds.
    pub discovery_kato_ms: u32,
    /// From the receipt of an I/O command until it must have been sequenced, or it fails. Milliseconds.
    pub command_ms: u64,
    /// From the end of a connection until all of its commands that were not sequenced are called off. Milliseconds.
    pub call_off_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            icreq_ms: 5_000,
            connect_ms: 10_000,
            pdu_ms: 20_000,
            send_ms: 30_000,
            hung_ms: 2_000,
            part_ms: 2_000,
            discovery_kato_ms: 120_000,
            command_ms: 20_000,
            call_off_ms: 1_000,
        }
    }
}

impl Timeouts {
    /// What is told as CQT to a host with this keep-alive timeout: after the controller has noticed that the host is lost its commands
    /// end within this time. Milliseconds.
    ///
    /// They are called off at once; for that there is `call_off_ms`. Should a core stand still meanwhile, with the whole machine for
    /// example, their deadline holds all the same: a host reckons from its own loss with twice the keep-alive timeout and CQT, which
    /// is never less than `command_ms` then. One without keep-alive has the deadline alone.
    #[must_use]
    pub fn quiesce_ms(&self, keep_alive_ms: u32) -> u64 {
        self.call_off_ms + self.command_ms.saturating_sub(2 * u64::from(keep_alive_ms))
    }

    /// How long a core may stand still for its hosts to be heard afterwards. Milliseconds.
    ///
    /// What they said meanwhile is as old then. A command among that is started at most one keep-alive timeout later, since keep-alives
    /// of before are heard as well; so twice that timeout and [`Timeouts::quiesce_ms`] must not be over before. The worst
    /// keep-alive timeout is half of `command_ms`.
    #[must_use]
    pub fn still_ms(&self) -> u64 {
        self.command_ms / 2
    }
}

/// Bounds in space, per core unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Connections; one more is closed at accept.
    pub connections: u32,
    /// Entries of all submission queues together: a Connect beyond is refused as busy. Memory for them (some 250 bytes
    /// each) is taken when they are used.
    pub requests: u32,
    /// Memory that one connection may hold in buffers: data under way, in its volume's hands too, and replies until they are
    /// sent. While memory is short it is as much as is left to the others ([`dolmen_io::Pool::alloc_share`]).
    pub connection_bytes: usize,
    /// Payload bytes that all R2Ts of this core may have asked for and not yet got; at most an eighth of the pool, so that
    /// hosts that are slow to send never take the memory that others need.
    pub solicited_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            connections: 4096,
            requests: 1 << 19,
            // Thirty-two of the longest commands.
            connection_bytes: 32 * PoolConfig::LARGE_BYTES,
            solicited_bytes: 32 << 20,
        }
    }
}

/// Everything that a target needs to know at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetConfig {
    /// The core this target runs on.
    pub core: CoreId,
    /// Cores of this process that run a target; controller ids are shared out among them.
    pub cores: u16,
    /// Names of the subsystem.
    pub identity: Identity,
    /// Addresses of the I/O port (4420) to listen on; every core listens on all of them. Port 0 binds a free one: start one
    /// core first, then give its [`Target::config`](crate::Target::config) addresses to the others. The first address's
    /// port is the one told to hosts.
    pub io_listen: Vec<SocketAddr>,
    /// Addresses of the discovery port (8009) to listen on. Both ports answer both kinds of controller.
    pub discovery_listen: Vec<SocketAddr>,
    /// The address told to hosts; `None`: the local address of the connection that asks, and the others of `io_listen`.
    pub advertise: Option<IpAddr>,
    /// First controller id of this node, at least 1.
    pub first_controller_id: u16,
    /// Number of controller ids of this node; `first + count - 1` is at most [`LAST_CONTROLLER_ID`].
    pub controller_ids: u16,
    /// Bounds in time.
    pub timeouts: Timeouts,
    /// Bounds in space.
    pub bounds: Bounds,
}

impl TargetConfig {
    /// A target that listens nowhere yet, alone on one core, with defaults for all else.
    #[must_use]
    pub fn new(identity: Identity) -> TargetConfig {
        TargetConfig {
            core: CoreId(0),
            cores: 1,
            identity,
            io_listen: Vec::new(),
            discovery_listen: Vec::new(),
            advertise: None,
            first_controller_id: 1,
            controller_ids: LAST_CONTROLLER_ID,
            timeouts: Timeouts::default(),
            bounds: Bounds::default(),
        }
    }

    /// The port told to hosts for I/O: that of the first I/O listener.
    #[must_use]
    pub(crate) fn io_port(&self) -> u16 {
        self.io_listen.first().map_or(4420, SocketAddr::port)
    }

    /// The core that owns a controller id, `None` for one that this node never gives out.
    #[must_use]
    pub(crate) fn core_of(&self, controller: u16) -> Option<CoreId> {
        let offset = controller.checked_sub(self.first_controller_id)?;
        let core = offset / self.ids_per_core();
        (offset < self.controller_ids && core < self.cores).then_some(CoreId(core))
    }

    /// The first id and the number of ids that a core gives out.
    #[must_use]
    pub(crate) fn ids_of(&self, core: CoreId) -> (u16, u16) {
        let each = self.ids_per_core();
        (self.first_controller_id + core.0 * each, each)
    }

    fn ids_per_core(&self) -> u16 {
        (self.controller_ids / self.cores.max(1)).max(1)
    }
}

const _: () = assert!(limits::MAX_CORES < LAST_CONTROLLER_ID as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_of_a_core_leads_back_to_it() {
        let identity = Identity {
            subsystem: "nqn.2014-08.org.example".parse().unwrap(),
            serial: "1".into(),
            model: "m".into(),
            firmware: "1".into(),
        };
        let mut config = TargetConfig::new(identity);
        for (cores, first, count) in [(1, 1, LAST_CONTROLLER_ID), (3, 1, 1000), (256, 2000, 4096)] {
            (config.cores, config.first_controller_id, config.controller_ids) = (cores, first, count);
            for core in 0..cores {
                let (id, n) = config.ids_of(CoreId(core));
                assert_eq!(config.core_of(id), Some(CoreId(core)));
                assert_eq!(config.core_of(id + n - 1), Some(CoreId(core)));
            }
            assert_eq!(config.core_of(0), None);
            assert_eq!(config.core_of(LAST_CONTROLLER_ID + 1), None);
        }
    }

    #[test]
    fn a_host_never_reckons_with_less_than_a_command_s_deadline() {
        let t = Timeouts::default();
        assert_eq!(
            [0, 5_000, 10_000, 15_000, u32::MAX].map(|k| t.quiesce_ms(k)),
            [21_000, 11_000, 1_000, 1_000, 1_000]
        );
        for keep_alive_ms in (0..40_000).step_by(500) {
            assert!(2 * u64::from(keep_alive_ms) + t.quiesce_ms(keep_alive_ms) > t.command_ms);
            // An expired keep-alive is found with the next tick, which forgives it one.
            let expired = u64::from(keep_alive_ms) + 1_000;
            let quiet = 2 * u64::from(keep_alive_ms) + t.quiesce_ms(keep_alive_ms);
            assert!(keep_alive_ms == 0 || t.still_ms() + expired <= quiet);
        }
    }
}
