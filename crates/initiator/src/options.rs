//! What a caller decides about one subsystem's connections, and the limits of those decisions.

use crate::{Error, ErrorKind, Fencing, Policy, subsystem::choice::MAX_PATHS};
use dolmen_types::{
    Nqn, Uuid,
    limits::{MAX_ADMIN_DEPTH, MAX_IO_QUEUES, MAX_QUEUE_DEPTH},
};
use std::net::SocketAddr;

/// Entries that we ask the admin queue to have.
pub const ADMIN_ENTRIES: u16 = 32;

const _: () = assert!(ADMIN_ENTRIES <= MAX_ADMIN_DEPTH);

/// Digests that we ask for; both sides must want one for it to be used (TCP 3.6.2.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// CRC-32C over every PDU's header.
    pub header: bool,
    /// CRC-32C over every PDU's data.
    pub data: bool,
}

/// One way to a subsystem: an address at which a controller of it can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathOptions {
    /// The target's address.
    pub addr: SocketAddr,
    /// Smaller is preferred, among paths that reach a namespace equally well; with [`Policy::ActivePassive`] only.
    pub preference: u8,
}

/// How to reach a subsystem, how much to have under way, and how long to wait for what.
///
/// Start from [`Options::new`] and change what should differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The target's address; port 4420 by convention, 8009 for discovery.
    pub addr: SocketAddr,
    /// Preference of the path to `addr`, as in [`PathOptions`].
    pub preference: u8,
    /// Further paths to the same subsystem, at most 31. Each is an association with a controller of its own, with as many
    /// queues as the first.
    pub paths: Vec<PathOptions>,
    /// How commands are spread over the paths that reach their namespace best.
    pub policy: Policy,
    /// What is done about changes whose outcome is unknown when another path takes over.
    pub fencing: Fencing,
    /// How long commands of a lost association may go on, after its controller has noticed; `None` takes the controller's
    /// word (CQT; controllers older than Base 2.1 report none, which is taken for 0). Milliseconds.
    pub quiesce_ms: Option<u64>,
    /// The subsystem; [`Nqn::DISCOVERY`] makes this a discovery controller without I/O queues.
    pub subsystem: Nqn,
    /// Who we are.
    pub host: Nqn,
    /// Host identifier, the same for all connections of one host; not nil.
    pub host_id: Uuid,
    /// I/O queues wanted, 1 to 128; the controller may grant fewer. One TCP connection each.
    pub io_queues: u16,
    /// Commands under way on one I/O queue at most, 1 to 1023; the controller may allow fewer.
    pub queue_depth: u16,
    /// Commands that may wait here while all queues are full or the controller is away, at least 1.
    pub backlog: usize,
    /// Digests wanted.
    pub digests: Digests,
    /// Keep-alive timeout told to the controller; we send twice in that time. Milliseconds; 0 turns it off, which takes one path or
    /// [`Fencing::Off`]: a controller that is cut off would never notice it.
    pub keep_alive_ms: u32,
    /// Longest time for one step of the bring-up (a TCP connect, one command). Milliseconds.
    pub connect_timeout_ms: u64,
    /// A command that the controller leaves unanswered for so long is aborted; and if that does not help within
    /// `abort_timeout_ms`, the controller is reset and the association opened anew. Its commands are sent again, here or on
    /// another path. Milliseconds.
    pub io_timeout_ms: u64,
    /// How long an Abort may take before the controller is reset; 0 for no Abort at all. Milliseconds.
    pub abort_timeout_ms: u64,
    /// When all paths have been away for so long, commands fail at once until one is live again. What counts as away is said at
    /// `loss_timeout_ms`. Milliseconds; `None` for never: they wait, up to their own deadlines and to that.
    pub fast_fail_ms: Option<u64>,
    /// How long a path may be away before no more attempts are made on it; when the last path is given up, all commands fail.
    /// An association that ends before it has answered an I/O command brings its path back only if it has stayed for
    /// `reconnect_max_ms` before anything was asked of it: a controller that comes and goes, or takes commands and answers none, is away
    /// all the time. One that is live gets the time that `io_timeout_ms` and `abort_timeout_ms` give it. (Linux, whose `ctrl_loss_tmo`
    /// begins anew with each connect, has such commands end by counting how often they were sent.) Milliseconds; `None` for ever.
    pub loss_timeout_ms: Option<u64>,
    /// How often a command is sent again when the controller answers "not now" (namespace not ready, ANA transition),
    /// each time after the pause that it names, else 100 ms.
    pub retries: u32,
    /// Pause before the second attempt to connect; doubles with each further one, until an association has lived for
    /// `reconnect_max_ms`. Milliseconds, at least 1.
    pub reconnect_min_ms: u64,
    /// Longest pause between attempts. Milliseconds.
    pub reconnect_max_ms: u64,
    /// Write payloads up to this size are copied into the queue's send buffer beside their headers, larger ones are
    /// sent from where they are. Many small vectors cost the kernel more than a copy; a copy of 4 KiB costs more as soon as the
    /// commands under way no longer fit into the processor's cache. Bytes.
    pub stage_bytes: usize,
}

impl Options {
    /// The usual values: 1 queue of depth 128, no digests, 15 s of keep-alive, 10 minutes until a lost
    /// controller is given up.
    #[must_use]
    pub fn new(addr: SocketAddr, subsystem: Nqn, host: Nqn, host_id: Uuid) -> Options {
        Options {
            addr,
            preference: 0,
            paths: Vec::new(),
            policy: Policy::default(),
            fencing: Fencing::default(),
            quiesce_ms: None,
            subsystem,
            host,
            host_id,
            io_queues: 1,
            queue_depth: 128,
            backlog: 1024,
            digests: Digests::default(),
            keep_alive_ms: 15_000,
            connect_timeout_ms: 5_000,
            io_timeout_ms: 30_000,
            abort_timeout_ms: 5_000,
            fast_fail_ms: None,
            loss_timeout_ms: Some(600_000),
            retries: 100,
            reconnect_min_ms: 50,
            reconnect_max_ms: 5_000,
            stage_bytes: 2048,
        }
    }

    /// True when this names the discovery subsystem.
    #[must_use]
    pub fn is_discovery(&self) -> bool {
        self.subsystem.as_str() == Nqn::DISCOVERY
    }

    /// Commands that a caller may have given us and not got back at most.
    #[must_use]
    pub fn capacity(&self) -> usize {
        // What cannot be is refused, so it must not wrap to what can.
        (usize::from(self.io_queues) * usize::from(self.queue_depth)).saturating_add(self.backlog)
    }

    /// True when with so many paths changes are fenced, and nobody could say until when.
    pub(crate) fn has_endless_fences(&self, paths: usize) -> bool {
        let fences = match self.fencing {
            Fencing::Off => false,
            Fencing::Blocks => paths > 1,
            Fencing::Commands => true,
        };
        fences && self.keep_alive_ms == 0
    }

    /// Refuses what can't work.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |what: &str| Err(Error::new(ErrorKind::Options, format!("{what} ({})", self.addr)));
        if self.host_id.is_nil() {
            return wrong("the host identifier is nil; make one and keep it");
        }
        if !(1..=MAX_IO_QUEUES).contains(&self.io_queues) {
            return wrong("the number of I/O queues must be 1 to 128");
        }
        if !(1..MAX_QUEUE_DEPTH).contains(&self.queue_depth) {
            return wrong("the queue depth must be 1 to 1023");
        }
        if self.backlog == 0 || self.capacity() > MAX_COMMANDS {
            return wrong("the backlog must be at least 1, and with the queues' depth at most 262144");
        }
        if self.reconnect_min_ms == 0 || self.reconnect_max_ms < self.reconnect_min_ms {
            return wrong("reconnect_min_ms is at least 1, and reconnect_max_ms is not below it");
        }
        if self.paths.len() >= MAX_PATHS {
            return wrong("a subsystem has at most 32 paths");
        }
        let addrs = || std::iter::once(self.addr).chain(self.paths.iter().map(|p| p.addr));
        if addrs().enumerate().any(|(at, addr)| addrs().take(at).any(|earlier| earlier == addr)) {
            return wrong(SAME_ADDRESS);
        }
        if self.has_endless_fences(1 + self.paths.len()) {
            return wrong(ENDLESS_FENCES);
        }
        if self.stage_bytes > MAX_STAGE_BYTES {
            return wrong("stage_bytes is at most 16384");
        }
        Ok(())
    }
}

/// Why [`Options::has_endless_fences`] is refused.
pub(crate) const ENDLESS_FENCES: &str = "without a keep-alive a controller that is cut off never notices it, and may overwrite what \
     another path wrote however much later; set a keep-alive, or turn fencing off";

/// Why two paths to one address are refused: neither would be there when the other is not.
pub(crate) const SAME_ADDRESS: &str = "two paths lead to the same address";

/// Commands of one subsystem in our hands at most.
const MAX_COMMANDS: usize = 262_144;

/// Largest payload that is worth a copy beside its header; must fit a chunk of the pool with room to spare. Bytes.
const MAX_STAGE_BYTES: usize = 16_384;

const _: () = assert!(MAX_STAGE_BYTES + 1024 < dolmen_io::PoolConfig::CHUNK_BYTES);

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn options() -> Options {
        let nqn: Nqn = "nqn.2014-08.org.example:host".parse().unwrap();
        Options::new((Ipv4Addr::LOCALHOST, 4420).into(), nqn.clone(), nqn, Uuid([1; 16]))
    }

    #[test]
    fn the_usual_values_pass_and_the_impossible_is_refused() {
        assert!(options().check().is_ok());
        let bad: [fn(&mut Options); 11] = [
            |o| o.host_id = Uuid::NIL,
            |o| o.io_queues = 0,
            |o| o.io_queues = 129,
            |o| o.queue_depth = 1024,
            |o| o.backlog = 0,
            |o| o.backlog = 262_144,
            |o| o.backlog = usize::MAX,
            |o| o.reconnect_min_ms = 0,
            |o| o.stage_bytes = 1 << 20,
            |o| o.paths = vec![PathOptions { addr: o.addr, preference: 1 }],
            |o| {
                o.paths = (1..=32)
                    .map(|port| PathOptions { addr: ([192, 0, 2, 1], port).into(), preference: 0 })
                    .collect();
            },
        ];
        for spoil in bad {
            let mut o = options();
            spoil(&mut o);
            assert_eq!(o.check().unwrap_err().kind, ErrorKind::Options);
        }
    }

    #[test]
    fn fences_take_a_keep_alive() {
        let one = Options { keep_alive_ms: 0, ..options() };
        let path = PathOptions { addr: ([192, 0, 2, 1], 4420).into(), preference: 1 };
        let two = Options { paths: vec![path], ..one.clone() };
        assert!(one.check().is_ok());
        assert!(Options { fencing: Fencing::Commands, ..one }.check().is_err());
        assert!(two.check().is_err());
        assert!(Options { keep_alive_ms: 1000, ..two.clone() }.check().is_ok());
        assert!(Options { fencing: Fencing::Off, ..two }.check().is_ok());
    }
}
